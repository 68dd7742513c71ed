//! Why nothing comes out: one plain sentence. Pure.

use super::{
    report::{Answer, EventTimeReport, NextClose, PartitionReport, Reason, Situation, Span, iso_ms, iso_us},
    text::{ago, count, rough},
};
use crate::{checkpoint::Ledger, event_time::Holder, window::duration};

/// A running job needs no longer than this from one batch to the next, unless its trigger is longer.
const RUNNING_MS_MAX: i64 = 60_000;

impl Situation {
    /// What has to happen for the next rows to appear.
    pub fn answer(&self) -> Answer {
        if !self.lost.is_empty() && self.fail_on_data_loss {
            let sentence = format!("the job cannot go on: {}", self.lost.join("; "));
            return answer(Reason::DataLoss, sentence)
                .hint("set 'failOnDataLoss' = 'false' to go on without the lost records");
        }
        if let Some(under_way) = self.under_way {
            return self.under_way(under_way.id, under_way.started_ms);
        }
        if self.waiting > 0 {
            return self.records_wait();
        }
        match (&self.state.last_batch, self.next_rows(), &self.event_time) {
            (None, ..) => self.no_records(),
            (_, Some(next), Some(event_time)) => self.windows_wait(next, event_time),
            (Some(_), ..) if self.next_emission_ms().is_some() => self.period_waits(),
            (Some(batch), ..) => {
                // The last batch may have closed windows only.
                let recent = if batch.ledger.consumed > 0 { batch.ledger } else { batch.totals };
                self.nothing_open(&recent)
            }
        }
    }

    fn next_rows(&self) -> Option<NextClose> {
        self.state.windows.as_ref()?.next_rows
    }

    fn next_emission_ms(&self) -> Option<i64> {
        self.state.windows.as_ref()?.next_emission_ms
    }

    fn period_waits(&self) -> Answer {
        let next_ms = self.next_emission_ms().unwrap_or(self.now_ms);
        let left_ms = next_ms.saturating_sub(self.now_ms);
        let when = if left_ms > 0 { format!("in {}", rough(left_ms)) } else { "with the next batch".to_owned() };
        let sentence = format!(
            "every record that came is read, and groups have changed: a running job writes them {when}, at {} \
             (EMIT PERIODIC)",
            iso_ms(next_ms)
        );
        answer(Reason::Period, sentence).hint("start the job if it does not run; a shorter period writes them sooner")
    }

    fn under_way(&self, id: u64, started_ms: i64) -> Answer {
        let since = ago(self.now_ms, started_ms);
        if self.now_ms.saturating_sub(started_ms) < RUNNING_MS_MAX {
            let sentence = format!("batch {id} began {since}: its rows appear when it is done");
            return answer(Reason::UnderWay, sentence);
        }
        let sentence = format!(
            "batch {id} began {since} and is not done: it is large, or the job ended in the middle of it and runs it \
             again when it is started"
        );
        answer(Reason::UnderWay, sentence).hint("start the job if it does not run")
    }

    fn records_wait(&self) -> Answer {
        let mut waiting = format!("{} in Kafka not read yet", are(self.waiting, "record"));
        let most = self.partitions.iter().max_by_key(|partition| partition.behind);
        if let Some(most) = most.filter(|most| most.behind < self.waiting) {
            waiting += &format!(" (most of them, {}, in {})", most.behind, name(most));
        }
        if let Some(min) = self.min_offsets.filter(|min| self.state.last_batch.is_some() && self.waiting < *min) {
            let sentence = format!("{waiting}, and the next batch waits for {min} (minOffsetsPerTrigger)");
            return answer(Reason::RecordsWaiting, sentence).hint("a smaller maxTriggerDelay lets it begin sooner");
        }
        let then = match self.next_rows() {
            Some(next) => format!("; the first open window, {}, is written {}", show(next.window), closes(next)),
            None => String::new(),
        };
        match &self.state.last_batch {
            Some(batch) if self.now_ms.saturating_sub(batch.started_ms) < RUNNING_MS_MAX => {
                let since = ago(self.now_ms, batch.started_ms);
                let sentence = format!("{waiting}: the next batch reads them; the last one began {since}{then}");
                answer(Reason::RecordsWaiting, sentence)
            }
            Some(batch) => {
                let since = ago(self.now_ms, batch.started_ms);
                let sentence = format!(
                    "{waiting}, and the last batch began {since}: the job does not run, or waits for its trigger{then}"
                );
                answer(Reason::RecordsWaiting, sentence).hint("start the job if it does not run")
            }
            None => {
                let sentence = format!("{waiting}: no batch has been run with this checkpoint");
                answer(Reason::RecordsWaiting, sentence).hint("start the job")
            }
        }
    }

    fn no_records(&self) -> Answer {
        if self.before_start > 0 {
            let sentence = format!(
                "no record has come since the query's start: {} in {} before it",
                are(self.before_start, "record"),
                self.source
            );
            return answer(Reason::NoRecords, sentence)
                .hint("startingOffsets = 'earliest' reads them, in a query that has not begun yet");
        }
        answer(
            Reason::NoRecords,
            format!("there is no record in {}: rows appear when the first ones come", self.source),
        )
    }

    fn windows_wait(&self, next: NextClose, event_time: &EventTimeReport) -> Answer {
        let window = format!("the window {}", show(next.window));
        if event_time.watermark_ms.is_some_and(|watermark_ms| watermark_ms >= next.watermark_ms) {
            let sentence = format!("{window} can be closed: the next batch writes its rows");
            return answer(Reason::NextBatch, sentence).hint("start the job if it does not run");
        }
        let now = match event_time.watermark_ms {
            Some(watermark_ms) => format!("it is at {}", iso_ms(watermark_ms)),
            None => "there is none yet".to_owned(),
        };
        let waits = format!("{window} is written {}, and {now}", closes(next));
        let needed_us = next.watermark_ms.saturating_mul(1000).saturating_add(event_time.delay_us);
        match &event_time.holder {
            Holder::Partition { topic, partition } => {
                let holds = |it: &&PartitionReport| {
                    it.table == event_time.table && it.topic == *topic && it.partition == *partition
                };
                match self.partitions.iter().find(holds) {
                    Some(held_by) => self.partition_holds(&waits, held_by, (next, needed_us), event_time),
                    None => answer(Reason::PartitionHolds, waits),
                }
            }
            Holder::WallClock => {
                let left_ms = next.watermark_ms.saturating_sub(event_time.watermark_ms.unwrap_or(0));
                let sentence = format!(
                    "{waits}: no events come, and the watermark goes on with the wall clock, so a running job writes it \
                     in {}",
                    rough(left_ms)
                );
                answer(Reason::WallClock, sentence)
            }
            Holder::Nothing => {
                let idle = duration(event_time.idle_timeout_ms.saturating_mul(1000));
                let sentence = format!(
                    "{waits}: the table {} has had no event yet; its first one lets it go on, or {idle} without one \
                     (idleTimeout) of a running job",
                    event_time.table
                );
                answer(Reason::SourceHolds, sentence)
            }
            Holder::AllIdle => {
                let sentence = format!(
                    "{waits}: no partition has had an event for {} (idleTimeout), so the watermark stays until an event \
                     at or after {} comes",
                    duration(event_time.idle_timeout_ms.saturating_mul(1000)),
                    iso_us(needed_us)
                );
                answer(Reason::AllIdle, sentence)
                    .hint("idleWatermark = 'advance' lets the wall clock close windows when no events come")
            }
        }
    }

    fn partition_holds(
        &self,
        waits: &str,
        held_by: &PartitionReport,
        (next, needed_us): (NextClose, i64),
        event_time: &EventTimeReport,
    ) -> Answer {
        let newest_us = held_by.newest_us.unwrap_or(i64::MIN);
        let active_ms = held_by.active_ms.unwrap_or(self.now_ms);
        let others_are_there = self
            .partitions
            .iter()
            .filter(|it| !it.idle && it.newest_us.is_some() && (&it.table, name(it)) != (&held_by.table, name(held_by)))
            .map(|it| it.newest_us)
            .min()
            .is_some_and(|newest| newest >= Some(needed_us));
        let mut sentence = format!(
            "{waits}: {} holds it, whose newest event is of {} and came {}; its next event at or after {} lets it go on",
            name(held_by),
            iso_us(newest_us),
            ago(self.now_ms, active_ms),
            iso_us(needed_us)
        );
        let delay = duration(event_time.delay_us);
        if others_are_there {
            let left_ms = event_time.idle_timeout_ms.saturating_sub(self.now_ms.saturating_sub(active_ms));
            sentence += &format!(", or {} more without events of it (idleTimeout)", rough(left_ms.max(0)));
            return answer(Reason::PartitionHolds, sentence)
                .hint("a smaller idleTimeout lets the other partitions go on sooner without it");
        }
        let hint = if newest_us >= next.window.end_us && event_time.delay_us > 0 {
            format!("a smaller delay than {delay} in WATERMARK FOR lets windows close sooner")
        } else if event_time.advances_when_idle {
            let idle = duration(event_time.idle_timeout_ms.saturating_mul(1000));
            format!(
                "without events the watermark goes on with the wall clock after {idle} (a smaller idleTimeout: sooner)"
            )
        } else {
            "if no more events come, idleWatermark = 'advance' lets the wall clock close windows".to_owned()
        };
        answer(Reason::PartitionHolds, sentence).hint(hint)
    }

    /// Everything was read, and no window is open.
    fn nothing_open(&self, recent: &Ledger) -> Answer {
        let Ledger { consumed, written, filtered, bad, late, .. } = *recent;
        let (letters, late_rows) = match &self.state.last_batch {
            Some(batch) => (batch.dead_letters.as_str(), batch.late.as_deref().unwrap_or_default()),
            None => ("", ""),
        };
        if consumed > 0 && written == 0 && recent.held == 0 {
            if late > 0 {
                let sentence = format!(
                    "{} of the last {} came after their windows had been closed, and no window is open",
                    count(late, "row"),
                    count(consumed, "record")
                );
                return answer(Reason::AllLate, sentence).hint(format!(
                    "they are in {late_rows}, each with the reason; a larger delay in WATERMARK FOR waits longer"
                ));
            }
            if bad == consumed {
                let sentence = format!("the last {} could not be used: not one gave a row", count(consumed, "record"));
                return answer(Reason::AllBad, sentence).hint(format!("they are in {letters}, each with the reason"));
            }
            if filtered > 0 {
                let sentence = format!(
                    "the last {} gave no row: the query's WHERE left {filtered} of them out, {bad} could not be used",
                    count(consumed, "record")
                );
                return answer(Reason::AllFiltered, sentence)
                    .hint("compare the WHERE with what `tidemill query` shows of the topic");
            }
        }
        let waits = self.state.windows.as_ref().is_some_and(|windows| windows.output_mode == "append");
        let done = if waits { "and no window is open" } else { "and its rows are written" };
        let sentence = format!("every record that came is read, {done}: the next rows appear after new records");
        answer(Reason::NothingNew, sentence)
    }
}

fn answer(reason: Reason, sentence: String) -> Answer {
    Answer { reason, sentence, hint: None }
}

impl Answer {
    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

fn are(number: u64, what: &str) -> String {
    format!("{} {}", count(number, what), if number == 1 { "is" } else { "are" })
}

fn name(partition: &PartitionReport) -> String {
    format!("{}-{}", partition.topic, partition.partition)
}

/// `[2025-01-01T00:00:00Z, 2025-01-01T00:01:00Z)`
fn show(window: Span) -> String {
    format!("[{}, {})", iso_us(window.start_us), iso_us(window.end_us))
}

fn closes(next: NextClose) -> String {
    format!("when the watermark reaches {}", iso_ms(next.watermark_ms))
}
