//! Owner references: who made an object, and who answers for it.

use serde_json::{Value, json};

/// The reference to the controller of an object, if it has one.
#[must_use]
pub fn controller_of(object: &Value) -> Option<&Value> {
    object["metadata"]["ownerReferences"]
        .as_array()?
        .iter()
        .find(|r| r["controller"] == true)
}

/// Whether the object with this UID is the controller of `object`.
#[must_use]
pub fn is_controlled_by(object: &Value, uid: &str) -> bool {
    controller_of(object).is_some_and(|r| r["uid"] == uid)
}

/// A reference by which `owner` controls what it makes.
#[must_use]
pub fn owner_reference(api_version: &str, kind: &str, name: &str, uid: &str) -> Value {
    json!({
        "apiVersion": api_version, "kind": kind, "name": name, "uid": uid,
        "controller": true, "blockOwnerDeletion": true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers() {
        let object = json!({"metadata": {"ownerReferences": [{"uid": "x"}, owner_reference("v1", "Pod", "a", "y")]}});
        assert!(is_controlled_by(&object, "y") && !is_controlled_by(&object, "x"));
    }
}
