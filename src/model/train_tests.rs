use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Float64Array},
    datatypes::{DataType, Field, Schema},
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::stream;
use rand::{Rng, SeedableRng};

use super::*;
use crate::model::{
    penalty::Penalty,
    score::{BaselineSums, ErrorSums},
    split::Split,
};

fn options(features: &[&str]) -> TrainOptions {
    TrainOptions {
        name: "m".to_owned(),
        source: "test".to_owned(),
        roles: Roles {
            target: "y".to_owned(),
            features: features.iter().map(|name| (*name).to_owned()).collect(),
            ..Roles::default()
        },
        rows_shown: 3,
        ..TrainOptions::default()
    }
}

fn table(columns: &[(&str, Vec<f64>)]) -> RecordBatch {
    let fields: Vec<Field> = columns.iter().map(|(name, _)| Field::new(*name, DataType::Float64, true)).collect();
    let arrays = columns.iter().map(|(_, values)| Arc::new(Float64Array::from(values.clone())) as ArrayRef);
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays.collect()).unwrap()
}

/// Trains on the rows of `table`, in batches of `chunk`.
async fn train_on(options: &TrainOptions, table: &RecordBatch, chunk: usize) -> Result<Training> {
    let query = |columns: Vec<String>| {
        let rows = table.num_rows();
        let places: Vec<usize> = columns.iter().map(|name| table.schema().index_of(name).unwrap()).collect();
        let table = table.project(&places).unwrap();
        let batches: Vec<_> =
            (0..rows).step_by(chunk).map(|start| Ok(table.slice(start, chunk.min(rows - start)))).collect();
        let stream = RecordBatchStreamAdapter::new(table.schema(), stream::iter(batches));
        std::future::ready(Ok(Box::pin(stream) as SendableRecordBatchStream))
    };
    train(options, query, &|_| ()).await
}

fn noise(rows: usize, seed: u64) -> Vec<f64> {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..rows).map(|_| random.random::<f64>() - 0.5).collect()
}

fn line(rows: usize) -> RecordBatch {
    let (a, b, e) = (noise(rows, 1), noise(rows, 2), noise(rows, 3));
    let y = (0..rows).map(|i| 10.0 + 3.0 * a[i] - 2.0 * b[i] + 0.1 * e[i]).collect();
    table(&[("a", a), ("b", b), ("y", y)])
}

#[tokio::test]
async fn finds_a_line_whatever_the_batches() {
    let table = line(2000);
    let whole = train_on(&options(&["a", "b"]), &table, 2000).await.unwrap();
    let model = &whole.model;
    assert!((model.intercept - 10.0).abs() < 0.01, "{model:?}");
    assert!((model.coefficients[0] - 3.0).abs() < 0.02 && (model.coefficients[1] + 2.0).abs() < 0.02);
    let test = model.test.clone().unwrap();
    assert_eq!(model.training.rows + test.rows, 2000);
    assert!(
        test.model.r2.unwrap() > 0.99
            && test.mean.skill.unwrap() > 0.9
            && test.last_value.unwrap().skill.unwrap() > 0.9
    );
    assert!(whole.warnings.is_empty(), "{:?}", whole.warnings);
    assert_eq!(whole.predictions.num_rows(), 3);
    let pieces = train_on(&options(&["a", "b"]), &table, 13).await.unwrap();
    assert!((pieces.model.coefficients[0] / model.coefficients[0] - 1.0).abs() < 1e-12);
    assert!((pieces.model.test.unwrap().model.mae / test.model.mae - 1.0).abs() < 1e-9);
}

/// The scores of the test rows, recomputed row by row from the split alone.
#[tokio::test]
async fn the_scores_are_those_of_the_test_rows() {
    let table = line(300);
    let model = train_on(&options(&["a", "b"]), &table, 50).await.unwrap().model;
    let column = |at: usize| table.column(at).as_any().downcast_ref::<Float64Array>().unwrap().values().to_vec();
    let (a, b, y) = (column(0), column(1), column(2));
    let split = Split::new(42, 0.2).unwrap();
    let (tested, trained): (Vec<usize>, Vec<usize>) = (0..300).partition(|row| *row > 0 && split.is_test(*row as u64));
    let mean = trained.iter().map(|row| y[*row]).sum::<f64>() / trained.len() as f64;
    let (mut own, mut naive, mut last) = (ErrorSums::default(), BaselineSums::default(), BaselineSums::default());
    let centre = tested.iter().map(|row| y[*row]).sum::<f64>() / tested.len() as f64;
    let spread = tested.iter().map(|row| (y[*row] - centre).powi(2)).sum();
    for &row in &tested {
        let predicted = model.intercept + model.coefficients[0] * a[row] + model.coefficients[1] * b[row];
        own.add(y[row], predicted);
        naive.add(y[row], predicted, mean);
        last.add(y[row], predicted, y[row - 1]);
    }
    let test = model.test.unwrap();
    let near = |found: f64, wanted: f64| assert!((found / wanted - 1.0).abs() < 1e-9, "{found} {wanted}");
    let (own, rows) = (own.score(spread), tested.len() as u64);
    assert_eq!(test.rows, rows);
    near(test.model.rmse, own.rmse);
    near(test.model.mae, own.mae);
    near(test.model.mape.unwrap(), own.mape.unwrap());
    near(test.model.r2.unwrap(), own.r2.unwrap());
    for (found, wanted) in [(test.mean, naive), (test.last_value.unwrap(), last)] {
        let wanted = wanted.baseline(rows, spread).unwrap();
        near(found.rmse, wanted.rmse);
        near(found.mae, wanted.mae);
        near(found.r2.unwrap(), wanted.r2.unwrap());
        near(found.skill.unwrap(), wanted.skill.unwrap());
    }
}

#[tokio::test]
async fn on_a_random_walk_nothing_beats_the_last_value() {
    let steps = noise(6000, 4);
    let walk: Vec<f64> = steps
        .iter()
        .scan(100.0, |price, step| {
            *price += step;
            Some(*price)
        })
        .collect();
    let table = table(&[("noise", noise(6000, 5)), ("y", walk)]);
    let training = train_on(&options(&["noise"]), &table, 512).await.unwrap();
    let test = training.model.test.unwrap();
    assert!(test.mean.skill.unwrap().abs() < 0.05, "{test:?}");
    // The steps are uniform on [-0.5, 0.5): their deviation is sqrt(1 / 12).
    assert!((test.last_value.unwrap().rmse - (1.0_f64 / 12.0).sqrt()).abs() < 0.02, "{test:?}");
    assert!(test.last_value.unwrap().skill.unwrap() < -1.0, "{test:?}");
    let no_skill = |warning: &Warning| matches!(warning, Warning::NoSkill { baseline: "the value before", .. });
    assert!(training.warnings.iter().any(no_skill));
}

#[tokio::test]
async fn warns_of_a_copy_and_refuses_it_when_strict() {
    let table = line(500);
    let y = table.column(2).as_any().downcast_ref::<Float64Array>().unwrap();
    let copy: Vec<f64> = y.values().iter().map(|value| (value - 2.0) / 4.0).collect();
    let table = super::tests::table(&[("a", noise(500, 1)), ("change_24h", copy), ("y", y.values().to_vec())]);
    let mut options = options(&["a", "change_24h"]);
    let training = train_on(&options, &table, 100).await.unwrap();
    assert!(training.model.warnings[0].contains("y = 4 * change_24h + 2"), "{:?}", training.warnings);
    options.strict = true;
    let error = train_on(&options, &table, 100).await.unwrap_err();
    assert!(error.message().contains("change_24h"), "{error}");
}

#[tokio::test]
async fn redundant_features_are_named_or_left_out() {
    let plain = line(400);
    let column = |at: usize| plain.column(at).as_any().downcast_ref::<Float64Array>().unwrap().values().to_vec();
    let double = column(0).iter().map(|value| 2.0 * value).collect();
    let table =
        table(&[("a", column(0)), ("twice", double), ("one", vec![1.0; 400]), ("b", column(1)), ("y", column(2))]);
    let mut options = options(&["a", "twice", "one", "b"]);
    let error = train_on(&options, &table, 64).await.unwrap_err().to_string();
    assert!(error.contains("'twice': it equals 2 * a; 'one': it is always 1"), "{error}");
    options.drop_redundant = true;
    let dropped = train_on(&options, &table, 64).await.unwrap().model;
    assert_eq!(dropped.training.left_out.len(), 2);
    let wanted = train_on(&super::tests::options(&["a", "b"]), &plain, 64).await.unwrap().model;
    assert_eq!(dropped.features, wanted.features);
    assert!((dropped.coefficients[1] / wanted.coefficients[1] - 1.0).abs() < 1e-9);
    assert!((dropped.test.unwrap().model.rmse / wanted.test.unwrap().model.rmse - 1.0).abs() < 1e-9);
}

#[tokio::test]
async fn refuses_what_no_line_fits() {
    let error = async |table: RecordBatch| train_on(&options(&["a"]), &table, 10).await.unwrap_err().to_string();
    let nothing = table(&[("a", vec![]), ("y", vec![])]);
    assert!(error(nothing).await.contains("no rows"));
    let bad = table(&[("a", vec![f64::NAN, 1.0]), ("y", vec![1.0, f64::INFINITY])]);
    let text = error(bad).await;
    assert!(text.contains("none of the 2 rows can be used: a: 1 not finite; y: 1 not finite"), "{text}");
    let one = table(&[("a", vec![1.0]), ("y", vec![1.0])]);
    assert!(error(one).await.contains("1 training rows are too few for 2 coefficients"));
    let flat = table(&[("a", noise(50, 1)), ("y", vec![0.3; 50])]);
    assert!(error(flat).await.contains("'y' is 0.3 in every training row"));
    let large = table(&[("a", vec![1e200, 2e200, -1e200, 4e200]), ("y", noise(4, 1))]);
    assert!(error(large).await.contains("too large"));
}

#[tokio::test]
async fn as_many_rows_as_coefficients_is_said() {
    let table = table(&[("a", vec![1.0, 2.0]), ("y", vec![3.0, 5.0])]);
    let mut options = options(&["a"]);
    options.evaluate = Evaluate::Random { seed: 42, test_fraction: 0.0 };
    let training = train_on(&options, &table, 2).await.unwrap();
    assert_eq!(training.warnings, [Warning::NoFreedom { rows: 2 }, Warning::NoTestRows]);
    assert_eq!(training.model.train.residual_deviation, None);
    assert!((training.model.intercept - 1.0).abs() < 1e-12);
}

#[tokio::test]
async fn without_features_the_model_is_the_mean() {
    let training = train_on(&options(&[]), &line(200), 30).await.unwrap();
    let test = training.model.test.clone().unwrap();
    assert!((test.model.rmse - test.mean.rmse).abs() < 1e-12);
    let (predictor, table) = (super::super::Predictor::new(&training.model, &line(1).schema(), None).unwrap(), line(5));
    assert_eq!(predictor.apply(&table).unwrap().num_columns(), 4);
}

#[tokio::test]
async fn a_query_that_changes_is_found_out() {
    let calls = std::sync::atomic::AtomicU64::new(0);
    let query = |_| {
        let call = calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let table = table(&[("a", noise(500, call)), ("y", noise(500, 9 + call))]);
        let stream = RecordBatchStreamAdapter::new(table.schema(), stream::iter([Ok(table)]));
        std::future::ready(Ok(Box::pin(stream) as SendableRecordBatchStream))
    };
    let error = train(&options(&["a"]), query, &|_| ()).await.unwrap_err();
    assert!(error.message().contains("other rows when it ran the second time"), "{error}");
}

/// y follows itself: 0.8 of the value before, and noise.
fn autoregression(rows: usize) -> RecordBatch {
    let steps = noise(rows, 4);
    let y: Vec<f64> = steps
        .iter()
        .scan(0.0, |y, step| {
            *y = 0.8 * *y + step;
            Some(*y + 50.0)
        })
        .collect();
    following(&y)
}

/// The target is the next value, and all that is known is the value now and the one before.
fn following(series: &[f64]) -> RecordBatch {
    let rows = series.len() - 2;
    table(&[("before", series[..rows].to_vec()), ("now", series[1..=rows].to_vec()), ("y", series[2..].to_vec())])
}

fn honest(evaluate: Evaluate) -> TrainOptions {
    let mut options = options(&["now", "before"]);
    options.roles.last_value = Some("now".to_owned());
    options.evaluate = evaluate;
    options
}

fn simulated_prices(rows: usize) -> Vec<f64> {
    use crate::produce::simulate::{Model, Simulator, SimulatorOptions};
    let options = SimulatorOptions { seed: 7, model: Model::RandomWalk, ..SimulatorOptions::default() };
    let mut simulator = Simulator::new(options).unwrap();
    let (mut key, mut value) = (Vec::new(), Vec::new());
    let mut next = || {
        simulator.next_record(&mut key, &mut value).unwrap();
        serde_json::from_slice::<serde_json::Value>(&value).unwrap()["sell_price"].as_f64().unwrap()
    };
    (0..rows).map(|_| next()).collect()
}

/// The simulator's prices are a random walk: nothing foretells them, and the model must say so. An autoregression can be
/// foretold, and the model must find that.
#[tokio::test]
async fn skill_is_near_zero_on_the_simulators_walk_and_real_on_an_autoregression() {
    let walk = following(&simulated_prices(6000));
    for evaluate in [Evaluate::Chronological { test_fraction: 0.3 }, Evaluate::WalkForward { folds: 5 }] {
        let training = train_on(&honest(evaluate), &walk, 512).await.unwrap();
        let skill = training.model.test.as_ref().unwrap().last_value.unwrap().skill.unwrap();
        assert!(skill.abs() < 0.03, "{evaluate:?}: {skill}");
        assert!(!training.warnings.iter().any(Warning::is_leak), "its own past is no leak: {:?}", training.warnings);
        let training = train_on(&honest(evaluate), &autoregression(6000), 512).await.unwrap();
        let skill = training.model.test.as_ref().unwrap().last_value.unwrap().skill.unwrap();
        // The last value leaves noise plus 0.2 of the deviation: sqrt(1 + 0.04 / 0.36) times the noise.
        assert!((skill - (1.0 - (1.0 + 0.04_f64 / 0.36).sqrt().recip())).abs() < 0.02, "{evaluate:?}: {skill}");
        assert!(!training.warnings.iter().any(|warning| matches!(warning, Warning::NoSkill { .. })));
    }
}

/// Each stretch by a model of the rows before it, done here by hand.
#[tokio::test]
async fn walk_forward_is_what_it_says() {
    let table = line(600);
    let mut options = options(&["a", "b"]);
    options.evaluate = Evaluate::WalkForward { folds: 3 };
    let training = train_on(&options, &table, 77).await.unwrap();
    assert_eq!(training.model.training.rows, 600, "the model that is kept has seen all rows");
    let test = training.model.test.unwrap();
    assert_eq!((test.rows, test.folds.len()), (450, 3));
    let mut squares = 0.0;
    for (fold, start) in test.folds.iter().zip([150, 300, 450]) {
        let mut before = super::tests::options(&["a", "b"]);
        before.evaluate = Evaluate::Random { seed: 1, test_fraction: 0.0 };
        let model = train_on(&before, &table.slice(0, start), 50).await.unwrap().model;
        let predicted = crate::model::Predictor::new(&model, &table.schema(), None).unwrap();
        let predicted = predicted.apply(&table.slice(start, 150)).unwrap();
        let column = |at: usize| predicted.column(at).as_any().downcast_ref::<Float64Array>().unwrap();
        let sum: f64 = column(2).values().iter().zip(column(3).values()).map(|(y, p)| (y - p).powi(2)).sum();
        assert!((fold.rmse - (sum / 150.0).sqrt()).abs() < 1e-9, "{fold:?}");
        assert_eq!((fold.first_row, fold.trained_rows, fold.left_out_rows), (start as u64, start as u64, 0));
        squares += sum;
    }
    assert!((test.model.rmse - (squares / 450.0).sqrt()).abs() < 1e-9);
}

#[tokio::test]
async fn a_penalty_needs_no_full_rank() {
    let plain = line(40);
    let column = |at: usize| plain.column(at).as_any().downcast_ref::<Float64Array>().unwrap().values().to_vec();
    let twice: Vec<f64> = column(0).iter().map(|value| 2.0 * value).collect();
    let mut columns = vec![("a", column(0)), ("b", column(1)), ("twice", twice), ("one", vec![1.0; 40])];
    let names: Vec<String> = (0..60).map(|at| format!("n{at}")).collect();
    columns.extend(names.iter().zip(0..).map(|(name, at)| (name.as_str(), noise(40, 100 + at))));
    columns.push(("y", column(2)));
    let table = table(&columns);
    let features: Vec<&str> = columns.iter().map(|column| column.0).filter(|name| *name != "y").collect();
    let error = train_on(&options(&features), &table, 7).await.unwrap_err().to_string();
    assert!(error.contains("--reg-param"), "p > n: {error}");
    for elastic_net_param in [0.0, 0.5, 1.0] {
        let mut options = options(&features);
        options.objective.penalty = Penalty { reg_param: 0.05, elastic_net_param, standardization: true };
        let training = train_on(&options, &table, 7).await.unwrap();
        let named = |wanted: &str| {
            training
                .warnings
                .iter()
                .any(|warning| matches!(warning, Warning::Redundant { feature, .. } if feature == wanted))
        };
        assert!(named("one") && named("twice"), "{:?}", training.warnings);
        let model = training.model;
        assert!(model.statistics.is_none() && model.coefficients[3] == 0.0);
        assert!(elastic_net_param < 1.0 || model.coefficients.iter().filter(|value| **value == 0.0).count() > 20);
        assert!(model.test.unwrap().mean.skill.unwrap() > 0.3);
    }
}

/// A weight of 2 is a row twice, but for the degrees of freedom.
#[tokio::test]
async fn a_weight_counts_like_rows() {
    let plain = line(300);
    let weights: Vec<f64> = (0..300).map(|row| f64::from(1 + row % 3)).collect();
    let mut weighted: Vec<ArrayRef> = plain.columns().to_vec();
    weighted.push(Arc::new(Float64Array::from(weights.clone())));
    let schema = Schema::new(["a", "b", "y", "w"].map(|name| Field::new(name, DataType::Float64, true)).to_vec());
    let weighted = RecordBatch::try_new(Arc::new(schema), weighted).unwrap();
    let rows: Vec<u64> = (0..300).flat_map(|row| vec![row; weights[row as usize] as usize]).collect();
    let repeated = arrow::compute::take_record_batch(&plain, &arrow::array::UInt64Array::from(rows)).unwrap();
    let mut options = options(&["a", "b"]);
    options.evaluate = Evaluate::Random { seed: 1, test_fraction: 0.0 };
    let wanted = train_on(&options, &repeated, 64).await.unwrap().model;
    options.roles.weight = Some("w".to_owned());
    let found = train_on(&options, &weighted, 64).await.unwrap().model;
    assert_eq!((found.training.rows, wanted.training.rows), (300, 600));
    assert!((found.coefficients[0] / wanted.coefficients[0] - 1.0).abs() < 1e-10);
    assert!(
        (found.train.r2 - wanted.train.r2).abs() < 1e-10 && (found.train.rmse / wanted.train.rmse - 1.0).abs() < 1e-10
    );
    assert_eq!(found.training.weights.unwrap().sum.round(), 600.0);
    let (deviation, freedom) =
        (found.statistics.unwrap().residual_standard_error, wanted.train.residual_deviation.unwrap());
    assert!((deviation.powi(2) * 297.0 / (freedom.powi(2) * 597.0) - 1.0).abs() < 1e-9);
}

#[tokio::test]
async fn what_looks_ahead_is_named_and_refused_when_strict() {
    let table = line(200);
    let mut options = options(&["a", "b"]);
    options.looking_ahead = vec![("b".to_owned(), "lead(p)".to_owned()), ("unused".to_owned(), "lead(q)".to_owned())];
    let training = train_on(&options, &table, 64).await.unwrap();
    assert_eq!(training.warnings.len(), 1);
    assert!(training.model.warnings[0].contains("'b' looks ahead: lead(p)"));
    options.strict = true;
    assert!(train_on(&options, &table, 64).await.unwrap_err().message().contains("looks ahead"));
}
