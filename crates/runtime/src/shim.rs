//! The shim: one small process per sandbox, which its containers are children of.
//!
//! ```text
//!  owner ─ spawns ─ launcher: makes namespaces, pins them, listens ─ forks, execs ─ shim (outlives the owner)
//!                                                                                   ├─ pause (shared PID namespace only)
//!                                                                                   ├─ containers' first processes
//!                                                                                   └─ execs
//! ```
//! The shim lives in the sandbox's network, IPC and UTS namespaces, pumps logs, waits for its children and records what it
//! sees in files before it tells anyone. It is one loop over poll(2) without threads; it runs from a read-only mount of the
//! binary, so that no container can write to that through /proc. Processes are made by fork without exec: the child has one
//! thread and a copy of a few kilobytes, and does in [`crate::init`] what a container needs.
//!
//! A container is `Starting` (until its program is executed: then `Running`, or gone again with the reason told to whoever
//! asked), `Running` (until its process ends), `Exited` (until forgotten).

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use crate::init::{self, Stdio};
use crate::protocol::{self, MAX_PACKET, Op, Reply, VERSION};
use crate::record::ShimSpec;
use crate::sys;

/// What the launcher's argv[0] is.
pub(crate) const LAUNCHER: &str = "skiff-shim-launcher";
pub(crate) const SHIM: &str = "skiff-shim";

/// Runs an internal role (a Pod's shim) if this process was started as one, and returns its exit code.
///
/// Must be the first thing in `main`, before any thread is made.
#[must_use]
pub fn entry() -> Option<i32> {
    let mut args = std::env::args_os();
    let role = args.next()?;
    if role == SHIM {
        let (dir, listener, shared_pid) = (args.next()?, args.next()?, args.next()?);
        let listener: RawFd = listener.to_str()?.parse().ok()?;
        // SAFETY: the launcher left this descriptor open for us and nobody else uses the number.
        let listener = unsafe { OwnedFd::from_raw_fd(listener) };
        return Some(Shim::new(PathBuf::from(dir), listener).run(shared_pid == "1"));
    }
    if role == LAUNCHER {
        let dir = PathBuf::from(args.next()?);
        return Some(match launch(&dir) {
            Ok(()) => 0,
            Err(why) => {
                eprintln!("{why}");
                1
            }
        });
    }
    None
}

type Said<T> = Result<T, String>;

fn said<T>(r: io::Result<T>, doing: impl FnOnce() -> String) -> Said<T> {
    r.map_err(|e| format!("{}: {e}", doing()))
}

fn launch(dir: &Path) -> Said<()> {
    let text = said(fs::read(dir.join("shim.json")), || {
        "reading shim.json".into()
    })?;
    let spec: ShimSpec = serde_json::from_slice(&text).map_err(|e| format!("shim.json: {e}"))?;
    for cgroup in &spec.cgroups {
        said(fs::write(cgroup.join("cgroup.procs"), "0"), || {
            format!("joining cgroup {}", cgroup.display())
        })?;
    }
    let mut kinds = 0;
    if spec.new_network {
        kinds |= libc::CLONE_NEWNET | libc::CLONE_NEWUTS;
    }
    if spec.new_ipc {
        kinds |= libc::CLONE_NEWIPC;
    }
    said(sys::unshare(kinds), || "making namespaces".into())?;
    let pin = |kind: &str| -> Said<()> {
        let at = dir.join(kind);
        said(File::create(&at), || format!("making {}", at.display()))?;
        said(
            sys::mount(&format!("/proc/self/ns/{kind}"), &at, "", libc::MS_BIND, ""),
            || format!("pinning {kind}"),
        )
    };
    if spec.new_network {
        pin("net")?;
        pin("uts")?;
        let name = spec.hostname.as_bytes();
        // SAFETY: a buffer and its length.
        let r = sys::cvt(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) });
        said(r, || format!("setting host name {:?}", spec.hostname))?;
        said(loopback_up(), || "bringing loopback up".into())?;
    }
    if spec.new_ipc {
        pin("ipc")?;
        let shm = dir.join("shm");
        said(fs::create_dir(&shm), || "making shm".into())?;
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        said(
            sys::mount("shm", &shm, "tmpfs", flags, "mode=1777,size=65536k"),
            || "mounting shm".into(),
        )?;
    }
    for (name, value) in &spec.sysctls {
        said(fs::write(crate::sysctl::file(name), value), || {
            format!("setting sysctl {name}={value}")
        })?;
    }
    let listener = said(sys::listen(&dir.join("shim.sock")), || "listening".into())?;

    // The binary, seen through a read-only mount that is nowhere attached: /proc/PID/exe of a child leads to that.
    let exe = Path::new("/proc/self/exe");
    let tree = said(sys::open_tree(exe, false), || "opening the binary".into())?;
    said(
        sys::mount_setattr(&tree, sys::MOUNT_ATTR_RDONLY, 0, false),
        || "sealing the binary".into(),
    )?;

    // Twice, so that the shim is nobody's child and no session leader's heir.
    match said(sys::clone(0), || "forking".into())? {
        0 => {}
        _ => return Ok(()),
    }
    // SAFETY: plain system calls; the listener is to survive the exec.
    unsafe {
        libc::setsid();
        libc::fcntl(listener.as_raw_fd(), libc::F_SETFD, 0);
        if sys::clone(0).map_or(1, |p| p) != 0 {
            init::exit(0);
        }
    }
    let null = said(
        fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null"),
        || "/dev/null".into(),
    )?;
    let _ = std::env::set_current_dir("/");
    for number in 0..3 {
        // SAFETY: takes numbers only.
        unsafe { libc::dup2(null.as_raw_fd(), number) };
    }
    let error = std::process::Command::new(format!("/proc/self/fd/{}", tree.as_raw_fd()))
        .arg0(SHIM)
        .args([
            dir.as_os_str(),
            listener.into_raw_fd().to_string().as_ref(),
            if spec.shared_pid { "1" } else { "0" }.as_ref(),
        ])
        .env_clear()
        .exec();
    Err(format!("executing the shim: {error}"))
}

fn loopback_up() -> io::Result<()> {
    let socket = sys::socket(libc::AF_INET, libc::SOCK_DGRAM)?;
    // SAFETY: all zeros is a valid request; the ioctl reads and writes it.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        sys::cvt(libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw mut request,
        ))
        .map(|_| ())
    }
}

/// One of a container's outputs.
#[derive(Default)]
struct Output {
    fd: Option<OwnedFd>,
    /// An unfinished line; at most [`LINE`] bytes.
    pending: Vec<u8>,
}

/// As in containerd, longer lines are split.
const LINE: usize = 16 * 1024;

struct Attached {
    conn: RawFd,
    outputs: [Option<OwnedFd>; 2],
}

#[derive(PartialEq, Eq)]
enum State {
    Starting,
    Running,
}

struct Container {
    id: String,
    dir: PathBuf,
    pid: i32,
    state: State,
    control: Option<OwnedFd>,
    /// Who asked to start it.
    starter: RawFd,
    flags: u32,
    log_path: String,
    log: Option<File>,
    outputs: [Output; 2],
    input: Option<OwnedFd>,
    attached: Vec<Attached>,
    procs: PathBuf,
    oom: PathBuf,
    /// Why it could not be started.
    failure: Option<Vec<u8>>,
}

struct Exec {
    pid: i32,
    conn: RawFd,
    control: Option<OwnedFd>,
    started: bool,
    terminal: Option<OwnedFd>,
    failure: Option<Vec<u8>>,
    exit: Option<i32>,
}

struct Conn {
    fd: OwnedFd,
    subscribed: bool,
}

struct Shim {
    dir: PathBuf,
    listener: OwnedFd,
    conns: Vec<Conn>,
    containers: Vec<Container>,
    execs: Vec<Exec>,
    pause: i32,
    ending: bool,
    /// What of the binary is mapped unchanged, and whether enough was done to give it back before the next wait.
    clean: Vec<(usize, usize)>,
    busy: bool,
}

/// The mappings of files that hold nothing of this process' own: code and constants, not relocated tables.
fn clean_mappings() -> Vec<(usize, usize)> {
    let text = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let (mut found, mut current) = (Vec::new(), None);
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().take(6).collect();
        match words[..] {
            [range, permissions, _, _, inode, ..]
                if permissions.len() == 4 && range.contains('-') =>
            {
                let parse = |t: &str| usize::from_str_radix(t, 16).ok();
                let range = range
                    .split_once('-')
                    .and_then(|(a, b)| Some((parse(a)?, parse(b)?)));
                current = range.filter(|_| {
                    inode != "0" && permissions.starts_with('r') && !permissions.contains('w')
                });
            }
            ["Anonymous:", "0", ..] => found.extend(current.take()),
            ["Anonymous:", ..] => current = None,
            _ => {}
        }
    }
    found
}

#[derive(Clone, Copy)]
enum Source {
    Signals,
    Listener,
    Conn(RawFd),
    ContainerControl(i32),
    ExecControl(i32),
    Output(i32, usize),
}

impl Shim {
    fn new(dir: PathBuf, listener: OwnedFd) -> Self {
        Self {
            dir,
            listener,
            conns: vec![],
            containers: vec![],
            execs: vec![],
            pause: 0,
            ending: false,
            clean: vec![],
            busy: true,
        }
    }

    fn run(mut self, shared_pid: bool) -> i32 {
        // SAFETY: plain system calls; `set` is initialized by sigemptyset.
        let signals = unsafe {
            libc::fcntl(self.listener.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC);
            libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
            libc::prctl(libc::PR_SET_NAME, c"skiff-shim".as_ptr());
            libc::prctl(libc::PR_SET_DUMPABLE, 0);
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
                libc::sigaddset(&raw mut set, signal);
            }
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                return 1;
            }
            OwnedFd::from_raw_fd(fd)
        };
        let _ = fs::write(self.dir.join("shim.pid"), std::process::id().to_string());
        if shared_pid && !self.start_pause() {
            return 1;
        }
        self.clean = clean_mappings();
        let mut polled: Vec<libc::pollfd> = Vec::new();
        let mut sources: Vec<Source> = Vec::new();
        while !self.ending {
            polled.clear();
            sources.clear();
            let mut add = |fd: RawFd, source| {
                polled.push(libc::pollfd {
                    fd,
                    events: libc::POLLIN,
                    revents: 0,
                });
                sources.push(source);
            };
            // Outputs and controls before signals: a child's last words come before its end.
            for c in &self.containers {
                if let Some(control) = &c.control {
                    add(control.as_raw_fd(), Source::ContainerControl(c.pid));
                }
                for (i, o) in c.outputs.iter().enumerate() {
                    if let Some(fd) = &o.fd {
                        add(fd.as_raw_fd(), Source::Output(c.pid, i));
                    }
                }
            }
            for e in &self.execs {
                if let Some(control) = &e.control {
                    add(control.as_raw_fd(), Source::ExecControl(e.pid));
                }
            }
            add(signals.as_raw_fd(), Source::Signals);
            add(self.listener.as_raw_fd(), Source::Listener);
            for c in &self.conns {
                add(c.fd.as_raw_fd(), Source::Conn(c.fd.as_raw_fd()));
            }
            if std::mem::take(&mut self.busy) {
                for (start, end) in &self.clean {
                    // SAFETY: read-only, and the same as the file: what is needed again comes back from the page cache.
                    unsafe {
                        libc::madvise(
                            *start as *mut libc::c_void,
                            end - start,
                            libc::MADV_DONTNEED,
                        )
                    };
                }
            }
            // SAFETY: the vector holds `len` entries.
            let n = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, -1) };
            if n < 0 {
                continue;
            }
            for (p, source) in polled.iter().zip(&sources) {
                if p.revents == 0 {
                    continue;
                }
                self.busy |= !matches!(source, Source::Output(..));
                match *source {
                    Source::Signals => self.reap(&signals),
                    Source::Listener => self.accept(),
                    Source::Conn(fd) => self.serve(fd),
                    Source::ContainerControl(pid) => self.container_said(pid),
                    Source::ExecControl(pid) => self.exec_said(pid),
                    Source::Output(pid, i) => {
                        self.pump(pid, i);
                    }
                }
            }
        }
        let _ = fs::remove_file(self.dir.join("shim.sock"));
        0
    }

    fn start_pause(&mut self) -> bool {
        match sys::clone(libc::CLONE_NEWPID) {
            Ok(0) => {
                init::fresh_child();
                let _ = init::pause();
                init::exit(1)
            }
            Ok(pid) => {
                self.pause = pid;
                true
            }
            Err(_) => false,
        }
    }

    fn accept(&mut self) {
        // SAFETY: no address is asked for.
        let fd = unsafe {
            libc::accept4(
                self.listener.as_raw_fd(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            )
        };
        if fd >= 0 {
            // SAFETY: just made by accept4.
            self.conns.push(Conn {
                fd: unsafe { OwnedFd::from_raw_fd(fd) },
                subscribed: false,
            });
        }
    }

    fn reply(&self, conn: RawFd, kind: Reply, body: &[u8], fds: &[RawFd]) {
        // A client that went away has its answer in the files; one that doesn't read must not stop us.
        if !self.conns.iter().any(|c| c.fd.as_raw_fd() == conn) {
            return;
        }
        let mut packet = vec![kind as u8];
        packet.extend_from_slice(body);
        let _ = sys::send_packet(conn, &packet, fds);
    }

    fn serve(&mut self, conn: RawFd) {
        let mut buffer = [0; MAX_PACKET];
        let (n, fds) = match sys::recv_packet(conn, &mut buffer) {
            Ok((0, _)) | Err(_) => return self.hang_up(conn),
            Ok(r) => r,
        };
        let (Some(&version), Some(op)) = (
            buffer.first(),
            buffer.get(1).copied().and_then(Op::from_byte),
        ) else {
            return self.hang_up(conn);
        };
        if n < 2 || version > VERSION {
            return self.reply(
                conn,
                Reply::Failed,
                &failed(128, "the shim doesn't know this version or request"),
                &[],
            );
        }
        let text = String::from_utf8_lossy(&buffer[2..n]).into_owned();
        let fields: Vec<&str> = text.split_terminator('\0').collect();
        let field = |i: usize| fields.get(i).copied().unwrap_or_default();
        match op {
            Op::Subscribe => {
                for c in &mut self.conns {
                    c.subscribed |= c.fd.as_raw_fd() == conn;
                }
                self.reply(conn, Reply::Ok, &[], &[]);
            }
            Op::Start => self.start(conn, &fields),
            Op::Signal => match self.find(field(0)) {
                Some(i) => {
                    let c = &self.containers[i];
                    // SAFETY: our own child that we have not waited for: the pid can't be another's.
                    unsafe { libc::kill(c.pid, field(1).parse().unwrap_or(libc::SIGTERM)) };
                    if field(2) == "1" {
                        crate::cgroup::kill_all(&c.procs);
                    }
                    self.reply(conn, Reply::Ok, &[], &[]);
                }
                None => self.reply(conn, Reply::Gone, &[], &[]),
            },
            Op::Reopen => match self.find(field(0)) {
                Some(i) => {
                    let opened = open_log(&self.containers[i].log_path);
                    match opened {
                        Ok(log) => {
                            self.containers[i].log = log;
                            self.reply(conn, Reply::Ok, &[], &[]);
                        }
                        Err(e) => self.reply(conn, Reply::Failed, &failed(1, &e.to_string()), &[]),
                    }
                }
                None => self.reply(conn, Reply::Gone, &[], &[]),
            },
            Op::Attach => self.attach(conn, field(0), field(1) == "1", fds),
            Op::Exec => self.exec(conn, field(0), field(1).parse().unwrap_or(0), fds),
            Op::KillExec => {
                for e in self
                    .execs
                    .iter()
                    .filter(|e| e.conn == conn && e.exit.is_none())
                {
                    // SAFETY: our own child that we have not waited for. It leads its session, hence the group.
                    unsafe {
                        libc::kill(-e.pid, libc::SIGKILL);
                        libc::kill(e.pid, libc::SIGKILL);
                    }
                }
            }
            Op::Socket => {
                match sys::socket(field(0).parse().unwrap_or(libc::AF_INET), libc::SOCK_STREAM) {
                    Ok(s) => self.reply(conn, Reply::Ok, &[], &[s.as_raw_fd()]),
                    Err(e) => self.reply(conn, Reply::Failed, &failed(1, &e.to_string()), &[]),
                }
            }
            Op::Shutdown => self.shutdown(conn),
        }
    }

    fn hang_up(&mut self, conn: RawFd) {
        for c in &mut self.containers {
            c.attached.retain(|a| a.conn != conn);
            if c.starter == conn {
                c.starter = -1;
            }
        }
        for e in &mut self.execs {
            if e.conn == conn {
                e.conn = -1;
            }
        }
        self.conns.retain(|c| c.fd.as_raw_fd() != conn);
    }

    fn find(&self, id: &str) -> Option<usize> {
        self.containers.iter().position(|c| c.id == id)
    }

    fn start(&mut self, conn: RawFd, fields: &[&str]) {
        let [id, dir, log_path, procs, oom, flags] = fields else {
            return self.reply(conn, Reply::Failed, &failed(128, "malformed request"), &[]);
        };
        if self.find(id).is_some() {
            return self.reply(
                conn,
                Reply::Failed,
                &failed(128, "the container already runs"),
                &[],
            );
        }
        let flags: u32 = flags.parse().unwrap_or(0);
        match self.try_start(conn, id, Path::new(dir), log_path, flags) {
            Ok(mut c) => {
                c.procs = PathBuf::from(procs);
                c.oom = PathBuf::from(oom);
                self.containers.push(c);
            }
            Err(e) => self.reply(conn, Reply::Failed, &failed(128, &e.to_string()), &[]),
        }
    }

    fn try_start(
        &mut self,
        conn: RawFd,
        id: &str,
        dir: &Path,
        log_path: &str,
        flags: u32,
    ) -> io::Result<Container> {
        let log = open_log(log_path)?;
        let tty = flags & protocol::START_TTY != 0;
        let (control, theirs) = sys::packet_pair()?;
        let (mut stdio, mut outputs, mut input) = (
            Stdio {
                input: None,
                output: None,
                error: None,
            },
            [Output::default(), Output::default()],
            None,
        );
        if !tty {
            for (i, output) in outputs.iter_mut().enumerate() {
                let (read, write) = sys::pipe()?;
                sys::nonblocking(read.as_raw_fd())?;
                output.fd = Some(read);
                *(if i == 0 {
                    &mut stdio.output
                } else {
                    &mut stdio.error
                }) = Some(write);
            }
            if flags & protocol::START_STDIN != 0 {
                let (read, write) = sys::pipe()?;
                input = Some(write);
                stdio.input = Some(read);
            }
        }
        let spec = dir.join("spec.json");
        let kinds = if flags & protocol::START_OWN_PIDNS != 0 {
            libc::CLONE_NEWPID
        } else {
            0
        };
        let body = move |stdio: Stdio, theirs: OwnedFd| -> ! {
            init::fresh_child();
            match init::container(&spec, &theirs, stdio) {
                Ok(()) => init::exit(128),
                Err(failure) => init::fail(&theirs, &failure),
            }
        };
        let pid = if flags & protocol::START_POD_PIDNS != 0 {
            let pause = sys::pidfd(self.pause)?;
            self.clone_into(&pause, &control, &theirs)?
                .unwrap_or_else(|| body(stdio, theirs))
        } else {
            match sys::clone(kinds)? {
                0 => body(stdio, theirs),
                pid => pid,
            }
        };
        Ok(Container {
            id: id.to_owned(),
            dir: dir.to_owned(),
            pid,
            state: State::Starting,
            control: Some(control),
            starter: conn,
            flags,
            log_path: log_path.to_owned(),
            log,
            outputs,
            input,
            attached: vec![],
            procs: PathBuf::new(),
            oom: PathBuf::new(),
            failure: None,
        })
    }

    /// Forks into the PID namespace of another process: through a short-lived middle process, since only children of a
    /// process that has entered it are inside. `None` in the new process, which is our child.
    fn clone_into(
        &self,
        target: &OwnedFd,
        control: &OwnedFd,
        theirs: &OwnedFd,
    ) -> io::Result<Option<i32>> {
        let middle = sys::clone(0)?;
        if middle == 0 {
            // SAFETY: takes numbers only. Before anyone inside can see us.
            unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) };
            let inside = sys::setns(target, libc::CLONE_NEWPID)
                .and_then(|()| sys::clone(libc::CLONE_PARENT));
            match inside {
                Ok(0) => return Ok(None),
                Ok(pid) => {
                    let mut packet = vec![b'I'];
                    packet.extend(pid.to_le_bytes());
                    let sent = sys::send_packet(theirs.as_raw_fd(), &packet, &[]);
                    init::exit(i32::from(sent.is_err()))
                }
                Err(e) => {
                    let _ = sys::send_packet(theirs.as_raw_fd(), format!("X{e}").as_bytes(), &[]);
                    init::exit(1)
                }
            }
        }
        // The middle process does two system calls; its word is always the first, since the inner one needs far longer, but
        // wait for the end of the middle to be sure that it came.
        let mut status = 0;
        // SAFETY: our own child.
        unsafe { libc::waitpid(middle, &raw mut status, 0) };
        let mut buffer = [0; 512];
        loop {
            let (n, _) = sys::recv_packet(control.as_raw_fd(), &mut buffer)?;
            match (buffer[0], n) {
                (b'I', 5) => {
                    return Ok(Some(i32::from_le_bytes([
                        buffer[1], buffer[2], buffer[3], buffer[4],
                    ])));
                }
                (b'X', _) => {
                    return Err(io::Error::other(format!(
                        "entering the PID namespace: {}",
                        String::from_utf8_lossy(&buffer[1..n])
                    )));
                }
                // A failure of the inner process that overtook.
                _ if n > 0 => continue,
                _ => {
                    return Err(io::Error::other(
                        "the process ended while it was being made",
                    ));
                }
            }
        }
    }

    fn container_said(&mut self, pid: i32) {
        let mut buffer = [0; 4200];
        let Some(i) = self.containers.iter().position(|c| c.pid == pid) else {
            return;
        };
        let Some(control) = &self.containers[i].control else {
            return;
        };
        match sys::recv_packet(control.as_raw_fd(), &mut buffer) {
            Ok((n, mut fds)) if n > 0 => {
                let c = &mut self.containers[i];
                match buffer[0] {
                    b'P' => {
                        if let Some(master) = fds.pop() {
                            let _ = sys::nonblocking(master.as_raw_fd());
                            c.input = master.try_clone().ok();
                            c.outputs[0].fd = Some(master);
                        }
                    }
                    b'E' => c.failure = Some(buffer[1..n].to_vec()),
                    _ => {}
                }
            }
            _ => {
                let c = &mut self.containers[i];
                c.control = None;
                if c.failure.is_none() {
                    c.state = State::Running;
                    let started = format!("{} {}\n", c.pid, sys::wall_nanos());
                    let _ =
                        sys::write_atomically(&c.dir.join("started"), started.as_bytes(), false);
                    let (starter, pid) = (c.starter, c.pid);
                    self.reply(starter, Reply::Ok, &pid.to_le_bytes(), &[]);
                }
            }
        }
    }

    fn exec_said(&mut self, pid: i32) {
        let mut buffer = [0; 4200];
        let Some(i) = self.execs.iter().position(|e| e.pid == pid) else {
            return;
        };
        let Some(control) = &self.execs[i].control else {
            return;
        };
        match sys::recv_packet(control.as_raw_fd(), &mut buffer) {
            Ok((n, mut fds)) if n > 0 => match buffer[0] {
                b'P' => self.execs[i].terminal = fds.pop(),
                b'E' => self.execs[i].failure = Some(buffer[1..n].to_vec()),
                _ => {}
            },
            _ => {
                let e = &mut self.execs[i];
                e.control = None;
                let (conn, terminal, failure, exit) =
                    (e.conn, e.terminal.take(), e.failure.clone(), e.exit);
                match failure {
                    Some(f) => self.reply(conn, Reply::Failed, &f, &[]),
                    None => {
                        let fds: Vec<_> = terminal.iter().map(AsRawFd::as_raw_fd).collect();
                        self.reply(conn, Reply::Ok, &pid.to_le_bytes(), &fds);
                        self.execs[i].started = true;
                        if let Some(code) = exit {
                            self.reply(conn, Reply::Exit, &code.to_le_bytes(), &[]);
                        }
                    }
                }
                self.execs
                    .retain(|e| e.control.is_some() || e.exit.is_none());
            }
        }
    }

    fn exec(&mut self, conn: RawFd, id: &str, flags: u32, fds: Vec<OwnedFd>) {
        let Some(i) = self
            .find(id)
            .filter(|i| self.containers[*i].state == State::Running)
        else {
            return self.reply(conn, Reply::Gone, &[], &[]);
        };
        match self.try_exec(conn, self.containers[i].pid, flags, fds) {
            Ok(exec) => self.execs.push(exec),
            Err(e) => self.reply(conn, Reply::Failed, &failed(128, &e.to_string()), &[]),
        }
    }

    fn try_exec(
        &mut self,
        conn: RawFd,
        target: i32,
        flags: u32,
        fds: Vec<OwnedFd>,
    ) -> io::Result<Exec> {
        let mut fds = fds.into_iter();
        let spec = fds
            .next()
            .ok_or_else(|| io::Error::other("malformed request"))?;
        let tty = flags & protocol::START_TTY != 0;
        let stdio = if tty {
            Stdio {
                input: None,
                output: None,
                error: None,
            }
        } else {
            Stdio {
                input: fds.next(),
                output: fds.next(),
                error: fds.next(),
            }
        };
        let target = sys::pidfd(target)?;
        let (control, theirs) = sys::packet_pair()?;
        let Some(pid) = self.clone_into(&target, &control, &theirs)? else {
            init::fresh_child();
            match init::exec(&spec, &target, &theirs, stdio) {
                Ok(()) => init::exit(128),
                Err(failure) => init::fail(&theirs, &failure),
            }
        };
        Ok(Exec {
            pid,
            conn,
            control: Some(control),
            started: false,
            terminal: None,
            failure: None,
            exit: None,
        })
    }

    fn attach(&mut self, conn: RawFd, id: &str, stdin: bool, fds: Vec<OwnedFd>) {
        let Some(i) = self
            .find(id)
            .filter(|i| self.containers[*i].state == State::Running)
        else {
            return self.reply(conn, Reply::Gone, &[], &[]);
        };
        let c = &mut self.containers[i];
        let tty = c.flags & protocol::START_TTY != 0;
        let mut fds = fds.into_iter();
        let outputs = [fds.next(), fds.next()];
        for fd in outputs.iter().flatten() {
            let _ = sys::nonblocking(fd.as_raw_fd());
        }
        c.attached.push(Attached { conn, outputs });
        let input = match &c.input {
            Some(fd) if tty || stdin => fd.try_clone().ok(),
            _ => None,
        };
        if !tty && stdin && c.flags & protocol::START_STDIN_ONCE != 0 {
            c.input = None;
        }
        let fds: Vec<_> = input.iter().map(AsRawFd::as_raw_fd).collect();
        self.reply(conn, Reply::Ok, &[], &fds);
    }

    /// Passes on what an output has to say; true while there may be more.
    fn pump(&mut self, pid: i32, which: usize) -> bool {
        let Some(c) = self.containers.iter_mut().find(|c| c.pid == pid) else {
            return false;
        };
        let mut buffer = [0; LINE];
        let Some(fd) = &c.outputs[which].fd else {
            return false;
        };
        // SAFETY: the buffer has that many bytes.
        let n = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        if n < 0
            && matches!(
                io::Error::last_os_error().raw_os_error(),
                Some(libc::EAGAIN | libc::EINTR)
            )
        {
            return false;
        }
        if n <= 0 {
            // The end; a terminal says EIO.
            c.outputs[which].fd = None;
            let pending = std::mem::take(&mut c.outputs[which].pending);
            if !pending.is_empty() {
                write_log(c.log.as_mut(), which, &[(&pending, false)]);
            }
            return false;
        }
        let data = &buffer[..n as usize];
        for a in &mut c.attached {
            if let Some(out) = &a.outputs[which] {
                // SAFETY: the buffer has that many bytes. One that can't keep up is let go rather than held against the
                // container.
                let written =
                    unsafe { libc::write(out.as_raw_fd(), data.as_ptr().cast(), data.len()) };
                if written != n {
                    a.outputs[which] = None;
                }
            }
        }
        if c.log.is_some() {
            let pending = &mut c.outputs[which].pending;
            let mut rest = data;
            while let Some(end) = rest.iter().position(|b| *b == b'\n') {
                pending.extend_from_slice(&rest[..end]);
                write_log(c.log.as_mut(), which, &[(pending, true)]);
                pending.clear();
                rest = &rest[end + 1..];
            }
            pending.extend_from_slice(rest);
            while pending.len() >= LINE {
                write_log(c.log.as_mut(), which, &[(&pending[..LINE], false)]);
                pending.drain(..LINE);
            }
            if pending.is_empty() && pending.capacity() > 0 {
                *pending = Vec::new();
            }
        }
        true
    }

    fn reap(&mut self, signals: &OwnedFd) {
        let mut buffer = [0_u8; 128 * 4];
        // SAFETY: the buffer has that many bytes. What came doesn't matter: TERM and the like are not for shims.
        unsafe {
            libc::read(
                signals.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
            )
        };
        loop {
            let mut status = 0;
            // SAFETY: `status` is writable.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            if pid <= 0 {
                return;
            }
            let code = if libc::WIFSIGNALED(status) {
                128 + libc::WTERMSIG(status)
            } else {
                libc::WEXITSTATUS(status)
            };
            self.ended(pid, code);
        }
    }

    fn ended(&mut self, pid: i32, code: i32) {
        if let Some(e) = self.execs.iter_mut().find(|e| e.pid == pid) {
            e.exit = Some(code);
            if e.started {
                let conn = e.conn;
                self.reply(conn, Reply::Exit, &code.to_le_bytes(), &[]);
            }
            self.execs
                .retain(|e| e.control.is_some() || e.exit.is_none());
            return;
        }
        while self
            .containers
            .iter()
            .any(|c| c.pid == pid && c.control.is_some())
        {
            self.container_said(pid);
        }
        let Some(i) = self.containers.iter().position(|c| c.pid == pid) else {
            return;
        };
        if self.containers[i].flags & protocol::START_OWN_PIDNS == 0 {
            crate::cgroup::kill_all(&self.containers[i].procs);
        }
        for which in 0..2 {
            while self.pump(pid, which) {}
        }
        let mut c = self.containers.remove(i);
        for (which, output) in c.outputs.iter_mut().enumerate() {
            if !output.pending.is_empty() {
                write_log(c.log.as_mut(), which, &[(&output.pending, false)]);
            }
        }
        if let Some(failure) = &c.failure {
            self.reply(c.starter, Reply::Failed, failure, &[]);
            return;
        }
        let oom = fs::read_to_string(&c.oom).unwrap_or_default();
        let oom = oom
            .lines()
            .any(|l| l.strip_prefix("oom_kill ").is_some_and(|n| n.trim() != "0"));
        let text = format!("{code} {} {}\n", sys::wall_nanos(), i32::from(oom));
        let _ = sys::write_atomically(&c.dir.join("exit"), text.as_bytes(), true);
        let mut event = code.to_le_bytes().to_vec();
        for a in &c.attached {
            self.reply(a.conn, Reply::Exit, &event, &[]);
        }
        event.extend_from_slice(c.id.as_bytes());
        event.insert(0, Reply::Event as u8);
        let full =
            |s: &&Conn| s.subscribed && sys::send_packet(s.fd.as_raw_fd(), &event, &[]).is_err();
        let gone: Vec<_> = self
            .conns
            .iter()
            .filter(full)
            .map(|s| s.fd.as_raw_fd())
            .collect();
        for conn in gone {
            // It reads the files when it subscribes again.
            self.hang_up(conn);
        }
    }

    fn shutdown(&mut self, conn: RawFd) {
        for c in &self.containers {
            // SAFETY: our own children that we have not waited for.
            unsafe { libc::kill(c.pid, libc::SIGKILL) };
            crate::cgroup::kill_all(&c.procs);
        }
        for e in &self.execs {
            // SAFETY: as above.
            unsafe { libc::kill(e.pid, libc::SIGKILL) };
        }
        if self.pause > 0 {
            // SAFETY: as above.
            unsafe { libc::kill(self.pause, libc::SIGKILL) };
        }
        loop {
            let mut status = 0;
            // SAFETY: `status` is writable. Waits for every child; all were killed.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, 0) };
            if pid <= 0 {
                break;
            }
            let code = if libc::WIFSIGNALED(status) {
                128 + libc::WTERMSIG(status)
            } else {
                libc::WEXITSTATUS(status)
            };
            self.ended(pid, code);
        }
        self.reply(conn, Reply::Ok, &[], &[]);
        self.ending = true;
    }
}

fn failed(code: i32, text: &str) -> Vec<u8> {
    let mut body = code.to_le_bytes().to_vec();
    body.extend_from_slice(text.as_bytes());
    body
}

fn open_log(path: &str) -> io::Result<Option<File>> {
    if path.is_empty() {
        return Ok(None);
    }
    let open = || {
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o640)
            .open(path)
    };
    let file = open().or_else(|e| match (e.kind(), Path::new(path).parent()) {
        (io::ErrorKind::NotFound, Some(parent)) => {
            fs::create_dir_all(parent)?;
            open()
        }
        _ => Err(e),
    });
    file.map(Some)
        .map_err(|e| io::Error::new(e.kind(), format!("opening log {path}: {e}")))
}

/// Lines in CRI's form: time, stream, `F` for a full line or `P` for a part.
fn write_log(log: Option<&mut File>, which: usize, lines: &[(&[u8], bool)]) {
    let Some(log) = log else { return };
    for (line, full) in lines {
        let mut text = Vec::with_capacity(line.len() + 48);
        timestamp(sys::wall_nanos(), &mut text);
        text.extend_from_slice(if which == 0 { b" stdout " } else { b" stderr " });
        text.extend_from_slice(if *full { b"F " } else { b"P " });
        text.extend_from_slice(line);
        text.push(b'\n');
        // A full disk loses log lines, not the container.
        let _ = log.write_all(&text);
    }
}

/// `2006-01-02T15:04:05.000000000Z`.
fn timestamp(nanos: i64, into: &mut Vec<u8>) {
    let (seconds, nanos) = (
        nanos.div_euclid(1_000_000_000),
        nanos.rem_euclid(1_000_000_000),
    );
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days to a date in the proleptic Gregorian calendar, with years that start in March.
    let z = days + 719_468;
    let (era, day_of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let m = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * m + 2) / 5 + 1;
    let month = if m < 10 { m + 3 } else { m - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let _ = write!(
        into,
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{nanos:09}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    );
}

#[cfg(test)]
mod tests {
    use super::timestamp;

    #[test]
    fn log_times_are_dates() {
        let text = |nanos| {
            let mut out = Vec::new();
            timestamp(nanos, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(
            text(1_709_210_096_000_000_007),
            "2024-02-29T12:34:56.000000007Z"
        );
        assert_eq!(
            text(1_767_225_599_999_999_999),
            "2025-12-31T23:59:59.999999999Z"
        );
    }
}
