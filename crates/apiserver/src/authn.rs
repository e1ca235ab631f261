//! Authentication: client certificates, bound ServiceAccount tokens, callers inside the process.
//!
//! Who shows nothing is `system:anonymous`, and RBAC decides; who shows something false gets 401.

use std::sync::Arc;

use api::Status;
use client::InProcess;
use http::request::Parts;
use jiff::Timestamp;
use pki::TokenKey;
use serde_json::{Value, json};
use skiff_http::Peer;
use store::Store;

use crate::object::text;
use crate::user::User;

/// The issuer of our tokens, and their audience when none is asked for.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Decides who makes a request.
pub struct Authenticator {
    pub tokens: Arc<TokenKey>,
    pub store: Arc<dyn Store>,
}

fn unauthorized() -> Status {
    Status::unauthorized("Unauthorized")
}

impl Authenticator {
    /// Who sent the request with this head.
    ///
    /// # Errors
    /// 401 when what it shows is not valid.
    pub async fn authenticate(&self, head: &Parts, now: Timestamp) -> Result<User, Status> {
        if let Some(caller) = head.extensions.get::<InProcess>() {
            return Ok(User::named(&*caller.user, caller.groups.to_vec()));
        }
        if let Some(header) = head.headers.get(http::header::AUTHORIZATION) {
            let value = header.to_str().map_err(|_| unauthorized())?;
            let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
            if !scheme.eq_ignore_ascii_case("bearer") {
                return Err(unauthorized());
            }
            return self
                .token(token.trim(), &[ISSUER.to_owned()], now)
                .await
                .map(|(user, _)| user)
                .map_err(|error| {
                    tracing::debug!(error, "a token was refused");
                    unauthorized()
                });
        }
        // The WebSocket of a browser cannot set headers: the token comes as a sub-protocol.
        if let Some(token) = websocket_token(head) {
            return self
                .token(&token, &[ISSUER.to_owned()], now)
                .await
                .map(|(user, _)| user)
                .map_err(|_| unauthorized());
        }
        let certificate = head
            .extensions
            .get::<Peer>()
            .and_then(|p| p.certificates.first());
        match certificate {
            Some(der) => {
                let subject = pki::authority::subject(der).map_err(|_| unauthorized())?;
                if subject.common_name.is_empty() {
                    return Err(unauthorized());
                }
                Ok(User::named(subject.common_name, subject.organizations))
            }
            None => Ok(User::anonymous()),
        }
    }

    /// Who a ServiceAccount token stands for, and those of `audiences` that are among its own: at least one.
    ///
    /// # Errors
    /// A sentence: what is wrong with the token.
    pub async fn token(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<(User, Vec<String>), String> {
        let claims = self.tokens.verify(token).map_err(|e| e.to_string())?;
        if claims["iss"] != ISSUER {
            return Err("another issuer made the token".into());
        }
        let seconds = now.as_second();
        if claims["exp"].as_i64().is_none_or(|exp| exp <= seconds) {
            return Err("the token has expired".into());
        }
        if claims["nbf"].as_i64().is_some_and(|nbf| nbf > seconds + 60) {
            return Err("the token is not valid yet".into());
        }
        let theirs = claims["aud"].as_array().map_or(&[][..], Vec::as_slice);
        let meant: Vec<String> = audiences
            .iter()
            .filter(|a| theirs.iter().any(|b| b.as_str() == Some(a)))
            .cloned()
            .collect();
        if meant.is_empty() {
            return Err("the token is for another audience".into());
        }
        let bound = &claims["kubernetes.io"];
        let namespace = text(bound, &["namespace"]);
        let account = text(bound, &["serviceaccount", "name"]);
        self.alive("serviceaccounts", namespace, &bound["serviceaccount"])
            .await?;
        let mut user = User::named(
            format!("system:serviceaccount:{namespace}:{account}"),
            vec![
                "system:serviceaccounts".into(),
                format!("system:serviceaccounts:{namespace}"),
            ],
        );
        user.uid = text(bound, &["serviceaccount", "uid"]).to_owned();
        if let Some(jti) = claims["jti"].as_str() {
            user.extra.insert(
                "authentication.kubernetes.io/credential-id".into(),
                vec![format!("JTI={jti}")],
            );
        }
        for (claim, resource) in [("pod", "pods"), ("secret", "secrets"), ("node", "minions")] {
            let reference = &bound[claim];
            if reference.is_null() {
                continue;
            }
            // A node beside a pod is information; a token is bound to the pod then.
            if claim != "node" || bound["pod"].is_null() {
                let namespace = if claim == "node" { "" } else { namespace };
                self.alive(resource, namespace, reference).await?;
            }
            if claim != "secret" {
                for part in ["name", "uid"] {
                    let key = format!("authentication.kubernetes.io/{claim}-{part}");
                    user.extra
                        .insert(key, vec![text(reference, &[part]).to_owned()]);
                }
            }
        }
        Ok((user, meant))
    }

    /// Checks that what a token is bound to still exists and is the same object.
    async fn alive(
        &self,
        resource: &str,
        namespace: &str,
        reference: &Value,
    ) -> Result<(), String> {
        let (name, uid) = (text(reference, &["name"]), text(reference, &["uid"]));
        let key = if namespace.is_empty() {
            format!("/registry/{resource}/{name}")
        } else {
            format!("/registry/{resource}/{namespace}/{name}")
        };
        let entry = self.store.get(&key).await.map_err(|e| e.to_string())?;
        let gone = || format!("the token is bound to {resource} {namespace}/{name}, which is gone");
        let entry = entry.ok_or_else(gone)?;
        #[derive(serde::Deserialize)]
        struct Head {
            metadata: client::ObjectMeta,
        }
        let head: Head = serde_json::from_slice(&entry.wire).map_err(|e| e.to_string())?;
        if head.metadata.uid == uid {
            Ok(())
        } else {
            Err(gone())
        }
    }
}

const WEBSOCKET_TOKEN: &str = "base64url.bearer.authorization.k8s.io.";

fn websocket_token(head: &Parts) -> Option<String> {
    use base64::Engine as _;
    let protocols = head
        .headers
        .get(http::header::SEC_WEBSOCKET_PROTOCOL)?
        .to_str()
        .ok()?;
    let encoded = protocols
        .split(',')
        .find_map(|p| p.trim().strip_prefix(WEBSOCKET_TOKEN))?;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(encoded)
        .ok()?;
    String::from_utf8(bytes).ok()
}

/// The claims of a new token for a ServiceAccount; `bound` has `pod`, `secret` or `node` references with name and uid.
#[must_use]
pub fn claims(
    namespace: &str,
    account: (&str, &str),
    bound: Value,
    audiences: &[String],
    id: &str,
    now: Timestamp,
    expires: Timestamp,
) -> Value {
    let (name, uid) = account;
    let mut private = json!({"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}});
    if let Value::Object(bound) = bound {
        for (key, reference) in bound {
            private[key] = reference;
        }
    }
    json!({
        "iss": ISSUER,
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
        "aud": audiences,
        "jti": id,
        "iat": now.as_second(),
        "nbf": now.as_second(),
        "exp": expires.as_second(),
        "kubernetes.io": private,
    })
}
