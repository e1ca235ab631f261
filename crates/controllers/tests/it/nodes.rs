use client::PatchKind;
use client::resource::kinds;
use serde_json::{Value, json};

use crate::cluster::Cluster;

fn taints(node: &Value) -> Vec<String> {
    let mut list: Vec<String> = node["spec"]["taints"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|t| {
            format!(
                "{}:{}",
                t["key"].as_str().unwrap(),
                t["effect"].as_str().unwrap()
            )
        })
        .collect();
    list.sort();
    list
}

/// Has a node that says every 20 s that it is well, until this is dropped.
async fn well(cluster: &Cluster, name: &'static str) -> tokio::task::JoinSet<()> {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    let admin = cluster.admin.clone();
    admin
        .create::<Value>(&kinds::NODES, "", &node)
        .await
        .unwrap();
    let mut task = tokio::task::JoinSet::new();
    task.spawn(async move {
        for beat in 0.. {
            let at = format!("2026-01-01T{:02}:{:02}:00Z", beat / 60 % 24, beat % 60);
            let status = json!({"status": {"conditions": [
                {"type": "Ready", "status": "True", "lastHeartbeatTime": at, "lastTransitionTime": "2026-01-01T00:00:00Z",
                 "reason": "KubeletReady", "message": "ok"},
            ]}});
            let kind = PatchKind::Merge;
            admin.patch::<Value>(&kinds::NODES, "", name, "status", kind, &status).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_secs(20)).await;
        }
    });
    task
}

#[tokio::test(start_paused = true)]
async fn when_nobody_is_seen_nobody_is_emptied() {
    let cluster = Cluster::start().await;
    let beats = [well(&cluster, "n1").await, well(&cluster, "n2").await];
    let taints_of = async |name: &str| {
        taints(
            &cluster
                .admin
                .get::<Value>(&kinds::NODES, "", name)
                .await
                .unwrap(),
        )
    };
    cluster
        .until("no taints", async || taints_of("n1").await.is_empty())
        .await;
    drop(beats);
    let unschedulable = ["node.kubernetes.io/unreachable:NoSchedule"];
    cluster
        .until("both are unreachable", async || {
            taints_of("n1").await == unschedulable && taints_of("n2").await == unschedulable
        })
        .await;
    // The first is seen again: the other one is really gone.
    let patch = json!({"metadata": {"name": "n1"}, "status": {"conditions": [
        {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-02T00:00:00Z",
         "lastTransitionTime": "2026-01-02T00:00:00Z", "reason": "KubeletReady", "message": "ok"},
    ]}});
    let kind = PatchKind::Merge;
    cluster
        .admin
        .patch::<Value>(&kinds::NODES, "", "n1", "status", kind, &patch)
        .await
        .unwrap();
    cluster
        .until("the other one is emptied", async || {
            taints_of("n2")
                .await
                .contains(&"node.kubernetes.io/unreachable:NoExecute".to_owned())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_tainted_and_emptied() {
    let cluster = Cluster::start().await;
    let _other = well(&cluster, "n2").await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    cluster
        .admin
        .create::<Value>(&kinds::NODES, "", &node)
        .await
        .unwrap();
    let node = async || {
        cluster
            .admin
            .get::<Value>(&kinds::NODES, "", "n1")
            .await
            .unwrap()
    };
    cluster
        .until("a Pod network", async || {
            node().await["spec"]["podCIDR"] != Value::Null
        })
        .await;
    assert_eq!(
        taints(&node().await),
        ["node.kubernetes.io/not-ready:NoSchedule"]
    );
    let ready = json!({"status": {"conditions": [
        {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z", "reason": "KubeletReady", "message": "ok"},
    ]}});
    cluster
        .admin
        .patch::<Value>(&kinds::NODES, "", "n1", "status", PatchKind::Merge, &ready)
        .await
        .unwrap();
    cluster
        .until("no taints", async || taints(&node().await).is_empty())
        .await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "web"}]},
    });
    cluster.create(&kinds::PODS, pod).await;
    let unreachable = [
        "node.kubernetes.io/unreachable:NoExecute",
        "node.kubernetes.io/unreachable:NoSchedule",
    ];
    cluster
        .until("tainted", async || taints(&node().await) == unreachable)
        .await;
    let gone = async || {
        cluster
            .admin
            .get::<Value>(&kinds::PODS, "default", "p")
            .await
            .is_err()
    };
    assert!(!gone().await, "it tolerates the taint for 300 s");
    tokio::time::sleep(std::time::Duration::from_secs(290)).await;
    cluster.until("evicted", gone).await;
}
