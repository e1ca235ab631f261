//! Watches over nodes: those that stopped reporting are marked, tainted and emptied; new ones get their Pod network.
//!
//! Follows <https://kubernetes.io/docs/concepts/architecture/nodes/#condition>. A node reports by renewing its Lease in
//! `kube-node-lease` or by writing its status; what counts is when we last saw a change, by our own clock.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use client::resource::kinds;
use client::{DeleteOptions, Error, Informer, ObjectReference, PatchKind, Selector};
use jiff::Timestamp;
use reconcile::Outcome;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::env::{Env, Key, enqueue_changes, settled};
use crate::views::{LeaseView, NodeCondition, NodeView, PodView};

/// How long a node may be silent, as upstream's `--node-monitor-grace-period`.
const GRACE: Duration = Duration::from_secs(50);
/// Nodes get Pod networks of this prefix length.
const POD_PREFIX: u8 = 24;
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    (
        "NetworkUnavailable",
        "node.kubernetes.io/network-unavailable",
    ),
];

/// What a node should be like.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// All conditions, if some change.
    pub conditions: Option<Vec<NodeCondition>>,
    /// All taints, if some change.
    pub taints: Option<Vec<Value>>,
    pub because: &'static str,
}

fn status_of<'a>(conditions: &'a [NodeCondition], kind: &str) -> Option<&'a str> {
    conditions
        .iter()
        .find(|c| c.kind == kind)
        .map(|c| c.status.as_str())
}

/// Decides a node's conditions and taints. `silent`: it has not reported for the grace period. `cut_off`: no node is well, so
/// that the fault is rather ours: then Pods stay where they are.
pub(crate) fn plan(node: &NodeView, silent: bool, cut_off: bool, now: Timestamp) -> Plan {
    let mut conditions = node.status.conditions.clone();
    if silent {
        for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
            match conditions.iter_mut().find(|c| c.kind == kind) {
                Some(c) if c.status == "Unknown" => {}
                Some(c) => {
                    c.status = "Unknown".into();
                    c.reason = "NodeStatusUnknown".into();
                    c.message = "Kubelet stopped posting node status.".into();
                    c.last_transition_time = Some(now);
                }
                None => conditions.push(NodeCondition {
                    kind: kind.into(),
                    status: "Unknown".into(),
                    last_heartbeat_time: node.metadata.creation_timestamp,
                    last_transition_time: Some(now),
                    reason: "NodeStatusNeverUpdated".into(),
                    message: "Kubelet never posted node status.".into(),
                }),
            }
        }
    }
    let ready = status_of(&conditions, "Ready");
    // (taint, effect, wanted)
    let mut wanted: Vec<(&str, &str, bool)> = Vec::new();
    for effect in ["NoSchedule", "NoExecute"] {
        // A node that never reported keeps the taint it was registered with.
        let not_ready = ready == Some("False") || (ready.is_none() && effect == "NoSchedule");
        let stays = effect == "NoSchedule" || !cut_off;
        wanted.push((NOT_READY, effect, not_ready && stays));
        wanted.push((UNREACHABLE, effect, ready == Some("Unknown") && stays));
    }
    for (kind, taint) in PRESSURES {
        wanted.push((
            taint,
            "NoSchedule",
            status_of(&conditions, kind) == Some("True"),
        ));
    }
    wanted.push((UNSCHEDULABLE, "NoSchedule", node.spec.unschedulable));
    let mut taints = node.spec.taints.clone();
    for (key, effect, wanted) in wanted {
        let is_it = |t: &Value| t["key"] == key && t["effect"] == effect;
        if !wanted {
            taints.retain(|t| !is_it(t));
        } else if !taints.iter().any(is_it) {
            let mut taint = json!({"key": key, "effect": effect});
            if effect == "NoExecute" || key == UNSCHEDULABLE {
                taint["timeAdded"] = api::time::seconds(now).into();
            }
            taints.push(taint);
        }
    }
    let because = match ready {
        Some("True") => "it reports to be ready",
        Some("False") => "it reports not to be ready",
        _ => "it does not report",
    };
    Plan {
        conditions: (conditions != node.status.conditions).then_some(conditions),
        taints: (taints != node.spec.taints).then_some(taints),
        because,
    }
}

/// When a Pod leaves a node with these taints: `None` never, else how long after the taints came.
pub(crate) fn tolerated_for(tolerations: &Value, taints: &[Value]) -> Option<Duration> {
    let mut least: Option<Duration> = None;
    for taint in taints.iter().filter(|t| t["effect"] == "NoExecute") {
        let list = tolerations
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let bearing: Vec<&Value> = list.iter().filter(|t| rules::tolerates(t, taint)).collect();
        if bearing.is_empty() {
            return Some(Duration::ZERO);
        }
        let seconds = bearing
            .iter()
            .filter_map(|t| t["tolerationSeconds"].as_i64())
            .min();
        if let Some(seconds) = seconds {
            let span = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            least = Some(least.map_or(span, |l| l.min(span)));
        }
    }
    least
}

/// The first network of [`POD_PREFIX`] in the cluster's that no node has.
pub(crate) fn free_network(cluster: (Ipv4Addr, u8), used: &BTreeSet<String>) -> Option<String> {
    let bits = POD_PREFIX.checked_sub(cluster.1)?;
    let base = u32::from(cluster.0);
    (0..1_u64 << bits).find_map(|i| {
        let network = base.checked_add(u32::try_from(i << (32 - POD_PREFIX)).ok()?)?;
        let text = format!("{}/{POD_PREFIX}", Ipv4Addr::from(network));
        (!used.contains(&text)).then_some(text)
    })
}

/// When each node last showed a sign of life, by our clock.
type Signs = Arc<Mutex<HashMap<String, Instant>>>;

fn note_sign(signs: &Signs, node: &str) {
    let mut signs = signs.lock().unwrap_or_else(PoisonError::into_inner);
    signs.insert(node.to_owned(), Instant::now());
}

/// The last time at which a node says it was well. What we write ourselves (Unknown) does not change it.
fn heartbeat(node: &NodeView) -> Option<Timestamp> {
    let ready = node.status.conditions.iter().find(|c| c.kind == "Ready");
    ready.and_then(|c| c.last_heartbeat_time)
}

fn is_ready(node: &NodeView) -> bool {
    status_of(&node.status.conditions, "Ready") == Some("True")
}

fn ready_nodes(nodes: &Informer<NodeView>) -> usize {
    nodes.list().iter().filter(|n| is_ready(n)).count()
}

struct Controller {
    env: Env,
    nodes: Informer<NodeView>,
    pods: Informer<PodView>,
    signs: Signs,
    /// Networks given out, also before the informer shows them.
    networks: Mutex<HashMap<String, String>>,
    cluster_cidr: (Ipv4Addr, u8),
}

pub(crate) fn start(env: Env, cluster_cidr: (Ipv4Addr, u8)) {
    let nodes = env.informers.all::<NodeView>();
    let pods = env.informers.all::<PodView>();
    let leases = env.informers.select::<LeaseView>(Selector {
        namespace: "kube-node-lease".into(),
        ..Selector::default()
    });
    let queue = env.queue("node_lifecycle_controller");
    enqueue_changes(&nodes, &queue);
    let signs = Signs::default();
    let seen = signs.clone();
    nodes.on_change(move |change| {
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && heartbeat(old) != heartbeat(new)
        {
            note_sign(&seen, &change.key);
        }
    });
    let (q, all) = (queue.clone(), nodes.clone());
    nodes.on_change(move |change| {
        let was = change.old.as_deref().is_some_and(is_ready);
        let is = change.new.as_deref().is_some_and(is_ready);
        // The last one that was well, or the first again: that concerns all.
        if was != is && ready_nodes(&all) == usize::from(is) {
            for node in all.list() {
                q.add(Arc::from(node.metadata.name.as_str()));
            }
        }
    });
    let (q, seen) = (queue.clone(), signs.clone());
    leases.on_change(move |change| {
        let (_, node) = client::meta::split_key(&change.key);
        if change.new.is_some() {
            note_sign(&seen, node);
        }
        // Each renewal only moves the deadline; that is read when it fires.
        if change.old.is_none() || change.new.is_none() {
            q.add(Arc::from(node));
        }
    });
    let (q, known) = (queue.clone(), nodes.clone());
    pods.on_change(move |change| {
        let Some(pod) = &change.new else { return };
        let bound = change
            .old
            .as_ref()
            .is_none_or(|o| o.spec.node_name != pod.spec.node_name);
        let tainted = |n: Arc<NodeView>| n.spec.taints.iter().any(|t| t["effect"] == "NoExecute");
        if bound && known.get(&pod.spec.node_name).is_some_and(tainted) {
            q.add(Arc::from(pod.spec.node_name.as_str()));
        }
    });
    let controller = Arc::new(Controller {
        env: env.clone(),
        nodes: nodes.clone(),
        pods: pods.clone(),
        signs,
        networks: Mutex::default(),
        cluster_cidr,
    });
    let ready = async move {
        nodes.synced().await;
        leases.synced().await;
        pods.synced().await;
    };
    env.run(queue, ready, move |key| {
        let controller = controller.clone();
        async move { settled(controller.reconcile(&key).await) }
    });
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(node) = self.nodes.get(key) else {
            self.signs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&**key);
            self.networks
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&**key);
            return Ok(Outcome::Done);
        };
        self.give_network(&node).await?;
        let left = self.silence(&node);
        let plan = plan(&node, left.is_none(), self.cut_off(), self.env.now());
        let client = &self.env.client;
        let version = &node.metadata.resource_version;
        let changed = plan.conditions.is_some() || plan.taints.is_some();
        if let Some(conditions) = plan.conditions {
            tracing::warn!(
                node = node.metadata.name,
                because = plan.because,
                "node status is unknown"
            );
            let about = ObjectReference::to(&kinds::NODES, &node.metadata);
            let message = format!("Node {} status is now: NodeNotReady", node.metadata.name);
            self.env.events.normal(&about, "NodeNotReady", message);
            let patch = json!({"metadata": {"resourceVersion": version}, "status": {"conditions": conditions}});
            client
                .patch::<Value>(&kinds::NODES, "", key, "status", PatchKind::Merge, &patch)
                .await?;
        } else if let Some(taints) = plan.taints {
            let patch =
                json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}});
            client
                .patch::<Value>(&kinds::NODES, "", key, "", PatchKind::Merge, &patch)
                .await?;
        }
        if changed {
            // The change comes back and is looked at again.
            return Ok(Outcome::Done);
        }
        let ready = status_of(&node.status.conditions, "Ready") == Some("True");
        if !ready {
            self.mark_pods(&node).await?;
        }
        let next_eviction = self.evict(&node).await?;
        Ok(match [left, next_eviction].into_iter().flatten().min() {
            Some(after) => Outcome::After(after),
            None => Outcome::Done,
        })
    }

    /// Whether no node is well. Follows upstream's disruption of all zones: the master sees no one, so it empties none.
    fn cut_off(&self) -> bool {
        ready_nodes(&self.nodes) == 0
    }

    /// How long the node may still be silent; `None`: it has been for too long.
    fn silence(&self, node: &NodeView) -> Option<Duration> {
        let mut signs = self.signs.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let last = *signs.entry(node.metadata.name.clone()).or_insert(now);
        let left = GRACE.saturating_sub(now.duration_since(last));
        (!left.is_zero()).then_some(left)
    }

    async fn give_network(&self, node: &NodeView) -> Result<(), Error> {
        let name = &node.metadata.name;
        if !node.spec.pod_cidr.is_empty() {
            let mut given = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
            given.insert(name.clone(), node.spec.pod_cidr.clone());
            return Ok(());
        }
        let network = {
            let mut given = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
            let known = self.nodes.list();
            let used = known
                .iter()
                .map(|n| n.spec.pod_cidr.clone())
                .chain(given.values().cloned())
                .collect();
            match given
                .get(name)
                .cloned()
                .or_else(|| free_network(self.cluster_cidr, &used))
            {
                Some(network) => {
                    given.insert(name.clone(), network.clone());
                    network
                }
                None => {
                    let about = ObjectReference::to(&kinds::NODES, &node.metadata);
                    let message = format!("Node {name} status is now: CIDRNotAvailable");
                    self.env.events.normal(&about, "CIDRNotAvailable", message);
                    return Ok(());
                }
            }
        };
        let patch = json!({
            "metadata": {"uid": node.metadata.uid},
            "spec": {"podCIDR": network, "podCIDRs": [network]},
        });
        self.env
            .client
            .patch::<Value>(&kinds::NODES, "", name, "", PatchKind::Merge, &patch)
            .await?;
        Ok(())
    }

    fn pods_of(&self, node: &NodeView) -> Vec<Arc<PodView>> {
        let mut pods = self.pods.list();
        pods.retain(|p| p.spec.node_name == node.metadata.name);
        pods
    }

    /// Pods of a node that is not ready serve nobody.
    async fn mark_pods(&self, node: &NodeView) -> Result<(), Error> {
        for pod in self.pods_of(node).into_iter().filter(|p| p.is_ready()) {
            let now = api::time::seconds(self.env.now());
            let patch = json!({
                "metadata": {"uid": pod.metadata.uid},
                "status": {"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": now}]},
            });
            let (namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
            let done = self
                .env
                .client
                .patch::<Value>(
                    &kinds::PODS,
                    namespace,
                    name,
                    "status",
                    PatchKind::Strategic,
                    &patch,
                )
                .await;
            match done {
                Err(e) if !e.is_not_found() && !e.is_conflict() => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    /// Deletes the Pods that no longer bear the node's taints; returns when the next one's time is up.
    async fn evict(&self, node: &NodeView) -> Result<Option<Duration>, Error> {
        let executing: Vec<Value> = node
            .spec
            .taints
            .iter()
            .filter(|t| t["effect"] == "NoExecute")
            .cloned()
            .collect();
        if executing.is_empty() {
            return Ok(None);
        }
        let now = self.env.now();
        let since = executing
            .iter()
            .filter_map(|t| api::time::parse(t["timeAdded"].as_str()?))
            .max()
            .unwrap_or(now);
        let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        let mut next: Option<Duration> = None;
        for pod in self.pods_of(node) {
            if pod.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let Some(span) = tolerated_for(&pod.spec.tolerations, &executing) else {
                continue;
            };
            if span > passed {
                let left = span - passed;
                next = Some(next.map_or(left, |n| n.min(left)));
                continue;
            }
            let about = ObjectReference::to(&kinds::PODS, &pod.metadata);
            let name = pod.metadata.key();
            self.env.events.normal(
                &about,
                "TaintManagerEviction",
                format!("Marking for deletion Pod {name}"),
            );
            let options = DeleteOptions::default().with_uid(&pod.metadata.uid);
            let done = self
                .env
                .client
                .delete(
                    &kinds::PODS,
                    &pod.metadata.namespace,
                    &pod.metadata.name,
                    &options,
                )
                .await;
            match done {
                Err(e) if !e.is_not_found() && !e.is_conflict() => return Err(e),
                _ => {}
            }
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    const T0: Timestamp = Timestamp::constant(1_767_225_600, 0);

    fn node(ready: &str, taints: Value) -> NodeView {
        serde_json::from_value(json!({
            "metadata": {"name": "n1"}, "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready, "reason": "r", "message": "m"}]},
        }))
        .unwrap()
    }

    fn taints(plan: &Plan) -> String {
        let one = |t: &Value| {
            format!(
                "{}:{}\n",
                t["key"].as_str().unwrap(),
                t["effect"].as_str().unwrap()
            )
        };
        plan.taints.iter().flatten().map(one).collect()
    }

    #[test]
    fn silence_is_unknown_and_taints_both_ways() {
        let plan = plan(&node("True", json!([])), true, false, T0);
        let conditions: Vec<_> = plan
            .conditions
            .iter()
            .flatten()
            .map(|c| format!("{}={} {}", c.kind, c.status, c.reason))
            .collect();
        expect![[r#"
            Ready=Unknown NodeStatusUnknown
            MemoryPressure=Unknown NodeStatusNeverUpdated
            DiskPressure=Unknown NodeStatusNeverUpdated
            PIDPressure=Unknown NodeStatusNeverUpdated"#]]
        .assert_eq(&conditions.join("\n"));
        expect![[r#"
            node.kubernetes.io/unreachable:NoSchedule
            node.kubernetes.io/unreachable:NoExecute
        "#]]
        .assert_eq(&taints(&plan));
    }

    #[test]
    fn a_ready_node_loses_our_taints_and_keeps_others() {
        let before = json!([
            {"key": NOT_READY, "effect": "NoSchedule"}, {"key": UNREACHABLE, "effect": "NoExecute"},
            {"key": "mine", "effect": "NoSchedule"},
        ]);
        expect![[r#"
            mine:NoSchedule
        "#]]
        .assert_eq(&taints(&plan(&node("True", before), false, false, T0)));
    }

    #[test]
    fn toleration_seconds() {
        let taints = [json!({"key": UNREACHABLE, "effect": "NoExecute"})];
        let tolerated = |t: Value| tolerated_for(&t, &taints).map(|d| d.as_secs());
        assert_eq!(tolerated(json!([])), Some(0));
        assert_eq!(tolerated(json!([{"operator": "Exists"}])), None);
        let five = json!([{"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]);
        assert_eq!(tolerated(five), Some(300));
    }

    #[test]
    fn networks_are_given_in_order_and_run_out() {
        let cluster = (Ipv4Addr::new(10, 42, 0, 0), 23);
        let mut used = BTreeSet::new();
        for want in [Some("10.42.0.0/24"), Some("10.42.1.0/24"), None] {
            let got = free_network(cluster, &used);
            assert_eq!(got.as_deref(), want);
            used.extend(got);
        }
    }
}
