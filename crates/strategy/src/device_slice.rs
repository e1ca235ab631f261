//! ResourceSlices: the devices that a driver has on offer.
//!
//! Follows <https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/>.

use api::{FieldError, Quantity, names};
use serde_json::Value;

use crate::csi::driver_name;
use crate::device_claim::{
    EFFECTS, attribute_name, by_name, label, label_key, label_value, node_selector, pool_name,
    validate_binding_conditions, validate_list, validate_set,
};
use crate::tree::{
    age, entries, immutable, int, invalid_all, items, name, quantity, required_one_of, text,
};
use crate::{AGE, Errors, NAME, Strategy, column, count};

const DEVICES_LIMIT: usize = 128;
/// When devices have taints or share counters.
const ADVANCED_DEVICES_LIMIT: usize = 64;
const COUNTER_SETS_LIMIT: usize = 8;
const COUNTERS_LIMIT: usize = 32;
const CONSUMED_SETS_LIMIT: usize = 2;
const TAINTS_LIMIT: usize = 16;
const ATTRIBUTES_LIMIT: usize = 32;
const ATTRIBUTE_LIMIT: usize = 64;
const VALID_VALUES_LIMIT: usize = 10;
/// The longest key that an error shows whole: a domain, a slash and a name.
const KEY_SHOWN: usize = 63 + 1 + 32;
const LABEL_LIMIT: usize = 63;

/// A key as an error's path shows it: the middle of a very long one left out.
fn shown_key(key: &str, limit: usize) -> String {
    if key.len() <= limit || !key.is_ascii() {
        return key.to_owned();
    }
    let rest = limit - 3;
    let (head, tail) = (rest.div_ceil(2), rest / 2);
    format!("{}...{}", &key[..head], &key[key.len() - tail..])
}

fn validate_pool(pool: &Value, errors: &mut Errors) {
    pool_name(&pool["name"], "spec.pool.name", errors);
    let slices = int(&pool["resourceSliceCount"]);
    if slices <= 0 {
        let path = "spec.pool.resourceSliceCount";
        let detail = "must be greater than zero";
        errors.push(FieldError::invalid(path, &slices.into(), detail));
    }
    let generation = &pool["generation"];
    if int(generation) < 0 {
        let path = "spec.pool.generation";
        let detail = "must be greater than or equal to zero";
        errors.push(FieldError::invalid(path, generation, detail));
    }
}

/// Where the devices are: exactly one of these says it. `unset`: what is wrong with an empty node name.
fn validate_place(
    spec: &Value,
    path: &str,
    unset: &str,
    [none, many]: [&str; 2],
    errors: &mut Errors,
) {
    let at = |key: &str| format!("{path}.{key}");
    let mut said = Vec::new();
    match spec["nodeName"].as_str() {
        Some("") => errors.push(FieldError::invalid_str(at("nodeName"), "", unset)),
        Some(node) => {
            said.push("`nodeName`");
            let wrong = names::dns1123_subdomain(node);
            invalid_all(&at("nodeName"), node, wrong, errors);
        }
        None => {}
    }
    if spec["nodeSelector"].is_object() {
        said.push("`nodeSelector`");
        node_selector(&spec["nodeSelector"], &at("nodeSelector"), errors);
    }
    for (key, shown) in [
        ("allNodes", "`allNodes`"),
        ("perDeviceNodeSelection", "`perDeviceNodeSelection`"),
    ] {
        match spec[key].as_bool() {
            Some(true) => said.push(shown),
            Some(false) => {
                let detail = "must be either unset or set to true";
                errors.push(FieldError::invalid(at(key), &false.into(), detail));
            }
            None => {}
        }
    }
    match said[..] {
        [] => errors.push(FieldError::required(path, none)),
        [_] => {}
        _ => {
            let shown = format!("{{{}}}", said.join(", "));
            errors.push(FieldError::invalid_str(path, &shown, many));
        }
    }
}

fn validate_slice_place(spec: &Value, errors: &mut Errors) {
    let words = [
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple \
         fields are set",
    ];
    let unset = "must be either unset or set to a non-empty string";
    validate_place(spec, "spec", unset, words, errors);
    let terms = &spec["nodeSelector"]["nodeSelectorTerms"];
    if spec["nodeSelector"].is_object() && items(terms).len() != 1 {
        let path = "spec.nodeSelector.nodeSelectorTerms";
        let detail = "must have exactly one node selector term";
        errors.push(FieldError::invalid(path, terms, detail));
    }
}

fn validate_device_place(device: &Value, path: &str, per_device: bool, errors: &mut Errors) {
    if per_device {
        let words = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when \
                     `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
        return validate_place(device, path, "must not be empty", [words; 2], errors);
    }
    let keys = ["nodeName", "nodeSelector", "allNodes"];
    if keys.iter().any(|key| !device[*key].is_null()) {
        let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to \
                      true in the ResourceSlice spec";
        errors.push(FieldError::invalid(path, &Value::Null, detail));
    }
}

/// A version as semver.org's 2.0.0 has it.
fn is_semantic_version(version: &str) -> bool {
    let numeric = |s: &str| {
        !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit()) && (s == "0" || !s.starts_with('0'))
    };
    let word = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let (rest, build) = match version.split_once('+') {
        Some((rest, build)) => (rest, Some(build)),
        None => (version, None),
    };
    let (core, pre) = match rest.split_once('-') {
        Some((core, pre)) => (core, Some(pre)),
        None => (rest, None),
    };
    let numbers: Vec<&str> = core.split('.').collect();
    let pre_part = |s: &str| numeric(s) || word(s) && !s.bytes().all(|b| b.is_ascii_digit());
    numbers.len() == 3
        && numbers.into_iter().all(numeric)
        && pre.is_none_or(|pre| pre.split('.').all(pre_part))
        && build.is_none_or(|build| build.split('.').all(word))
}

fn validate_attribute(attribute: &Value, path: &str, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    for key in ["string", "version"] {
        let value = text(&attribute[key]);
        if key == "version" && attribute[key].is_string() && !is_semantic_version(value) {
            let detail = "must be a string compatible with semver.org spec 2.0.0";
            errors.push(FieldError::invalid_str(at(key), value, detail));
        }
        if value.len() > ATTRIBUTE_LIMIT {
            errors.push(FieldError::too_long(at(key), ATTRIBUTE_LIMIT));
        }
    }
    let detail = "exactly one value must be specified";
    match count(attribute) {
        0 => errors.push(FieldError::invalid_str(path, "", detail)),
        1 => {}
        _ => errors.push(FieldError::invalid(path, attribute, detail)),
    }
}

/// What may be taken of a capacity at once.
struct Policy {
    capacity: Quantity,
    default: Quantity,
}

impl Policy {
    fn validate_values(&self, values: &Value, path: &str, errors: &mut Errors) {
        let list: Vec<Quantity> = items(values).iter().filter_map(quantity).collect();
        for (i, pair) in list.windows(2).enumerate() {
            if pair[0] > pair[1] {
                let (path, bad) = (format!("{path}[{}]", i + 1), pair[1].to_string());
                let detail = "values must be sorted in ascending order";
                errors.push(FieldError::invalid_str(path, &bad, detail));
            }
        }
        let key = |v: &Value| {
            let value = quantity(v).map(Quantity::value);
            value.map_or(Value::Null, |n| n.to_string().into())
        };
        let rule = |v: &Value, path: &str, errors: &mut Errors| {
            let over = quantity(v).filter(|q| *q > self.capacity);
            if let Some(over) = over {
                let detail = format!("option is larger than capacity value: {}", self.capacity);
                errors.push(FieldError::invalid_str(path, &over.to_string(), detail));
            }
        };
        validate_set(values, path, VALID_VALUES_LIMIT, key, errors, rule);
        if !list.contains(&self.default) {
            let detail = "default value is not valid according to the requestPolicy";
            let bad = self.default.to_string();
            errors.push(FieldError::invalid_str(path, &bad, detail));
        }
    }

    fn validate_range(&self, range: &Value, path: &str, errors: &mut Errors) {
        let at = |key: &str| format!("{path}.{key}");
        let (capacity, default) = (self.capacity, self.default);
        let Some(min) = quantity(&range["min"]) else {
            let detail = "required when validRange is defined";
            return errors.push(FieldError::required(at("min"), detail));
        };
        let mut unless = |right: bool, key: &str, bad: Quantity, detail: String| {
            if !right {
                errors.push(FieldError::invalid_str(at(key), &bad.to_string(), detail));
            }
        };
        let detail = format!("min is larger than capacity value: {capacity}");
        unless(min <= capacity, "min", min, detail);
        let detail = format!("default is less than min: {min}");
        unless(default >= min, "min", default, detail);
        let max = quantity(&range["max"]);
        if let Some(max) = max {
            let detail = format!("min is larger than max: {max}");
            unless(min <= max, "max", min, detail);
            let detail = format!("max is larger than capacity value: {capacity}");
            unless(max <= capacity, "max", max, detail);
            let detail = format!("default is more than max: {max}");
            unless(default <= max, "max", default, detail);
        }
        let Some(step) = quantity(&range["step"]) else {
            return;
        };
        let first = Quantity::new(min.value() + step.value(), step.format());
        let detail = format!("one step {first} is larger than capacity value: {capacity}");
        unless(first <= capacity, "step", step, detail);
        for value in [Some(default), max].into_iter().flatten() {
            let steps = (value.value() - min.value()).checked_rem(step.value());
            let detail = format!("value is not a multiple of a given step ({step}) from ({min})");
            unless(steps == Some(0), "step", value, detail);
        }
    }
}

fn validate_capacity(capacity: &Value, path: &str, shared: bool, errors: &mut Errors) {
    let path = format!("{path}.requestPolicy");
    let policy = &capacity["requestPolicy"];
    if !policy.is_object() {
        return;
    }
    if !shared {
        let detail = "allowMultipleAllocations must be true";
        return errors.push(FieldError::forbidden(path, detail));
    }
    let (values, range) = (&policy["validValues"], &policy["validRange"]);
    let key = match (!items(values).is_empty(), range.is_object()) {
        (true, true) => {
            let detail = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the \
                          same time";
            return errors.push(FieldError::forbidden(path, detail));
        }
        (true, false) => "validValues",
        (false, true) => "validRange",
        (false, false) => return,
    };
    let at = format!("{path}.{key}");
    let (Some(default), Some(capacity)) =
        (quantity(&policy["default"]), quantity(&capacity["value"]))
    else {
        let detail = format!("required when {key} is defined");
        return errors.push(FieldError::required(format!("{path}.default"), detail));
    };
    let policy = Policy { capacity, default };
    if key == "validValues" {
        policy.validate_values(values, &at, errors);
    } else {
        policy.validate_range(range, &at, errors);
    }
}

fn validate_taint(taint: &Value, path: &str, errors: &mut Errors) {
    label_key(&taint["key"], &format!("{path}.key"), errors);
    label_value(&taint["value"], &format!("{path}.value"), errors);
    let at = format!("{path}.effect");
    required_one_of(&taint["effect"], &at, &EFFECTS, errors);
}

/// Counters by name, and the name of the set they are of.
fn validate_counters(set: &Value, key: &str, path: &str, errors: &mut Errors) {
    if text(&set[key]).is_empty() {
        errors.push(FieldError::required(format!("{path}.{key}"), ""));
    } else {
        label(&set[key], &format!("{path}.{key}"), errors);
    }
    let (path, counters) = (format!("{path}.counters"), &set["counters"]);
    match count(counters) {
        0 => errors.push(FieldError::required(path, "")),
        n if n > COUNTERS_LIMIT => {
            errors.push(FieldError::too_many(path, n, COUNTERS_LIMIT));
        }
        _ => {
            for (counter, _) in entries(counters) {
                let path = format!("{path}[{}]", shown_key(counter, LABEL_LIMIT));
                invalid_all(&path, counter, names::dns1123_label(counter), errors);
            }
        }
    }
}

fn validate_device(device: &Value, path: &str, per_device: bool, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    label(&device["name"], &at("name"), errors);
    let (attributes, capacities) = (&device["attributes"], &device["capacity"]);
    let all = count(attributes) + count(capacities);
    if all > ATTRIBUTES_LIMIT {
        let detail = format!(
            "the total number of attributes and capacities must not exceed {ATTRIBUTES_LIMIT}"
        );
        errors.push(FieldError::invalid(path, &all.into(), detail));
    }
    for (key, attribute) in entries(attributes) {
        let path = format!("{path}.attributes[{}]", shown_key(key, KEY_SHOWN));
        attribute_name(key, &path, errors);
        validate_attribute(attribute, &path, errors);
    }
    let shared = device["allowMultipleAllocations"] == true;
    for (key, capacity) in entries(capacities) {
        let path = format!("{path}.capacity[{}]", shown_key(key, KEY_SHOWN));
        attribute_name(key, &path, errors);
        validate_capacity(capacity, &path, shared, errors);
    }
    let (taints, limit) = (&device["taints"], TAINTS_LIMIT);
    validate_list(taints, &at("taints"), limit, errors, validate_taint);
    let by_set = |v: &Value| Value::from(text(&v["counterSet"]));
    let rule = |v: &Value, path: &str, errors: &mut Errors| {
        validate_counters(v, "counterSet", path, errors);
    };
    let (list, limit) = (&device["consumesCounters"], CONSUMED_SETS_LIMIT);
    validate_set(list, &at("consumesCounters"), limit, by_set, errors, rule);
    validate_device_place(device, path, per_device, errors);
    validate_binding_conditions(device, path, errors);
}

fn validate(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    driver_name(&spec["driver"], "spec.driver", errors);
    validate_pool(&spec["pool"], errors);
    validate_slice_place(spec, errors);
    let (devices, counters) = (&spec["devices"], &spec["sharedCounters"]);
    if devices.is_array() && counters.is_array() {
        let detail = "only one of `sharedCounters` or `devices` is allowed";
        errors.push(FieldError::invalid_str("spec", "", detail));
    }
    let advanced =
        |d: &Value| !items(&d["taints"]).is_empty() || !items(&d["consumesCounters"]).is_empty();
    let limit = if items(devices).iter().any(advanced) {
        ADVANCED_DEVICES_LIMIT
    } else {
        DEVICES_LIMIT
    };
    let per_device = spec["perDeviceNodeSelection"] == true;
    let rule = |device: &Value, path: &str, errors: &mut Errors| {
        validate_device(device, path, per_device, errors);
    };
    validate_set(devices, "spec.devices", limit, by_name, errors, rule);
    let rule = |set: &Value, path: &str, errors: &mut Errors| {
        validate_counters(set, "name", path, errors);
    };
    let (path, limit) = ("spec.sharedCounters", COUNTER_SETS_LIMIT);
    validate_set(counters, path, limit, by_name, errors, rule);
}

pub(crate) const STRATEGY: Strategy = Strategy {
    generation: true,
    validate,
    validate_update: |new, old, errors| {
        for (pointer, path) in [
            ("/spec/pool/name", "spec.pool.name"),
            ("/spec/driver", "spec.driver"),
            ("/spec/nodeName", "spec.nodeName"),
        ] {
            let value = |o: &Value| o.pointer(pointer).cloned().unwrap_or_default();
            immutable(&value(new), &value(old), path, errors);
        }
    },
    columns: &[
        NAME,
        column("Node", "string", "The node they are on."),
        column("Driver", "string", "The driver that has them."),
        column("Pool", "string", "The pool they are of."),
        AGE,
    ],
    row: |o, now| {
        let spec = &o["spec"];
        let cell = |v: &Value| Value::from(text(v));
        vec![
            name(o),
            cell(&spec["nodeName"]),
            cell(&spec["driver"]),
            cell(&spec["pool"]["name"]),
            age(o, now),
        ]
    },
    fields: |o, fields| {
        for (path, key) in [("spec.nodeName", "nodeName"), ("spec.driver", "driver")] {
            fields.push((path, text(&o["spec"][key]).to_owned()));
        }
    },
    ..Strategy::BASE
};
