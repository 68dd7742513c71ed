//! Rows of files whose row groups are cut, against those of the same rows in row groups that are not.

use std::{fs::File, path::Path};

use arrow::{
    array::{ArrayRef, Float64Array, Int64Array, ListArray, RecordBatch, StringArray},
    compute::concat_batches,
    datatypes::Int32Type,
    util::display::{ArrayFormatter, FormatOptions},
};
use parquet::{
    arrow::ArrowWriter,
    file::properties::{EnabledStatistics, WriterProperties},
};
use proptest::prelude::*;

use super::*;
use crate::{
    query::{MEMORY_BYTES_DEFAULT, QuerySession},
    session::SessionLimits,
};

const ROWS: i64 = 12_000;

fn rows() -> RecordBatch {
    let scattered = |id: i64| (id.wrapping_mul(6_364_136_223_846_793_005) >> 20) as f64 / 1e3;
    let ids = 0..ROWS;
    let lists = ids.clone().map(|id| (id % 5 != 0).then(move || (0..id % 3).map(move |at| Some((id + at) as i32))));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(ids.clone()))),
        ("x", Arc::new(ids.clone().map(|id| (id % 11 != 0).then(|| scattered(id))).collect::<Float64Array>())),
        ("s", Arc::new(ids.clone().map(|id| (id % 7 != 0).then(|| format!("s{}", id % 50))).collect::<StringArray>())),
        ("l", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// With row groups and pages of so many rows, and dictionaries of so many bytes.
fn write(path: &Path, row_group: usize, page: usize, dictionary: usize, index: bool) {
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(row_group))
        .set_data_page_row_count_limit(page)
        .set_write_batch_size(page)
        .set_dictionary_enabled(dictionary > 0)
        .set_dictionary_page_size_limit(dictionary)
        .set_offset_index_disabled(!index)
        .set_statistics_enabled(if index { EnabledStatistics::Page } else { EnabledStatistics::Chunk })
        .build();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), rows().schema(), Some(properties)).unwrap();
    writer.write(&rows()).unwrap();
    writer.close().unwrap();
}

async fn lines(partitions: usize, sql: &str) -> Vec<String> {
    let limits = SessionLimits { memory_bytes: MEMORY_BYTES_DEFAULT, partitions };
    let session = QuerySession::new(Vec::new(), limits).unwrap();
    let mut selected = session.select(sql).await.unwrap();
    let (schema, mut batches) = (selected.schema(), Vec::new());
    while let Some(batch) = selected.next().await.unwrap() {
        batches.push(batch);
    }
    let rows = concat_batches(&schema, &batches).unwrap();
    let options = FormatOptions::default().with_null("NULL");
    let columns: Vec<_> =
        rows.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
    let line = |row| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join("|");
    (0..rows.num_rows()).map(line).collect()
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_gives_the_same_rows(
        row_group in 2_000..15_000usize, page in 50..3_000usize, from in 0..ROWS, length in 0..5_000i64, limit in 1..9_000usize,
        dictionary in proptest::sample::select(vec![0, 1_000, 1_000_000]),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let (large, small) = (directory.path().join("large.parquet"), directory.path().join("small.parquet"));
        write(&large, row_group, page, dictionary, true);
        write(&small, 500, 500, dictionary, true);
        let between = format!("id BETWEEN {from} AND {}", from + length);
        let queries = [
            "SELECT * FROM t".to_owned(),
            format!("SELECT x, s, l FROM t WHERE {between} AND x > 0"),
            format!("SELECT count(*), count(x), min(id), max(id), count(DISTINCT s) FROM t WHERE {between}"),
            "SELECT count(*), min(id), max(x), count(l) FROM t".to_owned(),
            format!("SELECT id, x FROM t ORDER BY x DESC NULLS LAST, id LIMIT {limit}"),
            "SELECT s, count(*), sum(id) FROM t GROUP BY s".to_owned(),
        ];
        run(async {
            for query in &queries {
                let of = |path: &Path| query.replace(" t", &format!(" '{}'", path.display()));
                let wanted = sorted(lines(1, &of(&small)).await);
                for partitions in [1, 2, 3] {
                    assert_eq!(sorted(lines(partitions, &of(&large)).await), wanted, "{query} {partitions}");
                }
            }
            let limited = format!("SELECT id FROM '{}' LIMIT {limit}", large.display());
            assert_eq!(lines(2, &limited).await.len(), limit.min(ROWS as usize));
            let of_some = format!("SELECT id FROM '{}' WHERE {between} LIMIT {limit}", large.display());
            let there = (ROWS - from).min(length + 1) as usize;
            assert_eq!(lines(2, &of_some).await.len(), limit.min(there));
            // In one partition rows stand as in the file.
            let ids = lines(1, &format!("SELECT id FROM '{}'", large.display())).await;
            assert_eq!(ids, (0..ROWS).map(|id| id.to_string()).collect::<Vec<_>>());
        });
    }
}

/// The plan of reading `columns` of a file.
fn plan(path: &Path, columns: &str, partitions: usize) -> String {
    let sql = format!("EXPLAIN FORMAT INDENT SELECT {columns} FROM '{}'", path.display());
    run(lines(partitions, &sql)).join("\n")
}

#[test]
fn only_large_row_groups_with_an_index_are_cut() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rows.parquet");
    let pieces = |columns: &str, partitions| plan(&path, columns, partitions).matches("rows.parquet:").count();
    write(&path, 12_000, 500, 0, true);
    assert!(pieces("*", 2) > 4, "{}", plan(&path, "*", 2));
    assert!(pieces("x", 1) > 1, "{}", plan(&path, "x", 1));
    // Each slice would read the dictionary, which is about all that there is.
    write(&path, 12_000, 500, 1_000_000, true);
    assert!(pieces("x", 1) <= 1, "{}", plan(&path, "x", 1));
    write(&path, 12_000, 500, 0, false);
    assert!(pieces("*", 1) <= 1, "{}", plan(&path, "*", 1));
    write(&path, 500, 500, 0, true);
    assert!(pieces("*", 1) <= 1, "{}", plan(&path, "*", 1));
}

#[test]
fn slices_begin_with_pages_and_cover_all() {
    let pages = [0, 100, 200, 300, 400];
    assert_eq!(starts(pages.into_iter(), 500, 1), [0]);
    assert_eq!(starts(pages.into_iter(), 500, 2), [0, 300]);
    assert_eq!(starts(pages.into_iter(), 500, 100), pages);
    assert_eq!(starts([0].into_iter(), 500, 4), [0]);
    let rows = |start, end| match access(start, end, 500) {
        RowGroupAccess::Selection(selection) => selection.row_count(),
        RowGroupAccess::Scan => 500,
        RowGroupAccess::Skip => 0,
    };
    assert_eq!((rows(0, 300), rows(300, 500), rows(0, 500)), (300, 200, 500));
}
