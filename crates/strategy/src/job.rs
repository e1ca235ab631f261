//! Jobs: defaults, the selector that the server makes, and what a spec may say.
//!
//! Follows upstream's `pkg/apis/batch/validation`; what a status may say is in [`crate::job_status`].

use api::{FieldError, time};
use serde_json::{Value, json};

use crate::tree::{
    age, containers_and_images, each, entries, immutable, int, invalid_all, items, label_selector,
    name, object, one_of, set, set_default, show_selector, text,
};
use crate::workload::{domain_prefixed_path, mismatch, none_negative, selects, without_value};
use crate::{AGE, Errors, NAME, Strategy, column, job_status, pod_spec, wide};

const CONTROLLER: &str = "batch.kubernetes.io/controller-uid";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
const OLD_CONTROLLER: &str = "controller-uid";
const OLD_JOB_NAME: &str = "job-name";

fn default_spec(spec: &mut Value) {
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        set(spec, "completions", 1);
    }
    set_default(spec, "parallelism", 1);
    if spec["backoffLimitPerIndex"].is_null() {
        set_default(spec, "backoffLimit", 6);
    } else {
        set_default(spec, "backoffLimit", i32::MAX);
    }
    set_default(spec, "completionMode", "NonIndexed");
    set_default(spec, "suspend", false);
    let replacement = if spec["podFailurePolicy"].is_null() {
        "TerminatingOrFailed"
    } else {
        "Failed"
    };
    set_default(spec, "podReplacementPolicy", replacement);
    if let Some(policy) = spec.get_mut("podFailurePolicy") {
        each(policy, "rules", |rule| {
            each(rule, "onPodConditions", |c| {
                set_default(c, "status", "True")
            });
        });
    }
    pod_spec::default_template(spec);
}

fn default(o: &mut Value) {
    if let Some(spec) = object(o, "spec") {
        default_spec(spec);
    }
    let labels = o["spec"]["template"]["metadata"]["labels"].clone();
    if crate::count(&labels) > 0
        && crate::count(&o["metadata"]["labels"]) == 0
        && let Some(meta) = object(o, "metadata")
    {
        set(meta, "labels", labels);
    }
}

/// Without a selector of its own, a Job selects its Pods by its UID. Labels that the writer set are kept: that they are
/// wrong is told when the Job is checked.
fn generate_selector(o: &mut Value) {
    let uid = o["metadata"]["uid"].clone();
    let owner = o["metadata"]["name"].clone();
    if o["spec"]["manualSelector"] == true || uid.is_null() {
        return;
    }
    let before = o["spec"]["template"]["metadata"]["labels"].clone();
    let Some(spec) = object(o, "spec") else {
        return;
    };
    if let Some(labels) = object(spec, "template")
        .and_then(|t| object(t, "metadata"))
        .and_then(|m| object(m, "labels"))
    {
        for (key, value) in [
            (CONTROLLER, &uid),
            (JOB_NAME, &owner),
            (OLD_CONTROLLER, &uid),
            (OLD_JOB_NAME, &owner),
        ] {
            set_default(labels, key, value.clone());
        }
    }
    if let Some(labels) = object(spec, "selector").and_then(|s| object(s, "matchLabels")) {
        set_default(labels, CONTROLLER, uid);
    }
    // The Job has its template's labels where it has none of its own. Upstream gives it these when it reads what it
    // stored, so they are not told of where the Job's name makes them wrong.
    let labels = spec["template"]["metadata"]["labels"].clone();
    let own = &o["metadata"]["labels"];
    let named_well = api::names::label_value(text(&owner)).is_empty();
    let inherits = match crate::count(own) {
        0 => named_well,
        _ => *own == before,
    };
    if inherits && let Some(meta) = object(o, "metadata") {
        set(meta, "labels", labels);
    }
}

fn is_indexed(spec: &Value) -> bool {
    spec["completionMode"] == "Indexed"
}

/// The labels of the template and the selector must be those that the server makes.
fn validate_generated_selector(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    if spec["manualSelector"] == true || spec["selector"].is_null() {
        return;
    }
    let (uid, owner) = (text(&o["metadata"]["uid"]), text(&o["metadata"]["name"]));
    if uid.is_empty() {
        errors.push(FieldError::required("metadata.uid", ""));
    }
    let labels = &spec["template"]["metadata"]["labels"];
    let wanted = [
        (OLD_CONTROLLER, uid),
        (OLD_JOB_NAME, owner),
        (CONTROLLER, uid),
        (JOB_NAME, owner),
    ];
    for (key, value) in wanted {
        let path = format!("spec.template.metadata.labels[{key}]");
        let detail = format!("must be '{value}'");
        match labels[key].as_str() {
            None => errors.push(FieldError::required(path, detail)),
            Some(have) if have != value => {
                errors.push(FieldError::invalid(path, labels, detail));
            }
            Some(_) => {}
        }
    }
    let wanted: Value = wanted
        .iter()
        .map(|(k, v)| ((*k).to_owned(), json!(v)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    if selects(&spec["selector"], &wanted) == Some(false) {
        let detail = "`selector` not auto-generated";
        errors.push(FieldError::invalid(
            "spec.selector",
            &spec["selector"],
            detail,
        ));
    }
}

fn validate_completion_mode(spec: &Value, path: &str, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    let modes = ["NonIndexed", "Indexed"];
    one_of(
        &spec["completionMode"],
        &at("completionMode"),
        &modes,
        errors,
    );
    if is_indexed(spec) {
        validate_indexed(spec, path, errors);
    } else if matches!(text(&spec["completionMode"]), "" | "NonIndexed") {
        for key in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if !spec[key].is_null() {
                let detail = "requires indexed completion mode";
                errors.push(FieldError::invalid(at(key), &spec[key], detail));
            }
        }
    }
}

/// The most of what a Job with indexes may have: these make its status long.
fn validate_indexed(spec: &Value, path: &str, errors: &mut Errors) {
    const MOST: i64 = 100_000;
    const MOST_OF_MANY: i64 = 10_000;
    let at = |key: &str| format!("{path}.{key}");
    let mut above = |key: &str, limit: i64, detail: String| {
        if spec[key].as_i64().is_some_and(|n| n > limit) {
            errors.push(FieldError::invalid(at(key), &spec[key], detail));
        }
    };
    let detail = format!("must be less than or equal to {MOST} when completion mode is Indexed");
    above("parallelism", MOST, detail);
    if let Some(completions) = spec["completions"].as_i64() {
        let detail = "must be less than or equal to completions";
        above("maxFailedIndexes", completions, detail.into());
    }
    let detail = format!("must be less than or equal to {MOST}");
    above("maxFailedIndexes", MOST, detail);
    let many = int(&spec["completions"]) > MOST && !spec["backoffLimitPerIndex"].is_null();
    if many {
        for key in ["parallelism", "maxFailedIndexes"] {
            let detail = format!(
                "must be less than or equal to {MOST_OF_MANY} when completions are above {MOST} and used with backoff \
                 limit per index"
            );
            above(key, MOST_OF_MANY, detail);
        }
    }
    if many && spec["maxFailedIndexes"].is_null() {
        let detail = format!("must be specified when completions is above {MOST}");
        errors.push(FieldError::required(at("maxFailedIndexes"), detail));
    }
    if spec["completions"].is_null() {
        let detail = "when completion mode is Indexed";
        errors.push(FieldError::required(at("completions"), detail));
    }
}

fn validate_failure_policy(spec: &Value, path: &str, errors: &mut Errors) {
    const MOST_RULES: usize = 20;
    let rules = items(&spec["podFailurePolicy"]["rules"]);
    if rules.len() > MOST_RULES {
        errors.push(FieldError::too_many(
            format!("{path}.rules"),
            rules.len(),
            MOST_RULES,
        ));
    }
    for (i, rule) in rules.iter().enumerate() {
        validate_failure_rule(spec, rule, &format!("{path}.rules[{i}]"), errors);
    }
}

fn validate_failure_rule(spec: &Value, rule: &Value, path: &str, errors: &mut Errors) {
    let actions = ["Count", "FailIndex", "FailJob", "Ignore"];
    let action = format!("{path}.action");
    match text(&rule["action"]) {
        "" => {
            let detail = "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]";
            errors.push(FieldError::required(action, detail));
        }
        "FailIndex" => {
            if spec["backoffLimitPerIndex"].is_null() {
                let detail = "requires the backoffLimitPerIndex to be set";
                errors.push(FieldError::invalid(action, &rule["action"], detail));
            }
        }
        _ => one_of(&rule["action"], &action, &actions, errors),
    }
    let codes = &rule["onExitCodes"];
    let conditions = items(&rule["onPodConditions"]);
    if codes.is_object() {
        validate_exit_codes(spec, codes, &format!("{path}.onExitCodes"), errors);
    }
    validate_pod_conditions(conditions, &format!("{path}.onPodConditions"), errors);
    match (codes.is_object(), conditions.is_empty()) {
        (true, false) => errors.push(without_value(
            path,
            "specifying both OnExitCodes and OnPodConditions is not supported",
        )),
        (false, true) => errors.push(without_value(
            path,
            "specifying one of OnExitCodes and OnPodConditions is required",
        )),
        _ => {}
    }
}

fn validate_pod_conditions(conditions: &[Value], path: &str, errors: &mut Errors) {
    const MOST: usize = 20;
    if conditions.len() > MOST {
        errors.push(FieldError::too_many(path, conditions.len(), MOST));
    }
    for (i, condition) in conditions.iter().enumerate() {
        let ty = text(&condition["type"]);
        let wrong = api::names::qualified_name(ty);
        invalid_all(&format!("{path}[{i}].type"), ty, wrong, errors);
        let status = format!("{path}[{i}].status");
        if text(&condition["status"]).is_empty() {
            let detail = "valid values: [\"False\" \"True\" \"Unknown\"]";
            errors.push(FieldError::required(status, detail));
        } else {
            let statuses = ["False", "True", "Unknown"];
            one_of(&condition["status"], &status, &statuses, errors);
        }
    }
}

fn validate_exit_codes(spec: &Value, codes: &Value, path: &str, errors: &mut Errors) {
    const MOST: usize = 255;
    let operator = format!("{path}.operator");
    if text(&codes["operator"]).is_empty() {
        let detail = "valid values: [\"In\" \"NotIn\"]";
        errors.push(FieldError::required(operator, detail));
    } else {
        one_of(&codes["operator"], &operator, &["In", "NotIn"], errors);
    }
    let pod = &spec["template"]["spec"];
    let mut containers = items(&pod["containers"])
        .iter()
        .chain(items(&pod["initContainers"]));
    let container = &codes["containerName"];
    if !container.is_null() && !containers.any(|c| c["name"] == *container) {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.push(FieldError::invalid(
            format!("{path}.containerName"),
            container,
            detail,
        ));
    }
    let values = items(&codes["values"]);
    let path = format!("{path}.values");
    if values.is_empty() {
        let detail = "at least one value is required";
        errors.push(FieldError::invalid(&path, &codes["values"], detail));
    } else if values.len() > MOST {
        errors.push(FieldError::too_many(&path, values.len(), MOST));
    }
    for (i, value) in values.iter().enumerate() {
        let path = format!("{path}[{i}]");
        if codes["operator"] == "In" && int(value) == 0 {
            let detail = "must not be 0 for the In operator";
            errors.push(FieldError::invalid(&path, value, detail));
        }
        if values[..i].contains(value) {
            errors.push(FieldError::duplicate(path, value));
        }
    }
    if !values.is_sorted_by_key(int) {
        errors.push(FieldError::invalid(
            path,
            &codes["values"],
            "must be ordered",
        ));
    }
}

fn validate_success_policy(spec: &Value, path: &str, errors: &mut Errors) {
    const MOST_RULES: usize = 20;
    let policy = &spec["successPolicy"];
    if !is_indexed(spec) {
        let mut error = FieldError::invalid(path, policy, "requires indexed completion mode");
        error.bad_value = Some(shown_success_policy(policy));
        errors.push(error);
        return;
    }
    let rules = items(&policy["rules"]);
    let path = format!("{path}.rules");
    if rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errors.push(FieldError::required(&path, detail));
    }
    if rules.len() > MOST_RULES {
        errors.push(FieldError::too_many(&path, rules.len(), MOST_RULES));
    }
    for (i, rule) in rules.iter().enumerate() {
        let completions = int(&spec["completions"]);
        validate_success_rule(rule, completions, &format!("{path}[{i}]"), errors);
    }
}

fn validate_success_rule(rule: &Value, completions: i64, path: &str, errors: &mut Errors) {
    const MOST_BYTES: usize = 64 * 1024;
    let (count, indexes) = (&rule["succeededCount"], &rule["succeededIndexes"]);
    if count.is_null() && indexes.is_null() {
        let detail = "at least one of succeededCount or succeededIndexes must be specified";
        errors.push(FieldError::required(path, detail));
    }
    let mut total = 0;
    if let Some(text) = indexes.as_str() {
        let path = format!("{path}.succeededIndexes");
        if text.len() > MOST_BYTES {
            errors.push(FieldError::too_long(&path, MOST_BYTES));
        }
        match job_status::indexes(text, completions) {
            Ok(found) => total = found.iter().map(|(from, to)| to - from + 1).sum(),
            Err(why) => {
                let detail = format!("error parsing succeededIndexes: {why}");
                errors.push(FieldError::invalid(path, indexes, detail));
            }
        }
    }
    if let Some(wanted) = count.as_i64() {
        none_negative(rule, path, &["succeededCount"], errors);
        let path = format!("{path}.succeededCount");
        if wanted > completions {
            let detail = format!(
                "must be less than or equal to {completions} (the number of specified completions)"
            );
            errors.push(FieldError::invalid(&path, count, detail));
        }
        if !indexes.is_null() && wanted > total {
            let detail = format!(
                "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            );
            errors.push(FieldError::invalid(path, count, detail));
        }
    }
}

fn validate_restart_policy(spec: &Value, path: &str, errors: &mut Errors) {
    let restart = &spec["template"]["spec"]["restartPolicy"];
    let path = format!("{path}.template.spec.restartPolicy");
    match text(restart) {
        "" | "Always" => {
            let detail = "valid values: \"OnFailure\", \"Never\"";
            errors.push(FieldError::required(path, detail));
        }
        "OnFailure" if !spec["podFailurePolicy"].is_null() => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.push(FieldError::invalid(path, restart, detail));
        }
        _ => one_of(restart, &path, &["OnFailure", "Never"], errors),
    }
}

/// What Jobs and the templates of Jobs have in common.
pub(crate) fn validate_spec(spec: &Value, path: &str, errors: &mut Errors) {
    const MOST_BYTES_OF_MANAGER: usize = 63;
    let at = |key: &str| format!("{path}.{key}");
    let counts = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    none_negative(spec, path, &counts, errors);
    if !spec["maxFailedIndexes"].is_null() && spec["backoffLimitPerIndex"].is_null() {
        let detail = "when maxFailedIndexes is specified";
        errors.push(FieldError::required(at("backoffLimitPerIndex"), detail));
    }
    if let Some(manager) = spec["managedBy"].as_str() {
        domain_prefixed_path(manager, &at("managedBy"), errors);
        if manager.len() > MOST_BYTES_OF_MANAGER {
            errors.push(FieldError::too_long(at("managedBy"), MOST_BYTES_OF_MANAGER));
        }
    }
    validate_completion_mode(spec, path, errors);
    if spec["podFailurePolicy"].is_object() {
        validate_failure_policy(spec, &at("podFailurePolicy"), errors);
    }
    if spec["successPolicy"].is_object() {
        validate_success_policy(spec, &at("successPolicy"), errors);
    }
    let replacements: &[&str] = if spec["podFailurePolicy"].is_object() {
        &["Failed"]
    } else {
        &["Failed", "TerminatingOrFailed"]
    };
    one_of(
        &spec["podReplacementPolicy"],
        &at("podReplacementPolicy"),
        replacements,
        errors,
    );
    crate::pod_spec::validate_template(&spec["template"], &at("template"), errors);
    validate_restart_policy(spec, path, errors);
}

fn validate(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    validate_generated_selector(o, errors);
    validate_spec(spec, "spec", errors);
    if spec["selector"].is_null() {
        errors.push(FieldError::required("spec.selector", ""));
    }
    label_selector(&spec["selector"], "spec.selector", errors);
    let labels = &spec["template"]["metadata"]["labels"];
    if selects(&spec["selector"], labels) == Some(false) {
        errors.push(mismatch("spec.template", labels));
    }
    let completions = int(&spec["completions"]);
    if is_indexed(spec) && completions > 0 {
        // The name of the last Pod is also its host name.
        let owner = text(&o["metadata"]["name"]);
        let last = format!("{owner}-{}", completions - 1);
        if !api::names::dns1123_label(&last).is_empty() {
            let detail = format!("will not able to create pod with invalid DNS label: {last}");
            errors.push(FieldError::invalid_str("metadata.name", owner, detail));
        }
    }
}

fn validate_completions(new: &Value, old: &Value, errors: &mut Errors) {
    let completions = &new["completions"];
    if !is_indexed(new) {
        immutable(completions, &old["completions"], "spec.completions", errors);
    } else if *completions != old["completions"]
        && !completions.is_null()
        && *completions != new["parallelism"]
    {
        let detail = "can only be modified in tandem with spec.parallelism";
        errors.push(FieldError::invalid("spec.completions", completions, detail));
    }
}

/// What a queue may still change of the template of a Job that is suspended: where its Pods may run and what they get.
const SCHEDULING: [&str; 3] = ["nodeSelector", "tolerations", "schedulingGates"];

/// The template without what may be changed while the Job is suspended.
fn fixed_template(template: &Value) -> Value {
    let mut fixed = template.clone();
    if let Some(meta) = object(&mut fixed, "metadata") {
        for key in ["labels", "annotations"] {
            crate::tree::remove(meta, key);
        }
    }
    if let Some(spec) = object(&mut fixed, "spec") {
        for key in SCHEDULING {
            crate::tree::remove(spec, key);
        }
        if let Some(affinity) = spec.get_mut("affinity") {
            crate::tree::remove(affinity, "nodeAffinity");
        }
        if entries(&spec["affinity"]).next().is_none() {
            crate::tree::remove(spec, "affinity");
        }
        for key in ["containers", "initContainers"] {
            each(spec, key, |c| crate::tree::remove(c, "resources"));
        }
    }
    fixed
}

fn validate_template_update(new: &Value, old: &Value, errors: &mut Errors) {
    let (a, b) = (&new["spec"]["template"], &old["spec"]["template"]);
    let started = !old["status"]["startTime"].is_null();
    let suspended = old["spec"]["suspend"] == true && !started;
    let same = if suspended {
        fixed_template(a) == fixed_template(b)
    } else {
        a == b
    };
    if !same {
        errors.push(FieldError::invalid(
            "spec.template",
            a,
            "field is immutable",
        ));
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let (a, b) = (&new["spec"], &old["spec"]);
    validate_completions(a, b, errors);
    validate_template_update(new, old, errors);
    let fixed = [
        "selector",
        "completionMode",
        "backoffLimitPerIndex",
        "managedBy",
    ];
    for key in fixed {
        immutable(&a[key], &b[key], &format!("spec.{key}"), errors);
    }
    let policies = [
        (
            "podFailurePolicy",
            shown_failure_policy(&a["podFailurePolicy"]),
        ),
        ("successPolicy", shown_success_policy(&a["successPolicy"])),
    ];
    for (key, shown) in policies.into_iter().filter(|(key, _)| a[*key] != b[*key]) {
        let path = format!("spec.{key}");
        let mut error = FieldError::invalid(path, &a[key], "field is immutable");
        error.bad_value = Some(shown);
        errors.push(error);
    }
}

/// An object as upstream's internal type shows it: Go's names of its fields, in their order.
fn shown(fields: &[(&str, String)]) -> String {
    let parts: Vec<String> = fields.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect();
    format!("{{{}}}", parts.join(","))
}

fn shown_list(list: &Value, each: fn(&Value) -> String) -> String {
    if list.is_null() {
        return "null".into();
    }
    let parts: Vec<String> = items(list).iter().map(each).collect();
    format!("[{}]", parts.join(","))
}

fn shown_success_policy(policy: &Value) -> String {
    if policy.is_null() {
        return "null".into();
    }
    let rules = shown_list(&policy["rules"], |rule| {
        shown(&[
            ("SucceededIndexes", rule["succeededIndexes"].to_string()),
            ("SucceededCount", rule["succeededCount"].to_string()),
        ])
    });
    shown(&[("Rules", rules)])
}

fn shown_failure_policy(policy: &Value) -> String {
    if policy.is_null() {
        return "null".into();
    }
    let rules = shown_list(&policy["rules"], |rule| {
        let conditions = shown_list(&rule["onPodConditions"], |condition| {
            shown(&[
                ("Type", condition["type"].to_string()),
                ("Status", condition["status"].to_string()),
            ])
        });
        shown(&[
            ("Action", rule["action"].to_string()),
            ("OnExitCodes", shown_exit_codes(&rule["onExitCodes"])),
            ("OnPodConditions", conditions),
        ])
    });
    shown(&[("Rules", rules)])
}

fn shown_exit_codes(codes: &Value) -> String {
    if codes.is_null() {
        return "null".into();
    }
    shown(&[
        ("ContainerName", codes["containerName"].to_string()),
        ("Operator", codes["operator"].to_string()),
        ("Values", codes["values"].to_string()),
    ])
}

/// What a Job is doing, as `kubectl get` shows it.
fn state(o: &Value) -> &'static str {
    let has = |kind: &str| job_status::is_true(&o["status"]["conditions"], kind);
    if has("Complete") {
        "Complete"
    } else if has("Failed") {
        "Failed"
    } else if o["metadata"]["deletionTimestamp"].is_string() {
        "Terminating"
    } else if has("Suspended") {
        "Suspended"
    } else if has("FailureTarget") {
        "FailureTarget"
    } else if has("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

pub(crate) const STRATEGY: Strategy = Strategy {
    generation: true,
    status_metadata: true,
    default,
    create: generate_selector,
    validate,
    validate_update,
    validate_status: job_status::validate,
    columns: &[
        NAME,
        column("Status", "string", "Where it stands."),
        column(
            "Completions",
            "string",
            "Pods that succeeded of those wanted.",
        ),
        column("Duration", "string", "How long it took, or takes so far."),
        AGE,
        wide("Containers", "The names of the template's containers."),
        wide("Images", "The images of the template's containers."),
        wide("Selector", "The labels of its Pods."),
    ],
    row: |o, now| {
        let (spec, status) = (&o["spec"], &o["status"]);
        let done = int(&status["succeeded"]);
        let completions = match (spec["completions"].as_i64(), int(&spec["parallelism"])) {
            (Some(wanted), _) => format!("{done}/{wanted}"),
            (None, n) if n > 1 => format!("{done}/1 of {n}"),
            _ => format!("{done}/1"),
        };
        let start = status["startTime"].as_str().and_then(time::parse);
        let end = status["completionTime"]
            .as_str()
            .and_then(time::parse)
            .unwrap_or(now);
        let duration = start.map_or_else(String::new, |s| {
            time::human_duration(end.as_second() - s.as_second())
        });
        let [containers, images] = containers_and_images(&spec["template"]["spec"]);
        vec![
            name(o),
            state(o).into(),
            completions.into(),
            duration.into(),
            age(o, now),
            containers,
            images,
            show_selector(&spec["selector"]),
        ]
    },
    fields: |o, out| {
        out.push((
            "status.successful",
            int(&o["status"]["succeeded"]).to_string(),
        ))
    },
    ..Strategy::BASE
};
