//! Objects by the controller that owns them, kept beside an informer.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use client::{Informer, View};

type Group<V> = BTreeMap<Arc<str>, Arc<V>>;

/// An index over an informer: who controls what. Objects without a controller are found by their namespace.
pub(crate) struct Owned<V> {
    groups: Mutex<HashMap<String, Group<V>>>,
    /// The newest revision the informer has shown.
    seen: AtomicU64,
}

/// Where an object is filed: under its controller's UID, or its namespace. A UID never looks like `orphans of x`.
fn group_of<V: View>(object: &V) -> String {
    match object.meta().controller() {
        Some(owner) => owner.uid.clone(),
        None => orphans_of(&object.meta().namespace),
    }
}

fn orphans_of(namespace: &str) -> String {
    format!("orphans of {namespace}")
}

impl<V: View> Owned<V> {
    /// Starts following `informer`. Register this before handlers that enqueue, so that they find the index current.
    pub fn follow(informer: &Informer<V>) -> Arc<Self> {
        let index = Arc::new(Self {
            groups: Mutex::default(),
            seen: AtomicU64::new(0),
        });
        let kept = index.clone();
        informer.on_change(move |change| {
            let mut groups = kept.groups.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(old) = &change.old {
                let group = group_of(&**old);
                if let Some(objects) = groups.get_mut(&group) {
                    objects.remove(&change.key);
                    if objects.is_empty() {
                        groups.remove(&group);
                    }
                }
            }
            if let Some(new) = &change.new {
                kept.seen.fetch_max(new.meta().revision(), Ordering::AcqRel);
                groups
                    .entry(group_of(&**new))
                    .or_default()
                    .insert(change.key.clone(), new.clone());
            }
        });
        index
    }

    fn group(&self, group: &str) -> Vec<Arc<V>> {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups
            .get(group)
            .map(|g| g.values().cloned().collect())
            .unwrap_or_default()
    }

    /// What the object with this UID controls, by name.
    pub fn by(&self, uid: &str) -> Vec<Arc<V>> {
        self.group(uid)
    }

    /// What nobody controls in a namespace.
    pub fn orphans(&self, namespace: &str) -> Vec<Arc<V>> {
        self.group(&orphans_of(namespace))
    }

    /// The newest revision seen.
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::Acquire)
    }
}
