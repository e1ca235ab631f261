//! The server's side of `port-forward`.

use tokio::io::{AsyncRead, AsyncWrite};

use crate::{Body, full};

/// A connection to a port of the Pod.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Answers the upgrade, then for each forwarded connection calls `dial(port)` and copies both ways. Why a dial failed goes to
/// the connection's error stream as text.
///
/// `ports_from_query` are the `port=` (or `ports=`) values of the query, which only the oldest WebSocket protocol needs.
pub fn serve<D, Fut>(
    _request: &mut http::Request<Body>,
    _ports_from_query: Vec<u16>,
    _dial: D,
) -> http::Response<Body>
where
    D: Fn(u16) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Box<dyn Duplex>, String>> + Send,
{
    let mut answer = http::Response::new(full("streaming is not built in yet"));
    *answer.status_mut() = http::StatusCode::NOT_IMPLEMENTED;
    answer
}
