//! What the tests share: an in-memory API server to talk to, and nodes in namespaces of their own.
#![allow(
    clippy::disallowed_methods,
    reason = "tests of real processes wait in real time"
)]

pub mod api_server;
pub mod node;

pub use api_server::{Answer, Server};
pub use node::Node;
