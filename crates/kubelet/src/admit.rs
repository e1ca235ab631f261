//! Whether this node can run a Pod as its spec says. Pure.
//!
//! A Pod that asks for something the node cannot give must fail and say why, rather than run without it. Follows upstream's
//! admission in the kubelet: such a Pod is `Failed` before anything of it is made.

use crate::plan::Ended;
use crate::spec::Pod;

/// Namespaced and without effect on other Pods: upstream's list of what is allowed unless an administrator allows more.
/// <https://kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster/#safe-and-unsafe-sysctls>
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];
/// The API copies it to `appArmorProfile`; older objects have only this.
const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Why the Pod can't run here; `selinux` says whether the machine enforces SELinux' labels.
#[must_use]
pub fn refusal(pod: &Pod, selinux: bool) -> Option<Ended> {
    let ended = |reason: &str, message: String| Ended {
        reason: reason.into(),
        message: format!("Pod was rejected: {message}"),
    };
    if let Some(why) = pod
        .spec
        .security_context
        .sysctls
        .iter()
        .find_map(|s| sysctl(pod, &s.name))
    {
        return Some(ended("SysctlForbidden", format!("forbidden sysctl: {why}")));
    }
    if pod.spec.host_users == Some(false) {
        let why =
            "hostUsers: false needs user namespaces, which this node's runtime does not offer";
        return Some(ended("UserNamespacesNotSupported", why.into()));
    }
    if let Some(container) = wants_apparmor(pod) {
        let why = format!(
            "Cannot enforce AppArmor: container \"{container}\" has a profile, and this node's runtime applies none"
        );
        return Some(ended("AppArmor", why));
    }
    // Where labels mean nothing, upstream too runs the Pod without.
    let labelled = pod.spec.security_context.se_linux_options.is_some()
        || pod
            .all()
            .any(|(_, c)| c.security_context.se_linux_options.is_some());
    if selinux && labelled {
        let why = "seLinuxOptions are set, and this node's runtime applies no SELinux labels";
        return Some(ended("SELinuxNotSupported", why.into()));
    }
    None
}

fn sysctl(pod: &Pod, name: &str) -> Option<String> {
    let name = runtime::sysctl_with_dots(name);
    if !SAFE_SYSCTLS.contains(&name.as_str()) {
        return Some(format!("\"{name}\" not allowlisted"));
    }
    let (shared, namespace) = if name.starts_with("net.") {
        (pod.spec.host_network, "Net")
    } else {
        (pod.spec.host_ipc, "IPC")
    };
    shared.then(|| format!("\"{name}\" not allowed with host {namespace} enabled"))
}

fn wants_apparmor(pod: &Pod) -> Option<&str> {
    let of_pod = pod.spec.security_context.app_armor_profile.as_ref();
    pod.all().find_map(|(_, c)| {
        let profile = c.security_context.app_armor_profile.as_ref().or(of_pod);
        let annotation = pod
            .metadata
            .annotations
            .get(&format!("{APPARMOR_ANNOTATION}{}", c.name));
        let wanted = match (profile, annotation) {
            (Some(profile), _) => profile.kind != "Unconfined",
            (None, Some(text)) => !text.is_empty() && text != "unconfined",
            (None, None) => false,
        };
        wanted.then_some(c.name.as_str())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn why(spec: Value, selinux: bool) -> String {
        let mut pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        if pod.spec.containers.is_empty() {
            pod.spec.containers = serde_json::from_value(json!([{"name": "c"}])).unwrap();
        }
        refusal(&pod, selinux).map_or("runs".into(), |e| format!("{}: {}", e.reason, e.message))
    }

    #[test]
    fn only_safe_sysctls_of_own_namespaces() {
        let set = |name: &str, network: bool| {
            let context = json!({"sysctls": [{"name": name, "value": "1"}]});
            why(
                json!({"hostNetwork": network, "securityContext": context}),
                false,
            )
        };
        assert_eq!(set("net.ipv4.tcp_syncookies", false), "runs");
        assert_eq!(set("net/ipv4/tcp_syncookies", false), "runs");
        assert_eq!(
            set("net.ipv4.tcp_syncookies", true),
            "SysctlForbidden: Pod was rejected: forbidden sysctl: \"net.ipv4.tcp_syncookies\" not allowed with host Net enabled"
        );
        for name in [
            "kernel.msgmax",
            "kernel.core_pattern",
            "vm.overcommit_memory",
            "net.core.somaxconn",
        ] {
            assert_eq!(
                set(name, false),
                format!(
                    "SysctlForbidden: Pod was rejected: forbidden sysctl: \"{name}\" not allowlisted"
                )
            );
        }
    }

    #[test]
    fn what_the_node_cannot_do_is_said() {
        assert_eq!(why(json!({}), true), "runs");
        assert_eq!(why(json!({"hostUsers": true}), true), "runs");
        assert!(
            why(json!({"hostUsers": false}), false).starts_with("UserNamespacesNotSupported: ")
        );
        let profile = |of_pod: Value, own: Value| {
            why(
                json!({
                    "securityContext": {"appArmorProfile": of_pod},
                    "containers": [{"name": "c", "securityContext": {"appArmorProfile": own}}],
                }),
                false,
            )
        };
        let (unconfined, default) = (
            json!({"type": "Unconfined"}),
            json!({"type": "RuntimeDefault"}),
        );
        let local = json!({"type": "Localhost", "localhostProfile": "p"});
        assert_eq!(profile(unconfined.clone(), Value::Null), "runs");
        assert_eq!(profile(local.clone(), unconfined.clone()), "runs");
        for refused in [default, local] {
            assert!(profile(refused.clone(), Value::Null).starts_with("AppArmor: "));
            assert!(profile(unconfined.clone(), refused).starts_with("AppArmor: "));
        }
        let labels = json!({"securityContext": {"seLinuxOptions": {"type": "spc_t"}}});
        assert_eq!(why(labels.clone(), false), "runs");
        assert!(why(labels, true).starts_with("SELinuxNotSupported: "));
    }
}
