//! Claims of devices, their templates and the classes of devices.
//!
//! Follows <https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/>. CEL selectors are
//! looked at for their size, not compiled.

use std::collections::BTreeMap;

use api::{FieldError, names};
use serde_json::Value;

use crate::csi::driver_name;
use crate::tree::{
    age, each, immutable, int, invalid_all, items, labels, name, object, one_of, required_name,
    required_one_of, set, set_default, text,
};
use crate::{AGE, Errors, NAME, Strategy, addresses, column, conditions, pod_spec};

const REQUESTS_LIMIT: usize = 32;
const CONSTRAINTS_LIMIT: usize = 32;
const CONFIGS_LIMIT: usize = 32;
const SELECTORS_LIMIT: usize = 32;
const ALTERNATIVES_LIMIT: usize = 8;
const RESULTS_LIMIT: usize = 32;
const CONSUMERS_LIMIT: usize = 256;
const DEVICE_CONDITIONS_LIMIT: usize = 8;
const ADDRESSES_LIMIT: usize = 16;
const BINDING_CONDITIONS_LIMIT: usize = 4;
const EXPRESSION_LIMIT: usize = 10 * 1024;
/// The bytes of what only a driver understands.
const OPAQUE_LIMIT: usize = 10 * 1024;
const POOL_NAME_LIMIT: usize = 253;
const IDENTIFIER_LIMIT: usize = 32;
const INTERFACE_NAME_LIMIT: usize = 256;
const HARDWARE_ADDRESS_LIMIT: usize = 128;
pub(crate) const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

/// Each entry of a list; or that there are more than `limit`, which ends it.
pub(crate) fn validate_list(
    list: &Value,
    path: &str,
    limit: usize,
    errors: &mut Errors,
    mut rule: impl FnMut(&Value, &str, &mut Errors),
) {
    let list = items(list);
    if list.len() > limit {
        return errors.push(FieldError::too_many(path, list.len(), limit));
    }
    for (i, item) in list.iter().enumerate() {
        rule(item, &format!("{path}[{i}]"), errors);
    }
}

/// As [`validate_list`], and no two entries have the same `key`.
pub(crate) fn validate_set(
    list: &Value,
    path: &str,
    limit: usize,
    key: fn(&Value) -> Value,
    errors: &mut Errors,
    rule: impl FnMut(&Value, &str, &mut Errors),
) {
    validate_list(list, path, limit, errors, rule);
    if items(list).len() > limit {
        return;
    }
    let keys: Vec<Value> = items(list).iter().map(key).collect();
    for (i, key) in keys.iter().enumerate() {
        if keys[..i].contains(key) {
            errors.push(FieldError::duplicate(format!("{path}[{i}]"), key));
        }
    }
}

pub(crate) fn by_name(v: &Value) -> Value {
    text(&v["name"]).into()
}

pub(crate) fn label(v: &Value, path: &str, errors: &mut Errors) {
    invalid_all(path, text(v), names::dns1123_label(text(v)), errors);
}

pub(crate) fn pool_name(v: &Value, path: &str, errors: &mut Errors) {
    let pool = text(v);
    if pool.is_empty() {
        return errors.push(FieldError::required(path, ""));
    }
    if pool.len() > POOL_NAME_LIMIT {
        errors.push(FieldError::too_long(path, POOL_NAME_LIMIT));
    }
    for part in pool.split('/') {
        invalid_all(path, part, names::dns1123_subdomain(part), errors);
    }
}

fn validate_identifier(id: &str, path: &str, errors: &mut Errors) {
    if id.len() > IDENTIFIER_LIMIT {
        errors.push(FieldError::too_long(path, IDENTIFIER_LIMIT));
    }
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    if !id.starts_with(letter) || !id.chars().all(|c| letter(c) || c.is_ascii_digit()) {
        let detail = "a valid C identifier must start with alphabetic character or '_', followed by a string of \
                      alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for \
                      validation is '[A-Za-z_][A-Za-z0-9_]*')";
        errors.push(FieldError::invalid_str(path, id, detail));
    }
}

/// The name of an attribute or a capacity, perhaps with the domain of who defined it.
pub(crate) fn attribute_name(name: &str, path: &str, errors: &mut Errors) {
    match name.split('/').collect::<Vec<_>>()[..] {
        [id] => validate_identifier(id, path, errors),
        [domain, id] => {
            if domain.is_empty() {
                let detail = "the domain must not be empty";
                errors.push(FieldError::invalid_str(path, "", detail));
            } else {
                driver_name(&domain.into(), path, errors);
            }
            if id.is_empty() {
                let detail = "the name must not be empty";
                errors.push(FieldError::invalid_str(path, "", detail));
            } else {
                validate_identifier(id, path, errors);
            }
        }
        // As upstream, which takes more parts than two.
        _ => {}
    }
}

fn qualified_attribute(v: &Value, path: &str, errors: &mut Errors) {
    let attribute = text(v);
    attribute_name(attribute, path, errors);
    if !attribute.contains('/') {
        let detail = "a fully qualified name must be a domain and a name separated by a slash";
        errors.push(FieldError::invalid_str(path, attribute, detail));
    }
}

/// The key of a taint or the type of a condition: a label's key.
pub(crate) fn label_key(v: &Value, path: &str, errors: &mut Errors) {
    invalid_all(path, text(v), names::qualified_name(text(v)), errors);
}

pub(crate) fn label_value(v: &Value, path: &str, errors: &mut Errors) {
    invalid_all(path, text(v), names::label_value(text(v)), errors);
}

pub(crate) fn node_selector(v: &Value, path: &str, errors: &mut Errors) {
    if !v.is_object() {
        return;
    }
    let path = format!("{path}.nodeSelectorTerms");
    let terms = items(&v["nodeSelectorTerms"]);
    if terms.is_empty() {
        let detail = "must have at least one node selector term";
        errors.push(FieldError::required(&path, detail));
    }
    for (i, term) in terms.iter().enumerate() {
        for (j, requirement) in items(&term["matchExpressions"]).iter().enumerate() {
            let path = format!("{path}[{i}].matchExpressions[{j}]");
            pod_spec::validate_node_requirement(requirement, &path, errors);
        }
    }
}

fn validate_selectors(selectors: &Value, path: &str, errors: &mut Errors) {
    let rule = |selector: &Value, path: &str, errors: &mut Errors| {
        let expression = text(&selector["cel"]["expression"]);
        if !selector["cel"].is_object() {
            errors.push(FieldError::required(format!("{path}.cel"), ""));
        } else if expression.len() > EXPRESSION_LIMIT {
            let path = format!("{path}.cel.expression");
            errors.push(FieldError::too_long(path, EXPRESSION_LIMIT));
        }
    };
    validate_list(selectors, path, SELECTORS_LIMIT, errors, rule);
}

fn validate_toleration(toleration: &Value, path: &str, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    if !text(&toleration["key"]).is_empty() {
        label_key(&toleration["key"], &at("key"), errors);
    }
    let value = &toleration["value"];
    match text(&toleration["operator"]) {
        "Exists" if !text(value).is_empty() => {
            let detail = "must be empty for operator `Exists`";
            errors.push(FieldError::invalid(at("value"), value, detail));
        }
        "Equal" => label_value(value, &at("value"), errors),
        _ => {}
    }
    let operators = ["Equal", "Exists"];
    let operator = &toleration["operator"];
    required_one_of(operator, &at("operator"), &operators, errors);
    if !text(&toleration["effect"]).is_empty() {
        one_of(&toleration["effect"], &at("effect"), &EFFECTS, errors);
    }
}

/// How many devices of which class.
fn validate_request_of(request: &Value, path: &str, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    let class = &request["deviceClassName"];
    let rule = names::dns1123_subdomain;
    required_name(class, &at("deviceClassName"), rule, errors);
    validate_selectors(&request["selectors"], &at("selectors"), errors);
    let count = int(&request["count"]);
    let detail = match text(&request["allocationMode"]) {
        "All" if count != 0 => "must not be specified when allocationMode is 'All'",
        "ExactCount" if count <= 0 => "must be greater than zero",
        "All" | "ExactCount" => "",
        mode => {
            let modes = ["All", "ExactCount"];
            let path = at("allocationMode");
            errors.push(FieldError::not_supported(path, &mode.into(), &modes));
            ""
        }
    };
    if !detail.is_empty() {
        errors.push(FieldError::invalid(at("count"), &count.into(), detail));
    }
    for (i, toleration) in items(&request["tolerations"]).iter().enumerate() {
        let path = format!("{path}.tolerations[{i}]");
        validate_toleration(toleration, &path, errors);
    }
}

fn validate_request(request: &Value, path: &str, errors: &mut Errors) {
    label(&request["name"], &format!("{path}.name"), errors);
    let alternatives = &request["firstAvailable"];
    match (
        request["exactly"].is_object(),
        !items(alternatives).is_empty(),
    ) {
        (false, false) => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required";
            errors.push(FieldError::required(path, detail));
        }
        (true, true) => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.push(FieldError::invalid(path, &Value::Null, detail));
        }
        (true, false) => {
            validate_request_of(&request["exactly"], &format!("{path}.exactly"), errors);
        }
        (false, true) => {
            let path = format!("{path}.firstAvailable");
            let rule = |sub: &Value, path: &str, errors: &mut Errors| {
                label(&sub["name"], &format!("{path}.name"), errors);
                validate_request_of(sub, path, errors);
            };
            validate_set(
                alternatives,
                &path,
                ALTERNATIVES_LIMIT,
                by_name,
                errors,
                rule,
            );
        }
    }
}

/// The names of a claim's requests, each with those of its alternatives.
struct Requests<'a>(BTreeMap<&'a str, Vec<&'a str>>);

impl<'a> Requests<'a> {
    fn of(devices: &'a Value) -> Self {
        let names = |list: &'a Value| items(list).iter().map(|r| text(&r["name"])).collect();
        let requests = items(&devices["requests"]).iter();
        Self(
            requests
                .map(|r| (text(&r["name"]), names(&r["firstAvailable"])))
                .collect(),
        )
    }

    fn has(&self, request: &str, sub: Option<&str>) -> bool {
        let subs = self.0.get(request);
        subs.is_some_and(|subs| sub.is_none_or(|sub| subs.contains(&sub)))
    }

    fn validate_reference(&self, v: &Value, path: &str, errors: &mut Errors) {
        let detail = "must be the name of a request in the claim or the name of a request and a subrequest separated by \
                      '/'";
        let reference = text(v);
        let parts: Vec<&str> = reference.split('/').collect();
        let known = match parts[..] {
            [request] => self.has(request, None),
            [request, sub] => self.has(request, Some(sub)),
            _ => return errors.push(FieldError::invalid_str(path, reference, detail)),
        };
        for part in parts {
            invalid_all(path, part, names::dns1123_label(part), errors);
        }
        if !known {
            errors.push(FieldError::invalid_str(path, reference, detail));
        }
    }

    fn validate_references(&self, list: &Value, path: &str, errors: &mut Errors) {
        let rule = |v: &Value, path: &str, errors: &mut Errors| {
            self.validate_reference(v, path, errors);
        };
        validate_set(list, path, REQUESTS_LIMIT, Value::clone, errors, rule);
    }
}

fn validate_constraint(
    constraint: &Value,
    requests: &Requests<'_>,
    path: &str,
    errors: &mut Errors,
) {
    let at = |key: &str| format!("{path}.{key}");
    requests.validate_references(&constraint["requests"], &at("requests"), errors);
    for key in ["matchAttribute", "distinctAttribute"] {
        if constraint[key].is_string() {
            return qualified_attribute(&constraint[key], &at(key), errors);
        }
    }
    let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
    errors.push(FieldError::required(path, detail));
}

/// What only a driver understands must at least be an object.
fn validate_raw(v: &Value, path: &str, errors: &mut Errors) {
    if v.is_null() {
        errors.push(FieldError::required(path, ""));
    } else if v.to_string().len() > OPAQUE_LIMIT {
        errors.push(FieldError::too_long(path, OPAQUE_LIMIT));
    } else if !v.is_object() {
        let detail = "must be a valid JSON object";
        errors.push(FieldError::invalid_str(path, "<value omitted>", detail));
    }
}

fn validate_config(config: &Value, path: &str, errors: &mut Errors) {
    let path = format!("{path}.opaque");
    let opaque = &config["opaque"];
    if !opaque.is_object() {
        return errors.push(FieldError::required(path, ""));
    }
    driver_name(&opaque["driver"], &format!("{path}.driver"), errors);
    validate_raw(&opaque["parameters"], &format!("{path}.parameters"), errors);
}

fn validate_claim_spec(spec: &Value, path: &str, errors: &mut Errors) {
    let path = format!("{path}.devices");
    let at = |key: &str| format!("{path}.{key}");
    let devices = &spec["devices"];
    let requests = Requests::of(devices);
    validate_set(
        &devices["requests"],
        &at("requests"),
        REQUESTS_LIMIT,
        by_name,
        errors,
        validate_request,
    );
    let rule = |constraint: &Value, path: &str, errors: &mut Errors| {
        validate_constraint(constraint, &requests, path, errors);
    };
    let (list, limit) = (&devices["constraints"], CONSTRAINTS_LIMIT);
    validate_list(list, &at("constraints"), limit, errors, rule);
    let rule = |config: &Value, path: &str, errors: &mut Errors| {
        let path_of_requests = format!("{path}.requests");
        requests.validate_references(&config["requests"], &path_of_requests, errors);
        validate_config(config, path, errors);
    };
    let (list, limit) = (&devices["config"], CONFIGS_LIMIT);
    validate_list(list, &at("config"), limit, errors, rule);
}

fn default_request(request: &mut Value) {
    set_default(request, "allocationMode", "ExactCount");
    if request["allocationMode"] == "ExactCount" && int(&request["count"]) == 0 {
        set(request, "count", 1);
    }
    each(request, "tolerations", |t| {
        set_default(t, "operator", "Equal");
    });
}

fn default_claim_spec(spec: &mut Value) {
    let Some(devices) = spec.get_mut("devices") else {
        return;
    };
    each(devices, "requests", |request| {
        if let Some(exactly) = request.get_mut("exactly") {
            default_request(exactly);
        }
        each(request, "firstAvailable", default_request);
    });
}

fn validate_share(v: &Value, path: &str, errors: &mut Errors) {
    let Some(id) = v.as_str() else { return };
    let form = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase \
                hexadecimal characters";
    let right = |(i, b): (usize, u8)| match i {
        8 | 13 | 18 | 23 => b == b'-',
        _ => b.is_ascii_hexdigit(),
    };
    let detail = match id.len() {
        36 if !id.bytes().enumerate().all(right) => "error validating uid: invalid UUID format",
        36 if id.bytes().any(|b| b.is_ascii_uppercase()) => form,
        36 => return,
        32 if id.bytes().all(|b| b.is_ascii_hexdigit()) => form,
        n => {
            let detail = format!("error validating uid: invalid UUID length: {n}");
            return errors.push(FieldError::invalid_str(path, id, detail));
        }
    };
    errors.push(FieldError::invalid_str(path, id, detail));
}

/// Which device: its driver, pool, name and share.
fn device_id(v: &Value) -> Value {
    let parts = ["driver", "pool", "device", "shareID"].map(|key| text(&v[key]));
    let parts = parts.iter().filter(|p| !p.is_empty()).copied();
    parts.collect::<Vec<_>>().join("/").into()
}

fn validate_device_id(v: &Value, path: &str, errors: &mut Errors) {
    driver_name(&v["driver"], &format!("{path}.driver"), errors);
    pool_name(&v["pool"], &format!("{path}.pool"), errors);
    label(&v["device"], &format!("{path}.device"), errors);
    validate_share(&v["shareID"], &format!("{path}.shareID"), errors);
}

/// Conditions that must, and that must not, come true before a Pod is bound.
pub(crate) fn validate_binding_conditions(v: &Value, path: &str, errors: &mut Errors) {
    const KEYS: [&str; 2] = ["bindingConditions", "bindingFailureConditions"];
    let [wanted, failures] = KEYS.map(|key| items(&v[key]));
    for (key, list) in [(KEYS[0], wanted), (KEYS[1], failures)] {
        let path = format!("{path}.{key}");
        let limit = BINDING_CONDITIONS_LIMIT;
        validate_list(&v[key], &path, limit, errors, label_key);
        for (i, condition) in list.iter().enumerate() {
            if list[..i].contains(condition) {
                errors.push(FieldError::duplicate(format!("{path}[{i}]"), condition));
            }
        }
    }
    for (i, condition) in failures.iter().enumerate() {
        if wanted.contains(condition) {
            let path = format!("{path}.{}[{i}]", KEYS[1]);
            let detail = "bindingFailureConditions must not overlap with bindingConditions";
            errors.push(FieldError::invalid(path, condition, detail));
        }
    }
    let alone = match (wanted.is_empty(), failures.is_empty()) {
        (true, false) => KEYS,
        (false, true) => [KEYS[1], KEYS[0]],
        _ => return,
    };
    let detail = format!("{} are required to use {}", alone[0], alone[1]);
    let path = format!("{path}.{}", alone[0]);
    errors.push(FieldError::invalid(path, &v[alone[0]], detail));
}

fn validate_allocation(
    allocation: &Value,
    requests: &Requests<'_>,
    path: &str,
    errors: &mut Errors,
) {
    let devices = &allocation["devices"];
    let rule = |result: &Value, path: &str, errors: &mut Errors| {
        let request = format!("{path}.request");
        requests.validate_reference(&result["request"], &request, errors);
        validate_device_id(result, path, errors);
        validate_binding_conditions(result, path, errors);
    };
    let at = format!("{path}.devices.results");
    validate_list(&devices["results"], &at, RESULTS_LIMIT, errors, rule);
    let rule = |config: &Value, path: &str, errors: &mut Errors| {
        let (at, sources) = (format!("{path}.source"), ["FromClaim", "FromClass"]);
        required_one_of(&config["source"], &at, &sources, errors);
        let at = format!("{path}.requests");
        requests.validate_references(&config["requests"], &at, errors);
        validate_config(config, path, errors);
    };
    let at = format!("{path}.devices.config");
    validate_list(&devices["config"], &at, 2 * CONFIGS_LIMIT, errors, rule);
    let selector = &allocation["nodeSelector"];
    node_selector(selector, &format!("{path}.nodeSelector"), errors);
}

fn validate_network(data: &Value, path: &str, errors: &mut Errors) {
    for (key, limit) in [
        ("interfaceName", INTERFACE_NAME_LIMIT),
        ("hardwareAddress", HARDWARE_ADDRESS_LIMIT),
    ] {
        if text(&data[key]).len() > limit {
            errors.push(FieldError::too_long(format!("{path}.{key}"), limit));
        }
    }
    validate_set(
        &data["ips"],
        &format!("{path}.ips"),
        ADDRESSES_LIMIT,
        Value::clone,
        errors,
        addresses::validate_interface,
    );
}

fn validate_device_status(device: &Value, allocated: &[Value], path: &str, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    validate_device_id(device, path, errors);
    let id = device_id(device);
    if !allocated.contains(&id) {
        let detail = "must be an allocated device in the claim";
        errors.push(FieldError::invalid(path, &id, detail));
    }
    let states = &device["conditions"];
    let (count, limit) = (items(states).len(), DEVICE_CONDITIONS_LIMIT);
    if count > limit {
        errors.push(FieldError::too_many(at("conditions"), count, limit));
    }
    conditions::validate(states, &at("conditions"), errors);
    if !device["data"].is_null() {
        validate_raw(&device["data"], &at("data"), errors);
    }
    validate_network(&device["networkData"], &at("networkData"), errors);
}

fn validate_consumer(consumer: &Value, path: &str, errors: &mut Errors) {
    for key in ["resource", "name", "uid"] {
        if text(&consumer[key]).is_empty() {
            errors.push(FieldError::required(format!("{path}.{key}"), ""));
        }
    }
}

fn validate_reservations(new: &Value, old: &Value, errors: &mut Errors) {
    let path = "status.reservedFor";
    let list = &new["status"]["reservedFor"];
    let by_uid = |v: &Value| Value::from(text(&v["uid"]));
    let limit = CONSUMERS_LIMIT;
    validate_set(list, path, limit, by_uid, errors, validate_consumer);
    let before = items(&old["status"]["reservedFor"]);
    let added = items(list).iter().any(|c| !before.contains(c));
    let deleting = new["metadata"]["deletionTimestamp"].is_string();
    let allocated = new["status"]["allocation"].is_object();
    let detail = if items(list).is_empty() {
        return;
    } else if !allocated {
        "may not be specified when `allocated` is not set"
    } else if deleting && added {
        "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"
    } else {
        return;
    };
    errors.push(FieldError::forbidden(path, detail));
}

fn validate_status(new: &Value, old: &Value, errors: &mut Errors) {
    let (after, before) = (&new["status"]["allocation"], &old["status"]["allocation"]);
    validate_reservations(new, old, errors);
    let results = items(&after["devices"]["results"]).iter();
    let allocated: Vec<Value> = results.map(device_id).collect();
    let rule = |device: &Value, path: &str, errors: &mut Errors| {
        validate_device_status(device, &allocated, path, errors);
    };
    let devices = &new["status"]["devices"];
    let path = "status.devices";
    validate_set(devices, path, usize::MAX, device_id, errors, rule);
    let path = "status.allocation";
    if after.is_object() && before.is_object() {
        immutable(after, before, path, errors);
    } else if after.is_object() {
        let requests = Requests::of(&new["spec"]["devices"]);
        validate_allocation(after, &requests, path, errors);
    }
}

fn show_state(o: &Value) -> String {
    let deleted = o["metadata"]["deletionTimestamp"].is_string();
    let allocated = o["status"]["allocation"].is_object();
    let reserved = allocated && !items(&o["status"]["reservedFor"]).is_empty();
    let states = [
        (deleted, "deleted"),
        (!allocated && !deleted, "pending"),
        (allocated, "allocated"),
        (reserved, "reserved"),
    ];
    let shown: Vec<&str> = states
        .iter()
        .filter(|(is, _)| *is)
        .map(|(_, s)| *s)
        .collect();
    shown.join(",")
}

pub(crate) const CLAIM: Strategy = Strategy {
    default: |o| {
        if let Some(spec) = object(o, "spec") {
            default_claim_spec(spec);
        }
    },
    validate_create: |o, errors| validate_claim_spec(&o["spec"], "spec", errors),
    validate_update: |new, old, errors| immutable(&new["spec"], &old["spec"], "spec", errors),
    validate_status,
    columns: &[
        NAME,
        column(
            "State",
            "string",
            "Whether it has its devices, and is used.",
        ),
        AGE,
    ],
    row: |o, now| vec![name(o), show_state(o).into(), age(o, now)],
    ..Strategy::BASE
};

pub(crate) const TEMPLATE: Strategy = Strategy {
    default: |o| {
        if let Some(spec) = o.pointer_mut("/spec/spec") {
            default_claim_spec(spec);
        }
    },
    validate_create: |o, errors| {
        let metadata = &o["spec"]["metadata"];
        labels(&metadata["labels"], "spec.metadata.labels", errors);
        let keys = crate::tree::entries(&metadata["annotations"]);
        for (key, _) in keys {
            let wrong = names::qualified_name(&key.to_lowercase());
            invalid_all("spec.metadata.annotations", key, wrong, errors);
        }
        validate_claim_spec(&o["spec"]["spec"], "spec.spec", errors);
    },
    validate_update: |new, old, errors| immutable(&new["spec"], &old["spec"], "spec", errors),
    columns: &[NAME, AGE],
    row: |o, now| vec![name(o), age(o, now)],
    ..Strategy::BASE
};

/// A resource that is neither Kubernetes' own nor a quota's.
fn is_extended_resource(name: &str) -> bool {
    name.contains('/')
        && !name.contains("kubernetes.io/")
        && !name.starts_with("requests.")
        && names::qualified_name(&format!("requests.{name}")).is_empty()
}

fn validate_class(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    validate_selectors(&spec["selectors"], "spec.selectors", errors);
    let (list, limit) = (&spec["config"], CONFIGS_LIMIT);
    validate_list(list, "spec.config", limit, errors, validate_config);
    if let Some(resource) = spec["extendedResourceName"].as_str()
        && !is_extended_resource(resource)
    {
        let path = "spec.extendedResourceName";
        let detail = "must be a valid extended resource name";
        errors.push(FieldError::invalid_str(path, resource, detail));
    }
}

pub(crate) const CLASS: Strategy = Strategy {
    generation: true,
    validate: validate_class,
    columns: &[NAME, AGE],
    row: |o, now| vec![name(o), age(o, now)],
    ..Strategy::BASE
};
