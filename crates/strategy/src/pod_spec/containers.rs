//! Containers: those that make up the Pod, those that prepare it, and those that look into it.

use std::collections::BTreeSet;

use api::{FieldError, names};
use serde_json::Value;

use super::{Scope, env, is_sidecar, probes, resources, security, volumes};
use crate::Errors;
use crate::tree::{int, invalid_all, items, one_of, required_one_of, text};

pub(super) fn validate_containers(scope: &Scope, path: &str, errors: &mut Errors) {
    let containers = items(&scope.spec["containers"]);
    if containers.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let mut seen = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        let path = format!("{path}[{i}]");
        validate_common(scope, container, &path, errors);
        if !seen.insert(text(&container["name"])) {
            let path = format!("{path}.name");
            errors.push(FieldError::duplicate(path, &container["name"]));
        }
        probes::validate_lifecycle(scope, container, &path, errors);
        probes::validate_probes(container, &path, errors);
        validate_restarts(container, &path, errors);
    }
    validate_host_ports(containers.iter().enumerate(), path, errors);
}

pub(super) fn validate_init_containers(scope: &Scope, path: &str, errors: &mut Errors) {
    let regular = items(&scope.spec["containers"]);
    let mut seen: BTreeSet<&str> = regular.iter().map(|c| text(&c["name"])).collect();
    let list = items(&scope.spec["initContainers"]);
    for (i, container) in list.iter().enumerate() {
        let at = format!("{path}[{i}]");
        validate_common(scope, container, &at, errors);
        validate_restarts(container, &at, errors);
        let name = text(&container["name"]);
        if seen.contains(name) {
            let path = format!("{at}.name");
            errors.push(FieldError::duplicate(path, &container["name"]));
        } else if !name.is_empty() {
            seen.insert(name);
        }
        // Init containers run one after the other: only within one may ports collide. Upstream's path is that of the
        // first, whichever it is.
        validate_host_ports(std::iter::once((0, container)), path, errors);
        if is_sidecar(container) {
            probes::validate_lifecycle(scope, container, &at, errors);
            probes::validate_probes(container, &at, errors);
        } else {
            no_probes(container, &at, errors);
        }
    }
}

fn no_probes(container: &Value, path: &str, errors: &mut Errors) {
    for key in [
        "lifecycle",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
    ] {
        if container[key].is_object() {
            let detail = "may not be set for init containers without restartPolicy=Always";
            errors.push(FieldError::forbidden(format!("{path}.{key}"), detail));
        }
    }
}

/// What an ephemeral container may not have: it is not to be relied upon.
const NOT_EPHEMERAL: [&str; 9] = [
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

pub(super) fn validate_ephemeral_containers(scope: &Scope, path: &str, errors: &mut Errors) {
    let names = |key: &str| items(&scope.spec[key]).iter().map(|c| text(&c["name"]));
    let others: BTreeSet<&str> = names("containers").chain(names("initContainers")).collect();
    let mut all = others.clone();
    for (i, container) in items(&scope.spec["ephemeralContainers"]).iter().enumerate() {
        let path = format!("{path}[{i}]");
        validate_common(scope, container, &path, errors);
        validate_trimmed_image(container, &path, errors);
        if !all.insert(text(&container["name"])) {
            let path = format!("{path}.name");
            errors.push(FieldError::duplicate(path, &container["name"]));
        }
        let target = &container["targetContainerName"];
        if !text(target).is_empty() && !others.contains(text(target)) {
            let path = format!("{path}.targetContainerName");
            errors.push(FieldError::not_found(path, target));
        }
        validate_ephemeral_fields(container, &path, errors);
    }
}

fn validate_ephemeral_fields(container: &Value, path: &str, errors: &mut Errors) {
    let detail = "cannot be set for an Ephemeral Container";
    for key in NOT_EPHEMERAL {
        let empty = match &container[key] {
            Value::Null => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => key == "resources" && map.is_empty(),
            _ => false,
        };
        if !empty {
            errors.push(FieldError::forbidden(format!("{path}.{key}"), detail));
        }
    }
    for (i, mount) in items(&container["volumeMounts"]).iter().enumerate() {
        for key in ["subPath", "subPathExpr"] {
            if !text(&mount[key]).is_empty() {
                let path = format!("{path}.volumeMounts[{i}].{key}");
                errors.push(FieldError::forbidden(path, detail));
            }
        }
    }
}

/// What holds for containers of every sort.
fn validate_common(scope: &Scope, c: &Value, path: &str, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    crate::tree::required_name(&c["name"], &at("name"), names::dns1123_label, errors);
    if text(&c["image"]).is_empty() {
        errors.push(FieldError::required(at("image"), ""));
    }
    let policies = ["File", "FallbackToLogsOnError"];
    let policy = &c["terminationMessagePolicy"];
    required_one_of(policy, &at("terminationMessagePolicy"), &policies, errors);
    validate_ports(&c["ports"], &at("ports"), errors);
    env::validate_env(&c["env"], &at("env"), errors);
    env::validate_env_from(&c["envFrom"], &at("envFrom"), errors);
    volumes::validate_mounts(scope, c, &at("volumeMounts"), errors);
    volumes::validate_devices(scope, c, &at("volumeDevices"), errors);
    validate_pull_policy(&c["imagePullPolicy"], &at("imagePullPolicy"), errors);
    resources::validate_resources(&c["resources"], &at("resources"), errors);
    resources::validate_claims(scope, &c["resources"], &at("resources.claims"), errors);
    validate_resize_policy(scope, &c["resizePolicy"], &at("resizePolicy"), errors);
    let context = &c["securityContext"];
    let host_users = scope.host_users();
    security::validate_context(context, &at("securityContext"), host_users, errors);
}

/// Upstream lets templates have spaces around an image, as it always did.
pub(super) fn validate_trimmed_image(container: &Value, path: &str, errors: &mut Errors) {
    let image = text(&container["image"]);
    if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid_str(
            format!("{path}.image"),
            image,
            detail,
        ));
    }
}

pub(super) fn validate_pull_policy(policy: &Value, path: &str, errors: &mut Errors) {
    required_one_of(policy, path, &["Always", "IfNotPresent", "Never"], errors);
}

fn validate_ports(ports: &Value, path: &str, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, port) in items(ports).iter().enumerate() {
        let at = |key: &str| format!("{path}[{i}].{key}");
        let name = text(&port["name"]);
        if !name.is_empty() {
            let wrong = names::port_name(name);
            if wrong.is_empty() && !seen.insert(name) {
                errors.push(FieldError::duplicate(at("name"), &port["name"]));
            }
            invalid_all(&at("name"), name, wrong, errors);
        }
        if int(&port["containerPort"]) == 0 {
            errors.push(FieldError::required(at("containerPort"), ""));
        }
        for key in ["containerPort", "hostPort"] {
            if int(&port[key]) != 0 {
                for wrong in names::port_number(int(&port[key])) {
                    errors.push(FieldError::invalid(at(key), &port[key], wrong));
                }
            }
        }
        let protocols = ["SCTP", "TCP", "UDP"];
        required_one_of(&port["protocol"], &at("protocol"), &protocols, errors);
    }
}

/// No two of these containers may have the same port of the host.
fn validate_host_ports<'a>(
    containers: impl Iterator<Item = (usize, &'a Value)>,
    path: &str,
    errors: &mut Errors,
) {
    let mut taken = BTreeSet::new();
    for (i, container) in containers {
        for (j, port) in items(&container["ports"]).iter().enumerate() {
            let host = int(&port["hostPort"]);
            let shown = format!(
                "{}/{}/{host}",
                text(&port["protocol"]),
                text(&port["hostIP"])
            );
            if host != 0 && !taken.insert(shown.clone()) {
                let path = format!("{path}[{i}].ports[{j}].hostPort");
                errors.push(FieldError::duplicate(path, &shown.into()));
            }
        }
    }
}

/// How a container is started again, where it says so itself.
fn validate_restarts(container: &Value, path: &str, errors: &mut Errors) {
    const MOST_RULES: usize = 20;
    let policy = &container["restartPolicy"];
    let rules = items(&container["restartPolicyRules"]);
    let at = format!("{path}.restartPolicy");
    if policy.is_null() && !rules.is_empty() {
        let detail = "must specify restartPolicy when restart rules are used";
        errors.push(FieldError::required(&at, detail));
    }
    one_of(policy, &at, &["Always", "Never", "OnFailure"], errors);
    let path = format!("{path}.restartPolicyRules");
    if rules.len() > MOST_RULES {
        errors.push(FieldError::too_long(&path, MOST_RULES));
    }
    for (i, rule) in rules.iter().enumerate() {
        validate_restart_rule(rule, &format!("{path}[{i}]"), errors);
    }
}

fn validate_restart_rule(rule: &Value, path: &str, errors: &mut Errors) {
    const MOST_CODES: usize = 255;
    // An absent name is shown as the empty one.
    let named = |v: &Value| Value::from(text(v));
    let actions = ["Restart", "RestartAllContainers"];
    one_of(
        &named(&rule["action"]),
        &format!("{path}.action"),
        &actions,
        errors,
    );
    let path = format!("{path}.exitCodes");
    let codes = &rule["exitCodes"];
    if !codes.is_object() {
        errors.push(FieldError::required(path, "must be specified"));
        return;
    }
    let operator = named(&codes["operator"]);
    one_of(
        &operator,
        &format!("{path}.operator"),
        &["In", "NotIn"],
        errors,
    );
    if items(&codes["values"]).len() > MOST_CODES {
        errors.push(FieldError::too_long(format!("{path}.values"), MOST_CODES));
    }
}

fn validate_resize_policy(scope: &Scope, list: &Value, path: &str, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, policy) in items(list).iter().enumerate() {
        let (resource, restart) = (&policy["resourceName"], &policy["restartPolicy"]);
        if !seen.insert(text(resource)) {
            let path = format!("{path}[{i}]");
            errors.push(FieldError::duplicate(path, resource));
        }
        required_one_of(resource, path, &["cpu", "memory"], errors);
        let policies = ["NotRequired", "RestartContainer"];
        required_one_of(restart, path, &policies, errors);
        if scope.spec["restartPolicy"] == "Never" && restart != "NotRequired" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid_str(path, text(restart), detail));
        }
    }
}
