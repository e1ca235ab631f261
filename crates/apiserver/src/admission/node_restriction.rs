//! NodeRestriction: a kubelet changes its own Node, its own Pods and the ResourceSlices of its own devices only.
//!
//! Follows <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction>.

use std::collections::BTreeSet;

use api::Status;
use api::facts::Kind;
use serde_json::Value;

use super::Operation;
use crate::Core;
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
pub async fn validate(
    core: &Core,
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
        ("", "pods") => {
            pod(node, operation, new, old, subresource).or_else(refuse)?;
            match (operation, new) {
                (Operation::Create, Some(pod)) => mirror(core, node, pod).await?.or_else(refuse),
                _ => Ok(()),
            }
        }
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
    // A Node with an owner would be collected with it.
    let owners = |o: &Value| object::items(o, &["metadata", "ownerReferences"]).to_vec();
    if old.is_some_and(|old| owners(old) != owners(new)) {
        return Err(format!(
            "node \"{node}\" is not allowed to modify ownerReferences"
        ));
    }
    let forbidden = changed_labels(new, old)
        .into_iter()
        .filter(|l| !own_label(l));
    let forbidden: Vec<&str> = forbidden.collect();
    if forbidden.is_empty() {
        return Ok(());
    }
    let done = if old.is_some() {
        "modify labels"
    } else {
        "set the following labels"
    };
    Err(format!(
        "node \"{node}\" is not allowed to {done}: {}",
        forbidden.join(", ")
    ))
}

/// The labels that are set, changed or taken away, sorted.
fn changed_labels<'a>(new: &'a Value, old: Option<&'a Value>) -> BTreeSet<&'a str> {
    let of = |o: &'a Value| o["metadata"]["labels"].as_object().into_iter().flatten();
    let was = |key: &str| old.and_then(|o| o["metadata"]["labels"].get(key));
    let set = of(new).filter(|(key, value)| was(key) != Some(value));
    let lost = old
        .into_iter()
        .flat_map(of)
        .filter(|(key, _)| new["metadata"]["labels"].get(key.as_str()).is_none());
    set.chain(lost).map(|(key, _)| key.as_str()).collect()
}

/// Whether a kubelet may change this label of its Node.
fn own_label(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(d, _)| d);
    let within = |of: &str| {
        domain
            .strip_suffix(of)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if within("node-restriction.kubernetes.io") {
        return false;
    }
    let reserved = within("kubernetes.io") || within("k8s.io");
    !reserved || ALLOWED_LABELS.contains(&key) || ALLOWED_DOMAINS.iter().any(|d| within(d))
}

/// What a mirror Pod may be: the node's own, and without any other object, since its node may read what its Pods use.
async fn mirror(core: &Core, node: &str, pod: &Value) -> Result<Result<(), String>, Status> {
    let kind = core.kind("", "v1", "nodes")?;
    let object = core.get_value(kind, "", node).await?;
    Ok(mirror_of(node, text(&object, &["metadata", "uid"]), pod))
}

fn mirror_of(node: &str, uid: &str, pod: &Value) -> Result<(), String> {
    let only = |what: &str| Err(format!("node \"{node}\" can only create pods with {what}"));
    let owner = match object::items(pod, &["metadata", "ownerReferences"]) {
        [] => return only("an owner reference set to itself"),
        [owner] => owner,
        _ => return only("a single owner reference set to itself"),
    };
    if (
        text(owner, &["apiVersion"]),
        text(owner, &["kind"]),
        text(owner, &["name"]),
    ) != ("v1", "Node", node)
    {
        return only("an owner reference set to itself");
    }
    if owner["controller"] != true {
        return only("a controller owner reference set to itself");
    }
    if owner["blockOwnerDeletion"] == true {
        return Err(format!(
            "node \"{node}\" must not set blockOwnerDeletion on an owner reference"
        ));
    }
    let theirs = text(owner, &["uid"]);
    if theirs != uid {
        return Err(format!(
            "node {node} UID mismatch: expected {theirs} got {uid}"
        ));
    }
    let refers = |what: &str| {
        Err(format!(
            "node \"{node}\" can not create pods that reference {what}"
        ))
    };
    match crate::authz::node::references(pod).first() {
        Some(("serviceaccounts", _)) => return refers("a service account"),
        Some((what, _)) => return refers(what),
        None => {}
    }
    if !object::items(pod, &["spec", "resourceClaims"]).is_empty() {
        return refers("resourceclaims");
    }
    Ok(())
}

/// Refuses a token that dies with nothing of the node's: one for a ServiceAccount is bound to a Pod that runs there.
pub fn token(user: &User, account: &str, reference: &Value) -> Result<(), Status> {
    if user.node().is_none() {
        return Ok(());
    }
    let refuse = |why: &str| Err(Status::forbidden("", "serviceaccounts", account, why));
    let of = |field: &str| text(reference, &[field]);
    if (of("apiVersion"), of("kind")) != ("v1", "Pod") || of("name").is_empty() {
        return refuse("node requested token not bound to a pod");
    }
    if of("uid").is_empty() {
        return refuse("node requested token with a pod binding without a uid");
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_that_others_trust_in_stay() {
        let node = |labels: Value| json!({"metadata": {"name": "n", "labels": labels}});
        let judged = |new: Value, old: Option<Value>| {
            node_object("n", &node(new), old.map(node).as_ref()).err()
        };
        let zone =
            json!({"topology.kubernetes.io/zone": "a", "mine": "b", "x.node.kubernetes.io/y": "c"});
        assert_eq!(judged(zone, None), None);
        let restricted = json!({"node-restriction.kubernetes.io/role": "safe"});
        let set = "node \"n\" is not allowed to set the following labels: node-restriction.kubernetes.io/role";
        assert_eq!(judged(restricted.clone(), None).as_deref(), Some(set));
        assert_eq!(judged(restricted.clone(), Some(restricted.clone())), None);
        // Nor are they taken away.
        let lost =
            "node \"n\" is not allowed to modify labels: node-restriction.kubernetes.io/role";
        assert_eq!(judged(json!({}), Some(restricted)).as_deref(), Some(lost));
    }

    #[test]
    fn a_node_gets_no_owner() {
        let owned = json!({"metadata": {"name": "n", "ownerReferences": [{"name": "o"}]}});
        let bare = json!({"metadata": {"name": "n"}});
        let why = "node \"n\" is not allowed to modify ownerReferences";
        assert_eq!(node_object("n", &owned, Some(&bare)), Err(why.into()));
    }

    #[test]
    fn mirror_pods_use_nothing() {
        let pod = |owner: Value, spec: Value| {
            let pod = json!({"metadata": {"name": "p", "ownerReferences": [owner]}, "spec": spec});
            mirror_of("n", "u", &pod).err().unwrap_or_default()
        };
        let own = json!({"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u", "controller": true});
        assert_eq!(pod(own.clone(), json!({"containers": [{}]})), "");
        let secret = json!({"volumes": [{"projected": {"sources": [{"secret": {"name": "s"}}]}}]});
        let cases = [
            (
                json!({"serviceAccountName": "default"}),
                "a service account",
            ),
            (secret, "secrets"),
            (
                json!({"containers": [{"envFrom": [{"configMapRef": {"name": "c"}}]}]}),
                "configmaps",
            ),
            (
                json!({"volumes": [{"csi": {"nodePublishSecretRef": {"name": "s"}}}]}),
                "secrets",
            ),
            (
                json!({"volumes": [{"name": "v", "ephemeral": {}}]}),
                "persistentvolumeclaims",
            ),
            (json!({"resourceClaims": [{"name": "r"}]}), "resourceclaims"),
        ];
        for (spec, what) in cases {
            let want = format!("node \"n\" can not create pods that reference {what}");
            assert_eq!(pod(own.clone(), spec), want);
        }
        let mut other = own.clone();
        other["uid"] = "v".into();
        assert_eq!(
            pod(other, json!({})),
            "node n UID mismatch: expected v got u"
        );
        let why = "node \"n\" can only create pods with an owner reference set to itself";
        assert_eq!(pod(json!({"kind": "Pod"}), json!({})), why);
    }
}
