#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use proptest::prelude::*;

use super::*;
use crate::ktls::post::{BAD_RECORD_MAC, RECORD_OVERFLOW, UNEXPECTED_MESSAGE};
use crate::ktls::{Cipher, Suite, Version, made_up};

const NO_LIMIT: u64 = u64::MAX;
const TLS_1_3: Suite = Suite { version: Version::Tls13, cipher: Cipher::Aes128Gcm };
const TLS_1_2: Suite = Suite { version: Version::Tls12, cipher: Cipher::Aes128Gcm };

fn session(suite: Suite, role: Role, limit: u64) -> Session {
    Session::new(made_up(suite, role), limit)
}

/// A peer that says what no library says.
struct Peer {
    tx: Half,
    said: Vec<u8>,
}

impl Peer {
    /// Of a session with this role.
    fn of(suite: Suite, role: Role) -> Self {
        let role = if role == Role::Client { Role::Server } else { Role::Client };
        let done = made_up(suite, role);
        Self { tx: Half::new(suite, done.tx, done.secrets.map(|(tx, _)| tx)), said: Vec::new() }
    }

    fn say(&mut self, kind: u8, content: &[u8]) -> &mut Self {
        let aead = self.tx.set_up().unwrap();
        self.tx.seal(&aead, kind, content, &mut self.said).unwrap();
        self
    }

    /// With zeros behind the content (RFC 8446 §5.4): as a content that ends with its type and them, of type zero.
    fn padded(&mut self, kind: u8, content: &[u8], zeros: usize) -> &mut Self {
        self.say(0, &[content, &[kind], &vec![0; zeros - 1]].concat())
    }

    fn new_key(&mut self, asks: bool) -> &mut Self {
        self.say(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, u8::from(asks)]);
        self.tx.renew().unwrap();
        self
    }
}

/// Feeds a stream in pieces, as a socket would give it: the data in it.
fn feed(session: &mut Session, stream: &[u8], pieces: &[usize]) -> Vec<u8> {
    let (mut data, mut rest, mut pieces) = (Vec::new(), stream, pieces.iter().cycle());
    while !rest.is_empty() && session.incoming() == Incoming::Open {
        let (piece, behind) = rest.split_at((*pieces.next().unwrap()).min(rest.len()));
        let mut space = [session.begun(), piece].concat();
        session.open(&mut space, |bytes| data.extend_from_slice(bytes));
        assert_eq!(session.begun().len(), session.begun.capacity(), "more is kept than has come");
        rest = behind;
    }
    data
}

fn ended_by(suite: Suite, role: Role, say: impl FnOnce(&mut Peer)) -> (Incoming, Option<[u8; 2]>) {
    let (mut session, mut peer) = (session(suite, role, NO_LIMIT), Peer::of(suite, role));
    say(&mut peer);
    feed(&mut session, &peer.said, &[usize::MAX]);
    (session.incoming(), session.owes_alert)
}

fn owed(suite: Suite, say: impl FnOnce(&mut Peer)) -> u8 {
    match ended_by(suite, Role::Server, say) {
        (Incoming::Broken(Why::Protocol(alert)), Some([FATAL, owed])) if alert == owed => alert,
        other => panic!("{other:?}"),
    }
}

#[derive(Clone, Debug)]
enum Said {
    Data(usize),
    Padded(usize, usize),
    Empty,
    NewKey(bool),
    Ticket(usize),
    Warning,
}

fn something() -> impl Strategy<Value = Said> {
    prop_oneof![
        4 => prop_oneof![1..200_usize, Just(CONTENT)].prop_map(Said::Data),
        1 => (1..200_usize, 1..300_usize).prop_map(|(length, zeros)| Said::Padded(length, zeros)),
        1 => Just(Said::Empty),
        1 => any::<bool>().prop_map(Said::NewKey),
        1 => (0..200_usize).prop_map(Said::Ticket),
        1 => Just(Said::Warning),
    ]
}

fn say(peer: &mut Peer, suite: Suite, said: &Said, data: &mut Vec<u8>) {
    let tls13 = suite.version == Version::Tls13;
    let mut content = |length: usize| {
        let from = data.len();
        data.extend((from..from + length).map(|at| (at % 251) as u8));
        data[from..].to_vec()
    };
    match *said {
        Said::Data(length) => _ = peer.say(APPLICATION_DATA, &content(length)),
        Said::Padded(length, zeros) if tls13 => _ = peer.padded(APPLICATION_DATA, &content(length), zeros),
        Said::NewKey(asks) if tls13 => _ = peer.new_key(asks),
        Said::Ticket(length) if tls13 => {
            let ticket = [&[4, 0, 0, length as u8][..], &vec![7; length]].concat();
            peer.say(HANDSHAKE, &ticket);
        }
        // user_canceled, which says nothing by itself (RFC 8446 §6.1).
        Said::Warning => _ = peer.say(ALERT, &[WARNING, 90]),
        _ => _ = peer.say(APPLICATION_DATA, &[]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_stream_may_be_cut_anywhere(
        suite in proptest::sample::select(Suite::all().collect::<Vec<_>>()),
        all in proptest::collection::vec(something(), 1..20),
        pieces in proptest::collection::vec(prop_oneof![1..40_usize, 1..40_000_usize], 1..10),
    ) {
        // A client: it may be sent tickets.
        let (mut session, mut peer) = (session(suite, Role::Client, NO_LIMIT), Peer::of(suite, Role::Client));
        let mut sent = Vec::new();
        for said in &all {
            say(&mut peer, suite, said, &mut sent);
        }
        let got = feed(&mut session, &peer.said, &pieces);
        prop_assert_eq!(session.incoming(), Incoming::Open);
        prop_assert!(got == sent);
        prop_assert!(session.begun().is_empty());
        let asked = suite.version == Version::Tls13 && all.iter().any(|said| matches!(said, Said::NewKey(true)));
        prop_assert_eq!(session.owes_update, asked);
        peer.said.clear();
        peer.say(ALERT, &[WARNING, CLOSE_NOTIFY]);
        feed(&mut session, &peer.said, &pieces);
        prop_assert_eq!(session.incoming(), Incoming::Ended);
    }

    #[test]
    fn no_bytes_make_it_panic(
        suite in proptest::sample::select(Suite::all().collect::<Vec<_>>()),
        mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
        header in any::<bool>(),
    ) {
        if header && bytes.len() >= 5 {
            let length = (bytes.len() - 5) as u16;
            bytes[..5].copy_from_slice(&[23, 3, 3, 0, 0]);
            bytes[3..5].copy_from_slice(&length.to_be_bytes());
        }
        let mut session = session(suite, Role::Server, NO_LIMIT);
        prop_assert!(feed(&mut session, &bytes, &[7]).is_empty());
    }
}

#[test]
fn what_is_no_record_of_this_connection_is_answered_with_its_alert() {
    for suite in Suite::all() {
        let flipped = |peer: &mut Peer| {
            *peer.say(APPLICATION_DATA, b"data").said.last_mut().unwrap() ^= 1;
        };
        assert_eq!(owed(suite, flipped), BAD_RECORD_MAC);
        let short = |peer: &mut Peer| peer.said.extend([23, 3, 3, 0, 3, 1, 2, 3]);
        assert_eq!(owed(suite, short), BAD_RECORD_MAC);
        let repeated = |peer: &mut Peer| {
            let twice = peer.say(APPLICATION_DATA, b"data").said.clone();
            peer.said.extend(twice);
        };
        assert_eq!(owed(suite, repeated), BAD_RECORD_MAC);
        let long = |peer: &mut Peer| peer.said.extend([23, 3, 3, 0x48, 1]);
        assert_eq!(owed(suite, long), RECORD_OVERFLOW);
        let full = |peer: &mut Peer| _ = peer.say(APPLICATION_DATA, &[0; CONTENT + 1]);
        assert_eq!(owed(suite, full), RECORD_OVERFLOW);
        let text = |peer: &mut Peer| peer.said.extend(b"GET /");
        assert_eq!(owed(suite, text), UNEXPECTED_MESSAGE);
        let flood = |peer: &mut Peer| (0..33).for_each(|_| _ = peer.say(APPLICATION_DATA, &[]));
        assert_eq!(owed(suite, flood), UNEXPECTED_MESSAGE);
        let cipher_spec = |peer: &mut Peer| _ = peer.say(20, &[1]);
        assert_eq!(owed(suite, cipher_spec), UNEXPECTED_MESSAGE);
    }
    let zeros = |peer: &mut Peer| _ = peer.say(0, &[0; 20]);
    assert_eq!(owed(TLS_1_3, zeros), UNEXPECTED_MESSAGE);
    let clear = |peer: &mut Peer| peer.said.extend([ALERT, 3, 3, 0, 2, FATAL, 80]);
    assert_eq!(owed(TLS_1_3, clear), UNEXPECTED_MESSAGE);
    let more = |peer: &mut Peer| _ = peer.say(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0, KEY_UPDATE]);
    assert_eq!(owed(TLS_1_3, more), UNEXPECTED_MESSAGE);
    let key_update = |peer: &mut Peer| _ = peer.say(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0]);
    assert_eq!(owed(TLS_1_2, key_update), UNEXPECTED_MESSAGE);
}

#[test]
fn an_alert_ends_it_and_is_not_answered() {
    for suite in Suite::all() {
        let alert = |peer: &mut Peer| _ = peer.say(ALERT, &[FATAL, 80]);
        assert_eq!(ended_by(suite, Role::Server, alert), (Incoming::Broken(Why::Alert(80)), None));
    }
}

#[test]
fn data_in_front_of_what_breaks_it_is_given_out() {
    let (mut session, mut peer) = (session(TLS_1_3, Role::Server, NO_LIMIT), Peer::of(TLS_1_3, Role::Server));
    peer.say(APPLICATION_DATA, b"data").said.extend(b"nonsense");
    assert_eq!(feed(&mut session, &peer.said, &[usize::MAX]), b"data");
    assert_eq!(session.incoming(), Incoming::Broken(Why::Protocol(UNEXPECTED_MESSAGE)));
}

#[test]
fn another_handshake_is_declined_once_there_is_room() {
    for (role, message) in [(Role::Client, vec![0, 0, 0, 0]), (Role::Server, vec![1, 0, 0, 2, 3, 3])] {
        let (mut session, mut peer) = (session(TLS_1_2, role, NO_LIMIT), Peer::of(TLS_1_2, role));
        for _ in 0..3 {
            peer.say(HANDSHAKE, &message);
        }
        feed(&mut session, &peer.said, &[usize::MAX]);
        assert_eq!((session.incoming(), session.owes_alert), (Incoming::Open, Some([WARNING, NO_RENEGOTIATION])));
        let mut out = Vec::new();
        session.say(&mut out);
        // One, however often it was asked: header, explicit nonce, two bytes, tag.
        assert_eq!((out.len(), out[0]), (5 + 8 + 2 + 16, ALERT));
    }
}

/// Seals messages until the key is worn: how many, and the records.
fn wear(session: &mut Session, most: usize) -> (usize, Vec<u8>) {
    let mut out = Vec::new();
    let sealed = (0..most).take_while(|_| session.seal(b"message", &mut out) == Ok(7)).count();
    (sealed, out)
}

#[test]
fn a_worn_key_is_changed_or_good_for_last_words_only() {
    const LIMIT: u64 = 64;
    for suite in Suite::all() {
        let (mut near, mut far) = (session(suite, Role::Client, LIMIT), session(suite, Role::Server, LIMIT));
        let (sealed, out) = wear(&mut near, 1000);
        assert_eq!(feed(&mut far, &out, &[1000]), b"message".repeat(sealed));
        assert_eq!(far.incoming(), Incoming::Open);
        if suite.version == Version::Tls13 {
            // 63 messages and a KeyUpdate with each key.
            assert_eq!((sealed, near.tx.used()), (1000, 1000 % 63));
            continue;
        }
        assert_eq!(sealed as u64, LIMIT);
        let mut out = Vec::new();
        assert_eq!((near.seal(b"more", &mut out), out.len()), (Err(Why::KeyLimit), 0));
        near.allow_last_words();
        assert_eq!(near.seal(b"last", &mut out), Ok(4));
        near.close(&mut out);
        assert_eq!((feed(&mut far, &out, &[3]), far.incoming()), (b"last".to_vec(), Incoming::Ended));
    }
}

#[test]
fn a_key_is_never_used_more_often_than_the_limit_says_in_one_go() {
    let mut near = session(TLS_1_2, Role::Client, 3);
    let mut out = Vec::new();
    assert_eq!(near.seal(&[1; 4 * CONTENT], &mut out), Ok(3 * CONTENT));
    assert_eq!(near.seal(&[1; CONTENT], &mut out), Err(Why::KeyLimit));
    let mut near = session(TLS_1_3, Role::Client, 3);
    let mut out = Vec::new();
    assert_eq!(near.seal(&[1; 5 * CONTENT], &mut out), Ok(AT_ONCE * CONTENT));
    let mut far = session(TLS_1_3, Role::Server, 3);
    assert_eq!(feed(&mut far, &out, &[70_000]).len(), AT_ONCE * CONTENT);
}

#[test]
fn a_new_key_that_is_asked_for_comes_before_the_next_data() {
    let (mut near, mut peer) = (session(TLS_1_3, Role::Client, NO_LIMIT), Peer::of(TLS_1_3, Role::Client));
    peer.new_key(true).new_key(true).say(APPLICATION_DATA, b"data");
    assert_eq!(feed(&mut near, &peer.said, &[usize::MAX]), b"data");
    let (mut far, mut out) = (session(TLS_1_3, Role::Server, NO_LIMIT), Vec::new());
    near.seal(b"answer", &mut out).unwrap();
    assert_eq!(feed(&mut far, &out, &[usize::MAX]), b"answer");
    // One for both questions; and one record with the new key.
    assert_eq!((near.tx.used(), far.rx.used(), far.owes_update), (1, 1, false));
}
