//! LIST: the concatenation of shared bytes, selected by what is kept beside them.

use std::sync::Arc;

use api::facts::Kind;
use api::{FieldSelector, LabelSelector, Selector, Status};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use store::Entry;

use super::{key, meta, store_status};
use crate::Core;
use crate::request::Query;

/// Which objects a list or watch is about.
#[derive(Debug, Clone)]
pub struct Selection {
    pub labels: Selector,
    pub fields: FieldSelector,
}

impl Selection {
    /// Reads the selectors of a query.
    ///
    /// # Errors
    /// 400 when one cannot be read or names an unknown field.
    pub fn of(query: &Query, kind: &Kind, name: &str) -> Result<Self, Status> {
        let labels = LabelSelector::parse(query.get("labelSelector"))
            .map_err(|e| Status::bad_request(format!("unable to parse requirement: {e}")))?;
        let mut fields =
            FieldSelector::parse(query.get("fieldSelector")).map_err(Status::bad_request)?;
        if !name.is_empty() {
            let exact = FieldSelector::parse(&format!("metadata.name={name}"))
                .map_err(Status::bad_request)?;
            fields.terms.extend(exact.terms);
        }
        for term in &mut fields.terms {
            term.field = strategy::versions::stored_field(kind, &term.field);
        }
        let known = if fields.terms.is_empty() {
            Vec::new()
        } else {
            strategy::index_fields(kind, &serde_json::Value::Null)
        };
        for term in &fields.terms {
            if !known.iter().any(|(field, _)| *field == term.field) {
                let message = match (kind.group, kind.plural) {
                    ("", _) => format!("field label not supported: {}", term.field),
                    _ => format!(
                        "\"{}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                        term.field
                    ),
                };
                return Err(Status::bad_request(message));
            }
        }
        Ok(Self { labels, fields })
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// Whether it selects this version.
    #[must_use]
    pub fn matches(&self, entry: &Entry) -> bool {
        if self.is_everything() {
            return true;
        }
        let Some(meta) = meta(entry) else {
            return false;
        };
        self.labels.matches(&|k| meta.label(k))
            && self.fields.matches(&|k| Some(meta.field(k).unwrap_or("")))
    }
}

/// A page of a list.
pub struct Page {
    pub revision: u64,
    pub entries: Vec<Arc<Entry>>,
    pub continue_token: String,
    pub remaining: Option<u64>,
}

/// Where the next page starts: upstream's token form.
#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    rv: i64,
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

impl Core {
    /// A page of `kind`'s objects in `namespace` (empty: everywhere).
    ///
    /// # Errors
    /// 400 for bad parameters, 410 for history that is gone.
    pub async fn list(
        &self,
        kind: &Kind,
        namespace: &str,
        selection: &Selection,
        query: &Query,
    ) -> Result<Page, Status> {
        let limit = parse_limit(query.get("limit"))?;
        let prefix = key(kind, namespace, "");
        if let Some(name) = selection.fields.exact("metadata.name")
            && (!kind.namespaced || !namespace.is_empty())
            && !query.has("continue")
        {
            return self.list_one(kind, namespace, name, selection).await;
        }
        let (start, at) = place(query, &prefix, self.store.revision())?;
        let mut after = start;
        let mut at = at;
        let mut entries = Vec::new();
        loop {
            let range = self
                .store
                .range(
                    &prefix,
                    after.as_deref(),
                    at,
                    if limit == 0 { 0 } else { limit.max(500) },
                )
                .await
                .map_err(|e| continued(store_status(e), query))?;
            let last = range.entries.last().map(|e| e.key.to_string());
            let mut scanned = 0;
            for entry in range.entries.iter() {
                scanned += 1;
                if selection.matches(entry) {
                    entries.push(entry.clone());
                }
                if limit != 0 && entries.len() == limit {
                    break;
                }
            }
            let left = range.entries.len() as u64 - scanned + range.remaining;
            at = Some(range.revision);
            if limit != 0 && entries.len() == limit && left > 0 {
                let resume = range.entries[scanned as usize - 1]
                    .key
                    .strip_prefix(&*prefix)
                    .unwrap_or("");
                let token = Token {
                    v: TOKEN_VERSION.into(),
                    rv: i64::try_from(range.revision).unwrap_or(i64::MAX),
                    start: resume.to_owned(),
                };
                let json = serde_json::to_vec(&token).map_err(Status::internal)?;
                let remaining = selection.is_everything().then_some(left);
                let continue_token = URL_SAFE_NO_PAD.encode(json);
                return Ok(Page {
                    revision: range.revision,
                    entries,
                    continue_token,
                    remaining,
                });
            }
            if range.remaining == 0 {
                return Ok(Page {
                    revision: range.revision,
                    entries,
                    continue_token: String::new(),
                    remaining: None,
                });
            }
            after = last;
        }
    }

    async fn list_one(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        selection: &Selection,
    ) -> Result<Page, Status> {
        let revision = self.store.revision();
        let entry = self
            .store
            .get(&key(kind, namespace, name))
            .await
            .map_err(store_status)?;
        let entries: Vec<_> = entry.into_iter().filter(|e| selection.matches(e)).collect();
        let revision = entries
            .first()
            .map_or(revision, |e| e.revision.max(revision));
        Ok(Page {
            revision,
            entries,
            continue_token: String::new(),
            remaining: None,
        })
    }
}

fn parse_limit(text: &str) -> Result<usize, Status> {
    if text.is_empty() {
        return Ok(0);
    }
    let limit: i64 = text.parse().map_err(|_| {
        Status::bad_request(format!(
            "strconv.ParseInt: parsing \"{text}\": invalid syntax"
        ))
    })?;
    Ok(usize::try_from(limit).unwrap_or(0))
}

/// Where a list starts and at which revision.
fn place(
    query: &Query,
    prefix: &str,
    current: u64,
) -> Result<(Option<String>, Option<u64>), Status> {
    let (version, matching) = (
        query.get("resourceVersion"),
        query.get("resourceVersionMatch"),
    );
    let forbidden = |field: &str, why: &str| {
        Status::invalid(
            "meta.k8s.io",
            "ListOptions",
            "",
            vec![api::FieldError::forbidden(field, why)],
        )
    };
    let token = query.get("continue");
    if !token.is_empty() {
        if !matching.is_empty() {
            return Err(forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden when continue is provided",
            ));
        }
        if !version.is_empty() && version != "0" {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let bad =
            || Status::bad_request("continue key is not valid: illegal base64 data or version");
        let json = URL_SAFE_NO_PAD
            .decode(token)
            .or_else(|_| STANDARD.decode(token))
            .map_err(|_| bad())?;
        let token: Token = serde_json::from_slice(&json).map_err(|_| bad())?;
        if token.v != TOKEN_VERSION || token.start.contains("..") {
            return Err(bad());
        }
        let at = u64::try_from(token.rv).ok().filter(|rv| *rv > 0);
        return Ok((Some(format!("{prefix}{}", token.start)), at));
    }
    if version.is_empty() {
        if !matching.is_empty() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            return Err(forbidden("resourceVersionMatch", why));
        }
        return Ok((None, None));
    }
    let asked = parse_version(version)?;
    match matching {
        "" | "NotOlderThan" => {
            if asked > current {
                return Err(store_status(store::Error::Future { asked, current }));
            }
            // What is current is not older than anything that was asked for.
            Ok((None, None))
        }
        "Exact" if asked == 0 => Err(forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        )),
        "Exact" => Ok((None, Some(asked))),
        other => Err(Status::invalid(
            "meta.k8s.io",
            "ListOptions",
            "",
            vec![api::FieldError::not_supported(
                "resourceVersionMatch",
                &other.into(),
                &["Exact", "NotOlderThan", ""],
            )],
        )),
    }
}

/// A resourceVersion as a number.
///
/// # Errors
/// 400 as upstream.
pub fn parse_version(text: &str) -> Result<u64, Status> {
    text.parse().map_err(|_| {
        let error = api::FieldError::invalid(
            "resourceVersion",
            &text.into(),
            format!("strconv.ParseUint: parsing \"{text}\": invalid syntax"),
        );
        Status::bad_request(error.to_string())
    })
}

/// A continued list whose revision is gone gets its own message.
fn continued(status: Status, query: &Query) -> Status {
    if status.reason == "Expired" && query.has("continue") {
        return Status::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list \
             without the continue parameter.",
        );
    }
    status
}
