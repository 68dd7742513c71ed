//! `tidemill train` and `tidemill predict`: the real binary on real files.

use std::{
    fmt::Write,
    fs::File,
    path::Path,
    process::{Command, Output},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch},
    datatypes::Float64Type,
};
use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};
use serde_json::Value;

use crate::support;

/// buy_price, volume, volatility and sell_price = 100 + 0.9 buy_price + 2 volatility + noise in [-2000, 2000).
fn rows(count: u64) -> Vec<(f64, i64, f64, f64)> {
    // Draws without a pattern, the same on every machine.
    let draw = |seed: u64| (seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (seed << 7)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let unit = |seed: u64| (draw(seed) >> 11) as f64 / (1_u64 << 53) as f64;
    (0..count)
        .map(|row| {
            let buy = 10_000.0 + 70_000.0 * unit(4 * row + 1);
            let volume = (100.0 + 7_900.0 * unit(4 * row + 2)) as i64;
            let volatility = 0.5 + 4.5 * unit(4 * row + 3);
            let noise = 4_000.0 * (unit(4 * row + 4) - 0.5);
            (buy, volume, volatility, 100.0 + 0.9 * buy + 2.0 * volatility + noise)
        })
        .collect()
}

fn write_parquet(path: &Path, count: u64) {
    let rows = rows(count);
    let floats = |get: fn(&(f64, i64, f64, f64)) -> f64| -> ArrayRef {
        Arc::new(rows.iter().map(|row| Some(get(row))).collect::<Float64Array>())
    };
    let volume: ArrayRef = Arc::new(rows.iter().map(|row| Some(row.1)).collect::<Int64Array>());
    let batch = RecordBatch::try_from_iter([
        ("buy_price", floats(|row| row.0)),
        ("volume", volume),
        ("volatility", floats(|row| row.2)),
        ("sell_price", floats(|row| row.3)),
    ])
    .unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// As Spark writes it: no header; the last three columns are the normalised ones.
fn write_headerless_csv(path: &Path, count: u64) {
    let mut text = String::new();
    for (buy, volume, volatility, sell) in rows(count) {
        let scaled = (sell - 20_000.0) / 40_000.0;
        writeln!(text, "2026-01-01T00:00:00,{buy},{sell},{volume},{volatility},{scaled}").unwrap();
    }
    std::fs::write(path, text).unwrap();
}

fn tidemill(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(support::tidemill()).args(arguments).current_dir(directory).output().unwrap()
}

fn succeeds(directory: &Path, arguments: &[&str]) -> (String, String) {
    let output = tidemill(directory, arguments);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{arguments:?}\n{out}\n{err}");
    (out, err)
}

/// The exit code and stderr.
fn fails(directory: &Path, arguments: &[&str]) -> (i32, String) {
    let output = tidemill(directory, arguments);
    assert!(!output.status.success(), "{arguments:?}");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

const TRAIN: [&str; 6] =
    ["train", "prices.parquet", "--target", "sell_price", "--features", "buy_price,volume,volatility"];

#[test]
fn trains_reports_and_predicts_from_parquet() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    write_parquet(&here.join("prices.parquet"), 5000);
    let (out, err) = succeeds(here, &TRAIN);
    for wanted in [
        "Features: [buy_price, volume, volatility]",
        "Coefficients: [0.",
        "Intercept: ",
        "| prediction",
        "only showing top 20 rows",
        "Root Mean Squared Error (RMSE): 11",
        "the value before",
        "5000 rows read",
        "saved as sell_price@1 in models/sell_price/1.json",
    ] {
        assert!(out.contains(wanted), "no {wanted:?} in\n{out}");
    }
    assert_eq!(err, "");

    let json: Value = serde_json::from_str(&succeeds(here, &[&TRAIN[..], &["--format", "json"]].concat()).0).unwrap();
    assert_eq!(json["reference"], "sell_price@2");
    assert_eq!(json["predictions"].as_array().unwrap().len(), 20);
    let coefficient = json["model"]["coefficients"][0].as_f64().unwrap();
    assert!((coefficient - 0.9).abs() < 5e-3, "{coefficient}");

    succeeds(here, &["predict", "prices.parquet", "--model", "sell_price", "--output", "out.parquet"]);
    let file = File::open(here.join("out.parquet")).unwrap();
    let batches: Vec<RecordBatch> =
        ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().map(Result::unwrap).collect();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 5000);
    let errors = batches[0].column_by_name("prediction").unwrap().as_primitive::<Float64Type>().values().iter();
    let actual = batches[0].column_by_name("sell_price").unwrap().as_primitive::<Float64Type>().values();
    assert!(errors.zip(actual).all(|(prediction, actual)| (prediction - actual).abs() < 2_200.0));
    let (code, err) = fails(here, &["predict", "prices.parquet", "--model", "sell_price", "--output", "out.parquet"]);
    assert!(code == 1 && err.contains("out.parquet is there already") && err.contains("--overwrite"), "{err}");
    let again = ["predict", "prices.parquet", "--model", "sell_price", "--output", "out.parquet", "--overwrite"];
    succeeds(here, &again);

    let (lines, _) = succeeds(
        here,
        &["predict", "SELECT * FROM 'prices.parquet' LIMIT 7", "--model", "sell_price@1", "--format", "ndjson"],
    );
    assert_eq!(lines.lines().count(), 7);
    assert!(lines.lines().all(|line| serde_json::from_str::<Value>(line).unwrap()["prediction"].is_f64()));
    let (array, _) = succeeds(here, &["predict", "prices.parquet", "--model", "sell_price", "--format", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&array).unwrap().as_array().unwrap().len(), 5000);
    let (csv, _) = succeeds(here, &["predict", "prices.parquet", "--model", "sell_price", "--format", "csv"]);
    assert_eq!(csv.lines().count(), 5001);
    assert!(csv.starts_with("buy_price,volume,volatility,sell_price,prediction\n"), "{}", &csv[..100]);
    let (table, _) = succeeds(here, &["predict", "prices.parquet", "--model", "sell_price", "--show", "2"]);
    assert!(table.contains("only showing top 2 rows") && table.lines().count() == 7, "{table}");
}

#[test]
fn reads_headerless_csv_and_warns_of_the_leak() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    write_headerless_csv(&here.join("part-0.csv"), 2000);
    let columns = "timestamp TIMESTAMP, buy_price:DOUBLE, sell_price:DOUBLE,volume:BIGINT,volatility:DECIMAL(20,10),\
                   change_24h:DOUBLE";
    let train = |features: &'static str| {
        vec!["train", "part-0.csv", "--columns", columns, "--target", "sell_price", "--features", features]
    };
    let (out, err) = succeeds(here, &train("buy_price,volume,volatility"));
    assert!(out.contains("2000 rows read") && err.is_empty(), "{out}{err}");
    let (_, err) = succeeds(here, &train("buy_price,change_24h"));
    assert!(err.contains("warning: the feature 'change_24h' is the target in other units"), "{err}");
    assert!(err.contains("sell_price = 40000 * change_24h + 20000"), "{err}");
    let (code, err) = fails(here, &[train("buy_price,change_24h"), vec!["--strict"]].concat());
    assert!(code == 2 && err.contains("change_24h"), "{err}");
    let (code, err) = fails(here, &train("buy_price,timestamp"));
    assert!(code == 2 && err.contains("date_part('epoch', timestamp)"), "{err}");
    let saved = std::fs::read_dir(here.join("models/sell_price")).unwrap().count();
    assert_eq!(saved, 2, "what was refused is not saved");
    let (csv, err) = succeeds(here, &[train("buy_price"), vec!["--format", "csv", "--show", "3"]].concat());
    assert_eq!(csv.lines().count(), 4);
    assert!(csv.starts_with("prediction,sell_price,features\n") && err.contains("RMSE"), "{csv}{err}");
}

#[test]
fn says_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    write_parquet(&here.join("prices.parquet"), 100);
    let train = |source: &'static str, target: &'static str, features: &'static str| {
        fails(here, &["train", source, "--target", target, "--features", features])
    };
    let says = |(code, err): (i32, String), wanted_code: i32, wanted: &str| {
        assert!(code == wanted_code && err.contains(wanted), "{code}: {err}\nnot {wanted}");
    };
    says(train("price.parquet", "sell_price", "volume"), 2, "there is no file to read at price.parquet");
    says(train("prices.parquet", "sell_pric", "volume"), 2, "did you mean 'sell_price'?");
    says(train("prices.parquet", "sell_price", "volume,,volatility"), 2, "empty name");
    says(train("prices.parquet", "sell_price", "volume,volume"), 2, "the feature 'volume' is given twice");
    says(
        train("prices.parquet", "sell_price", "volume,sell_price"),
        2,
        "the target 'sell_price' is also a feature\nhelp: leave it out of --features",
    );
    says(train("SELECT * FROM nowhere", "sell_price", "volume"), 2, "nowhere");
    says(
        train("SELECT volume, volume * 2 AS v, sell_price FROM 'prices.parquet'", "sell_price", "volume,v"),
        2,
        "'v': it equals 2 * volume",
    );
    says(
        train("SELECT * FROM 'prices.parquet' LIMIT 3", "sell_price", "buy_price,volume,volatility"),
        2,
        "training rows are too few for 4 coefficients",
    );
    says(fails(here, &[&TRAIN[..], &["--test-fraction", "1.5"]].concat()), 2, "between 0 and 1");
    says(fails(here, &[&TRAIN[..], &["--model", "../escape"]].concat()), 2, "cannot be a model's name");
    says(fails(here, &["predict", "prices.parquet", "--model", "absent"]), 2, "there is no model 'absent' in models");
    assert!(!here.join("models").exists());

    succeeds(here, &TRAIN);
    let other = "SELECT buy_price, CAST(volume AS VARCHAR) AS volume, volatility FROM 'prices.parquet'";
    says(
        fails(here, &["predict", other, "--model", "sell_price"]),
        2,
        "'volume' is Utf8, but the model was trained on Int64",
    );
    let path = here.join("models/sell_price/1.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &text[..text.len() - 200]).unwrap();
    says(fails(here, &["predict", "prices.parquet", "--model", "sell_price"]), 1, "models/sell_price/1.json");
}

#[test]
fn rows_that_cannot_be_used_are_counted_by_column() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    write_parquet(&here.join("prices.parquet"), 1000);
    let query = "SELECT sell_price, CASE WHEN volume % 10 = 0 THEN NULL ELSE volume END AS volume, \
                 CASE WHEN volume % 10 = 1 THEN buy_price / 0.0 ELSE buy_price END AS buy_price FROM 'prices.parquet'";
    let (out, _) = succeeds(here, &["train", query, "--target", "sell_price", "--features", "volume,buy_price"]);
    let (nulls, infinite) = rows(1000).iter().fold((0, 0), |(nulls, infinite), row| {
        (nulls + u64::from(row.1 % 10 == 0), infinite + u64::from(row.1 % 10 == 1))
    });
    let dropped = nulls + infinite;
    let wanted = format!("{dropped} dropped (volume: {nulls} null; buy_price: {infinite} not finite)");
    assert!(out.contains(&wanted), "no {wanted:?} in\n{out}");
}

/// It ran around the query, where an ORDER BY means nothing: rows came in the order of the file.
#[test]
fn the_order_of_the_query_is_that_of_the_rows() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let rows: Vec<String> = (0..50).map(|at| format!("{},{}", (at * 37) % 50, at)).collect();
    std::fs::write(here.join("t.csv"), format!("place,y\n{}\n", rows.join("\n"))).unwrap();
    let sql = "SELECT y, place FROM 't.csv' ORDER BY place";
    let train = ["train", sql, "--target", "y", "--features", "", "--evaluate", "chronological", "--format", "csv"];
    let (csv, _) = succeeds(here, &train);
    let shown: Vec<f64> = csv.lines().skip(1).map(|line| line.split(',').nth(1).unwrap().parse().unwrap()).collect();
    let wanted: Vec<f64> =
        (40..50).map(|place| (0..50).find(|at| (at * 37) % 50 == place).unwrap()).map(f64::from).collect();
    assert_eq!(shown, wanted);
}
