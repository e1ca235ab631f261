//! The embedded runtime.

use std::path::PathBuf;
use std::sync::Arc;

use world::World;

use crate::{CgroupDriver, Result, SandboxNetwork};

/// How to open the embedded runtime.
pub struct Options {
    /// Persistent: images, layers, writable layers. `/var/lib/skiff/runtime`.
    pub root: PathBuf,
    /// Gone after a reboot: sandboxes, containers, sockets. At most 60 bytes long. `/run/skiff/runtime`.
    pub state: PathBuf,
    pub network: Arc<dyn SandboxNetwork>,
    pub world: World,
    /// A program that calls [`crate::entry`] first thing in `main`; usually `/proc/self/exe`.
    pub self_exe: PathBuf,
    /// All cgroups are below this path of each hierarchy; empty or `/` for the root.
    pub cgroup_root: String,
    pub cgroup_driver: CgroupDriver,
}

/// The embedded runtime.
pub struct Embedded {}

impl Embedded {
    /// Opens the runtime and adopts what a previous process left running. Must be called inside a tokio runtime.
    pub async fn open(_options: Options) -> Result<Arc<Self>> {
        Err(crate::Error::Unimplemented("the embedded runtime"))
    }
}
