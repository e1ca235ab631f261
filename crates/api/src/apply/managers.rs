//! The entries of `metadata.managedFields`, and how an update and an apply change them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Scope;
use super::compare::{Comparison, compare};
use super::conflict::{self, Conflict};
use super::merge::merge;
use super::owned::owned;
use super::remove::remove;
use super::set::Set;
use crate::facts::TypeId;

/// Entries from updates that an object keeps; older ones are merged, as upstream does.
const MAX_UPDATERS: usize = 10;
/// Whose the merged ones are.
const ANCIENT: &str = "ancient-changes";
/// Whose the fields are that were there before anybody was tracked.
const BEFORE: &str = "before-first-apply";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// One entry, in the form in which it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    head: Map<String, Value>,
    fields: Set,
}

/// Who writes, and through what.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    pub manager: &'a str,
    /// The version of the object that is written.
    pub api_version: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// The time of the write, RFC 3339.
    pub now: &'a str,
}

impl Entry {
    fn new(writer: &Writer<'_>, applied: bool, fields: Set) -> Self {
        let mut head = Map::new();
        let mut put = |name: &str, value: &str| head.insert(name.into(), value.into());
        put("manager", writer.manager);
        put("operation", if applied { "Apply" } else { "Update" });
        put("apiVersion", writer.api_version);
        put("fieldsType", "FieldsV1");
        put("time", writer.now);
        if !writer.subresource.is_empty() {
            put("subresource", writer.subresource);
        }
        Self { head, fields }
    }

    fn text(&self, name: &str) -> &str {
        self.head.get(name).and_then(Value::as_str).unwrap_or("")
    }

    #[must_use]
    pub fn manager(&self) -> &str {
        self.text("manager")
    }

    #[must_use]
    pub fn api_version(&self) -> &str {
        self.text("apiVersion")
    }

    #[must_use]
    pub fn subresource(&self) -> &str {
        self.text("subresource")
    }

    #[must_use]
    pub fn is_applied(&self) -> bool {
        self.text("operation") == "Apply"
    }

    #[must_use]
    pub fn fields(&self) -> &Set {
        &self.fields
    }

    fn touch(&mut self, now: &str) {
        self.head.insert("time".into(), now.into());
    }

    /// An applier stays the same whatever version it applies in.
    fn is_of(&self, writer: &Writer<'_>, applied: bool) -> bool {
        self.is_applied() == applied
            && self.manager() == writer.manager
            && self.subresource() == writer.subresource
            && (applied || self.api_version() == writer.api_version)
    }

    fn read(entry: Value) -> Result<Self, String> {
        let Value::Object(mut head) = entry else {
            return Err("an entry must be an object".into());
        };
        let fields = head.remove("fieldsV1").unwrap_or_default();
        let fields = Set::read(fields).map_err(|why| format!("error decoding set: {why}"))?;
        let entry = Self { head, fields };
        if !matches!(entry.text("operation"), "Apply" | "Update") {
            return Err("operation must be `Apply` or `Update`".into());
        }
        if entry.api_version().is_empty() {
            return Err("apiVersion must not be empty".into());
        }
        match entry.text("fieldsType") {
            "FieldsV1" => Ok(entry),
            "" => Err("missing fieldsType in managed fields entry".into()),
            other => Err(format!(
                "invalid fieldsType {other:?} in managed fields entry"
            )),
        }
    }

    fn into_value(mut self) -> Value {
        self.head
            .insert("fieldsV1".into(), self.fields.into_value());
        Value::Object(self.head)
    }
}

/// Reads `metadata.managedFields`.
///
/// # Errors
/// What is wrong with an entry.
pub fn read(managed: Value) -> Result<Vec<Entry>, String> {
    match managed {
        Value::Array(entries) => entries.into_iter().map(Entry::read).collect(),
        Value::Null => Ok(Vec::new()),
        other => Err(format!("managedFields must be a list, got {other}")),
    }
}

/// `metadata.managedFields`; `None` when there are none.
#[must_use]
pub fn write(entries: Vec<Entry>) -> Option<Value> {
    let mut entries = entries;
    entries.sort_by(|a, b| {
        let key = |e: &Entry| {
            let text = |name| e.text(name).to_owned();
            (
                text("operation"),
                text("time"),
                text("manager"),
                text("apiVersion"),
                text("subresource"),
            )
        };
        key(a).cmp(&key(b))
    });
    let entries: Vec<Value> = entries.into_iter().map(Entry::into_value).collect();
    (!entries.is_empty()).then_some(Value::Array(entries))
}

/// Whether a writer asks for the tracking of an object to end: an empty list, or one empty entry.
#[must_use]
pub fn is_reset(managed: &Value) -> bool {
    match managed.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([one]) => one
            .as_object()
            .is_some_and(|entry| entry.values().all(|v| v.is_null() || v == "")),
        _ => false,
    }
}

/// The entries after `writer` made `new` of `old` (`None`: it created it). An object that nobody tracked stays untracked.
///
/// With `quiet` the writer's entry keeps its time when its fields stay the same: heartbeats are no news.
#[must_use]
pub fn update(
    ty: TypeId,
    scope: Scope,
    old: Option<&Value>,
    new: &Value,
    mut managed: Vec<Entry>,
    writer: &Writer<'_>,
    quiet: bool,
) -> Vec<Entry> {
    if old.is_some() && managed.is_empty() {
        return managed;
    }
    let nothing = Value::Object(Map::new());
    let Comparison { changed, removed } = compare(ty, old.unwrap_or(&nothing), new, scope);
    if changed.is_empty() && removed.is_empty() {
        return managed;
    }
    let mut own = None;
    for (i, entry) in managed.iter_mut().enumerate() {
        if entry.is_of(writer, false) {
            own = Some(i);
        } else {
            entry.fields.subtract(&changed);
        }
        entry.fields.subtract(&removed);
    }
    if !changed.is_empty() {
        match own {
            Some(i) => {
                let entry = &mut managed[i];
                let news = !entry.fields.contains(&changed);
                if news {
                    entry.fields.add(changed);
                }
                if news || !quiet {
                    entry.touch(writer.now);
                }
            }
            None => managed.push(Entry::new(writer, false, changed)),
        }
    }
    managed.retain(|entry| !entry.fields.is_empty());
    cap(&mut managed);
    managed
}

/// Merges the oldest updaters of each version until few enough are left.
fn cap(managed: &mut Vec<Entry>) {
    let mut updaters = managed.iter().filter(|e| !e.is_applied()).count();
    if updaters <= MAX_UPDATERS {
        return;
    }
    managed.sort_by(|a, b| {
        (a.is_applied(), a.text("time"), a.manager()).cmp(&(
            b.is_applied(),
            b.text("time"),
            b.manager(),
        ))
    });
    // Where the first entry of each version is: it takes up the next ones.
    let mut first: BTreeMap<String, usize> = BTreeMap::new();
    let mut i = 0;
    while i < managed.len() && updaters > MAX_UPDATERS && !managed[i].is_applied() {
        let version = managed[i].api_version().to_owned();
        let Some(&bucket) = first.get(&version) else {
            first.insert(version, i);
            i += 1;
            continue;
        };
        let merged = managed.remove(i);
        updaters -= 1;
        let into = &mut managed[bucket];
        into.head.insert("manager".into(), ANCIENT.into());
        into.head.remove("subresource");
        into.touch(merged.text("time"));
        into.fields.add(merged.fields);
    }
}

/// What an apply makes.
#[derive(Debug)]
pub struct Applied {
    /// The object without its managed fields.
    pub object: Value,
    pub managed: Vec<Entry>,
}

/// Why a configuration cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It does not fit the type.
    Unfit(String),
    /// Others own fields of it.
    Conflicts(Vec<Conflict>),
}

/// Applies `config` to `live`, both without managed fields; `live` is `None` if there is no object yet.
///
/// `canonical` is `config` with its values in canonical form: what is stored.
///
/// # Errors
/// [`Refusal`]: the configuration does not fit, or without `force` it takes fields from others.
pub fn apply(
    ty: TypeId,
    scope: Scope,
    live: Option<&Value>,
    config: &Value,
    canonical: &Value,
    mut managed: Vec<Entry>,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Applied, Refusal> {
    let nothing = Value::Object(Map::new());
    let fields = owned(ty, config, scope).map_err(Refusal::Unfit)?;
    if let (Some(live), true) = (live, managed.is_empty()) {
        let before = Writer {
            manager: BEFORE,
            ..*writer
        };
        managed = update(ty, scope, None, live, Vec::new(), &before, false);
    }
    let live = live.unwrap_or(&nothing);
    let mut object = merge(ty, live, canonical);
    let at = managed.iter().position(|e| e.is_of(writer, true));
    let own = at.map(|at| managed.remove(at));
    if let Some(own) = &own
        && !fields.contains(&own.fields)
    {
        let mut kept = fields.clone();
        for entry in &managed {
            kept.add(entry.fields.clone());
        }
        remove(ty, &mut object, &own.fields, &kept);
    }
    let difference = compare(ty, live, &object, scope);
    if !force {
        let mut conflicts = Vec::new();
        for entry in &managed {
            let taken = entry.fields.intersection(&difference.changed);
            if !taken.is_empty() {
                conflicts.push((entry, taken));
            }
        }
        if writer.manager == "kubectl"
            && !conflicts.is_empty()
            && let Some(allowed) = applied_by_client(ty, scope, live, writer.api_version)
        {
            for (_, taken) in &mut conflicts {
                taken.subtract(&allowed);
            }
        }
        let mut told: Vec<Conflict> = conflicts
            .iter()
            .flat_map(|(entry, taken)| conflict::with(entry, taken))
            .collect();
        if !told.is_empty() {
            told.sort_by(|a, b| (&a.manager, &a.path).cmp(&(&b.manager, &b.path)));
            return Err(Refusal::Conflicts(told));
        }
    }
    for entry in &mut managed {
        entry.fields.subtract(&difference.changed);
        entry.fields.subtract(&difference.removed);
    }
    managed.retain(|entry| !entry.fields.is_empty());
    if !fields.is_empty() {
        let entry = match own {
            Some(own) if own.fields == fields && difference.is_same() => {
                let mut own = own;
                let version = writer.api_version;
                own.head.insert("apiVersion".into(), version.into());
                own
            }
            _ => Entry::new(writer, true, fields),
        };
        managed.push(entry);
    }
    if writer.manager == "kubectl" {
        keep_annotation(&mut object, config);
    }
    Ok(Applied { object, managed })
}

fn last_applied(object: &Value) -> Option<&str> {
    let annotation = object["metadata"]["annotations"].get(LAST_APPLIED)?;
    annotation.as_str().filter(|text| !text.is_empty())
}

/// The fields that client-side apply set last and that still have that value: kubectl may take these from its former
/// self without a conflict.
fn applied_by_client(ty: TypeId, scope: Scope, live: &Value, api_version: &str) -> Option<Set> {
    let config: Value = serde_json::from_str(last_applied(live)?).ok()?;
    if config["apiVersion"] != api_version {
        return None;
    }
    let mut fields = owned(ty, &config, scope).ok()?;
    let mut canonical = config;
    crate::decode::conform(ty, &mut canonical);
    let Comparison { changed, removed } = compare(ty, &canonical, live, scope);
    fields.subtract(&changed);
    fields.subtract(&removed);
    Some(fields)
}

/// Where client-side apply left its annotation, kubectl's server-side apply keeps it up, so that one can go back.
fn keep_annotation(object: &mut Value, config: &Value) {
    if last_applied(object).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(Value::Object(annotations)) = config["metadata"].get_mut("annotations") {
        annotations.remove(LAST_APPLIED);
        if annotations.is_empty()
            && let Value::Object(metadata) = &mut config["metadata"]
        {
            metadata.remove("annotations");
        }
    }
    object["metadata"]["annotations"][LAST_APPLIED] = format!("{config}\n").into();
}
