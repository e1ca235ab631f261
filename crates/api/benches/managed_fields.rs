//! What managed fields cost a write: `cargo bench -p api --bench managed_fields`.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a benchmark measures real time"
)]

use std::hint::black_box;
use std::time::Instant;

use api::apply::{Scope, Writer, managers};
use api::facts;
use serde_json::{Value, json};

const SPEC: Scope = Scope {
    status: false,
    ..Scope::ALL
};
const STATUS: Scope = Scope {
    status: true,
    metadata: true,
    rest: false,
};

/// About 4 KB with its status: two containers, probes, environment, volumes.
fn pod() -> Value {
    let container = |name: &str| {
        let env: Vec<Value> = (0..8)
            .map(|i| json!({"name": format!("VARIABLE_{i}"), "value": "some value"}))
            .collect();
        json!({
            "name": name, "image": "registry.example.com/team/app:1.2.3", "imagePullPolicy": "IfNotPresent", "env": env,
            "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
            "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
            "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"}, "periodSeconds": 10, "timeoutSeconds": 1,
                "successThreshold": 1, "failureThreshold": 3},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "config", "mountPath": "/config", "readOnly": true}],
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        })
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web-5d4f8c7b9-abcde", "namespace": "default", "uid": "u", "resourceVersion": "1",
            "labels": {"app": "web", "pod-template-hash": "5d4f8c7b9"}, "annotations": {"example.com/a": "b"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "v", "controller": true}],
        },
        "spec": {
            "containers": [container("app"), container("sidecar")], "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
            "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler", "enableServiceLinks": true,
            "securityContext": {"runAsNonRoot": true},
            "volumes": [{"name": "data", "emptyDir": {}}, {"name": "config", "configMap": {"name": "config", "defaultMode": 420}}],
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
        },
        "status": {"phase": "Pending"},
    })
}

fn running() -> Value {
    let condition = |ty: &str| json!({"type": ty, "status": "True", "lastProbeTime": null, "lastTransitionTime": "2026-01-01T00:00:00Z"});
    json!({
        "phase": "Running", "hostIP": "10.0.0.1", "podIP": "10.42.0.2", "podIPs": [{"ip": "10.42.0.2"}], "qosClass": "Burstable",
        "startTime": "2026-01-01T00:00:00Z",
        "conditions": [condition("Initialized"), condition("Ready"), condition("ContainersReady"), condition("PodScheduled")],
        "containerStatuses": [{"name": "app", "ready": true, "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}],
    })
}

fn measure(what: &str, mut work: impl FnMut()) {
    const ROUNDS: u32 = 3000;
    for _ in 0..300 {
        work();
    }
    let mut best = f64::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            work();
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS));
    }
    println!("{what:48} {best:8.2} µs");
}

fn main() {
    let ty = facts::kind("", "v1", "pods").unwrap().ty;
    let writer = |manager, subresource| Writer {
        manager,
        api_version: "v1",
        subresource,
        now: "2026-01-01T00:00:00Z",
    };
    let created = pod();
    let entries = managers::update(
        ty,
        SPEC,
        None,
        &created,
        Vec::new(),
        &writer("maker", ""),
        false,
    );
    let managed = managers::write(entries).unwrap();
    let mut with = created.clone();
    with["metadata"]["managedFields"] = serde_json::from_str(&managed).unwrap();
    let (bare, whole) = (created.to_string(), with.to_string());
    println!("bytes: {} without, {} with", bare.len(), whole.len());
    measure("parse a Pod without managed fields", || {
        black_box(serde_json::from_str::<Value>(&bare).unwrap());
    });
    measure("parse a Pod with managed fields", || {
        black_box(serde_json::from_str::<Value>(&whole).unwrap());
    });
    measure("create: who owns the fields of a Pod", || {
        let entries = managers::update(
            ty,
            SPEC,
            None,
            &created,
            Vec::new(),
            &writer("maker", ""),
            false,
        );
        black_box(managers::write(entries));
    });
    let mut labelled = created.clone();
    labelled["metadata"]["labels"]["more"] = "x".into();
    measure("read the entries", || {
        black_box(managers::read(&managed).unwrap());
    });
    measure("update: a label more", || {
        let entries = managers::read(&managed).unwrap();
        let by = writer("other", "");
        let entries = managers::update(ty, SPEC, Some(&created), &labelled, entries, &by, false);
        black_box(managers::write(entries));
    });
    let mut runs = created.clone();
    runs["status"] = running();
    measure("update: the first status", || {
        let entries = managers::read(&managed).unwrap();
        let by = writer("kubelet", "status");
        let entries = managers::update(ty, STATUS, Some(&created), &runs, entries, &by, false);
        black_box(managers::write(entries));
    });
    measure("write a Pod without managed fields", || {
        black_box(serde_json::to_vec(&created).unwrap());
    });
    measure("write a Pod with managed fields", || {
        black_box(serde_json::to_vec(&with).unwrap());
    });
}
