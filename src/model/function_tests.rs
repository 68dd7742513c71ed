use arrow::util::pretty::pretty_format_batches;
use datafusion::prelude::SessionContext;

use super::*;
use crate::model::{Registry, artifact::tests::model};

fn context(directory: &std::path::Path) -> SessionContext {
    #[expect(clippy::disallowed_methods, reason = "the session's own module stands below this one")]
    let context = SessionContext::new();
    register(&context, &Arc::new(Models::new(directory))).unwrap();
    context
}

async fn text(context: &SessionContext, sql: &str) -> std::result::Result<String, String> {
    let rows = async { context.sql(sql).await?.collect().await };
    let batches = rows.await.map_err(|error: DataFusionError| error.to_string())?;
    Ok(pretty_format_batches(&batches).unwrap().to_string())
}

/// The test model: 1.5 + 2 price - 0.25 volume.
#[tokio::test]
async fn predicts_by_place_and_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::new(directory.path());
    registry.save(model()).unwrap();
    let context = context(directory.path());
    let sql = "SELECT predict('sell', p, v) AS a, predict('sell@1', {volume: v, price: p}) AS b, \
               predict('sell', p + 1, 4) AS c FROM (VALUES (1.0, CAST(4 AS BIGINT)), (3.0, NULL)) AS t(p, v)";
    let wanted = "\
+-----+-----+-----+
| a   | b   | c   |
+-----+-----+-----+
| 2.5 | 2.5 | 4.5 |
|     |     | 8.5 |
+-----+-----+-----+";
    assert_eq!(text(&context, sql).await.unwrap(), wanted);
    // The plan says which version it holds.
    let plan = text(&context, "EXPLAIN SELECT predict('sell', p, p) FROM (VALUES (1.0)) AS t(p)").await.unwrap();
    assert!(plan.contains("predict@sell@1"), "{plan}");
    let mut newer = model();
    newer.intercept = 0.0;
    registry.save(newer).unwrap();
    assert!(text(&context, "SELECT predict('sell', 1.0, 4)").await.unwrap().contains("| 1.0"));
    registry.promote("sell@1").unwrap();
    assert!(text(&context, "SELECT predict('sell', 1.0, 4)").await.unwrap().contains("| 2.5"));
}

#[tokio::test]
async fn refuses_what_does_not_fit() {
    let directory = tempfile::tempdir().unwrap();
    Registry::new(directory.path()).save(model()).unwrap();
    let context = context(directory.path());
    for (call, wanted) in [
        ("predict('sell', 1.0)", "has 2 features, and predict was given 1"),
        ("predict('sell', 1.0, 'x')", "the feature 'volume' of the model sell@1 is Int64"),
        ("predict('sel', 1.0, 2)", "there is no model 'sel'"),
        ("predict(v, 1.0, 2)", "the model's name as a text in quotes"),
        ("predict('sell', {price: 1.0, vol: 2})", "no column 'volume'"),
        ("predict('sell', {price: 1.0, volume: 2.5})", "'volume' is Float64, but the model was trained on Int64"),
    ] {
        let error = text(&context, &format!("SELECT {call} FROM (VALUES ('a')) AS t(v)")).await.unwrap_err();
        assert!(error.contains(wanted), "{call}: {error}");
    }
}
