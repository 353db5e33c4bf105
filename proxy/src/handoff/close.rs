//! The Close frame with which the gate and the keeper end a pair of their own accord, the same for both.

use proxy_common::layout::Direction;

/// RFC 6455 §7.4.1, registered by IANA: "Service Restart". The client may connect again.
pub const SERVICE_RESTART: u16 = 1012;

/// The values of the `code` label. Peers choose their codes: a series for each would be 65,536 of them. Those that RFC 6455
/// §7.4.1 and IANA give a meaning stand for themselves, the others for their range (RFC 6455 §7.4.2).
pub const CODES: [&str; 19] = [
    "1000", "1001", "1002", "1003", "1004", "1005", "1006", "1007", "1008", "1009", "1010", "1011", "1012", "1013",
    "1014", "1015", "3xxx", "4xxx", "other",
];

/// Close frames by direction, and by their codes in the order of [`CODES`].
pub type CloseCounts = [[u64; CODES.len()]; 2];

/// The place of a code in [`CODES`]. `None`: 0, there was no Close frame.
#[must_use]
pub const fn place(code: u32) -> Option<usize> {
    match code {
        0 => None,
        1000..=1015 => Some(code as usize - 1000),
        3000..=3999 => Some(16),
        4000..=4999 => Some(17),
        _ => Some(18),
    }
}

/// A Close frame (RFC 6455 §5.5.1), masked as a client's must be where it goes to a backend (§5.3).
#[must_use]
pub fn frame(code: u16, direction: Direction) -> Vec<u8> {
    let [high, low] = code.to_be_bytes();
    match direction {
        Direction::BackendToClient => vec![0x88, 2, high, low],
        Direction::ClientToBackend => {
            let key: [u8; 4] = rand::random();
            vec![0x88, 0x82, key[0], key[1], key[2], key[3], high ^ key[0], low ^ key[1]]
        }
    }
}

#[cfg(test)]
mod tests {
    use proxy_common::layout::DirCounters;
    use proxy_common::scan::Scanner;

    use super::*;

    #[test]
    fn every_code_has_one_of_few_places() {
        assert_eq!(place(0), None);
        for (code, label) in
            [(1, "other"), (999, "other"), (1000, "1000"), (1005, "1005"), (1015, "1015"), (1016, "other")]
        {
            assert_eq!(place(code).map(|place| CODES[place]), Some(label), "{code}");
        }
        for (code, label) in
            [(2999, "other"), (3000, "3xxx"), (3999, "3xxx"), (4000, "4xxx"), (4999, "4xxx"), (5000, "other")]
        {
            assert_eq!(place(code).map(|place| CODES[place]), Some(label), "{code}");
        }
        assert!((1..=u32::from(u16::MAX)).all(|code| place(code).is_some_and(|place| place < CODES.len())));
    }

    #[test]
    fn a_close_frame_is_one_both_ways() {
        for direction in Direction::ALL {
            let (mut scanner, mut counters) = (Scanner::START, DirCounters::ZERO);
            scanner.feed(&frame(SERVICE_RESTART, direction), &mut counters);
            assert!(scanner.at_boundary());
            assert_eq!((counters.closes, counters.close_code), (1, 1012));
            assert_eq!(counters.sizes.iter().sum::<u64>(), 1);
        }
    }
}
