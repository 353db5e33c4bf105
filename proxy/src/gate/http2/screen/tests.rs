#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use h2::Reason;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// A literal: with an index for its name or a name, that goes into the table or not.
fn literal(indexing: bool, name: Result<u8, &[u8]>, value: &[u8]) -> Vec<u8> {
    let first = if indexing { 0x40 } else { 0 };
    let mut out = vec![first | name.unwrap_or(0)];
    for text in name.err().into_iter().chain([value]) {
        assert!(text.len() < 127);
        out.push(text.len() as u8);
        out.extend_from_slice(text);
    }
    out
}

/// A request for this path that says nothing else.
fn request(path: &[u8]) -> Vec<u8> {
    // GET, http, and a path that stays out of the table.
    [&[0x82, 0x86], &literal(false, Ok(4), path)[..], &literal(false, Ok(1), b"a")].concat()
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &id.to_be_bytes(), payload].concat()
}

fn headers(id: u32, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, id, block)
}

/// What passes of a connection that comes in pieces of this size.
fn passed(frames: &[u8], size: usize) -> Vec<u8> {
    let mut screen = Screen::new();
    let mut out = BytesMut::new();
    for piece in [super::super::PREFACE, frames].concat().chunks(size) {
        screen.feed(piece, &mut out);
    }
    out.split_off(super::super::PREFACE.len()).to_vec()
}

/// What an HTTP/2 server makes of these frames: the paths of the requests that it gets, and why it ended the connection,
/// if it did.
async fn served(frames: &[u8]) -> (Vec<String>, Option<Reason>) {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    client.write_all(&[super::super::PREFACE, &frame(4, 0, 0, &[]), frames].concat()).await.unwrap();
    let reading = tokio::spawn(async move {
        let mut all = Vec::new();
        // The server ends the connection without taking leave, or with an error.
        let _ = client.read_to_end(&mut all).await;
        all
    });
    let mut session = h2::server::handshake(Screened::new(server)).await.unwrap();
    let (mut paths, mut ended) = (Vec::new(), None);
    // Everything is there: nothing more comes of waiting.
    let next = async |session: &mut h2::server::Connection<_, Bytes>| {
        tokio::time::timeout(std::time::Duration::from_millis(1), session.accept()).await
    };
    while let Ok(Some(request)) = next(&mut session).await {
        match request {
            Ok((request, _)) => paths.push(request.uri().path().to_owned()),
            // It is told for ever.
            Err(error) => {
                ended = error.reason();
                break;
            }
        }
    }
    drop(session);
    let _ = reading.await.unwrap();
    (paths, ended)
}

/// Blocks that a strict reader takes for malformed, and the HTTP/2 library for nonsense.
fn malformed() -> Vec<Vec<u8>> {
    let field = |name: &[u8], value: &[u8]| [request(b"/bad"), literal(false, Err(name), value)].concat();
    vec![
        field(b"X-Upper", b"x"),
        field(b"a b", b"x"),
        field(b"", b"xx"),
        field(b":smuggled", b"x"),
        field(b"x", b"a\nb"),
        field(b"x", b"a\r\nb: c"),
        field(b"x", b"a\0b"),
        [request(b"/bad"), literal(true, Err(b"X-Upper"), b"x")].concat(),
        [request(b"/bad"), literal(true, Ok(58), b"a\rb")].concat(),
        [literal(true, Ok(2), b"GE T"), literal(true, Ok(4), b"/bad"), vec![0x86]].concat(),
        [literal(false, Ok(8), b"2000"), request(b"/bad")].concat(),
        request(b"/b\xffad"),
        request(b"/bad#x"),
        [vec![0x82, 0x86], literal(true, Ok(4), b"/bad#x")].concat(),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_malformed_request_costs_its_stream_and_no_other() {
    for block in malformed() {
        let frames = [headers(1, &request(b"/one")), headers(3, &block), headers(5, &request(b"/two"))].concat();
        assert_eq!(served(&frames).await, (vec!["/one".into(), "/two".into()], None), "{block:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_table_is_as_the_client_means_it_to_be() {
    let first = [
        request(b"/bad"),
        // 64 is the newest of the three, 62 behind the last.
        literal(true, Err(b"x-one"), b"1"),
        literal(true, Err(b"X-Two"), b"malformed"),
        literal(true, Ok(4), b"/three"),
    ]
    .concat();
    let good = [vec![0x82, 0x86, 0xbe], literal(false, Ok(1), b"a"), vec![0xc0]].concat();
    let bad = [good.clone(), vec![0xbf]].concat();
    // The name of the same entry, whose index needs two bytes in a literal.
    let named = [good.clone(), vec![0x0f, 63 - 15, 1, b'x']].concat();
    let frames = [headers(1, &first), headers(3, &good), headers(5, &bad), headers(7, &named), headers(9, &good)];
    assert_eq!(served(&frames.concat()).await, (vec!["/three".into(), "/three".into()], None));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_ends_the_connection() {
    for block in [&[0x80][..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff], &[0x3f, 0xff, 0x7f], &[0x00, 0x85, 0xff], &[0xc8]]
    {
        let frames = [headers(1, &request(b"/one")), headers(3, block), headers(5, &request(b"/two"))].concat();
        let (paths, ended) = served(&frames).await;
        assert!(
            !paths.contains(&"/two".into()) && ended == Some(Reason::PROTOCOL_ERROR),
            "{block:?}: {paths:?} {ended:?}"
        );
        assert_eq!(passed(&frames, 10), frames);
    }
}

#[test]
fn what_is_well_formed_passes_as_it_is_in_whatever_pieces() {
    let block = [request(b"/one"), literal(true, Err(b"x-a"), b"b")].concat();
    let (front, back) = block.split_at(7);
    let padded = [&[3][..], &[0, 0, 0, 0, 9], front, &[0; 3]].concat();
    let frames = [
        frame(4, 0, 0, &[0, 3, 0, 0, 0, 9]),
        frame(HEADERS, PADDED | PRIORITY, 1, &padded),
        frame(CONTINUATION, 0, 1, &[]),
        frame(CONTINUATION, END_HEADERS, 1, back),
        frame(0, END_STREAM, 1, b"body"),
        headers(3, &[0x82, 0x86, 0x84, 0xbe]),
        frame(8, 0, 0, &[0, 0, 1, 0]),
        frame(0, 0, 5, &[]),
        frame(77, 9, 5, &[7; 500]),
    ]
    .concat();
    for size in [1, 2, 5, 9, 10, 64, 4096] {
        assert_eq!(passed(&frames, size), frames, "pieces of {size}");
    }
}

#[test]
fn a_malformed_block_of_several_frames_is_replaced_as_a_whole() {
    let block = [request(b"/one"), literal(false, Err(b"X"), b"y")].concat();
    let (front, back) = block.split_at(block.len() - 2);
    let frames =
        [frame(HEADERS, END_STREAM, 1, front), frame(CONTINUATION, END_HEADERS, 1, back), headers(3, &request(b"/"))];
    let instead = [headers(1, &[request(b"/one"), b"\x00\x02te\x01x".to_vec()].concat()), headers(3, &request(b"/"))];
    for size in [1, 9, 4096] {
        assert_eq!(passed(&frames.concat(), size), instead.concat());
    }
}

#[test]
fn frames_that_do_not_belong_there_pass_for_the_library_to_refuse() {
    let block = request(b"/one");
    for frames in [
        frame(CONTINUATION, END_HEADERS, 1, &block),
        [frame(HEADERS, 0, 1, &block), headers(3, &literal(false, Err(b"X"), b"y"))].concat(),
        [frame(HEADERS, 0, 1, &block), frame(CONTINUATION, END_HEADERS, 3, &[])].concat(),
        frame(HEADERS, PADDED | END_HEADERS, 1, &[9, 1]),
        frame(HEADERS, END_HEADERS, 1, &[0; LONGEST + 1]),
        [frame(HEADERS, 0, 1, &[0x82; LONGEST]), frame(CONTINUATION, 0, 1, &[0x82; LONGEST]).repeat(20)].concat(),
    ] {
        assert_eq!(passed(&frames, 1000), frames);
    }
}

/// Something that may stand in a block.
fn representation() -> impl Strategy<Value = Vec<u8>> {
    let text = prop_oneof!["[a-z:]{1,6}", "[A-Z#\r\n\\x00 ]{0,6}", Just(":path".to_owned()), Just("x".repeat(120))];
    let name = prop_oneof![(1..15_u8).prop_map(Ok), text.clone().prop_map(Err)];
    prop_oneof![
        (any::<bool>(), name, text).prop_map(|(indexing, name, value)| {
            literal(indexing, name.as_ref().map(|index| *index).map_err(|text| text.as_bytes()), value.as_bytes())
        }),
        (0x80..0xd0_u8).prop_map(|index| vec![index]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a client has in its blocks: the library ends the connection only where the screen could not read them.
    #[test]
    fn the_library_agrees_on_what_is_readable(blocks in prop::collection::vec(prop::collection::vec(representation(), 0..8), 1..8)) {
        let frames: Vec<u8> =
            (1..).step_by(2).zip(&blocks).flat_map(|(id, block)| headers(id, &block.concat())).collect();
        let last = 2 * blocks.len() as u32 + 1;
        let frames = [frames, headers(last, &request(b"/last"))].concat();
        let mut screen = Screen::new();
        screen.feed(&[super::super::PREFACE, &frames].concat(), &mut BytesMut::new());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let (paths, _) = runtime.block_on(served(&frames));
        prop_assert_eq!(paths.contains(&"/last".to_owned()), screen.place != Place::Blind);
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400), size in 1..50_usize) {
        let _ = passed(&bytes, size);
        let _ = block::screen(&bytes, &mut Table::new());
        let _ = passed(&headers(1, &bytes), size);
    }
}
