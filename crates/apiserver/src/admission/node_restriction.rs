//! NodeRestriction: a kubelet changes its own Node, its own Pods and the ResourceSlices of its own devices only.
//!
//! Follows <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction>.

use api::Status;
use api::facts::Kind;
use serde_json::Value;

use super::Operation;
use crate::object::{self, text};
use crate::user::User;

const MIRROR: &str = "kubernetes.io/config.mirror";
/// Labels in these namespaces that a kubelet may set on its own Node.
const ALLOWED_LABELS: [&str; 9] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
const ALLOWED_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// Refuses what is not the node's own.
pub fn validate(
    user: &User,
    kind: &Kind,
    operation: Operation,
    new: Option<&Value>,
    old: Option<&Value>,
    subresource: &str,
) -> Result<(), Status> {
    let Some(node) = user.node() else {
        return Ok(());
    };
    let name = new.or(old).map_or("", object::name);
    let refuse = |why: String| Err(Status::forbidden(kind.group, kind.plural, name, why));
    match (kind.group, kind.plural) {
        ("", "nodes") => {
            if name != node {
                return refuse(format!(
                    "node \"{node}\" is not allowed to modify node \"{name}\""
                ));
            }
            if let Some(new) = new {
                node_object(node, new, old).or_else(refuse)?;
            }
            Ok(())
        }
        ("", "pods") => pod(node, operation, new, old, subresource).or_else(refuse),
        ("coordination.k8s.io", "leases") => {
            let namespace = new
                .or(old)
                .map_or("", |o| text(o, &["metadata", "namespace"]));
            if namespace == "kube-node-lease" && name == node {
                Ok(())
            } else {
                refuse(format!(
                    "can only access node lease with the same name as the requesting node (\"{node}\")"
                ))
            }
        }
        ("resource.k8s.io", "resourceslices") => {
            let (verb, slice) = match operation {
                Operation::Create => ("create", new),
                Operation::Delete => ("delete", old),
                _ => return Ok(()),
            };
            if slice.is_none_or(|s| text(s, &["spec", "nodeName"]) == node) {
                Ok(())
            } else {
                refuse(format!(
                    "can only {verb} ResourceSlice with the same NodeName as the requesting node"
                ))
            }
        }
        _ => Ok(()),
    }
}

fn node_object(node: &str, new: &Value, old: Option<&Value>) -> Result<(), String> {
    if let Some(old) = old {
        let taints = |o: &Value| object::items(o, &["spec", "taints"]).to_vec();
        if taints(new) != taints(old) {
            return Err(format!("node \"{node}\" is not allowed to modify taints"));
        }
    }
    let labels = new["metadata"]["labels"].as_object();
    for (key, value) in labels.into_iter().flatten() {
        let unchanged = old.is_some_and(|o| o["metadata"]["labels"].get(key) == Some(value));
        let domain = key.split_once('/').map_or("", |(d, _)| d);
        let reserved = domain == "kubernetes.io"
            || domain == "k8s.io"
            || domain.ends_with(".kubernetes.io")
            || domain.ends_with(".k8s.io");
        let allowed = ALLOWED_LABELS.contains(&key.as_str())
            || ALLOWED_DOMAINS
                .iter()
                .any(|d| domain == *d || domain.ends_with(&format!(".{d}")));
        if reserved && !allowed && !unchanged {
            return Err(format!("is not allowed to set the following labels: {key}"));
        }
    }
    Ok(())
}

fn pod(
    node: &str,
    operation: Operation,
    new: Option<&Value>,
    old: Option<&Value>,
    sub: &str,
) -> Result<(), String> {
    let on_node = |o: &Value| text(o, &["spec", "nodeName"]) == node;
    match (operation, new, old) {
        (Operation::Create, Some(pod), _) => {
            if object::at(pod, &["metadata", "annotations", MIRROR]).is_none() {
                return Err(format!(
                    "pod does not have \"{MIRROR}\" annotation, node \"{node}\" can only create mirror pods"
                ));
            }
            if on_node(pod) {
                Ok(())
            } else {
                Err(format!(
                    "node \"{node}\" can only create pods with spec.nodeName set to itself"
                ))
            }
        }
        (Operation::Update, Some(_), Some(old)) => {
            if sub != "status" {
                return Err(format!(
                    "unexpected subresource of pod for node \"{node}\": \"{sub}\""
                ));
            }
            if on_node(old) {
                Ok(())
            } else {
                Err(format!(
                    "node \"{node}\" can only update pod status for pods with spec.nodeName set to itself"
                ))
            }
        }
        (Operation::Delete, _, Some(old)) => {
            if on_node(old) {
                Ok(())
            } else {
                Err(format!(
                    "node \"{node}\" can only delete pods with spec.nodeName set to itself"
                ))
            }
        }
        _ => Ok(()),
    }
}
