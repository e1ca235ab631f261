//! What a request asks for: one resolver whose answer feeds authentication, authorization, admission, metrics and the
//! registry.
//!
//! Follows upstream's RequestInfo: `/api/v1/...` and `/apis/GROUP/VERSION/...` are resource requests, everything else is
//! a path.

use std::collections::BTreeMap;

use http::Method;
use skiff_http::percent::unescape;

/// A request's verb, resource and names. For paths outside the resource API, `resource` is empty.
#[derive(Debug, Clone, Default)]
pub struct RequestInfo {
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for plain paths the HTTP method.
    pub verb: &'static str,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    pub query: Query,
}

impl RequestInfo {
    /// Whether it is about the resource API.
    #[must_use]
    pub fn is_resource(&self) -> bool {
        !self.resource.is_empty()
    }

    /// Whether it cannot change anything here.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.is_stream() || matches!(self.verb, "get" | "list" | "watch")
    }

    /// Whether it is a GET that opens a connection into a Pod.
    #[must_use]
    pub fn opens_connection(&self, headers: &http::HeaderMap) -> bool {
        let into_pod = ["exec", "attach", "portforward"].contains(&self.subresource.as_str());
        into_pod && self.verb == "get" && skiff_http::upgrade::requested(headers).is_some()
    }

    /// Whether its answer has no end that could be waited for.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        let streams = ["exec", "attach", "portforward", "log", "proxy"];
        self.verb == "watch" || streams.contains(&self.subresource.as_str())
    }
}

/// A decoded query string.
#[derive(Debug, Clone, Default)]
pub struct Query(BTreeMap<String, Vec<String>>);

impl Query {
    /// Decodes `a=b&c=d`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in text.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            map.entry(unescape(name, true))
                .or_default()
                .push(unescape(value, true));
        }
        Self(map)
    }

    /// The first value of `name`; empty when absent.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.0
            .get(name)
            .and_then(|v| v.first())
            .map_or("", String::as_str)
    }

    /// All values of `name`.
    #[must_use]
    pub fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether `name` stands for true: present and neither `false` nor `0`.
    #[must_use]
    pub fn is_true(&self, name: &str) -> bool {
        self.0
            .get(name)
            .is_some_and(|v| !matches!(v.first().map(String::as_str), Some("false" | "0") | None))
    }

    /// Whether `name` was given.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

/// Resolves a request.
#[must_use]
pub fn resolve(method: &Method, path: &str, query: &str) -> RequestInfo {
    let query = Query::parse(query);
    let plain_verb = match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "unknown",
    };
    let mut info = RequestInfo {
        path: path.to_owned(),
        verb: plain_verb,
        query,
        ..RequestInfo::default()
    };
    let parts: Vec<String> = path
        .split('/')
        .filter(|p| !p.is_empty())
        .map(|p| unescape(p, false))
        .collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let mut parts = match parts.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => {
            info.version = (*version).to_owned();
            rest
        }
        ["apis", group, version, rest @ ..] if !rest.is_empty() => {
            info.group = (*group).to_owned();
            info.version = (*version).to_owned();
            rest
        }
        _ => return info,
    };
    let mut watch = false;
    if let ["watch", rest @ ..] = parts
        && !rest.is_empty()
    {
        (watch, parts) = (true, rest);
    }
    if let ["namespaces", namespace, rest @ ..] = parts {
        info.namespace = (*namespace).to_owned();
        match rest {
            // Namespaces themselves: /namespaces/x, /namespaces/x/status.
            [] => {}
            [sub] if NAMESPACE_SUBRESOURCES.contains(sub) => {}
            rest => parts = rest,
        }
    }
    if let [resource, rest @ ..] = parts {
        info.resource = (*resource).to_owned();
        if let [name, rest @ ..] = rest {
            info.name = (*name).to_owned();
            if let [subresource, ..] = rest {
                info.subresource = (*subresource).to_owned();
            }
        }
    }
    info.verb = match (plain_verb, info.name.is_empty()) {
        ("get" | "head", _) if watch => "watch",
        ("get" | "head", true) if info.query.is_true("watch") => "watch",
        ("get" | "head", true) => "list",
        ("get" | "head", false) if info.subresource.is_empty() && info.query.is_true("watch") => {
            "watch"
        }
        ("get" | "head", false) => "get",
        ("post", _) => "create",
        ("put", _) => "update",
        ("patch", _) => "patch",
        ("delete", true) => "deletecollection",
        ("delete", false) => "delete",
        (other, _) => other,
    };
    info
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(method: Method, path: &str, query: &str) -> String {
        let i = resolve(&method, path, query);
        format!(
            "{} {}/{} ns={} {} {} {}",
            i.verb, i.group, i.version, i.namespace, i.resource, i.name, i.subresource
        )
    }

    #[test]
    fn resolves_as_upstream() {
        let cases = [
            (
                Method::GET,
                "/api/v1/namespaces/a/pods/b/log",
                "",
                "get /v1 ns=a pods b log",
            ),
            (
                Method::GET,
                "/api/v1/namespaces/a/pods",
                "watch=1",
                "watch /v1 ns=a pods  ",
            ),
            (
                Method::GET,
                "/api/v1/watch/namespaces/a/pods/b",
                "",
                "watch /v1 ns=a pods b ",
            ),
            (
                Method::GET,
                "/api/v1/namespaces",
                "",
                "list /v1 ns= namespaces  ",
            ),
            (
                Method::GET,
                "/api/v1/namespaces/a",
                "",
                "get /v1 ns=a namespaces a ",
            ),
            (
                Method::PUT,
                "/api/v1/namespaces/a/finalize",
                "",
                "update /v1 ns=a namespaces a finalize",
            ),
            (
                Method::DELETE,
                "/apis/apps/v1/namespaces/a/deployments",
                "",
                "deletecollection apps/v1 ns=a deployments  ",
            ),
            (
                Method::POST,
                "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
                "",
                "create authorization.k8s.io/v1 ns= selfsubjectaccessreviews  ",
            ),
            (Method::GET, "/healthz", "", "get / ns=   "),
            (Method::GET, "/api/v1", "", "get / ns=   "),
        ];
        for (method, path, query, want) in cases {
            assert_eq!(told(method, path, query), want, "{path}");
        }
    }

    #[test]
    fn queries_are_unescaped() {
        let q = Query::parse("command=sh&command=-c&labelSelector=a%3Db%2Cc&x=1+2&bad=%zz&end=%4");
        assert_eq!(q.all("command"), ["sh", "-c"]);
        assert_eq!(q.get("labelSelector"), "a=b,c");
        assert_eq!(q.get("x"), "1 2");
        assert_eq!((q.get("bad"), q.get("end")), ("%zz", "%4"));
    }
}
