//! Rates of the API, beside what the disk and etcd give on the same machine in the same run.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use tokio::time::Instant;

use crate::bare::Bare;
use crate::connection::Connection;
use crate::kubeconfig::Cluster;
use crate::{Error, Report, etcd};

const NAMESPACE: &str = "skiff-bench";
const PODS: &str = "/api/v1/namespaces/skiff-bench/pods";
const SERVICE: &str = "/api/v1/namespaces/default/services/kubernetes";
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
    let bare = Bare::start().await?;
    let bytes = connection.ok(Method::GET, SERVICE, "".into()).await?;
    let same = format!("/{}", bytes.len());
    report.figure(
        "http.bare.16",
        gets(&bare.cluster, &same, span).await?,
        "/s",
    );
    report.figure("api.get.16", gets(cluster, SERVICE, span).await?, "/s");
    connection.ok(Method::DELETE, MAPS, "".into()).await?;
    lists(report, cluster, &bare.cluster, span).await?;
    connection.ok(Method::DELETE, PODS, "".into()).await?;
    connection
        .ok(
            Method::DELETE,
            &format!("/api/v1/namespaces/{NAMESPACE}"),
            "".into(),
        )
        .await?;
    Ok(())
}

/// LISTs of 5,000 Pods of 4.4 KB, beside the same bytes from a bare server.
async fn lists(
    report: &Report,
    cluster: &Cluster,
    bare: &Cluster,
    span: Duration,
) -> Result<(), Error> {
    let mut connection = Connection::open(cluster).await?;
    // The first Pod needs the namespace's account, which a controller makes.
    let account = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default");
    while connection.send(Method::GET, &account, "".into()).await?.0 != http::StatusCode::OK {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..16 {
        let mut connection = Connection::open(cluster).await?;
        tasks.spawn(async move {
            for i in (client..5000).step_by(16) {
                connection.ok(Method::POST, PODS, pod(i).into()).await?;
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    // The first one warms up.
    connection.ok(Method::GET, PODS, "".into()).await?;
    let (mut times, end) = (Vec::new(), Instant::now() + span);
    let mut size = 0;
    while Instant::now() < end {
        let begin = Instant::now();
        size = connection.ok(Method::GET, PODS, "".into()).await?.len();
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    report.figure("api.list.5000", times[times.len() / 2], "ms");
    report.figure("api.list.5000.size", size as f64 / 1e6, "MB");
    let (mut connection, same) = (Connection::open(bare).await?, format!("/{size}"));
    let (mut times, end) = (Vec::new(), Instant::now() + span);
    while Instant::now() < end {
        let begin = Instant::now();
        connection.ok(Method::GET, &same, "".into()).await?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    report.figure("http.bare.list", times[times.len() / 2], "ms");
    Ok(())
}

/// A Pod that no scheduler looks at, of about 4.4 KB when it is stored.
fn pod(i: usize) -> String {
    let env: Vec<String> = (0..20)
        .map(|n| format!("{{\"name\":\"VARIABLE_{n}\",\"value\":\"{n:0>100}\"}}"))
        .collect();
    format!(
        "{{\"metadata\":{{\"name\":\"pod-{i}\",\"labels\":{{\"app\":\"bench\"}}}},\"spec\":{{\"schedulerName\":\"none\",\
         \"containers\":[{{\"name\":\"main\",\"image\":\"localhost/bench:1\",\"env\":[{}]}}]}}}}",
        env.join(",")
    )
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

/// GETs of one path by 16 clients.
async fn gets(cluster: &Cluster, path: &str, span: Duration) -> Result<f64, Error> {
    let path = path.to_owned();
    rate(cluster, 16, span, move |mut connection, _, end, done| {
        let path = path.clone();
        async move {
            while Instant::now() < end {
                connection.ok(Method::GET, &path, "".into()).await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }
    })
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
