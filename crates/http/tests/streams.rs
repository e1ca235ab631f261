//! exec and port-forward as clients see them: over HTTP upgrades, in SPDY and WebSocket.

#![allow(clippy::unwrap_used)]

use futures::{SinkExt as _, StreamExt as _};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use skiff_http::remotecommand::{self, Session, Wanted};
use skiff_http::spdy::{Connection, Headers};
use skiff_http::upgrade::Upgraded;
use skiff_http::{Body, portforward};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

const ALL: Wanted = Wanted {
    stdin: true,
    stdout: true,
    stderr: true,
    tty: false,
};

/// A process that greets on stderr, gives its input back in capitals, and ends with 7.
async fn shout(session: Session) {
    let (mut stdin, mut stdout) = (session.stdin.unwrap(), session.stdout.unwrap());
    let mut stderr = session.stderr.unwrap();
    stderr.write_all(b"hello").await.unwrap();
    let mut text = Vec::new();
    stdin.read_to_end(&mut text).await.unwrap();
    text.make_ascii_uppercase();
    stdout.write_all(&text).await.unwrap();
    session.done.finish(Ok(7)).await;
}

/// Sends a request with these headers to a server that answers by `serve`.
async fn request<S>(headers: &[(&str, &str)], serve: S) -> (http::Response<()>, Option<Upgraded>)
where
    S: Fn(&mut http::Request<Body>) -> http::Response<Body> + Send + Sync + Clone + 'static,
{
    let (here, there) = tokio::io::duplex(16 * 1024);
    tokio::spawn(async move {
        let service =
            hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let serve = serve.clone();
                async move {
                    let mut request = request.map(|b| b.map_err(Into::into).boxed_unsync());
                    Ok::<_, std::convert::Infallible>(serve(&mut request))
                }
            });
        let http1 = hyper::server::conn::http1::Builder::new();
        let connection = http1.serve_connection(TokioIo::new(there), service);
        drop(connection.with_upgrades().await);
    });
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(here));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let mut request = http::Request::builder().uri("/exec");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(skiff_http::empty()).unwrap();
    let mut answer = sender.send_request(request).await.unwrap();
    let upgraded = if answer.status() == 101 {
        let raw = hyper::upgrade::on(&mut answer).await.unwrap();
        Some(TokioIo::new(raw))
    } else {
        None
    };
    (answer.map(drop), upgraded)
}

fn exec(request: &mut http::Request<Body>) -> http::Response<Body> {
    remotecommand::serve(request, ALL, shout)
}

const SPDY: [(&str, &str); 2] = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
const WEBSOCKET: [(&str, &str); 4] = [
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

async fn websocket(
    protocol: &str,
    serve: impl Fn(&mut http::Request<Body>) -> http::Response<Body> + Send + Sync + Clone + 'static,
) -> WebSocketStream<Upgraded> {
    let mut headers = WEBSOCKET.to_vec();
    headers.push(("sec-websocket-protocol", protocol));
    let (answer, upgraded) = request(&headers, serve).await;
    assert_eq!(answer.headers()["sec-websocket-protocol"], protocol);
    assert_eq!(
        answer.headers()["sec-websocket-accept"],
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    );
    WebSocketStream::from_raw_socket(upgraded.unwrap(), Role::Client, None).await
}

#[tokio::test]
async fn exec_over_spdy() {
    let mut headers = SPDY.to_vec();
    for protocol in [
        "v9.channel.k8s.io",
        "v4.channel.k8s.io",
        "v3.channel.k8s.io",
    ] {
        headers.push(("x-stream-protocol-version", protocol));
    }
    let (answer, upgraded) = request(&headers, exec).await;
    assert_eq!(
        answer.headers()["x-stream-protocol-version"],
        "v4.channel.k8s.io"
    );
    let (connection, _accept) = Connection::client(upgraded.unwrap());
    let mut streams = Vec::new();
    for kind in ["error", "stdin", "stdout", "stderr"] {
        let headers = Headers::from([("streamtype", kind)]);
        streams.push(connection.open(headers).await.unwrap());
    }
    let [error, stdin, stdout, stderr] = &mut streams[..] else {
        panic!();
    };
    stdin.write_all(b"quiet").await.unwrap();
    stdin.shutdown().await.unwrap();
    for (stream, expected) in [(stdout, "QUIET"), (stderr, "hello")] {
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, expected);
    }
    let mut text = String::new();
    error.read_to_string(&mut text).await.unwrap();
    assert!(text.contains(r#""message":"7""#), "{text}");
}

#[tokio::test]
async fn exec_over_websocket() {
    let mut socket = websocket("v5.channel.k8s.io", exec).await;
    socket
        .send(Message::binary(b"\0quiet".to_vec()))
        .await
        .unwrap();
    socket.send(Message::Ping("p".into())).await.unwrap();
    socket.send(Message::binary(vec![255, 0])).await.unwrap();
    let (mut channels, mut closed, mut ponged) = (vec![Vec::new(); 4], false, false);
    while let Some(message) = socket.next().await {
        match message.unwrap() {
            Message::Binary(bytes) => {
                channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..])
            }
            Message::Close(_) => closed = true,
            Message::Pong(_) => ponged = true,
            other => panic!("{other}"),
        }
    }
    assert!(closed && ponged);
    assert_eq!(channels[1], b"QUIET");
    assert_eq!(channels[2], b"hello");
    let error = String::from_utf8(channels[3].clone()).unwrap();
    assert!(error.contains("NonZeroExitCode"), "{error}");
}

#[tokio::test]
async fn a_terminal_over_base64_tells_its_size() {
    let wanted = Wanted {
        stdout: true,
        tty: true,
        ..Wanted::default()
    };
    let mut socket = websocket("v4.base64.channel.k8s.io", move |request: &mut _| {
        remotecommand::serve(request, wanted, |mut session| async move {
            let (columns, rows) = session.resize.recv().await.unwrap();
            let text = format!("{columns}x{rows}");
            let mut stdout = session.stdout.unwrap();
            stdout.write_all(text.as_bytes()).await.unwrap();
            session.done.finish(Err("no such container".into())).await;
        })
    })
    .await;
    use base64::Engine as _;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let size = format!("4{}", encode(r#"{"Width":81,"Height":25}"#));
    socket.send(Message::text(size)).await.unwrap();
    let mut texts = Vec::new();
    while let Some(Ok(Message::Text(text))) = socket.next().await {
        texts.push(text.to_string());
    }
    assert_eq!(
        texts[..2],
        ["1".to_owned(), format!("1{}", encode("81x25"))]
    );
    assert!(texts[2].starts_with('3'));
}

#[tokio::test]
async fn what_cannot_be_agreed_is_refused_in_words() {
    assert_eq!(request(&[], exec).await.0.status(), 400);
    let mut headers = SPDY.to_vec();
    headers.push(("x-stream-protocol-version", "v9"));
    assert_eq!(request(&headers, exec).await.0.status(), 403);
    let mut headers = WEBSOCKET.to_vec();
    headers.push(("sec-websocket-protocol", "chat"));
    assert_eq!(request(&headers, exec).await.0.status(), 403);
    assert_eq!(request(&WEBSOCKET[..3], exec).await.0.status(), 400);
}

/// Dials an echo on port 80, and fails on others.
fn forward(request: &mut http::Request<Body>) -> http::Response<Body> {
    portforward::serve(request, vec![80, 81], |port| async move {
        if port != 80 {
            return Err(format!("nobody listens on port {port}"));
        }
        let (here, there) = tokio::io::duplex(1024);
        tokio::spawn(async move {
            let (mut from, mut to) = tokio::io::split(there);
            tokio::io::copy(&mut from, &mut to).await.unwrap();
            to.shutdown().await.unwrap();
        });
        Ok(Box::new(here) as Box<dyn portforward::Duplex>)
    })
}

async fn forwarded(connection: Connection) {
    for (request, port) in [("0", "80"), ("1", "81"), ("2", "80")] {
        let headers =
            |kind| Headers::from([("streamtype", kind), ("port", port), ("requestid", request)]);
        let mut error = connection.open(headers("error")).await.unwrap();
        let mut data = connection.open(headers("data")).await.unwrap();
        error.shutdown().await.unwrap();
        data.write_all(b"ping").await.unwrap();
        data.shutdown().await.unwrap();
        let (mut echo, mut failure) = (String::new(), String::new());
        data.read_to_string(&mut echo).await.unwrap();
        error.read_to_string(&mut failure).await.unwrap();
        match port {
            "80" => assert_eq!((&*echo, &*failure), ("ping", "")),
            _ => assert_eq!((&*echo, &*failure), ("", "nobody listens on port 81")),
        }
    }
}

#[tokio::test]
async fn ports_are_forwarded_over_spdy() {
    let mut headers = SPDY.to_vec();
    headers.push(("x-stream-protocol-version", "portforward.k8s.io"));
    let (_, upgraded) = request(&headers, forward).await;
    forwarded(Connection::client(upgraded.unwrap()).0).await;
}

#[tokio::test]
async fn ports_are_forwarded_over_numbered_channels() {
    let mut socket = websocket("v4.channel.k8s.io", forward).await;
    socket
        .send(Message::binary(b"\0ping".to_vec()))
        .await
        .unwrap();
    let mut channels = vec![Vec::new(); 4];
    while channels[0].len() < 6 || channels[3].len() < 27 {
        let message = socket.next().await.unwrap().unwrap();
        let bytes = message.into_data();
        channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]);
    }
    assert_eq!(channels[0], b"\x50\0ping");
    assert_eq!(channels[1], b"\x50\0");
    assert_eq!(channels[3], b"\x51\0nobody listens on port 81");
}
