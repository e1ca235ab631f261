//! What `skiff server` prints: one readable line per event, or JSON on request.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::prelude::*;

/// Starts logging. `SKIFF_LOG` chooses levels as `RUST_LOG` does elsewhere.
pub fn start(json: bool) {
    let filter = EnvFilter::try_from_env("SKIFF_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    let started = if json {
        registry
            .with(
                tracing_subscriber::fmt::layer()
                    .json()
                    .with_writer(std::io::stderr),
            )
            .try_init()
    } else {
        let layer = tracing_subscriber::fmt::layer()
            .with_target(false)
            .with_ansi(false)
            .with_writer(std::io::stderr);
        registry.with(layer).try_init()
    };
    if let Err(error) = started {
        eprintln!("warning: logging is not set up: {error}");
    }
}
