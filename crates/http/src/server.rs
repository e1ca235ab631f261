//! A TLS listener that hands requests to a [`Handler`] and drains when told to stop.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use world::Shutdown;

use crate::body::BodyError;
use crate::{Body, Error};

/// How long a TLS handshake may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may be without a request, as upstream. An HTTP/1 request's head may take as long, since hyper has
/// one timer for both (upstream has 32 s for the head).
const IDLE: Duration = Duration::from_secs(90);
/// How long requests under way get to finish after a stop; watches and streams are cut at its end.
const DRAIN: Duration = Duration::from_secs(2);
/// Connections one listener keeps at most; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 50_000;
/// Bytes that a request's head may have, as upstream's `MaxHeaderBytes`: more is a 431. (A URL of more than 64 KiB is a 414
/// over HTTP/1, whatever the limit.)
const MAX_HEAD: u32 = 1 << 20;
/// Requests that a client may have under way on one HTTP/2 connection, as upstream: what one connection can make the server
/// hold is this many times what one request can.
const MAX_STREAMS: u32 = 100;
/// What a client may send of one body before anybody reads it, as upstream: nearly all objects fit.
const STREAM_WINDOW: u32 = 256 << 10;
/// The same for all of a connection's bodies: what somebody whom nobody knows yet can make the server hold. Upstream has 25
/// MiB; a body that is read tops the window up at once, so a smaller one costs nothing where clients are near.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What waits to be written of one answer over HTTP/2; hyper's default.
const SEND_BUFFER: usize = 400 << 10;
/// Requests that a client may take back before the server has looked at them; at one more the connection is closed. Each
/// costs the client two small frames and the server a request ("rapid reset", CVE-2023-44487). h2's default.
const MAX_RESET_UNSEEN: usize = 20;
/// Streams that a client's errors may make the server reset before it closes the connection. h2's default is 1,024, more
/// than a client that works has in its life.
const MAX_RESET_BY_US: usize = 128;
/// How often an HTTP/2 client must show that it is there, and how long it may take.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_PATIENCE: Duration = Duration::from_secs(20);

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: SocketAddr,
    /// The client's verified certificate chain, its own first; empty when it showed none.
    pub certificates: Arc<[CertificateDer<'static>]>,
}

/// The connection of a request, in the request's extensions: ends it when the client does not take its answer. Nothing else
/// can, since a body is not asked for more while the client reads nothing.
#[derive(Debug, Clone, Default)]
pub struct Cut(CancellationToken);

impl Cut {
    /// Closes the connection at once, with every request on it.
    pub fn cut(&self) {
        self.0.cancel();
    }

    /// Ends once somebody cut it.
    pub async fn done(&self) {
        self.0.cancelled().await;
    }
}

/// What answers requests. A [`Peer`] is in the request's extensions when it came over a socket.
#[async_trait::async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. Errors are answers too.
    async fn handle(&self, request: http::Request<Body>) -> http::Response<Body>;
}

/// A listener that has its port but serves nobody yet, so that start-up can report a port in use early.
pub struct Server {
    listener: TcpListener,
}

impl Server {
    /// Takes the port.
    ///
    /// # Errors
    /// When another process has it or the address is not ours.
    pub async fn bind(address: SocketAddr) -> Result<Self, Error> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|cause| Error::Listen { address, cause })?;
        Ok(Self { listener })
    }

    /// The address it listens on (with the port the system chose, if 0 was asked).
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown`, then lets requests under way finish.
    pub async fn serve(
        self,
        tls: Arc<rustls::ServerConfig>,
        handler: Arc<dyn Handler>,
        shutdown: Shutdown,
    ) {
        let acceptor = tokio_rustls::TlsAcceptor::from(tls);
        let places = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
        let connections = tokio_util::task::TaskTracker::new();
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                break;
            };
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(pair) => pair,
                Err(error) => {
                    // Out of file descriptors, most likely: the next accept would fail at once too.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (acceptor, handler, shutdown) =
                (acceptor.clone(), handler.clone(), shutdown.clone());
            connections.spawn(async move {
                connection(stream, address, acceptor, handler, shutdown).await;
                drop(place);
            });
        }
        connections.close();
        if tokio::time::timeout(DRAIN * 2, connections.wait())
            .await
            .is_err()
        {
            tracing::debug!("connections were cut at shutdown");
        }
    }
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: tokio_rustls::TlsAcceptor,
    handler: Arc<dyn Handler>,
    shutdown: Shutdown,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%address, %error, "no TCP_NODELAY");
    }
    let tls = match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(%address, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%address, "TLS handshake took too long"),
    };
    let certificates: Arc<[_]> = tls
        .get_ref()
        .1
        .peer_certificates()
        .unwrap_or_default()
        .into();
    let peer = Peer {
        address,
        certificates,
    };
    let is_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let (cut, activity) = (Cut::default(), Arc::new(Activity::default()));
    let (own_cut, own_activity) = (cut.clone(), activity.clone());
    let service = service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        let (handler, peer) = (handler.clone(), peer.clone());
        let under_way = UnderWay::new(&activity);
        request.extensions_mut().insert(cut.clone());
        async move {
            use http_body_util::BodyExt as _;
            request.extensions_mut().insert(peer);
            let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            let answer = handler.handle(request).await;
            Ok::<_, std::convert::Infallible>(answer.map(|body| Answer { body, under_way }))
        }
    });
    let builder = builder(is_http2);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(tls), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = own_cut.done() => return tracing::debug!(%address, "the client does not take its answer"),
        () = stopped(&shutdown, &own_activity) => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(DRAIN, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%address, %error, "connection ended");
    }
}

/// Every limit is set, so that none changes with a library's default. The protocol is the one that the handshake agreed on:
/// to wait for the first bytes to tell would be a wait without end.
fn builder(is_http2: bool) -> auto::Builder<TokioExecutor> {
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut builder = if is_http2 {
        builder.http2_only()
    } else {
        builder.http1_only()
    };
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(MAX_HEAD as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_RESET_UNSEEN)
        .max_local_error_reset_streams(MAX_RESET_BY_US)
        .keep_alive_interval(Some(PING_EVERY))
        .keep_alive_timeout(PING_PATIENCE)
        .max_header_list_size(MAX_HEAD);
    builder
}

/// Ends when the server stops, or the connection was idle for too long.
async fn stopped(shutdown: &Shutdown, activity: &Activity) {
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = activity.idle() => {}
    }
}

/// The requests that a connection has under way.
#[derive(Default)]
struct Activity {
    requests: AtomicUsize,
    /// The last went.
    ended: Notify,
}

impl Activity {
    /// Ends when there was no request for [`IDLE`].
    async fn idle(&self) {
        loop {
            let waited = tokio::time::timeout(IDLE, self.ended.notified()).await;
            if waited.is_ok() {
                continue;
            }
            if self.requests.load(Ordering::Acquire) == 0 {
                return;
            }
            self.ended.notified().await;
        }
    }
}

/// A request, from its head to the end of its answer.
struct UnderWay(Arc<Activity>);

impl UnderWay {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.requests.fetch_add(1, Ordering::AcqRel);
        Self(activity.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.0.requests.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.ended.notify_one();
        }
    }
}

/// An answer's body, which is under way until it is sent or given up.
struct Answer {
    body: Body,
    #[expect(dead_code, reason = "counts until it is dropped")]
    under_way: UnderWay,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
