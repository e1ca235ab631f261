//! Requests and limits of containers and of the Pod, and the devices that they claim.

use std::collections::BTreeSet;

use api::field::quote;
use api::{FieldError, Quantity, names};
use serde_json::Value;

use super::Scope;
use crate::tree::{entries, invalid_all, items, quantity, required_name, text};
use crate::{Errors, shown};

pub(crate) fn is_hugepages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Resources of Kubernetes' own.
pub(crate) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Resources of others, such as devices.
fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::qualified_name(&format!("requests.{name}")).is_empty()
}

fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_hugepages(name)
}

const STANDARD: [&str; 20] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];

const COUNTS: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// Resources that come in whole numbers.
fn is_integer(name: &str) -> bool {
    COUNTS.contains(&name) || is_extended(name)
}

/// Resources of Kubernetes' own that a quota can bound.
pub(crate) fn is_quota_standard(name: &str) -> bool {
    let known = STANDARD.contains(&name) && name != "storage";
    known || is_hugepages(name) || name.starts_with("requests.hugepages-")
}

/// The name of any resource; says whether it is well-formed and known.
pub(crate) fn validate_resource_name(name: &str, path: &str, errors: &mut Errors) -> bool {
    let wrong = names::qualified_name(name);
    if !wrong.is_empty() {
        invalid_all(path, name, wrong, errors);
        return false;
    }
    let hugepages = is_hugepages(name) || name.starts_with("requests.hugepages-");
    if !name.contains('/') && !STANDARD.contains(&name) && !hugepages {
        let detail = "must be a standard resource type or fully qualified";
        errors.push(FieldError::invalid_str(path, name, detail));
        return false;
    }
    true
}

/// The name of a resource that a container can ask for.
pub(crate) fn validate_container_resource(name: &str, path: &str, errors: &mut Errors) {
    validate_resource_name(name, path, errors);
    let detail = if name.matches('/').count() == 0 {
        let known = matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_hugepages(name);
        (!known).then_some("must be a standard resource for containers")
    } else {
        let known = is_native(name) || is_extended(name);
        (!known).then_some("doesn't follow extended resource name standard")
    };
    if let Some(detail) = detail {
        errors.push(FieldError::invalid_str(path, name, detail));
    }
}

/// The name of a resource that a Pod as a whole can ask for.
fn validate_pod_resource(name: &str, path: &str, errors: &mut Errors) {
    if validate_resource_name(name, path, errors)
        && !matches!(name, "cpu" | "memory")
        && !is_hugepages(name)
    {
        let supported = ["cpu", "hugepages-", "memory"];
        errors.push(FieldError::not_supported(path, &name.into(), &supported));
    }
}

/// An amount of the resource.
pub(crate) fn validate_amount(name: &str, amount: &Value, path: &str, errors: &mut Errors) {
    let Some(value) = quantity(amount) else {
        return;
    };
    let shown = value.to_string();
    if value.sign() < 0 {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid_str(path, &shown, detail));
    }
    if is_integer(name) && value.milli_value() % 1000 != 0 {
        errors.push(FieldError::invalid_str(path, &shown, "must be an integer"));
    }
}

/// Requests and limits of a container.
pub(crate) fn validate_resources(resources: &Value, path: &str, errors: &mut Errors) {
    validate_requirements(resources, path, validate_container_resource, errors);
}

fn validate_requirements(
    resources: &Value,
    path: &str,
    validate_name: fn(&str, &str, &mut Errors),
    errors: &mut Errors,
) {
    for which in ["limits", "requests"] {
        for (name, amount) in entries(&resources[which]) {
            let at = format!("{path}.{which}[{name}]");
            validate_name(name, &at, errors);
            validate_amount(name, amount, &at, errors);
            if which == "requests" {
                within_limit(name, amount, resources, path, errors);
            }
            if is_hugepages(name) {
                validate_hugepages(name, amount, &at, errors);
            }
        }
    }
    let asks = |name: &dyn Fn(&str) -> bool| {
        let both = entries(&resources["limits"]).chain(entries(&resources["requests"]));
        both.into_iter().any(|(n, _)| name(n))
    };
    if asks(&is_hugepages) && !asks(&|n| matches!(n, "cpu" | "memory")) {
        let detail = "HugePages require cpu or memory";
        errors.push(FieldError::forbidden(path, detail));
    }
}

fn within_limit(name: &str, amount: &Value, resources: &Value, path: &str, errors: &mut Errors) {
    let Some(request) = quantity(amount) else {
        return;
    };
    let Some(limit) = quantity(&resources["limits"][name]) else {
        if !may_overcommit(name) {
            let detail = "Limit must be set for non overcommitable resources";
            errors.push(FieldError::required(format!("{path}.limits"), detail));
        }
        return;
    };
    let detail = if request != limit && !may_overcommit(name) {
        format!("must be equal to {name} limit of {limit}")
    } else if request > limit {
        format!("must be less than or equal to {name} limit of {limit}")
    } else {
        return;
    };
    let path = format!("{path}.requests");
    errors.push(FieldError::invalid_str(path, &request.to_string(), detail));
}

fn validate_hugepages(name: &str, amount: &Value, path: &str, errors: &mut Errors) {
    let size: Option<Quantity> = name
        .strip_prefix("hugepages-")
        .and_then(|s| s.parse().ok())
        .filter(|s: &Quantity| s.sign() > 0 && s.is_integer());
    let Some(amount) = quantity(amount) else {
        return;
    };
    if size.is_none_or(|size| amount.value() % size.value() != 0) {
        let detail = format!("{amount} is not positive integer multiple of {name}");
        errors.push(FieldError::invalid_str(path, &amount.to_string(), detail));
    }
}

/// Requests and limits of the Pod as a whole.
pub(super) fn validate_pod_resources(scope: &Scope, path: &str, errors: &mut Errors) {
    let resources = &scope.spec["resources"];
    if !resources.is_object() {
        return;
    }
    if resources["claims"].is_array() {
        let detail = "claims cannot be set for Resources at pod-level";
        errors.push(FieldError::forbidden(format!("{path}.claims"), detail));
    }
    validate_requirements(resources, path, validate_pod_resource, errors);
    validate_claims(scope, resources, &format!("{path}.claims"), errors);
    let mut alone = scope.spec.clone();
    for key in ["resources", "overhead"] {
        crate::tree::remove(&mut alone, key);
    }
    for (name, sum) in rules::resources::requests(&alone) {
        let whole = quantity(&resources["requests"][&name]).unwrap_or(Quantity::ZERO);
        if sum > whole {
            let detail =
                format!("must be greater than or equal to aggregate container requests of {sum}");
            let path = format!("{path}.requests[{name}]");
            errors.push(FieldError::invalid_str(path, &whole.to_string(), detail));
        }
    }
    for (i, container) in items(&scope.spec["containers"]).iter().enumerate() {
        for (name, limit) in entries(&container["resources"]["limits"]) {
            if let (Some(limit), Some(whole)) =
                (quantity(limit), quantity(&resources["limits"][name]))
                && limit > whole
            {
                let detail = format!("must be less than or equal to pod limits of {whole}");
                let path = format!("{path}.containers[{i}][{name}].limits");
                errors.push(FieldError::invalid_str(path, &limit.to_string(), detail));
            }
        }
    }
}

/// The names that the Pod gives to its claims.
pub(super) fn claim_names(spec: &Value) -> BTreeSet<&str> {
    let names = items(&spec["resourceClaims"])
        .iter()
        .map(|c| text(&c["name"]));
    names.filter(|n| !n.is_empty()).collect()
}

/// The claims of the Pod.
pub(super) fn validate_pod_claims(claims: &Value, path: &str, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, claim) in items(claims).iter().enumerate() {
        let path = format!("{path}[{i}]");
        let name = &claim["name"];
        if seen.contains(text(name)) {
            errors.push(FieldError::duplicate(format!("{path}.name"), name));
        } else {
            required_name(name, &format!("{path}.name"), names::dns1123_label, errors);
            seen.insert(text(name));
        }
        let keys = ["resourceClaimName", "resourceClaimTemplateName"];
        let detail = match keys.iter().filter(|k| claim[**k].is_string()).count() {
            0 => Some("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"),
            1 => None,
            _ => Some(
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
        };
        if let Some(detail) = detail {
            let shown = shown::show(claim, &shown::POD_CLAIM);
            errors.push(shown::invalid(&path, shown, detail));
        }
        for key in keys {
            if let Some(name) = claim[key].as_str() {
                let wrong = names::dns1123_subdomain(name);
                invalid_all(&format!("{path}.{key}"), name, wrong, errors);
            }
        }
    }
}

/// What a container uses of the Pod's claims.
pub(super) fn validate_claims(scope: &Scope, resources: &Value, path: &str, errors: &mut Errors) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (i, claim) in items(&resources["claims"]).iter().enumerate() {
        let path = format!("{path}[{i}]");
        let (name, request) = (text(&claim["name"]), text(&claim["request"]));
        if name.is_empty() {
            errors.push(FieldError::required(path, ""));
            continue;
        }
        let mut key = name.to_owned();
        if seen.contains(name) {
            errors.push(FieldError::duplicate(&path, &name.into()));
        } else {
            if !request.is_empty() {
                let wrong = names::dns1123_label(request);
                invalid_all(&format!("{path}.request"), request, wrong, errors);
                key = format!("{name}/{request}");
            }
            let part = format!("{name}/");
            let times = if seen.contains(&key) {
                1
            } else if request.is_empty() {
                seen.iter().filter(|s| s.starts_with(&part)).count()
            } else {
                0
            };
            let duplicate = FieldError::duplicate(&path, &key.clone().into());
            errors.extend(std::iter::repeat_n(duplicate, times));
            seen.insert(key);
        }
        if !scope.claims.contains(name) {
            errors.push(unknown_claim(scope, name, path));
        }
    }
}

fn unknown_claim(scope: &Scope, name: &str, path: String) -> FieldError {
    let known: Vec<&str> = scope.claims.iter().copied().collect();
    let known = if known.is_empty() {
        " which is empty".to_owned()
    } else {
        format!(": {}", known.join(", "))
    };
    FieldError {
        kind: api::field::ErrorKind::NotFound,
        field: path,
        bad_value: Some(quote(name)),
        detail: format!("must be one of the names in pod.spec.resourceClaims{known}"),
    }
}
