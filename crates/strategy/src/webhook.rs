//! Webhooks that are asked about requests, and the rules of which requests: shared by their configurations, admission
//! policies and CustomResourceDefinitions.
//!
//! Follows <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/>. CEL expressions
//! of match conditions are taken as they are.

use api::{FieldError, names};
use serde_json::{Value, json};

use crate::tree::{
    age, each, int, invalid_all, items, label_selector, name, one_of, set_default, text,
};
use crate::{AGE, Errors, NAME, Strategy, column};

const LONGEST_TIMEOUT_SECONDS: i64 = 30;
const MATCH_CONDITIONS_LIMIT: usize = 64;
pub(crate) const FAILURE_POLICIES: [&str; 2] = ["Fail", "Ignore"];
pub(crate) const MATCH_POLICIES: [&str; 2] = ["Equivalent", "Exact"];
const SIDE_EFFECTS: [&str; 2] = ["None", "NoneOnDryRun"];
const ALL_SIDE_EFFECTS: [&str; 4] = ["None", "NoneOnDryRun", "Some", "Unknown"];
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// A list must not hold `*` beside others.
fn lone_wildcard(list: &Value, path: &str, others: &str, errors: &mut Errors) {
    let values = items(list);
    if values.len() > 1 && values.iter().any(|v| v == "*") {
        let detail = format!("if '*' is present, must not specify other {others}");
        errors.push(FieldError::invalid(path, list, detail));
    }
}

fn required_list(list: &Value, path: &str, errors: &mut Errors) {
    if items(list).is_empty() {
        errors.push(FieldError::required(path, ""));
    }
}

/// Resources of a rule, `resource` or `resource/subresource`, each part perhaps a wildcard.
fn validate_resources(list: &Value, path: &str, errors: &mut Errors) {
    required_list(list, path, errors);
    let mut any_subresource_of: Vec<&str> = Vec::new();
    let mut any_resource_with: Vec<&str> = Vec::new();
    // Upstream looks at the last resource without a subresource only.
    let mut last_is_plain = false;
    for (i, resource) in items(list).iter().map(text).enumerate() {
        let path = format!("{path}[{i}]");
        if resource.is_empty() {
            errors.push(FieldError::required(path, ""));
            continue;
        }
        let Some((of, sub)) = resource.split_once('/') else {
            last_is_plain = resource != "*";
            continue;
        };
        let covered = [
            (any_subresource_of.contains(&of), format!("{of}/*")),
            (any_resource_with.contains(&sub), format!("*/{sub}")),
        ];
        for (_, by) in covered.iter().filter(|(is, _)| *is) {
            let detail = format!("if '{by}' is present, must not specify {resource}");
            errors.push(FieldError::invalid_str(&path, resource, detail));
        }
        if sub == "*" {
            any_subresource_of.push(of);
        }
        if of == "*" {
            any_resource_with.push(sub);
        }
    }
    let holds = |wanted: &str| items(list).iter().any(|v| v == wanted);
    if items(list).len() > 1 && holds("*/*") {
        let detail = "if '*/*' is present, must not specify other resources";
        errors.push(FieldError::invalid(path, list, detail));
    }
    if holds("*") && last_is_plain {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.push(FieldError::invalid(path, list, detail));
    }
}

/// Which operations on which resources.
pub(crate) fn validate_rule(rule: &Value, path: &str, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    for (key, others) in [
        ("operations", "operations"),
        ("apiGroups", "API groups"),
        ("apiVersions", "API versions"),
    ] {
        required_list(&rule[key], &at(key), errors);
        lone_wildcard(&rule[key], &at(key), others, errors);
    }
    for (i, operation) in items(&rule["operations"]).iter().enumerate() {
        let all = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
        one_of(operation, &format!("{path}.operations[{i}]"), &all, errors);
    }
    for (i, version) in items(&rule["apiVersions"]).iter().enumerate() {
        if text(version).is_empty() {
            let path = format!("{path}.apiVersions[{i}]");
            errors.push(FieldError::required(path, ""));
        }
    }
    validate_resources(&rule["resources"], &at("resources"), errors);
    let scopes = ["*", "Cluster", "Namespaced"];
    one_of(&rule["scope"], &at("scope"), &scopes, errors);
}

/// The parts of an address as Go's `url.Parse` sees them.
struct Url<'a> {
    scheme: &'a str,
    user: Option<&'a str>,
    host: &'a str,
    query: &'a str,
    fragment: &'a str,
}

impl<'a> Url<'a> {
    fn parse(url: &'a str) -> Result<Self, String> {
        let fail = |why: &str| Err(format!("parse {}: {why}", api::field::quote(url)));
        if url.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return fail("net/url: invalid control character in URL");
        }
        let (rest, fragment) = url.split_once('#').unwrap_or((url, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (scheme, rest) = match rest.split_once(':') {
            Some(("", _)) => return fail("missing protocol scheme"),
            Some((scheme, rest)) if is_scheme(scheme) => (scheme, rest),
            Some((first, _)) if !first.contains('/') => {
                return fail("first path segment in URL cannot contain colon");
            }
            _ => ("", rest),
        };
        let authority = rest.strip_prefix("//").unwrap_or("");
        let authority = authority.split('/').next().unwrap_or_default();
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        Ok(Self {
            scheme,
            user,
            host,
            query,
            fragment,
        })
    }
}

fn is_scheme(s: &str) -> bool {
    s.starts_with(|c: char| c.is_ascii_alphabetic())
        && s.bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

/// Whether an absolute address was given.
pub(crate) fn is_absolute(url: &str) -> bool {
    Url::parse(url).is_ok_and(|u| !u.scheme.is_empty() && !u.host.is_empty())
}

fn validate_url(url: &str, path: &str, errors: &mut Errors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let url = match Url::parse(url) {
        Ok(url) => url,
        Err(why) => {
            let detail = format!("url must be a valid URL: {why}{FORM}");
            return errors.push(FieldError::required(path, detail));
        }
    };
    let mut wrong = |bad: &str, detail: String| {
        errors.push(FieldError::invalid_str(path, bad, detail));
    };
    if url.scheme != "https" {
        let detail = format!("'https' is the only allowed URL scheme{FORM}");
        wrong(url.scheme, detail);
    }
    if url.host.is_empty() {
        wrong(url.host, format!("host must be specified{FORM}"));
    }
    if let Some(user) = url.user {
        let detail = "user information is not permitted in the URL";
        wrong(user, detail.to_owned());
    }
    for (bad, what) in [(url.fragment, "fragments"), (url.query, "query parameters")] {
        if !bad.is_empty() {
            wrong(bad, format!("{what} are not permitted in the URL"));
        }
    }
}

fn validate_service_path(url: &str, path: &str, errors: &mut Errors) {
    let mut wrong = |detail: String| errors.push(FieldError::invalid_str(path, url, detail));
    match url {
        "" | "/" => return,
        "//" => return wrong("segment[0] may not be empty".to_owned()),
        u if !u.starts_with('/') => wrong("must start with a '/'".to_owned()),
        _ => {}
    }
    // As upstream: the first character goes whatever it is.
    let mut rest = url.chars();
    rest.next();
    let rest = rest.as_str();
    for (i, step) in rest
        .strip_suffix('/')
        .unwrap_or(rest)
        .split('/')
        .enumerate()
    {
        if step.is_empty() {
            wrong(format!("segment[{i}] may not be empty"));
            continue;
        }
        for why in names::dns1123_subdomain(step) {
            wrong(format!("segment[{i}]: {why}"));
        }
    }
}

fn validate_service(service: &Value, path: &str, errors: &mut Errors) {
    // Upstream tells of each at the path of the other: https://github.com/kubernetes/kubernetes/issues/141353
    for (missing, told) in [("name", "namespace"), ("namespace", "name")] {
        if text(&service[missing]).is_empty() {
            errors.push(FieldError::required(format!("{path}.{told}"), ""));
        }
    }
    let port = &service["port"];
    let wrong = names::port_number(int(port));
    if !wrong.is_empty() {
        let detail = format!("port is not valid: {}", wrong.join(", "));
        errors.push(FieldError::invalid(format!("{path}.port"), port, detail));
    }
    let url = text(&service["path"]);
    validate_service_path(url, &format!("{path}.path"), errors);
}

/// How a webhook is reached: an address or a Service.
pub(crate) fn validate_client(client: &Value, path: &str, errors: &mut Errors) {
    match (client["url"].as_str(), client["service"].is_object()) {
        (Some(url), false) => validate_url(url, &format!("{path}.url"), errors),
        (None, true) => {
            validate_service(&client["service"], &format!("{path}.service"), errors);
        }
        _ => {
            let detail = "exactly one of url or service is required";
            errors.push(FieldError::required(path, detail));
        }
    }
}

/// The versions of the question that a webhook understands. `known`: one of them must be ours; `missing`: the words when
/// there are none.
pub(crate) fn validate_versions(
    versions: &Value,
    path: &str,
    known: bool,
    missing: &str,
    errors: &mut Errors,
) {
    let list = items(versions);
    if list.is_empty() {
        return errors.push(FieldError::required(path, missing));
    }
    for (i, version) in list.iter().enumerate() {
        let path = format!("{path}[{i}]");
        if list[..i].contains(version) {
            errors.push(FieldError::invalid(path, version, "duplicate version"));
            continue;
        }
        let version = text(version);
        invalid_all(&path, version, names::dns1035_label(version), errors);
    }
    if known && !list.iter().any(|v| REVIEW_VERSIONS.contains(&text(v))) {
        let detail = format!(
            "must include at least one of {}",
            REVIEW_VERSIONS.join(", ")
        );
        errors.push(FieldError::invalid(path, versions, detail));
    }
}

/// Conditions under which a webhook or policy is asked at all.
pub(crate) fn validate_match_conditions(list: &Value, path: &str, errors: &mut Errors) {
    let list = items(list);
    if list.len() > MATCH_CONDITIONS_LIMIT {
        let limit = MATCH_CONDITIONS_LIMIT;
        errors.push(FieldError::too_many(path, list.len(), limit));
    }
    for (i, condition) in list.iter().enumerate() {
        let at = |key: &str| format!("{path}[{i}].{key}");
        if text(&condition["expression"]).trim().is_empty() {
            errors.push(FieldError::required(at("expression"), ""));
        }
        let own = &condition["name"];
        crate::tree::required_name(own, &at("name"), names::qualified_name, errors);
        if !text(own).is_empty() && list[..i].iter().any(|c| c["name"] == *own) {
            errors.push(FieldError::duplicate(at("name"), own));
        }
    }
}

/// A name of at least three parts.
fn validate_hook_name(hook: &str, path: &str, errors: &mut Errors) {
    if hook.is_empty() {
        return errors.push(FieldError::required(path, ""));
    }
    let wrong = names::dns1123_subdomain(hook);
    if !wrong.is_empty() {
        errors.push(FieldError::invalid_str(path, hook, wrong.join(",")));
    } else if hook.split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        errors.push(FieldError::invalid_str(path, hook, detail));
    }
}

/// What an older object had already is not held against a new version of it.
#[derive(Clone, Copy)]
struct Tolerated {
    side_effects: bool,
    versions: bool,
    same_names: bool,
}

impl Tolerated {
    const NOTHING: Self = Self {
        side_effects: false,
        versions: false,
        same_names: false,
    };

    fn of(old: &Value) -> Self {
        let hooks = items(&old["webhooks"]);
        let known = |h: &Value| {
            let versions = items(&h["admissionReviewVersions"]);
            versions.is_empty() || versions.iter().any(|v| REVIEW_VERSIONS.contains(&text(v)))
        };
        Self {
            side_effects: hooks
                .iter()
                .any(|h| !SIDE_EFFECTS.contains(&text(&h["sideEffects"]))),
            versions: !hooks.iter().all(known),
            same_names: (0..hooks.len())
                .any(|i| hooks[..i].iter().any(|h| h["name"] == hooks[i]["name"])),
        }
    }
}

fn validate_hook(hook: &Value, path: &str, tolerated: Tolerated, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    validate_hook_name(text(&hook["name"]), &at("name"), errors);
    for (i, rule) in items(&hook["rules"]).iter().enumerate() {
        validate_rule(rule, &format!("{path}.rules[{i}]"), errors);
    }
    for (key, allowed) in [
        ("failurePolicy", &FAILURE_POLICIES),
        ("matchPolicy", &MATCH_POLICIES),
        ("reinvocationPolicy", &["IfNeeded", "Never"]),
    ] {
        one_of(&hook[key], &at(key), allowed, errors);
    }
    let effects: &[&str] = if tolerated.side_effects {
        &ALL_SIDE_EFFECTS
    } else {
        &SIDE_EFFECTS
    };
    if hook["sideEffects"].is_null() {
        let detail = format!("must specify one of {}", effects.join(", "));
        errors.push(FieldError::required(at("sideEffects"), detail));
    }
    one_of(&hook["sideEffects"], &at("sideEffects"), effects, errors);
    let timeout = &hook["timeoutSeconds"];
    if timeout.is_number() && !(1..=LONGEST_TIMEOUT_SECONDS).contains(&int(timeout)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.push(FieldError::invalid(at("timeoutSeconds"), timeout, detail));
    }
    for key in ["namespaceSelector", "objectSelector"] {
        label_selector(&hook[key], &at(key), errors);
    }
    validate_client(&hook["clientConfig"], &at("clientConfig"), errors);
    let conditions = &hook["matchConditions"];
    validate_match_conditions(conditions, &at("matchConditions"), errors);
    let missing = format!("must specify one of {}", REVIEW_VERSIONS.join(", "));
    validate_versions(
        &hook["admissionReviewVersions"],
        &at("admissionReviewVersions"),
        !tolerated.versions,
        &missing,
        errors,
    );
}

fn validate(o: &Value, tolerated: Tolerated, errors: &mut Errors) {
    let hooks = items(&o["webhooks"]);
    for (i, hook) in hooks.iter().enumerate() {
        let path = format!("webhooks[{i}]");
        validate_hook(hook, &path, tolerated, errors);
        let own = &hook["name"];
        let again = hooks[..i].iter().any(|h| h["name"] == *own);
        if again && !tolerated.same_names && !text(own).is_empty() {
            errors.push(FieldError::duplicate(format!("{path}.name"), own));
        }
    }
}

/// Where a Service's port is not said.
pub(crate) fn default_service(client: &mut Value) {
    if let Some(service) = client.get_mut("service") {
        set_default(service, "port", 443);
    }
}

pub(crate) fn default_rule(rule: &mut Value) {
    set_default(rule, "scope", "*");
}

fn default_hook(hook: &mut Value) {
    set_default(hook, "failurePolicy", "Fail");
    set_default(hook, "matchPolicy", "Equivalent");
    set_default(hook, "namespaceSelector", json!({}));
    set_default(hook, "objectSelector", json!({}));
    set_default(hook, "timeoutSeconds", 10);
    each(hook, "rules", default_rule);
    if let Some(client) = hook.get_mut("clientConfig") {
        default_service(client);
    }
}

pub(crate) const VALIDATING: Strategy = Strategy {
    unconditional_update: false,
    generation: true,
    default: |o| each(o, "webhooks", default_hook),
    validate_create: |o, errors| validate(o, Tolerated::NOTHING, errors),
    validate_update: |new, old, errors| validate(new, Tolerated::of(old), errors),
    columns: &[
        NAME,
        column("Webhooks", "integer", "How many webhooks are called."),
        AGE,
    ],
    row: |o, now| {
        let hooks = items(&o["webhooks"]).len();
        vec![name(o), hooks.into(), age(o, now)]
    },
    ..Strategy::BASE
};

pub(crate) const MUTATING: Strategy = Strategy {
    default: |o| {
        each(o, "webhooks", |hook| {
            default_hook(hook);
            set_default(hook, "reinvocationPolicy", "Never");
        });
    },
    ..VALIDATING
};
