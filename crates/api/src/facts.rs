//! What is known of each built-in kind and of each field: the tables that generic code walks.
//!
//! The rows are generated (`xtask facts`) from the crates `k8s-openapi` and `k8s-pb`, for every generally available kind
//! of Kubernetes 1.36. Which of them are served is for `strategy` to say.

use std::collections::HashMap;
use std::sync::OnceLock;

#[path = "generated/facts.rs"]
mod rows;

pub use rows::{KINDS, TYPES};

/// A row of [`TYPES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TypeId(pub u16);

/// A built-in kind that has a resource.
#[derive(Debug)]
pub struct Kind {
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub list_kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    /// Sorted. `create` alone: never stored.
    pub verbs: &'static [&'static str],
    pub subresources: &'static [Subresource],
    pub ty: TypeId,
    /// Where upstream keeps it in etcd: `/registry/minions/`. Kinds of one resource in two versions share it.
    pub storage_prefix: &'static str,
}

impl Kind {
    /// `v1`, `apps/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Whether objects of it are kept (reviews and bindings are not).
    #[must_use]
    pub fn stored(&self) -> bool {
        self.verbs.contains(&"get")
    }

    #[must_use]
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// The key of an object in the store.
    #[must_use]
    pub fn key(&self, namespace: &str, name: &str) -> String {
        let prefix = self.storage_prefix;
        if self.namespaced {
            format!("{prefix}{namespace}/{name}")
        } else {
            format!("{prefix}{name}")
        }
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        (self.group, self.version, self.plural) == (other.group, other.version, other.plural)
    }
}

impl Eq for Kind {}

/// A subresource of a kind: `pods/log`.
#[derive(Debug)]
pub struct Subresource {
    pub name: &'static str,
    /// Group, version and kind of what it reads and writes.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub verbs: &'static [&'static str],
}

/// An object type.
#[derive(Debug)]
pub struct Type {
    pub name: &'static str,
    /// Its name in OpenAPI v2 and v3: `io.k8s.api.core.v1.Pod`.
    pub definition: &'static str,
    /// Server-side apply owns it as a whole.
    pub atomic: bool,
    /// By name, sorted.
    pub fields: &'static [Field],
}

impl Type {
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields
            .binary_search_by(|f| f.name.cmp(name))
            .ok()
            .map(|i| &self.fields[i])
    }
}

/// One field of a type.
#[derive(Debug)]
pub struct Field {
    pub name: &'static str,
    pub ty: Ty,
    /// Must be there in OpenAPI's sense; upstream writes it even when it is empty.
    pub required: bool,
    pub list: List,
    /// The keys of a [`List::Map`].
    pub keys: &'static [&'static str],
    pub patch: Patch,
    /// The key that strategic-merge patch merges by; empty for lists of scalars.
    pub merge_key: &'static str,
    /// The protobuf numbers of the messages that JSON inlines it from, then its own; empty if protobuf has it not.
    pub pb: &'static [u32],
    /// A plain number or boolean of upstream's types: zero is the same as none.
    pub omit_zero: bool,
}

/// A JSON type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ty {
    Bool,
    Int32,
    Int64,
    Float,
    String,
    /// Base64 in JSON.
    Bytes,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    /// Any JSON.
    Any,
    Struct(TypeId),
    List(&'static Ty),
    Map(&'static Ty),
}

/// How server-side apply sees a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    Atomic,
    Set,
    Map,
}

/// Flags of strategic-merge patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patch {
    pub merge: bool,
    pub replace: bool,
    pub retain_keys: bool,
}

impl Patch {
    pub const NONE: Self = Self {
        merge: false,
        replace: false,
        retain_keys: false,
    };
    pub const MERGE: Self = Self {
        merge: true,
        ..Self::NONE
    };
    pub const REPLACE: Self = Self {
        replace: true,
        ..Self::NONE
    };
    pub const RETAIN_KEYS: Self = Self {
        retain_keys: true,
        ..Self::NONE
    };
    pub const MERGE_RETAIN_KEYS: Self = Self {
        merge: true,
        retain_keys: true,
        replace: false,
    };
}

/// The type of a row.
#[must_use]
pub fn type_of(id: TypeId) -> &'static Type {
    &TYPES[usize::from(id.0)]
}

/// A type by its OpenAPI name: `io.k8s.api.core.v1.Pod`.
#[must_use]
pub fn type_by_definition(definition: &str) -> Option<TypeId> {
    static INDEX: OnceLock<HashMap<&'static str, u16>> = OnceLock::new();
    let index = INDEX.get_or_init(|| (0..).zip(TYPES).map(|(i, t)| (t.definition, i)).collect());
    index.get(definition).copied().map(TypeId)
}

/// A kind by where it is served: `("apps", "v1", "deployments")`.
#[must_use]
pub fn kind(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    KINDS
        .binary_search_by(|k| (k.group, k.version, k.plural).cmp(&(group, version, plural)))
        .ok()
        .map(|i| &KINDS[i])
}

/// A kind by its name: `("apps", "v1", "Deployment")`.
#[must_use]
pub fn kind_by_name(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    KINDS
        .iter()
        .find(|k| k.kind == kind && k.group == group && k.version == version)
}

/// The type of what a subresource reads and writes, where it is an object in these tables.
#[must_use]
pub fn subresource_type(sub: &Subresource) -> Option<TypeId> {
    if let Some(kind) = kind_by_name(sub.group, sub.version, sub.kind) {
        return Some(kind.ty);
    }
    type_without_resource(sub.kind)
}

fn type_without_resource(kind: &str) -> Option<TypeId> {
    let definition = match kind {
        "Scale" => "io.k8s.api.autoscaling.v1.Scale",
        "Eviction" => "io.k8s.api.policy.v1.Eviction",
        "TokenRequest" => "io.k8s.api.authentication.v1.TokenRequest",
        "Status" => "io.k8s.apimachinery.pkg.apis.meta.v1.Status",
        _ => return None,
    };
    type_by_definition(definition)
}

/// The type of any object that bodies or answers carry: `("autoscaling/v1", "Scale")`.
#[must_use]
pub fn type_by_name(api_version: &str, kind: &str) -> Option<TypeId> {
    let (group, version) = split_api_version(api_version);
    kind_by_name(group, version, kind)
        .map(|k| k.ty)
        .or_else(|| type_without_resource(kind))
}

/// Splits `apps/v1` or `v1` into group and version.
#[must_use]
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// The type of `metav1.DeleteOptions`.
#[must_use]
pub fn delete_options() -> Option<TypeId> {
    type_by_definition("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_and_found() {
        assert!(KINDS.is_sorted_by_key(|k| (k.group, k.version, k.plural)));
        assert!(TYPES.iter().all(|t| t.fields.is_sorted_by_key(|f| f.name)));
        let pods = kind("", "v1", "pods").unwrap();
        assert_eq!(
            (pods.kind, pods.list_kind, pods.storage_prefix),
            ("Pod", "PodList", "/registry/pods/")
        );
        assert_eq!(
            kind("", "v1", "nodes").unwrap().storage_prefix,
            "/registry/minions/"
        );
        assert_eq!(
            kind_by_name("apps", "v1", "Deployment")
                .unwrap()
                .short_names,
            ["deploy"]
        );
        let containers = type_by_definition("io.k8s.api.core.v1.PodSpec")
            .map(type_of)
            .unwrap()
            .field("containers")
            .unwrap();
        assert!(
            containers.patch.merge
                && containers.merge_key == "name"
                && containers.required
                && containers.pb == [2]
        );
        for kind in KINDS {
            assert!(
                !kind.plural.is_empty() && type_of(kind.ty).name == kind.kind,
                "{}",
                kind.kind
            );
            for sub in kind.subresources {
                assert!(
                    sub.kind.ends_with("Options") || subresource_type(sub).is_some(),
                    "{}/{}",
                    kind.plural,
                    sub.name
                );
            }
        }
    }
}
