//! Reading older versions back: whole groups from segments, blocks from checkpoints.
//!
//! A group is read whole, so that its checksum and the segment's id prove that it still is what the index meant; a version
//! in a recycled segment is not found, never misread. A checkpoint's checksum is proved when it is first used; its entries
//! are in key order, so that an outline (each 64 KiB the next key) finds the block of any other.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};
use world::disk::{Disk, DiskFile};
use world::metrics::Counter;

use super::checkpoint::{self, Outline};
use super::record::{self, Input, Raw, Value};
use super::segment::{self, GROUP_HEAD};
use super::{Spawn, on_disk};
use crate::history::{At, Place, Version};
use crate::{Entry, Error, Indexer, Seal, wire};

/// Reads at the same time. Each takes a thread, and they wait for one disk.
const READERS: usize = 2;

/// The log and the checkpoints of one store, for reading.
pub(crate) struct Archive {
    reader: Arc<Reader>,
    spawn: Option<Arc<dyn Spawn>>,
    readers: Semaphore,
}

struct Reader {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    indexer: Arc<dyn Indexer>,
    seal: Arc<dyn Seal>,
    /// Of the checkpoint that was used last: there is one base at a time.
    outline: Mutex<Option<(u64, Arc<Outline>)>>,
    reads: Counter,
}

impl Archive {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        indexer: Arc<dyn Indexer>,
        seal: Arc<dyn Seal>,
        spawn: Option<Arc<dyn Spawn>>,
        reads: Counter,
    ) -> Self {
        Self {
            reader: Arc::new(Reader {
                disk,
                dir,
                indexer,
                seal,
                outline: Mutex::default(),
                reads,
            }),
            spawn,
            readers: Semaphore::new(READERS),
        }
    }
}

#[async_trait::async_trait]
impl crate::history::Archive for Archive {
    async fn read(&self, versions: Vec<Version>) -> Result<Vec<Arc<Entry>>, Error> {
        let _turn = self.readers.acquire().await.map_err(|_| Error::Closed)?;
        let Some(spawn) = &self.spawn else {
            return self.reader.read(&versions);
        };
        let reader = self.reader.clone();
        let (done, wait) = oneshot::channel();
        let job = Box::new(move || {
            // The caller may have gone away.
            let _ = done.send(reader.read(&versions));
        });
        spawn.spawn("store-history", job).map_err(Error::Disk)?;
        wait.await.map_err(|_| Error::Closed)?
    }
}

impl Reader {
    fn read(&self, versions: &[Version]) -> Result<Vec<Arc<Entry>>, Error> {
        let mut order: Vec<usize> = (0..versions.len()).collect();
        order.sort_by_key(|i| versions[*i].at);
        let mut found: Vec<Option<Arc<Entry>>> = vec![None; versions.len()];
        let mut open: Option<(u32, Box<dyn DiskFile>)> = None;
        let same = |a: &usize, b: &usize| match (versions[*a].at, versions[*b].at) {
            (At::Log { place: a, .. }, At::Log { place: b, .. }) => a == b,
            (At::Checkpoint(a), At::Checkpoint(b)) => a == b,
            _ => false,
        };
        for together in order.chunk_by(same) {
            let Some(first) = together.first() else {
                continue;
            };
            match versions[*first].at {
                At::Log { place, .. } => {
                    self.read_group(place, &mut open, versions, together, &mut found)?;
                }
                At::Checkpoint(revision) => {
                    self.read_checkpoint(revision, versions, together, &mut found)?;
                }
            }
        }
        let pairs = found.into_iter().zip(versions);
        pairs
            .map(|(entry, version)| {
                entry.ok_or_else(|| {
                    Error::Damaged(format!(
                        "revision {} of {} is not where the log's index says",
                        version.revision, version.key
                    ))
                })
            })
            .collect()
    }

    fn read_group(
        &self,
        place: Place,
        open: &mut Option<(u32, Box<dyn DiskFile>)>,
        versions: &[Version],
        together: &[usize],
        found: &mut [Option<Arc<Entry>>],
    ) -> Result<(), Error> {
        self.reads.inc();
        let id = u64::from(place.segment);
        let path = segment::path(&self.dir, id);
        let file = match open {
            Some((segment, file)) if *segment == place.segment => file,
            _ => {
                let file = self.disk.open(&path, false).map_err(|e| on_disk(&e))?;
                &mut open.insert((place.segment, file)).1
            }
        };
        let offset = u64::from(place.offset);
        let damaged = || {
            Error::Damaged(format!(
                "{} is damaged at byte {offset}: a group of the history is not there",
                path.display()
            ))
        };
        let mut data = vec![0; GROUP_HEAD];
        file.read_at(offset, &mut data).map_err(|e| on_disk(&e))?;
        let payload = segment::payload_len(&data, id).ok_or_else(damaged)?;
        data.resize(GROUP_HEAD + payload, 0);
        file.read_at(offset + GROUP_HEAD as u64, &mut data[GROUP_HEAD..])
            .map_err(|e| on_disk(&e))?;
        let group = segment::read_group(&data, 0, id).ok_or_else(damaged)?;
        let wanted: BTreeMap<(u64, &str), usize> = together
            .iter()
            .map(|i| ((versions[*i].revision, &*versions[*i].key), *i))
            .collect();
        let whole = record::each(group.payload, |raw| {
            let Raw::Put {
                revision,
                key,
                value,
            } = raw
            else {
                return Ok(());
            };
            let Some(&i) = wanted.get(&(revision, key)) else {
                return Ok(());
            };
            if let At::Log { created, .. } = versions[i].at {
                found[i] = Some(self.entry(&versions[i], value.into(), created)?);
            }
            Ok(())
        })?;
        whole.ok_or_else(damaged)
    }

    fn read_checkpoint(
        &self,
        revision: u64,
        versions: &[Version],
        together: &[usize],
        found: &mut [Option<Arc<Entry>>],
    ) -> Result<(), Error> {
        let path = checkpoint::path(&self.dir, revision);
        let damaged = |why: &str| Error::Damaged(format!("{}: {why}", path.display()));
        let outline = self.outline(revision)?;
        let file = self.disk.open(&path, false).map_err(|e| on_disk(&e))?;
        let mut keys: Vec<usize> = together.to_vec();
        keys.sort_by(|a, b| versions[*a].key.cmp(&versions[*b].key));
        let mut block: Option<(u64, Vec<u8>)> = None;
        for i in keys {
            let version = &versions[i];
            let (start, end) = outline
                .block(&version.key)
                .ok_or_else(|| damaged("an entry is not in it"))?;
            if block.as_ref().is_none_or(|(at, _)| *at != start) {
                self.reads.inc();
                let mut data = vec![0; usize::try_from(end - start).unwrap_or(0)];
                file.read_at(start, &mut data).map_err(|e| on_disk(&e))?;
                block = Some((start, data));
            }
            let mut input = Input(block.as_ref().map_or(&[], |(_, data)| data));
            while !input.0.is_empty() {
                let slot = checkpoint::read_slot(&mut input)
                    .ok_or_else(|| damaged("an entry cannot be read"))?;
                let (key, written, created, _, value) = slot;
                if key == version.key && written == version.revision {
                    found[i] = Some(self.entry(version, value, created)?);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Reads the whole checkpoint once, proves it, and keeps where its blocks are.
    fn outline(&self, revision: u64) -> Result<Arc<Outline>, Error> {
        let mut last = self.outline.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, outline)) = &*last
            && *of == revision
        {
            return Ok(outline.clone());
        }
        let path = checkpoint::path(&self.dir, revision);
        let data = self.disk.read(&path).map_err(|e| on_disk(&e))?;
        let outline = checkpoint::outline(&data)
            .map_err(|why| Error::Damaged(format!("{}: {why}", path.display())))?;
        let outline = Arc::new(outline);
        *last = Some((revision, outline.clone()));
        Ok(outline)
    }

    fn entry(&self, version: &Version, value: Value, created: u64) -> Result<Arc<Entry>, Error> {
        let key = version.key.clone();
        let rv_offset = value.rv_offset;
        let stored: Bytes = value.open(&*self.seal, &key).map_err(Error::Damaged)?;
        wire::check_offset(&key, &stored, rv_offset)?;
        let beside = self.indexer.index(&key, &stored);
        Ok(wire::entry(
            key,
            &stored,
            rv_offset,
            version.revision,
            created,
            beside,
        ))
    }
}
