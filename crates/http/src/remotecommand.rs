//! The server's side of `exec` and `attach`.
//!
//! One connection carries a process's stdin, stdout, stderr, the terminal's size and, at the end, how the process ended.
//! Clients come over SPDY/3.1 (kubectl up to 1.30) or WebSocket (kubectl from 1.31, browsers, most client libraries);
//! whoever runs the process sees only a [`Session`].

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::{Body, full};

/// Which streams the request's query asked for (`stdin=true&tty=true&…`). With a terminal there is no stderr of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// A stream that the process reads.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;

/// A stream that the process writes.
pub type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// The client's end of a process: what it wanted is `Some`.
pub struct Session {
    /// Ends when the client closed its input or went away.
    pub stdin: Option<Input>,
    pub stdout: Option<Output>,
    pub stderr: Option<Output>,
    /// Columns and rows of the client's terminal, first and after each change. Ends when the client goes away.
    pub resize: mpsc::Receiver<(u16, u16)>,
    /// Tells the client how it ended. Dropped unused, the connection just closes.
    pub done: Finish,
}

/// Ends a session.
pub struct Finish(());

impl Finish {
    /// Tells the client the exit code, or why there is none, then closes every stream and the connection.
    ///
    /// Write all output (and shut it down or drop it) before.
    pub async fn finish(self, _result: Result<i32, String>) {}
}

/// Answers the upgrade (101 with the negotiated protocol, else 400 or 403 with text) and hands the session to `then` once
/// all streams exist.
pub fn serve<F, Fut>(
    _request: &mut http::Request<Body>,
    _wanted: Wanted,
    _then: F,
) -> http::Response<Body>
where
    F: FnOnce(Session) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mut answer = http::Response::new(full("streaming is not built in yet"));
    *answer.status_mut() = http::StatusCode::NOT_IMPLEMENTED;
    answer
}
