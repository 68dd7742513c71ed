use std::sync::Arc;

use arrow::util::pretty::pretty_format_batches;
use datafusion::{error::DataFusionError, prelude::SessionContext};

use super::super::{Models, Registry, artifact::tests::model, function::register};
use crate::catalog::parse_statements;

/// The test model, 1.5 + 2 price - 0.25 volume, in `directory`.
fn context(directory: &std::path::Path) -> SessionContext {
    Registry::new(directory).save(model()).unwrap();
    #[expect(clippy::disallowed_methods, reason = "the session's own module stands below this one")]
    let context = SessionContext::new();
    context.state_ref().write().config_mut().options_mut().sql_parser.collect_spans = true;
    register(&context, &Arc::new(Models::new(directory))).unwrap();
    context
}

async fn text(context: &SessionContext, sql: &str) -> Result<String, DataFusionError> {
    let statement = parse_statements(sql)?.pop_front().unwrap();
    let plan = context.state().statement_to_plan(statement).await?;
    let batches = context.execute_logical_plan(plan).await?.collect().await?;
    Ok(pretty_format_batches(&batches)?.to_string())
}

const ROWS: &str = "(SELECT price, volume, label, note FROM (VALUES (1.0, CAST(4 AS BIGINT), 2.0, 'a'), \
                    (3.0, NULL, 1.0, 'b'), (0.0, 2, 2.0, 'c')) AS t(price, volume, label, note))";

#[tokio::test]
async fn adds_the_prediction_to_the_columns() {
    let directory = tempfile::tempdir().unwrap();
    let context = context(directory.path());
    let wanted = "\
+-------+--------+-------+------+------------+
| price | volume | label | note | prediction |
+-------+--------+-------+------+------------+
| 1.0   | 4      | 2.0   | a    | 2.5        |
| 3.0   |        | 1.0   | b    |            |
| 0.0   | 2      | 2.0   | c    | 1.0        |
+-------+--------+-------+------+------------+";
    for call in [
        format!("ML_PREDICT(TABLE {ROWS}, MODEL sell, DESCRIPTOR(price, volume))"),
        format!("ML_PREDICT(TABLE {ROWS}, MODEL SELL, DESCRIPTOR(volume, price))"),
        format!("TABLE(ML_PREDICT({ROWS}, MODEL 'sell@1'))"),
        format!("ml_predict(MODEL => MODEL \"sell\", ARGS => DESCRIPTOR(price, volume), INPUT => TABLE {ROWS})"),
    ] {
        assert_eq!(text(&context, &format!("SELECT * FROM {call}")).await.unwrap(), wanted, "{call}");
    }
    // By place, where the names are others.
    let renamed = "(SELECT price AS p, volume AS v FROM (VALUES (1.0, CAST(4 AS BIGINT))) AS t(price, volume))";
    let sql = format!("SELECT prediction FROM ML_PREDICT(TABLE {renamed}, MODEL sell, DESCRIPTOR(p, v)) AS f");
    assert!(text(&context, &sql).await.unwrap().contains("| 2.5 "));
}

/// Predictions 2.5 and 1 for labels 2 and 2: errors -0.5 and 1.
#[tokio::test]
async fn evaluates_in_one_row() {
    let directory = tempfile::tempdir().unwrap();
    let context = context(directory.path());
    let call = format!("ML_EVALUATE(TABLE {ROWS}, MODEL sell, DESCRIPTOR(label), DESCRIPTOR(price, volume))");
    let mean = model().factor.mean(3);
    let baseline = (2.0 - mean).abs();
    let rmse = 0.625_f64.sqrt();
    let sql = format!(
        "SELECT \"count\", dropped, round(rmse, 9) AS rmse, mae, mape, r2, round(mean_rmse, 9) = round({baseline}, 9) AS m, \
         round(skill, 9) = round({}, 9) AS s FROM {call}",
        1.0 - rmse / baseline
    );
    let wanted = "\
+-------+---------+-------------+------+-------+----+------+------+
| count | dropped | rmse        | mae  | mape  | r2 | m    | s    |
+-------+---------+-------------+------+-------+----+------+------+
| 2     | 1       | 0.790569415 | 0.75 | 0.375 |    | true | true |
+-------+---------+-------------+------+-------+----+------+------+";
    assert_eq!(text(&context, &sql).await.unwrap(), wanted);
    let nothing =
        format!("SELECT * FROM ML_EVALUATE(TABLE (SELECT * FROM {ROWS} WHERE false), MODEL sell, DESCRIPTOR(label))");
    let found = text(&context, &nothing).await.unwrap();
    assert!(found.contains("| 0     | 0       |      |     |      |    |           |       |"), "{found}");
}

#[tokio::test]
async fn refuses_what_does_not_fit() {
    let directory = tempfile::tempdir().unwrap();
    let context = context(directory.path());
    for (call, wanted) in [
        ("ML_PREDICT(TABLE @)", "ML_PREDICT needs a model"),
        ("ML_PREDICT(TABLE @, MODEL sel, DESCRIPTOR(price, volume))", "there is no model 'sel'"),
        ("ML_PREDICT(TABLE @, 5, DESCRIPTOR(price, volume))", "'5' stands where ML_PREDICT has a model"),
        ("ML_PREDICT(TABLE @, MODEL sell, DESCRIPTOR(price))", "has 2 features, and DESCRIPTOR names 1"),
        ("ML_PREDICT(TABLE @, MODEL sell, DESCRIPTOR(price, vol))", "there is no column 'vol'"),
        ("ML_PREDICT(TABLE @, MODEL sell, DESCRIPTOR(price, note))", "the feature 'volume' is Utf8"),
        ("ML_PREDICT(TABLE @, MODEL sell, DESCRIPTOR(price, label))", "the feature 'volume' is Float64"),
        (
            "ML_PREDICT(TABLE @, MODEL sell, DESCRIPTOR(label, price))",
            "the column 'price' stands where the model has 'volume'",
        ),
        ("ML_PREDICT(TABLE @, MODEL sell, price)", "'price' stands where ML_PREDICT has DESCRIPTOR"),
        ("ML_PREDICT(TABLE @, MODEL sell, DESCRIPTOR(price, volume), 1)", "ML_PREDICT has too many arguments"),
        ("ML_PREDICT(INPUT => TABLE @, MODL => MODEL sell)", "ML_PREDICT has no argument 'modl'"),
        (
            "ML_PREDICT(TABLE (SELECT price, volume, 1 AS prediction FROM @), MODEL sell)",
            "already has a column 'prediction'",
        ),
        ("ML_EVALUATE(TABLE @, MODEL sell)", "ML_EVALUATE needs the column of what came true"),
        ("ML_EVALUATE(TABLE @, MODEL sell, DESCRIPTOR(note))", "the label 'note' is Utf8"),
        ("ML_EVALUATE(TABLE @, MODEL sell, label)", "'label' stands where ML_EVALUATE has DESCRIPTOR(label)"),
    ] {
        let sql = format!("SELECT * FROM {}", call.replace('@', ROWS));
        let error = text(&context, &sql).await.expect_err(call).to_string();
        assert!(error.contains(wanted), "{call}: {error}");
    }
}
