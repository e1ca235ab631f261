//! Changing objects: replace and patch are the same loop around a function from the current object to the new one.

use std::sync::Arc;

use api::Status;
use api::facts::Kind;
use serde_json::Value;
use store::{Compare, Entry, Op};
use tracing::Instrument as _;

use super::{Context, WriteOptions, Written, codec, key, managed, store_status};
use crate::Core;
use crate::admission::{self, Operation, quota};
use crate::object::{self, is_deleting, text};
use crate::trace;

/// Tries of a change that does not insist on a resourceVersion, when other writers are faster.
const TRIES: usize = 30;

/// A change: what the object becomes, given what it is.
pub type Change<'a> = dyn FnMut(&Value) -> Result<Value, Status> + Send + 'a;

impl Core {
    /// Changes an object (or its `subresource`) by `change` and stores the result.
    ///
    /// # Errors
    /// 404, conflicts, admission's and validation's.
    pub async fn update(
        &self,
        context: &Context,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        subresource: &str,
        change: &mut Change<'_>,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        for _ in 0..TRIES {
            let current = self.get(kind, namespace, name).await?;
            let (mut old, owners) = codec::decode_apart(&current)?;
            if options.sees_managed {
                managed::put(&mut old, owners)?;
            }
            let mut new = change(&old)?;
            let insisted = check_identity(kind, name, &old, &mut new)?;
            match self
                .replace(
                    context,
                    kind,
                    subresource,
                    &current,
                    (&old, owners),
                    new,
                    options,
                )
                .await?
            {
                Some(written) => return Ok(written),
                None if insisted => return Err(Status::modified(kind.group, kind.plural, name)),
                None => {}
            }
        }
        Err(Status::modified(kind.group, kind.plural, name))
    }

    /// Stores `new` in the place of `current`; `None` when another writer was faster.
    async fn replace(
        &self,
        context: &Context,
        kind: &'static Kind,
        subresource: &str,
        current: &Arc<Entry>,
        (old, old_owners): (&Value, Option<&str>),
        mut new: Value,
        options: &WriteOptions,
    ) -> Result<Option<Written>, Status> {
        let sub = (!subresource.is_empty()).then_some(subresource);
        let sent = object::metadata(&mut new).remove("managedFields");
        keep_system_metadata(old, &mut new);
        object::drop_empty_metadata(&mut new);
        strategy::default(kind, &mut new);
        strategy::narrow(&mut new, old, subresource);
        let owners = managed::track(
            self,
            context,
            kind,
            subresource,
            Some((old, old_owners)),
            &new,
            sent.as_ref(),
            options,
        );
        admission::mutate(self, kind, Operation::Update, &mut new)
            .instrument(trace::step("mutating admission"))
            .await?;
        crate::allocate::inherit(kind, &mut new, old);
        if sub.is_some() && admission::certificates::is_request(kind) {
            admission::certificates::stamp_conditions(&mut new, old, self.world.now());
        }
        // A binding is the one way to set what is immutable otherwise, and checks itself what it sets.
        if subresource != "binding" {
            strategy::prepare_update(kind, &mut new, old, sub);
            strategy::stamp(kind, &mut new, Some(old), self.world.now());
            let errors = strategy::validate_update(kind, &new, old, sub);
            if !errors.is_empty() {
                return Err(Status::invalid(
                    kind.group,
                    kind.kind,
                    object::name(old),
                    errors,
                ));
            }
        }
        admission::validate(
            self,
            context,
            kind,
            Operation::Update,
            Some(&new),
            Some(old),
            subresource,
        )
        .instrument(trace::step("validating admission"))
        .await?;
        let write = |new| quota::Write {
            kind,
            new: Some(new),
            old: Some(old),
        };
        if options.dry_run {
            quota::check(self, &write(&new)).await?;
            // Nothing is written: it keeps the version that it has.
            let version = old["metadata"]["resourceVersion"].clone();
            object::metadata(&mut new).insert("resourceVersion".into(), version);
            managed::put(&mut new, owners.as_deref())?;
            return Ok(Some(Written::DryRun(new)));
        }
        if is_deleting(old) && nothing_holds(kind, &new) {
            return self
                .remove(kind, current)
                .await
                .map(|gone| gone.map(Written::Stored));
        }
        let claim = self.allocator.claim(kind, &mut new, Some(old))?;
        let (stored, offset) = codec::encode(&new, owners.as_deref(), &self.encodes)?;
        if stored == current.stored() {
            return Ok(Some(Written::Stored(current.clone())));
        }
        let path = current.key.to_string();
        let own = Compare::Revision(path.clone(), current.revision);
        let put = Op::Put {
            key: path,
            stored,
            rv_offset: Some(offset),
            expire_after: self.expiry(kind),
        };
        let lazy = old_owners == owners.as_deref() && is_heartbeat(kind, old, &new);
        let Some(entry) = quota::commit(self, &write(&new), own, put, lazy).await? else {
            return Ok(None);
        };
        claim.keep();
        self.written(kind);
        Ok(entry.map(Written::Stored))
    }

    /// Removes the exact version; `None` when another writer was faster.
    pub(crate) async fn remove(
        &self,
        kind: &'static Kind,
        current: &Arc<Entry>,
    ) -> Result<Option<Arc<Entry>>, Status> {
        let old = codec::decode(current)?;
        let write = quota::Write {
            kind,
            new: None,
            old: Some(&old),
        };
        let path = current.key.to_string();
        let own = Compare::Revision(path.clone(), current.revision);
        let delete = Op::Delete { key: path };
        let Some(entry) = quota::commit(self, &write, own, delete, false).await? else {
            return Ok(None);
        };
        self.written(kind);
        self.allocator.release(kind, &old);
        Ok(entry)
    }

    /// Replaces an object by a body, creating it where the kind allows that.
    ///
    /// # Errors
    /// As [`Self::update`].
    pub async fn put(
        &self,
        context: &Context,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        subresource: &str,
        mut value: Value,
        options: &WriteOptions,
    ) -> Result<(Written, bool), Status> {
        codec::settle_namespace(&mut value, kind, namespace)?;
        let given = object::name(&value).to_owned();
        if given.is_empty() {
            return Err(Status::bad_request("name must be provided"));
        }
        if given != name {
            return Err(Status::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
        let create = subresource.is_empty() && creates_on_update(kind);
        if create
            && self
                .store
                .get(&key(kind, namespace, name))
                .await
                .map_err(store_status)?
                .is_none()
        {
            object::metadata(&mut value).remove("resourceVersion");
            return self
                .create(context, kind, namespace, value, options)
                .await
                .map(|w| (w, true));
        }
        let mut change = |_: &Value| {
            require_version(kind, name, &value)?;
            Ok(value.clone())
        };
        let written = self
            .update(
                context,
                kind,
                namespace,
                name,
                subresource,
                &mut change,
                options,
            )
            .await?;
        Ok((written, false))
    }
}

/// Kinds that a PUT of an unknown name creates, as upstream's `AllowCreateOnUpdate`.
fn creates_on_update(kind: &Kind) -> bool {
    matches!(
        (kind.group, kind.plural),
        ("", "endpoints" | "events" | "limitranges" | "services")
            | ("coordination.k8s.io", "leases")
            | ("events.k8s.io", "events")
            | ("node.k8s.io", "runtimeclasses")
            | ("rbac.authorization.k8s.io", _)
    )
}

/// Refuses a replacement that does not say what it replaces, where the kind demands that.
fn require_version(kind: &Kind, name: &str, new: &Value) -> Result<(), Status> {
    let given = text(new, &["metadata", "resourceVersion"]);
    if strategy::allows_unconditional_update(kind) || !matches!(given, "" | "0") {
        return Ok(());
    }
    let path = "metadata.resourceVersion";
    let error = api::FieldError::invalid(path, &0.into(), "must be specified for an update");
    // Upstream names the resource where the kind belongs.
    let (group, resource) = (kind.group, kind.plural);
    Err(Status::invalid(group, resource, name, vec![error]))
}

/// Checks that `new` is the same object as `old`; returns whether the writer insists on a version.
fn check_identity(kind: &Kind, name: &str, old: &Value, new: &mut Value) -> Result<bool, Status> {
    let (given, current) = (
        text(new, &["metadata", "uid"]),
        text(old, &["metadata", "uid"]),
    );
    if !given.is_empty() && given != current {
        let why = format!(
            "Precondition failed: UID in precondition: {given}, UID in object meta: {current}"
        );
        return Err(Status::conflict(kind.group, kind.plural, name, why));
    }
    let given = text(new, &["metadata", "resourceVersion"]);
    if given.is_empty() || given == "0" {
        return Ok(false);
    }
    if given != text(old, &["metadata", "resourceVersion"]) {
        return Err(Status::modified(kind.group, kind.plural, name));
    }
    Ok(true)
}

/// What only the server sets stays as it is.
fn keep_system_metadata(old: &Value, new: &mut Value) {
    let metadata = object::metadata(new);
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "generation",
        "name",
        "namespace",
        "generateName",
    ] {
        match old["metadata"].get(field) {
            Some(value) => {
                metadata.insert(field.to_owned(), value.clone());
            }
            None => {
                metadata.remove(field);
            }
        }
    }
}

/// Whether an object whose deletion was asked for may go now.
pub(crate) fn nothing_holds(kind: &Kind, object: &Value) -> bool {
    let finalizers = object::items(object, &["metadata", "finalizers"]).is_empty();
    let grace =
        object::at(object, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
    let namespace =
        kind.plural != "namespaces" || object::items(object, &["spec", "finalizers"]).is_empty();
    finalizers && namespace && grace.unwrap_or(0) == 0
}

/// Whether only heartbeat times changed, and perhaps who owns them: such a write may reach the disk later (DESIGN, law 4).
pub(super) fn is_heartbeat(kind: &Kind, old: &Value, new: &Value) -> bool {
    fn without_version(object: &mut Value) {
        let metadata = object::metadata(object);
        metadata.remove("resourceVersion");
        metadata.remove("managedFields");
    }
    let strip = |object: &Value| {
        let mut object = object.clone();
        without_version(&mut object);
        match kind.plural {
            "leases" => {
                object::child(&mut object, "spec").remove("renewTime");
            }
            _ => {
                if let Some(Value::Array(conditions)) = object["status"].get_mut("conditions") {
                    for condition in conditions {
                        if let Value::Object(c) = condition {
                            c.remove("lastHeartbeatTime");
                        }
                    }
                }
            }
        }
        object
    };
    matches!(kind.plural, "leases" | "nodes") && strip(old) == strip(new)
}
