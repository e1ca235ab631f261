//! One decision: filters, then scores.
//!
//! Filters, in upstream's order and with its reasons: NodeUnschedulable, NodeName (never asked: such Pods are bound),
//! TaintToleration, NodeAffinity, NodePorts, NodeResourcesFit, PodTopologySpread, InterPodAffinity. Scores, each 0 to 100
//! by its weight: TaintToleration 3, NodeAffinity 2, PodTopologySpread 2, NodeResourcesFit (LeastAllocated) 1,
//! NodeResourcesBalancedAllocation 1, ImageLocality 1.

use std::collections::BTreeMap;

use rules::Effect;
use serde_json::{Value, json};

use crate::snapshot::{Place, Snapshot};
use crate::views::{NodeView, PodView};

/// What becomes of a Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It goes to this node.
    Bind(String),
    /// No node can take it, for this reason in upstream's words.
    Unschedulable(String),
}

/// Above this many nodes only a part of them is looked at, as upstream.
const LOOK_AT_ALL: usize = 100;

fn items(v: &Value) -> &[Value] {
    v.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text<'a>(v: &'a Value, key: &str) -> &'a str {
    v[key].as_str().unwrap_or_default()
}

/// How many feasible nodes are enough.
fn enough(nodes: usize) -> usize {
    if nodes <= LOOK_AT_ALL {
        return nodes;
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(LOOK_AT_ALL)
}

/// A term of Pod affinity: a selector in some namespaces, within a topology.
struct Term {
    selector: api::Selector,
    namespaces: Vec<String>,
    all_namespaces: bool,
    topology: String,
}

impl Term {
    fn of(term: &Value, namespace: &str) -> Self {
        let named: Vec<String> = items(&term["namespaces"])
            .iter()
            .filter_map(|n| n.as_str().map(str::to_owned))
            .collect();
        let by_label = &term["namespaceSelector"];
        // An empty namespaceSelector means all; one with labels would need the namespaces' labels: none match.
        let all_namespaces = by_label.as_object().is_some_and(serde_json::Map::is_empty);
        let namespaces = if named.is_empty() && by_label.is_null() {
            vec![namespace.to_owned()]
        } else {
            named
        };
        Self {
            selector: api::LabelSelector::from_json(&term["labelSelector"])
                .unwrap_or_else(|_| api::Selector::nothing()),
            namespaces,
            all_namespaces,
            topology: text(term, "topologyKey").to_owned(),
        }
    }

    fn all(pod: &PodView, which: &str) -> Vec<Self> {
        let terms = &pod.affinity[which]["requiredDuringSchedulingIgnoredDuringExecution"];
        items(terms)
            .iter()
            .map(|t| Self::of(t, &pod.metadata.namespace))
            .collect()
    }

    fn matches(&self, pod: &PodView) -> bool {
        (self.all_namespaces || self.namespaces.contains(&pod.metadata.namespace))
            && selects(&self.selector, pod)
    }
}

fn selects(selector: &api::Selector, pod: &PodView) -> bool {
    selector.matches(&|key| pod.metadata.labels.get(key).map(String::as_str))
}

fn domain<'a>(node: &'a NodeView, topology: &str) -> Option<&'a str> {
    node.metadata.labels.get(topology).map(String::as_str)
}

/// A hard spreading constraint with the Pods counted per domain.
struct Spread {
    topology: String,
    max_skew: i64,
    matches_itself: i64,
    counts: BTreeMap<String, i64>,
}

/// What all nodes are asked, worked out once a Pod.
struct Wanted<'a> {
    pod: &'a PodView,
    spec: Value,
    /// The taint that a cordoned node stands for.
    cordoned: Value,
    /// Domains where an anti-affinity (ours or another Pod's) forbids us: by topology and value.
    forbidden_by_us: Vec<(String, String)>,
    forbidden_by_others: Vec<(String, String)>,
    /// For each term of ours, the domains that have a Pod it wants; `None`: no Pod anywhere, but we match it ourselves.
    attracted: Vec<(String, Option<Vec<String>>)>,
    spreads: Vec<Spread>,
}

impl<'a> Wanted<'a> {
    fn of(pod: &'a PodView, snapshot: &Snapshot) -> Self {
        let spec = json!({"nodeSelector": pod.node_selector, "affinity": pod.affinity});
        let mut wanted = Self {
            pod,
            spec,
            cordoned: json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}),
            forbidden_by_us: Vec::new(),
            forbidden_by_others: Vec::new(),
            attracted: Vec::new(),
            spreads: Vec::new(),
        };
        let away = Term::all(pod, "podAntiAffinity");
        let near = Term::all(pod, "podAffinity");
        if !away.is_empty() {
            for (node, place) in snapshot.nodes() {
                for term in away
                    .iter()
                    .filter(|t| place.pods.values().any(|p| t.matches(p)))
                {
                    if let Some(value) = domain(node, &term.topology) {
                        wanted
                            .forbidden_by_us
                            .push((term.topology.clone(), value.to_owned()));
                    }
                }
            }
        }
        if snapshot.repelling > 0 {
            for (node, place) in snapshot.nodes().filter(|(_, p)| p.repelling > 0) {
                for other in place.pods.values() {
                    for term in Term::all(other, "podAntiAffinity")
                        .iter()
                        .filter(|t| t.matches(pod))
                    {
                        if let Some(value) = domain(node, &term.topology) {
                            wanted
                                .forbidden_by_others
                                .push((term.topology.clone(), value.to_owned()));
                        }
                    }
                }
            }
        }
        for term in near {
            let mut domains = Vec::new();
            for (node, place) in snapshot.nodes() {
                if let Some(value) = domain(node, &term.topology)
                    && place.pods.values().any(|p| term.matches(p))
                {
                    domains.push(value.to_owned());
                }
            }
            // The first of a group that wants to be together may start anywhere.
            let first = domains.is_empty() && term.matches(pod);
            wanted
                .attracted
                .push((term.topology, (!first).then_some(domains)));
        }
        for constraint in items(&pod.spread)
            .iter()
            .filter(|c| text(c, "whenUnsatisfiable") == "DoNotSchedule")
        {
            wanted.spreads.push(wanted.spread(constraint, snapshot));
        }
        wanted
    }

    fn spread(&self, constraint: &Value, snapshot: &Snapshot) -> Spread {
        let topology = text(constraint, "topologyKey").to_owned();
        let selector = api::LabelSelector::from_json(&constraint["labelSelector"])
            .unwrap_or_else(|_| api::Selector::nothing());
        let namespace = &self.pod.metadata.namespace;
        let mut counts: BTreeMap<String, i64> = BTreeMap::new();
        for (node, place) in snapshot.nodes() {
            let Some(value) = domain(node, &topology) else {
                continue;
            };
            if !rules::node_matches_pod(&self.spec, &node.labels, &node.metadata.name) {
                continue;
            }
            let alike = |p: &&std::sync::Arc<PodView>| {
                p.metadata.namespace == *namespace && selects(&selector, p)
            };
            let n = place.pods.values().filter(alike).count();
            *counts.entry(value.to_owned()).or_default() += i64::try_from(n).unwrap_or(i64::MAX);
        }
        Spread {
            topology,
            max_skew: constraint["maxSkew"].as_i64().unwrap_or(1),
            matches_itself: i64::from(selects(&selector, self.pod)),
            counts,
        }
    }

    /// Why a node cannot take the Pod; empty: it can.
    fn reasons(&self, node: &NodeView, place: &Place) -> Vec<String> {
        let pod = self.pod;
        if node.unschedulable && !rules::tolerates_all(&pod.tolerations, &self.cordoned) {
            return vec!["node(s) were unschedulable".into()];
        }
        let effects = [Effect::NoSchedule, Effect::NoExecute];
        if let Some(taint) = rules::untolerated(&pod.tolerations, &node.taints, &effects) {
            let (key, value) = (text(taint, "key"), text(taint, "value"));
            return vec![format!("node(s) had untolerated taint {{{key}: {value}}}")];
        }
        if !rules::node_matches_pod(&self.spec, &node.labels, &node.metadata.name) {
            return vec!["node(s) didn't match Pod's node affinity/selector".into()];
        }
        let taken = |port| {
            place
                .pods
                .values()
                .flat_map(|p| &p.ports)
                .any(|other| other.conflicts(port))
        };
        if pod.ports.iter().any(taken) {
            return vec!["node(s) didn't have free ports for the requested pod ports".into()];
        }
        let reasons = lacking(pod, node, place);
        if !reasons.is_empty() {
            return reasons;
        }
        for spread in &self.spreads {
            let Some(value) = domain(node, &spread.topology) else {
                return vec![
                    "node(s) didn't match pod topology spread constraints (missing required label)"
                        .into(),
                ];
            };
            let least = spread.counts.values().min().copied().unwrap_or(0);
            let here = spread.counts.get(value).copied().unwrap_or(0);
            if here + spread.matches_itself - least > spread.max_skew {
                return vec!["node(s) didn't match pod topology spread constraints".into()];
            }
        }
        let hit = |list: &[(String, String)]| {
            list.iter()
                .any(|(t, v)| domain(node, t) == Some(v.as_str()))
        };
        if hit(&self.forbidden_by_others) {
            return vec!["node(s) didn't satisfy existing pods anti-affinity rules".into()];
        }
        let near = self.attracted.iter().all(|(topology, domains)| {
            match (domain(node, topology), domains) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(value), Some(domains)) => domains.iter().any(|d| d == value),
            }
        });
        if !near {
            return vec!["node(s) didn't match pod affinity rules".into()];
        }
        if hit(&self.forbidden_by_us) {
            return vec!["node(s) didn't match pod anti-affinity rules".into()];
        }
        Vec::new()
    }
}

fn lacking(pod: &PodView, node: &NodeView, place: &Place) -> Vec<String> {
    let mut reasons = Vec::new();
    let offers = |name: &str| node.allocatable.get(name).copied().unwrap_or(0);
    if i64::try_from(place.pods.len()).unwrap_or(i64::MAX) >= offers("pods") {
        reasons.push("Too many pods".to_owned());
    }
    for (name, amount) in &pod.requests {
        let used = place.used.get(name).copied().unwrap_or(0);
        if *amount > offers(name) - used {
            reasons.push(format!("Insufficient {name}"));
        }
    }
    reasons
}

/// Scales scores so that the highest is 100; `reverse` makes few much.
fn normalize(scores: &mut [i64], reverse: bool) {
    let highest = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let part = if highest == 0 {
            0
        } else {
            *score * 100 / highest
        };
        *score = if reverse { 100 - part } else { part };
    }
}

type Candidate<'a> = (&'a NodeView, &'a Place);

/// Every candidate's total.
fn score(pod: &PodView, candidates: &[Candidate<'_>], all_nodes: usize) -> Vec<i64> {
    let mut totals = vec![0; candidates.len()];
    let mut add = |weight: i64, scores: Vec<i64>| {
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += weight * score;
        }
    };
    let by = |f: &dyn Fn(&Candidate<'_>) -> i64| candidates.iter().map(f).collect::<Vec<i64>>();

    let mut taints = by(&|(node, _)| {
        let avoid = items(&node.taints).iter().filter(|t| {
            Effect::of(t) == Some(Effect::PreferNoSchedule)
                && !rules::tolerates_all(&pod.tolerations, t)
        });
        i64::try_from(avoid.count()).unwrap_or(0)
    });
    normalize(&mut taints, true);
    add(3, taints);

    let preferred =
        &pod.affinity["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"];
    if !items(preferred).is_empty() {
        let mut affinity = by(&|(node, _)| {
            let hit = |t: &&Value| {
                rules::affinity::preference_matches(
                    &t["preference"],
                    &node.labels,
                    &node.metadata.name,
                )
            };
            items(preferred)
                .iter()
                .filter(hit)
                .map(|t| t["weight"].as_i64().unwrap_or(0))
                .sum()
        });
        normalize(&mut affinity, false);
        add(2, affinity);
    }

    // Pods of one controller spread over nodes.
    if let Some(owner) = pod.metadata.controller() {
        let mut alike = by(&|(_, place)| place.owned_by(&owner.uid));
        normalize(&mut alike, true);
        add(2, alike);
    }

    add(
        1,
        by(&|(node, place)| {
            let free = |name: &str, used: i64| {
                let has = node.allocatable.get(name).copied().unwrap_or(0);
                if has == 0 || used > has {
                    0
                } else {
                    (has - used) * 100 / has
                }
            };
            let cpu = free("cpu", place.scored.0 + pod.scored.0);
            let memory = free("memory", place.scored.1 + pod.scored.1);
            (cpu + memory) / 2
        }),
    );
    add(1, by(&|(node, place)| balance(pod, node, place)));
    if candidates
        .iter()
        .any(|(node, _)| pod.images.iter().any(|i| node.images.contains_key(i)))
    {
        add(
            1,
            by(&|(node, _)| locality(pod, node, candidates, all_nodes)),
        );
    }
    totals
}

/// How evenly CPU and memory would be used: 100 when to the same fraction.
fn balance(pod: &PodView, node: &NodeView, place: &Place) -> i64 {
    let fraction = |name: &str| {
        let has = node.allocatable.get(name).copied().unwrap_or(0);
        let used = place.used.get(name).copied().unwrap_or(0)
            + pod.requests.get(name).copied().unwrap_or(0);
        if has == 0 {
            1.0
        } else {
            (used as f64 / has as f64).min(1.0)
        }
    };
    let deviation = (fraction("cpu") - fraction("memory")).abs() / 2.0;
    ((1.0 - deviation) * 100.0) as i64
}

/// How much of the Pod's images is on the node, counting what few nodes have less.
fn locality(pod: &PodView, node: &NodeView, candidates: &[Candidate<'_>], all_nodes: usize) -> i64 {
    const LEAST: i64 = 23 << 20;
    const MOST: i64 = 1000 << 20;
    let having = |image: &String| {
        candidates
            .iter()
            .filter(|(n, _)| n.images.contains_key(image))
            .count()
    };
    let sum: i64 = pod
        .images
        .iter()
        .filter_map(|image| {
            let size = *node.images.get(image)?;
            let share = having(image) as f64 / all_nodes.max(1) as f64;
            Some((size as f64 * share) as i64)
        })
        .sum();
    let most = MOST * i64::try_from(pod.images.len()).unwrap_or(1).max(1);
    (sum.clamp(LEAST, most) - LEAST) * 100 / (most - LEAST)
}

/// Decides where a Pod goes.
pub fn decide(pod: &PodView, snapshot: &mut Snapshot) -> Decision {
    let start = snapshot.start;
    let nodes: Vec<Candidate<'_>> = snapshot.nodes().collect();
    if nodes.is_empty() {
        return Decision::Unschedulable("no nodes available to schedule pods".into());
    }
    let wanted = Wanted::of(pod, snapshot);
    let (count, mut looked) = (nodes.len(), 0);
    let mut feasible: Vec<Candidate<'_>> = Vec::new();
    let mut refused: BTreeMap<String, usize> = BTreeMap::new();
    for i in 0..count {
        let (node, place) = nodes[(start + i) % count];
        looked += 1;
        let reasons = wanted.reasons(node, place);
        if reasons.is_empty() {
            feasible.push((node, place));
            if feasible.len() >= enough(count) {
                break;
            }
        }
        for reason in reasons {
            *refused.entry(reason).or_default() += 1;
        }
    }
    let chosen = match feasible.as_slice() {
        [] => None,
        [(only, _)] => Some(only.metadata.name.clone()),
        several => {
            let scores = score(pod, several, count);
            // Of equals the first, counted from where this search began.
            let best = scores
                .iter()
                .enumerate()
                .max_by_key(|(i, s)| (**s, std::cmp::Reverse(*i)));
            best.map(|(i, _)| several[i].0.metadata.name.clone())
        }
    };
    let next = if looked == count {
        start + 1
    } else {
        start + looked
    };
    snapshot.start = next % count;
    match chosen {
        Some(node) => Decision::Bind(node),
        None => Decision::Unschedulable(message(count, refused)),
    }
}

/// Upstream's summary: how many nodes for which reason.
fn message(nodes: usize, refused: BTreeMap<String, usize>) -> String {
    let mut reasons: Vec<String> = refused
        .into_iter()
        .map(|(reason, n)| format!("{n} {reason}"))
        .collect();
    reasons.sort();
    format!("0/{nodes} nodes are available: {}.", reasons.join(", "))
}
