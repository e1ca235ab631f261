//! The engine that keeps its own log and checkpoints in a directory. `DESIGN.md` holds the format and its crash story.

mod archive;
mod checkpoint;
mod committer;
mod log;
mod record;
mod recover;
mod segment;

use std::any::Any;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use world::Clock;
use world::disk::{Disk, DiskError};
use world::metrics::{Counter, Gauge, Metrics};

use self::archive::Archive;
use self::checkpoint::Meta;
use self::committer::{Admitted, Answer, Queue, Shared};
use self::log::{Log, Shelf, WriteError};
use self::record::Record;
use self::recover::Recovery;
use self::segment::Position;
use crate::expiry::{self, Deadlines, Timed};
use crate::state::Tree;
use crate::transact;
use crate::view::View;
use crate::watch::Window;
use crate::{Entry, Error, Indexer, Outcome, Range, Seal, Store, Txn, Watch};

/// Revisions that may be visible without being on disk: so many are skipped after a start that was not preceded by a clean
/// end, so that none is ever used twice.
pub(crate) const LAZY_MAX: u64 = 1024;
/// How far the revision jumps when a snapshot is restored: the cluster it was taken from may have gone on.
const RESTORE_SKIP: u64 = 1_000_000;
/// What may wait to be written, in KiB.
const QUEUE_KIB: usize = 64 << 10;

/// Runs blocking work elsewhere. Handed in, so that a simulation can do without threads.
pub trait Spawn: Send + Sync + 'static {
    /// Runs `job`, which blocks, on a thread called `name`.
    ///
    /// # Errors
    /// Why no thread can be had.
    fn spawn(&self, name: &'static str, job: Box<dyn FnOnce() + Send>) -> Result<(), String>;
}

/// One operating system thread a job.
#[derive(Debug, Clone, Copy, Default)]
pub struct Threads;

impl Spawn for Threads {
    fn spawn(&self, name: &'static str, job: Box<dyn FnOnce() + Send>) -> Result<(), String> {
        let thread = std::thread::Builder::new()
            .name(name.into())
            .stack_size(512 << 10);
        thread
            .spawn(job)
            .map(drop)
            .map_err(|e| format!("cannot start the thread {name}: {e}"))
    }
}

/// Leaves values as they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unsealed;

impl Seal for Unsealed {
    fn seal(&self, _key: &str, _plain: &[u8]) -> Result<Option<Vec<u8>>, String> {
        Ok(None)
    }

    fn open(&self, _key: &str, sealed: bytes::Bytes) -> Result<bytes::Bytes, String> {
        Ok(sealed)
    }
}

/// How an embedded engine works.
#[derive(Clone)]
pub struct Options {
    pub indexer: Arc<dyn Indexer>,
    pub seal: Arc<dyn Seal>,
    pub clock: Arc<dyn Clock>,
    /// `None`: disk work is done by whoever calls, which only a simulation on an in-memory disk should want.
    pub spawn: Option<Arc<dyn Spawn>>,
    pub window: Window,
    /// Size of a log segment.
    pub segment_bytes: u64,
    /// A checkpoint is made when the log has grown by this much, and by as much as the last checkpoint has.
    pub checkpoint_bytes: u64,
    /// Log kept for history, at most.
    pub history_bytes: u64,
    /// The largest value that is taken.
    pub max_value: usize,
    /// How long a lazy transaction may stay in memory only.
    pub lazy_after: Duration,
}

impl Options {
    /// The defaults: threads, a history of one hour or 1 GiB of log, 4 MiB of it in memory, 8 MiB segments, checkpoints from
    /// 16 MiB, values up to 1.5 MiB, lazy writes within ten minutes.
    #[must_use]
    pub fn new(indexer: Arc<dyn Indexer>, seal: Arc<dyn Seal>, clock: Arc<dyn Clock>) -> Self {
        Self {
            indexer,
            seal,
            clock,
            spawn: Some(Arc::new(Threads)),
            window: Window {
                bytes: 4 << 20,
                ..Window::default()
            },
            segment_bytes: 8 << 20,
            checkpoint_bytes: 16 << 20,
            history_bytes: 1 << 30,
            max_value: transact::MAX_VALUE,
            lazy_after: Duration::from_secs(600),
        }
    }
}

/// The engine of one server: see the module's comment. Dropping it without [`Store::close`] is like a crash.
pub struct Embedded(Arc<Inner>);

pub(crate) struct Inner {
    indexer: Arc<dyn Indexer>,
    seal: Arc<dyn Seal>,
    clock: Arc<dyn Clock>,
    spawn: Option<Arc<dyn Spawn>>,
    shelf: Arc<Shelf>,
    max_value: usize,
    lazy_after: Duration,
    checkpoint_bytes: u64,
    history_bytes: u64,
    shared: Shared,
    log: Mutex<Log>,
    checkpoints: Arc<Mutex<Checkpoints>>,
    view: Arc<View>,
    deadlines: Deadlines,
    /// Bounds what waits: a permit for each KiB.
    room: Semaphore,
    hold: Mutex<Option<Box<dyn Any + Send + Sync>>>,
    groups: Counter,
    txns: Counter,
    checkpoints_total: Counter,
    queue_length: Gauge,
}

/// The kept checkpoints.
#[derive(Default)]
struct Checkpoints {
    /// Oldest first.
    kept: Vec<(u64, Position)>,
    last_bytes: u64,
    running: bool,
}

fn on_disk(error: &DiskError) -> Error {
    Error::Disk(error.to_string())
}

impl Embedded {
    /// Opens the store in `dir`, which is made if it is absent.
    ///
    /// # Errors
    /// [`Error::Damaged`] says what is damaged, where, and the way out; [`Error::Disk`] what the disk refused, among it that
    /// another process has the store open.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        metrics: &Metrics,
    ) -> Result<Self, Error> {
        disk.create_dir(dir).map_err(|e| on_disk(&e))?;
        let hold = disk
            .lock(&dir.join("lock"))
            .map_err(|e| match e.source.kind() {
                std::io::ErrorKind::WouldBlock => {
                    Error::Disk(format!("{} is in use by another process", dir.display()))
                }
                _ => on_disk(&e),
            })?;
        let new_hub = || View::hub_of(options.window, true, metrics);
        let recovery = Recovery {
            disk: &*disk,
            dir,
            indexer: &*options.indexer,
            seal: &*options.seal,
            new_hub: &new_hub,
        };
        let mut found = recovery.run()?;
        let fsyncs = metrics.counter("skiff_store_fsyncs_total", "Syncs of the store's log.", "");
        let shelf = Arc::new(Shelf::new(
            disk.clone(),
            dir.to_owned(),
            options.segment_bytes,
        ));
        let mut log =
            Log::continue_at(shelf.clone(), options.spawn.clone(), found.position, fsyncs)
                .map_err(|e| on_disk(&e))?;
        log.grown = found.grown;
        let now_ms = options.clock.now().as_millisecond();
        let mut opening = Vec::new();
        if !found.clean && !found.fresh {
            let skip = if found.restored {
                RESTORE_SKIP
            } else {
                LAZY_MAX
            };
            let (from, to) = (found.revision, found.revision + skip + 1);
            opening.push(Record::Gap { from, to }.to_vec());
            found.hub.add_gap(from, to);
            found.revision = to;
        }
        opening.push(Record::Opened.to_vec());
        let payload: Vec<&[u8]> = opening.iter().map(Vec::as_slice).collect();
        log.write((found.revision, found.revision), now_ms, &payload)
            .map_err(|WriteError { error, .. }| on_disk(&error))?;
        drop(found.hub.remember(&[], None, now_ms));
        let deadlines = Deadlines::default();
        for slot in found.tree.iter().filter(|s| s.expires_ms > 0) {
            deadlines.add(slot.expires_ms, slot.entry.key.clone(), slot.entry.revision);
        }
        let archive = Archive::new(
            disk,
            dir.to_owned(),
            options.indexer.clone(),
            options.seal.clone(),
            options.spawn.clone(),
            metrics.counter(
                "skiff_store_history_reads_total",
                "Groups and blocks read back from the store's log and checkpoints.",
                "",
            ),
        );
        let view = View::new(
            found.tree.clone(),
            found.revision,
            found.hub,
            Some(Arc::new(archive)),
            options.window,
        );
        let inner = Arc::new(Inner {
            indexer: options.indexer,
            seal: options.seal,
            clock: options.clock,
            spawn: options.spawn,
            shelf,
            max_value: options.max_value,
            lazy_after: options.lazy_after,
            checkpoint_bytes: options.checkpoint_bytes,
            history_bytes: options.history_bytes,
            shared: Shared::new(Queue::new(found.tree, found.revision)),
            log: Mutex::new(log),
            checkpoints: Arc::new(Mutex::new(Checkpoints {
                kept: found.checkpoints,
                last_bytes: 0,
                running: false,
            })),
            view: Arc::new(view),
            deadlines,
            room: Semaphore::new(QUEUE_KIB),
            hold: Mutex::new(Some(hold)),
            groups: metrics.counter(
                "skiff_store_groups_total",
                "Groups written to the store's log.",
                "",
            ),
            txns: metrics.counter(
                "skiff_store_txns_total",
                "Transactions written to the store's log.",
                "",
            ),
            checkpoints_total: metrics.counter(
                "skiff_store_checkpoints_total",
                "Checkpoints of the store.",
                "",
            ),
            queue_length: metrics.gauge("skiff_store_queue", "Transactions in the last group.", ""),
        });
        if let Some(spawn) = &inner.spawn {
            let committer = inner.clone();
            spawn
                .spawn(
                    "store-commit",
                    Box::new(move || committer.commit_until_stopped()),
                )
                .map_err(Error::Disk)?;
        }
        expiry::ensure(&inner);
        Ok(Self(inner))
    }

    /// Writes the whole state to `path`, from which [`Embedded::restore`] makes a store again. Values that are sealed on
    /// disk are sealed there too. Returns the revision that it shows.
    ///
    /// # Errors
    /// [`Error::Disk`] as the disk says.
    pub async fn snapshot(&self, path: &Path) -> Result<u64, Error> {
        let (tree, revision) = self.0.view.snapshot();
        let meta = Meta {
            revision,
            position: Position::START,
            gaps: Vec::new(),
            snapshot: true,
        };
        let (inner, path) = (self.0.clone(), path.to_owned());
        let job = move || checkpoint::write(&*inner.shelf.disk, &path, &meta, &tree, &*inner.seal);
        let written = match &self.0.spawn {
            None => job(),
            Some(spawn) => {
                let (done, wait) = oneshot::channel();
                let job = Box::new(move || {
                    // The caller may have gone away; the file is whole all the same.
                    let _ = done.send(job());
                });
                spawn.spawn("store-snapshot", job).map_err(Error::Disk)?;
                wait.await.map_err(|_| Error::Closed)?
            }
        };
        written.map_err(|e| on_disk(&e))?;
        Ok(revision)
    }

    /// Makes a store in `dir`, which must hold none, from what [`Embedded::snapshot`] wrote. Its revisions start well above
    /// the snapshot's, so that watchers of the cluster it was taken from notice.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the snapshot is not whole or `dir` holds a store; [`Error::Disk`] as the disk says.
    pub fn restore(disk: &dyn Disk, snapshot: &Path, dir: &Path) -> Result<u64, Error> {
        let data = disk.read(snapshot).map_err(|e| on_disk(&e))?;
        let meta = checkpoint::verify(&data).map_err(|why| {
            Error::Damaged(format!(
                "the snapshot {} cannot be restored: {why}",
                snapshot.display()
            ))
        })?;
        disk.create_dir(dir).map_err(|e| on_disk(&e))?;
        let names = disk.list(dir).map_err(|e| on_disk(&e))?;
        if names
            .iter()
            .any(|n| n.starts_with("log-") || n.starts_with("checkpoint-"))
        {
            let dir = dir.display();
            return Err(Error::Damaged(format!(
                "{dir} holds a store already; move it away before restoring"
            )));
        }
        let path = checkpoint::path(dir, meta.revision);
        let temporary = path.with_extension("tmp");
        let write = || -> Result<(), DiskError> {
            let file = disk.open(&temporary, true)?;
            file.write_at(0, &data)?;
            file.sync_data()?;
            disk.rename(&temporary, &path)?;
            disk.sync_dir(dir)
        };
        write().map_err(|e| on_disk(&e))?;
        Ok(meta.revision)
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Inner {
    /// Ends the committer and lets go of the directory, after a write that is under way.
    fn stop(&self) {
        let mut queue = self.shared.lock();
        queue.closing = true;
        queue.stop = true;
        drop(queue);
        self.shared.ring();
        self.deadlines.wake();
        drop(self.log.lock().unwrap_or_else(PoisonError::into_inner));
        self.hold
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    async fn answer(&self, waits: oneshot::Receiver<Answer>) -> Answer {
        if self.spawn.is_none() {
            // Lets other callers of this moment into the same group.
            tokio::task::yield_now().await;
            self.commit_queued();
        }
        waits.await.unwrap_or(Err(Error::Closed))
    }

    async fn commit(&self, txn: Txn) -> Answer {
        let now_ms = self.now_ms();
        let prepared = transact::prepare(txn, &*self.indexer, self.max_value, now_ms)?;
        let encoded = record::encode_txn(&prepared, &*self.seal).map_err(Error::Disk)?;
        let kib = u32::try_from((encoded.len() >> 10).clamp(1, QUEUE_KIB)).unwrap_or(1);
        let _room = self
            .room
            .acquire_many(kib)
            .await
            .map_err(|_| Error::Closed)?;
        match self.admit(&prepared, encoded, now_ms)? {
            Admitted::Answered(outcome) => Ok(outcome),
            Admitted::Waits(waits) => self.answer(waits).await,
        }
    }

    /// Starts a checkpoint when the log has outgrown the state. `tree` is the state at the log's end.
    fn maybe_checkpoint(&self, log: &mut Log, tree: &Tree, revision: u64) {
        let mut checkpoints = self
            .checkpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if checkpoints.running || log.grown < self.checkpoint_bytes.max(checkpoints.last_bytes) {
            return;
        }
        checkpoints.running = true;
        log.grown = 0;
        drop(checkpoints);
        let gaps = self.view.hub().gaps().to_vec();
        let meta = Meta {
            revision,
            position: log.position(),
            gaps,
            snapshot: false,
        };
        let job = CheckpointJob {
            meta,
            tree: tree.clone(),
            shelf: self.shelf.clone(),
            seal: self.seal.clone(),
            view: self.view.clone(),
            checkpoints: self.checkpoints.clone(),
            history_bytes: self.history_bytes,
            total: self.checkpoints_total.clone(),
        };
        match &self.spawn {
            None => job.run(),
            Some(spawn) => {
                if let Err(error) = spawn.spawn("store-checkpoint", Box::new(move || job.run())) {
                    tracing::warn!(error, "no thread for a checkpoint; the log grows on");
                    self.checkpoints
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .running = false;
                }
            }
        }
    }
}

struct CheckpointJob {
    meta: Meta,
    tree: Tree,
    shelf: Arc<Shelf>,
    seal: Arc<dyn Seal>,
    view: Arc<View>,
    checkpoints: Arc<Mutex<Checkpoints>>,
    history_bytes: u64,
    total: Counter,
}

impl CheckpointJob {
    fn run(self) {
        let path = checkpoint::path(&self.shelf.dir, self.meta.revision);
        let written = checkpoint::write(
            &*self.shelf.disk,
            &path,
            &self.meta,
            &self.tree,
            &*self.seal,
        );
        let mut checkpoints = self
            .checkpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        checkpoints.running = false;
        let result = written.and_then(|bytes| {
            self.total.inc();
            checkpoints.last_bytes = bytes;
            checkpoints
                .kept
                .push((self.meta.revision, self.meta.position));
            self.clear(&mut checkpoints)
        });
        if let Err(error) = result {
            tracing::warn!(%error, "a checkpoint failed; the log grows on");
        }
    }

    /// Removes what neither the state nor the history window needs any more.
    fn clear(&self, checkpoints: &mut Checkpoints) -> Result<(), DiskError> {
        let compacted = self.view.hub().compacted();
        let end = self.meta.position.segment;
        let segments_kept = (self.history_bytes / self.shelf.segment_bytes.max(1)).max(1);
        // The newest one that history can start from; or the oldest one that does not hold too much log.
        let by_age = checkpoints
            .kept
            .iter()
            .rposition(|(revision, _)| *revision <= compacted);
        let by_size = checkpoints
            .kept
            .iter()
            .position(|(_, at)| end - at.segment.min(end) <= segments_kept);
        let newest = checkpoints.kept.len().saturating_sub(1);
        let first_segment_kept = checkpoints.kept.first().map_or(1, |(_, at)| at.segment);
        let whole_log_fits =
            end - first_segment_kept.min(end) <= segments_kept && end <= segments_kept + 1;
        let from = match (by_age, by_size) {
            (Some(age), size) => age.max(size.unwrap_or(newest)),
            (None, _) if whole_log_fits => return Ok(()),
            (None, size) => size.unwrap_or(newest),
        };
        // Before the first file goes: who looks up a position from now on is told that it is compacted.
        if let Some((base, _)) = checkpoints.kept.get(from) {
            self.view.set_base(*base);
        }
        for (revision, _) in checkpoints.kept.drain(..from) {
            self.shelf
                .disk
                .remove(&checkpoint::path(&self.shelf.dir, revision))?;
        }
        self.shelf.disk.sync_dir(&self.shelf.dir)?;
        match checkpoints.kept.first() {
            Some((_, at)) => self.shelf.recycle_before(at.segment),
            None => Ok(()),
        }
    }
}

#[async_trait::async_trait]
impl Timed for Inner {
    fn deadlines(&self) -> &Deadlines {
        &self.deadlines
    }

    fn now_ms(&self) -> i64 {
        self.clock.now().as_millisecond()
    }

    async fn expire(&self, txn: Txn) -> Result<(), Error> {
        self.commit(txn).await.map(drop)
    }

    fn flush_by(&self) -> Option<tokio::time::Instant> {
        self.shared.lock().flush_by
    }

    async fn flush(&self) -> Result<(), Error> {
        let waits = self.note(None, true)?;
        self.answer(waits).await.map(drop)
    }
}

#[async_trait::async_trait]
impl Store for Embedded {
    fn revision(&self) -> u64 {
        self.0.view.revision()
    }

    async fn get(&self, key: &str) -> Result<Option<Arc<Entry>>, Error> {
        Ok(self.0.view.get(key))
    }

    async fn range(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        at: Option<u64>,
        limit: usize,
    ) -> Result<Range, Error> {
        self.0.view.range(prefix, start_after, at, limit).await
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome, Error> {
        expiry::ensure(&self.0);
        self.0.commit(txn).await
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<Watch, Error> {
        expiry::ensure(&self.0);
        self.0.view.watch(prefix, after).await
    }

    async fn compact(&self, revision: u64) -> Result<(), Error> {
        self.0.view.compact(revision)?;
        // Not durable by itself: what is not compacted after a crash is history that nobody asked to keep.
        let waits = self.0.note(Some(&Record::Compact { revision }), false)?;
        self.0.answer(waits).await.map(drop)
    }

    async fn close(&self) -> Result<(), Error> {
        let closed = match self.0.note(Some(&Record::Closed), true) {
            Ok(waits) => {
                self.0.shared.lock().closing = true;
                self.0.answer(waits).await.map(drop)
            }
            Err(Error::Closed) => Ok(()),
            Err(error) => Err(error),
        };
        self.0.view.hub().close();
        self.0.stop();
        closed
    }
}
