//! A watch over WebSocket: each change is one message, text or, for protobuf, binary.

use api::Status;
use bytes::Bytes;
use futures::SinkExt as _;
use http::{Request, Response};
use skiff_http::{Body, upgrade};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use tokio_util::sync::CancellationToken;

use crate::answer::Encoding;
use crate::registry::watch::STALLED;

/// Accepts the upgrade and sends `events` until they end or the client goes.
///
/// # Errors
/// 400 without a key.
pub fn serve_events(
    request: &mut Request<Body>,
    encoding: Encoding,
    mut events: mpsc::Receiver<Bytes>,
    done: CancellationToken,
) -> Result<Response<Body>, Status> {
    let key = request.headers().get(http::header::SEC_WEBSOCKET_KEY);
    let key = key.ok_or_else(|| Status::bad_request("missing Sec-WebSocket-Key"))?;
    let head = Response::builder()
        .header(http::header::CONNECTION, "Upgrade")
        .header(http::header::UPGRADE, "websocket")
        .header(
            http::header::SEC_WEBSOCKET_ACCEPT,
            derive_accept_key(key.as_bytes()),
        )
        .body(())
        .map_err(Status::internal)?;
    Ok(upgrade::accept(
        request,
        head,
        move |connection| async move {
            let _done = done.drop_guard();
            let mut socket = WebSocketStream::from_raw_socket(connection, Role::Server, None).await;
            while let Some(event) = events.recv().await {
                let message = match encoding {
                    // A message has its length already.
                    Encoding::Protobuf => Message::binary(event.slice(4..)),
                    _ => Message::text(String::from_utf8_lossy(&event).trim_end().to_owned()),
                };
                // Gone, or it reads no more.
                if !matches!(timeout(STALLED, socket.send(message)).await, Ok(Ok(()))) {
                    return;
                }
            }
            // The client sees a clean end; if it is gone already, nothing is lost.
            drop(timeout(STALLED, socket.close(None)).await);
        },
    ))
}
