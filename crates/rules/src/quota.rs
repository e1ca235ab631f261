//! What an object uses of a ResourceQuota: for admission, which charges it, and for the controller, which counts again.
//!
//! Follows <https://kubernetes.io/docs/concepts/policy/resource-quotas/>.

use std::collections::BTreeMap;

use api::Quantity;
use api::quantity::Format;
use serde_json::Value;

use crate::resources::{self, Resources};

/// `gold.storageclass.storage.k8s.io/requests.storage`: a claim's use by its class.
const BY_CLASS: &str = ".storageclass.storage.k8s.io/";

/// Amounts that every container must name when a quota bounds them.
const MUST_BE_NAMED: [&str; 6] = [
    "cpu",
    "limits.cpu",
    "limits.memory",
    "memory",
    "requests.cpu",
    "requests.memory",
];

fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    let found = path.iter().try_fold(object, |at, key| at.get(key));
    found.and_then(Value::as_str).unwrap_or("")
}

fn list<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object[key]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn count(n: usize) -> Quantity {
    Quantity::new(i64::try_from(n).unwrap_or(i64::MAX), Format::DecimalSi)
}

/// `count/deployments.apps`, `count/pods`: the amount that counts objects of a resource.
#[must_use]
pub fn object_count(group: &str, plural: &str) -> String {
    if group.is_empty() {
        format!("count/{plural}")
    } else {
        format!("count/{plural}.{group}")
    }
}

/// Core resources that also have an amount of their plain name.
fn has_plain_count(group: &str, plural: &str) -> bool {
    group.is_empty()
        && matches!(
            plural,
            "configmaps"
                | "persistentvolumeclaims"
                | "pods"
                | "replicationcontrollers"
                | "resourcequotas"
                | "secrets"
                | "services"
        )
}

/// What an object uses, by the names that a quota's `spec.hard` may have.
#[must_use]
pub fn usage(group: &str, plural: &str, object: &Value) -> Resources {
    let mut used = Resources::new();
    used.insert(object_count(group, plural), count(1));
    match (group, plural) {
        ("", "pods") if has_ended(object) => return used,
        ("", "pods") => of_pod(&object["spec"], &mut used),
        ("", "services") => of_service(&object["spec"], &mut used),
        ("", "persistentvolumeclaims") => of_claim(object, &mut used),
        _ => {}
    }
    if has_plain_count(group, plural) {
        used.insert(plural.to_owned(), count(1));
    }
    used
}

/// Whether a Pod gave back what it asked for. Upstream also lets go of one whose grace period is over; here it counts
/// until it is gone, since nothing is written when a time passes.
fn has_ended(pod: &Value) -> bool {
    matches!(text(pod, &["status", "phase"]), "Failed" | "Succeeded")
}

fn of_pod(spec: &Value, used: &mut Resources) {
    for (name, amount) in resources::requests(spec) {
        let native = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
        if native || name.starts_with("hugepages-") {
            used.insert(name.clone(), amount);
        }
        if native || name.starts_with("hugepages-") || is_extended(&name) {
            used.insert(format!("requests.{name}"), amount);
        }
    }
    for (name, amount) in resources::limits(spec) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            used.insert(format!("limits.{name}"), amount);
        }
    }
}

/// `example.com/gpu`: a resource of somebody else's domain.
fn is_extended(name: &str) -> bool {
    name.split_once('/')
        .is_some_and(|(domain, _)| !domain.ends_with("kubernetes.io") && !domain.is_empty())
}

fn of_service(spec: &Value, used: &mut Resources) {
    let ports = list(spec, "ports");
    let with_port = ports
        .iter()
        .filter(|p| p["nodePort"].as_i64().unwrap_or(0) != 0);
    let (node_ports, balancers) = match text(spec, &["type"]) {
        "NodePort" => (ports.len(), 0),
        "LoadBalancer" if spec["allocateLoadBalancerNodePorts"] == false => (with_port.count(), 1),
        "LoadBalancer" => (ports.len(), 1),
        _ => (0, 0),
    };
    used.insert("services.nodeports".into(), count(node_ports));
    used.insert("services.loadbalancers".into(), count(balancers));
}

fn of_claim(claim: &Value, used: &mut Resources) {
    let old_form = text(
        &claim["metadata"]["annotations"],
        &["volume.beta.kubernetes.io/storage-class"],
    );
    let class = match text(claim, &["spec", "storageClassName"]) {
        "" => old_form,
        class => class,
    };
    let amount = |of: &Value| of["storage"].as_str()?.parse::<Quantity>().ok();
    let asked = amount(&claim["spec"]["resources"]["requests"]);
    let allocated = amount(&claim["status"]["allocatedResources"]);
    let storage = asked.map(|asked| asked.max(allocated.unwrap_or(asked)));
    let mut add = |name: &str, amount: Quantity| {
        used.insert(name.to_owned(), amount);
        if !class.is_empty() {
            used.insert(format!("{class}{BY_CLASS}{name}"), amount);
        }
    };
    add("persistentvolumeclaims", count(1));
    if let Some(storage) = storage {
        let whole = Quantity::new(storage.value(), storage.format());
        add("requests.storage", whole);
    }
}

/// Whether the quota's amount `name` is about objects of this resource.
#[must_use]
pub fn is_about(name: &str, group: &str, plural: &str) -> bool {
    if name == object_count(group, plural) || has_plain_count(group, plural) && name == plural {
        return true;
    }
    match (group, plural) {
        ("", "pods") => {
            matches!(
                name,
                "cpu"
                    | "memory"
                    | "ephemeral-storage"
                    | "requests.cpu"
                    | "requests.memory"
                    | "requests.ephemeral-storage"
                    | "limits.cpu"
                    | "limits.memory"
                    | "limits.ephemeral-storage"
            ) || name.starts_with("hugepages-")
                || name.starts_with("requests.hugepages-")
                || name.strip_prefix("requests.").is_some_and(is_extended)
        }
        ("", "services") => matches!(name, "services.nodeports" | "services.loadbalancers"),
        ("", "persistentvolumeclaims") => {
            let plain = name.split_once(BY_CLASS).map_or(name, |(_, plain)| plain);
            matches!(plain, "persistentvolumeclaims" | "requests.storage")
        }
        _ => false,
    }
}

/// Whether the object is in all of the quota's scopes.
#[must_use]
pub fn in_scope(quota: &Value, group: &str, plural: &str, object: &Value) -> bool {
    let scopes = list(&quota["spec"], "scopes").iter();
    let simple = scopes.map(|s| (s.as_str().unwrap_or(""), "Exists", &[][..]));
    let expressions = list(&quota["spec"]["scopeSelector"], "matchExpressions").iter();
    let expressions = expressions.map(|e| {
        let (scope, operator) = (text(e, &["scopeName"]), text(e, &["operator"]));
        (scope, operator, list(e, "values"))
    });
    simple.chain(expressions).all(|(scope, operator, values)| {
        match (group, plural) {
            ("", "pods") => pod_in_scope(object, scope, operator, values),
            ("", "persistentvolumeclaims") if scope == "VolumeAttributesClass" => {
                let class = text(object, &["spec", "volumeAttributesClassName"]);
                selects(class, operator, values)
            }
            // Objects of other resources are in no scope.
            _ => false,
        }
    })
}

fn selects(value: &str, operator: &str, values: &[Value]) -> bool {
    let named = values.iter().any(|v| v == value);
    match operator {
        "Exists" => !value.is_empty(),
        "DoesNotExist" => value.is_empty(),
        "In" => named && !value.is_empty(),
        "NotIn" => !named,
        _ => false,
    }
}

fn pod_in_scope(pod: &Value, scope: &str, operator: &str, values: &[Value]) -> bool {
    let spec = &pod["spec"];
    let terminating = spec["activeDeadlineSeconds"]
        .as_i64()
        .is_some_and(|s| s >= 0);
    let best_effort = || resources::qos_class(spec) == "BestEffort";
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => selects(text(spec, &["priorityClassName"]), operator, values),
        "CrossNamespacePodAffinity" => crosses_namespaces(spec),
        _ => false,
    }
}

fn crosses_namespaces(spec: &Value) -> bool {
    let crosses = |term: &Value| {
        !list(term, "namespaces").is_empty() || term["namespaceSelector"].is_object()
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|side| {
        let affinity = &spec["affinity"][*side];
        let required = list(affinity, "requiredDuringSchedulingIgnoredDuringExecution");
        let preferred = list(affinity, "preferredDuringSchedulingIgnoredDuringExecution");
        required.iter().any(crosses) || preferred.iter().any(|p| crosses(&p["podAffinityTerm"]))
    })
}

/// What a Pod's containers leave open although the quota bounds it: `must specify limits.cpu for: a,b; …`.
#[must_use]
pub fn unnamed<'a>(spec: &Value, bounded: impl Iterator<Item = &'a String>) -> Option<String> {
    // What is set for the whole Pod need not be said by each container.
    if spec["resources"].is_object() {
        return None;
    }
    let mut open: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in bounded.filter(|n| MUST_BE_NAMED.contains(&n.as_str())) {
        let (field, resource) = match name.split_once('.') {
            Some((field, resource)) => (field, resource),
            None => ("requests", name.as_str()),
        };
        for containers in ["containers", "initContainers"] {
            for container in list(spec, containers) {
                if container["resources"][field].get(resource).is_none() {
                    open.entry(name)
                        .or_default()
                        .push(text(container, &["name"]));
                }
            }
        }
    }
    let told: Vec<String> = open
        .into_iter()
        .map(|(name, mut who)| {
            who.sort_unstable();
            format!("{name} for: {}", who.join(","))
        })
        .collect();
    (!told.is_empty()).then(|| format!("must specify {}", told.join("; ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(used: &Resources) -> String {
        let parts: Vec<String> = used.iter().map(|(k, v)| format!("{k}={v}")).collect();
        parts.join(",")
    }

    #[test]
    fn what_things_use() {
        let pod = json!({"spec": {"containers": [{"name": "a", "resources": {
            "requests": {"cpu": "100m", "example.com/gpu": "1"}, "limits": {"cpu": "1", "memory": "1Gi"},
        }}]}});
        assert_eq!(
            shown(&usage("", "pods", &pod)),
            "count/pods=1,cpu=100m,limits.cpu=1,limits.memory=1Gi,pods=1,requests.cpu=100m,requests.example.com/gpu=1"
        );
        let done = json!({"status": {"phase": "Succeeded"}, "spec": pod["spec"]});
        assert_eq!(shown(&usage("", "pods", &done)), "count/pods=1");
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [{}, {}]}});
        assert_eq!(
            shown(&usage("", "services", &service)),
            "count/services=1,services=1,services.loadbalancers=1,services.nodeports=2"
        );
        let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}});
        assert_eq!(
            shown(&usage("", "persistentvolumeclaims", &claim)),
            "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,\
             gold.storageclass.storage.k8s.io/requests.storage=1Gi,persistentvolumeclaims=1,requests.storage=1Gi"
        );
        assert_eq!(
            shown(&usage("apps", "deployments", &json!({}))),
            "count/deployments.apps=1"
        );
    }

    #[test]
    fn scopes() {
        let quota = |scopes: Value| json!({"spec": {"scopes": scopes}});
        let pod = json!({"spec": {"containers": [{}], "priorityClassName": "high"}});
        let within = |scopes: Value| in_scope(&quota(scopes), "", "pods", &pod);
        assert!(within(json!(["BestEffort", "NotTerminating"])));
        assert!(!within(json!(["NotBestEffort"])));
        let by_class = json!({"spec": {"scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]},
        ]}}});
        assert!(in_scope(&by_class, "", "pods", &pod));
        assert!(!in_scope(&by_class, "", "services", &json!({})));
    }

    #[test]
    fn what_must_be_named() {
        let spec = json!({"containers": [{"name": "b"}, {"name": "a", "resources": {"limits": {"cpu": "1"}}}]});
        let bounded = ["limits.cpu", "memory", "pods"].map(str::to_owned);
        assert_eq!(
            unnamed(&spec, bounded.iter()).unwrap(),
            "must specify limits.cpu for: b; memory for: a,b"
        );
    }
}
