//! Who owns which field: keeps `metadata.managedFields` on every write ([`api::apply`]).
//!
//! As upstream, ownership is settled after defaulting and before admission, so nobody owns what admission or the server
//! itself (a Service's IP, a binding) fills in.

use api::apply::{Scope, Writer, managers};
use api::facts::Kind;
use api::{FieldError, Status, time};
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

/// Settles the owners of `new`'s fields and returns the text of its managed fields. `new` does not hold them: `sent` is
/// what the writer has in their place, `live` what is stored. They may be edited through the object but not through a
/// subresource. `old` is `None` for a creation.
pub(super) fn track(
    core: &Core,
    context: &Context,
    kind: &Kind,
    subresource: &str,
    old: Option<(&Value, Option<&str>)>,
    new: &Value,
    sent: Option<&Value>,
    options: &WriteOptions,
) -> Option<String> {
    let (old, live) = old.map_or((None, None), |(old, live)| (Some(old), live));
    let through = match options.tracking {
        Tracking::Changes => subresource,
        Tracking::Scale => "scale",
        Tracking::Applied => return sent.map(Value::to_string),
        Tracking::Untouched => return live.map(str::to_owned),
    };
    let sent = sent.filter(|_| through.is_empty());
    let text = sent.map(Value::to_string);
    let entries = match (sent, &text) {
        (Some(sent), _) if managers::is_reset(sent) => Some(Vec::new()),
        (Some(_), Some(text)) if Some(text.as_str()) != live => {
            // What cannot be read is ignored, as is its absence: clients that don't know the field must not lose it.
            let entries = managers::read(text).and_then(|mut entries| {
                managers::check(&mut entries)?;
                Ok(entries)
            });
            entries.ok().filter(|entries| !entries.is_empty())
        }
        _ => None,
    };
    let entries = entries
        .or_else(|| managers::read(live?).ok())
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
    managers::write(entries)
}

/// Puts the text of managed fields into an object that is to be shown.
///
/// # Errors
/// 500 if the text, which is our own, is not JSON.
pub(super) fn put(object: &mut Value, managed: Option<&str>) -> Result<(), Status> {
    if let Some(managed) = managed {
        let managed = serde_json::from_str(managed).map_err(Status::internal)?;
        object::metadata(object).insert("managedFields".into(), managed);
    }
    Ok(())
}
