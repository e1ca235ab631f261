//! Lists the addresses behind each Service in EndpointSlices of at most 100.
//!
//! Follows <https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/>. Slices are changed as little as
//! possible: an endpoint stays in its slice, new ones fill up slices with room, emptied slices go.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use client::resource::kinds;
use client::{DeleteOptions, Error, Informer};
use reconcile::Outcome;
use serde_json::{Value, json};

use crate::awaited::Awaited;
use crate::endpoints::{follow_pods, is_behind, target_port};
use crate::env::{Env, Key, enqueue_changes, settled};
use crate::views::{EndpointSliceView, PodView, ServiceView};
use crate::write::Written;

/// The most endpoints in a slice.
const MAX_ENDPOINTS: usize = 100;
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";

/// One thing to do.
pub(crate) enum Action {
    Create {
        endpoints: Vec<Value>,
        ports: Value,
    },
    Update {
        slice: Arc<EndpointSliceView>,
        endpoints: Vec<Value>,
    },
    Delete(Arc<EndpointSliceView>),
}

/// What one reconcile decided.
pub(crate) struct Plan(pub Vec<Action>);

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |endpoints: &[Value]| -> String {
            let one = |e: &Value| {
                let c = &e["conditions"];
                let state = match (&c["ready"], &c["serving"], &c["terminating"]) {
                    (Value::Bool(true), _, _) => "ready",
                    (_, Value::Bool(true), Value::Bool(true)) => "draining",
                    (_, _, Value::Bool(true)) => "terminating",
                    _ => "not ready",
                };
                format!("{} {state}", e["addresses"][0].as_str().unwrap_or_default())
            };
            endpoints.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        for action in &self.0 {
            match action {
                Action::Create { endpoints, ports } => {
                    writeln!(f, "create [{}] ports {ports}", show(endpoints))?
                }
                Action::Update { slice, endpoints } => {
                    writeln!(f, "update {} [{}]", slice.metadata.name, show(endpoints))?;
                }
                Action::Delete(slice) => writeln!(f, "delete {}", slice.metadata.name)?,
            }
        }
        Ok(())
    }
}

fn endpoint_of(service: &ServiceView, pod: &PodView) -> Value {
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let serving = pod.is_ready();
    let ready = service.spec.publish_not_ready_addresses || (serving && !terminating);
    let mut endpoint = json!({
        "addresses": [pod.status.pod_ip],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "targetRef": {"kind": "Pod", "name": pod.metadata.name, "namespace": pod.metadata.namespace, "uid": pod.metadata.uid},
    });
    if !pod.spec.node_name.is_empty() {
        endpoint["nodeName"] = pod.spec.node_name.clone().into();
    }
    if !pod.spec.hostname.is_empty() && pod.spec.subdomain == service.metadata.name {
        endpoint["hostname"] = pod.spec.hostname.clone().into();
    }
    endpoint
}

fn ports_of(service: &ServiceView, pod: &PodView) -> Value {
    let mut ports: Vec<Value> = service
        .spec
        .ports
        .iter()
        .filter_map(|port| {
            let mut out = json!({"name": port.name, "port": target_port(port, pod)?, "protocol": port.protocol});
            if let Some(application) = &port.app_protocol {
                out["appProtocol"] = application.clone().into();
            }
            Some(out)
        })
        .collect();
    ports.sort_by_key(Value::to_string);
    ports.into()
}

fn uid_of(endpoint: &Value) -> &str {
    endpoint["targetRef"]["uid"].as_str().unwrap_or_default()
}

/// Decides which slices to make, change and delete. `slices` are ours, of this Service.
pub(crate) fn plan(
    service: &ServiceView,
    pods: &[Arc<PodView>],
    slices: &[Arc<EndpointSliceView>],
) -> Plan {
    // By ports: endpoints by Pod.
    let mut wanted: BTreeMap<String, (Value, BTreeMap<String, Value>)> = BTreeMap::new();
    for pod in pods.iter().filter(|p| is_behind(service, p)) {
        if pod.status.pod_ip.is_empty() || pod.is_ended() {
            continue;
        }
        let ports = ports_of(service, pod);
        let group = wanted
            .entry(ports.to_string())
            .or_insert_with(|| (ports, BTreeMap::new()));
        group
            .1
            .insert(pod.metadata.uid.clone(), endpoint_of(service, pod));
    }
    let mut kept: Vec<(Arc<EndpointSliceView>, Vec<Value>)> = Vec::new();
    let mut actions = Vec::new();
    for slice in slices {
        if slice.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let mut ports = slice.ports.clone();
        ports.sort_by_key(Value::to_string);
        let group = wanted.get_mut(&Value::from(ports).to_string());
        let endpoints: Vec<Value> = match group {
            Some((_, by_pod)) => slice
                .endpoints
                .iter()
                .filter_map(|e| by_pod.remove(uid_of(e)))
                .collect(),
            None => Vec::new(),
        };
        kept.push((slice.clone(), endpoints));
    }
    for (same, by_pod) in wanted.into_values() {
        let mut left = by_pod.into_values();
        let same_ports = |slice: &EndpointSliceView| {
            let mut ports = slice.ports.clone();
            ports.sort_by_key(Value::to_string);
            Value::from(ports) == same
        };
        for (_, endpoints) in kept.iter_mut().filter(|(slice, _)| same_ports(slice)) {
            let room = MAX_ENDPOINTS.saturating_sub(endpoints.len());
            endpoints.extend(left.by_ref().take(room));
        }
        let left: Vec<Value> = left.collect();
        for chunk in left.chunks(MAX_ENDPOINTS) {
            actions.push(Action::Create {
                endpoints: chunk.to_vec(),
                ports: same.clone(),
            });
        }
    }
    // A Service without Pods has one empty slice.
    let mut any = actions.iter().any(|a| matches!(a, Action::Create { .. }))
        || kept.iter().any(|(_, endpoints)| !endpoints.is_empty());
    for (slice, endpoints) in kept {
        if endpoints.is_empty() && (any || !slice.ports.is_empty()) {
            actions.push(Action::Delete(slice));
        } else {
            any = true;
            if endpoints != slice.endpoints || slice.metadata.labels != labels_of(service) {
                actions.push(Action::Update { slice, endpoints });
            }
        }
    }
    if !any {
        actions.push(Action::Create {
            endpoints: Vec::new(),
            ports: json!([]),
        });
    }
    Plan(actions)
}

fn labels_of(service: &ServiceView) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone();
    labels.insert(SERVICE_NAME.into(), service.metadata.name.clone());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if service.spec.cluster_ip == "None" {
        labels.insert("service.kubernetes.io/headless".into(), String::new());
    }
    labels
}

struct Controller {
    env: Env,
    services: Informer<ServiceView>,
    pods: Informer<PodView>,
    slices: Informer<EndpointSliceView>,
    awaited: Awaited,
}

pub(crate) fn start(env: Env) {
    let services = env.informers.all::<ServiceView>();
    let pods = env.informers.all::<PodView>();
    let slices = env.informers.all::<EndpointSliceView>();
    let queue = env.queue("endpoint_slice");
    enqueue_changes(&services, &queue);
    let q = queue.clone();
    slices.on_change(move |change| {
        let Some(slice) = change.new.as_ref().or(change.old.as_ref()) else {
            return;
        };
        if let Some(service) = slice.metadata.labels.get(SERVICE_NAME) {
            q.add(Arc::from(client::meta::key(
                &slice.metadata.namespace,
                service,
            )));
        }
    });
    follow_pods(&pods, &services, &queue);
    let controller = Arc::new(Controller {
        env: env.clone(),
        services: services.clone(),
        pods: pods.clone(),
        slices: slices.clone(),
        awaited: Awaited::default(),
    });
    let ready = async move {
        services.synced().await;
        pods.synced().await;
        slices.synced().await;
    };
    env.run(queue, ready, move |key| {
        let controller = controller.clone();
        async move { settled(controller.reconcile(&key).await) }
    });
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let (namespace, name) = client::meta::split_key(key);
        let all = self.slices.in_namespace(namespace);
        let seen = all
            .iter()
            .filter(|s| s.metadata.labels.get(SERVICE_NAME).map(String::as_str) == Some(name))
            .map(|s| s.metadata.revision())
            .max()
            .unwrap_or(0);
        if let Some(left) = self.awaited.wait(key, seen) {
            return Ok(Outcome::After(left));
        }
        let gone = self.awaited.gone(key);
        let ours: Vec<_> = all
            .into_iter()
            .filter(|s| {
                let label = |k: &str| s.metadata.labels.get(k).map(String::as_str);
                label(SERVICE_NAME) == Some(name)
                    && label(MANAGED_BY) == Some(MANAGER)
                    && !gone.contains(&s.metadata.uid)
            })
            .collect();
        let Some(service) = self.services.get(key) else {
            for slice in ours {
                self.delete(key, &slice).await?;
            }
            return Ok(Outcome::Done);
        };
        if service.spec.selector.is_empty()
            || service.spec.kind == "ExternalName"
            || service.metadata.deletion_timestamp.is_some()
        {
            return Ok(Outcome::Done);
        }
        let pods = self.pods.in_namespace(namespace);
        let client = &self.env.client;
        for action in plan(&service, &pods, &ours).0 {
            let written: Written = match action {
                Action::Create { endpoints, ports } => {
                    let owner = rules::owner_reference(
                        "v1",
                        "Service",
                        &service.metadata.name,
                        &service.metadata.uid,
                    );
                    let object = json!({
                        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                        "metadata": {
                            "generateName": format!("{name}-"), "namespace": namespace,
                            "labels": labels_of(&service), "ownerReferences": [owner],
                        },
                        "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
                    });
                    client
                        .create(&kinds::ENDPOINT_SLICES, namespace, &object)
                        .await?
                }
                Action::Update { slice, endpoints } => {
                    let resource = &kinds::ENDPOINT_SLICES;
                    let mut object: Value = client
                        .get(resource, namespace, &slice.metadata.name)
                        .await?;
                    object["endpoints"] = endpoints.into();
                    object["metadata"]["labels"] = json!(labels_of(&service));
                    object["metadata"]["resourceVersion"] =
                        slice.metadata.resource_version.clone().into();
                    client
                        .update(resource, namespace, &slice.metadata.name, "", &object)
                        .await?
                }
                Action::Delete(slice) => {
                    self.delete(key, &slice).await?;
                    continue;
                }
            };
            self.awaited.wrote(key, written.metadata.revision());
        }
        Ok(Outcome::Done)
    }

    async fn delete(&self, key: &Key, slice: &EndpointSliceView) -> Result<(), Error> {
        let options = DeleteOptions::default().with_uid(&slice.metadata.uid);
        let meta = &slice.metadata;
        match self
            .env
            .client
            .delete(
                &kinds::ENDPOINT_SLICES,
                &meta.namespace,
                &meta.name,
                &options,
            )
            .await
        {
            Err(error) if !error.is_not_found() => Err(error),
            _ => {
                self.awaited.deleted(key, &meta.uid);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn service() -> ServiceView {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "s"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "protocol": "TCP", "targetPort": "http"}]},
        }))
        .unwrap()
    }

    fn pod(n: usize, ready: bool, leaving: bool) -> Arc<PodView> {
        let mut pod: PodView = serde_json::from_value(json!({
            "metadata": {"name": format!("p{n}"), "namespace": "default", "uid": format!("u{n}"), "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": [{"ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]}]},
            "status": {"phase": "Running", "podIP": format!("10.42.0.{n}"), "conditions": [
                {"type": "Ready", "status": if ready { "True" } else { "False" }},
            ]},
        }))
        .unwrap();
        if leaving {
            pod.metadata.deletion_timestamp = Some(Timestamp::UNIX_EPOCH);
        }
        Arc::new(pod)
    }

    use jiff::Timestamp;

    #[test]
    fn conditions_of_endpoints() {
        let pods = [
            pod(1, true, false),
            pod(2, false, false),
            pod(3, true, true),
            pod(4, false, true),
        ];
        expect![[r#"
            create [10.42.0.1 ready, 10.42.0.2 not ready, 10.42.0.3 draining, 10.42.0.4 terminating] ports [{"name":"","port":8080,"protocol":"TCP"}]
        "#]]
        .assert_eq(&plan(&service(), &pods, &[]).to_string());
    }

    #[test]
    fn a_service_without_pods_has_an_empty_slice_and_slices_hold_a_hundred() {
        expect![[r#"
            create [] ports []
        "#]]
        .assert_eq(&plan(&service(), &[], &[]).to_string());
        let pods: Vec<_> = (0..250).map(|n| pod(n, true, false)).collect();
        let sizes: Vec<usize> = plan(&service(), &pods, &[])
            .0
            .iter()
            .map(|a| match a {
                Action::Create { endpoints, .. } => endpoints.len(),
                _ => 0,
            })
            .collect();
        assert_eq!(sizes, [100, 100, 50]);
    }
}
