//! The bookkeeping of a batch on a local disk: offsets, prepared, commit.

use std::time::Instant;

use tidemill::{
    checkpoint::{Checkpoint, Ledger, OffsetEntry, Prepared, Read, spark_conf},
    store::Store,
};

use crate::measure::quantile;

const BATCHES: u64 = 200;

pub fn run() {
    let directory = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut times = Vec::new();
    runtime.block_on(async {
        let store = Store::open(&directory.path().display().to_string()).await.expect("a store");
        let checkpoint = Checkpoint::open(store).await.expect("a checkpoint");
        for batch in 0..BATCHES {
            let start = Instant::now();
            let ends = vec![format!("{{\"t\":{{\"0\":{batch}}}}}").parse().expect("offsets")];
            let entry = OffsetEntry { watermark_ms: 0, timestamp_ms: 1, conf: spark_conf(), ends };
            checkpoint.write_offsets(batch, &entry).await.expect("offsets");
            let ledger = Ledger::of_batch(Read { consumed: 1, gaps: 0, bad: 0, again: 0 }, 1);
            let prepared = Prepared {
                batch_id: batch,
                run_id: checkpoint.run_id.clone(),
                files: vec![],
                dead_letters: vec![],
                dead_letter_url: String::new(),
                late: Vec::new(),
                late_url: String::new(),
                state: None,
                earlier_dead_letter_urls: Vec::new(),
                ledger,
                totals: ledger,
                counted_from: "{}".into(),
                static_tables: Vec::new(),
            };
            checkpoint.write_prepared(&prepared).await.expect("prepared");
            checkpoint.write_commit(batch, 0).await.expect("commit");
            checkpoint.purge(batch).await.expect("purge");
            times.push(start.elapsed().as_secs_f64() * 1000.0);
        }
        assert_eq!(checkpoint.facts().await.expect("facts").commits.last(), Some(&(BATCHES - 1)));
    });
    let p99 = quantile(&mut times, 0.99);
    println!("three log files of a batch, local, fsync: median {:.2} ms, p99 {p99:.2} ms", quantile(&mut times, 0.5));
}
