//! Leader election between candidates, under paused time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::resource::kinds::LEASES;
use client::{Client, LocalTransport, Transport};
use http::{Request, Response};
use reconcile::election::{self, Config, Ended, Failure};
use serde_json::{Value, json};
use skiff_http::Body;
use test_support::Server;
use tokio::time::{Instant, sleep, timeout};
use world::Shutdown;

/// A connection that can be cut.
struct Cut {
    inner: LocalTransport,
    cut: Arc<AtomicBool>,
}

#[async_trait::async_trait]
impl Transport for Cut {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, client::Error> {
        if self.cut.load(Ordering::Relaxed) {
            return Err(client::Error::Transport("the network is down".into()));
        }
        self.inner.send(request).await
    }
}

/// Someone who wants to lead.
struct Candidate {
    shutdown: Shutdown,
    leads: Arc<AtomicBool>,
    cut: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Result<Ended, Failure>>,
}

/// Says that it no longer leads, also when it is dropped in the middle.
struct Leading(Arc<AtomicBool>);

impl Drop for Leading {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

fn candidate(server: &Server, identity: &str) -> Candidate {
    let (leads, cut) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let shutdown = Shutdown::new();
    let client = Client::new(Cut {
        inner: LocalTransport::new(server.api.clone(), "admin", &["system:masters"]),
        cut: Arc::clone(&cut),
    });
    let config = Config::new("test-component", identity);
    let (world, stop, flag) = (server.world.clone(), shutdown.clone(), leads.clone());
    let task = tokio::spawn(async move {
        let lead = async |stop: Shutdown| {
            flag.store(true, Ordering::Relaxed);
            let _leading = Leading(flag.clone());
            stop.cancelled().await;
        };
        election::run(&client, &world, &stop, &config, lead).await
    });
    Candidate {
        shutdown,
        leads,
        cut,
        task,
    }
}

impl Candidate {
    fn leads(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }

    async fn until(&self, leads: bool) -> Duration {
        let begin = Instant::now();
        let reached = timeout(Duration::from_secs(120), async {
            while self.leads() != leads {
                sleep(Duration::from_millis(10)).await;
            }
        });
        reached.await.expect("it happens within two minutes");
        begin.elapsed()
    }
}

async fn lease(server: &Server) -> Value {
    let admin = server.admin();
    admin
        .get::<Value>(&LEASES, "kube-system", "test-component")
        .await
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_the_other_takes_over_when_it_dies() {
    let server = Server::start().await;
    let first = candidate(&server, "first");
    first.until(true).await;
    let second = candidate(&server, "second");
    sleep(Duration::from_secs(300)).await;
    assert!(first.leads() && !second.leads());
    let spec = lease(&server).await["spec"].clone();
    assert_eq!(spec["holderIdentity"], "first");
    assert_eq!(spec["leaseDurationSeconds"], 15);
    assert_eq!(spec["leaseTransitions"], 0);
    assert_ne!(spec["acquireTime"], spec["renewTime"]);
    // As after kill -9: nothing is released.
    first.task.abort();
    let took = second.until(true).await;
    assert!(
        (Duration::from_secs(13)..Duration::from_secs(20)).contains(&took),
        "{took:?}"
    );
    let spec = lease(&server).await["spec"].clone();
    assert_eq!(spec["holderIdentity"], "second");
    assert_eq!(spec["leaseTransitions"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_asked_to_stop_hands_over_at_once() {
    let server = Server::start().await;
    let first = candidate(&server, "first");
    first.until(true).await;
    let second = candidate(&server, "second");
    sleep(Duration::from_secs(30)).await;
    first.shutdown.cancel();
    assert_eq!(first.task.await.unwrap().unwrap(), Ended::Stopped);
    let released = lease(&server).await["spec"].clone();
    assert_eq!(released["holderIdentity"], "");
    let took = second.until(true).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
    // One who never led leaves the lease alone.
    let third = candidate(&server, "third");
    sleep(Duration::from_secs(30)).await;
    third.shutdown.cancel();
    assert_eq!(third.task.await.unwrap().unwrap(), Ended::Stopped);
    assert_eq!(lease(&server).await["spec"]["holderIdentity"], "second");
    assert!(second.leads());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_ends_before_another_begins() {
    let server = Server::start().await;
    let (first, second) = (candidate(&server, "first"), candidate(&server, "second"));
    sleep(Duration::from_secs(30)).await;
    let (leader, other) = if first.leads() {
        (first, second)
    } else {
        (second, first)
    };
    assert!(leader.leads() && !other.leads());
    leader.cut.store(true, Ordering::Relaxed);
    let ended = leader.until(false).await;
    assert!(ended <= Duration::from_secs(12), "{ended:?}");
    assert!(!other.leads(), "never two at once");
    let failure = leader.task.await.unwrap().unwrap_err();
    assert!(
        failure.to_string().contains("the network is down"),
        "{failure}"
    );
    other.until(true).await;
}

#[tokio::test(start_paused = true)]
async fn a_stolen_lease_ends_the_leader_and_a_changed_one_does_not() {
    let server = Server::start().await;
    let leader = candidate(&server, "leader");
    leader.until(true).await;
    let path = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/test-component";
    // Someone else changes the object between two renewals: a conflict, then it goes on, and the change stays.
    let mut labelled = lease(&server).await;
    labelled["metadata"]["labels"] = json!({"a": "b"});
    let _ = server.send("PUT", path, &labelled).await.ok();
    sleep(Duration::from_secs(30)).await;
    assert!(leader.leads());
    assert_eq!(lease(&server).await["metadata"]["labels"]["a"], "b");
    // Even its deletion is healed.
    let _ = server.send("DELETE", path, &Value::Null).await.ok();
    sleep(Duration::from_secs(30)).await;
    assert!(leader.leads());
    let mut stolen = lease(&server).await;
    stolen["spec"]["holderIdentity"] = "thief".into();
    let _ = server.send("PUT", path, &stolen).await.ok();
    leader.until(false).await;
    let failure = leader.task.await.unwrap().unwrap_err();
    assert!(failure.to_string().contains("thief holds it"), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn the_clocks_of_others_are_not_believed() {
    let server = Server::start().await;
    for (name, renewed, least) in [
        ("ahead", "2099-01-01T00:00:00.000000Z", 14),
        ("behind", "1999-01-01T00:00:00.000000Z", 14),
    ] {
        let object = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "test-component", "namespace": "kube-system"},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": 15, "acquireTime": renewed, "renewTime": renewed},
        });
        let path = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
        let _ = server.send("POST", path, &object).await.ok();
        let candidate = candidate(&server, "me");
        let took = candidate.until(true).await;
        assert!(
            took >= Duration::from_secs(least) && took < Duration::from_secs(20),
            "{name}: {took:?}"
        );
        candidate.task.abort();
        let one = format!("{path}/test-component");
        let _ = server.send("DELETE", &one, &Value::Null).await.ok();
    }
}
