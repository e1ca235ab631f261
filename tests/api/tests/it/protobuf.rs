//! Clients that speak protobuf, as client-go and upstream's components do.

use api::protobuf::{MEDIA_TYPE, STREAM_MEDIA_TYPE};
use client::InProcess;
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use skiff_http::{Handler as _, body};
use test_support::Server;
use test_support::api_server::ADMIN;
use test_support::api_server::pod;

use crate::kinds::without_empty;

const PODS: &str = "/api/v1/namespaces/demo/pods";
const ACCEPT: (&str, &str) = (
    "accept",
    "application/vnd.kubernetes.protobuf,application/json",
);

fn kind(path: &str) -> &'static api::facts::Kind {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, version, plural) = match parts[..] {
        ["api", version, "namespaces", _, plural] | ["api", version, plural] => {
            ("", version, plural)
        }
        ["apis", group, version, "namespaces", _, plural] | ["apis", group, version, plural] => {
            (group, version, plural)
        }
        _ => panic!("{path}"),
    };
    api::facts::kind(group, version, plural).unwrap()
}

/// Sends `object` as protobuf and reads the answer from protobuf.
async fn post(server: &Server, path: &str, mut object: Value) -> Value {
    let kind = kind(path);
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = kind.kind.into();
    let (version, ty) = (kind.api_version(), Some(kind.ty));
    let bytes =
        api::protobuf::object(&version, kind.kind, ty, object.to_string().as_bytes()).unwrap();
    let headers = [("content-type", MEDIA_TYPE), ACCEPT];
    let answer = server.raw(ADMIN, "POST", path, &headers, bytes).await;
    assert_eq!(answer.code, 201, "{}", answer.text);
    assert_eq!(answer.content_type, MEDIA_TYPE);
    api::protobuf::decode(kind.ty, &answer.bytes).unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_is_written_in_protobuf_is_the_same_in_json() {
    let server = Server::start().await;
    server.namespace("demo").await;
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {
        "volumes": [{"name": "v", "hostPath": {"path": "/srv"}}, {"name": "c", "configMap": {"name": "c"}}],
        "containers": [{
            "name": "web", "image": "web:1", "ports": [{"containerPort": 80}],
            "env": [{"name": "K", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}],
            "readinessProbe": {"httpGet": {"port": 80}},
            "resources": {"limits": {"cpu": "1500m", "memory": "1Gi"}},
        }],
    }});
    let objects = [
        (
            "/api/v1/namespaces/demo/configmaps",
            json!({"metadata": {"name": "c"}, "data": {"k": "v"}, "binaryData": {"b": "AAEC"}}),
        ),
        (
            "/api/v1/namespaces/demo/services",
            json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80, "targetPort": "http"}]}}),
        ),
        (
            "/apis/apps/v1/namespaces/demo/deployments",
            json!({
                "metadata": {"name": "web"},
                "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "web"}}, "template": template,
                    "strategy": {"rollingUpdate": {"maxSurge": "30%", "maxUnavailable": 0}}},
            }),
        ),
        (
            "/apis/coordination.k8s.io/v1/namespaces/demo/leases",
            json!({
                "metadata": {"name": "l"}, "spec": {"holderIdentity": "me", "renewTime": "2026-01-02T03:04:05.000006Z"},
            }),
        ),
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterroles",
            json!({
                "metadata": {"name": "r"}, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}],
            }),
        ),
    ];
    for (path, object) in objects {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let created = post(&server, path, object).await;
        let path = format!("{path}/{name}");
        let json = server.send("GET", &path, &Value::Null).await.ok();
        assert_eq!(without_empty(created), without_empty(json));
    }
}

#[tokio::test(start_paused = true)]
async fn lists_metadata_failures_and_reviews() {
    let server = Server::start().await;
    server.namespace("demo").await;
    drop(server.send("POST", PODS, &pod("a")).await.ok());
    let list = server.raw(ADMIN, "GET", PODS, &[ACCEPT], "").await;
    assert_eq!(list.content_type, MEDIA_TYPE);
    assert!(list.bytes.starts_with(b"k8s\0") && list.text.contains("PodList"));
    let only_metadata = (
        "accept",
        "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
    );
    let list = server.raw(ADMIN, "GET", PODS, &[only_metadata], "").await;
    assert!(list.text.contains("PartialObjectMetadataList"));
    assert!(!list.text.contains("localhost/test"));

    let status =
        api::facts::type_by_definition("io.k8s.apimachinery.pkg.apis.meta.v1.Status").unwrap();
    let path = format!("{PODS}/none");
    let missing = server.raw(ADMIN, "GET", &path, &[ACCEPT], "").await;
    assert_eq!(missing.code, 404);
    let status = api::protobuf::decode(status, &missing.bytes).unwrap();
    assert_eq!(status["message"], "pods \"none\" not found");
    assert_eq!(status["reason"], "NotFound");

    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let answer = post(&server, path, review).await;
    assert_eq!(answer["status"]["allowed"], true);

    // What has no protobuf form is given in the next one that the client takes.
    let table = (
        "accept",
        "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,application/json;as=Table;g=meta.k8s.io;v=v1",
    );
    let answer = server.raw(ADMIN, "GET", PODS, &[table], "").await;
    assert_eq!(answer.body["kind"], "Table");
}

#[tokio::test(start_paused = true)]
async fn a_watch_is_frames_of_events() {
    let server = Server::start().await;
    server.namespace("demo").await;
    drop(server.send("POST", PODS, &pod("a")).await.ok());
    let uri = format!(
        "{PODS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut request = Request::builder().uri(uri).header(ACCEPT.0, ACCEPT.1);
    request.extensions_mut().unwrap().insert(InProcess {
        user: "admin".into(),
        groups: vec!["system:masters".into()].into(),
    });
    let request = request.body(body::full("")).unwrap();
    let answer = server.api.handle(request).await;
    assert_eq!(answer.headers()["content-type"], STREAM_MEDIA_TYPE);
    let mut stream = answer.into_body();
    let mut seen = Vec::new();
    for name in ["a", "bookmark", "b"] {
        let frame = stream.frame().await.unwrap().unwrap();
        let frame = frame.into_data().unwrap();
        let length = u32::from_be_bytes(frame[..4].try_into().unwrap());
        assert_eq!(length as usize, frame.len() - 4);
        let at = frame.windows(4).position(|w| w == b"k8s\0").unwrap();
        let object = api::protobuf::decode(kind(PODS).ty, &frame[at..]).unwrap();
        let event = &frame[6..6 + usize::from(frame[5])];
        seen.push(format!(
            "{} {}",
            String::from_utf8_lossy(event),
            object["metadata"]["name"].as_str().unwrap_or("-")
        ));
        if name == "bookmark" {
            assert_eq!(
                object["metadata"]["annotations"]["k8s.io/initial-events-end"],
                "true"
            );
            drop(server.send("POST", PODS, &pod("b")).await.ok());
        }
    }
    assert_eq!(seen, ["ADDED a", "BOOKMARK -", "ADDED b"]);
}
