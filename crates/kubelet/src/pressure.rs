//! Whether the node runs short of memory, disk or processes: the conditions that keep further Pods away.
//!
//! Follows upstream's default thresholds for hard eviction,
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/>. Nothing is evicted here. Two things differ:
//! images are on the node's own file system, and theirs is the higher threshold; and of that file system what it keeps for
//! root counts as available, since images, logs and volumes are written by root.

use std::fs;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};

/// `memory.available`
const MEMORY: u64 = 100 << 20;
/// `nodefs.available`, in percent.
const DISK: u64 = 10;
/// `nodefs.inodesFree`, in percent.
const INODES: u64 = 5;
/// `imagefs.available`, in percent.
const IMAGES: u64 = 15;
/// `pid.available`: upstream has no default; with so few left a container can hardly be started.
const PROCESSES: u64 = 100;
/// A condition stays for so long after it was last true, so that it does not flap.
const STAYS: SignedDuration = SignedDuration::from_secs(300);

/// What is left of something, and of how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    pub of: u64,
    pub left: u64,
}

impl Left {
    fn below(self, percent: u64) -> bool {
        self.of > 0 && u128::from(self.left) * 100 < u128::from(self.of) * u128::from(percent)
    }
}

/// What there is; `None` where the kernel did not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measured {
    /// Bytes.
    pub memory: Option<u64>,
    pub disk: Option<Left>,
    pub inodes: Option<Left>,
    pub processes: Option<u64>,
}

impl Measured {
    /// Asks the kernel; `root` lies on the node's file system.
    #[must_use]
    pub fn now(root: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let number = |path: &str| read(path).trim().parse::<u64>().ok();
        let disk = rustix::fs::statvfs(root).ok();
        let limits = ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"];
        let limit = limits.into_iter().filter_map(number).min();
        Self {
            memory: available(&read("/proc/meminfo")),
            disk: disk.as_ref().map(|s| Left {
                of: s.f_blocks,
                left: s.f_bfree,
            }),
            inodes: disk.as_ref().map(|s| Left {
                of: s.f_files,
                left: s.f_ffree,
            }),
            processes: limit
                .zip(threads(&read("/proc/loadavg")))
                .map(|(limit, used)| limit.saturating_sub(used)),
        }
    }
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// All threads there are: what stands behind the slash.
fn threads(loadavg: &str) -> Option<u64> {
    let word = loadavg.split(' ').nth(3)?;
    word.split_once('/')?.1.parse().ok()
}

/// A condition of the Node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    pub kind: &'static str,
    pub truth: bool,
    pub reason: &'static str,
    pub message: &'static str,
}

/// When each of memory, disk and processes was last short, and whether it counts as short still.
#[derive(Debug, Default)]
pub struct Pressure([(Option<Timestamp>, bool); 3]);

impl Pressure {
    /// Takes a measurement; whether a condition changed.
    pub fn look(&mut self, measured: &Measured, now: Timestamp) -> bool {
        let short = [
            measured.memory.is_some_and(|m| m < MEMORY),
            measured.disk.is_some_and(|d| d.below(DISK.max(IMAGES)))
                || measured.inodes.is_some_and(|i| i.below(INODES)),
            measured.processes.is_some_and(|p| p < PROCESSES),
        ];
        let mut changed = false;
        for ((last, truth), short) in self.0.iter_mut().zip(short) {
            if short {
                *last = Some(now);
            }
            let still = last.is_some_and(|at| now.duration_since(at) < STAYS);
            changed |= still != *truth;
            *truth = still;
        }
        changed
    }

    /// The Node's conditions.
    #[must_use]
    pub fn conditions(&self) -> [Condition; 3] {
        const WORDS: [(&str, [(&str, &str); 2]); 3] = [
            (
                "MemoryPressure",
                [
                    (
                        "KubeletHasSufficientMemory",
                        "kubelet has sufficient memory available",
                    ),
                    (
                        "KubeletHasInsufficientMemory",
                        "kubelet has insufficient memory available",
                    ),
                ],
            ),
            (
                "DiskPressure",
                [
                    ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                    ("KubeletHasDiskPressure", "kubelet has disk pressure"),
                ],
            ),
            (
                "PIDPressure",
                [
                    (
                        "KubeletHasSufficientPID",
                        "kubelet has sufficient PID available",
                    ),
                    (
                        "KubeletHasInsufficientPID",
                        "kubelet has insufficient PID available",
                    ),
                ],
            ),
        ];
        std::array::from_fn(|i| {
            let ((_, truth), (kind, words)) = (self.0[i], WORDS[i]);
            let (reason, message) = words[usize::from(truth)];
            Condition {
                kind,
                truth,
                reason,
                message,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_come_at_once_and_stay_for_five_minutes() {
        let at = |s: i64| Timestamp::from_second(1_767_225_600 + s).unwrap();
        let percent = |left| Some(Left { of: 100, left });
        let plenty = Measured {
            memory: Some(MEMORY),
            disk: percent(15),
            inodes: percent(5),
            processes: Some(PROCESSES),
        };
        let mut pressure = Pressure::default();
        assert!(!pressure.look(&plenty, at(0)) && !pressure.look(&Measured::default(), at(1)));
        let shown = |p: &Pressure| {
            let true_ones = p.conditions().into_iter().filter(|c| c.truth);
            true_ones.map(|c| c.reason).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shown(&pressure), "");
        let short = |measured: Measured| {
            let mut pressure = Pressure::default();
            assert!(pressure.look(&measured, at(0)));
            shown(&pressure)
        };
        let memory = Measured {
            memory: Some(MEMORY - 1),
            ..plenty
        };
        assert_eq!(short(memory), "KubeletHasInsufficientMemory");
        let processes = Measured {
            processes: Some(99),
            ..plenty
        };
        assert_eq!(short(processes), "KubeletHasInsufficientPID");
        for disk in [
            Measured {
                disk: percent(14),
                ..plenty
            },
            Measured {
                inodes: percent(4),
                ..plenty
            },
        ] {
            assert_eq!(short(disk), "KubeletHasDiskPressure");
        }
        assert!(pressure.look(&memory, at(10)) && !pressure.look(&memory, at(20)));
        assert!(!pressure.look(&plenty, at(319)));
        assert_eq!(shown(&pressure), "KubeletHasInsufficientMemory");
        assert!(pressure.look(&plenty, at(320)));
        assert_eq!(shown(&pressure), "");
    }

    #[test]
    fn the_kernel_is_understood() {
        assert_eq!(
            available("MemTotal: 9 kB\nMemAvailable:    7 kB\n"),
            Some(7 << 10)
        );
        assert_eq!(threads("0.1 0.2 0.3 2/345 999\n"), Some(345));
        let now = Measured::now(Path::new("/"));
        assert!(
            now.memory.is_some() && now.disk.is_some() && now.processes.is_some(),
            "{now:?}"
        );
        // A file system without a fixed number of inodes.
        assert!(!Left { of: 0, left: 0 }.below(5));
    }
}
