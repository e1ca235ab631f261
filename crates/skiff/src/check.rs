//! `skiff check`: what the kernel and the machine lack.

use std::path::Path;

use crate::{Common, Failure, admin};

/// One thing that a node needs.
struct Finding {
    what: &'static str,
    /// What is there, or `Err`: what is missing and what to do.
    state: Result<String, String>,
    /// Whether a node cannot run without it.
    needed: bool,
}

/// Looks at everything and prints it.
///
/// # Errors
/// When something that is needed is missing.
pub fn run(common: &Common) -> Result<(), Failure> {
    let findings = look();
    for finding in &findings {
        match &finding.state {
            Ok(found) => println!("ok       {:<22} {found}", finding.what),
            Err(why) if finding.needed => println!("MISSING  {:<22} {why}", finding.what),
            Err(why) => println!("note     {:<22} {why}", finding.what),
        }
    }
    let socket = admin::socket_path(&common.data_dir);
    let running = std::os::unix::net::UnixStream::connect(&socket).is_ok();
    println!(
        "{:<8} {:<22} {}",
        if running { "ok" } else { "note" },
        "server",
        if running { "running" } else { "not running" }
    );
    let missing = findings
        .iter()
        .filter(|f| f.needed && f.state.is_err())
        .count();
    if missing == 0 {
        println!("this machine can run a node");
        return Ok(());
    }
    Err(Failure::new(format!(
        "{missing} of what a node needs is missing"
    )))
}

/// Refuses to start a node on a machine that cannot run one, saying why.
///
/// # Errors
/// The first thing that is missing.
pub fn demand_node() -> Result<(), Failure> {
    match look().into_iter().find(|f| f.needed && f.state.is_err()) {
        Some(Finding { what, state: Err(why), .. }) => {
            Err(Failure::new(format!("this machine cannot run a node: {what}: {why}"))
                .hint("`skiff check` shows everything; a control plane alone runs with --disable kubelet,proxy,dns"))
        }
        _ => Ok(()),
    }
}

fn look() -> Vec<Finding> {
    let needed = |what, state| Finding {
        what,
        state,
        needed: true,
    };
    let wanted = |what, state| Finding {
        what,
        state,
        needed: false,
    };
    vec![
        needed("root", root()),
        needed("kernel", kernel()),
        needed("cgroups", cgroups()),
        needed("overlayfs", overlay()),
        needed("namespaces", namespaces()),
        needed("seccomp", seccomp()),
        needed("nf_tables", nf_tables()),
        needed("veth", veth()),
        wanted(
            "vxlan",
            module(
                "vxlan",
                "VXLAN",
                "needed only between machines that are not on one network",
            ),
        ),
        wanted("IPv4 forwarding", forwarding()),
    ]
}

fn root() -> Result<String, String> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|e| e.to_string())?;
    let uid = status
        .lines()
        .find_map(|l| l.strip_prefix("Uid:"))
        .and_then(|l| l.split_whitespace().nth(1));
    match uid {
        Some("0") => Ok("yes".into()),
        Some(uid) => Err(format!("this is user {uid}; run it as root (sudo)")),
        None => Err("/proc/self/status does not say which user this is".into()),
    }
}

fn kernel() -> Result<String, String> {
    let release =
        std::fs::read_to_string("/proc/sys/kernel/osrelease").map_err(|e| e.to_string())?;
    let release = release.trim();
    let mut numbers = release
        .split(['.', '-'])
        .filter_map(|n| n.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= (5, 4) => Ok(release.to_owned()),
        _ => Err(format!("{release} is too old: 5.4 or newer is needed")),
    }
}

fn cgroups() -> Result<String, String> {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Ok("v2".into());
    }
    let need = ["cpu", "memory", "pids", "cpuset", "devices"];
    let missing: Vec<_> = need
        .iter()
        .filter(|c| !Path::new("/sys/fs/cgroup").join(c).exists())
        .collect();
    if missing.is_empty() {
        Ok("v1".into())
    } else {
        Err(format!(
            "no {missing:?} below /sys/fs/cgroup; mount cgroup2 there"
        ))
    }
}

/// The first mount loads the module: distributions boot without it.
fn overlay() -> Result<String, String> {
    let list = std::fs::read_to_string("/proc/filesystems").map_err(|e| e.to_string())?;
    if list.split_whitespace().any(|w| w == "overlay") {
        return Ok("yes".into());
    }
    module("overlay", "OVERLAY_FS", "images are mounted with it")
}

fn namespaces() -> Result<String, String> {
    let missing: Vec<_> = ["net", "mnt", "uts", "ipc", "pid"]
        .into_iter()
        .filter(|n| !Path::new("/proc/self/ns").join(n).exists())
        .collect();
    if missing.is_empty() {
        Ok("net mnt uts ipc pid".into())
    } else {
        Err(format!("the kernel has none of {missing:?}"))
    }
}

fn seccomp() -> Result<String, String> {
    match std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) if actions.contains("errno") => Ok("filters".into()),
        _ => Err("the kernel cannot filter system calls (CONFIG_SECCOMP_FILTER)".into()),
    }
}

fn nf_tables() -> Result<String, String> {
    match net::nft::available() {
        Ok(()) => Ok("yes".into()),
        Err(error) => Err(format!("{error}; try: modprobe nf_tables")),
    }
}

fn veth() -> Result<String, String> {
    module("veth", "VETH", "Pods need it")
}

/// Whether a module is loaded, built in, or can be loaded.
fn module(name: &str, option: &str, why: &str) -> Result<String, String> {
    if Path::new("/sys/module").join(name).exists() {
        return Ok("yes".into());
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let dir = Path::new("/lib/modules").join(release.trim());
    for list in ["modules.builtin", "modules.dep"] {
        let listed = std::fs::read_to_string(dir.join(list)).unwrap_or_default();
        if listed.contains(&format!("/{name}.ko")) {
            return Ok("as a module".into());
        }
    }
    if config_has(&format!("CONFIG_{option}=y")) {
        return Ok("built in".into());
    }
    Err(format!("no module {name} ({why})"))
}

fn config_has(line: &str) -> bool {
    let Ok(output) = std::process::Command::new("zcat")
        .arg("/proc/config.gz")
        .output()
    else {
        return false;
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .any(|l| l == line)
}

fn forwarding() -> Result<String, String> {
    match std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")
        .as_deref()
        .map(str::trim)
    {
        Ok("1") => Ok("on".into()),
        _ => Err("off; the server turns it on".into()),
    }
}

/// `PID (NAME)` of the process that listens on a TCP port.
#[must_use]
pub fn holder_of_port(port: u16) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|table| {
            let text = std::fs::read_to_string(table).ok()?;
            text.lines().skip(1).find_map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                let local = fields.get(1)?.rsplit_once(':')?.1;
                let listening = fields.get(3) == Some(&"0A");
                if listening && u16::from_str_radix(local, 16) == Ok(port) {
                    fields.get(9).map(|f| (*f).to_owned())
                } else {
                    None
                }
            })
        });
    let inode: String = inode?;
    let wanted = format!("socket:[{inode}]");
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(files) = std::fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        if files
            .flatten()
            .any(|f| std::fs::read_link(f.path()).is_ok_and(|l| l.to_string_lossy() == wanted))
        {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{pid} ({})", name.trim()));
        }
    }
    None
}
