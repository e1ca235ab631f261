//! `skiff server`: the control plane and a node in one process.
//!
//! Components share the API server's handler and nothing else (law 1); each calls it as the user it would be over the
//! network.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use apiserver::ApiServer;
use apiserver::allocate::ServiceRange;
use apiserver::encryption::SecretBox;
use apiserver::registry::MetaIndexer;
use clap::Args;
use client::{Client, LocalTransport};
use pki::Pki;
use skiff_http::Handler;
use store::Store;
use tokio::time::Instant;
use world::{Shutdown, World};

use crate::parts::Site;
use crate::{Common, Failure, config, logging, parts, traces};

/// The flags of `skiff server`; the configuration file has the same names.
#[derive(Args, Clone, Debug, Default)]
pub struct Flags {
    /// embedded or memory
    #[arg(long)]
    datastore: Option<String>,
    /// Parts that are not run, with commas: kubelet,proxy,dns,scheduler,controller-manager
    #[arg(long)]
    disable: Option<String>,
    /// Port of the API [default: 6443]
    #[arg(long)]
    secure_port: Option<u16>,
    /// Address to listen on [default: 0.0.0.0]
    #[arg(long)]
    bind_address: Option<IpAddr>,
    /// Address at which Pods and other machines reach this one [default: that of the default route]
    #[arg(long)]
    advertise_address: Option<IpAddr>,
    /// Name of this node [default: the host name]
    #[arg(long)]
    node_name: Option<String>,
    /// Addresses of Pods [default: 10.42.0.0/16]
    #[arg(long)]
    cluster_cidr: Option<String>,
    /// Addresses of Services [default: 10.43.0.0/16]
    #[arg(long)]
    service_cidr: Option<String>,
    /// Address of the cluster's DNS [default: the tenth of the Services' addresses]
    #[arg(long)]
    cluster_dns: Option<Ipv4Addr>,
    /// Port of the kubelet [default: 10250]
    #[arg(long)]
    kubelet_port: Option<u16>,
    /// Whose serving certificates kubelets must show [default: any certificate will do]
    #[arg(long)]
    kubelet_certificate_authority: Option<PathBuf>,
    /// Log JSON
    #[arg(long)]
    log_json: Option<bool>,
    /// Where traces of the API server's requests go: a TracingConfiguration
    #[arg(long)]
    tracing_config_file: Option<PathBuf>,
}

/// What the flags and the configuration file say together.
pub struct Settings {
    pub data_dir: PathBuf,
    memory: bool,
    disabled: BTreeSet<String>,
    bind: SocketAddr,
    pub advertise: Ipv4Addr,
    pub node_name: String,
    pub cluster_cidr: (Ipv4Addr, u8),
    pub services: ServiceRange,
    pub cluster_dns: Ipv4Addr,
    pub kubelet_port: u16,
    kubelet_ca: Option<PathBuf>,
    log_json: bool,
    tracing: Option<traces::Configuration>,
}

const PARTS: [&str; 5] = ["kubelet", "proxy", "dns", "scheduler", "controller-manager"];

/// Reads `10.42.0.0/16`.
///
/// # Errors
/// When it is no range.
pub fn cidr(text: &str) -> Result<(Ipv4Addr, u8), Failure> {
    let bad = || Failure::usage(format!("{text} is not an IPv4 range such as 10.42.0.0/16"));
    let (base, prefix) = text.split_once('/').ok_or_else(bad)?;
    let (base, prefix): (Ipv4Addr, u8) = (
        base.parse().map_err(|_| bad())?,
        prefix.parse().map_err(|_| bad())?,
    );
    if !(8..=28).contains(&prefix) {
        return Err(bad());
    }
    Ok((base, prefix))
}

/// The address that packets to the default route would leave from; no packet is sent.
pub fn default_address() -> Option<Ipv4Addr> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(ip) if !ip.is_unspecified() => Some(ip),
        _ => None,
    }
}

/// The machine's name, as upstream's kubelet takes it.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim().to_ascii_lowercase();
    if name.is_empty() {
        "localhost".into()
    } else {
        name
    }
}

impl Settings {
    fn read(common: &Common, flags: Flags) -> Result<Self, Failure> {
        let mut file = config::settings(common)?;
        let mut take = |name: &str| -> Option<String> {
            file.remove(name)
                .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
        };
        fn parse<T: std::str::FromStr>(
            name: &str,
            text: Option<String>,
        ) -> Result<Option<T>, Failure> {
            text.map(|t| {
                t.parse()
                    .map_err(|_| Failure::usage(format!("{name}: {t} is not valid")))
            })
            .transpose()
        }
        let datastore = flags
            .datastore
            .or(take("datastore"))
            .unwrap_or_else(|| "embedded".into());
        let memory = match datastore.as_str() {
            "embedded" => false,
            "memory" => true,
            other if other.starts_with("etcd://") => {
                return Err(Failure::usage("etcd as the data store is not there yet")
                    .hint("use --datastore embedded"));
            }
            other => {
                return Err(Failure::usage(format!(
                    "--datastore {other}: it is embedded or memory"
                )));
            }
        };
        let disabled: BTreeSet<String> = flags
            .disable
            .or(take("disable"))
            .unwrap_or_default()
            .split(',')
            .filter(|p| !p.is_empty())
            .map(str::to_owned)
            .collect();
        if let Some(unknown) = disabled.iter().find(|p| !PARTS.contains(&p.as_str())) {
            return Err(Failure::usage(format!(
                "--disable {unknown}: there is no such part; there are {}",
                PARTS.join(", ")
            )));
        }
        let port = flags
            .secure_port
            .or(parse("secure-port", take("secure-port"))?)
            .unwrap_or(6443);
        let bind_ip = flags
            .bind_address
            .or(parse("bind-address", take("bind-address"))?);
        let advertise = flags
            .advertise_address
            .or(parse("advertise-address", take("advertise-address"))?);
        let advertise = match advertise {
            Some(IpAddr::V4(ip)) => ip,
            Some(IpAddr::V6(ip)) => {
                return Err(Failure::usage(format!(
                    "--advertise-address {ip}: it must be IPv4"
                )));
            }
            None => default_address().unwrap_or(Ipv4Addr::LOCALHOST),
        };
        let services = flags
            .service_cidr
            .or(take("service-cidr"))
            .unwrap_or_else(|| "10.43.0.0/16".into());
        let (base, prefix) = cidr(&services)?;
        let cluster = flags
            .cluster_cidr
            .or(take("cluster-cidr"))
            .unwrap_or_else(|| "10.42.0.0/16".into());
        let dns = flags
            .cluster_dns
            .or(parse("cluster-dns", take("cluster-dns"))?);
        let settings = Self {
            data_dir: std::path::absolute(&common.data_dir).map_err(Failure::new)?,
            memory,
            disabled,
            bind: SocketAddr::new(bind_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), port),
            advertise,
            node_name: flags
                .node_name
                .or(take("node-name"))
                .unwrap_or_else(host_name),
            cluster_cidr: cidr(&cluster)?,
            services: ServiceRange { base, prefix },
            cluster_dns: dns.unwrap_or_else(|| Ipv4Addr::from(u32::from(base) + 10)),
            kubelet_port: flags
                .kubelet_port
                .or(parse("kubelet-port", take("kubelet-port"))?)
                .unwrap_or(10_250),
            kubelet_ca: flags.kubelet_certificate_authority.or(parse(
                "kubelet-certificate-authority",
                take("kubelet-certificate-authority"),
            )?),
            log_json: flags
                .log_json
                .or(parse("log-json", take("log-json"))?)
                .unwrap_or(false),
            tracing: flags
                .tracing_config_file
                .or(take("tracing-config-file").map(PathBuf::from))
                .map(|path| traces::Configuration::read(&path))
                .transpose()?,
        };
        for known in ["data-dir", "config"] {
            take(known);
        }
        match file.keys().next() {
            Some(unknown) => Err(Failure::usage(format!(
                "the configuration file has {unknown}, which is no setting"
            ))),
            None => Ok(settings),
        }
    }

    /// What the parts of this server need to know.
    fn site(&self, world: &World, shutdown: &Shutdown) -> Site {
        Site {
            world: world.clone(),
            shutdown: shutdown.clone(),
            data_dir: self.data_dir.clone(),
            node_name: self.node_name.clone(),
            node_ip: self.advertise,
            cluster_cidr: self.cluster_cidr,
            services: self.services,
            cluster_dns: self.cluster_dns,
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/etc/resolv.conf".into(),
        }
    }

    /// Whether a part is to run.
    pub fn runs(&self, part: &str) -> bool {
        !self.disabled.contains(part)
    }
}

/// Runs a server until it is told to stop.
///
/// # Errors
/// What keeps it from starting, and what to do about it.
pub fn run(common: &Common, flags: Flags) -> Result<(), Failure> {
    let settings = Settings::read(common, flags)?;
    run_to_the_end(async {
        let provider = settings
            .tracing
            .as_ref()
            .map(traces::provider)
            .transpose()?;
        logging::start(settings.log_json, provider.as_ref());
        let _running = parts::Running::claim(&settings.data_dir, "server")?;
        let ended = serve(settings).await;
        if let Some(provider) = provider {
            traces::finish(provider).await;
        }
        ended
    })
}

/// Runs what stays in the foreground.
///
/// # Errors
/// What it ends with.
pub fn run_to_the_end(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let threads = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(2, 8);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(32)
        .thread_keep_alive(Duration::from_secs(5))
        .enable_all()
        .build()
        .map_err(Failure::new)?;
    let ended = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_secs(2));
    ended
}

/// A user of the cluster inside this process.
#[derive(Clone)]
pub struct Identities(Arc<dyn Handler>);

impl Identities {
    /// A client that is `user` in `groups`.
    pub fn client(&self, user: &str, groups: &[&str]) -> Client {
        Client::new(LocalTransport::new(self.0.clone(), user, groups))
    }

    /// A controller, as upstream with one ServiceAccount each.
    pub fn controller(&self, name: &str) -> Client {
        if name == controllers::READER {
            return self.client("system:kube-controller-manager", &[]);
        }
        let user = format!("system:serviceaccount:kube-system:{name}");
        self.client(
            &user,
            &[
                "system:serviceaccounts",
                "system:serviceaccounts:kube-system",
            ],
        )
    }
}

async fn serve(settings: Settings) -> Result<(), Failure> {
    let started = Instant::now();
    let world = World::real();
    let shutdown = Shutdown::new();
    stop_on_signal(shutdown.clone())?;
    if settings.runs("kubelet") {
        crate::check::demand_node()?;
    }
    let listener = skiff_http::Server::bind(settings.bind)
        .await
        .map_err(|e| port_in_use(settings.bind.port(), &e))?;
    let pki = Pki::open(&settings.data_dir.join("pki"), world.now()).map_err(Failure::new)?;
    let store = open_store(&settings, &pki, &world)?;
    let certificates = Certificates::issue(&settings, &pki, &world)?;
    let tokens = Arc::new(pki.service_accounts);
    let api = ApiServer::start(apiserver::Options {
        world: world.clone(),
        store: store.clone(),
        tokens,
        client_ca: pki.ca.cert_pem.clone(),
        kubelet_tls: certificates.to_kubelets.clone(),
        services: settings.services,
        advertise: SocketAddr::new(settings.advertise.into(), settings.bind.port()),
        shutdown: shutdown.clone(),
        tracing: settings.tracing.as_ref().map(|_| traces::join as _),
    })
    .await
    .map_err(|e| Failure::new(format!("the API server cannot start: {e}")))?;
    let identities = Identities(api.clone());
    let tls = skiff_http::tls::server_config(certificates.serving.clone(), &pki.ca.cert_pem)
        .map_err(Failure::new)?;
    let serving = tokio::spawn(listener.serve(tls, api.clone(), shutdown.clone()));
    tracing::info!(address = %settings.bind, elapsed = ?started.elapsed(), "the API server answers");
    pki::files::write_private(
        &config::kubeconfig_path(&settings.data_dir),
        &certificates.admin_kubeconfig,
    )
    .map_err(Failure::new)?;

    let site = settings.site(&world, &shutdown);
    parts::start(
        &settings,
        &site,
        &identities,
        &certificates,
        &pki.ca.cert_pem,
    )
    .await?;
    tokio::spawn(shutdown.clone().run_until_cancelled_owned(announce(
        identities.client("system:admin", &["system:masters"]),
        settings.node_name.clone(),
        settings.runs("kubelet"),
        config::kubeconfig_path(&settings.data_dir),
        started,
    )));

    shutdown.cancelled().await;
    tracing::info!("stopping; containers go on");
    if tokio::time::timeout(Duration::from_secs(10), serving)
        .await
        .is_err()
    {
        tracing::warn!("connections were cut");
    }
    store
        .close()
        .await
        .map_err(|e| Failure::new(format!("the data store did not close cleanly: {e}")))
}

/// Cancels `shutdown` at TERM and INT.
///
/// # Errors
/// When signals cannot be had.
pub fn stop_on_signal(shutdown: Shutdown) -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).map_err(Failure::new)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::new)?;
    tokio::spawn(async move {
        tokio::select! {
            biased;
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.cancel();
    });
    Ok(())
}

/// Says who has a port, as far as /proc tells.
fn port_in_use(port: u16, error: &skiff_http::Error) -> Failure {
    let skiff_http::Error::Listen { cause, .. } = error else {
        return Failure::new(error);
    };
    if cause.kind() != std::io::ErrorKind::AddrInUse {
        return Failure::new(error);
    }
    let holder = crate::check::holder_of_port(port)
        .map(|h| format!(" by process {h}"))
        .unwrap_or_default();
    Failure::new(format!("port {port} is in use{holder}")).hint(format!(
        "stop it, or choose another port: skiff server --secure-port {}",
        port.wrapping_add(1000)
    ))
}

fn open_store(settings: &Settings, pki: &Pki, world: &World) -> Result<Arc<dyn Store>, Failure> {
    let indexer = Arc::new(MetaIndexer);
    if settings.memory {
        return Ok(Arc::new(store::Memory::new(indexer, world.clock.clone())));
    }
    let dir = settings.data_dir.join("store");
    let seal = Arc::new(SecretBox::new(&pki.encryption_key));
    let options = store::Options::new(indexer, seal, world.clock.clone());
    let disk = Arc::new(world::disk::RealDisk);
    let opened = store::Embedded::open(disk, &dir, options, &world.metrics);
    opened
        .map(|s| Arc::new(s) as Arc<dyn Store>)
        .map_err(|e| match e {
            store::Error::Damaged(why) => Failure::new(format!("the data store is damaged: {why}")),
            other => Failure::new(format!(
                "cannot open the data store in {}: {other}",
                dir.display()
            )),
        })
}

/// The certificates of a server, issued or renewed at start.
pub struct Certificates {
    pub serving: Arc<skiff_http::tls::ServingCertificate>,
    pub to_kubelets: Arc<rustls::ClientConfig>,
    pub kubelet: pki::Leaf,
    pub admin_kubeconfig: String,
}

impl Certificates {
    fn issue(settings: &Settings, pki: &Pki, world: &World) -> Result<Self, Failure> {
        let now = world.now();
        let names = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
            &settings.node_name,
        ];
        let ips = vec![
            IpAddr::V4(settings.services.first()),
            settings.advertise.into(),
            Ipv4Addr::LOCALHOST.into(),
            std::net::Ipv6Addr::LOCALHOST.into(),
        ];
        let names = names.iter().map(|n| (*n).to_owned()).collect();
        let serving = pki
            .server("apiserver", "kube-apiserver", &[], names, ips, now)
            .map_err(Failure::new)?;
        let client = pki.client(
            "apiserver-kubelet-client",
            "kube-apiserver-kubelet-client",
            &["system:masters"],
            now,
        );
        let client = client.map_err(Failure::new)?;
        let node = format!("system:node:{}", settings.node_name);
        let addresses = vec![settings.advertise.into(), Ipv4Addr::LOCALHOST.into()];
        let kubelet = pki.server(
            "kubelet",
            &node,
            &["system:nodes"],
            vec![settings.node_name.clone()],
            addresses,
            now,
        );
        let admin = pki
            .client("admin", "system:admin", &["system:masters"], now)
            .map_err(Failure::new)?;
        let url = format!("https://127.0.0.1:{}", settings.bind.port());
        Ok(Self {
            serving: skiff_http::tls::ServingCertificate::new(&serving.cert_pem, &serving.key_pem)
                .map_err(Failure::new)?,
            to_kubelets: to_kubelets(settings.kubelet_ca.as_deref(), &client)?,
            kubelet: kubelet.map_err(Failure::new)?,
            admin_kubeconfig: pki::kubeconfig::with_certificate(
                "skiff",
                &url,
                &pki.ca.cert_pem,
                "admin",
                &admin,
            ),
        })
    }
}

/// How kubelets are called. Without an authority to hold them to, any serving certificate is taken, as upstream does:
/// kubelets on other machines sign theirs themselves.
fn to_kubelets(
    ca: Option<&Path>,
    client: &pki::Leaf,
) -> Result<Arc<rustls::ClientConfig>, Failure> {
    let identity = (client.cert_pem.as_str(), client.key_pem.as_str());
    let Some(path) = ca else {
        return skiff_http::tls::unverified_client_config(Some(identity), true)
            .map_err(Failure::new);
    };
    let ca = std::fs::read_to_string(path)
        .map_err(|e| Failure::usage(format!("cannot read {}: {e}", path.display())))?;
    skiff_http::tls::client_config(&ca, Some(identity), true)
        .map_err(|e| Failure::usage(format!("{}: {e}", path.display())))
}

/// Says when the node is ready and where the kubeconfig is.
async fn announce(
    client: Client,
    node: String,
    has_node: bool,
    kubeconfig: PathBuf,
    started: Instant,
) {
    if has_node {
        announce_node(&client, &node, started).await;
    }
    tracing::info!("use it: export KUBECONFIG={}", kubeconfig.display());
}

/// Waits until the node is ready, and says so.
pub async fn announce_node(client: &Client, node: &str, started: Instant) {
    let nodes = client::resource::kinds::NODES;
    loop {
        let ready = match client.get::<serde_json::Value>(&nodes, "", node).await {
            Ok(object) => object["status"]["conditions"].as_array().is_some_and(|c| {
                c.iter()
                    .any(|c| c["type"] == "Ready" && c["status"] == "True")
            }),
            Err(_) => false,
        };
        if ready {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tracing::info!(node, elapsed = ?started.elapsed(), "the node is Ready");
}
