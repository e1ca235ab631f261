//! What the tests share: an in-memory API server to talk to, and nodes in namespaces of their own.

pub mod api_server;
pub mod node;

pub use api_server::{Answer, Server};
pub use node::Node;
