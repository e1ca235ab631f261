//! The simplest sandbox network: none.

use std::path::Path;

use async_trait::async_trait;

use crate::{NetworkStatus, Result, SandboxConfig, SandboxId, SandboxNetwork};

/// Leaves a sandbox with its loopback interface alone. For tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoopbackOnly;

#[async_trait]
impl SandboxNetwork for LoopbackOnly {
    async fn add(&self, _: &SandboxId, _: &Path, _: &SandboxConfig) -> Result<NetworkStatus> {
        Ok(NetworkStatus::default())
    }
    async fn remove(&self, _: &SandboxId, _: &Path) -> Result<()> {
        Ok(())
    }
}
