//! Traces of requests reach an OTLP collector, and their senders decide about them if they may.

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use test_support::Node;

type Received = Arc<Mutex<Vec<Bytes>>>;

/// Collects what is exported to a socket.
fn collect(socket: &Path) -> Received {
    let received = Received::default();
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    let kept = received.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async move {
            let listener = tokio::net::UnixListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let kept = kept.clone();
                let service = service_fn(move |request| export(request, kept.clone()));
                tokio::spawn(
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
    });
    received
}

/// One call of OTLP's TraceService: an empty answer in one gRPC frame.
async fn export(
    request: http::Request<Incoming>,
    kept: Received,
) -> Result<http::Response<impl http_body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    assert_eq!(
        request.uri().path(),
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    );
    let sent = request.into_body().collect().await.unwrap().to_bytes();
    kept.lock().unwrap().push(sent);
    let status = http::HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        http::HeaderValue::from_static("0"),
    )]);
    let answer = Full::new(Bytes::from_static(&[0; 5])).with_trailers(async { Some(Ok(status)) });
    let answer = http::Response::builder()
        .header("content-type", "application/grpc")
        .body(answer);
    Ok(answer.unwrap())
}

fn has(received: &Received, part: &[u8]) -> bool {
    let received = received.lock().unwrap();
    received
        .iter()
        .any(|message| message.windows(part.len()).any(|w| w == part))
}

#[test]
fn a_request_is_traced_through_the_store_if_its_sender_may_ask_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, config) = (
        dir.path().join("otel.sock"),
        dir.path().join("tracing.yaml"),
    );
    let received = collect(&socket);
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: TracingConfiguration\nendpoint: unix://{}\n",
        socket.display()
    );
    std::fs::write(&config, text).unwrap();
    let node = Node::start_with(
        "traced",
        &format!("--tracing-config-file {}", config.display()),
    );
    let get = |user: &str, group: &str, trace: &str| {
        let file = node.dir().join(format!("{user}.kubeconfig"));
        std::fs::write(&file, node.kubeconfig_for(user, group)).unwrap();
        let field = |name: &str| {
            let view = "kubectl config view --raw --minify --flatten -o";
            format!(
                "KUBECONFIG={} {view} jsonpath='{{.users[0].user.{name}}}' | base64 -d > $DIR/{name}",
                file.display()
            )
        };
        node.sh(&format!(
            "{}; {}; curl -ks --cert $DIR/client-certificate-data --key $DIR/client-key-data \
             -H 'traceparent: 00-{trace}-00f067aa0ba902b7-01' \
             https://127.0.0.1:6443/api/v1/namespaces/kube-system/services/kube-dns",
            field("client-certificate-data"),
            field("client-key-data"),
        ))
    };
    let (others, own) = (
        "0af7651916cd43dd8448eb211c80319c",
        "4bf92f3577b34da6a3ce929d0e0e4736",
    );
    assert!(get("somebody", "", others).contains("cannot get resource"));
    assert!(get("boss", "system:masters", own).contains("clusterIP"));
    let bytes = |hex: &str| u128::from_str_radix(hex, 16).unwrap().to_be_bytes();
    node.until("the trace to arrive", || has(&received, &bytes(own)));
    for part in [
        "GET /api/v1/namespaces/{:namespace}/services/{:name}",
        "store.get",
        "/registry/services/specs/kube-system/kube-dns",
    ] {
        assert!(has(&received, part.as_bytes()), "{part}");
    }
    assert!(
        !has(&received, &bytes(others)),
        "a stranger decided what is traced"
    );
    node.kill_server();
    let log = node.log();
    assert!(!log.contains("ERROR"), "{log}");
}
