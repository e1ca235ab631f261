//! Records Events about objects, with upstream's aggregation: what repeats is counted, not stored again.
//!
//! Follows client-go's correlator: the same event within its life raises `count`; more than ten events that differ only in
//! their message within ten minutes are folded into one; and a source may speak about one object 25 times at once, then
//! once in five minutes.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use world::{Shutdown, World};

use crate::resource::kinds;
use crate::{Client, PatchKind, Resource};

/// Events waiting to be written; more are dropped and counted, as upstream does.
const QUEUE: usize = 1000;
/// Entries kept for correlation.
const CACHE: usize = 4096;
const FOLD_AFTER: u32 = 10;
const FOLD_WINDOW: Duration = Duration::from_secs(600);
const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;

/// The object that an event is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ObjectReference {
    pub api_version: String,
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// A part of the object: `spec.containers{web}`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field_path: String,
}

impl ObjectReference {
    /// Refers to an object of `resource`.
    #[must_use]
    pub fn to(resource: &Resource, meta: &crate::ObjectMeta) -> Self {
        Self {
            api_version: resource.api_version(),
            kind: resource.kind.to_owned(),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: String::new(),
        }
    }
}

struct Said {
    about: ObjectReference,
    warning: bool,
    reason: String,
    message: String,
}

/// Says what happened to objects. Cheap to clone; never blocks.
#[derive(Clone)]
pub struct EventRecorder {
    queue: mpsc::Sender<Said>,
    dropped: world::metrics::Counter,
}

impl EventRecorder {
    /// A recorder for `component` (`kubelet`, `default-scheduler`) on `host` (empty for control plane parts). Starts the
    /// task that writes; it ends with `shutdown`.
    #[must_use]
    pub fn start(
        client: Client,
        world: World,
        component: &str,
        host: &str,
        shutdown: Shutdown,
    ) -> Self {
        let (queue, said) = mpsc::channel(QUEUE);
        let dropped = world.metrics.counter(
            "skiff_events_dropped_total",
            "Events that were not recorded because too many were waiting.",
            &format!("component=\"{component}\""),
        );
        let mut writer = Writer {
            client,
            world,
            component: component.to_owned(),
            host: host.to_owned(),
            written: HashMap::new(),
            folds: HashMap::new(),
            buckets: HashMap::new(),
        };
        tokio::spawn(shutdown.run_until_cancelled_owned(async move { writer.run(said).await }));
        Self { queue, dropped }
    }

    /// Something expected happened.
    pub fn normal(&self, about: &ObjectReference, reason: &str, message: impl Into<String>) {
        self.say(about, false, reason, message.into());
    }

    /// Something went wrong.
    pub fn warning(&self, about: &ObjectReference, reason: &str, message: impl Into<String>) {
        self.say(about, true, reason, message.into());
    }

    fn say(&self, about: &ObjectReference, warning: bool, reason: &str, message: String) {
        let said = Said {
            about: about.clone(),
            warning,
            reason: reason.to_owned(),
            message,
        };
        if self.queue.try_send(said).is_err() {
            self.dropped.inc();
        }
    }
}

type Identity = (ObjectReference, bool, String, String);

struct Written {
    name: String,
    namespace: String,
    count: u64,
}

struct Writer {
    client: Client,
    world: World,
    component: String,
    host: String,
    written: HashMap<Identity, Written>,
    folds: HashMap<(ObjectReference, bool, String), (u32, Instant)>,
    buckets: HashMap<ObjectReference, (f64, Instant)>,
}

impl Writer {
    async fn run(&mut self, mut said: mpsc::Receiver<Said>) {
        while let Some(event) = said.recv().await {
            if self.allowed(&event.about) {
                let message = self.folded(&event);
                self.write(event, message).await;
            }
        }
    }

    /// The token bucket of an object.
    fn allowed(&mut self, about: &ObjectReference) -> bool {
        if self.buckets.len() > CACHE {
            self.buckets.clear();
        }
        let now = Instant::now();
        let (tokens, since) = self.buckets.entry(about.clone()).or_insert((BURST, now));
        *tokens =
            (*tokens + now.duration_since(*since).as_secs_f64() * REFILL_PER_SECOND).min(BURST);
        *since = now;
        if *tokens < 1.0 {
            return false;
        }
        *tokens -= 1.0;
        true
    }

    fn folded(&mut self, event: &Said) -> String {
        if self.folds.len() > CACHE {
            self.folds.clear();
        }
        let known = (
            event.about.clone(),
            event.warning,
            event.reason.clone(),
            event.message.clone(),
        );
        if self.written.contains_key(&known) {
            return event.message.clone();
        }
        let now = Instant::now();
        let key = (event.about.clone(), event.warning, event.reason.clone());
        let (count, since) = self.folds.entry(key).or_insert((0, now));
        if now.duration_since(*since) > FOLD_WINDOW {
            (*count, *since) = (0, now);
        }
        *count += 1;
        if *count > FOLD_AFTER {
            "(combined from similar events)".to_owned()
        } else {
            event.message.clone()
        }
    }

    async fn write(&mut self, event: Said, message: String) {
        if self.written.len() > CACHE {
            self.written.clear();
        }
        let now = crate::meta::rfc3339_seconds(self.world.now());
        let shown = if message == event.message {
            message.clone()
        } else {
            format!("{message}: {}", event.message)
        };
        let identity = (
            event.about.clone(),
            event.warning,
            event.reason.clone(),
            message,
        );
        if let Some(written) = self.written.get_mut(&identity) {
            let patch = json!({"count": written.count + 1, "lastTimestamp": now, "message": shown});
            let (namespace, name) = (written.namespace.clone(), written.name.clone());
            let done = self
                .client
                .patch::<serde::de::IgnoredAny>(
                    &kinds::EVENTS,
                    &namespace,
                    &name,
                    "",
                    PatchKind::Merge,
                    &patch,
                )
                .await;
            match done {
                Ok(_) => {
                    written.count += 1;
                    return;
                }
                // It expired meanwhile: write it anew.
                Err(e) if e.is_not_found() => {}
                Err(error) => return tracing::debug!(%error, "an event was not counted"),
            }
        }
        let (namespace, object) = self.object(&event, &shown, &now);
        match self
            .client
            .create::<Value>(&kinds::EVENTS, &namespace, &object)
            .await
        {
            Ok(created) => {
                let name = created["metadata"]["name"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned();
                self.written.insert(
                    identity,
                    Written {
                        name,
                        namespace,
                        count: 1,
                    },
                );
            }
            Err(error) => {
                tracing::debug!(%error, reason = event.reason, "an event was not recorded")
            }
        }
    }

    fn object(&self, event: &Said, message: &str, now: &str) -> (String, Value) {
        let about = &event.about;
        let namespace = if about.namespace.is_empty() {
            "default".to_owned()
        } else {
            about.namespace.clone()
        };
        let name = format!("{}.{:016x}", about.name, self.world.rng.below(u64::MAX));
        let mut source = json!({"component": self.component});
        if !self.host.is_empty() {
            source["host"] = self.host.clone().into();
        }
        let object = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": about,
            "reason": event.reason,
            "message": message,
            "type": if event.warning { "Warning" } else { "Normal" },
            "source": source,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "reportingComponent": self.component,
            "reportingInstance": self.host,
        });
        (namespace, object)
    }
}
