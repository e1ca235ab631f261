//! The `continue` token of lists: what comes back from a client, which may have made it up.

use std::cell::RefCell;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use test_support::api_server::{ADMIN, Server};
use tokio::runtime::Runtime;

thread_local! {
    static SERVER: RefCell<Option<(Runtime, Server)>> = const { RefCell::new(None) };
}

/// A runtime whose clock stands still unless somebody waits for it.
#[must_use]
pub fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    match builder.enable_all().start_paused(true).build() {
        Ok(runtime) => runtime,
        Err(why) => panic!("no runtime: {why}"),
    }
}

fn served() -> (Runtime, Server) {
    let runtime = runtime();
    let server = runtime.block_on(async {
        let server = Server::start().await;
        for namespace in ["a", "b"] {
            server.namespace(namespace).await;
            for name in ["x", "y", "z"] {
                let path = format!("/api/v1/namespaces/{namespace}/configmaps");
                drop(
                    server
                        .send("POST", &path, &json!({"metadata": {"name": name}}))
                        .await
                        .ok(),
                );
            }
        }
        server
    });
    (runtime, server)
}

/// A token never shows what the path does not ask for. JSON is encoded first; all else is the token as it is.
pub fn continue_token(data: &[u8]) {
    let token = if data.starts_with(b"{") {
        URL_SAFE_NO_PAD.encode(data)
    } else {
        skiff_http::percent::escape(&String::from_utf8_lossy(data))
    };
    SERVER.with_borrow_mut(|slot| {
        let (runtime, server) = slot.get_or_insert_with(served);
        for path in ["namespaces/a/configmaps", "configmaps", "namespaces"] {
            let url = format!("/api/v1/{path}?limit=1&continue={token}");
            let answer = runtime.block_on(server.raw(ADMIN, "GET", &url, &[], ""));
            assert!(
                matches!(answer.code, 200 | 400 | 410 | 504),
                "{}",
                answer.status()
            );
            for item in answer.body["items"].as_array().into_iter().flatten() {
                let namespace = item["metadata"]["namespace"].as_str();
                match path {
                    "namespaces/a/configmaps" => assert_eq!(namespace, Some("a")),
                    "configmaps" => assert!(namespace.is_some()),
                    _ => assert_eq!(namespace, None),
                }
            }
        }
    });
}
