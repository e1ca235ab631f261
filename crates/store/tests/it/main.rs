//! The store through its contract, on a disk that loses power.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod engine;
mod history;

use std::path::Path;
use std::sync::Arc;

use store::{
    Beside, Embedded, Entry, Error, Indexer, Memory, Op, Options, Outcome, Store, Txn, Unsealed,
};
use world::SystemClock;
use world::disk::FaultyDisk;
use world::metrics::Metrics;

struct NoIndex;
impl Indexer for NoIndex {
    fn index(&self, _: &str, _: &[u8]) -> Beside {
        Arc::new(())
    }
}

fn open(disk: &FaultyDisk) -> Result<Embedded, Error> {
    let mut options = Options::new(Arc::new(NoIndex), Arc::new(Unsealed), Arc::new(SystemClock));
    options.spawn = None;
    options.segment_bytes = 4096;
    options.checkpoint_bytes = 16 << 10;
    // Little, so that most of what is asked of the past comes from disk.
    options.window.bytes = 8 << 10;
    Embedded::open(
        Arc::new(disk.clone()),
        Path::new("/s"),
        options,
        &Metrics::default(),
    )
}

async fn put(store: &dyn Store, key: &str) -> Result<u64, Error> {
    let stored = format!(r#"{{"metadata":{{"name":"{key}"}}}}"#).into();
    let op = Op::Put {
        key: key.into(),
        stored,
        rv_offset: Some(13),
        expire_after: None,
    };
    match store
        .txn(Txn {
            ops: vec![op],
            ..Txn::default()
        })
        .await?
    {
        Outcome::Committed { revision, .. } => Ok(revision),
        Outcome::Conflict { .. } => panic!("no compare was given"),
    }
}

async fn contract(store: &dyn Store) {
    let first = put(store, "/a/1").await.unwrap();
    let second = put(store, "/a/2").await.unwrap();
    put(store, "/b/1").await.unwrap();
    assert_eq!(
        store.range("/a/", None, None, 1).await.unwrap().remaining,
        1
    );
    assert_eq!(
        store
            .range("/a/", None, Some(first), 0)
            .await
            .unwrap()
            .entries
            .len(),
        1
    );
    let mut watch = store.watch("/a/", first).await.unwrap();
    let third = put(store, "/a/1").await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(
            watch
                .events
                .recv()
                .await
                .unwrap()
                .unwrap()
                .iter()
                .map(store::Event::revision),
        );
    }
    assert_eq!(seen, [second, third]);
    assert!(matches!(
        store.watch("/a/", third + 1).await,
        Err(Error::Future { .. })
    ));
}

#[tokio::test]
async fn both_engines_keep_the_contract() {
    contract(&Memory::new(Arc::new(NoIndex), Arc::new(SystemClock))).await;
    contract(&open(&FaultyDisk::new()).unwrap()).await;
}

#[tokio::test]
async fn no_acknowledged_write_is_lost_at_any_crash_point() {
    for seed in 0..1000_u64 {
        let disk = FaultyDisk::new();
        disk.lose_power_after(1 + seed % 250);
        let mut acknowledged = Vec::new();
        if let Ok(store) = open(&disk) {
            for n in 0..100 {
                let keys: Vec<_> = (0..4).map(|w| format!("/w{w}/{}", n % 30)).collect();
                let done = futures::future::join_all(keys.iter().map(|k| put(&store, k))).await;
                acknowledged.extend(
                    keys.into_iter()
                        .zip(done)
                        .filter_map(|(k, r)| Some((k, r.ok()?))),
                );
            }
        }
        disk.crash(seed);
        let store = open(&disk).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        if seed % 4 == 0 {
            history_is_whole(&store, &acknowledged, seed).await;
        }
        for (key, revision) in acknowledged {
            let found = store.get(&key).await.unwrap().map_or(0, |e| e.revision);
            assert!(
                found >= revision,
                "seed {seed}: {key} is at {found}, acknowledged at {revision}"
            );
        }
    }
}

/// A watch from the beginning tells every acknowledged write, in order and once.
async fn history_is_whole(store: &dyn Store, acknowledged: &[(String, u64)], seed: u64) {
    let last = acknowledged.iter().map(|(_, r)| *r).max().unwrap_or(1);
    let mut watch = store.watch("/", 1).await.unwrap();
    let (mut told, mut reached) = (std::collections::BTreeSet::new(), 1);
    while reached < last {
        let batch = watch.events.recv().await.unwrap();
        for event in batch.unwrap_or_else(|e| panic!("seed {seed}: {e}")) {
            assert!(event.revision() > reached, "seed {seed}: out of order");
            reached = event.revision();
            told.insert((event.entry.key.to_string(), reached));
        }
    }
    for write in acknowledged {
        assert!(told.contains(write), "seed {seed}: {write:?} was not told");
    }
}
