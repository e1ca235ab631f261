//! Two nodes on one link: the second one's parts are processes of their own, with kubeconfigs.

use std::time::Duration;

use test_support::Node;

/// A Pod on each node that tells its caller's address, and a Service for each.
const PAIR: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: peer, namespace: pair}
data:
  serve: |
    mkdir -p /www/cgi-bin
    hostname > /www/index.html
    printf '#!/bin/sh\nprintf "Content-Type: text/plain\\r\\n\\r\\n$REMOTE_ADDR"\n' > /www/cgi-bin/peer
    chmod 755 /www/cgi-bin/peer
    echo serving
    exec httpd -f -p 0.0.0.0:8080 -h /www
---
apiVersion: v1
kind: Pod
metadata: {name: one, namespace: pair, labels: {pod: one}}
spec:
  terminationGracePeriodSeconds: 1
  nodeSelector: {kubernetes.io/hostname: NODE-ONE}
  volumes: [{name: peer, configMap: {name: peer}}]
  containers:
  - name: peer
    image: localhost/skiff-demo:1
    command: [sh, /peer/serve]
    volumeMounts: [{name: peer, mountPath: /peer}]
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: two, namespace: pair, labels: {pod: two}}
spec:
  terminationGracePeriodSeconds: 1
  nodeName: NODE-TWO
  volumes: [{name: peer, configMap: {name: peer}}]
  containers:
  - name: peer
    image: localhost/skiff-demo:1
    command: [sh, /peer/serve]
    volumeMounts: [{name: peer, mountPath: /peer}]
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: one, namespace: pair}
spec: {type: NodePort, selector: {pod: one}, ports: [{port: 80, targetPort: 8080, nodePort: 30091}]}
---
apiVersion: v1
kind: Service
metadata: {name: two, namespace: pair}
spec: {type: NodePort, selector: {pod: two}, ports: [{port: 80, targetPort: 8080, nodePort: 30092}]}
"#;

/// Two nodes with the pair's Pods ready.
fn pair(name: &str) -> (Node, Node) {
    let one = Node::start(&format!("{name}-one"));
    let two = one.join(&format!("{name}-two"), 78);
    one.import_demo_images();
    two.import_demo_images();
    let manifest = PAIR
        .replace("NODE-ONE", one.name())
        .replace("NODE-TWO", two.name());
    std::fs::write(one.dir().join("pair.yaml"), manifest).unwrap();
    one.sh("kubectl create namespace pair");
    one.eventually("kubectl get serviceaccount -n pair default");
    one.sh(&format!(
        "kubectl apply -f {}/pair.yaml",
        one.dir().display()
    ));
    one.sh("kubectl wait -n pair --for=condition=Ready pod --all --timeout=60s");
    (one, two)
}

fn pod_ip(node: &Node, pod: &str) -> String {
    node.sh(&format!(
        "kubectl get pod -n pair {pod} -o jsonpath='{{.status.podIP}}'"
    ))
}

#[test]
fn pods_and_services_reach_across_nodes() {
    let (one, two) = pair("across");
    let ready = "{.status.conditions[?(@.type==\"Ready\")].status}";
    for node in [&one, &two] {
        let name = node.name();
        assert_eq!(
            one.sh(&format!("kubectl get node {name} -o jsonpath='{ready}'")),
            "True"
        );
    }
    assert_eq!(
        one.sh("kubectl get nodes -l tests/joined=yes -o name"),
        format!("node/{}", two.name())
    );
    let ranges = one.sh("kubectl get nodes -o jsonpath='{.items[*].spec.podCIDR}'");
    assert_eq!(ranges, "10.42.0.0/24 10.42.1.0/24");

    // Pod to Pod, both ways: the caller's address is the Pod's, by its own address and by the Service's.
    let ips = [pod_ip(&one, "one"), pod_ip(&one, "two")];
    for (from, to, own, other) in [
        ("one", "two", &ips[0], &ips[1]),
        ("two", "one", &ips[1], &ips[0]),
    ] {
        let cluster_ip = one.sh(&format!(
            "kubectl get service -n pair {to} -o jsonpath='{{.spec.clusterIP}}'"
        ));
        for address in [
            format!("{other}:8080"),
            cluster_ip,
            format!("{to}.pair.svc.cluster.local"),
            to.to_owned(),
        ] {
            let seen = one.eventually(&format!(
                "kubectl exec -n pair {from} -- wget -qO- -T 2 http://{address}/cgi-bin/peer"
            ));
            assert_eq!(&seen, own, "{from} asks {address}");
        }
    }
    // Node ports of each node lead to the Pod on the other; each node reaches cluster addresses too.
    for (node, service, port) in [(&one, "two", 30092), (&two, "one", 30091)] {
        let cluster_ip = one.sh(&format!(
            "kubectl get service -n pair {service} -o jsonpath='{{.spec.clusterIP}}'"
        ));
        for to in ["127.0.0.1".to_owned(), node.address().to_owned()] {
            assert_eq!(
                node.eventually(&format!("curl -fsS --max-time 2 http://{to}:{port}")),
                service
            );
        }
        assert_eq!(
            node.eventually(&format!("curl -fsS --max-time 2 http://{cluster_ip}")),
            service
        );
    }
    let far = format!("curl -fsS --max-time 2 http://{}:30091", two.address());
    assert_eq!(
        one.eventually(&far),
        "one",
        "by the other node's node port and back"
    );
    // Pods of the second node reach the API server by its Service.
    one.sh("kubectl exec -n pair two -- nc -w 2 kubernetes.default 443 </dev/null");

    // What the API server asks the second kubelet for.
    assert_eq!(one.sh("kubectl logs -n pair two"), "serving");
    assert_eq!(one.sh("kubectl exec -n pair two -- hostname"), "two");
    assert_eq!(one.sh("echo in | kubectl exec -i -n pair two -- cat"), "in");
    let page = one.sh(
        "kubectl port-forward -n pair pod/two 18080:8080 >/dev/null 2>&1 & p=$!; \
         for i in $(seq 100); do page=$(curl -fsS --max-time 1 http://127.0.0.1:18080 2>/dev/null) && break; sleep 0.1; done; \
         kill $p; wait $p 2>/dev/null; echo \"$page\"",
    );
    assert_eq!(page, "two");
    // Nobody else gets an answer from it.
    let stranger = two.sh("curl -ks -o /dev/null -w '%{http_code}' https://127.0.0.1:10250/pods");
    assert_eq!(stranger, "401");

    one.sh("kubectl delete pod -n pair two --timeout=30s");
    two.eventually("! pgrep -x httpd");
    two.eventually("[ -z \"$(ip -o link | grep -E ' sk[0-9a-f]')\" ]");

    // Routes follow the Nodes, and restarts find them.
    let route = format!("10.42.1.0/24 via {}", two.address());
    assert!(
        one.sh("ip route").contains(&route),
        "{}",
        one.sh("ip route")
    );
    assert!(
        two.sh("ip route")
            .contains(&format!("10.42.0.0/24 via {}", one.address()))
    );
    one.sh("ip link set up0 down && ip link set up0 up && ip route add default dev up0");
    one.eventually("ip route | grep -q 10.42.1.0/24");
    two.kill("kubelet");
    one.sh(&format!("kubectl delete node {}", two.name()));
    one.eventually("! ip route | grep -q 10.42.1.0/24");
    two.start_part("kubelet");
    one.eventually("ip route | grep -q 10.42.1.0/24");
}

#[test]
fn a_node_goes_on_when_the_server_comes_back() {
    let (one, two) = pair("back");
    one.kill_server();
    // Services go on without it.
    two.sh(&format!(
        "curl -fsS --max-time 2 http://{}:30092",
        two.address()
    ));
    one.start_server();
    let overrides = format!(r#"{{"spec":{{"nodeName":"{}"}}}}"#, two.name());
    one.sh(&format!(
        "kubectl run -n pair later --image=localhost/skiff-demo:1 --labels=pod=later --overrides='{overrides}' && \
         kubectl expose -n pair pod later --port=80 --target-port=8080 && \
         kubectl wait -n pair --for=condition=Ready pod/later --timeout=60s"
    ));
    for pod in ["one", "two"] {
        let page = one.eventually(&format!(
            "kubectl exec -n pair {pod} -- wget -qO- -T 2 http://later"
        ));
        assert!(page.starts_with("Hello from later"), "{page}");
    }
}

#[test]
fn a_silent_node_is_not_ready_and_its_pods_are_evicted() {
    let (one, two) = pair("silent");
    let patch = r#"{"spec":{"tolerations":[{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":1}]}}"#;
    one.sh("kubectl delete pod -n pair two --timeout=30s");
    one.sh(&format!(
        "kubectl run -n pair brief --image=localhost/skiff-demo:1 --overrides='{}' && \
         kubectl wait -n pair --for=condition=Ready pod/brief --timeout=30s",
        patch.replace(
            r#""spec":{"#,
            &format!(r#""spec":{{"nodeName":"{}","#, two.name())
        )
    ));
    two.kill("kubelet");
    // The control plane waits 50 s.
    let ready = "{.status.conditions[?(@.type==\"Ready\")].status}";
    one.within(
        Duration::from_secs(120),
        &format!(
            "kubectl get node {} -o jsonpath='{ready}' | grep -qx Unknown",
            two.name()
        ),
    );
    one.eventually(
        "kubectl get pod -n pair brief -o jsonpath='{.metadata.deletionTimestamp}' | grep -q .",
    );
    // Only the kubelet can say that nothing is left of it.
    assert_eq!(two.sh("pgrep -x httpd | wc -l"), "1");
    two.start_part("kubelet");
    one.eventually("! kubectl get pod -n pair brief");
    two.eventually("! pgrep -x httpd");
}

#[test]
fn scheduler_and_controllers_run_apart_from_the_server() {
    let node = Node::start_with("apart", "--disable scheduler,controller-manager");
    node.import_demo_images();
    let users = [
        ("scheduler", "system:kube-scheduler", ""),
        // As upstream without ServiceAccount credentials, the controllers' user needs all their roles.
        ("controller-manager", "controllers", "system:masters"),
    ];
    for (part, user, group) in users {
        let config = node.dir().join(format!("{part}.kubeconfig"));
        std::fs::write(&config, node.kubeconfig_for(user, group)).unwrap();
        node.tell(
            part,
            &format!(
                "$SKIFF {part} --data-dir $DIR/data --kubeconfig {}",
                config.display()
            ),
        );
    }
    node.eventually("kubectl get serviceaccount default");
    node.sh("kubectl create deployment web --image=localhost/skiff-demo:1 --replicas=2");
    node.sh("kubectl rollout status deployment/web --timeout=60s");
    let refused = node.run("$SKIFF uninstall --yes");
    assert_eq!(refused.status.code(), Some(1));
    node.kill_server();
    let refused = node.run("$SKIFF uninstall --yes");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("a scheduler is running"));
}

#[test]
fn a_node_that_joined_is_uninstalled_by_itself() {
    let (one, two) = pair("leave");
    for part in ["kubelet", "proxy", "dns"] {
        two.kill(part);
    }
    two.sh("$SKIFF uninstall --yes");
    let left = |what: &str| two.sh(&format!("{what} || true"));
    assert_eq!(left("ls $SKIFF_DATA_DIR 2>/dev/null"), "");
    assert_eq!(left("pgrep -x httpd"), "");
    assert_eq!(left("nft list tables"), "");
    assert_eq!(left("ip -o link | grep -E ' sk[0-9a-f]'"), "");
    assert_eq!(left("ip route | grep 10.42."), "");
    assert_eq!(left("ip -4 addr | grep 10.43."), "");
    one.sh("kubectl exec -n pair one -- wget -qO- -T 2 http://one");
}
