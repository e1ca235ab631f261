//! What a request can end with when it does not succeed.

use serde::Deserialize;

/// Why a request failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The server answered with a `metav1.Status`.
    #[error("{}", .0.message)]
    Status(Status),
    /// The server could not be reached or broke off.
    #[error("cannot reach the API server: {0}")]
    Transport(String),
    /// The server's answer is not what the API promises.
    #[error("cannot read the answer to {0}: {1}")]
    Decode(String, String),
}

/// The part of a `metav1.Status` that clients act on.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    pub code: u16,
    pub reason: String,
    pub message: String,
    pub details: Option<serde_json::Value>,
}

impl Error {
    /// The HTTP status, 0 when there was none.
    #[must_use]
    pub fn code(&self) -> u16 {
        match self {
            Self::Status(s) => s.code,
            Self::Transport(_) | Self::Decode(..) => 0,
        }
    }

    fn reason_is(&self, reason: &str) -> bool {
        matches!(self, Self::Status(s) if s.reason == reason)
    }

    /// The object does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == 404
    }

    /// Another writer was faster, or the precondition (UID, resourceVersion) does not hold.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.reason_is("Conflict")
    }

    /// An object of that name exists.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.reason_is("AlreadyExists")
    }

    /// The asked history is gone: list again.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.code() == 410
    }

    /// The namespace is going away: creating in it is pointless.
    #[must_use]
    pub fn is_namespace_terminating(&self) -> bool {
        matches!(self, Self::Status(s) if s.code == 403 && s.message.contains("is being terminated"))
    }
}
