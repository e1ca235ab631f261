//! Documents that change with the program alone: clients keep them and ask by their `ETag` whether they are still right.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use sha2::Digest as _;
use skiff_http::{Body, body};

/// A document, made once.
pub(crate) struct Document {
    pub(crate) bytes: Bytes,
    /// Quoted, as it stands in the header.
    pub(crate) etag: String,
}

impl Document {
    pub(crate) fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let etag = format!("\"{}\"", hash(&bytes));
        Self { bytes, etag }
    }
}

/// A short fingerprint of a document.
#[must_use]
pub(crate) fn hash(bytes: &[u8]) -> String {
    let digest = sha2::Sha256::digest(bytes);
    digest.iter().map(|b| format!("{b:02X}")).collect()
}

/// Answers with what `make` gives, or that the client has it.
pub(crate) fn answer(
    headers: &HeaderMap,
    etag: &str,
    media_type: &'static str,
    make: impl FnOnce() -> Bytes,
) -> Response<Body> {
    let known = headers.get_all(IF_NONE_MATCH).iter().any(|sent| {
        let sent = sent.to_str().unwrap_or("");
        let mut tags = sent.split(',').map(|t| t.trim().trim_start_matches("W/"));
        tags.any(|tag| tag == etag || tag == "*")
    });
    let mut response = Response::new(if known {
        body::empty()
    } else {
        body::full(make())
    });
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let out = response.headers_mut();
    out.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    out.insert(VARY, HeaderValue::from_static("Accept"));
    if let Ok(etag) = etag.parse() {
        out.insert(ETAG, etag);
    }
    response
}

/// Says that the answer of an address with the document's hash never changes.
pub(crate) fn immutable(response: &mut Response<Body>) {
    let value = HeaderValue::from_static("public, immutable, max-age=31536000");
    response.headers_mut().insert(CACHE_CONTROL, value);
}

/// Sends the client to another address for good.
pub(crate) fn moved(address: &str) -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(address) = address.parse() {
        response.headers_mut().insert(LOCATION, address);
    }
    response
}
