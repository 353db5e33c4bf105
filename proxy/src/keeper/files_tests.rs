#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

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
        Some((String::from_utf8(text.to_vec()).unwrap(), reload))
    }

    /// What a new gate gets.
    fn good(&self) -> String {
        let text = files::read(&File::from(self.files.good[0].try_clone().unwrap())).unwrap();
        String::from_utf8(text.to_vec()).unwrap()
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
    while wire::send(&rig.control, &ToGate::Closed { pairs: vec![] }, &[]).is_ok() {}
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
