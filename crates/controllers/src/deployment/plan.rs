//! Decides the next step of a rollout. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use client::ObjectMeta;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{status, template};
use crate::views::{DeploymentStatus, DeploymentView, ReplicaSetView, Set, selects};

pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations that a ReplicaSet does not take over from its Deployment.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];
/// The longest history of revisions, in bytes.
const MAX_HISTORY: usize = 2000;

/// One thing to do.
pub(crate) enum Action {
    Adopt(Box<ObjectMeta>),
    Release(Box<ObjectMeta>),
    /// Make this ReplicaSet.
    Create(Value),
    /// Change a ReplicaSet: its size (from, to), annotations, `minReadySeconds`.
    Change {
        set: Box<ObjectMeta>,
        replicas: Option<(i64, i64)>,
        annotations: BTreeMap<String, String>,
        min_ready_seconds: Option<i64>,
    },
    Delete(Box<ObjectMeta>),
    /// Write the Deployment's revision annotation.
    SetRevision(String),
}

/// What one reconcile decided, and why.
pub(crate) struct Plan {
    pub actions: Vec<Action>,
    pub status: DeploymentStatus,
    /// Shown with the plan.
    pub because: &'static str,
    /// When the progress deadline is to be checked.
    pub recheck: Option<Duration>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for action in &self.actions {
            match action {
                Action::Adopt(s) => writeln!(f, "adopt {}", s.name)?,
                Action::Release(s) => writeln!(f, "release {}", s.name)?,
                Action::Create(s) => writeln!(
                    f,
                    "create {} replicas={}",
                    s["metadata"]["name"].as_str().unwrap_or_default(),
                    s["spec"]["replicas"]
                )?,
                Action::Change {
                    set,
                    replicas: Some((from, to)),
                    ..
                } if from != to => {
                    writeln!(f, "scale {} from {from} to {to}", set.name)?;
                }
                Action::Change { set, .. } => writeln!(f, "annotate {}", set.name)?,
                Action::Delete(s) => writeln!(f, "delete {}", s.name)?,
                Action::SetRevision(r) => writeln!(f, "revision {r}")?,
            }
        }
        writeln!(f, "because: {}", self.because)
    }
}

/// How far a rolling update may go beyond and below the wanted number.
pub(crate) struct Limits {
    pub max_surge: i64,
    pub max_unavailable: i64,
}

fn resolve(value: &Value, of: i64, up: bool) -> i64 {
    let percent = |text: &str| text.strip_suffix('%')?.parse::<i64>().ok();
    match value {
        Value::String(text) => {
            let n = percent(text).unwrap_or(0).saturating_mul(of);
            if up {
                n.saturating_add(99).div_euclid(100)
            } else {
                n.div_euclid(100)
            }
        }
        other => other.as_i64().unwrap_or(0),
    }
}

impl Limits {
    pub fn of(deployment: &DeploymentView) -> Self {
        let wanted = deployment.spec.replicas.unwrap_or(1);
        let Some(rolling) = deployment
            .spec
            .strategy
            .rolling_update
            .as_ref()
            .filter(|_| is_rolling(deployment))
        else {
            return Self {
                max_surge: 0,
                max_unavailable: 0,
            };
        };
        let max_surge = resolve(&rolling.max_surge, wanted, true);
        let mut max_unavailable = resolve(&rolling.max_unavailable, wanted, false);
        if max_surge == 0 && max_unavailable == 0 {
            // Percentages that round to nothing would never let the rollout move.
            max_unavailable = 1;
        }
        Self {
            max_surge,
            max_unavailable: max_unavailable.min(wanted),
        }
    }
}

fn is_rolling(deployment: &DeploymentView) -> bool {
    deployment.spec.strategy.kind != "Recreate"
}

fn number(set: &Set, annotation: &str) -> Option<i64> {
    set.metadata.annotations.get(annotation)?.parse().ok()
}

/// What the functions of one plan look at and add to.
struct Step<'a> {
    deployment: &'a DeploymentView,
    wanted: i64,
    limits: Limits,
    new: Option<&'a Set>,
    old: Vec<&'a Set>,
    actions: Vec<Action>,
}

/// Decides the next step. `sets` are those that the Deployment controls and those of its namespace that nobody controls;
/// `pods_of` counts a ReplicaSet's Pods that have not ended, by its UID.
pub(crate) fn plan(
    deployment: &DeploymentView,
    sets: &[Arc<ReplicaSetView>],
    pods_of: &dyn Fn(&str) -> usize,
    now: Timestamp,
) -> Plan {
    let selector = api::LabelSelector::from_json(&deployment.spec.selector).unwrap_or_default();
    let mut actions = Vec::new();
    let mut ours: Vec<&Set> = Vec::new();
    let deleting = deployment.metadata.deletion_timestamp.is_some();
    for set in sets.iter().map(|s| &s.0) {
        let fits = selects(&selector, &set.metadata.labels);
        match set.metadata.controller() {
            Some(_) if fits => ours.push(set),
            Some(_) if !deleting => actions.push(Action::Release(Box::new(set.metadata.clone()))),
            None if fits && !deleting && set.metadata.deletion_timestamp.is_none() => {
                actions.push(Action::Adopt(Box::new(set.metadata.clone())));
            }
            _ => {}
        }
    }
    // Oldest first; of several with our template the oldest is the new one, so that all agree.
    ours.sort_by_key(|s| (s.metadata.creation_timestamp, s.metadata.name.clone()));
    let at = ours
        .iter()
        .position(|s| template::equal(&s.spec.template, &deployment.spec.template));
    let new = at.map(|at| ours[at]);
    let old: Vec<&Set> = ours
        .iter()
        .copied()
        .filter(|s| new.is_none_or(|n| n.metadata.uid != s.metadata.uid))
        .collect();
    let mut status = status::counted(deployment, &ours, new, now);
    if deleting || !actions.is_empty() {
        let because = if deleting {
            "being deleted"
        } else {
            "ownership first"
        };
        return Plan {
            actions,
            status,
            because,
            recheck: None,
        };
    }
    status::note_pause(deployment, &mut status, now);
    let mut step = Step {
        deployment,
        wanted: deployment.spec.replicas.unwrap_or(1),
        limits: Limits::of(deployment),
        new,
        old,
        actions,
    };
    let because = step.decide(pods_of, &status);
    let recheck = if deployment.spec.paused {
        None
    } else {
        status::judge(deployment, &mut status, &ours, new, now)
    };
    Plan {
        actions: step.actions,
        status,
        because,
        recheck,
    }
}

impl<'a> Step<'a> {
    fn all(&self) -> impl Iterator<Item = &'a Set> + '_ {
        self.old.iter().copied().chain(self.new)
    }

    fn decide(
        &mut self,
        pods_of: &dyn Fn(&str) -> usize,
        status: &DeploymentStatus,
    ) -> &'static str {
        let creates = !self.deployment.spec.paused;
        if let Some(new) = self.new
            && self.sync_new(new)
        {
            return "the new ReplicaSet's annotations follow the Deployment's";
        }
        if self.deployment.spec.paused {
            self.scale();
            self.clean_up();
            return "paused";
        }
        let rescaled = self
            .all()
            .filter(|s| s.wanted() > 0)
            .any(|s| number(s, DESIRED).is_some_and(|d| d != self.wanted));
        if rescaled {
            self.scale();
            if !self.actions.is_empty() {
                return "another size is wanted";
            }
        }
        let because = if is_rolling(self.deployment) {
            self.roll(creates)
        } else {
            self.recreate(pods_of)
        };
        if self.actions.is_empty() && status::is_complete(self.deployment, status) {
            self.clean_up();
            return "complete";
        }
        because
    }

    /// Keeps the new ReplicaSet's annotations, and the Deployment's revision, current. True when something was written.
    fn sync_new(&mut self, new: &Set) -> bool {
        let mut annotations = self.copied();
        let highest = self
            .old
            .iter()
            .filter_map(|s| number(s, REVISION))
            .max()
            .unwrap_or(0);
        let wanted = highest + 1;
        let current = number(new, REVISION);
        let mut revision = current.unwrap_or(0);
        if revision < wanted {
            if let Some(last) = current {
                let history = new
                    .metadata
                    .annotations
                    .get(HISTORY)
                    .map_or("", String::as_str);
                annotations.insert(HISTORY.into(), longer_history(history, last));
            }
            revision = wanted;
            annotations.insert(REVISION.into(), wanted.to_string());
        }
        annotations.retain(|k, v| new.metadata.annotations.get(k) != Some(v));
        let min_ready = self.deployment.spec.min_ready_seconds;
        let min_ready_seconds = (new.spec.min_ready_seconds != min_ready).then_some(min_ready);
        let mut wrote = false;
        if !annotations.is_empty() || min_ready_seconds.is_some() {
            let set = Box::new(new.metadata.clone());
            self.actions.push(Action::Change {
                set,
                replicas: None,
                annotations,
                min_ready_seconds,
            });
            wrote = true;
        }
        let revision = revision.to_string();
        if self.deployment.metadata.annotations.get(REVISION) != Some(&revision) {
            self.actions.push(Action::SetRevision(revision));
        }
        wrote
    }

    fn copied(&self) -> BTreeMap<String, String> {
        let all = &self.deployment.metadata.annotations;
        all.iter()
            .filter(|(k, _)| !NOT_COPIED.contains(&k.as_str()))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    }

    fn size_annotations(&self) -> BTreeMap<String, String> {
        let most = self.wanted + self.limits.max_surge;
        BTreeMap::from([
            (DESIRED.into(), self.wanted.to_string()),
            (MAX.into(), most.to_string()),
        ])
    }

    /// Sets a ReplicaSet's size, and what it is a part of.
    fn resize(&mut self, set: &Set, to: i64) {
        let mut annotations = self.size_annotations();
        annotations.retain(|k, v| set.metadata.annotations.get(k) != Some(v));
        let from = set.wanted();
        if from == to && annotations.is_empty() {
            return;
        }
        self.actions.push(Action::Change {
            set: Box::new(set.metadata.clone()),
            replicas: Some((from, to)),
            annotations,
            min_ready_seconds: None,
        });
    }

    fn total(&self) -> i64 {
        self.all().map(Set::wanted).sum()
    }

    /// How large the new ReplicaSet may be now.
    fn room_for_new(&self) -> i64 {
        let has = self.new.map_or(0, Set::wanted);
        if !is_rolling(self.deployment) {
            return self.wanted;
        }
        let room = self.wanted + self.limits.max_surge - self.total();
        if room <= 0 {
            has
        } else {
            has + room.min(self.wanted - has)
        }
    }

    fn create(&mut self) {
        let deployment = self.deployment;
        let hash = template::hash(&deployment.spec.template, deployment.status.collision_count);
        let mut pods = deployment.spec.template.clone();
        pods["metadata"]["labels"][template::HASH_LABEL] = hash.clone().into();
        let mut selector = deployment.spec.selector.clone();
        selector["matchLabels"][template::HASH_LABEL] = hash.clone().into();
        let mut annotations = self.copied();
        let revision = self
            .old
            .iter()
            .filter_map(|s| number(s, REVISION))
            .max()
            .unwrap_or(0)
            + 1;
        annotations.insert(REVISION.into(), revision.to_string());
        annotations.extend(self.size_annotations());
        self.actions.push(Action::Create(json!({
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": format!("{}-{hash}", deployment.metadata.name),
                "namespace": deployment.metadata.namespace,
                "labels": pods["metadata"]["labels"],
                "annotations": annotations,
            },
            "spec": {
                "replicas": self.room_for_new(),
                "minReadySeconds": deployment.spec.min_ready_seconds,
                "selector": selector,
                "template": pods,
            },
        })));
    }

    fn roll(&mut self, creates: bool) -> &'static str {
        let Some(new) = self.new else {
            if creates {
                self.create();
            }
            return "the template is new";
        };
        let size = if new.wanted() > self.wanted {
            self.wanted
        } else {
            self.room_for_new()
        };
        if size != new.wanted() {
            self.resize(new, size);
            return "there is room for new Pods";
        }
        self.shrink_old(new);
        "old Pods go as new ones become available"
    }

    /// Scales old ReplicaSets down, Pods that don't serve first, as far as availability allows.
    fn shrink_old(&mut self, new: &Set) {
        let mut old: Vec<(&Set, i64)> = self.old.iter().map(|s| (*s, s.wanted())).collect();
        if old.iter().all(|(_, size)| *size == 0) {
            return;
        }
        let least = self.wanted - self.limits.max_unavailable;
        let new_unavailable = new.wanted() - new.status.available_replicas;
        let most = self.total() - least - new_unavailable;
        if most <= 0 {
            return;
        }
        let mut removed = 0;
        for (set, size) in &mut old {
            let unhealthy = (*size - set.status.available_replicas).max(0);
            let n = unhealthy.min(most - removed).max(0);
            *size -= n;
            removed += n;
        }
        let available: i64 = self.all().map(|s| s.status.available_replicas).sum();
        let mut spare = (available - least).max(0);
        for (_, size) in &mut old {
            let n = spare.min(*size);
            *size -= n;
            spare -= n;
        }
        for (set, size) in old {
            if size != set.wanted() {
                self.resize(set, size);
            }
        }
    }

    fn recreate(&mut self, pods_of: &dyn Fn(&str) -> usize) -> &'static str {
        for set in self.old.clone() {
            if set.wanted() > 0 {
                self.resize(set, 0);
            }
        }
        if !self.actions.is_empty() {
            return "old Pods go first";
        }
        if self.old.iter().any(|s| pods_of(&s.metadata.uid) > 0) {
            return "old Pods are still there";
        }
        match self.new {
            None => self.create(),
            Some(new) if new.wanted() != self.wanted => self.resize(new, self.wanted),
            Some(_) => {}
        }
        "no old Pods are left"
    }

    /// Brings the ReplicaSets to the wanted size without rolling: in proportion where several are active.
    fn scale(&mut self) {
        let active: Vec<&Set> = self.all().filter(|s| s.wanted() > 0).collect();
        let only = match active.as_slice() {
            [] => self.new.or(self.old.last().copied()),
            [one] => Some(*one),
            _ => None,
        };
        if let Some(set) = only {
            if set.wanted() != self.wanted || number(set, DESIRED).is_some_and(|d| d != self.wanted)
            {
                self.resize(set, self.wanted);
            }
            return;
        }
        let saturated = self.new.is_some_and(|n| {
            n.wanted() == self.wanted
                && number(n, DESIRED) == Some(self.wanted)
                && n.status.available_replicas == self.wanted
        });
        if saturated {
            for set in self.old.clone().into_iter().filter(|s| s.wanted() > 0) {
                self.resize(set, 0);
            }
            return;
        }
        if is_rolling(self.deployment) {
            self.scale_in_proportion(active);
        }
    }

    fn scale_in_proportion(&mut self, mut active: Vec<&Set>) {
        let most = if self.wanted > 0 {
            self.wanted + self.limits.max_surge
        } else {
            0
        };
        let to_add = most - active.iter().map(|s| s.wanted()).sum::<i64>();
        // Growing favours the largest and newest; shrinking takes from the largest and oldest.
        active.sort_by_key(|s| s.metadata.creation_timestamp);
        if to_add > 0 {
            active.reverse();
        }
        active.sort_by_key(|s| std::cmp::Reverse(s.wanted()));
        let mut added = 0;
        let mut sizes: Vec<(&Set, i64)> = Vec::new();
        for set in active {
            let share = self.share(set);
            let part = match to_add - added {
                0 => 0,
                left if to_add > 0 => share.min(left),
                left => share.max(left),
            };
            added += part;
            sizes.push((set, set.wanted() + part));
        }
        if let Some((_, size)) = sizes.first_mut() {
            *size = (*size + to_add - added).max(0);
        }
        for (set, size) in sizes {
            self.resize(set, size);
        }
    }

    /// By how much a ReplicaSet grows when the whole does.
    fn share(&self, set: &Set) -> i64 {
        if self.wanted == 0 {
            return -set.wanted();
        }
        let before = number(set, MAX)
            .unwrap_or(self.deployment.status.replicas)
            .max(1);
        let most = self.wanted + self.limits.max_surge;
        // Rounded to the nearest, as upstream.
        (2 * set.wanted() * most + before).div_euclid(2 * before) - set.wanted()
    }

    /// Deletes empty old ReplicaSets beyond the history's limit, oldest revision first.
    fn clean_up(&mut self) {
        let Some(limit) = self.deployment.spec.revision_history_limit else {
            return;
        };
        let mut old: Vec<&Set> = self
            .old
            .iter()
            .copied()
            .filter(|s| s.metadata.deletion_timestamp.is_none())
            .collect();
        let surplus = old
            .len()
            .saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        old.sort_by_key(|s| number(s, REVISION).unwrap_or(0));
        for set in old.into_iter().take(surplus) {
            let settled = set.metadata.generation <= set.status.observed_generation;
            if set.wanted() == 0 && set.status.replicas == 0 && settled {
                self.actions
                    .push(Action::Delete(Box::new(set.metadata.clone())));
            }
        }
    }
}

/// The history with one more revision; the oldest go when it gets too long.
fn longer_history(history: &str, last: i64) -> String {
    let mut entries: Vec<String> = history
        .split(',')
        .filter(|e| !e.is_empty())
        .map(str::to_owned)
        .collect();
    entries.push(last.to_string());
    while entries.join(",").len() > MAX_HISTORY {
        entries.remove(0);
    }
    entries.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    const T0: Timestamp = Timestamp::constant(1_767_225_600, 0);

    fn template(version: i64) -> Value {
        json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"image": format!("web:{version}")}]}})
    }

    fn deployment(
        replicas: i64,
        version: i64,
        revision: &str,
        surge: Value,
        unavailable: Value,
    ) -> DeploymentView {
        serde_json::from_value(json!({
            "metadata": {
                "name": "web", "namespace": "default", "uid": "d", "generation": 1,
                "annotations": {REVISION: revision},
            },
            "spec": {
                "replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template(version),
                "revisionHistoryLimit": 1, "progressDeadlineSeconds": 600,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
            },
        }))
        .unwrap()
    }

    /// A ReplicaSet of a version (which is also its revision) with so many Pods wanted and available.
    fn set(version: i64, replicas: i64, available: i64, of: i64, most: i64) -> Arc<ReplicaSetView> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {
                    "name": format!("web-{version}"), "namespace": "default", "uid": format!("s{version}"),
                    "labels": {"app": "web"}, "creationTimestamp": format!("2026-01-01T00:00:0{version}Z"),
                    "ownerReferences": [{"kind": "Deployment", "name": "web", "uid": "d", "controller": true}],
                    "annotations": {REVISION: version.to_string(), DESIRED: of.to_string(), MAX: most.to_string()},
                },
                "spec": {"replicas": replicas, "template": template(version)},
                "status": {"replicas": replicas, "availableReplicas": available, "readyReplicas": available},
            }))
            .unwrap(),
        )
    }

    fn decide(deployment: &DeploymentView, sets: &[Arc<ReplicaSetView>]) -> String {
        plan(deployment, sets, &|_| 0, T0).to_string()
    }

    #[test]
    fn percentages_round_up_for_surge_and_down_for_unavailable() {
        let limits = Limits::of(&deployment(10, 1, "1", json!("25%"), json!("25%")));
        assert_eq!((limits.max_surge, limits.max_unavailable), (3, 2));
        let limits = Limits::of(&deployment(1, 1, "1", json!("0%"), json!("25%")));
        assert_eq!((limits.max_surge, limits.max_unavailable), (0, 1));
    }

    #[test]
    fn a_rolling_update_step_by_step() {
        let d = deployment(4, 2, "2", json!(1), json!(1));
        let steps: [&[Arc<ReplicaSetView>]; 4] = [
            &[set(1, 4, 4, 4, 5)],
            &[set(1, 4, 4, 4, 5), set(2, 1, 0, 4, 5)],
            &[set(1, 3, 3, 4, 5), set(2, 1, 1, 4, 5)],
            &[set(1, 0, 0, 4, 5), set(2, 4, 4, 4, 5)],
        ];
        let text: Vec<String> = steps.iter().map(|sets| decide(&d, sets)).collect();
        expect![[r#"
            create web-NAME replicas=1
            because: the template is new

            scale web-1 from 4 to 3
            because: old Pods go as new ones become available

            scale web-2 from 1 to 2
            because: there is room for new Pods

            because: complete
        "#]]
        .assert_eq(
            &text
                .join("\n")
                .replace(&template::hash(&template(2), None), "NAME"),
        );
    }

    #[test]
    fn scaling_amid_a_rollout_is_in_proportion() {
        // 10 of 13 at most, 8 old and 5 new; now 20 of 25.
        let d = deployment(20, 2, "2", json!("25%"), json!("25%"));
        expect![[r#"
            scale web-1 from 8 to 15
            scale web-2 from 5 to 10
            because: another size is wanted
        "#]]
        .assert_eq(&decide(&d, &[set(1, 8, 8, 10, 13), set(2, 5, 5, 10, 13)]));
    }

    #[test]
    fn going_back_gives_the_old_set_the_next_revision() {
        let d = deployment(2, 1, "2", json!(1), json!(0));
        expect![[r#"
            annotate web-1
            revision 3
            because: the new ReplicaSet's annotations follow the Deployment's
        "#]]
        .assert_eq(&decide(&d, &[set(1, 0, 0, 2, 3), set(2, 2, 2, 2, 3)]));
    }

    #[test]
    fn history_is_cleaned_up_when_complete() {
        let d = deployment(1, 4, "4", json!(1), json!(0));
        let sets = [
            set(1, 0, 0, 1, 2),
            set(2, 0, 0, 1, 2),
            set(3, 0, 0, 1, 2),
            set(4, 1, 1, 1, 2),
        ];
        expect![[r#"
            delete web-1
            delete web-2
            because: complete
        "#]]
        .assert_eq(&decide(&d, &sets));
    }

    #[test]
    fn paused_deployments_scale_but_do_not_roll() {
        let mut d = deployment(3, 2, "1", json!(1), json!(0));
        d.spec.paused = true;
        expect![[r#"
            scale web-1 from 2 to 3
            because: paused
        "#]]
        .assert_eq(&decide(&d, &[set(1, 2, 2, 2, 3)]));
    }

    #[test]
    fn recreate_waits_for_the_last_old_pod() {
        let mut d = deployment(2, 2, "1", Value::Null, Value::Null);
        d.spec.strategy.kind = "Recreate".into();
        let text = [
            decide(&d, &[set(1, 2, 2, 2, 2)]),
            plan(&d, &[set(1, 0, 0, 2, 2)], &|_| 1, T0).to_string(),
            decide(&d, &[set(1, 0, 0, 2, 2)]).replace(&template::hash(&template(2), None), "NAME"),
        ];
        expect![[r#"
            scale web-1 from 2 to 0
            because: old Pods go first

            because: old Pods are still there

            create web-NAME replicas=2
            because: no old Pods are left
        "#]]
        .assert_eq(&text.join("\n"));
    }
}
