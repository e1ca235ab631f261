//! What a cluster has from its first moment: namespaces, RBAC, priority classes, the `kubernetes` Service.
//!
//! The API server alone owns these (DESIGN §3). Everything is created if missing, and roles are brought up to date.

use std::net::{IpAddr, SocketAddr};

use api::Status;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::Core;
use crate::object::{self, items, text};
use crate::registry::{Context, WriteOptions};
use crate::user::User;

/// The system itself, for what it writes at start.
fn context() -> Context {
    let user = User::named("system:apiserver", vec!["system:masters".into()]);
    Context {
        user,
        agent: "kube-apiserver".into(),
        warnings: std::sync::Mutex::default(),
    }
}

/// Makes what is missing.
///
/// # Errors
/// When something cannot be written.
pub async fn run(core: &Core, advertise: SocketAddr) -> Result<(), Status> {
    let namespaces = ["default", "kube-system", "kube-public", "kube-node-lease"];
    all(
        core,
        namespaces
            .map(|name| ("", "namespaces", json!({"metadata": {"name": name}})))
            .into(),
    )
    .await?;
    let rbac = [
        ("clusterroles", strategy::rbac_bootstrap::cluster_roles()),
        ("clusterroles", strategy::rbac_bootstrap::controller_roles()),
        (
            "clusterrolebindings",
            strategy::rbac_bootstrap::cluster_role_bindings(),
        ),
        (
            "clusterrolebindings",
            strategy::rbac_bootstrap::controller_role_bindings(),
        ),
        ("roles", strategy::rbac_bootstrap::roles()),
        ("rolebindings", strategy::rbac_bootstrap::role_bindings()),
    ];
    let mut objects = Vec::new();
    for (plural, list) in rbac {
        objects.extend(
            list.into_iter()
                .map(|o| ("rbac.authorization.k8s.io", plural, o)),
        );
    }
    for (name, value, about) in [
        (
            "system-cluster-critical",
            2_000_000_000_i64,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ] {
        let class = json!({"metadata": {"name": name}, "value": value, "description": about});
        objects.push(("scheduling.k8s.io", "priorityclasses", class));
    }
    objects.push((
        "",
        "configmaps",
        json!({
            "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
            "data": {"client-ca-file": core.client_ca},
        }),
    ));
    all(core, objects).await?;
    kubernetes_service(core, advertise).await
}

async fn all(core: &Core, objects: Vec<(&str, &str, Value)>) -> Result<(), Status> {
    let writes = objects
        .into_iter()
        .map(|(group, plural, object)| ensure(core, group, plural, object));
    join_all(writes).await.into_iter().collect()
}

/// Creates the object, or adds to an existing role or binding what it lacks.
async fn ensure(core: &Core, group: &str, plural: &str, mut wanted: Value) -> Result<(), Status> {
    let context = context();
    let kind = core.kind(group, "v1", plural)?;
    wanted["apiVersion"] = kind.api_version().into();
    wanted["kind"] = kind.kind.into();
    let namespace = text(&wanted, &["metadata", "namespace"]).to_owned();
    let name = object::name(&wanted).to_owned();
    match core.get_value(kind, &namespace, &name).await {
        Ok(current) => {
            let Some(updated) = reconciled(&current, &wanted) else {
                return Ok(());
            };
            let mut change = |_: &Value| Ok(updated.clone());
            let options = WriteOptions::default();
            core.update(&context, kind, &namespace, &name, "", &mut change, &options)
                .await
                .map(|_| ())
        }
        Err(status) if status.code == 404 => {
            let created = core
                .create(&context, kind, &namespace, wanted, &WriteOptions::default())
                .await;
            match created {
                Err(status) if status.reason != "AlreadyExists" => Err(status),
                _ => Ok(()),
            }
        }
        Err(status) => Err(status),
    }
}

/// The current role or binding with what the wanted one has more; `None` when there is nothing to add, or someone said
/// that it is theirs.
fn reconciled(current: &Value, wanted: &Value) -> Option<Value> {
    const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
    if text(current, &["metadata", "annotations", AUTOUPDATE]) != "true" {
        return None;
    }
    let mut updated = current.clone();
    // An aggregated role's rules are the aggregation's.
    let list = if wanted.get("aggregationRule").is_some() {
        "aggregationRule"
    } else if wanted.get("subjects").is_some() {
        "subjects"
    } else {
        "rules"
    };
    if list == "aggregationRule" {
        updated[list] = wanted[list].clone();
    } else {
        let missing: Vec<Value> = items(wanted, &[list])
            .iter()
            .filter(|r| !items(current, &[list]).contains(r))
            .cloned()
            .collect();
        if !missing.is_empty() {
            let mut rules = items(current, &[list]).to_vec();
            rules.extend(missing);
            updated[list] = rules.into();
        }
    }
    (updated != *current).then_some(updated)
}

/// The Service by which Pods reach the API, and its endpoints.
async fn kubernetes_service(core: &Core, advertise: SocketAddr) -> Result<(), Status> {
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let ip = core.allocator.range().first();
    let service = json!({
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {
            "type": "ClusterIP", "clusterIP": ip.to_string(), "clusterIPs": [ip.to_string()], "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": advertise.port()}],
        },
    });
    ensure(core, "", "services", service).await?;
    let IpAddr::V4(address) = advertise.ip() else {
        return Err(Status::internal("the advertised address must be IPv4"));
    };
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{
            "addresses": [{"ip": address.to_string()}],
            "ports": [{"name": "https", "port": advertise.port(), "protocol": "TCP"}],
        }],
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": advertise.port(), "protocol": "TCP"}],
    });
    set(core, "", "endpoints", endpoints, "subsets").await?;
    set(
        core,
        "discovery.k8s.io",
        "endpointslices",
        slice,
        "endpoints",
    )
    .await
}

/// Creates the object or brings `field` and the ports up to date.
async fn set(
    core: &Core,
    group: &str,
    plural: &str,
    wanted: Value,
    field: &str,
) -> Result<(), Status> {
    ensure(core, group, plural, wanted.clone()).await?;
    let kind = core.kind(group, "v1", plural)?;
    let mut change = |current: &Value| {
        let mut new = current.clone();
        for field in [field, "ports"] {
            if let Some(value) = wanted.get(field) {
                new[field] = value.clone();
            }
        }
        Ok(new)
    };
    let (namespace, name) = ("default", object::name(&wanted));
    core.update(
        &context(),
        kind,
        namespace,
        name,
        "",
        &mut change,
        &WriteOptions::default(),
    )
    .await
    .map(|_| ())
}
