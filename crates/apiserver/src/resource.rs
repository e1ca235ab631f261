//! Requests of the resource API: from verb and kind to the registry.

use std::sync::Arc;

use api::Status;
use api::facts::Kind;
use http::{Request, Response, StatusCode};
use serde_json::{Value, json};
use skiff_http::{Body, Cut, body, upgrade};
use strategy::versions::{self, stored_as};
use tokio_util::sync::CancellationToken;

use crate::answer::{self, Accepted};
use crate::object::{self, text};
use crate::patch::{Patch, is_apply};
use crate::registry::apply::Config;
use crate::registry::delete::{DeleteOptions, Deleted};
use crate::registry::list::Selection;
use crate::registry::{Context, WriteOptions, Written, codec, watch};
use crate::request::RequestInfo;
use crate::{Core, read_body, reviews, subresource};

/// Answers a request for a kind.
///
/// # Errors
/// Any status.
pub async fn serve(
    core: &Arc<Core>,
    context: &Context,
    info: &RequestInfo,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let kind = core.kind(&info.group, &info.version, &info.resource)?;
    if !kind.namespaced && !info.namespace.is_empty() && kind.plural != "namespaces" {
        return Err(Status::no_such_path());
    }
    if let Some(warning) = deprecation(kind) {
        context.warn(warning);
    }
    if !info.subresource.is_empty() {
        if !subresource::is_served(kind, &info.subresource) {
            return Err(Status::no_such_path());
        }
        return of_subresource(core, context, kind, info, request).await;
    }
    if !kind.stored() {
        return review(core, context, kind, info, request).await;
    }
    let of_one = matches!(info.verb, "get" | "update" | "patch" | "delete");
    if of_one && info.name.is_empty()
        || !kind.verbs.contains(&info.verb)
        || kind.namespaced
            && info.namespace.is_empty()
            && !matches!(info.verb, "list" | "watch" | "deletecollection")
    {
        return Err(Status::method_not_allowed());
    }
    let namespace = if kind.namespaced {
        info.namespace.as_str()
    } else {
        ""
    };
    match info.verb {
        "get" => {
            let accepted = answer::negotiate(request.headers(), &info.query)?;
            let entry = core.get(stored_as(kind), namespace, &info.name).await?;
            answer::object(core, kind, StatusCode::OK, accepted, &entry.wire)
        }
        "list" => {
            let accepted = answer::negotiate(request.headers(), &info.query)?;
            let selection = Selection::of(&info.query, kind, "")?;
            let stored = stored_as(kind);
            let page = core
                .list(stored, namespace, &selection, &info.query)
                .await?;
            answer::list(core, kind, accepted, &page)
        }
        "watch" => start_watch(core, kind, namespace, info, request).await,
        "create" => create(core, context, kind, namespace, info, request).await,
        "update" => put(core, context, kind, namespace, info, request).await,
        "patch" => patch(core, context, kind, namespace, info, request).await,
        "delete" => delete(core, context, kind, namespace, info, request).await,
        "deletecollection" => {
            delete_collection(core, context, kind, namespace, info, request).await
        }
        _ => Err(Status::method_not_allowed()),
    }
}

/// What every request for a kind that upstream has deprecated is told.
fn deprecation(kind: &Kind) -> Option<&'static str> {
    ((kind.group, kind.kind) == ("", "Endpoints"))
        .then_some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
}

async fn start_watch(
    core: &Arc<Core>,
    kind: &'static Kind,
    namespace: &str,
    info: &RequestInfo,
    mut request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let accepted = answer::negotiate(request.headers(), &info.query)?;
    let wanted = watch::Request::of(core, kind, namespace, &info.name, &info.query, accepted)?;
    let done = CancellationToken::new();
    let client = watch::Client {
        cut: request.extensions().get::<Cut>().cloned(),
        done: done.clone(),
    };
    let lines = watch::start(core.clone(), wanted, client).await?;
    if upgrade::requested(request.headers()).as_deref() == Some("websocket") {
        return crate::websocket::serve_events(&mut request, accepted.encoding, lines, done);
    }
    let stream = body::holding(body::queue(lines), done.drop_guard());
    Ok(answer::stream(accepted.encoding, stream))
}

fn written(
    core: &Core,
    kind: &'static Kind,
    code: StatusCode,
    accepted: Accepted,
    written: &Written,
) -> Result<Response<Body>, Status> {
    answer::object(core, kind, code, accepted, &written.wire())
}

async fn create(
    core: &Arc<Core>,
    context: &Context,
    kind: &'static Kind,
    namespace: &str,
    info: &RequestInfo,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    if !info.name.is_empty() {
        return Err(Status::method_not_allowed());
    }
    let accepted = answer::negotiate(request.headers(), &info.query)?;
    let options = WriteOptions::of(&info.query, "CreateOptions")?;
    let content = codec::content_type(request.headers())?;
    let bytes = read_body(request.into_body()).await?;
    let mut value = codec::read(&bytes, content, kind, options.field_validation, context)?;
    versions::to_stored(kind, &mut value);
    let done = core
        .create(context, stored_as(kind), namespace, value, &options)
        .await?;
    written(core, kind, StatusCode::CREATED, accepted, &done)
}

async fn put(
    core: &Arc<Core>,
    context: &Context,
    kind: &'static Kind,
    namespace: &str,
    info: &RequestInfo,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let accepted = answer::negotiate(request.headers(), &info.query)?;
    let options = WriteOptions::of(&info.query, "UpdateOptions")?;
    let content = codec::content_type(request.headers())?;
    let bytes = read_body(request.into_body()).await?;
    let mut value = codec::read(&bytes, content, kind, options.field_validation, context)?;
    versions::to_stored(kind, &mut value);
    let (done, created) = core
        .put(
            context,
            stored_as(kind),
            namespace,
            &info.name,
            &info.subresource,
            value,
            &options,
        )
        .await?;
    let code = if created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    written(core, kind, code, accepted, &done)
}

async fn patch(
    core: &Arc<Core>,
    context: &Context,
    kind: &'static Kind,
    namespace: &str,
    info: &RequestInfo,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let accepted = answer::negotiate(request.headers(), &info.query)?;
    let mut options = WriteOptions::of(&info.query, "PatchOptions")?;
    let headers = request.headers().clone();
    let name = info.name.as_str();
    if is_apply(&headers) {
        options.check_apply()?;
        let bytes = read_body(request.into_body()).await?;
        let mut config = Config::read(kind, namespace, name, &bytes, &options, context)?;
        config.convert(|value| versions::to_stored(kind, value));
        let sub = info.subresource.as_str();
        let (done, created) = core
            .apply(
                context,
                stored_as(kind),
                namespace,
                name,
                sub,
                &config,
                &options,
            )
            .await?;
        let code = if created {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        };
        return written(core, kind, code, accepted, &done);
    }
    let bytes = read_body(request.into_body()).await?;
    let patch = Patch::read(&headers, &bytes)?;
    options.check_no_force()?;
    // They can only be changed by a patch that names them.
    options.sees_managed = memmem(&bytes, b"managedFields");
    let mut change = |current: &Value| {
        let mut new = if stored_as(kind) == kind {
            patch.apply(kind.ty, current)?
        } else {
            let mut served = current.clone();
            versions::to_served(kind, &mut served);
            patch.apply(kind.ty, &served)?
        };
        without_current_version(current, &mut new);
        codec::conform(
            &mut new,
            Vec::new(),
            kind,
            options.field_validation,
            context,
        )?;
        if object::name(&new) != name {
            let error = api::FieldError::invalid(
                "metadata.name",
                &object::name(&new).into(),
                "field is immutable",
            );
            return Err(Status::invalid(kind.group, kind.kind, name, vec![error]));
        }
        codec::settle_namespace(&mut new, kind, namespace)?;
        versions::to_stored(kind, &mut new);
        Ok(new)
    };
    let done = core
        .update(
            context,
            stored_as(kind),
            namespace,
            name,
            &info.subresource,
            &mut change,
            &options,
        )
        .await?;
    written(core, kind, StatusCode::OK, accepted, &done)
}

fn memmem(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|part| part == word)
}

/// A patch insists on a version only if it says one itself: on a version that is no longer the current one.
fn without_current_version(current: &Value, new: &mut Value) {
    if text(new, &["metadata", "resourceVersion"])
        == text(current, &["metadata", "resourceVersion"])
    {
        object::metadata(new).remove("resourceVersion");
    }
}

async fn delete(
    core: &Arc<Core>,
    context: &Context,
    kind: &'static Kind,
    namespace: &str,
    info: &RequestInfo,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let accepted = answer::negotiate(request.headers(), &info.query)?;
    let content = codec::content_type(request.headers())?;
    let bytes = read_body(request.into_body()).await?;
    let options = DeleteOptions::of(&bytes, content, &info.query)?;
    match core
        .delete(context, stored_as(kind), namespace, &info.name, &options)
        .await?
    {
        Deleted::Pending(entry) => {
            answer::object(core, kind, StatusCode::OK, accepted, &entry.wire)
        }
        Deleted::Gone(entry) if returns_deleted(kind) => {
            answer::object(core, kind, StatusCode::OK, accepted, &entry.wire)
        }
        Deleted::Gone(entry) => {
            let object = codec::decode(&entry)?;
            answer::other(StatusCode::OK, accepted, &success(kind, &object))
        }
    }
}

/// Kinds whose deletion answers with the object, as upstream's `ReturnDeletedObject`.
fn returns_deleted(kind: &Kind) -> bool {
    matches!(
        (kind.group, kind.plural),
        (
            "",
            "pods"
                | "services"
                | "serviceaccounts"
                | "persistentvolumes"
                | "persistentvolumeclaims"
                | "podtemplates"
                | "resourcequotas"
        )
    )
}

fn success(kind: &Kind, object: &Value) -> Value {
    let details = api::status::Details {
        name: object::name(object).to_owned(),
        group: kind.group.to_owned(),
        kind: kind.plural.to_owned(),
        uid: text(object, &["metadata", "uid"]).to_owned(),
        ..api::status::Details::default()
    };
    Status::success(Some(&details))
}

async fn delete_collection(
    core: &Arc<Core>,
    context: &Context,
    kind: &'static Kind,
    namespace: &str,
    info: &RequestInfo,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let accepted = answer::negotiate(request.headers(), &info.query)?;
    let content = codec::content_type(request.headers())?;
    let bytes = read_body(request.into_body()).await?;
    let options = DeleteOptions::of(&bytes, content, &info.query)?;
    let selection = Selection::of(&info.query, kind, "")?;
    let stored = stored_as(kind);
    let page = core
        .list(stored, namespace, &selection, &info.query)
        .await?;
    for entry in &page.entries {
        let object = codec::decode(entry)?;
        let of = text(&object, &["metadata", "namespace"]);
        match core
            .delete(context, stored, of, object::name(&object), &options)
            .await
        {
            Err(status) if status.code != 404 => return Err(status),
            _ => {}
        }
    }
    answer::list(core, kind, accepted, &page)
}

async fn review(
    core: &Arc<Core>,
    context: &Context,
    kind: &'static Kind,
    info: &RequestInfo,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    if info.verb != "create" {
        return Err(Status::method_not_allowed());
    }
    let accepted = answer::negotiate(request.headers(), &info.query)?;
    let options = WriteOptions::of(&info.query, "CreateOptions")?;
    let content = codec::content_type(request.headers())?;
    let bytes = read_body(request.into_body()).await?;
    let value = codec::read(&bytes, content, kind, options.field_validation, context)?;
    if kind.kind == "Binding" {
        let name = object::name(&value).to_owned();
        subresource::pod::bind(core, context, &info.namespace, &name, &value, &options).await?;
        return answer::other(StatusCode::CREATED, accepted, &Status::success(None));
    }
    match reviews::answer(core, context, kind, &info.namespace, value).await {
        Some(answered) => answer::object(
            core,
            kind,
            StatusCode::CREATED,
            accepted,
            &answered?.to_string().into(),
        ),
        None => Err(Status::method_not_allowed()),
    }
}

async fn of_subresource(
    core: &Arc<Core>,
    context: &Context,
    kind: &'static Kind,
    info: &RequestInfo,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let namespace = if kind.namespaced {
        info.namespace.as_str()
    } else {
        ""
    };
    let unsupported = || Err(Status::method_not_allowed());
    if info.subresource == "proxy" {
        return subresource::proxy::serve(core, kind, info, request).await;
    }
    let known = kind
        .subresource(&info.subresource)
        .is_some_and(|s| s.verbs.contains(&info.verb));
    if !known {
        return unsupported();
    }
    match info.subresource.as_str() {
        "status" | "finalize" | "approval" | "ephemeralcontainers" | "resize" => match info.verb {
            "get" => {
                let accepted = answer::negotiate(request.headers(), &info.query)?;
                let entry = core.get(stored_as(kind), namespace, &info.name).await?;
                answer::object(core, kind, StatusCode::OK, accepted, &entry.wire)
            }
            "update" => put(core, context, kind, namespace, info, request).await,
            "patch" => patch(core, context, kind, namespace, info, request).await,
            _ => unsupported(),
        },
        "scale" => scale(core, context, kind, info, request).await,
        "log" | "exec" | "attach" | "portforward" => {
            subresource::streams::serve(core, info, request).await
        }
        _ => action(core, context, kind, info, request).await,
    }
}

/// Subresources that are posted to: `binding`, `eviction`, `token`.
async fn action(
    core: &Arc<Core>,
    context: &Context,
    kind: &'static Kind,
    info: &RequestInfo,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let accepted = answer::negotiate(request.headers(), &info.query)?;
    let options = WriteOptions::of(&info.query, "CreateOptions")?;
    let content = codec::content_type(request.headers())?;
    let bytes = read_body(request.into_body()).await?;
    let ty = kind
        .subresource(&info.subresource)
        .and_then(api::facts::subresource_type);
    let (value, _) = codec::parse(&bytes, content, ty.unwrap_or(kind.ty))?;
    let (namespace, name) = (info.namespace.as_str(), info.name.as_str());
    let given = object::name(&value);
    if !given.is_empty() && given != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    let done = match info.subresource.as_str() {
        "binding" => {
            subresource::pod::bind(core, context, namespace, name, &value, &options).await?;
            Status::success(None)
        }
        "eviction" => {
            subresource::eviction::evict(core, context, namespace, name, &value, options.dry_run)
                .await?;
            Status::success(None)
        }
        "token" => subresource::token::create(core, context, namespace, name, value).await?,
        _ => {
            return Err(Status::method_not_allowed());
        }
    };
    answer::other(StatusCode::CREATED, accepted, &done)
}

async fn scale(
    core: &Arc<Core>,
    context: &Context,
    kind: &'static Kind,
    info: &RequestInfo,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let accepted = answer::negotiate(request.headers(), &info.query)?;
    let (namespace, name) = (info.namespace.as_str(), info.name.as_str());
    if info.verb == "get" {
        let object = core.get_value(kind, namespace, name).await?;
        return answer::scale(core, accepted, &strategy::scale_of(kind, &object));
    }
    let operation = if info.verb == "patch" {
        "PatchOptions"
    } else {
        "UpdateOptions"
    };
    let options = WriteOptions::of(&info.query, operation)?;
    let headers = request.headers().clone();
    if info.verb == "patch" && is_apply(&headers) {
        options.check_apply()?;
        let bytes = read_body(request.into_body()).await?;
        let scaled =
            subresource::scale::apply(core, context, kind, namespace, name, &bytes, &options)
                .await?;
        return Ok(answer::value(&scaled));
    }
    let bytes = read_body(request.into_body()).await?;
    let ty = kind
        .subresource("scale")
        .and_then(api::facts::subresource_type)
        .unwrap_or(kind.ty);
    let scaled = if info.verb == "patch" {
        let patch = Patch::read(&headers, &bytes)?;
        options.check_no_force()?;
        let mut change = |current: &Value| {
            let mut new = patch.apply(ty, current)?;
            without_current_version(current, &mut new);
            Ok(new)
        };
        subresource::scale::update(core, context, kind, namespace, name, &mut change, &options)
            .await?
    } else {
        let (value, _) = codec::parse(&bytes, codec::content_type(&headers)?, ty)?;
        if value["spec"]
            .get("replicas")
            .is_some_and(|r| !r.is_i64() && !r.is_null())
        {
            return Err(Status::bad_request(
                "Scale in version \"v1\" cannot be handled as a Scale: json: cannot unmarshal into Go struct field ScaleSpec.spec.replicas of type int32",
            ));
        }
        let mut change = |_: &Value| Ok(json!(value));
        subresource::scale::update(core, context, kind, namespace, name, &mut change, &options)
            .await?
    };
    answer::scale(core, accepted, &scaled)
}
