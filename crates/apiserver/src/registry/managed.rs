//! Who owns which field: keeps `metadata.managedFields` on every write ([`api::apply`]).
//!
//! As upstream, ownership is settled after defaulting and before admission, so nobody owns what admission or the server
//! itself (a Service's IP, a binding) fills in.

use api::apply::{Scope, Writer, managers};
use api::facts::Kind;
use api::{FieldError, time};
use http::HeaderMap;
use serde_json::Value;

use super::update::is_heartbeat;
use super::{Context, WriteOptions};
use crate::Core;
use crate::object;

/// The longest name of a manager, bytes.
const MAX_MANAGER: usize = 128;

/// What a write does to the owners of fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tracking {
    /// The writer owns what it changes.
    #[default]
    Changes,
    /// The same, written through the `scale` subresource.
    Scale,
    /// An apply, which has settled it: the object's own entries are final.
    Applied,
    /// They stay as they are.
    Untouched,
}

/// What is wrong with the name of a manager.
#[must_use]
pub fn validate_manager(manager: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if manager.len() > MAX_MANAGER {
        errors.push(FieldError::too_long("fieldManager", MAX_MANAGER));
    }
    if manager.chars().any(char::is_control) {
        let why = "should only contain printable characters";
        errors.push(FieldError::invalid_str("fieldManager", manager, why));
    }
    errors
}

/// Who a program is by its User-Agent: what stands before the first `/`.
#[must_use]
pub fn agent(headers: &HeaderMap) -> String {
    let header = headers.get(http::header::USER_AGENT);
    let text = header.and_then(|v| v.to_str().ok()).unwrap_or("");
    let name = text.split('/').next().unwrap_or("");
    // Headers that can be read as text are ASCII.
    name[..name.len().min(MAX_MANAGER)].to_owned()
}

/// The part of the object that a write through `subresource` may change.
#[must_use]
pub fn scope(kind: &Kind, subresource: &str) -> Scope {
    if subresource == "status" {
        return Scope {
            status: true,
            metadata: strategy::status_holds_metadata(kind),
            rest: false,
        };
    }
    Scope {
        status: kind.subresource("status").is_none(),
        ..Scope::ALL
    }
}

/// Settles the owners of `new`'s fields. `old` is `None` for a creation; `sent` is what the writer has in
/// `metadata.managedFields`, which may be edited through the object but not through a subresource.
pub(super) fn track(
    core: &Core,
    context: &Context,
    kind: &Kind,
    subresource: &str,
    old: Option<&Value>,
    new: &mut Value,
    sent: Option<Value>,
    options: &WriteOptions,
) {
    let live = old.and_then(|old| old["metadata"].get("managedFields"));
    let through = match options.tracking {
        Tracking::Changes => subresource,
        Tracking::Scale => "scale",
        Tracking::Applied => return put(new, sent),
        Tracking::Untouched => return put(new, live.cloned()),
    };
    let sent = sent.filter(|sent| through.is_empty() || Some(sent) == live);
    let entries = match sent {
        Some(sent) if managers::is_reset(&sent) => Some(Vec::new()),
        // What cannot be read is ignored, as is its absence: clients that don't know the field must not lose it.
        Some(sent) => managers::read(sent).ok().filter(|e| !e.is_empty()),
        None => None,
    };
    let entries = entries
        .or_else(|| managers::read(live?.clone()).ok())
        .unwrap_or_default();
    let manager = if options.field_manager.is_empty() {
        &context.agent
    } else {
        &options.field_manager
    };
    let (api_version, now) = (kind.api_version(), time::seconds(core.world.now()));
    let writer = Writer {
        manager,
        api_version: &api_version,
        subresource: through,
        now: &now,
    };
    let quiet = old.is_some_and(|old| is_heartbeat(kind, old, new));
    let scope = scope(kind, through);
    let entries = managers::update(kind.ty, scope, old, new, entries, &writer, quiet);
    put(new, managers::write(entries));
}

fn put(object: &mut Value, managed: Option<Value>) {
    if let Some(managed) = managed {
        object::metadata(object).insert("managedFields".into(), managed);
    }
}
