//! A watch: a stream of changes, one JSON object a line.

use bytes::{Bytes, BytesMut};
use http::Method;
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::value::RawValue;
use skiff_http::Body;

use crate::error::Status;
use crate::{Client, Error};

/// The longest line a server may send.
const MAX_LINE: usize = 64 << 20;

/// What a watch says about an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum EventType {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

/// One line of a watch.
#[derive(Debug, Deserialize)]
pub struct WatchEvent<'a> {
    #[serde(rename = "type")]
    pub kind: EventType,
    /// The object as JSON text, still to be decoded.
    #[serde(borrow)]
    pub object: &'a RawValue,
}

/// An open watch.
pub struct WatchStream {
    body: Body,
    buffer: BytesMut,
}

impl Client {
    /// Opens a watch on `path` (with its query, `watch=true` included).
    ///
    /// # Errors
    /// All of [`Error`].
    pub async fn watch(&self, path: &str) -> Result<WatchStream, Error> {
        let answer = self.open(Method::GET, path, None).await?;
        Ok(WatchStream {
            body: answer.into_body(),
            buffer: BytesMut::new(),
        })
    }
}

impl WatchStream {
    /// The next line; `None` when the server ended the watch.
    ///
    /// # Errors
    /// [`Error::Transport`] when the connection broke.
    pub async fn next_line(&mut self) -> Result<Option<Bytes>, Error> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|b| *b == b'\n') {
                let mut line = self.buffer.split_to(searched + at + 1);
                line.truncate(searched + at);
                return Ok(Some(line.freeze()));
            }
            searched = self.buffer.len();
            if searched > MAX_LINE {
                return Err(Error::Transport(
                    "a watch event is larger than 64 MiB".into(),
                ));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(e)) => return Err(Error::Transport(e.to_string())),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    /// Decodes a line; an `ERROR` event is the error it carries.
    ///
    /// # Errors
    /// All of [`Error`].
    pub fn decode(line: &[u8]) -> Result<WatchEvent<'_>, Error> {
        let event: WatchEvent<'_> = serde_json::from_slice(line)
            .map_err(|e| Error::Decode("a watch".into(), e.to_string()))?;
        if event.kind == EventType::Error {
            let status: Status = serde_json::from_str(event.object.get())
                .map_err(|e| Error::Decode("a watch's error".into(), e.to_string()))?;
            return Err(Error::Status(status));
        }
        Ok(event)
    }
}
