//! A revisioned key-value store: the contract, and the engines that keep it.
//!
//! Keys are upstream's etcd keys (`/registry/pods/default/web`). Every successful [`Txn`] takes the next revision, which is
//! global, monotonic and never reused. `DESIGN.md` beside this crate holds the on-disk format and its crash story.

mod embedded;
mod expiry;
mod history;
mod memory;
mod state;
mod transact;
mod view;
mod watch;
mod wire;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use embedded::{Embedded, Options, Spawn, Threads, Unsealed};
pub use memory::Memory;
pub use watch::Window;

/// What a reader keeps beside an object's bytes so that it need not decode them again (labels, indexed fields).
pub type Beside = Arc<dyn Any + Send + Sync>;

/// Computes what is kept beside a value, once, when it enters memory (at commit and at recovery).
pub trait Indexer: Send + Sync + 'static {
    /// `stored` is the stored form (plain, without resourceVersion).
    fn index(&self, key: &str, stored: &[u8]) -> Beside;
}

/// Turns stored forms into what the disk may hold, and back. Encryption at rest is one of these.
pub trait Seal: Send + Sync + 'static {
    /// `None`: the value may stand on disk as it is.
    ///
    /// # Errors
    /// A sentence saying why the value cannot be sealed; it is not stored then.
    fn seal(&self, key: &str, plain: &[u8]) -> Result<Option<Vec<u8>>, String>;
    /// Undoes [`Self::seal`]. Must return values that were never sealed unchanged.
    ///
    /// # Errors
    /// A sentence saying why the value cannot be read (no such key, damaged).
    fn open(&self, key: &str, sealed: Bytes) -> Result<Bytes, String>;
}

/// One version of one key, immutable and shared between the engine, watchers and readers.
pub struct Entry {
    pub key: Arc<str>,
    /// The wire form: the stored form with `"resourceVersion":"N",` inserted at the offset that the writer gave.
    pub wire: Bytes,
    /// Where in `wire` the inserted text starts, and how long it is; cutting it out gives the stored form.
    pub rv_span: (u32, u32),
    /// The revision that wrote this version (etcd's mod revision).
    pub revision: u64,
    /// The revision that created the key (etcd's create revision).
    pub created: u64,
    /// What [`Indexer`] made of it.
    pub beside: Beside,
}

impl Entry {
    /// The stored form: the wire form without the resourceVersion.
    #[must_use]
    pub fn stored(&self) -> Vec<u8> {
        let (start, len) = (self.rv_span.0 as usize, self.rv_span.1 as usize);
        [&self.wire[..start], &self.wire[start + len..]].concat()
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.key, self.revision)
    }
}

/// A condition on a key that must hold for a transaction to commit.
#[derive(Debug, Clone)]
pub enum Compare {
    /// The key does not exist.
    Absent(String),
    /// The key's last version was written by this revision.
    Revision(String, u64),
}

/// One change of a transaction.
#[derive(Debug, Clone)]
pub enum Op {
    Put {
        key: String,
        /// The stored form.
        stored: Bytes,
        /// Where the engine inserts the revision; `None`: nowhere (the value is not an API object), `wire == stored`.
        rv_offset: Option<u32>,
        /// The key is deleted this long after the commit (Events); a later put without it keeps the key for good.
        expire_after: Option<Duration>,
    },
    /// Deleting an absent key is not an error; guard it with a compare where that matters.
    Delete { key: String },
}

impl Op {
    /// The key that it changes.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// All compares hold, or nothing happens. All ops share one revision.
#[derive(Debug, Clone, Default)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub ops: Vec<Op>,
    /// May be acknowledged before it is on disk: it is written with the next group, or within ten minutes.
    pub lazy: bool,
}

/// How a transaction ended.
#[derive(Debug)]
pub enum Outcome {
    /// One entry per op: the new version, or for a delete the last version with the delete's revision in its wire form
    /// (`None` if there was nothing to delete).
    Committed {
        revision: u64,
        entries: Vec<Option<Arc<Entry>>>,
    },
    /// A compare did not hold; the current version of each compared key, in the order of the compares.
    Conflict {
        revision: u64,
        current: Vec<Option<Arc<Entry>>>,
    },
}

/// What happened to a key.
#[derive(Debug, Clone)]
pub struct Event {
    /// For a deletion: the last version, its wire form carrying the revision of the deletion.
    pub entry: Arc<Entry>,
    /// The version before; `None` when the key was created.
    pub previous: Option<Arc<Entry>>,
    pub deleted: bool,
}

impl Event {
    /// The revision of the change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.entry.revision
    }
}

/// The answer to [`Store::range`].
#[derive(Debug)]
pub struct Range {
    /// The revision that the range shows.
    pub revision: u64,
    /// In key order.
    pub entries: Vec<Arc<Entry>>,
    /// Keys under the prefix beyond `limit`.
    pub remaining: u64,
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("revision {asked} is no longer kept: the oldest is {oldest}")]
    Compacted { asked: u64, oldest: u64 },
    #[error("revision {asked} is in the future: the store is at {current}")]
    Future { asked: u64, current: u64 },
    #[error("the value of {key} has {size} bytes, more than the limit of {limit}")]
    TooLarge {
        key: String,
        size: usize,
        limit: usize,
    },
    #[error("the disk took no more: {0}")]
    Disk(String),
    #[error("the store is shut down")]
    Closed,
    #[error("{0}")]
    Damaged(String),
}

/// A stream of changes from one prefix, complete and in revision order (law 5: never thinned).
pub struct Watch {
    pub events: tokio::sync::mpsc::Receiver<Result<Vec<Event>, Error>>,
    /// The revision up to which everything is in the queue or was; `None` while it is being filled with what is past.
    told: Box<dyn Fn() -> Option<u64> + Send + Sync>,
}

impl Watch {
    /// The revision up to which everything was received: the store's own, on a quiet prefix too. `None` while something waits.
    #[must_use]
    pub fn progress(&self) -> Option<u64> {
        // First what is told, then whether it is received: what comes in between only makes the answer `None`.
        let told = (self.told)()?;
        self.events.is_empty().then_some(told)
    }
}

/// The contract of every engine. `suite` (in this crate's tests) checks each against it.
#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    /// The revision of the last committed transaction; 1 on an empty store.
    fn revision(&self) -> u64;

    /// The latest version of a key. Linearizable: sees every transaction acknowledged before the call.
    async fn get(&self, key: &str) -> Result<Option<Arc<Entry>>, Error>;

    /// Keys under `prefix`, after `start_after` (exclusive) if given, as of revision `at` (`None`: latest, linearizable), at
    /// most `limit` of them (0: all). Cheap: entries are shared, not copied.
    async fn range(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        at: Option<u64>,
        limit: usize,
    ) -> Result<Range, Error>;

    /// Applies a transaction. When this returns `Committed` and the transaction was not lazy, it is on disk.
    async fn txn(&self, txn: Txn) -> Result<Outcome, Error>;

    /// Changes under `prefix` with revisions greater than `after`, past ones first, then as they happen. A watcher that
    /// falls too far behind gets its queue closed after an `Err(Compacted)`.
    async fn watch(&self, prefix: &str, after: u64) -> Result<Watch, Error>;

    /// Forgets history at and before `revision`.
    async fn compact(&self, revision: u64) -> Result<(), Error>;

    /// Stops taking writes, makes everything durable, ends watches.
    async fn close(&self) -> Result<(), Error>;
}
