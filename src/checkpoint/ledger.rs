//! Every record accounted for.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// The counts of one batch, or of all batches so far:
/// `consumed + expanded + released = written + folded + filtered + late + bad + held + reset`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Records read from Kafka.
    pub consumed: u64,
    /// Rows written to the sink, of which each record is in one at most, but for those that are in several windows.
    pub written: u64,
    /// Records that the query's WHERE (or inner join) left out.
    pub filtered: u64,
    /// Records that could not be decoded.
    pub bad: u64,
    /// Rows above one per record: from UNNEST, from joins, and from reading a table more than once.
    pub expanded: u64,
    /// Rows that came too late for their windows, or have no event time, or one too far in the future.
    #[serde(default)]
    pub late: u64,
    /// Rows that went into the state.
    #[serde(default)]
    pub held: u64,
    /// Rows that left the state, because the windows that needed them closed. In state are `held - released`.
    #[serde(default)]
    pub released: u64,
    /// Rows that aggregates folded into the rows that were written, above one each.
    #[serde(default)]
    pub folded: u64,
    /// Rows of the state that were given up with it (`--reset-state`); they are released too.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reset: u64,
    /// Rows written to the sink that say anew what a group is, in the output modes update and complete. They stand beside
    /// the equation: a record counts in many of them, and stays in the state.
    #[serde(default)]
    pub emitted: u64,
    /// Offsets without a record: transaction markers, aborted and compacted records, and what Kafka deleted before
    /// it was read (only with `failOnDataLoss` = false).
    pub gaps: u64,
    /// Offsets that were gone back, because a topic was created again (only with `failOnDataLoss` = false).
    pub rewound: u64,
}

fn is_zero(rows: &u64) -> bool {
    *rows == 0
}

/// What an operator with state did in one batch, in input rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StateCounts {
    pub late: u64,
    pub held: u64,
    pub released: u64,
    /// A group is written as often as it changes: what is written says nothing of what leaves the state.
    pub again: bool,
}

/// What a batch read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Read {
    /// Records.
    pub consumed: u64,
    /// Of these gave no row.
    pub bad: u64,
    /// Rows above one per record, because the query reads a table more than once.
    pub again: u64,
    /// Offsets without a record.
    pub gaps: u64,
}

impl Read {
    /// The rows that the query began with.
    fn rows(&self) -> u64 {
        self.consumed - self.bad.min(self.consumed) + self.again
    }
}

impl Ledger {
    /// The ledger of a batch that wrote `written` rows.
    pub fn of_batch(read: Read, written: u64) -> Self {
        let rows = read.rows();
        Self {
            consumed: read.consumed,
            written,
            filtered: rows.saturating_sub(written),
            bad: read.bad,
            expanded: read.again + written.saturating_sub(rows),
            gaps: read.gaps,
            ..Self::default()
        }
    }

    /// The ledger of a batch with state. Of the rows that came in, `held` went into the state; `released` left it and
    /// became `written` rows.
    pub fn of_stateful(read: Read, state: StateCounts, written: u64) -> Self {
        let rows = read.rows();
        let StateCounts { late, held, released, again } = state;
        let (written, emitted) = if again { (0, written) } else { (written, 0) };
        Self {
            consumed: read.consumed,
            written,
            filtered: rows.saturating_sub(late + held),
            bad: read.bad,
            late,
            held,
            released,
            folded: released.saturating_sub(written),
            // A row may be in several windows, and UNNEST gives several rows for a record.
            expanded: read.again + written.saturating_sub(released) + (late + held).saturating_sub(rows),
            reset: 0,
            emitted,
            gaps: read.gaps,
            rewound: 0,
        }
    }

    /// The same after `rows` of the state were given up.
    #[must_use]
    pub fn with_reset(self, rows: u64) -> Self {
        Self { released: self.released + rows, reset: self.reset + rows, ..self }
    }

    /// Rows that are in the state.
    pub fn in_state(&self) -> u64 {
        self.held.saturating_sub(self.released)
    }

    /// Rows that went to the sink.
    pub fn output_rows(&self) -> u64 {
        self.written + self.emitted
    }

    /// The equation in words; without the terms that only state has, for queries that have none.
    pub fn equation(&self) -> String {
        let Self { consumed, written, filtered, bad, expanded, late, held, released, folded, emitted, .. } = self;
        let emitted = if *emitted > 0 { format!("; {emitted} rows of groups emitted") } else { String::new() };
        let reset = if self.reset > 0 { format!(" + reset {}", self.reset) } else { String::new() };
        if late + held + released + folded > 0 {
            return format!(
                "consumed {consumed} + expanded {expanded} + released {released} = written {written} + folded {folded} + \
                 filtered {filtered} + late {late} + bad {bad} + held {held}{reset}; {} in state{emitted}",
                self.in_state()
            );
        }
        let expanded = if *expanded > 0 { format!(" + expanded {expanded}") } else { String::new() };
        format!("consumed {consumed}{expanded} = written {written} + filtered {filtered} + bad {bad}")
    }

    /// Does the equation hold?
    pub fn balances(&self) -> bool {
        self.consumed + self.expanded + self.released
            == self.written + self.folded + self.filtered + self.late + self.bad + self.held + self.reset
    }
}

impl AddAssign for Ledger {
    fn add_assign(&mut self, other: Self) {
        self.consumed += other.consumed;
        self.written += other.written;
        self.filtered += other.filtered;
        self.bad += other.bad;
        self.expanded += other.expanded;
        self.late += other.late;
        self.held += other.held;
        self.released += other.released;
        self.folded += other.folded;
        self.reset += other.reset;
        self.emitted += other.emitted;
        self.gaps += other.gaps;
        self.rewound += other.rewound;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(consumed: u64, gaps: u64, bad: u64) -> Read {
        Read { consumed, gaps, bad, again: 0 }
    }

    #[test]
    fn a_record_that_is_read_twice_is_consumed_once() {
        // Two branches of ten rows each, of which one keeps six.
        let ledger = Ledger::of_batch(Read { consumed: 11, bad: 1, again: 10, gaps: 0 }, 16);
        assert!(ledger.balances(), "{ledger:?}");
        assert_eq!(ledger.equation(), "consumed 11 + expanded 10 = written 16 + filtered 4 + bad 1");
        let state = StateCounts { late: 1, held: 17, released: 3, again: false };
        let ledger = Ledger::of_stateful(Read { consumed: 11, bad: 1, again: 10, gaps: 0 }, state, 1);
        assert!(ledger.balances() && (ledger.expanded, ledger.filtered) == (10, 2), "{ledger:?}");
    }

    #[test]
    fn balances_with_filters_bad_records_and_unnest() {
        for (consumed, bad, written) in [(10, 2, 8), (10, 2, 3), (10, 0, 25), (0, 0, 0), (5, 5, 0)] {
            let ledger = Ledger::of_batch(read(consumed, 1, bad), written);
            assert!(ledger.balances(), "{ledger:?}");
        }
        for (late, held, released, written) in [(1, 7, 0, 0), (0, 10, 4, 1), (0, 0, 9, 20), (2, 12, 0, 0)] {
            let ledger =
                Ledger::of_stateful(read(10, 0, 1), StateCounts { late, held, released, again: false }, written);
            assert!(ledger.balances(), "{ledger:?}");
        }
        let again = StateCounts { late: 1, held: 7, released: 3, again: true };
        let ledger = Ledger::of_stateful(read(10, 0, 1), again, 100);
        assert!(ledger.balances(), "{ledger:?}");
        assert_eq!((ledger.written, ledger.emitted, ledger.folded, ledger.output_rows()), (0, 100, 3, 100));
        assert_eq!(
            Ledger::of_batch(read(10, 0, 1), 12).equation(),
            "consumed 10 + expanded 3 = written 12 + filtered 0 + bad 1"
        );
        assert_eq!(
            Ledger::of_stateful(read(4, 0, 0), StateCounts { held: 4, released: 4, ..StateCounts::default() }, 5)
                .equation(),
            "consumed 4 + expanded 1 + released 4 = written 5 + folded 0 + filtered 0 + late 0 + bad 0 + held 4; 0 in state"
        );
        let state = StateCounts { held: 4, released: 1, ..StateCounts::default() };
        let reset = Ledger::of_stateful(read(4, 0, 0), state, 1).with_reset(3);
        assert!(reset.balances() && reset.in_state() == 0, "{reset:?}");
        assert!(reset.equation().ends_with("+ held 4 + reset 3; 0 in state"), "{}", reset.equation());
        assert!(!Ledger { consumed: 1, ..Ledger::default() }.balances());
    }
}
