//! From transactions to groups: the queue, and the one committer that empties it.
//!
//! A caller evaluates its transaction against the *head* (the state with everything that is queued or being written) and
//! queues the record. The committer takes all that is queued as one group, writes it with one fdatasync, makes the group's
//! state visible, and only then answers. While it writes, the next group gathers: batches grow with the load, and nothing
//! ever waits for a timer.
//!
//! A queued transaction is in one of these states:
//! - *waiting*: in the head, neither on disk nor visible. Leaves with its group: on disk, visible and answered; or failed.
//! - *shown* (lazy only): visible and answered, not on disk. Reached at once when nothing unanswered is before it. Leaves
//!   when a later group, or the flush ten minutes later, takes it to disk; stays when that write fails.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::log::{Log, WriteError};
use super::record::{self, Record};
use super::{Inner, LAZY_MAX};
use crate::history::Place;
use crate::state::Tree;
use crate::transact::{self, Evaluated, Prepared};
use crate::{Error, Event, Outcome};

pub(crate) type Answer = Result<Outcome, Error>;

struct Queued {
    /// The record, or nothing for those that only wait for what is before them.
    encoded: Vec<u8>,
    /// The revision of a change; 0 for anything else.
    revision: u64,
    events: Vec<Event>,
    deadlines: Vec<(i64, Arc<str>)>,
    /// Must be on disk before it is answered.
    durable: bool,
    shown: bool,
    answer: Option<(oneshot::Sender<Answer>, Outcome)>,
}

/// See the module's comment.
pub(crate) struct Queue {
    tree: Tree,
    /// The revision of the last change in `tree`.
    applied: u64,
    /// The last revision given to anyone; above `applied` after a write failed. Never goes back.
    given: u64,
    /// The last revision on disk.
    durable: u64,
    queued: Vec<Queued>,
    /// Elements of `queued` that are not shown.
    unanswered: usize,
    writing: bool,
    /// When lazy transactions must be written.
    pub(crate) flush_by: Option<tokio::time::Instant>,
    /// Why no more writes are taken.
    refused: Option<String>,
    pub(crate) closing: bool,
    /// The committer's thread shall end.
    pub(crate) stop: bool,
}

impl Queue {
    pub(crate) fn new(tree: Tree, revision: u64) -> Self {
        Self {
            tree,
            applied: revision,
            given: revision,
            durable: revision,
            queued: Vec::new(),
            unanswered: 0,
            writing: false,
            flush_by: None,
            refused: None,
            closing: false,
            stop: false,
        }
    }

    /// Is the head visible?
    fn settled(&self) -> bool {
        self.unanswered == 0 && !self.writing
    }

    fn check_open(&self) -> Result<(), Error> {
        match &self.refused {
            Some(why) => Err(Error::Disk(why.clone())),
            None if self.closing => Err(Error::Closed),
            None => Ok(()),
        }
    }
}

/// The queue with its bell.
pub(crate) struct Shared {
    queue: Mutex<Queue>,
    bell: Condvar,
}

impl Shared {
    pub(crate) fn new(queue: Queue) -> Self {
        Self {
            queue: Mutex::new(queue),
            bell: Condvar::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ring(&self) {
        self.bell.notify_all();
    }

    /// Waits, on the committer's own thread, until there is something to write. `false`: the thread shall end.
    fn wait(&self) -> bool {
        let mut queue = self.lock();
        while queue.unanswered == 0 && !queue.stop {
            queue = self
                .bell
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        !queue.stop
    }
}

/// What the caller of a transaction does next.
pub(crate) enum Admitted {
    Answered(Outcome),
    Waits(oneshot::Receiver<Answer>),
}

impl Inner {
    /// Evaluates a transaction and queues it. `encoded` is its record with the revision still open.
    pub(crate) fn admit(
        &self,
        txn: &Prepared,
        mut encoded: Vec<u8>,
        now_ms: i64,
    ) -> Result<Admitted, Error> {
        let mut queue = self.shared.lock();
        let queue = &mut *queue;
        queue.check_open()?;
        let revision = queue.given + 1;
        let (outcome, events) = match transact::evaluate(&mut queue.tree, revision, txn) {
            Evaluated::Changed { entries, events } => {
                (Outcome::Committed { revision, entries }, events)
            }
            Evaluated::Nothing { entries } => (
                Outcome::Committed {
                    revision: queue.applied,
                    entries,
                },
                Vec::new(),
            ),
            Evaluated::Conflict { current } => (
                Outcome::Conflict {
                    revision: queue.applied,
                    current,
                },
                Vec::new(),
            ),
        };
        if events.is_empty() {
            // Nothing to write, but what was seen may not be on disk yet.
            if queue.settled() {
                return Ok(Admitted::Answered(outcome));
            }
            return Ok(self.enqueue(queue, Vec::new(), 0, Vec::new(), Vec::new(), false, outcome));
        }
        (queue.applied, queue.given) = (revision, revision);
        record::set_revision(&mut encoded, revision);
        let deadlines: Vec<_> = txn.deadlines().collect();
        // Past this bound a crash could lose revisions that the next start does not skip.
        let durable = !txn.lazy || revision > queue.durable + LAZY_MAX;
        if durable || !queue.settled() {
            return Ok(self.enqueue(
                queue, encoded, revision, events, deadlines, durable, outcome,
            ));
        }
        self.view
            .publish(queue.tree.clone(), revision, &events, None, now_ms);
        self.add_deadlines(&deadlines, revision);
        self.show(queue, encoded, revision);
        Ok(Admitted::Answered(outcome))
    }

    fn enqueue(
        &self,
        queue: &mut Queue,
        encoded: Vec<u8>,
        revision: u64,
        events: Vec<Event>,
        deadlines: Vec<(i64, Arc<str>)>,
        durable: bool,
        outcome: Outcome,
    ) -> Admitted {
        let (answer, waits) = oneshot::channel();
        queue.queued.push(Queued {
            encoded,
            revision,
            events,
            deadlines,
            durable,
            shown: false,
            answer: Some((answer, outcome)),
        });
        queue.unanswered += 1;
        self.shared.ring();
        Admitted::Waits(waits)
    }

    /// Queues what is visible already.
    fn show(&self, queue: &mut Queue, encoded: Vec<u8>, revision: u64) {
        queue.queued.push(Queued {
            encoded,
            revision,
            events: Vec::new(),
            deadlines: Vec::new(),
            durable: false,
            shown: true,
            answer: None,
        });
        if queue.flush_by.is_none() {
            queue.flush_by = Some(tokio::time::Instant::now() + self.lazy_after);
            self.deadlines.wake();
        }
    }

    /// Queues a note of the engine. Without `durable` it goes with the next group.
    pub(crate) fn note(
        &self,
        record: Option<&Record>,
        durable: bool,
    ) -> Result<oneshot::Receiver<Answer>, Error> {
        let mut queue = self.shared.lock();
        queue.check_open()?;
        let encoded = record.map(Record::to_vec).unwrap_or_default();
        let outcome = Outcome::Committed {
            revision: queue.applied,
            entries: Vec::new(),
        };
        match self.enqueue(
            &mut queue,
            encoded,
            0,
            Vec::new(),
            Vec::new(),
            durable,
            outcome,
        ) {
            Admitted::Waits(waits) => Ok(waits),
            Admitted::Answered(_) => Err(Error::Closed),
        }
    }

    /// The committer's thread.
    pub(crate) fn commit_until_stopped(&self) {
        while self.shared.wait() {
            self.commit_queued();
        }
    }

    /// Commits all that is queued as one group.
    pub(crate) fn commit_queued(&self) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let (batch, tree) = {
            let mut queue = self.shared.lock();
            if queue.unanswered == 0 || queue.stop {
                return;
            }
            queue.writing = true;
            queue.unanswered = 0;
            self.queue_length
                .set(i64::try_from(queue.queued.len()).unwrap_or(i64::MAX));
            (std::mem::take(&mut queue.queued), queue.tree.clone())
        };
        let durable = batch.iter().any(|q| q.durable);
        let revision = batch
            .iter()
            .map(|q| q.revision)
            .max()
            .unwrap_or(0)
            .max(self.view.revision());
        let now_ms = self.clock.now().as_millisecond();
        let written = if durable {
            self.write(&mut log, &batch, revision, now_ms)
        } else {
            Ok(None)
        };
        match written {
            Ok(place) => self.finish(batch, (durable, place), &tree, revision, now_ms),
            Err(error) => return self.fail(batch, &error),
        }
        if durable {
            self.maybe_checkpoint(&mut log, &tree, revision);
        }
    }

    fn write(
        &self,
        log: &mut Log,
        batch: &[Queued],
        last: u64,
        now_ms: i64,
    ) -> Result<Option<Place>, WriteError> {
        let payload: Vec<&[u8]> = batch
            .iter()
            .map(|q| &*q.encoded)
            .filter(|e| !e.is_empty())
            .collect();
        if payload.is_empty() {
            return Ok(None);
        }
        let first = batch
            .iter()
            .map(|q| q.revision)
            .find(|r| *r > 0)
            .unwrap_or(last);
        let place = log.write((first, last), now_ms, &payload)?;
        self.groups.inc();
        self.txns
            .add(batch.iter().filter(|q| q.revision > 0).count() as u64);
        Ok(Some(place))
    }

    fn finish(
        &self,
        batch: Vec<Queued>,
        (durable, place): (bool, Option<Place>),
        tree: &Tree,
        revision: u64,
        now_ms: i64,
    ) {
        if let Some(place) = place {
            let shown = batch.iter().filter(|q| q.shown).map(|q| q.revision);
            self.view.hub().written(shown, place);
        }
        let events: Vec<Event> = batch.iter().flat_map(|q| &q.events).cloned().collect();
        if !events.is_empty() {
            self.view
                .publish(tree.clone(), revision, &events, place, now_ms);
        }
        let mut answers = Vec::with_capacity(batch.len());
        let mut lazy = Vec::new();
        for mut queued in batch {
            self.add_deadlines(&std::mem::take(&mut queued.deadlines), queued.revision);
            answers.extend(queued.answer.take());
            if !durable && !queued.encoded.is_empty() {
                queued.shown = true;
                queued.events = Vec::new();
                lazy.push(queued);
            }
        }
        let mut queue = self.shared.lock();
        queue.writing = false;
        if durable {
            queue.durable = revision;
            queue.flush_by = None;
        } else if !lazy.is_empty() {
            put_back(&mut queue, lazy);
            if queue.flush_by.is_none() {
                queue.flush_by = Some(tokio::time::Instant::now() + self.lazy_after);
                self.deadlines.wake();
            }
        }
        drop(queue);
        for (answer, outcome) in answers {
            // A caller that went away is no concern: its transaction is committed all the same.
            let _ = answer.send(Ok(outcome));
        }
    }

    /// Takes back everything that is not visible: this group, and what was evaluated on top of it meanwhile.
    fn fail(&self, batch: Vec<Queued>, failure: &WriteError) {
        let why = if failure.fatal {
            format!(
                "{}; nothing more is written until a restart has read back what is on disk",
                failure.error
            )
        } else {
            failure.error.to_string()
        };
        tracing::error!(
            error = why,
            fatal = failure.fatal,
            "a group of writes failed"
        );
        let mut queue = self.shared.lock();
        let (tree, revision) = self.view.snapshot();
        queue.tree = tree;
        queue.applied = revision;
        queue.writing = false;
        queue.unanswered = 0;
        let later = std::mem::take(&mut queue.queued);
        let (shown, failed): (Vec<_>, Vec<_>) =
            batch.into_iter().chain(later).partition(|q| q.shown);
        if !shown.is_empty() {
            queue.flush_by = Some(tokio::time::Instant::now() + self.lazy_after);
            self.deadlines.wake();
        }
        put_back(&mut queue, shown);
        if failure.fatal {
            queue.refused = Some(why.clone());
            queue.flush_by = None;
        }
        drop(queue);
        for (answer, _) in failed.into_iter().filter_map(|q| q.answer) {
            let _ = answer.send(Err(Error::Disk(why.clone())));
        }
    }

    fn add_deadlines(&self, deadlines: &[(i64, Arc<str>)], revision: u64) {
        for (at_ms, key) in deadlines {
            self.deadlines.add(*at_ms, key.clone(), revision);
        }
    }
}

/// Puts what is shown but not written before everything that came meanwhile.
fn put_back(queue: &mut Queue, mut shown: Vec<Queued>) {
    shown.append(&mut queue.queued);
    queue.queued = shown;
}
