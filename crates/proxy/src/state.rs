//! Which elements a Service puts into the sets and maps: a pure function of the Service and its slices.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use net::nft::{Element, Words};

use crate::views::{Conditions, EndpointSliceView, ServicePort, ServiceView};

/// `namespace/name` of a Service.
pub type ServiceKey = Arc<str>;

/// A set or map of the table. The order is that in which they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SetName {
    /// address . protocol . port . number below N → endpoint.
    Endpoints(u32),
    /// protocol . node port . number below N → endpoint.
    NodePorts(u32),
    /// As [`Self::Endpoints`], for Services whose clients stay with an endpoint for so many seconds.
    StickyEndpoints(u32, u32),
    /// address . protocol . port whose clients' choices are remembered for so many seconds.
    StickyServices(u32),
    /// address . protocol . port without an endpoint: refused.
    Rejects,
    /// protocol . node port without an endpoint: refused.
    NodePortRejects,
    /// address . protocol . port that is to be answered by this node's endpoints, of which there are none: dropped.
    Drops,
    /// The same for node ports.
    NodePortDrops,
    /// address . protocol . port whose clients must come back through this node.
    Masquerade,
    /// The same for node ports.
    NodePortMasquerade,
    /// A Pod of this node, twice: it reached itself.
    Hairpin,
}

/// Elements with the number of Services (and ports) that want each.
pub type Elements = BTreeMap<SetName, BTreeMap<Element, u32>>;

/// What decides beside the Service and its slices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// As in `endpoints[].nodeName`.
    pub name: String,
    /// Services with this address are left alone: the node answers it itself.
    pub dns_ip: Option<Ipv4Addr>,
}

/// What one Service wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contribution {
    pub elements: Elements,
    /// UDP: addresses or node ports (address 0.0.0.0) and who answers for them.
    pub udp: BTreeMap<(Ipv4Addr, u16), Vec<(Ipv4Addr, u16)>>,
}

impl Contribution {
    fn add(&mut self, set: SetName, key: Words, data: Words) {
        let element = Element { key, data };
        // An element that two ports of a Service want is one element.
        self.elements
            .entry(set)
            .or_default()
            .entry(element)
            .or_insert(1);
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    address: Ipv4Addr,
    port: u16,
    local: bool,
}

const fn protocol_number(name: &str) -> Option<u8> {
    match name.as_bytes() {
        b"TCP" | b"" => Some(6),
        b"UDP" => Some(17),
        b"SCTP" => Some(132),
        _ => None,
    }
}

/// The endpoints of one port: the ready ones; if there is none, those that end but still serve.
fn targets<'a>(
    port: &ServicePort,
    slices: impl Iterator<Item = &'a EndpointSliceView>,
    node: &str,
) -> (Vec<Target>, Vec<Target>) {
    let (mut ready, mut ending) = (Vec::new(), Vec::new());
    for slice in slices {
        let matching = slice.ports.iter().find(|p| {
            p.name.as_deref().unwrap_or("") == port.name
                && protocol_number(p.protocol.as_deref().unwrap_or("TCP"))
                    == protocol_number(&port.protocol)
        });
        let Some(number) = matching.and_then(|p| p.port) else {
            continue;
        };
        for endpoint in &slice.endpoints {
            let Some(address) = endpoint.addresses.first().and_then(|a| a.parse().ok()) else {
                continue;
            };
            let target = Target {
                address,
                port: number,
                local: endpoint.node_name.as_deref() == Some(node),
            };
            let Conditions {
                ready: is_ready,
                serving,
                terminating,
            } = endpoint.conditions;
            if is_ready.unwrap_or(true) {
                ready.push(target);
            } else if serving.unwrap_or(false) && terminating.unwrap_or(false) {
                ending.push(target);
            }
        }
    }
    for list in [&mut ready, &mut ending] {
        list.sort();
        list.dedup();
    }
    (ready, ending)
}

/// Prefers ready endpoints; `local`: of this node only.
fn choose(ready: &[Target], ending: &[Target], local: bool) -> Vec<Target> {
    for list in [ready, ending] {
        let chosen: Vec<_> = list.iter().filter(|t| !local || t.local).cloned().collect();
        if !chosen.is_empty() {
            return chosen;
        }
    }
    Vec::new()
}

/// What `service` wants in the sets, given its slices.
#[must_use]
pub fn desired<'a>(
    service: &ServiceView,
    slices: impl Iterator<Item = &'a EndpointSliceView>,
    node: &Node,
) -> Contribution {
    let mut wanted = Contribution::default();
    let slices: Vec<_> = slices.collect();
    let cluster_ip = service.spec.cluster_ip.parse::<Ipv4Addr>().ok();
    if service.answered_by_another() {
        return wanted;
    }
    if service.spec.kind == "ExternalName" || cluster_ip.is_none() || cluster_ip == node.dns_ip {
        return wanted;
    }
    let spec = &service.spec;
    let sticky = (spec.session_affinity == "ClientIP").then(|| {
        let config = spec.session_affinity_config.as_ref();
        let client_ip = config.and_then(|c| c.client_ip.as_ref());
        client_ip.and_then(|c| c.timeout_seconds).unwrap_or(10800)
    });
    let outer = service.outer_addresses();
    for port in &spec.ports {
        let Some(protocol) = protocol_number(&port.protocol) else {
            continue;
        };
        let (ready, ending) = targets(port, slices.iter().copied(), &node.name);
        let inside = choose(&ready, &ending, spec.internal_traffic_policy == "Local");
        let local_only = spec.external_traffic_policy == "Local";
        let outside = choose(&ready, &ending, local_only);
        let anywhere = !choose(&ready, &ending, false).is_empty();

        let inner = cluster_ip.map(|ip| (ip, &inside, false));
        for (address, targets, external) in inner
            .into_iter()
            .chain(outer.iter().map(|ip| (*ip, &outside, true)))
        {
            let at = || {
                Words::new()
                    .address(address)
                    .protocol(protocol)
                    .port(port.port)
            };
            if targets.is_empty() {
                let set = if anywhere {
                    SetName::Drops
                } else {
                    SetName::Rejects
                };
                wanted.add(set, at(), Words::new());
                continue;
            }
            if external && !local_only {
                wanted.add(SetName::Masquerade, at(), Words::new());
            }
            if let Some(seconds) = sticky {
                wanted.add(SetName::StickyServices(seconds), at(), Words::new());
            }
            let count = u32::try_from(targets.len()).unwrap_or(u32::MAX);
            for (number, target) in (0..).zip(targets) {
                let data = Words::new().address(target.address).port(target.port);
                let set = match sticky {
                    Some(seconds) => SetName::StickyEndpoints(count, seconds),
                    None => SetName::Endpoints(count),
                };
                wanted.add(set, at().mark(number), data);
            }
            if protocol == 17 {
                wanted.udp.insert((address, port.port), ends(targets));
            }
        }
        if port.node_port != 0 {
            let at = || Words::new().protocol(protocol).port(port.node_port);
            if outside.is_empty() {
                let set = if anywhere {
                    SetName::NodePortDrops
                } else {
                    SetName::NodePortRejects
                };
                wanted.add(set, at(), Words::new());
            } else {
                if !local_only {
                    wanted.add(SetName::NodePortMasquerade, at(), Words::new());
                }
                let count = u32::try_from(outside.len()).unwrap_or(u32::MAX);
                for (number, target) in (0..).zip(&outside) {
                    let data = Words::new().address(target.address).port(target.port);
                    wanted.add(SetName::NodePorts(count), at().mark(number), data);
                }
                if protocol == 17 {
                    let key = (Ipv4Addr::UNSPECIFIED, port.node_port);
                    wanted.udp.insert(key, ends(&outside));
                }
            }
        }
        for target in inside.iter().chain(&outside).filter(|t| t.local) {
            let twice = Words::new().address(target.address).address(target.address);
            wanted.add(SetName::Hairpin, twice, Words::new());
        }
    }
    wanted
}

fn ends(targets: &[Target]) -> Vec<(Ipv4Addr, u16)> {
    targets.iter().map(|t| (t.address, t.port)).collect()
}
