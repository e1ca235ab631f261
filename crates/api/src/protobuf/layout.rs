//! Which field has which number, by message.
//!
//! What JSON writes beside each other may lie in inner messages (`volumes[].hostPath` is in a `volumeSource`), so a
//! message's numbers lead to fields of the JSON object or to further numbers.

use std::sync::OnceLock;

use crate::facts::{self, Field, Ty, TypeId};

/// The numbers of a message, ascending.
#[derive(Debug, Default)]
pub struct Layout {
    parts: Vec<(u32, Part)>,
}

/// What has a number.
#[derive(Debug)]
pub enum Part {
    Field(&'static Field),
    /// A message whose fields are the outer object's in JSON.
    Inlined(Layout),
}

impl Layout {
    pub fn part(&self, number: u64) -> Option<&Part> {
        let at = self
            .parts
            .binary_search_by(|(n, _)| u64::from(*n).cmp(&number));
        at.ok().map(|i| &self.parts[i].1)
    }

    fn insert(&mut self, path: &[u32], field: &'static Field) {
        let Some((number, rest)) = path.split_first() else {
            return;
        };
        let at = match self.parts.binary_search_by(|(n, _)| n.cmp(number)) {
            Ok(at) => at,
            Err(at) => {
                let part = if rest.is_empty() {
                    Part::Field(field)
                } else {
                    Part::Inlined(Layout::default())
                };
                self.parts.insert(at, (*number, part));
                at
            }
        };
        if let (_, Part::Inlined(inner)) = &mut self.parts[at] {
            inner.insert(rest, field);
        }
    }
}

/// The layout of a type's message.
pub fn of(ty: TypeId) -> &'static Layout {
    static LAYOUTS: OnceLock<Vec<Layout>> = OnceLock::new();
    let all = LAYOUTS.get_or_init(|| {
        let layout = |ty: &'static facts::Type| {
            let mut layout = Layout::default();
            for field in ty.fields {
                layout.insert(field.pb, field);
            }
            layout
        };
        facts::TYPES.iter().map(layout).collect()
    });
    &all[usize::from(ty.0)]
}

/// How a field that may hold any JSON is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnyForm {
    /// A message with the JSON text: `RawExtension`, `FieldsV1`, `JSON`.
    Raw,
    /// `JSONSchemaPropsOrArray`.
    SchemaOrArray,
    /// `JSONSchemaPropsOrBool`.
    SchemaOrBool,
    /// `JSONSchemaPropsOrStringArray`.
    SchemaOrStrings,
}

/// The form of a [`Ty::Any`] in a field of type `ty`.
pub fn any_form(ty: TypeId, field: &str) -> AnyForm {
    if Some(ty) != schema_props() {
        return AnyForm::Raw;
    }
    match field {
        "items" => AnyForm::SchemaOrArray,
        "additionalItems" | "additionalProperties" => AnyForm::SchemaOrBool,
        "dependencies" => AnyForm::SchemaOrStrings,
        _ => AnyForm::Raw,
    }
}

/// The type of a JSON schema in a CustomResourceDefinition.
pub fn schema_props() -> Option<TypeId> {
    facts::type_by_definition(
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps",
    )
}

/// Whether a type's values are strings in JSON and in protobuf alike.
pub fn is_text(ty: Ty) -> bool {
    matches!(ty, Ty::String | Ty::Bytes | Ty::Quantity)
}
