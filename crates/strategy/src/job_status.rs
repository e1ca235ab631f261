//! What the status of a Job may say, and which steps it may take.
//!
//! Upstream checks each rule only when what it is about changes, so that a status from before the rule can still be
//! written; so does this.

use api::{FieldError, time};
use serde_json::Value;

use crate::Errors;
use crate::tree::{int, items, text};
use crate::workload::{none_negative, without_value};

pub(crate) fn is_true(conditions: &Value, kind: &str) -> bool {
    items(conditions)
        .iter()
        .any(|c| c["type"] == kind && c["status"] == "True")
}

/// `1,3-5` as intervals; all must be below `completions` and grow.
pub(crate) fn indexes(text: &str, completions: i64) -> Result<Vec<(i64, i64)>, String> {
    let mut found: Vec<(i64, i64)> = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let interval = interval(part, completions)?;
        if let Some((_, last)) = found.last().filter(|(_, last)| *last >= interval.0) {
            return Err(format!(
                "non-increasing order, previous: {last}, current: {}",
                interval.0
            ));
        }
        found.push(interval);
    }
    Ok(found)
}

fn interval(part: &str, completions: i64) -> Result<(i64, i64), String> {
    let index = |digits: &str| {
        let shown = api::field::quote(digits);
        let found: i64 = digits
            .parse()
            .map_err(|_| format!("cannot convert string to integer for index: {shown}"))?;
        if found >= completions {
            return Err(format!("too large index: {shown}"));
        }
        Ok(found)
    };
    let limits: Vec<&str> = part.split('-').collect();
    match limits[..] {
        [one] => index(one).map(|i| (i, i)),
        [from, to] => {
            let (from, to) = (index(from)?, index(to)?);
            if from >= to {
                return Err(format!(
                    "non-increasing order, previous: {from}, current: {to}"
                ));
            }
            Ok((from, to))
        }
        _ => Err(format!(
            "the fragment {} violates the requirement that an index interval can have at most two parts separated by '-'",
            api::field::quote(part)
        )),
    }
}

/// The first index that is in both lists. What cannot be read is told elsewhere.
fn overlap(completed: &str, failed: &str, completions: i64) -> Option<i64> {
    let all = |list: &str| -> Vec<(i64, i64)> {
        let parts = list.split(',').filter(|_| !list.is_empty());
        parts
            .filter_map(|p| interval(p, completions).ok())
            .collect()
    };
    let (completed, failed) = (all(completed), all(failed));
    let both = completed.iter().flat_map(|(from, to)| {
        let shared = failed.iter().filter(move |(f, t)| from <= t && f <= to);
        shared.map(move |(f, _)| *from.max(f))
    });
    both.min()
}

/// A write to a Job's status.
struct Step<'a> {
    spec: &'a Value,
    new: &'a Value,
    old: &'a Value,
}

impl Step<'_> {
    fn has(&self, kind: &str) -> bool {
        is_true(&self.new["conditions"], kind)
    }

    fn had(&self, kind: &str) -> bool {
        is_true(&self.old["conditions"], kind)
    }

    /// Whether a condition comes or goes.
    fn turns(&self, kind: &str) -> bool {
        self.has(kind) != self.had(kind)
    }

    fn changes(&self, key: &str) -> bool {
        self.new[key] != self.old[key]
    }

    fn finished(&self) -> bool {
        self.has("Complete") || self.has("Failed")
    }

    fn finishes(&self) -> bool {
        self.finished() != (self.had("Complete") || self.had("Failed"))
    }
}

pub(crate) fn validate(new: &Value, old: &Value, errors: &mut Errors) {
    let step = Step {
        spec: &new["spec"],
        new: &new["status"],
        old: &old["status"],
    };
    let counts = ["active", "succeeded", "failed", "ready", "terminating"];
    none_negative(step.new, "status", &counts, errors);
    uncounted_are_distinct(&step, errors);
    conditions_agree(&step, errors);
    completion_time(&step, errors);
    nothing_runs_after_the_end(&step, errors);
    indexes_are_sound(&step, errors);
    counters_grow(&step, errors);
    what_ended_stays_so(&step, errors);
    start_time_stays(&step, errors);
}

fn uncounted_are_distinct(step: &Step, errors: &mut Errors) {
    let mut seen: Vec<&str> = Vec::new();
    for list in ["succeeded", "failed"] {
        for (i, uid) in items(&step.new["uncountedTerminatedPods"][list])
            .iter()
            .enumerate()
        {
            let path = format!("status.uncountedTerminatedPods.{list}[{i}]");
            if text(uid).is_empty() {
                errors.push(FieldError::invalid(path, uid, "must not be empty"));
            } else if seen.contains(&text(uid)) {
                errors.push(FieldError::duplicate(path, uid));
            } else {
                seen.push(text(uid));
            }
        }
    }
}

fn conditions_agree(step: &Step, errors: &mut Errors) {
    let mut wrong = |detail: &str| errors.push(without_value("status.conditions", detail));
    let (complete, failed) = (step.has("Complete"), step.has("Failed"));
    let (target, met) = (step.has("FailureTarget"), step.has("SuccessCriteriaMet"));
    let completes = step.turns("Complete");
    if (completes || step.turns("Failed")) && complete && failed {
        wrong("cannot set Complete=True and Failed=true conditions");
    }
    if (completes || step.turns("FailureTarget")) && complete && target {
        wrong("cannot set Complete=True and FailureTarget=true conditions");
    }
    if (step.turns("Failed") || step.turns("FailureTarget")) && failed && !target {
        wrong("cannot set Failed=True condition without the FailureTarget=true condition");
    }
    if (completes || step.turns("SuccessCriteriaMet")) && complete && !met {
        wrong("cannot set Complete=True condition without the SuccessCriteriaMet=true condition");
    }
    if met && failed {
        wrong("cannot set SuccessCriteriaMet=True and Failed=true conditions");
    }
    if met && target {
        wrong("cannot set SuccessCriteriaMet=True and FailureTarget=true conditions");
    }
    if step.spec["successPolicy"].is_object() && !met && complete {
        wrong("cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True");
    }
}

fn completion_time(step: &Step, errors: &mut Errors) {
    let end = &step.new["completionTime"];
    let path = "status.completionTime";
    let changes = step.changes("completionTime");
    if step.turns("Complete") || changes {
        match (step.has("Complete"), end.is_null()) {
            (false, false) => {
                let detail = "cannot set completionTime when there is no Complete=True condition";
                errors.push(FieldError::invalid(path, end, detail));
            }
            (true, true) => {
                let detail = "completionTime is required for Complete jobs";
                errors.push(FieldError::required(path, detail));
            }
            _ => {}
        }
    }
    let at = |v: &Value| v.as_str().and_then(time::parse);
    let start = at(&step.new["startTime"]);
    let before_start = start.is_some_and(|s| at(end).is_some_and(|e| e < s));
    if (changes || step.changes("startTime")) && before_start {
        let detail = "completionTime cannot be set before startTime";
        errors.push(FieldError::invalid(path, end, detail));
    }
    if changes && !end.is_null() && !step.old["completionTime"].is_null() {
        let detail = "completionTime cannot be mutated";
        errors.push(FieldError::invalid(path, end, detail));
    }
}

fn nothing_runs_after_the_end(step: &Step, errors: &mut Errors) {
    let (new, finishes) = (step.new, step.finishes());
    if step.finished() {
        for key in ["active", "terminating"] {
            if (finishes || step.changes(key)) && int(&new[key]) > 0 {
                let detail = format!("{key}>0 is invalid for finished job");
                errors.push(FieldError::invalid(
                    format!("status.{key}"),
                    &new[key],
                    detail,
                ));
            }
        }
        let never_ran = step.spec["suspend"] == true && step.spec["completions"] == 0;
        if (finishes || step.changes("startTime")) && !never_ran && new["startTime"].is_null() {
            let detail = "startTime is required for finished job";
            errors.push(FieldError::required("status.startTime", detail));
        }
        let uncounted = &new["uncountedTerminatedPods"];
        let some = ["succeeded", "failed"]
            .iter()
            .any(|list| !items(&uncounted[*list]).is_empty());
        if (finishes || step.changes("uncountedTerminatedPods")) && some {
            let detail = "uncountedTerminatedPods needs to be empty for finished job";
            let path = "status.uncountedTerminatedPods";
            let error = FieldError::invalid(path, uncounted, detail);
            let fields = [
                ("Succeeded", &uncounted["succeeded"]),
                ("Failed", &uncounted["failed"]),
            ];
            errors.push(crate::workload::shown_as(error, &fields));
        }
    }
    let more_ready = int(&new["ready"]) > int(&new["active"]);
    if (step.changes("ready") || step.changes("active")) && more_ready {
        let detail = "cannot set more ready pods than active";
        errors.push(FieldError::invalid("status.ready", &new["ready"], detail));
    }
}

fn indexes_are_sound(step: &Step, errors: &mut Errors) {
    let (spec, completed, failed) = (
        step.spec,
        &step.new["completedIndexes"],
        &step.new["failedIndexes"],
    );
    let completions = spec["completions"].as_i64();
    let (completed_changes, failed_changes) = (
        step.changes("completedIndexes"),
        step.changes("failedIndexes"),
    );
    let mut wrong = |key: &str, bad: &Value, detail: String| {
        errors.push(FieldError::invalid(format!("status.{key}"), bad, detail));
    };
    if let Some(completions) = completions {
        if completed_changes && let Err(why) = indexes(text(completed), completions) {
            let detail = format!("error parsing completedIndexes: {why}");
            wrong("completedIndexes", completed, detail);
        }
        let per_index = !spec["backoffLimitPerIndex"].is_null();
        if failed_changes
            && per_index
            && let Err(why) = indexes(text(failed), completions)
        {
            let detail = format!("error parsing failedIndexes: {why}");
            wrong("failedIndexes", failed, detail);
        }
    }
    if completed_changes && !text(completed).is_empty() && spec["completionMode"] != "Indexed" {
        let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
        wrong("completedIndexes", completed, detail.into());
    }
    if failed_changes && !failed.is_null() && spec["backoffLimitPerIndex"].is_null() {
        let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        wrong("failedIndexes", failed, detail.into());
    }
    if (completed_changes || failed_changes)
        && let Some(completions) = completions
        && let Some(both) = overlap(text(completed), text(failed), completions)
    {
        let detail = format!("failedIndexes and completedIndexes overlap at index: {both}");
        wrong("failedIndexes", failed, detail);
    }
}

fn counters_grow(step: &Step, errors: &mut Errors) {
    // An indexed Job with as many completions as Pods at a time may be scaled down.
    let indexed = step.spec["completionMode"] == "Indexed";
    let scalable = indexed && step.spec["completions"] == step.spec["parallelism"];
    for key in ["failed", "succeeded"] {
        let less = int(&step.new[key]) < int(&step.old[key]);
        if less && !(key == "succeeded" && scalable) {
            let detail = format!("cannot decrease the {key} counter");
            let bad = int(&step.new[key]).into();
            errors.push(FieldError::invalid(format!("status.{key}"), &bad, detail));
        }
    }
}

fn what_ended_stays_so(step: &Step, errors: &mut Errors) {
    let mut wrong = |detail: String| errors.push(without_value("status.conditions", detail));
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if step.had(kind) && !step.has(kind) {
            wrong(format!("cannot disable the terminal {kind}=True condition"));
        }
    }
    let (had, has) = (
        step.had("SuccessCriteriaMet"),
        step.has("SuccessCriteriaMet"),
    );
    if had && !has {
        wrong("cannot disable the SuccessCriteriaMet=True condition".into());
    }
    if step.had("Complete") && !had && has {
        let detail =
            "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        wrong(detail.into());
    }
}

fn start_time_stays(step: &Step, errors: &mut Errors) {
    let started = !step.old["startTime"].is_null();
    if started && step.changes("startTime") && step.spec["suspend"] != true {
        let detail = "startTime cannot be removed for unsuspended job";
        errors.push(FieldError::required("status.startTime", detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(spec: Value, old: Value, new: Value) -> Vec<String> {
        let job = |status: Value| serde_json::json!({"spec": spec, "status": status});
        let mut errors = Vec::new();
        validate(&job(new), &job(old), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_ended_does_not_begin_anew() {
        use serde_json::json;
        let done = json!({
            "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:01:00Z", "succeeded": 2,
            "conditions": [
                {"type": "SuccessCriteriaMet", "status": "True"}, {"type": "Complete", "status": "True"},
            ],
        });
        let with = |key: &str, value: Value| {
            let mut status = done.clone();
            status[key] = value;
            status
        };
        let spec = json!({"completions": 2, "parallelism": 2});
        let to = |new: Value| refused(spec.clone(), done.clone(), new);
        assert!(to(done.clone()).is_empty());
        for (new, wrong) in [
            (
                with("completionTime", "2026-01-01T00:02:00Z".into()),
                "status.completionTime: Invalid value: \"2026-01-01T00:02:00Z\": completionTime cannot be mutated",
            ),
            (
                with("startTime", "2026-01-01T00:00:30Z".into()),
                "status.startTime: Required value: startTime cannot be removed for unsuspended job",
            ),
            (
                with("succeeded", 1.into()),
                "status.succeeded: Invalid value: 1: cannot decrease the succeeded counter",
            ),
            (
                with("completedIndexes", "0".into()),
                "status.completedIndexes: Invalid value: \"0\": cannot set non-empty completedIndexes when non-indexed \
                 completion mode",
            ),
            (
                with("failedIndexes", "0".into()),
                "status.failedIndexes: Invalid value: \"0\": cannot set non-null failedIndexes when \
                 backoffLimitPerIndex is null",
            ),
        ] {
            assert_eq!(to(new), [wrong]);
        }
        let undone = to(json!({"startTime": "2026-01-01T00:00:00Z", "succeeded": 2}));
        let conditions = "status.conditions: Invalid value: cannot disable the";
        assert_eq!(
            undone,
            [
                format!("{conditions} terminal Complete=True condition"),
                format!("{conditions} SuccessCriteriaMet=True condition"),
            ]
        );
        // As many completions as Pods at a time: an indexed Job that may be scaled down.
        let indexed = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2});
        let fewer = with("succeeded", 1.into());
        assert!(refused(indexed, done.clone(), fewer).is_empty());
        let late = json!({"conditions": [{"type": "Complete", "status": "True"}], "startTime": "2026-01-01T00:00:00Z",
            "completionTime": "2026-01-01T00:01:00Z"});
        let mut met = late.clone();
        met["conditions"] = done["conditions"].clone();
        assert_eq!(
            refused(spec, late, met),
            [
                "status.conditions: Invalid value: cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions"
            ]
        );
    }

    #[test]
    fn indexes_are_read() {
        assert_eq!(indexes("", 3), Ok(vec![]));
        assert_eq!(indexes("0,2-4", 5), Ok(vec![(0, 0), (2, 4)]));
        for (text, wrong) in [
            ("a", "cannot convert string to integer for index: \"a\""),
            ("5", "too large index: \"5\""),
            ("2-1", "non-increasing order, previous: 2, current: 1"),
            ("2,1", "non-increasing order, previous: 2, current: 1"),
        ] {
            assert_eq!(indexes(text, 5), Err(wrong.to_owned()));
        }
        assert_eq!(overlap("0,2-4", "1,3", 5), Some(3));
        assert_eq!(overlap("0", "", 5), None);
    }
}
