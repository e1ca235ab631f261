//! What is written is read back the same.

use serde_json::{Value, json};

use super::*;
use crate::facts;

fn round_trip(group: &str, version: &str, plural: &str, object: Value) {
    let kind = facts::kind(group, version, plural).unwrap();
    let text = object.to_string();
    let bytes = super::object(
        &kind.api_version(),
        kind.kind,
        Some(kind.ty),
        text.as_bytes(),
    )
    .unwrap();
    assert_eq!(decode(kind.ty, &bytes).unwrap(), object);
}

#[test]
fn a_pod_with_what_json_inlines() {
    round_trip(
        "",
        "v1",
        "pods",
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "web", "namespace": "default", "creationTimestamp": "2026-01-02T03:04:05Z",
                "labels": {"app": "web", "tier": ""},
                "managedFields": [{"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {}}}],
            },
            "spec": {
                "volumes": [
                    {"name": "host", "hostPath": {"path": "/var", "type": "Directory"}},
                    {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
                    {"name": "all", "projected": {"sources": [{"configMap": {"name": "c", "optional": false}}]}},
                ],
                "containers": [{
                    "name": "web", "image": "web:1", "command": ["run", "-a"],
                    "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": true}}}],
                    "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 3},
                    "livenessProbe": {"tcpSocket": {"port": 8080}},
                    "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
                    "securityContext": {"runAsUser": 0, "runAsNonRoot": false, "capabilities": {"drop": ["ALL"]}},
                }],
                "ephemeralContainers": [{"name": "debug", "image": "sh", "targetContainerName": "web", "tty": true}],
                "terminationGracePeriodSeconds": 0,
            },
            "status": {"phase": "Running", "containerStatuses": [{
                "name": "web", "ready": true, "restartCount": 0, "image": "web:1", "imageID": "sha256:0",
                "state": {"running": {"startedAt": "2026-01-02T03:04:06Z"}},
            }]},
        }),
    );
}

#[test]
fn what_has_a_form_of_its_own() {
    round_trip(
        "",
        "v1",
        "secrets",
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "AAEC/w=="}, "type": "Opaque"}),
    );
    round_trip(
        "certificates.k8s.io",
        "v1",
        "certificatesigningrequests",
        json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "c"},
            "spec": {"request": "AAEC", "signerName": "a/b", "extra": {"k": ["v", "w"], "none": []}},
        }),
    );
    round_trip(
        "coordination.k8s.io",
        "v1",
        "leases",
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
            "spec": {"renewTime": "2026-01-02T03:04:05.678901Z", "leaseTransitions": 0},
        }),
    );
    round_trip(
        "networking.k8s.io",
        "v1",
        "ingresses",
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "i"},
            "spec": {"rules": [{"host": "a.b", "http": {"paths": [{
                "path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}},
            }]}}]},
        }),
    );
    round_trip(
        "admissionregistration.k8s.io",
        "v1",
        "mutatingwebhookconfigurations",
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "m"},
            "webhooks": [{
                "name": "w.a.b", "sideEffects": "None", "clientConfig": {"caBundle": "AAEC", "url": "https://a"},
                "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "scope": "*"}],
            }],
        }),
    );
}

#[test]
fn schemas_of_custom_resources() {
    round_trip(
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "a.b"},
            "spec": {
                "group": "b", "scope": "Namespaced", "names": {"plural": "a", "kind": "A"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "properties": {
                        "n": {"type": "number", "minimum": 0.5, "default": 1, "enum": [1, "x", null]},
                        "m": {"type": "object", "additionalProperties": {"type": "string"}},
                        "open": {"type": "object", "additionalProperties": true},
                        "list": {"type": "array", "items": {"type": "string"}},
                        "both": {"items": [{"type": "string"}, {"type": "integer"}]},
                        "dep": {"dependencies": {"a": ["b"], "c": {"type": "object"}}},
                    },
                }}}],
            },
        }),
    );
}

#[test]
fn lists_metadata_and_frames() {
    let pod = br#"{"kind":"Pod","metadata":{"name":"a","uid":"u"},"spec":{"nodeName":"n"}}"#;
    let bytes = list(
        "meta.k8s.io/v1",
        "PartialObjectMetadataList",
        None,
        &json!({"resourceVersion": "7", "continue": "c", "remainingItemCount": 3}),
        [&pod[..]].into_iter(),
    )
    .unwrap();
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.starts_with("k8s\0") && text.contains("PartialObjectMetadataList"));
    assert!(!text.contains("nodeName") && text.contains('7'));
    let frame = watch_event("ADDED", b"k8s\0object");
    assert_eq!(frame, b"\0\0\0\x15\x0a\x05ADDED\x12\x0c\x0a\x0ak8s\0object");
}

#[test]
fn long_messages_have_long_lengths() {
    let value = "x".repeat(70_000);
    round_trip(
        "",
        "v1",
        "configmaps",
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"k": value}}),
    );
}
