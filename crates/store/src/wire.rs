//! The wire form: the stored form with the revision inserted, made once when a version enters memory.

use std::sync::Arc;

use bytes::Bytes;

use crate::{Beside, Entry, Error};

/// Checks that a revision can be inserted into `stored` at `offset`.
pub(crate) fn check_offset(key: &str, stored: &[u8], offset: Option<u32>) -> Result<(), Error> {
    match offset {
        Some(at) if at as usize > stored.len() || stored.len() > u32::MAX as usize / 2 => {
            Err(Error::Damaged(format!(
                "the revision of {key} cannot be inserted at byte {at} of a value of {} bytes",
                stored.len()
            )))
        }
        _ => Ok(()),
    }
}

/// Inserts `"resourceVersion":"N",` at `offset` (checked by [`check_offset`]); the comma is left out before a closing brace.
fn insert_revision(stored: &[u8], offset: u32, revision: u64) -> (Bytes, (u32, u32)) {
    let (before, after) = stored.split_at(offset as usize);
    let last = after.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'}');
    let digits = revision.to_string();
    let opening = b"\"resourceVersion\":\"";
    let closing: &[u8] = if last { b"\"" } else { b"\"," };
    let inserted = opening.len() + digits.len() + closing.len();
    let mut wire = Vec::with_capacity(stored.len() + inserted);
    for part in [before, opening, digits.as_bytes(), closing, after] {
        wire.extend_from_slice(part);
    }
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a name, twenty digits and some quotes"
    )]
    (Bytes::from(wire), (offset, inserted as u32))
}

/// Makes the version of `key` that `revision` wrote.
pub(crate) fn entry(
    key: Arc<str>,
    stored: &Bytes,
    rv_offset: Option<u32>,
    revision: u64,
    created: u64,
    beside: Beside,
) -> Arc<Entry> {
    let (wire, rv_span) = match rv_offset {
        Some(at) => insert_revision(stored, at, revision),
        None => (stored.clone(), (0, 0)),
    };
    Arc::new(Entry {
        key,
        wire,
        rv_span,
        revision,
        created,
        beside,
    })
}

/// The last version of a deleted key, carrying the revision of the deletion.
pub(crate) fn tombstone(last: &Entry, revision: u64) -> Arc<Entry> {
    let (wire, rv_span) = match rv_offset(last) {
        Some(at) => insert_revision(&last.stored(), at, revision),
        None => (last.wire.clone(), (0, 0)),
    };
    Arc::new(Entry {
        key: last.key.clone(),
        wire,
        rv_span,
        revision,
        created: last.created,
        beside: last.beside.clone(),
    })
}

/// Where the revision was inserted; `None` when it was not.
pub(crate) fn rv_offset(entry: &Entry) -> Option<u32> {
    (entry.rv_span.1 > 0).then_some(entry.rv_span.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_revision_is_inserted_with_the_right_comma_and_can_be_cut_out() {
        for (stored, at, wire) in [
            (
                r#"{"metadata":{"name":"a"}}"#,
                13,
                r#"{"metadata":{"resourceVersion":"42","name":"a"}}"#,
            ),
            (
                r#"{"metadata":{ }}"#,
                13,
                r#"{"metadata":{"resourceVersion":"42" }}"#,
            ),
        ] {
            let made = entry(
                "k".into(),
                &Bytes::from(stored),
                Some(at),
                42,
                42,
                Arc::new(()),
            );
            assert_eq!(made.wire, wire);
            assert_eq!(made.stored(), stored.as_bytes());
            assert_eq!(tombstone(&made, 43).wire, wire.replace("42", "43"));
        }
    }
}
