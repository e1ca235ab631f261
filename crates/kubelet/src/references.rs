//! ConfigMaps and Secrets that Pods of this node use, each watched alone (the Node authorizer allows no more) while used.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use client::{Client, Informer, Informers, Selector, View};
use world::Shutdown;

use crate::spec::{ConfigMap, Secret};

enum Watched {
    ConfigMap(Informer<ConfigMap>),
    Secret(Informer<Secret>),
}

struct Entry {
    watched: Watched,
    stop: Shutdown,
    /// UIDs of the Pods that use it.
    users: Arc<Mutex<BTreeSet<String>>>,
}

/// What is told of a change: the UID of a Pod that uses the object.
pub type OnChange = Arc<dyn Fn(&str) + Send + Sync>;

/// The watches, by kind (`configmap`, `secret`), namespace and name.
pub struct References {
    client: Client,
    shutdown: Shutdown,
    on_change: OnChange,
    entries: Mutex<BTreeMap<(&'static str, String, String), Entry>>,
}

/// An object's content, decoded.
pub type Data = BTreeMap<String, Vec<u8>>;

fn open<V: View>(
    informers: &Informers,
    namespace: &str,
    name: &str,
    users: &Arc<Mutex<BTreeSet<String>>>,
    tell: &OnChange,
) -> Informer<V> {
    let fields = format!("metadata.name={name}");
    let informer = informers.select::<V>(Selector {
        namespace: namespace.to_owned(),
        fields,
        labels: String::new(),
    });
    let (users, tell) = (users.clone(), tell.clone());
    informer.on_change(move |_| {
        for user in &*users.lock().unwrap_or_else(PoisonError::into_inner) {
            tell(user);
        }
    });
    informer
}

impl References {
    /// None yet. `on_change` is called in informers' tasks and must not block.
    #[must_use]
    pub fn new(client: Client, shutdown: Shutdown, on_change: OnChange) -> Self {
        Self {
            client,
            shutdown,
            on_change,
            entries: Mutex::default(),
        }
    }

    /// The content of the object, `None` if it doesn't exist (now). From now on the user hears of changes.
    pub async fn get(
        &self,
        kind: &'static str,
        namespace: &str,
        name: &str,
        user: &str,
    ) -> Option<Data> {
        enum Either {
            ConfigMap(Informer<ConfigMap>),
            Secret(Informer<Secret>),
        }
        let informer = {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = entries
                .entry((kind, namespace.to_owned(), name.to_owned()))
                .or_insert_with(|| {
                    let stop = self.shutdown.child_token();
                    let informers = Informers::new(self.client.clone(), stop.clone());
                    let users = Arc::new(Mutex::default());
                    let watched = if kind == "secret" {
                        Watched::Secret(open(&informers, namespace, name, &users, &self.on_change))
                    } else {
                        Watched::ConfigMap(open(
                            &informers,
                            namespace,
                            name,
                            &users,
                            &self.on_change,
                        ))
                    };
                    Entry {
                        watched,
                        stop,
                        users,
                    }
                });
            entry
                .users
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(user.to_owned());
            match &entry.watched {
                Watched::ConfigMap(i) => Either::ConfigMap(i.clone()),
                Watched::Secret(i) => Either::Secret(i.clone()),
            }
        };
        let key = client::meta::key(namespace, name);
        let decode = |v: &String| {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD
                .decode(v)
                .unwrap_or_default()
        };
        match informer {
            Either::ConfigMap(informer) => {
                informer.synced().await;
                let map = informer.get(&key)?;
                let mut data: Data = map
                    .data
                    .iter()
                    .map(|(k, v)| (k.clone(), v.clone().into_bytes()))
                    .collect();
                data.extend(map.binary_data.iter().map(|(k, v)| (k.clone(), decode(v))));
                Some(data)
            }
            Either::Secret(informer) => {
                informer.synced().await;
                Some(
                    informer
                        .get(&key)?
                        .data
                        .iter()
                        .map(|(k, v)| (k.clone(), decode(v)))
                        .collect(),
                )
            }
        }
    }

    /// The Pod is gone: what only it used is watched no more.
    pub fn release(&self, user: &str) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, entry| {
            let mut users = entry.users.lock().unwrap_or_else(PoisonError::into_inner);
            users.remove(user);
            let used = !users.is_empty();
            if !used {
                entry.stop.cancel();
            }
            used
        });
    }
}
