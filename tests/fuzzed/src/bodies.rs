//! Request bodies: JSON, YAML and protobuf, through the codec, defaults and validation of the kind that they name.

use api::facts::{self, Kind};
use apiserver::registry::codec::{self, ContentType};
use apiserver::registry::{Context, FieldValidation};
use apiserver::user::User;
use jiff::Timestamp;
use serde_json::Value;
use world::metrics::Counter;

use crate::made::{self, Dice};

fn context() -> Context {
    Context {
        user: User::anonymous(),
        agent: "fuzz".into(),
        warnings: std::sync::Mutex::default(),
    }
}

fn pods() -> &'static Kind {
    let pods = facts::KINDS.iter().find(|k| k.kind == "Pod");
    pods.unwrap_or(&facts::KINDS[0])
}

/// The kind that a tree says it is of; a Pod if it is of none.
fn named(value: &Value) -> &'static Kind {
    let text = |field: &str| value[field].as_str().unwrap_or_default();
    let (group, version) = facts::split_api_version(text("apiVersion"));
    let kind = facts::kind_by_name(group, version, text("kind"));
    kind.filter(|k| apiserver::served(k)).unwrap_or_else(pods)
}

/// Reads a body as the server does, in each mode of field validation, and follows what was read as far as the store.
fn read(body: &[u8], content: ContentType, kind: &'static Kind) {
    let read = |validation| codec::read(body, content, kind, validation, &context());
    let (strict, warn, ignore) = (
        read(FieldValidation::Strict),
        read(FieldValidation::Warn),
        read(FieldValidation::Ignore),
    );
    match (&strict, &warn, &ignore) {
        (Ok(a), Ok(b), Ok(c)) => assert!(a == b && b == c, "a mode changes what is read"),
        (Err(why), Ok(b), Ok(c)) => {
            assert!(
                why.message.contains("strict decoding error"),
                "{}",
                why.message
            );
            assert_eq!(b, c);
        }
        (Err(_), Err(b), Err(c)) => {
            assert_eq!(b, c);
            assert!(
                (400..500).contains(&b.code) && !b.message.is_empty(),
                "{b:?}"
            );
        }
        _ => panic!("strict reading takes what reading does not"),
    }
    if let Ok(object) = warn {
        stored(kind, object);
    }
}

/// What is true of every object that was read, whatever is in it.
fn stored(kind: &'static Kind, object: Value) {
    let mut again = object.clone();
    let conformed = api::decode::conform(kind.ty, &mut again);
    assert!(
        conformed.unknown.is_empty() && conformed.errors.is_empty(),
        "{conformed:?}"
    );
    assert_eq!(again, object, "the canonical form is not final");
    protobuf_round_trip(kind, &object);

    let mut object = object;
    let metadata = &mut object["metadata"];
    if !metadata.is_object() {
        *metadata = Value::Object(serde_json::Map::new());
    }
    strategy::versions::to_stored(kind, &mut object);
    let kind = strategy::versions::stored_as(kind);
    strategy::default(kind, &mut object);
    let mut twice = object.clone();
    strategy::default(kind, &mut twice);
    assert_eq!(twice, object, "defaults are not final");
    let mut fits = object.clone();
    let conformed = api::decode::conform(kind.ty, &mut fits);
    assert!(
        conformed.unknown.is_empty() && conformed.errors.is_empty(),
        "defaults do not fit: {conformed:?}"
    );

    strategy::prepare_create(kind, &mut object);
    let errors = strategy::validate_create(kind, &object);
    assert_eq!(strategy::validate_create(kind, &object), errors);
    let shown = strategy::row(kind, &object, Timestamp::UNIX_EPOCH);
    assert_eq!(
        shown.len(),
        strategy::columns(kind).len(),
        "a row has not as many cells as there are columns"
    );
    let names = |object: &Value| {
        strategy::index_fields(kind, object)
            .into_iter()
            .map(|(n, _)| n)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(&object),
        names(&Value::Null),
        "an object's fields are not those that may be selected by"
    );

    let (bytes, offset) = match codec::encode(&object, None, &Counter::default()) {
        Ok(encoded) => encoded,
        Err(why) => panic!("what was read cannot be stored: {why:?}"),
    };
    assert_eq!(bytes.get(offset as usize - 1), Some(&b'{'));
    let mut back: Value = match serde_json::from_slice(&bytes) {
        Ok(back) => back,
        Err(why) => panic!("what is stored cannot be read: {why}"),
    };
    if let Some(version) = object["metadata"].get("resourceVersion") {
        back["metadata"]["resourceVersion"] = version.clone();
    }
    assert_eq!(back, object, "what is stored is not what was written");

    for sub in [None, Some("status"), Some("approval"), Some("finalize")] {
        if sub.is_some_and(|sub| kind.subresource(sub).is_none()) {
            continue;
        }
        let mut new = object.clone();
        strategy::prepare_update(kind, &mut new, &object, sub);
        let complaints = strategy::validate_update(kind, &new, &object, sub);
        assert_eq!(
            strategy::validate_update(kind, &new, &object, sub),
            complaints
        );
    }
}

fn protobuf_round_trip(kind: &Kind, object: &Value) {
    let write = |object: &Value| {
        let json = object.to_string();
        api::protobuf::object(
            &kind.api_version(),
            kind.kind,
            Some(kind.ty),
            json.as_bytes(),
        )
    };
    let read = |bytes: &[u8]| match api::protobuf::decode(kind.ty, bytes) {
        Ok(object) => object,
        Err(why) => panic!("our own protobuf cannot be read: {why}"),
    };
    let first = match write(object) {
        Ok(bytes) => bytes,
        Err(why) => panic!("what was read cannot be written as protobuf: {why}"),
    };
    let decoded = read(&first);
    let mut canonical = decoded.clone();
    let conformed = api::decode::conform(kind.ty, &mut canonical);
    assert!(
        conformed.unknown.is_empty() && conformed.errors.is_empty(),
        "{conformed:?}"
    );
    let second = match write(&decoded) {
        Ok(bytes) => bytes,
        Err(why) => panic!("what protobuf became cannot be written as protobuf: {why}"),
    };
    assert_eq!(read(&second), decoded, "protobuf is not stable");
}

/// JSON bodies.
pub fn json(data: &[u8]) {
    let parsed = codec::parse(data, ContentType::Json, pods().ty);
    let kind = match &parsed {
        Ok((value, _)) => {
            let text = value.to_string();
            match codec::parse(text.as_bytes(), ContentType::Json, pods().ty) {
                Ok((again, twice)) => assert!(again == *value && twice.is_empty()),
                Err(why) => panic!("our own JSON cannot be read: {why:?}"),
            }
            named(value)
        }
        Err(_) => pods(),
    };
    read(data, ContentType::Json, kind);
}

/// YAML bodies.
pub fn yaml(data: &[u8]) {
    let parsed = codec::parse(data, ContentType::Yaml, pods().ty);
    let kind = match &parsed {
        Ok((value, _)) => {
            // JSON is YAML, also when it does not look like it at first.
            let text = format!("---\n{value}\n");
            match codec::parse(text.as_bytes(), ContentType::Yaml, pods().ty) {
                Ok((again, _)) => assert_eq!(again, *value, "JSON is read otherwise as YAML"),
                Err(why) => panic!("JSON cannot be read as YAML: {why:?} {text}"),
            }
            named(value)
        }
        Err(_) => pods(),
    };
    read(data, ContentType::Yaml, kind);
}

/// Protobuf bodies.
pub fn protobuf(data: &[u8]) {
    // The envelope names the kind in its first bytes.
    let head = String::from_utf8_lossy(&data[..data.len().min(96)]).into_owned();
    let named = facts::KINDS
        .iter()
        .filter(|k| apiserver::served(k) && head.contains(k.kind));
    let kind = named.max_by_key(|k| k.kind.len()).unwrap_or_else(|| pods());
    read(data, ContentType::Protobuf, kind);
    // And what the API reads beside kinds.
    if let Some(options) = facts::delete_options() {
        let _ = api::protobuf::decode(options, data);
    }
}

/// Objects that fit their kind.
pub fn made(data: &[u8]) {
    let mut dice = Dice::new(data);
    let kind = made::kind(&mut dice);
    let object = made::object(&mut dice, kind);
    stored(kind, object);
}
