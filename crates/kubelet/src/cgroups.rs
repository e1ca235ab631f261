//! The control groups above containers': one for each Pod, one for each quality of service class, one for all Pods.
//!
//! Follows <https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/> and upstream's `pkg/kubelet/cm`: Pods share the
//! processors by what they request, whatever their containers are, and together stay within the sums of their limits.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use api::Quantity;
use runtime::{CgroupTree, LinuxResources};

use crate::spec::{Pod, Role};

/// The least share of the processors, and the most: the kernel's.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;
const PERIOD_MICROSECONDS: u64 = 100_000;
const CLASSES: [&str; 3] = ["", "/burstable", "/besteffort"];

/// What thousandths of a processor are in the kernel's shares: 1024 are one.
#[must_use]
pub fn shares(millis: i64) -> u64 {
    (millis.max(0).unsigned_abs() * 1024 / 1000).clamp(*SHARES.start(), *SHARES.end())
}

/// What thousandths of a processor are in microseconds of each period.
#[must_use]
pub fn quota(millis: i64) -> i64 {
    (millis * 100).max(1000)
}

/// The limits of a Pod as a whole. Pure.
#[must_use]
pub fn of_pod(pod: &Pod) -> LinuxResources {
    let sums = pod.sums();
    let limits = rules::limits(&sums);
    // The sum is a limit only if no container is without one.
    let limit = |name: &str| {
        let declared = pod.spec.resources.limits.contains_key(name)
            || pod
                .all()
                .filter(|(role, _)| *role != Role::Ephemeral)
                .all(|(_, c)| c.resources.limits.get(name).is_some_and(|l| is_some(l)));
        limits.get(name).filter(|l| declared && !l.is_zero())
    };
    let cpu = limit("cpu").map(|l| l.milli_value());
    LinuxResources {
        cpu_shares: Some(shares(requested_millis(pod))),
        cpu_period: cpu.map(|_| PERIOD_MICROSECONDS),
        cpu_quota: cpu.map(quota),
        memory_limit_in_bytes: limit("memory").map(|l| l.value()),
        ..LinuxResources::default()
    }
}

fn is_some(limit: &str) -> bool {
    limit.parse::<Quantity>().is_ok_and(|l| !l.is_zero())
}

fn requested_millis(pod: &Pod) -> i64 {
    let requests = rules::requests(&pod.sums());
    requests.get("cpu").map_or(0, |r| r.milli_value())
}

/// The path of a Pod's group below `root`.
#[must_use]
pub fn path(pod: &Pod, root: &str) -> String {
    let uid = &pod.metadata.uid;
    match pod.qos() {
        "Guaranteed" => format!("{root}/pod{uid}"),
        class => format!("{root}/{}/pod{uid}", class.to_lowercase()),
    }
}

/// The groups of a node's Pods.
pub struct PodGroups {
    tree: CgroupTree,
    root: String,
    /// What each burstable Pod requests, in thousandths of a processor, by UID.
    burstable: Mutex<BTreeMap<String, i64>>,
}

impl PodGroups {
    /// Groups below `root` of the machine's `tree`.
    #[must_use]
    pub fn new(tree: CgroupTree, root: &str) -> Self {
        Self {
            tree,
            root: root.to_owned(),
            burstable: Mutex::default(),
        }
    }

    fn burstable(&self) -> MutexGuard<'_, BTreeMap<String, i64>> {
        self.burstable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the groups above all Pods. `cpus` thousandths of a processor are the node's.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn prepare(&self, cpus: i64) -> runtime::Result<()> {
        self.share(&self.root, cpus)?;
        self.share(&format!("{}/besteffort", self.root), 0)?;
        self.share_burstable(&self.burstable())
    }

    /// Makes the group of a Pod and sets its limits.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add(&self, pod: &Pod) -> runtime::Result<()> {
        if pod.qos() == "Burstable" {
            let mut burstable = self.burstable();
            burstable.insert(pod.metadata.uid.clone(), requested_millis(pod));
            self.share_burstable(&burstable)?;
        }
        self.tree.set(&path(pod, &self.root), &of_pod(pod))
    }

    /// A Pod has ended: what it requested is not shared out any more.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn release(&self, pod: &Pod) -> runtime::Result<()> {
        let mut burstable = self.burstable();
        match burstable.remove(&pod.metadata.uid) {
            Some(_) => self.share_burstable(&burstable),
            None => Ok(()),
        }
    }

    /// Removes the group of a Pod that has no processes any more.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove(&self, pod: &Pod) -> runtime::Result<()> {
        self.release(pod)?;
        self.tree.remove(&path(pod, &self.root)).await
    }

    /// Removes the groups of Pods that `known` (by UID) is false for; of those that a kubelet before us left.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_unknown(&self, known: impl Fn(&str) -> bool) -> runtime::Result<()> {
        for class in CLASSES {
            let above = format!("{}{class}", self.root);
            for group in self.tree.below(&above) {
                if group.strip_prefix("pod").is_some_and(|uid| !known(uid)) {
                    self.tree.remove(&format!("{above}/{group}")).await?;
                }
            }
        }
        Ok(())
    }

    fn share_burstable(&self, burstable: &BTreeMap<String, i64>) -> runtime::Result<()> {
        let all = burstable.values().sum();
        self.share(&format!("{}/burstable", self.root), all)
    }

    fn share(&self, path: &str, millis: i64) -> runtime::Result<()> {
        let resources = LinuxResources {
            cpu_shares: Some(shares(millis)),
            ..LinuxResources::default()
        };
        self.tree.set(path, &resources)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": spec})).unwrap()
    }

    fn shown(spec: serde_json::Value) -> (String, Option<u64>, Option<i64>, Option<i64>) {
        let pod = pod(spec);
        let r = of_pod(&pod);
        (
            path(&pod, "/kubepods"),
            r.cpu_shares,
            r.cpu_quota,
            r.memory_limit_in_bytes,
        )
    }

    #[test]
    fn a_pod_gets_the_sums_of_its_containers() {
        let limits = |cpu, memory| json!({"limits": {"cpu": cpu, "memory": memory}, "requests": {"cpu": cpu, "memory": memory}});
        let guaranteed = json!({"containers": [{"resources": limits("500m", "1Mi")}, {"resources": limits("1", "2Mi")}]});
        assert_eq!(
            shown(guaranteed),
            (
                "/kubepods/podu".into(),
                Some(1536),
                Some(150_000),
                Some(3 << 20)
            )
        );
        let best_effort = json!({"containers": [{}]});
        assert_eq!(
            shown(best_effort),
            ("/kubepods/besteffort/podu".into(), Some(2), None, None)
        );
    }

    #[test]
    fn a_container_without_a_limit_leaves_the_pod_without() {
        let one = json!({"resources": {"limits": {"cpu": "1", "memory": "1Mi"}, "requests": {"cpu": "100m"}}});
        let other = json!({"resources": {"limits": {"memory": "1Mi"}}});
        let burstable = json!({"containers": [one, other]});
        assert_eq!(
            shown(burstable),
            (
                "/kubepods/burstable/podu".into(),
                Some(102),
                None,
                Some(2 << 20)
            )
        );
    }

    #[test]
    fn init_containers_and_the_pods_own_resources_count() {
        let init = json!({"resources": {"limits": {"cpu": "2"}, "requests": {"cpu": "2"}}});
        let main = json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}});
        let spec = json!({"initContainers": [init], "containers": [main]});
        assert_eq!(
            shown(spec),
            (
                "/kubepods/burstable/podu".into(),
                Some(2048),
                Some(200_000),
                None
            )
        );
        let whole = json!({"resources": {"limits": {"cpu": "3"}, "requests": {"cpu": "1"}}, "containers": [{}]});
        assert_eq!(
            shown(whole),
            (
                "/kubepods/burstable/podu".into(),
                Some(1024),
                Some(300_000),
                None
            )
        );
    }
}
