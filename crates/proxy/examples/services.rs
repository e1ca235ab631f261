//! Measures 10,000 Services with three endpoints each, and one change, in a network namespace of its own.
//!
//! `cargo run --release -p proxy --example services`

use std::net::Ipv4Addr;

use net::namespace::{self, Fresh};
use proxy::rules::Table;
use proxy::state::{self, Contribution, Node, ServiceKey};
use proxy::views::{EndpointSliceView, ServiceView};
use serde_json::json;
use tokio::time::Instant;

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

fn contribution(
    number: u32,
    endpoints: u32,
) -> Result<(ServiceKey, Contribution), serde_json::Error> {
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 43, 0, 0)) + 100 + number);
    let service: ServiceView = serde_json::from_value(json!({
        "metadata": {"name": format!("s{number}"), "namespace": "default"},
        "spec": {"clusterIP": ip, "ports": [{"protocol": "TCP", "port": 80}]},
    }))?;
    let base = u32::from(Ipv4Addr::new(10, 64, 0, 0)) + number * 16;
    let endpoints: Vec<_> = (0..endpoints)
        .map(|i| json!({"addresses": [Ipv4Addr::from(base + i)]}))
        .collect();
    let slice: EndpointSliceView = serde_json::from_value(json!({
        "addressType": "IPv4", "ports": [{"protocol": "TCP", "port": 8080}], "endpoints": endpoints,
    }))?;
    let wanted = state::desired(&service, [&slice].into_iter(), &Node::default());
    Ok((service.key(), wanted))
}

fn measure() -> Outcome {
    namespace::furnish((Ipv4Addr::new(192, 0, 2, 2), 24))?;
    let mut table = Table::new(
        "skiff",
        (Ipv4Addr::new(10, 42, 0, 0), 16),
        (Ipv4Addr::new(10, 43, 0, 0), 16),
    );
    let all = (0..10_000)
        .map(|i| contribution(i, 3))
        .collect::<Result<Vec<_>, _>>()?;
    let started = Instant::now();
    table.apply(all)?;
    println!("load of 10,000 Services: {:?}", started.elapsed());
    for round in 0..5 {
        let change = contribution(17, 3 - round % 2)?;
        let started = Instant::now();
        table.apply(vec![change])?;
        println!("one Service changed: {:?}", started.elapsed());
    }
    Ok(())
}

fn main() -> Outcome {
    Fresh::new()?.run(measure)?
}
