//! Services on this node: what is sent to a Service's address goes to one of its endpoints.
//!
//! Follows <https://kubernetes.io/docs/reference/networking/virtual-ips/>. [`state::desired`] says, from Services and
//! EndpointSlices alone, which elements the sets and maps of nf_tables must have; [`rules`] holds the few rules over them
//! and turns a difference into one transaction. There is no chain per Service: at 10,000 Services a change costs what its
//! own elements cost. [`routes`] leads to the endpoints that are on other nodes.

pub mod routes;
pub mod rules;
pub mod state;
pub mod views;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use client::{Client, Informers};
use net::{Cidr, namespace};
use tokio::sync::Notify;
use world::{Backoff, Shutdown, World};

use crate::rules::Table;
use crate::state::{Contribution, Node, ServiceKey};
use crate::views::{EndpointSliceView, ServiceView};

/// What the proxy of a node needs to know.
#[derive(Clone)]
pub struct Options {
    pub world: World,
    pub shutdown: Shutdown,
    /// As `system:kube-proxy`.
    pub client: Client,
    pub node_name: String,
    pub node_ip: Ipv4Addr,
    /// All Pods of the cluster.
    pub cluster_cidr: Cidr,
    /// All Services of the cluster.
    pub service_cidr: Cidr,
    /// An address that this node answers itself: Services with it are left alone.
    pub dns_ip: Option<Ipv4Addr>,
    /// The cluster's table of nf_tables, family `ip`.
    pub table: String,
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error("Services cannot be served: {0}")]
    Net(#[from] net::Error),
}

/// The shortest time between two transactions: what changes meanwhile goes into the next.
const PACE: Duration = Duration::from_millis(5);

/// Follows Services and EndpointSlices and keeps the rules of the calling thread's network namespace like them until
/// shutdown. The rules stay then: Services go on without us. Must be called inside a tokio runtime.
///
/// # Errors
/// When the kernel has no nf_tables or refuses the settings; later errors are logged and tried again.
pub fn start(options: Options) -> Result<(), Error> {
    net::nft::available()?;
    net::sysctl::set("ipv4/ip_forward", "1")?;
    // Node ports answer on 127.0.0.1 too; the rules keep others from reaching the loopback.
    net::sysctl::set("ipv4/conf/all/route_localnet", "1")?;
    let shutdown = options.shutdown.clone();
    tokio::spawn(shutdown.run_until_cancelled_owned(run(options)));
    Ok(())
}

/// Which Services have changed since the rules were last written.
#[derive(Default)]
struct Dirty {
    keys: Mutex<std::collections::BTreeSet<ServiceKey>>,
    notify: Notify,
}

impl Dirty {
    fn mark(&self, key: ServiceKey) {
        self.keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key);
        self.notify.notify_one();
    }

    fn take(&self) -> std::collections::BTreeSet<ServiceKey> {
        std::mem::take(&mut *self.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The slices of each Service, kept by the informer's handler.
type SlicesOf = Arc<Mutex<BTreeMap<ServiceKey, BTreeMap<Arc<str>, Arc<EndpointSliceView>>>>>;

async fn run(options: Options) {
    let informers = Informers::new(options.client.clone(), options.shutdown.clone());
    let services = informers.all::<ServiceView>();
    let slices = informers.all::<EndpointSliceView>();
    let (dirty, slices_of) = (Arc::new(Dirty::default()), SlicesOf::default());

    let marks = dirty.clone();
    services.on_change(move |change| marks.mark(change.key.as_ref().into()));
    let (marks, by_service) = (dirty.clone(), slices_of.clone());
    slices.on_change(move |change| {
        let mut by_service = by_service.lock().unwrap_or_else(PoisonError::into_inner);
        let old = change.old.as_deref().and_then(EndpointSliceView::service);
        let new = change.new.as_deref().and_then(EndpointSliceView::service);
        if let Some(service) = &old
            && old != new
            && let Some(slices) = by_service.get_mut(service)
        {
            slices.remove(&change.key);
            if slices.is_empty() {
                by_service.remove(service);
            }
        }
        if let (Some(service), Some(slice)) = (&new, &change.new) {
            by_service
                .entry(service.clone())
                .or_default()
                .insert(change.key.clone(), slice.clone());
        }
        drop(by_service);
        for service in old.into_iter().chain(new) {
            marks.mark(service);
        }
    });
    services.synced().await;
    slices.synced().await;

    let sync_total = options.world.metrics.counter(
        "skiff_proxy_transactions_total",
        "Transactions of nf_tables that changed Services' rules.",
        "",
    );
    let failed_total = options.world.metrics.counter(
        "skiff_proxy_failed_transactions_total",
        "Transactions of nf_tables that the kernel refused.",
        "",
    );
    let empty = || Table::new(&options.table, options.cluster_cidr, options.service_cidr);
    let mut table = Some(empty());
    let node = Node {
        name: options.node_name.clone(),
        dns_ip: options.dns_ip,
    };
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(30));
    loop {
        let changed = dirty.take();
        let mut contributions: Vec<(ServiceKey, Contribution)> = Vec::new();
        for key in changed {
            let contribution = services.get(&key).map_or_else(Contribution::default, |s| {
                let slices = slices_of.lock().unwrap_or_else(PoisonError::into_inner);
                let slices = slices.get(&key).into_iter().flat_map(BTreeMap::values);
                state::desired(&s, slices.map(AsRef::as_ref), &node)
            });
            contributions.push((key, contribution));
        }
        // The kernel works in the calling thread: keep that off the runtime's.
        let mut work = table.take().unwrap_or_else(empty);
        let (returned, result) = match namespace::on_own_thread("proxy-rules", move || {
            let result = work.apply(contributions);
            Ok((work, result))
        })
        .await
        {
            Ok((work, result)) => (Some(work), result),
            Err(error) => (None, Err(error)),
        };
        let lost = returned.is_none();
        table = returned;
        if lost {
            // Nothing is known any more: everything is written anew.
            for service in services.list() {
                dirty.mark(service.key());
            }
        }
        match result {
            Ok(wrote) => {
                backoff.reset();
                if wrote {
                    sync_total.inc();
                }
            }
            Err(error) => {
                failed_total.inc();
                tracing::error!(%error, "Services' rules were not changed; writing them anew");
                tokio::time::sleep(backoff.next_delay()).await;
                continue;
            }
        }
        tokio::time::sleep(PACE).await;
        dirty.notify.notified().await;
    }
}
