//! Makes a Pod's volumes under `<root>/pods/<uid>/volumes`, and keeps their content current.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use client::resource::kinds;
use jiff::Timestamp;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use serde_json::{Value, json};

use crate::atomic::{self, File, Payload};
use crate::fields::{self, Addresses};
use crate::node::Node;
use crate::references::Data;
use crate::remove;
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

/// Makes a directory that is for the kubelet alone, if it isn't there; what lies below may then be open to all.
///
/// # Errors
/// The file system's.
pub fn make_private(dir: &Path) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o750))
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
    let dir = pod_dir(&node.options.root_dir, &pod.metadata.uid);
    make_private(&dir).map_err(|e| Failed {
        volume: String::new(),
        why: format!("cannot make {}: {e}", dir.display()),
    })?;
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
    let shown = dir.display();
    // The kernel's list has no links in its paths.
    let real = match fs::canonicalize(&dir) {
        Ok(real) => real,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(format!("cannot look at {shown}: {e}")),
    };
    let table = fs::read("/proc/self/mounts").map_err(|e| format!("/proc/self/mounts: {e}"))?;
    for point in mounts_below(&table, &real).iter().rev() {
        rustix::mount::unmount(point, UnmountFlags::NOFOLLOW)
            .map_err(|e| format!("cannot unmount {}: {e}", point.display()))?;
    }
    remove::tree(&dir).map_err(|e| format!("cannot remove {shown}: {e}"))
}

/// The mount points below `dir` that /proc/self/mounts tells of, in its order. Names in it are any bytes, with white space
/// and backslashes as three octal digits.
fn mounts_below(table: &[u8], dir: &Path) -> Vec<PathBuf> {
    let points = table
        .split(|b| *b == b'\n')
        .filter_map(|line| line.split(|b| *b == b' ').nth(1));
    points
        .map(|field| {
            let mut name = Vec::with_capacity(field.len());
            let mut rest = field;
            while let Some((first, more)) = rest.split_first() {
                let octal = more
                    .get(..3)
                    .filter(|_| *first == b'\\')
                    .and_then(|digits| std::str::from_utf8(digits).ok())
                    .and_then(|digits| u8::from_str_radix(digits, 8).ok());
                name.push(octal.unwrap_or(*first));
                rest = if octal.is_some() { &more[3..] } else { more };
            }
            PathBuf::from(OsString::from_vec(name))
        })
        .filter(|point| point != dir && point.starts_with(dir))
        .collect()
}

/// Opens the file or directory that `sub` names inside the volume at `base`; made as a directory if missing.
///
/// The volume's content belongs to its Pods, which may change it at any moment, so a name must not be looked at twice: what
/// is returned is what was found below `base`, whatever the names lead to later (CVE-2021-25741). Links that stay inside the
/// volume are followed.
///
/// # Errors
/// When it leaves the volume.
pub fn sub_path(base: &Path, sub: &str) -> Result<OwnedFd, String> {
    use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
    if Path::new(sub).is_absolute()
        || Path::new(sub)
            .components()
            .any(|c| c == std::path::Component::ParentDir)
    {
        return Err(format!(
            "subPath {sub:?} must be relative and may not contain '..'"
        ));
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let failed = |e: Errno| match e {
        Errno::XDEV | Errno::LOOP | Errno::EXIST => format!("subPath {sub:?} leaves its volume"),
        e => format!("subPath {sub:?}: {e}"),
    };
    let root = rustix::fs::open(base, flags, Mode::empty())
        .map_err(|e| format!("cannot open volume {}: {e}", base.display()))?;
    let beneath = |path: &Path| {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        loop {
            match openat2(&root, path, flags, Mode::empty(), resolve) {
                // Something was renamed while the kernel looked.
                Err(Errno::AGAIN) if tries < 100 => tries += 1,
                result => return result,
            }
        }
    };
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&root).map_err(failed)?.st_mode & 0o7777);
    let mut at = beneath(Path::new(".")).map_err(failed)?;
    let mut so_far = PathBuf::new();
    for name in Path::new(sub).components() {
        so_far.push(name);
        at = match beneath(&so_far) {
            Err(Errno::NOENT) => {
                let name = Path::new(&name);
                rustix::fs::mkdirat(&at, name, mode).map_err(failed)?;
                let made = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
                let made = openat2(&at, name, made, Mode::empty(), resolve).map_err(failed)?;
                // mkdir minds the umask.
                rustix::fs::fchmod(&made, mode).map_err(failed)?;
                made
            }
            found => found.map_err(failed)?,
        };
    }
    Ok(at)
}

/// Gives what [`sub_path`] opened a name that only the kubelet can change, for the runtime to mount: a bind mount below the
/// Pod's directory, which goes with that.
///
/// # Errors
/// When it cannot be mounted.
pub fn pin_sub_path(
    pod_dir: &Path,
    volume: &str,
    container: &str,
    index: usize,
    what: &OwnedFd,
) -> Result<PathBuf, String> {
    use rustix::mount::{MoveMountFlags, OpenTreeFlags};
    let dir = pod_dir.join("volume-subpaths").join(volume).join(container);
    let target = dir.join(index.to_string());
    let failed = |e: std::io::Error| format!("cannot mount {}: {e}", target.display());
    make_dir(&dir)?;
    // A container that starts again gets what the name means now.
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    loop {
        match rustix::mount::unmount(&target, flags) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(e) => return Err(failed(e.into())),
        }
    }
    let is_dir = |mode| rustix::fs::FileType::from_raw_mode(mode).is_dir();
    let wanted = is_dir(
        rustix::fs::fstat(what)
            .map_err(|e| failed(e.into()))?
            .st_mode,
    );
    match fs::symlink_metadata(&target) {
        Ok(m) if m.is_dir() != wanted => {
            let gone = if m.is_dir() {
                fs::remove_dir(&target)
            } else {
                fs::remove_file(&target)
            };
            gone.map_err(failed)?;
        }
        _ => {}
    }
    if wanted {
        fs::create_dir_all(&target).map_err(failed)?;
    } else {
        fs::File::create(&target).map_err(failed)?;
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(what, "", flags).map_err(|e| failed(e.into()))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&tree, "", rustix::fs::CWD, &target, flags)
        .map_err(|e| failed(e.into()))?;
    Ok(target)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn mount_points_are_any_bytes() {
        let table = b"proc /proc proc rw 0 0\n\
            tmpfs /pods/u/volumes/a tmpfs rw 0 0\n\
            tmpfs /pods/u/with\\040space\\134\xff tmpfs rw 0 0\n\
            tmpfs /pods/u2/other tmpfs rw 0 0\n\
            tmpfs /pods/u/nul\\9 tmpfs rw 0 0\n";
        let found = mounts_below(table, Path::new("/pods/u"));
        let found: Vec<&[u8]> = found.iter().map(|p| p.as_os_str().as_bytes()).collect();
        let want: [&[u8]; 3] = [
            b"/pods/u/volumes/a",
            b"/pods/u/with space\\\xff",
            b"/pods/u/nul\\9",
        ];
        assert_eq!(found, want);
    }

    #[test]
    fn a_pods_directory_goes_with_its_mounts() {
        let dir = tempfile::tempdir().unwrap();
        let at = pod_dir(dir.path(), "uid").join("volumes/with space\n");
        fs::create_dir_all(&at).unwrap();
        tmpfs(&at, None).unwrap();
        fs::write(at.join("secret"), "").unwrap();
        remove(dir.path(), "uid").unwrap();
        assert!(!pod_dir(dir.path(), "uid").exists());
        remove(dir.path(), "uid").unwrap();
    }

    #[test]
    fn what_is_private_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        let pods = dir.path().join("pods");
        fs::create_dir(&pods).unwrap();
        fs::set_permissions(&pods, fs::Permissions::from_mode(0o755)).unwrap();
        for path in [pods.clone(), pods.join("uid")] {
            make_private(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o750);
        }
    }

    #[test]
    fn a_sub_path_stays_in_its_volume() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        fs::create_dir(&volume).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o2777)).unwrap();
        symlink(&outside, volume.join("out")).unwrap();
        symlink("../outside", volume.join("up")).unwrap();
        symlink("nowhere", volume.join("dangling")).unwrap();
        symlink("real", volume.join("inside")).unwrap();
        fs::create_dir(volume.join("real")).unwrap();
        fs::write(volume.join("real/file"), "x").unwrap();
        for sub in ["out", "out/x", "up", "up/x/y", "dangling", "dangling/x"] {
            let error = sub_path(&volume, sub).unwrap_err();
            assert!(error.ends_with("leaves its volume"), "{sub}: {error}");
        }
        for sub in ["/etc", "../outside", "real/../../outside"] {
            assert!(sub_path(&volume, sub).is_err(), "{sub}");
        }
        assert_eq!(
            fs::read_dir(&outside).unwrap().count(),
            0,
            "something was made outside"
        );
        let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
        let on_disk = |path: &str| fs::metadata(volume.join(path)).unwrap();
        let found = sub_path(&volume, "inside/file").unwrap();
        assert_eq!(inode(&found), on_disk("real/file").ino());
        let made = sub_path(&volume, "inside/a/b").unwrap();
        assert_eq!(inode(&made), on_disk("real/a/b").ino());
        assert_eq!(on_disk("real/a").mode() & 0o7777, 0o2777);
    }

    #[test]
    fn what_is_mounted_is_what_was_checked() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        fs::create_dir(&volume).unwrap();
        let checked = sub_path(&volume, "a").unwrap();
        fs::write(volume.join("a/mine"), "").unwrap();
        // The Pod swaps the name for a link to the node's root.
        fs::rename(volume.join("a"), volume.join("b")).unwrap();
        symlink("/", volume.join("a")).unwrap();
        let pod = dir.path().join("pod");
        for _ in 0..2 {
            let at = pin_sub_path(&pod, "v", "c", 0, &checked).unwrap();
            assert!(at.join("mine").exists() && !at.join("etc").exists());
        }
        fs::write(volume.join("file"), "text").unwrap();
        let file = sub_path(&volume, "file").unwrap();
        let at = pin_sub_path(&pod, "v", "c", 0, &file).unwrap();
        assert_eq!(fs::read_to_string(&at).unwrap(), "text");
        rustix::mount::unmount(&at, UnmountFlags::empty()).unwrap();
    }
}
