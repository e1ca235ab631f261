//! Bad input gets upstream's status, reason and message, and never a panic.

use serde_json::{Value, json};
use test_support::Server;
use test_support::api_server::ADMIN;

const PODS: &str = "/api/v1/namespaces/default/pods";
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

#[tokio::test(start_paused = true)]
async fn bodies_that_cannot_be_read() {
    let server = Server::start().await;
    for body in [
        "",
        "{",
        "[]",
        "null",
        "\"x\"",
        "{\"kind\":\"Pod\"",
        "{\"metadata\":3}",
        "{\"spec\":{\"containers\":{}}}",
    ] {
        let answer = server.raw(ADMIN, "POST", PODS, &JSON, body).await;
        assert!(
            matches!(answer.code, 400 | 422),
            "{body}: {}",
            answer.status()
        );
        assert_eq!(answer.body["kind"], "Status", "{body}");
    }
    let deep = format!(
        "{{\"metadata\":{{\"name\":\"a\"}},\"spec\":{}1{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert_eq!(server.raw(ADMIN, "POST", PODS, &JSON, deep).await.code, 400);
    let large = format!("{{\"data\":\"{}\"}}", "x".repeat(4 << 20));
    assert_eq!(
        server.raw(ADMIN, "POST", PODS, &JSON, large).await.code,
        413
    );
    let yaml = [("content-type", "application/yaml")];
    assert_eq!(
        server.raw(ADMIN, "POST", PODS, &yaml, "a: [b").await.code,
        400
    );
    let other = [("content-type", "text/html")];
    assert_eq!(
        server.raw(ADMIN, "POST", PODS, &other, "<p>").await.code,
        415
    );
    let protobuf = [("content-type", "application/vnd.kubernetes.protobuf")];
    assert_eq!(
        server.raw(ADMIN, "POST", PODS, &protobuf, "k8s").await.code,
        400
    );
    let accept = [("accept", "text/html")];
    assert_eq!(server.raw(ADMIN, "GET", PODS, &accept, "").await.code, 406);
}

#[tokio::test(start_paused = true)]
async fn unknown_fields_are_warned_of_or_refused() {
    let server = Server::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let body = json!({"metadata": {"name": "a"}, "dta": {}});
    let warned = server.send("POST", maps, &body).await;
    assert_eq!(warned.warnings, ["299 - \"unknown field \\\"dta\\\"\""]);
    assert!(warned.ok().get("dta").is_none());
    let strict = server
        .send("POST", &format!("{maps}?fieldValidation=Strict"), &body)
        .await;
    assert_eq!(
        strict.status(),
        "400 BadRequest: ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"dta\""
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_wrongly() {
    let server = Server::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let cases = [
        ("GET", format!("{PODS}?labelSelector=a%20in"), 400),
        ("GET", format!("{PODS}?fieldSelector=nonsense"), 400),
        ("GET", format!("{PODS}?limit=x"), 400),
        ("GET", format!("{PODS}?continue=x"), 400),
        ("GET", format!("{PODS}?resourceVersion=x"), 400),
        ("GET", format!("{PODS}?resourceVersionMatch=Exact"), 422),
        ("POST", format!("{maps}?dryRun=Some"), 422),
        ("POST", format!("{maps}?fieldValidation=Some"), 422),
        ("PUT", maps.to_owned(), 405),
        ("POST", format!("{maps}/a"), 405),
        ("GET", "/api/v2".to_owned(), 404),
        ("GET", "/apis/none/v1/things".to_owned(), 404),
        ("GET", "/api/v1/nodes/a/nonsense".to_owned(), 404),
        ("GET", "/nonsense".to_owned(), 404),
    ];
    for (method, path, code) in cases {
        let body = if method == "GET" {
            Value::Null
        } else {
            json!({"metadata": {"name": "a"}})
        };
        let answer = server.send(method, &path, &body).await;
        assert_eq!(answer.code, code, "{method} {path}: {}", answer.status());
        assert_eq!(answer.body["kind"], "Status", "{method} {path}");
    }
    let mismatch = server
        .send(
            "POST",
            maps,
            &json!({"metadata": {"name": "a", "namespace": "other"}}),
        )
        .await;
    assert_eq!(
        mismatch.status(),
        "400 BadRequest: the namespace of the provided object does not match the namespace sent on the request"
    );
    let kind = server
        .send(
            "POST",
            maps,
            &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}),
        )
        .await;
    assert_eq!(kind.code, 400);
    let missing = server
        .send(
            "POST",
            "/api/v1/namespaces/none/configmaps",
            &json!({"metadata": {"name": "a"}}),
        )
        .await;
    assert_eq!(
        missing.status(),
        "404 NotFound: namespaces \"none\" not found"
    );
}

#[tokio::test(start_paused = true)]
async fn invalid_objects_name_every_cause() {
    let server = Server::start().await;
    server.namespace("demo").await;
    let pod = json!({"metadata": {"name": "Bad_Name"}, "spec": {"containers": [{"name": "x"}, {"name": "x", "image": "i"}], "restartPolicy": "Sometimes"}});
    let answer = server
        .send("POST", "/api/v1/namespaces/demo/pods", &pod)
        .await;
    assert_eq!(
        (answer.code, answer.body["reason"].as_str()),
        (422, Some("Invalid"))
    );
    let causes: Vec<String> = answer.body["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| {
            format!(
                "{} {}",
                c["reason"].as_str().unwrap(),
                c["field"].as_str().unwrap()
            )
        })
        .collect();
    for wanted in [
        "FieldValueInvalid metadata.name",
        "FieldValueRequired spec.containers[0].image",
        "FieldValueDuplicate spec.containers[1].name",
        "FieldValueNotSupported spec.restartPolicy",
    ] {
        assert!(causes.iter().any(|c| c == wanted), "{wanted} in {causes:?}");
    }
}
