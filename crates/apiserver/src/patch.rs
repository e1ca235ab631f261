//! PATCH: JSON, merge and strategic-merge patches around the update loop. Server-side apply is
//! [`crate::registry::apply`].

use api::Status;
use api::facts::TypeId;
use api::patch::PatchError;
use http::HeaderMap;
use serde_json::Value;

const APPLY: &str = "application/apply-patch+yaml";
/// The kinds of patch that are served.
const ACCEPTED: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    APPLY,
];

fn content_type(headers: &HeaderMap) -> &str {
    let header = headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("");
    header.split(';').next().unwrap_or("").trim()
}

/// Whether a patch is a configuration to apply.
#[must_use]
pub fn is_apply(headers: &HeaderMap) -> bool {
    content_type(headers) == APPLY
}

/// A decoded patch.
pub struct Patch {
    form: Form,
    patch: Value,
}

#[derive(Clone, Copy)]
enum Form {
    Json,
    Merge,
    Strategic,
}

impl Patch {
    /// Reads a patch by its content type.
    ///
    /// # Errors
    /// 415 for another type, 400 for what cannot be read.
    pub fn read(headers: &HeaderMap, body: &[u8]) -> Result<Self, Status> {
        let form = match content_type(headers) {
            "application/json-patch+json" => Form::Json,
            "application/merge-patch+json" => Form::Merge,
            "application/strategic-merge-patch+json" => Form::Strategic,
            _ => return Err(Status::unsupported_media_type(&ACCEPTED)),
        };
        let (patch, _) = api::decode::parse(body, api::decode::Content::Json)
            .map_err(|why| Status::bad_request(api::patch::undecodable(&why)))?;
        Ok(Self { form, patch })
    }

    /// What `object` becomes.
    ///
    /// # Errors
    /// 400 for a malformed patch, 422 for one that does not apply.
    pub fn apply(&self, ty: TypeId, object: &Value) -> Result<Value, Status> {
        let patched = match self.form {
            Form::Json => api::patch::json_patch(object, &self.patch),
            Form::Merge => Ok(api::patch::merge_patch(object, &self.patch)),
            Form::Strategic => api::patch::strategic_merge(ty, object, &self.patch),
        };
        let patched = patched.map_err(|error| match error {
            PatchError::Malformed(why) => Status::bad_request(why),
            PatchError::Inapplicable(_) => Status::inapplicable(),
            PatchError::TooLarge(_) => Status::too_large(error),
        })?;
        if patched.is_object() {
            Ok(patched)
        } else {
            Err(Status::bad_request("the patch does not leave an object"))
        }
    }
}
