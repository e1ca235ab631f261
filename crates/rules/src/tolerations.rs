//! Which taints of a node a Pod bears
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/>).

use serde_json::Value;

/// What a taint does to Pods that do not tolerate it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    NoSchedule,
    PreferNoSchedule,
    NoExecute,
}

impl Effect {
    #[must_use]
    pub fn of(taint: &Value) -> Option<Self> {
        match taint["effect"].as_str()? {
            "NoSchedule" => Some(Self::NoSchedule),
            "PreferNoSchedule" => Some(Self::PreferNoSchedule),
            "NoExecute" => Some(Self::NoExecute),
            _ => None,
        }
    }
}

/// Whether one toleration covers one taint.
#[must_use]
pub fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let text = |v: &Value, key: &str| v[key].as_str().unwrap_or_default().to_owned();
    let effect = text(toleration, "effect");
    if !effect.is_empty() && effect != text(taint, "effect") {
        return false;
    }
    let key = text(toleration, "key");
    if !key.is_empty() && key != text(taint, "key") {
        return false;
    }
    let (have, want) = (text(taint, "value"), text(toleration, "value"));
    match toleration["operator"].as_str().unwrap_or_default() {
        "" | "Equal" => !key.is_empty() && have == want,
        "Exists" => true,
        operator @ ("Gt" | "Lt") => match (have.parse::<i64>(), want.parse::<i64>()) {
            (Ok(have), Ok(want)) => {
                if operator == "Gt" {
                    have > want
                } else {
                    have < want
                }
            }
            _ => false,
        },
        _ => false,
    }
}

fn items(v: &Value) -> &[Value] {
    v.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Whether the list of tolerations covers the taint.
#[must_use]
pub fn tolerates_all(tolerations: &Value, taint: &Value) -> bool {
    items(tolerations).iter().any(|t| tolerates(t, taint))
}

/// The first taint with one of `effects` that no toleration covers.
#[must_use]
pub fn untolerated<'a>(
    tolerations: &Value,
    taints: &'a Value,
    effects: &[Effect],
) -> Option<&'a Value> {
    items(taints)
        .iter()
        .filter(|t| Effect::of(t).is_some_and(|e| effects.contains(&e)))
        .find(|t| !tolerates_all(tolerations, t))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn matching() {
        let taint = json!({"key": "a", "value": "1", "effect": "NoSchedule"});
        for (toleration, want) in [
            (json!({"operator": "Exists"}), true),
            (
                json!({"key": "a", "operator": "Exists", "effect": "NoExecute"}),
                false,
            ),
            (json!({"key": "a", "value": "1"}), true),
            (json!({"key": "a", "value": "2"}), false),
            (json!({"key": "b", "operator": "Exists"}), false),
        ] {
            assert_eq!(tolerates(&toleration, &taint), want, "{toleration}");
        }
        let taints = json!([taint]);
        assert!(untolerated(&json!(null), &taints, &[Effect::NoSchedule]).is_some());
        assert!(untolerated(&json!(null), &taints, &[Effect::NoExecute]).is_none());
    }
}
