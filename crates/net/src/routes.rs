//! Routes to other nodes' Pods, when the nodes share one link.

use std::net::Ipv4Addr;

use crate::link::{self, Route};
use crate::netlink::{Messages, Socket};
use crate::{Cidr, Result};

/// Makes our routes through gateways within `cluster` equal to `wanted` (range, node's address), and returns how many
/// were changed; routes to our own Pods stay, and those of other clusters. A range that gets another gateway is never
/// without one. Blocks for less than a millisecond.
///
/// # Errors
/// The first that the kernel refuses, usually since `via` is on no link of this node; the others are done nevertheless.
pub fn sync(cluster: Cidr, wanted: &[(Cidr, Ipv4Addr)]) -> Result<usize> {
    let socket = Socket::route()?;
    let mut messages = Messages::new();
    let present = link::our_routes(&socket)?;
    let is_there =
        |to: Cidr, via: Ipv4Addr| present.iter().any(|r| r.to == to && r.via == Some(via));
    for route in present
        .iter()
        .filter(|r| r.via.is_some() && crate::contains(cluster, r.to.0))
    {
        if !wanted.iter().any(|(to, _)| *to == route.to) {
            link::delete_route(&mut messages, route);
        }
    }
    for &(to, via) in wanted {
        if !is_there(to, via) {
            link::replace_route(
                &mut messages,
                &Route {
                    to,
                    via: Some(via),
                    link: 0,
                    onlink: false,
                    source: None,
                },
            );
        }
    }
    if messages.is_empty() {
        return Ok(0);
    }
    socket.run_all(&messages, "to another node's Pods")?;
    Ok(messages.len())
}
