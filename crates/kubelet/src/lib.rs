//! The kubelet: runs the Pods that are bound to its node, through a [`runtime::Runtime`], and tells the API how they are.
//!
//! ```text
//!   informer of Pods ─┐                          ┌─► runtime (sandboxes, containers)
//!   runtime's events ─┼─► worker of each Pod ────┼─► volumes, probes, hooks
//!   references, time ─┘   observe·plan·act       └─► status (PATCH), events
//! ```
//! What is decided stands in [`plan`] and [`status`], which touch nothing. Workers wait for events; nothing is polled.

pub mod admit;
pub mod atomic;
pub mod cgroups;
pub mod container;
pub mod env;
pub mod fields;
pub mod logs;
pub mod node;
pub mod plan;
pub mod pressure;
pub mod probe;
pub mod references;
pub mod remove;
pub mod server;
pub mod spec;
pub mod status;
pub mod volumes;
pub mod worker;

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use client::{Client, EventRecorder, Informers};
use futures::StreamExt as _;
use runtime::{ContainerId, SandboxId};
use world::{Shutdown, World};

use crate::cgroups::PodGroups;
use crate::node::{Machine, Node};
use crate::references::References;
use crate::spec::{Pod, Service};
use crate::worker::Latest;

/// How a kubelet runs.
pub struct Options {
    pub world: World,
    pub shutdown: Shutdown,
    /// As `system:node:<name>` in `system:nodes`.
    pub client: Client,
    pub runtime: Arc<dyn runtime::Runtime>,
    pub node_name: String,
    pub node_ip: Ipv4Addr,
    /// Labels that the Node gets beside upstream's own.
    pub labels: BTreeMap<String, String>,
    /// Taints (`v1.Taint`) with which the Node is created.
    pub taints: Vec<serde_json::Value>,
    /// The port that the Node tells the API server; usually that of `listen`.
    pub port: u16,
    pub listen: SocketAddr,
    /// Certificate and key, PEM.
    pub serving: (String, String),
    /// Whose client certificates are believed, PEM.
    pub client_ca: String,
    /// `/var/lib/kubelet`
    pub root_dir: PathBuf,
    /// `/var/log/pods`
    pub log_dir: PathBuf,
    /// `/var/log/containers`
    pub containers_log_dir: PathBuf,
    pub cluster_dns: Ipv4Addr,
    pub cluster_domain: String,
    /// Cgroup below which Pods live: `/kubepods`.
    pub cgroup_root: String,
    /// The node's resolv.conf.
    pub resolv_conf: PathBuf,
    /// Told to containers as KUBERNETES_SERVICE_* while the Service isn't known.
    pub api_server: (String, u16),
}

/// Why a kubelet could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot register node {0}: {1}")]
    Register(String, client::Error),
    #[error("the container runtime does not answer: {0}")]
    Runtime(#[from] runtime::Error),
    #[error(transparent)]
    Listen(#[from] skiff_http::Error),
    #[error("cannot make {0}: {1}")]
    Directory(String, std::io::Error),
}

/// Registers the node, adopts what runs, and from then on runs its Pods until `shutdown`; containers go on after that.
///
/// # Errors
/// When the port is taken, directories can't be made, or the API server refuses the Node.
pub async fn start(options: Options) -> Result<(), Error> {
    for dir in [&options.log_dir, &options.containers_log_dir] {
        std::fs::create_dir_all(dir).map_err(|e| Error::Directory(dir.display().to_string(), e))?;
    }
    // Secrets and volumes that anyone may write lie below.
    for dir in [&options.root_dir, &options.root_dir.join("pods")] {
        volumes::make_private(dir).map_err(|e| Error::Directory(dir.display().to_string(), e))?;
    }
    let cgroups = runtime::CgroupTree::find()?;
    let shutdown = options.shutdown.clone();
    let client = options.client.clone();
    let informers = Informers::new(client.clone(), shutdown.clone());
    let services = informers.all::<Service>();
    let events = EventRecorder::start(
        client.clone(),
        options.world.clone(),
        "kubelet",
        &options.node_name,
        shutdown.clone(),
    );
    let node = Arc::new_cyclic(|this: &Weak<Node>| {
        let this = this.clone();
        let tell = move |uid: &str| {
            if let Some(node) = this.upgrade() {
                node.nudge(uid, true);
            }
        };
        Node {
            machine: Machine::look(),
            events,
            services,
            groups: PodGroups::new(cgroups, &options.cgroup_root),
            pressure: Mutex::default(),
            references: References::new(client, shutdown.clone(), Arc::new(tell)),
            workers: Mutex::new(HashMap::new()),
            options,
        }
    });
    node.groups.prepare(node.machine.cpu.milli_value())?;
    // Subscribe first, then list: nothing is missed in between.
    tokio::spawn(
        shutdown
            .clone()
            .run_until_cancelled_owned(follow_runtime(node.clone())),
    );
    let listener = skiff_http::Server::bind(node.options.listen).await?;
    let (certificate, key) = &node.options.serving;
    let serving = skiff_http::tls::ServingCertificate::new(certificate, key)?;
    let tls = skiff_http::tls::server_config(serving, &node.options.client_ca)?;
    tokio::spawn(listener.serve(
        tls,
        Arc::new(server::Server(node.clone())),
        shutdown.clone(),
    ));
    let inventory = Inventory::take(&node).await?;
    register(&node).await?;
    let pods = spec::pods_of(&informers, &node.options.node_name);
    tokio::spawn(
        shutdown
            .clone()
            .run_until_cancelled_owned(node.clone().keep_reporting()),
    );
    tokio::spawn(
        shutdown
            .clone()
            .run_until_cancelled_owned(node.clone().keep_lease()),
    );
    tokio::spawn(shutdown.run_until_cancelled_owned(async move {
        pods.synced().await;
        // Service variables are part of a container's environment from its start.
        let _ = tokio::time::timeout(Duration::from_secs(2), node.services.synced()).await;
        let inventory = Arc::new(Mutex::new(inventory));
        let (on_change, found) = (node.clone(), inventory.clone());
        pods.on_change(move |change| {
            if let (Some(old), new) = (&change.old, &change.new)
                && new
                    .as_ref()
                    .is_none_or(|n| n.metadata.uid != old.metadata.uid)
            {
                update(&on_change, &found, old, true);
            }
            if let Some(new) = &change.new {
                update(&on_change, &found, new, false);
            }
        });
        let orphans =
            std::mem::take(&mut *inventory.lock().unwrap_or_else(PoisonError::into_inner));
        // One of them may belong to a Pod that could not be read.
        if pods.is_complete() {
            orphans.remove(&node).await;
        } else {
            tracing::error!("some Pods cannot be read: what no Pod seems to own is left alone");
        }
    }));
    Ok(())
}

/// Tries until the API server takes the Node, for as long as it cannot be reached; gives up when it keeps saying no.
async fn register(node: &Node) -> Result<(), Error> {
    let mut wait = Duration::from_millis(20);
    let mut begin = tokio::time::Instant::now();
    loop {
        match node.register().await {
            Ok(()) => return Ok(()),
            Err(error @ client::Error::Transport(_)) => {
                begin = tokio::time::Instant::now();
                tracing::warn!(%error, "the node is not registered yet");
            }
            Err(error) if begin.elapsed() > Duration::from_secs(60) => {
                return Err(Error::Register(node.options.node_name.clone(), error));
            }
            Err(error) => tracing::warn!(%error, "the node is not registered yet"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(5));
    }
}

/// Hands a Pod's new version to its worker, which is made if there is none.
fn update(node: &Arc<Node>, inventory: &Mutex<Inventory>, pod: &Arc<Pod>, gone: bool) {
    let uid = &pod.metadata.uid;
    let mut workers = node.workers.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = workers.get(uid) {
        handle.latest.send_replace(Latest {
            pod: pod.clone(),
            gone,
        });
        return;
    }
    if gone {
        return;
    }
    let found = inventory
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .0
        .remove(uid)
        .unwrap_or_default();
    let over = matches!(pod.status["phase"].as_str(), Some("Succeeded" | "Failed"));
    if over && found.0.is_empty() && pod.metadata.deletion_timestamp.is_none() {
        // It ended before and nothing of it is left here: its status stays as it is.
        return;
    }
    workers.insert(
        uid.clone(),
        worker::start(node, pod.clone(), found.0, found.1),
    );
}

/// What the runtime had when we started, by the Pods' UIDs.
#[derive(Default)]
struct Inventory(BTreeMap<String, (Vec<SandboxId>, Vec<ContainerId>)>);

impl Inventory {
    async fn take(node: &Node) -> Result<Self, Error> {
        let runtime = &node.options.runtime;
        let mut found = Self::default();
        let mut owners: BTreeMap<SandboxId, String> = BTreeMap::new();
        for sandbox in runtime.list_pod_sandboxes().await? {
            // Without the label it isn't a kubelet's.
            let Some(uid) = sandbox.labels.get(container::POD_UID) else {
                continue;
            };
            owners.insert(sandbox.id.clone(), uid.clone());
            found.0.entry(uid.clone()).or_default().0.push(sandbox.id);
        }
        for status in runtime.list_containers().await? {
            if let Some(uid) = owners.get(&status.sandbox_id) {
                found.0.entry(uid.clone()).or_default().1.push(status.id);
            }
        }
        Ok(found)
    }

    /// Kills what no Pod owns, and removes directories of Pods that are gone.
    async fn remove(self, node: &Node) {
        for (uid, (sandboxes, _)) in self.0 {
            for id in sandboxes {
                tracing::info!(sandbox = %id, pod = uid, "its Pod is gone: removing it");
                if let Err(error) = node.options.runtime.remove_pod_sandbox(&id).await {
                    tracing::warn!(%error, sandbox = %id, "cannot remove an orphan");
                }
            }
        }
        let known = |uid: &str| {
            let workers = node.workers.lock();
            workers
                .unwrap_or_else(PoisonError::into_inner)
                .contains_key(uid)
        };
        if let Err(error) = node.groups.remove_unknown(known).await {
            tracing::warn!(%error, "cannot remove the control group of a Pod that is gone");
        }
        let Ok(entries) = std::fs::read_dir(node.options.root_dir.join("pods")) else {
            return;
        };
        for entry in entries.flatten() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            if !known(&uid)
                && let Err(error) = volumes::remove(&node.options.root_dir, &uid)
            {
                tracing::warn!(error, "cannot remove the directory of a Pod that is gone");
            }
        }
    }
}

/// Wakes the workers that an event of the runtime is about; after a gap, all of them.
async fn follow_runtime(node: Arc<Node>) {
    let mut owners: HashMap<SandboxId, String> = HashMap::new();
    loop {
        let mut events = node.options.runtime.events();
        let all: Vec<String> = node
            .workers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .cloned()
            .collect();
        for uid in all {
            node.nudge(&uid, false);
        }
        while let Some(event) = events.next().await {
            let known = owners.get(&event.sandbox).cloned();
            let owner = match known {
                Some(uid) => Some(uid),
                None => node
                    .options
                    .runtime
                    .pod_sandbox_status(&event.sandbox)
                    .await
                    .ok()
                    .and_then(|s| s.labels.get(container::POD_UID).cloned()),
            };
            if let Some(uid) = owner {
                node.nudge(&uid, false);
                if event.container.is_none() && event.kind == runtime::ContainerEventKind::Deleted {
                    owners.remove(&event.sandbox);
                } else {
                    owners.insert(event.sandbox, uid);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
