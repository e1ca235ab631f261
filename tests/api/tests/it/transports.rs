//! The client over both of its transports: what works in the process works over HTTPS.

use client::resource::kinds::CONFIG_MAPS;
use client::{Client, DeleteOptions, PatchKind};
use serde_json::{Value, json};
use test_support::Server;

async fn the_verbs(client: &Client) {
    let namespace = "default";
    let object = json!({"metadata": {"name": "a"}, "data": {"x": "1"}});
    let created: Value = client
        .create(&CONFIG_MAPS, namespace, &object)
        .await
        .unwrap();
    let from = created["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    let again = client
        .create::<Value>(&CONFIG_MAPS, namespace, &object)
        .await
        .unwrap_err();
    assert!(again.is_already_exists(), "{again}");
    let mut changed = created.clone();
    changed["data"]["x"] = "2".into();
    let changed: Value = client
        .update(&CONFIG_MAPS, namespace, "a", "", &changed)
        .await
        .unwrap();
    let stale = client
        .update::<Value>(&CONFIG_MAPS, namespace, "a", "", &created)
        .await
        .unwrap_err();
    assert!(stale.is_conflict(), "{stale}");
    let patch = json!({"data": {"y": "3"}});
    let patched: Value = client
        .patch(&CONFIG_MAPS, namespace, "a", "", PatchKind::Merge, &patch)
        .await
        .unwrap();
    assert_eq!(patched["data"], json!({"x": "2", "y": "3"}));
    let list = client
        .list::<Value>(&CONFIG_MAPS, namespace, "limit=1")
        .await
        .unwrap();
    assert_eq!(list.items.len(), 1);
    assert_eq!(list.items[0], patched);

    let path = format!(
        "{}?watch=true&resourceVersion={from}",
        CONFIG_MAPS.path(namespace, "", "")
    );
    let mut watch = client.watch(&path).await.unwrap();
    let wrong = DeleteOptions::default().with_uid("other");
    assert!(
        client
            .delete(&CONFIG_MAPS, namespace, "a", &wrong)
            .await
            .unwrap_err()
            .is_conflict()
    );
    client
        .delete(&CONFIG_MAPS, namespace, "a", &DeleteOptions::default())
        .await
        .unwrap();
    let gone = client
        .get::<Value>(&CONFIG_MAPS, namespace, "a")
        .await
        .unwrap_err();
    assert!(gone.is_not_found(), "{gone}");
    let mut seen = Vec::new();
    for _ in 0..3 {
        let line = watch.next_line().await.unwrap().unwrap();
        let event: Value = serde_json::from_slice(&line).unwrap();
        seen.push((
            event["type"].clone(),
            event["object"]["metadata"]["resourceVersion"].clone(),
        ));
    }
    let versions = [
        &changed["metadata"]["resourceVersion"],
        &patched["metadata"]["resourceVersion"],
    ];
    assert_eq!(seen[0], (json!("MODIFIED"), versions[0].clone()));
    assert_eq!(seen[1], (json!("MODIFIED"), versions[1].clone()));
    assert_eq!(seen[2].0, "DELETED");
}

#[tokio::test(start_paused = true)]
async fn the_verbs_inside_the_process() {
    let server = Server::start().await;
    the_verbs(&server.admin()).await;
}

#[tokio::test]
async fn the_verbs_over_https() {
    let server = Server::start().await;
    the_verbs(&server.https().await).await;
}

#[tokio::test]
async fn many_watches_keep_no_request_waiting() {
    let server = Server::start().await;
    let client = server.https().await;
    let path = format!("{}?watch=true", CONFIG_MAPS.path("default", "", ""));
    // More than one connection may carry.
    let mut watches = Vec::new();
    for _ in 0..150 {
        watches.push(client.watch(&path).await.unwrap());
    }
    let object = json!({"metadata": {"name": "a"}});
    let made = client.create::<Value>(&CONFIG_MAPS, "default", &object);
    let made = tokio::time::timeout(std::time::Duration::from_secs(10), made).await;
    made.expect("there is room").unwrap();
    for mut watch in watches {
        let event = watch.next_line().await.unwrap().unwrap();
        assert!(std::str::from_utf8(&event).unwrap().contains("ADDED"));
    }
}
