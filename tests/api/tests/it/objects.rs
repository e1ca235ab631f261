//! Creating, reading, changing.

use serde_json::{Value, json};
use test_support::Server;
use test_support::api_server::ADMIN;
use test_support::api_server::pod;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn config_map(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": {"a": "1"}})
}

#[tokio::test(start_paused = true)]
async fn what_was_created_is_read_and_has_what_the_server_sets() {
    let server = Server::start().await;
    let created = server
        .send("POST", CONFIG_MAPS, &config_map("a", json!({})))
        .await
        .ok();
    let read = server
        .send("GET", &format!("{CONFIG_MAPS}/a"), &Value::Null)
        .await
        .ok();
    assert_eq!(created, read);
    let metadata = &read["metadata"];
    assert_eq!(metadata["namespace"], "default");
    assert_eq!(metadata["creationTimestamp"], "2026-01-01T00:00:00Z");
    assert_eq!(metadata["uid"].as_str().unwrap().len(), 36);
    assert!(
        metadata["resourceVersion"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            > 1
    );
    let again = server
        .send("POST", CONFIG_MAPS, &config_map("a", json!({})))
        .await;
    assert_eq!(
        again.status(),
        "409 AlreadyExists: configmaps \"a\" already exists"
    );
}

#[tokio::test(start_paused = true)]
async fn names_are_generated_and_dry_runs_leave_nothing() {
    let server = Server::start().await;
    let body = json!({"metadata": {"generateName": "x-"}, "data": {}});
    let made = server.send("POST", CONFIG_MAPS, &body).await.ok();
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("x-") && name.len() == 7, "{name}");
    let dry = server
        .send(
            "POST",
            &format!("{CONFIG_MAPS}?dryRun=All"),
            &config_map("dry", json!({})),
        )
        .await
        .ok();
    assert_eq!(dry["metadata"]["name"], "dry");
    let gone = server
        .send("GET", &format!("{CONFIG_MAPS}/dry"), &Value::Null)
        .await;
    assert_eq!(gone.status(), "404 NotFound: configmaps \"dry\" not found");
}

#[tokio::test(start_paused = true)]
async fn a_stale_writer_is_refused_and_an_equal_write_changes_nothing() {
    let server = Server::start().await;
    let first = server
        .send("POST", CONFIG_MAPS, &config_map("a", json!({})))
        .await
        .ok();
    let path = format!("{CONFIG_MAPS}/a");
    let mut second = first.clone();
    second["data"]["a"] = "2".into();
    let second = server.send("PUT", &path, &second).await.ok();
    assert_ne!(
        first["metadata"]["resourceVersion"],
        second["metadata"]["resourceVersion"]
    );
    let mut stale = first.clone();
    stale["data"]["a"] = "3".into();
    assert_eq!(
        server.send("PUT", &path, &stale).await.status(),
        "409 Conflict: Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply \
         your changes to the latest version and try again"
    );
    let same = server.send("PUT", &path, &second).await.ok();
    assert_eq!(
        same["metadata"]["resourceVersion"],
        second["metadata"]["resourceVersion"]
    );
}

#[tokio::test(start_paused = true)]
async fn the_three_patches_change_what_they_say() {
    let server = Server::start().await;
    server.namespace("demo").await;
    let pods = "/api/v1/namespaces/demo/pods";
    drop(server.send("POST", pods, &pod("a")).await.ok());
    let cases = [
        (
            "application/merge-patch+json",
            json!({"metadata": {"labels": {"m": "1"}}}),
            "m",
        ),
        (
            "application/json-patch+json",
            json!([{"op": "add", "path": "/metadata/labels/j", "value": "1"}]),
            "j",
        ),
        (
            "application/strategic-merge-patch+json",
            json!({"metadata": {"labels": {"s": "1"}}}),
            "s",
        ),
    ];
    for (kind, patch, label) in cases {
        let headers = [("content-type", kind)];
        let path = format!("{pods}/a");
        let patched = server
            .raw(ADMIN, "PATCH", &path, &headers, patch.to_string())
            .await
            .ok();
        assert_eq!(patched["metadata"]["labels"][label], "1", "{kind}");
    }
    // Containers merge by name: the image changes, the rest stays.
    let patch = json!({"spec": {"containers": [{"name": "main", "image": "localhost/test:2"}]}});
    let headers = [("content-type", "application/strategic-merge-patch+json")];
    let patched = server
        .raw(
            ADMIN,
            "PATCH",
            &format!("{pods}/a"),
            &headers,
            patch.to_string(),
        )
        .await
        .ok();
    assert_eq!(patched["spec"]["containers"].as_array().unwrap().len(), 1);
    assert_eq!(
        patched["spec"]["containers"][0]["image"],
        "localhost/test:2"
    );
    assert_eq!(
        patched["spec"]["containers"][0]["terminationMessagePath"],
        "/dev/termination-log"
    );
    let apply = server
        .raw(
            ADMIN,
            "PATCH",
            &format!("{pods}/a?fieldManager=x"),
            &[("content-type", "application/apply-patch+yaml")],
            "{}",
        )
        .await;
    assert_eq!(
        apply.status(),
        "400 BadRequest: invalid object type: /, Kind="
    );
}

#[tokio::test(start_paused = true)]
async fn the_status_is_split_from_the_spec() {
    let server = Server::start().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({
        "metadata": {"name": "a"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]},
        }},
        "status": {"replicas": 7},
    });
    let created = server.send("POST", deployments, &deployment).await.ok();
    assert_eq!(created["status"], json!({}), "a new object has no status");
    assert_eq!(created["spec"]["replicas"], 1);
    assert_eq!(created["metadata"]["generation"], 1);
    let path = format!("{deployments}/a");
    let mut status = created.clone();
    status["status"]["replicas"] = 3.into();
    status["spec"]["replicas"] = 9.into();
    let status = server
        .send("PUT", &format!("{path}/status"), &status)
        .await
        .ok();
    assert_eq!(
        (&status["status"]["replicas"], &status["spec"]["replicas"]),
        (&json!(3), &json!(1))
    );
    assert_eq!(status["metadata"]["generation"], 1);
    let mut spec = status.clone();
    spec["spec"]["replicas"] = 5.into();
    spec["status"]["replicas"] = 100.into();
    let spec = server.send("PUT", &path, &spec).await.ok();
    assert_eq!(
        (&spec["status"]["replicas"], &spec["spec"]["replicas"]),
        (&json!(3), &json!(5))
    );
    assert_eq!(spec["metadata"]["generation"], 2);
    let scale = server
        .send("GET", &format!("{path}/scale"), &Value::Null)
        .await
        .ok();
    assert_eq!(scale["spec"]["replicas"], 5);
    assert_eq!(scale["status"]["selector"], "a=b");
    let mut scale = scale;
    scale["spec"]["replicas"] = 0.into();
    drop(
        server
            .send("PUT", &format!("{path}/scale"), &scale)
            .await
            .ok(),
    );
    assert_eq!(
        server.send("GET", &path, &Value::Null).await.ok()["spec"]["replicas"],
        0
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_is_created_with_its_status_and_tainted_until_it_is_ready() {
    let server = Server::start().await;
    let node = json!({"metadata": {"name": "n"}, "status": {"capacity": {"cpu": "4"}}});
    let node = server.send("POST", "/api/v1/nodes", &node).await.ok();
    assert_eq!(node["status"]["capacity"]["cpu"], "4");
    assert_eq!(
        node["spec"]["taints"],
        json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}])
    );
}

#[tokio::test(start_paused = true)]
async fn lists_are_selected_and_paged_at_one_revision() {
    let server = Server::start().await;
    server.namespace("demo").await;
    let path = "/api/v1/namespaces/demo/configmaps";
    for i in 0..7 {
        let odd = if i % 2 == 1 { "yes" } else { "no" };
        drop(
            server
                .send(
                    "POST",
                    path,
                    &config_map(&format!("c{i}"), json!({"odd": odd})),
                )
                .await
                .ok(),
        );
    }
    let names = |list: &Value| -> Vec<String> {
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|o| o["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let odd = server
        .send(
            "GET",
            &format!("{path}?labelSelector=odd%3Dyes"),
            &Value::Null,
        )
        .await
        .ok();
    assert_eq!(names(&odd), ["c1", "c3", "c5"]);
    let one = server
        .send(
            "GET",
            &format!("{path}?fieldSelector=metadata.name%3Dc4"),
            &Value::Null,
        )
        .await
        .ok();
    assert_eq!(names(&one), ["c4"]);
    let first = server
        .send("GET", &format!("{path}?limit=3"), &Value::Null)
        .await
        .ok();
    assert_eq!(names(&first), ["c0", "c1", "c2"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    // What comes after the first page does not show up in the next ones.
    drop(
        server
            .send("POST", path, &config_map("c3b", json!({})))
            .await
            .ok(),
    );
    let token = first["metadata"]["continue"].as_str().unwrap();
    let rest = server
        .send("GET", &format!("{path}?continue={token}"), &Value::Null)
        .await
        .ok();
    assert_eq!(names(&rest), ["c3", "c4", "c5", "c6"]);
    let unknown = server
        .send(
            "GET",
            &format!("{path}?fieldSelector=spec.x%3Dy"),
            &Value::Null,
        )
        .await;
    assert_eq!(unknown.code, 400);
}

#[tokio::test(start_paused = true)]
async fn tables_have_upstreams_columns() {
    let server = Server::start().await;
    server.namespace("demo").await;
    drop(
        server
            .send("POST", "/api/v1/namespaces/demo/pods", &pod("a"))
            .await
            .ok(),
    );
    let accept = [(
        "accept",
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
    )];
    let table = server
        .raw(ADMIN, "GET", "/api/v1/namespaces/demo/pods", &accept, "")
        .await
        .ok();
    let names: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "Name",
            "Ready",
            "Status",
            "Restarts",
            "Age",
            "IP",
            "Node",
            "Nominated Node",
            "Readiness Gates"
        ]
    );
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["cells"][1], "0/1");
    assert_eq!(table["rows"][0]["cells"][2], "Pending");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
}

#[tokio::test(start_paused = true)]
async fn services_get_addresses_and_ports() {
    let server = Server::start().await;
    let path = "/api/v1/namespaces/default/services";
    let service = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let one = service(
        "a",
        json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}),
    );
    let one = server.send("POST", path, &one).await.ok();
    assert!(
        one["spec"]["clusterIP"]
            .as_str()
            .unwrap()
            .starts_with("10.43.")
    );
    let clash = service(
        "b",
        json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}),
    );
    assert_eq!(
        server.send("POST", path, &clash).await.status(),
        "422 Invalid: Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated"
    );
    drop(
        server
            .send("DELETE", &format!("{path}/a"), &Value::Null)
            .await
            .ok(),
    );
    drop(server.send("POST", path, &clash).await.ok());
    let kubernetes = server
        .send("GET", &format!("{path}/kubernetes"), &Value::Null)
        .await
        .ok();
    assert_eq!(kubernetes["spec"]["clusterIP"], "10.43.0.1");
}

#[tokio::test(start_paused = true)]
async fn discovery_names_what_is_served() {
    let server = Server::start().await;
    let list = server.send("GET", "/apis/apps/v1", &Value::Null).await.ok();
    let names: Vec<&str> = list["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"deployments/scale"), "{names:?}");
    assert!(names.contains(&"statefulsets/status"), "{names:?}");
    let accept = [(
        "accept",
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
    )];
    let aggregated = server
        .raw(
            Some(("a", &["system:masters"])),
            "GET",
            "/apis",
            &accept,
            "",
        )
        .await
        .ok();
    assert_eq!(aggregated["kind"], "APIGroupDiscoveryList");
    let missing = server
        .send(
            "GET",
            "/apis/apps/v1/namespaces/default/petsets",
            &Value::Null,
        )
        .await;
    assert_eq!(
        missing.status(),
        "404 NotFound: the server could not find the requested resource"
    );
}

#[tokio::test(start_paused = true)]
async fn pods_get_their_service_account_and_tolerations() {
    let server = Server::start().await;
    server.namespace("demo").await;
    let made = server
        .send("POST", "/api/v1/namespaces/demo/pods", &pod("a"))
        .await
        .ok();
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(made["spec"]["priority"], 0);
    assert_eq!(made["spec"]["tolerations"].as_array().unwrap().len(), 2);
    let mount = &made["spec"]["containers"][0]["volumeMounts"][0];
    assert_eq!(
        mount["mountPath"],
        "/var/run/secrets/kubernetes.io/serviceaccount"
    );
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n1"}});
    let bind = "/api/v1/namespaces/demo/pods/a/binding";
    assert_eq!(server.send("POST", bind, &binding).await.code, 201);
    assert_eq!(
        server.send("POST", bind, &binding).await.status(),
        "409 Conflict: Operation cannot be fulfilled on pods/binding \"a\": pod a is already assigned to node \"n1\""
    );
}

#[tokio::test(start_paused = true)]
async fn both_groups_of_events_show_the_same_objects() {
    let server = Server::start().await;
    server.namespace("demo").await;
    let core = "/api/v1/namespaces/demo/events";
    let event = json!({
        "metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "namespace": "demo", "name": "p"},
        "reason": "Started", "message": "it runs", "type": "Normal", "count": 2, "source": {"component": "c"},
    });
    drop(server.send("POST", core, &event).await.ok());
    let new = "/apis/events.k8s.io/v1/namespaces/demo/events";
    let path = format!("{new}?fieldSelector=regarding.kind%3DPod");
    let list = server.send("GET", &path, &Value::Null).await.ok();
    assert_eq!(list["kind"], "EventList");
    assert_eq!(list["apiVersion"], "events.k8s.io/v1");
    let seen = &list["items"][0];
    assert_eq!(seen["apiVersion"], "events.k8s.io/v1");
    assert_eq!(
        (
            &seen["note"],
            &seen["deprecatedCount"],
            &seen["regarding"]["name"]
        ),
        (&json!("it runs"), &json!(2), &json!("p"))
    );
    let patch = json!({"note": "it runs well"}).to_string();
    let headers = [("content-type", "application/merge-patch+json")];
    let path = format!("{new}/e");
    let answer = server.raw(ADMIN, "PATCH", &path, &headers, patch).await;
    assert_eq!(answer.ok()["note"], "it runs well");
    let path = format!("{core}/e");
    let stored = server.send("GET", &path, &Value::Null).await.ok();
    assert_eq!(stored["message"], "it runs well");
    assert_eq!(stored["apiVersion"], "v1");
}

#[tokio::test]
async fn whoever_creates_what_nothing_acts_on_is_told() {
    let server = Server::start().await;
    let crd = json!({
        "metadata": {"name": "cars.example.com"},
        "spec": {
            "group": "example.com", "scope": "Cluster", "names": {"plural": "cars", "kind": "Car"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {
                "openAPIV3Schema": {"type": "object"},
            }}],
        },
    });
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let answer = server.send("POST", path, &crd).await;
    let want = "299 - \"Skiff keeps CustomResourceDefinition objects but does not act on them yet: the kind is not served\"";
    assert_eq!(answer.warnings, [want]);
    drop(answer.ok());
    let class = json!({"metadata": {"name": "c"}, "provisioner": "example.com/p"});
    let path = "/apis/storage.k8s.io/v1/storageclasses";
    assert!(server.send("POST", path, &class).await.warnings.is_empty());
}
