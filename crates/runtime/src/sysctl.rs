//! Names of kernel parameters, and which of them belong to a Pod's own namespaces.
//!
//! <https://man7.org/linux/man-pages/man5/sysctl.d.5.html>: the first separator says whether dots or slashes separate.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::types::{LinuxSandboxConfig, NamespaceMode};

/// With dots between the parts, in which slashes stand for dots.
#[must_use]
pub fn sysctl_with_dots(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => swapped(name),
        _ => name.to_owned(),
    }
}

fn swapped(name: &str) -> String {
    name.chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            c => c,
        })
        .collect()
}

/// The parameter's file.
pub(crate) fn file(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(swapped(&sysctl_with_dots(name)))
}

/// Refuses what is not the sandbox's own: it would be set for the whole machine.
pub(crate) fn check(config: &LinuxSandboxConfig) -> Result<()> {
    for name in config.sysctls.keys() {
        let dots = sysctl_with_dots(name);
        let bad = |why: &str| Err(Error::InvalidArgument(format!("sysctl {name:?} {why}")));
        let parts = swapped(&dots);
        if parts.split('/').any(|p| matches!(p, "" | "." | "..")) {
            return bad("is malformed");
        }
        let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."];
        let namespace = if dots.starts_with("net.") {
            config.namespaces.network
        } else if dots == "kernel.sem" || ipc.iter().any(|p| dots.starts_with(p)) {
            config.namespaces.ipc
        } else {
            return bad("is not in a separate kernel namespace");
        };
        if namespace == NamespaceMode::Node {
            return bad("is not allowed in the node's namespace");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NamespaceOptions;

    #[test]
    fn only_namespaced_parameters_pass() {
        let passes = |name: &str, mode: NamespaceMode| {
            let config = LinuxSandboxConfig {
                sysctls: [(name.to_owned(), "1".to_owned())].into(),
                namespaces: NamespaceOptions {
                    network: mode,
                    ipc: mode,
                    ..NamespaceOptions::default()
                },
                ..LinuxSandboxConfig::default()
            };
            check(&config).is_ok()
        };
        for own in [
            "net.core.somaxconn",
            "net/ipv4/conf/eth0.7/forwarding",
            "kernel.shmmax",
            "kernel.msgmax",
            "kernel.sem",
            "fs.mqueue.msg_max",
        ] {
            assert!(passes(own, NamespaceMode::Pod), "{own}");
            assert!(!passes(own, NamespaceMode::Node), "{own}");
        }
        for other in [
            "kernel.core_pattern",
            "kernel.semaphore",
            "vm.swappiness",
            "fs.file-max",
            "net/../kernel/core_pattern",
            "net//x",
            "net./.x",
            "network",
            "",
        ] {
            assert!(!passes(other, NamespaceMode::Pod), "{other}");
        }
        let path = |name| file(name).to_string_lossy().into_owned();
        assert_eq!(path("net.ipv4.ip_forward"), "/proc/sys/net/ipv4/ip_forward");
        assert_eq!(
            path("net/ipv4/conf/eth0.7/x"),
            "/proc/sys/net/ipv4/conf/eth0.7/x"
        );
        assert_eq!(
            path("net.ipv4.conf.eth0/7.x"),
            "/proc/sys/net/ipv4/conf/eth0.7/x"
        );
    }
}
