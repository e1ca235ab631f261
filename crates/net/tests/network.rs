//! In network namespaces of their own: nothing here sees or touches the machine's network.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use net::namespace::{self, Fresh};
use net::nft::{self, Batch, Element, Expr, Field, Register, Rule, Set, Type, Words};
use net::pod::{self, PodNetwork};
use world::World;

const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const NODE_BESIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

/// Runs `test` on a thread in a new namespace that looks like a machine, with a runtime.
fn on_a_node<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let node = Fresh::new().unwrap();
    let outcome = node.run(move || {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            namespace::furnish((NODE, 24)).unwrap();
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

fn open(dir: &std::path::Path) -> Arc<PodNetwork> {
    let network = PodNetwork::open(pod::Options {
        state_dir: dir.to_owned(),
        cluster_cidr: Some((Ipv4Addr::new(10, 42, 0, 0), 16)),
        table: "skiff-pods".to_owned(),
        link_prefix: pod::LINK_PREFIX.to_owned(),
        world: World::real(),
    })
    .unwrap();
    network.set_pod_cidr((Ipv4Addr::new(10, 42, 0, 0), 24));
    network
}

fn serve(pod: &Fresh, text: &'static str) {
    pod.run(move || {
        let listener = TcpListener::bind("0.0.0.0:80").unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let peer = stream.peer_addr().unwrap().ip();
                write!(stream, "{text} {peer}").unwrap();
            }
        });
    })
    .unwrap();
}

fn ask(address: IpAddr) -> String {
    let to = (address, 80).into();
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn shell(command: &str) -> String {
    let output = Command::new("sh").arg("-c").arg(command).output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn pods_reach_each_other_and_the_node_reaches_them() {
    on_a_node(|| async {
        let state = tempfile::tempdir().unwrap();
        let network = open(state.path());
        let (a, b) = (Fresh::new().unwrap(), Fresh::new().unwrap());
        let started = tokio::time::Instant::now();
        let first = network.add("sandbox-a", a.path()).await.unwrap();
        println!("add: {:?}", started.elapsed());
        let second = network.add("sandbox-b", b.path()).await.unwrap();
        assert_eq!(first, IpAddr::from([10, 42, 0, 2]));
        assert_eq!(second, IpAddr::from([10, 42, 0, 3]));
        serve(&a, "a");
        serve(&b, "b");
        assert_eq!(a.run(move || ask(second)).unwrap(), "b 10.42.0.2");
        assert_eq!(b.run(move || ask(first)).unwrap(), "a 10.42.0.3");
        assert_eq!(ask(first), format!("a {NODE}"));
        println!(
            "{}",
            a.run(|| shell("ip addr; ip route; ip neigh")).unwrap()
        );
        println!("{}", shell("ip addr; ip route; ip neigh; nft list ruleset"));
    });
}

#[test]
fn addresses_survive_a_restart_and_rest_before_they_come_again() {
    on_a_node(|| async {
        let state = tempfile::tempdir().unwrap();
        let network = open(state.path());
        let pod = Fresh::new().unwrap();
        let first = network.add("one", pod.path()).await.unwrap();
        drop(network);

        let network = open(state.path());
        assert_eq!(network.in_use().len(), 1);
        assert_eq!(
            network.add("one", pod.path()).await.unwrap(),
            first,
            "adding again repairs"
        );
        serve(&pod, "one");
        assert_eq!(ask(first), format!("one {NODE}"));

        network.remove("one", pod.path()).await.unwrap();
        network.remove("one", pod.path()).await.unwrap();
        network.remove("never", pod.path()).await.unwrap();
        for _ in 0..200 {
            if network.in_use().is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(network.in_use().is_empty());
        assert!(!shell("ip link").contains(&network.link_name("one")));
        let other = Fresh::new().unwrap();
        assert_ne!(network.add("two", other.path()).await.unwrap(), first);
    });
}

#[test]
fn without_a_range_or_a_free_address_the_error_says_so() {
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
        let pods: Vec<_> = (0..2).map(|_| Fresh::new().unwrap()).collect();
        tokio::time::pause();
        let error = network.add("a", pods[0].path()).await.unwrap_err();
        tokio::time::resume();
        assert_eq!(error.to_string(), "the node has no Pod address range yet");
        network.set_pod_cidr((Ipv4Addr::new(10, 42, 1, 0), 30));
        network.add("a", pods[0].path()).await.unwrap();
        let error = network.add("b", pods[1].path()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "no address of the node's Pod range 10.42.1.0/30 is free"
        );
        assert!(network.add("../x", pods[1].path()).await.is_err());
    });
}

#[test]
fn a_refused_transaction_changes_nothing_and_names_the_message() {
    on_a_node(|| async {
        nft::available().unwrap();
        let mut batch = Batch::new();
        batch.add_table("t");
        batch.commit().unwrap();

        let mut batch = Batch::new();
        batch.add_set(
            "t",
            &Set::new("s", &[Type::Address, Type::Protocol, Type::Port]),
        );
        batch.delete_set("t", "missing");
        let error = batch.commit().unwrap_err();
        assert_eq!(error.errno(), Some(2), "{error}");
        let net::Error::Netlink { index, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(*index, 2);
        assert!(
            error
                .to_string()
                .starts_with("cannot delete a set of nf_tables: "),
            "{error}"
        );
        assert_eq!(shell("nft list ruleset"), "table ip t {\n}\n");
    });
}

#[test]
fn nft_shows_what_we_made() {
    on_a_node(|| async {
        let mut batch = Batch::new();
        batch.replace_table("t");
        let key = [Type::Address, Type::Protocol, Type::Port, Type::Mark];
        batch.add_set(
            "t",
            &Set::map("endpoints_1", &key, &[Type::Address, Type::Port]),
        );
        let element = Element {
            key: Words::new()
                .address([10, 43, 0, 1].into())
                .protocol(6)
                .port(443)
                .mark(0),
            data: Words::new().address(NODE).port(6443),
        };
        batch.add_elements("t", "endpoints_1", [&element]);
        batch.add_chain("t", &nft::BaseChain::nat("output", nft::Hook::Output));
        let fields = [Field::Destination, Field::Protocol, Field::DestinationPort];
        let rule = Rule::new()
            .with(Expr::load(0, &fields))
            .push(Expr::Random(Register(3), 1))
            .push(Expr::Lookup(
                "endpoints_1".into(),
                Register(0),
                Some(Register(0)),
            ))
            .push(Expr::Dnat(Register(0), Register(1)));
        batch.add_rule("t", "output", &rule);
        batch.commit().unwrap();
        let shown = shell("nft list ruleset");
        assert!(
            shown.contains(
                "type ipv4_addr . inet_proto . inet_service . mark : ipv4_addr . inet_service"
            ),
            "{shown}"
        );
        assert!(
            shown.contains("10.43.0.1 . tcp . 443 . 0x00000000 : 192.0.2.2 . 6443"),
            "{shown}"
        );
        assert!(shown.contains("dnat ip to ip daddr . ip protocol . th dport . numgen random mod 1 map @endpoints_1"), "{shown}");
        println!("{shown}");
        let left = net::Leftovers {
            tables: &["t", "absent"],
            link_prefix: pod::LINK_PREFIX,
            routes: None,
        };
        net::cleanup(&left).unwrap();
        assert_eq!(shell("nft list ruleset"), "");
    });
}

#[test]
fn many_elements_go_into_one_transaction() {
    on_a_node(|| async {
        let mut batch = Batch::new();
        batch.add_table("t");
        batch.add_set("t", &Set::new("s", &[Type::Address]));
        let elements: Vec<_> = (0..20_000_u32)
            .map(|i| Element {
                key: Words::new().address((0x0a00_0000 + i).into()),
                data: Words::new(),
            })
            .collect();
        batch.add_elements("t", "s", &elements);
        batch.commit().unwrap();
        let shown = shell("nft list set ip t s");
        assert_eq!(shown.matches("10.0.").count(), 20_000);
    });
}

#[test]
fn changes_of_links_are_told_but_pods_are_not() {
    on_a_node(|| async {
        let changes = net::link::Changes::subscribe().unwrap();
        let told = || tokio::time::timeout(Duration::from_millis(1200), changes.next());
        // The kernel tells some time later that the uplink has a carrier.
        while told().await.is_ok() {}
        shell("ip link add sk00000000000a type veth peer name sk00000000000b");
        shell("ip link del sk00000000000a");
        assert!(told().await.is_err());
        shell("ip link set uplink down");
        told().await.unwrap().unwrap();
        while told().await.is_ok() {}
        shell("ip addr add 192.0.2.99/24 dev uplink");
        told().await.unwrap().unwrap();
    });
}

#[test]
fn routes_to_other_nodes_follow_the_wish() {
    on_a_node(|| async {
        let cluster = (Ipv4Addr::new(10, 42, 0, 0), 16);
        let other = |last| {
            let via = Ipv4Addr::new(192, 0, 2, last);
            ((Ipv4Addr::new(10, 42, 7, 0), 24), via)
        };
        let sync = |wanted: &[_]| net::routes::sync(cluster, wanted).unwrap();
        // Another cluster's.
        let theirs = (Ipv4Addr::new(10, 52, 0, 0), 16);
        let their_route = ((Ipv4Addr::new(10, 52, 1, 0), 24), NODE_BESIDE);
        net::routes::sync(theirs, &[their_route]).unwrap();
        assert_eq!(sync(&[other(7)]), 1);
        assert_eq!(sync(&[other(7)]), 0);
        assert!(shell("ip route").contains("10.42.7.0/24 via 192.0.2.7 dev uplink proto 83"));
        assert_eq!(sync(&[other(8)]), 1);
        assert_eq!(
            shell("ip route show 10.42.7.0/24 | cut -d' ' -f1-3"),
            "10.42.7.0/24 via 192.0.2.8\n"
        );
        assert_eq!(sync(&[]), 1);
        assert!(!shell("ip route").contains("10.42.7.0"));
        assert!(shell("ip route").contains("10.52.1.0"));
        // Without the default route, whose link would be asked for everything, this is nowhere.
        let far = (
            (Ipv4Addr::new(10, 42, 8, 0), 24),
            Ipv4Addr::new(203, 0, 113, 7),
        );
        shell("ip route del default");
        assert!(net::routes::sync(cluster, &[far]).is_err());
    });
}
