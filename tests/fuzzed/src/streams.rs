//! The streaming protocols: SPDY frames, and whole `exec` sessions over SPDY and WebSocket.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use skiff_http::remotecommand::{self, Wanted};
use skiff_http::spdy::{Decoder, Encoder, Frame, Headers};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::made::Dice;

/// The frames in `data`, which arrives in pieces of at most `piece` bytes; neighbouring pieces of data are one frame. The
/// second value: whether the decoder gave up.
fn decode(data: &[u8], piece: usize) -> (Vec<Frame>, bool) {
    let (mut decoder, mut bytes, mut frames) = (Decoder::default(), BytesMut::new(), Vec::new());
    for part in data.chunks(piece.max(1)) {
        bytes.extend_from_slice(part);
        loop {
            match decoder.decode(&mut bytes) {
                Ok(Some(frame)) => join(&mut frames, frame),
                Ok(None) => break,
                Err(why) => {
                    assert!(!why.to_string().is_empty());
                    return (frames, true);
                }
            }
        }
    }
    (frames, false)
}

fn join(frames: &mut Vec<Frame>, frame: Frame) {
    if let Frame::Data { stream, fin, bytes } = &frame
        && let Some(Frame::Data {
            stream: before,
            fin: false,
            bytes: old,
        }) = frames.last()
        && before == stream
    {
        let bytes = Bytes::from([&old[..], &bytes[..]].concat());
        let joined = Frame::Data {
            stream: *stream,
            fin: *fin,
            bytes,
        };
        frames.pop();
        return frames.push(joined);
    }
    frames.push(frame);
}

/// However the bytes arrive, they are the same frames; and written again, they are read the same.
pub fn spdy_frames(data: &[u8]) {
    let (whole, broke) = decode(data, usize::MAX);
    assert_eq!(decode(data, 1), (whole.clone(), broke));
    assert_eq!(decode(data, 7), (whole.clone(), broke));
    let (mut encoder, mut bytes) = (Encoder::default(), BytesMut::new());
    let known = whole
        .into_iter()
        .filter(|f| !matches!(f, Frame::Unknown(_)));
    let mut frames = Vec::new();
    for frame in known {
        if let Frame::SynStream { headers, .. }
        | Frame::SynReply { headers, .. }
        | Frame::Headers { headers, .. } = &frame
        {
            let bytes: usize = headers.0.iter().map(|(n, v)| n.len() + v.len()).sum();
            if bytes > 16 << 10 {
                return;
            }
        }
        if let Err(why) = encoder.encode(&frame, &mut bytes) {
            panic!("{frame:?} cannot be written: {why}");
        }
        join(&mut frames, frame);
    }
    assert_eq!(decode(&bytes, usize::MAX), (frames, false));
}

/// What the process of a session got.
#[derive(Default)]
struct Seen {
    stdin: Vec<u8>,
    ended: bool,
}

/// Sends an upgrade and `data` to a server of `exec`, whose process sends its input back, and hangs up. The second value is
/// what the server sent after its head. Panics if the server does not end.
fn session(upgrade: &str, data: Vec<u8>) -> (Seen, Vec<u8>) {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let runtime = crate::list::runtime();
    let answer = runtime.block_on(async {
        let (client, server) = tokio::io::duplex(1 << 20);
        let (process, done) = (seen.clone(), Arc::new(tokio::sync::Notify::new()));
        let ended = done.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            use http_body_util::BodyExt as _;
            let (process, ended) = (process.clone(), ended.clone());
            let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            async move {
                let wanted = Wanted {
                    stdin: true,
                    stdout: true,
                    stderr: false,
                    tty: true,
                };
                let answer =
                    remotecommand::serve(&mut request, wanted, move |session| async move {
                        echo(session, &process).await;
                        ended.notify_one();
                    });
                Ok::<Response<skiff_http::Body>, std::convert::Infallible>(answer)
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(server), service)
            .with_upgrades();
        let served = tokio::spawn(connection);
        let (mut from, mut to) = tokio::io::split(client);
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n{upgrade}\r\n\r\n");
        let sent = tokio::spawn(async move {
            let _ = to.write_all(head.as_bytes()).await;
            let _ = to.write_all(&data).await;
            // The session must take what came before it sees the end.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let _ = to.shutdown().await;
        });
        let mut answer = Vec::new();
        let all = async {
            let _ = from.read_to_end(&mut answer).await;
            let _ = sent.await;
            let _ = served.await;
        };
        let patience = Duration::from_secs(600);
        assert!(
            tokio::time::timeout(patience, all).await.is_ok(),
            "a session does not end with its client"
        );
        let _ = tokio::time::timeout(patience, done.notified()).await;
        answer
    });
    drop(runtime);
    let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    let head = answer.windows(4).position(|w| w == b"\r\n\r\n");
    (
        seen,
        answer
            .get(head.map_or(0, |at| at + 4)..)
            .unwrap_or_default()
            .to_vec(),
    )
}

fn took(seen: &Mutex<Seen>, bytes: &[u8]) {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.stdin.extend_from_slice(bytes);
}

async fn echo(mut session: remotecommand::Session, seen: &Mutex<Seen>) {
    let mut piece = [0; 4096];
    if let (Some(stdin), Some(stdout)) = (&mut session.stdin, &mut session.stdout) {
        while let Ok(n @ 1..) = stdin.read(&mut piece).await {
            took(seen, &piece[..n]);
            if stdout.write_all(&piece[..n]).await.is_err() {
                break;
            }
        }
    }
    session.done.finish(Ok(0)).await;
    seen.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
}

const SPDY: &str = "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io";

/// A session over SPDY ends with its client whatever it sends. An even first byte: the rest are raw frames. An odd one: the
/// rest says which frames come after the session's streams, and its input arrives.
pub fn spdy_exec(data: &[u8]) {
    let mut dice = Dice::new(data);
    if dice.byte() & 1 == 0 {
        session(SPDY, dice.rest().to_vec());
        return;
    }
    let (mut encoder, mut bytes) = (Encoder::default(), BytesMut::new());
    let mut send = |frame: &Frame| {
        if let Err(why) = encoder.encode(frame, &mut bytes) {
            panic!("{frame:?} cannot be written: {why}");
        }
    };
    for (stream, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "resize")] {
        let headers = Headers::from([("streamtype", kind)]);
        send(&Frame::SynStream {
            stream,
            fin: false,
            headers,
        });
    }
    let mut input = Vec::new();
    let (mut open, mut sure) = (true, true);
    while !dice.is_empty() {
        let stream = dice.one(&[3, 3, 3, 1, 5, 7, 9, 2, 0]);
        let fin = dice.byte() > 240;
        let frame = match dice.below(8) {
            0..=3 => {
                let n = dice.below(64);
                let bytes = Bytes::copy_from_slice(dice.take(n));
                if stream == 3 && open {
                    input.extend_from_slice(&bytes);
                }
                Frame::Data { stream, fin, bytes }
            }
            4 => Frame::Ping(dice.byte().into()),
            5 => Frame::WindowUpdate {
                stream,
                delta: dice.byte().into(),
            },
            6 => {
                let headers = Headers::from([("streamtype", dice.one(&["stdin", "x", ""]))]);
                match dice.below(3) {
                    0 => Frame::SynReply {
                        stream,
                        fin,
                        headers,
                    },
                    1 => Frame::Headers {
                        stream,
                        fin,
                        headers,
                    },
                    _ => Frame::SynStream {
                        stream,
                        fin,
                        headers,
                    },
                }
            }
            _ => match dice.below(3) {
                0 => Frame::Reset { stream, status: 1 },
                1 => Frame::GoAway {
                    last: stream,
                    status: 0,
                },
                _ => Frame::Settings,
            },
        };
        // Resets, and streams opened twice, may end the session early.
        sure &= matches!(
            frame,
            Frame::Data { .. } | Frame::Ping(_) | Frame::WindowUpdate { .. } | Frame::Settings
        );
        sure &= !matches!(&frame, Frame::Data { stream: 7, .. });
        open &= !(fin && stream == 3 && matches!(frame, Frame::Data { .. }));
        send(&frame);
    }
    let (seen, _) = session(SPDY, bytes.to_vec());
    assert!(seen.ended, "a session whose streams are open does not end");
    if sure {
        assert_eq!(seen.stdin, input, "input is lost or made up");
    }
}

const WEBSOCKET: &str = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io";

fn masked(out: &mut Vec<u8>, head: u8, payload: &[u8]) {
    out.push(head);
    match u8::try_from(payload.len()) {
        Ok(short @ 0..126) => out.push(0x80 | short),
        _ => {
            out.push(0x80 | 126);
            out.extend((payload.len() as u16).to_be_bytes());
        }
    }
    let mask = [1u8, 2, 3, 4];
    out.extend(mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
}

/// A session over WebSocket ends with its client whatever it sends. An even first byte: the rest are raw frames. An odd one:
/// the rest says which well-formed frames come, and the session's input arrives.
pub fn websocket_exec(data: &[u8]) {
    let mut dice = Dice::new(data);
    if dice.byte() & 1 == 0 {
        session(WEBSOCKET, dice.rest().to_vec());
        return;
    }
    let (mut bytes, mut input) = (Vec::new(), Vec::new());
    let (mut open, mut sure) = (true, true);
    while !dice.is_empty() {
        let channel = dice.one(&[0, 0, 0, 1, 4, 200, 255]);
        let n = dice.below(200);
        let mut payload = vec![channel];
        payload.extend_from_slice(dice.take(n));
        match dice.below(6) {
            0..=2 => {
                if channel == 0 && open {
                    input.extend_from_slice(&payload[1..]);
                }
                open &= !(channel == 255 && payload.get(1) == Some(&0));
                sure &= channel != 4;
                masked(&mut bytes, 0x82, &payload);
            }
            // In two fragments, with a ping in between.
            3 => {
                if channel == 0 && open {
                    input.extend_from_slice(&payload[1..]);
                }
                open &= !(channel == 255 && payload.get(1) == Some(&0));
                sure &= channel != 4;
                let (first, second) = payload.split_at(payload.len() / 2);
                masked(&mut bytes, 0x02, first);
                masked(&mut bytes, 0x89, b"ping");
                masked(&mut bytes, 0x80, second);
            }
            4 => masked(&mut bytes, 0x8a, b"pong"),
            _ => {
                sure = false;
                masked(&mut bytes, dice.byte(), &payload);
            }
        }
    }
    let (seen, _) = session(WEBSOCKET, bytes);
    assert!(seen.ended, "a session does not end with its client");
    if sure {
        assert_eq!(seen.stdin, input, "input is lost or made up");
    }
}
