//! Keys that are deleted at a deadline (Events), and the one task per engine that waits for the next deadline.
//!
//! Nothing is polled: the task sleeps until the earliest deadline or until a change brings an earlier one. Deadlines are
//! wall time, because they outlive the process.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use crate::{Compare, Error, Op, Txn};

/// Most keys that are expired before the deadlines are looked at again.
const BATCH: usize = 512;
/// The longest single sleep: a wall clock that was set back or forward is noticed at the latest then.
const LONGEST_SLEEP: Duration = Duration::from_secs(24 * 3600);
/// How long after a failed deletion (disk full) the next try is made.
const RETRY: Duration = Duration::from_secs(5);

/// The deadlines of one engine.
pub(crate) struct Deadlines {
    /// (milliseconds since 1970, key, revision that set the deadline)
    due: Mutex<BTreeSet<(i64, Arc<str>, u64)>>,
    changed: Arc<Notify>,
    started: AtomicBool,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            due: Mutex::default(),
            changed: Arc::default(),
            started: AtomicBool::new(false),
        }
    }
}

impl Drop for Deadlines {
    fn drop(&mut self) {
        // The task holds only a weak reference; let it see that the engine is gone.
        self.changed.notify_one();
    }
}

impl Deadlines {
    /// Remembers that the version of `key` written by `revision` ends at `at_ms`.
    pub(crate) fn add(&self, at_ms: i64, key: Arc<str>, revision: u64) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = due.first().is_none_or(|(first, _, _)| at_ms < *first);
        due.insert((at_ms, key, revision));
        drop(due);
        if earlier {
            self.wake();
        }
    }

    /// Makes the task look at its deadlines again.
    pub(crate) fn wake(&self) {
        self.changed.notify_one();
    }

    fn take_due(&self, now_ms: i64) -> Vec<(i64, Arc<str>, u64)> {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::new();
        while taken.len() < BATCH && due.first().is_some_and(|(at, _, _)| *at <= now_ms) {
            taken.extend(due.pop_first());
        }
        taken
    }

    fn next(&self) -> Option<i64> {
        self.due
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .first()
            .map(|(at, _, _)| *at)
    }
}

/// What the task needs of an engine.
#[async_trait::async_trait]
pub(crate) trait Timed: Send + Sync + 'static {
    fn deadlines(&self) -> &Deadlines;
    fn now_ms(&self) -> i64;
    /// Carries out the deletion of an expired key.
    async fn expire(&self, txn: Txn) -> Result<(), Error>;
    /// When lazy transactions must be written at the latest.
    fn flush_by(&self) -> Option<tokio::time::Instant>;
    /// Writes them.
    async fn flush(&self) -> Result<(), Error>;
}

/// Starts the task of `engine` once there is a tokio runtime to run it. Cheap when it already runs.
pub(crate) fn ensure<E: Timed>(engine: &Arc<E>) {
    let deadlines = engine.deadlines();
    if deadlines.started.load(Ordering::Relaxed) {
        return;
    }
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return;
    };
    if !deadlines.started.swap(true, Ordering::Relaxed) {
        runtime.spawn(keep_time(Arc::downgrade(engine), deadlines.changed.clone()));
    }
}

async fn keep_time<E: Timed>(engine: Weak<E>, changed: Arc<Notify>) {
    loop {
        let wake_at = {
            let Some(engine) = engine.upgrade() else {
                return;
            };
            match expire_due(&*engine).await {
                Ok(()) => next_wake(&*engine),
                Err(Error::Closed) => return,
                Err(_) => tokio::time::Instant::now() + RETRY,
            }
        };
        tokio::select! {
            biased;
            () = changed.notified() => {}
            () = tokio::time::sleep_until(wake_at) => {}
        }
    }
}

async fn expire_due<E: Timed>(engine: &E) -> Result<(), Error> {
    if engine
        .flush_by()
        .is_some_and(|by| by <= tokio::time::Instant::now())
    {
        engine.flush().await?;
    }
    loop {
        let due = engine.deadlines().take_due(engine.now_ms());
        if due.is_empty() {
            return Ok(());
        }
        for (i, (_, key, revision)) in due.iter().enumerate() {
            // A later put of the key has another revision: then the compare fails, rightly.
            let txn = Txn {
                compares: vec![Compare::Revision(key.to_string(), *revision)],
                ops: vec![Op::Delete {
                    key: key.to_string(),
                }],
                // Lost in a crash it is simply done again: the deadline is on disk with the value.
                lazy: true,
            };
            if let Err(error) = engine.expire(txn).await {
                tracing::warn!(%error, key = &**key, "an expired key could not be deleted; it will be tried again");
                let mut set = engine
                    .deadlines()
                    .due
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                set.extend(due[i..].iter().cloned());
                return Err(error);
            }
        }
    }
}

fn next_wake<E: Timed>(engine: &E) -> tokio::time::Instant {
    let now = tokio::time::Instant::now();
    let expiry = engine.deadlines().next().map_or(LONGEST_SLEEP, |at| {
        let wait = at.saturating_sub(engine.now_ms()).max(1);
        Duration::from_millis(wait.unsigned_abs()).min(LONGEST_SLEEP)
    });
    let wake = now + expiry;
    engine.flush_by().map_or(wake, |by| by.min(wake))
}
