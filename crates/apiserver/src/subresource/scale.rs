//! `scale`: the number of replicas of a workload, as `autoscaling/v1` Scale.

use api::Status;
use api::facts::Kind;
use serde_json::Value;

use crate::Core;
use crate::object::{self, text};
use crate::registry::managed::Tracking;
use crate::registry::{Context, WriteOptions, Written, apply};

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
        let scale = change(&strategy::scale_of(kind, current))?;
        let given = object::name(&scale);
        if given != name {
            return Err(Status::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
        let errors = strategy::validate_scale(&scale);
        if !errors.is_empty() {
            return Err(Status::invalid("autoscaling", "Scale", name, errors));
        }
        let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
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
    let options = WriteOptions {
        tracking: Tracking::Scale,
        ..options.clone()
    };
    let written = core
        .update(context, kind, namespace, name, "", &mut set, &options)
        .await?;
    shown(kind, written)
}

/// Applies a Scale.
///
/// # Errors
/// As [`Core::apply`].
pub async fn apply(
    core: &Core,
    context: &Context,
    kind: &'static Kind,
    namespace: &str,
    name: &str,
    body: &[u8],
    options: &WriteOptions,
) -> Result<Value, Status> {
    let config = apply::Config::of_scale(kind, namespace, name, body, options, context)?;
    let errors = strategy::validate_scale(&config.canonical);
    if !errors.is_empty() {
        return Err(Status::invalid("autoscaling", "Scale", name, errors));
    }
    let (written, _) = core
        .apply(context, kind, namespace, name, "scale", &config, options)
        .await?;
    shown(kind, written)
}

fn shown(kind: &Kind, written: Written) -> Result<Value, Status> {
    let object = match written {
        Written::Stored(entry) => crate::registry::codec::decode(&entry)?,
        Written::DryRun(value) => value,
    };
    Ok(strategy::scale_of(kind, &object))
}
