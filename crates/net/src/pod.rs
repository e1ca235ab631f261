//! Pods' interfaces and addresses.
//!
//! ```text
//!   Pod's namespace                        node's namespace
//!   lo
//!   eth0  10.42.0.5/32 ─────── veth ─────── sk<hash of the sandbox id>
//!   169.254.1.1 dev eth0                    10.42.0.5/32 dev sk…
//!   default via 169.254.1.1
//! ```
//! Both ends know each other's hardware address as a permanent neighbour, so there is never an ARP request. The addresses
//! in use are files, one a sandbox, so that they survive a restart. A veth takes the kernel some 35 ms to delete: that
//! trails behind [`PodNetwork::remove`], and the address stays taken until it is done.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use tokio::sync::watch;
use world::World;
use world::metrics::Gauge;

use crate::link::{self, Route, Scope, VethPair};
use crate::netlink::{Messages, Socket};
use crate::nft::{self, Batch, Expr, Rule};
use crate::{Cidr, Error, Result, namespace, sysctl};

/// What the host's ends of all clusters' Pods' links start with.
pub const LINK_PREFIX: &str = "sk";
/// The most hexadecimal digits of a sandbox's hash in its link's name.
const HASH_DIGITS: usize = 12;
/// The longest name that the kernel gives a link.
const LONGEST_NAME: usize = 15;

/// The gateway that every Pod sees. Nobody has it: its hardware address is all that counts.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The hardware address of every Pod's other end, locally administered; ends on different links never meet.
const GATEWAY_HARDWARE: [u8; 6] = [0xee, 0xee, 0xee, 0xee, 0xee, 0xee];
/// How long a Pod waits for the node's range.
const RANGE_PATIENCE: Duration = Duration::from_secs(5);
const GONE: &str = ".gone";

/// How a node's Pods are connected.
#[derive(Clone)]
pub struct Options {
    /// Holds a file for each address in use. Made if missing.
    pub state_dir: PathBuf,
    /// The range of all Pods of the cluster: what leaves it carries the node's address. `None`: no masquerading.
    pub cluster_cidr: Option<Cidr>,
    /// The nf_tables table (family `ip`) that lets Pods reach the outside with the node's address.
    pub table: String,
    /// What the host's ends of this cluster's Pods' links start with: [`LINK_PREFIX`], and what tells it from other
    /// clusters on the machine.
    pub link_prefix: String,
    pub world: World,
}

/// The network of the Pods on this node, in the network namespace in which it was opened.
pub struct PodNetwork {
    state_dir: PathBuf,
    link_prefix: Arc<str>,
    range: watch::Sender<Option<Cidr>>,
    addresses: Mutex<Addresses>,
    trailing: mpsc::Sender<String>,
}

/// Which sandbox has which address.
struct Addresses {
    of_sandbox: BTreeMap<String, Ipv4Addr>,
    taken: BTreeSet<Ipv4Addr>,
    /// The one given last: the next search starts behind it, so that an address rests as long as possible.
    last: Option<Ipv4Addr>,
    in_use: Gauge,
}

impl PodNetwork {
    /// Reads the addresses in use, turns on forwarding, sets up masquerading, and deletes links that a former process
    /// left to delete. Must be called inside a tokio runtime, in the node's network namespace.
    ///
    /// # Errors
    /// When the state cannot be read or the kernel refuses.
    pub fn open(options: Options) -> Result<Arc<Self>> {
        let dir = options.state_dir;
        fs::create_dir_all(&dir).map_err(Error::os(format!("make {}", dir.display())))?;
        let mut addresses = Addresses {
            of_sandbox: BTreeMap::new(),
            taken: BTreeSet::new(),
            last: None,
            in_use: options.world.metrics.gauge(
                "skiff_pod_addresses_in_use",
                "Addresses of the node's Pod range that sandboxes hold.",
                "",
            ),
        };
        let (trailing, to_delete) = mpsc::channel::<String>();
        let listing = fs::read_dir(&dir).map_err(Error::os(format!("list {}", dir.display())))?;
        for entry in listing {
            let entry = entry.map_err(Error::os(format!("list {}", dir.display())))?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let path = entry.path();
            if name.starts_with('.') {
                // A file that was being written, or the note about the last address.
                if name == ".last" {
                    addresses.last = read_address(&path)?;
                } else {
                    fs::remove_file(&path)
                        .map_err(Error::os(format!("remove {}", path.display())))?;
                }
                continue;
            }
            let Some(address) = read_address(&path)? else {
                tracing::warn!(path = %path.display(), "is no address; removing it");
                fs::remove_file(&path).map_err(Error::os(format!("remove {}", path.display())))?;
                continue;
            };
            let id = name.strip_suffix(GONE).unwrap_or(&name).to_owned();
            addresses.taken.insert(address);
            addresses.of_sandbox.insert(id.clone(), address);
            if name.ends_with(GONE) && trailing.send(id).is_err() {
                unreachable!("the receiver lives in this function");
            }
        }
        addresses.show();

        sysctl::set("ipv4/ip_forward", "1")?;
        if let Some(cidr) = options.cluster_cidr {
            masquerade(&options.table, cidr)?;
        }
        let network = Arc::new(Self {
            state_dir: dir,
            link_prefix: Arc::from(options.link_prefix),
            range: watch::Sender::new(None),
            addresses: Mutex::new(addresses),
            trailing,
        });
        let weak = Arc::downgrade(&network);
        let prefix = network.link_prefix.clone();
        std::thread::Builder::new()
            .name("pod-links".to_owned())
            .stack_size(256 << 10)
            .spawn(move || {
                // Ends when the network is dropped: its sender goes with it.
                while let Ok(id) = to_delete.recv() {
                    if let Err(error) = delete_link(&link_name(&prefix, &id)) {
                        tracing::warn!(sandbox = id, %error, "the Pod's link stays for now");
                        continue;
                    }
                    if let Some(network) = weak.upgrade()
                        && let Err(error) = network.forget(&id)
                    {
                        tracing::warn!(sandbox = id, %error, "the Pod's address stays taken");
                    }
                }
            })
            .map_err(Error::os("start a thread"))?;
        Ok(network)
    }

    /// Tells from which range Pods get addresses: the Node's `spec.podCIDR`. Addresses given before stay as they are.
    pub fn set_pod_cidr(&self, range: Cidr) {
        self.range.send_replace(Some(range));
    }

    /// Connects the network namespace at `netns` and returns its address. A sandbox that already has an address keeps it,
    /// and its interface is made anew.
    ///
    /// # Errors
    /// No range (after five seconds), no free address, or what the kernel refused.
    pub async fn add(self: &Arc<Self>, sandbox_id: &str, netns: &Path) -> Result<IpAddr> {
        let mut range = self.range.subscribe();
        let range =
            match tokio::time::timeout(RANGE_PATIENCE, range.wait_for(Option::is_some)).await {
                Ok(Ok(range)) => (*range).ok_or(Error::NoRange)?,
                _ => return Err(Error::NoRange),
            };
        let (network, id, netns) = (
            Arc::clone(self),
            sandbox_id.to_owned(),
            PathBuf::from(netns),
        );
        namespace::on_own_thread("pod-network", move || {
            let address = network.take(&id, range)?;
            connect(&network.link_name(&id), &netns, address)?;
            Ok(IpAddr::V4(address))
        })
        .await
    }

    /// Disconnects a sandbox. Fine when there is nothing to do. The kernel may delete the link a little later; the address
    /// is given to nobody before.
    ///
    /// # Errors
    /// When the decision cannot be written down.
    pub async fn remove(self: &Arc<Self>, sandbox_id: &str, _netns: &Path) -> Result<()> {
        let path = self.path(sandbox_id)?;
        if !self.lock().of_sandbox.contains_key(sandbox_id) {
            return Ok(());
        }
        let mut gone = path.clone().into_os_string();
        gone.push(GONE);
        match fs::rename(&path, &gone) {
            Ok(()) => {}
            // It is being deleted already.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::os(format!("rename {}", path.display()))(e)),
        }
        if self.trailing.send(sandbox_id.to_owned()).is_err() {
            // The thread is gone (it panicked): do its work here.
            let (network, id) = (Arc::clone(self), sandbox_id.to_owned());
            return namespace::on_own_thread("pod-network", move || {
                delete_link(&network.link_name(&id))?;
                network.forget(&id)
            })
            .await;
        }
        Ok(())
    }

    /// The name of the host's end of a sandbox's link.
    #[must_use]
    pub fn link_name(&self, sandbox_id: &str) -> String {
        link_name(&self.link_prefix, sandbox_id)
    }

    /// The addresses in use, by sandbox.
    #[must_use]
    pub fn in_use(&self) -> BTreeMap<String, Ipv4Addr> {
        self.lock().of_sandbox.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Addresses> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, id: &str) -> Result<PathBuf> {
        let bad = id.is_empty() || id.starts_with('.') || id.contains(['/', '\0']);
        if bad || id.ends_with(GONE) {
            return Err(Error::BadId(id.to_owned()));
        }
        Ok(self.state_dir.join(id))
    }

    /// The sandbox's address; a free one if it has none.
    fn take(&self, id: &str, range: Cidr) -> Result<Ipv4Addr> {
        let path = self.path(id)?;
        let mut addresses = self.lock();
        if let Some(address) = addresses.of_sandbox.get(id) {
            return Ok(*address);
        }
        let address = addresses.next_free(range).ok_or(Error::Exhausted(range))?;
        write_address(&self.state_dir, &path, address)?;
        write_address(&self.state_dir, &self.state_dir.join(".last"), address)?;
        addresses.last = Some(address);
        addresses.taken.insert(address);
        addresses.of_sandbox.insert(id.to_owned(), address);
        addresses.show();
        Ok(address)
    }

    /// Gives a sandbox's address back.
    fn forget(&self, id: &str) -> Result<()> {
        let mut path = self.path(id)?.into_os_string();
        path.push(GONE);
        let path = PathBuf::from(path);
        let mut addresses = self.lock();
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::os(format!("remove {}", path.display()))(e));
            }
            _ => {}
        }
        if let Some(address) = addresses.of_sandbox.remove(id) {
            addresses.taken.remove(&address);
        }
        addresses.show();
        Ok(())
    }
}

impl Addresses {
    /// The next free address behind the last one given. The range's first two (network, and one for the node) and its
    /// last (broadcast) are never given.
    fn next_free(&self, range: Cidr) -> Option<Ipv4Addr> {
        let base = u32::from(range.0) & crate::mask(range.1);
        let size = u64::from(!crate::mask(range.1)) + 1;
        let (first, count) = (
            base.checked_add(2)?,
            u32::try_from(size).ok()?.checked_sub(3)?,
        );
        let start = match self.last {
            Some(last) if crate::contains(range, last) => {
                u32::from(last).wrapping_sub(first).wrapping_add(1)
            }
            _ => 0,
        };
        (0..count)
            .map(|i| {
                Ipv4Addr::from(
                    first + (u64::from(start) + u64::from(i)).rem_euclid(u64::from(count)) as u32,
                )
            })
            .find(|address| !self.taken.contains(address))
    }

    fn show(&self) {
        self.in_use
            .set(i64::try_from(self.taken.len()).unwrap_or(i64::MAX));
    }
}

fn read_address(path: &Path) -> Result<Option<Ipv4Addr>> {
    let text = fs::read_to_string(path).map_err(Error::os(format!("read {}", path.display())))?;
    Ok(text.trim().parse().ok())
}

/// Writes beside and renames, so that nobody ever reads half an address.
fn write_address(dir: &Path, path: &Path, address: Ipv4Addr) -> Result<()> {
    let beside = dir.join(".new");
    fs::write(&beside, format!("{address}\n"))
        .map_err(Error::os(format!("write {}", beside.display())))?;
    fs::rename(&beside, path).map_err(Error::os(format!("write {}", path.display())))
}

/// How many digits follow a prefix.
pub(crate) fn hash_digits(prefix: &str) -> usize {
    HASH_DIGITS.min(LONGEST_NAME.saturating_sub(prefix.len()))
}

/// Short enough for the kernel, the same after a restart.
fn link_name(prefix: &str, sandbox_id: &str) -> String {
    // FNV-1a, folded to 48 bits.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in sandbox_id.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let hash = format!("{:012x}", (hash ^ (hash >> 48)) & 0xffff_ffff_ffff);
    format!("{prefix}{}", &hash[..hash_digits(prefix)])
}

/// Makes the veth pair and everything on both of its ends. The calling thread ends up in the Pod's namespace.
fn connect(name: &str, netns: &Path, address: Ipv4Addr) -> Result<()> {
    let target = namespace::open(netns)?;
    let socket = Socket::route()?;
    let [a, b, c, d] = address.octets();
    let hardware = [0x0a, 0x58, a, b, c, d];
    let pair = VethPair {
        name,
        hardware: GATEWAY_HARDWARE,
        peer_name: "eth0",
        peer_hardware: hardware,
        peer_namespace: target.as_raw_fd(),
        mtu: link::uplink_mtu(&socket, LINK_PREFIX)?,
    };
    let mut make = Messages::new();
    link::add_veth(&mut make, &pair);
    match socket.run_all(&make, name) {
        Err(error) if error.errno() == Some(libc::EEXIST) => {
            // From an attempt that failed half-way.
            delete_link(name)?;
            socket.run_all(&make, name)?;
        }
        result => result?,
    }
    let Some(host) = link::find(&socket, name)? else {
        return Err(Error::os(format!("find the new link {name}"))(
            std::io::ErrorKind::NotFound.into(),
        ));
    };
    let mut host_side = Messages::new();
    link::set_up(&mut host_side, host.index);
    link::add_neighbour(&mut host_side, host.index, address, hardware);
    link::replace_route(&mut host_side, &direct((address, 32), host.index));
    socket.run_all(&host_side, &format!("for {address} on {name}"))?;

    namespace::join(&target)?;
    let socket = Socket::route()?;
    let Some(eth0) = link::find(&socket, "eth0")? else {
        return Err(Error::os("find the Pod's eth0")(
            std::io::ErrorKind::NotFound.into(),
        ));
    };
    let mut pod_side = Messages::new();
    // 1 is always the loopback.
    link::set_up(&mut pod_side, 1);
    link::set_up(&mut pod_side, eth0.index);
    link::add_address(&mut pod_side, eth0.index, (address, 32), Scope::Universe);
    link::add_neighbour(&mut pod_side, eth0.index, GATEWAY, GATEWAY_HARDWARE);
    link::replace_route(&mut pod_side, &direct((GATEWAY, 32), eth0.index));
    link::replace_route(
        &mut pod_side,
        &Route {
            via: Some(GATEWAY),
            onlink: true,
            ..direct((Ipv4Addr::UNSPECIFIED, 0), eth0.index)
        },
    );
    socket.run_all(&pod_side, &format!("for {address} in the Pod"))
}

const fn direct(to: Cidr, link: u32) -> Route {
    Route {
        to,
        via: None,
        link,
        onlink: false,
        source: None,
    }
}

/// Deletes the link of a sandbox and with it its route; blocks some 35 ms.
fn delete_link(name: &str) -> Result<()> {
    let mut messages = Messages::new();
    link::delete(&mut messages, name);
    match Socket::route()?.run_all(&messages, name) {
        // Its other end's namespace has ended and taken it along.
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(()),
        result => result,
    }
}

/// What Pods send to the outside of the cluster leaves with the node's address.
fn masquerade(table: &str, cluster: Cidr) -> Result<()> {
    let mut batch = Batch::new();
    batch.replace_table(table);
    batch.add_chain(
        table,
        &nft::BaseChain::nat("postrouting", nft::Hook::Postrouting),
    );
    let rule = Rule::new()
        .with(Expr::source_in(cluster))
        .with(Expr::destination_not_in(cluster))
        .with(Expr::destination_not_in((Ipv4Addr::new(224, 0, 0, 0), 4)))
        .push(Expr::Masquerade);
    batch.add_rule(table, "postrouting", &rule);
    batch.commit()
}
