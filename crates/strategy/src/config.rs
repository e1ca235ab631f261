//! ConfigMaps, Secrets and ServiceAccounts.

use api::{FieldError, names};
use base64::Engine as _;
use serde_json::Value;

use crate::tree::{
    age, entries, immutable, invalid_all, items, name, object, remove, set, set_default, text,
};
use crate::{AGE, Errors, NAME, Strategy, column, count};

const SIZE_LIMIT: usize = 1024 * 1024;

fn decoded(v: &Value) -> usize {
    base64::engine::general_purpose::STANDARD
        .decode(text(v))
        .map_or(text(v).len(), |b| b.len())
}

pub(crate) const CONFIG_MAP: Strategy = Strategy {
    validate: |o, errors| {
        let mut size = 0;
        for (key, value) in entries(&o["data"]) {
            let path = format!("data[{key}]");
            invalid_all(&path, key, names::config_map_key(key), errors);
            if o["binaryData"].get(key).is_some() {
                errors.push(FieldError::invalid_str(
                    path,
                    key,
                    "duplicate of key present in binaryData",
                ));
            }
            size += text(value).len();
        }
        for (key, value) in entries(&o["binaryData"]) {
            invalid_all(
                &format!("binaryData[{key}]"),
                key,
                names::config_map_key(key),
                errors,
            );
            size += decoded(value);
        }
        if size > SIZE_LIMIT {
            errors.push(FieldError::too_long("", SIZE_LIMIT));
        }
    },
    validate_update: |new, old, errors| frozen(new, old, &["data", "binaryData"], errors),
    columns: &[
        NAME,
        column("Data", "string", "How many keys it holds."),
        AGE,
    ],
    row: |o, now| {
        vec![
            name(o),
            (count(&o["data"]) + count(&o["binaryData"])).into(),
            age(o, now),
        ]
    },
    ..Strategy::BASE
};

/// An object that was made immutable stays so, with what it holds.
fn frozen(new: &Value, old: &Value, keys: &[&str], errors: &mut Errors) {
    if old["immutable"] != true {
        return;
    }
    let detail = "field is immutable when `immutable` is set";
    if new["immutable"] != true {
        errors.push(FieldError::forbidden("immutable", detail));
    }
    for key in keys {
        if new[*key] != old[*key] {
            errors.push(FieldError::forbidden(*key, detail));
        }
    }
}

pub(crate) const SECRET: Strategy = Strategy {
    default: |o| {
        set_default(o, "type", "Opaque");
        // `stringData` is for writers only: it is folded into `data`.
        let plain: Vec<(String, String)> = entries(&o["stringData"])
            .map(|(k, v)| (k.clone(), text(v).to_owned()))
            .collect();
        remove(o, "stringData");
        if let (false, Some(data)) = (plain.is_empty(), object(o, "data")) {
            for (key, value) in plain {
                set(
                    data,
                    &key,
                    base64::engine::general_purpose::STANDARD.encode(value),
                );
            }
        }
    },
    validate: |o, errors| {
        let mut size = 0;
        for (key, value) in entries(&o["data"]) {
            invalid_all(
                &format!("data[{key}]"),
                key,
                names::config_map_key(key),
                errors,
            );
            size += decoded(value);
        }
        if size > SIZE_LIMIT {
            errors.push(FieldError::too_long("data", SIZE_LIMIT));
        }
        let needed: &[&str] = match text(&o["type"]) {
            "kubernetes.io/tls" => &["tls.crt", "tls.key"],
            "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
            "kubernetes.io/dockercfg" => &[".dockercfg"],
            "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
            "kubernetes.io/basic-auth"
                if o["data"].get("username").is_none() && o["data"].get("password").is_none() =>
            {
                &["username", "password"]
            }
            "kubernetes.io/service-account-token" => {
                let path = "metadata.annotations[kubernetes.io/service-account.name]";
                if text(&o["metadata"]["annotations"]["kubernetes.io/service-account.name"])
                    .is_empty()
                {
                    errors.push(FieldError::required(path, ""));
                }
                &[]
            }
            _ => &[],
        };
        for key in needed {
            match o["data"].get(*key) {
                None => errors.push(FieldError::required(format!("data[{key}]"), "")),
                Some(value) if key.starts_with(".docker") => {
                    let bytes = base64::engine::general_purpose::STANDARD
                        .decode(text(value))
                        .unwrap_or_default();
                    if let Err(why) = serde_json::from_slice::<Value>(&bytes) {
                        let bad = "<secret contents redacted>";
                        errors.push(FieldError::invalid_str(
                            format!("data[{key}]"),
                            bad,
                            why.to_string(),
                        ));
                    }
                }
                Some(_) => {}
            }
        }
    },
    validate_update: |new, old, errors| {
        immutable(&new["type"], &old["type"], "type", errors);
        frozen(new, old, &["data"], errors);
    },
    columns: &[
        NAME,
        column("Type", "string", "What its data is for."),
        column("Data", "string", "How many keys it holds."),
        AGE,
    ],
    row: |o, now| {
        vec![
            name(o),
            text(&o["type"]).into(),
            count(&o["data"]).into(),
            age(o, now),
        ]
    },
    fields: |o, out| out.push(("type", text(&o["type"]).into())),
    ..Strategy::BASE
};

pub(crate) const SERVICE_ACCOUNT: Strategy = Strategy {
    columns: &[
        NAME,
        column("Secrets", "string", "How many Secrets it names."),
        AGE,
    ],
    row: |o, now| vec![name(o), items(&o["secrets"]).len().into(), age(o, now)],
    ..Strategy::BASE
};
