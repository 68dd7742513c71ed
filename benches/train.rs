//! Training: rows of six features reduced to a QR factor, and solved; and predicting them.

use std::{fs, process::Command, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, Float64Array, RecordBatch},
    datatypes::{DataType, Field, Float64Type, Schema},
};
use datafusion::{execution::SendableRecordBatchStream, physical_plan::stream::RecordBatchStreamAdapter};
use futures::stream;
use parquet::{arrow::ArrowWriter, basic::Compression, file::properties::WriterProperties};
use tidemill::model::{Predictor, TrainOptions, dataset::Roles, train};

use crate::measure::{cpu_s, process};

const ROWS: usize = 1_000_000;
/// Of the file.
const FILE_ROWS: usize = 10_000_000;
const BATCH_ROWS: usize = 8_192;
const ROUNDS: usize = 10;
const COEFFICIENTS: [f64; 6] = [0.5, -2.0, 3e-3, 1e-6, 40.0, 7.0];
const SCALES: [f64; 6] = [5e4, 10.0, 8e3, 1e6, 1.0, 0.1];

/// Prints rows per CPU second of one training with its two passes, and of predicting.
pub fn run() {
    let batches = data(1);
    let options = TrainOptions {
        name: "bench".to_owned(),
        source: "bench".to_owned(),
        roles: Roles {
            target: "y".to_owned(),
            features: (0..6).map(|k| format!("x{k}")).collect(),
            ..Roles::default()
        },
        ..TrainOptions::default()
    };
    let query = |_| {
        let again: Vec<_> = batches.iter().cloned().map(Ok).collect();
        let stream = RecordBatchStreamAdapter::new(batches[0].schema(), stream::iter(again));
        std::future::ready(Ok(Box::pin(stream) as SendableRecordBatchStream))
    };
    let start = cpu_s();
    let mut model = None;
    for _ in 0..ROUNDS {
        model = Some(futures::executor::block_on(train(&options, query, &|_| ())).expect("trains").model);
    }
    let seconds = (cpu_s() - start) / ROUNDS as f64;
    let model = model.expect("trained");
    assert_eq!(model.training.counts.read, ROWS as u64);
    assert_eq!(model.training.rows + model.training.test_rows, ROWS as u64);
    assert!((model.intercept - 100.0).abs() < 1e-2, "{}", model.intercept);
    for ((found, wanted), scale) in model.coefficients.iter().zip(COEFFICIENTS).zip(SCALES) {
        assert!((found - wanted).abs() * scale < 1e-2, "{found} {wanted}");
    }
    println!(
        "train: {:.1} million rows a CPU second ({ROWS} rows x 6 features, two passes)",
        ROWS as f64 / seconds / 1e6
    );

    let predictor = Predictor::new(&model, &batches[0].schema(), None).expect("the schema fits");
    let start = cpu_s();
    let mut rows = 0;
    for _ in 0..ROUNDS {
        for batch in &batches {
            let predicted = predictor.apply(batch).expect("predicts");
            rows += predicted.column(7).as_primitive::<Float64Type>().len();
        }
    }
    let seconds = cpu_s() - start;
    assert_eq!(rows, ROWS * ROUNDS);
    println!("predict: {:.0} million rows a CPU second (6 features)", rows as f64 / seconds / 1e6);
}

fn schema() -> Arc<Schema> {
    let fields: Vec<Field> = (0..6)
        .map(|k| format!("x{k}"))
        .chain(["y".to_owned()])
        .map(|n| Field::new(n, DataType::Float64, false))
        .collect();
    Arc::new(Schema::new(fields))
}

/// y = 100 + coefficients . x + noise in [-0.5, 0.5).
fn data(seed: u64) -> Vec<RecordBatch> {
    let mut state = seed;
    let mut draw = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    let schema = schema();
    (0..ROWS)
        .step_by(BATCH_ROWS)
        .map(|start| {
            let rows = BATCH_ROWS.min(ROWS - start);
            let mut columns: Vec<Vec<f64>> = (0..7).map(|_| Vec::with_capacity(rows)).collect();
            for _ in 0..rows {
                let mut target = 99.5 + draw();
                for k in 0..6 {
                    let value = SCALES[k] * draw();
                    target += COEFFICIENTS[k] * value;
                    columns[k].push(value);
                }
                columns[6].push(target);
            }
            let arrays = columns.into_iter().map(|values| Arc::new(Float64Array::from(values)) as ArrayRef);
            RecordBatch::try_new(Arc::clone(&schema), arrays.collect()).expect("one length")
        })
        .collect()
}

/// One training as a user runs it: a process that reads 10 million rows from a Parquet file, twice.
pub fn from_parquet() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("rows.parquet");
    let file = fs::File::create(&path).expect("a file");
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer = ArrowWriter::try_new(file, schema(), Some(properties)).expect("a writer");
    for seed in 0..FILE_ROWS / ROWS {
        data(1 + seed as u64).iter().for_each(|batch| writer.write(batch).expect("writes"));
    }
    writer.close().expect("closes");
    let features: Vec<String> = (0..6).map(|k| format!("x{k}")).collect();
    let train = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command.current_dir(directory.path()).args(["train", "rows.parquet", "--target", "y", "--features"]);
        process(command.arg(features.join(",")).args(more))
    };
    let columns = features.join(", ");
    let query = |sql: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        process(command.current_dir(directory.path()).args(["query", sql]))
    };
    for (name, more) in [("random split", &[][..]), ("walk-forward, 5 folds", &["--evaluate", "walk-forward"])] {
        let usage = train(more);
        println!(
            "train {FILE_ROWS} rows x 6 features from Parquet, {name}: {:.2} CPU s, {:.2} s, {:.0} MB",
            usage.cpu_s, usage.wall_s, usage.resident_mb
        );
    }
    let read = query(&format!("SELECT sum({}) FROM 'rows.parquet'", features.join("), sum(")));
    for call in [
        format!("predict('y', {columns})) FROM 'rows.parquet'"),
        format!("prediction) FROM ML_PREDICT(TABLE 'rows.parquet', MODEL y, DESCRIPTOR({columns}))"),
    ] {
        let usage = query(&format!("SELECT sum({call}"));
        println!(
            "{} of {FILE_ROWS} rows x 6 features from Parquet: {:.2} CPU s, {:.0} million rows a CPU second; {:.2} CPU s to \
             add up the features instead",
            if call.contains("ML_PREDICT") { "ML_PREDICT" } else { "predict" },
            usage.cpu_s,
            FILE_ROWS as f64 / usage.cpu_s / 1e6,
            read.cpu_s
        );
    }
}
