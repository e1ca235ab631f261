//! The node's network by netlink, in process: Pods' links and addresses, routes, nf_tables messages.
//!
//! A Pod gets a routed veth pair: its end `eth0` has the Pod's address as a /32 and a default route through a link-local
//! gateway, the host's end a route to that address. No bridge, hence neither ARP floods nor hairpin trouble. Everything
//! here blocks for at most some milliseconds; the async functions do it on threads of their own, since joining another
//! network namespace changes the calling thread.
#![allow(
    unsafe_code,
    reason = "sockets and setns; each block says why it is sound"
)]

pub mod cleanup;
pub mod conntrack;
pub mod link;
pub mod namespace;
pub mod netlink;
pub mod nft;
pub mod pod;
pub mod routes;
pub mod sysctl;

pub use cleanup::{Leftovers, cleanup};

use std::io;
use std::net::Ipv4Addr;

/// An IPv4 range: its first address and the length of its prefix.
pub type Cidr = (Ipv4Addr, u8);

/// Reads `10.42.1.0/24`.
#[must_use]
pub fn parse_cidr(text: &str) -> Option<Cidr> {
    let (base, prefix) = text.split_once('/')?;
    let prefix = prefix.parse().ok().filter(|p| *p <= 32)?;
    Some((base.parse().ok()?, prefix))
}

/// Whether `range` holds `address`.
#[must_use]
pub fn contains(range: Cidr, address: Ipv4Addr) -> bool {
    let mask = mask(range.1);
    u32::from(range.0) & mask == u32::from(address) & mask
}

/// The network mask of a prefix length; longer ones than 32 count as 32.
#[must_use]
pub fn mask(prefix: u8) -> u32 {
    u32::MAX
        .checked_shl(32 - u32::from(prefix.min(32)))
        .unwrap_or(0)
}

/// What can go wrong on the node's network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call outside of netlink failed.
    #[error("cannot {action}: {source}")]
    Os {
        /// What was attempted, on what.
        action: String,
        #[source]
        source: io::Error,
    },
    /// The kernel refused a netlink request.
    #[error("cannot {action}: {source}{}", if detail.is_empty() { String::new() } else { format!(" ({detail})") })]
    Netlink {
        /// What was attempted, on what.
        action: String,
        /// Which request of a batch, from 0.
        index: usize,
        #[source]
        source: io::Error,
        /// The kernel's own words, if it gave any.
        detail: String,
    },
    /// A Pod wants an address before the Node has a range.
    #[error("the node has no Pod address range yet")]
    NoRange,
    /// All addresses of the range are in use.
    #[error("no address of the node's Pod range {}/{} is free", .0.0, .0.1)]
    Exhausted(Cidr),
    /// A sandbox's id cannot name a file.
    #[error("\"{0}\" cannot be the id of a sandbox")]
    BadId(String),
}

impl Error {
    pub(crate) fn os(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Os { action, source }
    }

    /// The kernel's error number, if there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Os { source, .. } | Self::Netlink { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// The result of an operation on the network.
pub type Result<T> = std::result::Result<T, Error>;
