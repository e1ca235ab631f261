//! Admission: what may be changed about a request, and what is refused, after authorization and before storage.
//!
//! Law 1's written exception: these read the store directly.

pub mod certificates;
pub mod classes;
mod limit_ranger;
pub mod node_restriction;
mod pod_security;
mod pods;
mod privileges;
pub mod quota;

use api::Status;
use api::facts::Kind;
use serde_json::Value;

use crate::Core;
use crate::object::{is_deleting, text};
use crate::registry::Context;

/// What is about to happen to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
}

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Lets the mutating plug-ins change `new`.
///
/// # Errors
/// When one refuses.
pub async fn mutate(
    core: &Core,
    kind: &Kind,
    operation: Operation,
    new: &mut Value,
) -> Result<(), Status> {
    if operation == Operation::Create {
        namespace_lifecycle(core, kind, new).await?;
    }
    match (kind.group, kind.plural, operation) {
        ("", "pods", Operation::Create) => {
            limit_ranger::default(core, new).await?;
            classes::runtime_class(core, new).await?;
            pods::service_account(core, new).await?;
            pods::priority(core, new).await?;
            pods::default_tolerations(new);
        }
        ("", "persistentvolumeclaims", Operation::Create) => {
            classes::default_storage_class(core, new).await?;
            classes::protect(new, "kubernetes.io/pvc-protection");
        }
        ("", "persistentvolumes", Operation::Create) => {
            classes::protect(new, "kubernetes.io/pv-protection");
        }
        ("storage.k8s.io", "volumeattributesclasses", Operation::Create) => {
            classes::protect(new, "kubernetes.io/vac-protection");
        }
        ("networking.k8s.io", "ingresses", Operation::Create) => {
            classes::default_ingress_class(core, new).await?;
        }
        ("", "nodes", Operation::Create) => taint_new_node(new),
        ("", "namespaces", _) => {
            // The API server labels every namespace with its name.
            let name = crate::object::name(new).to_owned();
            let metadata = crate::object::metadata(new);
            let labels = metadata
                .entry("labels")
                .or_insert_with(|| serde_json::json!({}));
            labels["kubernetes.io/metadata.name"] = name.into();
        }
        _ => {}
    }
    Ok(())
}

/// Lets the validating plug-ins refuse. `new` is absent for a deletion, `old` for a creation.
///
/// # Errors
/// When one refuses.
pub async fn validate(
    core: &Core,
    context: &Context,
    kind: &Kind,
    operation: Operation,
    new: Option<&Value>,
    old: Option<&Value>,
    subresource: &str,
) -> Result<(), Status> {
    if let (Operation::Delete, "", "namespaces", Some(old)) =
        (operation, kind.group, kind.plural, old)
    {
        let name = crate::object::name(old);
        if IMMORTAL.contains(&name) {
            return Err(Status::forbidden(
                "",
                "namespaces",
                name,
                "this namespace may not be deleted",
            ));
        }
    }
    let user = &context.user;
    node_restriction::validate(core, user, kind, operation, new, old, subresource).await?;
    limit_ranger::validate(core, kind, operation, new, subresource).await?;
    if let ("", "persistentvolumeclaims", "", Some(new), Some(old)) =
        (kind.group, kind.plural, subresource, new, old)
    {
        classes::resize(core, kind, new, old).await?;
    }
    pod_security::validate(core, context, kind, operation, new, old, subresource).await?;
    certificates::validate(core, user, kind, operation, new, old, subresource).await?;
    if operation != Operation::Delete && kind.group == "rbac.authorization.k8s.io" {
        privileges::validate(core, user, kind, new, old).await?;
    }
    Ok(())
}

/// Nothing is created in a namespace that does not exist or is going away.
async fn namespace_lifecycle(core: &Core, kind: &Kind, new: &Value) -> Result<(), Status> {
    if !kind.namespaced {
        return Ok(());
    }
    let name = text(new, &["metadata", "namespace"]);
    let entry = core
        .store
        .get(&format!("/registry/namespaces/{name}"))
        .await
        .map_err(crate::registry::store_status)?;
    let Some(entry) = entry else {
        return Err(Status::not_found("", "namespaces", name));
    };
    let namespace = crate::registry::codec::decode(&entry)?;
    if !is_deleting(&namespace) && text(&namespace, &["status", "phase"]) != "Terminating" {
        return Ok(());
    }
    // Reviews about what may be done there are still answered, events still written by who explains the deletion.
    let why =
        format!("unable to create new content in namespace {name} because it is being terminated");
    let status = Status::forbidden(kind.group, kind.plural, crate::object::name(new), why);
    Err(status.with_cause(
        "NamespaceTerminating",
        &format!("namespace {name} is being terminated"),
        "metadata.namespace",
    ))
}

/// TaintNodesByCondition: a new node gets no Pods until it says that it is ready.
fn taint_new_node(node: &mut Value) {
    const NOT_READY: &str = "node.kubernetes.io/not-ready";
    let spec = crate::object::child(node, "spec");
    let taints = spec
        .entry("taints")
        .or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(taints) = taints
        && !taints
            .iter()
            .any(|t| t["key"] == NOT_READY && t["effect"] == "NoSchedule")
    {
        taints.push(serde_json::json!({"key": NOT_READY, "effect": "NoSchedule"}));
    }
}
