//! How controllers run: a queue of keys, workers, back-off; leader election.
//!
//! A controller is informers of views, this queue, a pure `plan`, and an executor that carries the plan out (law 6).

pub mod election;
pub mod queue;

pub use queue::{Outcome, Queue, Settings};
