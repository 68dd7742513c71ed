//! Job files: what they mean, and the exact text of every error.

use std::{fmt::Write as _, path::Path, sync::Arc, time::Duration};

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::datasource::empty::EmptyTable;
use proptest::prelude::*;
use tidemill::{
    catalog::{
        Compression, Connector, FileFormat, FileTable, Job, KafkaColumn, KafkaTable, OffsetSpec, ParseMode,
        PayloadFormat, StartingOffsets, Subscription, Variables, locate_error,
    },
    session::{SessionLimits, session},
};

fn variables(pairs: &[(&str, &str)]) -> Variables {
    Variables { given: pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect() }
}

fn parse(text: &str) -> Job {
    Job::parse("job.sql", text, &Variables::default()).unwrap_or_else(|error| panic!("{error}\nin {text}"))
}

fn kafka(job: &Job, name: &str) -> KafkaTable {
    match &job.table(name).unwrap().connector {
        Connector::Kafka(kafka) => (**kafka).clone(),
        other => panic!("{other:?}"),
    }
}

fn file(job: &Job, name: &str) -> FileTable {
    match &job.table(name).unwrap().connector {
        Connector::File(file) => (**file).clone(),
        other => panic!("{other:?}"),
    }
}

/// A Kafka table `t` with one column and these further options.
fn kafka_with(options: &str) -> KafkaTable {
    let job = parse(&format!(
        "CREATE TABLE t (a STRING) WITH (connector = 'kafka', 'kafka.bootstrap.servers' = 'k:1', {options});"
    ));
    kafka(&job, "t")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn binance_sql_is_the_pipeline_of_its_comments() {
    let job =
        Job::parse("sql/binance.sql", &read("sql/binance.sql"), &variables(&[("HDFS", "hdfs://nn:9000")])).unwrap();
    assert_eq!(job.name, "binance");
    let prices = kafka(&job, "prices");
    assert_eq!(prices.subscription, Some(Subscription::Topics(vec!["binance-topic".into()])));
    assert_eq!(prices.starting_offsets, StartingOffsets::Latest);
    assert!(matches!(prices.decode.format, PayloadFormat::Json));
    assert_eq!(prices.decode.mode, ParseMode::DeadLetter);
    assert_eq!(prices.client.0["bootstrap.servers"], "localhost:9092");
    let schema = job.table("prices").unwrap().schema();
    let columns: Vec<_> = schema.fields().iter().map(|f| (f.name().as_str(), f.data_type().clone())).collect();
    assert_eq!(columns, [("symbol", DataType::Utf8), ("price", DataType::Float64)]);
    let stored = file(&job, "stored");
    assert_eq!(stored.path, "hdfs://nn:9000/binance/data");
    assert_eq!(stored.checkpoint_location.as_deref(), Some("hdfs://nn:9000/binance/checkpoint"));
    let FileFormat::Csv(csv) = stored.format else { panic!() };
    assert_eq!(csv.timestamp_format.as_deref(), Some("yyyy-MM-dd HH:mm:ss.SSSSSS"));
    let targets: Vec<_> = job.inserts.iter().map(|insert| (insert.target.as_str(), insert.select.sql())).collect();
    let select = "SELECT symbol, price FROM prices";
    assert_eq!(targets, [("screen", select), ("stored", select)]);
}

#[test]
fn bitcoin_sql_is_the_pipeline_of_its_comments() {
    let job = Job::parse("sql/bitcoin.sql", &read("sql/bitcoin.sql"), &Variables::default()).unwrap();
    let schema = job.table("bitcoin").unwrap().schema();
    assert_eq!(schema.fields().len(), 8);
    assert_eq!(schema.field(0).data_type(), &DataType::Utf8);
    assert_eq!(schema.field(3).data_type(), &DataType::Int32);
    let data = file(&job, "bitcoin_data");
    assert_eq!(data.path, "hdfs://localhost:9000/bitcoin/data/bitcoin_data");
    assert_eq!(data.checkpoint_location.as_deref(), Some("hdfs://localhost:9000/bitcoin/data/ii"));
    let FileFormat::Csv(csv) = data.format else { panic!() };
    assert!(!csv.header);
    assert_eq!(job.inserts.len(), 1);
}

#[test]
fn a_windows_file_with_a_byte_order_mark_reads_the_same() {
    let text = format!("\u{feff}{}", read("sql/bitcoin.sql").replace('\n', "\r\n"));
    let job = Job::parse("b.sql", &text, &Variables::default()).unwrap();
    assert_eq!((job.inserts.len(), job.inserts[0].place.column), (1, 1));
    let error = Job::parse("b.sql", "\u{feff}SELECT\r\n", &Variables::default()).unwrap_err();
    let place = error.place().unwrap();
    assert_eq!((place.line, place.column, place.text.as_str()), (1, 1, "SELECT"));
}

#[test]
fn names_and_statements() {
    let job = parse(
        "CREATE TEMPORARY TABLE IF NOT EXISTS Prices (buyPrice DOUBLE NOT NULL COMMENT 'in ; USD', \"a b\" INT) COMMENT 'x'
           WITH (CONNECTOR = 'FileSystem', PATH = '/tmp/x', Format = 'CSV', delimiter = '\\t', HEADER = TRUE);;
         CREATE OR REPLACE VIEW v AS (SELECT ';' AS x, $$;$$ AS y FROM prices); -- ;
         CREATE VIEW \"W\" AS WITH prices2 AS (SELECT 1) SELECT * FROM prices2, V, generate_series(1, 2);
         CREATE TABLE screen WITH (connector = 'console', numRows = '5', outputMode = 'Append');
         INSERT INTO Screen SELECT * FROM \"W\";
         INSERT INTO TABLE screen SELECT 1; INSERT INTO screen (SELECT 2); INSERT INTO screen VALUES (3)",
    );
    assert_eq!(job.name, "job");
    let names: Vec<_> = job.tables.iter().map(|table| table.name.as_str()).collect();
    assert_eq!(names, ["prices", "screen"]);
    let schema = job.table("PRICES").unwrap().schema();
    assert_eq!(schema.field(0).name(), "buyPrice");
    assert!(!schema.field(0).is_nullable() && schema.field(1).is_nullable());
    assert_eq!(job.views.iter().map(|view| view.name.as_str()).collect::<Vec<_>>(), ["v", "W"]);
    assert_eq!(job.views[0].select.sql(), "(SELECT ';' AS x, $$;$$ AS y FROM prices)");
    let FileFormat::Csv(csv) = file(&job, "prices").format else { panic!() };
    assert_eq!((csv.delimiter, csv.header), (b'\t', true));
    assert_eq!(job.inserts.len(), 4);
    assert_eq!(job.inserts[0].target_place.column, 22);
    assert!(Job::parse("empty.sql", " -- nothing\n;", &Variables::default()).unwrap().inserts.is_empty());
}

#[test]
fn kafka_defaults_are_those_of_spark() {
    let table = kafka_with("subscribe = ' a , b ', format = 'json'");
    assert_eq!(table.subscription, Some(Subscription::Topics(vec!["a".into(), "b".into()])));
    assert_eq!((table.starting_offsets, table.ending_offsets), (StartingOffsets::Latest, StartingOffsets::Latest));
    assert!(table.fail_on_data_loss && !table.include_headers);
    assert_eq!((table.max_offsets_per_trigger, table.min_offsets_per_trigger), (None, None));
    assert_eq!(table.max_trigger_delay, Duration::from_secs(900));
}

#[test]
fn kafka_offsets_and_their_precedence() {
    let starting = |options: &str| kafka_with(&format!("subscribe = 't', format = 'json', {options}")).starting_offsets;
    assert_eq!(starting("STARTINGOFFSETS = 'Earliest'"), StartingOffsets::Earliest);
    let StartingOffsets::Specific(specific) = starting("startingOffsets = '{\"t\":{\"0\":23,\"1\":-1,\"2\":-2}}'")
    else {
        panic!()
    };
    let specs: Vec<_> = specific["t"].values().copied().collect();
    assert_eq!(specs, [OffsetSpec::At(23), OffsetSpec::Latest, OffsetSpec::Earliest]);
    let by_timestamp = "startingOffsetsByTimestamp = '{\"t\": {\"0\": 1000}}', startingOffsets = 'earliest'";
    let StartingOffsets::TimestampPerPartition { ms, latest_if_none: false } = starting(by_timestamp) else { panic!() };
    assert_eq!(ms["t"][&0], 1000);
    assert_eq!(
        starting(&format!("startingTimestamp = 5, startingOffsetsByTimestampStrategy = 'latest', {by_timestamp}")),
        StartingOffsets::Timestamp { ms: 5, latest_if_none: true }
    );
    let table = kafka_with("assign = '{\"t\":[1,0]}', format = 'json', endingOffsets = '{\"t\":{\"0\":7,\"1\":-1}}'");
    assert_eq!(table.subscription, Some(Subscription::Partitions([("t".to_owned(), vec![1, 0])].into())));
    assert!(matches!(table.ending_offsets, StartingOffsets::Specific(_)));
}

#[test]
fn an_end_is_refused_where_a_stream_is_planned() {
    let job = parse(
        "CREATE TABLE t (a INT) WITH (connector = 'kafka', kafka.bootstrap.servers = 'k:1', subscribe = 't', format = 'json',
           endingOffsets = 'latest');
         CREATE TABLE u (a INT) WITH (connector = 'kafka', kafka.bootstrap.servers = 'k:1', subscribe = 't', format = 'json',
           startingOffsets = 'latest')",
    );
    let error = job.table("t").unwrap().check_stream().unwrap_err();
    assert_eq!(error.message(), "the option 'endingOffsets' is only for batch queries");
    assert_eq!((error.place().unwrap().line, error.place().unwrap().column), (2, 12));
    job.table("u").unwrap().check_stream().unwrap();
    assert_eq!(job.table("t").unwrap().batch_starting_offsets(), Some(StartingOffsets::Earliest));
    assert_eq!(job.table("u").unwrap().batch_starting_offsets(), Some(StartingOffsets::Latest));
}

#[test]
fn kafka_client_options_and_secrets() {
    let text = "CREATE TABLE t WITH (connector = 'kafka', 'KAFKA.Bootstrap.Servers' = 'k:1', topic = 'out',
        kafka.sasl.password = '${SASL_PASSWORD}', kafka.linger.ms = 5, checkpointLocation = '/c')";
    let job = Job::parse("job.sql", text, &variables(&[("SASL_PASSWORD", "it's")])).unwrap();
    let table = kafka(&job, "t");
    let client: Vec<_> = table.client.0.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(client, [("bootstrap.servers", "k:1"), ("linger.ms", "5"), ("sasl.password", "it's")]);
    assert!(!format!("{job:?}").contains("it's"));
    assert_eq!(table.subscription, None);
}

#[test]
fn a_raw_table_has_kafkas_columns() {
    let columns = |with: &str| {
        let job = parse(&format!("CREATE TABLE t {with}"));
        job.tables[0].columns.iter().map(|column| (column.name.clone(), column.metadata)).collect::<Vec<_>>()
    };
    let options = "connector = 'kafka', 'kafka.bootstrap.servers' = 'k:1', subscribe = 't'";
    let all = columns(&format!("WITH ({options}, format = 'raw', includeHeaders = 'true')"));
    assert_eq!(all.len(), 8);
    let plain = columns(&format!("WITH ({options})"));
    assert_eq!(plain, all[..7]);
    assert_eq!(plain[0], ("key".to_owned(), Some(KafkaColumn::Key)));
    let some =
        columns(&format!("(value BINARY, at TIMESTAMP METADATA FROM 'timestamp') WITH ({options}, format = 'raw')"));
    assert_eq!(some[1], ("at".to_owned(), Some(KafkaColumn::Timestamp)));
}

#[test]
fn metadata_columns_stand_beside_those_of_the_record() {
    let job = parse(
        "CREATE TABLE t (a ROW<b ARRAY<INT>>, sent TIMESTAMP(3) METADATA FROM 'timestamp' VIRTUAL, offset BIGINT NOT NULL METADATA,
           headers ARRAY<ROW<key STRING, value BINARY>> METADATA, bad STRING)
         WITH (connector = 'kafka', 'kafka.bootstrap.servers' = 'k:1', subscribePattern = 'p-.*', format = 'json',
           mode = 'permissive', columnNameOfCorruptRecord = 'bad')",
    );
    let columns = &job.tables[0].columns;
    assert_eq!(columns[1].metadata, Some(KafkaColumn::Timestamp));
    assert_eq!(columns[1].data_type, DataType::Timestamp(TimeUnit::Millisecond, None));
    assert_eq!((columns[2].metadata, columns[2].nullable), (Some(KafkaColumn::Offset), false));
    let table = kafka(&job, "t");
    assert!(table.include_headers);
    assert_eq!((table.decode.mode, table.decode.corrupt_column.as_deref()), (ParseMode::Permissive, Some("bad")));
}

#[test]
fn csv_and_avro_payloads() {
    let table = kafka_with("subscribe = 't', format = 'csv', csv.delimiter = ';', nullValue = 'NA'");
    let PayloadFormat::Csv(csv) = table.decode.format else { panic!() };
    assert_eq!((csv.delimiter, csv.null_value.as_str()), (b';', "NA"));
    let table = kafka_with("subscribe = 't', format = 'avro', schema = $${\"type\": \"string\"}$$");
    let PayloadFormat::Avro(avro) = table.decode.format else { panic!() };
    assert_eq!((avro.registry_url, avro.schema.as_deref()), (None, Some("{\"type\": \"string\"}")));
}

#[test]
fn file_options() {
    let options = |options: &str| {
        file(&parse(&format!("CREATE TABLE t (a INT, b INT) WITH (connector = 'file', {options})")), "t")
    };
    let table = options("path = 's3://b/x', format = 'parquet'");
    assert_eq!((table.compression, table.spark_metadata), (Compression::Snappy, true));
    let table =
        options("path = '/x', format = 'json', compression = 'GZIP', partitionBy = 'b', maxRecordsPerFile = 10");
    assert_eq!((table.compression, table.max_records_per_file), (Compression::Gzip, Some(10)));
    assert_eq!(table.partition_by, ["b"]);
    let table = options("path = '/x', format = 'csv', sparkMetadata = 'false', deadLetterPath = '/d'");
    assert_eq!((table.compression, table.spark_metadata), (Compression::None, false));
    assert_eq!(table.dead_letter_path.as_deref(), Some("/d"));
}

/// Whatever the text, there is no panic, and a place lies inside of the file.
fn check_any(text: &str) {
    let Err(error) = Job::parse("any.sql", text, &Variables::default()) else { return };
    let Some(place) = error.place() else { return };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines: Vec<&str> = text.split('\n').collect();
    assert!((1..=lines.len()).contains(&place.line), "{error}");
    let chars = lines[place.line - 1].chars().count();
    assert!((1..=chars + 1).contains(&place.column), "{error}");
    assert!(place.width >= 1 && place.column + place.width <= chars.max(1) + 2, "{error}");
    let mut rendered = String::new();
    write!(rendered, "{error}").unwrap();
}

/// Pieces of job files, to be thrown together.
fn pieces() -> impl Strategy<Value = String> {
    let words = [
        "CREATE",
        "TABLE",
        "VIEW",
        "INSERT",
        "INTO",
        "SELECT",
        "FROM",
        "WITH",
        "(",
        ")",
        "<",
        ">",
        ",",
        ";",
        "=",
        "'",
        "\"",
        "`",
        "$$",
        "$t$",
        "${",
        "}",
        "${A}",
        "${A:-b}",
        "$${",
        "--",
        "/*",
        "*/",
        "\n",
        "\r\n",
        "\t",
        " ",
        "e'",
        "\\",
        "t",
        "x INT",
        "DECIMAL(",
        "ARRAY<",
        "NOT NULL",
        "METADATA",
        "WATERMARK FOR",
        "AS",
        "'kafka'",
        "connector",
        "'file'",
        "'console'",
        "path",
        "format",
        "'json'",
        "subscribe",
        "1",
        "-1",
        "1e",
        "1.5",
        ".",
        "\u{e9}",
        "\u{1f600}",
        "\u{0}",
        "\u{feff}",
        "CREATE TABLE t WITH (connector = 'console');",
        "INSERT INTO t SELECT",
        "kafka.",
        "true",
    ];
    proptest::collection::vec(proptest::sample::select(words.to_vec()), 0..40)
        .prop_flat_map(|words| prop_oneof![Just(words.concat()), Just(words.join(" "))])
}

proptest! {
    #[test]
    fn any_pieces_are_read_or_refused(text in pieces()) {
        check_any(&text);
    }

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        check_any(&text);
    }

    /// A job file that was cut, or in which some characters were changed.
    #[test]
    fn a_damaged_job_is_read_or_refused(cut in 0.0..1.0_f64, at in 0.0..1.0_f64, with in "[ -~]{0,3}") {
        let text = read("sql/binance.sql");
        let index = |share: f64, text: &str| (0..text.len()).nth((share * text.len() as f64) as usize).unwrap_or(0);
        check_any(&text[..index(cut, &text)]);
        let at = index(at, &text);
        check_any(&format!("{}{with}{}", &text[..at], &text[at..]));
    }

    /// Whatever a variable holds, a string stays one string.
    #[test]
    fn a_value_stays_in_its_string(value in any::<String>()) {
        let text = "CREATE TABLE t WITH (connector = 'console', checkpointLocation = 'x${V}y'); INSERT INTO t SELECT 'a${V}b' AS c";
        let job = Job::parse("job.sql", text, &variables(&[("V", &value)])).unwrap();
        let checkpoint = format!("x{value}y");
        prop_assert_eq!(job.table("t").unwrap().checkpoint_location(), Some(checkpoint.as_str()));
        prop_assert_eq!(job.inserts[0].select.sql(), format!("SELECT 'a{}b' AS c", value.replace('\'', "''")));
    }
}

#[test]
fn nothing_too_deep_or_too_long_overflows() {
    let screen = "CREATE TABLE s WITH (connector = 'console'); INSERT INTO s SELECT ";
    check_any(&format!("{screen}{}1{}", "(".repeat(2000), ")".repeat(2000)));
    check_any(&format!("{screen}1{}", " + 1".repeat(2400)));
    check_any(&format!("{screen}1{}", " + 1".repeat(100_000)));
    check_any(&format!("{screen}{} 1", "NOT ".repeat(4000)));
    check_any(&format!("{screen}{} 1", "- ".repeat(4000)));
    check_any(&format!("{screen} 1 {}", "UNION ALL SELECT 1 ".repeat(1200)));
    check_any(&"/*".repeat(200_000));
    check_any(&"x".repeat(2 << 20));
}

/// The cases of `tests/golden/job_errors.txt`: a title, `-D` lines, the job, `---` and what is said.
#[test]
fn errors_read_as_written() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/job_errors.txt");
    let expected = std::fs::read_to_string(&path).unwrap();
    let (introduction, cases) = expected.split_once("=== ").unwrap();
    let mut actual = introduction.to_owned();
    for case in cases.split("\n=== ") {
        let (title, body) = case.split_once('\n').unwrap();
        let job = body.split("\n---\n").next().unwrap().trim_end();
        let definitions = job.lines().filter_map(|line| line.strip_prefix("-D ")?.split_once('='));
        let variables = variables(&definitions.collect::<Vec<_>>());
        let text = job.lines().skip_while(|line| line.starts_with("-D ")).collect::<Vec<_>>().join("\n");
        let said = match Job::parse("job.sql", &text, &variables) {
            Ok(_) => "nothing".to_owned(),
            Err(error) => {
                assert!(!format!("{error} {error:?}").contains("hunter2"), "{title}");
                assert_eq!(error.exit_code(), 2, "{title}");
                error.to_string()
            }
        };
        write!(actual, "=== {title}\n{job}\n---\n{said}\n\n").unwrap();
    }
    let actual = format!("{}\n", actual.trim_end());
    if std::env::var_os("TIDEMILL_GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(&path, &actual).unwrap();
    }
    assert!(!actual.contains("\n---\nnothing\n"), "a case is accepted:\n{actual}");
    for (actual, expected) in actual.lines().zip(expected.lines()) {
        assert_eq!(actual, expected);
    }
    assert_eq!(actual, expected);
}

/// Plans the query of a job whose table `t` has these columns; returns what is said about the error.
async fn planned(select: &str, spans: bool) -> String {
    let job = parse(&format!(
        "CREATE TABLE screen WITH (connector = 'console');\n\
         CREATE TABLE t (symbol STRING, \"buyPrice\" DOUBLE)\n\
         WITH (connector = 'kafka', 'kafka.bootstrap.servers' = 'k:1', subscribe = 't', format = 'json');\n\
         INSERT INTO screen {select}"
    ));
    let context = session(SessionLimits { memory_bytes: 1 << 24, partitions: 1 }).unwrap();
    context.sql(&format!("SET datafusion.sql_parser.collect_spans = {spans}")).await.unwrap();
    context.register_table("t", Arc::new(EmptyTable::new(job.table("t").unwrap().schema()))).unwrap();
    let select = &job.inserts[0].select;
    let error = context.sql(select.sql()).await.expect_err("an error");
    locate_error(error, select).to_string()
}

#[tokio::test]
async fn errors_of_planning_lead_back_to_the_file() {
    for spans in [false, true] {
        let said = |select: &'static str| planned(select, spans);
        assert_eq!(
            said("SELECT upper(symbol),\n  symbl FROM t").await,
            "there is no column 'symbl'\n --> job.sql:5:3\n  |\n5 |   symbl FROM t\n  |   ^^^^^\nhelp: did you mean 'symbol'?"
        );
        assert_eq!(
            said("SELECT buyPrice FROM t").await,
            "there is no column 'buyprice'\n --> job.sql:4:27\n  |\n4 | INSERT INTO screen SELECT buyPrice FROM t\n  |                           \
             ^^^^^^^^\nhelp: write \"buyPrice\" in double quotes: without them a name is read in lower case"
        );
        assert_eq!(
            said("SELECT uper(symbol) FROM t").await,
            "Invalid function 'uper'\n --> job.sql:4:27\n  |\n4 | INSERT INTO screen SELECT uper(symbol) FROM t\n  |                           \
             ^^^^\nhelp: did you mean 'upper'?"
        );
        let indent = " ".repeat(33);
        let expected = format!(
            "there is no table 't'\n --> job.sql:4:34\n  |\n4 | INSERT INTO screen SELECT * FROM prices.t\n  | {indent}\
             ^^^^^^^^"
        );
        assert_eq!(said("SELECT * FROM prices.t").await, expected);
        let said = said("SELECT symbol + buy FROM (SELECT symbol, interval '1 day' AS buy FROM t)").await;
        assert!(said.contains("\n --> job.sql:4:"), "{said}");
    }
}
