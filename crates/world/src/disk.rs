//! The disk as the store sees it: files that are preallocated, written at positions, synced, renamed and removed.
//!
//! [`RealDisk`] is a thin layer over `std::fs` whose errors name the path. [`FaultyDisk`], for tests, lives in memory and
//! behaves like a machine that loses power: what was not synced survives in part, in any order, sector by sector. Calls
//! block; whoever calls them keeps them off the threads that run async tasks.

mod faulty;
mod real;

use std::any::Any;
use std::path::{Path, PathBuf};

pub use faulty::{FaultyDisk, Op};
pub use real::RealDisk;

/// What went wrong with which file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct DiskError {
    /// A verb, e.g. `write`.
    pub action: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: std::io::Error,
}

impl DiskError {
    /// Does the file or directory not exist?
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == std::io::ErrorKind::NotFound
    }
}

/// The result of a disk operation.
pub type Result<T> = std::result::Result<T, DiskError>;

/// Directories and the names in them. A created, renamed or removed name survives a loss of power only after
/// [`Disk::sync_dir`] on its directory.
pub trait Disk: Send + Sync + 'static {
    /// Makes a directory and those above it. They are durable when this returns.
    ///
    /// # Errors
    /// As the file system says.
    fn create_dir(&self, dir: &Path) -> Result<()>;

    /// Opens a file for reading and writing; makes an empty one, or empties an old one, if `create`.
    ///
    /// # Errors
    /// As the file system says, among them that there is no such file.
    fn open(&self, path: &Path, create: bool) -> Result<Box<dyn DiskFile>>;

    /// Gives a file another name in the same directory, replacing what had it.
    ///
    /// # Errors
    /// As the file system says.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// As the file system says.
    fn remove(&self, path: &Path) -> Result<()>;

    /// The names of the files in a directory, sorted.
    ///
    /// # Errors
    /// As the file system says.
    fn list(&self, dir: &Path) -> Result<Vec<String>>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// As the file system says.
    fn sync_dir(&self, dir: &Path) -> Result<()>;

    /// Holds `path` for this process until the guard is dropped (or the process ends).
    ///
    /// # Errors
    /// [`std::io::ErrorKind::WouldBlock`] when another process holds it.
    fn lock(&self, path: &Path) -> Result<Box<dyn Any + Send + Sync>>;

    /// The whole content of a file.
    ///
    /// # Errors
    /// As the file system says.
    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        self.open(path, false)?.read_all()
    }
}

/// An open file. Private to its owner: mode 0600.
pub trait DiskFile: Send + Sync {
    /// The size in bytes.
    ///
    /// # Errors
    /// As the file system says.
    fn size(&self) -> Result<u64>;

    /// The whole content.
    ///
    /// # Errors
    /// As the file system says.
    fn read_all(&self) -> Result<Vec<u8>>;

    /// Fills `into` with what stands at `offset`.
    ///
    /// # Errors
    /// As the file system says; [`std::io::ErrorKind::UnexpectedEof`] when the file ends too early.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()>;

    /// Writes all of `data` at `offset`, growing the file if it must.
    ///
    /// # Errors
    /// As the file system says; some of `data` may have been written.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()>;

    /// Writes all of `data` behind what is there.
    ///
    /// # Errors
    /// As [`Self::write_at`].
    fn append(&self, data: &[u8]) -> Result<()> {
        self.write_at(self.size()?, data)
    }

    /// Grows the file to `size` with zeros that are really written, so that later writes below `size` change nothing but
    /// data and cannot run out of space.
    ///
    /// # Errors
    /// As the file system says, among them that the disk is full.
    fn preallocate(&self, size: u64) -> Result<()>;

    /// `fdatasync`: what was written, and the size, survive a loss of power. After an error nothing is known about what
    /// is on disk, and a second try proves nothing (the kernel drops the dirty pages of a failed sync).
    ///
    /// # Errors
    /// As the file system says.
    fn sync_data(&self) -> Result<()>;
}
