//! kubeconfig files, as `kubectl` and client-go read them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::Leaf;

/// A kubeconfig for one cluster and one user with a client certificate. JSON is YAML, but people read these files, so
/// it is written as YAML by hand; every value is quoted or base64.
#[must_use]
pub fn with_certificate(name: &str, server: &str, ca_pem: &str, user: &str, leaf: &Leaf) -> String {
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: {name}\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {ca}\nusers:\n- name: {user}\n  user:\n    client-certificate-data: {cert}\n    \
         client-key-data: {key}\ncontexts:\n- name: {name}\n  context:\n    cluster: {name}\n    user: {user}\n\
         current-context: {name}\n",
        ca = STANDARD.encode(ca_pem),
        cert = STANDARD.encode(&leaf.cert_pem),
        key = STANDARD.encode(&leaf.key_pem),
    )
}
