//! Which nodes a Pod may go to.

use api::{FieldError, names};
use serde_json::Value;

use crate::Errors;
use crate::tree::{invalid_all, one_of, text};

pub(crate) fn validate_toleration(t: &Value, path: &str, errors: &mut Errors) {
    let (key, operator) = (text(&t["key"]), text(&t["operator"]));
    if !key.is_empty() {
        invalid_all(
            &format!("{path}.key"),
            key,
            names::qualified_name(key),
            errors,
        );
    }
    if key.is_empty() && operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(FieldError::invalid_str(
            format!("{path}.operator"),
            operator,
            detail,
        ));
    }
    if t["tolerationSeconds"].is_number() && t["effect"] != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(FieldError::invalid_str(
            format!("{path}.effect"),
            text(&t["effect"]),
            detail,
        ));
    }
    match operator {
        "" | "Equal" => {
            let value = text(&t["value"]);
            for wrong in names::label_value(value) {
                errors.push(FieldError::invalid_str(
                    format!("{path}.operator"),
                    value,
                    wrong,
                ));
            }
        }
        "Exists" if !text(&t["value"]).is_empty() => {
            let detail = "value must be empty when `operator` is 'Exists'";
            errors.push(FieldError::invalid(format!("{path}.operator"), t, detail));
        }
        "Exists" => {}
        _ => errors.push(FieldError::not_supported(
            format!("{path}.operator"),
            &t["operator"],
            &["Equal", "Exists"],
        )),
    }
    if !text(&t["effect"]).is_empty() {
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        one_of(&t["effect"], &format!("{path}.effect"), &effects, errors);
    }
}
