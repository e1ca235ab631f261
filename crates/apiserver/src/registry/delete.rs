//! Deleting objects: grace, finalizers, and what happens to what they own.
//!
//! ```text
//!   there ── delete ──► deleting (deletionTimestamp) ── no finalizer, grace over ──► gone
//!      └──── nothing holds it ────────────────────────────────────────────────────────┘
//! ```

use std::sync::Arc;

use api::Status;
use api::facts::Kind;
use jiff::SignedDuration;
use serde_json::Value;
use store::{Compare, Entry, Op, Outcome, Txn};
use tracing::Instrument as _;

use super::codec::ContentType;
use super::update::nothing_holds;
use super::{Context, codec, store_status};
use crate::Core;
use crate::admission::{self, Operation};
use crate::object::{self, is_deleting, items, text};
use crate::trace;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const TRIES: usize = 30;

/// `metav1.DeleteOptions`, from the body or the query.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    pub grace: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    /// `Background`, `Foreground`, `Orphan`, or empty for the kind's default.
    pub propagation: String,
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Reads the options of a request.
    ///
    /// # Errors
    /// 400 and 422 as upstream.
    pub fn of(
        body: &[u8],
        content: ContentType,
        query: &crate::request::Query,
    ) -> Result<Self, Status> {
        let mut options = Self::default();
        let mut orphan = None;
        if !body.is_empty() {
            let ty = api::facts::delete_options().ok_or_else(Status::no_such_path)?;
            let (v, _) = codec::parse(body, content, ty)?;
            options.grace = v["gracePeriodSeconds"].as_i64();
            options.uid = v["preconditions"]["uid"].as_str().map(str::to_owned);
            options.resource_version = v["preconditions"]["resourceVersion"]
                .as_str()
                .map(str::to_owned);
            options.propagation = text(&v, &["propagationPolicy"]).to_owned();
            options.dry_run = !items(&v, &["dryRun"]).is_empty();
            orphan = v["orphanDependents"].as_bool();
        }
        if query.has("gracePeriodSeconds") {
            let given = query.get("gracePeriodSeconds");
            let parsed = given.parse().map_err(|_| {
                Status::bad_request(format!(
                    "gracePeriodSeconds: Invalid value: \"{given}\": must be a number"
                ))
            })?;
            options.grace = Some(parsed);
        }
        if query.has("propagationPolicy") {
            options.propagation = query.get("propagationPolicy").to_owned();
        }
        if query.has("orphanDependents") {
            orphan = Some(query.is_true("orphanDependents"));
        }
        options.dry_run |= super::WriteOptions::of(query, "DeleteOptions")?.dry_run;
        options.check(orphan)?;
        Ok(options)
    }

    fn check(&mut self, orphan: Option<bool>) -> Result<(), Status> {
        let invalid = |e| Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", vec![e]));
        let known = ["Background", "Foreground", "Orphan"];
        if !self.propagation.is_empty() && !known.contains(&self.propagation.as_str()) {
            let bad = Value::from(self.propagation.clone());
            return invalid(api::FieldError::not_supported(
                "propagationPolicy",
                &bad,
                &known,
            ));
        }
        match orphan {
            Some(_) if !self.propagation.is_empty() => {
                let why = "orphanDependents and deletionPropagation cannot be both set";
                return invalid(api::FieldError::invalid(
                    "propagationPolicy",
                    &self.propagation.clone().into(),
                    why,
                ));
            }
            Some(true) => "Orphan".clone_into(&mut self.propagation),
            Some(false) => "Background".clone_into(&mut self.propagation),
            None => {}
        }
        Ok(())
    }
}

/// How a deletion ended.
pub enum Deleted {
    /// It is gone; its last version.
    Gone(Arc<Entry>),
    /// It will go when its grace is over and its finalizers are done.
    Pending(Arc<Entry>),
}

impl Core {
    /// Deletes an object, or starts its deletion.
    ///
    /// # Errors
    /// 404, 409 when a precondition does not hold, admission's.
    pub async fn delete(
        &self,
        context: &Context,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        for _ in 0..TRIES {
            let current = self.get(kind, namespace, name).await?;
            let (object, owners) = codec::decode_apart(&current)?;
            check_preconditions(kind, name, &object, options)?;
            admission::validate(
                self,
                context,
                kind,
                Operation::Delete,
                None,
                Some(&object),
                "",
            )
            .instrument(trace::step("validating admission"))
            .await?;
            let Some(marked) = self.mark(kind, &object, options) else {
                if options.dry_run {
                    return Ok(Deleted::Gone(current));
                }
                match self.remove(kind, &current).await? {
                    Some(entry) => return Ok(Deleted::Gone(entry)),
                    None if options.resource_version.is_some() => {
                        return Err(Status::modified(kind.group, kind.plural, name));
                    }
                    None => continue,
                }
            };
            let (stored, offset) = codec::encode(&marked, owners, &self.encodes)?;
            if options.dry_run || stored == current.stored() {
                return Ok(Deleted::Pending(current));
            }
            let key = current.key.to_string();
            let txn = Txn {
                compares: vec![Compare::Revision(key.clone(), current.revision)],
                ops: vec![Op::Put {
                    key,
                    stored,
                    rv_offset: Some(offset),
                    expire_after: None,
                }],
                lazy: false,
            };
            if let Outcome::Committed { mut entries, .. } =
                self.store.txn(txn).await.map_err(store_status)?
                && let Some(entry) = entries.pop().flatten()
            {
                return Ok(Deleted::Pending(entry));
            }
        }
        Err(Status::modified(kind.group, kind.plural, name))
    }

    /// The object marked for deletion; `None` when nothing holds it and it may be removed at once.
    fn mark(&self, kind: &Kind, object: &Value, options: &DeleteOptions) -> Option<Value> {
        let mut marked = object.clone();
        let was_deleting = is_deleting(object);
        let finalizers = finalizers_after(kind, object, options);
        let metadata = object::metadata(&mut marked);
        if finalizers.is_empty() {
            metadata.remove("finalizers");
        } else {
            metadata.insert("finalizers".into(), finalizers.into());
        }
        let mut grace = grace_of(kind, object, options);
        if was_deleting {
            // A second delete may only shorten what is left.
            let left = object["metadata"]["deletionGracePeriodSeconds"]
                .as_i64()
                .unwrap_or(0);
            grace = if options.grace.is_some() {
                grace.min(left)
            } else {
                left
            };
        }
        let shortened = was_deleting
            && Some(grace) != object["metadata"]["deletionGracePeriodSeconds"].as_i64();
        let metadata = object::metadata(&mut marked);
        if !was_deleting || shortened {
            let now = self.world.now();
            let due = now
                .checked_add(SignedDuration::from_secs(grace))
                .unwrap_or(now);
            metadata.insert("deletionTimestamp".into(), api::time::seconds(due).into());
            metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
            if !was_deleting && object["metadata"]["generation"].as_i64().unwrap_or(0) > 0 {
                let generation = object["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
                metadata.insert("generation".into(), generation.into());
            }
        }
        if kind.plural == "namespaces" {
            object::child(&mut marked, "status").insert("phase".into(), "Terminating".into());
        }
        if nothing_holds(kind, &marked) {
            None
        } else {
            Some(marked)
        }
    }
}

fn check_preconditions(
    kind: &Kind,
    name: &str,
    object: &Value,
    options: &DeleteOptions,
) -> Result<(), Status> {
    let pairs = [
        ("UID", "uid", &options.uid),
        (
            "ResourceVersion",
            "resourceVersion",
            &options.resource_version,
        ),
    ];
    for (title, field, wanted) in pairs {
        let current = text(object, &["metadata", field]);
        if let Some(wanted) = wanted
            && wanted != current
        {
            let why = format!(
                "Precondition failed: {title} in precondition: {wanted}, {title} in object meta: {current}"
            );
            return Err(Status::conflict(kind.group, kind.plural, name, why));
        }
    }
    Ok(())
}

/// How long a Pod gets to stop, in seconds; other kinds have no grace.
fn grace_of(kind: &Kind, object: &Value, options: &DeleteOptions) -> i64 {
    if !kind.group.is_empty() || kind.plural != "pods" {
        return 0;
    }
    let unstarted = text(object, &["spec", "nodeName"]).is_empty();
    let ended = matches!(text(object, &["status", "phase"]), "Succeeded" | "Failed");
    if unstarted || ended {
        return 0;
    }
    let spec = object["spec"]["terminationGracePeriodSeconds"]
        .as_i64()
        .unwrap_or(30);
    match options.grace {
        // A negative period means "as soon as it can stop".
        Some(given) if given < 0 => 1,
        Some(given) => given,
        None if spec < 0 => 1,
        None => spec,
    }
}

/// The finalizers once the propagation policy is among them.
fn finalizers_after(kind: &Kind, object: &Value, options: &DeleteOptions) -> Vec<String> {
    let mut list: Vec<String> = object::strings(object, &["metadata", "finalizers"])
        .map(str::to_owned)
        .collect();
    let has = |list: &[String], f: &str| list.iter().any(|x| x == f);
    let (orphan, foreground) = match options.propagation.as_str() {
        "Orphan" => (true, false),
        "Foreground" => (false, true),
        "Background" => (false, false),
        // Upstream keeps this default of the oldest controller.
        _ if kind.plural == "replicationcontrollers" && !has(&list, FOREGROUND) => (true, false),
        _ => (has(&list, ORPHAN), has(&list, FOREGROUND)),
    };
    for (finalizer, wanted) in [(ORPHAN, orphan), (FOREGROUND, foreground)] {
        if wanted && !has(&list, finalizer) {
            list.push(finalizer.to_owned());
        } else if !wanted {
            list.retain(|f| f != finalizer);
        }
    }
    list
}
