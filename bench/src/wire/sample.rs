//! Numbers with their uncertainty: medians and bootstrapped 95 % intervals, of values and of paired ratios.

use serde::Serialize;

/// A median and the interval that holds it with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The median.
    pub median: f64,
    /// Lower and upper end of the 95 % interval.
    pub ci: [f64; 2],
    /// Values behind it.
    pub values: usize,
}

/// An interval wider than this share of the median, to either side, resolves nothing.
pub const RESOLVED: f64 = 0.05;
/// Of fewer values all may lie on one side of the median in one case of twenty.
const FEWEST: usize = 6;

impl Estimate {
    /// There are values enough for an interval, and neither end of it is further from the median than [`RESOLVED`] of
    /// that.
    #[must_use]
    pub fn is_resolved(&self) -> bool {
        let near = self.median.abs() * RESOLVED + f64::EPSILON;
        self.values >= FEWEST && self.ci.iter().all(|end| (end - self.median).abs() <= near)
    }
}

/// Resamplings behind an interval.
const RESAMPLES: usize = 2_000;

/// The median of `values` with its interval; `None` when there are none.
#[must_use]
pub fn estimate(values: &[f64]) -> Option<Estimate> {
    let median = median(values)?;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut draw = |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % n as u64).unwrap_or(0)
    };
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let resample: Vec<f64> = values.iter().map(|_| values[draw(values.len())]).collect();
            self::median(&resample)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    let at = |per_mille: usize| medians[(medians.len() - 1) * per_mille / 1_000];
    Some(Estimate { median, ci: [at(25), at(975)], values: values.len() })
}

/// The estimate of `ours / theirs`, pair by pair: the two were measured right after each other, so that a machine
/// that slows down slows both. Pairs with a zero are left out.
#[must_use]
pub fn ratio(ours: &[f64], theirs: &[f64]) -> Option<Estimate> {
    let ratios: Vec<f64> =
        ours.iter().zip(theirs).filter(|(a, b)| **a > 0.0 && **b > 0.0).map(|(a, b)| a / b).collect();
    estimate(&ratios)
}

/// The value below which `per_cent` of the values lie (nearest rank). Sorts in place.
#[must_use]
pub fn percentile(values: &mut [f64], per_cent: usize) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    values.get((last * per_cent).div_ceil(100)).copied()
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_in_its_interval_and_the_interval_in_the_values() {
        let values: Vec<f64> = (1..=21).map(f64::from).collect();
        let Estimate { median, ci, .. } = estimate(&values).unwrap();
        assert!((median - 11.0).abs() < f64::EPSILON);
        assert!(1.0 <= ci[0] && ci[0] < median && median < ci[1] && ci[1] <= 21.0, "{ci:?}");
        assert_eq!(estimate(&[]), None);
    }

    #[test]
    fn a_ratio_is_of_pairs_not_of_medians() {
        let Estimate { median, ci, .. } = ratio(&[1.0, 10.0, 100.0], &[2.0, 20.0, 200.0]).unwrap();
        assert!((median - 0.5).abs() < 1e-9 && (ci[1] - ci[0]).abs() < 1e-9);
        assert_eq!(ratio(&[1.0], &[0.0]), None);
    }

    #[test]
    fn an_interval_of_more_than_five_per_cent_resolves_nothing() {
        let estimate = |low: f64, high: f64, values| Estimate { median: 2.0, ci: [low, high], values };
        let resolved = |low: f64, high: f64| estimate(low, high, 9).is_resolved();
        assert!(resolved(1.9, 2.1) && resolved(2.0, 2.0));
        assert!(!resolved(1.89, 2.0) && !resolved(2.0, 2.11));
        assert!(!estimate(2.0, 2.0, 1).is_resolved(), "one round resolves nothing");
    }

    #[test]
    fn percentiles_are_of_the_values() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut values, 99), Some(100.0));
        assert_eq!(percentile(&mut values, 0), Some(1.0));
        assert_eq!(percentile(&mut [], 50), None);
    }
}
