//! Server-side apply: a PATCH whose body is a configuration, merged into the object by who owns what ([`api::apply`]).

use api::apply::managers::{self, Refusal};
use api::apply::{Writer, conflict};
use api::facts::{Kind, TypeId};
use api::{FieldError, Status, time};
use serde_json::{Map, Value};

use super::managed::{self, Tracking};
use super::{Context, FieldValidation, WriteOptions, Written, codec, key, store_status};
use crate::Core;
use crate::authz::{Attributes, Decision};
use crate::object::{self, text};

/// Tries at an object that comes and goes while it is applied to.
const TRIES: usize = 5;

impl WriteOptions {
    /// Checks the options of an apply.
    ///
    /// # Errors
    /// 422 without a manager.
    pub fn check_apply(&self) -> Result<(), Status> {
        if self.field_manager.is_empty() {
            let error = FieldError::required("fieldManager", "is required for apply patch");
            return Err(Status::invalid(
                "meta.k8s.io",
                "PatchOptions",
                "",
                vec![error],
            ));
        }
        Ok(())
    }

    /// Checks the options of any other patch.
    ///
    /// # Errors
    /// 422 if it is to force what only an apply can.
    pub fn check_no_force(&self) -> Result<(), Status> {
        if self.force.is_some() {
            let error = FieldError::forbidden("force", "may not be specified for non-apply patch");
            return Err(Status::invalid(
                "meta.k8s.io",
                "PatchOptions",
                "",
                vec![error],
            ));
        }
        Ok(())
    }
}

/// A configuration to apply.
pub struct Config {
    /// As it was sent.
    sent: Value,
    /// With its values in canonical form.
    pub canonical: Value,
    /// `default/web; apps/v1, Kind=Deployment`, for errors.
    about: String,
}

impl Config {
    /// Reads the configuration of an object of `kind`.
    ///
    /// # Errors
    /// 400 for what is not YAML, is of another kind, or has managed fields itself; 500 as upstream for what does not fit.
    pub fn read(
        kind: &Kind,
        namespace: &str,
        name: &str,
        body: &[u8],
        options: &WriteOptions,
        context: &Context,
    ) -> Result<Self, Status> {
        let id = (kind.group, kind.version, kind.kind);
        Self::of_type(kind.ty, id, namespace, name, body, options, context)
    }

    /// Turns it into a configuration of the form in which the kind is stored.
    pub fn convert(&mut self, to_stored: impl Fn(&mut Value)) {
        to_stored(&mut self.sent);
        to_stored(&mut self.canonical);
    }

    /// Reads the configuration of a workload's Scale, as one of the workload.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn of_scale(
        kind: &Kind,
        namespace: &str,
        name: &str,
        body: &[u8],
        options: &WriteOptions,
        context: &Context,
    ) -> Result<Self, Status> {
        let ty = kind
            .subresource("scale")
            .and_then(api::facts::subresource_type)
            .ok_or_else(Status::no_such_path)?;
        let id = ("autoscaling", "v1", "Scale");
        let config = Self::of_type(ty, id, namespace, name, body, options, context)?;
        let part = |whole: &Value| {
            let mut part = Value::Object(Map::new());
            if let Some(replicas) = whole["spec"].get("replicas") {
                object::child(&mut part, "spec").insert("replicas".into(), replicas.clone());
            }
            for precondition in ["uid", "resourceVersion"] {
                if let Some(value) = whole["metadata"].get(precondition) {
                    object::metadata(&mut part).insert(precondition.into(), value.clone());
                }
            }
            part
        };
        Ok(Self {
            sent: part(&config.sent),
            canonical: part(&config.canonical),
            about: config.about,
        })
    }

    fn of_type(
        ty: TypeId,
        (group, version, kind): (&str, &str, &str),
        namespace: &str,
        name: &str,
        body: &[u8],
        options: &WriteOptions,
        context: &Context,
    ) -> Result<Self, Status> {
        let (sent, duplicates) = api::decode::parse(body, api::decode::Content::Yaml)
            .map_err(|why| Status::bad_request(format!("error decoding YAML: {why}")))?;
        if !sent.is_object() {
            let found = codec::json_type(&sent);
            return Err(Status::bad_request(format!(
                "error decoding YAML: json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"
            )));
        }
        let findings = api::decode::strict_errors(&[], &duplicates);
        match options.field_validation {
            FieldValidation::Strict if !findings.is_empty() => {
                let findings = findings.join(", ");
                return Err(Status::bad_request(format!(
                    "error strict decoding YAML: {findings}"
                )));
            }
            FieldValidation::Warn => findings.into_iter().for_each(|f| context.warn(f)),
            _ => {}
        }
        let about_kind =
            |group: &str, version: &str, kind: &str| format!("{group}/{version}, Kind={kind}");
        let (given_group, given_version) =
            api::facts::split_api_version(text(&sent, &["apiVersion"]));
        let given = (given_group, given_version, text(&sent, &["kind"]));
        if given != (group, version, kind) {
            let given = about_kind(given.0, given.1, given.2);
            return Err(Status::bad_request(format!("invalid object type: {given}")));
        }
        if object::at(&sent, &["metadata", "managedFields"]).is_some_and(|m| !m.is_null()) {
            return Err(Status::bad_request("metadata.managedFields must be nil"));
        }
        let given = object::name(&sent);
        if !given.is_empty() && given != name {
            return Err(Status::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
        let about = format!("{namespace}/{name}; {}", about_kind(group, version, kind));
        api::apply::owned::owned(ty, &sent, api::apply::Scope::ALL)
            .map_err(|why| unfit(&about, &why))?;
        let mut canonical = sent.clone();
        let conformed = api::decode::conform(ty, &mut canonical);
        if let Some(error) = conformed.type_error(kind, version) {
            return Err(Status::bad_request(error));
        }
        Ok(Self {
            sent,
            canonical,
            about,
        })
    }
}

/// Upstream gives this no better code.
fn unfit(about: &str, why: &str) -> Status {
    Status::unknown(format!(
        "failed to create typed patch object ({about}): {why}"
    ))
}

impl Core {
    /// Applies a configuration to an object, or creates it. The second value tells which.
    ///
    /// # Errors
    /// 409 when others own fields of it with other values; else as an update or a creation.
    pub async fn apply(
        &self,
        context: &Context,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        subresource: &str,
        config: &Config,
        options: &WriteOptions,
    ) -> Result<(Written, bool), Status> {
        let options = WriteOptions {
            tracking: Tracking::Applied,
            sees_managed: true,
            ..options.clone()
        };
        // A Scale's owners are kept in the workload, which is what is written.
        let written_to = if subresource == "scale" {
            ""
        } else {
            subresource
        };
        for _ in 0..TRIES {
            let path = key(kind, namespace, name);
            if self.store.get(&path).await.map_err(store_status)?.is_none() {
                if !subresource.is_empty() {
                    return Err(Status::not_found(kind.group, kind.plural, name));
                }
                match self
                    .apply_new(context, kind, namespace, name, config, &options)
                    .await
                {
                    Err(status) if status.reason == "AlreadyExists" => continue,
                    done => return done.map(|written| (written, true)),
                }
            }
            let mut change = |current: &Value| {
                let mut live = current.clone();
                let metadata = object::metadata(&mut live);
                metadata.remove("resourceVersion");
                let managed = metadata.remove("managedFields").unwrap_or_default();
                let mut new =
                    self.applied(kind, subresource, Some(&live), managed, config, &options)?;
                codec::settle_namespace(&mut new, kind, namespace)?;
                Ok(new)
            };
            match self
                .update(
                    context,
                    kind,
                    namespace,
                    name,
                    written_to,
                    &mut change,
                    &options,
                )
                .await
            {
                Err(status) if status.code == 404 && subresource.is_empty() => {}
                done => return done.map(|written| (written, false)),
            }
        }
        Err(Status::modified(kind.group, kind.plural, name))
    }

    /// Creates what is not there yet, if the user may.
    async fn apply_new(
        &self,
        context: &Context,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        config: &Config,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        let attributes = Attributes {
            verb: "create".into(),
            group: kind.group.into(),
            resource: kind.plural.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Attributes::default()
        };
        if let Decision::NoOpinion(reason) =
            self.authorizer.authorize(&context.user, &attributes).await
        {
            return Err(crate::refused(&attributes, &context.user, &reason));
        }
        let uid = text(&config.canonical, &["metadata", "uid"]);
        if !uid.is_empty() {
            let why = format!(
                "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            );
            return Err(Status::conflict(kind.group, kind.plural, name, why));
        }
        let mut new = self.applied(kind, "", None, Value::Null, config, options)?;
        object::metadata(&mut new).insert("name".into(), name.into());
        self.create(context, kind, namespace, new, options).await
    }

    /// What becomes of `live`, with its managed fields.
    fn applied(
        &self,
        kind: &Kind,
        subresource: &str,
        live: Option<&Value>,
        managed: Value,
        config: &Config,
        options: &WriteOptions,
    ) -> Result<Value, Status> {
        let text = if managed.is_null() {
            "[]".to_owned()
        } else {
            managed.to_string()
        };
        let managed = managers::read(&text)
            .map_err(|why| Status::unknown(format!("failed to decode managed fields: {why}")))?;
        let (api_version, now) = (kind.api_version(), time::seconds(self.world.now()));
        let writer = Writer {
            manager: &options.field_manager,
            api_version: &api_version,
            subresource,
            now: &now,
        };
        let applied = managers::apply(
            kind.ty,
            managed::scope(kind, subresource),
            live,
            &config.sent,
            &config.canonical,
            managed,
            &writer,
            options.force.unwrap_or(false),
        );
        let applied = applied.map_err(|refusal| match refusal {
            Refusal::Unfit(why) => unfit(&config.about, &why),
            Refusal::Conflicts(mut conflicts) => {
                if subresource == "scale" {
                    // Whoever applies a Scale is told of Scales.
                    let (parent, scale) =
                        (format!(" using {api_version}"), " using autoscaling/v1");
                    for conflict in &mut conflicts {
                        conflict.manager = conflict.manager.replace(&parent, scale);
                    }
                }
                conflict::status(&conflicts)
            }
        })?;
        let mut object = applied.object;
        managed::put(&mut object, managers::write(applied.managed).as_deref())?;
        Ok(object)
    }
}
