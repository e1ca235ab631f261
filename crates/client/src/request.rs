//! The verbs.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use skiff_http::{Body, body};

use crate::error::Status;
use crate::{Error, Resource, Transport};

/// The largest answer that is read as a whole.
const MAX_ANSWER: usize = 1 << 30;

/// How to change an object without sending all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Upstream's strategic merge.
    Strategic,
}

impl PatchKind {
    const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json-patch+json",
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
        }
    }
}

/// What happens to the objects that the deleted one owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// `metav1.DeleteOptions`.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preconditions: Option<Preconditions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation_policy: Option<Propagation>,
}

/// What must hold for a deletion.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preconditions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

impl DeleteOptions {
    /// Only if the object still has this UID.
    #[must_use]
    pub fn with_uid(mut self, uid: &str) -> Self {
        self.preconditions.get_or_insert_default().uid = Some(uid.to_owned());
        self
    }
}

/// Speaks to an API server. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
}

impl Client {
    /// A client over `transport`.
    pub fn new(transport: impl Transport) -> Self {
        Self {
            transport: Arc::new(transport),
        }
    }

    /// Sends a request as it is and gives the answer as it is, whatever its status: for streams.
    ///
    /// # Errors
    /// [`Error::Transport`].
    pub async fn raw(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        self.transport.send(request).await
    }

    /// Sends `content` and reads the whole answer; a non-2xx status is an error.
    ///
    /// # Errors
    /// All of [`Error`].
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        content: Option<(&str, Bytes)>,
    ) -> Result<Bytes, Error> {
        let what = format!("{method} {path}");
        let answer = self.open(method, path, content).await?;
        body::collect(answer.into_body(), MAX_ANSWER)
            .await
            .map_err(|e| Error::Transport(format!("{what}: {e}")))
    }

    /// As [`Self::call`], but the answer's body is still to be read.
    ///
    /// # Errors
    /// All of [`Error`].
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        content: Option<(&str, Bytes)>,
    ) -> Result<Response<Body>, Error> {
        let mut request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header(http::header::ACCEPT, "application/json");
        let bytes = content.map(|(kind, bytes)| {
            request.headers_mut().map(|h| {
                kind.parse()
                    .map(|v| h.insert(http::header::CONTENT_TYPE, v))
            });
            bytes
        });
        let request = request
            .body(body::full(bytes.unwrap_or_default()))
            .map_err(|e| Error::Transport(format!("{method} {path}: {e}")))?;
        let answer = self.transport.send(request).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let code = answer.status().as_u16();
        let bytes = body::collect(answer.into_body(), 1 << 20)
            .await
            .unwrap_or_default();
        let mut status: Status = serde_json::from_slice(&bytes).unwrap_or_else(|_| Status {
            message: String::from_utf8_lossy(&bytes).into_owned(),
            ..Status::default()
        });
        status.code = code;
        Err(Error::Status(status))
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        content: Option<(&str, Bytes)>,
    ) -> Result<T, Error> {
        let what = format!("{method} {path}");
        let bytes = self.call(method, path, content).await?;
        serde_json::from_slice(&bytes).map_err(|e| Error::Decode(what, e.to_string()))
    }

    /// Reads a subresource of an object: its `scale`.
    ///
    /// # Errors
    /// All of [`Error`].
    pub async fn get_subresource<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        subresource: &str,
    ) -> Result<T, Error> {
        let path = resource.path(namespace, name, subresource);
        self.json(Method::GET, &path, None).await
    }

    /// Reads one object.
    ///
    /// # Errors
    /// All of [`Error`].
    pub async fn get<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<T, Error> {
        self.json(Method::GET, &resource.path(namespace, name, ""), None)
            .await
    }

    /// Reads all objects of a namespace (`""`: of all). `query` is appended to the path, without `?`.
    ///
    /// # Errors
    /// All of [`Error`].
    pub async fn list<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: &str,
        query: &str,
    ) -> Result<List<T>, Error> {
        let path = resource.path(namespace, "", "");
        let path = if query.is_empty() {
            path
        } else {
            format!("{path}?{query}")
        };
        self.json(Method::GET, &path, None).await
    }

    /// Creates an object and returns it as stored.
    ///
    /// # Errors
    /// All of [`Error`].
    pub async fn create<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: &str,
        object: &impl Serialize,
    ) -> Result<T, Error> {
        let path = resource.path(namespace, "", "");
        self.json(Method::POST, &path, Some(encode(&path, object)?))
            .await
    }

    /// Posts to a subresource (`binding`, `eviction`, `token`).
    ///
    /// # Errors
    /// All of [`Error`].
    pub async fn create_subresource<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        subresource: &str,
        object: &impl Serialize,
    ) -> Result<T, Error> {
        let path = resource.path(namespace, name, subresource);
        self.json(Method::POST, &path, Some(encode(&path, object)?))
            .await
    }

    /// Replaces an object, or its `subresource` (`status`, `scale`; `""`: the object).
    ///
    /// # Errors
    /// All of [`Error`]; a conflict when `metadata.resourceVersion` is not the current one.
    pub async fn update<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        subresource: &str,
        object: &impl Serialize,
    ) -> Result<T, Error> {
        let path = resource.path(namespace, name, subresource);
        self.json(Method::PUT, &path, Some(encode(&path, object)?))
            .await
    }

    /// Patches an object, or its `subresource`.
    ///
    /// # Errors
    /// All of [`Error`].
    pub async fn patch<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        subresource: &str,
        kind: PatchKind,
        patch: &impl Serialize,
    ) -> Result<T, Error> {
        let path = resource.path(namespace, name, subresource);
        let (_, bytes) = encode(&path, patch)?;
        self.json(Method::PATCH, &path, Some((kind.content_type(), bytes)))
            .await
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// All of [`Error`].
    pub async fn delete(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(), Error> {
        let path = resource.path(namespace, name, "");
        self.call(Method::DELETE, &path, Some(encode(&path, options)?))
            .await
            .map(|_| ())
    }
}

fn encode(path: &str, object: &impl Serialize) -> Result<(&'static str, Bytes), Error> {
    let bytes = serde_json::to_vec(object)
        .map_err(|e| Error::Decode(format!("our own body for {path}"), e.to_string()))?;
    Ok(("application/json", bytes.into()))
}

/// A list as the API sends it.
#[derive(Debug, serde::Deserialize)]
pub struct List<T> {
    #[serde(default)]
    pub metadata: ListMeta,
    #[serde(default = "Vec::new")]
    pub items: Vec<T>,
}

/// `metav1.ListMeta`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ListMeta {
    pub resource_version: String,
    #[serde(rename = "continue")]
    pub continue_token: String,
}
