//! Priority and fairness: which requests belong together (FlowSchemas), and how much each level of priority gets.
//!
//! Follows <https://kubernetes.io/docs/concepts/cluster-administration/flow-control/>.

use api::{FieldError, names};
use serde_json::{Value, json};

use crate::tree::{age, int, invalid_all, items, name, object, set_default, text};
use crate::{AGE, Errors, NAME, Strategy, column};

const PRECEDENCE_LIMIT: i64 = 10_000;
const QUEUES_LIMIT: i64 = 10_000_000;
/// Bits of the hash that requests are dealt to queues by.
const HASH_BITS: u32 = 60;
const VERBS: [&str; 9] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "proxy",
    "update",
    "watch",
];

fn everything_of(groups: &[&str]) -> Value {
    let subject = |g: &&str| json!({"kind": "Group", "group": {"name": g}});
    json!([{
        "subjects": groups.iter().map(subject).collect::<Vec<_>>(),
        "resourceRules": [{
            "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"],
        }],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    }])
}

/// What a schema that must exist says.
fn mandatory_schema(name: &str) -> Option<Value> {
    match name {
        "exempt" => Some(json!({
            "priorityLevelConfiguration": {"name": "exempt"},
            "matchingPrecedence": 1,
            "rules": everything_of(&["system:masters"]),
        })),
        "catch-all" => Some(json!({
            "priorityLevelConfiguration": {"name": "catch-all"},
            "matchingPrecedence": 10_000,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": everything_of(&["system:unauthenticated", "system:authenticated"]),
        })),
        _ => None,
    }
}

fn has_wildcard(list: &[Value]) -> bool {
    list.iter().any(|v| v == "*")
}

/// A list that must not be empty, and in which `*` stands alone. True when it is neither empty nor a wildcard.
fn is_plain(list: &Value, path: &str, [missing, others]: [&str; 2], errors: &mut Errors) -> bool {
    let values = items(list);
    if values.is_empty() {
        errors.push(FieldError::required(path, missing));
        return false;
    }
    let wildcard = has_wildcard(values);
    if wildcard && values.len() > 1 {
        let detail = format!("if '*' is present, must not specify other {others}");
        errors.push(FieldError::invalid(path, list, detail));
    }
    !wildcard
}

fn validate_verbs(rule: &Value, path: &str, errors: &mut Errors) {
    let path = format!("{path}.verbs");
    let verbs = &rule["verbs"];
    let words = ["verbs must contain at least one value", "verbs"];
    if is_plain(verbs, &path, words, errors)
        && items(verbs).iter().any(|v| !VERBS.contains(&text(v)))
    {
        errors.push(FieldError::not_supported(path, verbs, &VERBS));
    }
}

/// A path, perhaps with a wildcard in the place of its last part.
fn validate_path(v: &Value, path: &str, errors: &mut Errors) {
    let url = text(v);
    let wildcards = url.matches('*').count();
    let detail = match url {
        "/" => return,
        "" => "must not be empty",
        u if !u.starts_with('/') => "must start with slash",
        u if u.contains(' ') => "must not contain white-space",
        u if u.contains("//") => "must not contain double slash",
        u if wildcards > 1 || wildcards == 1 && !u.ends_with("/*") => {
            "wildcard can only do suffix matching"
        }
        _ => return,
    };
    errors.push(FieldError::invalid_str(path, url, detail));
}

fn validate_non_resource_rule(rule: &Value, path: &str, errors: &mut Errors) {
    validate_verbs(rule, path, errors);
    let path = format!("{path}.nonResourceURLs");
    let urls = &rule["nonResourceURLs"];
    let words = [
        "nonResourceURLs must contain at least one value",
        "non-resource URLs",
    ];
    if is_plain(urls, &path, words, errors) {
        for (i, url) in items(urls).iter().enumerate() {
            validate_path(url, &format!("{path}[{i}]"), errors);
        }
    }
}

fn validate_namespaces(rule: &Value, path: &str, errors: &mut Errors) {
    let list = &rule["namespaces"];
    if items(list).is_empty() && rule["clusterScope"] == true {
        return;
    }
    let missing = "resource rules that are not cluster scoped must supply at least one namespace";
    if !is_plain(list, path, [missing, "namespaces"], errors) {
        return;
    }
    for (i, namespace) in items(list).iter().map(text).enumerate() {
        let wrong = names::dns1123_label(namespace)
            .into_iter()
            .map(|w| format!("each member of this list must be '*' or a DNS-1123 label; {w}"));
        invalid_all(&format!("{path}[{i}]"), namespace, wrong.collect(), errors);
    }
}

fn validate_resource_rule(rule: &Value, path: &str, errors: &mut Errors) {
    validate_verbs(rule, path, errors);
    for (key, one, many) in [
        ("apiGroups", "api group", "api groups"),
        ("resources", "resource", "resources"),
    ] {
        let missing = format!("resource rules must supply at least one {one}");
        is_plain(
            &rule[key],
            &format!("{path}.{key}"),
            [&missing, many],
            errors,
        );
    }
    validate_namespaces(rule, &format!("{path}.namespaces"), errors);
}

/// The member of a subject's union that its kind names must be there, and no other.
fn validate_subject(subject: &Value, path: &str, errors: &mut Errors) {
    const MEMBERS: [(&str, &str); 3] = [
        ("Group", "group"),
        ("ServiceAccount", "serviceAccount"),
        ("User", "user"),
    ];
    let kind = text(&subject["kind"]);
    if !MEMBERS.iter().any(|(k, _)| *k == kind) {
        let kinds = MEMBERS.map(|(k, _)| k);
        let path = format!("{path}.kind");
        return errors.push(FieldError::not_supported(path, &subject["kind"], &kinds));
    }
    for (of, key) in MEMBERS {
        let (path, member) = (format!("{path}.{key}"), &subject[key]);
        match (of == kind, member.is_object()) {
            (true, false) => {
                let detail = format!("{key} is required when subject kind is '{of}'");
                errors.push(FieldError::required(path, detail));
            }
            (false, true) => {
                let detail = format!("{key} is forbidden when subject kind is not '{of}'");
                errors.push(FieldError::forbidden(path, detail));
            }
            (true, true) => validate_member(key, member, &path, errors),
            (false, false) => {}
        }
    }
}

fn validate_member(key: &str, member: &Value, path: &str, errors: &mut Errors) {
    let who = text(&member["name"]);
    if who.is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    }
    if key != "serviceAccount" {
        return;
    }
    if !matches!(who, "" | "*") {
        let path = format!("{path}.name");
        invalid_all(&path, who, names::dns1123_subdomain(who), errors);
    }
    let (path, namespace) = (format!("{path}.namespace"), text(&member["namespace"]));
    if namespace.is_empty() {
        let detail = "must specify namespace for service account";
        errors.push(FieldError::required(path, detail));
    } else {
        invalid_all(&path, namespace, names::dns1123_label(namespace), errors);
    }
}

fn validate_rule(rule: &Value, path: &str, errors: &mut Errors) {
    let subjects = items(&rule["subjects"]);
    if subjects.is_empty() {
        let detail = "subjects must contain at least one value";
        errors.push(FieldError::required(format!("{path}.subjects"), detail));
    }
    for (i, subject) in subjects.iter().enumerate() {
        validate_subject(subject, &format!("{path}.subjects[{i}]"), errors);
    }
    let (resources, others) = (
        items(&rule["resourceRules"]),
        items(&rule["nonResourceRules"]),
    );
    if resources.is_empty() && others.is_empty() {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(FieldError::required(path, detail));
    }
    for (i, rule) in resources.iter().enumerate() {
        validate_resource_rule(rule, &format!("{path}.resourceRules[{i}]"), errors);
    }
    for (i, rule) in others.iter().enumerate() {
        validate_non_resource_rule(rule, &format!("{path}.nonResourceRules[{i}]"), errors);
    }
}

fn validate_precedence(o: &Value, errors: &mut Errors) {
    let precedence = int(&o["spec"]["matchingPrecedence"]);
    let detail = match precedence {
        n if n <= 0 => "must be a positive value".to_owned(),
        n if n > PRECEDENCE_LIMIT => format!("must not be greater than {PRECEDENCE_LIMIT}"),
        1 if o["metadata"]["name"] != "exempt" => {
            "only the schema named 'exempt' may have matchingPrecedence 1".to_owned()
        }
        _ => return,
    };
    let path = "spec.matchingPrecedence";
    errors.push(FieldError::invalid(path, &precedence.into(), detail));
}

fn validate_schema(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    validate_precedence(o, errors);
    let method = text(&spec["distinguisherMethod"]["type"]);
    let methods = ["ByNamespace", "ByUser"];
    if spec["distinguisherMethod"].is_object() && !methods.contains(&method) {
        let path = "spec.distinguisherMethod.type";
        // Upstream shows its own struct here, not the text.
        let bad = json!({ "Type": method });
        errors.push(FieldError::not_supported(path, &bad, &methods));
    }
    let path = "spec.priorityLevelConfiguration.name";
    let level = text(&spec["priorityLevelConfiguration"]["name"]);
    if level.is_empty() {
        errors.push(FieldError::required(
            path,
            "must reference a priority level",
        ));
    } else {
        invalid_all(path, level, names::dns1123_subdomain(level), errors);
    }
    for (i, rule) in items(&spec["rules"]).iter().enumerate() {
        validate_rule(rule, &format!("spec.rules[{i}]"), errors);
    }
    let own = text(&o["metadata"]["name"]);
    if mandatory_schema(own).is_some_and(|fixed| fixed != *spec) {
        let detail = format!("spec of '{own}' must equal the fixed value");
        errors.push(FieldError::invalid("spec", spec, detail));
    }
}

fn validate_conditions(o: &Value, errors: &mut Errors) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, condition) in items(&o["status"]["conditions"]).iter().enumerate() {
        let (path, ty) = (
            format!("status.conditions[{i}].type"),
            text(&condition["type"]),
        );
        if seen.contains(&ty) {
            errors.push(FieldError::duplicate(&path, &ty.into()));
        }
        seen.push(ty);
        if ty.is_empty() {
            errors.push(FieldError::required(path, "must not be empty"));
        }
    }
}

pub(crate) const SCHEMA: Strategy = Strategy {
    generation: true,
    default: |o| {
        if let Some(spec) = object(o, "spec")
            && int(&spec["matchingPrecedence"]) == 0
        {
            crate::tree::set(spec, "matchingPrecedence", 1000);
        }
    },
    validate: validate_schema,
    validate_status: |new, _, errors| validate_conditions(new, errors),
    columns: &[
        NAME,
        column("PriorityLevel", "string", "The level its requests have."),
        column("MatchingPrecedence", "integer", "Which schema comes first."),
        column("DistinguisherMethod", "string", "How it tells flows apart."),
        AGE,
        column("MissingPL", "string", "Whether its level is missing."),
    ],
    row: |o, now| {
        let spec = &o["spec"];
        let method = text(&spec["distinguisherMethod"]["type"]).to_owned();
        let dangling = items(&o["status"]["conditions"])
            .iter()
            .find(|c| c["type"] == "Dangling")
            .map_or("?", |c| text(&c["status"]));
        vec![
            name(o),
            text(&spec["priorityLevelConfiguration"]["name"]).into(),
            int(&spec["matchingPrecedence"]).into(),
            crate::tree::none_if_empty(method),
            age(o, now),
            dangling.into(),
        ]
    },
    ..Strategy::BASE
};

/// How many bits it takes to deal `hand` of `deck` cards.
fn entropy_bits(deck: i64, hand: i64) -> u32 {
    #[expect(clippy::cast_precision_loss, reason = "decks are below 2^24")]
    let bits = (deck as f64).log2() * hand as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates"
    )]
    let bits = bits.ceil() as u32;
    bits
}

fn validate_queuing(queuing: &Value, path: &str, errors: &mut Errors) {
    let [limit, queues, hand] =
        ["queueLengthLimit", "queues", "handSize"].map(|key| int(&queuing[key]));
    let mut wrong = |key: &str, value: i64, detail: String| {
        let path = format!("{path}.{key}");
        errors.push(FieldError::invalid(path, &value.into(), detail));
    };
    let positive = || "must be positive".to_owned();
    if limit <= 0 {
        wrong("queueLengthLimit", limit, positive());
    }
    if queues <= 0 {
        wrong("queues", queues, positive());
    } else if queues > QUEUES_LIMIT {
        let detail = format!("must not be greater than {QUEUES_LIMIT}");
        wrong("queues", queues, detail);
    }
    if hand <= 0 {
        wrong("handSize", hand, positive());
    } else if hand > queues {
        let detail = format!("should not be greater than queues ({queues})");
        wrong("handSize", hand, detail);
    } else if entropy_bits(queues, hand) > HASH_BITS {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        );
        wrong("handSize", hand, detail);
    }
}

fn validate_limit_response(response: &Value, path: &str, errors: &mut Errors) {
    let queuing = &response["queuing"];
    let at = format!("{path}.queuing");
    match (text(&response["type"]), queuing.is_object()) {
        ("Reject", true) => {
            let detail = "must be nil if limited.limitResponse.type is not Limited";
            errors.push(FieldError::forbidden(at, detail));
        }
        ("Reject", false) => {}
        ("Queue", true) => validate_queuing(queuing, &at, errors),
        ("Queue", false) => {
            let detail = "must not be empty if limited.limitResponse.type is Limited";
            errors.push(FieldError::required(at, detail));
        }
        _ => {
            let ty = text(&response["type"]).into();
            let path = format!("{path}.type");
            errors.push(FieldError::not_supported(path, &ty, &["Queue", "Reject"]));
        }
    }
}

/// The shares of a level, and what of them it lends.
fn validate_shares(level: &Value, path: &str, errors: &mut Errors) {
    let mut wrong = |key: &str, bad: bool, detail: &str| {
        if bad {
            let path = format!("{path}.{key}");
            errors.push(FieldError::invalid(path, &level[key], detail));
        }
    };
    let shares = int(&level["nominalConcurrencyShares"]);
    let detail = "must be a non-negative integer";
    wrong("nominalConcurrencyShares", shares < 0, detail);
    let lent = int(&level["lendablePercent"]);
    let detail = "must be between 0 and 100, inclusive";
    wrong("lendablePercent", !(0..=100).contains(&lent), detail);
    let borrowed = int(&level["borrowingLimitPercent"]);
    let detail = "if specified, must be a non-negative integer";
    wrong("borrowingLimitPercent", borrowed < 0, detail);
}

fn validate_level_type(spec: &Value, errors: &mut Errors) {
    let (limited, exempt) = (&spec["limited"], &spec["exempt"]);
    match text(&spec["type"]) {
        "Exempt" => {
            if limited.is_object() {
                let detail = "must be nil if the type is not Limited";
                errors.push(FieldError::forbidden("spec.limited", detail));
            }
            validate_shares(exempt, "spec.exempt", errors);
        }
        "Limited" => {
            if exempt.is_object() {
                let detail = "must be nil if the type is Limited";
                errors.push(FieldError::forbidden("spec.exempt", detail));
            }
            if limited.is_object() {
                validate_shares(limited, "spec.limited", errors);
                let path = "spec.limited.limitResponse";
                validate_limit_response(&limited["limitResponse"], path, errors);
            } else {
                let detail = "must not be empty when type is Limited";
                errors.push(FieldError::required("spec.limited", detail));
            }
        }
        ty => {
            let types = ["Exempt", "Limited"];
            errors.push(FieldError::not_supported("spec.type", &ty.into(), &types));
        }
    }
}

/// The levels that must exist are as they are; of the exempt one the shares may change.
fn validate_mandatory_level(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    let (wrong, except) = match text(&o["metadata"]["name"]) {
        "exempt" => {
            let fixed = spec["type"] == "Exempt" && !spec["limited"].is_object();
            (!fixed, " except the 'spec.exempt' field")
        }
        "catch-all" => {
            let fixed = json!({
                "type": "Limited",
                "limited": {
                    "nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"},
                },
            });
            (fixed != *spec, "")
        }
        _ => return,
    };
    if wrong {
        let own = text(&o["metadata"]["name"]);
        let detail = format!("spec of '{own}'{except} must equal the fixed value");
        errors.push(FieldError::invalid("spec", spec, detail));
    }
}

fn default_level(o: &mut Value) {
    let Some(spec) = object(o, "spec") else {
        return;
    };
    for (key, shares) in [("limited", 30), ("exempt", 0)] {
        if let Some(level) = spec.get_mut(key) {
            set_default(level, "nominalConcurrencyShares", shares);
            set_default(level, "lendablePercent", 0);
        }
    }
    if let Some(queuing) = spec.pointer_mut("/limited/limitResponse/queuing") {
        for (key, value) in [("handSize", 8), ("queues", 64), ("queueLengthLimit", 50)] {
            if int(&queuing[key]) == 0 {
                crate::tree::set(queuing, key, value);
            }
        }
    }
}

pub(crate) const PRIORITY_LEVEL: Strategy = Strategy {
    generation: true,
    default: default_level,
    validate: |o, errors| {
        let (own, ty) = (&o["metadata"]["name"], &o["spec"]["type"]);
        if (own == "exempt") != (ty == "Exempt") {
            let detail = "type must be 'Exempt' if and only if name is 'exempt'";
            let bad = text(ty).into();
            errors.push(FieldError::invalid("spec.type", &bad, detail));
        }
        validate_level_type(&o["spec"], errors);
        validate_mandatory_level(o, errors);
    },
    validate_status: |new, _, errors| validate_conditions(new, errors),
    columns: &[
        NAME,
        column("Type", "string", "Whether its requests are limited."),
        column(
            "NominalConcurrencyShares",
            "integer",
            "Its share of the requests at once.",
        ),
        column("Queues", "integer", "How many queues it has."),
        column("HandSize", "integer", "How many queues a flow may use."),
        column("QueueLengthLimit", "integer", "How long a queue may get."),
        AGE,
    ],
    row: |o, now| {
        let spec = &o["spec"];
        let queuing = &spec["limited"]["limitResponse"]["queuing"];
        let or_none = |v: &Value| {
            if v.is_number() {
                v.clone()
            } else {
                "<none>".into()
            }
        };
        let level = if spec["limited"].is_object() {
            &spec["limited"]
        } else {
            &spec["exempt"]
        };
        vec![
            name(o),
            text(&spec["type"]).into(),
            or_none(&level["nominalConcurrencyShares"]),
            or_none(&queuing["queues"]),
            or_none(&queuing["handSize"]),
            or_none(&queuing["queueLengthLimit"]),
            age(o, now),
        ]
    },
    ..Strategy::BASE
};
