//! Numbers read back bit for bit.
//!
//! `serde_json` prints the shortest text that stands for a double, but reads it one bit off now and then, unless a
//! feature is on that slows it for everyone. A model must predict what it predicted when it was tested, so its
//! numbers go through the standard library's parser.

use std::collections::VecDeque;

use serde::{Deserialize, Deserializer, de::Error};
use serde_json::value::RawValue;

/// For one number: `#[serde(deserialize_with = "exact::one")]`.
pub(super) fn one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    parse(<&RawValue>::deserialize(deserializer)?)
}

/// For a list of numbers.
pub(super) fn many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    Vec::<&RawValue>::deserialize(deserializer)?.into_iter().map(parse).collect()
}

/// For a number that may be absent; with `#[serde(default)]`.
pub(super) fn maybe<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    or_nan(deserializer).map(|number| Some(number).filter(|number| !number.is_nan()))
}

/// For a number that may be NaN, which is written as `null`.
pub(super) fn or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    match <&RawValue>::deserialize(deserializer)? {
        null if null.get() == "null" => Ok(f64::NAN),
        raw => parse(raw),
    }
}

/// For a queue of numbers.
pub(super) fn queue<'de, D: Deserializer<'de>>(deserializer: D) -> Result<VecDeque<f64>, D::Error> {
    many(deserializer).map(VecDeque::from)
}

fn parse<E: Error>(raw: &RawValue) -> Result<f64, E> {
    match raw.get().parse::<f64>() {
        // The parser also takes words such as `inf`; they are no JSON, so they never come here.
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err(E::custom(format!("`{}` is not a finite number", raw.get()))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    struct Numbers {
        #[serde(deserialize_with = "super::one")]
        one: f64,
        #[serde(deserialize_with = "super::many")]
        many: Vec<f64>,
    }

    proptest! {
        #[test]
        fn every_bit_comes_back(one in any::<f64>(), many in prop::collection::vec(any::<f64>(), 0..4)) {
            prop_assume!(one.is_finite() && many.iter().all(|number| number.is_finite()));
            let text = serde_json::to_string_pretty(&Numbers { one, many: many.clone() }).unwrap();
            let back: Numbers = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(back.one.to_bits(), one.to_bits());
            prop_assert!(back.many.iter().zip(&many).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
    }

    #[test]
    fn refuses_what_is_no_finite_number() {
        for text in [r#"{"one":null,"many":[]}"#, r#"{"one":1e999,"many":[]}"#, r#"{"one":1,"many":["2"]}"#] {
            assert!(serde_json::from_str::<Numbers>(text).is_err(), "{text}");
        }
    }
}
