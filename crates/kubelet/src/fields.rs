//! Fields of a Pod by path, as `fieldRef` and `resourceFieldRef` name them. Pure.

use std::net::IpAddr;

use api::Quantity;

use crate::spec::{Container, Pod, ResourceFieldRef};

/// Addresses that exist once the Pod has its sandbox.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    pub host: String,
    pub pod: Vec<IpAddr>,
}

/// The value of a field.
///
/// # Errors
/// When there is no such field.
pub fn field(pod: &Pod, path: &str, at: &Addresses) -> Result<String, String> {
    let m = &pod.metadata;
    let lines = |map: &std::collections::BTreeMap<String, String>| {
        map.iter()
            .map(|(k, v)| format!("{k}={}", go_quote(v)))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let ips = || at.pod.iter().map(ToString::to_string).collect::<Vec<_>>();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let from = match map {
            "metadata.labels" => &m.labels,
            "metadata.annotations" => &m.annotations,
            _ => return Err(format!("fieldPath {path:?} does not support subscript")),
        };
        return Ok(from.get(key).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => m.name.clone(),
        "metadata.namespace" => m.namespace.clone(),
        "metadata.uid" => m.uid.clone(),
        "metadata.labels" => lines(&m.labels),
        "metadata.annotations" => lines(&m.annotations),
        "spec.nodeName" => pod.spec.node_name.clone(),
        "spec.serviceAccountName" => pod.spec.service_account_name.clone(),
        "status.hostIP" | "status.hostIPs" => at.host.clone(),
        "status.podIP" => ips().first().cloned().unwrap_or_default(),
        "status.podIPs" => ips().join(","),
        other => return Err(format!("unsupported fieldPath: {other}")),
    })
}

fn go_quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A quantity of a container's resources, in units of the divisor, rounded up. `node` gives what an absent limit means.
///
/// # Errors
/// When container, resource or divisor make no sense.
pub fn resource(
    pod: &Pod,
    own: Option<&Container>,
    from: &ResourceFieldRef,
    node: (&Quantity, &Quantity),
) -> Result<String, String> {
    let container = match (from.container_name.as_str(), own) {
        ("", Some(own)) => own,
        (name, _) => pod
            .container(name)
            .map(|(_, c)| c)
            .ok_or_else(|| format!("container {name} not found"))?,
    };
    let (list, name) = from
        .resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource : {}", from.resource))?;
    let map = match list {
        "limits" => &container.resources.limits,
        "requests" => &container.resources.requests,
        _ => {
            return Err(format!(
                "unsupported container resource : {}",
                from.resource
            ));
        }
    };
    let parse = |t: &str| t.parse::<Quantity>().map_err(|e| format!("{t}: {e}"));
    let amount = match map.get(name) {
        Some(text) => parse(text)?,
        None if list == "limits" && name == "cpu" => *node.0,
        None if list == "limits" && name == "memory" => *node.1,
        None => Quantity::ZERO,
    };
    let divisor = match from.divisor.as_str() {
        "" | "0" => 1000,
        text => parse(text)?.milli_value(),
    };
    if divisor <= 0 {
        return Err(format!("divisor {} is not positive", from.divisor));
    }
    let milli = i128::from(amount.value()) * 1000;
    let milli = if name == "cpu" {
        i128::from(amount.milli_value())
    } else {
        milli
    };
    let divisor = i128::from(divisor);
    Ok(((milli + divisor - 1) / divisor).to_string())
}

/// Replaces `$(NAME)` by what `lookup` knows; `$$` is a dollar; what is unknown stays.
#[must_use]
pub fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = tail.strip_prefix('(').and_then(|t| t.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
            rest = tail;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansion_is_upstreams() {
        let lookup = |n: &str| (n == "A").then(|| "1".to_owned());
        for (text, want) in [
            ("$(A)", "1"),
            ("$$(A)", "$(A)"),
            ("x$(B)y$(A)", "x$(B)y1"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("$$$(A)", "$1"),
        ] {
            assert_eq!(expand(text, &lookup), want, "{text}");
        }
    }

    #[test]
    fn resources_are_rounded_up() {
        let c: Container = serde_json::from_value(serde_json::json!({"name": "c", "resources": {
            "limits": {"cpu": "1500m", "memory": "100Mi"}, "requests": {"cpu": "250m"}}}))
        .unwrap();
        let (cpu, memory) = ("4".parse().unwrap(), "8Gi".parse().unwrap());
        let get = |resource: &str, divisor: &str| {
            let from = ResourceFieldRef {
                resource: resource.into(),
                divisor: divisor.into(),
                ..Default::default()
            };
            resource_of(&c, &from, (&cpu, &memory))
        };
        fn resource_of(
            c: &Container,
            from: &ResourceFieldRef,
            node: (&Quantity, &Quantity),
        ) -> String {
            resource(&Pod::default(), Some(c), from, node).unwrap()
        }
        assert_eq!(get("limits.cpu", ""), "2");
        assert_eq!(get("limits.cpu", "1m"), "1500");
        assert_eq!(get("limits.memory", "1Mi"), "100");
        assert_eq!(get("requests.memory", ""), "0");
    }
}
