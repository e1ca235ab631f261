//! Subresources: the parts of an object with verbs of their own.

pub mod eviction;
pub mod pod;
pub mod proxy;
mod relay;
mod rewrite;
pub mod scale;
pub mod streams;
pub mod token;

use api::facts::Kind;

/// Whether we serve `kind`'s subresource. What is not served is absent from discovery and answers 404.
#[must_use]
pub fn is_served(kind: &Kind, name: &str) -> bool {
    match name {
        "status" | "scale" | "finalize" | "approval" | "proxy" => kind.subresource(name).is_some(),
        "binding"
        | "eviction"
        | "log"
        | "exec"
        | "attach"
        | "portforward"
        | "ephemeralcontainers"
        | "resize" => kind.plural == "pods",
        "token" => kind.plural == "serviceaccounts",
        _ => false,
    }
}
