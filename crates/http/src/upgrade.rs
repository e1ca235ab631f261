//! Connections that stop being HTTP: WebSocket, SPDY, and tunnels between the two ends of a proxied stream.

use hyper_util::rt::TokioIo;

use crate::{Body, Error, empty};

/// A raw connection after a `101 Switching Protocols`.
pub type Upgraded = TokioIo<hyper::upgrade::Upgraded>;

/// Something to keep while an upgraded connection lasts, put into its request's extensions.
#[derive(Clone)]
pub struct Held(pub std::sync::Arc<dyn std::any::Any + Send + Sync>);

/// Whether the client asks to leave HTTP, and for what (`websocket`, `spdy/3.1`; lower case).
#[must_use]
pub fn requested(headers: &http::HeaderMap) -> Option<String> {
    let connection = headers.get_all(http::header::CONNECTION);
    let asks = connection.iter().filter_map(|v| v.to_str().ok()).any(|v| {
        v.split(',')
            .any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
    });
    let protocol = headers.get(http::header::UPGRADE)?.to_str().ok()?;
    asks.then(|| protocol.to_ascii_lowercase())
}

/// Answers `101` and gives the raw connection to `then` once the answer is out. A [`Held`] is dropped after that.
pub fn accept<F, Fut>(
    request: &mut http::Request<Body>,
    mut answer: http::Response<()>,
    then: F,
) -> http::Response<Body>
where
    F: FnOnce(Upgraded) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let held = request.extensions_mut().remove::<Held>();
    let upgrade = hyper::upgrade::on(request);
    *answer.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
    tokio::spawn(async move {
        match upgrade.await {
            Ok(connection) => then(TokioIo::new(connection)).await,
            Err(error) => tracing::debug!(%error, "the client went away before its upgrade"),
        }
        drop(held);
    });
    answer.map(|()| empty())
}

/// Carries bytes both ways until both ends closed.
pub async fn tunnel(mut a: Upgraded, mut b: Upgraded) {
    if let Err(error) = tokio::io::copy_bidirectional(&mut a, &mut b).await {
        tracing::trace!(%error, "a tunnel broke");
    }
}

/// Sends a request over a fresh connection to `address` (`host:port`), by TLS if given, and returns the answer, with the
/// raw connection if it was `101`.
///
/// # Errors
/// When the peer cannot be reached or does not speak HTTP.
pub async fn dial(
    address: &str,
    tls: Option<std::sync::Arc<rustls::ClientConfig>>,
    request: http::Request<Body>,
) -> Result<(http::Response<hyper::body::Incoming>, Option<Upgraded>), Error> {
    let fail = |e: &dyn std::fmt::Display| Error::Connect(address.to_owned(), e.to_string());
    let tcp = tokio::net::TcpStream::connect(address)
        .await
        .map_err(|e| fail(&e))?;
    tcp.set_nodelay(true).map_err(|e| fail(&e))?;
    let Some(tls) = tls else {
        return exchange(address, tcp, request).await;
    };
    let host = address.rsplit_once(':').map_or(address, |(h, _)| h);
    let name = host.trim_matches(['[', ']']).to_owned();
    let name = rustls::pki_types::ServerName::try_from(name).map_err(|e| fail(&e))?;
    let connector = tokio_rustls::TlsConnector::from(tls);
    let stream = connector.connect(name, tcp).await.map_err(|e| fail(&e))?;
    exchange(address, stream, request).await
}

/// One request and its answer over `stream`.
async fn exchange<S>(
    address: &str,
    stream: S,
    request: http::Request<Body>,
) -> Result<(http::Response<hyper::body::Incoming>, Option<Upgraded>), Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let fail = |e: hyper::Error| Error::Connect(address.to_owned(), e.to_string());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(fail)?;
    // It ends with the answer's body, whose reader sees its errors.
    tokio::spawn(connection.with_upgrades());
    let mut answer = sender.send_request(request).await.map_err(fail)?;
    if answer.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        return Ok((answer, None));
    }
    let raw = hyper::upgrade::on(&mut answer)
        .await
        .map_err(|e| Error::Upgrade(e.to_string()))?;
    Ok((answer, Some(TokioIo::new(raw))))
}
