use client::resource::kinds;
use client::{DeleteOptions, Propagation};
use serde_json::{Value, json};

use crate::cluster::{Cluster, deployment, template};

#[tokio::test(start_paused = true)]
async fn a_replication_controller_makes_scales_and_adopts_pods() {
    let cluster = Cluster::start().await;
    let loose = template("rc", "web:1");
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "loose", "labels": {"app": "rc"}}});
    pod["spec"] = loose["spec"].clone();
    cluster.create(&kinds::PODS, pod).await;
    let rc = json!({
        "apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "rc"},
        "spec": {"replicas": 3, "template": template("rc", "web:1")},
    });
    cluster.create(&kinds::REPLICATION_CONTROLLERS, rc).await;
    let pods = async || cluster.list(&kinds::PODS, "default").await;
    cluster
        .until("three Pods", async || pods().await.len() == 3)
        .await;
    let adopted = cluster.get(&kinds::PODS, "loose").await;
    assert_eq!(
        adopted["metadata"]["ownerReferences"][0]["kind"],
        "ReplicationController"
    );
    cluster.run_pods().await;
    let status =
        async || cluster.get(&kinds::REPLICATION_CONTROLLERS, "rc").await["status"].clone();
    cluster
        .until("ready", async || status().await["readyReplicas"] == 3)
        .await;
    cluster
        .merge(
            &kinds::REPLICATION_CONTROLLERS,
            "rc",
            "",
            json!({"spec": {"replicas": 1}}),
        )
        .await;
    cluster
        .until("one Pod", async || {
            pods().await.len() == 1 && status().await["replicas"] == 1
        })
        .await;
    // A Pod whose labels no longer fit is let go and replaced.
    let kept = pods().await[0]["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    cluster
        .merge(
            &kinds::PODS,
            &kept,
            "",
            json!({"metadata": {"labels": {"app": "other"}}}),
        )
        .await;
    cluster
        .until("a new one", async || pods().await.len() == 2)
        .await;
    let released = cluster.get(&kinds::PODS, &kept).await;
    let owners = released["metadata"]["ownerReferences"]
        .as_array()
        .map_or(0, Vec::len);
    assert_eq!(owners, 0, "{released}");
    let events = cluster.list(&kinds::EVENTS, "default").await;
    let reasons: Vec<_> = events
        .iter()
        .map(|e| e["reason"].as_str().unwrap())
        .collect();
    assert!(
        reasons.contains(&"SuccessfulCreate") && reasons.contains(&"SuccessfulDelete"),
        "{reasons:?}"
    );
}

async fn rolled_out(cluster: &Cluster, name: &str) {
    cluster
        .until("rolled out", async || {
            cluster.run_pods().await;
            let d = cluster.get(&kinds::DEPLOYMENTS, name).await;
            let wanted = &d["spec"]["replicas"];
            let s = &d["status"];
            s["observedGeneration"] == d["metadata"]["generation"]
                && s["updatedReplicas"] == *wanted
                && s["replicas"] == *wanted
                && s["availableReplicas"] == *wanted
        })
        .await;
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let list = object["status"]["conditions"].as_array().unwrap();
    list.iter()
        .find(|c| c["type"] == kind)
        .unwrap_or(&Value::Null)
}

#[tokio::test(start_paused = true)]
async fn a_deployment_rolls_out_scales_and_goes_back() {
    let cluster = Cluster::start().await;
    cluster
        .create(&kinds::DEPLOYMENTS, deployment("web", 4))
        .await;
    rolled_out(&cluster, "web").await;
    let current = async || cluster.get(&kinds::DEPLOYMENTS, "web").await;
    let complete =
        async || condition(&current().await, "Progressing")["reason"] == "NewReplicaSetAvailable";
    cluster.until("complete", complete).await;
    assert_eq!(
        current().await["metadata"]["annotations"]["deployment.kubernetes.io/revision"],
        "1"
    );
    assert_eq!(condition(&current().await, "Available")["status"], "True");

    let image = |v: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": v}]}}}});
    cluster
        .merge(&kinds::DEPLOYMENTS, "web", "", image("web:2"))
        .await;
    rolled_out(&cluster, "web").await;
    cluster.until("complete", complete).await;
    let sets = cluster.list(&kinds::REPLICA_SETS, "default").await;
    let sizes: Vec<_> = sets
        .iter()
        .map(|s| s["spec"]["replicas"].as_i64().unwrap())
        .collect();
    assert_eq!(sizes.iter().sum::<i64>(), 4, "{sizes:?}");
    assert_eq!(sets.len(), 2);

    // Back to the first template, as `kubectl rollout undo` does: the first ReplicaSet gets the next revision.
    let back = template("web", "web:1");
    cluster
        .merge(
            &kinds::DEPLOYMENTS,
            "web",
            "",
            json!({"spec": {"template": {"spec": back["spec"]}}}),
        )
        .await;
    rolled_out(&cluster, "web").await;
    let revision = async || {
        current().await["metadata"]["annotations"]["deployment.kubernetes.io/revision"].clone()
    };
    cluster
        .until("revision 3", async || revision().await == "3")
        .await;
    assert_eq!(cluster.list(&kinds::REPLICA_SETS, "default").await.len(), 2);

    cluster
        .merge(
            &kinds::DEPLOYMENTS,
            "web",
            "",
            json!({"spec": {"replicas": 2}}),
        )
        .await;
    rolled_out(&cluster, "web").await;
    let events = cluster.list(&kinds::EVENTS, "default").await;
    let said = |text: &str| {
        events
            .iter()
            .any(|e| e["message"].as_str().unwrap().starts_with(text))
    };
    assert!(said("Scaled up replica set web-") && said("Scaled down replica set web-"));
}

#[tokio::test(start_paused = true)]
async fn a_rollout_that_hangs_misses_its_deadline_and_recreate_waits() {
    let cluster = Cluster::start().await;
    let mut slow = deployment("slow", 1);
    slow["spec"]["progressDeadlineSeconds"] = 30.into();
    slow["spec"]["strategy"] = json!({"type": "Recreate"});
    cluster.create(&kinds::DEPLOYMENTS, slow).await;
    let current = async || cluster.get(&kinds::DEPLOYMENTS, "slow").await;
    cluster
        .until("too late", async || {
            condition(&current().await, "Progressing")["reason"] == "ProgressDeadlineExceeded"
        })
        .await;
    rolled_out(&cluster, "slow").await;
    let image =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "web:2"}]}}}});
    cluster.merge(&kinds::DEPLOYMENTS, "slow", "", image).await;
    rolled_out(&cluster, "slow").await;
    let pods = cluster.list(&kinds::PODS, "default").await;
    assert_eq!(pods.len(), 1);
    assert_eq!(pods[0]["spec"]["containers"][0]["image"], "web:2");
}

#[tokio::test(start_paused = true)]
async fn many_pods_are_made_once_each() {
    let cluster = Cluster::start().await;
    cluster
        .create(&kinds::DEPLOYMENTS, deployment("many", 200))
        .await;
    let pods = async || cluster.list(&kinds::PODS, "default").await.len();
    cluster
        .until("200 Pods", async || pods().await >= 200)
        .await;
    tokio::time::sleep(std::time::Duration::from_secs(30)).await;
    assert_eq!(pods().await, 200);
    let options = DeleteOptions {
        propagation_policy: Some(Propagation::Background),
        ..Default::default()
    };
    cluster
        .admin
        .delete(&kinds::DEPLOYMENTS, "default", "many", &options)
        .await
        .unwrap();
    cluster.until("all gone", async || pods().await == 0).await;
}
