//! A checkpoint: the whole state at one revision, and where the log goes on from there.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use world::disk::{Disk, DiskError};

use super::record::{Input, Value, put_bytes, put_u32, put_u64};
use super::segment::{self, Position};
use crate::state::{Slot, Tree};
use crate::{Indexer, Seal, wire};

const MAGIC: &[u8; 8] = b"SKIFFCKP";
const VERSION: u32 = 1;
const PREFIX: &str = "checkpoint-";
/// How far apart the keys of an [`Outline`] are, in bytes.
const BLOCK: usize = 64 << 10;
/// How much is written at once.
const CHUNK: usize = 1 << 20;

/// What a checkpoint says beside the state itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) revision: u64,
    /// Where the log goes on. [`Position::START`] in a snapshot, which begins a log of its own.
    pub(crate) position: Position,
    pub(crate) gaps: Vec<(u64, u64)>,
    /// Made to be restored elsewhere.
    pub(crate) snapshot: bool,
}

pub(crate) fn path(dir: &Path, revision: u64) -> PathBuf {
    dir.join(format!("{PREFIX}{revision:016x}"))
}

/// The revisions of the checkpoints in `dir`, oldest first.
pub(crate) fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>, DiskError> {
    Ok(disk
        .list(dir)?
        .iter()
        .filter_map(|n| segment::id_of(n, PREFIX))
        .collect())
}

/// Writes a checkpoint to `path`, durably and all or nothing; returns its size.
pub(crate) fn write(
    disk: &dyn Disk,
    path: &Path,
    meta: &Meta,
    tree: &Tree,
    seal: &dyn Seal,
) -> Result<u64, DiskError> {
    let temporary = path.with_extension("tmp");
    let file = disk.open(&temporary, true)?;
    let (mut at, mut crc) = (0_u64, 0_u32);
    let mut flush = |buffer: &mut Vec<u8>| -> Result<(), DiskError> {
        crc = crc32c::crc32c_append(crc, buffer);
        file.write_at(at, buffer)?;
        at += buffer.len() as u64;
        buffer.clear();
        Ok(())
    };
    let mut buffer = MAGIC.to_vec();
    put_u32(&mut buffer, VERSION);
    put_u32(&mut buffer, u32::from(meta.snapshot));
    put_u64(&mut buffer, meta.revision);
    put_u64(&mut buffer, meta.position.segment);
    put_u64(&mut buffer, meta.position.offset);
    put_u32(&mut buffer, meta.position.chain);
    put_u64(&mut buffer, meta.gaps.len() as u64);
    for (from, to) in &meta.gaps {
        put_u64(&mut buffer, *from);
        put_u64(&mut buffer, *to);
    }
    put_u64(&mut buffer, tree.len() as u64);
    for Slot { entry, expires_ms } in tree.iter() {
        put_bytes(&mut buffer, entry.key.as_bytes());
        put_u64(&mut buffer, entry.revision);
        put_u64(&mut buffer, entry.created);
        buffer.extend_from_slice(&expires_ms.to_le_bytes());
        Value::seal(
            seal,
            &entry.key,
            &Bytes::from(entry.stored()),
            wire::rv_offset(entry),
        )
        .map_err(|why| DiskError {
            action: "seal a value for",
            path: path.to_owned(),
            source: std::io::Error::other(why),
        })?
        .encode(&mut buffer);
        if buffer.len() >= CHUNK {
            flush(&mut buffer)?;
        }
    }
    flush(&mut buffer)?;
    put_u32(&mut buffer, crc);
    file.write_at(at, &buffer)?;
    file.sync_data()?;
    disk.rename(&temporary, path)?;
    if let Some(dir) = path.parent() {
        disk.sync_dir(dir)?;
    }
    Ok(at + 4)
}

/// Reads a checkpoint from its bytes. Keys that `known` has are shared with it.
pub(crate) fn read(
    data: &[u8],
    indexer: &dyn Indexer,
    seal: &dyn Seal,
    known: &Keys,
) -> Result<(Meta, Tree), String> {
    let (body, crc) = data.split_last_chunk::<4>().ok_or("it is cut off")?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return Err("its checksum is wrong".into());
    }
    let mut input = Input(body);
    let meta = read_meta(&mut input).ok_or("it was not written by this version of the store")?;
    let count = input.u64().ok_or("it is cut off")?;
    let mut tree = Tree::default();
    for _ in 0..count {
        let slot = read_slot(&mut input).ok_or("an entry is cut off")?;
        let (key, revision, created, expires_ms, value) = slot;
        let key = known.get_key_value(&key).map_or(key, |(k, _)| k.clone());
        let rv_offset = value.rv_offset;
        let stored = value.open(seal, &key)?;
        wire::check_offset(&key, &stored, rv_offset).map_err(|e| e.to_string())?;
        let beside = indexer.index(&key, &stored);
        let entry = wire::entry(key, &stored, rv_offset, revision, created, beside);
        tree.insert(Slot { entry, expires_ms });
    }
    Ok((meta, tree))
}

/// The revisions that wrote and created the version of each key.
pub(crate) type Keys = HashMap<Arc<str>, (u64, u64), BuildHasherDefault<DefaultHasher>>;

/// The keys of a whole checkpoint, without their values.
pub(crate) fn keys(data: &[u8]) -> Result<(Meta, Keys), String> {
    let meta = verify(data)?;
    let mut input = Input(&data[..data.len() - 4]);
    read_meta(&mut input).ok_or("it is cut off")?;
    let count = input.u64().ok_or("it is cut off")?;
    let mut keys = Keys::default();
    for _ in 0..count {
        let (key, revision, created) = skip_slot(&mut input).ok_or("an entry is cut off")?;
        keys.insert(key.into(), (revision, created));
    }
    Ok((meta, keys))
}

/// What the checkpoint at `path` says beside its state. Its checksum is not looked at.
pub(crate) fn head(disk: &dyn Disk, path: &Path) -> Result<Meta, String> {
    let file = disk.open(path, false).map_err(|e| e.to_string())?;
    let size = file.size().map_err(|e| e.to_string())?;
    // Gaps are as many as unclean starts within the window.
    let mut data = vec![0; usize::try_from(size.min(64 << 10)).unwrap_or(0)];
    file.read_at(0, &mut data).map_err(|e| e.to_string())?;
    read_meta(&mut Input(&data))
        .ok_or_else(|| "it was not written by this version of the store".into())
}

fn read_meta(input: &mut Input<'_>) -> Option<Meta> {
    if input.take(8)? != MAGIC || input.u32()? != VERSION {
        return None;
    }
    let snapshot = input.u32()? != 0;
    let revision = input.u64()?;
    let position = Position {
        segment: input.u64()?,
        offset: input.u64()?,
        chain: input.u32()?,
    };
    let gaps = (0..input.u64()?)
        .map(|_| Some((input.u64()?, input.u64()?)))
        .collect::<Option<_>>()?;
    Some(Meta {
        revision,
        position,
        gaps,
        snapshot,
    })
}

type RawSlot = (Arc<str>, u64, u64, i64, Value);

pub(crate) fn read_slot(input: &mut Input<'_>) -> Option<RawSlot> {
    Some((
        input.key()?,
        input.u64()?,
        input.u64()?,
        input.i64()?,
        Value::decode(input)?,
    ))
}

/// Is `data` a whole checkpoint? For restoring, without the keys to open its values.
pub(crate) fn verify(data: &[u8]) -> Result<Meta, String> {
    let (body, crc) = data.split_last_chunk::<4>().ok_or("it is cut off")?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return Err("its checksum is wrong".into());
    }
    read_meta(&mut Input(body))
        .ok_or_else(|| "it was not written by this version of the store".into())
}

/// Where the blocks of a checkpoint's entries start, each with its first key.
#[derive(Debug)]
pub(crate) struct Outline {
    blocks: Vec<(Arc<str>, u64)>,
    end: u64,
}

impl Outline {
    /// From where to where the block reaches that `key` would stand in.
    pub(crate) fn block(&self, key: &str) -> Option<(u64, u64)> {
        let after = self.blocks.partition_point(|(first, _)| &**first <= key);
        let start = self.blocks.get(after.checked_sub(1)?)?.1;
        Some((
            start,
            self.blocks.get(after).map_or(self.end, |(_, at)| *at),
        ))
    }
}

/// The outline of a whole checkpoint, whose checksum is proved.
pub(crate) fn outline(data: &[u8]) -> Result<Outline, String> {
    verify(data)?;
    let body = &data[..data.len() - 4];
    let mut input = Input(body);
    read_meta(&mut input).ok_or("it was not written by this version of the store")?;
    let count = input.u64().ok_or("it is cut off")?;
    let mut blocks: Vec<(Arc<str>, u64)> = Vec::new();
    let mut next = 0;
    for _ in 0..count {
        let at = body.len() - input.0.len();
        let (key, ..) = skip_slot(&mut input).ok_or("an entry is cut off")?;
        if at >= next {
            blocks.push((key.into(), at as u64));
            next = at + BLOCK;
        }
    }
    Ok(Outline {
        blocks,
        end: body.len() as u64,
    })
}

/// The next entry's key and the revisions that wrote and created it; nothing is copied.
fn skip_slot<'a>(input: &mut Input<'a>) -> Option<(&'a str, u64, u64)> {
    let key = std::str::from_utf8(input.bytes()?).ok()?;
    let (revision, created) = (input.u64()?, input.u64()?);
    // The deadline, and the value's flags and offset.
    input.take(8 + 1 + 4)?;
    input.bytes()?;
    Some((key, revision, created))
}
