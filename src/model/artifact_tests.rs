use arrow::datatypes::DataType;

use super::*;
use crate::{
    error::ErrorKind,
    model::{
        qr::QrAccumulator,
        score::{Baseline, Score},
    },
};

/// 1.5 + 2 price - 0.25 volume, on Float64 and Int64.
pub(crate) fn model() -> Model {
    let column = |name: &str, data_type| Column { name: name.to_owned(), data_type };
    let features = vec![column("price", DataType::Float64), column("volume", DataType::Int64)];
    let target = column("sell", DataType::Float64);
    let mut rows = QrAccumulator::new(3);
    rows.push(&[&[0.1, 1.0, 2.0], &[3.0, 1.0, 1.0], &[1.0 / 3.0, 5.0, 4.0]], &[0, 1, 2]);
    let score = Score { rmse: 0.1, mae: 0.05, r2: None };
    let baseline = Baseline { rmse: 0.2, mae: 0.1, r2: Some(-0.5), skill: Some(0.5) };
    Model {
        version: FORMAT_VERSION,
        kind: KIND.to_owned(),
        name: "sell".to_owned(),
        created: "2026-01-02T03:04:05Z".to_owned(),
        tidemill: "0.1.0".to_owned(),
        source: "SELECT * FROM t".to_owned(),
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
            counts: RowCounts::default(),
            left_out: vec![LeftOut { feature: "x".to_owned(), why: "it is always 1".to_owned() }],
        },
        train: TrainScore { rmse: 0.1, r2: 0.9, residual_deviation: None },
        test: Some(Evaluation { rows: 1, model: score, mean: baseline, last_value: baseline }),
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
    assert!(text.starts_with("{\n  \"version\": 1,\n  \"kind\": \"linear_regression\""), "{text}");
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
    assert_eq!(refused(|model| model.version = 2).kind(), ErrorKind::Unsupported);
    assert_eq!(refused(|model| model.version = 0).kind(), ErrorKind::Corrupt);
    assert_eq!(refused(|model| model.kind = "forest".to_owned()).kind(), ErrorKind::Unsupported);
}
