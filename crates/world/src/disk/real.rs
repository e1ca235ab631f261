//! The machine's file system.

use std::any::Any;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Disk, DiskError, DiskFile, Result};

/// `std::fs`; directories are made with mode 0700, files with 0600.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

fn at<T>(action: &'static str, path: &Path, result: io::Result<T>) -> Result<T> {
    result.map_err(|source| DiskError {
        action,
        path: path.to_owned(),
        source,
    })
}

impl Disk for RealDisk {
    fn create_dir(&self, dir: &Path) -> Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        at(
            "create",
            dir,
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir),
        )?;
        match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => self.sync_dir(parent),
            _ => Ok(()),
        }
    }

    fn open(&self, path: &Path, create: bool) -> Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(create)
            .truncate(create)
            .mode(0o600);
        let file = at("open", path, options.open(path))?;
        Ok(Box::new(RealFile {
            file,
            path: path.to_owned(),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        at("rename", from, std::fs::rename(from, to))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        at("remove", path, std::fs::remove_file(path))
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in at("list", dir, std::fs::read_dir(dir))? {
            let entry = at("list", dir, entry)?;
            if at("list", dir, entry.file_type())?.is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        at("sync", dir, File::open(dir).and_then(|d| d.sync_all()))
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Any + Send + Sync>> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = at("open", path, options.open(path))?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => {
                at("lock", path, Err(io::ErrorKind::WouldBlock.into()))
            }
            Err(TryLockError::Error(error)) => at("lock", path, Err(error)),
        }
    }
}

struct RealFile {
    file: File,
    path: PathBuf,
}

impl DiskFile for RealFile {
    fn size(&self) -> Result<u64> {
        Ok(at("stat", &self.path, self.file.metadata())?.len())
    }

    fn read_all(&self) -> Result<Vec<u8>> {
        let size = usize::try_from(self.size()?).unwrap_or(usize::MAX);
        let mut data = vec![0; size];
        at("read", &self.path, self.file.read_exact_at(&mut data, 0))?;
        Ok(data)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        at("read", &self.path, self.file.read_exact_at(into, offset))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        at("write", &self.path, self.file.write_all_at(data, offset))
    }

    fn preallocate(&self, size: u64) -> Result<()> {
        let zeros = vec![0_u8; 1 << 20];
        let mut done = self.size()?;
        while done < size {
            let part = usize::try_from(size - done)
                .unwrap_or(usize::MAX)
                .min(zeros.len());
            self.write_at(done, &zeros[..part])?;
            done += part as u64;
        }
        Ok(())
    }

    fn sync_data(&self) -> Result<()> {
        at("sync", &self.path, self.file.sync_data())
    }
}
