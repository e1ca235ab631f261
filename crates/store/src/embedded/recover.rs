//! Opening: the oldest kept checkpoint, then every whole group of the log after it.
//!
//! The *oldest*, because the log after it holds the history window. When it cannot be used, a newer one still has the
//! whole state, only with less history. What ends the log cleanly and what is damage is told in `DESIGN.md`.

use std::path::Path;

use world::disk::{Disk, DiskError};

use super::checkpoint;
use super::record::{Change, Input, Record};
use super::segment::{self, HEAD, Position};
use crate::history::Place;
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
        // The log from its very beginning is as good as a checkpoint of nothing.
        let mut starts: Vec<Option<u64>> = Vec::new();
        if segments.first().is_none_or(|id| *id <= 1) || checkpoints.is_empty() {
            starts.push(None);
        }
        // A snapshot starts a log of its own: then the log alone is not the whole story.
        if let Some(first) = checkpoints.first()
            && self.meta(*first).is_ok_and(|meta| meta.snapshot)
        {
            starts.clear();
        }
        starts.extend(checkpoints.iter().copied().map(Some));
        let newest = checkpoints.last().copied().unwrap_or(0);
        let mut failure = None;
        for (i, start) in starts.iter().enumerate() {
            match self.from(*start, &segments) {
                Ok(mut found) if found.revision >= newest || i + 1 == starts.len() => {
                    if let Some(error) = &failure {
                        tracing::warn!(%error, "older history could not be read; the state is whole");
                    }
                    found.checkpoints = self.usable(&checkpoints, *start);
                    return Ok(found);
                }
                Ok(_) => {
                    failure = Some(Error::Damaged(
                        "the log ends before the newest checkpoint".into(),
                    ))
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| {
            Error::Damaged(format!("nothing to start from in {}", self.dir.display()))
        }))
    }

    fn meta(&self, revision: u64) -> Result<checkpoint::Meta, String> {
        let data = self
            .disk
            .read(&checkpoint::path(self.dir, revision))
            .map_err(|e| e.to_string())?;
        checkpoint::verify(&data)
    }

    fn usable(&self, checkpoints: &[u64], start: Option<u64>) -> Vec<(u64, Position)> {
        let from_start = checkpoints
            .iter()
            .filter(|r| start.is_none_or(|s| **r >= s));
        from_start
            .filter_map(|r| Some((*r, self.meta(*r).ok()?.position)))
            .collect()
    }

    /// The state at `start` (`None`: nothing) and all of the log after it.
    fn from(&self, start: Option<u64>, segments: &[u64]) -> Result<Found, Error> {
        let mut found = Found {
            tree: Tree::default(),
            revision: 1,
            hub: (self.new_hub)(),
            position: Position::START,
            clean: false,
            fresh: start.is_none(),
            restored: false,
            checkpoints: Vec::new(),
            grown: 0,
        };
        if let Some(revision) = start {
            let path = checkpoint::path(self.dir, revision);
            let data = self.disk.read(&path).map_err(|e| on_disk(&e))?;
            let (meta, tree) = checkpoint::read(&data, self.indexer, self.seal).map_err(|why| {
                Error::Damaged(format!(
                    "the checkpoint {} cannot be read: {why}; {WAY_OUT}",
                    path.display()
                ))
            })?;
            found.tree = tree;
            found.revision = meta.revision;
            found.position = meta.position;
            found.restored = meta.snapshot;
            found.hub.set_base(meta.revision);
            for (from, to) in meta.gaps {
                found.hub.add_gap(from, to);
            }
        }
        self.replay(&mut found, segments)?;
        Ok(found)
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
        let mut input = Input(group.payload);
        while !input.0.is_empty() {
            let record = Record::decode(&mut input).ok_or("a record cannot be read")?;
            found.clean = record == Record::Closed;
            match record {
                Record::Txn { revision, ops } => {
                    let mut events: Vec<Event> = Vec::with_capacity(ops.len());
                    for op in ops {
                        events.extend(self.change(&mut found.tree, revision, op)?);
                    }
                    found.revision = revision;
                    found.hub.remember(&events, Some(place), group.time_ms);
                }
                Record::Gap { from, to } => {
                    found.hub.add_gap(from, to);
                    found.revision = to;
                }
                Record::Compact { revision } => drop(found.hub.forget(revision)),
                Record::Opened | Record::Closed => {}
            }
        }
        if found.revision == group.last {
            Ok(())
        } else {
            Err(format!(
                "a group that should end at revision {} ends at {}",
                group.last, found.revision
            ))
        }
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
