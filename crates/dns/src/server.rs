//! UDP and TCP, and how an answer is put together.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use crate::Options;
use crate::forward::Forwarder;
use crate::zone::{Data, Found, TTL, Zone};

/// Questions that wait for other servers at once; more are dropped, and the client asks again.
const WAITING: usize = 1024;
/// TCP connections at once.
const CONNECTIONS: usize = 256;
/// How long a TCP client may be silent.
const SILENCE: Duration = Duration::from_secs(10);
/// The largest answer by UDP, in bytes: fits a packet everywhere.
const LARGEST_UDP: u16 = 1232;

/// Serves the zone on one address.
pub(crate) fn listen(
    address: SocketAddr,
    zone: &Arc<RwLock<Zone>>,
    forwarder: &Arc<Forwarder>,
    options: &Options,
) -> std::io::Result<()> {
    let udp = std::net::UdpSocket::bind(address)?;
    udp.set_nonblocking(true)?;
    let udp = Arc::new(UdpSocket::from_std(udp)?);
    let tcp = std::net::TcpListener::bind(address)?;
    tcp.set_nonblocking(true)?;
    let tcp = TcpListener::from_std(tcp)?;
    let (zone, forwarder) = (zone.clone(), forwarder.clone());
    let answers = options.world.metrics.counter(
        "skiff_dns_questions_total",
        "DNS questions received by UDP.",
        "",
    );
    let (of_udp, of_tcp) = ((zone.clone(), forwarder.clone()), (zone, forwarder));
    let shutdown = options.shutdown.clone();
    tokio::spawn(shutdown.run_until_cancelled_owned(async move {
        serve_udp(udp, of_udp.0, of_udp.1, answers).await;
    }));
    let shutdown = options.shutdown.clone();
    let for_connections = options.shutdown.clone();
    tokio::spawn(shutdown.run_until_cancelled_owned(async move {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            match tcp.accept().await {
                Ok((stream, _)) => {
                    let (zone, forwarder) = of_tcp.clone();
                    let connection = async move {
                        if let Err(error) = serve_tcp(stream, &zone, &forwarder).await {
                            tracing::trace!(%error, "a DNS client's connection ended");
                        }
                        drop(place);
                    };
                    let shutdown = for_connections.clone();
                    tokio::spawn(shutdown.run_until_cancelled_owned(connection));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a DNS connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }));
    Ok(())
}

async fn serve_udp(
    socket: Arc<UdpSocket>,
    zone: Arc<RwLock<Zone>>,
    forwarder: Arc<Forwarder>,
    questions: world::metrics::Counter,
) {
    let places = Arc::new(Semaphore::new(WAITING));
    let mut buffer = vec![0; 4096];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(got) => got,
            Err(error) => {
                tracing::debug!(%error, "a DNS question was not read");
                continue;
            }
        };
        questions.inc();
        let Some(query) = read(&buffer[..length]) else {
            continue;
        };
        let limit = query.max_payload().clamp(512, LARGEST_UDP);
        let Some(answer) = at_once(&query, &zone) else {
            // Other servers are needed.
            let Ok(place) = places.clone().try_acquire_owned() else {
                continue;
            };
            let (socket, zone, forwarder) = (socket.clone(), zone.clone(), forwarder.clone());
            tokio::spawn(async move {
                let answer = in_time(&query, &zone, &forwarder).await;
                reply(&socket, from, &answer, limit).await;
                drop(place);
            });
            continue;
        };
        reply(&socket, from, &answer, limit).await;
    }
}

async fn reply(socket: &UdpSocket, to: SocketAddr, answer: &Message, limit: u16) {
    let bytes = match answer.to_vec() {
        Ok(bytes) if bytes.len() <= usize::from(limit) => bytes,
        Ok(_) => match answer.truncate().to_vec() {
            Ok(bytes) => bytes,
            Err(error) => return tracing::debug!(%error, "an answer cannot be written"),
        },
        Err(error) => return tracing::debug!(%error, "an answer cannot be written"),
    };
    if let Err(error) = socket.send_to(&bytes, to).await {
        tracing::debug!(%to, %error, "an answer was not sent");
    }
}

async fn serve_tcp(
    mut stream: TcpStream,
    zone: &RwLock<Zone>,
    forwarder: &Forwarder,
) -> std::io::Result<()> {
    loop {
        let Ok(length) = tokio::time::timeout(SILENCE, stream.read_u16()).await else {
            return Ok(());
        };
        let mut buffer = vec![0; usize::from(length?)];
        match tokio::time::timeout(SILENCE, stream.read_exact(&mut buffer)).await {
            Ok(read) => read?,
            Err(_) => return Ok(()),
        };
        let Some(query) = read(&buffer) else {
            return Ok(());
        };
        let answer = match at_once(&query, zone) {
            Some(answer) => answer,
            None => in_time(&query, zone, forwarder).await,
        };
        let bytes = answer.to_vec().map_err(std::io::Error::other)?;
        let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
        let mut whole = Vec::with_capacity(bytes.len() + 2);
        whole.extend_from_slice(&length.to_be_bytes());
        whole.extend_from_slice(&bytes);
        stream.write_all(&whole).await?;
    }
}

/// A question, or `None` for what deserves no answer.
fn read(bytes: &[u8]) -> Option<Message> {
    let query = Message::from_vec(bytes).ok()?;
    (query.metadata.message_type == MessageType::Query).then_some(query)
}

fn empty_answer(query: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.metadata.response_code = code;
    answer.add_queries(query.queries.iter().cloned());
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(LARGEST_UDP).set_version(0);
        answer.set_edns(edns);
    }
    answer
}

fn name_of(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn record(name: &Name, data: &Data) -> Option<Record> {
    let data = match data {
        Data::Address(IpAddr::V4(ip)) => RData::A(A(*ip)),
        Data::Address(IpAddr::V6(ip)) => RData::AAAA(AAAA(*ip)),
        Data::Service { port, target } => RData::SRV(SRV::new(0, 100, *port, name_of(target)?)),
        Data::Alias(target) => RData::CNAME(CNAME(name_of(target)?)),
        Data::Pointer(target) => RData::PTR(PTR(name_of(target)?)),
        Data::NameServer(target) => RData::NS(NS(name_of(target)?)),
        Data::Text(text) => RData::TXT(TXT::new(vec![text.to_string()])),
    };
    Some(Record::from_rdata(name.clone(), TTL, data))
}

fn start_of_authority(zone: &Zone) -> Option<Record> {
    let domain = zone.domain();
    let data = SOA::new(
        name_of(&format!("ns.dns.{domain}"))?,
        name_of(&format!("hostmaster.{domain}"))?,
        zone.serial(),
        7200,
        1800,
        86400,
        TTL,
    );
    Some(Record::from_rdata(name_of(domain)?, TTL, RData::SOA(data)))
}

fn matches(data: &Data, wanted: RecordType) -> bool {
    let kind = match data {
        Data::Address(IpAddr::V4(_)) => RecordType::A,
        Data::Address(IpAddr::V6(_)) => RecordType::AAAA,
        Data::Service { .. } => RecordType::SRV,
        Data::Alias(_) => RecordType::CNAME,
        Data::Pointer(_) => RecordType::PTR,
        Data::Text(_) => RecordType::TXT,
        Data::NameServer(_) => RecordType::NS,
    };
    wanted == kind || wanted == RecordType::ANY
}

/// The answer if the zone alone has it; `None` if other servers must be asked.
fn at_once(query: &Message, zone: &RwLock<Zone>) -> Option<Message> {
    if query.metadata.op_code != OpCode::Query {
        return Some(empty_answer(query, ResponseCode::NotImp));
    }
    let [question] = &query.queries[..] else {
        return Some(empty_answer(query, ResponseCode::FormErr));
    };
    if question.query_class() != DNSClass::IN {
        return Some(empty_answer(query, ResponseCode::Refused));
    }
    let text = question.name().to_ascii().to_ascii_lowercase();
    let zone = zone.read().unwrap_or_else(PoisonError::into_inner);
    let found = zone.find(text.trim_end_matches('.'));
    let records = match found {
        Found::Elsewhere => return None,
        // Not everything has been read: the name may well exist.
        Found::Absent if !zone.is_complete() => {
            return Some(empty_answer(query, ResponseCode::ServFail));
        }
        Found::Absent => {
            let mut answer = empty_answer(query, ResponseCode::NXDomain);
            answer.metadata.authoritative = true;
            answer.add_authorities(start_of_authority(&zone));
            return Some(answer);
        }
        Found::Records(records) => records,
    };
    let wanted = question.query_type();
    let mut answer = empty_answer(query, ResponseCode::NoError);
    answer.metadata.authoritative = true;
    for data in records.iter().filter(|d| matches(d, wanted)) {
        answer.add_answers(record(question.name(), data));
        // Spare the client the next question.
        if let Data::Service { target, .. } = data
            && let Found::Records(records) = zone.find(target)
            && let Some(target) = name_of(target)
        {
            let addresses = records.iter().filter(|d| matches!(d, Data::Address(_)));
            let known: Vec<Record> = addresses.filter_map(|d| record(&target, d)).collect();
            for known in known {
                if !answer.additionals.contains(&known) {
                    answer.add_additional(known);
                }
            }
        }
    }
    if wanted == RecordType::SOA && text.trim_end_matches('.') == zone.domain() {
        answer.add_answers(start_of_authority(&zone));
    }
    // An alias answers questions for addresses with its target's.
    if answer.answers.is_empty()
        && let Some(alias @ Data::Alias(target)) =
            records.iter().find(|d| matches!(d, Data::Alias(_)))
    {
        match zone.find(target) {
            Found::Elsewhere => return None,
            Found::Absent => {
                answer.add_answers(record(question.name(), alias));
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
            Found::Records(records) => {
                answer.add_answers(record(question.name(), alias));
                if let Some(target) = name_of(target) {
                    let fitting = records.iter().filter(|d| matches(d, wanted));
                    answer.add_answers(fitting.filter_map(|d| record(&target, d)));
                }
            }
        }
    }
    if answer.answers.is_empty() {
        answer.add_authorities(start_of_authority(&zone));
    }
    Some(answer)
}

/// The answer with the help of other servers.
async fn in_time(query: &Message, zone: &RwLock<Zone>, forwarder: &Forwarder) -> Message {
    let failed = || empty_answer(query, ResponseCode::ServFail);
    let Some(question) = query.queries.first() else {
        return failed();
    };
    let text = question.name().to_ascii().to_ascii_lowercase();
    let alias = {
        let zone = zone.read().unwrap_or_else(PoisonError::into_inner);
        match zone.find(text.trim_end_matches('.')) {
            Found::Records(records) => records.into_iter().find_map(|d| match d {
                Data::Alias(target) => Some(target),
                _ => None,
            }),
            _ => None,
        }
    };
    let mut forwarded = query.clone();
    let mut answer = failed();
    if let Some(target) = alias {
        let Some(name) = name_of(&target) else {
            return failed();
        };
        answer.add_answers(record(question.name(), &Data::Alias(target)));
        for question in &mut forwarded.queries {
            question.set_name(name.clone());
        }
    }
    let Some(got) = forwarder.ask(&forwarded).await else {
        return failed();
    };
    answer.metadata.response_code = got.metadata.response_code;
    answer.add_answers(got.answers.iter().cloned());
    answer.add_authorities(got.authorities.iter().cloned());
    answer.add_additionals(got.additionals.iter().cloned());
    answer
}
