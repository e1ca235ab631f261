//! What admission does to new Pods: ServiceAccount, Priority, DefaultTolerationSeconds.

use api::Status;
use serde_json::{Value, json};

use crate::Core;
use crate::object::{self, items, text};
use crate::registry::{codec, store_status};

/// Where containers find their token, the cluster's CA and their namespace.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const MIRROR: &str = "kubernetes.io/config.mirror";
const CONTAINER_LISTS: [&str; 2] = ["containers", "initContainers"];
/// Upstream's life of a mounted token: an hour, plus time to refresh it.
const TOKEN_SECONDS: i64 = 3607;

fn pod_forbidden(pod: &Value, why: impl std::fmt::Display) -> Status {
    Status::forbidden("", "pods", object::name(pod), why)
}

/// Gives the Pod its ServiceAccount, pull secrets and token volume.
pub async fn service_account(core: &Core, pod: &mut Value) -> Result<(), Status> {
    if object::at(pod, &["metadata", "annotations", MIRROR]).is_some() {
        return mirror(pod);
    }
    let namespace = text(pod, &["metadata", "namespace"]).to_owned();
    let spec = object::child(pod, "spec");
    let name = match spec.get("serviceAccountName").and_then(Value::as_str) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => "default".to_owned(),
    };
    spec.insert("serviceAccountName".into(), name.clone().into());
    spec.insert("serviceAccount".into(), name.clone().into());
    let key = format!("/registry/serviceaccounts/{namespace}/{name}");
    let entry = core.store.get(&key).await.map_err(store_status)?;
    let Some(entry) = entry else {
        let why = format!(
            "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"
        );
        return Err(pod_forbidden(pod, why));
    };
    let account = codec::decode(&entry)?;
    if items(pod, &["spec", "imagePullSecrets"]).is_empty() {
        let secrets = items(&account, &["imagePullSecrets"]);
        if !secrets.is_empty() {
            object::child(pod, "spec").insert("imagePullSecrets".into(), secrets.to_vec().into());
        }
    }
    let of_pod =
        object::at(pod, &["spec", "automountServiceAccountToken"]).and_then(Value::as_bool);
    let of_account = account["automountServiceAccountToken"].as_bool();
    if of_pod.or(of_account).unwrap_or(true) {
        mount_token(core, pod);
    }
    Ok(())
}

/// A mirror Pod stays as its kubelet wrote it, which has no right to what others keep.
fn mirror(pod: &Value) -> Result<(), Status> {
    let used = crate::authz::node::references(pod);
    let uses = |resource| used.iter().any(|(r, _)| *r == resource);
    if uses("serviceaccounts") {
        return Err(pod_forbidden(
            pod,
            "a mirror pod may not reference service accounts",
        ));
    }
    if uses("secrets") {
        return Err(pod_forbidden(pod, "a mirror pod may not reference secrets"));
    }
    let mut sources = items(pod, &["spec", "volumes"])
        .iter()
        .flat_map(|v| items(v, &["projected", "sources"]));
    if sources.any(|s| s["serviceAccountToken"].is_object()) {
        let why = "a mirror pod may not use service account token volume projections";
        return Err(pod_forbidden(pod, why));
    }
    Ok(())
}

fn mounts_token(container: &Value) -> bool {
    items(container, &["volumeMounts"])
        .iter()
        .any(|m| text(m, &["mountPath"]) == TOKEN_PATH)
}

fn mount_token(core: &Core, pod: &mut Value) {
    let lists = CONTAINER_LISTS
        .iter()
        .flat_map(|l| items(pod, &["spec", l]));
    if lists.clone().all(mounts_token) {
        return;
    }
    let existing = items(pod, &["spec", "volumes"])
        .iter()
        .map(|v| text(v, &["name"]))
        .find(|n| n.starts_with("kube-api-access-"))
        .map(str::to_owned);
    let name = existing.unwrap_or_else(|| {
        let name = format!("kube-api-access-{}", core.world.rng.suffix(5));
        let volume = json!({"name": name, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
            ]}},
        ]}});
        push(object::child(pod, "spec"), "volumes", volume);
        name
    });
    for list in CONTAINER_LISTS {
        let Some(Value::Array(containers)) = pod["spec"].get_mut(list) else {
            continue;
        };
        for container in containers.iter_mut().filter(|c| !mounts_token(c)) {
            let mount = json!({"name": name, "readOnly": true, "mountPath": TOKEN_PATH});
            if let Value::Object(container) = container {
                push(container, "volumeMounts", mount);
            }
        }
    }
}

fn push(map: &mut serde_json::Map<String, Value>, field: &str, item: Value) {
    let list = map.entry(field).or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(list) = list {
        list.push(item);
    } else {
        *list = Value::Array(vec![item]);
    }
}

/// Resolves the Pod's PriorityClass to its number and preemption policy.
pub async fn priority(core: &Core, pod: &mut Value) -> Result<(), Status> {
    const PREFIX: &str = "/registry/priorityclasses/";
    let name = text(pod, &["spec", "priorityClassName"]).to_owned();
    let class = if name.is_empty() {
        let range = core
            .store
            .range(PREFIX, None, None, 0)
            .await
            .map_err(store_status)?;
        let classes: Result<Vec<_>, _> = range.entries.iter().map(|e| codec::decode(e)).collect();
        // With several defaults, the lowest counts, as upstream.
        let defaults = classes?.into_iter().filter(|c| c["globalDefault"] == true);
        defaults.min_by_key(|c| c["value"].as_i64())
    } else {
        let entry = core
            .store
            .get(&format!("{PREFIX}{name}"))
            .await
            .map_err(store_status)?;
        match entry {
            Some(entry) => Some(codec::decode(&entry)?),
            None => {
                return Err(pod_forbidden(
                    pod,
                    format!("no PriorityClass with name {name} was found"),
                ));
            }
        }
    };
    let given = object::at(pod, &["spec", "priority"]).and_then(Value::as_i64);
    let value = class
        .as_ref()
        .map_or(0, |c| c["value"].as_i64().unwrap_or(0));
    if given.is_some_and(|g| g != value) {
        let why = "the integer value of priority must not be provided in pod spec; priority admission controller computed";
        return Err(pod_forbidden(
            pod,
            format!("{why} {value} from the given PriorityClass name"),
        ));
    }
    let spec = object::child(pod, "spec");
    spec.insert("priority".into(), value.into());
    let policy = class.as_ref().map_or("PreemptLowerPriority", |c| {
        c["preemptionPolicy"]
            .as_str()
            .unwrap_or("PreemptLowerPriority")
    });
    spec.entry("preemptionPolicy")
        .or_insert_with(|| policy.into());
    if let (true, Some(class)) = (name.is_empty(), &class) {
        spec.insert("priorityClassName".into(), object::name(class).into());
    }
    Ok(())
}

/// Pods stay five minutes on a node that is not ready or not reachable, unless they say otherwise.
pub fn default_tolerations(pod: &mut Value) {
    let keys = [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ];
    for key in keys {
        let tolerated = items(pod, &["spec", "tolerations"]).iter().any(|t| {
            let of_key = text(t, &["key"]) == key || text(t, &["key"]).is_empty();
            of_key && matches!(text(t, &["effect"]), "NoExecute" | "")
        });
        if !tolerated {
            let toleration = json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
            push(object::child(pod, "spec"), "tolerations", toleration);
        }
    }
}
