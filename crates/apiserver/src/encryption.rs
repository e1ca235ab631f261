//! Encryption of Secrets at rest, in the form that upstream's `secretbox` provider reads.

use bytes::Bytes;
use crypto_secretbox::aead::{Aead as _, KeyInit as _};
use crypto_secretbox::{Nonce, XSalsa20Poly1305};
use ring::rand::SecureRandom as _;
use store::Seal;

const PREFIX: &[u8] = b"k8s:enc:secretbox:v1:key1:";
const NONCE: usize = 24;
const SEALED_KEYS: &str = "/registry/secrets/";

/// Encrypts what stands under the keys of Secrets.
pub struct SecretBox(XSalsa20Poly1305);

impl SecretBox {
    /// With this key.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self(XSalsa20Poly1305::new(key.into()))
    }
}

impl Seal for SecretBox {
    fn seal(&self, key: &str, plain: &[u8]) -> Result<Option<Vec<u8>>, String> {
        if !key.starts_with(SEALED_KEYS) {
            return Ok(None);
        }
        let mut nonce = [0; NONCE];
        let random = ring::rand::SystemRandom::new();
        random
            .fill(&mut nonce)
            .map_err(|_| format!("{key} cannot be encrypted: the system gave no random bytes"))?;
        let sealed = self.0.encrypt(Nonce::from_slice(&nonce), plain);
        let sealed = sealed.map_err(|_| format!("{key} cannot be encrypted"))?;
        Ok(Some([PREFIX, &nonce, &sealed].concat()))
    }

    fn open(&self, key: &str, sealed: Bytes) -> Result<Bytes, String> {
        let Some(rest) = sealed.strip_prefix(PREFIX) else {
            return Ok(sealed);
        };
        let (nonce, body) = rest
            .split_at_checked(NONCE)
            .ok_or_else(|| format!("{key} is cut short"))?;
        let plain = self
            .0
            .decrypt(Nonce::from_slice(nonce), body)
            .map_err(|_| {
                format!(
                    "{key} cannot be decrypted: the encryption key is another one, or it is damaged"
                )
            })?;
        Ok(plain.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_sealed_and_opened_others_are_left_alone() {
        let sealer = SecretBox::new(&[7; 32]);
        assert!(
            sealer
                .seal("/registry/configmaps/a/b", b"x")
                .unwrap()
                .is_none()
        );
        let sealed = sealer
            .seal("/registry/secrets/a/b", b"hunter2")
            .unwrap()
            .unwrap();
        assert!(!sealed.windows(7).any(|w| w == b"hunter2"));
        assert_eq!(sealer.open("k", sealed.clone().into()).unwrap(), "hunter2");
        assert!(
            SecretBox::new(&[8; 32])
                .open("k", sealed.clone().into())
                .is_err()
        );
        assert!(sealer.open("k", sealed[..30].to_vec().into()).is_err());
        assert_eq!(sealer.open("k", Bytes::from_static(b"{}")).unwrap(), "{}");
    }
}
