//! The kernel's connection table, as far as Services need it.
//!
//! UDP has no end of connection: a client that keeps its port keeps its entry, and with it an endpoint that is gone. TCP's
//! entries are left alone, for they end by themselves.

use std::net::Ipv4Addr;

use crate::Result;
use crate::netlink::{Messages, Socket, attribute};

const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const IPV4: [u8; 4] = [libc::AF_INET as u8, 0, 0, 0];

/// One UDP connection as the kernel tracks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdpFlow {
    /// Where the client sends to.
    pub destination: (Ipv4Addr, u16),
    /// Who answers: the endpoint, if the destination was changed.
    pub answered_by: (Ipv4Addr, u16),
    /// The kernel's own description of the client's direction.
    tuple: Vec<u8>,
}

/// Deletes the UDP entries that `stale` picks and returns how many there were. Blocks for the whole table.
///
/// # Errors
/// As the kernel says.
pub fn delete_udp(stale: impl Fn(&UdpFlow) -> bool) -> Result<usize> {
    let socket = Socket::netfilter()?;
    let mut messages = Messages::new();
    let dump = libc::NLM_F_DUMP as u16;
    messages.message("list connections", GET, dump, &IPV4, |_| {});
    let mut flows = Vec::new();
    socket.query(&messages, |_, body| flows.extend(parse(body)))?;
    flows.retain(|flow| stale(flow));
    if flows.is_empty() {
        return Ok(0);
    }
    let mut messages = Messages::new();
    let ack = libc::NLM_F_ACK as u16;
    for flow in &flows {
        messages.message("delete a connection", DELETE, ack, &IPV4, |m| {
            m.nest(1, |m| m.raw(&flow.tuple));
        });
    }
    let refused = socket.run(&messages)?;
    match refused.into_iter().find(|r| !r.is(libc::ENOENT)) {
        Some(refusal) => Err(refusal.into_error("")),
        None => Ok(flows.len()),
    }
}

fn parse(body: &[u8]) -> Option<UdpFlow> {
    let attributes = body.get(4..)?;
    let original = attribute(attributes, 1)?;
    let reply = attribute(attributes, 2)?;
    let (protocol, _, destination) = ends(original)?;
    let (_, answered_by, _) = ends(reply)?;
    (i32::from(protocol) == libc::IPPROTO_UDP).then(|| UdpFlow {
        destination,
        answered_by,
        tuple: original.to_vec(),
    })
}

type End = (Ipv4Addr, u16);

/// Protocol, source and destination of a `CTA_TUPLE_*`.
fn ends(tuple: &[u8]) -> Option<(u8, End, End)> {
    let (ip, protocol) = (attribute(tuple, 1)?, attribute(tuple, 2)?);
    let address = |kind| {
        let octets = <[u8; 4]>::try_from(attribute(ip, kind)?).ok()?;
        Some(Ipv4Addr::from(octets))
    };
    let number = *attribute(protocol, 1)?.first()?;
    let port = |kind| {
        attribute(protocol, kind)
            .and_then(|v| <[u8; 2]>::try_from(v).ok())
            .map_or(0, u16::from_be_bytes)
    };
    Some((number, (address(1)?, port(2)), (address(2)?, port(3))))
}
