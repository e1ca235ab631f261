//! Thin, safe wrappers around the system calls that neither std nor tokio offers.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Turns the C convention into a result.
pub(crate) fn cvt(r: impl Into<i64>) -> io::Result<i64> {
    let r = r.into();
    if r < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(r)
    }
}

/// Takes the descriptor that a system call returned.
pub(crate) fn own(r: i64) -> io::Result<OwnedFd> {
    let fd = cvt(r)?;
    // SAFETY: the kernel just handed us this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// A path (or any text) as C wants it.
pub(crate) fn cstr(p: impl AsRef<Path>) -> io::Result<CString> {
    CString::new(p.as_ref().as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "text holds a zero byte"))
}

/// A pipe (read end, write end), closed on exec.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for two descriptors.
    cvt(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) })?;
    Ok((own(fds[0].into())?, own(fds[1].into())?))
}

/// A connected pair of sockets that keep packets apart.
pub(crate) fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for two descriptors.
    cvt(unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
            0,
            fds.as_mut_ptr(),
        )
    })?;
    Ok((own(fds[0].into())?, own(fds[1].into())?))
}

/// A fresh socket.
pub(crate) fn socket(family: i32, kind: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    own(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) }.into())
}

fn unix_address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    // SAFETY: all zeros is a valid address structure.
    let mut a: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    a.sun_family = libc::AF_UNIX as u16;
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= a.sun_path.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("socket path {} is too long", path.display()),
        ));
    }
    for (to, from) in a.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    Ok((
        a,
        (std::mem::size_of::<libc::sa_family_t>() + bytes.len() + 1) as libc::socklen_t,
    ))
}

/// Listens for packets at `path`.
pub(crate) fn listen(path: &Path) -> io::Result<OwnedFd> {
    let fd = socket(libc::AF_UNIX, libc::SOCK_SEQPACKET)?;
    let (a, len) = unix_address(path)?;
    // SAFETY: `a` is a valid address of length `len`.
    cvt(unsafe { libc::bind(fd.as_raw_fd(), (&raw const a).cast(), len) })?;
    // SAFETY: takes numbers only.
    cvt(unsafe { libc::listen(fd.as_raw_fd(), 128) })?;
    Ok(fd)
}

/// Connects to `path`; the socket doesn't block afterwards.
pub(crate) fn connect(path: &Path) -> io::Result<OwnedFd> {
    let fd = socket(libc::AF_UNIX, libc::SOCK_SEQPACKET)?;
    let (a, len) = unix_address(path)?;
    // SAFETY: `a` is a valid address of length `len`.
    cvt(unsafe { libc::connect(fd.as_raw_fd(), (&raw const a).cast(), len) })?;
    nonblocking(fd.as_raw_fd())?;
    Ok(fd)
}

/// Makes reads and writes return instead of waiting.
pub(crate) fn nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: takes numbers only.
    let flags = cvt(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    // SAFETY: takes numbers only.
    cvt(unsafe { libc::fcntl(fd, libc::F_SETFL, flags as i32 | libc::O_NONBLOCK) })?;
    Ok(())
}

/// How many descriptors one packet may carry.
const MAX_FDS: usize = 8;

#[repr(align(8))]
struct Control([u8; 64]);

/// Sends one packet with descriptors.
pub(crate) fn send_packet(fd: RawFd, data: &[u8], fds: &[RawFd]) -> io::Result<()> {
    debug_assert!(fds.len() <= MAX_FDS);
    let mut iov = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    let mut control = Control([0; 64]);
    // SAFETY: all zeros is a valid message header.
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    msg.msg_iov = &raw mut iov;
    msg.msg_iovlen = 1;
    if !fds.is_empty() {
        let bytes = std::mem::size_of_val(fds) as u32;
        msg.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: pure arithmetic; 8 descriptors need 48 of the 64 bytes.
        msg.msg_controllen = unsafe { libc::CMSG_SPACE(bytes) } as _;
        // SAFETY: `msg_control` points to `control`, which is aligned and large enough.
        unsafe {
            let c = libc::CMSG_FIRSTHDR(&raw const msg);
            (*c).cmsg_level = libc::SOL_SOCKET;
            (*c).cmsg_type = libc::SCM_RIGHTS;
            (*c).cmsg_len = libc::CMSG_LEN(bytes) as _;
            std::ptr::copy_nonoverlapping(
                fds.as_ptr().cast::<u8>(),
                libc::CMSG_DATA(c),
                bytes as usize,
            );
        }
    }
    loop {
        // SAFETY: `msg` and all it points to live through the call.
        match cvt(unsafe { libc::sendmsg(fd, &raw const msg, libc::MSG_NOSIGNAL) } as i64) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            r => return r.map(|_| ()),
        }
    }
}

/// Receives one packet; 0 bytes mean the other side is gone.
pub(crate) fn recv_packet(fd: RawFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut iov = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut control = Control([0; 64]);
    // SAFETY: all zeros is a valid message header.
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    msg.msg_iov = &raw mut iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.0.as_mut_ptr().cast();
    msg.msg_controllen = control.0.len() as _;
    let n = loop {
        // SAFETY: `msg` and all it points to live through the call.
        match cvt(unsafe { libc::recvmsg(fd, &raw mut msg, libc::MSG_CMSG_CLOEXEC) } as i64) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            r => break r?,
        }
    };
    let mut fds = Vec::new();
    // SAFETY: the kernel filled `control` and its length in; the macros stay inside.
    unsafe {
        let mut c = libc::CMSG_FIRSTHDR(&raw const msg);
        while !c.is_null() {
            if (*c).cmsg_level == libc::SOL_SOCKET && (*c).cmsg_type == libc::SCM_RIGHTS {
                let count = ((*c).cmsg_len as usize - libc::CMSG_LEN(0) as usize)
                    / std::mem::size_of::<RawFd>();
                for i in 0..count {
                    let raw = std::ptr::read_unaligned(libc::CMSG_DATA(c).cast::<RawFd>().add(i));
                    fds.push(OwnedFd::from_raw_fd(raw));
                }
            }
            c = libc::CMSG_NXTHDR(&raw const msg, c);
        }
    }
    Ok((n as usize, fds))
}

/// mount(2); empty texts become null.
pub(crate) fn mount(
    source: &str,
    target: impl AsRef<Path>,
    kind: &str,
    flags: u64,
    data: &str,
) -> io::Result<()> {
    let (source, target, kind, data) = (cstr(source)?, cstr(target)?, cstr(kind)?, cstr(data)?);
    // SAFETY: all four are terminated strings that live through the call.
    cvt(unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags as libc::c_ulong,
            data.as_ptr().cast(),
        )
    })
    .map(|_| ())
}

/// Takes a mount away, now or when the last user is gone. Fine if there is none.
pub(crate) fn unmount(target: &Path) -> io::Result<()> {
    let target = cstr(target)?;
    // SAFETY: a terminated string.
    match cvt(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) }) {
        Err(e) if !matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => Err(e),
        _ => Ok(()),
    }
}

const OPEN_TREE_CLONE: u32 = 1;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;
const AT_RECURSIVE: i32 = 0x8000;
pub(crate) const MOUNT_ATTR_RDONLY: u64 = 1;
pub(crate) const MOUNT_ATTR_NOSUID: u64 = 2;
pub(crate) const MOUNT_ATTR_NODEV: u64 = 4;

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// A copy of the mounts at `path`, attached nowhere yet.
pub(crate) fn open_tree(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let path = cstr(path)?;
    let flags =
        OPEN_TREE_CLONE | libc::O_CLOEXEC as u32 | if recursive { AT_RECURSIVE as u32 } else { 0 };
    // SAFETY: a terminated string and numbers.
    own(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) } as i64)
}

/// Changes the properties of a mount that [`open_tree`] made.
pub(crate) fn mount_setattr(
    tree: &OwnedFd,
    set: u64,
    propagation: u64,
    recursive: bool,
) -> io::Result<()> {
    let attr = MountAttr {
        set,
        clear: 0,
        propagation,
        userns: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: `attr` is the kernel's structure of the given size; the path is an empty terminated string.
    cvt(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            std::mem::size_of::<MountAttr>(),
        )
    } as i64)
    .map(|_| ())
}

/// Attaches what [`open_tree`] made at `target`.
pub(crate) fn move_mount(tree: &OwnedFd, target: &Path) -> io::Result<()> {
    let target = cstr(target)?;
    // SAFETY: terminated strings and numbers.
    cvt(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    } as i64)
    .map(|_| ())
}

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Opens `path` below `root` as if `root` were `/`: no link or `..` leads out of it.
pub(crate) fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: i32) -> io::Result<OwnedFd> {
    const RESOLVE_NO_MAGICLINKS: u64 = 2;
    const RESOLVE_IN_ROOT: u64 = 0x10;
    let path = if path.as_os_str().is_empty() {
        cstr(".")?
    } else {
        cstr(path)?
    };
    let how = OpenHow {
        flags: (flags | libc::O_CLOEXEC) as u64,
        mode: 0,
        resolve: RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
    };
    // SAFETY: `how` is the kernel's structure of the given size, `path` is terminated.
    own(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            root.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            std::mem::size_of::<OpenHow>(),
        )
    } as i64)
}

/// Waits until all that was written to the file system of `path` is on its disk.
pub(crate) fn sync_file_system(path: &Path) -> io::Result<()> {
    let file = std::fs::File::open(path)?;
    // SAFETY: takes a number only.
    cvt(unsafe { libc::syncfs(file.as_raw_fd()) }).map(|_| ())
}

/// A file without a name, holding `data`, read from its start.
pub(crate) fn memfd(data: &[u8]) -> io::Result<OwnedFd> {
    use std::io::{Seek, Write};
    // SAFETY: a terminated string and a number.
    let fd = own(unsafe { libc::memfd_create(c"skiff".as_ptr(), libc::MFD_CLOEXEC) }.into())?;
    let mut file = std::fs::File::from(fd);
    file.write_all(data)?;
    file.rewind()?;
    Ok(file.into())
}

/// Refers to process `pid`, which must not have been reaped.
pub(crate) fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    own(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as i64)
}

/// Enters namespaces of the process (or the one namespace) that `fd` refers to.
pub(crate) fn setns(fd: &OwnedFd, kinds: i32) -> io::Result<()> {
    // SAFETY: takes numbers only.
    cvt(unsafe { libc::setns(fd.as_raw_fd(), kinds) }).map(|_| ())
}

/// Leaves namespaces for new ones.
pub(crate) fn unshare(kinds: i32) -> io::Result<()> {
    // SAFETY: takes numbers only; this process has one thread.
    cvt(unsafe { libc::unshare(kinds) }).map(|_| ())
}

/// fork(2) with namespace flags. Zero in the child.
///
/// Only for processes with a single thread, whose child may therefore use the allocator.
pub(crate) fn clone(flags: i32) -> io::Result<i32> {
    // SAFETY: no new stack and no CLONE_VM: the child gets a copy of everything, as after fork(2).
    cvt(unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) } as i64)
        .map(|p| p as i32)
}

/// Sets the terminal's size.
pub(crate) fn set_terminal_size(fd: RawFd, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: `size` is what this request reads.
    cvt(unsafe { libc::ioctl(fd, libc::TIOCSWINSZ, &raw const size) }).map(|_| ())
}

/// Wall time in nanoseconds since 1970. For the shim's log lines; the rest asks `world`.
pub(crate) fn wall_nanos() -> i64 {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `t` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut t) };
    t.tv_sec * 1_000_000_000 + t.tv_nsec
}

/// Replaces `path` with `data` so that a reader sees the old or the new content, never a part.
pub(crate) fn write_atomically(path: &Path, data: &[u8], sync: bool) -> io::Result<()> {
    use std::io::Write;
    let temporary = path.with_extension("tmp");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(data)?;
    if sync {
        file.sync_data()?;
    }
    std::fs::rename(temporary, path)
}
