//! The outside world, injected: wall clock, randomness, disk, and the small tools every floor needs.
//!
//! Law 8 of ARCHITECTURE.md: logic never asks the operating system directly. It is handed a [`World`], so that a whole
//! control plane can run in one thread under paused time, from a seed.

pub mod backoff;
pub mod clock;
pub mod disk;
pub mod metrics;
pub mod process;
pub mod rng;
mod supervise;

use std::sync::Arc;

pub use backoff::Backoff;
pub use clock::{Clock, SystemClock};
pub use disk::Disk;
pub use rng::Rng;
pub use supervise::supervise;
pub use tokio_util::sync::CancellationToken as Shutdown;

/// What a component is given instead of the operating system. Cheap to clone.
#[derive(Clone)]
pub struct World {
    pub clock: Arc<dyn Clock>,
    pub rng: Arc<Rng>,
    pub metrics: Arc<metrics::Metrics>,
}

impl World {
    /// The real machine: system time, operating system entropy.
    #[must_use]
    pub fn real() -> Self {
        let metrics = metrics::Metrics::default();
        metrics.add_source(|| process::Sources::read().render());
        Self {
            clock: Arc::new(SystemClock),
            rng: Arc::new(Rng::from_entropy()),
            metrics: Arc::new(metrics),
        }
    }

    /// A world that repeats: time starts at 2026-01-01T00:00:00Z and follows tokio's (pausable) clock, randomness comes
    /// from `seed`. Must be called inside a tokio runtime.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self {
            clock: Arc::new(clock::TokioClock::starting_at(jiff::Timestamp::constant(
                1_767_225_600,
                0,
            ))),
            rng: Arc::new(Rng::from_seed(seed)),
            metrics: Arc::default(),
        }
    }

    /// Wall time now.
    #[must_use]
    pub fn now(&self) -> jiff::Timestamp {
        self.clock.now()
    }
}
