//! A small metrics registry in Prometheus' text form. One registry a process' component tree, handed down in the world:
//! never a process global (law 8).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A number that only grows.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    /// The value now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Clone, Default)]
pub struct Gauge(Arc<AtomicI64>);

impl Gauge {
    /// Sets the value.
    pub fn set(&self, v: i64) {
        self.0.store(v, Ordering::Relaxed);
    }
    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    /// The value now.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Clone)]
enum Metric {
    Counter(Counter),
    Gauge(Gauge),
}

#[derive(Debug)]
struct Family {
    help: &'static str,
    series: BTreeMap<String, Metric>,
}

/// All metrics of one component tree, by name and labels.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<BTreeMap<&'static str, Family>>);

impl Metrics {
    /// The counter `name{labels}`; made at first use. `labels` is already in Prometheus' form, e.g. `verb="get"`.
    pub fn counter(&self, name: &'static str, help: &'static str, labels: &str) -> Counter {
        match self.series(name, help, labels, || Metric::Counter(Counter::default())) {
            Metric::Counter(c) => c,
            Metric::Gauge(_) => Counter::default(),
        }
    }

    /// The gauge `name{labels}`; made at first use.
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: &str) -> Gauge {
        match self.series(name, help, labels, || Metric::Gauge(Gauge::default())) {
            Metric::Gauge(g) => g,
            Metric::Counter(_) => Gauge::default(),
        }
    }

    fn series(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &str,
        make: impl FnOnce() -> Metric,
    ) -> Metric {
        let mut families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let family = families.entry(name).or_insert_with(|| Family {
            help,
            series: BTreeMap::new(),
        });
        family
            .series
            .entry(labels.to_owned())
            .or_insert_with(make)
            .clone()
    }

    /// Everything in Prometheus' text exposition format.
    #[must_use]
    pub fn render(&self) -> String {
        let families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = String::new();
        for (name, family) in &*families {
            let kind = match family.series.values().next() {
                Some(Metric::Gauge(_)) => "gauge",
                _ => "counter",
            };
            let _ = write!(out, "# HELP {name} {}\n# TYPE {name} {kind}\n", family.help);
            for (labels, metric) in &family.series {
                let value = match metric {
                    Metric::Counter(c) => c.get().to_string(),
                    Metric::Gauge(g) => g.get().to_string(),
                };
                let braces = if labels.is_empty() {
                    String::new()
                } else {
                    format!("{{{labels}}}")
                };
                let _ = writeln!(out, "{name}{braces} {value}");
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_name_and_labels_are_the_same_series() {
        let m = Metrics::default();
        m.counter("skiff_test_total", "A test.", "verb=\"get\"")
            .inc();
        m.counter("skiff_test_total", "A test.", "verb=\"get\"")
            .add(2);
        assert!(
            m.render().contains("skiff_test_total{verb=\"get\"} 3\n"),
            "{}",
            m.render()
        );
    }
}
