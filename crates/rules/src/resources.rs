//! How much a Pod asks for, and its quality of service class.
//!
//! Follows <https://kubernetes.io/docs/concepts/workloads/pods/init-containers/#resource-sharing-within-containers> and
//! KEP-753 (sidecars): restartable init containers keep running beside everything that starts after them.

use std::collections::BTreeMap;

use api::Quantity;
use serde_json::Value;

/// Amounts by resource name.
pub type Resources = BTreeMap<String, Quantity>;

/// A `resources.requests`, `capacity` or `allocatable` map; entries that are no quantities are left out.
#[must_use]
pub fn parse(map: &Value) -> Resources {
    map.as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, amount)| Some((name.clone(), amount.as_str()?.parse().ok()?)))
        .collect()
}

/// Adds `more` to `sum`.
pub fn add(sum: &mut Resources, more: &Resources) {
    for (name, amount) in more {
        *sum.entry(name.clone()).or_insert(Quantity::ZERO) += *amount;
    }
}

fn raise(most: &mut Resources, other: &Resources) {
    for (name, amount) in other {
        let entry = most.entry(name.clone()).or_insert(*amount);
        if *amount > *entry {
            *entry = *amount;
        }
    }
}

fn list<'a>(spec: &'a Value, key: &str) -> &'a [Value] {
    spec[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn is_sidecar(init: &Value) -> bool {
    init["restartPolicy"] == "Always"
}

fn total(spec: &Value, which: &str) -> Resources {
    let of = |container: &Value| parse(&container["resources"][which]);
    let mut running = Resources::new();
    for container in list(spec, "containers") {
        add(&mut running, &of(container));
    }
    // While init containers run one after the other, the sidecars started so far run beside them.
    let (mut sidecars, mut peak) = (Resources::new(), Resources::new());
    for init in list(spec, "initContainers") {
        let mut now = of(init);
        if is_sidecar(init) {
            add(&mut running, &now);
            add(&mut sidecars, &now);
            now = sidecars.clone();
        } else {
            add(&mut now, &sidecars);
        }
        raise(&mut peak, &now);
    }
    raise(&mut running, &peak);
    // What is set for the Pod as a whole goes before what its containers add up to.
    for (name, amount) in parse(&spec["resources"][which]) {
        running.insert(name, amount);
    }
    running
}

/// What a Pod (its `spec`) asks the scheduler for, overhead included.
#[must_use]
pub fn requests(spec: &Value) -> Resources {
    let mut out = total(spec, "requests");
    add(&mut out, &parse(&spec["overhead"]));
    out
}

/// What a Pod may use at most; a resource that some container leaves open is still summed over the others.
#[must_use]
pub fn limits(spec: &Value) -> Resources {
    let mut out = total(spec, "limits");
    for (name, amount) in parse(&spec["overhead"]) {
        if let Some(limit) = out.get_mut(&name).filter(|l| !l.is_zero()) {
            *limit += amount;
        }
    }
    out
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
#[must_use]
pub fn qos_class(spec: &Value) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    let pod_level = &spec["resources"];
    let whole: Vec<&Value> = if pod_level["requests"].is_object() || pod_level["limits"].is_object()
    {
        vec![spec]
    } else {
        list(spec, "containers")
            .iter()
            .chain(list(spec, "initContainers"))
            .collect()
    };
    for container in whole {
        let requests = parse(&container["resources"]["requests"]);
        let limits = parse(&container["resources"]["limits"]);
        for name in ["cpu", "memory"] {
            let request = requests.get(name).filter(|q| !q.is_zero());
            let limit = limits.get(name).filter(|q| !q.is_zero());
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn init_containers_and_sidecars() {
        let cpu = |q: &str| json!({"requests": {"cpu": q}});
        let spec = json!({
            "containers": [{"resources": cpu("1")}, {"resources": cpu("500m")}],
            "initContainers": [
                {"resources": cpu("200m"), "restartPolicy": "Always"},
                {"resources": cpu("2")},
            ],
            "overhead": {"cpu": "100m"},
        });
        assert_eq!(requests(&spec)["cpu"].to_string(), "2300m");
    }

    #[test]
    fn classes() {
        assert_eq!(qos_class(&json!({"containers": [{}]})), "BestEffort");
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(
            qos_class(&json!({"containers": [{"resources": {"limits": both, "requests": both}}]})),
            "Guaranteed"
        );
        assert_eq!(
            qos_class(&json!({"containers": [{"resources": {"limits": both}}]})),
            "Guaranteed"
        );
        assert_eq!(
            qos_class(&json!({"containers": [{"resources": {"limits": both}}, {}]})),
            "Burstable"
        );
    }
}
