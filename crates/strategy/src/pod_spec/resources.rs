//! Requests and limits.

use api::{FieldError, Quantity, names};
use serde_json::Value;

use crate::Errors;
use crate::tree::{entries, invalid_all};

pub(crate) fn validate_resources(resources: &Value, path: &str, errors: &mut Errors) {
    let quantity = |v: &Value| v.as_str().and_then(|s| s.parse::<Quantity>().ok());
    for which in ["limits", "requests"] {
        for (name, amount) in entries(&resources[which]) {
            let at = format!("{path}.{which}[{name}]");
            let wrong = names::qualified_name(name);
            if !wrong.is_empty() {
                invalid_all(&format!("{path}.{which}"), name, wrong, errors);
            } else if !name.contains('/')
                && !matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage")
                && !name.starts_with("hugepages-")
            {
                let detail = "must be a standard resource type or fully qualified";
                errors.push(FieldError::invalid_str(
                    format!("{path}.{which}"),
                    name,
                    detail,
                ));
                errors.push(FieldError::invalid_str(
                    format!("{path}.{which}"),
                    name,
                    "must be a standard resource for containers",
                ));
            }
            if quantity(amount).is_some_and(|q| q.sign() < 0) {
                errors.push(FieldError::invalid(
                    at,
                    amount,
                    "must be greater than or equal to 0",
                ));
            }
        }
    }
    for (name, amount) in entries(&resources["requests"]) {
        let (request, limit) = (quantity(amount), quantity(&resources["limits"][name]));
        let at = format!("{path}.requests");
        if let (Some(request), Some(limit)) = (request, limit) {
            let fixed = name.contains('/') || name.starts_with("hugepages-");
            if fixed && request != limit {
                let detail = format!("must be equal to {name} limit of {limit}");
                errors.push(FieldError::invalid(at, amount, detail));
            } else if request > limit {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                errors.push(FieldError::invalid(at, amount, detail));
            }
        }
    }
}
