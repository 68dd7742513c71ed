use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, StringArray, StringViewArray,
        TimestampMicrosecondArray, TimestampNanosecondArray,
    },
    csv::ReaderBuilder,
    datatypes::{DataType, Field, TimeUnit},
};
use proptest::prelude::*;

use super::*;

fn encode(columns: Vec<(&str, ArrayRef)>, options: &CsvOptions) -> String {
    let rows =
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap();
    let encoder = CsvEncoder::new(&rows.schema(), options).unwrap();
    let mut out = encoder.header().to_vec();
    encoder.encode(&rows, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn strings(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn lines(values: &[Option<&str>], options: &CsvOptions) -> Vec<String> {
    let count = values.len();
    let text = encode(vec![("s", strings(values)), ("n", Arc::new(Int64Array::from(vec![1; count])))], options);
    text.split_terminator(",1\n").map(str::to_owned).collect()
}

#[test]
fn strings_are_quoted_as_spark_does() {
    let default = CsvOptions::default();
    for (value, text) in [
        ("plain", "plain"),
        ("", r#""""#),
        ("a,b", r#""a,b""#),
        (r#"he said "hi""#, r#""he said \"hi\"""#),
        (r#"b\"q"#, r#""b\\\"q""#),
        (r"back\slash", r"back\slash"),
        (r"a\b,c", r#""a\\b,c""#),
        ("two\nlines", "\"two\nlines\""),
        ("cr\rhere", "\"cr\rhere\""),
        ("#first", "\"#first\""),
        ("tab\there 'quoted' in side", "tab\there 'quoted' in side"),
        ("  kept  ", "  kept  "),
        ("   ", "   "),
        ("\u{e9}\u{20ac}", "\u{e9}\u{20ac}"),
    ] {
        assert_eq!(lines(&[Some(value)], &default), [text], "{value:?}");
        // Beside a clean value, and as a view: the same.
        assert_eq!(lines(&[Some("x"), Some(value)], &default), ["x", text], "{value:?}");
        let view: ArrayRef = Arc::new(StringViewArray::from(vec![value]));
        let one: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        assert_eq!(encode(vec![("s", view), ("n", one)], &default), format!("{text},1\n"));
    }
    let doubled = CsvOptions { escape: b'"', ..CsvOptions::default() };
    assert_eq!(lines(&[Some(r#"with"quote"#)], &doubled), [r#""with""quote""#]);
    assert_eq!(lines(&[Some(r"a\b,c")], &doubled), [r#""a\b,c""#]);
}

#[test]
fn a_hash_counts_only_at_the_start_of_a_line() {
    let text = encode(vec![("a", strings(&[Some("x#")])), ("b", strings(&[Some("#y")]))], &CsvOptions::default());
    assert_eq!(text, "x#,#y\n");
}

#[test]
fn nulls() {
    let two = vec![("a", strings(&[None, Some("")])), ("b", strings(&[None, Some("x")]))];
    assert_eq!(encode(two.clone(), &CsvOptions::default()), ",\n\"\",x\n");
    let named = CsvOptions { null_value: "NULL".into(), ..CsvOptions::default() };
    assert_eq!(encode(two.clone(), &named), "NULL,NULL\n\"\",x\n");
    let strange = CsvOptions { null_value: "a,b".into(), ..CsvOptions::default() };
    assert_eq!(encode(two, &strange), "\"a,b\",\"a,b\"\n\"\",x\n");
    // A single column keeps its rows.
    assert_eq!(encode(vec![("a", strings(&[None, Some("x"), None]))], &CsvOptions::default()), "\"\"\nx\n\"\"\n");
}

#[test]
fn header_follows_the_same_rules() {
    let options = CsvOptions { header: true, delimiter: b';', ..CsvOptions::default() };
    let one = || -> ArrayRef { Arc::new(Int64Array::from(vec![7])) };
    assert_eq!(encode(vec![("#a", one()), ("b;c", one()), ("d", one())], &options), "\"#a\";\"b;c\";d\n7;7;7\n");
}

#[test]
fn values_of_every_type() {
    let zone = |name: &str| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(vec![1_704_164_645_123_999]).with_timezone(name))
    };
    let ntz: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![-1]));
    let columns = vec![
        ("b", Arc::new(BooleanArray::from(vec![true])) as ArrayRef),
        ("x", Arc::new(Float64Array::from(vec![1e10]))),
        ("d", Arc::new(Decimal128Array::from(vec![-1]).with_precision_and_scale(10, 5).unwrap())),
        ("day", Arc::new(Date32Array::from(vec![19_724]))),
        ("utc", zone("UTC")),
        ("ny", zone("America/New_York")),
        ("plus", zone("+02:00")),
        ("ntz", ntz),
    ];
    let text = encode(columns, &CsvOptions::default());
    let wanted = "true,1.0E10,-0.00001,2024-01-02,2024-01-02T03:04:05.123Z,2024-01-01T22:04:05.123-05:00,\
                  2024-01-02T05:04:05.123+02:00,1969-12-31T23:59:59.999\n";
    assert_eq!(text, wanted);
}

#[test]
fn patterns_and_strange_delimiters_are_quoted_where_they_must() {
    let at = || -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(vec![1_704_164_645_123_999])) };
    let day: ArrayRef = Arc::new(Date32Array::from(vec![19_724]));
    let options = CsvOptions {
        timestamp_format: Some("MMM d, yyyy hh:mm:ss.SSSSSS".into()),
        date_format: Some("dd/MM/yyyy".into()),
        ..CsvOptions::default()
    };
    assert_eq!(encode(vec![("t", at()), ("d", day)], &options), "\"Jan 2, 2024 03:04:05.123999\",02/01/2024\n");
    let colons = CsvOptions { delimiter: b':', ..CsvOptions::default() };
    assert_eq!(encode(vec![("t", at()), ("u", at())], &colons).matches('"').count(), 4);
    let dots = CsvOptions { delimiter: b'.', ..CsvOptions::default() };
    let price: ArrayRef = Arc::new(Float64Array::from(vec![1.5]));
    assert_eq!(encode(vec![("x", price.clone()), ("y", price)], &dots), "\"1.5\".\"1.5\"\n");
}

#[test]
fn refuses_what_has_no_text_and_says_which_column() {
    for data_type in [DataType::Binary, DataType::new_list(DataType::Int64, true)] {
        let schema = Schema::new(vec![Field::new("good", DataType::Utf8, true), Field::new("bad", data_type, true)]);
        let error = CsvEncoder::new(&schema, &CsvOptions::default()).unwrap_err();
        assert!(error.message().contains("'bad'"), "{error}");
    }
    let schema = Schema::new(vec![Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, None), true)]);
    let options = CsvOptions { timestamp_format: Some("HH:mm XXX".into()), ..CsvOptions::default() };
    let error = CsvEncoder::new(&schema, &options).unwrap_err();
    assert!(error.message().contains("'at'") && error.message().contains("no time zone"), "{error}");
    let options = CsvOptions { delimiter: b'"', ..CsvOptions::default() };
    assert!(CsvEncoder::new(&schema, &options).is_err());
}

/// The empty string and null are the same to arrow-csv; the encoder is told apart above.
fn cell() -> impl Strategy<Value = Option<String>> {
    proptest::option::of(prop_oneof!["[a-z ,\"\\\\\n\r\t#'\u{e9}]{1,12}", "[,\"\\\\]{1,4}", "\\PC{1,8}",])
}

proptest! {
    #[test]
    fn reads_back(
        rows in proptest::collection::vec(
            (cell(), proptest::option::of(any::<f64>()), any::<i64>(), any::<i32>(), cell()), 1..40),
        escape in prop_oneof![Just(b'\\'), Just(b'"')],
        delimiter in prop_oneof![Just(b','), Just(b';'), Just(b'\t'), Just(b'|')],
    ) {
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("s", Arc::new(rows.iter().map(|r| r.0.clone()).collect::<StringArray>()) as ArrayRef, true),
            ("x", Arc::new(rows.iter().map(|r| r.1).collect::<Float64Array>()) as ArrayRef, true),
            ("n", Arc::new(rows.iter().map(|r| Some(r.2)).collect::<Int64Array>()) as ArrayRef, true),
            // Whole milliseconds of the years 1901 to 2038.
            ("t", Arc::new(rows.iter().map(|r| Some(i64::from(r.3) * 1_000_000 + 5_000))
                .collect::<TimestampMicrosecondArray>()) as ArrayRef, true),
            ("z", Arc::new(rows.iter().map(|r| r.4.clone()).collect::<StringArray>()) as ArrayRef, true),
        ]).unwrap();
        let options = CsvOptions { escape, delimiter, header: true, ..CsvOptions::default() };
        let encoder = CsvEncoder::new(&batch.schema(), &options).unwrap();
        let mut out = encoder.header().to_vec();
        encoder.encode(&batch, &mut out).unwrap();
        let mut reader = ReaderBuilder::new(batch.schema()).with_header(true).with_delimiter(delimiter)
            .with_batch_size(100);
        if escape != b'"' {
            reader = reader.with_escape(escape);
        }
        let read = reader.build(out.as_slice()).unwrap().next().unwrap().unwrap();
        for (wrote, read) in batch.columns().iter().zip(read.columns()) {
            if let (Some(wrote), Some(read)) =
                (wrote.as_any().downcast_ref::<Float64Array>(), read.as_any().downcast_ref::<Float64Array>())
            {
                let bits = |array: &Float64Array| -> Vec<Option<u64>> {
                    array.iter().map(|x| x.map(|x| if x.is_nan() { 0 } else { x.to_bits() })).collect()
                };
                prop_assert_eq!(bits(wrote), bits(read));
            } else {
                prop_assert_eq!(wrote, read);
            }
        }
    }
}
