//! CertificateSigningRequests: who asks whom for a certificate, and how that was decided.
//!
//! Follows <https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/>. Who asks is set by the
//! API server, which knows; when conditions changed, too.

use api::{FieldError, names, time};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::tree::{age, int, invalid_all, items, name, one_of, set, text};
use crate::{AGE, Errors, NAME, Names, Strategy, column};

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
const SHORTEST_SECONDS: i64 = 600;
const DOMAIN_LIMIT: usize = 253;
/// A domain, a slash, a namespace, a dot and a name.
const SIGNER_LIMIT: usize = DOMAIN_LIMIT + 1 + 63 + 1 + 253;
/// What was decided for good: such conditions are true, and stay.
const DECISIONS: [&str; 3] = ["Approved", "Denied", "Failed"];
const CONDITIONS: &str = "status.conditions";

fn bytes(v: &Value) -> Vec<u8> {
    STANDARD.decode(text(v)).unwrap_or_default()
}

fn validate_usages(usages: &Value, errors: &mut Errors) {
    let path = "spec.usages";
    let usages = items(usages);
    if usages.is_empty() {
        errors.push(FieldError::required(path, "usages must be provided"));
    }
    for (i, usage) in usages.iter().enumerate() {
        let path = format!("{path}[{i}]");
        one_of(usage, &path, &USAGES, errors);
        if usages[..i].contains(usage) {
            errors.push(FieldError::duplicate(path, usage));
        }
    }
}

/// The labels of one half of a signer's name; only the first wrong one is told.
fn validate_signer_labels(
    half: &str,
    rule: fn(&str) -> Vec<String>,
    path: &str,
    errors: &mut Errors,
) {
    let wrong = half.split('.').map(|label| (label, rule(label)));
    if let Some((label, wrong)) = wrong.into_iter().find(|(_, wrong)| !wrong.is_empty()) {
        let told = wrong
            .iter()
            .map(|w| format!("validating label \"{label}\": {w}"));
        invalid_all(path, half, told.collect(), errors);
    }
}

/// The name of who signs: a domain and a path.
pub(crate) fn validate_signer(signer: &str, path: &str, errors: &mut Errors) {
    let mut wrong = |bad: &str, detail: &str| {
        errors.push(FieldError::invalid_str(path, bad, detail));
    };
    if signer.is_empty() {
        return errors.push(FieldError::required(path, "signerName must be provided"));
    }
    let halves: Vec<&str> = signer.split('/').collect();
    let [domain, rest] = halves[..] else {
        let form =
            "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return wrong(signer, form);
    };
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        wrong(domain, detail);
    }
    for (length, limit) in [(domain.len(), DOMAIN_LIMIT), (signer.len(), SIGNER_LIMIT)] {
        if length > limit {
            errors.push(FieldError::too_long(path, limit));
        }
    }
    validate_signer_labels(domain, names::dns1123_label, path, errors);
    validate_signer_labels(rest, names::dns1123_subdomain, path, errors);
}

fn validate_request_signer(signer: &str, errors: &mut Errors) {
    let path = "spec.signerName";
    if signer == LEGACY_SIGNER {
        let detail = "the legacy signerName is not allowed via this API version";
        errors.push(FieldError::invalid_str(path, signer, detail));
    } else {
        validate_signer(signer, path, errors);
    }
}

fn validate_conditions(status: &Value, errors: &mut Errors) {
    let conditions = items(&status["conditions"]);
    for (i, condition) in conditions.iter().enumerate() {
        let at = |key: &str| format!("{CONDITIONS}[{i}].{key}");
        let ty = text(&condition["type"]);
        if ty.is_empty() {
            errors.push(FieldError::required(at("type"), ""));
        }
        let allowed: &[&str] = if DECISIONS.contains(&ty) {
            &["True"]
        } else {
            &["False", "True", "Unknown"]
        };
        crate::tree::required_one_of(&condition["status"], &at("status"), allowed, errors);
        let before = |wanted: &str| conditions[..i].iter().any(|c| c["type"] == wanted);
        if ty == "Approved" && before("Denied") || ty == "Denied" && before("Approved") {
            let detail = "Approved and Denied conditions are mutually exclusive";
            errors.push(FieldError::invalid_str(at("type"), ty, detail));
        }
        if before(ty) {
            errors.push(FieldError::duplicate(at("type"), &ty.into()));
        }
    }
}

fn validate(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    if let Err(why) = pki::csr::parse(&bytes(&spec["request"])) {
        errors.push(FieldError::invalid("spec.request", &spec["request"], why));
    }
    validate_usages(&spec["usages"], errors);
    validate_request_signer(text(&spec["signerName"]), errors);
    let seconds = &spec["expirationSeconds"];
    if seconds.is_number() && int(seconds) < SHORTEST_SECONDS {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        let path = "spec.expirationSeconds";
        errors.push(FieldError::invalid(path, seconds, detail));
    }
}

/// Conditions of a type, in their order.
fn of_type<'a>(o: &'a Value, ty: &str) -> Vec<&'a Value> {
    let all = items(&o["status"]["conditions"]).iter();
    all.filter(|c| c["type"] == ty).collect()
}

/// What no write may undo, and the certificate's content.
fn validate_change(new: &Value, old: &Value, errors: &mut Errors) {
    validate_conditions(&new["status"], errors);
    for ty in DECISIONS {
        if of_type(new, ty).len() < of_type(old, ty).len() {
            let detail = format!("updates may not remove a condition of type \"{ty}\"");
            errors.push(FieldError::forbidden(CONDITIONS, detail));
        }
    }
    let certificate = &new["status"]["certificate"];
    if *certificate != old["status"]["certificate"]
        && let Err(why) = pki::csr::check_certificates(&bytes(certificate))
    {
        let path = "status.certificate";
        errors.push(FieldError::invalid_str(path, "<certificate data>", why));
    }
}

/// The signer sets the certificate, once, and decides nothing.
fn validate_status(new: &Value, old: &Value, errors: &mut Errors) {
    validate_change(new, old, errors);
    for ty in ["Approved", "Denied"] {
        if of_type(new, ty).len() > of_type(old, ty).len() {
            let detail = format!("updates may not add a condition of type \"{ty}\"");
            errors.push(FieldError::forbidden(CONDITIONS, detail));
        }
    }
    let (after, before) = (&new["status"]["certificate"], &old["status"]["certificate"]);
    if !text(before).is_empty() && after != before {
        let detail = "updates may not modify existing certificate content";
        errors.push(FieldError::forbidden("status.certificate", detail));
    }
}

/// Decisions stay as they are in a write to the status.
fn keep_decisions(new: &mut Value, old: &Value) {
    for ty in ["Approved", "Denied"] {
        let kept: Vec<Value> = of_type(old, ty).into_iter().cloned().collect();
        let Some(Value::Array(list)) = new.pointer_mut("/status/conditions") else {
            return;
        };
        let mut places: Vec<&mut Value> = list.iter_mut().filter(|c| c["type"] == ty).collect();
        if places.len() == kept.len() {
            for (place, kept) in places.iter_mut().zip(kept) {
                **place = kept;
            }
        }
    }
}

fn show_state(o: &Value) -> String {
    let has = |ty: &str| !of_type(o, ty).is_empty();
    let mut shown = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    }
    .to_owned();
    if has("Failed") {
        shown.push_str(",Failed");
    }
    if !text(&o["status"]["certificate"]).is_empty() {
        shown.push_str(",Issued");
    }
    shown
}

pub(crate) const STRATEGY: Strategy = Strategy {
    names: Names::Any,
    status_metadata: true,
    create: |o| set(o, "status", json!({})),
    update: |new, old| set(new, "spec", old["spec"].clone()),
    update_status: keep_decisions,
    validate_create: validate,
    validate_update: validate_change,
    validate_status,
    validate_approval: validate_change,
    columns: &[
        NAME,
        AGE,
        column("SignerName", "string", "Who is asked to sign."),
        column("Requestor", "string", "Who asks."),
        column("RequestedDuration", "string", "How long it shall last."),
        column("Condition", "string", "What was decided."),
    ],
    row: |o, now| {
        let spec = &o["spec"];
        let seconds = spec["expirationSeconds"].as_i64();
        let duration = seconds.map_or_else(|| "<none>".to_owned(), time::human_duration);
        vec![
            name(o),
            age(o, now),
            text(&spec["signerName"]).into(),
            text(&spec["username"]).into(),
            duration.into(),
            show_state(o).into(),
        ]
    },
    fields: |o, fields| {
        let signer = text(&o["spec"]["signerName"]).to_owned();
        fields.push(("spec.signerName", signer));
    },
    ..Strategy::BASE
};
