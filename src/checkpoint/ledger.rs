//! Every record accounted for.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// The counts of one batch, or of all batches so far. `consumed + expanded = written + filtered + bad`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Records read from Kafka.
    pub consumed: u64,
    /// Rows written to the sink.
    pub written: u64,
    /// Records that the query's WHERE (or inner join) left out.
    pub filtered: u64,
    /// Records that could not be decoded.
    pub bad: u64,
    /// Rows above one per record, from UNNEST.
    pub expanded: u64,
    /// Offsets without a record: transaction markers, aborted and compacted records, and what Kafka deleted before
    /// it was read (only with `failOnDataLoss` = false).
    pub gaps: u64,
    /// Offsets that were gone back, because a topic was created again (only with `failOnDataLoss` = false).
    pub rewound: u64,
}

impl Ledger {
    /// The ledger of a batch that read `consumed` records, of which `bad` gave no row, and wrote `written` rows.
    pub fn of_batch(consumed: u64, gaps: u64, bad: u64, written: u64) -> Self {
        let decoded = consumed - bad.min(consumed);
        Self {
            consumed,
            written,
            filtered: decoded.saturating_sub(written),
            bad,
            expanded: written.saturating_sub(decoded),
            gaps,
            rewound: 0,
        }
    }

    /// Does the equation hold?
    pub fn balances(&self) -> bool {
        self.consumed + self.expanded == self.written + self.filtered + self.bad
    }
}

impl AddAssign for Ledger {
    fn add_assign(&mut self, other: Self) {
        self.consumed += other.consumed;
        self.written += other.written;
        self.filtered += other.filtered;
        self.bad += other.bad;
        self.expanded += other.expanded;
        self.gaps += other.gaps;
        self.rewound += other.rewound;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balances_with_filters_bad_records_and_unnest() {
        for (consumed, bad, written) in [(10, 2, 8), (10, 2, 3), (10, 0, 25), (0, 0, 0), (5, 5, 0)] {
            let ledger = Ledger::of_batch(consumed, 1, bad, written);
            assert!(ledger.balances(), "{ledger:?}");
        }
        assert!(!Ledger { consumed: 1, ..Ledger::default() }.balances());
    }
}
