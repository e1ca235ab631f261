//! The addresses of Services as objects: IPAddresses and the ServiceCIDRs they come from.
//!
//! Follows <https://kubernetes.io/docs/concepts/services-networking/cluster-ip-allocation/>.

use std::net::IpAddr;

use api::{FieldError, names};
use serde_json::Value;

use crate::conditions;
use crate::tree::{age, immutable, invalid_all, items, name, text};
use crate::{AGE, Errors, NAME, Names, Strategy, column, shown};

/// The address as it must be written, or what is wrong with it.
pub(crate) fn canonical_name(name: &str) -> Vec<String> {
    match name.parse::<IpAddr>() {
        Err(_) => vec![format!(
            "ParseAddr({}): unable to parse IP",
            api::field::quote(name)
        )],
        Ok(address) if address.to_string() != name => {
            vec!["must be a canonical format IP address".to_owned()]
        }
        Ok(_) => Vec::new(),
    }
}

fn validate_parent(o: &Value, errors: &mut Errors) {
    let path = "spec.parentRef";
    let parent = &o["spec"]["parentRef"];
    if !parent.is_object() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let group = text(&parent["group"]);
    if !group.is_empty() {
        let path = format!("{path}.group");
        invalid_all(&path, group, names::dns1123_subdomain(group), errors);
    }
    for (key, required) in [("resource", true), ("name", true), ("namespace", false)] {
        let (path, value) = (format!("{path}.{key}"), text(&parent[key]));
        if !value.is_empty() {
            invalid_all(&path, value, names::path_segment(value), errors);
        } else if required {
            errors.push(FieldError::required(path, ""));
        }
    }
}

fn show_parent(o: &Value) -> String {
    let parent = &o["spec"]["parentRef"];
    if !parent.is_object() {
        return "<none>".to_owned();
    }
    let mut shown = text(&parent["resource"]).to_lowercase();
    for (before, key) in [(".", "group"), ("/", "namespace"), ("/", "name")] {
        if !text(&parent[key]).is_empty() {
            shown.push_str(before);
            shown.push_str(text(&parent[key]));
        }
    }
    shown
}

pub(crate) const ADDRESS: Strategy = Strategy {
    names: Names::Address,
    validate_create: validate_parent,
    validate_update: |new, old, errors| {
        let (a, b) = (&new["spec"]["parentRef"], &old["spec"]["parentRef"]);
        if a != b {
            let shown = shown::show(a, &shown::PARENT);
            errors.push(shown::invalid(
                "spec.parentRef",
                shown,
                "field is immutable",
            ));
        }
    },
    columns: &[
        NAME,
        column("ParentRef", "string", "What the address belongs to."),
        AGE,
    ],
    row: |o, now| vec![name(o), show_parent(o).into(), age(o, now)],
    ..Strategy::BASE
};

/// A network: its address, and how many bits of that are the network's.
pub(crate) struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    fn parse(value: &str) -> Option<Self> {
        let (address, prefix) = value.split_once('/')?;
        let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
        let plain = digits && (prefix.len() == 1 || !prefix.starts_with('0'));
        let address: IpAddr = address.parse().ok()?;
        let prefix = prefix.parse().ok().filter(|_| plain)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        (prefix <= most).then_some(Self { address, prefix })
    }

    /// The address without the bits beyond the prefix.
    fn masked(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix));
                IpAddr::from((a.to_bits() & mask.unwrap_or(0)).to_be_bytes())
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix));
                IpAddr::from((a.to_bits() & mask.unwrap_or(0)).to_be_bytes())
            }
        }
    }

    fn must_be_plain(&self) -> Result<(), &'static str> {
        if matches!(self.address, IpAddr::V6(a) if a.to_ipv4_mapped().is_some()) {
            Err("must not have an IPv4-mapped IPv6 address")
        } else if self.address != self.masked() {
            Err("must not have bits set beyond the prefix length")
        } else {
            Ok(())
        }
    }

    /// Whether the other is a part of this, and smaller.
    pub(crate) fn has_strictly(&self, other: &Self) -> bool {
        let cut = Self {
            address: other.address,
            prefix: self.prefix,
        };
        self.address.is_ipv4() == other.address.is_ipv4()
            && cut.masked() == self.masked()
            && self.prefix < other.prefix
    }
}

/// An address in a field that is older than the strict rules: it need not be canonical, but it must be one address to
/// all who read it.
pub(crate) fn legacy_address(value: &str) -> Result<IpAddr, &'static str> {
    let not_an_address = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
    match value.parse() {
        Ok(IpAddr::V6(a)) if a.to_ipv4_mapped().is_some() => {
            Err("must not be an IPv4-mapped IPv6 address")
        }
        Ok(address) => Ok(address),
        Err(_) if without_leading_zeros(value).parse::<IpAddr>().is_ok() => {
            Err("must not have leading 0s")
        }
        Err(_) => Err(not_an_address),
    }
}

/// A network in a field that is older than the strict rules.
pub(crate) fn legacy_network(value: &str) -> Result<Network, &'static str> {
    let Some(network) = Network::parse(value) else {
        let zeros = value.split_once('/').is_some_and(|(address, prefix)| {
            let trimmed = [
                without_leading_zeros(address),
                without_leading_zeros(prefix),
            ];
            Network::parse(&trimmed.join("/")).is_some()
        });
        return Err(if zeros {
            "must not have leading 0s in IP or prefix length"
        } else {
            "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
        });
    };
    network.must_be_plain()?;
    Ok(network)
}

/// Some read `010.2.3.4` as if the zero were not there, some read 010 as 8.
fn without_leading_zeros(text: &str) -> String {
    let plain = |part: &str| match part.trim_start_matches('0') {
        "" => part.get(..1).unwrap_or_default().to_owned(),
        rest => rest.to_owned(),
    };
    text.split('.').map(plain).collect::<Vec<_>>().join(".")
}

/// What is wrong with a network in a field that has always been strict.
fn validate_network(v: &Value, path: &str, errors: &mut Errors) {
    let value = text(v);
    let mut wrong = |detail: &str| errors.push(FieldError::invalid_str(path, value, detail));
    match legacy_network(value) {
        Err(detail) => wrong(detail),
        Ok(network) => {
            let canonical = format!("{}/{}", network.address, network.prefix);
            if canonical != value {
                wrong(&format!("must be in canonical form (\"{canonical}\")"));
            }
        }
    }
}

/// An address with the length of its network's prefix, as an interface has it.
pub(crate) fn validate_interface(v: &Value, path: &str, errors: &mut Errors) {
    let value = text(v);
    let Some(network) = Network::parse(value) else {
        let form = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
        return errors.push(FieldError::invalid_str(path, value, form));
    };
    let canonical = format!("{}/{}", network.address, network.prefix);
    if canonical != value {
        let detail = format!("must be in canonical form (\"{canonical}\")");
        errors.push(FieldError::invalid_str(path, value, detail));
    }
}

fn validate_cidrs(spec: &Value, errors: &mut Errors) {
    let path = "spec.cidrs";
    let cidrs = items(&spec["cidrs"]);
    match cidrs {
        [] => return errors.push(FieldError::required(path, "at least one CIDR required")),
        [_] => {}
        [a, b] => {
            let family = |v| Network::parse(text(v)).map(|n| n.address.is_ipv4());
            let dual = matches!((family(a), family(b)), (Some(a), Some(b)) if a != b);
            if !dual {
                let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/96";
                return errors.push(FieldError::invalid(path, spec, detail));
            }
        }
        _ => {
            let detail = "may only hold up to 2 values";
            return errors.push(FieldError::invalid(path, spec, detail));
        }
    }
    for (i, cidr) in cidrs.iter().enumerate() {
        validate_network(cidr, &format!("{path}[{i}]"), errors);
    }
}

/// Networks stay; one of the other family may be added to a single one.
fn validate_cidrs_update(new: &Value, old: &Value, errors: &mut Errors) {
    let path = "spec.cidrs";
    let (after, before) = (items(&new["spec"]["cidrs"]), items(&old["spec"]["cidrs"]));
    match (before.len(), after.len()) {
        (a, b) if a == b => {
            for (i, (after, before)) in after.iter().zip(before).enumerate() {
                immutable(after, before, &format!("{path}[{i}]"), errors);
            }
        }
        (1, 2) => {
            immutable(&after[0], &before[0], &format!("{path}[0]"), errors);
            validate_cidrs(&new["spec"], errors);
        }
        _ => immutable(&new["spec"]["cidrs"], &old["spec"]["cidrs"], path, errors),
    }
}

pub(crate) const SERVICE_CIDR: Strategy = Strategy {
    validate_create: |o, errors| validate_cidrs(&o["spec"], errors),
    validate_update: validate_cidrs_update,
    validate_status: |new, _, errors| {
        conditions::validate(&new["status"]["conditions"], "status.conditions", errors);
    },
    columns: &[
        NAME,
        column("CIDRs", "string", "The networks of its addresses."),
        AGE,
    ],
    row: |o, now| {
        let cidrs: Vec<&str> = items(&o["spec"]["cidrs"]).iter().map(text).collect();
        vec![name(o), cidrs.join(",").into(), age(o, now)]
    },
    ..Strategy::BASE
};
