//! CronJobs, and the syntax of their schedules.

use api::{FieldError, time};
use serde_json::Value;

use crate::tree::{
    age, containers_and_images, items, name, object, required_one_of, set_default, show_selector,
    text,
};
use crate::workload::none_negative;
use crate::{AGE, Errors, NAME, Strategy, column, job, pod_spec, wide};

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// A field of a schedule: the least and the most that it may be, and names for its values from the least on.
struct Field {
    least: u64,
    most: u64,
    names: &'static [&'static str],
}

const fn field(least: u64, most: u64, names: &'static [&'static str]) -> Field {
    Field { least, most, names }
}

/// Minute, hour, day of the month, month, day of the week.
const FIELDS: [Field; 5] = [
    field(0, 59, &[]),
    field(0, 23, &[]),
    field(1, 31, &[]),
    field(1, 12, &MONTHS),
    field(0, 6, &DAYS),
];

/// What is wrong with a schedule, in the words of the library that upstream reads it with (`robfig/cron`).
fn wrong_schedule(schedule: &str) -> Option<String> {
    let zoned = ["CRON_TZ=", "TZ="];
    let schedule = match zoned
        .iter()
        .find_map(|prefix| schedule.strip_prefix(prefix))
    {
        None => schedule,
        Some(rest) => {
            let (zone, rest) = rest.split_once(' ')?;
            if !is_known_zone(zone) {
                return Some(format!(
                    "provided bad location {zone}: unknown time zone {zone}"
                ));
            }
            rest.trim()
        }
    };
    if schedule.starts_with('@') {
        return wrong_descriptor(schedule);
    }
    let parts: Vec<&str> = schedule.split_whitespace().collect();
    if parts.len() != FIELDS.len() {
        return Some(format!(
            "expected exactly 5 fields, found {}: [{}]",
            parts.len(),
            parts.join(" ")
        ));
    }
    let ranges = parts.iter().zip(&FIELDS);
    let mut ranges = ranges.flat_map(|(part, field)| {
        let each = part.split(',').filter(|r| !r.is_empty());
        each.map(move |range| (range, field))
    });
    ranges.find_map(|(range, field)| wrong_range(range, field).err())
}

fn wrong_descriptor(descriptor: &str) -> Option<String> {
    const KNOWN: [&str; 7] = [
        "@yearly",
        "@annually",
        "@monthly",
        "@weekly",
        "@daily",
        "@midnight",
        "@hourly",
    ];
    if KNOWN.contains(&descriptor) {
        return None;
    }
    match descriptor.strip_prefix("@every ") {
        Some(every) if is_duration(every) => None,
        Some(every) => Some(format!(
            "failed to parse duration {descriptor}: time: invalid duration {}",
            api::field::quote(every)
        )),
        None => Some(format!("unrecognized descriptor: {descriptor}")),
    }
}

/// Go's form of a duration: `1h30m`.
fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let number = &rest[..rest.len() - digits.len()];
        let units = ["ns", "us", "µs", "ms", "s", "m", "h"];
        let unit = units
            .iter()
            .filter(|u| digits.starts_with(**u))
            .max_by_key(|u| u.len());
        match unit {
            Some(unit) if number.parse::<f64>().is_ok() => rest = &digits[unit.len()..],
            _ => return false,
        }
    }
    true
}

fn number(digits: &str, names: &[&str], least: u64) -> Result<u64, String> {
    let lower = digits.to_lowercase();
    if let Some(at) = names.iter().position(|n| *n == lower) {
        return Ok(least + at as u64);
    }
    match digits.parse::<i64>() {
        Ok(found) => u64::try_from(found)
            .map_err(|_| format!("negative number ({found}) not allowed: {digits}")),
        Err(_) => Err(format!(
            "failed to parse int from {digits}: strconv.Atoi: parsing {}: invalid syntax",
            api::field::quote(digits)
        )),
    }
}

/// `*`, `3`, `1-5`, each with a `/2` after it or not.
fn wrong_range(range: &str, field: &Field) -> Result<(), String> {
    let parts: Vec<&str> = range.split('/').collect();
    let ends: Vec<&str> = parts[0].split('-').collect();
    let read = |digits: &str| number(digits, field.names, field.least);
    let (start, mut end) = match ends[..] {
        ["*" | "?", ..] => (field.least, field.most),
        [one] => read(one).map(|n| (n, n))?,
        [from, to] => (read(from)?, read(to)?),
        _ => return Err(format!("too many hyphens: {range}")),
    };
    let step = match parts[..] {
        [_] => 1,
        [_, step] => {
            // `3/2` goes on to the last.
            if ends.len() == 1 {
                end = field.most;
            }
            number(step, &[], 0)?
        }
        _ => return Err(format!("too many slashes: {range}")),
    };
    let Field { least, most, .. } = field;
    if start < *least {
        Err(format!(
            "beginning of range ({start}) below minimum ({least}): {range}"
        ))
    } else if end > *most {
        Err(format!(
            "end of range ({end}) above maximum ({most}): {range}"
        ))
    } else if start > end {
        Err(format!(
            "beginning of range ({start}) beyond end of range ({end}): {range}"
        ))
    } else if step == 0 {
        Err(format!(
            "step of range should be a positive number: {range}"
        ))
    } else {
        Ok(())
    }
}

/// `before`: the schedule that the CronJob had. One that named a time zone in it may go on doing so.
fn validate_schedule(spec: &Value, before: &str, errors: &mut Errors) {
    let path = "spec.schedule";
    let schedule = text(&spec["schedule"]);
    if schedule.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    if let Some(why) = wrong_schedule(schedule) {
        errors.push(FieldError::invalid_str(path, schedule, why));
    }
    if !schedule.contains("TZ") {
        return;
    }
    if !before.contains("TZ") {
        let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.push(FieldError::invalid_str(path, schedule, detail));
    } else if !spec["timeZone"].is_null() {
        let detail = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
        errors.push(FieldError::invalid_str(path, schedule, detail));
    }
}

/// <https://data.iana.org/time-zones/theory.html#naming>
fn is_zone_name(zone: &str) -> bool {
    zone.split('/').all(|part| {
        (1..=14).contains(&part.len())
            && !matches!(part, "." | "..")
            && !part.starts_with('-')
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+'))
    })
}

/// Whether Go's library finds the zone.
fn is_known_zone(zone: &str) -> bool {
    matches!(zone, "" | "Local" | "UTC") || jiff::tz::TimeZone::get(zone).is_ok()
}

fn validate_zone(zone: &Value, errors: &mut Errors) {
    let Some(name) = zone.as_str() else { return };
    let path = "spec.timeZone";
    let mut wrong = |detail: String| errors.push(FieldError::invalid(path, zone, detail));
    if name.is_empty() {
        wrong("timeZone must be nil or non-empty string".into());
        return;
    }
    if !is_zone_name(name) {
        wrong(format!("unknown time zone {name}"));
        return;
    }
    if name.eq_ignore_ascii_case("local") {
        let detail =
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        wrong(detail.into());
    }
    if !is_known_zone(name) {
        wrong(format!("unknown time zone {name}"));
    }
}

fn validate(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    let counts = [
        "startingDeadlineSeconds",
        "successfulJobsHistoryLimit",
        "failedJobsHistoryLimit",
    ];
    none_negative(spec, "spec", &counts, errors);
    required_one_of(
        &spec["concurrencyPolicy"],
        "spec.concurrencyPolicy",
        &["Allow", "Forbid", "Replace"],
        errors,
    );
    let job = &spec["jobTemplate"]["spec"];
    let path = "spec.jobTemplate.spec";
    job::validate_spec(job, path, errors);
    if job["selector"].is_object() {
        let detail = "`selector` will be auto-generated";
        let path = format!("{path}.selector");
        errors.push(FieldError::invalid(path, &job["selector"], detail));
    }
    if job["manualSelector"] == true {
        let path = format!("{path}.manualSelector");
        let allowed = ["nil", "false"];
        errors.push(FieldError::not_supported(path, &true.into(), &allowed));
    }
}

fn validate_create(o: &Value, errors: &mut Errors) {
    // A Job's name is made from this one with a suffix.
    const LONGEST: usize = 52;
    validate_schedule(&o["spec"], "", errors);
    validate_zone(&o["spec"]["timeZone"], errors);
    let owner = text(&o["metadata"]["name"]);
    if owner.len() > LONGEST {
        let detail = "must be no more than 52 characters";
        errors.push(FieldError::invalid_str("metadata.name", owner, detail));
    }
}

pub(crate) const STRATEGY: Strategy = Strategy {
    generation: true,
    status_metadata: true,
    default: |o| {
        let Some(spec) = object(o, "spec") else {
            return;
        };
        set_default(spec, "concurrencyPolicy", "Allow");
        set_default(spec, "suspend", false);
        set_default(spec, "successfulJobsHistoryLimit", 3);
        set_default(spec, "failedJobsHistoryLimit", 1);
        // Only the Pod template is defaulted: the rest of the Job's spec is when the Job is made.
        if let Some(job) = object(spec, "jobTemplate").and_then(|t| object(t, "spec")) {
            pod_spec::default_template(job);
        }
    },
    validate,
    validate_create,
    validate_update: |new, old, errors| {
        let before = text(&old["spec"]["schedule"]);
        validate_schedule(&new["spec"], before, errors);
        if new["spec"]["timeZone"] != old["spec"]["timeZone"] {
            validate_zone(&new["spec"]["timeZone"], errors);
        }
    },
    columns: &[
        NAME,
        column("Schedule", "string", "When it runs."),
        column("Timezone", "string", "The time zone of the schedule."),
        column("Suspend", "boolean", "Whether it is paused."),
        column("Active", "integer", "How many of its Jobs run."),
        column("Last Schedule", "string", "Time since it ran last."),
        AGE,
        wide("Containers", "The names of the template's containers."),
        wide("Images", "The images of the template's containers."),
        wide("Selector", "The labels of its Pods."),
    ],
    row: |o, now| {
        let spec = &o["spec"];
        let last = o["status"]["lastScheduleTime"].as_str();
        let job = &spec["jobTemplate"]["spec"];
        let [containers, images] = containers_and_images(&job["template"]["spec"]);
        let suspended = if spec["suspend"] == true {
            "True"
        } else {
            "False"
        };
        vec![
            name(o),
            text(&spec["schedule"]).into(),
            spec["timeZone"].as_str().unwrap_or("<none>").into(),
            suspended.into(),
            items(&o["status"]["active"]).len().into(),
            last.map_or_else(|| "<none>".to_owned(), |t| time::age(Some(t), now))
                .into(),
            age(o, now),
            containers,
            images,
            show_selector(&job["selector"]),
        ]
    },
    ..Strategy::BASE
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules() {
        for fine in [
            "* * * * *",
            "*/15 0-5,8 1 jan-MAR sun",
            "@daily",
            "@every 1h30m",
        ] {
            assert_eq!(wrong_schedule(fine), None, "{fine}");
        }
        for (schedule, wrong) in [
            ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            (
                "5-1 * * * *",
                "beginning of range (5) beyond end of range (1): 5-1",
            ),
            (
                "*/0 * * * *",
                "step of range should be a positive number: */0",
            ),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            (
                "x * * * *",
                "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax",
            ),
            ("@often", "unrecognized descriptor: @often"),
            (
                "@every x",
                "failed to parse duration @every x: time: invalid duration \"x\"",
            ),
        ] {
            assert_eq!(wrong_schedule(schedule).as_deref(), Some(wrong));
        }
    }
}
