//! Who may do what: anonymous, tokens, RBAC, the Node authorizer, NodeRestriction.

use serde_json::{Value, json};
use test_support::Server;
use test_support::api_server::pod;

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

#[tokio::test(start_paused = true)]
async fn anonymous_is_refused_by_rbac_but_sees_health_and_version() {
    let server = Server::start().await;
    let refused = server
        .raw(None, "GET", "/api/v1/namespaces/default/pods", &[], "")
        .await;
    assert_eq!(
        refused.status(),
        "403 Forbidden: pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    assert_eq!(
        server.raw(None, "GET", "/healthz", &[], "").await.text,
        "ok"
    );
    assert_eq!(server.raw(None, "GET", "/version", &[], "").await.code, 200);
    let metrics = server.raw(None, "GET", "/metrics", &[], "").await;
    assert_eq!(
        metrics.status(),
        "403 Forbidden: forbidden: User \"system:anonymous\" cannot get path \"/metrics\""
    );
    let false_token = [("authorization", "Bearer nonsense")];
    assert_eq!(
        server
            .raw(None, "GET", "/healthz", &false_token, "")
            .await
            .code,
        401
    );
}

#[tokio::test(start_paused = true)]
async fn a_role_gives_what_it_says_in_its_namespace_only() {
    let server = Server::start().await;
    let joe = Some(("joe", &["system:authenticated"][..]));
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
    let role = json!({"metadata": {"name": "reader"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]});
    drop(server.send("POST", roles, &role).await.ok());
    let binding = json!({
        "metadata": {"name": "joe"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "joe"}],
    });
    drop(
        server
            .send("POST", &roles.replace("roles", "rolebindings"), &binding)
            .await
            .ok(),
    );
    assert_eq!(
        server
            .raw(joe, "GET", "/api/v1/namespaces/default/configmaps", &[], "")
            .await
            .code,
        200
    );
    assert_eq!(
        server
            .raw(
                joe,
                "GET",
                "/api/v1/namespaces/kube-system/configmaps",
                &[],
                ""
            )
            .await
            .code,
        403
    );
    let write = server
        .raw(
            joe,
            "POST",
            "/api/v1/namespaces/default/configmaps",
            &JSON,
            "{}",
        )
        .await;
    assert_eq!(write.code, 403);
    let review = json!({"spec": {"resourceAttributes": {"namespace": "default", "verb": "list", "resource": "configmaps"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let answer = server
        .raw(joe, "POST", path, &JSON, review.to_string())
        .await;
    assert_eq!(answer.ok()["status"]["allowed"], true);
}

#[tokio::test(start_paused = true)]
async fn nobody_grants_more_than_they_hold() {
    let server = Server::start().await;
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
    let binding = json!({
        "metadata": {"name": "admins"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "ann"}],
    });
    drop(
        server
            .send("POST", &roles.replace("roles", "rolebindings"), &binding)
            .await
            .ok(),
    );
    let ann = Some(("ann", &[][..]));
    let role = |rule: Value| json!({"metadata": {"name": "r"}, "rules": [rule]}).to_string();
    let nodes = role(json!({"apiGroups": [""], "resources": ["nodes"], "verbs": ["delete"]}));
    let refused = server.raw(ann, "POST", roles, &JSON, nodes).await;
    assert!(
        refused
            .status()
            .contains("is attempting to grant RBAC permissions not currently held"),
        "{}",
        refused.status()
    );
    let own = role(json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}));
    drop(server.raw(ann, "POST", roles, &JSON, own).await.ok());
}

#[tokio::test(start_paused = true)]
async fn a_node_sees_what_its_pods_refer_to_only() {
    let server = Server::start().await;
    server.namespace("demo").await;
    for name in ["used", "unused"] {
        drop(
            server
                .send(
                    "POST",
                    "/api/v1/namespaces/demo/secrets",
                    &json!({"metadata": {"name": name}}),
                )
                .await
                .ok(),
        );
    }
    let mut with_secret = pod("a");
    with_secret["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": "used"}}]);
    drop(
        server
            .send("POST", "/api/v1/namespaces/demo/pods", &with_secret)
            .await
            .ok(),
    );
    let binding = json!({"target": {"kind": "Node", "name": "n1"}});
    drop(
        server
            .send("POST", "/api/v1/namespaces/demo/pods/a/binding", &binding)
            .await
            .ok(),
    );
    let n1 = Some(("system:node:n1", &["system:nodes"][..]));
    let n2 = Some(("system:node:n2", &["system:nodes"][..]));
    let code = async |who, path: &str| server.raw(who, "GET", path, &[], "").await.code;
    assert_eq!(code(n1, "/api/v1/namespaces/demo/secrets/used").await, 200);
    assert_eq!(
        code(n1, "/api/v1/namespaces/demo/secrets/unused").await,
        403
    );
    assert_eq!(code(n1, "/api/v1/namespaces/demo/secrets").await, 403);
    assert_eq!(code(n2, "/api/v1/namespaces/demo/secrets/used").await, 403);
    assert_eq!(
        code(n1, "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await,
        200
    );
    assert_eq!(code(n1, "/api/v1/pods").await, 403);
    let node = json!({"metadata": {"name": "n2"}}).to_string();
    let other = server.raw(n1, "POST", "/api/v1/nodes", &JSON, node).await;
    assert_eq!(other.code, 403, "{}", other.status());
    let account = "/api/v1/namespaces/demo/serviceaccounts/default";
    assert_ne!(code(n1, account).await, 403);
    assert_eq!(code(n2, account).await, 403);
}

#[tokio::test(start_paused = true)]
async fn a_node_offers_its_own_devices_only() {
    let server = Server::start().await;
    let slices = "/apis/resource.k8s.io/v1/resourceslices";
    let n1 = Some(("system:node:n1", &["system:nodes"][..]));
    let n2 = Some(("system:node:n2", &["system:nodes"][..]));
    let slice = json!({"metadata": {"name": "s1"}, "spec": {
        "driver": "d.example", "nodeName": "n1",
        "pool": {"name": "p", "resourceSliceCount": 1}, "devices": [{"name": "a"}],
    }})
    .to_string();
    let other = server.raw(n2, "POST", slices, &JSON, slice.clone()).await;
    assert_eq!(other.code, 403, "{}", other.status());
    let own = server.raw(n1, "POST", slices, &JSON, slice).await;
    assert_eq!(own.code, 201, "{}", own.status());
    let code = async |who, verb: &str, path: &str| server.raw(who, verb, path, &[], "").await.code;
    let (one, of_n1) = (
        format!("{slices}/s1"),
        format!("{slices}?fieldSelector=spec.nodeName%3Dn1"),
    );
    for verb in ["GET", "DELETE"] {
        assert_eq!(code(n2, verb, &one).await, 403);
        assert_eq!(code(n2, verb, &of_n1).await, 403);
        assert_eq!(code(n1, verb, slices).await, 403);
    }
    assert_eq!(code(n1, "GET", &one).await, 200);
    assert_eq!(code(n1, "GET", &of_n1).await, 200);
    assert_eq!(code(n1, "DELETE", &of_n1).await, 200);
    assert_eq!(code(n1, "GET", &one).await, 403);
}

#[tokio::test(start_paused = true)]
async fn a_bound_token_dies_with_its_pod() {
    let server = Server::start().await;
    server.namespace("demo").await;
    let made = server
        .send("POST", "/api/v1/namespaces/demo/pods", &pod("a"))
        .await
        .ok();
    let request = json!({"spec": {"expirationSeconds": 3600, "boundObjectRef": {
        "apiVersion": "v1", "kind": "Pod", "name": "a", "uid": made["metadata"]["uid"],
    }}});
    let path = "/api/v1/namespaces/demo/serviceaccounts/default/token";
    let token = server.send("POST", path, &request).await.ok();
    let token = token["status"]["token"].as_str().unwrap().to_owned();
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), JSON[0]];
    let review = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let me = server.raw(None, "POST", review, &headers, "{}").await.ok();
    assert_eq!(
        me["status"]["userInfo"]["username"],
        "system:serviceaccount:demo:default"
    );
    let late = std::time::Duration::from_secs(4000);
    drop(
        server
            .send("DELETE", "/api/v1/namespaces/demo/pods/a", &Value::Null)
            .await
            .ok(),
    );
    assert_eq!(
        server.raw(None, "POST", review, &headers, "{}").await.code,
        401,
        "its pod is gone"
    );
    let plain = server
        .send("POST", path, &json!({"spec": {"expirationSeconds": 3600}}))
        .await
        .ok();
    let bearer = format!("Bearer {}", plain["status"]["token"].as_str().unwrap());
    let headers = [("authorization", bearer.as_str()), JSON[0]];
    assert_eq!(
        server.raw(None, "POST", review, &headers, "{}").await.code,
        201
    );
    tokio::time::sleep(late).await;
    assert_eq!(
        server.raw(None, "POST", review, &headers, "{}").await.code,
        401,
        "it has expired"
    );
}
