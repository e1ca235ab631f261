//! The parts of a kubeconfig that a benchmark needs.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::Error;

/// A cluster and how to prove oneself to it.
#[derive(Clone)]
pub struct Cluster {
    /// `127.0.0.1:6443`.
    pub address: String,
    pub tls: Arc<rustls::ClientConfig>,
}

/// Reads a kubeconfig with embedded certificates.
pub fn read(path: &Path) -> Result<Cluster, Error> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let config: Value = serde_saphyr::from_str(&text)?;
    let server = config["clusters"][0]["cluster"]["server"]
        .as_str()
        .ok_or("no server in the kubeconfig")?;
    let decode = |v: &Value, what: &str| -> Result<String, Error> {
        let text = v
            .as_str()
            .ok_or_else(|| format!("the kubeconfig has no {what}"))?;
        Ok(String::from_utf8(STANDARD.decode(text)?)?)
    };
    let ca = decode(
        &config["clusters"][0]["cluster"]["certificate-authority-data"],
        "authority",
    )?;
    let user = &config["users"][0]["user"];
    let cert = decode(&user["client-certificate-data"], "client certificate")?;
    let key = decode(&user["client-key-data"], "client key")?;
    let tls = skiff_http::tls::client_config(&ca, Some((&cert, &key)), true)?;
    Ok(Cluster {
        address: server.trim_start_matches("https://").to_owned(),
        tls,
    })
}
