//! Values: the same as arrow-json's where the two agree on what a value is, and as written here where they do not.

use arrow::{compute::concat_batches, json::ReaderBuilder};
use proptest::prelude::*;
use serde_json::{Value, json as object};
use tidemill::decode::{BATCH_BYTES_MAX, ROWS_PER_BATCH};

use super::*;

/// Simulated bitcoin prices.
fn bitcoin() -> Vec<Column> {
    let double = |name| column(name, DataType::Float64);
    vec![
        column("timestamp", micros()),
        double("buy_price"),
        double("sell_price"),
        column("volume", DataType::Int64),
        double("volatility"),
        double("buy_price_normalized"),
        double("sell_price_normalized"),
        double("volume_normalized"),
    ]
}

fn mixed() -> Vec<Column> {
    vec![
        column("at", micros()),
        column("price", DataType::Float64),
        column("count", DataType::Int64),
        column("small", DataType::Int16),
        column("name", DataType::Utf8),
        column("yes", DataType::Boolean),
        column("day", DataType::Date32),
        column("money", DataType::Decimal128(20, 4)),
        column("levels", levels()),
        column("counts", counts()),
    ]
}

fn arrow_json(columns: &[Column], payloads: &[Vec<u8>]) -> RecordBatch {
    let fields: Vec<_> =
        columns.iter().map(|column| Field::new(&column.name, column.data_type.clone(), true)).collect();
    let schema = Arc::new(arrow::datatypes::Schema::new(fields));
    let lines = payloads.join(&b'\n');
    let reader = ReaderBuilder::new(schema.clone()).build(lines.as_slice()).unwrap();
    concat_batches(&schema, &reader.collect::<std::result::Result<Vec<_>, _>>().unwrap()).unwrap()
}

/// A value for a column of that type, null now and then.
fn value(data_type: &DataType) -> BoxedStrategy<Value> {
    let some: BoxedStrategy<Value> = match data_type {
        DataType::Timestamp(..) => (0i64..4_000_000_000_000_000)
            .prop_map(|micros| {
                object!(
                    chrono::DateTime::from_timestamp_micros(micros)
                        .unwrap()
                        .format("%Y-%m-%dT%H:%M:%S%.6f")
                        .to_string()
                )
            })
            .boxed(),
        DataType::Float64 => any::<u64>()
            .prop_filter_map("finite", |bits| serde_json::Number::from_f64(f64::from_bits(bits)).map(Value::Number))
            .boxed(),
        DataType::Int64 => any::<i64>().prop_map(Value::from).boxed(),
        DataType::Int16 => any::<i16>().prop_map(Value::from).boxed(),
        DataType::Utf8 => any::<String>().prop_map(Value::from).boxed(),
        DataType::Boolean => any::<bool>().prop_map(Value::from).boxed(),
        DataType::Date32 => {
            (0i32..60_000).prop_map(|day| object!(chrono::NaiveDate::from_epoch_days(day).unwrap().to_string())).boxed()
        }
        DataType::Decimal128(..) => {
            (-10i64.pow(12)..10i64.pow(12)).prop_map(|units| object!(units as f64 / 16.0)).boxed()
        }
        DataType::List(item) => prop::collection::vec(value(item.data_type()), 0..4).prop_map(Value::Array).boxed(),
        DataType::Struct(fields) => {
            let fields: Vec<_> = fields.iter().map(|field| (field.name().clone(), value(field.data_type()))).collect();
            let names: Vec<_> = fields.iter().map(|(name, _)| name.clone()).collect();
            let values: Vec<_> = fields.into_iter().map(|(_, value)| value).collect();
            values.prop_map(move |values| names.iter().cloned().zip(values).collect()).boxed()
        }
        DataType::Map(..) => prop::collection::btree_map(any::<String>(), any::<i64>(), 0..4)
            .prop_map(|entries| entries.into_iter().map(|(key, value)| (key, Value::from(value))).collect())
            .boxed(),
        other => panic!("{other}"),
    };
    prop_oneof![9 => some, 1 => Just(Value::Null)].boxed()
}

/// A record for `columns`: fields missing, in any order, some unknown, with or without white space, ASCII or not.
pub(super) fn payload(columns: &[Column]) -> impl Strategy<Value = Vec<u8>> + use<> {
    let mut fields: Vec<_> = columns.iter().map(|column| (column.name.clone(), value(&column.data_type))).collect();
    fields.push(("unknown".to_owned(), value(&levels())));
    fields.push(("other \"\u{e9}\"".to_owned(), value(&DataType::Utf8)));
    let (names, values): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
    let count = names.len();
    let order = prop_oneof![Just((0..count).collect::<Vec<_>>()), Just((0..count).collect::<Vec<_>>()).prop_shuffle()];
    (values, order, 1..=count, 0usize..3).prop_map(move |(values, order, keep, style)| {
        let chosen = order.iter().take(keep).map(|index| (names[*index].clone(), values[*index].clone()));
        let object = Value::Object(chosen.collect());
        match style {
            0 => serde_json::to_vec(&object).unwrap(),
            1 => serde_json::to_vec_pretty(&object).unwrap(),
            _ => ascii(&serde_json::to_string(&object).unwrap()).into_bytes(),
        }
    })
}

/// As Python's `json.dumps` does: every other character as `\uXXXX`. Except beyond plane 1, where arrow-json 59.3 joins
/// the halves of a pair with a wrong precedence.
fn ascii(text: &str) -> String {
    escaped(text, '\u{20000}')
}

/// The text with every character from U+0080 up to `end` escaped.
fn escaped(text: &str, end: char) -> String {
    let mut units = [0; 2];
    let escape = |character: char| match character.is_ascii() || character >= end {
        true => character.to_string(),
        false => character.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04X}")).collect(),
    };
    text.chars().map(escape).collect()
}

/// Bytes that change what a document means.
const STRUCTURE: &[u8] = b"{}[]:,\"\\ \n\x00\xc3tn01.eE-+u";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn values_are_arrow_jsons(payloads in prop::collection::vec(payload(&mixed()), 1..12)) {
        let ours = decode(&mixed(), &json(ParseMode::FailFast), &payloads).unwrap();
        prop_assert_eq!(ours.rows, arrow_json(&mixed(), &payloads));
    }

    #[test]
    fn escapes_of_every_plane(text: String) {
        let payload = escaped(&object!({ "name": text }).to_string(), char::MAX);
        let rows = decode(&mixed(), &json(ParseMode::FailFast), &[payload]).unwrap().rows;
        prop_assert_eq!(strings(&rows["name"]), [text]);
    }

    #[test]
    fn a_projection_is_the_projected_whole(
        payloads in prop::collection::vec(payload(&mixed()), 1..8),
        projection in prop::sample::subsequence((0..10).collect::<Vec<usize>>(), 0..10),
    ) {
        let whole = decode(&mixed(), &json(ParseMode::FailFast), &payloads).unwrap();
        let mut decoder = RecordDecoder::new(&mixed(), &projection, &json(ParseMode::FailFast)).unwrap();
        decoder.push(&records(&payloads)).unwrap();
        let part = decoder.flush().unwrap().rows;
        prop_assert_eq!(part.num_rows(), payloads.len());
        prop_assert_eq!(part, whole.rows.project(&projection).unwrap());
    }

    /// Well formed is what serde_json reads. Where the two differ on purpose, the bytes are not compared: a byte
    /// order mark (we pass it over), nesting near 128, numbers that serde_json will not hold (we only pass them).
    #[test]
    fn accepts_what_serde_json_accepts(
        payload in payload(&mixed()),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..3, any::<u8>()), 1..4),
        structural in any::<bool>(),
    ) {
        let mut bytes = payload;
        for (place, kind, byte) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = place.index(bytes.len());
            let byte = if structural { STRUCTURE[usize::from(byte) % STRUCTURE.len()] } else { byte };
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        let expected = match serde_json::from_slice::<Value>(&bytes) {
            Ok(value) => value.is_object(),
            Err(error) => {
                prop_assume!(!error.to_string().contains("out of range"));
                false
            }
        };
        let mut decoder = RecordDecoder::new(&mixed(), &[], &json(ParseMode::DeadLetter)).unwrap();
        decoder.push(&records(&[&bytes])).unwrap();
        let decoded = decoder.flush().unwrap();
        prop_assert_eq!(decoded.rows.num_rows() == 1, expected, "{:?}: {:?}", String::from_utf8_lossy(&bytes), reasons(&decoded));
    }
}

#[test]
fn reads_a_bitcoin_record() {
    let text = r#"{"timestamp": "2024-01-01T00:00:00.123456", "buy_price": 12345.67, "sell_price": 12350.01, "volume": 1234, "volatility": 2.34, "buy_price_normalized": 0.1234567890123456, "sell_price_normalized": 1.0, "volume_normalized": 0.0}"#;
    let rows = decode(&bitcoin(), &json(ParseMode::FailFast), &[text, text]).unwrap().rows;
    for row in 0..2 {
        let all: Vec<_> = bitcoin().iter().map(|column| shown(&rows, &column.name, row)).collect();
        let expected =
            ["2024-01-01T00:00:00.123456", "12345.67", "12350.01", "1234", "2.34", "0.1234567890123456", "1.0", "0.0"];
        assert_eq!(all, expected);
    }
}

/// Where Spark has a rule of its own.
#[test]
fn follows_sparks_rules() {
    let columns = [
        column("at", micros()),
        column("seconds", DataType::Timestamp(TimeUnit::Second, Some("UTC".into()))),
        column("real", DataType::Float64),
        column("single", DataType::Float32),
        column("text", DataType::Utf8),
        column("bytes", DataType::Binary),
        column("money", DataType::Decimal128(6, 2)),
        column("tiny", DataType::UInt8),
        column("huge", DataType::UInt64),
        column("day", DataType::Date32),
    ];
    let good = [
        ("at", "1704067200", "2024-01-01T00:00:00"),
        ("at", r#""2024-01-01 00:00:00+02:00""#, "2023-12-31T22:00:00"),
        ("at", r#""2024-01-01""#, "2024-01-01T00:00:00"),
        ("at", r#""2024-01-01T\u0030\u0030:00:00.999999999Z""#, "2024-01-01T00:00:00.999999"),
        ("seconds", "-1", "1969-12-31T23:59:59Z"),
        ("real", r#""NaN""#, "NaN"),
        ("real", r#""-Infinity""#, "-inf"),
        ("real", "-0", "-0.0"),
        ("real", "1e-400", "0.0"),
        ("single", "16777217", "16777216.0"),
        ("single", "0.1", "0.1"),
        ("text", "1e5", "1e5"),
        ("text", "true", "true"),
        ("text", r#"{"a": [1, "x"]}"#, r#"{"a": [1, "x"]}"#),
        ("text", r#""\ud83d\ude00\n""#, "\u{1f600}\n"),
        ("bytes", r#""aGk=""#, "6869"),
        ("money", "1234.565", "1234.57"),
        ("money", r#""12.5""#, "12.50"),
        ("tiny", "255", "255"),
        ("huge", "18446744073709551615", "18446744073709551615"),
        ("day", r#""2024-02-29""#, "2024-02-29"),
        ("day", r#""2024-02-29T23:59:59-11:00""#, "2024-02-29"),
        ("real", "null", "<null>"),
    ];
    for (name, text, expected) in good {
        let rows = decode(&columns, &json(ParseMode::FailFast), &[format!(r#"{{"{name}":{text}}}"#)]);
        let rows = rows.unwrap_or_else(|error| panic!("{name}: {text}: {error}")).rows;
        assert_eq!(shown(&rows, name, 0), expected, "{name}: {text}");
        assert_eq!(
            rows.columns().iter().map(|array| array.null_count()).sum::<usize>(),
            9 + usize::from(text == "null")
        );
    }
    let bad = [
        ("at", "1.5", "TIMESTAMP"),
        ("at", r#""1704067200""#, "TIMESTAMP"),
        ("at", "9223372036854775807", "TIMESTAMP"),
        ("real", r#""1.5""#, "DOUBLE"),
        ("real", "1e400", "DOUBLE"),
        ("real", "true", "DOUBLE"),
        ("single", "1e39", "FLOAT"),
        ("bytes", r#""aGk""#, "BINARY"),
        ("bytes", "12", "BINARY"),
        ("money", "12345", "DECIMAL(6, 2)"),
        ("money", r#""x""#, "DECIMAL(6, 2)"),
        ("tiny", "256", "TINYINT UNSIGNED"),
        ("tiny", "-1", "TINYINT UNSIGNED"),
        ("tiny", "1.0", "TINYINT UNSIGNED"),
        ("huge", "18446744073709551616", "BIGINT UNSIGNED"),
        ("huge", "-1", "BIGINT UNSIGNED"),
        ("day", "19000", "DATE"),
        ("day", r#""20240102""#, "DATE"),
    ];
    for (name, text, type_name) in bad {
        let decoded = decode(&columns, &json(ParseMode::DeadLetter), &[format!(r#"{{"{name}":{text}}}"#)]).unwrap();
        assert_eq!(reasons(&decoded), [format!("{name}: {text} is no {type_name}")]);
    }
}

#[test]
fn duplicate_keys_nested_or_not() {
    let columns = [column("a", DataType::Int64), column("levels", levels()), column("counts", counts())];
    let texts = [
        r#"{"a":1,"levels":[{"price":1}],"a":2,"levels":[{"price":2,"price":3},null],"A":9}"#,
        r#"{"a":1,"a":null,"counts":{"x":1,"y":2},"counts":{}}"#,
    ];
    let rows = decode(&columns, &json(ParseMode::FailFast), &texts).unwrap().rows;
    assert_eq!(shown(&rows, "a", 0), "2");
    assert_eq!(shown(&rows, "levels", 0), "[{price: 3.0, amount: }, ]");
    assert_eq!((shown(&rows, "a", 1), shown(&rows, "counts", 1)), ("<null>".to_owned(), "{}".to_owned()));
    let twice = decode(&columns, &json(ParseMode::DeadLetter), &[r#"{"counts":{"x":1,"x":2}}"#]).unwrap();
    assert_eq!(reasons(&twice), [r#"counts: the key "x" twice in a MAP"#]);
}

/// A batch ends at a number of rows, or of bytes; what was pushed before is intact.
#[test]
fn a_batch_is_bounded() {
    let columns = [column("s", DataType::Utf8)];
    let mut decoder = RecordDecoder::new(&columns, &[0], &json(ParseMode::FailFast)).unwrap();
    let small = vec![r#"{"s":"x"}"#; ROWS_PER_BATCH + 10];
    assert_eq!(decoder.push_until_full(&records(&small)).unwrap(), ROWS_PER_BATCH);
    assert_eq!(decoder.flush().unwrap().rows.num_rows(), ROWS_PER_BATCH);
    let large = vec![format!(r#"{{"s":"{}"}}"#, "y".repeat(10 << 20)); 8];
    let taken = decoder.push_until_full(&records(&large)).unwrap();
    assert_eq!(taken, BATCH_BYTES_MAX / (10 << 20) + 1);
    assert!(decoder.is_full());
    let rows = decoder.flush().unwrap().rows;
    assert!(rows["s"].as_string::<i32>().iter().all(|text| text.unwrap().len() == 10 << 20));
    assert!(decoder.is_empty() && !decoder.is_full());
}

#[test]
fn a_huge_string_is_only_long() {
    let text = format!(r#"{{"s":"{}\n","n":1}}"#, "a".repeat(50 << 20));
    let columns = [column("s", DataType::Utf8), column("n", DataType::Int64)];
    let rows = decode(&columns, &json(ParseMode::FailFast), &[&text]).unwrap().rows;
    assert_eq!(rows["s"].as_string::<i32>().value(0).len(), (50 << 20) + 1);
    let torn = decode(&columns, &json(ParseMode::DeadLetter), &[&text[..text.len() / 2]]).unwrap();
    assert_eq!(reasons(&torn), [format!("truncated at byte {}", text.len() / 2)]);
}
