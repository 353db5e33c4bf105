//! The Close frame with which the gate and the keeper end a pair of their own accord, the same for both.

use proxy_common::layout::Direction;

/// RFC 6455 §7.4.1, registered by IANA: "Service Restart". The client may connect again.
pub const SERVICE_RESTART: u16 = 1012;

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
