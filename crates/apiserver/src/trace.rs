//! Spans of requests, for OpenTelemetry (KEP-647).
//!
//! They have a target of their own, which only the exporter's layer takes: whoever wants no traces makes no spans.

use std::sync::Arc;

use http::{HeaderMap, Method};
use store::{Entry, Error, Outcome, Range, Store, Txn, Watch};
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use crate::request::RequestInfo;
use crate::user::User;

/// The target of all spans.
pub const TARGET: &str = "skiff::trace";

/// Whose traces are continued, so that they decide what is sampled; a request of others only links to its own trace.
const TRUSTED: [&str; 2] = ["system:masters", "system:monitoring"];

/// Joins a span to the trace that a request's headers (W3C Trace Context) tell of: as its child if the sender is trusted,
/// else by a link.
pub type Join = fn(&Span, &HeaderMap, trusted: bool);

/// The span of a request, whose sender is known: upstream, too, begins it after authentication.
pub(crate) fn request(
    info: &RequestInfo,
    method: &Method,
    headers: &HeaderMap,
    user: &User,
    join: Join,
) -> Span {
    let span = tracing::info_span!(
        target: TARGET,
        "request",
        otel.name = name(info, method),
        otel.kind = "server",
        otel.status_code = Empty,
        "http.request.method" = method.as_str(),
        "http.response.status_code" = Empty,
        "url.path" = info.path,
    );
    if !span.is_disabled() {
        let trusted = user.groups.iter().any(|g| TRUSTED.contains(&g.as_str()));
        join(&span, headers, trusted);
    }
    span
}

/// The span of a step of a request.
pub(crate) fn step(name: &'static str) -> Span {
    tracing::info_span!(target: TARGET, "step", otel.name = name)
}

/// Notes how a request ended.
pub(crate) fn answered(span: &Span, status: u16) {
    span.record("http.response.status_code", status);
    if status >= 500 {
        span.record("otel.status_code", "error");
    }
}

/// `GET /api/v1/namespaces/{:namespace}/pods/{:name}`: few names, whatever is asked for.
fn name(info: &RequestInfo, method: &Method) -> String {
    if !info.is_resource() {
        return method.to_string();
    }
    let mut name = format!("{method} /api");
    if !info.group.is_empty() {
        name = format!("{name}s/{}", info.group);
    }
    name = format!("{name}/{}", info.version);
    if !info.namespace.is_empty() && info.resource != "namespaces" {
        name.push_str("/namespaces/{:namespace}");
    }
    name = format!("{name}/{}", info.resource);
    if !info.name.is_empty() {
        name.push_str("/{:name}");
    }
    if !info.subresource.is_empty() {
        name = format!("{name}/{}", info.subresource);
    }
    name
}

/// A store whose calls have spans.
pub(crate) struct TracedStore(pub Arc<dyn Store>);

#[async_trait::async_trait]
impl Store for TracedStore {
    fn revision(&self) -> u64 {
        self.0.revision()
    }

    async fn get(&self, key: &str) -> Result<Option<Arc<Entry>>, Error> {
        let span = tracing::info_span!(target: TARGET, "store.get", key);
        self.0.get(key).instrument(span).await
    }

    async fn range(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        at: Option<u64>,
        limit: usize,
    ) -> Result<Range, Error> {
        let span =
            tracing::info_span!(target: TARGET, "store.range", prefix, limit, entries = Empty);
        let range = self.0.range(prefix, start_after, at, limit);
        let range = range.instrument(span.clone()).await?;
        span.record("entries", range.entries.len());
        Ok(range)
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome, Error> {
        let key = txn.ops.first().map(store::Op::key);
        let span = tracing::info_span!(target: TARGET, "store.txn", key, ops = txn.ops.len());
        self.0.txn(txn).instrument(span).await
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<Watch, Error> {
        let span = tracing::info_span!(target: TARGET, "store.watch", prefix, after);
        self.0.watch(prefix, after).instrument(span).await
    }

    async fn compact(&self, revision: u64) -> Result<(), Error> {
        self.0.compact(revision).await
    }

    async fn close(&self) -> Result<(), Error> {
        self.0.close().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_no_names_of_objects() {
        let of = |path: &str| {
            let info = crate::request::resolve(&Method::GET, path, "");
            name(&info, &Method::GET)
        };
        assert_eq!(of("/healthz"), "GET");
        assert_eq!(
            of("/api/v1/namespaces/a/pods/b/log"),
            "GET /api/v1/namespaces/{:namespace}/pods/{:name}/log"
        );
        assert_eq!(
            of("/apis/apps/v1/namespaces/a/deployments"),
            "GET /apis/apps/v1/namespaces/{:namespace}/deployments"
        );
        assert_eq!(of("/api/v1/namespaces/a"), "GET /api/v1/namespaces/{:name}");
    }
}
