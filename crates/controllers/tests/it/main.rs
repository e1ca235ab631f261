//! Controllers against a real API server in memory, under paused time.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod cluster;
mod garbage;
mod nodes;
mod policies;
mod services;
mod workloads;
