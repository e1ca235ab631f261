//! Server-side apply: random configurations by random managers on a random object.

use api::apply::managers::{self, Refusal};
use api::apply::{Scope, Set, Writer, merge, owned};
use api::facts::{Kind, Ty};
use serde_json::Value;

use crate::made::{self, Dice};

const MANAGERS: [&str; 4] = ["a", "b", "kubectl", "c"];

fn read(text: &str) -> Vec<managers::Entry<'_>> {
    match managers::read(text) {
        Ok(entries) => entries,
        Err(why) => panic!("our own managed fields cannot be read: {why}: {text}"),
    }
}

fn written(entries: Vec<managers::Entry<'_>>) -> String {
    let text = managers::write(entries).unwrap_or_else(|| "[]".into());
    let mut again = read(&text);
    if let Err(why) = managers::check(&mut again) {
        panic!("our own managed fields are wrong: {why}: {text}");
    }
    assert_eq!(
        managers::write(again).unwrap_or_else(|| "[]".into()),
        text,
        "managed fields have two forms"
    );
    text
}

fn configuration(dice: &mut Dice<'_>, kind: &Kind) -> Value {
    let mut config = made::value(dice, Ty::Struct(kind.ty), 8);
    config["apiVersion"] = kind.api_version().into();
    config["kind"] = kind.kind.into();
    if let Some(metadata) = config["metadata"].as_object_mut() {
        metadata.remove("managedFields");
        metadata.remove("name");
        metadata.remove("namespace");
    }
    config
}

/// Whatever happened before: an apply that succeeds sets what it says, owns it, and changes nothing when repeated; one that
/// is refused for conflicts succeeds by force.
pub fn configurations(data: &[u8]) {
    let mut dice = Dice::new(data);
    let kind = made::kind(&mut dice);
    let scope = Scope::ALL;
    let api_version = kind.api_version();
    let writer = |manager: &'static str, now: &'static str| Writer {
        manager,
        api_version: &api_version,
        subresource: "",
        now,
    };
    let mut live = made::object(&mut dice, kind);
    let created = managers::update(
        kind.ty,
        scope,
        None,
        &live,
        Vec::new(),
        &writer("a", "2026-01-01T00:00:00Z"),
        false,
    );
    let mut managed = written(created);
    for _ in 0..6 {
        if dice.is_empty() {
            break;
        }
        let manager = dice.one(&MANAGERS);
        let now = writer(
            manager,
            dice.one(&["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]),
        );
        let (what, force) = (dice.below(3), dice.byte() & 1 == 1);
        if what == 0 {
            let new = made::object(&mut dice, kind);
            let entries = managers::update(
                kind.ty,
                scope,
                Some(&live),
                &new,
                read(&managed),
                &now,
                false,
            );
            managed = written(entries);
            live = new;
            continue;
        }
        let config = configuration(&mut dice, kind);
        let mut canonical = config.clone();
        if !api::decode::conform(kind.ty, &mut canonical)
            .errors
            .is_empty()
        {
            continue;
        }
        let apply = |live: &Value, managed: &str, force| {
            let applied = managers::apply(
                kind.ty,
                scope,
                Some(live),
                &config,
                &canonical,
                read(managed),
                &now,
                force,
            );
            applied.map(|applied| (applied.object, written(applied.managed)))
        };
        let (object, text) = match apply(&live, &managed, force) {
            Ok(applied) => applied,
            Err(Refusal::Unfit(why)) => {
                assert!(!why.is_empty());
                continue;
            }
            Err(Refusal::Conflicts(conflicts)) => {
                assert!(!force && !conflicts.is_empty(), "force met conflicts");
                match apply(&live, &managed, true) {
                    Ok(applied) => applied,
                    Err(why) => panic!("force is refused: {why:?}"),
                }
            }
        };
        let mut fits = object.clone();
        let found = api::decode::conform(kind.ty, &mut fits);
        assert!(
            found.errors.is_empty() && found.unknown.is_empty(),
            "{found:?}"
        );
        let shown = if manager == "kubectl" {
            without_annotation(&object)
        } else {
            object.clone()
        };
        let again = merge::merge(kind.ty, &object, &canonical);
        let again = if manager == "kubectl" {
            without_annotation(&again)
        } else {
            again
        };
        assert_eq!(again, shown, "what was applied is not there");
        let mut entries = read(&text);
        let own = entries
            .iter_mut()
            .find(|e| e.is_applied() && e.manager() == manager);
        let fields = match owned::owned(kind.ty, &config, scope) {
            Ok(fields) => fields,
            Err(why) => panic!("what was applied does not fit: {why}"),
        };
        match own {
            Some(own) => assert_eq!(
                *own.fields(),
                fields,
                "the applier owns other fields than it applied"
            ),
            None => assert!(fields.is_empty(), "the applier owns nothing"),
        }
        match apply(&object, &text, false) {
            Ok((same, owners)) => {
                assert_eq!(same, object, "applying twice changes the object");
                assert_eq!(owners, text, "applying twice changes the owners");
            }
            Err(why) => panic!("applying twice is refused: {why:?}"),
        }
        (live, managed) = (object, text);
    }
}

/// Without kubectl's annotation, which its applies keep up.
fn without_annotation(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    object
}

/// Managed fields as a client may send them: what is read is written and read the same; the sets' algebra holds.
pub fn managed_fields(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(mut entries) = managers::read(text)
        && managers::check(&mut entries).is_ok()
    {
        written(entries);
    }
    let (a, b) = crate::halves(data);
    let set = |text: &[u8]| Set::read(serde_json::from_slice(text).ok()?).ok();
    let (Some(a), Some(b)) = (set(a), set(b)) else {
        return;
    };
    match Set::read(a.clone().into_value()) {
        Ok(again) => assert_eq!(again, a),
        Err(why) => panic!("our own set cannot be read: {why}"),
    }
    let mut both = a.clone();
    both.add(b.clone());
    assert!(
        both.contains(&a) && both.contains(&b),
        "a union lacks a part"
    );
    let common = a.intersection(&b);
    assert!(
        a.contains(&common) && b.contains(&common),
        "an intersection has more than a part"
    );
    let mut left = a.clone();
    left.subtract(&b);
    assert!(
        left.intersection(&b).is_empty(),
        "a difference has what was taken away"
    );
    left.add(common);
    assert_eq!(left, a, "difference and intersection are not the whole");
}
