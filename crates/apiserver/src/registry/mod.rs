//! The generic registry: every kind's verbs over the store. What differs per kind is in the `strategy` crate.

pub mod apply;
pub mod codec;
pub mod create;
pub mod delete;
pub mod list;
pub mod managed;
mod unattended;
mod update;
pub mod watch;

use std::sync::Arc;

use api::Status;
use api::facts::Kind;
use serde_json::Value;
use store::{Beside, Entry, Indexer};

use crate::Core;

/// What the registry keeps beside an object's bytes, so that selectors need not decode it.
#[derive(Debug, Default)]
pub struct Meta {
    labels: Box<[(Box<str>, Box<str>)]>,
    fields: Box<[(&'static str, Box<str>)]>,
}

impl Meta {
    /// A label's value.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels
            .binary_search_by(|(k, _)| (**k).cmp(key))
            .ok()
            .map(|i| &*self.labels[i].1)
    }

    /// An indexed field's value.
    #[must_use]
    pub fn field(&self, path: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(p, _)| *p == path)
            .map(|(_, v)| &**v)
    }
}

/// Makes [`Meta`] of stored forms.
pub struct MetaIndexer;

impl Indexer for MetaIndexer {
    fn index(&self, key: &str, stored: &[u8]) -> Beside {
        let Some(kind) = kind_of_key(key) else {
            return Arc::new(Meta::default());
        };
        let object = match codec::parse_apart(stored) {
            Ok((object, _)) => object,
            Err(error) => {
                tracing::error!(key, %error, "a stored object is not JSON");
                return Arc::new(Meta::default());
            }
        };
        let labels = object["metadata"]["labels"].as_object();
        let labels = labels
            .into_iter()
            .flatten()
            .filter_map(|(k, v)| Some((k.as_str().into(), v.as_str()?.into())));
        let fields = strategy::index_fields(kind, &object)
            .into_iter()
            .map(|(k, v)| (k, v.into_boxed_str()));
        Arc::new(Meta {
            labels: labels.collect(),
            fields: fields.collect(),
        })
    }
}

/// What is kept beside an entry.
#[must_use]
pub fn meta(entry: &Entry) -> Option<&Meta> {
    entry.beside.downcast_ref::<Meta>()
}

fn kind_of_key(key: &str) -> Option<&'static Kind> {
    api::facts::KINDS.iter().find(|k| {
        crate::served(k) && !k.storage_prefix.is_empty() && key.starts_with(k.storage_prefix)
    })
}

/// The store's key of an object; of a namespace's or the kind's prefix when `name` (and `namespace`) are empty.
#[must_use]
pub fn key(kind: &Kind, namespace: &str, name: &str) -> String {
    if kind.namespaced && !namespace.is_empty() {
        format!("{}{namespace}/{name}", kind.storage_prefix)
    } else {
        format!("{}{name}", kind.storage_prefix)
    }
}

/// Maps the store's errors to the API's.
#[must_use]
pub fn store_status(error: store::Error) -> Status {
    match error {
        store::Error::Compacted { asked, oldest } => {
            Status::expired(format!("too old resource version: {asked} ({oldest})"))
        }
        store::Error::Future { asked, current } => {
            let message = format!("Too large resource version: {asked}, current: {current}");
            Status::timeout(message, 1).with_cause(
                "ResourceVersionTooLarge",
                "Too large resource version",
                "",
            )
        }
        store::Error::TooLarge { size, limit, .. } => Status::too_large(format!(
            "the object has {size} bytes, more than the limit of {limit}"
        )),
        store::Error::Disk(why) => Status::internal(format!("the data store cannot write: {why}")),
        store::Error::Closed => Status::service_unavailable("the server is shutting down"),
        store::Error::Damaged(why) => Status::internal(why),
    }
}

/// Options of a write, from its query.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub field_validation: FieldValidation,
    /// Who the changed fields belong to; empty: whoever the User-Agent names.
    pub field_manager: String,
    /// For an apply: takes fields from others. `None` if it was not said.
    pub force: Option<bool>,
    pub tracking: managed::Tracking,
    /// Whether the change looks at the managed fields: then the current object has them.
    pub sees_managed: bool,
}

/// What to do about unknown and duplicate fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

impl WriteOptions {
    /// Reads `dryRun`, `fieldValidation`, `fieldManager` and `force`.
    ///
    /// # Errors
    /// 422 as upstream when one has an unknown value.
    pub fn of(query: &crate::request::Query, operation: &str) -> Result<Self, Status> {
        let invalid = |error| Err(Status::invalid("meta.k8s.io", operation, "", vec![error]));
        let dry_run = query.all("dryRun");
        if dry_run.iter().any(|v| v != "All") {
            let bad = Value::from(dry_run.to_vec());
            return invalid(api::FieldError::not_supported("dryRun", &bad, &["All"]));
        }
        let field_validation = match query.get("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                let known = ["Ignore", "Strict", "Warn"];
                return invalid(api::FieldError::not_supported(
                    "fieldValidation",
                    &other.into(),
                    &known,
                ));
            }
        };
        let field_manager = query.get("fieldManager").to_owned();
        let errors = managed::validate_manager(&field_manager);
        if !errors.is_empty() {
            return Err(Status::invalid("meta.k8s.io", operation, "", errors));
        }
        Ok(Self {
            dry_run: !dry_run.is_empty(),
            field_validation,
            field_manager,
            force: query.has("force").then(|| query.is_true("force")),
            tracking: managed::Tracking::Changes,
            sees_managed: false,
        })
    }
}

/// One request's context: who asks, and the warnings for the answer's headers.
pub struct Context {
    pub user: crate::user::User,
    /// The program that asks, as its User-Agent names it: who owns what it writes unless it says otherwise.
    pub agent: String,
    pub warnings: std::sync::Mutex<Vec<String>>,
}

impl Context {
    /// Adds a `Warning` header to the answer.
    pub fn warn(&self, text: impl Into<String>) {
        let mut warnings = self
            .warnings
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let text = text.into();
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }
}

/// An object as a write leaves it: stored, or for a dry run as it would be.
#[derive(Debug, Clone)]
pub enum Written {
    Stored(Arc<Entry>),
    DryRun(Value),
}

impl Written {
    /// The object's JSON.
    #[must_use]
    pub fn wire(&self) -> bytes::Bytes {
        match self {
            Self::Stored(entry) => entry.wire.clone(),
            Self::DryRun(value) => value.to_string().into(),
        }
    }
}

impl Core {
    /// An object's latest version.
    ///
    /// # Errors
    /// 404, or the store's.
    pub async fn get(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Entry>, Status> {
        let entry = self
            .store
            .get(&key(kind, namespace, name))
            .await
            .map_err(store_status)?;
        entry.ok_or_else(|| Status::not_found(kind.group, kind.plural, name))
    }

    /// An object's latest version, decoded.
    ///
    /// # Errors
    /// 404, or the store's.
    pub async fn get_value(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Value, Status> {
        codec::decode(&*self.get(kind, namespace, name).await?)
    }
}
