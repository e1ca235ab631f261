//! What is kept on disk of sandboxes and containers, so that the next process finds them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::types::{ContainerConfig, ContainerId, Device, Mount, SandboxConfig, SandboxId};

/// `s/<id>/sandbox.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub id: SandboxId,
    pub config: SandboxConfig,
    pub created_at: Timestamp,
    pub ips: Vec<IpAddr>,
    /// Written once `false` while it is being made; a record that isn't `ready` is cleaned up at the next start.
    pub ready: bool,
    pub stopped: bool,
    pub cgroup_parent: String,
}

/// `c/<id>/container.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub id: ContainerId,
    pub sandbox: SandboxId,
    pub config: ContainerConfig,
    pub created_at: Timestamp,
    pub image_id: String,
    /// The image's stop signal, if it names one.
    pub image_stop_signal: Option<String>,
    pub log_path: PathBuf,
    pub cgroup: String,
}

/// `c/<id>/started`, written by the shim: pid and time, in text. `c/<id>/exit` likewise: code, time, `1` if out of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fact {
    pub number: i32,
    pub nanos: i64,
    pub flag: bool,
}

impl Fact {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        Some(Self {
            number: words.next()?.parse().ok()?,
            nanos: words.next()?.parse().ok()?,
            flag: words.next() == Some("1"),
        })
    }
    pub(crate) fn time(&self) -> Option<Timestamp> {
        Timestamp::from_nanosecond(self.nanos.into()).ok()
    }
}

/// `s/<id>/shim.json`: what the launcher of a shim needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ShimSpec {
    pub id: SandboxId,
    pub hostname: String,
    pub new_network: bool,
    pub new_ipc: bool,
    pub shared_pid: bool,
    pub sysctls: BTreeMap<String, String>,
    /// Directories whose cgroup.procs the shim joins.
    pub cgroups: Vec<PathBuf>,
}

/// `c/<id>/spec.json`: everything that the process which becomes the container needs; nothing is left to decide.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct InitSpec {
    /// Names of the layers below `layers_dir`, the uppermost first.
    pub layers: Vec<String>,
    pub layers_dir: PathBuf,
    pub upper: PathBuf,
    pub work: PathBuf,
    /// An empty directory to build the root on.
    pub mount_point: PathBuf,
    pub readonly_rootfs: bool,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    /// `None`: of the sandbox's own making.
    pub shm: PathBuf,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    /// Directories whose cgroup.procs the process joins, with the controllers' name ("" on cgroup v2).
    pub cgroups: Vec<(String, PathBuf)>,
    pub process: ProcessSpec,
}

/// A process of a container: its first, or an exec.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ProcessSpec {
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: String,
    pub tty: bool,
    pub privileged: bool,
    /// Asked for by number; `user` is not looked at then.
    #[serde(default)]
    pub uid: Option<u32>,
    /// `name`, `uid`, `name:group`, `uid:gid`; empty for root.
    pub user: String,
    pub run_as_group: Option<u32>,
    pub supplemental_groups: Vec<u32>,
    pub supplemental_groups_strict: bool,
    pub capabilities: u64,
    pub no_new_privs: bool,
    /// The compiled filter in hexadecimal digits.
    pub seccomp: Option<String>,
    pub oom_score_adj: Option<i32>,
}
