//! Security contexts.

use api::{FieldError, names};
use serde_json::Value;

use crate::Errors;
use crate::tree::required_one_of;

pub(super) fn validate_security(context: &Value, path: &str, errors: &mut Errors) {
    for key in ["runAsUser", "runAsGroup", "fsGroup"] {
        if context[key]
            .as_i64()
            .is_some_and(|id| !(0..=i64::from(i32::MAX)).contains(&id))
        {
            let detail = names::inclusive_range(0, i64::from(i32::MAX));
            errors.push(FieldError::invalid(
                format!("{path}.{key}"),
                &context[key],
                detail,
            ));
        }
    }
    let profile = &context["seccompProfile"];
    if profile.is_object() {
        let types = ["Localhost", "RuntimeDefault", "Unconfined"];
        required_one_of(
            &profile["type"],
            &format!("{path}.seccompProfile.type"),
            &types,
            errors,
        );
    }
}
