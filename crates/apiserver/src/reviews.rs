//! Reviews: questions to the authenticator and the authorizer. They are answered and not stored.

use api::Status;
use api::facts::Kind;
use serde_json::{Value, json};

use crate::Core;
use crate::authn::ISSUER;
use crate::authz::{Attributes, Decision};
use crate::object::{self, text};
use crate::registry::Context;
use crate::user::User;

/// Answers a review of `kind`; `None` when the kind is not a review.
///
/// # Errors
/// 400 and 422 for questions that cannot be asked.
pub async fn answer(
    core: &Core,
    context: &Context,
    kind: &Kind,
    namespace: &str,
    mut review: Value,
) -> Option<Result<Value, Status>> {
    if !kind.kind.ends_with("Review") {
        return None;
    }
    let local = kind.kind == "LocalSubjectAccessReview";
    if local {
        object::metadata(&mut review).insert("namespace".into(), namespace.into());
    }
    let errors = strategy::validate_create(kind, &review);
    if !errors.is_empty() {
        let name = object::name(&review).to_owned();
        return Some(Err(Status::invalid(kind.group, kind.kind, &name, errors)));
    }
    let user = &context.user;
    let answered = match kind.kind {
        "SelfSubjectAccessReview" => {
            access(core, user, &mut review).await;
            Ok(())
        }
        "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            let user = subject(&review);
            access(core, &user, &mut review).await;
            Ok(())
        }
        "SelfSubjectRulesReview" => rules(core, user, &mut review).await,
        "SelfSubjectReview" => {
            review["status"] = json!({"userInfo": user.to_json()});
            Ok(())
        }
        "TokenReview" => token(core, &mut review).await,
        _ => return None,
    };
    let created = api::time::seconds(core.world.now());
    Some(answered.map(|()| {
        if kind.kind == "SelfSubjectReview" {
            object::metadata(&mut review).insert("creationTimestamp".into(), created.into());
        } else {
            object::metadata(&mut review).insert("creationTimestamp".into(), Value::Null);
        }
        review
    }))
}

/// Whom a review asks about.
fn subject(review: &Value) -> User {
    let spec = &review["spec"];
    User {
        name: text(spec, &["user"]).into(),
        uid: text(spec, &["uid"]).into(),
        groups: object::strings(spec, &["groups"])
            .map(str::to_owned)
            .collect(),
        ..User::default()
    }
}

/// Answers whether the user may do what a valid review asks.
async fn access(core: &Core, user: &User, review: &mut Value) {
    let spec = &review["spec"];
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let wanted = if resource.is_object() {
        let field = |name: &str| text(resource, &[name]).to_owned();
        Attributes {
            verb: field("verb"),
            group: field("group"),
            resource: field("resource"),
            subresource: field("subresource"),
            namespace: field("namespace"),
            name: field("name"),
            ..Attributes::default()
        }
    } else {
        Attributes {
            verb: text(path, &["verb"]).into(),
            path: text(path, &["path"]).into(),
            ..Attributes::default()
        }
    };
    review["status"] = match core.authorizer.authorize(user, &wanted).await {
        Decision::Allow(reason) => json!({"allowed": true, "reason": reason}),
        Decision::NoOpinion(reason) if reason.is_empty() => json!({"allowed": false}),
        Decision::NoOpinion(reason) => json!({"allowed": false, "reason": reason}),
    };
}

async fn rules(core: &Core, user: &User, review: &mut Value) -> Result<(), Status> {
    let namespace = text(review, &["spec", "namespace"]).to_owned();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    // Of the authorizers only RBAC can list its rules; `system:masters` has those of `cluster-admin`.
    let rules = core.authorizer.rbac.rules_for(user, &namespace).await;
    let (paths, resources): (Vec<_>, Vec<_>) = rules
        .into_iter()
        .partition(|r| !r.non_resource_urls.is_empty());
    review["status"] = json!({
        "resourceRules": resources, "nonResourceRules": paths, "incomplete": false,
    });
    Ok(())
}

async fn token(core: &Core, review: &mut Value) -> Result<(), Status> {
    let given = text(review, &["spec", "token"]).to_owned();
    if given.is_empty() {
        return Err(Status::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    let mut audiences: Vec<String> = object::strings(review, &["spec", "audiences"])
        .map(str::to_owned)
        .collect();
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    review["status"] = match core
        .authenticator
        .token(&given, &audiences, core.world.now())
        .await
    {
        Ok((user, meant)) => {
            json!({"authenticated": true, "user": user.to_json(), "audiences": meant})
        }
        Err(error) => json!({"authenticated": false, "user": {}, "error": error}),
    };
    Ok(())
}
