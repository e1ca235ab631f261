//! A disk in memory that loses power on demand.
//!
//! Every file keeps its durable bytes and the writes since the last sync. At a [`FaultyDisk::crash`] each sector of each of
//! those writes survives or not by chance, in any order; names keep a chance part of what happened to them since their
//! directory was synced (in order, as journalling file systems do). Open files of before the crash answer with errors.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskError, DiskFile, Result};

/// What a disk writes as a whole or not at all.
const SECTOR: usize = 512;

/// The operations that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// [`DiskFile::write_at`], [`DiskFile::append`], [`DiskFile::preallocate`].
    Write,
    /// [`DiskFile::sync_data`].
    Sync,
}

#[derive(Default)]
struct Inode {
    durable: Vec<u8>,
    live: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

enum NameChange {
    Link(PathBuf, u64),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

fn apply(names: &mut BTreeMap<PathBuf, u64>, change: &NameChange) {
    match change {
        NameChange::Link(path, inode) => {
            names.insert(path.clone(), *inode);
        }
        NameChange::Unlink(path) => {
            names.remove(path);
        }
        NameChange::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
    }
}

#[derive(Default)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    durable_names: BTreeMap<PathBuf, u64>,
    names: BTreeMap<PathBuf, u64>,
    /// Changes of names since their directory was synced, in order.
    unsynced_names: Vec<NameChange>,
    locks: BTreeSet<PathBuf>,
    /// Counts crashes; open files of an earlier life are dead.
    life: u64,
    /// Changing operations until the power fails.
    power_for: Option<u64>,
    off: bool,
    full: bool,
    failing: Vec<(Op, i32)>,
    changes: u64,
    syncs: u64,
}

/// See the module's comment. Cheap to clone; clones are the same disk.
#[derive(Clone, Default)]
pub struct FaultyDisk(Arc<Mutex<State>>);

fn no_power() -> io::Error {
    io::Error::other("the power has failed")
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl FaultyDisk {
    /// An empty disk that works.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power fails during the `n`th changing operation from now: it is done in part, and all later ones fail.
    pub fn lose_power_after(&self, n: u64) {
        self.state().power_for = Some(n);
    }

    /// Has the power failed?
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.state().off
    }

    /// While true, nothing can grow or be created (ENOSPC); preallocated space can still be written.
    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// The next operation of this kind fails with the given errno (e.g. `libc::EIO`). Several calls queue up.
    pub fn fail_next(&self, op: Op, code: i32) {
        self.state().failing.push((op, code));
    }

    /// How many changing operations there were, ever.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.state().changes
    }

    /// How many times file data was synced, ever.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Loses power (if that has not happened yet) and comes back with what survived, chosen by `seed`.
    pub fn crash(&self, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut state = self.state();
        let state = &mut *state;
        for inode in state.inodes.values_mut() {
            inode.lose_power(&mut rng);
        }
        let kept = rng.usize(0..=state.unsynced_names.len());
        for change in state.unsynced_names.drain(..).take(kept) {
            apply(&mut state.durable_names, &change);
        }
        state.names = state.durable_names.clone();
        let named: BTreeSet<u64> = state.names.values().copied().collect();
        state.inodes.retain(|id, _| named.contains(id));
        state.locks.clear();
        state.life += 1;
        state.off = false;
        state.power_for = None;
        state.failing.clear();
    }

    /// Damages a file in place, durably: the byte at `offset` is inverted.
    pub fn flip(&self, path: &Path, offset: usize) {
        self.edit(path, |data| {
            if let Some(byte) = data.get_mut(offset) {
                *byte = !*byte;
            }
        });
    }

    /// Changes a file's durable content directly.
    pub fn edit(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let Some(id) = state.names.get(path).copied() else {
            return;
        };
        if let Some(inode) = state.inodes.get_mut(&id) {
            change(&mut inode.live);
            inode.durable = inode.live.clone();
            inode.unsynced.clear();
        }
    }

    /// Every byte of every file (to search for what must not be there).
    #[must_use]
    pub fn everything(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let state = self.state();
        let read = |id| {
            state
                .inodes
                .get(id)
                .map(|i| i.live.clone())
                .unwrap_or_default()
        };
        state
            .names
            .iter()
            .map(|(path, id)| (path.clone(), read(id)))
            .collect()
    }
}

impl Inode {
    fn lose_power(&mut self, rng: &mut fastrand::Rng) {
        let mut sectors = Vec::new();
        for (offset, data) in self.unsynced.drain(..) {
            let (mut at, end) = (offset, offset + data.len());
            while at < end {
                let next = ((at / SECTOR + 1) * SECTOR).min(end);
                sectors.push((at, data[at - offset..next - offset].to_vec()));
                at = next;
            }
        }
        // Sometimes almost all survives, sometimes almost nothing.
        let chance = rng.f64();
        rng.shuffle(&mut sectors);
        for (at, data) in sectors {
            if rng.f64() < chance {
                let end = at + data.len();
                if self.durable.len() < end {
                    self.durable.resize(end, 0);
                }
                self.durable[at..end].copy_from_slice(&data);
            }
        }
        self.live = self.durable.clone();
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        if self.live.len() < end {
            self.live.resize(end, 0);
        }
        self.live[offset..end].copy_from_slice(data);
        self.unsynced.push((offset, data.to_vec()));
    }
}

impl State {
    fn read(&self) -> io::Result<()> {
        if self.off { Err(no_power()) } else { Ok(()) }
    }

    /// Counts a changing operation. `Ok(true)`: the power fails during this one.
    fn change(&mut self, op: Option<Op>) -> io::Result<bool> {
        self.read()?;
        self.changes += 1;
        if let Some(i) = self
            .failing
            .iter()
            .position(|(failing, _)| Some(*failing) == op)
        {
            return Err(errno(self.failing.remove(i).1));
        }
        match self.power_for.as_mut() {
            Some(left) if *left <= 1 => {
                self.off = true;
                Ok(true)
            }
            Some(left) => {
                *left -= 1;
                Ok(false)
            }
            None => Ok(false),
        }
    }

    fn rename_names(&mut self, change: NameChange) -> io::Result<()> {
        let off = self.change(None)?;
        apply(&mut self.names, &change);
        self.unsynced_names.push(change);
        if off { Err(no_power()) } else { Ok(()) }
    }
}

fn at<T>(action: &'static str, path: &Path, result: io::Result<T>) -> Result<T> {
    result.map_err(|source| DiskError {
        action,
        path: path.to_owned(),
        source,
    })
}

impl Disk for FaultyDisk {
    fn create_dir(&self, _dir: &Path) -> Result<()> {
        Ok(())
    }

    fn open(&self, path: &Path, create: bool) -> Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        at("open", path, state.read())?;
        let inode = match (state.names.get(path), create) {
            (Some(inode), false) => *inode,
            (None, false) => return at("open", path, Err(io::ErrorKind::NotFound.into())),
            (_, true) => {
                if state.full {
                    return at("open", path, Err(errno(libc::ENOSPC)));
                }
                state.next_inode += 1;
                let inode = state.next_inode;
                state.inodes.insert(inode, Inode::default());
                at(
                    "open",
                    path,
                    state.rename_names(NameChange::Link(path.to_owned(), inode)),
                )?;
                inode
            }
        };
        let life = state.life;
        Ok(Box::new(FaultyFile {
            disk: self.clone(),
            path: path.to_owned(),
            inode,
            life,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let mut state = self.state();
        if !state.names.contains_key(from) {
            return at("rename", from, Err(io::ErrorKind::NotFound.into()));
        }
        at(
            "rename",
            from,
            state.rename_names(NameChange::Rename(from.to_owned(), to.to_owned())),
        )
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let mut state = self.state();
        if !state.names.contains_key(path) {
            return at("remove", path, Err(io::ErrorKind::NotFound.into()));
        }
        at(
            "remove",
            path,
            state.rename_names(NameChange::Unlink(path.to_owned())),
        )
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        let state = self.state();
        at("list", dir, state.read())?;
        let inside = state.names.keys().filter(|p| p.parent() == Some(dir));
        Ok(inside
            .filter_map(|p| Some(p.file_name()?.to_string_lossy().into_owned()))
            .collect())
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        let mut state = self.state();
        if at("sync", dir, state.change(None))? {
            return at("sync", dir, Err(no_power()));
        }
        let state = &mut *state;
        for change in state.unsynced_names.drain(..) {
            apply(&mut state.durable_names, &change);
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Any + Send + Sync>> {
        let mut state = self.state();
        if !state.locks.insert(path.to_owned()) {
            return at("lock", path, Err(io::ErrorKind::WouldBlock.into()));
        }
        Ok(Box::new(FaultyLock {
            disk: self.clone(),
            path: path.to_owned(),
            life: state.life,
        }))
    }
}

struct FaultyLock {
    disk: FaultyDisk,
    path: PathBuf,
    life: u64,
}

impl Drop for FaultyLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.life == self.life {
            state.locks.remove(&self.path);
        }
    }
}

struct FaultyFile {
    disk: FaultyDisk,
    path: PathBuf,
    inode: u64,
    life: u64,
}

impl FaultyFile {
    fn with<T>(
        &self,
        action: &'static str,
        f: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> Result<T> {
        let mut state = self.disk.state();
        let result = if state.life == self.life {
            f(&mut state)
        } else {
            Err(no_power())
        };
        at(action, &self.path, result)
    }
}

fn inode(state: &mut State, id: u64) -> io::Result<&mut Inode> {
    state
        .inodes
        .get_mut(&id)
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

impl DiskFile for FaultyFile {
    fn size(&self) -> Result<u64> {
        self.with("stat", |state| {
            Ok(inode(state, self.inode)?.live.len() as u64)
        })
    }

    fn read_all(&self) -> Result<Vec<u8>> {
        self.with("read", |state| {
            state.read()?;
            Ok(inode(state, self.inode)?.live.clone())
        })
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.with("read", |state| {
            state.read()?;
            let data = &inode(state, self.inode)?.live;
            let start = usize::try_from(offset).map_err(io::Error::other)?;
            let end = start.checked_add(into.len());
            let part = end.and_then(|end| data.get(start..end));
            into.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.with("write", |state| {
            let offset = usize::try_from(offset).map_err(io::Error::other)?;
            let grows = offset + data.len() > inode(state, self.inode)?.live.len();
            let off = state.change(Some(Op::Write))?;
            if grows && state.full {
                return Err(errno(libc::ENOSPC));
            }
            inode(state, self.inode)?.write(offset, data);
            if off { Err(no_power()) } else { Ok(()) }
        })
    }

    fn preallocate(&self, size: u64) -> Result<()> {
        let zeros = usize::try_from(size.saturating_sub(self.size()?)).unwrap_or(usize::MAX);
        if zeros == 0 {
            Ok(())
        } else {
            self.append(&vec![0; zeros])
        }
    }

    fn sync_data(&self) -> Result<()> {
        self.with("sync", |state| {
            if state.change(Some(Op::Sync))? {
                return Err(no_power());
            }
            state.syncs += 1;
            let inode = inode(state, self.inode)?;
            inode.unsynced.clear();
            inode.durable = inode.live.clone();
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synced_bytes_survive_and_unsynced_ones_may_not() {
        let (path, dir) = (Path::new("/d/f"), Path::new("/d"));
        let mut survived = BTreeSet::new();
        for seed in 0..64 {
            let disk = FaultyDisk::new();
            let file = disk.open(path, true).unwrap();
            file.append(&[1; 1024]).unwrap();
            file.sync_data().unwrap();
            disk.sync_dir(dir).unwrap();
            file.write_at(0, &[2; 1024]).unwrap();
            disk.crash(seed);
            assert!(
                file.size().is_err(),
                "a file opened before the crash is dead"
            );
            let data = disk.read(path).unwrap();
            assert_eq!(data.len(), 1024);
            survived.insert((data[0], data[1023]));
        }
        assert_eq!(
            survived.len(),
            4,
            "either sector may survive alone: {survived:?}"
        );
    }

    #[test]
    fn names_that_were_not_synced_may_be_lost() {
        let seen: BTreeSet<bool> = (0..32)
            .map(|seed| {
                let disk = FaultyDisk::new();
                disk.open(Path::new("/d/f"), true)
                    .unwrap()
                    .sync_data()
                    .unwrap();
                disk.crash(seed);
                disk.read(Path::new("/d/f")).is_ok()
            })
            .collect();
        assert_eq!(seen.len(), 2);
    }
}
