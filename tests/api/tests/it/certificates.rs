//! Requests for certificates: who asked, who may decide, who may sign.

use serde_json::{Value, json};
use test_support::Server;

const COLLECTION: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// `O=system:nodes, CN=system:node:a`.
const FOR_A_NODE: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIck1JR1JBZ0VBTUM4eEZUQVRCZ05WQkFvTURITjVjM1JsYlRwdWIyUmxjekVXTUJRR0ExVUVBd3dOYzNsegpkR1Z0T201dlpHVTZZVEJaTUJNR0J5cUdTTTQ5QWdFR0NDcUdTTTQ5QXdFSEEwSUFCTU94bmFqeFZ1dW5tNTlXCjdPTXNhTDNjeHUvL25rSGQ2aDl4eVVlcWhFdU1ySW1uSHBqL00rVllkM1hTZktFNFI5UDg3MkRKQ2o1a3F4Z2oKOFFvRWN3R2dBREFLQmdncWhrak9QUVFEQWdOSkFEQkdBaUVBMFRiOS9WRW5Nb2JQNEFrY2RRejE1R3UrYnlFNApLTlQyb0VTZ0xQTko0aDBDSVFDL3o2eGQ3bXk1SGhVRGM4VTE5WCtGS21CSlpneFdWZkxuOWhkM3VUTGE3Zz09Ci0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo=";
/// `O=system:masters, CN=me`.
const FOR_A_MASTER: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIZ01JR0lBZ0VBTUNZeEZ6QVZCZ05WQkFvTURuTjVjM1JsYlRwdFlYTjBaWEp6TVFzd0NRWURWUVFEREFKdApaVEJaTUJNR0J5cUdTTTQ5QWdFR0NDcUdTTTQ5QXdFSEEwSUFCTU94bmFqeFZ1dW5tNTlXN09Nc2FMM2N4dS8vCm5rSGQ2aDl4eVVlcWhFdU1ySW1uSHBqL00rVllkM1hTZktFNFI5UDg3MkRKQ2o1a3F4Z2o4UW9FY3dHZ0FEQUsKQmdncWhrak9QUVFEQWdOSEFEQkVBaUJKUk1XYlJmaFhvQzlMREtTQVA3QjlheG1oWThPM3ZOR3U1dWRSUWprcAo1QUlnS1FzSXIvRmVtRFRCK2U4bHovYWlEWmRsWTFrVXFnbld6NDgxdTVpS2pTMD0KLS0tLS1FTkQgQ0VSVElGSUNBVEUgUkVRVUVTVC0tLS0tCg==";
/// Some certificate.
const CERTIFICATE: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1JSUJjRENDQVJlZ0F3SUJBZ0lVQjJnWWdiMXJOOVZoMUxOdWUveWFYQkRxRnZrd0NnWUlLb1pJemowRUF3SXcKRFRFTE1Ba0dBMVVFQXd3Q1kyRXdJQmNOTWpZeE1USTBNREEwTnpVMVdoZ1BNakV5TmpFd016RXdNRFEzTlRWYQpNQTB4Q3pBSkJnTlZCQU1NQW1OaE1Ga3dFd1lIS29aSXpqMENBUVlJS29aSXpqMERBUWNEUWdBRXc3R2RxUEZXCjY2ZWJuMWJzNHl4b3Zkekc3LytlUWQzcUgzSEpSNnFFUzR5c2lhY2VtUDh6NVZoM2RkSjhvVGhIMC96dllNa0sKUG1TckdDUHhDZ1J6QWFOVE1GRXdIUVlEVlIwT0JCWUVGRXYydE1oaFhvTTdNekg3cDI3WHZBVXlHbGk2TUI4RwpBMVVkSXdRWU1CYUFGRXYydE1oaFhvTTdNekg3cDI3WHZBVXlHbGk2TUE4R0ExVWRFd0VCL3dRRk1BTUJBZjh3CkNnWUlLb1pJemowRUF3SURSd0F3UkFJZ1dBZ0hXN1JRWCs0UmRhdFFpaEU0YWtnQ2xDS3FYMGQvYnlEWGM2bWIKeTVVQ0lDdXdqS013UW1kVzdUemZHejJuRnlrb0xjZm00bVd1dXpGbGJzRXV4NFVWCi0tLS0tRU5EIENFUlRJRklDQVRFLS0tLS0K";
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];
const ADMIN: (&str, &[&str]) = ("admin", &["system:masters"]);
const JOE: (&str, &[&str]) = ("joe", &["system:authenticated", "people"]);

fn request(pem: &str, signer: &str) -> Value {
    json!({
        "metadata": {"name": "a"},
        "spec": {
            "request": pem, "signerName": signer, "usages": ["client auth"], "username": "somebody else",
            "groups": ["system:masters"],
        },
    })
}

fn condition(ty: &str) -> Value {
    json!({"type": ty, "status": "True", "reason": "Test", "message": "because"})
}

/// Lets joe do everything with requests, but nothing with signers.
async fn joe_may_write_requests(server: &Server) {
    let role = json!({"metadata": {"name": "requests"}, "rules": [{
        "apiGroups": ["certificates.k8s.io"], "verbs": ["*"],
        "resources": ["certificatesigningrequests", "certificatesigningrequests/approval", "certificatesigningrequests/status"],
    }]});
    bind(server, &role).await;
}

async fn bind(server: &Server, role: &Value) {
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let name = &role["metadata"]["name"];
    let binding = json!({
        "metadata": {"name": name}, "subjects": [{"kind": "User", "name": "joe"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
    });
    let roles = format!("{rbac}/clusterroles");
    drop(server.send("POST", &roles, role).await.ok());
    let bindings = format!("{rbac}/clusterrolebindings");
    drop(server.send("POST", &bindings, &binding).await.ok());
}

async fn put(
    server: &Server,
    user: (&str, &[&str]),
    subresource: &str,
    status: Value,
) -> test_support::Answer {
    let path = format!("{COLLECTION}/a");
    let mut object = server.send("GET", &path, &Value::Null).await.ok();
    object["status"] = status;
    let path = format!("{path}/{subresource}");
    let bytes = object.to_string();
    server.raw(Some(user), "PUT", &path, &JSON, bytes).await
}

#[tokio::test(start_paused = true)]
async fn a_request_says_who_made_it_and_keeps_it() {
    let server = Server::start().await;
    joe_may_write_requests(&server).await;
    let body = request(FOR_A_NODE, "example.com/signer").to_string();
    let made = server
        .raw(Some(JOE), "POST", COLLECTION, &JSON, body)
        .await
        .ok();
    assert_eq!(made["spec"]["username"], "joe");
    let groups = json!(["system:authenticated", "people"]);
    assert_eq!(made["spec"]["groups"], groups);
    let mut changed = made.clone();
    changed["spec"]["username"] = "admin".into();
    changed["metadata"]["labels"] = json!({"a": "b"});
    let path = format!("{COLLECTION}/a");
    let changed = server.send("PUT", &path, &changed).await.ok();
    assert_eq!(changed["spec"], made["spec"]);
    assert_eq!(changed["metadata"]["labels"]["a"], "b");
    for (signer, found) in [("example.com/signer", 1), ("example.com/other", 0)] {
        let path = format!("{COLLECTION}?fieldSelector=spec.signerName%3D{signer}");
        let list = server.send("GET", &path, &Value::Null).await.ok();
        assert_eq!(list["items"].as_array().map(Vec::len), Some(found));
    }
}

#[tokio::test(start_paused = true)]
async fn only_who_may_approve_for_the_signer_decides() {
    let server = Server::start().await;
    joe_may_write_requests(&server).await;
    let body = request(FOR_A_NODE, "example.com/signer");
    drop(server.send("POST", COLLECTION, &body).await.ok());
    let approved = json!({"conditions": [condition("Approved")], "certificate": CERTIFICATE});
    let refused = put(&server, JOE, "approval", approved.clone()).await;
    assert_eq!(
        refused.status(),
        "403 Forbidden: certificatesigningrequests.certificates.k8s.io \"a\" is forbidden: user not permitted to approve \
         requests with signerName \"example.com/signer\""
    );
    let signers = json!({"metadata": {"name": "approver"}, "rules": [{
        "apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["example.com/*"], "verbs": ["approve"],
    }]});
    bind(&server, &signers).await;
    let done = put(&server, JOE, "approval", approved.clone()).await.ok();
    let decided = &done["status"]["conditions"][0];
    assert_eq!(decided["type"], "Approved");
    assert!(decided["lastUpdateTime"].is_string(), "{decided}");
    assert!(decided["lastTransitionTime"].is_string(), "{decided}");
    // A decision sets no certificate, and is for good.
    assert_eq!(done["status"]["certificate"], Value::Null);
    let both = json!({"conditions": [condition("Approved"), condition("Denied")]});
    let refused = put(&server, ADMIN, "approval", both).await;
    assert_eq!(
        refused.body["details"]["causes"],
        json!([{
            "reason": "FieldValueInvalid", "field": "status.conditions[1].type",
            "message": "Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive",
        }])
    );
    let refused = put(&server, ADMIN, "approval", json!({})).await;
    assert_eq!(
        refused.body["details"]["causes"],
        json!([{
            "reason": "FieldValueForbidden", "field": "status.conditions",
            "message": "Forbidden: updates may not remove a condition of type \"Approved\"",
        }])
    );
}

#[tokio::test(start_paused = true)]
async fn only_who_may_sign_for_the_signer_sets_the_certificate() {
    let server = Server::start().await;
    joe_may_write_requests(&server).await;
    let body = request(FOR_A_NODE, "example.com/signer");
    drop(server.send("POST", COLLECTION, &body).await.ok());
    let signed = json!({"certificate": CERTIFICATE});
    let refused = put(&server, JOE, "status", signed.clone()).await;
    assert_eq!(
        refused.status(),
        "403 Forbidden: certificatesigningrequests.certificates.k8s.io \"a\" is forbidden: user not permitted to sign \
         requests with signerName \"example.com/signer\""
    );
    let signers = json!({"metadata": {"name": "signer"}, "rules": [{
        "apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["example.com/signer"], "verbs": ["sign"],
    }]});
    bind(&server, &signers).await;
    let done = put(&server, JOE, "status", signed).await.ok();
    assert_eq!(done["status"]["certificate"], CERTIFICATE);
    let refused = put(&server, ADMIN, "status", json!({})).await;
    assert_eq!(
        refused.body["details"]["causes"],
        json!([{
            "reason": "FieldValueForbidden", "field": "status.certificate",
            "message": "Forbidden: updates may not modify existing certificate content",
        }])
    );
}

#[tokio::test(start_paused = true)]
async fn nobody_asks_to_become_a_master() {
    let server = Server::start().await;
    let signer = "kubernetes.io/kube-apiserver-client";
    let body = request(FOR_A_MASTER, signer);
    let refused = server.send("POST", COLLECTION, &body).await;
    assert_eq!(
        refused.status(),
        "403 Forbidden: certificatesigningrequests.certificates.k8s.io \"a\" is forbidden: use of \
         kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"
    );
    let body = request(FOR_A_MASTER, "example.com/signer");
    assert_eq!(server.send("POST", COLLECTION, &body).await.code, 201);
}

/// What can be discovered is served.
#[tokio::test(start_paused = true)]
async fn decisions_are_discovered() {
    let server = Server::start().await;
    let list = server
        .send("GET", "/apis/certificates.k8s.io/v1", &Value::Null)
        .await
        .ok();
    let resources = list["resources"].as_array().unwrap();
    let names: Vec<&Value> = resources.iter().map(|r| &r["name"]).collect();
    let plural = "certificatesigningrequests";
    for sub in ["", "/approval", "/status"] {
        assert!(
            names.contains(&&json!(format!("{plural}{sub}"))),
            "{names:?}"
        );
    }
}
