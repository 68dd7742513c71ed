//! Replaying files.

use std::{fs, path::Path, sync::Arc as StdArc};

use arrow::{
    array::{Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray},
    datatypes::{DataType, Field, Schema, TimeUnit},
};
use tidemill::{
    error::ErrorKind,
    produce::{
        pace::Rate,
        replay::{self, ReplayOptions, Timing},
    },
};

use super::*;

const LONG: Duration = Duration::from_secs(20);

fn options(file: &Path) -> ReplayOptions {
    ReplayOptions {
        file: file.to_owned(),
        format: None,
        key_column: None,
        time_column: None,
        columns: None,
        timing: Timing::Rate(Rate::Max),
    }
}

async fn replayed(options: &ReplayOptions) -> Vec<String> {
    let lines = Lines::default();
    let mut output = lines.output(None, LONG);
    replay::run(options, &mut output).await.unwrap();
    finish(output, &lines).await.1
}

async fn refused(options: &ReplayOptions) -> (tidemill::error::Error, Vec<String>) {
    let lines = Lines::default();
    let mut output = lines.output(None, LONG);
    let error = replay::run(options, &mut output).await.unwrap_err();
    (error, finish(output, &lines).await.1)
}

#[tokio::test]
async fn json_lines_arrive_byte_for_byte_with_their_keys() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("prices.jsonl");
    let lines = [
        r#"{ "symbol":"BTCUSDT" , "price": 1.500, "n": 1e3}"#,
        r#"{"price": 2, "symbol": "E\u0054H", "nested": {"symbol": "no"}, "list": [1, {"symbol": 2}]}"#,
        r#"{"price": 3, "symbol": null}"#,
        r#"{"price": 4, "symbol": 77}"#,
    ];
    fs::write(&file, format!("{}\r\n{}\n\n{}\n{}", lines[0], lines[1], lines[2], lines[3])).unwrap();
    let topic = support::unique("produce-replay");
    let mut output = topic_output(&topic, 1, 100).await.unwrap();
    let options = ReplayOptions { key_column: Some("symbol".into()), ..options(&file) };
    replay::run(&options, &mut output).await.unwrap();
    let (report, outcome) = output.finish().await;
    outcome.unwrap();
    assert_eq!(report.totals.delivered, 4);
    let keys = [Some("BTCUSDT"), Some("ETH"), None, Some("77")];
    for ((_, key, value), (line, expected)) in consume(&topic).into_iter().zip(lines.iter().zip(keys)) {
        assert_eq!(value, line.as_bytes());
        assert_eq!(key.as_deref(), expected.map(str::as_bytes));
    }
}

#[tokio::test]
async fn a_bad_line_is_named_and_the_good_ones_before_it_are_sent() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("prices.jsonl");
    for bad in ["{\"a\": ", "[1]", "{\"a\": 1} x", "{'a': 1}", "null"] {
        fs::write(&file, format!("{{\"a\": 1}}\n\n{bad}\n{{\"a\": 2}}\n")).unwrap();
        let (error, lines) = refused(&options(&file)).await;
        assert!(error.message().contains("prices.jsonl, line 3: "), "{error}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(lines, [r#"{"a": 1}"#], "{bad}");
    }
    let csv = directory.path().join("prices.csv");
    fs::write(&csv, "a,b\n1,2\n3\n").unwrap();
    let (error, _) = refused(&options(&csv)).await;
    assert!(error.message().contains("prices.csv") && error.message().contains("line 3"), "{error}");
    fs::write(&csv, "a,t\n1,2026-01-01\n2,soon\n").unwrap();
    let timed = ReplayOptions { time_column: Some("t".into()), timing: Timing::Recorded(1.0), ..options(&csv) };
    let (error, _) = refused(&timed).await;
    assert!(error.message().contains("row 2") && error.message().contains("'soon'"), "{error}");
}

#[tokio::test]
async fn a_record_without_the_key_or_the_time_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("prices.jsonl");
    fs::write(&file, "{\"s\": \"A\", \"t\": null}\n{\"s\": null}\n{\"t\": 1, \"x\": {\"s\": 1}}\n").unwrap();
    let keyed = ReplayOptions { key_column: Some("s".into()), ..options(&file) };
    let (error, lines) = refused(&keyed).await;
    assert!(error.to_string().contains("prices.jsonl, line 3: the record has no field 's'"), "{error}");
    assert!(error.to_string().contains("--key-column") && lines.len() == 2, "{error} {lines:?}");
    let timed = ReplayOptions { time_column: Some("t".into()), timing: Timing::Recorded(1.0), ..options(&file) };
    let (error, lines) = refused(&timed).await;
    assert!(error.to_string().contains("line 2: the record has no field 't'"), "{error}");
    assert!(error.to_string().contains("--time-column") && lines.len() == 1, "{error}");
}

#[tokio::test]
async fn csv_rows_become_objects_with_types() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("prices.csv");
    let rows = "1.5,7,true,2026-01-01T00:00:00.5,\"a \"\"b\"\"\"\n2,,false,2026-01-01,\"x\ny\"\n";
    fs::write(&file, format!("price,volume,up,at,text\n{rows}")).unwrap();
    let expected = [
        r#"{"price":1.5,"volume":7,"up":true,"at":"2026-01-01T00:00:00.5","text":"a \"b\""}"#,
        r#"{"price":2.0,"volume":null,"up":false,"at":"2026-01-01","text":"x\ny"}"#,
    ];
    assert_eq!(replayed(&options(&file)).await, expected);
    fs::write(&file, rows).unwrap();
    let names = ["price", "volume", "up", "at", "text"].map(str::to_owned).to_vec();
    assert_eq!(replayed(&ReplayOptions { columns: Some(names), ..options(&file) }).await, expected);
    let (error, _) = refused(&ReplayOptions { columns: Some(vec!["a".into()]), ..options(&file) }).await;
    assert!(error.message().contains("names 1 columns, the first line has 5"), "{error}");
}

#[tokio::test]
async fn parquet_rows_become_objects() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("prices.parquet");
    let schema = StdArc::new(Schema::new(vec![
        Field::new("symbol", DataType::Utf8, true),
        Field::new("price", DataType::Float64, true),
        Field::new("volume", DataType::Int64, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, None), true),
    ]));
    let batch = RecordBatch::try_new(
        StdArc::clone(&schema),
        vec![
            StdArc::new(StringArray::from_iter((0..3_000).map(|n| Some(format!("S{}", n % 3))))),
            StdArc::new(Float64Array::from_iter((0..3_000).map(|n| (n % 2 == 0).then_some(f64::from(n) / 4.0)))),
            StdArc::new(Int64Array::from_iter_values(0..3_000)),
            StdArc::new(TimestampMillisecondArray::from_iter_values((0..3_000).map(|n| 1_767_225_600_000 + n))),
        ],
    )
    .unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(fs::File::create(&file).unwrap(), schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let options = ReplayOptions {
        key_column: Some("symbol".into()),
        time_column: Some("at".into()),
        timing: Timing::Recorded(100.0),
        ..options(&file)
    };
    let lines = replayed(&options).await;
    assert_eq!(lines.len(), 3_000);
    assert_eq!(lines[0], r#"{"symbol":"S0","price":0.0,"volume":0,"at":"2026-01-01T00:00:00"}"#);
    assert_eq!(lines[2_999], r#"{"symbol":"S2","price":null,"volume":2999,"at":"2026-01-01T00:00:02.999"}"#);
    let misspelt = ReplayOptions { key_column: Some("symbl".into()), ..options };
    let (error, _) = refused(&misspelt).await;
    assert!(error.to_string().contains("did you mean 'symbol'?"), "{error}");
}

#[tokio::test]
async fn recorded_speed_and_rate_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("prices.jsonl");
    let times = ["2026-01-01T00:00:00", "2026-01-01T00:00:05", "2026-01-01T00:00:04", "2026-01-01T00:00:10"];
    fs::write(&file, times.map(|time| format!("{{\"t\": \"{time}\"}}\n")).concat()).unwrap();
    let timed = ReplayOptions { time_column: Some("t".into()), timing: Timing::Recorded(10.0), ..options(&file) };
    for options in [timed, ReplayOptions { timing: Timing::Rate(Rate::PerSecond(3.0)), ..options(&file) }] {
        let start = Instant::now();
        assert_eq!(replayed(&options).await.len(), 4);
        let elapsed = start.elapsed();
        assert!((Duration::from_millis(950)..Duration::from_millis(2_500)).contains(&elapsed), "{elapsed:?}");
    }
}

#[tokio::test]
async fn files_that_are_none_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (error, _) = refused(&options(&directory.path().join("none.csv"))).await;
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let other = directory.path().join("prices.txt");
    fs::write(&other, "x").unwrap();
    let (error, _) = refused(&options(&other)).await;
    assert!(error.to_string().contains("--format"), "{error}");
    let broken = directory.path().join("prices.parquet");
    fs::write(&broken, "not parquet").unwrap();
    let (error, _) = refused(&options(&broken)).await;
    assert!(error.message().contains("prices.parquet"), "{error}");
}
