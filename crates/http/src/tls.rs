//! TLS with rustls on ring: server and client configurations from PEM.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::RootCertStore;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;

use crate::Error;

fn tls(e: impl std::fmt::Display) -> Error {
    Error::Tls(e.to_string())
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The certificates in a PEM text.
///
/// # Errors
/// When it is not PEM.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(tls)
}

fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(tls)
}

fn roots(pem: &str) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for cert in certificates(pem)? {
        store.add(cert).map_err(tls)?;
    }
    Ok(store)
}

/// A serving certificate that can be replaced while connections go on: renewal needs no restart.
#[derive(Debug)]
pub struct ServingCertificate(RwLock<Arc<CertifiedKey>>);

impl ServingCertificate {
    /// From PEM.
    ///
    /// # Errors
    /// When certificate and key do not fit.
    pub fn new(cert_pem: &str, key_pem: &str) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self(RwLock::new(Arc::new(certified(
            cert_pem, key_pem,
        )?)))))
    }

    /// New connections get this one.
    ///
    /// # Errors
    /// When certificate and key do not fit; the old one stays.
    pub fn replace(&self, cert_pem: &str, key_pem: &str) -> Result<(), Error> {
        let new = Arc::new(certified(cert_pem, key_pem)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(
            self.0
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        )
    }
}

fn certified(cert_pem: &str, key_pem: &str) -> Result<CertifiedKey, Error> {
    CertifiedKey::from_der(certificates(cert_pem)?, private_key(key_pem)?, &provider()).map_err(tls)
}

/// A server's TLS: asks for a client certificate of `client_ca`, but lets clients without one in (they may bring a
/// token, or are anonymous).
///
/// # Errors
/// When the certificates cannot be used.
pub fn server_config(
    serving: Arc<ServingCertificate>,
    client_ca: &str,
) -> Result<Arc<rustls::ServerConfig>, Error> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(client_ca)?), provider())
            .allow_unauthenticated()
            .build()
            .map_err(tls)?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(serving);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A client's TLS: trusts `ca` only, shows `identity` (certificate and key) if given. `http1_only` for upgrades.
///
/// # Errors
/// When the certificates cannot be used.
pub fn client_config(
    ca: &str,
    identity: Option<(&str, &str)>,
    http1_only: bool,
) -> Result<Arc<rustls::ClientConfig>, Error> {
    let verified = client_builder()?.with_root_certificates(roots(ca)?);
    finish(verified, identity, http1_only)
}

/// A client's TLS that shows `identity` if given and takes whatever certificate the server has: for kubelets, whose serving
/// certificates are self-signed unless somebody arranged otherwise, and for Pods, which are probed and proxied so (upstream
/// does the same).
///
/// # Errors
/// When the certificates cannot be used.
pub fn unverified_client_config(
    identity: Option<(&str, &str)>,
    http1_only: bool,
) -> Result<Arc<rustls::ClientConfig>, Error> {
    let verifier = Arc::new(AnyServer(provider()));
    let unverified = client_builder()?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    finish(unverified, identity, http1_only)
}

type Builder<State> = rustls::ConfigBuilder<rustls::ClientConfig, State>;

fn client_builder() -> Result<Builder<rustls::WantsVerifier>, Error> {
    rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(tls)
}

fn finish(
    builder: Builder<rustls::client::WantsClientCert>,
    identity: Option<(&str, &str)>,
    http1_only: bool,
) -> Result<Arc<rustls::ClientConfig>, Error> {
    let mut config = match identity {
        Some((cert, key)) => builder
            .with_client_auth_cert(certificates(cert)?, private_key(key)?)
            .map_err(tls)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = if http1_only {
        vec![b"http/1.1".to_vec()]
    } else {
        vec![b"h2".to_vec(), b"http/1.1".to_vec()]
    };
    Ok(Arc::new(config))
}

/// Believes every certificate, but checks that the server has its key.
#[derive(Debug)]
struct AnyServer(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
