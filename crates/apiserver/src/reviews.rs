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
    let answered = match kind.kind {
        "SelfSubjectAccessReview" => access(core, &context.user, kind, &mut review, None).await,
        "SubjectAccessReview" => match subject(&review, kind) {
            Ok(user) => access(core, &user, kind, &mut review, None).await,
            Err(status) => Err(status),
        },
        "LocalSubjectAccessReview" => match subject(&review, kind) {
            Ok(user) => access(core, &user, kind, &mut review, Some(namespace)).await,
            Err(status) => Err(status),
        },
        "SelfSubjectRulesReview" => rules(core, &context.user, &mut review).await,
        "SelfSubjectReview" => {
            review["status"] = json!({"userInfo": context.user.to_json()});
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

fn invalid(kind: &Kind, error: api::FieldError) -> Status {
    Status::invalid(kind.group, kind.kind, "", vec![error])
}

fn subject(review: &Value, kind: &Kind) -> Result<User, Status> {
    let spec = &review["spec"];
    let name = text(spec, &["user"]);
    let groups: Vec<String> = object::strings(spec, &["groups"])
        .map(str::to_owned)
        .collect();
    if name.is_empty() && groups.is_empty() {
        let error = api::FieldError::invalid(
            "spec.user",
            &"".into(),
            "at least one of user or group must be specified",
        );
        return Err(invalid(kind, error));
    }
    Ok(User {
        name: name.into(),
        uid: text(spec, &["uid"]).into(),
        groups,
        ..User::default()
    })
}

async fn access(
    core: &Core,
    user: &User,
    kind: &Kind,
    review: &mut Value,
    local: Option<&str>,
) -> Result<(), Status> {
    let spec = &review["spec"];
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let wanted = match (resource.is_object(), path.is_object()) {
        (true, false) => {
            let field = |name: &str| text(resource, &[name]).to_owned();
            if let Some(namespace) = local
                && field("namespace") != namespace
            {
                let error = api::FieldError::invalid(
                    "spec.resourceAttributes.namespace",
                    &field("namespace").into(),
                    format!("must match metadata.namespace: {namespace}"),
                );
                return Err(invalid(kind, error));
            }
            Attributes {
                verb: field("verb"),
                group: field("group"),
                resource: field("resource"),
                subresource: field("subresource"),
                namespace: field("namespace"),
                name: field("name"),
                ..Attributes::default()
            }
        }
        (false, true) => Attributes {
            verb: text(path, &["verb"]).into(),
            path: text(path, &["path"]).into(),
            ..Attributes::default()
        },
        (both, _) => {
            let why = if both {
                "cannot be specified in combination with resourceAttributes"
            } else {
                "exactly one of nonResourceAttributes or resourceAttributes must be specified"
            };
            let field = if both {
                "spec.nonResourceAttributes"
            } else {
                "spec.resourceAttributes"
            };
            return Err(invalid(
                kind,
                api::FieldError::invalid(field, &Value::Null, why),
            ));
        }
    };
    review["status"] = match core.authorizer.authorize(user, &wanted).await {
        Decision::Allow(reason) => json!({"allowed": true, "reason": reason}),
        Decision::NoOpinion(reason) if reason.is_empty() => json!({"allowed": false}),
        Decision::NoOpinion(reason) => json!({"allowed": false, "reason": reason}),
    };
    Ok(())
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
        Ok(user) => json!({"authenticated": true, "user": user.to_json(), "audiences": audiences}),
        Err(error) => json!({"authenticated": false, "user": {}, "error": error}),
    };
    Ok(())
}
