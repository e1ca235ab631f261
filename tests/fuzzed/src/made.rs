//! Objects made of random bytes along the facts: random text is seldom a Pod, this always nearly is.

use api::facts::{self, Field, Kind, Ty, Type, TypeId};
use serde_json::{Map, Value};

/// Random bytes, taken one by one; zeros once they are used up, which ends whatever is being made.
pub struct Dice<'a>(&'a [u8]);

impl<'a> Dice<'a> {
    #[must_use]
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    /// Below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        let wide = n > 256;
        let high = if wide {
            usize::from(self.byte()) << 8
        } else {
            0
        };
        (high | usize::from(self.byte())) % n
    }

    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Up to `n` bytes as they are.
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// What is left.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }
}

/// Few words, so that names meet.
const WORDS: [&str; 16] = [
    "a",
    "b",
    "c",
    "",
    "x/y",
    "80",
    "TCP",
    "UDP",
    "web",
    "Always",
    "example.com/a",
    "10.0.0.1",
    "1Gi",
    "true",
    "~0$patch",
    "é\u{1F600}",
];
const QUANTITIES: [&str; 10] = [
    "0",
    "1",
    "100m",
    "1Gi",
    "1.5",
    "-1",
    "1e3",
    "0.1Ki",
    "9223372036854775807",
    "1n",
];
const TIMES: [&str; 4] = [
    "2026-01-02T03:04:05Z",
    "2026-01-02T03:04:05.123456Z",
    "2026-01-02T03:04:05+02:00",
    "",
];
const NUMBERS: [i64; 10] = [
    0,
    1,
    2,
    3,
    80,
    443,
    -1,
    65_536,
    2_147_483_647,
    -2_147_483_648,
];

/// A kind that is served.
pub fn kind(dice: &mut Dice<'_>) -> &'static Kind {
    let kind = &facts::KINDS[dice.below(facts::KINDS.len())];
    if apiserver::served(kind) {
        return kind;
    }
    facts::KINDS
        .iter()
        .find(|k| k.kind == "Pod")
        .unwrap_or(kind)
}

/// An object of `kind` with its name, in canonical form.
pub fn object(dice: &mut Dice<'_>, kind: &Kind) -> Value {
    let mut object = value(dice, Ty::Struct(kind.ty), 8);
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = kind.kind.into();
    if !object["metadata"].is_object() {
        object["metadata"] = Value::Object(Map::new());
    }
    if let Value::Object(metadata) = &mut object["metadata"] {
        metadata.remove("managedFields");
        metadata.insert("name".into(), "a".into());
        if kind.namespaced {
            metadata.insert("namespace".into(), "n".into());
        }
    }
    let conformed = api::decode::conform(kind.ty, &mut object);
    assert!(conformed.unknown.is_empty(), "{:?}", conformed.unknown);
    assert!(conformed.errors.is_empty(), "{:?}", conformed.errors);
    object
}

/// A value of a type, nested at most `depth` deep.
pub fn value(dice: &mut Dice<'_>, ty: Ty, depth: usize) -> Value {
    let more = |dice: &mut Dice<'_>, n: usize| if depth == 0 { 0 } else { dice.below(n) };
    match ty {
        Ty::Bool => (dice.byte() & 1 == 1).into(),
        Ty::Int32 | Ty::Int64 => dice.one(&NUMBERS).into(),
        Ty::Float => f64::from(dice.byte()).into(),
        Ty::String => dice.one(&WORDS).into(),
        Ty::Bytes => dice.one(&["", "AAEC", "YQ=="]).into(),
        Ty::Time | Ty::MicroTime => dice.one(&TIMES).into(),
        Ty::Quantity => dice.one(&QUANTITIES).into(),
        Ty::IntOrString => match dice.byte() {
            n if n < 128 => i64::from(n).into(),
            n => format!("{}%", n - 128).into(),
        },
        Ty::Any => match dice.below(4) {
            0 => Value::Object(Map::new()),
            1 => dice.one(&WORDS).into(),
            2 => serde_json::json!({"a": dice.one(&NUMBERS), "b": [dice.one(&WORDS)]}),
            _ => true.into(),
        },
        Ty::Struct(id) => fields(dice, id, depth),
        Ty::List(item) => {
            let n = more(dice, 4);
            (0..n).map(|_| value(dice, *item, depth - 1)).collect()
        }
        Ty::Map(item) => {
            let n = more(dice, 4);
            let entries =
                (0..n).map(|_| (dice.one(&WORDS).to_owned(), value(dice, *item, depth - 1)));
            Value::Object(entries.collect())
        }
    }
}

fn fields(dice: &mut Dice<'_>, id: TypeId, depth: usize) -> Value {
    let ty = facts::type_of(id);
    let mut out = Map::new();
    if depth > 0 && !ty.fields.is_empty() && !dice.is_empty() {
        let mut make = |dice: &mut Dice<'_>, field: &Field| {
            let value = alternative(dice, ty, field, id, depth)
                .unwrap_or_else(|| value(dice, field.ty, depth - 1));
            out.insert(field.name.into(), value);
        };
        for field in ty.fields.iter().filter(|f| f.required) {
            make(dice, field);
        }
        for _ in 0..dice.below(5) {
            let at = dice.below(ty.fields.len());
            make(dice, &ty.fields[at]);
        }
    }
    Value::Object(out)
}

/// What may be a schema or something else, in a schema.
fn alternative(
    dice: &mut Dice<'_>,
    ty: &Type,
    field: &Field,
    id: TypeId,
    depth: usize,
) -> Option<Value> {
    if ty.name != "JSONSchemaProps" {
        return None;
    }
    let schema = |dice: &mut Dice<'_>| value(dice, Ty::Struct(id), depth - 1);
    let first = dice.byte() & 1 == 1;
    Some(match field.name {
        "items" | "additionalItems" | "additionalProperties" if first => schema(dice),
        "items" => Value::Array(vec![schema(dice), schema(dice)]),
        "additionalItems" | "additionalProperties" => (dice.byte() & 1 == 1).into(),
        "dependencies" if first => serde_json::json!({ "a": schema(dice) }),
        "dependencies" => serde_json::json!({"a": [dice.one(&WORDS)]}),
        _ => return None,
    })
}
