//! What every namespace has: a ServiceAccount `default` and the cluster's root certificate.

use std::sync::Arc;

use client::resource::kinds;
use client::{Change, Client, Error, Informer, View};
use reconcile::{Outcome, Queue};
use serde_json::{Value, json};

use crate::env::{Env, Key, enqueue_changes, settled};
use crate::views::{ConfigMapView, NamespaceView, ServiceAccountView};

const ROOT_CA: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const ABOUT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// Has the namespace of a changed object called `name` looked at.
fn follow<V: View>(informer: &Informer<V>, name: &'static str, queue: &Queue<Key>) {
    let queue = queue.clone();
    informer.on_change(move |change: &Change<V>| {
        let (namespace, changed) = client::meta::split_key(&change.key);
        // What appears is what we made; what changed or went may need making.
        if changed == name && change.old.is_some() {
            queue.add(Arc::from(namespace));
        }
    });
}

fn is_alive(namespaces: &Informer<NamespaceView>, name: &str) -> bool {
    namespaces
        .get(name)
        .is_some_and(|n| n.metadata.deletion_timestamp.is_none())
}

fn made(result: Result<Value, Error>) -> Result<Outcome, Error> {
    match result {
        Err(e) if e.is_already_exists() => Ok(Outcome::Done),
        other => other.map(|_| Outcome::Done),
    }
}

/// Keeps a ServiceAccount `default` in every namespace.
pub(crate) fn start_accounts(env: Env) {
    let namespaces = env.informers.all::<NamespaceView>();
    let accounts = env.informers.all::<ServiceAccountView>();
    let queue = env.queue("serviceaccount");
    enqueue_changes(&namespaces, &queue);
    follow(&accounts, "default", &queue);
    let ready = {
        let (namespaces, accounts) = (namespaces.clone(), accounts.clone());
        async move {
            namespaces.synced().await;
            accounts.synced().await;
        }
    };
    let client = env.client.clone();
    env.run(queue, ready, move |key| {
        let (namespaces, accounts, client) = (namespaces.clone(), accounts.clone(), client.clone());
        async move {
            if !is_alive(&namespaces, &key) || accounts.get(&format!("{key}/default")).is_some() {
                return Outcome::Done;
            }
            let account = json!({
                "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": &*key},
            });
            settled(made(client.create(&kinds::SERVICE_ACCOUNTS, &key, &account).await))
        }
    });
}

/// Keeps the ConfigMap `kube-root-ca.crt` in every namespace.
pub(crate) fn start_root_ca(env: Env, root_ca: String) {
    let namespaces = env.informers.all::<NamespaceView>();
    let maps = env.informers.select::<ConfigMapView>(client::Selector {
        fields: format!("metadata.name={ROOT_CA}"),
        ..client::Selector::default()
    });
    let queue = env.queue("root_ca_cert_publisher");
    enqueue_changes(&namespaces, &queue);
    follow(&maps, ROOT_CA, &queue);
    let ready = {
        let (namespaces, maps) = (namespaces.clone(), maps.clone());
        async move {
            namespaces.synced().await;
            maps.synced().await;
        }
    };
    let client = env.client.clone();
    let root_ca: Arc<str> = root_ca.into();
    env.run(queue, ready, move |key| {
        let (namespaces, maps) = (namespaces.clone(), maps.clone());
        let (client, root_ca) = (client.clone(), root_ca.clone());
        async move {
            if !is_alive(&namespaces, &key) {
                return Outcome::Done;
            }
            settled(publish(&client, &maps, &key, &root_ca).await)
        }
    });
}

async fn publish(
    client: &Client,
    maps: &Informer<ConfigMapView>,
    namespace: &str,
    root_ca: &str,
) -> Result<Outcome, Error> {
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": ROOT_CA, "namespace": namespace, "annotations": {DESCRIPTION: ABOUT}},
        "data": {"ca.crt": root_ca},
    });
    match maps.get(&format!("{namespace}/{ROOT_CA}")) {
        None => made(client.create(&kinds::CONFIG_MAPS, namespace, &map).await),
        Some(current) if current.data.get("ca.crt").map(String::as_str) == Some(root_ca) => {
            Ok(Outcome::Done)
        }
        Some(_) => made(
            client
                .update(&kinds::CONFIG_MAPS, namespace, ROOT_CA, "", &map)
                .await,
        ),
    }
}
