//! A whole server with real containers, driven by kubectl, each test on a node of its own.

mod clients;
mod crash;
mod examples;
mod leftovers;
