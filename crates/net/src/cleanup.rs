//! Taking everything away again.

use crate::netlink::{Messages, Socket};
use crate::{Result, link, nft};

/// Removes what Skiff made in this network namespace: the nf_tables tables (family `ip`) of these names, all links whose
/// name is one of `link_prefixes` or one followed by hexadecimal digits, and our routes. What does not exist is fine. Blocks up to some 40 ms a link.
///
/// # Errors
/// The first thing that could not be removed; the rest is tried nevertheless.
pub fn cleanup(tables: &[&str], link_prefixes: &[&str]) -> Result<()> {
    let socket = Socket::route()?;
    let mut messages = Messages::new();
    for route in link::our_routes(&socket)? {
        link::delete_route(&mut messages, &route);
    }
    for found in link::list(&socket)? {
        if link_prefixes.iter().any(|p| is_ours(&found.name, p)) {
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
        for table in tables {
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
        rest.is_empty() || rest.len() == 12 && rest.bytes().all(|b| b.is_ascii_hexdigit())
    })
}
