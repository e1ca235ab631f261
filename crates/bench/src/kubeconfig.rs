//! The cluster to measure.

use std::path::Path;
use std::sync::Arc;

use crate::Error;

/// A cluster and how to prove oneself to it.
#[derive(Clone)]
pub struct Cluster {
    /// `127.0.0.1:6443`.
    pub address: String,
    pub tls: Arc<rustls::ClientConfig>,
}

/// Reads a kubeconfig with a client certificate.
pub fn read(path: &Path) -> Result<Cluster, Error> {
    let config = client::kubeconfig::read(path)?;
    let (cert, key) = config
        .identity
        .ok_or("the kubeconfig has no client certificate")?;
    let tls = skiff_http::tls::client_config(&config.ca, Some((&cert, &key)), true)?;
    Ok(Cluster {
        address: config.server.trim_start_matches("https://").to_owned(),
        tls,
    })
}
