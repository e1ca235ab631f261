//! The cluster's DNS, served by each node itself on the cluster IP of `kube-system/kube-dns`.
//!
//! Follows <https://github.com/kubernetes/dns/blob/master/docs/specification.md>. [`zone`] holds every name of the cluster
//! ready to answer; [`server`] speaks UDP and TCP; [`forward`] asks the node's own name servers about all other names.

pub mod forward;
pub mod server;
pub mod views;
pub mod zone;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use client::resource::kinds;
use client::{Client, Informers};
use net::Cidr;
use serde_json::{Value, json};
use world::{Shutdown, World};

use crate::forward::Forwarder;
use crate::views::{EndpointSliceView, ServiceView};
use crate::zone::Zone;

/// How the cluster's DNS is served.
#[derive(Clone)]
pub struct Options {
    pub world: World,
    pub shutdown: Shutdown,
    /// May list Services and EndpointSlices.
    pub client: Client,
    /// Usually the cluster DNS IP with port 53. Addresses of the Service range are put on the node's loopback.
    pub listen: Vec<SocketAddr>,
    /// Without dots at its ends, e.g. `cluster.local`.
    pub cluster_domain: String,
    /// All Services of the cluster: reverse look-ups in it are answered here only.
    pub service_cidr: Cidr,
    /// Names the servers for everything outside of the cluster, e.g. `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be given to this node.
    #[error("cannot serve DNS: {0}")]
    Net(#[from] net::Error),
    /// The address cannot be listened on.
    #[error("cannot serve DNS on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
}

/// Serves DNS until shutdown. Must be called inside a tokio runtime.
///
/// # Errors
/// When an address cannot be listened on.
pub fn start(options: Options) -> Result<(), Error> {
    let zone = Arc::new(RwLock::new(Zone::new(
        &options.cluster_domain,
        options.listen.first().map(|a| a.ip()),
        options.service_cidr,
    )));
    let forwarder = Arc::new(Forwarder::new(
        &options.world,
        options.resolv_conf.clone(),
        options.listen.clone(),
    ));
    for address in &options.listen {
        if let IpAddr::V4(ip) = address.ip()
            && net::contains(options.service_cidr, ip)
        {
            net::link::hold(ip)?;
        }
        server::listen(*address, &zone, &forwarder, &options)
            .map_err(|e| Error::Listen(*address, e))?;
    }
    let shutdown = options.shutdown.clone();
    tokio::spawn(shutdown.run_until_cancelled_owned(follow(options, zone)));
    Ok(())
}

/// Keeps the zone like Services and EndpointSlices. Each change rewrites one Service's names.
async fn follow(options: Options, zone: Arc<RwLock<Zone>>) {
    let informers = Informers::new(options.client.clone(), options.shutdown.clone());
    let services = informers.all::<ServiceView>();
    let slices = informers.all::<EndpointSliceView>();
    let sources = Arc::new(Mutex::new(zone::Sources::default()));
    let (all, into) = (sources.clone(), zone.clone());
    services.on_change(move |change| {
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut zone = into.write().unwrap_or_else(PoisonError::into_inner);
        all.service(&mut zone, &change.key, change.new.clone());
    });
    let (all, into) = (sources, zone.clone());
    slices.on_change(move |change| {
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut zone = into.write().unwrap_or_else(PoisonError::into_inner);
        all.slice(
            &mut zone,
            &change.key,
            change.old.as_deref(),
            change.new.clone(),
        );
    });
    services.synced().await;
    slices.synced().await;
    let mut zone = zone.write().unwrap_or_else(PoisonError::into_inner);
    zone.set_complete();
    tracing::info!(names = zone.len(), "the cluster's names are known");
}

/// The objects by which the cluster finds its DNS: the Service `kube-system/kube-dns`. It selects no Pods, since every
/// node answers its address itself.
#[must_use]
pub fn objects(dns_ip: Ipv4Addr) -> Vec<Value> {
    vec![json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kube-dns",
            "namespace": "kube-system",
            "labels": {
                "k8s-app": "kube-dns",
                "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "CoreDNS",
                // Proxies leave its address alone.
                "service.kubernetes.io/service-proxy-name": "skiff-dns",
            },
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": dns_ip,
            "clusterIPs": [dns_ip],
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
                {"name": "metrics", "port": 9153, "protocol": "TCP", "targetPort": 9153},
            ],
        },
    })]
}

/// Makes sure that the Service `kube-system/kube-dns` exists; one that exists stays as it is.
///
/// # Errors
/// What the API server answers, e.g. that the namespace does not exist yet.
pub async fn ensure_service(client: &Client, dns_ip: Ipv4Addr) -> Result<(), client::Error> {
    for object in objects(dns_ip) {
        let known: Result<Value, _> = client
            .get(&kinds::SERVICES, "kube-system", "kube-dns")
            .await;
        match known {
            Ok(_) => continue,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        let made: Result<Value, _> = client
            .create(&kinds::SERVICES, "kube-system", &object)
            .await;
        match made {
            Err(error) if !error.is_already_exists() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
