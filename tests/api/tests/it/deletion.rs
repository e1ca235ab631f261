//! Deletion: grace, finalizers, propagation, preconditions.

use serde_json::{Value, json};
use test_support::Server;
use test_support::api_server::pod;

async fn running_pod(server: &Server, name: &str) -> String {
    let pods = "/api/v1/namespaces/demo/pods";
    drop(server.send("POST", pods, &pod(name)).await.ok());
    let binding = json!({"target": {"kind": "Node", "name": "n1"}});
    assert_eq!(
        server
            .send("POST", &format!("{pods}/{name}/binding"), &binding)
            .await
            .code,
        201
    );
    format!("{pods}/{name}")
}

#[tokio::test(start_paused = true)]
async fn a_pod_gets_its_grace_and_goes_when_the_kubelet_says_so() {
    let server = Server::start().await;
    server.namespace("demo").await;
    let path = running_pod(&server, "a").await;
    let deleting = server.send("DELETE", &path, &Value::Null).await.ok();
    assert_eq!(deleting["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(
        deleting["metadata"]["deletionTimestamp"],
        "2026-01-01T00:00:30Z"
    );
    let shorter = server
        .send("DELETE", &path, &json!({"gracePeriodSeconds": 5}))
        .await
        .ok();
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    let longer = server
        .send("DELETE", &path, &json!({"gracePeriodSeconds": 60}))
        .await
        .ok();
    assert_eq!(
        longer["metadata"]["deletionGracePeriodSeconds"], 5,
        "a second delete cannot prolong it"
    );
    let other = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "other"}});
    assert_eq!(server.send("DELETE", &path, &other).await.code, 409);
    let now =
        json!({"gracePeriodSeconds": 0, "preconditions": {"uid": deleting["metadata"]["uid"]}});
    drop(server.send("DELETE", &path, &now).await.ok());
    assert_eq!(server.send("GET", &path, &Value::Null).await.code, 404);
}

#[tokio::test(start_paused = true)]
async fn a_pod_without_a_node_goes_at_once() {
    let server = Server::start().await;
    server.namespace("demo").await;
    drop(
        server
            .send("POST", "/api/v1/namespaces/demo/pods", &pod("a"))
            .await
            .ok(),
    );
    drop(
        server
            .send("DELETE", "/api/v1/namespaces/demo/pods/a", &Value::Null)
            .await
            .ok(),
    );
    assert_eq!(
        server
            .send("GET", "/api/v1/namespaces/demo/pods/a", &Value::Null)
            .await
            .code,
        404
    );
}

#[tokio::test(start_paused = true)]
async fn finalizers_hold_an_object_until_they_are_done() {
    let server = Server::start().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let held = json!({"metadata": {"name": "a", "finalizers": ["example.com/mine"]}});
    drop(server.send("POST", path, &held).await.ok());
    let one = format!("{path}/a");
    let foreground = json!({"propagationPolicy": "Foreground"});
    let deleting = server.send("DELETE", &one, &foreground).await.ok();
    assert_eq!(
        deleting["metadata"]["finalizers"],
        json!(["example.com/mine", "foregroundDeletion"])
    );
    let mut free = deleting.clone();
    free["metadata"]["finalizers"] = json!([]);
    drop(server.send("PUT", &one, &free).await.ok());
    assert_eq!(server.send("GET", &one, &Value::Null).await.code, 404);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_takes_nothing_new_while_it_ends() {
    let server = Server::start().await;
    server.namespace("demo").await;
    let deleting = server
        .send("DELETE", "/api/v1/namespaces/demo", &Value::Null)
        .await
        .ok();
    assert_eq!(deleting["status"]["phase"], "Terminating");
    let refused = server
        .send(
            "POST",
            "/api/v1/namespaces/demo/configmaps",
            &json!({"metadata": {"name": "a"}}),
        )
        .await;
    assert_eq!(
        refused.status(),
        "403 Forbidden: configmaps \"a\" is forbidden: unable to create new content in namespace demo because it is being terminated"
    );
    let mut done = deleting.clone();
    done["spec"]["finalizers"] = json!([]);
    drop(
        server
            .send("PUT", "/api/v1/namespaces/demo/finalize", &done)
            .await
            .ok(),
    );
    assert_eq!(
        server
            .send("GET", "/api/v1/namespaces/demo", &Value::Null)
            .await
            .code,
        404
    );
    assert_eq!(
        server
            .send("DELETE", "/api/v1/namespaces/kube-system", &Value::Null)
            .await
            .code,
        403
    );
}

#[tokio::test(start_paused = true)]
async fn a_collection_is_deleted_by_selector() {
    let server = Server::start().await;
    let path = "/api/v1/namespaces/default/configmaps";
    for (name, label) in [("a", "1"), ("b", "2"), ("c", "1")] {
        drop(
            server
                .send(
                    "POST",
                    path,
                    &json!({"metadata": {"name": name, "labels": {"l": label}}}),
                )
                .await
                .ok(),
        );
    }
    drop(
        server
            .send(
                "DELETE",
                &format!("{path}?labelSelector=l%3D1"),
                &Value::Null,
            )
            .await
            .ok(),
    );
    let left = server
        .send("GET", &format!("{path}?labelSelector=l"), &Value::Null)
        .await
        .ok();
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    assert_eq!(left["items"][0]["metadata"]["name"], "b");
}
