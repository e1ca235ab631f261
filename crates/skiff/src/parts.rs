//! The parts beside the API server, each started with the identity it would have over the network.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use apiserver::allocate::ServiceRange;
use async_trait::async_trait;
use client::{Client, Informers, ObjectMeta, Resource, View};
use net::Cidr;
use net::pod::PodNetwork;
use runtime::{NetworkStatus, Runtime, SandboxConfig, SandboxId, SandboxNetwork};
use world::{Shutdown, World};

use crate::server::{Certificates, Identities, Settings};
use crate::{Failure, admin};

/// What one cluster has on this machine. The default cluster uses upstream's directories; a second one keeps to itself.
pub struct Directories {
    pub run: PathBuf,
    pub kubelet: PathBuf,
    pub pod_logs: PathBuf,
    pub container_logs: PathBuf,
    pub cgroup: String,
    /// Its tables of nf_tables: for Services, and for what Pods send outside.
    pub services_table: String,
    pub pods_table: String,
    /// What the names of its Pods' links start with.
    pub link_prefix: String,
    pub is_default: bool,
}

impl Directories {
    /// Those of the cluster in `data_dir`.
    #[must_use]
    pub fn of(data_dir: &Path) -> Self {
        if data_dir == Path::new("/var/lib/skiff") {
            return Self {
                run: "/run/skiff".into(),
                kubelet: "/var/lib/kubelet".into(),
                pod_logs: "/var/log/pods".into(),
                container_logs: "/var/log/containers".into(),
                cgroup: "/kubepods".into(),
                services_table: "skiff".into(),
                pods_table: "skiff-pods".into(),
                link_prefix: net::pod::LINK_PREFIX.into(),
                is_default: true,
            };
        }
        let hash = data_dir
            .to_string_lossy()
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
                (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
            });
        let name = format!("{:08x}", hash >> 32);
        Self {
            run: format!("/run/skiff-{name}").into(),
            kubelet: data_dir.join("kubelet"),
            pod_logs: data_dir.join("log/pods"),
            container_logs: data_dir.join("log/containers"),
            cgroup: format!("/kubepods-{name}"),
            services_table: format!("skiff-{name}"),
            pods_table: format!("skiff-pods-{name}"),
            link_prefix: format!("{}{}-", net::pod::LINK_PREFIX, &name[..4]),
            is_default: false,
        }
    }
}

/// Proof that one process at a time is this command for this directory; the kernel forgets it with the process.
pub struct Running(#[expect(dead_code, reason = "it is locked while it is open")] std::fs::File);

/// What can run for a directory.
pub const COMMANDS: [&str; 6] = [
    "server",
    "kubelet",
    "proxy",
    "dns",
    "scheduler",
    "controller-manager",
];

impl Running {
    /// Claims the directory for `command`, one of [`COMMANDS`].
    ///
    /// # Errors
    /// When another process has, or the directory cannot be written.
    pub fn claim(data_dir: &Path, command: &str) -> Result<Self, Failure> {
        let path = data_dir.join(format!("{command}.lock"));
        let fail = |e: std::io::Error| Failure::new(format!("cannot lock {}: {e}", path.display()));
        std::fs::create_dir_all(data_dir).map_err(|e| {
            Failure::new(format!("cannot make {}: {e}", data_dir.display()))
                .hint("run as root, or choose another --data-dir")
        })?;
        let file = std::fs::File::create(&path).map_err(fail)?;
        match lock_soon(&file) {
            Ok(()) => Ok(Self(file)),
            Err(std::fs::TryLockError::WouldBlock) => Err(Failure::new(format!(
                "a {command} is running with {}",
                data_dir.display()
            ))
            .hint("stop it first (Ctrl-C, or kill its process), or choose another --data-dir")),
            Err(std::fs::TryLockError::Error(e)) => Err(fail(e)),
        }
    }
}

/// Locks a file. Whoever was just killed gets a moment to be gone: the kernel takes its locks away last.
#[expect(
    clippy::disallowed_methods,
    reason = "nothing else runs before the directory is ours"
)]
fn lock_soon(file: &std::fs::File) -> Result<(), std::fs::TryLockError> {
    for _ in 0..20 {
        match file.try_lock() {
            Err(std::fs::TryLockError::WouldBlock) => {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            done => return done,
        }
    }
    file.try_lock()
}

/// The embedded runtime's view of the Pod network.
struct Network(Arc<PodNetwork>);

#[async_trait]
impl SandboxNetwork for Network {
    async fn add(
        &self,
        id: &SandboxId,
        netns: &Path,
        _: &SandboxConfig,
    ) -> runtime::Result<NetworkStatus> {
        let added = self.0.add(id.as_str(), netns).await;
        added
            .map(|ip| NetworkStatus { ips: vec![ip] })
            .map_err(|e| runtime::Error::Network {
                sandbox: id.clone(),
                why: e.to_string(),
            })
    }

    async fn remove(&self, id: &SandboxId, netns: &Path) -> runtime::Result<()> {
        self.0
            .remove(id.as_str(), netns)
            .await
            .map_err(|e| runtime::Error::Network {
                sandbox: id.clone(),
                why: e.to_string(),
            })
    }
}

/// What every part on a machine needs to know of it and of its cluster.
#[derive(Clone)]
pub struct Site {
    pub world: World,
    pub shutdown: Shutdown,
    pub data_dir: PathBuf,
    pub node_name: String,
    pub node_ip: Ipv4Addr,
    pub cluster_cidr: Cidr,
    pub services: ServiceRange,
    pub cluster_dns: Ipv4Addr,
    pub cluster_domain: String,
    pub resolv_conf: PathBuf,
}

/// What the kubelet needs beside.
pub struct Kubelet {
    /// As `system:node:<name>` in `system:nodes`.
    pub client: Client,
    pub port: u16,
    /// Where it keeps Pods' volumes, if not at the cluster's own place.
    pub root_dir: Option<PathBuf>,
    /// Certificate and key, PEM; none: one is made that it signs itself.
    pub serving: Option<pki::Leaf>,
    /// Whose client certificates are believed, PEM.
    pub client_ca: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<serde_json::Value>,
}

/// Starts what the settings of a server ask for.
///
/// # Errors
/// What keeps a part from starting.
pub async fn start(
    settings: &Settings,
    site: &Site,
    identities: &Identities,
    certificates: &Certificates,
    ca: &str,
) -> Result<(), Failure> {
    if settings.runs("controller-manager") {
        let of = identities.clone();
        start_controllers(site, Arc::new(move |name| of.controller(name)), ca);
    }
    if settings.runs("scheduler") {
        start_scheduler(site, identities.client("system:kube-scheduler", &[]));
    }
    let proxy = || identities.client("system:kube-proxy", &[]);
    if settings.runs("proxy") {
        start_proxy(site, proxy(), settings.runs("dns"))?;
    }
    if settings.runs("proxy") || settings.runs("kubelet") {
        start_routes(site, proxy())?;
    }
    if settings.runs("dns") {
        let admin = identities.client("system:admin", &["system:masters"]);
        dns::ensure_service(&admin, site.cluster_dns)
            .await
            .map_err(|e| Failure::new(format!("cannot create the kube-dns Service: {e}")))?;
        start_dns(site, proxy())?;
    }
    if settings.runs("kubelet") {
        let node_user = format!("system:node:{}", site.node_name);
        let kubelet = Kubelet {
            client: identities.client(&node_user, &["system:nodes"]),
            port: settings.kubelet_port,
            root_dir: None,
            serving: Some(certificates.kubelet.clone()),
            client_ca: ca.to_owned(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
        };
        start_kubelet(site, kubelet).await?;
    }
    Ok(())
}

/// Starts the controllers, each with the client that `clients` makes for its name.
pub fn start_controllers(
    site: &Site,
    clients: Arc<dyn Fn(&str) -> Client + Send + Sync>,
    root_ca: &str,
) {
    controllers::start(controllers::Options {
        world: site.world.clone(),
        shutdown: site.shutdown.clone(),
        clients,
        root_ca: root_ca.to_owned(),
        cluster_cidr: site.cluster_cidr,
    });
}

/// Starts the scheduler.
pub fn start_scheduler(site: &Site, client: Client) {
    scheduler::start(client, site.world.clone(), site.shutdown.clone());
}

/// Starts the Services' proxy. `dns_here`: this machine answers the cluster's DNS itself.
///
/// # Errors
/// When the kernel refuses.
pub fn start_proxy(site: &Site, client: Client, dns_here: bool) -> Result<(), Failure> {
    proxy::start(proxy::Options {
        world: site.world.clone(),
        shutdown: site.shutdown.clone(),
        client,
        node_name: site.node_name.clone(),
        node_ip: site.node_ip,
        cluster_cidr: site.cluster_cidr,
        service_cidr: (site.services.base, site.services.prefix),
        dns_ip: dns_here.then_some(site.cluster_dns),
        table: Directories::of(&site.data_dir).services_table,
    })
    .map_err(Failure::new)
}

/// Keeps routes to the Pods of the other nodes.
///
/// # Errors
/// When the kernel refuses.
pub fn start_routes(site: &Site, client: Client) -> Result<(), Failure> {
    // For `skiff uninstall`, which removes routes in this range only.
    let (base, prefix) = site.cluster_cidr;
    let file = cluster_cidr_file(&site.data_dir);
    pki::files::write_private(&file, &format!("{base}/{prefix}")).map_err(Failure::new)?;
    proxy::routes::start(proxy::routes::Options {
        world: site.world.clone(),
        shutdown: site.shutdown.clone(),
        client,
        node_name: site.node_name.clone(),
        cluster_cidr: site.cluster_cidr,
    })
    .map_err(Failure::new)
}

/// Where it is written which address the cluster's DNS has on this machine.
#[must_use]
pub fn dns_address_file(data_dir: &Path) -> PathBuf {
    data_dir.join("dns-address")
}

/// Where it is written which addresses Pods have, once there are routes to them.
#[must_use]
pub fn cluster_cidr_file(data_dir: &Path) -> PathBuf {
    data_dir.join("cluster-cidr")
}

/// Where it is written where the kubelet keeps Pods' volumes, if not at the cluster's own place.
#[must_use]
pub fn kubelet_root_file(data_dir: &Path) -> PathBuf {
    data_dir.join("kubelet-root")
}

/// Serves the cluster's DNS on its address, which this machine gets.
///
/// # Errors
/// When the address cannot be had or listened on.
pub fn start_dns(site: &Site, client: Client) -> Result<(), Failure> {
    let address = site.cluster_dns;
    // For `skiff uninstall`, which takes the address away again.
    pki::files::write_private(&dns_address_file(&site.data_dir), &address.to_string())
        .map_err(Failure::new)?;
    net::link::hold(address)
        .map_err(|e| Failure::new(format!("this node cannot have the address {address}: {e}")))?;
    dns::start(dns::Options {
        world: site.world.clone(),
        shutdown: site.shutdown.clone(),
        client,
        listen: vec![SocketAddr::new(address.into(), 53)],
        cluster_domain: site.cluster_domain.clone(),
        service_cidr: (site.services.base, site.services.prefix),
        resolv_conf: site.resolv_conf.clone(),
    })
    .map_err(|e| Failure::new(format!("the DNS server cannot start: {e}")))
}

/// Starts the Pod network, the container runtime with its administration socket, and the kubelet.
///
/// # Errors
/// What keeps one of them from starting.
pub async fn start_kubelet(site: &Site, kubelet: Kubelet) -> Result<(), Failure> {
    let dirs = Directories::of(&site.data_dir);
    let network = PodNetwork::open(net::pod::Options {
        state_dir: dirs.run.join("net"),
        cluster_cidr: Some(site.cluster_cidr),
        table: dirs.pods_table,
        link_prefix: dirs.link_prefix,
        world: site.world.clone(),
    })
    .map_err(|e| Failure::new(format!("the Pod network cannot start: {e}")))?;
    let shutdown = site.shutdown.clone();
    tokio::spawn(shutdown.clone().run_until_cancelled_owned(follow_pod_range(
        kubelet.client.clone(),
        site.node_name.clone(),
        network.clone(),
        shutdown,
    )));
    let runtime = runtime::Embedded::open(runtime::Options {
        root: site.data_dir.join("runtime"),
        state: dirs.run.join("runtime"),
        network: Arc::new(Network(network)),
        world: site.world.clone(),
        self_exe: "/proc/self/exe".into(),
        cgroup_root: String::new(),
        cgroup_driver: runtime::CgroupDriver::default(),
    })
    .await
    .map_err(|e| Failure::new(format!("the container runtime cannot start: {e}")))?;
    let runtime: Arc<dyn Runtime> = runtime;
    let socket = admin::socket_path(&site.data_dir);
    admin::serve(socket.clone(), runtime.clone(), site.shutdown.clone())
        .await
        .map_err(|e| Failure::new(format!("cannot serve {}: {e}", socket.display())))?;
    if let Some(root) = &kubelet.root_dir {
        let file = kubelet_root_file(&site.data_dir);
        pki::files::write_private(&file, &root.to_string_lossy()).map_err(Failure::new)?;
    }
    let root_dir = kubelet.root_dir.unwrap_or(dirs.kubelet);
    let serving = match kubelet.serving {
        Some(leaf) => leaf,
        None => self_signed(site, &root_dir)?,
    };
    kubelet::start(kubelet::Options {
        world: site.world.clone(),
        shutdown: site.shutdown.clone(),
        client: kubelet.client,
        runtime,
        node_name: site.node_name.clone(),
        node_ip: site.node_ip,
        labels: kubelet.labels,
        taints: kubelet.taints,
        port: kubelet.port,
        listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), kubelet.port),
        serving: (serving.cert_pem, serving.key_pem),
        client_ca: kubelet.client_ca,
        root_dir,
        log_dir: dirs.pod_logs,
        containers_log_dir: dirs.container_logs,
        cluster_dns: site.cluster_dns,
        cluster_domain: site.cluster_domain.clone(),
        cgroup_root: dirs.cgroup,
        resolv_conf: site.resolv_conf.clone(),
        api_server: (site.services.first().to_string(), 443),
    })
    .await
    .map_err(|e| Failure::new(format!("the kubelet cannot start: {e}")))
}

/// The serving certificate of a kubelet to which nobody gave one.
fn self_signed(site: &Site, root_dir: &Path) -> Result<pki::Leaf, Failure> {
    let request = pki::LeafRequest {
        common_name: site.node_name.clone(),
        organizations: Vec::new(),
        dns_names: vec![site.node_name.clone()],
        ips: vec![site.node_ip.into(), Ipv4Addr::LOCALHOST.into()],
        usage: pki::Usage::Server,
    };
    pki::files::self_signed(&root_dir.join("pki"), "kubelet", &request, site.world.now())
        .map_err(Failure::new)
}

/// What the network needs of a Node.
#[derive(serde::Deserialize)]
struct NodeRange {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: NodeRangeSpec,
}

#[derive(serde::Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct NodeRangeSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: String,
}

impl View for NodeRange {
    const RESOURCE: Resource = client::resource::kinds::NODES;
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

/// Tells the network which addresses this node's Pods get, as soon as the node has a range.
async fn follow_pod_range(
    client: Client,
    node: String,
    network: Arc<PodNetwork>,
    shutdown: Shutdown,
) {
    let fields = format!("metadata.name={node}");
    let informers = Informers::new(client, shutdown);
    let informer = informers.select::<NodeRange>(client::Selector {
        fields,
        ..Default::default()
    });
    informer.on_change(move |change| {
        let Some(range) = &change.new else { return };
        if range.spec.pod_cidr.is_empty() {
            return;
        }
        match crate::server::cidr(&range.spec.pod_cidr) {
            Ok(range) => network.set_pod_cidr(range),
            Err(error) => tracing::error!(%error, "the node's podCIDR cannot be used"),
        }
    });
    // The informer runs as long as this holds on to it.
    loop {
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
}
