//! What a first-time reader of a Kubernetes introduction does.

use std::path::Path;

use test_support::Node;

pub fn examples() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples")
        .display()
        .to_string()
}

/// A node on which the examples run.
pub fn with_examples(name: &str) -> Node {
    let node = Node::start(name);
    node.import_demo_images();
    node.sh(&format!("kubectl apply -f {}", examples()));
    node.sh("kubectl rollout status -n demo deployment/web --timeout=60s");
    node.sh("kubectl wait -n demo --for=condition=Ready pod --all --timeout=60s");
    node
}

#[test]
fn a_page_is_answered_through_services_and_follows_the_deployment() {
    let node = with_examples("walk");
    let page = node.eventually(
        "kubectl exec -n demo rc/clock -- wget -qO- -T 2 http://web.demo.svc.cluster.local",
    );
    assert!(
        page.contains("Hello from a Service from web-") && page.ends_with("version 1"),
        "{page}"
    );
    for address in ["127.0.0.1", "192.0.2.77"] {
        let page = node.eventually(&format!("curl -fsS --max-time 2 http://{address}:30080"));
        assert!(page.ends_with("version 1"), "{page}");
    }
    // Several Pods answer.
    let answers = node.sh("for i in $(seq 40); do curl -fsS --max-time 2 http://127.0.0.1:30080; done | sort -u | wc -l");
    assert!(answers.parse::<u32>().unwrap() > 1, "{answers}");

    node.sh("kubectl scale -n demo deployment/web --replicas=5 && kubectl rollout status -n demo deployment/web --timeout=60s");
    assert_eq!(
        node.sh("kubectl get deployment -n demo web -o jsonpath='{.status.readyReplicas}'"),
        "5"
    );
    node.sh("kubectl set image -n demo deployment/web web=localhost/skiff-demo:2 && kubectl rollout status -n demo deployment/web --timeout=90s");
    assert!(
        node.eventually("curl -fsS --max-time 2 http://127.0.0.1:30080")
            .ends_with("version 2")
    );
    node.sh("kubectl rollout undo -n demo deployment/web && kubectl rollout status -n demo deployment/web --timeout=90s");
    assert!(
        node.eventually("curl -fsS --max-time 2 http://127.0.0.1:30080")
            .ends_with("version 1")
    );
    let history = node.sh("kubectl rollout history -n demo deployment/web");
    assert!(history.contains('3') && history.contains('2'), "{history}");
}

#[test]
fn a_pod_sees_its_configuration_and_its_changes() {
    let node = with_examples("conf");
    assert_eq!(
        node.sh("kubectl exec -n demo deploy/web -- cat /etc/login/password"),
        "correct-horse-battery-staple"
    );
    node.sh(r#"kubectl patch secret -n demo login -p '{"stringData":{"password":"changed"}}'"#);
    node.eventually(
        "kubectl exec -n demo deploy/web -- cat /etc/login/password | grep -qx changed",
    );
    // The Pod may talk to the API with its own token, and may do nothing there.
    let said = node.sh(
        "kubectl exec -n demo deploy/web -- cat /var/run/secrets/kubernetes.io/serviceaccount/namespace",
    );
    assert_eq!(said, "demo");
}

#[test]
fn a_killed_container_is_restarted() {
    let node = with_examples("heal");
    let pod =
        node.sh("kubectl get pods -n demo -l app=web -o jsonpath='{.items[0].metadata.name}'");
    let ip = node.sh(&format!(
        "kubectl get pod -n demo {pod} -o jsonpath='{{.status.podIP}}'"
    ));
    node.sh(&format!(
        "for p in $(pgrep -x httpd); do nsenter -t $p -n ip -4 addr | grep -q ' {ip}/' && kill -9 $p; done; true"
    ));
    node.eventually(&format!(
        "kubectl get pod -n demo {pod} -o jsonpath='{{.status.containerStatuses[0].restartCount}} {{.status.containerStatuses[0].ready}}' | grep -qx '1 true'"
    ));
}

#[test]
fn init_containers_probes_and_exit_codes() {
    let node = with_examples("pods");
    let manifest = r#"
apiVersion: v1
kind: Pod
metadata: {name: steps, namespace: demo}
spec:
  restartPolicy: Never
  volumes: [{name: shared, emptyDir: {}}]
  initContainers:
  - {name: first, image: localhost/skiff-demo:1, command: [sh, -c, "echo one > /shared/log"], volumeMounts: [{name: shared, mountPath: /shared}]}
  - {name: second, image: localhost/skiff-demo:1, command: [sh, -c, "echo two >> /shared/log"], volumeMounts: [{name: shared, mountPath: /shared}]}
  containers:
  - {name: last, image: localhost/skiff-demo:1, command: [sh, -c, "cat /shared/log; exit 3"], volumeMounts: [{name: shared, mountPath: /shared}]}
"#;
    std::fs::write(node.dir().join("steps.yaml"), manifest).unwrap();
    node.sh(&format!(
        "kubectl apply -f {}/steps.yaml",
        node.dir().display()
    ));
    node.eventually(
        "kubectl get pod -n demo steps -o jsonpath='{.status.phase}' | grep -qx Failed",
    );
    assert_eq!(node.sh("kubectl logs -n demo steps"), "one\ntwo");
    let code = "{.status.containerStatuses[0].state.terminated.exitCode}";
    assert_eq!(
        node.sh(&format!(
            "kubectl get pod -n demo steps -o jsonpath='{code}'"
        )),
        "3"
    );
    // An image that is not there is said to be missing.
    node.sh("kubectl run -n demo lost --image=localhost/none:1 --image-pull-policy=Never");
    node.eventually("kubectl get pod -n demo lost -o jsonpath='{.status.containerStatuses[0].state.waiting.reason}' | grep -qx ErrImageNeverPull");
    // A command that is not there too.
    node.sh("kubectl run -n demo wrong --image=localhost/skiff-demo:1 --restart=Never --command -- /none");
    node.eventually("kubectl get pod -n demo wrong -o jsonpath='{.status.containerStatuses[0].state.terminated.reason}' | grep -qE 'StartError|ContainerCannotRun'");
}
