//! The server's side of `exec` and `attach`.
//!
//! One connection carries a process's stdin, stdout, stderr, the terminal's size and, at the end, how the process ended.
//! Clients come over SPDY/3.1 (kubectl up to 1.30) or WebSocket (kubectl from 1.31, browsers, most client libraries);
//! whoever runs the process sees only a [`Session`].

use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use crate::upgrade::{self, Upgraded};
use crate::websocket::{self, offers, refuse};
use crate::{Body, spdy};

/// The header by which SPDY clients and servers agree on the protocol inside.
const PROTOCOL: &str = "x-stream-protocol-version";
/// What the server speaks inside SPDY. A later one adds: v2 half-closed streams, v3 the terminal's size, v4 exit codes.
const SPDY_PROTOCOLS: [&str; 4] = [
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
];
/// What the server speaks over WebSocket.
const WEBSOCKET_PROTOCOLS: [&str; 5] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];
/// How long a SPDY client may take to open its streams.
const PATIENCE: Duration = Duration::from_secs(30);
/// Sizes that wait for the process's terminal.
const SIZES: usize = 16;
/// Bytes that one size may have as JSON.
const MAX_SIZE_TEXT: usize = 4096;

/// Which streams the request's query asked for (`stdin=true&tty=true&…`). With a terminal there is no stderr of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// A stream that the process reads.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;

/// A stream that the process writes.
pub type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// The client's end of a process: what it wanted is `Some`.
pub struct Session {
    /// Ends when the client closed its input or went away.
    pub stdin: Option<Input>,
    pub stdout: Option<Output>,
    pub stderr: Option<Output>,
    /// Columns and rows of the client's terminal, first and after each change. Ends when the client goes away; at once without
    /// a terminal.
    pub resize: mpsc::Receiver<(u16, u16)>,
    /// Tells the client how it ended. Dropped unused, the connection just closes.
    pub done: Finish,
}

/// Ends a session.
pub struct Finish {
    wire: Wire,
    /// Whether the end is told as a `metav1.Status` (from v4 on) or, if it is a failure, as text.
    status: bool,
}

enum Wire {
    Spdy(spdy::Connection, Box<spdy::Stream>),
    WebSocket(websocket::Channels),
}

/// The channel numbers of the WebSocket protocols.
mod channel {
    pub(super) const STDIN: usize = 0;
    pub(super) const STDOUT: u8 = 1;
    pub(super) const STDERR: u8 = 2;
    pub(super) const ERROR: u8 = 3;
    pub(super) const RESIZE: usize = 4;
}

impl Finish {
    /// Ends once the client is gone, so that what runs for it alone can be stopped.
    pub async fn gone(&mut self) {
        match &mut self.wire {
            Wire::Spdy(connection, _) => connection.gone().await,
            Wire::WebSocket(channels) => channels.gone().await,
        }
    }

    /// Tells the client the exit code, or why there is none, then closes every stream and the connection.
    ///
    /// Write all output before. Returns when the client has closed its end too, or after a few seconds.
    pub async fn finish(self, result: Result<i32, String>) {
        let end = end_text(self.status, &result);
        match self.wire {
            Wire::Spdy(connection, mut error) => {
                let told = async {
                    error.write_all(end.as_bytes()).await?;
                    error.shutdown().await
                };
                if let Err(error) = told.await {
                    tracing::debug!(%error, "the client went away before it could be told how its process ended");
                }
                connection.close().await;
            }
            Wire::WebSocket(channels) => {
                if !end.is_empty() {
                    channels.send(channel::ERROR, end.as_bytes()).await;
                }
                channels.close().await;
            }
        }
    }
}

/// How the end is told on the error stream.
fn end_text(status: bool, result: &Result<i32, String>) -> String {
    let nonzero = |code: &i32| format!("command terminated with exit code {code}");
    if !status {
        return match result {
            Ok(0) => String::new(),
            Ok(code) => nonzero(code),
            Err(why) => why.clone(),
        };
    }
    let status = match result {
        Ok(0) => serde_json::json!({"metadata": {}, "status": "Success"}),
        Ok(code) => serde_json::json!({
            "metadata": {},
            "status": "Failure",
            "message": "command terminated with non-zero exit code",
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(why) => serde_json::json!({
            "metadata": {},
            "status": "Failure",
            "message": why,
            "reason": "InternalError",
            "details": {"causes": [{"message": why}]},
            "code": 500,
        }),
    };
    status.to_string()
}

/// Answers the upgrade (101 with the negotiated protocol, else 400 or 403 with text) and hands the session to `then` once
/// all streams exist.
pub fn serve<F, Fut>(
    request: &mut http::Request<Body>,
    mut wanted: Wanted,
    then: F,
) -> http::Response<Body>
where
    F: FnOnce(Session) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    wanted.stderr &= !wanted.tty;
    if !(wanted.stdin || wanted.stdout || wanted.stderr) {
        let why = "at least one of stdin, stdout and stderr must be asked for";
        return refuse(StatusCode::BAD_REQUEST, why);
    }
    match upgrade::requested(request.headers()).as_deref() {
        Some("spdy/3.1") => {
            let (head, protocol) = match negotiate_spdy(request.headers(), &SPDY_PROTOCOLS) {
                Ok(agreed) => agreed,
                Err(refusal) => return *refusal,
            };
            upgrade::accept(request, head, move |connection| async move {
                if let Some(session) = over_spdy(connection, wanted, protocol).await {
                    then(session).await;
                }
            })
        }
        Some("websocket") => {
            let agreed = websocket::negotiate(request.headers(), &WEBSOCKET_PROTOCOLS);
            let (head, protocol) = match agreed {
                Ok(agreed) => agreed,
                Err(refusal) => return *refusal,
            };
            upgrade::accept(request, head, move |connection| async move {
                then(over_websocket(connection, wanted, protocol).await).await;
            })
        }
        _ => refuse(
            StatusCode::BAD_REQUEST,
            "this needs an upgrade to SPDY/3.1 or websocket",
        ),
    }
}

/// The head of the answer to a SPDY upgrade, and the protocol inside: the first that the client offers of those that the server
/// `speaks`. Clients from before there was a choice offer none, and get the last.
pub(crate) fn negotiate_spdy(
    headers: &http::HeaderMap,
    speaks: &[&'static str],
) -> Result<(http::Response<()>, &'static str), Box<http::Response<Body>>> {
    let offered = offers(headers, PROTOCOL);
    let mut head = http::Response::new(());
    let own = head.headers_mut();
    own.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    own.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    let find = |offer: &String| speaks.iter().find(|s| *s == offer).copied();
    match (offered.iter().find_map(find), speaks.last()) {
        (Some(chosen), _) => {
            own.insert(PROTOCOL, HeaderValue::from_static(chosen));
            Ok((head, chosen))
        }
        (None, Some(last)) if offered.is_empty() => Ok((head, last)),
        _ => {
            let why = format!("none of the stream protocols {offered:?} is one of {speaks:?}");
            let mut refusal = refuse(StatusCode::FORBIDDEN, why);
            for name in speaks {
                let value = HeaderValue::from_static(name);
                let accepted = "x-accepted-stream-protocol-versions";
                refusal.headers_mut().append(accepted, value);
            }
            Err(Box::new(refusal))
        }
    }
}

async fn over_spdy(connection: Upgraded, wanted: Wanted, protocol: &str) -> Option<Session> {
    let (connection, mut accept) = spdy::Connection::server(connection);
    let sized = wanted.tty && matches!(protocol, "v4.channel.k8s.io" | "v3.channel.k8s.io");
    let kinds = [
        ("error", true),
        ("stdin", wanted.stdin),
        ("stdout", wanted.stdout),
        ("stderr", wanted.stderr),
        ("resize", sized),
    ];
    let mut streams: [Option<spdy::Stream>; 5] = Default::default();
    let gather = async {
        while kinds
            .iter()
            .zip(&streams)
            .any(|((_, wanted), s)| *wanted && s.is_none())
        {
            let mut stream = accept.next().await?;
            let kind = stream.headers().get("streamtype").unwrap_or_default();
            let place = kinds.iter().position(|(k, wanted)| *wanted && *k == kind);
            let Some(place) = place else {
                tracing::debug!(kind, "a stream that the request didn't ask for is closed");
                continue;
            };
            if !matches!(kind, "stdin" | "resize") {
                stream.ignore_input();
            }
            streams[place] = Some(stream);
        }
        Some(())
    };
    match tokio::time::timeout(PATIENCE, gather).await {
        Ok(Some(())) => {}
        Ok(None) => {
            tracing::debug!("the client went away before it opened its streams");
            return None;
        }
        Err(_) => {
            tracing::debug!("the client didn't open its streams in time");
            return None;
        }
    }
    let [error, stdin, stdout, stderr, resize] = streams;
    Some(Session {
        stdin: stdin.map(|s| Box::new(s) as Input),
        stdout: stdout.map(|s| Box::new(s) as Output),
        stderr: stderr.map(|s| Box::new(s) as Output),
        resize: sizes(resize),
        done: Finish {
            wire: Wire::Spdy(connection, Box::new(error?)),
            status: protocol == "v4.channel.k8s.io",
        },
    })
}

async fn over_websocket(connection: Upgraded, wanted: Wanted, protocol: &str) -> Session {
    let base64 = protocol.contains("base64");
    let read = [wanted.stdin, false, false, false, wanted.tty];
    let (channels, mut incoming) = websocket::channels(connection, base64, &read).await;
    let output =
        |wanted: bool, channel| wanted.then(|| Box::new(channels.output(channel)) as Output);
    let (stdout, stderr) = (
        output(wanted.stdout, channel::STDOUT),
        output(wanted.stderr, channel::STDERR),
    );
    // By an empty message the client learns that it is connected, before there is output.
    let first = match (wanted.stdout, wanted.stderr) {
        (true, _) => channel::STDOUT,
        (_, true) => channel::STDERR,
        _ => channel::ERROR,
    };
    channels.send(first, b"").await;
    let resize = incoming[channel::RESIZE].take();
    let stdin = incoming[channel::STDIN].take();
    Session {
        stdin: stdin.map(|s| Box::new(s) as Input),
        stdout,
        stderr,
        resize: sizes(resize),
        done: Finish {
            wire: Wire::WebSocket(channels),
            status: protocol.starts_with('v'),
        },
    }
}

/// The terminal's sizes that a stream of JSON objects tells.
fn sizes<T>(stream: Option<T>) -> mpsc::Receiver<(u16, u16)>
where
    T: AsyncRead + Send + Unpin + 'static,
{
    let (sizes, receiver) = mpsc::channel(SIZES);
    let Some(mut stream) = stream else {
        return receiver;
    };
    tokio::spawn(async move {
        let mut text = Vec::new();
        while let Ok(1..) = stream.read_buf(&mut text).await {
            let (found, used) = match parse_sizes(&text) {
                Ok(parsed) => parsed,
                Err(error) => {
                    tracing::debug!(%error, "the client's terminal size cannot be read");
                    return;
                }
            };
            text.drain(..used);
            for size in found {
                if let Err(mpsc::error::TrySendError::Closed(_)) = sizes.try_send(size) {
                    return;
                }
            }
            if text.len() > MAX_SIZE_TEXT {
                tracing::debug!("the client's terminal size is too long");
                return;
            }
        }
    });
    receiver
}

/// The whole objects at the front of `text`, and how many bytes they take.
fn parse_sizes(text: &[u8]) -> Result<(Vec<(u16, u16)>, usize), String> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<serde_json::Value>();
    let (mut sizes, mut used) = (Vec::new(), 0);
    loop {
        match values.next() {
            None => return Ok((sizes, used)),
            Some(Err(error)) if error.is_eof() => return Ok((sizes, used)),
            Some(Err(error)) => return Err(error.to_string()),
            Some(Ok(value)) => {
                let side = |name| value[name].as_u64().and_then(|n| u16::try_from(n).ok());
                let size = side("Width").zip(side("Height"));
                sizes.push(size.ok_or_else(|| format!("{value} has no Width and Height"))?);
                used = values.byte_offset();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_may_come_in_pieces_and_together() {
        let text = br#"{"Width":80,"Height":24}
{"Width":100,"Height":50}
{"Wid"#;
        let (sizes, used) = parse_sizes(text).unwrap();
        assert_eq!(sizes, [(80, 24), (100, 50)]);
        assert!(text[used..].ends_with(br#"{"Wid"#));
        assert!(parse_sizes(b"{}").is_err());
        assert!(parse_sizes(b"nonsense").is_err());
        assert!(parse_sizes(br#"{"Width":70000,"Height":1}"#).is_err());
    }

    #[test]
    fn the_end_is_told_as_the_protocol_has_it() {
        let ok = r#"{"metadata":{},"status":"Success"}"#;
        assert_eq!(end_text(true, &Ok(0)), ok);
        assert_eq!(end_text(false, &Ok(0)), "");
        let failed: serde_json::Value = serde_json::from_str(&end_text(true, &Ok(7))).unwrap();
        assert_eq!(failed["reason"], "NonZeroExitCode");
        assert_eq!(failed["details"]["causes"][0]["reason"], "ExitCode");
        assert_eq!(failed["details"]["causes"][0]["message"], "7");
        assert!(end_text(true, &Err("gone".into())).contains("InternalError"));
        assert_eq!(end_text(false, &Err("gone".into())), "gone");
    }
}
