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
    /// Of a query with state: what it writes. Before there were others it was `append`.
    #[serde(default = "append")]
    pub output_mode: String,
    /// Of a query with state: windows that the watermark has passed are forgotten.
    #[serde(default = "yes")]
    pub forgets: bool,
    /// The state before this batch was given up: it starts empty.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reset: bool,
}

fn another(difference: &str) -> Error {
    Error::new(ErrorKind::Conflict, format!("the checkpoint belongs to another query: {difference}"))
}

fn append() -> String {
    "append".to_owned()
}

fn yes() -> bool {
    true
}

impl Fingerprint {
    /// May a query with the fingerprint `self` go on where `old` stopped?
    ///
    /// # Errors
    /// `Conflict`, naming the exact difference and the way out.
    pub fn check(&self, old: &Self) -> Result<()> {
        self.check_but_state(old)?;
        match self.state_difference(old).or_else(|| self.mode_difference(old)) {
            Some(difference) => Err(another(&difference).help(
                "undo the change; or give the changed query a checkpointLocation and a path of its own; or give the state \
                 up, once, with `tidemill stream JOB.sql --reset-state TABLE`: the windows that are open then begin anew",
            )),
            None => Ok(()),
        }
    }

    /// May it do so if the state is given up?
    ///
    /// # Errors
    /// As `check`.
    pub fn check_but_state(&self, old: &Self) -> Result<()> {
        let difference = if self.source != old.source {
            format!("it read {}, the job file now says {}", old.source, self.source)
        } else if self.sink != old.sink {
            format!("it wrote to {}, the job file now says {}", old.sink, self.sink)
        } else if let Some(difference) = self.column_difference(old) {
            difference
        } else {
            return Ok(());
        };
        Err(another(&difference)
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

    /// Update and complete keep the same state; append has written rows that it holds no more.
    fn mode_difference(&self, old: &Self) -> Option<String> {
        let (before, after) = (&old.output_mode, &self.output_mode);
        if self.state.is_empty() || (before == after && self.forgets == old.forgets) {
            return None;
        }
        let appends = |mode: &str| mode == "append";
        if appends(before) != appends(after) {
            return Some(format!("its state was kept for output mode {before}, the query now says {after}"));
        }
        (old.forgets && !self.forgets).then(|| {
            format!(
                "in output mode {before} it forgot the windows that its WATERMARK had passed, and in output mode {after} \
                 the query now needs all of them"
            )
        })
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
            output_mode: "append".into(),
            forgets: true,
            reset: false,
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
        // Without state all modes are one.
        assert!(Fingerprint { output_mode: "update".into(), forgets: false, ..old.clone() }.check(&old).is_ok());
    }

    #[test]
    fn update_and_complete_go_on_where_the_other_stopped_unless_something_was_forgotten() {
        let of = |output_mode: &str, forgets| Fingerprint {
            version: 1,
            source: "s".into(),
            sink: "k".into(),
            columns: Vec::new(),
            select: String::new(),
            state: vec!["Aggregate: count(*)".into()],
            output_mode: output_mode.into(),
            forgets,
            reset: false,
        };
        let modes = [of("append", true), of("update", true), of("update", false), of("complete", false)];
        let goes_on = |old: usize| modes.iter().map(|new| new.check(&modes[old]).is_ok()).collect::<Vec<_>>();
        assert_eq!(goes_on(0), [true, false, false, false]);
        assert_eq!(goes_on(1), [false, true, false, false]);
        assert_eq!(goes_on(2), [false, true, true, true]);
        assert_eq!(goes_on(3), [false, true, true, true]);
        let error = modes[1].check(&modes[0]).unwrap_err().to_string();
        assert!(error.contains("for output mode append, the query now says update"), "{error}");
        assert!(modes[1].check_but_state(&modes[0]).is_ok());
        let error = modes[3].check(&modes[1]).unwrap_err().to_string();
        assert!(error.contains("it forgot the windows") && error.contains("output mode complete"), "{error}");
        let old: Fingerprint = serde_json::from_str(
            r#"{"version":1,"source":"s","sink":"k","columns":[],"select":"","state":["Aggregate: count(*)"]}"#,
        )
        .unwrap();
        assert!(modes[0].check(&old).is_ok());
    }
}
