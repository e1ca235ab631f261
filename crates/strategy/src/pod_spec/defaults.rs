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
