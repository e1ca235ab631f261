//! The messages of CRI v1, narrowed to what Linux nodes use. Field names are CRI's.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The id as text: hexadecimal digits for those made by the embedded runtime.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl From<String> for $name {
            fn from(id: String) -> Self {
                Self(id)
            }
        }
        impl From<&str> for $name {
            fn from(id: &str) -> Self {
                Self(id.to_owned())
            }
        }
    };
}
id!(
    /// Names a sandbox.
    SandboxId
);
id!(
    /// Names a container.
    ContainerId
);

/// What the runtime calls itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// `skiff` for the embedded one.
    pub runtime_name: String,
    pub runtime_version: String,
    /// `v1`.
    pub runtime_api_version: String,
}

/// Whose sandbox it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxMetadata {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub attempt: u32,
}

/// What to make a sandbox of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxConfig {
    pub metadata: SandboxMetadata,
    /// At most 64 bytes; unused when the network is the node's.
    pub hostname: String,
    /// Containers' `log_path` is relative to it. Made if missing.
    pub log_directory: PathBuf,
    /// `None`: the node's own resolv.conf.
    pub dns_config: Option<DnsConfig>,
    pub port_mappings: Vec<PortMapping>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub linux: LinuxSandboxConfig,
}

/// The lines of resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsConfig {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// A port of the Pod that is to be reachable on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    pub protocol: Protocol,
    pub container_port: u16,
    pub host_port: u16,
    /// Empty: all of the node's addresses.
    #[serde(default)]
    pub host_ip: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxSandboxConfig {
    /// Path below the hierarchy's root (or below [`crate::Options::cgroup_root`]), e.g. `/kubepods/burstable/pod…`. Empty:
    /// `/skiff/<sandbox id>`. Made if missing.
    pub cgroup_parent: String,
    pub namespaces: NamespaceOptions,
    /// Names with dots, e.g. `net.ipv4.ip_unprivileged_port_start`; those that are not the sandbox's own are refused.
    pub sysctls: BTreeMap<String, String>,
    pub security_context: SandboxSecurityContext,
}

/// Which namespaces are shared with whom.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NamespaceOptions {
    /// `Pod` or `Node`; `Container` means `Pod`.
    pub network: NamespaceMode,
    /// All three are possible.
    pub pid: PidMode,
    /// `Pod` or `Node`; `Container` means `Pod`.
    pub ipc: NamespaceMode,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    #[default]
    Pod,
    Container,
    Node,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidMode {
    /// Each container's process is its own process 1.
    #[default]
    Container,
    /// `shareProcessNamespace`.
    Pod,
    /// `hostPID`.
    Node,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxSecurityContext {
    pub privileged: bool,
    pub seccomp: SeccompProfile,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxState {
    Ready,
    NotReady,
}

/// What is known about a sandbox.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxStatus {
    pub id: SandboxId,
    pub metadata: SandboxMetadata,
    pub state: SandboxState,
    pub created_at: Timestamp,
    /// `None` on the node's network.
    pub netns: Option<PathBuf>,
    /// Empty on the node's network.
    pub ips: Vec<IpAddr>,
    pub namespaces: NamespaceOptions,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// The shim's process.
    pub shim_pid: Option<i32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerMetadata {
    pub name: String,
    pub attempt: u32,
}

/// What to make a container of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    pub metadata: ContainerMetadata,
    /// A reference or an image id.
    pub image: String,
    /// Replaces the image's entrypoint; when set, the image's cmd is not used either.
    pub command: Vec<String>,
    /// Replaces the image's cmd.
    pub args: Vec<String>,
    /// Empty: the image's.
    pub working_dir: String,
    /// Added to the image's; the last of a name wins.
    pub envs: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// Relative to the sandbox's `log_directory`. Empty: no log.
    pub log_path: PathBuf,
    pub stdin: bool,
    /// Standard input ends when the first attached client goes.
    pub stdin_once: bool,
    pub tty: bool,
    /// `SIGTERM`, `SIGRTMIN+3`, `15`; overrides the image's.
    pub stop_signal: Option<String>,
    pub linux: LinuxContainerConfig,
}

/// A file or directory of the node, seen inside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Must exist.
    pub host_path: PathBuf,
    pub container_path: PathBuf,
    pub readonly: bool,
    /// With `readonly`: mounts below it are read-only too.
    pub recursive_read_only: bool,
    pub propagation: MountPropagation,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPropagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub host_path: PathBuf,
    pub container_path: PathBuf,
    /// Of `rwm`.
    pub permissions: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxContainerConfig {
    pub resources: LinuxResources,
    pub security_context: SecurityContext,
}

/// Limits; `None` is "as it is". Bytes, microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxResources {
    pub cpu_period: Option<u64>,
    /// -1 is unlimited.
    pub cpu_quota: Option<i64>,
    /// 2 to 262144; translated to a weight on cgroup v2.
    pub cpu_shares: Option<u64>,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    /// -1 is unlimited.
    pub memory_limit_in_bytes: Option<i64>,
    /// Memory and swap together, as in CRI; -1 is unlimited.
    pub memory_swap_limit_in_bytes: Option<i64>,
    pub pids_limit: Option<i64>,
    pub oom_score_adj: Option<i32>,
    /// Page size (`2MB`, `1GB`) and bytes.
    pub hugepage_limits: Vec<(String, u64)>,
    /// Further files of cgroup v2, e.g. `memory.high`.
    pub unified: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecurityContext {
    pub privileged: bool,
    /// Names without `CAP_`; `ALL` is known.
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub run_as_user: Option<u32>,
    /// Instead of the group that /etc/passwd or the image names for the user.
    pub run_as_group: Option<u32>,
    /// A name from the image's /etc/passwd; `run_as_user` wins. Neither: the image's user.
    pub run_as_username: String,
    pub supplemental_groups: Vec<u32>,
    /// True (`Merge`): groups of the image's /etc/group are added. The default.
    pub supplemental_groups_strict: bool,
    pub readonly_rootfs: bool,
    pub no_new_privs: bool,
    pub seccomp: SeccompProfile,
    /// Not applied when privileged.
    pub masked_paths: Vec<String>,
    /// Not applied when privileged.
    pub readonly_paths: Vec<String>,
    /// Only `pid` may differ from the sandbox's.
    pub namespaces: NamespaceOptions,
}

/// What the API's `procMount: Default` hides; the kubelet passes it as [`SecurityContext::masked_paths`].
pub const DEFAULT_MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// What the API's `procMount: Default` seals; the kubelet passes it as [`SecurityContext::readonly_paths`].
pub const DEFAULT_READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompProfile {
    #[default]
    Unconfined,
    RuntimeDefault,
    /// A profile in the form of Docker's JSON, by absolute path.
    Localhost(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    Created,
    Running,
    Exited,
    /// Its shim was lost; it is being killed.
    Unknown,
}

/// What is known about a container.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerStatus {
    pub id: ContainerId,
    pub sandbox_id: SandboxId,
    pub metadata: ContainerMetadata,
    pub state: ContainerState,
    /// While it runs: its process in the node's PID namespace.
    pub pid: Option<i32>,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// Meaningful once exited; 128 + n when killed by signal n.
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `Unknown`; empty until it exits.
    pub reason: String,
    pub message: String,
    /// The image as the config named it.
    pub image: String,
    /// The image's id, `sha256:…`.
    pub image_id: String,
    /// Absolute; empty if there is none.
    pub log_path: PathBuf,
    pub mounts: Vec<Mount>,
    pub resources: LinuxResources,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

/// What [`crate::Runtime::exec_sync`] gathered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecSync {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
}

/// Which streams an exec has. With `tty` standard error goes to standard output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecRequest {
    pub cmd: Vec<String>,
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// The streams of an exec or attach.
pub struct Streams {
    /// Dropping it (or shutting it down) ends the process' input.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Terminal sizes (columns, rows); ignored without a terminal.
    pub resize: tokio::sync::mpsc::Sender<TerminalSize>,
    /// The exit code of the process. May come before the streams have been read to their end.
    pub exit: Pin<Box<dyn Future<Output = crate::Result<i32>> + Send>>,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

/// A two-way byte stream.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Usage of a container. Bytes, nanoseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerStats {
    pub id: ContainerId,
    pub sandbox_id: SandboxId,
    pub metadata: ContainerMetadata,
    pub timestamp: Timestamp,
    pub cpu_usage_core_nanos: u64,
    pub memory_usage: u64,
    /// Usage without inactive file pages, as upstream computes it.
    pub memory_working_set: u64,
    pub memory_rss: u64,
    pub memory_page_faults: u64,
    pub memory_major_page_faults: u64,
    pub pids: u64,
    pub writable_layer_used: u64,
    pub writable_layer_inodes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerEventKind {
    Created,
    Started,
    Stopped,
    Deleted,
}

/// Something happened to a container, or (with `container` `None`) to a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEvent {
    pub sandbox: SandboxId,
    pub container: Option<ContainerId>,
    pub kind: ContainerEventKind,
    /// With `Stopped`.
    pub exit_code: Option<i32>,
}

/// An image that is present.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// `sha256:` and the digest of its config.
    pub id: String,
    /// `docker.io/library/nginx:1`.
    pub repo_tags: Vec<String>,
    /// `docker.io/library/nginx@sha256:…`.
    pub repo_digests: Vec<String>,
    /// Bytes of its unpacked layers.
    pub size: u64,
    /// The user it runs as: a number if it is one, else a name; empty for root.
    pub user: String,
}

/// How to log in at a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageAuth {
    pub username: String,
    pub password: String,
    pub server_address: String,
    pub identity_token: String,
    pub registry_token: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsInfo {
    pub mountpoint: PathBuf,
    /// Used by images and writable layers.
    pub used_bytes: u64,
    pub inodes_used: u64,
    /// Of the whole file system.
    pub capacity_bytes: u64,
    pub available_bytes: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}
