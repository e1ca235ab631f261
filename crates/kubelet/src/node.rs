//! What all Pods of the node share, and the Node object: registration, status, Lease.

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::Quantity;
use client::resource::kinds;
use client::{EventRecorder, Informer, ObjectReference, PatchKind};
use serde_json::{Value, json};

use crate::Options;
use crate::cgroups::PodGroups;
use crate::pressure::{Measured, Pressure};
use crate::references::References;
use crate::spec::Service;
use crate::worker::Handle;

/// How often the Lease is renewed; the control plane waits 40 s.
const LEASE_EVERY: Duration = Duration::from_secs(10);
/// How often the status is written though nothing changed.
const STATUS_EVERY: Duration = Duration::from_secs(300);

/// How often it is measured whether the machine runs short of something, as upstream.
const PRESSURE_EVERY: Duration = Duration::from_secs(10);

/// What the machine is.
#[derive(Debug, Clone)]
pub struct Machine {
    pub cpu: Quantity,
    pub memory: Quantity,
    /// SELinux' labels are enforced.
    pub selinux: bool,
    info: Value,
    arch: &'static str,
}

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

impl Machine {
    /// Reads /proc and /etc.
    #[must_use]
    pub fn look() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let kib = read("/proc/meminfo")
            .lines()
            .find_map(|l| {
                l.strip_prefix("MemTotal:")?
                    .trim()
                    .strip_suffix("kB")?
                    .trim()
                    .parse::<i64>()
                    .ok()
            })
            .unwrap_or(0);
        let os = read("/etc/os-release");
        let os = os
            .lines()
            .find_map(|l| l.strip_prefix("PRETTY_NAME="))
            .map_or("Linux", |n| n.trim_matches('"'))
            .to_owned();
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let version = format!(
            "v{}+skiff{}",
            api::KUBERNETES_VERSION,
            env!("CARGO_PKG_VERSION")
        );
        let info = json!({
            "machineID": read("/etc/machine-id"),
            "systemUUID": read("/sys/class/dmi/id/product_uuid"),
            "bootID": read("/proc/sys/kernel/random/boot_id"),
            "kernelVersion": read("/proc/sys/kernel/osrelease"),
            "osImage": os,
            "containerRuntimeVersion": "",
            "kubeletVersion": version,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": arch,
        });
        Self {
            cpu: Quantity::new(
                i64::try_from(cpus).unwrap_or(1),
                api::quantity::Format::DecimalSi,
            ),
            memory: Quantity::new(kib * 1024, api::quantity::Format::BinarySi),
            selinux: read("/sys/fs/selinux/enforce") == "1",
            info,
            arch,
        }
    }
}

/// The node, as its Pods' workers see it.
pub struct Node {
    pub options: Options,
    pub machine: Machine,
    pub events: EventRecorder,
    pub services: Informer<Service>,
    pub references: References,
    pub groups: PodGroups,
    pub pressure: Mutex<Pressure>,
    /// Workers by the Pods' UIDs.
    pub workers: Mutex<HashMap<String, Handle>>,
}

impl Node {
    /// Has the worker of that Pod look again; its volumes too if `volumes`.
    pub fn nudge(&self, uid: &str, volumes: bool) {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = workers.get(uid) {
            if volumes {
                handle
                    .shared
                    .volumes_dirty
                    .store(true, std::sync::atomic::Ordering::Release);
            }
            handle.shared.nudge.notify_one();
        }
    }

    /// The Pod of that name, with what is known of it.
    #[must_use]
    pub fn find(
        &self,
        namespace: &str,
        name: &str,
    ) -> Option<(Arc<crate::spec::Pod>, Arc<crate::worker::Shared>)> {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers
            .values()
            .map(|h| (h.latest.borrow().pod.clone(), h.shared.clone()))
            .filter(|(pod, _)| pod.metadata.namespace == namespace && pod.metadata.name == name)
            .min_by_key(|(pod, _)| pod.metadata.deletion_timestamp.is_some())
    }

    /// The reference for events about the Node.
    #[must_use]
    pub fn reference(&self) -> ObjectReference {
        let name = &self.options.node_name;
        ObjectReference {
            kind: "Node".into(),
            name: name.clone(),
            uid: name.clone(),
            ..ObjectReference::default()
        }
    }

    fn labels(&self) -> Value {
        let mut labels = json!({
            "kubernetes.io/hostname": self.options.node_name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": self.machine.arch,
            "beta.kubernetes.io/os": "linux",
            "beta.kubernetes.io/arch": self.machine.arch,
        });
        for (key, value) in &self.options.labels {
            labels[key] = value.as_str().into();
        }
        labels
    }

    /// Creates the Node if it is missing, and gives it our labels.
    ///
    /// # Errors
    /// The API's.
    pub async fn register(&self) -> Result<(), client::Error> {
        let name = &self.options.node_name;
        let object = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": self.labels()},
            "spec": {"taints": self.options.taints},
        });
        let client = &self.options.client;
        match client.create::<Value>(&kinds::NODES, "", &object).await {
            Ok(_) => {}
            Err(e) if e.is_already_exists() => {
                let patch = json!({"metadata": {"labels": self.labels()}});
                client
                    .patch::<Value>(&kinds::NODES, "", name, "", PatchKind::Merge, &patch)
                    .await?;
            }
            Err(e) => return Err(e),
        }
        self.report().await
    }

    /// Writes the Node's status.
    ///
    /// # Errors
    /// The API's.
    pub async fn report(&self) -> Result<(), client::Error> {
        let (options, name) = (&self.options, &self.options.node_name);
        let version = options.runtime.version().await;
        let now = api::time::seconds(options.world.now());
        let old: Value = options.client.get(&kinds::NODES, "", name).await?;
        let condition = |kind: &str, truth: bool, reason: &str, message: &str| {
            let status = if truth { "True" } else { "False" };
            let before = old["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|c| c["type"] == kind && c["status"] == status);
            let since = before
                .and_then(|c| c["lastTransitionTime"].as_str())
                .unwrap_or(&now);
            json!({
                "type": kind, "status": status, "reason": reason, "message": message,
                "lastHeartbeatTime": now, "lastTransitionTime": since,
            })
        };
        let (ready, reason, message) = match &version {
            Ok(_) => (
                true,
                "KubeletReady",
                "kubelet is posting ready status".to_owned(),
            ),
            Err(e) => (
                false,
                "KubeletNotReady",
                format!("container runtime is down: {e}"),
            ),
        };
        let mut info = self.machine.info.clone();
        if let Ok(v) = &version {
            info["containerRuntimeVersion"] =
                format!("{}://{}", v.runtime_name, v.runtime_version).into();
        }
        let disk = rustix::fs::statvfs(&options.root_dir)
            .map_or(0, |s| s.f_blocks.saturating_mul(s.f_frsize));
        let capacity = json!({
            "cpu": self.machine.cpu.to_string(),
            "memory": format!("{}Ki", self.machine.memory.value() / 1024),
            "ephemeral-storage": format!("{}Ki", disk / 1024),
            "hugepages-1Gi": "0", "hugepages-2Mi": "0",
            "pods": "110",
        });
        let mut allocatable = capacity.clone();
        allocatable["ephemeral-storage"] = (disk / 10 * 9).to_string().into();
        let mut images = options.runtime.list_images().await.unwrap_or_default();
        images.sort_by_key(|i| std::cmp::Reverse(i.size));
        let images: Vec<Value> = images
            .iter()
            .take(50)
            .map(|i| json!({"names": i.repo_digests.iter().chain(&i.repo_tags).collect::<Vec<_>>(), "sizeBytes": i.size}))
            .collect();
        self.look_for_pressure();
        let pressed = {
            let pressure = self.pressure.lock().unwrap_or_else(PoisonError::into_inner);
            pressure
                .conditions()
                .map(|c| condition(c.kind, c.truth, c.reason, c.message))
        };
        let status = json!({"status": {
            "capacity": capacity, "allocatable": allocatable,
            "conditions": [
                pressed[0], pressed[1], pressed[2],
                condition("Ready", ready, reason, &message),
            ],
            "addresses": [
                {"type": "InternalIP", "address": IpAddr::from(options.node_ip).to_string()},
                {"type": "Hostname", "address": name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": options.port}},
            "nodeInfo": info,
            "images": images,
        }});
        options
            .client
            .patch::<Value>(
                &kinds::NODES,
                "",
                name,
                "status",
                PatchKind::Strategic,
                &status,
            )
            .await
            .map(|_| ())
    }

    /// Measures; whether a condition changed.
    fn look_for_pressure(&self) -> bool {
        let measured = Measured::now(&self.options.root_dir);
        let now = self.options.world.now();
        let mut pressure = self.pressure.lock().unwrap_or_else(PoisonError::into_inner);
        pressure.look(&measured, now)
    }

    /// Registers again and again until it works, then reports each five minutes, and when the machine runs short of something.
    pub async fn keep_reporting(self: Arc<Self>) {
        loop {
            let due = tokio::time::Instant::now() + STATUS_EVERY;
            while tokio::time::Instant::now() < due {
                tokio::time::sleep(PRESSURE_EVERY).await;
                if self.look_for_pressure() {
                    break;
                }
            }
            let mut result = self.report().await;
            if result.as_ref().is_err_and(client::Error::is_not_found) {
                result = self.register().await;
            }
            if let Err(error) = result {
                tracing::warn!(%error, "the Node's status was not written");
            }
        }
    }

    /// Renews the node's Lease.
    pub async fn keep_lease(self: Arc<Self>) {
        let mut failures = 0_u32;
        loop {
            let wait = match self.renew().await {
                Ok(()) => {
                    failures = 0;
                    LEASE_EVERY
                }
                Err(error) => {
                    tracing::warn!(%error, "the node's Lease was not renewed");
                    failures += 1;
                    Duration::from_millis(200 << failures.min(5))
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn renew(&self) -> Result<(), client::Error> {
        let (client, name) = (&self.options.client, &self.options.node_name);
        let now = api::time::micros(self.options.world.now());
        let patch = json!({"spec": {"renewTime": now}});
        let done = client
            .patch::<Value>(
                &kinds::LEASES,
                "kube-node-lease",
                name,
                "",
                PatchKind::Merge,
                &patch,
            )
            .await;
        match done {
            Err(e) if e.is_not_found() => {}
            other => return other.map(|_| ()),
        }
        let node: Value = client.get(&kinds::NODES, "", name).await?;
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, "namespace": "kube-node-lease", "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node["metadata"]["uid"]},
            ]},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now},
        });
        client
            .create::<Value>(&kinds::LEASES, "kube-node-lease", &lease)
            .await
            .map(|_| ())
    }
}
