use arrow::array::{AsArray, Int32Array};
use arrow::datatypes::Float64Type;
use proptest::prelude::*;

use super::*;
use crate::model::artifact::tests::model;

fn batch(price: ArrayRef, volume: ArrayRef) -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("volume", volume.data_type().clone(), true),
        Field::new("price", price.data_type().clone(), true),
    ]);
    RecordBatch::try_new(Arc::new(schema), vec![volume, price]).unwrap()
}

/// The test model: 1.5 + 2 price - 0.25 volume, on Float64 and Int64.
fn predict(batch: &RecordBatch) -> Vec<Option<f64>> {
    let predictor = Predictor::new(&model(), &batch.schema(), None).unwrap();
    let predicted = predictor.apply(batch).unwrap();
    assert_eq!(predicted.schema().as_ref(), predictor.schema().as_ref());
    predicted.column(2).as_primitive::<Float64Type>().iter().collect()
}

#[test]
fn adds_a_column_null_where_a_feature_is() {
    let price: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.0), None, Some(3.0), Some(f64::INFINITY)]));
    let volume: ArrayRef = Arc::new(Int32Array::from(vec![Some(4), Some(4), None, Some(1)]));
    assert_eq!(predict(&batch(price, volume)), [Some(2.5), None, None, Some(f64::INFINITY)]);
}

#[test]
fn refuses_a_schema_that_differs() {
    let error = |fields: Vec<Field>| Predictor::new(&model(), &Schema::new(fields), None).unwrap_err().to_string();
    let price = || Field::new("price", DataType::Float64, true);
    let volume = |data_type| Field::new("volume", data_type, true);
    assert!(error(vec![price(), Field::new("volum", DataType::Int64, true)]).contains("did you mean 'volum'?"));
    let text = error(vec![price(), volume(DataType::Float64)]);
    assert!(text.contains("'volume' is Float64, but the model was trained on Int64"), "{text}");
    assert!(text.contains("arrow_cast(volume, 'Int64')"), "{text}");
    assert!(error(vec![price(), volume(DataType::Utf8)]).contains("'volume' is Utf8"));
    let text = error(vec![Field::new("price", DataType::Utf8, true)]);
    assert!(
        text.contains("2 features differ") && text.contains("'price' is Utf8") && text.contains("no column 'volume'"),
        "{text}"
    );
    let taken = vec![price(), volume(DataType::Int64), Field::new("prediction", DataType::Utf8, true)];
    assert!(error(taken).contains("already has a column 'prediction'"));
}

#[test]
fn takes_what_fits_without_loss() {
    use DataType::{Boolean, Decimal128, Float32, Float64, Int8, Int32, Int64, UInt8, UInt32, UInt64, Utf8};
    for (wanted, found) in [
        (Float64, Int32),
        (Float64, UInt32),
        (Float64, Float32),
        (Int64, UInt32),
        (Int64, Int8),
        (UInt64, UInt8),
        (Boolean, Boolean),
        (Decimal128(12, 4), Decimal128(10, 2)),
    ] {
        assert!(holds(&wanted, &found), "{wanted} {found}");
    }
    for (wanted, found) in [
        (Float64, Int64),
        (Float32, Float64),
        (Int64, UInt64),
        (UInt64, Int8),
        (Int64, Float32),
        (Float64, Boolean),
        (Float64, Utf8),
        (Decimal128(10, 4), Decimal128(10, 2)),
    ] {
        assert!(!holds(&wanted, &found), "{wanted} {found}");
    }
}

proptest! {
    #[test]
    fn every_row_is_the_sum_of_its_terms(rows in prop::collection::vec((-1e6..1e6_f64, any::<i32>()), 0..3000)) {
        let price: ArrayRef = Arc::new(rows.iter().map(|row| Some(row.0)).collect::<Float64Array>());
        let volume: ArrayRef = Arc::new(rows.iter().map(|row| Some(row.1)).collect::<Int32Array>());
        let wanted: Vec<Option<f64>> =
            rows.iter().map(|(price, volume)| Some(1.5 + 2.0 * price + -0.25 * f64::from(*volume))).collect();
        prop_assert_eq!(predict(&batch(price, volume)), wanted);
    }
}
