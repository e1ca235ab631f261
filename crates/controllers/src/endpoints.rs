//! Lists the addresses behind each Service in an Endpoints object of its name.
//!
//! Follows <https://kubernetes.io/docs/concepts/services-networking/service/#endpoints>. New clients read EndpointSlices
//! ([`crate::slices`]); this is for the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::resource::kinds;
use client::{Change, DeleteOptions, Error, Informer};
use reconcile::{Outcome, Queue};
use serde_json::{Value, json};

use crate::env::{Env, Key, enqueue_changes, settled};
use crate::views::{EndpointsView, PodView, ServicePort, ServiceView};

/// The most addresses in one object; more are left out, and an annotation says so.
const MAX_ADDRESSES: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

/// The Services of a Pod's namespace that its labels, before or after a change, belong to.
pub(crate) fn follow_pods(
    pods: &Informer<PodView>,
    services: &Informer<ServiceView>,
    queue: &Queue<Key>,
) {
    let (services, queue) = (services.clone(), queue.clone());
    pods.on_change(move |change: &Change<PodView>| {
        let Some(any) = change.new.as_ref().or(change.old.as_ref()) else {
            return;
        };
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && same_endpoint(old, new)
        {
            return;
        }
        for service in services.in_namespace(&any.metadata.namespace) {
            let hit = [&change.old, &change.new]
                .into_iter()
                .flatten()
                .any(|p| is_behind(&service, p));
            if hit {
                queue.add(Arc::from(service.metadata.key()));
            }
        }
    });
}

/// Whether a change of a Pod leaves its endpoints as they are.
fn same_endpoint(old: &PodView, new: &PodView) -> bool {
    old.status.pod_ip == new.status.pod_ip
        && old.is_ready() == new.is_ready()
        && old.spec.node_name == new.spec.node_name
        && old.is_ended() == new.is_ended()
        && old.metadata.deletion_timestamp.is_some() == new.metadata.deletion_timestamp.is_some()
        && old.metadata.labels == new.metadata.labels
}

/// Whether a Service sends to a Pod.
pub(crate) fn is_behind(service: &ServiceView, pod: &PodView) -> bool {
    let selector = &service.spec.selector;
    !selector.is_empty()
        && selector
            .iter()
            .all(|(k, v)| pod.metadata.labels.get(k) == Some(v))
}

/// The port of a Pod that a Service's port stands for; `None` when no container has a port of that name.
pub(crate) fn target_port(port: &ServicePort, pod: &PodView) -> Option<i64> {
    match &port.target_port {
        Value::String(name) if !name.is_empty() => {
            let sidecars = pod
                .spec
                .init_containers
                .iter()
                .filter(|c| c.restart_policy == "Always");
            let ports = pod
                .spec
                .containers
                .iter()
                .chain(sidecars)
                .flat_map(|c| &c.ports);
            let protocol = |p: &str| {
                if p.is_empty() {
                    "TCP".to_owned()
                } else {
                    p.to_owned()
                }
            };
            ports
                .into_iter()
                .find(|p| p.name == *name && protocol(&p.protocol) == protocol(&port.protocol))
                .map(|p| p.container_port)
        }
        Value::Number(n) if n.as_i64() != Some(0) => n.as_i64(),
        _ => Some(port.port),
    }
}

/// The subsets of an Endpoints object: addresses that offer the same ports stand together, sorted.
pub(crate) fn plan(service: &ServiceView, pods: &[Arc<PodView>]) -> Vec<Value> {
    type Addresses = BTreeMap<String, Value>;
    // By ports (as JSON, which sorts): those that are ready, those that are not.
    let mut groups: BTreeMap<String, (Value, Addresses, Addresses)> = BTreeMap::new();
    for pod in pods.iter().filter(|p| is_behind(service, p)) {
        let publish = service.spec.publish_not_ready_addresses;
        if pod.status.pod_ip.is_empty()
            || pod.is_ended()
            || (pod.metadata.deletion_timestamp.is_some() && !publish)
        {
            continue;
        }
        let mut address = json!({
            "ip": pod.status.pod_ip,
            "targetRef": {"kind": "Pod", "name": pod.metadata.name, "namespace": pod.metadata.namespace, "uid": pod.metadata.uid},
        });
        if !pod.spec.node_name.is_empty() {
            address["nodeName"] = pod.spec.node_name.clone().into();
        }
        if !pod.spec.hostname.is_empty() && pod.spec.subdomain == service.metadata.name {
            address["hostname"] = pod.spec.hostname.clone().into();
        }
        let ports: Vec<Value> = service
            .spec
            .ports
            .iter()
            .filter_map(|port| {
                let mut out = json!({"port": target_port(port, pod)?, "protocol": port.protocol});
                if !port.name.is_empty() {
                    out["name"] = port.name.clone().into();
                }
                if let Some(application) = &port.app_protocol {
                    out["appProtocol"] = application.clone().into();
                }
                Some(out)
            })
            .collect();
        if ports.is_empty() && !service.spec.ports.is_empty() {
            continue;
        }
        let ports = Value::from(ports);
        let group = groups
            .entry(ports.to_string())
            .or_insert_with(|| (ports, Addresses::new(), Addresses::new()));
        let list = if pod.is_ready() || publish {
            &mut group.1
        } else {
            &mut group.2
        };
        list.insert(pod.status.pod_ip.clone(), address);
    }
    let mut left = MAX_ADDRESSES;
    let mut take = |addresses: Addresses| -> Vec<Value> {
        let taken: Vec<Value> = addresses.into_values().take(left).collect();
        left -= taken.len();
        taken
    };
    let groups = groups.into_values();
    groups
        .map(|(ports, ready, not_ready)| {
            let mut subset = json!({});
            for (field, list) in [
                ("addresses", take(ready)),
                ("notReadyAddresses", take(not_ready)),
            ] {
                if !list.is_empty() {
                    subset[field] = list.into();
                }
            }
            if ports.as_array().is_some_and(|p| !p.is_empty()) {
                subset["ports"] = ports;
            }
            subset
        })
        .collect()
}

pub(crate) fn start(env: Env) {
    let services = env.informers.all::<ServiceView>();
    let pods = env.informers.all::<PodView>();
    let endpoints = env.informers.all::<EndpointsView>();
    let queue = env.queue("endpoint");
    enqueue_changes(&services, &queue);
    enqueue_changes(&endpoints, &queue);
    follow_pods(&pods, &services, &queue);
    let ready = {
        let (services, pods, endpoints) = (services.clone(), pods.clone(), endpoints.clone());
        async move {
            services.synced().await;
            pods.synced().await;
            endpoints.synced().await;
        }
    };
    let client = env.client.clone();
    env.run(queue, ready, move |key| {
        let (services, pods, endpoints) = (services.clone(), pods.clone(), endpoints.clone());
        let client = client.clone();
        async move { settled(reconcile(&client, &services, &pods, &endpoints, &key).await) }
    });
}

async fn reconcile(
    client: &client::Client,
    services: &Informer<ServiceView>,
    pods: &Informer<PodView>,
    endpoints: &Informer<EndpointsView>,
    key: &Key,
) -> Result<Outcome, Error> {
    let (namespace, name) = client::meta::split_key(key);
    let current = endpoints.get(key);
    let Some(service) = services.get(key) else {
        // An object that somebody made for leader election or by hand has no Service either: leave those.
        let ours = current.filter(|e| e.metadata.labels.contains_key(MANAGED));
        if let Some(current) = ours {
            let options = DeleteOptions::default().with_uid(&current.metadata.uid);
            client
                .delete(&kinds::ENDPOINTS, namespace, name, &options)
                .await?;
        }
        return Ok(Outcome::Done);
    };
    if service.spec.selector.is_empty() || service.spec.kind == "ExternalName" {
        return Ok(Outcome::Done);
    }
    let in_namespace = pods.in_namespace(namespace);
    let subsets = plan(&service, &in_namespace);
    let behind = in_namespace
        .iter()
        .filter(|p| is_behind(&service, p))
        .count();
    let mut labels = service.metadata.labels.clone();
    labels.insert(MANAGED.into(), "endpoint-controller".into());
    if service.spec.cluster_ip == "None" {
        labels.insert("service.kubernetes.io/headless".into(), String::new());
    }
    if let Some(current) = &current
        && current.subsets == subsets
        && current.metadata.labels == labels
    {
        return Ok(Outcome::Done);
    }
    let mut object = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "subsets": subsets,
    });
    if behind > MAX_ADDRESSES {
        object["metadata"]["annotations"][OVER_CAPACITY] = "truncated".into();
    }
    let done = match &current {
        None => {
            client
                .create::<Value>(&kinds::ENDPOINTS, namespace, &object)
                .await
        }
        Some(current) => {
            object["metadata"]["resourceVersion"] =
                current.metadata.resource_version.clone().into();
            client
                .update::<Value>(&kinds::ENDPOINTS, namespace, name, "", &object)
                .await
        }
    };
    match done {
        // Made meanwhile; its event brings us back.
        Err(e) if e.is_already_exists() => Ok(Outcome::Done),
        other => other.map(|_| Outcome::Done),
    }
}

/// The mark of the objects that this controller keeps.
const MANAGED: &str = "endpoints.kubernetes.io/managed-by";
