//! IP addresses and CIDRs in fields that are older than the strict rules for them.
//!
//! Follows <https://github.com/kubernetes/enhancements/tree/master/keps/sig-network/4858-ip-cidr-validation>.

use std::net::{IpAddr, Ipv6Addr};

use api::FieldError;

use crate::Errors;

const BAD_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const BAD_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// Reads an address as Go once did: zeros before the parts of an IPv4 address count for nothing.
pub(crate) fn parse_sloppy(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let part = |p: &str| {
        let stripped = p.trim_start_matches('0');
        let digits = !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| if stripped.is_empty() { "0" } else { stripped }.to_owned())
    };
    let parts: Option<Vec<String>> = text.split('.').map(part).collect();
    parts?.join(".").parse().ok()
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

/// Whether an address counts as IPv6: one that is mapped from IPv4 does not.
pub(crate) fn is_v6(text: &str) -> bool {
    parse_sloppy(text).is_some_and(|a| a.is_ipv6() && !is_mapped(a))
}

/// An address; says whether it is one.
pub(crate) fn validate(text: &str, path: &str, errors: &mut Errors) -> bool {
    let Some(address) = parse_sloppy(text) else {
        errors.push(FieldError::invalid_str(path, text, BAD_IP));
        return false;
    };
    if text.parse::<IpAddr>().is_err() {
        let detail = "must not have leading 0s";
        errors.push(FieldError::invalid_str(path, text, detail));
        return false;
    }
    if is_mapped(address) {
        let detail = "must not be an IPv4-mapped IPv6 address";
        errors.push(FieldError::invalid_str(path, text, detail));
        return false;
    }
    true
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// A subnet in CIDR form; says whether it is one.
pub(crate) fn validate_cidr(text: &str, path: &str, errors: &mut Errors) -> bool {
    let parsed = text.split_once('/').and_then(|(ip, length)| {
        let address = parse_sloppy(ip)?;
        let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
        let length: u32 = length.parse().ok().filter(|_| digits)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        (length <= most).then_some((address, length))
    });
    let Some((address, length)) = parsed else {
        errors.push(FieldError::invalid_str(path, text, BAD_CIDR));
        return false;
    };
    let zeros = text.split_once('/').is_some_and(|(ip, length)| {
        ip.parse::<IpAddr>().is_err() || (length.len() > 1 && length.starts_with('0'))
    });
    let detail = if zeros {
        "must not have leading 0s in IP or prefix length"
    } else if is_mapped(address) {
        "must not have an IPv4-mapped IPv6 address"
    } else if bits(address).checked_shl(length).unwrap_or(0) != 0 {
        "must not have bits set beyond the prefix length"
    } else {
        return true;
    };
    errors.push(FieldError::invalid_str(path, text, detail));
    false
}

/// Of an address that others are to reach: not one that means this machine or this link.
pub(crate) fn validate_non_special(text: &str, path: &str, errors: &mut Errors) {
    let Some(address) = parse_sloppy(text) else {
        let detail = "must be a valid IP address";
        errors.push(FieldError::invalid_str(path, text, detail));
        return;
    };
    let (link_local, multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), link_local_multicast(v6)),
    };
    let wrong = [
        (
            address.is_unspecified(),
            format!("may not be unspecified ({text})"),
        ),
        (
            address.is_loopback(),
            "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned(),
        ),
        (
            link_local,
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned(),
        ),
        (
            multicast,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned(),
        ),
    ];
    let wrong = wrong.into_iter().filter(|(is, _)| *is);
    errors.extend(wrong.map(|(_, detail)| FieldError::invalid_str(path, text, detail)));
}

fn link_local_multicast(address: Ipv6Addr) -> bool {
    address.octets()[0] == 0xff && address.octets()[1] & 0x0f == 0x02
}

/// Whether the addresses are of both families.
pub(crate) fn both_families<'a>(mut addresses: impl Iterator<Item = &'a str> + Clone) -> bool {
    addresses.clone().any(is_v6) && addresses.any(|a| !is_v6(a))
}
