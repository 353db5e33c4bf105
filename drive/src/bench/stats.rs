//! Medians, spreads and percentiles.

use serde::Serialize;

/// The middle of repeated measurements, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

/// Summarises; `None` for no values.
pub(super) fn summary(values: impl IntoIterator<Item = f64>) -> Option<Summary> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let (min, max) = (*sorted.first()?, *sorted.last()?);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    let median =
        if sorted.len().is_multiple_of(2) { (upper + *sorted.get(middle.checked_sub(1)?)?) / 2.0 } else { upper };
    Some(Summary { median, min, max })
}

/// The value below which this share (0–1) of sorted values lies, by nearest rank; 0 for no values.
pub(super) fn percentile(sorted: &[u32], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().map_or(0.0, f64::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between_its_middle_values() {
        assert_eq!(summary([4.0, 1.0, 3.0, 2.0]).unwrap(), Summary { median: 2.5, min: 1.0, max: 4.0 });
        assert_eq!(summary([7.0]).unwrap(), Summary { median: 7.0, min: 7.0, max: 7.0 });
        assert_eq!(summary([]), None);
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let sorted: Vec<u32> = (1..=100).collect();
        assert_eq!(percentile(&sorted, 0.50), 50.0);
        assert_eq!(percentile(&sorted, 0.99), 99.0);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }
}
