//! What `skiff server` prints: one readable line per event, or JSON on request; and where its spans go.

use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, filter_fn};
use tracing_subscriber::prelude::*;

/// Starts logging. `SKIFF_LOG` chooses levels as `RUST_LOG` does elsewhere. Spans go to `traces` alone.
pub fn start(json: bool, traces: Option<&SdkTracerProvider>) {
    let is_trace = |metadata: &tracing::Metadata<'_>| metadata.target() == apiserver::trace::TARGET;
    let chosen = EnvFilter::try_from_env("SKIFF_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let printed = chosen.and(filter_fn(move |metadata| !is_trace(metadata)));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if json {
        lines.json().boxed()
    } else {
        lines.with_target(false).with_ansi(false).boxed()
    };
    let spans = traces.map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(crate::traces::tracer(provider))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_filter(filter_fn(is_trace))
    });
    let subscriber = tracing_subscriber::registry()
        .with(lines.with_filter(printed))
        .with(spans);
    if let Err(error) = subscriber.try_init() {
        eprintln!("warning: logging is not set up: {error}");
    }
}
