//! The API server: authentication, authorization, admission, registry, watch, over a revisioned store.
//!
//! A request is resolved once ([`request`]), its sender established ([`authn`]) and permitted ([`authz`]), then answered
//! by the generic registry ([`registry`]) or a path of its own. What differs per kind is in the `strategy` crate.

pub mod admission;
pub mod allocate;
pub mod answer;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod discovery;
mod document;
pub mod encryption;
mod exposition;
mod health;
mod impersonation;
mod metrics;
mod object;
mod openapi;
mod patch;
pub mod registry;
pub mod request;
mod resource;
pub mod reviews;
pub mod subresource;
pub mod trace;
pub mod user;
mod websocket;

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::Status;
use api::facts::Kind;
use futures::FutureExt as _;
use http::{HeaderValue, Request, Response};
use http_body::Body as _;
use pki::TokenKey;
use skiff_http::{Body, Cut, Handler, body, upgrade};
use store::Store;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use world::metrics::Counter;
use world::{Shutdown, World};

use allocate::{Allocator, ServiceRange};
use authn::Authenticator;
use authz::rbac::Rbac;
use authz::{Attributes, Authorizer, Decision};
use registry::Context;
use request::RequestInfo;

/// The largest body of a request, as upstream.
pub const MAX_BODY: usize = 3 << 20;
/// How long a request that is not a stream may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// An answer of more bytes than this must be read in time, too.
const LARGE_ANSWER: u64 = 64 << 10;
/// Events live this long.
const EVENT_LIFE: Duration = Duration::from_secs(3600);

/// Whether a kind is offered.
#[must_use]
pub fn served(kind: &'static Kind) -> bool {
    strategy::served(strategy::versions::stored_as(kind))
}

/// What an API server is made of.
pub struct Options {
    pub world: World,
    pub store: Arc<dyn Store>,
    /// Signs and checks ServiceAccount tokens.
    pub tokens: Arc<TokenKey>,
    /// The authority of client certificates, PEM.
    pub client_ca: String,
    /// How the API server proves itself to kubelets.
    pub kubelet_tls: Arc<rustls::ClientConfig>,
    /// Cluster IPs come from here.
    pub services: ServiceRange,
    /// Where Pods reach this API server.
    pub advertise: SocketAddr,
    pub shutdown: Shutdown,
    /// How a request's span joins its sender's trace; `None`: no spans are made.
    pub tracing: Option<trace::Join>,
}

/// An API server, ready to answer.
pub struct ApiServer {
    core: Arc<Core>,
}

/// What all of a server's requests share.
pub struct Core {
    pub world: World,
    pub store: Arc<dyn Store>,
    pub tokens: Arc<TokenKey>,
    pub client_ca: String,
    pub kubelet_tls: Arc<rustls::ClientConfig>,
    /// How Pods and Services are asked by TLS when a request is proxied to them: whatever certificate they have.
    pub pod_tls: Arc<rustls::ClientConfig>,
    pub authenticator: Authenticator,
    pub authorizer: Authorizer,
    pub allocator: Allocator,
    pub quota_locks: admission::quota::Locks,
    pub shutdown: Shutdown,
    advertise: SocketAddr,
    ready: AtomicBool,
    requests: metrics::Requests,
    /// The outcomes of health checks, which have a path of their own.
    slis: world::metrics::Metrics,
    /// Objects encoded to be stored.
    encodes: Counter,
    openapi: openapi::Documents,
    discovery: discovery::Documents,
    tracing: Option<trace::Join>,
}

impl Core {
    /// The facts of a kind that is served.
    ///
    /// # Errors
    /// 404 as upstream for what is not.
    pub fn kind(&self, group: &str, version: &str, plural: &str) -> Result<&'static Kind, Status> {
        api::facts::kind(group, version, plural)
            .filter(|k| served(k))
            .ok_or_else(Status::no_such_path)
    }

    /// Tells who keeps something of the stored objects in another form that one of them changed.
    fn written(&self, kind: &Kind) {
        if kind.group == "rbac.authorization.k8s.io" {
            self.authorizer.rbac.changed();
        }
    }

    /// How long an object of this kind lives.
    fn expiry(&self, kind: &Kind) -> Option<Duration> {
        (kind.plural == "events").then_some(EVENT_LIFE)
    }
}

impl ApiServer {
    /// Makes a server over its store and writes what every cluster has.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn start(options: Options) -> Result<Arc<Self>, Status> {
        let Options {
            world,
            store,
            tokens,
            client_ca,
            kubelet_tls,
            services,
            advertise,
            shutdown,
            tracing,
        } = options;
        let store = match tracing {
            Some(_) => Arc::new(trace::TracedStore(store)),
            None => store,
        };
        let rbac = Rbac::start(store.clone(), &shutdown)
            .await
            .map_err(registry::store_status)?;
        let range = store
            .range("/registry/services/specs/", None, None, 0)
            .await;
        let existing = range.map_err(registry::store_status)?.entries;
        let existing: Vec<_> = existing
            .iter()
            .map(|e| registry::codec::decode(e))
            .collect::<Result<_, _>>()?;
        let core = Arc::new(Core {
            authenticator: Authenticator {
                tokens: tokens.clone(),
                store: store.clone(),
            },
            requests: metrics::Requests::new(world.metrics.clone()),
            slis: world::metrics::Metrics::default(),
            encodes: world.metrics.counter(
                "skiff_apiserver_encodes_total",
                "Objects encoded to be stored.",
                "",
            ),
            authorizer: Authorizer {
                rbac,
                store: store.clone(),
            },
            allocator: Allocator::new(services, world.clone(), &existing),
            quota_locks: admission::quota::Locks::default(),
            world,
            store,
            tokens,
            client_ca,
            kubelet_tls,
            pod_tls: skiff_http::tls::unverified_client_config(None, true)
                .map_err(Status::internal)?,
            shutdown,
            advertise,
            ready: AtomicBool::new(false),
            openapi: openapi::Documents::new(),
            discovery: discovery::Documents::default(),
            tracing,
        });
        bootstrap::run(&core, advertise).await?;
        core.ready.store(true, Ordering::Release);
        Ok(Arc::new(Self { core }))
    }

    /// The store under this server.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.core.store
    }
}

#[async_trait::async_trait]
impl Handler for ApiServer {
    async fn handle(&self, mut request: Request<Body>) -> Response<Body> {
        let info = request::resolve(
            request.method(),
            request.uri().path(),
            request.uri().query().unwrap_or(""),
        );
        let core = self.core.clone();
        let streams = info.is_stream();
        let measured = core
            .requests
            .begin(&info, request.method(), request.headers());
        if streams {
            // What leaves HTTP ends later than its answer.
            request
                .extensions_mut()
                .insert(upgrade::Held(measured.clone()));
        }
        let failures = answer::encoding_of_failures(request.headers());
        let answered = if info.is_read_only() {
            guarded(core, info, request).await
        } else {
            // A write goes on when its caller is dropped, so that nothing is half done (DESIGN §6).
            let task = tokio::spawn(async move { guarded(core, info, request).await });
            match tokio::time::timeout(REQUEST_TIMEOUT, task).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => answer::failure(&Status::internal(error), failures),
                Err(_) => answer::failure(&timed_out(), failures),
            }
        };
        let size = http_body::Body::size_hint(answered.body()).exact();
        measured.answered(answered.status().as_u16(), size);
        if streams {
            return answered.map(|stream| body::holding(stream, measured));
        }
        answered
    }
}

/// Answers a request; a panic is a 500 and a log line, not a lost connection.
async fn guarded(core: Arc<Core>, info: RequestInfo, request: Request<Body>) -> Response<Body> {
    let (verb, path) = (info.verb, info.path.clone());
    let failures = answer::encoding_of_failures(request.headers());
    let work = AssertUnwindSafe(answer_request(core.clone(), info, request)).catch_unwind();
    match work.await {
        Ok(response) => response,
        Err(_) => {
            tracing::error!(verb, path, "a request handler panicked");
            let about = "Requests whose handler panicked.";
            core.world
                .metrics
                .counter("skiff_apiserver_panics_total", about, "")
                .inc();
            let why = "this request caused apiserver to panic. Look in the logs for details";
            answer::failure(&Status::internal(why), failures)
        }
    }
}

fn timed_out() -> Status {
    Status::timeout("request did not complete within the allotted timeout", 1)
}

async fn answer_request(
    core: Arc<Core>,
    info: RequestInfo,
    request: Request<Body>,
) -> Response<Body> {
    let (streams, reads) = (info.is_stream(), info.is_read_only());
    let failures = answer::encoding_of_failures(request.headers());
    let deadline = tokio::time::Instant::now() + REQUEST_TIMEOUT;
    let cut = request.extensions().get::<Cut>().cloned();
    let request = if streams || reads {
        request
    } else {
        request.map(|sent| body::until(deadline, sent))
    };
    let work = permitted(core, info, request);
    let answered = if streams {
        work.await
    } else if reads {
        let timed = tokio::time::timeout_at(deadline, work).await;
        timed.unwrap_or_else(|_| Err(timed_out()))
    } else {
        // Nobody drops a write half-way: only its answer is not waited for.
        work.await
    };
    let answered = match answered {
        Ok(answer) if !streams => Ok(read_until(deadline, answer, cut)),
        other => other,
    };
    answered.unwrap_or_else(|status| answer::failure(&status, failures))
}

/// Sees to it that a large answer is read by the deadline; if not, the connection is closed, as upstream does. What is smaller
/// waits in the connection alone, which has limits of its own.
fn read_until(
    deadline: tokio::time::Instant,
    answer: Response<Body>,
    cut: Option<Cut>,
) -> Response<Body> {
    let Some(cut) = cut.filter(|_| answer.body().size_hint().lower() > LARGE_ANSWER) else {
        return answer;
    };
    let done = CancellationToken::new();
    let read = done.clone();
    tokio::spawn(async move {
        let read = tokio::time::timeout_at(deadline, read.cancelled()).await;
        if read.is_err() {
            cut.cut();
        }
    });
    answer.map(|all| body::holding(all, done.drop_guard()))
}

/// Authenticates and answers what is permitted.
async fn permitted(
    core: Arc<Core>,
    info: RequestInfo,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let (head, request_body) = request.into_parts();
    let user = core
        .authenticator
        .authenticate(&head, core.world.now())
        .await?;
    let user = impersonation::impersonated(&core, user, &head.headers).await?;
    let request = Request::from_parts(head, request_body);
    let Some(join) = core.tracing else {
        return authorized(&core, user, &info, request).await;
    };
    let span = trace::request(&info, request.method(), request.headers(), &user, join);
    let answered = authorized(&core, user, &info, request);
    let answered = answered.instrument(span.clone()).await;
    let code = answered
        .as_ref()
        .map_or_else(|s| s.code, |a| a.status().as_u16());
    trace::answered(&span, code);
    answered
}

/// Authorizes and answers.
async fn authorized(
    core: &Arc<Core>,
    user: user::User,
    info: &RequestInfo,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let mut needed = vec![Attributes::of(info)];
    if info.opens_connection(request.headers()) {
        // A WebSocket begins with a GET; who may only read opens none (KEP-4006).
        needed.push(Attributes {
            verb: "create".into(),
            ..Attributes::of(info)
        });
    }
    for attributes in needed {
        if let Decision::NoOpinion(reason) = core.authorizer.authorize(&user, &attributes).await {
            return Err(refused(&attributes, &user, &reason));
        }
    }
    if !info.is_resource() {
        return health::serve(core, info, request.headers()).await;
    }
    let context = Context {
        user,
        agent: registry::managed::agent(request.headers()),
        warnings: std::sync::Mutex::default(),
    };
    let mut response = resource::serve(core, &context, info, request).await?;
    let warnings = context
        .warnings
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    for warning in warnings {
        let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(http::header::WARNING, value);
        }
    }
    Ok(response)
}

fn refused(attributes: &Attributes, user: &user::User, reason: &str) -> Status {
    let mut why = attributes.refusal(user);
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    let mut status = Status::forbidden(
        &attributes.group,
        &attributes.resource,
        &attributes.name,
        &why,
    );
    if attributes.resource.is_empty() {
        status.message = format!("forbidden: {why}");
    }
    status
}

/// Reads a whole request body.
async fn read_body(request: Body) -> Result<bytes::Bytes, Status> {
    body::collect(request, MAX_BODY)
        .await
        .map_err(|error| match error {
            body::CollectError::TooLarge(limit) => Status::too_large(format!("limit is {limit}")),
            body::CollectError::Broken(error) if error.is::<body::Late>() => timed_out(),
            body::CollectError::Broken(error) => {
                Status::bad_request(format!("the request's body broke off: {error}"))
            }
        })
}
