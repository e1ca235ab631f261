//! Volumes that are put together from several sources.

use std::collections::BTreeSet;

use api::{FieldError, names};
use serde_json::Value;

use super::volume_sources::{local_path, mode, needs};
use super::volumes::{validate_downward_item, validate_keys};
use crate::Errors;
use crate::tree::{entries, int, invalid_all, items, label_selector, one_of, text};

pub(super) fn validate(v: &Value, path: &str, errors: &mut Errors) {
    mode(&v["defaultMode"], format!("{path}.defaultMode"), errors);
    let mut taken = Taken {
        paths: BTreeSet::new(),
        path,
    };
    for (i, source) in items(&v["sources"]).iter().enumerate() {
        let at = format!("{path}.sources[{i}]");
        for key in ["secret", "configMap"] {
            validate_object(&source[key], &format!("{at}.{key}"), &mut taken, errors);
        }
        validate_downward(&source["downwardAPI"], &at, &mut taken, errors);
        let token = &source["serviceAccountToken"];
        validate_token(token, &format!("{at}.serviceAccountToken"), path, errors);
        let bundle = &source["clusterTrustBundle"];
        if bundle.is_object() {
            let at = format!("{at}.clusterTrustBundle");
            validate_bundle(bundle, &at, &mut taken, errors);
        }
        let certificate = &source["podCertificate"];
        if certificate.is_object() {
            let at = format!("{at}.podCertificate");
            validate_certificate(certificate, &at, &mut taken, errors);
        }
        if entries(source).filter(|(_, v)| v.is_object()).count() > 1 {
            let detail = "may not specify more than 1 volume type per source";
            errors.push(FieldError::forbidden(at, detail));
        }
    }
}

/// The paths that are taken in the volume.
struct Taken<'a> {
    paths: BTreeSet<&'a str>,
    path: &'a str,
}

impl<'a> Taken<'a> {
    /// Takes a path. `shown`: what upstream names in the error.
    fn take(&mut self, target: &'a str, shown: &str, errors: &mut Errors) {
        if !self.paths.insert(target) {
            let detail = "conflicting duplicate paths";
            errors.push(FieldError::invalid_str(self.path, shown, detail));
        }
    }
}

fn validate_object<'a>(source: &'a Value, path: &str, taken: &mut Taken<'a>, errors: &mut Errors) {
    if !source.is_object() {
        return;
    }
    needs(source, &["name"], path, errors);
    validate_keys(&source["items"], &format!("{path}.items"), errors);
    for item in items(&source["items"]) {
        if !text(&item["path"]).is_empty() {
            taken.take(text(&item["path"]), text(&source["name"]), errors);
        }
    }
}

fn validate_downward<'a>(
    source: &'a Value,
    path: &str,
    taken: &mut Taken<'a>,
    errors: &mut Errors,
) {
    for item in items(&source["items"]) {
        validate_downward_item(item, &format!("{path}.downwardAPI"), errors);
        let target = text(&item["path"]);
        if !target.is_empty() {
            taken.take(target, target, errors);
        }
    }
}

fn validate_token(token: &Value, path: &str, volume: &str, errors: &mut Errors) {
    const LEAST: i64 = 10 * 60;
    const MOST: i64 = 1 << 32;
    if !token.is_object() {
        return;
    }
    let seconds = int(&token["expirationSeconds"]);
    let detail = match seconds {
        s if s < LEAST => "may not specify a duration less than 10 minutes",
        s if s > MOST => "may not specify a duration larger than 2^32 seconds",
        _ => "",
    };
    if !detail.is_empty() {
        let path = format!("{path}.expirationSeconds");
        errors.push(FieldError::invalid(path, &seconds.into(), detail));
    }
    // Upstream's path of this path is that of the volume.
    needs(token, &["path"], volume, errors);
    local_path(text(&token["path"]), &format!("{volume}.path"), errors);
}

/// A token is that of an account: there must be one.
pub(super) fn no_tokens(spec: &Value, path: &str, errors: &mut Errors) {
    for (i, volume) in items(&spec["volumes"]).iter().enumerate() {
        for (j, source) in items(&volume["projected"]["sources"]).iter().enumerate() {
            if source["serviceAccountToken"].is_object() {
                let path =
                    format!("{path}.volumes[{i}].projected.sources[{j}].serviceAccountToken");
                let detail = "must not be specified when serviceAccountName is not set";
                errors.push(FieldError::forbidden(path, detail));
            }
        }
    }
}

/// The name of a bundle: that of its signer comes first, if it has one.
fn wrong_bundle_name(name: &str) -> Vec<String> {
    match name.rsplit_once(':') {
        None => names::dns1123_subdomain(name),
        Some((_, own)) => names::dns1123_subdomain(own),
    }
}

fn validate_bundle<'a>(bundle: &'a Value, path: &str, taken: &mut Taken<'a>, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    let selector = &bundle["labelSelector"];
    match (bundle["name"].as_str(), bundle["signerName"].as_str()) {
        (Some(_), Some(_)) => {
            let detail = "only one of name and signerName may be used";
            errors.push(FieldError::invalid(path, bundle, detail));
        }
        (Some(name), None) => {
            if name.is_empty() {
                let detail = "must be a valid object name";
                errors.push(FieldError::required(at("name"), detail));
            }
            for wrong in wrong_bundle_name(name) {
                let detail = format!("not a valid clustertrustbundlename: {wrong}");
                errors.push(FieldError::invalid_str(at("name"), name, detail));
            }
            if selector.is_object() {
                let detail = "labelSelector must be unset if name is specified";
                errors.push(FieldError::invalid(at("labelSelector"), selector, detail));
            }
        }
        (None, Some(signer)) => {
            if signer.is_empty() {
                let detail = "must be a valid signer name";
                errors.push(FieldError::required(at("signerName"), detail));
            }
            crate::certificate::validate_signer(signer, &at("signerName"), errors);
            label_selector(selector, &at("labelSelector"), errors);
        }
        (None, None) => {
            let detail = "either name or signerName must be specified";
            errors.push(FieldError::required(path, detail));
        }
    }
    needs(bundle, &["path"], path, errors);
    let target = text(&bundle["path"]);
    local_path(target, &at("path"), errors);
    taken.take(target, target, errors);
}

/// The kinds of keys that a kubelet can make.
const KEY_TYPES: [&str; 6] = [
    "ECDSAP256",
    "ECDSAP384",
    "ECDSAP521",
    "ED25519",
    "RSA3072",
    "RSA4096",
];

fn validate_certificate<'a>(
    certificate: &'a Value,
    path: &str,
    taken: &mut Taken<'a>,
    errors: &mut Errors,
) {
    /// An hour, and 91 days.
    const SECONDS: std::ops::RangeInclusive<i64> = 3600..=91 * 24 * 3600;
    let at = |key: &str| format!("{path}.{key}");
    let signer = text(&certificate["signerName"]);
    crate::certificate::validate_signer(signer, &at("signerName"), errors);
    let ty = Value::from(text(&certificate["keyType"]));
    one_of(&ty, &at("keyType"), &KEY_TYPES, errors);
    let seconds = &certificate["maxExpirationSeconds"];
    if seconds.as_i64().is_some_and(|s| !SECONDS.contains(&s)) {
        let detail = names::inclusive_range(*SECONDS.start(), *SECONDS.end());
        errors.push(FieldError::invalid(
            at("maxExpirationSeconds"),
            seconds,
            detail,
        ));
    }
    let keys = ["credentialBundlePath", "keyPath", "certificateChainPath"];
    let given = keys.map(|k| text(&certificate[k]));
    if given.iter().all(|p| p.is_empty()) {
        let detail =
            "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        errors.push(FieldError::required(path, detail));
    }
    for (key, target) in keys.iter().zip(given).filter(|(_, p)| !p.is_empty()) {
        local_path(target, &at(key), errors);
        taken.take(target, target, errors);
    }
    for (key, _) in entries(&certificate["userAnnotations"]) {
        let path = at("userAnnotations");
        invalid_all(
            &path,
            key,
            names::qualified_name(&key.to_lowercase()),
            errors,
        );
    }
}
