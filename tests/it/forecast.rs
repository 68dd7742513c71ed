//! `ML_FORECAST` from the real Kafka to real files: a model that learns while the stream runs, whatever happens to it.

use std::{fs, process::Command};

use tidemill::store::Store;

use crate::support::{
    hdfs,
    job::{JobText, TestJob, send},
    tidemill,
};

const COLUMNS: &str = "id BIGINT, ts TIMESTAMP, price DOUBLE, WATERMARK FOR ts AS ts - INTERVAL '5' SECOND";

/// A candle of ten seconds, and the one before.
const SELECT: &str = "SELECT window_end, close, prediction, target_time, model_version, forecast, error, naive_error,
  prequential_rmse, prequential_skill, drift
FROM ML_FORECAST((SELECT window_end, close, lag(close) OVER (ORDER BY window_end) AS before FROM (
    SELECT window_end, last_value(price ORDER BY ts) AS close FROM TUMBLE(prices, ts, INTERVAL '10 seconds')
    GROUP BY window_start, window_end)),
  MODEL ahead, DESCRIPTOR(window_end), DESCRIPTOR(close, before))";

const OPTIONS: &str = "'horizon' = '10 seconds', 'retrain' = '10 minutes', 'holdout' = '60 rows', 'minRows' = 60";

/// A job whose models are beside its file.
fn job(root: Option<&str>, source: &str) -> TestJob {
    let text = JobText { columns: COLUMNS, source, select: SELECT, ..JobText::default() };
    let job = TestJob::new(root, &text);
    declare(&job, &text, OPTIONS);
    job
}

fn declare(job: &TestJob, text: &JobText<'_>, options: &str) {
    job.write(text);
    let model = format!(
        "CREATE MODEL ahead WITH ('target' = 'close', {options}, 'path' = '{}');\n",
        job.directory.path().join("models").display()
    );
    fs::write(&job.file, fs::read_to_string(&job.file).unwrap() + &model).unwrap();
}

/// A price every ten seconds that comes back to 100: each step keeps half of the distance.
fn records(count: usize) -> Vec<String> {
    let (mut price, mut state) = (100.0, 7_u64);
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    let record = |id: usize| {
        price = 100.0 + 0.5 * (price - 100.0) + (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
        let (second, minute, hour) = (id * 10 % 60, id / 6 % 60, id / 360);
        format!(r#"{{"id":{id},"ts":"2024-01-01T{hour:02}:{minute:02}:{second:02}","price":{price:.4}}}"#)
    };
    (0..count).map(record).collect()
}

/// The versions of a model that its directory has, and which one serves.
fn versions(job: &TestJob) -> (Vec<String>, String) {
    let directory = job.directory.path().join("models/ahead");
    let mut names: Vec<String> =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names.retain(|name| name != "promoted.json");
    (names, fs::read_to_string(directory.join("promoted.json")).unwrap())
}

/// The highest `model_version` of the lines.
fn newest_version(lines: &[String]) -> usize {
    lines.iter().filter_map(|line| line.split(',').nth(4)?.parse().ok()).max().unwrap()
}

async fn killed_at_every_step(root: Option<&str>) {
    let all = records(700);
    let whole = job(None, "");
    send(&whole.topic, 0, &all);
    whole.run();
    let wanted = whole.lines().await;
    assert!(wanted.len() > 690 && newest_version(&wanted) > 0, "{} rows", wanted.len());

    let job = job(root, ", maxOffsetsPerTrigger = '100'");
    send(&job.topic, 0, &all);
    let steps =
        ["offsets:2", "staged:3", "prepared:3", "publishing:4", "published:4", "logged:5", "committed:5", "staged:7"];
    for step in steps {
        let output = job.command(&["--available-now"]).env("TIDEMILL_CRASH", step).output().unwrap();
        assert!(!output.status.success(), "{step}: {}", String::from_utf8_lossy(&output.stderr));
    }
    job.run();
    assert_eq!(job.lines().await, wanted, "other batches, and kill -9 at each step: the same forecasts");
    assert_eq!(job.lines().await, job.logged_lines().await);
    let (ok, said) = job.verify();
    assert!(ok, "{said}");
    // Each model that was promoted is a version, once.
    let count = newest_version(&wanted);
    let names: Vec<String> = (1..=count).map(|version| format!("{version}.json")).collect();
    let serves = format!("{{\"revision\":{count}}}\n");
    assert_eq!((versions(&job), versions(&whole)), ((names.clone(), serves.clone()), (names, serves)));
    let checkpoint = Store::open(&job.checkpoint()).await.unwrap();
    let files = checkpoint.list("state").await.unwrap();
    let learned = files.iter().filter(|entry| entry.path.ends_with(".forecaster")).count();
    assert_eq!(learned, 1, "{files:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_every_step_of_a_job_that_learns_on_a_local_disk() {
    killed_at_every_step(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_every_step_of_a_job_that_learns_on_hdfs() {
    killed_at_every_step(Some(&hdfs())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_says_what_serves_how_well_and_why() {
    let job = job(None, ", maxOffsetsPerTrigger = '500'");
    send(&job.topic, 0, &records(2_000));
    let log = job.directory.path().join("progress.jsonl");
    let output = job.command(&["--available-now", "--progress-log"]).arg(&log).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(line.contains("  ahead naive"), "{line}");
    let text = fs::read_to_string(&log).unwrap();
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let forecast = &last["forecast"];
    assert_eq!((&forecast["model"], forecast["version"].as_u64().unwrap() > 0), (&"ahead".into(), true), "{forecast}");
    // An autoregressive series is forecast better than that nothing changes: by 13 % at best.
    let skill = forecast["prequential"]["skill"].as_f64().unwrap();
    assert!((0.06..0.18).contains(&skill), "{forecast}");
    assert!(forecast["numForecastsScored"].as_u64().unwrap() > 1_900, "{forecast}");
    let training = &forecast["lastTraining"];
    assert!(["kept", "promoted"].contains(&training["verdict"].as_str().unwrap()), "{forecast}");
    assert!(training["why"].as_str().unwrap().contains("held-out"), "{forecast}");
    assert!(training["heldOutRmse"]["challenger"].as_f64().is_some(), "{forecast}");

    let models = job.directory.path().join("models");
    let run = |arguments: &[&str]| {
        let output = Command::new(tidemill()).args(arguments).arg("--models-dir").arg(&models).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let shown = run(&["models", "show", "ahead"]);
    assert!(shown.contains("close_in_10s") && shown.contains("ML_FORECAST of the query"), "{shown}");
    assert!(run(&["models", "list"]).contains("ahead"));
    let output = Command::new(tidemill()).arg("state").arg(&job.file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("ahead version ") && said.contains("(naive "), "{said}");
    let output = job.command(&["--dry-run"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("model ahead learns to forecast close 10s after window_end from close, before"), "{said}");
}

/// A backtest over stored rows of two series: the same function, without a stream. It makes no versions.
#[test]
fn a_backtest_is_a_query() {
    let directory = tempfile::tempdir().unwrap();
    let query = |text: &str| {
        let output = Command::new(tidemill())
            .args(["query", "--format", "csv", text])
            .current_dir(directory.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.success(), text)
    };
    // Each series goes round in a circle of its own, so that both prices say all about the next one.
    let rows = "COPY (SELECT to_timestamp_seconds(1704067200 + 60 * i) AS ts, symbol,
                  CASE symbol WHEN 'a' THEN 0.0 ELSE 50.0 END + round(10 * sin(i / 7.0), 3) AS price,
                  round(cos(i / 7.0), 4) AS phase
                FROM generate_series(1, 500) AS t(i) CROSS JOIN (VALUES ('a'), ('b')) AS s(symbol)) TO 'rows.parquet'";
    let (ok, said) = query(rows);
    assert!(ok, "{said}");
    let backtest = |call: &str| {
        query(&format!(
            "CREATE MODEL ahead WITH (target = 'price', horizon = '3 minutes');
             SELECT count(*) AS n, max(model_version) > 0 AS learns, min(prequential_skill) > -0.01 AS no_worse,
               round(max(abs(error)) FILTER (WHERE ts > '2024-01-01T08:00:00'), 1) AS worst, min(target_time - ts) AS ahead
             FROM ML_FORECAST({call})"
        ))
    };
    for call in [
        "TABLE 'rows.parquet', MODEL ahead, DESCRIPTOR(ts), DESCRIPTOR(price, phase), DESCRIPTOR(symbol)",
        "TABLE 'rows.parquet' PARTITION BY symbol, MODEL ahead, DESCRIPTOR(ts), DESCRIPTOR(price, phase)",
        "INPUT => TABLE 'rows.parquet', MODEL => MODEL ahead, TIMECOL => DESCRIPTOR(ts), ARGS => DESCRIPTOR(price, phase), \
         KEYS => DESCRIPTOR(symbol)",
    ] {
        let (ok, said) = backtest(call);
        assert!(ok, "{call}: {said}");
        let line = said.lines().nth(1).unwrap_or_default();
        assert!(line.starts_with("1000,true,true,"), "{call}: {said}");
    }
    assert!(!directory.path().join("models").exists());
    for (call, wanted) in [
        ("TABLE 'rows.parquet', MODEL ahead, DESCRIPTOR(ts)", "the columns that it forecasts from"),
        (
            "TABLE 'rows.parquet', MODEL ahead, DESCRIPTOR(ts, price), DESCRIPTOR(price)",
            "the one column of the event time",
        ),
        ("TABLE 'rows.parquet', MODEL ahead, DESCRIPTOR(price), DESCRIPTOR(price)", "not a TIMESTAMP"),
        ("TABLE 'rows.parquet', MODEL ahead, DESCRIPTOR(ts), DESCRIPTOR(symbol)", "a regression takes numbers"),
        (
            "TABLE (SELECT ts, phase FROM 'rows.parquet'), MODEL ahead, DESCRIPTOR(ts), DESCRIPTOR(phase)",
            "no column 'price'",
        ),
        ("TABLE 'rows.parquet', MODEL other, DESCRIPTOR(ts), DESCRIPTOR(price)", "there is no CREATE MODEL other"),
    ] {
        let (ok, said) = backtest(call);
        assert!(!ok && said.contains(wanted), "{call}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_learned_for_another_horizon_is_refused_and_more_frequent_training_is_not() {
    let job = job(None, "");
    send(&job.topic, 0, &records(50));
    job.run();
    let text = JobText { columns: COLUMNS, select: SELECT, ..JobText::default() };
    declare(&job, &text, &OPTIONS.replace("'10 minutes'", "'1 minute'"));
    job.run();
    declare(&job, &text, &OPTIONS.replace("'10 seconds'", "'20 seconds'"));
    let (code, said) = job.fails(&["--available-now"]);
    assert!(said.contains("learned with horizon 10s, and is now asked for 20s"), "{code}: {said}");
    // The state is still that of the old one.
    declare(&job, &text, OPTIONS);
    job.run();
}
