//! What every controller works with.

use std::sync::Arc;

use client::{Change, Client, EventRecorder, Informer, Informers, View};
use reconcile::{Outcome, Queue, Settings};
use world::{Shutdown, World};

/// A controller's own client and recorder, and what it shares with the others.
#[derive(Clone)]
pub(crate) struct Env {
    pub client: Client,
    pub events: EventRecorder,
    pub informers: Informers,
    pub world: World,
    pub shutdown: Shutdown,
}

impl Env {
    pub fn new(
        name: &str,
        client: Client,
        informers: &Informers,
        world: &World,
        shutdown: &Shutdown,
    ) -> Self {
        let events =
            EventRecorder::start(client.clone(), world.clone(), name, "", shutdown.clone());
        Self {
            client,
            events,
            informers: informers.clone(),
            world: world.clone(),
            shutdown: shutdown.clone(),
        }
    }

    /// Wall time in whole seconds, as `metav1.Time` is written.
    pub fn now(&self) -> jiff::Timestamp {
        let now = self.world.now();
        jiff::Timestamp::from_second(now.as_second()).unwrap_or(now)
    }

    pub fn queue(&self, name: &'static str) -> Queue<Key> {
        Queue::new(Settings::named(name), self.world.clone())
    }

    /// Reconciles the keys of `queue` once all of `ready` holds.
    pub fn run<F, Fut>(
        &self,
        queue: Queue<Key>,
        ready: impl Future<Output = ()> + Send + 'static,
        reconcile: F,
    ) where
        F: Fn(Key) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Outcome> + Send,
    {
        let shutdown = self.shutdown.clone();
        tokio::spawn(self.shutdown.clone().run_until_cancelled_owned(async move {
            ready.await;
            queue.run(shutdown, reconcile).await;
        }));
    }
}

/// `namespace/name`, or a name.
pub(crate) type Key = Arc<str>;

/// Has every changed object's own key reconciled.
pub(crate) fn enqueue_changes<V: View>(informer: &Informer<V>, queue: &Queue<Key>) {
    let queue = queue.clone();
    informer.on_change(move |change: &Change<V>| queue.add(change.key.clone()));
}

/// An outcome from a result: errors are retried, except where the object is gone or its namespace is going.
pub(crate) fn settled(result: Result<Outcome, client::Error>) -> Outcome {
    match result {
        Ok(outcome) => outcome,
        Err(error) if error.is_namespace_terminating() || error.is_not_found() => Outcome::Done,
        Err(error) => Outcome::Retry(error.to_string()),
    }
}
