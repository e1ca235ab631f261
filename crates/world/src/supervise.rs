//! A task that panics is begun anew: one defect does not end a part of the program for ever (law 9).

use std::time::Duration;

use tokio::task::JoinSet;

use crate::Backoff;

/// Runs what `make` makes until it ends; after a panic it is made again, a little later each time. `name` is for the log.
/// Dropping this ends the task.
pub async fn supervise<F, Fut>(name: &str, mut make: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    loop {
        let mut task = JoinSet::new();
        task.spawn(make());
        match task.join_next().await {
            Some(Err(error)) if error.is_panic() => {
                tracing::error!(task = name, %error, "a task panicked and is begun anew");
            }
            _ => return,
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_not_the_end() {
        let runs = Arc::new(AtomicU32::new(0));
        let counted = runs.clone();
        supervise("test", move || {
            let run = counted.fetch_add(1, Ordering::Relaxed);
            async move { assert!(run == 2, "not yet") }
        })
        .await;
        assert_eq!(runs.load(Ordering::Relaxed), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_its_supervisor() {
        let (alive, mut gone) = tokio::sync::mpsc::channel::<()>(1);
        let supervised = tokio::spawn(async move {
            supervise("test", move || {
                let alive = alive.clone();
                async move {
                    std::future::pending::<()>().await;
                    drop(alive);
                }
            })
            .await;
        });
        tokio::task::yield_now().await;
        supervised.abort();
        assert_eq!(gone.recv().await, None);
    }
}
