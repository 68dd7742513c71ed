use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BooleanArray, Decimal128Array, StringArray},
    datatypes::Field,
};

use super::*;
use crate::model::split::Split;

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<Field> =
        columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, column)| column).collect())
        .unwrap()
}

fn floats(values: Vec<Option<f64>>) -> ArrayRef {
    Arc::new(Float64Array::from(values))
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn roles(features: &[&str], target: &str) -> Roles {
    Roles { features: strings(features), target: target.to_owned(), ..Roles::default() }
}

fn layout(batch: &RecordBatch, features: &[&str], target: &str) -> Result<Layout> {
    Layout::find(&batch.schema(), &roles(features, target), true)
}

fn random(seed: u64, test_fraction: f64) -> Plan {
    Plan::Random(Split { seed, test_fraction })
}

#[test]
fn names_what_is_missing_twice_or_no_number() {
    let batch = batch(vec![
        ("volume", floats(vec![])),
        ("price", floats(vec![])),
        ("symbol", Arc::new(StringArray::from(Vec::<&str>::new()))),
        ("twice", floats(vec![])),
        ("twice", floats(vec![])),
    ]);
    let error = |features: &[&str], target: &str| layout(&batch, features, target).unwrap_err().to_string();
    assert!(error(&["volme"], "price").contains("did you mean 'volume'?"));
    assert!(error(&["Volume"], "price").contains("no column 'Volume' (feature)"));
    assert!(error(&["zzzzzzzz"], "price").contains("the query's columns are: volume, price"));
    assert!(error(&[], "pric").contains("(target)"));
    assert!(error(&["volume", "volume"], "price").contains("given twice"));
    assert!(error(&["volume", "price"], "price").contains("the target 'price' is also a feature"));
    assert!(error(&["symbol"], "price").contains("CAST(symbol AS DOUBLE)"));
    assert!(error(&["twice"], "price").contains("several columns named 'twice'"));
}

#[test]
fn takes_every_kind_of_number() {
    let decimals = Decimal128Array::from(vec![125, -50]).with_precision_and_scale(10, 2).unwrap();
    let batch = batch(vec![
        ("i", Arc::new(Int64Array::from(vec![3, -4]))),
        ("b", Arc::new(BooleanArray::from(vec![true, false]))),
        ("d", Arc::new(decimals)),
    ]);
    let layout = layout(&batch, &["i", "b"], "d").unwrap();
    let plan = random(1, 0.0);
    let mut reader = Reader::new(&layout, &plan);
    assert_eq!(reader.read(&batch).unwrap().values(), [[3.0, -4.0], [1.0, 0.0], [1.25, -0.5]]);
    let text = serde_json::to_string(&layout.columns).unwrap();
    assert!(text.contains(r#"{"name":"d","type":"Decimal128(10, 2)"}"#), "{text}");
    assert_eq!(serde_json::from_str::<Vec<Column>>(&text).unwrap(), layout.columns);
}

#[test]
fn counts_bad_rows_by_column_and_keeps_the_last_target() {
    let batch = batch(vec![
        ("x", floats(vec![None, Some(1.0), Some(f64::NAN), Some(2.0), None, Some(3.0)])),
        ("y", floats(vec![Some(7.0), None, Some(8.0), Some(9.0), Some(f64::INFINITY), Some(10.0)])),
    ]);
    let layout = layout(&batch, &["x"], "y").unwrap();
    // Nearly every row tests.
    let plan = random(1, 0.999_999);
    let mut reader = Reader::new(&layout, &plan);
    let rows = reader.read(&batch).unwrap();
    assert_eq!(rows.parts, [vec![3], vec![5]]);
    assert_eq!(rows.last_values[5], 9.0);
    let counts = reader.counts();
    assert_eq!((counts.read, counts.dropped), (6, 4));
    assert_eq!(counts.describe(), "x: 2 null, 1 not finite; y: 1 null, 1 not finite");
    // The next batch's first row follows row 5, and a target without a feature counts as a last value.
    let rows = reader.read(&batch).unwrap();
    assert_eq!((&rows.parts[1], rows.last_values[3], rows.last_values[5]), (&vec![3, 5], 8.0, 9.0));
    assert_eq!(rows.first, 6);
}

#[test]
fn the_split_knows_no_batches() {
    let values: Vec<f64> = (0..500).map(f64::from).collect();
    let whole = batch(vec![("y", floats(values.into_iter().map(Some).collect()))]);
    let layout = layout(&whole, &[], "y").unwrap();
    let plan = random(42, 0.3);
    let tested = |chunk: usize| {
        let mut reader = Reader::new(&layout, &plan);
        let mut tested = Vec::new();
        for start in (0..500).step_by(chunk) {
            let batch = whole.slice(start, chunk.min(500 - start));
            let rows = reader.read(&batch).unwrap();
            tested.extend(rows.parts[1].iter().map(|row| rows.columns[0].value(*row as usize)));
        }
        tested
    };
    assert_eq!(tested(500), tested(7));
    assert!(tested(500).len() > 100);
}

#[test]
fn words_become_terms_and_strangers_are_named_or_left_out() {
    let symbols = StringArray::from(vec![Some("ETH"), Some("BTC"), Some("DOGE"), None, Some("SOL")]);
    let batch = batch(vec![("s", Arc::new(symbols)), ("y", floats((0..5).map(|y| Some(f64::from(y))).collect()))]);
    let mut roles = roles(&["s"], "y");
    roles.categories = vec![Category::parse("s=BTC|ETH|SOL").unwrap()];
    let plan = random(1, 0.0);
    let layout = Layout::find(&batch.schema(), &roles, true).unwrap();
    assert_eq!(layout.term_names(), ["s=ETH", "s=SOL"]);
    let error = Reader::new(&layout, &plan).read(&batch).unwrap_err().to_string();
    assert!(error.contains("'DOGE' of the categorical feature 's'") && error.contains("BTC, ETH, SOL"), "{error}");
    roles.handle_invalid = HandleInvalid::Skip;
    let layout = Layout::find(&batch.schema(), &roles, false).unwrap();
    assert_eq!(layout.term_names(), ["s=BTC", "s=ETH", "s=SOL"], "without an intercept there is no reference");
    let mut reader = Reader::new(&layout, &plan);
    let rows = reader.read(&batch).unwrap();
    assert_eq!(rows.parts[0], [0, 1, 4]);
    let values = rows.values();
    assert_eq!([values[0][1], values[1][0], values[2][4], values[2][0]], [1.0, 1.0, 1.0, 0.0]);
    assert_eq!(reader.counts().describe(), "s: 1 null, 1 not in the vocabulary");
    for text in ["s", "s=a", "s=a|a", "=a|b", "s=a||b"] {
        assert!(Category::parse(text).is_err(), "{text}");
    }
}

#[test]
fn weights_and_times_have_gaps_too() {
    let times = arrow::array::TimestampMillisecondArray::from(vec![Some(1), Some(2), None, Some(4), Some(5)]);
    let batch = batch(vec![
        ("y", floats((0..5).map(|y| Some(f64::from(y))).collect())),
        ("w", floats(vec![Some(0.5), Some(0.0), Some(1.0), Some(-1.0), Some(2.0)])),
        ("t", Arc::new(times)),
    ]);
    let mut roles = roles(&[], "y");
    (roles.weight, roles.time) = (Some("w".to_owned()), Some("t".to_owned()));
    assert_eq!(roles.needed(), ["y", "w", "t"]);
    let layout = Layout::find(&batch.schema(), &roles, true).unwrap();
    let plan = random(1, 0.0);
    let mut reader = Reader::new(&layout, &plan);
    let rows = reader.read(&batch).unwrap();
    assert_eq!((&rows.parts[0], rows.moments[4]), (&vec![0, 4], 5000.0));
    assert_eq!(reader.counts().describe(), "w: 2 not positive; t: 1 null");
    roles.time = Some("w".to_owned());
    let error = Layout::find(&batch.schema(), &roles, true).unwrap_err().to_string();
    assert!(error.contains("to_timestamp_millis(w)"), "{error}");
}
