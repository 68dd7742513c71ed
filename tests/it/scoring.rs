//! Models in SQL: `CREATE MODEL`, `ML_PREDICT` and `ML_EVALUATE` in `tidemill query`, and `predict` in a stream that goes
//! on with a new version when it is promoted.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rand::{Rng, SeedableRng};
use serde_json::Value;
use tidemill::store::Store;

use crate::{
    model_jobs::golden,
    support::{
        self,
        job::{JobText, TestJob, prices, send},
        kafka::create_topic,
    },
};

/// stdout, stderr, and whether it went well.
fn tidemill(directory: &Path, arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(support::tidemill()).args(arguments).current_dir(directory).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

/// Rows of two prices, y = 3 + 2 a - b plus something small, in `rows.parquet`.
const ROWS: &str = "COPY (SELECT i AS id, sin(i) AS a, cos(1.7 * i) AS b, CAST(i % 3 AS BIGINT) AS noise,
                                 3 + 2 * sin(i) - cos(1.7 * i) + 0.01 * (i % 3) AS y
                          FROM (SELECT CAST(value AS DOUBLE) AS i FROM generate_series(1, 500))) TO 'rows.parquet';";

const SCRIPT: &str = "
CREATE MODEL price WITH ('target' = 'y', features = 'a, b', evaluate = 'chronological', regParam = 0) AS
SELECT a, b, y, id FROM 'rows.parquet' ORDER BY id;

SELECT id, round(prediction, 3) AS prediction FROM ML_PREDICT(TABLE 'rows.parquet', MODEL price, DESCRIPTOR(a, b))
ORDER BY id LIMIT 3;

CREATE MODEL IF NOT EXISTS price WITH (target = 'y') AS SELECT a, y FROM 'rows.parquet';

CREATE OR REPLACE MODEL price WITH (target = 'y') AS SELECT a, b, y FROM 'rows.parquet' WHERE id <= 100;

CREATE MODEL first WITH ('model' = 'price', 'version' = 1);

SELECT \"count\", dropped, round(rmse, 4) AS rmse, round(r2, 4) AS r2, round(skill, 2) AS skill
FROM ML_EVALUATE(INPUT => TABLE 'rows.parquet', MODEL => MODEL first, LABEL => DESCRIPTOR(y), ARGS => DESCRIPTOR(a, b));

SELECT round(predict('price@1', a, b) - predict('first', a, b), 3) AS same FROM 'rows.parquet' LIMIT 1;
";

#[test]
fn a_script_trains_predicts_and_evaluates() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    assert!(tidemill(here, &["query", ROWS]).0);
    std::fs::write(here.join("script.sql"), SCRIPT).unwrap();
    let (ok, out, err) = tidemill(here, &["query", "script.sql"]);
    assert!(ok, "{err}");
    golden("model_sql.txt", &format!("{out}---\n{err}"));
    // One code path: the command line finds the same model.
    let train = ["train", "SELECT a, b, y, id FROM 'rows.parquet' ORDER BY id", "--target", "y", "--features", "a,b"];
    let (ok, _, err) = tidemill(here, &[&train[..], &["--evaluate", "chronological", "--model", "twin"]].concat());
    assert!(ok, "{err}");
    let (_, diff, _) = tidemill(here, &["models", "diff", "price@1", "twin"]);
    let [one, two] = ["price/1.json", "twin/1.json"].map(|file| {
        let text = std::fs::read_to_string(here.join("models").join(file)).unwrap();
        let model: serde_json::Value = serde_json::from_str(&text).unwrap();
        (model["intercept"].clone(), model["coefficients"].clone(), model["test"].clone(), model["training"].clone())
    });
    assert_eq!(one, two, "{diff}");
}

/// What is wrong is said at its place in the script.
#[test]
fn errors_have_their_place_in_the_script() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    assert!(tidemill(here, &["query", ROWS]).0);
    for (script, wanted) in [
        ("SELECT 1 AS x;\nCREATE MODEL m WITH (targt = 'y') AS SELECT a, y FROM 'rows.parquet'", "script.sql:2:22"),
        ("CREATE MODEL m WITH (target = 'z') AS SELECT a, y FROM 'rows.parquet'", "script.sql:1:14"),
        ("CREATE MODEL m WITH (target = 'y') AS\nSELECT a, z FROM 'rows.parquet'", "script.sql:2:11"),
        ("SELECT 1;\n\nSELECT * FROM ML_PREDICT(TABLE 'rows.parquet', MODEL prce)", "script.sql:3:54"),
        (
            "CREATE MODEL m WITH (target = 'y') AS SELECT a, y FROM 'rows.parquet';\nSELECT 1 FROM nowhere",
            "script.sql:2",
        ),
    ] {
        std::fs::write(here.join("script.sql"), script).unwrap();
        let (ok, _, err) = tidemill(here, &["query", "script.sql"]);
        assert!(!ok && err.contains(wanted), "{script}\n{err}");
    }
    let again = "CREATE MODEL m WITH (target = 'y') AS SELECT a, y FROM 'rows.parquet'";
    let (_, _, err) = tidemill(here, &["query", again]);
    assert!(err.contains("there is a model 'm' in models already, up to m@1") && err.contains("OR REPLACE"), "{err}");
}

/// A job, and a directory of models whose `m` makes y = factor * x.
struct Scored {
    job: TestJob,
}

const STATELESS: &str = "SELECT id, round(prediction) AS p FROM ML_PREDICT(TABLE prices, MODEL m, DESCRIPTOR(price))";

impl Scored {
    async fn new(text: &JobText<'_>) -> Self {
        let scored = Self { job: TestJob::new(None, text) };
        create_topic(&scored.job.topic, 1).await;
        let sql = std::fs::read_to_string(&scored.job.file).unwrap();
        let models = scored.models();
        std::fs::write(&scored.job.file, format!("CREATE MODEL m WITH ('path' = '{models}');\n{sql}")).unwrap();
        scored
    }

    async fn of(select: &str) -> Self {
        Self::new(&JobText { select, ..JobText::default() }).await
    }

    fn models(&self) -> String {
        self.job.directory.path().join("models").display().to_string()
    }

    /// The next version: y = factor * feature.
    fn train(&self, feature: &str, factor: u32) {
        let sql = format!(
            "CREATE OR REPLACE MODEL m WITH (target = 'y', path = '{}') AS
             SELECT x AS {feature}, {factor} * x + 0.001 * (CAST(x AS BIGINT) % 3) AS y
             FROM (SELECT CAST(value AS DOUBLE) AS x FROM generate_series(1, 200))",
            self.models()
        );
        let (ok, _, err) = tidemill(self.job.directory.path(), &["query", &sql]);
        assert!(ok, "{err}");
    }

    fn promote(&self, version: u64) {
        let model = format!("m@{version}");
        let (ok, _, err) =
            tidemill(self.job.directory.path(), &["models", "promote", &model, "--models-dir", &self.models()]);
        assert!(ok, "{err}");
    }

    /// Starts with m@1 promoted.
    fn first(&self) {
        self.train("price", 10);
        self.promote(1);
    }

    /// The model versions that the batches were announced with.
    async fn announced(&self) -> Vec<String> {
        let store = Store::open(&self.job.checkpoint()).await.unwrap();
        let mut versions = Vec::new();
        while let Some(text) = store.read(&format!("offsets/{}", versions.len())).await.unwrap() {
            let text = String::from_utf8(text.to_vec()).unwrap();
            let header: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
            versions.push(header["conf"]["tidemill.models"].as_str().unwrap().to_owned());
        }
        versions
    }

    async fn wait_for(&self, lines: usize) {
        for _ in 0..400 {
            if self.job.lines().await.len() >= lines {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{lines} lines do not come");
    }
}

/// What `STATELESS` makes of ids whose price is id + 0.5.
fn predicted(ids: std::ops::Range<u64>, factor: u64) -> Vec<String> {
    ids.map(|id| format!("{id},{}.0", factor * id + factor / 2)).collect()
}

fn sorted(parts: [Vec<String>; 2]) -> Vec<String> {
    let mut all = parts.concat();
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_takes_effect_between_two_batches() {
    let scored = Scored::of(STATELESS).await;
    scored.first();
    let job = &scored.job;
    send(&job.topic, 0, &prices(0..50).0);
    let log = job.directory.path().join("progress.json");
    let arguments = ["--trigger", "100ms", "--progress-log", log.to_str().unwrap()];
    let child = job.command(&arguments).stderr(Stdio::piped()).spawn().unwrap();
    scored.wait_for(50).await;
    scored.train("price", 20);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    send(&job.topic, 0, &prices(50..60).0);
    scored.wait_for(60).await;
    // Version 2 is there, and is not promoted.
    assert_eq!(job.lines().await, sorted([predicted(0..60, 10), Vec::new()]));
    scored.promote(2);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    send(&job.topic, 0, &prices(60..100).0);
    scored.wait_for(100).await;
    // Another feature, whatever its numbers are: not for a query that was planned with this one.
    scored.train("volume", 30);
    scored.promote(3);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    send(&job.topic, 0, &prices(100..150).0);
    scored.wait_for(150).await;
    support::signal(&child, "TERM");
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{err}");
    assert_eq!(job.lines().await, sorted([predicted(0..60, 10), predicted(60..150, 20)]));
    let wanted = "the query goes on with m@2: the model m@3 predicts y from volume Float64, and the query was planned for one \
                  that predicts y from price Float64";
    assert_eq!(err.matches(wanted).count(), 1, "{err}");
    assert!(err.contains("  model m@1  behind"), "{err}");
    let progress = std::fs::read_to_string(log).unwrap();
    let progress: Vec<Value> = progress.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let versions: Vec<u64> = progress.iter().map(|batch| batch["models"][0]["version"].as_u64().unwrap()).collect();
    assert!(versions.is_sorted() && versions.first() == Some(&1) && versions.last() == Some(&2), "{versions:?}");
    let refused = &progress.last().unwrap()["models"][0]["refused"];
    assert!(refused.as_str().unwrap().contains("m@3 predicts y from volume"), "{refused}");
    let announced: Vec<String> = versions.iter().map(|version| format!("{{\"m\":{version}}}")).collect();
    assert_eq!(scored.announced().await, announced);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_runs_again_predicts_with_its_own_version() {
    for step in ["offsets", "staged", "prepared", "published", "committed"] {
        let scored = Scored::of(STATELESS).await;
        scored.first();
        scored.train("price", 20);
        let job = &scored.job;
        send(&job.topic, 0, &prices(0..50).0);
        let crash = format!("{step}:0");
        let output = job.command(&["--available-now"]).env("TIDEMILL_CRASH", &crash).output().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(9), "{crash}: {output:?}");
        scored.promote(2);
        send(&job.topic, 0, &prices(50..100).0);
        job.run();
        assert_eq!(job.lines().await, sorted([predicted(0..50, 10), predicted(50..100, 20)]), "{crash}");
        assert_eq!(scored.announced().await, ["{\"m\":1}", "{\"m\":2}"], "{crash}");
        let (ok, verdict) = job.verify();
        assert!(ok, "{crash}: {verdict}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_a_batch_needs_and_that_is_gone_is_named() {
    let scored = Scored::of(STATELESS).await;
    scored.first();
    scored.train("price", 20);
    let job = &scored.job;
    send(&job.topic, 0, &prices(0..50).0);
    job.command(&["--available-now"]).env("TIDEMILL_CRASH", "offsets:0").output().unwrap();
    scored.promote(2);
    let file = job.directory.path().join("models/m/1.json");
    let aside = job.directory.path().join("aside.json");
    std::fs::rename(&file, &aside).unwrap();
    let (_, err) = job.fails(&["--available-now"]);
    for wanted in
        ["batch 0 has to run again with the models that", "/offsets/0 names", "models/m/1.json", "put the file back"]
    {
        assert!(err.contains(wanted), "{wanted}: {err}");
    }
    assert!(job.lines().await.is_empty());
    std::fs::rename(&aside, &file).unwrap();
    job.run();
    assert_eq!(job.lines().await, sorted([predicted(0..50, 10), Vec::new()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_missing_or_does_not_fit_stops_the_start() {
    for (select, wanted) in [
        ("SELECT id, predict('nope', price) AS p FROM prices", "there is no model 'nope' in models"),
        (
            "SELECT id, predict('m', price, id) AS p FROM prices",
            "the model m@1 has 1 features, and predict was given 2",
        ),
        ("SELECT * FROM ML_PREDICT(TABLE prices, MODEL mm)", "there is no model 'mm' in models"),
        ("SELECT * FROM ML_PREDICT(TABLE prices, MODEL m, DESCRIPTOR(prise))", "did you mean 'price'?"),
        ("SELECT * FROM ML_EVALUATE(TABLE prices, MODEL m, DESCRIPTOR(price))", "ML_EVALUATE over a stream"),
    ] {
        let scored = Scored::of(select).await;
        scored.first();
        let (_, err) = scored.job.fails(&["--dry-run"]);
        assert!(err.contains(wanted) && err.contains("job.sql:"), "{select}: {err}");
    }
    let scored = Scored::of(STATELESS).await;
    scored.first();
    let output = scored.job.command(&["--dry-run"]).output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(out.contains("predicts with m: m@1 (") && out.contains("looked at again before each batch"), "{out}");
}

const WINDOWED: &str = "SELECT window_start, id, round(s) AS s, round(prediction) AS p FROM ML_PREDICT(TABLE (
    SELECT window_start, window_end, max(id) AS id, sum(predict('m', price)) AS s, CAST(max(id) AS DOUBLE) AS price
    FROM TUMBLE(prices, ts, INTERVAL '100 seconds') GROUP BY window_start, window_end), MODEL m, DESCRIPTOR(price))";

/// Below the aggregate a row counts with the version of the batch that read it; above it, with that of the batch that
/// closed the window. The state is not that of a version: it goes on with the next.
#[tokio::test(flavor = "multi_thread")]
async fn windows_predict_with_the_versions_of_their_batches() {
    let columns = "id BIGINT, price DOUBLE, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '0' SECOND";
    let record = |id: u64| {
        let (minute, second) = (id / 60, id % 60);
        format!("{{\"id\": {id}, \"price\": {id}.5, \"ts\": \"2024-01-01T00:{minute:02}:{second:02}\"}}")
    };
    let sum = |ids: std::ops::Range<u64>, factor: u64| ids.map(|id| factor * id + factor / 2).sum::<u64>();
    for crash in ["offsets:1", "staged:1", "prepared:1", "committed:1"] {
        let scored = Scored::new(&JobText { columns, select: WINDOWED, ..JobText::default() }).await;
        scored.first();
        scored.train("price", 20);
        scored.train("price", 30);
        let job = &scored.job;
        send(&job.topic, 0, &(0..50).map(record).collect::<Vec<_>>());
        job.run();
        scored.promote(2);
        // Batch 1 reads the rest of the first window and of the second, and batch 2 closes the first.
        send(&job.topic, 0, &(50..150).map(record).collect::<Vec<_>>());
        let output = job.command(&["--available-now"]).env("TIDEMILL_CRASH", crash).output().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(9), "{crash}: {output:?}");
        scored.promote(3);
        job.run();
        let s = sum(0..50, 10) + sum(50..100, 20);
        let wanted = format!("2024-01-01T00:00:00.000,99,{s}.0,{}.0", 30 * 99);
        assert_eq!(job.lines().await, [wanted], "{crash}");
        assert_eq!(scored.announced().await, ["{\"m\":1}", "{\"m\":2}", "{\"m\":3}"], "{crash}");
    }
}

/// The file says which records a model was trained on; each pass over them reads the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_says_which_offsets_it_was_trained_on() {
    let job = TestJob::new(None, &JobText::default());
    create_topic(&job.topic, 2).await;
    let record = |id: u64| format!("{{\"id\": {id}, \"price\": {}.{}}}", 3 * id, id % 7);
    for (partition, ids) in [(0, 0..120), (1, 120..200)] {
        send(&job.topic, partition, &ids.map(record).collect::<Vec<_>>());
    }
    let (here, file) = (job.directory.path(), job.file.to_str().unwrap());
    let sql = "CREATE MODEL m WITH (target = 'price') AS SELECT id, price FROM prices";
    for arguments in [
        &["query", "--job", file, sql][..],
        &["train", "prices", "--job", file, "--target", "price", "--features", "id", "--model", "m"],
    ] {
        let (ok, _, err) = tidemill(here, arguments);
        assert!(ok, "{err}");
    }
    for version in [1, 2] {
        let text = std::fs::read_to_string(here.join(format!("models/m/{version}.json"))).unwrap();
        let model: Value = serde_json::from_str(&text).unwrap();
        let offsets = serde_json::json!([
            {"topic": job.topic, "partition": 0, "from": 0, "until": 120},
            {"topic": job.topic, "partition": 1, "from": 0, "until": 80}
        ]);
        assert_eq!(model["training"]["offsets"], offsets);
        assert_eq!(model["training"]["counts"]["read"], 200);
    }
}

/// One bad record never costs another: a value that the model does not know is one.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_outside_the_vocabulary_is_a_dead_letter() {
    let columns = "id BIGINT, symbol STRING";
    let select = "SELECT id, round(predict('m', symbol)) AS p FROM prices";
    let scored = Scored::new(&JobText { columns, select, ..JobText::default() }).await;
    let job = &scored.job;
    let sql = format!(
        "CREATE MODEL m WITH (target = 'y', features = 'symbol', categorical = 'symbol=A|B', path = '{}') AS
         SELECT CASE WHEN value % 2 = 0 THEN 'A' ELSE 'B' END AS symbol, 5 * (value % 2) + 0.001 * (value % 3) AS y
         FROM generate_series(1, 100)",
        scored.models()
    );
    let (ok, _, err) = tidemill(job.directory.path(), &["query", &sql]);
    assert!(ok, "{err}");
    let record = |(id, symbol): (u64, &str)| format!("{{\"id\": {id}, \"symbol\": \"{symbol}\"}}");
    let records: Vec<String> = (0..4).zip(["A", "C", "B", "A"]).map(record).collect();
    send(&job.topic, 0, &records);
    let output = job.run();
    assert_eq!(job.lines().await, ["0,0.0", "2,5.0", "3,0.0"]);
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.contains("consumed 4 = written 3") && err.contains("bad 1"), "{err}");
    let (ok, verdict) = job.verify();
    assert!(ok, "{verdict}");
}

/// Versions come and go while the process is killed: each batch's rows are those of the version that it was announced
/// with, and nothing else is there.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_random_moments_while_versions_are_promoted() {
    const ROWS: u64 = 6000;
    let seed = std::env::var("TIDEMILL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("TIDEMILL_SEED={seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let text = JobText { source: ", maxOffsetsPerTrigger = 100", select: STATELESS, ..JobText::default() };
    let scored = Scored::new(&text).await;
    for factor in [10, 20, 30] {
        scored.train("price", factor);
    }
    let job = &scored.job;
    send(&job.topic, 0, &prices(0..ROWS).0);
    for _ in 0..6 {
        scored.promote(random.random_range(1..=3));
        let mut child = job.command(&["--available-now", "--progress", "none"]).stderr(Stdio::null()).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(random.random_range(50..1200))).await;
        scored.promote(random.random_range(1..=3));
        tokio::time::sleep(Duration::from_millis(random.random_range(50..1200))).await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    job.run();
    let store = Store::open(&job.checkpoint()).await.unwrap();
    let (mut wanted, mut start, mut versions) = (Vec::new(), 0, Vec::new());
    for (batch, announced) in scored.announced().await.into_iter().enumerate() {
        let version: u64 = announced.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
        let text = store.read(&format!("offsets/{batch}")).await.unwrap().unwrap();
        let ends: Value = serde_json::from_slice(text.rsplit(|byte| *byte == b'\n').next().unwrap()).unwrap();
        let end = ends[&job.topic]["0"].as_u64().unwrap();
        wanted.extend(predicted(start..end, 10 * version));
        versions.push(version);
        start = end;
    }
    wanted.sort();
    assert_eq!(start, ROWS, "seed {seed}");
    assert_eq!(job.lines().await, wanted, "seed {seed}, versions {versions:?}");
    let (ok, verdict) = job.verify();
    assert!(ok, "seed {seed}: {verdict}");
}
