//! What is measured of requests and watches, under upstream's names and labels
//! (`apiserver/pkg/endpoints/metrics`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use api::facts::Kind;
use http::{HeaderMap, Method};
use tokio::time::Instant;
use world::metrics::{Counter, Gauge, Histogram, Metrics};

use crate::request::RequestInfo;

const LATENCIES: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];
const SLI_LATENCIES: &[f64] = &[
    0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0,
    30.0, 45.0, 60.0,
];
const SIZES: &[f64] = &[1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
const EVENT_SIZES: &[f64] = &[
    1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 131_072.0,
];

/// What requests are told apart by. Only names of ours: anybody can ask for anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Labels {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
    scope: &'static str,
    dry_run: bool,
}

impl Labels {
    fn of(info: &RequestInfo, method: &Method, headers: &HeaderMap) -> Self {
        let kind = api::facts::kind(&info.group, &info.version, &info.resource);
        let subresource = match kind {
            Some(kind) => kind.subresource(&info.subresource).map_or("", |s| s.name),
            None => path_of_ours(&info.path),
        };
        Self {
            verb: verb(info, method, headers),
            group: kind.map_or("", |k| k.group),
            version: kind.map_or("", |k| k.version),
            resource: kind.map_or("", |k| k.plural),
            subresource,
            scope: match kind {
                None => "",
                Some(_) if !info.name.is_empty() || info.verb == "create" => "resource",
                Some(_) if !info.namespace.is_empty() => "namespace",
                Some(_) => "cluster",
            },
            dry_run: info.query.has("dryRun"),
        }
    }

    /// In Prometheus' form, without those that only some metrics have.
    fn text(&self) -> String {
        let Self {
            verb,
            group,
            version,
            resource,
            subresource,
            scope,
            ..
        } = self;
        format!(
            "component=\"apiserver\",group=\"{group}\",resource=\"{resource}\",scope=\"{scope}\",\
             subresource=\"{subresource}\",verb=\"{verb}\",version=\"{version}\""
        )
    }
}

fn verb(info: &RequestInfo, method: &Method, headers: &HeaderMap) -> &'static str {
    match (info.verb, info.subresource.as_str()) {
        (_, "exec" | "attach" | "portforward" | "proxy") => "CONNECT",
        ("list", _) => "LIST",
        ("watch", _) => "WATCH",
        ("deletecollection", _) => "DELETECOLLECTION",
        ("patch", _) if crate::patch::is_apply(headers) => "APPLY",
        _ => match *method {
            Method::GET | Method::HEAD => "GET",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            _ => "other",
        },
    }
}

fn path_of_ours(path: &str) -> &'static str {
    let paths = [
        "/healthz",
        "/livez",
        "/readyz",
        "/metrics",
        "/version",
        "/openapi/v2",
        "/openapi/v3",
        "/apis",
        "/api",
    ];
    paths.into_iter().find(|p| path == *p).unwrap_or("")
}

/// The numbers of one kind of request.
struct Series {
    labels: Labels,
    latency: Histogram,
    /// Upstream's: the latency without what others are waited for. Nothing of that kind is here.
    sli: Histogram,
    /// Of answers that have an end.
    sizes: Option<Histogram>,
    running: Option<Gauge>,
    codes: Mutex<Vec<(u16, Counter)>>,
}

/// Measures requests.
pub struct Requests {
    metrics: Arc<Metrics>,
    series: RwLock<HashMap<Labels, Arc<Series>>>,
    reading: Gauge,
    writing: Gauge,
}

impl Requests {
    /// Measures into `metrics`.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let inflight = |kind| {
            metrics.gauge(
                "apiserver_current_inflight_requests",
                "Requests that are being answered, those that have no end aside.",
                &format!("request_kind=\"{kind}\""),
            )
        };
        Self {
            reading: inflight("readOnly"),
            writing: inflight("mutating"),
            series: RwLock::default(),
            metrics,
        }
    }

    /// A request begins.
    pub fn begin(&self, info: &RequestInfo, method: &Method, headers: &HeaderMap) -> Arc<Measured> {
        let series = self.series(Labels::of(info, method, headers), info.is_stream());
        let gauge = match &series.running {
            Some(running) => running,
            None if info.is_read_only() => &self.reading,
            None => &self.writing,
        };
        gauge.add(1);
        Arc::new(Measured {
            metrics: self.metrics.clone(),
            gauge: gauge.clone(),
            series,
            began: Instant::now(),
            code: OnceLock::new(),
        })
    }

    fn series(&self, labels: Labels, stream: bool) -> Arc<Series> {
        let known = self.series.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = known.get(&labels) {
            return series.clone();
        }
        drop(known);
        let series = Arc::new(self.new_series(labels, stream));
        let mut known = self.series.write().unwrap_or_else(PoisonError::into_inner);
        known.entry(labels).or_insert(series).clone()
    }

    fn new_series(&self, labels: Labels, stream: bool) -> Series {
        let metrics = &self.metrics;
        let (text, timed) = (labels.text(), timed(&labels));
        Series {
            latency: metrics.histogram(
                "apiserver_request_duration_seconds",
                "Response latency distribution in seconds for each verb, dry run value, group, version, resource, \
                 subresource, scope and component.",
                &timed,
                LATENCIES,
            ),
            sli: metrics.histogram(
                "apiserver_request_sli_duration_seconds",
                "Response latency in seconds, without the time in webhooks and queues.",
                &text,
                SLI_LATENCIES,
            ),
            sizes: matches!(labels.verb, "GET" | "LIST").then(|| {
                metrics.histogram(
                    "apiserver_response_sizes",
                    "Response size in bytes.",
                    &text,
                    SIZES,
                )
            }),
            running: stream.then(|| {
                metrics.gauge(
                    "apiserver_longrunning_requests",
                    "Requests that have no end of their own and are being answered.",
                    &text,
                )
            }),
            codes: Mutex::default(),
            labels,
        }
    }
}

fn timed(labels: &Labels) -> String {
    let dry_run = if labels.dry_run { "All" } else { "" };
    format!("{},dry_run=\"{dry_run}\"", labels.text())
}

/// One request, counted when this is dropped: at the end of its answer.
pub struct Measured {
    metrics: Arc<Metrics>,
    series: Arc<Series>,
    gauge: Gauge,
    began: Instant,
    code: OnceLock<u16>,
}

impl Measured {
    /// It is answered with `code`, with as many bytes if that is known yet.
    pub fn answered(&self, code: u16, size: Option<u64>) {
        // The first answer is the only one.
        let _ = self.code.set(code);
        if let (Some(sizes), Some(size)) = (&self.series.sizes, size) {
            #[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
            sizes.observe(size as f64);
        }
    }

    fn counter(&self, code: u16) -> Counter {
        let series = &self.series;
        let mut codes = series.codes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, counter)) = codes.iter().find(|(c, _)| *c == code) {
            return counter.clone();
        }
        let counter = self.metrics.counter(
            "apiserver_request_total",
            "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, \
             component, and HTTP response code.",
            &format!("code=\"{code}\",{}", timed(&series.labels)),
        );
        codes.push((code, counter.clone()));
        counter
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        self.gauge.add(-1);
        let seconds = self.began.elapsed().as_secs_f64();
        self.series.latency.observe(seconds);
        self.series.sli.observe(seconds);
        // Without an answer the client had gone: upstream's code for that is 0.
        let code = self.code.get().copied().unwrap_or_default();
        self.counter(code).inc();
    }
}

/// What one watch sent.
pub struct WatchEvents {
    total: Counter,
    sizes: Histogram,
}

impl WatchEvents {
    /// Of watches on `kind`.
    pub fn of(kind: &Kind, metrics: &Metrics) -> Self {
        let labels = format!(
            "group=\"{}\",resource=\"{}\",version=\"{}\"",
            kind.group, kind.plural, kind.version
        );
        let sizes = "Watch event size distribution in bytes.";
        Self {
            total: metrics.counter(
                "apiserver_watch_events_total",
                "Number of events sent in watch clients.",
                &labels,
            ),
            sizes: metrics.histogram("apiserver_watch_events_sizes", sizes, &labels, EVENT_SIZES),
        }
    }

    /// An event of `size` bytes was sent.
    pub fn sent(&self, size: usize) {
        self.total.inc();
        #[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
        self.sizes.observe(size as f64);
    }
}
