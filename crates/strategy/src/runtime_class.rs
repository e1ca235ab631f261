//! RuntimeClasses: by which handler of the container runtime a Pod is run.
//!
//! Follows <https://kubernetes.io/docs/concepts/containers/runtime-class/>.

use api::names;
use serde_json::Value;

use crate::pod_spec::{validate_resources, validate_toleration};
use crate::tree::{age, immutable, invalid_all, items, labels, name, text};
use crate::{AGE, Errors, NAME, Strategy, column, shown};

fn validate_scheduling(scheduling: &Value, errors: &mut Errors) {
    labels(
        &scheduling["nodeSelector"],
        "scheduling.nodeSelector",
        errors,
    );
    let key = |t: &Value| ["key", "operator", "value", "effect"].map(|k| text(&t[k]).to_owned());
    let mut seen: Vec<[String; 4]> = Vec::new();
    for (i, toleration) in items(&scheduling["tolerations"]).iter().enumerate() {
        // Upstream's path of what is wrong inside has the field's name twice.
        let path = format!("scheduling.tolerations.tolerations[{i}]");
        validate_toleration(toleration, &path, errors);
        let key = key(toleration);
        if seen.contains(&key) {
            let path = format!("scheduling.tolerations[{i}]");
            let shown = shown::show(toleration, &shown::TOLERATION);
            errors.push(shown::duplicate(path, shown));
        }
        seen.push(key);
    }
}

pub(crate) const STRATEGY: Strategy = Strategy {
    unconditional_update: false,
    validate_create: |o, errors| {
        let handler = text(&o["handler"]);
        invalid_all("handler", handler, names::dns1123_label(handler), errors);
        let overhead = serde_json::json!({ "limits": o["overhead"]["podFixed"] });
        validate_resources(&overhead, "overhead", errors);
        validate_scheduling(&o["scheduling"], errors);
    },
    validate_update: |new, old, errors| {
        immutable(&new["handler"], &old["handler"], "handler", errors);
    },
    columns: &[
        NAME,
        column("Handler", "string", "What the container runtime calls it."),
        AGE,
    ],
    row: |o, now| vec![name(o), text(&o["handler"]).into(), age(o, now)],
    ..Strategy::BASE
};
