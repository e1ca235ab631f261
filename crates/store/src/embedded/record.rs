//! What a group of the log holds: records, each a transaction or a note of the engine. All numbers are little-endian.

use std::sync::Arc;

use bytes::Bytes;

use crate::Seal;
use crate::transact::{Prepared, PreparedOp};

const TXN: u8 = 1;
const GAP: u8 = 2;
const COMPACT: u8 = 3;
const OPENED: u8 = 4;
const CLOSED: u8 = 5;

const PUT: u8 = 1;
const DELETE: u8 = 2;

const SEALED: u8 = 1;
const HAS_RV: u8 = 2;

/// One element of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    Txn {
        revision: u64,
        ops: Vec<Change>,
    },
    /// Revisions strictly between these may have been shown and lost in a crash.
    Gap {
        from: u64,
        to: u64,
    },
    /// History at and before this revision is forgotten.
    Compact {
        revision: u64,
    },
    Opened,
    /// Everything acknowledged was written before the engine was closed.
    Closed,
}

/// One change as it stands on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Put {
        key: Arc<str>,
        value: Value,
        expires_ms: i64,
    },
    Delete {
        key: Arc<str>,
    },
}

/// A stored form, perhaps sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) bytes: Bytes,
    pub(crate) sealed: bool,
    pub(crate) rv_offset: Option<u32>,
}

impl Value {
    pub(crate) fn seal(
        seal: &dyn Seal,
        key: &str,
        plain: &Bytes,
        rv_offset: Option<u32>,
    ) -> Result<Self, String> {
        Ok(match seal.seal(key, plain)? {
            Some(sealed) => Self {
                bytes: sealed.into(),
                sealed: true,
                rv_offset,
            },
            None => Self {
                bytes: plain.clone(),
                sealed: false,
                rv_offset,
            },
        })
    }

    /// The stored form.
    pub(crate) fn open(self, seal: &dyn Seal, key: &str) -> Result<Bytes, String> {
        if self.sealed {
            seal.open(key, self.bytes)
                .map_err(|why| format!("the value of {key} cannot be unsealed: {why}"))
        } else {
            Ok(self.bytes)
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let flags = if self.sealed { SEALED } else { 0 }
            | if self.rv_offset.is_some() { HAS_RV } else { 0 };
        out.push(flags);
        put_u32(out, self.rv_offset.unwrap_or(0));
        put_bytes(out, &self.bytes);
    }

    pub(crate) fn decode(input: &mut Input<'_>) -> Option<Self> {
        Some(RawValue::decode(input)?.into())
    }
}

/// A [`Value`] that still stands in what it was read from.
pub(crate) struct RawValue<'a> {
    flags: u8,
    rv_offset: u32,
    bytes: &'a [u8],
}

impl<'a> RawValue<'a> {
    fn decode(input: &mut Input<'a>) -> Option<Self> {
        Some(Self {
            flags: input.u8()?,
            rv_offset: input.u32()?,
            bytes: input.bytes()?,
        })
    }
}

impl From<RawValue<'_>> for Value {
    fn from(raw: RawValue<'_>) -> Self {
        Self {
            bytes: Bytes::copy_from_slice(raw.bytes),
            sealed: raw.flags & SEALED != 0,
            rv_offset: (raw.flags & HAS_RV != 0).then_some(raw.rv_offset),
        }
    }
}

/// One change of a group, or a note, that still stands in what it was read from.
pub(crate) enum Raw<'a> {
    Put {
        revision: u64,
        key: &'a str,
        value: RawValue<'a>,
    },
    Delete {
        revision: u64,
        key: &'a str,
    },
    Gap {
        from: u64,
        to: u64,
    },
    Compact {
        revision: u64,
    },
    Opened,
    Closed,
}

/// Shows `see` all that a group's payload holds, in order, copying nothing. `Ok(None)`: a record cannot be read.
pub(crate) fn each<'a, E>(
    payload: &'a [u8],
    mut see: impl FnMut(Raw<'a>) -> Result<(), E>,
) -> Result<Option<()>, E> {
    let mut input = Input(payload);
    while !input.0.is_empty() {
        let note = match input.u8() {
            Some(TXN) => {
                let (Some(revision), Some(ops)) = (input.u64(), input.u32()) else {
                    return Ok(None);
                };
                for _ in 0..ops {
                    match raw_op(&mut input, revision) {
                        Some(op) => see(op)?,
                        None => return Ok(None),
                    }
                }
                continue;
            }
            Some(GAP) => input
                .u64()
                .zip(input.u64())
                .map(|(from, to)| Raw::Gap { from, to }),
            Some(COMPACT) => input.u64().map(|revision| Raw::Compact { revision }),
            Some(OPENED) => Some(Raw::Opened),
            Some(CLOSED) => Some(Raw::Closed),
            _ => None,
        };
        match note {
            Some(note) => see(note)?,
            None => return Ok(None),
        }
    }
    Ok(Some(()))
}

fn raw_op<'a>(input: &mut Input<'a>, revision: u64) -> Option<Raw<'a>> {
    let kind = input.u8()?;
    let key = std::str::from_utf8(input.bytes()?).ok()?;
    match kind {
        PUT => {
            input.i64()?;
            let value = RawValue::decode(input)?;
            Some(Raw::Put {
                revision,
                key,
                value,
            })
        }
        DELETE => Some(Raw::Delete { revision, key }),
        _ => None,
    }
}

pub(crate) fn put_u32(out: &mut Vec<u8>, n: u32) {
    out.extend_from_slice(&n.to_le_bytes());
}

pub(crate) fn put_u64(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(&n.to_le_bytes());
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "keys and values are bounded far below 4 GiB"
    )]
    put_u32(out, bytes.len() as u32);
    out.extend_from_slice(bytes);
}

/// Reads what the functions above wrote; `None` when the bytes end too early.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        Some(i64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let n = self.u32()?;
        self.take(usize::try_from(n).ok()?)
    }

    pub(crate) fn key(&mut self) -> Option<Arc<str>> {
        Some(std::str::from_utf8(self.bytes()?).ok()?.into())
    }
}

impl Change {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Put {
                key,
                value,
                expires_ms,
            } => {
                out.push(PUT);
                put_bytes(out, key.as_bytes());
                out.extend_from_slice(&expires_ms.to_le_bytes());
                value.encode(out);
            }
            Self::Delete { key } => {
                out.push(DELETE);
                put_bytes(out, key.as_bytes());
            }
        }
    }

    fn decode(input: &mut Input<'_>) -> Option<Self> {
        Some(match input.u8()? {
            PUT => Self::Put {
                key: input.key()?,
                expires_ms: input.i64()?,
                value: Value::decode(input)?,
            },
            DELETE => Self::Delete { key: input.key()? },
            _ => return None,
        })
    }
}

impl Record {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Txn { revision, ops } => {
                out.push(TXN);
                put_u64(out, *revision);
                #[allow(clippy::cast_possible_truncation, reason = "a transaction has few ops")]
                put_u32(out, ops.len() as u32);
                for op in ops {
                    op.encode(out);
                }
            }
            Self::Gap { from, to } => {
                out.push(GAP);
                put_u64(out, *from);
                put_u64(out, *to);
            }
            Self::Compact { revision } => {
                out.push(COMPACT);
                put_u64(out, *revision);
            }
            Self::Opened => out.push(OPENED),
            Self::Closed => out.push(CLOSED),
        }
    }

    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }

    pub(crate) fn decode(input: &mut Input<'_>) -> Option<Self> {
        Some(match input.u8()? {
            TXN => {
                let (revision, n) = (input.u64()?, input.u32()?);
                let ops = (0..n)
                    .map(|_| Change::decode(input))
                    .collect::<Option<_>>()?;
                Self::Txn { revision, ops }
            }
            GAP => Self::Gap {
                from: input.u64()?,
                to: input.u64()?,
            },
            COMPACT => Self::Compact {
                revision: input.u64()?,
            },
            OPENED => Self::Opened,
            CLOSED => Self::Closed,
            _ => return None,
        })
    }
}

/// The record of `txn`, sealed, with revision 0: it is made outside of the lock that gives the revision.
pub(crate) fn encode_txn(txn: &Prepared, seal: &dyn Seal) -> Result<Vec<u8>, String> {
    let ops = txn.ops.iter().map(|op| {
        Ok(match op {
            PreparedOp::Put {
                key,
                stored,
                rv_offset,
                expires_ms,
                ..
            } => Change::Put {
                key: key.clone(),
                value: Value::seal(seal, key, stored, *rv_offset)?,
                expires_ms: *expires_ms,
            },
            PreparedOp::Delete { key } => Change::Delete { key: key.clone() },
        })
    });
    let ops = ops.collect::<Result<_, String>>()?;
    Ok(Record::Txn { revision: 0, ops }.to_vec())
}

/// Writes the revision into what [`encode_txn`] made.
pub(crate) fn set_revision(encoded: &mut [u8], revision: u64) {
    encoded[1..9].copy_from_slice(&revision.to_le_bytes());
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn change() -> impl Strategy<Value = Change> {
        let bytes = proptest::collection::vec(any::<u8>(), 0..200);
        prop_oneof![
            (
                ".{0,40}",
                bytes,
                any::<bool>(),
                any::<Option<u32>>(),
                any::<i64>()
            )
                .prop_map(|(key, bytes, sealed, rv_offset, expires_ms)| Change::Put {
                    key: key.into(),
                    value: Value {
                        bytes: bytes.into(),
                        sealed,
                        rv_offset
                    },
                    expires_ms
                }),
            ".{0,40}".prop_map(|key| Change::Delete { key: key.into() }),
        ]
    }

    fn record() -> impl Strategy<Value = Record> {
        prop_oneof![
            (any::<u64>(), proptest::collection::vec(change(), 0..4))
                .prop_map(|(revision, ops)| Record::Txn { revision, ops }),
            any::<(u64, u64)>().prop_map(|(from, to)| Record::Gap { from, to }),
            any::<u64>().prop_map(|revision| Record::Compact { revision }),
            Just(Record::Opened),
            Just(Record::Closed),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(records in proptest::collection::vec(record(), 0..6)) {
            let bytes: Vec<u8> = records.iter().flat_map(Record::to_vec).collect();
            let mut input = Input(&bytes);
            for record in records {
                prop_assert_eq!(Record::decode(&mut input), Some(record));
            }
            prop_assert!(input.0.is_empty());
        }

        #[test]
        fn every_put_is_shown(records in proptest::collection::vec(record(), 0..6)) {
            let bytes: Vec<u8> = records.iter().flat_map(Record::to_vec).collect();
            let mut shown = Vec::new();
            each(&bytes, |raw| {
                if let Raw::Put { revision, key, value } = raw {
                    shown.push((revision, key.to_owned(), Value::from(value)));
                }
                Ok::<_, ()>(())
            }).unwrap().unwrap();
            let puts = records.into_iter().flat_map(|r| match r {
                Record::Txn { revision, ops } => ops.into_iter().filter_map(|op| match op {
                    Change::Put { key, value, .. } => Some((revision, key.to_string(), value)),
                    Change::Delete { .. } => None,
                }).collect(),
                _ => Vec::new(),
            });
            prop_assert_eq!(shown, puts.collect::<Vec<_>>());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut input = Input(&bytes);
            while !input.0.is_empty() && Record::decode(&mut input).is_some() {}
            let _ = each(&bytes, |_| Ok::<_, ()>(()));
        }
    }
}
