//! The far end of one of a pair's sockets: what a client or a backend would be.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::rig::STUCK;
use crate::ktls::{Failure, Leg, Progress, Received};

/// A TCP connection, or a TLS connection over it whose keys the kernel has too.
pub(super) struct Far {
    tcp: TcpStream,
    leg: Option<Arc<Mutex<Leg>>>,
    write_timeout: Duration,
}

impl Far {
    pub(super) fn new(tcp: TcpStream, leg: Option<Leg>) -> Self {
        Self { tcp, leg: leg.map(|leg| Arc::new(Mutex::new(leg))), write_timeout: STUCK }
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { tcp: self.tcp.try_clone()?, leg: self.leg.clone(), write_timeout: self.write_timeout })
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    pub(super) fn into_tcp(self) -> TcpStream {
        self.tcp
    }

    pub(super) fn leg(&self) -> MutexGuard<'_, Leg> {
        self.leg.as_ref().unwrap().lock().unwrap()
    }

    pub(super) fn set_write_timeout(&mut self, timeout: Duration) {
        self.tcp.set_write_timeout(Some(timeout)).unwrap();
        self.write_timeout = timeout;
    }

    /// Sends the end: close_notify first, where there is TLS.
    pub(super) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        assert_eq!(how, Shutdown::Write);
        let begin = Instant::now();
        while self.leg.is_some() && self.leg().finish(self.tcp.as_fd())? != Progress::Done {
            assert!(begin.elapsed() < STUCK, "close_notify finds no room");
            std::thread::sleep(Duration::from_micros(200));
        }
        self.tcp.shutdown(how)
    }

    /// Ends with an RST.
    pub(super) fn reset(self) {
        socket2::SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO)).unwrap();
    }

    fn wait(&self, flags: PollFlags, patience: Duration) -> io::Result<()> {
        let mut polled = [PollFd::new(&self.tcp, flags)];
        let patience = Timespec::try_from(patience).unwrap();
        match rustix::event::poll(&mut polled, Some(&patience))? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    }
}

fn told(failure: Failure) -> io::Error {
    match failure {
        Failure::Socket(error) => error.into(),
        Failure::Tls(why) => io::Error::other(format!("{why:?}")),
    }
}

impl Read for Far {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.leg.is_none() {
            return self.tcp.read(into);
        }
        loop {
            let received = self.leg().receive(self.tcp.as_fd(), into);
            match received {
                Ok(Received::Data(got)) => return Ok(got),
                Ok(Received::End) => return Ok(0),
                Err(Failure::Socket(Errno::AGAIN)) => self.wait(PollFlags::IN, STUCK)?,
                Err(failure) => return Err(told(failure)),
            }
        }
    }
}

impl Write for Far {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.leg.is_none() {
            return self.tcp.write(bytes);
        }
        loop {
            let sent = self.leg().send(self.tcp.as_fd(), bytes);
            match sent {
                Ok(sent) => return Ok(sent),
                Err(Failure::Socket(Errno::AGAIN)) => self.wait(PollFlags::OUT, self.write_timeout)?,
                Err(failure) => return Err(told(failure)),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
