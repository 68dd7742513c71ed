use linfa::dataset::Dataset;
use proptest::prelude::*;
use rand::{Rng, SeedableRng};

use super::*;
use crate::model::qr::QrAccumulator;

/// The factor of features and target, all of one length.
fn factor(columns: &[Vec<f64>]) -> QrFactor {
    let slices: Vec<&[f64]> = columns.iter().map(Vec::as_slice).collect();
    let mut accumulator = QrAccumulator::new(columns.len());
    let rows: Vec<u32> = (0..columns[0].len() as u32).collect();
    accumulator.push(&slices, None, &rows);
    accumulator.factor()
}

fn random(rows: usize, scale: f64, seed: u64) -> Vec<f64> {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..rows).map(|_| scale * (random.random::<f64>() - 0.3)).collect()
}

fn combine(columns: &[&[f64]], with: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    (0..columns[0].len()).map(|row| with(&columns.iter().map(|column| column[row]).collect::<Vec<_>>())).collect()
}

fn names(features: usize) -> Vec<String> {
    ["a", "b", "c", "d", "e", "f"].iter().take(features).map(|name| (*name).to_owned()).collect()
}

fn relative(found: f64, wanted: f64) -> f64 {
    (found - wanted).abs() / wanted.abs().max(f64::MIN_POSITIVE)
}

#[test]
fn finds_the_coefficients_across_scales_of_1e12() {
    let (a, b, noise) = (random(5000, 1e12, 1), random(5000, 1.0, 2), random(5000, 1e-3, 3));
    let target = combine(&[&a, &b, &noise], |x| 5.0 + 3e-12 * x[0] - 2.0 * x[1] + x[2] - 0.2e-3);
    let fit = solve(&factor(&[a, b, target]), Objective::default()).unwrap();
    assert!((fit.intercept - 5.0).abs() < 1e-4, "{fit:?}");
    assert!((fit.coefficients[0] * 1e12 - 3.0).abs() < 1e-4, "{fit:?}");
    assert!((fit.coefficients[1] + 2.0).abs() < 1e-4, "{fit:?}");
}

#[test]
fn without_features_the_intercept_is_the_mean() {
    let fit = solve(&factor(&[vec![1.0, 2.0, 6.0]]), Objective::default()).unwrap();
    assert!((fit.intercept - 3.0).abs() < 1e-15);
    assert!(fit.coefficients.is_empty());
}

#[test]
fn as_many_rows_as_coefficients_fit_exactly() {
    let (a, b) = (vec![1.0, 2.0, 4.0], vec![3.0, 1.0, 1.0]);
    let target = combine(&[&a, &b], |x| 1.0 + 2.0 * x[0] + 3.0 * x[1]);
    let factor = factor(&[a, b, target]);
    assert!(redundant(&factor, true).is_empty());
    let fit = solve(&factor, Objective::default()).unwrap();
    assert!((fit.intercept - 1.0).abs() < 1e-12 && (fit.coefficients[1] - 3.0).abs() < 1e-12, "{fit:?}");
}

#[test]
fn names_constant_and_collinear_features() {
    let (a, b) = (random(800, 5e4, 1), random(800, 10.0, 2));
    let columns = vec![
        a.clone(),
        vec![0.1; 800],
        b.clone(),
        combine(&[&a], |x| (x[0] - 20_000.0) / 40_000.0),
        combine(&[&a, &b], |x| x[0] - 3.0 * x[1] + 7.0),
        random(800, 1e-9, 3),
        random(800, 1.0, 4),
    ];
    let found = redundant(&factor(&columns), true);
    let texts: Vec<(usize, String)> =
        found.iter().map(|found| (found.feature, found.why.describe(&names(6)))).collect();
    assert_eq!(
        texts,
        [
            (1, "it is always 0.1".to_owned()),
            (3, "it equals 2.5e-5 * a - 0.5".to_owned()),
            (4, "it equals a - 3 * c + 7".to_owned()),
        ]
    );
}

#[test]
fn zeros_and_large_constants_are_constant() {
    for value in [0.0, -1.7e12, 1e-30] {
        let columns = vec![vec![value; 1000], random(1000, 1.0, 1)];
        assert_eq!(redundant(&factor(&columns), true).len(), 1, "{value}");
    }
    // A clock in milliseconds over ten seconds is not.
    let clock: Vec<f64> = (0..1000).map(|row| 1.7e12 + 10.0 * f64::from(row)).collect();
    assert!(redundant(&factor(&[clock, random(1000, 1.0, 1)]), true).is_empty());
}

#[test]
fn a_difference_of_prices_is_collinear_despite_rounding() {
    let buy: Vec<f64> = random(500, 5e4, 1).iter().map(|price| (price * 100.0).round() / 100.0).collect();
    let spread: Vec<f64> = random(500, 3.0, 2).iter().map(|price| (price * 100.0).round() / 100.0).collect();
    let sell = combine(&[&buy, &spread], |x| ((x[0] + x[1]) * 100.0).round() / 100.0);
    let found = redundant(&factor(&[buy, sell, spread, random(500, 1.0, 3)]), true);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].why.describe(&names(3)), "it equals -a + b");
}

#[test]
fn finds_copies_of_the_target_alone() {
    let target = random(300, 5e4, 1);
    let copy = combine(&[&target], |x| (x[0] - 20_000.0) / 40_000.0);
    let near = combine(&[&target, &random(300, 1.0, 2)], |x| x[0] + x[1] * 50.0);
    let found = copies_of_target(&factor(&[near, copy, random(300, 1.0, 3), target]), f64::INFINITY);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].feature, 1);
    assert_eq!(linear(&[(found[0].slope, "change_24h")], found[0].offset), "40000 * change_24h + 20000");
}

#[test]
fn inflation_of_two_features_follows_from_their_correlation() {
    let (a, noise) = (random(2000, 1.0, 1), random(2000, 0.1, 2));
    let b = combine(&[&a, &noise], |x| x[0] + x[1]);
    let factor = factor(&[a, b, random(2000, 1.0, 3)]);
    let pair = factor.select(&[1, 2]);
    let rest = pair.entry(2, 2) / pair.centred_norm(2);
    for inflation in variance_inflation(&factor, true) {
        assert!(relative(inflation, 1.0 / (rest * rest)) < 1e-9);
    }
}

#[test]
fn writes_combinations() {
    assert_eq!(linear(&[], 0.0), "0");
    assert_eq!(linear(&[(-1.0, "a"), (0.5, "b")], -2.0), "-a + 0.5 * b - 2");
    assert_eq!(linear(&[(1e-9, "a")], 0.0), "1e-9 * a");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// linfa on all rows is the reference, with its own intercept.
    #[test]
    fn agrees_with_linfa_on_all_rows(rows in 12_usize..400, features in 0_usize..6, seed in 0_u64..1000) {
        let mut columns: Vec<Vec<f64>> =
            (0..features).map(|k| random(rows, 10_f64.powi(k as i32 * 2 - 4), seed + k as u64)).collect();
        columns.push(random(rows, 100.0, seed + 99));
        let fit = solve(&factor(&columns), Objective::default()).unwrap();
        let x = Array2::from_shape_fn((rows, features), |(i, j)| columns[j][i]);
        let y = Array1::from(columns[features].clone());
        let reference = LinearRegression::new().fit(&Dataset::new(x, y)).unwrap();
        prop_assert!(relative(fit.intercept, reference.intercept()) < 1e-9);
        for (found, wanted) in fit.coefficients.iter().zip(reference.params()) {
            prop_assert!(relative(*found, *wanted) < 1e-8, "{found} {wanted}");
        }
    }
}

/// Through the origin a constant is a feature like another; only multiples are redundant.
#[test]
fn without_an_intercept_a_constant_counts() {
    let (a, b) = (random(300, 5.0, 1), vec![2.0; 300]);
    let target = combine(&[&a, &random(300, 1e-9, 2)], |x| 3.0 * x[0] + 8.0 + x[1]);
    let double = combine(&[&a], |x| -2.0 * x[0]);
    let objective = Objective { fit_intercept: false, ..Objective::default() };
    let found = redundant(&factor(&[a.clone(), b.clone(), double, vec![0.0; 300], target.clone()]), false);
    let texts: Vec<String> = found.iter().map(|found| found.why.describe(&names(4))).collect();
    assert_eq!(texts, ["it equals -2 * a", "it is always 0"]);
    let fit = solve(&factor(&[a, b, target]), objective).unwrap();
    assert!(relative(fit.coefficients[0], 3.0) < 1e-7 && relative(fit.coefficients[1], 4.0) < 1e-7, "{fit:?}");
    assert_eq!(fit.intercept, 0.0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Coefficients, not triangles: whatever the chunks, the order of the rows and the tree of merges.
    #[test]
    fn any_chunks_order_and_merge_tree_give_the_same_coefficients(
        rows in 30_usize..600, features in 0_usize..4, cuts in prop::collection::vec(0.0_f64..1.0, 0..6), seed in any::<u64>(),
    ) {
        use rand::seq::SliceRandom;
        let scales = [1.0, 1e12, 1e-3, 40.0];
        let mut columns: Vec<Vec<f64>> = (0..features).map(|k| random(rows, scales[k], seed.wrapping_add(k as u64))).collect();
        let noise = random(rows, 1.0, seed.wrapping_add(77));
        let sum = |row: usize| columns.iter().zip(scales).map(|(column, scale)| 2.0 * column[row] / scale).sum::<f64>();
        columns.push((0..rows).map(|row| 5.0 + sum(row) + noise[row]).collect());
        let wanted = solve(&factor(&columns), Objective::default()).unwrap();
        let slices: Vec<&[f64]> = columns.iter().map(Vec::as_slice).collect();
        let mut order: Vec<u32> = (0..rows as u32).collect();
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        order.shuffle(&mut random);
        let mut edges: Vec<usize> = cuts.iter().map(|cut| (cut * rows as f64) as usize).collect();
        edges.extend([0, rows]);
        edges.sort_unstable();
        let mut parts: Vec<QrFactor> = edges.windows(2).map(|edge| {
            let mut accumulator = QrAccumulator::new(slices.len());
            order[edge[0]..edge[1]].chunks(17).for_each(|rows| accumulator.push(&slices, None, rows));
            accumulator.factor()
        }).collect();
        while parts.len() > 1 {
            let part = parts.swap_remove(random.random_range(0..parts.len()));
            let other = random.random_range(0..parts.len());
            parts[other].merge(&part).unwrap();
        }
        let found = solve(&parts[0], Objective::default()).unwrap();
        prop_assert!((found.intercept - wanted.intercept).abs() < 1e-9 * wanted.intercept.abs().max(1.0));
        for (found, wanted) in found.coefficients.iter().zip(&wanted.coefficients) {
            prop_assert!(relative(*found, *wanted) < 1e-9, "{found} {wanted}");
        }
    }
}
