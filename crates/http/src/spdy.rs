//! SPDY/3.1, as far as Kubernetes' streaming sub-protocols use it.
//!
//! `kubectl exec`, `attach` and `port-forward` speak it, through the API server, to the kubelet: many byte streams in one
//! connection, each opened with a few headers and closed one half at a time. The framing follows
//! <https://datatracker.ietf.org/doc/html/draft-mbelshe-httpbis-spdy-00>.
//!
//! [`Decoder`] and [`Encoder`] turn bytes to [`Frame`]s and back and touch nothing else. A [`Connection`] runs two tasks:
//! the reader hands bytes to streams, the writer takes frames from all streams off one bounded queue.
//!
//! Where it differs: windows are granted but not waited for. Go's client neither sends nor heeds `WINDOW_UPDATE`, so a
//! server that waited would stop for good after 64 KiB. Instead, a stream that nobody reads holds up the connection once
//! [`STREAM_QUEUE`] pieces wait, and TCP slows the peer down.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, PollSender};

/// Bytes a control frame may have; those of Kubernetes have a few hundred.
const MAX_CONTROL: usize = 64 * 1024;
/// Bytes a header block may unpack to, so that a small frame cannot fill the memory.
const MAX_HEADERS: usize = 64 * 1024;
/// Headers one block may have.
const MAX_HEADER_COUNT: u32 = 256;
/// Streams a connection may have open; a forwarded TCP connection takes two.
const MAX_STREAMS: usize = 1024;
/// Bytes read at once, and so the largest piece that waits for a stream's reader.
const READ_SIZE: usize = 16 * 1024;
/// Pieces that wait for a stream's reader before the connection is held up.
const STREAM_QUEUE: usize = 64;
/// Frames that wait to be written before writers are held up.
const WRITE_QUEUE: usize = 32;
/// Bytes of data in one frame that we send.
const MAX_DATA: usize = 32 * 1024;
/// Bytes after which the peer's window is topped up: half of the initial window.
const WINDOW_STEP: usize = 32 * 1024;
/// How long a closing connection may take to send what is queued.
const CLOSE_PATIENCE: Duration = Duration::from_secs(60);
/// How long a closed connection waits for the peer to close too. Closing first would make TCP throw away what it has not
/// delivered.
const LINGER: Duration = Duration::from_secs(5);

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the SPDY frame is of version {0}, not 3")]
    Version(u16),
    #[error("the SPDY control frame of type {kind} has {length} bytes, which is {fault}")]
    Length {
        kind: u16,
        length: usize,
        fault: &'static str,
    },
    #[error("the SPDY header block cannot be unpacked: {0}")]
    Headers(String),
    #[error("the SPDY connection broke: {0}")]
    Broken(#[from] std::io::Error),
    #[error("the SPDY connection is closed")]
    Closed,
}

/// What a stream is opened with. Names are lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The value of `name`, in any case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Headers {
    fn from(pairs: [(&str, &str); N]) -> Self {
        let pairs = pairs.iter();
        Self(pairs.map(|&(n, v)| (n.to_owned(), v.to_owned())).collect())
    }
}

/// Why a stream was reset (section 2.4.2).
pub mod status {
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const REFUSED_STREAM: u32 = 3;
    pub const STREAM_IN_USE: u32 = 8;
}

/// One frame. Data frames arrive in pieces, the last of which carries `fin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    SynStream {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    SynReply {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    Reset {
        stream: u32,
        status: u32,
    },
    /// Its values are not used.
    Settings,
    Ping(u32),
    GoAway {
        last: u32,
        status: u32,
    },
    Headers {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    WindowUpdate {
        stream: u32,
        delta: u32,
    },
    Data {
        stream: u32,
        fin: bool,
        bytes: Bytes,
    },
    /// A control frame of a type that the specification doesn't know; to be passed over.
    Unknown(u16),
}

/// The dictionary that both ends prime their header compression with (section 2.6.10.1): first these, each behind its length
/// as four bytes, then [`DICTIONARY_TEXT`].
const DICTIONARY_WORDS: &str = "options|head|post|put|delete|trace|accept|accept-charset|\
    accept-encoding|accept-language|accept-ranges|age|allow|authorization|cache-control|\
    connection|content-base|content-encoding|content-language|content-length|content-location|\
    content-md5|content-range|content-type|date|etag|expect|expires|from|host|if-match|\
    if-modified-since|if-none-match|if-range|if-unmodified-since|last-modified|location|\
    max-forwards|pragma|proxy-authenticate|proxy-authorization|range|referer|retry-after|server|\
    te|trailer|transfer-encoding|upgrade|user-agent|vary|via|warning|www-authenticate|method|get|\
    status|200 OK|version|HTTP/1.1|url|public|set-cookie|keep-alive|origin";

/// See [`DICTIONARY_WORDS`].
const DICTIONARY_TEXT: &str = "1001012012022052063003023033043053063074024054064074084094104114124\
    13414415416417502504505203 Non-Authoritative Information204 No Content301 Moved Permanently\
    400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error\
    501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec \
    00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,\
    image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivate\
    max-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let mut bytes = Vec::with_capacity(1423);
        for word in DICTIONARY_WORDS.split('|') {
            bytes.put_u32(word.len() as u32);
            bytes.put_slice(word.as_bytes());
        }
        bytes.put_slice(DICTIONARY_TEXT.as_bytes());
        bytes
    })
}

/// Unpacks the header blocks of one direction, in the order in which they were sent.
struct Inflate(Decompress);

impl Inflate {
    fn unpack(&mut self, mut packed: &[u8]) -> Result<Headers, Error> {
        let fault = |e: &dyn std::fmt::Display| Error::Headers(e.to_string());
        let mut plain = Vec::new();
        let mut piece = [0u8; 4096];
        loop {
            let (read, written) = (self.0.total_in(), self.0.total_out());
            let result = self.0.decompress(packed, &mut piece, FlushDecompress::Sync);
            let read = (self.0.total_in() - read) as usize;
            let written = (self.0.total_out() - written) as usize;
            packed = packed.get(read..).unwrap_or_default();
            plain.extend_from_slice(&piece[..written.min(piece.len())]);
            if plain.len() > MAX_HEADERS {
                return Err(fault(&"it is too large"));
            }
            match result {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(dictionary()).map_err(|e| fault(&e))?;
                }
                Err(error) => return Err(fault(&error)),
                Ok(_) if read == 0 && written == 0 => break,
                Ok(_) => {}
            }
        }
        if !packed.is_empty() {
            return Err(fault(&"bytes are left over"));
        }
        parse_headers(&plain).ok_or_else(|| fault(&"its lengths do not add up"))
    }
}

fn parse_headers(mut plain: &[u8]) -> Option<Headers> {
    fn text(plain: &mut &[u8]) -> Option<String> {
        let length = plain.try_get_u32().ok()? as usize;
        let (text, rest) = plain.split_at_checked(length)?;
        *plain = rest;
        Some(String::from_utf8_lossy(text).into_owned())
    }
    let count = plain.try_get_u32().ok()?;
    if count > MAX_HEADER_COUNT {
        return None;
    }
    let mut headers = Headers::default();
    for _ in 0..count {
        let name = text(&mut plain)?;
        headers.0.push((name, text(&mut plain)?));
    }
    Some(headers)
}

/// Turns one direction's bytes into frames.
pub struct Decoder {
    headers: Inflate,
    /// The data frame that has begun: its stream, whether it is the stream's last, and how many bytes are to come.
    data: Option<(u32, bool, usize)>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            headers: Inflate(Decompress::new(true)),
            data: None,
        }
    }
}

impl Decoder {
    /// Takes the next frame off `bytes`; `None` when more bytes are needed.
    ///
    /// # Errors
    /// When the bytes are no SPDY/3 or exceed a limit. The connection cannot be used any more.
    pub fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, Error> {
        if self.data.is_none() {
            let Some(&[a, b, c, d, flags, l2, l1, l0]) = bytes.first_chunk::<8>() else {
                return Ok(None);
            };
            let length = u32::from_be_bytes([0, l2, l1, l0]) as usize;
            if a & 0x80 != 0 {
                let version = u16::from_be_bytes([a & 0x7f, b]);
                let kind = u16::from_be_bytes([c, d]);
                if version != 3 {
                    return Err(Error::Version(version));
                }
                if length > MAX_CONTROL {
                    let fault = "too many";
                    return Err(Error::Length {
                        kind,
                        length,
                        fault,
                    });
                }
                if bytes.len() < 8 + length {
                    return Ok(None);
                }
                bytes.advance(8);
                let body = bytes.split_to(length);
                return self.control(kind, flags, &body).map(Some);
            }
            bytes.advance(8);
            let stream = u32::from_be_bytes([a, b, c, d]);
            self.data = Some((stream, flags & 1 != 0, length));
        }
        let Some((stream, fin, left)) = self.data else {
            return Ok(None);
        };
        if bytes.is_empty() && left > 0 {
            return Ok(None);
        }
        let piece = bytes.split_to(left.min(bytes.len())).freeze();
        let left = left - piece.len();
        self.data = (left > 0).then_some((stream, fin, left));
        Ok(Some(Frame::Data {
            stream,
            fin: fin && left == 0,
            bytes: piece,
        }))
    }

    fn control(&mut self, kind: u16, flags: u8, body: &[u8]) -> Result<Frame, Error> {
        let short = Error::Length {
            kind,
            length: body.len(),
            fault: "too few",
        };
        let word = |at: usize| {
            let bytes = body.get(at..)?.first_chunk::<4>()?;
            Some(u32::from_be_bytes(*bytes))
        };
        let Some(first) = word(0) else {
            return Err(short);
        };
        let (stream, fin) = (first & 0x7fff_ffff, flags & 1 != 0);
        Ok(match (kind, word(4)) {
            (1, _) => Frame::SynStream {
                stream,
                fin,
                headers: self.headers.unpack(body.get(10..).ok_or(short)?)?,
            },
            (2, _) => Frame::SynReply {
                stream,
                fin,
                headers: self.headers.unpack(&body[4..])?,
            },
            (3, Some(status)) => Frame::Reset { stream, status },
            (4, _) => Frame::Settings,
            (6, _) => Frame::Ping(first),
            (7, status) => Frame::GoAway {
                last: stream,
                status: status.unwrap_or_default(),
            },
            (8, _) => Frame::Headers {
                stream,
                fin,
                headers: self.headers.unpack(&body[4..])?,
            },
            (9, Some(delta)) => Frame::WindowUpdate {
                stream,
                delta: delta & 0x7fff_ffff,
            },
            (3 | 9, None) => return Err(short),
            (other, _) => Frame::Unknown(other),
        })
    }
}

/// Turns frames into one direction's bytes.
pub struct Encoder {
    headers: Compress,
    primed: bool,
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            headers: Compress::new(Compression::fast(), true),
            primed: false,
        }
    }
}

impl Encoder {
    /// Appends `frame` to `out`. Data must have less than 16 MiB.
    ///
    /// # Errors
    /// When headers cannot be packed.
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<(), Error> {
        let mut body = Vec::new();
        let (kind, flags) = match frame {
            Frame::Data { stream, fin, bytes } => {
                out.put_u32(stream & 0x7fff_ffff);
                out.put_u8(u8::from(*fin));
                out.put_uint(bytes.len() as u64, 3);
                out.put_slice(bytes);
                return Ok(());
            }
            Frame::SynStream {
                stream,
                fin,
                headers,
            } => {
                body.put_u32(*stream);
                body.put_u32(0); // no associated stream
                body.put_u16(0); // highest priority, no slot
                self.pack(headers, &mut body)?;
                (1, *fin)
            }
            Frame::SynReply {
                stream,
                fin,
                headers,
            } => {
                body.put_u32(*stream);
                self.pack(headers, &mut body)?;
                (2, *fin)
            }
            Frame::Reset { stream, status } => {
                body.put_u32(*stream);
                body.put_u32(*status);
                (3, false)
            }
            Frame::Settings => {
                body.put_u32(0);
                (4, false)
            }
            Frame::Ping(id) => {
                body.put_u32(*id);
                (6, false)
            }
            Frame::GoAway { last, status } => {
                body.put_u32(*last);
                body.put_u32(*status);
                (7, false)
            }
            Frame::Headers {
                stream,
                fin,
                headers,
            } => {
                body.put_u32(*stream);
                self.pack(headers, &mut body)?;
                (8, *fin)
            }
            Frame::WindowUpdate { stream, delta } => {
                body.put_u32(*stream);
                body.put_u32(*delta);
                (9, false)
            }
            Frame::Unknown(_) => return Ok(()),
        };
        out.put_u16(0x8003);
        out.put_u16(kind);
        out.put_u8(u8::from(flags));
        out.put_uint(body.len() as u64, 3);
        out.put_slice(&body);
        Ok(())
    }

    fn pack(&mut self, headers: &Headers, out: &mut Vec<u8>) -> Result<(), Error> {
        let fault = |e: &dyn std::fmt::Display| Error::Headers(e.to_string());
        if !self.primed {
            let primed = self.headers.set_dictionary(dictionary());
            primed.map_err(|e| fault(&e))?;
            self.primed = true;
        }
        let mut plain = Vec::new();
        plain.put_u32(headers.0.len() as u32);
        for (name, value) in &headers.0 {
            for text in [name, value] {
                plain.put_u32(text.len() as u32);
                plain.put_slice(text.as_bytes());
            }
        }
        let mut rest = plain.as_slice();
        let mut piece = [0u8; 4096];
        loop {
            let (read, written) = (self.headers.total_in(), self.headers.total_out());
            let result = self.headers.compress(rest, &mut piece, FlushCompress::Sync);
            result.map_err(|e| fault(&e))?;
            let read = (self.headers.total_in() - read) as usize;
            let written = (self.headers.total_out() - written) as usize;
            rest = rest.get(read..).unwrap_or_default();
            out.extend_from_slice(&piece[..written.min(piece.len())]);
            // Room left in the piece says that the flush is complete.
            if rest.is_empty() && written < piece.len() {
                return Ok(());
            }
        }
    }
}

/// What the writer is told.
enum Command {
    Frame(Frame),
    /// Send what is queued, then `GOAWAY`, and shut the connection down.
    Close,
}

/// One stream as the connection sees it.
struct Entry {
    /// Where its bytes go; gone once the peer has finished its half.
    inbound: Option<mpsc::Sender<Bytes>>,
    /// Whether we have not finished our half.
    outbound: bool,
    reset: Arc<AtomicBool>,
}

struct Shared {
    streams: Mutex<HashMap<u32, Entry>>,
    /// Cancelled when either end is gone.
    gone: CancellationToken,
}

impl Shared {
    fn streams(&self) -> MutexGuard<'_, HashMap<u32, Entry>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(self: &Arc<Self>, id: u32, headers: Headers, out: &mpsc::Sender<Command>) -> Stream {
        let (sender, receiver) = mpsc::channel(STREAM_QUEUE);
        let reset = Arc::new(AtomicBool::new(false));
        let entry = Entry {
            inbound: Some(sender),
            outbound: true,
            reset: reset.clone(),
        };
        self.streams().insert(id, entry);
        Stream {
            id,
            headers,
            incoming: Incoming::new(receiver),
            out: PollSender::new(out.clone()),
            taken: 0,
            reset,
            finished: false,
        }
    }

    fn peer_finished(&self, id: u32) {
        let mut streams = self.streams();
        if let Some(entry) = streams.get_mut(&id) {
            entry.inbound = None;
            if !entry.outbound {
                streams.remove(&id);
            }
        }
    }

    fn we_finished(&self, id: u32) {
        let mut streams = self.streams();
        if let Some(entry) = streams.get_mut(&id) {
            entry.outbound = false;
            if entry.inbound.is_none() {
                streams.remove(&id);
            }
        }
    }
}

/// The streams that the peer opens.
pub struct Accept(mpsc::Receiver<Stream>);

impl Accept {
    /// The next stream; `None` once the peer is gone. When this is dropped, streams that come later are refused.
    pub async fn next(&mut self) -> Option<Stream> {
        self.0.recv().await
    }
}

/// A connection. Dropped, it closes at once; [`Connection::close`] sends what is queued first.
pub struct Connection {
    shared: Arc<Shared>,
    out: mpsc::Sender<Command>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
    /// The next stream that this end opens.
    next: tokio::sync::Mutex<u32>,
}

impl Connection {
    /// The end that accepted the connection.
    pub fn server<T>(io: T) -> (Self, Accept)
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        Self::start(io, 2)
    }

    /// The end that made the connection.
    pub fn client<T>(io: T) -> (Self, Accept)
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        Self::start(io, 1)
    }

    fn start<T>(io: T, first: u32) -> (Self, Accept)
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (from, to) = tokio::io::split(io);
        let (out, commands) = mpsc::channel(WRITE_QUEUE);
        let (accepted, accept) = mpsc::channel(16);
        let shared = Arc::new(Shared {
            streams: Mutex::default(),
            gone: CancellationToken::new(),
        });
        let reader = Reader {
            shared: shared.clone(),
            out: out.clone(),
            accepted,
            parity: 1 - first % 2,
            highest: 0,
        };
        let connection = Self {
            reader: tokio::spawn(reader.run(from)),
            writer: tokio::spawn(write(to, commands, shared.clone())),
            shared,
            out,
            next: tokio::sync::Mutex::new(first),
        };
        (connection, Accept(accept))
    }

    /// Opens a stream. Doesn't wait for the peer's reply.
    ///
    /// # Errors
    /// When the connection is closed or has used up its numbers.
    pub async fn open(&self, headers: Headers) -> Result<Stream, Error> {
        // Held until the frame is queued: numbers must go out in order.
        let mut next = self.next.lock().await;
        let id = *next;
        if id > i32::MAX as u32 {
            return Err(Error::Closed);
        }
        *next += 2;
        let stream = self.shared.add(id, headers.clone(), &self.out);
        let frame = Frame::SynStream {
            stream: id,
            fin: false,
            headers,
        };
        let sent = self.out.send(Command::Frame(frame)).await;
        sent.map_err(|_| Error::Closed)?;
        Ok(stream)
    }

    /// Ends once the peer is gone.
    pub async fn gone(&self) {
        self.shared.gone.cancelled().await;
    }

    /// Sends what is queued, ends every stream and closes.
    pub async fn close(mut self) {
        if self.out.send(Command::Close).await.is_err() {
            return;
        }
        if tokio::time::timeout(CLOSE_PATIENCE, &mut self.writer)
            .await
            .is_err()
        {
            tracing::debug!("a SPDY peer did not take what was left for it");
            return;
        }
        if tokio::time::timeout(LINGER, &mut self.reader)
            .await
            .is_err()
        {
            tracing::trace!("a SPDY peer did not close its end");
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.gone.cancel();
    }
}

struct Reader {
    shared: Arc<Shared>,
    out: mpsc::Sender<Command>,
    accepted: mpsc::Sender<Stream>,
    /// What the numbers of the peer's streams and pings leave when halved.
    parity: u32,
    /// The highest stream that the peer opened.
    highest: u32,
}

impl Reader {
    async fn run<T: AsyncRead>(mut self, from: tokio::io::ReadHalf<T>) {
        let gone = self.shared.gone.clone();
        tokio::select! {
            () = gone.cancelled() => {}
            result = self.read(from) => match result {
                Ok(()) => tracing::trace!("a SPDY peer closed"),
                Err(error) => tracing::debug!(%error, "a SPDY connection ends"),
            },
        }
        gone.cancel();
        self.shared.streams().clear();
    }

    async fn read<T: AsyncRead>(&mut self, mut from: tokio::io::ReadHalf<T>) -> Result<(), Error> {
        let mut decoder = Decoder::default();
        let mut bytes = BytesMut::new();
        loop {
            while let Some(frame) = decoder.decode(&mut bytes)? {
                self.take(frame).await?;
            }
            bytes.reserve(READ_SIZE);
            if from.read_buf(&mut (&mut bytes).limit(READ_SIZE)).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn answer(&self, frame: Frame) -> Result<(), Error> {
        let sent = self.out.send(Command::Frame(frame)).await;
        sent.map_err(|_| Error::Closed)
    }

    async fn take(&mut self, frame: Frame) -> Result<(), Error> {
        match frame {
            Frame::SynStream {
                stream,
                fin,
                headers,
            } => self.opened(stream, fin, headers).await?,
            Frame::Data { stream, fin, bytes } => {
                let inbound = {
                    let streams = self.shared.streams();
                    streams.get(&stream).and_then(|e| e.inbound.clone())
                };
                if let Some(inbound) = inbound
                    && !bytes.is_empty()
                    && inbound.send(bytes).await.is_err()
                {
                    tracing::trace!(stream, "nobody reads this SPDY stream any more");
                }
                if fin {
                    self.shared.peer_finished(stream);
                }
            }
            Frame::SynReply { stream, fin, .. } | Frame::Headers { stream, fin, .. } => {
                if fin {
                    self.shared.peer_finished(stream);
                }
            }
            Frame::Reset { stream, status } => {
                tracing::trace!(stream, status, "a SPDY stream was reset");
                if let Some(entry) = self.shared.streams().remove(&stream) {
                    entry.reset.store(true, Ordering::Release);
                }
            }
            Frame::Ping(id) => {
                // The others would be answers to pings of ours, of which there are none.
                if id % 2 == self.parity {
                    self.answer(Frame::Ping(id)).await?;
                }
            }
            Frame::GoAway { .. }
            | Frame::Settings
            | Frame::WindowUpdate { .. }
            | Frame::Unknown(_) => {}
        }
        Ok(())
    }

    async fn opened(&mut self, stream: u32, fin: bool, headers: Headers) -> Result<(), Error> {
        let open = self.shared.streams().len();
        let refusal = if stream == 0 || stream % 2 != self.parity {
            Some(status::PROTOCOL_ERROR)
        } else if stream <= self.highest {
            Some(status::STREAM_IN_USE)
        } else if open >= MAX_STREAMS || self.accepted.is_closed() {
            Some(status::REFUSED_STREAM)
        } else {
            None
        };
        self.highest = self.highest.max(stream);
        if let Some(status) = refusal {
            return self.answer(Frame::Reset { stream, status }).await;
        }
        let opened = self.shared.add(stream, headers, &self.out);
        if fin {
            self.shared.peer_finished(stream);
        }
        self.answer(Frame::SynReply {
            stream,
            fin: false,
            headers: Headers::default(),
        })
        .await?;
        if self.accepted.send(opened).await.is_err() {
            tracing::trace!(stream, "nobody accepts SPDY streams any more");
        }
        Ok(())
    }
}

async fn write<T: AsyncWrite>(
    mut to: tokio::io::WriteHalf<T>,
    mut commands: mpsc::Receiver<Command>,
    shared: Arc<Shared>,
) {
    let result = tokio::select! {
        () = shared.gone.cancelled() => return,
        result = write_all(&mut to, &mut commands, &shared) => result,
    };
    // Whoever waits to write gets a broken pipe.
    commands.close();
    if let Err(error) = result {
        tracing::debug!(%error, "a SPDY connection cannot be written to");
        shared.gone.cancel();
    }
}

async fn write_all<T: AsyncWrite>(
    to: &mut tokio::io::WriteHalf<T>,
    commands: &mut mpsc::Receiver<Command>,
    shared: &Shared,
) -> Result<(), Error> {
    let mut encoder = Encoder::default();
    let mut bytes = BytesMut::new();
    let mut finished = Vec::new();
    while let Some(mut command) = commands.recv().await {
        let mut close = false;
        loop {
            match command {
                Command::Frame(frame) => {
                    encoder.encode(&frame, &mut bytes)?;
                    if let Frame::Data {
                        stream, fin: true, ..
                    } = frame
                    {
                        finished.push(stream);
                    }
                }
                Command::Close => {
                    close = true;
                    break;
                }
            }
            if bytes.len() >= 2 * MAX_DATA {
                break;
            }
            let Ok(more) = commands.try_recv() else {
                break;
            };
            command = more;
        }
        if close {
            let mut open: Vec<u32> = {
                let streams = shared.streams();
                let open = streams.iter().filter(|(_, entry)| entry.outbound);
                open.map(|(id, _)| *id).collect()
            };
            open.retain(|id| !finished.contains(id));
            open.sort_unstable();
            for stream in open {
                let (fin, none) = (true, Bytes::new());
                let end = Frame::Data {
                    stream,
                    fin,
                    bytes: none,
                };
                encoder.encode(&end, &mut bytes)?;
            }
            encoder.encode(&Frame::GoAway { last: 0, status: 0 }, &mut bytes)?;
        }
        to.write_all_buf(&mut bytes).await?;
        to.flush().await?;
        for stream in finished.drain(..) {
            shared.we_finished(stream);
        }
        if close {
            to.shutdown().await?;
            break;
        }
    }
    Ok(())
}

/// Bytes that arrive over a queue, read as a stream. Ends when the sender is dropped.
pub(crate) struct Incoming {
    queue: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Incoming {
    pub(crate) fn new(queue: mpsc::Receiver<Bytes>) -> Self {
        Self {
            queue,
            piece: Bytes::new(),
        }
    }
}

impl AsyncRead for Incoming {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        while self.piece.is_empty() {
            match ready!(self.queue.poll_recv(cx)) {
                Some(piece) => self.piece = piece,
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.piece.len().min(into.remaining());
        into.put_slice(&self.piece.split_to(length));
        Poll::Ready(Ok(()))
    }
}

/// One stream: reads end when the peer finished its half, reset the stream or went away; shutting down (or dropping) finishes
/// our half.
pub struct Stream {
    id: u32,
    headers: Headers,
    incoming: Incoming,
    out: PollSender<Command>,
    /// Bytes read since the peer's window was last topped up.
    taken: usize,
    reset: Arc<AtomicBool>,
    /// Whether we finished our half.
    finished: bool,
}

impl Stream {
    /// Its number on the connection.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What it was opened with.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Passes over whatever the peer sends on it, so that it cannot hold up the others.
    pub fn ignore_input(&mut self) {
        self.incoming.queue.close();
        while self.incoming.queue.try_recv().is_ok() {}
    }

    fn end(&self) -> Command {
        Command::Frame(Frame::Data {
            stream: self.id,
            fin: true,
            bytes: Bytes::new(),
        })
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.incoming).poll_read(cx, into))?;
        self.taken += into.filled().len() - before;
        if self.taken >= WINDOW_STEP
            && let Some(out) = self.out.get_ref()
        {
            let update = Command::Frame(Frame::WindowUpdate {
                stream: self.id,
                delta: self.taken as u32,
            });
            // With the queue full, the next read tries again.
            if out.try_send(update).is_ok() {
                self.taken = 0;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let broken = || Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into()));
        if self.finished || self.reset.load(Ordering::Acquire) {
            return broken();
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if ready!(self.out.poll_reserve(cx)).is_err() {
            return broken();
        }
        let length = bytes.len().min(MAX_DATA);
        let frame = Frame::Data {
            stream: self.id,
            fin: false,
            bytes: Bytes::copy_from_slice(&bytes[..length]),
        };
        match self.out.send_item(Command::Frame(frame)) {
            Ok(()) => Poll::Ready(Ok(length)),
            Err(_) => broken(),
        }
    }

    /// Nothing to do: the writer flushes whenever its queue is empty.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.finished || self.reset.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        // A peer that is gone needs no end.
        if ready!(self.out.poll_reserve(cx)).is_ok() {
            let end = self.end();
            if self.out.send_item(end).is_err() {
                tracing::trace!(stream = self.id, "the SPDY connection was closed before");
            }
        }
        self.finished = true;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.finished || self.reset.load(Ordering::Acquire) {
            return;
        }
        let (Some(out), end) = (self.out.get_ref().cloned(), self.end()) else {
            return;
        };
        if let Err(mpsc::error::TrySendError::Full(end)) = out.try_send(end)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { out.send(end).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_dictionary_is_the_specifications() {
        assert_eq!(dictionary().len(), 1423);
        // Every SPDY/3 zlib stream names its dictionary by this checksum.
        let mut compress = Compress::new(Compression::fast(), true);
        let checksum = compress.set_dictionary(dictionary()).unwrap();
        assert_eq!(checksum, 0xe3c6_a7c2);
    }

    fn words() -> impl Strategy<Value = Headers> {
        prop::collection::vec(("[a-z-]{0,20}", "[ -~]{0,200}"), 0..20).prop_map(Headers)
    }

    fn frames() -> impl Strategy<Value = Frame> {
        let id = 0u32..0x7fff_ffff;
        prop_oneof![
            (id.clone(), any::<bool>(), words()).prop_map(|(stream, fin, headers)| {
                Frame::SynStream {
                    stream,
                    fin,
                    headers,
                }
            }),
            (id.clone(), any::<bool>(), words()).prop_map(|(stream, fin, headers)| {
                Frame::SynReply {
                    stream,
                    fin,
                    headers,
                }
            }),
            (id.clone(), any::<u32>()).prop_map(|(stream, status)| Frame::Reset { stream, status }),
            Just(Frame::Settings),
            any::<u32>().prop_map(Frame::Ping),
            (id.clone(), any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
            (id.clone(), id.clone())
                .prop_map(|(stream, delta)| Frame::WindowUpdate { stream, delta }),
            (
                id,
                any::<bool>(),
                prop::collection::vec(any::<u8>(), 0..300)
            )
                .prop_map(|(stream, fin, bytes)| Frame::Data {
                    stream,
                    fin,
                    bytes: bytes.into()
                }),
        ]
    }

    proptest! {
        #[test]
        fn frames_survive_the_wire(frames in prop::collection::vec(frames(), 0..20)) {
            let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
            let mut bytes = BytesMut::new();
            for frame in &frames {
                encoder.encode(frame, &mut bytes).unwrap();
            }
            for frame in &frames {
                prop_assert_eq!(decoder.decode(&mut bytes).unwrap(), Some(frame.clone()));
            }
            prop_assert_eq!(decoder.decode(&mut bytes).unwrap(), None);
        }

        #[test]
        fn no_bytes_panic(kind in 0u16..12, body in prop::collection::vec(any::<u8>(), 0..200), tail in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = BytesMut::new();
            bytes.put_u16(0x8003);
            bytes.put_u16(kind);
            bytes.put_u32(body.len() as u32);
            bytes.put_slice(&body);
            bytes.put_slice(&tail);
            let mut decoder = Decoder::default();
            while let Ok(Some(_)) = decoder.decode(&mut bytes) {}
        }

        #[test]
        fn damaged_headers_do_not_panic(headers in words(), at in any::<prop::sample::Index>(), flip in 1u8..) {
            let mut bytes = BytesMut::new();
            let frame = Frame::SynStream { stream: 1, fin: false, headers };
            Encoder::default().encode(&frame, &mut bytes).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let mut decoder = Decoder::default();
            while let Ok(Some(_)) = decoder.decode(&mut bytes) {}
        }
    }

    #[test]
    fn a_header_bomb_is_refused() {
        let headers = Headers(vec![("a".to_owned(), "b".repeat(5_000_000))]);
        let mut bytes = BytesMut::new();
        let frame = Frame::SynStream {
            stream: 1,
            fin: false,
            headers,
        };
        Encoder::default().encode(&frame, &mut bytes).unwrap();
        assert!(bytes.len() < MAX_CONTROL, "{}", bytes.len());
        let error = Decoder::default().decode(&mut bytes).unwrap_err();
        assert!(error.to_string().contains("too large"), "{error}");
    }

    #[tokio::test]
    async fn streams_carry_bytes_both_ways_and_close_by_halves() {
        let (here, there) = tokio::io::duplex(8 * 1024);
        let (client, _none) = Connection::client(here);
        let (server, mut accept) = Connection::server(there);
        let mut stream = client.open([("streamtype", "data")].into()).await.unwrap();
        let mut accepted = accept.next().await.unwrap();
        assert_eq!(accepted.headers().get("StreamType"), Some("data"));
        let sent: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
        let echo = tokio::spawn(async move {
            let mut all = Vec::new();
            accepted.read_to_end(&mut all).await.unwrap();
            accepted.write_all(&all).await.unwrap();
            accepted.shutdown().await.unwrap();
        });
        stream.write_all(&sent).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        assert!(got == sent);
        echo.await.unwrap();
        // Both halves are finished: the table is empty again.
        assert!(server.shared.streams().is_empty());
        drop(client);
        server.gone().await;
        assert!(accept.next().await.is_none());
    }

    #[tokio::test]
    async fn closing_sends_what_was_written() {
        let (here, there) = tokio::io::duplex(1024);
        let (client, _none) = Connection::client(here);
        let (server, mut accept) = Connection::server(there);
        let mut stream = client.open(Headers::default()).await.unwrap();
        let mut accepted = accept.next().await.unwrap();
        let closing = tokio::spawn(async move {
            accepted.write_all(&[7; 100_000]).await.unwrap();
            server.close().await;
        });
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len(), 100_000);
        drop(client);
        closing.await.unwrap();
    }

    #[tokio::test]
    async fn wrong_streams_are_reset_and_pings_answered() {
        let (mut here, there) = tokio::io::duplex(64 * 1024);
        let (_server, _accept) = Connection::server(there);
        let (mut encoder, mut bytes) = (Encoder::default(), BytesMut::new());
        let syn = |stream| Frame::SynStream {
            stream,
            fin: false,
            headers: Headers::default(),
        };
        for frame in [
            syn(2),
            syn(3),
            syn(3),
            syn(1),
            Frame::Ping(5),
            Frame::Ping(6),
        ] {
            encoder.encode(&frame, &mut bytes).unwrap();
        }
        here.write_all(&bytes).await.unwrap();
        let (mut decoder, mut bytes) = (Decoder::default(), BytesMut::new());
        let mut answers = Vec::new();
        while answers.len() < 5 {
            match decoder.decode(&mut bytes).unwrap() {
                Some(frame) => answers.push(frame),
                None => {
                    here.read_buf(&mut bytes).await.unwrap();
                }
            }
        }
        let reset = |stream, status| Frame::Reset { stream, status };
        let reply = Frame::SynReply {
            stream: 3,
            fin: false,
            headers: Headers::default(),
        };
        let expected = [
            reset(2, status::PROTOCOL_ERROR),
            reply,
            reset(3, status::STREAM_IN_USE),
            reset(1, status::STREAM_IN_USE),
            Frame::Ping(5),
        ];
        assert_eq!(answers, expected);
    }
}
