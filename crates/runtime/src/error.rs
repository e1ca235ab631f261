//! What can go wrong, in words.

use crate::types::{ContainerId, SandboxId};

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the runtime could not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such sandbox, container.
    #[error("{what} {id:?} not found")]
    NotFound { what: &'static str, id: String },
    /// The image isn't present on this node.
    #[error("image {0:?} is not present")]
    ImageNotFound(String),
    /// The request makes no sense, whatever the state.
    #[error("{0}")]
    InvalidArgument(String),
    /// The request doesn't fit the object's present state.
    #[error("{0}")]
    FailedPrecondition(String),
    /// The process could not be made: the text is for a person, the code what a shell would report (126, 127, 128).
    #[error("{message}")]
    Start { message: String, exit_code: i32 },
    /// A command took longer than allowed.
    #[error("command {command:?} timed out after {seconds} s")]
    DeadlineExceeded { command: String, seconds: f64 },
    /// The shim is gone or talks nonsense.
    #[error("shim of sandbox {sandbox}: {why}")]
    Shim { sandbox: SandboxId, why: String },
    /// The container's network could not be set up or taken away.
    #[error("network of sandbox {sandbox}: {why}")]
    Network { sandbox: SandboxId, why: String },
    /// An image archive or layer isn't what it says it is.
    #[error("bad image: {0}")]
    BadImage(String),
    /// An operation of the system failed.
    #[error("{attempt}: {source}")]
    Io {
        attempt: String,
        source: std::io::Error,
    },
    /// Not built yet.
    #[error("{0} is not implemented yet")]
    Unimplemented(&'static str),
}

impl Error {
    pub(crate) fn sandbox(id: &SandboxId) -> Self {
        Self::NotFound {
            what: "sandbox",
            id: id.to_string(),
        }
    }
    pub(crate) fn container(id: &ContainerId) -> Self {
        Self::NotFound {
            what: "container",
            id: id.to_string(),
        }
    }
    /// True for [`Error::NotFound`] and [`Error::ImageNotFound`].
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::ImageNotFound(_))
    }
}

/// Says what was attempted when an I/O operation failed.
pub(crate) trait Attempt<T> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Attempt<T> for std::result::Result<T, E> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::Io {
            attempt: what(),
            source: e.into(),
        })
    }
}
