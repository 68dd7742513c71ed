use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::model::{
    fit::{Redundant, redundant, solve},
    qr::QrAccumulator,
    residual::Residuals,
};

/// `columns`: the features, then the target.
fn factor(columns: &[Vec<f64>], weights: Option<&[f64]>) -> QrFactor {
    let slices: Vec<&[f64]> = columns.iter().map(Vec::as_slice).collect();
    let mut accumulator = QrAccumulator::new(columns.len());
    let rows: Vec<u32> = (0..columns[0].len() as u32).collect();
    accumulator.push(&slices, weights, &rows);
    accumulator.factor()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// The digits that agree, as statisticians count them: -log10 of the relative error, 15 at most.
fn digits(found: f64, certified: f64) -> f64 {
    if found == certified {
        return 15.0;
    }
    let size = if certified == 0.0 { 1.0 } else { certified.abs() };
    (-((found - certified).abs() / size).log10()).min(15.0)
}

/// All linear problems of NIST's Statistical Reference Datasets. `nist.py` checks the file in exact arithmetic.
///
/// The digits asked for are what one-pass Householder QR keeps in double precision, less one: the condition of Filip,
/// a polynomial of degree 10, costs eight of sixteen digits before anything is computed, as the powers are rounded.
#[test]
fn nist_certified_values() {
    let problems: Value = serde_json::from_str(include_str!("reference/nist.json")).unwrap();
    let wanted = [
        ("Norris", 12.0_f64, 12.0_f64),
        ("Pontius", 11.0, 11.0),
        ("NoInt1", 13.0, 12.0),
        ("NoInt2", 13.0, 12.0),
        ("Filip", 6.5, 6.5),
        ("Longley", 10.0, 10.0),
        ("Wampler1", 8.0, 0.0),
        ("Wampler2", 11.0, 0.0),
        ("Wampler3", 8.0, 9.0),
        ("Wampler4", 7.0, 9.0),
        ("Wampler5", 5.0, 9.0),
    ];
    assert_eq!(problems.as_array().unwrap().len(), wanted.len());
    let mut report = String::new();
    for (problem, (name, estimate_digits, error_digits)) in problems.as_array().unwrap().iter().zip(wanted) {
        assert_eq!(problem["name"], name);
        let parse = |value: &Value| -> f64 { value.as_str().unwrap().parse().unwrap() };
        let list = |value: &Value| -> Vec<f64> { value.as_array().unwrap().iter().map(parse).collect() };
        let x: Vec<Vec<f64>> = problem["x"].as_array().unwrap().iter().map(list).collect();
        let degree = problem["degree"].as_i64().unwrap() as i32;
        let mut columns: Vec<Vec<f64>> = if degree > 0 {
            (1..=degree).map(|power| x.iter().map(|row| row[0].powi(power)).collect()).collect()
        } else {
            (0..x[0].len()).map(|at| x.iter().map(|row| row[at]).collect()).collect()
        };
        columns.push(list(&problem["y"]));
        let factor = factor(&columns, None);
        let intercept = problem["intercept"].as_bool().unwrap();
        let found: Vec<Redundant> = redundant(&factor, intercept);
        assert!(found.is_empty(), "{name}: {found:?}");
        let objective = Objective { fit_intercept: intercept, ..Objective::default() };
        let fit = solve(&factor, objective).unwrap();
        let terms: Vec<String> = (1..columns.len()).map(|at| format!("x{at}")).collect();
        let table = statistics(&factor, &fit, &terms, intercept, 0.95).unwrap().unwrap();
        let (estimates, errors) = (list(&problem["estimates"]), list(&problem["standard_errors"]));
        assert_eq!(table.coefficients.len(), estimates.len());
        let least = |found: fn(&Coefficient) -> f64, certified: &[f64]| {
            let each =
                table.coefficients.iter().zip(certified).map(|(line, certified)| digits(found(line), *certified));
            each.fold(15.0, f64::min)
        };
        let (estimate, error) = (least(|line| line.estimate, &estimates), least(|line| line.standard_error, &errors));
        let deviation = digits(table.residual_standard_error, parse(&problem["residual_standard_error"]));
        let r2 = digits(table.r2, parse(&problem["r2"]));
        report.push_str(&format!("{name}: {estimate:.1} {error:.1} {deviation:.1} {r2:.1}\n"));
        assert!(estimate >= estimate_digits && r2 >= error_digits.min(9.0), "{report}");
        // Wampler1 and 2 lie on the curve exactly: what is left is rounding, and its size is all that can be asked.
        assert!(error >= error_digits && deviation >= error_digits, "{report}");
    }
    println!("digits of estimates, standard errors, residual deviation, R2\n{report}");
}

fn reference() -> (Vec<Vec<f64>>, Value) {
    let text = include_str!("reference/data.csv");
    let rows: Vec<Vec<f64>> =
        text.lines().skip(1).map(|line| line.split(',').map(|cell| cell.parse().unwrap()).collect()).collect();
    let columns = (0..6).map(|at| rows.iter().map(|row| row[at]).collect()).collect();
    (columns, serde_json::from_str(include_str!("reference/expected.json")).unwrap())
}

#[track_caller]
fn near(found: f64, wanted: f64, tolerance: f64) {
    assert!((found - wanted).abs() <= tolerance * wanted.abs(), "{found} {wanted}");
}

#[test]
fn as_statsmodels_says() {
    let (columns, expected) = reference();
    for case in expected["statsmodels"].as_array().unwrap() {
        let weights = case["weighted"].as_bool().unwrap().then(|| &columns[5][..]);
        let intercept = case["intercept"].as_bool().unwrap();
        let factor = factor(&columns[..5], weights);
        let objective = Objective { fit_intercept: intercept, ..Objective::default() };
        let fit = solve(&factor, objective).unwrap();
        let names = ["x1", "x2", "x3", "x4"].map(str::to_owned);
        let confidence = case["confidence"].as_f64().unwrap();
        let table = statistics(&factor, &fit, &names, intercept, confidence).unwrap().unwrap();
        let lines = &table.coefficients;
        let all = |name: &str, found: &dyn Fn(&Coefficient) -> f64| {
            for (line, wanted) in lines.iter().zip(numbers(&case[name])) {
                near(found(line), wanted, 1e-8);
            }
        };
        all("params", &|line| line.estimate);
        all("standard_errors", &|line| line.standard_error);
        all("t", &|line| line.t.unwrap());
        all("p", &|line| line.p.unwrap());
        all("low", &|line| line.low);
        all("high", &|line| line.high);
        near(table.r2, case["r2"].as_f64().unwrap(), 1e-12);
        near(table.adjusted_r2, case["adjusted_r2"].as_f64().unwrap(), 1e-12);
        near(table.residual_standard_error, case["residual_standard_error"].as_f64().unwrap(), 1e-11);
        let f = table.f.unwrap();
        near(f.value.unwrap(), case["f"].as_f64().unwrap(), 1e-9);
        near(f.p.unwrap(), case["f_p"].as_f64().unwrap(), 1e-7);
        for (found, wanted) in table.covariance.iter().zip(numbers(&case["covariance"])) {
            near(*found, wanted, 1e-7);
        }
        if let Some(low) = case.get("prediction_low") {
            let intervals = Intervals::new(&factor, objective, confidence).unwrap().unwrap();
            let features: Vec<&[f64]> = columns[..4].iter().map(|column| &column[..3]).collect();
            let half = intervals.half_widths(&features, 3);
            for (row, (low, high)) in numbers(low).into_iter().zip(numbers(&case["prediction_high"])).enumerate() {
                near(half[row], (high - low) / 2.0, 1e-9);
            }
        }
        if let Some(inflation) = case.get("vif") {
            for (line, wanted) in lines[1..].iter().zip(numbers(inflation)) {
                near(line.variance_inflation.unwrap(), wanted, 1e-9);
            }
            assert_eq!(lines[0].variance_inflation, None);
            residuals_as(case, &columns, &fit);
        }
    }
}

fn residuals_as(case: &Value, columns: &[Vec<f64>], fit: &Fit) {
    let mut residuals = Residuals::default();
    for row in 0..columns[0].len() {
        let sum: f64 = fit.coefficients.iter().zip(columns).map(|(value, column)| value * column[row]).sum();
        residuals.add(row as u64, columns[4][row], fit.intercept + sum);
    }
    let (summary, score) = (residuals.summary().unwrap(), residuals.errors.score(0.0));
    let found = [summary.min, summary.first_quartile, summary.median, summary.third_quartile, summary.max];
    for (found, wanted) in found.into_iter().zip(numbers(&case["residuals"])) {
        near(found, wanted, 1e-8);
    }
    near(score.mae, case["mae"].as_f64().unwrap(), 1e-10);
    near(score.mape.unwrap(), case["mape"].as_f64().unwrap(), 1e-10);
    near(summary.durbin_watson.unwrap(), case["durbin_watson"].as_f64().unwrap(), 1e-9);
}

#[test]
fn without_freedom_or_terms_there_is_no_table() {
    let two = factor(&[vec![1.0, 2.0], vec![3.0, 5.0]], None);
    let fit = solve(&two, Objective::default()).unwrap();
    assert_eq!(statistics(&two, &fit, &["x".to_owned()], true, 0.95).unwrap(), None);
    assert!(Intervals::new(&two, Objective::default(), 0.95).unwrap().is_none());
    let mean = factor(&[vec![1.0, 2.0, 6.0]], None);
    let fit = solve(&mean, Objective::default()).unwrap();
    let table = statistics(&mean, &fit, &[], true, 0.95).unwrap().unwrap();
    // The standard error of a mean: deviation / sqrt(n); t(2, 0.975) = 4.302652729749464.
    let error = 7.0_f64.sqrt() / 3.0_f64.sqrt();
    near(table.coefficients[0].standard_error, error, 1e-12);
    near(table.coefficients[0].high, 3.0 + 4.302652729749464 * error, 1e-12);
    assert_eq!((table.f, table.r2.abs() < 1e-12), (None, true));
    for level in [0.0, 1.0, -0.5, 95.0, f64::NAN] {
        assert!(check_confidence(level).is_err());
    }
}

/// mpmath's, to 15 digits.
#[test]
fn quantiles_of_student() {
    for (freedom, level, wanted) in [
        (1.0, 0.975, 12.706204736174698),
        (5.0, 0.995, 4.032142983557536),
        (30.0, 0.95, 1.697260886593957),
        (1e4, 0.975, 1.960201239890626),
        (1e7, 0.975, 1.959964221767205),
        (3.0, 0.5 + 0.9999999 / 2.0, 280.425_146_305_951),
    ] {
        let found = quantile(&student(freedom).unwrap(), level);
        let tolerance = if freedom > 1e6 || level > 0.999 { 1e-7 } else { 1e-12 };
        assert!((found / wanted - 1.0).abs() < tolerance, "{freedom} {level}: {found} {wanted}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// A unit of a feature changes its coefficient and its error, and nothing else.
    #[test]
    fn units_change_nothing_that_matters(rows in 8_usize..80, scale in -6_i32..12, seed in 0_u64..500) {
        let draw = |salt: u64, row: usize| crate::model::split::draw(seed * 31 + salt, row as u64) as f64 / u64::MAX as f64;
        let column = |salt: u64| (0..rows).map(|row| draw(salt, row)).collect::<Vec<f64>>();
        let (a, b, y) = (column(1), column(2), column(3));
        let factor_of = 10_f64.powi(scale);
        let names = ["a", "b"].map(str::to_owned);
        let table = |a: Vec<f64>| {
            let factor = factor(&[a, b.clone(), y.clone()], None);
            statistics(&factor, &solve(&factor, Objective::default()).unwrap(), &names, true, 0.95).unwrap().unwrap()
        };
        let (plain, scaled) = (table(a.clone()), table(a.iter().map(|value| value * factor_of).collect()));
        prop_assert!((plain.r2 - scaled.r2).abs() < 1e-9);
        for (at, (one, other)) in plain.coefficients.iter().zip(&scaled.coefficients).enumerate() {
            let unit = if at == 1 { factor_of } else { 1.0 };
            prop_assert!((one.standard_error / (other.standard_error * unit) - 1.0).abs() < 1e-8);
            prop_assert!((one.p.unwrap() - other.p.unwrap()).abs() < 1e-7);
        }
    }
}
