//! nf_tables by its own netlink messages: tables, chains, rules, sets and maps, one atomic transaction a [`Batch`].
//!
//! Only the family `ip` and only the expressions that we use. Registers and types are those that `nft` itself would use,
//! so that `nft list ruleset` shows the result readably. The messages are described in `linux/netfilter/nf_tables.h`.

use std::net::Ipv4Addr;

use crate::netlink::{Messages, Socket, attribute, attributes};
use crate::{Cidr, Error, Result};

const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;
const NEW_TABLE: u16 = SUBSYSTEM | libc::NFT_MSG_NEWTABLE as u16;
const DELETE_TABLE: u16 = SUBSYSTEM | libc::NFT_MSG_DELTABLE as u16;
const NEW_CHAIN: u16 = SUBSYSTEM | libc::NFT_MSG_NEWCHAIN as u16;
const NEW_RULE: u16 = SUBSYSTEM | libc::NFT_MSG_NEWRULE as u16;
const DELETE_RULE: u16 = SUBSYSTEM | libc::NFT_MSG_DELRULE as u16;
const NEW_SET: u16 = SUBSYSTEM | libc::NFT_MSG_NEWSET as u16;
const DELETE_SET: u16 = SUBSYSTEM | libc::NFT_MSG_DELSET as u16;
const NEW_ELEMENT: u16 = SUBSYSTEM | libc::NFT_MSG_NEWSETELEM as u16;
const DELETE_ELEMENT: u16 = SUBSYSTEM | libc::NFT_MSG_DELSETELEM as u16;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

const CREATE: u16 = libc::NLM_F_CREATE as u16;
const APPEND: u16 = libc::NLM_F_APPEND as u16;

/// `struct nfgenmsg`: IPv4, version 0, resource.
fn generic(resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [libc::AF_INET as u8, 0, high, low]
}

/// Elements of one message stay below this many bytes: an attribute cannot be longer than 64 KiB.
const ELEMENTS_CHUNK: usize = 48 << 10;

/// What a part of a set's key or data is. The numbers are `nft`'s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Type {
    Address = 7,
    Protocol = 12,
    Port = 13,
    /// A number in the machine's byte order, as `numgen` makes it.
    Mark = 19,
}

impl Type {
    /// In a concatenation each part takes whole words of four bytes; all of ours take one.
    fn concatenated(parts: &[Self]) -> u32 {
        parts.iter().fold(0, |all, part| (all << 6) | *part as u32)
    }

    fn length(parts: &[Self]) -> u32 {
        match parts {
            [Self::Protocol] => 1,
            [Self::Port] => 2,
            _ => 4 * u32::try_from(parts.len()).unwrap_or(u32::MAX),
        }
    }
}

/// A named set, or a map if it has data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    pub name: String,
    pub key: Vec<Type>,
    /// Empty: a set.
    pub data: Vec<Type>,
    /// Rules add elements, which end after a while (in milliseconds, unless the rule says another time).
    pub dynamic: Option<u64>,
    /// The most elements; 0: no limit.
    pub size: u32,
}

impl Set {
    /// A set of these keys.
    #[must_use]
    pub fn new(name: impl Into<String>, key: &[Type]) -> Self {
        Self {
            name: name.into(),
            key: key.to_vec(),
            data: Vec::new(),
            dynamic: None,
            size: 0,
        }
    }

    /// A map of these keys to these data.
    #[must_use]
    pub fn map(name: impl Into<String>, key: &[Type], data: &[Type]) -> Self {
        Self {
            data: data.to_vec(),
            ..Self::new(name, key)
        }
    }
}

/// Bytes of a concatenation: each part padded to four bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Words(Vec<u8>);

impl Words {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Vec::with_capacity(20))
    }
    /// Adds an address.
    #[must_use]
    pub fn address(mut self, address: Ipv4Addr) -> Self {
        self.0.extend_from_slice(&address.octets());
        self
    }
    /// Adds a protocol's number.
    #[must_use]
    pub fn protocol(mut self, protocol: u8) -> Self {
        self.0.extend_from_slice(&[protocol, 0, 0, 0]);
        self
    }
    /// Adds a port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        let [high, low] = port.to_be_bytes();
        self.0.extend_from_slice(&[high, low, 0, 0]);
        self
    }
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
    /// Adds a number in the machine's byte order.
    #[must_use]
    pub fn mark(mut self, number: u32) -> Self {
        self.0.extend_from_slice(&number.to_ne_bytes());
        self
    }
}

/// A key of a set, with its data if the set is a map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    pub key: Words,
    /// Empty for a set.
    pub data: Words,
}

/// Where a base chain sees packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// A chain that the kernel calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain<'a> {
    pub name: &'a str,
    /// `filter` or `nat`.
    pub kind: &'static str,
    pub hook: Hook,
    pub priority: i32,
}

impl<'a> BaseChain<'a> {
    /// A chain for address translation at the usual priority of its hook.
    #[must_use]
    pub const fn nat(name: &'a str, hook: Hook) -> Self {
        let priority = match hook {
            Hook::Postrouting | Hook::Input => 100,
            _ => -100,
        };
        Self {
            name,
            kind: "nat",
            hook,
            priority,
        }
    }

    /// A chain that filters.
    #[must_use]
    pub const fn filter(name: &'a str, hook: Hook, priority: i32) -> Self {
        Self {
            name,
            kind: "filter",
            hook,
            priority,
        }
    }
}

/// One of the sixteen registers of four bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(pub u8);

impl Register {
    /// `nft` names a register by its old number where there is one.
    const fn number(self) -> u32 {
        if self.0.is_multiple_of(4) {
            1 + self.0 as u32 / 4
        } else {
            8 + self.0 as u32
        }
    }
}

/// A field of the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    Source,
    Destination,
    Protocol,
    DestinationPort,
    /// Of the connection's first packet, before any translation.
    OriginalSource,
    OriginalDestination,
    OriginalDestinationPort,
}

/// Writes the attributes of an expression.
type Body<'a> = Box<dyn FnOnce(&mut Messages) + 'a>;

/// A step of a rule. A step that does not match ends the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// Loads a field.
    Load(Field, Register),
    /// Loads the packet's mark.
    LoadMark(Register),
    /// Loads the name of the link it came in by, 16 bytes.
    LoadInterface(Register),
    /// Loads what the connection has gone through (`IPS_*`), as bits.
    LoadStatus(Register),
    /// Loads the connection's state, as bits: 8 is new.
    LoadState(Register),
    /// Loads what kind of address the destination is: 2 is one of this host's.
    LoadDestinationKind(Register),
    /// Draws a number below the second.
    Random(Register, u32),
    /// `register = register & mask ^ xor`.
    Mask(Register, Vec<u8>, Vec<u8>),
    /// Goes on if the register has these bytes.
    Equal(Register, Vec<u8>),
    /// Goes on if it has others.
    NotEqual(Register, Vec<u8>),
    /// Goes on if the set holds the key that starts at the register; if the third is given, the map's data go there.
    Lookup(String, Register, Option<Register>),
    /// Puts key and data into a dynamic map, with this life time in milliseconds, or renews it.
    Update(String, Register, Register, u64),
    /// Sets the packet's mark.
    SetMark(Register),
    /// Sends the connection to the address and port in two registers.
    Dnat(Register, Register),
    /// Gives the connection the outgoing link's address and a random free port.
    Masquerade,
    /// Answers with a reset (TCP only).
    Reset,
    /// Answers that the port is unreachable.
    Unreachable,
    /// Drops the packet.
    Drop,
    /// Goes on in another chain, and comes back.
    Jump(String),
    /// Ends the current chain.
    Return,
}

impl Expr {
    fn in_range(field: Field, (base, prefix): Cidr, inside: bool) -> Vec<Self> {
        let register = Register(0);
        let mask = crate::mask(prefix);
        let mut steps = vec![Self::Load(field, register)];
        if prefix < 32 {
            let mask = mask.to_be_bytes().to_vec();
            steps.push(Self::Mask(register, mask, vec![0; 4]));
        }
        let value = (u32::from(base) & mask).to_be_bytes().to_vec();
        steps.push(if inside {
            Self::Equal(register, value)
        } else {
            Self::NotEqual(register, value)
        });
        steps
    }

    /// Goes on if the source is in the range.
    #[must_use]
    pub fn source_in(range: Cidr) -> Vec<Self> {
        Self::in_range(Field::Source, range, true)
    }
    /// Goes on if the source is not in the range.
    #[must_use]
    pub fn source_not_in(range: Cidr) -> Vec<Self> {
        Self::in_range(Field::Source, range, false)
    }
    /// Goes on if the destination is in the range.
    #[must_use]
    pub fn destination_in(range: Cidr) -> Vec<Self> {
        Self::in_range(Field::Destination, range, true)
    }
    /// Goes on if the destination is not in the range.
    #[must_use]
    pub fn destination_not_in(range: Cidr) -> Vec<Self> {
        Self::in_range(Field::Destination, range, false)
    }
    /// Goes on if the protocol is this one.
    #[must_use]
    pub fn protocol(number: u8) -> Vec<Self> {
        vec![
            Self::Load(Field::Protocol, Register(0)),
            Self::Equal(Register(0), vec![number]),
        ]
    }
    /// Goes on for a connection's first packet.
    #[must_use]
    pub fn new_connection() -> Vec<Self> {
        vec![
            Self::LoadState(Register(0)),
            Self::Mask(Register(0), 8_u32.to_ne_bytes().to_vec(), vec![0; 4]),
            Self::NotEqual(Register(0), vec![0; 4]),
        ]
    }
    /// Goes on if the connection's destination was changed.
    #[must_use]
    pub fn destination_changed() -> Vec<Self> {
        vec![
            Self::LoadStatus(Register(0)),
            Self::Mask(Register(0), 0x20_u32.to_ne_bytes().to_vec(), vec![0; 4]),
            Self::NotEqual(Register(0), vec![0; 4]),
        ]
    }
    /// Goes on if the packet is for this host.
    #[must_use]
    pub fn destination_local() -> Vec<Self> {
        vec![
            Self::LoadDestinationKind(Register(0)),
            Self::Equal(Register(0), 2_u32.to_ne_bytes().to_vec()),
        ]
    }
    /// Goes on if the mark has this bit.
    #[must_use]
    pub fn has_mark(bit: u32) -> Vec<Self> {
        let bytes = bit.to_ne_bytes().to_vec();
        vec![
            Self::LoadMark(Register(0)),
            Self::Mask(Register(0), bytes.clone(), vec![0; 4]),
            Self::Equal(Register(0), bytes),
        ]
    }
    /// Sets this bit of the mark.
    #[must_use]
    pub fn add_mark(bit: u32) -> Vec<Self> {
        vec![
            Self::LoadMark(Register(0)),
            Self::Mask(
                Register(0),
                (!bit).to_ne_bytes().to_vec(),
                bit.to_ne_bytes().to_vec(),
            ),
            Self::SetMark(Register(0)),
        ]
    }
    /// Clears this bit of the mark.
    #[must_use]
    pub fn remove_mark(bit: u32) -> Vec<Self> {
        vec![
            Self::LoadMark(Register(0)),
            Self::Mask(Register(0), (!bit).to_ne_bytes().to_vec(), vec![0; 4]),
            Self::SetMark(Register(0)),
        ]
    }
    /// Goes on unless the packet came in by this link.
    #[must_use]
    pub fn interface_is_not(name: &str) -> Vec<Self> {
        let mut bytes = name.as_bytes().to_vec();
        bytes.resize(16, 0);
        vec![
            Self::LoadInterface(Register(0)),
            Self::NotEqual(Register(0), bytes),
        ]
    }
    /// Loads fields into neighbouring registers, the first into `first`.
    #[must_use]
    pub fn load(first: u8, fields: &[Field]) -> Vec<Self> {
        (first..)
            .zip(fields)
            .map(|(register, field)| Self::Load(*field, Register(register)))
            .collect()
    }
    /// Goes on if the set holds these fields.
    #[must_use]
    pub fn in_set(set: &str, fields: &[Field]) -> Vec<Self> {
        let mut steps = Self::load(0, fields);
        steps.push(Self::Lookup(set.to_owned(), Register(0), None));
        steps
    }

    fn encode(&self, m: &mut Messages) {
        let (name, body): (&str, Body<'_>) = match self {
            Self::Load(Field::OriginalSource, to) => {
                ("ct", Box::new(move |m| load_original(m, *to, 19)))
            }
            Self::Load(Field::OriginalDestination, to) => {
                ("ct", Box::new(move |m| load_original(m, *to, 20)))
            }
            Self::Load(Field::OriginalDestinationPort, to) => {
                ("ct", Box::new(move |m| load_original(m, *to, 12)))
            }
            Self::Load(field, to) => {
                let (base, offset, length) = match field {
                    Field::Source => (1, 12, 4),
                    Field::Protocol => (1, 9, 1),
                    Field::DestinationPort => (2, 2, 2),
                    _ => (1, 16, 4),
                };
                let body = move |m: &mut Messages| {
                    m.be32(1, to.number());
                    m.be32(2, base);
                    m.be32(3, offset);
                    m.be32(4, length);
                };
                ("payload", Box::new(body))
            }
            Self::LoadMark(to) => ("meta", Box::new(move |m| load_key(m, *to, 3))),
            Self::LoadInterface(to) => ("meta", Box::new(move |m| load_key(m, *to, 6))),
            Self::LoadStatus(to) => ("ct", Box::new(move |m| load_key(m, *to, 2))),
            Self::LoadState(to) => ("ct", Box::new(move |m| load_key(m, *to, 0))),
            Self::LoadDestinationKind(to) => {
                let body = move |m: &mut Messages| {
                    m.be32(1, to.number());
                    m.be32(2, 3); // NFT_FIB_RESULT_ADDRTYPE
                    m.be32(3, 2); // NFTA_FIB_F_DADDR
                };
                ("fib", Box::new(body))
            }
            Self::Random(to, below) => {
                let body = move |m: &mut Messages| {
                    m.be32(1, to.number());
                    m.be32(2, *below);
                    m.be32(3, 1); // NFT_NG_RANDOM
                    m.be32(4, 0);
                };
                ("numgen", Box::new(body))
            }
            Self::Mask(register, mask, xor) => {
                let body = move |m: &mut Messages| {
                    m.be32(1, register.number());
                    m.be32(2, register.number());
                    m.be32(3, u32::try_from(mask.len()).unwrap_or(0));
                    m.nest(4, |m| m.bytes(1, mask));
                    m.nest(5, |m| m.bytes(1, xor));
                };
                ("bitwise", Box::new(body))
            }
            Self::Equal(register, value) => {
                ("cmp", Box::new(move |m| compare(m, *register, 0, value)))
            }
            Self::NotEqual(register, value) => {
                ("cmp", Box::new(move |m| compare(m, *register, 1, value)))
            }
            Self::Lookup(set, key, data) => {
                let body = move |m: &mut Messages| {
                    m.text(1, set);
                    m.be32(2, key.number());
                    if let Some(data) = data {
                        m.be32(3, data.number());
                    }
                };
                ("lookup", Box::new(body))
            }
            Self::Update(map, key, data, timeout) => {
                let body = move |m: &mut Messages| {
                    m.text(1, map);
                    m.be32(3, 1); // NFT_DYNSET_OP_UPDATE
                    m.be32(4, key.number());
                    m.be32(5, data.number());
                    m.be64(6, *timeout);
                };
                ("dynset", Box::new(body))
            }
            Self::SetMark(from) => {
                let body = move |m: &mut Messages| {
                    m.be32(2, 3);
                    m.be32(3, from.number());
                };
                ("meta", Box::new(body))
            }
            Self::Dnat(address, port) => {
                let body = move |m: &mut Messages| {
                    m.be32(1, 1); // NFT_NAT_DNAT
                    m.be32(2, libc::AF_INET as u32);
                    m.be32(3, address.number());
                    m.be32(5, port.number());
                };
                ("nat", Box::new(body))
            }
            // NF_NAT_RANGE_PROTO_RANDOM_FULLY
            Self::Masquerade => ("masq", Box::new(|m| m.be32(1, 1 << 4))),
            Self::Reset => ("reject", Box::new(|m| reject(m, 1, 0))),
            // ICMP_PORT_UNREACH
            Self::Unreachable => ("reject", Box::new(|m| reject(m, 0, 3))),
            Self::Drop => ("immediate", Box::new(|m| verdict(m, 0, None))),
            Self::Jump(chain) => ("immediate", Box::new(move |m| verdict(m, -3, Some(chain)))),
            Self::Return => ("immediate", Box::new(|m| verdict(m, -5, None))),
        };
        // NFTA_LIST_ELEM holds NFTA_EXPR_NAME and NFTA_EXPR_DATA.
        m.nest(1, |m| {
            m.text(1, name);
            m.nest(2, body);
        });
    }
}

fn load_key(m: &mut Messages, to: Register, key: u32) {
    m.be32(1, to.number());
    m.be32(2, key);
}

fn load_original(m: &mut Messages, to: Register, key: u32) {
    load_key(m, to, key);
    m.bytes(3, &[0]); // IP_CT_DIR_ORIGINAL
}

fn compare(m: &mut Messages, register: Register, operation: u32, value: &[u8]) {
    m.be32(1, register.number());
    m.be32(2, operation);
    m.nest(3, |m| m.bytes(1, value));
}

fn reject(m: &mut Messages, kind: u32, code: u8) {
    m.be32(1, kind);
    m.bytes(2, &[code]);
}

fn verdict(m: &mut Messages, code: i32, chain: Option<&str>) {
    m.be32(1, 0); // the verdict register
    m.nest(2, |m| {
        m.nest(2, |m| {
            m.bytes(1, &code.to_be_bytes());
            if let Some(chain) = chain {
                m.text(2, chain);
            }
        });
    });
}

/// Steps, done in order while they match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule(Vec<Expr>);

impl Rule {
    /// A rule that matches everything and does nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    /// Adds steps.
    #[must_use]
    pub fn with(mut self, steps: Vec<Expr>) -> Self {
        self.0.extend(steps);
        self
    }
    /// Adds a step.
    #[must_use]
    pub fn push(mut self, step: Expr) -> Self {
        self.0.push(step);
        self
    }
}

/// Changes that take effect all at once, or not at all.
#[derive(Debug)]
pub struct Batch {
    messages: Messages,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// No changes yet.
    #[must_use]
    pub fn new() -> Self {
        let mut messages = Messages::new();
        let fixed = generic(libc::NFNL_SUBSYS_NFTABLES as u16);
        messages.message("begin a transaction", BATCH_BEGIN, 0, &fixed, |_| {});
        Self { messages }
    }

    /// Whether it holds no changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.len() == 1
    }

    fn add(
        &mut self,
        label: &'static str,
        kind: u16,
        flags: u16,
        body: impl FnOnce(&mut Messages),
    ) {
        self.messages.message(label, kind, flags, &generic(0), body);
    }

    /// A table; fine if it exists.
    pub fn add_table(&mut self, table: &str) {
        self.add("add the table", NEW_TABLE, CREATE, |m| m.text(1, table));
    }

    /// Deletes a table with all in it; it must exist.
    pub fn delete_table(&mut self, table: &str) {
        self.add("delete the table", DELETE_TABLE, 0, |m| m.text(1, table));
    }

    /// An empty table, whatever was there.
    pub fn replace_table(&mut self, table: &str) {
        self.add_table(table);
        self.delete_table(table);
        self.add_table(table);
    }

    /// A chain that the kernel calls and whose packets go on at its end.
    pub fn add_chain(&mut self, table: &str, chain: &BaseChain<'_>) {
        self.add("add a base chain", NEW_CHAIN, CREATE, |m| {
            m.text(1, table);
            m.text(3, chain.name);
            m.nest(4, |m| {
                m.be32(1, chain.hook as u32);
                m.bytes(2, &chain.priority.to_be_bytes());
            });
            m.be32(5, 1); // NF_ACCEPT
            m.text(7, chain.kind);
        });
    }

    /// A chain that rules jump to.
    pub fn add_plain_chain(&mut self, table: &str, name: &str) {
        self.add("add a chain", NEW_CHAIN, CREATE, |m| {
            m.text(1, table);
            m.text(3, name);
        });
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&mut self, table: &str, chain: &str) {
        self.add("flush a chain", DELETE_RULE, 0, |m| {
            m.text(1, table);
            m.text(2, chain);
        });
    }

    /// Appends a rule.
    pub fn add_rule(&mut self, table: &str, chain: &str, rule: &Rule) {
        self.add("add a rule", NEW_RULE, CREATE | APPEND, |m| {
            m.text(1, table);
            m.text(2, chain);
            m.nest(4, |m| {
                for step in &rule.0 {
                    step.encode(m);
                }
            });
        });
    }

    /// An empty set or map; fine if one like it exists.
    pub fn add_set(&mut self, table: &str, set: &Set) {
        let mut flags = 0;
        if !set.data.is_empty() {
            flags |= 0x8; // NFT_SET_MAP
        }
        if set.dynamic.is_some() {
            flags |= 0x10 | 0x20; // NFT_SET_TIMEOUT, NFT_SET_EVAL
        }
        let id = u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        self.add("add a set", NEW_SET, CREATE, |m| {
            m.text(1, table);
            m.text(2, &set.name);
            m.be32(3, flags);
            m.be32(4, Type::concatenated(&set.key));
            m.be32(5, Type::length(&set.key));
            if !set.data.is_empty() {
                m.be32(6, Type::concatenated(&set.data));
                m.be32(7, Type::length(&set.data));
            }
            m.nest(9, |m| {
                if set.size > 0 {
                    m.be32(1, set.size);
                }
            });
            m.be32(10, id);
            if let Some(timeout) = set.dynamic {
                m.be64(11, timeout);
            }
        });
    }

    /// Deletes a set that no rule uses.
    pub fn delete_set(&mut self, table: &str, set: &str) {
        self.add("delete a set", DELETE_SET, 0, |m| {
            m.text(1, table);
            m.text(2, set);
        });
    }

    /// Puts elements into a set, which are not there yet.
    pub fn add_elements<'a>(
        &mut self,
        table: &str,
        set: &str,
        elements: impl IntoIterator<Item = &'a Element>,
    ) {
        let flags = CREATE | libc::NLM_F_EXCL as u16;
        self.elements("add to set", NEW_ELEMENT, flags, table, set, elements);
    }

    /// Takes elements, which are there, out of a set.
    pub fn delete_elements<'a>(
        &mut self,
        table: &str,
        set: &str,
        elements: impl IntoIterator<Item = &'a Element>,
    ) {
        self.elements("delete from set", DELETE_ELEMENT, 0, table, set, elements);
    }

    fn elements<'a>(
        &mut self,
        label: &'static str,
        kind: u16,
        flags: u16,
        table: &str,
        set: &str,
        elements: impl IntoIterator<Item = &'a Element>,
    ) {
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            self.add(label, kind, flags, |m| {
                m.text(1, table);
                m.text(2, set);
                let start = m.size();
                m.nest(3, |m| {
                    while m.size() - start < ELEMENTS_CHUNK {
                        let Some(element) = elements.next() else {
                            break;
                        };
                        m.nest(1, |m| {
                            m.nest(1, |m| m.bytes(1, &element.key.0));
                            if !element.data.0.is_empty() {
                                m.nest(2, |m| m.bytes(1, &element.data.0));
                            }
                        });
                    }
                });
            });
        }
    }

    /// Carries the transaction out in the calling thread's network namespace. Blocks: some 50 ms for 30,000 elements.
    ///
    /// # Errors
    /// The first message that the kernel refused; then nothing has changed.
    pub fn commit(self) -> Result<()> {
        self.commit_on(&Socket::netfilter()?)
    }

    /// As [`Self::commit`], in the namespace of a [`Socket::netfilter`] that stays open. That matters for what deletes:
    /// when a socket is closed, the kernel waits (some 12 ms) until what was deleted is really gone.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn commit_on(mut self, socket: &Socket) -> Result<()> {
        let fixed = generic(libc::NFNL_SUBSYS_NFTABLES as u16);
        self.messages
            .message("end the transaction", BATCH_END, 0, &fixed, |_| {});
        match socket.run_transaction(&self.messages)?.into_iter().next() {
            None => Ok(()),
            Some(refusal) => Err(refusal.into_error("of nf_tables")),
        }
    }
}

/// All elements of a set or map, of which rules may have added some.
///
/// # Errors
/// As the kernel says, among others that there is no such set (`ENOENT`).
pub fn elements(table: &str, set: &str) -> Result<Vec<Element>> {
    let mut messages = Messages::new();
    let kind = SUBSYSTEM | libc::NFT_MSG_GETSETELEM as u16;
    let dump = libc::NLM_F_DUMP as u16;
    messages.message("list the elements", kind, dump, &generic(0), |m| {
        m.text(1, table);
        m.text(2, set);
    });
    let mut found = Vec::new();
    Socket::netfilter()?.query(&messages, |_, body| {
        let list = body.get(4..).and_then(|a| attribute(a, 3)).unwrap_or(&[]);
        for (_, element) in attributes(list) {
            let value = |kind| {
                let bytes = attribute(element, kind).and_then(|v| attribute(v, 1));
                Words(bytes.unwrap_or(&[]).to_vec())
            };
            found.push(Element {
                key: value(1),
                data: value(2),
            });
        }
    })?;
    Ok(found)
}

/// Whether this kernel has nf_tables and lets us use it.
///
/// # Errors
/// What the kernel says to an empty look-up.
pub fn available() -> Result<()> {
    let mut messages = Messages::new();
    let kind = SUBSYSTEM | libc::NFT_MSG_GETTABLE as u16;
    let dump = libc::NLM_F_DUMP as u16;
    messages.message("list nf_tables' tables", kind, dump, &generic(0), |_| {});
    Socket::netfilter()?
        .query(&messages, |_, _| {})
        .map_err(|error| match error {
            Error::Netlink { source, .. } if source.raw_os_error() == Some(libc::EINVAL) => {
                Error::os("use nf_tables: the kernel lacks CONFIG_NF_TABLES")(source)
            }
            other => other,
        })
}
