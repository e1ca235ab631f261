//! Events. The groups "" and `events.k8s.io` show the same stored objects; the stored form is the core one.

use api::{FieldError, time};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::tree::{int, invalid_all, name, object, text};
use crate::{Column, Errors, Fields, NAME, Names, Strategy, column, wide};

fn validate(o: &Value, errors: &mut Errors) {
    // `regarding` is what events.k8s.io calls the involved object.
    let new_form = o["regarding"].is_object();
    let involved = if new_form {
        &o["regarding"]
    } else {
        &o["involvedObject"]
    };
    let (about, own) = (
        text(&involved["namespace"]),
        text(&o["metadata"]["namespace"]),
    );
    let timed = o["eventTime"].is_string();
    let mismatch = match about {
        "" => !(own == "default" || own.is_empty() || (timed && own == "kube-system")),
        about => !timed && about != own,
    };
    if mismatch {
        let detail = "does not match event.namespace";
        errors.push(FieldError::invalid_str(
            "involvedObject.namespace",
            about,
            detail,
        ));
    }
    if timed {
        let controller = match text(&o["reportingController"]) {
            "" => text(&o["reportingComponent"]),
            controller => controller,
        };
        if controller.is_empty() {
            errors.push(FieldError::required("reportingController", ""));
        }
        invalid_all(
            "reportingController",
            controller,
            api::names::qualified_name(controller),
            errors,
        );
        for key in ["reportingInstance", "action", "reason"] {
            let value = text(&o[key]);
            if value.is_empty() {
                errors.push(FieldError::required(key, ""));
            } else if value.len() > 128 {
                errors.push(FieldError::invalid_str(
                    key,
                    "",
                    "can have at most 128 characters",
                ));
            }
        }
        let message = if new_form {
            text(&o["note"])
        } else {
            text(&o["message"])
        };
        if message.len() > 1024 {
            errors.push(FieldError::invalid_str(
                "message",
                "",
                "can have at most 1024 characters",
            ));
        }
    }
    if !new_form {
        return;
    }
    // What events.k8s.io asks for beyond the core group.
    if !timed {
        errors.push(FieldError::required("eventTime", ""));
    }
    let kind = text(&o["type"]);
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(FieldError::invalid_str(
            "type",
            "",
            format!("has invalid value: {kind}"),
        ));
    }
    if o["series"].is_object() && int(&o["series"]["count"]) < 2 {
        errors.push(FieldError::invalid_str(
            "series.count",
            "",
            "should be at least 2",
        ));
    }
}

fn fields(o: &Value, out: &mut Fields) {
    let involved = if o["involvedObject"].is_object() {
        &o["involvedObject"]
    } else {
        &o["regarding"]
    };
    for (field, key) in [
        ("involvedObject.kind", "kind"),
        ("involvedObject.namespace", "namespace"),
        ("involvedObject.name", "name"),
        ("involvedObject.uid", "uid"),
        ("involvedObject.apiVersion", "apiVersion"),
        ("involvedObject.resourceVersion", "resourceVersion"),
        ("involvedObject.fieldPath", "fieldPath"),
    ] {
        out.push((field, text(&involved[key]).into()));
    }
    let source = match text(&o["source"]["component"]) {
        "" => text(&o["reportingComponent"]),
        component => component,
    };
    for (field, value) in [
        ("reason", text(&o["reason"])),
        ("reportingComponent", text(&o["reportingComponent"])),
        ("source", source),
        ("type", text(&o["type"])),
    ] {
        out.push((field, value.into()));
    }
}

const COLUMNS: &[Column] = &[
    column("Last Seen", "string", "Time since it happened last."),
    column("Type", "string", "Normal or Warning."),
    column("Reason", "string", "A short word for why."),
    column("Object", "string", "What it is about."),
    wide("Subobject", "The part of the object that it is about."),
    wide("Source", "The component that reports it."),
    column("Message", "string", "What happened."),
    wide("First Seen", "Time since it happened first."),
    wide("Count", "How often it happened."),
    Column {
        priority: 1,
        ..NAME
    },
];

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let pick = |core: &str, new: &str| {
        if o[core].is_null() {
            o[new].clone()
        } else {
            o[core].clone()
        }
    };
    let involved = pick("involvedObject", "regarding");
    let age = |v: &Value| time::age(v.as_str(), now);
    let first = match pick("firstTimestamp", "deprecatedFirstTimestamp") {
        Value::Null => age(&o["eventTime"]),
        first => age(&first),
    };
    let last = match pick("lastTimestamp", "deprecatedLastTimestamp") {
        Value::Null => first.clone(),
        last => age(&last),
    };
    let last = match &o["series"]["lastObservedTime"] {
        Value::Null => last,
        seen => age(seen),
    };
    let count = int(&o["series"]["count"])
        .max(int(&pick("count", "deprecatedCount")))
        .max(1);
    let source = pick("source", "deprecatedSource");
    let component = match text(&source["component"]) {
        "" => text(&o["reportingComponent"]),
        component => component,
    };
    let host = match text(&source["host"]) {
        "" => text(&o["reportingInstance"]),
        host => host,
    };
    let source = if host.is_empty() {
        component.to_owned()
    } else {
        format!("{component}, {host}")
    };
    let kind = text(&involved["kind"]).to_lowercase();
    let target = text(&involved["name"]);
    vec![
        last.into(),
        text(&o["type"]).into(),
        text(&o["reason"]).into(),
        (if target.is_empty() {
            kind
        } else {
            format!("{kind}/{target}")
        })
        .into(),
        text(&involved["fieldPath"]).into(),
        source.into(),
        text(&pick("message", "note")).trim().into(),
        first.into(),
        count.into(),
        name(o),
    ]
}

pub(crate) const STRATEGY: Strategy = Strategy {
    // Upstream does not look at the names of core Events, and they are made from those of any object.
    names: Names::PathSegment,
    default: |o| {
        // Both are always written, empty or not.
        if o["regarding"].is_null() {
            object(o, "source");
        }
    },
    validate,
    columns: COLUMNS,
    row,
    fields,
    ..Strategy::BASE
};

/// Field names in the core form and in `events.k8s.io`.
const NAMES: [(&str, &str); 6] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// Turns an Event of one group into the form of the other.
pub(crate) fn convert(o: &mut Value, to_core: bool) {
    let Value::Object(map) = o else { return };
    for (core, new) in NAMES {
        let (from, to) = if to_core { (new, core) } else { (core, new) };
        if let Some(value) = map.remove(from) {
            map.insert(to.into(), value);
        }
    }
    let version = if to_core { "v1" } else { "events.k8s.io/v1" };
    map.insert("apiVersion".into(), json!(version));
    if !to_core {
        map.entry("reportingController")
            .or_insert_with(|| json!(""));
        if let Some(component) = map.remove("reportingComponent") {
            map.insert("reportingController".into(), component);
        }
    } else if let Some(controller) = map.remove("reportingController") {
        map.insert("reportingComponent".into(), controller);
    }
}
