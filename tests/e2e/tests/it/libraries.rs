//! Client libraries that others wrote do the daily work: Python's and JavaScript's.

use std::path::{Path, PathBuf};

use test_support::Node;

/// Where the libraries are, installed if they are not yet.
fn installed() -> PathBuf {
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
