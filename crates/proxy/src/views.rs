//! What the proxy reads of Services and EndpointSlices.

use std::net::Ipv4Addr;

use client::resource::kinds;
use client::{ObjectMeta, Resource, View};
use serde::Deserialize;

use crate::state::ServiceKey;

/// A Service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ServiceView {
    pub metadata: ObjectMeta,
    pub spec: ServiceSpec,
    pub status: ServiceStatus,
}

/// `v1.ServiceSpec`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceSpec {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<String>,
    pub ports: Vec<ServicePort>,
    pub session_affinity: String,
    pub session_affinity_config: Option<SessionAffinityConfig>,
    pub external_traffic_policy: String,
    pub internal_traffic_policy: String,
    #[serde(rename = "loadBalancerSourceRanges")]
    pub source_ranges: Vec<String>,
}

/// `v1.ServicePort`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServicePort {
    pub name: String,
    pub protocol: String,
    pub port: u16,
    pub node_port: u16,
}

/// `v1.SessionAffinityConfig`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SessionAffinityConfig {
    #[serde(rename = "clientIP")]
    pub client_ip: Option<ClientIpConfig>,
}

/// `v1.ClientIPConfig`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClientIpConfig {
    pub timeout_seconds: Option<u32>,
}

/// `v1.ServiceStatus`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceStatus {
    pub load_balancer: LoadBalancerStatus,
}

/// `v1.LoadBalancerStatus`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct LoadBalancerStatus {
    pub ingress: Vec<LoadBalancerIngress>,
}

/// `v1.LoadBalancerIngress`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LoadBalancerIngress {
    pub ip: String,
    pub ip_mode: Option<String>,
}

/// An EndpointSlice.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointSliceView {
    pub metadata: ObjectMeta,
    pub address_type: String,
    pub endpoints: Vec<Endpoint>,
    #[serde(deserialize_with = "null_is_empty")]
    pub ports: Vec<EndpointPort>,
}

/// Go writes an absent list as `null`.
fn null_is_empty<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<EndpointPort>, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// `discovery.Endpoint`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Endpoint {
    pub addresses: Vec<String>,
    pub conditions: Conditions,
    pub node_name: Option<String>,
}

/// `discovery.EndpointConditions`; what is not said counts as upstream's documentation says.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Conditions {
    pub ready: Option<bool>,
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
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

impl ServiceView {
    /// `namespace/name`.
    #[must_use]
    pub fn key(&self) -> ServiceKey {
        self.metadata.key().as_str().into()
    }

    /// Whether another proxy than the nodes' usual one is responsible, as the label
    /// `service.kubernetes.io/service-proxy-name` says. The cluster's DNS, which each node answers itself, has it.
    #[must_use]
    pub fn answered_by_another(&self) -> bool {
        let labels = &self.metadata.labels;
        labels.contains_key("service.kubernetes.io/service-proxy-name")
    }

    /// Every address of the Service that is not a node's own: cluster IP, then external and load balancer addresses.
    #[must_use]
    pub fn outer_addresses(&self) -> Vec<Ipv4Addr> {
        let ingress = self.status.load_balancer.ingress.iter();
        let ingress = ingress
            .filter(|i| i.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"))
            .map(|i| &i.ip);
        let mut all: Vec<Ipv4Addr> = (self.spec.external_ips.iter())
            .chain(ingress)
            .filter_map(|ip| ip.parse().ok())
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl EndpointSliceView {
    /// The Service it belongs to, `namespace/name`.
    #[must_use]
    pub fn service(&self) -> Option<ServiceKey> {
        let name = self.metadata.labels.get("kubernetes.io/service-name")?;
        (self.address_type == "IPv4" && !name.is_empty()).then(|| {
            format!("{}/{name}", self.metadata.namespace)
                .as_str()
                .into()
        })
    }
}
