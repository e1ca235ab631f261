//! `skiff uninstall`: leaves nothing on the machine.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use runtime::{NetworkStatus, Runtime as _, SandboxConfig, SandboxId, SandboxNetwork};

use crate::parts::{
    COMMANDS, Directories, Running, cluster_cidr_file, dns_address_file, kubelet_root_file,
};
use crate::server::cidr;
use crate::{Common, Failure};

/// Removes containers, mounts, namespaces, links, routes, tables and files.
///
/// # Errors
/// When a server still runs, or something cannot be removed.
pub fn run(common: &Common, yes: bool) -> Result<(), Failure> {
    let data_dir = std::path::absolute(&common.data_dir).map_err(Failure::new)?;
    if !data_dir.exists() {
        println!("nothing is installed at {}", data_dir.display());
        return Ok(());
    }
    // Nothing starts while it is being removed.
    let mut claims = Vec::new();
    for command in COMMANDS {
        claims.push(Running::claim(&data_dir, command)?);
    }
    if !yes && !confirmed(&data_dir)? {
        return Err(Failure::new("nothing was removed"));
    }
    let dirs = Directories::of(&data_dir);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::new)?;
    runtime.block_on(remove_containers(&data_dir, &dirs))?;
    if let Some(address) = note(&dns_address_file(&data_dir))? {
        let address = address
            .parse()
            .map_err(|e| Failure::new(format!("{}: {e}", dns_address_file(&data_dir).display())))?;
        net::link::release(address)
            .map_err(|e| Failure::new(format!("cannot give up the address {address}: {e}")))?;
    }
    let routes = match note(&cluster_cidr_file(&data_dir))? {
        Some(range) => Some(cidr(&range)?),
        None => None,
    };
    net::cleanup(&net::Leftovers {
        tables: &[&dirs.services_table, &dirs.pods_table],
        link_prefix: &dirs.link_prefix,
        routes,
    })
    .map_err(|e| Failure::new(format!("cannot remove the network: {e}")))?;
    let kubelet_root = note(&kubelet_root_file(&data_dir))?.map(PathBuf::from);
    let mut leftovers = vec![dirs.run.clone(), data_dir.clone(), dirs.kubelet.clone()];
    // First, while it is still written where it is.
    leftovers.splice(0..0, kubelet_root);
    if dirs.is_default {
        leftovers.extend([dirs.pod_logs.clone(), dirs.container_logs.clone()]);
    }
    for dir in leftovers {
        unmount_below(&dir)?;
        match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::new(format!(
                    "cannot remove {}: {e}",
                    dir.display()
                )));
            }
            _ => {}
        }
    }
    remove_cgroups(&dirs.cgroup);
    println!("removed the cluster of {}", data_dir.display());
    Ok(())
}

/// What a part wrote down about what it did to the machine.
fn note(path: &Path) -> Result<Option<String>, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Failure::new(format!("cannot read {}: {e}", path.display()))),
    }
}

/// No network is left to detach from: [`net::cleanup`] removes all of it.
struct NoNetwork;

#[async_trait::async_trait]
impl SandboxNetwork for NoNetwork {
    async fn add(
        &self,
        id: &SandboxId,
        _: &Path,
        _: &SandboxConfig,
    ) -> runtime::Result<NetworkStatus> {
        Err(runtime::Error::Network {
            sandbox: id.clone(),
            why: "this cluster is being removed".into(),
        })
    }
    async fn remove(&self, _: &SandboxId, _: &Path) -> runtime::Result<()> {
        Ok(())
    }
}

async fn remove_containers(data_dir: &Path, dirs: &Directories) -> Result<(), Failure> {
    let state = dirs.run.join("runtime");
    if !state.exists() {
        return Ok(());
    }
    let options = runtime::Options {
        root: data_dir.join("runtime"),
        state,
        network: Arc::new(NoNetwork),
        world: world::World::real(),
        self_exe: "/proc/self/exe".into(),
        cgroup_root: String::new(),
        cgroup_driver: runtime::CgroupDriver::default(),
    };
    let runtime = runtime::Embedded::open(options)
        .await
        .map_err(|e| Failure::new(format!("cannot take over the containers: {e}")))?;
    for sandbox in runtime.list_pod_sandboxes().await.map_err(Failure::new)? {
        for container in runtime.list_containers().await.map_err(Failure::new)? {
            if container.sandbox_id == sandbox.id {
                runtime
                    .stop_container(&container.id, Duration::ZERO)
                    .await
                    .map_err(Failure::new)?;
            }
        }
        runtime
            .stop_pod_sandbox(&sandbox.id)
            .await
            .map_err(Failure::new)?;
        runtime
            .remove_pod_sandbox(&sandbox.id)
            .await
            .map_err(Failure::new)?;
    }
    Ok(())
}

/// Unmounts everything below `dir`, deepest first.
fn unmount_below(dir: &Path) -> Result<(), Failure> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").map_err(Failure::new)?;
    let mut points: Vec<&str> = table
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .filter(|point| Path::new(point).starts_with(dir))
        .collect();
    points.sort_by_key(|p| std::cmp::Reverse(p.len()));
    for point in points {
        let status = std::process::Command::new("umount")
            .args(["-l", point])
            .status()
            .map_err(Failure::new)?;
        if !status.success() {
            return Err(Failure::new(format!("cannot unmount {point}")));
        }
    }
    Ok(())
}

/// Removes the Pods' cgroups, empty by now, from every hierarchy.
fn remove_cgroups(name: &str) {
    fn remove(dir: &Path) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                remove(&entry.path());
            }
        }
        if let Err(error) = std::fs::remove_dir(dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("warning: cannot remove {}: {error}", dir.display());
        }
    }
    let name = name.trim_start_matches('/');
    let root = Path::new("/sys/fs/cgroup");
    remove(&root.join(name));
    for hierarchy in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let dir = hierarchy.path().join(name);
        if hierarchy.path().is_dir() && dir.exists() {
            remove(&dir);
        }
    }
}

fn confirmed(data_dir: &std::path::Path) -> Result<bool, Failure> {
    print!(
        "remove the cluster in {} with all its data? [y/N] ",
        data_dir.display()
    );
    std::io::stdout().flush().map_err(Failure::new)?;
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .map_err(Failure::new)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}
