//! Cluster IPs and node ports: who has which. Rebuilt from the stored Services at start.
//!
//! Follows <https://kubernetes.io/docs/concepts/services-networking/cluster-ip-allocation/>: the lower part of the range is
//! left to those who ask for an address of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::facts::Kind;
use api::{FieldError, Status};
use serde_json::{Value, json};
use world::World;

use crate::object::{self, items, text};

/// The lowest and highest node port.
pub const NODE_PORTS: (u16, u16) = (30_000, 32_767);

/// A range of IPv4 addresses.
#[derive(Debug, Clone, Copy)]
pub struct ServiceRange {
    pub base: Ipv4Addr,
    pub prefix: u8,
}

impl ServiceRange {
    fn size(self) -> u32 {
        1_u32
            .checked_shl(32 - u32::from(self.prefix))
            .unwrap_or(u32::MAX)
    }

    fn contains(self, ip: Ipv4Addr) -> bool {
        let offset = u32::from(ip).wrapping_sub(u32::from(self.base));
        offset > 0 && offset < self.size() - 1
    }

    /// The address of the `kubernetes` Service: the first of the range.
    #[must_use]
    pub fn first(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) + 1)
    }

    /// How many addresses at the start are given only to who asks for them.
    fn reserved(self) -> u32 {
        (self.size() / 16).clamp(16, 256)
    }
}

#[derive(Default)]
struct Taken {
    ips: BTreeSet<Ipv4Addr>,
    /// A port may be held for several protocols of one Service.
    ports: BTreeMap<u16, u32>,
}

/// Hands out addresses and ports.
pub struct Allocator {
    range: ServiceRange,
    world: World,
    taken: Arc<Mutex<Taken>>,
}

/// What a write took; given back when the write does not happen.
pub struct Claim {
    taken: Arc<Mutex<Taken>>,
    ips: Vec<Ipv4Addr>,
    ports: Vec<u16>,
    /// What the old version had and the new one has not: free once the write happened.
    freed: (Vec<Ipv4Addr>, Vec<u16>),
    kept: bool,
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Taken {
    fn free(&mut self, ips: &[Ipv4Addr], ports: &[u16]) {
        for ip in ips {
            self.ips.remove(ip);
        }
        for port in ports {
            if let Some(count) = self.ports.get_mut(port) {
                *count -= 1;
                if *count == 0 {
                    self.ports.remove(port);
                }
            }
        }
    }
}

impl Claim {
    /// The write happened.
    pub fn keep(mut self) {
        self.kept = true;
        lock(&self.taken).free(&self.freed.0, &self.freed.1);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.kept {
            lock(&self.taken).free(&self.ips, &self.ports);
        }
    }
}

fn is_service(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.plural == "services"
}

fn ips(service: &Value) -> Vec<Ipv4Addr> {
    object::strings(service, &["spec", "clusterIPs"])
        .filter_map(|ip| ip.parse().ok())
        .collect()
}

fn ports(service: &Value) -> Vec<u16> {
    let list = items(service, &["spec", "ports"]).iter();
    let mut ports: Vec<u16> = list
        .filter_map(|p| u16::try_from(p["nodePort"].as_u64()?).ok())
        .filter(|p| *p != 0)
        .collect();
    ports.extend(
        service["spec"]["healthCheckNodePort"]
            .as_u64()
            .and_then(|p| u16::try_from(p).ok())
            .filter(|p| *p != 0),
    );
    ports.sort_unstable();
    ports.dedup();
    ports
}

impl Allocator {
    /// An allocator in which `services` have what they have.
    #[must_use]
    pub fn new(range: ServiceRange, world: World, services: &[Value]) -> Self {
        let mut taken = Taken::default();
        for service in services {
            taken.ips.extend(ips(service));
            for port in ports(service) {
                *taken.ports.entry(port).or_default() += 1;
            }
        }
        Self {
            range,
            world,
            taken: Arc::new(Mutex::new(taken)),
        }
    }

    /// The range of cluster IPs.
    #[must_use]
    pub fn range(&self) -> ServiceRange {
        self.range
    }

    /// Takes what the new version of an object needs, writing addresses and ports into it.
    ///
    /// # Errors
    /// 422 when something asked for is taken or outside the range, or nothing is left.
    pub fn claim(
        &self,
        kind: &Kind,
        new: &mut Value,
        old: Option<&Value>,
    ) -> Result<Claim, Status> {
        let mut claim = Claim {
            taken: self.taken.clone(),
            ips: vec![],
            ports: vec![],
            freed: (vec![], vec![]),
            kept: false,
        };
        if !is_service(kind) {
            return Ok(claim);
        }
        let result = self.claim_service(new, old, &mut claim);
        if let Err(error) = result {
            return Err(Status::invalid(
                "",
                "Service",
                object::name(new),
                vec![error],
            ));
        }
        if let Some(old) = old {
            let (now_ips, now_ports) = (ips(new), ports(new));
            claim.freed.0 = ips(old)
                .into_iter()
                .filter(|ip| !now_ips.contains(ip))
                .collect();
            claim.freed.1 = ports(old)
                .into_iter()
                .filter(|p| !now_ports.contains(p))
                .collect();
        }
        Ok(claim)
    }

    fn claim_service(
        &self,
        new: &mut Value,
        old: Option<&Value>,
        claim: &mut Claim,
    ) -> Result<(), FieldError> {
        if text(new, &["spec", "type"]) == "ExternalName" {
            return Ok(());
        }
        self.claim_ip(new, old, claim)?;
        self.claim_ports(new, old, claim)?;
        self.claim_health_port(new, old, claim)
    }

    /// The port on which each node tells a load balancer whether it has Pods of the Service.
    fn claim_health_port(
        &self,
        new: &mut Value,
        old: Option<&Value>,
        claim: &mut Claim,
    ) -> Result<(), FieldError> {
        let spec = &new["spec"];
        if spec["type"] != "LoadBalancer" || spec["externalTrafficPolicy"] != "Local" {
            return Ok(());
        }
        let field = "spec.healthCheckNodePort";
        let asked = spec["healthCheckNodePort"].as_u64().unwrap_or(0);
        let asked = u16::try_from(asked).unwrap_or(0);
        let had = old.map(ports).unwrap_or_default();
        if asked != 0 {
            return if had.contains(&asked) {
                Ok(())
            } else {
                self.take_port(asked, field, claim)
            };
        }
        let port = self.free_port(claim).ok_or_else(|| {
            let why = "failed to allocate a HealthCheck NodePort: range is full";
            FieldError::internal(field, why)
        })?;
        object::child(new, "spec").insert("healthCheckNodePort".into(), port.into());
        Ok(())
    }

    fn claim_ip(
        &self,
        new: &mut Value,
        old: Option<&Value>,
        claim: &mut Claim,
    ) -> Result<(), FieldError> {
        let wanted = match object::strings(new, &["spec", "clusterIPs"]).next() {
            Some(ip) => ip.to_owned(),
            None => text(new, &["spec", "clusterIP"]).to_owned(),
        };
        let ip = if wanted == "None" {
            wanted
        } else if wanted.is_empty() {
            let ip = self.free_ip().ok_or_else(|| {
                FieldError::internal(
                    "spec.clusterIPs",
                    "failed to allocate a serviceIP: range is full",
                )
            })?;
            claim.ips.push(ip);
            ip.to_string()
        } else {
            let had = old.map(ips).unwrap_or_default();
            let parsed: Option<Ipv4Addr> = wanted.parse().ok();
            if parsed.is_none_or(|ip| !had.contains(&ip)) {
                let bad = json!([wanted]);
                let refuse = |why: String| {
                    FieldError::invalid(
                        "spec.clusterIPs",
                        &bad,
                        format!("failed to allocate IP {wanted}: {why}"),
                    )
                };
                let ip = parsed.filter(|ip| self.range.contains(*ip)).ok_or_else(|| {
                    let (base, prefix) = (self.range.base, self.range.prefix);
                    refuse(format!("the provided IP ({wanted}) is not in the valid range. The range of valid IPs is {base}/{prefix}"))
                })?;
                if !lock(&self.taken).ips.insert(ip) {
                    return Err(refuse("provided IP is already allocated".into()));
                }
                claim.ips.push(ip);
            }
            wanted
        };
        let spec = object::child(new, "spec");
        spec.insert("clusterIP".into(), ip.clone().into());
        spec.insert("clusterIPs".into(), json!([ip]));
        spec.entry("ipFamilies").or_insert_with(|| json!(["IPv4"]));
        spec.entry("ipFamilyPolicy")
            .or_insert_with(|| "SingleStack".into());
        Ok(())
    }

    fn free_ip(&self) -> Option<Ipv4Addr> {
        let mut taken = lock(&self.taken);
        let (size, reserved) = (self.range.size() - 1, self.range.reserved());
        let upper = size.saturating_sub(reserved).max(1);
        let start = u32::try_from(self.world.rng.below(u64::from(upper))).unwrap_or(0);
        // First the upper part from a random place, then what is reserved.
        let offsets = (0..upper)
            .map(|i| reserved + (start + i) % upper)
            .chain(1..reserved);
        let free = offsets
            .map(|o| Ipv4Addr::from(u32::from(self.range.base) + o))
            .find(|ip| self.range.contains(*ip) && !taken.ips.contains(ip))?;
        taken.ips.insert(free);
        Some(free)
    }

    fn claim_ports(
        &self,
        new: &mut Value,
        old: Option<&Value>,
        claim: &mut Claim,
    ) -> Result<(), FieldError> {
        let kind = text(new, &["spec", "type"]).to_owned();
        let lb_ports = new["spec"]["allocateLoadBalancerNodePorts"] != Value::Bool(false);
        let needs = kind == "NodePort" || kind == "LoadBalancer" && lb_ports;
        let had = old.map(ports).unwrap_or_default();
        let Some(Value::Array(list)) = new["spec"].get_mut("ports") else {
            return Ok(());
        };
        let mut mine: Vec<(u16, String)> = Vec::new();
        for (i, port) in list.iter_mut().enumerate() {
            let protocol = text(port, &["protocol"]).to_owned();
            let field = format!("spec.ports[{i}].nodePort");
            let asked = port["nodePort"]
                .as_u64()
                .and_then(|p| u16::try_from(p).ok())
                .unwrap_or(0);
            let number = if asked != 0 {
                let shared = mine
                    .iter()
                    .any(|(p, other)| *p == asked && *other != protocol);
                if !shared && !had.contains(&asked) {
                    self.take_port(asked, &field, claim)?;
                }
                asked
            } else if needs {
                // The same port of another protocol shares its node port, as upstream.
                self.free_port(claim).ok_or_else(|| {
                    FieldError::internal(
                        field.clone(),
                        "failed to allocate a nodePort: range is full",
                    )
                })?
            } else {
                continue;
            };
            mine.push((number, protocol));
            port["nodePort"] = number.into();
        }
        Ok(())
    }

    fn take_port(&self, port: u16, field: &str, claim: &mut Claim) -> Result<(), FieldError> {
        let (low, high) = NODE_PORTS;
        if !(low..=high).contains(&port) {
            let why = format!(
                "provided port is not in the valid range. The range of valid ports is {low}-{high}"
            );
            return Err(FieldError::invalid(field, &port.into(), why));
        }
        let mut taken = lock(&self.taken);
        if taken.ports.contains_key(&port) {
            return Err(FieldError::invalid(
                field,
                &port.into(),
                "provided port is already allocated",
            ));
        }
        taken.ports.insert(port, 1);
        claim.ports.push(port);
        Ok(())
    }

    fn free_port(&self, claim: &mut Claim) -> Option<u16> {
        let mut taken = lock(&self.taken);
        let (low, high) = NODE_PORTS;
        let size = u64::from(high - low) + 1;
        let start = self.world.rng.below(size);
        let port = (0..size)
            .filter_map(|i| u16::try_from(u64::from(low) + (start + i) % size).ok())
            .find(|p| !taken.ports.contains_key(p))?;
        taken.ports.insert(port, 1);
        claim.ports.push(port);
        Some(port)
    }

    /// Gives back what a deleted object had.
    pub fn release(&self, kind: &Kind, object: &Value) {
        if is_service(kind) {
            lock(&self.taken).free(&ips(object), &ports(object));
        }
    }
}

/// Carries addresses and ports that an update left out over from the old version, as upstream does: clients that do not
/// know of them must be able to replace a Service.
pub fn inherit(kind: &Kind, new: &mut Value, old: &Value) {
    if !is_service(kind) {
        return;
    }
    let (new_type, old_type) = (
        text(new, &["spec", "type"]).to_owned(),
        text(old, &["spec", "type"]).to_owned(),
    );
    let spec = object::child(new, "spec");
    if new_type == "ExternalName" {
        if old_type != "ExternalName" {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if spec.get(field) == old["spec"].get(field) {
                    spec.remove(field);
                }
            }
        }
        return;
    }
    if old_type != "ExternalName" {
        let unset = |v: Option<&Value>| {
            v.is_none_or(|v| v.is_null() || v == "" || v.as_array().is_some_and(Vec::is_empty))
        };
        let both_unset = unset(spec.get("clusterIP")) && unset(spec.get("clusterIPs"));
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            let related = !field.starts_with("clusterIP") || both_unset;
            if related
                && unset(spec.get(field))
                && let Some(value) = old["spec"].get(field)
            {
                spec.insert(field.into(), value.clone());
            }
        }
        // Setting only one of the two follows the other.
        if let Some(ip) = spec.get("clusterIP").filter(|v| !unset(Some(v))).cloned()
            && unset(spec.get("clusterIPs"))
        {
            spec.insert("clusterIPs".into(), json!([ip]));
        }
    }
    let keeps_ports = |t: &str| matches!(t, "NodePort" | "LoadBalancer");
    if let Some(Value::Array(list)) = spec.get_mut("ports") {
        for port in list {
            let old_port = items(old, &["spec", "ports"]).iter().find(|o| {
                o["port"] == port["port"] && text(o, &["protocol"]) == text(port, &["protocol"])
            });
            let given = port["nodePort"].as_u64().unwrap_or(0);
            if keeps_ports(&new_type) && given == 0 {
                if let Some(number) = old_port.and_then(|o| o.get("nodePort")) {
                    port["nodePort"] = number.clone();
                }
            } else if !keeps_ports(&new_type)
                && keeps_ports(&old_type)
                && old_port.is_some_and(|o| o["nodePort"] == port["nodePort"])
                && let Value::Object(port) = port
            {
                port.remove("nodePort");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocator() -> (Allocator, &'static Kind) {
        let range = ServiceRange {
            base: Ipv4Addr::new(10, 43, 0, 0),
            prefix: 16,
        };
        let kind = api::facts::kind("", "v1", "services").unwrap();
        (Allocator::new(range, World::seeded(1), &[]), kind)
    }

    fn service(spec: Value) -> Value {
        json!({"metadata": {"name": "a"}, "spec": spec})
    }

    #[tokio::test]
    async fn addresses_are_given_once_and_given_back_when_the_write_fails() {
        let (a, kind) = allocator();
        let mut first = service(json!({"clusterIP": "10.43.0.10", "type": "ClusterIP"}));
        let claim = a.claim(kind, &mut first, None).unwrap();
        let mut second = first.clone();
        let error = a.claim(kind, &mut second, None).err().unwrap();
        assert!(
            error.message.contains("provided IP is already allocated"),
            "{}",
            error.message
        );
        drop(claim);
        a.claim(kind, &mut second, None).unwrap().keep();
        a.release(kind, &second);
        a.claim(kind, &mut first, None).unwrap().keep();
    }

    #[tokio::test]
    async fn node_ports_are_allocated_checked_and_inherited() {
        let (a, kind) = allocator();
        let mut s =
            service(json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}));
        a.claim(kind, &mut s, None).unwrap().keep();
        let port = s["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
        assert!((30_000..=32_767).contains(&port));
        let mut update =
            service(json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}));
        inherit(kind, &mut update, &s);
        assert_eq!(update["spec"]["ports"][0]["nodePort"], port);
        assert_eq!(update["spec"]["clusterIP"], s["spec"]["clusterIP"]);
        a.claim(kind, &mut update, Some(&s)).unwrap().keep();
        let mut outside = service(
            json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP", "nodePort": 80}]}),
        );
        let error = a.claim(kind, &mut outside, None).err().unwrap();
        assert!(
            error
                .message
                .contains("not in the valid range. The range of valid ports is 30000-32767"),
            "{}",
            error.message
        );
    }
}
