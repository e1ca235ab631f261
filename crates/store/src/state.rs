//! The current state: every key's last version in one ordered, copy-on-write map.
//!
//! A B+ tree whose nodes are shared: cloning a [`Tree`] copies one pointer, and a later change copies only the path to the
//! changed leaf. So a LIST, a continue token or a checkpoint holds a snapshot without holding anyone up. Inner nodes count
//! their keys, which makes "how many more are under this prefix" a matter of two descents.

use std::sync::Arc;

use crate::Entry;

/// Most slots of a leaf and most children of an inner node. Small, because a change copies whole nodes while a snapshot
/// is held.
const WIDTH: usize = 32;

/// One key's last version, and when it is to be deleted.
#[derive(Clone)]
pub(crate) struct Slot {
    pub(crate) entry: Arc<Entry>,
    /// Milliseconds since 1970; 0: never.
    pub(crate) expires_ms: i64,
}

#[derive(Clone)]
enum Node {
    Leaf(Vec<Slot>),
    Inner(Vec<Child>),
}

#[derive(Clone)]
struct Child {
    first: Arc<str>,
    count: usize,
    node: Arc<Node>,
}

impl Node {
    fn count(&self) -> usize {
        match self {
            Self::Leaf(slots) => slots.len(),
            Self::Inner(children) => children.iter().map(|c| c.count).sum(),
        }
    }

    fn width(&self) -> usize {
        match self {
            Self::Leaf(slots) => slots.len(),
            Self::Inner(children) => children.len(),
        }
    }

    fn first(&self) -> Option<Arc<str>> {
        match self {
            Self::Leaf(slots) => slots.first().map(|s| s.entry.key.clone()),
            Self::Inner(children) => children.first().map(|c| c.first.clone()),
        }
    }
}

impl Child {
    /// `None` for an empty node: such are never linked.
    fn of(node: Arc<Node>) -> Option<Self> {
        Some(Self {
            first: node.first()?,
            count: node.count(),
            node,
        })
    }
}

/// Which child of `children` holds `key`, if any does.
fn child_of(children: &[Child], key: &[u8]) -> usize {
    children
        .partition_point(|c| c.first.as_bytes() <= key)
        .saturating_sub(1)
}

/// Where a too wide vector is split: appended keys (the usual growth) leave full nodes behind.
fn split_at(len: usize, inserted: usize) -> usize {
    if inserted + 1 == len {
        len - 1
    } else {
        len / 2
    }
}

/// An ordered map from key to [`Slot`]; cheap to clone.
#[derive(Clone)]
pub(crate) struct Tree {
    root: Arc<Node>,
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            root: Arc::new(Node::Leaf(Vec::new())),
        }
    }
}

impl Tree {
    pub(crate) fn len(&self) -> usize {
        self.root.count()
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Slot> {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(slots) => {
                    return slots
                        .binary_search_by(|s| (*s.entry.key).cmp(key))
                        .ok()
                        .map(|i| &slots[i]);
                }
                Node::Inner(children) => node = &children[child_of(children, key.as_bytes())].node,
            }
        }
    }

    /// Puts `slot` at its entry's key and returns what was there.
    pub(crate) fn insert(&mut self, slot: Slot) -> Option<Slot> {
        let (old, split) = insert(&mut self.root, slot);
        if let (Some(right), Some(left)) = (split, Child::of(self.root.clone())) {
            self.root = Arc::new(Node::Inner(vec![left, right]));
        }
        old
    }

    /// Takes `key` out and returns what was there.
    pub(crate) fn remove(&mut self, key: &str) -> Option<Slot> {
        self.get(key)?;
        let old = remove(&mut self.root, key);
        loop {
            let next = match &*self.root {
                Node::Inner(children) if children.is_empty() => Arc::new(Node::Leaf(Vec::new())),
                Node::Inner(children) if children.len() == 1 => children[0].node.clone(),
                _ => return old,
            };
            self.root = next;
        }
    }

    /// How many keys sort before `bound`.
    pub(crate) fn rank(&self, bound: &[u8]) -> usize {
        let (mut node, mut before) = (&*self.root, 0);
        loop {
            match node {
                Node::Leaf(slots) => {
                    return before + slots.partition_point(|s| s.entry.key.as_bytes() < bound);
                }
                Node::Inner(children) => {
                    let i = child_of(children, bound);
                    before += children[..i].iter().map(|c| c.count).sum::<usize>();
                    node = &children[i].node;
                }
            }
        }
    }

    /// All slots in key order.
    pub(crate) fn iter(&self) -> Iter<'_> {
        self.iter_from(b"")
    }

    /// The slots whose key is `start` or sorts after it, in key order.
    pub(crate) fn iter_from(&self, start: &[u8]) -> Iter<'_> {
        let mut above = Vec::new();
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(slots) => {
                    let at = slots.partition_point(|s| s.entry.key.as_bytes() < start);
                    return Iter {
                        above,
                        leaf: slots[at..].iter(),
                    };
                }
                Node::Inner(children) => {
                    let i = child_of(children, start);
                    above.push(children[i + 1..].iter());
                    node = &children[i].node;
                }
            }
        }
    }

    /// At most `limit` (0: all) entries under `prefix` after `start_after`, and how many more there are.
    pub(crate) fn range(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> (Vec<Arc<Entry>>, u64) {
        let start = match start_after {
            // The smallest key after `key` is `key` with a zero byte appended.
            Some(key) if key >= prefix => [key.as_bytes(), b"\0"].concat(),
            _ => prefix.as_bytes().to_vec(),
        };
        let end = prefix_end(prefix).map_or_else(|| self.len(), |end| self.rank(&end));
        let total = end.saturating_sub(self.rank(&start));
        let take = if limit == 0 { total } else { total.min(limit) };
        let entries = self
            .iter_from(&start)
            .take(take)
            .map(|s| s.entry.clone())
            .collect();
        (entries, (total - take) as u64)
    }
}

/// The smallest byte string after all that start with `prefix`; `None` when there is none.
fn prefix_end(prefix: &str) -> Option<Vec<u8>> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

fn insert(node: &mut Arc<Node>, slot: Slot) -> (Option<Slot>, Option<Child>) {
    match Arc::make_mut(node) {
        Node::Leaf(slots) => match slots.binary_search_by(|s| s.entry.key.cmp(&slot.entry.key)) {
            Ok(i) => (Some(std::mem::replace(&mut slots[i], slot)), None),
            Err(i) => {
                slots.insert(i, slot);
                if slots.len() <= WIDTH {
                    return (None, None);
                }
                let right = slots.split_off(split_at(slots.len(), i));
                (None, Child::of(Arc::new(Node::Leaf(right))))
            }
        },
        Node::Inner(children) => {
            let i = child_of(children, slot.entry.key.as_bytes());
            let (old, split) = insert(&mut children[i].node, slot);
            refresh(children, i);
            let Some(right) = split else {
                return (old, None);
            };
            children.insert(i + 1, right);
            if children.len() <= WIDTH {
                return (old, None);
            }
            let right = children.split_off(split_at(children.len(), i + 1));
            (old, Child::of(Arc::new(Node::Inner(right))))
        }
    }
}

fn remove(node: &mut Arc<Node>, key: &str) -> Option<Slot> {
    match Arc::make_mut(node) {
        Node::Leaf(slots) => slots
            .binary_search_by(|s| (*s.entry.key).cmp(key))
            .ok()
            .map(|i| slots.remove(i)),
        Node::Inner(children) => {
            let i = child_of(children, key.as_bytes());
            let old = remove(&mut children[i].node, key);
            refresh(children, i);
            if i < children.len() && children[i].node.width() < WIDTH / 4 {
                let left = if i + 1 < children.len() {
                    i
                } else {
                    i.saturating_sub(1)
                };
                merge(children, left);
            }
            old
        }
    }
}

/// Brings `children[i]`'s key and count up to date; unlinks it when it became empty.
fn refresh(children: &mut Vec<Child>, i: usize) {
    match Child::of(children[i].node.clone()) {
        Some(child) => children[i] = child,
        None => {
            children.remove(i);
        }
    }
}

/// Joins `children[left]` with its right neighbour when both together stay narrow.
fn merge(children: &mut Vec<Child>, left: usize) {
    let Some([a, b]) = children.get(left..left + 2) else {
        return;
    };
    if a.node.width() + b.node.width() > WIDTH / 2 {
        return;
    }
    let joined = match (&*a.node, &*b.node) {
        (Node::Leaf(x), Node::Leaf(y)) => Node::Leaf(x.iter().chain(y).cloned().collect()),
        (Node::Inner(x), Node::Inner(y)) => Node::Inner(x.iter().chain(y).cloned().collect()),
        _ => return,
    };
    if let Some(child) = Child::of(Arc::new(joined)) {
        children[left] = child;
        children.remove(left + 1);
    }
}

/// Slots in key order.
pub(crate) struct Iter<'a> {
    above: Vec<std::slice::Iter<'a, Child>>,
    leaf: std::slice::Iter<'a, Slot>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a Slot;

    fn next(&mut self) -> Option<&'a Slot> {
        loop {
            if let Some(slot) = self.leaf.next() {
                return Some(slot);
            }
            let child = loop {
                match self.above.last_mut()?.next() {
                    Some(child) => break child,
                    None => {
                        self.above.pop();
                    }
                }
            };
            let mut node = &*child.node;
            while let Node::Inner(children) = node {
                let mut rest = children.iter();
                let first = rest.next()?;
                self.above.push(rest);
                node = &first.node;
            }
            if let Node::Leaf(slots) = node {
                self.leaf = slots.iter();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn slot(key: &str, revision: u64) -> Slot {
        let entry = Entry {
            key: key.into(),
            wire: Bytes::new(),
            rv_span: (0, 0),
            revision,
            created: revision,
            beside: Arc::new(()),
        };
        Slot {
            entry: Arc::new(entry),
            expires_ms: 0,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn behaves_like_the_standard_map_and_snapshots_do_not_change(
            steps in proptest::collection::vec((any::<bool>(), 0_u16..900), 1..2500),
            prefix in "[0-9]{0,2}", limit in 0_usize..40,
        ) {
            let (mut tree, mut model) = (Tree::default(), BTreeMap::new());
            let mut snapshot = None;
            for (n, (put, key)) in steps.iter().enumerate() {
                if n == steps.len() / 2 { snapshot = Some((tree.clone(), model.clone())); }
                let (key, n) = (format!("{key:03}"), n as u64);
                let (old, expected) = if *put || n % 3 == 0 {
                    (tree.insert(slot(&key, n)), model.insert(key, n))
                } else {
                    (tree.remove(&key), model.remove(&key))
                };
                prop_assert_eq!(old.map(|s| s.entry.revision), expected);
            }
            for (tree, model) in snapshot.into_iter().chain([(tree, model)]) {
                prop_assert_eq!(tree.len(), model.len());
                let all: Vec<_> = tree.iter().map(|s| (s.entry.key.to_string(), s.entry.revision)).collect();
                prop_assert_eq!(all, model.clone().into_iter().collect::<Vec<_>>());
                let under: Vec<_> = model.keys().filter(|k| k.starts_with(&prefix)).collect();
                let (entries, remaining) = tree.range(&prefix, None, limit);
                prop_assert_eq!(entries.len() + remaining as usize, under.len());
                let middle = under.get(under.len() / 2).map_or("", |k| k.as_str());
                let (entries, _) = tree.range(&prefix, Some(middle), 0);
                let after: Vec<_> = under.iter().filter(|k| k.as_str() > middle).collect();
                prop_assert!(entries.iter().map(|e| &*e.key).eq(after.iter().map(|k| k.as_str())));
            }
        }
    }
}
