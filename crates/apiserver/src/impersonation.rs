//! Acting as somebody else (`kubectl --as`), for who may `impersonate`.
//!
//! Follows <https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation>. Each name, group, UID
//! and extra value is permitted by itself.

use std::collections::BTreeMap;

use api::Status;
use http::HeaderMap;
use skiff_http::percent::unescape;

use crate::Core;
use crate::authz::{Attributes, Decision};
use crate::user::User;

const EXTRA: &str = "impersonate-extra-";

/// What a request's headers ask for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    user: String,
    groups: Vec<String>,
    uid: String,
    extra: BTreeMap<String, Vec<String>>,
}

impl Wanted {
    fn of(headers: &HeaderMap) -> Result<Option<Self>, Status> {
        let all = |name: &str| -> Vec<String> {
            let values = headers.get_all(name).iter();
            values
                .filter_map(|v| v.to_str().ok())
                .map(str::to_owned)
                .collect()
        };
        let one = |name: &str| all(name).into_iter().next().unwrap_or_default();
        let mut wanted = Self {
            user: one("impersonate-user"),
            groups: all("impersonate-group"),
            uid: one("impersonate-uid"),
            extra: BTreeMap::new(),
        };
        for name in headers.keys() {
            if let Some(key) = name.as_str().strip_prefix(EXTRA) {
                wanted
                    .extra
                    .insert(unescape(key, false), all(name.as_str()));
            }
        }
        if wanted == Self::default() {
            return Ok(None);
        }
        if wanted.user.is_empty() {
            let asked = (&wanted.groups, &wanted.uid, &wanted.extra);
            return Err(Status::internal(format!(
                "requested groups, uid and extra {asked:?} without impersonating a user"
            )));
        }
        Ok(Some(wanted))
    }

    /// What must be permitted: each by itself.
    fn permissions(&self) -> Vec<Attributes> {
        let core = |resource: &str, name: &str, namespace: &str| Attributes {
            verb: "impersonate".into(),
            resource: resource.into(),
            name: name.into(),
            namespace: namespace.into(),
            ..Attributes::default()
        };
        let mut needed = vec![match self.account() {
            Some((namespace, name)) => core("serviceaccounts", name, namespace),
            None => core("users", &self.user, ""),
        }];
        needed.extend(self.groups.iter().map(|g| core("groups", g, "")));
        let authentication = |resource: &str, subresource: &str, name: &str| Attributes {
            group: "authentication.k8s.io".into(),
            subresource: subresource.into(),
            ..core(resource, name, "")
        };
        if !self.uid.is_empty() {
            needed.push(authentication("uids", "", &self.uid));
        }
        for (key, values) in &self.extra {
            needed.extend(values.iter().map(|v| authentication("userextras", key, v)));
        }
        needed
    }

    /// Namespace and name, if it is a ServiceAccount.
    fn account(&self) -> Option<(&str, &str)> {
        self.user
            .strip_prefix("system:serviceaccount:")?
            .split_once(':')
    }

    fn into_user(self) -> User {
        if self.user == "system:anonymous" {
            return User::anonymous();
        }
        let mut groups = self.groups.clone();
        if let (true, Some((namespace, _))) = (groups.is_empty(), self.account()) {
            groups = vec![
                "system:serviceaccounts".into(),
                format!("system:serviceaccounts:{namespace}"),
            ];
        }
        let mut user = User::named(self.user, groups);
        (user.uid, user.extra) = (self.uid, self.extra);
        user
    }
}

/// Whom the request acts as: `user`, or another if its headers ask for that and `user` may.
///
/// # Errors
/// 403; 500 for groups, a UID or extra values without a user, as upstream.
pub async fn impersonated(core: &Core, user: User, headers: &HeaderMap) -> Result<User, Status> {
    let Some(wanted) = Wanted::of(headers)? else {
        return Ok(user);
    };
    for needed in wanted.permissions() {
        if let Decision::NoOpinion(reason) = core.authorizer.authorize(&user, &needed).await {
            return Err(crate::refused(&needed, &user, &reason));
        }
    }
    Ok(wanted.into_user())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn wanted(headers: &[(&'static str, &'static str)]) -> Result<Option<Wanted>, Status> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        Wanted::of(&map)
    }

    #[test]
    fn each_part_needs_a_permission() {
        let asked = wanted(&[
            ("impersonate-user", "eve"),
            ("impersonate-group", "a"),
            ("impersonate-group", "b"),
            ("impersonate-uid", "7"),
            ("impersonate-extra-example.com%2fscope", "view"),
        ]);
        let asked = asked.unwrap().unwrap();
        let told: Vec<String> = asked
            .permissions()
            .iter()
            .map(|a| format!("{}/{} {}", a.group, a.resource_path(), a.name))
            .collect();
        let want = [
            "/users eve",
            "/groups a",
            "/groups b",
            "authentication.k8s.io/uids 7",
            "authentication.k8s.io/userextras/example.com/scope view",
        ];
        assert_eq!(told, want);
        let user = asked.into_user();
        assert_eq!((user.uid.as_str(), user.groups.len()), ("7", 3));
        assert_eq!(user.extra["example.com/scope"], ["view"]);
    }

    #[test]
    fn groups_without_a_user_are_refused() {
        assert_eq!(wanted(&[]).unwrap(), None);
        assert_eq!(
            wanted(&[("impersonate-group", "system:masters")])
                .unwrap_err()
                .code,
            500
        );
        let account = wanted(&[("impersonate-user", "system:serviceaccount:a:b")]);
        let account = account.unwrap().unwrap();
        assert_eq!(account.permissions()[0].resource, "serviceaccounts");
        assert!(account.into_user().is_in("system:serviceaccounts:a"));
    }
}
