//! Whole requests to a server in memory: an object of any kind is created, patched in every way, read in every form, and
//! deleted.

use std::cell::RefCell;

use api::facts::{self, Kind};
use serde_json::Value;
use test_support::api_server::{ADMIN, Answer, Server};
use tokio::runtime::Runtime;

use crate::halves;

thread_local! {
    static SERVER: RefCell<Option<(Runtime, Server)>> = const { RefCell::new(None) };
}

const NAMESPACE: &str = "fuzz";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

fn collection(kind: &Kind) -> String {
    let root = if kind.group.is_empty() {
        "/api"
    } else {
        "/apis"
    };
    let namespace = if kind.namespaced {
        format!("/namespaces/{NAMESPACE}")
    } else {
        String::new()
    };
    format!("{root}/{}{namespace}/{}", kind.api_version(), kind.plural)
}

struct Session<'a> {
    runtime: &'a Runtime,
    server: &'a Server,
}

impl Session<'_> {
    /// Whatever is asked, the server answers, and never that it is its own fault.
    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let asked = self.server.raw(ADMIN, method, path, headers, body.to_vec());
        let answer = self.runtime.block_on(asked);
        // Upstream has no better code for a configuration that does not fit.
        let unfit = answer.body["message"]
            .as_str()
            .is_some_and(|m| m.starts_with("failed to create typed patch object"));
        assert!(
            answer.code < 500 || answer.code == 504 || unfit,
            "{method} {path}: {}",
            answer.status()
        );
        if answer.code >= 400 {
            assert_eq!(
                answer.body["kind"], "Status",
                "{method} {path}: {}",
                answer.text
            );
            assert!(
                answer.body["message"]
                    .as_str()
                    .is_some_and(|m| !m.is_empty()),
                "{}",
                answer.text
            );
        }
        answer
    }
}

/// What creates, `---`, what patches.
pub fn requests(data: &[u8]) {
    let (body, patch) = halves(data);
    let content = match body.first() {
        Some(b'k') => "application/vnd.kubernetes.protobuf",
        Some(b'{') => "application/json",
        _ => "application/yaml",
    };
    let head = String::from_utf8_lossy(&body[..body.len().min(400)]).into_owned();
    let named = |k: &&'static Kind| {
        apiserver::served(k) && head.contains(k.kind) && head.contains(&k.api_version())
    };
    let Some(kind) = facts::KINDS
        .iter()
        .filter(named)
        .max_by_key(|k| k.kind.len())
    else {
        return;
    };
    SERVER.with_borrow_mut(|slot| {
        let (runtime, server) = slot.get_or_insert_with(|| {
            let runtime = crate::list::runtime();
            let server = runtime.block_on(async {
                let server = Server::start().await;
                server.namespace(NAMESPACE).await;
                server
            });
            (runtime, server)
        });
        let session = Session { runtime, server };
        exercise(&session, kind, content, body, patch);
    });
}

fn exercise(session: &Session<'_>, kind: &Kind, content: &str, body: &[u8], patch: &[u8]) {
    let collection = collection(kind);
    let typed = [("content-type", content)];
    let dry = format!("{collection}?dryRun=All&fieldValidation=Strict");
    session.ask("POST", &dry, &typed, body);
    let created = session.ask("POST", &collection, &typed, body);
    let name = created.body["metadata"]["name"]
        .as_str()
        .unwrap_or_default();
    if created.code != 201 || !kind.stored() || name.is_empty() {
        return;
    }
    let object = format!("{collection}/{}", skiff_http::percent::escape(name));
    for form in PATCHES {
        let query = "fieldManager=fuzz&force=true";
        let query = if form.ends_with("yaml") { query } else { "" };
        let path = format!("{object}?{query}");
        let answer = session.ask("PATCH", &path, &[("content-type", form)], patch);
        if answer.code == 200 && form.ends_with("yaml") {
            let again = session.ask("PATCH", &path, &[("content-type", form)], patch);
            assert_eq!(
                again.body, answer.body,
                "applying twice is not the same as once"
            );
        }
    }
    let got = session.ask("GET", &object, &[], b"");
    if got.code == 200 {
        let same = session.ask(
            "PUT",
            &object,
            &[("content-type", "application/json")],
            &got.bytes,
        );
        if same.code == 200 {
            let versions =
                [&same.body, &got.body].map(|o| o["metadata"]["resourceVersion"].clone());
            assert_eq!(
                versions[0], versions[1],
                "writing what was read is a change: {} {}",
                got.text, same.text
            );
        }
    }
    for accept in [
        TABLE,
        "application/vnd.kubernetes.protobuf",
        "application/yaml",
    ] {
        session.ask("GET", &object, &[("accept", accept)], b"");
        session.ask("GET", &collection, &[("accept", accept)], b"");
    }
    let free: &[u8] = br#"{"metadata":{"finalizers":null}}"#;
    let typed = [("content-type", PATCHES[1])];
    session.ask("PATCH", &object, &typed, free);
    session.ask(
        "DELETE",
        &format!("{object}?gracePeriodSeconds=0&propagationPolicy=Background"),
        &[],
        b"",
    );
    session.ask("PATCH", &object, &typed, free);
    let gone = session.ask("GET", &object, &[], b"");
    let kept: bool = gone.body["spec"]["finalizers"]
        .as_array()
        .is_some_and(|f| !f.is_empty())
        || gone.body["metadata"]["finalizers"]
            .as_array()
            .is_some_and(|f| !f.is_empty());
    assert!(
        gone.code == 404 || kept || gone.body == Value::Null,
        "{}",
        gone.text
    );
}
