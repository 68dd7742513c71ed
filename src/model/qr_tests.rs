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
        accumulator.push(&slices, None, numbers);
    }
    accumulator.factor()
}

fn close(a: &QrFactor, b: &QrFactor) -> bool {
    a.rows == b.rows
        && (0..a.columns)
            .all(|j| (0..=j).all(|i| (a.entry(i, j) - b.entry(i, j)).abs() <= 1e-11 * a.norm(j).max(f64::MIN_POSITIVE)))
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
    assert!(QrFactor { rows: 1, columns: 3, weight_squares: 1.0, triangle: vec![1.0; 5] }.check().is_err());
    assert!(QrFactor { rows: 1, columns: 2, weight_squares: 1.0, triangle: vec![1.0, f64::NAN, 1.0] }.check().is_err());
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
