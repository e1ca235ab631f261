//! What admission fills in and refuses, by the namespace's own rules.

use serde_json::{Value, json};
use test_support::Server;
use test_support::api_server::ADMIN;
use test_support::api_server::pod;

const PODS: &str = "/api/v1/namespaces/demo/pods";

async fn server() -> Server {
    let server = Server::start().await;
    server.namespace("demo").await;
    server
}

async fn post(server: &Server, path: &str, object: Value) -> Value {
    server.send("POST", path, &object).await.ok()
}

/// A quota whose use was counted.
async fn quota(server: &Server, spec: Value, used: Value) {
    let path = "/api/v1/namespaces/demo/resourcequotas";
    let hard = spec["hard"].clone();
    post(
        server,
        path,
        json!({"metadata": {"name": "q"}, "spec": spec}),
    )
    .await;
    let status = json!({"status": {"hard": hard, "used": used}});
    let headers = [("content-type", "application/merge-patch+json")];
    let path = format!("{path}/q/status");
    let answer = server.raw(ADMIN, "PATCH", &path, &headers, status.to_string());
    drop(answer.await.ok());
}

async fn used(server: &Server) -> Value {
    let path = "/api/v1/namespaces/demo/resourcequotas/q";
    server.send("GET", path, &Value::Null).await.ok()["status"]["used"].clone()
}

#[tokio::test(start_paused = true)]
async fn limit_ranges_fill_in_and_refuse() {
    let server = server().await;
    let limits = json!({"metadata": {"name": "l"}, "spec": {"limits": [
        {"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "1"}},
    ]}});
    post(&server, "/api/v1/namespaces/demo/limitranges", limits).await;
    let made = post(&server, PODS, pod("a")).await;
    let resources = &made["spec"]["containers"][0]["resources"];
    assert_eq!(
        *resources,
        json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "500m"}})
    );
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container main; cpu limit for container main"
    );
    let mut big = pod("b");
    big["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "2"}});
    assert_eq!(
        server.send("POST", PODS, &big).await.status(),
        "403 Forbidden: pods \"b\" is forbidden: maximum cpu usage per Container is 1, but limit is 2"
    );
}

#[tokio::test(start_paused = true)]
async fn a_namespace_says_how_secure_its_pods_are() {
    let server = server().await;
    let label = |mode: &str, level: &str| json!({"metadata": {"labels": {format!("pod-security.kubernetes.io/{mode}"): level}}});
    let patch = async |body: Value| {
        let headers = [("content-type", "application/merge-patch+json")];
        let path = "/api/v1/namespaces/demo";
        server
            .raw(ADMIN, "PATCH", path, &headers, body.to_string())
            .await
    };
    assert_eq!(
        patch(label("enforce", "strict")).await.status(),
        "422 Invalid: Namespace \"demo\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: \
         Invalid value: \"strict\": must be one of privileged, baseline, restricted"
    );
    let mut host = pod("host");
    host["spec"]["hostNetwork"] = true.into();
    post(&server, PODS, host.clone()).await;
    let warned = patch(label("enforce", "baseline")).await;
    assert_eq!(
        warned.warnings,
        [
            "299 - \"existing pods in namespace \\\"demo\\\" violate the new PodSecurity enforce level \\\"baseline:latest\\\"\"",
            "299 - \"host: host namespaces\"",
        ]
    );
    host["metadata"]["name"] = "other".into();
    assert_eq!(
        server.send("POST", PODS, &host).await.status(),
        "403 Forbidden: pods \"other\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"
    );
    // Templates are warned of, not refused.
    let deployment = json!({"metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": host["spec"]},
    }});
    let path = "/apis/apps/v1/namespaces/demo/deployments";
    let answer = server.send("POST", path, &deployment).await;
    assert_eq!(answer.code, 201);
    assert_eq!(
        answer.warnings,
        [
            "299 - \"would violate PodSecurity \\\"baseline:latest\\\": host namespaces (hostNetwork=true)\""
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_quota_is_charged_exactly_by_writers_at_once() {
    let server = server().await;
    let hard = json!({"hard": {"pods": "10", "count/configmaps": "1"}});
    quota(&server, hard, json!({"pods": "0", "count/configmaps": "0"})).await;
    let requests = (0..64).map(|i| {
        let server = &server;
        async move { server.send("POST", PODS, &pod(&format!("p{i}"))).await }
    });
    let answers = futures::future::join_all(requests).await;
    let made: Vec<&test_support::Answer> = answers.iter().filter(|a| a.code == 201).collect();
    assert_eq!(made.len(), 10);
    let refused = answers.iter().find(|a| a.code != 201).unwrap();
    let name = refused.body["details"]["name"].as_str().unwrap();
    assert_eq!(
        refused.status(),
        format!(
            "403 Forbidden: pods \"{name}\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=10, limited: pods=10"
        )
    );
    assert_eq!(used(&server).await["pods"], "10");

    // What goes, and what ends, is given back.
    let name = |i: usize| made[i].body["metadata"]["name"].as_str().unwrap();
    let path = format!("{PODS}/{}?gracePeriodSeconds=0", name(0));
    drop(server.send("DELETE", &path, &Value::Null).await.ok());
    let headers = [("content-type", "application/merge-patch+json")];
    let path = format!("{PODS}/{}/status", name(1));
    let ended = json!({"status": {"phase": "Succeeded"}}).to_string();
    drop(
        server
            .raw(ADMIN, "PATCH", &path, &headers, ended)
            .await
            .ok(),
    );
    assert_eq!(used(&server).await["pods"], "8");

    let maps = "/api/v1/namespaces/demo/configmaps";
    post(&server, maps, json!({"metadata": {"name": "a"}})).await;
    let dry = format!("{maps}?dryRun=All");
    for path in [maps, &dry] {
        assert_eq!(
            server
                .send("POST", path, &json!({"metadata": {"name": "b"}}))
                .await
                .status(),
            "403 Forbidden: configmaps \"b\" is forbidden: exceeded quota: q, requested: count/configmaps=1, \
             used: count/configmaps=1, limited: count/configmaps=1"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_quota_bounds_must_be_named() {
    let server = server().await;
    let hard = json!({"hard": {"limits.cpu": "2", "requests.memory": "1Gi"}});
    let none = json!({"limits.cpu": "0", "requests.memory": "0"});
    quota(&server, hard, none).await;
    assert_eq!(
        server.send("POST", PODS, &pod("a")).await.status(),
        "403 Forbidden: pods \"a\" is forbidden: failed quota: q: must specify limits.cpu for: main; requests.memory for: main"
    );
    let mut named = pod("a");
    named["spec"]["containers"][0]["resources"] =
        json!({"limits": {"cpu": "1500m"}, "requests": {"memory": "1Gi"}});
    post(&server, PODS, named.clone()).await;
    assert_eq!(
        used(&server).await,
        json!({"limits.cpu": "1500m", "requests.memory": "1Gi"})
    );
    named["metadata"]["name"] = "b".into();
    assert_eq!(
        server.send("POST", PODS, &named).await.status(),
        "403 Forbidden: pods \"b\" is forbidden: exceeded quota: q, requested: limits.cpu=1500m,requests.memory=1Gi, \
         used: limits.cpu=1500m,requests.memory=1Gi, limited: limits.cpu=2,requests.memory=1Gi"
    );
}

#[tokio::test(start_paused = true)]
async fn claims_get_the_default_class_and_are_protected() {
    let server = server().await;
    let class = |name: &str| {
        json!({
            "metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "example.com/disk",
        })
    };
    post(
        &server,
        "/apis/storage.k8s.io/v1/storageclasses",
        class("old"),
    )
    .await;
    let claim = json!({"metadata": {"name": "c"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
    }});
    let claims = "/api/v1/namespaces/demo/persistentvolumeclaims";
    let made = post(&server, claims, claim).await;
    assert_eq!(made["spec"]["storageClassName"], "old");
    assert_eq!(
        made["metadata"]["finalizers"],
        json!(["kubernetes.io/pvc-protection"])
    );
    let mut bigger = made.clone();
    bigger["spec"]["resources"]["requests"]["storage"] = "2Gi".into();
    let unbound = server.send("PUT", &format!("{claims}/c"), &bigger).await;
    assert_eq!(
        unbound.status(),
        "422 Invalid: PersistentVolumeClaim \"c\" is invalid: spec: Forbidden: spec is immutable after creation except \
         resources.requests and volumeAttributesClassName for bound claims\n"
    );
    let mut bound = made;
    bound["status"] = json!({"phase": "Bound"});
    let path = format!("{claims}/c/status");
    let bound = server.send("PUT", &path, &bound).await.ok();
    bigger["metadata"]["resourceVersion"] = bound["metadata"]["resourceVersion"].clone();
    let fixed = server.send("PUT", &format!("{claims}/c"), &bigger).await;
    assert_eq!(
        fixed.status(),
        "403 Forbidden: persistentvolumeclaims \"c\" is forbidden: only dynamically provisioned pvc can be resized and \
         the storageclass that provisions the pvc must support resize"
    );
}

#[tokio::test(start_paused = true)]
async fn evictions_spend_the_budget() {
    let server = server().await;
    let headers = [("content-type", "application/merge-patch+json")];
    for name in ["a", "b"] {
        let mut one = pod(name);
        one["metadata"]["labels"] = json!({"app": "web"});
        post(&server, PODS, one).await;
        let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        let path = format!("{PODS}/{name}/status");
        let answer = server.raw(ADMIN, "PATCH", &path, &headers, ready.to_string());
        drop(answer.await.ok());
    }
    let budgets = "/apis/policy/v1/namespaces/demo/poddisruptionbudgets";
    let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}});
    post(
        &server,
        budgets,
        json!({"metadata": {"name": "web"}, "spec": spec}),
    )
    .await;
    let evict = async |name: &str| {
        let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "demo"}});
        server
            .send("POST", &format!("{PODS}/{name}/eviction"), &body)
            .await
    };
    let early = evict("a").await;
    assert_eq!(
        early.status(),
        "429 TooManyRequests: Cannot evict pod as it would violate the pod's disruption budget."
    );
    assert_eq!(
        early.body["details"]["causes"][0]["message"],
        "The disruption budget web is still being processed by the server."
    );
    let counted = json!({"status": {
        "observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2,
    }});
    let path = format!("{budgets}/web/status");
    let answer = server.raw(ADMIN, "PATCH", &path, &headers, counted.to_string());
    drop(answer.await.ok());
    assert_eq!(evict("a").await.code, 201);
    let budget = server
        .send("GET", &format!("{budgets}/web"), &Value::Null)
        .await
        .ok();
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
    assert!(budget["status"]["disruptedPods"]["a"].is_string());
    let refused = evict("b").await;
    assert_eq!(refused.code, 429);
    assert_eq!(
        refused.body["details"]["causes"][0]["message"],
        "The disruption budget web needs 1 healthy pods and has 2 currently"
    );
}
