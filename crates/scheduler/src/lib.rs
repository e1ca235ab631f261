//! Finds a node for every Pod that has none.
//!
//! Upstream's shape (<https://kubernetes.io/docs/concepts/scheduling-eviction/scheduling-framework/>): a [`queue`] of
//! Pods by priority, filters that say which nodes can take a Pod and scores that say which is best ([`cycle`]), over a
//! [`snapshot`] that assumes each decision at once; the binding goes out beside the next decisions. The core is pure:
//! [`Core`] takes events and gives decisions, and knows neither client nor clock.

mod bind;
pub mod cycle;
pub mod queue;
pub mod snapshot;
pub mod views;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use client::{Client, EventRecorder, Informers};
use tokio::sync::Notify;
use world::{Shutdown, World};

use cycle::{Decision, decide};
use queue::Queue;
use snapshot::Snapshot;
use views::{NodeView, PodView};

/// The only `schedulerName` that is served.
pub const NAME: &str = "default-scheduler";

/// The scheduler without the outside: events in, decisions out.
#[derive(Default)]
pub struct Core {
    pub snapshot: Snapshot,
    pub queue: Queue,
    pods: BTreeMap<Arc<str>, Arc<PodView>>,
}

impl Core {
    /// A node appeared, changed, or went (`None`).
    pub fn node(&mut self, name: &str, node: Option<Arc<NodeView>>) {
        if self.snapshot.node(name, node) {
            self.queue.something_changed();
        }
    }

    /// A Pod appeared, changed, or went (`None`).
    pub fn pod(&mut self, key: &Arc<str>, pod: Option<Arc<PodView>>) {
        let old = match &pod {
            Some(pod) => self.pods.insert(key.clone(), pod.clone()),
            None => self.pods.remove(key),
        };
        let placed = pod.as_ref().filter(|p| !p.node_name.is_empty() && !p.ended);
        let sat = self.snapshot.has(key);
        match (placed, &pod) {
            (Some(placed), _) => {
                self.queue.remove(key);
                if self.snapshot.place(key, placed.clone(), &placed.node_name) {
                    // Its labels may be what another Pod's affinity waits for.
                    self.queue.something_changed();
                }
            }
            (None, Some(waiting)) if waiting.wants_node() => {
                if old
                    .as_ref()
                    .is_some_and(|o| o.metadata.uid != waiting.metadata.uid)
                {
                    self.snapshot.forget(key);
                }
                if !self.snapshot.is_assumed(key) {
                    let asks_anew = old.as_ref().is_none_or(|o| !o.asks_the_same(waiting));
                    self.queue.add(key.clone(), waiting.clone(), asks_anew);
                }
            }
            _ => {
                self.queue.remove(key);
                self.snapshot.forget(key);
            }
        }
        if sat && !self.snapshot.has(key) {
            // Its room is free.
            self.queue.something_changed();
        }
    }

    /// Decides about the next Pod, if one waits. `now` in milliseconds since any fixed moment. A chosen node is assumed at once; after a failure the Pod waits until
    /// something changes.
    pub fn next(&mut self, now: u64) -> Option<(Arc<str>, Arc<PodView>, Decision)> {
        let (key, pod) = self.queue.pop(now)?;
        let decision = decide(&pod, &mut self.snapshot);
        match &decision {
            Decision::Bind(node) => self.snapshot.assume(&key, pod.clone(), node),
            Decision::Unschedulable(_) => self.queue.park(key.clone(), pod.clone(), now),
        }
        Some((key, pod, decision))
    }

    /// The binding of the Pod with this UID failed: it is tried again after a back-off.
    pub fn not_bound(&mut self, key: &Arc<str>, uid: &str, now: u64) {
        let current = self.pods.get(key).filter(|p| p.metadata.uid == uid);
        let Some(pod) = current.cloned() else {
            return;
        };
        if pod.wants_node() {
            self.snapshot.forget(key);
            self.queue.back_off(key.clone(), pod, now);
            self.queue.something_changed();
        }
    }
}

/// What the informers' handlers, the loop and the binders share.
struct Shared {
    core: Mutex<Core>,
    wake: Notify,
    since: tokio::time::Instant,
}

impl Shared {
    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Starts scheduling with `client` (`system:kube-scheduler`) until `shutdown`. Must be called inside a runtime.
pub fn start(client: Client, world: World, shutdown: Shutdown) {
    let events = EventRecorder::start(client.clone(), world.clone(), NAME, "", shutdown.clone());
    let informers = Informers::new(client.clone(), shutdown.clone());
    let (nodes, pods) = (informers.all::<NodeView>(), informers.all::<PodView>());
    let shared = Arc::new(Shared {
        core: Mutex::default(),
        wake: Notify::new(),
        since: tokio::time::Instant::now(),
    });
    let to = shared.clone();
    nodes.on_change(move |change| {
        to.core().node(&change.key, change.new.clone());
        to.wake.notify_one();
    });
    let to = shared.clone();
    pods.on_change(move |change| {
        to.core().pod(&change.key, change.new.clone());
        to.wake.notify_one();
    });
    let binder = bind::Binder::new(client, events, world, shared.clone(), shutdown.clone());
    tokio::spawn(shutdown.run_until_cancelled_owned(async move {
        nodes.synced().await;
        pods.synced().await;
        run(&shared, &binder).await;
    }));
}

async fn run(shared: &Shared, binder: &bind::Binder) {
    loop {
        // A burst is worked off in slices, so that informers and binders get their turns.
        for _ in 0..32 {
            let now = shared.now();
            let Some((key, pod, decision)) = shared.core().next(now) else {
                break;
            };
            binder.carry_out(key, pod, decision).await;
        }
        let now = shared.now();
        let due = shared.core().queue.next_due(now);
        match due {
            Some(0) => tokio::task::yield_now().await,
            Some(millis) => {
                let pause = std::time::Duration::from_millis(millis);
                let _ = tokio::time::timeout(pause, shared.wake.notified()).await;
            }
            None => shared.wake.notified().await,
        }
    }
}
