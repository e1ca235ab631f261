//! A control plane without nodes; a test plays the scheduler and the kubelet.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use apiserver::allocate::ServiceRange;
use client::resource::kinds;
use client::{Client, LocalTransport, PatchKind, Resource};
use serde_json::{Value, json};
use world::{Shutdown, World};

pub struct Cluster {
    pub admin: Client,
    shutdown: Shutdown,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Cluster {
    pub async fn start() -> Self {
        let (world, shutdown) = (World::seeded(7), Shutdown::new());
        let ca = pki::authority::Authority::generate("test", world.now()).unwrap();
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
        controllers::start(controllers::Options {
            world,
            shutdown: shutdown.clone(),
            clients: Arc::new(move |name| {
                if name == controllers::READER {
                    return Client::new(LocalTransport::new(
                        api.clone(),
                        "system:kube-controller-manager",
                        &[],
                    ));
                }
                let user = format!("system:serviceaccount:kube-system:{name}");
                let groups = [
                    "system:serviceaccounts",
                    "system:serviceaccounts:kube-system",
                ];
                Client::new(LocalTransport::new(api.clone(), &user, &groups))
            }),
            root_ca: "the root".into(),
            cluster_cidr: (Ipv4Addr::new(10, 42, 0, 0), 16),
        });
        let cluster = Self { admin, shutdown };
        cluster
            .until("the default account", async || {
                cluster
                    .admin
                    .get::<Value>(&kinds::SERVICE_ACCOUNTS, "default", "default")
                    .await
                    .is_ok()
            })
            .await;
        cluster
    }

    /// Waits until something holds; fails after five minutes of the test's time.
    pub async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        for _ in 0..3000 {
            if holds().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for kind in [kinds::DEPLOYMENTS, kinds::REPLICA_SETS, kinds::EVENTS] {
            for object in self.list(&kind, "default").await {
                eprintln!("{object}");
            }
        }
        panic!("never came true: {what}");
    }

    pub async fn list(&self, kind: &Resource, namespace: &str) -> Vec<Value> {
        self.admin
            .list::<Value>(kind, namespace, "")
            .await
            .unwrap()
            .items
    }

    pub async fn get(&self, kind: &Resource, name: &str) -> Value {
        self.admin.get(kind, "default", name).await.unwrap()
    }

    pub async fn create(&self, kind: &Resource, object: Value) -> Value {
        self.admin.create(kind, "default", &object).await.unwrap()
    }

    pub async fn merge(&self, kind: &Resource, name: &str, sub: &str, patch: Value) -> Value {
        self.admin
            .patch(kind, "default", name, sub, PatchKind::Merge, &patch)
            .await
            .unwrap()
    }

    /// Plays the kubelet once: every Pod runs and is ready; a Pod that is going away is gone.
    pub async fn run_pods(&self) {
        for pod in self.list(&kinds::PODS, "default").await {
            let name = pod["metadata"]["name"].as_str().unwrap();
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                let options = client::DeleteOptions {
                    grace_period_seconds: Some(0),
                    ..Default::default()
                };
                let _ = self
                    .admin
                    .delete(&kinds::PODS, "default", name, &options)
                    .await;
            } else if pod["status"]["podIP"].is_null() {
                let n: u32 = name.bytes().map(u32::from).sum();
                let status = json!({"status": {
                    "phase": "Running", "podIP": format!("10.42.{}.{}", n / 250 % 250, n % 250),
                    "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
                }});
                self.merge(&kinds::PODS, name, "status", status).await;
            }
        }
    }
}

/// The spec of a Pod template.
pub fn template(app: &str, image: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {"containers": [{"name": "c", "image": image, "ports": [{"name": "web", "containerPort": 8080}]}]},
    })
}

pub fn deployment(name: &str, replicas: i64) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template(name, "web:1"),
        },
    })
}
