//! The container runtime: the CRI v1 surface as a trait, and an embedded implementation of it.
//!
//! Follows <https://github.com/kubernetes/cri-api/blob/master/pkg/apis/runtime/v1/api.proto>; names are CRI's, narrowed to
//! what Linux nodes use. [`Embedded`] keeps images and layers itself and runs each Pod's containers as children of one small
//! *shim* process, which is this same binary in another role (see [`entry`]), so that containers outlive this process.
#![allow(unsafe_code)]
#![cfg(target_os = "linux")]

mod allocator;
mod cgroup;
mod devices;
mod embedded;
mod error;
mod image;
mod init;
mod network;
mod protocol;
mod record;
mod seccomp;
mod shim;
mod stdio;
mod sys;
mod sysctl;
mod types;

use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use futures::Stream;

pub use allocator::{ByRole, give_back_soon};
pub use cgroup::{CgroupDriver, CgroupTree};
pub use embedded::{Embedded, Options};
pub use error::{Error, Result};
pub use image::reference::normalize as normalize_reference;
pub use network::LoopbackOnly;
pub use shim::entry;
pub use sysctl::sysctl_with_dots;
pub use types::*;

/// A stream of events; it ends when the reader fell too far behind (then list again) or the runtime went away.
pub type Events = Pin<Box<dyn Stream<Item = ContainerEvent> + Send>>;

/// CRI v1's RuntimeService and ImageService as one trait; embedded and remote runtimes are interchangeable behind it.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// Name and version of the runtime, as shown in a Node's `status.nodeInfo.containerRuntimeVersion`.
    async fn version(&self) -> Result<Version>;

    /// Makes a Pod's namespaces and its network, and starts its shim. Fails without leaving anything behind.
    async fn run_pod_sandbox(&self, config: SandboxConfig) -> Result<SandboxId>;
    /// Kills what still runs in the sandbox and takes its network away. Doing it twice is fine, as is an unknown id.
    async fn stop_pod_sandbox(&self, id: &SandboxId) -> Result<()>;
    /// Stops the sandbox and removes it with all its containers. Doing it twice is fine.
    async fn remove_pod_sandbox(&self, id: &SandboxId) -> Result<()>;
    /// [`Error::NotFound`] if there is no such sandbox.
    async fn pod_sandbox_status(&self, id: &SandboxId) -> Result<SandboxStatus>;
    /// All sandboxes, oldest first.
    async fn list_pod_sandboxes(&self) -> Result<Vec<SandboxStatus>>;

    /// Records a container; no process yet. [`Error::ImageNotFound`] if the image isn't present.
    async fn create_container(
        &self,
        sandbox: &SandboxId,
        config: ContainerConfig,
    ) -> Result<ContainerId>;
    /// Starts its process. [`Error::Start`] when the process can't be made: the container has then exited with reason
    /// `StartError`.
    async fn start_container(&self, id: &ContainerId) -> Result<()>;
    /// Sends the stop signal (the config's, else the image's, else TERM), waits `grace`, then kills all processes. With
    /// zero grace kills at once. Returns when the container has exited; stopping an exited container is fine.
    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<()>;
    /// Kills it if it runs, and removes everything but its log. Doing it twice is fine.
    async fn remove_container(&self, id: &ContainerId) -> Result<()>;
    /// [`Error::NotFound`] if there is no such container.
    async fn container_status(&self, id: &ContainerId) -> Result<ContainerStatus>;
    /// All containers, oldest first.
    async fn list_containers(&self) -> Result<Vec<ContainerStatus>>;
    /// Changes the limits of a container in place; fields that are `None` stay as they are.
    async fn update_container_resources(
        &self,
        id: &ContainerId,
        resources: LinuxResources,
    ) -> Result<()>;
    /// Opens the log file anew, after it was renamed for rotation. Returns when later lines go to the new file.
    async fn reopen_container_log(&self, id: &ContainerId) -> Result<()>;

    /// Runs a command and gathers its output (the first 16 KiB of each stream). After `timeout` it is killed and the result is
    /// [`Error::DeadlineExceeded`]. A command that doesn't exist is [`Error::Start`].
    async fn exec_sync(
        &self,
        id: &ContainerId,
        cmd: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecSync>;
    /// Runs a command with streams. A command that doesn't exist is [`Error::Start`].
    async fn exec(&self, id: &ContainerId, request: ExecRequest) -> Result<Streams>;
    /// The streams of the container's own process, from now on.
    async fn attach(&self, id: &ContainerId, stdin: bool) -> Result<Streams>;
    /// A connection to `port` on the sandbox's own localhost.
    async fn port_forward(&self, id: &SandboxId, port: u16) -> Result<Box<dyn Duplex>>;

    /// Usage of one running container.
    async fn container_stats(&self, id: &ContainerId) -> Result<ContainerStats>;
    /// Usage of all running containers.
    async fn list_container_stats(&self) -> Result<Vec<ContainerStats>>;
    /// What happens from now on. Subscribe first, then list.
    fn events(&self) -> Events;

    /// All images, by id.
    async fn list_images(&self) -> Result<Vec<Image>>;
    /// The image a reference (`nginx`, `docker.io/library/nginx:1`, `sha256:…`, a digest reference) names, if it is present.
    async fn image_status(&self, reference: &str) -> Result<Option<Image>>;
    /// Fetches an image from its registry.
    async fn pull_image(&self, reference: &str, auth: Option<ImageAuth>) -> Result<Image>;
    /// Removes an image with all its names, and the layers nothing else needs. An unknown image is fine; one that a
    /// container uses is an error.
    async fn remove_image(&self, reference: &str) -> Result<()>;
    /// Adds the images of a tar: `docker save`'s form or an OCI layout, itself plain or compressed.
    async fn import_image(&self, tar: Box<dyn Read + Send>) -> Result<Vec<Image>>;
    /// Usage of the file system that holds images and containers' writable layers.
    async fn image_fs_info(&self) -> Result<FsInfo>;
}

/// Connects a sandbox's network namespace. Implemented by the network crate; the namespace exists and its loopback is up
/// when [`SandboxNetwork::add`] is called. Never called for sandboxes on the node's own network.
#[async_trait]
pub trait SandboxNetwork: Send + Sync {
    /// Gives the namespace at `netns` its interfaces, routes and addresses. Called again with the same id after a failure.
    async fn add(
        &self,
        id: &SandboxId,
        netns: &Path,
        config: &SandboxConfig,
    ) -> Result<NetworkStatus>;
    /// Takes them away. Must succeed when there is nothing (left), and when `netns` no longer exists.
    async fn remove(&self, id: &SandboxId, netns: &Path) -> Result<()>;
}

/// What [`SandboxNetwork::add`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkStatus {
    /// The Pod's addresses, the primary one first.
    pub ips: Vec<IpAddr>,
}
