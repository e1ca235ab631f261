//! Server-side apply: who owns which field of an object, and what becomes of an object when a configuration is applied.
//!
//! Follows <https://kubernetes.io/docs/reference/using-api/server-side-apply/> and the documented behaviour of
//! structured-merge-diff. Everything walks the facts:
//!
//! - [`set`]: sets of fields as `managedFields` holds them (FieldsV1), and their algebra;
//! - [`element`]: one step of a path, written and shown;
//! - [`owned`]: the fields that a configuration speaks of;
//! - [`compare`]: the fields by which two versions of an object differ;
//! - [`merge`] and [`remove`]: the object with a configuration applied, without what is no longer applied;
//! - [`managers`]: the entries of `managedFields`, brought up to date by an update or an apply;
//! - `created`: the same for a new object, quicker;
//! - [`conflict`]: what an apply would take from others.

pub mod compare;
pub mod conflict;
mod created;
pub mod element;
pub mod managers;
pub mod merge;
pub mod owned;
pub mod remove;
pub mod set;
mod shape;

pub use conflict::Conflict;
pub use managers::{Applied, Entry, Writer};
pub use set::Set;

/// Which parts of an object a write may change, hence whose ownership it may change: upstream's reset fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    pub status: bool,
    pub metadata: bool,
    /// Everything else.
    pub rest: bool,
}

impl Scope {
    /// The whole object.
    pub const ALL: Self = Self {
        status: true,
        metadata: true,
        rest: true,
    };

    fn holds(self, field: &str) -> bool {
        match field {
            // Every manifest has these; nobody owns them.
            "apiVersion" | "kind" => false,
            "status" => self.status,
            "metadata" => self.metadata,
            _ => self.rest,
        }
    }
}

/// Fields of `metadata` that the server sets and nobody owns.
fn is_system_metadata(field: &str) -> bool {
    matches!(
        field,
        "name"
            | "namespace"
            | "creationTimestamp"
            | "selfLink"
            | "uid"
            | "clusterName"
            | "generation"
            | "managedFields"
            | "resourceVersion"
    )
}

#[cfg(test)]
mod tests;
