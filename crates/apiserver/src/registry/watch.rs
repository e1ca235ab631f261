//! WATCH: the changes of a selection, in order, as lines of JSON or frames of protobuf.

use std::sync::Arc;
use std::time::Duration;

use api::facts::Kind;
use api::{Status, protobuf};
use bytes::Bytes;
use serde_json::{Value, json};
use skiff_http::Cut;
use store::{Entry, Event};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::list::{Selection, parse_version};
use super::{key, store_status};
use crate::Core;
use crate::answer::{self, Accepted, Encoding, Form};
use crate::metrics::WatchEvents;
use crate::request::Query;

/// Lines waiting for a slow client; when they are this many, the store's queue fills, and the rest comes out of history.
const QUEUE: usize = 64;
/// How long a client may leave [`QUEUE`] full, or the end of its watch unread, before its connection is closed: what waits for
/// it is memory of ours. As long as any other request may take.
pub const STALLED: Duration = Duration::from_secs(60);
/// How often a client that asked for bookmarks gets one.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// How long a watch lasts when the client does not say: between this and twice this, so that they don't end together.
const MIN_TIMEOUT: u64 = 1800;
/// A year: what is more is no time that a watch lasts.
const MAX_TIMEOUT: u64 = 365 * 86_400;

/// The other end of a watch.
pub struct Client {
    /// Closes its connection, if it has one.
    pub cut: Option<Cut>,
    /// Cancelled when the watch's body is sent or given up.
    pub done: CancellationToken,
}

impl Client {
    /// Waits until the client has read what there is, but not for ever.
    async fn finish(self) {
        let read = tokio::time::timeout(STALLED, self.done.cancelled()).await;
        if let (Err(_), Some(cut)) = (read, self.cut) {
            cut.cut();
        }
    }
}

/// What a watch asks for.
pub struct Request {
    pub kind: &'static Kind,
    pub namespace: String,
    pub selection: Selection,
    pub accepted: Accepted,
    version: String,
    bookmarks: bool,
    initial: Option<bool>,
    timeout: Duration,
}

impl Request {
    /// Reads a watch's parameters.
    ///
    /// # Errors
    /// 400 and 422 as upstream.
    pub fn of(
        core: &Core,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        query: &Query,
        accepted: Accepted,
    ) -> Result<Self, Status> {
        let selection = Selection::of(query, kind, name)?;
        let initial = query
            .has("sendInitialEvents")
            .then(|| query.is_true("sendInitialEvents"));
        let matching = query.get("resourceVersionMatch");
        let invalid = |why: &str| {
            let error = api::FieldError::forbidden("resourceVersionMatch", why);
            Err(Status::invalid(
                "meta.k8s.io",
                "ListOptions",
                "",
                vec![error],
            ))
        };
        if initial.is_some() && matching != "NotOlderThan" {
            return invalid(
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            );
        }
        if initial.is_none() && !matching.is_empty() {
            return invalid(
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
        }
        let asked = query.get("timeoutSeconds").parse::<u64>().unwrap_or(0);
        let asked = asked.min(MAX_TIMEOUT);
        let seconds = if asked > 0 {
            asked
        } else {
            MIN_TIMEOUT + core.world.rng.below(MIN_TIMEOUT)
        };
        Ok(Self {
            kind,
            namespace: namespace.to_owned(),
            selection,
            accepted,
            version: query.get("resourceVersion").to_owned(),
            bookmarks: query.is_true("allowWatchBookmarks"),
            initial,
            timeout: Duration::from_secs(seconds),
        })
    }
}

/// Starts a watch; its lines come out of the queue, which is closed when the watch ends.
///
/// # Errors
/// 410 when the revision is gone (upstream sends this as an event; a status is what clients see either way).
pub async fn start(
    core: Arc<Core>,
    request: Request,
    client: Client,
) -> Result<mpsc::Receiver<Bytes>, Status> {
    let prefix = key(request.kind, &request.namespace, "");
    // An unset version means "any, with what there is first"; so does 0.
    let from_scratch = matches!(request.version.as_str(), "" | "0");
    let send_state = request.initial.unwrap_or(from_scratch);
    let (state, after) = if send_state || from_scratch {
        let range = core
            .store
            .range(&prefix, None, None, 0)
            .await
            .map_err(store_status)?;
        let state = if send_state {
            range.entries
        } else {
            Vec::new()
        };
        (state, range.revision)
    } else {
        (Vec::new(), parse_version(&request.version)?)
    };
    let (lines, out) = mpsc::channel(QUEUE);
    let watch = match core.store.watch(&prefix, after).await {
        Ok(watch) => watch,
        Err(error) => {
            let status = match error {
                store::Error::Future { asked, current } => {
                    Status::expired(format!("too old resource version: {asked} ({current})"))
                }
                other => store_status(other),
            };
            // There is room: nothing was sent yet.
            let _ = lines.try_send(error_event(&request, &status)?);
            return Ok(out);
        }
    };
    let shutdown = core.shutdown.clone();
    tokio::spawn(shutdown.run_until_cancelled_owned(async move {
        follow(core, request, state, after, watch, Lines(lines)).await;
        client.finish().await;
    }));
    Ok(out)
}

/// Where a watch's events go.
struct Lines(mpsc::Sender<Bytes>);

impl Lines {
    /// False when the client is gone, or reads no more.
    async fn send(&self, line: Bytes) -> bool {
        let sent = self.0.send_timeout(line, STALLED).await;
        sent.is_ok()
    }
}

async fn follow(
    core: Arc<Core>,
    request: Request,
    state: Vec<Arc<Entry>>,
    mut revision: u64,
    mut watch: store::Watch,
    lines: Lines,
) {
    let sent = WatchEvents::of(request.kind, &core.world.metrics);
    for entry in state.iter().filter(|e| request.selection.matches(e)) {
        let Some(event) = event(&core, &request, "ADDED", &entry.wire) else {
            return;
        };
        sent.sent(event.len());
        if !lines.send(event).await {
            return;
        }
    }
    if request.initial == Some(true) && !send_bookmark(&request, revision, true, &lines).await {
        return;
    }
    let end = Instant::now() + request.timeout;
    let mut next_bookmark = Instant::now() + BOOKMARK_EVERY;
    loop {
        let wake = if request.bookmarks {
            end.min(next_bookmark)
        } else {
            end
        };
        let received = tokio::select! {
            biased;
            () = lines.0.closed() => return,
            received = watch.events.recv() => received,
            () = tokio::time::sleep_until(wake) => {
                if request.bookmarks {
                    // Also when nothing of this kind changed: else the client's revision would leave the history.
                    if let Some(current) = watch.progress() {
                        revision = revision.max(current);
                        if !send_bookmark(&request, revision, false, &lines).await {
                            return;
                        }
                    }
                    next_bookmark = Instant::now() + BOOKMARK_EVERY;
                }
                if Instant::now() >= end {
                    return;
                }
                continue;
            }
        };
        match received {
            Some(Ok(events)) => {
                for change in events {
                    revision = revision.max(change.revision());
                    let Some((kind, wire)) = seen(&request.selection, &change) else {
                        continue;
                    };
                    let Some(event) = event(&core, &request, kind, &wire) else {
                        return;
                    };
                    sent.sent(event.len());
                    if !lines.send(event).await {
                        return;
                    }
                }
            }
            // A slow client's queue was full. What it missed is history by now; if that is still there, it misses nothing.
            Some(Err(store::Error::Compacted { .. })) => {
                let prefix = key(request.kind, &request.namespace, "");
                match core.store.watch(&prefix, revision).await {
                    Ok(anew) => watch = anew,
                    Err(error) => {
                        refuse(&request, error, &lines).await;
                        return;
                    }
                }
            }
            Some(Err(error)) => {
                refuse(&request, error, &lines).await;
                return;
            }
            None => return,
        }
    }
}

/// Tells a client why its watch ends.
async fn refuse(request: &Request, error: store::Error, lines: &Lines) {
    if let Ok(event) = error_event(request, &store_status(error)) {
        // The client may be gone by now; then there is nobody to tell.
        lines.send(event).await;
    }
}

/// What a selection's watcher sees of an event: an object that leaves the selection is deleted for it.
fn seen(selection: &Selection, event: &Event) -> Option<(&'static str, Bytes)> {
    if event.deleted {
        let before = event.previous.as_ref().unwrap_or(&event.entry);
        return selection
            .matches(before)
            .then(|| ("DELETED", event.entry.wire.clone()));
    }
    let before = event
        .previous
        .as_ref()
        .is_some_and(|p| selection.matches(p));
    match (before, selection.matches(&event.entry)) {
        (false, true) => Some(("ADDED", event.entry.wire.clone())),
        (true, true) => Some(("MODIFIED", event.entry.wire.clone())),
        (true, false) => {
            let previous = event.previous.as_ref()?;
            Some(("DELETED", at_revision(previous, event.revision())))
        }
        (false, false) => None,
    }
}

/// An older version's bytes under a newer revision: what a watcher gets of an object that left its selection.
fn at_revision(entry: &Entry, revision: u64) -> Bytes {
    let (start, len) = (entry.rv_span.0 as usize, entry.rv_span.1 as usize);
    let tail = &entry.wire[start + len..];
    let comma = if tail.starts_with(b"}") { "" } else { "," };
    let stamp = format!("\"resourceVersion\":\"{revision}\"{comma}");
    [&entry.wire[..start], stamp.as_bytes(), tail]
        .concat()
        .into()
}

/// An event of the watch; `None` ends it, when a stored object does not fit its kind.
fn event(core: &Core, request: &Request, kind: &str, wire: &Bytes) -> Option<Bytes> {
    match written(core, request, kind, wire) {
        Ok(event) => Some(event),
        Err(status) => {
            tracing::error!(resource = request.kind.plural, error = %status.message, "a watch ended");
            None
        }
    }
}

fn written(core: &Core, request: &Request, kind: &str, wire: &Bytes) -> Result<Bytes, Status> {
    let Accepted { form, encoding } = request.accepted;
    let wire = answer::served_form(request.kind, wire)?;
    if encoding == Encoding::Protobuf {
        let object = answer::protobuf_of(request.kind, form, &wire)?;
        return Ok(protobuf::watch_event(kind, &object).into());
    }
    let object = match form {
        Form::Object => wire,
        _ => answer::render_one(core, request.kind, form, &wire),
    };
    Ok(line(kind, &object))
}

fn line(kind: &str, object: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(object.len() + 32);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
    out.into()
}

/// Sends a bookmark; false when the client is gone.
async fn send_bookmark(request: &Request, revision: u64, initial_end: bool, lines: &Lines) -> bool {
    match bookmark(request, revision, initial_end) {
        Ok(event) => lines.send(event).await,
        Err(_) => false,
    }
}

fn bookmark(request: &Request, revision: u64, initial_end: bool) -> Result<Bytes, Status> {
    let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
    if initial_end {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    let Accepted { form, encoding } = request.accepted;
    let (api_version, kind) = match form {
        Form::Table { .. } => ("meta.k8s.io/v1".to_owned(), "Table"),
        Form::Metadata => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadata"),
        Form::Object => (request.kind.api_version(), request.kind.kind),
    };
    let mut object = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
    if let Form::Table { .. } = form {
        object["columnDefinitions"] = Value::Null;
        object["rows"] = json!([]);
    }
    if encoding == Encoding::Protobuf {
        let object = protobuf::bookmark(&api_version, kind, &object).map_err(Status::internal)?;
        return Ok(protobuf::watch_event("BOOKMARK", &object).into());
    }
    Ok(line("BOOKMARK", object.to_string().as_bytes()))
}

fn error_event(request: &Request, status: &Status) -> Result<Bytes, Status> {
    let status = status.to_value();
    if request.accepted.encoding == Encoding::Protobuf {
        let object = protobuf::status(&status).map_err(Status::internal)?;
        return Ok(protobuf::watch_event("ERROR", &object).into());
    }
    Ok(line("ERROR", status.to_string().as_bytes()))
}
