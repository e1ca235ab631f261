//! Pipes and terminals as asynchronous streams.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One descriptor, read or written without blocking.
pub(crate) struct Pipe(Option<Arc<AsyncFd<File>>>);

impl Pipe {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        crate::sys::nonblocking(fd.as_raw_fd())?;
        // SAFETY: the file is owned and nobody replaces it while it is registered.
        Ok(Self(Some(Arc::new(unsafe {
            AsyncFd::register(File::from(fd))
        }?))))
    }

    /// The same descriptor once more: a terminal's other direction.
    pub(crate) fn again(&self) -> Self {
        Self(self.0.clone())
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(file) = &self.0 else {
            return Poll::Ready(Ok(()));
        };
        loop {
            let mut guard = ready!(file.poll_read_ready(cx))?;
            match guard.try_io(|f| f.get_ref().read(buf.initialize_unfilled())) {
                Ok(Ok(n)) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                // How a terminal says that nobody is at the other end any more.
                Ok(Err(e)) if e.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(e)) => return Poll::Ready(Err(e)),
                Err(_) => {}
            }
        }
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Some(file) = &self.0 else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        loop {
            let mut guard = ready!(file.poll_write_ready(cx))?;
            if let Ok(result) = guard.try_io(|f| f.get_ref().write(data)) {
                return Poll::Ready(result);
            }
        }
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A pipe ends when its last descriptor is closed.
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}
