//! How long a Pod takes from its creation to Running.

use std::time::Duration;

use http::Method;
use serde_json::Value;
use tokio::time::Instant;

use crate::connection::Connection;
use crate::kubeconfig::Cluster;
use crate::{Error, Report};

/// Creates Pods one after another and watches each get Running.
pub async fn run(report: &Report, cluster: &Cluster, image: &str, count: u32) -> Result<(), Error> {
    let mut connection = Connection::open(cluster).await?;
    let mut millis = Vec::new();
    for i in 0..count {
        let name = format!("skiff-bench-{}-{i}", std::process::id());
        let body = format!(
            "{{\"metadata\":{{\"name\":\"{name}\"}},\"spec\":{{\"terminationGracePeriodSeconds\":0,\"containers\":[{{\
             \"name\":\"c\",\"image\":\"{image}\",\"imagePullPolicy\":\"Never\"}}]}}}}"
        );
        let pods = "/api/v1/namespaces/default/pods";
        let one = format!("{pods}/{name}");
        let begin = Instant::now();
        connection.ok(Method::POST, pods, body.into()).await?;
        loop {
            let pod: Value =
                serde_json::from_slice(&connection.ok(Method::GET, &one, "".into()).await?)?;
            match pod["status"]["phase"].as_str() {
                Some("Running") => break,
                Some("Failed") => return Err(format!("the Pod failed: {}", pod["status"]).into()),
                _ if begin.elapsed() > Duration::from_secs(60) => {
                    return Err(format!("the Pod does not run: {}", pod["status"]).into());
                }
                _ => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
        millis.push(begin.elapsed().as_secs_f64() * 1e3);
        connection.ok(Method::DELETE, &one, "".into()).await?;
    }
    millis.sort_by(f64::total_cmp);
    let at = |share: f64| millis[((millis.len() - 1) as f64 * share) as usize];
    report.figure("pods.start.p50", at(0.5), "ms");
    report.figure("pods.start.p99", at(0.99), "ms");
    Ok(())
}
