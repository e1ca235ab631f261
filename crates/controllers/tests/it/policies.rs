//! Quotas are counted, budgets say what may be evicted, claims stay while they are used.

use client::resource::kinds;
use serde_json::{Value, json};

use crate::cluster::{Cluster, deployment};

#[tokio::test(start_paused = true)]
async fn a_new_quota_counts_what_there_is_and_is_kept_from_then_on() {
    let cluster = Cluster::start().await;
    cluster
        .create(&kinds::DEPLOYMENTS, deployment("web", 3))
        .await;
    cluster
        .until("three Pods", async || {
            cluster.list(&kinds::PODS, "default").await.len() == 3
        })
        .await;
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
        "spec": {"hard": {"pods": "4", "count/deployments.apps": "5", "requests.cpu": "1"}},
    });
    cluster.create(&kinds::RESOURCE_QUOTAS, quota).await;
    let used = async || cluster.get(&kinds::RESOURCE_QUOTAS, "q").await["status"]["used"].clone();
    cluster
        .until("the count", async || {
            used().await == json!({"pods": "3", "count/deployments.apps": "1", "requests.cpu": "0"})
        })
        .await;
    // A change of what is bounded is counted anew.
    let spec = json!({"spec": {"hard": {"requests.cpu": null, "services": "2"}}});
    cluster.merge(&kinds::RESOURCE_QUOTAS, "q", "", spec).await;
    cluster
        .until("the new count", async || {
            used().await == json!({"pods": "3", "count/deployments.apps": "1", "services": "1"})
        })
        .await;
    // The ReplicaSet reaches the quota's end, not what it wants.
    cluster
        .merge(
            &kinds::DEPLOYMENTS,
            "web",
            "",
            json!({"spec": {"replicas": 6}}),
        )
        .await;
    cluster
        .until("the quota's end", async || {
            used().await["pods"] == "4" && cluster.list(&kinds::PODS, "default").await.len() == 4
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_budget_follows_its_pods() {
    let cluster = Cluster::start().await;
    cluster
        .create(&kinds::DEPLOYMENTS, deployment("web", 4))
        .await;
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
        "spec": {"maxUnavailable": "25%", "selector": {"matchLabels": {"app": "web"}}},
    });
    cluster.create(&kinds::POD_DISRUPTION_BUDGETS, budget).await;
    let status = async || {
        let budget = cluster.get(&kinds::POD_DISRUPTION_BUDGETS, "web").await;
        let status = &budget["status"];
        let number = |field: &str| status[field].as_i64().unwrap_or(-1);
        (
            number("disruptionsAllowed"),
            number("currentHealthy"),
            number("desiredHealthy"),
            number("expectedPods"),
        )
    };
    cluster
        .until("nothing is healthy", async || {
            status().await == (0, 0, 3, 4)
        })
        .await;
    cluster
        .until("all are healthy", async || {
            cluster.run_pods().await;
            status().await == (1, 4, 3, 4)
        })
        .await;
    let pods = cluster.list(&kinds::PODS, "default").await;
    let name = pods[0]["metadata"]["name"].as_str().unwrap();
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    let evicted = cluster
        .admin
        .create_subresource::<Value>(&kinds::PODS, "default", name, "eviction", &eviction)
        .await;
    evicted.unwrap();
    assert_eq!(status().await.0, 0, "spent at once");
    cluster
        .until("a new Pod has taken its place", async || {
            cluster.run_pods().await;
            status().await == (1, 4, 3, 4)
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_stays_while_a_pod_uses_it() {
    let cluster = Cluster::start().await;
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    cluster
        .create(&kinds::PERSISTENT_VOLUME_CLAIMS, claim)
        .await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "user"},
        "spec": {
            "nodeName": "n", "containers": [{"name": "c", "image": "i"}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}],
        },
    });
    // Its node must be there, or the Pod is garbage.
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
    cluster
        .admin
        .create::<Value>(&kinds::NODES, "", &node)
        .await
        .unwrap();
    cluster.create(&kinds::PODS, pod).await;
    let options = client::DeleteOptions::default();
    let kind = kinds::PERSISTENT_VOLUME_CLAIMS;
    cluster
        .admin
        .delete(&kind, "default", "data", &options)
        .await
        .unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(30)).await;
    let held = cluster.get(&kind, "data").await;
    assert!(held["metadata"]["deletionTimestamp"].is_string());
    let ended = json!({"status": {"phase": "Succeeded"}});
    cluster.merge(&kinds::PODS, "user", "status", ended).await;
    cluster
        .until("the claim is gone", async || {
            cluster.list(&kind, "default").await.is_empty()
        })
        .await;
}
