//! Discovery and OpenAPI: what clients keep, and ask again by its fingerprint.

use test_support::{Answer, Server};

const ADMIN: Option<(&str, &[&str])> = Some(("admin", &["system:masters"]));
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

async fn get(server: &Server, path: &str, headers: &[(&str, &str)]) -> Answer {
    server.raw(ADMIN, "GET", path, headers, "").await
}

#[tokio::test]
async fn what_a_client_has_is_not_sent_again() {
    let server = Server::start().await;
    for (path, accept) in [
        ("/api", AGGREGATED),
        ("/apis", AGGREGATED),
        ("/openapi/v2", "application/json"),
        ("/openapi/v2", V2_PROTOBUF),
        ("/openapi/v3", "application/json"),
        ("/openapi/v3/apis/apps/v1", "application/json"),
    ] {
        let first = get(&server, path, &[("accept", accept)]).await;
        let etag = first.header("etag").to_owned();
        assert_eq!((first.code, etag.len() > 10), (200, true), "{path} {etag}");
        for known in [etag.clone(), format!("\"other\", W/{etag}")] {
            let again = get(
                &server,
                path,
                &[("accept", accept), ("if-none-match", &known)],
            )
            .await;
            assert_eq!((again.code, again.bytes.len()), (304, 0), "{path} {known}");
            assert_eq!(again.header("etag"), etag, "{path}");
        }
        let stale = [("accept", accept), ("if-none-match", "\"other\"")];
        assert_eq!(
            get(&server, path, &stale).await.bytes,
            first.bytes,
            "{path}"
        );
    }
}

#[tokio::test]
async fn an_address_with_a_hash_never_changes_and_an_old_one_leads_to_the_new() {
    let server = Server::start().await;
    let index = get(&server, "/openapi/v3", &[]).await.ok();
    let paths = index["paths"].as_object().unwrap();
    assert!(paths.len() > 20, "{index}");
    let mut seen = std::collections::BTreeSet::new();
    for (path, entry) in paths {
        let address = entry["serverRelativeURL"].as_str().unwrap();
        let answer = get(&server, address, &[]).await;
        assert_eq!(answer.code, 200, "{address}");
        assert!(
            answer.header("cache-control").contains("immutable"),
            "{address}"
        );
        assert!(
            address.contains(answer.header("etag").trim_matches('"')),
            "{address}"
        );
        assert!(seen.insert(answer.header("etag").to_owned()), "{address}");

        let plain = get(&server, &format!("/openapi/v3/{path}"), &[]).await;
        assert_eq!(
            (plain.header("cache-control"), &plain.bytes),
            ("", &answer.bytes)
        );
        let old = get(&server, &format!("/openapi/v3/{path}?hash=0000"), &[]).await;
        assert_eq!((old.code, old.header("location")), (301, address));
    }
    assert_eq!(
        get(&server, "/openapi/v3/apis/apps/v9", &[]).await.code,
        404
    );
}

#[tokio::test]
async fn an_encoding_that_there_is_not_is_refused() {
    let server = Server::start().await;
    let answer = get(&server, "/openapi/v3", &[("accept", "text/html")]).await;
    assert_eq!(
        (answer.code, answer.body["reason"].as_str()),
        (406, Some("NotAcceptable"))
    );
}
