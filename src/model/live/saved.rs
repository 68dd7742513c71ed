//! What a forecaster has learned, as text: bit for bit, so that it goes on as if it had never stopped.

use serde::{Deserialize, Serialize};

use super::{
    drift::Detector,
    forecaster::{Forecaster, Learned},
};
use crate::{
    error::{Error, ErrorKind, Result},
    model::horizon::spell,
};

/// Of this format.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Saved<T> {
    version: u32,
    question: Question,
    learned: T,
}

/// What was learned is an answer to this, and to nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Question {
    target: String,
    features: Vec<String>,
    horizon_us: i64,
    tolerance_us: i64,
    half_life_us: Option<i64>,
}

impl Question {
    fn of(forecaster: &Forecaster) -> Self {
        let options = forecaster.options();
        Self {
            target: options.target.clone(),
            features: forecaster.names().to_vec(),
            horizon_us: options.horizon_us,
            tolerance_us: options.tolerance_us,
            half_life_us: options.half_life_us,
        }
    }

    /// In which part they differ, and how: old, new.
    fn difference(&self, new: &Self) -> Option<(&'static str, String, String)> {
        let times = [
            ("horizon", self.horizon_us, new.horizon_us),
            ("tolerance", self.tolerance_us, new.tolerance_us),
            ("halfLife", self.half_life_us.unwrap_or(0), new.half_life_us.unwrap_or(0)),
        ];
        let texts = [
            ("target", self.target.clone(), new.target.clone()),
            ("features", self.features.join(", "), new.features.join(", ")),
        ];
        let spelled = times.map(|(name, old, new)| (name, spell(old), spell(new)));
        texts.into_iter().chain(spelled).find(|(_, old, new)| old != new)
    }
}

impl Forecaster {
    /// All that it has learned.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let saved = Saved { version: VERSION, question: Question::of(self), learned: &self.learned };
        serde_json::to_vec(&saved)
            .map_err(|error| Error::internal("what ML_FORECAST has learned does not serialise").source_error(error))
    }

    /// Goes on with what `to_json` gave. A detector of another kind begins anew; other options may be new.
    ///
    /// # Errors
    /// `Corrupt`; `Unsupported` for a newer format; `Conflict` if it was learned for another question.
    pub fn restore(self, json: &[u8]) -> Result<Self> {
        let corrupt = |error: serde_json::Error| Error::corrupt(format!("it is no forecaster's state: {error}"));
        let head: Saved<serde::de::IgnoredAny> = serde_json::from_slice(json).map_err(corrupt)?;
        if head.version > VERSION {
            let text =
                format!("it has version {} of the forecaster's state, this Tidemill knows {VERSION}", head.version);
            return Err(Error::unsupported(text).help("use the Tidemill that wrote it, or a newer one"));
        }
        if let Some((what, old, new)) = head.question.difference(&Question::of(&self)) {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("the model has learned with {what} {old}, and is now asked for {new}"),
            )
            .help("bring the old one back, or start anew with another path and checkpointLocation"));
        }
        let saved: Saved<Learned> = serde_json::from_slice(json).map_err(corrupt)?;
        let mut learned = saved.learned;
        let fresh = Detector::new(self.options().drift);
        if std::mem::discriminant(&fresh) != std::mem::discriminant(&learned.detector) {
            learned.detector = fresh;
        }
        Ok(self.with(learned))
    }
}
