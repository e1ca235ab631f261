//! The scheduler against a real API server in memory, and its core alone.
#![allow(clippy::unwrap_used, reason = "this is a test")]

mod core;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use apiserver::allocate::ServiceRange;
use client::resource::kinds;
use client::{Client, LocalTransport, PatchKind, Resource};
use serde_json::{Value, json};
use world::{Shutdown, World};

struct Cluster {
    admin: Client,
    shutdown: Shutdown,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Cluster {
    async fn start() -> Self {
        let (world, shutdown) = (World::seeded(7), Shutdown::new());
        let ca = pki::Authority::generate("test", world.now()).unwrap();
        let api = apiserver::ApiServer::start(apiserver::Options {
            world: world.clone(),
            store: Arc::new(store::Memory::new(
                Arc::new(apiserver::registry::MetaIndexer),
                world.clock.clone(),
            )),
            tokens: Arc::new(pki::TokenKey::generate().unwrap().0),
            client_ca: String::new(),
            kubelet_tls: skiff_http::tls::client_config(&ca.cert_pem, None, true).unwrap(),
            services: ServiceRange {
                base: Ipv4Addr::new(10, 43, 0, 0),
                prefix: 16,
            },
            advertise: "10.0.0.1:6443".parse().unwrap(),
            shutdown: shutdown.clone(),
            tracing: None,
        })
        .await
        .unwrap_or_else(|s| panic!("{}", s.message));
        let admin = Client::new(LocalTransport::new(
            api.clone(),
            "admin",
            &["system:masters"],
        ));
        let account =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        admin
            .create::<Value>(&kinds::SERVICE_ACCOUNTS, "default", &account)
            .await
            .unwrap();
        let client = Client::new(LocalTransport::new(api, "system:kube-scheduler", &[]));
        scheduler::start(client, world, shutdown.clone());
        Self { admin, shutdown }
    }

    async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        for _ in 0..3000 {
            if holds().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let events: client::request::List<Value> = self
            .admin
            .list(&kinds::EVENTS, "default", "")
            .await
            .unwrap();
        panic!("never came true: {what}; {:?}", events.items);
    }

    async fn put(&self, kind: &Resource, object: Value) {
        let namespace = if kind.namespaced { "default" } else { "" };
        self.admin
            .create::<Value>(kind, namespace, &object)
            .await
            .unwrap();
    }

    async fn node(&self, name: &str, cpu: &str) {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
        self.put(&kinds::NODES, node).await;
        let offer = json!({"cpu": cpu, "memory": "8Gi", "pods": "110"});
        let ready = json!({"status": {"capacity": offer, "allocatable": offer}});
        self.admin
            .patch::<Value>(&kinds::NODES, "", name, "status", PatchKind::Merge, &ready)
            .await
            .unwrap();
        let bare = json!({"spec": {"taints": null}});
        self.admin
            .patch::<Value>(&kinds::NODES, "", name, "", PatchKind::Merge, &bare)
            .await
            .unwrap();
    }

    async fn pod(&self, name: &str, extra: Value) {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "a"}},
            "spec": {"containers": [{"name": "c", "image": "web", "resources": {"requests": {"cpu": "600m"}}}]},
        });
        for (key, value) in extra.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        self.put(&kinds::PODS, pod).await;
    }

    async fn get(&self, name: &str) -> Value {
        self.admin.get(&kinds::PODS, "default", name).await.unwrap()
    }

    async fn message(&self, name: &str) -> String {
        let pod = self.get(name).await;
        let conditions = pod["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let refused = conditions
            .iter()
            .find(|c| c["type"] == "PodScheduled" && c["status"] == "False");
        refused
            .map(|c| c["message"].as_str().unwrap().to_owned())
            .unwrap_or_default()
    }
}

#[tokio::test(start_paused = true)]
async fn pods_are_bound_where_there_is_room_and_wait_where_there_is_none() {
    let cluster = Cluster::start().await;
    cluster.pod("early", json!({})).await;
    cluster
        .until("no nodes", async || {
            cluster.message("early").await == "no nodes available to schedule pods"
        })
        .await;
    cluster.node("n1", "1").await;
    cluster
        .until("bound", async || {
            cluster.get("early").await["spec"]["nodeName"] == "n1"
        })
        .await;
    cluster.pod("late", json!({})).await;
    cluster
        .until("no room", async || {
            cluster.message("late").await == "0/1 nodes are available: 1 Insufficient cpu."
        })
        .await;
    cluster
        .admin
        .delete(
            &kinds::PODS,
            "default",
            "early",
            &client::DeleteOptions {
                grace_period_seconds: Some(0),
                ..Default::default()
            },
        )
        .await
        .unwrap();
    cluster
        .until("bound after all", async || {
            cluster.get("late").await["spec"]["nodeName"] == "n1"
        })
        .await;
    let events: client::request::List<Value> = cluster
        .admin
        .list(&kinds::EVENTS, "default", "")
        .await
        .unwrap();
    let said = |reason: &str| events.items.iter().any(|e| e["reason"] == reason);
    assert!(said("FailedScheduling") && said("Scheduled"));
}

#[tokio::test(start_paused = true)]
async fn gates_selectors_taints_and_anti_affinity() {
    let cluster = Cluster::start().await;
    cluster.node("n1", "4").await;
    cluster.node("n2", "4").await;
    let taint =
        json!({"spec": {"taints": [{"key": "only", "value": "db", "effect": "NoSchedule"}]}});
    cluster
        .admin
        .patch::<Value>(&kinds::NODES, "", "n2", "", PatchKind::Merge, &taint)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    cluster
        .pod(
            "picky",
            json!({"nodeSelector": {"kubernetes.io/hostname": "n2"}}),
        )
        .await;
    cluster
        .until("refused", async || {
            cluster.message("picky").await
                == "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had untolerated taint {only: db}."
        })
        .await;
    let alone = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": "a"}}, "topologyKey": "kubernetes.io/hostname"},
    ]}});
    let tolerant = json!([{"key": "only", "operator": "Exists"}]);
    for name in ["a1", "a2"] {
        cluster
            .pod(name, json!({"affinity": alone, "tolerations": tolerant}))
            .await;
        cluster
            .until("bound", async || {
                !cluster.get(name).await["spec"]["nodeName"].is_null()
            })
            .await;
    }
    assert_ne!(
        cluster.get("a1").await["spec"]["nodeName"],
        cluster.get("a2").await["spec"]["nodeName"]
    );
    cluster
        .pod("a3", json!({"affinity": alone, "tolerations": tolerant}))
        .await;
    cluster
        .until("refused", async || {
            cluster.message("a3").await.contains("anti-affinity rules")
        })
        .await;
    cluster
        .pod(
            "gated",
            json!({"schedulingGates": [{"name": "wait"}], "tolerations": tolerant}),
        )
        .await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(cluster.get("gated").await["spec"]["nodeName"].is_null());
}
