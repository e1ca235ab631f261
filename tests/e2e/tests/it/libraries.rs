//! Client libraries that others wrote do the daily work: Python's and JavaScript's.

use std::path::{Path, PathBuf};

use test_support::Node;

use crate::hollow::Hollow;

/// Where the libraries and Debian's kubectl are, installed if they are not yet.
pub(crate) fn installed() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or("target".into());
    let dir = std::path::absolute(root.join(target).join("clients")).unwrap();
    let output = std::process::Command::new(root.join("scripts/clients"))
        .arg(&dir)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "the client libraries are not there:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    dir
}

fn node(name: &str) -> Node {
    let node = Node::start(name);
    node.import_demo_images();
    node.eventually("kubectl get serviceaccount default");
    node
}

#[test]
fn python_lists_creates_watches_patches_and_deletes() {
    let libraries = installed();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/client.py");
    let said = node("python").sh(&format!(
        "timeout 240 {}/python/bin/python {}",
        libraries.display(),
        script.display()
    ));
    assert_eq!(said, "python: fine");
}

#[test]
fn javascript_lists_creates_watches_patches_and_deletes() {
    let libraries = installed();
    let said = node("javascript").sh(&format!(
        "timeout 240 node {}/node/client.mjs",
        libraries.display()
    ));
    assert_eq!(said, "javascript: fine");
}

/// A script beside a library, on a cluster with a hollow node.
async fn on_a_hollow_node(program: PathBuf, script: PathBuf) -> String {
    let hollow = Hollow::start().await;
    let output = tokio::process::Command::new("timeout")
        .arg("60")
        .args([program, script])
        .env("KUBECONFIG", hollow.dir().join("kubeconfig"))
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_makes_objects_of_any_kind_and_follows_them() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/objects.py");
    let said = on_a_hollow_node(installed().join("python/bin/python"), script).await;
    assert_eq!(said, "python objects: fine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn javascript_makes_objects_of_any_kind_and_follows_them() {
    let script = installed().join("node/objects.mjs");
    let said = on_a_hollow_node("node".into(), script).await;
    assert_eq!(said, "javascript objects: fine");
}
