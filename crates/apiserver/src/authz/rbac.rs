//! Role-based access control over the stored Roles and Bindings.
//!
//! Law 1's written exception: it reads the store directly. The rules are compiled once per change of an RBAC object.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use api::LabelSelector;
use serde::Deserialize;
use serde_json::Value;
use store::Store;
use tokio::sync::Mutex;
use world::Shutdown;

use super::Attributes;
use crate::user::User;

const PREFIXES: [&str; 4] = [
    "/registry/clusterroles/",
    "/registry/clusterrolebindings/",
    "/registry/roles/",
    "/registry/rolebindings/",
];

/// One `rbac.authorization.k8s.io/v1` PolicyRule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Rule {
    pub verbs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|x| x == "*" || x == wanted)
}

impl Rule {
    /// Whether the rule allows it.
    #[must_use]
    pub fn allows(&self, wanted: &Attributes) -> bool {
        if !has(&self.verbs, &wanted.verb) {
            return false;
        }
        if wanted.resource.is_empty() {
            return self.non_resource_urls.iter().any(|url| {
                url == "*"
                    || url == &wanted.path
                    || url
                        .strip_suffix('*')
                        .is_some_and(|p| wanted.path.starts_with(p))
            });
        }
        let combined = wanted.resource_path();
        let resource = self.resources.iter().any(|r| {
            r == "*"
                || *r == combined
                || !wanted.subresource.is_empty()
                    && r.strip_prefix("*/") == Some(&wanted.subresource)
        });
        resource
            && has(&self.api_groups, &wanted.group)
            && (self.resource_names.is_empty()
                || self.resource_names.contains(&wanted.name) && !wanted.name.is_empty())
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Role {
    metadata: client::ObjectMeta,
    #[serde(default)]
    rules: Option<Vec<Rule>>,
    #[serde(default)]
    aggregation_rule: Option<AggregationRule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AggregationRule {
    #[serde(default)]
    cluster_role_selectors: Vec<Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Subject {
    kind: String,
    name: String,
    namespace: String,
}

#[derive(Debug, Deserialize)]
struct RoleRef {
    kind: String,
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Binding {
    metadata: client::ObjectMeta,
    #[serde(default)]
    subjects: Option<Vec<Subject>>,
    role_ref: RoleRef,
}

impl Binding {
    fn binds(&self, user: &User) -> bool {
        self.subjects
            .iter()
            .flatten()
            .any(|s| match s.kind.as_str() {
                "User" => s.name == user.name,
                "Group" => user.is_in(&s.name),
                "ServiceAccount" => {
                    let namespace = if s.namespace.is_empty() {
                        &self.metadata.namespace
                    } else {
                        &s.namespace
                    };
                    user.name == format!("system:serviceaccount:{namespace}:{}", s.name)
                }
                _ => false,
            })
    }
}

/// The compiled objects.
#[derive(Debug, Default)]
struct State {
    /// How many changes it has seen.
    version: u64,
    cluster_roles: HashMap<String, Arc<[Rule]>>,
    roles: HashMap<(String, String), Arc<[Rule]>>,
    cluster_bindings: Vec<Binding>,
    bindings: HashMap<String, Vec<Binding>>,
}

impl State {
    fn rules_of(&self, binding: &Binding) -> Arc<[Rule]> {
        let name = &binding.role_ref.name;
        let rules = if binding.role_ref.kind == "ClusterRole" {
            self.cluster_roles.get(name)
        } else {
            self.roles
                .get(&(binding.metadata.namespace.clone(), name.clone()))
        };
        rules.cloned().unwrap_or_else(|| Arc::from([]))
    }
}

/// Adds a role's rules and those of the roles that its aggregation selects, which may aggregate themselves.
fn aggregate<'a>(role: &'a Role, all: &'a [Role], rules: &mut Vec<Rule>, seen: &mut Vec<&'a str>) {
    for rule in role.rules.iter().flatten() {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    for selector in role
        .aggregation_rule
        .iter()
        .flat_map(|a| &a.cluster_role_selectors)
    {
        let Ok(selector) = LabelSelector::from_json(selector) else {
            continue;
        };
        for other in all {
            let name = other.metadata.name.as_str();
            let label = |k: &str| other.metadata.labels.get(k).map(String::as_str);
            if !seen.contains(&name) && selector.matches(&label) {
                seen.push(name);
                aggregate(other, all, rules, seen);
            }
        }
    }
}

/// The authorizer.
pub struct Rbac {
    store: Arc<dyn Store>,
    state: RwLock<Arc<State>>,
    /// Changes so far; a state that has seen fewer is built anew before it is used.
    changes: Arc<AtomicU64>,
    rebuilding: Mutex<()>,
}

impl Rbac {
    /// An authorizer that follows `store`'s RBAC objects until `shutdown`.
    ///
    /// # Errors
    /// When the store cannot be watched.
    pub async fn start(
        store: Arc<dyn Store>,
        shutdown: &Shutdown,
    ) -> Result<Arc<Self>, store::Error> {
        let changes = Arc::new(AtomicU64::new(1));
        for prefix in PREFIXES {
            let mut watch = store.watch(prefix, store.revision()).await?;
            let (changes, store) = (changes.clone(), store.clone());
            tokio::spawn(shutdown.clone().run_until_cancelled_owned(async move {
                loop {
                    match watch.events.recv().await {
                        Some(Ok(_)) => {
                            changes.fetch_add(1, Ordering::AcqRel);
                        }
                        Some(Err(_)) | None => {
                            // Ended because it could not keep up: start again from now.
                            match store.watch(prefix, store.revision()).await {
                                Ok(again) => watch = again,
                                Err(_) => return,
                            }
                            changes.fetch_add(1, Ordering::AcqRel);
                        }
                    }
                }
            }));
        }
        Ok(Arc::new(Self {
            store,
            state: RwLock::default(),
            changes,
            rebuilding: Mutex::new(()),
        }))
    }

    /// What was just written counts from the next request on, without waiting for the watch (which brings what other
    /// servers write).
    pub fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    fn current(&self) -> Arc<State> {
        self.state
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The state that has seen every change so far.
    async fn state(&self) -> Arc<State> {
        if self.current().version < self.changes.load(Ordering::Acquire) {
            let _one = self.rebuilding.lock().await;
            let version = self.changes.load(Ordering::Acquire);
            if self.current().version < version {
                match self.build().await {
                    Ok(state) => {
                        let state = Arc::new(State { version, ..state });
                        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
                    }
                    Err(error) => tracing::error!(%error, "cannot read the RBAC objects"),
                }
            }
        }
        self.current()
    }

    async fn all<T: serde::de::DeserializeOwned>(
        &self,
        prefix: &str,
    ) -> Result<Vec<T>, store::Error> {
        let range = self.store.range(prefix, None, None, 0).await?;
        let parse = |e: &Arc<store::Entry>| match serde_json::from_slice(&e.wire) {
            Ok(object) => Some(object),
            Err(error) => {
                tracing::error!(key = %e.key, %error, "an RBAC object cannot be read and grants nothing");
                None
            }
        };
        Ok(range.entries.iter().filter_map(parse).collect())
    }

    async fn build(&self) -> Result<State, store::Error> {
        let mut state = State::default();
        let cluster_roles: Vec<Role> = self.all(PREFIXES[0]).await?;
        for role in &cluster_roles {
            let mut rules = Vec::new();
            aggregate(
                role,
                &cluster_roles,
                &mut rules,
                &mut vec![&role.metadata.name],
            );
            state
                .cluster_roles
                .insert(role.metadata.name.clone(), rules.into());
        }
        state.cluster_bindings = self.all(PREFIXES[1]).await?;
        for role in self.all::<Role>(PREFIXES[2]).await? {
            let key = (role.metadata.namespace, role.metadata.name);
            state
                .roles
                .insert(key, role.rules.unwrap_or_default().into());
        }
        for binding in self.all::<Binding>(PREFIXES[3]).await? {
            state
                .bindings
                .entry(binding.metadata.namespace.clone())
                .or_default()
                .push(binding);
        }
        Ok(state)
    }

    /// The reason why `user` may do it, or `None`.
    pub async fn authorize(&self, user: &User, wanted: &Attributes) -> Option<String> {
        let state = self.state().await;
        for binding in state.cluster_bindings.iter().filter(|b| b.binds(user)) {
            if state.rules_of(binding).iter().any(|r| r.allows(wanted)) {
                return Some(format!(
                    "RBAC: allowed by ClusterRoleBinding \"{}\" of {} \"{}\"",
                    binding.metadata.name, binding.role_ref.kind, binding.role_ref.name
                ));
            }
        }
        for binding in state
            .bindings
            .get(&wanted.namespace)?
            .iter()
            .filter(|b| b.binds(user))
        {
            if state.rules_of(binding).iter().any(|r| r.allows(wanted)) {
                return Some(format!(
                    "RBAC: allowed by RoleBinding \"{}/{}\" of {} \"{}\"",
                    binding.metadata.name,
                    binding.metadata.namespace,
                    binding.role_ref.kind,
                    binding.role_ref.name
                ));
            }
        }
        None
    }

    /// All rules that hold for `user` in `namespace`.
    pub async fn rules_for(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let state = self.state().await;
        let local = state.bindings.get(namespace).map_or(&[][..], Vec::as_slice);
        let bound = state
            .cluster_bindings
            .iter()
            .chain(local)
            .filter(|b| b.binds(user));
        bound.flat_map(|b| state.rules_of(b).to_vec()).collect()
    }

    /// The rules of a role that a binding in `namespace` may refer to; `None` when there is no such role.
    pub async fn rules_of_role(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<[Rule]>> {
        let state = self.state().await;
        match kind {
            "ClusterRole" => state.cluster_roles.get(name).cloned(),
            _ => state
                .roles
                .get(&(namespace.to_owned(), name.to_owned()))
                .cloned(),
        }
    }
}

/// What of `wanted` the `owned` rules do not cover: nobody may grant more than they hold.
#[must_use]
pub fn uncovered(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted
        .iter()
        .flat_map(split)
        .filter(|one| !owned.iter().any(|rule| covers(rule, one)))
        .collect()
}

/// A rule as its smallest parts: one verb, group, resource and name each.
fn split(rule: &Rule) -> Vec<Rule> {
    let mut parts = Vec::new();
    for verb in &rule.verbs {
        for url in &rule.non_resource_urls {
            parts.push(Rule {
                verbs: vec![verb.clone()],
                non_resource_urls: vec![url.clone()],
                ..Rule::default()
            });
        }
        for group in &rule.api_groups {
            for resource in &rule.resources {
                let base = Rule {
                    verbs: vec![verb.clone()],
                    api_groups: vec![group.clone()],
                    resources: vec![resource.clone()],
                    ..Rule::default()
                };
                if rule.resource_names.is_empty() {
                    parts.push(base);
                } else {
                    parts.extend(rule.resource_names.iter().map(|n| Rule {
                        resource_names: vec![n.clone()],
                        ..base.clone()
                    }));
                }
            }
        }
    }
    parts
}

fn covers(rule: &Rule, one: &Rule) -> bool {
    let verb = one.verbs.iter().all(|v| has(&rule.verbs, v));
    if let [url] = one.non_resource_urls.as_slice() {
        return verb
            && rule
                .non_resource_urls
                .iter()
                .any(|u| u == url || u.strip_suffix('*').is_some_and(|p| url.starts_with(p)));
    }
    let resource = one.resources.iter().all(|r| {
        has(&rule.resources, r)
            || r.split_once('/').is_some_and(|(_, sub)| {
                rule.resources
                    .iter()
                    .any(|x| x.strip_prefix("*/") == Some(sub))
            })
    });
    let names = rule.resource_names.is_empty()
        || !one.resource_names.is_empty()
            && one
                .resource_names
                .iter()
                .all(|n| rule.resource_names.contains(n));
    verb && resource && names && one.api_groups.iter().all(|g| has(&rule.api_groups, g))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str) -> Rule {
        let list = |s: &str| {
            s.split(' ')
                .filter(|x| !x.is_empty())
                .map(|x| {
                    if x == "core" {
                        String::new()
                    } else {
                        x.to_owned()
                    }
                })
                .collect()
        };
        Rule {
            verbs: list(verbs),
            api_groups: list(groups),
            resources: list(resources),
            resource_names: list(names),
            non_resource_urls: vec![],
        }
    }

    fn wants(verb: &str, resource: &str, name: &str) -> Attributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            verb: verb.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn rules_allow_what_they_name_only() {
        let cases = [
            (
                rule("get", "core", "pods", ""),
                wants("get", "pods", "a"),
                true,
            ),
            (
                rule("get", "core", "pods", ""),
                wants("get", "pods/log", "a"),
                false,
            ),
            (
                rule("get", "core", "pods/log", ""),
                wants("get", "pods/log", "a"),
                true,
            ),
            (
                rule("get", "core", "*/log", ""),
                wants("get", "pods/log", "a"),
                true,
            ),
            (rule("*", "*", "*", ""), wants("get", "pods/log", "a"), true),
            (
                rule("get", "apps", "pods", ""),
                wants("get", "pods", "a"),
                false,
            ),
            (
                rule("get", "core", "pods", "b"),
                wants("get", "pods", "a"),
                false,
            ),
            (
                rule("list", "core", "pods", "b"),
                wants("list", "pods", ""),
                false,
            ),
        ];
        for (rule, wanted, allowed) in cases {
            assert_eq!(rule.allows(&wanted), allowed, "{rule:?} {wanted:?}");
        }
    }

    #[test]
    fn nobody_grants_more_than_they_hold() {
        let owned = [
            rule("get list", "core", "pods", ""),
            rule("get", "core", "secrets", "mine"),
        ];
        assert!(uncovered(&owned, &[rule("get", "core", "pods", "")]).is_empty());
        assert_eq!(
            uncovered(&owned, &[rule("get delete", "core", "pods", "")]).len(),
            1
        );
        assert_eq!(
            uncovered(&owned, &[rule("get", "core", "secrets", "")]).len(),
            1
        );
        assert!(uncovered(&owned, &[rule("get", "core", "secrets", "mine")]).is_empty());
        assert_eq!(uncovered(&owned, &[rule("*", "*", "*", "")]).len(), 1);
    }
}
