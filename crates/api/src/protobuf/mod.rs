//! Kubernetes' protobuf, read and written along the tables of fields: client-go and upstream's components speak it.
//!
//! Follows <https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding>: the bytes `k8s\0`, then a
//! `runtime.Unknown` with the type and the object's message. A watch is a stream of `metav1.WatchEvent` messages without
//! an envelope, each after its length in four bytes, big endian; the object within has an envelope of its own.

mod decode;
mod encode;
pub(crate) mod layout;

pub use decode::decode;
pub use encode::{Error, bookmark, list, object, status, watch_event};

/// What the envelope starts with.
pub const MAGIC: &[u8] = b"k8s\0";

/// The media type of bodies in the envelope.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// The media type of a watch.
pub const STREAM_MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";

#[cfg(test)]
mod tests;
