use client::resource::kinds;
use serde_json::{Value, json};

use crate::cluster::{Cluster, deployment};

#[tokio::test(start_paused = true)]
async fn endpoints_follow_the_pods() {
    let cluster = Cluster::start().await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "web"}]},
    });
    cluster.create(&kinds::SERVICES, service).await;
    let ours = async || -> Vec<Value> {
        let slices = cluster.list(&kinds::ENDPOINT_SLICES, "default").await;
        slices
            .into_iter()
            .filter(|s| s["metadata"]["labels"]["kubernetes.io/service-name"] == "web")
            .collect()
    };
    cluster
        .until("an empty slice", async || ours().await.len() == 1)
        .await;
    cluster
        .create(&kinds::DEPLOYMENTS, deployment("web", 3))
        .await;
    cluster
        .until("three ready endpoints", async || {
            cluster.run_pods().await;
            let slices = ours().await;
            slices.len() == 1
                && slices[0]["endpoints"].as_array().is_some_and(|e| {
                    e.len() == 3 && e.iter().all(|e| e["conditions"]["ready"] == true)
                })
        })
        .await;
    let slice = &ours().await[0];
    assert_eq!(slice["ports"][0]["port"], 8080);
    assert!(
        slice["metadata"]["name"]
            .as_str()
            .unwrap()
            .starts_with("web-")
    );
    let ready = async || {
        let endpoints = cluster
            .admin
            .get::<Value>(&kinds::ENDPOINTS, "default", "web")
            .await;
        endpoints.is_ok_and(|e| e["subsets"][0]["addresses"].as_array().map_or(0, Vec::len) == 3)
    };
    cluster.until("Endpoints", ready).await;
    cluster
        .admin
        .delete(
            &kinds::SERVICES,
            "default",
            "web",
            &client::DeleteOptions::default(),
        )
        .await
        .unwrap();
    cluster
        .until("no slice", async || ours().await.is_empty())
        .await;
    let gone = async || {
        cluster
            .admin
            .get::<Value>(&kinds::ENDPOINTS, "default", "web")
            .await
            .is_err()
    };
    cluster.until("no Endpoints", gone).await;
}
