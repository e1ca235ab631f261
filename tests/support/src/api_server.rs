//! An API server in memory, a fresh one for each test.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use apiserver::ApiServer;
use apiserver::allocate::ServiceRange;
use apiserver::registry::MetaIndexer;
use client::{Client, InProcess, LocalTransport};
use http::{Method, Request};
use serde_json::{Value, json};
use skiff_http::{Handler, body};
use world::{Shutdown, World};

/// A user who may do everything, for [`Server::raw`].
pub const ADMIN: Option<(&str, &[&str])> = Some(("admin", &["system:masters"]));

/// A running API server.
pub struct Server {
    pub api: Arc<ApiServer>,
    pub world: World,
    pub shutdown: Shutdown,
    /// Signs the server's and the clients' certificates.
    ca: pki::Authority,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub body: Value,
    pub warnings: Vec<String>,
    pub text: String,
    pub bytes: bytes::Bytes,
    /// `Content-Type`.
    pub content_type: String,
    pub headers: http::HeaderMap,
}

impl Answer {
    /// A header's value; empty if there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
    }
}

impl Answer {
    /// `404 NotFound: pods "a" not found`, for comparing.
    #[must_use]
    pub fn status(&self) -> String {
        let (reason, message) = (self.body["reason"].as_str(), self.body["message"].as_str());
        format!(
            "{} {}: {}",
            self.code,
            reason.unwrap_or(""),
            message.unwrap_or("")
        )
    }

    /// The answer's object, if the request succeeded.
    ///
    /// # Panics
    /// If it did not.
    #[must_use]
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.code), "{}", self.status());
        self.body
    }
}

impl Server {
    /// Starts one over an empty store.
    ///
    /// # Panics
    /// If it cannot start.
    pub async fn start() -> Self {
        Self::start_in(World::seeded(7)).await
    }

    /// As [`Self::start`], in a world of the caller's: [`World::real`] for programs that compare clocks.
    ///
    /// # Panics
    /// If it cannot start.
    pub async fn start_in(world: World) -> Self {
        let shutdown = Shutdown::new();
        let store = store::Memory::new(Arc::new(MetaIndexer), world.clock.clone());
        let (tokens, _) = pki::TokenKey::generate().expect("a token key");
        let ca = pki::Authority::generate("test-ca", world.now()).expect("an authority");
        let api = ApiServer::start(apiserver::Options {
            world: world.clone(),
            store: Arc::new(store),
            tokens: Arc::new(tokens),
            client_ca: ca.cert_pem.clone(),
            kubelet_tls: skiff_http::tls::client_config(&ca.cert_pem, None, true)
                .expect("a TLS configuration"),
            services: ServiceRange {
                base: Ipv4Addr::new(10, 43, 0, 0),
                prefix: 16,
            },
            advertise: SocketAddr::from(([192, 0, 2, 10], 6443)),
            shutdown: shutdown.clone(),
            tracing: None,
        })
        .await
        .expect("the API server starts");
        Self {
            api,
            world,
            shutdown,
            ca,
        }
    }

    /// An administrator's client over HTTPS, to a port of its own on loopback. Needs real time.
    ///
    /// # Panics
    /// If it cannot be served.
    pub async fn https(&self) -> Client {
        let (server, admin) = self.serve().await;
        let config = client::HttpsConfig {
            server,
            ca: self.ca.cert_pem.clone(),
            identity: Some((admin.cert_pem, admin.key_pem)),
            ..client::HttpsConfig::default()
        };
        Client::new(client::HttpsTransport::new(config).expect("a transport"))
    }

    /// A kubeconfig of an administrator, for a port of its own on loopback. Needs real time.
    ///
    /// # Panics
    /// If it cannot be served.
    pub async fn kubeconfig(&self) -> String {
        let (server, admin) = self.serve().await;
        pki::kubeconfig::with_certificate("test", &server, &self.ca.cert_pem, "admin", &admin)
    }

    /// Serves on loopback; the URL, and an administrator's certificate.
    async fn serve(&self) -> (String, pki::Leaf) {
        let address = self.listen(self.api.clone()).await;
        let admin = self.leaf("admin", &["system:masters"], pki::Usage::Client);
        (format!("https://{address}"), admin)
    }

    /// Serves `handler` by TLS on a port of its own on loopback. Needs real time.
    ///
    /// # Panics
    /// If it cannot be served.
    pub async fn listen<H: Handler>(&self, handler: Arc<H>) -> SocketAddr {
        let serving = self.leaf("server", &[], pki::Usage::Server);
        let serving = skiff_http::tls::ServingCertificate::new(&serving.cert_pem, &serving.key_pem);
        let tls =
            skiff_http::tls::server_config(serving.expect("a certificate"), &self.ca.cert_pem);
        let listener = skiff_http::Server::bind((Ipv4Addr::LOCALHOST, 0).into())
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(listener.serve(tls.expect("TLS"), handler, self.shutdown.clone()));
        address
    }

    /// An administrator's TLS, for one HTTP/1.1 connection.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn admin_tls(&self) -> Arc<rustls::ClientConfig> {
        self.admin_tls_of(true)
    }

    /// The same, which with `http1_only` unset agrees on HTTP/2.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn admin_tls_of(&self, http1_only: bool) -> Arc<rustls::ClientConfig> {
        let admin = self.leaf("admin", &["system:masters"], pki::Usage::Client);
        let identity = Some((admin.cert_pem.as_str(), admin.key_pem.as_str()));
        skiff_http::tls::client_config(&self.ca.cert_pem, identity, http1_only).expect("TLS")
    }

    fn leaf(&self, name: &str, groups: &[&str], usage: pki::Usage) -> pki::Leaf {
        // Real clocks check these certificates.
        let now = World::real().now();
        let request = pki::LeafRequest {
            common_name: name.into(),
            organizations: groups.iter().map(|g| (*g).to_owned()).collect(),
            dns_names: vec![],
            ips: vec![Ipv4Addr::LOCALHOST.into()],
            usage,
        };
        self.ca.issue(&request, now).expect("a certificate")
    }

    /// A client that may do everything.
    #[must_use]
    pub fn admin(&self) -> Client {
        self.client("admin", &["system:masters"])
    }

    /// A client that is `user` in `groups`.
    #[must_use]
    pub fn client(&self, user: &str, groups: &[&str]) -> Client {
        Client::new(LocalTransport::new(self.api.clone(), user, groups))
    }

    /// Sends one request as the administrator. `body` is JSON.
    pub async fn send(&self, method: &str, path: &str, body: &Value) -> Answer {
        let headers = [("content-type", "application/json")];
        let bytes = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        self.raw(
            Some(("admin", &["system:masters"])),
            method,
            path,
            &headers,
            bytes,
        )
        .await
    }

    /// Sends one request as `user` (nobody: anonymous) with these headers and this body.
    ///
    /// # Panics
    /// If the request cannot be built or the answer not be read.
    pub async fn raw(
        &self,
        user: Option<(&str, &[&str])>,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        bytes: impl Into<bytes::Bytes>,
    ) -> Answer {
        let method: Method = method.parse().expect("a method");
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(body::full(bytes)).expect("a request");
        if let Some((user, groups)) = user {
            let groups = groups.iter().map(|g| (*g).to_owned()).collect();
            request.extensions_mut().insert(InProcess {
                user: user.into(),
                groups,
            });
        }
        let answer = self.api.handle(request).await;
        let code = answer.status().as_u16();
        let warnings = answer.headers().get_all("warning").iter();
        let warnings = warnings
            .filter_map(|w| w.to_str().ok())
            .map(str::to_owned)
            .collect();
        let content_type = answer.headers().get("content-type");
        let content_type = content_type.and_then(|v| v.to_str().ok());
        let content_type = content_type.unwrap_or_default().to_owned();
        let headers = answer.headers().clone();
        let bytes = body::collect(answer.into_body(), 64 << 20)
            .await
            .expect("a body");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Answer {
            code,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
            warnings,
            text,
            bytes,
            content_type,
            headers,
        }
    }

    /// Creates a namespace with its default ServiceAccount.
    pub async fn namespace(&self, name: &str) {
        drop(
            self.send(
                "POST",
                "/api/v1/namespaces",
                &json!({"metadata": {"name": name}}),
            )
            .await
            .ok(),
        );
        let path = format!("/api/v1/namespaces/{name}/serviceaccounts");
        drop(
            self.send("POST", &path, &json!({"metadata": {"name": "default"}}))
                .await
                .ok(),
        );
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A Pod with one container.
#[must_use]
pub fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "image": "localhost/test:1"}]},
    })
}
