//! LimitRanger: fills in a namespace's default requests and limits, and refuses what is outside its bounds.
//!
//! Follows <https://kubernetes.io/docs/concepts/policy/limit-range/>.

use api::facts::Kind;
use api::{Quantity, Status};
use rules::resources::{Resources, parse};
use serde_json::{Value, json};

use super::Operation;
use crate::Core;
use crate::object::{self, items, text};
use crate::registry::{codec, store_status};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

async fn ranges(core: &Core, namespace: &str) -> Result<Vec<Value>, Status> {
    let prefix = format!("/registry/limitranges/{namespace}/");
    let range = core.store.range(&prefix, None, None, 0).await;
    let entries = range.map_err(store_status)?.entries;
    entries.iter().map(|e| codec::decode(e)).collect()
}

fn limits<'a>(range: &'a Value, ty: &'a str) -> impl Iterator<Item = &'a Value> {
    let limits = items(range, &["spec", "limits"]).iter();
    limits.filter(move |l| l["type"] == ty)
}

/// Gives a new Pod's containers the defaults of its namespace.
pub async fn default(core: &Core, pod: &mut Value) -> Result<(), Status> {
    let namespace = text(pod, &["metadata", "namespace"]).to_owned();
    for range in ranges(core, &namespace).await? {
        let mut told = Vec::new();
        for (list, what) in [
            ("containers", "container"),
            ("initContainers", "init container"),
        ] {
            let Some(Value::Array(containers)) = pod["spec"].get_mut(list) else {
                continue;
            };
            for container in containers {
                told.extend(fill(container, &range, what));
            }
        }
        if !told.is_empty() {
            let text = format!("LimitRanger plugin set: {}", told.join("; "));
            let metadata = object::metadata(pod);
            let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
            annotations[ANNOTATION] = text.into();
        }
    }
    Ok(())
}

/// Fills in one container; says what was set.
fn fill(container: &mut Value, range: &Value, what: &str) -> Vec<String> {
    let name = text(container, &["name"]).to_owned();
    let mut told = Vec::new();
    for (field, from, word) in [
        ("requests", "defaultRequest", "request"),
        ("limits", "default", "limit"),
    ] {
        let mut set = Vec::new();
        for limit in limits(range, "Container") {
            for (resource, amount) in limit[from].as_object().into_iter().flatten() {
                let resources = object::child(container, "resources");
                let amounts = resources.entry(field).or_insert_with(|| json!({}));
                if amounts.get(resource).is_none() {
                    amounts[resource] = amount.clone();
                    set.push(resource.clone());
                }
            }
        }
        if !set.is_empty() {
            set.sort();
            told.push(format!("{} {word} for {what} {name}", set.join(", ")));
        }
    }
    told
}

/// Refuses a Pod or claim outside the bounds of its namespace.
pub async fn validate(
    core: &Core,
    kind: &Kind,
    operation: Operation,
    new: Option<&Value>,
    subresource: &str,
) -> Result<(), Status> {
    let Some(new) = new else { return Ok(()) };
    let check: fn(&Value, &Value) -> Vec<String> = match (kind.plural, operation, subresource) {
        ("pods", Operation::Create, "") | ("pods", Operation::Update, "resize") => of_pod,
        ("persistentvolumeclaims", Operation::Create | Operation::Update, "") => of_claim,
        _ => return Ok(()),
    };
    for range in ranges(core, text(new, &["metadata", "namespace"])).await? {
        let errors = check(new, &range);
        if !errors.is_empty() {
            let why = match &errors[..] {
                [one] => one.clone(),
                many => format!("[{}]", many.join(", ")),
            };
            let name = object::name(new);
            return Err(Status::forbidden(kind.group, kind.plural, name, why));
        }
    }
    Ok(())
}

fn of_pod(pod: &Value, range: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    let amounts = |c: &Value, field: &str| parse(&c["resources"][field]);
    for limit in limits(range, "Container") {
        for list in ["containers", "initContainers"] {
            for container in items(pod, &["spec", list]) {
                let (requests, limits) =
                    (amounts(container, "requests"), amounts(container, "limits"));
                bounds("Container", limit, &requests, &limits, &mut errors);
            }
        }
    }
    for limit in limits(range, "Pod") {
        let whole = |field: &str| whole(pod, field);
        bounds(
            "Pod",
            limit,
            &whole("requests"),
            &whole("limits"),
            &mut errors,
        );
    }
    errors
}

/// What a Pod asks for as a whole: a resource counts where every container names it, or an init container needs more.
fn whole(pod: &Value, field: &str) -> Resources {
    let of = |c: &Value| parse(&c["resources"][field]);
    let containers: Vec<Resources> = items(pod, &["spec", "containers"]).iter().map(of).collect();
    let mut sum = Resources::new();
    for one in &containers {
        rules::resources::add(&mut sum, one);
    }
    sum.retain(|name, _| containers.iter().all(|c| c.contains_key(name)));
    for init in items(pod, &["spec", "initContainers"]) {
        for (name, amount) in of(init) {
            let entry = sum.entry(name).or_insert(amount);
            *entry = (*entry).max(amount);
        }
    }
    // What is set for the Pod as a whole goes before what its containers add up to.
    sum.extend(parse(&pod["spec"]["resources"][field]));
    sum
}

fn of_claim(claim: &Value, range: &Value) -> Vec<String> {
    let requests = parse(&claim["spec"]["resources"]["requests"]);
    let mut errors = Vec::new();
    let ty = "PersistentVolumeClaim";
    for limit in limits(range, ty) {
        for (name, least) in parse(&limit["min"]) {
            errors.extend(minimum(ty, &name, least, requests.get(&name), None));
        }
        for (name, most) in parse(&limit["max"]) {
            let head = format!("maximum {name} usage per {ty} is {most}");
            match requests.get(&name) {
                None => errors.push(format!("{head}.  No request is specified")),
                Some(request) if *request > most => {
                    errors.push(format!("{head}, but request is {request}"));
                }
                Some(_) => {}
            }
        }
    }
    errors
}

fn bounds(
    ty: &str,
    limit: &Value,
    requests: &Resources,
    limits: &Resources,
    errors: &mut Vec<String>,
) {
    for (name, least) in parse(&limit["min"]) {
        errors.extend(minimum(
            ty,
            &name,
            least,
            requests.get(&name),
            limits.get(&name),
        ));
    }
    for (name, most) in parse(&limit["max"]) {
        let head = format!("maximum {name} usage per {ty} is {most}");
        match (limits.get(&name), requests.get(&name)) {
            (None, _) => errors.push(format!("{head}.  No limit is specified")),
            (Some(limit), _) if *limit > most => {
                errors.push(format!("{head}, but limit is {limit}"));
            }
            (_, Some(request)) if *request > most => {
                errors.push(format!("{head}, but request is {request}"));
            }
            _ => {}
        }
    }
    for (name, most) in parse(&limit["maxLimitRequestRatio"]) {
        errors.extend(ratio(
            ty,
            &name,
            most,
            requests.get(&name),
            limits.get(&name),
        ));
    }
}

fn minimum(
    ty: &str,
    name: &str,
    least: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let head = format!("minimum {name} usage per {ty} is {least}");
    match (request, limit) {
        (None, _) => Some(format!("{head}.  No request is specified")),
        (Some(request), _) if *request < least => Some(format!("{head}, but request is {request}")),
        (_, Some(limit)) if *limit < least => Some(format!("{head}, but limit is {limit}")),
        _ => None,
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "upstream compares and shows the ratio as a float"
)]
fn ratio(
    ty: &str,
    name: &str,
    most: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let head = format!("{name} max limit to request ratio per {ty} is {most}, but");
    let Some(request) = request.filter(|q| !q.is_zero()) else {
        return Some(format!("{head} no request is specified or request is 0"));
    };
    let Some(limit) = limit.filter(|q| !q.is_zero()) else {
        return Some(format!("{head} no limit is specified or limit is 0"));
    };
    let ratio = limit.milli_value() as f64 / request.milli_value() as f64;
    let over = ratio * 1000.0 > most.milli_value() as f64;
    over.then(|| format!("{head} provided ratio is {ratio:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_gets_defaults_and_is_bounded() {
        let range = json!({"spec": {"limits": [{
            "type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m", "memory": "1Mi"},
            "max": {"cpu": "1"}, "min": {"memory": "2Mi"}, "maxLimitRequestRatio": {"cpu": "4"},
        }]}});
        let mut container = json!({"name": "c"});
        assert_eq!(
            fill(&mut container, &range, "container"),
            [
                "cpu, memory request for container c",
                "cpu limit for container c"
            ]
        );
        let pod = json!({"spec": {"containers": [container]}});
        assert_eq!(
            of_pod(&pod, &range),
            [
                "minimum memory usage per Container is 2Mi, but request is 1Mi",
                "cpu max limit to request ratio per Container is 4, but provided ratio is 5.000000",
            ]
        );
    }
}
