//! The Node authorizer: a kubelet reads what the Pods bound to its node refer to, and writes what is its own.
//!
//! Follows <https://kubernetes.io/docs/reference/access-authn-authz/node/>. What a node may do to a kind as such is the
//! bootstrap ClusterRole `system:node`; this narrows the objects.

use serde_json::Value;
use store::Store;

use super::Attributes;
use super::rbac::Rbac;
use crate::object::{items, text};

/// Allows, or says why not.
pub async fn authorize(
    store: &dyn Store,
    rbac: &Rbac,
    node: &str,
    wanted: &Attributes,
) -> Result<(), String> {
    let read_one = wanted.verb == "get"
        || matches!(wanted.verb.as_str(), "list" | "watch")
            && wanted.field_selector.strip_prefix("metadata.name=") == Some(&wanted.name);
    match (wanted.group.as_str(), wanted.resource.as_str()) {
        ("", "secrets" | "configmaps" | "persistentvolumeclaims")
            if wanted.subresource.is_empty() =>
        {
            let name = if wanted.name.is_empty() {
                wanted
                    .field_selector
                    .strip_prefix("metadata.name=")
                    .unwrap_or("")
            } else {
                &wanted.name
            };
            if !matches!(wanted.verb.as_str(), "get" | "list" | "watch") || name.is_empty() {
                return Err("can only read resources of this type by name".into());
            }
            refers(store, node, &wanted.namespace, &wanted.resource, name).await
        }
        ("", "serviceaccounts") if wanted.subresource == "token" => {
            if wanted.verb != "create" {
                return Err("can only create tokens for individual service accounts".into());
            }
            refers(
                store,
                node,
                &wanted.namespace,
                "serviceaccounts",
                &wanted.name,
            )
            .await
        }
        ("", "serviceaccounts") => {
            by_role(rbac, wanted).await?;
            refers(
                store,
                node,
                &wanted.namespace,
                &wanted.resource,
                &wanted.name,
            )
            .await
        }
        ("resource.k8s.io", "resourceslices") => slices(store, node, wanted).await,
        ("", "pods") => pods(store, rbac, node, wanted, read_one).await,
        ("", "nodes") => {
            let own = wanted.name == node
                || wanted.field_selector == format!("metadata.name={node}")
                || wanted.verb == "create" && wanted.name.is_empty();
            if own {
                by_role(rbac, wanted).await
            } else {
                Err("node may only access its own Node".into())
            }
        }
        ("coordination.k8s.io", "leases") => {
            let own = wanted.namespace == "kube-node-lease"
                && (wanted.name == node || wanted.verb == "create");
            if own {
                by_role(rbac, wanted).await
            } else {
                Err("can only access node lease with the same name as the requesting node".into())
            }
        }
        _ => by_role(rbac, wanted).await,
    }
}

async fn by_role(rbac: &Rbac, wanted: &Attributes) -> Result<(), String> {
    let rules = rbac.rules_of_role("ClusterRole", "", "system:node").await;
    let allowed = rules.is_some_and(|rules| rules.iter().any(|r| r.allows(wanted)));
    if allowed { Ok(()) } else { Err(String::new()) }
}

async fn pods(
    store: &dyn Store,
    rbac: &Rbac,
    node: &str,
    wanted: &Attributes,
    read_one: bool,
) -> Result<(), String> {
    by_role(rbac, wanted).await?;
    if matches!(wanted.verb.as_str(), "list" | "watch") && !read_one {
        let own = wanted
            .field_selector
            .split(',')
            .any(|t| t == format!("spec.nodeName={node}"));
        return if own {
            Ok(())
        } else {
            Err("can only list/watch pods with spec.nodeName field selector".into())
        };
    }
    if wanted.verb == "create" && wanted.subresource.is_empty() {
        // Mirror pods: NodeRestriction looks at the body.
        return Ok(());
    }
    let key = format!("/registry/pods/{}/{}", wanted.namespace, wanted.name);
    match store.get(&key).await.map_err(|e| e.to_string())? {
        None => Ok(()),
        Some(entry) => {
            let pod: Value = serde_json::from_slice(&entry.wire).map_err(|e| e.to_string())?;
            if text(&pod, &["spec", "nodeName"]) == node {
                Ok(())
            } else {
                Err(format!(
                    "no relationship found between node '{node}' and this object"
                ))
            }
        }
    }
}

/// A node sees and changes the slices of its own devices. What it creates, NodeRestriction looks at.
async fn slices(store: &dyn Store, node: &str, wanted: &Attributes) -> Result<(), String> {
    if !wanted.subresource.is_empty() {
        return Err("cannot authorize ResourceSlice subresources".into());
    }
    match wanted.verb.as_str() {
        "create" => Ok(()),
        "get" | "update" | "patch" | "delete" => {
            let key = format!("/registry/resourceslices/{}", wanted.name);
            let slice = store.get(&key).await.map_err(|e| e.to_string())?;
            let own = slice.is_some_and(|entry| {
                serde_json::from_slice::<Value>(&entry.wire)
                    .is_ok_and(|slice| text(&slice, &["spec", "nodeName"]) == node)
            });
            if own {
                Ok(())
            } else {
                Err(format!(
                    "no relationship found between node '{node}' and this object"
                ))
            }
        }
        "list" | "watch" | "deletecollection" => {
            let own = format!("spec.nodeName={node}");
            if wanted.field_selector.split(',').any(|t| t == own) {
                Ok(())
            } else {
                Err("can only list/watch/deletecollection resourceslices with nodeName field selector".into())
            }
        }
        _ => Err(
            "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, \
             delete, deletecollection"
                .into(),
        ),
    }
}

/// Whether a Pod bound to `node` refers to the object.
async fn refers(
    store: &dyn Store,
    node: &str,
    namespace: &str,
    resource: &str,
    name: &str,
) -> Result<(), String> {
    let prefix = format!("/registry/pods/{namespace}/");
    let range = store
        .range(&prefix, None, None, 0)
        .await
        .map_err(|e| e.to_string())?;
    for entry in range.entries {
        let on_node = entry
            .beside
            .downcast_ref::<crate::registry::Meta>()
            .is_some_and(|m| m.field("spec.nodeName") == Some(node));
        if !on_node {
            continue;
        }
        let pod: Value = serde_json::from_slice(&entry.wire).map_err(|e| e.to_string())?;
        if pod_refers(&pod, resource, name) {
            return Ok(());
        }
    }
    Err(format!(
        "no relationship found between node '{node}' and this object"
    ))
}

/// Whether a Pod uses a secret, config map, claim or service account of this name.
#[must_use]
pub fn pod_refers(pod: &Value, resource: &str, name: &str) -> bool {
    references(pod)
        .iter()
        .any(|(kind, used)| *kind == resource && used == name)
}

/// The objects that a Pod uses: resource and name of each.
#[must_use]
pub fn references(pod: &Value) -> Vec<(&'static str, String)> {
    let spec = &pod["spec"];
    let mut found = Vec::new();
    let mut add = |resource, name: &str| {
        if !name.is_empty() {
            found.push((resource, name.to_owned()));
        }
    };
    add("serviceaccounts", text(spec, &["serviceAccountName"]));
    for secret in items(spec, &["imagePullSecrets"]) {
        add("secrets", text(secret, &["name"]));
    }
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    for container in lists.iter().flat_map(|list| items(spec, &[list])) {
        for variable in items(container, &["env"]) {
            let from = &variable["valueFrom"];
            add("secrets", text(from, &["secretKeyRef", "name"]));
            add("configmaps", text(from, &["configMapKeyRef", "name"]));
        }
        for from in items(container, &["envFrom"]) {
            add("secrets", text(from, &["secretRef", "name"]));
            add("configmaps", text(from, &["configMapRef", "name"]));
        }
    }
    for volume in items(spec, &["volumes"]) {
        add("secrets", text(volume, &["secret", "secretName"]));
        add("configmaps", text(volume, &["configMap", "name"]));
        let claim = text(volume, &["persistentVolumeClaim", "claimName"]);
        add("persistentvolumeclaims", claim);
        if volume["ephemeral"].is_object() {
            let (pod, volume) = (text(pod, &["metadata", "name"]), text(volume, &["name"]));
            add("persistentvolumeclaims", &format!("{pod}-{volume}"));
        }
        for source in items(volume, &["projected", "sources"]) {
            add("secrets", text(source, &["secret", "name"]));
            add("configmaps", text(source, &["configMap", "name"]));
        }
        // Each driver's own source.
        for source in volume.as_object().into_iter().flat_map(|v| v.values()) {
            add("secrets", text(source, &["secretRef", "name"]));
            add("secrets", text(source, &["nodePublishSecretRef", "name"]));
        }
        add("secrets", text(volume, &["azureFile", "secretName"]));
    }
    found
}
