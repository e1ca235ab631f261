//! ResourceQuota: what is created is charged to its namespace's quotas, and refused where it would exceed one.
//!
//! Follows <https://kubernetes.io/docs/concepts/policy/resource-quotas/>. Where upstream writes the new usage first and
//! the object afterwards, both are one transaction here: a failed creation leaves no charge, and two creations at once
//! cannot both take what is left for one. The quota controller counts again when something goes away.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::Status;
use api::facts::Kind;
use rules::quota;
use rules::resources::{Resources, parse};
use serde_json::{Map, Value};
use store::{Compare, Entry, Op, Outcome, Txn};
use tokio::sync::{Mutex, MutexGuard};

use super::Operation;
use crate::Core;
use crate::object::{self, text};
use crate::registry::{codec, store_status};

/// Tries against other writers of the quotas: API servers beside this one, and the quota controller.
const TRIES: usize = 10;

/// Serializes the charges of a namespace within this server, so that its own writers need not try again.
#[derive(Default)]
pub struct Locks([Mutex<()>; 16]);

impl Locks {
    async fn of(&self, namespace: &str) -> MutexGuard<'_, ()> {
        let sum: usize = namespace.bytes().map(usize::from).sum();
        self.0[sum % self.0.len()].lock().await
    }
}

/// What is about to be written.
pub struct Write<'a> {
    pub kind: &'static Kind,
    pub operation: Operation,
    pub subresource: &'a str,
    pub new: &'a Value,
    pub old: Option<&'a Value>,
}

impl Write<'_> {
    /// Whether this write can use more of a quota than before.
    fn is_charged(&self) -> bool {
        let (group, plural) = (self.kind.group, self.kind.plural);
        let grows = match (group, plural) {
            ("", "pods") => self.subresource == "resize",
            ("", "services" | "persistentvolumeclaims") => self.subresource.is_empty(),
            _ => false,
        };
        self.kind.namespaced
            && plural != "events"
            && match self.operation {
                Operation::Create => self.subresource.is_empty(),
                Operation::Update => grows,
                Operation::Delete => false,
            }
    }

    fn namespace(&self) -> &str {
        text(self.new, &["metadata", "namespace"])
    }

    fn forbidden(&self, why: String) -> Status {
        let name = object::name(self.new);
        Status::forbidden(self.kind.group, self.kind.plural, name, why)
    }
}

/// Refuses what would exceed a quota, charging nothing: for dry runs.
pub async fn check(core: &Core, write: &Write<'_>) -> Result<(), Status> {
    if write.is_charged() {
        charges(core, write).await?;
    }
    Ok(())
}

/// Commits `op` under `own` together with what it is charged. `None` when `own` does not hold.
pub async fn commit(
    core: &Core,
    write: &Write<'_>,
    own: Compare,
    op: Op,
    lazy: bool,
) -> Result<Option<Arc<Entry>>, Status> {
    let charged = write.is_charged() && has_quotas(core, write.namespace()).await?;
    let _guard = if charged {
        Some(core.quota_locks.of(write.namespace()).await)
    } else {
        None
    };
    for _ in 0..TRIES {
        let mut txn = Txn {
            compares: vec![own.clone()],
            ops: vec![op.clone()],
            lazy,
        };
        if charged {
            for (compare, op) in charges(core, write).await? {
                txn.compares.push(compare);
                txn.ops.push(op);
            }
        }
        match core.store.txn(txn).await.map_err(store_status)? {
            Outcome::Committed { entries, .. } => {
                let entry = entries.into_iter().next().flatten();
                return entry
                    .map(Some)
                    .ok_or_else(|| Status::internal("the store returned no entry"));
            }
            Outcome::Conflict { current, .. } => {
                if !holds(&own, current.first().and_then(Option::as_ref)) {
                    return Ok(None);
                }
            }
        }
    }
    let why = "the quotas of the namespace are changing too fast; please try again";
    Err(Status::conflict(
        write.kind.group,
        write.kind.plural,
        object::name(write.new),
        why,
    ))
}

fn holds(compare: &Compare, current: Option<&Arc<Entry>>) -> bool {
    match compare {
        Compare::Absent(_) => current.is_none(),
        Compare::Revision(_, revision) => current.is_some_and(|e| e.revision == *revision),
    }
}

async fn quotas(core: &Core, namespace: &str) -> Result<Vec<Arc<Entry>>, Status> {
    let prefix = format!("/registry/resourcequotas/{namespace}/");
    let range = core.store.range(&prefix, None, None, 0).await;
    Ok(range.map_err(store_status)?.entries)
}

async fn has_quotas(core: &Core, namespace: &str) -> Result<bool, Status> {
    Ok(!quotas(core, namespace).await?.is_empty())
}

/// The writes that charge this write to each quota that it falls under.
async fn charges(core: &Core, write: &Write<'_>) -> Result<Vec<(Compare, Op)>, Status> {
    let (group, plural) = (write.kind.group, write.kind.plural);
    let now = core.world.now();
    let mut more = quota::usage(group, plural, write.new, now);
    if let Some(old) = write.old {
        let before = quota::usage(group, plural, old, now);
        for (name, amount) in &mut more {
            if let Some(before) = before.get(name) {
                *amount = *amount - *before;
            }
        }
    }
    more.retain(|_, amount| amount.sign() > 0);
    let mut writes = Vec::new();
    for entry in quotas(core, write.namespace()).await? {
        let mut object = codec::decode(&entry)?;
        if let Some(used) = charge(write, &object, &more)? {
            object["status"]["used"] = used;
            let (stored, offset) = codec::encode(&object)?;
            let key = entry.key.to_string();
            let put = Op::Put {
                key: key.clone(),
                stored,
                rv_offset: Some(offset),
                expire_after: None,
            };
            writes.push((Compare::Revision(key, entry.revision), put));
        }
    }
    Ok(writes)
}

/// The usage of a quota with `more` added; none if it is not touched.
fn charge(write: &Write<'_>, quota: &Value, more: &Resources) -> Result<Option<Value>, Status> {
    let (group, plural) = (write.kind.group, write.kind.plural);
    let hard = parse(&quota["status"]["hard"]);
    let mut bounded = hard
        .keys()
        .filter(|n| quota::is_about(n, group, plural))
        .peekable();
    if bounded.peek().is_none() || !quota::in_scope(quota, group, plural, write.new) {
        return Ok(None);
    }
    let name = object::name(quota);
    let bounded: Vec<&String> = bounded.collect();
    if (group, plural) == ("", "pods")
        && let Some(why) = quota::unnamed(&write.new["spec"], bounded.iter().copied())
    {
        return Err(write.forbidden(format!("failed quota: {name}: {why}")));
    }
    let used = parse(&quota["status"]["used"]);
    if bounded.iter().any(|n| !used.contains_key(*n)) {
        let names: Vec<&str> = bounded.iter().map(|n| n.as_str()).collect();
        let why = format!(
            "status unknown for quota: {name}, resources: {}",
            names.join(",")
        );
        return Err(write.forbidden(why));
    }
    let requested: Resources = more
        .iter()
        .filter(|(n, _)| hard.contains_key(*n))
        .map(|(n, a)| (n.clone(), *a))
        .collect();
    if requested.is_empty() {
        return Ok(None);
    }
    let mut after = used.clone();
    rules::resources::add(&mut after, &requested);
    let exceeded: BTreeMap<&String, ()> = requested
        .keys()
        .filter(|n| after.get(*n) > hard.get(*n))
        .map(|n| (n, ()))
        .collect();
    if !exceeded.is_empty() {
        let show = |amounts: &Resources| {
            let parts: Vec<String> = amounts
                .iter()
                .filter(|(n, _)| exceeded.contains_key(n))
                .map(|(n, a)| format!("{n}={a}"))
                .collect();
            parts.join(",")
        };
        return Err(write.forbidden(format!(
            "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
            show(&requested),
            show(&used),
            show(&hard)
        )));
    }
    let after: Map<String, Value> = after
        .into_iter()
        .map(|(n, a)| (n, a.to_string().into()))
        .collect();
    Ok(Some(Value::Object(after)))
}
