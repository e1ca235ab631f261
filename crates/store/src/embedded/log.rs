//! Writing the log: one group, one write, one fdatasync.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use world::disk::{Disk, DiskError, DiskFile};
use world::metrics::Counter;

use super::Spawn;
use super::segment::{self, HEAD, Position};
use crate::history::Place;

/// Segments that are kept for reuse.
const SPARES: usize = 2;

/// A write that did not happen.
pub(crate) struct WriteError {
    pub(crate) error: DiskError,
    /// The sync failed: what is on disk is unknown, and trying again would prove nothing.
    pub(crate) fatal: bool,
}

/// Where segments live, and how they come and go.
pub(crate) struct Shelf {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) segment_bytes: u64,
    /// The segment that will be written next, made ahead of its need.
    next: Mutex<Option<(u64, Box<dyn DiskFile>)>>,
}

impl Shelf {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: PathBuf, segment_bytes: u64) -> Self {
        Self {
            disk,
            dir,
            segment_bytes,
            next: Mutex::new(None),
        }
    }

    /// A file for segment `id`: of full size, its name and size durable, so that a write to it needs one fdatasync only.
    fn make(&self, id: u64) -> Result<Box<dyn DiskFile>, DiskError> {
        let path = segment::path(&self.dir, id);
        let names = self.disk.list(&self.dir)?;
        let mine = path
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        let spare = names.iter().find(|n| segment::id_of(n, "spare-").is_some());
        let file = match spare {
            _ if names.contains(&mine) => self.disk.open(&path, false)?,
            Some(spare) => {
                self.disk.rename(&self.dir.join(spare), &path)?;
                self.disk.open(&path, false)?
            }
            None => self.disk.open(&path, true)?,
        };
        file.preallocate(self.segment_bytes)?;
        file.sync_data()?;
        self.disk.sync_dir(&self.dir)?;
        Ok(file)
    }

    /// Makes segment `id` ahead of its need. A failure is met again, and told, when the segment is needed.
    pub(crate) fn prepare(&self, id: u64) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        match self.make(id) {
            Ok(file) => *next = Some((id, file)),
            Err(error) => tracing::warn!(%error, "the next log segment could not be made ahead"),
        }
    }

    fn take(&self, id: u64) -> Result<Box<dyn DiskFile>, DiskError> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        match next.take() {
            Some((ready, file)) if ready == id => Ok(file),
            _ => self.make(id),
        }
    }

    /// Puts segments before `id` away, oldest first, so that a crash in between leaves no hole.
    pub(crate) fn recycle_before(&self, id: u64) -> Result<(), DiskError> {
        let names = self.disk.list(&self.dir)?;
        let mut spares = names
            .iter()
            .filter(|n| segment::id_of(n, "spare-").is_some())
            .count();
        for old in names
            .iter()
            .filter_map(|n| segment::id_of(n, "log-"))
            .filter(|old| *old < id)
        {
            let path = segment::path(&self.dir, old);
            if spares < SPARES {
                spares += 1;
                self.disk
                    .rename(&path, &self.dir.join(format!("spare-{old:016x}")))?;
            } else {
                self.disk.remove(&path)?;
            }
        }
        Ok(())
    }
}

/// The end of the log.
pub(crate) struct Log {
    pub(crate) shelf: Arc<Shelf>,
    spawn: Option<Arc<dyn Spawn>>,
    file: Box<dyn DiskFile>,
    at: Position,
    /// A write here failed half way: a later recovery must not take what it left for a group.
    soiled: bool,
    /// Bytes written since the last checkpoint.
    pub(crate) grown: u64,
    fsyncs: Counter,
}

impl Log {
    /// Continues the log at `at`. What was read up to there is made durable first: it may have been only in the page cache.
    pub(crate) fn continue_at(
        shelf: Arc<Shelf>,
        spawn: Option<Arc<dyn Spawn>>,
        at: Position,
        fsyncs: Counter,
    ) -> Result<Self, DiskError> {
        let file = shelf.make(at.segment)?;
        Ok(Self {
            shelf,
            spawn,
            file,
            at,
            soiled: false,
            grown: 0,
            fsyncs,
        })
    }

    pub(crate) fn position(&self) -> Position {
        self.at
    }

    /// Writes one group, makes it durable, and returns where it stands.
    pub(crate) fn write(
        &mut self,
        revisions: (u64, u64),
        time_ms: i64,
        payload: &[&[u8]],
    ) -> Result<Place, WriteError> {
        let size = segment::group_size(payload.iter().map(|p| p.len()).sum());
        if self.at.offset > HEAD && self.at.offset + size > self.shelf.segment_bytes {
            self.rotate()?;
        }
        let mut buffer = Vec::with_capacity(usize::try_from(size + HEAD).unwrap_or(0));
        if self.at.offset < HEAD {
            buffer = segment::head(self.at.segment, self.at.chain);
        }
        let start = self.at.offset + buffer.len() as u64;
        let chain = segment::put_group(
            &mut buffer,
            self.at.segment,
            self.at.chain,
            revisions,
            time_ms,
            payload,
        );
        if let Err(error) = self.file.write_at(self.at.offset, &buffer) {
            self.soiled = true;
            return Err(WriteError {
                error,
                fatal: false,
            });
        }
        self.fsyncs.inc();
        self.file
            .sync_data()
            .map_err(|error| WriteError { error, fatal: true })?;
        self.soiled = false;
        self.at.offset += buffer.len() as u64;
        self.at.chain = chain;
        self.grown += buffer.len() as u64;
        Ok(segment::place(self.at.segment, start))
    }

    fn rotate(&mut self) -> Result<(), WriteError> {
        let gentle = |error| WriteError {
            error,
            fatal: false,
        };
        let next = self.shelf.take(self.at.segment + 1).map_err(gentle)?;
        if self.soiled {
            // The failed group may stand there whole; recovery would take it, and then find that the chain goes on
            // elsewhere.
            self.file
                .write_at(self.at.offset, &[0; segment::GROUP_HEAD])
                .map_err(gentle)?;
            self.file
                .sync_data()
                .map_err(|error| WriteError { error, fatal: true })?;
            self.soiled = false;
        }
        self.file = next;
        self.at = Position {
            segment: self.at.segment + 1,
            offset: 0,
            chain: self.at.chain,
        };
        if let Some(spawn) = &self.spawn {
            let (shelf, id) = (self.shelf.clone(), self.at.segment + 1);
            if let Err(error) = spawn.spawn("store-segment", Box::new(move || shelf.prepare(id))) {
                tracing::warn!(error, "no thread to make the next log segment ahead");
            }
        }
        Ok(())
    }
}
