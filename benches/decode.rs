//! Decoding a million bitcoin records: ours with every column, ours with three, and arrow-json.

#![expect(clippy::expect_used, reason = "a bench that cannot run has to stop")]

use std::{io::Write, sync::Arc};

use arrow::{
    datatypes::{DataType, Field, Schema, TimeUnit},
    json::ReaderBuilder,
};
use tidemill::{
    catalog::{Column, DecodeOptions, ParseMode, PayloadFormat},
    decode::{ROWS_PER_BATCH, RecordDecoder},
    kafka::KafkaRecord,
};

const RECORDS: usize = 1_000_000;

/// Prints records per CPU second of each; asserts that none was lost.
pub fn run() {
    let columns = columns();
    let payloads = payloads();
    let bytes: usize = payloads.iter().map(Vec::len).sum();
    println!("decode: {RECORDS} records of {} bytes", bytes / RECORDS);
    let all: Vec<usize> = (0..columns.len()).collect();
    measure("all 8 columns", || ours(&columns, &all, &payloads));
    measure("3 columns", || ours(&columns, &[0, 2, 3], &payloads));
    measure("no column", || ours(&columns, &[], &payloads));
    measure("arrow-json, all 8", || arrow_json(&columns, &payloads));
}

fn measure(name: &str, decode: impl Fn() -> usize) {
    // The best of three: a noisy neighbour only ever makes it slower.
    let best = (0..3).map(|_| {
        let start = cpu_seconds();
        assert_eq!(decode(), RECORDS, "{name}");
        cpu_seconds() - start
    });
    let best = best.fold(f64::INFINITY, f64::min);
    println!("  {name:<18} {:>5.2} million records per CPU second", RECORDS as f64 / best / 1e6);
}

/// CPU time of this thread, from the kernel's scheduler statistics (nanoseconds, the first field).
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux has /proc/thread-self/schedstat");
    text.split(' ').next().and_then(|field| field.parse::<f64>().ok()).expect("its first field is a number") / 1e9
}

fn ours(columns: &[Column], projection: &[usize], payloads: &[Vec<u8>]) -> usize {
    let options = DecodeOptions { format: PayloadFormat::Json, mode: ParseMode::DeadLetter, corrupt_column: None };
    let mut decoder = RecordDecoder::new(columns, projection, &options).expect("the columns are ordinary");
    let mut rows = 0;
    let mut records = Vec::with_capacity(ROWS_PER_BATCH);
    for chunk in payloads.chunks(ROWS_PER_BATCH) {
        records.clear();
        records.extend(chunk.iter().zip(0..).map(|(payload, offset)| KafkaRecord {
            topic: "bitcointopic",
            partition: 0,
            offset,
            timestamp_ms: Some(0),
            timestamp_type: 0,
            key: None,
            value: Some(payload),
            headers: &[],
        }));
        decoder.push(&records).expect("dead letters take what is bad");
        let decoded = decoder.flush().expect("the columns agree");
        assert_eq!(decoded.bad, 0);
        rows += decoded.rows.num_rows();
    }
    rows
}

fn arrow_json(columns: &[Column], payloads: &[Vec<u8>]) -> usize {
    let fields: Vec<_> =
        columns.iter().map(|column| Field::new(&column.name, column.data_type.clone(), true)).collect();
    let mut decoder = ReaderBuilder::new(Arc::new(Schema::new(fields)))
        .with_batch_size(ROWS_PER_BATCH)
        .build_decoder()
        .expect("the columns are ordinary");
    let mut rows = 0;
    for chunk in payloads.chunks(ROWS_PER_BATCH) {
        for payload in chunk {
            decoder.decode(payload).expect("the records are good");
        }
        rows += decoder.flush().expect("the records are good").map_or(0, |batch| batch.num_rows());
    }
    rows
}

fn columns() -> Vec<Column> {
    let column = |name: &str, data_type| Column { name: name.to_owned(), data_type, nullable: true, metadata: None };
    let double = |name| column(name, DataType::Float64);
    vec![
        column("timestamp", DataType::Timestamp(TimeUnit::Microsecond, None)),
        double("buy_price"),
        double("sell_price"),
        column("volume", DataType::Int64),
        double("volatility"),
        double("buy_price_normalized"),
        double("sell_price_normalized"),
        double("volume_normalized"),
    ]
}

/// Simulated bitcoin prices, as Python's `json.dumps` writes them; the normalised fields are the min-max ones.
fn payloads() -> Vec<Vec<u8>> {
    // A linear congruential generator: the bench needs variety, not randomness.
    let mut state = 42u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let record = |index: usize| {
        let (second, micros) = (index / 50 % 60, index * 7919 % 1_000_000);
        let (minute, hour) = (index / 3000 % 60, index / 180_000 % 24);
        let cents = |value: f64| (value * 100.0).round() / 100.0;
        let (buy, sell) = (cents(10_000.0 + next() * 10_000.0), cents(10_000.0 + next() * 10_000.0));
        let volume = (next() * 5000.0) as u64;
        let mut text = Vec::with_capacity(240);
        write!(
            text,
            "{{\"timestamp\": \"2024-01-01T{hour:02}:{minute:02}:{second:02}.{micros:06}\", \"buy_price\": {buy:.2}, \
             \"sell_price\": {sell:.2}, \"volume\": {}, \"volatility\": {:.2}, \"buy_price_normalized\": {}, \
             \"sell_price_normalized\": {}, \"volume_normalized\": {}}}",
            volume,
            next() * 5.0,
            (buy - 10_000.0) / 10_000.0,
            (sell - 10_000.0) / 10_000.0,
            volume as f64 / 5000.0,
        )
        .expect("a vector takes every byte");
        text
    };
    (0..RECORDS).map(record).collect()
}
