//! Starts one container: its image, its configuration, its process, its hook.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use api::Quantity;
use runtime::{
    ContainerConfig, ContainerMetadata, DnsConfig, Image, LinuxContainerConfig, LinuxResources,
    LinuxSandboxConfig, Mount, MountPropagation, NamespaceMode, NamespaceOptions, PidMode,
    PortMapping, Protocol, SandboxConfig, SandboxId, SandboxMetadata, SandboxSecurityContext,
    SeccompProfile, SecurityContext,
};

use crate::cgroups;
use crate::env;
use crate::fields::{self, Addresses};
use crate::node::Node;
use crate::spec::{Container, Pod, Port};
use crate::volumes::{self, Mounts};
use crate::worker::Shared;

/// Annotation of a container: the file of the node that its termination message is written to.
pub const MESSAGE_FILE: &str = "io.kubernetes.container.terminationMessageFile";
/// Label of sandboxes and containers: the Pod's UID.
pub const POD_UID: &str = "io.kubernetes.pod.uid";

/// Why a container was not started: the reason that its status shows, and the message.
#[derive(Debug, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct StartError {
    pub reason: &'static str,
    pub message: String,
}

impl StartError {
    fn config(message: impl Into<String>) -> Self {
        Self {
            reason: "CreateContainerConfigError",
            message: message.into(),
        }
    }
}

fn labels(pod: &Pod, container: Option<&str>) -> BTreeMap<String, String> {
    let m = &pod.metadata;
    let mut labels = BTreeMap::from([
        ("io.kubernetes.pod.name".to_owned(), m.name.clone()),
        (
            "io.kubernetes.pod.namespace".to_owned(),
            m.namespace.clone(),
        ),
        (POD_UID.to_owned(), m.uid.clone()),
    ]);
    if let Some(name) = container {
        labels.insert("io.kubernetes.container.name".into(), name.to_owned());
    }
    labels
}

/// The directory of a Pod's logs.
#[must_use]
pub fn log_directory(node: &Node, pod: &Pod) -> PathBuf {
    let m = &pod.metadata;
    node.options
        .log_dir
        .join(format!("{}_{}_{}", m.namespace, m.name, m.uid))
}

/// The host name of a Pod.
#[must_use]
pub fn hostname(pod: &Pod, node_name: &str) -> String {
    if pod.spec.host_network {
        return node_name.to_owned();
    }
    let name = if pod.spec.hostname.is_empty() {
        &pod.metadata.name
    } else {
        &pod.spec.hostname
    };
    let cut: String = name.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

fn fqdn(pod: &Pod, host: &str, domain: &str) -> Option<String> {
    let sub = &pod.spec.subdomain;
    (!sub.is_empty()).then(|| format!("{host}.{sub}.{}.svc.{domain}", pod.metadata.namespace))
}

/// What a Pod's resolv.conf says; `host` is the node's.
#[must_use]
pub fn dns(pod: &Pod, host: &str, cluster_dns: IpAddr, domain: &str) -> DnsConfig {
    let words = |key: &str| -> Vec<String> {
        let lines = host
            .lines()
            .filter_map(|l| l.trim().strip_prefix(key))
            .filter(|l| l.starts_with([' ', '\t']));
        lines
            .flat_map(str::split_whitespace)
            .map(str::to_owned)
            .collect()
    };
    let mut config = match pod.spec.dns_policy.as_str() {
        "None" => DnsConfig::default(),
        policy
            if policy == "ClusterFirstWithHostNet"
                || policy != "Default" && !pod.spec.host_network =>
        {
            DnsConfig {
                servers: vec![cluster_dns.to_string()],
                searches: [
                    format!("{}.svc.{domain}", pod.metadata.namespace),
                    format!("svc.{domain}"),
                    domain.to_owned(),
                ]
                .into_iter()
                .chain(words("search"))
                .collect(),
                options: vec!["ndots:5".into()],
            }
        }
        _ => DnsConfig {
            servers: words("nameserver"),
            searches: words("search"),
            options: words("options"),
        },
    };
    if let Some(more) = &pod.spec.dns_config {
        for (list, add) in [
            (&mut config.servers, &more.nameservers),
            (&mut config.searches, &more.searches),
        ] {
            list.extend(add.iter().cloned());
            let mut seen = std::collections::BTreeSet::new();
            list.retain(|x| seen.insert(x.clone()));
        }
        for option in &more.options {
            config
                .options
                .retain(|o| o.split(':').next() != Some(&option.name));
            config.options.push(
                option
                    .value
                    .as_ref()
                    .map_or_else(|| option.name.clone(), |v| format!("{}:{v}", option.name)),
            );
        }
    }
    config
}

fn seccomp(node: &Node, pod: &Pod, own: Option<&Container>) -> SeccompProfile {
    let own = own.and_then(|c| c.security_context.seccomp_profile.as_ref());
    let profile = own.or(pod.spec.security_context.seccomp_profile.as_ref());
    match profile.map(|p| (p.kind.as_str(), &p.localhost_profile)) {
        Some(("Unconfined", _)) => SeccompProfile::Unconfined,
        Some(("Localhost", path)) => {
            SeccompProfile::Localhost(node.options.root_dir.join("seccomp").join(path))
        }
        _ => SeccompProfile::RuntimeDefault,
    }
}

fn namespaces(pod: &Pod) -> NamespaceOptions {
    let mode = |host| {
        if host {
            NamespaceMode::Node
        } else {
            NamespaceMode::Pod
        }
    };
    let pid = match (pod.spec.host_pid, pod.spec.share_process_namespace) {
        (true, _) => PidMode::Node,
        (_, Some(true)) => PidMode::Pod,
        _ => PidMode::Container,
    };
    NamespaceOptions {
        network: mode(pod.spec.host_network),
        pid,
        ipc: mode(pod.spec.host_ipc),
    }
}

fn host_ports(pod: &Pod) -> impl Iterator<Item = &Port> {
    pod.all()
        .flat_map(|(_, c)| &c.ports)
        .filter(|p| p.host_port > 0 && !pod.spec.host_network)
}

/// What to tell whoever waits for a Pod's `hostPort`s: the scheduler keeps them free, but no network of this node maps them.
#[must_use]
pub fn unreachable_host_ports(pod: &Pod) -> Option<String> {
    let ports: Vec<String> = host_ports(pod).map(|p| p.host_port.to_string()).collect();
    (!ports.is_empty()).then(|| {
        format!(
            "hostPort {} will not be reachable: this node's network does not map ports; use hostNetwork or a Service",
            ports.join(", ")
        )
    })
}

/// What a Pod's sandbox is made of.
#[must_use]
pub fn sandbox(node: &Node, pod: &Pod, attempt: u32) -> SandboxConfig {
    let (m, options) = (&pod.metadata, &node.options);
    let resolv = fs::read_to_string(&options.resolv_conf).unwrap_or_default();
    SandboxConfig {
        metadata: SandboxMetadata {
            name: m.name.clone(),
            namespace: m.namespace.clone(),
            uid: m.uid.clone(),
            attempt,
        },
        hostname: hostname(pod, &options.node_name),
        log_directory: log_directory(node, pod),
        dns_config: Some(dns(
            pod,
            &resolv,
            options.cluster_dns.into(),
            &options.cluster_domain,
        )),
        port_mappings: host_ports(pod)
            .map(|p| PortMapping {
                protocol: match p.protocol.as_str() {
                    "UDP" => Protocol::Udp,
                    "SCTP" => Protocol::Sctp,
                    _ => Protocol::Tcp,
                },
                container_port: p.container_port,
                host_port: p.host_port,
                host_ip: p.host_ip.clone(),
            })
            .collect(),
        labels: labels(pod, None),
        annotations: m.annotations.clone(),
        linux: LinuxSandboxConfig {
            cgroup_parent: cgroups::path(pod, &options.cgroup_root),
            namespaces: namespaces(pod),
            sysctls: pod
                .spec
                .security_context
                .sysctls
                .iter()
                .map(|s| (s.name.clone(), s.value.clone()))
                .collect(),
            security_context: SandboxSecurityContext {
                privileged: pod.all().any(|(_, c)| c.security_context.privileged),
                seccomp: seccomp(node, pod, None),
            },
        },
    }
}

/// What a container's resources mean to the kernel. Pure.
#[must_use]
pub fn resources(pod: &Pod, container: &Container, node_memory: i64) -> LinuxResources {
    let get = |map: &BTreeMap<String, String>, name: &str| {
        map.get(name).and_then(|t| t.parse::<Quantity>().ok())
    };
    let (limits, requests) = (&container.resources.limits, &container.resources.requests);
    let cpu_limit = get(limits, "cpu")
        .map(Quantity::milli_value)
        .filter(|m| *m > 0);
    let cpu_request = get(requests, "cpu")
        .map(Quantity::milli_value)
        .or(cpu_limit)
        .unwrap_or(0);
    let memory_limit = get(limits, "memory")
        .map(Quantity::value)
        .filter(|m| *m > 0);
    let memory_request = get(requests, "memory")
        .map(Quantity::value)
        .or(memory_limit)
        .unwrap_or(0);
    let adjust = match pod.qos() {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => 1000 - 1000_i64.saturating_mul(memory_request) / node_memory.max(1),
    };
    let adjust = if pod.qos() == "Burstable" {
        adjust.clamp(3, 999)
    } else {
        adjust
    };
    LinuxResources {
        cpu_period: cpu_limit.map(|_| 100_000),
        cpu_quota: cpu_limit.map(cgroups::quota),
        cpu_shares: Some(cgroups::shares(cpu_request)),
        memory_limit_in_bytes: memory_limit,
        memory_swap_limit_in_bytes: memory_limit,
        oom_score_adj: i32::try_from(adjust).ok(),
        ..LinuxResources::default()
    }
}

/// Whom the container runs as; refuses root where it must not be. Pure.
fn security(
    pod: &Pod,
    container: &Container,
    image: &Image,
    seccomp: SeccompProfile,
) -> Result<SecurityContext, StartError> {
    let (own, of_pod) = (&container.security_context, &pod.spec.security_context);
    let number = |n: Option<i64>| {
        n.map(|n| {
            u32::try_from(n)
                .map_err(|_| StartError::config(format!("user or group {n} is out of range")))
        })
        .transpose()
    };
    let user = number(own.run_as_user.or(of_pod.run_as_user))?;
    let group = number(own.run_as_group.or(of_pod.run_as_group))?;
    if own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) {
        let place = format!("(pod: \"{}\", container: {})", pod.title(), container.name);
        let from_image = image.user.split(':').next().unwrap_or_default();
        match user {
            Some(0) => {
                return Err(StartError::config(format!(
                    "container's runAsUser breaks non-root policy {place}"
                )));
            }
            Some(_) => {}
            // `00` and `+0` are the number 0 too.
            None if from_image.is_empty() || from_image.parse() == Ok(0_u32) => {
                return Err(StartError::config(format!(
                    "container has runAsNonRoot and image will run as root {place}"
                )));
            }
            None if from_image.parse::<u32>().is_err() => {
                return Err(StartError::config(format!(
                    "container has runAsNonRoot and image has non-numeric user ({from_image}), cannot verify user is non-root {place}"
                )));
            }
            None => {}
        }
    }
    let open = own.proc_mount == "Unmasked" || own.privileged;
    let list = |l: &[&str]| {
        if open {
            Vec::new()
        } else {
            l.iter().map(|s| (*s).to_owned()).collect()
        }
    };
    Ok(SecurityContext {
        privileged: own.privileged,
        add_capabilities: own.capabilities.add.clone(),
        drop_capabilities: own.capabilities.drop.clone(),
        run_as_user: user,
        run_as_group: group,
        supplemental_groups: of_pod
            .supplemental_groups
            .iter()
            .copied()
            .chain(of_pod.fs_group)
            .collect(),
        readonly_rootfs: own.read_only_root_filesystem,
        no_new_privs: own.allow_privilege_escalation == Some(false),
        seccomp,
        masked_paths: list(&runtime::DEFAULT_MASKED_PATHS),
        readonly_paths: list(&runtime::DEFAULT_READONLY_PATHS),
        namespaces: namespaces(pod),
        ..SecurityContext::default()
    })
}

/// The content of the managed /etc/hosts.
#[must_use]
pub fn hosts(pod: &Pod, host: &str, ips: &[IpAddr], domain: &str, node_hosts: &str) -> String {
    let mut text = String::from("# Kubernetes-managed hosts file");
    if pod.spec.host_network {
        text.push_str(" (host network).\n");
        text.push_str(node_hosts);
    } else {
        text.push_str(".\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n");
        for ip in ips {
            match fqdn(pod, host, domain) {
                Some(full) => text.push_str(&format!("{ip}\t{full}\t{host}\n")),
                None => text.push_str(&format!("{ip}\t{host}\n")),
            }
        }
    }
    if !pod.spec.host_aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in &pod.spec.host_aliases {
            text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t")));
        }
    }
    text
}

fn mounts(
    node: &Node,
    pod: &Pod,
    container: &Container,
    volumes: &Mounts,
    at: &Addresses,
    env: &[(String, String)],
) -> Result<Vec<Mount>, StartError> {
    let mut out = Vec::new();
    let dir = volumes::pod_dir(&node.options.root_dir, &pod.metadata.uid);
    for (index, mount) in container.volume_mounts.iter().enumerate() {
        let base = volumes.paths.get(&mount.name).ok_or_else(|| {
            StartError::config(format!(
                "cannot find volume \"{}\" to mount into container \"{}\"",
                mount.name, container.name
            ))
        })?;
        let lookup = |name: &str| {
            env.iter()
                .rev()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.clone())
        };
        let sub = if mount.sub_path_expr.is_empty() {
            mount.sub_path.clone()
        } else {
            fields::expand(&mount.sub_path_expr, &lookup)
        };
        let host_path = if sub.is_empty() {
            base.clone()
        } else {
            volumes::sub_path(base, &sub)
                .and_then(|found| {
                    volumes::pin_sub_path(&dir, &mount.name, &container.name, index, &found)
                })
                .map_err(|e| {
                    StartError::config(format!(
                        "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {e}",
                        mount.name, container.name
                    ))
                })?
        };
        let target = Path::new(&mount.mount_path);
        let readonly = mount.read_only
            || pod
                .spec
                .volumes
                .iter()
                .any(|v| v.name == mount.name && v.is_content());
        out.push(Mount {
            host_path,
            container_path: if target.is_absolute() {
                target.to_owned()
            } else {
                Path::new("/").join(target)
            },
            readonly,
            recursive_read_only: readonly
                && matches!(mount.recursive_read_only.as_str(), "Enabled" | "IfPossible"),
            propagation: match mount.mount_propagation.as_str() {
                "HostToContainer" => MountPropagation::HostToContainer,
                "Bidirectional" => MountPropagation::Bidirectional,
                _ => MountPropagation::Private,
            },
        });
    }
    if !out
        .iter()
        .any(|m| m.container_path == Path::new("/etc/hosts"))
    {
        let file = dir.join("etc-hosts");
        let host = hostname(pod, &node.options.node_name);
        let own = fs::read_to_string("/etc/hosts").unwrap_or_default();
        let text = hosts(pod, &host, &at.pod, &node.options.cluster_domain, &own);
        write(&file, &text, 0o644)?;
        out.push(Mount {
            host_path: file,
            container_path: "/etc/hosts".into(),
            ..Mount::default()
        });
    }
    Ok(out)
}

fn write(file: &Path, text: &str, mode: u32) -> Result<(), StartError> {
    let done = file
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(file, text))
        .and_then(|()| fs::set_permissions(file, fs::Permissions::from_mode(mode)));
    done.map_err(|e| StartError {
        reason: "CreateContainerError",
        message: format!("{}: {e}", file.display()),
    })
}

/// What a container is started with.
pub struct Start {
    pub node: Arc<Node>,
    pub pod: Arc<Pod>,
    pub shared: Arc<Shared>,
    pub name: String,
    pub attempt: u32,
    pub sandbox: SandboxId,
    pub ips: Vec<IpAddr>,
    pub volumes: Arc<Mounts>,
}

impl Start {
    /// Does it all, up to the end of the postStart hook. Says each step in events.
    ///
    /// # Errors
    /// The reason and message that the container's status shows.
    pub async fn run(&self) -> Result<(), StartError> {
        let Some((role, container)) = self.pod.container(&self.name) else {
            return Err(StartError::config(format!(
                "the Pod has no container {}",
                self.name
            )));
        };
        let about = self.pod.reference(Some((role, &self.name)));
        let result = self.steps(container, &about).await;
        if let Err(e) = &result {
            let events = &self.node.events;
            match e.reason {
                "ErrImageNeverPull" => {
                    events.warning(&about, "ErrImageNeverPull", e.message.clone())
                }
                "ErrImagePull" => events.warning(&about, "Failed", "Error: ErrImagePull"),
                "PostStartHookError" => {
                    events.warning(&about, "FailedPostStartHook", e.message.clone())
                }
                _ => events.warning(&about, "Failed", format!("Error: {}", e.message)),
            }
        }
        result
    }

    async fn steps(
        &self,
        container: &Container,
        about: &client::ObjectReference,
    ) -> Result<(), StartError> {
        let (node, pod) = (&self.node, &self.pod);
        let image = self.image(container, about).await?;
        let at = Addresses {
            host: node.options.node_ip.to_string(),
            pod: self.ips.clone(),
        };
        let env = env::gather(node, pod, container, &at)
            .await
            .map_err(StartError::config)?;
        let lookup = |name: &str| {
            env.iter()
                .rev()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.clone())
        };
        let words = |list: &[String]| list.iter().map(|w| fields::expand(w, &lookup)).collect();
        let security_context =
            security(pod, container, &image, seccomp(node, pod, Some(container)))?;
        let mut mounts = mounts(node, pod, container, &self.volumes, &at, &env)?;
        let mut annotations = BTreeMap::from([(
            "io.kubernetes.container.restartCount".to_owned(),
            self.attempt.to_string(),
        )]);
        if !container.termination_message_path.is_empty() {
            let dir = volumes::pod_dir(&node.options.root_dir, &pod.metadata.uid)
                .join("containers")
                .join(&self.name);
            let file = dir.join(format!("{}", self.attempt));
            write(&file, "", 0o666)?;
            annotations.insert(MESSAGE_FILE.into(), file.display().to_string());
            mounts.push(Mount {
                host_path: file,
                container_path: container.termination_message_path.clone().into(),
                ..Mount::default()
            });
        }
        let config = ContainerConfig {
            metadata: ContainerMetadata {
                name: self.name.clone(),
                attempt: self.attempt,
            },
            image: container.image.clone(),
            command: words(&container.command),
            args: words(&container.args),
            working_dir: container.working_dir.clone(),
            envs: env.clone(),
            mounts,
            labels: labels(pod, Some(&self.name)),
            annotations,
            log_path: format!("{}/{}.log", self.name, self.attempt).into(),
            stdin: container.stdin,
            stdin_once: container.stdin_once,
            tty: container.tty,
            stop_signal: container.lifecycle.stop_signal.clone(),
            linux: LinuxContainerConfig {
                resources: resources(pod, container, node.machine.memory.value()),
                security_context,
            },
            ..ContainerConfig::default()
        };
        let runtime = &node.options.runtime;
        let log = log_directory(node, pod).join(&self.name);
        fs::create_dir_all(&log).map_err(|e| StartError {
            reason: "CreateContainerError",
            message: format!("{}: {e}", log.display()),
        })?;
        let id = runtime
            .create_container(&self.sandbox, config)
            .await
            .map_err(|e| StartError {
                reason: "CreateContainerError",
                message: e.to_string(),
            })?;
        self.shared
            .containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(id.clone());
        node.events.normal(
            about,
            "Created",
            format!("Container created: {}", self.name)
                .replace("Container created", "Created container"),
        );
        link_log(
            node,
            pod,
            &self.name,
            id.as_str(),
            &log.join(format!("{}.log", self.attempt)),
        );
        runtime.start_container(&id).await.map_err(|e| StartError {
            reason: "RunContainerError",
            message: e.to_string(),
        })?;
        node.events
            .normal(about, "Started", format!("Started container {}", self.name));
        self.shared.nudge.notify_one();
        if let Some(hook) = &container.lifecycle.post_start {
            let target = crate::probe::Target {
                container,
                id: &id,
                ip: self.ips.first().copied(),
            };
            if let Err(why) = crate::probe::hook(node, &target, hook).await {
                let message = format!("PostStartHook failed: {why}");
                let grace = u64::try_from(pod.grace()).unwrap_or(30);
                if let Err(error) = runtime
                    .stop_container(&id, std::time::Duration::from_secs(grace))
                    .await
                {
                    tracing::warn!(%error, container = %id, "cannot stop a container whose postStart hook failed");
                }
                return Err(StartError {
                    reason: "PostStartHookError",
                    message,
                });
            }
        }
        Ok(())
    }

    /// The image, fetched if the policy says so.
    async fn image(
        &self,
        container: &Container,
        about: &client::ObjectReference,
    ) -> Result<Image, StartError> {
        let (runtime, events, name) = (
            &self.node.options.runtime,
            &self.node.events,
            &container.image,
        );
        let inspect = |e: runtime::Error| StartError {
            reason: "ImageInspectError",
            message: format!("Failed to inspect image \"{name}\": {e}"),
        };
        let present = runtime.image_status(name).await.map_err(inspect)?;
        let latest = !name.contains('@')
            && name
                .rsplit('/')
                .next()
                .is_some_and(|n| !n.contains(':') || n.ends_with(":latest"));
        let policy = match container.image_pull_policy.as_str() {
            "" if latest => "Always",
            "" => "IfNotPresent",
            p => p,
        };
        match (policy, present) {
            ("Never", None) => Err(StartError {
                reason: "ErrImageNeverPull",
                message: format!(
                    "Container image \"{name}\" is not present with pull policy of Never"
                ),
            }),
            ("Never" | "IfNotPresent", Some(image)) => {
                events.normal(
                    about,
                    "Pulled",
                    format!("Container image \"{name}\" already present on machine"),
                );
                Ok(image)
            }
            (_, present) => {
                events.normal(about, "Pulling", format!("Pulling image \"{name}\""));
                let begin = tokio::time::Instant::now();
                match runtime.pull_image(name, None).await {
                    Ok(image) => {
                        let took = begin.elapsed();
                        events.normal(about, "Pulled", format!("Successfully pulled image \"{name}\" in {took:.3?} ({took:.3?} including waiting). Image size: {} bytes.", image.size));
                        Ok(image)
                    }
                    // What is present serves, when there is no registry to be had.
                    Err(runtime::Error::Unimplemented(_)) if present.is_some() => {
                        events.normal(
                            about,
                            "Pulled",
                            format!("Container image \"{name}\" already present on machine"),
                        );
                        present.ok_or_else(|| StartError::config("no image"))
                    }
                    Err(e) => {
                        events.warning(
                            about,
                            "Failed",
                            format!("Failed to pull image \"{name}\": {e}"),
                        );
                        Err(StartError {
                            reason: "ErrImagePull",
                            message: format!("failed to pull image \"{name}\": {e}"),
                        })
                    }
                }
            }
        }
    }
}

/// `<pod>_<namespace>_<container>-<id>.log`, for log collectors.
fn link_log(node: &Node, pod: &Pod, container: &str, id: &str, log: &Path) {
    let dir = &node.options.containers_log_dir;
    let link = dir.join(format!(
        "{}_{}_{container}-{id}.log",
        pod.metadata.name, pod.metadata.namespace
    ));
    if let Err(error) =
        fs::create_dir_all(dir).and_then(|()| std::os::unix::fs::symlink(log, &link))
    {
        tracing::debug!(%error, link = %link.display(), "no link to a log");
    }
}

/// Removes the links of a Pod's logs.
pub fn unlink_logs(node: &Node, pod: &Pod) {
    let prefix = format!("{}_{}_", pod.metadata.name, pod.metadata.namespace);
    let Ok(entries) = fs::read_dir(&node.options.containers_log_dir) else {
        return;
    };
    let logs = log_directory(node, pod);
    for entry in entries
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with(&prefix))
    {
        if fs::read_link(entry.path()).is_ok_and(|to| to.starts_with(&logs))
            && let Err(error) = fs::remove_file(entry.path())
        {
            tracing::debug!(%error, "a log's link stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn non_root_is_checked_by_number() {
        let refused = |image_user: &str, spec: serde_json::Value| {
            let pod: Pod = serde_json::from_value(json!({
                "spec": {"securityContext": spec, "containers": [{"name": "c"}]},
            }))
            .unwrap();
            let image = Image {
                user: image_user.into(),
                ..Image::default()
            };
            let seccomp = SeccompProfile::RuntimeDefault;
            security(&pod, &pod.spec.containers[0], &image, seccomp).is_err()
        };
        let non_root = || json!({"runAsNonRoot": true});
        for root in ["", "0", "00", "+0", "0:5", "-0", "web", "00:00"] {
            assert!(refused(root, non_root()), "{root:?}");
        }
        assert!(!refused("1000", non_root()));
        assert!(!refused("", json!({"runAsNonRoot": true, "runAsUser": 7})));
        assert!(refused("7", json!({"runAsNonRoot": true, "runAsUser": 0})));
    }

    #[test]
    fn host_ports_are_not_promised() {
        let told = |network: bool, port: u16| {
            let pod: Pod = serde_json::from_value(json!({
                "spec": {"hostNetwork": network, "containers": [
                    {"name": "c", "ports": [{"containerPort": 80, "hostPort": port}, {"containerPort": 81}]},
                ]},
            }))
            .unwrap();
            unreachable_host_ports(&pod)
        };
        assert!(
            told(false, 8080)
                .unwrap()
                .starts_with("hostPort 8080 will not be reachable")
        );
        assert_eq!((told(true, 8080), told(false, 0)), (None, None));
    }

    #[test]
    fn a_group_alone_leaves_the_user_to_the_image() {
        let pod: Pod = serde_json::from_value(json!({
            "spec": {"securityContext": {"runAsGroup": 5}, "containers": [{"name": "c"}]},
        }))
        .unwrap();
        let image = Image {
            user: "web".into(),
            ..Image::default()
        };
        let seccomp = SeccompProfile::RuntimeDefault;
        let context = security(&pod, &pod.spec.containers[0], &image, seccomp).unwrap();
        assert_eq!((context.run_as_user, context.run_as_group), (None, Some(5)));
    }
}
