//! How long a change takes to all who watch.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::connection::Connection;
use crate::kubeconfig::Cluster;
use crate::{Error, Report};

const PATH: &str = "/api/v1/namespaces/default/configmaps";

/// `watchers` watch while `rate` changes a second are made over `span`; reports the delays from before each change's request
/// to its event's arrival.
pub async fn run(
    report: &Report,
    cluster: &Cluster,
    watchers: usize,
    rate: u32,
    span: Duration,
) -> Result<(), Error> {
    let begin = Instant::now();
    let (sender, mut delays) = mpsc::unbounded_channel();
    let mut tasks = tokio::task::JoinSet::new();
    let changes = u32::try_from(u64::from(rate) * span.as_secs())?;
    for _ in 0..watchers {
        let stream = watch(cluster).await?;
        tasks.spawn(follow(stream, begin, changes, sender.clone()));
    }
    drop(sender);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let stamp = std::process::id();
    let mut writers = Vec::new();
    for _ in 0..4 {
        writers.push(Connection::open(cluster).await?);
    }
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    let (jobs, queue) = async_queue(writers, stamp, begin);
    for i in 0..changes {
        ticks.tick().await;
        jobs.send(i)?;
    }
    drop(jobs);
    queue.await??;
    let mut all = Vec::new();
    while let Some(delay) = delays.recv().await {
        all.push(delay);
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    all.sort_by(f64::total_cmp);
    let at = |share: f64| all[((all.len() - 1) as f64 * share) as usize];
    report.figure("watch.fanout.events", all.len() as f64, "");
    report.figure("watch.fanout.p50", at(0.5), "ms");
    report.figure("watch.fanout.p99", at(0.99), "ms");
    let mut connection = Connection::open(cluster).await?;
    let ours = format!("{PATH}?labelSelector=bench%3D{stamp}");
    connection.ok(Method::DELETE, &ours, Bytes::new()).await?;
    Ok(())
}

/// Writers that create a ConfigMap for each number; its data tells when, in microseconds since `begin`.
fn async_queue(
    writers: Vec<Connection>,
    stamp: u32,
    begin: Instant,
) -> (
    mpsc::UnboundedSender<u32>,
    tokio::task::JoinHandle<Result<(), Error>>,
) {
    let (jobs, queue) = mpsc::unbounded_channel::<u32>();
    let queue = std::sync::Arc::new(tokio::sync::Mutex::new(queue));
    let work = tokio::spawn(async move {
        let mut tasks = tokio::task::JoinSet::new();
        for mut writer in writers {
            let queue = queue.clone();
            tasks.spawn(async move {
                loop {
                    let Some(i) = queue.lock().await.recv().await else {
                        return Ok::<_, Error>(());
                    };
                    let now = begin.elapsed().as_micros();
                    let body = format!(
                        "{{\"metadata\":{{\"name\":\"fanout-{stamp}-{i}\",\"labels\":{{\"bench\":\"{stamp}\"}}}},\"data\":{{\"at\":\"@{now}@\"}}}}"
                    );
                    writer.ok(Method::POST, PATH, body.into()).await?;
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(())
    });
    (jobs, work)
}

async fn watch(cluster: &Cluster) -> Result<hyper::body::Incoming, Error> {
    let mut sender = Connection::open(cluster).await?.into_sender();
    let request = Request::get(format!("{PATH}?watch=true"))
        .header(http::header::HOST, &cluster.address)
        .body(Full::new(Bytes::new()))?;
    let answer = sender.send_request(request).await?;
    if !answer.status().is_success() {
        return Err(format!("the watch was refused: {}", answer.status()).into());
    }
    Ok(answer.into_body())
}

/// Reads events until `changes` were seen.
async fn follow(
    mut stream: hyper::body::Incoming,
    begin: Instant,
    changes: u32,
    delays: mpsc::UnboundedSender<f64>,
) -> Result<(), Error> {
    let (mut seen, mut line) = (0, Vec::new());
    while seen < changes {
        let frame = stream.frame().await.ok_or("a watch ended")??;
        let now = begin.elapsed().as_micros();
        let Ok(data) = frame.into_data() else {
            continue;
        };
        for byte in data {
            line.push(byte);
            if byte != b'\n' {
                continue;
            }
            if let Some(at) = stamp_of(&line) {
                seen += 1;
                delays.send(now.saturating_sub(at) as f64 / 1e3)?;
            }
            line.clear();
        }
    }
    Ok(())
}

fn stamp_of(line: &[u8]) -> Option<u128> {
    let text = std::str::from_utf8(line).ok()?;
    let (_, rest) = text.split_once("\"at\":\"@")?;
    rest.split_once('@')?.0.parse().ok()
}
