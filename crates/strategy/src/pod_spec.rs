//! The spec of a Pod, on its own and inside templates.

use std::collections::HashSet;

use api::{FieldError, Quantity, names};
use serde_json::{Map, Value};

use crate::Errors;
use crate::tree::{
    each, entries, int, invalid_all, items, labels, not_negative, object, one_of, remove,
    required_one_of, set, set_default, text,
};

/// Defaults of `template` inside a workload's spec.
pub(crate) fn default_template(spec: &mut Value) {
    if let Some(template) = object(spec, "template") {
        object(template, "metadata");
        if let Some(pod) = object(template, "spec") {
            default(pod);
        }
    }
}

pub(crate) fn default(spec: &mut Value) {
    set_default(spec, "dnsPolicy", "ClusterFirst");
    set_default(spec, "restartPolicy", "Always");
    set_default(spec, "terminationGracePeriodSeconds", 30);
    set_default(spec, "schedulerName", "default-scheduler");
    object(spec, "securityContext");
    // The old and the new name of one field are kept alike.
    for (from, to) in [
        ("serviceAccountName", "serviceAccount"),
        ("serviceAccount", "serviceAccountName"),
    ] {
        if let Some(account) = spec[from].as_str().filter(|a| !a.is_empty()) {
            let account = account.to_owned();
            set(spec, to, account);
            break;
        }
    }
    // Go leaves these out when they are false.
    for key in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec[key] == false {
            remove(spec, key);
        }
    }
    for key in ["initContainers", "containers", "ephemeralContainers"] {
        each(spec, key, |c| {
            default_container(c, key != "ephemeralContainers")
        });
    }
    each(spec, "volumes", default_volume);
}

fn default_container(c: &mut Value, has_resources: bool) {
    set_default(c, "terminationMessagePath", "/dev/termination-log");
    set_default(c, "terminationMessagePolicy", "File");
    if text(&c["imagePullPolicy"]).is_empty() {
        let policy = if pulls_always(text(&c["image"])) {
            "Always"
        } else {
            "IfNotPresent"
        };
        set(c, "imagePullPolicy", policy);
    }
    object(c, "resources").filter(|_| has_resources);
    each(c, "ports", |p| set_default(p, "protocol", "TCP"));
    each(c, "env", |e| {
        if let Some(field) = e.get_mut("valueFrom").and_then(|v| v.get_mut("fieldRef")) {
            set_default(field, "apiVersion", "v1");
        }
        // An empty value is written as an absent one.
        if e["value"] == "" {
            remove(e, "value");
        }
    });
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = c.get_mut(probe).filter(|p| p.is_object()) {
            for (key, value) in [
                ("timeoutSeconds", 1),
                ("periodSeconds", 10),
                ("successThreshold", 1),
                ("failureThreshold", 3),
            ] {
                if int(&probe[key]) == 0 {
                    set(probe, key, value);
                }
            }
            default_http(probe);
            if let Some(grpc) = probe.get_mut("grpc")
                && grpc["service"].is_null()
            {
                set(grpc, "service", "");
            }
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(hook) = c.get_mut("lifecycle").and_then(|l| l.get_mut(hook)) {
            default_http(hook);
        }
    }
}

fn default_http(handler: &mut Value) {
    if let Some(http) = handler.get_mut("httpGet") {
        set_default(http, "path", "/");
        set_default(http, "scheme", "HTTP");
    }
}

/// An image without a tag, or with `latest`, is pulled each time.
fn pulls_always(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn default_volume(v: &mut Value) {
    if v.as_object().is_some_and(|m| m.keys().all(|k| k == "name")) {
        object(v, "emptyDir");
    }
    for key in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = v.get_mut(key).filter(|s| s.is_object()) {
            set_default(source, "defaultMode", 0o644);
        }
    }
    if let Some(host) = v.get_mut("hostPath").filter(|h| h["type"].is_null()) {
        set(host, "type", "");
    }
    let downward = |source: &mut Value| {
        each(source, "items", |item| {
            if let Some(field) = item.get_mut("fieldRef") {
                set_default(field, "apiVersion", "v1");
            }
        });
    };
    if let Some(source) = v.get_mut("downwardAPI") {
        downward(source);
    }
    if let Some(projected) = v.get_mut("projected") {
        each(projected, "sources", |s| {
            if let Some(token) = s.get_mut("serviceAccountToken") {
                set_default(token, "expirationSeconds", 3600);
            }
            if let Some(source) = s.get_mut("downwardAPI") {
                downward(source);
            }
        });
    }
    if let Some(iscsi) = v.get_mut("iscsi") {
        set_default(iscsi, "iscsiInterface", "default");
    }
    if let Some(claim) = v
        .get_mut("ephemeral")
        .and_then(|e| e.get_mut("volumeClaimTemplate"))
        .and_then(|t| t.get_mut("spec"))
    {
        set_default(claim, "volumeMode", "Filesystem");
    }
}

/// A limit is also a request where there is none. Only Pods have this, not templates.
pub(crate) fn requests_from_limits(spec: &mut Value) {
    for key in ["containers", "initContainers"] {
        each(spec, key, |c| {
            let Some(resources) = c.get_mut("resources") else {
                return;
            };
            let limits: Map<String, Value> =
                resources["limits"].as_object().cloned().unwrap_or_default();
            if limits.is_empty() {
                return;
            }
            if let Some(requests) = object(resources, "requests") {
                for (name, amount) in limits {
                    set_default(requests, &name, amount);
                }
            }
        });
    }
}

pub(crate) fn validate(spec: &Value, path: &str, errors: &mut Errors) {
    let volumes = validate_volumes(spec, path, errors);
    let containers = items(&spec["containers"]);
    if containers.is_empty() {
        errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    let mut seen: HashSet<&str> = HashSet::new();
    let mut host_ports: HashSet<(i64, &str, &str)> = HashSet::new();
    for (key, init) in [("containers", false), ("initContainers", true)] {
        for (i, container) in items(&spec[key]).iter().enumerate() {
            let at = format!("{path}.{key}[{i}]");
            validate_container(container, &at, init, &volumes, errors);
            let name = text(&container["name"]);
            if !name.is_empty() && !seen.insert(name) {
                errors.push(FieldError::duplicate(
                    format!("{at}.name"),
                    &container["name"],
                ));
            }
            for (j, port) in items(&container["ports"]).iter().enumerate() {
                let host = int(&port["hostPort"]);
                let taken = (host, text(&port["hostIP"]), text(&port["protocol"]));
                if host != 0 && !init && !host_ports.insert(taken) {
                    let shown = format!("{}/{}/{host}", taken.2, taken.1);
                    errors.push(FieldError::duplicate(
                        format!("{at}.ports[{j}].hostPort"),
                        &shown.into(),
                    ));
                }
                if spec["hostNetwork"] == true && host != 0 && host != int(&port["containerPort"]) {
                    let detail = "must match `hostPort` when `hostNetwork` is true";
                    errors.push(FieldError::invalid(
                        format!("{at}.ports[{j}].containerPort"),
                        &port["containerPort"],
                        detail,
                    ));
                }
            }
        }
    }
    let at = |key: &str| format!("{path}.{key}");
    required_one_of(
        &spec["restartPolicy"],
        &at("restartPolicy"),
        &["Always", "OnFailure", "Never"],
        errors,
    );
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    required_one_of(&spec["dnsPolicy"], &at("dnsPolicy"), &policies, errors);
    if spec["dnsPolicy"] == "None" && items(&spec["dnsConfig"]["nameservers"]).is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(FieldError::required(at("dnsConfig.nameservers"), detail));
    }
    labels(&spec["nodeSelector"], &at("nodeSelector"), errors);
    not_negative(spec, path, "terminationGracePeriodSeconds", errors);
    if spec["activeDeadlineSeconds"]
        .as_i64()
        .is_some_and(|n| !(1..=i64::from(i32::MAX)).contains(&n))
    {
        let detail = names::inclusive_range(1, i64::from(i32::MAX));
        errors.push(FieldError::invalid(
            at("activeDeadlineSeconds"),
            &spec["activeDeadlineSeconds"],
            detail,
        ));
    }
    for key in ["hostname", "subdomain"] {
        let value = text(&spec[key]);
        if !value.is_empty() {
            invalid_all(&at(key), value, names::dns1123_label(value), errors);
        }
    }
    for key in [
        "serviceAccountName",
        "nodeName",
        "priorityClassName",
        "runtimeClassName",
    ] {
        let value = text(&spec[key]);
        if !value.is_empty() {
            invalid_all(&at(key), value, names::dns1123_subdomain(value), errors);
        }
    }
    for (i, secret) in items(&spec["imagePullSecrets"]).iter().enumerate() {
        if text(&secret["name"]).is_empty() {
            errors.push(FieldError::required(
                format!("{path}.imagePullSecrets[{i}].name"),
                "",
            ));
        }
    }
    for (i, alias) in items(&spec["hostAliases"]).iter().enumerate() {
        if text(&alias["ip"]).parse::<std::net::IpAddr>().is_err() {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(FieldError::invalid(
                format!("{path}.hostAliases[{i}].ip"),
                &alias["ip"],
                detail,
            ));
        }
        for (j, host) in items(&alias["hostnames"]).iter().enumerate() {
            let path = format!("{path}.hostAliases[{i}].hostnames[{j}]");
            invalid_all(
                &path,
                text(host),
                names::dns1123_subdomain(text(host)),
                errors,
            );
        }
    }
    for (i, toleration) in items(&spec["tolerations"]).iter().enumerate() {
        validate_toleration(toleration, &format!("{path}.tolerations[{i}]"), errors);
    }
    for (i, spread) in items(&spec["topologySpreadConstraints"]).iter().enumerate() {
        let path = format!("{path}.topologySpreadConstraints[{i}]");
        if int(&spread["maxSkew"]) <= 0 {
            let detail = "must be greater than zero";
            errors.push(FieldError::invalid(
                format!("{path}.maxSkew"),
                &int(&spread["maxSkew"]).into(),
                detail,
            ));
        }
        if text(&spread["topologyKey"]).is_empty() {
            errors.push(FieldError::required(
                format!("{path}.topologyKey"),
                "can not be empty",
            ));
        }
        let actions = ["DoNotSchedule", "ScheduleAnyway"];
        if !actions.contains(&text(&spread["whenUnsatisfiable"])) {
            let bad = Value::from(text(&spread["whenUnsatisfiable"]));
            errors.push(FieldError::not_supported(
                format!("{path}.whenUnsatisfiable"),
                &bad,
                &actions,
            ));
        }
    }
    validate_affinity(&spec["affinity"], &at("affinity"), errors);
    validate_security(&spec["securityContext"], &at("securityContext"), errors);
}

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

fn validate_affinity(affinity: &Value, path: &str, errors: &mut Errors) {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    let node = &affinity["nodeAffinity"];
    if node[required].is_object() {
        let at = format!("{path}.nodeAffinity.{required}.nodeSelectorTerms");
        let terms = items(&node[required]["nodeSelectorTerms"]);
        if terms.is_empty() {
            errors.push(FieldError::required(
                &at,
                "must have at least one node selector term",
            ));
        }
        for (i, term) in terms.iter().enumerate() {
            for (j, e) in items(&term["matchExpressions"]).iter().enumerate() {
                validate_node_requirement(e, &format!("{at}[{i}].matchExpressions[{j}]"), errors);
            }
        }
    }
    for (i, term) in items(&node[preferred]).iter().enumerate() {
        let at = format!("{path}.nodeAffinity.{preferred}[{i}]");
        validate_weight(term, &at, errors);
        for (j, e) in items(&term["preference"]["matchExpressions"])
            .iter()
            .enumerate()
        {
            validate_node_requirement(e, &format!("{at}.preference.matchExpressions[{j}]"), errors);
        }
    }
    for side in ["podAffinity", "podAntiAffinity"] {
        for (i, term) in items(&affinity[side][required]).iter().enumerate() {
            validate_pod_term(term, &format!("{path}.{side}.{required}[{i}]"), errors);
        }
        for (i, weighted) in items(&affinity[side][preferred]).iter().enumerate() {
            let at = format!("{path}.{side}.{preferred}[{i}]");
            validate_weight(weighted, &at, errors);
            validate_pod_term(
                &weighted["podAffinityTerm"],
                &format!("{at}.podAffinityTerm"),
                errors,
            );
        }
    }
}

fn validate_weight(term: &Value, path: &str, errors: &mut Errors) {
    if !(1..=100).contains(&int(&term["weight"])) {
        errors.push(FieldError::invalid(
            format!("{path}.weight"),
            &int(&term["weight"]).into(),
            "must be in the range 1-100",
        ));
    }
}

fn validate_pod_term(term: &Value, path: &str, errors: &mut Errors) {
    crate::tree::label_selector(
        &term["labelSelector"],
        &format!("{path}.labelSelector"),
        errors,
    );
    if text(&term["topologyKey"]).is_empty() {
        errors.push(FieldError::required(
            format!("{path}.topologyKey"),
            "can not be empty",
        ));
    }
}

pub(crate) fn validate_node_requirement(e: &Value, path: &str, errors: &mut Errors) {
    let values = items(&e["values"]);
    let at = |key: &str| format!("{path}.{key}");
    match text(&e["operator"]) {
        "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
            at("values"),
            "must be specified when `operator` is 'In' or 'NotIn'",
        )),
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::forbidden(
            at("values"),
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        )),
        "Gt" | "Lt" if values.len() != 1 => errors.push(FieldError::required(
            at("values"),
            "must be specified single value when `operator` is 'Lt' or 'Gt'",
        )),
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        _ => errors.push(FieldError::invalid(
            at("operator"),
            &e["operator"],
            "not a valid selector operator",
        )),
    }
    invalid_all(
        &at("key"),
        text(&e["key"]),
        names::qualified_name(text(&e["key"])),
        errors,
    );
}

fn validate_security(context: &Value, path: &str, errors: &mut Errors) {
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

/// Names the volumes, and says what is wrong with them.
fn validate_volumes<'a>(spec: &'a Value, path: &str, errors: &mut Errors) -> HashSet<&'a str> {
    let mut seen = HashSet::new();
    for (i, volume) in items(&spec["volumes"]).iter().enumerate() {
        let at = format!("{path}.volumes[{i}]");
        let name = text(&volume["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else {
            invalid_all(
                &format!("{at}.name"),
                name,
                names::dns1123_label(name),
                errors,
            );
            if !seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{at}.name"), &volume["name"]));
            }
        }
        let sources: Vec<&String> = entries(volume)
            .map(|(k, _)| k)
            .filter(|k| *k != "name")
            .collect();
        match sources[..] {
            [] => errors.push(FieldError::required(&at, "must specify a volume type")),
            [_] => {}
            [_, ref more @ ..] => {
                for second in more {
                    let detail = "may not specify more than 1 volume type";
                    errors.push(FieldError::forbidden(format!("{at}.{second}"), detail));
                }
            }
        }
        let needs = |source: &str, key: &str, errors: &mut Errors| {
            if volume[source].is_object() && text(&volume[source][key]).is_empty() {
                errors.push(FieldError::required(format!("{at}.{source}.{key}"), ""));
            }
        };
        needs("secret", "secretName", errors);
        needs("configMap", "name", errors);
        needs("hostPath", "path", errors);
        needs("persistentVolumeClaim", "claimName", errors);
        needs("csi", "driver", errors);
        if text(&volume["hostPath"]["path"])
            .split('/')
            .any(|s| s == "..")
        {
            errors.push(FieldError::invalid(
                format!("{at}.hostPath.path"),
                &volume["hostPath"]["path"],
                "must not contain '..'",
            ));
        }
        for source in ["secret", "configMap", "downwardAPI", "projected"] {
            let mode = &volume[source]["defaultMode"];
            if mode.as_i64().is_some_and(|m| !(0..=0o777).contains(&m)) {
                let detail = "must be a number between 0 and 0777 (octal), both inclusive";
                errors.push(FieldError::invalid(
                    format!("{at}.{source}.defaultMode"),
                    mode,
                    detail,
                ));
            }
            for (j, item) in items(&volume[source]["items"]).iter().enumerate() {
                let at = format!("{at}.{source}.items[{j}]");
                if source != "downwardAPI" && text(&item["key"]).is_empty() {
                    errors.push(FieldError::required(format!("{at}.key"), ""));
                }
                let target = text(&item["path"]);
                if target.is_empty() {
                    errors.push(FieldError::required(format!("{at}.path"), ""));
                } else if target.starts_with('/') {
                    errors.push(FieldError::invalid_str(
                        format!("{at}.path"),
                        target,
                        "must be a relative path",
                    ));
                } else if target.split('/').any(|s| s == "..") {
                    errors.push(FieldError::invalid_str(
                        format!("{at}.path"),
                        target,
                        "must not contain '..'",
                    ));
                }
            }
        }
    }
    seen
}

fn validate_container(
    c: &Value,
    path: &str,
    init: bool,
    volumes: &HashSet<&str>,
    errors: &mut Errors,
) {
    let at = |key: &str| format!("{path}.{key}");
    let name = text(&c["name"]);
    if name.is_empty() {
        errors.push(FieldError::required(at("name"), ""));
    } else {
        invalid_all(&at("name"), name, names::dns1123_label(name), errors);
    }
    let image = text(&c["image"]);
    if image.is_empty() {
        errors.push(FieldError::required(at("image"), ""));
    } else if image.trim() != image {
        errors.push(FieldError::invalid_str(
            at("image"),
            image,
            "must not have leading or trailing whitespace",
        ));
    }
    let pulls = ["Always", "IfNotPresent", "Never"];
    required_one_of(
        &c["imagePullPolicy"],
        &at("imagePullPolicy"),
        &pulls,
        errors,
    );
    let messages = ["FallbackToLogsOnError", "File"];
    required_one_of(
        &c["terminationMessagePolicy"],
        &at("terminationMessagePolicy"),
        &messages,
        errors,
    );
    let mut port_names: HashSet<&str> = HashSet::new();
    for (i, port) in items(&c["ports"]).iter().enumerate() {
        let at = |key: &str| format!("{path}.ports[{i}].{key}");
        let name = text(&port["name"]);
        if !name.is_empty() {
            let wrong = names::port_name(name);
            if wrong.is_empty() && !port_names.insert(name) {
                errors.push(FieldError::duplicate(at("name"), &port["name"]));
            }
            invalid_all(&at("name"), name, wrong, errors);
        }
        if int(&port["containerPort"]) == 0 {
            errors.push(FieldError::required(at("containerPort"), ""));
        } else {
            for wrong in names::port_number(int(&port["containerPort"])) {
                errors.push(FieldError::invalid(
                    at("containerPort"),
                    &port["containerPort"],
                    wrong,
                ));
            }
        }
        if int(&port["hostPort"]) != 0 {
            for wrong in names::port_number(int(&port["hostPort"])) {
                errors.push(FieldError::invalid(
                    at("hostPort"),
                    &port["hostPort"],
                    wrong,
                ));
            }
        }
        required_one_of(
            &port["protocol"],
            &at("protocol"),
            &["SCTP", "TCP", "UDP"],
            errors,
        );
    }
    validate_env(c, path, errors);
    validate_mounts(c, path, volumes, errors);
    validate_resources(&c["resources"], &at("resources"), errors);
    let sidecar = c["restartPolicy"] == "Always";
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if !c[probe].is_object() {
            continue;
        }
        if init && !sidecar {
            let detail = "may not be set for init containers without restartPolicy=Always";
            errors.push(FieldError::forbidden(at(probe), detail));
            continue;
        }
        validate_probe(&c[probe], &at(probe), probe != "readinessProbe", errors);
    }
    if init && !sidecar && c["lifecycle"].is_object() {
        let detail = "may not be set for init containers without restartPolicy=Always";
        errors.push(FieldError::forbidden(at("lifecycle"), detail));
    }
    for hook in ["postStart", "preStop"] {
        if c["lifecycle"][hook].is_object() {
            validate_handler(
                &c["lifecycle"][hook],
                &at(&format!("lifecycle.{hook}")),
                errors,
            );
        }
    }
    let context = &c["securityContext"];
    validate_security(context, &at("securityContext"), errors);
    if context["privileged"] == true && context["allowPrivilegeEscalation"] == false {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errors.push(FieldError::invalid(at("securityContext"), context, detail));
    }
}

fn validate_env(c: &Value, path: &str, errors: &mut Errors) {
    for (i, env) in items(&c["env"]).iter().enumerate() {
        let at = |key: &str| format!("{path}.env[{i}].{key}");
        let name = text(&env["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(at("name"), ""));
        } else {
            invalid_all(&at("name"), name, names::env_var_name(name), errors);
        }
        let from = &env["valueFrom"];
        if !from.is_object() {
            continue;
        }
        let sources = entries(from).count();
        if sources == 0 {
            let known = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
            errors.push(FieldError::invalid_str(at("valueFrom"), "", known));
        } else if !text(&env["value"]).is_empty() {
            errors.push(FieldError::invalid_str(
                at("valueFrom"),
                "",
                "may not be specified when `value` is not empty",
            ));
        } else if sources > 1 {
            let detail = "may not have more than one field specified at a time";
            errors.push(FieldError::invalid_str(at("valueFrom"), "", detail));
        }
        for source in ["configMapKeyRef", "secretKeyRef"] {
            if from[source].is_object() {
                for key in ["name", "key"] {
                    if text(&from[source][key]).is_empty() {
                        errors.push(FieldError::required(
                            at(&format!("valueFrom.{source}.{key}")),
                            "",
                        ));
                    }
                }
            }
        }
        if from["fieldRef"].is_object() && text(&from["fieldRef"]["fieldPath"]).is_empty() {
            errors.push(FieldError::required(at("valueFrom.fieldRef.fieldPath"), ""));
        }
    }
    for (i, from) in items(&c["envFrom"]).iter().enumerate() {
        let at = format!("{path}.envFrom[{i}]");
        match (
            from["configMapRef"].is_object(),
            from["secretRef"].is_object(),
        ) {
            (false, false) => errors.push(FieldError::invalid_str(
                &at,
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            )),
            (true, true) => {
                errors.push(FieldError::invalid_str(
                    &at,
                    "",
                    "may not have more than one field specified at a time",
                ));
            }
            _ => {}
        }
        for source in ["configMapRef", "secretRef"] {
            if from[source].is_object() && text(&from[source]["name"]).is_empty() {
                errors.push(FieldError::required(format!("{at}.{source}.name"), ""));
            }
        }
    }
}

fn validate_mounts(c: &Value, path: &str, volumes: &HashSet<&str>, errors: &mut Errors) {
    let mut points: HashSet<&str> = HashSet::new();
    for (i, mount) in items(&c["volumeMounts"]).iter().enumerate() {
        let at = |key: &str| format!("{path}.volumeMounts[{i}].{key}");
        let name = text(&mount["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(at("name"), ""));
        } else if !volumes.contains(name) {
            errors.push(FieldError::not_found(at("name"), &mount["name"]));
        }
        let point = text(&mount["mountPath"]);
        if point.is_empty() {
            errors.push(FieldError::required(at("mountPath"), ""));
        } else if !points.insert(point) {
            errors.push(FieldError::invalid_str(
                at("mountPath"),
                point,
                "must be unique",
            ));
        }
        let sub = text(&mount["subPath"]);
        if sub.starts_with('/') {
            errors.push(FieldError::invalid_str(
                at("subPath"),
                sub,
                "must be a relative path",
            ));
        } else if sub.split('/').any(|s| s == "..") {
            errors.push(FieldError::invalid_str(
                at("subPath"),
                sub,
                "must not contain '..'",
            ));
        }
    }
}

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

fn validate_handler(handler: &Value, path: &str, errors: &mut Errors) {
    let known = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
    let given: Vec<&str> = known
        .into_iter()
        .filter(|k| handler[*k].is_object())
        .collect();
    if given.is_empty() {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
    for second in given.iter().skip(1) {
        let detail = "may not specify more than 1 handler type";
        errors.push(FieldError::forbidden(format!("{path}.{second}"), detail));
    }
    if handler["exec"].is_object() && items(&handler["exec"]["command"]).is_empty() {
        errors.push(FieldError::required(format!("{path}.exec.command"), ""));
    }
    for which in ["httpGet", "tcpSocket", "grpc"] {
        if !handler[which].is_object() {
            continue;
        }
        let at = format!("{path}.{which}.port");
        match &handler[which]["port"] {
            Value::String(s) => invalid_all(&at, s, names::port_name(s), errors),
            v => {
                for wrong in names::port_number(int(v)) {
                    errors.push(FieldError::invalid(&at, &int(v).into(), wrong));
                }
            }
        }
    }
    if handler["httpGet"].is_object() {
        one_of(
            &handler["httpGet"]["scheme"],
            &format!("{path}.httpGet.scheme"),
            &["HTTP", "HTTPS"],
            errors,
        );
        for (i, header) in items(&handler["httpGet"]["httpHeaders"]).iter().enumerate() {
            let name = text(&header["name"]);
            invalid_all(
                &format!("{path}.httpGet.httpHeaders[{i}].name"),
                name,
                names::http_header_name(name),
                errors,
            );
        }
    }
}

fn validate_probe(probe: &Value, path: &str, once: bool, errors: &mut Errors) {
    validate_handler(probe, path, errors);
    for key in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        not_negative(probe, path, key, errors);
    }
    if once && int(&probe["successThreshold"]) != 1 {
        errors.push(FieldError::invalid(
            format!("{path}.successThreshold"),
            &probe["successThreshold"],
            "must be 1",
        ));
    }
}
