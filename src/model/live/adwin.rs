//! ADWIN: a window that grows while its mean stays the same, and drops its old part when it does not.
//!
//! Bifet, Gavalda, "Learning from Time-Changing Data with Adaptive Windowing", SIAM SDM 2007: the variant ADWIN2 with its
//! exponential histogram, so that a window of n values takes O(log n) memory and time. The bound is the paper's with the
//! window's variance; how often to look and how small a part may be are MOA's.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::model::exact;

/// Buckets of one size: the paper's M.
const BUCKETS_MAX: usize = 5;

/// Cuts are looked for after so many values.
const LOOK_EVERY: u64 = 32;

/// No part of the window has fewer values.
const PART_MIN: u64 = 5;

/// Nor the window, when cuts are looked for.
const WINDOW_MIN: u64 = 10;

/// The sum and the squares about the mean of 2^level values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Bucket {
    #[serde(deserialize_with = "exact::one")]
    sum: f64,
    #[serde(deserialize_with = "exact::one")]
    squares: f64,
}

/// The window. Values lie between 0 and 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adwin {
    /// By size, the smallest and newest first; in each, the oldest in front.
    levels: Vec<VecDeque<Bucket>>,
    seen: u64,
}

impl Adwin {
    /// An empty window.
    pub fn new() -> Self {
        Self { levels: Vec::new(), seen: 0 }
    }

    /// Takes the next value. True if the window was cut because the mean has grown; `delta`: how likely a false alarm is
    /// for one look.
    pub fn add(&mut self, value: f64, delta: f64) -> bool {
        self.insert(value);
        self.seen += 1;
        if !self.seen.is_multiple_of(LOOK_EVERY) {
            return false;
        }
        let mut grown = false;
        while let Some(newer_is_higher) = self.cut(delta) {
            grown |= newer_is_higher;
            self.drop_oldest();
        }
        grown
    }

    fn insert(&mut self, value: f64) {
        if self.levels.is_empty() {
            self.levels.push(VecDeque::new());
        }
        self.levels[0].push_back(Bucket { sum: value, squares: 0.0 });
        for level in 0.. {
            if self.levels[level].len() <= BUCKETS_MAX {
                return;
            }
            let (Some(a), Some(b)) = (self.levels[level].pop_front(), self.levels[level].pop_front()) else { return };
            if self.levels.len() == level + 1 {
                self.levels.push(VecDeque::new());
            }
            let size = size_of_level(level) as f64;
            let step = (a.sum - b.sum) / size;
            let squares = a.squares + b.squares + step * step * size / 2.0;
            self.levels[level + 1].push_back(Bucket { sum: a.sum + b.sum, squares });
        }
    }

    /// The oldest first.
    fn buckets(&self) -> impl Iterator<Item = (u64, Bucket)> {
        let levels = self.levels.iter().enumerate().rev();
        levels.flat_map(|(level, buckets)| buckets.iter().map(move |bucket| (size_of_level(level), *bucket)))
    }

    /// Is there a cut between two parts whose means differ by more than chance? Then whether the newer part's is higher.
    fn cut(&self, delta: f64) -> Option<bool> {
        let (mut count, mut sum, mut squares) = (0_u64, 0.0, 0.0);
        for (size, bucket) in self.buckets() {
            if count > 0 {
                let step = bucket.sum / size as f64 - sum / count as f64;
                squares += step * step * (count as f64) * (size as f64) / (count + size) as f64;
            }
            squares += bucket.squares;
            sum += bucket.sum;
            count += size;
        }
        if count <= WINDOW_MIN {
            return None;
        }
        let variance = squares / count as f64;
        // Of all cuts together, that none is a false alarm.
        let confidence = (2.0 * (count as f64).ln() / delta).ln();
        let (mut older, mut older_sum) = (0_u64, 0.0);
        for (size, bucket) in self.buckets() {
            older += size;
            older_sum += bucket.sum;
            let newer = count - older;
            if newer < PART_MIN {
                return None;
            }
            if older < PART_MIN {
                continue;
            }
            let inverse = 1.0 / (older - PART_MIN + 1) as f64 + 1.0 / (newer - PART_MIN + 1) as f64;
            let bound = (2.0 * inverse * variance * confidence).sqrt() + 2.0 / 3.0 * inverse * confidence;
            let difference = (sum - older_sum) / newer as f64 - older_sum / older as f64;
            if difference.abs() > bound {
                return Some(difference > 0.0);
            }
        }
        None
    }

    fn drop_oldest(&mut self) {
        if let Some(level) = self.levels.last_mut() {
            level.pop_front();
        }
        while self.levels.last().is_some_and(VecDeque::is_empty) {
            self.levels.pop();
        }
    }
}

fn size_of_level(level: usize) -> u64 {
    1 << level
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splitmix64, as numbers between 0 and 1.
    fn noise(seed: u64) -> impl Iterator<Item = f64> {
        let mut state = seed;
        std::iter::repeat_with(move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) as f64 / u64::MAX as f64
        })
    }

    impl Adwin {
        fn width(&self) -> u64 {
            self.buckets().map(|(size, _)| size).sum()
        }
    }

    #[test]
    fn the_histogram_holds_the_window_in_little_memory() {
        let mut window = Adwin::new();
        for value in noise(1).take(100_000) {
            assert!(!window.add(value, 1e-9));
        }
        assert_eq!(window.width(), 100_000);
        let buckets = window.buckets().count();
        assert!(buckets <= 17 * (BUCKETS_MAX + 1), "{buckets}");
        let sum: f64 = window.buckets().map(|(_, bucket)| bucket.sum).sum();
        assert!((sum / 1e5 - 0.5).abs() < 0.01, "{sum}");
    }

    #[test]
    fn finds_a_higher_mean_soon_and_forgets_what_was_before() {
        let mut window = Adwin::new();
        assert!(!noise(2).take(2_000).any(|value| window.add(value * 0.4, 0.002)));
        let found = noise(3).take(500).position(|value| window.add(0.3 + value * 0.4, 0.002));
        assert!(found.is_some_and(|rows| rows < 100), "{found:?}");
        assert!(window.width() < 700, "{}", window.width());
    }

    #[test]
    fn a_lower_mean_is_forgotten_and_is_no_alarm() {
        let mut window = Adwin::new();
        noise(4).take(2_000).for_each(|value| {
            window.add(0.5 + value * 0.4, 0.002);
        });
        let alarms = noise(5).take(1_000).filter(|value| window.add(value * 0.4, 0.002)).count();
        assert!(alarms == 0 && window.width() < 1_100, "{alarms} alarms, {} wide", window.width());
    }

    /// The paper bounds the rate of false alarms of one look by delta.
    #[test]
    fn false_alarms_are_rare() {
        let alarms: usize = (0..20)
            .map(|seed| {
                let mut window = Adwin::new();
                noise(100 + seed).take(20_000).filter(|value| window.add(*value, 0.002)).count()
            })
            .sum();
        assert!(alarms <= 10, "{alarms} in 400,000 values, {} looks", 400_000 / LOOK_EVERY);
    }
}
