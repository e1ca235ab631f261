//! What a process is measured by from outside: the `process_*` metrics that Prometheus' clients have.

use std::fmt::Write as _;

/// Ticks of `/proc`'s times in a second: USER_HZ, which is the same on all of Linux' architectures that Skiff runs on.
const TICKS: f64 = 100.0;

/// What `/proc` says of a process.
#[derive(Debug, Default)]
pub struct Sources {
    /// `/proc/self/stat`.
    pub stat: String,
    /// `/proc/self/limits`.
    pub limits: String,
    /// `/proc/stat`.
    pub machine: String,
    /// Open file descriptors.
    pub descriptors: usize,
    /// Bytes of a page of memory.
    pub page: u64,
}

impl Sources {
    /// This process, now. What cannot be read is empty.
    #[must_use]
    pub fn read() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        // The directory's own descriptor is among them.
        let open =
            std::fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count().saturating_sub(1));
        Self {
            stat: read("/proc/self/stat"),
            limits: read("/proc/self/limits"),
            machine: read("/proc/stat"),
            descriptors: open,
            page: rustix::param::page_size() as u64,
        }
    }

    /// In Prometheus' text form; what is not known is left out.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "metrics are floating-point numbers"
    )]
    pub fn render(&self) -> String {
        // The name, in parentheses, may hold anything; field 3 follows it.
        let fields: Vec<&str> = self
            .stat
            .rsplit_once(") ")
            .map_or(Vec::new(), |(_, rest)| rest.split(' ').collect());
        let field = |number: usize| fields.get(number - 3)?.trim().parse::<f64>().ok();
        let mut out = String::new();
        let mut put = |name: &str, kind: &str, help: &str, value: Option<f64>| {
            if let Some(value) = value {
                let _ = write!(
                    out,
                    "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"
                );
            }
        };
        let cpu = field(14)
            .zip(field(15))
            .map(|(user, system)| (user + system) / TICKS);
        let help = "Total user and system CPU time spent in seconds.";
        put("process_cpu_seconds_total", "counter", help, cpu);
        let limit = line_after(&self.limits, "Max open files")
            .and_then(|l| l.split_whitespace().next()?.parse().ok());
        let help = "Maximum number of open file descriptors.";
        put("process_max_fds", "gauge", help, limit);
        let open = (self.descriptors > 0).then_some(self.descriptors as f64);
        put(
            "process_open_fds",
            "gauge",
            "Number of open file descriptors.",
            open,
        );
        let resident = field(24).map(|pages| pages * self.page as f64);
        let help = "Resident memory size in bytes.";
        put("process_resident_memory_bytes", "gauge", help, resident);
        let booted = line_after(&self.machine, "btime ").and_then(|l| l.trim().parse::<f64>().ok());
        let began = booted
            .zip(field(22))
            .map(|(boot, ticks)| boot + ticks / TICKS);
        let help = "Start time of the process since unix epoch in seconds.";
        put("process_start_time_seconds", "gauge", help, began);
        put(
            "process_virtual_memory_bytes",
            "gauge",
            "Virtual memory size in bytes.",
            field(23),
        );
        out
    }
}

fn line_after<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says_is_measured() {
        let sources = Sources {
            stat: "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 9 0 1200 4096000 300 18446744073709551615\n"
                .into(),
            limits: "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096                 files\n"
                .into(),
            machine: "cpu  1 2 3\nbtime 1700000000\n".into(),
            descriptors: 12,
            page: 4096,
        };
        let told: Vec<String> = sources
            .render()
            .lines()
            .filter(|l| !l.starts_with('#'))
            .map(str::to_owned)
            .collect();
        let want = [
            "process_cpu_seconds_total 3",
            "process_max_fds 1024",
            "process_open_fds 12",
            "process_resident_memory_bytes 1228800",
            "process_start_time_seconds 1700000012",
            "process_virtual_memory_bytes 4096000",
        ];
        assert_eq!(told, want);
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        assert_eq!(Sources::default().render(), "");
    }
}
