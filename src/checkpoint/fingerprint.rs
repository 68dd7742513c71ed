//! What a checkpoint was made by, so that a changed query on an old checkpoint is recognised.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// What must not change between restarts, and what may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fingerprint {
    pub version: u32,
    /// Spark's description of the source: the topics.
    pub source: String,
    /// Where the rows go.
    pub sink: String,
    /// Name and type of each output column.
    pub columns: Vec<(String, String)>,
    /// The INSERT's text. It may change as long as the columns stay.
    pub select: String,
    /// What the state is made by: the plan below each aggregate, and the aggregate. What stands above may change.
    #[serde(default)]
    pub state: Vec<String>,
}

impl Fingerprint {
    /// May a query with the fingerprint `self` go on where `old` stopped?
    ///
    /// # Errors
    /// `Conflict`, naming the exact difference and the way out.
    pub fn check(&self, old: &Self) -> Result<()> {
        let difference = if self.source != old.source {
            format!("it read {}, the job file now says {}", old.source, self.source)
        } else if self.sink != old.sink {
            format!("it wrote to {}, the job file now says {}", old.sink, self.sink)
        } else if let Some(difference) = self.column_difference(old) {
            difference
        } else if let Some(difference) = self.state_difference(old) {
            difference
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Conflict, format!("the checkpoint belongs to another query: {difference}"))
            .help("undo the change, or give the changed query a checkpointLocation and a path of its own"))
    }

    fn state_difference(&self, old: &Self) -> Option<String> {
        let (before, after) = (old.state.join("\n"), self.state.join("\n"));
        let (mut before, mut after) = (before.lines(), after.lines());
        loop {
            match (before.next(), after.next()) {
                (None, None) => return None,
                (before, after) if before == after => {}
                (before, after) => {
                    let shown = |line: Option<&str>| line.map_or("nothing".to_owned(), |line| line.trim().to_owned());
                    let (before, after) = (shown(before), shown(after));
                    return Some(format!("its state was made by {before}, the query now has {after}"));
                }
            }
        }
    }

    fn column_difference(&self, old: &Self) -> Option<String> {
        for (old, new) in old.columns.iter().zip(&self.columns) {
            if old != new {
                return Some(format!("its column {:?} {} is now {:?} {}", old.0, old.1, new.0, new.1));
            }
        }
        let (before, after) = (old.columns.len(), self.columns.len());
        if let Some((name, _)) = self.columns.get(before) {
            return Some(format!("the column {name:?} is new"));
        }
        old.columns.get(after).map(|(name, _)| format!("its column {name:?} is gone"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_difference() {
        let columns = |names: &[&str]| names.iter().map(|n| ((*n).to_owned(), "Float64".to_owned())).collect();
        let old = Fingerprint {
            version: 1,
            source: "KafkaV2[Subscribe[a]]".into(),
            sink: "file:///o".into(),
            columns: columns(&["x", "y"]),
            select: "SELECT x, y FROM a".into(),
            state: Vec::new(),
        };
        let with = |names: &[&str]| Fingerprint { columns: columns(names), ..old.clone() };
        assert!(Fingerprint { select: "other".into(), ..old.clone() }.check(&old).is_ok());
        for (new, expected) in [
            (with(&["x", "z"]), "column \"y\" Float64 is now \"z\""),
            (with(&["x", "y", "z"]), "\"z\" is new"),
            (with(&["x"]), "\"y\" is gone"),
            (Fingerprint { source: "KafkaV2[Subscribe[b]]".into(), ..old.clone() }, "Subscribe[b]"),
            (Fingerprint { sink: "file:///p".into(), ..old.clone() }, "file:///p"),
        ] {
            let error = new.check(&old).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
