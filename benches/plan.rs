//! A projection and a filter of DataFusion over decoded batches, as a streaming INSERT runs them.

use std::{sync::Arc, time::Instant};

use arrow::array::{Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::datasource::MemTable;
use futures::StreamExt;
use tidemill::session::{SessionLimits, session};

use crate::measure::cpu_s;

const BATCHES: usize = 128;
const ROWS: usize = 8192;

pub fn run() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let schema = Arc::new(Schema::new(vec![
            Field::new("price", DataType::Float64, true),
            Field::new("volume", DataType::Int64, true),
        ]));
        let price = Float64Array::from_iter_values((0..ROWS).map(|row| row as f64));
        let volume = Int64Array::from_iter_values((0..ROWS as i64).map(|row| row % 100));
        let batch =
            RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(price), Arc::new(volume)]).expect("a batch");
        let context = session(SessionLimits { memory_bytes: 64 << 20, partitions: 1 }).expect("a session");
        let table = MemTable::try_new(schema, vec![vec![batch; BATCHES]]).expect("a table");
        context.register_table("t", Arc::new(table)).expect("registered");
        let start = Instant::now();
        let frame = context.sql("SELECT price * 1.1 AS price, volume FROM t WHERE volume < 50").await.expect("a plan");
        let mut stream = frame.execute_stream().await.expect("a stream");
        println!("planning: {:.2} ms", start.elapsed().as_secs_f64() * 1000.0);
        let (cpu, mut rows) = (cpu_s(), 0);
        while let Some(batch) = stream.next().await {
            rows += batch.expect("rows").num_rows();
        }
        let cpu = cpu_s() - cpu;
        assert_eq!(rows, BATCHES * (0..ROWS).filter(|row| row % 100 < 50).count());
        println!("project and filter: {:.1} million rows a CPU second", (BATCHES * ROWS) as f64 / cpu.max(0.01) / 1e6);
    });
}
