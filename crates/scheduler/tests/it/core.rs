use std::collections::BTreeMap;
use std::sync::Arc;

use scheduler::Core;
use scheduler::cycle::Decision;
use scheduler::views::{NodeView, PodView};
use serde_json::json;

fn node(name: &str) -> Arc<NodeView> {
    let offer = json!({"cpu": "8", "memory": "32Gi", "pods": "110"});
    let node = json!({"metadata": {"name": name}, "status": {"allocatable": offer}});
    Arc::new(serde_json::from_value(node).unwrap())
}

fn pod(i: usize) -> Arc<PodView> {
    let pod = json!({
        "metadata": {"name": format!("p{i}"), "namespace": "default", "uid": format!("u{i}"),
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}}}]},
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

#[test]
fn pods_of_one_owner_spread_evenly() {
    spread(200, 1000);
}

/// The loop alone, for a figure: 5,000 Pods on 1,000 nodes.
#[test]
#[ignore = "a measurement: run it in a release build"]
fn five_thousand_on_a_thousand() {
    spread(1000, 5000);
}

fn spread(nodes: usize, pods: usize) {
    let mut core = Core::default();
    for i in 0..nodes {
        core.node(&format!("n{i}"), Some(node(&format!("n{i}"))));
    }
    for i in 0..pods {
        core.pod(&Arc::from(format!("default/p{i}")), Some(pod(i)));
    }
    let mut per_node: BTreeMap<String, usize> = BTreeMap::new();
    let mut decided = 0;
    while let Some((_, _, decision)) = core.next(0) {
        match decision {
            Decision::Bind(node) => *per_node.entry(node).or_default() += 1,
            Decision::Unschedulable(why) => panic!("{why}"),
        }
        decided += 1;
    }
    assert_eq!(decided, pods);
    let (least, most) = (
        per_node.values().min().unwrap(),
        per_node.values().max().unwrap(),
    );
    assert!(
        per_node.len() == nodes && most - least <= 3,
        "{} nodes, {least} to {most}",
        per_node.len()
    );
}
