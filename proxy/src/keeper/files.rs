//! The files that the configuration names: read, watched, and sent to every gate.
//!
//! A gate starts with the last files that a gate has found good. Changed ones are sent to the gate that runs, as a
//! candidate: if it can use all of them, they are the good ones from then on.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::config::Config;
use crate::handoff::ToGate;
use crate::handoff::files::{self, FileRole};
use crate::handoff::wire::{self, MAX_FDS};

/// Between two looks. A change counts once it has been the same for two, so that a certificate and a key that are
/// written one after the other are taken together.
const LOOK: Duration = Duration::from_secs(1);

/// What of a file shows that it has changed. `None`: it cannot be looked at.
type Stamp = Option<(u64, u64, i64, i64, u64)>;

fn stamp(seen: &Metadata) -> Stamp {
    Some((seen.dev(), seen.ino(), seen.mtime(), seen.mtime_nsec(), seen.size()))
}

/// When the files have changed.
#[derive(Debug, Default)]
struct Watch {
    /// What was last taken, for better or worse.
    taken: Vec<Stamp>,
    /// What was last seen.
    seen: Vec<Stamp>,
}

impl Watch {
    /// Whether what is seen now is to be taken: it is new, and as it was at the last look, or somebody says so.
    fn changed(&mut self, now: Vec<Stamp>, at_once: bool) -> bool {
        let steady = now == self.seen;
        self.seen = now;
        if !at_once && (!steady || self.seen == self.taken) {
            return false;
        }
        self.taken.clone_from(&self.seen);
        true
    }
}

/// A set of files on trial.
struct Candidate {
    number: u64,
    memory: Vec<OwnedFd>,
}

/// All files.
pub(super) struct Files {
    named: Vec<(FileRole, PathBuf)>,
    /// The good ones, in the order of their names.
    good: Vec<OwnedFd>,
    watch: Watch,
    due: Instant,
    /// SIGHUP has come.
    at_once: bool,
    candidate: Option<Candidate>,
    /// A gate has ended with a candidate, which is tried on one more.
    lost: bool,
    last: u64,
    /// Reloads that went well, and that did not.
    pub(super) reloads: [u64; 2],
}

impl Files {
    /// Reads every file.
    ///
    /// # Errors
    /// One cannot be read; the message says which.
    pub(super) fn open(config: &Config) -> anyhow::Result<Self> {
        let named = files::named(config);
        let (good, taken) = read(&named)?;
        let watch = Watch { seen: taken.clone(), taken };
        let due = Instant::now() + LOOK;
        let (candidate, reloads) = (None, [0; 2]);
        Ok(Self { named, good, watch, due, at_once: false, candidate, lost: false, last: 0, reloads })
    }

    /// How long until the next look.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        (!self.named.is_empty()).then(|| self.due.saturating_duration_since(now))
    }

    /// SIGHUP: reads them as soon as possible, whatever they look like.
    pub(super) fn at_once(&mut self) {
        (self.at_once, self.due) = (true, Instant::now());
    }

    /// Sends the good ones to a new gate.
    ///
    /// # Errors
    /// The gate is gone, or takes no more.
    pub(super) fn send(&self, control: &OwnedFd) -> io::Result<()> {
        send(control, &self.named, &self.good)
    }

    /// Looks, when it is time to, and sends what has changed to the gate that runs.
    pub(super) fn look(&mut self, now: Instant, control: Option<&OwnedFd>) {
        let Some(control) = control.filter(|_| now >= self.due && !self.named.is_empty()) else { return };
        self.due = now + LOOK;
        if self.candidate.is_some() {
            return;
        }
        let stamps = self.named.iter().map(|(_, path)| path.metadata().ok().as_ref().and_then(stamp)).collect();
        if !self.watch.changed(stamps, std::mem::take(&mut self.at_once)) {
            return;
        }
        self.lost = false;
        match read(&self.named) {
            Ok((memory, taken)) => {
                self.watch.taken = taken;
                self.try_on(memory, control);
            }
            Err(error) => self.failed(&format!("{error:#}")),
        }
    }

    fn try_on(&mut self, memory: Vec<OwnedFd>, control: &OwnedFd) {
        self.last += 1;
        let sent = send(control, &self.named, &memory)
            .and_then(|()| wire::send(control, &ToGate::Reload { reload: self.last }, &[]));
        match sent {
            Ok(()) => self.candidate = Some(Candidate { number: self.last, memory }),
            Err(error) => {
                // The gate has no room, or ends. What is sent again takes the place of what has been sent.
                tracing::debug!(%error, "cannot send the changed files yet");
                self.watch.taken.clear();
            }
        }
    }

    fn failed(&mut self, why: &str) {
        self.reloads[1] += 1;
        tracing::error!(why, "the files cannot be used; those before them stay in use");
    }

    /// A gate says what has become of a candidate. (If it was not good, the gate's own message says why.)
    pub(super) fn answered(&mut self, number: u64, ok: bool) {
        let Some(candidate) = self.candidate.take_if(|candidate| candidate.number == number) else { return };
        self.reloads[usize::from(!ok)] += 1;
        if ok {
            self.good = candidate.memory;
            tracing::info!(files = self.named.len(), "the files have been read again and are in use");
        }
    }

    /// The gate has ended. Another may try its candidate once more, in case it was not the candidate's fault.
    pub(super) fn gate_lost(&mut self) {
        if self.candidate.take().is_none() {
            return;
        }
        if self.lost {
            self.failed("two gates have ended with them");
        } else {
            self.watch.taken.clear();
        }
        self.lost = true;
    }
}

fn send(control: &OwnedFd, named: &[(FileRole, PathBuf)], memory: &[OwnedFd]) -> io::Result<()> {
    for (named, memory) in named.chunks(MAX_FDS).zip(memory.chunks(MAX_FDS)) {
        let roles = named.iter().map(|(role, _)| *role).collect();
        wire::send(control, &ToGate::Files { roles }, &memory.iter().map(AsFd::as_fd).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Copies every file, with the stamps of what was copied.
fn read(named: &[(FileRole, PathBuf)]) -> anyhow::Result<(Vec<OwnedFd>, Vec<Stamp>)> {
    let copied = named.iter().map(|(_, path)| copy(path)).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(copied.into_iter().unzip())
}

fn copy(path: &Path) -> anyhow::Result<(OwnedFd, Stamp)> {
    let name = path.display();
    // A pipe that nobody writes to must not hold the keeper up.
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file: File = file.with_context(|| match owned_by_others(path) {
        true => format!("cannot open {name}, which is another user's: Sluice reads as its own user, root or not"),
        false => format!("cannot open {name}"),
    })?;
    let seen = file.metadata().with_context(|| format!("cannot look at {name}"))?;
    anyhow::ensure!(seen.is_file(), "{name} is no regular file");
    Ok((files::seal(file).with_context(|| format!("cannot read {name}"))?, stamp(&seen)))
}

/// Root's right to read every file is among those that the keeper gives up.
fn owned_by_others(path: &Path) -> bool {
    path.metadata().is_ok_and(|seen| seen.uid() != rustix::process::geteuid().as_raw())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::handoff::MAX_MESSAGE;
    use crate::handoff::wire::{Packet, Received};

    /// A keeper's files with the gate's end of the control socket.
    struct Rig {
        folder: PathBuf,
        files: Files,
        control: OwnedFd,
        gate: OwnedFd,
        now: Instant,
    }

    impl Rig {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("sluice-unit-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            for file in ["c", "k"] {
                std::fs::write(folder.join(file), "first").unwrap();
            }
            let at = folder.display();
            let config = format!(
                "[[listener]]\nbind = \"127.0.0.1:0\"\ntls = {{ certificate = \"{at}/c\", key = \"{at}/k\" }}\n\
                 [[route]]\nbackend = \"x\"\n[[backend]]\nname = \"x\"\nservers = [\"127.0.0.1:9\"]\n"
            );
            let files = Files::open(&Config::parse(&config, "test").unwrap()).unwrap();
            let (control, gate) = wire::pair().unwrap();
            Self { folder, files, control, gate, now: Instant::now() }
        }

        fn write(&self, text: &str) {
            std::fs::write(self.folder.join("c"), text).unwrap();
        }

        /// The next two looks, a change being seen and then taken.
        fn look_twice(&mut self) {
            for _ in 0..2 {
                self.now += LOOK;
                self.files.look(self.now, Some(&self.control));
            }
        }

        /// What the gate gets: the first file's text, and which reload it is.
        fn sent(&self) -> Option<(String, u64)> {
            let mut buffer = vec![0; MAX_MESSAGE];
            let mut next = || match wire::receive::<ToGate>(&self.gate, &mut buffer) {
                Ok(Received::Packet(packet)) => Some(packet),
                _ => None,
            };
            let Packet { message: ToGate::Files { roles }, mut fds } = next()? else { panic!("no files") };
            assert_eq!((roles.len(), fds.len()), (2, 2));
            let text = files::read(&File::from(fds.remove(0))).unwrap();
            let Some(Packet { message: ToGate::Reload { reload }, .. }) = next() else { panic!("no reload") };
            Some((String::from_utf8(text).unwrap(), reload))
        }

        /// What a new gate gets.
        fn good(&self) -> String {
            String::from_utf8(files::read(&File::from(self.files.good[0].try_clone().unwrap())).unwrap()).unwrap()
        }
    }

    impl Drop for Rig {
        fn drop(&mut self) {
            let _left_behind = std::fs::remove_dir_all(&self.folder);
        }
    }

    #[test]
    fn a_gate_starts_with_what_a_gate_has_found_good() {
        let mut rig = Rig::new("good");
        rig.look_twice();
        assert_eq!(rig.sent(), None, "nothing has changed");
        rig.write("second");
        rig.look_twice();
        assert_eq!(rig.sent(), Some(("second".into(), 1)));
        assert_eq!(rig.good(), "first", "it is only on trial");
        rig.files.answered(9, true);
        assert_eq!(rig.good(), "first", "that was another");
        rig.files.answered(1, true);
        assert_eq!(rig.good(), "second");

        rig.write("bad");
        rig.look_twice();
        assert_eq!(rig.sent(), Some(("bad".into(), 2)));
        rig.files.answered(2, false);
        rig.look_twice();
        assert_eq!((rig.sent(), rig.good()), (None, "second".into()), "once is enough");
        std::fs::remove_file(rig.folder.join("k")).unwrap();
        rig.look_twice();
        assert_eq!((rig.sent(), rig.good(), rig.files.reloads), (None, "second".into(), [1, 2]));
    }

    #[test]
    fn what_a_gate_ends_with_is_tried_on_one_more() {
        let mut rig = Rig::new("lost");
        rig.write("deadly");
        rig.look_twice();
        assert_eq!(rig.sent(), Some(("deadly".into(), 1)));
        rig.files.gate_lost();
        rig.look_twice();
        assert_eq!(rig.sent(), Some(("deadly".into(), 2)));
        rig.files.gate_lost();
        rig.look_twice();
        assert_eq!((rig.sent(), rig.good(), rig.files.reloads), (None, "first".into(), [0, 1]));
        // A gate that ends for another reason changes nothing.
        rig.files.gate_lost();
        assert_eq!(rig.files.reloads, [0, 1]);
    }

    #[test]
    fn a_gate_without_room_gets_them_later() {
        let mut rig = Rig::new("full");
        rig.write("second");
        while wire::send(&rig.control, &ToGate::Closed { count: 0 }, &[]).is_ok() {}
        rig.look_twice();
        let mut buffer = vec![0; MAX_MESSAGE];
        while wire::receive::<ToGate>(&rig.gate, &mut buffer).is_ok() {}
        rig.look_twice();
        assert_eq!(rig.sent(), Some(("second".into(), 1)).map(|(text, _)| (text, rig.files.last)));
    }

    fn of(version: u64) -> Vec<Stamp> {
        vec![Some((1, version, 0, 0, 9)), Some((1, 7, 0, 0, 9))]
    }

    #[test]
    fn a_change_counts_once_it_has_stayed() {
        let mut watch = Watch { taken: of(1), seen: of(1) };
        assert!(!watch.changed(of(1), false), "nothing has changed");
        assert!(!watch.changed(of(2), false), "it may be changing still");
        assert!(!watch.changed(of(3), false), "it was");
        assert!(watch.changed(of(3), false));
        assert!(!watch.changed(of(3), false), "once is enough");
    }

    #[test]
    fn a_file_that_is_back_as_it_was_is_no_change() {
        let mut watch = Watch { taken: of(1), seen: of(1) };
        assert!(!watch.changed(vec![None, of(1)[1]], false));
        assert!(!watch.changed(of(1), false));
        assert!(!watch.changed(of(1), false));
    }

    #[test]
    fn a_file_that_stays_away_is_told_once_and_taken_when_it_is_back() {
        let mut watch = Watch { taken: of(1), seen: of(1) };
        let without = || vec![None, of(1)[1]];
        assert!(!watch.changed(without(), false));
        assert!(watch.changed(without(), false));
        assert!(!watch.changed(without(), false));
        assert!(!watch.changed(of(2), false));
        assert!(watch.changed(of(2), false));
    }

    #[test]
    fn a_signal_does_not_wait() {
        let mut watch = Watch { taken: of(1), seen: of(1) };
        assert!(watch.changed(of(1), true), "whoever sends one has a reason");
        assert!(watch.changed(of(2), true));
        assert!(!watch.changed(of(2), false));
    }
}
