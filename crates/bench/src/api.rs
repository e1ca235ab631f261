//! Rates of the API, beside what the disk and etcd give on the same machine in the same run.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use tokio::time::Instant;

use crate::connection::Connection;
use crate::kubeconfig::Cluster;
use crate::{Error, Report, etcd};

const NAMESPACE: &str = "skiff-bench";
const MAPS: &str = "/api/v1/namespaces/skiff-bench/configmaps";

/// Measures and reports.
pub async fn run(
    report: &Report,
    cluster: &Cluster,
    span: Duration,
    etcd: Option<&str>,
    disk: Option<&Path>,
) -> Result<(), Error> {
    let mut connection = Connection::open(cluster).await?;
    let namespace = format!("{{\"metadata\":{{\"name\":\"{NAMESPACE}\"}}}}");
    let (status, answer) = connection
        .send(Method::POST, "/api/v1/namespaces", namespace.into())
        .await?;
    if !status.is_success() && status != http::StatusCode::CONFLICT {
        return Err(format!(
            "cannot make a namespace: {}",
            String::from_utf8_lossy(&answer)
        )
        .into());
    }
    if let Some(dir) = disk {
        let rate = syncs(dir, span)?;
        report.figure("disk.fdatasync", rate, "/s");
    }
    for clients in [1, 64] {
        if let Some(endpoint) = etcd {
            report.figure(
                &format!("etcd.put.{clients}"),
                etcd::puts(endpoint, clients, span).await?,
                "/s",
            );
        }
        let rate = posts(cluster, clients, span).await?;
        report.figure(&format!("api.post.{clients}"), rate, "/s");
    }
    report.figure("api.get.16", gets(cluster, 16, span).await?, "/s");
    // The first one warms up.
    connection
        .ok(Method::GET, &format!("{MAPS}?limit=5000"), "".into())
        .await?;
    let begin = Instant::now();
    let bytes = connection
        .ok(Method::GET, &format!("{MAPS}?limit=5000"), "".into())
        .await?;
    let millis = begin.elapsed().as_secs_f64() * 1e3;
    report.figure("api.list.5000", millis, "ms");
    report.figure("api.list.5000.size", bytes.len() as f64 / 1e6, "MB");
    connection.ok(Method::DELETE, MAPS, "".into()).await?;
    connection
        .ok(
            Method::DELETE,
            &format!("/api/v1/namespaces/{NAMESPACE}"),
            "".into(),
        )
        .await?;
    Ok(())
}

/// Runs `clients` copies of `work` for `span` and returns how many calls they finished per second.
async fn rate<F, Fut>(
    cluster: &Cluster,
    clients: usize,
    span: Duration,
    work: F,
) -> Result<f64, Error>
where
    F: Fn(Connection, usize, Instant, Arc<AtomicU64>) -> Fut,
    Fut: Future<Output = Result<(), Error>> + Send + 'static,
{
    let mut connections = Vec::new();
    for _ in 0..clients {
        connections.push(Connection::open(cluster).await?);
    }
    let (done, begin) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let mut tasks = tokio::task::JoinSet::new();
    for (client, connection) in connections.into_iter().enumerate() {
        tasks.spawn(work(connection, client, begin + span, done.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(done.load(Ordering::Relaxed) as f64 / begin.elapsed().as_secs_f64())
}

/// Creates ConfigMaps of 1 KiB.
async fn posts(cluster: &Cluster, clients: usize, span: Duration) -> Result<f64, Error> {
    let stamp = std::process::id();
    rate(
        cluster,
        clients,
        span,
        move |mut connection, client, end, done| async move {
            let filling = "x".repeat(880);
            let mut i = 0;
            while Instant::now() < end {
                let name = format!("b{stamp}-{clients}-{client}-{i}");
                let body = format!(
                    "{{\"metadata\":{{\"name\":\"{name}\"}},\"data\":{{\"x\":\"{filling}\"}}}}"
                );
                connection.ok(Method::POST, MAPS, body.into()).await?;
                done.fetch_add(1, Ordering::Relaxed);
                i += 1;
            }
            Ok(())
        },
    )
    .await
}

async fn gets(cluster: &Cluster, clients: usize, span: Duration) -> Result<f64, Error> {
    rate(
        cluster,
        clients,
        span,
        |mut connection, _, end, done| async move {
            while Instant::now() < end {
                connection
                    .ok(
                        Method::GET,
                        "/api/v1/namespaces/default/services/kubernetes",
                        "".into(),
                    )
                    .await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        },
    )
    .await
}

/// How often the disk makes 1 KiB durable per second, appending to a preallocated file.
fn syncs(dir: &Path, span: Duration) -> Result<f64, Error> {
    use std::io::Write as _;
    let path = dir.join("skiff-bench.sync");
    let mut file = std::fs::File::create(&path)?;
    file.write_all(&vec![0; 64 << 20])?;
    file.sync_all()?;
    use std::io::Seek as _;
    file.rewind()?;
    let (begin, mut count) = (Instant::now(), 0_u32);
    let block = [7; 1024];
    while begin.elapsed() < span && count < 60_000 {
        file.write_all(&block)?;
        file.sync_data()?;
        count += 1;
    }
    let rate = f64::from(count) / begin.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(rate)
}
