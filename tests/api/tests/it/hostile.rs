//! Clients that mean harm, or are broken, over the real listener: each is cut off or refused, costs a bounded amount of
//! memory, and disturbs nobody else. Time stands still while nothing happens, so that limits of minutes take none.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use test_support::Server;
use test_support::api_server::ADMIN;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// What upstream gives a connection that has no request.
const IDLE: Duration = Duration::from_secs(90);
/// What upstream gives a request that is no stream.
const REQUEST: Duration = Duration::from_secs(60);

/// An API server and where it listens.
struct Target {
    server: Server,
    address: SocketAddr,
    /// An administrator's, for HTTP/1.1 and for HTTP/2.
    tls: [Arc<ClientConfig>; 2],
}

impl Target {
    async fn start() -> Self {
        let server = Server::start().await;
        let address = server.listen(server.api.clone()).await;
        let tls = [true, false].map(|http1_only| server.admin_tls_of(http1_only));
        Self {
            server,
            address,
            tls,
        }
    }

    /// A connection as the administrator, which takes little at once.
    async fn connect(&self, http2: bool) -> TlsStream<TcpStream> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8 << 10).unwrap();
        let stream = socket.connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
        let tls = self.tls[usize::from(http2)].clone();
        let connector = tokio_rustls::TlsConnector::from(tls);
        connector.connect(name, stream).await.unwrap()
    }

    /// That somebody else is still served.
    async fn serves_others(&self) {
        let mut other = self.connect(false).await;
        let request = "GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        other.write_all(request.as_bytes()).await.unwrap();
        let answer = read_to_end(&mut other).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }

    async fn put_maps(&self, names: std::ops::Range<usize>, bytes: usize) {
        for i in names {
            let map =
                json!({"metadata": {"name": format!("m{i}")}, "data": {"x": "x".repeat(bytes)}});
            drop(self.server.send("POST", MAPS, &map).await.ok());
        }
    }
}

/// What comes until the server closes, or breaks the connection.
async fn read_to_end(stream: &mut TlsStream<TcpStream>) -> String {
    let mut all = Vec::new();
    // A connection that is cut ends without TLS's farewell.
    let _ = stream.read_to_end(&mut all).await;
    String::from_utf8_lossy(&all).into_owned()
}

/// How long something took, in whole seconds of the test's clock.
fn took(since: Instant) -> u64 {
    since.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_never_ends_is_cut_off() {
    let target = Target::start().await;
    let start = Instant::now();
    let mut silent = TcpStream::connect(target.address).await.unwrap();
    let mut slow = TcpStream::connect(target.address).await.unwrap();
    let mut nothing = [0; 16];
    // The beginning of a ClientHello.
    for byte in [0x16, 3, 1, 2, 0, 1] {
        slow.write_all(&[byte]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(silent.read(&mut nothing).await.unwrap_or(0), 0);
    assert_eq!(slow.read(&mut nothing).await.unwrap_or(0), 0);
    assert!(took(start) <= 11, "{} s", took(start));
    target.serves_others().await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_request_is_closed() {
    let target = Target::start().await;
    for http2 in [false, true] {
        let start = Instant::now();
        let mut idle = target.connect(http2).await;
        read_to_end(&mut idle).await;
        let (low, high) = (IDLE.as_secs(), IDLE.as_secs() + 5);
        assert!((low..=high).contains(&took(start)), "{} s", took(start));
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_comes_byte_by_byte_is_cut_off() {
    let target = Target::start().await;
    let start = Instant::now();
    let (mut from, mut to) = tokio::io::split(target.connect(false).await);
    let dripping = tokio::spawn(async move {
        for byte in b"GET /healthz HTTP/1.1\r\nHost: "
            .iter()
            .chain([b'a'; 1000].iter())
        {
            if to.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        panic!("the server waits for ever");
    });
    let mut all = Vec::new();
    let _ = from.read_to_end(&mut all).await;
    assert!(took(start) <= IDLE.as_secs() + 5, "{} s", took(start));
    dripping.await.unwrap();
    target.serves_others().await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_byte_by_byte_times_out() {
    let target = Target::start().await;
    let start = Instant::now();
    let (mut from, mut to) = tokio::io::split(target.connect(false).await);
    let dripping = tokio::spawn(async move {
        let head = format!("POST {MAPS} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n");
        to.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..900 {
            if to.write_all(b" ").await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        panic!("the server waits for ever");
    });
    let mut all = Vec::new();
    let _ = from.read_to_end(&mut all).await;
    let answer = String::from_utf8_lossy(&all);
    assert!(
        answer.starts_with("HTTP/1.1 504 Gateway Timeout"),
        "{answer}"
    );
    assert!(
        answer.contains("request did not complete within the allotted timeout"),
        "{answer}"
    );
    assert!(took(start) <= REQUEST.as_secs() + 5, "{} s", took(start));
    dripping.await.unwrap();
    target.serves_others().await;
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_never_reads_is_ended_and_others_see_everything() {
    let target = Target::start().await;
    let mut bad = target.connect(false).await;
    let request = format!("GET {MAPS}?watch=1&resourceVersion=1 HTTP/1.1\r\nHost: a\r\n\r\n");
    bad.write_all(request.as_bytes()).await.unwrap();
    let good = target.server.admin();
    let mut good = good
        .watch(&format!("{MAPS}?watch=1&resourceVersion=1"))
        .await
        .unwrap();
    let (changes, bytes) = (400, 100_000);
    let reading = tokio::spawn(async move {
        for i in 0..changes {
            let line = good.next_line().await.unwrap().unwrap();
            let event: Value = serde_json::from_slice(&line).unwrap();
            assert_eq!(event["object"]["metadata"]["name"], format!("m{i}"));
        }
    });
    target.put_maps(0..changes, bytes).await;
    reading.await.unwrap();
    tokio::time::sleep(3 * REQUEST).await;
    let got = read_to_end(&mut bad).await.len();
    assert!(got < changes * bytes, "the watcher got all {got} bytes");
    target.serves_others().await;
}

#[tokio::test(start_paused = true)]
async fn a_large_list_that_nobody_reads_is_cut_off() {
    let target = Target::start().await;
    target.put_maps(0..80, 300_000).await;
    for (pause, longest) in [
        (Duration::from_secs(600), 601),
        (Duration::from_secs(1), 90),
    ] {
        let mut slow = target.connect(false).await;
        let request = format!("GET {MAPS} HTTP/1.1\r\nHost: a\r\n\r\n");
        slow.write_all(request.as_bytes()).await.unwrap();
        let (start, mut got, mut piece) = (Instant::now(), 0, vec![0; 16 << 10]);
        // Reads, but little and seldom.
        loop {
            tokio::time::sleep(pause).await;
            match slow.read(&mut piece).await {
                Ok(n @ 1..) => got += n,
                _ => break,
            }
            if took(start) > longest {
                break;
            }
        }
        // What was on its way when the connection was cut can still be read.
        got += read_to_end(&mut slow).await.len();
        assert!(got < 80 * 300_000, "all {got} bytes came");
        target.serves_others().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_is_refused_in_upstreams_words() {
    let target = Target::start().await;
    let object = json!({"metadata": {"name": "a"}, "data": {"x": "x".repeat(3 << 20)}}).to_string();
    let mut client = target.connect(false).await;
    let head = format!(
        "POST {MAPS} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        object.len()
    );
    client.write_all(head.as_bytes()).await.unwrap();
    // The server answers as soon as it knows, which may be before all is sent.
    let (mut from, mut to) = tokio::io::split(client);
    let sending = tokio::spawn(async move { drop(to.write_all(object.as_bytes()).await) });
    let mut all = Vec::new();
    let _ = from.read_to_end(&mut all).await;
    let answer = String::from_utf8_lossy(&all);
    assert!(
        answer.starts_with("HTTP/1.1 413 Payload Too Large"),
        "{answer}"
    );
    let status: Value = serde_json::from_str(answer.lines().last().unwrap()).unwrap();
    assert_eq!(
        status["message"],
        "Request entity too large: limit is 3145728"
    );
    assert_eq!(status["reason"], "RequestEntityTooLarge");
    sending.abort();

    for (path, header, wanted) in [
        (
            "/readyz",
            "x".repeat((1 << 20) + 1),
            "HTTP/1.1 431 Request Header Fields Too Large",
        ),
        (
            &*format!("/{}", "x".repeat(70_000)),
            String::new(),
            "HTTP/1.1 414 URI Too Long",
        ),
        ("/readyz", "x".repeat(100_000), "HTTP/1.1 200 OK"),
    ] {
        let client = target.connect(false).await;
        let (mut from, mut to) = tokio::io::split(client);
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: {header}\r\n\r\n");
        let sending = tokio::spawn(async move { drop(to.write_all(request.as_bytes()).await) });
        let mut all = Vec::new();
        let _ = from.read_to_end(&mut all).await;
        let answer = String::from_utf8_lossy(&all);
        assert!(answer.starts_with(wanted), "{wanted}: {answer}");
        sending.abort();
    }
    target.serves_others().await;
}

#[tokio::test(start_paused = true)]
async fn deep_nesting_is_refused_by_name() {
    let server = Server::start().await;
    let n = 10_000;
    let json_array = format!("{{\"metadata\":{}{}}}", "[".repeat(n), "]".repeat(n));
    let json_object = format!("{}1{}", "{\"metadata\":".repeat(n), "}".repeat(n));
    let yaml_flow = format!("metadata: {}{}", "[".repeat(n), "]".repeat(n));
    let yaml_block: String = (0..2_000)
        .map(|i| format!("{}a:\n", " ".repeat(i)))
        .collect();
    let yaml_list = format!("metadata:\n{} 1", " -".repeat(n));
    // A CustomResourceDefinition's schema may hold itself, message in message.
    let mut schema = Vec::new();
    for _ in 0..n {
        // Field 28, `not`.
        let mut next = vec![0xe2, 0x01];
        let mut length = schema.len();
        while length >= 0x80 {
            next.push(length as u8 | 0x80);
            length >>= 7;
        }
        next.push(length as u8);
        next.append(&mut schema);
        schema = next;
        if schema.len() > 2 << 20 {
            break;
        }
    }
    let bomb = {
        let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for i in 1..12 {
            let many = vec![format!("*a{}", i - 1); 9].join(",");
            text += &format!("a{i}: &a{i} [{many}]\n");
        }
        text
    };
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let yaml = "application/yaml";
    for (what, path, content, body) in [
        (
            "JSON arrays",
            MAPS,
            "application/json",
            json_array.into_bytes(),
        ),
        (
            "JSON objects",
            MAPS,
            "application/json",
            json_object.clone().into_bytes(),
        ),
        ("YAML flow", MAPS, yaml, yaml_flow.into_bytes()),
        ("YAML block", MAPS, yaml, yaml_block.into_bytes()),
        ("YAML lists", MAPS, yaml, yaml_list.into_bytes()),
        ("YAML aliases", MAPS, yaml, bomb.into_bytes()),
        ("JSON as YAML", MAPS, yaml, json_object.into_bytes()),
        (
            "protobuf",
            crds,
            "application/vnd.kubernetes.protobuf",
            enveloped(&schema),
        ),
    ] {
        let answer = server
            .raw(
                ADMIN,
                "POST",
                path,
                &[("content-type", content)],
                body.clone(),
            )
            .await;
        assert_eq!(answer.code, 400, "{what}: {}", answer.status());
        let message = answer.body["message"].as_str().unwrap_or_default();
        assert!((10..400).contains(&message.len()), "{what}: {message}");
        let clear = ["depth", "nest", "recursion", "aliasing"]
            .iter()
            .any(|w| message.contains(w));
        assert!(clear, "{what}: {message}");
        let object = format!("{MAPS}/kube-root-ca.crt");
        for patch in [
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/apply-patch+yaml",
        ] {
            let path = format!("{object}?fieldManager=a");
            let answer = server
                .raw(
                    ADMIN,
                    "PATCH",
                    &path,
                    &[("content-type", patch)],
                    body.clone(),
                )
                .await;
            assert!(
                (400..500).contains(&answer.code),
                "{what} as {patch}: {}",
                answer.status()
            );
        }
    }
}

/// A CustomResourceDefinition with this message as the schema of its only version.
fn enveloped(schema: &[u8]) -> Vec<u8> {
    fn field(number: u8, inner: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        let mut length = inner.len();
        while length >= 0x80 {
            out.push(length as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(inner);
        out
    }
    let type_meta = [
        field(1, b"apiextensions.k8s.io/v1"),
        field(2, b"CustomResourceDefinition"),
    ]
    .concat();
    // spec.versions[].schema.openAPIV3Schema
    let spec = field(7, &field(4, &field(1, schema)));
    let object = field(2, &spec);
    [b"k8s\0".to_vec(), field(1, &type_meta), field(2, &object)].concat()
}

/// HTTP/2 by hand: a client library would not break the rules.
mod frames {
    pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RESET: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const GO_AWAY: u8 = 7;
    pub(super) const CONTINUATION: u8 = 9;
    pub(super) const END_STREAM: u8 = 1;
    pub(super) const ACK: u8 = 1;
    pub(super) const END_HEADERS: u8 = 4;

    pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        out.extend([kind, flags]);
        out.extend(stream.to_be_bytes());
        out.extend_from_slice(payload);
        out
    }

    /// An HPACK block of `GET path`.
    pub(super) fn get(path: &str) -> Vec<u8> {
        // :method GET, :scheme https, :authority a, :path as it is.
        let mut out = vec![0x82, 0x87, 0x41, 1, b'a', 0x04];
        assert!(path.len() < 127);
        out.push(u8::try_from(path.len()).unwrap());
        out.extend_from_slice(path.as_bytes());
        out
    }
}

/// What the server sent: kind, flags, stream, payload.
type Received = (u8, u8, u32, Vec<u8>);

async fn receive(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<Received> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.ok()?;
    let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some((head[3], head[4], id, payload))
}

/// Sends `bytes` after the preface; what the server sends until it says that the connection ends, or the test's time is up.
async fn http2(target: &Target, bytes: Vec<u8>) -> Vec<Received> {
    use frames::{GO_AWAY, PREFACE, SETTINGS, frame};
    let (mut from, mut to) = tokio::io::split(target.connect(true).await);
    let sending = tokio::spawn(async move {
        let hello = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        drop(to.write_all(&hello).await);
        drop(to.write_all(&bytes).await);
        // The connection stays open.
        std::future::pending::<()>().await;
    });
    let mut all = Vec::new();
    let reading = async {
        while let Some(received) = receive(&mut from).await {
            let last = received.0 == GO_AWAY;
            all.push(received);
            if last {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(20), reading).await;
    sending.abort();
    all
}

fn go_away(all: &[Received]) -> Option<u32> {
    let (.., payload) = all.iter().find(|(kind, ..)| *kind == frames::GO_AWAY)?;
    Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()))
}

const ENHANCE_YOUR_CALM: u32 = 11;

#[tokio::test(start_paused = true)]
async fn streams_that_are_reset_at_once_end_the_connection() {
    use frames::{END_HEADERS, END_STREAM, HEADERS, RESET, frame, get};
    let target = Target::start().await;
    let mut bytes = Vec::new();
    for i in 0..1000 {
        let stream = 2 * i + 1;
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &get(MAPS)));
        bytes.extend(frame(RESET, 0, stream, &8u32.to_be_bytes()));
    }
    let all = http2(&target, bytes).await;
    assert_eq!(go_away(&all), Some(ENHANCE_YOUR_CALM), "{all:?}");
    target.serves_others().await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_has_a_hundred_streams() {
    use frames::{END_HEADERS, END_STREAM, HEADERS, RESET, SETTINGS, frame, get};
    let target = Target::start().await;
    let watch = format!("{MAPS}?watch=1");
    let streams =
        (0..150).flat_map(|i| frame(HEADERS, END_HEADERS | END_STREAM, 2 * i + 1, &get(&watch)));
    let all = http2(&target, streams.collect()).await;
    let (.., settings) = all
        .iter()
        .find(|(kind, flags, ..)| *kind == SETTINGS && *flags == 0)
        .unwrap();
    let setting = |id: u16| {
        let found = settings.chunks(6).find(|s| s[..2] == id.to_be_bytes())?;
        Some(u32::from_be_bytes(found[2..].try_into().unwrap()))
    };
    assert_eq!(setting(3), Some(100), "MAX_CONCURRENT_STREAMS");
    assert_eq!(setting(4), Some(256 << 10), "INITIAL_WINDOW_SIZE");
    assert_eq!(setting(6), Some(1 << 20), "MAX_HEADER_LIST_SIZE");
    let answered = all.iter().filter(|(kind, ..)| *kind == HEADERS).count();
    let refused = all
        .iter()
        .filter(|(kind, .., code)| *kind == RESET && code[..] == 7u32.to_be_bytes());
    assert_eq!((answered, refused.count(), go_away(&all)), (100, 50, None));
    target.serves_others().await;
}

#[tokio::test(start_paused = true)]
async fn a_header_list_without_end_is_refused() {
    use frames::{CONTINUATION, END_HEADERS, END_STREAM, HEADERS, frame, get};
    let target = Target::start().await;
    // One name of 100 bytes and one value of 16,000, again and again, in a block that ends or does not.
    let mut field = vec![0x00, 100];
    field.extend([b'x'; 100]);
    field.extend([0x7f, 0x81, 0x7c]);
    field.extend(vec![b'y'; 127 + 1 + 0x7c * 128]);
    for ends in [true, false] {
        let mut bytes = frame(HEADERS, END_STREAM, 1, &get("/readyz"));
        for i in 0..200 {
            let flags = if ends && i == 199 { END_HEADERS } else { 0 };
            bytes.extend(frame(CONTINUATION, flags, 1, &field));
        }
        let all = http2(&target, bytes).await;
        let refused = all
            .iter()
            .any(|(kind, _, _, block)| *kind == HEADERS && block.windows(3).any(|w| w == b"431"));
        let ended = go_away(&all).is_some_and(|code| code != 0);
        assert!(refused || ended, "{all:?}");
    }
    target.serves_others().await;
}

#[tokio::test(start_paused = true)]
async fn an_http2_watcher_whose_window_stays_shut_is_ended() {
    use frames::{ACK, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, SETTINGS, frame, get};
    let target = Target::start().await;
    let (mut from, mut to) = tokio::io::split(target.connect(true).await);
    let watch = get(&format!("{MAPS}?watch=1&resourceVersion=1"));
    let hello = [
        PREFACE,
        &frame(SETTINGS, 0, 0, &[]),
        &frame(HEADERS, END_HEADERS | END_STREAM, 1, &watch),
    ];
    to.write_all(&hello.concat()).await.unwrap();
    // Lives, but never takes more than the first 64 KiB.
    let living = tokio::spawn(async move {
        let mut data = 0;
        while let Some((kind, flags, _, payload)) = receive(&mut from).await {
            match kind {
                PING if flags & ACK == 0 => {
                    to.write_all(&frame(PING, ACK, 0, &payload)).await.unwrap()
                }
                0 => data += payload.len(),
                _ => {}
            }
        }
        data
    });
    target.put_maps(0..200, 20_000).await;
    let start = Instant::now();
    let data = living.await.unwrap();
    assert_eq!(data, 65_535);
    assert!(took(start) <= 3 * REQUEST.as_secs(), "{} s", took(start));
    target.serves_others().await;
}

/// Bytes of this process's memory, from `/proc/self/statm`.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Both ends of so many connections, idle after one request, or as many as the limit of open files allows; bytes that one of
/// them takes of this process's memory.
async fn idle_connections(n: usize) -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let files = limit.maximum.unwrap_or(u64::MAX);
    setrlimit(Resource::Nofile, limit).unwrap();
    let n = n.min(usize::try_from(files / 2 - 400).unwrap());
    let target = Target::start().await;
    let mut all = Vec::with_capacity(n);
    let mut before = resident();
    for i in 0..n + 50 {
        // What is made once is not counted.
        if i == 50 {
            before = resident();
        }
        let mut client = target.connect(i % 2 == 0).await;
        if i % 2 == 1 {
            client
                .write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
                .await
                .unwrap();
            let mut answer = [0; 512];
            assert!(client.read(&mut answer).await.unwrap() > 0);
        } else {
            let hello = [frames::PREFACE, &frames::frame(frames::SETTINGS, 0, 0, &[])];
            client.write_all(&hello.concat()).await.unwrap();
            assert!(receive(&mut client).await.is_some());
        }
        all.push(client);
    }
    let each = resident().saturating_sub(before) / n;
    target.serves_others().await;
    println!("{each} bytes for both ends of each of {n} idle connections");
    drop(all);
    each
}

#[tokio::test]
async fn an_idle_connection_takes_little_memory() {
    let each = idle_connections(300).await;
    assert!(each < 128 << 10, "{each} bytes");
}

/// Slow without optimizations.
#[tokio::test]
#[ignore = "nightly: ten thousand handshakes"]
async fn ten_thousand_idle_connections() {
    let each = idle_connections(10_000).await;
    assert!(each < 128 << 10, "{each} bytes");
}
