//! A whole server with real containers, driven by kubectl, each test on a node of its own.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests of real processes wait in real time"
)]

mod apply;
mod cgroups;
mod clients;
mod containers;
mod crash;
mod examples;
mod hollow;
mod kubectl;
mod leftovers;
mod libraries;
mod nodes;
mod proxy;
mod shims;
mod traces;
