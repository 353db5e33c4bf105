//! The rules of `flow` that are no matter of interleavings.

use proptest::prelude::*;
use proxy_common::flow::{Burst, Place, place};

#[test]
fn a_segment_overlaps_follows_or_is_behind_a_gap() {
    for base in [0, 1_000, u32::MAX - 5] {
        let at = |offset: i32| base.wrapping_add_signed(offset);
        assert_eq!(place(at(0), at(0), 10), Place::Overlaps(0), "it follows");
        assert_eq!(place(at(3), at(0), 10), Place::Overlaps(3), "a part was delivered");
        assert_eq!(place(at(10), at(0), 10), Place::Overlaps(10), "all was delivered");
        assert_eq!(place(at(400), at(0), 10), Place::Overlaps(10), "all was delivered long ago");
        assert_eq!(place(at(-1), at(0), 10), Place::BehindAGap, "one byte is missing");
        assert_eq!(place(at(-70_000), at(0), 10), Place::BehindAGap, "many bytes are missing");
    }
}

/// What happens to the target's queue.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A segment of so many bytes is redirected.
    Redirect(u8),
    /// The target accepts up to so many bytes.
    Accept(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step =
        prop_oneof![(1..=u8::MAX).prop_map(Step::Redirect), any::<u16>().prop_map(|bytes| Step::Accept(bytes % 700))];
    proptest::collection::vec(step, 0..200)
}

proptest! {
    /// The bound is looked at as the verdict does it: settled before each redirect.
    #[test]
    fn a_burst_is_never_fewer_than_the_segments_that_wait(start in any::<u32>(), steps in steps()) {
        let (mut burst, mut sent, mut accepted) = (Burst { mark: start, ..Burst::default() }, start, start);
        let mut waiting = std::collections::VecDeque::new();
        for step in steps {
            match step {
                Step::Redirect(len) => {
                    burst = burst.settled(sent, accepted);
                    prop_assert!(burst.waiting as usize >= waiting.len(), "{burst:?} for {}", waiting.len());
                    sent = sent.wrapping_add(len.into());
                    burst = burst.and_one();
                    waiting.push_back(sent);
                }
                Step::Accept(bytes) => {
                    accepted = accepted.wrapping_add(sent.wrapping_sub(accepted).min(bytes.into()));
                    waiting.retain(|end: &u32| end.wrapping_sub(accepted).wrapping_sub(1) <= i32::MAX as u32);
                }
            }
        }
    }

    /// A target that keeps up never sees more than two rounds of segments taken for waiting.
    #[test]
    fn a_burst_forgets_what_was_accepted(rounds in 1_u32..50, segments in 1_u32..40) {
        let (mut burst, mut sent, mut accepted) = (Burst::default(), 0_u32, 0_u32);
        for _ in 0..rounds {
            for _ in 0..segments {
                burst = burst.settled(sent, accepted);
                prop_assert!(burst.waiting <= 2 * segments);
                sent += 10;
                burst = burst.and_one();
            }
            // All but the last byte: the backlog is never seen empty.
            accepted = sent - 1;
        }
    }
}
