//! As-of joins of tables, against the same in plain SQL.

use std::sync::Arc;

use arrow::{
    array::{Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    compute::concat_batches,
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    util::display::{ArrayFormatter, FormatOptions},
};
use datafusion::{dataframe::DataFrame, datasource::MemTable, prelude::SessionContext};
use proptest::prelude::*;

use crate::session::{SessionLimits, plan_sql, session};

/// Symbol, time, number.
type Row = (Option<u8>, Option<i64>, Option<i64>);

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("symbol", DataType::Utf8, true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("n", DataType::Int64, true),
    ]))
}

fn table(rows: &[Row], partitions: usize) -> Arc<MemTable> {
    let batch = |rows: &[Row]| {
        let symbols = rows.iter().map(|row| row.0.map(|symbol| ["a", "b", "c"][usize::from(symbol)]));
        let times = rows.iter().map(|row| row.1).collect::<TimestampMicrosecondArray>();
        let numbers = rows.iter().map(|row| row.2).collect::<Int64Array>();
        let symbols = symbols.collect::<StringArray>();
        RecordBatch::try_new(schema(), vec![Arc::new(symbols), Arc::new(times), Arc::new(numbers)]).unwrap()
    };
    let mut parts = vec![Vec::new(); partitions];
    for (at, rows) in rows.chunks(3).enumerate() {
        parts[at % partitions].push(batch(rows));
    }
    Arc::new(MemTable::try_new(schema(), parts).unwrap())
}

async fn lines(context: &SessionContext, sql: &str) -> Vec<String> {
    let plan = plan_sql(&context.state(), sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let frame = DataFrame::new(context.state(), plan);
    let schema = Arc::clone(frame.schema().inner());
    let rows = concat_batches(&schema, &frame.collect().await.unwrap()).unwrap();
    let options = FormatOptions::default().with_null("NULL");
    let columns: Vec<_> =
        rows.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
    let line = |row| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join("|");
    let mut lines: Vec<String> = (0..rows.num_rows()).map(line).collect();
    lines.sort();
    lines
}

fn rows(most: usize) -> impl Strategy<Value = Vec<Row>> {
    let symbol = prop_oneof![9 => (0u8..3).prop_map(Some), 1 => Just(None)];
    let time = prop_oneof![9 => (0i64..20).prop_map(Some), 1 => Just(None)];
    let number = prop_oneof![9 => (0i64..5).prop_map(Some), 1 => Just(None)];
    proptest::collection::vec((symbol, time, number), 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn gives_the_last_row_as_plain_sql_would(
        left in rows(30),
        right in rows(60),
        strict in any::<bool>(),
        outer in any::<bool>(),
        by_number in any::<bool>(),
        partitions in 1usize..4,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let context = session(SessionLimits { memory_bytes: 512 << 20, partitions }).unwrap();
            // Small batches, so that the merge meets their ends.
            let state = context.state_ref();
            state.write().config_mut().options_mut().set("datafusion.execution.batch_size", "3").unwrap();
            context.register_table("t", table(&left, partitions)).unwrap();
            context.register_table("q", table(&right, partitions)).unwrap();
            let (than, kind) = (if strict { ">" } else { ">=" }, if outer { "LEFT" } else { "" });
            let (key, right) = match by_number {
                true => ("t.n % 2 = q.n % 2", "(SELECT n, symbol, ts FROM q)"),
                false => ("t.symbol = q.symbol", "q"),
            };
            let order = if by_number { ["n", "symbol"] } else { ["symbol", "n"] };
            let order = order.map(|column| format!("q.{column} DESC NULLS LAST")).join(", ");
            let numbered = "(SELECT *, row_number() OVER (ORDER BY symbol, ts, n) AS id FROM t)";
            let asof = format!(
                "SELECT t.id, t.n, q.symbol AS s, q.ts AS qt, q.n AS m FROM {numbered} t ASOF {kind} JOIN {right} q \
                 MATCH_CONDITION (t.ts {than} q.ts) ON {key}"
            );
            let plain = format!(
                "SELECT id, n, s, qt, m FROM (SELECT t.id, t.n, q.symbol AS s, q.ts AS qt, q.n AS m, \
                 row_number() OVER (PARTITION BY t.id ORDER BY q.ts DESC NULLS LAST, {order}) AS r \
                 FROM {numbered} t {kind} JOIN q ON {key} AND t.ts {than} q.ts) WHERE r = 1"
            );
            prop_assert_eq!(lines(&context, &asof).await, lines(&context, &plain).await, "{}", asof);
            // Few columns of the right side do not change which row is the last.
            let few = format!("SELECT id, m FROM ({asof})");
            prop_assert_eq!(lines(&context, &few).await, lines(&context, &format!("SELECT id, m FROM ({plain})")).await);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn the_types_of_keys_and_times_may_differ() {
    let context = session(SessionLimits { memory_bytes: 512 << 20, partitions: 2 }).unwrap();
    let sql = "SELECT t.k, q.v FROM (VALUES (1, TIMESTAMP '2024-01-01T00:00:05')) t(k, ts) ASOF JOIN \
               (SELECT CAST(k AS BIGINT) AS k, CAST(ts AS TIMESTAMP(0)) AS ts, v FROM (VALUES \
               (1, TIMESTAMP '2024-01-01T00:00:04', 'x'), (1, TIMESTAMP '2024-01-01T00:00:06', 'y')) q(k, ts, v)) q \
               ON t.k = q.k AND t.ts >= q.ts";
    assert_eq!(lines(&context, sql).await, ["1|x"]);
    let explained = lines(&context, &format!("EXPLAIN {sql}")).await.join("\n");
    assert!(explained.contains("AsofJoin: Inner"), "{explained}");
}
