//! Unpacks a layer's tar to the form overlayfs takes as a lower directory.
//!
//! Whiteouts (`.wh.name`) become character devices 0:0, opaque markers an extended attribute. Every path is resolved by the
//! kernel with the layer as its root, so that no link or `..` in a layer reaches outside.

use std::ffi::{CString, OsStr};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use crate::error::{Attempt, Error, Result};
use crate::sys;

/// Unpacks into `root`, an empty directory; the number of bytes of its files.
pub(super) fn layer(tar: &mut dyn Read, root: &Path) -> Result<u64> {
    let root =
        OwnedFd::from(std::fs::File::open(root).attempt(|| format!("opening {}", root.display()))?);
    let mut archive = tar::Archive::new(tar);
    archive.set_ignore_zeros(false);
    let mut bytes = 0;
    // Times of directories last: making their content changes them.
    let mut times: Vec<(PathBuf, u64)> = Vec::new();
    let reading = |e: io::Error| Error::BadImage(format!("reading a layer: {e}"));
    for entry in archive.entries().map_err(reading)? {
        let mut entry = entry.map_err(reading)?;
        let given = entry.path().map_err(reading)?.into_owned();
        let path = relative(&given)?;
        let doing = || format!("unpacking {}", given.display());
        bytes += one(&root, &path, &mut entry, &mut times).map_err(|e| match e.raw_os_error() {
            Some(libc::EXDEV | libc::ELOOP) => {
                Error::BadImage(format!("{}: leads out of the layer", doing()))
            }
            _ => Error::Io {
                attempt: doing(),
                source: e,
            },
        })?;
    }
    for (path, seconds) in times {
        if let Ok((parent, name)) = parent(&root, &path) {
            set_time(&parent, &name, seconds)
                .attempt(|| format!("setting the time of {}", path.display()))?;
        }
    }
    Ok(bytes)
}

/// Without a leading `/` or `./`; `..` is refused.
fn relative(path: &Path) -> Result<PathBuf> {
    let mut out = PathBuf::new();
    for c in path.components() {
        match c {
            Component::Normal(c) => out.push(c),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::BadImage(format!(
                    "path {} leads out of the layer",
                    path.display()
                )));
            }
        }
    }
    Ok(out)
}

/// The directory a path is in (made if missing) and its last name.
fn parent(root: &OwnedFd, path: &Path) -> io::Result<(OwnedFd, CString)> {
    let name = sys::cstr(path.file_name().unwrap_or(OsStr::new(".")))?;
    let dir = path.parent().unwrap_or(Path::new(""));
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    match sys::open_in_root(root.as_fd(), dir, flags) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let (above, missing) = parent(root, dir)?;
            // SAFETY: a terminated string and numbers.
            sys::cvt(unsafe { libc::mkdirat(above.as_raw_fd(), missing.as_ptr(), 0o755) })?;
            Ok((sys::open_in_root(root.as_fd(), dir, flags)?, name))
        }
        r => Ok((r?, name)),
    }
}

fn set_time(dir: &OwnedFd, name: &CString, seconds: u64) -> io::Result<()> {
    let time = libc::timespec {
        tv_sec: seconds.try_into().unwrap_or(0),
        tv_nsec: 0,
    };
    let times = [time, time];
    // SAFETY: two times and a terminated string.
    sys::cvt(unsafe {
        libc::utimensat(
            dir.as_raw_fd(),
            name.as_ptr(),
            times.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
        )
    })
    .map(|_| ())
}

fn set_attribute(dir: &OwnedFd, name: &CString, key: &str, value: &[u8]) -> io::Result<()> {
    let path = sys::cstr(format!(
        "/proc/self/fd/{}/{}",
        dir.as_raw_fd(),
        name.to_string_lossy()
    ))?;
    let key = sys::cstr(key)?;
    // SAFETY: terminated strings, a buffer and its length.
    sys::cvt(unsafe {
        libc::lsetxattr(
            path.as_ptr(),
            key.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    })
    .map(|_| ())
}

/// Removes what is in the way of an entry that comes later in the same layer.
fn clear(dir: &OwnedFd, name: &CString) -> io::Result<()> {
    // SAFETY: a terminated string and numbers.
    let removed = sys::cvt(unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), 0) });
    match removed {
        Err(e) if e.raw_os_error() == Some(libc::EISDIR) => std::fs::remove_dir_all(format!(
            "/proc/self/fd/{}/{}",
            dir.as_raw_fd(),
            name.to_string_lossy()
        )),
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn one<R: Read>(
    root: &OwnedFd,
    path: &Path,
    entry: &mut tar::Entry<'_, R>,
    times: &mut Vec<(PathBuf, u64)>,
) -> io::Result<u64> {
    use tar::EntryType as T;
    let header = entry.header().clone();
    let kind = header.entry_type();
    // Some writers leave fields empty, which others read as zero.
    let or_zero = |r: io::Result<u64>| r.unwrap_or(0);
    let mode = header.mode().unwrap_or(0o755) & 0o7777;
    let (uid, gid, mtime) = (
        or_zero(header.uid()),
        or_zero(header.gid()),
        or_zero(header.mtime()),
    );
    let (dir, name) = parent(root, path)?;
    let at = dir.as_raw_fd();
    if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
        if hidden == b".wh..opq" {
            let (above, this) = parent(root, path.parent().unwrap_or(Path::new("")))?;
            return set_attribute(&above, &this, "trusted.overlay.opaque", b"y").map(|()| 0);
        }
        if hidden.starts_with(b".wh.") || hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Ok(0);
        }
        let hidden = CString::new(hidden)?;
        clear(&dir, &hidden)?;
        // SAFETY: a terminated string and numbers.
        return sys::cvt(unsafe { libc::mknodat(at, hidden.as_ptr(), libc::S_IFCHR, 0) })
            .map(|_| 0);
    }
    let at_root = path.as_os_str().is_empty();
    let mut size = 0;
    // SAFETY (all blocks below): terminated strings, numbers, and descriptors that live through the calls.
    match kind {
        T::Directory => {
            if !at_root {
                // SAFETY: see above.
                match sys::cvt(unsafe { libc::mkdirat(at, name.as_ptr(), mode) }) {
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                        // SAFETY: all zeros is a valid stat; the call fills it in.
                        let is_dir = unsafe {
                            let mut s: libc::stat = std::mem::zeroed();
                            sys::cvt(libc::fstatat(
                                at,
                                name.as_ptr(),
                                &raw mut s,
                                libc::AT_SYMLINK_NOFOLLOW,
                            ))?;
                            s.st_mode & libc::S_IFMT == libc::S_IFDIR
                        };
                        if !is_dir {
                            clear(&dir, &name)?;
                            // SAFETY: see above.
                            sys::cvt(unsafe { libc::mkdirat(at, name.as_ptr(), mode) })?;
                        }
                    }
                    r => drop(r?),
                }
            }
            times.push((path.to_owned(), mtime));
        }
        T::Regular | T::Continuous | T::GNUSparse => {
            clear(&dir, &name)?;
            let flags =
                libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC;
            // SAFETY: see above; the new descriptor is ours.
            let file = unsafe {
                let fd = sys::cvt(libc::openat(at, name.as_ptr(), flags, 0o600))?;
                <std::fs::File as std::os::fd::FromRawFd>::from_raw_fd(fd as i32)
            };
            size = io::copy(entry, &mut &file)?;
        }
        T::Symlink => {
            clear(&dir, &name)?;
            let to = sys::cstr(entry.link_name()?.unwrap_or_default())?;
            // SAFETY: see above.
            sys::cvt(unsafe { libc::symlinkat(to.as_ptr(), at, name.as_ptr()) })?;
        }
        T::Link => {
            let to = entry.link_name()?.unwrap_or_default().into_owned();
            let to = relative(&to).map_err(io::Error::other)?;
            let (to_dir, to_name) = parent(root, &to)?;
            clear(&dir, &name)?;
            // SAFETY: see above. Owner and mode are the target's.
            return sys::cvt(unsafe {
                libc::linkat(to_dir.as_raw_fd(), to_name.as_ptr(), at, name.as_ptr(), 0)
            })
            .map(|_| 0);
        }
        T::Fifo => {
            clear(&dir, &name)?;
            // SAFETY: see above.
            sys::cvt(unsafe { libc::mknodat(at, name.as_ptr(), libc::S_IFIFO | mode, 0) })?;
        }
        T::Char | T::Block => {
            clear(&dir, &name)?;
            let numbers = (header.device_major()?, header.device_minor()?);
            if kind == T::Block || numbers != (Some(0), Some(0)) {
                // No image has a say over which of the machine's devices there are in a container.
                return Ok(0);
            }
            // What overlayfs itself calls a whiteout.
            // SAFETY: see above.
            sys::cvt(unsafe { libc::mknodat(at, name.as_ptr(), libc::S_IFCHR | mode, 0) })?;
        }
        _ => return Ok(0),
    }
    // SAFETY: see above. The owner before the mode: changing it clears set-user-id.
    unsafe {
        let (uid, gid) = (
            u32::try_from(uid).unwrap_or(0),
            u32::try_from(gid).unwrap_or(0),
        );
        sys::cvt(libc::fchownat(
            at,
            name.as_ptr(),
            uid,
            gid,
            libc::AT_SYMLINK_NOFOLLOW,
        ))?;
        if kind != T::Symlink {
            sys::cvt(libc::fchmodat(at, name.as_ptr(), mode, 0))?;
        }
    }
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        if let Some(key) = extension
            .key()
            .ok()
            .and_then(|k| k.strip_prefix("SCHILY.xattr."))
            && !key.starts_with("trusted.")
        {
            match set_attribute(&dir, &name, key, extension.value_bytes()) {
                Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EPERM)) => {}
                r => r?,
            }
        }
    }
    if kind != T::Directory {
        set_time(&dir, &name, mtime)?;
    }
    Ok(size)
}
