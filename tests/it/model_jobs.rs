//! Whole training jobs: two pipelines as their authors wrote them, with the answer among the features, and the honest
//! version beside each; models from their features' SQL to their promotion; regressions in a stream.

use std::{fmt::Write, path::Path, process::Command};

use serde_json::Value;

use crate::support::{
    self,
    job::{JobText, TestJob, send},
};

/// Draws in [0, 1) without a pattern, the same on every machine.
fn unit(seed: u64) -> f64 {
    let mut z = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// About normal, with deviation 1.
fn normal(seed: u64) -> f64 {
    (0..12).map(|at| unit(seed * 12 + at)).sum::<f64>() - 6.0
}

fn clock(second: usize) -> String {
    format!("2026-01-{:02}T{:02}:{:02}:{:02}", 1 + second / 86_400, second / 3600 % 24, second / 60 % 60, second % 60)
}

/// stdout, stderr.
fn tidemill(directory: &Path, arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(support::tidemill()).args(arguments).current_dir(directory).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn succeeds(directory: &Path, arguments: &[&str]) -> (String, String) {
    let (ok, out, err) = tidemill(directory, arguments);
    assert!(ok, "{arguments:?}\n{out}\n{err}");
    (out, err)
}

fn refused(directory: &Path, arguments: &[&str]) -> String {
    let (ok, out, err) = tidemill(directory, arguments);
    assert!(!ok, "{arguments:?}\n{out}\n{err}");
    err
}

/// Compares with a file of `tests/golden`: words exactly, numbers to six digits, for machines differ in the last ones.
pub fn golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var("TIDEMILL_GOLDEN").as_deref() == Ok("write") {
        std::fs::write(&path, found).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap();
    let words = |text: &str| -> Vec<String> {
        text.split(|c: char| c.is_whitespace() || "[],;()|".contains(c))
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let rules = |word: &str| word.starts_with("+-");
    let (found_words, wanted_words) = (words(found), words(&wanted));
    let pairs = found_words.iter().filter(|word| !rules(word)).zip(wanted_words.iter().filter(|word| !rules(word)));
    for (found_word, wanted_word) in pairs {
        let same = match (found_word.parse::<f64>(), wanted_word.parse::<f64>()) {
            // What is 0 but for rounding is not the same number twice.
            (Ok(found), Ok(wanted)) => {
                (found - wanted).abs() <= 1e-6 * wanted.abs() || found.abs().max(wanted.abs()) < 1e-6
            }
            _ => found_word == wanted_word,
        };
        assert!(same, "{name}: {found_word} is not {wanted_word} in\n{found}");
    }
    assert_eq!(found_words.len(), wanted_words.len(), "{name}:\n{found}");
}

/// Ticks as the bitcoin pipeline stores them: no header, and after the prices the same prices scaled.
fn write_ticks(path: &Path, count: usize) {
    let mut text = String::new();
    for row in 0..count {
        let draw = |at: u64| unit(4 * row as u64 + at);
        let (buy, sell) = (10_000.0 + 70_000.0 * draw(1), 10_000.0 + 70_000.0 * draw(2));
        let (volume, volatility) = (100.0 + (7_900.0 * draw(3)).floor(), 0.5 + 4.5 * draw(4));
        let scaled = |value: f64, low: f64, high: f64| (value - low) / (high - low);
        let (one, day, spread) = (scaled(buy, 2e4, 6e4), scaled(sell, 2e4, 6e4), scaled(volume, 1e3, 5e3));
        writeln!(text, "{},{buy},{sell},{volume},{volatility},{one},{day},{spread}", clock(row)).unwrap();
    }
    std::fs::write(path, text).unwrap();
}

/// The job reads the scaled columns as `change_1h`, `change_24h` and `spread`: the answer in other units. Its error near
/// zero means nothing, and it is told; a second later nothing can be foretold, and that is told too.
#[test]
fn the_ticks_as_written_and_honestly() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    write_ticks(&here.join("bitcoin_data.csv"), 3000);
    let columns = "timestamp TIMESTAMP, buy_price DOUBLE, sell_price DOUBLE, volume DOUBLE, volatility DOUBLE, \
                   change_1h DOUBLE, change_24h DOUBLE, spread DOUBLE";
    let source = ["train", "bitcoin_data.csv", "--columns", columns, "--target", "sell_price", "--show", "5"];
    let job = [
        "--features",
        "buy_price,volume,volatility,change_1h,change_24h,spread",
        "--seed",
        "42",
        "--test-fraction",
        "0.2",
    ];
    let err = refused(here, &[&source[..], &job].concat());
    assert!(err.contains("'change_1h': it equals 2.5e-5 * buy_price - 0.5"), "{err}");
    let (out, err) = succeeds(here, &[&source[..], &job, &["--drop-redundant"]].concat());
    assert!(err.contains("warning: the feature 'change_24h' is the target in other units"), "{err}");
    assert!(err.contains("sell_price = 40000 * change_24h + 20000"), "{err}");
    // The table is about rounding errors: they differ from machine to machine.
    let (before, table) = out.split_once("Residuals:").unwrap();
    let after = table.split_once("\n+---").unwrap().1;
    golden("ticks_as_written.txt", &format!("{before}+---{after}"));
    let err = refused(here, &[&source[..], &job, &["--drop-redundant", "--strict"]].concat());
    assert!(err.contains("change_24h"), "{err}");

    let honest =
        ["--features", "sell_price,buy_price,volume,volatility", "--time", "timestamp", "--horizon", "1s", "--strict"];
    let (out, err) = succeeds(here, &[&source[..], &honest].concat());
    golden("ticks_honest.txt", &out);
    let shown = succeeds(here, &["models", "show", "sell_price_in_1s", "--format", "json"]).0;
    let model: Value = serde_json::from_str(&shown).unwrap();
    let skill = model["test"]["mean"]["skill"].as_f64().unwrap();
    assert!(skill.abs() < 0.02, "independent prices cannot be foretold: {skill}");
    assert!(skill > 0.0 || err.contains("no better than the mean"), "{err}");
}

/// A day of candles of a minute.
fn write_candles(path: &Path) {
    let mut text = String::from("timestamp,Open,High,Low,Close,Volume\n");
    let mut price = 60_000.0;
    for minute in 0..1440_usize {
        let open = price;
        let (mut high, mut low) = (open, open);
        for step in 0..12 {
            price += 9.0 * normal((minute * 12 + step) as u64);
            high = f64::max(high, price);
            low = f64::min(low, price);
        }
        let volume = (900.0 * unit(minute as u64 + 1_000_000)).floor() + 1.0;
        writeln!(text, "{},{open:.2},{high:.2},{low:.2},{price:.2},{volume}", clock(minute * 60)).unwrap();
    }
    std::fs::write(path, text).unwrap();
}

/// The page's model explains a close by the same minute's open, high, low and return, which is made of the close.
#[test]
fn the_candles_as_written_and_honestly() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    write_candles(&here.join("candles.csv"));
    let query = "SELECT timestamp, \"Open\", \"High\", \"Low\", \"Close\", \"Volume\", \
                 \"Close\" / lag(\"Close\") OVER (ORDER BY timestamp) - 1 AS \"Return\" FROM input";
    let source = ["train", "candles.csv", "--query", query, "--target", "Close", "--show", "5"];
    let job = ["--features", "Open,High,Low,Volume,Return"];
    let (out, err) = succeeds(here, &[&source[..], &job].concat());
    assert!(err.contains("too good to be true"), "{err}");
    golden("candles_as_written.txt", &out);
    let strict = refused(here, &[&source[..], &job, &["--strict"]].concat());
    assert!(strict.contains("too good to be true"), "{strict}");
    // In the order of time it is the same leak.
    let strict = refused(here, &[&source[..], &job, &["--strict", "--time", "timestamp"]].concat());
    assert!(strict.contains("too good to be true"), "{strict}");

    let honest = ["--features", "Open,High,Low,Close,Volume,Return", "--time", "timestamp", "--horizon", "1m"];
    let walk = ["--evaluate", "walk-forward", "--folds", "4", "--season", "1h", "--strict", "--report", "model.svg"];
    let (out, err) = succeeds(here, &[&source[..], &honest, &walk].concat());
    golden("candles_honest.txt", &out);
    let shown = succeeds(here, &["models", "show", "Close_in_1m", "--format", "json"]).0;
    let model: Value = serde_json::from_str(&shown).unwrap();
    let skill = model["test"]["last_value"]["skill"].as_f64().unwrap();
    // Nine figures fitted to the noise of some hundred rows lose a little, and that is told.
    assert!((-0.1..0.03).contains(&skill), "a random walk cannot be foretold: {skill}");
    assert!(err.contains("no better than the value before"), "{err}");
    let svg = std::fs::read_to_string(here.join("model.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("Predicted against actual") && svg.trim_end().ends_with("</svg>"));
    // The saved query makes the features of new candles.
    let (predicted, _) =
        succeeds(here, &["predict", "candles.csv", "--model", "Close_in_1m", "--format", "csv", "--interval", "0.9"]);
    assert!(predicted.lines().next().unwrap().ends_with("Return,prediction,prediction_low,prediction_high"));
    assert_eq!(predicted.lines().count(), 1441);
}

/// y(t + 10 s) follows from y(t); two symbols lie beside one another, at uneven times.
fn write_series(path: &Path) {
    let mut text = String::from("ts,symbol,y,weight\n");
    let mut values = [100.0, 500.0];
    for step in 0..2000_usize {
        for (at, (value, symbol)) in values.iter_mut().zip(["ETH", "BTC"]).enumerate() {
            let centre = if at == 0 { 100.0 } else { 500.0 };
            *value = centre + 0.8 * (*value - centre) + normal((2 * step + at) as u64);
            writeln!(text, "{},{symbol},{value},{}", clock(step * 10 + at), 1 + step % 2).unwrap();
        }
    }
    std::fs::write(path, text).unwrap();
}

#[test]
fn a_forecast_of_several_series_beats_the_last_value() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    write_series(&here.join("series.csv"));
    let source = ["train", "series.csv", "--target", "y", "--features", "y,symbol", "--time", "ts", "--horizon", "10s"];
    let series = ["--partition-by", "symbol", "--model", "next", "--categorical", "symbol=ETH|BTC", "--units", "y=USD"];
    let more = ["--weight", "weight", "--half-life", "2h", "--season", "30s", "--format", "json"];
    let (out, err) = succeeds(here, &[&source[..], &series, &more].concat());
    assert_eq!(err, "");
    let model = &serde_json::from_str::<Value>(&out).unwrap()["model"];
    let number = |value: &Value| value.as_f64().unwrap();
    // y(t + 1) = 0.8 y(t) + 0.2 * 100, or for BTC + 0.2 * 500.
    assert!((number(&model["coefficients"][0]) - 0.8).abs() < 0.03, "{model}");
    assert!(
        (number(&model["intercept"]) - 20.0).abs() < 4.0 && (number(&model["coefficients"][1]) - 80.0).abs() < 13.0
    );
    let skill = number(&model["test"]["last_value"]["skill"]);
    assert!((0.02..0.1).contains(&skill), "1 - 1 / sqrt(1.11) = 0.051: {skill}");
    assert!(number(&model["test"]["seasonal"]["skill"]) > skill);
    assert_eq!(model["training"]["counts"]["by_column"][0]["nulls"], 2, "the last of each series has no future");
    assert_eq!(model["horizon"]["ahead_us"], 10_000_000);
    assert!(number(&model["training"]["weights"]["effective_rows"]) < number(&model["training"]["rows"]));
    assert_eq!(model["features"][1]["vocabulary"], serde_json::json!(["ETH", "BTC"]));

    let few = ["--partition-by", "symbol", "--model", "next", "--categorical", "symbol=ETH|SOL"];
    let err = refused(here, &[&source[..], &few].concat());
    assert!(err.contains("'BTC' of the categorical feature 'symbol' is not in its vocabulary"), "{err}");
    let random =
        ["--evaluate", "random", "--partition-by", "symbol", "--categorical", "symbol=ETH|BTC", "--model", "next"];
    let (_, err) = succeeds(here, &[&source[..], &random].concat());
    assert!(err.contains("test rows were drawn at random, though the rows follow one another in 'ts'"), "{err}");

    let sql = "SELECT predict('next@1', y, symbol) AS a, predict('next', {symbol: symbol, y: y}) AS b FROM 'series.csv' LIMIT 3";
    let (rows, _) = succeeds(here, &["query", sql, "--format", "csv"]);
    assert_eq!(rows.lines().count(), 4, "{rows}");
    let err = refused(here, &["query", "SELECT predict('next', y) FROM 'series.csv'"]);
    assert!(err.contains("has 2 features, and predict was given 1") && err.contains("y Float64, symbol Utf8"), "{err}");
    promotes_and_compares(here);
}

fn promotes_and_compares(here: &Path) {
    let (listed, _) = succeeds(here, &["models", "list", "--format", "json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((listed.as_array().unwrap().len(), &listed[1]["served"]), (2, &Value::Bool(true)));
    let (said, _) = succeeds(here, &["models", "promote", "next@1"]);
    assert_eq!(said, "next is now next@1\n");
    let (csv, _) = succeeds(here, &["models", "list", "next", "--format", "csv"]);
    assert!(csv.lines().nth(1).unwrap().starts_with("next,1,true"), "{csv}");
    let (diff, _) = succeeds(here, &["models", "diff", "next", "next@newest"]);
    assert!(diff.contains("coefficient y") && diff.contains("half-life") && diff.contains("next@2"), "{diff}");
    let (shown, _) = succeeds(here, &["models", "show", "next"]);
    for wanted in
        ["next@1, trained", "symbol Utf8 of ETH|BTC", "std. error", "symbol=BTC", "ts from 2026-01-01T00:00:00Z"]
    {
        assert!(shown.contains(wanted), "no {wanted:?} in\n{shown}");
    }
    assert!(refused(here, &["models", "promote", "next@7"]).contains("has no revision 7"));
}

#[test]
fn what_comes_later_is_found_in_the_sql() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    write_series(&here.join("series.csv"));
    let train = |query: &'static str| {
        [
            "train",
            "series.csv",
            "--query",
            query,
            "--target",
            "y",
            "--features",
            "x",
            "--time",
            "ts",
            "--horizon",
            "30s",
            "--strict",
        ]
    };
    let err = refused(here, &train("SELECT ts, y, lead(y) OVER (ORDER BY ts) AS x FROM input WHERE symbol = 'ETH'"));
    assert!(err.contains("the feature 'x' looks ahead: lead("), "{err}");
    let err = refused(
        here,
        &train("WITH top AS (SELECT *, max(y) OVER () AS m FROM input) SELECT ts, y, y / m AS x FROM top"),
    );
    assert!(err.contains("the feature 'x' looks ahead: max("), "{err}");
    succeeds(here, &train("SELECT ts, y, y - lag(y) OVER (ORDER BY ts) AS x FROM input WHERE symbol = 'ETH'"));
    let err = refused(here, &["train", "series.csv", "--target", "y", "--features", "", "--horizon", "1m"]);
    assert!(err.contains("--time"), "{err}");
    for (options, wanted) in [
        (["--folds", "3"], "--folds says nothing about a random evaluation"),
        (["--evaluate=walk-forward", "--seed=1"], "--seed says nothing about a walk-forward evaluation"),
        (["--tolerance=1s", "--seed=1"], "--tolerance and --partition-by belong to --horizon and --season"),
    ] {
        let err = refused(here, &[&["train", "series.csv", "--target", "y", "--features", ""], &options[..]].concat());
        assert!(err.contains(wanted), "{err}");
    }
    let err = refused(here, &["train", "series.csv", "--target", "y", "--features", "", "--half-life", "1h"]);
    assert!(err.contains("needs --time"), "{err}");
}

/// One regression per window, over a stream, in two runs and so through the state: the same as over all rows at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_regression_per_window_in_a_stream() {
    let select = "SELECT window_start, window_end, r.n AS n, round(r.coefficients[1], 6) AS slope, round(r.intercept, 6) AS intercept \
                  FROM (SELECT window_start, window_end, linreg_fit(price, x) AS r FROM TUMBLE(prices, ts, INTERVAL '60 seconds') \
                  GROUP BY window_start, window_end)";
    let columns = "ts TIMESTAMP, x DOUBLE, price DOUBLE, WATERMARK FOR ts AS ts - INTERVAL '1' SECOND";
    let job = TestJob::new(None, &JobText { columns, select, ..JobText::default() });
    let record = |second: usize| {
        let (minute, x) = (second / 60, unit(second as u64) * 10.0);
        let price = 5.0 + (minute + 1) as f64 * x;
        format!(r#"{{"ts":"{}","x":{x},"price":{price}}}"#, clock(second))
    };
    let all: Vec<String> = (0..200).map(record).collect();
    for part in [&all[..90], &all[90..]] {
        send(&job.topic, 0, part);
        job.run();
    }
    let wanted: Vec<String> = (0..3)
        .map(|minute| format!("{}.000,{}.000,60,{}.0,5.0", clock(minute * 60), clock(minute * 60 + 60), minute + 1))
        .collect();
    assert_eq!(job.lines().await, wanted);
}
