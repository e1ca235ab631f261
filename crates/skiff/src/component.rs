//! One component in a process of its own, for an API server elsewhere: `skiff kubelet`, `proxy`, `dns`, `scheduler`,
//! `controller-manager`. The flags are upstream's where upstream has such a flag; what upstream's components learn from a
//! network plug-in (all Pods', all Services' addresses) is a flag here. Each starts the same part as a server does.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use apiserver::allocate::ServiceRange;
use clap::Args;
use client::{Client, HttpsConfig, HttpsTransport};
use reconcile::election;
use serde_json::{Value, json};
use tokio::time::Instant;
use world::{Shutdown, World};

use crate::parts::{self, COMMANDS, Running, Site};
use crate::server::{announce_node, cidr, default_address, host_name};
use crate::{Common, Failure, config, logging, server};

/// How a component reaches the API server.
#[derive(Args, Clone, Debug)]
pub struct Connection {
    /// The API server and the credentials for it
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Log JSON
    #[arg(long)]
    log_json: bool,
}

/// What the parts of one node agree on.
#[derive(Args, Clone, Debug)]
pub struct NodeFlags {
    /// Name of this node [default: the host name]
    #[arg(long)]
    hostname_override: Option<String>,
    /// Address at which Pods and other machines reach this one [default: that of the default route]
    #[arg(long)]
    node_ip: Option<Ipv4Addr>,
    /// Addresses of Pods
    #[arg(long, default_value = "10.42.0.0/16")]
    cluster_cidr: String,
    /// Addresses of Services
    #[arg(long, default_value = "10.43.0.0/16")]
    service_cidr: String,
}

/// What Pods are told of the cluster's DNS.
#[derive(Args, Clone, Debug)]
pub struct NamesFlags {
    /// Address of the cluster's DNS [default: the tenth of the Services' addresses]
    #[arg(long)]
    cluster_dns: Option<Ipv4Addr>,
    /// What the cluster's names end with
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// Names the servers for names outside of the cluster
    #[arg(long, default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
}

/// The flags of `skiff kubelet`.
#[derive(Args, Clone, Debug)]
pub struct KubeletFlags {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    node: NodeFlags,
    #[command(flatten)]
    names: NamesFlags,
    /// Where Pods' volumes are kept [default: /var/lib/kubelet; below --data-dir if that is not the default]
    #[arg(long)]
    root_dir: Option<PathBuf>,
    /// Port to serve on
    #[arg(long, default_value_t = 10_250)]
    port: u16,
    /// Serving certificate [default: a self-signed one below --root-dir]
    #[arg(long, requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// Key of the serving certificate
    #[arg(long, requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// Whose client certificates are believed [default: the kubeconfig's authority]
    #[arg(long)]
    client_ca_file: Option<PathBuf>,
    /// Labels for the Node: key=value, with commas
    #[arg(long, value_delimiter = ',')]
    node_labels: Vec<String>,
    /// Taints to register the Node with: key=value:effect, with commas
    #[arg(long, value_delimiter = ',')]
    register_with_taints: Vec<String>,
}

/// The flags of `skiff proxy`.
#[derive(Args, Clone, Debug)]
pub struct ProxyFlags {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    node: NodeFlags,
}

/// The flags of `skiff dns`.
#[derive(Args, Clone, Debug)]
pub struct DnsFlags {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    names: NamesFlags,
    /// Addresses of Services
    #[arg(long, default_value = "10.43.0.0/16")]
    service_cidr: String,
}

/// Who of several acts.
#[derive(Args, Clone, Debug)]
pub struct Election {
    /// Act only while holding the component's Lease in kube-system; others wait for it
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    leader_elect: bool,
}

impl Election {
    /// Calls `start` when this process may act, and waits until it is told to stop. Without election that is at once.
    async fn lead(
        &self,
        client: &Client,
        site: &Site,
        name: &str,
        start: impl FnOnce(&Site),
    ) -> Result<(), Failure> {
        if !self.leader_elect {
            start(site);
            site.shutdown.cancelled().await;
            return Ok(());
        }
        let identity = format!("{}_{}", host_name(), site.world.rng.uuid());
        let config = election::Config::new(name, identity);
        let lead = async |stop: Shutdown| {
            tracing::info!(component = name, "leads");
            start(site);
            stop.cancelled().await;
        };
        let ended = election::run(client, &site.world, &site.shutdown, &config, lead).await;
        // What was started may still act: the process ends.
        ended.map(drop).map_err(Failure::new)
    }
}

/// The flags of `skiff scheduler`.
#[derive(Args, Clone, Debug)]
pub struct SchedulerFlags {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    election: Election,
}

/// The flags of `skiff controller-manager`.
#[derive(Args, Clone, Debug)]
pub struct ControllersFlags {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    election: Election,
    /// Addresses of Pods
    #[arg(long, default_value = "10.42.0.0/16")]
    cluster_cidr: String,
    /// The authority told to Pods, PEM [default: the kubeconfig's]
    #[arg(long)]
    root_ca_file: Option<PathBuf>,
}

impl Connection {
    /// Logs from now on, and reads the kubeconfig. `agent` is upstream's name of the component.
    fn open(&self, agent: &'static str) -> Result<(HttpsConfig, Client), Failure> {
        logging::start(self.log_json, None);
        let mut config = client::kubeconfig::read(&self.kubeconfig).map_err(|e| {
            Failure::usage(e).hint("--kubeconfig names the file with server and credentials")
        })?;
        config.agent = agent;
        let transport = HttpsTransport::new(config.clone())
            .map_err(|e| Failure::usage(format!("{}: {e}", self.kubeconfig.display())))?;
        Ok((config, Client::new(transport)))
    }
}

impl NamesFlags {
    fn cluster_dns(&self, services: &ServiceRange) -> Ipv4Addr {
        self.cluster_dns
            .unwrap_or_else(|| Ipv4Addr::from(u32::from(services.base) + 10))
    }
}

/// A component's command line, with what the configuration file says and the command line does not. The file is shared by
/// all commands: a setting must be a flag of one of them.
///
/// # Errors
/// When the file was named and cannot be read, or has what is no flag.
pub fn with_settings(
    command: &clap::Command,
    mut arguments: Vec<OsString>,
) -> Result<Vec<OsString>, Failure> {
    use clap::parser::ValueSource::{CommandLine, EnvVariable};
    let lenient = command.clone().ignore_errors(true);
    // Help and the version are printed by whoever parses in earnest.
    let Ok(matches) = lenient.try_get_matches_from(&arguments) else {
        return Ok(arguments);
    };
    let Some((name, given)) = matches
        .subcommand()
        .filter(|(name, _)| *name != "server" && COMMANDS.contains(name))
    else {
        return Ok(arguments);
    };
    let common = Common {
        data_dir: PathBuf::new(),
        config: given.get_one::<PathBuf>("config").cloned(),
    };
    for (key, value) in config::settings(&common)? {
        let flag = |of: &clap::Command| {
            of.get_arguments()
                .find(|a| a.get_long() == Some(&key))
                .cloned()
        };
        let Some(own) = command.find_subcommand(name).and_then(flag) else {
            if command.get_subcommands().any(|c| flag(c).is_some()) {
                continue;
            }
            return Err(Failure::usage(format!(
                "the configuration file has {key}, which is no setting"
            )));
        };
        if matches!(
            given.value_source(own.get_id().as_str()),
            Some(CommandLine | EnvVariable)
        ) {
            continue;
        }
        if own.get_action().takes_values() {
            arguments.push(format!("--{key}={}", text(&value)).into());
        } else if value == true {
            arguments.push(format!("--{key}").into());
        }
    }
    Ok(arguments)
}

/// A setting as it would stand on the command line.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// A site without a node's particulars; must be called inside a runtime.
fn site(common: &Common, services: &str) -> Result<Site, Failure> {
    let data_dir = std::path::absolute(&common.data_dir).map_err(Failure::new)?;
    let (base, prefix) = cidr(services)?;
    let services = ServiceRange { base, prefix };
    let shutdown = Shutdown::new();
    server::stop_on_signal(shutdown.clone())?;
    Ok(Site {
        world: World::real(),
        shutdown,
        data_dir,
        node_name: host_name(),
        node_ip: Ipv4Addr::LOCALHOST,
        cluster_cidr: (Ipv4Addr::UNSPECIFIED, 0),
        cluster_dns: Ipv4Addr::from(u32::from(base) + 10),
        services,
        cluster_domain: "cluster.local".into(),
        resolv_conf: "/etc/resolv.conf".into(),
    })
}

impl NodeFlags {
    fn site(&self, common: &Common) -> Result<Site, Failure> {
        let node_ip = self.node_ip.or_else(default_address).ok_or_else(|| {
            Failure::usage("this machine has no default route to tell its address by")
                .hint("give it with --node-ip")
        })?;
        Ok(Site {
            node_name: self.hostname_override.clone().unwrap_or_else(host_name),
            node_ip,
            cluster_cidr: cidr(&self.cluster_cidr)?,
            ..site(common, &self.service_cidr)?
        })
    }
}

fn claim(common: &Common, command: &str) -> Result<Running, Failure> {
    let data_dir = std::path::absolute(&common.data_dir).map_err(Failure::new)?;
    Running::claim(&data_dir, command)
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|e| Failure::usage(format!("cannot read {}: {e}", path.display())))
}

/// Runs a kubelet until it is told to stop; its containers go on.
///
/// # Errors
/// What keeps it from starting.
pub fn kubelet(common: &Common, flags: &KubeletFlags) -> Result<(), Failure> {
    let (config, client) = flags.connection.open("kubelet")?;
    let serving = match (&flags.tls_cert_file, &flags.tls_private_key_file) {
        (Some(cert), Some(key)) => Some(pki::Leaf {
            cert_pem: read(cert)?,
            key_pem: read(key)?,
        }),
        _ => None,
    };
    let client_ca = match &flags.client_ca_file {
        Some(path) => read(path)?,
        None => config.ca,
    };
    let part = parts::Kubelet {
        client: client.clone(),
        port: flags.port,
        root_dir: match &flags.root_dir {
            Some(dir) => Some(std::path::absolute(dir).map_err(Failure::new)?),
            None => None,
        },
        serving,
        client_ca,
        labels: labels(&flags.node_labels)?,
        taints: taints(&flags.register_with_taints)?,
    };
    crate::check::demand_node()?;
    let _running = claim(common, "kubelet")?;
    server::run_to_the_end(async move {
        let started = Instant::now();
        let mut site = flags.node.site(common)?;
        site.cluster_dns = flags.names.cluster_dns(&site.services);
        site.cluster_domain.clone_from(&flags.names.cluster_domain);
        site.resolv_conf.clone_from(&flags.names.resolv_conf);
        let shutdown = site.shutdown.clone();
        let node = site.node_name.clone();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            started = parts::start_kubelet(&site, part) => started?,
        }
        shutdown
            .run_until_cancelled(announce_node(&client, &node, started))
            .await;
        shutdown.cancelled().await;
        tracing::info!("stopping; containers go on");
        Ok(())
    })
}

/// Runs the Services' proxy until it is told to stop; Services go on.
///
/// # Errors
/// What keeps it from starting.
pub fn proxy(common: &Common, flags: &ProxyFlags) -> Result<(), Failure> {
    let (_, client) = flags.connection.open("kube-proxy")?;
    let _running = claim(common, "proxy")?;
    server::run_to_the_end(async move {
        let site = flags.node.site(common)?;
        // A Service whose address its node answers says so itself, see `dns::objects`.
        parts::start_proxy(&site, client.clone(), false)?;
        parts::start_routes(&site, client)?;
        tracing::info!(node = site.node_name, "Services are followed");
        site.shutdown.cancelled().await;
        Ok(())
    })
}

/// Runs the cluster's DNS until it is told to stop.
///
/// # Errors
/// What keeps it from starting.
pub fn dns(common: &Common, flags: &DnsFlags) -> Result<(), Failure> {
    let (_, client) = flags.connection.open("skiff-dns")?;
    let _running = claim(common, "dns")?;
    server::run_to_the_end(async move {
        let mut site = site(common, &flags.service_cidr)?;
        site.cluster_dns = flags.names.cluster_dns(&site.services);
        site.cluster_domain.clone_from(&flags.names.cluster_domain);
        site.resolv_conf.clone_from(&flags.names.resolv_conf);
        parts::start_dns(&site, client)?;
        tracing::info!(address = %site.cluster_dns, "the cluster's names are answered");
        site.shutdown.cancelled().await;
        Ok(())
    })
}

/// Runs the scheduler, while it leads, until it is told to stop.
///
/// # Errors
/// What keeps it from starting, and that another one leads now.
pub fn scheduler(common: &Common, flags: &SchedulerFlags) -> Result<(), Failure> {
    let (_, client) = flags.connection.open("kube-scheduler")?;
    let _running = claim(common, "scheduler")?;
    server::run_to_the_end(async move {
        let site = site(common, "10.43.0.0/16")?;
        let start = |site: &Site| parts::start_scheduler(site, client.clone());
        flags
            .election
            .lead(&client, &site, "kube-scheduler", start)
            .await
    })
}

/// Runs the controllers until they are told to stop. All act as the kubeconfig's user, as upstream's do without
/// `--use-service-account-credentials`: that user must hold their roles.
///
/// # Errors
/// What keeps them from starting.
pub fn controllers(common: &Common, flags: &ControllersFlags) -> Result<(), Failure> {
    let (config, client) = flags.connection.open("kube-controller-manager")?;
    let root_ca = match &flags.root_ca_file {
        Some(path) => read(path)?,
        None => config.ca,
    };
    let _running = claim(common, "controller-manager")?;
    server::run_to_the_end(async move {
        let mut site = site(common, "10.43.0.0/16")?;
        site.cluster_cidr = cidr(&flags.cluster_cidr)?;
        let of_all = client.clone();
        let start = |site: &Site| {
            parts::start_controllers(site, Arc::new(move |_| of_all.clone()), &root_ca);
        };
        let election = &flags.election;
        election
            .lead(&client, &site, "kube-controller-manager", start)
            .await
    })
}

fn labels(given: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    given
        .iter()
        .map(|label| match label.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Failure::usage(format!(
                "--node-labels {label}: it must be key=value"
            ))),
        })
        .collect()
}

/// `key=value:effect`, `key:effect`.
fn taints(given: &[String]) -> Result<Vec<Value>, Failure> {
    let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    given
        .iter()
        .map(|taint| {
            let (pair, effect) = taint.rsplit_once(':').unwrap_or((taint, ""));
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if key.is_empty() || !effects.contains(&effect) {
                return Err(Failure::usage(format!(
                    "--register-with-taints {taint}: it must be key=value:effect with the effect {}",
                    effects.join(", ")
                )));
            }
            let mut object = json!({"key": key, "effect": effect});
            if !value.is_empty() {
                object["value"] = value.into();
            }
            Ok(object)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_taints_are_read_as_upstream_writes_them() {
        let list = |text: &[&str]| text.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let read = labels(&list(&["a=b", "x/y="])).map_err(|e| e.to_string());
        assert_eq!(
            read.unwrap(),
            [("a", "b"), ("x/y", "")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into()
        );
        assert!(labels(&list(&["a"])).is_err());
        let read = taints(&list(&["a=b:NoSchedule", "x/y:NoExecute"])).map_err(|e| e.to_string());
        assert_eq!(
            Value::from(read.unwrap()),
            json!([{"key": "a", "value": "b", "effect": "NoSchedule"}, {"key": "x/y", "effect": "NoExecute"}])
        );
        assert!(taints(&list(&["a=b"])).is_err());
        assert!(taints(&list(&["a=b:Never"])).is_err());
    }

    #[test]
    fn the_configuration_file_fills_in_what_the_command_line_lacks() {
        let file = std::env::temp_dir().join(format!("skiff-settings-{}", std::process::id()));
        let command = <crate::Cli as clap::CommandFactory>::command();
        let read = |text: &str, line: &str| {
            std::fs::write(&file, text).unwrap();
            let line = line.replace("FILE", &file.display().to_string());
            let arguments = line.split(' ').map(OsString::from).collect();
            with_settings(&command, arguments)
                .map(|all| {
                    let all: Vec<_> = all
                        .iter()
                        .map(|a| a.to_string_lossy().into_owned())
                        .collect();
                    all[4..].join(" ")
                })
                .map_err(|e| e.to_string())
        };
        let text = "kubeconfig: /k\nnode-ip: 192.0.2.7\nsecure-port: 7443\nlog-json: true\nnode-labels: [a=b, c=d]\n";
        assert_eq!(
            read(text, "skiff kubelet --config FILE --node-ip 192.0.2.8").unwrap(),
            "--node-ip 192.0.2.8 --kubeconfig=/k --log-json --node-labels=a=b,c=d"
        );
        assert_eq!(
            read(text, "skiff dns --config FILE").unwrap(),
            "--kubeconfig=/k --log-json"
        );
        assert_eq!(read(text, "skiff server --config FILE").unwrap(), "");
        assert_eq!(
            read("nonsense: 1", "skiff proxy --config FILE").unwrap_err(),
            "the configuration file has nonsense, which is no setting"
        );
        std::fs::remove_file(&file).unwrap();
    }
}
