//! Makes a Pod's volumes under `<root>/pods/<uid>/volumes`, and keeps their content current.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use client::resource::kinds;
use jiff::Timestamp;
use rustix::mount::{MountFlags, UnmountFlags};
use serde_json::{Value, json};

use crate::atomic::{self, File, Payload};
use crate::fields::{self, Addresses};
use crate::node::Node;
use crate::references::Data;
use crate::spec::{
    ConfigMapVolume, DownwardVolume, Item, Pod, ProjectedVolume, TokenSource, Volume,
};

/// Where a Pod's volumes are.
#[derive(Debug, Clone, Default)]
pub struct Mounts {
    pub paths: BTreeMap<String, PathBuf>,
    /// Tokens in hand, by volume and path: the token and when to get a new one.
    pub tokens: BTreeMap<(String, String), (String, Timestamp)>,
}

impl Mounts {
    /// When the first token is to be renewed.
    #[must_use]
    pub fn refresh_at(&self) -> Option<Timestamp> {
        self.tokens.values().map(|(_, at)| *at).min()
    }
}

/// A volume that could not be made, and why.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {why}")]
pub struct Failed {
    pub volume: String,
    pub why: String,
}

/// The directory of a Pod.
#[must_use]
pub fn pod_dir(root: &Path, uid: &str) -> PathBuf {
    root.join("pods").join(uid)
}

/// Makes or refreshes all volumes; `before` is what an earlier call returned.
///
/// # Errors
/// The first volume that can't be made.
pub async fn mount(node: &Node, pod: &Pod, before: &Mounts) -> Result<Mounts, Failed> {
    let mut mounts = Mounts {
        paths: BTreeMap::new(),
        tokens: before.tokens.clone(),
    };
    for volume in &pod.spec.volumes {
        let path = one(node, pod, volume, &mut mounts)
            .await
            .map_err(|why| Failed {
                volume: volume.name.clone(),
                why,
            })?;
        mounts.paths.insert(volume.name.clone(), path);
    }
    Ok(mounts)
}

async fn one(
    node: &Node,
    pod: &Pod,
    volume: &Volume,
    mounts: &mut Mounts,
) -> Result<PathBuf, String> {
    let base = pod_dir(&node.options.root_dir, &pod.metadata.uid).join("volumes");
    let group = pod.spec.security_context.fs_group;
    let at = |plugin: &str| {
        base.join(format!("kubernetes.io~{plugin}"))
            .join(&volume.name)
    };
    if let Some(empty) = &volume.empty_dir {
        let dir = at("empty-dir");
        if !dir.exists() {
            make_dir(&dir)?;
            if empty.medium == "Memory" {
                let limit = empty
                    .size_limit
                    .parse::<api::Quantity>()
                    .ok()
                    .map(api::Quantity::value)
                    .filter(|v| *v > 0);
                tmpfs(&dir, limit)?;
            } else if empty.medium.starts_with("HugePages") {
                return Err(format!("medium {} is not supported", empty.medium));
            }
            let mode = if group.is_some() { 0o2777 } else { 0o777 };
            own(&dir, group)?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(mode))
                .map_err(|e| e.to_string())?;
        }
        return Ok(dir);
    }
    if let Some(host) = &volume.host_path {
        return host_path(Path::new(&host.path), &host.kind);
    }
    let (plugin, secret, payload) = if let Some(from) = &volume.config_map {
        ("configmap", false, config_map(node, pod, from).await?)
    } else if let Some(from) = &volume.secret {
        let data = node
            .references
            .get(
                "secret",
                &pod.metadata.namespace,
                &from.secret_name,
                &pod.metadata.uid,
            )
            .await;
        let mode = from.default_mode.unwrap_or(0o644);
        (
            "secret",
            true,
            select(
                "secret",
                &from.secret_name,
                data,
                &from.items,
                mode,
                from.optional,
            )?,
        )
    } else if let Some(from) = &volume.downward_api {
        (
            "downward-api",
            false,
            downward(node, pod, from, from.default_mode.unwrap_or(0o644))?,
        )
    } else if let Some(from) = &volume.projected {
        (
            "projected",
            true,
            projected(node, pod, volume, from, mounts).await?,
        )
    } else {
        return Err("this kind of volume is not supported by this kubelet".into());
    };
    let dir = at(plugin);
    if !dir.exists() {
        make_dir(&dir)?;
        if secret {
            // Secrets never reach the disk.
            tmpfs(&dir, None)?;
        }
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).map_err(|e| e.to_string())?;
    }
    let payload = match group {
        Some(_) => payload
            .into_iter()
            .map(|(p, f)| {
                (
                    p,
                    File {
                        mode: f.mode | 0o440,
                        ..f
                    },
                )
            })
            .collect(),
        None => payload,
    };
    let now = node.options.world.now();
    let stamp = format!("{}", now.as_nanosecond());
    atomic::write(&dir, &payload, group, &stamp).map_err(|e| format!("{}: {e}", dir.display()))?;
    Ok(dir)
}

fn make_dir(dir: &Path) -> Result<(), String> {
    fs::create_dir_all(dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))
}

fn own(path: &Path, group: Option<u32>) -> Result<(), String> {
    let Some(group) = group else { return Ok(()) };
    std::os::unix::fs::chown(path, None, Some(group))
        .map_err(|e| format!("cannot give {} to group {group}: {e}", path.display()))
}

fn tmpfs(dir: &Path, size: Option<i64>) -> Result<(), String> {
    let options = size.map_or("mode=0777".to_owned(), |s| format!("mode=0777,size={s}"));
    let options = std::ffi::CString::new(options).map_err(|e| e.to_string())?;
    rustix::mount::mount(
        "tmpfs",
        dir,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        options.as_c_str(),
    )
    .map_err(|e| format!("cannot mount a tmpfs at {}: {e}", dir.display()))
}

fn host_path(path: &Path, kind: &str) -> Result<PathBuf, String> {
    let shown = path.display();
    let meta = fs::metadata(path).ok();
    let make = |mode| {
        make_dir(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|e| e.to_string())
    };
    let fine = match (kind, &meta) {
        ("", Some(_)) => true,
        // Upstream leaves it to the runtime, which makes a directory.
        ("", None) | ("DirectoryOrCreate", None) => return make(0o755).map(|()| path.to_owned()),
        ("FileOrCreate", None) => {
            fs::write(path, b"").map_err(|e| format!("{shown}: {e}"))?;
            true
        }
        ("Directory" | "DirectoryOrCreate", Some(m)) => m.is_dir(),
        ("File" | "FileOrCreate", Some(m)) => m.is_file(),
        ("Socket", Some(m)) => m.file_type().is_socket(),
        ("CharDevice", Some(m)) => m.file_type().is_char_device(),
        ("BlockDevice", Some(m)) => m.file_type().is_block_device(),
        _ => false,
    };
    let what = match kind {
        "Directory" | "DirectoryOrCreate" => "directory",
        "File" | "FileOrCreate" => "file",
        "Socket" => "socket file",
        "CharDevice" => "character device",
        _ => "block device",
    };
    if fine {
        Ok(path.to_owned())
    } else {
        Err(format!(
            "hostPath type check failed: {shown} is not a {what}"
        ))
    }
}

/// Chooses keys of an object.
fn select(
    kind: &str,
    name: &str,
    data: Option<Data>,
    items: &[Item],
    mode: u32,
    optional: Option<bool>,
) -> Result<Payload, String> {
    let optional = optional == Some(true);
    let Some(data) = data else {
        return if optional {
            Ok(Payload::new())
        } else {
            Err(format!("{kind} \"{name}\" not found"))
        };
    };
    if items.is_empty() {
        return Ok(data
            .into_iter()
            .map(|(k, data)| (k, File { mode, data }))
            .collect());
    }
    let mut out = Payload::new();
    for item in items {
        match data.get(&item.key) {
            Some(data) => {
                out.insert(
                    item.path.clone(),
                    File {
                        mode: item.mode.unwrap_or(mode),
                        data: data.clone(),
                    },
                );
            }
            None if optional => {}
            None => {
                return Err(format!("references non-existent {kind} key: {}", item.key)
                    .replace("configmap key", "config key"));
            }
        }
    }
    Ok(out)
}

async fn config_map(node: &Node, pod: &Pod, from: &ConfigMapVolume) -> Result<Payload, String> {
    let data = node
        .references
        .get(
            "configmap",
            &pod.metadata.namespace,
            &from.name,
            &pod.metadata.uid,
        )
        .await;
    select(
        "configmap",
        &from.name,
        data,
        &from.items,
        from.default_mode.unwrap_or(0o644),
        from.optional,
    )
}

fn downward(node: &Node, pod: &Pod, from: &DownwardVolume, mode: u32) -> Result<Payload, String> {
    let mut out = Payload::new();
    for item in &from.items {
        let value = if let Some(f) = &item.field_ref {
            fields::field(pod, &f.field_path, &Addresses::default())?
        } else if let Some(f) = &item.resource_field_ref {
            fields::resource(pod, None, f, (&node.machine.cpu, &node.machine.memory))?
        } else {
            continue;
        };
        out.insert(
            item.path.clone(),
            File {
                mode: item.mode.unwrap_or(mode),
                data: value.into_bytes(),
            },
        );
    }
    Ok(out)
}

async fn projected(
    node: &Node,
    pod: &Pod,
    volume: &Volume,
    from: &ProjectedVolume,
    mounts: &mut Mounts,
) -> Result<Payload, String> {
    let mode = from.default_mode.unwrap_or(0o644);
    let mut out = Payload::new();
    for source in &from.sources {
        if let Some(map) = &source.config_map {
            let map = ConfigMapVolume {
                default_mode: Some(mode),
                ..map.clone()
            };
            out.extend(config_map(node, pod, &map).await?);
        }
        if let Some(secret) = &source.secret {
            let data = node
                .references
                .get(
                    "secret",
                    &pod.metadata.namespace,
                    &secret.name,
                    &pod.metadata.uid,
                )
                .await;
            out.extend(select(
                "secret",
                &secret.name,
                data,
                &secret.items,
                mode,
                secret.optional,
            )?);
        }
        if let Some(down) = &source.downward_api {
            out.extend(downward(node, pod, down, mode)?);
        }
        if let Some(wanted) = &source.service_account_token {
            let key = (volume.name.clone(), wanted.path.clone());
            let now = node.options.world.now();
            let held = mounts
                .tokens
                .get(&key)
                .filter(|(_, refresh)| *refresh > now)
                .cloned();
            let (token, refresh) = match held {
                Some(held) => held,
                None => token(node, pod, wanted).await?,
            };
            mounts.tokens.insert(key, (token.clone(), refresh));
            // Readable by the user that a Pod runs as, by nobody else, if there is one only.
            let sc = &pod.spec.security_context;
            let mode = if sc.fs_group.is_some() || sc.run_as_user.is_none_or(|u| u == 0) {
                0o600
            } else {
                0o644
            };
            let mode = if sc.fs_group.is_none()
                && pod
                    .all()
                    .any(|(_, c)| c.security_context.run_as_user.is_some_and(|u| u != 0))
            {
                0o644
            } else {
                mode
            };
            // Images may bring their own user, which the kubelet doesn't know of here.
            let mode = if sc.run_as_user.is_none() {
                0o644
            } else {
                mode
            };
            out.insert(
                wanted.path.clone(),
                File {
                    mode,
                    data: token.into_bytes(),
                },
            );
        }
    }
    Ok(out)
}

/// Asks for a token bound to the Pod; it is to be renewed at 80 % of its life, or after a day.
async fn token(
    node: &Node,
    pod: &Pod,
    wanted: &TokenSource,
) -> Result<(String, Timestamp), String> {
    let seconds = wanted.expiration_seconds.unwrap_or(3600);
    let audiences: Vec<&str> = [wanted.audience.as_str()]
        .into_iter()
        .filter(|a| !a.is_empty())
        .collect();
    let m = &pod.metadata;
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {
            "audiences": audiences, "expirationSeconds": seconds,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": m.name, "uid": m.uid},
        },
    });
    let account = if pod.spec.service_account_name.is_empty() {
        "default"
    } else {
        &pod.spec.service_account_name
    };
    let answer: Value = node
        .options
        .client
        .create_subresource(
            &kinds::SERVICE_ACCOUNTS,
            &m.namespace,
            account,
            "token",
            &request,
        )
        .await
        .map_err(|e| format!("failed to fetch token: {e}"))?;
    let token = answer["status"]["token"]
        .as_str()
        .ok_or("failed to fetch token: the answer has none")?;
    let now = node.options.world.now();
    let end = answer["status"]["expirationTimestamp"]
        .as_str()
        .and_then(api::time::parse)
        .unwrap_or(now);
    let life = end.duration_since(now).as_secs().max(1);
    let refresh = now
        .checked_add(jiff::SignedDuration::from_secs((life * 8 / 10).min(86_400)))
        .unwrap_or(end);
    Ok((token.to_owned(), refresh))
}

/// Unmounts and removes a Pod's directory.
///
/// # Errors
/// When something is still mounted or can't be removed.
pub fn remove(root: &Path, uid: &str) -> Result<(), String> {
    let dir = pod_dir(root, uid);
    if !dir.exists() {
        return Ok(());
    }
    let mounted = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let prefix = format!("{}/", dir.display());
    for point in mounted
        .lines()
        .rev()
        .filter_map(|l| l.split(' ').nth(1))
        .filter(|p| p.starts_with(&prefix))
    {
        rustix::mount::unmount(point, UnmountFlags::empty())
            .map_err(|e| format!("cannot unmount {point}: {e}"))?;
    }
    fs::remove_dir_all(&dir).map_err(|e| format!("cannot remove {}: {e}", dir.display()))
}

/// The file or directory that `sub` names inside the volume at `base`; made as a directory if missing.
///
/// # Errors
/// When it leaves the volume.
pub fn sub_path(base: &Path, sub: &str) -> Result<PathBuf, String> {
    if sub.is_empty() {
        return Ok(base.to_owned());
    }
    if Path::new(sub).is_absolute()
        || Path::new(sub)
            .components()
            .any(|c| c == std::path::Component::ParentDir)
    {
        return Err(format!(
            "subPath {sub:?} must be relative and may not contain '..'"
        ));
    }
    let path = base.join(sub);
    if fs::symlink_metadata(&path).is_err() {
        let mode = fs::metadata(base).map_or(0o755, |m| m.permissions().mode() & 0o7777);
        make_dir(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(|e| e.to_string())?;
    }
    let (real, root) = (fs::canonicalize(&path), fs::canonicalize(base));
    match (real, root) {
        (Ok(real), Ok(root)) if real.starts_with(&root) => Ok(real),
        _ => Err(format!("subPath {sub:?} leaves its volume")),
    }
}
