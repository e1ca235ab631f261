//! Every kubectl at hand does the daily work.

use std::path::PathBuf;

use test_support::Node;

use crate::examples::{examples, with_examples};

/// The versions beside the kubectl on the PATH (`kubectl.1.27` …); the one on the PATH when there are none.
pub(crate) fn kubectls() -> Vec<PathBuf> {
    let found = std::process::Command::new("sh")
        .args(["-c", "readlink -f $(command -v kubectl)"])
        .output()
        .unwrap();
    let path = PathBuf::from(String::from_utf8_lossy(&found.stdout).trim());
    let dir = path.parent().unwrap();
    let versions = ["1.27", "1.30", "1.33"].map(|v| dir.join(format!("kubectl.{v}")));
    let there: Vec<PathBuf> = versions.into_iter().filter(|p| p.exists()).collect();
    if there.is_empty() { vec![path] } else { there }
}

/// Debian 12's.
pub(crate) fn debians() -> PathBuf {
    crate::libraries::installed().join("kubectl-1.20")
}

#[test]
fn get_apply_edit_patch_scale_rollout_logs_exec_and_the_rest() {
    let node = with_examples("kubectl");
    for kubectl in kubectls() {
        let k = kubectl.display();
        println!("{k}");
        node.sh(&format!("{k} get pods -n demo -o wide && {k} get all -A"));
        node.sh(&format!("{k} apply -f {}", examples()));
        node.sh(&format!(
            "EDITOR='sed -i s/correct/incorrect/' {k} edit -n demo configmap/page"
        ));
        node.sh(&format!(
            r#"{k} patch -n demo configmap page -p '{{"data":{{"by":"{k}"}}}}'"#
        ));
        node.sh(&format!("{k} scale -n demo deployment/web --replicas=2 && {k} rollout status -n demo deployment/web --timeout=60s"));
        node.sh(&format!("{k} rollout restart -n demo deployment/web && {k} rollout status -n demo deployment/web --timeout=90s"));
        assert!(
            node.sh(&format!(
                "timeout 3 {k} logs -n demo -l app=clock -f | head -n 2 | wc -l"
            )) == "2"
        );
        assert_eq!(
            node.sh(&format!("{k} exec -n demo deploy/web -- echo out")),
            "out"
        );
        assert_eq!(
            node.sh(&format!("echo in | {k} exec -i -n demo deploy/web -- cat")),
            "in"
        );
        assert_eq!(
            node.sh(&format!(
                "{k} exec -n demo deploy/web -- sh -c 'exit 7'; echo $?"
            )),
            "7"
        );
        let tty = node.sh(&format!(
            "script -qec '{k} exec -it -n demo deploy/web -- tty' /dev/null"
        ));
        assert!(tty.contains("/dev/pts/"), "{tty}");
        forward(&node, &k.to_string());
        let described = node.sh(&format!(
            "{k} describe -n demo deployment web && {k} describe -n demo pod -l app=web"
        ));
        assert!(
            described.contains("ScalingReplicaSet") && described.contains("Started"),
            "{described}"
        );
        assert!(
            node.sh(&format!("{k} explain deployment.spec.replicas"))
                .contains("Number of desired pods")
        );
        assert_eq!(
            node.sh(&format!(
                "{k} auth can-i delete pods -n demo --as joe; true"
            )),
            "no"
        );
        node.sh(&format!("{k} create configmap -n demo thrown --from-literal=a=b && {k} delete configmap -n demo thrown"));
        node.sh(&format!(
            "{k} run -n demo once --image=localhost/skiff-demo:1 --restart=Never --command -- true"
        ));
        node.sh(&format!("{k} wait -n demo --for=jsonpath='{{.status.phase}}'=Succeeded pod/once --timeout=30s && {k} delete -n demo pod once"));
    }
}

fn forward(node: &Node, kubectl: &str) {
    node.sh(&format!(
        "{kubectl} port-forward -n demo service/web 18080:80 >/dev/null 2>&1 & p=$!; \
         for i in $(seq 100); do page=$(curl -fsS --max-time 1 http://127.0.0.1:18080 2>/dev/null) && break; sleep 0.1; done; \
         kill $p; wait $p 2>/dev/null; echo \"$page\" | grep -q version"
    ));
}
