//! ServiceAccount tokens: JSON Web Tokens signed with ES256 (RFC 7515, RFC 7519), on ring.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey};

use crate::Error;

/// The key that signs and checks tokens.
pub struct TokenKey {
    pair: EcdsaKeyPair,
    /// Names the key in a token's header, so that keys can be rotated.
    pub id: String,
}

const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

impl TokenKey {
    /// A new key and its PKCS#8 PEM.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate() -> Result<(Self, String), Error> {
        let fail = |cause: &str| Error::Read {
            what: "a new token key".into(),
            cause: cause.into(),
        };
        let alg = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(alg, &SystemRandom::new())
            .map_err(|_| fail("the system gave no random bytes"))?;
        let body = STANDARD.encode(document.as_ref());
        let lines: Vec<&str> = body
            .as_bytes()
            .chunks(64)
            .map(|c| std::str::from_utf8(c).unwrap_or(""))
            .collect();
        let pem = format!("{BEGIN}\n{}\n{END}\n", lines.join("\n"));
        Ok((Self::from_pem(&pem)?, pem))
    }

    /// Reads a PKCS#8 PEM.
    ///
    /// # Errors
    /// When it holds no P-256 key.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let fail = |cause: &str| Error::Read {
            what: "the token key".into(),
            cause: cause.into(),
        };
        let body: String = pem
            .split(BEGIN)
            .nth(1)
            .and_then(|rest| rest.split(END).next())
            .ok_or_else(|| fail("it holds no private key"))?
            .split_whitespace()
            .collect();
        let der = STANDARD
            .decode(body)
            .map_err(|_| fail("it is not base64"))?;
        let alg = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = EcdsaKeyPair::from_pkcs8(alg, &der, &SystemRandom::new())
            .map_err(|e| fail(&e.to_string()))?;
        let digest = ring::digest::digest(&ring::digest::SHA256, pair.public_key().as_ref());
        Ok(Self {
            id: URL_SAFE_NO_PAD.encode(&digest.as_ref()[..20]),
            pair,
        })
    }

    /// Signs `claims`.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn sign(&self, claims: &serde_json::Value) -> Result<String, Error> {
        let header = format!(r#"{{"alg":"ES256","kid":"{}","typ":"JWT"}}"#, self.id);
        let message = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let signature = self
            .pair
            .sign(&SystemRandom::new(), message.as_bytes())
            .map_err(|_| Error::Token("it could not be signed"))?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of `token` if this key signed it. Times and audiences are the caller's to check.
    ///
    /// # Errors
    /// When the token is malformed or the signature is not ours.
    pub fn verify(&self, token: &str) -> Result<serde_json::Value, Error> {
        let (message, signature) = token
            .rsplit_once('.')
            .ok_or(Error::Token("it has not three parts"))?;
        let (_, claims) = message
            .split_once('.')
            .ok_or(Error::Token("it has not three parts"))?;
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| Error::Token("it is not base64"))?;
        UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, self.pair.public_key())
            .verify(message.as_bytes(), &signature)
            .map_err(|_| Error::Token("another key signed it"))?;
        let claims = URL_SAFE_NO_PAD
            .decode(claims)
            .map_err(|_| Error::Token("it is not base64"))?;
        serde_json::from_slice(&claims).map_err(|_| Error::Token("its claims are not JSON"))
    }

    /// The public key as a JSON Web Key Set, served at `/openid/v1/jwks`.
    #[must_use]
    pub fn jwks(&self) -> serde_json::Value {
        // An uncompressed point: 0x04, x, y.
        let point = self.pair.public_key().as_ref();
        serde_json::json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.id, "alg": "ES256", "crv": "P-256",
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..65]),
        }]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_by_its_key_only_and_not_when_altered() {
        let (key, pem) = TokenKey::generate().unwrap();
        let token = key
            .sign(&serde_json::json!({"sub": "system:serviceaccount:a:b"}))
            .unwrap();
        let again = TokenKey::from_pem(&pem).unwrap();
        assert_eq!(
            again.verify(&token).unwrap()["sub"],
            "system:serviceaccount:a:b"
        );
        let (other, _) = TokenKey::generate().unwrap();
        assert!(other.verify(&token).is_err());
        let mut altered = token.into_bytes();
        altered[60] ^= 1;
        assert!(key.verify(&String::from_utf8_lossy(&altered)).is_err());
        for garbage in ["", ".", "..", "a.b.c", "a.b", "é.é.é"] {
            assert!(key.verify(garbage).is_err());
        }
    }
}
