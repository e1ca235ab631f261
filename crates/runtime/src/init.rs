//! Becoming a container: what happens between the shim's fork and the exec of the container's program.
//!
//! Runs in a child with one thread, in the shim's network, IPC and UTS namespaces, which are the sandbox's. Everything that
//! comes from the node (mount sources, cgroups) is opened before the root changes; everything that is looked up by a path
//! inside is looked up after, so that no link in an image leads outside. The process isn't dumpable until it execs: nobody in
//! the container can reach our binary or descriptors through /proc.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::devices;
use crate::record::{InitSpec, ProcessSpec};
use crate::sys;
use crate::types::MountPropagation;

/// Standard input, output and error; unused with a terminal.
pub(crate) struct Stdio {
    pub input: Option<OwnedFd>,
    pub output: Option<OwnedFd>,
    pub error: Option<OwnedFd>,
}

/// Why the process could not be made.
#[derive(Debug)]
pub(crate) struct Failure {
    pub code: i32,
    pub message: String,
}

type Result<T> = std::result::Result<T, Failure>;

trait What<T> {
    fn what(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T> What<T> for io::Result<T> {
    fn what(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Failure {
            code: 128,
            message: format!("{}: {e}", doing()),
        })
    }
}

/// Tells the shim what went wrong, and ends.
pub(crate) fn fail(control: &OwnedFd, failure: &Failure) -> ! {
    let mut packet = vec![b'E'];
    packet.extend(failure.code.to_le_bytes());
    packet.extend(failure.message.as_bytes().iter().take(4000));
    let _ = sys::send_packet(control.as_raw_fd(), &packet, &[]);
    exit(failure.code)
}

pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: ends this forked child without running the parent's exit handlers.
    unsafe { libc::_exit(code) }
}

/// Undoes what the shim (and Rust's start-up) did to signals, and marks all descriptors closed on exec.
pub(crate) fn fresh_child() {
    // SAFETY: plain system calls; `set` is initialized by sigemptyset.
    unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 0);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::syscall(
            libc::SYS_close_range,
            3,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
        libc::umask(0o022);
    }
}

/// Joins cgroups; a hierarchy that refuses is an error.
fn join_cgroups<'a>(dirs: impl Iterator<Item = &'a PathBuf>) -> Result<()> {
    for dir in dirs {
        fs::write(dir.join("cgroup.procs"), "0")
            .what(|| format!("joining cgroup {}", dir.display()))?;
    }
    Ok(())
}

/// Becomes the container's first process.
pub(crate) fn container(spec: &Path, control: &OwnedFd, stdio: Stdio) -> Result<()> {
    let text = fs::read(spec).what(|| format!("reading {}", spec.display()))?;
    let spec: InitSpec = serde_json::from_slice(&text).map_err(|e| Failure {
        code: 128,
        message: format!("bad specification: {e}"),
    })?;
    join_cgroups(spec.cgroups.iter().map(|(_, d)| d))?;
    sys::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP)
        .what(|| "making a mount namespace".into())?;
    let process = &spec.process;
    oom_score(process);

    // Sources first, while paths mean the node's files and mounts still belong to the node's peer groups.
    let mut sources = Vec::new();
    for m in &spec.mounts {
        let doing = || {
            format!(
                "mounting {} at {}",
                m.host_path.display(),
                m.container_path.display()
            )
        };
        let tree = sys::open_tree(&m.host_path, true).what(doing)?;
        let meta = fs::metadata(&m.host_path).what(doing)?;
        let rdev = meta.rdev();
        let harmless = meta.file_type().is_char_device()
            && devices::usual(libc::major(rdev), libc::minor(rdev));
        if !process.privileged && !harmless {
            sys::mount_setattr(&tree, sys::MOUNT_ATTR_NODEV, 0, true).what(doing)?;
        }
        let directory = meta.is_dir();
        match m.propagation {
            MountPropagation::Private => {
                sys::mount_setattr(&tree, 0, libc::MS_PRIVATE, true).what(doing)?
            }
            MountPropagation::HostToContainer => {
                sys::mount_setattr(&tree, 0, libc::MS_SLAVE, true).what(doing)?
            }
            MountPropagation::Bidirectional => {}
        }
        if m.readonly {
            sys::mount_setattr(&tree, sys::MOUNT_ATTR_RDONLY, 0, m.recursive_read_only)
                .what(doing)?;
        }
        sources.push((m, tree, directory));
    }
    let shm =
        sys::open_tree(&spec.shm, false).what(|| format!("opening {}", spec.shm.display()))?;
    let mut controllers = Vec::new();
    for (name, dir) in &spec.cgroups {
        if !name.is_empty() {
            let tree = sys::open_tree(dir, false).what(|| format!("opening {}", dir.display()))?;
            if !process.privileged {
                sys::mount_setattr(&tree, sys::MOUNT_ATTR_RDONLY, 0, false)
                    .what(|| "cgroup mount".into())?;
            }
            controllers.push((name, tree));
        }
    }
    let mut nodes = Vec::new();
    if process.privileged {
        device_nodes(Path::new("/dev"), 0, &mut nodes);
    }
    for d in &spec.devices {
        let meta =
            fs::metadata(&d.host_path).what(|| format!("device {}", d.host_path.display()))?;
        nodes.push((
            d.container_path.clone(),
            meta.mode(),
            meta.rdev(),
            meta.uid(),
            meta.gid(),
        ));
    }

    sys::mount("", "/", "", libc::MS_REC | libc::MS_SLAVE, "")
        .what(|| "leaving the node's mounts".into())?;
    std::env::set_current_dir(&spec.layers_dir)
        .what(|| format!("entering {}", spec.layers_dir.display()))?;
    let data = format!(
        "lowerdir={},upperdir={},workdir={}",
        spec.layers.join(":"),
        spec.upper.display(),
        spec.work.display()
    );
    // Device nodes are for /dev alone; those in images and volumes come from who knows where.
    let no_devices = if process.privileged {
        0
    } else {
        libc::MS_NODEV
    };
    sys::mount("overlay", &spec.mount_point, "overlay", no_devices, &data)
        .what(|| format!("mounting {} layers as the root", spec.layers.len()))?;
    std::env::set_current_dir(&spec.mount_point).what(|| "entering the root".into())?;
    // SAFETY: two terminated strings.
    sys::cvt(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) } as i64)
        .what(|| "changing the root".into())?;
    // SAFETY: a terminated string. The old root lies on top of the new one until this.
    sys::cvt(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) })
        .what(|| "leaving the node's root".into())?;
    std::env::set_current_dir("/").what(|| "entering the root".into())?;

    let plain = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let system_readonly = if process.privileged {
        0
    } else {
        libc::MS_RDONLY
    };
    for directory in ["/proc", "/sys", "/dev"] {
        // A link here would let an image choose where the kernel's files show up, past the masks below.
        match fs::symlink_metadata(directory) {
            Ok(m) if !m.is_dir() => {
                return Err(Failure {
                    code: 128,
                    message: format!("the image's {directory} is not a directory"),
                });
            }
            Ok(_) => {}
            Err(_) => fs::create_dir(directory).what(|| format!("making {directory}"))?,
        }
    }
    let mounted = |kind: &str, target: &str, flags, data: &str| {
        fs::create_dir_all(target).what(|| format!("making {target}"))?;
        sys::mount(kind, target, kind, flags, data).what(|| format!("mounting {kind} at {target}"))
    };
    mounted("proc", "/proc", plain, "")?;
    mounted(
        "tmpfs",
        "/dev",
        libc::MS_NOSUID | libc::MS_STRICTATIME,
        "mode=755,size=65536k",
    )?;
    mounted(
        "devpts",
        "/dev/pts",
        libc::MS_NOSUID | libc::MS_NOEXEC,
        "newinstance,ptmxmode=0666,mode=0620,gid=5",
    )?;
    mounted("mqueue", "/dev/mqueue", plain, "")?;
    mounted("sysfs", "/sys", plain | system_readonly, "")?;
    if controllers.is_empty() {
        sys::mount(
            "cgroup",
            "/sys/fs/cgroup",
            "cgroup2",
            plain | system_readonly,
            "",
        )
        .what(|| "mounting cgroup2".into())?;
    } else {
        sys::mount("tmpfs", "/sys/fs/cgroup", "tmpfs", plain, "mode=755")
            .what(|| "mounting /sys/fs/cgroup".into())?;
        for (name, tree) in &controllers {
            let target = Path::new("/sys/fs/cgroup").join(name.trim_start_matches("name="));
            fs::create_dir(&target).what(|| format!("making {}", target.display()))?;
            sys::move_mount(tree, &target).what(|| format!("mounting {}", target.display()))?;
        }
        if !process.privileged {
            let flags = libc::MS_REMOUNT | libc::MS_BIND | plain | libc::MS_RDONLY;
            sys::mount("", "/sys/fs/cgroup", "", flags, "")
                .what(|| "sealing /sys/fs/cgroup".into())?;
        }
    }
    fs::create_dir("/dev/shm").what(|| "making /dev/shm".into())?;
    sys::move_mount(&shm, Path::new("/dev/shm")).what(|| "mounting /dev/shm".into())?;
    make_devices(&nodes)?;

    sources.sort_by_key(|(m, ..)| m.container_path.components().count());
    for (m, tree, directory) in &sources {
        let target = Path::new("/").join(&m.container_path);
        let doing = || format!("mounting {} at {}", m.host_path.display(), target.display());
        if *directory {
            fs::create_dir_all(&target).what(doing)?;
        } else if !target.exists() {
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).what(doing)?;
            }
            fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(&target)
                .what(doing)?;
        }
        sys::move_mount(tree, &target).what(doing)?;
    }

    let terminal = if process.tty {
        Some(terminal(control)?)
    } else {
        None
    };
    if let Some((slave, number)) = &terminal {
        fs::write("/dev/console", "").what(|| "making /dev/console".into())?;
        sys::mount(
            &format!("/dev/pts/{number}"),
            "/dev/console",
            "",
            libc::MS_BIND,
            "",
        )
        .what(|| "mounting /dev/console".into())?;
        let _ = slave;
    }
    make_directory(&process.cwd)?;
    if !process.privileged {
        for path in &spec.readonly_paths {
            let path = Path::new(path);
            if path.exists() {
                let tree =
                    sys::open_tree(path, true).what(|| format!("sealing {}", path.display()))?;
                let flags = sys::MOUNT_ATTR_RDONLY | sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV;
                sys::mount_setattr(&tree, flags, 0, true)
                    .what(|| format!("sealing {}", path.display()))?;
                sys::move_mount(&tree, path).what(|| format!("sealing {}", path.display()))?;
            }
        }
        for path in &spec.masked_paths {
            let doing = || format!("masking {path}");
            match fs::metadata(path) {
                Ok(m) if m.is_dir() => {
                    sys::mount("tmpfs", path, "tmpfs", libc::MS_RDONLY, "size=0k").what(doing)?
                }
                Ok(_) => sys::mount("/dev/null", path, "", libc::MS_BIND, "").what(doing)?,
                Err(_) => {}
            }
        }
    }
    if spec.readonly_rootfs {
        sys::mount(
            "",
            "/",
            "",
            libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | no_devices,
            "",
        )
        .what(|| "making the root read-only".into())?;
    }
    become_process(process, terminal.map(|(slave, _)| slave), stdio)
}

/// Becomes a further process of a container. The PID namespace has been entered; `target` is the first process.
pub(crate) fn exec(
    spec: &OwnedFd,
    target: &OwnedFd,
    control: &OwnedFd,
    stdio: Stdio,
) -> Result<()> {
    let mut file = fs::File::from(
        spec.try_clone()
            .what(|| "reading the specification".into())?,
    );
    let mut text = Vec::new();
    io::Read::read_to_end(&mut file, &mut text).what(|| "reading the specification".into())?;
    let (cgroups, process): (Vec<PathBuf>, ProcessSpec) =
        serde_json::from_slice(&text).map_err(|e| Failure {
            code: 128,
            message: format!("bad specification: {e}"),
        })?;
    join_cgroups(cgroups.iter())?;
    oom_score(&process);
    sys::setns(target, libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP)
        .what(|| "entering the container".into())?;
    let terminal = if process.tty {
        Some(terminal(control)?.0)
    } else {
        None
    };
    become_process(&process, terminal, stdio)
}

/// Lowers or raises how soon the kernel kills it; a machine that forbids lowering keeps what there is.
fn oom_score(process: &ProcessSpec) {
    if let Some(score) = process.oom_score_adj {
        // Not allowed without CAP_SYS_RESOURCE below the present value, and then nothing that could be done.
        let _ = fs::write("/proc/self/oom_score_adj", score.to_string());
    }
}

type Node = (PathBuf, u32, u64, u32, u32);

fn device_nodes(dir: &Path, depth: u32, into: &mut Vec<Node>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(meta) = fs::symlink_metadata(entry.path()) else {
            continue;
        };
        let skipped = matches!(
            entry.file_name().to_str(),
            Some("pts" | "shm" | "mqueue" | "console" | "fd" | "ptmx")
        );
        if skipped && depth == 0 {
            continue;
        }
        if meta.is_dir() && depth < 4 {
            device_nodes(&entry.path(), depth + 1, into);
        } else if meta.file_type().is_block_device() || meta.file_type().is_char_device() {
            into.push((
                entry.path(),
                meta.mode(),
                meta.rdev(),
                meta.uid(),
                meta.gid(),
            ));
        }
    }
}

fn make_devices(extra: &[Node]) -> Result<()> {
    let usual = [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    ];
    let usual = usual.map(|(name, major, minor)| {
        (
            Path::new("/dev").join(name),
            libc::S_IFCHR | 0o666,
            libc::makedev(major, minor),
            0,
            0,
        )
    });
    for (path, mode, device, uid, gid) in usual.iter().chain(extra) {
        let doing = || format!("making {}", path.display());
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).what(doing)?;
        }
        let c = sys::cstr(path).what(doing)?;
        // SAFETY: a terminated string and numbers.
        match sys::cvt(unsafe { libc::mknod(c.as_ptr(), *mode, *device) }) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e).what(doing),
            _ => {}
        }
        // mknod minds the umask.
        fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777)).what(doing)?;
        std::os::unix::fs::lchown(path, Some(*uid), Some(*gid)).what(doing)?;
    }
    for (link, to) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/ptmx", "pts/ptmx"),
        ("/dev/core", "/proc/kcore"),
    ] {
        symlink(to, link).what(|| format!("making {link}"))?;
    }
    Ok(())
}

/// Makes a terminal in the container's own devpts and gives its master to the shim.
fn terminal(control: &OwnedFd) -> Result<(OwnedFd, u32)> {
    let doing = || "making a terminal".to_owned();
    let master = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/pts/ptmx")
        .what(doing)?;
    let (unlock, mut number) = (0_i32, 0_u32);
    // SAFETY: the requests read and write one integer each; the third returns a new descriptor.
    let slave = unsafe {
        sys::cvt(libc::ioctl(
            master.as_raw_fd(),
            libc::TIOCSPTLCK,
            &raw const unlock,
        ))
        .what(doing)?;
        sys::cvt(libc::ioctl(
            master.as_raw_fd(),
            libc::TIOCGPTN,
            &raw mut number,
        ))
        .what(doing)?;
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        let fd = sys::cvt(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags)).what(doing)?;
        OwnedFd::from_raw_fd(fd as RawFd)
    };
    sys::send_packet(control.as_raw_fd(), b"P", &[master.as_raw_fd()]).what(doing)?;
    Ok((slave, number))
}

/// Who a process runs as.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    home: String,
}

/// Looks the user and its groups up in the container's own files.
///
/// Those files are the image's, so a number is only ever looked up as a number: an entry *named* `1000` says nothing about
/// the user 1000.
fn identify(process: &ProcessSpec, passwd: &str, group: &str) -> Result<Identity> {
    let (user, wanted_group) = match (process.uid, process.user.split_once(':')) {
        (Some(_), _) => ("", None),
        (None, Some((u, g))) => (u, Some(g)),
        (None, None) => (process.user.as_str(), None),
    };
    let number = match (process.uid, user) {
        (Some(uid), _) => Some(uid),
        (None, "") => Some(0),
        (None, text) => text.parse::<u32>().ok(),
    };
    let entry = passwd.lines().find_map(|line| {
        let mut f = line.split(':');
        let (name, _, uid, gid) = (f.next()?, f.next()?, f.next()?, f.next()?);
        let home = f.nth(1)?;
        let (uid, gid) = (uid.parse::<u32>().ok()?, gid.parse::<u32>().ok()?);
        let wanted = number.map_or(name == user, |number| uid == number);
        wanted.then_some((name, uid, gid, home))
    });
    let (name, uid, mut gid, home) = match (entry, number) {
        (Some(entry), _) => entry,
        (None, Some(number)) => ("", number, 0, "/"),
        (None, None) => {
            return Err(Failure {
                code: 128,
                message: format!("unable to find user {user}: no matching entries in passwd file"),
            });
        }
    };
    if let Some(g) = wanted_group.filter(|g| !g.is_empty()) {
        let by_name = || {
            group.lines().find_map(|line| {
                let mut f = line.split(':');
                let (name, id) = (f.next()?, f.nth(1)?);
                (name == g).then(|| id.parse().ok())?
            })
        };
        gid = g.parse().ok().or_else(by_name).ok_or_else(|| Failure {
            code: 128,
            message: format!("unable to find group {g}: no matching entries in group file"),
        })?;
    }
    gid = process.run_as_group.unwrap_or(gid);
    let mut groups = process.supplemental_groups.clone();
    if !process.supplemental_groups_strict && !name.is_empty() {
        groups.extend(group.lines().filter_map(|line| {
            let mut f = line.split(':');
            let id: u32 = f.nth(2)?.parse().ok()?;
            f.next()?
                .split(',')
                .any(|member| member == name)
                .then_some(id)
        }));
    }
    groups.insert(0, gid);
    let mut seen = Vec::new();
    groups.retain(|g| {
        !seen.contains(g) && {
            seen.push(*g);
            true
        }
    });
    Ok(Identity {
        uid,
        gid,
        groups,
        home: if home.is_empty() {
            "/".into()
        } else {
            home.into()
        },
    })
}

fn make_directory(path: &str) -> Result<()> {
    if !path.is_empty() && !Path::new(path).exists() {
        fs::create_dir_all(path).what(|| format!("making the working directory {path}"))?;
    }
    Ok(())
}

/// Takes on streams, user, capabilities and filter, and execs. Returns only with a failure.
fn become_process(process: &ProcessSpec, terminal: Option<OwnedFd>, stdio: Stdio) -> Result<()> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let identity = identify(process, &read("/etc/passwd"), &read("/etc/group"))?;

    // SAFETY: plain system calls on our own descriptors.
    unsafe { libc::setsid() };
    let null = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .what(|| "opening /dev/null".into())?;
    let null = OwnedFd::from(null);
    let given = match &terminal {
        Some(t) => {
            // SAFETY: takes numbers only.
            sys::cvt(unsafe { libc::ioctl(t.as_raw_fd(), libc::TIOCSCTTY, 0) })
                .what(|| "taking the terminal".into())?;
            // SAFETY: as above.
            unsafe { libc::fchown(t.as_raw_fd(), identity.uid, u32::MAX) };
            [Some(t), Some(t), Some(t)]
        }
        None => [
            stdio.input.as_ref(),
            stdio.output.as_ref(),
            stdio.error.as_ref(),
        ],
    };
    for (number, fd) in given.into_iter().enumerate() {
        if terminal.is_none()
            && let Some(fd) = fd
        {
            // So that /dev/stdout can be opened by a user other than root.
            // SAFETY: takes numbers only.
            unsafe { libc::fchown(fd.as_raw_fd(), identity.uid, u32::MAX) };
        }
        // SAFETY: takes numbers only; the copies 0, 1, 2 stay open over exec.
        sys::cvt(unsafe { libc::dup2(fd.unwrap_or(&null).as_raw_fd(), number as RawFd) })
            .what(|| "connecting the streams".into())?;
    }

    let filter = match &process.seccomp {
        Some(hex) if !process.privileged => Some(filter_bytes(hex)?),
        _ => None,
    };
    if process.no_new_privs {
        // SAFETY: takes numbers only.
        sys::cvt(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
            .what(|| "no_new_privs".into())?;
    } else if let Some(filter) = &filter {
        install(filter)?;
    }

    let allowed = drop_bounding(process.capabilities);
    let ids: Vec<libc::gid_t> = identity.groups.clone();
    // SAFETY: `ids` lives through the call; the others take numbers only.
    unsafe {
        libc::syscall(libc::SYS_keyctl, 1, 0); // KEYCTL_JOIN_SESSION_KEYRING: the shim's is not for containers.
        sys::cvt(libc::setgroups(ids.len(), ids.as_ptr())).what(|| "setting groups".into())?;
        sys::cvt(libc::setresgid(identity.gid, identity.gid, identity.gid))
            .what(|| "setting the group".into())?;
        sys::cvt(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0))
            .what(|| "keeping capabilities".into())?;
        sys::cvt(libc::setresuid(identity.uid, identity.uid, identity.uid))
            .what(|| "setting the user".into())?;
        libc::prctl(libc::PR_CAP_AMBIENT, 4, 0, 0, 0); // PR_CAP_AMBIENT_CLEAR_ALL
    }
    // The filter is installed with SYS_ADMIN still at hand or with no_new_privs, so this can be the last step but that.
    set_capabilities(process.capabilities & allowed)?;
    let cwd = if process.cwd.is_empty() {
        "/"
    } else {
        &process.cwd
    };
    std::env::set_current_dir(cwd).map_err(|e| Failure {
        code: 126,
        message: format!("chdir to cwd ({cwd:?}) set in config.json failed: {e}"),
    })?;

    let mut env: Vec<(String, String)> = Vec::new();
    for (name, value) in &process.env {
        match env.iter_mut().find(|(n, _)| n == name) {
            Some(e) => e.1.clone_from(value),
            None => env.push((name.clone(), value.clone())),
        }
    }
    let mut default = |name: &str, value: &str| {
        if !env.iter().any(|(n, _)| n == name) {
            env.push((name.to_owned(), value.to_owned()));
        }
    };
    default(
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    );
    default("HOME", &identity.home);
    if process.tty {
        default("TERM", "xterm");
    }
    let search = env
        .iter()
        .find(|(n, _)| n == "PATH")
        .map(|(_, v)| v.clone())
        .unwrap_or_default();
    let name = process.args.first().cloned().unwrap_or_default();
    let program = find(&name, &search)?;
    let bad = |_| Failure {
        code: 128,
        message: "an argument or variable holds a zero byte".into(),
    };
    let program_c = CString::new(program.clone()).map_err(bad)?;
    let args = process
        .args
        .iter()
        .map(|a| CString::new(a.as_str()).map_err(bad))
        .collect::<Result<Vec<_>>>()?;
    let env = env
        .iter()
        .map(|(n, v)| CString::new(format!("{n}={v}")).map_err(bad))
        .collect::<Result<Vec<_>>>()?;
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts
            .iter()
            .map(|t| t.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (args_p, env_p) = (pointers(&args), pointers(&env));
    if process.no_new_privs
        && let Some(filter) = &filter
    {
        install(filter)?;
    }
    // SAFETY: terminated arrays of terminated strings that live until the exec.
    unsafe { libc::execve(program_c.as_ptr(), args_p.as_ptr(), env_p.as_ptr()) };
    let e = io::Error::last_os_error();
    let (code, why) = match e.raw_os_error() {
        Some(libc::ENOENT) => (127, "no such file or directory".to_owned()),
        Some(libc::EACCES) => (126, "permission denied".to_owned()),
        Some(libc::ENOEXEC) => (126, "exec format error".to_owned()),
        _ => (126, e.to_string()),
    };
    Err(Failure {
        code,
        message: format!("exec {program}: {why}"),
    })
}

/// Looks a program up as a shell does; the words of the errors are those that containerd's users know.
fn find(name: &str, search: &str) -> Result<String> {
    if name.is_empty() {
        return Err(Failure {
            code: 127,
            message: "no command specified".into(),
        });
    }
    let runnable =
        |path: &str| fs::metadata(path).is_ok_and(|m| m.is_file() && m.mode() & 0o111 != 0);
    if name.contains('/') {
        return match fs::metadata(name) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(Failure {
                code: 126,
                message: format!("exec: {name:?}: permission denied"),
            }),
            Err(_) => Err(Failure {
                code: 127,
                message: format!("exec: {name:?}: stat {name}: no such file or directory"),
            }),
            Ok(m) if m.is_dir() => Err(Failure {
                code: 126,
                message: format!("exec: {name:?}: is a directory"),
            }),
            Ok(m) if m.mode() & 0o111 == 0 => Err(Failure {
                code: 126,
                message: format!("exec: {name:?}: permission denied"),
            }),
            Ok(_) => Ok(name.to_owned()),
        };
    }
    search
        .split(':')
        .map(|dir| {
            format!(
                "{}/{name}",
                if dir.is_empty() {
                    "."
                } else {
                    dir.trim_end_matches('/')
                }
            )
        })
        .find(|path| runnable(path))
        .ok_or_else(|| Failure {
            code: 127,
            message: format!("exec: {name:?}: executable file not found in $PATH"),
        })
}

fn filter_bytes(hex: &str) -> Result<Vec<u8>> {
    let bad = || Failure {
        code: 128,
        message: "bad specification: seccomp filter".into(),
    };
    (0..hex.len() / 2)
        .map(|i| {
            hex.get(2 * i..2 * i + 2)
                .and_then(|h| u8::from_str_radix(h, 16).ok())
                .ok_or_else(bad)
        })
        .collect()
}

fn install(filter: &[u8]) -> Result<()> {
    let program = libc::sock_fprog {
        len: (filter.len() / 8) as u16,
        filter: filter.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the kernel copies `len` instructions of 8 bytes; `filter` holds as many (its alignment doesn't matter to the
    // copy).
    sys::cvt(unsafe { libc::syscall(libc::SYS_seccomp, 1, 0, &raw const program) } as i64)
        .map(|_| ())
        .what(|| "installing the seccomp filter".into())
}

/// Takes everything else from what the process can ever gain; returns what it has itself.
fn drop_bounding(keep: u64) -> u64 {
    for capability in 0..64 {
        if keep & (1 << capability) == 0 {
            // SAFETY: takes numbers only. Fails for numbers this kernel doesn't know.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        }
    }
    permitted()
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}
#[repr(C)]
#[derive(Default, Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The capabilities this process may use.
pub(crate) fn permitted() -> u64 {
    let header = CapHeader {
        version: 0x2008_0522,
        pid: 0,
    };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 of the interface fills two of these.
    unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) };
    u64::from(data[0].permitted) | (u64::from(data[1].permitted) << 32)
}

/// Keeps exactly these.
pub(crate) fn set_capabilities(set: u64) -> Result<()> {
    let header = CapHeader {
        version: 0x2008_0522,
        pid: 0,
    };
    let half = |v: u32| CapData {
        effective: v,
        permitted: v,
        inheritable: 0,
    };
    let data = [half(set as u32), half((set >> 32) as u32)];
    // SAFETY: version 3 of the interface reads two of these.
    sys::cvt(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) } as i64)
        .map(|_| ())
        .what(|| "setting capabilities".into())
}

/// Process 1 of a sandbox's shared PID namespace: holds it open, reaps orphans, can do nothing, sees nothing.
pub(crate) fn pause() -> Result<()> {
    sys::unshare(libc::CLONE_NEWNS).what(|| "making a mount namespace".into())?;
    sys::mount("", "/", "", libc::MS_REC | libc::MS_PRIVATE, "")
        .what(|| "leaving the node's mounts".into())?;
    sys::mount("tmpfs", "/proc", "tmpfs", libc::MS_RDONLY, "size=0k")
        .what(|| "making an empty root".into())?;
    std::env::set_current_dir("/proc").what(|| "entering the root".into())?;
    // SAFETY: terminated strings; the old root is detached at once.
    unsafe {
        sys::cvt(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) as i64)
            .what(|| "pivot".into())?;
        sys::cvt(libc::umount2(c".".as_ptr(), libc::MNT_DETACH)).what(|| "pivot".into())?;
        libc::chdir(c"/".as_ptr());
        libc::setsid();
        libc::prctl(libc::PR_SET_NAME, c"pause".as_ptr());
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    }
    drop_bounding(0);
    set_capabilities(0)?;
    // SAFETY: closes everything, then waits for signals for ever; SIGCHLD ignored reaps children by itself.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0);
        loop {
            libc::pause();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        let process = |user: &str| ProcessSpec {
            args: vec![],
            env: vec![],
            cwd: String::new(),
            tty: false,
            privileged: false,
            uid: None,
            user: user.into(),
            run_as_group: None,
            supplemental_groups: vec![7],
            supplemental_groups_strict: false,
            capabilities: 0,
            no_new_privs: false,
            seccomp: None,
            oom_score_adj: None,
        };
        let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:/bin/false\n";
        let group = "root:x:0:\nwww:x:34:\nlogs:x:4:web,x\n";
        let id = |user| identify(&process(user), passwd, group);
        assert_eq!(
            id("").unwrap(),
            Identity {
                uid: 0,
                gid: 0,
                groups: vec![0, 7],
                home: "/root".into()
            }
        );
        let web = Identity {
            uid: 33,
            gid: 34,
            groups: vec![34, 7, 4],
            home: "/var/www".into(),
        };
        assert_eq!(id("web").unwrap(), web);
        assert_eq!(id("33").unwrap(), web);
        assert_eq!(
            id("1000:logs").unwrap(),
            Identity {
                uid: 1000,
                gid: 4,
                groups: vec![4, 7],
                home: "/".into()
            }
        );
        assert!(id("nobody").is_err() && id("web:nogroup").is_err());

        // What an image calls a number is not that number.
        let passwd = "1000:x:0:0::/:\n00:x:7:7::/:\nroot:x:0:0:root:/root:/bin/sh\n";
        let group = "1000:x:0:\n";
        let by_number = |uid| {
            let process = ProcessSpec {
                uid: Some(uid),
                ..process("web")
            };
            identify(&process, passwd, group).unwrap().uid
        };
        assert_eq!((by_number(1000), by_number(0)), (1000, 0));
        let by_text = |user| identify(&process(user), passwd, group).unwrap();
        assert_eq!(
            (by_text("1000:1000").uid, by_text("1000:1000").gid),
            (1000, 1000)
        );
        assert_eq!((by_text("00").uid, by_text("+0").uid), (0, 0));
    }
}
