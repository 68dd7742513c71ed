//! A trained model, as it is kept in a file. `models/README.md` describes the format.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    columns::{Column, HandleInvalid, Term},
    dataset::RowCounts,
    exact,
    fit::Objective,
    horizon::Horizon,
    penalty::Penalty,
    qr::QrFactor,
    residual::ResidualSummary,
    score::Evaluation,
    statistics::Statistics,
    weighting::HalfLife,
};
use crate::error::{Error, Result};

/// The version of the format that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u64 = 2;

/// The only kind yet.
pub const KIND: &str = "linear_regression";

/// A linear regression: `intercept + coefficients . features`, and all that is known about how it came to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Of the format.
    pub version: u64,
    pub kind: String,
    pub name: String,
    /// RFC 3339, UTC.
    pub created: String,
    /// The version of the program that trained it.
    pub tidemill: String,
    /// The SQL, table or path that it was trained on, as the user gave it.
    pub source: String,
    /// The SQL that makes the features of `input`, which is what the source gives; absent if they are its own columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    pub target: Column,
    /// How far ahead the target lies; absent if it is the row's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub horizon: Option<Horizon>,
    pub features: Vec<Column>,
    /// What the coefficients belong to; absent if it is one for each feature.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub terms: Vec<Term>,
    /// For a value outside a vocabulary.
    #[serde(default)]
    pub handle_invalid: HandleInvalid,
    /// SHA-256 over the names and types of the features and the target.
    pub schema_fingerprint: String,
    /// False for a line through the origin.
    #[serde(default = "yes")]
    pub fit_intercept: bool,
    #[serde(default)]
    pub penalty: Penalty,
    #[serde(deserialize_with = "exact::one")]
    pub intercept: f64,
    /// One per term, in their order.
    #[serde(deserialize_with = "exact::many")]
    pub coefficients: Vec<f64>,
    pub training: TrainingRecord,
    /// On the training rows.
    pub train: TrainScore,
    /// On the rows that were held back; absent if there were none.
    pub test: Option<Evaluation>,
    /// Standard errors, tests and intervals; absent for a penalised fit, or without a degree of freedom.
    #[serde(default)]
    pub statistics: Option<Statistics>,
    /// As they were printed.
    pub warnings: Vec<String>,
    /// Of `[1, terms .., target]` over the training rows: covariances, standard errors, a merge with newer rows
    /// and a fit on fewer features all follow from it.
    pub factor: QrFactor,
}

/// Which rows and columns were used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingRecord {
    /// How many rows were fitted.
    pub rows: u64,
    /// How many were held back.
    pub test_rows: u64,
    /// How the two were told apart; `splitmix64`: see `Split`.
    pub split: String,
    pub seed: u64,
    pub test_fraction: f64,
    /// The column of weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<String>,
    /// The sum of the weights and how many equally weighted rows say as much; absent if all weigh 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightSums>,
    /// The column of times, and those of the first and the last row that could be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<TimeRange>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub half_life: Option<HalfLife>,
    /// Of each term and the target, over the rows that could be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<Range>,
    /// What was read of Kafka.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offsets: Vec<ReadRange>,
    /// What was read and could not be used.
    pub counts: RowCounts,
    /// Features that were asked for and left out (`--drop-redundant`).
    pub left_out: Vec<LeftOut>,
}

/// What the weights add up to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WeightSums {
    pub sum: f64,
    pub effective_rows: f64,
}

/// When the rows are from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeRange {
    pub column: String,
    /// RFC 3339, UTC.
    pub from: String,
    pub to: String,
}

/// A stretch of one partition of a Kafka topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadRange {
    pub topic: String,
    pub partition: i32,
    /// The first offset.
    pub from: i64,
    /// One past the last.
    pub until: i64,
}

/// The least and the greatest value of a column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Range {
    pub column: String,
    pub min: f64,
    pub max: f64,
}

/// A feature that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    pub feature: String,
    pub why: String,
}

/// The fit's error on its own rows, weighted as they were; the mean errors and the residuals count each row once.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TrainScore {
    pub rmse: f64,
    #[serde(default)]
    pub mae: Option<f64>,
    #[serde(default)]
    pub mape: Option<f64>,
    pub r2: f64,
    #[serde(default)]
    pub adjusted_r2: Option<f64>,
    #[serde(default)]
    pub residuals: Option<ResidualSummary>,
    /// The residuals' standard deviation, with rows - coefficients degrees of freedom; absent without any.
    pub residual_deviation: Option<f64>,
}

fn yes() -> bool {
    true
}

/// The file's outermost object.
#[derive(Serialize)]
struct Sealed<'a> {
    #[serde(flatten)]
    model: &'a Model,
    sha256: String,
}

impl Model {
    /// What the coefficients belong to.
    pub fn all_terms(&self) -> Vec<Term> {
        if self.terms.is_empty() {
            return (0..self.features.len()).map(|feature| Term { feature, value: None }).collect();
        }
        self.terms.clone()
    }

    /// The terms' names.
    pub fn term_names(&self) -> Vec<String> {
        self.all_terms().iter().map(|term| term.name(&self.features)).collect()
    }

    /// What was minimised.
    pub fn objective(&self) -> Objective {
        Objective { fit_intercept: self.fit_intercept, penalty: self.penalty }
    }

    /// The fingerprint of these columns: names, types and vocabularies in order.
    pub fn fingerprint(features: &[Column], target: &Column) -> String {
        let mut hash = Sha256::new();
        for column in features.iter().chain([target]) {
            hash.update(format!("{}\0{}", column.name, column.data_type));
            column.vocabulary.iter().flatten().for_each(|value| hash.update(format!("\0{value}")));
            hash.update("\n");
        }
        hex(&hash.finalize())
    }

    /// The file's text: indented JSON, its last key a checksum of the others.
    ///
    /// # Errors
    /// `Internal` if a number is not finite.
    pub fn to_json(&self) -> Result<String> {
        let broken = |error: serde_json::Error| Error::internal("the model does not become JSON").source_error(error);
        let sha256 = checksum(&serde_json::to_string(self).map_err(broken)?);
        serde_json::to_string_pretty(&Sealed { model: self, sha256 }).map_err(broken)
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// `Corrupt` if it is torn, changed or no model; `Unsupported` if its version is newer.
    pub fn from_json(text: &str) -> Result<Self> {
        let value: Value =
            serde_json::from_str(text).map_err(|error| Error::corrupt(format!("it is not whole JSON ({error})")))?;
        let version = value.get("version").and_then(Value::as_u64);
        match version {
            Some(1..=FORMAT_VERSION) => {}
            Some(newer) if newer > FORMAT_VERSION => {
                return Err(Error::unsupported(format!(
                    "it has version {newer} of the model format, and this program reads up to {FORMAT_VERSION}"
                ))
                .help("use the program that wrote it, or a newer one"));
            }
            _ => return Err(Error::corrupt("it has no valid 'version'")),
        }
        let compact = without_spaces(text);
        let (content, recorded) = compact.rsplit_once(SEAL).unwrap_or_default();
        if recorded.strip_suffix("\"}") != Some(checksum(&format!("{content}}}")).as_str()) {
            return Err(Error::corrupt("its content does not match its checksum").help(
                "it was damaged or edited after it was written: restore it, use an older revision, or train again",
            ));
        }
        let model: Self =
            serde_json::from_str(text).map_err(|error| Error::corrupt(format!("it is no model ({error})")))?;
        model.check()?;
        Ok(model)
    }

    /// What the types do not say.
    fn check(&self) -> Result<()> {
        if self.kind != KIND {
            return Err(Error::unsupported(format!("it is a '{}', which this program does not know", self.kind)));
        }
        if let Some(term) = self.terms.iter().find(|term| term.feature >= self.features.len()) {
            return Err(Error::corrupt(format!("it has a term of a feature {} that it does not have", term.feature)));
        }
        let terms = self.all_terms().len();
        if self.coefficients.len() != terms {
            let found = self.coefficients.len();
            return Err(Error::corrupt(format!("it has {found} coefficients for {terms} features")));
        }
        self.factor.check()?;
        if self.factor.columns() != terms + 2 {
            return Err(Error::corrupt("its QR factor is not that of its features"));
        }
        if self.schema_fingerprint != Self::fingerprint(&self.features, &self.target) {
            return Err(Error::corrupt("its schema fingerprint is not that of its columns"));
        }
        Ok(())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As `from_json`, naming the file; else what the disk says.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| super::file::io_error("read", path, error))?;
        Self::from_json(&text).map_err(|error| error.context(format!("the model file {}", path.display())))
    }
}

/// How the checksum, the last key, begins in a file without spaces.
const SEAL: &str = ",\"sha256\":\"";

/// Over the text without the checksum and without the spaces between its tokens, so that indenting a file is no damage.
fn checksum(compact: &str) -> String {
    hex(&Sha256::digest(compact))
}

/// The JSON text without white space outside strings.
fn without_spaces(text: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    text.chars()
        .filter(|c| {
            let kept = quoted || !c.is_ascii_whitespace();
            quoted ^= *c == '"' && !escaped;
            escaped = quoted && *c == '\\' && !escaped;
            kept
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "artifact_tests.rs"]
pub(crate) mod tests;
