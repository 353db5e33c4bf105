//! Smooth weighted round robin, as NGINX has it (`ngx_http_upstream_get_peer`).

use std::collections::BTreeMap;

use super::Candidate;

/// How far each server is behind its share (above 0) or ahead of it.
///
/// With every pick each candidate is credited its weight; the one with the most gets the connection, and pays what was
/// credited to all. So over any stretch a server gets its share, give or take less than one turn of it, and never
/// several at once that could be spread. With equal weights this is plain round robin.
#[derive(Debug, Default)]
pub(super) struct Smooth {
    behind: BTreeMap<u16, f64>,
}

impl Smooth {
    /// Forgets the servers that do not stay.
    pub(super) fn keep(&mut self, stays: impl Fn(u16) -> bool) {
        self.behind.retain(|server, _| stays(*server));
    }

    /// Whose turn it is. Of two that are equally far behind, the one with the lower number.
    pub(super) fn pick(&mut self, candidates: &[Candidate]) -> Option<u16> {
        let mut all = 0.0;
        let mut first: Option<(f64, u16)> = None;
        for candidate in candidates {
            let behind = self.behind.entry(candidate.server).or_default();
            *behind += candidate.weight;
            all += candidate.weight;
            let ahead = |(most, server)| *behind < most || (*behind == most && server < candidate.server);
            if !first.is_some_and(ahead) {
                first = Some((*behind, candidate.server));
            }
        }
        let (_, server) = first?;
        *self.behind.entry(server).or_default() -= all;
        Some(server)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;

    use super::*;

    fn candidates(weights: &[f64]) -> Vec<Candidate> {
        (0..).zip(weights).map(|(server, weight)| Candidate { server, weight: *weight, live: 0 }).collect()
    }

    fn picks(smooth: &mut Smooth, candidates: &[Candidate], count: usize) -> Vec<u16> {
        (0..count).map(|_| smooth.pick(candidates).unwrap()).collect()
    }

    #[test]
    fn equal_weights_go_around() {
        let mut smooth = Smooth::default();
        assert_eq!(picks(&mut smooth, &candidates(&[2.0, 2.0, 2.0]), 7), [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(smooth.pick(&[]), None);
    }

    #[test]
    fn weights_are_interleaved_as_nginx_does_it() {
        // The example of NGINX's commit 52327e0627f4 of 2012: 5, 1, 1 is a a b a c a a.
        let mut smooth = Smooth::default();
        let five = candidates(&[5.0, 1.0, 1.0]);
        assert_eq!(picks(&mut smooth, &five, 7), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(picks(&mut smooth, &five, 7), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn those_that_stay_keep_their_turn() {
        let mut smooth = Smooth::default();
        let three = candidates(&[1.0, 1.0, 1.0]);
        assert_eq!(smooth.pick(&three), Some(0));
        smooth.keep(|server| server != 2);
        // The first had its turn already.
        assert_eq!(picks(&mut smooth, &three[..2], 5), [1, 1, 0, 1, 0]);
        // One that was away, full for a while, does not get all that it missed.
        let mut smooth = Smooth::default();
        picks(&mut smooth, &three[..2], 100);
        let back = picks(&mut smooth, &three, 30);
        assert_eq!(back.iter().filter(|server| **server == 2).count(), 10);
    }

    #[test]
    fn servers_that_come_and_go_for_months_are_no_head_start() {
        let mut smooth = Smooth::default();
        for generation in 0..1000u16 {
            let four: Vec<Candidate> =
                (0..4).map(|at| Candidate { server: generation + at, weight: 1.0, live: 0 }).collect();
            smooth.keep(|server| four.iter().any(|one| one.server == server));
            picks(&mut smooth, &four, 1 + usize::from(generation) % 5);
            assert!(smooth.behind.values().all(|behind| behind.abs() <= 5.0), "{generation}: {:?}", smooth.behind);
        }
    }

    proptest! {
        #[test]
        fn proportions_are_exact(weights in proptest::collection::vec(1u32..50, 1..8), rounds in 1usize..4) {
            let mut smooth = Smooth::default();
            let candidates = candidates(&weights.iter().copied().map(f64::from).collect::<Vec<_>>());
            let all: u32 = weights.iter().sum();
            let mut counts = vec![0u32; weights.len()];
            for turn in 1..=all as usize * rounds {
                counts[usize::from(smooth.pick(&candidates).unwrap())] += 1;
                for (count, weight) in counts.iter().zip(&weights) {
                    let due = turn as f64 * f64::from(*weight) / f64::from(all);
                    prop_assert!((f64::from(*count) - due).abs() < weights.len() as f64);
                }
            }
            for (count, weight) in counts.iter().zip(&weights) {
                prop_assert_eq!(*count, *weight * rounds as u32);
            }
        }

        #[test]
        fn who_is_away_at_times_is_never_far_off(sets in proptest::collection::vec(1u8..32, 1..2000)) {
            let mut smooth = Smooth::default();
            let all = candidates(&[1.0; 5]);
            for set in sets {
                let here: Vec<Candidate> = all.iter().copied().filter(|one| set >> one.server & 1 == 1).collect();
                let server = smooth.pick(&here).unwrap();
                prop_assert!(here.iter().any(|one| one.server == server));
                prop_assert!(smooth.behind.values().all(|behind| behind.abs() <= 5.0), "{:?}", smooth.behind);
            }
        }
    }
}
