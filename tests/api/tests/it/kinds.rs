//! Every kind through every verb and patch, and its table of what is refused: `kinds/*.yaml`.
//!
//! A table holds a valid object (`valid`), what must be there before it (`given`), what the server adds to it
//! (`defaults`: JSON pointers and values), a change that is allowed (`change`), the cells that the changed object is
//! printed with (`row`), and cases. `counted: false` stands where `metadata.generation` counts nothing.
//! Each case changes the valid object and names every cause of the refusal, as `field: reason message`. Cases of
//! `create` are posted, those of `update` replace the stored object, those of `status` its status. The text `{uid}` in
//! a cause is the stored object's UID; a value `{repeat: x, times: n}` stands for the text or list `x`, `n` times.

use std::collections::BTreeMap;
use std::path::Path;

use api::facts::Kind;
use serde_json::{Value, json};
use test_support::Server;
use test_support::api_server::ADMIN;

const NAMESPACE: &str = "demo";

struct Table {
    file: String,
    kind: &'static Kind,
    given: Vec<Value>,
    valid: Value,
    defaults: BTreeMap<String, Value>,
    change: BTreeMap<String, Value>,
    /// Whether the change counts in `metadata.generation`.
    counted: bool,
    row: Value,
    cases: BTreeMap<&'static str, Vec<Case>>,
}

struct Case {
    set: BTreeMap<String, Value>,
    causes: Vec<String>,
}

impl Case {
    /// The case with the UID of the stored object.
    fn of(&self, uid: &str) -> Self {
        let causes = self.causes.iter().map(|c| c.replace("{uid}", uid));
        Self {
            set: self.set.clone(),
            causes: causes.collect(),
        }
    }
}

fn tables() -> Vec<Table> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kinds");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|file| table(file)).collect()
}

fn table(file: &Path) -> Table {
    let text = std::fs::read(file).unwrap();
    let file = file.file_name().unwrap().to_str().unwrap().to_owned();
    let (mut value, duplicates) = api::decode::parse(&text, api::decode::Content::Yaml)
        .unwrap_or_else(|e| panic!("{file}: {e}"));
    assert!(duplicates.is_empty(), "{file}: {duplicates:?}");
    let valid = value["valid"].take();
    let (group, version) = api::facts::split_api_version(valid["apiVersion"].as_str().unwrap());
    let kind = api::facts::kind_by_name(group, version, valid["kind"].as_str().unwrap());
    let kind = kind.unwrap_or_else(|| panic!("{file}: no such kind"));
    let cases = ["create", "update", "status"].map(|name| (name, cases(&file, &value[name])));
    let given = value["given"].as_array().into_iter().flatten();
    Table {
        kind,
        given: given.cloned().collect(),
        defaults: pointers(&value["defaults"]),
        change: pointers(&value["change"]),
        counted: value["counted"] != false,
        row: value["row"].take(),
        cases: cases.into(),
        valid,
        file,
    }
}

fn pointers(map: &Value) -> BTreeMap<String, Value> {
    let entries = map.as_object().into_iter().flatten();
    entries
        .map(|(k, v)| (k.clone(), repeated(v.clone())))
        .collect()
}

/// Writes out what a table repeats.
fn repeated(value: Value) -> Value {
    match value {
        Value::Object(map) => match (map.get("repeat"), map.get("times")) {
            (Some(Value::String(text)), Some(times)) => text.repeat(count(times)).into(),
            (Some(Value::Array(list)), Some(times)) => {
                let list: Vec<Value> = list.iter().cloned().map(repeated).collect();
                let all = std::iter::repeat_n(list, count(times));
                all.flatten().collect()
            }
            _ => map.into_iter().map(|(k, v)| (k, repeated(v))).collect(),
        },
        Value::Array(list) => list.into_iter().map(repeated).collect(),
        other => other,
    }
}

fn count(times: &Value) -> usize {
    usize::try_from(times.as_u64().unwrap()).unwrap()
}

fn cases(file: &str, list: &Value) -> Vec<Case> {
    let list = list.as_array().into_iter().flatten();
    list.map(|case| {
        let causes = case["causes"].as_array();
        let causes = causes.unwrap_or_else(|| panic!("{file}: {case}: no causes"));
        let text = |c: &Value| match c {
            Value::String(text) => text.clone(),
            // `field: reason message` without quotes is a map in YAML.
            Value::Object(map) => {
                let (field, rest) = map.iter().next().unwrap();
                format!("{field}: {}", rest.as_str().unwrap())
            }
            other => panic!("{file}: {other}"),
        };
        Case {
            set: pointers(&case["set"]),
            causes: causes.iter().map(text).collect(),
        }
    })
    .collect()
}

/// Sets what a JSON pointer names, making what is missing on the way; null removes it.
fn set(object: &mut Value, pointer: &str, value: &Value) {
    let mut at = object;
    let parts: Vec<String> = pointer[1..]
        .split('/')
        .map(|p| p.replace("~1", "/").replace("~0", "~"))
        .collect();
    let (last, parents) = parts.split_last().unwrap();
    for part in parents {
        at = match at {
            Value::Array(list) => &mut list[part.parse::<usize>().unwrap()],
            other => {
                if !other.is_object() {
                    *other = json!({});
                }
                &mut other[part.as_str()]
            }
        };
    }
    match at {
        Value::Array(list) => match last.parse::<usize>() {
            Ok(i) if value.is_null() => drop(list.remove(i)),
            Ok(i) => list[i] = value.clone(),
            Err(_) => list.push(value.clone()),
        },
        other => {
            if !other.is_object() {
                *other = json!({});
            }
            let map = other.as_object_mut().unwrap();
            if value.is_null() {
                map.remove(last);
            } else {
                map.insert(last.clone(), value.clone());
            }
        }
    }
}

fn changed(object: &Value, set_: &BTreeMap<String, Value>) -> Value {
    let mut object = object.clone();
    for (pointer, value) in set_ {
        set(&mut object, pointer, value);
    }
    object
}

/// Where objects of the kind are, in the tables' namespace if they are in one.
fn collection(kind: &Kind) -> String {
    let base = if kind.group.is_empty() {
        format!("/api/{}", kind.version)
    } else {
        format!("/apis/{}/{}", kind.group, kind.version)
    };
    if kind.namespaced {
        format!("{base}/namespaces/{NAMESPACE}/{}", kind.plural)
    } else {
        format!("{base}/{}", kind.plural)
    }
}

impl Table {
    fn collection(&self) -> String {
        collection(self.kind)
    }

    /// The object's name; reviews have none.
    fn name(&self) -> &str {
        self.valid["metadata"]["name"].as_str().unwrap_or("")
    }

    /// Makes what must be there.
    async fn prepare(&self, server: &Server) {
        for object in &self.given {
            let text = |key: &str| object[key].as_str().unwrap();
            let (group, version) = api::facts::split_api_version(text("apiVersion"));
            let kind = api::facts::kind_by_name(group, version, text("kind")).unwrap();
            let answer = server.send("POST", &collection(kind), object).await;
            assert_eq!(answer.code, 201, "{}: {}", self.file, answer.text);
        }
    }
}

/// What a refusal says, sorted: `field: reason message`.
fn causes(answer: &test_support::Answer) -> Vec<String> {
    let list = answer.body["details"]["causes"].as_array();
    let text = |c: &Value, key| c[key].as_str().unwrap_or("").to_owned();
    let mut causes: Vec<String> = list
        .into_iter()
        .flatten()
        .map(|c| {
            let (field, reason, message) =
                (text(c, "field"), text(c, "reason"), text(c, "message"));
            format!("{field}: {reason} {message}")
        })
        .collect();
    causes.sort();
    causes
}

/// Compares a refusal with its case; what differs goes into `found`.
fn compare(
    table: &Table,
    what: &str,
    case: &Case,
    answer: &test_support::Answer,
    found: &mut Vec<String>,
) {
    let mut wanted = case.causes.clone();
    wanted.sort();
    let got = causes(answer);
    let reason = &answer.body["reason"];
    if answer.code != 422 || reason != "Invalid" || got != wanted {
        found.push(format!(
            "{} {what} {}\n  wanted {wanted:#?}\n  got {} {got:#?}",
            table.file,
            json!(case.set),
            answer.status(),
        ));
    }
}

async fn server() -> Server {
    let server = Server::start().await;
    server.namespace(NAMESPACE).await;
    server
}

#[tokio::test(start_paused = true)]
async fn what_is_invalid_is_refused_with_every_cause() {
    let server = server().await;
    let mut found = Vec::new();
    for table in tables() {
        table.prepare(&server).await;
        let collection = table.collection();
        for case in &table.cases["create"] {
            let body = changed(&table.valid, &case.set);
            let answer = server.send("POST", &collection, &body).await;
            compare(&table, "create", case, &answer, &mut found);
            if answer.code == 201 {
                let name = answer.body["metadata"]["name"].as_str().unwrap();
                server
                    .send(
                        "DELETE",
                        &format!("{collection}/{name}?gracePeriodSeconds=0"),
                        &Value::Null,
                    )
                    .await;
            }
        }
        let created = server.send("POST", &collection, &table.valid).await;
        if created.code != 201 {
            found.push(format!("{}: {}", table.file, created.text));
            continue;
        }
        let path = format!("{collection}/{}", table.name());
        for (what, path) in [
            ("update", path.clone()),
            ("status", format!("{path}/status")),
        ] {
            for case in &table.cases[what] {
                let current = server.send("GET", &path, &Value::Null).await.ok();
                let uid = current["metadata"]["uid"].as_str().unwrap();
                let case = &case.of(uid);
                let body = changed(&current, &case.set);
                let answer = server.send("PUT", &path, &body).await;
                compare(&table, what, case, &answer, &mut found);
            }
        }
        // A quota, say, is not to be in the way of the tables after it.
        let path = format!("{path}?gracePeriodSeconds=0");
        server.send("DELETE", &path, &Value::Null).await;
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[tokio::test(start_paused = true)]
async fn every_kind_takes_every_verb() {
    let server = server().await;
    let mut found = Vec::new();
    for table in tables() {
        table.prepare(&server).await;
        if let Err(why) = walk(&server, &table).await {
            found.push(format!("{}: {why}", table.file));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// One kind through every verb and patch.
async fn walk(server: &Server, table: &Table) -> Result<(), String> {
    let collection = table.collection();
    let path = format!("{collection}/{}", table.name());
    let verbs = table.kind.verbs;
    let send = async |method: &str, path: &str, content_type: &str, body: &Value| {
        let headers = [("content-type", content_type)];
        let bytes = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let answer = server.raw(ADMIN, method, path, &headers, bytes).await;
        if (200..300).contains(&answer.code) {
            Ok(answer.body)
        } else {
            Err(format!(
                "{method} {path} ({content_type}): {} {}",
                answer.status(),
                answer.body["details"]
            ))
        }
    };
    let json_type = "application/json";
    let mut object = send("POST", &collection, json_type, &table.valid).await?;
    for (pointer, wanted) in &table.defaults {
        let got = object.pointer(pointer);
        if got != Some(wanted) {
            return Err(format!("{pointer} is {got:?} by default, not {wanted}"));
        }
    }
    if !verbs.contains(&"get") {
        return Ok(());
    }
    let same = |got: &Value, what: &str| {
        let own = |v: &Value| {
            let mut v = v.clone();
            v["metadata"] = Value::Null;
            v
        };
        if own(got) == own(&object) {
            Ok(())
        } else {
            Err(format!("{what} changed the object\n  {object}\n  {got}"))
        }
    };
    same(&send("GET", &path, json_type, &Value::Null).await?, "GET")?;
    // What was answered can be put back as it is: defaults are stable.
    let put = send("PUT", &path, json_type, &object).await?;
    same(&put, "PUT")?;
    if put["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
        return Err("a PUT of the same object made a new version".into());
    }
    let label = json!({"metadata": {"labels": {"walked": "merge"}}});
    let merged = send("PATCH", &path, "application/merge-patch+json", &label).await?;
    same(&merged, "a merge patch of labels")?;
    let label = json!({"metadata": {"labels": {"walked": "strategic"}}});
    let strategic = "application/strategic-merge-patch+json";
    same(
        &send("PATCH", &path, strategic, &label).await?,
        "a strategic patch of labels",
    )?;
    let operations = json!([
        {"op": "test", "path": "/metadata/labels/walked", "value": "strategic"},
        {"op": "replace", "path": "/metadata/labels/walked", "value": table.file},
    ]);
    let patched = send("PATCH", &path, "application/json-patch+json", &operations).await?;
    same(&patched, "a JSON patch of labels")?;
    if !table.change.is_empty() {
        let before = send("GET", &path, json_type, &Value::Null).await?;
        object = send("PUT", &path, json_type, &changed(&before, &table.change)).await?;
        for (pointer, value) in &table.change {
            if object.pointer(pointer) != Some(value) && !value.is_null() {
                return Err(format!("{pointer} is not {value}: {object}"));
            }
        }
        let (old, new) = (
            &before["metadata"]["generation"],
            &object["metadata"]["generation"],
        );
        let step = i64::from(table.counted);
        if !old.is_null() && old.as_i64().map(|g| g + step) != new.as_i64() {
            return Err(format!("the generation went from {old} to {new}"));
        }
    }
    if table.kind.subresource("status").is_some() {
        let got = send("GET", &format!("{path}/status"), json_type, &Value::Null).await?;
        send("PUT", &format!("{path}/status"), json_type, &got).await?;
    }
    let table_type = "application/json;as=Table;g=meta.k8s.io;v=v1";
    let headers = [("accept", table_type)];
    let rows = server.raw(ADMIN, "GET", &path, &headers, "").await;
    let (columns, cells) = (
        &rows.body["columnDefinitions"],
        &rows.body["rows"][0]["cells"],
    );
    if columns.as_array().map(Vec::len) != cells.as_array().map(Vec::len) {
        return Err(format!("the table has {columns} but {cells}"));
    }
    if !table.row.is_null() && table.row != *cells {
        return Err(format!("the row is {cells}, not {}", table.row));
    }
    // Selectors find it, and what it was before the first change is 410 or its own version.
    let found = send(
        "GET",
        &format!("{collection}?labelSelector=walked%3D{}", table.file),
        json_type,
        &Value::Null,
    )
    .await?;
    let names = |list: &Value| list["items"].as_array().map_or(0, Vec::len);
    if names(&found) != 1 {
        return Err(format!("the label selects {} objects", names(&found)));
    }
    let field = format!(
        "{collection}?fieldSelector=metadata.name%3D{}",
        table.name()
    );
    if names(&send("GET", &field, json_type, &Value::Null).await?) != 1 {
        return Err("the field selector does not find it".into());
    }
    // Protobuf says the same as JSON.
    let headers = [("accept", api::protobuf::MEDIA_TYPE)];
    let answer = server.raw(ADMIN, "GET", &path, &headers, "").await;
    let read = api::protobuf::decode(table.kind.ty, &answer.bytes)?;
    let mut current = send("GET", &path, json_type, &Value::Null).await?;
    // The claims in a StatefulSet say what they are in JSON only.
    let claims = current.pointer_mut("/spec/volumeClaimTemplates");
    for claim in claims.and_then(Value::as_array_mut).into_iter().flatten() {
        set(claim, "/apiVersion", &Value::Null);
        set(claim, "/kind", &Value::Null);
    }
    let (read, current) = (without_empty(read), without_empty(current));
    if read != current {
        return Err(format!("protobuf says\n  {read}\nJSON says\n  {current}"));
    }
    if verbs.contains(&"deletecollection") {
        let path = format!(
            "{collection}?labelSelector=walked%3D{}&gracePeriodSeconds=0",
            table.file
        );
        send("DELETE", &path, json_type, &Value::Null).await?;
    } else {
        send("DELETE", &path, json_type, &Value::Null).await?;
    }
    Ok(())
}

/// Protobuf cannot tell an empty list, object or text from none.
pub fn without_empty(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().map(|(k, v)| (k, without_empty(v)));
            let empty = |v: &Value| {
                v.as_object().is_some_and(serde_json::Map::is_empty)
                    || v.as_array().is_some_and(Vec::is_empty)
                    || v.as_str() == Some("")
            };
            kept.filter(|(_, v)| !empty(v)).collect()
        }
        Value::Array(items) => items.into_iter().map(without_empty).collect(),
        other => other,
    }
}

/// Each kind that is stored and served has a table.
#[test]
fn no_kind_is_without_a_table() {
    let tables = tables();
    let missing: Vec<String> = api::facts::KINDS
        .iter()
        .filter(|k| apiserver::served(k) && k.verbs.contains(&"create"))
        .filter(|k| !tables.iter().any(|t| t.kind == *k))
        .map(|k| format!("{}.{}", k.plural, k.group))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
