//! Defaults of a Pod's spec.

use serde_json::{Map, Value};

use crate::tree::{each, int, object, remove, set, set_default, text};

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
    let policy = pull_policy(text(&c["image"]));
    set_default(c, "imagePullPolicy", policy);
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
fn pull_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or(image);
    let moves = last.split_once(':').is_none_or(|(_, tag)| tag == "latest");
    if moves && !image.contains('@') {
        "Always"
    } else {
        "IfNotPresent"
    }
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
    default_source(v);
    if let Some(source) = v.get_mut("downwardAPI") {
        default_downward(source);
    }
    if let Some(projected) = v.get_mut("projected") {
        each(projected, "sources", default_projection);
    }
    if let Some(image) = v.get_mut("image").filter(|i| i.is_object()) {
        let policy = pull_policy(text(&image["reference"]));
        set_default(image, "pullPolicy", policy);
    }
    if let Some(claim) = v
        .get_mut("ephemeral")
        .and_then(|e| e.get_mut("volumeClaimTemplate"))
        .and_then(|t| t.get_mut("spec"))
    {
        set_default(claim, "volumeMode", "Filesystem");
        object(claim, "resources");
    }
}

/// Defaults of the sources that Pods and PersistentVolumes have in common.
pub(crate) fn default_source(v: &mut Value) {
    if let Some(host) = v.get_mut("hostPath").filter(|h| h["type"].is_null()) {
        set(host, "type", "");
    }
    let defaults: [(&str, &[(&str, &str)]); 4] = [
        ("iscsi", &[("iscsiInterface", "default")]),
        (
            "rbd",
            &[
                ("pool", "rbd"),
                ("user", "admin"),
                ("keyring", "/etc/ceph/keyring"),
            ],
        ),
        (
            "azureDisk",
            &[
                ("cachingMode", "ReadWrite"),
                ("kind", "Shared"),
                ("fsType", "ext4"),
            ],
        ),
        (
            "scaleIO",
            &[("storageMode", "ThinProvisioned"), ("fsType", "xfs")],
        ),
    ];
    for (key, fields) in defaults {
        if let Some(source) = v.get_mut(key).filter(|s| s.is_object()) {
            for (field, value) in fields {
                set_default(source, field, *value);
            }
        }
    }
    if let Some(disk) = v.get_mut("azureDisk") {
        set_default(disk, "readOnly", false);
    }
}

fn default_downward(source: &mut Value) {
    each(source, "items", |item| {
        if let Some(field) = item.get_mut("fieldRef") {
            set_default(field, "apiVersion", "v1");
        }
    });
}

fn default_projection(source: &mut Value) {
    if let Some(token) = source.get_mut("serviceAccountToken") {
        set_default(token, "expirationSeconds", 3600);
    }
    if let Some(downward) = source.get_mut("downwardAPI") {
        default_downward(downward);
    }
    if let Some(certificate) = source.get_mut("podCertificate") {
        set_default(certificate, "maxExpirationSeconds", 86400);
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

/// What a Pod as a whole asks for where only its limits are given: what its containers ask for, or else the limits.
pub(crate) fn pod_requests(spec: &mut Value) {
    let limits = spec["resources"]["limits"].clone();
    if limits.as_object().is_none_or(Map::is_empty) {
        return;
    }
    let mut alone = spec.clone();
    for key in ["resources", "overhead"] {
        remove(&mut alone, key);
    }
    let sums = rules::resources::requests(&alone);
    let whole = |name: &str| matches!(name, "cpu" | "memory") || name.starts_with("hugepages-");
    if let Some(requests) = object(spec, "resources").and_then(|r| object(r, "requests")) {
        for (name, sum) in sums.iter().filter(|(n, _)| whole(n)) {
            set_default(requests, name, sum.to_string());
        }
        for (name, limit) in crate::tree::entries(&limits).filter(|(n, _)| whole(n)) {
            set_default(requests, name, limit.clone());
        }
    }
}
