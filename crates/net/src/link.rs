//! Links, addresses and neighbours by rtnetlink: see `rtnetlink(7)`.

use std::net::Ipv4Addr;
use std::os::fd::RawFd;

use tokio::io::unix::AsyncFd;

use crate::netlink::{Messages, Socket, attribute, u32_at};
use crate::{Cidr, Error, Result};

const ACK: u16 = libc::NLM_F_ACK as u16;
const CREATE: u16 = libc::NLM_F_CREATE as u16;
const EXCLUSIVE: u16 = libc::NLM_F_EXCL as u16;
const REPLACE: u16 = libc::NLM_F_REPLACE as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;

const RTNH_F_ONLINK: u32 = 4;

/// Marks routes as ours in the kernel's tables (`ip route show proto 83`).
pub const ROUTE_PROTOCOL: u8 = 83;

/// `struct ifinfomsg`.
fn ifinfo(index: u32, up: bool) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    if up {
        let flag = (libc::IFF_UP as u32).to_ne_bytes();
        bytes[8..12].copy_from_slice(&flag);
        bytes[12..16].copy_from_slice(&flag);
    }
    bytes
}

/// A pair of virtual Ethernet ends.
#[derive(Debug)]
pub struct VethPair<'a> {
    /// The end in the namespace of the socket.
    pub name: &'a str,
    pub hardware: [u8; 6],
    /// The end that goes elsewhere.
    pub peer_name: &'a str,
    pub peer_hardware: [u8; 6],
    /// An open network namespace.
    pub peer_namespace: RawFd,
    pub mtu: u32,
}

/// Makes a veth pair. Both ends are down: the kernel refuses to set one up while it makes the other.
pub fn add_veth(messages: &mut Messages, pair: &VethPair<'_>) {
    let flags = ACK | CREATE | EXCLUSIVE;
    let fixed = ifinfo(0, false);
    messages.message("make a veth pair", libc::RTM_NEWLINK, flags, &fixed, |m| {
        m.text(libc::IFLA_IFNAME, pair.name);
        m.u32(libc::IFLA_MTU, pair.mtu);
        m.bytes(libc::IFLA_ADDRESS, &pair.hardware);
        m.nest(libc::IFLA_LINKINFO, |m| {
            m.text(libc::IFLA_INFO_KIND, "veth");
            m.nest(libc::IFLA_INFO_DATA, |m| {
                // VETH_INFO_PEER
                m.nest(1, |m| {
                    m.raw(&ifinfo(0, false));
                    m.text(libc::IFLA_IFNAME, pair.peer_name);
                    m.u32(libc::IFLA_MTU, pair.mtu);
                    m.bytes(libc::IFLA_ADDRESS, &pair.peer_hardware);
                    m.u32(
                        libc::IFLA_NET_NS_FD,
                        u32::try_from(pair.peer_namespace).unwrap_or(u32::MAX),
                    );
                });
            });
        });
    });
}

/// Sets a link up.
pub fn set_up(messages: &mut Messages, index: u32) {
    let fixed = ifinfo(index, true);
    messages.message("set a link up", libc::RTM_NEWLINK, ACK, &fixed, |_| {});
}

/// Deletes a link by name.
pub fn delete(messages: &mut Messages, name: &str) {
    let fixed = ifinfo(0, false);
    messages.message("delete a link", libc::RTM_DELLINK, ACK, &fixed, |m| {
        m.text(libc::IFLA_IFNAME, name);
    });
}

/// How far an address or a route reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Scope {
    Universe = libc::RT_SCOPE_UNIVERSE,
    Link = libc::RT_SCOPE_LINK,
    Host = libc::RT_SCOPE_HOST,
}

/// Gives a link an address; it is fine if it has it.
pub fn add_address(messages: &mut Messages, index: u32, (address, prefix): Cidr, scope: Scope) {
    let mut fixed = [libc::AF_INET as u8, prefix, 0, scope as u8, 0, 0, 0, 0];
    fixed[4..].copy_from_slice(&index.to_ne_bytes());
    let flags = ACK | CREATE | REPLACE;
    messages.message("add an address", libc::RTM_NEWADDR, flags, &fixed, |m| {
        m.bytes(libc::IFA_LOCAL, &address.octets());
        m.bytes(libc::IFA_ADDRESS, &address.octets());
    });
}

/// Where packets to a range go.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    pub to: Cidr,
    pub via: Option<Ipv4Addr>,
    /// The link's index; 0 lets the kernel find it by `via`.
    pub link: u32,
    /// The gateway counts as reachable on the link though no route says so.
    pub onlink: bool,
    /// The address that our own packets carry.
    pub source: Option<Ipv4Addr>,
}

fn route(messages: &mut Messages, label: &'static str, kind: u16, flags: u16, route: &Route) {
    let scope = match (kind == libc::RTM_DELROUTE, route.via) {
        (true, _) => libc::RT_SCOPE_NOWHERE,
        (false, Some(_)) => Scope::Universe as u8,
        (false, None) => Scope::Link as u8,
    };
    let mut fixed = [0; 12];
    fixed[0] = libc::AF_INET as u8;
    fixed[1] = route.to.1;
    fixed[4] = libc::RT_TABLE_MAIN;
    fixed[5] = ROUTE_PROTOCOL;
    fixed[6] = scope;
    fixed[7] = libc::RTN_UNICAST;
    if route.onlink {
        fixed[8..].copy_from_slice(&RTNH_F_ONLINK.to_ne_bytes());
    }
    messages.message(label, kind, flags, &fixed, |m| {
        m.bytes(libc::RTA_DST, &route.to.0.octets());
        if let Some(via) = route.via {
            m.bytes(libc::RTA_GATEWAY, &via.octets());
        }
        if route.link != 0 {
            m.u32(libc::RTA_OIF, route.link);
        }
        if let Some(source) = route.source {
            m.bytes(libc::RTA_PREFSRC, &source.octets());
        }
    });
}

/// Adds a route, or puts it in the place of the one to the same range.
pub fn replace_route(messages: &mut Messages, to: &Route) {
    let flags = ACK | CREATE | REPLACE;
    route(messages, "add a route", libc::RTM_NEWROUTE, flags, to);
}

/// Deletes one of our routes.
pub fn delete_route(messages: &mut Messages, to: &Route) {
    route(messages, "delete a route", libc::RTM_DELROUTE, ACK, to);
}

/// Adds a neighbour that is never asked for nor forgotten.
pub fn add_neighbour(messages: &mut Messages, index: u32, address: Ipv4Addr, hardware: [u8; 6]) {
    let mut fixed = [0; 12];
    fixed[0] = libc::AF_INET as u8;
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..10].copy_from_slice(&libc::NUD_PERMANENT.to_ne_bytes());
    let flags = ACK | CREATE | REPLACE;
    messages.message("add a neighbour", libc::RTM_NEWNEIGH, flags, &fixed, |m| {
        m.bytes(libc::NDA_DST, &address.octets());
        m.bytes(libc::NDA_LLADDR, &hardware);
    });
}

/// What is known of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    pub up: bool,
    pub loopback: bool,
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let flags = u32_at(body, 8)?;
    let attributes = body.get(16..)?;
    let name = attribute(attributes, libc::IFLA_IFNAME)?;
    Some(Link {
        index: u32_at(body, 4)?,
        name: String::from_utf8_lossy(name)
            .trim_end_matches('\0')
            .to_owned(),
        mtu: u32_at(attribute(attributes, libc::IFLA_MTU)?, 0)?,
        up: flags & libc::IFF_UP as u32 != 0,
        loopback: flags & libc::IFF_LOOPBACK as u32 != 0,
    })
}

/// The link of this name.
///
/// # Errors
/// As the kernel says; `None` when there is none.
pub fn find(socket: &Socket, name: &str) -> Result<Option<Link>> {
    let mut messages = Messages::new();
    let fixed = ifinfo(0, false);
    messages.message("look up a link", libc::RTM_GETLINK, 0, &fixed, |m| {
        m.text(libc::IFLA_IFNAME, name);
    });
    let mut link = None;
    match socket.query(&messages, |_, body| link = parse_link(body)) {
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
        result => result.map(|()| link),
    }
}

/// All links of the namespace.
///
/// # Errors
/// As the kernel says.
pub fn list(socket: &Socket) -> Result<Vec<Link>> {
    let mut messages = Messages::new();
    let fixed = ifinfo(0, false);
    messages.message("list links", libc::RTM_GETLINK, DUMP, &fixed, |_| {});
    let mut links = Vec::new();
    socket.query(&messages, |_, body| links.extend(parse_link(body)))?;
    Ok(links)
}

/// All IPv4 addresses of the calling thread's namespace, each with the prefix of its link.
///
/// # Errors
/// As the kernel says.
pub fn subnets() -> Result<Vec<Cidr>> {
    let mut messages = Messages::new();
    let fixed = [libc::AF_INET as u8, 0, 0, 0, 0, 0, 0, 0];
    messages.message("list addresses", libc::RTM_GETADDR, DUMP, &fixed, |_| {});
    let mut found = Vec::new();
    Socket::route()?.query(&messages, |_, body| {
        let local = body
            .get(8..)
            .and_then(|a| attribute(a, libc::IFA_LOCAL))
            .and_then(|a| <[u8; 4]>::try_from(a).ok());
        if let (Some(&prefix), Some(local)) = (body.get(1), local) {
            found.push((local.into(), prefix));
        }
    })?;
    Ok(found)
}

/// Tells when the links of the namespace, other than Pods', or its addresses change: the kernel drops routes with them.
pub struct Changes(AsyncFd<Socket>);

impl Changes {
    /// From now on, in the calling thread's namespace. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn subscribe() -> Result<Self> {
        let socket = Socket::route()?;
        // A socket gets its address with its first request, and without one it is told nothing.
        list(&socket)?;
        for group in [libc::RTNLGRP_LINK, libc::RTNLGRP_IPV4_IFADDR] {
            socket.subscribe(group)?;
        }
        // SAFETY: the socket owns its descriptor, always names the same one, and closes it only when it is dropped.
        let registered = unsafe { AsyncFd::register(socket) };
        let registered = registered.map_err(std::io::Error::from);
        registered.map(Self).map_err(Error::os("watch the links"))
    }

    /// Waits for a change.
    ///
    /// # Errors
    /// As the kernel says.
    pub async fn next(&self) -> Result<()> {
        loop {
            let ready = self.0.readable().await;
            let mut ready = ready.map_err(Error::os("watch the links"))?;
            // Before reading: what comes meanwhile must wake us again.
            ready.clear_ready();
            let mut changed = false;
            let all = ready.get_inner().told(|kind, body| {
                let of_link = kind == libc::RTM_NEWLINK || kind == libc::RTM_DELLINK;
                let pods = of_link
                    && parse_link(body)
                        .is_some_and(|l| l.name.starts_with(crate::pod::LINK_PREFIX));
                changed |= !pods;
            })?;
            if changed || !all {
                return Ok(());
            }
        }
    }
}

/// Our routes (those of [`ROUTE_PROTOCOL`]) in the main table.
///
/// # Errors
/// As the kernel says.
pub fn our_routes(socket: &Socket) -> Result<Vec<Route>> {
    let mut messages = Messages::new();
    let mut fixed = [0; 12];
    fixed[0] = libc::AF_INET as u8;
    messages.message("list routes", libc::RTM_GETROUTE, DUMP, &fixed, |_| {});
    let mut routes = Vec::new();
    socket.query(&messages, |_, body| {
        let Some(&[_, prefix, _, _, table, protocol, _, _, ..]) = body.get(..12) else {
            return;
        };
        if protocol != ROUTE_PROTOCOL || table != libc::RT_TABLE_MAIN {
            return;
        }
        let attributes = &body[12..];
        let address = |kind| {
            let octets = <[u8; 4]>::try_from(attribute(attributes, kind)?).ok()?;
            Some(Ipv4Addr::from(octets))
        };
        let to = address(libc::RTA_DST).unwrap_or(Ipv4Addr::UNSPECIFIED);
        routes.push(Route {
            to: (to, prefix),
            via: address(libc::RTA_GATEWAY),
            link: attribute(attributes, libc::RTA_OIF)
                .and_then(|v| u32_at(v, 0))
                .unwrap_or(0),
            onlink: false,
            source: address(libc::RTA_PREFSRC),
        });
    })?;
    Ok(routes)
}

/// The greatest packet that leaves the node unbroken, in bytes: the MTU of the link towards the Internet, else of the
/// narrowest link that is up, else 1500. Links whose name starts with `ours` don't count.
///
/// # Errors
/// As the kernel says.
pub fn uplink_mtu(socket: &Socket, ours: &str) -> Result<u32> {
    let links = list(socket)?;
    let mut messages = Messages::new();
    let mut fixed = [0; 12];
    fixed[0] = libc::AF_INET as u8;
    fixed[1] = 32;
    messages.message("look up a route", libc::RTM_GETROUTE, 0, &fixed, |m| {
        m.bytes(libc::RTA_DST, &[192, 0, 0, 8]);
    });
    let mut uplink = None;
    let asked = socket.query(&messages, |_, body| {
        uplink = body
            .get(12..)
            .and_then(|a| attribute(a, libc::RTA_OIF))
            .and_then(|v| u32_at(v, 0));
    });
    if asked.is_ok()
        && let Some(link) = links
            .iter()
            .find(|l| Some(l.index) == uplink && !l.loopback && !l.name.starts_with(ours))
    {
        return Ok(link.mtu);
    }
    Ok(links
        .iter()
        .filter(|l| l.up && !l.loopback && !l.name.starts_with(ours))
        .map(|l| l.mtu)
        .min()
        .unwrap_or(1500))
}

/// Gives the node an address of its own that nobody else sees: on the loopback, never chosen as a source. For the cluster
/// DNS. Fine if it has it.
///
/// # Errors
/// As the kernel says.
pub fn hold(address: Ipv4Addr) -> Result<()> {
    let mut messages = Messages::new();
    add_address(&mut messages, 1, (address, 32), Scope::Host);
    Socket::route()?.run_all(&messages, &format!("{address} to the loopback"))
}

/// Takes the address back that [`hold`] gave. Fine if it is not there.
///
/// # Errors
/// As the kernel says.
pub fn release(address: Ipv4Addr) -> Result<()> {
    let mut messages = Messages::new();
    let mut fixed = [libc::AF_INET as u8, 32, 0, 0, 0, 0, 0, 0];
    fixed[4..].copy_from_slice(&1_u32.to_ne_bytes());
    messages.message("take an address", libc::RTM_DELADDR, ACK, &fixed, |m| {
        m.bytes(libc::IFA_LOCAL, &address.octets());
    });
    match Socket::route()?.run_all(&messages, &format!("{address} from the loopback")) {
        Err(error) if error.errno() == Some(libc::EADDRNOTAVAIL) => Ok(()),
        result => result,
    }
}
