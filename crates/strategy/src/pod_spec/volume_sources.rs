//! Where the contents of a volume come from: sources that Pods and PersistentVolumes have in common.

use api::{FieldError, names};
use serde_json::Value;

use crate::Errors;
use crate::tree::{entries, int, invalid_all, items, one_of, required_name, text};

/// One source: its key, the key that upstream's paths have inside it, the key in the error about a second one, and what
/// it must be.
pub(crate) type Source = (
    &'static str,
    &'static str,
    &'static str,
    fn(&Value, &str, &mut Errors),
);

/// Exactly one of the sources, as it must be.
pub(crate) fn one_source(volume: &Value, sources: &[Source], path: &str, errors: &mut Errors) {
    let mut given = sources.iter().filter(|(key, ..)| volume[*key].is_object());
    let Some((key, inside, _, validate)) = given.next() else {
        errors.push(FieldError::required(path, "must specify a volume type"));
        return;
    };
    validate(&volume[*key], &format!("{path}.{inside}"), errors);
    for (_, _, key, _) in given {
        let detail = "may not specify more than 1 volume type";
        errors.push(FieldError::forbidden(format!("{path}.{key}"), detail));
    }
}

/// A path that does not go up, said once however often it does.
pub(crate) fn no_backsteps(target: &str, path: &str, errors: &mut Errors) {
    if target.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid_str(
            path,
            target,
            "must not contain '..'",
        ));
    }
}

/// A relative path that does not go up.
pub(crate) fn local_descending(target: &str, path: &str, errors: &mut Errors) {
    if target.starts_with('/') {
        errors.push(FieldError::invalid_str(
            path,
            target,
            "must be a relative path",
        ));
    }
    no_backsteps(target, path, errors);
}

/// As [`local_descending`], and no name that volumes keep for themselves.
pub(crate) fn local_path(target: &str, path: &str, errors: &mut Errors) {
    local_descending(target, path, errors);
    if target.starts_with("..") && !target.starts_with("../") {
        errors.push(FieldError::invalid_str(
            path,
            target,
            "must not start with '..'",
        ));
    }
}

/// Permission bits.
pub(crate) fn mode(mode: &Value, path: String, errors: &mut Errors) {
    if mode.as_i64().is_some_and(|m| !(0..=0o777).contains(&m)) {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(FieldError::invalid(path, mode, detail));
    }
}

/// Texts that must be there.
pub(crate) fn needs(v: &Value, keys: &[&str], path: &str, errors: &mut Errors) {
    for key in keys {
        if text(&v[*key]).is_empty() {
            errors.push(FieldError::required(format!("{path}.{key}"), ""));
        }
    }
}

pub(crate) fn host_path(v: &Value, path: &str, errors: &mut Errors) {
    const TYPES: [&str; 8] = [
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    let target = text(&v["path"]);
    if target.is_empty() {
        errors.push(FieldError::required(format!("{path}.path"), ""));
        return;
    }
    no_backsteps(target, &format!("{path}.path"), errors);
    one_of(&v["type"], &format!("{path}.type"), &TYPES, errors);
}

fn partition(v: &Value, path: &str, errors: &mut Errors) {
    let partition = int(&v["partition"]);
    if !(0..=255).contains(&partition) {
        let detail = names::inclusive_range(1, 255);
        let path = format!("{path}.partition");
        errors.push(FieldError::invalid(path, &partition.into(), detail));
    }
}

pub(crate) fn gce_disk(v: &Value, path: &str, errors: &mut Errors) {
    needs(v, &["pdName"], path, errors);
    partition(v, path, errors);
}

pub(crate) fn aws_disk(v: &Value, path: &str, errors: &mut Errors) {
    needs(v, &["volumeID"], path, errors);
    partition(v, path, errors);
}

pub(crate) fn nfs(v: &Value, path: &str, errors: &mut Errors) {
    needs(v, &["server", "path"], path, errors);
    let target = text(&v["path"]);
    if !target.starts_with('/') {
        let detail = "must be an absolute path";
        errors.push(FieldError::invalid_str(
            format!("{path}.path"),
            target,
            detail,
        ));
    }
}

/// What is wrong with an iSCSI name; `words` for one that is of no known form.
fn iscsi_name(name: &str, words: &str, path: &str, errors: &mut Errors) {
    let forms = ["iqn", "eui", "naa"];
    if !forms.iter().any(|f| name.starts_with(f)) {
        errors.push(FieldError::invalid_str(path, name, words));
    } else if !is_iscsi_name(name) {
        errors.push(FieldError::invalid_str(path, name, "must be valid format"));
    }
}

fn is_iscsi_name(name: &str) -> bool {
    let hex = |rest: &str, n: usize| {
        let end = rest.get(1..).unwrap_or_default();
        end.len() == n && end.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    match name.split_at_checked(3) {
        Some(("eui", rest)) => hex(rest, 16),
        Some(("naa", rest)) => hex(rest, 32),
        Some(("iqn", rest)) => is_qualified(rest),
        _ => false,
    }
}

/// `.yyyy-mm.domain:what`.
fn is_qualified(rest: &str) -> bool {
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    let Some((date, rest)) = rest.strip_prefix('.').and_then(|r| r.split_once('.')) else {
        return false;
    };
    let Some((domain, what)) = rest.split_once(':') else {
        return false;
    };
    date.len() == 7
        && date
            .split_once('-')
            .is_some_and(|(y, m)| y.len() == 4 && digits(y) && digits(m))
        && !domain.is_empty()
        && domain
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
        && !what.is_empty()
        && !what.contains(|c: char| ",;*&$|".contains(c) || c.is_ascii_whitespace())
}

const FORMS: &str = "must be valid format starting with iqn, eui, or naa";

/// The name of a volume and its portal make a name for iSCSI.
pub(crate) const ISCSI_NAMES: usize = 64;
pub(crate) const ISCSI_TOO_LONG: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";

pub(crate) fn iscsi(v: &Value, path: &str, errors: &mut Errors) {
    iscsi_target(v, FORMS, path, errors);
}

/// As [`iscsi`], of a PersistentVolume.
pub(crate) fn iscsi_persistent(v: &Value, path: &str, errors: &mut Errors) {
    iscsi_target(v, "must be valid format", path, errors);
    secret_needs(v, &["name"], path, errors);
}

fn iscsi_target(v: &Value, words: &str, path: &str, errors: &mut Errors) {
    needs(v, &["targetPortal", "iqn"], path, errors);
    let iqn = text(&v["iqn"]);
    if !iqn.is_empty() {
        iscsi_name(iqn, words, &format!("{path}.iqn"), errors);
    }
    let lun = int(&v["lun"]);
    if !(0..=255).contains(&lun) {
        let detail = names::inclusive_range(0, 255);
        errors.push(FieldError::invalid(
            format!("{path}.lun"),
            &lun.into(),
            detail,
        ));
    }
    let chap = v["chapAuthDiscovery"] == true || v["chapAuthSession"] == true;
    if chap && !v["secretRef"].is_object() {
        errors.push(FieldError::required(format!("{path}.secretRef"), ""));
    }
    if let Some(initiator) = v["initiatorName"].as_str() {
        iscsi_name(initiator, words, &format!("{path}.initiatorname"), errors);
    }
}

fn secret_needs(v: &Value, keys: &[&str], path: &str, errors: &mut Errors) {
    if v["secretRef"].is_object() {
        needs(&v["secretRef"], keys, &format!("{path}.secretRef"), errors);
    }
}

pub(crate) fn glusterfs(v: &Value, path: &str, errors: &mut Errors) {
    needs(v, &["endpoints", "path"], path, errors);
}

pub(crate) fn glusterfs_persistent(v: &Value, path: &str, errors: &mut Errors) {
    glusterfs(v, path, errors);
    let path = format!("{path}.endpointsNamespace");
    match v["endpointsNamespace"].as_str() {
        None => {}
        Some("") => {
            let detail = "if the endpointnamespace is set, it must be a valid namespace name";
            errors.push(FieldError::invalid_str(path, "", detail));
        }
        Some(namespace) => {
            invalid_all(&path, namespace, names::dns1123_label(namespace), errors);
        }
    }
}

pub(crate) fn flocker(v: &Value, path: &str, errors: &mut Errors) {
    let (name, uuid) = (text(&v["datasetName"]), text(&v["datasetUUID"]));
    if name.is_empty() && uuid.is_empty() {
        let detail = "one of datasetName and datasetUUID is required";
        errors.push(FieldError::required(path, detail));
    }
    if !name.is_empty() && !uuid.is_empty() {
        let detail = "datasetName and datasetUUID can not be specified simultaneously";
        errors.push(FieldError::invalid_str(path, "resource", detail));
    }
    if name.contains('/') {
        let path = format!("{path}.datasetName");
        errors.push(FieldError::invalid_str(path, name, "must not contain '/'"));
    }
}

pub(crate) fn rbd(v: &Value, path: &str, errors: &mut Errors) {
    if items(&v["monitors"]).is_empty() {
        errors.push(FieldError::required(format!("{path}.monitors"), ""));
    }
    needs(v, &["image"], path, errors);
}

pub(crate) fn cinder(v: &Value, path: &str, errors: &mut Errors) {
    needs(v, &["volumeID"], path, errors);
    secret_needs(v, &["name"], path, errors);
}

pub(crate) fn cinder_persistent(v: &Value, path: &str, errors: &mut Errors) {
    needs(v, &["volumeID"], path, errors);
    secret_needs(v, &["name", "namespace"], path, errors);
}

pub(crate) fn cephfs(v: &Value, path: &str, errors: &mut Errors) {
    if items(&v["monitors"]).is_empty() {
        errors.push(FieldError::required(format!("{path}.monitors"), ""));
    }
}

pub(crate) fn quobyte(v: &Value, path: &str, errors: &mut Errors) {
    let pairs = "must be a host:port pair or multiple pairs separated by commas";
    let registry = text(&v["registry"]);
    let at = format!("{path}.registry");
    if registry.is_empty() {
        errors.push(FieldError::required(at, pairs));
    } else if text(&v["tenant"]).len() > 64 {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        errors.push(FieldError::required(format!("{path}.tenant"), detail));
    } else {
        for _ in registry.split(',').filter(|p| !is_host_and_port(p)) {
            errors.push(FieldError::invalid_str(&at, registry, pairs));
        }
    }
    needs(v, &["volume"], path, errors);
}

fn is_host_and_port(pair: &str) -> bool {
    match pair.strip_prefix('[') {
        Some(rest) => rest
            .split_once("]:")
            .is_some_and(|(_, port)| !port.contains(':')),
        None => pair.matches(':').count() == 1,
    }
}

pub(crate) fn fc(v: &Value, path: &str, errors: &mut Errors) {
    let at = format!("{path}.targetWWNs");
    let (names_, ids) = (items(&v["targetWWNs"]), items(&v["wwids"]));
    if names_.is_empty() && ids.is_empty() {
        let detail = "must specify either targetWWNs or wwids, but not both";
        errors.push(FieldError::required(&at, detail));
    }
    if !names_.is_empty() && !ids.is_empty() {
        let detail = "targetWWNs and wwids can not be specified simultaneously";
        errors.push(FieldError::invalid(&at, &v["targetWWNs"], detail));
    }
    if names_.is_empty() {
        return;
    }
    let path = format!("{path}.lun");
    match v["lun"].as_i64() {
        None => {
            let detail = "lun is required if targetWWNs is specified";
            errors.push(FieldError::required(path, detail));
        }
        Some(lun) if !(0..=255).contains(&lun) => {
            let detail = names::inclusive_range(0, 255);
            errors.push(FieldError::invalid(path, &v["lun"], detail));
        }
        Some(_) => {}
    }
}

pub(crate) fn flex(v: &Value, path: &str, errors: &mut Errors) {
    needs(v, &["driver"], path, errors);
    for (key, _) in entries(&v["options"]) {
        let namespace = key.split_once('/').map_or(key.as_str(), |(n, _)| n);
        let dotted = format!(".{}", namespace.to_lowercase());
        if dotted.ends_with(".kubernetes.io") || dotted.ends_with(".k8s.io") {
            let detail = "kubernetes.io and k8s.io namespaces are reserved";
            let path = format!("{path}.options[{key}]");
            errors.push(FieldError::invalid_str(path, key, detail));
        }
    }
}

pub(crate) fn azure_file(v: &Value, path: &str, errors: &mut Errors) {
    needs(v, &["secretName", "shareName"], path, errors);
}

pub(crate) fn azure_file_persistent(v: &Value, path: &str, errors: &mut Errors) {
    azure_file(v, path, errors);
    if v["secretNamespace"] == "" {
        errors.push(FieldError::required(format!("{path}.secretNamespace"), ""));
    }
}

pub(crate) fn azure_disk(v: &Value, path: &str, errors: &mut Errors) {
    const MANAGED: &str = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
    const BLOB: &str =
        "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
    needs(v, &["diskName", "diskURI"], path, errors);
    let caching = ["None", "ReadOnly", "ReadWrite"];
    one_of(
        &v["cachingMode"],
        &format!("{path}.cachingMode"),
        &caching,
        errors,
    );
    let kinds = ["Dedicated", "Managed", "Shared"];
    one_of(&v["kind"], &format!("{path}.kind"), &kinds, errors);
    let uri = text(&v["diskURI"]);
    let form = match v["kind"].as_str() {
        Some("Managed") if !uri.starts_with("/subscriptions/") => MANAGED,
        Some(kind) if kind != "Managed" && !uri.starts_with("https://") => BLOB,
        _ => return,
    };
    let path = format!("{path}.diskURI");
    errors.push(FieldError::not_supported(path, &uri.into(), &[form]));
}

pub(crate) fn vsphere(v: &Value, path: &str, errors: &mut Errors) {
    needs(v, &["volumePath"], path, errors);
}

pub(crate) fn photon(v: &Value, path: &str, errors: &mut Errors) {
    needs(v, &["pdID"], path, errors);
}

pub(crate) fn portworx(v: &Value, path: &str, errors: &mut Errors) {
    needs(v, &["volumeID"], path, errors);
}

pub(crate) fn scale_io(v: &Value, path: &str, errors: &mut Errors) {
    needs(v, &["gateway", "system", "volumeName"], path, errors);
}

fn storage_os_names(v: &Value, path: &str, errors: &mut Errors) {
    let at = format!("{path}.volumeName");
    required_name(&v["volumeName"], &at, names::dns1123_label, errors);
    let namespace = text(&v["volumeNamespace"]);
    if !namespace.is_empty() {
        let path = format!("{path}.volumeNamespace");
        invalid_all(&path, namespace, names::dns1123_label(namespace), errors);
    }
}

pub(crate) fn storage_os(v: &Value, path: &str, errors: &mut Errors) {
    storage_os_names(v, path, errors);
    secret_needs(v, &["name"], path, errors);
}

pub(crate) fn storage_os_persistent(v: &Value, path: &str, errors: &mut Errors) {
    storage_os_names(v, path, errors);
    secret_needs(v, &["name", "namespace"], path, errors);
}
