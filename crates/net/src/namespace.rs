//! Work inside other network namespaces.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use std::sync::mpsc;

use tokio::sync::oneshot;

use std::net::Ipv4Addr;

use crate::link::{self, Route, Scope};
use crate::netlink::{Messages, Socket};
use crate::{Error, Result};

/// Moves the calling thread into the network namespace `target`, for good. Only for threads that end soon.
///
/// # Errors
/// As the kernel says.
pub fn join(target: &File) -> Result<()> {
    // SAFETY: setns() takes an open descriptor and a flag, and changes this thread only.
    if unsafe { libc::setns(target.as_raw_fd(), libc::CLONE_NEWNET) } < 0 {
        return Err(Error::os("join a network namespace")(
            io::Error::last_os_error(),
        ));
    }
    Ok(())
}

/// Moves the calling thread into a new, empty network namespace, for good: for tests.
///
/// # Errors
/// As the kernel says.
pub fn unshare() -> Result<()> {
    // SAFETY: unshare() takes a flag and changes this thread only.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
        return Err(Error::os("make a network namespace")(
            io::Error::last_os_error(),
        ));
    }
    Ok(())
}

/// Opens a network namespace, e.g. `/run/netns/x`.
///
/// # Errors
/// As the file system says.
pub fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(Error::os(format!(
        "open network namespace {}",
        path.display()
    )))
}

/// Runs blocking `work` on a thread of its own, which may join other namespaces. It starts in the namespace of the
/// calling thread.
///
/// # Errors
/// What `work` ends with; that no thread could be started.
pub async fn on_own_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (answer, answered) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(256 << 10)
        .spawn(move || {
            // The caller may have gone; the work was to be done anyway.
            let _ = answer.send(work());
        })
        .map_err(Error::os("start a thread"))?;
    match answered.await {
        Ok(result) => result,
        Err(_) => Err(Error::os("finish network work")(io::Error::other(
            "its thread panicked",
        ))),
    }
}

type Work = Box<dyn FnOnce() + Send>;

/// A new network namespace that a thread holds and that ends with this value. For tests and measurements: nothing of it
/// is left, whatever happens to the process.
pub struct Fresh {
    work: mpsc::Sender<Work>,
    path: PathBuf,
}

impl Fresh {
    /// Makes a namespace whose loopback is down.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn new() -> Result<Self> {
        let (work, todo) = mpsc::channel::<Work>();
        let (ready, is_ready) = mpsc::channel();
        std::thread::Builder::new()
            .name("namespace".to_owned())
            .spawn(move || {
                // SAFETY: gettid() only returns a number.
                let thread = unsafe { libc::gettid() };
                let path = format!("/proc/{}/task/{thread}/ns/net", std::process::id());
                if ready.send(unshare().map(|()| path.into())).is_ok() {
                    while let Ok(work) = todo.recv() {
                        work();
                    }
                }
            })
            .map_err(Error::os("start a thread"))?;
        let lost =
            || Error::os("make a network namespace")(io::Error::other("its thread panicked"));
        let path = is_ready.recv().map_err(|_| lost())??;
        Ok(Self { work, path })
    }

    /// Names the namespace as long as this value lives.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` inside and waits for it.
    ///
    /// # Errors
    /// When it panicked, or an earlier one did.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (answer, answered) = mpsc::channel();
        let lost = || Error::os("work in a namespace")(io::Error::other("its thread panicked"));
        self.work
            .send(Box::new(move || {
                // The caller waits below; it cannot have gone.
                let _ = answer.send(work());
            }))
            .map_err(|_| lost())?;
        answered.recv().map_err(|_| lost())
    }
}

/// Makes the calling thread's (new, empty) namespace look like a machine: loopback up, and a link `uplink` with `address`
/// behind which everything else would be. For tests and measurements.
///
/// # Errors
/// As the kernel says.
pub fn furnish(address: crate::Cidr) -> Result<()> {
    let socket = Socket::route()?;
    let mut messages = Messages::new();
    link::set_up(&mut messages, 1);
    let here = open(Path::new("/proc/thread-self/ns/net"))?;
    link::add_veth(
        &mut messages,
        &link::VethPair {
            name: "uplink",
            hardware: [2, 0, 0, 0, 0, 1],
            peer_name: "outside",
            peer_hardware: [2, 0, 0, 0, 0, 2],
            peer_namespace: here.as_raw_fd(),
            mtu: 1500,
        },
    );
    socket.run_all(&messages, "uplink")?;
    let index = link::find(&socket, "uplink")?.map_or(0, |l| l.index);
    let outside = link::find(&socket, "outside")?.map_or(0, |l| l.index);
    let mut messages = Messages::new();
    link::set_up(&mut messages, index);
    link::set_up(&mut messages, outside);
    link::add_address(&mut messages, index, address, Scope::Universe);
    link::replace_route(
        &mut messages,
        &Route {
            to: (Ipv4Addr::UNSPECIFIED, 0),
            via: None,
            link: index,
            onlink: false,
            source: None,
        },
    );
    socket.run_all(&messages, "uplink")
}
