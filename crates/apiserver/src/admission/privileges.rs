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
    if is_role && unchanged("rules") || !is_role && unchanged("roleRef") && unchanged("subjects") {
        return Ok(());
    }
    let (verb, resource, role_name, wanted) = if is_role {
        let rules: Vec<Rule> = serde_json::from_value(new["rules"].clone()).unwrap_or_default();
        (
            "escalate",
            kind.plural.to_owned(),
            object::name(new).to_owned(),
            rules,
        )
    } else {
        let role_kind = text(new, &["roleRef", "kind"]);
        let name = text(new, &["roleRef", "name"]);
        let rules = core
            .authorizer
            .rbac
            .rules_of_role(role_kind, namespace, name)
            .await;
        let rules = rules.map(|r| r.to_vec()).unwrap_or_default();
        (
            "bind",
            format!("{}s", role_kind.to_ascii_lowercase()),
            name.to_owned(),
            rules,
        )
    };
    let attributes = Attributes {
        verb: verb.into(),
        group: kind.group.into(),
        resource,
        namespace: namespace.into(),
        name: role_name,
        ..Attributes::default()
    };
    if matches!(
        core.authorizer.authorize(user, &attributes).await,
        Decision::Allow(_)
    ) {
        return Ok(());
    }
    let owned = core.authorizer.rbac.rules_for(user, namespace).await;
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
