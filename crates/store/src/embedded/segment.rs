//! The bytes of a log segment: a head, then groups, each checked by itself and chained to the one before.
//!
//! `DESIGN.md` shows both layouts as tables. Segments are recycled, so what stands behind the last group may be groups of
//! an earlier use: they carry another segment id. Groups start at multiples of [`ALIGN`].

use std::path::{Path, PathBuf};

use super::record::{Input, put_u32, put_u64};
use crate::history::Place;

/// The size of a segment's head.
pub(crate) const HEAD: u64 = 64;
/// The size of a group's head.
pub(crate) const GROUP_HEAD: usize = 56;
/// Where groups may start.
pub(crate) const ALIGN: usize = 8;

const SEGMENT_MAGIC: &[u8; 8] = b"SKIFFLOG";
const GROUP_MAGIC: u32 = 0x4750_4b53;
const VERSION: u32 = 1;

/// A place in the log, and the checksum of the group before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) segment: u64,
    /// 0: not even the segment's head is written.
    pub(crate) offset: u64,
    pub(crate) chain: u32,
}

impl Position {
    /// Where the log of a new store starts.
    pub(crate) const START: Self = Self {
        segment: 1,
        offset: 0,
        chain: 0,
    };
}

/// The position of a group for the index of history, which has no room for more: segments are far below 4 GiB, and 2^32 of
/// them far beyond any disk.
pub(crate) fn place(segment: u64, offset: u64) -> Place {
    Place {
        segment: u32::try_from(segment).unwrap_or(u32::MAX),
        offset: u32::try_from(offset).unwrap_or(u32::MAX),
    }
}

pub(crate) fn path(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("log-{id:016x}"))
}

/// The number in the name of a file, when the name is `prefix` and a number.
pub(crate) fn id_of(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?;
    (digits.len() == 16)
        .then(|| u64::from_str_radix(digits, 16).ok())
        .flatten()
}

/// A segment's head. `chain` is the checksum of the last group of the segment before.
pub(crate) fn head(id: u64, chain: u32) -> Vec<u8> {
    let mut out = SEGMENT_MAGIC.to_vec();
    put_u32(&mut out, VERSION);
    put_u32(&mut out, chain);
    put_u64(&mut out, id);
    let crc = crc32c::crc32c(&out);
    put_u32(&mut out, crc);
    out.resize(usize::try_from(HEAD).unwrap_or(64), 0);
    out
}

/// The chain value in the head of segment `id`; `None` when there is no whole head of that id.
pub(crate) fn read_head(data: &[u8], id: u64) -> Option<u32> {
    let mut input = Input(data.get(..28)?);
    let whole = input.0;
    let ok = input.take(8)? == SEGMENT_MAGIC && input.u32()? == VERSION;
    let (chain, found, crc) = (input.u32()?, input.u64()?, input.u32()?);
    (ok && found == id && crc32c::crc32c(&whole[..24]) == crc).then_some(chain)
}

/// A whole group, as found in a segment.
pub(crate) struct Group<'a> {
    pub(crate) last: u64,
    pub(crate) time_ms: i64,
    /// The checksum of the group before.
    pub(crate) prev: u32,
    /// This group's own checksum.
    pub(crate) chain: u32,
    pub(crate) payload: &'a [u8],
    /// Where the next group starts.
    pub(crate) end: usize,
}

/// Appends a group to `out` and returns its checksum. `out` must be empty or hold a segment's head.
pub(crate) fn put_group(
    out: &mut Vec<u8>,
    segment: u64,
    prev: u32,
    revisions: (u64, u64),
    time_ms: i64,
    payload: &[&[u8]],
) -> u32 {
    let start = out.len();
    let len: usize = payload.iter().map(|p| p.len()).sum();
    let crc = payload
        .iter()
        .fold(0, |crc, part| crc32c::crc32c_append(crc, part));
    put_u32(out, GROUP_MAGIC);
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the queue's bound is far below 4 GiB"
    )]
    put_u32(out, len as u32);
    put_u64(out, segment);
    put_u64(out, revisions.0);
    put_u64(out, revisions.1);
    out.extend_from_slice(&time_ms.to_le_bytes());
    put_u32(out, prev);
    put_u32(out, crc);
    let chain = crc32c::crc32c(&out[start..]);
    put_u32(out, chain);
    put_u32(out, 0);
    for part in payload {
        out.extend_from_slice(part);
    }
    out.resize(start + (out.len() - start).next_multiple_of(ALIGN), 0);
    chain
}

/// How many bytes a group with this payload takes.
pub(crate) fn group_size(payload: usize) -> u64 {
    (GROUP_HEAD + payload).next_multiple_of(ALIGN) as u64
}

/// The group at `at`, if one of this segment stands there whole. Whether it continues the chain is not looked at.
pub(crate) fn read_group(data: &[u8], at: usize, segment: u64) -> Option<Group<'_>> {
    let head = data.get(at..at.checked_add(GROUP_HEAD)?)?;
    let mut input = Input(head);
    if input.u32()? != GROUP_MAGIC {
        return None;
    }
    let len = usize::try_from(input.u32()?).ok()?;
    let found = input.u64()?;
    let (_first, last, time_ms) = (input.u64()?, input.u64()?, input.i64()?);
    let (prev, crc, chain) = (input.u32()?, input.u32()?, input.u32()?);
    if found != segment || crc32c::crc32c(&head[..48]) != chain {
        return None;
    }
    let start = at + GROUP_HEAD;
    let payload = data.get(start..start.checked_add(len)?)?;
    if crc32c::crc32c(payload) != crc {
        return None;
    }
    let end = at + (GROUP_HEAD + len).next_multiple_of(ALIGN);
    Some(Group {
        last,
        time_ms,
        prev,
        chain,
        payload,
        end,
    })
}

/// How long the payload of the group with this head is; `None` when it is no head of a group of this segment.
pub(crate) fn payload_len(head: &[u8], segment: u64) -> Option<usize> {
    let mut input = Input(head.get(..GROUP_HEAD)?);
    let (magic, len, found) = (input.u32()?, input.u32()?, input.u64()?);
    let chain = u32::from_le_bytes(head[48..52].try_into().ok()?);
    let whole = magic == GROUP_MAGIC && found == segment && crc32c::crc32c(&head[..48]) == chain;
    usize::try_from(len).ok().filter(|_| whole)
}

/// Where the first whole group of this segment stands at or after `from`.
pub(crate) fn find_group(data: &[u8], from: usize, segment: u64) -> Option<usize> {
    let magic = GROUP_MAGIC.to_le_bytes();
    (from.next_multiple_of(ALIGN)..data.len())
        .step_by(ALIGN)
        .find(|&at| data[at..].starts_with(&magic) && read_group(data, at, segment).is_some())
}
