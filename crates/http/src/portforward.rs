//! The server's side of `port-forward`.
//!
//! For each TCP connection that the client accepted, it opens two streams: one for the bytes, one on which it is told why it
//! failed. They come in SPDY/3.1 (kubectl up to 1.30), in SPDY/3.1 within WebSocket messages (kubectl from 1.31), or, from the
//! oldest WebSocket clients, as two numbered channels for each port, which carry one connection.

use std::collections::HashMap;
use std::sync::Arc;

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::task::JoinSet;

use crate::remotecommand::negotiate_spdy;
use crate::upgrade::{self, Upgraded};
use crate::websocket::{self, Tunnel, refuse};
use crate::{Body, spdy};

/// What the server speaks inside SPDY.
const SPDY_PROTOCOLS: [&str; 1] = ["portforward.k8s.io"];
/// SPDY within WebSocket.
const TUNNELED: &str = "SPDY/3.1+portforward.k8s.io";
/// What the server speaks over WebSocket.
const WEBSOCKET_PROTOCOLS: [&str; 3] = [TUNNELED, "v4.channel.k8s.io", "v4.base64.channel.k8s.io"];
/// Ports that one WebSocket may carry: two channels each, numbered by one byte of which the last has a meaning of its own;
/// as base64, by one character.
const MAX_PORTS: usize = 100;

/// A connection to a port of the Pod.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Answers the upgrade, then for each forwarded connection calls `dial(port)` and copies both ways. Why a dial failed goes to
/// the connection's error stream as text.
///
/// `ports_from_query` are the `port=` (or `ports=`) values of the query, which only the oldest WebSocket protocol needs.
pub fn serve<D, Fut>(
    request: &mut http::Request<Body>,
    ports_from_query: Vec<u16>,
    dial: D,
) -> http::Response<Body>
where
    D: Fn(u16) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Box<dyn Duplex>, String>> + Send + 'static,
{
    let dial = Arc::new(dial);
    match upgrade::requested(request.headers()).as_deref() {
        Some("spdy/3.1") => match negotiate_spdy(request.headers(), &SPDY_PROTOCOLS) {
            Ok((head, _)) => upgrade::accept(request, head, |connection| async move {
                over_spdy(spdy::Connection::server(connection), dial).await;
            }),
            Err(refusal) => *refusal,
        },
        Some("websocket") => {
            let agreed = websocket::negotiate(request.headers(), &WEBSOCKET_PROTOCOLS);
            let (head, protocol) = match agreed {
                Ok(agreed) => agreed,
                Err(refusal) => return *refusal,
            };
            if protocol == TUNNELED {
                return upgrade::accept(request, head, |connection| async move {
                    let tunnel = Tunnel::new(connection).await;
                    over_spdy(spdy::Connection::server(tunnel), dial).await;
                });
            }
            if ports_from_query.is_empty() || ports_from_query.len() > MAX_PORTS {
                let why = format!("the query must name 1 to {MAX_PORTS} ports");
                return refuse(StatusCode::BAD_REQUEST, why);
            }
            let base64 = protocol.contains("base64");
            upgrade::accept(request, head, move |connection| {
                over_channels(connection, base64, ports_from_query, dial)
            })
        }
        _ => refuse(
            StatusCode::BAD_REQUEST,
            "this needs an upgrade to SPDY/3.1 or websocket",
        ),
    }
}

/// The streams of one forwarded connection, as they come.
#[derive(Default)]
struct Pair {
    data: Option<spdy::Stream>,
    error: Option<spdy::Stream>,
}

async fn over_spdy<D, Fut>((connection, mut accept): (spdy::Connection, spdy::Accept), dial: Arc<D>)
where
    D: Fn(u16) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Box<dyn Duplex>, String>> + Send + 'static,
{
    let mut pairs: HashMap<String, Pair> = HashMap::new();
    // Dropped at the end, which stops what is still being copied.
    let mut forwards = JoinSet::new();
    while let Some(mut stream) = accept.next().await {
        while forwards.try_join_next().is_some() {}
        let headers = stream.headers();
        let kind = headers.get("streamtype").unwrap_or_default().to_owned();
        let id = stream.id();
        // The oldest clients name no request; their data stream follows its error stream.
        let key = match headers.get("requestid") {
            Some(request) => request.to_owned(),
            None if kind == "data" => id.saturating_sub(2).to_string(),
            None => id.to_string(),
        };
        let pair = pairs.entry(key.clone()).or_default();
        match kind.as_str() {
            "data" => pair.data = Some(stream),
            "error" => {
                stream.ignore_input();
                pair.error = Some(stream);
            }
            _ => tracing::debug!(kind, "a stream of no known type is closed"),
        }
        if pair.data.is_none() || pair.error.is_none() {
            continue;
        }
        if let Some(Pair {
            data: Some(data),
            error: Some(mut error),
        }) = pairs.remove(&key)
        {
            let port = data.headers().get("port").and_then(|p| p.parse().ok());
            let dial = dial.clone();
            forwards.spawn(async move {
                let failure = match port {
                    Some(port) => forward(data, dial(port), port).await,
                    None => Some("the stream's port is not a number from 1 to 65535".to_owned()),
                };
                end(&mut error, failure).await;
            });
        }
    }
    drop(connection);
}

/// Carries one connection; returns why it could not be made or broke.
async fn forward<T>(
    mut client: T,
    dialed: impl Future<Output = Result<Box<dyn Duplex>, String>>,
    port: u16,
) -> Option<String>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = match dialed.await {
        Ok(connection) => connection,
        Err(why) => return Some(why),
    };
    let copied = tokio::io::copy_bidirectional(&mut client, &mut connection).await;
    let error = copied.err()?;
    Some(format!("the connection to port {port} broke: {error}"))
}

async fn end<T: AsyncWrite + Unpin>(error: &mut T, failure: Option<String>) {
    let told = async {
        if let Some(failure) = failure {
            error.write_all(failure.as_bytes()).await?;
        }
        error.shutdown().await
    };
    if let Err(error) = told.await {
        tracing::trace!(%error, "the client went away before its forwarded connection ended");
    }
}

async fn over_channels<D, Fut>(connection: Upgraded, base64: bool, ports: Vec<u16>, dial: Arc<D>)
where
    D: Fn(u16) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Box<dyn Duplex>, String>> + Send + 'static,
{
    let read: Vec<bool> = ports.iter().flat_map(|_| [true, false]).collect();
    let (mut channels, mut incoming) = websocket::channels(connection, base64, &read).await;
    let mut forwards = JoinSet::new();
    for (number, port) in (0u8..).zip(ports) {
        let (data, errors) = (2 * number, 2 * number + 1);
        // Each channel begins with the port that it is for.
        channels.send(data, &port.to_le_bytes()).await;
        channels.send(errors, &port.to_le_bytes()).await;
        let Some(input) = incoming[usize::from(data)].take() else {
            continue;
        };
        let client = tokio::io::join(input, channels.output(data));
        let mut error = channels.output(errors);
        let dialed = dial(port);
        forwards.spawn(async move {
            let failure = forward(client, dialed, port).await;
            end(&mut error, failure).await;
        });
    }
    let all = async { while forwards.join_next().await.is_some() {} };
    tokio::select! {
        () = channels.gone() => return,
        () = all => {}
    }
    channels.close().await;
}
