//! Requests to a Kubernetes API server as bytes, local or over HTTPS; informers of views; the event recorder.
//!
//! Every component reaches the cluster through this crate only (law 1): what works inside one process works across
//! machines, and against upstream's API server too.

pub mod error;
pub mod events;
pub mod informer;
pub mod kubeconfig;
pub mod meta;
pub mod request;
pub mod resource;
pub mod transport;
pub mod watch;

pub use error::Error;
pub use events::{EventRecorder, ObjectReference};
pub use informer::{Change, Informer, Informers, Selector, View};
pub use meta::{ObjectMeta, OwnerReference};
pub use request::{Client, DeleteOptions, PatchKind, Propagation};
pub use resource::Resource;
pub use transport::{HttpsConfig, HttpsTransport, InProcess, LocalTransport, Transport};
