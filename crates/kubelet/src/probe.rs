//! Probes and hooks: exec, HTTP, TCP, gRPC, sleep.
//!
//! Follows <https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/>. One task per probe of a
//! running container; it ends with its token. Verdicts go to the worker, which decides.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use runtime::ContainerId;
use tokio::net::TcpStream;
use world::Shutdown;

use crate::node::Node;
use crate::plan::Verdicts;
use crate::spec::{Container, Handler, HttpGet, Pod, Probe, Role};
use crate::worker::Shared;

/// What a probe or hook is aimed at.
pub struct Target<'a> {
    pub container: &'a Container,
    pub id: &'a ContainerId,
    pub ip: Option<IpAddr>,
}

/// How long hooks over HTTP may take.
const HOOK_TIMEOUT: Duration = Duration::from_secs(30);
/// Of an answer's body, in messages.
const MAX_BODY: usize = 10 * 1024;

/// Runs a lifecycle hook to its end.
///
/// # Errors
/// What it said.
pub async fn hook(node: &Node, target: &Target<'_>, handler: &Handler) -> Result<(), String> {
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(sleep.seconds)).await;
        return Ok(());
    }
    if let Some(exec) = &handler.exec {
        let done = node
            .options
            .runtime
            .exec_sync(target.id, exec.command.clone(), None)
            .await
            .map_err(|e| e.to_string())?;
        return match done.exit_code {
            0 => Ok(()),
            code => Err(format!(
                "command '{}' exited with {code}: {}",
                exec.command.join(" "),
                String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).trim()
            )),
        };
    }
    check(node, target, handler, HOOK_TIMEOUT).await
}

/// Asks once.
async fn check(
    node: &Node,
    target: &Target<'_>,
    handler: &Handler,
    timeout: Duration,
) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let done = match node
            .options
            .runtime
            .exec_sync(target.id, exec.command.clone(), Some(timeout))
            .await
        {
            Ok(done) => done,
            Err(runtime::Error::DeadlineExceeded { .. }) => {
                return Err(format!(
                    "command timed out: {:?} timed out after {}s",
                    exec.command.join(" "),
                    timeout.as_secs()
                ));
            }
            Err(e) => return Err(e.to_string()),
        };
        let output = [done.stdout, done.stderr].concat();
        let output = String::from_utf8_lossy(&output[..output.len().min(MAX_BODY)]).into_owned();
        return if done.exit_code == 0 {
            Ok(())
        } else {
            Err(output)
        };
    }
    let over_network = async {
        if let Some(get) = &handler.http_get {
            http_get(target, get).await
        } else if let Some(tcp) = &handler.tcp_socket {
            let port = target.container.resolve_port(&tcp.port)?;
            connect(target, &tcp.host, port).await.map(|_| ())
        } else if let Some(grpc) = &handler.grpc {
            grpc_check(target, grpc.port, &grpc.service).await
        } else {
            Err("missing probe handler".to_owned())
        }
    };
    match tokio::time::timeout(timeout, over_network).await {
        Ok(result) => result,
        Err(_) => {
            Err("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".into())
        }
    }
}

async fn connect(target: &Target<'_>, host: &str, port: u16) -> Result<TcpStream, String> {
    let host = match (host, target.ip) {
        ("", Some(ip)) => ip.to_string(),
        ("", None) => return Err("the Pod has no address".into()),
        (host, _) => host.to_owned(),
    };
    TcpStream::connect((host.as_str(), port))
        .await
        .map_err(|e| format!("dial tcp {host}:{port}: {e}"))
}

trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for T {}

async fn http_get(target: &Target<'_>, get: &HttpGet) -> Result<(), String> {
    let port = target.container.resolve_port(&get.port)?;
    let path = if get.path.starts_with('/') {
        get.path.clone()
    } else {
        format!("/{}", get.path)
    };
    let tcp = connect(target, &get.host, port)
        .await
        .map_err(|e| format!("Get \"{path}\": {e}"))?;
    let host = if get.host.is_empty() {
        target.ip.map(|i| i.to_string()).unwrap_or_default()
    } else {
        get.host.clone()
    };
    let stream: Box<dyn Stream> = if get.scheme.eq_ignore_ascii_case("https") {
        let name =
            rustls::pki_types::ServerName::try_from(host.clone()).map_err(|e| e.to_string())?;
        let tls =
            skiff_http::tls::unverified_client_config(None, true).map_err(|e| e.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(tls);
        Box::new(
            connector
                .connect(name, tcp)
                .await
                .map_err(|e| e.to_string())?,
        )
    } else {
        Box::new(tcp)
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let mut request = http::Request::builder()
        .uri(path)
        .header("Accept", "*/*")
        .header("User-Agent", "kube-probe/1.36");
    let mut named = false;
    for header in &get.http_headers {
        named |= header.name.eq_ignore_ascii_case("host");
        request = request.header(&header.name, &header.value);
    }
    if !named {
        request = request.header(http::header::HOST, format!("{host}:{port}"));
    }
    let request = request
        .header(http::header::CONNECTION, "close")
        .body(Full::new(Bytes::new()))
        .map_err(|e| e.to_string())?;
    let answer = sender
        .send_request(request)
        .await
        .map_err(|e| e.to_string());
    driver.abort();
    let code = answer?.status().as_u16();
    if (200..400).contains(&code) {
        Ok(())
    } else {
        Err(format!("HTTP probe failed with statuscode: {code}"))
    }
}

/// `grpc.health.v1.Health/Check`.
async fn grpc_check(target: &Target<'_>, port: u16, service: &str) -> Result<(), String> {
    let tcp = connect(target, "", port).await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp))
            .await
            .map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let mut message = Vec::new();
    if !service.is_empty() {
        let length = u8::try_from(service.len())
            .ok()
            .filter(|n| *n < 128)
            .ok_or("the service's name is too long")?;
        message.extend([0x0a, length]);
        message.extend(service.as_bytes());
    }
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    body.extend(message);
    let request = http::Request::post(format!(
        "http://{}:{port}/grpc.health.v1.Health/Check",
        target.ip.map(|i| i.to_string()).unwrap_or_default()
    ))
    .header("content-type", "application/grpc")
    .header("te", "trailers")
    .header("user-agent", "kube-probe/1.36")
    .body(Full::new(Bytes::from(body)))
    .map_err(|e| e.to_string())?;
    let result = async {
        let answer = sender
            .send_request(request)
            .await
            .map_err(|e| e.to_string())?;
        let failed = |h: &http::HeaderMap| {
            h.get("grpc-status")
                .filter(|s| s.as_bytes() != b"0")
                .map(|s| format!("{s:?}"))
        };
        if let Some(status) = failed(answer.headers()) {
            return Err(format!("service unhealthy (rpc status {status})"));
        }
        let body = http_body_util::Limited::new(answer.into_body(), MAX_BODY)
            .collect()
            .await
            .map_err(|e| e.to_string())?;
        if let Some(status) = body.trailers().and_then(failed) {
            return Err(format!("service unhealthy (rpc status {status})"));
        }
        match body.to_bytes().get(5..7) {
            Some([0x08, 1]) => Ok(()),
            _ => Err("service unhealthy (responded with \"NOT_SERVING\")".to_owned()),
        }
    };
    let result = result.await;
    driver.abort();
    result
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Startup,
    Liveness,
    Readiness,
}

/// One container's probes.
pub struct Watch {
    pub node: Arc<Node>,
    pub pod: Arc<Pod>,
    pub shared: Arc<Shared>,
    pub name: String,
    pub id: ContainerId,
    pub ip: Option<IpAddr>,
    pub stop: Shutdown,
}

impl Watch {
    /// The verdicts before the first probe.
    #[must_use]
    pub fn first_verdicts(container: &Container, id: &ContainerId) -> Verdicts {
        Verdicts {
            id: Some(id.clone()),
            started: container.startup_probe.is_none(),
            ready: container.readiness_probe.is_none(),
            unhealthy: None,
        }
    }

    /// Starts the tasks.
    pub fn start(self) {
        let watch = Arc::new(self);
        let Some((_, container)) = watch.pod.container(&watch.name) else {
            return;
        };
        for (kind, probe) in [
            (Kind::Startup, &container.startup_probe),
            (Kind::Liveness, &container.liveness_probe),
            (Kind::Readiness, &container.readiness_probe),
        ] {
            if let Some(probe) = probe {
                let (watch, probe, stop) = (watch.clone(), probe.clone(), watch.stop.clone());
                tokio::spawn(
                    stop.run_until_cancelled_owned(async move { watch.repeat(kind, &probe).await }),
                );
            }
        }
    }

    /// Changes the verdicts, if they still are about this container, and has the worker look if they changed.
    fn tell(&self, change: impl FnOnce(&mut Verdicts)) {
        let mut verdicts = self
            .shared
            .verdicts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(mine) = verdicts
            .get_mut(&self.name)
            .filter(|v| v.id.as_ref() == Some(&self.id))
        else {
            return;
        };
        let before = mine.clone();
        change(mine);
        if *mine != before {
            self.shared.nudge.notify_one();
            self.shared.startup.notify_waiters();
        }
    }

    fn started(&self) -> bool {
        let verdicts = self
            .shared
            .verdicts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        verdicts
            .get(&self.name)
            .is_some_and(|v| v.id.as_ref() == Some(&self.id) && v.started)
    }

    async fn repeat(&self, kind: Kind, probe: &Probe) {
        let Some((role, container)) = self.pod.container(&self.name) else {
            return;
        };
        if kind != Kind::Startup {
            loop {
                let changed = self.shared.startup.notified();
                if self.started() {
                    break;
                }
                changed.await;
            }
        }
        tokio::time::sleep(Duration::from_secs(probe.initial_delay_seconds)).await;
        let or = |n: u64, default| Duration::from_secs(if n == 0 { default } else { n });
        let (period, timeout) = (or(probe.period_seconds, 10), or(probe.timeout_seconds, 1));
        let (successes, failures) = (
            probe.success_threshold.max(1),
            if probe.failure_threshold == 0 {
                3
            } else {
                probe.failure_threshold
            },
        );
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut good, mut bad) = (0_u32, 0_u32);
        loop {
            ticks.tick().await;
            let target = Target {
                container,
                id: &self.id,
                ip: self.ip,
            };
            match check(&self.node, &target, &probe.handler, timeout).await {
                Ok(()) => (good, bad) = (good.saturating_add(1), 0),
                Err(why) => {
                    (good, bad) = (0, bad.saturating_add(1));
                    self.say(role, kind, &why);
                }
            }
            match kind {
                Kind::Startup if good >= successes => return self.tell(|v| v.started = true),
                Kind::Readiness if good >= successes => self.tell(|v| v.ready = true),
                Kind::Readiness if bad >= failures => self.tell(|v| v.ready = false),
                Kind::Startup | Kind::Liveness if bad >= failures => {
                    let what = if kind == Kind::Startup {
                        "failed startup probe"
                    } else {
                        "failed liveness probe"
                    };
                    return self.tell(|v| {
                        v.unhealthy =
                            Some((what.to_owned(), probe.termination_grace_period_seconds))
                    });
                }
                _ => {}
            }
        }
    }

    fn say(&self, role: Role, kind: Kind, why: &str) {
        let kind = match kind {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        };
        let about = self.pod.reference(Some((role, &self.name)));
        self.node
            .events
            .warning(&about, "Unhealthy", format!("{kind} probe failed: {why}"));
    }
}
