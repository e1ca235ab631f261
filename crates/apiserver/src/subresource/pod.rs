//! `pods/binding`: assigns a Pod to a node.

use api::Status;
use serde_json::{Value, json};

use crate::Core;
use crate::admission::classes;
use crate::object::{self, is_deleting, text};
use crate::registry::managed::Tracking;
use crate::registry::{Context, WriteOptions};

/// Assigns a Pod to a node, once.
///
/// # Errors
/// 409 when it is assigned or going away; 404.
pub async fn bind(
    core: &Core,
    context: &Context,
    namespace: &str,
    name: &str,
    binding: &Value,
    options: &WriteOptions,
) -> Result<(), Status> {
    let node = text(binding, &["target", "name"]);
    let target = text(binding, &["target", "kind"]);
    let mut errors = Vec::new();
    if !target.is_empty() && target != "Node" {
        errors.push(api::FieldError::not_supported(
            "target.kind",
            &target.into(),
            &["Node", "<empty>"],
        ));
    }
    if node.is_empty() {
        errors.push(api::FieldError::required("target.name", ""));
    }
    if !errors.is_empty() {
        return Err(Status::invalid("", "Binding", name, errors));
    }
    let kind = core.kind("", "v1", "pods")?;
    let now = api::time::seconds(core.world.now());
    let uid = text(binding, &["metadata", "uid"]);
    let place = classes::topology_labels(core, node).await?;
    let mut change = |current: &Value| {
        let conflict = |why: String| Err(Status::conflict("", "pods/binding", name, why));
        if !uid.is_empty() && uid != text(current, &["metadata", "uid"]) {
            let actual = text(current, &["metadata", "uid"]);
            return conflict(format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {actual}"
            ));
        }
        if is_deleting(current) {
            return conflict(format!(
                "pod {name} is being deleted, cannot be assigned to a host"
            ));
        }
        let assigned = text(current, &["spec", "nodeName"]);
        if !assigned.is_empty() {
            return conflict(format!(
                "pod {name} is already assigned to node \"{assigned}\""
            ));
        }
        if !object::items(current, &["spec", "schedulingGates"]).is_empty() {
            return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
        }
        let mut new = current.clone();
        object::metadata(&mut new).remove("resourceVersion");
        object::child(&mut new, "spec").insert("nodeName".into(), node.into());
        if let Value::Object(annotations) = &binding["metadata"]["annotations"] {
            for (key, value) in annotations {
                new["metadata"]["annotations"][key] = value.clone();
            }
        }
        for (label, value) in &place {
            new["metadata"]["labels"][label] = value.clone();
        }
        let scheduled = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
        let status = object::child(&mut new, "status");
        let conditions = status.entry("conditions").or_insert_with(|| json!([]));
        if let Value::Array(conditions) = conditions {
            conditions.retain(|c| c["type"] != "PodScheduled");
            conditions.push(scheduled.clone());
        }
        Ok(new)
    };
    let options = WriteOptions {
        tracking: Tracking::Untouched,
        ..options.clone()
    };
    core.update(
        context,
        kind,
        namespace,
        name,
        "binding",
        &mut change,
        &options,
    )
    .await
    .map(|_| ())
}
