//! Pod templates: which are the same, and a short name for each.

use serde_json::Value;

/// The label that keeps the Pods of a Deployment's ReplicaSets apart.
pub(crate) const HASH_LABEL: &str = "pod-template-hash";

/// Whether two templates differ at most in the hash label.
pub(crate) fn equal(a: &Value, b: &Value) -> bool {
    let bare = |template: &Value| {
        let mut template = template.clone();
        if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
            labels.remove(HASH_LABEL);
        }
        if let Some(metadata) = template["metadata"].as_object_mut() {
            metadata.remove("creationTimestamp");
            metadata.retain(|_, v| !v.as_object().is_some_and(serde_json::Map::is_empty));
        }
        template
    };
    bare(a) == bare(b)
}

/// A name for the template: its FNV-1a hash in upstream's alphabet without vowels. `collisions` makes another one.
pub(crate) fn hash(template: &Value, collisions: Option<i64>) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut state = 0x811c_9dc5_u32;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            state = (state ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    };
    canonical(template, &mut feed);
    if let Some(n) = collisions {
        feed(&n.to_le_bytes());
    }
    state
        .to_string()
        .bytes()
        .map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()]))
        .collect()
}

/// JSON with sorted keys, whatever order the map has.
fn canonical(value: &Value, feed: &mut impl FnMut(&[u8])) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            feed(b"{");
            for key in keys {
                feed(key.as_bytes());
                feed(b":");
                canonical(&map[key], feed);
                feed(b",");
            }
            feed(b"}");
        }
        Value::Array(items) => {
            feed(b"[");
            for item in items {
                canonical(item, feed);
                feed(b",");
            }
            feed(b"]");
        }
        other => feed(other.to_string().as_bytes()),
    }
}
