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

/// Whether the bytes are a JSON object, or what Go says that they are instead.
fn json_object(bytes: &[u8]) -> Result<(), String> {
    let what = match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(_) | Value::Null) => return Ok(()),
        Ok(Value::Array(_)) => "array",
        Ok(Value::String(_)) => "string",
        Ok(Value::Number(_)) => "number",
        Ok(Value::Bool(_)) => "bool",
        Err(why) if why.is_eof() => return Err("unexpected end of JSON input".into()),
        Err(why) => {
            let first = String::from_utf8_lossy(bytes).trim_start().chars().next();
            return Err(match first {
                Some(c) if !"{[\"-0123456789tfn".contains(c) => {
                    format!("invalid character '{c}' looking for beginning of value")
                }
                _ => why.to_string(),
            });
        }
    };
    Err(format!(
        "json: cannot unmarshal {what} into Go value of type map[string]interface {{}}"
    ))
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
            "kubernetes.io/ssh-auth" if text(&o["data"]["ssh-privatekey"]).is_empty() => {
                errors.push(FieldError::required("data[ssh-privatekey]", ""));
                &[]
            }
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
                    if let Err(why) = json_object(&bytes) {
                        let bad = "<secret contents redacted>";
                        let path = format!("data[{key}]");
                        errors.push(FieldError::invalid_str(path, bad, why));
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
