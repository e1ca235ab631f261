//! The environment of a container.

use std::collections::BTreeMap;

use base64::Engine as _;
use client::resource::kinds;

use crate::fields::{self, Addresses};
use crate::node::Node;
use crate::spec::{ConfigMap, Container, Pod, Secret, Service};

/// The variables of the Services that a Pod sees, in upstream's (Docker's) form. Pure.
#[must_use]
pub fn of_services<'a>(services: impl Iterator<Item = &'a Service>) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for service in services {
        let (ip, ports) = (&service.spec.cluster_ip, &service.spec.ports);
        let Some(first) = ports.first().filter(|_| !ip.is_empty() && ip != "None") else {
            continue;
        };
        let name = service.metadata.name.to_uppercase().replace('-', "_");
        out.push((format!("{name}_SERVICE_HOST"), ip.clone()));
        out.push((format!("{name}_SERVICE_PORT"), first.port.to_string()));
        for port in ports.iter().filter(|p| !p.name.is_empty()) {
            let port_name = port.name.to_uppercase().replace('-', "_");
            out.push((
                format!("{name}_SERVICE_PORT_{port_name}"),
                port.port.to_string(),
            ));
        }
        for (i, port) in ports.iter().enumerate() {
            let protocol = if port.protocol.is_empty() {
                "TCP"
            } else {
                &port.protocol
            };
            let url = format!("{}://{ip}:{}", protocol.to_lowercase(), port.port);
            if i == 0 {
                out.push((format!("{name}_PORT"), url.clone()));
            }
            let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
            out.push((prefix.clone(), url));
            out.push((format!("{prefix}_PROTO"), protocol.to_lowercase()));
            out.push((format!("{prefix}_PORT"), port.port.to_string()));
            out.push((format!("{prefix}_ADDR"), ip.clone()));
        }
    }
    out
}

/// Keys and values of a ConfigMap or Secret. `None` if it doesn't exist.
async fn values(
    node: &Node,
    pod: &Pod,
    kind: &str,
    name: &str,
) -> Result<Option<BTreeMap<String, String>>, String> {
    let namespace = &pod.metadata.namespace;
    let missing = |e: client::Error| {
        if e.is_not_found() {
            Ok(None)
        } else {
            Err(format!("{kind} {name:?}: {e}"))
        }
    };
    if kind == "configmap" {
        return match node
            .options
            .client
            .get::<ConfigMap>(&kinds::CONFIG_MAPS, namespace, name)
            .await
        {
            Ok(map) => Ok(Some(map.data)),
            Err(e) => missing(e),
        };
    }
    match node
        .options
        .client
        .get::<Secret>(&kinds::SECRETS, namespace, name)
        .await
    {
        Ok(secret) => {
            let decode = |v: &String| base64::engine::general_purpose::STANDARD.decode(v).ok();
            let text = |v: &String| decode(v).map(|b| String::from_utf8_lossy(&b).into_owned());
            Ok(Some(
                secret
                    .data
                    .iter()
                    .filter_map(|(k, v)| Some((k.clone(), text(v)?)))
                    .collect(),
            ))
        }
        Err(e) => missing(e),
    }
}

/// Gathers a container's environment.
///
/// # Errors
/// Upstream's texts for what is missing: a `CreateContainerConfigError`.
pub async fn gather(
    node: &Node,
    pod: &Pod,
    container: &Container,
    at: &Addresses,
) -> Result<Vec<(String, String)>, String> {
    let mut env: Vec<(String, String)> = Vec::new();
    let api = &node.options.api_server;
    let kubernetes = node.services.get("default/kubernetes");
    let links = pod.spec.enable_service_links.unwrap_or(true);
    let mut visible: BTreeMap<String, std::sync::Arc<Service>> = BTreeMap::new();
    if links {
        for service in node.services.in_namespace(&pod.metadata.namespace) {
            visible.insert(service.metadata.name.clone(), service);
        }
    }
    if let Some(service) = kubernetes {
        visible.entry("kubernetes".into()).or_insert(service);
    } else {
        env.push(("KUBERNETES_SERVICE_HOST".into(), api.0.clone()));
        env.push(("KUBERNETES_SERVICE_PORT".into(), api.1.to_string()));
        env.push(("KUBERNETES_SERVICE_PORT_HTTPS".into(), api.1.to_string()));
    }
    env.extend(of_services(visible.values().map(AsRef::as_ref)));
    let mut cache: BTreeMap<(&str, &str), Option<BTreeMap<String, String>>> = BTreeMap::new();
    for from in &container.env_from {
        let (kind, reference) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(r), _) => ("configmap", r),
            (None, Some(r)) => ("secret", r),
            (None, None) => continue,
        };
        match values(node, pod, kind, &reference.name).await? {
            Some(map) => env.extend(
                map.into_iter()
                    .map(|(k, v)| (format!("{}{k}", from.prefix), v)),
            ),
            None if reference.optional == Some(true) => {}
            None => return Err(format!("{kind} \"{}\" not found", reference.name)),
        }
    }
    for var in &container.env {
        let known = env.clone();
        let lookup = |name: &str| {
            known
                .iter()
                .rev()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.clone())
        };
        let Some(source) = &var.value_from else {
            env.push((var.name.clone(), fields::expand(&var.value, &lookup)));
            continue;
        };
        let value = if let Some(from) = &source.field_ref {
            Some(fields::field(pod, &from.field_path, at)?)
        } else if let Some(from) = &source.resource_field_ref {
            Some(fields::resource(
                pod,
                Some(container),
                from,
                (&node.machine.cpu, &node.machine.memory),
            )?)
        } else {
            let (kind, title, from) = match (&source.config_map_key_ref, &source.secret_key_ref) {
                (Some(r), _) => ("configmap", "ConfigMap", r),
                (None, Some(r)) => ("secret", "Secret", r),
                (None, None) => continue,
            };
            if !cache.contains_key(&(kind, from.name.as_str())) {
                cache.insert(
                    (kind, &from.name),
                    values(node, pod, kind, &from.name).await?,
                );
            }
            let optional = from.optional == Some(true);
            match cache
                .get(&(kind, from.name.as_str()))
                .and_then(Option::as_ref)
            {
                None if optional => None,
                None => return Err(format!("{kind} \"{}\" not found", from.name)),
                Some(map) => match map.get(&from.key) {
                    None if optional => None,
                    None => {
                        let place = format!("{}/{}", pod.metadata.namespace, from.name);
                        return Err(format!("couldn't find key {} in {title} {place}", from.key));
                    }
                    some => some.cloned(),
                },
            }
        };
        if let Some(value) = value {
            env.push((var.name.clone(), value));
        }
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn services_are_told_as_docker_links() {
        let service: Service = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "my-web"}, "spec": {"clusterIP": "10.43.0.9", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}
        }))
        .unwrap();
        let text: String = of_services([&service].into_iter())
            .iter()
            .map(|(k, v)| format!("{k}={v}\n"))
            .collect();
        expect![[r#"
            MY_WEB_SERVICE_HOST=10.43.0.9
            MY_WEB_SERVICE_PORT=80
            MY_WEB_SERVICE_PORT_HTTP=80
            MY_WEB_PORT=tcp://10.43.0.9:80
            MY_WEB_PORT_80_TCP=tcp://10.43.0.9:80
            MY_WEB_PORT_80_TCP_PROTO=tcp
            MY_WEB_PORT_80_TCP_PORT=80
            MY_WEB_PORT_80_TCP_ADDR=10.43.0.9
        "#]]
        .assert_eq(&text);
    }
}
