//! How reports are shown to people.

use std::{collections::BTreeSet, fmt::Write as _};

use super::report::{OperatorReport, PartitionReport, Situation, StateReport, iso_ms, iso_us};
use crate::{event_time::Holder, window::duration};

impl StateReport {
    /// A block of lines, for `tidemill state`.
    pub fn to_text(&self) -> String {
        let mut text = format!("{}\n", self.query);
        line(&mut text, "checkpoint", self.checkpoint.as_deref().unwrap_or("none: it is given up when the job ends"));
        match &self.last_batch {
            Some(batch) => line(&mut text, "last batch", &format!("{}, began {}", batch.id, iso_ms(batch.started_ms))),
            None => line(&mut text, "last batch", "none was committed yet"),
        }
        let Some(windows) = &self.windows else {
            line(&mut text, "state", "none");
            return text;
        };
        if windows.output_mode == "append" || windows.watermark_ms.is_some() {
            line(&mut text, "watermark", &windows.watermark_ms.map_or("none yet".to_owned(), iso_ms));
        }
        match windows.next_rows {
            None if windows.output_mode != "append" => {
                let next = match windows.next_emission_ms {
                    Some(next_ms) => format!("groups have changed: at {} (EMIT PERIODIC)", iso_ms(next_ms)),
                    None => "of each group, when it changes".to_owned(),
                };
                line(&mut text, "next rows", &format!("{next}; output mode {}", windows.output_mode));
            }
            Some(next) => {
                let window = format!("[{}, {})", iso_us(next.window.start_us), iso_us(next.window.end_us));
                let left = windows.watermark_ms.map_or(String::new(), |watermark_ms| {
                    format!(", {} from where it is", rough(next.watermark_ms.saturating_sub(watermark_ms)))
                });
                let reaches = iso_ms(next.watermark_ms);
                line(&mut text, "next rows", &format!("{window}, when the watermark reaches {reaches}{left}"));
            }
            None => line(&mut text, "next rows", "no window is open"),
        }
        if let Some(forecast) = &windows.forecast {
            line(&mut text, "forecast", forecast.line().trim());
        }
        for (index, aggregate) in windows.aggregates.iter().enumerate() {
            aggregate.write(index, &mut text);
        }
        text
    }
}

impl OperatorReport {
    fn has_windows(&self) -> bool {
        self.kept != "groups" && self.kept != "partners"
    }

    fn write(&self, index: usize, text: &mut String) {
        let _ = writeln!(text, "  aggregate {index}: {}", self.name);
        let bound = |span: Option<super::Span>| match span {
            Some(span) => format!("[{}, {})", iso_us(span.start_us), iso_us(span.end_us)),
            None => "none".to_owned(),
        };
        if self.has_windows() {
            line(text, "  open", &count(self.open, self.kept.trim_end_matches('s')));
            line(text, "  first window", &bound(self.first));
            line(text, "  last window", &bound(self.last));
        }
        let rows = format!("{} of state for {} of input", count(self.rows, "row"), count(self.input_rows, "row"));
        line(text, "  holds", &rows);
        line(text, "  files", &format!("{}, {}", count(self.files, "file"), count(self.bytes, "byte")));
    }
}

impl Situation {
    /// The answer and what it follows from, for `tidemill explain`.
    pub fn to_text(&self) -> String {
        let answer = self.answer();
        let mut text = format!("{}\n  {}\n", self.state.query, answer.sentence);
        if let Some(hint) = &answer.hint {
            let _ = writeln!(text, "  help: {hint}");
        }
        text.push('\n');
        match &self.state.last_batch {
            Some(batch) => {
                let began = ago(self.now_ms, batch.started_ms);
                line(&mut text, "last batch", &format!("{}, began {began}: {}", batch.id, batch.ledger.equation()));
                line(&mut text, "all batches", &batch.totals.equation());
                if batch.totals.bad > 0 {
                    line(&mut text, "bad records", &format!("{} so far, in {}", batch.totals.bad, batch.dead_letters));
                }
                if let Some(late) = &batch.late {
                    let place = if batch.totals.late > 0 { format!(", in {late}") } else { String::new() };
                    line(&mut text, "late rows", &format!("{} so far{place}", batch.totals.late));
                }
            }
            None => line(&mut text, "last batch", "none was committed yet"),
        }
        self.write_event_time(&mut text);
        self.write_state(&mut text);
        self.write_partitions(&mut text);
        text
    }

    fn write_event_time(&self, text: &mut String) {
        let Some(event_time) = &self.event_time else { return };
        let holder = match &event_time.holder {
            Holder::Nothing if event_time.watermark_ms.is_some() => {
                format!("held by {}, which had no event", event_time.table)
            }
            Holder::Nothing => "no event has come".to_owned(),
            Holder::Partition { topic, partition } => format!("held by {topic}-{partition}"),
            Holder::AllIdle => "all partitions are idle, and it stays".to_owned(),
            Holder::WallClock => "all partitions are idle, and it goes on with the wall clock".to_owned(),
        };
        let watermark = event_time.watermark_ms.map_or("none".to_owned(), iso_ms);
        let delay = duration(event_time.delay_us);
        line(text, "watermark", &format!("{watermark}, {holder}; {delay} behind {}", event_time.column));
        let Some(windows) = &self.state.windows else { return };
        if let Some(next) = windows.next_rows {
            let left_ms = next.watermark_ms.saturating_sub(event_time.watermark_ms.unwrap_or(next.watermark_ms));
            let left = if left_ms > 0 { format!("{} of event time to go", rough(left_ms)) } else { "now".to_owned() };
            line(text, "next close", &format!("when it reaches {}: {left}", iso_ms(next.watermark_ms)));
        }
    }

    fn write_state(&self, text: &mut String) {
        let Some(windows) = &self.state.windows else { return };
        if let Some(next_ms) = windows.next_emission_ms {
            line(text, "next rows", &format!("at {} (EMIT PERIODIC)", iso_ms(next_ms)));
        }
        if let Some(forecast) = &windows.forecast {
            line(text, "forecast", forecast.line().trim());
        }
        for (index, aggregate) in windows.aggregates.iter().enumerate() {
            let OperatorReport { open, kept, rows, input_rows, name, .. } = aggregate;
            let rows = format!("{} for {}", count(*rows, "row"), count(*input_rows, "row of input"));
            let open = match aggregate.has_windows() {
                true => format!("{} open, ", count(*open, kept.trim_end_matches('s'))),
                false => String::new(),
            };
            line(text, "in state", &format!("{open}{rows} (aggregate {index}: {name})"));
        }
    }

    fn write_partitions(&self, text: &mut String) {
        let with_times = self.event_time.is_some();
        let mut rows = vec![vec!["partition".to_owned(), "waiting".to_owned()]];
        if with_times {
            rows[0].extend(["newest event", "came", ""].map(str::to_owned));
        }
        let tables: BTreeSet<&str> = self.partitions.iter().map(|partition| partition.table.as_str()).collect();
        for partition in &self.partitions {
            let of = if tables.len() > 1 { format!("{}: ", partition.table) } else { String::new() };
            let name = format!("{of}{}-{}", partition.topic, partition.partition);
            let mut row = vec![name, partition.behind.to_string()];
            if with_times {
                row.push(partition.newest_us.map_or("none".to_owned(), iso_us));
                row.push(partition.active_ms.map_or(String::new(), |active_ms| ago(self.now_ms, active_ms)));
                row.push(standing(partition).to_owned());
            }
            rows.push(row);
        }
        let columns = rows.first().map_or(0, Vec::len);
        let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            let _ = writeln!(text, "  {}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
    }
}

fn standing(partition: &PartitionReport) -> &'static str {
    match (partition.holds_watermark, partition.idle) {
        (true, _) => "holds the watermark",
        (false, true) => "idle",
        (false, false) => "",
    }
}

fn line(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "  {name:<14} {value}");
}

/// `1 record`, `2 records`, `2 rows of input`
pub fn count(number: u64, what: &str) -> String {
    let (first, rest) = what.split_once(' ').map_or((what, String::new()), |(first, rest)| (first, format!(" {rest}")));
    format!("{number} {first}{}{rest}", if number == 1 { "" } else { "s" })
}

/// A length of time without the digits that nobody asks for.
pub fn rough(ms: i64) -> String {
    const SECOND_MS: i64 = 1_000;
    const HOUR_MS: i64 = 3_600_000;
    const DAY_MS: i64 = 24 * HOUR_MS;
    let unit_ms = match ms {
        ..SECOND_MS => 1,
        SECOND_MS..HOUR_MS => SECOND_MS,
        HOUR_MS..DAY_MS => 60 * SECOND_MS,
        DAY_MS.. => HOUR_MS,
    };
    // Rounded up: what is said to take so long is done then.
    let whole_ms = ms.saturating_add(unit_ms - 1).div_euclid(unit_ms).saturating_mul(unit_ms);
    duration(whole_ms.saturating_mul(1000))
}

/// How long before `now_ms` something was.
pub fn ago(now_ms: i64, then_ms: i64) -> String {
    let ms = now_ms.saturating_sub(then_ms);
    if ms < 1_000 { "just now".to_owned() } else { format!("{} ago", rough(ms)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_have_no_needless_digits() {
        assert_eq!(rough(999), "999 milliseconds");
        assert_eq!(rough(61_001), "1 minute 2 seconds");
        assert_eq!(rough(3_600_001), "1 hour 1 minute");
        assert_eq!(rough(90_000_000), "1 day 1 hour");
        assert_eq!((ago(5_000, 4_500), ago(5_000, 2_000)), ("just now".to_owned(), "3 seconds ago".to_owned()));
        assert_eq!(
            (count(1, "row of input"), count(2, "row of input")),
            ("1 row of input".into(), "2 rows of input".into())
        );
    }
}
