//! History is the log: old revisions read from segments and checkpoints, before and after restarts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use store::{Event, Spawn, Watch, Window};
use world::clock::TokioClock;

use super::*;

/// What every key was at every revision.
#[derive(Default)]
struct Model {
    now: BTreeMap<String, (u64, String)>,
    then: BTreeMap<u64, BTreeMap<String, (u64, String)>>,
    /// (revision, key, value or deleted, value before)
    changes: Vec<(u64, String, Option<String>, Option<String>)>,
}

impl Model {
    fn remember(&mut self, revision: u64, key: &str, value: Option<&str>) {
        let before = match value {
            Some(value) => self.now.insert(key.into(), (revision, value.into())),
            None => self.now.remove(key),
        };
        self.changes.push((
            revision,
            key.into(),
            value.map(Into::into),
            before.map(|(_, v)| v),
        ));
        self.then.insert(revision, self.now.clone());
    }
}

fn stored(round: usize, key: &str) -> String {
    let padding = "x".repeat(40 + (round * 7) % 120);
    format!(r#"{{"metadata":{{"name":"{key}"}},"round":{round},"p":"{padding}"}}"#)
}

/// Some puts and deletes, each a transaction.
async fn churn(store: &dyn Store, model: &mut Model, rounds: std::ops::Range<usize>) {
    for round in rounds {
        let key = format!(
            "/{}/{}",
            if round % 3 == 0 { "a" } else { "b" },
            round * 5 % 17
        );
        let value = (round % 11 != 10).then(|| stored(round, &key));
        let op = match &value {
            Some(value) => Op::Put {
                key: key.clone(),
                stored: value.clone().into(),
                rv_offset: Some(13),
                expire_after: None,
            },
            None => Op::Delete { key: key.clone() },
        };
        let txn = Txn {
            ops: vec![op],
            lazy: round % 13 == 5,
            ..Txn::default()
        };
        let Outcome::Committed { revision, entries } = store.txn(txn).await.unwrap() else {
            panic!("no compare was given")
        };
        if entries[0].is_some() {
            model.remember(revision, &key, value.as_deref());
        }
    }
}

fn text(entry: &Entry) -> String {
    String::from_utf8(entry.stored()).unwrap()
}

async fn next(watch: &mut Watch, count: usize) -> Vec<Event> {
    let mut seen: Vec<Event> = Vec::new();
    while seen.len() < count {
        seen.extend(watch.events.recv().await.unwrap().unwrap());
    }
    assert_eq!(seen.len(), count, "nothing is told twice");
    seen
}

/// Every kept revision reads as it was, whole and in pages, and a watch from it tells exactly what came after.
async fn check(store: &dyn Store, model: &Model, from: u64) {
    let count = model.then.range(from..).count();
    for (revision, then) in model.then.range(from..).step_by(1 + count / 60) {
        let range = store.range("/", None, Some(*revision), 0).await.unwrap();
        let found: Vec<_> = range
            .entries
            .iter()
            .map(|e| (e.key.to_string(), (e.revision, text(e))))
            .collect();
        let expected: Vec<_> = then.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        assert_eq!(found, expected, "at {revision}");
        let page = store
            .range("/b/", Some("/b/1"), Some(*revision), 3)
            .await
            .unwrap();
        let rest: Vec<_> = then
            .range("/b/1\0".to_owned()..)
            .map(|(k, _)| k.clone())
            .collect();
        let keys: Vec<_> = page.entries.iter().map(|e| e.key.to_string()).collect();
        assert_eq!(keys[..], rest[..rest.len().min(3)], "a page at {revision}");
        assert_eq!(page.remaining as usize, rest.len().saturating_sub(3));
    }
    for revision in model
        .then
        .range(from..)
        .map(|(r, _)| *r)
        .step_by(1 + count / 15)
    {
        for prefix in ["/", "/a/"] {
            let expected: Vec<_> = model
                .changes
                .iter()
                .filter(|(r, key, ..)| *r > revision && key.starts_with(prefix))
                .cloned()
                .collect();
            let mut watch = store.watch(prefix, revision).await.unwrap();
            let seen = next(&mut watch, expected.len()).await;
            let seen: Vec<_> = seen
                .iter()
                .map(|e| {
                    let wire = String::from_utf8_lossy(&e.entry.wire);
                    let mark = format!("\"resourceVersion\":\"{}\"", e.revision());
                    assert!(wire.contains(&mark), "{wire}");
                    let before = e.previous.as_deref().map(text);
                    let value = (!e.deleted).then(|| text(&e.entry));
                    (e.revision(), e.entry.key.to_string(), value, before)
                })
                .collect();
            assert_eq!(seen, expected, "a watch of {prefix} after {revision}");
            assert!(watch.events.try_recv().is_err());
        }
    }
}

struct Setup {
    disk: FaultyDisk,
    clock: Arc<TokioClock>,
    checkpoint_bytes: u64,
    history_bytes: u64,
    window: Window,
}

impl Setup {
    fn new(checkpoint_bytes: u64) -> Self {
        let start = jiff::Timestamp::constant(1_767_225_600, 0);
        Self {
            disk: FaultyDisk::new(),
            clock: Arc::new(TokioClock::starting_at(start)),
            checkpoint_bytes,
            history_bytes: 64 << 20,
            window: Window {
                bytes: 2048,
                ..Window::default()
            },
        }
    }

    fn options(&self) -> Options {
        let mut options = Options::new(Arc::new(NoIndex), Arc::new(Unsealed), self.clock.clone());
        options.spawn = None;
        options.segment_bytes = 4096;
        options.checkpoint_bytes = self.checkpoint_bytes;
        options.history_bytes = self.history_bytes;
        options.window = self.window;
        options
    }

    fn open(&self, metrics: &Metrics) -> Embedded {
        let disk = Arc::new(self.disk.clone());
        Embedded::open(disk, Path::new("/s"), self.options(), metrics).unwrap()
    }

    fn names(&self, prefix: &str) -> usize {
        let all = self.disk.everything();
        all.iter()
            .filter(|(path, _)| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with(prefix)
            })
            .count()
    }
}

fn metric(metrics: &Metrics, name: &str) -> u64 {
    let text = metrics.render();
    let line = text
        .lines()
        .find(|l| l.starts_with(name) && !l.starts_with('#'));
    line.and_then(|l| l.rsplit(' ').next())
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn every_old_revision_reads_as_it_was_with_and_without_checkpoints_and_after_restarts() {
    for checkpoint_bytes in [u64::MAX, 16 << 10] {
        let setup = Setup::new(checkpoint_bytes);
        let mut model = Model::default();
        for life in 0..3 {
            let metrics = Metrics::default();
            let store = setup.open(&metrics);
            churn(&store, &mut model, life * 300..(life + 1) * 300).await;
            check(&store, &model, 0).await;
            assert!(
                metric(&metrics, "skiff_store_history_reads_total") > 0,
                "more than memory keeps was read"
            );
            assert_eq!(
                metric(&metrics, "skiff_store_history"),
                model.changes.len() as u64
            );
            store.close().await.unwrap();
        }
        assert_eq!(setup.names("checkpoint-") > 0, checkpoint_bytes < u64::MAX);
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_the_window_is_still_there() {
    for seed in 0..40 {
        let setup = Setup::new(16 << 10);
        let mut model = Model::default();
        let store = setup.open(&Metrics::default());
        churn(&store, &mut model, 0..200).await;
        // Makes the lazy ones before it durable.
        put(&store, "/z").await.unwrap();
        drop(store);
        setup.disk.crash(seed);
        let store = setup.open(&Metrics::default());
        let last = *model.then.keys().last().unwrap();
        for (revision, then) in model.then.iter().step_by(9) {
            let range = store.range("/", None, Some(*revision), 0).await.unwrap();
            assert_eq!(range.entries.len(), then.len(), "seed {seed} at {revision}");
        }
        let mut watch = store.watch("/", 1).await.unwrap();
        let seen = next(&mut watch, model.changes.len() + 1).await;
        assert!(seen.windows(2).all(|w| w[0].revision() < w[1].revision()));
        assert_eq!(seen[seen.len() - 2].revision(), last);
    }
}

#[tokio::test(start_paused = true)]
async fn history_larger_than_its_bound_goes_with_its_segments() {
    let mut setup = Setup::new(16 << 10);
    setup.history_bytes = 64 << 10;
    let mut model = Model::default();
    let metrics = Metrics::default();
    let store = setup.open(&metrics);
    churn(&store, &mut model, 0..1500).await;
    assert!(
        setup.names("log-") <= 64 / 4 + 16 / 4 + 2,
        "{} segments are kept",
        setup.names("log-")
    );
    let Err(Error::Compacted { oldest, .. }) = store.watch("/", 1).await else {
        panic!("the first revision is no longer kept")
    };
    let known = metric(&metrics, "skiff_store_history");
    assert!(
        (known as usize) < model.changes.len(),
        "positions go with their segments"
    );
    assert!(matches!(
        store.range("/", None, Some(oldest - 1), 0).await,
        Err(Error::Compacted { .. })
    ));
    assert!(
        model.then.range(oldest..).count() > 100,
        "a window is kept all the same"
    );
    // Versions from before the window, superseded within it, come from the checkpoint that the window starts with.
    check(&store, &model, oldest).await;
    store.close().await.unwrap();
    drop(store);
    let store = setup.open(&Metrics::default());
    check(&store, &model, oldest).await;
    churn(&store, &mut model, 1500..1600).await;
    check(&store, &model, store.revision() - 150).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_older_than_the_window_is_compacted_also_after_a_restart() {
    let setup = Setup::new(16 << 10);
    let mut model = Model::default();
    let store = setup.open(&Metrics::default());
    churn(&store, &mut model, 0..200).await;
    let old = store.revision();
    tokio::time::sleep(Duration::from_secs(3610)).await;
    churn(&store, &mut model, 200..260).await;
    assert!(matches!(
        store.watch("/", old - 10).await,
        Err(Error::Compacted { .. })
    ));
    check(&store, &model, old).await;
    drop(store);
    let store = setup.open(&Metrics::default());
    assert!(matches!(
        store.watch("/", old - 10).await,
        Err(Error::Compacted { .. })
    ));
    check(&store, &model, old).await;
    // What was asked to be forgotten stays so.
    let middle = *model.then.range(old + 20..).next().unwrap().0;
    store.compact(middle).await.unwrap();
    assert!(matches!(
        store.range("/", None, Some(old + 1), 0).await,
        Err(Error::Compacted { .. })
    ));
    check(&store, &model, middle).await;
    store.close().await.unwrap();
    drop(store);
    let store = setup.open(&Metrics::default());
    assert!(matches!(
        store.range("/", None, Some(old + 1), 0).await,
        Err(Error::Compacted { .. })
    ));
    check(&store, &model, middle).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_catches_up_from_disk_misses_nothing_that_happens_meanwhile() {
    let setup = Setup::new(16 << 10);
    let mut model = Model::default();
    let store = setup.open(&Metrics::default());
    churn(&store, &mut model, 0..1000).await;
    let mut watches = Vec::new();
    for _ in 0..5 {
        watches.push(store.watch("/", 1).await.unwrap());
    }
    let mut seen = vec![Vec::new(); watches.len()];
    for part in 0..100 {
        // Writers and slow readers take turns.
        churn(&store, &mut model, 1000 + part * 10..1010 + part * 10).await;
        for (watch, seen) in watches.iter_mut().zip(&mut seen) {
            if let Ok(batch) = watch.events.try_recv() {
                seen.extend(batch.unwrap().iter().map(Event::revision));
            }
        }
    }
    let expected: Vec<u64> = model.changes.iter().map(|(r, ..)| *r).collect();
    for (mut watch, mut seen) in watches.into_iter().zip(seen) {
        while seen.len() < expected.len() {
            let batch = watch.events.recv().await.unwrap().unwrap();
            seen.extend(batch.iter().map(Event::revision));
        }
        assert_eq!(seen, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_whose_past_is_recycled_while_it_reads_is_ended() {
    let mut setup = Setup::new(16 << 10);
    setup.history_bytes = 32 << 10;
    let mut model = Model::default();
    let store = setup.open(&Metrics::default());
    churn(&store, &mut model, 0..300).await;
    let from = match store.watch("/", 1).await {
        Ok(_) => 1,
        Err(Error::Compacted { oldest, .. }) => oldest,
        Err(other) => panic!("{other}"),
    };
    let mut watch = store.watch("/", from).await.unwrap();
    // The watch has not been polled: its past goes before it is read.
    churn(&store, &mut model, 300..2000).await;
    let (mut last, mut ended) = (from, false);
    while let Some(batch) = watch.events.recv().await {
        match batch {
            Ok(events) => {
                for event in events {
                    let expected = model.then.range(last + 1..).next().unwrap().0;
                    assert_eq!(event.revision(), *expected, "nothing is left out");
                    last = event.revision();
                }
            }
            Err(Error::Compacted { .. }) => ended = true,
            Err(other) => panic!("{other}"),
        }
        if last == store.revision() {
            break;
        }
    }
    assert!(ended || last == store.revision());
}

#[tokio::test(start_paused = true)]
async fn damage_in_a_segment_of_the_past_is_told_and_harms_nothing_else() {
    let setup = Setup::new(u64::MAX);
    let mut model = Model::default();
    let store = setup.open(&Metrics::default());
    churn(&store, &mut model, 0..300).await;
    setup
        .disk
        .edit(Path::new("/s/log-0000000000000001"), |data| {
            data[600] ^= 0xff;
        });
    let mut watch = store.watch("/", 1).await.unwrap();
    let told = loop {
        match watch.events.recv().await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&told, Error::Damaged(why) if why.contains("log-")),
        "{told}"
    );
    churn(&store, &mut model, 300..320).await;
    check(&store, &model, store.revision() - 10).await;
}

/// Counts what is handed to other threads.
struct Counted(AtomicUsize);

impl Spawn for Counted {
    fn spawn(&self, name: &'static str, job: Box<dyn FnOnce() + Send>) -> Result<(), String> {
        if name == "store-history" {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        store::Threads.spawn(name, job)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_on_the_real_disk_is_read_by_threads() {
    let dir = tempfile::tempdir().unwrap();
    let spawn = Arc::new(Counted(AtomicUsize::new(0)));
    let mut options = Setup::new(64 << 10).options();
    options.spawn = Some(spawn.clone());
    options.segment_bytes = 16 << 10;
    let disk = Arc::new(world::disk::RealDisk);
    let store = Embedded::open(disk, dir.path(), options.clone(), &Metrics::default()).unwrap();
    let mut model = Model::default();
    churn(&store, &mut model, 0..500).await;
    check(&store, &model, 450).await;
    let mut watch = store.watch("/", 1).await.unwrap();
    assert_eq!(
        next(&mut watch, model.changes.len()).await.len(),
        model.changes.len()
    );
    assert!(spawn.0.load(Ordering::Relaxed) > 0);
    store.close().await.unwrap();
}

/// What memory holds for 10,000 Pods' worth of updates: positions only.
#[tokio::test(start_paused = true)]
async fn memory_keeps_positions_not_versions() {
    let mut setup = Setup::new(1 << 20);
    setup.window.bytes = 64 << 10;
    let metrics = Metrics::default();
    let mut options = setup.options();
    options.segment_bytes = 1 << 20;
    let weights = Arc::new(Weights::default());
    options.indexer = weights.clone();
    let disk = Arc::new(setup.disk.clone());
    let store = Embedded::open(disk, Path::new("/s"), options, &metrics).unwrap();
    let body = "y".repeat(4000);
    for update in 0..6 {
        for pod in 0..200 {
            let stored = format!(r#"{{"metadata":{{"name":"{pod}"}},"u":{update},"b":"{body}"}}"#);
            let op = Op::Put {
                key: format!("/pods/{pod}"),
                stored: Bytes::from(stored),
                rv_offset: Some(13),
                expire_after: None,
            };
            store
                .txn(Txn {
                    ops: vec![op],
                    ..Txn::default()
                })
                .await
                .unwrap();
        }
    }
    assert_eq!(metric(&metrics, "skiff_store_history"), 1200);
    let held = weights.alive.load(Ordering::Relaxed);
    assert!(
        held <= 200 + 20,
        "{held} versions are in memory: the current ones, and 64 KiB of the newest before them"
    );
    let mut watch = store.watch("/pods/", 1).await.unwrap();
    assert_eq!(next(&mut watch, 1200).await.len(), 1200);
}

/// Counts the versions that are in memory, by what is kept beside them.
#[derive(Default)]
struct Weights {
    alive: Arc<AtomicUsize>,
}

struct Weight(Arc<AtomicUsize>);

impl Drop for Weight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Indexer for Weights {
    fn index(&self, _: &str, _: &[u8]) -> Beside {
        self.alive.fetch_add(1, Ordering::Relaxed);
        Arc::new(Weight(self.alive.clone()))
    }
}

#[tokio::test(start_paused = true)]
async fn one_damaged_checkpoint_costs_history_at_most() {
    for which in ["oldest", "newest"] {
        let setup = Setup::new(16 << 10);
        let mut model = Model::default();
        let store = setup.open(&Metrics::default());
        churn(&store, &mut model, 0..600).await;
        let first = *model.then.keys().next().unwrap();
        store.compact(first).await.unwrap();
        store.close().await.unwrap();
        drop(store);
        let mut checkpoints: Vec<_> = setup
            .disk
            .everything()
            .into_iter()
            .map(|(path, _)| path)
            .filter(|p| p.to_string_lossy().contains("checkpoint-"))
            .collect();
        checkpoints.sort();
        assert!(checkpoints.len() > 2, "{checkpoints:?}");
        let harmed = match which {
            "oldest" => checkpoints.remove(0),
            _ => checkpoints.pop().unwrap(),
        };
        setup.disk.edit(&harmed, |data| {
            let middle = data.len() / 2;
            data[middle] ^= 0xff;
        });
        let store = setup.open(&Metrics::default());
        let all = store.range("/", None, None, 0).await.unwrap();
        let found: Vec<_> = all.entries.iter().map(|e| text(e)).collect();
        let expected: Vec<_> = model.now.values().map(|(_, v)| v.clone()).collect();
        assert_eq!(found, expected, "the {which} checkpoint is damaged");
        let last = store.revision();
        check(&store, &model, last).await;
    }
}
