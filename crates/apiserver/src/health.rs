//! Paths outside the resource API: health, version, metrics, discovery, OpenAPI, token keys.

use std::sync::atomic::Ordering;

use api::Status;
use http::{HeaderMap, Response, StatusCode};
use serde_json::json;
use skiff_http::Body;

use crate::request::RequestInfo;
use crate::{Core, answer, exposition};

/// Answers a path.
///
/// # Errors
/// 404, 405.
pub async fn serve(
    core: &Core,
    info: &RequestInfo,
    headers: &HeaderMap,
) -> Result<Response<Body>, Status> {
    if !matches!(info.verb, "get" | "head") {
        return Err(Status::no_such_path());
    }
    let path = info.path.trim_end_matches('/');
    if let Some(answered) = core
        .discovery
        .serve(path, headers, &core.advertise.to_string())
    {
        return answered;
    }
    match path {
        "" => Ok(answer::value(&json!({"paths": [
            "/.well-known/openid-configuration", "/api", "/api/v1", "/apis", "/healthz", "/livez", "/metrics",
            "/metrics/slis", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version",
        ]}))),
        "/version" => Ok(answer::value(&version())),
        "/metrics" => exposition::metrics(core).await,
        "/metrics/slis" => Ok(exposition::slis(core).await),
        "/openid/v1/jwks" => Ok(answer::value(&core.tokens.jwks())),
        "/.well-known/openid-configuration" => Ok(answer::value(&json!({
            "issuer": crate::authn::ISSUER,
            "jwks_uri": format!("https://{}/openid/v1/jwks", core.advertise),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        }))),
        _ if path.starts_with("/openapi/") => core.openapi.serve(info, headers),
        _ => {
            let mut parts = path.trim_start_matches('/').splitn(2, '/');
            match parts.next() {
                Some(probe @ ("healthz" | "livez" | "readyz")) => {
                    health(core, info, probe, parts.next()).await
                }
                _ => Err(Status::no_such_path()),
            }
        }
    }
}

/// `/version`: the Kubernetes version that is served, and what serves it.
pub(crate) fn version() -> serde_json::Value {
    let full = api::KUBERNETES_VERSION;
    let mut parts = full.split('.');
    json!({
        "major": parts.next(), "minor": parts.next(),
        "gitVersion": format!("v{full}+skiff{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc", "platform": format!("linux/{}", platform()),
    })
}

fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A check's name, and why it failed if it did.
type Check = (&'static str, Result<(), String>);

/// Makes and records the checks of `probe`: `healthz`, `livez` or `readyz`.
pub(crate) async fn checks(core: &Core, probe: &str) -> Vec<Check> {
    let stored = core.store.get("/registry/namespaces/default").await;
    let ready = core.ready.load(Ordering::Acquire);
    let mut checks = vec![
        ("ping", Ok(())),
        ("etcd", stored.map(drop).map_err(|e| e.to_string())),
        (
            "poststarthook/bootstrap",
            ready.then_some(()).ok_or_else(|| "not finished".into()),
        ),
    ];
    if probe == "readyz" {
        let stays = !core.shutdown.is_cancelled();
        checks.push((
            "shutdown",
            stays
                .then_some(())
                .ok_or_else(|| "process is shutting down".into()),
        ));
    }
    for (name, outcome) in &checks {
        exposition::record(core, probe, name, outcome.is_ok());
    }
    checks
}

async fn health(
    core: &Core,
    info: &RequestInfo,
    probe: &str,
    only: Option<&str>,
) -> Result<Response<Body>, Status> {
    let checks = checks(core, probe).await;
    if let Some(only) = only {
        let check = checks.into_iter().find(|(name, _)| *name == only);
        return match check {
            Some((_, Ok(()))) => Ok(answer::text(StatusCode::OK, "ok")),
            Some((_, Err(why))) => Ok(answer::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("internal server error: {why}"),
            )),
            None => Err(Status::no_such_path()),
        };
    }
    let excluded = info.query.all("exclude");
    let mut report = String::new();
    let mut failed = false;
    for (name, check) in checks {
        let line = match check {
            _ if excluded.iter().any(|e| e == name) => format!("[+]{name} excluded: ok\n"),
            Ok(()) => format!("[+]{name} ok\n"),
            Err(_) => {
                failed = true;
                format!("[-]{name} failed: reason withheld\n")
            }
        };
        report.push_str(&line);
    }
    if failed {
        let text = format!("{report}{probe} check failed\n");
        return Ok(answer::text(StatusCode::INTERNAL_SERVER_ERROR, text));
    }
    if info.query.has("verbose") {
        return Ok(answer::text(
            StatusCode::OK,
            format!("{report}{probe} check passed\n"),
        ));
    }
    Ok(answer::text(StatusCode::OK, "ok"))
}
