//! The embedded engine: damaged logs, failing disks, time, secrets, threads.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use store::{Compare, Seal, Threads};
use world::clock::TokioClock;
use world::disk::{Op as DiskOp, RealDisk};

use super::*;

/// The log's segments, oldest first.
fn segments(disk: &FaultyDisk) -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> = disk
        .everything()
        .into_iter()
        .map(|(path, _)| path)
        .collect();
    names.retain(|p| p.file_name().unwrap().to_string_lossy().starts_with("log-"));
    names.sort();
    names
}

/// Where the last group of a segment starts: the last multiple of 8 at which something other than zeros begins after
/// a group's head. Groups are found by the magic that starts each of them.
fn group_starts(data: &[u8]) -> Vec<usize> {
    let magic: [u8; 4] = data[64..68].try_into().unwrap();
    (64..data.len() - 4)
        .step_by(8)
        .filter(|at| data[*at..*at + 4] == magic)
        .collect()
}

async fn filled(disk: &FaultyDisk) -> u64 {
    let mut options = Options::new(Arc::new(NoIndex), Arc::new(Unsealed), Arc::new(SystemClock));
    options.spawn = None;
    let store = Embedded::open(
        Arc::new(disk.clone()),
        Path::new("/s"),
        options,
        &Metrics::default(),
    )
    .unwrap();
    let mut last = 0;
    for i in 0..10 {
        last = put(&store, &format!("/a/{i}")).await.unwrap();
    }
    // Dropped without a close: as after a crash.
    last
}

async fn count(disk: &FaultyDisk) -> usize {
    let store = open(disk).unwrap();
    store
        .range("/a/", None, None, 0)
        .await
        .unwrap()
        .entries
        .len()
}

#[tokio::test]
async fn a_torn_zeroed_or_truncated_tail_opens_at_the_last_whole_group() {
    type Harm = fn(&mut Vec<u8>, usize);
    let harms: [(&str, Harm); 4] = [
        ("torn", |data, at| data[at + 60] ^= 0xff),
        ("zeroed", |data, at| data[at..].fill(0)),
        ("half zeroed", |data, at| data[at + 40..].fill(0)),
        ("truncated", |data, at| data.truncate(at + 20)),
    ];
    for (name, harm) in harms {
        let disk = FaultyDisk::new();
        filled(&disk).await;
        let segment = segments(&disk).pop().unwrap();
        disk.edit(&segment, |data| {
            let at = *group_starts(data).last().unwrap();
            harm(data, at);
        });
        assert_eq!(count(&disk).await, 9, "{name}: only the last group is gone");
    }
}

#[tokio::test]
async fn damage_before_the_tail_is_refused_with_the_place() {
    let disk = FaultyDisk::new();
    filled(&disk).await;
    let segment = segments(&disk).pop().unwrap();
    disk.edit(&segment, |data| {
        let at = group_starts(data)[3];
        data[at + 60] ^= 0xff;
    });
    let error = open(&disk).err().expect("damage is refused").to_string();
    assert!(error.contains("log-"), "{error}");
}

#[tokio::test]
async fn a_log_that_lost_what_the_newest_checkpoint_continues_is_refused() {
    // After some of these many restarts, the newest checkpoint continues in a segment that has notes of restarts alone, so
    // that an older one and the segments before show the same revision.
    for restarts in 1..20 {
        let disk = FaultyDisk::new();
        let open = || {
            let mut options =
                Options::new(Arc::new(NoIndex), Arc::new(Unsealed), Arc::new(SystemClock));
            options.spawn = None;
            (options.segment_bytes, options.checkpoint_bytes) = (4096, 1024);
            let disk = Arc::new(disk.clone());
            Embedded::open(disk, Path::new("/s"), options, &Metrics::default())
        };
        let mut store = open().unwrap();
        for (write, restarts) in [(0, 0), (1, 0), (2, 1), (3, 15), (4, restarts)] {
            let op = Op::Put {
                key: format!("/a/{write}"),
                stored: vec![b'x'; if write < 3 { 300 } else { 10 }].into(),
                rv_offset: None,
                expire_after: None,
            };
            let txn = Txn {
                ops: vec![op],
                ..Txn::default()
            };
            store.txn(txn).await.unwrap();
            for _ in 0..restarts {
                store.close().await.unwrap();
                drop(store);
                store = open().unwrap();
            }
        }
        store.close().await.unwrap();
        drop(store);
        disk.crash(0);
        disk.edit(&segments(&disk).pop().unwrap(), Vec::clear);
        let all = disk.everything().into_iter().map(|(path, _)| path);
        let oldest = all
            .filter(|p| p.to_string_lossy().contains("checkpoint-"))
            .min();
        disk.edit(&oldest.unwrap(), Vec::clear);
        // Whatever it opens with, what is acknowledged from then on stays.
        match open() {
            Ok(store) => {
                put(&store, "/new").await.unwrap();
                drop(store);
                disk.crash(0);
                let kept = open().unwrap().get("/new").await.unwrap();
                assert!(
                    kept.is_some(),
                    "an acknowledged write after {restarts} restarts is gone"
                );
            }
            Err(Error::Damaged(_)) => {}
            Err(why) => panic!("{why}"),
        }
    }
}

#[tokio::test]
async fn revisions_are_never_used_twice() {
    let disk = FaultyDisk::new();
    let mut last = filled(&disk).await;
    for round in 0..5 {
        disk.crash(round);
        let store = open(&disk).unwrap();
        let next = put(&store, "/a/next").await.unwrap();
        assert!(next > last, "round {round}: {next} after {last}");
        last = next;
    }
    // After a clean close nothing is skipped.
    let store = open(&disk).unwrap();
    let before = put(&store, "/a/x").await.unwrap();
    store.close().await.unwrap();
    assert!(matches!(put(&store, "/a/y").await, Err(Error::Closed)));
    drop(store);
    let store = open(&disk).unwrap();
    assert_eq!(put(&store, "/a/z").await.unwrap(), before + 1);
}

#[tokio::test]
async fn a_full_disk_fails_the_write_and_nothing_else() {
    let disk = FaultyDisk::new();
    let store = open(&disk).unwrap();
    put(&store, "/a/before").await.unwrap();
    disk.set_full(true);
    let mut failed = 0;
    for i in 0..200 {
        // Preallocated space can still be written; then the disk takes no more.
        if matches!(put(&store, &format!("/a/{i}")).await, Err(Error::Disk(_))) {
            failed += 1;
            assert!(
                store.get(&format!("/a/{i}")).await.unwrap().is_none(),
                "what failed is not there"
            );
        }
    }
    assert!(failed > 0);
    assert!(store.get("/a/before").await.unwrap().is_some());
    disk.set_full(false);
    put(&store, "/a/after")
        .await
        .expect("it goes on when there is room");
}

#[tokio::test]
async fn after_a_failed_sync_nothing_more_is_acknowledged() {
    let disk = FaultyDisk::new();
    let store = open(&disk).unwrap();
    put(&store, "/a/1").await.unwrap();
    disk.fail_next(DiskOp::Sync, 5);
    assert!(matches!(put(&store, "/a/2").await, Err(Error::Disk(_))));
    assert!(
        matches!(put(&store, "/a/3").await, Err(Error::Disk(_))),
        "a sync that failed once cannot be trusted again"
    );
    assert!(store.get("/a/1").await.unwrap().is_some());
}

#[tokio::test]
async fn one_sync_makes_a_whole_group_durable() {
    let metrics = Metrics::default();
    let disk = FaultyDisk::new();
    let options = Options::new(Arc::new(NoIndex), Arc::new(Unsealed), Arc::new(SystemClock));
    let store = Arc::new(
        Embedded::open(Arc::new(disk.clone()), Path::new("/s"), options, &metrics).unwrap(),
    );
    let writers = (0..64).map(|w| {
        let store = store.clone();
        tokio::spawn(async move {
            for i in 0..20 {
                put(&*store, &format!("/a/{w}-{i}")).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let value = |name: &str| -> u64 {
        let text = metrics.render();
        let line = text
            .lines()
            .find(|l| l.starts_with(name) && !l.starts_with('#'))
            .unwrap_or("x 0");
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let (groups, txns) = (
        value("skiff_store_groups_total"),
        value("skiff_store_txns_total"),
    );
    assert_eq!(txns, 64 * 20);
    assert!(groups < txns / 2, "{groups} groups for {txns} transactions");
    assert!(
        value("skiff_store_fsyncs_total") <= groups + 8,
        "one sync a group, and those of new segments"
    );
    store.close().await.unwrap();
}

/// Turns every byte around.
struct Mirror;

impl Seal for Mirror {
    fn seal(&self, key: &str, plain: &[u8]) -> Result<Option<Vec<u8>>, String> {
        Ok(key
            .starts_with("/secrets/")
            .then(|| plain.iter().map(|b| !b).collect()))
    }

    fn open(&self, key: &str, sealed: Bytes) -> Result<Bytes, String> {
        Ok(if key.starts_with("/secrets/") {
            sealed.iter().map(|b| !b).collect()
        } else {
            sealed
        })
    }
}

#[tokio::test]
async fn sealed_values_are_nowhere_in_the_clear() {
    let disk = FaultyDisk::new();
    let reopen = || {
        let mut options = Options::new(Arc::new(NoIndex), Arc::new(Mirror), Arc::new(SystemClock));
        (
            options.spawn,
            options.checkpoint_bytes,
            options.segment_bytes,
        ) = (None, 4096, 4096);
        Embedded::open(
            Arc::new(disk.clone()),
            Path::new("/s"),
            options,
            &Metrics::default(),
        )
        .unwrap()
    };
    let store = reopen();
    let stored = || Bytes::from_static(br#"{"metadata":{"name":"a"},"data":"hunter2"}"#);
    for i in 0..100 {
        let op = Op::Put {
            key: format!("/secrets/{i}"),
            stored: stored(),
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
    store.close().await.unwrap();
    let contains = |what: &[u8]| {
        disk.everything()
            .iter()
            .any(|(_, data)| data.windows(what.len()).any(|w| w == what))
    };
    assert!(!contains(b"hunter2"));
    assert!(
        contains(b"/secrets/99"),
        "the search finds what is not sealed"
    );
    let read = reopen().get("/secrets/7").await.unwrap().unwrap();
    assert_eq!(read.stored(), stored());
}

#[tokio::test(start_paused = true)]
async fn what_expires_goes_in_time_also_across_a_restart() {
    let disk = FaultyDisk::new();
    let clock = Arc::new(TokioClock::starting_at(jiff::Timestamp::constant(
        1_767_225_600,
        0,
    )));
    let reopen = || {
        let mut options = Options::new(Arc::new(NoIndex), Arc::new(Unsealed), clock.clone());
        options.spawn = None;
        Embedded::open(
            Arc::new(disk.clone()),
            Path::new("/s"),
            options,
            &Metrics::default(),
        )
        .unwrap()
    };
    let put_for = async |store: &Embedded, key: &str, seconds: u64| {
        let stored = Bytes::from_static(br#"{"metadata":{"name":"a"}}"#);
        let expire_after = Some(Duration::from_secs(seconds));
        let op = Op::Put {
            key: key.into(),
            stored,
            rv_offset: Some(13),
            expire_after,
        };
        store
            .txn(Txn {
                ops: vec![op],
                ..Txn::default()
            })
            .await
            .unwrap();
    };
    let store = reopen();
    put_for(&store, "/e/short", 60).await;
    put_for(&store, "/e/long", 3600).await;
    let mut watch = store.watch("/e/", store.revision()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(70)).await;
    let events = watch.events.recv().await.unwrap().unwrap();
    assert!(events[0].deleted && &*events[0].entry.key == "/e/short");
    assert!(store.get("/e/short").await.unwrap().is_none());
    store.close().await.unwrap();
    drop(store);
    let store = reopen();
    assert!(store.get("/e/long").await.unwrap().is_some());
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(store.get("/e/long").await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn lazy_writes_cost_no_sync_of_their_own_and_only_they_are_lost() {
    let disk = FaultyDisk::new();
    let store = open(&disk).unwrap();
    put(&store, "/a/1").await.unwrap();
    let syncs = disk.syncs();
    let lazily = async |store: &Embedded, key: &str| {
        let stored = Bytes::from_static(br#"{"metadata":{"name":"a"}}"#);
        let op = Op::Put {
            key: key.into(),
            stored,
            rv_offset: Some(13),
            expire_after: None,
        };
        store
            .txn(Txn {
                ops: vec![op],
                lazy: true,
                ..Txn::default()
            })
            .await
            .unwrap();
    };
    lazily(&store, "/a/lazy").await;
    assert_eq!(disk.syncs(), syncs);
    assert!(
        store.get("/a/lazy").await.unwrap().is_some(),
        "it is seen at once"
    );
    put(&store, "/a/2").await.unwrap();
    lazily(&store, "/a/late").await;
    drop(store);
    disk.crash(1);
    let store = open(&disk).unwrap();
    assert!(
        store.get("/a/lazy").await.unwrap().is_some(),
        "it went with the next group"
    );
    assert!(store.get("/a/2").await.unwrap().is_some());
    assert!(store.get("/a/late").await.unwrap().is_none());
    // By itself it is written within ten minutes.
    lazily(&store, "/a/alone").await;
    tokio::time::sleep(Duration::from_secs(601)).await;
    drop(store);
    disk.crash(2);
    assert!(
        open(&disk)
            .unwrap()
            .get("/a/alone")
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn compares_guard_and_compaction_forgets() {
    let disk = FaultyDisk::new();
    let store = open(&disk).unwrap();
    let first = put(&store, "/a/1").await.unwrap();
    let guarded = |compare| Txn {
        compares: vec![compare],
        ops: vec![Op::Delete { key: "/a/1".into() }],
        ..Txn::default()
    };
    for wrong in [
        Compare::Absent("/a/1".into()),
        Compare::Revision("/a/1".into(), first + 1),
    ] {
        match store.txn(guarded(wrong)).await.unwrap() {
            Outcome::Conflict { current, .. } => {
                assert_eq!(current[0].as_ref().unwrap().revision, first)
            }
            Outcome::Committed { .. } => panic!("the compare does not hold"),
        }
    }
    let Outcome::Committed { revision, entries } = store
        .txn(guarded(Compare::Revision("/a/1".into(), first)))
        .await
        .unwrap()
    else {
        panic!("the compare holds")
    };
    let wire = String::from_utf8_lossy(&entries[0].as_ref().unwrap().wire).into_owned();
    assert!(
        wire.contains(&format!("\"resourceVersion\":\"{revision}\"")),
        "{wire}"
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
    store.compact(revision).await.unwrap();
    assert!(matches!(
        store.range("/a/", None, Some(first), 0).await,
        Err(Error::Compacted { .. })
    ));
    assert!(matches!(
        store.watch("/a/", first).await,
        Err(Error::Compacted { .. })
    ));
}

#[tokio::test]
async fn a_watcher_that_cannot_keep_up_is_ended_not_thinned() {
    let disk = FaultyDisk::new();
    let store = open(&disk).unwrap();
    let mut watch = store.watch("/a/", store.revision()).await.unwrap();
    for i in 0..5000 {
        put(&store, &format!("/a/{}", i % 50)).await.unwrap();
    }
    let (mut last, mut ended) = (0, false);
    while let Some(batch) = watch.events.recv().await {
        match batch {
            Ok(events) => {
                for event in events {
                    assert!(
                        last == 0 || event.revision() == last + 1,
                        "nothing is left out before the end"
                    );
                    last = event.revision();
                }
            }
            Err(Error::Compacted { .. }) => ended = true,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(ended);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_disk_with_threads_keeps_what_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let reopen = || {
        let mut options =
            Options::new(Arc::new(NoIndex), Arc::new(Unsealed), Arc::new(SystemClock));
        options.spawn = Some(Arc::new(Threads));
        (options.segment_bytes, options.checkpoint_bytes) = (64 << 10, 128 << 10);
        Embedded::open(Arc::new(RealDisk), dir.path(), options, &Metrics::default())
    };
    let store = Arc::new(reopen().unwrap());
    assert!(reopen().is_err(), "two processes cannot have it open");
    let writers = (0..16).map(|w| {
        let store = store.clone();
        tokio::spawn(async move {
            for i in 0..100 {
                put(&*store, &format!("/a/{w}-{i}")).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let revision = store.revision();
    store.close().await.unwrap();
    drop(store);
    let store = reopen().unwrap();
    assert_eq!(store.revision(), revision);
    assert_eq!(
        store
            .range("/a/", None, None, 0)
            .await
            .unwrap()
            .entries
            .len(),
        1600
    );
}
