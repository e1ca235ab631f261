//! Creating objects.

use api::Status;
use api::facts::Kind;
use serde_json::Value;
use store::{Compare, Op};
use tracing::Instrument as _;

use super::{Context, WriteOptions, Written, codec, key, managed, store_status, unattended};
use crate::Core;
use crate::admission::{self, Operation, quota};
use crate::object::{self, text};
use crate::trace;

/// The longest part of a generated name that the client gives: upstream's 63 less the suffix.
const GENERATED_PREFIX: usize = 58;
const SUFFIX: usize = 5;
/// Tries at finding a free generated name, as upstream.
const NAME_TRIES: usize = 8;

impl Core {
    /// Creates `value`, which is decoded and conforms to the kind.
    ///
    /// # Errors
    /// Any status: admission's, validation's, 409 when it exists.
    pub async fn create(
        &self,
        context: &Context,
        kind: &'static Kind,
        namespace: &str,
        mut value: Value,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        codec::settle_namespace(&mut value, kind, namespace)?;
        if !text(&value, &["metadata", "resourceVersion"]).is_empty() {
            return Err(Status::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        let generate = text(&value, &["metadata", "generateName"]).to_owned();
        let generated = object::name(&value).is_empty() && !generate.is_empty();
        if !generated {
            return self
                .create_named(context, kind, namespace, value, options)
                .await;
        }
        let mut prefix = generate.as_str();
        if prefix.len() > GENERATED_PREFIX {
            let end = (0..=GENERATED_PREFIX)
                .rev()
                .find(|i| prefix.is_char_boundary(*i))
                .unwrap_or(0);
            prefix = &prefix[..end];
        }
        let mut tries = 1;
        loop {
            let mut named = value.clone();
            let name = format!("{prefix}{}", self.world.rng.suffix(SUFFIX));
            object::metadata(&mut named).insert("name".into(), name.into());
            match self
                .create_named(context, kind, namespace, named, options)
                .await
            {
                Err(status) if status.reason == "AlreadyExists" && tries < NAME_TRIES => tries += 1,
                done => return done,
            }
        }
    }

    async fn create_named(
        &self,
        context: &Context,
        kind: &'static Kind,
        namespace: &str,
        mut value: Value,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        let now = api::time::seconds(self.world.now());
        let metadata = object::metadata(&mut value);
        for set_by_server in [
            "selfLink",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ] {
            metadata.remove(set_by_server);
        }
        let sent = metadata.remove("managedFields");
        metadata.insert("uid".into(), self.world.rng.uuid().into());
        metadata.insert("creationTimestamp".into(), now.into());
        object::drop_empty_metadata(&mut value);
        strategy::default(kind, &mut value);
        if admission::certificates::is_request(kind) {
            admission::certificates::set_requester(&context.user, &mut value);
        }
        let owners = managed::track(
            self,
            context,
            kind,
            "",
            None,
            &value,
            sent.as_ref(),
            options,
        );
        admission::mutate(self, kind, Operation::Create, &mut value)
            .instrument(trace::step("mutating admission"))
            .await?;
        strategy::prepare_create(kind, &mut value);
        strategy::stamp(kind, &mut value, None, self.world.now());
        let name = object::name(&value).to_owned();
        let errors = strategy::validate_create(kind, &value);
        if !errors.is_empty() {
            return Err(Status::invalid(kind.group, kind.kind, &name, errors));
        }
        admission::validate(
            self,
            context,
            kind,
            Operation::Create,
            Some(&value),
            None,
            "",
        )
        .instrument(trace::step("validating admission"))
        .await?;
        if let Some(warning) = unattended::warning(kind) {
            context.warn(warning);
        }
        let path = key(kind, namespace, &name);
        let write = |new| quota::Write {
            kind,
            new: Some(new),
            old: None,
        };
        if options.dry_run {
            if self.store.get(&path).await.map_err(store_status)?.is_some() {
                return Err(Status::already_exists(kind.group, kind.plural, &name));
            }
            quota::check(self, &write(&value)).await?;
            managed::put(&mut value, owners.as_deref())?;
            return Ok(Written::DryRun(value));
        }
        let claim = self.allocator.claim(kind, &mut value, None)?;
        let (stored, offset) = codec::encode(&value, owners.as_deref(), &self.encodes)?;
        let put = Op::Put {
            key: path.clone(),
            stored,
            rv_offset: Some(offset),
            expire_after: self.expiry(kind),
        };
        match quota::commit(self, &write(&value), Compare::Absent(path), put, false).await? {
            Some(entry) => {
                claim.keep();
                self.written(kind);
                entry
                    .map(Written::Stored)
                    .ok_or_else(|| Status::internal("the store returned no entry"))
            }
            None => Err(Status::already_exists(kind.group, kind.plural, &name)),
        }
    }
}
