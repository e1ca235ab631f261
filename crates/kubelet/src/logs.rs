//! Containers' logs, as they lie on disk in CRI's format: `TIME stdout|stderr F|P TEXT`.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
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
        let (runtime, id) = (node.options.runtime.clone(), status.id.clone());
        let ended = move || -> BoxFuture<'static, bool> {
            let (runtime, id) = (runtime.clone(), id.clone());
            Box::pin(async move {
                let now = runtime.container_status(&id).await;
                now.map_or(true, |now| now.state == ContainerState::Exited)
            })
        };
        if let Err(error) = send(&status.log_path, wanted, lines, ended).await {
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

/// A file of a log, read from its start or, for the last lines, from further on.
struct Reader {
    file: File,
    inode: u64,
    /// A line whose end is not written yet.
    rest: Vec<u8>,
}

impl Reader {
    /// `None` if there is no such file (any more).
    fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let inode = file.metadata()?.ino();
        let rest = Vec::new();
        Ok(Some(Self { file, inode, rest }))
    }

    /// The file that has the first of the last `lines` lines, and stands there.
    fn at_tail(log: &Path, mut lines: usize) -> io::Result<Option<Self>> {
        let mut oldest = None;
        for path in files(log).iter().rev() {
            let Some(mut reader) = Self::open(path)? else {
                continue;
            };
            if let Some(start) = tail_start(&reader.file, &mut lines)? {
                reader.file.seek(SeekFrom::Start(start))?;
                return Ok(Some(reader));
            }
            oldest = Some(reader);
        }
        Ok(oldest)
    }

    /// The file that was begun when this one was put aside.
    fn next(&self, log: &Path) -> io::Result<Option<Self>> {
        let files = files(log);
        let inode = |path: &PathBuf| std::fs::metadata(path).ok().map(|m| m.ino());
        let mine = files.iter().position(|f| inode(f) == Some(self.inode));
        // One that is not there any more was the oldest.
        match files.get(mine.map_or(0, |i| i + 1)) {
            Some(path) => Self::open(path),
            None => Ok(None),
        }
    }

    /// Sends all whole lines there are; true when nothing more is wanted.
    async fn drain(
        &mut self,
        filter: &mut Filter,
        lines: &mpsc::Sender<Bytes>,
    ) -> io::Result<bool> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let n = self.file.read(&mut chunk)?;
            if n == 0 {
                return Ok(false);
            }
            self.rest.extend_from_slice(&chunk[..n]);
            let whole = self.rest.iter().rposition(|b| *b == b'\n');
            let done: Vec<u8> = self.rest.drain(..whole.map_or(0, |i| i + 1)).collect();
            let mut text: String = String::from_utf8_lossy(&done)
                .lines()
                .filter_map(|l| filter.show(l))
                .collect();
            let full = filter.limited(&mut text);
            if !text.is_empty() && lines.send(text.into()).await.is_err() || full {
                return Ok(true);
            }
        }
    }
}

/// Where in a file its last `lines` lines begin, found from its end; `None` if it has fewer, and `lines` are those that are
/// still missing then. A line in several parts is one.
fn tail_start(file: &File, lines: &mut usize) -> io::Result<Option<u64>> {
    let ends_line = |start: u64| -> io::Result<bool> {
        let mut head = [0; 64];
        let n = file.read_at(&mut head, start)?;
        let tag = head[..n].split(|b| *b == b' ').nth(2);
        Ok(tag.is_none_or(|t| !t.starts_with(b"P")))
    };
    let mut end = file.metadata()?.len();
    let mut chunk = vec![0; CHUNK];
    // The start of the line behind the one that is looked at.
    let mut behind = None;
    loop {
        let start = end.saturating_sub(CHUNK as u64);
        let piece = &mut chunk[..usize::try_from(end - start).map_err(io::Error::other)?];
        file.read_exact_at(piece, start)?;
        let newlines = piece.iter().enumerate().rev().filter(|(_, b)| **b == b'\n');
        let starts = newlines.map(|(i, _)| start + i as u64 + 1);
        for line in starts.chain((start == 0).then_some(0)) {
            if let Some(behind) = behind
                && ends_line(line)?
            {
                if *lines == 0 {
                    return Ok(Some(behind));
                }
                *lines -= 1;
            }
            behind = Some(line);
        }
        if start == 0 {
            return Ok(None);
        }
        end = start;
    }
}

/// Sends what is there, and if asked what is appended until the container has `ended` and all of it is read.
async fn send(
    log: &Path,
    wanted: Wanted,
    lines: mpsc::Sender<Bytes>,
    ended: impl Fn() -> BoxFuture<'static, bool>,
) -> io::Result<()> {
    let follow = wanted.follow;
    let mut reader = match wanted.tail {
        Some(tail) => Reader::at_tail(log, tail)?,
        None => {
            let mut files = files(log).into_iter();
            files
                .find_map(|f| Reader::open(&f).transpose())
                .transpose()?
        }
    };
    let mut filter = Filter {
        wanted,
        inside: false,
        sent: 0,
    };
    let mut growth = None;
    loop {
        // Asked before reading: what comes before the end is written before it is known.
        let ended = !follow || ended().await;
        if reader.is_none() {
            reader = Reader::open(log)?;
        }
        if let Some(current) = &mut reader {
            if current.drain(&mut filter, &lines).await? {
                return Ok(());
            }
            if let Some(next) = current.next(log)? {
                // Lines went to the old file until there was a new one.
                if current.drain(&mut filter, &lines).await? {
                    return Ok(());
                }
                reader = Some(next);
                growth = None;
                continue;
            }
        }
        if ended {
            return Ok(());
        }
        if growth.is_none() {
            growth = Growth::of(log).ok();
            if growth.is_some() {
                // What was written before it was watched.
                continue;
            }
        }
        let grown = async {
            match &mut growth {
                Some(growth) => growth.wait().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = lines.closed() => return Ok(()),
            grown = grown => grown?,
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

    /// What a reader gets of a log that has ended.
    async fn read(log: &Path, wanted: Wanted) -> String {
        let (sender, mut receiver) = mpsc::channel(1000);
        send(log, wanted, sender, || Box::pin(async { true }))
            .await
            .unwrap();
        let mut all = Vec::new();
        while let Some(bytes) = receiver.recv().await {
            all.extend_from_slice(&bytes);
        }
        String::from_utf8(all).unwrap()
    }

    fn line(tag: &str, text: impl std::fmt::Display) -> String {
        format!("2026-01-01T00:00:00.000000000Z stdout {tag} {text}\n")
    }

    #[tokio::test]
    async fn the_tail_is_found_from_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        let old: String = (0..5000).map(|i| line("F", i)).collect();
        let new: String = (5000..10_000).map(|i| line("F", i)).collect();
        assert!(new.len() > 3 * CHUNK);
        std::fs::write(dir.path().join("0.log.20260101-000000"), old).unwrap();
        let parts = line("P", "one") + &line("P", " long") + &line("F", " line");
        std::fs::write(&log, new + &parts + "2026-01-01T00:00:00Z stdout F unfinis").unwrap();
        let lines = (0..10_000).map(|i| i.to_string());
        let all: Vec<String> = lines.chain(["one long line".to_owned()]).collect();
        for tail in [0, 1, 2, 3, 4000, 5000, 5001, 5002, 9000, 10_001, 20_000] {
            let wanted = Wanted {
                tail: Some(tail),
                ..Wanted::default()
            };
            let text = read(&log, wanted).await;
            let got: Vec<&str> = text.lines().collect();
            assert!(
                got == all[all.len().saturating_sub(tail)..],
                "tail {tail}: {}",
                got.len()
            );
        }
        assert_eq!(read(&log, Wanted::default()).await.lines().count(), 10_001);
        let limit = Wanted {
            limit: Some(7),
            ..Wanted::default()
        };
        assert_eq!(read(&log, limit).await, "0\n1\n2\n3");
        assert_eq!(read(&dir.path().join("none"), Wanted::default()).await, "");
    }

    #[tokio::test]
    async fn following_loses_nothing_when_a_log_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        std::fs::write(&log, line("F", "start")).unwrap();
        let (sender, mut receiver) = mpsc::channel(1);
        let wanted = Wanted {
            follow: true,
            tail: Some(0),
            ..Wanted::default()
        };
        // Looked at once before each round of reading: writes and rotates as a container and its shim do.
        let (path, round) = (log.clone(), std::sync::atomic::AtomicI64::new(0));
        let ended = move || -> BoxFuture<'static, bool> {
            let n = round.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let append = |text: &str| {
                let mut file = File::options()
                    .create(true)
                    .append(true)
                    .open(&path)
                    .unwrap();
                std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
            };
            if n < 6 {
                let at = |s| Timestamp::from_second(1_767_225_600 + 10 * n + s).unwrap();
                append(&line("F", format!("{n} a")));
                put_aside(&path, 1, at(0)).unwrap();
                append(&line("F", format!("{n} b")));
                if n % 2 == 0 {
                    put_aside(&path, 1, at(5)).unwrap();
                }
                append(&line("F", format!("{n} c")));
            }
            Box::pin(async move { n >= 6 })
        };
        let sending = tokio::spawn(async move { send(&log, wanted, sender, ended).await });
        let mut all = Vec::new();
        while let Some(bytes) = receiver.recv().await {
            all.extend_from_slice(&bytes);
        }
        sending.await.unwrap().unwrap();
        let text = String::from_utf8(all).unwrap();
        let want = (0..6).map(|n| format!("{n} a\n{n} b\n{n} c\n"));
        assert_eq!(text, want.collect::<String>());
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
