//! Removes a tree of files that Pods had a hand in.
//!
//! Nothing in it is followed, and no mount point is crossed: what is mounted there is somebody's volume, whether or not it
//! should still be mounted. A tree may be as deep as its makers liked; so many levels are not held open at once.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How many directories are open at once.
const MAX_OPEN: usize = 256;

struct Level {
    dir: OwnedFd,
    name: CString,
    /// What of it is still there.
    rest: Vec<CString>,
}

fn open(above: &OwnedFd, name: CString) -> Result<Level, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    let dir = rustix::fs::openat2(above, &name, flags, Mode::empty(), resolve)?;
    let mut rest = Vec::new();
    for entry in Dir::read_from(&dir)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.as_bytes(), b"." | b"..") {
            rest.push(name);
        }
    }
    Ok(Level { dir, name, rest })
}

/// Removes the directory at `path` and all below it; fine if there is none.
///
/// # Errors
/// When something is mounted in it, and the file system's.
pub fn tree(path: &Path) -> io::Result<()> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "not the path of a directory");
    let (above, name) = path.parent().zip(path.file_name()).ok_or_else(invalid)?;
    let name = CString::new(name.as_encoded_bytes())?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let above = rustix::fs::open(above, flags, Mode::empty())?;
    let explained = |error: Errno, name: &CString| match error {
        Errno::XDEV | Errno::BUSY => io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("something is mounted at {}", name.to_string_lossy()),
        ),
        error => error.into(),
    };
    let mut open_levels = match open(&above, name.clone()) {
        Err(Errno::NOENT) => return Ok(()),
        level => vec![level.map_err(|e| explained(e, &name))?],
    };
    let mut aside = 0_u64;
    loop {
        let too_deep = open_levels.len() == MAX_OPEN;
        let Some(level) = open_levels.last_mut() else {
            return Ok(());
        };
        let Some(name) = level.rest.pop() else {
            let name = level.name.clone();
            open_levels.pop();
            let above = open_levels.last().map_or(&above, |l| &l.dir);
            match rustix::fs::unlinkat(above, &name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(error) => return Err(explained(error, &name)),
            }
        };
        match rustix::fs::unlinkat(&level.dir, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) if too_deep => {
                // Too deep: its turn comes as a child of the first directory.
                let short = CString::new(format!(".deep-{aside}"))?;
                aside += 1;
                let (first, last) = (&open_levels[0].dir, &open_levels[MAX_OPEN - 1].dir);
                rustix::fs::renameat(last, &name, first, &short)
                    .map_err(|e| explained(e, &name))?;
                open_levels[0].rest.push(short);
            }
            Err(Errno::ISDIR) => {
                let below = open(&level.dir, name.clone()).map_err(|e| explained(e, &name))?;
                open_levels.push(below);
            }
            Err(error) => return Err(explained(error, &name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use rustix::mount::UnmountFlags;

    use super::*;

    #[test]
    fn all_goes_and_nothing_outside() {
        let dir = tempfile::tempdir().unwrap();
        let (top, kept) = (dir.path().join("top"), dir.path().join("kept"));
        fs::create_dir_all(&kept).unwrap();
        fs::write(kept.join("file"), "").unwrap();
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::write(top.join("a/file"), "").unwrap();
        symlink(&kept, top.join("a/link")).unwrap();
        // Deeper than any path may be long.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut at = rustix::fs::open(&top, flags, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "deep", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "deep", flags, Mode::empty()).unwrap();
        }
        tree(&top).unwrap();
        assert!(!top.exists() && kept.join("file").exists());
        tree(&top).unwrap();
    }

    #[test]
    fn a_mount_is_not_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let (top, volume) = (dir.path().join("top"), dir.path().join("volume"));
        fs::create_dir_all(top.join("at")).unwrap();
        fs::create_dir(&volume).unwrap();
        fs::write(volume.join("file"), "").unwrap();
        // On the same file system: only the kernel knows that it is a mount.
        rustix::mount::mount_bind(&volume, top.join("at")).unwrap();
        let error = tree(&top).unwrap_err();
        let kept = volume.join("file").exists();
        rustix::mount::unmount(top.join("at"), UnmountFlags::DETACH).unwrap();
        assert!(kept);
        assert_eq!(error.to_string(), "something is mounted at at");
        tree(&top).unwrap();
        assert!(!top.exists() && volume.join("file").exists());
    }
}
