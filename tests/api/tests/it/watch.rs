//! Watches: complete, in order, selected.

use client::{ObjectMeta, Resource, View};
use serde_json::{Value, json};
use test_support::Server;

const PATH: &str = "/api/v1/namespaces/default/configmaps";

async fn next(stream: &mut client::watch::WatchStream) -> (String, Value) {
    let line = stream
        .next_line()
        .await
        .unwrap()
        .expect("the watch goes on");
    let event: Value = serde_json::from_slice(&line).unwrap();
    let name = event["object"]["metadata"]["name"]
        .as_str()
        .unwrap_or("")
        .to_owned();
    (
        format!("{} {name}", event["type"].as_str().unwrap()),
        event["object"].clone(),
    )
}

fn labelled(name: &str, label: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"x": label}}})
}

#[tokio::test(start_paused = true)]
async fn an_object_that_leaves_the_selection_is_deleted_for_its_watcher() {
    let server = Server::start().await;
    let mut stream = server
        .admin()
        .watch(&format!("{PATH}?watch=true&labelSelector=x%3Dyes"))
        .await
        .unwrap();
    drop(server.send("POST", PATH, &labelled("a", "no")).await.ok());
    drop(server.send("POST", PATH, &labelled("b", "yes")).await.ok());
    assert_eq!(next(&mut stream).await.0, "ADDED b");
    drop(
        server
            .send("PUT", &format!("{PATH}/a"), &labelled("a", "yes"))
            .await
            .ok(),
    );
    assert_eq!(next(&mut stream).await.0, "ADDED a");
    let left = server
        .send("PUT", &format!("{PATH}/b"), &labelled("b", "no"))
        .await
        .ok();
    let (event, object) = next(&mut stream).await;
    assert_eq!(event, "DELETED b");
    assert_eq!(
        object["metadata"]["labels"]["x"], "yes",
        "the last version that was selected"
    );
    assert_eq!(
        object["metadata"]["resourceVersion"],
        left["metadata"]["resourceVersion"]
    );
    drop(
        server
            .send("DELETE", &format!("{PATH}/a"), &Value::Null)
            .await
            .ok(),
    );
    assert_eq!(next(&mut stream).await.0, "DELETED a");
}

#[tokio::test(start_paused = true)]
async fn a_watch_from_a_revision_repeats_nothing_and_misses_nothing() {
    let server = Server::start().await;
    let first = server.send("POST", PATH, &labelled("a", "1")).await.ok();
    let from = first["metadata"]["resourceVersion"].as_str().unwrap();
    drop(
        server
            .send("PUT", &format!("{PATH}/a"), &labelled("a", "2"))
            .await
            .ok(),
    );
    drop(
        server
            .send("DELETE", &format!("{PATH}/a"), &Value::Null)
            .await
            .ok(),
    );
    let mut stream = server
        .admin()
        .watch(&format!("{PATH}?watch=true&resourceVersion={from}"))
        .await
        .unwrap();
    let (event, object) = next(&mut stream).await;
    assert_eq!(
        (event.as_str(), &object["metadata"]["labels"]["x"]),
        ("MODIFIED a", &json!("2"))
    );
    assert_eq!(next(&mut stream).await.0, "DELETED a");
    let mut future = server
        .admin()
        .watch(&format!("{PATH}?watch=true&resourceVersion=999999"))
        .await
        .unwrap();
    let (event, status) = next(&mut future).await;
    assert_eq!((event.trim(), &status["code"]), ("ERROR", &json!(410)));
}

#[tokio::test(start_paused = true)]
async fn initial_events_end_with_a_marked_bookmark() {
    let server = Server::start().await;
    drop(server.send("POST", PATH, &labelled("a", "1")).await.ok());
    let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut stream = server
        .admin()
        .watch(&format!("{PATH}?{query}"))
        .await
        .unwrap();
    assert_eq!(next(&mut stream).await.0, "ADDED a");
    let (event, object) = next(&mut stream).await;
    assert_eq!(event.trim(), "BOOKMARK");
    assert_eq!(
        object["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    let wrong = server
        .send(
            "GET",
            &format!("{PATH}?watch=true&sendInitialEvents=true"),
            &Value::Null,
        )
        .await;
    assert_eq!(wrong.code, 422);
}

#[derive(serde::Deserialize)]
struct ConfigMap {
    metadata: ObjectMeta,
}

impl View for ConfigMap {
    const RESOURCE: Resource = client::resource::kinds::CONFIG_MAPS;
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

#[tokio::test(start_paused = true)]
async fn an_informer_follows_and_tells_its_handlers() {
    let server = Server::start().await;
    drop(server.send("POST", PATH, &labelled("a", "1")).await.ok());
    let informers = client::Informers::new(server.admin(), server.shutdown.clone());
    let informer = informers.select::<ConfigMap>(client::Selector {
        namespace: "default".into(),
        ..Default::default()
    });
    informer.synced().await;
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    informer.on_change(move |change| {
        let what = match (&change.old, &change.new) {
            (None, Some(_)) => "added",
            (Some(_), Some(_)) => "changed",
            _ => "gone",
        };
        told.send(format!("{what} {}", change.key)).unwrap();
    });
    assert_eq!(heard.recv().await.unwrap(), "added default/a");
    drop(
        server
            .send("PUT", &format!("{PATH}/a"), &labelled("a", "2"))
            .await
            .ok(),
    );
    assert_eq!(heard.recv().await.unwrap(), "changed default/a");
    drop(
        server
            .send("DELETE", &format!("{PATH}/a"), &Value::Null)
            .await
            .ok(),
    );
    assert_eq!(heard.recv().await.unwrap(), "gone default/a");
    assert!(informer.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_bookmark_tells_the_revision_of_a_quiet_kind_too() {
    let server = Server::start().await;
    // A time that no clock reaches ends nothing.
    let query = "watch=true&allowWatchBookmarks=true&timeoutSeconds=9223372036854775807";
    let mut stream = server
        .admin()
        .watch(&format!("{PATH}?{query}"))
        .await
        .unwrap();
    let secret = json!({"metadata": {"name": "s"}});
    let path = "/api/v1/namespaces/default/secrets";
    let made = server.send("POST", path, &secret).await.ok();
    let made: u64 = made["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let (event, object) = next(&mut stream).await;
    assert_eq!(event.trim(), "BOOKMARK");
    let told: u64 = object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(told >= made, "{told} {made}");
}

/// A view that cannot be made of every ConfigMap.
#[derive(serde::Deserialize)]
struct Numbers {
    metadata: ObjectMeta,
    data: std::collections::BTreeMap<String, Number>,
}

#[derive(serde::Deserialize)]
#[serde(try_from = "String")]
struct Number(i64);

impl TryFrom<String> for Number {
    type Error = std::num::ParseIntError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

impl View for Numbers {
    const RESOURCE: Resource = client::resource::kinds::CONFIG_MAPS;
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_is_not_taken_for_deleted() {
    let server = Server::start().await;
    let map = |n: &str| json!({"metadata": {"name": "a"}, "data": {"n": n}});
    drop(server.send("POST", PATH, &map("1")).await.ok());
    let default = client::Selector {
        namespace: "default".into(),
        fields: "metadata.name=a".into(),
        ..client::Selector::default()
    };
    let informers = client::Informers::new(server.admin(), server.shutdown.clone());
    let numbers = informers.select::<Numbers>(default.clone());
    numbers.synced().await;
    let path = format!("{PATH}/a");
    drop(server.send("PUT", &path, &map("one")).await.ok());
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(numbers.get("default/a").unwrap().data["n"].0, 1);
    assert!(numbers.is_complete());
    // Who never saw it in better days knows that something is there.
    let later = client::Informers::new(server.admin(), server.shutdown.clone());
    let later = later.select::<Numbers>(default);
    later.synced().await;
    assert!(later.get("default/a").is_none() && !later.is_complete());
    drop(server.send("PUT", &path, &map("2")).await.ok());
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(later.get("default/a").unwrap().data["n"].0, 2);
    assert!(later.is_complete());
    drop(server.send("DELETE", &path, &Value::Null).await.ok());
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(numbers.get("default/a").is_none() && later.get("default/a").is_none());
}
