//! Traces for OpenTelemetry, by a file as upstream's `--tracing-config-file` (KEP-647).

use std::path::Path;
use std::time::Duration;

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use serde::Deserialize;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::Failure;

/// Where traces go and how many. Upstream's TracingConfiguration.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Configuration {
    api_version: String,
    kind: String,
    /// An OTLP collector that speaks gRPC without TLS.
    #[serde(default = "default_endpoint")]
    endpoint: String,
    /// How many of a million requests are traced whose sender does not say.
    #[serde(default)]
    sampling_rate_per_million: i32,
}

const MILLION: i32 = 1_000_000;
const GROUP: &str = "apiserver.config.k8s.io";

fn default_endpoint() -> String {
    "localhost:4317".into()
}

impl Configuration {
    /// Reads it from a file.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Failure::usage(format!("cannot read {}: {e}", path.display())))?;
        Self::parse(&text).map_err(|why| Failure::usage(format!("{}: {why}", path.display())))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let read: Self = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        let versions = ["v1alpha1", "v1beta1", "v1"];
        let version = read
            .api_version
            .strip_prefix(GROUP)
            .and_then(|v| v.strip_prefix('/'));
        if read.kind != "TracingConfiguration" || !version.is_some_and(|v| versions.contains(&v)) {
            return Err(format!(
                "it is a {} of {}, not a TracingConfiguration of {GROUP}/v1",
                read.kind, read.api_version
            ));
        }
        if !(0..=MILLION).contains(&read.sampling_rate_per_million) {
            let rate = read.sampling_rate_per_million;
            return Err(format!(
                "samplingRatePerMillion: {rate} is not between 0 and {MILLION}"
            ));
        }
        read.url()?;
        Ok(read)
    }

    /// The endpoint as gRPC names it (`host:port`, `dns://host:port`, `unix:path`), as a URL.
    fn url(&self) -> Result<String, String> {
        let bad = |why: &str| format!("endpoint: {} {why}", self.endpoint);
        if self.endpoint.starts_with("unix:") {
            return Ok(self.endpoint.clone());
        }
        let host = match self.endpoint.split_once("//") {
            None => self.endpoint.as_str(),
            Some(("dns:", host)) => host,
            Some(_) => return Err(bad("has a scheme other than dns and unix")),
        };
        let url = format!("http://{}", host.trim_start_matches('/'));
        match url.parse::<http::Uri>() {
            Ok(uri) if uri.host().is_some_and(|h| !h.is_empty()) => Ok(url),
            _ => Err(bad("is no address such as localhost:4317")),
        }
    }
}

/// Sends spans until it is shut down. Must be made inside the runtime.
///
/// # Errors
/// When the exporter cannot be made.
pub fn provider(configuration: &Configuration) -> Result<SdkTracerProvider, Failure> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(configuration.url().map_err(Failure::usage)?)
        .with_timeout(Duration::from_secs(10))
        .build()
        .map_err(|e| Failure::new(format!("traces cannot be sent: {e}")))?;
    let rate = f64::from(configuration.sampling_rate_per_million) / f64::from(MILLION);
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(rate)));
    let host = crate::server::host_name();
    let resource = Resource::builder_empty()
        .with_service_name("apiserver")
        .with_attribute(KeyValue::new("service.instance.id", host))
        .build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(sampler)
        .with_resource(resource)
        .build())
}

/// Sends what is left.
pub async fn finish(provider: SdkTracerProvider) {
    let sent = tokio::task::spawn_blocking(move || provider.shutdown()).await;
    if let Ok(Err(error)) = sent {
        tracing::warn!(%error, "the last traces were not sent");
    }
}

/// What makes spans of spans of [`apiserver::trace::TARGET`] into OpenTelemetry's.
pub fn tracer(provider: &SdkTracerProvider) -> opentelemetry_sdk::trace::SdkTracer {
    provider.tracer("skiff")
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// Joins a span to the trace that its request's headers name.
pub fn join(span: &tracing::Span, headers: &HeaderMap, trusted: bool) {
    let sent =
        TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
    let remote = sent.span().span_context().clone();
    if !remote.is_valid() {
        return;
    }
    if !trusted {
        span.add_link(remote);
    } else if let Err(error) = span.set_parent(sent) {
        tracing::debug!(%error, "a request's trace is not continued");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(rest: &str) -> Result<Configuration, String> {
        Configuration::parse(&format!(
            "apiVersion: {GROUP}/v1\nkind: TracingConfiguration\n{rest}"
        ))
    }

    #[test]
    fn what_is_not_said_is_as_upstream() {
        let read = parse("").unwrap();
        assert_eq!(read.url().unwrap(), "http://localhost:4317");
        assert_eq!(read.sampling_rate_per_million, 0);
    }

    #[test]
    fn endpoints_are_grpcs_names() {
        for (given, url) in [
            ("collector:4317", "http://collector:4317"),
            ("dns:///collector:4317", "http://collector:4317"),
            ("unix:///run/otel.sock", "unix:///run/otel.sock"),
        ] {
            let read = parse(&format!("endpoint: {given}")).unwrap();
            assert_eq!(read.url().unwrap(), url);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (given, why) in [
            ("samplingRatePerMillion: -1", "samplingRatePerMillion: -1"),
            ("samplingRatePerMillion: 1000001", "between 0 and 1000000"),
            (
                "endpoint: https://collector:4317",
                "other than dns and unix",
            ),
            ("endpoint: ''", "is no address"),
            ("endpont: x", "endpont"),
        ] {
            let error = parse(given).unwrap_err();
            assert!(error.contains(why), "{given}: {error}");
        }
        let error = Configuration::parse("apiVersion: v1\nkind: Pod").unwrap_err();
        assert!(error.contains("not a TracingConfiguration"), "{error}");
    }
}
