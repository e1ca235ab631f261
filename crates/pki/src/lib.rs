//! The cluster's keys and certificates: authorities, leaf certificates, ServiceAccount tokens, kubeconfigs.
//!
//! Everything is ECDSA P-256. What lies on disk is made once, renewed long before its end, and written with mode 0600
//! (DESIGN: "nothing expires").

pub mod authority;
pub mod csr;
pub mod files;
pub mod jwt;
pub mod kubeconfig;

pub use authority::{Authority, Leaf, LeafRequest, Usage};
pub use files::Pki;
pub use jwt::TokenKey;

/// Why a key or certificate could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot make the certificate for {subject}: {cause}")]
    Issue { subject: String, cause: String },
    #[error("cannot use {what}: {cause}")]
    Read { what: String, cause: String },
    #[error("{path}: {cause}")]
    File { path: String, cause: std::io::Error },
    #[error("the token is not valid: {0}")]
    Token(&'static str),
}

/// Bytes from the operating system's secure source, as lower-case hex; for bearer tokens.
///
/// # Errors
/// When the system has no entropy source.
pub fn random_hex(bytes: usize) -> Result<String, Error> {
    use ring::rand::SecureRandom as _;
    let mut buf = vec![0; bytes];
    ring::rand::SystemRandom::new()
        .fill(&mut buf)
        .map_err(|_| Error::Read {
            what: "the system's random source".into(),
            cause: "it gave no bytes".into(),
        })?;
    Ok(buf.iter().map(|b| format!("{b:02x}")).collect())
}
