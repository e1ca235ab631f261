//! Requests that a node's kubelet answers: `log`, `exec`, `attach`, `portforward`. The API server is a tunnel: the kubelet
//! speaks the sub-protocols (SPDY/3.1 and the WebSocket ones).

use api::Status;
use http::{HeaderValue, Request, Response};
use serde_json::Value;
use skiff_http::Body;
use skiff_http::percent::escape;

use crate::Core;
use crate::object::{self, items, text};
use crate::request::RequestInfo;
use crate::subresource::relay::{Backend, relay};

/// Answers a Pod's streaming subresource by asking its kubelet.
///
/// # Errors
/// 400 for a container that is not chosen or not known, 404, 500 when the kubelet cannot be reached.
pub async fn serve(
    core: &Core,
    info: &RequestInfo,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let kind = core.kind("", "v1", "pods")?;
    let pod = core.get_value(kind, &info.namespace, &info.name).await?;
    let node = text(&pod, &["spec", "nodeName"]);
    if node.is_empty() {
        if info.subresource == "log" {
            return Ok(crate::answer::text(http::StatusCode::OK, ""));
        }
        return Err(Status::bad_request(format!(
            "pod {} does not have a host assigned",
            info.name
        )));
    }
    let path = kubelet_path(info, &pod)?;
    let address = kubelet_address(core, node).await?;
    let host = HeaderValue::try_from(&address).map_err(Status::internal)?;
    let kubelet = Backend {
        address,
        tls: Some(core.kubelet_tls.clone()),
    };
    let answer = relay(&kubelet, &path, host, request)
        .await
        .map_err(|e| Status::internal(format!("error dialing backend: {e}")))?;
    if info.subresource == "log" && !(200..=206).contains(&answer.status().as_u16()) {
        return Err(refused_log(info, answer).await);
    }
    Ok(answer)
}

/// Clients read a Status, where kubelets write a line.
async fn refused_log(info: &RequestInfo, answer: Response<Body>) -> Status {
    const MOST: usize = 50_000;
    let code = answer.status().as_u16();
    let text = match skiff_http::body::collect(answer.into_body(), MOST).await {
        Ok(text) => text,
        Err(e) => return Status::internal(e),
    };
    let text = String::from_utf8_lossy(&text);
    Status::of_backend(code, text.trim_end(), "pods/log", &info.name)
}

/// The path on the kubelet, as upstream's kubelet serves it.
fn kubelet_path(info: &RequestInfo, pod: &Value) -> Result<String, Status> {
    let (namespace, name) = (&info.namespace, &info.name);
    let q = &info.query;
    if info.subresource == "portforward" {
        let ports: Vec<String> = q
            .all("ports")
            .iter()
            .flat_map(|p| p.split(','))
            .map(|p| format!("port={}", escape(p)))
            .collect();
        return Ok(format!(
            "/portForward/{namespace}/{name}?{}",
            ports.join("&")
        ));
    }
    let container = container(info, pod)?;
    let mut query = Vec::new();
    if info.subresource == "log" {
        for name in [
            "follow",
            "previous",
            "sinceSeconds",
            "sinceTime",
            "timestamps",
            "tailLines",
            "limitBytes",
            "stream",
        ] {
            if q.has(name) {
                query.push(format!("{name}={}", escape(q.get(name))));
            }
        }
        return Ok(format!(
            "/containerLogs/{namespace}/{name}/{container}?{}",
            query.join("&")
        ));
    }
    for (theirs, ours) in [
        ("stdin", "input"),
        ("stdout", "output"),
        ("stderr", "error"),
        ("tty", "tty"),
    ] {
        if q.is_true(theirs) {
            query.push(format!("{ours}=1"));
        }
    }
    query.extend(
        q.all("command")
            .iter()
            .map(|c| format!("command={}", escape(c))),
    );
    Ok(format!(
        "/{}/{namespace}/{name}/{container}?{}",
        info.subresource,
        query.join("&")
    ))
}

/// The container that is asked for, or the Pod's only or default one.
fn container(info: &RequestInfo, pod: &Value) -> Result<String, Status> {
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let names: Vec<&str> = lists
        .iter()
        .flat_map(|l| items(pod, &["spec", l]))
        .map(|c| text(c, &["name"]))
        .collect();
    let asked = info.query.get("container");
    if !asked.is_empty() {
        if names.contains(&asked) {
            return Ok(asked.to_owned());
        }
        return Err(Status::bad_request(format!(
            "container {asked} is not valid for pod {}",
            info.name
        )));
    }
    let of = |list: &str| {
        items(pod, &["spec", list])
            .iter()
            .map(|c| text(c, &["name"]))
            .collect::<Vec<_>>()
    };
    match of("containers").as_slice() {
        [only] => Ok((*only).to_owned()),
        [] => Err(Status::bad_request(format!(
            "a container name must be specified for pod {}",
            info.name
        ))),
        several => {
            let default = text(
                pod,
                &[
                    "metadata",
                    "annotations",
                    "kubectl.kubernetes.io/default-container",
                ],
            );
            if several.contains(&default) {
                return Ok(default.to_owned());
            }
            let mut message = format!(
                "a container name must be specified for pod {}, choose one of: [{}]",
                info.name,
                several.join(" ")
            );
            let init = of("initContainers");
            if !init.is_empty() {
                message.push_str(&format!(
                    " or one of the init containers: [{}]",
                    init.join(" ")
                ));
            }
            Err(Status::bad_request(message))
        }
    }
}

/// `host:port` of a node's kubelet.
///
/// # Errors
/// 404; 500 for a node without an address.
pub async fn kubelet_address(core: &Core, node: &str) -> Result<String, Status> {
    let kind = core.kind("", "v1", "nodes")?;
    let object = core.get_value(kind, "", node).await?;
    let addresses = items(&object, &["status", "addresses"]);
    let of = |kind: &str| {
        addresses
            .iter()
            .find(|a| a["type"] == kind)
            .map(|a| text(a, &["address"]).to_owned())
    };
    let host = of("InternalIP")
        .or_else(|| of("ExternalIP"))
        .or_else(|| of("Hostname"));
    let host = host.ok_or_else(|| {
        Status::internal(format!(
            "no preferred addresses found for node \"{node}\"; known addresses: []"
        ))
    })?;
    let port = object::at(
        &object,
        &["status", "daemonEndpoints", "kubeletEndpoint", "Port"],
    );
    let port = port.and_then(Value::as_u64).unwrap_or(10_250);
    Ok(if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    })
}
