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

/// How often values up to each of some bounds were seen.
#[derive(Debug, Clone)]
pub struct Histogram(Arc<Distribution>);

#[derive(Debug)]
struct Distribution {
    bounds: &'static [f64],
    /// Per bound, and beyond the last.
    seen: Vec<AtomicU64>,
    /// The bits of the values' sum.
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self(Arc::new(Distribution {
            bounds,
            seen: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }))
    }

    /// Counts one value.
    pub fn observe(&self, value: f64) {
        let at = self.0.bounds.partition_point(|bound| *bound < value);
        if let Some(seen) = self.0.seen.get(at) {
            seen.fetch_add(1, Ordering::Relaxed);
        }
        let add = |sum: u64| Some((f64::from_bits(sum) + value).to_bits());
        let _ = self
            .0
            .sum
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    fn render(&self, name: &str, labels: &str, out: &mut String) {
        let comma = if labels.is_empty() { "" } else { "," };
        let bounds = self.0.bounds.iter().map(f64::to_string);
        let mut total = 0;
        for (bound, seen) in bounds.chain(["+Inf".to_owned()]).zip(&self.0.seen) {
            total += seen.load(Ordering::Relaxed);
            let _ = writeln!(
                out,
                "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {total}"
            );
        }
        let (braces, sum) = (
            in_braces(labels),
            f64::from_bits(self.0.sum.load(Ordering::Relaxed)),
        );
        let _ = write!(
            out,
            "{name}_sum{braces} {sum}\n{name}_count{braces} {total}\n"
        );
    }
}

fn in_braces(labels: &str) -> String {
    if labels.is_empty() {
        String::new()
    } else {
        format!("{{{labels}}}")
    }
}

#[derive(Debug, Clone)]
enum Metric {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
}

impl Metric {
    fn kind(&self) -> &'static str {
        match self {
            Self::Counter(_) => "counter",
            Self::Gauge(_) => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

#[derive(Debug)]
struct Family {
    help: &'static str,
    series: BTreeMap<String, Metric>,
}

/// All metrics of one component tree, by name and labels.
#[derive(Default)]
pub struct Metrics {
    families: Mutex<BTreeMap<&'static str, Family>>,
    others: Mutex<Vec<Source>>,
}

/// Tells metrics that are only known when they are asked for, in Prometheus' text form.
type Source = Box<dyn Fn() -> String + Send>;

impl Metrics {
    /// Adds what `source` tells, each time that the metrics are asked for.
    pub fn add_source(&self, source: impl Fn() -> String + Send + 'static) {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.push(Box::new(source));
    }

    /// The counter `name{labels}`; made at first use. `labels` is already in Prometheus' form, e.g. `verb="get"`.
    pub fn counter(&self, name: &'static str, help: &'static str, labels: &str) -> Counter {
        match self.series(name, help, labels, || Metric::Counter(Counter::default())) {
            Metric::Counter(c) => c,
            _ => Counter::default(),
        }
    }

    /// The gauge `name{labels}`; made at first use.
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: &str) -> Gauge {
        match self.series(name, help, labels, || Metric::Gauge(Gauge::default())) {
            Metric::Gauge(g) => g,
            _ => Gauge::default(),
        }
    }

    /// The histogram `name{labels}`; made at first use. `bounds` are the upper bounds of its buckets, ascending.
    pub fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &str,
        bounds: &'static [f64],
    ) -> Histogram {
        let make = || Metric::Histogram(Histogram::new(bounds));
        match self.series(name, help, labels, make) {
            Metric::Histogram(h) => h,
            _ => Histogram::new(bounds),
        }
    }

    fn series(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &str,
        make: impl FnOnce() -> Metric,
    ) -> Metric {
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
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
        let mut out = String::new();
        for other in &*self.others.lock().unwrap_or_else(PoisonError::into_inner) {
            out.push_str(&other());
        }
        let families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, family) in &*families {
            let kind = family
                .series
                .values()
                .next()
                .map_or("untyped", Metric::kind);
            let _ = write!(out, "# HELP {name} {}\n# TYPE {name} {kind}\n", family.help);
            for (labels, metric) in &family.series {
                let value = match metric {
                    Metric::Counter(c) => c.get().to_string(),
                    Metric::Gauge(g) => g.get().to_string(),
                    Metric::Histogram(h) => {
                        h.render(name, labels, &mut out);
                        continue;
                    }
                };
                let _ = writeln!(out, "{name}{} {value}", in_braces(labels));
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

    #[test]
    fn a_histogram_counts_what_is_below_each_bound() {
        let m = Metrics::default();
        let h = m.histogram("skiff_test_seconds", "A test.", "verb=\"get\"", &[0.5, 1.0]);
        for seconds in [0.25, 0.5, 0.75, 2.5] {
            h.observe(seconds);
        }
        let want = "# HELP skiff_test_seconds A test.\n\
            # TYPE skiff_test_seconds histogram\n\
            skiff_test_seconds_bucket{verb=\"get\",le=\"0.5\"} 2\n\
            skiff_test_seconds_bucket{verb=\"get\",le=\"1\"} 3\n\
            skiff_test_seconds_bucket{verb=\"get\",le=\"+Inf\"} 4\n\
            skiff_test_seconds_sum{verb=\"get\"} 4\n\
            skiff_test_seconds_count{verb=\"get\"} 4\n";
        assert_eq!(m.render(), want);
    }
}
