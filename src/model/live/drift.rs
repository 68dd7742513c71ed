//! Has the error grown? Two detectors, over errors between 0 and 1.

use serde::{Deserialize, Serialize};

use super::{adwin::Adwin, options::Drift};
use crate::model::exact;

/// Values that the detector looks at before it says anything: as River and MOA have it.
const WARM_UP: u64 = 30;

/// What is watched for a drift.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Detector {
    None,
    PageHinkley(PageHinkley),
    Adwin(Adwin),
}

impl Detector {
    /// As it was asked for, before the first value.
    pub fn new(drift: Drift) -> Self {
        match drift {
            Drift::None => Self::None,
            Drift::PageHinkley { .. } => Self::PageHinkley(PageHinkley::default()),
            Drift::Adwin { .. } => Self::Adwin(Adwin::new()),
        }
    }

    /// Takes the next error. True if errors have grown; then it begins anew.
    pub fn add(&mut self, error: f64, drift: Drift) -> bool {
        let grown = match (&mut *self, drift) {
            (Self::PageHinkley(test), Drift::PageHinkley { threshold, delta }) => test.add(error, threshold, delta),
            (Self::Adwin(window), Drift::Adwin { delta }) => window.add(error, delta),
            _ => false,
        };
        if grown {
            *self = Self::new(drift);
        }
        grown
    }
}

/// The test of Page (Biometrika 41, 1954) and Hinkley (Biometrika 58, 1971) for a mean that rises: the sum of what
/// values exceed their mean by, less a tolerance, has come too far above its lowest point.
///
/// Values count in their own standard deviations, as known so far (Welford), so that one threshold fits any error.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PageHinkley {
    count: u64,
    #[serde(deserialize_with = "exact::one")]
    mean: f64,
    #[serde(deserialize_with = "exact::one")]
    squares: f64,
    #[serde(deserialize_with = "exact::one")]
    sum: f64,
    #[serde(deserialize_with = "exact::one")]
    lowest: f64,
}

impl PageHinkley {
    fn add(&mut self, value: f64, threshold: f64, delta: f64) -> bool {
        let (mean, deviation) = (self.mean, (self.squares / (self.count.max(2) - 1) as f64).sqrt());
        self.count += 1;
        let step = value - self.mean;
        self.mean += step / self.count as f64;
        self.squares += step * (value - self.mean);
        if self.count <= WARM_UP || deviation == 0.0 {
            return false;
        }
        self.sum += (value - mean) / deviation - delta;
        self.lowest = self.lowest.min(self.sum);
        self.sum - self.lowest > threshold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE_HINKLEY: Drift = Drift::PageHinkley { threshold: 20.0, delta: 0.25 };
    const ADWIN: Drift = Drift::Adwin { delta: 0.002 };

    /// |normal| / (|normal| + scale): what the forecaster watches. Twelve uniform numbers make a normal one.
    fn errors(seed: u64, size: f64) -> impl Iterator<Item = f64> {
        let mut state = seed;
        let mut uniform = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        std::iter::repeat_with(move || {
            let error = ((0..12).map(|_| uniform()).sum::<f64>() - 6.0).abs() * size;
            error / (error + 0.8)
        })
    }

    /// How many values after the change it takes, on average of some runs; none may be missed.
    fn delay(drift: Drift, before: usize, size: f64) -> f64 {
        let delays = (0..20).map(|seed| {
            let mut detector = Detector::new(drift);
            errors(seed, 1.0).take(before).for_each(|error| {
                detector.add(error, drift);
            });
            errors(99 + seed, size).take(2_000).position(|error| detector.add(error, drift)).unwrap_or(usize::MAX)
        });
        delays.map(|rows| rows as f64).sum::<f64>() / 20.0
    }

    #[test]
    fn a_growing_error_is_found_soon() {
        for (drift, twice, thrice) in [(PAGE_HINKLEY, 60.0, 35.0), (ADWIN, 220.0, 110.0)] {
            let (found, faster) = (delay(drift, 500, 2.0), delay(drift, 500, 3.0));
            assert!(found < twice && faster < thrice, "{drift:?}: {found} and {faster} rows");
        }
    }

    #[test]
    fn an_error_that_shrinks_is_no_drift() {
        for drift in [PAGE_HINKLEY, ADWIN] {
            let mut detector = Detector::new(drift);
            errors(1, 1.0).take(500).for_each(|error| {
                detector.add(error, drift);
            });
            assert!(!errors(2, 0.3).take(500).any(|error| detector.add(error, drift)), "{drift:?}");
        }
    }

    #[test]
    fn false_alarms_are_rare() {
        for (drift, most) in [(PAGE_HINKLEY, 40), (ADWIN, 10)] {
            let alarms: usize = (0..20)
                .map(|seed| {
                    let mut detector = Detector::new(drift);
                    errors(seed, 1.0).take(10_000).filter(|error| detector.add(*error, drift)).count()
                })
                .sum();
            assert!(alarms <= most, "{drift:?}: {alarms} in 200,000 values");
        }
    }

    #[test]
    fn no_detector_and_equal_errors_say_nothing() {
        for drift in [Drift::None, PAGE_HINKLEY, ADWIN] {
            let mut detector = Detector::new(drift);
            assert!(!(0..500).any(|_| detector.add(0.5, drift)), "{drift:?}");
        }
    }
}
