//! A bare hyper and rustls server: what sending the same bytes costs when nothing is done for them.
//!
//! It is a process of its own, as the server that is measured is one.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;

use crate::Error;
use crate::kubeconfig::Cluster;

/// Serves on a free port of loopback, whose address it prints, until it is killed. `GET /N` is answered with N bytes.
pub async fn serve() -> Result<(), Error> {
    let now = world::World::real().now();
    let ca = pki::Authority::generate("skiff-bench", now)?;
    let leaf = ca.issue(
        &pki::LeafRequest {
            common_name: "bare".into(),
            organizations: Vec::new(),
            dns_names: Vec::new(),
            ips: vec![Ipv4Addr::LOCALHOST.into()],
            usage: pki::Usage::Server,
        },
        now,
    )?;
    let certificate = skiff_http::tls::ServingCertificate::new(&leaf.cert_pem, &leaf.key_pem)?;
    let tls = skiff_http::tls::server_config(certificate, &ca.cert_pem)?;
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?);
    let filling = Bytes::from(vec![b'x'; 64 << 20]);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (acceptor, filling) = (acceptor.clone(), filling.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let service = service_fn(move |request| {
                let answer = answer(&filling, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                eprintln!("a connection broke: {error}");
            }
        });
    }
}

fn answer(filling: &Bytes, request: &Request<hyper::body::Incoming>) -> Response<Full<Bytes>> {
    let asked = request.uri().path().trim_start_matches('/').parse();
    let length = asked.unwrap_or(0_usize).min(filling.len());
    let mut response = Response::new(Full::new(filling.slice(..length)));
    let json = http::HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, json);
    response
}

/// A running bare server; it ends with this.
pub struct Bare {
    pub cluster: Cluster,
    _process: tokio::process::Child,
}

impl Bare {
    /// Starts one.
    pub async fn start() -> Result<Self, Error> {
        let mut process = tokio::process::Command::new(std::env::current_exe()?)
            .arg("bare")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = process.stdout.take().ok_or("no standard output")?;
        let mut address = String::new();
        BufReader::new(stdout).read_line(&mut address).await?;
        let tls = skiff_http::tls::unverified_client_config(None, true)?;
        Ok(Self {
            cluster: Cluster {
                address: address.trim().to_owned(),
                tls: Arc::clone(&tls),
            },
            _process: process,
        })
    }
}
