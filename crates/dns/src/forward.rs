//! Asking the node's own name servers, with a small cache.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};
use world::{Rng, World};

/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// An answer is kept for its TTL, but never longer.
const LONGEST: u32 = 30;
/// A denial is kept for this many seconds.
const DENIAL: u32 = 5;
/// Answers kept at most.
const CACHE: usize = 4096;

type Key = (String, u16);

/// Asks others.
pub struct Forwarder {
    rng: Arc<Rng>,
    resolv_conf: PathBuf,
    ourselves: Vec<SocketAddr>,
    cache: Mutex<BTreeMap<Key, (Instant, Arc<Message>)>>,
}

impl Forwarder {
    /// Asks the servers that `resolv_conf` names at the time, but never `ourselves`.
    #[must_use]
    pub fn new(world: &World, resolv_conf: PathBuf, ourselves: Vec<SocketAddr>) -> Self {
        Self {
            rng: world.rng.clone(),
            resolv_conf,
            ourselves,
            cache: Mutex::default(),
        }
    }

    async fn servers(&self) -> Vec<SocketAddr> {
        let text = match tokio::fs::read_to_string(&self.resolv_conf).await {
            Ok(text) => text,
            Err(error) => {
                tracing::debug!(path = %self.resolv_conf.display(), %error, "cannot be read");
                return Vec::new();
            }
        };
        parse_resolv_conf(&text)
            .into_iter()
            .filter(|s| !self.ourselves.iter().any(|o| o.ip() == s.ip()))
            .collect()
    }

    /// The answer of the first server that has one; `None` if none does. Its id is not the query's.
    pub async fn ask(&self, query: &Message) -> Option<Arc<Message>> {
        let asked = query.queries.first()?;
        let name = asked.name().to_ascii().to_ascii_lowercase();
        let key = (name, u16::from(asked.query_type()));
        let now = Instant::now();
        if let Some((until, answer)) = self.lock().get(&key)
            && *until > now
        {
            return Some(answer.clone());
        }
        let mut request = query.clone();
        request.metadata.id = u16::try_from(self.rng.below(1 << 16)).unwrap_or(0);
        request.metadata.recursion_desired = true;
        let bytes = request.to_vec().ok()?;
        let mut last = None;
        for server in self.servers().await {
            let answer = match timeout(PATIENCE, over_udp(server, &request, &bytes)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => {
                    tracing::debug!(%server, %error, "a name server does not answer");
                    continue;
                }
                Err(_) => {
                    tracing::debug!(%server, "a name server does not answer in time");
                    continue;
                }
            };
            match answer.metadata.response_code {
                ResponseCode::NoError | ResponseCode::NXDomain => {
                    let answer = Arc::new(answer);
                    self.keep(key, &answer, now);
                    return Some(answer);
                }
                _ => last = Some(Arc::new(answer)),
            }
        }
        last
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, (Instant, Arc<Message>)>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, key: Key, answer: &Arc<Message>, now: Instant) {
        let shortest = answer.answers.iter().map(|r| r.ttl).min();
        let seconds = shortest.unwrap_or(DENIAL).min(LONGEST);
        if seconds == 0 {
            return;
        }
        let mut cache = self.lock();
        if cache.len() >= CACHE {
            cache.retain(|_, (until, _)| *until > now);
        }
        if cache.len() >= CACHE {
            cache.pop_first();
        }
        let until = now + Duration::from_secs(u64::from(seconds));
        cache.insert(key, (until, answer.clone()));
    }
}

/// The servers in a `resolv.conf`, in order.
#[must_use]
pub fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next()? == "nameserver").then(|| words.next())?
        })
        .filter_map(|word| word.parse::<IpAddr>().ok())
        .map(|ip| SocketAddr::new(ip, 53))
        .collect()
}

fn is_answer(answer: &Message, request: &Message) -> bool {
    answer.metadata.id == request.metadata.id
        && answer.queries.first().map(|q| q.name()) == request.queries.first().map(|q| q.name())
}

async fn over_udp(server: SocketAddr, request: &Message, bytes: &[u8]) -> std::io::Result<Message> {
    let from: SocketAddr = if server.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(from).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; 65_535];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match Message::from_vec(&buffer[..length]) {
            Ok(answer) if is_answer(&answer, request) => {
                if answer.metadata.truncation {
                    return over_tcp(server, request, bytes).await;
                }
                return Ok(answer);
            }
            // Somebody else's, or broken: the right one may still come.
            _ => {}
        }
    }
}

async fn over_tcp(server: SocketAddr, request: &Message, bytes: &[u8]) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(bytes).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(std::io::Error::other)?;
    if is_answer(&answer, request) {
        Ok(answer)
    } else {
        Err(std::io::Error::other("the answer is to another question"))
    }
}
