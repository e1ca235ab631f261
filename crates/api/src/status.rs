//! `metav1.Status`: how every failure leaves the API server, with apimachinery's codes, reasons and messages.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::field::{self, FieldError, quote};

/// Why one field, or one part of a request, was refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cause {
    pub reason: String,
    pub message: String,
    pub field: String,
}

/// What the failure is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    pub name: String,
    pub group: String,
    /// The resource (`pods`) for most reasons, the kind (`Pod`) for `Invalid`, as upstream mixes them.
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    pub retry_after_seconds: u32,
}

/// A failed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The HTTP status code.
    pub code: u16,
    /// The machine-readable reason: `NotFound`.
    pub reason: &'static str,
    pub message: String,
    pub details: Option<Box<Details>>,
}

/// `pods`, or `deployments.apps`.
fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}.{group}")
    }
}

fn about(group: &str, kind: &str, name: &str) -> Option<Box<Details>> {
    Some(Box::new(Details {
        group: group.into(),
        kind: kind.into(),
        name: name.into(),
        ..Details::default()
    }))
}

impl Status {
    fn plain(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: None,
        }
    }

    #[must_use]
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {} not found", qualified(group, resource), quote(name));
        Self {
            details: about(group, resource, name),
            ..Self::plain(404, "NotFound", message)
        }
    }

    /// No such path, as the generic handler says it.
    #[must_use]
    pub fn no_such_path() -> Self {
        let details = Some(Box::new(Details::default()));
        Self {
            details,
            ..Self::plain(
                404,
                "NotFound",
                "the server could not find the requested resource",
            )
        }
    }

    #[must_use]
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!(
            "{} {} already exists",
            qualified(group, resource),
            quote(name)
        );
        Self {
            details: about(group, resource, name),
            ..Self::plain(409, "AlreadyExists", message)
        }
    }

    #[must_use]
    pub fn conflict(group: &str, resource: &str, name: &str, why: impl fmt::Display) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {}: {why}",
            qualified(group, resource),
            quote(name)
        );
        Self {
            details: about(group, resource, name),
            ..Self::plain(409, "Conflict", message)
        }
    }

    /// The object was changed since the version that the writer had read.
    #[must_use]
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, resource, name, why)
    }

    /// 500 with a text of its own, as upstream answers for errors that it gives no reason.
    #[must_use]
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::plain(500, "", message)
    }

    /// 409 of a server-side apply; the causes name the fields.
    #[must_use]
    pub fn apply_conflict(message: impl Into<String>) -> Self {
        Self::plain(409, "Conflict", message)
    }

    /// 422; `kind` is the kind, not the resource.
    #[must_use]
    pub fn invalid(group: &str, kind: &str, name: &str, errors: Vec<FieldError>) -> Self {
        let mut message = format!("{} {} is invalid", qualified(group, kind), quote(name));
        if !errors.is_empty() {
            message.push_str(": ");
            message.push_str(&field::aggregate(&errors));
        }
        let mut details = about(group, kind, name);
        if let Some(details) = &mut details {
            details.causes = errors
                .into_iter()
                .map(|e| Cause {
                    reason: e.kind.reason().into(),
                    message: e.body(),
                    field: e.field,
                })
                .collect();
        }
        Self {
            details,
            ..Self::plain(422, "Invalid", message)
        }
    }

    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::plain(400, "BadRequest", message)
    }

    #[must_use]
    pub fn forbidden(group: &str, resource: &str, name: &str, why: impl fmt::Display) -> Self {
        let message = match (resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{} is forbidden: {why}", qualified(group, resource)),
            (false, false) => format!(
                "{} {} is forbidden: {why}",
                qualified(group, resource),
                quote(name)
            ),
        };
        Self {
            details: about(group, resource, name),
            ..Self::plain(403, "Forbidden", message)
        }
    }

    /// An empty message becomes `Unauthorized`.
    #[must_use]
    pub fn unauthorized(message: impl Into<String>) -> Self {
        let message = message.into();
        Self::plain(
            401,
            "Unauthorized",
            if message.is_empty() {
                "Unauthorized".into()
            } else {
                message
            },
        )
    }

    /// The path is served, but not with this method: what upstream's router says, whatever the kind.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self {
            details: about("", "", ""),
            ..Self::plain(405, "MethodNotAllowed", message)
        }
    }

    /// The patch cannot be applied to the object as it is. As upstream's answer this tells neither which nor why.
    #[must_use]
    pub fn inapplicable() -> Self {
        let message = "the server rejected our request due to an error in our request";
        Self {
            details: about("", "", ""),
            ..Self::plain(422, "Invalid", message)
        }
    }

    /// What a server behind this one (a kubelet) answered with `code` and `text`, for `name` of `resource`.
    #[must_use]
    pub fn of_backend(code: u16, text: &str, resource: &str, name: &str) -> Self {
        let (reason, message) = match code {
            400 => return Self::bad_request(text),
            500 => return Self::internal(text),
            401 => (
                "Unauthorized",
                "the server has asked for the client to provide credentials".to_owned(),
            ),
            403 => ("Forbidden", text.to_owned()),
            404 => (
                "NotFound",
                "the server could not find the requested resource".to_owned(),
            ),
            429 => (
                "TooManyRequests",
                "the server has received too many requests and has asked us to try again later"
                    .to_owned(),
            ),
            503 => (
                "ServiceUnavailable",
                "the server is currently unable to handle the request".to_owned(),
            ),
            504 => (
                "Timeout",
                "the server was unable to return a response in the time allotted, but may still be \
                 processing the request"
                    .to_owned(),
            ),
            _ => (
                if code > 500 { "InternalError" } else { "Unknown" },
                format!(
                    "an error on the server ({}) has prevented the request from succeeding",
                    quote(text)
                ),
            ),
        };
        Self {
            details: about("", resource, name),
            // Upstream leaves the verb out, and its space in.
            ..Self::plain(code, reason, format!("{message} ( {resource} {name})"))
        }
    }

    /// `accepted`: the media types that would have been served.
    #[must_use]
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!(
            "only the following media types are accepted: {}",
            accepted.join(", ")
        );
        Self::plain(406, "NotAcceptable", message)
    }

    /// `accepted`: the media types that a body may have.
    #[must_use]
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let list = accepted.join(", ");
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {list}"
        );
        Self::plain(415, "UnsupportedMediaType", message)
    }

    /// 410 `Gone`.
    #[must_use]
    pub fn gone(message: impl Into<String>) -> Self {
        Self::plain(410, "Gone", message)
    }

    /// 410 `Expired`: a resource version or continue token that is too old.
    #[must_use]
    pub fn expired(message: impl Into<String>) -> Self {
        Self::plain(410, "Expired", message)
    }

    #[must_use]
    pub fn too_large(why: impl fmt::Display) -> Self {
        Self::plain(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: {why}"),
        )
    }

    /// 500 without a reason, as upstream's eviction answers.
    #[must_use]
    pub fn internal_plain(message: impl Into<String>) -> Self {
        Self::plain(500, "", message)
    }

    #[must_use]
    pub fn internal(why: impl fmt::Display) -> Self {
        let why = why.to_string();
        let message = format!("Internal error occurred: {why}");
        let causes = vec![Cause {
            message: why,
            ..Cause::default()
        }];
        let details = Some(Box::new(Details {
            causes,
            ..Details::default()
        }));
        Self {
            details,
            ..Self::plain(500, "InternalError", message)
        }
    }

    #[must_use]
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let details = Some(Box::new(Details {
            retry_after_seconds,
            ..Details::default()
        }));
        Self {
            details,
            ..Self::plain(429, "TooManyRequests", message)
        }
    }

    #[must_use]
    pub fn timeout(message: impl fmt::Display, retry_after_seconds: u32) -> Self {
        let details = Some(Box::new(Details {
            retry_after_seconds,
            ..Details::default()
        }));
        Self {
            details,
            ..Self::plain(504, "Timeout", format!("Timeout: {message}"))
        }
    }

    #[must_use]
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::plain(503, "ServiceUnavailable", message)
    }

    /// Adds a cause, making the details where there are none.
    #[must_use]
    pub fn with_cause(mut self, reason: &str, message: &str, field: &str) -> Self {
        let cause = Cause {
            reason: reason.into(),
            message: message.into(),
            field: field.into(),
        };
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// The Status object.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut out = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if let Some(details) = &self.details {
            out["details"] = details_value(details);
        }
        out
    }

    /// The Status object's bytes, with the fields in upstream's order and a line's end: clients' tests compare them.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        fn text(value: &str) -> Value {
            value.into()
        }
        fn object(fields: &[(&str, String)]) -> String {
            let fields: Vec<String> = fields
                .iter()
                .filter(|(_, value)| !["", "\"\"", "[]", "0"].contains(&value.as_str()))
                .map(|(name, value)| format!("\"{name}\":{value}"))
                .collect();
            format!("{{{}}}", fields.join(","))
        }
        let details = self.details.as_ref().map(|details| {
            let causes: Vec<String> = details
                .causes
                .iter()
                .map(|cause| {
                    object(&[
                        ("reason", text(&cause.reason).to_string()),
                        ("message", text(&cause.message).to_string()),
                        ("field", text(&cause.field).to_string()),
                    ])
                })
                .collect();
            object(&[
                ("name", text(&details.name).to_string()),
                ("group", text(&details.group).to_string()),
                ("kind", text(&details.kind).to_string()),
                ("uid", text(&details.uid).to_string()),
                ("causes", format!("[{}]", causes.join(","))),
                ("retryAfterSeconds", details.retry_after_seconds.to_string()),
            ])
        });
        let mut written = object(&[
            ("kind", text("Status").to_string()),
            ("apiVersion", text("v1").to_string()),
            ("metadata", "{}".to_owned()),
            ("status", text("Failure").to_string()),
            ("message", text(&self.message).to_string()),
            ("reason", text(self.reason).to_string()),
            ("details", details.unwrap_or_default()),
            ("code", self.code.to_string()),
        ]);
        written.push('\n');
        written.into_bytes()
    }

    /// The Status that answers a successful deletion.
    #[must_use]
    pub fn success(details: Option<&Details>) -> Value {
        let mut out =
            json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success" });
        if let Some(details) = details {
            out["details"] = details_value(details);
        }
        out
    }

    /// Reads a Status object that a server answered with; `None` if it is not one.
    #[must_use]
    pub fn from_value(value: &Value) -> Option<Self> {
        if value["kind"] != "Status" || value["status"] == "Success" {
            return None;
        }
        let code = u16::try_from(value["code"].as_u64()?).ok()?;
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let details = value.get("details").map(|d| {
            let causes = d["causes"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default();
            Box::new(Details {
                name: text(&d["name"]),
                group: text(&d["group"]),
                kind: text(&d["kind"]),
                uid: text(&d["uid"]),
                causes: causes
                    .iter()
                    .map(|c| Cause {
                        reason: text(&c["reason"]),
                        message: text(&c["message"]),
                        field: text(&c["field"]),
                    })
                    .collect(),
                retry_after_seconds: d["retryAfterSeconds"]
                    .as_u64()
                    .and_then(|n| n.try_into().ok())
                    .unwrap_or(0),
            })
        });
        let reason = REASONS
            .iter()
            .find(|r| value["reason"] == **r)
            .copied()
            .unwrap_or("");
        Some(Self {
            code,
            reason,
            message: text(&value["message"]),
            details,
        })
    }
}

const REASONS: [&str; 19] = [
    "NotFound",
    "AlreadyExists",
    "Conflict",
    "Invalid",
    "BadRequest",
    "Forbidden",
    "Unauthorized",
    "MethodNotAllowed",
    "NotAcceptable",
    "UnsupportedMediaType",
    "Gone",
    "Expired",
    "RequestEntityTooLarge",
    "InternalError",
    "TooManyRequests",
    "Timeout",
    "ServiceUnavailable",
    "ServerTimeout",
    "StoreReadError",
];

fn details_value(details: &Details) -> Value {
    let mut out = Map::new();
    let mut text = |key: &str, value: &str| {
        if !value.is_empty() {
            out.insert(key.into(), value.into());
        }
    };
    text("name", &details.name);
    text("group", &details.group);
    text("kind", &details.kind);
    text("uid", &details.uid);
    if !details.causes.is_empty() {
        let causes = details.causes.iter().map(|cause| {
            let mut one = Map::new();
            for (key, value) in [
                ("reason", &cause.reason),
                ("message", &cause.message),
                ("field", &cause.field),
            ] {
                if !value.is_empty() {
                    one.insert(key.into(), value.as_str().into());
                }
            }
            Value::Object(one)
        });
        out.insert("causes".into(), causes.collect());
    }
    if details.retry_after_seconds > 0 {
        out.insert(
            "retryAfterSeconds".into(),
            details.retry_after_seconds.into(),
        );
    }
    Value::Object(out)
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_upstreams() {
        assert_eq!(
            Status::not_found("", "pods", "a").message,
            r#"pods "a" not found"#
        );
        assert_eq!(
            Status::already_exists("apps", "deployments", "a").message,
            r#"deployments.apps "a" already exists"#
        );
        let errors = vec![
            FieldError::required("spec", ""),
            FieldError::required("metadata.name", "name or generateName is required"),
        ];
        let status = Status::invalid("apps", "Deployment", "a", errors);
        assert_eq!(
            status.message,
            r#"Deployment.apps "a" is invalid: [spec: Required value, metadata.name: Required value: name or generateName is required]"#
        );
        let value = status.to_value();
        assert_eq!(
            value["details"]["causes"][0]["reason"],
            "FieldValueRequired"
        );
        assert_eq!(Status::from_value(&value), Some(status));
    }

    #[test]
    fn bytes_are_in_upstreams_order() {
        let status = Status::already_exists("apps", "deployments", "a\"b");
        assert_eq!(
            String::from_utf8(status.to_json()).unwrap(),
            concat!(
                r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","#,
                r#""message":"deployments.apps \"a\\\"b\" already exists","reason":"AlreadyExists","#,
                r#""details":{"name":"a\"b","group":"apps","kind":"deployments"},"code":409}"#,
                "\n"
            )
        );
        let errors = vec![FieldError::required("spec", "")];
        let status = Status::invalid("", "Pod", "a", errors);
        let read: Value = serde_json::from_slice(&status.to_json()).unwrap();
        assert_eq!(read, status.to_value());
    }
}
