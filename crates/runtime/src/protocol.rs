//! What a shim and its owner say to each other, over a socket that keeps packets apart.
//!
//! One connection serves one purpose: a row of requests, an exec, an attach, or events. A request is the protocol's
//! version, an operation, and fields that end with a zero byte; a reply is a [`Reply`] byte and what belongs to it. Streams
//! never pass through the socket: their descriptors do. A shim understands every version up to its own; an owner speaks the
//! oldest version that can say what it wants.

/// Of this build. Raise it when a field or operation is added.
pub(crate) const VERSION: u8 = 1;

/// The largest packet.
pub(crate) const MAX_PACKET: usize = 16 * 1024;

/// What the owner asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Op {
    /// This connection is sent [`Reply::Event`]s from now on.
    Subscribe = 1,
    /// id, directory, log path, cgroup.procs path, OOM counter path, flags ([`START_TTY`]…). Replies the pid.
    Start = 2,
    /// id, signal, `1` to signal all processes of its cgroup too.
    Signal = 3,
    /// id.
    Reopen = 4,
    /// id, `1` if standard input is wanted; with descriptors for standard output and error. Replies with one descriptor if
    /// there is an input or a terminal; later [`Reply::Exit`].
    Attach = 5,
    /// id, flags; with descriptors: specification, input, output, error. With a terminal replies with its descriptor; later
    /// [`Reply::Exit`].
    Exec = 6,
    /// On an exec's connection: kills it.
    KillExec = 7,
    /// Address family. Replies with an unconnected TCP socket of the sandbox's network.
    Socket = 8,
    /// Kills everything in the sandbox, then ends.
    Shutdown = 9,
}

impl Op {
    pub(crate) fn from_byte(b: u8) -> Option<Self> {
        Some(match b {
            1 => Self::Subscribe,
            2 => Self::Start,
            3 => Self::Signal,
            4 => Self::Reopen,
            5 => Self::Attach,
            6 => Self::Exec,
            7 => Self::KillExec,
            8 => Self::Socket,
            9 => Self::Shutdown,
            _ => return None,
        })
    }
}

/// What a shim answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Reply {
    /// Done; a number (a pid) in little endian may follow.
    Ok = 0,
    /// Exit code in little endian, then text.
    Failed = 1,
    /// Exit code in little endian.
    Exit = 2,
    /// Exit code in little endian, then a container id: it exited.
    Event = 3,
    /// The container isn't running.
    Gone = 4,
}

impl Reply {
    pub(crate) fn from_byte(b: u8) -> Option<Self> {
        Some(match b {
            0 => Self::Ok,
            1 => Self::Failed,
            2 => Self::Exit,
            3 => Self::Event,
            4 => Self::Gone,
            _ => return None,
        })
    }
}

pub(crate) const START_TTY: u32 = 1;
pub(crate) const START_STDIN: u32 = 2;
pub(crate) const START_STDIN_ONCE: u32 = 4;
/// The container has a PID namespace of its own: the kernel kills all when its process 1 ends.
pub(crate) const START_OWN_PIDNS: u32 = 8;
/// It runs in the PID namespace of the sandbox.
pub(crate) const START_POD_PIDNS: u32 = 16;

/// A request's packet.
pub(crate) fn request(op: Op, fields: &[&str]) -> Vec<u8> {
    let mut packet = vec![VERSION, op as u8];
    for field in fields {
        packet.extend_from_slice(field.as_bytes());
        packet.push(0);
    }
    packet
}
