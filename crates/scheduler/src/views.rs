//! What the scheduler keeps of Pods and nodes: computed once, when they are decoded.

use std::collections::BTreeMap;

use client::resource::kinds;
use client::{ObjectMeta, Resource, View};
use rules::resources::{Resources, parse, requests};
use serde::Deserialize;
use serde_json::Value;

/// Amounts in the unit a scheduler counts in: CPU in thousandths, the rest whole.
pub type Amounts = BTreeMap<String, i64>;

/// Requests that are assumed for scoring where a container has none, as upstream.
const ASSUMED_CPU: i64 = 100;
const ASSUMED_MEMORY: i64 = 200 << 20;

fn amounts(resources: &Resources) -> Amounts {
    let one = |(name, q): (&String, &api::Quantity)| {
        let amount = if name == "cpu" {
            q.milli_value()
        } else {
            q.value()
        };
        (name.clone(), amount)
    };
    resources.iter().map(one).collect()
}

/// A port that a Pod takes on its node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    pub protocol: String,
    pub port: i64,
    pub ip: String,
}

impl HostPort {
    /// Whether two ports cannot be on one node.
    #[must_use]
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.ip) || any(&other.ip) || self.ip == other.ip)
    }
}

/// What a Pod wants of its node. The parts that are rarely there are JSON.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(from = "RawPod")]
pub struct PodView {
    pub metadata: ObjectMeta,
    pub node_name: String,
    pub scheduler: String,
    pub priority: i64,
    pub requests: Amounts,
    /// CPU and memory with upstream's assumptions where nothing is requested.
    pub scored: (i64, i64),
    pub ports: Vec<HostPort>,
    pub node_selector: Value,
    pub affinity: Value,
    pub tolerations: Value,
    pub spread: Value,
    pub images: Vec<String>,
    pub gated: bool,
    pub ended: bool,
    /// The message of its `PodScheduled` condition, if that is false.
    pub refused: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPod {
    metadata: ObjectMeta,
    spec: Value,
    status: Value,
}

impl From<RawPod> for PodView {
    fn from(raw: RawPod) -> Self {
        let RawPod {
            metadata,
            mut spec,
            status,
        } = raw;
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let items = |v: &Value| v.as_array().cloned().unwrap_or_default();
        let containers = items(&spec["containers"]);
        let mut ports = Vec::new();
        let mut scored = (0, 0);
        for container in &containers {
            for port in items(&container["ports"]) {
                let host = port["hostPort"].as_i64().unwrap_or(0);
                if host > 0 {
                    let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
                    ports.push(HostPort {
                        protocol,
                        port: host,
                        ip: text(&port["hostIP"]),
                    });
                }
            }
            let asked = amounts(&parse(&container["resources"]["requests"]));
            scored.0 += asked.get("cpu").copied().unwrap_or(ASSUMED_CPU);
            scored.1 += asked.get("memory").copied().unwrap_or(ASSUMED_MEMORY);
        }
        let mut requests = amounts(&requests(&spec));
        requests.retain(|_, n| *n > 0);
        scored.0 = scored.0.max(requests.get("cpu").copied().unwrap_or(0));
        scored.1 = scored.1.max(requests.get("memory").copied().unwrap_or(0));
        let conditions = items(&status["conditions"]);
        let refused = conditions
            .iter()
            .find(|c| c["type"] == "PodScheduled" && c["status"] == "False")
            .map(|c| text(&c["message"]));
        let node_name = text(&spec["nodeName"]);
        let placed = !node_name.is_empty();
        // A Pod with a node asks nothing more, except that its anti-affinity keeps others away.
        let mut take = |key: &str| {
            if placed {
                Value::Null
            } else {
                spec[key].take()
            }
        };
        Self {
            node_selector: take("nodeSelector"),
            tolerations: take("tolerations"),
            spread: take("topologySpreadConstraints"),
            affinity: spec["affinity"].take(),
            node_name,
            scheduler: text(&spec["schedulerName"]),
            priority: spec["priority"].as_i64().unwrap_or(0),
            requests,
            scored,
            ports,
            images: if placed {
                Vec::new()
            } else {
                containers.iter().map(|c| text(&c["image"])).collect()
            },
            gated: !items(&spec["schedulingGates"]).is_empty(),
            ended: matches!(status["phase"].as_str(), Some("Succeeded" | "Failed")),
            refused,
            metadata,
        }
    }
}

impl View for PodView {
    const RESOURCE: Resource = kinds::PODS;
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl PodView {
    /// Whether a node is to be found for it, by us.
    #[must_use]
    pub fn wants_node(&self) -> bool {
        self.node_name.is_empty()
            && !self.gated
            && !self.ended
            && self.metadata.deletion_timestamp.is_none()
            && (self.scheduler.is_empty() || self.scheduler == crate::NAME)
    }

    /// Whether it asks for the same as before: then another try is pointless.
    #[must_use]
    pub fn asks_the_same(&self, other: &Self) -> bool {
        self.metadata.uid == other.metadata.uid
            && self.metadata.labels == other.metadata.labels
            && self.wants_node() == other.wants_node()
            && self.requests == other.requests
            && self.node_selector == other.node_selector
            && self.affinity == other.affinity
            && self.tolerations == other.tolerations
    }
}

/// What a node offers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(from = "RawNode")]
pub struct NodeView {
    pub metadata: ObjectMeta,
    /// As JSON, as the affinity rules read them.
    pub labels: Value,
    pub unschedulable: bool,
    pub taints: Value,
    pub allocatable: Amounts,
    pub images: BTreeMap<String, i64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNode {
    metadata: ObjectMeta,
    spec: Value,
    status: Value,
}

impl From<RawNode> for NodeView {
    fn from(raw: RawNode) -> Self {
        let RawNode {
            metadata,
            mut spec,
            status,
        } = raw;
        let mut images = BTreeMap::new();
        for image in status["images"].as_array().into_iter().flatten() {
            for name in image["names"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
            {
                images.insert(name.to_owned(), image["sizeBytes"].as_i64().unwrap_or(0));
            }
        }
        Self {
            labels: serde_json::json!(metadata.labels),
            unschedulable: spec["unschedulable"] == true,
            taints: spec["taints"].take(),
            allocatable: amounts(&parse(&status["allocatable"])),
            images,
            metadata,
        }
    }
}

impl View for NodeView {
    const RESOURCE: Resource = kinds::NODES;
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl NodeView {
    /// Whether another version of it can take the same Pods.
    #[must_use]
    pub fn offers_the_same(&self, other: &Self) -> bool {
        self.labels == other.labels
            && self.unschedulable == other.unschedulable
            && self.taints == other.taints
            && self.allocatable == other.allocatable
    }
}
