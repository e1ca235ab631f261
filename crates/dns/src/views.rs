//! What the DNS reads of Services and EndpointSlices.

use client::resource::kinds;
use client::{ObjectMeta, Resource, View};
use serde::{Deserialize, Deserializer};

/// A Service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ServiceView {
    pub metadata: ObjectMeta,
    pub spec: ServiceSpec,
}

/// `v1.ServiceSpec`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceSpec {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    pub external_name: String,
    pub ports: Vec<ServicePort>,
    pub publish_not_ready_addresses: bool,
}

/// `v1.ServicePort`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ServicePort {
    pub name: String,
    pub protocol: String,
    pub port: u16,
}

/// An EndpointSlice.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointSliceView {
    pub metadata: ObjectMeta,
    #[serde(deserialize_with = "null_is_empty")]
    pub endpoints: Vec<Endpoint>,
    #[serde(deserialize_with = "null_is_empty")]
    pub ports: Vec<EndpointPort>,
}

/// Go writes an absent list as `null`.
fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// `discovery.Endpoint`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    pub addresses: Vec<String>,
    pub hostname: Option<String>,
    pub conditions: Conditions,
}

/// `discovery.EndpointConditions`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Conditions {
    pub ready: Option<bool>,
}

/// `discovery.EndpointPort`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    pub name: Option<String>,
    pub protocol: Option<String>,
    pub port: Option<u16>,
}

impl View for ServiceView {
    const RESOURCE: Resource = kinds::SERVICES;
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl View for EndpointSliceView {
    const RESOURCE: Resource = kinds::ENDPOINT_SLICES;
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl EndpointSliceView {
    /// `namespace/name` of the Service it belongs to.
    #[must_use]
    pub fn service(&self) -> Option<String> {
        let name = self.metadata.labels.get("kubernetes.io/service-name")?;
        Some(format!("{}/{name}", self.metadata.namespace))
    }
}
