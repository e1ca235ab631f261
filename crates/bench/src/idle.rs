//! Start-up, and what a server costs when nothing happens.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncBufReadExt as _;
use tokio::time::Instant;

use crate::{Error, Report};

/// Starts a server and waits until it says that its node is Ready; then ends it.
pub async fn boot(report: &Report, skiff: &Path, data_dir: &Path) -> Result<(), Error> {
    let begin = Instant::now();
    let mut server = tokio::process::Command::new(skiff)
        .args(["server", "--data-dir"])
        .arg(data_dir)
        .stderr(Stdio::piped())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let stderr = server
        .stderr
        .take()
        .ok_or("the server has no standard error")?;
    let mut lines = tokio::io::BufReader::new(stderr).lines();
    let ready = tokio::time::timeout(Duration::from_secs(60), async {
        while let Some(line) = lines.next_line().await? {
            if line.contains("the node is Ready") {
                return Ok(());
            }
        }
        Err(Error::from("the server ended before its node was Ready"))
    });
    ready.await??;
    report.figure("boot.ready", begin.elapsed().as_secs_f64(), "s");
    let pid = server.id().ok_or("the server is gone")?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    idle(report, pid, Duration::from_secs(30)).await?;
    server.kill().await?;
    Ok(())
}

/// Memory now, and CPU and writes over `span`.
pub async fn idle(report: &Report, pid: u32, span: Duration) -> Result<(), Error> {
    let read = |name: &str| -> Result<String, Error> {
        let path = format!("/proc/{pid}/{name}");
        Ok(std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?)
    };
    let field = |text: &str, name: &str| -> f64 {
        let line = text.lines().find_map(|l| l.strip_prefix(name));
        line.and_then(|l| l.split_whitespace().next())
            .and_then(|n| n.parse().ok())
            .unwrap_or(0.0)
    };
    let ticks = |stat: &str| -> f64 {
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or("")
            .split_whitespace()
            .collect();
        let number = |i: usize| {
            fields
                .get(i)
                .and_then(|n| n.parse::<f64>().ok())
                .unwrap_or(0.0)
        };
        number(11) + number(12)
    };
    let (cpu, written) = (ticks(&read("stat")?), field(&read("io")?, "write_bytes:"));
    tokio::time::sleep(span).await;
    report.figure(
        "idle.pss",
        field(&read("smaps_rollup")?, "Pss:") / 1024.0,
        "MiB",
    );
    // The kernel counts CPU time in hundredths of a second.
    report.figure(
        "idle.cpu",
        (ticks(&read("stat")?) - cpu) / 100.0 / span.as_secs_f64(),
        "cores",
    );
    let writes = field(&read("io")?, "write_bytes:") - written;
    report.figure("idle.writes", writes * 3600.0 / span.as_secs_f64(), "B/h");
    Ok(())
}
