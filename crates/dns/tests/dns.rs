//! Real questions over UDP and TCP, in a network namespace of their own, to a server fed by a fixed API.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use client::{Client, Transport};
use dns::Options;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use http::{Request, Response};
use net::namespace::{self, Fresh};
use serde_json::{Value, json};
use skiff_http::{Body, body};
use world::{Shutdown, World};

const DNS: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 10);
const UPSTREAM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);

/// Answers lists; its watches never say anything.
struct FixedApi;

fn services() -> Value {
    json!([
        {"metadata": {"name": "web", "namespace": "default", "resourceVersion": "1"},
         "spec": {"clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"],
                  "ports": [{"name": "http", "protocol": "TCP", "port": 80}]}},
        {"metadata": {"name": "db", "namespace": "default", "resourceVersion": "1"},
         "spec": {"clusterIP": "None", "ports": [{"name": "sql", "protocol": "TCP", "port": 5432}]}},
        {"metadata": {"name": "many", "namespace": "default", "resourceVersion": "1"},
         "spec": {"clusterIP": "None"}},
        {"metadata": {"name": "out", "namespace": "default", "resourceVersion": "1"},
         "spec": {"type": "ExternalName", "externalName": "www.example.com"}},
    ])
}

fn slices() -> Value {
    let many: Vec<Value> = (1..=100)
        .map(|i| json!({"addresses": [format!("10.42.9.{i}")], "conditions": {"ready": true}}))
        .collect();
    json!([
        {"metadata": {"name": "db-1", "namespace": "default", "resourceVersion": "1",
                      "labels": {"kubernetes.io/service-name": "db"}},
         "addressType": "IPv4", "ports": [{"name": "sql", "protocol": "TCP", "port": 5432}],
         "endpoints": [
            {"addresses": ["10.42.0.5"], "hostname": "db-0", "conditions": {"ready": true}},
            {"addresses": ["10.42.0.6"], "conditions": {"ready": true}},
            {"addresses": ["10.42.0.7"], "conditions": {"ready": false}}]},
        {"metadata": {"name": "many-1", "namespace": "default", "resourceVersion": "1",
                      "labels": {"kubernetes.io/service-name": "many"}},
         "addressType": "IPv4", "ports": null, "endpoints": many},
    ])
}

#[async_trait::async_trait]
impl Transport for FixedApi {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, client::Error> {
        if request.uri().query().unwrap_or("").contains("watch=true") {
            std::future::pending::<()>().await;
        }
        let items = match request.uri().path() {
            "/api/v1/services" => services(),
            "/apis/discovery.k8s.io/v1/endpointslices" => slices(),
            other => panic!("{other}"),
        };
        let list = json!({"metadata": {"resourceVersion": "1"}, "items": items}).to_string();
        Ok(Response::new(body::full(bytes::Bytes::from(list))))
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn ask(name: &str, kind: RecordType) -> Message {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    socket.connect((DNS, 53)).unwrap();
    socket
        .send(&question(name, kind).to_vec().unwrap())
        .unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(answer.metadata.id, 4711);
    answer
}

fn shown(name: &str, kind: RecordType) -> String {
    let answer = ask(name, kind);
    let mut lines: Vec<String> = answer.answers.iter().map(|r| r.data.to_string()).collect();
    lines.sort();
    format!("{} {}", answer.metadata.response_code, lines.join(", "))
        .trim_end()
        .to_owned()
}

/// A name server that knows one name.
fn serve_upstream() {
    let socket = UdpSocket::bind((UPSTREAM, 53)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let asked = query.queries[0].clone();
            let mut answer = Message::response(query.metadata.id, OpCode::Query);
            answer.add_query(asked.clone());
            if asked
                .name()
                .to_ascii()
                .eq_ignore_ascii_case("www.example.com.")
            {
                let data = RData::A(hickory_proto::rr::rdata::A([192, 0, 2, 80].into()));
                answer.add_answer(Record::from_rdata(asked.name().clone(), 60, data));
            } else {
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
            socket.send_to(&answer.to_vec().unwrap(), from).unwrap();
        }
    });
}

#[test]
fn questions_are_answered_as_the_specification_says() {
    let node = Fresh::new().unwrap();
    let outcome = node.run(|| {
        std::panic::catch_unwind(|| {
            namespace::furnish((Ipv4Addr::new(192, 0, 2, 2), 24)).unwrap();
            serve_upstream();
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let dir = tempfile::tempdir().unwrap();
            let resolv_conf = dir.path().join("resolv.conf");
            std::fs::write(
                &resolv_conf,
                format!("# ours\nnameserver {DNS}\nnameserver {UPSTREAM}\n"),
            )
            .unwrap();
            let guard = runtime.enter();
            dns::start(Options {
                world: World::real(),
                shutdown: Shutdown::new(),
                client: Client::new(FixedApi),
                listen: vec![SocketAddr::from((DNS, 53))],
                cluster_domain: "cluster.local".into(),
                service_cidr: (Ipv4Addr::new(10, 43, 0, 0), 16),
                resolv_conf,
            })
            .unwrap();
            drop(guard);
            while ask("none.default.svc.cluster.local.", RecordType::A)
                .metadata
                .response_code
                == ResponseCode::ServFail
            {
                runtime.block_on(async { tokio::time::sleep(Duration::from_millis(5)).await });
            }
            check();
        })
    });
    if let Err(panic) = outcome.unwrap() {
        std::panic::resume_unwind(panic);
    }
}

fn check() {
    let ok = ResponseCode::NoError.to_string();
    let absent = ResponseCode::NXDomain.to_string();
    let cases = [
        (
            "web.default.svc.cluster.local.",
            RecordType::A,
            format!("{ok} 10.43.0.7"),
        ),
        (
            "WEB.Default.svc.Cluster.local.",
            RecordType::A,
            format!("{ok} 10.43.0.7"),
        ),
        (
            "web.default.svc.cluster.local.",
            RecordType::AAAA,
            ok.clone(),
        ),
        ("default.svc.cluster.local.", RecordType::A, ok.clone()),
        (
            "nobody.default.svc.cluster.local.",
            RecordType::A,
            absent.clone(),
        ),
        (
            "web.other.svc.cluster.local.",
            RecordType::A,
            absent.clone(),
        ),
        (
            "_http._tcp.web.default.svc.cluster.local.",
            RecordType::SRV,
            format!("{ok} 0 100 80 web.default.svc.cluster.local."),
        ),
        (
            "7.0.43.10.in-addr.arpa.",
            RecordType::PTR,
            format!("{ok} web.default.svc.cluster.local."),
        ),
        ("9.9.43.10.in-addr.arpa.", RecordType::PTR, absent.clone()),
        (
            "db.default.svc.cluster.local.",
            RecordType::A,
            format!("{ok} 10.42.0.5, 10.42.0.6"),
        ),
        (
            "db-0.db.default.svc.cluster.local.",
            RecordType::A,
            format!("{ok} 10.42.0.5"),
        ),
        (
            "10-42-0-6.db.default.svc.cluster.local.",
            RecordType::A,
            format!("{ok} 10.42.0.6"),
        ),
        (
            "_sql._tcp.db.default.svc.cluster.local.",
            RecordType::SRV,
            format!(
                "{ok} 0 100 5432 10-42-0-6.db.default.svc.cluster.local., 0 100 5432 db-0.db.default.svc.cluster.local."
            ),
        ),
        (
            "5.0.42.10.in-addr.arpa.",
            RecordType::PTR,
            format!("{ok} db-0.db.default.svc.cluster.local."),
        ),
        (
            "10-42-0-5.default.pod.cluster.local.",
            RecordType::A,
            format!("{ok} 10.42.0.5"),
        ),
        (
            "dns-version.cluster.local.",
            RecordType::TXT,
            format!("{ok} 1.1.0"),
        ),
        (
            "www.example.com.",
            RecordType::A,
            format!("{ok} 192.0.2.80"),
        ),
        ("absent.example.com.", RecordType::A, absent),
        (
            "out.default.svc.cluster.local.",
            RecordType::A,
            format!("{ok} 192.0.2.80, www.example.com."),
        ),
        (
            "out.default.svc.cluster.local.",
            RecordType::CNAME,
            format!("{ok} www.example.com."),
        ),
    ];
    for (name, kind, expected) in cases {
        assert_eq!(shown(name, kind), expected, "{name} {kind}");
    }
    let denial = ask("nobody.default.svc.cluster.local.", RecordType::A);
    assert!(denial.metadata.authoritative);
    assert_eq!(denial.authorities[0].record_type(), RecordType::SOA);
    assert_eq!(
        ask("web.default.svc.cluster.local.", RecordType::A).answers[0].ttl,
        5
    );

    // Too long for UDP: the client comes again by TCP.
    let short = ask("many.default.svc.cluster.local.", RecordType::A);
    assert!(short.metadata.truncation);
    let bytes = question("many.default.svc.cluster.local.", RecordType::A)
        .to_vec()
        .unwrap();
    let mut stream = TcpStream::connect((DNS, 53)).unwrap();
    stream
        .write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes())
        .unwrap();
    stream.write_all(&bytes).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut whole = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut whole).unwrap();
    assert_eq!(Message::from_vec(&whole).unwrap().answers.len(), 100);

    // Rubbish is survived.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.send_to(&[0xff; 7], (DNS, 53)).unwrap();
    assert_eq!(
        ask("web.default.svc.cluster.local.", RecordType::A)
            .answers
            .len(),
        1
    );
}
