//! Routes to other nodes' Pods, when the nodes share one link.

use std::net::Ipv4Addr;

use crate::link::{self, Route};
use crate::netlink::{Messages, Socket};
use crate::{Cidr, Result};

/// Makes the routes through gateways equal to `wanted` (range, node's address); routes to our own Pods stay. Blocks
/// for less than a millisecond.
///
/// # Errors
/// The first that the kernel refuses, usually since `via` is on no link of this node; the others are done nevertheless.
pub fn sync(wanted: &[(Cidr, Ipv4Addr)]) -> Result<()> {
    let socket = Socket::route()?;
    let mut messages = Messages::new();
    let present = link::our_routes(&socket)?;
    for route in present.iter().filter(|r| r.via.is_some()) {
        if !wanted
            .iter()
            .any(|(to, via)| *to == route.to && Some(*via) == route.via)
        {
            link::delete_route(&mut messages, route);
        }
    }
    for &(to, via) in wanted {
        if !present.iter().any(|r| r.to == to && r.via == Some(via)) {
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
        return Ok(());
    }
    socket.run_all(&messages, "to another node's Pods")
}
