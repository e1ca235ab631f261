//! Opening: the newest checkpoint, and every whole group of the log after it; and of the log before it, where versions are.
//!
//! History starts with the oldest kept checkpoint. When that or the log between the two cannot be used, the newest one still
//! has the whole state; when the newest cannot be used, an older one and more of the log have it too. What ends the log
//! cleanly and what is damage is told in `DESIGN.md`.

use std::path::Path;
use std::sync::Arc;

use world::disk::{Disk, DiskError};

use super::checkpoint::{self, Keys};
use super::record::{self, Change, Input, Raw, Record};
use super::segment::{self, HEAD, Position};
use crate::history::{self, Place};
use crate::state::Tree;
use crate::watch::Hub;
use crate::{Error, Event, Indexer, Seal, transact, wire};

/// What was found on disk.
pub(crate) struct Found {
    pub(crate) tree: Tree,
    pub(crate) revision: u64,
    pub(crate) hub: Hub,
    pub(crate) position: Position,
    /// The last thing written was that everything is written.
    pub(crate) clean: bool,
    /// Nothing was ever written here.
    pub(crate) fresh: bool,
    /// The state comes from a restored snapshot and nothing was written since.
    pub(crate) restored: bool,
    /// The kept checkpoints that can be used, oldest first, with their places in the log.
    pub(crate) checkpoints: Vec<(u64, Position)>,
    /// Bytes of log behind the newest checkpoint.
    pub(crate) grown: u64,
    /// The log has not come to the state yet: only where versions are is followed.
    past: Option<Past>,
}

/// What is followed before the state's checkpoint: no values, which is an order of magnitude faster.
#[derive(Default)]
struct Past {
    keys: Keys,
    /// The place of the state's checkpoint in the log, and its revision.
    until: Option<(Position, u64)>,
}

/// Beyond this no revision can come from us, and there must be room for those to come: clients read them as `i64`.
const MAX_REVISION: u64 = 1 << 62;

/// Where the log goes from revision `last`: only up.
fn onward(last: u64, to: u64) -> Result<u64, String> {
    if (last..=MAX_REVISION).contains(&to) {
        Ok(to)
    } else {
        Err(format!("revision {to} follows revision {last}"))
    }
}

impl Found {
    fn ends_at(&self, revision: u64) -> Result<(), String> {
        if self.revision == revision {
            Ok(())
        } else {
            Err(format!(
                "a group that should end at revision {revision} ends at {}",
                self.revision
            ))
        }
    }
}

pub(crate) struct Recovery<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) dir: &'a Path,
    pub(crate) indexer: &'a dyn Indexer,
    pub(crate) seal: &'a dyn Seal,
    pub(crate) new_hub: &'a dyn Fn() -> Hub,
}

fn on_disk(error: &DiskError) -> Error {
    Error::Disk(error.to_string())
}

impl Recovery<'_> {
    /// Reads the directory.
    pub(crate) fn run(&self) -> Result<Found, Error> {
        let names = self.disk.list(self.dir).map_err(|e| on_disk(&e))?;
        let checkpoints = checkpoint::list(self.disk, self.dir).map_err(|e| on_disk(&e))?;
        let segments: Vec<u64> = names
            .iter()
            .filter_map(|n| segment::id_of(n, "log-"))
            .collect();
        // The log from its very beginning is as good as a checkpoint of nothing, unless it began with a snapshot.
        let whole_log = segments.first().is_none_or(|id| *id <= 1)
            && checkpoints
                .first()
                .is_none_or(|first| !self.head(*first).is_ok_and(|meta| meta.snapshot));
        let mut starts: Vec<Option<u64>> = checkpoints.iter().copied().map(Some).collect();
        if whole_log || checkpoints.is_empty() {
            starts.insert(0, None);
        }
        let newest = checkpoints.last().copied().unwrap_or(0);
        // What is written from now on must come after what the newest checkpoint shows, or the next start, which begins
        // there, would not see it.
        let least = self.head(newest).map(|meta| meta.position);
        let least = least.map_or((0, 0), |at| (at.segment, at.offset));
        let covers = |found: &Found| {
            let end = (found.position.segment, found.position.offset);
            found.revision >= newest && end >= least
        };
        let mut failure = None;
        for state in starts.iter().rev() {
            let mut bases: Vec<Option<u64>> = starts.first().copied().into_iter().collect();
            if bases.first() != Some(state) {
                bases.push(*state);
            }
            for base in bases {
                match self.from(base, *state, &segments) {
                    Ok(mut found) if covers(&found) => {
                        if let Some(error) = &failure {
                            tracing::warn!(%error, "older history could not be read; the state is whole");
                        }
                        found.checkpoints = self.usable(&checkpoints, base);
                        return Ok(found);
                    }
                    Ok(_) => {
                        failure.get_or_insert(Error::Damaged(format!(
                            "the log in {} ends before the newest checkpoint",
                            self.dir.display()
                        )));
                    }
                    Err(error) => {
                        failure.get_or_insert(error);
                    }
                }
            }
        }
        Err(failure.unwrap_or_else(|| {
            Error::Damaged(format!("nothing to start from in {}", self.dir.display()))
        }))
    }

    fn head(&self, revision: u64) -> Result<checkpoint::Meta, String> {
        checkpoint::head(self.disk, &checkpoint::path(self.dir, revision))
    }

    fn usable(&self, checkpoints: &[u64], base: Option<u64>) -> Vec<(u64, Position)> {
        let from_base = checkpoints.iter().filter(|r| base.is_none_or(|b| **r >= b));
        from_base
            .filter_map(|r| Some((*r, self.head(*r).ok()?.position)))
            .collect()
    }

    /// The state at checkpoint `state` (`None`: nothing) and all of the log after it, with the history since `base`.
    fn from(
        &self,
        base: Option<u64>,
        state: Option<u64>,
        segments: &[u64],
    ) -> Result<Found, Error> {
        let mut found = Found {
            tree: Tree::default(),
            revision: 1,
            hub: (self.new_hub)(),
            position: Position::START,
            clean: false,
            fresh: base.is_none(),
            restored: false,
            checkpoints: Vec::new(),
            grown: 0,
            past: None,
        };
        if let Some(revision) = base {
            let data = self.checkpoint(revision)?;
            let meta = if base == state {
                let (meta, tree) =
                    checkpoint::read(&data, self.indexer, self.seal, &Keys::default())
                        .map_err(|why| self.unreadable(revision, &why))?;
                found.tree = tree;
                meta
            } else {
                let (meta, keys) =
                    checkpoint::keys(&data).map_err(|why| self.unreadable(revision, &why))?;
                found.past = Some(Past { keys, until: None });
                meta
            };
            found.revision = meta.revision;
            found.position = meta.position;
            found.restored = meta.snapshot;
            found.hub.set_base(meta.revision);
            for (from, to) in meta.gaps {
                found.hub.add_gap(from, to);
            }
        }
        if let Some(revision) = state.filter(|_| base != state) {
            let meta = self
                .head(revision)
                .map_err(|why| self.unreadable(revision, &why))?;
            found.past.get_or_insert_default().until = Some((meta.position, revision));
        }
        self.replay(&mut found, segments)?;
        if found.past.is_some() {
            return Err(Error::Damaged(format!(
                "the log in {} ends before the newest checkpoint",
                self.dir.display()
            )));
        }
        Ok(found)
    }

    fn checkpoint(&self, revision: u64) -> Result<Vec<u8>, Error> {
        let path = checkpoint::path(self.dir, revision);
        self.disk.read(&path).map_err(|e| on_disk(&e))
    }

    fn unreadable(&self, revision: u64, why: &str) -> Error {
        let path = checkpoint::path(self.dir, revision);
        Error::Damaged(format!(
            "the checkpoint {} cannot be read: {why}; {WAY_OUT}",
            path.display()
        ))
    }

    /// Goes from following where versions are to the state itself, where the log has come to the state's checkpoint.
    fn arrive(&self, found: &mut Found) -> Result<(), Error> {
        let Some(past) = &found.past else {
            return Ok(());
        };
        let Some((_, revision)) = past.until.filter(|(at, _)| *at == found.position) else {
            return Ok(());
        };
        if found.revision != revision {
            return Err(self.unreadable(revision, "the log has another revision at its place"));
        }
        let data = self.checkpoint(revision)?;
        let (_, tree) = checkpoint::read(&data, self.indexer, self.seal, &past.keys)
            .map_err(|why| self.unreadable(revision, &why))?;
        found.tree = tree;
        found.past = None;
        found.grown = 0;
        Ok(())
    }

    fn replay(&self, found: &mut Found, segments: &[u64]) -> Result<(), Error> {
        let first = found.position;
        loop {
            let at = found.position;
            let path = segment::path(self.dir, at.segment);
            let data = match self.disk.read(&path) {
                Ok(data) => data,
                Err(error) if error.is_not_found() => Vec::new(),
                Err(error) => return Err(on_disk(&error)),
            };
            match segment::read_head(&data, at.segment) {
                Some(chain) if at.offset == 0 && chain != at.chain => {
                    return Err(damaged(
                        &path,
                        0,
                        "its first group does not continue the segment before",
                    ));
                }
                Some(_) => found.position.offset = at.offset.max(HEAD),
                None if at == first && at.offset > 0 => {
                    return Err(damaged(
                        &path,
                        0,
                        "the segment's head is missing or damaged",
                    ));
                }
                None => {
                    let head = usize::try_from(HEAD).unwrap_or(0);
                    if segment::find_group(&data, head, at.segment).is_some() {
                        return Err(damaged(
                            &path,
                            0,
                            "the segment's head is damaged, though groups follow",
                        ));
                    }
                    // Never used, or only begun: the log ends with the segment before.
                    return self.check_end(segments, at.segment);
                }
            }
            self.replay_segment(found, &path, &data)?;
            let next = found.position.segment + 1;
            if !self.is_used(next)? {
                return self.check_end(segments, found.position.segment);
            }
            found.position = Position {
                segment: next,
                offset: 0,
                chain: found.position.chain,
            };
        }
    }

    fn is_used(&self, id: u64) -> Result<bool, Error> {
        let path = segment::path(self.dir, id);
        let mut head = vec![0; usize::try_from(HEAD).unwrap_or(0)];
        let read = self
            .disk
            .open(&path, false)
            .and_then(|file| file.read_at(0, &mut head));
        // Usually the head tells; where it cannot be read, all of the segment must.
        if read.is_ok() && segment::read_head(&head, id).is_some() {
            return Ok(true);
        }
        match self.disk.read(&segment::path(self.dir, id)) {
            Ok(data) => Ok(segment::read_head(&data, id).is_some()
                || segment::find_group(&data, 64, id).is_some()),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(on_disk(&error)),
        }
    }

    /// The log ends in (or before) segment `last`: then no later one may have been written.
    fn check_end(&self, segments: &[u64], last: u64) -> Result<(), Error> {
        for id in segments.iter().copied().filter(|id| *id > last) {
            if self.is_used(id)? {
                let path = segment::path(self.dir, id);
                return Err(damaged(
                    &path,
                    0,
                    "an earlier segment of the log is missing or damaged",
                ));
            }
        }
        Ok(())
    }

    /// Applies the groups of one segment from `found.position` on.
    fn replay_segment(&self, found: &mut Found, path: &Path, data: &[u8]) -> Result<(), Error> {
        loop {
            self.arrive(found)?;
            let at = found.position;
            let offset = usize::try_from(at.offset).unwrap_or(usize::MAX);
            match segment::read_group(data, offset, at.segment) {
                Some(group) if group.prev == at.chain => {
                    self.apply(found, &group, segment::place(at.segment, at.offset))
                        .map_err(|why| damaged(path, at.offset, &why))?;
                    found.grown += (group.end - offset) as u64;
                    found.position = Position {
                        offset: group.end as u64,
                        chain: group.chain,
                        ..at
                    };
                }
                Some(_) => {
                    return Err(damaged(
                        path,
                        at.offset,
                        "a group does not continue the one before it",
                    ));
                }
                None => {
                    return match segment::find_group(data, offset.saturating_add(1), at.segment) {
                        // At most one group at a time is unsynced, so a whole one behind a broken one is no torn tail.
                        Some(later) => {
                            let why = format!(
                                "a group is damaged, though a later one (at byte {later}) is whole"
                            );
                            Err(damaged(path, at.offset, &why))
                        }
                        None => Ok(()),
                    };
                }
            }
        }
    }

    fn apply(
        &self,
        found: &mut Found,
        group: &segment::Group<'_>,
        place: Place,
    ) -> Result<(), String> {
        found.fresh = false;
        found.restored = false;
        if found.past.is_some() {
            return Self::follow(found, group, place);
        }
        let mut input = Input(group.payload);
        while !input.0.is_empty() {
            let record = Record::decode(&mut input).ok_or("a record cannot be read")?;
            found.clean = record == Record::Closed;
            match record {
                Record::Txn { revision, ops } => {
                    let revision = onward(found.revision + 1, revision)?;
                    let mut events: Vec<Event> = Vec::with_capacity(ops.len());
                    for op in ops {
                        events.extend(self.change(&mut found.tree, revision, op)?);
                    }
                    found.revision = revision;
                    found.hub.remember(&events, Some(place), group.time_ms);
                }
                Record::Gap { from, to } => {
                    found.revision = onward(found.revision, to)?;
                    found.hub.add_gap(from, to);
                }
                Record::Compact { revision } => drop(found.hub.forget(revision)),
                Record::Opened | Record::Closed => {}
            }
        }
        found.ends_at(group.last)
    }

    /// As `apply`, for history: notes where versions are, and reads none.
    fn follow(found: &mut Found, group: &segment::Group<'_>, place: Place) -> Result<(), String> {
        let Some(Past { keys, .. }) = &mut found.past else {
            return Ok(());
        };
        let (hub, last, clean) = (&mut found.hub, &mut found.revision, &mut found.clean);
        let whole = record::each(group.payload, |raw| {
            *clean = matches!(raw, Raw::Closed);
            let (revision, key, put) = match raw {
                Raw::Put { revision, key, .. } => (revision, key, true),
                Raw::Delete { revision, key } => (revision, key, false),
                Raw::Gap { from, to } => {
                    *last = onward(*last, to)?;
                    hub.add_gap(from, to);
                    return Ok(());
                }
                Raw::Compact { revision } => {
                    drop(hub.forget(revision));
                    return Ok(());
                }
                Raw::Opened | Raw::Closed => return Ok(()),
            };
            *last = onward(*last, revision)?;
            let (key, before) = match keys.get_key_value(key) {
                Some((key, before)) => (key.clone(), Some(*before)),
                None => (Arc::from(key), None),
            };
            let (previous, created) = before.unwrap_or((0, revision));
            if put {
                keys.insert(key.clone(), (revision, created));
            } else if before.is_none() || keys.remove(&key).is_none() {
                return Ok(());
            }
            let past = history::Past {
                key,
                revision,
                previous,
                created: if put { created } else { 0 },
                place,
            };
            hub.recall(past, group.time_ms);
            Ok::<_, String>(())
        });
        whole?.ok_or("a record cannot be read")?;
        found.ends_at(group.last)
    }

    fn change(
        &self,
        tree: &mut Tree,
        revision: u64,
        change: Change,
    ) -> Result<Option<Event>, String> {
        match change {
            Change::Put {
                key,
                value,
                expires_ms,
            } => {
                let rv_offset = value.rv_offset;
                let stored = value.open(self.seal, &key)?;
                wire::check_offset(&key, &stored, rv_offset).map_err(|e| e.to_string())?;
                let beside = self.indexer.index(&key, &stored);
                Ok(Some(transact::put(
                    tree, revision, &key, &stored, rv_offset, expires_ms, beside,
                )))
            }
            Change::Delete { key } => Ok(transact::delete(tree, revision, &key)),
        }
    }
}

const WAY_OUT: &str =
    "restore a snapshot (skiff snapshot restore), or move this directory away to start anew";

fn damaged(path: &Path, offset: u64, why: &str) -> Error {
    Error::Damaged(format!(
        "{} is damaged at byte {offset}: {why}; {WAY_OUT}",
        path.display()
    ))
}
