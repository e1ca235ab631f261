//! How a request reaches the API server: a call inside the process, or HTTPS.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use http::header::USER_AGENT;
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use skiff_http::{Body, Handler, body};

use crate::Error;

/// Carries requests.
#[async_trait::async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Sends one request; its URI has a path and a query only.
    ///
    /// # Errors
    /// [`Error::Transport`] when no answer came.
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Error>;
}

/// Who a call inside the process is made by. A request extension, never a header, so that nobody outside can claim it;
/// the API server authorizes it like any other user.
#[derive(Debug, Clone)]
pub struct InProcess {
    pub user: Arc<str>,
    pub groups: Arc<[String]>,
}

/// Calls the API server in this process. Same authorization, admission and audit as over the network.
pub struct LocalTransport {
    handler: Arc<dyn Handler>,
    identity: InProcess,
    agent: HeaderValue,
}

/// The User-Agent of a component, by the user that it is: with upstream's names, since people name these in rules about
/// managed fields.
fn agent(user: &str) -> HeaderValue {
    let name = match user {
        "system:kube-scheduler" => "kube-scheduler",
        "system:kube-proxy" => "kube-proxy",
        "system:kube-controller-manager" => "kube-controller-manager",
        _ if user.starts_with("system:node:") => "kubelet",
        _ if user.starts_with("system:serviceaccount:kube-system:") => "kube-controller-manager",
        _ => "skiff",
    };
    HeaderValue::from_static(name)
}

impl LocalTransport {
    /// Calls `handler` as `user` in `groups` (`system:authenticated` is added by the server).
    #[must_use]
    pub fn new(handler: Arc<dyn Handler>, user: &str, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|g| (*g).to_owned()).collect();
        Self {
            handler,
            agent: agent(user),
            identity: InProcess {
                user: user.into(),
                groups,
            },
        }
    }
}

#[async_trait::async_trait]
impl Transport for LocalTransport {
    async fn send(&self, mut request: Request<Body>) -> Result<Response<Body>, Error> {
        request.extensions_mut().insert(self.identity.clone());
        let headers = request.headers_mut();
        headers
            .entry(USER_AGENT)
            .or_insert_with(|| self.agent.clone());
        Ok(self.handler.handle(request).await)
    }
}

/// How to reach and prove oneself to a server.
#[derive(Debug, Clone, Default)]
pub struct HttpsConfig {
    /// `https://host:port`.
    pub server: String,
    /// The authority that signed the server's certificate, PEM.
    pub ca: String,
    /// A client certificate and its key, PEM.
    pub identity: Option<(String, String)>,
    /// A file with a bearer token, read anew for each request since it rotates.
    pub token_file: Option<PathBuf>,
    /// A bearer token.
    pub token: Option<String>,
    /// The User-Agent, by which managed fields name their owner; `skiff` if empty.
    pub agent: &'static str,
}

type Https = HyperClient<hyper_rustls::HttpsConnector<HttpConnector>, Body>;

/// Watches that share a connection. A server bounds a connection's streams (ours and upstream's at 100), and what does not fit
/// waits until a watch ends.
const WATCHES_EACH: usize = 64;

/// Connections for watches only, so that they never keep other requests waiting.
struct Watching {
    make: Box<dyn Fn() -> Https + Send + Sync>,
    /// Each with a token that its watches hold.
    open: Mutex<Vec<(Https, Arc<()>)>>,
}

impl Watching {
    /// A client with room for one more watch, and what the watch holds.
    fn room(&self) -> (Https, Arc<()>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let free = open
            .iter()
            .find(|(_, token)| Arc::strong_count(token) <= WATCHES_EACH);
        if let Some((client, token)) = free {
            return (client.clone(), token.clone());
        }
        let (client, token) = ((self.make)(), Arc::new(()));
        open.push((client.clone(), token.clone()));
        (client, token)
    }
}

fn is_watch(uri: &http::Uri) -> bool {
    let mut parameters = uri.query().unwrap_or("").split('&');
    parameters.any(|p| matches!(p, "watch=true" | "watch=1"))
}

/// Speaks HTTPS to one server, over few connections (HTTP/2).
pub struct HttpsTransport {
    client: Https,
    watching: Watching,
    config: HttpsConfig,
}

impl HttpsTransport {
    /// Prepares connections; none is made yet.
    ///
    /// # Errors
    /// When a certificate cannot be used.
    pub fn new(config: HttpsConfig) -> Result<Self, Error> {
        let identity = config
            .identity
            .as_ref()
            .map(|(c, k)| (c.as_str(), k.as_str()));
        let tls = skiff_http::tls::client_config(&config.ca, identity, false)
            .map_err(|e| Error::Transport(e.to_string()))?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(std::time::Duration::from_secs(10)));
        // The connector sets ALPN itself and insists that the configuration did not.
        let mut tls = Arc::unwrap_or_clone(tls);
        tls.alpn_protocols.clear();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only()
            .enable_http1()
            .enable_http2()
            .wrap_connector(tcp);
        let make = move || {
            HyperClient::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .timer(TokioTimer::new())
                .http2_keep_alive_interval(std::time::Duration::from_secs(30))
                .http2_keep_alive_timeout(std::time::Duration::from_secs(15))
                .build(connector.clone())
        };
        Ok(Self {
            client: make(),
            watching: Watching {
                make: Box::new(make),
                open: Mutex::default(),
            },
            config,
        })
    }
}

#[async_trait::async_trait]
impl Transport for HttpsTransport {
    async fn send(&self, mut request: Request<Body>) -> Result<Response<Body>, Error> {
        let fail =
            |e: &dyn std::fmt::Display| Error::Transport(format!("{}: {e}", self.config.server));
        let path = request
            .uri()
            .path_and_query()
            .map_or("/", http::uri::PathAndQuery::as_str);
        let uri = format!("{}{path}", self.config.server);
        *request.uri_mut() = uri.parse().map_err(|e| fail(&e))?;
        let token = match (&self.config.token, &self.config.token_file) {
            (Some(token), _) => Some(token.clone()),
            (None, Some(file)) => Some(
                tokio::fs::read_to_string(file)
                    .await
                    .map_err(|e| fail(&e))?,
            ),
            (None, None) => None,
        };
        let headers = request.headers_mut();
        headers
            .entry(USER_AGENT)
            .or_insert(HeaderValue::from_static(match self.config.agent {
                "" => "skiff",
                agent => agent,
            }));
        if let Some(token) = token {
            let value = format!("Bearer {}", token.trim())
                .parse()
                .map_err(|e| fail(&e))?;
            request
                .headers_mut()
                .insert(http::header::AUTHORIZATION, value);
        }
        let (client, held) = if is_watch(request.uri()) {
            let (client, token) = self.watching.room();
            (client, Some(token))
        } else {
            (self.client.clone(), None)
        };
        let answer = client.request(request).await.map_err(|e| {
            let mut text = e.to_string();
            let mut source = std::error::Error::source(&e);
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            fail(&text)
        })?;
        Ok(answer.map(|body| {
            let body = body.map_err(Into::into).boxed_unsync();
            match held {
                Some(token) => body::holding(body, token),
                None => body,
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn watches_spread_over_connections_and_give_their_room_back() {
        let ca = pki::Authority::generate("test", world::World::seeded(1).now()).unwrap();
        let config = HttpsConfig {
            server: "https://192.0.2.1:6443".into(),
            ca: ca.cert_pem.clone(),
            ..HttpsConfig::default()
        };
        let transport = HttpsTransport::new(config).unwrap();
        let open = || transport.watching.open.lock().unwrap().len();
        let mut held: Vec<_> = (0..WATCHES_EACH)
            .map(|_| transport.watching.room())
            .collect();
        assert_eq!(open(), 1);
        held.push(transport.watching.room());
        assert_eq!(open(), 2);
        held.drain(..10);
        held.extend((0..10).map(|_| transport.watching.room()));
        assert_eq!(open(), 2);
    }

    #[test]
    fn watches_are_told_by_their_query() {
        let is = |uri: &'static str| is_watch(&http::Uri::from_static(uri));
        assert!(is("/api/v1/pods?a=b&watch=true") && is("/api/v1/pods?watch=1"));
        assert!(!is("/api/v1/pods") && !is("/api/v1/pods?watch=false"));
    }
}
