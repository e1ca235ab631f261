//! The parts beside the API server, each started with the identity it would have over the network.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Client, Informers, ObjectMeta, Resource, View};
use net::pod::PodNetwork;
use runtime::{NetworkStatus, Runtime, SandboxConfig, SandboxId, SandboxNetwork};
use world::{Shutdown, World};

use crate::server::{Certificates, Identities, Settings};
use crate::{Failure, admin};

/// Directories of one cluster on this machine. The default cluster uses upstream's; a second one keeps to itself.
pub struct Directories {
    pub run: PathBuf,
    pub kubelet: PathBuf,
    pub pod_logs: PathBuf,
    pub container_logs: PathBuf,
    pub cgroup: String,
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
            is_default: false,
        }
    }
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

/// Starts what the settings ask for.
///
/// # Errors
/// What keeps a part from starting.
pub async fn start(
    settings: &Settings,
    identities: &Identities,
    certificates: &Certificates,
    ca: &str,
    world: &World,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    if settings.runs("controller-manager") {
        let of = identities.clone();
        controllers::start(controllers::Options {
            world: world.clone(),
            shutdown: shutdown.clone(),
            clients: Arc::new(move |name| of.controller(name)),
            root_ca: ca.to_owned(),
            cluster_cidr: settings.cluster_cidr,
        });
    }
    if settings.runs("scheduler") {
        let client = identities.client("system:kube-scheduler", &[]);
        scheduler::start(client, world.clone(), shutdown.clone());
    }
    if settings.runs("proxy") {
        proxy::start(proxy::Options {
            world: world.clone(),
            shutdown: shutdown.clone(),
            client: identities.client("system:kube-proxy", &[]),
            node_name: settings.node_name.clone(),
            node_ip: settings.advertise,
            cluster_cidr: settings.cluster_cidr,
            service_cidr: (settings.services.base, settings.services.prefix),
            dns_ip: settings.runs("dns").then_some(settings.cluster_dns),
        })
        .map_err(Failure::new)?;
    }
    if settings.runs("dns") {
        start_dns(settings, identities, world, shutdown).await?;
    }
    if settings.runs("kubelet") {
        start_node(settings, identities, certificates, ca, world, shutdown).await?;
    }
    Ok(())
}

/// Where it is written which address the cluster's DNS has on this machine.
#[must_use]
pub fn dns_address_file(data_dir: &Path) -> PathBuf {
    data_dir.join("dns-address")
}

async fn start_dns(
    settings: &Settings,
    identities: &Identities,
    world: &World,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    let admin = identities.client("system:admin", &["system:masters"]);
    let address = settings.cluster_dns;
    dns::ensure_service(&admin, address)
        .await
        .map_err(|e| Failure::new(format!("cannot create the kube-dns Service: {e}")))?;
    // For `skiff uninstall`, which takes the address away again.
    pki::files::write_private(&dns_address_file(&settings.data_dir), &address.to_string())
        .map_err(Failure::new)?;
    net::link::hold(address)
        .map_err(|e| Failure::new(format!("this node cannot have the address {address}: {e}")))?;
    dns::start(dns::Options {
        world: world.clone(),
        shutdown: shutdown.clone(),
        client: identities.client("system:kube-proxy", &[]),
        listen: vec![SocketAddr::new(address.into(), 53)],
        cluster_domain: "cluster.local".into(),
        service_cidr: (settings.services.base, settings.services.prefix),
        resolv_conf: "/etc/resolv.conf".into(),
    })
    .map_err(|e| Failure::new(format!("the DNS server cannot start: {e}")))
}

async fn start_node(
    settings: &Settings,
    identities: &Identities,
    certificates: &Certificates,
    ca: &str,
    world: &World,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    let dirs = Directories::of(&settings.data_dir);
    let network = PodNetwork::open(net::pod::Options {
        state_dir: dirs.run.join("net"),
        cluster_cidr: Some(settings.cluster_cidr),
        world: world.clone(),
    })
    .map_err(|e| Failure::new(format!("the Pod network cannot start: {e}")))?;
    let node_user = format!("system:node:{}", settings.node_name);
    let client = identities.client(&node_user, &["system:nodes"]);
    tokio::spawn(shutdown.clone().run_until_cancelled_owned(follow_pod_range(
        client.clone(),
        settings.node_name.clone(),
        network.clone(),
        shutdown.clone(),
    )));
    let runtime = runtime::Embedded::open(runtime::Options {
        root: settings.data_dir.join("runtime"),
        state: dirs.run.join("runtime"),
        network: Arc::new(Network(network)),
        world: world.clone(),
        self_exe: "/proc/self/exe".into(),
        cgroup_root: String::new(),
        cgroup_driver: runtime::CgroupDriver::default(),
    })
    .await
    .map_err(|e| Failure::new(format!("the container runtime cannot start: {e}")))?;
    let runtime: Arc<dyn Runtime> = runtime;
    let socket = admin::socket_path(&settings.data_dir);
    admin::serve(socket.clone(), runtime.clone(), shutdown.clone())
        .await
        .map_err(|e| Failure::new(format!("cannot serve {}: {e}", socket.display())))?;
    kubelet::start(kubelet::Options {
        world: world.clone(),
        shutdown: shutdown.clone(),
        client,
        runtime,
        node_name: settings.node_name.clone(),
        node_ip: settings.advertise,
        port: settings.kubelet_port,
        listen: SocketAddr::new(
            IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            settings.kubelet_port,
        ),
        serving: (
            certificates.kubelet.cert_pem.clone(),
            certificates.kubelet.key_pem.clone(),
        ),
        client_ca: ca.to_owned(),
        root_dir: dirs.kubelet,
        log_dir: dirs.pod_logs,
        containers_log_dir: dirs.container_logs,
        cluster_dns: settings.cluster_dns,
        cluster_domain: "cluster.local".into(),
        cgroup_root: dirs.cgroup,
        resolv_conf: "/etc/resolv.conf".into(),
        api_server: (settings.services.first().to_string(), 443),
    })
    .await
    .map_err(|e| Failure::new(format!("the kubelet cannot start: {e}")))
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
