//! A set of fields: a trie in exactly the form that `fieldsV1` has, so that reading and writing it costs nothing.
//!
//! A key of a node is an [element](super::element). An empty node is a member of the set; a node with children is one
//! only if it has the key `.` as well.

use serde_json::{Map, Value};

use super::element;

/// A node of the trie: its children by their elements.
pub type Node = Map<String, Value>;

const SELF: &str = ".";

/// A set of fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set(pub(super) Node);

/// Whether the node itself belongs to the set. Not for a root, which is no field.
pub(super) fn is_member(node: &Node) -> bool {
    node.is_empty() || node.contains_key(SELF)
}

fn children(node: &Node) -> impl Iterator<Item = (&String, &Node)> {
    let inner = node.iter().filter(|(element, _)| *element != SELF);
    inner.filter_map(|(element, child)| Some((element, child.as_object()?)))
}

/// Makes a node with children a member as well.
pub(super) fn with_self(mut node: Node) -> Node {
    if !node.is_empty() {
        node.insert(SELF.to_owned(), Value::Object(Map::new()));
    }
    node
}

/// Adds a child.
pub(super) fn put(node: &mut Node, element: String, child: Node) {
    match node.get_mut(&element) {
        Some(Value::Object(old)) => unite(old, child),
        _ => {
            node.insert(element, Value::Object(child));
        }
    }
}

impl Set {
    /// Reads `fieldsV1`.
    ///
    /// # Errors
    /// What of it is no set of fields.
    pub fn read(fields: Value) -> Result<Self, String> {
        match fields {
            Value::Object(mut node) => {
                check(&mut node, true)?;
                Ok(Self(node))
            }
            Value::Null => Ok(Self::default()),
            other => Err(format!("expected an object, got {other}")),
        }
    }

    /// `fieldsV1`.
    #[must_use]
    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    /// Appends `fieldsV1`.
    pub(super) fn write(&self, out: &mut String) {
        write(&self.0, out);
    }

    /// Whether some member may be in the set with this text: false only if none is.
    pub(super) fn may_be_in(&self, text: &str) -> bool {
        some_may_be_in(&self.0, text)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what `other` holds.
    pub fn add(&mut self, other: Self) {
        unite_children(&mut self.0, other.0);
    }

    /// Takes out what `other` holds.
    pub fn subtract(&mut self, other: &Self) {
        subtract_children(&mut self.0, &other.0);
    }

    /// What both hold.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self(common_children(&self.0, &other.0))
    }

    /// Whether all of `other` is in this.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        contains_children(&self.0, &other.0)
    }

    /// The paths of all members, as people read them, in order.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        collect(&self.0, &mut String::new(), &mut out);
        out
    }
}

/// Checks the form of a trie that somebody sent, and brings its elements into their one form.
fn check(node: &mut Node, root: bool) -> Result<(), String> {
    let mut odd = Vec::new();
    for (key, child) in node.iter_mut() {
        let Value::Object(child) = child else {
            return Err(format!("expected an object in {key}, got {child}"));
        };
        if key == SELF {
            if root || !child.is_empty() {
                return Err("misplaced \".\"".to_owned());
            }
            continue;
        }
        check(child, false)?;
        if !key.starts_with("f:") {
            match element::canonical(key) {
                Some(form) if form == *key => {}
                form => odd.push((key.clone(), form)),
            }
        }
    }
    for (key, form) in odd {
        let form = form.ok_or_else(|| format!("{key:?} is not an element of a path"))?;
        if let Some(Value::Object(child)) = node.remove(&key) {
            put(node, form, child);
        }
    }
    if node.len() == 1 && node.contains_key(SELF) {
        node.clear();
    }
    Ok(())
}

fn unite(a: &mut Node, b: Node) {
    let member = is_member(a) || is_member(&b);
    unite_children(a, b);
    if member && !a.is_empty() {
        a.insert(SELF.to_owned(), Value::Object(Map::new()));
    }
}

fn unite_children(a: &mut Node, b: Node) {
    if a.is_empty() {
        *a = b;
        a.remove(SELF);
        return;
    }
    for (element, child) in b {
        if let (true, Value::Object(child)) = (element != SELF, child) {
            put(a, element, child);
        }
    }
}

/// Whether nothing is left.
fn subtract(a: &mut Node, b: &Node) -> bool {
    let member = is_member(a) && !is_member(b);
    a.remove(SELF);
    subtract_children(a, b);
    if a.is_empty() {
        return !member;
    }
    if member {
        a.insert(SELF.to_owned(), Value::Object(Map::new()));
    }
    false
}

fn subtract_children(a: &mut Node, b: &Node) {
    for (element, child) in children(b) {
        if let Some(Value::Object(own)) = a.get_mut(element)
            && subtract(own, child)
        {
            a.remove(element);
        }
    }
}

fn write(node: &Node, out: &mut String) {
    out.push('{');
    for (i, (element, child)) in node.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        element::push_json_text(out, element);
        out.push(':');
        match child {
            Value::Object(child) => write(child, out),
            _ => out.push_str("{}"),
        }
    }
    out.push('}');
}

/// A name that the text does not have cannot be on a path in it. Only names that are written in one way are looked for.
fn some_may_be_in(node: &Node, text: &str) -> bool {
    children(node).any(|(element, child)| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._/:".contains(&b);
        if element.starts_with("f:") && element.bytes().all(plain) && !text.contains(element) {
            return false;
        }
        is_member(child) || some_may_be_in(child, text)
    })
}

fn common_children(a: &Node, b: &Node) -> Node {
    let mut out = Node::new();
    for (element, child) in children(a) {
        let Some(other) = b.get(element).and_then(Value::as_object) else {
            continue;
        };
        let member = is_member(child) && is_member(other);
        let below = common_children(child, other);
        if member {
            out.insert(element.clone(), Value::Object(with_self(below)));
        } else if !below.is_empty() {
            out.insert(element.clone(), Value::Object(below));
        }
    }
    out
}

fn contains_children(a: &Node, b: &Node) -> bool {
    children(b).all(|(element, child)| {
        a.get(element)
            .and_then(Value::as_object)
            .is_some_and(|own| {
                (is_member(own) || !is_member(child)) && contains_children(own, child)
            })
    })
}

fn collect(node: &Node, path: &mut String, out: &mut Vec<String>) {
    for (element, child) in children(node) {
        let length = path.len();
        element::show(element, path);
        if is_member(child) {
            out.push(path.clone());
        }
        collect(child, path, out);
        path.truncate(length);
    }
}
