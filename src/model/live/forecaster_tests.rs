use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    compute::concat_batches,
    datatypes::{Schema, SchemaRef},
};
use proptest::prelude::*;

use super::*;
use crate::model::live::{Columns, options::tests::options};

const MINUTE: i64 = 60_000_000;

/// Normal numbers, by twelve uniform ones.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        let mut uniform = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 11) as f64 / (1_u64 << 53) as f64
        };
        (0..12).map(|_| uniform()).sum::<f64>() - 6.0
    }
}

/// Forecasts `prices`, a minute each, from the price and the one before.
fn run(forecaster: &mut Forecaster, start: i64, prices: &[f64]) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for (minute, pair) in (start..).zip(prices.windows(2)) {
        let features = [pair[1], pair[0]];
        let row = Row { time_us: minute * MINUTE, series: "", target: pair[1], features: Some(&features) };
        outcomes.push(forecaster.step(row).unwrap());
    }
    outcomes
}

fn forecaster(more: &[(&str, &str)]) -> Forecaster {
    Forecaster::new(options(more).unwrap(), vec!["price".to_owned(), "before".to_owned()])
}

/// A price that comes back to 100: each step keeps `keeps` of the distance.
fn autoregressive(noise: &mut Noise, keeps: f64, rows: usize) -> Vec<f64> {
    let mut price = 100.0;
    let step = |_| {
        price = 100.0 + keeps * (price - 100.0) + noise.next();
        price
    };
    (0..rows).map(step).collect()
}

#[test]
fn an_autoregressive_series_is_forecast_better_than_that_nothing_changes() {
    for seed in 0..5 {
        let mut forecaster = forecaster(&[]);
        let outcomes = run(&mut forecaster, 0, &autoregressive(&mut Noise(seed), 0.5, 3_000));
        let standing = forecaster.standing();
        // The naive error has the variance 2 (1 - 0.5) / (1 - 0.25) = 4/3 of the noise's: its root is 1.1547.
        let skill = standing.scores.and_then(|scores| scores.skill).unwrap();
        assert!(standing.version > 0 && (0.06..0.18).contains(&skill), "seed {seed}: {skill}, {standing:?}");
        let first = outcomes.iter().position(|outcome| outcome.version > 0).unwrap();
        assert!((300..400).contains(&first), "100 rows train and 200 are held out: {first}");
    }
}

#[test]
fn nobody_forecasts_a_random_walk_and_the_skill_says_so() {
    for seed in 0..5 {
        let mut forecaster = forecaster(&[]);
        run(&mut forecaster, 0, &autoregressive(&mut Noise(seed), 1.0, 3_000));
        let skill = forecaster.standing().scores.and_then(|scores| scores.skill).unwrap();
        assert!(skill.abs() < 0.02, "seed {seed}: {skill}");
    }
}

#[test]
fn the_row_brings_the_truth_about_the_forecast_for_it() {
    let mut forecaster = forecaster(&[]);
    let outcomes = run(&mut forecaster, 0, &[1.0, 2.0, 4.0, 7.0]);
    let shown: Vec<(f64, f64, f64)> = outcomes.iter().map(|it| (it.prediction, it.forecast, it.error)).collect();
    assert!(shown[0].0 == 2.0 && shown[0].1.is_nan() && shown[0].2.is_nan(), "{shown:?}");
    assert_eq!(&shown[1..], [(4.0, 2.0, 2.0), (7.0, 4.0, 3.0)]);
    assert_eq!(outcomes[2].scores.map(|scores| (scores.mae, scores.skill)), Some((2.5, Some(0.0))));
}

/// The rule of the series changes: with a detector a new model is found long before the next one that is scheduled.
#[test]
fn a_drift_brings_a_new_model() {
    let prices: Vec<f64> = {
        let mut noise = Noise(7);
        let mut prices = autoregressive(&mut noise, 0.7, 2_000);
        // The level jumps, and the noise with it.
        prices.extend(autoregressive(&mut noise, -0.7, 2_000).iter().map(|price| 50.0 + 4.0 * (price - 100.0)));
        prices
    };
    let run_with = |drift: &str| {
        let mut forecaster = forecaster(&[("drift", drift), ("retrain", "never"), ("holdout", "100 rows")]);
        let outcomes = run(&mut forecaster, 0, &prices);
        let late = &outcomes[3_000..];
        let rmse = (late.iter().map(|it| it.error * it.error).sum::<f64>() / late.len() as f64).sqrt();
        let after = outcomes[2_000..].iter().position(|it| it.drift);
        (rmse, after, forecaster.standing())
    };
    let (without, none, standing) = run_with("none");
    assert!(none.is_none() && standing.version == 1, "{standing:?}");
    for drift in ["page-hinkley", "adwin"] {
        let (with, after, standing) = run_with(drift);
        assert!(after.is_some_and(|rows| rows < 100), "{drift}: {after:?}");
        assert!(standing.version > 1 && with < 0.8 * without, "{drift}: {with} beside {without}, {standing:?}");
    }
}

#[test]
fn a_model_that_became_worse_than_naive_is_retired() {
    let mut noise = Noise(3);
    let mut prices = autoregressive(&mut noise, 0.2, 1_000);
    let last = *prices.last().unwrap();
    let walk: Vec<f64> = autoregressive(&mut noise, 1.0, 1_500).iter().map(|price| price + last).collect();
    prices.extend(walk);
    let mut forecaster = forecaster(&[("drift", "none"), ("holdout", "2h"), ("minRows", "300")]);
    let outcomes = run(&mut forecaster, 0, &prices);
    assert!(outcomes[990].version > 0);
    let retired = outcomes[1_000..].iter().position(|it| it.version == 0);
    assert!(retired.is_some_and(|rows| rows < 240), "{retired:?}");
}

#[test]
fn what_cannot_be_used_is_counted_and_gives_no_forecast() {
    let mut forecaster = forecaster(&[]);
    let row = |minute: i64, target: f64, features| Row { time_us: minute * MINUTE, series: "", target, features };
    let outcome = forecaster.step(row(0, 1.0, None)).unwrap();
    assert!(outcome.prediction.is_nan());
    // The target is not known: no naive forecast, but an example.
    let outcome = forecaster.step(row(1, f64::NAN, Some(&[1.0, 2.0]))).unwrap();
    assert!(outcome.prediction.is_nan());
    let outcome = forecaster.step(row(2, 5.0, Some(&[1.0, 2.0]))).unwrap();
    assert!(outcome.forecast.is_nan() && outcome.prediction == 5.0);
    let standing = forecaster.standing();
    assert_eq!((standing.unusable, standing.scored, standing.waiting, standing.held_out_rows), (1, 0, 1, 1));
    assert!(forecaster.step(row(1, 5.0, None)).unwrap_err().message().contains("later time"));
}

#[test]
fn a_constant_feature_is_left_out_of_a_challenger() {
    let mut forecaster = forecaster(&[]);
    let prices = autoregressive(&mut Noise(1), 0.5, 1_000);
    for (minute, price) in (0..).zip(&prices) {
        let row = Row { time_us: minute * MINUTE, series: "", target: *price, features: Some(&[*price, 3.0]) };
        forecaster.step(row).unwrap();
    }
    let promotion = &forecaster.promotions()[0];
    assert_eq!((&promotion.kept[..], promotion.left_out[0].feature.as_str()), (&[0][..], "before"));
    assert_eq!(promotion.coefficients.len(), 1);
}

/// Rows of two series, with gaps, NULLs and equal times.
fn batch(rows: &[(i64, u8, Option<f64>)]) -> RecordBatch {
    let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|(minute, ..)| minute * MINUTE / 2));
    let symbols = StringArray::from_iter(rows.iter().map(|(_, symbol, _)| match symbol {
        0 => Some("a"),
        1 => Some("b"),
        _ => None,
    }));
    let close = Float64Array::from_iter(rows.iter().map(|(.., price)| *price));
    let whole = Int64Array::from_iter(rows.iter().map(|(minute, _, price)| price.map(|it| it as i64 + minute % 5)));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("ts", Arc::new(times)),
        ("symbol", Arc::new(symbols)),
        ("close", Arc::new(close)),
        ("whole", Arc::new(whole)),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn output(columns: &Columns, batch: &RecordBatch) -> SchemaRef {
    let schema = batch.schema();
    let fields = schema.fields().iter().cloned().chain(columns.added(&schema).into_iter().map(Arc::new));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    /// However the rows come in batches, and wherever the state is saved and read again.
    #[test]
    fn any_cut_gives_the_same_rows(
        prices in prop::collection::vec((0_u8..3, 0_u8..3, prop::option::weighted(0.95, -5.0..5.0_f64)), 100..500),
        cuts in prop::collection::vec(1_usize..60, 1..40),
        drift in prop::sample::select(vec!["none", "page-hinkley", "adwin"]),
        holdout in prop::sample::select(vec!["15 rows", "20m"]),
        half_life in prop::option::of(Just("1h")),
    ) {
        let mut time = 0;
        let mut level = 0.0;
        let rows: Vec<(i64, u8, Option<f64>)> = prices
            .iter()
            .map(|(step, symbol, price)| {
                time += i64::from(*step);
                level = 0.6 * level + price.unwrap_or(0.0);
                (time, *symbol, price.map(|_| 100.0 + level))
            })
            .collect();
        let mut more = vec![
            ("drift", drift), ("holdout", holdout), ("minRows", "10"), ("retrain", "30m"), ("tolerance", "30s"),
            ("driftThreshold", "4"),
        ];
        if drift != "page-hinkley" {
            more.pop();
        }
        more.extend(half_life.map(|span| ("halfLife", span)));
        let names = ["close".to_owned(), "whole".to_owned()];
        let fresh = || Forecaster::new(options(&more).unwrap(), names.to_vec());
        let whole = batch(&rows);
        let columns = Columns { time: 0, target: 2, features: vec![2, 3], keys: vec![1] };
        columns.check(&whole.schema(), fresh().options()).unwrap();
        let schema = output(&columns, &whole);
        let mut one = fresh();
        let wanted = one.apply(&columns, &whole, &schema).unwrap();
        let (mut cut, mut parts, mut at) = (fresh(), Vec::new(), 0);
        for length in cuts.iter().cycle() {
            let length = (*length).min(whole.num_rows() - at);
            parts.push(cut.apply(&columns, &whole.slice(at, length), &schema).unwrap());
            at += length;
            cut = fresh().restore(&cut.to_json().unwrap()).unwrap();
            if at == whole.num_rows() {
                break;
            }
        }
        prop_assert_eq!(concat_batches(&schema, &parts).unwrap(), wanted);
        let text = |forecaster: &Forecaster| String::from_utf8(forecaster.to_json().unwrap()).unwrap();
        prop_assert_eq!(text(&cut), text(&one));
    }
}

#[test]
fn what_was_learned_for_another_question_is_refused() {
    let json = forecaster(&[]).to_json().unwrap();
    let other = forecaster(&[("tolerance", "1s")]).restore(&json).unwrap_err();
    assert!(other.message().contains("tolerance 6s"), "{other}");
    let features = Forecaster::new(options(&[]).unwrap(), vec!["price".to_owned()]).restore(&json).unwrap_err();
    assert!(features.message().contains("features price, before"), "{features}");
    // How it learns may change.
    forecaster(&[("retrain", "5m"), ("drift", "adwin"), ("minRows", "7")]).restore(&json).unwrap();
    let newer = String::from_utf8(json.clone()).unwrap().replacen("\"version\":1", "\"version\":2", 1);
    assert!(forecaster(&[]).restore(newer.as_bytes()).unwrap_err().message().contains("version 2"));
    assert!(forecaster(&[]).restore(&json[..json.len() - 1]).is_err());
}

#[test]
fn columns_are_checked() {
    let schema = batch(&[(0, 0, Some(1.0))]).schema();
    let options = options(&[]).unwrap();
    let check = |time, features: &[usize]| {
        Columns { time, target: 2, features: features.to_vec(), keys: vec![1] }.check(&schema, &options)
    };
    assert!(check(0, &[2, 3]).is_ok());
    for (found, wanted) in
        [(check(2, &[3]), "not a TIMESTAMP"), (check(0, &[1]), "takes numbers"), (check(0, &[2, 2]), "given twice")]
    {
        assert!(found.unwrap_err().message().contains(wanted), "{wanted}");
    }
}
