use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::model::{
    fit::{Objective, solve},
    qr::QrAccumulator,
};

fn factor(columns: &[Vec<f64>], weights: Option<&[f64]>) -> QrFactor {
    let slices: Vec<&[f64]> = columns.iter().map(Vec::as_slice).collect();
    let mut accumulator = QrAccumulator::new(columns.len());
    let rows: Vec<u32> = (0..columns[0].len() as u32).collect();
    accumulator.push(&slices, weights, &rows);
    accumulator.factor()
}

fn reference() -> (Vec<Vec<f64>>, Value) {
    let text = include_str!("reference/data.csv");
    let rows: Vec<Vec<f64>> =
        text.lines().skip(1).map(|line| line.split(',').map(|cell| cell.parse().unwrap()).collect()).collect();
    let columns = (0..6).map(|at| rows.iter().map(|row| row[at]).collect()).collect();
    (columns, serde_json::from_str(include_str!("reference/expected.json")).unwrap())
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// What is minimised, row by row, as the module's head has it.
fn objective_of(columns: &[Vec<f64>], weights: &[f64], penalty: Penalty, intercept: f64, coefficients: &[f64]) -> f64 {
    let total: f64 = weights.iter().sum();
    let deviation = |column: &[f64]| {
        let mean = column.iter().zip(weights).map(|(x, w)| x * w).sum::<f64>() / total;
        (column.iter().zip(weights).map(|(x, w)| w * (x - mean).powi(2)).sum::<f64>() / total).sqrt()
    };
    let features = coefficients.len();
    let loss: f64 = (0..weights.len())
        .map(|row| {
            let fitted: f64 = (0..features).map(|j| columns[j][row] * coefficients[j]).sum();
            weights[row] * (columns[features][row] - intercept - fitted).powi(2)
        })
        .sum();
    let scale = |j: usize| if penalty.standardization { deviation(&columns[j]) } else { 1.0 };
    let absolute: f64 = (0..features).map(|j| (coefficients[j] * scale(j)).abs()).sum();
    let squared: f64 = (0..features).map(|j| (coefficients[j] * scale(j)).powi(2)).sum();
    let Penalty { reg_param, elastic_net_param, .. } = penalty;
    loss / (2.0 * total)
        + reg_param * elastic_net_param * absolute
        + reg_param * (1.0 - elastic_net_param) / (2.0 * deviation(&columns[features])) * squared
}

/// Spark 4's results on the same rows, with its default solver. Both minimise the same; where coefficients are hardly
/// determined (features 1e10 apart, not standardised), it is the minimum that has to agree, and ours must not be worse.
#[test]
fn as_spark_does() {
    let (columns, expected) = reference();
    let ones = vec![1.0; columns[0].len()];
    let cases = expected["spark"].as_array().unwrap();
    let mut compared = 0;
    for case in cases.iter().filter(|case| case["solver"] == "auto") {
        let weighted = case["weighted"].as_bool().unwrap();
        let penalty = Penalty {
            reg_param: case["reg_param"].as_f64().unwrap(),
            elastic_net_param: case["elastic_net_param"].as_f64().unwrap(),
            standardization: case["standardization"].as_bool().unwrap(),
        };
        let fit_intercept = case["intercept"].as_bool().unwrap();
        let factor = factor(&columns[..5], weighted.then_some(&columns[5][..]));
        let fit = solve(&factor, Objective { fit_intercept, penalty }).unwrap();
        let (theirs, their_intercept) = (numbers(&case["coefficients"]), case["fitted_intercept"].as_f64().unwrap());
        let weights = if weighted { &columns[5] } else { &ones };
        let of =
            |intercept, coefficients: &[f64]| objective_of(&columns[..5], weights, penalty, intercept, coefficients);
        let (ours, spark) = (of(fit.intercept, &fit.coefficients), of(their_intercept, &theirs));
        assert!(ours <= spark * (1.0 + 1e-9), "{case}\n{fit:?}\n{ours} {spark}");
        if penalty.standardization || penalty.reg_param == 0.0 {
            for (found, wanted) in fit.coefficients.iter().zip(&theirs) {
                // Its quasi-Newton method stops earlier than coordinate descent.
                let tolerance = if penalty.elastic_net_param > 0.0 { 1e-4 } else { 1e-9 };
                assert!((found - wanted).abs() <= tolerance * wanted.abs(), "{case}\n{fit:?}");
            }
            compared += 1;
        }
    }
    assert_eq!(compared, 24);
}

/// On columns that are standardised beforehand scikit-learn's penalties are ours without `standardization`.
#[test]
fn as_scikit_learn_does() {
    let (columns, expected) = reference();
    let rows = columns[0].len() as f64;
    let scaled: Vec<Vec<f64>> = columns[..4]
        .iter()
        .map(|column| {
            let mean = column.iter().sum::<f64>() / rows;
            let deviation = (column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / rows).sqrt();
            column.iter().map(|x| (x - mean) / deviation).collect()
        })
        .chain([columns[4].clone()])
        .collect();
    let factor = factor(&scaled, None);
    let target = factor.centred_norm(5) / rows.sqrt();
    // Spark divides the squared part by the label's deviation, scikit-learn does not.
    let net = |absolute: f64, squared: f64| {
        let squared = squared * target;
        Penalty {
            reg_param: absolute + squared,
            elastic_net_param: absolute / (absolute + squared),
            standardization: false,
        }
    };
    let penalties = [
        ("ols", Penalty::default()),
        ("ridge", net(0.0, 0.3)),
        ("lasso", net(200.0, 0.0)),
        ("elastic net", net(0.7 * 0.4, 0.7 * 0.6)),
    ];
    for (case, (name, penalty)) in expected["scikit-learn"].as_array().unwrap().iter().zip(penalties) {
        assert_eq!(case["name"], name);
        let fit = solve(&factor, Objective { fit_intercept: true, penalty }).unwrap();
        for (found, wanted) in fit.coefficients.iter().zip(numbers(&case["coefficients"])) {
            assert!((found - wanted).abs() <= 1e-7 * wanted.abs(), "{name}: {found} {wanted}");
        }
        let wanted = case["intercept"].as_f64().unwrap();
        assert!((fit.intercept - wanted).abs() < 1e-9 * wanted.abs(), "{name}");
    }
}

#[test]
fn refuses_what_is_no_penalty() {
    for (reg_param, elastic_net_param) in [(-1.0, 0.0), (f64::NAN, 0.0), (f64::INFINITY, 0.0), (1.0, 1.1), (1.0, -0.1)]
    {
        assert!(Penalty { reg_param, elastic_net_param, standardization: true }.check().is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// No small step away from the solution makes the objective smaller, whatever the rows, more features than rows
    /// among them.
    #[test]
    fn it_is_the_minimum(
        rows in 4_usize..40, features in 1_usize..8, share in 0.0_f64..=1.0, strength in -3.0_f64..1.0,
        standardization in any::<bool>(), seed in 0_u64..1000,
    ) {
        let draw = |salt: u64, row: usize| crate::model::split::draw(seed * 97 + salt, row as u64) as f64 / u64::MAX as f64;
        let column = |salt: u64| (0..rows).map(|row| (1.0 + salt as f64) * draw(salt, row)).collect::<Vec<f64>>();
        let columns: Vec<Vec<f64>> = (0..=features as u64).map(column).collect();
        let weights: Vec<f64> = (0..rows).map(|row| 0.5 + draw(99, row)).collect();
        let penalty = Penalty { reg_param: 10_f64.powf(strength), elastic_net_param: share, standardization };
        let factor = factor(&columns, Some(&weights));
        let fit = solve(&factor, Objective { fit_intercept: true, penalty }).unwrap();
        let of = |intercept: f64, coefficients: &[f64]| objective_of(&columns, &weights, penalty, intercept, coefficients);
        let least = of(fit.intercept, &fit.coefficients);
        for j in 0..features {
            for step in [1e-4, -1e-4] {
                let mut moved = fit.coefficients.clone();
                moved[j] += step;
                prop_assert!(of(fit.intercept, &moved) >= least - 1e-12, "{j} {step} {fit:?}");
            }
        }
        prop_assert!(of(fit.intercept + 1e-4, &fit.coefficients) >= least && of(fit.intercept - 1e-4, &fit.coefficients) >= least);
    }
}
