//! The two price models. Both use only operations that IEEE 754 defines exactly (no `ln`, `exp` or `sin`), so a seed
//! gives the same bytes on every machine.

use rand_chacha::{ChaCha8Rng, rand_core::RngCore};

/// What one record says about the market.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// Cents, 1,000,000 to 8,000,000.
    pub buy_cents: u64,
    /// Cents, 1,000,000 to 8,000,000.
    pub sell_cents: u64,
    /// 100 to 8,000.
    pub volume: u64,
    /// Hundredths, 50 to 500.
    pub volatility_hundredths: u64,
}

/// 53 random bits: uniform in [0, 1).
pub fn unit(rng: &mut ChaCha8Rng) -> f64 {
    let bits = (rng.next_u64() >> 11) as f64;
    bits / 9_007_199_254_740_992.0
}

/// Roughly standard normal: the sum of twelve uniforms less six (Irwin-Hall). Its tails end at 6; the clusters of
/// the volatility make those of the returns fat again.
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let sum: u64 = (0..12).map(|_| u64::from(rng.next_u32())).sum();
    let sum = sum as f64;
    sum / 4_294_967_296.0 - 6.0
}

fn rounded(value: f64) -> u64 {
    value.round() as u64
}

/// Every field uniform and independent of the others and of the past. Nothing can be learnt from it, which is what
/// makes it a good test of an honest model.
pub fn uniform(rng: &mut ChaCha8Rng) -> Quote {
    let mut between = |low: f64, high: f64| rounded(100.0 * (low + (high - low) * unit(rng)));
    let (buy_cents, sell_cents) = (between(10_000.0, 80_000.0), between(10_000.0, 80_000.0));
    let volatility_hundredths = between(0.5, 5.0);
    // 7,901 values into 2^64: the bias of the remainder is below 1e-15.
    Quote { buy_cents, sell_cents, volume: 100 + rng.next_u64() % 7_901, volatility_hundredths }
}

/// A walk that looks like a market. Per record, with `z` standard normal and `dt` the step in seconds:
///
/// * variance `h' = omega + alpha * r^2 + beta * h`: GARCH(1,1), Bollerslev 1986, so that calm and wild spells last.
///   The mean of `h` is (60 % a year)^2 * dt, and the clusters last about 1 / (1 - alpha - beta) = 50 records;
/// * mid price `p' = p * (1 + r)` with `r = sqrt(h) * z`, plus a weak pull to 40,000, reflected within [10,100, 79,200];
/// * spread `s' = s + theta * (m - s) + noise`, with a mean `m` that grows with the volatility: mean reverting
///   (Vasicek 1977), as a dealer's spread is; buy = p * (1 + s / 2), sell = p * (1 - s / 2);
/// * volume in proportion to the volatility times a triangular noise: days that move are days that trade
///   (Karpoff 1987).
#[derive(Debug, Clone)]
pub struct RandomWalk {
    mid: f64,
    variance: f64,
    mean_variance: f64,
    pull: f64,
    spread: f64,
}

const ALPHA: f64 = 0.08;
const BETA: f64 = 0.90;
const CENTRE: f64 = 40_000.0;
const LOWEST_MID: f64 = 10_100.0;
const HIGHEST_MID: f64 = 79_200.0;
/// 60 % a year.
const YEARLY_VARIANCE: f64 = 0.36;
const YEAR_SECONDS: f64 = 31_557_600.0;
/// The pull's half-life is about a week.
const PULL_A_SECOND: f64 = 1.15e-6;
const MEAN_SPREAD: f64 = 0.0004;
const SPREAD_REVERSION: f64 = 0.05;
const HIGHEST_SPREAD: f64 = 0.01;
/// The volatility is kept within 1/9 and 9 times its mean.
const RATIO_BOUND: f64 = 81.0;

impl RandomWalk {
    /// Starts at 40,000 in average weather; `step_seconds` is the time between two records.
    pub fn new(step_seconds: f64) -> Self {
        let step = step_seconds.max(1e-6);
        let mean_variance = YEARLY_VARIANCE / YEAR_SECONDS * step;
        let pull = (PULL_A_SECOND * step).min(0.5);
        Self { mid: CENTRE, variance: mean_variance, mean_variance, pull, spread: MEAN_SPREAD }
    }

    /// One step on.
    pub fn next(&mut self, rng: &mut ChaCha8Rng) -> Quote {
        let shock = self.variance.sqrt() * normal(rng);
        let omega = (1.0 - ALPHA - BETA) * self.mean_variance;
        let variance = omega + ALPHA * shock * shock + BETA * self.variance;
        self.variance = variance.clamp(self.mean_variance / RATIO_BOUND, self.mean_variance * RATIO_BOUND);
        let moved = self.mid * (1.0 + shock) + self.pull * (CENTRE - self.mid);
        self.mid = reflect(moved, LOWEST_MID, HIGHEST_MID);

        let ratio = (self.variance / self.mean_variance).sqrt();
        let noise = 0.1 * MEAN_SPREAD * ratio * normal(rng);
        let spread = self.spread + SPREAD_REVERSION * (MEAN_SPREAD * ratio - self.spread) + noise;
        self.spread = spread.abs().clamp(MEAN_SPREAD / 20.0, HIGHEST_SPREAD);

        let triangular = unit(rng) + unit(rng);
        Quote {
            buy_cents: rounded(100.0 * self.mid * (1.0 + self.spread / 2.0)),
            sell_cents: rounded(100.0 * self.mid * (1.0 - self.spread / 2.0)),
            volume: rounded((2_000.0 * ratio * triangular).clamp(100.0, 8_000.0)),
            volatility_hundredths: rounded((150.0 * ratio).clamp(50.0, 500.0)),
        }
    }
}

/// Into the range, as off a mirror; a leap of more than the range ends at its edge.
fn reflect(value: f64, low: f64, high: f64) -> f64 {
    let inside = if value > high {
        2.0 * high - value
    } else if value < low {
        2.0 * low - value
    } else {
        value
    };
    inside.clamp(low, high)
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    fn correlation(pairs: &[(f64, f64)]) -> f64 {
        let n = pairs.len() as f64;
        let (mx, my) = (pairs.iter().map(|p| p.0).sum::<f64>() / n, pairs.iter().map(|p| p.1).sum::<f64>() / n);
        let cov: f64 = pairs.iter().map(|p| (p.0 - mx) * (p.1 - my)).sum();
        let (vx, vy): (f64, f64) =
            (pairs.iter().map(|p| (p.0 - mx).powi(2)).sum(), pairs.iter().map(|p| (p.1 - my).powi(2)).sum());
        cov / (vx * vy).sqrt()
    }

    fn series(model: &str) -> Vec<(f64, f64, f64, f64)> {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut walk = RandomWalk::new(1.0);
        (0..50_000)
            .map(|_| if model == "uniform" { uniform(&mut rng) } else { walk.next(&mut rng) })
            .map(|q| (q.buy_cents as f64, q.sell_cents as f64, q.volume as f64, q.volatility_hundredths as f64))
            .collect()
    }

    #[test]
    fn the_walk_has_what_a_market_has() {
        let walk = series("random-walk");
        let returns: Vec<f64> = walk.windows(2).map(|w| w[1].0 / w[0].0 - 1.0).collect();
        let plain: Vec<_> = returns.windows(2).map(|w| (w[0], w[1])).collect();
        let squared: Vec<_> = returns.windows(2).map(|w| (w[0] * w[0], w[1] * w[1])).collect();
        assert!(correlation(&squared) > 0.08, "volatility clusters: {}", correlation(&squared));
        assert!(correlation(&plain).abs() < 0.1, "returns are not predictable: {}", correlation(&plain));
        let busy: Vec<_> = walk.iter().map(|q| (q.2, q.3)).collect();
        assert!(correlation(&busy) > 0.3, "volume goes with volatility: {}", correlation(&busy));
        let spreads: Vec<f64> = walk.iter().map(|q| (q.0 - q.1) / q.0).collect();
        assert!(spreads.iter().all(|spread| (0.0..0.011).contains(spread)), "a dealer sells dearer than they buy");
        let sides: Vec<_> = walk.iter().map(|q| (q.0, q.1)).collect();
        assert!(correlation(&sides) > 0.99);
    }

    #[test]
    fn the_uniform_model_has_nothing_to_learn() {
        let sides: Vec<_> = series("uniform").iter().map(|q| (q.0, q.1)).collect();
        assert!(correlation(&sides).abs() < 0.02);
    }

    #[test]
    fn both_stay_in_range_at_any_step() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for step in [0.0, 1e-6, 1.0, 3_600.0, 86_400.0 * 365.0] {
            let mut walk = RandomWalk::new(step);
            for _ in 0..5_000 {
                for quote in [walk.next(&mut rng), uniform(&mut rng)] {
                    assert!((1_000_000..=8_000_000).contains(&quote.buy_cents), "{quote:?}");
                    assert!((1_000_000..=8_000_000).contains(&quote.sell_cents), "{quote:?}");
                    assert!((100..=8_000).contains(&quote.volume), "{quote:?}");
                    assert!((50..=500).contains(&quote.volatility_hundredths), "{quote:?}");
                }
            }
        }
    }
}
