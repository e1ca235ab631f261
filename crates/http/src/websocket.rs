//! WebSocket as the streaming sub-protocols use it: the answer to the upgrade, and two ways to carry several byte streams.
//!
//! [`channels`] numbers them by the first byte of each message; [`Tunnel`] makes the messages one byte stream, for SPDY inside.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::{Sink as _, SinkExt as _, Stream as _, StreamExt as _};
use http::header;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::PollSender;

use crate::spdy::Incoming;
use crate::upgrade::Upgraded;
use crate::{Body, full};

/// Bytes one message may have; clients send 32 KiB at most.
const MAX_MESSAGE: usize = 1024 * 1024;
/// Bytes of a stream that we put in one message.
const MAX_PIECE: usize = 32 * 1024;
/// Messages that wait for a channel's reader before the connection is held up.
const CHANNEL_QUEUE: usize = 64;
/// Messages that wait to be written before writers are held up.
const WRITE_QUEUE: usize = 32;
/// The channel number by which a client of `v5.channel.k8s.io` closes another.
const CLOSE: u8 = 255;
/// How long a closing connection may take to send what is queued.
const CLOSE_PATIENCE: Duration = Duration::from_secs(60);
/// How long a closed connection waits for the client to close too.
const LINGER: Duration = Duration::from_secs(5);

/// An answer that isn't an upgrade.
pub(crate) fn refuse(status: http::StatusCode, why: impl Into<String>) -> http::Response<Body> {
    let mut answer = http::Response::new(full(why.into()));
    *answer.status_mut() = status;
    let text = header::HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, text);
    answer
}

/// The values of a header that may come several times and hold comma-separated lists.
pub(crate) fn offers(headers: &http::HeaderMap, name: &str) -> Vec<String> {
    let lines = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
    let values = lines.flat_map(|line| line.split(',')).map(str::trim);
    values
        .filter(|v| !v.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The head of the answer to an upgrade, and the sub-protocol that was chosen: the first that the client offers of those
/// that the server `speaks`. A client that offers none gets the empty name.
pub(crate) fn negotiate(
    headers: &http::HeaderMap,
    speaks: &[&'static str],
) -> Result<(http::Response<()>, &'static str), Box<http::Response<Body>>> {
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY) else {
        let why = "the Sec-WebSocket-Key header is missing";
        return Err(Box::new(refuse(http::StatusCode::BAD_REQUEST, why)));
    };
    let offered = offers(headers, "sec-websocket-protocol");
    let find = |offer: &String| speaks.iter().find(|s| *s == offer).copied();
    let mut head = http::Response::new(());
    let mut put = |name, value: &[u8]| {
        // Both are our own names or base64, which every header may hold.
        if let Ok(value) = header::HeaderValue::from_bytes(value) {
            head.headers_mut().insert(name, value);
        }
    };
    put(header::CONNECTION, b"Upgrade");
    put(header::UPGRADE, b"websocket");
    put(
        header::SEC_WEBSOCKET_ACCEPT,
        derive_accept_key(key.as_bytes()).as_bytes(),
    );
    if offered.is_empty() {
        return Ok((head, ""));
    }
    let Some(chosen) = offered.iter().find_map(find) else {
        let why = format!("none of the WebSocket protocols {offered:?} is one of {speaks:?}");
        return Err(Box::new(refuse(http::StatusCode::FORBIDDEN, why)));
    };
    put(header::SEC_WEBSOCKET_PROTOCOL, chosen.as_bytes());
    Ok((head, chosen))
}

async fn socket(connection: Upgraded) -> WebSocketStream<Upgraded> {
    let limits = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(connection, Role::Server, Some(limits)).await
}

/// A connection whose messages begin with a channel's number.
pub(crate) struct Channels {
    out: mpsc::Sender<Message>,
    base64: bool,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

/// Speaks channels over `connection`. `read` says for each channel whether the client's bytes are wanted; those of others are
/// passed over. With `base64`, messages are text: the channel's digit, then its bytes encoded.
pub(crate) async fn channels(
    connection: Upgraded,
    base64: bool,
    read: &[bool],
) -> (Channels, Vec<Option<Incoming>>) {
    let (mut to, mut from) = socket(connection).await.split();
    let (out, mut messages) = mpsc::channel::<Message>(WRITE_QUEUE);
    let (mut senders, mut incoming) = (Vec::new(), Vec::new());
    for wanted in read {
        let (sender, receiver) = mpsc::channel(CHANNEL_QUEUE);
        senders.push(wanted.then_some(sender));
        incoming.push(wanted.then(|| Incoming::new(receiver)));
    }
    let writer = tokio::spawn(async move {
        let result: Result<(), Error> = async {
            while let Some(message) = messages.recv().await {
                let mut last = message.is_close();
                to.feed(message).await?;
                while !last && let Ok(more) = messages.try_recv() {
                    last = more.is_close();
                    to.feed(more).await?;
                }
                to.flush().await?;
                if last {
                    break;
                }
            }
            Ok(())
        }
        .await;
        if let Err(error) = result {
            tracing::debug!(%error, "a WebSocket cannot be written to");
        }
    });
    let reader = tokio::spawn(async move {
        while let Some(message) = from.next().await {
            let bytes = match message {
                Ok(Message::Binary(bytes)) => bytes,
                Ok(Message::Text(text)) => Bytes::from(text),
                // Pings are answered by the next read.
                Ok(_) => continue,
                Err(error) => {
                    tracing::debug!(%error, "a WebSocket broke");
                    return;
                }
            };
            let Some((channel, bytes)) = unwrap(base64, bytes) else {
                tracing::debug!("a WebSocket message is not of the channel protocol");
                return;
            };
            if channel == CLOSE && !base64 {
                let closed = bytes.first().map(|&c| usize::from(c));
                if let Some(sender) = closed.and_then(|c| senders.get_mut(c)) {
                    *sender = None;
                }
                continue;
            }
            if let Some(Some(sender)) = senders.get(usize::from(channel))
                && !bytes.is_empty()
                && sender.send(bytes).await.is_err()
            {
                tracing::trace!(channel, "nobody reads this channel any more");
            }
        }
    });
    let channels = Channels {
        out,
        base64,
        reader,
        writer,
    };
    (channels, incoming)
}

/// The channel and the bytes of a message.
fn unwrap(base64: bool, mut message: Bytes) -> Option<(u8, Bytes)> {
    if message.is_empty() {
        return None;
    }
    let channel = message.split_to(1)[0];
    if !base64 {
        return Some((channel, message));
    }
    let channel = channel.checked_sub(b'0')?;
    Some((channel, BASE64.decode(&message).ok()?.into()))
}

fn wrap(base64: bool, channel: u8, bytes: &[u8]) -> Message {
    if base64 {
        let digit = char::from(b'0'.wrapping_add(channel));
        return Message::text(format!("{digit}{}", BASE64.encode(bytes)));
    }
    let mut message = Vec::with_capacity(1 + bytes.len());
    message.push(channel);
    message.extend_from_slice(bytes);
    Message::binary(message)
}

impl Channels {
    /// What writes to a channel.
    pub(crate) fn output(&self, channel: u8) -> ChannelOutput {
        ChannelOutput {
            channel,
            base64: self.base64,
            out: PollSender::new(self.out.clone()),
        }
    }

    /// Sends one message, empty if `bytes` is.
    pub(crate) async fn send(&self, channel: u8, bytes: &[u8]) {
        let message = wrap(self.base64, channel, bytes);
        if self.out.send(message).await.is_err() {
            tracing::trace!(channel, "the client went away before a message");
        }
    }

    /// Ends once the client is gone.
    pub(crate) async fn gone(&mut self) {
        if let Err(error) = (&mut self.reader).await {
            tracing::debug!(%error, "the reader of a WebSocket failed");
        }
    }

    /// Sends what is queued and closes.
    pub(crate) async fn close(mut self) {
        let normal = CloseFrame {
            code: tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode::Normal,
            reason: "".into(),
        };
        if self.out.send(Message::Close(Some(normal))).await.is_err() {
            return;
        }
        let sent = tokio::time::timeout(CLOSE_PATIENCE, &mut self.writer).await;
        if sent.is_err() {
            tracing::debug!("a WebSocket client did not take what was left for it");
            return;
        }
        let closed = tokio::time::timeout(LINGER, &mut self.reader).await;
        if closed.is_err() {
            tracing::trace!("a WebSocket client did not close its end");
        }
    }
}

impl Drop for Channels {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
    }
}

/// Writes to one channel.
pub(crate) struct ChannelOutput {
    channel: u8,
    base64: bool,
    out: PollSender<Message>,
}

impl AsyncWrite for ChannelOutput {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let broken = || Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into()));
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if ready!(self.out.poll_reserve(cx)).is_err() {
            return broken();
        }
        let length = bytes.len().min(MAX_PIECE);
        let message = wrap(self.base64, self.channel, &bytes[..length]);
        match self.out.send_item(message) {
            Ok(()) => Poll::Ready(Ok(length)),
            Err(_) => broken(),
        }
    }

    /// Nothing to do: the writer flushes whenever its queue is empty.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The protocol has no end of a single channel towards the client.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A WebSocket whose binary messages are one byte stream.
pub(crate) struct Tunnel {
    socket: WebSocketStream<Upgraded>,
    piece: Bytes,
}

impl Tunnel {
    pub(crate) async fn new(connection: Upgraded) -> Self {
        Self {
            socket: socket(connection).await,
            piece: Bytes::new(),
        }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        while self.piece.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.piece = bytes,
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(std::io::Error::other(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.piece.len().min(into.remaining());
        into.put_slice(&self.piece.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let mut socket = Pin::new(&mut self.socket);
        ready!(socket.as_mut().poll_ready(cx)).map_err(std::io::Error::other)?;
        let length = bytes.len().min(MAX_PIECE);
        let message = Message::binary(bytes[..length].to_vec());
        socket.start_send(message).map_err(std::io::Error::other)?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.socket).poll_flush(cx));
        Poll::Ready(flushed.map_err(std::io::Error::other))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let closed = ready!(Pin::new(&mut self.socket).poll_close(cx));
        Poll::Ready(closed.map_err(std::io::Error::other))
    }
}
