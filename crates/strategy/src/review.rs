//! Questions that are answered and not kept: access, tokens, oneself.

use api::FieldError;
use serde_json::Value;

use crate::tree::{items, text};
use crate::{Errors, Names, Strategy};

const REVIEW: Strategy = Strategy {
    names: Names::Unchecked,
    ..Strategy::BASE
};

pub(crate) const TOKEN: Strategy = Strategy {
    validate: |o, errors| {
        if text(&o["spec"]["token"]).is_empty() {
            errors.push(FieldError::required("spec.token", ""));
        }
    },
    ..REVIEW
};

pub(crate) const SELF: Strategy = Strategy { ..REVIEW };

pub(crate) const RULES: Strategy = Strategy { ..REVIEW };

fn attributes(spec: &Value, errors: &mut Errors) {
    match (
        spec["resourceAttributes"].is_object(),
        spec["nonResourceAttributes"].is_object(),
    ) {
        (true, true) => errors.push(FieldError::invalid(
            "spec.nonResourceAttributes",
            &spec["nonResourceAttributes"],
            "cannot be specified in combination with resourceAttributes",
        )),
        (false, false) => errors.push(FieldError::invalid(
            "spec.resourceAttributes",
            &spec["resourceAttributes"],
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => {}
    }
}

fn someone(spec: &Value, errors: &mut Errors) {
    if text(&spec["user"]).is_empty() && items(&spec["groups"]).is_empty() {
        errors.push(FieldError::invalid_str(
            "spec.user",
            "",
            "at least one of user or group must be specified",
        ));
    }
}

pub(crate) const ACCESS: Strategy = Strategy {
    validate: |o, errors| {
        attributes(&o["spec"], errors);
        someone(&o["spec"], errors);
    },
    ..REVIEW
};

pub(crate) const SELF_ACCESS: Strategy = Strategy {
    validate: |o, errors| attributes(&o["spec"], errors),
    ..REVIEW
};

pub(crate) const LOCAL_ACCESS: Strategy = Strategy {
    validate: |o, errors| {
        let spec = &o["spec"];
        attributes(spec, errors);
        someone(spec, errors);
        let (asked, own) = (
            text(&spec["resourceAttributes"]["namespace"]),
            text(&o["metadata"]["namespace"]),
        );
        if asked != own {
            let detail = "must match metadata.namespace";
            errors.push(FieldError::invalid_str(
                "spec.resourceAttributes.namespace",
                asked,
                detail,
            ));
        }
        if spec["nonResourceAttributes"].is_object() {
            let detail = "disallowed on this kind of request";
            let bad = &spec["nonResourceAttributes"];
            errors.push(FieldError::invalid(
                "spec.nonResourceAttributes",
                bad,
                detail,
            ));
        }
    },
    ..REVIEW
};
