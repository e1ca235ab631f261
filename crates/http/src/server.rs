//! A TLS listener that hands requests to a [`Handler`] and drains when told to stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use world::Shutdown;

use crate::{Body, Error};

/// How long a TLS handshake may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an HTTP/1 connection may be idle, or take to send a request's head.
const IDLE: Duration = Duration::from_secs(120);
/// How long requests under way get to finish after a stop; watches and streams are cut at its end.
const DRAIN: Duration = Duration::from_secs(2);
/// Connections one listener keeps at most; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 50_000;

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: SocketAddr,
    /// The client's verified certificate chain, its own first; empty when it showed none.
    pub certificates: Arc<[CertificateDer<'static>]>,
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
    let service = service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        let (handler, peer) = (handler.clone(), peer.clone());
        async move {
            use http_body_util::BodyExt as _;
            request.extensions_mut().insert(peer);
            let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            Ok::<_, std::convert::Infallible>(handler.handle(request).await)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(64 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(250)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .max_header_list_size(64 * 1024);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(tls), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
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
