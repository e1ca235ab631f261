//! Upstream's controllers: what keeps the cluster as its objects say.
//!
//! Each controller is informers of views ([`views`]), a keyed queue, a pure `plan` and an executor that carries the plan
//! out with preconditions (law 6). Each acts under upstream's name, so that RBAC's bootstrap roles fit; the informers are
//! shared and read as the controller manager does.

mod awaited;
mod deployment;
mod disruption;
mod endpoints;
mod env;
mod garbage;
mod namespaces;
mod nodes;
mod owned;
mod pod_garbage;
mod protection;
mod published;
mod quotas;
mod replicas;
mod roles;
mod slices;
pub mod views;
mod write;

use std::net::Ipv4Addr;
use std::sync::Arc;

use client::{Client, Informers};
use world::{Shutdown, World};

use env::Env;

/// What the controllers are started with.
pub struct Options {
    pub world: World,
    pub shutdown: Shutdown,
    /// A client that acts as `system:serviceaccount:kube-system:<name>`, by controller name. The name
    /// `kube-controller-manager` stands for the user `system:kube-controller-manager`, who may list and watch everything.
    pub clients: Arc<dyn Fn(&str) -> Client + Send + Sync>,
    /// The authority that signs the API server's certificate, PEM; published to every namespace.
    pub root_ca: String,
    /// Nodes get their Pod networks out of this: address and prefix length.
    pub cluster_cidr: (Ipv4Addr, u8),
}

/// The identity under which all informers read.
pub const READER: &str = "kube-controller-manager";

/// Starts all controllers; they end with `options.shutdown`. Must be called inside a runtime.
pub fn start(options: Options) {
    let Options {
        world,
        shutdown,
        clients,
        root_ca,
        cluster_cidr,
    } = options;
    let informers = Informers::new(clients(READER), shutdown.clone());
    let env = |name: &str| Env::new(name, clients(name), &informers, &world, &shutdown);
    replicas::start::<views::ReplicaSetView>(env("replicaset-controller"));
    replicas::start::<views::ReplicationControllerView>(env("replication-controller"));
    deployment::start(env("deployment-controller"));
    endpoints::start(env("endpoint-controller"));
    slices::start(env("endpointslice-controller"));
    namespaces::start(env("namespace-controller"));
    published::start_accounts(env("service-account-controller"));
    published::start_root_ca(env("root-ca-cert-publisher"), root_ca);
    garbage::start(env("generic-garbage-collector"), clients(READER));
    pod_garbage::start(env("pod-garbage-collector"));
    nodes::start(env("node-controller"), cluster_cidr);
    roles::start(env("clusterrole-aggregation-controller"));
    quotas::start(env("resourcequota-controller"));
    disruption::start(env("disruption-controller"));
    protection::start_claims(env("pvc-protection-controller"));
    protection::start_volumes(env("pv-protection-controller"));
}
