//! `proxy` of Pods, Services and Nodes. A Node whose kubelet is a server of the test stands for all: the relay is the same.

use std::sync::Arc;

use http::{Request, Response};
use serde_json::json;
use skiff_http::{Body, Handler, body, upgrade};
use test_support::Server;
use test_support::api_server::ADMIN;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Tells what it was asked.
struct Backend;

#[async_trait::async_trait]
impl Handler for Backend {
    async fn handle(&self, mut request: Request<Body>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        if path == "/echo" {
            let head = Response::builder()
                .header("connection", "upgrade")
                .header("upgrade", "echo")
                .body(())
                .unwrap();
            return upgrade::accept(&mut request, head, |raw| async {
                let (mut from, mut to) = tokio::io::split(raw);
                tokio::io::copy(&mut from, &mut to).await.unwrap();
            });
        }
        let answer = Response::builder();
        match path.as_str() {
            "/page" => answer
                .header("content-type", "text/html; charset=utf-8")
                .body(skiff_http::full("<a href='/next'>next</a>")),
            "/moved" => answer
                .status(302)
                .header("location", "/elsewhere?a=b")
                .body(skiff_http::empty()),
            "/missing" => answer.status(404).body(skiff_http::full("no such page")),
            _ => {
                let (parts, sent) = request.into_parts();
                let sent = body::collect(sent, 1 << 20).await.unwrap();
                let headers: serde_json::Map<_, _> = parts
                    .headers
                    .iter()
                    .map(|(n, v)| (n.to_string(), v.to_str().unwrap().into()))
                    .collect();
                let told = json!({
                    "method": parts.method.as_str(), "uri": parts.uri.to_string(), "headers": headers,
                    "body": String::from_utf8_lossy(&sent),
                });
                answer.body(skiff_http::full(told.to_string()))
            }
        }
        .unwrap()
    }
}

const NODE: &str = "/api/v1/nodes/n/proxy";

async fn write(server: &Server, method: &str, path: &str, object: &serde_json::Value) {
    drop(server.send(method, path, object).await.ok());
}

/// A server with a Node whose kubelet is [`Backend`].
async fn cluster() -> Server {
    let server = Server::start().await;
    let backend = server.listen(Arc::new(Backend)).await;
    let node = json!({
        "metadata": {"name": "n"},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": backend.port()}},
        },
    });
    write(&server, "POST", "/api/v1/nodes", &node).await;
    write(&server, "PUT", "/api/v1/nodes/n/status", &node).await;
    server
}

#[tokio::test]
async fn every_method_is_passed_on_with_its_body() {
    let server = cluster().await;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let path = format!("{NODE}/a%2Fb//c/?x=1&y=%20");
        let headers = [
            ("host", "api:6443"),
            ("authorization", "Basic c2VjcmV0"),
            ("x-mine", "kept"),
        ];
        let answer = server.raw(ADMIN, method, &path, &headers, "sent").await;
        assert_eq!(answer.code, 200, "{method} {}", answer.text);
        let told = answer.body;
        assert_eq!(told["method"], method);
        assert_eq!(told["uri"], "/a%2Fb//c/?x=1&y=%20");
        assert_eq!(told["body"], "sent");
        let header = |name: &str| told["headers"][name].as_str();
        assert_eq!(header("x-mine"), Some("kept"));
        assert_eq!(header("authorization"), None);
        assert_eq!(header("host"), Some("api:6443"));
        assert_eq!(header("x-forwarded-host"), Some("api:6443"));
        assert_eq!(header("x-forwarded-proto"), Some("https"));
        let uri = "/api/v1/nodes/n/proxy/a%2Fb//c/";
        assert_eq!(header("x-forwarded-uri"), Some(uri));
    }
}

#[tokio::test]
async fn links_lead_through_the_proxy() {
    let server = cluster().await;
    let get = async |path: &str| server.raw(ADMIN, "GET", path, &[], "").await;
    let page = get(&format!("{NODE}/page")).await;
    let link = "<a href='/api/v1/nodes/n/proxy/next'>next</a>";
    assert_eq!(page.text, link);
    let missing = get(&format!("{NODE}/missing")).await;
    assert_eq!((missing.code, missing.text.as_str()), (404, "no such page"));
    let request = |path: String| {
        let mut request = Request::get(path).body(skiff_http::empty()).unwrap();
        let user = client::InProcess {
            user: "admin".into(),
            groups: ["system:masters".to_owned()].into(),
        };
        request.extensions_mut().insert(user);
        server.api.handle(request)
    };
    let moved = request(format!("{NODE}/moved")).await;
    let to = "/api/v1/nodes/n/proxy/elsewhere?a=b";
    assert_eq!(
        (moved.status().as_u16(), &moved.headers()["location"]),
        (302, &to.parse().unwrap())
    );
    // The page's relative links need the slash.
    let bare = request(format!("{NODE}?a=b")).await;
    let to = "/api/v1/nodes/n/proxy/?a=b";
    assert_eq!(
        (bare.status().as_u16(), &bare.headers()["location"]),
        (301, &to.parse().unwrap())
    );
}

#[tokio::test]
async fn a_connection_can_leave_http() {
    let server = cluster().await;
    let address = server.listen(server.api.clone()).await.to_string();
    let request = Request::get(format!("{NODE}/echo"))
        .header("host", &address)
        .header("connection", "Upgrade")
        .header("upgrade", "echo")
        .body(skiff_http::empty())
        .unwrap();
    let (answer, raw) = upgrade::dial(&address, Some(server.admin_tls()), request)
        .await
        .unwrap();
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.headers()["upgrade"], "echo");
    let mut raw = raw.unwrap();
    raw.write_all(b"over and back").await.unwrap();
    let mut back = [0; 13];
    raw.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"over and back");
}

#[tokio::test]
async fn what_cannot_be_reached_says_why() {
    let server = cluster().await;
    server.namespace("a").await;
    let service =
        json!({"metadata": {"name": "s"}, "spec": {"ports": [{"name": "web", "port": 80}]}});
    write(&server, "POST", "/api/v1/namespaces/a/services", &service).await;
    let pod = test_support::api_server::pod("p");
    write(&server, "POST", "/api/v1/namespaces/a/pods", &pod).await;
    let slice = json!({
        "metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "ports": [{"name": "other", "port": 1}],
        "endpoints": [{"addresses": ["10.42.0.9"], "conditions": {"ready": true}}],
    });
    let slices = "/apis/discovery.k8s.io/v1/namespaces/a/endpointslices";
    write(&server, "POST", slices, &slice).await;
    let cases = [
        (
            "services/s",
            "503 ServiceUnavailable: no endpoints available for service \"s\"",
        ),
        (
            "services/s:web",
            "503 ServiceUnavailable: no endpoints available for service \"s\"",
        ),
        (
            "services/s:81",
            "503 ServiceUnavailable: no service port 81 found for service \"s\"",
        ),
        (
            "services/ftp:s:web",
            "400 BadRequest: invalid service request \"ftp:s:web\"",
        ),
        ("services/t", "404 NotFound: services \"t\" not found"),
        ("pods/p", "400 BadRequest: address not allowed"),
        ("pods/q:1", "404 NotFound: pods \"q\" not found"),
        ("pods/:1", "400 BadRequest: invalid pod request \":1\""),
    ];
    for (what, want) in cases {
        let path = format!("/api/v1/namespaces/a/{what}/proxy/");
        let answer = server.raw(ADMIN, "GET", &path, &[], "").await;
        assert_eq!(answer.status(), want, "{what}");
    }
    // Only the kubelet's own port is reached where the API server runs.
    let other = server
        .raw(ADMIN, "GET", "/api/v1/nodes/n:1/proxy/", &[], "")
        .await;
    assert_eq!(other.status(), "400 BadRequest: address not allowed");
    // Whoever may not proxy is refused before anybody is asked.
    let refused = server
        .raw(
            Some(("eve", &[])),
            "POST",
            "/api/v1/nodes/n/proxy/x",
            &[],
            "",
        )
        .await;
    let want = "403 Forbidden: nodes \"n\" is forbidden: User \"eve\" cannot create resource \"nodes/proxy\" in API group \"\" at the cluster scope";
    assert_eq!(refused.status(), want);
}
