use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::managers::{self, Refusal};
use super::{Scope, Set, Writer, compare, conflict, created, merge, owned};
use crate::facts::{self, TypeId};

fn pods() -> TypeId {
    facts::kind("", "v1", "pods").unwrap().ty
}

fn deployments() -> TypeId {
    facts::kind("apps", "v1", "deployments").unwrap().ty
}

fn services() -> TypeId {
    facts::kind("", "v1", "services").unwrap().ty
}

const SPEC: Scope = Scope {
    status: false,
    ..Scope::ALL
};

fn by(manager: &str) -> Writer<'_> {
    Writer {
        manager,
        api_version: "apps/v1",
        subresource: "",
        now: "2026-01-01T00:00:00Z",
    }
}

fn set(fields: Value) -> Set {
    Set::read(fields).unwrap()
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {
            "replicas": 3, "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "nodeSelector": {"disk": "ssd"},
                    "containers": [{
                        "name": "a", "image": "x", "resources": {},
                        "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 443, "protocol": "TCP"}],
                        "env": [{"name": "A", "value": "1"}],
                        "command": ["run"],
                    }],
                },
            },
        },
    })
}

#[test]
fn an_update_owns_as_upstream_records_it() {
    let fields = compare::compare(deployments(), &json!({}), &deployment(), SPEC).changed;
    assert_eq!(
        fields.into_value(),
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {
                "f:replicas": {}, "f:selector": {},
                "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}}, "f:type": {}},
                "f:template": {
                    "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                    "f:spec": {
                        "f:nodeSelector": {},
                        "f:containers": {"k:{\"name\":\"a\"}": {
                            ".": {}, "f:command": {}, "f:image": {}, "f:name": {}, "f:resources": {},
                            "f:env": {".": {}, "k:{\"name\":\"A\"}": {".": {}, "f:name": {}, "f:value": {}}},
                            "f:ports": {
                                ".": {},
                                "k:{\"containerPort\":443,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}},
                                "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}},
                            },
                        }},
                    },
                },
            },
        })
    );
}

#[test]
fn items_are_owned_in_the_order_of_their_names() {
    let mut new = deployment();
    let containers = &mut new["spec"]["template"]["spec"]["containers"];
    *containers = json!([{"name": "b"}, {"name": "a"}, {"name": "c"}]);
    let text = created::fields(deployments(), &new, SPEC).unwrap();
    let compared = compare::compare(deployments(), &json!({}), &new, SPEC).changed;
    assert_eq!(text, compared.into_value().to_string());
}

#[test]
fn an_apply_owns_its_leaves_and_items() {
    let config = json!({
        "metadata": {"name": "s", "labels": {"a": "b"}, "finalizers": ["x/y"], "annotations": {}},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}, {"port": 80, "protocol": "UDP"}], "clusterIPs": ["10.0.0.1"]},
    });
    let fields = owned::owned(services(), &config, SPEC).unwrap();
    assert_eq!(
        fields.into_value(),
        json!({
            "f:metadata": {"f:labels": {"f:a": {}}, "f:finalizers": {"v:\"x/y\"": {}}, "f:annotations": {}},
            "f:spec": {
                "f:selector": {}, "f:clusterIPs": {},
                "f:ports": {
                    "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}},
                    "k:{\"port\":80,\"protocol\":\"UDP\"}": {".": {}, "f:port": {}, "f:protocol": {}},
                },
            },
        })
    );
}

#[test]
fn what_does_not_fit_is_refused_in_upstreams_words() {
    let refusal = |config: Value| owned::owned(pods(), &config, SPEC).unwrap_err();
    assert_eq!(
        refusal(json!({"spec": {"foo": 1}})),
        ".spec.foo: field not declared in schema"
    );
    assert_eq!(
        refusal(
            json!({"spec": {"containers": [{"name": "a", "env": [{"name": "A"}, {"name": "A"}]}]}})
        ),
        ".spec.containers[name=\"a\"].env: duplicate entries for key [name=\"A\"]"
    );
    assert_eq!(
        refusal(
            json!({"spec": {"containers": [{"name": "a", "env": [{"name": "A", "value": 1}]}]}})
        ),
        ".spec.containers[name=\"a\"].env[name=\"A\"].value: expected string, got &value.valueUnstructured{Value:1}"
    );
    assert_eq!(
        refusal(json!({"metadata": {"finalizers": ["a", "a"]}})),
        ".metadata.finalizers: duplicate entries for key [=\"a\"]"
    );
    assert_eq!(
        refusal(json!({"spec": {"activeDeadlineSeconds": "1", "containers": {"a": "b"}}})),
        "errors:\n  .spec.activeDeadlineSeconds: expected numeric (int or float), got string\n  .spec.containers: expected list, got &{map[a:b]}"
    );
}

#[test]
fn lists_are_merged_in_the_order_of_the_configuration() {
    let live = json!({"spec": {"containers": [{"name": "own"}, {"name": "a", "image": "1", "args": ["x"]}, {"name": "b"}, {"name": "last"}]}});
    let config = json!({"spec": {"containers": [{"name": "b"}, {"name": "new"}, {"name": "a", "image": "2", "args": ["y"]}]}});
    assert_eq!(
        merge::merge(pods(), &live, &config),
        json!({"spec": {"containers": [{"name": "own"}, {"name": "b"}, {"name": "new"}, {"name": "a", "image": "2", "args": ["y"]}, {"name": "last"}]}})
    );
}

fn apply(
    live: &mut Value,
    managed: &mut Vec<super::Entry<'static>>,
    manager: &str,
    config: Value,
    force: bool,
) -> Result<(), Refusal> {
    let existing = (!live.is_null()).then_some(&*live);
    let entries = managed.clone();
    let applied = managers::apply(
        deployments(),
        SPEC,
        existing,
        &config,
        &config,
        entries,
        &by(manager),
        force,
    )?;
    (*live, *managed) = (applied.object, applied.managed);
    Ok(())
}

#[test]
fn appliers_share_and_take_fields() {
    let (mut live, mut managed) = (Value::Null, Vec::new());
    let containers = |image: &str| json!({"template": {"spec": {"containers": [{"name": "a", "image": image}]}}});
    apply(
        &mut live,
        &mut managed,
        "one",
        json!({"spec": containers("x")}),
        false,
    )
    .unwrap();
    // The same value is shared.
    apply(
        &mut live,
        &mut managed,
        "two",
        json!({"spec": containers("x")}),
        false,
    )
    .unwrap();
    assert_eq!(managed.len(), 2);
    let refused = apply(
        &mut live,
        &mut managed,
        "two",
        json!({"spec": containers("y")}),
        false,
    )
    .unwrap_err();
    let Refusal::Conflicts(conflicts) = refused else {
        panic!()
    };
    let status = conflict::status(&conflicts);
    assert_eq!(
        status.message,
        "Apply failed with 1 conflict: conflict with \"one\": .spec.template.spec.containers[name=\"a\"].image"
    );
    assert_eq!(
        status.to_value()["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".spec.template.spec.containers[name=\"a\"].image"}])
    );
    apply(
        &mut live,
        &mut managed,
        "two",
        json!({"spec": containers("y")}),
        true,
    )
    .unwrap();
    let one = managed.iter_mut().find(|e| e.manager() == "one").unwrap();
    assert_eq!(
        one.fields().paths(),
        [
            ".spec.template.spec.containers[name=\"a\"]",
            ".spec.template.spec.containers[name=\"a\"].name"
        ]
    );
    // What two applies no longer stays where one has it too.
    apply(
        &mut live,
        &mut managed,
        "two",
        json!({"spec": {"replicas": 1}}),
        false,
    )
    .unwrap();
    assert_eq!(
        live,
        json!({"spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "a"}]}}}})
    );
    apply(&mut live, &mut managed, "one", json!({}), false).unwrap();
    assert_eq!(live, json!({"spec": {"replicas": 1}}));
}

#[test]
fn an_update_takes_only_what_it_changes() {
    let mut managed = managers::update(
        deployments(),
        SPEC,
        None,
        &deployment(),
        Vec::new(),
        &by("one"),
        false,
    );
    let mut new = deployment();
    new["spec"]["replicas"] = 4.into();
    new["metadata"]["labels"] = json!({});
    managed = managers::update(
        deployments(),
        SPEC,
        Some(&deployment()),
        &new,
        managed,
        &by("two"),
        false,
    );
    assert_eq!(managed[1].fields().paths(), [".spec.replicas"]);
    assert!(
        !managed[0]
            .fields()
            .paths()
            .iter()
            .any(|p| p == ".spec.replicas" || p.starts_with(".metadata"))
    );
    let refused = managers::apply(
        deployments(),
        SPEC,
        Some(&new),
        &json!({"spec": {"replicas": 5}}),
        &json!({"spec": {"replicas": 5}}),
        managed,
        &by("three"),
        false,
    );
    let Err(Refusal::Conflicts(conflicts)) = refused else {
        panic!()
    };
    assert_eq!(conflicts[0].manager, "\"two\" using apps/v1");
}

#[test]
fn heartbeats_keep_the_time() {
    let lease = |time: &str| json!({"spec": {"holderIdentity": "a", "renewTime": time}});
    let ty = facts::kind("coordination.k8s.io", "v1", "leases")
        .unwrap()
        .ty;
    let first = managers::update(
        ty,
        Scope::ALL,
        None,
        &lease("1"),
        Vec::new(),
        &by("a"),
        false,
    );
    let later = Writer {
        now: "2027-01-01T00:00:00Z",
        ..by("a")
    };
    let again = |quiet| {
        managers::update(
            ty,
            Scope::ALL,
            Some(&lease("1")),
            &lease("2"),
            first.clone(),
            &later,
            quiet,
        )
    };
    let before = managers::write(first.clone());
    assert_eq!(managers::write(again(true)), before);
    assert_ne!(managers::write(again(false)), before);
}

#[test]
fn old_updaters_are_merged() {
    let mut live = json!({"metadata": {"labels": {}}});
    let mut managed = Vec::new();
    for i in 0..14 {
        let mut new = live.clone();
        new["metadata"]["labels"][format!("l{i}")] = "x".into();
        let (manager, now) = (format!("m{i}"), format!("2026-01-01T00:00:{i:02}Z"));
        let writer = Writer {
            now: &now,
            ..by(&manager)
        };
        let old = (i > 0).then_some(&live);
        managed = managers::update(deployments(), SPEC, old, &new, managed, &writer, false);
        live = new;
    }
    assert_eq!(managed.len(), 10);
    let ancient = managed
        .iter_mut()
        .find(|e| e.manager() == "ancient-changes")
        .unwrap();
    assert_eq!(ancient.fields().paths().len(), 6);
}

#[test]
fn entries_are_read_and_written_as_they_are() {
    let text = concat!(
        r#"[{"apiVersion":"apps/v1","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{"f:replicas":{}}},"manager":"a","operation":"Apply","time":"2026-01-01T00:00:00Z"},"#,
        r#"{"apiVersion":"apps/v1","fieldsType":"FieldsV1","fieldsV1":{"f:status":{"f:replicas":{}}},"manager":"b","operation":"Update","subresource":"status","time":"2026-01-01T00:00:00Z"}]"#,
    );
    let read = || managers::read(text).unwrap();
    assert_eq!(managers::write(read()).as_deref(), Some(text));
    let mut looked_into = read();
    managers::check(&mut looked_into).unwrap();
    assert_eq!(managers::write(looked_into).as_deref(), Some(text));
    for bad in [
        r#"[{"operation":"Never","apiVersion":"v1","fieldsType":"FieldsV1"}]"#,
        r#"[{"operation":"Apply","fieldsType":"FieldsV1"}]"#,
        r#"[{"operation":"Apply","apiVersion":"v1"}]"#,
        "{}",
    ] {
        assert!(managers::read(bad).is_err(), "{bad}");
    }
    let with_bad_fields = text.replace("f:replicas", "replicas");
    assert!(managers::check(&mut managers::read(&with_bad_fields).unwrap()).is_err());
    // What an update does not touch is not looked into.
    let mut new = json!({"spec": {"replicas": 1}, "status": {"replicas": 1}});
    let old = new.clone();
    new["spec"]["replicas"] = 2.into();
    let after = managers::update(
        deployments(),
        SPEC,
        Some(&old),
        &new,
        read(),
        &by("c"),
        false,
    );
    let after = managers::write(after).unwrap();
    assert!(
        after.contains(r#""manager":"b""#) && !after.contains(r#""manager":"a""#),
        "{after}"
    );
}

#[test]
fn sets_that_are_none_are_refused() {
    for bad in [
        json!({"x": {}}),
        json!({"f:a": 1}),
        json!({"k:[]": {}}),
        json!({"i:x": {}}),
        json!({".": {}}),
        json!([]),
    ] {
        assert!(Set::read(bad.clone()).is_err(), "{bad}");
    }
    assert_eq!(
        set(json!({"k:{ \"b\": 1, \"a\": 2}": {".": {}}})).into_value(),
        json!({"k:{\"a\":2,\"b\":1}": {}})
    );
    assert!(managers::is_reset(&json!([])) && managers::is_reset(&json!([{}])));
    assert!(!managers::is_reset(&Value::Null) && !managers::is_reset(&json!([{"manager": "a"}])));
}

/// A set as its definition has it: paths.
type Paths = BTreeSet<Vec<u8>>;

fn build(paths: &Paths) -> Set {
    let mut out = Set::default();
    for path in paths {
        let leaf = path.iter().rev().fold(json!({}), |below, step| {
            let mut node = serde_json::Map::new();
            node.insert(format!("f:{step}"), below);
            Value::Object(node)
        });
        out.add(set(leaf));
    }
    out
}

fn paths() -> impl Strategy<Value = Paths> {
    proptest::collection::btree_set(proptest::collection::vec(0u8..3, 1..4), 0..8)
}

fn object() -> impl Strategy<Value = Value> {
    let label = proptest::option::of("[ab]");
    let container =
        ("[abc]", proptest::option::of("[xy]"), 1u16..3).prop_map(|(name, image, ports)| {
            let ports: Vec<Value> = (0..ports)
                .map(|p| json!({"containerPort": 80 + p, "protocol": "TCP"}))
                .collect();
            json!({"name": name, "image": image.unwrap_or_else(|| "z".into()), "ports": ports})
        });
    let containers = proptest::collection::vec(container, 1..4).prop_map(|mut list| {
        let mut seen = BTreeSet::new();
        list.retain(|c| seen.insert(c["name"].to_string()));
        list
    });
    (label, containers, proptest::option::of(0i64..3)).prop_map(|(label, containers, replicas)| {
        let mut out = json!({"spec": {"template": {"spec": {"containers": containers}}}});
        if let Some(label) = label {
            out["metadata"]["labels"] = json!({ label: "v" });
        }
        if let Some(replicas) = replicas {
            out["spec"]["replicas"] = replicas.into();
        }
        out
    })
}

/// Anything that may stand in a body or in `fieldsV1`.
fn garbage() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i8>().prop_map(Value::from),
        "[ab]{0,2}".prop_map(Value::from)
    ];
    let key = prop_oneof![
        "spec|containers|name|metadata|labels|finalizers|ports|env|template|selector|protocol|status|conditions",
        "f:(spec|metadata|labels|containers|a)",
        Just("k:{\"name\":\"a\"}".to_owned()),
        "(k|v|i|x)?:?[{\\[\"a0]{0,3}",
        Just(".".to_owned()),
    ];
    leaf.prop_recursive(6, 60, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key.clone(), inner, 0..5)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn nothing_panics(old in garbage(), new in garbage(), fields in garbage()) {
        for ty in [pods(), deployments(), services()] {
            let managed = json!([{"operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "manager": "a", "fieldsV1": fields}]).to_string();
            let entries = || managers::read(&managed).unwrap();
            let _ = managers::check(&mut entries());
            let after = managers::update(ty, Scope::ALL, Some(&old), &new, entries(), &by("b"), false);
            let _ = managers::write(after);
            let _ = managers::update(ty, Scope::ALL, None, &new, Vec::new(), &by("b"), false);
            let _ = managers::apply(ty, Scope::ALL, Some(&old), &new, &new, entries(), &by("a"), false);
            let _ = managers::apply(ty, Scope::ALL, Some(&old), &new, &new, entries(), &by("kubectl"), true);
            let _ = managers::read(&fields.to_string());
        }
    }

    #[test]
    fn sets_are_sets(a in paths(), b in paths()) {
        let (sa, sb) = (build(&a), build(&b));
        let mut union = sa.clone();
        union.add(sb.clone());
        prop_assert_eq!(&union, &build(&(&a | &b)));
        let mut difference = sa.clone();
        difference.subtract(&sb);
        prop_assert_eq!(&difference, &build(&(&a - &b)));
        prop_assert_eq!(sa.intersection(&sb), build(&(&a & &b)));
        prop_assert_eq!(sa.contains(&sb), b.is_subset(&a));
        let mut text = String::new();
        sa.write(&mut text);
        prop_assert_eq!(&text, &sa.clone().into_value().to_string());
        prop_assert!(sb.may_be_in(&text) || (&a & &b).is_empty());
        prop_assert_eq!(sa.paths().len(), a.len());
        prop_assert_eq!(Set::read(sa.clone().into_value()).unwrap(), sa);
    }

    #[test]
    fn a_creation_is_compared_with_nothing(new in object()) {
        for new in [new, deployment()] {
            let text = created::fields(deployments(), &new, SPEC).unwrap();
            let compared = compare::compare(deployments(), &json!({}), &new, SPEC).changed;
            let mut written = String::new();
            compared.write(&mut written);
            prop_assert_eq!(text, written);
        }
    }

    #[test]
    fn what_is_applied_is_there_and_again_changes_nothing(live in object(), config in object()) {
        let merged = merge::merge(deployments(), &live, &config);
        let mut has = owned::owned(deployments(), &merged, SPEC).unwrap();
        let wanted = owned::owned(deployments(), &config, SPEC).unwrap();
        has.subtract(&compare::compare(deployments(), &config, &merged, SPEC).changed);
        prop_assert!(has.contains(&wanted));
        prop_assert_eq!(&merge::merge(deployments(), &merged, &config), &merged);
        prop_assert!(compare::compare(deployments(), &merged, &merged, SPEC).is_same());
    }

    #[test]
    fn applying_nothing_takes_back_what_was_applied(live in object(), config in object()) {
        let first = managers::update(deployments(), SPEC, None, &live, Vec::new(), &by("owner"), false);
        let one = managers::apply(deployments(), SPEC, Some(&live), &config, &config, first, &by("applier"), true).unwrap();
        let two = managers::apply(deployments(), SPEC, Some(&one.object), &json!({}), &json!({}), one.managed, &by("applier"), false).unwrap();
        let left = compare::compare(deployments(), &live, &two.object, SPEC).changed;
        // Nothing is left but what the owner had and the applier changed.
        prop_assert!(owned::owned(deployments(), &live, SPEC).unwrap().contains(&left) , "{:?}", left.paths());
        prop_assert!(two.managed.iter().all(|e| e.manager() != "applier"));
    }
}
