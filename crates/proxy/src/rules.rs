//! A cluster's table of the family `ip`: few rules over sets and maps, and how it is brought from one state to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use net::netlink::Socket;
use net::nft::{BaseChain, Batch, Element, Expr, Field, Hook, Register, Rule, Set, Type};
use net::{Cidr, Result, conntrack};

use crate::state::{Contribution, Elements, ServiceKey, SetName};

/// The bit of the packet's mark that asks for masquerading; upstream's.
const MASQUERADE_BIT: u32 = 0x4000;
/// How many clients' choices are remembered for each life time.
const STICKY_CLIENTS: u32 = 65_536;

const TO: [Field; 3] = [Field::Destination, Field::Protocol, Field::DestinationPort];
const ORIGINALLY_TO: [Field; 3] = [
    Field::OriginalDestination,
    Field::Protocol,
    Field::OriginalDestinationPort,
];
const TO_NODE_PORT: [Field; 2] = [Field::Protocol, Field::DestinationPort];

impl SetName {
    fn text(self) -> String {
        match self {
            Self::Endpoints(n) => format!("endpoints_{n}"),
            Self::NodePorts(n) => format!("nodeports_{n}"),
            Self::StickyEndpoints(n, seconds) => format!("sticky_{n}_{seconds}"),
            Self::StickyServices(seconds) => format!("sticky_services_{seconds}"),
            Self::Rejects => "rejects".into(),
            Self::NodePortRejects => "nodeport_rejects".into(),
            Self::Drops => "drops".into(),
            Self::NodePortDrops => "nodeport_drops".into(),
            Self::Masquerade => "masquerade".into(),
            Self::NodePortMasquerade => "nodeport_masquerade".into(),
            Self::Hairpin => "hairpin".into(),
        }
    }

    fn set(self) -> Set {
        use Type::{Address, Mark, Port, Protocol};
        let name = self.text();
        match self {
            Self::Endpoints(_) | Self::StickyEndpoints(..) => {
                Set::map(name, &[Address, Protocol, Port, Mark], &[Address, Port])
            }
            Self::NodePorts(_) => Set::map(name, &[Protocol, Port, Mark], &[Address, Port]),
            Self::StickyServices(_) | Self::Rejects | Self::Drops | Self::Masquerade => {
                Set::new(name, &[Address, Protocol, Port])
            }
            Self::NodePortRejects | Self::NodePortDrops | Self::NodePortMasquerade => {
                Set::new(name, &[Protocol, Port])
            }
            Self::Hairpin => Set::new(name, &[Address, Address]),
        }
    }
}

/// The sets that are always there, since fixed rules use them.
const FIXED: [SetName; 7] = [
    SetName::Rejects,
    SetName::NodePortRejects,
    SetName::Drops,
    SetName::NodePortDrops,
    SetName::Masquerade,
    SetName::NodePortMasquerade,
    SetName::Hairpin,
];

/// What the kernel has, as far as we know, and what each Service wants of it.
pub struct Table {
    name: Arc<str>,
    cluster: Cidr,
    services: Cidr,
    wanted: BTreeMap<ServiceKey, Contribution>,
    /// Every element with how many Services want it.
    counts: Elements,
    /// The maps (by count) that exist and have a rule.
    made: BTreeSet<SetName>,
    /// False at first, and after a refusal: the next transaction makes the table anew.
    known: bool,
    /// Stays open, see [`Batch::commit_on`].
    socket: Option<Socket>,
}

/// An element of ours that appears or goes.
type Difference = BTreeMap<SetName, BTreeMap<Element, bool>>;

impl Table {
    /// Nothing is known of the kernel's table yet.
    #[must_use]
    pub fn new(name: &str, cluster: Cidr, services: Cidr) -> Self {
        Self {
            name: Arc::from(name),
            cluster,
            services,
            wanted: BTreeMap::new(),
            counts: Elements::new(),
            made: BTreeSet::new(),
            known: false,
            socket: None,
        }
    }

    /// Puts what these Services want in the place of what they wanted, in one transaction. Says whether there was one.
    /// Blocks for what the kernel takes.
    ///
    /// # Errors
    /// What the kernel refused: then the next call writes the whole table anew.
    pub fn apply(&mut self, changes: Vec<(ServiceKey, Contribution)>) -> Result<bool> {
        let mut difference = Difference::new();
        let mut stale_udp = BTreeMap::new();
        let mut stale_clients = BTreeMap::new();
        for (key, new) in changes {
            let old = if new == Contribution::default() {
                self.wanted.remove(&key)
            } else {
                self.wanted.insert(key, new.clone())
            }
            .unwrap_or_default();
            for (at, before) in &old.udp {
                let after = new.udp.get(at).cloned().unwrap_or_default();
                if before.iter().any(|target| !after.contains(target)) {
                    stale_udp.insert(*at, after);
                }
            }
            for (at, after) in &new.udp {
                if !old.udp.contains_key(at) {
                    // Clients that asked before there was an endpoint.
                    stale_udp.insert(*at, after.clone());
                }
            }
            sticky_changed(&old.elements, &new.elements, &mut stale_clients);
            self.count(&old.elements, false, &mut difference);
            self.count(&new.elements, true, &mut difference);
        }
        let mut batch = Batch::new();
        let maps = if self.known {
            self.change(&mut batch, &difference)
        } else {
            self.build(&mut batch)
        };
        if batch.is_empty() {
            return Ok(false);
        }
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => none.insert(Socket::netfilter()?),
        };
        match batch.commit_on(socket) {
            Ok(()) => {
                self.made = maps;
                self.known = true;
            }
            Err(error) => {
                self.known = false;
                // Answers that were not read must not be taken for those of the next transaction.
                self.socket = None;
                return Err(error);
            }
        }
        forget_clients(&self.name, &stale_clients)?;
        if !stale_udp.is_empty() {
            forget_udp(&stale_udp)?;
        }
        Ok(true)
    }

    fn count(&mut self, elements: &Elements, more: bool, difference: &mut Difference) {
        for (set, elements) in elements {
            let counts = self.counts.entry(*set).or_default();
            for element in elements.keys() {
                let count = counts.entry(element.clone()).or_default();
                let before = *count > 0;
                *count = if more {
                    *count + 1
                } else {
                    count.saturating_sub(1)
                };
                let after = *count > 0;
                if !after {
                    counts.remove(element);
                }
                if before == after {
                    continue;
                }
                let changed = difference.entry(*set).or_default();
                if changed.remove(element).is_none() {
                    changed.insert(element.clone(), after);
                }
            }
            if counts.is_empty() {
                self.counts.remove(set);
            }
        }
    }

    /// The whole table.
    fn build(&self, batch: &mut Batch) -> BTreeSet<SetName> {
        batch.replace_table(&self.name);
        for set in FIXED {
            batch.add_set(&self.name, &set.set());
        }
        let maps = self.maps();
        self.add_maps(batch, maps.iter());
        for name in ["services", "nodeports", "remember"] {
            batch.add_plain_chain(&self.name, name);
        }
        self.fixed_rules(batch);
        self.rules_of_maps(batch, &maps);
        for (set, elements) in &self.counts {
            batch.add_elements(&self.name, &set.text(), elements.keys());
        }
        maps
    }

    /// The maps that there must be: those that hold something.
    fn maps(&self) -> BTreeSet<SetName> {
        self.counts
            .keys()
            .filter(|s| !FIXED.contains(s))
            .copied()
            .collect()
    }

    fn add_maps<'a>(&self, batch: &mut Batch, maps: impl Iterator<Item = &'a SetName>) {
        for map in maps {
            batch.add_set(&self.name, &map.set());
            if let SetName::StickyServices(seconds) = map {
                batch.add_set(&self.name, &chosen(*seconds));
            }
        }
    }

    fn change(&self, batch: &mut Batch, difference: &Difference) -> BTreeSet<SetName> {
        let needed = self.maps();
        // Maps that have become empty stay: deleting and making them again costs more than they do. They go with the
        // next rebuild.
        let maps: BTreeSet<SetName> = self.made.union(&needed).copied().collect();
        if maps != self.made {
            self.add_maps(batch, needed.difference(&self.made));
            batch.flush_chain(&self.name, "services");
            batch.flush_chain(&self.name, "nodeports");
            batch.flush_chain(&self.name, "remember");
            self.rules_of_maps(batch, &maps);
        }
        for appear in [false, true] {
            for (set, elements) in difference {
                let elements = elements
                    .iter()
                    .filter(|(_, appears)| **appears == appear)
                    .map(|(element, _)| element);
                if appear {
                    batch.add_elements(&self.name, &set.text(), elements);
                } else {
                    batch.delete_elements(&self.name, &set.text(), elements);
                }
            }
        }
        maps
    }

    /// The rules that no Service changes.
    fn fixed_rules(&self, batch: &mut Batch) {
        batch.add_chain(&self.name, &BaseChain::nat("prerouting", Hook::Prerouting));
        batch.add_chain(&self.name, &BaseChain::nat("output", Hook::Output));
        batch.add_chain(
            &self.name,
            &BaseChain::nat("postrouting", Hook::Postrouting),
        );
        for chain in ["prerouting", "output"] {
            let jump = Rule::new().push(Expr::Jump("services".into()));
            batch.add_rule(&self.name, chain, &jump);
        }
        // Where the packet already has its endpoint's address, and not yet another source.
        batch.add_chain(&self.name, &BaseChain::nat("arrived", Hook::Input));
        for chain in ["postrouting", "arrived"] {
            let jump = Rule::new()
                .with(Expr::destination_changed())
                .push(Expr::Jump("remember".into()));
            batch.add_rule(&self.name, chain, &jump);
        }
        for rule in [
            Rule::new()
                .with(Expr::destination_changed())
                .with(Expr::has_mark(MASQUERADE_BIT))
                .with(Expr::remove_mark(MASQUERADE_BIT))
                .push(Expr::Masquerade),
            Rule::new()
                .with(Expr::in_set(
                    &SetName::Hairpin.text(),
                    &[Field::Source, Field::Destination],
                ))
                .push(Expr::Masquerade),
            // From 127.0.0.1 to an endpoint elsewhere.
            Rule::new()
                .with(Expr::destination_changed())
                .with(Expr::source_in((Ipv4Addr::new(127, 0, 0, 0), 8)))
                .with(Expr::destination_not_in((Ipv4Addr::new(127, 0, 0, 0), 8)))
                .push(Expr::Masquerade),
        ] {
            batch.add_rule(&self.name, "postrouting", &rule);
        }

        // Before connection tracking: nobody else may reach the loopback, which route_localnet would allow.
        batch.add_chain(
            &self.name,
            &BaseChain::filter("loopback", Hook::Prerouting, -300),
        );
        let protect = Rule::new()
            .with(Expr::interface_is_not("lo"))
            .with(Expr::destination_in((Ipv4Addr::new(127, 0, 0, 0), 8)))
            .push(Expr::Drop);
        batch.add_rule(&self.name, "loopback", &protect);

        batch.add_plain_chain(&self.name, "refuse");
        for (name, hook) in [
            ("forward", Hook::Forward),
            ("input", Hook::Input),
            ("refuse_own", Hook::Output),
        ] {
            batch.add_chain(&self.name, &BaseChain::filter(name, hook, -110));
            let jump = Rule::new()
                .with(Expr::new_connection())
                .push(Expr::Jump("refuse".into()));
            batch.add_rule(&self.name, name, &jump);
        }
        for (set, fields, node_port) in [
            (SetName::Drops, &TO[..], false),
            (SetName::NodePortDrops, &TO_NODE_PORT[..], true),
        ] {
            let rule = local_if(node_port).with(Expr::in_set(&set.text(), fields));
            batch.add_rule(&self.name, "refuse", &rule.push(Expr::Drop));
        }
        for (set, fields, node_port) in [
            (SetName::Rejects, &TO[..], false),
            (SetName::NodePortRejects, &TO_NODE_PORT[..], true),
        ] {
            let rule = local_if(node_port).with(Expr::in_set(&set.text(), fields));
            let tcp = rule.clone().with(Expr::protocol(6)).push(Expr::Reset);
            batch.add_rule(&self.name, "refuse", &tcp);
            batch.add_rule(&self.name, "refuse", &rule.push(Expr::Unreachable));
        }
    }
}

fn local_if(node_port: bool) -> Rule {
    if node_port {
        Rule::new().with(Expr::destination_local())
    } else {
        Rule::new()
    }
}

/// Remembers which endpoint a client has: client . address . protocol . port → endpoint.
fn chosen(seconds: u32) -> Set {
    use Type::{Address, Port, Protocol};
    Set {
        dynamic: Some(u64::from(seconds) * 1000),
        size: STICKY_CLIENTS,
        ..Set::map(
            format!("sticky_clients_{seconds}"),
            &[Address, Address, Protocol, Port],
            &[Address, Port],
        )
    }
}

impl Table {
    /// The rules that pick endpoints: one for each map.
    fn rules_of_maps(&self, batch: &mut Batch, maps: &BTreeSet<SetName>) {
        // Answers must come back through this node: external addresses, and Service addresses from outside of the cluster's
        // Pods (from this node itself too, since its Pods may see it under another address).
        let external = Rule::new()
            .with(Expr::in_set(&SetName::Masquerade.text(), &TO))
            .with(Expr::add_mark(MASQUERADE_BIT));
        batch.add_rule(&self.name, "services", &external);
        let from_outside = Rule::new()
            .with(Expr::destination_in(self.services))
            .with(Expr::source_not_in(self.cluster))
            .with(Expr::add_mark(MASQUERADE_BIT));
        batch.add_rule(&self.name, "services", &from_outside);

        let sticky_times: BTreeSet<u32> = maps
            .iter()
            .filter_map(|m| match m {
                SetName::StickyEndpoints(_, seconds) => Some(*seconds),
                _ => None,
            })
            .collect();
        let client = [
            Field::Source,
            Field::Destination,
            Field::Protocol,
            Field::DestinationPort,
        ];
        for seconds in sticky_times {
            let known = chosen(seconds).name;
            let rule = Rule::new()
                .with(Expr::load(0, &client))
                .push(Expr::Lookup(known.clone(), Register(0), Some(Register(0))))
                .push(Expr::Dnat(Register(0), Register(1)));
            batch.add_rule(&self.name, "services", &rule);
            let services = SetName::StickyServices(seconds).text();
            let endpoint = [Field::Destination, Field::DestinationPort];
            let rule = Rule::new()
                .with(Expr::in_set(&services, &ORIGINALLY_TO))
                .push(Expr::Load(Field::OriginalSource, Register(0)))
                .with(Expr::load(1, &ORIGINALLY_TO))
                .with(Expr::load(4, &endpoint))
                .push(Expr::Update(
                    known,
                    Register(0),
                    Register(4),
                    u64::from(seconds) * 1000,
                ));
            batch.add_rule(&self.name, "remember", &rule);
        }
        for map in maps {
            match map {
                SetName::Endpoints(count) | SetName::StickyEndpoints(count, _) => {
                    let rule = Rule::new()
                        .with(Expr::load(0, &TO))
                        .push(Expr::Random(Register(3), *count))
                        .push(Expr::Lookup(map.text(), Register(0), Some(Register(0))))
                        .push(Expr::Dnat(Register(0), Register(1)));
                    batch.add_rule(&self.name, "services", &rule);
                }
                SetName::NodePorts(count) => {
                    let rule = Rule::new()
                        .with(Expr::load(0, &TO_NODE_PORT))
                        .push(Expr::Random(Register(2), *count))
                        .push(Expr::Lookup(map.text(), Register(0), Some(Register(0))))
                        .push(Expr::Dnat(Register(0), Register(1)));
                    batch.add_rule(&self.name, "nodeports", &rule);
                }
                _ => {}
            }
        }
        let to_node_ports = Rule::new()
            .with(Expr::destination_local())
            .with(Expr::in_set(
                &SetName::NodePortMasquerade.text(),
                &TO_NODE_PORT,
            ))
            .with(Expr::add_mark(MASQUERADE_BIT));
        batch.add_rule(&self.name, "services", &to_node_ports);
        let node_ports = Rule::new()
            .with(Expr::destination_local())
            .push(Expr::Jump("nodeports".into()));
        batch.add_rule(&self.name, "services", &node_ports);
    }
}

/// Ends the kernel's memory of UDP clients whose endpoint is none any more.
fn forget_udp(stale: &BTreeMap<(Ipv4Addr, u16), Vec<(Ipv4Addr, u16)>>) -> Result<()> {
    let deleted = conntrack::delete_udp(|flow| {
        let node_port = (Ipv4Addr::UNSPECIFIED, flow.destination.1);
        stale
            .get(&flow.destination)
            .or_else(|| stale.get(&node_port))
            .is_some_and(|targets| !targets.contains(&flow.answered_by))
    })?;
    if deleted > 0 {
        tracing::debug!(deleted, "UDP connections to former endpoints forgotten");
    }
    Ok(())
}

/// For each life time, address . protocol . port with the endpoints that clients may keep.
type StaleClients = BTreeMap<u32, BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>>;

fn sticky_changed(old: &Elements, new: &Elements, stale: &mut StaleClients) {
    let of = |elements: &Elements| {
        let mut all = StaleClients::new();
        for (set, elements) in elements {
            if let SetName::StickyEndpoints(_, seconds) = set {
                let all = all.entry(*seconds).or_default();
                for element in elements.keys() {
                    // The key ends with the endpoint's number.
                    let at = element.key.as_bytes().get(..12).unwrap_or(&[]).to_vec();
                    let endpoint = element.data.as_bytes().to_vec();
                    all.entry(at).or_default().insert(endpoint);
                }
            }
        }
        all
    };
    let (old, new) = (of(old), of(new));
    for (seconds, at) in old {
        for (at, before) in at {
            let after = new.get(&seconds).and_then(|all| all.get(&at));
            let after = after.cloned().unwrap_or_default();
            if !before.is_subset(&after) {
                stale.entry(seconds).or_default().insert(at, after);
            }
        }
    }
}

/// Ends clients' choices of endpoints that are gone.
fn forget_clients(table: &str, stale: &StaleClients) -> Result<()> {
    for (seconds, stale) in stale {
        let set = chosen(*seconds).name;
        // An element may end by itself between reading and deleting; the transaction is refused then.
        for attempt in 0.. {
            let gone: Vec<Element> = net::nft::elements(table, &set)?
                .into_iter()
                .filter(|element| {
                    let at = element.key.as_bytes().get(4..).unwrap_or(&[]);
                    stale
                        .get(at)
                        .is_some_and(|valid| !valid.contains(element.data.as_bytes()))
                })
                .collect();
            if gone.is_empty() {
                break;
            }
            let mut batch = Batch::new();
            // The key alone names an element.
            let keys: Vec<Element> = gone
                .into_iter()
                .map(|element| Element {
                    key: element.key,
                    data: net::nft::Words::new(),
                })
                .collect();
            batch.delete_elements(table, &set, &keys);
            match batch.commit() {
                Err(error) if attempt < 5 && error.errno() == Some(2) => {}
                result => {
                    result?;
                    break;
                }
            }
        }
    }
    Ok(())
}
