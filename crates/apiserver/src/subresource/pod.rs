//! Pods' subresources that are writes: `binding` and `eviction`.

use api::Status;
use serde_json::{Value, json};

use crate::Core;
use crate::object::{self, is_deleting, text};
use crate::registry::delete::DeleteOptions;
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

/// Deletes a Pod as politely as its disruption budgets ask.
///
/// # Errors
/// 429 when a budget has nothing left; else as a deletion.
pub async fn evict(
    core: &Core,
    context: &Context,
    namespace: &str,
    name: &str,
    eviction: &Value,
) -> Result<(), Status> {
    let kind = core.kind("", "v1", "pods")?;
    let pod = core.get_value(kind, namespace, name).await?;
    let ended = matches!(
        text(&pod, &["status", "phase"]),
        "Succeeded" | "Failed" | "Pending"
    );
    if !ended && !is_deleting(&pod) {
        budgets_allow(core, namespace, &pod).await?;
    }
    let given = &eviction["deleteOptions"];
    let body = if given.is_null() {
        String::new()
    } else {
        given.to_string()
    };
    let mut options = DeleteOptions::of(
        body.as_bytes(),
        crate::registry::codec::ContentType::Json,
        &crate::request::Query::default(),
    )?;
    options
        .uid
        .get_or_insert_with(|| text(&pod, &["metadata", "uid"]).to_owned());
    core.delete(context, kind, namespace, name, &options)
        .await
        .map(|_| ())
}

/// Checks the budgets that select the Pod. They are spent by the disruption controller's status.
async fn budgets_allow(core: &Core, namespace: &str, pod: &Value) -> Result<(), Status> {
    let Ok(kind) = core.kind("policy", "v1", "poddisruptionbudgets") else {
        return Ok(());
    };
    let prefix = crate::registry::key(kind, namespace, "");
    let range = core
        .store
        .range(&prefix, None, None, 0)
        .await
        .map_err(crate::registry::store_status)?;
    for entry in range.entries {
        let budget = crate::registry::codec::decode(&entry)?;
        let Ok(selector) = api::LabelSelector::from_json(&budget["spec"]["selector"]) else {
            continue;
        };
        if !selector.matches_labels(&pod["metadata"]["labels"]) {
            continue;
        }
        if budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(0) <= 0 {
            let name = object::name(&budget);
            let status = Status::too_many_requests(
                "Cannot evict pod as it would violate the pod's disruption budget.",
                10,
            );
            let needs = budget["status"]["desiredHealthy"].as_i64().unwrap_or(0);
            let has = budget["status"]["currentHealthy"].as_i64().unwrap_or(0);
            let why = format!(
                "The disruption budget {name} needs {needs} healthy pods and has {has} currently"
            );
            return Err(status.with_cause("DisruptionBudget", &why, ""));
        }
    }
    Ok(())
}
