//! Rolls Deployments out over ReplicaSets.
//!
//! Follows <https://kubernetes.io/docs/concepts/workloads/controllers/deployment/>. One reconcile makes one step: it
//! decides ([`plan`]), writes, and is called again when its writes have come back.

mod plan;
mod status;
mod template;

use std::sync::Arc;

use client::resource::kinds;
use client::{DeleteOptions, Error, Informer, ObjectMeta, ObjectReference, PatchKind};
use reconcile::Outcome;
use serde_json::{Value, json};

use crate::awaited::Awaited;
use crate::env::{Env, Key, enqueue_changes, settled};
use crate::owned::Owned;
use crate::views::{DeploymentView, PodView, ReplicaSetView, selects};
use crate::write::{self, Written};
use plan::{Action, Plan, REVISION, plan};

struct Controller {
    env: Env,
    deployments: Informer<DeploymentView>,
    sets: Arc<Owned<ReplicaSetView>>,
    pods: Arc<Owned<PodView>>,
    set_writes: Awaited,
    own_writes: Awaited,
}

pub(crate) fn start(env: Env) {
    let deployments = env.informers.all::<DeploymentView>();
    let sets = env.informers.all::<ReplicaSetView>();
    let pods = env.informers.all::<PodView>();
    let controller = Arc::new(Controller {
        env: env.clone(),
        deployments: deployments.clone(),
        sets: Owned::follow(&sets),
        pods: Owned::follow(&pods),
        set_writes: Awaited::default(),
        own_writes: Awaited::default(),
    });
    let queue = env.queue("deployment");
    enqueue_changes(&deployments, &queue);
    let (q, known) = (queue.clone(), deployments.clone());
    sets.on_change(move |change| {
        for set in [&change.old, &change.new].into_iter().flatten() {
            let meta = set_meta(set);
            match meta.controller() {
                Some(owner) if owner.kind == "Deployment" => {
                    q.add(Arc::from(client::meta::key(&meta.namespace, &owner.name)));
                }
                Some(_) => {}
                None => {
                    for deployment in known.in_namespace(&meta.namespace) {
                        let selector = api::LabelSelector::from_json(&deployment.spec.selector);
                        if selector.is_ok_and(|s| selects(&s, &meta.labels)) {
                            q.add(Arc::from(deployment.metadata.key()));
                        }
                    }
                }
            }
        }
    });
    // Recreate waits for the last old Pod to be gone.
    let (q, known) = (queue.clone(), sets.clone());
    pods.on_change(move |change| {
        let (Some(pod), None) = (&change.old, &change.new) else {
            return;
        };
        let Some(owner) = pod.metadata.controller().filter(|o| o.kind == "ReplicaSet") else {
            return;
        };
        let set = known.get(&client::meta::key(&pod.metadata.namespace, &owner.name));
        if let Some(deployment) = set.as_ref().and_then(|s| set_meta(s).controller()) {
            q.add(Arc::from(client::meta::key(
                &pod.metadata.namespace,
                &deployment.name,
            )));
        }
    });
    let ready = async move {
        deployments.synced().await;
        sets.synced().await;
        pods.synced().await;
    };
    env.run(queue, ready, move |key| {
        let controller = controller.clone();
        async move { settled(controller.reconcile(&key).await) }
    });
}

fn set_meta(set: &ReplicaSetView) -> &ObjectMeta {
    &set.0.metadata
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        if let Some(left) = self.set_writes.wait(key, self.sets.seen()) {
            return Ok(Outcome::After(left));
        }
        let Some(deployment) = self.deployments.get(key) else {
            return Ok(Outcome::Done);
        };
        if let Some(left) = self.own_writes.wait(key, deployment.metadata.revision()) {
            return Ok(Outcome::After(left));
        }
        let mut sets = self.sets.by(&deployment.metadata.uid);
        let gone = self.set_writes.gone(key);
        sets.retain(|s| !gone.contains(&set_meta(s).uid));
        sets.extend(self.sets.orphans(&deployment.metadata.namespace));
        let pods_of = |uid: &str| self.pods.by(uid).iter().filter(|p| !p.is_ended()).count();
        let now = self.env.now();
        let Plan {
            actions,
            mut status,
            recheck,
            ..
        } = plan(&deployment, &sets, &pods_of, now);
        let mut failed = None;
        for action in actions {
            if let Err(error) = self.carry_out(key, &deployment, action, &mut status).await {
                failed = Some(error);
                break;
            }
        }
        if status != deployment.status {
            let wanted = json!(status);
            let resource = &kinds::DEPLOYMENTS;
            let change = |o: &mut Value| o["status"] = wanted;
            let written = write::put(
                &self.env.client,
                resource,
                &deployment.metadata,
                "status",
                change,
            )
            .await?;
            self.own_writes.wrote(key, written);
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(recheck.map_or(Outcome::Done, Outcome::After)),
        }
    }

    async fn carry_out(
        &self,
        key: &Key,
        deployment: &DeploymentView,
        action: Action,
        status: &mut crate::views::DeploymentStatus,
    ) -> Result<(), Error> {
        let client = &self.env.client;
        let meta = &deployment.metadata;
        let about = ObjectReference::to(&kinds::DEPLOYMENTS, meta);
        let sets = &kinds::REPLICA_SETS;
        let revision = match action {
            Action::Adopt(set) => write::adopt(client, sets, &set, &owner(meta)).await?,
            Action::Release(set) => write::release(client, sets, &set, &meta.uid).await?,
            Action::Create(mut set) => {
                let replicas = set["spec"]["replicas"].as_i64().unwrap_or(0);
                set["metadata"]["ownerReferences"] = json!([owner(meta)]);
                let name = set["metadata"]["name"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned();
                match client.create::<Written>(sets, &meta.namespace, &set).await {
                    Ok(written) => {
                        if replicas > 0 {
                            let message =
                                format!("Scaled up replica set {name} from 0 to {replicas}");
                            self.env.events.normal(&about, "ScalingReplicaSet", message);
                        }
                        let message = format!("Created new replica set \"{name}\"");
                        status::progressing(
                            status,
                            "True",
                            "NewReplicaSetCreated",
                            message,
                            self.env.now(),
                        );
                        written.metadata.revision()
                    }
                    Err(e) if e.is_already_exists() => {
                        return self.collided(deployment, &name, &set, status).await;
                    }
                    Err(error) => {
                        let message =
                            format!("Failed to create new replica set \"{name}\": {error}");
                        if deployment.spec.progress_deadline_seconds.is_some() {
                            let now = self.env.now();
                            status::progressing(
                                status,
                                "False",
                                "ReplicaSetCreateError",
                                message.clone(),
                                now,
                            );
                        }
                        self.env
                            .events
                            .warning(&about, "ReplicaSetCreateError", message);
                        return Err(error);
                    }
                }
            }
            Action::Change {
                set,
                replicas,
                annotations,
                min_ready_seconds,
            } => {
                let mut patch = json!({"metadata": {"resourceVersion": set.resource_version, "uid": set.uid}, "spec": {}});
                if !annotations.is_empty() {
                    patch["metadata"]["annotations"] = json!(annotations);
                }
                if let Some((_, to)) = replicas {
                    patch["spec"]["replicas"] = to.into();
                }
                if let Some(seconds) = min_ready_seconds {
                    patch["spec"]["minReadySeconds"] = seconds.into();
                }
                let written: Written = client
                    .patch(
                        sets,
                        &set.namespace,
                        &set.name,
                        "",
                        PatchKind::Merge,
                        &patch,
                    )
                    .await?;
                if let Some((from, to)) = replicas.filter(|(from, to)| from != to) {
                    let way = if to > from { "up" } else { "down" };
                    let message =
                        format!("Scaled {way} replica set {} from {from} to {to}", set.name);
                    self.env.events.normal(&about, "ScalingReplicaSet", message);
                }
                written.metadata.revision()
            }
            Action::Delete(set) => {
                let mut options = DeleteOptions::default().with_uid(&set.uid);
                options
                    .preconditions
                    .get_or_insert_default()
                    .resource_version = Some(set.resource_version.clone());
                match client
                    .delete(sets, &set.namespace, &set.name, &options)
                    .await
                {
                    Ok(()) => self.set_writes.deleted(key, &set.uid),
                    Err(e) if e.is_not_found() => {}
                    Err(e) => return Err(e),
                }
                0
            }
            Action::SetRevision(revision) => {
                let change =
                    |o: &mut Value| o["metadata"]["annotations"][REVISION] = revision.into();
                let written = write::put(client, &kinds::DEPLOYMENTS, meta, "", change).await?;
                self.own_writes.wrote(key, written);
                0
            }
        };
        self.set_writes.wrote(key, revision);
        Ok(())
    }

    /// A ReplicaSet of the new one's name is there. If it is not ours with our template, the hash collided: the next try
    /// hashes with a higher count.
    async fn collided(
        &self,
        deployment: &DeploymentView,
        name: &str,
        wanted: &Value,
        status: &mut crate::views::DeploymentStatus,
    ) -> Result<(), Error> {
        let found: ReplicaSetView = self
            .env
            .client
            .get(&kinds::REPLICA_SETS, &deployment.metadata.namespace, name)
            .await?;
        let ours = set_meta(&found)
            .controller()
            .is_some_and(|o| o.uid == deployment.metadata.uid);
        if !(ours && template::equal(&found.0.spec.template, &wanted["spec"]["template"])) {
            status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        }
        Ok(())
    }
}

fn owner(meta: &ObjectMeta) -> Value {
    rules::owner_reference("apps/v1", "Deployment", &meta.name, &meta.uid)
}
