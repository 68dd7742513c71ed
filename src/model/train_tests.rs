use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::stream;
use rand::{Rng, SeedableRng};

use super::*;

fn options(features: &[&str]) -> TrainOptions {
    TrainOptions {
        name: "m".to_owned(),
        source: "test".to_owned(),
        target: "y".to_owned(),
        features: features.iter().map(|name| (*name).to_owned()).collect(),
        seed: 42,
        test_fraction: 0.2,
        drop_redundant: false,
        strict: false,
        rows_shown: 3,
    }
}

fn table(columns: &[(&str, Vec<f64>)]) -> RecordBatch {
    let fields: Vec<Field> = columns.iter().map(|(name, _)| Field::new(*name, DataType::Float64, true)).collect();
    let arrays = columns.iter().map(|(_, values)| Arc::new(Float64Array::from(values.clone())) as ArrayRef);
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays.collect()).unwrap()
}

/// Trains on the rows of `table`, in batches of `chunk`.
async fn train_on(options: &TrainOptions, table: &RecordBatch, chunk: usize) -> Result<Training> {
    let query = || {
        let rows = table.num_rows();
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
    let test = model.test.unwrap();
    assert_eq!(model.training.rows + test.rows, 2000);
    assert!(test.model.r2.unwrap() > 0.99 && test.mean.skill.unwrap() > 0.9 && test.last_value.skill.unwrap() > 0.9);
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
    let (mut own, mut naive, mut last) = (ErrorSums::default(), ErrorSums::default(), ErrorSums::default());
    let centre = tested.iter().map(|row| y[*row]).sum::<f64>() / tested.len() as f64;
    let spread = tested.iter().map(|row| (y[*row] - centre).powi(2)).sum();
    for &row in &tested {
        own.add(y[row] - model.intercept - model.coefficients[0] * a[row] - model.coefficients[1] * b[row]);
        naive.add(y[row] - mean);
        last.add(y[row] - y[row - 1]);
    }
    let test = model.test.unwrap();
    let near = |found: f64, wanted: f64| assert!((found / wanted - 1.0).abs() < 1e-9, "{found} {wanted}");
    let rows = tested.len() as u64;
    assert_eq!(test.rows, rows);
    near(test.model.rmse, own.score(rows, spread).rmse);
    near(test.model.mae, own.score(rows, spread).mae);
    near(test.model.r2.unwrap(), own.score(rows, spread).r2.unwrap());
    near(test.mean.rmse, naive.score(rows, spread).rmse);
    near(test.mean.mae, naive.score(rows, spread).mae);
    near(test.last_value.rmse, last.score(rows, spread).rmse);
    near(test.last_value.mae, last.score(rows, spread).mae);
    near(test.last_value.r2.unwrap(), last.score(rows, spread).r2.unwrap());
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
    assert!((test.last_value.rmse - (1.0_f64 / 12.0).sqrt()).abs() < 0.02, "{test:?}");
    assert!(test.last_value.skill.unwrap() < -1.0, "{test:?}");
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
    options.test_fraction = 0.0;
    let training = train_on(&options, &table, 2).await.unwrap();
    assert_eq!(training.warnings, [Warning::NoFreedom { rows: 2 }, Warning::NoTestRows]);
    assert_eq!(training.model.train.residual_deviation, None);
    assert!((training.model.intercept - 1.0).abs() < 1e-12);
}

#[tokio::test]
async fn without_features_the_model_is_the_mean() {
    let training = train_on(&options(&[]), &line(200), 30).await.unwrap();
    let test = training.model.test.unwrap();
    assert!((test.model.rmse - test.mean.rmse).abs() < 1e-12);
    let (predictor, table) = (super::super::Predictor::new(&training.model, &line(1).schema()).unwrap(), line(5));
    assert_eq!(predictor.apply(&table).unwrap().num_columns(), 4);
}

#[tokio::test]
async fn a_query_that_changes_is_found_out() {
    let calls = std::sync::atomic::AtomicU64::new(0);
    let query = || {
        let call = calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let table = table(&[("a", noise(500, call)), ("y", noise(500, 9 + call))]);
        let stream = RecordBatchStreamAdapter::new(table.schema(), stream::iter([Ok(table)]));
        std::future::ready(Ok(Box::pin(stream) as SendableRecordBatchStream))
    };
    let error = train(&options(&["a"]), query, &|_| ()).await.unwrap_err();
    assert!(error.message().contains("other rows when it ran the second time"), "{error}");
}
