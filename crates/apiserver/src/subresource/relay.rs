//! Passing a request on to another HTTP server, and its answer or upgraded connection back.

use std::sync::Arc;

use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use skiff_http::{Body, upgrade};

/// The server behind.
pub struct Backend {
    /// `host:port`.
    pub address: String,
    /// How to speak TLS with it; plain HTTP if absent.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

/// Headers that are about one connection (RFC 9110 section 7.6.1) or about us: who asked is established, and is not told.
const HOP: [&str; 12] = [
    "authorization",
    "connection",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Sends `request` to `backend` as a request for `path` (with its query) of `host`. If both sides agree to leave HTTP, the
/// answer is a `101` and the two connections are joined.
///
/// # Errors
/// When the backend cannot be reached or does not speak HTTP.
pub async fn relay(
    backend: &Backend,
    path: &str,
    host: HeaderValue,
    request: Request<Body>,
) -> Result<Response<Body>, skiff_http::Error> {
    let (parts, body) = request.into_parts();
    let protocol = upgrade::requested(&parts.headers);
    let headers = onward(&parts.headers, host, protocol.is_some());
    let unusable = |e: http::Error| skiff_http::Error::Connect(path.to_owned(), e.to_string());
    let mut sent = Request::builder()
        .method(parts.method.clone())
        .uri(path)
        .body(body)
        .map_err(unusable)?;
    *sent.headers_mut() = headers;
    let (mut answer, raw) = upgrade::dial(&backend.address, backend.tls.clone(), sent).await?;
    if let (Some(raw), true) = (raw, protocol.is_some()) {
        let mut head = Response::new(());
        std::mem::swap(head.headers_mut(), answer.headers_mut());
        let mut client = Request::from_parts(parts, skiff_http::empty());
        return Ok(upgrade::accept(&mut client, head, |client| {
            upgrade::tunnel(client, raw)
        }));
    }
    drop_hop(answer.headers_mut());
    Ok(answer.map(|b| b.map_err(Into::into).boxed_unsync()))
}

fn onward(theirs: &HeaderMap, host: HeaderValue, upgrades: bool) -> HeaderMap {
    let mut ours = theirs.clone();
    drop_hop(&mut ours);
    ours.insert(HOST, host);
    if upgrades {
        for name in [CONNECTION, http::header::UPGRADE] {
            if let Some(value) = theirs.get(&name) {
                ours.insert(name, value.clone());
            }
        }
    }
    if let Some(protocols) = ours.get_mut(http::header::SEC_WEBSOCKET_PROTOCOL) {
        *protocols = without_token(protocols);
    }
    let impersonation: Vec<HeaderName> = ours
        .keys()
        .filter(|n| n.as_str().starts_with("impersonate-"))
        .cloned()
        .collect();
    for name in impersonation {
        ours.remove(name);
    }
    ours
}

/// Takes away what belongs to one connection, with what its `Connection` header names.
fn drop_hop(headers: &mut HeaderMap) {
    let named: Vec<String> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    for name in named.iter().map(String::as_str).chain(HOP) {
        if let Ok(name) = HeaderName::try_from(name) {
            headers.remove(name);
        }
    }
}

/// A browser's bearer token travels among the sub-protocols; it stays here.
fn without_token(value: &HeaderValue) -> HeaderValue {
    let text = value.to_str().unwrap_or("");
    let kept: Vec<&str> = text
        .split(',')
        .map(str::trim)
        .filter(|p| !p.starts_with("base64url.bearer."))
        .collect();
    HeaderValue::from_str(&kept.join(", ")).unwrap_or_else(|_| value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_a_connection_or_the_caller_stays() {
        let mut theirs = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer secret"),
            ("impersonate-user", "root"),
            ("connection", "Upgrade, X-Mine"),
            ("upgrade", "websocket"),
            ("x-mine", "1"),
            ("accept", "*/*"),
            ("cookie", "a=b"),
            (
                "sec-websocket-protocol",
                "base64url.bearer.authorization.k8s.io.c2VjcmV0, v4.channel.k8s.io",
            ),
        ] {
            theirs.insert(name, HeaderValue::from_static(value));
        }
        let sent = |upgrades| {
            let sent = onward(&theirs, HeaderValue::from_static("h"), upgrades);
            let mut lines: Vec<String> = sent
                .iter()
                .map(|(n, v)| format!("{n}: {}", v.to_str().unwrap()))
                .collect();
            lines.sort();
            lines
        };
        let plain = [
            "accept: */*",
            "cookie: a=b",
            "host: h",
            "sec-websocket-protocol: v4.channel.k8s.io",
        ];
        assert_eq!(sent(false), plain);
        let mut upgraded = plain.map(str::to_owned).to_vec();
        upgraded.insert(1, "connection: Upgrade, X-Mine".into());
        upgraded.push("upgrade: websocket".into());
        assert_eq!(sent(true), upgraded);
    }
}
