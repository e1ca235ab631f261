//! Discovery: which groups, versions and resources are served. Legacy documents and the aggregated one (KEP-3352).

use std::sync::OnceLock;

use api::Status;
use api::facts::{KINDS, Kind};
use http::{HeaderMap, Response};
use serde_json::{Value, json};
use skiff_http::Body;

use crate::answer;
use crate::document::{self, Document};

fn served() -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().filter(|k| crate::served(k))
}

/// `v1`, `apps/v1`.
fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// Groups in upstream's order of preference, each with its versions, newest first.
fn groups() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for kind in served() {
        let at = groups
            .iter()
            .position(|(g, _)| *g == kind.group)
            .unwrap_or_else(|| {
                groups.push((kind.group, Vec::new()));
                groups.len() - 1
            });
        let versions = &mut groups[at].1;
        if !versions.contains(&kind.version) {
            versions.push(kind.version);
        }
    }
    for (_, versions) in &mut groups {
        versions.sort_by_key(|v| {
            std::cmp::Reverse(v.trim_start_matches('v').parse::<u32>().unwrap_or(0))
        });
    }
    groups
}

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

fn wants_aggregated(headers: &HeaderMap) -> bool {
    let accept = headers
        .get(http::header::ACCEPT)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("");
    accept.split(',').any(|clause| {
        let mut parts: Vec<&str> = clause.split(';').map(str::trim).collect();
        parts.sort_unstable();
        [
            "application/json",
            "as=APIGroupDiscoveryList",
            "g=apidiscovery.k8s.io",
            "v=v2",
        ]
        .iter()
        .all(|p| parts.contains(p))
    })
}

/// The aggregated document of the core group or of all others.
fn aggregated(core_group: bool) -> Document {
    let items: Vec<Value> = groups()
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core_group)
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    let resources: Vec<Value> = served()
                        .filter(|k| k.group == group && k.version == *version)
                        .map(aggregated_resource)
                        .collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if group.is_empty() {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": group, "creationTimestamp": null})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    let document = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    })
    .to_string();
    Document::new(document)
}

fn aggregated_resource(kind: &'static Kind) -> Value {
    let subresources: Vec<Value> = kind
        .subresources
        .iter()
        .filter(|s| crate::subresource::is_served(kind, s.name))
        .map(|s| {
            json!({
                "subresource": s.name,
                "responseKind": {"group": s.group, "version": s.version, "kind": s.kind},
                "verbs": s.verbs,
            })
        })
        .collect();
    let mut resource = json!({
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs,
    });
    if !kind.short_names.is_empty() {
        resource["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        resource["categories"] = json!(kind.categories);
    }
    if !subresources.is_empty() {
        resource["subresources"] = subresources.into();
    }
    resource
}

fn resource_list(group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for kind in served().filter(|k| k.group == group && k.version == version) {
        let mut resource = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
            "kind": kind.kind, "verbs": kind.verbs,
        });
        if !kind.short_names.is_empty() {
            resource["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            resource["categories"] = json!(kind.categories);
        }
        if kind.stored() {
            use base64::Engine as _;
            let digest = document::hash(kind.storage_prefix.as_bytes());
            let short = base64::engine::general_purpose::STANDARD.encode(&digest.as_bytes()[..8]);
            resource["storageVersionHash"] = short.into();
        }
        resources.push(resource);
        for sub in kind
            .subresources
            .iter()
            .filter(|s| crate::subresource::is_served(kind, s.name))
        {
            let mut resource = json!({
                "name": format!("{}/{}", kind.plural, sub.name), "singularName": "",
                "namespaced": kind.namespaced, "kind": sub.kind, "verbs": sub.verbs,
            });
            if (sub.group, sub.version) != (kind.group, kind.version) {
                resource["group"] = sub.group.into();
                resource["version"] = sub.version.into();
            }
            resources.push(resource);
        }
    }
    let document = json!({
        "kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": api_version(group, version), "resources": resources,
    });
    (!resources.is_empty()).then_some(document)
}

fn group_document(group: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|v| json!({"groupVersion": api_version(group, v), "version": v}))
        .collect();
    json!({"name": group, "preferredVersion": versions.first(), "versions": versions})
}

/// A server's discovery documents that are worth keeping.
#[derive(Default)]
pub(crate) struct Documents {
    core: OnceLock<Document>,
    named: OnceLock<Document>,
}

impl Documents {
    fn aggregated(&self, headers: &HeaderMap, core_group: bool) -> Response<Body> {
        let kept = if core_group { &self.core } else { &self.named };
        let document = kept.get_or_init(|| aggregated(core_group));
        document::answer(headers, &document.etag, AGGREGATED, || {
            document.bytes.clone()
        })
    }

    /// Answers `/api`, `/apis`, `/api/v1`, `/apis/GROUP` and `/apis/GROUP/VERSION`; `None` for other paths.
    ///
    /// # Errors
    /// 404 for groups and versions that are not served.
    pub(crate) fn serve(
        &self,
        path: &str,
        headers: &HeaderMap,
        address: &str,
    ) -> Option<Result<Response<Body>, Status>> {
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        let missing = || Err(Status::no_such_path());
        let found =
            |document: Option<Value>| document.map_or_else(missing, |d| Ok(answer::value(&d)));
        Some(match parts.as_slice() {
            ["api"] if wants_aggregated(headers) => Ok(self.aggregated(headers, true)),
            ["apis"] if wants_aggregated(headers) => Ok(self.aggregated(headers, false)),
            ["api"] => Ok(answer::value(&json!({
                "kind": "APIVersions", "versions": ["v1"],
                "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
            }))),
            ["apis"] => {
                let list: Vec<Value> = groups()
                    .iter()
                    .filter(|(g, _)| !g.is_empty())
                    .map(|(g, versions)| group_document(g, versions))
                    .collect();
                Ok(answer::value(
                    &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list}),
                ))
            }
            ["api", version] => found(resource_list("", version)),
            ["apis", group] => {
                let all = groups();
                let known = all.iter().find(|(g, _)| g == group && !g.is_empty());
                found(known.map(|(g, versions)| {
                    let mut document = group_document(g, versions);
                    document["kind"] = "APIGroup".into();
                    document["apiVersion"] = "v1".into();
                    document
                }))
            }
            ["apis", group, version] => found(resource_list(group, version)),
            _ => return None,
        })
    }
}
