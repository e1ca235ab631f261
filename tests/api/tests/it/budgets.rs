//! Budgets of single steps, asserted by counters: what a write costs, and what happens when nothing happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use client::{Client, LocalTransport, Transport};
use http::{Request, Response};
use serde_json::{Value, json};
use skiff_http::Body;
use test_support::Server;

/// The sum of a metric's series.
fn metric(server: &Server, name: &str) -> u64 {
    let text = server.world.metrics.render();
    text.lines()
        .filter(|l| {
            l.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '{']))
        })
        .filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

#[tokio::test(start_paused = true)]
async fn a_write_encodes_its_object_once() {
    let server = Server::start().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let encodes = async |method: &str, path: &str, body: Value| {
        let before = metric(&server, "skiff_apiserver_encodes_total");
        let answer = server.send(method, path, &body).await.ok();
        (
            metric(&server, "skiff_apiserver_encodes_total") - before,
            answer,
        )
    };
    let object = json!({"metadata": {"name": "a"}, "data": {"k": "1"}});
    let (count, mut made) = encodes("POST", path, object).await;
    assert_eq!(count, 1, "create");
    let one = format!("{path}/a");
    made["data"]["k"] = "2".into();
    assert_eq!(encodes("PUT", &one, made).await.0, 1, "update");
    for read in [path, one.as_str()] {
        assert_eq!(encodes("GET", read, Value::Null).await.0, 0, "GET {read}");
    }
    assert_eq!(encodes("DELETE", &one, Value::Null).await.0, 0, "delete");
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    server.namespace("demo").await;
    let pods = "/api/v1/namespaces/demo/pods";
    assert_eq!(encodes("POST", pods, pod).await.0, 1, "a Pod");
    let status = json!([{"op": "add", "path": "/status/phase", "value": "Running"}]);
    let before = metric(&server, "skiff_apiserver_encodes_total");
    let headers = [("content-type", "application/json-patch+json")];
    let admin = Some(("admin", &["system:masters"][..]));
    let status = server.raw(
        admin,
        "PATCH",
        "/api/v1/namespaces/demo/pods/p/status",
        &headers,
        status.to_string(),
    );
    assert_eq!(status.await.code, 200);
    assert_eq!(
        metric(&server, "skiff_apiserver_encodes_total") - before,
        1,
        "a patch of a status"
    );
}

/// Counts requests.
struct Counting {
    inner: LocalTransport,
    requests: Arc<AtomicU64>,
}

#[async_trait::async_trait]
impl Transport for Counting {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, client::Error> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.inner.send(request).await
    }
}

/// What happened in an hour.
#[derive(Debug)]
struct Hour {
    requests: u64,
    reconciles: u64,
    wakeups: u64,
    encodes: u64,
}

/// How many watches are started anew in an hour at most: each lasts half an hour to an hour. The garbage collector follows
/// every kind, the controllers and the scheduler some of them once more.
fn renewals() -> u64 {
    const INFORMERS: usize = 25;
    let followed =
        |k: &&'static api::facts::Kind| apiserver::served(k) && k.verbs.contains(&"delete");
    let kinds = api::facts::KINDS.iter().filter(followed).count();
    2 * (kinds + INFORMERS) as u64
}

#[tokio::test(start_paused = true)]
async fn an_idle_control_plane_only_renews_its_watches() {
    let hour = idle_hour(0).await;
    assert!(hour.requests <= renewals(), "{hour:?}");
    assert_eq!(
        (hour.reconciles, hour.wakeups, hour.encodes),
        (0, 0, 0),
        "{hour:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn pods_without_a_place_cost_one_try_and_one_event_each_five_minutes() {
    let hour = idle_hour(3).await;
    assert!(hour.encodes <= 3 * 13, "{hour:?}");
    assert!(hour.requests <= renewals() + 3 * 13 * 2, "{hour:?}");
    assert!(hour.reconciles + hour.wakeups <= 5, "{hour:?}");
}

/// An hour of a control plane that looks after a Deployment of `replicas` Pods, for which there is no node, and a Service.
async fn idle_hour(replicas: usize) -> Hour {
    let server = Server::start().await;
    let requests = Arc::new(AtomicU64::new(0));
    let (api, counter) = (server.api.clone(), requests.clone());
    let client_of = move |user: &str, groups: &[&str]| {
        Client::new(Counting {
            inner: LocalTransport::new(api.clone(), user, groups),
            requests: counter.clone(),
        })
    };
    let scheduler = client_of("system:kube-scheduler", &[]);
    controllers::start(controllers::Options {
        world: server.world.clone(),
        shutdown: server.shutdown.clone(),
        clients: Arc::new(move |name| {
            if name == controllers::READER {
                return client_of("system:kube-controller-manager", &[]);
            }
            client_of(
                &format!("system:serviceaccount:kube-system:{name}"),
                &[
                    "system:serviceaccounts",
                    "system:serviceaccounts:kube-system",
                ],
            )
        }),
        root_ca: "CA".into(),
        cluster_cidr: (std::net::Ipv4Addr::new(10, 42, 0, 0), 16),
    });
    scheduler::start(scheduler, server.world.clone(), server.shutdown.clone());
    let labels = json!({"app": "web"});
    let deployment = json!({"metadata": {"name": "web"}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
    }});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let _ = server.send("POST", deployments, &deployment).await.ok();
    let service =
        json!({"metadata": {"name": "web"}, "spec": {"selector": labels, "ports": [{"port": 80}]}});
    let services = "/api/v1/namespaces/default/services";
    let _ = server.send("POST", services, &service).await.ok();
    // The progress deadline of the Deployment (600 s) is behind us then.
    tokio::time::sleep(Duration::from_secs(1800)).await;
    let pods = server
        .send("GET", "/api/v1/namespaces/default/pods", &Value::Null)
        .await
        .ok();
    assert_eq!(pods["items"].as_array().map(Vec::len), Some(replicas));
    let names = [
        "skiff_reconciles_total",
        "skiff_queue_wakeups_total",
        "skiff_apiserver_encodes_total",
    ];
    let before = names.map(|n| metric(&server, n));
    let asked = requests.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let after = names.map(|n| metric(&server, n));
    let [reconciles, wakeups, encodes] = std::array::from_fn(|i| after[i] - before[i]);
    server.shutdown.cancel();
    Hour {
        requests: requests.load(Ordering::Relaxed) - asked,
        reconciles,
        wakeups,
        encodes,
    }
}
