//! The administration socket of a running server: how `skiff image` reaches the runtime. HTTP over a Unix socket in the
//! data directory that only root may open.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use runtime::Runtime;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use world::Shutdown;

use crate::Failure;

/// Where the socket is.
#[must_use]
pub fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join("admin.sock")
}

/// Serves the socket until `shutdown`.
///
/// # Errors
/// When it cannot be made.
pub async fn serve(
    path: PathBuf,
    runtime: Arc<dyn Runtime>,
    shutdown: Shutdown,
) -> std::io::Result<()> {
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    tokio::spawn(shutdown.run_until_cancelled_owned(async move {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on the administration socket");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                    continue;
                }
            };
            let runtime = runtime.clone();
            let service = service_fn(move |request| {
                let runtime = runtime.clone();
                async move { Ok::<_, std::convert::Infallible>(answer(&*runtime, request).await) }
            });
            tokio::spawn(async move {
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                if let Err(error) = served {
                    tracing::debug!(%error, "an administration request broke off");
                }
            });
        }
    }));
    Ok(())
}

async fn answer(runtime: &dyn Runtime, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let query = request.uri().query().unwrap_or("").to_owned();
    let done = match (request.method(), request.uri().path()) {
        (&Method::GET, "/images") => list(runtime).await,
        (&Method::POST, "/images") => import(runtime, request.into_body()).await,
        (&Method::DELETE, "/images") => match runtime.remove_image(&query).await {
            Ok(()) => Ok(String::new()),
            Err(error) => Err(error.to_string()),
        },
        _ => Err("no such administration request".into()),
    };
    let (status, text) = match done {
        Ok(text) => (StatusCode::OK, text),
        Err(text) => (StatusCode::BAD_REQUEST, text),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}

fn names(images: &[runtime::Image]) -> String {
    images
        .iter()
        .map(|i| format!("{}\n", i.repo_tags.first().unwrap_or(&i.id)))
        .collect()
}

async fn list(runtime: &dyn Runtime) -> Result<String, String> {
    let images = runtime.list_images().await.map_err(|e| e.to_string())?;
    let mut out = format!("{:<60} {:<22} {:>10}\n", "IMAGE", "ID", "SIZE");
    for image in images {
        let id: String = image
            .id
            .trim_start_matches("sha256:")
            .chars()
            .take(12)
            .collect();
        let size = format!("{:.1} MB", image.size as f64 / 1e6);
        let tags = if image.repo_tags.is_empty() {
            vec!["<none>".to_owned()]
        } else {
            image.repo_tags
        };
        for tag in tags {
            out.push_str(&format!("{tag:<60} {id:<22} {size:>10}\n"));
        }
    }
    Ok(out)
}

/// A blocking reader over a body that arrives piece by piece.
struct Pieces {
    queue: mpsc::Receiver<std::io::Result<Bytes>>,
    current: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            match self.queue.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let n = self.current.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}

async fn import(runtime: &dyn Runtime, mut body: Incoming) -> Result<String, String> {
    let (sender, queue) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Some(frame) = body.frame().await {
            let piece = frame
                .map_err(std::io::Error::other)
                .map(|f| f.into_data().unwrap_or_default());
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    });
    let reader = Pieces {
        queue,
        current: Bytes::new(),
    };
    let images = runtime
        .import_image(Box::new(reader))
        .await
        .map_err(|e| e.to_string())?;
    Ok(names(&images))
}

/// Sends one request to a running server and returns the text of its answer.
///
/// # Errors
/// When no server runs, or it refuses.
pub async fn ask(
    data_dir: &Path,
    method: Method,
    path: &str,
    body: skiff_http::Body,
) -> Result<String, Failure> {
    let socket = socket_path(data_dir);
    let stream = UnixStream::connect(&socket).await.map_err(|e| {
        Failure::new(format!(
            "cannot reach a server at {}: {e}",
            socket.display()
        ))
        .hint("start `skiff server`, or name its directory with --data-dir")
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(Failure::new)?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "skiff")
        .body(body)
        .map_err(Failure::new)?;
    let answer = sender.send_request(request).await.map_err(Failure::new)?;
    let status = answer.status();
    let bytes = answer
        .into_body()
        .collect()
        .await
        .map_err(Failure::new)?
        .to_bytes();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    if status.is_success() {
        Ok(text)
    } else {
        Err(Failure::new(text))
    }
}
