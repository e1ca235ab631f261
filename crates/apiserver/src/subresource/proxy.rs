//! `proxy` of Pods, Services and Nodes: an HTTP request to one of them, through the API server.
//!
//! The object is named `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`; what follows `proxy/` in the path is what is asked for.
//! Pages and redirects are rewritten so that their links lead through the API server as well.

use std::net::IpAddr;

use api::Status;
use api::facts::Kind;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, LOCATION,
};
use http::{Method, Request, Response, StatusCode};
use serde_json::Value;
use skiff_http::{Body, Peer, empty, upgrade};

use super::relay::{Backend, relay};
use super::rewrite::Links;
use super::streams::kubelet_address;
use crate::Core;
use crate::object::{items, text};
use crate::registry::list::Selection;
use crate::request::{Query, RequestInfo};

/// Passes the request on to the Pod, Service or Node that it names.
///
/// # Errors
/// 400 for a name that cannot be read, 404, 503 when nobody is behind it or nobody answers.
pub async fn serve(
    core: &Core,
    kind: &'static Kind,
    info: &RequestInfo,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let what = kind.singular;
    let named = Named::parse(&info.name)
        .ok_or_else(|| Status::bad_request(format!("invalid {what} request \"{}\"", info.name)))?;
    let backend = match what {
        "pod" => of_pod(core, info, &named).await?,
        "service" => of_service(core, info, &named).await?,
        _ => of_node(core, &named).await?,
    };
    let segments = if kind.namespaced { 7 } else { 5 };
    let (prefix, path) = split_path(request.uri().path(), segments);
    let (prefix, path) = (prefix.to_owned(), path.to_owned());
    let query = request
        .uri()
        .query()
        .map_or(String::new(), |q| format!("?{q}"));
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if path.is_empty() && reads && upgrade::requested(request.headers()).is_none() {
        // Relative links of the page would lead beside it.
        return redirect(&format!("{prefix}/{query}"));
    }
    let target = if path.is_empty() { "/" } else { &path };
    forward(&backend, &prefix, &format!("{target}{query}"), request).await
}

async fn forward(
    backend: &Backend,
    prefix: &str,
    target: &str,
    mut request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let host = host_of(&request);
    let peer = request.extensions().get::<Peer>().map(|p| p.address.ip());
    tell_origin(request.headers_mut(), prefix, target, &host, peer)?;
    let mut answer = relay(backend, target, host.clone(), request)
        .await
        .map_err(|e| Status::service_unavailable(format!("error trying to reach service: {e}")))?;
    let links = Links {
        prefix: prefix.to_owned(),
        host: host.to_str().unwrap_or_default().to_owned(),
    };
    let headers = answer.headers_mut();
    if let Some(new) = headers
        .get(LOCATION)
        .and_then(|v| links.rewritten(v.to_str().ok()?))
    {
        headers.insert(
            LOCATION,
            HeaderValue::try_from(new).map_err(Status::internal)?,
        );
    }
    if !super::rewrite::is_page(headers) {
        return Ok(answer);
    }
    headers.remove(CONTENT_LENGTH);
    Ok(answer.map(|page| super::rewrite::page(page, links)))
}

/// The host that the client asked for, which the backend is told as its own: what upstream does.
fn host_of(request: &Request<Body>) -> HeaderValue {
    let named = request.headers().get(HOST).cloned();
    let authority = || HeaderValue::try_from(request.uri().authority()?.as_str()).ok();
    named
        .or_else(authority)
        .unwrap_or_else(|| HeaderValue::from_static("kubernetes"))
}

fn tell_origin(
    headers: &mut HeaderMap,
    prefix: &str,
    target: &str,
    host: &HeaderValue,
    peer: Option<IpAddr>,
) -> Result<(), Status> {
    let path = target.split('?').next().unwrap_or_default();
    let uri = HeaderValue::try_from(format!("{prefix}{path}")).map_err(Status::internal)?;
    headers.insert("x-forwarded-uri", uri);
    headers.insert("x-forwarded-host", host.clone());
    headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
    if let Some(peer) = peer {
        let before = headers.get("x-forwarded-for").and_then(|v| v.to_str().ok());
        let all = before.map_or(peer.to_string(), |b| format!("{b}, {peer}"));
        let all = HeaderValue::try_from(all).map_err(Status::internal)?;
        headers.insert("x-forwarded-for", all);
    }
    let reader = headers.get(ACCEPT).and_then(|v| v.to_str().ok());
    if reader.is_some_and(|accepted| accepted.contains("text/html")) {
        // The links of a compressed page could not be rewritten.
        headers.remove(ACCEPT_ENCODING);
    }
    Ok(())
}

fn redirect(to: &str) -> Result<Response<Body>, Status> {
    Response::builder()
        .status(StatusCode::MOVED_PERMANENTLY)
        .header(LOCATION, to)
        .body(empty())
        .map_err(Status::internal)
}

/// `path` before and after its first `count` segments.
fn split_path(path: &str, count: usize) -> (&str, &str) {
    let mut seen = 0;
    let mut before = '/';
    for (at, c) in path.char_indices() {
        if c == '/' && before != '/' {
            seen += 1;
            if seen == count {
                return path.split_at(at);
            }
        }
        before = c;
    }
    (path, "")
}

/// How an object to proxy is named.
#[derive(Debug, PartialEq, Eq)]
struct Named<'a> {
    https: bool,
    name: &'a str,
    /// A number, a name, or nothing.
    port: &'a str,
}

impl<'a> Named<'a> {
    fn parse(id: &'a str) -> Option<Self> {
        let parts: Vec<&str> = id.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return None,
        };
        let https = match scheme.to_ascii_lowercase().as_str() {
            "" | "http" => false,
            "https" => true,
            _ => return None,
        };
        (!name.is_empty()).then_some(Self { https, name, port })
    }

    fn backend(&self, core: &Core, address: String) -> Backend {
        Backend {
            address,
            tls: self.https.then(|| core.pod_tls.clone()),
        }
    }
}

async fn of_pod(core: &Core, info: &RequestInfo, named: &Named<'_>) -> Result<Backend, Status> {
    let kind = core.kind("", "v1", "pods")?;
    let pod = core.get_value(kind, &info.namespace, named.name).await?;
    let ip = pod_ip(&pod);
    let ip = proxyable(ip).ok_or_else(|| Status::bad_request("address not allowed"))?;
    Ok(named.backend(core, join(ip, &pod_port(&pod, named.port)?)))
}

fn pod_ip(pod: &Value) -> &str {
    items(pod, &["status", "podIPs"])
        .first()
        .map_or(text(pod, &["status", "podIP"]), |first| {
            text(first, &["ip"])
        })
}

/// The port that is asked for, or the first that a container declares.
fn pod_port(pod: &Value, asked: &str) -> Result<u16, Status> {
    if asked.is_empty() {
        let ports = items(pod, &["spec", "containers"])
            .iter()
            .flat_map(|c| items(c, &["ports"]));
        let first = ports.filter_map(|p| p["containerPort"].as_u64()).next();
        return Ok(first.and_then(|p| u16::try_from(p).ok()).unwrap_or(80));
    }
    asked.parse().map_err(|_| {
        Status::service_unavailable(format!(
            "error trying to reach service: port {asked} is not a number of a port"
        ))
    })
}

/// An address that requests are passed on to: not the API server's own machine, nor one that has no routes.
fn proxyable(ip: &str) -> Option<IpAddr> {
    let ip: IpAddr = ip.parse().ok()?;
    let local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    (!(local || ip.is_loopback() || ip.is_multicast() || ip.is_unspecified())).then_some(ip)
}

fn join(ip: IpAddr, port: &u16) -> String {
    std::net::SocketAddr::new(ip, *port).to_string()
}

async fn of_service(core: &Core, info: &RequestInfo, named: &Named<'_>) -> Result<Backend, Status> {
    let kind = core.kind("", "v1", "services")?;
    let service = core.get_value(kind, &info.namespace, named.name).await?;
    let port = service_port(&service, named)?;
    let slices = core.kind("discovery.k8s.io", "v1", "endpointslices")?;
    let of_it = format!("labelSelector=kubernetes.io/service-name%3D{}", named.name);
    let query = Query::parse(&of_it);
    let selection = Selection::of(&query, slices, "")?;
    let page = core
        .list(slices, &info.namespace, &selection, &query)
        .await?;
    let mut ready = Vec::new();
    for slice in &page.entries {
        let slice = crate::registry::codec::decode(slice)?;
        let ports = items(&slice, &["ports"]);
        let Some(number) = ports
            .iter()
            .find(|p| text(p, &["name"]) == port)
            .and_then(|p| u16::try_from(p["port"].as_u64()?).ok())
        else {
            continue;
        };
        let endpoints = items(&slice, &["endpoints"]).iter();
        ready.extend(
            endpoints
                .filter(|e| e["conditions"]["ready"] != false)
                .filter_map(|e| proxyable(e["addresses"][0].as_str()?))
                .map(|ip| join(ip, &number)),
        );
    }
    let chosen = core.world.rng.below(ready.len() as u64);
    let chosen = usize::try_from(chosen).ok().filter(|i| *i < ready.len());
    match chosen {
        Some(i) => Ok(named.backend(core, ready.swap_remove(i))),
        None => Err(Status::service_unavailable(format!(
            "no endpoints available for service \"{}\"",
            named.name
        ))),
    }
}

/// The name of the Service's port that is asked for by name or number; the nameless one if none is.
fn service_port(service: &Value, named: &Named<'_>) -> Result<String, Status> {
    let Ok(number) = named.port.parse::<i64>() else {
        return Ok(named.port.to_owned());
    };
    items(service, &["spec", "ports"])
        .iter()
        .find(|p| p["port"] == number)
        .map(|p| text(p, &["name"]).to_owned())
        .ok_or_else(|| {
            Status::service_unavailable(format!(
                "no service port {number} found for service \"{}\"",
                named.name
            ))
        })
}

async fn of_node(core: &Core, named: &Named<'_>) -> Result<Backend, Status> {
    let address = kubelet_address(core, named.name).await?;
    let (host, kubelet_port) = address.rsplit_once(':').unwrap_or((&address, ""));
    if named.port.is_empty() || named.port == kubelet_port {
        // As the API server: the kubelet knows us by our certificate.
        let tls = Some(core.kubelet_tls.clone());
        return Ok(Backend { address, tls });
    }
    let bare = host.trim_matches(['[', ']']);
    if bare.parse::<IpAddr>().is_ok() && proxyable(bare).is_none() {
        return Err(Status::bad_request("address not allowed"));
    }
    Ok(named.backend(core, format!("{host}:{}", named.port)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_have_a_scheme_and_a_port() {
        let read = |id| Named::parse(id).map(|n| (n.https, n.name, n.port));
        assert_eq!(read("a"), Some((false, "a", "")));
        assert_eq!(read("a:"), Some((false, "a", "")));
        assert_eq!(read("a:80"), Some((false, "a", "80")));
        assert_eq!(read("http:a:web"), Some((false, "a", "web")));
        assert_eq!(read("HTTPS:a:"), Some((true, "a", "")));
        for bad in ["", ":80", "ftp:a:80", "http::80", "http:a:80:"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_path_is_what_follows() {
        let of_pod = "/api/v1/namespaces/n/pods/https%3Aa%3A80/proxy";
        assert_eq!(split_path(of_pod, 7), (of_pod, ""));
        let whole = format!("{of_pod}/a%2Fb//c/");
        assert_eq!(split_path(&whole, 7), (of_pod, "/a%2Fb//c/"));
        let doubled = "//api/v1/nodes//n/proxy/";
        assert_eq!(split_path(doubled, 5), ("//api/v1/nodes//n/proxy", "/"));
    }

    #[test]
    fn ports_are_those_that_are_declared() {
        let pod = json!({"spec": {"containers": [{}, {"ports": [{"containerPort": 8080}]}]}});
        assert_eq!(pod_port(&pod, "").unwrap(), 8080);
        assert_eq!(pod_port(&pod, "9").unwrap(), 9);
        assert_eq!(pod_port(&json!({}), "").unwrap(), 80);
        assert_eq!(pod_port(&pod, "web").unwrap_err().code, 503);
        let service =
            json!({"spec": {"ports": [{"name": "web", "port": 80}, {"name": "b", "port": 81}]}});
        let port = |id| service_port(&service, &Named::parse(id).unwrap()).map_err(|s| s.message);
        assert_eq!(port("s:81"), Ok("b".into()));
        assert_eq!(port("s:web"), Ok("web".into()));
        assert_eq!(port("s"), Ok(String::new()));
        let none = "no service port 7 found for service \"s\"";
        assert_eq!(port("s:7"), Err(none.into()));
    }

    #[test]
    fn nobody_reaches_the_machine_itself() {
        for ip in [
            "127.0.0.1",
            "::1",
            "169.254.169.254",
            "224.0.0.1",
            "0.0.0.0",
            "fe80::1",
            "",
        ] {
            assert_eq!(proxyable(ip), None, "{ip}");
        }
        assert!(proxyable("10.42.0.7").is_some() && proxyable("fd00::1").is_some());
    }
}
