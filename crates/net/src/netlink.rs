//! Netlink messages and the sockets that carry them: see `netlink(7)`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd as _, OwnedFd, RawFd};

use crate::{Error, Result};

/// Messages of one request, one after the other, ready to send.
#[derive(Debug, Default)]
pub struct Messages {
    bytes: Vec<u8>,
    /// What each message does, for errors.
    labels: Vec<&'static str>,
    start: usize,
}

const HEADER: usize = 16;

impl Messages {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The size of all in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// One message: type, flags and fixed header; `body` adds the attributes. Its sequence number is its place from 1.
    pub fn message(
        &mut self,
        label: &'static str,
        kind: u16,
        flags: u16,
        fixed: &[u8],
        body: impl FnOnce(&mut Self),
    ) {
        self.start = self.bytes.len();
        self.labels.push(label);
        let sequence = u32::try_from(self.labels.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        let flags = flags | libc::NLM_F_REQUEST as u16;
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(fixed);
        self.pad();
        let start = self.start;
        body(self);
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    fn pad(&mut self) {
        let length = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(length, 0);
    }

    /// An attribute with these bytes.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    /// An attribute with a NUL-terminated text.
    pub fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    /// A number in the machine's byte order (rtnetlink).
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// A number in network byte order (netfilter).
    pub fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A number in network byte order (netfilter).
    pub fn be64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// An attribute that holds attributes. Must stay below 64 KiB.
    pub fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes
            .extend_from_slice(&(kind | libc::NLA_F_NESTED as u16).to_ne_bytes());
        body(self);
        let length = self.bytes.len() - start;
        debug_assert!(length <= usize::from(u16::MAX), "an attribute is too long");
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Bytes inside an attribute that are none themselves (`ifinfomsg` in a veth's peer).
    pub fn raw(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    fn label(&self, sequence: u32) -> (usize, &'static str) {
        let index = (sequence as usize).saturating_sub(1);
        (index, self.labels.get(index).copied().unwrap_or("do this"))
    }
}

/// One refused message of a request.
#[derive(Debug)]
pub struct Refusal {
    /// Its place in the request, from 0.
    pub index: usize,
    /// What it was to do.
    pub label: &'static str,
    pub source: io::Error,
    /// The kernel's own words, if any.
    pub detail: String,
}

impl Refusal {
    /// As the crate's error; `on` says on what.
    #[must_use]
    pub fn into_error(self, on: &str) -> Error {
        let space = if on.is_empty() { "" } else { " " };
        Error::Netlink {
            action: format!("{}{space}{on}", self.label),
            index: self.index,
            source: self.source,
            detail: self.detail,
        }
    }

    /// Whether the kernel gave this error number.
    #[must_use]
    pub fn is(&self, errno: i32) -> bool {
        self.source.raw_os_error() == Some(errno)
    }
}

/// A netlink socket in the network namespace of the thread that opened it; it stays there.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// For links, addresses, routes and neighbours.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn route() -> Result<Self> {
        Self::open(libc::NETLINK_ROUTE)
    }

    /// For nf_tables and conntrack.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn netfilter() -> Result<Self> {
        Self::open(libc::NETLINK_NETFILTER)
    }

    fn open(protocol: i32) -> Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: socket() takes numbers only.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, protocol) };
        if fd < 0 {
            return Err(Error::os("open a netlink socket")(
                io::Error::last_os_error(),
            ));
        }
        // SAFETY: `fd` was just opened and has no other owner.
        let socket = Self {
            fd: unsafe { OwnedFd::from_raw_fd(fd) },
        };
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            socket.option(libc::SOL_NETLINK, option, 1)?;
        }
        // Never wait for ever for an answer that does not come.
        let patience = libc::timeval {
            tv_sec: 10,
            tv_usec: 0,
        };
        // SAFETY: the pointer and the length are those of `patience`, which lives until the call returns.
        let result = unsafe {
            libc::setsockopt(
                socket.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                std::ptr::from_ref(&patience).cast(),
                size_of::<libc::timeval>() as libc::socklen_t,
            )
        };
        if result < 0 {
            return Err(Error::os("set up a netlink socket")(
                io::Error::last_os_error(),
            ));
        }
        Ok(socket)
    }

    /// Has the kernel tell of changes, `RTNLGRP_*`.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn subscribe(&self, group: u32) -> Result<()> {
        let group = i32::try_from(group).unwrap_or(i32::MAX);
        self.option(libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group)
    }

    /// Reads what the kernel has told since, without waiting: calls `each` with type and body. False when it told more
    /// than could be kept.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn told(&self, mut each: impl FnMut(u16, &[u8])) -> Result<bool> {
        let mut buffer = vec![0; 32 << 10];
        loop {
            match self.receive(&mut buffer, false) {
                Ok(Some(length)) => answers(&buffer[..length]).for_each(|a| each(a.kind, a.body)),
                Ok(None) => return Ok(true),
                Err(error) if error.errno() == Some(libc::ENOBUFS) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    fn option(&self, level: i32, option: i32, value: i32) -> Result<()> {
        // SAFETY: the pointer and the length are those of `value`, which lives until the call returns.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                option,
                std::ptr::from_ref(&value).cast(),
                size_of::<i32>() as libc::socklen_t,
            )
        };
        if result < 0 {
            return Err(Error::os("set up a netlink socket")(
                io::Error::last_os_error(),
            ));
        }
        Ok(())
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        if bytes.len() > 100_000 {
            // The kernel takes a request only whole, and only if it fits the socket's buffer.
            let size = i32::try_from(bytes.len() + (64 << 10)).unwrap_or(i32::MAX);
            self.option(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, size)?;
        }
        // SAFETY: the pointer and the length are those of `bytes`.
        let sent =
            unsafe { libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        match usize::try_from(sent) {
            Ok(n) if n == bytes.len() => Ok(()),
            Ok(n) => Err(Error::os("send a netlink request")(io::Error::other(
                format!("only {n} of {} bytes were taken", bytes.len()),
            ))),
            Err(_) => Err(Error::os("send a netlink request")(
                io::Error::last_os_error(),
            )),
        }
    }

    /// The next datagram's length; `None` if there is none and `wait` is false.
    fn receive(&self, buffer: &mut [u8], wait: bool) -> Result<Option<usize>> {
        let flags = if wait { 0 } else { libc::MSG_DONTWAIT };
        loop {
            // SAFETY: the pointer and the length are those of `buffer`.
            let got = unsafe {
                libc::recv(
                    self.fd.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    flags,
                )
            };
            if let Ok(n) = usize::try_from(got) {
                return Ok(Some(n));
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EAGAIN) if !wait => return Ok(None),
                _ => return Err(Error::os("read a netlink answer")(error)),
            }
        }
    }

    /// Sends messages that all ask for an acknowledgement (`NLM_F_ACK`), and returns those that were refused. The kernel
    /// carries out each on its own.
    ///
    /// # Errors
    /// When the socket itself fails.
    pub fn run(&self, messages: &Messages) -> Result<Vec<Refusal>> {
        self.send(&messages.bytes)?;
        let (mut refused, mut open) = (Vec::new(), messages.len());
        let mut buffer = vec![0; 32 << 10];
        while open > 0 {
            let length = self.receive(&mut buffer, true)?.unwrap_or(0);
            for answer in answers(&buffer[..length]) {
                if i32::from(answer.kind) == libc::NLMSG_ERROR {
                    open -= 1;
                    refused.extend(answer.refusal(messages));
                }
            }
        }
        Ok(refused)
    }

    /// As [`Self::run`], where any refusal is an error; `on` says on what for the error's text.
    ///
    /// # Errors
    /// The first refusal, or the socket's failure.
    pub fn run_all(&self, messages: &Messages, on: &str) -> Result<()> {
        match self.run(messages)?.into_iter().next() {
            Some(refusal) => Err(refusal.into_error(on)),
            None => Ok(()),
        }
    }

    /// Sends a batch whose messages ask for no acknowledgement and are carried out before the call returns (nf_tables'
    /// transactions): only refusals are answered.
    ///
    /// # Errors
    /// When the socket itself fails, also because there were too many refusals to hold.
    pub fn run_transaction(&self, messages: &Messages) -> Result<Vec<Refusal>> {
        self.send(&messages.bytes)?;
        let mut refused = Vec::new();
        let mut buffer = vec![0; 32 << 10];
        while let Some(length) = self.receive(&mut buffer, false)? {
            for answer in answers(&buffer[..length]) {
                refused.extend(answer.refusal(messages));
            }
        }
        Ok(refused)
    }

    /// Sends one request and calls `each` with type and body of every answer: for dumps, and for a single `get`.
    ///
    /// # Errors
    /// The kernel's refusal, or the socket's failure.
    pub fn query(&self, messages: &Messages, mut each: impl FnMut(u16, &[u8])) -> Result<()> {
        self.send(&messages.bytes)?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = self.receive(&mut buffer, true)?.unwrap_or(0);
            for answer in answers(&buffer[..length]) {
                match i32::from(answer.kind) {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => {
                        return match answer.refusal(messages) {
                            Some(refusal) => Err(refusal.into_error("")),
                            None => Ok(()),
                        };
                    }
                    _ => {
                        each(answer.kind, answer.body);
                        if answer.flags & libc::NLM_F_MULTI as u16 == 0 {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

struct Answer<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

fn answers(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let message = bytes.get(..length).filter(|_| length >= HEADER)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Answer {
            kind: u16_at(message, 4)?,
            flags: u16_at(message, 6)?,
            sequence: u32_at(message, 8)?,
            body: &message[HEADER..],
        })
    })
}

impl Answer<'_> {
    /// `None` for an acknowledgement.
    fn refusal(&self, messages: &Messages) -> Option<Refusal> {
        let errno = i32::from_ne_bytes(self.body.get(..4)?.try_into().ok()?);
        if errno == 0 || i32::from(self.kind) != libc::NLMSG_ERROR {
            return None;
        }
        // The error number, then the header of the refused message (NETLINK_CAP_ACK), then attributes: 1 is the text.
        let detail = attributes(self.body.get(4 + HEADER..).unwrap_or(&[]))
            .find(|(kind, _)| *kind == 1)
            .map(|(_, text)| {
                String::from_utf8_lossy(text)
                    .trim_end_matches('\0')
                    .to_owned()
            });
        let (index, label) = messages.label(self.sequence);
        Some(Refusal {
            index,
            label,
            source: io::Error::from_raw_os_error(-errno),
            detail: detail.unwrap_or_default(),
        })
    }
}

/// The attributes in `bytes`, without the nested and byte order flags.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let value = bytes.get(4..length)?;
        let kind = u16_at(bytes, 2)? & 0x3fff;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// The value of the first attribute of this kind.
#[must_use]
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(k, _)| *k == kind).map(|(_, v)| v)
}

/// A number of the machine's byte order at `offset`.
#[must_use]
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let bytes = bytes.get(offset..offset + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}
