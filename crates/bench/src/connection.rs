//! One HTTP/1.1 connection over TLS, as bare as it gets, so that the client costs little.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;

use crate::Error;
use crate::kubeconfig::Cluster;

/// An open connection.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    /// Connects.
    pub async fn open(cluster: &Cluster) -> Result<Self, Error> {
        let tcp = tokio::net::TcpStream::connect(&cluster.address).await?;
        tcp.set_nodelay(true)?;
        let host = cluster
            .address
            .rsplit_once(':')
            .map_or(cluster.address.as_str(), |(h, _)| h)
            .to_owned();
        let name = ServerName::try_from(host)?;
        let tls = tokio_rustls::TlsConnector::from(cluster.tls.clone())
            .connect(name, tcp)
            .await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
        tokio::spawn(connection);
        Ok(Self {
            sender,
            host: cluster.address.clone(),
        })
    }

    /// The connection itself, for an answer that has no end.
    pub fn into_sender(self) -> SendRequest<Full<Bytes>> {
        self.sender
    }

    /// One request and its whole answer.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Error> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, &self.host)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        let status = answer.status();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }

    /// As [`Self::send`]; a status that is not 2xx is an error.
    pub async fn ok(&mut self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Error> {
        let (status, bytes) = self.send(method.clone(), path, body).await?;
        if status.is_success() {
            return Ok(bytes);
        }
        Err(format!(
            "{method} {path}: {status}: {}",
            String::from_utf8_lossy(&bytes)
        )
        .into())
    }
}
