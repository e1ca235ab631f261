//! ResourceQuota: what is created is charged to its namespace's quotas, and refused where it would exceed one.
//!
//! Follows <https://kubernetes.io/docs/concepts/policy/resource-quotas/>. Where upstream writes the new usage first and
//! the object afterwards, both are one transaction here: a failed creation leaves no charge, and two creations at once
//! cannot both take what is left for one. What goes away, and a Pod that ends, is given back in the same way; the quota
//! controller counts from scratch when a quota is new or changed.

use std::sync::Arc;

use api::facts::Kind;
use api::{Quantity, Status};
use rules::quota;
use rules::resources::{Resources, parse};
use serde_json::{Map, Value};
use store::{Compare, Entry, Op, Outcome, Txn};
use tokio::sync::{Mutex, MutexGuard};

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

/// What is about to be written; `new` is absent for a deletion, `old` for a creation.
pub struct Write<'a> {
    pub kind: &'static Kind,
    pub new: Option<&'a Value>,
    pub old: Option<&'a Value>,
}

impl Write<'_> {
    /// Whether this write can change what is used: objects are counted when they come and go, and some by what is in them.
    fn is_charged(&self) -> bool {
        let (group, plural) = (self.kind.group, self.kind.plural);
        let by_content =
            group.is_empty() && matches!(plural, "pods" | "services" | "persistentvolumeclaims");
        let is_update = self.new.is_some() && self.old.is_some();
        self.kind.namespaced && plural != "events" && (by_content || !is_update)
    }

    fn object(&self) -> &Value {
        self.new.or(self.old).unwrap_or(&Value::Null)
    }

    fn namespace(&self) -> &str {
        text(self.object(), &["metadata", "namespace"])
    }

    fn forbidden(&self, why: String) -> Status {
        let name = object::name(self.object());
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

/// Commits `op` under `own` together with what it is charged, or given back. `None` when `own` does not hold; else the
/// entry that the operation wrote or removed.
pub async fn commit(
    core: &Core,
    write: &Write<'_>,
    own: Compare,
    op: Op,
    lazy: bool,
) -> Result<Option<Option<Arc<Entry>>>, Status> {
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
                return Ok(Some(entries.into_iter().next().flatten()));
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
        object::name(write.object()),
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
    let mut writes = Vec::new();
    for entry in quotas(core, write.namespace()).await? {
        let mut object = codec::decode(&entry)?;
        if let Some(used) = charge(write, &object)? {
            object["status"]["used"] = used;
            let (stored, offset) = codec::encode(&object, None, &core.encodes)?;
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

/// What an object uses of a quota: nothing outside its scopes.
fn usage(write: &Write<'_>, quota: &Value, object: Option<&Value>) -> Resources {
    let (group, plural) = (write.kind.group, write.kind.plural);
    match object {
        Some(object) if quota::in_scope(quota, group, plural, object) => {
            quota::usage(group, plural, object)
        }
        _ => Resources::new(),
    }
}

/// The usage of a quota after the write; none if it is not touched.
fn charge(write: &Write<'_>, quota: &Value) -> Result<Option<Value>, Status> {
    let (group, plural) = (write.kind.group, write.kind.plural);
    let hard = parse(&quota["status"]["hard"]);
    let about = hard.keys().filter(|n| quota::is_about(n, group, plural));
    let bounded: Vec<&String> = about.collect();
    if bounded.is_empty() {
        return Ok(None);
    }
    let before = usage(write, quota, write.old);
    let after = usage(write, quota, write.new);
    let name = object::name(quota);
    if let (Some(new), None, ("", "pods"), false) =
        (write.new, write.old, (group, plural), after.is_empty())
        && let Some(why) = quota::unnamed(&new["spec"], bounded.iter().copied())
    {
        return Err(write.forbidden(format!("failed quota: {name}: {why}")));
    }
    let amount = |of: &Resources, n: &String| of.get(n).copied().unwrap_or(Quantity::ZERO);
    let used = parse(&quota["status"]["used"]);
    let (mut new_used, mut requested) = (used.clone(), Resources::new());
    for resource in bounded {
        let change = amount(&after, resource) - amount(&before, resource);
        if change.is_zero() {
            continue;
        }
        if change.sign() > 0 {
            requested.insert(resource.clone(), change);
        }
        if let Some(sum) = new_used.get_mut(resource) {
            // Never below nothing: the controller counts again from what there is.
            *sum = (*sum + change).max(Quantity::ZERO);
        }
    }
    refuse_excess(write, name, &requested, &used, &hard)?;
    if new_used == used {
        return Ok(None);
    }
    let shown = new_used.into_iter().map(|(n, a)| (n, a.to_string().into()));
    Ok(Some(Value::Object(shown.collect::<Map<String, Value>>())))
}

/// Refuses what the quota has no room for, or has not counted yet.
fn refuse_excess(
    write: &Write<'_>,
    name: &str,
    requested: &Resources,
    used: &Resources,
    hard: &Resources,
) -> Result<(), Status> {
    let names = |list: Vec<&String>| -> String {
        let list: Vec<&str> = list.into_iter().map(String::as_str).collect();
        list.join(",")
    };
    let uncounted: Vec<&String> = requested
        .keys()
        .filter(|n| !used.contains_key(*n))
        .collect();
    if !uncounted.is_empty() {
        let why = format!(
            "status unknown for quota: {name}, resources: {}",
            names(uncounted)
        );
        return Err(write.forbidden(why));
    }
    let over = |n: &&String| match (requested.get(*n), used.get(*n), hard.get(*n)) {
        (Some(more), Some(used), Some(hard)) => *used + *more > *hard,
        _ => false,
    };
    let exceeded: Vec<&String> = requested.keys().filter(over).collect();
    if exceeded.is_empty() {
        return Ok(());
    }
    let show = |amounts: &Resources| {
        let shown = exceeded
            .iter()
            .filter_map(|n| Some(format!("{n}={}", amounts.get(*n)?)));
        shown.collect::<Vec<_>>().join(",")
    };
    Err(write.forbidden(format!(
        "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
        show(requested),
        show(used),
        show(hard)
    )))
}
