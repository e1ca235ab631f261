//! StorageClasses.

use api::{FieldError, names};
use serde_json::Value;

use crate::tree::{age, entries, immutable, invalid_all, items, name, one_of, set_default, text};
use crate::{AGE, Errors, NAME, Strategy, column};

/// The name of what makes volumes: a qualified name in any case.
pub(crate) fn validate_provisioner(v: &Value, path: &str, errors: &mut Errors) {
    let provisioner = text(v).to_lowercase();
    if provisioner.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else {
        let wrong = names::qualified_name(&provisioner);
        invalid_all(path, &provisioner, wrong, errors);
    }
}

/// What a class passes to its provisioner.
pub(crate) fn validate_parameters(parameters: &Value, errors: &mut Errors) {
    const MOST: usize = 512;
    const MOST_BYTES: usize = 256 * 1024;
    if crate::count(parameters) > MOST {
        errors.push(FieldError::too_long("parameters", MOST));
        return;
    }
    let size: usize = entries(parameters)
        .map(|(k, v)| k.len() + text(v).len())
        .sum();
    if parameters.get("").is_some() {
        let detail = "field can not be empty.";
        errors.push(FieldError::invalid_str("parameters", "", detail));
    }
    if size > MOST_BYTES {
        errors.push(FieldError::too_long("parameters", MOST_BYTES));
    }
}

fn validate_topologies(topologies: &Value, errors: &mut Errors) {
    let mut seen: Vec<&Value> = Vec::new();
    for (i, term) in items(topologies).iter().enumerate() {
        let path = format!("allowedTopologies[{i}].matchLabelExpressions");
        let expressions = &term["matchLabelExpressions"];
        let mut keys: Vec<&str> = Vec::new();
        for (j, expression) in items(expressions).iter().enumerate() {
            let path = format!("{path}[{j}]");
            let key = text(&expression["key"]);
            if items(&expression["values"]).is_empty() {
                errors.push(FieldError::required(format!("{path}.values"), ""));
            }
            let mut values: Vec<&str> = Vec::new();
            for (k, value) in items(&expression["values"]).iter().enumerate() {
                if values.contains(&text(value)) {
                    errors.push(FieldError::duplicate(format!("{path}.values[{k}]"), value));
                }
                values.push(text(value));
            }
            invalid_all(
                &format!("{path}.key"),
                key,
                names::qualified_name(key),
                errors,
            );
            if keys.contains(&key) {
                let key = &expression["key"];
                errors.push(FieldError::duplicate(format!("{path}.key"), key));
            }
            keys.push(key);
        }
        if seen.contains(&expressions) {
            errors.push(FieldError::duplicate(path, &"".into()));
        }
        seen.push(expressions);
    }
}

pub(crate) const CLASS: Strategy = Strategy {
    default: |o| {
        set_default(o, "reclaimPolicy", "Delete");
        set_default(o, "volumeBindingMode", "Immediate");
    },
    validate: |o, errors| {
        validate_provisioner(&o["provisioner"], "provisioner", errors);
        validate_parameters(&o["parameters"], errors);
        validate_topologies(&o["allowedTopologies"], errors);
        one_of(
            &o["reclaimPolicy"],
            "reclaimPolicy",
            &["Delete", "Retain"],
            errors,
        );
        one_of(
            &o["volumeBindingMode"],
            "volumeBindingMode",
            &["Immediate", "WaitForFirstConsumer"],
            errors,
        );
    },
    validate_update: |new, old, errors| {
        if new["parameters"] != old["parameters"] {
            errors.push(FieldError::forbidden(
                "parameters",
                "updates to parameters are forbidden.",
            ));
        }
        if new["provisioner"] != old["provisioner"] {
            errors.push(FieldError::forbidden(
                "provisioner",
                "updates to provisioner are forbidden.",
            ));
        }
        if new["reclaimPolicy"] != old["reclaimPolicy"] {
            errors.push(FieldError::forbidden(
                "reclaimPolicy",
                "updates to reclaimPolicy are forbidden.",
            ));
        }
        immutable(
            &new["volumeBindingMode"],
            &old["volumeBindingMode"],
            "volumeBindingMode",
            errors,
        );
    },
    columns: &[
        NAME,
        column("Provisioner", "string", "What makes its volumes."),
        column(
            "ReclaimPolicy",
            "string",
            "What happens to its volumes after their claims.",
        ),
        column("VolumeBindingMode", "string", "When its volumes are made."),
        column(
            "AllowVolumeExpansion",
            "boolean",
            "Whether its volumes may grow.",
        ),
        AGE,
    ],
    row: |o, now| {
        let default =
            o["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true";
        let shown = if default {
            format!("{} (default)", text(&name(o)))
        } else {
            text(&name(o)).to_owned()
        };
        vec![
            shown.into(),
            text(&o["provisioner"]).into(),
            text(&o["reclaimPolicy"]).into(),
            text(&o["volumeBindingMode"]).into(),
            (o["allowVolumeExpansion"] == true).into(),
            age(o, now),
        ]
    },
    ..Strategy::BASE
};
