//! Who owns whom, by UID.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::{ObjectMeta, OwnerReference};

use super::discovery::Kind;

pub(crate) const FOREGROUND: &str = "foregroundDeletion";
pub(crate) const ORPHAN: &str = "orphan";

/// An object as the collector knows it.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub kind: Arc<Kind>,
    pub namespace: String,
    pub name: String,
    pub owners: Vec<OwnerReference>,
    pub deleting: bool,
    pub finalizers: Vec<String>,
}

impl Node {
    fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|f| f == finalizer)
    }

    /// Waits for what it owns to go first.
    pub fn is_deleting_dependents(&self) -> bool {
        self.deleting && self.has(FOREGROUND)
    }

    /// Waits for what it owns to be let go.
    pub fn is_orphaning(&self) -> bool {
        self.deleting && self.has(ORPHAN)
    }
}

/// The graph. Owners may be unknown: seen in references only.
#[derive(Default)]
pub(crate) struct Graph {
    nodes: BTreeMap<String, Node>,
    dependents: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    /// An object is there, or changed. Returns the UIDs to look at.
    pub fn put(&mut self, kind: &Arc<Kind>, meta: &ObjectMeta) -> Vec<String> {
        let node = Node {
            kind: kind.clone(),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            owners: meta.owner_references.clone(),
            deleting: meta.deletion_timestamp.is_some(),
            finalizers: meta.finalizers.clone(),
        };
        let uid = &meta.uid;
        let mut look = Vec::new();
        let old = self.nodes.remove(uid);
        if let Some(old) = &old {
            self.unlink(uid, old);
        }
        for owner in &node.owners {
            self.dependents
                .entry(owner.uid.clone())
                .or_default()
                .insert(uid.clone());
        }
        let owners_changed = old.as_ref().is_none_or(|o| o.owners != node.owners);
        if owners_changed && !node.owners.is_empty() {
            look.push(uid.clone());
        }
        // Those that wait for us may go on: we no longer block them.
        if let Some(old) = old.as_ref().filter(|_| owners_changed) {
            look.extend(old.owners.iter().map(|o| o.uid.clone()));
        }
        if node.is_deleting_dependents() || node.is_orphaning() {
            look.push(uid.clone());
            if node.is_deleting_dependents() {
                look.extend(self.dependents_of(uid));
            }
        }
        self.nodes.insert(uid.clone(), node);
        look
    }

    /// An object is gone. Returns the UIDs to look at: what it owned, and owners that waited for it.
    pub fn remove(&mut self, uid: &str) -> Vec<String> {
        let mut look = self.dependents_of(uid);
        if let Some(node) = self.nodes.remove(uid) {
            self.unlink(uid, &node);
            let waiting = |o: &&OwnerReference| {
                self.nodes
                    .get(&o.uid)
                    .is_some_and(Node::is_deleting_dependents)
            };
            look.extend(node.owners.iter().filter(waiting).map(|o| o.uid.clone()));
        }
        look
    }

    fn unlink(&mut self, uid: &str, node: &Node) {
        for owner in &node.owners {
            if let Some(set) = self.dependents.get_mut(&owner.uid) {
                set.remove(uid);
                if set.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }

    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    pub fn dependents_of(&self, uid: &str) -> Vec<String> {
        self.dependents
            .get(uid)
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }

    /// The dependents that hold back the foreground deletion of `uid`.
    pub fn blocking(&self, uid: &str) -> Vec<String> {
        let blocks = |d: &String| {
            self.nodes.get(d).is_some_and(|n| {
                n.owners
                    .iter()
                    .any(|o| o.uid == uid && o.block_owner_deletion == Some(true))
            })
        };
        self.dependents_of(uid).into_iter().filter(blocks).collect()
    }
}
