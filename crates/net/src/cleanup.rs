//! Taking everything away again.

use crate::netlink::{Messages, Socket};
use crate::{Cidr, Result, link, nft};

/// What one cluster has made in a network namespace.
#[derive(Debug, Clone)]
pub struct Leftovers<'a> {
    /// Tables of nf_tables, family `ip`.
    pub tables: &'a [&'a str],
    /// What Pods' links start with, before the hexadecimal digits.
    pub link_prefix: &'a str,
    /// The range in which our routes are the cluster's.
    pub routes: Option<Cidr>,
}

/// Removes what a cluster left in this network namespace; what does not exist is fine. Blocks up to some 40 ms a link.
///
/// # Errors
/// The first thing that could not be removed; the rest is tried nevertheless.
pub fn cleanup(left: &Leftovers<'_>) -> Result<()> {
    let socket = Socket::route()?;
    let mut messages = Messages::new();
    for route in link::our_routes(&socket)? {
        if left.routes.is_some_and(|r| crate::contains(r, route.to.0)) {
            link::delete_route(&mut messages, &route);
        }
    }
    for found in link::list(&socket)? {
        if is_ours(&found.name, left.link_prefix) {
            link::delete(&mut messages, &found.name);
        }
    }
    let mut first = None;
    if !messages.is_empty() {
        let gone = [libc::ENODEV, libc::ESRCH];
        first = socket
            .run(&messages)?
            .into_iter()
            .find(|r| !gone.iter().any(|e| r.is(*e)))
            .map(|r| r.into_error("of ours"));
    }
    if nft::available().is_ok() {
        for table in left.tables {
            let mut batch = nft::Batch::new();
            batch.add_table(table);
            batch.delete_table(table);
            first = first.or(batch.commit().err());
        }
    }
    first.map_or(Ok(()), Err)
}

/// A Pod's link is the prefix and a hash; a link of somebody else that merely starts alike must stay.
fn is_ours(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| {
        rest.len() == crate::pod::hash_digits(prefix) && rest.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::is_ours;

    #[test]
    fn clusters_links_are_told_apart() {
        assert!(is_ours("sk0123456789ab", "sk"));
        assert!(is_ours("sk1a2b-89abcdef", "sk1a2b-"));
        for (name, prefix) in [
            ("sk1a2b-89abcdef", "sk"),
            ("sk0123456789ab", "sk1a2b-"),
            ("sk1a2c-89abcdef", "sk1a2b-"),
            ("skype0", "sk"),
        ] {
            assert!(!is_ours(name, prefix), "{name} {prefix}");
        }
    }
}
