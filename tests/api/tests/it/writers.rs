//! Many at once on one object: no write is lost, and whoever watches sees each of them once and in order.

use std::sync::Arc;
use std::time::Duration;

use client::resource::kinds;
use client::{Client, Error};
use serde_json::{Value, json};
use test_support::Server;
use tokio::task::JoinSet;

const WRITERS: usize = 64;
const MAP: &str = "/api/v1/namespaces/default/configmaps/counter";

async fn counter(server: &Server) {
    let object = json!({"metadata": {"name": "counter"}, "data": {"n": "0"}});
    let _ = server
        .send("POST", "/api/v1/namespaces/default/configmaps", &object)
        .await
        .ok();
}

async fn count(server: &Server) -> u64 {
    number(&server.send("GET", MAP, &Value::Null).await.ok())
}

fn number(map: &Value) -> u64 {
    map["data"]["n"].as_str().unwrap().parse().unwrap()
}

/// Runs `write(server, writer)` for every writer at once.
async fn all<F: Future<Output = ()> + Send + 'static>(write: impl Fn(usize) -> F) {
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write(writer));
    }
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_put_is_lost() {
    const EACH: u64 = 10;
    let server = Arc::new(Server::start().await);
    counter(&server).await;
    all(|_| {
        let server = server.clone();
        async move {
            for _ in 0..EACH {
                loop {
                    let mut map = server.send("GET", MAP, &Value::Null).await.ok();
                    map["data"]["n"] = (number(&map) + 1).to_string().into();
                    let answer = server.send("PUT", MAP, &map).await;
                    match answer.code {
                        200 => break,
                        409 => assert_eq!(answer.body["reason"], "Conflict"),
                        _ => panic!("{}", answer.status()),
                    }
                }
            }
        }
    })
    .await;
    assert_eq!(count(&server).await, WRITERS as u64 * EACH);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_tested_json_patch_is_lost() {
    const EACH: u64 = 5;
    let server = Arc::new(Server::start().await);
    counter(&server).await;
    let json_patch = [("content-type", "application/json-patch+json")];
    all(|_| {
        let server = server.clone();
        async move {
            for _ in 0..EACH {
                loop {
                    let seen = count(&server).await;
                    let patch = json!([
                        {"op": "test", "path": "/data/n", "value": seen.to_string()},
                        {"op": "replace", "path": "/data/n", "value": (seen + 1).to_string()},
                    ]);
                    let answer = server
                        .raw(
                            test_support::api_server::ADMIN,
                            "PATCH",
                            MAP,
                            &json_patch,
                            patch.to_string(),
                        )
                        .await;
                    match answer.code {
                        200 => break,
                        // The test did not hold any more.
                        422 => {}
                        _ => panic!("{}", answer.status()),
                    }
                }
            }
        }
    })
    .await;
    assert_eq!(count(&server).await, WRITERS as u64 * EACH);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_applied_key_and_no_merged_key_is_lost() {
    let server = Arc::new(Server::start().await);
    counter(&server).await;
    all(|writer| {
        let server = server.clone();
        async move {
            for round in 0..5 {
                let (key, value) = (format!("k{writer}"), round.to_string());
                let configuration = json!({
                    "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "counter"}, "data": {(key): value},
                });
                let path = format!("{MAP}?fieldManager=w{writer}");
                let apply = [("content-type", "application/apply-patch+yaml")];
                let admin = test_support::api_server::ADMIN;
                let _ = server.raw(admin, "PATCH", &path, &apply, configuration.to_string()).await.ok();
                let merge = [("content-type", "application/merge-patch+json")];
                let patch = json!({"data": {(format!("m{writer}")): value}});
                let _ = server.raw(admin, "PATCH", MAP, &merge, patch.to_string()).await.ok();
            }
        }
    })
    .await;
    let map = server.send("GET", MAP, &Value::Null).await.ok();
    for writer in 0..WRITERS {
        for key in [format!("k{writer}"), format!("m{writer}")] {
            assert_eq!(map["data"][&key], "4", "{key}");
        }
    }
    let managers = map["metadata"]["managedFields"].as_array().unwrap();
    let applied = managers.iter().filter(|m| m["operation"] == "Apply");
    assert_eq!(applied.count(), WRITERS);
}

/// What a watcher must have seen of each object: versions 1, 2, 3 … without a gap, none twice.
#[derive(Default)]
struct Seen {
    revision: u64,
    versions: std::collections::BTreeMap<String, u64>,
    events: u64,
}

impl Seen {
    fn event(&mut self, line: &[u8]) {
        let event: Value = serde_json::from_slice(line).unwrap();
        if event["type"] == "BOOKMARK" {
            return;
        }
        let meta = &event["object"]["metadata"];
        let revision: u64 = meta["resourceVersion"].as_str().unwrap().parse().unwrap();
        assert!(
            revision > self.revision,
            "{revision} after {}: {event}",
            self.revision
        );
        self.revision = revision;
        let name = meta["name"].as_str().unwrap().to_owned();
        let version: u64 = event["object"]["data"]["n"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        let last = self.versions.entry(name).or_default();
        assert_eq!(version, *last + 1, "{event}");
        *last = version;
        self.events += 1;
    }
}

/// Follows the ConfigMaps from the beginning until `changes` events were seen. A watch that ends, as each does now and
/// then, is started anew at the last revision.
async fn follow(client: Client, from: u64, changes: u64) {
    let mut seen = Seen {
        revision: from,
        ..Seen::default()
    };
    while seen.events < changes {
        let path = format!(
            "/api/v1/namespaces/watched/configmaps?watch=true&allowWatchBookmarks=true&resourceVersion={}",
            seen.revision
        );
        let mut watch = client.watch(&path).await.unwrap();
        while seen.events < changes {
            let Some(line) = watch.next_line().await.unwrap() else {
                break;
            };
            client::watch::WatchStream::decode(&line).unwrap();
            seen.event(&line);
        }
    }
}

/// Creates an object and changes it until it has this many versions, with a pause before each.
async fn write(client: &Client, name: &str, versions: u64, pause: Option<Duration>) {
    let mut ticks = pause.map(tokio::time::interval);
    for version in 1..=versions {
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        let map = json!({"metadata": {"name": name}, "data": {"n": version.to_string()}});
        let written: Result<Value, Error> = if version == 1 {
            client.create(&kinds::CONFIG_MAPS, "watched", &map).await
        } else {
            client
                .update(&kinds::CONFIG_MAPS, "watched", name, "", &map)
                .await
        };
        written.unwrap();
    }
}

/// `objects` writers change an object each, `per_second` times together; all `watchers` see all of it.
async fn soak(watchers: usize, objects: u64, per_second: u64, lasting: Duration) {
    let server = Server::start().await;
    server.namespace("watched").await;
    let maps = server
        .send("GET", "/api/v1/namespaces/watched/configmaps", &Value::Null)
        .await
        .ok();
    let from = maps["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let each = lasting.as_secs() * per_second / objects;
    let client = server.https().await;
    let mut tasks = JoinSet::new();
    for _ in 0..watchers {
        tasks.spawn(follow(client.clone(), from, each * objects));
    }
    for object in 0..objects {
        let client = server.admin();
        let pause = Duration::from_millis(1000 * objects / per_second);
        tasks.spawn(async move {
            write(&client, &format!("object-{object}"), each, Some(pause)).await;
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn a_watcher_that_falls_behind_misses_nothing() {
    const CHANGES: u64 = 3000;
    let server = Server::start().await;
    server.namespace("watched").await;
    let client = server.admin();
    let path = "/api/v1/namespaces/watched/configmaps?watch=true&resourceVersion=1";
    let mut watch = client.watch(path).await.unwrap();
    // Nobody reads meanwhile.
    write(&client, "counter", CHANGES, None).await;
    let mut seen = Seen::default();
    while seen.events < CHANGES {
        let line = watch.next_line().await.unwrap().unwrap();
        client::watch::WatchStream::decode(&line).unwrap();
        seen.event(&line);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_watchers_see_every_event_once_and_in_order() {
    soak(100, 20, 200, Duration::from_secs(4)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "ten minutes: make nightly"]
async fn a_hundred_watchers_see_every_event_for_ten_minutes() {
    soak(100, 20, 200, Duration::from_secs(600)).await;
}
