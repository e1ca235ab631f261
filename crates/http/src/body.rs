//! One body type for requests and answers, buffered or streamed.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};

/// What a stream of body bytes can fail with.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A request's or an answer's body.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// A body that is all there.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// No body.
#[must_use]
pub fn empty() -> Body {
    full(Bytes::new())
}

/// A body fed through a bounded queue: what a watch or a log stream is. Ends when the sender is dropped.
#[must_use]
pub fn channel(bound: usize) -> (tokio::sync::mpsc::Sender<Bytes>, Body) {
    let (tx, rx) = tokio::sync::mpsc::channel(bound);
    (tx, queue(rx))
}

/// The same of a queue that exists.
#[must_use]
pub fn queue(pieces: tokio::sync::mpsc::Receiver<Bytes>) -> Body {
    Streamed(pieces).boxed_unsync()
}

/// A body of pieces that arrive over a queue.
struct Streamed(tokio::sync::mpsc::Receiver<Bytes>);

impl http_body::Body for Streamed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, BodyError>>> {
        self.0
            .poll_recv(cx)
            .map(|piece| piece.map(|b| Ok(http_body::Frame::data(b))))
    }
}

/// The body did not come in time.
#[derive(Debug, thiserror::Error)]
#[error("it did not come in time")]
pub struct Late;

/// `body`, which breaks with [`Late`] if it has not ended by `deadline`.
pub fn until(deadline: tokio::time::Instant, body: Body) -> Body {
    Until {
        body,
        late: Box::pin(tokio::time::sleep_until(deadline)),
    }
    .boxed_unsync()
}

struct Until {
    body: Body,
    late: std::pin::Pin<Box<tokio::time::Sleep>>,
}

impl http_body::Body for Until {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, BodyError>>> {
        let polled = std::pin::Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_pending() && self.late.as_mut().poll(cx).is_ready() {
            return std::task::Poll::Ready(Some(Err(Late.into())));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// `body`, which keeps `what` until it ends or is dropped.
pub fn holding(body: Body, what: impl Send + Unpin + 'static) -> Body {
    Holding {
        body,
        what: Some(what),
    }
    .boxed_unsync()
}

struct Holding<T> {
    body: Body,
    what: Option<T>,
}

impl<T: Send + Unpin + 'static> http_body::Body for Holding<T> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, BodyError>>> {
        let polled = std::pin::Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, std::task::Poll::Ready(None)) {
            self.what = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// A body made of chunks that already exist: a LIST is the concatenation of shared bytes.
#[must_use]
pub fn chunks(chunks: Vec<Bytes>) -> Body {
    let length = chunks.iter().map(|c| c.len() as u64).sum();
    Chunks {
        chunks: chunks.into_iter(),
        left: length,
    }
    .boxed_unsync()
}

struct Chunks {
    chunks: std::vec::IntoIter<Bytes>,
    left: u64,
}

impl http_body::Body for Chunks {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, BodyError>>> {
        let next = self.chunks.next();
        if let Some(chunk) = &next {
            self.left -= chunk.len() as u64;
        }
        std::task::Poll::Ready(next.map(|b| Ok(http_body::Frame::data(b))))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.left)
    }
}

/// Why [`collect`] gave up.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the body broke off: {0}")]
    Broken(BodyError),
}

/// Reads a whole body of at most `limit` bytes.
///
/// # Errors
/// When it is larger, or the connection breaks.
pub async fn collect(mut body: Body, limit: usize) -> Result<Bytes, CollectError> {
    // Most bodies are one frame, which is passed on without a copy.
    let mut first = Bytes::new();
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(CollectError::Broken)?.into_data() else {
            continue;
        };
        if first.len() + all.len() + data.len() > limit {
            return Err(CollectError::TooLarge(limit));
        }
        if first.is_empty() && all.is_empty() {
            first = data;
            continue;
        }
        if all.is_empty() {
            all = std::mem::take(&mut first).to_vec();
        }
        all.extend_from_slice(&data);
    }
    Ok(if all.is_empty() { first } else { all.into() })
}
