#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use proptest::prelude::*;

use super::*;

fn ends(source: &str, destination: &str) -> Option<Ends> {
    Some(Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap() })
}

/// The longest address that §2.1 counts with: a line with two of them, and ports, has 107 bytes.
const LONGEST_V6: &str = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";

/// A header of version 2 with these three parts.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, rest].concat()
}

#[test]
fn good_headers_are_read() {
    let four = [192, 0, 2, 1, 198, 51, 100, 2, 0x1f, 0x90, 0x01, 0xbb];
    let six: Vec<u8> = [[0x20; 16], [0x30; 16]].concat().into_iter().chain([0, 1, 0, 2]).collect();
    let tlv = [&four[..], &[4, 0, 3, 1, 2, 3]].concat();
    let known = ends("192.0.2.1:8080", "198.51.100.2:443");
    for (header, expected) in [
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 8080 443\r\n".to_vec(), known),
        (b"PROXY TCP6 2001:db8::1 ::1 8080 443\r\n".to_vec(), ends("[2001:db8::1]:8080", "[::1]:443")),
        (b"PROXY TCP6 ::ffff:c000:201 ::1 8080 443\r\n".to_vec(), ends("192.0.2.1:8080", "[::1]:443")),
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
        (b"PROXY UNKNOWN what ever 1 2\r\n".to_vec(), None),
        (b"PROXY UNKNOWN\t\x00\xff\xfe a\rb \r\n".to_vec(), None),
        (format!("PROXY UNKNOWN {LONGEST_V6} {LONGEST_V6} 65535 65535\r\n").into_bytes(), None),
        (v2(0x21, 0x12, &four), None),
        (v2(0x21, 0x22, &six), None),
        (v2(0x21, 0x32, &[b'/'; 216]), None),
        (v2(0x21, 0x10, &four), None),
        (v2(0x21, 0x00, b"anything at all"), None),
        (v2(0x21, 0x11, &four), known),
        (v2(0x21, 0x11, &tlv), known),
        (
            v2(0x21, 0x21, &six),
            ends("[2020:2020:2020:2020:2020:2020:2020:2020]:1", "[3030:3030:3030:3030:3030:3030:3030:3030]:2"),
        ),
        (v2(0x21, 0x31, &[b'/'; 216]), None),
        (v2(0x21, 0x00, &[]), None),
        (v2(0x20, 0x00, &[]), None),
        (v2(0x20, 0x11, &[1, 2]), None),
        (v2(0x20, 0x11, &four), None),
    ] {
        assert_eq!(read(&header), Progress::Done(expected), "{}", String::from_utf8_lossy(&header));
    }
}

#[test]
fn bad_ones_are_not() {
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
    let four = [192, 0, 2, 1, 198, 51, 100, 2, 0x1f, 0x90, 0x01, 0xbb];
    for header in [
        b"GET / HTTP/1.1\r\n".to_vec(),
        b"\x16\x03\x01".to_vec(),
        b"PROXYING ALONG".to_vec(),
        b"PROXY TCP4 192.0.2.1 198.51.100.2 8080 443\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 198.51.100.2 8080\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 198.51.100.2 8080 443 1\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 198.51.100.2 8080 70000\r\n".to_vec(),
        b"PROXY TCP4 ::1 ::1 8080 443\r\n".to_vec(),
        b"PROXY TCP6 192.0.2.1 198.51.100.2 8080 443\r\n".to_vec(),
        b"PROXY UDP4 192.0.2.1 198.51.100.2 8080 443\r\n".to_vec(),
        b"PROXY UNKNOWN\r\nG".to_vec(),
        "PROXY UNKNOWN \r\u{e9}\n".as_bytes().to_vec(),
        b"PROXY UNKNOWN \n".to_vec(),
        long.into_bytes(),
        v2(0x11, 0x11, &four),
        v2(0x22, 0x11, &four),
        v2(0x21, 0x12, &four[..8]),
        v2(0x21, 0x41, &four),
        v2(0x21, 0x11, &four[..8]),
        v2(0x21, 0x00, &[0; 5000]),
        [v2(0x21, 0x11, &four), b"G".to_vec()].concat(),
    ] {
        assert_eq!(read(&header), Progress::Malformed, "{}", String::from_utf8_lossy(&header));
    }
}

/// Reads a stream as the gate does, and says how many of its bytes were taken for the header.
fn taken(stream: &[u8]) -> (usize, Progress) {
    let mut have = 0;
    loop {
        let progress = read(&stream[..have]);
        let next = match progress {
            Progress::More(more) => have + more,
            Progress::Line(most) => {
                let ahead = &stream[have..stream.len().min(have + most)];
                have + ahead.iter().position(|byte| *byte == b'\n').map_or(ahead.len(), |at| at + 1)
            }
            Progress::Done(_) | Progress::Malformed => return (have, progress),
        };
        if next > stream.len() || next == have {
            return (have, progress);
        }
        have = next;
    }
}

fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| canonical(SocketAddr::new(ip, port)))
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_nothing_behind_it(
        source in address(),
        destination in address(),
        known in any::<bool>(),
        second in any::<bool>(),
        behind in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let ends = known.then_some(Ends { source, destination });
        let version = if second { SendProxy::V2 } else { SendProxy::V1 };
        let header = write(version, ends).unwrap();
        prop_assert!(header.len() <= LONGEST_V1);
        prop_assert_eq!(read(&header), Progress::Done(ends));
        let stream = [&header[..], &behind].concat();
        prop_assert_eq!(taken(&stream), (header.len(), Progress::Done(ends)));
        // Cut anywhere, it asks for more and never for too much.
        for cut in 0..header.len() {
            match read(&header[..cut]) {
                Progress::More(more) => prop_assert!(more > 0 && cut + more <= header.len()),
                Progress::Line(most) => prop_assert!(header.len() <= cut + most),
                other => prop_assert!(false, "{other:?} at {cut}"),
            }
        }
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), start in 0..3_usize) {
        let start = [&b""[..], WORD, SIGNATURE][start];
        let _ = taken(&[start, &bytes].concat());
    }

    #[test]
    fn lines_of_any_text_never_panic(text in "\\PC{0,100}\r?.?\n?") {
        let _ = read(format!("PROXY {text}").as_bytes());
    }
}
