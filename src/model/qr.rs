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
//!
//! A row of weight w is reduced as sqrt(w) times itself, ones included: means and variances are then weighted ones.
//! Forgetting scales the whole triangle, so its cost does not depend on how much there is to forget.

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
    /// The sum of the squared weights, for `effective_rows`; 0 in a file of version 1, which knew no weights.
    #[serde(default, deserialize_with = "super::exact::one")]
    weight_squares: f64,
    /// The upper triangle, column after column: entry (i, j) with i <= j stands at j (j + 1) / 2 + i.
    #[serde(deserialize_with = "super::exact::many")]
    triangle: Vec<f64>,
}

impl QrFactor {
    /// Of no rows. `columns` counts the ones and the target: p features make p + 2.
    pub fn empty(columns: usize) -> Self {
        Self { rows: 0, columns, weight_squares: 0.0, triangle: vec![0.0; columns * (columns + 1) / 2] }
    }

    /// From its numbers, as `to_numbers` gave them.
    ///
    /// # Errors
    /// `Corrupt` if they are no factor.
    pub fn from_numbers(columns: usize, numbers: &[f64]) -> Result<Self> {
        let Some((&[rows, weight_squares], triangle)) = numbers.split_first_chunk::<2>() else {
            return Err(Error::corrupt("a QR factor has at least two numbers"));
        };
        let factor = Self { rows: rows as u64, columns, weight_squares, triangle: triangle.to_vec() };
        if factor.triangle.len() == columns * (columns + 1) / 2 {
            return Ok(factor);
        }
        Err(Error::corrupt(format!("{} numbers are no QR factor of {columns} columns", numbers.len())))
    }

    /// All that it is: how many rows (exact up to 2^53), the sum of squared weights, the triangle column after column.
    pub fn to_numbers(&self) -> Vec<f64> {
        let mut numbers = Vec::with_capacity(self.triangle.len() + 2);
        numbers.extend([self.rows as f64, self.weight_squares]);
        numbers.extend(&self.triangle);
        numbers
    }

    /// The sum of the rows' weights: their number, where all weigh 1.
    pub fn weight(&self) -> f64 {
        self.entry(0, 0).powi(2)
    }

    /// How many equally weighted rows say as much: (sum of weights)^2 / sum of squared weights (Kish 1965).
    pub fn effective_rows(&self) -> f64 {
        if self.weight_squares > 0.0 { self.weight().powi(2) / self.weight_squares } else { self.rows as f64 }
    }

    /// Multiplies the weight of every row so far by `factor`, at least 0.
    pub fn scale_weights(&mut self, factor: f64) {
        let root = factor.sqrt();
        self.triangle.iter_mut().for_each(|value| *value *= root);
        self.weight_squares *= factor * factor;
    }

    /// The triangle to solve: with the ones as its first column, or reduced anew without them.
    pub fn triangle(&self, with_ones: bool) -> Triangle {
        if with_ones {
            return Triangle { columns: self.columns, packed: self.triangle.clone() };
        }
        let mut rest = Triangle::zero(self.columns - 1);
        let mut block = vec![0.0; self.columns * rest.columns];
        for (column, j) in block.chunks_exact_mut(self.columns).zip(1..) {
            column[..=j].copy_from_slice(&self.triangle[at(0, j)..=at(j, j)]);
        }
        reduce(&mut rest.packed, rest.columns, &mut block, self.columns, self.columns);
        rest
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
        (selected.rows, selected.weight_squares) = (self.rows, self.weight_squares);
        selected.make_unique();
        selected
    }

    /// Adds one row `[1, x1 .. xp, y]`, all finite, whose numbers are used up. Slower than a block of rows, but the result
    /// depends on nothing but the rows and their order.
    pub fn add_row(&mut self, row: &mut [f64], weight: f64) {
        debug_assert_eq!(row.len(), self.columns, "the ones, the features and the target");
        let root = weight.sqrt();
        row.iter_mut().for_each(|value| *value *= root);
        reduce(&mut self.triangle, self.columns, row, 1, 1);
        self.rows += 1;
        self.weight_squares += weight * weight;
        self.make_unique();
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
        self.weight_squares += other.weight_squares;
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

    /// The bytes behind it.
    pub fn size_bytes(&self) -> usize {
        self.triangle.capacity() * size_of::<f64>()
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

/// An upper triangle T with T'T the cross products of its columns; the last column is the target's.
#[derive(Debug, Clone, PartialEq)]
pub struct Triangle {
    columns: usize,
    packed: Vec<f64>,
}

impl Triangle {
    fn zero(columns: usize) -> Self {
        Self { columns, packed: vec![0.0; columns * (columns + 1) / 2] }
    }

    /// How many columns, the target's included.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Entry (i, j); zero below the diagonal.
    pub fn entry(&self, i: usize, j: usize) -> f64 {
        if i <= j { self.packed[at(i, j)] } else { 0.0 }
    }

    /// The square root of column `j`'s sum of squares.
    pub fn norm(&self, j: usize) -> f64 {
        norm(&self.packed[at(0, j)..=at(j, j)])
    }

    /// Without its first row and column: of `[1, x.., y]`, the triangle of the columns less their means.
    pub fn below_first(&self) -> Self {
        let mut below = Self::zero(self.columns - 1);
        for j in 0..below.columns {
            for i in 0..=j {
                below.packed[at(i, j)] = self.entry(i + 1, j + 1);
            }
        }
        below
    }

    /// The inverse of the triangle without the target, row after row; its diagonal must have no zero. The rows'
    /// products are the entries of (X'X)^-1.
    pub fn inverse(&self) -> Vec<Vec<f64>> {
        let size = self.columns - 1;
        let mut inverse = vec![vec![0.0; size]; size];
        for i in (0..size).rev() {
            let (above, below) = inverse.split_at_mut(i + 1);
            for (column, cell) in above[i].iter_mut().enumerate().skip(i) {
                let known: f64 = (i + 1..=column).map(|k| self.entry(i, k) * below[k - i - 1][column]).sum();
                let unit = if i == column { 1.0 } else { 0.0 };
                *cell = (unit - known) / self.entry(i, i);
            }
        }
        inverse
    }
}

/// Takes rows and keeps their factor.
#[derive(Debug, Clone)]
pub struct QrAccumulator {
    factor: QrFactor,
    /// Column after column, `BLOCK_ROWS` each. The first holds the square roots of the weights.
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
    /// longer than any of `rows`; as are `weights`, not negative. Without weights each row weighs 1.
    pub fn push(&mut self, columns: &[&[f64]], weights: Option<&[f64]>, rows: &[u32]) {
        debug_assert_eq!(columns.len() + 1, self.factor.columns, "the features and the target");
        let mut rest = rows;
        while !rest.is_empty() {
            let (taken, left) = rest.split_at(rest.len().min(BLOCK_ROWS - self.filled));
            let (roots, block) = self.block.split_at_mut(BLOCK_ROWS);
            let roots = &mut roots[self.filled..][..taken.len()];
            match weights {
                None => {
                    roots.fill(1.0);
                    self.factor.weight_squares += taken.len() as f64;
                }
                Some(weights) => {
                    for (root, &row) in roots.iter_mut().zip(taken) {
                        let weight = weights[row as usize];
                        *root = weight.sqrt();
                        self.factor.weight_squares += weight * weight;
                    }
                }
            }
            for (values, block) in columns.iter().zip(block.chunks_exact_mut(BLOCK_ROWS)) {
                for (cell, &row) in block[self.filled..].iter_mut().zip(taken) {
                    *cell = values[row as usize];
                }
                if weights.is_some() {
                    block[self.filled..].iter_mut().zip(&*roots).for_each(|(cell, root)| *cell *= root);
                }
            }
            self.filled += taken.len();
            if self.filled == BLOCK_ROWS {
                self.flush();
            }
            rest = left;
        }
    }

    /// Multiplies the weight of every row so far.
    pub fn scale_weights(&mut self, factor: f64) {
        self.flush();
        self.factor.scale_weights(factor);
    }

    /// Adds the rows of a factor.
    ///
    /// # Errors
    /// As `QrFactor::merge`.
    pub fn merge(&mut self, other: &QrFactor) -> Result<()> {
        self.factor.merge(other)
    }

    /// The bytes behind it.
    pub fn size_bytes(&self) -> usize {
        self.factor.size_bytes() + self.block.capacity() * size_of::<f64>()
    }

    /// The factor of all rows so far.
    pub fn factor(&mut self) -> QrFactor {
        self.flush();
        let mut factor = self.factor.clone();
        factor.make_unique();
        factor
    }

    fn flush(&mut self) {
        let QrFactor { rows, columns, triangle, .. } = &mut self.factor;
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
#[path = "qr_tests.rs"]
mod tests;
