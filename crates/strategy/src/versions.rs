//! Kinds that are served in two versions but stored in one: conversions between their forms.

use api::facts::{self, Kind};
use serde_json::{Map, Value, json};

use crate::event;
use crate::tree::{items, text};

/// Annotations in which `autoscaling/v1` keeps what it has no fields for.
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

/// The kind in whose form objects of `kind` are stored: itself for all but a few.
#[must_use]
pub fn stored_as(kind: &'static Kind) -> &'static Kind {
    let stored = match (kind.group, kind.version, kind.plural) {
        ("events.k8s.io", "v1", "events") => facts::kind("", "v1", "events"),
        ("autoscaling", "v1", "horizontalpodautoscalers") => {
            facts::kind("autoscaling", "v2", "horizontalpodautoscalers")
        }
        _ => None,
    };
    stored.unwrap_or(kind)
}

/// From the form of `kind` into that in which it is stored.
pub fn to_stored(kind: &'static Kind, object: &mut Value) {
    match (kind.group, kind.version) {
        ("events.k8s.io", _) => event::convert(object, true),
        ("autoscaling", "v1") => autoscaler_to_v2(object),
        _ => {}
    }
}

/// From the stored form into that of `kind`.
pub fn to_served(kind: &'static Kind, object: &mut Value) {
    match (kind.group, kind.version) {
        ("events.k8s.io", _) => event::convert(object, false),
        ("autoscaling", "v1") => autoscaler_to_v1(object),
        _ => {}
    }
}

/// The name that a field of `kind`'s form has in the stored form: what field selectors name.
#[must_use]
pub fn stored_field(kind: &Kind, field: &str) -> String {
    if kind.group != "events.k8s.io" {
        return field.to_owned();
    }
    match field.split_once('.') {
        Some(("regarding", rest)) => format!("involvedObject.{rest}"),
        _ if field == "reportingController" => "reportingComponent".into(),
        _ => field.to_owned(),
    }
}

fn take(object: &mut Value, path: &[&str], field: &str) -> Option<Value> {
    let at = path.iter().try_fold(object, |at, key| at.get_mut(*key))?;
    at.as_object_mut()?.remove(field).filter(|v| !v.is_null())
}

/// An annotation's JSON; none if it is absent or not what it should be.
fn take_annotation(object: &mut Value, name: &str) -> Option<Value> {
    let text = take(object, &["metadata", "annotations"], name)?;
    serde_json::from_str(text.as_str()?).ok()
}

/// What somebody wrote into an annotation, as `section`'s `field` in v2: without what v2 does not know, and nothing if a type
/// is wrong.
fn fitting(section: &str, field: &str, value: Value) -> Option<Value> {
    let kind = facts::kind("autoscaling", "v2", "horizontalpodautoscalers")?;
    let mut object = json!({section: {field: value}});
    let conformed = api::decode::conform(kind.ty, &mut object);
    let fits = conformed.errors.is_empty();
    take(&mut object, &[section], field).filter(|_| fits)
}

fn annotate(object: &mut Value, name: &str, value: &Value) {
    let empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    if !empty {
        object["metadata"]["annotations"][name] = value.to_string().into();
    }
}

/// What of a metric's or a value's fields has which name in v1 and in v2.
fn is_cpu_utilization(metric: &Value) -> bool {
    let resource = &metric["resource"];
    metric["type"] == "Resource"
        && resource["name"] == "cpu"
        && resource["target"]["averageUtilization"].is_i64()
}

fn autoscaler_to_v1(object: &mut Value) {
    for stale in [METRICS, BEHAVIOR, CURRENT_METRICS, CONDITIONS] {
        take(object, &["metadata", "annotations"], stale);
    }
    let metrics = take(object, &["spec"], "metrics").unwrap_or_default();
    let (cpu, others): (Vec<&Value>, Vec<&Value>) =
        items(&metrics).iter().partition(|m| is_cpu_utilization(m));
    if let Some(cpu) = cpu.first() {
        let target = cpu["resource"]["target"]["averageUtilization"].clone();
        object["spec"]["targetCPUUtilizationPercentage"] = target;
    }
    let others: Vec<Value> = others
        .into_iter()
        .map(|m| metric_to_v1(m, "target"))
        .collect();
    annotate(object, METRICS, &others.into());
    let behavior = take(object, &["spec"], "behavior").unwrap_or_default();
    annotate(object, BEHAVIOR, &behavior);
    let current = take(object, &["status"], "currentMetrics").unwrap_or_default();
    let is_cpu = |m: &&Value| m["type"] == "Resource" && m["resource"]["name"] == "cpu";
    let cpu = items(&current).iter().find(is_cpu);
    let utilization = cpu.map(|m| m["resource"]["current"]["averageUtilization"].clone());
    if let Some(utilization) = utilization.filter(Value::is_i64) {
        object["status"]["currentCPUUtilizationPercentage"] = utilization;
    }
    let current: Vec<Value> = items(&current)
        .iter()
        .map(|m| metric_to_v1(m, "current"))
        .collect();
    annotate(object, CURRENT_METRICS, &current.into());
    let conditions = take(object, &["status"], "conditions").unwrap_or_default();
    annotate(object, CONDITIONS, &conditions);
    // v2 leaves this out where it is 0.
    if object["status"].is_object() && object["status"]["currentReplicas"].is_null() {
        object["status"]["currentReplicas"] = 0.into();
    }
    object["apiVersion"] = "autoscaling/v1".into();
}

fn autoscaler_to_v2(object: &mut Value) {
    let metrics = take_annotation(object, METRICS)
        .and_then(|m| fitting("spec", "metrics", metrics_to_v2(&m, "target")))
        .unwrap_or_default();
    let mut metrics = items(&metrics).to_vec();
    if let Some(target) = take(object, &["spec"], "targetCPUUtilizationPercentage") {
        let cpu = json!({"type": "Resource", "resource": {
            "name": "cpu", "target": {"type": "Utilization", "averageUtilization": target},
        }});
        metrics.insert(0, cpu);
    }
    if !metrics.is_empty() {
        object["spec"]["metrics"] = metrics.into();
    }
    let behavior = take_annotation(object, BEHAVIOR);
    if let Some(behavior) = behavior.and_then(|b| fitting("spec", "behavior", b)) {
        object["spec"]["behavior"] = behavior;
    }
    // The raw values are in the annotation, so the percentage alone says less.
    let percentage = take(object, &["status"], "currentCPUUtilizationPercentage");
    let current = take_annotation(object, CURRENT_METRICS)
        .and_then(|m| fitting("status", "currentMetrics", metrics_to_v2(&m, "current")));
    match current {
        Some(current) => object["status"]["currentMetrics"] = current,
        None => {
            if let Some(percentage) = percentage {
                object["status"]["currentMetrics"] = json!([{"type": "Resource", "resource": {
                    "name": "cpu", "current": {"averageUtilization": percentage},
                }}]);
            }
        }
    }
    let conditions = take_annotation(object, CONDITIONS);
    if let Some(conditions) = conditions.and_then(|c| fitting("status", "conditions", c)) {
        object["status"]["conditions"] = conditions;
    }
    object["apiVersion"] = "autoscaling/v2".into();
}

/// Fields of a metric of each type in v1, by those of v2: `(type's field, v1 name, path in v2)`. `*` is `target` in a
/// spec and `current` in a status.
const FIELDS: [(&str, &str, &[&str]); 26] = [
    ("resource", "name", &["name"]),
    (
        "resource",
        "targetAverageUtilization",
        &["target", "averageUtilization"],
    ),
    (
        "resource",
        "targetAverageValue",
        &["target", "averageValue"],
    ),
    (
        "resource",
        "currentAverageUtilization",
        &["current", "averageUtilization"],
    ),
    (
        "resource",
        "currentAverageValue",
        &["current", "averageValue"],
    ),
    ("containerResource", "name", &["name"]),
    ("containerResource", "container", &["container"]),
    (
        "containerResource",
        "targetAverageUtilization",
        &["target", "averageUtilization"],
    ),
    (
        "containerResource",
        "targetAverageValue",
        &["target", "averageValue"],
    ),
    (
        "containerResource",
        "currentAverageUtilization",
        &["current", "averageUtilization"],
    ),
    (
        "containerResource",
        "currentAverageValue",
        &["current", "averageValue"],
    ),
    ("pods", "metricName", &["metric", "name"]),
    ("pods", "selector", &["metric", "selector"]),
    ("pods", "targetAverageValue", &["target", "averageValue"]),
    ("pods", "currentAverageValue", &["current", "averageValue"]),
    ("object", "metricName", &["metric", "name"]),
    ("object", "selector", &["metric", "selector"]),
    ("object", "target", &["describedObject"]),
    ("object", "targetValue", &["target", "value"]),
    ("object", "currentValue", &["current", "value"]),
    ("external", "metricName", &["metric", "name"]),
    ("external", "metricSelector", &["metric", "selector"]),
    ("external", "targetValue", &["target", "value"]),
    (
        "external",
        "targetAverageValue",
        &["target", "averageValue"],
    ),
    ("external", "currentValue", &["current", "value"]),
    (
        "external",
        "currentAverageValue",
        &["current", "averageValue"],
    ),
];

/// The field of a metric that its type names: `containerResource` of `ContainerResource`.
fn source_field(metric: &Value) -> String {
    let ty = text(&metric["type"]);
    let mut chars = ty.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(chars).collect()
}

fn fields(
    source: &str,
    side: &'static str,
) -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
    let other = if side == "target" {
        "current"
    } else {
        "target"
    };
    let source = source.to_owned();
    let of_source = FIELDS.iter().filter(move |(of, ..)| *of == source);
    of_source
        .filter(move |(_, _, path)| path[0] != other)
        .map(|(_, v1, v2)| (*v1, *v2))
}

fn metric_to_v1(metric: &Value, side: &'static str) -> Value {
    let field = source_field(metric);
    let source = &metric[&field];
    let mut out = Map::new();
    for (v1, v2) in fields(&field, side) {
        let value = v2.iter().try_fold(source, |at, key| at.get(*key));
        if let Some(value) = value.filter(|v| !v.is_null()) {
            out.insert(v1.into(), value.clone());
        }
    }
    // An object's average has the plain name in both.
    if field == "object" && source[side]["averageValue"].is_string() {
        out.insert("averageValue".into(), source[side]["averageValue"].clone());
    }
    json!({"type": metric["type"], field: out})
}

fn metrics_to_v2(metrics: &Value, side: &'static str) -> Value {
    let metrics = items(metrics).iter();
    metrics.map(|m| metric_to_v2(m, side)).collect()
}

fn metric_to_v2(metric: &Value, side: &'static str) -> Value {
    let field = source_field(metric);
    let source = &metric[&field];
    let mut out = json!({});
    for (v1, v2) in fields(&field, side) {
        let Some(value) = source.get(v1).filter(|v| !v.is_null()) else {
            continue;
        };
        let mut at = &mut out;
        for key in v2 {
            at = &mut at[*key];
        }
        *at = value.clone();
    }
    if field == "object" && source["averageValue"].is_string() {
        out[side]["averageValue"] = source["averageValue"].clone();
    }
    if side == "target" {
        let target = &out["target"];
        let ty = if target["averageUtilization"].is_i64() {
            "Utilization"
        } else if target["averageValue"].is_string() {
            "AverageValue"
        } else {
            "Value"
        };
        out["target"]["type"] = ty.into();
    }
    json!({"type": metric["type"], field: out})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_autoscaler_goes_to_v1_and_back() {
        let kind = facts::kind("autoscaling", "v1", "horizontalpodautoscalers").unwrap();
        let v2 = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "web", "annotations": {"a": "b"}},
            "spec": {
                "scaleTargetRef": {"kind": "Deployment", "name": "web"}, "minReplicas": 1, "maxReplicas": 5,
                "metrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}},
                    {"type": "Pods", "pods": {"metric": {"name": "qps"}, "target": {"type": "AverageValue", "averageValue": "1k"}}},
                    {"type": "Object", "object": {
                        "describedObject": {"kind": "Service", "name": "s"}, "metric": {"name": "hits"},
                        "target": {"type": "Value", "value": "10"},
                    }},
                ],
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 10}},
            },
            "status": {
                "currentReplicas": 2, "desiredReplicas": 3,
                "conditions": [{"type": "AbleToScale", "status": "True"}],
                "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 50, "averageValue": "50m"}}}],
            },
        });
        let mut object = v2.clone();
        to_served(kind, &mut object);
        assert_eq!(object["spec"]["targetCPUUtilizationPercentage"], 80);
        assert_eq!(object["status"]["currentCPUUtilizationPercentage"], 50);
        assert_eq!(
            object["metadata"]["annotations"][METRICS],
            r#"[{"pods":{"metricName":"qps","targetAverageValue":"1k"},"type":"Pods"},{"object":{"metricName":"hits","target":{"kind":"Service","name":"s"},"targetValue":"10"},"type":"Object"}]"#
        );
        to_stored(kind, &mut object);
        assert_eq!(object, v2);
    }

    #[test]
    fn of_what_a_client_wrote_into_annotations_only_what_fits_is_taken() {
        let kind = facts::kind("autoscaling", "v1", "horizontalpodautoscalers").unwrap();
        let mut object = json!({"metadata": {"annotations": {
            METRICS: r#"[{"type0": "Pods", "pods": 3}]"#,
            BEHAVIOR: r#""much""#,
            CONDITIONS: r#"[{"type": "AbleToScale", "color": "red"}]"#,
        }}, "spec": {"targetCPUUtilizationPercentage": 50}});
        to_stored(kind, &mut object);
        assert_eq!(object["spec"]["metrics"][0]["resource"]["name"], "cpu");
        assert!(object["spec"]["behavior"].is_null(), "{object}");
        assert_eq!(
            object["status"]["conditions"],
            json!([{"type": "AbleToScale"}])
        );
        assert!(
            api::decode::conform(stored_as(kind).ty, &mut object)
                .unknown
                .is_empty()
        );
    }

    #[test]
    fn field_selectors_are_renamed() {
        let kind = facts::kind("events.k8s.io", "v1", "events").unwrap();
        assert_eq!(stored_field(kind, "regarding.kind"), "involvedObject.kind");
        assert_eq!(stored_as(kind).group, "");
    }
}
