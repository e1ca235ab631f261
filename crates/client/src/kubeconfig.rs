//! kubeconfig files: where a cluster is, and how to prove oneself to it.
//!
//! Follows <https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/> for what components
//! use: the current context's cluster and user with an authority, a client certificate or a token, each inline or in a
//! file. What is not supported (plug-ins, proxies, skipped verification) is refused, never ignored.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use crate::HttpsConfig;

/// Why a kubeconfig cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, std::io::Error),
    #[error("{0} is no kubeconfig: {1}")]
    Yaml(PathBuf, String),
    #[error("{0} has no {1}")]
    Missing(PathBuf, String),
    #[error("{0}: {1} is not supported")]
    Unsupported(PathBuf, &'static str),
    #[error("{0}: {1} is not base64 of a text")]
    Base64(PathBuf, &'static str),
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "kebab-case")]
struct File {
    current_context: String,
    clusters: Vec<Named>,
    users: Vec<Named>,
    contexts: Vec<Named>,
}

/// An entry of one of the lists: which field is there says which list it is of.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Named {
    name: String,
    cluster: Cluster,
    user: User,
    context: Context,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default, rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: String,
    certificate_authority_data: String,
    insecure_skip_tls_verify: bool,
    tls_server_name: String,
    proxy_url: String,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default, rename_all = "kebab-case")]
struct User {
    client_certificate: String,
    client_certificate_data: String,
    client_key: String,
    client_key_data: String,
    token: String,
    #[serde(rename = "tokenFile")]
    token_file: String,
    username: String,
    #[serde(rename = "as")]
    acting_as: Value,
    exec: Value,
    auth_provider: Value,
}

/// Reads the current context of a kubeconfig (the only one, if none is current). Relative paths start at the file's
/// directory.
///
/// # Errors
/// What is wrong with the file, or not supported.
pub fn read(path: &Path) -> Result<HttpsConfig, Error> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::Read(path.to_owned(), e))?;
    let file: File =
        serde_saphyr::from_str(&text).map_err(|e| Error::Yaml(path.to_owned(), e.to_string()))?;
    let missing = |what: String| Error::Missing(path.to_owned(), what);
    let named = |list: &[Named], name: &str, what: &str| -> Result<usize, Error> {
        list.iter()
            .position(|n| n.name == name)
            .ok_or_else(|| missing(format!("{what} \"{name}\"")))
    };
    let context = match (file.current_context.as_str(), file.contexts.as_slice()) {
        ("", [only]) => only.context.clone(),
        ("", _) => return Err(missing("current-context".into())),
        (name, list) => list[named(list, name, "context")?].context.clone(),
    };
    let cluster = &file.clusters[named(&file.clusters, &context.cluster, "cluster")?].cluster;
    let user = &file.users[named(&file.users, &context.user, "user")?].user;
    for (there, what) in [
        (cluster.insecure_skip_tls_verify, "insecure-skip-tls-verify"),
        (!cluster.tls_server_name.is_empty(), "tls-server-name"),
        (!cluster.proxy_url.is_empty(), "proxy-url"),
        (!user.username.is_empty(), "username"),
        (!user.acting_as.is_null(), "as"),
        (!user.exec.is_null(), "exec"),
        (!user.auth_provider.is_null(), "auth-provider"),
    ] {
        if there {
            return Err(Error::Unsupported(path.to_owned(), what));
        }
    }
    if !cluster.server.starts_with("https://") {
        return Err(Error::Unsupported(
            path.to_owned(),
            "a server without https",
        ));
    }
    let beside = |file: &str| path.parent().unwrap_or(Path::new("")).join(file);
    let text = |data: &str, file: &str, what: &'static str| -> Result<Option<String>, Error> {
        if !data.is_empty() {
            let bytes = STANDARD.decode(data).ok();
            let text = bytes.and_then(|b| String::from_utf8(b).ok());
            return text
                .map(Some)
                .ok_or_else(|| Error::Base64(path.to_owned(), what));
        }
        if file.is_empty() {
            return Ok(None);
        }
        let file = beside(file);
        std::fs::read_to_string(&file)
            .map(Some)
            .map_err(|e| Error::Read(file, e))
    };
    let ca = text(
        &cluster.certificate_authority_data,
        &cluster.certificate_authority,
        "certificate-authority-data",
    )?
    .ok_or_else(|| missing("certificate-authority".into()))?;
    let certificate = text(
        &user.client_certificate_data,
        &user.client_certificate,
        "client-certificate-data",
    )?;
    let key = text(&user.client_key_data, &user.client_key, "client-key-data")?;
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => return Err(missing("client-key".into())),
        (None, Some(_)) => return Err(missing("client-certificate".into())),
    };
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let config = HttpsConfig {
        server: cluster.server.trim_end_matches('/').to_owned(),
        ca,
        identity,
        token: given(&user.token),
        token_file: given(&user.token_file).map(|file| beside(&file)),
        agent: "",
    };
    if config.identity.is_none() && config.token.is_none() && config.token_file.is_none() {
        return Err(missing("client certificate or token".into()));
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r"
apiVersion: v1
kind: Config
current-context: b
clusters:
- {name: one, cluster: {server: 'https://one:6443/', certificate-authority: ca.crt}}
- {name: two, cluster: {server: 'https://two:6443', certificate-authority-data: Q0E=}}
users:
- {name: node, user: {client-certificate-data: Q0VSVA==, client-key: node.key}}
- {name: bot, user: {tokenFile: token}}
contexts:
- {name: a, context: {cluster: two, user: bot}}
- {name: b, context: {cluster: one, user: node, namespace: x}}
";

    fn read_text(text: &str) -> Result<HttpsConfig, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        std::fs::write(&path, text).unwrap();
        std::fs::write(dir.path().join("ca.crt"), "CA of one").unwrap();
        std::fs::write(dir.path().join("node.key"), "KEY").unwrap();
        read(&path).map_err(|e| e.to_string().replace(&path.display().to_string(), "F"))
    }

    #[test]
    fn the_current_context_counts_and_files_lie_beside() {
        let config = read_text(FILE).unwrap();
        assert_eq!(config.server, "https://one:6443");
        assert_eq!(config.ca, "CA of one");
        assert_eq!(config.identity, Some(("CERT".into(), "KEY".into())));
        let other = read_text(&FILE.replace("current-context: b", "current-context: a")).unwrap();
        assert_eq!(
            (other.server.as_str(), other.ca.as_str()),
            ("https://two:6443", "CA")
        );
        assert!(other.token_file.unwrap().ends_with("token"));
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        let cases = [
            (
                "current-context: b",
                "current-context: c",
                "F has no context \"c\"",
            ),
            ("client-key: node.key", "x: y", "F has no client-key"),
            (
                "client-certificate-data: Q0VSVA==",
                "client-certificate-data: '!'",
                "F: client-certificate-data is not base64 of a text",
            ),
            (
                "certificate-authority: ca.crt",
                "insecure-skip-tls-verify: true",
                "F: insecure-skip-tls-verify is not supported",
            ),
            (
                "client-key: node.key",
                "client-key: node.key, exec: {command: x}",
                "F: exec is not supported",
            ),
            (
                "'https://one:6443/'",
                "'http://one'",
                "F: a server without https is not supported",
            ),
        ];
        for (from, to, said) in cases {
            assert_eq!(read_text(&FILE.replace(from, to)).unwrap_err(), said);
        }
        assert!(
            read_text("- a")
                .unwrap_err()
                .starts_with("F is no kubeconfig")
        );
    }
}
