//! Controllers against a real API server in memory, under paused time.

mod cluster;
mod garbage;
mod nodes;
mod services;
mod workloads;
