use arrow::datatypes::DataType;

use super::*;
use crate::{
    error::ErrorKind,
    model::{
        predict::Scorer,
        qr::QrAccumulator,
        score::{Baseline, Score},
    },
};

/// 1.5 + 2 price - 0.25 volume, on Float64 and Int64.
pub(crate) fn model() -> Model {
    let column = |name: &str, data_type| Column { name: name.to_owned(), data_type, unit: None, vocabulary: None };
    let features = vec![column("price", DataType::Float64), column("volume", DataType::Int64)];
    let target = column("sell", DataType::Float64);
    let mut rows = QrAccumulator::new(3);
    rows.push(&[&[0.1, 1.0, 2.0], &[3.0, 1.0, 1.0], &[1.0 / 3.0, 5.0, 4.0]], None, &[0, 1, 2]);
    let score = Score { rmse: 0.1, mae: 0.05, mape: None, r2: None };
    let baseline = Baseline { rows: None, rmse: 0.2, mae: 0.1, mape: None, r2: Some(-0.5), skill: Some(0.5) };
    Model {
        version: FORMAT_VERSION,
        kind: KIND.to_owned(),
        name: "sell".to_owned(),
        created: "2026-01-02T03:04:05Z".to_owned(),
        tidemill: "0.1.0".to_owned(),
        source: "SELECT * FROM t".to_owned(),
        query: None,
        horizon: None,
        handle_invalid: HandleInvalid::Error,
        terms: (0..2).map(|feature| Term { feature, value: None }).collect(),
        fit_intercept: true,
        penalty: Penalty::default(),
        schema_fingerprint: Model::fingerprint(&features, &target),
        target,
        features,
        intercept: 1.5,
        coefficients: vec![2.0, -0.25],
        training: TrainingRecord {
            rows: 3,
            test_rows: 1,
            split: "none".to_owned(),
            seed: u64::MAX,
            test_fraction: 0.2,
            weight: None,
            weights: None,
            time: None,
            half_life: None,
            ranges: Vec::new(),
            offsets: Vec::new(),
            counts: RowCounts::default(),
            left_out: vec![LeftOut { feature: "x".to_owned(), why: "it is always 1".to_owned() }],
        },
        train: TrainScore {
            rmse: 0.1,
            mae: None,
            mape: None,
            r2: 0.9,
            adjusted_r2: None,
            residuals: None,
            residual_deviation: None,
        },
        test: Some(Evaluation {
            rows: 1,
            model: score,
            mean: baseline,
            last_value: Some(baseline),
            seasonal: None,
            folds: Vec::new(),
        }),
        statistics: None,
        warnings: vec!["look \"here\"".to_owned()],
        factor: rows.factor(),
    }
}

#[test]
fn comes_back_as_it_was() {
    let mut model = model();
    // Numbers that serde_json's own parser is known to read one bit off, and extremes.
    model.coefficients = vec![6.036_353_573_618_43e-292, f64::MIN_POSITIVE / 3.0];
    model.intercept = -2.000_000_000_000_000_4e-5;
    let text = model.to_json().unwrap();
    assert_eq!(Model::from_json(&text).unwrap(), model);
    // Indenting otherwise is no damage.
    assert_eq!(Model::from_json(&text.replace("\n  ", "\n\t\t")).unwrap(), model);
    assert_eq!(Model::from_json(&without_spaces(&text)).unwrap(), model);
    assert_eq!(without_spaces(r#" { "a \" b" : "\\" , "c d" : 1 } "#), r#"{"a \" b":"\\","c d":1}"#);
    assert!(text.starts_with("{\n  \"version\": 2,\n  \"kind\": \"linear_regression\""), "{text}");
}

#[test]
fn a_torn_or_flipped_file_is_refused() {
    let text = model().to_json().unwrap();
    for length in (0..text.trim_end().len()).step_by(7) {
        let error = Model::from_json(&text[..length]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{length}: {error}");
    }
    for place in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[place] ^= 1;
        // A bit of an indent may flip into other white space: no damage.
        if let Ok(flipped) = String::from_utf8(bytes)
            && let Ok(read) = Model::from_json(&flipped)
        {
            assert_eq!(read, model(), "byte {place}");
        }
    }
}

#[test]
fn a_file_that_lies_is_refused_even_with_its_checksum() {
    let refused = |change: fn(&mut Model)| {
        let mut model = model();
        change(&mut model);
        Model::from_json(&model.to_json().unwrap()).unwrap_err()
    };
    let error = refused(|model| model.coefficients = vec![1.0]);
    assert!(error.message().contains("1 coefficients for 2 features"), "{error}");
    assert!(refused(|model| model.intercept = f64::NAN).message().contains("not a finite number"));
    assert!(refused(|model| model.features[0].name = "other".to_owned()).message().contains("fingerprint"));
    assert!(refused(|model| model.factor = QrFactor::empty(3)).message().contains("QR factor"));
    assert_eq!(refused(|model| model.version = 3).kind(), ErrorKind::Unsupported);
    assert_eq!(refused(|model| model.version = 0).kind(), ErrorKind::Corrupt);
    assert_eq!(refused(|model| model.kind = "forest".to_owned()).kind(), ErrorKind::Unsupported);
}

/// A file that version 0.1 wrote, when the format had version 1, is read for ever, and predicts the same.
#[test]
fn version_1_is_still_read() {
    let model = Model::from_json(include_str!("reference/version_1.json")).unwrap();
    assert_eq!((model.version, model.intercept), (1, 1.583661493978955));
    assert!(model.fit_intercept && !model.penalty.is_on());
    assert_eq!(model.term_names(), ["price", "volume"]);
    assert_eq!(model.factor.effective_rows(), 32.0);
    assert!(model.test.as_ref().unwrap().last_value.is_some());
    let features: Vec<arrow::array::ArrayRef> = vec![
        std::sync::Arc::new(arrow::array::Float64Array::from(vec![2.0])),
        std::sync::Arc::new(arrow::array::Int64Array::from(vec![4])),
    ];
    let predicted = Scorer::new(&model, Some(0.95)).unwrap().score(&features, 1).unwrap();
    let wanted = 1.583661493978955 + 1.9854793824229686 * 2.0 - 0.25021165470102497 * 4.0;
    assert_eq!(predicted.values.value(0), wanted);
    assert!(predicted.bounds.unwrap()[0].value(0) < wanted, "its factor gives intervals, though it has no statistics");
    assert_eq!(Model::from_json(&model.to_json().unwrap()).unwrap(), model);
}
