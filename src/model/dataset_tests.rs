use std::sync::Arc;

use arrow::{
    array::{BooleanArray, Decimal128Array, Int64Array, StringArray},
    datatypes::Field,
};

use super::*;

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

#[test]
fn names_what_is_missing_twice_or_no_number() {
    let batch = batch(vec![
        ("volume", floats(vec![])),
        ("price", floats(vec![])),
        ("symbol", Arc::new(StringArray::from(Vec::<&str>::new()))),
        ("twice", floats(vec![])),
        ("twice", floats(vec![])),
    ]);
    let error = |features: &[&str], target: &str| {
        Layout::find(&batch.schema(), &strings(features), target).unwrap_err().to_string()
    };
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
    let layout = Layout::find(&batch.schema(), &strings(&["i", "b"]), "d").unwrap();
    let columns = layout.columns_of(&batch).unwrap();
    let values: Vec<&[f64]> = columns.iter().map(|column| &column.values()[..]).collect();
    assert_eq!(values, [[3.0, -4.0], [1.0, 0.0], [1.25, -0.5]]);
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
    let layout = Layout::find(&batch.schema(), &strings(&["x"]), "y").unwrap();
    // Nearly every row tests.
    let mut reader = Reader::new(&layout, Split { seed: 1, test_fraction: 0.999_999 });
    let rows = reader.read(&batch).unwrap();
    assert_eq!((rows.train, rows.test, rows.previous), (&[3_u32][..], &[5_u32][..], &[9.0][..]));
    let counts = reader.counts();
    assert_eq!((counts.read, counts.dropped), (6, 4));
    assert_eq!(counts.describe(), "x: 2 null, 1 not finite; y: 1 null, 1 not finite");
    // The next batch's first row follows row 5, and a target without a feature counts as a last value.
    let rows = reader.read(&batch).unwrap();
    assert_eq!((rows.test, rows.previous), (&[3_u32, 5][..], &[8.0, 9.0][..]));
}

#[test]
fn the_split_knows_no_batches() {
    let values: Vec<f64> = (0..500).map(f64::from).collect();
    let whole = batch(vec![("y", floats(values.into_iter().map(Some).collect()))]);
    let layout = Layout::find(&whole.schema(), &[], "y").unwrap();
    let tested = |chunk: usize| {
        let mut reader = Reader::new(&layout, Split { seed: 42, test_fraction: 0.3 });
        let mut tested = Vec::new();
        for start in (0..500).step_by(chunk) {
            let batch = whole.slice(start, chunk.min(500 - start));
            let rows = reader.read(&batch).unwrap();
            tested.extend(rows.test.iter().map(|row| rows.columns[0].value(*row as usize)));
        }
        tested
    };
    assert_eq!(tested(500), tested(7));
    assert!(tested(500).len() > 100);
}
