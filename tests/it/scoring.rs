//! Models in SQL: `CREATE MODEL`, `ML_PREDICT` and `ML_EVALUATE` in `tidemill query`, and `predict` in a stream that goes
//! on with a new version when it is promoted.

use std::{path::Path, process::Command};

use crate::{model_jobs::golden, support};

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
            "CREATE MODEL m WITH (target = 'y') AS SELECT a, y, a AS y2 FROM 'rows.parquet';\nSELECT 1 FROM nowhere",
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
