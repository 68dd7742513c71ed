//! Encoding: one million rows of eight columns, like the records of a price stream, to CSV and to Parquet.

#![allow(clippy::expect_used)]

use std::{hint::black_box, sync::Arc};

use arrow::array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rand::{Rng, SeedableRng};
use tidemill::{
    catalog::{Compression, CsvOptions},
    sink::{csv::CsvEncoder, json::JsonEncoder, parquet::ParquetEncoder},
};

const ROWS: usize = 1_000_000;
const ROWS_PER_BATCH: usize = 8192;

/// Encodes, counts the rows, and prints rows per CPU second.
pub fn run() {
    let batches = batches();
    let schema = batches[0].schema();

    let encoder = CsvEncoder::new(&schema, &CsvOptions::default()).expect("CSV");
    let (bytes, lines) = measure("CSV", || {
        let (mut out, mut bytes, mut lines) = (Vec::new(), 0, 0);
        for rows in &batches {
            out.clear();
            encoder.encode(rows, &mut out).expect("CSV");
            bytes += out.len();
            lines += memchr::memchr_iter(b'\n', black_box(&out)).count();
        }
        (bytes, lines)
    });
    assert_eq!(lines, ROWS);
    println!("  {} bytes per row", bytes / ROWS);

    let encoder = JsonEncoder::new(&schema, None).expect("JSON");
    let (_, lines) = measure("JSON", || {
        let (mut out, mut bytes, mut lines) = (Vec::new(), 0, 0);
        for rows in &batches {
            out.clear();
            encoder.encode(rows, &mut out).expect("JSON");
            bytes += out.len();
            lines += memchr::memchr_iter(b'\n', black_box(&out)).count();
        }
        (bytes, lines)
    });
    assert_eq!(lines, ROWS);

    let file = measure("Parquet", || {
        let mut encoder = ParquetEncoder::new(&schema, Compression::Snappy).expect("Parquet");
        let mut file = Vec::new();
        for rows in &batches {
            encoder.write(rows).expect("Parquet");
            file.extend(encoder.take());
        }
        file.extend(encoder.finish().expect("Parquet"));
        file
    });
    let file = file.concat();
    println!("  {} bytes per row", file.len() / ROWS);
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(file)).expect("Parquet");
    assert_eq!(reader.metadata().file_metadata().num_rows(), ROWS as i64);
}

fn measure<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let before = cpu_seconds();
    let result = work();
    let seconds = cpu_seconds() - before;
    println!("{what}: {:.2} million rows per CPU second", ROWS as f64 / seconds / 1e6);
    result
}

/// Of this thread, which does all the work: nanoseconds, the first word of the file.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanos: f64 = text.split(' ').next().and_then(|word| word.parse().ok()).expect("a number");
    nanos / 1e9
}

fn batches() -> Vec<RecordBatch> {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let mut start = 0;
    let mut batches = Vec::new();
    while start < ROWS {
        let count = ROWS_PER_BATCH.min(ROWS - start);
        let mut prices = || -> ArrayRef {
            Arc::new(
                (0..count)
                    .map(|_| Some(f64::from(random.random_range(1_500_000..1_700_000)) / 100.0))
                    .collect::<Float64Array>(),
            )
        };
        let (buy, sell) = (prices(), prices());
        let mut shares =
            || -> ArrayRef { Arc::new((0..count).map(|_| Some(random.random::<f64>())).collect::<Float64Array>()) };
        let (first, second, third) = (shares(), shares(), shares());
        let at = (start..start + count).map(|i| Some(1_704_067_200_000_000 + i as i64 * 1_000));
        batches.push(
            RecordBatch::try_from_iter([
                ("timestamp", Arc::new(at.collect::<TimestampMicrosecondArray>()) as ArrayRef),
                ("symbol", Arc::new(StringArray::from(vec!["BTCUSDT"; count]))),
                ("buy_price", buy),
                ("sell_price", sell),
                ("volume", Arc::new((0..count).map(|i| Some(i as i64 % 977)).collect::<Int64Array>())),
                ("buy_price_normalized", first),
                ("sell_price_normalized", second),
                ("volatility", third),
            ])
            .expect("equal lengths"),
        );
        start += count;
    }
    assert_eq!(batches.iter().map(|rows| rows.column(0).len()).sum::<usize>(), ROWS);
    batches
}
