//! Nobody grants permissions that they do not hold.
//!
//! Follows <https://kubernetes.io/docs/reference/access-authn-authz/rbac/#privilege-escalation-prevention-and-bootstrapping>.

use api::Status;
use api::facts::Kind;
use serde_json::Value;

use crate::Core;
use crate::authz::rbac::{Rule, uncovered};
use crate::authz::{Attributes, Decision};
use crate::object::{self, text};
use crate::user::User;

/// Refuses a role or binding that gives more than `user` has.
pub async fn validate(
    core: &Core,
    user: &User,
    kind: &Kind,
    new: Option<&Value>,
    old: Option<&Value>,
) -> Result<(), Status> {
    let Some(new) = new else { return Ok(()) };
    if user.is_in("system:masters") {
        return Ok(());
    }
    let namespace = text(new, &["metadata", "namespace"]);
    let is_role = kind.plural.ends_with("roles");
    let unchanged = |field: &str| old.is_some_and(|o| o.get(field) == new.get(field));
    if is_role && unchanged("rules") && unchanged("aggregationRule")
        || !is_role && unchanged("roleRef") && unchanged("subjects")
    {
        return Ok(());
    }
    let (verb, resource, role_name, wanted): (_, String, String, Option<Vec<Rule>>) = if is_role {
        let rules = match &new["rules"] {
            Value::Null => Vec::new(),
            rules => serde_json::from_value(rules.clone())
                .map_err(|e| Status::bad_request(format!("rules: {e}")))?,
        };
        (
            "escalate",
            kind.plural.to_owned(),
            object::name(new).to_owned(),
            Some(rules),
        )
    } else {
        let role_kind = text(new, &["roleRef", "kind"]);
        let name = text(new, &["roleRef", "name"]);
        let rules = core
            .authorizer
            .rbac
            .rules_of_role(role_kind, namespace, name)
            .await;
        (
            "bind",
            format!("{}s", role_kind.to_ascii_lowercase()),
            name.to_owned(),
            rules.map(|r| r.to_vec()),
        )
    };
    let attributes = Attributes {
        verb: verb.into(),
        group: kind.group.into(),
        resource: resource.clone(),
        namespace: namespace.into(),
        name: role_name.clone(),
        ..Attributes::default()
    };
    if matches!(
        core.authorizer.authorize(user, &attributes).await,
        Decision::Allow(_)
    ) {
        return Ok(());
    }
    // Who may not bind whatever there is cannot bind what will be there later.
    let Some(wanted) = wanted else {
        return Err(Status::not_found(kind.group, &resource, &role_name));
    };
    let owned = core.authorizer.rbac.rules_for(user, namespace).await;
    let aggregates = |o: &Value| o["aggregationRule"].is_object();
    if (aggregates(new) || old.is_some_and(aggregates))
        && !uncovered(&owned, &everything()).is_empty()
    {
        let why = "must have cluster-admin privileges to use the aggregationRule";
        return Err(Status::forbidden(
            kind.group,
            kind.plural,
            object::name(new),
            why,
        ));
    }
    let missing = uncovered(&owned, &wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = missing.iter().map(show).collect();
    let why = format!(
        "user \"{}\" (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        user.groups
            .iter()
            .map(|g| format!("\"{g}\""))
            .collect::<Vec<_>>()
            .join(" "),
        shown.join("\n")
    );
    Err(Status::forbidden(
        kind.group,
        kind.plural,
        object::name(new),
        why,
    ))
}

/// What an aggregation can gather.
fn everything() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    [
        Rule {
            verbs: all(),
            api_groups: all(),
            resources: all(),
            ..Rule::default()
        },
        Rule {
            verbs: all(),
            non_resource_urls: all(),
            ..Rule::default()
        },
    ]
}

fn show(rule: &Rule) -> String {
    let list = |l: &[String]| {
        l.iter()
            .map(|x| format!("\"{x}\""))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let fields = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("ResourceNames", &rule.resource_names),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("Verbs", &rule.verbs),
    ];
    let parts: Vec<String> = fields
        .iter()
        .filter(|(_, l)| !l.is_empty())
        .map(|(n, l)| format!("{n}:[{}]", list(l)))
        .collect();
    format!("{{{}}}", parts.join(", "))
}
