//! `skiff uninstall`: leaves nothing on the machine.

use std::io::Write as _;

use crate::{Common, Failure};

/// Removes containers, mounts, namespaces, links, routes, tables and files.
///
/// # Errors
/// When a server still runs, or something cannot be removed.
pub fn run(common: &Common, yes: bool) -> Result<(), Failure> {
    let data_dir = std::path::absolute(&common.data_dir).map_err(Failure::new)?;
    if !data_dir.exists() {
        println!("nothing is installed at {}", data_dir.display());
        return Ok(());
    }
    if std::os::unix::net::UnixStream::connect(crate::admin::socket_path(&data_dir)).is_ok() {
        return Err(Failure::new("a server is running").hint("stop it first (Ctrl-C, or kill its process)"));
    }
    if !yes && !confirmed(&data_dir)? {
        return Err(Failure::new("nothing was removed"));
    }
    println!("removing {}", data_dir.display());
    std::fs::remove_dir_all(&data_dir).map_err(|e| Failure::new(format!("cannot remove {}: {e}", data_dir.display())))
}

fn confirmed(data_dir: &std::path::Path) -> Result<bool, Failure> {
    print!("remove the cluster in {} with all its data? [y/N] ", data_dir.display());
    std::io::stdout().flush().map_err(Failure::new)?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(Failure::new)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}
