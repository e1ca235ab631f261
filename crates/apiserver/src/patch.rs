//! PATCH: JSON, merge and strategic-merge patches around the update loop.

use api::Status;
use api::facts::{Kind, TypeId};
use api::patch::PatchError;
use http::HeaderMap;
use serde_json::Value;

/// The kinds of patch that are served. Server-side apply answers 415 until it is there.
const ACCEPTED: [&str; 3] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

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
        let header = headers
            .get(http::header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("");
        let form = match header.split(';').next().unwrap_or("").trim() {
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
    pub fn apply(
        &self,
        ty: TypeId,
        kind: &Kind,
        name: &str,
        object: &Value,
    ) -> Result<Value, Status> {
        let patched = match self.form {
            Form::Json => api::patch::json_patch(object, &self.patch),
            Form::Merge => Ok(api::patch::merge_patch(object, &self.patch)),
            Form::Strategic => api::patch::strategic_merge(ty, object, &self.patch),
        };
        let patched = patched.map_err(|error| match error {
            PatchError::Malformed(why) => Status::bad_request(why),
            PatchError::Inapplicable(why) => {
                let mut status = Status::invalid(kind.group, kind.kind, name, vec![]);
                status.message = why;
                status
            }
            PatchError::TooLarge(_) => Status::too_large(error),
        })?;
        if patched.is_object() {
            Ok(patched)
        } else {
            Err(Status::bad_request("the patch does not leave an object"))
        }
    }
}
