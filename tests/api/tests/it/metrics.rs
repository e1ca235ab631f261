//! `/metrics` and `/metrics/slis`: upstream's names and labels.

use http::Request;
use http_body_util::BodyExt as _;
use serde_json::json;
use skiff_http::Handler;
use test_support::Server;
use test_support::api_server::{ADMIN, pod};

async fn metrics(server: &Server, path: &str) -> String {
    let answer = server.raw(ADMIN, "GET", path, &[], "").await;
    assert_eq!(
        answer.content_type,
        "text/plain; version=0.0.4; charset=utf-8"
    );
    answer.text
}

/// The values of series whose line contains all of `parts`, summed.
async fn sum(server: &Server, parts: &[&str]) -> f64 {
    let text = metrics(server, "/metrics").await;
    let lines = text.lines().filter(|l| parts.iter().all(|p| l.contains(p)));
    lines
        .map(|l| l.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
        .sum()
}

#[tokio::test]
async fn requests_are_counted_by_upstreams_labels() {
    let server = Server::start().await;
    server.namespace("a").await;
    let pods = "/api/v1/namespaces/a/pods";
    drop(server.send("POST", pods, &pod("p")).await.ok());
    drop(
        server
            .send("POST", &format!("{pods}?dryRun=All"), &pod("q"))
            .await
            .ok(),
    );
    drop(server.send("GET", pods, &json!(null)).await.ok());
    drop(server.send("GET", "/api/v1/pods", &json!(null)).await.ok());
    assert_eq!(
        server
            .send("GET", &format!("{pods}/none"), &json!(null))
            .await
            .code,
        404
    );
    let apply = [("content-type", "application/apply-patch+yaml")];
    let label = "{apiVersion: v1, kind: Pod, metadata: {name: p, labels: {a: b}}}";
    let path = format!("{pods}/p?fieldManager=me");
    drop(server.raw(ADMIN, "PATCH", &path, &apply, label).await.ok());
    server
        .raw(ADMIN, "GET", "/apis/no.such.group/v1/things", &[], "")
        .await;
    let text = metrics(&server, "/metrics").await;
    let of_pods = |verb, code, dry_run, scope| {
        format!(
            "apiserver_request_total{{code=\"{code}\",component=\"apiserver\",group=\"\",resource=\"pods\",\
             scope=\"{scope}\",subresource=\"\",verb=\"{verb}\",version=\"v1\",dry_run=\"{dry_run}\"}} 1"
        )
    };
    for line in [
        of_pods("POST", 201, "", "resource"),
        of_pods("POST", 201, "All", "resource"),
        of_pods("LIST", 200, "", "namespace"),
        of_pods("LIST", 200, "", "cluster"),
        of_pods("GET", 404, "", "resource"),
        of_pods("APPLY", 200, "", "resource"),
        "apiserver_resource_objects{group=\"\",resource=\"pods\"} 1".into(),
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    // What somebody makes up is no label.
    assert!(!text.contains("no.such.group"), "{text}");
    let lists = [
        "apiserver_request_duration_seconds_count",
        "resource=\"pods\"",
        "LIST",
    ];
    assert_eq!(sum(&server, &lists).await, 2.0);
    let sizes = [
        "apiserver_response_sizes_count",
        "resource=\"pods\"",
        "LIST",
    ];
    assert_eq!(sum(&server, &sizes).await, 2.0);
    // The one that asks.
    let inflight = ["apiserver_current_inflight_requests", "readOnly"];
    assert_eq!(sum(&server, &inflight).await, 1.0);
    assert_eq!(
        sum(&server, &["kubernetes_build_info{", "minor=\"36\""]).await,
        1.0
    );
}

#[tokio::test]
async fn a_watch_is_running_until_it_ends() {
    let server = Server::start().await;
    let request = Request::get("/api/v1/namespaces?watch=true&resourceVersion=0");
    let mut request = request.body(skiff_http::empty()).unwrap();
    let user = client::InProcess {
        user: "admin".into(),
        groups: ["system:masters".to_owned()].into(),
    };
    request.extensions_mut().insert(user);
    let mut watch = server.api.handle(request).await.into_body();
    watch.frame().await.unwrap().unwrap();
    let running = ["apiserver_longrunning_requests", "WATCH", "namespaces"];
    let ended = ["apiserver_request_total", "WATCH", "namespaces"];
    assert_eq!(
        (sum(&server, &running).await, sum(&server, &ended).await),
        (1.0, 0.0)
    );
    let events = ["apiserver_watch_events_total", "namespaces"];
    assert!(sum(&server, &events).await >= 1.0);
    drop(watch);
    assert_eq!(
        (sum(&server, &running).await, sum(&server, &ended).await),
        (0.0, 1.0)
    );
}

#[tokio::test]
async fn health_checks_have_a_path_of_their_own() {
    let server = Server::start().await;
    drop(server.raw(ADMIN, "GET", "/livez", &[], "").await);
    let text = metrics(&server, "/metrics/slis").await;
    for line in [
        "kubernetes_healthcheck{name=\"etcd\",type=\"readyz\"} 1",
        // Asked for, and for this answer.
        "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"livez\"} 2",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    let nobody = server
        .raw(Some(("eve", &[])), "GET", "/metrics/slis", &[], "")
        .await;
    assert_eq!(nobody.code, 403);
}
