//! Admission policies: rules about requests, written in CEL, and where they hold.
//!
//! Follows <https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/>. Expressions are looked
//! at for being there, not compiled.

use api::{FieldError, names};
use serde_json::{Value, json};

use crate::tree::{
    age, each, invalid_all, items, label_selector, name, object, one_of, required_name,
    required_one_of, set_default, text,
};
use crate::webhook::{
    FAILURE_POLICIES, MATCH_POLICIES, default_rule, validate_match_conditions, validate_rule,
};
use crate::{AGE, Errors, NAME, Strategy, column, conditions};

const AUDIT_ANNOTATIONS_LIMIT: usize = 20;
const VALUE_EXPRESSION_LIMIT: usize = 5 * 1024;
const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
/// What can be changed on its way: not a deletion.
const MUTABLE_OPERATIONS: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];
const CEL_RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

fn default_match(resources: Option<&mut Value>) {
    let Some(resources) = resources.filter(|r| r.is_object()) else {
        return;
    };
    set_default(resources, "matchPolicy", "Equivalent");
    set_default(resources, "namespaceSelector", json!({}));
    set_default(resources, "objectSelector", json!({}));
    each(resources, "resourceRules", default_rule);
    each(resources, "excludeResourceRules", default_rule);
}

fn default_policy(o: &mut Value) {
    if let Some(spec) = object(o, "spec") {
        set_default(spec, "failurePolicy", "Fail");
        default_match(spec.get_mut("matchConstraints"));
    }
}

fn default_binding(o: &mut Value) {
    default_match(o.pointer_mut("/spec/matchResources"));
}

fn validate_named_rule(rule: &Value, path: &str, errors: &mut Errors) {
    let own = items(&rule["resourceNames"]);
    for (i, value) in own.iter().enumerate() {
        let path = format!("{path}.resourceNames[{i}]");
        let wrong = names::path_segment(text(value));
        invalid_all(&path, text(value), wrong, errors);
        if own[..i].contains(value) {
            errors.push(FieldError::duplicate(path, value));
        }
    }
    validate_rule(rule, path, errors);
}

fn validate_match(resources: &Value, path: &str, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    let policy = &resources["matchPolicy"];
    required_one_of(policy, &at("matchPolicy"), &MATCH_POLICIES, errors);
    for key in ["namespaceSelector", "objectSelector"] {
        if resources[key].is_null() {
            errors.push(FieldError::required(at(key), ""));
        }
        label_selector(&resources[key], &at(key), errors);
    }
    for key in ["resourceRules", "excludeResourceRules"] {
        for (i, rule) in items(&resources[key]).iter().enumerate() {
            validate_named_rule(rule, &format!("{path}.{key}[{i}]"), errors);
        }
    }
}

fn validate_mutable(resources: &Value, path: &str, errors: &mut Errors) {
    let rules = items(&resources["resourceRules"]).iter();
    for operation in rules.flat_map(|r| items(&r["operations"])) {
        let path = format!("{path}.resourceRules.operations");
        one_of(operation, &path, &MUTABLE_OPERATIONS, errors);
    }
}

fn validate_constraints(spec: &Value, errors: &mut Errors) {
    let (path, constraints) = ("spec.matchConstraints", &spec["matchConstraints"]);
    if !constraints.is_object() {
        return errors.push(FieldError::required(path, ""));
    }
    validate_match(constraints, path, errors);
    if items(&constraints["resourceRules"]).is_empty() {
        errors.push(FieldError::required(format!("{path}.resourceRules"), ""));
    }
}

fn validate_param_version(version: &str, path: &str, errors: &mut Errors) {
    let mut wrong = |bad: &str, detail: String| {
        errors.push(FieldError::invalid_str(path, bad, detail));
    };
    let (group, version_only) = match version.split('/').collect::<Vec<_>>()[..] {
        [version] => ("", version),
        [group, version] => (group, version),
        _ => {
            return wrong(
                version,
                format!("unexpected GroupVersion string: {version}"),
            );
        }
    };
    let group_wrong = names::dns1123_subdomain(group);
    if !group.is_empty() && !group_wrong.is_empty() {
        wrong(group, group_wrong.join(","));
    }
    if version_only.is_empty() {
        return wrong(version, "version must be specified".to_owned());
    }
    let version_wrong = names::dns1035_label(version_only);
    if !version_wrong.is_empty() {
        wrong(version_only, version_wrong.join(","));
    }
}

fn validate_param_kind(spec: &Value, errors: &mut Errors) {
    let param = &spec["paramKind"];
    if !param.is_object() {
        return;
    }
    let version = text(&param["apiVersion"]);
    if version.is_empty() {
        errors.push(FieldError::required("spec.paramKind.apiVersion", ""));
    } else {
        validate_param_version(version, "spec.paramKind.apiVersion", errors);
    }
    let (path, kind) = ("spec.paramKind.kind", text(&param["kind"]));
    let wrong = names::dns1035_label(&kind.to_lowercase());
    if kind.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if !wrong.is_empty() {
        let detail = format!(
            "may have mixed case, but should otherwise match: {}",
            wrong.join(",")
        );
        errors.push(FieldError::invalid_str(path, kind, detail));
    }
}

fn is_cel_identifier(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(letter)
        && name.chars().all(|c| letter(c) || c.is_ascii_digit())
        && !CEL_RESERVED.contains(&name)
}

fn required_expression(v: &Value, path: &str, detail: &str, errors: &mut Errors) {
    if text(v).trim().is_empty() {
        errors.push(FieldError::required(path, detail));
    }
}

fn validate_variables(spec: &Value, errors: &mut Errors) {
    for (i, variable) in items(&spec["variables"]).iter().enumerate() {
        let at = |key: &str| format!("spec.variables[{i}].{key}");
        let own = text(&variable["name"]);
        if own.trim().is_empty() {
            errors.push(FieldError::required(at("name"), "name is not specified"));
        } else if !is_cel_identifier(own) {
            let detail = "name is not a valid CEL identifier";
            errors.push(FieldError::invalid_str(at("name"), own, detail));
        }
        let (path, detail) = (at("expression"), "expression is not specified");
        required_expression(&variable["expression"], &path, detail, errors);
    }
}

fn validate_validation(validation: &Value, path: &str, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    let (path, detail) = (at("expression"), "expression is not specified");
    required_expression(&validation["expression"], &path, detail, errors);
    let blank = |v: &str| !v.is_empty() && v.trim().is_empty();
    let expression = text(&validation["messageExpression"]);
    if blank(expression) {
        let (path, detail) = (at("messageExpression"), "must be non-empty if specified");
        errors.push(FieldError::invalid_str(path, expression, detail));
    }
    let message = text(&validation["message"]);
    if blank(message) {
        let detail = "message must be non-empty if specified";
        errors.push(FieldError::invalid_str(at("message"), message, detail));
    } else if message.trim().contains(['\n', '\r']) {
        let detail = "message must not contain line breaks";
        errors.push(FieldError::invalid_str(at("message"), message, detail));
    }
    one_of(&validation["reason"], &at("reason"), &REASONS, errors);
}

fn validate_annotations(o: &Value, errors: &mut Errors) {
    let (path, all) = ("spec.auditAnnotations", &o["spec"]["auditAnnotations"]);
    let list = items(all);
    if list.len() > AUDIT_ANNOTATIONS_LIMIT {
        let detail = format!("must not have more than {AUDIT_ANNOTATIONS_LIMIT} auditAnnotations");
        errors.push(FieldError::invalid(path, all, detail));
    }
    let policy = text(&o["metadata"]["name"]);
    for (i, annotation) in list.iter().enumerate() {
        let at = |key: &str| format!("{path}[{i}].{key}");
        let key = text(&annotation["key"]);
        if policy.is_empty() {
            let detail = "requires metadata.name be non-empty";
            errors.push(FieldError::invalid_str(at("key"), key, detail));
        } else {
            let full = format!("{policy}/{key}");
            invalid_all(&at("key"), &full, names::qualified_name(&full), errors);
        }
        let expression = text(&annotation["valueExpression"]).trim();
        let detail = match expression.len() {
            0 => "valueExpression is not specified".to_owned(),
            n if n > VALUE_EXPRESSION_LIMIT => {
                format!("must not exceed {VALUE_EXPRESSION_LIMIT} bytes in length")
            }
            _ => String::new(),
        };
        if !detail.is_empty() {
            errors.push(FieldError::required(at("valueExpression"), detail));
        }
        if list[..i].iter().any(|a| a["key"] == annotation["key"]) {
            errors.push(FieldError::duplicate(at("key"), &key.into()));
        }
    }
}

/// What both kinds of policies have.
fn validate_shared(spec: &Value, errors: &mut Errors) {
    let failure = &spec["failurePolicy"];
    required_one_of(failure, "spec.failurePolicy", &FAILURE_POLICIES, errors);
    validate_param_kind(spec, errors);
    validate_constraints(spec, errors);
    let path = "spec.matchConditions";
    validate_match_conditions(&spec["matchConditions"], path, errors);
    validate_variables(spec, errors);
}

fn validate_validating(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    validate_shared(spec, errors);
    let (validations, annotations) = (
        items(&spec["validations"]),
        items(&spec["auditAnnotations"]),
    );
    if validations.is_empty() && annotations.is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        for path in ["spec.validations", "spec.auditAnnotations"] {
            errors.push(FieldError::required(path, detail));
        }
    }
    for (i, validation) in validations.iter().enumerate() {
        validate_validation(validation, &format!("spec.validations[{i}]"), errors);
    }
    validate_annotations(o, errors);
}

/// A warning about an expression says where, as a JSON path.
fn validate_warnings(status: &Value, errors: &mut Errors) {
    let path = "status.typeChecking.expressionWarnings";
    let warnings = &status["typeChecking"]["expressionWarnings"];
    for (i, warning) in items(warnings).iter().enumerate() {
        if text(&warning["warning"]).is_empty() {
            errors.push(FieldError::required(format!("{path}[{i}].warning"), ""));
        }
        if text(&warning["fieldRef"]).trim().is_empty() {
            errors.push(FieldError::required(format!("{path}[{i}].fieldRef"), ""));
        }
    }
}

fn show_param_kind(o: &Value) -> Value {
    let param = &o["spec"]["paramKind"];
    if param.is_object() {
        format!("{}/{}", text(&param["apiVersion"]), text(&param["kind"])).into()
    } else {
        "<unset>".into()
    }
}

const PARAM_KIND: crate::Column = column("ParamKind", "string", "The kind of its parameters.");

pub(crate) const VALIDATING: Strategy = Strategy {
    unconditional_update: false,
    generation: true,
    default: default_policy,
    validate: validate_validating,
    validate_status: |new, _, errors| {
        validate_warnings(&new["status"], errors);
        conditions::validate(&new["status"]["conditions"], "status.conditions", errors);
    },
    columns: &[
        NAME,
        column("Validations", "integer", "How many validations it has."),
        PARAM_KIND,
        AGE,
    ],
    row: |o, now| {
        let validations = items(&o["spec"]["validations"]).len();
        vec![name(o), validations.into(), show_param_kind(o), age(o, now)]
    },
    ..Strategy::BASE
};

/// The member of a mutation that its type names must be there, and no other.
fn validate_mutation(mutation: &Value, path: &str, errors: &mut Errors) {
    const MEMBERS: [(&str, &str); 2] = [
        ("ApplyConfiguration", "applyConfiguration"),
        ("JSONPatch", "jsonPatch"),
    ];
    let types = MEMBERS.map(|(ty, _)| ty);
    let ty = text(&mutation["patchType"]);
    let type_path = format!("{path}.patchType");
    required_one_of(&mutation["patchType"], &type_path, &types, errors);
    if !types.contains(&ty) {
        return;
    }
    for (of, key) in MEMBERS {
        let (path, member) = (format!("{path}.{key}"), &mutation[key]);
        match (of == ty, member.is_object()) {
            (true, true) => {
                let path = format!("{path}.expression");
                required_expression(&member["expression"], &path, "", errors);
            }
            (true, false) => {
                let detail = format!("must be specified when patchType is {ty}");
                errors.push(FieldError::required(path, detail));
            }
            (false, true) => {
                let shown = format!("{{{key}}}");
                let detail = format!("must not be specified when patchType is {ty}");
                errors.push(FieldError::invalid_str(path, &shown, detail));
            }
            (false, false) => {}
        }
    }
}

fn validate_mutating(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    validate_shared(spec, errors);
    let constraints = &spec["matchConstraints"];
    validate_mutable(constraints, "spec.matchConstraints", errors);
    let mutations = items(&spec["mutations"]);
    if mutations.is_empty() {
        let detail = "mutations must contain at least one item";
        errors.push(FieldError::required("spec.mutations", detail));
    }
    for (i, mutation) in mutations.iter().enumerate() {
        validate_mutation(mutation, &format!("spec.mutations[{i}]"), errors);
    }
    let policies = ["Never", "IfNeeded"];
    let policy = &spec["reinvocationPolicy"];
    required_one_of(policy, "spec.reinvocationPolicy", &policies, errors);
}

pub(crate) const MUTATING: Strategy = Strategy {
    unconditional_update: false,
    generation: true,
    default: default_policy,
    validate: validate_mutating,
    columns: &[
        NAME,
        column("Mutations", "integer", "How many mutations it has."),
        PARAM_KIND,
        AGE,
    ],
    row: |o, now| {
        let mutations = items(&o["spec"]["mutations"]).len();
        vec![name(o), mutations.into(), show_param_kind(o), age(o, now)]
    },
    ..Strategy::BASE
};

fn validate_param_ref(param: &Value, errors: &mut Errors) {
    if !param.is_object() {
        return;
    }
    let path = "spec.paramRef";
    let (own, selector) = (text(&param["name"]), &param["selector"]);
    let path_of = |key: &str| format!("{path}.{key}");
    invalid_all(&path_of("name"), own, names::path_segment(own), errors);
    label_selector(selector, &path_of("selector"), errors);
    match (own.is_empty(), selector.is_object()) {
        (false, true) => {
            let detail = "name and selector are mutually exclusive";
            for key in ["name", "selector"] {
                errors.push(FieldError::forbidden(path_of(key), detail));
            }
        }
        (true, false) => {
            let detail = "one of name or selector must be specified";
            errors.push(FieldError::required(path, detail));
        }
        _ => {}
    }
    let action = &param["parameterNotFoundAction"];
    let path = path_of("parameterNotFoundAction");
    required_one_of(action, &path, &["Deny", "Allow"], errors);
}

fn validate_actions(actions: &Value, errors: &mut Errors) {
    let path = "spec.validationActions";
    let list = items(actions);
    for (i, action) in list.iter().enumerate() {
        let path = format!("{path}[{i}]");
        one_of(action, &path, &["Audit", "Deny", "Warn"], errors);
        if list[..i].contains(action) {
            errors.push(FieldError::duplicate(path, action));
        }
    }
    let has = |wanted: &str| list.iter().any(|a| a == wanted);
    if has("Deny") && has("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API \
                      response and headers serves no purpose)";
        errors.push(FieldError::invalid(path, actions, detail));
    }
    if list.is_empty() {
        let detail = "at least one validation action is required";
        errors.push(FieldError::required(path, detail));
    }
}

/// What both kinds of bindings have.
fn validate_binding(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    let rule = names::dns1123_subdomain;
    required_name(&spec["policyName"], "spec.policyName", rule, errors);
    validate_param_ref(&spec["paramRef"], errors);
    if spec["matchResources"].is_object() {
        validate_match(&spec["matchResources"], "spec.matchResources", errors);
    }
}

fn show_param_ref(o: &Value) -> String {
    let param = &o["spec"]["paramRef"];
    match (text(&param["namespace"]), text(&param["name"])) {
        ("", "") if param["selector"].is_object() => {
            text(&crate::tree::show_selector(&param["selector"])).to_owned()
        }
        (_, "") => "<unset>".to_owned(),
        ("", own) => format!("*/{own}"),
        (namespace, own) => format!("{namespace}/{own}"),
    }
}

pub(crate) const VALIDATING_BINDING: Strategy = Strategy {
    unconditional_update: false,
    generation: true,
    default: default_binding,
    validate: |o, errors| {
        validate_binding(o, errors);
        validate_actions(&o["spec"]["validationActions"], errors);
    },
    columns: &[
        NAME,
        column("PolicyName", "string", "The policy."),
        column("ParamRef", "string", "Its parameters."),
        AGE,
    ],
    row: |o, now| {
        vec![
            name(o),
            text(&o["spec"]["policyName"]).into(),
            show_param_ref(o).into(),
            age(o, now),
        ]
    },
    ..Strategy::BASE
};

pub(crate) const MUTATING_BINDING: Strategy = Strategy {
    validate: |o, errors| {
        validate_binding(o, errors);
        let resources = &o["spec"]["matchResources"];
        validate_mutable(resources, "spec.matchResources", errors);
    },
    ..VALIDATING_BINDING
};
