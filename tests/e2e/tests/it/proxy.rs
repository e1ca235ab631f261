//! Pods, Services and the node asked through the API server, with kubectl.

use test_support::Node;

const WEB: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: web}
data:
  serve: |
    mkdir -p /www/cgi-bin
    echo '<a href="/next">next</a>' > /www/index.html
    cat > /www/cgi-bin/told <<'EOF'
    #!/bin/sh
    printf 'Content-Type: text/plain\r\n\r\n'
    echo "$REQUEST_METHOD $QUERY_STRING"
    EOF
    chmod 755 /www/cgi-bin/told
    exec httpd -f -p 0.0.0.0:8080 -h /www
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: web, configMap: {name: web}}]
  containers:
  - name: web
    image: localhost/skiff-demo:1
    command: [sh, /web/serve]
    ports: [{containerPort: 8080}]
    volumeMounts: [{name: web, mountPath: /web}]
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
"#;

#[test]
fn pods_services_and_the_node_are_reached_through_the_api() {
    let node = Node::start("proxy");
    node.import_demo_images();
    let dir = node.dir().display();
    std::fs::write(node.dir().join("web.yaml"), WEB).unwrap();
    node.sh(&format!("kubectl apply -f {dir}/web.yaml"));
    node.sh("kubectl wait --for=condition=Ready pod/web");
    node.eventually("kubectl get endpoints web -o jsonpath={.subsets[0].addresses[0].ip} | grep .");
    let pods = "/api/v1/namespaces/default/pods";
    let services = "/api/v1/namespaces/default/services";
    for path in [
        format!("{pods}/web/proxy"),
        format!("{pods}/web:8080/proxy"),
        format!("{pods}/http:web:8080/proxy"),
        format!("{services}/web:http/proxy"),
        format!("{services}/web:80/proxy"),
    ] {
        let page = node.sh(&format!("kubectl get --raw {path}/"));
        assert_eq!(page, format!("<a href=\"{path}/next\">next</a>"));
        let told = node.sh(&format!(
            "printf sent > {dir}/sent; kubectl create --raw '{path}/cgi-bin/told?a=b' -f {dir}/sent"
        ));
        assert_eq!(told, "POST a=b");
    }
    let health = format!(
        "kubectl get --raw /api/v1/nodes/{}/proxy/healthz",
        node.name()
    );
    assert_eq!(node.sh(&health), "ok");
    let nobody = node.sh(&format!(
        "kubectl get --raw {pods}/web:9/proxy/ 2>&1 || true"
    ));
    let want = "Error from server (ServiceUnavailable): error trying to reach service:";
    assert!(nobody.starts_with(want), "{nobody}");
}
