//! Whether a node is one that a Pod may run on, by `nodeSelector` and required node affinity.

use serde_json::Value;

fn items(v: &Value) -> &[Value] {
    v.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn requirement_matches(requirement: &Value, have: Option<&str>) -> bool {
    let values = items(&requirement["values"]);
    let listed = |h: &str| values.iter().any(|v| v == h);
    match requirement["operator"].as_str().unwrap_or_default() {
        "In" => have.is_some_and(listed),
        "NotIn" => !have.is_some_and(listed),
        "Exists" => have.is_some(),
        "DoesNotExist" => have.is_none(),
        operator @ ("Gt" | "Lt") => {
            let bound = values
                .first()
                .and_then(Value::as_str)
                .and_then(|v| v.parse::<i64>().ok());
            let (Some(have), Some(bound)) = (have.and_then(|h| h.parse::<i64>().ok()), bound)
            else {
                return false;
            };
            if operator == "Gt" {
                have > bound
            } else {
                have < bound
            }
        }
        _ => false,
    }
}

fn term_matches(term: &Value, labels: &Value, name: &str) -> bool {
    let expressions = items(&term["matchExpressions"]);
    let fields = items(&term["matchFields"]);
    // An empty term selects nothing.
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |r: &Value| {
        r["key"]
            .as_str()
            .and_then(|k| labels.get(k))
            .and_then(Value::as_str)
    };
    expressions.iter().all(|r| requirement_matches(r, label(r)))
        && fields
            .iter()
            .all(|r| r["key"] == "metadata.name" && requirement_matches(r, Some(name)))
}

/// A `NodeSelector`: any of its terms.
#[must_use]
pub fn node_selector_matches(selector: &Value, labels: &Value, name: &str) -> bool {
    items(&selector["nodeSelectorTerms"])
        .iter()
        .any(|t| term_matches(t, labels, name))
}

/// One preferred term's `preference`, for scoring.
#[must_use]
pub fn preference_matches(preference: &Value, labels: &Value, name: &str) -> bool {
    term_matches(preference, labels, name)
}

/// The required part of a Pod's node affinity (`spec.affinity`); true where there is none.
#[must_use]
pub fn node_affinity_matches(affinity: &Value, labels: &Value, name: &str) -> bool {
    match affinity["nodeAffinity"].get("requiredDuringSchedulingIgnoredDuringExecution") {
        Some(required) if !required.is_null() => node_selector_matches(required, labels, name),
        _ => true,
    }
}

/// `spec.nodeSelector` and the required node affinity of a Pod's spec against a node.
#[must_use]
pub fn node_matches_pod(spec: &Value, labels: &Value, name: &str) -> bool {
    let selected = spec["nodeSelector"]
        .as_object()
        .into_iter()
        .flatten()
        .all(|(k, v)| labels.get(k) == Some(v));
    selected && node_affinity_matches(&spec["affinity"], labels, name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn matching() {
        let labels = json!({"zone": "a", "n": "5"});
        let spec = |terms: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}});
        let one = |key: &str, op: &str, values: &[&str]| json!([{"matchExpressions": [{"key": key, "operator": op, "values": values}]}]);
        assert!(node_matches_pod(
            &spec(one("zone", "In", &["a"])),
            &labels,
            "n1"
        ));
        assert!(!node_matches_pod(
            &spec(one("zone", "NotIn", &["a"])),
            &labels,
            "n1"
        ));
        assert!(node_matches_pod(
            &spec(one("n", "Gt", &["4"])),
            &labels,
            "n1"
        ));
        assert!(!node_matches_pod(&spec(json!([{}])), &labels, "n1"));
        assert!(node_matches_pod(
            &spec(
                json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}])
            ),
            &labels,
            "n1"
        ));
        assert!(!node_matches_pod(
            &json!({"nodeSelector": {"zone": "b"}}),
            &labels,
            "n1"
        ));
    }
}
