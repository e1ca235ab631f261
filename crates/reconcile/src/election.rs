//! Which of several equal components leads: a `coordination.k8s.io` Lease that one of them holds.
//!
//! Follows <https://kubernetes.io/docs/concepts/architecture/leases/#leader-election>; candidates of upstream's client-go and
//! ours can compete for one Lease. Clocks of different machines are never compared: a candidate measures on its own clock
//! how long it has seen the record unchanged, and takes over when that is longer than the record's own duration.
//!
//! ```text
//!   candidate ── record free, released, or unchanged for its duration ──► leader
//!   leader ── renewed within the deadline ──► leader
//!   leader ── not renewed within the deadline, or someone else holds it ──► lost: the component ends
//!   leader ── asked to stop, or done ──► released: the next candidate need not wait
//! ```

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use client::resource::kinds::LEASES;
use client::{Client, Error};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};
use world::{Shutdown, World};

/// How much longer than [`Config::retry`] a candidate may wait, by chance, so that candidates do not stay in step.
const JITTER: f64 = 1.2;

/// What is competed for, by whom, and how fast.
#[derive(Debug, Clone)]
pub struct Config {
    pub namespace: String,
    /// The Lease's name: the component's.
    pub name: String,
    /// Names this candidate; no two processes may share it (`hostname_uuid`).
    pub identity: String,
    /// How long others leave the Lease alone after they saw it renewed.
    pub lease: Duration,
    /// The leader gives up when it could not renew for so long. Shorter than `lease`, so that it ends before another begins.
    pub renew_deadline: Duration,
    /// Between two tries.
    pub retry: Duration,
}

impl Config {
    /// Upstream's defaults: in `kube-system`, 15 s, 10 s, 2 s.
    #[must_use]
    pub fn new(name: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            namespace: "kube-system".into(),
            name: name.into(),
            identity: identity.into(),
            lease: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }

    fn check(&self) -> Result<(), Failure> {
        let wrong = if self.identity.is_empty() {
            "the identity is empty"
        } else if self.lease.as_secs() == 0 || self.retry.is_zero() {
            "the lease lasts at least a second, and the retry period is above zero"
        } else if self.lease <= self.renew_deadline {
            "the lease must last longer than the renew deadline"
        } else if self.renew_deadline <= self.retry.mul_f64(JITTER) {
            "the renew deadline must be more than 1.2 retry periods"
        } else {
            return Ok(());
        };
        Err(Failure::Config(wrong))
    }
}

/// How an election ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to stop; if it led, the Lease is released.
    Stopped,
    /// The component itself came to its end; the Lease is released.
    Done,
}

/// Why an election ended.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The process should end: another candidate leads now, or soon will.
    #[error("{identity} no longer leads {lease}: {why}")]
    Lost {
        lease: String,
        identity: String,
        why: String,
    },
    #[error("this leader election cannot work: {0}")]
    Config(&'static str),
}

/// The part of a `LeaseSpec` that elects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct Record {
    holder_identity: Option<String>,
    lease_duration_seconds: Option<i64>,
    acquire_time: Option<String>,
    renew_time: Option<String>,
    lease_transitions: Option<i64>,
}

impl Record {
    fn holder(&self) -> &str {
        self.holder_identity.as_deref().unwrap_or("")
    }
}

/// The Lease as this candidate last saw it change.
struct Observed {
    object: Value,
    record: Record,
    /// On our own clock.
    since: Instant,
}

/// What a candidate does about what it sees.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Someone else holds it.
    Wait,
    /// Write this record.
    Write(Record),
}

/// Decides. `unchanged_for`: how long this candidate has seen `record` as it is. `now`: wall time, for people who read it.
fn step(
    record: &Record,
    unchanged_for: Duration,
    identity: &str,
    lease: Duration,
    now: String,
) -> Step {
    let mine = record.holder() == identity;
    let lasts = u64::try_from(record.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
    if !mine && !record.holder().is_empty() && unchanged_for < Duration::from_secs(lasts) {
        return Step::Wait;
    }
    let transitions = record.lease_transitions.unwrap_or(0);
    Step::Write(Record {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i64::try_from(lease.as_secs()).ok(),
        acquire_time: match &record.acquire_time {
            Some(time) if mine => Some(time.clone()),
            _ => Some(now.clone()),
        },
        renew_time: Some(now),
        lease_transitions: Some(if mine { transitions } else { transitions + 1 }),
    })
}

struct Candidate<'a> {
    client: &'a Client,
    world: &'a World,
    config: &'a Config,
    observed: Option<Observed>,
}

impl Candidate<'_> {
    fn lease(&self) -> String {
        format!("{}/{}", self.config.namespace, self.config.name)
    }

    /// As the API writes `metav1.MicroTime`.
    fn now(&self) -> String {
        format!("{:.6}", self.world.now())
    }

    fn leads(&self) -> bool {
        self.observed
            .as_ref()
            .is_some_and(|o| o.record.holder() == self.config.identity)
    }

    fn observe(&mut self, object: Value) -> Result<(), Error> {
        let record: Record = serde_json::from_value(object["spec"].clone())
            .map_err(|e| Error::Decode(format!("the lease {}", self.lease()), e.to_string()))?;
        let since = match &self.observed {
            Some(seen) if seen.record == record => seen.since,
            _ => Instant::now(),
        };
        self.observed = Some(Observed {
            object,
            record,
            since,
        });
        Ok(())
    }

    /// One try to get or keep the Lease. `Ok(false)`: someone else holds it.
    async fn attempt(&mut self) -> Result<bool, Error> {
        // A leader knows what it wrote: it reads again only when that turns out to be wrong.
        if self.leads() {
            match self.write().await {
                Err(error) if error.is_conflict() || error.is_not_found() => {}
                other => return other,
            }
        }
        let Config {
            namespace, name, ..
        } = self.config;
        match self.client.get(&LEASES, namespace, name).await {
            Ok(object) => self.observe(object)?,
            Err(error) if error.is_not_found() => return self.create().await,
            Err(error) => return Err(error),
        }
        self.write().await
    }

    async fn write(&mut self) -> Result<bool, Error> {
        let Some(seen) = &self.observed else {
            return Ok(false);
        };
        let config = self.config;
        let record = match step(
            &seen.record,
            seen.since.elapsed(),
            &config.identity,
            config.lease,
            self.now(),
        ) {
            Step::Wait => return Ok(false),
            Step::Write(record) => record,
        };
        self.put(&record).await.map(|()| true)
    }

    async fn put(&mut self, record: &Record) -> Result<(), Error> {
        let Some(seen) = &self.observed else {
            return Ok(());
        };
        // The rest of the object stays as it is; its resourceVersion makes a faster writer a conflict.
        let mut object = seen.object.clone();
        if let (Ok(Value::Object(fields)), Some(spec)) =
            (serde_json::to_value(record), object["spec"].as_object_mut())
        {
            spec.extend(fields);
        } else {
            object["spec"] = json!(record);
        }
        let Config {
            namespace, name, ..
        } = self.config;
        let updated = self.client.update(&LEASES, namespace, name, "", &object);
        let updated = updated.await?;
        self.observe(updated)
    }

    async fn create(&mut self) -> Result<bool, Error> {
        let config = self.config;
        let now = self.now();
        let record = Record {
            holder_identity: Some(config.identity.clone()),
            lease_duration_seconds: i64::try_from(config.lease.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(0),
        };
        let object = json!({
            "apiVersion": LEASES.api_version(),
            "kind": LEASES.kind,
            "metadata": {"name": config.name, "namespace": config.namespace},
            "spec": record,
        });
        let made = self.client.create(&LEASES, &config.namespace, &object);
        match made.await {
            Ok(object) => self.observe(object).map(|()| true),
            Err(error) if error.is_already_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Tries until it leads.
    async fn acquire(&mut self) {
        loop {
            match self.attempt().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) if error.is_conflict() => {}
                Err(error) => {
                    tracing::warn!(%error, lease = self.lease(), "cannot compete for the lease; trying again");
                }
            }
            let factor = 1.0 + self.world.rng.unit() * (JITTER - 1.0);
            sleep(self.config.retry.mul_f64(factor)).await;
        }
    }

    /// Renews for as long as that succeeds, and says why it ended.
    async fn renew(&mut self) -> String {
        let mut deadline = Instant::now() + self.config.renew_deadline;
        let mut why = String::from("it could not be renewed in time");
        loop {
            let next = Instant::now() + self.config.retry;
            // Not even the last try may outlast the deadline.
            match timeout_at(deadline, self.attempt()).await {
                Ok(Ok(true)) => deadline = Instant::now() + self.config.renew_deadline,
                Ok(Ok(false)) => {
                    let holder = self.observed.as_ref().map_or("", |o| o.record.holder());
                    return format!("{holder} holds it");
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, lease = self.lease(), "cannot renew the lease; trying again");
                    why = error.to_string();
                }
                Err(_) => return why,
            }
            if next >= deadline {
                tokio::time::sleep_until(deadline).await;
                return why;
            }
            tokio::time::sleep_until(next).await;
        }
    }

    /// Lets the next one lead at once. Best effort: without it, it waits for the Lease's duration.
    async fn release(&mut self) {
        let Some(seen) = self.observed.as_ref().filter(|_| self.leads()) else {
            return;
        };
        let now = self.now();
        let record = Record {
            holder_identity: Some(String::new()),
            // The API takes no zero.
            lease_duration_seconds: Some(1),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: seen.record.lease_transitions,
        };
        let put = tokio::time::timeout(self.config.renew_deadline, self.put(&record));
        let failed = match put.await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".into(),
        };
        tracing::warn!(
            error = failed,
            lease = self.lease(),
            "the lease could not be released; it will run out"
        );
    }
}

/// Waits until this candidate leads, then runs `lead` for as long as it does.
///
/// `lead` is given a [`Shutdown`] that fires when it is to end: because `shutdown` did (then it may take its time, and the
/// Lease is kept until it returns), or because the lease was lost (then it is dropped as well, at once).
///
/// # Errors
/// [`Failure::Lost`]: the component must end, since what it started may still run: end the process, as upstream does, or make
/// sure that `lead` leaves nothing behind when it is dropped and its [`Shutdown`] fires. [`Failure::Config`].
pub async fn run<Lead, Leading>(
    client: &Client,
    world: &World,
    shutdown: &Shutdown,
    config: &Config,
    lead: Lead,
) -> Result<Ended, Failure>
where
    Lead: FnOnce(Shutdown) -> Leading,
    Leading: Future<Output = ()>,
{
    config.check()?;
    let mut candidate = Candidate {
        client,
        world,
        config,
        observed: None,
    };
    let leading = world.metrics.gauge(
        "leader_election_master_status",
        "Whether this process leads; 1: it does.",
        &format!("name=\"{}\"", config.name),
    );
    let acquired = tokio::select! {
        biased;
        () = shutdown.cancelled() => false,
        () = candidate.acquire() => true,
    };
    if !acquired {
        // It may have been acquired in the last moment.
        candidate.release().await;
        return Ok(Ended::Stopped);
    }
    tracing::info!(
        lease = candidate.lease(),
        identity = config.identity,
        "leading"
    );
    leading.set(1);
    let stop = shutdown.child_token();
    let lost = {
        let mut work = pin!(lead(stop.clone()));
        tokio::select! {
            biased;
            () = &mut work => None,
            why = candidate.renew() => {
                stop.cancel();
                Some(why)
            }
        }
    };
    leading.set(0);
    match lost {
        Some(why) => Err(Failure::Lost {
            lease: candidate.lease(),
            identity: config.identity.clone(),
            why,
        }),
        None => {
            stop.cancel();
            candidate.release().await;
            Ok(if shutdown.is_cancelled() {
                Ended::Stopped
            } else {
                Ended::Done
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: &str) -> Record {
        Record {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(15),
            acquire_time: Some("then".into()),
            // Far in the future of any clock: it does not matter.
            renew_time: Some("2999-01-01T00:00:00.000000Z".into()),
            lease_transitions: Some(4),
        }
    }

    fn decide(record: &Record, seconds: u64) -> Step {
        let (unchanged, lease) = (Duration::from_secs(seconds), Duration::from_secs(20));
        step(record, unchanged, "me", lease, "now".into())
    }

    fn mine(acquired: &str, transitions: i64) -> Step {
        Step::Write(Record {
            holder_identity: Some("me".into()),
            lease_duration_seconds: Some(20),
            acquire_time: Some(acquired.into()),
            renew_time: Some("now".into()),
            lease_transitions: Some(transitions),
        })
    }

    #[test]
    fn only_our_own_clock_decides_when_a_lease_ran_out() {
        assert_eq!(decide(&held_by("other"), 14), Step::Wait);
        assert_eq!(decide(&held_by("other"), 15), mine("now", 5));
    }

    #[test]
    fn our_own_lease_is_renewed_and_a_released_one_taken() {
        assert_eq!(decide(&held_by("me"), 0), mine("then", 4));
        assert_eq!(decide(&held_by(""), 0), mine("now", 5));
        assert_eq!(decide(&Record::default(), 0), mine("now", 1));
    }

    #[test]
    fn times_that_cannot_work_are_refused() {
        let good = Config::new("a", "me");
        assert!(good.check().is_ok());
        let seconds = Duration::from_secs;
        for (lease, renew_deadline, retry) in [(10, 10, 2), (15, 10, 9), (15, 10, 0)] {
            let bad = Config {
                lease: seconds(lease),
                renew_deadline: seconds(renew_deadline),
                retry: seconds(retry),
                ..good.clone()
            };
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
