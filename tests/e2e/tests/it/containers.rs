//! kubectl's verbs that need containers, on a real node: `attach`, `exec`, `logs`, `cp`, `port-forward`, `proxy`, `debug`.

use test_support::Node;

use crate::clients::{debians, kubectls};

/// Says a line each second, and echoes what it is told.
const TALKER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: talker, labels: {app: talker}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: localhost/skiff-demo:1
    stdin: true
    command: [sh, -c, 'echo begin; echo more; while read line; do echo "heard $line"; done; sleep 1000']
  - name: web
    image: localhost/skiff-demo:1
    command: [sh, -c, 'mkdir -p /www; echo page > /www/index.html; exec httpd -f -p 8080 -h /www']
    ports: [{containerPort: 8080}]
"#;

fn node(name: &str) -> Node {
    let node = Node::start(name);
    node.import_demo_images();
    node.eventually("kubectl get serviceaccount default");
    std::fs::write(node.dir().join("talker.yaml"), TALKER).unwrap();
    node
}

#[test]
fn every_verb_with_containers() {
    let node = node("verbs");
    let dir = node.dir().display().to_string();
    for (number, kubectl) in kubectls().iter().enumerate() {
        let k = kubectl.display().to_string();
        println!("{k}");
        node.sh(&format!("{k} create -f {dir}/talker.yaml && {k} wait --for=condition=Ready pod/talker --timeout=60s"));

        assert_eq!(node.sh(&format!("{k} logs talker -c main")), "begin\nmore");
        assert_eq!(
            node.sh(&format!("{k} logs talker -c main --tail=1")),
            "more"
        );
        assert_eq!(
            node.sh(&format!("{k} logs talker -c main --limit-bytes=3")),
            "beg"
        );
        let stamped = node.sh(&format!(
            "{k} logs talker -c main --timestamps --since=1h | head -n 1"
        ));
        assert!(
            stamped.starts_with("20") && stamped.ends_with("Z begin"),
            "{stamped}"
        );
        let prefixed = node.sh(&format!(
            "{k} logs -l app=talker --all-containers --prefix --tail=1"
        ));
        assert!(prefixed.contains("[pod/talker/main] more"), "{prefixed}");
        let refused = node.sh(&format!("{k} logs talker --previous -c main 2>&1; true"));
        assert!(
            refused.contains("previous terminated container \"main\" in pod \"talker\" not found"),
            "{refused}"
        );
        let refused = node.sh(&format!("{k} logs talker -c none 2>&1; true"));
        assert!(
            refused.contains("container none is not valid for pod talker"),
            "{refused}"
        );

        let heard = node.sh(&format!("(echo hello; sleep 2) | timeout 10 {k} attach -i talker -c main 2>/dev/null | head -n 1"));
        assert_eq!(heard, "heard hello");

        assert_eq!(
            node.sh(&format!("{k} exec talker -c web -- cat /www/index.html")),
            "page"
        );
        assert_eq!(
            node.sh(&format!(
                "{k} exec talker -- sh -c 'echo out; echo err >&2' 2>/dev/null"
            )),
            "out"
        );
        assert_eq!(
            node.sh(&format!(
                "{k} exec talker -- sh -c 'exit 3' >/dev/null 2>&1; echo $?"
            )),
            "3"
        );

        node.sh(&format!(
            "mkdir -p {dir}/from{number} && echo one > {dir}/from{number}/a && head -c 300000 /dev/urandom > {dir}/from{number}/b && \
             {k} cp {dir}/from{number} talker:/tmp/there -c web && {k} cp talker:/tmp/there {dir}/back{number} -c web && \
             cmp {dir}/from{number}/b {dir}/back{number}/b && cmp {dir}/from{number}/a {dir}/back{number}/a"
        ));

        let port = 18100 + number;
        let page = node.sh(&format!(
            "{k} port-forward pod/talker {port}:8080 >/dev/null 2>&1 & p=$!; \
             for i in $(seq 100); do page=$(curl -fsS --max-time 1 http://127.0.0.1:{port} 2>/dev/null) && break; sleep 0.1; done; \
             kill $p; wait $p 2>/dev/null; echo \"$page\""
        ));
        assert_eq!(page, "page");

        let port = 18200 + number;
        let page = node.sh(&format!(
            "{k} proxy --port={port} >/dev/null 2>&1 & p=$!; \
             for i in $(seq 100); do curl -fsS --max-time 1 http://127.0.0.1:{port}/version >/dev/null 2>&1 && break; sleep 0.1; done; \
             curl -fsS http://127.0.0.1:{port}/api/v1/namespaces/default/pods/talker:8080/proxy/; \
             kill $p; wait $p 2>/dev/null; true"
        ));
        assert_eq!(page, "page");

        let copy = node.sh(&format!(
            "{k} debug talker --copy-to=copy --container=main --image=localhost/skiff-demo:1 -- sleep 1000 2>&1; \
             {k} wait --for=condition=Ready pod/copy --timeout=60s && {k} exec copy -c main -- echo copied"
        ));
        assert!(copy.ends_with("copied"), "{copy}");

        let usage = node.sh(&format!("{k} top pods 2>&1; true"));
        assert_eq!(usage, "error: Metrics API not available");
        node.sh(&format!("{k} cluster-info dump --namespaces default --output-directory={dir}/dump{number} && grep -q begin {dir}/dump{number}/default/talker/logs.txt"));
        node.sh(&format!("{k} delete pod talker copy --timeout=30s"));
    }
}

#[test]
fn debians_kubectl_logs_executes_and_deletes() {
    let node = node("debian");
    let (k, dir) = (
        debians().display().to_string(),
        node.dir().display().to_string(),
    );
    node.sh(&format!(
        "{k} apply -f {dir}/talker.yaml && {k} wait --for=condition=Ready pod/talker --timeout=60s"
    ));
    assert_eq!(node.sh(&format!("{k} logs talker -c main")), "begin\nmore");
    assert_eq!(
        node.sh(&format!("{k} exec talker -c web -- cat /www/index.html")),
        "page"
    );
    assert_eq!(
        node.sh(&format!("echo in | {k} exec -i talker -c web -- cat")),
        "in"
    );
    assert_eq!(
        node.sh(&format!(
            "{k} exec talker -c web -- sh -c 'exit 3' >/dev/null 2>&1; echo $?"
        )),
        "3"
    );
    let page = node.sh(&format!(
        "{k} port-forward pod/talker 18300:8080 >/dev/null 2>&1 & p=$!; \
         for i in $(seq 100); do page=$(curl -fsS --max-time 1 http://127.0.0.1:18300 2>/dev/null) && break; sleep 0.1; done; \
         kill $p; wait $p 2>/dev/null; echo \"$page\""
    ));
    assert_eq!(page, "page");
    node.sh(&format!("{k} delete pod talker --timeout=30s"));
}
