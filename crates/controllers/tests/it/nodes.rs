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

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_tainted_and_emptied() {
    let cluster = Cluster::start().await;
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
            node().await["spec"]["podCIDR"] == "10.42.0.0/24"
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
