//! What a kubelet answers to the API server: logs, exec, attach, port-forward, and its own health.
//!
//! Follows upstream's kubelet paths. Only the API server's client certificate and administrators get in.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use runtime::{
    ContainerId, ContainerState, ContainerStatus, ExecRequest, SandboxId, Streams, TerminalSize,
};
use skiff_http::percent::unescape;
use skiff_http::portforward::Duplex;
use skiff_http::remotecommand::{self, Session, Wanted};
use skiff_http::{Body, Handler, Peer, body, portforward};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::logs;
use crate::node::Node;

/// Who may ask, beside members of `system:masters`.
const API_SERVER: &str = "kube-apiserver-kubelet-client";

/// The kubelet's HTTPS API.
pub struct Server(pub Arc<Node>);

/// What is said instead of an answer.
type Refusal = (StatusCode, String);

fn text(code: StatusCode, text: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(body::full(text));
    *response.status_mut() = code;
    let kind = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, kind);
    response
}

#[async_trait::async_trait]
impl Handler for Server {
    async fn handle(&self, request: Request<Body>) -> Response<Body> {
        match self.answer(request).await {
            Ok(response) => response,
            Err((code, why)) => text(code, why),
        }
    }
}

/// Lets the API server and administrators in.
fn check(request: &Request<Body>) -> Result<(), Refusal> {
    let refuse = |why: &str| Err((StatusCode::UNAUTHORIZED, why.to_owned()));
    let Some(der) = request
        .extensions()
        .get::<Peer>()
        .and_then(|p| p.certificates.first())
    else {
        return refuse("Unauthorized");
    };
    match pki::authority::subject(der) {
        Ok(s)
            if s.common_name == API_SERVER
                || s.organizations.iter().any(|o| o == "system:masters") =>
        {
            Ok(())
        }
        Ok(s) => Err((
            StatusCode::FORBIDDEN,
            format!("Forbidden (user={})", s.common_name),
        )),
        Err(_) => refuse("Unauthorized"),
    }
}

/// A decoded query, in order.
pub struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|p| !p.is_empty());
        Self(
            pairs
                .map(|p| {
                    let (name, value) = p.split_once('=').unwrap_or((p, ""));
                    (unescape(name, true), unescape(value, true))
                })
                .collect(),
        )
    }

    /// The first value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    /// Whether `name` is there and not false.
    #[must_use]
    pub fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| v != "false" && v != "0")
    }
}

impl Server {
    async fn answer(&self, mut request: Request<Body>) -> Result<Response<Body>, Refusal> {
        let path = request.uri().path().to_owned();
        let query = Query::parse(request.uri().query().unwrap_or(""));
        if path == "/healthz" {
            return Ok(text(StatusCode::OK, "ok"));
        }
        check(&request)?;
        let parts: Vec<String> = path
            .split('/')
            .filter(|p| !p.is_empty())
            .map(|p| unescape(p, false))
            .collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match parts.as_slice() {
            ["metrics"] => Ok(text(StatusCode::OK, self.0.options.world.metrics.render())),
            ["pods"] => Ok(self.pods()),
            ["containerLogs", namespace, pod, container] => {
                let status = self
                    .container(namespace, pod, container, query.is_true("previous"))
                    .await?;
                logs::serve(self.0.clone(), status, &query)
            }
            ["exec", namespace, pod, container] => {
                let id = self.running(namespace, pod, container).await?;
                let command: Vec<String> = query.all("command").map(str::to_owned).collect();
                if command.is_empty() {
                    return Err((
                        StatusCode::BAD_REQUEST,
                        "you must specify at least one command for the container".into(),
                    ));
                }
                let node = self.0.clone();
                let wanted = wanted(&query);
                Ok(remotecommand::serve(
                    &mut request,
                    wanted,
                    move |session| async move {
                        let tty = wanted.tty;
                        let ask = ExecRequest {
                            cmd: command,
                            tty,
                            stdin: wanted.stdin,
                            stdout: wanted.stdout,
                            stderr: wanted.stderr && !tty,
                        };
                        carry(session, node.options.runtime.exec(&id, ask).await).await;
                    },
                ))
            }
            ["attach", namespace, pod, container] => {
                let id = self.running(namespace, pod, container).await?;
                let node = self.0.clone();
                let wanted = wanted(&query);
                Ok(remotecommand::serve(
                    &mut request,
                    wanted,
                    move |session| async move {
                        carry(
                            session,
                            node.options.runtime.attach(&id, wanted.stdin).await,
                        )
                        .await;
                    },
                ))
            }
            ["portForward", namespace, pod] => {
                let sandbox = self.sandbox(namespace, pod).await?;
                let ports: Vec<u16> = query.all("port").filter_map(|p| p.parse().ok()).collect();
                let node = self.0.clone();
                Ok(portforward::serve(&mut request, ports, move |port| {
                    let (node, sandbox) = (node.clone(), sandbox.clone());
                    async move {
                        let dialed = node.options.runtime.port_forward(&sandbox, port).await;
                        dialed
                            .map(|stream| Box::new(stream) as Box<dyn Duplex>)
                            .map_err(|e| e.to_string())
                    }
                }))
            }
            _ => Err((StatusCode::NOT_FOUND, "404 page not found".into())),
        }
    }

    fn pods(&self) -> Response<Body> {
        let workers = self
            .0
            .workers
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let items: Vec<serde_json::Value> = workers
            .values()
            .filter_map(|h| serde_json::to_value(&*h.latest.borrow().pod).ok())
            .collect();
        let list = serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
        let mut response = text(StatusCode::OK, list.to_string());
        let json = http::HeaderValue::from_static("application/json");
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, json);
        response
    }

    /// The latest container of that name, or the one before it.
    async fn container(
        &self,
        namespace: &str,
        pod: &str,
        name: &str,
        previous: bool,
    ) -> Result<ContainerStatus, Refusal> {
        let missing = |why: String| (StatusCode::NOT_FOUND, why);
        let (_, shared) = self
            .0
            .find(namespace, pod)
            .ok_or_else(|| missing(format!("pod \"{pod}\" not found")))?;
        let ids = shared
            .containers
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone();
        let mut found = Vec::new();
        for id in ids {
            if let Ok(status) = self.0.options.runtime.container_status(&id).await
                && status.metadata.name == name
            {
                found.push(status);
            }
        }
        // Oldest first: the last is the present one.
        let at = found.len().checked_sub(if previous { 2 } else { 1 });
        let bad = |why: String| (StatusCode::BAD_REQUEST, why);
        match at {
            Some(at) => Ok(found.swap_remove(at)),
            None if previous => Err(bad(format!(
                "previous terminated container \"{name}\" in pod \"{pod}\" not found"
            ))),
            None => Err(bad(format!(
                "container \"{name}\" in pod \"{pod}\" is waiting to start: ContainerCreating"
            ))),
        }
    }

    async fn running(
        &self,
        namespace: &str,
        pod: &str,
        name: &str,
    ) -> Result<ContainerId, Refusal> {
        let status = self.container(namespace, pod, name, false).await?;
        if status.state == ContainerState::Running {
            return Ok(status.id);
        }
        Err((
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("container not running ({name})"),
        ))
    }

    async fn sandbox(&self, namespace: &str, pod: &str) -> Result<SandboxId, Refusal> {
        let missing = || (StatusCode::NOT_FOUND, format!("pod \"{pod}\" not found"));
        let (_, shared) = self.0.find(namespace, pod).ok_or_else(missing)?;
        let sandboxes = shared
            .sandboxes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        sandboxes.last().cloned().ok_or_else(missing)
    }
}

fn wanted(query: &Query) -> Wanted {
    Wanted {
        stdin: query.is_true("input"),
        stdout: query.is_true("output"),
        stderr: query.is_true("error"),
        tty: query.is_true("tty"),
    }
}

/// Carries bytes between a client and a process until the process ended and its output is read.
async fn carry(session: Session, streams: runtime::Result<Streams>) {
    let Session {
        stdin,
        stdout,
        stderr,
        mut resize,
        done,
    } = session;
    let streams = match streams {
        Ok(streams) => streams,
        Err(error) => return done.finish(Err(error.to_string())).await,
    };
    let sizes = streams.resize;
    let resizing = tokio::spawn(async move {
        while let Some((columns, rows)) = resize.recv().await {
            if sizes
                .send(TerminalSize {
                    width: columns,
                    height: rows,
                })
                .await
                .is_err()
            {
                return;
            }
        }
    });
    let input = tokio::spawn(copy(stdin, streams.stdin));
    let output = async { tokio::join!(copy(streams.stdout, stdout), copy(streams.stderr, stderr)) };
    let (exit, _) = tokio::join!(streams.exit, output);
    input.abort();
    resizing.abort();
    done.finish(exit.map_err(|e| e.to_string())).await;
}

/// Copies until the source ends, then ends the sink. A side that was not asked for is nothing to do.
async fn copy<R, W>(from: Option<R>, to: Option<W>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    use tokio::io::AsyncWriteExt as _;
    let (Some(mut from), Some(mut to)) = (from, to) else {
        return;
    };
    // A client that went away, or a process that closed its input, ends its stream only.
    if let Err(error) = tokio::io::copy(&mut from, &mut to).await {
        tracing::trace!(%error, "a stream ended early");
    }
    if let Err(error) = to.shutdown().await {
        tracing::trace!(%error, "a stream was closed already");
    }
}
