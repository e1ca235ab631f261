//! The embedded runtime: what it has recorded, and what it asks shims to do.
//!
//! ```text
//! <state>/s/<sandbox>/    sandbox.json shim.json shim.sock shim.pid net uts ipc shm/ resolv.conf hostname
//! <state>/c/<container>/  container.json spec.json started exit message rootfs/ (an empty mount point)
//! <root>/containers/<container>/  upper/ work/
//! <root>/…                images, see [`crate::image`]
//! ```
//! The files are the truth, written before anything is answered; a process that starts reads them and asks each shim
//! nothing but to be told of what happens next.

mod shim_client;
mod spec;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::io::AsyncReadExt;
use tokio::sync::{broadcast, mpsc, watch};
use world::World;

use self::shim_client::{Answer, Conn};
use crate::cgroup::Cgroups;
use crate::error::{Attempt, Error, Result};
use crate::image::Images;
use crate::protocol::{self, Op, Reply};
use crate::record::{ContainerRecord, Fact, InitSpec, ProcessSpec, SandboxRecord, ShimSpec};
use crate::stdio::Pipe;
use crate::types::*;
use crate::{CgroupDriver, Events, Runtime, SandboxNetwork, sys};

/// How to open the embedded runtime.
pub struct Options {
    /// Persistent: images, layers, writable layers. `/var/lib/skiff/runtime`. Without `,` and `:`.
    pub root: PathBuf,
    /// Gone after a reboot: sandboxes, containers, sockets. At most 60 bytes long. `/run/skiff/runtime`.
    pub state: PathBuf,
    pub network: Arc<dyn SandboxNetwork>,
    pub world: World,
    /// A program that calls [`crate::entry`] first thing in `main`; usually `/proc/self/exe`.
    pub self_exe: PathBuf,
    /// All cgroups are below this path of each hierarchy; empty or `/` for the root.
    pub cgroup_root: String,
    pub cgroup_driver: CgroupDriver,
}

/// Where a container is in its life; it only ever goes downwards through this list.
#[derive(Debug, Clone, PartialEq)]
enum Life {
    Created,
    Running {
        pid: i32,
        started: Option<Timestamp>,
    },
    Exited {
        started: Option<Timestamp>,
        finished: Option<Timestamp>,
        code: i32,
        reason: &'static str,
        message: String,
    },
}

struct Sandbox {
    record: Mutex<SandboxRecord>,
    dir: PathBuf,
    /// The shim answers.
    alive: watch::Sender<bool>,
}

struct Container {
    record: ContainerRecord,
    resources: Mutex<LinuxResources>,
    dir: PathBuf,
    life: watch::Sender<Life>,
    /// Held by what must not happen twice at once: starting and removing.
    busy: tokio::sync::Mutex<()>,
}

/// The embedded runtime.
pub struct Embedded {
    /// For the tasks that follow shims, which end with the runtime.
    this: Weak<Self>,
    options: Options,
    cgroups: Cgroups,
    images: Arc<Images>,
    sandboxes: Mutex<BTreeMap<SandboxId, Arc<Sandbox>>>,
    containers: Mutex<BTreeMap<ContainerId, Arc<Container>>>,
    events: broadcast::Sender<ContainerEvent>,
}

/// How many events a slow reader may be behind.
const EVENTS: usize = 4096;
/// Of each stream of an [`ExecSync`]. Probes and hooks show 10 KiB.
const MAX_OUTPUT: usize = 16 << 10;
/// How long the kernel may take to end a process after KILL (disk waits) before that is an error.
const KILL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a launcher may take.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(30);

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).attempt(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Reads what [`save`] wrote; `None` if there is no such file.
///
/// Only that means that the creation of what it is about was never answered. A file that can't be understood may be about
/// something that runs, so it is not for us to clear away.
fn load<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.attempt(|| format!("reading {}", path.display()))?,
    };
    serde_json::from_slice(&text).map(Some).map_err(|e| {
        Error::FailedPrecondition(format!(
            "{} is damaged ({e}): end what it is about, and move it away",
            path.display()
        ))
    })
}

fn save<T: serde::Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_vec(value).map_err(|e| Error::InvalidArgument(e.to_string()))?;
    sys::write_atomically(path, &text, false).attempt(|| format!("writing {}", path.display()))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(Error::FailedPrecondition(format!(
            "the runtime is shutting down: {e}"
        ))),
    }
}

impl Container {
    /// What the files say.
    fn life_on_disk(dir: &Path) -> Life {
        let fact = |name: &str| {
            fs::read_to_string(dir.join(name))
                .ok()
                .and_then(|t| Fact::parse(&t))
        };
        let started = fact("started");
        match (fact("exit"), started) {
            (Some(exit), started) => {
                let message = fs::read_to_string(dir.join("message")).unwrap_or_default();
                let reason = match () {
                    () if started.is_none() => "StartError",
                    () if !message.is_empty() => "Unknown",
                    () if exit.flag => "OOMKilled",
                    () if exit.number == 0 => "Completed",
                    () => "Error",
                };
                let started = started.and_then(|s| s.time());
                Life::Exited {
                    started,
                    finished: exit.time(),
                    code: exit.number,
                    reason,
                    message,
                }
            }
            (None, Some(started)) => Life::Running {
                pid: started.number,
                started: started.time(),
            },
            (None, None) => Life::Created,
        }
    }

    /// Takes over what the files say; true if it has just exited.
    fn refresh(&self) -> bool {
        let now = Self::life_on_disk(&self.dir);
        let mut exited = false;
        self.life.send_if_modified(|life| {
            let newer = match (&*life, &now) {
                (Life::Exited { .. }, _)
                | (Life::Running { .. }, Life::Created | Life::Running { .. }) => false,
                (a, b) => a != b,
            };
            if newer {
                exited = matches!(now, Life::Exited { .. });
                *life = now;
            }
            newer
        });
        exited
    }

    /// Records an end that no shim saw.
    fn record_end(&self, now: Timestamp, code: i32, message: &str) -> Result<()> {
        let path = self.dir.join("message");
        sys::write_atomically(&path, message.as_bytes(), false)
            .attempt(|| format!("writing {}", path.display()))?;
        let text = format!("{code} {} 0\n", now.as_nanosecond());
        let path = self.dir.join("exit");
        sys::write_atomically(&path, text.as_bytes(), false)
            .attempt(|| format!("writing {}", path.display()))
    }

    fn pid_mode(&self, sandbox: &SandboxRecord) -> PidMode {
        pid_mode(&self.record.config, sandbox)
    }

    fn status(&self) -> ContainerStatus {
        // Whoever started it may have stopped waiting for the answer.
        if *self.life.borrow() == Life::Created {
            self.refresh();
        }
        let r = &self.record;
        let mut status = ContainerStatus {
            id: r.id.clone(),
            sandbox_id: r.sandbox.clone(),
            metadata: r.config.metadata.clone(),
            state: ContainerState::Created,
            pid: None,
            created_at: r.created_at,
            started_at: None,
            finished_at: None,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            image: r.config.image.clone(),
            image_id: r.image_id.clone(),
            log_path: r.log_path.clone(),
            mounts: r.config.mounts.clone(),
            resources: lock(&self.resources).clone(),
            labels: r.config.labels.clone(),
            annotations: r.config.annotations.clone(),
        };
        match self.life.borrow().clone() {
            Life::Created => {}
            Life::Running { pid, started } => {
                (status.state, status.pid, status.started_at) =
                    (ContainerState::Running, Some(pid), started);
            }
            Life::Exited {
                started,
                finished,
                code,
                reason,
                message,
            } => {
                status.state = ContainerState::Exited;
                (status.started_at, status.finished_at, status.exit_code) =
                    (started, finished, code);
                (status.reason, status.message) = (reason.to_owned(), message);
            }
        }
        status
    }
}

fn pid_mode(config: &ContainerConfig, sandbox: &SandboxRecord) -> PidMode {
    match config.linux.security_context.namespaces.pid {
        PidMode::Container => sandbox.config.linux.namespaces.pid,
        other => other,
    }
}

impl Sandbox {
    fn netns(&self) -> Option<PathBuf> {
        let host = lock(&self.record).config.linux.namespaces.network == NamespaceMode::Node;
        (!host).then(|| self.dir.join("net"))
    }

    fn conn(&self) -> Result<Conn> {
        Conn::open(&self.dir).map_err(|e| self.lost(e))
    }

    fn lost(&self, why: io::Error) -> Error {
        Error::Shim {
            sandbox: lock(&self.record).id.clone(),
            why: why.to_string(),
        }
    }

    async fn call(&self, op: Op, fields: &[&str]) -> Result<Answer> {
        self.conn()?
            .call(op, fields, &[])
            .await
            .map_err(|e| self.lost(e))
    }

    fn save(&self) -> Result<()> {
        let record = lock(&self.record).clone();
        save(&self.dir.join("sandbox.json"), &record)
    }

    fn shim_cgroup(&self) -> String {
        let r = lock(&self.record);
        format!("{}/shim-{}", r.cgroup_parent, r.id)
    }
}

impl Embedded {
    /// Opens the runtime and adopts what a previous process left running. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When a directory can't be made, no cgroup hierarchy is mounted, or the image index or the record of a container or sandbox is
    /// damaged.
    pub async fn open(options: Options) -> Result<Arc<Self>> {
        if options.state.as_os_str().len() > 60 {
            return Err(Error::InvalidArgument(format!(
                "state path {} is longer than 60 bytes",
                options.state.display()
            )));
        }
        let cgroups = Cgroups::detect(&options.cgroup_root)?;
        for dir in [
            options.state.join("s"),
            options.state.join("c"),
            options.root.join("containers"),
        ] {
            fs::create_dir_all(&dir).attempt(|| format!("making {}", dir.display()))?;
        }
        for dir in [&options.state, &options.root] {
            let mode = fs::Permissions::from_mode(0o700);
            fs::set_permissions(dir, mode)
                .attempt(|| format!("setting the mode of {}", dir.display()))?;
        }
        let images = Arc::new(Images::open(&options.root)?);
        let this = Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            options,
            cgroups,
            images,
            sandboxes: Mutex::default(),
            containers: Mutex::default(),
            events: broadcast::channel(EVENTS).0,
        });
        this.adopt().await?;
        Ok(this)
    }

    async fn adopt(&self) -> Result<()> {
        let names = |dir: PathBuf| -> Result<Vec<PathBuf>> {
            let reading = || format!("reading {}", dir.display());
            let entries = fs::read_dir(&dir).attempt(reading)?;
            entries.map(|e| Ok(e.attempt(reading)?.path())).collect()
        };
        for dir in names(self.options.state.join("c"))? {
            let Some(record) = load::<ContainerRecord>(&dir.join("container.json"))? else {
                remove_tree(&dir)?;
                continue;
            };
            let life = watch::channel(Container::life_on_disk(&dir)).0;
            let resources = Mutex::new(record.config.linux.resources.clone());
            let id = record.id.clone();
            let container = Container {
                record,
                resources,
                dir,
                life,
                busy: tokio::sync::Mutex::default(),
            };
            lock(&self.containers).insert(id, Arc::new(container));
        }
        for dir in names(self.options.root.join("containers"))? {
            let known = dir
                .file_name()
                .and_then(|n| n.to_str())
                .is_some_and(|n| lock(&self.containers).contains_key(&n.into()));
            if !known {
                remove_tree(&dir)?;
            }
        }
        for dir in names(self.options.state.join("s"))? {
            let Some(record) = load::<SandboxRecord>(&dir.join("sandbox.json"))? else {
                remove_tree(&dir)?;
                continue;
            };
            let (id, ready) = (record.id.clone(), record.ready);
            let sandbox = Arc::new(Sandbox {
                record: Mutex::new(record),
                dir,
                alive: watch::channel(false).0,
            });
            lock(&self.sandboxes).insert(id.clone(), Arc::clone(&sandbox));
            if !ready {
                self.remove_pod_sandbox(&id).await?;
            } else if self.follow(&sandbox).await.is_err() {
                self.shim_lost(&sandbox);
            }
        }
        let orphans: Vec<_> = {
            let sandboxes = lock(&self.sandboxes);
            let containers = lock(&self.containers);
            containers
                .values()
                .filter(|c| !sandboxes.contains_key(&c.record.sandbox))
                .map(|c| c.record.id.clone())
                .collect()
        };
        for id in orphans {
            self.remove_container(&id).await?;
        }
        Ok(())
    }

    /// Subscribes to a shim, and from then on takes over what it reports, until it is gone or this runtime is dropped.
    fn follow<'a>(
        &'a self,
        sandbox: &'a Arc<Sandbox>,
    ) -> futures::future::BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let conn = sandbox.conn()?;
            conn.call(Op::Subscribe, &[], &[])
                .await
                .map_err(|e| sandbox.lost(e))?;
            sandbox.alive.send_replace(true);
            let id = lock(&sandbox.record).id.clone();
            for c in self.containers_of(&id) {
                self.take_over(&c.record.id);
            }
            let (this, sandbox) = (Weak::clone(&self.this), Arc::clone(sandbox));
            tokio::spawn(async move {
                loop {
                    let received = conn.receive().await;
                    let Some(this) = this.upgrade() else { return };
                    match received {
                        Ok(answer) if answer.kind == Reply::Event => {
                            this.take_over(&answer.text().into())
                        }
                        Ok(_) => {}
                        // It is gone, or hung up because we were too slow.
                        Err(_) => {
                            if this.follow(&sandbox).await.is_err() {
                                this.shim_lost(&sandbox);
                            }
                            return;
                        }
                    }
                }
            });
            Ok(())
        })
    }

    fn take_over(&self, id: &ContainerId) {
        let Ok(c) = self.container(id) else { return };
        if c.refresh() {
            let code = c.status().exit_code;
            self.tell(
                &c.record.sandbox,
                Some(id),
                ContainerEventKind::Stopped,
                Some(code),
            );
        }
    }

    /// The shim has ended, asked to or not: what it hadn't recorded is killed and recorded here.
    fn shim_lost(&self, sandbox: &Sandbox) {
        sandbox.alive.send_replace(false);
        let id = lock(&sandbox.record).id.clone();
        for c in self.containers_of(&id) {
            c.refresh();
            if matches!(*c.life.borrow(), Life::Running { .. }) {
                self.cgroups.kill(&c.record.cgroup);
                if let Err(e) = c.record_end(
                    self.options.world.now(),
                    255,
                    "the shim of its sandbox was lost",
                ) {
                    tracing::error!(container = %c.record.id, "can't record the end of a lost container: {e}");
                }
                self.take_over(&c.record.id);
            }
        }
        self.tell(&id, None, ContainerEventKind::Stopped, None);
    }

    fn tell(
        &self,
        sandbox: &SandboxId,
        container: Option<&ContainerId>,
        kind: ContainerEventKind,
        exit_code: Option<i32>,
    ) {
        let event = ContainerEvent {
            sandbox: sandbox.clone(),
            container: container.cloned(),
            kind,
            exit_code,
        };
        // Nobody listening is fine: whoever comes lists first.
        let _ = self.events.send(event);
    }

    fn new_id(&self) -> String {
        self.options.world.rng.uuid().replace('-', "")
    }

    fn sandbox(&self, id: &SandboxId) -> Result<Arc<Sandbox>> {
        lock(&self.sandboxes)
            .get(id)
            .cloned()
            .ok_or_else(|| Error::sandbox(id))
    }

    fn container(&self, id: &ContainerId) -> Result<Arc<Container>> {
        lock(&self.containers)
            .get(id)
            .cloned()
            .ok_or_else(|| Error::container(id))
    }

    fn containers_of(&self, id: &SandboxId) -> Vec<Arc<Container>> {
        lock(&self.containers)
            .values()
            .filter(|c| c.record.sandbox == *id)
            .cloned()
            .collect()
    }

    async fn launch(&self, sandbox: &Arc<Sandbox>) -> Result<()> {
        let record = lock(&sandbox.record).clone();
        let (config, dir) = (&record.config, &sandbox.dir);
        let namespaces = config.linux.namespaces;
        let shim_cgroup = sandbox.shim_cgroup();
        self.cgroups.create(&shim_cgroup)?;
        let hostname: String = config.hostname.chars().take(64).collect();
        let spec = ShimSpec {
            id: record.id.clone(),
            hostname: hostname.clone(),
            new_network: namespaces.network != NamespaceMode::Node,
            new_ipc: namespaces.ipc != NamespaceMode::Node,
            shared_pid: namespaces.pid == PidMode::Pod,
            sysctls: config.linux.sysctls.clone(),
            cgroups: self
                .cgroups
                .dirs(&shim_cgroup)
                .into_iter()
                .map(|(_, d)| d)
                .collect(),
        };
        save(&dir.join("shim.json"), &spec)?;
        if spec.new_network {
            fs::write(dir.join("hostname"), format!("{hostname}\n"))
                .attempt(|| "writing hostname".into())?;
        }
        if let Some(dns) = &config.dns_config {
            let mut text = String::new();
            if !dns.searches.is_empty() {
                text.push_str(&format!("search {}\n", dns.searches.join(" ")));
            }
            dns.servers
                .iter()
                .for_each(|s| text.push_str(&format!("nameserver {s}\n")));
            if !dns.options.is_empty() {
                text.push_str(&format!("options {}\n", dns.options.join(" ")));
            }
            fs::write(dir.join("resolv.conf"), text).attempt(|| "writing resolv.conf".into())?;
        }
        let mut command = std::process::Command::new(&self.options.self_exe);
        command.arg0(crate::shim::LAUNCHER).arg(dir).env_clear();
        let mut command = tokio::process::Command::from(command);
        command
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true);
        let lost = |why: String| Error::Shim {
            sandbox: record.id.clone(),
            why,
        };
        let output = tokio::time::timeout(LAUNCH_TIMEOUT, command.output())
            .await
            .map_err(|_| lost("the launcher took too long".into()))?
            .attempt(|| format!("starting {}", self.options.self_exe.display()))?;
        if !output.status.success() {
            return Err(lost(
                String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            ));
        }
        self.follow(sandbox).await?;
        if let Some(netns) = sandbox.netns() {
            let status = self.options.network.add(&record.id, &netns, config).await?;
            lock(&sandbox.record).ips = status.ips;
        }
        lock(&sandbox.record).ready = true;
        sandbox.save()
    }

    /// Ends the shim and all in it; the network goes with it.
    async fn end_sandbox(&self, id: &SandboxId, sandbox: &Sandbox) -> Result<()> {
        if let Ok(conn) = sandbox.conn() {
            let mut alive = sandbox.alive.subscribe();
            let answered = tokio::time::timeout(KILL_TIMEOUT, async {
                // Whether it answers or just closes, it has ended then.
                let _ = conn.call(Op::Shutdown, &[], &[]).await;
                let _ = alive.wait_for(|a| !a).await;
            });
            answered.await.map_err(|_| Error::Shim {
                sandbox: id.clone(),
                why: "doesn't end".into(),
            })?;
        }
        for c in self.containers_of(id) {
            self.cgroups.kill(&c.record.cgroup);
            self.take_over(&c.record.id);
        }
        self.cgroups.kill(&sandbox.shim_cgroup());
        if let Some(netns) = sandbox.netns() {
            self.options.network.remove(id, &netns).await?;
        }
        for pin in ["net", "uts", "ipc", "shm"] {
            let path = sandbox.dir.join(pin);
            sys::unmount(&path).attempt(|| format!("unmounting {}", path.display()))?;
        }
        self.cgroups.remove(&sandbox.shim_cgroup()).await
    }

    fn mounts(&self, config: &ContainerConfig, sandbox: &Sandbox) -> Vec<Mount> {
        let mut mounts = config.mounts.clone();
        let host = sandbox.netns().is_none();
        for (name, at, fallback) in [
            ("resolv.conf", "/etc/resolv.conf", Some("/etc/resolv.conf")),
            ("hostname", "/etc/hostname", host.then_some("/etc/hostname")),
        ] {
            if mounts.iter().any(|m| m.container_path == Path::new(at)) {
                continue;
            }
            let own = sandbox.dir.join(name);
            let source = if own.exists() {
                Some(own)
            } else {
                fallback.map(PathBuf::from).filter(|p| p.exists())
            };
            if let Some(host_path) = source {
                let readonly = config.linux.security_context.readonly_rootfs;
                mounts.push(Mount {
                    host_path,
                    container_path: at.into(),
                    readonly,
                    ..Mount::default()
                });
            }
        }
        mounts
    }

    async fn exec_on(
        &self,
        id: &ContainerId,
        request: &ExecRequest,
    ) -> Result<(Streams, Arc<Conn>)> {
        let container = self.container(id)?;
        let not_running = || Error::FailedPrecondition(format!("container {id} is not running"));
        if !matches!(*container.life.borrow(), Life::Running { .. }) {
            return Err(not_running());
        }
        if request.cmd.is_empty() {
            return Err(Error::InvalidArgument("no command specified".into()));
        }
        let sandbox = self.sandbox(&container.record.sandbox)?;
        let text =
            fs::read(container.dir.join("spec.json")).attempt(|| "reading spec.json".into())?;
        let spec: InitSpec =
            serde_json::from_slice(&text).map_err(|e| Error::InvalidArgument(e.to_string()))?;
        let process = ProcessSpec {
            args: request.cmd.clone(),
            tty: request.tty,
            ..spec.process
        };
        let cgroups: Vec<_> = spec.cgroups.into_iter().map(|(_, d)| d).collect();
        let text = serde_json::to_vec(&(cgroups, process))
            .map_err(|e| Error::InvalidArgument(e.to_string()))?;
        let memory = sys::memfd(&text).attempt(|| "making a specification".into())?;

        let null = || {
            fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/null")
                .map(OwnedFd::from)
        };
        let pipes = || "making pipes".to_owned();
        let mut theirs = vec![memory];
        let (mut stdin, mut outputs) = (None, [None, None]);
        if !request.tty {
            theirs.push(if request.stdin {
                let (read, write) = sys::pipe().attempt(pipes)?;
                stdin = Some(Pipe::new(write).attempt(pipes)?);
                read
            } else {
                null().attempt(pipes)?
            });
            for (slot, wanted) in outputs.iter_mut().zip([request.stdout, request.stderr]) {
                theirs.push(if wanted {
                    let (read, write) = sys::pipe().attempt(pipes)?;
                    *slot = Some(Pipe::new(read).attempt(pipes)?);
                    write
                } else {
                    null().attempt(pipes)?
                });
            }
        }
        let conn = Arc::new(sandbox.conn()?);
        let flags = if request.tty { protocol::START_TTY } else { 0 };
        let fds: Vec<_> = theirs.iter().map(AsRawFd::as_raw_fd).collect();
        let answer = conn
            .call(Op::Exec, &[id.as_str(), &flags.to_string()], &fds)
            .await
            .map_err(|e| sandbox.lost(e))?;
        drop(theirs);
        match answer.kind {
            Reply::Ok => {}
            Reply::Failed => return Err(start_error(&answer)),
            _ => return Err(not_running()),
        }
        let (resize, sizes) = mpsc::channel(4);
        if let Some(master) = answer.fds.into_iter().next() {
            let pipe = terminal(master, sizes)?;
            stdin = request.stdin.then(|| pipe.again());
            outputs[0] = request.stdout.then_some(pipe);
        }
        let waiting = Arc::clone(&conn);
        let exit = Box::pin(async move {
            let answer = waiting.receive().await.map_err(|e| sandbox.lost(e))?;
            Ok(answer.number())
        });
        let [stdout, stderr] = outputs;
        Ok((
            Streams {
                stdin: stdin.map(boxed_write),
                stdout: stdout.map(boxed_read),
                stderr: stderr.map(boxed_read),
                resize,
                exit,
            },
            conn,
        ))
    }

    async fn signal(&self, c: &Container, signal: i32, all: bool) -> Result<()> {
        let sandbox = self.sandbox(&c.record.sandbox)?;
        let fields = [
            c.record.id.as_str(),
            &signal.to_string(),
            if all { "1" } else { "0" },
        ];
        match sandbox.call(Op::Signal, &fields).await {
            Ok(_) => Ok(()),
            // The shim's end makes everything exited, which the caller waits for.
            Err(_) if !*sandbox.alive.borrow() => Ok(()),
            Err(e) => Err(e),
        }
    }
}

fn start_error(answer: &Answer) -> Error {
    let message = format!("unable to start container process: {}", answer.text());
    Error::Start {
        message,
        exit_code: answer.number(),
    }
}

fn boxed_write(p: Pipe) -> Box<dyn tokio::io::AsyncWrite + Send + Unpin> {
    Box::new(p)
}
fn boxed_read(p: Pipe) -> Box<dyn tokio::io::AsyncRead + Send + Unpin> {
    Box::new(p)
}

/// A terminal's master as a stream, whose size follows `sizes`.
fn terminal(master: OwnedFd, mut sizes: mpsc::Receiver<TerminalSize>) -> Result<Pipe> {
    let doing = || "opening the terminal".to_owned();
    let sizing = master.try_clone().attempt(doing)?;
    tokio::spawn(async move {
        while let Some(size) = sizes.recv().await {
            if let Err(e) = sys::set_terminal_size(sizing.as_raw_fd(), size.width, size.height) {
                tracing::debug!("resizing a terminal: {e}");
            }
        }
    });
    Pipe::new(master).attempt(doing)
}

async fn gather(stream: Option<Box<dyn tokio::io::AsyncRead + Send + Unpin>>, into: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; 8192];
    // Reads to the end even past the limit, so that the command isn't stuck in a write.
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        let room = MAX_OUTPUT - into.len();
        into.extend_from_slice(&buffer[..n.min(room)]);
    }
}

/// Bytes on disk and number of files below `dir`.
fn disk_usage(dir: &Path) -> (u64, u64) {
    let mut sum = (0, 0);
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            sum = (sum.0 + meta.blocks() * 512, sum.1 + 1);
            if meta.is_dir() {
                open.push(entry.path());
            }
        }
    }
    sum
}

#[async_trait]
impl Runtime for Embedded {
    async fn version(&self) -> Result<Version> {
        Ok(Version {
            runtime_name: "skiff".into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: "v1".into(),
        })
    }
    async fn run_pod_sandbox(&self, config: SandboxConfig) -> Result<SandboxId> {
        let linux = &config.linux;
        crate::sysctl::check(linux)?;
        let id = SandboxId::from(self.new_id());
        let cgroup_parent = match linux.cgroup_parent.trim_matches('/') {
            "" => format!("skiff/{id}"),
            given if given.split('/').any(|p| p == "..") => {
                return Err(Error::InvalidArgument(format!(
                    "cgroup parent {given:?} leads upwards"
                )));
            }
            given => given.to_owned(),
        };
        if !config.log_directory.as_os_str().is_empty() {
            fs::create_dir_all(&config.log_directory)
                .attempt(|| format!("making {}", config.log_directory.display()))?;
        }
        let dir = self.options.state.join("s").join(id.as_str());
        fs::create_dir(&dir).attempt(|| format!("making {}", dir.display()))?;
        let record = SandboxRecord {
            id: id.clone(),
            config,
            created_at: self.options.world.now(),
            ips: vec![],
            ready: false,
            stopped: false,
            cgroup_parent,
        };
        let sandbox = Arc::new(Sandbox {
            record: Mutex::new(record),
            dir,
            alive: watch::channel(false).0,
        });
        sandbox.save()?;
        lock(&self.sandboxes).insert(id.clone(), Arc::clone(&sandbox));
        if let Err(e) = self.launch(&sandbox).await {
            if let Err(also) = self.remove_pod_sandbox(&id).await {
                tracing::warn!(sandbox = %id, "cleaning up after a failed start: {also}");
            }
            return Err(e);
        }
        self.tell(&id, None, ContainerEventKind::Started, None);
        Ok(id)
    }
    async fn stop_pod_sandbox(&self, id: &SandboxId) -> Result<()> {
        self.stop_pod_sandbox_now(id).await
    }
    async fn remove_pod_sandbox(&self, id: &SandboxId) -> Result<()> {
        self.remove_pod_sandbox_now(id).await
    }
    async fn pod_sandbox_status(&self, id: &SandboxId) -> Result<SandboxStatus> {
        Ok(self.sandbox_status(&*self.sandbox(id)?))
    }
    async fn list_pod_sandboxes(&self) -> Result<Vec<SandboxStatus>> {
        let all: Vec<_> = lock(&self.sandboxes).values().cloned().collect();
        let mut all: Vec<_> = all.iter().map(|s| self.sandbox_status(s)).collect();
        all.sort_by_key(|s| s.created_at);
        Ok(all)
    }
    async fn create_container(
        &self,
        sandbox: &SandboxId,
        config: ContainerConfig,
    ) -> Result<ContainerId> {
        self.create_container_now(sandbox, config)
    }
    async fn start_container(&self, id: &ContainerId) -> Result<()> {
        self.start_container_now(id).await
    }
    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<()> {
        self.stop_container_now(id, grace).await
    }
    async fn remove_container(&self, id: &ContainerId) -> Result<()> {
        self.remove_container_now(id).await
    }
    async fn container_status(&self, id: &ContainerId) -> Result<ContainerStatus> {
        Ok(self.container(id)?.status())
    }
    async fn list_containers(&self) -> Result<Vec<ContainerStatus>> {
        let mut all: Vec<_> = lock(&self.containers)
            .values()
            .map(|c| c.status())
            .collect();
        all.sort_by_key(|c| c.created_at);
        Ok(all)
    }
    async fn update_container_resources(
        &self,
        id: &ContainerId,
        resources: LinuxResources,
    ) -> Result<()> {
        let c = self.container(id)?;
        self.cgroups.apply(&c.record.cgroup, &resources)?;
        let mut now = lock(&c.resources);
        macro_rules! take {
            ($($field:ident),*) => { $(if resources.$field.is_some() { now.$field = resources.$field; })* };
        }
        take!(
            cpu_period,
            cpu_quota,
            cpu_shares,
            memory_limit_in_bytes,
            memory_swap_limit_in_bytes,
            pids_limit
        );
        Ok(())
    }
    async fn reopen_container_log(&self, id: &ContainerId) -> Result<()> {
        let c = self.container(id)?;
        let answer = self
            .sandbox(&c.record.sandbox)?
            .call(Op::Reopen, &[id.as_str()])
            .await?;
        match answer.kind {
            Reply::Ok => Ok(()),
            Reply::Gone => Err(Error::FailedPrecondition(format!(
                "container {id} is not running"
            ))),
            _ => Err(Error::Shim {
                sandbox: c.record.sandbox.clone(),
                why: answer.text(),
            }),
        }
    }
    async fn exec_sync(
        &self,
        id: &ContainerId,
        cmd: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecSync> {
        let command = cmd.join(" ");
        let request = ExecRequest {
            cmd,
            stdout: true,
            stderr: true,
            ..ExecRequest::default()
        };
        let (mut streams, conn) = self.exec_on(id, &request).await?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let (out, err) = (streams.stdout.take(), streams.stderr.take());
        let run = async {
            let reading = futures::future::join(gather(out, &mut stdout), gather(err, &mut stderr));
            let mut reading = std::pin::pin!(reading);
            let mut done = false;
            let code = tokio::select! {
                biased;
                code = &mut streams.exit => code?,
                _ = &mut reading => { done = true; streams.exit.await? }
            };
            if !done {
                // A process it left behind may hold the pipes for ever.
                let _ = tokio::time::timeout(Duration::from_secs(1), reading).await;
            }
            Ok::<_, Error>(code)
        };
        let exit_code = match timeout {
            None => run.await?,
            Some(limit) => match tokio::time::timeout(limit, run).await {
                Ok(code) => code?,
                Err(_) => {
                    if let Err(e) = conn.send(Op::KillExec, &[], &[]).await {
                        tracing::debug!(container = %id, "killing a command that timed out: {e}");
                    }
                    return Err(Error::DeadlineExceeded {
                        command,
                        seconds: limit.as_secs_f64(),
                    });
                }
            },
        };
        Ok(ExecSync {
            stdout,
            stderr,
            exit_code,
        })
    }
    async fn exec(&self, id: &ContainerId, request: ExecRequest) -> Result<Streams> {
        Ok(self.exec_on(id, &request).await?.0)
    }
    async fn attach(&self, id: &ContainerId, stdin: bool) -> Result<Streams> {
        let c = self.container(id)?;
        let sandbox = self.sandbox(&c.record.sandbox)?;
        let tty = c.record.config.tty;
        let pipes = || "making pipes".to_owned();
        let (out, out_write) = sys::pipe().attempt(pipes)?;
        let (err, err_write) = sys::pipe().attempt(pipes)?;
        for fd in [&out_write, &err_write] {
            // SAFETY: takes numbers only. Room for a client that reads in bursts; fine if it isn't granted.
            unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETPIPE_SZ, 1 << 20) };
        }
        let conn = sandbox.conn()?;
        let fds = [out_write.as_raw_fd(), err_write.as_raw_fd()];
        let fields = [id.as_str(), if stdin { "1" } else { "0" }];
        let answer = conn
            .call(Op::Attach, &fields, &fds)
            .await
            .map_err(|e| sandbox.lost(e))?;
        if answer.kind != Reply::Ok {
            return Err(Error::FailedPrecondition(format!(
                "container {id} is not running"
            )));
        }
        let (resize, sizes) = mpsc::channel(4);
        let input = match answer.fds.into_iter().next() {
            Some(fd) if tty => Some(terminal(fd, sizes)?),
            Some(fd) => Some(Pipe::new(fd).attempt(pipes)?),
            None => None,
        };
        let stdout = Pipe::new(out).attempt(pipes)?;
        let stderr = if tty {
            None
        } else {
            Some(Pipe::new(err).attempt(pipes)?)
        };
        let exit = Box::pin(async move {
            let answer = conn.receive().await.map_err(|e| sandbox.lost(e))?;
            Ok(answer.number())
        });
        Ok(Streams {
            stdin: input.filter(|_| stdin).map(boxed_write),
            stdout: Some(boxed_read(stdout)),
            stderr: stderr.map(boxed_read),
            resize,
            exit,
        })
    }
    async fn port_forward(&self, id: &SandboxId, port: u16) -> Result<Box<dyn Duplex>> {
        let sandbox = self.sandbox(id)?;
        let mut last = io::Error::from(io::ErrorKind::ConnectionRefused);
        for (family, address) in [(libc::AF_INET, "127.0.0.1"), (libc::AF_INET6, "::1")] {
            let answer = sandbox.call(Op::Socket, &[&family.to_string()]).await?;
            let Some(fd) = answer.fds.into_iter().next() else {
                continue;
            };
            sys::nonblocking(fd.as_raw_fd()).attempt(|| "preparing a socket".into())?;
            let socket = tokio::net::TcpSocket::from_std_stream(fd.into());
            let address = std::net::SocketAddr::new(
                address
                    .parse()
                    .map_err(io::Error::other)
                    .attempt(String::new)?,
                port,
            );
            match socket.connect(address).await {
                Ok(stream) => return Ok(Box::new(stream)),
                Err(e) => last = e,
            }
        }
        Err(last).attempt(|| format!("connecting to port {port} inside sandbox {id}"))
    }
    async fn container_stats(&self, id: &ContainerId) -> Result<ContainerStats> {
        let c = self.container(id)?;
        if !matches!(*c.life.borrow(), Life::Running { .. }) {
            return Err(Error::FailedPrecondition(format!(
                "container {id} is not running"
            )));
        }
        let usage = self.cgroups.usage(&c.record.cgroup)?;
        let upper = self
            .options
            .root
            .join("containers")
            .join(id.as_str())
            .join("upper");
        let (used, inodes) = blocking(move || Ok(disk_usage(&upper))).await?;
        Ok(ContainerStats {
            id: id.clone(),
            sandbox_id: c.record.sandbox.clone(),
            metadata: c.record.config.metadata.clone(),
            timestamp: self.options.world.now(),
            cpu_usage_core_nanos: usage.cpu_nanos,
            memory_usage: usage.memory,
            memory_working_set: usage.memory.saturating_sub(usage.inactive_file),
            memory_rss: usage.rss,
            memory_page_faults: usage.faults,
            memory_major_page_faults: usage.major_faults,
            pids: usage.pids,
            writable_layer_used: used,
            writable_layer_inodes: inodes,
        })
    }
    async fn list_container_stats(&self) -> Result<Vec<ContainerStats>> {
        let running: Vec<_> = lock(&self.containers)
            .values()
            .filter(|c| matches!(*c.life.borrow(), Life::Running { .. }))
            .map(|c| c.record.id.clone())
            .collect();
        let mut all = Vec::new();
        for id in running {
            match self.container_stats(&id).await {
                Ok(stats) => all.push(stats),
                // It ended meanwhile.
                Err(e) => tracing::debug!(container = %id, "no statistics: {e}"),
            }
        }
        Ok(all)
    }
    fn events(&self) -> Events {
        let receiver = self.events.subscribe();
        Box::pin(futures::stream::unfold(receiver, |mut r| async {
            r.recv().await.ok().map(|e| (e, r))
        }))
    }
    async fn list_images(&self) -> Result<Vec<Image>> {
        Ok(self.images.list())
    }
    async fn image_status(&self, reference: &str) -> Result<Option<Image>> {
        Ok(self.images.find(reference).map(|e| e.image))
    }
    async fn pull_image(&self, reference: &str, _: Option<ImageAuth>) -> Result<Image> {
        crate::normalize_reference(reference)?;
        Err(Error::Unimplemented("pulling images from a registry"))
    }
    async fn remove_image(&self, reference: &str) -> Result<()> {
        let Some(entry) = self.images.find(reference) else {
            return Ok(());
        };
        let id = entry.image.id;
        if let Some(c) = lock(&self.containers)
            .values()
            .find(|c| c.record.image_id == id)
        {
            return Err(Error::FailedPrecondition(format!(
                "image {reference} is in use by container {}",
                c.record.id
            )));
        }
        let images = Arc::clone(&self.images);
        blocking(move || images.remove(&id)).await
    }
    async fn import_image(&self, tar: Box<dyn Read + Send>) -> Result<Vec<Image>> {
        let images = Arc::clone(&self.images);
        blocking(move || images.import(tar)).await
    }
    async fn image_fs_info(&self) -> Result<FsInfo> {
        let root = self.options.root.clone();
        blocking(move || {
            let path = sys::cstr(&root).attempt(String::new)?;
            // SAFETY: all zeros is a valid statvfs; the call fills it in.
            let s = unsafe {
                let mut s: libc::statvfs = std::mem::zeroed();
                sys::cvt(libc::statvfs(path.as_ptr(), &raw mut s))
                    .attempt(|| format!("asking about {}", root.display()))?;
                s
            };
            let (used_bytes, inodes_used) = disk_usage(&root);
            Ok(FsInfo {
                mountpoint: root,
                used_bytes,
                inodes_used,
                capacity_bytes: s.f_blocks * s.f_frsize,
                available_bytes: s.f_bavail * s.f_frsize,
                inodes: s.f_files,
                inodes_free: s.f_ffree,
            })
        })
        .await
    }
}

impl Embedded {
    fn sandbox_status(&self, sandbox: &Sandbox) -> SandboxStatus {
        let r = lock(&sandbox.record).clone();
        let up = r.ready && !r.stopped && *sandbox.alive.borrow();
        let pid = fs::read_to_string(sandbox.dir.join("shim.pid"))
            .ok()
            .and_then(|t| t.trim().parse().ok());
        SandboxStatus {
            netns: sandbox.netns(),
            id: r.id,
            metadata: r.config.metadata,
            state: if up {
                SandboxState::Ready
            } else {
                SandboxState::NotReady
            },
            created_at: r.created_at,
            ips: r.ips,
            namespaces: r.config.linux.namespaces,
            labels: r.config.labels,
            annotations: r.config.annotations,
            shim_pid: pid.filter(|_| up),
        }
    }

    async fn stop_pod_sandbox_now(&self, id: &SandboxId) -> Result<()> {
        let Ok(sandbox) = self.sandbox(id) else {
            return Ok(());
        };
        self.end_sandbox(id, &sandbox).await?;
        lock(&sandbox.record).stopped = true;
        sandbox.save()
    }

    async fn remove_pod_sandbox_now(&self, id: &SandboxId) -> Result<()> {
        let Ok(sandbox) = self.sandbox(id) else {
            return Ok(());
        };
        self.end_sandbox(id, &sandbox).await?;
        for c in self.containers_of(id) {
            self.remove_container(&c.record.id).await?;
        }
        let (parent, ours) = {
            let r = lock(&sandbox.record);
            (
                r.cgroup_parent.clone(),
                r.config.linux.cgroup_parent.trim_matches('/').is_empty(),
            )
        };
        if ours {
            self.cgroups.remove_if_empty(&parent);
        }
        remove_tree(&sandbox.dir)?;
        lock(&self.sandboxes).remove(id);
        self.tell(id, None, ContainerEventKind::Deleted, None);
        Ok(())
    }

    fn create_container_now(
        &self,
        sandbox_id: &SandboxId,
        config: ContainerConfig,
    ) -> Result<ContainerId> {
        let sandbox = self.sandbox(sandbox_id)?;
        let sandbox_record = lock(&sandbox.record).clone();
        if !*sandbox.alive.borrow() || sandbox_record.stopped {
            return Err(Error::FailedPrecondition(format!(
                "sandbox {sandbox_id} is not ready"
            )));
        }
        let entry = self
            .images
            .find(&config.image)
            .ok_or_else(|| Error::ImageNotFound(config.image.clone()))?;
        let id = ContainerId::from(self.new_id());
        let cgroup = format!("{}/{id}", sandbox_record.cgroup_parent);
        let (restricts, security) = (
            self.cgroups.filters_devices(),
            &config.linux.security_context,
        );
        let hostname = if sandbox.netns().is_some() {
            sandbox_record.config.hostname.clone()
        } else {
            fs::read_to_string("/proc/sys/kernel/hostname")
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let process = spec::process(&config, &entry.defaults, &hostname, restricts, |path| {
            fs::read(path).attempt(|| format!("reading seccomp profile {}", path.display()))
        })?;
        if pid_mode(&config, &sandbox_record) == PidMode::Pod
            && sandbox_record.config.linux.namespaces.pid != PidMode::Pod
        {
            return Err(Error::InvalidArgument(
                "the sandbox has no PID namespace to share".into(),
            ));
        }
        let dir = self.options.state.join("c").join(id.as_str());
        let store = self.options.root.join("containers").join(id.as_str());
        let init = InitSpec {
            layers: entry
                .layers
                .iter()
                .rev()
                .map(|l| format!("{l}/fs"))
                .collect(),
            layers_dir: self.images.layers_dir(),
            upper: store.join("upper"),
            work: store.join("work"),
            mount_point: dir.join("rootfs"),
            readonly_rootfs: security.readonly_rootfs,
            mounts: self.mounts(&config, &sandbox),
            devices: config.devices.clone(),
            shm: match sandbox_record.config.linux.namespaces.ipc {
                NamespaceMode::Node => "/dev/shm".into(),
                _ => sandbox.dir.join("shm"),
            },
            masked_paths: security.masked_paths.clone(),
            readonly_paths: security.readonly_paths.clone(),
            cgroups: self.cgroups.dirs(&cgroup),
            process,
        };
        let log_path = match (
            config.log_path.as_os_str().is_empty(),
            &sandbox_record.config.log_directory,
        ) {
            (true, _) => PathBuf::new(),
            (false, directory) => directory.join(&config.log_path),
        };
        for path in [&init.upper, &init.work, &init.mount_point] {
            fs::create_dir_all(path).attempt(|| format!("making {}", path.display()))?;
        }
        // overlayfs takes the root's mode from the uppermost layer, which this is.
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&init.upper, mode).attempt(|| "setting the root's mode".into())?;
        save(&dir.join("spec.json"), &init)?;
        let record = ContainerRecord {
            id: id.clone(),
            sandbox: sandbox_id.clone(),
            created_at: self.options.world.now(),
            image_id: entry.image.id,
            image_stop_signal: entry.defaults.stop_signal,
            log_path,
            cgroup,
            config,
        };
        save(&dir.join("container.json"), &record)?;
        let resources = Mutex::new(record.config.linux.resources.clone());
        let life = watch::channel(Life::Created).0;
        let container = Arc::new(Container {
            record,
            resources,
            dir,
            life,
            busy: tokio::sync::Mutex::default(),
        });
        lock(&self.containers).insert(id.clone(), container);
        self.tell(sandbox_id, Some(&id), ContainerEventKind::Created, None);
        Ok(id)
    }

    async fn start_container_now(&self, id: &ContainerId) -> Result<()> {
        let c = self.container(id)?;
        let _busy = c.busy.lock().await;
        if *c.life.borrow() != Life::Created {
            return Err(Error::FailedPrecondition(format!(
                "container {id} was started before"
            )));
        }
        let sandbox = self.sandbox(&c.record.sandbox)?;
        let result = self.try_start(&c, &sandbox).await;
        match &result {
            Ok(()) => self.tell(
                &c.record.sandbox,
                Some(id),
                ContainerEventKind::Started,
                None,
            ),
            Err(e) => {
                let code = if let Error::Start { .. } = e {
                    128
                } else {
                    255
                };
                c.record_end(self.options.world.now(), code, &e.to_string())?;
                self.take_over(id);
            }
        }
        result
    }

    async fn try_start(&self, c: &Container, sandbox: &Sandbox) -> Result<()> {
        let (config, cgroup) = (&c.record.config, &c.record.cgroup);
        self.cgroups.create(cgroup)?;
        self.cgroups.apply(cgroup, &config.linux.resources)?;
        let mut devices = Vec::new();
        for d in &config.devices {
            let meta = fs::metadata(&d.host_path)
                .attempt(|| format!("device {}", d.host_path.display()))?;
            let kind = if meta.mode() & libc::S_IFMT == libc::S_IFBLK {
                'b'
            } else {
                'c'
            };
            let (major, minor) = (libc::major(meta.rdev()), libc::minor(meta.rdev()));
            devices.push(format!("{kind} {major}:{minor} {}", d.permissions));
        }
        if !config.linux.security_context.privileged && self.cgroups.filters_devices() {
            self.cgroups.restrict_devices(cgroup, &devices)?;
        }
        let mut flags = 0;
        for (set, flag) in [
            (config.tty, protocol::START_TTY),
            (config.stdin, protocol::START_STDIN),
            (config.stdin_once, protocol::START_STDIN_ONCE),
        ] {
            flags |= if set { flag } else { 0 };
        }
        let mode = c.pid_mode(&lock(&sandbox.record));
        flags |= match mode {
            PidMode::Container => protocol::START_OWN_PIDNS,
            PidMode::Pod => protocol::START_POD_PIDNS,
            PidMode::Node => 0,
        };
        let text = |p: &Path| p.to_string_lossy().into_owned();
        let fields = [
            c.record.id.to_string(),
            text(&c.dir),
            text(&c.record.log_path),
            text(&self.cgroups.procs(cgroup)),
            text(&self.cgroups.oom(cgroup)),
            flags.to_string(),
        ];
        let fields: Vec<_> = fields.iter().map(String::as_str).collect();
        let answer = sandbox.call(Op::Start, &fields).await?;
        match answer.kind {
            Reply::Ok => {
                c.refresh();
                Ok(())
            }
            _ => Err(start_error(&answer)),
        }
    }

    async fn stop_container_now(&self, id: &ContainerId, grace: Duration) -> Result<()> {
        let c = self.container(id)?;
        let mut life = c.life.subscribe();
        if !matches!(*life.borrow_and_update(), Life::Running { .. }) {
            return Ok(());
        }
        if !grace.is_zero() {
            let name = c
                .record
                .config
                .stop_signal
                .as_ref()
                .or(c.record.image_stop_signal.as_ref());
            let number = name.and_then(|n| spec::signal(n)).unwrap_or(libc::SIGTERM);
            self.signal(&c, number, false).await?;
            let exited = life.wait_for(|l| matches!(l, Life::Exited { .. }));
            if tokio::time::timeout(grace, exited).await.is_ok() {
                return Ok(());
            }
        }
        self.signal(&c, libc::SIGKILL, true).await?;
        let exited = life.wait_for(|l| matches!(l, Life::Exited { .. }));
        match tokio::time::timeout(KILL_TIMEOUT, exited).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::FailedPrecondition(format!(
                "container {id} doesn't end after KILL"
            ))),
        }
    }

    async fn remove_container_now(&self, id: &ContainerId) -> Result<()> {
        let Ok(c) = self.container(id) else {
            return Ok(());
        };
        let _busy = c.busy.lock().await;
        if self.sandbox(&c.record.sandbox).is_ok() {
            self.stop_container(id, Duration::ZERO).await?;
        } else {
            self.cgroups.kill(&c.record.cgroup);
        }
        self.cgroups.remove(&c.record.cgroup).await?;
        let store = self.options.root.join("containers").join(id.as_str());
        let dir = c.dir.clone();
        blocking(move || remove_tree(&store).and_then(|()| remove_tree(&dir))).await?;
        lock(&self.containers).remove(id);
        self.tell(
            &c.record.sandbox,
            Some(id),
            ContainerEventKind::Deleted,
            None,
        );
        Ok(())
    }
}
