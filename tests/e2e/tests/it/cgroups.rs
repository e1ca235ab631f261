//! The control groups above containers: Pods share the processors by what they request.

use std::path::{Path, PathBuf};

use test_support::Node;

fn pod(name: &str, cpu: &str) -> String {
    format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}"}}, "spec": {{
            "terminationGracePeriodSeconds": 1, "containers": [{{
                "name": "c", "image": "localhost/skiff-demo:1", "command": ["sleep", "100000"],
                "resources": {{"requests": {{"cpu": "{cpu}"}}, "limits": {{"cpu": "2", "memory": "64Mi"}}}}
        }}]}}}}"#
    )
}

/// A group's directory of `controller`, on either version.
fn directory(controller: &str, path: &str) -> PathBuf {
    let root = Path::new("/sys/fs/cgroup");
    let root = if root.join("cgroup.controllers").exists() {
        root.to_owned()
    } else {
        root.join(controller)
    };
    root.join(path.trim_start_matches('/'))
}

/// The first of these files that a group has.
fn setting(controller: &str, path: &str, files: [&str; 2]) -> String {
    let dir = directory(controller, path);
    let text = files
        .iter()
        .find_map(|f| std::fs::read_to_string(dir.join(f)).ok());
    text.unwrap_or_else(|| panic!("{}: none of {files:?}", dir.display()))
        .trim()
        .to_owned()
}

fn share(path: &str) -> u64 {
    let share = setting("cpu", path, ["cpu.shares", "cpu.weight"])
        .parse()
        .unwrap();
    if directory("cpu", path).join("cpu.weight").exists() {
        // The weight that a share becomes.
        return 2 + (share - 1) * 262_142 / 9999;
    }
    share
}

fn about(share: u64, millis: u64) -> bool {
    share.abs_diff(millis * 1024 / 1000) <= 27
}

#[test]
fn pods_and_their_classes_have_groups() {
    let node = Node::start("cgroups");
    node.import_demo_images();
    let file = node.dir().join("pods.json");
    std::fs::write(
        &file,
        format!("{}\n{}", pod("one", "250m"), pod("two", "1")),
    )
    .unwrap();
    node.sh(&format!("kubectl apply -f {}", file.display()));
    node.sh("kubectl wait --for=condition=Ready pod --all --timeout=60s");
    let uid = node.sh("kubectl get pod one -o jsonpath={.metadata.uid}");
    let groups =
        node.sh("for p in $(pgrep -x sleep); do cat /proc/$p/cgroup; done 2>/dev/null; true");
    let of_one = groups
        .lines()
        .find_map(|l| {
            let path = l.splitn(3, ':').nth(2)?;
            path.contains(&uid)
                .then(|| path.rsplit_once('/').unwrap().0)
        })
        .unwrap();
    assert!(about(share(of_one), 250), "{}", share(of_one));
    let files = ["memory.limit_in_bytes", "memory.max"];
    assert_eq!(setting("memory", of_one, files), (64 << 20).to_string());
    let quota = setting("cpu", of_one, ["cpu.cfs_quota_us", "cpu.max"]);
    assert_eq!(quota.split(' ').next(), Some("200000"));
    let class = of_one.rsplit_once('/').unwrap().0;
    assert!(class.ends_with("/burstable"));
    assert!(about(share(class), 1250), "{}", share(class));
    let best_effort = class.replace("burstable", "besteffort");
    assert_eq!(share(&best_effort), 2);
    node.sh("kubectl delete pod one");
    node.eventually("! kubectl get pod one 2>/dev/null");
    assert!(!directory("memory", of_one).exists());
    assert!(about(share(class), 1000), "{}", share(class));
}
