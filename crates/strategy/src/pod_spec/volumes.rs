//! Volumes and where they are mounted.

use std::collections::HashSet;

use api::{FieldError, names};
use serde_json::Value;

use crate::Errors;
use crate::tree::{entries, invalid_all, items, text};

/// Names the volumes, and says what is wrong with them.
pub(super) fn validate_volumes<'a>(
    spec: &'a Value,
    path: &str,
    errors: &mut Errors,
) -> HashSet<&'a str> {
    let mut seen = HashSet::new();
    for (i, volume) in items(&spec["volumes"]).iter().enumerate() {
        let at = format!("{path}.volumes[{i}]");
        let name = text(&volume["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else {
            invalid_all(
                &format!("{at}.name"),
                name,
                names::dns1123_label(name),
                errors,
            );
            if !seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{at}.name"), &volume["name"]));
            }
        }
        let sources: Vec<&String> = entries(volume)
            .map(|(k, _)| k)
            .filter(|k| *k != "name")
            .collect();
        match sources[..] {
            [] => errors.push(FieldError::required(&at, "must specify a volume type")),
            [_] => {}
            [_, ref more @ ..] => {
                for second in more {
                    let detail = "may not specify more than 1 volume type";
                    errors.push(FieldError::forbidden(format!("{at}.{second}"), detail));
                }
            }
        }
        let needs = |source: &str, key: &str, errors: &mut Errors| {
            if volume[source].is_object() && text(&volume[source][key]).is_empty() {
                errors.push(FieldError::required(format!("{at}.{source}.{key}"), ""));
            }
        };
        needs("secret", "secretName", errors);
        needs("configMap", "name", errors);
        needs("hostPath", "path", errors);
        needs("persistentVolumeClaim", "claimName", errors);
        needs("csi", "driver", errors);
        if text(&volume["hostPath"]["path"])
            .split('/')
            .any(|s| s == "..")
        {
            errors.push(FieldError::invalid(
                format!("{at}.hostPath.path"),
                &volume["hostPath"]["path"],
                "must not contain '..'",
            ));
        }
        for source in ["secret", "configMap", "downwardAPI", "projected"] {
            let mode = &volume[source]["defaultMode"];
            if mode.as_i64().is_some_and(|m| !(0..=0o777).contains(&m)) {
                let detail = "must be a number between 0 and 0777 (octal), both inclusive";
                errors.push(FieldError::invalid(
                    format!("{at}.{source}.defaultMode"),
                    mode,
                    detail,
                ));
            }
            for (j, item) in items(&volume[source]["items"]).iter().enumerate() {
                let at = format!("{at}.{source}.items[{j}]");
                if source != "downwardAPI" && text(&item["key"]).is_empty() {
                    errors.push(FieldError::required(format!("{at}.key"), ""));
                }
                let target = text(&item["path"]);
                if target.is_empty() {
                    errors.push(FieldError::required(format!("{at}.path"), ""));
                } else if target.starts_with('/') {
                    errors.push(FieldError::invalid_str(
                        format!("{at}.path"),
                        target,
                        "must be a relative path",
                    ));
                } else if target.split('/').any(|s| s == "..") {
                    errors.push(FieldError::invalid_str(
                        format!("{at}.path"),
                        target,
                        "must not contain '..'",
                    ));
                }
            }
        }
    }
    seen
}

pub(super) fn validate_mounts(c: &Value, path: &str, volumes: &HashSet<&str>, errors: &mut Errors) {
    let mut points: HashSet<&str> = HashSet::new();
    for (i, mount) in items(&c["volumeMounts"]).iter().enumerate() {
        let at = |key: &str| format!("{path}.volumeMounts[{i}].{key}");
        let name = text(&mount["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(at("name"), ""));
        } else if !volumes.contains(name) {
            errors.push(FieldError::not_found(at("name"), &mount["name"]));
        }
        let point = text(&mount["mountPath"]);
        if point.is_empty() {
            errors.push(FieldError::required(at("mountPath"), ""));
        } else if !points.insert(point) {
            errors.push(FieldError::invalid_str(
                at("mountPath"),
                point,
                "must be unique",
            ));
        }
        let sub = text(&mount["subPath"]);
        if sub.starts_with('/') {
            errors.push(FieldError::invalid_str(
                at("subPath"),
                sub,
                "must be a relative path",
            ));
        } else if sub.split('/').any(|s| s == "..") {
            errors.push(FieldError::invalid_str(
                at("subPath"),
                sub,
                "must not contain '..'",
            ));
        }
    }
}
