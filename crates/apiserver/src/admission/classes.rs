//! RuntimeClass, DefaultStorageClass, DefaultIngressClass, PersistentVolumeClaimResize, StorageObjectInUseProtection.
//!
//! Follows <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/>.

use api::Status;
use api::facts::Kind;
use rules::resources::parse;
use serde_json::{Value, json};

use crate::Core;
use crate::object::{self, at, items, text};
use crate::registry::{codec, store_status};

/// The object at a key, if there is one.
async fn find(core: &Core, key: &str) -> Result<Option<Value>, Status> {
    let entry = core.store.get(key).await.map_err(store_status)?;
    entry.map(|e| codec::decode(&e)).transpose()
}

/// Takes over what a Pod's RuntimeClass says of overhead and of nodes.
pub async fn runtime_class(core: &Core, pod: &mut Value) -> Result<(), Status> {
    let refuse = |pod: &Value, why: String| Status::forbidden("", "pods", object::name(pod), why);
    let name = text(pod, &["spec", "runtimeClassName"]).to_owned();
    let class = if name.is_empty() {
        None
    } else {
        let found = find(core, &format!("/registry/runtimeclasses/{name}")).await?;
        Some(found.ok_or_else(|| {
            refuse(
                pod,
                format!("pod rejected: RuntimeClass \"{name}\" not found"),
            )
        })?)
    };
    let class = class.unwrap_or_default();
    let (given, defined) = (&pod["spec"]["overhead"], &class["overhead"]["podFixed"]);
    if given.is_object() && parse(given) != parse(defined) {
        let why = if defined.is_object() {
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"
        } else {
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
        };
        return Err(refuse(pod, why.into()));
    }
    if defined.is_object() {
        object::child(pod, "spec").insert("overhead".into(), defined.clone());
    }
    let scheduling = &class["scheduling"];
    for (key, value) in scheduling["nodeSelector"].as_object().into_iter().flatten() {
        let selector = object::child(pod, "spec")
            .entry("nodeSelector")
            .or_insert_with(|| json!({}));
        let own = selector.get(key).cloned();
        if let Some(own) = own.filter(|own| own != value) {
            let show = |v: &Value| v.as_str().unwrap_or("").to_owned();
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                show(value),
                show(&own)
            );
            return Err(refuse(pod, why));
        }
        selector[key] = value.clone();
    }
    for toleration in items(scheduling, &["tolerations"]) {
        let tolerations = object::child(pod, "spec")
            .entry("tolerations")
            .or_insert_with(|| json!([]));
        if let Value::Array(list) = tolerations
            && !list.contains(toleration)
        {
            list.push(toleration.clone());
        }
    }
    Ok(())
}

/// The default among the objects under `prefix`: of several that say so, the newest, then the first by name.
async fn default_class(
    core: &Core,
    prefix: &str,
    annotations: &[&str],
) -> Result<Option<String>, Status> {
    let range = core.store.range(prefix, None, None, 0).await;
    let mut best: Option<(String, String)> = None;
    for entry in range.map_err(store_status)?.entries {
        let class = codec::decode(&entry)?;
        let said = &class["metadata"]["annotations"];
        if !annotations.iter().any(|a| said[*a] == "true") {
            continue;
        }
        let made = text(&class, &["metadata", "creationTimestamp"]).to_owned();
        if best.as_ref().is_none_or(|(newest, _)| made > *newest) {
            best = Some((made, object::name(&class).to_owned()));
        }
    }
    Ok(best.map(|(_, name)| name))
}

/// Gives a claim that names no class the default one.
pub async fn default_storage_class(core: &Core, claim: &mut Value) -> Result<(), Status> {
    const OLD: &str = "volume.beta.kubernetes.io/storage-class";
    let named = at(claim, &["spec", "storageClassName"]).is_some_and(|c| !c.is_null());
    if named || claim["metadata"]["annotations"].get(OLD).is_some() {
        return Ok(());
    }
    let annotations = [
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
    ];
    if let Some(class) = default_class(core, "/registry/storageclasses/", &annotations).await? {
        object::child(claim, "spec").insert("storageClassName".into(), class.into());
    }
    Ok(())
}

/// Gives an Ingress that names no class the default one.
pub async fn default_ingress_class(core: &Core, ingress: &mut Value) -> Result<(), Status> {
    const OLD: &str = "kubernetes.io/ingress.class";
    let named = at(ingress, &["spec", "ingressClassName"]).is_some_and(|c| !c.is_null());
    if named || ingress["metadata"]["annotations"].get(OLD).is_some() {
        return Ok(());
    }
    let annotations = ["ingressclass.kubernetes.io/is-default-class"];
    if let Some(class) = default_class(core, "/registry/ingressclasses/", &annotations).await? {
        object::child(ingress, "spec").insert("ingressClassName".into(), class.into());
    }
    Ok(())
}

/// Keeps a claim, a volume or an attributes class until nothing uses it: its controller takes the finalizer away.
pub fn protect(object: &mut Value, finalizer: &str) {
    let finalizers = object::metadata(object)
        .entry("finalizers")
        .or_insert_with(|| json!([]));
    if let Value::Array(list) = finalizers
        && !list.iter().any(|f| f == finalizer)
    {
        list.push(finalizer.into());
    }
}

/// A claim grows only if it is bound and its class says that volumes may.
pub async fn resize(core: &Core, kind: &Kind, new: &Value, old: &Value) -> Result<(), Status> {
    let size = |claim: &Value| {
        let requests = parse(&claim["spec"]["resources"]["requests"]);
        requests.get("storage").copied()
    };
    if size(new) <= size(old) {
        return Ok(());
    }
    let refuse = |why: &str| {
        Err(Status::forbidden(
            kind.group,
            kind.plural,
            object::name(new),
            why,
        ))
    };
    if text(old, &["status", "phase"]) != "Bound" {
        return refuse("Only bound persistent volume claims can be expanded");
    }
    let class = text(old, &["spec", "storageClassName"]);
    let found = find(core, &format!("/registry/storageclasses/{class}")).await?;
    if found.is_some_and(|c| c["allowVolumeExpansion"] == true) {
        return Ok(());
    }
    refuse(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
    )
}

/// The labels of a node's place, which its Pods get too (PodTopologyLabels, KEP-4742).
pub async fn topology_labels(core: &Core, node: &str) -> Result<Vec<(String, Value)>, Status> {
    const LABELS: [&str; 2] = [
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
    ];
    let Some(node) = find(core, &format!("/registry/minions/{node}")).await? else {
        return Ok(Vec::new());
    };
    let labels = &node["metadata"]["labels"];
    let found = LABELS
        .iter()
        .filter_map(|l| Some(((*l).to_owned(), labels.get(*l)?.clone())));
    Ok(found.collect())
}
