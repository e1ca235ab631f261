//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction: who may decide about which requests for
//! certificates, and what nobody may ask for. Also what the server itself writes into a request: who made it, and when
//! its conditions changed.
//!
//! Follows <https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#authorization>.

use api::Status;
use api::facts::Kind;
use base64::Engine as _;
use jiff::Timestamp;
use serde_json::Value;

use super::Operation;
use crate::Core;
use crate::authz::{Attributes, Decision};
use crate::object::{self, items, text};
use crate::user::User;

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const MASTERS: &str = "system:masters";

/// Whether a kind is the one that this module is about.
pub fn is_request(kind: &Kind) -> bool {
    (kind.group, kind.plural) == ("certificates.k8s.io", "certificatesigningrequests")
}

/// Writes who makes a request into it; what the client says about that is dropped.
pub fn set_requester(user: &User, request: &mut Value) {
    let spec = object::child(request, "spec");
    for key in ["username", "uid", "groups", "extra"] {
        spec.remove(key);
    }
    if let Value::Object(shown) = user.to_json() {
        spec.extend(shown);
    }
}

/// Says when conditions changed, where the writer did not.
pub fn stamp_conditions(new: &mut Value, old: &Value, now: Timestamp) {
    let now = Value::from(api::time::seconds(now));
    let before = items(old, &["status", "conditions"]);
    let Some(Value::Array(conditions)) = new.pointer_mut("/status/conditions") else {
        return;
    };
    for condition in conditions.iter_mut().filter(|c| c.is_object()) {
        if condition["lastUpdateTime"].is_null() {
            condition["lastUpdateTime"] = now.clone();
        }
        if condition["lastTransitionTime"].is_null() {
            let same = before
                .iter()
                .find(|c| c["type"] == condition["type"] && c["status"] == condition["status"]);
            let since = same.map(|c| &c["lastTransitionTime"]);
            let since = since.filter(|t| !t.is_null()).unwrap_or(&now);
            condition["lastTransitionTime"] = since.clone();
        }
    }
}

/// Refuses a decision, a signature or a request that `user` may not make.
pub async fn validate(
    core: &Core,
    user: &User,
    kind: &Kind,
    operation: Operation,
    new: Option<&Value>,
    old: Option<&Value>,
    subresource: &str,
) -> Result<(), Status> {
    let (Some(new), true) = (new, is_request(kind)) else {
        return Ok(());
    };
    if operation == Operation::Delete {
        return Ok(());
    }
    match (subresource, old) {
        ("", _) => restrict_subject(kind, new),
        ("approval", Some(old)) => authorize(core, user, kind, old, "approve").await,
        ("status", Some(old)) if is_signed_differently(new, old) => {
            authorize(core, user, kind, old, "sign").await
        }
        _ => Ok(()),
    }
}

fn is_signed_differently(new: &Value, old: &Value) -> bool {
    let same = |key| new["status"].get(key) == old["status"].get(key);
    !same("certificate") || !same("conditions")
}

/// Nobody becomes a master by a certificate that this server trusts.
fn restrict_subject(kind: &Kind, request: &Value) -> Result<(), Status> {
    if text(request, &["spec", "signerName"]) != CLIENT_SIGNER {
        return Ok(());
    }
    let pem = base64::engine::general_purpose::STANDARD
        .decode(text(request, &["spec", "request"]))
        .unwrap_or_default();
    let refuse = |why: String| {
        let name = object::name(request);
        Err(Status::forbidden(kind.group, kind.plural, name, why))
    };
    match pki::csr::parse(&pem) {
        Err(why) => refuse(format!("failed to parse CSR: {why}")),
        Ok(asked) if asked.organizations.iter().any(|o| o == MASTERS) => refuse(format!(
            "use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed"
        )),
        Ok(_) => Ok(()),
    }
}

/// Whether `user` may `verb` for the request's signer, or for all signers of its domain.
async fn authorize(
    core: &Core,
    user: &User,
    kind: &Kind,
    request: &Value,
    verb: &str,
) -> Result<(), Status> {
    let signer = text(request, &["spec", "signerName"]);
    let domain = signer.split('/').next().unwrap_or_default();
    for name in [signer.to_owned(), format!("{domain}/*")] {
        let attributes = Attributes {
            verb: verb.to_owned(),
            group: kind.group.to_owned(),
            resource: "signers".to_owned(),
            name,
            ..Attributes::default()
        };
        let decision = core.authorizer.authorize(user, &attributes).await;
        if matches!(decision, Decision::Allow(_)) {
            return Ok(());
        }
    }
    let why = format!("user not permitted to {verb} requests with signerName \"{signer}\"");
    let name = object::name(request);
    Err(Status::forbidden(kind.group, kind.plural, name, why))
}
