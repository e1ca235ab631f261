//! HTTP as every component serves and uses it: bodies, TLS listeners, connection draining, upgrades.

pub mod body;
pub mod percent;
pub mod portforward;
pub mod remotecommand;
pub mod server;
pub mod spdy;
pub mod tls;
pub mod upgrade;
mod websocket;

pub use body::{Body, empty, full};
pub use server::{Cut, Handler, Peer, Server};
pub use upgrade::Upgraded;

/// Why a listener could not be opened or a connection failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        address: std::net::SocketAddr,
        cause: std::io::Error,
    },
    #[error("TLS is not set up: {0}")]
    Tls(String),
    #[error("cannot reach {0}: {1}")]
    Connect(String, String),
    #[error("the connection could not be upgraded: {0}")]
    Upgrade(String),
}
