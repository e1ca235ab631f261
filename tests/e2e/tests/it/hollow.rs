//! A cluster whose nodes are hollow: API server, controllers and scheduler as they are, and for each node a few lines that
//! say of every Pod that it runs. What kubectl and client libraries do without a container is tried here, quickly.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use client::resource::kinds;
use client::{Client, DeleteOptions, PatchKind};
use serde_json::{Value, json};
use test_support::Server;
use world::World;

/// A running control plane and its node's name.
pub struct Hollow {
    pub server: Server,
    /// Holds `kubeconfig`, and what a test writes.
    dir: tempfile::TempDir,
}

impl Hollow {
    /// Starts it with one node, `node-1`.
    pub async fn start() -> Self {
        let server = Server::start_in(World::real()).await;
        let api = server.api.clone();
        let client_of = move |user: &str, groups: &[&str]| {
            Client::new(client::LocalTransport::new(api.clone(), user, groups))
        };
        let (scheduler, kubelet) = (
            client_of("system:kube-scheduler", &[]),
            client_of("system:node:node-1", &["system:nodes"]),
        );
        controllers::start(controllers::Options {
            world: server.world.clone(),
            shutdown: server.shutdown.clone(),
            clients: Arc::new(move |name| {
                if name == controllers::READER {
                    return client_of("system:kube-controller-manager", &[]);
                }
                let groups = [
                    "system:serviceaccounts",
                    "system:serviceaccounts:kube-system",
                ];
                client_of(
                    &format!("system:serviceaccount:kube-system:{name}"),
                    &groups,
                )
            }),
            root_ca: "CA".into(),
            cluster_cidr: (Ipv4Addr::new(10, 42, 0, 0), 16),
        });
        scheduler::start(scheduler, server.world.clone(), server.shutdown.clone());
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("kubeconfig"), server.kubeconfig().await).unwrap();
        let hollow = Self { server, dir };
        hollow.register(&kubelet).await;
        tokio::spawn(play_kubelet(
            kubelet,
            hollow.server.world.clone(),
            hollow.server.shutdown.clone(),
        ));
        let admin = hollow.server.admin();
        while admin
            .get::<Value>(&kinds::SERVICE_ACCOUNTS, "default", "default")
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        hollow
    }

    /// Its directory: `kubeconfig` is there.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    async fn register(&self, kubelet: &Client) {
        let room = json!({"cpu": "4", "memory": "8Gi", "pods": "110", "ephemeral-storage": "10Gi"});
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "node-1", "labels": {
                "kubernetes.io/hostname": "node-1", "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            }},
        });
        let _: Value = kubelet.create(&kinds::NODES, "", &node).await.unwrap();
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "node-1", "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": "node-1", "leaseDurationSeconds": 40, "renewTime": now_micros(&self.server.world)},
        });
        while kubelet
            .create::<Value>(&kinds::LEASES, "kube-node-lease", &lease)
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let now = client::meta::rfc3339_seconds(self.server.world.now());
        let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status",
            "lastHeartbeatTime": now, "lastTransitionTime": now});
        let status = json!({"status": {
            "capacity": room, "allocatable": room, "conditions": [ready],
            "addresses": [{"type": "InternalIP", "address": "192.0.2.20"}, {"type": "Hostname", "address": "node-1"}],
            "nodeInfo": {"machineID": "m", "systemUUID": "s", "bootID": "b", "kernelVersion": "6.1.0", "osImage": "Debian",
                "containerRuntimeVersion": "skiff://0.1", "kubeletVersion": "v1.36.0", "kubeProxyVersion": "",
                "operatingSystem": "linux", "architecture": "amd64"},
        }});
        let _: Value = kubelet
            .patch(
                &kinds::NODES,
                "",
                "node-1",
                "status",
                PatchKind::Merge,
                &status,
            )
            .await
            .unwrap();
    }
}

fn now_micros(world: &World) -> String {
    format!("{:.6}", world.now())
}

/// Every Pod of the node runs and is ready; one that is going away is gone.
async fn play_kubelet(kubelet: Client, world: World, shutdown: world::Shutdown) {
    let (mut given, mut renewed) = (1, world.now());
    while !shutdown.is_cancelled() {
        if world.now().duration_since(renewed).as_secs() >= 10 {
            renewed = world.now();
            let lease = json!({"spec": {"renewTime": now_micros(&world)}});
            // A lease that was not renewed is renewed the next time.
            drop(
                kubelet
                    .patch::<Value>(
                        &kinds::LEASES,
                        "kube-node-lease",
                        "node-1",
                        "",
                        PatchKind::Merge,
                        &lease,
                    )
                    .await,
            );
        }
        let pods = kubelet
            .list::<Value>(&kinds::PODS, "", "fieldSelector=spec.nodeName%3Dnode-1")
            .await;
        for pod in pods.map(|l| l.items).unwrap_or_default() {
            let meta = &pod["metadata"];
            let (namespace, name) = (
                meta["namespace"].as_str().unwrap(),
                meta["name"].as_str().unwrap(),
            );
            if !meta["deletionTimestamp"].is_null() {
                let now = DeleteOptions {
                    grace_period_seconds: Some(0),
                    ..Default::default()
                };
                drop(kubelet.delete(&kinds::PODS, namespace, name, &now).await);
            } else if pod["status"]["podIP"].is_null() {
                given += 1;
                let status = running(&pod, given);
                // It may have gone meanwhile.
                drop(
                    kubelet
                        .patch::<Value>(
                            &kinds::PODS,
                            namespace,
                            name,
                            "status",
                            PatchKind::Merge,
                            &status,
                        )
                        .await,
                );
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn running(pod: &Value, number: u32) -> Value {
    let since = &pod["metadata"]["creationTimestamp"];
    let containers = pod["spec"]["containers"].as_array().unwrap();
    let statuses: Vec<Value> = containers
        .iter()
        .map(|c| {
            json!({
                "name": c["name"], "image": c["image"], "imageID": "", "containerID": format!("skiff://{number}"),
                "ready": true, "started": true, "restartCount": 0, "state": {"running": {"startedAt": since}},
            })
        })
        .collect();
    let conditions = ["Initialized", "Ready", "ContainersReady", "PodScheduled"];
    let conditions =
        conditions.map(|t| json!({"type": t, "status": "True", "lastTransitionTime": since}));
    let ip = format!("10.42.{}.{}", number / 250, number % 250);
    json!({"status": {
        "phase": "Running", "hostIP": "192.0.2.20", "podIP": ip, "podIPs": [{"ip": ip}], "startTime": since,
        "conditions": conditions, "containerStatuses": statuses,
    }})
}
