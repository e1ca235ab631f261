//! Routes to the Pods of the other nodes: to each node's range by that node's address.
//!
//! That works among nodes that share a link, where the range's gateway is a neighbour; a node elsewhere is named in the
//! log and gets no route. What the routes must be is decided in [`plan`]; [`net::routes::sync`] makes it so. All routes of
//! ours within the cluster's range are looked at each time, so that what a former process left is corrected too.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use client::resource::kinds;
use client::{Client, Informers, ObjectMeta, Resource, View};
use net::{Cidr, namespace};
use serde::Deserialize;
use tokio::sync::Notify;
use world::{Backoff, Shutdown, World};

use crate::Error;

/// What is needed to keep routes.
#[derive(Clone)]
pub struct Options {
    pub world: World,
    pub shutdown: Shutdown,
    /// May list Nodes: as `system:kube-proxy`. (A kubelet sees its own Node only.)
    pub client: Client,
    pub node_name: String,
    /// All Pods of the cluster: no other routes are touched.
    pub cluster_cidr: Cidr,
}

/// The shortest time between two looks at the kernel's routes.
const PACE: Duration = Duration::from_millis(20);

/// Where a node is, and its Pods.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NodeView {
    pub metadata: ObjectMeta,
    pub spec: NodeSpec,
    pub status: NodeStatus,
}

/// `v1.NodeSpec`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
}

/// `v1.NodeStatus`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    pub addresses: Vec<NodeAddress>,
}

/// `v1.NodeAddress`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    #[serde(rename = "type")]
    pub kind: String,
    pub address: String,
}

impl View for NodeView {
    const RESOURCE: Resource = kinds::NODES;
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl NodeView {
    fn internal_ip(&self) -> Option<Ipv4Addr> {
        let mut internal = self.status.addresses.iter();
        internal.find_map(|a| (a.kind == "InternalIP").then(|| a.address.parse().ok())?)
    }

    fn ranges(&self) -> BTreeSet<Cidr> {
        let all = self.spec.pod_cidrs.iter().chain([&self.spec.pod_cidr]);
        all.filter_map(|text| net::parse_cidr(text)).collect()
    }
}

/// What the routes must be.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Range and gateway.
    pub routes: Vec<(Cidr, Ipv4Addr)>,
    /// Nodes whose Pods cannot be reached, and why.
    pub unreachable: BTreeSet<(String, String)>,
}

/// Decides the routes of the node `own`, which has the addresses `ours` (each with the prefix of its link).
#[must_use]
pub fn plan(nodes: &[Arc<NodeView>], own: &str, cluster: Cidr, ours: &[Cidr]) -> Plan {
    let mut plan = Plan::default();
    let mut taken = BTreeSet::new();
    for node in nodes.iter().filter(|n| n.metadata.name != own) {
        let ranges = node.ranges();
        let Some(via) = node.internal_ip().filter(|_| !ranges.is_empty()) else {
            // It is being registered: there will be a change.
            continue;
        };
        let mut refuse = |why: String| {
            plan.unreachable.insert((node.metadata.name.clone(), why));
        };
        if ours.iter().any(|(address, _)| *address == via) {
            refuse(format!("its address {via} is this node's"));
            continue;
        }
        if !ours.iter().any(|subnet| net::contains(*subnet, via)) {
            refuse(format!("its address {via} is on no link of this node"));
            continue;
        }
        for range in ranges {
            let inside = range.1 >= cluster.1 && net::contains(cluster, range.0);
            if !inside {
                refuse(format!(
                    "its range {}/{} is not the cluster's",
                    range.0, range.1
                ));
            } else if !taken.insert(range) {
                refuse(format!(
                    "its range {}/{} is another node's too",
                    range.0, range.1
                ));
            } else {
                plan.routes.push((range, via));
            }
        }
    }
    plan
}

/// Keeps the routes of the calling thread's network namespace until shutdown; they stay then. Must be called inside a
/// tokio runtime.
///
/// # Errors
/// When the kernel refuses to forward packets; later errors are logged and tried again.
pub fn start(options: Options) -> Result<(), Error> {
    net::sysctl::set("ipv4/ip_forward", "1")?;
    let shutdown = options.shutdown.clone();
    tokio::spawn(shutdown.run_until_cancelled_owned(run(options)));
    Ok(())
}

async fn run(options: Options) {
    let informers = Informers::new(options.client.clone(), options.shutdown.clone());
    let nodes = informers.all::<NodeView>();
    let changed = Arc::new(Notify::new());
    let notify = changed.clone();
    nodes.on_change(move |_| notify.notify_one());
    // A link that goes down takes routes along, and one that comes up may lead to nodes.
    match net::link::Changes::subscribe() {
        Ok(links) => {
            let notify = changed.clone();
            let watching = async move {
                loop {
                    match links.next().await {
                        Ok(()) => notify.notify_one(),
                        Err(error) => {
                            tracing::error!(%error, "links are not watched any more");
                            return;
                        }
                    }
                }
            };
            tokio::spawn(options.shutdown.clone().run_until_cancelled_owned(watching));
        }
        Err(error) => tracing::error!(%error, "links are not watched"),
    }
    nodes.synced().await;
    let mut told = BTreeSet::new();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    loop {
        let (known, own, cluster) = (
            nodes.list(),
            options.node_name.clone(),
            options.cluster_cidr,
        );
        let done = namespace::on_own_thread("node-routes", move || {
            let ours = net::link::subnets()?;
            let plan = plan(&known, &own, cluster, &ours);
            let changes = net::routes::sync(cluster, &plan.routes)?;
            Ok((plan, changes))
        });
        match done.await {
            Ok((plan, changes)) => {
                backoff.reset();
                if changes > 0 {
                    tracing::info!(
                        changes,
                        routes = plan.routes.len(),
                        "routes to other nodes' Pods follow the Nodes"
                    );
                }
                for (node, why) in plan.unreachable.difference(&told) {
                    tracing::warn!(node, why, "there is no route to the node's Pods");
                }
                told = plan.unreachable;
            }
            Err(error) => {
                tracing::error!(%error, "routes to other nodes' Pods are not as they must be");
                // Tried again after a while, or as soon as something changes.
                let _ = tokio::time::timeout(backoff.next_delay(), changed.notified()).await;
                tokio::time::sleep(PACE).await;
                continue;
            }
        }
        tokio::time::sleep(PACE).await;
        changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, ip: &str, range: &str) -> Arc<NodeView> {
        let view = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"podCIDR": range, "podCIDRs": [range]},
            "status": {"addresses": [
                {"type": "Hostname", "address": name}, {"type": "InternalIP", "address": ip},
            ]},
        }));
        Arc::new(view.unwrap())
    }

    #[test]
    fn neighbours_get_a_route_and_others_are_named() {
        let ours = [(Ipv4Addr::new(192, 0, 2, 1), 24), (Ipv4Addr::LOCALHOST, 8)];
        let cluster = (Ipv4Addr::new(10, 42, 0, 0), 16);
        let nodes = [
            node("a", "192.0.2.1", "10.42.0.0/24"),
            node("b", "192.0.2.2", "10.42.1.0/24"),
            node("c", "198.51.100.1", "10.42.2.0/24"),
            node("d", "192.0.2.4", ""),
            node("e", "192.0.2.5", "10.99.0.0/24"),
            node("f", "192.0.2.1", "10.42.3.0/24"),
            node("g", "192.0.2.7", "10.42.1.0/24"),
        ];
        let plan = plan(&nodes, "a", cluster, &ours);
        let to_b = (
            (Ipv4Addr::new(10, 42, 1, 0), 24),
            Ipv4Addr::new(192, 0, 2, 2),
        );
        assert_eq!(plan.routes, [to_b]);
        let said: Vec<String> = plan
            .unreachable
            .iter()
            .map(|(n, w)| format!("{n}: {w}"))
            .collect();
        assert_eq!(
            said,
            [
                "c: its address 198.51.100.1 is on no link of this node",
                "e: its range 10.99.0.0/24 is not the cluster's",
                "f: its address 192.0.2.1 is this node's",
                "g: its range 10.42.1.0/24 is another node's too",
            ]
        );
    }
}
