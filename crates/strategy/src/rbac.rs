//! Roles and bindings.

use api::FieldError;
use serde_json::Value;

use crate::tree::{age, items, name, set_default, text};
use crate::{AGE, Errors, NAME, Names, Strategy, column, wide};

const GROUP: &str = "rbac.authorization.k8s.io";

fn validate_rules(o: &Value, namespaced: bool, errors: &mut Errors) {
    for (i, rule) in items(&o["rules"]).iter().enumerate() {
        let path = |key: &str| format!("rules[{i}].{key}");
        if items(&rule["verbs"]).is_empty() {
            errors.push(FieldError::required(
                path("verbs"),
                "verbs must contain at least one value",
            ));
        }
        if !items(&rule["nonResourceURLs"]).is_empty() {
            if namespaced {
                let detail = "namespaced rules cannot apply to non-resource URLs";
                errors.push(FieldError::invalid(
                    path("nonResourceURLs"),
                    &rule["nonResourceURLs"],
                    detail,
                ));
            }
            if ["apiGroups", "resources", "resourceNames"]
                .iter()
                .any(|k| !items(&rule[*k]).is_empty())
            {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                errors.push(FieldError::invalid(
                    path("nonResourceURLs"),
                    &rule["nonResourceURLs"],
                    detail,
                ));
            }
            continue;
        }
        if items(&rule["apiGroups"]).is_empty() {
            errors.push(FieldError::required(
                path("apiGroups"),
                "resource rules must supply at least one api group",
            ));
        }
        if items(&rule["resources"]).is_empty() {
            errors.push(FieldError::required(
                path("resources"),
                "resource rules must supply at least one resource",
            ));
        }
    }
}

pub(crate) const ROLE: Strategy = Strategy {
    names: Names::PathSegment,
    validate: |o, errors| validate_rules(o, true, errors),
    ..Strategy::BASE
};

pub(crate) const CLUSTER_ROLE: Strategy = Strategy {
    names: Names::PathSegment,
    validate: |o, errors| {
        validate_rules(o, false, errors);
        if o["aggregationRule"].is_object() {
            let selectors = items(&o["aggregationRule"]["clusterRoleSelectors"]);
            if selectors.is_empty() {
                let detail =
                    "at least one clusterRoleSelector required if aggregationRule is non-nil";
                errors.push(FieldError::required(
                    "aggregationRule.clusterRoleSelectors",
                    detail,
                ));
            }
            for (i, selector) in selectors.iter().enumerate() {
                let path = format!("aggregationRule.clusterRoleSelectors[{i}]");
                crate::tree::label_selector(selector, &path, errors);
                if api::LabelSelector::from_json(selector).is_err() {
                    let detail = "invalid label selector.";
                    errors.push(FieldError::invalid(path, &Value::Null, detail));
                }
            }
        }
    },
    ..Strategy::BASE
};

fn default_binding(o: &mut Value) {
    if let Some(role) = o.get_mut("roleRef") {
        set_default(role, "apiGroup", GROUP);
    }
    crate::tree::each(o, "subjects", |s| {
        if matches!(text(&s["kind"]), "User" | "Group") {
            set_default(s, "apiGroup", GROUP);
        }
    });
}

fn validate_binding(o: &Value, namespaced: bool, errors: &mut Errors) {
    let role = &o["roleRef"];
    if text(&role["apiGroup"]) != GROUP {
        errors.push(FieldError::not_supported(
            "roleRef.apiGroup",
            &text(&role["apiGroup"]).into(),
            &[GROUP],
        ));
    }
    let kinds: &[&str] = if namespaced {
        &["Role", "ClusterRole"]
    } else {
        &["ClusterRole"]
    };
    if !kinds.contains(&text(&role["kind"])) {
        errors.push(FieldError::not_supported(
            "roleRef.kind",
            &text(&role["kind"]).into(),
            kinds,
        ));
    }
    if text(&role["name"]).is_empty() {
        errors.push(FieldError::required("roleRef.name", ""));
    } else {
        let wrong = api::names::path_segment(text(&role["name"]));
        crate::tree::invalid_all("roleRef.name", text(&role["name"]), wrong, errors);
    }
    for (i, subject) in items(&o["subjects"]).iter().enumerate() {
        let path = |key: &str| format!("subjects[{i}].{key}");
        if text(&subject["name"]).is_empty() {
            errors.push(FieldError::required(path("name"), ""));
        }
        let group = text(&subject["apiGroup"]);
        match text(&subject["kind"]) {
            "ServiceAccount" => {
                let wrong = api::names::dns1123_subdomain(text(&subject["name"]));
                if !text(&subject["name"]).is_empty() {
                    crate::tree::invalid_all(&path("name"), text(&subject["name"]), wrong, errors);
                }
                if !group.is_empty() {
                    errors.push(FieldError::not_supported(
                        path("apiGroup"),
                        &group.into(),
                        &[""],
                    ));
                }
                if !namespaced && text(&subject["namespace"]).is_empty() {
                    errors.push(FieldError::required(path("namespace"), ""));
                }
            }
            "User" | "Group" => {
                if group != GROUP {
                    errors.push(FieldError::not_supported(
                        path("apiGroup"),
                        &group.into(),
                        &[GROUP],
                    ));
                }
            }
            other => {
                let allowed = ["ServiceAccount", "User", "Group"];
                errors.push(FieldError::not_supported(
                    path("kind"),
                    &other.into(),
                    &allowed,
                ));
            }
        }
    }
}

fn role_is_kept(new: &Value, old: &Value, errors: &mut Errors) {
    if new["roleRef"] != old["roleRef"] {
        let error = FieldError::invalid("roleRef", &new["roleRef"], "cannot change roleRef");
        let role = &new["roleRef"];
        let fields = [
            ("APIGroup", &role["apiGroup"]),
            ("Kind", &role["kind"]),
            ("Name", &role["name"]),
        ];
        errors.push(crate::workload::shown_as(error, &fields));
    }
}

const BINDING_COLUMNS: &[crate::Column] = &[
    NAME,
    column("Role", "string", "The role that is granted."),
    AGE,
    wide("Users", "Users that it is granted to."),
    wide("Groups", "Groups that it is granted to."),
    wide("ServiceAccounts", "ServiceAccounts that it is granted to."),
];

fn binding_row(o: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let of = |kind: &str| -> Value {
        let names = items(&o["subjects"])
            .iter()
            .filter(|s| s["kind"] == kind)
            .map(|s| match kind {
                "ServiceAccount" => format!("{}/{}", text(&s["namespace"]), text(&s["name"])),
                _ => text(&s["name"]).to_owned(),
            });
        names.collect::<Vec<_>>().join(", ").into()
    };
    let role = format!(
        "{}/{}",
        text(&o["roleRef"]["kind"]),
        text(&o["roleRef"]["name"])
    );
    vec![
        name(o),
        role.into(),
        age(o, now),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}

pub(crate) const ROLE_BINDING: Strategy = Strategy {
    names: Names::PathSegment,
    default: default_binding,
    validate: |o, errors| validate_binding(o, true, errors),
    validate_update: role_is_kept,
    columns: BINDING_COLUMNS,
    row: binding_row,
    ..Strategy::BASE
};

pub(crate) const CLUSTER_ROLE_BINDING: Strategy = Strategy {
    names: Names::PathSegment,
    default: default_binding,
    validate: |o, errors| validate_binding(o, false, errors),
    validate_update: role_is_kept,
    columns: BINDING_COLUMNS,
    row: binding_row,
    ..Strategy::BASE
};
