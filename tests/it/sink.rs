//! Sinks against a real directory, a real HDFS and a real broker.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arrow::{
    array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray},
    datatypes::Int64Type,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tidemill::{
    catalog::{Compression, CsvOptions, FileFormat, FileTable},
    error::ErrorKind,
    sink::{
        StagedFile,
        file::{FileSink, OPEN_FILES_MAX},
        spark_log::{SPARK_METADATA, SinkFile, SparkLog},
    },
    store::{Hidden, Published, Store},
};

use crate::support::{hdfs, unique};

mod kafka;

fn table(format: FileFormat) -> FileTable {
    let compression = if format == FileFormat::Parquet { Compression::Snappy } else { Compression::None };
    FileTable {
        path: String::new(),
        format,
        compression,
        partition_by: Vec::new(),
        max_records_per_file: None,
        checkpoint_location: None,
        spark_metadata: true,
        dead_letter_path: None,
    }
}

fn rows(ids: std::ops::Range<i64>, partitions: i64) -> RecordBatch {
    let symbols = ids.clone().map(|id| Some(format!("S{}", id % partitions)));
    RecordBatch::try_from_iter([
        ("id", Arc::new(ids.clone().collect::<Int64Array>()) as ArrayRef),
        ("symbol", Arc::new(symbols.collect::<StringArray>())),
        ("price", Arc::new(ids.map(|id| Some(id as f64 / 100.0)).collect::<Float64Array>())),
    ])
    .unwrap()
}

async fn local() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().to_str().unwrap()).await.unwrap();
    (directory, store)
}

async fn write(store: &Store, table: &FileTable, batches: &[RecordBatch]) -> Vec<StagedFile> {
    let sink = FileSink::new(store.clone(), table, batches[0].schema()).unwrap();
    let mut writer = sink.begin("test");
    for rows in batches {
        writer.write(rows).await.unwrap();
    }
    writer.finish().await.unwrap()
}

async fn publish(store: &Store, files: &[StagedFile]) -> BTreeMap<String, Vec<u8>> {
    let mut contents = BTreeMap::new();
    for file in files {
        assert!(store.read(&file.staged.path).await.unwrap().is_none(), "visible before it is published");
        let published = store.publish(&file.staged).await.unwrap();
        let content = store.read(&file.staged.path).await.unwrap().unwrap().to_vec();
        assert_eq!(published.size_bytes, content.len() as u64);
        contents.insert(file.staged.path.clone(), content);
    }
    contents
}

fn parquet_ids(content: Vec<u8>) -> Vec<i64> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(content)).unwrap().build().unwrap();
    reader.flat_map(|rows| rows.unwrap().column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_files_roll_and_repeat_the_header() {
    let (_directory, store) = local().await;
    let csv = FileFormat::Csv(CsvOptions { header: true, ..CsvOptions::default() });
    let table = FileTable { max_records_per_file: Some(4), ..table(csv) };
    let files = write(&store, &table, &[rows(0..3, 1), rows(3..10, 1)]).await;
    assert_eq!(files.iter().map(|file| file.rows).collect::<Vec<_>>(), [4, 4, 2]);
    for (file, ending) in files.iter().zip(["-c000.csv", "-c001.csv", "-c002.csv"]) {
        assert!(file.staged.path.starts_with("part-00000-") && file.staged.path.ends_with(ending));
        assert!(matches!(&file.staged.hidden, Hidden::File { path } if path.starts_with('.')));
    }
    let contents = publish(&store, &files).await;
    let all: Vec<String> = files.iter().map(|f| String::from_utf8(contents[&f.staged.path].clone()).unwrap()).collect();
    assert_eq!(all[0], "id,symbol,price\n0,S0,0.0\n1,S0,0.01\n2,S0,0.02\n3,S0,0.03\n");
    assert_eq!(all[2], "id,symbol,price\n8,S0,0.08\n9,S0,0.09\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_rows_no_files() {
    let (directory, store) = local().await;
    for partition_by in [vec![], vec!["symbol".to_owned()]] {
        let table = FileTable { partition_by, ..table(FileFormat::Parquet) };
        assert_eq!(write(&store, &table, &[rows(0..0, 1)]).await, []);
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_beyond_the_limit_of_open_files() {
    let (_directory, store) = local().await;
    let partitions = OPEN_FILES_MAX as i64 * 2 + 3;
    let table = FileTable { partition_by: vec!["symbol".into()], ..table(FileFormat::Parquet) };
    let batches: Vec<_> = (0..4).map(|i| rows(i * 1000..(i + 1) * 1000, partitions)).collect();
    let files = write(&store, &table, &batches).await;
    let mut ids = Vec::new();
    for (path, content) in publish(&store, &files).await {
        let (directory, name) = path.split_once('/').unwrap();
        assert!(name.ends_with(".c000.snappy.parquet"), "{name}");
        let there = parquet_ids(content);
        assert!(there.iter().all(|id| directory == format!("symbol=S{}", id % partitions)));
        ids.extend(there);
    }
    assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), 4000);
    ids.sort_unstable();
    assert_eq!(ids, (0..4000).collect::<Vec<i64>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_batch_leaves_nothing_visible() {
    let (directory, store) = local().await;
    let sink = FileSink::new(store.clone(), &table(FileFormat::Parquet), rows(0..1, 1).schema()).unwrap();
    let mut writer = sink.begin("abandoned");
    writer.write(&rows(0..100_000, 1)).await.unwrap();
    drop(writer);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let visible = std::fs::read_dir(directory.path()).unwrap();
    let names: Vec<_> = visible.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|name| name.starts_with('.')), "{names:?}");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_ends_the_batch_with_its_error() {
    // A file where the directory should be: staging below it cannot work.
    let (directory, store) = local().await;
    std::fs::write(directory.path().join("symbol=S0"), "in the way").unwrap();
    let table = FileTable { partition_by: vec!["symbol".into()], ..table(FileFormat::Csv(CsvOptions::default())) };
    let sink = FileSink::new(store, &table, rows(0..1, 1).schema()).unwrap();
    let mut writer = sink.begin("test");
    let written = writer.write(&rows(0..10, 1)).await;
    let error = match written {
        Err(error) => error,
        Ok(()) => writer.finish().await.unwrap_err(),
    };
    assert!(error.to_string().contains("symbol=S0"), "{error}");
    assert_ne!(error.kind(), ErrorKind::Internal, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_and_its_log_on_hdfs() {
    let store = Store::open(&format!("{}/{}", hdfs(), unique("sink"))).await.unwrap();
    let table = FileTable { partition_by: vec!["symbol".into()], ..table(FileFormat::Parquet) };
    let files = write(&store, &table, &[rows(0..2000, 3)]).await;
    let log = SparkLog::new(store.clone());
    let mut committed = Vec::new();
    for file in &files {
        let published = store.publish(&file.staged).await.unwrap();
        committed.push(SinkFile { path: file.staged.path.clone(), published, rows: Some(file.rows) });
    }
    log.add(0, &committed).await.unwrap();
    log.add(0, &committed).await.unwrap();
    assert_eq!(log.files().await.unwrap(), Some(committed));
    let text = store.read("_spark_metadata/0").await.unwrap().unwrap();
    let text = std::str::from_utf8(&text).unwrap();
    assert!(text.starts_with(&format!("v1\n{{\"path\":\"{}/symbol=S0/part-00000-", store.url())), "{text}");
}

/// A file of batch `batch` that is only told of.
fn file(batch: u64, size_bytes: u64) -> SinkFile {
    let published =
        Published { size_bytes, modified_ms: 1_700_000_000_000, block_replication: 1, block_size_bytes: 33_554_432 };
    SinkFile { path: format!("p=a%3Db c/part-{batch}.csv"), published, rows: Some(batch) }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_compacts_every_tenth_batch() {
    let (directory, store) = local().await;
    let log = SparkLog::new(store);
    assert_eq!((log.latest().await.unwrap(), log.files().await.unwrap()), (None, None));
    for batch in 0..25 {
        let files = if batch % 5 == 4 { vec![] } else { vec![file(batch, batch + 1)] };
        log.add(batch, &files).await.unwrap();
        // What a crash after the commit repeats.
        log.add(batch, &files).await.unwrap();
    }
    let path = directory.path().join(SPARK_METADATA);
    assert_eq!(std::fs::read_to_string(path.join("4")).unwrap(), "v1");
    assert!(path.join("9.compact").exists() && path.join("19.compact").exists() && !path.join("19").exists());
    let compact = std::fs::read_to_string(path.join("19.compact")).unwrap();
    assert_eq!((compact.lines().count(), compact.ends_with('\n')), (17, false));
    let url = format!("file://{}", directory.path().to_str().unwrap());
    let line = format!(
        "{{\"path\":\"{url}/p=a%253Db%20c/part-20.csv\",\"size\":21,\"isDir\":false,\
         \"modificationTime\":1700000000000,\"blockReplication\":1,\"blockSize\":33554432,\"action\":\"add\",\"rows\":20}}"
    );
    assert_eq!(std::fs::read_to_string(path.join("20")).unwrap(), format!("v1\n{line}"));
    let files = log.files().await.unwrap().unwrap();
    let wanted: Vec<SinkFile> = (0..25).filter(|batch| batch % 5 != 4).map(|batch| file(batch, batch + 1)).collect();
    assert_eq!(files, wanted);
    assert_eq!(log.latest().await.unwrap(), Some(24));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_refuses_another_writer_and_gaps() {
    let (_directory, store) = local().await;
    let log = SparkLog::new(store);
    assert_eq!(log.add(3, &[]).await.unwrap_err().kind(), ErrorKind::Corrupt);
    for batch in 0..12 {
        log.add(batch, &[file(batch, 1)]).await.unwrap();
    }
    assert_eq!(log.add(13, &[]).await.unwrap_err().kind(), ErrorKind::Corrupt);
    for batch in [11, 9, 3] {
        log.add(batch, &[file(batch, 1)]).await.unwrap();
        assert_eq!(log.add(batch, &[file(batch, 2)]).await.unwrap_err().kind(), ErrorKind::Conflict, "batch {batch}");
    }
    assert_eq!(log.add(11, &[]).await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_is_explained() {
    let (directory, store) = local().await;
    let log = SparkLog::new(store);
    for batch in 0..13 {
        log.add(batch, &[file(batch, 1)]).await.unwrap();
    }
    let path = directory.path().join(SPARK_METADATA);
    let corrupt = async |words: &str| {
        let error = log.files().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.message().contains(words), "{words}: {error}");
    };
    let good = std::fs::read(path.join("11")).unwrap();
    std::fs::write(path.join("11"), &good[..good.len() - 1]).unwrap();
    corrupt("_spark_metadata/11: line 2").await;
    std::fs::write(path.join("11"), "").unwrap();
    corrupt("_spark_metadata/11: line 1").await;
    std::fs::remove_file(path.join("11")).unwrap();
    corrupt("_spark_metadata/11 is missing").await;
    std::fs::write(path.join("11"), std::fs::read(path.join("12")).unwrap()).unwrap();
    corrupt("twice").await;
    std::fs::write(path.join("11"), &good).unwrap();
    assert_eq!(log.files().await.unwrap().unwrap().len(), 13);
    // Files that are older than the compacted one are not needed.
    std::fs::remove_file(path.join("3")).unwrap();
    assert_eq!(log.files().await.unwrap().unwrap().len(), 13);
    std::fs::remove_file(path.join("9.compact")).unwrap();
    corrupt("is missing").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_was_moved_is_explained() {
    let (directory, store) = local().await;
    let (old, new) = (directory.path().join("old"), directory.path().join("new"));
    SparkLog::new(store.below("old").unwrap()).add(0, &[file(0, 1)]).await.unwrap();
    std::fs::rename(&old, &new).unwrap();
    let error = SparkLog::new(store.below("new").unwrap()).files().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("moved or copied"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_takes_over_what_spark_left() {
    let (directory, store) = local().await;
    let url = format!("file://{}", directory.path().to_str().unwrap());
    let path = directory.path().join(SPARK_METADATA);
    std::fs::create_dir(&path).unwrap();
    let line = |batch: u64| {
        format!(
            "v1\n{{\"path\":\"{url}/part-{batch}.csv\",\"size\":3,\"isDir\":false,\"modificationTime\":5,\
             \"blockReplication\":1,\"blockSize\":33554432,\"action\":\"add\"}}"
        )
    };
    // An interval of 3: the log's own, not the default.
    for (name, batch) in [("0", 0), ("1", 1), ("3", 3), ("4", 4)] {
        std::fs::write(path.join(name), line(batch)).unwrap();
    }
    let compact = [line(0), line(1).replace("v1\n", ""), line(2).replace("v1\n", "")].join("\n");
    std::fs::write(path.join("2.compact"), compact).unwrap();
    std::fs::write(path.join(".5.compact.crc"), "stale").unwrap();
    std::fs::write(path.join(".5.0b3d.tmp"), "leftover").unwrap();
    let log = SparkLog::new(store);
    assert_eq!(log.files().await.unwrap().unwrap().len(), 5);
    log.add(5, &[file(5, 1)]).await.unwrap();
    assert!(path.join("5.compact").exists() && !path.join(".5.compact.crc").exists());
    let files = log.files().await.unwrap().unwrap();
    assert_eq!(files.iter().map(|file| file.rows).collect::<Vec<_>>(), [None, None, None, None, None, Some(5)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_log_files_go_when_no_reader_needs_them() {
    let (directory, store) = local().await;
    let log = SparkLog::new(store);
    let path = directory.path().join(SPARK_METADATA);
    for batch in 0..120 {
        log.add(batch, &[file(batch, 1)]).await.unwrap();
    }
    let count = || std::fs::read_dir(&path).unwrap().count();
    assert_eq!(count(), 120, "young files stay");
    let old = std::time::SystemTime::now() - Duration::from_secs(3600);
    for entry in std::fs::read_dir(&path).unwrap() {
        std::fs::File::options().write(true).open(entry.unwrap().path()).unwrap().set_modified(old).unwrap();
    }
    log.add(120, &[file(120, 1)]).await.unwrap();
    // 121 - 100 = 21 are not retained; 19.compact is what readers of 20 and later start from.
    assert_eq!(count(), 121 - 19);
    assert!(path.join("19.compact").exists() && !path.join("18").exists());
    assert_eq!(log.files().await.unwrap().unwrap().len(), 121);
}
