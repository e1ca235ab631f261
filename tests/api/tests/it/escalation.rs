//! Nobody gets more than they have: by a role's aggregation, a role that does not exist yet, a mirror Pod, a token, by
//! acting as somebody else or by reading.

use serde_json::{Value, json};
use test_support::Server;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

async fn write(server: &Server, path: &str, object: &Value) {
    drop(server.send("POST", path, object).await.ok());
}

/// Gives `user` rules everywhere.
async fn grant(server: &Server, user: &str, rules: Value) {
    let role = json!({"metadata": {"name": user}, "rules": rules});
    write(server, &format!("{RBAC}/clusterroles"), &role).await;
    let binding = json!({
        "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}],
    });
    write(server, &format!("{RBAC}/clusterrolebindings"), &binding).await;
}

#[tokio::test(start_paused = true)]
async fn an_aggregation_needs_everything() {
    let server = Server::start().await;
    let rules = json!([{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["get", "update"]}]);
    grant(&server, "joe", rules.clone()).await;
    let role = json!({
        "metadata": {"name": "joe"}, "rules": rules,
        "aggregationRule": {"clusterRoleSelectors": [{}]},
    });
    let joe = Some(("joe", &["system:authenticated"][..]));
    let path = format!("{RBAC}/clusterroles/joe");
    let refused = server.raw(joe, "PUT", &path, &JSON, role.to_string()).await;
    let want = "403 Forbidden: clusterroles.rbac.authorization.k8s.io \"joe\" is forbidden: must have cluster-admin privileges to use the aggregationRule";
    assert_eq!(refused.status(), want);
    // Labels change nothing.
    let role = json!({"metadata": {"name": "joe", "labels": {"a": "b"}}, "rules": rules});
    drop(
        server
            .raw(joe, "PUT", &path, &JSON, role.to_string())
            .await
            .ok(),
    );
}

#[tokio::test(start_paused = true)]
async fn a_role_that_is_not_there_is_not_bound() {
    let server = Server::start().await;
    let rules = json!([{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterrolebindings"], "verbs": ["*"]}]);
    grant(&server, "joe", rules).await;
    let binding = json!({
        "metadata": {"name": "later"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "later"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "joe"}],
    })
    .to_string();
    let joe = Some(("joe", &["system:authenticated"][..]));
    let path = format!("{RBAC}/clusterrolebindings");
    let refused = server.raw(joe, "POST", &path, &JSON, binding.clone()).await;
    let want = "404 NotFound: clusterroles.rbac.authorization.k8s.io \"later\" not found";
    assert_eq!(refused.status(), want);
    let admin = Some(("admin", &["system:masters"][..]));
    drop(server.raw(admin, "POST", &path, &JSON, binding).await.ok());
}

#[tokio::test(start_paused = true)]
async fn a_node_cannot_make_itself_a_reader() {
    let server = Server::start().await;
    server.namespace("a").await;
    write(
        &server,
        "/api/v1/nodes",
        &json!({"metadata": {"name": "n"}}),
    )
    .await;
    let node = Some((
        "system:node:n",
        &["system:nodes", "system:authenticated"][..],
    ));
    let mirror = json!({
        "metadata": {"name": "m", "annotations": {"kubernetes.io/config.mirror": "x"}},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}],
                 "volumes": [{"name": "v", "secret": {"secretName": "s"}}]},
    });
    let path = "/api/v1/namespaces/a/pods";
    let refused = server
        .raw(node, "POST", path, &JSON, mirror.to_string())
        .await;
    let want = "403 Forbidden: pods \"m\" is forbidden: a mirror pod may not reference secrets";
    assert_eq!(refused.status(), want);
    // A token that belongs to no Pod of the node's.
    let pod = json!({
        "metadata": {"name": "p"},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]},
    });
    write(&server, path, &pod).await;
    let path = "/api/v1/namespaces/a/serviceaccounts/default/token";
    for (reference, why) in [
        (Value::Null, "node requested token not bound to a pod"),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "name": "p"}),
            "node requested token with a pod binding without a uid",
        ),
    ] {
        let request = json!({"spec": {"audiences": [], "boundObjectRef": reference}}).to_string();
        let refused = server.raw(node, "POST", path, &JSON, request).await;
        let want = format!("403 Forbidden: serviceaccounts \"default\" is forbidden: {why}");
        assert_eq!(refused.status(), want);
    }
}

#[tokio::test(start_paused = true)]
async fn a_review_tells_only_the_audiences_that_a_token_has() {
    let server = Server::start().await;
    server.namespace("a").await;
    let path = "/api/v1/namespaces/a/serviceaccounts/default/token";
    let request = json!({"spec": {"audiences": ["api", "other"]}});
    let token = server.send("POST", path, &request).await.ok();
    let review =
        json!({"spec": {"token": token["status"]["token"], "audiences": ["vault", "api"]}});
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let answer = server.send("POST", path, &review).await.ok();
    assert_eq!(answer["status"]["audiences"], json!(["api"]));
}

#[tokio::test(start_paused = true)]
async fn acting_as_another_is_permitted_part_by_part() {
    let server = Server::start().await;
    let rules = json!([{"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"]}]);
    grant(&server, "joe", rules).await;
    let joe = Some(("joe", &["system:authenticated"][..]));
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let ask = async |headers: &[(&str, &str)]| {
        let mut all = JSON.to_vec();
        all.extend(headers);
        server.raw(joe, "POST", path, &all, "{}").await
    };
    let eve = ask(&[("impersonate-user", "eve")]).await.ok();
    assert_eq!(eve["status"]["userInfo"]["username"], "eve");
    let refused = ask(&[("impersonate-user", "eve"), ("impersonate-uid", "7")]).await;
    let want = "403 Forbidden: uids.authentication.k8s.io \"7\" is forbidden: User \"joe\" cannot impersonate resource \"uids\" in API group \"authentication.k8s.io\" at the cluster scope";
    assert_eq!(refused.status(), want);
    assert_eq!(
        ask(&[("impersonate-group", "system:masters")]).await.code,
        500
    );
}

#[tokio::test(start_paused = true)]
async fn reading_opens_no_connection_into_a_pod() {
    let server = Server::start().await;
    server.namespace("a").await;
    grant(
        &server,
        "joe",
        json!([{"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get"]}]),
    )
    .await;
    let joe = Some(("joe", &["system:authenticated"][..]));
    let upgrade = [("connection", "Upgrade"), ("upgrade", "websocket")];
    let path = "/api/v1/namespaces/a/pods/p/exec?command=sh";
    let refused = server.raw(joe, "GET", path, &upgrade, "").await;
    let want = "403 Forbidden: pods \"p\" is forbidden: User \"joe\" cannot create resource \"pods/exec\" in API group \"\" in the namespace \"a\"";
    assert_eq!(refused.status(), want);
}

#[tokio::test(start_paused = true)]
async fn a_named_object_is_listed_by_who_may_see_only_it() {
    let server = Server::start().await;
    let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["mine"], "verbs": ["list", "watch"]}]);
    grant(&server, "joe", rules).await;
    let joe = Some(("joe", &["system:authenticated"][..]));
    let path = "/api/v1/namespaces/default/configmaps";
    let list = async |selector: &str| {
        let path = format!("{path}?fieldSelector={selector}");
        server.raw(joe, "GET", &path, &[], "").await.code
    };
    assert_eq!(list("metadata.name%3Dmine").await, 200);
    assert_eq!(list("metadata.name%3Dyours").await, 403);
    assert_eq!(list("metadata.name%21%3Dmine").await, 403);
    assert_eq!(server.raw(joe, "GET", path, &[], "").await.code, 403);
}
