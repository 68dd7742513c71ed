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
    accumulator.push(&slices, &rows);
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
    let fit = solve(&factor(&[a, b, target])).unwrap();
    assert!((fit.intercept - 5.0).abs() < 1e-4, "{fit:?}");
    assert!((fit.coefficients[0] * 1e12 - 3.0).abs() < 1e-4, "{fit:?}");
    assert!((fit.coefficients[1] + 2.0).abs() < 1e-4, "{fit:?}");
}

#[test]
fn without_features_the_intercept_is_the_mean() {
    let fit = solve(&factor(&[vec![1.0, 2.0, 6.0]])).unwrap();
    assert!((fit.intercept - 3.0).abs() < 1e-15);
    assert!(fit.coefficients.is_empty());
}

#[test]
fn as_many_rows_as_coefficients_fit_exactly() {
    let (a, b) = (vec![1.0, 2.0, 4.0], vec![3.0, 1.0, 1.0]);
    let target = combine(&[&a, &b], |x| 1.0 + 2.0 * x[0] + 3.0 * x[1]);
    let factor = factor(&[a, b, target]);
    assert!(redundant(&factor).is_empty());
    let fit = solve(&factor).unwrap();
    assert!((fit.intercept - 1.0).abs() < 1e-12 && (fit.coefficients[1] - 3.0).abs() < 1e-12, "{fit:?}");
}

/// Longley (1967), a certified problem of NIST's Statistical Reference Datasets, "higher difficulty": six features
/// that nearly determine one another. <https://www.itl.nist.gov/div898/strd/lls/data/Longley.shtml>
#[test]
fn longley_to_the_certified_digits() {
    let rows: [[f64; 7]; 16] = [
        [83.0, 234_289.0, 2356.0, 1590.0, 107_608.0, 1947.0, 60_323.0],
        [88.5, 259_426.0, 2325.0, 1456.0, 108_632.0, 1948.0, 61_122.0],
        [88.2, 258_054.0, 3682.0, 1616.0, 109_773.0, 1949.0, 60_171.0],
        [89.5, 284_599.0, 3351.0, 1650.0, 110_929.0, 1950.0, 61_187.0],
        [96.2, 328_975.0, 2099.0, 3099.0, 112_075.0, 1951.0, 63_221.0],
        [98.1, 346_999.0, 1932.0, 3594.0, 113_270.0, 1952.0, 63_639.0],
        [99.0, 365_385.0, 1870.0, 3547.0, 115_094.0, 1953.0, 64_989.0],
        [100.0, 363_112.0, 3578.0, 3350.0, 116_219.0, 1954.0, 63_761.0],
        [101.2, 397_469.0, 2904.0, 3048.0, 117_388.0, 1955.0, 66_019.0],
        [104.6, 419_180.0, 2822.0, 2857.0, 118_734.0, 1956.0, 67_857.0],
        [108.4, 442_769.0, 2936.0, 2798.0, 120_445.0, 1957.0, 68_169.0],
        [110.8, 444_546.0, 4681.0, 2637.0, 121_950.0, 1958.0, 66_513.0],
        [112.6, 482_704.0, 3813.0, 2552.0, 123_366.0, 1959.0, 68_655.0],
        [114.2, 502_601.0, 3931.0, 2514.0, 125_368.0, 1960.0, 69_564.0],
        [115.7, 518_173.0, 4806.0, 2572.0, 127_852.0, 1961.0, 69_331.0],
        [116.9, 554_894.0, 4007.0, 2827.0, 130_081.0, 1962.0, 70_551.0],
    ];
    let certified = [
        -3_482_258.634_595_82,
        15.061_872_271_376_1,
        -0.358_191_792_925_910E-01,
        -2.020_229_803_816_83,
        -1.033_226_867_173_59,
        -0.511_041_056_535_807E-01,
        1_829.151_464_614_10,
    ];
    let columns: Vec<Vec<f64>> = (0..7).map(|column| rows.iter().map(|row| row[column]).collect()).collect();
    let factor = factor(&columns);
    assert!(redundant(&factor).is_empty());
    let fit = solve(&factor).unwrap();
    let found: Vec<f64> = std::iter::once(fit.intercept).chain(fit.coefficients).collect();
    for (found, wanted) in found.iter().zip(certified) {
        assert!(relative(*found, wanted) < 1e-9, "{found} {wanted}");
    }
    let deviation = (factor.entry(7, 7).powi(2) / 9.0).sqrt();
    assert!(relative(deviation, 304.854_073_561_965) < 1e-10, "{deviation}");
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
    let found = redundant(&factor(&columns));
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
        assert_eq!(redundant(&factor(&columns)).len(), 1, "{value}");
    }
    // A clock in milliseconds over ten seconds is not.
    let clock: Vec<f64> = (0..1000).map(|row| 1.7e12 + 10.0 * f64::from(row)).collect();
    assert!(redundant(&factor(&[clock, random(1000, 1.0, 1)])).is_empty());
}

#[test]
fn a_difference_of_prices_is_collinear_despite_rounding() {
    let buy: Vec<f64> = random(500, 5e4, 1).iter().map(|price| (price * 100.0).round() / 100.0).collect();
    let spread: Vec<f64> = random(500, 3.0, 2).iter().map(|price| (price * 100.0).round() / 100.0).collect();
    let sell = combine(&[&buy, &spread], |x| ((x[0] + x[1]) * 100.0).round() / 100.0);
    let found = redundant(&factor(&[buy, sell, spread, random(500, 1.0, 3)]));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].why.describe(&names(3)), "it equals -a + b");
}

#[test]
fn finds_copies_of_the_target_alone() {
    let target = random(300, 5e4, 1);
    let copy = combine(&[&target], |x| (x[0] - 20_000.0) / 40_000.0);
    let near = combine(&[&target, &random(300, 1.0, 2)], |x| x[0] + x[1] * 50.0);
    let found = copies_of_target(&factor(&[near, copy, random(300, 1.0, 3), target]));
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
    for inflation in variance_inflation(&factor) {
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
        let fit = solve(&factor(&columns)).unwrap();
        let x = Array2::from_shape_fn((rows, features), |(i, j)| columns[j][i]);
        let y = Array1::from(columns[features].clone());
        let reference = LinearRegression::new().fit(&Dataset::new(x, y)).unwrap();
        prop_assert!(relative(fit.intercept, reference.intercept()) < 1e-9);
        for (found, wanted) in fit.coefficients.iter().zip(reference.params()) {
            prop_assert!(relative(*found, *wanted) < 1e-8, "{found} {wanted}");
        }
    }
}
