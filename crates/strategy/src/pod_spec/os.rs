//! What a Pod may ask of Linux and what of Windows.

use api::FieldError;
use serde_json::Value;

use super::all_containers;
use crate::Errors;
use crate::tree::{one_of, text};

pub(super) fn validate_os(spec: &Value, path: &str, errors: &mut Errors) {
    let os = &spec["os"];
    if !os.is_object() {
        return;
    }
    match text(&os["name"]) {
        "" => {
            let detail = "cannot be empty";
            errors.push(FieldError::required(format!("{path}.os.name"), detail));
        }
        "linux" => no_windows_options(spec, path, errors),
        "windows" => no_linux_options(spec, path, errors),
        _ => one_of(
            &os["name"],
            &format!("{path}.os"),
            &["linux", "windows"],
            errors,
        ),
    }
}

fn no_windows_options(spec: &Value, path: &str, errors: &mut Errors) {
    let contexts = std::iter::once((spec, path.to_owned())).chain(all_containers(spec, path));
    for (owner, path) in contexts {
        if owner["securityContext"]["windowsOptions"].is_object() {
            let path = format!("{path}.securityContext.windowsOptions");
            let detail = "windows options cannot be set for a linux pod";
            errors.push(FieldError::forbidden(path, detail));
        }
    }
}

const LINUX_POD: [&str; 11] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];

const LINUX_CONTAINER: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

fn no_linux_options(spec: &Value, path: &str, errors: &mut Errors) {
    let detail = "cannot be set for a windows pod";
    let mut forbid = |given: bool, path: String| {
        if given {
            errors.push(FieldError::forbidden(path, detail));
        }
    };
    for key in ["hostUsers", "shareProcessNamespace"] {
        forbid(!spec[key].is_null(), format!("{path}.{key}"));
    }
    for key in ["hostPID", "hostIPC"] {
        forbid(spec[key] == true, format!("{path}.{key}"));
    }
    let context = &spec["securityContext"];
    for key in LINUX_POD {
        let empty = context[key].as_array().is_some_and(Vec::is_empty);
        let given = !context[key].is_null() && !empty;
        forbid(given, format!("{path}.securityContext.{key}"));
    }
    for (container, path) in all_containers(spec, path) {
        let context = &container["securityContext"];
        for key in LINUX_CONTAINER {
            let path = format!("{path}.securityContext.{key}");
            forbid(!context[key].is_null(), path);
        }
    }
}

/// A Windows Pod runs on its host with all its containers or with none.
pub(super) fn validate_host_process(spec: &Value, path: &str, errors: &mut Errors) {
    let of = |owner: &Value| owner["securityContext"]["windowsOptions"]["hostProcess"].as_bool();
    let whole = of(spec);
    let (mut all, mut on_host) = (0, 0);
    for (container, path) in all_containers(spec, path) {
        all += 1;
        let own = of(container);
        if let (Some(whole), Some(own)) = (whole, own)
            && whole != own
        {
            let path = format!("{path}.securityContext.windowsOptions.hostProcess");
            let detail = format!(
                "pod hostProcess value must be identical if both are specified, was {whole}"
            );
            errors.push(FieldError::invalid(path, &own.into(), detail));
        }
        if own.or(whole) == Some(true) {
            on_host += 1;
        }
    }
    if on_host == 0 {
        return;
    }
    if on_host != all {
        let detail = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.push(FieldError::invalid_str(path, "", detail));
    }
    if spec["hostNetwork"] != true {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        let path = format!("{path}.hostNetwork");
        errors.push(FieldError::invalid(path, &false.into(), detail));
    }
}
