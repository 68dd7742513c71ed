//! Which rows train and which test.

use crate::error::{Error, Result};

/// A seeded random split. A row's side follows from the seed and the row's number in the query's order, and from
/// nothing else: not from batches, threads or the machine. So the order matters: a query whose order may change (no
/// `ORDER BY`, several files) may split differently.
///
/// It is not Spark's `randomSplit` bit for bit: that one's result depends on how the data lie in partitions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Split {
    pub seed: u64,
    /// The share of rows to test on, at least 0, below 1.
    pub test_fraction: f64,
}

impl Split {
    /// What a model's file calls it.
    pub const NAME: &str = "splitmix64 of seed and row number";

    /// Checks the fraction.
    ///
    /// # Errors
    /// `Invalid` outside 0 <= fraction < 1.
    pub fn new(seed: u64, test_fraction: f64) -> Result<Self> {
        if (0.0..1.0).contains(&test_fraction) {
            return Ok(Self { seed, test_fraction });
        }
        Err(Error::invalid(format!("the test fraction {test_fraction} is not between 0 and 1"))
            .help("0.2 trains on 80 % of the rows and tests on the rest; 0 trains on all of them"))
    }

    /// Whether row `row`, counted from 0 in the query's order, tests.
    pub fn is_test(self, row: u64) -> bool {
        // The upper 53 bits as a number in [0, 1).
        let uniform = (draw(self.seed, row) >> 11) as f64 * (1.0 / (1_u64 << 53) as f64);
        uniform >= 1.0 - self.test_fraction
    }
}

/// A uniform number for a row, the same on every machine.
pub(super) fn draw(seed: u64, row: u64) -> u64 {
    mix(mix(seed).wrapping_add(row.wrapping_mul(GOLDEN)))
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// One output of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_as_published() {
        // The first outputs of SplitMix64 seeded with 1234567, as Rosetta Code lists them.
        assert_eq!(mix(1_234_567), 6_457_827_717_110_365_317);
        assert_eq!(mix(1_234_567_u64.wrapping_add(GOLDEN)), 3_203_168_211_198_807_973);
    }

    #[test]
    fn is_the_same_for_ever() {
        let split = Split::new(42, 0.2).unwrap();
        let tested: Vec<u64> = (0..40).filter(|row| split.is_test(*row)).collect();
        assert_eq!(tested, FROZEN);
    }

    /// Frozen: a change here changes everyone's models.
    const FROZEN: [u64; 8] = [1, 14, 21, 25, 29, 32, 36, 38];

    #[test]
    fn takes_the_share_that_was_asked_for() {
        for (fraction, wanted) in [(0.0, 0.0), (0.2, 0.2), (0.5, 0.5), (0.999, 0.999)] {
            for seed in [0, 1, 42, u64::MAX] {
                let split = Split::new(seed, fraction).unwrap();
                let share = (0..100_000).filter(|row| split.is_test(*row)).count() as f64 / 1e5;
                assert!((share - wanted).abs() < 0.006, "{fraction} {seed}: {share}");
            }
        }
        let differ = (0..1000).filter(|row| {
            Split { seed: 1, test_fraction: 0.5 }.is_test(*row) != Split { seed: 2, test_fraction: 0.5 }.is_test(*row)
        });
        assert!((400..600).contains(&differ.count()));
    }

    #[test]
    fn refuses_what_is_no_share() {
        for fraction in [-0.1, 1.0, 2.0, f64::NAN] {
            assert!(Split::new(1, fraction).is_err());
        }
    }
}
