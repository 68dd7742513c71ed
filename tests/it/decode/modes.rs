//! The four modes, the columns of Kafka itself, CSV, and what is refused before the first record.

use tidemill::{catalog::CsvOptions, decode::dead_letter, error::ErrorKind};

use super::*;

const PAYLOADS: [&str; 5] =
    [r#"{"a":1,"s":"one"}"#, r#"{"a":1.5,"s":"two"}"#, "garbage", r#"{"s":"four"}"#, r#"{"a":5,"s":"five""#];

fn columns() -> Vec<Column> {
    vec![column("a", DataType::Int64), column("s", DataType::Utf8)]
}

#[test]
fn dead_letters_keep_everything() {
    let header: [(&str, Option<&[u8]>); 2] = [("source", Some(b"x")), ("none", None)];
    let mut decoder = RecordDecoder::new(&columns(), &[0, 1], &json(ParseMode::DeadLetter)).unwrap();
    let mut all = records(&PAYLOADS);
    all[1].headers = &header;
    all[2].key = None;
    all[2].timestamp_ms = None;
    all.push(record(None, 5));
    decoder.push(&all).unwrap();
    let decoded = decoder.flush().unwrap();
    assert_eq!(decoded.bad, 4);
    assert_eq!(strings(&decoded.rows["s"]), ["one", "four"]);
    let dead = decoded.dead_letters.unwrap();
    assert_eq!(dead.schema(), dead_letter::schema());
    assert_eq!(
        strings(&dead["reason"]),
        [
            "a: 1.5 is no BIGINT",
            r#""garbage" at byte 0 instead of an object"#,
            "truncated at byte 17",
            "no value: the record is a tombstone"
        ]
    );
    let row = |row| -> Vec<_> { dead.schema().fields().iter().map(|field| shown(&dead, field.name(), row)).collect() };
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(
        row(0)[..7],
        [
            "prices",
            "3",
            "1",
            "2023-11-14T22:13:20.123",
            "425443",
            &hex(PAYLOADS[1]),
            "[{key: source, value: 78}, {key: none, value: }]"
        ]
    );
    assert_eq!(row(1)[..7], ["prices", "3", "2", "<null>", "<null>", &hex("garbage"), "<null>"]);
    assert_eq!(row(3)[5], "<null>");
    let again = decoder.flush().unwrap();
    assert_eq!((again.rows.num_rows(), again.bad, again.dead_letters.is_none()), (0, 0, true));
}

#[test]
fn permissive_keeps_what_can_be_read() {
    let mut columns = columns();
    columns.push(column("_corrupt_record", DataType::Utf8));
    let mut options = json(ParseMode::Permissive);
    options.corrupt_column = Some("_corrupt_record".to_owned());
    let mut payloads: Vec<&[u8]> = PAYLOADS.iter().map(|text| text.as_bytes()).collect();
    payloads.extend([&b"\xff"[..], br#"{"a":1,"_corrupt_record":"not from here"}"#, b""]);
    let decoded = decode(&columns, &options, &payloads).unwrap();
    assert_eq!((decoded.bad, decoded.dead_letters.is_none()), (0, true));
    let a: Vec<_> = (0..8).map(|row| shown(&decoded.rows, "a", row)).collect();
    assert_eq!(a, ["1", "<null>", "<null>", "<null>", "<null>", "<null>", "1", "<null>"]);
    assert_eq!(strings(&decoded.rows["s"]), ["one", "two", "<null>", "four", "<null>", "<null>", "<null>", "<null>"]);
    let corrupt = strings(&decoded.rows["_corrupt_record"]);
    assert_eq!(corrupt, ["<null>", PAYLOADS[1], "garbage", "<null>", PAYLOADS[4], "\u{fffd}", "<null>", ""]);
}

#[test]
fn drop_malformed_counts() {
    let decoded = decode(&columns(), &json(ParseMode::DropMalformed), &PAYLOADS).unwrap();
    assert_eq!((decoded.bad, decoded.rows.num_rows(), decoded.dead_letters.is_none()), (3, 2, true));
}

#[test]
fn fail_fast_names_the_record() {
    let mut decoder = RecordDecoder::new(&columns(), &[0, 1], &json(ParseMode::FailFast)).unwrap();
    let error = decoder.push(&records(&PAYLOADS)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadRecord);
    assert_eq!(error.message(), "topic prices, partition 3, offset 1: a: 1.5 is no BIGINT");
    assert_eq!((decoder.len(), decoder.flush().unwrap().rows.num_rows()), (1, 1));
}

#[test]
fn not_null_is_kept() {
    let mut columns = columns();
    columns[0].nullable = false;
    let payloads = [r#"{"a":1}"#, r#"{"a":null}"#, r#"{"s":"x"}"#, r#"{"a":2,"a":null}"#];
    let decoded = decode(&columns, &json(ParseMode::DeadLetter), &payloads).unwrap();
    assert_eq!(decoded.rows.num_rows(), 1);
    assert_eq!(reasons(&decoded), vec!["a: null or missing, but NOT NULL"; 3]);
    let error = decode(&columns, &json(ParseMode::Permissive), &payloads).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("column a is NOT NULL"), "{error}");
}

#[test]
fn kafkas_columns_beside_the_payloads() {
    let mut all: Vec<Column> = KafkaColumn::ALL.into_iter().map(metadata).collect();
    all.insert(3, column("a", DataType::Int64));
    // Types that users like better; and last comes the one that can refuse, when all others have taken the record.
    all[0].data_type = DataType::Utf8;
    all[6].data_type = micros();
    all.rotate_left(1);
    let headers: [(&str, Option<&[u8]>); 1] = [("h", Some(b"\x01"))];
    let mut pushed = records(&[r#"{"a":0}"#, "bad", r#"{"a":2}"#, r#"{"a":3}"#]);
    pushed[0].key = Some(b"\xff");
    pushed[3] = KafkaRecord { key: None, timestamp_ms: None, timestamp_type: -1, headers: &headers, ..pushed[3] };
    let mut decoder = RecordDecoder::new(&all, &(0..9).collect::<Vec<_>>(), &json(ParseMode::DeadLetter)).unwrap();
    decoder.push(&pushed).unwrap();
    let decoded = decoder.flush().unwrap();
    let names: Vec<_> = all.iter().map(|column| column.name.as_str()).collect();
    let row = |row| -> Vec<_> { names.iter().map(|name| shown(&decoded.rows, name, row)).collect() };
    assert_eq!(row(0), ["7b2261223a327d", "prices", "2", "3", "2", "2023-11-14T22:13:20.123", "0", "<null>", "BTC"]);
    assert_eq!(row(1), ["7b2261223a337d", "prices", "3", "3", "3", "<null>", "-1", "[{key: h, value: 01}]", "<null>"]);
    assert_eq!(reasons(&decoded), ["kafka_key: invalid UTF-8 at byte 0", r#""bad" at byte 0 instead of an object"#]);
    // The same record in PERMISSIVE loses the key only.
    let mut decoder = RecordDecoder::new(&all, &[2, 8], &json(ParseMode::Permissive)).unwrap();
    decoder.push(&pushed).unwrap();
    let rows = decoder.flush().unwrap().rows;
    assert_eq!((shown(&rows, "kafka_key", 0), shown(&rows, "a", 0)), ("<null>".to_owned(), "0".to_owned()));
    assert_eq!((shown(&rows, "kafka_key", 1), shown(&rows, "a", 1)), ("BTC".to_owned(), "<null>".to_owned()));
}

#[test]
fn raw_records_are_never_bad() {
    let columns: Vec<Column> = [KafkaColumn::Value, KafkaColumn::Offset].into_iter().map(metadata).collect();
    let raw = options(PayloadFormat::Raw, ParseMode::DeadLetter);
    let mut decoder = RecordDecoder::new(&columns, &[1], &raw).unwrap();
    decoder.push(&[record(None, 7), record(Some(b"\xff"), 8)]).unwrap();
    let decoded = decoder.flush().unwrap();
    assert_eq!((shown(&decoded.rows, "kafka_offset", 1), decoded.bad), ("8".to_owned(), 0));
    let error = decode(&[column("a", DataType::Int64)], &raw, &[""; 0]).unwrap_err();
    assert!(error.message().contains("column a: format = 'raw'"), "{error}");
}

#[test]
fn rows_are_counted_without_columns() {
    let mut decoder = RecordDecoder::new(&columns(), &[], &json(ParseMode::DeadLetter)).unwrap();
    decoder.push(&records(&PAYLOADS)).unwrap();
    let decoded = decoder.flush().unwrap();
    // Nobody asked for `a`, so 1.5 in it is no flaw.
    assert_eq!((decoded.rows.num_rows(), decoded.rows.num_columns(), decoded.bad), (3, 0, 2));
}

#[test]
fn refuses_what_it_cannot_give() {
    let refused = |columns: &[Column], options: &DecodeOptions, expected: &str| {
        let error = RecordDecoder::new(columns, &[], options).unwrap_err();
        assert!(error.message().contains(expected), "{error}");
        assert_eq!(error.exit_code(), 2);
    };
    let plain = json(ParseMode::DeadLetter);
    refused(&[column("t", DataType::Time64(TimeUnit::Microsecond))], &plain, "column t");
    refused(&[column("t", DataType::Timestamp(TimeUnit::Second, Some("Asia/Tokyo".into())))], &plain, "column t");
    let mut wrong = metadata(KafkaColumn::Offset);
    wrong.data_type = DataType::Utf8;
    refused(&[wrong], &plain, "Kafka's offset is no Utf8");
    let mut named = json(ParseMode::Permissive);
    named.corrupt_column = Some("corupt".to_owned());
    refused(&[column("corrupt", DataType::Utf8)], &named, "corupt");
    named.corrupt_column = Some("corrupt".to_owned());
    refused(&[column("corrupt", DataType::Int64)], &named, "must be a STRING");
    let csv = |options| options_of(PayloadFormat::Csv(options));
    refused(&[], &csv(CsvOptions { header: true, ..CsvOptions::default() }), "header");
    refused(&[], &csv(CsvOptions { date_format: Some("dd QQ".to_owned()), ..CsvOptions::default() }), "dateFormat");
    refused(&[column("l", levels())], &csv(CsvOptions::default()), "column l");
}

fn options_of(format: PayloadFormat) -> DecodeOptions {
    options(format, ParseMode::DeadLetter)
}

fn csv_columns() -> Vec<Column> {
    vec![
        column("a", DataType::Int64),
        metadata(KafkaColumn::Offset),
        column("f", DataType::Float64),
        column("s", DataType::Utf8),
        column("t", micros()),
        column("b", DataType::Boolean),
    ]
}

#[test]
fn csv_fields_go_to_columns_in_order() {
    let csv = options_of(PayloadFormat::Csv(CsvOptions::default()));
    let payloads = [
        "1,1.5,\"x, \\\"y\\\"\nz\",2024-01-01T00:00:00Z,true\n",
        "+2,,,,TRUE\r\n",
        "3,1,x,2024-01-01",
        "4,1,x,2024-01-01,true,more",
        "5.0,1,x,2024-01-01,true",
        "",
        "6,1,x,2024-01-01,true\n7,1,x,2024-01-01,true",
        "8,NaN,\u{e9},2024-01-01 10:00:00.5,false",
    ];
    let decoded = decode(&csv_columns(), &csv, &payloads).unwrap();
    assert_eq!(decoded.rows.num_rows(), 3);
    let row = |row| -> Vec<_> { csv_columns().iter().map(|column| shown(&decoded.rows, &column.name, row)).collect() };
    assert_eq!(row(0), ["1", "0", "1.5", "x, \"y\"\nz", "2024-01-01T00:00:00", "true"]);
    assert_eq!(row(1), ["2", "1", "<null>", "<null>", "<null>", "true"]);
    assert_eq!(row(2), ["8", "7", "NaN", "\u{e9}", "2024-01-01T10:00:00.500", "false"]);
    assert_eq!(
        reasons(&decoded),
        ["4 fields instead of 5", "6 fields instead of 5", "a: 5.0 is no BIGINT", "an empty payload", "a second line"]
    );
}

#[test]
fn csv_options_and_permissive() {
    let csv = CsvOptions {
        delimiter: b';',
        null_value: "NULL".to_owned(),
        timestamp_format: Some("dd.MM.yyyy HH:mm".to_owned()),
        ..CsvOptions::default()
    };
    let options = options(PayloadFormat::Csv(csv), ParseMode::Permissive);
    let mut decoder = RecordDecoder::new(&csv_columns(), &[0, 3, 4], &options).unwrap();
    decoder.push(&records(&["1;NULL;;02.01.2024 10:00;true", "x;y;NULL", "\"open"])).unwrap();
    let rows = decoder.flush().unwrap().rows;
    let row = |row| -> Vec<_> { ["a", "s", "t"].iter().map(|name| shown(&rows, name, row)).collect() };
    assert_eq!(row(0), ["1", "", "2024-01-02T10:00:00"]);
    assert_eq!(row(1), ["<null>"; 3]);
    assert_eq!(row(2), ["<null>"; 3]);
}
