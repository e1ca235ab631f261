//! Services between real network namespaces; nothing here sees or touches the machine's network.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use net::namespace::{self, Fresh};
use net::pod::{self, PodNetwork};
use proxy::rules::Table;
use proxy::state::{self, Node};
use proxy::views::{EndpointSliceView, ServiceView};
use serde_json::json;
use world::World;

const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

fn on_a_node<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let node = Fresh::new().unwrap();
    let outcome = node.run(move || {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            namespace::furnish((NODE, 24)).unwrap();
            net::sysctl::set("ipv4/conf/all/route_localnet", "1").unwrap();
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(test());
        }))
    });
    if let Err(panic) = outcome.unwrap() {
        std::panic::resume_unwind(panic);
    }
}

fn serve(text: &'static str) {
    let listener = TcpListener::bind("0.0.0.0:8080").unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip();
            write!(stream, "{text} {peer}").unwrap();
        }
    });
}

fn ask(to: &str) -> std::io::Result<String> {
    let to: SocketAddr = to.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// The servers that answer in a number of tries.
fn servers(to: &str) -> BTreeSet<String> {
    (0..40)
        .map(|_| ask(to).unwrap().split(' ').next().unwrap().to_owned())
        .collect()
}

fn service(name: &str, spec: serde_json::Value) -> ServiceView {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default"}, "spec": spec,
    }))
    .unwrap()
}

fn slice(of: &str, ips: &[IpAddr], port: u16) -> EndpointSliceView {
    let endpoints: Vec<_> = ips
        .iter()
        .map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}, "nodeName": "here"}))
        .collect();
    serde_json::from_value(json!({
        "metadata": {
            "name": of, "namespace": "default", "labels": {"kubernetes.io/service-name": of},
        },
        "addressType": "IPv4",
        "ports": [{"name": "", "protocol": "TCP", "port": port}],
        "endpoints": endpoints,
    }))
    .unwrap()
}

fn apply(table: &mut Table, service: &ServiceView, slices: &[EndpointSliceView]) {
    let node = Node {
        name: "here".into(),
        dns_ip: None,
    };
    let wanted = state::desired(service, slices.iter(), &node);
    table.apply(vec![(service.key(), wanted)]).unwrap();
}

fn shell(command: &str) -> String {
    let output = std::process::Command::new("sh")
        .args(["-c", command])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn services_reach_their_endpoints() {
    on_a_node(|| async {
        let state = tempfile::tempdir().unwrap();
        let network = PodNetwork::open(pod::Options {
            state_dir: state.path().to_owned(),
            cluster_cidr: Some((Ipv4Addr::new(10, 42, 0, 0), 16)),
            table: "skiff-pods".to_owned(),
            link_prefix: pod::LINK_PREFIX.to_owned(),
            world: World::real(),
        })
        .unwrap();
        network.set_pod_cidr((Ipv4Addr::new(10, 42, 0, 0), 24));
        let (a, b) = (Fresh::new().unwrap(), Fresh::new().unwrap());
        let ip_a = network.add("a", a.path()).await.unwrap();
        let ip_b = network.add("b", b.path()).await.unwrap();
        a.run(|| serve("a")).unwrap();
        b.run(|| serve("b")).unwrap();

        let mut table = Table::new(
            "skiff",
            (Ipv4Addr::new(10, 42, 0, 0), 16),
            (Ipv4Addr::new(10, 43, 0, 0), 16),
        );
        let web = service(
            "web",
            json!({"type": "NodePort", "clusterIP": "10.43.0.7", "externalIPs": ["198.51.100.9"],
                   "ports": [{"protocol": "TCP", "port": 80, "nodePort": 30080}]}),
        );
        // No endpoint yet: refused at once, from the node and from a Pod.
        apply(&mut table, &web, &[]);
        let refused = |r: std::io::Result<String>| {
            assert_eq!(r.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        };
        refused(ask("10.43.0.7:80"));
        refused(ask("192.0.2.2:30080"));
        refused(a.run(|| ask("10.43.0.7:80")).unwrap());

        apply(&mut table, &web, &[slice("web", &[ip_a, ip_b], 8080)]);
        println!("{}", shell("nft list table ip skiff"));
        let both = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        for address in [
            "10.43.0.7:80",
            "192.0.2.2:30080",
            "127.0.0.1:30080",
            "198.51.100.9:80",
        ] {
            assert_eq!(servers(address), both, "from the node to {address}");
        }
        // From Pods, each also reaching itself; a Pod's address is seen by another Pod.
        for pod in [&a, &b] {
            assert_eq!(pod.run(|| servers("10.43.0.7:80")).unwrap(), both);
            assert_eq!(pod.run(|| servers("192.0.2.2:30080")).unwrap(), both);
        }

        apply(&mut table, &web, &[slice("web", &[ip_b], 8080)]);
        assert_eq!(servers("10.43.0.7:80"), BTreeSet::from(["b".to_owned()]));
        assert_eq!(
            a.run(|| ask("10.43.0.7:80")).unwrap().unwrap(),
            "b 10.42.0.2",
            "the client's address is kept"
        );

        // The API server's Service: an endpoint on the node itself.
        serve("node");
        let api = service(
            "kubernetes",
            json!({"clusterIP": "10.43.0.1", "ports": [{"name": "https", "protocol": "TCP", "port": 443}]}),
        );
        let mut api_slice = slice("kubernetes", &[NODE.into()], 8080);
        api_slice.ports[0].name = Some("https".into());
        apply(&mut table, &api, &[api_slice]);
        assert!(ask("10.43.0.1:443").unwrap().starts_with("node"));
        let from_pod = a.run(|| ask("10.43.0.1:443")).unwrap().unwrap();
        assert_eq!(from_pod, "node 10.42.0.2");

        // Clients stay with their endpoint.
        let sticky = service(
            "sticky",
            json!({"clusterIP": "10.43.0.8", "sessionAffinity": "ClientIP",
                   "ports": [{"protocol": "TCP", "port": 80}]}),
        );
        apply(&mut table, &sticky, &[slice("sticky", &[ip_a, ip_b], 8080)]);
        let first = servers("10.43.0.8:80");
        assert_eq!(first.len(), 1);
        let remaining = if first.contains("a") { ip_b } else { ip_a };
        apply(&mut table, &sticky, &[slice("sticky", &[remaining], 8080)]);
        assert_eq!(servers("10.43.0.8:80").len(), 1);
        assert_ne!(
            servers("10.43.0.8:80"),
            first,
            "a choice ends with its endpoint"
        );
        let shown = shell("nft list table ip skiff");
        println!("{shown}");
        assert!(shown.contains("map @sticky_clients_10800"), "{shown}");

        // Gone.
        for gone in [&web, &sticky, &api] {
            table
                .apply(vec![(gone.key(), state::Contribution::default())])
                .unwrap();
        }
        assert!(ask("192.0.2.2:30080").is_err());
        let shown = shell("nft list table ip skiff");
        assert!(!shown.contains("elements"), "{shown}");
    });
}

fn serve_udp(text: &'static str) {
    let socket = std::net::UdpSocket::bind("0.0.0.0:5353").unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(text.as_bytes(), from).unwrap();
        }
    });
}

#[test]
fn a_udp_client_that_keeps_its_port_follows_the_endpoints() {
    on_a_node(|| async {
        let state = tempfile::tempdir().unwrap();
        let network = PodNetwork::open(pod::Options {
            state_dir: state.path().to_owned(),
            cluster_cidr: None,
            table: "skiff-pods".to_owned(),
            link_prefix: pod::LINK_PREFIX.to_owned(),
            world: World::real(),
        })
        .unwrap();
        network.set_pod_cidr((Ipv4Addr::new(10, 42, 0, 0), 24));
        let (a, b, client) = (
            Fresh::new().unwrap(),
            Fresh::new().unwrap(),
            Fresh::new().unwrap(),
        );
        let ip_a = network.add("a", a.path()).await.unwrap();
        let ip_b = network.add("b", b.path()).await.unwrap();
        network.add("client", client.path()).await.unwrap();
        a.run(|| serve_udp("a")).unwrap();
        b.run(|| serve_udp("b")).unwrap();
        let mut table = Table::new(
            "skiff",
            (Ipv4Addr::new(10, 42, 0, 0), 16),
            (Ipv4Addr::new(10, 43, 0, 0), 16),
        );
        let echo = service(
            "echo",
            json!({"clusterIP": "10.43.0.9", "ports": [{"protocol": "UDP", "port": 53}]}),
        );
        let socket = client
            .run(|| std::net::UdpSocket::bind("0.0.0.0:4000").unwrap())
            .unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(3)))
            .unwrap();
        for (ip, expected) in [(ip_a, "a"), (ip_b, "b"), (ip_a, "a")] {
            let mut endpoints = slice("echo", &[ip], 5353);
            endpoints.ports[0].protocol = Some("UDP".into());
            apply(&mut table, &echo, &[endpoints]);
            socket.send_to(b"?", "10.43.0.9:53").unwrap();
            let mut buffer = [0; 10];
            let (length, _) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(std::str::from_utf8(&buffer[..length]).unwrap(), expected);
        }
    });
}

#[test]
fn local_policy_and_ending_endpoints() {
    let node = Node {
        name: "here".into(),
        dns_ip: Some(Ipv4Addr::new(10, 43, 0, 10)),
    };
    let web = service(
        "web",
        json!({"type": "NodePort", "clusterIP": "10.43.0.7", "externalTrafficPolicy": "Local",
               "ports": [{"protocol": "TCP", "port": 80, "nodePort": 30080}]}),
    );
    let mut far = slice("web", &[IpAddr::from([10, 42, 1, 2])], 8080);
    far.endpoints[0].node_name = Some("there".into());
    let wanted = state::desired(&web, [&far].into_iter(), &node);
    assert!(wanted.elements.contains_key(&state::SetName::NodePortDrops));
    assert!(wanted.elements.contains_key(&state::SetName::Endpoints(1)));

    far.endpoints[0].conditions.ready = Some(false);
    let wanted = state::desired(&web, [&far].into_iter(), &node);
    assert!(wanted.elements.contains_key(&state::SetName::Rejects));
    far.endpoints[0].conditions.serving = Some(true);
    far.endpoints[0].conditions.terminating = Some(true);
    let wanted = state::desired(&web, [&far].into_iter(), &node);
    assert!(wanted.elements.contains_key(&state::SetName::Endpoints(1)));

    let dns = service(
        "dns",
        json!({"clusterIP": "10.43.0.10", "ports": [{"port": 53}]}),
    );
    let wanted = state::desired(&dns, std::iter::empty(), &node);
    assert_eq!(wanted, state::Contribution::default());
}
