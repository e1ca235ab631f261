//! Authorization: the Node authorizer, then RBAC. `system:masters` may do everything.

pub mod node;
pub mod rbac;

use std::sync::Arc;

use store::Store;

use crate::request::RequestInfo;
use crate::user::User;
use rbac::Rbac;

/// What someone wants to do.
#[derive(Debug, Clone, Default)]
pub struct Attributes {
    pub verb: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    /// For requests outside the resource API.
    pub path: String,
    /// The field selector of a list or watch, for the Node authorizer.
    pub field_selector: String,
}

/// The object that a request is about: the one it names, or the only one that its field selector selects.
fn named(info: &RequestInfo) -> String {
    let selects = matches!(info.verb, "list" | "watch") && info.name.is_empty();
    if !selects {
        return info.name.clone();
    }
    let selector = api::selector::FieldSelector::parse(info.query.get("fieldSelector"));
    let exact = selector
        .ok()
        .and_then(|s| s.exact("metadata.name").map(str::to_owned));
    // A name that no path could hold is none.
    exact
        .filter(|n| !n.contains(['/', '%']) && n != "." && n != "..")
        .unwrap_or_default()
}

impl Attributes {
    /// The attributes of a request.
    #[must_use]
    pub fn of(info: &RequestInfo) -> Self {
        Self {
            verb: info.verb.to_owned(),
            group: info.group.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            namespace: info.namespace.clone(),
            name: named(info),
            path: info.path.clone(),
            field_selector: info.query.get("fieldSelector").to_owned(),
        }
    }

    /// `pods` or `pods/log`.
    #[must_use]
    pub fn resource_path(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// Why `user` is refused, in upstream's words.
    #[must_use]
    pub fn refusal(&self, user: &User) -> String {
        if self.resource.is_empty() {
            return format!(
                "User \"{}\" cannot {} path \"{}\"",
                user.name, self.verb, self.path
            );
        }
        let place = if self.namespace.is_empty()
            || self.resource == "namespaces" && self.subresource.is_empty() && self.name.is_empty()
        {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace \"{}\"", self.namespace)
        };
        format!(
            "User \"{}\" cannot {} resource \"{}\" in API group \"{}\" {place}",
            user.name,
            self.verb,
            self.resource_path(),
            self.group,
        )
    }
}

/// What the authorizers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Allow(String),
    /// Nobody allowed it; the reason may be empty.
    NoOpinion(String),
}

/// All authorizers.
pub struct Authorizer {
    pub rbac: Arc<Rbac>,
    pub store: Arc<dyn Store>,
}

impl Authorizer {
    /// Whether `user` may do it.
    pub async fn authorize(&self, user: &User, wanted: &Attributes) -> Decision {
        if user.is_in("system:masters") {
            return Decision::Allow("system:masters".into());
        }
        let mut why = String::new();
        if let Some(node) = user.node() {
            match node::authorize(&*self.store, &self.rbac, node, wanted).await {
                Ok(()) => return Decision::Allow("node".into()),
                Err(reason) => why = reason,
            }
        }
        match self.rbac.authorize(user, wanted).await {
            Some(reason) => Decision::Allow(reason),
            None => Decision::NoOpinion(why),
        }
    }
}
