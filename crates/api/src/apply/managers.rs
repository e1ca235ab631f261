//! The entries of `metadata.managedFields`, and how an update and an apply change them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::compare::{Comparison, compare};
use super::conflict::{self, Conflict};
use super::merge::merge;
use super::owned::owned;
use super::remove::remove;
use super::set::Set;
use super::{Scope, created, element};
use crate::facts::TypeId;

/// Entries from updates that an object keeps; older ones are merged, as upstream does.
const MAX_UPDATERS: usize = 10;
/// Whose the merged ones are.
const ANCIENT: &str = "ancient-changes";
/// Whose the fields are that were there before anybody was tracked.
const BEFORE: &str = "before-first-apply";
const FIELDS_V1: &str = "FieldsV1";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// One entry. Its fields stay the text that they are until somebody needs to look into them.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry<'a> {
    head: Head<'a>,
    fields: Fields<'a>,
}

/// All of an entry but its fields, in the order in which they are written.
#[derive(Debug, Clone, Default, PartialEq)]
struct Head<'a> {
    api_version: Cow<'a, str>,
    fields_type: Cow<'a, str>,
    manager: Cow<'a, str>,
    operation: Cow<'a, str>,
    subresource: Cow<'a, str>,
    time: Cow<'a, str>,
}

#[derive(Debug, Clone, PartialEq)]
enum Fields<'a> {
    /// As it is stored.
    Text(Cow<'a, str>),
    Set(Set),
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

impl<'a> Entry<'a> {
    fn new(writer: &Writer<'_>, applied: bool, fields: Fields<'a>) -> Self {
        let own = |text: &str| Cow::Owned(text.to_owned());
        let head = Head {
            api_version: own(writer.api_version),
            fields_type: FIELDS_V1.into(),
            manager: own(writer.manager),
            operation: if applied { "Apply" } else { "Update" }.into(),
            subresource: own(writer.subresource),
            time: own(writer.now),
        };
        Self { head, fields }
    }

    #[must_use]
    pub fn manager(&self) -> &str {
        &self.head.manager
    }

    #[must_use]
    pub fn api_version(&self) -> &str {
        &self.head.api_version
    }

    #[must_use]
    pub fn subresource(&self) -> &str {
        &self.head.subresource
    }

    #[must_use]
    pub fn is_applied(&self) -> bool {
        self.head.operation == "Apply"
    }

    /// The fields, to look into or change. What cannot be read is nothing.
    pub fn fields(&mut self) -> &mut Set {
        if let Fields::Text(text) = &self.fields {
            let set = serde_json::from_str(text).map_err(|e| e.to_string());
            self.fields = Fields::Set(set.and_then(Set::read).unwrap_or_default());
        }
        match &mut self.fields {
            Fields::Set(set) => set,
            Fields::Text(_) => unreachable!("it was just read"),
        }
    }

    /// Whether these, which were looked into, are the fields.
    fn holds(&self, fields: &Set) -> bool {
        matches!(&self.fields, Fields::Set(own) if own == fields)
    }

    fn is_empty(&self) -> bool {
        match &self.fields {
            Fields::Set(set) => set.is_empty(),
            Fields::Text(text) => text.len() <= "{}".len(),
        }
    }

    /// Takes fields away, looking into these only if some of them may be there.
    fn subtract(&mut self, gone: &Set) {
        if gone.is_empty() || matches!(&self.fields, Fields::Text(text) if !gone.may_be_in(text)) {
            return;
        }
        self.fields().subtract(gone);
    }

    fn touch(&mut self, now: &str) {
        self.head.time = Cow::Owned(now.to_owned());
    }

    /// An applier stays the same whatever version it applies in.
    fn is_of(&self, writer: &Writer<'_>, applied: bool) -> bool {
        self.is_applied() == applied
            && self.manager() == writer.manager
            && self.subresource() == writer.subresource
            && (applied || self.api_version() == writer.api_version)
    }

    fn check(&self) -> Result<(), String> {
        if !matches!(&*self.head.operation, "Apply" | "Update") {
            return Err("operation must be `Apply` or `Update`".into());
        }
        if self.api_version().is_empty() {
            return Err("apiVersion must not be empty".into());
        }
        match &*self.head.fields_type {
            FIELDS_V1 => Ok(()),
            "" => Err("missing fieldsType in managed fields entry".into()),
            other => Err(format!(
                "invalid fieldsType {other:?} in managed fields entry"
            )),
        }
    }

    fn write(&self, out: &mut String) {
        let head = &self.head;
        out.push_str("{\"apiVersion\":");
        element::push_json_text(out, &head.api_version);
        out.push_str(",\"fieldsType\":\"FieldsV1\",\"fieldsV1\":");
        match &self.fields {
            Fields::Text(text) => out.push_str(text),
            Fields::Set(set) => set.write(out),
        }
        for (name, value) in [
            (",\"manager\":", &head.manager),
            (",\"operation\":", &head.operation),
            (",\"subresource\":", &head.subresource),
            (",\"time\":", &head.time),
        ] {
            if !value.is_empty() {
                out.push_str(name);
                element::push_json_text(out, value);
            }
        }
        out.push('}');
    }
}

/// Reads the text of `metadata.managedFields`. The sets of fields are not looked into: see [`check`].
///
/// # Errors
/// What is wrong with an entry.
pub fn read(managed: &str) -> Result<Vec<Entry<'_>>, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Parts<'a> {
        #[serde(borrow, default)]
        api_version: Cow<'a, str>,
        #[serde(borrow, default)]
        fields_type: Cow<'a, str>,
        #[serde(borrow, default, rename = "fieldsV1")]
        fields: Option<&'a RawValue>,
        #[serde(borrow, default)]
        manager: Cow<'a, str>,
        #[serde(borrow, default)]
        operation: Cow<'a, str>,
        #[serde(borrow, default)]
        subresource: Cow<'a, str>,
        #[serde(borrow, default)]
        time: Option<Cow<'a, str>>,
    }
    let entries: Vec<Parts<'_>> = serde_json::from_str(managed).map_err(|e| e.to_string())?;
    let mut out = Vec::with_capacity(entries.len());
    for parts in entries {
        let entry = Entry {
            head: Head {
                api_version: parts.api_version,
                fields_type: parts.fields_type,
                manager: parts.manager,
                operation: parts.operation,
                subresource: parts.subresource,
                time: parts.time.unwrap_or_default(),
            },
            fields: Fields::Text(parts.fields.map_or("{}", RawValue::get).into()),
        };
        entry.check()?;
        out.push(entry);
    }
    Ok(out)
}

/// Looks into the sets of fields of entries that somebody sent, and brings them into their one form.
///
/// # Errors
/// What is wrong with a set.
pub fn check(entries: &mut [Entry<'_>]) -> Result<(), String> {
    for entry in entries {
        if let Fields::Text(text) = &entry.fields {
            let set = serde_json::from_str(text).map_err(|e| e.to_string());
            let set = set.and_then(Set::read);
            entry.fields = Fields::Set(set.map_err(|why| format!("error decoding set: {why}"))?);
        }
    }
    Ok(())
}

/// The text of `metadata.managedFields`; `None` when there are none.
#[must_use]
pub fn write(mut entries: Vec<Entry<'_>>) -> Option<String> {
    entries.sort_by(|a, b| {
        let key = |e: &Entry<'_>| {
            let head = &e.head;
            [
                &head.operation,
                &head.time,
                &head.manager,
                &head.api_version,
                &head.subresource,
            ]
            .map(|text| text.as_ref().to_owned())
        };
        if a.head.operation == b.head.operation && a.head.time != b.head.time {
            return a.head.time.cmp(&b.head.time);
        }
        key(a).cmp(&key(b))
    });
    let mut out = String::with_capacity(1024);
    for entry in &entries {
        out.push(if out.is_empty() { '[' } else { ',' });
        entry.write(&mut out);
    }
    out.push(']');
    (!entries.is_empty()).then_some(out)
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
pub fn update<'a>(
    ty: TypeId,
    scope: Scope,
    old: Option<&Value>,
    new: &Value,
    mut managed: Vec<Entry<'a>>,
    writer: &Writer<'_>,
    quiet: bool,
) -> Vec<Entry<'a>> {
    if old.is_some() && managed.is_empty() {
        return managed;
    }
    if old.is_none()
        && managed.is_empty()
        && let Some(fields) = created::fields(ty, new, scope)
    {
        return vec![Entry::new(writer, false, Fields::Text(fields.into()))];
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
            entry.subtract(&changed);
        }
        entry.subtract(&removed);
    }
    if !changed.is_empty() {
        match own {
            Some(i) => {
                let entry = &mut managed[i];
                let fields = entry.fields();
                let news = !fields.contains(&changed);
                if news {
                    fields.add(changed);
                }
                if news || !quiet {
                    entry.touch(writer.now);
                }
            }
            None => managed.push(Entry::new(writer, false, Fields::Set(changed))),
        }
    }
    managed.retain(|entry| !entry.is_empty());
    cap(&mut managed);
    managed
}

/// Merges the oldest updaters of each version until few enough are left.
fn cap(managed: &mut Vec<Entry<'_>>) {
    let mut updaters = managed.iter().filter(|e| !e.is_applied()).count();
    if updaters <= MAX_UPDATERS {
        return;
    }
    managed.sort_by(|a, b| {
        (a.is_applied(), &a.head.time, a.manager()).cmp(&(
            b.is_applied(),
            &b.head.time,
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
        let mut merged = managed.remove(i);
        updaters -= 1;
        let into = &mut managed[bucket];
        into.head.manager = ANCIENT.into();
        into.head.subresource = "".into();
        into.head.time = std::mem::take(&mut merged.head.time);
        into.fields().add(std::mem::take(merged.fields()));
    }
}

/// What an apply makes.
#[derive(Debug)]
pub struct Applied<'a> {
    /// The object without its managed fields.
    pub object: Value,
    pub managed: Vec<Entry<'a>>,
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
pub fn apply<'a>(
    ty: TypeId,
    scope: Scope,
    live: Option<&Value>,
    config: &Value,
    canonical: &Value,
    mut managed: Vec<Entry<'a>>,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Applied<'a>, Refusal> {
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
    let mut own = at.map(|at| managed.remove(at));
    if let Some(own) = &mut own
        && !fields.contains(own.fields())
    {
        let mut kept = fields.clone();
        for entry in &mut managed {
            kept.add(entry.fields().clone());
        }
        remove(ty, &mut object, own.fields(), &kept);
    }
    let difference = compare(ty, live, &object, scope);
    if !force {
        let mut conflicts = Vec::new();
        for entry in &mut managed {
            let taken = entry.fields().intersection(&difference.changed);
            if !taken.is_empty() {
                conflicts.push((&*entry, taken));
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
        entry.subtract(&difference.changed);
        entry.subtract(&difference.removed);
    }
    managed.retain(|entry| !entry.is_empty());
    if !fields.is_empty() {
        let same = difference.is_same();
        let entry = match own.filter(|own| same && own.holds(&fields)) {
            Some(mut own) => {
                own.head.api_version = Cow::Owned(writer.api_version.to_owned());
                own
            }
            None => Entry::new(writer, true, Fields::Set(fields)),
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
