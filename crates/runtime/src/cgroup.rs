//! Control groups, version 1 (each controller its own hierarchy) and 2.
//!
//! Follows <https://docs.kernel.org/admin-guide/cgroup-v1/> and <https://docs.kernel.org/admin-guide/cgroup-v2.html>. A
//! group is named by one path below each hierarchy's root, as in CRI's `cgroup_parent`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::devices;
use crate::error::{Attempt, Result};
use crate::types::LinuxResources;

/// How cgroup paths are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CgroupDriver {
    /// Plain directories.
    #[default]
    Cgroupfs,
}

/// The machine's hierarchies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cgroups {
    /// Controller names as mounted (`cpu`, `cpu,cpuacct`, `name=systemd`) and where; empty on version 2.
    v1: Vec<(String, PathBuf)>,
    prefix: String,
    filters_devices: bool,
}

const V2: &str = "/sys/fs/cgroup";

/// What a group used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub cpu_nanos: u64,
    pub memory: u64,
    pub inactive_file: u64,
    pub rss: u64,
    pub faults: u64,
    pub major_faults: u64,
    pub pids: u64,
}

impl Cgroups {
    /// Finds out which version this machine has; groups are made below `prefix`.
    pub(crate) fn detect(prefix: &str) -> Result<Self> {
        let prefix = prefix.trim_matches('/').to_owned();
        if Path::new(V2).join("cgroup.controllers").exists() {
            // An outer container may keep us from loading programs.
            let filter = devices::Filter::load(&[]);
            if let Err(error) = &filter {
                tracing::warn!(%error, "no device filters: containers may not have MKNOD unless they are privileged");
            }
            return Ok(Self {
                v1: vec![],
                prefix,
                filters_devices: filter.is_ok(),
            });
        }
        let mounts =
            fs::read_to_string("/proc/self/mountinfo").attempt(|| "reading mountinfo".into())?;
        let mut v1 = Vec::new();
        for line in mounts.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let right: Vec<_> = right.split(' ').collect();
            let (Some(&"cgroup"), Some(options), Some(at)) =
                (right.first(), right.get(2), left.split(' ').nth(4))
            else {
                continue;
            };
            let known = [
                "cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio",
                "hugetlb",
            ];
            let names: Vec<_> = options
                .split(',')
                .filter(|o| known.contains(o) || o.starts_with("name="))
                .collect();
            if !names.is_empty() && !v1.iter().any(|(n, _)| *n == names.join(",")) {
                v1.push((names.join(","), PathBuf::from(at)));
            }
        }
        if v1.is_empty() {
            return Err(crate::Error::FailedPrecondition(
                "no cgroup hierarchy is mounted at /sys/fs/cgroup".into(),
            ));
        }
        let filters_devices = v1.iter().any(|(n, _)| n.split(',').any(|c| c == "devices"));
        Ok(Self {
            v1,
            prefix,
            filters_devices,
        })
    }

    /// The group's directories with their controllers ("" on version 2).
    pub(crate) fn dirs(&self, path: &str) -> Vec<(String, PathBuf)> {
        let below = |root: &Path| root.join(&self.prefix).join(path.trim_matches('/'));
        if self.v1.is_empty() {
            vec![(String::new(), below(Path::new(V2)))]
        } else {
            self.v1
                .iter()
                .map(|(n, root)| (n.clone(), below(root)))
                .collect()
        }
    }

    fn dir(&self, path: &str, controller: &str) -> PathBuf {
        self.dirs(path)
            .into_iter()
            .find(|(n, _)| n.is_empty() || n.split(',').any(|c| c == controller))
            .map_or_else(|| Path::new("/nonexistent").to_owned(), |(_, d)| d)
    }

    /// Lists all the group's processes.
    pub(crate) fn procs(&self, path: &str) -> PathBuf {
        self.dir(path, "pids").join("cgroup.procs")
    }

    /// The file with an `oom_kill` line.
    pub(crate) fn oom(&self, path: &str) -> PathBuf {
        self.dir(path, "memory").join(if self.v1.is_empty() {
            "memory.events"
        } else {
            "memory.oom_control"
        })
    }

    /// Makes the group and those above it. True if it was not there.
    pub(crate) fn create(&self, path: &str) -> Result<bool> {
        let mut made = false;
        for (name, dir) in self.dirs(path) {
            made |= !dir.exists();
            fs::create_dir_all(&dir).attempt(|| format!("making cgroup {}", dir.display()))?;
            if name.is_empty() {
                let mut above: Vec<_> = dir
                    .ancestors()
                    .skip(1)
                    .take_while(|a| a.starts_with(V2))
                    .collect();
                above.reverse();
                for ancestor in above {
                    for controller in ["cpu", "memory", "pids", "cpuset", "io", "hugetlb"] {
                        // A controller that the kernel lacks is noticed when a limit is set.
                        let _ = fs::write(
                            ancestor.join("cgroup.subtree_control"),
                            format!("+{controller}"),
                        );
                    }
                }
            } else if name.split(',').any(|c| c == "cpuset") {
                // A new group may use no processor until told which.
                let root = self
                    .v1
                    .iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, r)| r.clone())
                    .unwrap_or_default();
                let mut chain: Vec<_> = dir.ancestors().take_while(|a| **a != *root).collect();
                chain.reverse();
                for group in chain {
                    for file in ["cpuset.cpus", "cpuset.mems"] {
                        let above = group
                            .parent()
                            .map(|p| fs::read_to_string(p.join(file)).unwrap_or_default());
                        if fs::read_to_string(group.join(file))
                            .unwrap_or_default()
                            .trim()
                            .is_empty()
                        {
                            fs::write(group.join(file), above.unwrap_or_default().trim())
                                .attempt(|| format!("setting {}", group.join(file).display()))?;
                        }
                    }
                }
            }
        }
        Ok(made)
    }

    /// Sets limits.
    pub(crate) fn apply(&self, path: &str, r: &LinuxResources) -> Result<()> {
        let set = |controller: &str, file: &str, value: String| {
            let file = self.dir(path, controller).join(file);
            fs::write(&file, &value).attempt(|| format!("setting {} to {value}", file.display()))
        };
        // What wasn't asked for in numbers, or would be the default anyway, may be lacking in the kernel.
        let v2 = self.v1.is_empty();
        let or_max = |v: i64| {
            if v < 0 {
                "max".to_owned()
            } else {
                v.to_string()
            }
        };
        if let Some(shares) = r.cpu_shares.filter(|s| *s > 0) {
            let shares = shares.clamp(2, 262_144);
            match v2 {
                true => set(
                    "cpu",
                    "cpu.weight",
                    (1 + (shares - 2) * 9999 / 262_142).to_string(),
                )?,
                false => set("cpu", "cpu.shares", shares.to_string())?,
            }
        }
        let quota = r.cpu_quota.filter(|q| *q != 0);
        if v2 {
            if quota.is_some() || r.cpu_period.is_some() {
                let period = r.cpu_period.filter(|p| *p > 0).unwrap_or(100_000);
                set(
                    "cpu",
                    "cpu.max",
                    format!("{} {period}", or_max(quota.unwrap_or(-1))),
                )?;
            }
        } else {
            if let Some(period) = r.cpu_period.filter(|p| *p > 0) {
                set("cpu", "cpu.cfs_period_us", period.to_string())?;
            }
            if let Some(quota) = quota {
                set("cpu", "cpu.cfs_quota_us", quota.to_string())?;
            }
        }
        for (file, value) in [
            ("cpuset.cpus", &r.cpuset_cpus),
            ("cpuset.mems", &r.cpuset_mems),
        ] {
            if !value.is_empty() {
                set("cpuset", file, value.clone())?;
            }
        }
        let swap = r.memory_swap_limit_in_bytes.filter(|s| *s != 0);
        if let Some(limit) = r.memory_limit_in_bytes.filter(|l| *l != 0) {
            if v2 {
                set("memory", "memory.max", or_max(limit))?;
            } else {
                let swap_file = self.dir(path, "memory").join("memory.memsw.limit_in_bytes");
                let set_both = set("memory", "memory.limit_in_bytes", limit.to_string());
                // Memory can't be raised above memory and swap, which then goes first.
                if let (Some(swap), true) = (swap, swap_file.exists()) {
                    set("memory", "memory.memsw.limit_in_bytes", swap.to_string())?;
                    if set_both.is_err() {
                        set("memory", "memory.limit_in_bytes", limit.to_string())?;
                    }
                } else {
                    set_both?;
                }
            }
        }
        if v2 && let Some(swap) = swap {
            let file = self.dir(path, "memory").join("memory.swap.max");
            if file.exists() {
                let swap = if swap < 0 {
                    -1
                } else {
                    (swap - r.memory_limit_in_bytes.unwrap_or(0)).max(0)
                };
                set("memory", "memory.swap.max", or_max(swap))?;
            }
        }
        if let Some(pids) = r.pids_limit.filter(|p| *p != 0) {
            set("pids", "pids.max", or_max(pids))?;
        }
        for (size, bytes) in &r.hugepage_limits {
            let file = if v2 {
                format!("hugetlb.{size}.max")
            } else {
                format!("hugetlb.{size}.limit_in_bytes")
            };
            if self.dir(path, "hugetlb").join(&file).exists() {
                set("hugetlb", &file, bytes.to_string())?;
            } else if *bytes > 0 {
                return Err(crate::Error::InvalidArgument(format!(
                    "this kernel has no huge pages of {size}"
                )));
            }
        }
        if v2 {
            for (file, value) in &r.unified {
                if file.contains('/') || !file.contains('.') {
                    return Err(crate::Error::InvalidArgument(format!(
                        "{file:?} is no cgroup file"
                    )));
                }
                set("", file, value.clone())?;
            }
        }
        Ok(())
    }

    /// Allows the usual devices only, and `extra` (as `c 1:3 rwm`).
    ///
    /// Not to be called when [`Self::filters_devices`] says that it can't be done.
    pub(crate) fn restrict_devices(&self, path: &str, extra: &[String]) -> Result<()> {
        let doing = || format!("restricting devices of {path}");
        if self.v1.is_empty() {
            let dir = fs::File::open(self.dir(path, "")).attempt(doing)?;
            let filter = devices::Filter::load(extra).attempt(doing)?;
            return filter.attach(dir.as_fd()).attempt(doing);
        }
        let dir = self.dir(path, "devices");
        fs::write(dir.join("devices.deny"), "a").attempt(doing)?;
        for rule in devices::USUAL
            .into_iter()
            .chain(extra.iter().map(String::as_str))
        {
            fs::write(dir.join("devices.allow"), rule)
                .attempt(|| format!("allowing device {rule:?} for {path}"))?;
        }
        Ok(())
    }

    /// Whether [`Self::restrict_devices`] can do anything here.
    pub(crate) fn filters_devices(&self) -> bool {
        self.filters_devices
    }

    /// What the group uses now.
    pub(crate) fn usage(&self, path: &str) -> Result<Usage> {
        let read = |controller: &str, file: &str| {
            let file = self.dir(path, controller).join(file);
            fs::read_to_string(&file).attempt(|| format!("reading {}", file.display()))
        };
        let number = |text: String| text.trim().parse::<u64>().unwrap_or(0);
        let table = |text: String| -> BTreeMap<String, u64> {
            text.lines()
                .filter_map(|l| {
                    l.split_once(' ')
                        .and_then(|(k, v)| Some((k.to_owned(), v.trim().parse().ok()?)))
                })
                .collect()
        };
        let of = |t: &BTreeMap<String, u64>, k: &str| t.get(k).copied().unwrap_or(0);
        let stat = table(read("memory", "memory.stat")?);
        let pids = number(read("pids", "pids.current").unwrap_or_default());
        Ok(if self.v1.is_empty() {
            Usage {
                cpu_nanos: of(&table(read("cpu", "cpu.stat")?), "usage_usec") * 1000,
                memory: number(read("memory", "memory.current")?),
                inactive_file: of(&stat, "inactive_file"),
                rss: of(&stat, "anon"),
                faults: of(&stat, "pgfault"),
                major_faults: of(&stat, "pgmajfault"),
                pids,
            }
        } else {
            Usage {
                cpu_nanos: number(read("cpuacct", "cpuacct.usage")?),
                memory: number(read("memory", "memory.usage_in_bytes")?),
                inactive_file: of(&stat, "total_inactive_file"),
                rss: of(&stat, "total_rss"),
                faults: of(&stat, "total_pgfault"),
                major_faults: of(&stat, "total_pgmajfault"),
                pids,
            }
        })
    }

    /// Kills whatever is in the group; for groups whose shim was lost.
    pub(crate) fn kill(&self, path: &str) {
        kill_all(&self.procs(path));
    }

    /// Removes the group. Waits a moment for processes that are just ending; fine if there is none.
    pub(crate) async fn remove(&self, path: &str) -> Result<()> {
        for (_, dir) in self.dirs(path) {
            let mut tries = 0;
            loop {
                match fs::remove_dir(&dir) {
                    Ok(()) => break,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                    Err(e) if e.raw_os_error() == Some(libc::EBUSY) && tries < 200 => {
                        tries += 1;
                        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                    }
                    Err(e) => {
                        return Err(e).attempt(|| format!("removing cgroup {}", dir.display()));
                    }
                }
            }
        }
        Ok(())
    }

    /// Removes a group if it is empty.
    pub(crate) fn remove_if_empty(&self, path: &str) {
        for (_, dir) in self.dirs(path) {
            let _ = fs::remove_dir(dir);
        }
    }
}

/// The groups above those of containers: what a kubelet sets for Pods and their classes. It needs no runtime, so that it is
/// the same for every runtime.
pub struct CgroupTree(Cgroups);

impl CgroupTree {
    /// The machine's groups.
    ///
    /// # Errors
    /// When no hierarchy is mounted.
    pub fn find() -> Result<Self> {
        Cgroups::detect("").map(Self)
    }

    /// Sets the limits of a group, which is made if it isn't there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set(&self, path: &str, resources: &LinuxResources) -> Result<()> {
        self.0.create(path)?;
        self.0.apply(path, resources)
    }

    /// The names of the groups right below `path`.
    #[must_use]
    pub fn below(&self, path: &str) -> Vec<String> {
        let (mut names, dirs) = (Vec::new(), self.0.dirs(path));
        for entry in dirs
            .iter()
            .filter_map(|(_, dir)| fs::read_dir(dir).ok())
            .flatten()
            .flatten()
        {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        names.dedup();
        names
    }

    /// Removes a group with those below it, all of which have no processes any more or are just losing them.
    ///
    /// # Errors
    /// When there are processes after a second.
    pub async fn remove(&self, path: &str) -> Result<()> {
        for child in self.below(path) {
            Box::pin(self.remove(&format!("{path}/{child}"))).await?;
        }
        self.0.remove(path).await
    }
}

/// Sends KILL to all processes listed in a `cgroup.procs`.
pub(crate) fn kill_all(procs: &Path) {
    if let Some(dir) = procs.parent()
        && fs::write(dir.join("cgroup.kill"), "1").is_ok()
    {
        return;
    }
    for _ in 0..5 {
        let pids = fs::read_to_string(procs).unwrap_or_default();
        let pids: Vec<i32> = pids
            .lines()
            .filter_map(|l| l.parse().ok())
            .filter(|p| *p > 0)
            .collect();
        if pids.is_empty() {
            return;
        }
        for pid in pids {
            // SAFETY: takes numbers only.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
}
