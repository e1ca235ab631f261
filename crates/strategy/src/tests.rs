use api::facts;
use serde_json::json;

use super::*;

fn kind(name: &str) -> &'static Kind {
    facts::KINDS
        .iter()
        .find(|k| k.kind == name && k.group != "events.k8s.io")
        .unwrap()
}

fn made(kind: &Kind, mut object: Value) -> Value {
    let found = api::decode::conform(kind.ty, &mut object);
    assert_eq!((found.unknown, found.errors), (vec![], vec![]));
    default(kind, &mut object);
    prepare_create(kind, &mut object);
    object
}

fn wrong(kind: &Kind, object: &Value) -> Vec<String> {
    validate_create(kind, object)
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn pod() -> Value {
    json!({"metadata": {"name": "a", "namespace": "default"}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}})
}

#[test]
fn a_pod_gets_its_defaults() {
    let pod = made(kind("Pod"), pod());
    assert!(
        wrong(kind("Pod"), &pod).is_empty(),
        "{:?}",
        wrong(kind("Pod"), &pod)
    );
    assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], "Always");
    assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 30);
    assert_eq!(
        pod["status"],
        json!({"phase": "Pending", "qosClass": "BestEffort"})
    );
    assert_eq!(pod["metadata"]["generation"], 1);
}

#[test]
fn a_bad_pod_is_told_everything() {
    let pod = made(
        kind("Pod"),
        json!({"metadata": {"name": "A_b", "namespace": "default"}, "spec": {
            "restartPolicy": "Sometimes",
            "containers": [
                {"name": "c", "ports": [{"containerPort": 70000}], "volumeMounts": [{"name": "x", "mountPath": "/x"}],
                 "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}},
                {"name": "c", "image": "i"},
            ],
        }}),
    );
    let found = wrong(kind("Pod"), &pod);
    for want in [
        "spec.containers[0].image: Required value",
        "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        "spec.containers[0].volumeMounts[0].name: Not found: \"x\"",
        "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        "spec.containers[1].name: Duplicate value: \"c\"",
        "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
    ] {
        assert!(found.iter().any(|f| f == want), "{want}\nnot in {found:#?}");
    }
    assert!(
        found[0]
            .starts_with("metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain")
    );
}

#[test]
fn a_pod_may_change_its_image_only() {
    let k = kind("Pod");
    let old = made(k, pod());
    let mut new = old.clone();
    new["spec"]["containers"][0]["image"] = "nginx:2".into();
    prepare_update(k, &mut new, &old, None);
    assert!(validate_update(k, &new, &old, None).is_empty());
    assert_eq!(new["metadata"]["generation"], 2);
    new["spec"]["hostname"] = "x".into();
    let found = validate_update(k, &new, &old, None);
    assert!(
        found[0]
            .to_string()
            .starts_with("spec: Forbidden: pod updates may not change fields other than")
    );
}

#[test]
fn status_and_spec_are_apart() {
    let k = kind("Pod");
    let old = made(k, pod());
    let mut new = old.clone();
    new["spec"]["nodeName"] = "n".into();
    new["status"]["phase"] = "Running".into();
    let (mut main, mut status) = (new.clone(), new);
    prepare_update(k, &mut main, &old, None);
    assert_eq!(main["status"], old["status"]);
    prepare_update(k, &mut status, &old, Some("status"));
    assert_eq!(
        (&status["spec"], &status["status"]["phase"]),
        (&old["spec"], &json!("Running"))
    );
    assert_eq!(status["metadata"]["generation"], 1);
}

fn deployment() -> Value {
    json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "nginx:1"}]}},
    }})
}

#[test]
fn deployments() {
    let k = kind("Deployment");
    let good = made(k, deployment());
    assert!(wrong(k, &good).is_empty(), "{:?}", wrong(k, &good));
    assert_eq!(
        good["spec"]["strategy"]["rollingUpdate"],
        json!({"maxSurge": "25%", "maxUnavailable": "25%"})
    );
    assert_eq!(
        good["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"],
        "IfNotPresent"
    );
    let mut bad = deployment();
    bad["spec"]["selector"]["matchLabels"]["app"] = "x".into();
    bad["spec"]["replicas"] = json!(-1);
    assert_eq!(
        wrong(k, &made(k, bad)),
        [
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
        ]
    );
    let mut new = good.clone();
    new["spec"]["selector"]["matchLabels"]["app"] = "y".into();
    assert!(
        validate_update(k, &new, &good, None)
            .iter()
            .any(|e| e.to_string().ends_with("field is immutable"))
    );
}

#[test]
fn services() {
    let k = kind("Service");
    let good = made(
        k,
        json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"ports": [{"port": 80}]}}),
    );
    assert!(wrong(k, &good).is_empty(), "{:?}", wrong(k, &good));
    assert_eq!(
        good["spec"]["ports"][0],
        json!({"port": 80, "protocol": "TCP", "targetPort": 80})
    );
    let bad = made(
        k,
        json!({"metadata": {"name": "1web", "namespace": "default"}, "spec": {"type": "X"}}),
    );
    assert_eq!(wrong(k, &bad).len(), 3, "{:?}", wrong(k, &bad));
}

#[test]
fn every_kind_has_as_many_cells_as_columns_and_survives_anything() {
    let now = Timestamp::constant(1_767_225_600, 0);
    for kind in facts::KINDS {
        assert_eq!(
            columns(kind).len(),
            row(kind, &json!({}), now).len(),
            "{}",
            kind.kind
        );
        for object in [
            json!(null),
            json!([]),
            json!({}),
            json!({"metadata": [], "spec": 1, "status": "x"}),
            json!({"spec": {"template": 1, "containers": {}, "ports": [1, null], "volumes": [[], "x"]}}),
            json!({"spec": {"template": {"spec": {"containers": [1, {"env": [1], "ports": [null]}]}}, "strategy": []}}),
        ] {
            let mut one = object.clone();
            default(kind, &mut one);
            prepare_create(kind, &mut one);
            let _ = validate_create(kind, &one);
            let _ = validate_update(kind, &one, &object, None);
            prepare_update(kind, &mut one, &object, Some("status"));
            prepare_update(kind, &mut one, &object, None);
            let _ = (
                row(kind, &one, now),
                index_fields(kind, &one),
                scale_of(kind, &one),
            );
        }
    }
}

#[test]
fn pod_rows() {
    let now = api::time::parse("2026-01-01T01:00:00Z").unwrap();
    let mut pod = made(kind("Pod"), pod());
    pod["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
    let cells = |p: &Value| {
        row(kind("Pod"), p, now)[..5]
            .iter()
            .map(text)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(cells(&pod), "a 0/1 Pending 0 60m");
    pod["status"]["containerStatuses"] = json!([{"name": "c", "restartCount": 2, "ready": false, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"finishedAt": "2026-01-01T00:59:30Z"}}}]);
    assert_eq!(cells(&pod), "a 0/1 CrashLoopBackOff 2 (30s ago) 60m");
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:59:30Z".into();
    assert_eq!(cells(&pod), "a 0/1 Terminating 2 (30s ago) 60m");
}

#[test]
fn small_kinds() {
    let secret = made(
        kind("Secret"),
        json!({"metadata": {"name": "s", "namespace": "d"}, "stringData": {"a": "b"}}),
    );
    assert_eq!(
        (&secret["type"], &secret["data"]["a"]),
        (&json!("Opaque"), &json!("Yg=="))
    );
    let namespace = made(kind("Namespace"), json!({"metadata": {"name": "n"}}));
    assert_eq!(namespace["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(
        namespace["metadata"]["labels"]["kubernetes.io/metadata.name"],
        "n"
    );
    let role = made(
        kind("Role"),
        json!({"metadata": {"name": "system:x", "namespace": "d"}, "rules": [{"verbs": []}]}),
    );
    assert_eq!(wrong(kind("Role"), &role).len(), 3);
    let review = made(kind("SelfSubjectAccessReview"), json!({"spec": {}}));
    assert_eq!(wrong(kind("SelfSubjectAccessReview"), &review).len(), 1);
}

#[test]
fn bootstrap_objects_are_valid() {
    for (kind_name, objects) in [
        ("ClusterRole", rbac_bootstrap::cluster_roles()),
        ("ClusterRole", rbac_bootstrap::controller_roles()),
        (
            "ClusterRoleBinding",
            rbac_bootstrap::cluster_role_bindings(),
        ),
        ("Role", rbac_bootstrap::roles()),
        ("RoleBinding", rbac_bootstrap::role_bindings()),
    ] {
        for object in objects {
            let object = made(kind(kind_name), object);
            assert!(
                wrong(kind(kind_name), &object).is_empty(),
                "{object} {:?}",
                wrong(kind(kind_name), &object)
            );
        }
    }
}

#[test]
fn a_namespace_ends_through_finalize_only() {
    let k = kind("Namespace");
    let old = made(k, json!({"metadata": {"name": "n"}}));
    let mut new = old.clone();
    new["spec"] = json!({});
    let mut main = new.clone();
    prepare_update(k, &mut main, &old, None);
    assert_eq!(main["spec"]["finalizers"], json!(["kubernetes"]));
    prepare_update(k, &mut new, &old, Some("finalize"));
    assert_eq!(new["spec"]["finalizers"], json!([]));
}

#[test]
fn allocated_addresses_stay() {
    let k = kind("Service");
    let sent = json!({"metadata": {"name": "web", "namespace": "d"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    let mut old = made(k, sent.clone());
    old["spec"]["clusterIP"] = "10.43.0.5".into();
    old["spec"]["clusterIPs"] = json!(["10.43.0.5"]);
    old["spec"]["ports"][0]["nodePort"] = json!(30080);
    let update = |edit: &dyn Fn(&mut Value)| {
        let mut new = sent.clone();
        edit(&mut new);
        default(k, &mut new);
        prepare_update(k, &mut new, &old, None);
        (
            validate_update(k, &new, &old, None)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
            new,
        )
    };
    let (errors, new) = update(&|_| {});
    assert_eq!((errors, &new["spec"]), (vec![], &old["spec"]));
    let (errors, new) = update(&|s| s["spec"]["type"] = "ClusterIP".into());
    assert_eq!(errors, Vec::<String>::new());
    assert!(new["spec"]["ports"][0].get("nodePort").is_none());
    let (errors, _) = update(&|s| s["spec"]["clusterIP"] = "10.43.0.9".into());
    assert_eq!(
        errors,
        ["spec.clusterIPs[0]: Invalid value: [\"10.43.0.9\"]: may not change once set"]
    );
    let (errors, new) =
        update(&|s| s["spec"] = json!({"type": "ExternalName", "externalName": "a.b"}));
    assert_eq!((errors, new["spec"].get("clusterIP")), (vec![], None));
}

/// The errors of an update, in words.
fn update_errors(kind: &Kind, new: &Value, old: &Value, sub: Option<&str>) -> Vec<String> {
    let mut new = new.clone();
    default(kind, &mut new);
    prepare_update(kind, &mut new, old, sub);
    let errors = validate_update(kind, &new, old, sub);
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_container_that_ended_stays_ended() {
    let k = kind("Pod");
    let ended = |code: i64| json!([{"name": "c", "state": {"terminated": {"exitCode": code}}}]);
    let running = json!([{"name": "c", "state": {"running": {}}}]);
    let refused = "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state";
    let check = |policy: &str, own: &Value, code: i64| {
        let mut old = pod();
        old["spec"]["restartPolicy"] = policy.into();
        for (key, value) in own.as_object().into_iter().flatten() {
            old["spec"]["containers"][0][key] = value.clone();
        }
        let mut old = made(k, old);
        old["status"]["containerStatuses"] = ended(code);
        let mut new = old.clone();
        new["status"]["containerStatuses"] = running.clone();
        update_errors(k, &new, &old, Some("status"))
    };
    let none = Value::Null;
    assert_eq!(check("Never", &none, 1), [refused]);
    assert_eq!(check("OnFailure", &none, 0), [refused]);
    assert!(check("OnFailure", &none, 1).is_empty());
    assert!(check("Always", &none, 0).is_empty());
    // A container's own policy and rules go before the Pod's.
    assert!(check("Never", &json!({"restartPolicy": "Always"}), 0).is_empty());
    assert_eq!(
        check("Always", &json!({"restartPolicy": "Never"}), 0),
        [refused]
    );
    let rules = json!({"restartPolicy": "Never", "restartPolicyRules": [
        {"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}},
    ]});
    assert!(check("Never", &rules, 1).is_empty());
}

#[test]
fn a_status_may_leave_out_the_class() {
    let k = kind("Pod");
    let old = made(k, pod());
    let mut new = old.clone();
    new["status"] = json!({"phase": "Running"});
    assert!(update_errors(k, &new, &old, Some("status")).is_empty());
}

#[test]
fn label_keys_stand_for_the_pods_own_labels() {
    let mut pod = pod();
    pod["metadata"]["labels"] = json!({"app": "web", "version": "1"});
    pod["spec"]["topologySpreadConstraints"] = json!([{
        "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}}, "matchLabelKeys": ["version", "absent"],
    }]);
    pod["spec"]["affinity"] = json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
        "weight": 1, "podAffinityTerm": {"topologyKey": "zone", "labelSelector": {}, "mismatchLabelKeys": ["app"]},
    }]}});
    let made = made(kind("Pod"), pod);
    assert_eq!(
        made["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchExpressions"],
        json!([{"key": "version", "operator": "In", "values": ["1"]}])
    );
    let term = &made["spec"]["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
        [0];
    assert_eq!(
        term["podAffinityTerm"]["labelSelector"]["matchExpressions"],
        json!([{"key": "app", "operator": "NotIn", "values": ["web"]}])
    );
    assert!(wrong(kind("Pod"), &made).is_empty());
}

#[test]
fn a_pods_limits_as_a_whole_are_its_requests() {
    let mut pod = pod();
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m"}});
    pod["spec"]["resources"] = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    let made = made(kind("Pod"), pod);
    assert_eq!(
        made["spec"]["resources"]["requests"],
        json!({"cpu": "100m", "memory": "1Gi"})
    );
    assert!(wrong(kind("Pod"), &made).is_empty());
}

#[test]
fn a_bound_claim_may_grow_and_shrink_again_to_what_it_has() {
    let k = kind("PersistentVolumeClaim");
    let claim = json!({"metadata": {"name": "c", "namespace": "d"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "3Gi"}}, "volumeName": "v",
    }});
    let mut old = made(k, claim);
    old["status"] = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
    let resized = |size: &str| {
        let mut new = old.clone();
        new["spec"]["resources"]["requests"]["storage"] = size.into();
        update_errors(k, &new, &old, None)
    };
    assert!(resized("4Gi").is_empty() && resized("2Gi").is_empty());
    // The same amount in other words is no change.
    assert!(resized("3072Mi").is_empty());
    let refused =
        "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity";
    assert_eq!(resized("1Gi"), [refused]);
    // A class may be given where there was none.
    let mut new = old.clone();
    new["spec"]["storageClassName"] = "fast".into();
    assert!(update_errors(k, &new, &old, None).is_empty());
}

#[test]
fn what_fills_a_claim_is_said_in_both_fields() {
    let k = kind("PersistentVolumeClaim");
    let sources = |spec: Value| {
        let made = made(
            k,
            json!({"metadata": {"name": "c", "namespace": "d"}, "spec": spec}),
        );
        (
            made["spec"]["dataSource"].clone(),
            made["spec"]["dataSourceRef"].clone(),
        )
    };
    let claim = json!({"kind": "PersistentVolumeClaim", "name": "a"});
    let other = json!({"apiGroup": "example.com", "kind": "Seed", "name": "a"});
    assert_eq!(
        sources(json!({"dataSource": claim})),
        (claim.clone(), claim.clone())
    );
    assert_eq!(
        sources(json!({"dataSourceRef": other})),
        (other.clone(), other.clone())
    );
    // The older field takes claims and snapshots only.
    assert_eq!(
        sources(json!({"dataSource": other})),
        (Value::Null, Value::Null)
    );
    let elsewhere = json!({"kind": "PersistentVolumeClaim", "name": "a", "namespace": "e"});
    assert_eq!(
        sources(json!({"dataSourceRef": elsewhere})),
        (Value::Null, elsewhere)
    );
}

#[test]
fn a_service_loses_what_its_new_type_cannot_have() {
    let k = kind("Service");
    let sent = json!({"metadata": {"name": "web", "namespace": "d"}, "spec": {
        "type": "LoadBalancer", "loadBalancerClass": "example.com/own", "externalTrafficPolicy": "Local", "ports": [{"port": 80}],
    }});
    let mut old = made(k, sent);
    old["spec"]["clusterIP"] = "10.43.0.5".into();
    old["spec"]["clusterIPs"] = json!(["10.43.0.5"]);
    old["spec"]["healthCheckNodePort"] = json!(30001);
    old["status"]["loadBalancer"] = json!({"ingress": [{"ip": "1.1.1.1", "ipMode": "VIP"}]});
    let mut new = old.clone();
    new["spec"]["type"] = "ClusterIP".into();
    prepare_update(k, &mut new, &old, None);
    assert!(validate_update(k, &new, &old, None).is_empty());
    for key in [
        "loadBalancerClass",
        "externalTrafficPolicy",
        "healthCheckNodePort",
        "allocateLoadBalancerNodePorts",
    ] {
        assert!(new["spec"].get(key).is_none(), "{key}");
    }
    assert_eq!(new["status"], json!({"loadBalancer": {}}));
}

#[test]
fn the_newer_field_of_addresses_follows_the_older_one() {
    let k = kind("Service");
    let sent = json!({"metadata": {"name": "web", "namespace": "d"}, "spec": {"type": "ExternalName", "externalName": "a.b"}});
    let old = made(k, sent);
    let mut new = old.clone();
    new["spec"] = json!({"type": "ClusterIP", "clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"], "ports": [{"port": 80}]});
    assert!(update_errors(k, &new, &old, None).is_empty());
    let headless = made(
        k,
        json!({"metadata": {"name": "web", "namespace": "d"}, "spec": {"clusterIP": "None"}}),
    );
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    assert!(wrong(k, &headless).is_empty());
}
