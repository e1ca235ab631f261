//! Kinds and their facts, and everything that works on any object through them.
//!
//! Objects are [`serde_json::Value`] trees. What differs per kind is a table ([`facts`]) or, a floor higher, a strategy;
//! no Kubernetes type is compiled in. Texts of errors are upstream's, because people and programs match on them.

pub mod apply;
pub mod decode;
pub mod facts;
pub mod field;
pub mod names;
pub mod openapi;
pub mod openapi_protobuf;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod selector;
pub mod status;
pub mod time;

pub use field::{ErrorKind, FieldError};
pub use quantity::Quantity;
pub use selector::{FieldSelector, LabelSelector, Selector};
pub use status::Status;

/// The minor release of Kubernetes whose API is served.
pub const KUBERNETES_VERSION: &str = "1.36.0";

/// The minor version of Kubernetes that is served.
pub const MINOR: u32 = 36;
