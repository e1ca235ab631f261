//! What the store finds on disk when it opens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use store::{Beside, Embedded, Error, Indexer, Op, Store, Txn, Unsealed};
use world::World;
use world::disk::FaultyDisk;

use crate::made::Dice;

const DIR: &str = "/store";
const KEYS: [&str; 5] = ["/a/1", "/a/2", "/a/3", "/b/1", "/b"];

type State = BTreeMap<String, Vec<u8>>;

struct Nothing;

impl Indexer for Nothing {
    fn index(&self, _: &str, _: &[u8]) -> Beside {
        Arc::new(())
    }
}

fn open(disk: &FaultyDisk, world: &World) -> Result<Embedded, Error> {
    let mut options =
        store::Options::new(Arc::new(Nothing), Arc::new(Unsealed), world.clock.clone());
    options.spawn = None;
    options.segment_bytes = 4096;
    options.checkpoint_bytes = 1024;
    options.history_bytes = 16 << 10;
    Embedded::open(
        Arc::new(disk.clone()),
        Path::new(DIR),
        options,
        &world.metrics,
    )
}

async fn state(store: &Embedded) -> State {
    match store.range("/", None, None, 0).await {
        Ok(range) => {
            let stored = |e: &Arc<store::Entry>| (e.key.to_string(), e.stored());
            range.entries.iter().map(stored).collect()
        }
        Err(why) => panic!("an open store cannot be read: {why}"),
    }
}

fn put(key: &str, value: &[u8]) -> Op {
    Op::Put {
        key: key.to_owned(),
        stored: Bytes::copy_from_slice(value),
        rv_offset: None,
        expire_after: None,
    }
}

/// A store that is written to, crashes, and is damaged, opens with what it held at one moment and no older than the last
/// synced write (without damage), or says that it is damaged.
pub fn damage(data: &[u8]) {
    let runtime = crate::list::runtime();
    runtime.block_on(damaged(Dice::new(data)));
}

async fn damaged(mut dice: Dice<'_>) {
    let (disk, world) = (FaultyDisk::new(), World::seeded(1));
    let mut history = vec![State::new()];
    let mut synced = 0;
    let mut store = must(open(&disk, &world));
    for _ in 0..dice.below(64) {
        match dice.below(16) {
            0 => {
                must(store.close().await);
                drop(store);
                synced = history.len() - 1;
                store = must(open(&disk, &world));
            }
            1 => must(store.compact(store.revision().saturating_sub(1)).await),
            what => {
                let mut now = history.last().cloned().unwrap_or_default();
                let key = dice.one(&KEYS);
                let op = if what == 2 {
                    now.remove(key);
                    Op::Delete {
                        key: key.to_owned(),
                    }
                } else {
                    let value = vec![dice.byte(); dice.below(1024)];
                    now.insert(key.to_owned(), value.clone());
                    put(key, &value)
                };
                let lazy = what == 3;
                let txn = Txn {
                    compares: Vec::new(),
                    ops: vec![op],
                    lazy,
                };
                must(store.txn(txn).await.map(drop));
                history.push(now);
                if !lazy {
                    synced = history.len() - 1;
                }
            }
        }
    }
    if dice.byte() & 1 == 1 {
        must(store.close().await);
        synced = history.len() - 1;
    }
    drop(store);
    disk.crash(u64::from(dice.byte()));
    let mut whole = true;
    while !dice.is_empty() {
        whole = false;
        hurt(&mut dice, &disk);
    }
    let store = match open(&disk, &world) {
        Ok(store) => store,
        Err(Error::Damaged(why)) if !whole => return assert!(!why.is_empty()),
        Err(why) => panic!("the store does not open: {why}"),
    };
    let found = state(&store).await;
    let oldest = if whole { synced } else { 0 };
    assert!(
        history[oldest..].contains(&found),
        "the store holds what it never held, or lost a synced write"
    );
    works(store, &disk, &world).await;
}

fn must<T>(result: Result<T, Error>) -> T {
    match result {
        Ok(value) => value,
        Err(why) => panic!("a healthy store fails: {why}"),
    }
}

/// An open store takes writes and opens again with them.
async fn works(store: Embedded, disk: &FaultyDisk, world: &World) {
    let before = store.revision();
    let written = store.txn(Txn {
        compares: Vec::new(),
        ops: vec![put("/new", b"new")],
        lazy: false,
    });
    must(written.await.map(drop));
    assert!(store.revision() > before);
    let left = state(&store).await;
    assert_eq!(left.get("/new").map(Vec::as_slice), Some(&b"new"[..]));
    drop(store);
    disk.crash(3);
    let store = must(open(disk, world));
    assert_eq!(state(&store).await, left, "a synced write is gone");
}

fn hurt(dice: &mut Dice<'_>, disk: &FaultyDisk) {
    let files: Vec<PathBuf> = disk
        .everything()
        .into_iter()
        .map(|(path, _)| path)
        .collect();
    if files.is_empty() {
        dice.take(usize::MAX);
        return;
    }
    let file = files[dice.below(files.len())].clone();
    let (what, at, n) = (dice.below(4), dice.below(65_536), dice.below(256));
    let bytes = dice.take(n.min(16)).to_vec();
    disk.edit(&file, |data| {
        let at = at % (data.len() + 1);
        match what {
            0 => data.truncate(at),
            1 => data.iter_mut().skip(at).take(n * 8).for_each(|b| *b = 0),
            2 => data
                .iter_mut()
                .skip(at)
                .zip(&bytes)
                .for_each(|(b, new)| *b ^= new),
            _ => data.splice(at..at, bytes).for_each(drop),
        }
    });
}

/// The head of the first segment, and one group with this payload, all checksums right: `store/DESIGN.md`.
fn segment(last: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = b"SKIFFLOG".to_vec();
    out.extend(1u32.to_le_bytes());
    out.extend(0u32.to_le_bytes());
    out.extend(1u64.to_le_bytes());
    out.extend(crc32c::crc32c(&out).to_le_bytes());
    out.resize(64, 0);
    let mut head = Vec::new();
    head.extend(0x4750_4b53_u32.to_le_bytes());
    head.extend((payload.len() as u32).to_le_bytes());
    for number in [1, last, last, 0] {
        head.extend(u64::to_le_bytes(number));
    }
    head.extend(0u32.to_le_bytes());
    head.extend(crc32c::crc32c(payload).to_le_bytes());
    head.extend(crc32c::crc32c(&head).to_le_bytes());
    head.extend(0u32.to_le_bytes());
    out.extend(head);
    out.extend_from_slice(payload);
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

/// Records whose checksums are right but whose content nobody wrote: the store opens and works, or says that it is damaged.
pub fn records(data: &[u8]) {
    let Some((last, payload)) = data.split_first_chunk::<8>() else {
        return;
    };
    let runtime = crate::list::runtime();
    runtime.block_on(async {
        let (disk, world) = (FaultyDisk::new(), World::seeded(1));
        let store = must(open(&disk, &world));
        must(store.close().await);
        drop(store);
        disk.crash(0);
        let log = Path::new(DIR).join("log-0000000000000001");
        assert!(
            disk.everything().iter().any(|(path, _)| *path == log),
            "the log has another name"
        );
        let bytes = segment(u64::from_le_bytes(*last), payload);
        disk.edit(&log, |data| *data = bytes);
        match open(&disk, &world) {
            Ok(store) => works(store, &disk, &world).await,
            Err(Error::Damaged(why)) => assert!(!why.is_empty()),
            Err(why) => panic!("the store neither opens nor is damaged: {why}"),
        }
    });
}
