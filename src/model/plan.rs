//! How a model is tested: which rows train, which test, and which do neither.

use serde::{Deserialize, Serialize};

use super::split::Split;
use crate::error::{Error, Result};

/// The most folds.
const FOLDS_MAX: usize = 100;

/// How many places at equal distances `Marks` remembers at most.
const MARKS_MAX: usize = 8192;

/// How to hold rows back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Evaluate {
    /// A seeded random share; see `Split`.
    Random { seed: u64, test_fraction: f64 },
    /// The last share of the rows, in the query's order.
    Chronological { test_fraction: f64 },
    /// Rolling origin: the rows are cut into folds + 1 stretches; each but the first is predicted by a model of all
    /// rows before it. The model that is kept is trained on all rows.
    WalkForward { folds: usize },
}

impl Evaluate {
    /// Checks the numbers.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn check(self) -> Result<Self> {
        match self {
            Self::Random { seed, test_fraction } => Split::new(seed, test_fraction).map(|_| self),
            Self::Chronological { test_fraction } if test_fraction > 0.0 && test_fraction < 1.0 => Ok(self),
            Self::Chronological { test_fraction } => {
                Err(Error::invalid(format!("the test fraction {test_fraction} is not between 0 and 1"))
                    .help("0.2 trains on the first 80 % of the rows and tests on the rest"))
            }
            Self::WalkForward { folds } if (1..=FOLDS_MAX).contains(&folds) => Ok(self),
            Self::WalkForward { folds } => {
                Err(Error::invalid(format!("{folds} folds are not between 1 and {FOLDS_MAX}")))
            }
        }
    }

    /// What a model's file calls it.
    pub fn name(self) -> String {
        match self {
            Self::Random { .. } => Split::NAME.to_owned(),
            Self::Chronological { .. } => "chronological".to_owned(),
            Self::WalkForward { folds } => format!("walk-forward, {folds} folds"),
        }
    }

    /// The seed, or 0.
    pub fn seed(self) -> u64 {
        if let Self::Random { seed, .. } = self { seed } else { 0 }
    }

    /// The share of rows that are tested on and not trained on.
    pub fn test_fraction(self) -> f64 {
        match self {
            Self::Random { test_fraction, .. } | Self::Chronological { test_fraction } => test_fraction,
            Self::WalkForward { .. } => 0.0,
        }
    }
}

/// Where an ordered evaluation cuts: the first row (from 0) after it, and its time in microseconds, if known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    pub row: u64,
    pub time_us: Option<i64>,
}

/// Every so many rows the time of one: places to cut at, without keeping all rows. Fixed size, whatever the rows.
#[derive(Debug)]
pub struct Marks {
    every: u64,
    rows: u64,
    times: Vec<Option<i64>>,
}

impl Default for Marks {
    fn default() -> Self {
        Self { every: 1, rows: 0, times: Vec::new() }
    }
}

impl Marks {
    /// The next row's time.
    pub fn add(&mut self, time_us: Option<i64>) {
        if self.rows.is_multiple_of(self.every) {
            if self.times.len() == MARKS_MAX {
                let mut keep = false;
                self.times.retain(|_| {
                    keep = !keep;
                    keep
                });
                self.every *= 2;
            }
            if self.rows.is_multiple_of(self.every) {
                self.times.push(time_us);
            }
        }
        self.rows += 1;
    }

    /// The mark at or before row `row`.
    fn cut(&self, row: u64) -> Cut {
        let place = ((row / self.every) as usize).min(self.times.len().saturating_sub(1));
        Cut { row: place as u64 * self.every, time_us: self.times.get(place).copied().flatten() }
    }
}

/// Which row belongs to which part. Each part's rows are reduced for themselves, and models are fitted to sums of
/// parts: so any number of folds costs two passes over the rows.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// Part 0 trains, part 1 tests.
    Random(Split),
    /// Between cuts b - 1 and b: part 2b, and part 2b + 1 for those of its rows whose target was not yet known at cut b.
    Ordered { cuts: Vec<Cut>, delay_us: i64, keep_all: bool },
}

/// Parts by their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fold {
    pub train: Vec<usize>,
    pub test: Vec<usize>,
}

impl Plan {
    /// For ordered rows. `delay_us`: how long after a row's time its target is known (the horizon).
    ///
    /// # Errors
    /// `Invalid` if there are too few rows, or if the delay is longer than a stretch between two cuts.
    pub fn ordered(evaluate: Evaluate, marks: &Marks, delay_us: i64) -> Result<Self> {
        let share = |part: f64| marks.cut((marks.rows as f64 * part).round() as u64);
        let (cuts, keep_all): (Vec<Cut>, bool) = match evaluate {
            Evaluate::Random { seed, test_fraction } => return Ok(Self::Random(Split::new(seed, test_fraction)?)),
            Evaluate::Chronological { test_fraction } => (vec![share(1.0 - test_fraction)], false),
            Evaluate::WalkForward { folds } => {
                ((1..=folds).map(|at| share(at as f64 / (folds + 1) as f64)).collect(), true)
            }
        };
        let rising = cuts.windows(2).all(|pair| pair[0].row < pair[1].row);
        if !rising || cuts.first().is_none_or(|cut| cut.row == 0) {
            return Err(Error::invalid(format!("{} rows are too few to be cut into {}", marks.rows, cuts.len() + 1))
                .help("take more rows, or fewer --folds"));
        }
        let too_short = cuts.windows(2).any(|pair| match (pair[0].time_us, pair[1].time_us) {
            (Some(from), Some(to)) => to - from < delay_us,
            _ => false,
        });
        if too_short {
            return Err(Error::invalid("the horizon is longer than one fold: a fold's targets are known too late")
                .help("take fewer --folds, or rows over a longer time"));
        }
        Ok(Self::Ordered { cuts, delay_us, keep_all })
    }

    /// How many parts there are.
    pub fn parts(&self) -> usize {
        match self {
            Self::Random(_) => 2,
            Self::Ordered { cuts, .. } => 2 * (cuts.len() + 1),
        }
    }

    /// The part of row `row` (from 0, in the query's order).
    pub fn part_of(&self, row: u64, time_us: Option<i64>) -> usize {
        match self {
            Self::Random(split) => usize::from(split.is_test(row)),
            Self::Ordered { cuts, delay_us, .. } => {
                let block = cuts.partition_point(|cut| cut.row <= row);
                let next = cuts.get(block).and_then(|cut| cut.time_us);
                let unknown = match (time_us, next) {
                    (Some(time), Some(next)) => *delay_us > 0 && time.saturating_add(*delay_us) > next,
                    _ => false,
                };
                2 * block + usize::from(unknown)
            }
        }
    }

    /// What is trained on what, to be tested on what.
    pub fn folds(&self) -> Vec<Fold> {
        match self {
            Self::Random(_) => vec![Fold { train: vec![0], test: vec![1] }],
            Self::Ordered { cuts, .. } => (1..=cuts.len())
                .map(|block| Fold {
                    // The rows just before the cut whose targets came after it are left out, here and only here.
                    train: (0..2 * block - 1).collect(),
                    test: vec![2 * block, 2 * block + 1],
                })
                .collect(),
        }
    }

    /// What the model that is kept is trained on.
    pub fn kept(&self) -> Vec<usize> {
        match self {
            Self::Ordered { keep_all: true, .. } => (0..self.parts()).collect(),
            _ => self.folds().swap_remove(0).train,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(rows: i64) -> Marks {
        let mut marks = Marks::default();
        (0..rows).for_each(|row| marks.add(Some(row * 10)));
        marks
    }

    #[test]
    fn cuts_where_it_says() {
        let plan = Plan::ordered(Evaluate::Chronological { test_fraction: 0.2 }, &marks(1000), 0).unwrap();
        let Plan::Ordered { cuts, .. } = &plan else { panic!("{plan:?}") };
        assert_eq!(cuts, &[Cut { row: 800, time_us: Some(8000) }]);
        assert_eq!((plan.part_of(799, Some(7990)), plan.part_of(800, Some(8000))), (0, 2));
        assert_eq!(plan.kept(), [0]);
        // A million rows: 8192 marks at most, so a cut is off by a thousandth at most, and always on a known time.
        let plan = Plan::ordered(Evaluate::WalkForward { folds: 3 }, &marks(1_000_000), 0).unwrap();
        let Plan::Ordered { cuts, .. } = &plan else { panic!("{plan:?}") };
        for (cut, wanted) in cuts.iter().zip([250_000_u64, 500_000, 750_000]) {
            assert!(cut.row.abs_diff(wanted) < 500 && cut.time_us == Some(cut.row as i64 * 10), "{cut:?}");
        }
        assert_eq!(plan.kept(), (0..8).collect::<Vec<_>>());
    }

    /// At no origin does a fold train on a row whose target was known only later.
    #[test]
    fn no_fold_knows_a_later_target() {
        let plan = Plan::ordered(Evaluate::WalkForward { folds: 4 }, &marks(500), 70).unwrap();
        let Plan::Ordered { cuts, .. } = &plan else { panic!("{plan:?}") };
        for (fold, cut) in plan.folds().iter().zip(cuts) {
            let mut trained = 0;
            for row in 0..500 {
                let part = plan.part_of(row, Some(row as i64 * 10));
                assert!(!(fold.train.contains(&part) && fold.test.contains(&part)));
                if fold.train.contains(&part) {
                    trained += 1;
                    assert!(row as i64 * 10 + 70 <= cut.time_us.unwrap(), "row {row} of {cut:?}");
                }
            }
            assert_eq!(trained, cut.row - 6, "nor is more left out than that");
        }
        assert!(Plan::ordered(Evaluate::WalkForward { folds: 4 }, &marks(500), 5000).is_err());
        assert!(Plan::ordered(Evaluate::WalkForward { folds: 4 }, &marks(3), 0).is_err());
    }
}
