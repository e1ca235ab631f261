//! The checks of the Pod Security Standards, each with the versions it has changed in.
//!
//! Follows <https://kubernetes.io/docs/concepts/security/pod-security-standards/>; reasons and details are upstream's.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Level, Version};
use crate::object::{items, text};

/// A Pod, or the template of one.
pub struct Pod<'a> {
    pub annotations: &'a Value,
    pub spec: &'a Value,
}

/// Why a Pod is not within a level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub reason: String,
    pub detail: String,
}

type Finding = Option<Violation>;

/// A check, under upstream's name for it.
pub struct Check {
    pub level: Level,
    /// The first minor version that has it.
    since: u32,
    /// A baseline check that it replaces at the restricted level.
    replaces: &'static str,
    id: &'static str,
    check: fn(&Pod<'_>, u32) -> Finding,
}

/// In the order in which their findings are told.
const CHECKS: [Check; 19] = [
    baseline("appArmorProfile", 0, app_armor),
    baseline("capabilities_baseline", 0, default_capabilities),
    baseline("hostNamespaces", 0, host_namespaces),
    baseline("hostPathVolumes", 0, host_path_volumes),
    baseline("hostPorts", 0, host_ports),
    baseline("hostProbesAndHostLifecycle", 34, probe_hosts),
    baseline("privileged", 0, privileged),
    baseline("procMount", 0, proc_mount_baseline),
    baseline("seLinuxOptions", 0, selinux),
    baseline("seccompProfile_baseline", 0, seccomp_baseline),
    baseline("sysctls", 0, sysctls),
    baseline("windowsHostProcess", 0, windows_host_process),
    restricted("allowPrivilegeEscalation", 8, "", privilege_escalation),
    restricted(
        "capabilities_restricted",
        22,
        "capabilities_baseline",
        restricted_capabilities,
    ),
    restricted("procMount_restricted", 35, "procMount", |pod, _| {
        proc_mount(pod)
    }),
    restricted(
        "restrictedVolumes",
        0,
        "hostPathVolumes",
        restricted_volumes,
    ),
    restricted("runAsNonRoot", 0, "", run_as_non_root),
    restricted("runAsUser", 23, "", run_as_user),
    restricted(
        "seccompProfile_restricted",
        19,
        "seccompProfile_baseline",
        seccomp_restricted,
    ),
];

const fn baseline(id: &'static str, since: u32, check: fn(&Pod<'_>, u32) -> Finding) -> Check {
    Check {
        level: Level::Baseline,
        since,
        replaces: "",
        id,
        check,
    }
}

const fn restricted(
    id: &'static str,
    since: u32,
    replaces: &'static str,
    check: fn(&Pod<'_>, u32) -> Finding,
) -> Check {
    Check {
        level: Level::Restricted,
        since,
        replaces,
        id,
        check,
    }
}

/// What of `pod` is not within `level`, as `version` defines it.
pub fn violations(pod: &Pod<'_>, level: Level, version: Version) -> Vec<Violation> {
    let minor = version.minor();
    let counts = |c: &&Check| c.level <= level && c.since <= minor;
    let replaced = |id: &str| CHECKS.iter().filter(counts).any(|c| c.replaces == id);
    let checks = CHECKS.iter().filter(counts).filter(|c| !replaced(c.id));
    checks.filter_map(|c| (c.check)(pod, minor)).collect()
}

fn containers<'a>(pod: &Pod<'a>) -> impl Iterator<Item = &'a Value> {
    let spec = pod.spec;
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(move |list| items(spec, &[list]))
}

fn name(container: &Value) -> String {
    text(container, &["name"]).to_owned()
}

fn quoted<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    let items: Vec<String> = items
        .into_iter()
        .map(|i| format!("\"{}\"", i.as_ref()))
        .collect();
    items.join(", ")
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

fn found(reason: &str, detail: String) -> Finding {
    Some(Violation {
        reason: reason.to_owned(),
        detail,
    })
}

/// `container "a"`, `containers "a", "b"`.
fn those(bad: &[String]) -> String {
    format!(
        "{} {}",
        plural("container", "containers", bad.len()),
        quoted(bad)
    )
}

/// `pod and containers "a", "b"`: who sets something, the Pod itself among them.
fn setters(pod: bool, bad: &[String]) -> Option<String> {
    let pod = pod.then(|| "pod".to_owned());
    let bad = (!bad.is_empty()).then(|| those(bad));
    let parts: Vec<String> = pod.into_iter().chain(bad).collect();
    (!parts.is_empty()).then(|| parts.join(" and "))
}

fn names_where(pod: &Pod<'_>, is_bad: impl Fn(&Value) -> bool) -> Vec<String> {
    containers(pod).filter(|c| is_bad(c)).map(name).collect()
}

fn is_windows(pod: &Pod<'_>) -> bool {
    text(pod.spec, &["os", "name"]) == "windows"
}

/// A user namespace of its own takes the edge off what root may do.
fn in_user_namespace(pod: &Pod<'_>) -> bool {
    pod.spec["hostUsers"] == false
}

fn app_armor(pod: &Pod<'_>, _: u32) -> Finding {
    const PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
    let mut values = BTreeSet::new();
    let mut is_bad = |of: &Value| {
        let profile = &of["securityContext"]["appArmorProfile"];
        let ty = text(profile, &["type"]);
        let bad = profile.is_object() && !matches!(ty, "RuntimeDefault" | "Localhost");
        if bad {
            values.insert(ty.to_owned());
        }
        bad
    };
    let pod_itself = is_bad(pod.spec);
    let mut bad = Vec::new();
    for container in containers(pod) {
        if is_bad(container) {
            bad.push(name(container));
        }
    }
    let mut who: Vec<String> = setters(pod_itself, &bad).into_iter().collect();
    let mut values: Vec<String> = values.into_iter().collect();
    let allowed = |v: &str| v.is_empty() || v == "runtime/default" || v.starts_with("localhost/");
    let annotations = pod.annotations.as_object().into_iter().flatten();
    let mut forbidden: Vec<String> = annotations
        .filter(|(k, v)| k.starts_with(PREFIX) && !allowed(v.as_str().unwrap_or("")))
        .map(|(k, v)| format!("{k}={:?}", v.as_str().unwrap_or("")))
        .collect();
    if !forbidden.is_empty() {
        forbidden.sort();
        who.push(plural("annotation", "annotations", forbidden.len()).to_owned());
        values.append(&mut forbidden);
    }
    if who.is_empty() {
        return None;
    }
    let reason = plural(
        "forbidden AppArmor profile",
        "forbidden AppArmor profiles",
        values.len(),
    );
    let who = who.join(" and ");
    found(
        reason,
        format!(
            "{who} must not set AppArmor profile type to {}",
            quoted(values)
        ),
    )
}

const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

fn capabilities<'a>(container: &'a Value, list: &str) -> impl Iterator<Item = &'a str> {
    let list = items(container, &["securityContext", "capabilities", list]);
    list.iter().filter_map(Value::as_str)
}

/// The containers that add a capability other than `allowed`, and which.
fn adding(pod: &Pod<'_>, allowed: &[&str]) -> (Vec<String>, BTreeSet<String>) {
    let mut added = BTreeSet::new();
    let mut bad = Vec::new();
    for container in containers(pod) {
        let before = bad.len();
        for capability in capabilities(container, "add").filter(|c| !allowed.contains(c)) {
            added.insert(capability.to_owned());
            if bad.len() == before {
                bad.push(name(container));
            }
        }
    }
    (bad, added)
}

fn must_not_add(bad: &[String], added: BTreeSet<String>) -> String {
    format!(
        "{} must not include {} in securityContext.capabilities.add",
        those(bad),
        quoted(added)
    )
}

fn default_capabilities(pod: &Pod<'_>, _: u32) -> Finding {
    let (bad, added) = adding(pod, &DEFAULT_CAPABILITIES);
    if bad.is_empty() {
        return None;
    }
    found("non-default capabilities", must_not_add(&bad, added))
}

fn restricted_capabilities(pod: &Pod<'_>, minor: u32) -> Finding {
    if minor >= 25 && is_windows(pod) {
        return None;
    }
    let keeping = names_where(pod, |c| capabilities(c, "drop").all(|d| d != "ALL"));
    let (bad, added) = adding(pod, &["NET_BIND_SERVICE"]);
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            those(&keeping)
        ));
    }
    if !bad.is_empty() {
        details.push(must_not_add(&bad, added));
    }
    if details.is_empty() {
        return None;
    }
    found("unrestricted capabilities", details.join("; "))
}

fn host_namespaces(pod: &Pod<'_>, _: u32) -> Finding {
    let shared: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|field| pod.spec[*field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    if shared.is_empty() {
        return None;
    }
    found("host namespaces", shared.join(", "))
}

fn host_path_volumes(pod: &Pod<'_>, _: u32) -> Finding {
    let volumes = items(pod.spec, &["volumes"]).iter();
    let bad: Vec<String> = volumes
        .filter(|v| v["hostPath"].is_object())
        .map(name)
        .collect();
    if bad.is_empty() {
        return None;
    }
    let volumes = plural("volume", "volumes", bad.len());
    found("hostPath volumes", format!("{volumes} {}", quoted(bad)))
}

fn host_ports(pod: &Pod<'_>, _: u32) -> Finding {
    let of = |container: &Value| -> Vec<String> {
        let ports = items(container, &["ports"]).iter();
        let ports = ports.filter_map(|p| p["hostPort"].as_i64());
        ports.filter(|p| *p != 0).map(|p| p.to_string()).collect()
    };
    let bad = names_where(pod, |c| !of(c).is_empty());
    if bad.is_empty() {
        return None;
    }
    let ports: BTreeSet<String> = containers(pod).flat_map(of).collect();
    let detail = format!(
        "{} {} {} {}",
        those(&bad),
        plural("uses", "use", bad.len()),
        plural("hostPort", "hostPorts", ports.len()),
        ports.into_iter().collect::<Vec<_>>().join(", ")
    );
    found("hostPort", detail)
}

fn probe_hosts(pod: &Pod<'_>, _: u32) -> Finding {
    const HANDLERS: [&[&str]; 5] = [
        &["livenessProbe"],
        &["readinessProbe"],
        &["startupProbe"],
        &["lifecycle", "postStart"],
        &["lifecycle", "preStop"],
    ];
    let hosts = |container: &Value| -> Vec<String> {
        let mut hosts = Vec::new();
        for handler in HANDLERS {
            for action in ["httpGet", "tcpSocket"] {
                let path: Vec<&str> = handler.iter().copied().chain([action, "host"]).collect();
                hosts.push(text(container, &path).to_owned());
            }
        }
        hosts.retain(|h| !h.is_empty());
        hosts
    };
    let bad: BTreeSet<String> = names_where(pod, |c| !hosts(c).is_empty())
        .into_iter()
        .collect();
    if bad.is_empty() {
        return None;
    }
    let forbidden: BTreeSet<String> = containers(pod).flat_map(hosts).collect();
    let bad: Vec<String> = bad.into_iter().collect();
    let detail = format!(
        "{} {} {} {}",
        those(&bad),
        plural("uses", "use", bad.len()),
        plural(
            "probe or lifecycle host",
            "probe or lifecycle hosts",
            forbidden.len()
        ),
        quoted(forbidden)
    );
    found("probe or lifecycle host", detail)
}

fn privileged(pod: &Pod<'_>, _: u32) -> Finding {
    let bad = names_where(pod, |c| c["securityContext"]["privileged"] == true);
    if bad.is_empty() {
        return None;
    }
    let who = those(&bad);
    found(
        "privileged",
        format!("{who} must not set securityContext.privileged=true"),
    )
}

fn proc_mount_baseline(pod: &Pod<'_>, minor: u32) -> Finding {
    if minor >= 35 && in_user_namespace(pod) {
        return None;
    }
    proc_mount(pod)
}

fn proc_mount(pod: &Pod<'_>) -> Finding {
    let of = |c: &Value| {
        let mount = c["securityContext"]["procMount"].as_str();
        mount.filter(|m| *m != "Default").map(str::to_owned)
    };
    let bad = names_where(pod, |c| of(c).is_some());
    if bad.is_empty() {
        return None;
    }
    let values: BTreeSet<String> = containers(pod).filter_map(of).collect();
    let who = those(&bad);
    found(
        "procMount",
        format!(
            "{who} must not set securityContext.procMount to {}",
            quoted(values)
        ),
    )
}

fn selinux(pod: &Pod<'_>, minor: u32) -> Finding {
    let mut types = vec!["", "container_t", "container_init_t", "container_kvm_t"];
    if minor >= 31 {
        types.push("container_engine_t");
    }
    let options = |of: &Value| of["securityContext"]["seLinuxOptions"].clone();
    let bad_type = |o: &Value| {
        let ty = text(o, &["type"]);
        (!types.contains(&ty)).then(|| ty.to_owned())
    };
    let sets = |o: &Value, field: &str| !text(o, &[field]).is_empty();
    let is_bad = |of: &Value| {
        let options = options(of);
        bad_type(&options).is_some() || sets(&options, "user") || sets(&options, "role")
    };
    let who = setters(is_bad(pod.spec), &names_where(pod, is_bad))?;
    let all: Vec<Value> = containers(pod).chain([pod.spec]).map(options).collect();
    let bad_types: BTreeSet<String> = all.iter().filter_map(bad_type).collect();
    let mut data = Vec::new();
    if !bad_types.is_empty() {
        let types = plural("type", "types", bad_types.len());
        data.push(format!("{types} {}", quoted(bad_types)));
    }
    for field in ["user", "role"] {
        if all.iter().any(|o| sets(o, field)) {
            data.push(format!("{field} may not be set"));
        }
    }
    let data = data.join("; ");
    found(
        "seLinuxOptions",
        format!("{who} set forbidden securityContext.seLinuxOptions: {data}"),
    )
}

/// The seccomp profile that a Pod or container sets.
fn seccomp(of: &Value) -> Option<&str> {
    let profile = &of["securityContext"]["seccompProfile"];
    profile.is_object().then(|| text(profile, &["type"]))
}

fn seccomp_allowed(ty: &str) -> bool {
    matches!(ty, "RuntimeDefault" | "Localhost")
}

/// The finding about those who set a profile that is not allowed.
fn seccomp_explicit(pod: &Pod<'_>) -> Finding {
    let bad_one = |of: &Value| {
        let ty = seccomp(of).filter(|ty| !seccomp_allowed(ty));
        ty.map(str::to_owned)
    };
    let is_bad = |of: &Value| bad_one(of).is_some();
    let who = setters(is_bad(pod.spec), &names_where(pod, is_bad))?;
    let all = containers(pod).chain([pod.spec]);
    let values: BTreeSet<String> = all.filter_map(bad_one).collect();
    found(
        "seccompProfile",
        format!(
            "{who} must not set securityContext.seccompProfile.type to {}",
            quoted(values)
        ),
    )
}

fn seccomp_baseline(pod: &Pod<'_>, minor: u32) -> Finding {
    if minor < 19 {
        return seccomp_annotations(pod);
    }
    seccomp_explicit(pod)
}

/// Before 1.19 the profile was in annotations.
fn seccomp_annotations(pod: &Pod<'_>) -> Finding {
    const POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    const PREFIX: &str = "container.seccomp.security.alpha.kubernetes.io/";
    let keys = containers(pod).map(|c| format!("{PREFIX}{}", name(c)));
    let forbidden: BTreeSet<String> = keys
        .chain([POD.to_owned()])
        .filter_map(|key| Some((pod.annotations[&key].as_str()?, key)))
        .filter(|(v, _)| {
            !(matches!(*v, "runtime/default" | "docker/default") || v.starts_with("localhost/"))
        })
        .map(|(value, key)| format!("{key}={value:?}"))
        .collect();
    if forbidden.is_empty() {
        return None;
    }
    let annotations = plural("annotation", "annotations", forbidden.len());
    let list: Vec<String> = forbidden.into_iter().collect();
    found(
        "seccompProfile",
        format!("forbidden {annotations} {}", list.join(", ")),
    )
}

fn seccomp_restricted(pod: &Pod<'_>, minor: u32) -> Finding {
    if minor >= 25 && is_windows(pod) {
        return None;
    }
    if let Some(violation) = seccomp_explicit(pod) {
        return Some(violation);
    }
    if seccomp(pod.spec).is_some() {
        return None;
    }
    let without = names_where(pod, |c| seccomp(c).is_none());
    if without.is_empty() {
        return None;
    }
    let who = those(&without);
    found(
        "seccompProfile",
        format!(
            "pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""
        ),
    )
}

fn sysctls(pod: &Pod<'_>, minor: u32) -> Finding {
    const ALLOWED: [(&str, u32); 14] = [
        ("kernel.shm_rmid_forced", 0),
        ("net.ipv4.ip_local_port_range", 0),
        ("net.ipv4.tcp_syncookies", 0),
        ("net.ipv4.ping_group_range", 0),
        ("net.ipv4.ip_unprivileged_port_start", 0),
        ("net.ipv4.ip_local_reserved_ports", 27),
        ("net.ipv4.tcp_keepalive_time", 29),
        ("net.ipv4.tcp_fin_timeout", 29),
        ("net.ipv4.tcp_keepalive_intvl", 29),
        ("net.ipv4.tcp_keepalive_probes", 29),
        ("net.ipv4.tcp_rmem", 32),
        ("net.ipv4.tcp_wmem", 32),
        ("net.ipv4.tcp_slow_start_after_idle", 37),
        ("net.ipv4.tcp_notsent_lowat", 37),
    ];
    let allowed = |name: &str| {
        ALLOWED
            .iter()
            .any(|(n, since)| *n == name && *since <= minor)
    };
    let set = items(pod.spec, &["securityContext", "sysctls"]).iter();
    let bad: Vec<&str> = set
        .map(|s| text(s, &["name"]))
        .filter(|n| !allowed(n))
        .collect();
    if bad.is_empty() {
        return None;
    }
    found("forbidden sysctls", bad.join(", "))
}

fn windows_host_process(pod: &Pod<'_>, _: u32) -> Finding {
    let sets = |of: &Value| of["securityContext"]["windowsOptions"]["hostProcess"] == true;
    let who = setters(sets(pod.spec), &names_where(pod, sets))?;
    found(
        "hostProcess",
        format!("{who} must not set securityContext.windowsOptions.hostProcess=true"),
    )
}

fn privilege_escalation(pod: &Pod<'_>, minor: u32) -> Finding {
    if minor >= 25 && is_windows(pod) {
        return None;
    }
    let bad = names_where(pod, |c| {
        c["securityContext"]["allowPrivilegeEscalation"] != false
    });
    if bad.is_empty() {
        return None;
    }
    let who = those(&bad);
    found(
        "allowPrivilegeEscalation != false",
        format!("{who} must set securityContext.allowPrivilegeEscalation=false"),
    )
}

fn restricted_volumes(pod: &Pod<'_>, _: u32) -> Finding {
    const ALLOWED: [&str; 9] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let mut types = BTreeSet::new();
    let mut bad = Vec::new();
    for volume in items(pod.spec, &["volumes"]) {
        if ALLOWED.iter().any(|ty| volume[*ty].is_object()) {
            continue;
        }
        bad.push(name(volume));
        let fields = volume.as_object().into_iter().flatten();
        let ty = fields
            .filter(|(_, source)| source.is_object())
            .map(|(ty, _)| ty.clone())
            .next();
        types.insert(ty.unwrap_or_else(|| "unknown".into()));
    }
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", "volumes", bad.len()),
        quoted(&bad),
        plural("uses", "use", bad.len()),
        plural(
            "restricted volume type",
            "restricted volume types",
            types.len()
        ),
        quoted(types)
    );
    found("restricted volume types", detail)
}

fn run_as_non_root(pod: &Pod<'_>, minor: u32) -> Finding {
    const REASON: &str = "runAsNonRoot != true";
    if minor >= 35 && in_user_namespace(pod) {
        return None;
    }
    let set = |of: &Value| of["securityContext"]["runAsNonRoot"].as_bool();
    let refuses = |of: &Value| set(of) == Some(false);
    if let Some(who) = setters(refuses(pod.spec), &names_where(pod, refuses)) {
        let detail = format!("{who} must not set securityContext.runAsNonRoot=false");
        return found(REASON, detail);
    }
    let of_pod = set(pod.spec) == Some(true);
    let without = names_where(pod, |c| set(c).is_none() && !of_pod);
    if without.is_empty() {
        return None;
    }
    let who = those(&without);
    found(
        REASON,
        format!("pod or {who} must set securityContext.runAsNonRoot=true"),
    )
}

fn run_as_user(pod: &Pod<'_>, minor: u32) -> Finding {
    if minor >= 35 && in_user_namespace(pod) {
        return None;
    }
    let is_root = |of: &Value| of["securityContext"]["runAsUser"] == 0;
    let who = setters(is_root(pod.spec), &names_where(pod, is_root))?;
    found("runAsUser=0", format!("{who} must not set runAsUser=0"))
}
