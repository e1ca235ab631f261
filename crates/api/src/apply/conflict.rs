//! What an apply would take from others, told as upstream tells it.

use std::collections::BTreeMap;

use super::managers::Entry;
use super::set::Set;
use crate::Status;
use crate::field::quote;

/// One field that another manager owns and that has another value in the applied configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Whose field it is: `"kubectl-client-side-apply" using apps/v1`.
    pub manager: String,
    /// `.spec.replicas`.
    pub path: String,
}

/// The conflicts over `fields` with the manager of `entry`.
pub(super) fn with(entry: &Entry<'_>, fields: &Set) -> Vec<Conflict> {
    let mut manager = quote(entry.manager());
    if !entry.subresource().is_empty() {
        manager = format!("{manager} with subresource {}", quote(entry.subresource()));
    }
    if !entry.is_applied() {
        manager = format!("{manager} using {}", entry.api_version());
    }
    let of = |path| Conflict {
        manager: manager.clone(),
        path,
    };
    fields.paths().into_iter().map(of).collect()
}

/// The 409 for conflicts.
#[must_use]
pub fn status(conflicts: &[Conflict]) -> Status {
    let message = if let [one] = conflicts {
        format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            one.manager, one.path
        )
    } else {
        let mut by_manager: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for conflict in conflicts {
            by_manager
                .entry(&conflict.manager)
                .or_default()
                .push(&conflict.path);
        }
        let mut lines = Vec::new();
        for (manager, paths) in by_manager {
            lines.push(format!("conflicts with {manager}:"));
            lines.extend(paths.iter().map(|path| format!("- {path}")));
        }
        format!(
            "Apply failed with {} conflicts: {}",
            conflicts.len(),
            lines.join("\n")
        )
    };
    let status = Status::apply_conflict(message);
    conflicts.iter().fold(status, |status, conflict| {
        let message = format!("conflict with {}", conflict.manager);
        status.with_cause("FieldManagerConflict", &message, &conflict.path)
    })
}
