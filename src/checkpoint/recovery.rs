//! What a start has to do: a pure function from what the checkpoint and the sink's log hold.

use crate::error::{Error, ErrorKind, Result};

/// What a listing shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Batch ids in `offsets`, ascending.
    pub offsets: Vec<u64>,
    pub prepared: Vec<u64>,
    pub commits: Vec<u64>,
    /// The newest batch in the output's `_spark_metadata`; `None` without a log, or for a sink that has none.
    pub sink_log: Option<u64>,
    /// Whether the sink keeps such a log at all.
    pub keeps_sink_log: bool,
    /// Whether Tidemill, not Spark, wrote the newest file of the offset log.
    pub latest_is_ours: bool,
}

/// What to do first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// A new query: batch 0 is next.
    Fresh,
    /// Everything is done up to the batch before this one.
    Next(u64),
    /// This batch was started and has no result: run its offsets again.
    RunAgain(u64),
    /// This batch's result is fixed: finish publishing and committing it.
    RollForward(u64),
    /// The sink's log has the batch (Spark wrote it and died): only its commit is missing.
    CommitOnly(u64),
}

impl Decision {
    /// The newest batch that the checkpoint knows, done or not.
    pub fn latest(self) -> Option<u64> {
        match self {
            Self::Fresh => None,
            Self::Next(batch) => batch.checked_sub(1),
            Self::RunAgain(batch) | Self::RollForward(batch) | Self::CommitOnly(batch) => Some(batch),
        }
    }
}

/// Decides.
///
/// # Errors
/// `Corrupt` when files are missing that the others prove to have been there; `Conflict` when the output belongs to
/// another checkpoint. Both say what was found and what to do.
pub fn decide(facts: &Facts) -> Result<Decision> {
    if let (false, Some(id)) = (facts.keeps_sink_log, facts.sink_log) {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "sparkMetadata is false, but the output has a log up to batch {id}: its readers would miss new files"
            ),
        )
        .help("leave sparkMetadata on for this output, or write to another path"));
    }
    let (offsets, prepared, commits) = (facts.offsets.last(), facts.prepared.last(), facts.commits.last());
    let Some(&latest) = offsets else {
        if let Some(id) = prepared.or(commits) {
            return Err(corrupt(format!("batch {id} was prepared or committed, but the offset log is empty")));
        }
        return match facts.sink_log {
            None => Ok(Decision::Fresh),
            Some(id) => Err(Error::new(
                ErrorKind::Conflict,
                format!("the checkpoint is new, but the output has a log up to batch {id}: another query wrote it"),
            )
            .help(
                "give the checkpointLocation that wrote this output, or write to another path \
                 (Spark would skip your first batches here, in silence)",
            )),
        };
    };
    if let Some(&id) = prepared.into_iter().chain(commits).max()
        && id > latest
    {
        return Err(corrupt(format!("batch {id} was prepared or committed, but offsets/{id} is missing")));
    }
    let committed = commits.copied();
    if committed == Some(latest) {
        check_sink_log(facts, latest, latest)?;
        return Ok(Decision::Next(latest + 1));
    }
    let expected = latest.checked_sub(1);
    if committed != expected {
        let missing = committed.map_or(0, |id| id + 1);
        return Err(corrupt(format!("offsets/{latest} is there, but commits/{missing} is missing")));
    }
    if let Some(previous) = expected {
        if !facts.offsets.contains(&previous) {
            return Err(corrupt(format!(
                "offsets/{latest} is there, but offsets/{previous}, where it starts, is missing"
            )));
        }
        check_sink_log(facts, previous, latest)?;
    } else if facts.sink_log.is_some_and(|id| id > latest) {
        check_sink_log(facts, latest, latest)?;
    }
    if prepared == Some(&latest) {
        return Ok(Decision::RollForward(latest));
    }
    if facts.sink_log == Some(latest) {
        if facts.latest_is_ours {
            // We write prepared/N before the log, so these files are not ours.
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "the output's log has batch {latest}, but this checkpoint never prepared it: another query wrote it"
                ),
            )
            .help("one output, one checkpoint: give the changed query a path and a checkpointLocation of its own"));
        }
        return Ok(Decision::CommitOnly(latest));
    }
    Ok(Decision::RunAgain(latest))
}

/// The sink's log must end between the last batch that is surely in it and the last that may be.
fn check_sink_log(facts: &Facts, at_least: u64, at_most: u64) -> Result<()> {
    if !facts.keeps_sink_log {
        return Ok(());
    }
    match facts.sink_log {
        Some(id) if id > at_most => Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "the output's log goes up to batch {id}, the checkpoint only to {at_most}: another query writes there"
            ),
        )
        .help("one output, one checkpoint: write to another path, or give the checkpoint that belongs to this output")),
        Some(id) if id < at_least => Err(Error::corrupt(format!(
            "the output's log ends at batch {id}, but the checkpoint has committed batch {at_least}: \
             files of _spark_metadata are missing"
        ))
        .help("restore the output directory, or start anew with another path and checkpointLocation")),
        None => Err(Error::corrupt(format!(
            "the checkpoint has committed batch {at_least}, but the output has no _spark_metadata: \
             the directory was moved, emptied or is another one"
        ))
        .help("restore the output directory, or start anew with another path and checkpointLocation")),
        Some(_) => Ok(()),
    }
}

fn corrupt(what: String) -> Error {
    Error::corrupt(what).help(
        "files of the checkpoint are missing: restore the directory from a backup, \
         or start anew with another path and checkpointLocation",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(offsets: &[u64], prepared: &[u64], commits: &[u64], sink_log: Option<u64>) -> Facts {
        Facts {
            offsets: offsets.to_vec(),
            prepared: prepared.to_vec(),
            commits: commits.to_vec(),
            sink_log,
            keeps_sink_log: true,
            latest_is_ours: false,
        }
    }

    #[test]
    fn follows_the_protocol_step_by_step() {
        assert_eq!(decide(&facts(&[], &[], &[], None)).unwrap(), Decision::Fresh);
        assert_eq!(decide(&facts(&[0], &[], &[], None)).unwrap(), Decision::RunAgain(0));
        assert_eq!(decide(&facts(&[0], &[0], &[], None)).unwrap(), Decision::RollForward(0));
        assert_eq!(decide(&facts(&[0], &[0], &[], Some(0))).unwrap(), Decision::RollForward(0));
        assert_eq!(decide(&facts(&[0], &[0], &[0], Some(0))).unwrap(), Decision::Next(1));
        assert_eq!(decide(&facts(&[0, 1], &[0], &[0], Some(0))).unwrap(), Decision::RunAgain(1));
        assert_eq!(decide(&facts(&[0, 1], &[0, 1], &[0], Some(0))).unwrap(), Decision::RollForward(1));
        assert_eq!(decide(&facts(&[0, 1], &[0, 1], &[0], Some(1))).unwrap(), Decision::RollForward(1));
        assert_eq!(decide(&facts(&[0, 1], &[0, 1], &[0, 1], Some(1))).unwrap(), Decision::Next(2));
    }

    #[test]
    fn takes_over_from_spark() {
        assert_eq!(decide(&facts(&[3, 4], &[], &[3, 4], Some(4))).unwrap(), Decision::Next(5));
        assert_eq!(decide(&facts(&[3, 4], &[], &[3], Some(4))).unwrap(), Decision::CommitOnly(4));
        assert_eq!(decide(&facts(&[3, 4], &[], &[3], Some(3))).unwrap(), Decision::RunAgain(4));
    }

    #[test]
    fn a_log_of_another_query_is_never_taken_for_ours() {
        let started = Facts { latest_is_ours: true, ..facts(&[0], &[], &[], Some(0)) };
        assert_eq!(decide(&started).unwrap_err().kind(), ErrorKind::Conflict);
        let unlogged = Facts { keeps_sink_log: false, ..facts(&[0], &[0], &[0], Some(0)) };
        assert_eq!(decide(&unlogged).unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(decide(&Facts { sink_log: None, ..unlogged }).unwrap(), Decision::Next(1));
    }

    #[test]
    fn refuses_what_would_lose_or_double() {
        for (facts, kind) in [
            (facts(&[], &[], &[], Some(7)), ErrorKind::Conflict),
            (facts(&[], &[], &[3], Some(3)), ErrorKind::Corrupt),
            (facts(&[3], &[4], &[3], Some(3)), ErrorKind::Corrupt),
            (facts(&[3, 4], &[], &[1, 2], Some(3)), ErrorKind::Corrupt),
            (facts(&[4], &[], &[3], Some(3)), ErrorKind::Corrupt),
            (facts(&[3, 4], &[], &[3, 4], None), ErrorKind::Corrupt),
            (facts(&[3, 4], &[], &[3, 4], Some(3)), ErrorKind::Corrupt),
            (facts(&[3, 4], &[], &[3, 4], Some(5)), ErrorKind::Conflict),
            (facts(&[0], &[], &[], Some(5)), ErrorKind::Conflict),
        ] {
            assert_eq!(decide(&facts).unwrap_err().kind(), kind, "{facts:?}");
        }
    }

    #[test]
    fn every_listing_has_an_answer() {
        // All small listings: an answer or an explained refusal, and RollForward only for a prepared batch.
        let sets: Vec<Vec<u64>> = (0..8u64).map(|bits| (0..3).filter(|i| bits >> i & 1 == 1).collect()).collect();
        for offsets in &sets {
            for prepared in &sets {
                for commits in &sets {
                    for sink_log in [None, Some(0), Some(1), Some(2)] {
                        let facts = facts(offsets, prepared, commits, sink_log);
                        match decide(&facts) {
                            Ok(Decision::RollForward(id)) => assert!(prepared.contains(&id)),
                            Ok(Decision::RunAgain(id)) => {
                                assert!(!prepared.contains(&id) && !commits.contains(&id), "{facts:?}");
                            }
                            Ok(Decision::Next(id)) => assert!(commits.contains(&(id - 1))),
                            Ok(Decision::CommitOnly(id)) => assert_eq!(sink_log, Some(id)),
                            Ok(Decision::Fresh) => assert!(offsets.is_empty()),
                            Err(error) => assert!(error.to_string().contains("help:"), "{error}"),
                        }
                    }
                }
            }
        }
    }
}
