//! Containers' logs, as they lie on disk in CRI's format: `TIME stdout|stderr F|P TEXT`.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use runtime::{ContainerState, ContainerStatus};
use skiff_http::{Body, body};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::node::Node;
use crate::server::Query;

/// How much is read at once.
const CHUNK: usize = 64 * 1024;
/// While someone follows a log, how often it is asked whether the container ended.
const ALIVE_EVERY: Duration = Duration::from_millis(500);

/// What of a log is wanted.
#[derive(Debug, Clone, Default)]
struct Wanted {
    follow: bool,
    timestamps: bool,
    tail: Option<usize>,
    since: Option<Timestamp>,
    limit: Option<usize>,
    stream: Option<String>,
}

impl Wanted {
    fn of(query: &Query, now: Timestamp) -> Result<Self, String> {
        fn number<T: std::str::FromStr>(query: &Query, name: &str) -> Result<Option<T>, String> {
            query
                .get(name)
                .map(|t| {
                    t.parse()
                        .map_err(|_| format!("{name}: {t} is not a number"))
                })
                .transpose()
        }
        let mut wanted = Self {
            follow: query.is_true("follow"),
            timestamps: query.is_true("timestamps"),
            tail: number(query, "tailLines")?,
            since: None,
            limit: number(query, "limitBytes")?,
            stream: query
                .get("stream")
                .filter(|s| !s.is_empty() && *s != "All")
                .map(str::to_ascii_lowercase),
        };
        if let Some(seconds) = number::<i64>(query, "sinceSeconds")? {
            wanted.since = now.checked_sub(SignedDuration::from_secs(seconds)).ok();
        }
        if let Some(time) = query.get("sinceTime") {
            let at =
                api::time::parse(time).ok_or_else(|| format!("sinceTime: {time} is not a time"))?;
            wanted.since = Some(at);
        }
        Ok(wanted)
    }
}

/// Answers a request for a container's log.
///
/// # Errors
/// 400 for bad parameters, 500 when the log cannot be read.
pub fn serve(
    node: Arc<Node>,
    status: ContainerStatus,
    query: &Query,
) -> Result<Response<Body>, (StatusCode, String)> {
    let wanted =
        Wanted::of(query, node.options.world.now()).map_err(|e| (StatusCode::BAD_REQUEST, e))?;
    let (lines, answer) = body::channel(16);
    let shutdown = node.options.shutdown.clone();
    tokio::spawn(shutdown.run_until_cancelled_owned(async move {
        if let Err(error) = send(&node, &status, wanted, lines).await {
            tracing::debug!(%error, container = %status.id, "a log was cut short");
        }
    }));
    let mut response = Response::new(answer);
    let kind = http::HeaderValue::from_static("text/plain");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, kind);
    Ok(response)
}

/// Turns lines of the file into what a reader gets.
struct Filter {
    wanted: Wanted,
    /// The last line was a part of a longer one: no time stamp stands inside it.
    inside: bool,
    sent: usize,
}

impl Filter {
    /// What is shown of a line; `None` when nothing is.
    fn show(&mut self, line: &str) -> Option<String> {
        let mut parts = line.splitn(4, ' ');
        let (time, stream, tag, text) = (
            parts.next()?,
            parts.next()?,
            parts.next()?,
            parts.next().unwrap_or(""),
        );
        if self.wanted.stream.as_deref().is_some_and(|s| s != stream) {
            return None;
        }
        if let Some(since) = self.wanted.since
            && time.parse::<Timestamp>().is_ok_and(|at| at < since)
        {
            return None;
        }
        let mut shown = String::with_capacity(line.len());
        if self.wanted.timestamps && !self.inside {
            shown.push_str(time);
            shown.push(' ');
        }
        shown.push_str(text);
        self.inside = tag.starts_with('P');
        if !self.inside {
            shown.push('\n');
        }
        Some(shown)
    }

    /// Cuts what goes beyond the limit; true when nothing more is to be sent.
    fn limited(&mut self, text: &mut String) -> bool {
        let Some(limit) = self.wanted.limit else {
            return false;
        };
        let left = limit.saturating_sub(self.sent);
        if text.len() >= left {
            let end = (0..=left)
                .rev()
                .find(|i| text.is_char_boundary(*i))
                .unwrap_or(0);
            text.truncate(end);
            return true;
        }
        self.sent += text.len();
        false
    }
}

/// The files of a log, oldest first: rotated ones have a time stamp at their end.
fn files(log: &Path) -> Vec<PathBuf> {
    let Some((dir, name)) = log.parent().zip(log.file_name().and_then(|n| n.to_str())) else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut rotated: Vec<PathBuf> = entries
        .map(|e| e.path())
        .filter(|p| {
            p.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with(&prefix))
        })
        .collect();
    rotated.sort();
    rotated.push(log.to_owned());
    rotated
}

async fn send(
    node: &Node,
    status: &ContainerStatus,
    wanted: Wanted,
    lines: mpsc::Sender<Bytes>,
) -> std::io::Result<()> {
    let (follow, tail) = (wanted.follow, wanted.tail);
    let mut filter = Filter {
        wanted,
        inside: false,
        sent: 0,
    };
    // The file is watched before it is read, so that nothing falls in between.
    let growth = if follow {
        Some(Growth::of(&status.log_path)?)
    } else {
        None
    };
    let mut text = String::new();
    let mut end = 0;
    for file in files(&status.log_path) {
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        if file == status.log_path {
            end = whole as u64;
        }
        for line in String::from_utf8_lossy(&bytes[..whole]).lines() {
            text.extend(filter.show(line));
        }
    }
    if let Some(tail) = tail {
        let kept: Vec<&str> = text.split_inclusive('\n').collect();
        text = kept[kept.len().saturating_sub(tail)..].concat();
    }
    let full = filter.limited(&mut text);
    for chunk in text.into_bytes().chunks(CHUNK) {
        if lines.send(Bytes::copy_from_slice(chunk)).await.is_err() {
            return Ok(());
        }
    }
    match growth {
        Some(growth) if !full => tail_of(node, status, filter, growth, end, lines).await,
        _ => Ok(()),
    }
}

/// Sends what is appended, until the container has ended and all of it is read.
async fn tail_of(
    node: &Node,
    status: &ContainerStatus,
    mut filter: Filter,
    mut growth: Growth,
    mut at: u64,
    lines: mpsc::Sender<Bytes>,
) -> std::io::Result<()> {
    let mut file = std::fs::File::open(&status.log_path)?;
    let mut rest = Vec::new();
    loop {
        let ended = match node.options.runtime.container_status(&status.id).await {
            Ok(now) => now.state == ContainerState::Exited,
            Err(_) => true,
        };
        loop {
            file.seek(SeekFrom::Start(at))?;
            let mut chunk = vec![0; CHUNK];
            let n = file.read(&mut chunk)?;
            if n == 0 {
                break;
            }
            at += n as u64;
            rest.extend_from_slice(&chunk[..n]);
            let whole = rest.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
            let done: Vec<u8> = rest.drain(..whole).collect();
            let mut text: String = String::from_utf8_lossy(&done)
                .lines()
                .filter_map(|l| filter.show(l))
                .collect();
            let full = filter.limited(&mut text);
            if !text.is_empty() && lines.send(text.into()).await.is_err() || full {
                return Ok(());
            }
        }
        if ended {
            return Ok(());
        }
        // A rotated log goes on in a new file of the old name.
        if let (Ok(old), Ok(new)) = (file.metadata(), std::fs::metadata(&status.log_path)) {
            use std::os::unix::fs::MetadataExt as _;
            if old.ino() != new.ino() {
                file = std::fs::File::open(&status.log_path)?;
                growth = Growth::of(&status.log_path)?;
                at = 0;
                continue;
            }
        }
        tokio::select! {
            biased;
            () = lines.closed() => return Ok(()),
            grown = growth.wait() => grown?,
            () = tokio::time::sleep(ALIVE_EVERY) => {}
        }
    }
}

/// Upstream's defaults: a log is put aside at this size, and so many files are kept of it.
const ROTATE_AT: u64 = 10 << 20;
const KEPT: usize = 5;
/// How often a growing log is looked at. One that does not grow is not looked at.
const ROTATE_EVERY: Duration = Duration::from_secs(10);

/// Keeps a running container's log from growing without end.
pub async fn keep_rotated(node: Arc<Node>, id: runtime::ContainerId, log: PathBuf) {
    loop {
        let grown = match Growth::of(&log) {
            Ok(mut growth) => growth.wait().await,
            Err(error) => Err(error),
        };
        tokio::time::sleep(ROTATE_EVERY).await;
        let rotated =
            match grown.and_then(|()| put_aside(&log, ROTATE_AT, node.options.world.now())) {
                Ok(rotated) => rotated,
                // Its container is gone, or its log is: nothing is left to do.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return,
                Err(error) => {
                    tracing::warn!(%error, log = %log.display(), "cannot rotate a log");
                    false
                }
            };
        if rotated && let Err(error) = node.options.runtime.reopen_container_log(&id).await {
            tracing::warn!(%error, container = %id, "cannot open a new log");
        }
    }
}

/// Renames a log that reached `limit` and drops the oldest files; whether a new one is to be opened.
fn put_aside(log: &Path, limit: u64, now: Timestamp) -> std::io::Result<bool> {
    if std::fs::metadata(log)?.len() < limit {
        return Ok(false);
    }
    let stamp = now.strftime("%Y%m%d-%H%M%S");
    std::fs::rename(log, log.with_extension(format!("log.{stamp}")))?;
    let rotated: Vec<PathBuf> = files(log).into_iter().filter(|f| f != log).collect();
    for old in rotated.iter().take(rotated.len().saturating_sub(KEPT - 1)) {
        std::fs::remove_file(old)?;
    }
    Ok(true)
}

/// Tells when a file grows.
struct Growth(AsyncFd<rustix::fd::OwnedFd>);

impl Growth {
    #[allow(
        deprecated,
        reason = "the descriptor is owned by the AsyncFd, so it lives as long; register is unsafe, which this crate bans"
    )]
    fn of(path: &Path) -> std::io::Result<Self> {
        use rustix::fs::inotify;
        let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(
            &fd,
            path,
            inotify::WatchFlags::MODIFY | inotify::WatchFlags::MOVE_SELF,
        )?;
        Ok(Self(AsyncFd::new(fd)?))
    }

    async fn wait(&mut self) -> std::io::Result<()> {
        let mut ready = self.0.readable().await?;
        let mut buffer = [0_u8; 4096];
        let read =
            ready.try_io(|fd| rustix::io::read(fd.get_ref(), &mut buffer).map_err(Into::into));
        match read {
            Ok(Ok(_)) | Err(_) => Ok(()),
            Ok(Err(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(wanted: Wanted) -> Filter {
        Filter {
            wanted,
            inside: false,
            sent: 0,
        }
    }

    #[test]
    fn a_large_log_is_put_aside_and_old_ones_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        let at = |s| Timestamp::from_second(1_767_225_600 + s).unwrap();
        std::fs::write(&log, "small").unwrap();
        assert!(!put_aside(&log, 100, at(0)).unwrap());
        for i in 0..8_i64 {
            std::fs::write(&log, vec![b'x'; 100]).unwrap();
            assert!(put_aside(&log, 100, at(i)).unwrap());
        }
        let kept: Vec<String> = files(&log)
            .iter()
            .map(|f| f.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(kept.len(), KEPT, "{kept:?}");
        assert_eq!(kept[0], "0.log.20260101-000004");
        assert_eq!(kept[4], "0.log");
    }

    #[test]
    fn lines_are_shown_as_asked() {
        let lines = [
            "2026-01-01T00:00:00.5Z stdout F one",
            "2026-01-01T00:00:01Z stderr F two",
            "2026-01-01T00:00:02Z stdout P thr",
            "2026-01-01T00:00:03Z stdout F ee",
        ];
        let show = |wanted: Wanted| {
            let mut f = filter(wanted);
            lines.iter().filter_map(|l| f.show(l)).collect::<String>()
        };
        assert_eq!(show(Wanted::default()), "one\ntwo\nthree\n");
        assert_eq!(
            show(Wanted {
                stream: Some("stderr".into()),
                ..Wanted::default()
            }),
            "two\n"
        );
        assert_eq!(
            show(Wanted {
                since: "2026-01-01T00:00:02Z".parse().ok(),
                timestamps: true,
                ..Wanted::default()
            }),
            "2026-01-01T00:00:02Z three\n"
        );
        let mut f = filter(Wanted {
            limit: Some(5),
            ..Wanted::default()
        });
        let mut text = "one\ntwo\n".to_owned();
        assert!(f.limited(&mut text));
        assert_eq!(text, "one\nt");
    }
}
