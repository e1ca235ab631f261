//! Server-side apply and managed fields.

use serde_json::{Value, json};
use test_support::api_server::ADMIN;
use test_support::{Answer, Server};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SERVICES: &str = "/api/v1/namespaces/default/services";

async fn apply(server: &Server, path: &str, config: &Value) -> Answer {
    patch(server, path, "application/apply-patch+yaml", config).await
}

async fn patch(server: &Server, path: &str, content: &str, body: &Value) -> Answer {
    let headers = [("content-type", content), ("user-agent", "tester/1.0 (x)")];
    server
        .raw(ADMIN, "PATCH", path, &headers, body.to_string())
        .await
}

async fn start() -> Server {
    Server::start().await
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})
}

fn web(image: &str) -> Value {
    deployment(json!({
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": image}]}},
    }))
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
}

/// The entry of a manager: `Apply`, `Update`, or `Update/status`.
fn entry<'a>(object: &'a Value, manager: &str, operation: &str) -> &'a Value {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    let is = |e: &&Value| {
        let sub = e["subresource"]
            .as_str()
            .map_or(String::new(), |s| format!("/{s}"));
        e["manager"] == manager && format!("{}{sub}", e["operation"].as_str().unwrap()) == operation
    };
    entries
        .iter()
        .find(is)
        .unwrap_or_else(|| panic!("no {operation} of {manager} in {entries:#?}"))
}

fn managers(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array();
    let entries = entries.into_iter().flatten();
    entries
        .map(|e| {
            format!(
                "{} {}",
                e["manager"].as_str().unwrap(),
                e["operation"].as_str().unwrap()
            )
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn two_appliers_conflict_and_one_forces() {
    let server = start().await;
    let path = format!("{DEPLOYMENTS}/web?fieldManager=one");
    let created = apply(&server, &path, &web("x")).await;
    assert_eq!(created.code, 201);
    let created = created.ok();
    assert_eq!(managers(&created), ["one Apply"]);
    assert_eq!(created["spec"]["replicas"], 1);
    assert_eq!(
        entry(&created, "one", "Apply")["fieldsV1"],
        json!({"f:spec": {
            "f:selector": {},
            "f:template": {
                "f:metadata": {"f:labels": {"f:app": {}}},
                "f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}, "f:name": {}}}},
            },
        }})
    );
    let other = format!("{DEPLOYMENTS}/web?fieldManager=two");
    let mut wanted = web("y");
    wanted["spec"]["replicas"] = 3.into();
    wanted["metadata"]["labels"] = json!({"a": "b"});
    let refused = apply(&server, &other, &wanted).await;
    assert_eq!(
        refused.status(),
        "409 Conflict: Apply failed with 1 conflict: conflict with \"one\": .spec.template.spec.containers[name=\"a\"].image"
    );
    assert_eq!(
        refused.body["details"]["causes"],
        json!([{
            "reason": "FieldManagerConflict", "message": "conflict with \"one\"",
            "field": ".spec.template.spec.containers[name=\"a\"].image",
        }])
    );
    // A dry run tells what would be, and leaves nothing.
    let dry = apply(&server, &format!("{other}&force=true&dryRun=All"), &wanted)
        .await
        .ok();
    assert_eq!(
        dry["spec"]["template"]["spec"]["containers"][0]["image"],
        "y"
    );
    assert_eq!(managers(&dry), ["one Apply", "two Apply"]);
    let forced = apply(&server, &format!("{other}&force=true"), &wanted).await;
    assert_eq!(forced.code, 200);
    let forced = forced.ok();
    let one = entry(&forced, "one", "Apply");
    assert_eq!(
        one["fieldsV1"]["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"a\"}"],
        json!({".": {}, "f:name": {}})
    );
    assert_eq!(forced["metadata"]["generation"], 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_longer_applied_goes_unless_others_have_it() {
    let server = start().await;
    let path = |manager: &str| format!("{CONFIG_MAPS}/c?fieldManager={manager}");
    let both = config_map(json!({"a": "1", "b": "2"}));
    drop(apply(&server, &path("one"), &both).await.ok());
    drop(
        apply(&server, &path("two"), &config_map(json!({"b": "2"})))
            .await
            .ok(),
    );
    let left = apply(&server, &path("one"), &config_map(json!({"c": "3"})))
        .await
        .ok();
    assert_eq!(left["data"], json!({"b": "2", "c": "3"}));
    let left = apply(&server, &path("one"), &config_map(json!({"c": "3"})))
        .await
        .ok();
    // The same again changes nothing.
    assert_eq!(left["metadata"]["resourceVersion"], {
        let again = apply(&server, &path("one"), &config_map(json!({"c": "3"})))
            .await
            .ok();
        again["metadata"]["resourceVersion"].clone()
    });
    let mut labelled = config_map(json!({}));
    labelled["metadata"]["labels"] = json!({"x": "y"});
    labelled["metadata"]["finalizers"] = json!(["example.com/one"]);
    drop(apply(&server, &path("three"), &labelled).await.ok());
    labelled["metadata"]["finalizers"] = json!(["example.com/two"]);
    let with = apply(&server, &path("four"), &labelled).await.ok();
    assert_eq!(
        with["metadata"]["finalizers"],
        json!(["example.com/one", "example.com/two"])
    );
    let bare = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
    drop(apply(&server, &path("three"), &bare).await.ok());
    let without = apply(&server, &path("four"), &bare).await.ok();
    assert_eq!(without["metadata"].get("labels"), None);
    assert_eq!(without["metadata"].get("finalizers"), None);
    assert_eq!(managers(&without), ["one Apply", "two Apply"]);
}

#[tokio::test(start_paused = true)]
async fn lists_are_merged_by_their_keys() {
    let server = start().await;
    let service = |ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"selector": {"a": "b"}, "ports": ports}});
    let path = |manager: &str| format!("{SERVICES}/s?fieldManager={manager}");
    // The protocol is part of the key, and defaults to TCP.
    let first = service(json!([{"name": "dns", "port": 53, "protocol": "UDP"}]));
    drop(apply(&server, &path("one"), &first).await.ok());
    let second = service(
        json!([{"name": "dns-tcp", "port": 53}, {"name": "web", "port": 80, "targetPort": 8080}]),
    );
    let merged = apply(&server, &path("two"), &second).await.ok();
    let names: Vec<&Value> = merged["spec"]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| &p["name"])
        .collect();
    assert_eq!(names, ["dns", "dns-tcp", "web"]);
    let two = entry(&merged, "two", "Apply");
    assert_eq!(
        two["fieldsV1"]["f:spec"],
        json!({"f:selector": {}, "f:ports": {
            "k:{\"port\":53,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}, "f:port": {}},
            "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}, "f:port": {}, "f:targetPort": {}},
        }})
    );
    let fewer = service(json!([{"name": "web", "port": 80, "targetPort": 8080}]));
    let fewer = apply(&server, &path("two"), &fewer).await.ok();
    assert_eq!(fewer["spec"]["ports"].as_array().unwrap().len(), 2);
    assert!(fewer["spec"]["clusterIP"].is_string());
    // An atomic map is one field.
    let mut other = service(json!([]));
    other["spec"] = json!({"selector": {"a": "c"}});
    let refused = apply(&server, &path("three"), &other).await;
    assert_eq!(
        refused.body["message"],
        "Apply failed with 2 conflicts: conflicts with \"one\":\n- .spec.selector\nconflicts with \"two\":\n- .spec.selector"
    );
    // Env by name, arguments as one.
    let env = |env: Value, args: Value| {
        let mut wanted = web("x");
        let container = &mut wanted["spec"]["template"]["spec"]["containers"][0];
        container["env"] = env;
        container["args"] = args;
        wanted
    };
    let path = |manager: &str| format!("{DEPLOYMENTS}/web?fieldManager={manager}");
    let one = env(
        json!([{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]),
        json!(["a", "b"]),
    );
    drop(apply(&server, &path("one"), &one).await.ok());
    let two = env(json!([{"name": "C", "value": "3"}]), json!(["c"]));
    let refused = apply(&server, &path("two"), &two).await;
    assert_eq!(
        refused.body["message"],
        "Apply failed with 1 conflict: conflict with \"one\": .spec.template.spec.containers[name=\"a\"].args"
    );
    let merged = apply(&server, &format!("{}&force=true", path("two")), &two)
        .await
        .ok();
    let container = &merged["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["args"], json!(["c"]));
    assert_eq!(container["env"].as_array().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn updates_own_what_they_change() {
    let server = start().await;
    let headers = [
        ("content-type", "application/json"),
        ("user-agent", "maker/v2 (linux)"),
    ];
    let mut wanted = web("x");
    wanted["spec"]["replicas"] = 2.into();
    let body = wanted.to_string();
    let made = server
        .raw(ADMIN, "POST", DEPLOYMENTS, &headers, body)
        .await
        .ok();
    assert_eq!(managers(&made), ["maker Update"]);
    let of_maker = entry(&made, "maker", "Update");
    assert_eq!(of_maker["apiVersion"], "apps/v1");
    assert_eq!(of_maker["fieldsType"], "FieldsV1");
    assert_eq!(
        of_maker["fieldsV1"]["f:spec"]["f:strategy"]["f:rollingUpdate"],
        json!({".": {}, "f:maxSurge": {}, "f:maxUnavailable": {}})
    );
    assert_eq!(of_maker["fieldsV1"].get("f:status"), None);
    // Another takes what it changes; what is the same stays whose it was.
    let merge = "application/merge-patch+json";
    let change =
        json!({"spec": {"replicas": 5, "paused": true}, "metadata": {"labels": {"a": "b"}}});
    let path = format!("{DEPLOYMENTS}/web?fieldManager=scaler");
    let changed = patch(&server, &path, merge, &change).await.ok();
    assert_eq!(
        entry(&changed, "scaler", "Update")["fieldsV1"],
        json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}}, "f:spec": {"f:paused": {}, "f:replicas": {}}})
    );
    assert_eq!(
        entry(&changed, "maker", "Update")["fieldsV1"]["f:spec"].get("f:replicas"),
        None
    );
    let refused = apply(
        &server,
        &format!("{DEPLOYMENTS}/web?fieldManager=kubectl"),
        &deployment(json!({"replicas": 1})),
    )
    .await;
    assert_eq!(
        refused.status(),
        "409 Conflict: Apply failed with 1 conflict: conflict with \"scaler\" using apps/v1: .spec.replicas"
    );
    // A no-op update keeps the time, and with it the version.
    let path = format!("{DEPLOYMENTS}/web");
    let same = server.send("PUT", &path, &changed).await.ok();
    assert_eq!(
        same["metadata"]["resourceVersion"],
        changed["metadata"]["resourceVersion"]
    );
    // A client that knows nothing of managed fields does not lose them, one that writes nonsense neither.
    let mut bare = changed.clone();
    bare["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("managedFields");
    assert_eq!(
        server.send("PUT", &path, &bare).await.ok()["metadata"],
        changed["metadata"]
    );
    bare["metadata"]["managedFields"] = json!([{"manager": "x", "operation": "Never"}]);
    assert_eq!(
        server.send("PUT", &path, &bare).await.ok()["metadata"],
        changed["metadata"]
    );
    // An empty entry ends the tracking, until somebody applies.
    bare["metadata"]["managedFields"] = json!([{}]);
    let reset = server.send("PUT", &path, &bare).await.ok();
    assert_eq!(reset["metadata"].get("managedFields"), None);
    let applied = apply(
        &server,
        &format!("{path}?fieldManager=one"),
        &deployment(json!({"paused": true})),
    )
    .await
    .ok();
    assert_eq!(
        managers(&applied),
        ["one Apply", "before-first-apply Update"]
    );
}

#[tokio::test(start_paused = true)]
async fn the_status_has_owners_of_its_own() {
    let server = start().await;
    drop(
        apply(
            &server,
            &format!("{DEPLOYMENTS}/web?fieldManager=one"),
            &web("x"),
        )
        .await
        .ok(),
    );
    let mut status = deployment(json!({"replicas": 9}));
    status["status"] = json!({"conditions": [{"type": "Progressing", "status": "True", "reason": "x", "message": "y"}]});
    let path = format!("{DEPLOYMENTS}/web/status?fieldManager=one");
    let with = apply(&server, &path, &status).await.ok();
    assert_eq!(with["spec"]["replicas"], 1);
    assert_eq!(
        entry(&with, "one", "Apply/status")["fieldsV1"],
        json!({"f:status": {"f:conditions": {"k:{\"type\":\"Progressing\"}": {
            ".": {}, "f:message": {}, "f:reason": {}, "f:status": {}, "f:type": {},
        }}}})
    );
    assert_eq!(entry(&with, "one", "Apply").get("subresource"), None);
    let merge = "application/merge-patch+json";
    let path = format!("{DEPLOYMENTS}/web/status?fieldManager=controller");
    let with = patch(&server, &path, merge, &json!({"status": {"replicas": 1}}))
        .await
        .ok();
    assert_eq!(
        entry(&with, "controller", "Update/status")["fieldsV1"],
        json!({"f:status": {"f:replicas": {}}})
    );
    let path = format!("{DEPLOYMENTS}/none/status?fieldManager=one");
    let mut none = status.clone();
    none["metadata"]["name"] = "none".into();
    assert_eq!(apply(&server, &path, &none).await.code, 404);
}

#[tokio::test(start_paused = true)]
async fn a_scale_owns_the_replicas() {
    let server = start().await;
    let mut wanted = web("x");
    wanted["spec"]["replicas"] = 2.into();
    let path = format!("{DEPLOYMENTS}/web");
    drop(
        apply(&server, &format!("{path}?fieldManager=one"), &wanted)
            .await
            .ok(),
    );
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "spec": {"replicas": 4}});
    let refused = apply(&server, &format!("{path}/scale?fieldManager=two"), &scale).await;
    assert_eq!(
        refused.body["message"],
        "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas"
    );
    let merge = "application/merge-patch+json";
    let by = format!("{path}/scale?fieldManager=hpa");
    let scaled = patch(&server, &by, merge, &json!({"spec": {"replicas": 3}}))
        .await
        .ok();
    assert_eq!(scaled["spec"]["replicas"], 3);
    let object = server.send("GET", &path, &Value::Null).await.ok();
    assert_eq!(
        entry(&object, "hpa", "Update/scale"),
        &json!({
            "manager": "hpa", "operation": "Update", "apiVersion": "apps/v1", "subresource": "scale", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:spec": {"f:replicas": {}}}, "time": entry(&object, "hpa", "Update/scale")["time"],
        })
    );
    assert_eq!(
        entry(&object, "one", "Apply")["fieldsV1"]["f:spec"].get("f:replicas"),
        None
    );
    let refused = apply(&server, &format!("{path}/scale?fieldManager=two"), &scale).await;
    assert_eq!(
        refused.body["message"],
        "Apply failed with 1 conflict: conflict with \"hpa\" with subresource \"scale\" using autoscaling/v1: .spec.replicas"
    );
    let forced = apply(
        &server,
        &format!("{path}/scale?fieldManager=two&force=true"),
        &scale,
    )
    .await
    .ok();
    assert_eq!(forced["spec"]["replicas"], 4);
    let object = server.send("GET", &path, &Value::Null).await.ok();
    assert_eq!(managers(&object), ["one Apply", "two Apply"]);
}

#[tokio::test(start_paused = true)]
async fn client_side_apply_is_taken_over() {
    let server = start().await;
    let annotation = "kubectl.kubernetes.io/last-applied-configuration";
    let mut wanted = config_map(json!({"a": "1"}));
    let last = wanted.to_string();
    wanted["metadata"]["annotations"] = json!({ annotation: last });
    let path = format!("{CONFIG_MAPS}?fieldManager=kubectl-client-side-apply");
    drop(server.send("POST", &path, &wanted).await.ok());
    // Anybody else would conflict with the client-side applier.
    let next = config_map(json!({"a": "2"}));
    let refused = apply(
        &server,
        &format!("{CONFIG_MAPS}/c?fieldManager=other"),
        &next,
    )
    .await;
    assert_eq!(
        refused.body["message"],
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using v1: .data.a"
    );
    let applied = apply(
        &server,
        &format!("{CONFIG_MAPS}/c?fieldManager=kubectl"),
        &next,
    )
    .await
    .ok();
    assert_eq!(applied["data"]["a"], "2");
    let kept = applied["metadata"]["annotations"][annotation]
        .as_str()
        .unwrap();
    assert_eq!(serde_json::from_str::<Value>(kept).unwrap(), next);
    // kubectl moves the entries itself, insisting on the version that it saw.
    let version = applied["metadata"]["resourceVersion"].as_str().unwrap();
    let mut entries = applied["metadata"]["managedFields"].clone();
    entries
        .as_array_mut()
        .unwrap()
        .retain(|e| e["operation"] == "Apply");
    let migrate = |version: &str| {
        json!([
            {"op": "replace", "path": "/metadata/managedFields", "value": entries},
            {"op": "replace", "path": "/metadata/resourceVersion", "value": version},
        ])
    };
    let json_patch = "application/json-patch+json";
    let path = format!("{CONFIG_MAPS}/c");
    let refused = patch(&server, &path, json_patch, &migrate("1")).await;
    assert_eq!(refused.code, 409);
    let moved = patch(&server, &path, json_patch, &migrate(version))
        .await
        .ok();
    assert_eq!(managers(&moved), ["kubectl Apply"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_an_apply_is_said() {
    let server = start().await;
    let path = format!("{CONFIG_MAPS}/c");
    let with = |manager: &str| format!("{path}?fieldManager={manager}");
    let good = config_map(json!({"a": "1"}));
    let merge = "application/merge-patch+json";
    let mut managed = good.clone();
    managed["metadata"]["managedFields"] = json!([{}]);
    let mut unknown = good.clone();
    unknown["foo"] = 1.into();
    let mut uid = good.clone();
    uid["metadata"]["uid"] = "u".into();
    let long = "x".repeat(129);
    let answers = [
        apply(&server, &path, &good).await,
        apply(&server, &with(&long), &good).await,
        apply(&server, &with("a"), &managed).await,
        apply(&server, &with("a"), &unknown).await,
        apply(&server, &with("a"), &uid).await,
        apply(&server, &with("a"), &web("x")).await,
        apply(&server, &with("a"), &json!([])).await,
        patch(&server, &format!("{path}?force=true"), merge, &json!({})).await,
        patch(&server, &with("a"), "application/apply-patch+cbor", &good).await,
    ];
    let said: Vec<String> = answers.iter().map(Answer::status).collect();
    assert_eq!(
        said,
        [
            "422 Invalid: PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            "422 Invalid: PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Too long: may not be more than 128 bytes",
            "400 BadRequest: metadata.managedFields must be nil",
            "500 : failed to create typed patch object (default/c; /v1, Kind=ConfigMap): .foo: field not declared in schema",
            "409 Conflict: Operation cannot be fulfilled on configmaps \"c\": uid mismatch: the provided object specified uid u, and no existing object was found",
            "400 BadRequest: invalid object type: apps/v1, Kind=Deployment",
            "400 BadRequest: error decoding YAML: json: cannot unmarshal array into Go value of type map[string]interface {}",
            "422 Invalid: PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch",
            "415 UnsupportedMediaType: the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml",
        ]
    );
    // Who may patch but not create cannot create by applying.
    let user = Some(("somebody", &["system:authenticated"][..]));
    let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch"]}]);
    let role = json!({"metadata": {"name": "p"}, "rules": rules});
    let binding = json!({"metadata": {"name": "p"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "p"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "somebody"}]});
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    drop(
        server
            .send("POST", &format!("{rbac}/clusterroles"), &role)
            .await
            .ok(),
    );
    drop(
        server
            .send("POST", &format!("{rbac}/clusterrolebindings"), &binding)
            .await
            .ok(),
    );
    let headers = [("content-type", "application/apply-patch+yaml")];
    for _ in 0..50 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let refused = server
        .raw(user, "PATCH", &with("a"), &headers, good.to_string())
        .await;
    assert_eq!(
        refused.status(),
        "403 Forbidden: configmaps \"c\" is forbidden: User \"somebody\" cannot create resource \"configmaps\" in API group \"\" in the namespace \"default\""
    );
}

#[tokio::test(start_paused = true)]
async fn heartbeats_keep_the_time_of_their_owner() {
    let server = start().await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let lease = |time: &str| json!({"metadata": {"name": "n"}, "spec": {"holderIdentity": "n", "renewTime": time}});
    let made = server
        .send("POST", leases, &lease("2026-01-01T00:00:00.000000Z"))
        .await
        .ok();
    tokio::time::sleep(std::time::Duration::from_secs(100)).await;
    let mut beat = lease("2026-01-01T00:00:10.000000Z");
    beat["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"].clone();
    let later = server.send("PUT", &format!("{leases}/n"), &beat).await.ok();
    assert_eq!(
        later["metadata"]["managedFields"],
        made["metadata"]["managedFields"]
    );
    assert_ne!(
        later["metadata"]["resourceVersion"],
        made["metadata"]["resourceVersion"]
    );
}
