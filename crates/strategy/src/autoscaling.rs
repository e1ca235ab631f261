//! HorizontalPodAutoscalers, as `autoscaling/v2` has them.
//!
//! Follows upstream's `pkg/apis/autoscaling`: `v2/defaults.go` and `validation`.

use api::{FieldError, Quantity, names};
use serde_json::{Value, json};

use crate::tree::{age, int, invalid_all, items, name, object, set, set_default, text};
use crate::workload::none_negative;
use crate::{AGE, Errors, NAME, Strategy, column};

fn default(o: &mut Value) {
    let Some(spec) = object(o, "spec") else {
        return;
    };
    set_default(spec, "minReplicas", 1);
    if items(&spec["metrics"]).is_empty() {
        let cpu = json!([{"type": "Resource", "resource": {
            "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80},
        }}]);
        set(spec, "metrics", cpu);
    }
    if let Some(behavior) = spec.get_mut("behavior").filter(|b| b.is_object()) {
        let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
        let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
        default_rules(behavior, "scaleUp", json!([pods, percent.clone()]));
        if let Some(up) = object(behavior, "scaleUp") {
            set_default(up, "stabilizationWindowSeconds", 0);
        }
        // How long to wait before scaling down is the controller's own setting.
        default_rules(behavior, "scaleDown", json!([percent]));
    }
}

fn default_rules(behavior: &mut Value, direction: &str, policies: Value) {
    if let Some(rules) = object(behavior, direction) {
        set_default(rules, "selectPolicy", "Max");
        set_default(rules, "policies", policies);
    }
}

fn validate(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    let most = &spec["maxReplicas"];
    if int(most) < 1 {
        let detail = "must be greater than 0";
        errors.push(FieldError::invalid(
            "spec.maxReplicas",
            &int(most).into(),
            detail,
        ));
    }
    if spec["minReplicas"]
        .as_i64()
        .is_some_and(|least| int(most) < least)
    {
        let detail = "must be greater than or equal to `minReplicas`";
        errors.push(FieldError::invalid(
            "spec.maxReplicas",
            &int(most).into(),
            detail,
        ));
    }
    validate_reference(&spec["scaleTargetRef"], "spec.scaleTargetRef", errors);
    for (i, metric) in items(&spec["metrics"]).iter().enumerate() {
        validate_metric(metric, &format!("spec.metrics[{i}]"), errors);
    }
    for direction in ["scaleUp", "scaleDown"] {
        let rules = &spec["behavior"][direction];
        if rules.is_object() {
            validate_rules(rules, &format!("spec.behavior.{direction}"), errors);
        }
    }
    let scales_to_zero = spec["minReplicas"] == 0;
    let from_outside = |m: &Value| matches!(text(&m["type"]), "Object" | "External");
    if scales_to_zero && !items(&spec["metrics"]).iter().any(from_outside) {
        let detail = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.push(FieldError::forbidden("spec.metrics", detail));
    }
}

/// The least number of Pods is 1, but one that is 0 already may stay so.
fn validate_least(o: &Value, lowest: i64, errors: &mut Errors) {
    let least = &o["spec"]["minReplicas"];
    if least.as_i64().is_some_and(|n| n < lowest) {
        let detail = format!("must be greater than or equal to {lowest}");
        errors.push(FieldError::invalid("spec.minReplicas", least, detail));
    }
}

fn path_segment(v: &Value, path: &str, required: &str, errors: &mut Errors) {
    let value = text(v);
    if value.is_empty() {
        errors.push(FieldError::required(path, required));
    } else {
        invalid_all(path, value, names::path_segment(value), errors);
    }
}

fn validate_reference(reference: &Value, path: &str, errors: &mut Errors) {
    for key in ["kind", "name"] {
        path_segment(&reference[key], &format!("{path}.{key}"), "", errors);
    }
}

/// The types of metrics with the field of each, in the order in which upstream looks at them.
const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

fn validate_metric(metric: &Value, path: &str, errors: &mut Errors) {
    let ty = text(&metric["type"]);
    let expected = SOURCES.iter().find(|(name, _)| *name == ty);
    if ty.is_empty() {
        errors.push(FieldError::required(
            format!("{path}.type"),
            "must specify a metric source type",
        ));
    }
    let present: Vec<&str> = SOURCES
        .iter()
        .map(|(_, field)| *field)
        .filter(|field| metric[*field].is_object())
        .collect();
    if let Some(first) = present.first() {
        validate_source(first, &metric[*first], &format!("{path}.{first}"), errors);
    }
    match expected {
        None => {
            let types = [
                "ContainerResource",
                "External",
                "Object",
                "Pods",
                "Resource",
            ];
            // Upstream looks at the type twice, and says so twice.
            for _ in 0..2 {
                let bad = ty.into();
                errors.push(FieldError::not_supported(
                    format!("{path}.type"),
                    &bad,
                    &types,
                ));
            }
        }
        Some((_, field)) if !present.contains(field) => {
            let detail = "must populate information for the given metric source";
            errors.push(FieldError::required(format!("{path}.{field}"), detail));
        }
        Some(_) => {}
    }
    if present.len() != 1 {
        let wanted = expected.map_or("", |(_, field)| field);
        for field in present.into_iter().filter(|f| *f != wanted) {
            let detail = "must populate the given metric source only";
            errors.push(FieldError::forbidden(format!("{path}.{field}"), detail));
        }
    }
}

fn validate_source(field: &str, source: &Value, path: &str, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    match field {
        "resource" => {
            if text(&source["name"]).is_empty() {
                errors.push(FieldError::required(
                    at("name"),
                    "must specify a resource name",
                ));
            }
        }
        "containerResource" => {
            validate_container_resource(&source["name"], &at("name"), errors);
            let container = text(&source["container"]);
            if container.is_empty() {
                let detail = "must specify a container";
                errors.push(FieldError::required(at("container"), detail));
            } else {
                let wrong = names::dns1123_label(container);
                invalid_all(&at("container"), container, wrong, errors);
            }
        }
        _ => {
            if field == "object" {
                validate_reference(&source["describedObject"], &at("describedObject"), errors);
            }
            let name = &source["metric"]["name"];
            path_segment(
                name,
                &at("metric.name"),
                "must specify a metric name",
                errors,
            );
        }
    }
    validate_target(&source["target"], &at("target"), errors);
    validate_target_of(field, &source["target"], &at("target"), errors);
}

/// Resources without a domain that are known, if not of containers.
const STANDARD: [&str; 15] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];

fn validate_container_resource(name: &Value, path: &str, errors: &mut Errors) {
    let name = text(name);
    if name.is_empty() {
        errors.push(FieldError::required(path, "must specify a resource name"));
        return;
    }
    let of_containers =
        matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    let mut wrong = names::qualified_name(name);
    if name.contains('/') {
        let native = name.contains("kubernetes.io/");
        if !native && name.starts_with("requests.") {
            wrong.push("doesn't follow extended resource name standard".into());
        }
    } else {
        if wrong.is_empty() && !of_containers && !STANDARD.contains(&name) {
            wrong.push("must be a standard resource type or fully qualified".into());
        }
        if !of_containers {
            wrong.push("must be a standard resource for containers".into());
        }
    }
    invalid_all(path, name, wrong, errors);
}

fn validate_target(target: &Value, path: &str, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    let ty = text(&target["type"]);
    if ty.is_empty() {
        let detail = "must specify a metric target type";
        errors.push(FieldError::required(at("type"), detail));
    }
    if !matches!(ty, "Utilization" | "Value" | "AverageValue") {
        let detail = "must be either Utilization, Value, or AverageValue";
        errors.push(FieldError::invalid_str(at("type"), ty, detail));
    }
    for key in ["value", "averageValue"] {
        let amount = target[key]
            .as_str()
            .and_then(|s| s.parse::<Quantity>().ok());
        if amount.is_some_and(|q| q.sign() != 1) {
            errors.push(FieldError::invalid(
                at(key),
                &target[key],
                "must be positive",
            ));
        }
    }
    let utilization = &target["averageUtilization"];
    if utilization.as_i64().is_some_and(|n| n < 1) {
        let detail = "must be greater than 0";
        errors.push(FieldError::invalid(
            at("averageUtilization"),
            utilization,
            detail,
        ));
    }
}

/// What a source's target must have, and what it must not.
fn validate_target_of(field: &str, target: &Value, path: &str, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    let has = |key: &str| !target[key].is_null();
    let mut required = |key: &str, detail: &str| errors.push(FieldError::required(at(key), detail));
    match field {
        "pods" if !has("averageValue") => required(
            "averageValue",
            "must specify a positive target averageValue",
        ),
        "object" if !has("value") && !has("averageValue") => required(
            "averageValue",
            "must set either a target value or averageValue",
        ),
        "external" if !has("value") && !has("averageValue") => required(
            "averageValue",
            "must set either a target value for metric or a per-pod target",
        ),
        "external" if has("value") && has("averageValue") => {
            let detail = "may not set both a target value for metric and a per-pod target";
            errors.push(FieldError::forbidden(at("value"), detail));
        }
        "resource" | "containerResource" => {
            match (has("averageUtilization"), has("averageValue")) {
                (false, false) => required(
                    "averageUtilization",
                    "must set either a target raw value or a target utilization",
                ),
                (true, true) => {
                    let detail = "may not set both a target raw value and a target utilization";
                    errors.push(FieldError::forbidden(at("averageValue"), detail));
                }
                _ => {}
            }
        }
        _ => {}
    }
}

fn validate_rules(rules: &Value, path: &str, errors: &mut Errors) {
    const LONGEST_WINDOW: i64 = 3600;
    let at = |key: &str| format!("{path}.{key}");
    let window = &rules["stabilizationWindowSeconds"];
    if int(window) < 0 {
        let detail = "must be greater than or equal to zero";
        errors.push(FieldError::invalid(
            at("stabilizationWindowSeconds"),
            window,
            detail,
        ));
    } else if int(window) > LONGEST_WINDOW {
        let detail = format!("must be less than or equal to {LONGEST_WINDOW}");
        errors.push(FieldError::invalid(
            at("stabilizationWindowSeconds"),
            window,
            detail,
        ));
    }
    let choices = ["Disabled", "Max", "Min"];
    crate::tree::one_of(
        &rules["selectPolicy"],
        &at("selectPolicy"),
        &choices,
        errors,
    );
    let policies = items(&rules["policies"]);
    if policies.is_empty() {
        let detail = "must specify at least one Policy";
        errors.push(FieldError::required(at("policies"), detail));
    }
    for (i, policy) in policies.iter().enumerate() {
        validate_policy(policy, &format!("{path}.policies[{i}]"), errors);
    }
    let tolerance = rules["tolerance"]
        .as_str()
        .and_then(|s| s.parse::<Quantity>().ok());
    if tolerance.is_some_and(|q| q.milli_value() < 0) {
        let detail = "must be greater or equal to zero";
        errors.push(FieldError::invalid(
            at("tolerance"),
            &rules["tolerance"],
            detail,
        ));
    }
}

fn validate_policy(policy: &Value, path: &str, errors: &mut Errors) {
    const LONGEST_PERIOD: i64 = 1800;
    let at = |key: &str| format!("{path}.{key}");
    let ty = text(&policy["type"]);
    if !matches!(ty, "Pods" | "Percent") {
        let types = ["Percent", "Pods"];
        errors.push(FieldError::not_supported(at("type"), &ty.into(), &types));
    }
    for key in ["value", "periodSeconds"] {
        let value = int(&policy[key]);
        if value <= 0 {
            let detail = "must be greater than zero";
            errors.push(FieldError::invalid(at(key), &value.into(), detail));
        }
    }
    let period = &policy["periodSeconds"];
    if int(period) > LONGEST_PERIOD {
        let detail = format!("must be less than or equal to {LONGEST_PERIOD}");
        errors.push(FieldError::invalid(at("periodSeconds"), period, detail));
    }
}

/// One metric in the `Targets` column: what is, and what should be.
fn show_metric(metric: &Value, current: &Value) -> String {
    const UNKNOWN: &str = "<unknown>";
    let Some((ty, field)) = SOURCES.iter().find(|(ty, _)| metric["type"] == *ty) else {
        return "<unknown type>".into();
    };
    let (target, is) = (&metric[*field]["target"], &current[*field]["current"]);
    let amount = |v: &Value| v.as_str().unwrap_or(UNKNOWN).to_owned();
    let percent = |v: &Value| v.as_i64().map(|n| format!("{n}%"));
    let average = !target["averageValue"].is_null();
    match *ty {
        "Resource" | "ContainerResource" => {
            let shown = if average {
                format!(
                    "{}/{}",
                    amount(&is["averageValue"]),
                    amount(&target["averageValue"])
                )
            } else {
                let is = percent(&is["averageUtilization"]).unwrap_or_else(|| UNKNOWN.into());
                let target = percent(&target["averageUtilization"]);
                format!("{is}/{}", target.unwrap_or_else(|| "<auto>".into()))
            };
            match (*ty, metric["resource"]["name"].as_str()) {
                ("Resource", Some(name)) => format!("{name}: {shown}"),
                _ => match metric["containerResource"]["name"].as_str() {
                    Some(name) => format!("{name}: {shown}"),
                    None => shown,
                },
            }
        }
        "Pods" => format!(
            "{}/{}",
            amount(&is["averageValue"]),
            amount(&target["averageValue"])
        ),
        _ if average => format!(
            "{}/{} (avg)",
            amount(&is["averageValue"]),
            amount(&target["averageValue"])
        ),
        _ => format!("{}/{}", amount(&is["value"]), amount(&target["value"])),
    }
}

fn show_metrics(o: &Value) -> String {
    const MOST: usize = 2;
    let metrics = items(&o["spec"]["metrics"]);
    if metrics.is_empty() {
        return "<none>".into();
    }
    let current = &o["status"]["currentMetrics"];
    let shown: Vec<String> = metrics
        .iter()
        .enumerate()
        .take(MOST)
        .map(|(i, m)| show_metric(m, &current[i]))
        .collect();
    let shown = shown.join(", ");
    if metrics.len() > MOST {
        format!("{shown} + {} more...", metrics.len() - MOST)
    } else {
        shown
    }
}

pub(crate) const STRATEGY: Strategy = Strategy {
    status_metadata: true,
    default,
    create: |o| {
        // The current number is left out while it is 0.
        set(o, "status", json!({"desiredReplicas": 0}));
    },
    validate,
    validate_create: |o, errors| validate_least(o, 1, errors),
    validate_update: |new, old, errors| {
        let lowest = i64::from(old["spec"]["minReplicas"] != 0);
        validate_least(new, lowest, errors);
    },
    validate_status: |new, _, errors| {
        let counts = ["currentReplicas", "desiredReplicas"];
        none_negative(&new["status"], "status", &counts, errors);
    },
    columns: &[
        NAME,
        column("Reference", "string", "What it scales."),
        column("Targets", "string", "What its metrics are, and should be."),
        column("MinPods", "string", "The fewest Pods."),
        column("MaxPods", "string", "The most Pods."),
        column("Replicas", "string", "How many Pods there are."),
        AGE,
    ],
    row: |o, now| {
        let spec = &o["spec"];
        let target = &spec["scaleTargetRef"];
        let least = spec["minReplicas"].as_i64();
        vec![
            name(o),
            format!("{}/{}", text(&target["kind"]), text(&target["name"])).into(),
            show_metrics(o).into(),
            least
                .map_or_else(|| "<unset>".to_owned(), |n| n.to_string())
                .into(),
            int(&spec["maxReplicas"]).into(),
            int(&o["status"]["currentReplicas"]).into(),
            age(o, now),
        ]
    },
    ..Strategy::BASE
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_shown_with_what_they_are() {
        let o = json!({
            "spec": {"metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}},
                {"type": "Object", "object": {"target": {"averageValue": "10"}}},
                {"type": "Pods", "pods": {"target": {"averageValue": "1k"}}},
            ]},
            "status": {"currentMetrics": [
                {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 50}}},
            ]},
        });
        let shown = "cpu: 50%/80%, <unknown>/10 (avg) + 1 more...";
        assert_eq!(show_metrics(&o), shown);
    }
}
