//! The owner's side of a shim's socket.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::protocol::{self, MAX_PACKET, Op, Reply};
use crate::sys;

/// One connection.
pub(super) struct Conn(AsyncFd<OwnedFd>);

/// A reply taken apart.
pub(super) struct Answer {
    pub kind: Reply,
    pub body: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

impl Answer {
    /// The number most replies begin with: a pid or an exit code.
    pub(super) fn number(&self) -> i32 {
        self.body
            .first_chunk()
            .map_or(0, |b| i32::from_le_bytes(*b))
    }
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(self.body.get(4..).unwrap_or_default()).into_owned()
    }
}

impl Conn {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let socket = sys::connect(&dir.join("shim.sock"))?;
        // SAFETY: the socket is owned and nobody replaces it while it is registered.
        Ok(Self(unsafe { AsyncFd::register(socket) }?))
    }

    pub(super) async fn send(&self, op: Op, fields: &[&str], fds: &[RawFd]) -> io::Result<()> {
        let packet = protocol::request(op, fields);
        if packet.len() > MAX_PACKET {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "request to the shim is too large",
            ));
        }
        self.0
            .async_io(Interest::WRITABLE, |fd| {
                sys::send_packet(fd.as_raw_fd(), &packet, fds)
            })
            .await
    }

    /// `UnexpectedEof` when the shim is gone.
    pub(super) async fn receive(&self) -> io::Result<Answer> {
        let mut buffer = vec![0; MAX_PACKET];
        let (n, fds) = self
            .0
            .async_io(Interest::READABLE, |fd| {
                sys::recv_packet(fd.as_raw_fd(), &mut buffer)
            })
            .await?;
        let Some(kind) = buffer[..n].first().copied().and_then(Reply::from_byte) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        Ok(Answer {
            kind,
            body: buffer[1..n].to_vec(),
            fds,
        })
    }

    pub(super) async fn call(&self, op: Op, fields: &[&str], fds: &[RawFd]) -> io::Result<Answer> {
        self.send(op, fields, fds).await?;
        self.receive().await
    }
}
