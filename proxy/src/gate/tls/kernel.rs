//! A connection whose TLS keys the kernel has, in tokio's event loop.

use std::future::Future as _;
use std::io;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::broken::Broken;
use crate::ktls::{Failure, Leg, Progress, Received};

/// How often to look whether TCP has taken the last records.
const POLL: Duration = Duration::from_millis(1);

/// The connection.
pub(in crate::gate) struct KernelTls {
    tcp: TcpStream,
    leg: Leg,
    /// Running while TCP has not taken everything that is to go before a FIN.
    draining: Option<Pin<Box<Sleep>>>,
}

impl KernelTls {
    pub(super) fn new(tcp: TcpStream, leg: Leg) -> Self {
        Self { tcp, leg, draining: None }
    }

    /// The TCP connection below.
    pub(in crate::gate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// The TCP connection alone, for the end of both.
    pub(in crate::gate) fn into_tcp(self) -> TcpStream {
        self.tcp
    }

    /// The connection is about to be ended: a worn key is still good for the last frames.
    pub(in crate::gate) fn allow_last_words(&mut self) {
        self.leg.allow_last_words();
    }

    /// Takes it out of the event loop.
    ///
    /// # Errors
    /// The event loop does not let it go.
    pub(in crate::gate) fn into_parts(self) -> io::Result<(std::net::TcpStream, Leg)> {
        Ok((self.tcp.into_std()?, self.leg))
    }
}

fn error(failure: Failure) -> io::Error {
    match failure {
        Failure::Socket(error) => error.into(),
        Failure::Tls(why) => Broken(why).into(),
    }
}

impl AsyncRead for KernelTls {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { tcp, leg, .. } = self.get_mut();
        loop {
            ready!(tcp.poll_read_ready(cx))?;
            let space = buffer.initialize_unfilled();
            match tcp.try_io(Interest::READABLE, || leg.receive(tcp.as_fd(), space).map_err(error)) {
                Ok(Received::Data(got)) => {
                    buffer.advance(got);
                    return Poll::Ready(Ok(()));
                }
                Ok(Received::End) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for KernelTls {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { tcp, leg, .. } = self.get_mut();
        loop {
            ready!(tcp.poll_write_ready(cx))?;
            match tcp.try_io(Interest::WRITABLE, || leg.send(tcp.as_fd(), bytes).map_err(error)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other),
            }
        }
    }

    /// What has been written is in the kernel.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// close_notify, and a FIN once TCP has everything before it.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { tcp, leg, draining } = self.get_mut();
        loop {
            if let Some(timer) = draining {
                ready!(timer.as_mut().poll(cx));
                *draining = None;
            }
            let finish = || match leg.finish(tcp.as_fd())? {
                Progress::Full => Err(Errno::AGAIN.into()),
                progress => Ok(progress),
            };
            match tcp.try_io(Interest::WRITABLE, finish) {
                Ok(Progress::Done) => return Pin::new(tcp).poll_shutdown(cx),
                Ok(_) => *draining = Some(Box::pin(sleep(POLL))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(tcp.poll_write_ready(cx))?,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}
