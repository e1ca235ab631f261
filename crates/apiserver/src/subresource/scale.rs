//! `scale`: the number of replicas of a workload, as `autoscaling/v1` Scale.

use api::facts::Kind;
use api::{LabelSelector, Status};
use serde_json::{Value, json};

use crate::Core;
use crate::object::{self, text};
use crate::registry::{Context, WriteOptions, Written};

/// The Scale of a workload.
#[must_use]
pub fn of(kind: &Kind, object: &Value) -> Value {
    let metadata = &object["metadata"];
    let mut kept = json!({});
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        kept[field] = metadata[field].clone();
    }
    let selector = &object["spec"]["selector"];
    let selector = if kind.plural == "replicationcontrollers" {
        LabelSelector::from_map(selector)
    } else {
        LabelSelector::from_json(selector)
    };
    let mut status = json!({"replicas": object["status"]["replicas"].as_i64().unwrap_or(0)});
    if let Ok(selector) = selector {
        status["selector"] = selector.to_string().into();
    }
    let mut spec = json!({});
    if let Some(replicas) = object["spec"]["replicas"].as_i64()
        && replicas != 0
    {
        spec["replicas"] = replicas.into();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": kept, "spec": spec, "status": status})
}

/// Sets the replicas of a workload to those of the Scale that `change` makes of the current one.
///
/// # Errors
/// 422 for negative replicas; else as an update.
pub async fn update(
    core: &Core,
    context: &Context,
    kind: &'static Kind,
    namespace: &str,
    name: &str,
    change: &mut (dyn FnMut(&Value) -> Result<Value, Status> + Send),
    options: &WriteOptions,
) -> Result<Value, Status> {
    let mut set = |current: &Value| {
        let scale = change(&of(kind, current))?;
        let given = object::name(&scale);
        if given != name {
            return Err(Status::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
        let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        if replicas < 0 {
            let error = api::FieldError::invalid(
                "spec.replicas",
                &replicas.into(),
                "must be greater than or equal to 0",
            );
            return Err(Status::invalid("autoscaling", "Scale", name, vec![error]));
        }
        let mut new = current.clone();
        new["spec"]["replicas"] = replicas.into();
        for precondition in ["resourceVersion", "uid"] {
            let value = text(&scale, &["metadata", precondition]).to_owned();
            if !value.is_empty() {
                object::metadata(&mut new).insert(precondition.into(), value.into());
            } else if precondition == "resourceVersion" {
                object::metadata(&mut new).remove(precondition);
            }
        }
        Ok(new)
    };
    let written = core
        .update(context, kind, namespace, name, "", &mut set, options)
        .await?;
    let object = match written {
        Written::Stored(entry) => crate::registry::codec::decode(&entry)?,
        Written::DryRun(value) => value,
    };
    Ok(of(kind, &object))
}
