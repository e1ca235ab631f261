//! Security contexts of Pods and containers.

use std::collections::BTreeSet;

use api::{FieldError, names};
use serde_json::Value;

use super::volume_sources::local_descending;
use crate::tree::{items, one_of, text};
use crate::{Errors, shown};

const MOST_ID: i64 = i32::MAX as i64;

/// The id of a user or group.
pub(super) fn validate_id(id: &Value, path: String, errors: &mut Errors) {
    if id.as_i64().is_some_and(|id| !(0..=MOST_ID).contains(&id)) {
        let detail = names::inclusive_range(0, MOST_ID);
        errors.push(FieldError::invalid(path, id, detail));
    }
}

pub(super) fn validate_ids(list: &Value, path: &str, errors: &mut Errors) {
    for (i, id) in items(list).iter().enumerate() {
        validate_id(id, format!("{path}[{i}]"), errors);
    }
}

/// The context of the Pod as a whole.
pub(super) fn validate_pod_context(spec: &Value, path: &str, errors: &mut Errors) {
    let context = &spec["securityContext"];
    for key in ["fsGroup", "runAsUser", "runAsGroup"] {
        validate_id(&context[key], format!("{path}.{key}"), errors);
    }
    let at = |key: &str| format!("{path}.{key}");
    let groups = &context["supplementalGroups"];
    validate_ids(groups, &at("supplementalGroups"), errors);
    if spec["shareProcessNamespace"] == true && spec["hostPID"] == true {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        let path = at("shareProcessNamespace");
        errors.push(FieldError::invalid(path, &true.into(), detail));
    }
    validate_sysctls(spec, &at("sysctls"), errors);
    let choices: [(&str, &[&str]); 3] = [
        ("fsGroupChangePolicy", &["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", &["Merge", "Strict"]),
        ("seLinuxChangePolicy", &["MountOption", "Recursive"]),
    ];
    for (key, allowed) in choices {
        one_of(&context[key], &at(key), allowed, errors);
    }
    validate_profiles(context, path, errors);
}

/// A container's context.
pub(super) fn validate_context(context: &Value, path: &str, host_users: bool, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    for key in ["runAsUser", "runAsGroup"] {
        validate_id(&context[key], at(key), errors);
    }
    let proc = &context["procMount"];
    one_of(proc, &at("procMount"), &["Default", "Unmasked"], errors);
    if host_users && *proc == "Unmasked" {
        let detail = "`hostUsers` must be false to use `Unmasked`";
        errors.push(FieldError::invalid(at("procMount"), proc, detail));
    }
    validate_escalation(context, path, errors);
    validate_profiles(context, path, errors);
}

fn validate_escalation(context: &Value, path: &str, errors: &mut Errors) {
    if context["allowPrivilegeEscalation"] != false {
        return;
    }
    let mut refuse = |detail: &str| {
        let shown = shown::show(context, &shown::SECURITY_CONTEXT);
        errors.push(shown::invalid(path, shown, detail));
    };
    if context["privileged"] == true {
        refuse("cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
    }
    for capability in items(&context["capabilities"]["add"]) {
        if capability == "CAP_SYS_ADMIN" {
            refuse(
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            );
        }
    }
}

fn validate_profiles(context: &Value, path: &str, errors: &mut Errors) {
    let seccomp = &context["seccompProfile"];
    validate_seccomp(seccomp, &format!("{path}.seccompProfile"), errors);
    let windows = &context["windowsOptions"];
    validate_windows(windows, &format!("{path}.windowsOptions"), errors);
    let armor = &context["appArmorProfile"];
    validate_app_armor(armor, &format!("{path}.appArmorProfile"), errors);
}

const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

fn validate_seccomp(profile: &Value, path: &str, errors: &mut Errors) {
    if !profile.is_object() {
        return;
    }
    let ty = text(&profile["type"]);
    if ty.is_empty() {
        let detail = "type is required when seccompProfile is set";
        errors.push(FieldError::required(format!("{path}.type"), detail));
    } else {
        one_of(&profile["type"], &format!("{path}.type"), &PROFILES, errors);
    }
    let at = format!("{path}.localhostProfile");
    match (ty, profile["localhostProfile"].as_str()) {
        ("Localhost", None) => {
            let detail = "must be set when seccomp type is Localhost";
            errors.push(FieldError::required(at, detail));
        }
        ("Localhost", Some(local)) => local_descending(local, &at, errors),
        (_, Some(_)) => {
            let shown = shown::show(profile, &shown::SECCOMP);
            let detail = "can only be set when seccomp type is Localhost";
            errors.push(shown::invalid(at, shown, detail));
        }
        (_, None) => {}
    }
}

fn validate_app_armor(profile: &Value, path: &str, errors: &mut Errors) {
    /// A path of Linux, without its end.
    const MOST_BYTES: usize = 4095;
    if !profile.is_object() {
        return;
    }
    let at = format!("{path}.localhostProfile");
    let needed = "must be set when AppArmor type is Localhost";
    match (text(&profile["type"]), profile["localhostProfile"].as_str()) {
        ("Localhost", None | Some("")) => errors.push(FieldError::required(at, needed)),
        ("Localhost", Some(local)) => {
            if local.trim() != local {
                let detail = "must not be padded with whitespace";
                errors.push(FieldError::invalid_str(&at, local, detail));
            }
            if local.len() > MOST_BYTES {
                errors.push(FieldError::too_long(&at, MOST_BYTES));
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(local)) => {
            let detail = "can only be set when AppArmor type is Localhost";
            errors.push(FieldError::invalid_str(at, local, detail));
        }
        ("RuntimeDefault" | "Unconfined", None) => {}
        ("", _) => {
            let detail = "type is required when appArmorProfile is set";
            errors.push(FieldError::required(format!("{path}.type"), detail));
        }
        _ => one_of(&profile["type"], &format!("{path}.type"), &PROFILES, errors),
    }
}

fn validate_windows(options: &Value, path: &str, errors: &mut Errors) {
    const MOST_KIB: usize = 64;
    if let Some(name) = options["gmsaCredentialSpecName"].as_str() {
        let path = format!("{path}.gmsaCredentialSpecName");
        let wrong = names::dns1123_subdomain(name);
        crate::tree::invalid_all(&path, name, wrong, errors);
    }
    if let Some(spec) = options["gmsaCredentialSpec"].as_str() {
        let detail = match spec.len() {
            0 => "gmsaCredentialSpec cannot be an empty string".to_owned(),
            n if n > MOST_KIB * 1024 => {
                format!("gmsaCredentialSpec size must be under {MOST_KIB} KiB")
            }
            _ => String::new(),
        };
        if !detail.is_empty() {
            let path = format!("{path}.gmsaCredentialSpec");
            errors.push(FieldError::invalid_str(path, spec, detail));
        }
    }
    if let Some(name) = options["runAsUserName"].as_str() {
        for wrong in wrong_user_name(name) {
            // The value is a pointer upstream, which is shown as JSON for HTML.
            let shown = Value::from(name).to_string();
            let shown = shown
                .replace('<', "\\u003c")
                .replace('>', "\\u003e")
                .replace('&', "\\u0026");
            let path = format!("{path}.runAsUserName");
            errors.push(shown::invalid(path, shown, wrong));
        }
    }
}

/// What is wrong with `[domain\]user`.
fn wrong_user_name(name: &str) -> Vec<String> {
    const MOST_DOMAIN: usize = 256;
    const MOST_USER: usize = 104;
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string".into()];
    }
    if name.bytes().any(|b| b.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters".into()];
    }
    let parts: Vec<&str> = name.split('\\').collect();
    let (domain, user) = match parts[..] {
        [user] => (None, user),
        [domain, user] => (Some(domain), user),
        _ => return vec!["runAsUserName cannot contain more than one backslash".into()],
    };
    let mut wrong = Vec::new();
    if let Some(domain) = domain {
        if domain.len() >= MOST_DOMAIN {
            wrong.push(format!(
                "runAsUserName's Domain length must be under {MOST_DOMAIN} characters"
            ));
        }
        if !is_net_bios(domain) && !is_domain(domain) {
            wrong.push(
                "runAsUserName's Domain doesn't match the NetBios nor the DNS format".to_owned(),
            );
        }
    }
    if user.is_empty() {
        wrong.push("runAsUserName's User cannot be empty".into());
    } else if user.len() > MOST_USER {
        wrong.push(format!(
            "runAsUserName's User length must not be longer than {MOST_USER} characters"
        ));
    }
    if !user.is_empty() && user.bytes().all(|b| matches!(b, b'.' | b' ')) {
        wrong.push("runAsUserName's User cannot contain only periods or spaces".into());
    }
    if user.contains(|c| "\"/\\:;|=,+*?<>@[]".contains(c)) {
        wrong.push(
            "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]"
                .to_owned(),
        );
    }
    wrong
}

fn is_net_bios(domain: &str) -> bool {
    (1..=15).contains(&domain.chars().count())
        && !domain.starts_with('.')
        && !domain.contains(|c| "\\/:*?\"<>|".contains(c))
}

fn is_domain(domain: &str) -> bool {
    let label = |l: &str| {
        let b = l.as_bytes();
        (1..=63).contains(&b.len())
            && b[0].is_ascii_alphanumeric()
            && b[b.len() - 1].is_ascii_alphanumeric()
            && b.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'-')
    };
    domain.split('.').all(label)
}

fn validate_sysctls(spec: &Value, path: &str, errors: &mut Errors) {
    const MOST_BYTES: usize = 253;
    let mut seen = BTreeSet::new();
    for (i, sysctl) in items(&spec["securityContext"]["sysctls"])
        .iter()
        .enumerate()
    {
        let path = format!("{path}[{i}].name");
        let name = text(&sysctl["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else if name.len() > MOST_BYTES || !is_sysctl(name) {
            let detail = format!(
                "must have at most {MOST_BYTES} characters and match regex \
                 ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
            );
            errors.push(FieldError::invalid_str(&path, name, detail));
        } else if seen.contains(name) {
            errors.push(FieldError::duplicate(&path, &sysctl["name"]));
        }
        for (key, of_host) in [
            ("hostNetwork", is_of_network as fn(&str) -> bool),
            ("hostIPC", is_of_ipc),
        ] {
            if spec[key] == true && of_host(&name.replace('/', ".")) {
                let detail = format!("may not be specified when '{key}' is true");
                errors.push(FieldError::invalid_str(&path, name, detail));
                break;
            }
        }
        seen.insert(name);
    }
}

fn is_sysctl(name: &str) -> bool {
    let end = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.split(['.', '/']).all(|segment| {
        let b = segment.as_bytes();
        !b.is_empty()
            && end(b[0])
            && end(b[b.len() - 1])
            && b.iter().all(|&c| end(c) || matches!(c, b'-' | b'_'))
    })
}

fn is_of_network(sysctl: &str) -> bool {
    sysctl.starts_with("net.")
}

fn is_of_ipc(sysctl: &str) -> bool {
    sysctl == "kernel.sem"
        || ["kernel.shm", "kernel.msg", "fs.mqueue."]
            .iter()
            .any(|p| sysctl.starts_with(p))
}

/// User namespaces of their own do not go with other namespaces of the host.
pub(super) fn validate_host_users(spec: &Value, path: &str, errors: &mut Errors) {
    if spec["hostUsers"] != false {
        return;
    }
    for (key, shown) in [
        ("hostNetwork", "hostNetwork"),
        ("hostPID", "HostPID"),
        ("hostIPC", "HostIPC"),
    ] {
        if spec[key] == true {
            let detail = "when `pod.Spec.HostUsers` is false";
            errors.push(FieldError::forbidden(format!("{path}.{shown}"), detail));
        }
    }
}
