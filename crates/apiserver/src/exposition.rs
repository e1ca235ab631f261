//! `/metrics` and `/metrics/slis`: what is measured, in Prometheus' text form.

use std::fmt::Write as _;

use api::Status;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use skiff_http::Body;

use crate::registry::{key, store_status};
use crate::{Core, answer, health, served};

/// The text form's media type, as Prometheus' servers insist.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

fn text(metrics: String) -> Response<Body> {
    let mut response = answer::text(StatusCode::OK, metrics);
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}

/// `/metrics`.
///
/// # Errors
/// When the store cannot be read.
pub async fn metrics(core: &Core) -> Result<Response<Body>, Status> {
    let mut out = core.world.metrics.render();
    build_info(&mut out);
    objects(core, &mut out).await?;
    Ok(text(out))
}

/// `/metrics/slis` (KEP-3466): the outcomes of health checks.
pub async fn slis(core: &Core) -> Response<Body> {
    for probe in ["healthz", "livez", "readyz"] {
        // They are recorded as they are made; nobody else may be asking.
        let _ = health::checks(core, probe).await;
    }
    text(core.slis.render())
}

fn build_info(out: &mut String) {
    let version = health::version();
    let label = |field: &str| version[field].as_str().unwrap_or_default().to_owned();
    let labels = [
        ("build_date", "buildDate"),
        ("compiler", "compiler"),
        ("git_commit", "gitCommit"),
        ("git_tree_state", "gitTreeState"),
        ("git_version", "gitVersion"),
        ("go_version", "goVersion"),
        ("major", "major"),
        ("minor", "minor"),
        ("platform", "platform"),
    ];
    let labels: Vec<String> = labels
        .iter()
        .map(|(name, field)| format!("{name}=\"{}\"", label(field)))
        .collect();
    let name = "kubernetes_build_info";
    let _ = write!(
        out,
        "# HELP {name} What serves, and the version that is served.\n# TYPE {name} gauge\n{name}{{{}}} 1\n",
        labels.join(",")
    );
}

/// How many objects there are of each kind that has any.
async fn objects(core: &Core, out: &mut String) -> Result<(), Status> {
    let name = "apiserver_resource_objects";
    let _ = write!(
        out,
        "# HELP {name} Number of stored objects at the time of the last check, by kind.\n# TYPE {name} gauge\n"
    );
    let stored = |k: &&'static api::facts::Kind| {
        served(k) && k.stored() && std::ptr::eq(strategy::versions::stored_as(k), *k)
    };
    for kind in api::facts::KINDS.iter().filter(stored) {
        let range = core.store.range(&key(kind, "", ""), None, None, 1).await;
        let range = range.map_err(store_status)?;
        let count = range.entries.len() as u64 + range.remaining;
        if count > 0 {
            let (group, plural) = (kind.group, kind.plural);
            let _ = writeln!(
                out,
                "{name}{{group=\"{group}\",resource=\"{plural}\"}} {count}"
            );
        }
    }
    Ok(())
}

/// Records that a health check of `probe` was made.
pub fn record(core: &Core, probe: &str, check: &str, passed: bool) {
    let labels = format!("name=\"{check}\",type=\"{probe}\"");
    let help = "This metric records the result of a single healthcheck.";
    let gauge = core.slis.gauge("kubernetes_healthcheck", help, &labels);
    gauge.set(i64::from(passed));
    let status = if passed { "success" } else { "error" };
    let labels = format!("name=\"{check}\",status=\"{status}\",type=\"{probe}\"");
    let help = "This metric records the results of all healthcheck.";
    let total = core
        .slis
        .counter("kubernetes_healthchecks_total", help, &labels);
    total.inc();
}
