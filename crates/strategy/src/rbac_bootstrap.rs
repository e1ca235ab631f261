//! The roles and bindings that every cluster starts with, from upstream's published policy
//! (`plugin/pkg/auth/authorizer/rbac/bootstrappolicy`).
//!
//! [`TABLE`] is a text that is expanded at start. A role is a line without indentation, its rules follow:
//! `verbs @ groups : resources [= names]`, or `verbs @url : paths`. `core` is the core group; `R`, `W`, `RW` stand for
//! reading, writing and both; `events` alone is the rule for recording events.

use serde_json::{Map, Value, json};

const TABLE: &str = r"
clusterrole cluster-admin
 * @ * : *
 * @url : *
clusterrole system:discovery
 get @url : /api,/api/*,/apis,/apis/*,/healthz,/livez,/openapi,/openapi/*,/readyz,/version,/version/
clusterrole system:monitoring
 get @url : /healthz,/healthz/*,/livez,/livez/*,/metrics,/metrics/slis,/readyz,/readyz/*
 get @ core : nodes/metrics
 get @url : /flagz
 get @url : /statusz
clusterrole system:basic-user
 create @ authorization.k8s.io : selfsubjectaccessreviews,selfsubjectrulesreviews
 create @ authentication.k8s.io : selfsubjectreviews
clusterrole system:public-info-viewer
 get @url : /healthz,/livez,/readyz,/version,/version/
clusterrole admin from admin
clusterrole edit from edit to admin
clusterrole view from view to edit
clusterrole system:aggregate-to-admin to admin
 create @ authorization.k8s.io : localsubjectaccessreviews
 RW @ rbac.authorization.k8s.io : rolebindings,roles
clusterrole system:aggregate-to-edit to edit
 R @ core : pods/attach,pods/exec,pods/portforward,pods/proxy,secrets,services/proxy
 impersonate @ core : serviceaccounts
 W @ core : pods,pods/attach,pods/exec,pods/portforward,pods/proxy
 create @ core : pods/eviction
 W @ core : configmaps,events,persistentvolumeclaims,replicationcontrollers,replicationcontrollers/scale,secrets,serviceaccounts,services,services/proxy
 create @ core : serviceaccounts/token
 W @ apps : daemonsets,deployments,deployments/rollback,deployments/scale,replicasets,replicasets/scale,statefulsets,statefulsets/scale
 W @ autoscaling : horizontalpodautoscalers
 W @ batch : cronjobs,jobs
 W @ extensions : daemonsets,deployments,deployments/rollback,deployments/scale,ingresses,networkpolicies,replicasets,replicasets/scale,replicationcontrollers/scale
 W @ policy : poddisruptionbudgets
 W @ networking.k8s.io : ingresses,networkpolicies
 RW @ coordination.k8s.io : leases
 W @ resource.k8s.io : resourceclaims,resourceclaimtemplates
clusterrole system:aggregate-to-view to view
 R @ core : configmaps,endpoints,persistentvolumeclaims,persistentvolumeclaims/status,pods,replicationcontrollers,replicationcontrollers/scale,serviceaccounts,services,services/status
 R @ core : bindings,events,limitranges,namespaces/status,pods/log,pods/status,replicationcontrollers/status,resourcequotas,resourcequotas/status
 R @ core : namespaces
 R @ discovery.k8s.io : endpointslices
 R @ apps : controllerrevisions,daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,replicasets,replicasets/scale,replicasets/status,statefulsets,statefulsets/scale,statefulsets/status
 R @ autoscaling : horizontalpodautoscalers,horizontalpodautoscalers/status
 R @ batch : cronjobs,cronjobs/status,jobs,jobs/status
 R @ extensions : daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,ingresses,ingresses/status,networkpolicies,replicasets,replicasets/scale,replicasets/status,replicationcontrollers/scale
 R @ policy : poddisruptionbudgets,poddisruptionbudgets/status
 R @ networking.k8s.io : ingresses,ingresses/status,networkpolicies
 R @ resource.k8s.io : resourceclaims,resourceclaims/status,resourceclaimtemplates
clusterrole system:heapster
 R @ core : events,namespaces,nodes,pods
 R @ extensions : deployments
clusterrole system:node
 create @ authentication.k8s.io : tokenreviews
 create @ authorization.k8s.io : localsubjectaccessreviews,subjectaccessreviews
 R @ core : services
 create,get,list,watch @ core : nodes
 patch,update @ core : nodes/status
 patch,update @ core : nodes
 create,patch,update @ core : events
 R @ core : pods
 create,delete @ core : pods
 patch,update @ core : pods/status
 create @ core : pods/eviction
 R @ core : configmaps,secrets
 get @ core : persistentvolumeclaims,persistentvolumes
 get @ core : endpoints
 create,get,list,watch @ certificates.k8s.io : certificatesigningrequests
 create,delete,get,patch,update @ coordination.k8s.io : leases
 get @ storage.k8s.io : volumeattachments
 create @ core : serviceaccounts/token
 get @ core : serviceaccounts
 get,patch,update @ core : persistentvolumeclaims/status
 R @ storage.k8s.io : csidrivers
 create,delete,get,patch,update @ storage.k8s.io : csinodes
 R @ node.k8s.io : runtimeclasses
 get @ resource.k8s.io : resourceclaims
 deletecollection @ resource.k8s.io : resourceslices
clusterrole system:node-problem-detector
 get @ core : nodes
 patch @ core : nodes/status
 events
clusterrole system:kubelet-api-admin
 R @ core : nodes
 proxy @ core : nodes
 * @ core : nodes/log,nodes/metrics,nodes/proxy,nodes/stats
 * @ core : nodes/configz,nodes/healthz,nodes/pods
clusterrole system:node-bootstrapper
 create,get,list,watch @ certificates.k8s.io : certificatesigningrequests
clusterrole system:auth-delegator
 create @ authentication.k8s.io : tokenreviews
 create @ authorization.k8s.io : subjectaccessreviews
clusterrole system:kube-aggregator
 R @ core : endpoints,services
clusterrole system:kube-controller-manager
 events
 create @ coordination.k8s.io : leases
 get,update @ coordination.k8s.io : leases = kube-controller-manager
 create @ core : secrets,serviceaccounts
 delete @ core : secrets
 get @ core : configmaps,namespaces,secrets,serviceaccounts
 update @ core : secrets,serviceaccounts
 create @ authentication.k8s.io : tokenreviews
 create @ authorization.k8s.io : subjectaccessreviews
 list,watch @ * : *
 create @ core : serviceaccounts/token
clusterrole system:kube-dns
 list,watch @ core : endpoints,services
clusterrole system:persistent-volume-provisioner
 create,delete,get,list,watch @ core : persistentvolumes
 get,list,update,watch @ core : persistentvolumeclaims
 R @ storage.k8s.io : storageclasses
 watch @ core : events
 events
clusterrole system:certificates.k8s.io:certificatesigningrequests:nodeclient
 create @ certificates.k8s.io : certificatesigningrequests/nodeclient
clusterrole system:certificates.k8s.io:certificatesigningrequests:selfnodeclient
 create @ certificates.k8s.io : certificatesigningrequests/selfnodeclient
clusterrole system:volume-scheduler
 get,list,patch,update,watch @ core : persistentvolumes
 R @ storage.k8s.io : storageclasses
 get,list,patch,update,watch @ core : persistentvolumeclaims
clusterrole system:certificates.k8s.io:legacy-unknown-approver
 approve @ certificates.k8s.io : signers = kubernetes.io/legacy-unknown
clusterrole system:certificates.k8s.io:kubelet-serving-approver
 approve @ certificates.k8s.io : signers = kubernetes.io/kubelet-serving
clusterrole system:certificates.k8s.io:kube-apiserver-client-approver
 approve @ certificates.k8s.io : signers = kubernetes.io/kube-apiserver-client
clusterrole system:certificates.k8s.io:kube-apiserver-client-kubelet-approver
 approve @ certificates.k8s.io : signers = kubernetes.io/kube-apiserver-client-kubelet
clusterrole system:service-account-issuer-discovery
 get @url : /.well-known/openid-configuration,/.well-known/openid-configuration/,/openid/v1/jwks,/openid/v1/jwks/
clusterrole system:node-proxier
 list,watch @ core : endpoints,services
 R @ core : nodes
 events
 list,watch @ discovery.k8s.io : endpointslices
 list,watch @ networking.k8s.io : servicecidrs
clusterrole system:kube-scheduler
 events
 create @ coordination.k8s.io : leases
 get,update @ coordination.k8s.io : leases = kube-scheduler
 R @ core : nodes
 delete,get,list,watch @ core : pods
 create @ core : bindings,pods/binding
 patch,update @ core : pods/status
 R @ core : replicationcontrollers,services
 R @ apps,extensions : replicasets
 R @ apps : statefulsets
 R @ policy : poddisruptionbudgets
 R @ core : persistentvolumeclaims,persistentvolumes
 create @ authentication.k8s.io : tokenreviews
 create @ authorization.k8s.io : subjectaccessreviews
 R @ storage.k8s.io : csinodes
 R @ core : namespaces
 R @ storage.k8s.io : csidrivers
 R @ storage.k8s.io : csistoragecapacities
 R @ storage.k8s.io : volumeattachments
 R @ resource.k8s.io : deviceclasses
 get,list,patch,update,watch @ resource.k8s.io : resourceclaims
 get,list,patch,update,watch @ resource.k8s.io : resourceclaims/status
 patch,update @ resource.k8s.io : resourceclaims/binding
 update @ core : pods/finalizers
 R @ resource.k8s.io : resourceslices
 create,delete @ resource.k8s.io : resourceclaims

controller attachdetach-controller
 list,watch @ core : persistentvolumeclaims,persistentvolumes
 R @ core : nodes
 patch,update @ core : nodes/status
 list,watch @ core : pods
 events
 create,delete,get,list,watch @ storage.k8s.io : volumeattachments
 R @ storage.k8s.io : csidrivers
 R @ storage.k8s.io : csinodes
controller clusterrole-aggregation-controller
 escalate,get,list,patch,update,watch @ rbac.authorization.k8s.io : clusterroles
controller cronjob-controller
 get,list,update,watch @ batch : cronjobs
 create,delete,get,list,patch,update,watch @ batch : jobs
 update @ batch : cronjobs/status
 update @ batch : cronjobs/finalizers
 delete,list,watch @ core : pods
 events
controller daemon-set-controller
 R @ apps,extensions : daemonsets
 update @ apps,extensions : daemonsets/status
 update @ apps,extensions : daemonsets/finalizers
 list,watch @ core : nodes
 create,delete,list,patch,watch @ core : pods
 create @ core : pods/binding
 create,delete,get,list,patch,update,watch @ apps : controllerrevisions
 events
controller deployment-controller
 get,list,update,watch @ apps,extensions : deployments
 update @ apps,extensions : deployments/status
 update @ apps,extensions : deployments/finalizers
 create,delete,get,list,patch,update,watch @ apps,extensions : replicasets
 get,list,update,watch @ core : pods
 events
controller disruption-controller
 R @ apps,extensions : deployments
 R @ apps,extensions : replicasets
 R @ core : replicationcontrollers
 R @ policy : poddisruptionbudgets
 R @ apps : statefulsets
 update @ policy : poddisruptionbudgets/status
 patch,update @ core : pods/status
 get @ * : */scale
 events
controller endpoint-controller
 R @ core : pods,services
 create,delete,get,list,update,watch @ core : endpoints
 create @ core : endpoints/restricted
 events
controller endpointslice-controller
 R @ core : nodes,pods,services
 update @ core : services/finalizers
 create,delete,get,list,update,watch @ discovery.k8s.io : endpointslices
 events
controller endpointslicemirroring-controller
 R @ core : endpoints,services
 update @ core : services/finalizers
 update @ core : endpoints/finalizers
 create,delete,get,list,update,watch @ discovery.k8s.io : endpointslices
 events
controller expand-controller
 get,list,patch,update,watch @ core : persistentvolumes
 patch,update @ core : persistentvolumeclaims/status
 R @ core : persistentvolumeclaims
 events
controller ephemeral-volume-controller
 R @ core : pods
 update @ core : pods/finalizers
 create,get,list,watch @ core : persistentvolumeclaims
 events
controller resource-claim-controller
 R @ core : pods
 update @ core : pods/finalizers
 create,delete,get,list,watch @ resource.k8s.io : resourceclaims
 patch,update @ resource.k8s.io : resourceclaims,resourceclaims/status
 patch,update @ resource.k8s.io : resourceclaims/binding
 patch,update @ core : pods/status
 events
controller generic-garbage-collector
 delete,get,list,patch,update,watch @ * : *
 events
controller horizontal-pod-autoscaler
 R @ autoscaling : horizontalpodautoscalers
 update @ autoscaling : horizontalpodautoscalers/status
 get,update @ * : */scale
 list,watch @ core : pods
 list,watch @ metrics.k8s.io : pods
 R @ custom.metrics.k8s.io : *
 R @ external.metrics.k8s.io : *
 events
controller job-controller
 get,list,patch,update,watch @ batch : jobs
 update @ batch : jobs/status
 update @ batch : jobs/finalizers
 create,delete,list,patch,watch @ core : pods
 events
controller namespace-controller
 delete,get,list,watch @ core : namespaces
 update @ core : namespaces/finalize,namespaces/status
 delete,deletecollection,get,list,watch @ * : *
controller node-controller
 delete,get,list,patch,update,watch @ core : nodes
 patch,update @ core : nodes/status
 patch,update @ core : pods/status
 delete,get,list,watch @ core : pods
 events
controller persistent-volume-binder
 create,delete,get,list,update,watch @ core : persistentvolumes
 update @ core : persistentvolumes/status
 get,list,update,watch @ core : persistentvolumeclaims
 update @ core : persistentvolumeclaims/status
 create,delete,get,list,watch @ core : pods
 R @ storage.k8s.io : storageclasses
 list,watch @ core : nodes
 watch @ core : events
 events
controller pod-garbage-collector
 delete,list,watch @ core : pods
 R @ core : nodes
 patch @ core : pods/status
controller replicaset-controller
 get,list,update,watch @ apps,extensions : replicasets
 update @ apps,extensions : replicasets/status
 update @ apps,extensions : replicasets/finalizers
 create,delete,list,patch,watch @ core : pods
 events
controller replication-controller
 get,list,update,watch @ core : replicationcontrollers
 update @ core : replicationcontrollers/status
 update @ core : replicationcontrollers/finalizers
 create,delete,list,patch,watch @ core : pods
 events
controller resourcequota-controller
 list,watch @ * : *
 update @ core : resourcequotas/status
 events
controller route-controller
 list,watch @ core : nodes
 patch @ core : nodes/status
 events
controller service-account-controller
 create @ core : serviceaccounts
 events
controller service-controller
 R @ core : services
 patch,update @ core : services/status
 list,watch @ core : nodes
 events
controller service-cidrs-controller
 get,list,patch,update,watch @ networking.k8s.io : servicecidrs
 patch,update @ networking.k8s.io : servicecidrs/finalizers
 patch,update @ networking.k8s.io : servicecidrs/status
 R @ networking.k8s.io : ipaddresses
 events
controller statefulset-controller
 list,watch @ core : pods
 R @ apps : statefulsets
 update @ apps : statefulsets/status
 update @ apps : statefulsets/finalizers
 create,delete,get,patch,update @ core : pods
 update @ core : pods/finalizers
 create,delete,get,list,patch,update,watch @ apps : controllerrevisions
 create,get,list,watch @ core : persistentvolumeclaims
 delete,update @ core : persistentvolumeclaims
 events
controller ttl-controller
 list,patch,update,watch @ core : nodes
 events
controller certificate-controller
 delete,get,list,watch @ certificates.k8s.io : certificatesigningrequests
 update @ certificates.k8s.io : certificatesigningrequests/approval,certificatesigningrequests/status
 approve @ certificates.k8s.io : signers = kubernetes.io/kube-apiserver-client-kubelet
 sign @ certificates.k8s.io : signers = kubernetes.io/kube-apiserver-client,kubernetes.io/kube-apiserver-client-kubelet,kubernetes.io/kubelet-serving,kubernetes.io/legacy-unknown
 create @ authorization.k8s.io : subjectaccessreviews
 events
controller pvc-protection-controller
 get,list,update,watch @ core : persistentvolumeclaims
 update @ core : persistentvolumeclaims/status
 R @ core : pods
 events
controller pv-protection-controller
 get,list,update,watch @ core : persistentvolumes
 events
controller volumeattributesclass-protection-controller
 R @ core : persistentvolumeclaims
 R @ core : persistentvolumes
 get,list,update,watch @ storage.k8s.io : volumeattributesclasses
 events
controller ttl-after-finished-controller
 delete,get,list,watch @ batch : jobs
 events
controller root-ca-cert-publisher
 create,update @ core : configmaps
 events
controller validatingadmissionpolicy-status-controller
 R @ admissionregistration.k8s.io : validatingadmissionpolicies
 get,patch,update @ admissionregistration.k8s.io : validatingadmissionpolicies/status
 events
controller legacy-service-account-token-cleaner
 get @ core : configmaps = kube-apiserver-legacy-service-account-token-tracking
 delete,patch @ core : secrets
controller device-taint-eviction-controller
 delete,get,list,watch @ core : pods
 patch,update @ core : pods/status
 R @ resource.k8s.io : resourceclaims
 R @ resource.k8s.io : resourceslices
 R @ resource.k8s.io : deviceclasses
 events
controller selinux-warning-controller
 R @ core : persistentvolumes
 R @ core : persistentvolumeclaims
 R @ core : pods
 R @ storage.k8s.io : csidrivers
 events

clusterbinding cluster-admin group:system:masters
clusterbinding system:monitoring group:system:monitoring
clusterbinding system:discovery group:system:authenticated
clusterbinding system:basic-user group:system:authenticated
clusterbinding system:public-info-viewer group:system:authenticated group:system:unauthenticated
clusterbinding system:node-proxier user:system:kube-proxy
clusterbinding system:kube-controller-manager user:system:kube-controller-manager
clusterbinding system:kube-dns sa:kube-system:kube-dns
clusterbinding system:kube-scheduler user:system:kube-scheduler
clusterbinding system:volume-scheduler user:system:kube-scheduler
clusterbinding system:node
clusterbinding system:service-account-issuer-discovery group:system:serviceaccounts

role kube-system/extension-apiserver-authentication-reader
 R @ core : configmaps = extension-apiserver-authentication
role kube-system/system:controller:bootstrap-signer
 R @ core : secrets
role kube-system/system:controller:cloud-provider
 create,get,list,watch @ core : configmaps
role kube-system/system:controller:token-cleaner
 delete,get,list,watch @ core : secrets
 events
role kube-system/system::leader-locking-kube-controller-manager
 watch @ core : configmaps
 get,update @ core : configmaps = kube-controller-manager
role kube-system/system::leader-locking-kube-scheduler
 watch @ core : configmaps
 get,update @ core : configmaps = kube-scheduler
role kube-public/system:controller:bootstrap-signer
 R @ core : configmaps
 update @ core : configmaps = cluster-info
 events
binding kube-system/system::extension-apiserver-authentication-reader extension-apiserver-authentication-reader user:system:kube-controller-manager user:system:kube-scheduler
binding kube-system/system::leader-locking-kube-controller-manager system::leader-locking-kube-controller-manager user:system:kube-controller-manager sa:kube-system:kube-controller-manager
binding kube-system/system::leader-locking-kube-scheduler system::leader-locking-kube-scheduler user:system:kube-scheduler sa:kube-system:kube-scheduler
binding kube-system/system:controller:bootstrap-signer system:controller:bootstrap-signer sa:kube-system:bootstrap-signer
binding kube-system/system:controller:cloud-provider system:controller:cloud-provider sa:kube-system:cloud-provider
binding kube-system/system:controller:token-cleaner system:controller:token-cleaner sa:kube-system:token-cleaner
binding kube-public/system:controller:bootstrap-signer system:controller:bootstrap-signer sa:kube-system:bootstrap-signer
";

const GROUP: &str = "rbac.authorization.k8s.io";

/// The ClusterRoles of users and components.
#[must_use]
pub fn cluster_roles() -> Vec<Value> {
    entries("clusterrole")
        .map(|(line, rules)| {
            let mut words = line.split(' ');
            let mut role = object("ClusterRole", None, words.next().unwrap_or_default());
            role["rules"] = rules.collect();
            while let (Some(word), Some(which)) = (words.next(), words.next()) {
                let label = format!("rbac.authorization.k8s.io/aggregate-to-{which}");
                if word == "to" {
                    role["metadata"]["labels"][label] = "true".into();
                } else {
                    let mut labels = Map::new();
                    labels.insert(label, "true".into());
                    role["aggregationRule"] =
                        json!({ "clusterRoleSelectors": [{ "matchLabels": labels }] });
                }
            }
            role
        })
        .collect()
}

/// The ClusterRoles of controllers, `system:controller:…`.
#[must_use]
pub fn controller_roles() -> Vec<Value> {
    entries("controller")
        .map(|(name, rules)| {
            let mut role = object("ClusterRole", None, &format!("system:controller:{name}"));
            role["rules"] = rules.collect();
            role
        })
        .collect()
}

#[must_use]
pub fn cluster_role_bindings() -> Vec<Value> {
    entries("clusterbinding")
        .map(|(line, _)| {
            let mut words = line.split(' ');
            let name = words.next().unwrap_or_default();
            bind(
                object("ClusterRoleBinding", None, name),
                "ClusterRole",
                name,
                words,
            )
        })
        .collect()
}

/// Each controller's role is bound to its ServiceAccount in `kube-system`.
#[must_use]
pub fn controller_role_bindings() -> Vec<Value> {
    entries("controller")
        .map(|(name, _)| {
            let role = format!("system:controller:{name}");
            let subject = format!("sa:kube-system:{name}");
            bind(
                object("ClusterRoleBinding", None, &role),
                "ClusterRole",
                &role,
                std::iter::once(subject.as_str()),
            )
        })
        .collect()
}

/// Roles in `kube-system` and `kube-public`.
#[must_use]
pub fn roles() -> Vec<Value> {
    entries("role")
        .map(|(path, rules)| {
            let (namespace, name) = path.split_once('/').unwrap_or_default();
            let mut role = object("Role", Some(namespace), name);
            role["rules"] = rules.collect();
            role
        })
        .collect()
}

#[must_use]
pub fn role_bindings() -> Vec<Value> {
    entries("binding")
        .map(|(line, _)| {
            let mut words = line.split(' ');
            let (namespace, name) = words
                .next()
                .and_then(|p| p.split_once('/'))
                .unwrap_or_default();
            let role = words.next().unwrap_or_default();
            bind(
                object("RoleBinding", Some(namespace), name),
                "Role",
                role,
                words,
            )
        })
        .collect()
}

/// The table's entries of one sort: what follows the sort's name, and the rules.
fn entries(
    sort: &'static str,
) -> impl Iterator<Item = (&'static str, impl Iterator<Item = Value>)> {
    TABLE.lines().enumerate().filter_map(move |(at, line)| {
        let rest = line.strip_prefix(sort)?.strip_prefix(' ')?;
        let rules = TABLE
            .lines()
            .skip(at + 1)
            .take_while(|l| l.starts_with(' '))
            .map(|l| rule(l.trim()));
        Some((rest, rules))
    })
}

fn list(text: &str) -> Vec<&str> {
    text.split(',')
        .map(|w| if w == "core" { "" } else { w })
        .collect()
}

fn verbs(text: &'static str) -> Vec<&'static str> {
    match text {
        "R" => vec!["get", "list", "watch"],
        "W" => vec!["create", "delete", "deletecollection", "patch", "update"],
        "RW" => vec![
            "create",
            "delete",
            "deletecollection",
            "get",
            "list",
            "patch",
            "update",
            "watch",
        ],
        other => list(other),
    }
}

fn rule(line: &'static str) -> Value {
    let line = if line == "events" {
        "create,patch,update @ core,events.k8s.io : events"
    } else {
        line
    };
    let (left, right) = line.split_once(" : ").unwrap_or((line, ""));
    if let Some(urls) = left.strip_suffix(" @url") {
        return json!({ "verbs": verbs(urls), "nonResourceURLs": list(right) });
    }
    let (who, groups) = left.split_once(" @ ").unwrap_or((left, ""));
    let (resources, names) = right
        .split_once(" = ")
        .map_or((right, None), |(r, n)| (r, Some(n)));
    let mut out =
        json!({ "verbs": verbs(who), "apiGroups": list(groups), "resources": list(resources) });
    if let Some(names) = names {
        out["resourceNames"] = list(names).into();
    }
    out
}

fn object(kind: &str, namespace: Option<&str>, name: &str) -> Value {
    let mut out = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
        "metadata": {
            "name": name,
            "annotations": { "rbac.authorization.kubernetes.io/autoupdate": "true" },
            "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" },
        },
    });
    if let Some(namespace) = namespace {
        out["metadata"]["namespace"] = namespace.into();
    }
    out
}

fn bind<'a>(
    mut binding: Value,
    kind: &str,
    role: &str,
    subjects: impl Iterator<Item = &'a str>,
) -> Value {
    let subjects: Vec<Value> = subjects
        .filter_map(|s| {
            let (sort, name) = s.split_once(':')?;
            Some(match sort {
                "group" => json!({ "kind": "Group", "apiGroup": GROUP, "name": name }),
                "user" => json!({ "kind": "User", "apiGroup": GROUP, "name": name }),
                _ => {
                    let (namespace, name) = name.split_once(':')?;
                    json!({ "kind": "ServiceAccount", "namespace": namespace, "name": name })
                }
            })
        })
        .collect();
    binding["roleRef"] = json!({ "apiGroup": GROUP, "kind": kind, "name": role });
    if !subjects.is_empty() {
        binding["subjects"] = subjects.into();
    }
    binding
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_expands() {
        let roles = cluster_roles();
        let find = |name: &str| {
            roles
                .iter()
                .find(|r| r["metadata"]["name"] == name)
                .unwrap()
        };
        assert_eq!(
            find("cluster-admin")["rules"][1],
            json!({ "verbs": ["*"], "nonResourceURLs": ["*"] })
        );
        assert_eq!(
            find("edit")["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-admin"],
            "true"
        );
        assert!(find("view")["aggregationRule"].is_object() && find("view")["rules"] == json!([]));
        assert_eq!(controller_roles().len(), controller_role_bindings().len());
        let binding = &cluster_role_bindings()[0];
        assert_eq!(
            binding["subjects"][0],
            json!({ "kind": "Group", "apiGroup": GROUP, "name": "system:masters" })
        );
        assert_eq!((roles_len(), role_bindings().len()), (7, 7));
        for role in roles
            .iter()
            .chain(&controller_roles())
            .chain(&super::roles())
        {
            for rule in role["rules"].as_array().unwrap() {
                let resources = rule["resources"]
                    .as_array()
                    .is_some_and(|r| r.iter().all(|v| v != ""));
                assert!(resources || rule["nonResourceURLs"].is_array(), "{role}");
            }
        }
    }

    fn roles_len() -> usize {
        roles().len()
    }
}
