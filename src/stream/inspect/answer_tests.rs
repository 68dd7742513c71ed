//! Each situation has its sentence.

use super::report::{
    Answer, BatchReport, EventTimeReport, NextClose, PartitionReport, Reason, Situation, Span, StateReport, UnderWay,
    WindowsReport,
};
use crate::{
    checkpoint::{Ledger, Read, StateCounts},
    event_time::Holder,
};

const MINUTE_US: i64 = 60_000_000;
const NOW_MS: i64 = 1_000_000;

fn partition(number: i32, newest_s: i64, came_s: i64) -> PartitionReport {
    PartitionReport {
        topic: "t".into(),
        partition: number,
        newest_us: Some(newest_s * 1_000_000),
        active_ms: Some(NOW_MS - came_s * 1000),
        ..PartitionReport::default()
    }
}

/// All is read, two seconds ago, and written.
fn done(ledger: Ledger) -> Situation {
    let batch = BatchReport {
        id: 7,
        started_ms: NOW_MS - 2_000,
        ledger,
        totals: ledger,
        dead_letters: "file:///d".into(),
        late: None,
    };
    Situation {
        state: StateReport {
            query: "job.out".into(),
            checkpoint: Some("file:///c".into()),
            last_batch: Some(batch),
            windows: None,
        },
        now_ms: NOW_MS,
        source: "KafkaV2[Subscribe[t]]".into(),
        waiting: 0,
        before_start: 0,
        under_way: None,
        min_offsets: None,
        lost: Vec::new(),
        fail_on_data_loss: true,
        event_time: None,
        partitions: vec![PartitionReport { topic: "t".into(), ..PartitionReport::default() }],
    }
}

/// The window of the first minute is open; the delay is ten seconds, a partition is idle after thirty.
fn open(watermark_s: i64, holder: Holder, partitions: Vec<PartitionReport>) -> Situation {
    let counts = StateCounts { held: 5, ..StateCounts::default() };
    let mut situation = done(Ledger::of_stateful(Read { consumed: 5, gaps: 0, bad: 0, again: 0 }, counts, 0));
    let next = NextClose::of(Span { start_us: 0, end_us: MINUTE_US }, 0);
    situation.state.windows = Some(WindowsReport {
        forecast: None,
        output_mode: "append",
        watermark_ms: Some(watermark_s * 1000),
        aggregates: Vec::new(),
        next_rows: Some(next),
        next_emission_ms: None,
    });
    situation.event_time = Some(EventTimeReport {
        table: String::new(),
        column: "ts".into(),
        delay_us: 10_000_000,
        idle_timeout_ms: 30_000,
        advances_when_idle: holder == Holder::WallClock,
        watermark_ms: Some(watermark_s * 1000),
        holder,
    });
    situation.partitions = partitions;
    situation
}

fn by_partition(number: i32) -> Holder {
    Holder::Partition { topic: "t".into(), partition: number }
}

fn check(answer: &Answer, reason: Reason, sentence: &str, hint: Option<&str>) {
    assert_eq!((answer.reason, answer.sentence.as_str(), answer.hint.as_deref()), (reason, sentence, hint));
}

const WAITS: &str = "the window [1970-01-01T00:00:00Z, 1970-01-01T00:01:00Z) is written when the watermark reaches \
                     1970-01-01T00:01:00Z, and it is at 1970-01-01T00:00:30Z: ";

#[test]
fn a_slow_partition_is_named_and_how_long_it_may_be_silent() {
    let answer = open(30, by_partition(1), vec![partition(0, 90, 1), partition(1, 40, 12)]).answer();
    let sentence = format!(
        "{WAITS}t-1 holds it, whose newest event is of 1970-01-01T00:00:40Z and came 12 seconds ago; its next event at or \
         after 1970-01-01T00:01:10Z lets it go on, or 18 seconds more without events of it (idleTimeout)"
    );
    let hint = "a smaller idleTimeout lets the other partitions go on sooner without it";
    check(&answer, Reason::PartitionHolds, &sentence, Some(hint));
}

#[test]
fn without_others_ahead_idling_does_not_help() {
    let answer = open(30, by_partition(0), vec![partition(0, 40, 1)]).answer();
    assert!(!answer.sentence.contains("idleTimeout"), "{}", answer.sentence);
    assert!(answer.hint.unwrap().contains("idleWatermark = 'advance'"));
    // An idle partition that is ahead does not count: it is passed already.
    let idle = PartitionReport { idle: true, ..partition(1, 90, 100) };
    let answer = open(30, by_partition(0), vec![partition(0, 40, 1), idle]).answer();
    assert!(!answer.sentence.contains("idleTimeout"), "{}", answer.sentence);
    let answer = open(55, by_partition(0), vec![partition(0, 65, 1)]).answer();
    assert_eq!(answer.hint.unwrap(), "a smaller delay than 10 seconds in WATERMARK FOR lets windows close sooner");
}

#[test]
fn when_all_are_idle_the_next_event_or_the_clock_closes() {
    let answer = open(30, Holder::AllIdle, vec![partition(0, 40, 100)]).answer();
    let sentence = format!(
        "{WAITS}no partition has had an event for 30 seconds (idleTimeout), so the watermark stays until an event at or \
         after 1970-01-01T00:01:10Z comes"
    );
    let hint = "idleWatermark = 'advance' lets the wall clock close windows when no events come";
    check(&answer, Reason::AllIdle, &sentence, Some(hint));
    let answer = open(30, Holder::WallClock, vec![partition(0, 40, 100)]).answer();
    let sentence = format!(
        "{WAITS}no events come, and the watermark goes on with the wall clock, so a running job writes it in 30 seconds"
    );
    check(&answer, Reason::WallClock, &sentence, None);
}

#[test]
fn what_can_close_waits_for_the_job() {
    let answer = open(60, by_partition(0), vec![partition(0, 70, 1)]).answer();
    let sentence =
        "the window [1970-01-01T00:00:00Z, 1970-01-01T00:01:00Z) can be closed: the next batch writes its rows";
    check(&answer, Reason::NextBatch, sentence, Some("start the job if it does not run"));
}

#[test]
fn records_wait_for_a_batch_or_for_the_job() {
    let mut situation = done(Ledger::of_batch(Read { consumed: 5, gaps: 0, bad: 0, again: 0 }, 5));
    (situation.waiting, situation.partitions[0].behind) = (3, 3);
    let running = "3 records are in Kafka not read yet: the next batch reads them; the last one began 2 seconds ago";
    check(&situation.answer(), Reason::RecordsWaiting, running, None);
    situation.min_offsets = Some(100);
    assert!(situation.answer().sentence.ends_with("the next batch waits for 100 (minOffsetsPerTrigger)"));
    situation.min_offsets = None;
    situation.now_ms += 300_000;
    let stopped = "3 records are in Kafka not read yet, and the last batch began 5 minutes 2 seconds ago: the job does \
                   not run, or waits for its trigger";
    check(&situation.answer(), Reason::RecordsWaiting, stopped, Some("start the job if it does not run"));
    situation.state.last_batch = None;
    let never = "3 records are in Kafka not read yet: no batch has been run with this checkpoint";
    check(&situation.answer(), Reason::RecordsWaiting, never, Some("start the job"));
}

#[test]
fn a_batch_that_is_not_done_and_a_loss_come_first() {
    let mut situation = open(30, by_partition(0), vec![partition(0, 40, 1)]);
    situation.waiting = 9;
    situation.under_way = Some(UnderWay { id: 8, started_ms: NOW_MS - 4_000 });
    let sentence = "batch 8 began 4 seconds ago: its rows appear when it is done";
    check(&situation.answer(), Reason::UnderWay, sentence, None);
    situation.now_ms += 600_000;
    assert!(situation.answer().sentence.contains("is not done"));
    situation.lost = vec!["partition t-0 is gone".into()];
    let hint = "set 'failOnDataLoss' = 'false' to go on without the lost records";
    check(&situation.answer(), Reason::DataLoss, "the job cannot go on: partition t-0 is gone", Some(hint));
    situation.fail_on_data_loss = false;
    assert_eq!(situation.answer().reason, Reason::UnderWay);
}

#[test]
fn without_open_windows_it_says_what_became_of_the_last_records() {
    let reason = |ledger: Ledger| done(ledger).answer();
    assert_eq!(reason(Ledger::of_batch(Read { consumed: 5, gaps: 0, bad: 0, again: 0 }, 5)).reason, Reason::NothingNew);
    let filtered = "the last 5 records gave no row: the query's WHERE left 4 of them out, 1 could not be used";
    let answer = reason(Ledger::of_batch(Read { consumed: 5, gaps: 0, bad: 1, again: 0 }, 0));
    assert_eq!((answer.reason, answer.sentence.as_str()), (Reason::AllFiltered, filtered));
    let bad = "the last 5 records could not be used: not one gave a row";
    check(
        &reason(Ledger::of_batch(Read { consumed: 5, gaps: 0, bad: 5, again: 0 }, 0)),
        Reason::AllBad,
        bad,
        Some("they are in file:///d, each with the reason"),
    );
    let late = Ledger::of_stateful(
        Read { consumed: 5, gaps: 0, bad: 0, again: 0 },
        StateCounts { late: 5, ..StateCounts::default() },
        0,
    );
    let answer = reason(late);
    let sentence = "5 rows of the last 5 records came after their windows had been closed, and no window is open";
    assert_eq!((answer.reason, answer.sentence.as_str()), (Reason::AllLate, sentence));
}

#[test]
fn nothing_was_there_to_read() {
    let mut situation = done(Ledger::default());
    situation.state.last_batch = None;
    assert_eq!(situation.answer().reason, Reason::NoRecords);
    situation.before_start = 12;
    let hint = situation.answer().hint.unwrap();
    assert!(hint.starts_with("startingOffsets = 'earliest'"), "{hint}");
}

#[test]
fn the_text_shows_what_the_answer_follows_from() {
    let idle = PartitionReport { idle: true, ..partition(1, 40, 100) };
    let holds = PartitionReport { holds_watermark: true, ..partition(0, 40, 1) };
    let situation = open(30, by_partition(0), vec![holds, idle]);
    let text = situation.to_text();
    for expected in [
        "job.out\n  the window [",
        "\n  help: if no more events come",
        "\n  last batch     7, began 2 seconds ago: consumed 5 + ",
        "\n  watermark      1970-01-01T00:00:30Z, held by t-0; 10 seconds behind ts\n",
        "\n  next close     when it reaches 1970-01-01T00:01:00Z: 30 seconds of event time to go\n",
        "\n  t-0        0        1970-01-01T00:00:40Z  1 second ago             holds the watermark\n",
        "\n  t-1        0        1970-01-01T00:00:40Z  1 minute 40 seconds ago  idle\n",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}
