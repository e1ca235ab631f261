//! etcd's own rate of puts: gRPC by hand over HTTP/2, two messages of it, so that no generated client is needed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::Instant;

use crate::Error;

/// Puts of 1 KiB values per second, by `clients` callers each on a connection of its own.
pub async fn puts(endpoint: &str, clients: usize, span: Duration) -> Result<f64, Error> {
    let address = endpoint.trim_start_matches("http://").to_owned();
    let (done, begin) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let mut tasks = tokio::task::JoinSet::<Result<(), Error>>::new();
    for client in 0..clients {
        let (done, address) = (done.clone(), address.clone());
        tasks.spawn(async move {
            let tcp = tokio::net::TcpStream::connect(&address).await?;
            tcp.set_nodelay(true)?;
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp))
                    .await?;
            tokio::spawn(connection);
            let value = [b'x'; 1024];
            for i in 0_u64.. {
                if begin.elapsed() >= span {
                    break;
                }
                put(
                    sender.clone(),
                    &address,
                    format!("skiff-bench/{client}/{i}").as_bytes(),
                    &value,
                )
                .await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(done.load(Ordering::Relaxed) as f64 / begin.elapsed().as_secs_f64())
}

async fn put(
    mut sender: SendRequest<Full<Bytes>>,
    address: &str,
    key: &[u8],
    value: &[u8],
) -> Result<(), Error> {
    // PutRequest { key = 1, value = 2 } in a gRPC frame: not compressed, length, message.
    let mut message = Vec::with_capacity(key.len() + value.len() + 8);
    for (tag, bytes) in [(0x0a, key), (0x12, value)] {
        message.push(tag);
        let mut length = bytes.len();
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(bytes);
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len())?.to_be_bytes());
    frame.extend_from_slice(&message);
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{address}/etcdserverpb.KV/Put"))
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .header(http::header::TE, "trailers")
        .body(Full::new(Bytes::from(frame)))?;
    sender.ready().await?;
    let answer = sender.send_request(request).await?;
    let collected = answer.into_body().collect().await?;
    let status = collected
        .trailers()
        .and_then(|t| t.get("grpc-status"))
        .map(|v| v.as_bytes().to_vec());
    if status.as_deref() == Some(b"0") {
        Ok(())
    } else {
        Err("etcd refused a put".into())
    }
}
