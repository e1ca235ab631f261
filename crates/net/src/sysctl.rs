//! Kernel settings of the calling thread's network namespace.

use std::fs;

use crate::{Error, Result};

/// Sets `/proc/sys/net/<name>`; writes only if the value is another.
///
/// # Errors
/// As the file system says.
pub fn set(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{name}");
    let now = fs::read_to_string(&path).map_err(Error::os(format!("read {path}")))?;
    if now.trim() == value {
        return Ok(());
    }
    fs::write(&path, value).map_err(Error::os(format!("write {value} to {path}")))
}
