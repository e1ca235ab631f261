//! The parts of a Pod that change through subresources of their own: its ephemeral containers and its resources.
//!
//! Follows <https://kubernetes.io/docs/concepts/workloads/pods/ephemeral-containers/> and
//! <https://kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources/>.

use serde_json::{Value, json};
use test_support::Server;
use test_support::api_server::{ADMIN, pod};

const PODS: &str = "/api/v1/namespaces/demo/pods";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

async fn made(server: &Server, edit: impl FnOnce(&mut Value)) -> Value {
    server.namespace("demo").await;
    let mut pod = pod("web");
    edit(&mut pod);
    server.send("POST", PODS, &pod).await.ok()
}

async fn patch(
    server: &Server,
    part: &str,
    content_type: &str,
    body: &Value,
) -> test_support::Answer {
    let path = format!("{PODS}/web/{part}");
    let headers = [("content-type", content_type)];
    server
        .raw(ADMIN, "PATCH", &path, &headers, body.to_string())
        .await
}

async fn put(server: &Server, part: &str, pod: &Value) -> test_support::Answer {
    server.send("PUT", &format!("{PODS}/web/{part}"), pod).await
}

fn container(pod: &Value) -> Value {
    pod["spec"]["containers"][0]["resources"].clone()
}

/// A Pod whose container has requests and limits.
fn sized(pod: &mut Value) {
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "200m", "memory": "128Mi"}});
}

#[tokio::test(start_paused = true)]
async fn ephemeral_containers_come_and_stay() {
    let server = Server::start().await;
    let target = made(&server, |_| {}).await["spec"]["containers"][0]["name"].clone();
    let debug = json!({"name": "debug", "image": "tools:1", "targetContainerName": target});
    let body = json!({"spec": {"ephemeralContainers": [debug]}});
    let answer = patch(&server, "ephemeralcontainers", STRATEGIC, &body)
        .await
        .ok();
    assert_eq!(answer["metadata"]["generation"], 2);
    let made = &answer["spec"]["ephemeralContainers"][0];
    assert_eq!(made["imagePullPolicy"], "IfNotPresent");
    assert_eq!(made["terminationMessagePolicy"], "File");
    let path = format!("{PODS}/web/ephemeralcontainers");
    let read = server.send("GET", &path, &Value::Null).await.ok();
    assert_eq!(read, answer);

    // A second one comes beside the first.
    let body = json!({"spec": {"ephemeralContainers": [{"name": "more", "image": "tools:1"}]}});
    let both = patch(&server, "ephemeralcontainers", STRATEGIC, &body)
        .await
        .ok();
    let list = both["spec"]["ephemeralContainers"].as_array().unwrap();
    assert_eq!(list.len(), 2);

    let mut fewer = both.clone();
    fewer["spec"]["ephemeralContainers"] = json!([]);
    let refused = put(&server, "ephemeralcontainers", &fewer).await;
    assert_eq!(refused.code, 422);
    let causes = refused.body["details"]["causes"].as_array().unwrap();
    let messages: Vec<&str> = causes
        .iter()
        .map(|c| c["message"].as_str().unwrap())
        .collect();
    let mut gone = ["debug", "more"].map(|name| {
        format!("Forbidden: existing ephemeral containers \"{name}\" may not be removed\n")
    });
    gone.sort();
    let mut messages = messages;
    messages.sort_unstable();
    assert_eq!(messages, gone);

    let mut other = both.clone();
    let first = &mut other["spec"]["ephemeralContainers"][0];
    first["image"] = "tools:2".into();
    let name = first["name"].as_str().unwrap().to_owned();
    assert_eq!(
        put(&server, "ephemeralcontainers", &other).await.status(),
        format!(
            "422 Invalid: Pod \"web\" is invalid: spec.ephemeralContainers: Forbidden: existing ephemeral containers \
             \"{name}\" may not be changed\n"
        )
    );
}

#[tokio::test(start_paused = true)]
async fn ephemeral_containers_are_no_workload() {
    let server = Server::start().await;
    made(&server, |_| {}).await;
    let debug = json!({
        "name": "debug", "image": " tools:1", "targetContainerName": "none",
        "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1"}},
    });
    let body = json!({"spec": {"ephemeralContainers": [debug]}});
    let refused = patch(&server, "ephemeralcontainers", MERGE, &body).await;
    let not = "cannot be set for an Ephemeral Container";
    let at = "spec.ephemeralContainers[0]";
    assert_eq!(
        refused.status(),
        format!(
            "422 Invalid: Pod \"web\" is invalid: [{at}.image: Invalid value: \" tools:1\": must not have leading or \
             trailing whitespace, {at}.targetContainerName: Not found: \"none\", {at}.ports: Forbidden: {not}, \
             {at}.resources: Forbidden: {not}]"
        )
    );
}

/// Whatever else is sent to a part changes nothing.
#[tokio::test(start_paused = true)]
async fn a_part_is_all_that_changes() {
    let server = Server::start().await;
    let old = made(&server, sized).await;
    for part in ["ephemeralcontainers", "resize"] {
        let mut new = old.clone();
        new["metadata"]["labels"] = json!({"other": "label"});
        new["spec"]["containers"][0]["image"] = "other:1".into();
        new["spec"]["hostname"] = "other".into();
        let answer = put(&server, part, &new).await.ok();
        assert_eq!(answer["spec"], old["spec"], "{part}");
        assert_eq!(answer["metadata"], old["metadata"], "{part}");
    }
    // Nor do the parts change through the Pod itself.
    let mut new = old.clone();
    new["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "300m".into();
    assert_eq!(put(&server, "", &new).await.code, 422);
}

#[tokio::test(start_paused = true)]
async fn a_resize_changes_cpu_and_memory() {
    let server = Server::start().await;
    let old = made(&server, sized).await;
    let name = old["spec"]["containers"][0]["name"].clone();
    let bigger = json!({"requests": {"cpu": "150m", "memory": "64Mi"}, "limits": {"cpu": "300m", "memory": "256Mi"}});
    let body = json!({"spec": {"containers": [{"name": name, "resources": bigger}]}});
    let answer = patch(&server, "resize", STRATEGIC, &body).await.ok();
    assert_eq!(container(&answer), bigger);
    assert_eq!(answer["metadata"]["generation"], 2);
    let read = server
        .send("GET", &format!("{PODS}/web"), &Value::Null)
        .await;
    assert_eq!(container(&read.ok()), bigger);
}

#[tokio::test(start_paused = true)]
async fn a_resize_keeps_within_its_rules() {
    let server = Server::start().await;
    let old = made(&server, sized).await;
    let refusals = [
        (
            json!({"requests": {"cpu": "200m", "memory": "128Mi"}, "limits": {"cpu": "200m", "memory": "128Mi"}}),
            "spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing",
        ),
        (
            json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "200m", "memory": "128Mi"}}),
            // What is not asked for is asked for by the limit.
            "",
        ),
        (
            json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "200m"}}),
            "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed",
        ),
        (
            json!({"requests": {"cpu": "100m", "memory": "64Mi", "ephemeral-storage": "1Gi"}, "limits": {"cpu": "200m", "memory": "128Mi"}}),
            "spec: Forbidden: only cpu and memory resources are mutable",
        ),
        (
            json!({"requests": {"cpu": "1", "memory": "64Mi"}, "limits": {"cpu": "200m", "memory": "128Mi"}}),
            "spec.containers[0].resources.requests: Invalid value: \"1\": must be less than or equal to cpu limit of 200m",
        ),
    ];
    for (resources, why) in refusals {
        let mut new = old.clone();
        new["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("resourceVersion");
        new["spec"]["containers"][0]["resources"] = resources.clone();
        let answer = put(&server, "resize", &new).await;
        let wanted = if why.is_empty() {
            assert_eq!(answer.code, 200, "{resources}: {}", answer.status());
            continue;
        } else {
            format!("422 Invalid: Pod \"web\" is invalid: {why}")
        };
        assert_eq!(answer.status(), wanted, "{resources}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_resize_adds_no_containers() {
    let server = Server::start().await;
    let old = made(&server, sized).await;
    let mut more = old.clone();
    let list = more["spec"]["containers"].as_array_mut().unwrap();
    list.insert(0, json!({"name": "more", "image": "app:1"}));
    let answer = put(&server, "resize", &more).await.ok();
    assert_eq!(answer["spec"], old["spec"]);
}
