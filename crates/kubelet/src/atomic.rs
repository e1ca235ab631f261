//! Writes the files of a volume so that a reader sees either all of the old or all of the new ones.
//!
//! Upstream's layout: `..data` links to a directory named by time, and each visible name links into `..data`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Component, Path};

/// A file: mode and content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub mode: u32,
    pub data: Vec<u8>,
}

/// Files by their path in the volume.
pub type Payload = BTreeMap<String, File>;

/// Whether `path` stays inside the volume and does not touch the writer's own names.
#[must_use]
pub fn valid(path: &str) -> bool {
    let p = Path::new(path);
    !path.is_empty()
        && p.components().all(|c| matches!(c, Component::Normal(_)))
        && !path.starts_with("..")
}

fn same(current: &Path, payload: &Payload) -> bool {
    fn count(dir: &Path) -> io::Result<usize> {
        let mut n = 0;
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            n += if entry.file_type()?.is_dir() {
                count(&entry.path())?
            } else {
                1
            };
        }
        Ok(n)
    }
    let equal = |(path, file): (&String, &File)| {
        let at = current.join(path);
        let mode = fs::metadata(&at)
            .map(|m| m.permissions().mode() & 0o7777)
            .ok();
        mode == Some(file.mode) && fs::read(&at).is_ok_and(|data| data == file.data)
    };
    payload.iter().all(equal) && count(current).is_ok_and(|n| n == payload.len())
}

/// Makes `dir` show `payload`, owned by `group` if given. `stamp` names the new directory. Returns whether anything changed.
///
/// # Errors
/// The file system's, or a path that leaves the volume.
pub fn write(dir: &Path, payload: &Payload, group: Option<u32>, stamp: &str) -> io::Result<bool> {
    if let Some(bad) = payload.keys().find(|p| !valid(p)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("invalid path {bad:?} in a volume"),
        ));
    }
    let data = dir.join("..data");
    let old = fs::read_link(&data).ok();
    if old.is_some() && same(&data, payload) {
        return Ok(false);
    }
    let name = format!("..{stamp}");
    let fresh = dir.join(&name);
    fs::create_dir_all(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    let own = |path: &Path| group.map_or(Ok(()), |g| std::os::unix::fs::chown(path, None, Some(g)));
    own(&fresh)?;
    for (path, file) in payload {
        let at = fresh.join(path);
        if let Some(parent) = at.parent() {
            fs::create_dir_all(parent)?;
            own(parent)?;
        }
        fs::write(&at, &file.data)?;
        own(&at)?;
        fs::set_permissions(&at, fs::Permissions::from_mode(file.mode))?;
    }
    let next = dir.join("..data_tmp");
    let _ = fs::remove_file(&next);
    symlink(&name, &next)?;
    fs::rename(&next, &data)?;
    let visible: BTreeSet<&str> = payload.keys().filter_map(|p| p.split('/').next()).collect();
    for top in &visible {
        let link = dir.join(top);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(top), &link)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let file_name = entry.file_name();
        let shown = file_name.to_string_lossy();
        if !shown.starts_with("..") && !visible.contains(shown.as_ref()) {
            fs::remove_file(entry.path())?;
        }
    }
    if let Some(old) = old.filter(|o| o != Path::new(&name)) {
        fs::remove_dir_all(dir.join(old))?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files
            .iter()
            .map(|(p, d)| {
                (
                    (*p).to_owned(),
                    File {
                        mode: 0o644,
                        data: d.as_bytes().to_vec(),
                    },
                )
            })
            .collect()
    }

    #[test]
    fn files_are_swapped_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let read = |p: &str| fs::read_to_string(dir.path().join(p)).unwrap();
        assert!(
            write(
                dir.path(),
                &payload(&[("a", "1"), ("d/b", "2")]),
                None,
                "t1"
            )
            .unwrap()
        );
        assert_eq!((read("a"), read("d/b")), ("1".into(), "2".into()));
        assert!(
            !write(
                dir.path(),
                &payload(&[("a", "1"), ("d/b", "2")]),
                None,
                "t2"
            )
            .unwrap()
        );
        assert!(write(dir.path(), &payload(&[("a", "3")]), None, "t3").unwrap());
        assert_eq!(read("a"), "3");
        assert!(!dir.path().join("d").exists() && !dir.path().join("..t1").exists());
        assert!(write(dir.path(), &payload(&[("../x", "3")]), None, "t4").is_err());
    }
}
