//! Serves the OpenAPI documents (`api::openapi`): v2 as JSON and protobuf, v3 by group and version.

use std::sync::OnceLock;

use api::Status;
use api::openapi::OpenApi;
use api::openapi_protobuf::{ANSWERED_MEDIA_TYPE, MEDIA_TYPE};
use http::{HeaderMap, Response};
use skiff_http::Body;

use crate::document::{self, Document};
use crate::request::RequestInfo;

const JSON: &str = "application/json";

/// A server's OpenAPI documents, each made when the first client asks for it.
pub(crate) struct Documents {
    openapi: OpenApi,
    index: OnceLock<Document>,
}

impl Documents {
    pub(crate) fn new() -> Self {
        Self {
            openapi: OpenApi::new(crate::served),
            index: OnceLock::new(),
        }
    }

    /// Answers `/openapi/v2`, `/openapi/v3` and what is below it.
    ///
    /// # Errors
    /// 404, and 406 for encodings that there are not.
    pub(crate) fn serve(
        &self,
        info: &RequestInfo,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, Status> {
        let path = info.path.trim_end_matches('/');
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        let v2_etag = || format!("\"{}\"", self.openapi.v2_hash());
        if parts == ["openapi", "v2"] && accepts(headers, &[MEDIA_TYPE]) {
            let make = || self.openapi.v2_protobuf().into();
            return Ok(document::answer(
                headers,
                &v2_etag(),
                ANSWERED_MEDIA_TYPE,
                make,
            ));
        }
        if !accepts(headers, &["", JSON, "application/*", "*/*"]) {
            return Err(Status::not_acceptable(&[JSON]));
        }
        match parts.as_slice() {
            ["openapi", "v2"] => {
                let make = || self.openapi.v2().into();
                Ok(document::answer(headers, &v2_etag(), JSON, make))
            }
            ["openapi", "v3"] => {
                let index = self
                    .index
                    .get_or_init(|| Document::new(self.openapi.v3_index()));
                Ok(document::answer(headers, &index.etag, JSON, || {
                    index.bytes.clone()
                }))
            }
            ["openapi", "v3", "api", version] => self.v3("", version, path, info, headers),
            ["openapi", "v3", "apis", group, version] => {
                self.v3(group, version, path, info, headers)
            }
            _ => Err(Status::no_such_path()),
        }
    }

    /// One group and version. An address with `hash` never changes its answer; one with an old hash leads to the new.
    fn v3(
        &self,
        group: &str,
        version: &str,
        path: &str,
        info: &RequestInfo,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, Status> {
        let hash = self
            .openapi
            .hash(group, version)
            .ok_or_else(Status::no_such_path)?;
        let asked = info.query.get("hash");
        if !asked.is_empty() && asked != hash {
            return Ok(document::moved(&format!("{path}?hash={hash}")));
        }
        let make = || self.openapi.v3(group, version).unwrap_or_default().into();
        let mut response = document::answer(headers, &format!("\"{hash}\""), JSON, make);
        if !asked.is_empty() {
            document::immutable(&mut response);
        }
        Ok(response)
    }
}

/// Whether the client takes one of `wanted`; `""` is for who does not say.
fn accepts(headers: &HeaderMap, wanted: &[&str]) -> bool {
    let accept = headers.get(http::header::ACCEPT);
    let accept = accept.and_then(|v| v.to_str().ok()).unwrap_or("");
    accept
        .split(',')
        .any(|c| wanted.contains(&c.split(';').next().unwrap_or("").trim()))
}
