//! Least squares over any number of rows in fixed memory.
//!
//! The rows `[1, x1 .. xp, y]` are reduced, a block at a time, to the triangle R of their QR factorisation:
//! (p + 2)(p + 3) / 2 numbers that hold everything a linear regression needs. Two triangles merge into one, in any
//! order, so the same code serves one thread, several, or a group of windows. (Tall and skinny QR: Demmel, Grigori,
//! Hoemmen, Langou, SIAM J. Sci. Comput. 34(1), 2012.)
//!
//! Why not the normal equations, which are simpler: they square the condition number. With prices near 1e5 beside
//! volumes near 1e12 they lose the second digit of a coefficient, where this keeps nine.
//!
//! The column of ones comes first. So the rows of R below the first are the factor of the *centred* columns, and
//! means, variances and correlations can be read off.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Rows that are reduced at a time: with 8 columns a block is 16 KB, half of a small L1 cache.
pub const BLOCK_ROWS: usize = 256;

/// The most columns (ones, features and target) of a factor: its triangle then has a million numbers, 8 MB.
pub const COLUMNS_MAX: usize = 1_448;

/// Sums of squares below this are taken for zero: their reciprocals would overflow.
const SQUARES_MIN: f64 = 1e-280;

/// The triangle R of `[1, x1 .. xp, y]`. The diagonal is not negative, which makes R unique.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QrFactor {
    /// How many rows were reduced.
    rows: u64,
    /// How many columns, the ones and the target included.
    columns: usize,
    /// The upper triangle, column after column: entry (i, j) with i <= j stands at j (j + 1) / 2 + i.
    #[serde(deserialize_with = "super::exact::many")]
    triangle: Vec<f64>,
}

impl QrFactor {
    /// Of no rows. `columns` counts the ones and the target: p features make p + 2.
    pub fn empty(columns: usize) -> Self {
        Self { rows: 0, columns, triangle: vec![0.0; columns * (columns + 1) / 2] }
    }

    /// How many rows were reduced.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// How many columns, the ones and the target included.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Entry (i, j) of R; zero below the diagonal.
    pub fn entry(&self, i: usize, j: usize) -> f64 {
        if i <= j { self.triangle[at(i, j)] } else { 0.0 }
    }

    /// The mean of column `j`; NaN without rows.
    pub fn mean(&self, j: usize) -> f64 {
        self.entry(0, j) / self.entry(0, 0)
    }

    /// The square root of column `j`'s sum of squares.
    pub fn norm(&self, j: usize) -> f64 {
        norm(&self.triangle[at(0, j)..=at(j, j)])
    }

    /// The square root of the sum of squares about the mean: sqrt(n) times the population's standard deviation.
    pub fn centred_norm(&self, j: usize) -> f64 {
        if j == 0 { 0.0 } else { norm(&self.triangle[at(1, j)..=at(j, j)]) }
    }

    /// The sum of squared residuals that `intercept` and `coefficients` (one per feature) leave on these rows: exact,
    /// without the rows.
    pub fn residual_squares(&self, intercept: f64, coefficients: &[f64]) -> f64 {
        let target = self.columns - 1;
        let residual = |i: usize| {
            let fitted: f64 = (1..target).map(|j| self.entry(i, j) * coefficients[j - 1]).sum();
            self.entry(i, target) - fitted - self.entry(i, 0) * intercept
        };
        (0..self.columns).map(|i| residual(i).powi(2)).sum()
    }

    /// The factor of the ones and the columns in `kept` (never 0), in that order: as if only they had been reduced.
    pub fn select(&self, kept: &[usize]) -> Self {
        let mut selected = Self::empty(kept.len() + 1);
        let mut block = vec![0.0; self.columns * selected.columns];
        for (column, &j) in block.chunks_exact_mut(self.columns).zip(std::iter::once(&0).chain(kept)) {
            column[..=j].copy_from_slice(&self.triangle[at(0, j)..=at(j, j)]);
        }
        reduce(&mut selected.triangle, selected.columns, &mut block, self.columns, self.columns);
        selected.rows = self.rows;
        selected.make_unique();
        selected
    }

    /// Adds the rows of another factor.
    ///
    /// # Errors
    /// `Internal` if it has another number of columns.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if other.columns != self.columns {
            return Err(Error::internal(format!(
                "a QR factor of {} columns does not merge with one of {}",
                self.columns, other.columns
            )));
        }
        let mut block = vec![0.0; self.columns * self.columns];
        for (j, column) in block.chunks_exact_mut(self.columns).enumerate() {
            column[..=j].copy_from_slice(&other.triangle[at(0, j)..=at(j, j)]);
        }
        reduce(&mut self.triangle, self.columns, &mut block, self.columns, self.columns);
        self.rows += other.rows;
        self.make_unique();
        Ok(())
    }

    /// Whether all is as it must be: for a factor that was read from a file.
    ///
    /// # Errors
    /// `Corrupt`, saying what is wrong.
    pub fn check(&self) -> Result<()> {
        if self.columns < 2 || self.columns > COLUMNS_MAX {
            return Err(Error::corrupt(format!("a QR factor cannot have {} columns", self.columns)));
        }
        let wanted = self.columns * (self.columns + 1) / 2;
        if self.triangle.len() != wanted {
            let found = self.triangle.len();
            return Err(Error::corrupt(format!("the QR factor has {found} numbers instead of {wanted}")));
        }
        if !self.is_finite() {
            return Err(Error::corrupt("the QR factor has a number that is not finite"));
        }
        Ok(())
    }

    /// False once a sum of squares has overflowed (values beyond 1e154).
    pub fn is_finite(&self) -> bool {
        self.triangle.iter().all(|value| value.is_finite())
    }

    /// Flips rows so that no diagonal entry is negative: R is unique but for these signs.
    fn make_unique(&mut self) {
        for i in 0..self.columns {
            if self.triangle[at(i, i)].is_sign_negative() {
                for j in i..self.columns {
                    let entry = &mut self.triangle[at(i, j)];
                    *entry = -*entry;
                }
            }
        }
    }
}

/// Takes rows and keeps their factor.
#[derive(Debug, Clone)]
pub struct QrAccumulator {
    factor: QrFactor,
    /// Column after column, `BLOCK_ROWS` each. The first holds ones, for ever: no reflection writes to it.
    block: Vec<f64>,
    filled: usize,
}

impl QrAccumulator {
    /// For `values` columns beside the ones: p features and the target.
    pub fn new(values: usize) -> Self {
        let columns = values + 1;
        Self { factor: QrFactor::empty(columns), block: vec![1.0; columns * BLOCK_ROWS], filled: 0 }
    }

    /// Adds the rows whose numbers are in `rows`. `columns`: the features in order, then the target, all finite, all
    /// longer than any of `rows`.
    pub fn push(&mut self, columns: &[&[f64]], rows: &[u32]) {
        debug_assert_eq!(columns.len() + 1, self.factor.columns, "the features and the target");
        let mut rest = rows;
        while !rest.is_empty() {
            let (taken, left) = rest.split_at(rest.len().min(BLOCK_ROWS - self.filled));
            for (values, block) in columns.iter().zip(self.block.chunks_exact_mut(BLOCK_ROWS).skip(1)) {
                for (cell, &row) in block[self.filled..].iter_mut().zip(taken) {
                    *cell = values[row as usize];
                }
            }
            self.filled += taken.len();
            if self.filled == BLOCK_ROWS {
                self.flush();
            }
            rest = left;
        }
    }

    /// The factor of all rows so far.
    pub fn factor(&mut self) -> QrFactor {
        self.flush();
        let mut factor = self.factor.clone();
        factor.make_unique();
        factor
    }

    fn flush(&mut self) {
        let QrFactor { rows, columns, triangle } = &mut self.factor;
        reduce(triangle, *columns, &mut self.block, BLOCK_ROWS, self.filled);
        *rows += self.filled as u64;
        self.filled = 0;
    }
}

/// Where entry (i, j), i <= j, of a packed upper triangle stands.
fn at(i: usize, j: usize) -> usize {
    j * (j + 1) / 2 + i
}

/// Replaces the triangle by that of itself with the first `rows` rows of `block` below it. `block` is column-major
/// with `stride` places per column, and is used up, its first column excepted.
///
/// Householder reflections, one per column: each touches one row of the triangle and the block, because what stands
/// between them is zero.
fn reduce(triangle: &mut [f64], columns: usize, block: &mut [f64], stride: usize, rows: usize) {
    for j in 0..columns {
        let (head, tail) = block.split_at_mut((j + 1) * stride);
        let vector = &head[j * stride..][..rows];
        let squares = dot(vector, vector);
        if squares < SQUARES_MIN {
            continue;
        }
        let pivot = triangle[at(j, j)];
        let length = pivot.hypot(squares.sqrt());
        // The sign that adds, not the one that cancels.
        let reflected = if pivot > 0.0 { -length } else { length };
        let first = pivot - reflected;
        triangle[at(j, j)] = reflected;
        let scale = 1.0 / (reflected * first);
        for (l, column) in (j + 1..columns).zip(tail.chunks_exact_mut(stride)) {
            let column = &mut column[..rows];
            let entry = &mut triangle[at(j, l)];
            let step = (first * *entry + dot(vector, column)) * scale;
            *entry += step * first;
            for (cell, value) in column.iter_mut().zip(vector) {
                *cell += step * value;
            }
        }
    }
}

/// The inner product, in `LANES` sums so that the compiler can use vector instructions.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    const LANES: usize = 8;
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (x, y) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f64>() + rest
}

/// The Euclidean norm, without the overflow of a plain sum of squares.
fn norm(values: &[f64]) -> f64 {
    let largest = values.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    if largest == 0.0 || !largest.is_finite() {
        return largest;
    }
    largest * values.iter().map(|value| (value / largest).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};

    /// Columns x1 .. xp, y with y a known combination plus noise; each column in its own scale.
    pub(crate) fn columns(rows: usize, scales: &[f64], seed: u64) -> Vec<Vec<f64>> {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let mut all: Vec<Vec<f64>> =
            scales.iter().map(|scale| (0..rows).map(|_| scale * (3.0 + random.random::<f64>())).collect()).collect();
        let noise = |random: &mut rand_chacha::ChaCha8Rng| random.random::<f64>() - 0.5;
        let target = (0..rows)
            .map(|row| {
                let sum: f64 = all.iter().zip(scales).zip(1..).map(|((x, s), k)| f64::from(k) * x[row] / s).sum();
                7.0 + sum + noise(&mut random)
            })
            .collect();
        all.push(target);
        all
    }

    fn factor_of(columns: &[Vec<f64>], rows: std::ops::Range<usize>, chunk: usize) -> QrFactor {
        let slices: Vec<&[f64]> = columns.iter().map(Vec::as_slice).collect();
        let mut accumulator = QrAccumulator::new(columns.len());
        let numbers: Vec<u32> = rows.map(|row| row as u32).collect();
        for numbers in numbers.chunks(chunk.max(1)) {
            accumulator.push(&slices, numbers);
        }
        accumulator.factor()
    }

    fn close(a: &QrFactor, b: &QrFactor) -> bool {
        a.rows == b.rows
            && (0..a.columns).all(|j| {
                (0..=j).all(|i| (a.entry(i, j) - b.entry(i, j)).abs() <= 1e-11 * a.norm(j).max(f64::MIN_POSITIVE))
            })
    }

    #[test]
    fn the_triangle_is_that_of_the_rows() {
        let columns = columns(1000, &[1.0, 1e6, 1e-6], 1);
        let factor = factor_of(&columns, 0..1000, 1000);
        let full: Vec<Vec<f64>> = std::iter::once(vec![1.0; 1000]).chain(columns).collect();
        for (j, right) in full.iter().enumerate() {
            for (i, left) in full.iter().enumerate().take(j + 1) {
                let wanted: f64 = left.iter().zip(right).map(|(a, b)| a * b).sum();
                let found: f64 = (0..=i).map(|k| factor.entry(k, i) * factor.entry(k, j)).sum();
                assert!((wanted - found).abs() <= 1e-12 * wanted.abs(), "{i} {j}: {wanted} {found}");
            }
        }
        assert!((0..5).all(|i| factor.entry(i, i) > 0.0));
        assert!((factor.mean(1) - full[1].iter().sum::<f64>() / 1000.0).abs() < 1e-12);
    }

    #[test]
    fn reads_off_the_centred_columns() {
        let column = vec![1e6 + 1.0, 1e6 + 2.0, 1e6 + 3.0, 1e6 + 6.0];
        let factor = factor_of(&[column, vec![0.0; 4]], 0..4, 4);
        assert!((factor.centred_norm(1) - 14.0_f64.sqrt()).abs() < 1e-8);
        assert!((factor.mean(1) - 1_000_003.0).abs() < 1e-8);
        assert_eq!(factor.centred_norm(2), 0.0);
    }

    #[test]
    fn residual_squares_need_no_rows() {
        let columns = columns(500, &[1.0, 10.0], 2);
        let factor = factor_of(&columns, 0..500, 77);
        let (intercept, coefficients) = (6.5, [0.9, 0.21]);
        let wanted: f64 = (0..500)
            .map(|row| {
                let fitted = intercept + coefficients[0] * columns[0][row] + coefficients[1] * columns[1][row];
                (columns[2][row] - fitted).powi(2)
            })
            .sum();
        let found = factor.residual_squares(intercept, &coefficients);
        assert!((wanted - found).abs() < 1e-9 * wanted, "{wanted} {found}");
    }

    #[test]
    fn a_selection_is_the_factor_of_the_selected() {
        let columns = columns(300, &[1.0, 2.0, 3.0], 3);
        let whole = factor_of(&columns, 0..300, 300);
        let wanted = factor_of(&[columns[2].clone(), columns[0].clone(), columns[3].clone()], 0..300, 300);
        assert!(close(&whole.select(&[3, 1, 4]), &wanted));
    }

    #[test]
    fn refuses_another_shape_and_a_torn_triangle() {
        assert!(QrFactor::empty(3).merge(&QrFactor::empty(4)).is_err());
        assert!(QrFactor { rows: 1, columns: 3, triangle: vec![1.0; 5] }.check().is_err());
        assert!(QrFactor { rows: 1, columns: 2, triangle: vec![1.0, f64::NAN, 1.0] }.check().is_err());
        assert!(QrFactor::empty(usize::from(u16::MAX)).check().is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn any_chunks_and_any_merge_tree_agree(
            rows in 1_usize..1500, features in 0_usize..5, chunk in 1_usize..700, seed in any::<u64>(),
            cuts in prop::collection::vec(0.0_f64..1.0, 0..6),
        ) {
            let scales: Vec<f64> = [1.0, 1e12, 1e-3, 40.0].into_iter().take(features).collect();
            let columns = columns(rows, &scales, seed);
            let whole = factor_of(&columns, 0..rows, rows);
            prop_assert!(close(&whole, &factor_of(&columns, 0..rows, chunk)));
            let mut edges: Vec<usize> = cuts.iter().map(|cut| (cut * rows as f64) as usize).collect();
            edges.extend([0, rows]);
            edges.sort_unstable();
            let mut parts: Vec<QrFactor> =
                edges.windows(2).map(|edge| factor_of(&columns, edge[0]..edge[1], chunk)).collect();
            let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            while parts.len() > 1 {
                let part = parts.swap_remove(random.random_range(0..parts.len()));
                let other = random.random_range(0..parts.len());
                parts[other].merge(&part).unwrap();
            }
            prop_assert!(close(&whole, &parts[0]), "{whole:?} {parts:?}");
        }
    }
}
