//! `serviceaccounts/token`: bound tokens (TokenRequest).

use api::Status;
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::Core;
use crate::admission::node_restriction;
use crate::authn::{self, ISSUER};
use crate::object::{self, text};
use crate::registry::Context;

const SHORTEST: i64 = 600;
/// The longest life of a token, whatever is asked for.
const LONGEST: i64 = 365 * 86_400;
const DEFAULT: i64 = 3600;

/// Answers a TokenRequest for a ServiceAccount.
///
/// # Errors
/// 404 for the account or what the token shall be bound to, 422 for a bad life.
pub async fn create(
    core: &Core,
    context: &Context,
    namespace: &str,
    name: &str,
    mut request: Value,
) -> Result<Value, Status> {
    let kind = core.kind("", "v1", "serviceaccounts")?;
    let account = core.get_value(kind, namespace, name).await?;
    let spec = &request["spec"];
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(DEFAULT);
    let invalid = |why: &str| {
        let error = api::FieldError::invalid("spec.expirationSeconds", &seconds.into(), why);
        Err(Status::invalid(
            "authentication.k8s.io",
            "TokenRequest",
            name,
            vec![error],
        ))
    };
    if seconds < SHORTEST {
        return invalid("may not specify a duration less than 10 minutes");
    }
    if seconds > 1 << 32 {
        return invalid("may not specify a duration larger than 2^32 seconds");
    }
    let seconds = seconds.min(LONGEST);
    let mut audiences: Vec<String> = object::strings(spec, &["audiences"])
        .map(str::to_owned)
        .collect();
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    node_restriction::token(&context.user, name, &spec["boundObjectRef"])?;
    let bound = bind(core, context, namespace, name, &spec["boundObjectRef"]).await?;
    let now = core.world.now();
    let expires = now
        .checked_add(SignedDuration::from_secs(seconds))
        .unwrap_or(now);
    let id = core.world.rng.uuid();
    let account = (name, text(&account, &["metadata", "uid"]));
    let claims = authn::claims(namespace, account, bound, &audiences, &id, now, expires);
    let token = core.tokens.sign(&claims).map_err(Status::internal)?;
    request["apiVersion"] = "authentication.k8s.io/v1".into();
    request["kind"] = "TokenRequest".into();
    let metadata = object::metadata(&mut request);
    metadata.insert("name".into(), name.into());
    metadata.insert("namespace".into(), namespace.into());
    metadata.insert("creationTimestamp".into(), api::time::seconds(now).into());
    request["spec"]["audiences"] = json!(audiences);
    request["spec"]["expirationSeconds"] = seconds.into();
    request["status"] = json!({"token": token, "expirationTimestamp": api::time::seconds(expires)});
    Ok(request)
}

/// The claims about what the token lives and dies with.
async fn bind(
    core: &Core,
    context: &Context,
    namespace: &str,
    account: &str,
    reference: &Value,
) -> Result<Value, Status> {
    if reference.is_null() {
        return Ok(json!({}));
    }
    let (name, uid) = (text(reference, &["name"]), text(reference, &["uid"]));
    let plural = match text(reference, &["kind"]) {
        "Pod" => "pods",
        "Secret" => "secrets",
        "Node" => "nodes",
        other => {
            let message = format!(
                "cannot bind token for serviceaccount \"{account}\" to object of type {other}"
            );
            return Err(Status::bad_request(message));
        }
    };
    let kind = core.kind("", "v1", plural)?;
    let object = core.get_value(kind, namespace, name).await?;
    let actual = text(&object, &["metadata", "uid"]);
    if !uid.is_empty() && uid != actual {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict("", plural, name, why));
    }
    let claim = json!({"name": name, "uid": actual});
    if plural != "pods" {
        return Ok(json!({plural.trim_end_matches('s'): claim}));
    }
    if text(&object, &["spec", "serviceAccountName"]) != account {
        let message = format!(
            "cannot bind token for serviceaccount \"{account}\" to pod running with different serviceaccount name."
        );
        return Err(Status::bad_request(message));
    }
    let node = text(&object, &["spec", "nodeName"]);
    if let Some(of) = context.user.node()
        && of != node
    {
        return Err(Status::forbidden(
            "",
            "serviceaccounts",
            account,
            "node requested token bound to a pod scheduled on a different node",
        ));
    }
    let mut bound = json!({"pod": claim});
    if !node.is_empty() {
        let nodes = core.kind("", "v1", "nodes")?;
        if let Ok(object) = core.get_value(nodes, "", node).await {
            bound["node"] = json!({"name": node, "uid": object["metadata"]["uid"]});
        }
    }
    Ok(bound)
}
