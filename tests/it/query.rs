//! `tidemill query` by the real binary: what it reads, what it refuses, how it writes.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use tidemill::{
    sink::spark_log::{SinkFile, SparkLog},
    store::Store,
};

use crate::support::{
    hdfs,
    job::{JobText, TestJob, prices, send},
    tidemill, unique,
};

fn query_in(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(tidemill());
    command.arg("query").args(arguments).current_dir(directory).stdin(Stdio::null()).output().unwrap()
}

/// The standard output of a query that succeeds.
fn rows_in(directory: &Path, arguments: &[&str]) -> String {
    let output = query_in(directory, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn csv_in(directory: &Path, sql: &str) -> String {
    rows_in(directory, &["--format", "csv", sql])
}

/// Exit code and message of a query that fails.
fn failure_in(directory: &Path, arguments: &[&str]) -> (i32, String) {
    let output = query_in(directory, arguments);
    assert!(!output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn directory_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    directory
}

#[test]
fn writes_every_format() {
    let directory = directory_with(&[("in.csv", "id,name\n1,a\n2,\n")]);
    let at = directory.path();
    let sql = "SELECT * FROM 'in.csv' ORDER BY id";
    assert_eq!(rows_in(at, &["--format", "csv", sql]), "id,name\n1,a\n2,\n");
    assert_eq!(rows_in(at, &["--format", "ndjson", sql]), "{\"id\":1,\"name\":\"a\"}\n{\"id\":2,\"name\":null}\n");
    assert_eq!(rows_in(at, &["--format", "json", sql]), "[{\"id\":1,\"name\":\"a\"},{\"id\":2,\"name\":null}]\n");
    let table = "+----+------+\n| id | name |\n+----+------+\n| 1  | a    |\n| 2  |      |\n+----+------+\n(2 rows)\n";
    assert_eq!(rows_in(at, &[sql]), table);
    let first = rows_in(at, &["--max-rows", "1", sql]);
    assert!(first.ends_with("(the first 1 rows; --max-rows 0 shows all)\n"), "{first}");
    assert_eq!(rows_in(at, &["--format", "parquet", "-o", "out.parquet", sql]), "");
    assert_eq!(csv_in(at, "SELECT sum(id) AS s, count(name) AS n FROM 'out.parquet'"), "s,n\n3,1\n");
    let (code, message) = failure_in(at, &["--format", "parquet", sql]);
    assert!(code == 2 && message.contains("--output"), "{message}");
}

#[test]
fn a_failed_query_leaves_no_output() {
    let directory = directory_with(&[("in.csv", "id\n1\n0\n")]);
    failure_in(directory.path(), &["--format", "csv", "-o", "out.csv", "SELECT 1/id FROM 'in.csv'"]);
    let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["in.csv"]);
}

#[test]
fn an_output_replaces_a_file_only_when_asked_to() {
    let directory = directory_with(&[("out.csv", "mine\n")]);
    let at = directory.path();
    let kept = || fs::read_to_string(at.join("out.csv")).unwrap();
    let (code, message) = failure_in(at, &["-o", "out.csv", "SELECT 1 AS x"]);
    assert!(code == 1 && message.contains("the output out.csv is there already"), "{message}");
    assert!(message.contains("--overwrite") && kept() == "mine\n", "{message}");
    failure_in(at, &["-o", "out.csv", "--overwrite", "SELECT 1/0 AS x"]);
    assert_eq!(kept(), "mine\n", "a query that fails replaces nothing");
    rows_in(at, &["-o", "out.csv", "--overwrite", "SELECT 1 AS x"]);
    assert_eq!(kept(), "x\n1\n");
    assert_eq!(fs::read_dir(at).unwrap().count(), 1);
    let (code, message) = failure_in(at, &["-o", ".", "--overwrite", "SELECT 1"]);
    assert!(code == 2 && message.contains("is a directory"), "{message}");
}

#[test]
fn hidden_and_unfinished_files_are_not_read() {
    let directory = directory_with(&[
        ("t/a.json", "{\"x\":1}\n"),
        ("t/.b.json.tmp", "{\"x\":"),
        ("t/.b.json", "{\"x\":"),
        ("t/_dead_letters/c.json", "no json"),
        ("t/_SUCCESS", ""),
        ("t/empty.json", ""),
    ]);
    for place in ["t", "t/", "t/*.json", "t/a.json", "./t/**/*.json"] {
        assert_eq!(csv_in(directory.path(), &format!("SELECT x FROM '{place}'")), "x\n1\n", "{place}");
    }
}

#[tokio::test]
async fn a_directory_with_a_log_has_the_files_of_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("t").to_str().unwrap()).await.unwrap();
    let log = SparkLog::new(store.clone());
    for (batch, path) in [(0, "day=1/a.csv"), (1, "day=2/b.csv")] {
        let mut writer = store.stage(path, "test").await.unwrap();
        writer.write(format!("{batch},x\n").into()).await.unwrap();
        let published = store.publish(&writer.finish().await.unwrap()).await.unwrap();
        log.add(batch, &[SinkFile { path: path.to_owned(), published, rows: Some(1) }]).await.unwrap();
    }
    fs::write(directory.path().join("t/day=2/orphan.csv"), "7,orphan\n").unwrap();
    for (place, expected) in [("t", "0,1\n1,2\n"), ("t/*/*.csv", "0,1\n1,2\n")] {
        let sql = format!("SELECT column_1, day FROM '{place}' ORDER BY 1");
        assert_eq!(csv_in(directory.path(), &sql), format!("column_1,day\n{expected}"), "{place}");
    }
    // A partition's directory belongs to the table above it.
    assert_eq!(csv_in(directory.path(), "SELECT column_1 FROM 't/day=2'"), "column_1\n1\n");
    // Whoever copies into it would be read by nobody.
    let (code, message) = failure_in(directory.path(), &["COPY (SELECT 1) TO 't/' STORED AS CSV"]);
    assert!(code == 2 && message.contains("streaming job"), "{message}");
}

#[test]
fn partition_directories_are_columns() {
    let null = "__HIVE_DEFAULT_PARTITION__";
    let directory = directory_with(&[
        ("t/day=2026-01-01/s=a%2Fb/1.json", "{\"x\":1}\n"),
        ("t/day=2026-01-02/s=c/2.json", "{\"x\":2}\n"),
        (&format!("t/day={null}/s={null}/3.json"), "{\"x\":3}\n"),
    ]);
    let at = directory.path();
    assert_eq!(csv_in(at, "SELECT * FROM 't' ORDER BY x"), "x,day,s\n1,2026-01-01,a/b\n2,2026-01-02,c\n3,,\n");
    assert_eq!(csv_in(at, "SELECT x FROM 't' WHERE day > DATE '2026-01-01'"), "x\n2\n");
    assert_eq!(csv_in(at, "SELECT x FROM 't' WHERE NOT (s = 'c')"), "x\n1\n");
    assert_eq!(csv_in(at, "SELECT count(*) AS n, count(day) AS d FROM 't'"), "n,d\n3,2\n");
    // The same from Parquet, where footers and partition values answer the count.
    rows_in(at, &["COPY (SELECT * FROM 't') TO 'p/' STORED AS PARQUET PARTITIONED BY (day)"]);
    assert_eq!(csv_in(at, "SELECT count(*) AS n FROM 'p' WHERE day = DATE '2026-01-02'"), "n\n1\n");
}

#[test]
fn files_of_different_schemas_are_refused_by_name() {
    let directory = directory_with(&[("a.csv", "x\n1\n"), ("b.csv", "x\nb\n")]);
    let at = directory.path();
    rows_in(at, &["COPY (SELECT x FROM 'a.csv') TO 't/1.parquet'; COPY (SELECT x FROM 'b.csv') TO 't/2.parquet'"]);
    let (code, message) = failure_in(at, &["SELECT * FROM 't'"]);
    assert_eq!(code, 2);
    assert!(message.contains("column 'x' is Utf8 in file://") && message.contains("t/2.parquet"), "{message}");
    assert!(message.contains("but Int64 in file://") && message.contains("t/1.parquet"), "{message}");
    let declared = "CREATE TABLE t (x BIGINT) WITH (connector = 'file', path = 't', format = 'parquet');";
    fs::write(at.join("job.sql"), declared).unwrap();
    let (code, message) = failure_in(at, &["--job", "job.sql", "SELECT * FROM t"]);
    assert!(code == 2 && message.contains("but the table declares Int64"), "{message}");
    fs::copy(at.join("a.csv"), at.join("t/3.csv")).unwrap();
    let (code, message) = failure_in(at, &["SELECT * FROM 't'"]);
    assert!(code == 2 && message.contains("3.csv") && message.contains("one kind"), "{message}");
}

#[test]
fn csv_in_sparks_dialect_with_declared_columns() {
    let text =
        "1,\"a,\\\"b\\\" \\\\c\",2024-01-01T00:00:00.500Z\n2,back\\slash,\n3,\"two\nlines\",2024-01-02T00:00:00.000Z\n";
    let directory = directory_with(&[("t/part-00000.csv", text)]);
    let at = directory.path();
    let job =
        "CREATE TABLE t (id BIGINT, s STRING, ts TIMESTAMP) WITH (connector = 'file', path = 't', format = 'csv');";
    fs::write(at.join("job.sql"), job).unwrap();
    let rows = rows_in(at, &["-j", "job.sql", "--format", "ndjson", "SELECT * FROM T ORDER BY id"]);
    assert_eq!(
        rows,
        "{\"id\":1,\"s\":\"a,\\\"b\\\" \\\\c\",\"ts\":\"2024-01-01T00:00:00.500\"}\n\
         {\"id\":2,\"s\":\"back\\\\slash\",\"ts\":null}\n\
         {\"id\":3,\"s\":\"two\\nlines\",\"ts\":\"2024-01-02T00:00:00\"}\n"
    );
    let external = "CREATE EXTERNAL TABLE e (id BIGINT, s VARCHAR, ts TIMESTAMP) STORED AS CSV LOCATION 't/'; \
                    SELECT max(id) AS m FROM e";
    assert_eq!(csv_in(at, external), "m\n3\n");
}

#[test]
fn times_are_read_back_by_the_pattern_that_wrote_them() {
    let directory = directory_with(&[
        ("c/part-0.csv", "2 Jan 2024 03:04:05 PM,31/12/23,1\n,,2\n"),
        ("j/part-0.json", "{\"at\":\"2 Jan 2024 03:04:05 PM\",\"id\":1}\n{\"id\":2}\n"),
        ("bad/part-0.csv", "2 Jan 2024 03:04:05 PM,31/12/23,1\n2024-01-02,31/12/23,1\n"),
    ]);
    let at = directory.path();
    let pattern = "timestampFormat = 'd MMM yyyy hh:mm:ss a'";
    let table = |name: &str, format: &str, columns: &str, more: &str| {
        let with = format!("WITH (connector = 'file', path = '{name}', format = '{format}', {pattern}{more});\n");
        format!("CREATE TABLE {name} ({columns}) {with}")
    };
    let csv = "at TIMESTAMP, day DATE, id BIGINT";
    let date = ", dateFormat = 'dd/MM/yy'";
    let job = table("c", "csv", csv, date) + &table("bad", "csv", csv, date);
    let job = job + &table("j", "json", "at TIMESTAMP, id BIGINT", "");
    fs::write(at.join("job.sql"), job).unwrap();
    let rows = |sql: &str| rows_in(at, &["-j", "job.sql", "--format", "csv", sql]);
    assert_eq!(rows("SELECT id, day, at FROM c ORDER BY id"), "id,day,at\n1,2023-12-31,2024-01-02T15:04:05\n2,,\n");
    assert_eq!(rows("SELECT id FROM c WHERE at > TIMESTAMP '2024-01-01' AND day < DATE '2024-01-01'"), "id\n1\n");
    assert_eq!(rows("SELECT at + INTERVAL '1 hour' AS at FROM j WHERE id = 1"), "at\n2024-01-02T16:04:05\n");
    assert_eq!(rows("SELECT count(*) AS n FROM bad"), "n\n2\n");
    let (code, message) = failure_in(at, &["-j", "job.sql", "SELECT at FROM bad"]);
    assert!(code == 1 && message.contains("bad/part-0.csv: column 'at' is '2024-01-02', which is not"), "{message}");
    let external = "CREATE EXTERNAL TABLE e (at TIMESTAMP, day DATE, id BIGINT) STORED AS CSV LOCATION 'c/' \
                    OPTIONS ('timestampFormat' 'd MMM yyyy hh:mm:ss a', 'dateFormat' 'dd/MM/yy'); \
                    SELECT max(at) AS at, max(day) AS day FROM e";
    assert_eq!(csv_in(at, external), "at,day\n2024-01-02T15:04:05,2023-12-31\n");
    fs::write(at.join("job.sql"), table("c", "csv", "id BIGINT", "")).unwrap();
    let (code, message) = failure_in(at, &["-j", "job.sql", "SELECT * FROM c"]);
    assert!(code == 2 && message.contains("no column of the table is a TIMESTAMP"), "{message}");
    assert!(message.contains("job.sql:1:"), "{message}");
}

#[test]
fn the_word_for_null_is_null() {
    let directory = directory_with(&[("t/part-0.csv", "1,x,NULL,-\n2,NULL,5,2024\n3,\"\",,NULL\n")]);
    let at = directory.path();
    let job = "CREATE TABLE t (id BIGINT, s STRING, n BIGINT, at TIMESTAMP) WITH (connector = 'file', path = 't', \
               format = 'csv', nullValue = 'NULL', timestampFormat = 'yyyy');";
    fs::write(at.join("job.sql"), job).unwrap();
    let rows = |sql: &str| rows_in(at, &["-j", "job.sql", "--format", "csv", sql]);
    assert_eq!(rows("SELECT id, s, n FROM t ORDER BY id"), "id,s,n\n1,x,\n2,,5\n3,,\n");
    assert_eq!(rows("SELECT id FROM t WHERE s IS NULL ORDER BY id"), "id\n2\n3\n");
    assert_eq!(rows("SELECT count(n) AS n FROM t"), "n\n1\n");
    let (code, message) = failure_in(at, &["-j", "job.sql", "SELECT at FROM t"]);
    assert!(code == 1 && message.contains("t/part-0.csv: column 'at' is '-'"), "{message}");
    let external = "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 't/' OPTIONS (nullValue 'NULL', header false); \
                    SELECT sum(column_3) AS s FROM t";
    assert_eq!(csv_in(at, external), "s\n5\n");
}

#[test]
fn a_path_with_another_separator_is_read_with_it() {
    let directory = directory_with(&[
        ("semicolon.csv", "name;price\na;1,5\nb;2,5\n"),
        ("tab.csv", "1\ta,b\n2\tc\n"),
        ("pipe.csv", "x|y\n1|2\n"),
        ("one.csv", "text\na;b\nc\n"),
        ("quoted.csv", "id,text\n1,\"say \"\"hi\"\"; bye\"\n"),
    ]);
    let at = directory.path();
    assert_eq!(csv_in(at, "SELECT name, price FROM 'semicolon.csv' LIMIT 1"), "name,price\na,\"1,5\"\n");
    assert_eq!(csv_in(at, "SELECT sum(column_1) AS s FROM 'tab.csv'"), "s\n3\n");
    assert_eq!(csv_in(at, "SELECT x + y AS s FROM 'pipe.csv'"), "s\n3\n");
    assert_eq!(csv_in(at, "SELECT text FROM 'one.csv'"), "text\na;b\nc\n");
    assert_eq!(
        rows_in(at, &["--format", "ndjson", "SELECT text FROM 'quoted.csv'"]),
        "{\"text\":\"say \\\"hi\\\"; bye\"}\n"
    );
}

#[test]
fn a_value_that_cannot_be_read_is_named_with_its_file() {
    let directory = directory_with(&[
        ("t/a.csv", "1,2\n"),
        ("t/b.csv", "1,2\n3,four\n"),
        ("j/a.json", "{\"x\":1}\n"),
        ("j/b.json", "{\"x\":1}\n{\"x\":\n"),
    ]);
    let at = directory.path();
    let table = "CREATE EXTERNAL TABLE t (x BIGINT, y BIGINT) STORED AS CSV LOCATION 't/'; SELECT sum(y) FROM t";
    let (code, message) = failure_in(at, &[table]);
    assert!(code == 1 && message.contains("t/b.csv: ") && message.contains("line 2"), "{message}");
    assert!(message.contains("'four'") && message.contains("column 'y'") && message.contains("VARCHAR"), "{message}");
    let table = "CREATE EXTERNAL TABLE j (x BIGINT) STORED AS JSON LOCATION 'j/'; SELECT sum(x) FROM j";
    let (code, message) = failure_in(at, &[table]);
    assert!(code == 1 && message.contains("j/b.json: "), "{message}");
}

#[test]
fn copy_takes_sparks_options_and_overwrites_nothing() {
    let directory = directory_with(&[("in.csv", "id,name\n1,\n2,\"a;b\"\n"), ("there.csv", "mine\n")]);
    let at = directory.path();
    let copy = |to: &str, options: &str| format!("COPY (SELECT * FROM 'in.csv' ORDER BY id) TO '{to}' {options}");
    let text = |name: &str| fs::read_to_string(at.join(name)).unwrap();
    rows_in(at, &[&copy("a.csv", "OPTIONS (header false, sep ';', nullValue 'NULL')")]);
    assert_eq!(text("a.csv"), "1;NULL\n2;\"a;b\"\n");
    let time = "COPY (SELECT TIMESTAMP '2024-01-02T03:04:05.678' AS at) TO 'time.csv' \
                OPTIONS ('timestampFormat' 'dd.MM.yyyy HH:mm:ss.SSS', 'header' 'false')";
    rows_in(at, &[time]);
    assert_eq!(text("time.csv"), "02.01.2024 03:04:05.678\n");
    rows_in(at, &[&copy("b.csv.gz", "OPTIONS (delimiter '\\t')")]);
    assert_eq!(csv_in(at, "SELECT sum(id) AS s FROM 'b.csv.gz'"), "s\n3\n");
    rows_in(at, &[&copy("c.parquet", "OPTIONS (compression 'zstd')")]);
    assert_eq!(csv_in(at, "SELECT count(name) AS n FROM 'c.parquet'"), "n\n1\n");
    for (sql, code, words) in [
        (
            copy("d.csv", "OPTIONS (hedder true)"),
            2,
            &["csv files have no option 'hedder'", "did you mean 'header'?", ":1:"][..],
        ),
        (copy("d.parquet", "OPTIONS (sep ';')"), 2, &["parquet files have no option 'sep'", "format."]),
        (copy("d.csv", "OPTIONS (compression 'gzip')"), 2, &["does not fit the name d.csv"]),
        (copy("d.parquet", "OPTIONS (compression 'fast')"), 2, &["snappy"]),
        (copy("d.json", "OPTIONS (timestampFormat 'yyyy')"), 2, &["to_char"]),
        (copy("d.csv", "OPTIONS (timestampFormat 'HH:mm XXX')"), 2, &["XXX", "to_char"]),
        (copy("d", ""), 2, &["STORED AS"]),
        (copy("there.csv", ""), 1, &["there.csv is there already", "COPY overwrites nothing"]),
    ] {
        let (found, message) = failure_in(at, &[&sql]);
        assert_eq!(found, code, "{sql}: {message}");
        for word in words {
            assert!(message.contains(word), "{sql}: {word} is not in: {message}");
        }
    }
    assert_eq!(text("there.csv"), "mine\n");
}

#[test]
fn compressed_files_are_read_by_their_names() {
    let directory = directory_with(&[("in.csv", "id\n1\n2\n")]);
    let at = directory.path();
    rows_in(at, &["COPY (SELECT id FROM 'in.csv') TO 'a.csv.gz' STORED AS CSV OPTIONS ('format.compression' 'gzip')"]);
    rows_in(
        at,
        &["COPY (SELECT id FROM 'in.csv') TO 'a.json.zst' STORED AS JSON OPTIONS ('format.compression' 'zstd')"],
    );
    for place in ["a.csv.gz", "a.json.zst"] {
        assert_eq!(csv_in(at, &format!("SELECT sum(id) AS s FROM '{place}'")), "s\n3\n", "{place}");
    }
}

#[test]
fn wrong_sql_is_explained_at_its_place() {
    let directory = directory_with(&[("prices.csv", "price,volume\n1.5,2\n")]);
    let at = directory.path();
    fs::write(at.join("job.sql"), "CREATE TABLE prices WITH (connector = 'file', path = 'p', format = 'parquet');")
        .unwrap();
    for (arguments, code, words) in [
        (&["SELECT 1;\nSELCT 2"][..], 2, &["SELCT", "<command line>:2:1"][..]),
        (&["SELECT pirce FROM 'prices.csv'"], 2, &["pirce", "price", "<command line>:1:8"]),
        (&["-j", "job.sql", "SELECT * FROM pricse"], 2, &["'pricse'", "did you mean prices?", ":1:15"]),
        (&["SELECT * FROM 'no/such/*.csv'"], 2, &["no/such/*.csv"]),
        (&["-j", "job.sql", "SELECT * FROM prices"], 2, &["nothing has been written to p"]),
        (&["-f", "missing.sql"], 2, &["missing.sql"]),
        (&["INSERT INTO 'prices.csv' SELECT 1, 2"], 2, &["INSERT", "tidemill stream"]),
        (&["SELECT * FROM 'gopher://h/x'"], 2, &["gopher"]),
        (
            &["CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'prices.csv' OPTIONS ('hedder' 'true')"],
            2,
            &["did you mean 'header'?"],
        ),
        (&["--memory-limit", "lots", "SELECT 1"], 2, &["512MB"]),
    ] {
        let (found, message) = failure_in(at, arguments);
        assert_eq!(found, code, "{arguments:?}: {message}");
        for word in words {
            assert!(message.contains(word), "{arguments:?}: {word} is not in: {message}");
        }
    }
}

#[test]
fn a_name_node_that_is_away_is_unavailable() {
    let at = tempfile::tempdir().unwrap();
    let (code, message) = failure_in(at.path(), &["SELECT * FROM 'hdfs://127.0.0.1:1/t/*.parquet'"]);
    assert!(code == 3 && message.contains("hdfs://127.0.0.1:1"), "{message}");
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let binary = tidemill();
    let script = format!(
        "set -o pipefail; '{}' query --format csv 'SELECT * FROM generate_series(1, 2000000)' | head -n 1",
        binary.display()
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((output.stdout, output.stderr), (b"value\n".to_vec(), Vec::new()));
}

#[test]
fn sorts_beyond_the_memory_limit_spill() {
    let at = tempfile::tempdir().unwrap();
    let sql = "SELECT count(*) AS n FROM (SELECT row_number() OVER (ORDER BY s) AS r \
               FROM (SELECT repeat(value::varchar, 20) AS s FROM generate_series(1, 300000))) WHERE r > 0";
    assert_eq!(rows_in(at.path(), &["--memory-limit", "16MB", "--format", "csv", sql]), "n\n300000\n");
    let explained =
        rows_in(at.path(), &["--memory-limit", "16MB", "--max-rows", "0", &format!("EXPLAIN ANALYZE {sql}")]);
    assert!(explained.contains("spill_count=") && !explained.contains("spill_count=0,"), "{explained}");
    let (code, message) = failure_in(at.path(), &["--memory-limit", "1MB", sql]);
    assert!(code == 2 && message.contains("16 MB"), "{message}");
}

#[test]
fn hdfs_is_read_and_written() {
    let at = tempfile::tempdir().unwrap();
    let root = format!("{}/{}", hdfs(), unique("query"));
    let copy = format!(
        "COPY (SELECT value AS x, value % 2 AS p FROM generate_series(1, 10)) TO '{root}/t/' STORED AS PARQUET PARTITIONED BY (p)"
    );
    rows_in(at.path(), &[&copy]);
    for place in [format!("{root}/t"), format!("{root}/t/*/*.parquet")] {
        let sql = format!("SELECT p, sum(x) AS s FROM '{place}' GROUP BY p ORDER BY p");
        assert_eq!(csv_in(at.path(), &sql), "p,s\n0,30\n1,25\n", "{place}");
    }
    let (code, message) = failure_in(at.path(), &[&format!("SELECT * FROM '{root}/none'")]);
    assert!(code == 2 && message.contains("none"), "{message}");
}

#[test]
fn what_a_job_writes_by_a_pattern_is_read_by_it() {
    for (format, zone) in [("csv", ""), ("json", " [XXX]")] {
        let sink = format!("format = '{format}', timestampFormat = 'EEE d MMM yyyy HH:mm:ss.SSSSSS{zone}'");
        let select = "SELECT id, to_timestamp_micros(id * 1000000000001) AS at FROM prices";
        let job = TestJob::new(None, &JobText { sink: &sink, select, ..JobText::default() });
        send(&job.topic, 0, &prices(0..2_000).0);
        job.run();
        let (at, file) = (job.directory.path(), job.file.to_str().unwrap());
        let sql = "SELECT count(*) AS n FROM stored WHERE at = to_timestamp_micros(id * 1000000000001)";
        assert_eq!(rows_in(at, &["-j", file, "--format", "csv", sql]), "n\n2000\n", "{format}");
        // A column of Kafka's own whose name is a keyword.
        let ours = format!(
            "CREATE TABLE raw WITH (connector = 'kafka', 'kafka.bootstrap.servers' = '{}', subscribe = '{}', format = 'raw');",
            crate::support::kafka(),
            job.topic
        );
        fs::write(at.join("raw.sql"), ours).unwrap();
        let sql = "SELECT topic, partition, offset FROM raw ORDER BY offset DESC LIMIT 1";
        let rows = rows_in(at, &["-j", "raw.sql", "--format", "csv", sql]);
        assert_eq!(rows, format!("topic,partition,offset\n{},0,1999\n", job.topic));
    }
}

#[test]
fn a_job_is_queried_where_it_reads_and_where_it_writes() {
    let job = TestJob::new(Some(&hdfs()), &JobText::default());
    let (records, _) = prices(0..100);
    send(&job.topic, 0, &records);
    job.run();
    let (at, file) = (job.directory.path(), job.file.to_str().unwrap());
    for table in ["prices", "stored"] {
        // `stored` is CSV without a header and declares no columns: the INSERT says what they are.
        let sql = format!("SELECT count(*) AS n, min(id) AS a, max(price) AS b FROM {table}");
        assert_eq!(rows_in(at, &["-j", file, "--format", "csv", &sql]), "n,a,b\n100,0,99.5\n", "{table}");
    }
    let joined = "SELECT count(*) AS n FROM prices JOIN stored USING (id, price)";
    assert_eq!(rows_in(at, &["-j", file, "--format", "csv", joined]), "n\n100\n");
    let limited = rows_in(at, &["-j", file, "--format", "csv", "SELECT price FROM prices LIMIT 3"]);
    assert_eq!(limited, "price\n0.5\n1.5\n2.5\n");
}
