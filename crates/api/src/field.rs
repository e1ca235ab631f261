//! Errors about one field, worded as apimachinery's `validation/field` words them.

use std::fmt;

use serde_json::Value;

/// What is wrong with the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    Required,
    Invalid,
    Duplicate,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    TooFew,
    TypeInvalid,
    NotFound,
    Internal,
}

impl ErrorKind {
    /// The `reason` of a status cause.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::Duplicate => "FieldValueDuplicate",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TooFew => "FieldValueTooFew",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::NotFound => "FieldValueNotFound",
            Self::Internal => "InternalError",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::Duplicate => "Duplicate value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::TooFew => "Too few",
            Self::NotFound => "Not found",
            Self::Internal => "Internal error",
        }
    }
}

/// One field's error. `Display` gives `spec.replicas: Invalid value: -1: must be …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    pub kind: ErrorKind,
    /// The path from the object's root: `spec.containers[0].image`.
    pub field: String,
    /// The offending value as it is shown (strings already quoted).
    pub bad_value: Option<String>,
    pub detail: String,
}

impl FieldError {
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Required,
            field: field.into(),
            bad_value: None,
            detail: detail.into(),
        }
    }

    pub fn invalid(field: impl Into<String>, bad: &Value, detail: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Invalid,
            field: field.into(),
            bad_value: Some(render(bad)),
            detail: detail.into(),
        }
    }

    /// [`Self::invalid`] of a string.
    pub fn invalid_str(field: impl Into<String>, bad: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Invalid,
            field: field.into(),
            bad_value: Some(quote(bad)),
            detail: detail.into(),
        }
    }

    pub fn type_invalid(field: impl Into<String>, bad: &Value, detail: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::TypeInvalid,
            field: field.into(),
            bad_value: Some(render(bad)),
            detail: detail.into(),
        }
    }

    pub fn duplicate(field: impl Into<String>, bad: &Value) -> Self {
        Self {
            kind: ErrorKind::Duplicate,
            field: field.into(),
            bad_value: Some(render(bad)),
            detail: String::new(),
        }
    }

    pub fn not_found(field: impl Into<String>, bad: &Value) -> Self {
        Self {
            kind: ErrorKind::NotFound,
            field: field.into(),
            bad_value: Some(render(bad)),
            detail: String::new(),
        }
    }

    /// `supported` in upstream's order (sorted, where upstream lists a set).
    pub fn not_supported(field: impl Into<String>, bad: &Value, supported: &[&str]) -> Self {
        let detail = if supported.is_empty() {
            String::new()
        } else {
            format!(
                "supported values: {}",
                supported
                    .iter()
                    .map(|s| quote(s))
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        };
        Self {
            kind: ErrorKind::NotSupported,
            field: field.into(),
            bad_value: Some(render(bad)),
            detail,
        }
    }

    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Forbidden,
            field: field.into(),
            bad_value: None,
            detail: detail.into(),
        }
    }

    /// The value has more than `max` bytes.
    pub fn too_long(field: impl Into<String>, max: usize) -> Self {
        let unit = if max == 1 { "byte" } else { "bytes" };
        let detail = format!("may not be more than {max} {unit}");
        Self {
            kind: ErrorKind::TooLong,
            field: field.into(),
            bad_value: None,
            detail,
        }
    }

    pub fn too_many(field: impl Into<String>, actual: usize, max: usize) -> Self {
        let unit = if max == 1 { "item" } else { "items" };
        let detail = format!("must have at most {max} {unit}");
        Self {
            kind: ErrorKind::TooMany,
            field: field.into(),
            bad_value: Some(actual.to_string()),
            detail,
        }
    }

    pub fn internal(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Internal,
            field: field.into(),
            bad_value: None,
            detail: detail.into(),
        }
    }

    /// The text after the field's path: what a status cause carries as its message.
    #[must_use]
    pub fn body(&self) -> String {
        let mut out = self.kind.words().to_owned();
        if let Some(value) = &self.bad_value {
            out.push_str(": ");
            out.push_str(value);
        }
        if !self.detail.is_empty() {
            out.push_str(": ");
            out.push_str(&self.detail);
        }
        out
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

impl std::error::Error for FieldError {}

/// Several errors as one text: a single one stands alone, more stand in brackets, each text once.
#[must_use]
pub fn aggregate(errors: &[FieldError]) -> String {
    let mut texts: Vec<String> = Vec::with_capacity(errors.len());
    for error in errors {
        let text = error.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    if texts.len() == 1 {
        texts.remove(0)
    } else {
        format!("[{}]", texts.join(", "))
    }
}

/// A value as upstream shows it in an error: strings quoted, the rest as JSON.
#[must_use]
pub fn render(value: &Value) -> String {
    match value {
        Value::String(s) => quote(s),
        other => other.to_string(),
    }
}

/// Go's `%q`.
#[must_use]
pub fn quote(s: &str) -> String {
    use fmt::Write as _;
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_as_upstream() {
        let error = FieldError::invalid(
            "spec.replicas",
            &json!(-1),
            "must be greater than or equal to 0",
        );
        assert_eq!(
            error.to_string(),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
        assert_eq!(
            FieldError::required("a.b", "").to_string(),
            "a.b: Required value"
        );
        assert_eq!(
            FieldError::not_supported("t", &json!("x"), &["A", "B"]).to_string(),
            r#"t: Unsupported value: "x": supported values: "A", "B""#
        );
        assert_eq!(
            FieldError::too_long("a", 253).to_string(),
            "a: Too long: may not be more than 253 bytes"
        );
        assert_eq!(
            FieldError::too_many("a", 3, 1).to_string(),
            "a: Too many: 3: must have at most 1 item"
        );
        let twice = [
            FieldError::required("a", ""),
            FieldError::required("a", ""),
            FieldError::required("b", ""),
        ];
        assert_eq!(aggregate(&twice), "[a: Required value, b: Required value]");
    }
}
