//! A trained model, as it is kept in a file. `models/README.md` describes the format.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    dataset::{Column, RowCounts},
    exact,
    qr::QrFactor,
    score::Evaluation,
};
use crate::error::{Error, Result};

/// The version of the format that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u64 = 1;

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
    pub target: Column,
    pub features: Vec<Column>,
    /// SHA-256 over the names and types of the features and the target.
    pub schema_fingerprint: String,
    #[serde(deserialize_with = "exact::one")]
    pub intercept: f64,
    /// One per feature, in their order.
    #[serde(deserialize_with = "exact::many")]
    pub coefficients: Vec<f64>,
    pub training: TrainingRecord,
    /// On the training rows.
    pub train: TrainScore,
    /// On the rows that were held back; absent if there were none.
    pub test: Option<Evaluation>,
    /// As they were printed.
    pub warnings: Vec<String>,
    /// Of `[1, features .., target]` over the training rows: covariances, standard errors, a merge with newer rows
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
    /// What was read and could not be used.
    pub counts: RowCounts,
    /// Features that were asked for and left out (`--drop-redundant`).
    pub left_out: Vec<LeftOut>,
}

/// A feature that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    pub feature: String,
    pub why: String,
}

/// The fit's error on its own rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TrainScore {
    pub rmse: f64,
    pub r2: f64,
    /// The residuals' standard deviation, with rows - coefficients degrees of freedom; absent without any.
    pub residual_deviation: Option<f64>,
}

/// The file's outermost object.
#[derive(Serialize)]
struct Sealed<'a> {
    #[serde(flatten)]
    model: &'a Model,
    sha256: String,
}

impl Model {
    /// The fingerprint of these columns: names and types in order.
    pub fn fingerprint(features: &[Column], target: &Column) -> String {
        let mut hash = Sha256::new();
        for column in features.iter().chain([target]) {
            hash.update(format!("{}\0{}\n", column.name, column.data_type));
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
            Some(FORMAT_VERSION) => {}
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
        if self.coefficients.len() != self.features.len() {
            let (found, wanted) = (self.coefficients.len(), self.features.len());
            return Err(Error::corrupt(format!("it has {found} coefficients for {wanted} features")));
        }
        self.factor.check()?;
        if self.factor.columns() != self.features.len() + 2 {
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
