//! Nodes with what runs on them, kept current by every event and every decision.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::views::{Amounts, NodeView, PodView};

/// A node and its Pods.
#[derive(Debug, Default)]
pub struct Place {
    /// `None`: Pods are bound to it, but it is not (or no longer) there.
    pub node: Option<Arc<NodeView>>,
    pub pods: BTreeMap<Arc<str>, Arc<PodView>>,
    pub used: Amounts,
    /// CPU and memory, with upstream's assumptions for Pods that request none.
    pub scored: (i64, i64),
    /// Pods with required anti-affinity: they keep others away.
    pub repelling: usize,
    /// Pods by their controller's UID.
    owners: BTreeMap<String, i64>,
}

fn repels(pod: &PodView) -> bool {
    pod.affinity["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        .as_array()
        .is_some_and(|a| !a.is_empty())
}

impl Place {
    fn put(&mut self, key: &Arc<str>, pod: Arc<PodView>) {
        for (name, amount) in &pod.requests {
            *self.used.entry(name.clone()).or_default() += amount;
        }
        self.scored = (self.scored.0 + pod.scored.0, self.scored.1 + pod.scored.1);
        self.repelling += usize::from(repels(&pod));
        if let Some(owner) = pod.metadata.controller() {
            match self.owners.get_mut(&owner.uid) {
                Some(n) => *n += 1,
                None => {
                    self.owners.insert(owner.uid.clone(), 1);
                }
            }
        }
        self.pods.insert(key.clone(), pod);
    }

    /// How many Pods of a controller are here.
    #[must_use]
    pub fn owned_by(&self, uid: &str) -> i64 {
        self.owners.get(uid).copied().unwrap_or(0)
    }

    fn take(&mut self, key: &Arc<str>) {
        let Some(pod) = self.pods.remove(key) else {
            return;
        };
        for (name, amount) in &pod.requests {
            if let Some(used) = self.used.get_mut(name) {
                *used -= amount;
            }
        }
        self.scored = (self.scored.0 - pod.scored.0, self.scored.1 - pod.scored.1);
        self.repelling -= usize::from(repels(&pod));
        if let Some(owner) = pod.metadata.controller()
            && let Some(n) = self.owners.get_mut(&owner.uid)
        {
            *n -= 1;
            if *n == 0 {
                self.owners.remove(&owner.uid);
            }
        }
    }
}

#[derive(Debug)]
struct Seat {
    node: String,
    assumed: bool,
}

/// All nodes, by name.
#[derive(Debug, Default)]
pub struct Snapshot {
    places: BTreeMap<String, Place>,
    seats: HashMap<Arc<str>, Seat>,
    /// Where the next search begins, so that equal nodes take turns.
    pub(crate) start: usize,
    pub(crate) repelling: usize,
}

impl Snapshot {
    /// A node appeared, changed, or went. Returns whether that matters to Pods that found no place: not each heartbeat
    /// does.
    pub fn node(&mut self, name: &str, node: Option<Arc<NodeView>>) -> bool {
        let place = self.places.entry(name.to_owned()).or_default();
        let matters = match (&place.node, &node) {
            (Some(old), Some(new)) => !old.offers_the_same(new),
            (_, new) => new.is_some(),
        };
        place.node = node;
        if place.node.is_none() && place.pods.is_empty() {
            self.places.remove(name);
        }
        matters
    }

    /// Whether a Pod is on a node, or shall go there.
    #[must_use]
    pub fn has(&self, key: &Arc<str>) -> bool {
        self.seats.contains_key(key)
    }

    /// A Pod is on a node. Returns whether that was news (not assumed before).
    pub fn place(&mut self, key: &Arc<str>, pod: Arc<PodView>, node: &str) -> bool {
        let news = self.seats.get(key).is_none_or(|s| s.node != node);
        self.seat(key, pod, node, false);
        news
    }

    /// A Pod shall go to a node.
    pub fn assume(&mut self, key: &Arc<str>, pod: Arc<PodView>, node: &str) {
        self.seat(key, pod, node, true);
    }

    fn seat(&mut self, key: &Arc<str>, pod: Arc<PodView>, node: &str, assumed: bool) {
        self.forget(key);
        self.repelling += usize::from(repels(&pod));
        self.places
            .entry(node.to_owned())
            .or_default()
            .put(key, pod);
        self.seats.insert(
            key.clone(),
            Seat {
                node: node.to_owned(),
                assumed,
            },
        );
    }

    /// A Pod is on no node (any more).
    pub fn forget(&mut self, key: &Arc<str>) {
        let Some(seat) = self.seats.remove(key) else {
            return;
        };
        if let Some(place) = self.places.get_mut(&seat.node) {
            let before = place.repelling;
            place.take(key);
            self.repelling -= before - place.repelling;
            if place.node.is_none() && place.pods.is_empty() {
                self.places.remove(&seat.node);
            }
        }
    }

    /// Whether a binding is under way.
    #[must_use]
    pub fn is_assumed(&self, key: &Arc<str>) -> bool {
        self.seats.get(key).is_some_and(|s| s.assumed)
    }

    /// The nodes that are there.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeView, &Place)> {
        self.places
            .values()
            .filter_map(|p| p.node.as_deref().map(|n| (n, p)))
    }
}
