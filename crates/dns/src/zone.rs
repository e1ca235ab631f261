//! Every name of the cluster, ready to answer: a map from the lower-case name to its records.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use net::Cidr;

use crate::views::{EndpointSliceView, ServiceView};

/// Seconds that answers may be kept; upstream's.
pub const TTL: u32 = 5;

/// The right side of a record. Targets are names without the final dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    Address(IpAddr),
    Service { port: u16, target: Arc<str> },
    Alias(Arc<str>),
    Pointer(Arc<str>),
    Text(Arc<str>),
    NameServer(Arc<str>),
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It exists, with these records (perhaps none: of another type are none).
    Records(Vec<Data>),
    /// It is of the cluster and does not exist.
    Absent,
    /// The cluster knows nothing of such names.
    Elsewhere,
}

/// The names of the cluster.
#[derive(Debug)]
pub struct Zone {
    domain: String,
    service_cidr: Cidr,
    names: BTreeMap<String, Vec<(Arc<str>, Data)>>,
    /// How many names lie below each that has none itself or not only: they exist, too.
    above: BTreeMap<String, usize>,
    /// The names that each Service has made.
    made: BTreeMap<Arc<str>, Vec<String>>,
    serial: u32,
    complete: bool,
}

impl Zone {
    /// The zone without Services. `server` is the address of the DNS itself.
    #[must_use]
    pub fn new(domain: &str, server: Option<IpAddr>, service_cidr: Cidr) -> Self {
        let domain = domain.trim_matches('.').to_ascii_lowercase();
        let mut zone = Self {
            domain: domain.clone(),
            service_cidr,
            names: BTreeMap::new(),
            above: BTreeMap::new(),
            made: BTreeMap::new(),
            serial: 1,
            complete: false,
        };
        let mut records = vec![
            (format!("dns-version.{domain}"), Data::Text("1.1.0".into())),
            (
                domain.clone(),
                Data::NameServer(format!("ns.dns.{domain}").into()),
            ),
        ];
        if let Some(server) = server {
            records.push((format!("ns.dns.{domain}"), Data::Address(server)));
        }
        zone.replace(&"".into(), records);
        zone
    }

    /// The cluster's domain, lower case, without dots at its ends.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Grows with every change.
    #[must_use]
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// How many names have records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether no name has any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// All objects have been read: a name that is not here does not exist.
    pub fn set_complete(&mut self) {
        self.complete = true;
    }

    /// Whether [`Self::set_complete`] was called. Before, absence means nothing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Puts these records in the place of those that `owner` made before.
    pub fn replace(&mut self, owner: &Arc<str>, records: Vec<(String, Data)>) {
        self.serial = self.serial.wrapping_add(1);
        for name in self.made.remove(owner).unwrap_or_default() {
            if let Some(data) = self.names.get_mut(&name) {
                data.retain(|(of, _)| of != owner);
                if data.is_empty() {
                    self.names.remove(&name);
                    self.count_above(&name, false);
                }
            }
        }
        let mut made = Vec::with_capacity(records.len());
        for (name, data) in records {
            if !self.names.contains_key(&name) {
                self.count_above(&name, true);
            }
            let entry = self.names.entry(name.clone()).or_default();
            if !entry.iter().any(|(of, d)| of == owner && *d == data) {
                entry.push((owner.clone(), data));
            }
            made.push(name);
        }
        made.sort_unstable();
        made.dedup();
        if !made.is_empty() {
            self.made.insert(owner.clone(), made);
        }
    }

    fn count_above(&mut self, name: &str, more: bool) {
        let mut rest = name;
        while let Some((_, above)) = rest.split_once('.') {
            if more {
                *self.above.entry(above.to_owned()).or_default() += 1;
            } else if let Some(count) = self.above.get_mut(above) {
                *count -= 1;
                if *count == 0 {
                    self.above.remove(above);
                }
            }
            rest = above;
        }
    }

    /// Looks up a lower-case name without the final dot.
    #[must_use]
    pub fn find(&self, name: &str) -> Found {
        if let Some(records) = self.names.get(name) {
            return Found::Records(records.iter().map(|(_, d)| d.clone()).collect());
        }
        let Some(inside) = name.strip_suffix(&self.domain) else {
            return match reverse(name) {
                Some(address) if net::contains(self.service_cidr, address) => Found::Absent,
                _ => Found::Elsewhere,
            };
        };
        if !(inside.is_empty() || inside.ends_with('.')) {
            return Found::Elsewhere;
        }
        // Every address has a name below `pod`, whoever has it (as upstream's default, "pods insecure").
        if let Some(rest) = inside.strip_suffix(".pod.")
            && let Some((dashed, namespace)) = rest.split_once('.')
            && !namespace.is_empty()
            && !namespace.contains('.')
            && let Ok(address) = dashed.replace('-', ".").parse()
        {
            return Found::Records(vec![Data::Address(IpAddr::V4(address))]);
        }
        if inside == "pod." || self.above.contains_key(name) {
            return Found::Records(Vec::new());
        }
        Found::Absent
    }
}

/// The address of `4.3.2.1.in-addr.arpa`.
fn reverse(name: &str) -> Option<Ipv4Addr> {
    let octets = name.strip_suffix(".in-addr.arpa")?;
    let address: Ipv4Addr = octets.parse().ok()?;
    let [a, b, c, d] = address.octets();
    Some(Ipv4Addr::new(d, c, b, a))
}

fn pointer_name(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("{d}.{c}.{b}.{a}.in-addr.arpa")
}

/// The objects that names are made of.
#[derive(Default)]
pub struct Sources {
    services: BTreeMap<Arc<str>, Arc<ServiceView>>,
    slices: BTreeMap<String, BTreeMap<Arc<str>, Arc<EndpointSliceView>>>,
}

impl Sources {
    /// A Service has changed, or gone.
    pub fn service(&mut self, zone: &mut Zone, key: &Arc<str>, new: Option<Arc<ServiceView>>) {
        match new {
            Some(service) => self.services.insert(key.clone(), service),
            None => self.services.remove(key),
        };
        self.rewrite(zone, key);
    }

    /// A slice has changed, or gone.
    pub fn slice(
        &mut self,
        zone: &mut Zone,
        key: &Arc<str>,
        old: Option<&EndpointSliceView>,
        new: Option<Arc<EndpointSliceView>>,
    ) {
        let before = old.and_then(EndpointSliceView::service);
        let after = new.as_deref().and_then(EndpointSliceView::service);
        if let Some(service) = &before
            && let Some(slices) = self.slices.get_mut(service)
        {
            slices.remove(key);
            if slices.is_empty() {
                self.slices.remove(service);
            }
        }
        if let (Some(service), Some(slice)) = (&after, new) {
            let slices = self.slices.entry(service.clone()).or_default();
            slices.insert(key.clone(), slice);
        }
        if before != after
            && let Some(service) = before
        {
            self.rewrite(zone, &service.into());
        }
        if let Some(service) = after {
            self.rewrite(zone, &service.into());
        }
    }

    fn rewrite(&self, zone: &mut Zone, key: &Arc<str>) {
        let records = self.services.get(key).map_or_else(Vec::new, |service| {
            let slices = self.slices.get(&**key).into_iter();
            let slices = slices.flat_map(BTreeMap::values).map(AsRef::as_ref);
            records(service, slices, &zone.domain)
        });
        zone.replace(key, records);
    }
}

/// The names of one Service.
#[must_use]
pub fn records<'a>(
    service: &ServiceView,
    slices: impl Iterator<Item = &'a EndpointSliceView>,
    domain: &str,
) -> Vec<(String, Data)> {
    let meta = &service.metadata;
    let name: Arc<str> = format!("{}.{}.svc.{domain}", meta.name, meta.namespace).into();
    let own = |data| (name.to_string(), data);
    let spec = &service.spec;
    let mut all = Vec::new();
    if spec.kind == "ExternalName" {
        let target = spec
            .external_name
            .trim_end_matches('.')
            .to_ascii_lowercase();
        if target.parse::<IpAddr>().is_err() {
            all.push(own(Data::Alias(target.into())));
        }
        return all;
    }
    let srv = |port: &str, protocol: &str, number: u16, target: &Arc<str>| {
        let protocol = protocol.to_ascii_lowercase();
        let data = Data::Service {
            port: number,
            target: target.clone(),
        };
        (format!("_{port}._{protocol}.{name}"), data)
    };
    if spec.cluster_ip != "None" {
        let mut addresses: Vec<IpAddr> = (spec.cluster_ips.iter())
            .chain([&spec.cluster_ip])
            .filter_map(|ip| ip.parse().ok())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        for address in addresses {
            all.push(own(Data::Address(address)));
            if let IpAddr::V4(address) = address {
                all.push((pointer_name(address), Data::Pointer(name.clone())));
            }
        }
        for port in &spec.ports {
            let data = Data::Service {
                port: port.port,
                target: name.clone(),
            };
            all.push(own(data));
            if !port.name.is_empty() {
                all.push(srv(&port.name, &port.protocol, port.port, &name));
            }
        }
        return all;
    }
    for slice in slices {
        for endpoint in &slice.endpoints {
            if !endpoint.conditions.ready.unwrap_or(true) && !spec.publish_not_ready_addresses {
                continue;
            }
            for address in endpoint.addresses.iter().filter_map(|a| a.parse().ok()) {
                let address: IpAddr = address;
                let dashed = address.to_string().replace(['.', ':'], "-");
                let host = endpoint.hostname.as_deref().filter(|h| !h.is_empty());
                let host = host.map_or(dashed, str::to_ascii_lowercase);
                let target: Arc<str> = format!("{host}.{name}").into();
                all.push(own(Data::Address(address)));
                all.push((target.to_string(), Data::Address(address)));
                if let IpAddr::V4(address) = address {
                    all.push((pointer_name(address), Data::Pointer(target.clone())));
                }
                for port in &slice.ports {
                    let (Some(port_name), Some(number)) = (&port.name, port.port) else {
                        continue;
                    };
                    let protocol = port.protocol.as_deref().unwrap_or("TCP");
                    if !port_name.is_empty() {
                        all.push(srv(port_name, protocol, number, &target));
                    }
                }
            }
        }
    }
    all
}
