use client::resource::kinds;
use client::{DeleteOptions, Propagation};
use serde_json::{Value, json};

use crate::cluster::{Cluster, deployment};

fn options(policy: Propagation) -> DeleteOptions {
    DeleteOptions {
        propagation_policy: Some(policy),
        ..Default::default()
    }
}

async fn made(cluster: &Cluster) {
    cluster
        .create(&kinds::DEPLOYMENTS, deployment("web", 2))
        .await;
    cluster
        .until("two Pods", async || {
            cluster.list(&kinds::PODS, "default").await.len() == 2
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn foreground_deletion_takes_the_dependents_first() {
    let cluster = Cluster::start().await;
    made(&cluster).await;
    cluster
        .admin
        .delete(
            &kinds::DEPLOYMENTS,
            "default",
            "web",
            &options(Propagation::Foreground),
        )
        .await
        .unwrap();
    cluster
        .until("the Deployment is gone", async || {
            cluster
                .list(&kinds::DEPLOYMENTS, "default")
                .await
                .is_empty()
        })
        .await;
    assert!(
        cluster
            .list(&kinds::REPLICA_SETS, "default")
            .await
            .is_empty()
    );
    assert!(cluster.list(&kinds::PODS, "default").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn orphans_live_on() {
    let cluster = Cluster::start().await;
    made(&cluster).await;
    cluster
        .admin
        .delete(
            &kinds::DEPLOYMENTS,
            "default",
            "web",
            &options(Propagation::Orphan),
        )
        .await
        .unwrap();
    cluster
        .until("the Deployment is gone", async || {
            cluster
                .list(&kinds::DEPLOYMENTS, "default")
                .await
                .is_empty()
        })
        .await;
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    let sets = cluster.list(&kinds::REPLICA_SETS, "default").await;
    assert_eq!(sets.len(), 1);
    assert!(sets[0]["metadata"]["ownerReferences"].is_null());
    assert_eq!(cluster.list(&kinds::PODS, "default").await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_namespace_is_emptied_and_goes() {
    let cluster = Cluster::start().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}});
    cluster
        .admin
        .create::<Value>(&kinds::NAMESPACES, "", &namespace)
        .await
        .unwrap();
    let has_root = async || {
        cluster
            .admin
            .get::<Value>(&kinds::CONFIG_MAPS, "team", "kube-root-ca.crt")
            .await
            .is_ok()
    };
    cluster.until("the root certificate", has_root).await;
    let account = async || {
        cluster
            .admin
            .get::<Value>(&kinds::SERVICE_ACCOUNTS, "team", "default")
            .await
            .is_ok()
    };
    cluster.until("the account", account).await;
    cluster
        .admin
        .create::<Value>(&kinds::DEPLOYMENTS, "team", &deployment("web", 2))
        .await
        .unwrap();
    cluster
        .until("two Pods", async || {
            cluster.list(&kinds::PODS, "team").await.len() == 2
        })
        .await;
    cluster
        .admin
        .delete(&kinds::NAMESPACES, "", "team", &DeleteOptions::default())
        .await
        .unwrap();
    cluster
        .until("the namespace is gone", async || {
            cluster
                .admin
                .get::<Value>(&kinds::NAMESPACES, "", "team")
                .await
                .is_err()
        })
        .await;
    for kind in [
        kinds::PODS,
        kinds::DEPLOYMENTS,
        kinds::REPLICA_SETS,
        kinds::CONFIG_MAPS,
    ] {
        assert!(
            cluster.list(&kind, "team").await.is_empty(),
            "{}",
            kind.plural
        );
    }
}

#[tokio::test(start_paused = true)]
async fn aggregated_roles_are_filled() {
    let cluster = Cluster::start().await;
    let rules = async || {
        let role: Value = cluster
            .admin
            .get(&controllers::views::CLUSTER_ROLES, "", "view")
            .await
            .unwrap();
        role["rules"].as_array().map_or(0, Vec::len)
    };
    cluster
        .until("view has rules", async || rules().await > 3)
        .await;
}
