//! Answers: content negotiation, Tables, metadata-only forms, statuses.

use api::facts::Kind;
use api::{Status, protobuf};
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};
use skiff_http::{Body, body};
use strategy::versions;

use crate::Core;
use crate::registry::list::Page;

/// What form of an object the client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The object itself: the stored bytes pass untouched.
    Object,
    /// `meta.k8s.io/v1` Table, with what beside each row.
    Table { include: Include },
    /// `meta.k8s.io/v1` PartialObjectMetadata.
    Metadata,
}

/// What a Table's row carries of its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Include {
    None,
    Metadata,
    Object,
}

/// How an answer's bytes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Yaml,
    Protobuf,
}

/// How the answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    pub form: Form,
    pub encoding: Encoding,
}

/// A media type that is given as an answer.
fn encoding(media_type: &str) -> Option<Encoding> {
    match media_type {
        "application/json" | "*/*" | "application/*" => Some(Encoding::Json),
        "application/yaml" => Some(Encoding::Yaml),
        protobuf::MEDIA_TYPE => Some(Encoding::Protobuf),
        _ => None,
    }
}

/// How a failure is written for this request: in the first encoding that it names.
#[must_use]
pub fn encoding_of_failures(headers: &HeaderMap) -> Encoding {
    let header = headers.get(http::header::ACCEPT);
    let header = header.and_then(|v| v.to_str().ok()).unwrap_or("");
    let mut clauses = header.split(',');
    clauses
        .find_map(|clause| encoding(clause.split(';').next().unwrap_or("").trim()))
        .unwrap_or(Encoding::Json)
}

/// Reads an `Accept` header.
///
/// # Errors
/// 406 when nothing of it can be given.
pub fn negotiate(headers: &HeaderMap, query: &crate::request::Query) -> Result<Accepted, Status> {
    let header = headers
        .get(http::header::ACCEPT)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("");
    if header.trim().is_empty() {
        return Ok(Accepted {
            form: Form::Object,
            encoding: Encoding::Json,
        });
    }
    for clause in header.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        let Some(encoding) = encoding(parts.next().unwrap_or("")) else {
            continue;
        };
        let parameter = |name: &str| {
            clause
                .split(';')
                .map(str::trim)
                .find_map(|p| p.strip_prefix(name)?.strip_prefix('='))
        };
        let form = match (parameter("as"), parameter("g"), parameter("v")) {
            (None, _, _) => Form::Object,
            // Upstream's Table has no protobuf form either.
            (Some("Table"), Some("meta.k8s.io"), Some("v1")) if encoding != Encoding::Protobuf => {
                let include = match query.get("includeObject") {
                    "None" => Include::None,
                    "Object" => Include::Object,
                    _ => Include::Metadata,
                };
                Form::Table { include }
            }
            (
                Some("PartialObjectMetadata" | "PartialObjectMetadataList"),
                Some("meta.k8s.io"),
                Some("v1"),
            ) => Form::Metadata,
            _ => continue,
        };
        return Ok(Accepted { form, encoding });
    }
    Err(Status::not_acceptable(&[
        "application/json",
        "application/yaml",
        protobuf::MEDIA_TYPE,
    ]))
}

fn respond(code: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static(content_type),
    );
    headers.insert(
        http::header::CACHE_CONTROL,
        http::HeaderValue::from_static("no-cache, private"),
    );
    response
}

/// JSON bytes with a status code.
#[must_use]
pub fn json(code: StatusCode, bytes: impl Into<Bytes>) -> Response<Body> {
    respond(code, "application/json", body::full(bytes))
}

/// A JSON tree with `200`.
#[must_use]
pub fn value(value: &Value) -> Response<Body> {
    json(StatusCode::OK, value.to_string())
}

/// Plain text.
#[must_use]
pub fn text(code: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    respond(code, "text/plain; charset=utf-8", body::full(text))
}

/// A failure.
#[must_use]
pub fn failure(status: &Status, encoding: Encoding) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let written = match encoding {
        Encoding::Json => None,
        Encoding::Yaml | Encoding::Protobuf => {
            let accepted = Accepted {
                form: Form::Object,
                encoding,
            };
            other(code, accepted, &status.to_value()).ok()
        }
    };
    let mut response = written.unwrap_or_else(|| json(code, status.to_json()));
    if let Some(details) = &status.details
        && details.retry_after_seconds > 0
    {
        response.headers_mut().insert(
            http::header::RETRY_AFTER,
            details.retry_after_seconds.into(),
        );
    }
    response
}

/// A stream of a watch's events.
#[must_use]
pub fn stream(encoding: Encoding, body: Body) -> Response<Body> {
    let content_type = match encoding {
        Encoding::Protobuf => protobuf::STREAM_MEDIA_TYPE,
        _ => "application/json",
    };
    respond(StatusCode::OK, content_type, body)
}

fn finish(code: StatusCode, encoding: Encoding, bytes: Bytes) -> Result<Response<Body>, Status> {
    if encoding != Encoding::Yaml {
        return Ok(json(code, bytes));
    }
    let value: Value = serde_json::from_slice(&bytes).map_err(Status::internal)?;
    let yaml = serde_saphyr::to_string(&value).map_err(Status::internal)?;
    Ok(respond(code, "application/yaml", body::full(yaml)))
}

fn in_protobuf(code: StatusCode, bytes: Vec<u8>) -> Response<Body> {
    respond(code, protobuf::MEDIA_TYPE, body::full(bytes))
}

/// One object, given as its JSON, in the form that was asked for.
///
/// # Errors
/// 500 when a stored object cannot be decoded.
pub fn object(
    core: &Core,
    kind: &'static Kind,
    code: StatusCode,
    accepted: Accepted,
    wire: &Bytes,
) -> Result<Response<Body>, Status> {
    let wire = &served_form(kind, wire)?;
    match (accepted.encoding, accepted.form) {
        (Encoding::Protobuf, form) => Ok(in_protobuf(code, protobuf_of(kind, form, wire)?)),
        (encoding, Form::Object) => finish(code, encoding, wire.clone()),
        (encoding, form) => finish(code, encoding, render_one(core, kind, form, wire)),
    }
}

/// A stored object's JSON in the form of the kind that it is asked for as.
///
/// # Errors
/// 500 when a stored object cannot be decoded.
pub fn served_form(kind: &'static Kind, wire: &Bytes) -> Result<Bytes, Status> {
    if versions::stored_as(kind) == kind {
        return Ok(wire.clone());
    }
    let mut object: Value = serde_json::from_slice(wire).map_err(Status::internal)?;
    if object["apiVersion"] != kind.api_version() {
        versions::to_served(kind, &mut object);
    }
    Ok(object.to_string().into())
}

/// One object as protobuf, in the form that was asked for.
///
/// # Errors
/// 500 when a stored object does not fit its kind.
pub fn protobuf_of(kind: &'static Kind, form: Form, wire: &[u8]) -> Result<Vec<u8>, Status> {
    let done = match form {
        Form::Object => protobuf::object(&kind.api_version(), kind.kind, Some(kind.ty), wire),
        Form::Metadata | Form::Table { .. } => {
            protobuf::object("meta.k8s.io/v1", "PartialObjectMetadata", None, wire)
        }
    };
    done.map_err(Status::internal)
}

/// An object that is not of the resource's own kind: a Scale, a TokenRequest, a Status.
///
/// # Errors
/// 500 when it cannot be written.
pub fn other(
    code: StatusCode,
    accepted: Accepted,
    value: &Value,
) -> Result<Response<Body>, Status> {
    if accepted.encoding != Encoding::Protobuf {
        return finish(code, accepted.encoding, value.to_string().into());
    }
    let (api_version, name) = (&value["apiVersion"], &value["kind"]);
    let (api_version, name) = (
        api_version.as_str().unwrap_or_default(),
        name.as_str().unwrap_or_default(),
    );
    let ty = api::facts::type_by_name(api_version, name)
        .ok_or_else(|| Status::internal(format!("{name} has no protobuf form")))?;
    let done = protobuf::object(api_version, name, Some(ty), value.to_string().as_bytes());
    Ok(in_protobuf(code, done.map_err(Status::internal)?))
}

/// A Scale, which has a table of its own.
///
/// # Errors
/// As [`other`].
pub fn scale(core: &Core, accepted: Accepted, scale: &Value) -> Result<Response<Body>, Status> {
    match accepted.form {
        Form::Table { include } if accepted.encoding != Encoding::Protobuf => {
            other(StatusCode::OK, accepted, &scale_table(core, scale, include))
        }
        _ => other(StatusCode::OK, accepted, scale),
    }
}

/// One object as a Table or as metadata.
#[must_use]
pub fn render_one(core: &Core, kind: &'static Kind, form: Form, wire: &Bytes) -> Bytes {
    let object: Value = serde_json::from_slice(wire).unwrap_or_default();
    let rendered = match form {
        Form::Object => return wire.clone(),
        Form::Metadata => partial(&object),
        Form::Table { include } => {
            let version = object["metadata"]["resourceVersion"].clone();
            table(
                core,
                kind,
                json!({"resourceVersion": version}),
                std::slice::from_ref(&object),
                include,
            )
        }
    };
    rendered.to_string().into()
}

fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

fn table(
    core: &Core,
    kind: &'static Kind,
    metadata: Value,
    objects: &[Value],
    include: Include,
) -> Value {
    let now = core.world.now();
    let cells = |object: &Value| cells(kind, object, now);
    table_of(strategy::columns(kind), cells, metadata, objects, include)
}

fn scale_table(core: &Core, scale: &Value, include: Include) -> Value {
    let now = core.world.now();
    let cells = |scale: &Value| strategy::scale_row(scale, now);
    let metadata = json!({"resourceVersion": scale["metadata"]["resourceVersion"]});
    let columns = &strategy::SCALE_COLUMNS;
    table_of(
        columns,
        cells,
        metadata,
        std::slice::from_ref(scale),
        include,
    )
}

fn table_of(
    columns: &[strategy::Column],
    cells: impl Fn(&Value) -> Vec<Value>,
    metadata: Value,
    objects: &[Value],
    include: Include,
) -> Value {
    let columns: Vec<Value> = columns
        .iter()
        .map(|c| {
            json!({
                "name": c.name, "type": c.ty, "format": c.format,
                "description": c.description, "priority": c.priority,
            })
        })
        .collect();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let mut row = json!({"cells": cells(object)});
            match include {
                Include::None => {}
                Include::Metadata => row["object"] = partial(object),
                Include::Object => row["object"] = object.clone(),
            }
            row
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns, "rows": rows,
    })
}

/// The cells of an object, which are the same in whichever version it is asked for.
fn cells(kind: &'static Kind, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    if versions::stored_as(kind) == kind || object["apiVersion"] != kind.api_version() {
        return strategy::row(kind, object, now);
    }
    let mut stored = object.clone();
    versions::to_stored(kind, &mut stored);
    strategy::row(kind, &stored, now)
}

/// A page of a list.
///
/// # Errors
/// 500 when a stored object cannot be decoded.
pub fn list(
    core: &Core,
    kind: &'static Kind,
    accepted: Accepted,
    page: &Page,
) -> Result<Response<Body>, Status> {
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if !page.continue_token.is_empty() {
        metadata["continue"] = page.continue_token.clone().into();
    }
    if let Some(remaining) = page.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    let wires = page.entries.iter().map(|e| served_form(kind, &e.wire));
    let wires = wires.collect::<Result<Vec<Bytes>, Status>>()?;
    let decoded = || -> Result<Vec<Value>, Status> {
        let values = wires.iter().map(|wire| serde_json::from_slice(wire));
        values.map(|v| v.map_err(Status::internal)).collect()
    };
    if accepted.encoding == Encoding::Protobuf {
        return list_in_protobuf(kind, accepted.form, &metadata, &wires);
    }
    let rendered = match accepted.form {
        Form::Object if accepted.encoding == Encoding::Json => {
            let head = format!(
                "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
                kind.list_kind,
                kind.api_version()
            );
            return Ok(respond(
                StatusCode::OK,
                "application/json",
                concatenate(head, &wires),
            ));
        }
        Form::Object => json!({
            "kind": kind.list_kind, "apiVersion": kind.api_version(), "metadata": metadata, "items": decoded()?,
        }),
        Form::Metadata => {
            let items: Vec<Value> = decoded()?.iter().map(partial).collect();
            json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items})
        }
        Form::Table { include } => table(core, kind, metadata, &decoded()?, include),
    };
    finish(
        StatusCode::OK,
        accepted.encoding,
        rendered.to_string().into(),
    )
}

fn list_in_protobuf(
    kind: &'static Kind,
    form: Form,
    metadata: &Value,
    wires: &[Bytes],
) -> Result<Response<Body>, Status> {
    let (api_version, list_kind, ty) = match form {
        Form::Object => (kind.api_version(), kind.list_kind, Some(kind.ty)),
        Form::Metadata | Form::Table { .. } => (
            "meta.k8s.io/v1".to_owned(),
            "PartialObjectMetadataList",
            None,
        ),
    };
    let items = wires.iter().map(|wire| &wire[..]);
    let done = protobuf::list(&api_version, list_kind, ty, metadata, items);
    Ok(in_protobuf(StatusCode::OK, done.map_err(Status::internal)?))
}

/// Small objects are gathered into chunks of about this size; larger ones pass without a copy.
const CHUNK: usize = 16 * 1024;

fn concatenate(head: String, wires: &[Bytes]) -> Body {
    let mut chunks = Vec::new();
    let mut gathered = head.into_bytes();
    for (i, wire) in wires.iter().enumerate() {
        if i > 0 {
            gathered.push(b',');
        }
        if wire.len() >= CHUNK {
            chunks.push(Bytes::from(std::mem::take(&mut gathered)));
            chunks.push(wire.clone());
            continue;
        }
        gathered.extend_from_slice(wire);
        if gathered.len() >= CHUNK {
            chunks.push(Bytes::from(std::mem::replace(
                &mut gathered,
                Vec::with_capacity(CHUNK * 2),
            )));
        }
    }
    gathered.extend_from_slice(b"]}\n");
    chunks.push(gathered.into());
    body::chunks(chunks)
}
