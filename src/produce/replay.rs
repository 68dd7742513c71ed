//! A file's records into a topic, at the speed at which they were recorded or another.

use std::{path::PathBuf, str::FromStr, time::Duration};

use crate::{
    error::{Error, Result},
    produce::{
        output::Output,
        pace::{Grant, Pacer, Rate},
        replay_file::{Chunk, Columns, FileFormat, Reader},
    },
};

pub use crate::produce::replay_file::FileFormat as Format;

/// Recorded time over real time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    Times(f64),
    Max,
}

impl FromStr for Speed {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.eq_ignore_ascii_case("max") {
            return Ok(Self::Max);
        }
        match text.strip_suffix('x').unwrap_or(text).parse::<f64>() {
            Ok(times) if times.is_finite() && times > 0.0 => Ok(Self::Times(times)),
            _ => Err(Error::invalid(format!("'{text}' is no speed: 1x, 10x, 0.5x or max"))),
        }
    }
}

/// When a record is due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Timing {
    /// At its own time, by `time_column`.
    Recorded(f64),
    /// At a rate.
    Rate(Rate),
}

/// What to replay.
#[derive(Debug, Clone)]
pub struct ReplayOptions {
    pub file: PathBuf,
    /// None: by the extension.
    pub format: Option<FileFormat>,
    /// The record's key; none: no key.
    pub key_column: Option<String>,
    /// Text, a timestamp, or milliseconds since the epoch.
    pub time_column: Option<String>,
    /// The columns of a CSV file without a header.
    pub columns: Option<Vec<String>>,
    pub timing: Timing,
}

/// Sends the whole file, or until the output is done.
///
/// # Errors
/// `Invalid` for a record that is none, naming file and line: what stands before it is sent; those of the output.
pub async fn run(options: &ReplayOptions, output: &mut Output) -> Result<()> {
    let format = options.format.map_or_else(|| FileFormat::of(&options.file), Ok)?;
    if matches!(options.timing, Timing::Recorded(_)) && options.time_column.is_none() {
        return Err(Error::invalid("a speed needs the records' times").help("name their column: --time-column NAME"));
    }
    let columns =
        Columns { key: options.key_column.clone(), time: options.time_column.clone(), names: options.columns.clone() };
    // Reads are short and from a local disk: not worth a thread.
    let mut reader = Reader::open(&options.file, format, columns)?;
    let mut chunk = Chunk::default();
    let mut schedule = Schedule::new(options.timing, output.elapsed());
    loop {
        let more = reader.next_chunk(&mut chunk);
        // A bad line ends the replay, but not before the good ones in front of it.
        for (key, value, time_ms) in chunk.rows() {
            while let Some(wait) = schedule.wait(time_ms, output.elapsed()) {
                if !output.pause(wait).await? {
                    return Ok(());
                }
            }
            schedule.passed();
            if !output.send(key, value).await? {
                return Ok(());
            }
        }
        if !more? {
            return Ok(());
        }
    }
}

/// When the next record may go.
#[derive(Debug)]
struct Schedule {
    timing: Timing,
    pacer: Pacer,
    granted: usize,
    /// The first record's time, and when it went.
    origin: Option<(i64, Duration)>,
    start: Duration,
}

impl Schedule {
    fn new(timing: Timing, start: Duration) -> Self {
        let rate = if let Timing::Rate(rate) = timing { rate } else { Rate::Max };
        Self { timing, pacer: Pacer::new(rate), granted: 0, origin: None, start }
    }

    /// How long the next record has to wait; `None`: it may go.
    fn wait(&mut self, time_ms: Option<i64>, now: Duration) -> Option<Duration> {
        match self.timing {
            Timing::Rate(_) => {
                if self.granted == 0 {
                    match self.pacer.grant(now.saturating_sub(self.start)) {
                        Grant::Send(count) => self.granted = count,
                        Grant::Wait(wait) => return Some(wait),
                    }
                }
                None
            }
            Timing::Recorded(speed) => {
                // A record without a time goes with the one before it.
                let time_ms = time_ms?;
                let (first_ms, first_at) = *self.origin.get_or_insert((time_ms, now));
                let recorded = Duration::from_millis(u64::try_from(time_ms.saturating_sub(first_ms)).unwrap_or(0));
                let due =
                    first_at + Duration::try_from_secs_f64(recorded.as_secs_f64() / speed).unwrap_or(Duration::MAX / 4);
                // A timer is no finer than this.
                due.checked_sub(now).filter(|wait| *wait >= Duration::from_millis(1))
            }
        }
    }

    fn passed(&mut self) {
        self.granted = self.granted.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_time_is_kept_and_sped_up() {
        let ms = Duration::from_millis;
        let mut schedule = Schedule::new(Timing::Recorded(10.0), Duration::ZERO);
        assert_eq!(schedule.wait(Some(5_000), ms(100)), None);
        assert_eq!(schedule.wait(Some(6_000), ms(100)), Some(ms(100)));
        assert_eq!(schedule.wait(Some(6_000), ms(200)), None);
        assert_eq!(schedule.wait(Some(4_000), ms(200)), None, "an older record goes at once");
        assert_eq!(schedule.wait(None, ms(200)), None);
    }

    #[test]
    fn speeds_are_checked() {
        assert_eq!("10x".parse::<Speed>().unwrap(), Speed::Times(10.0));
        assert_eq!("max".parse::<Speed>().unwrap(), Speed::Max);
        for wrong in ["0x", "-1", "fast", "x", "NaN"] {
            assert!(wrong.parse::<Speed>().is_err(), "{wrong}");
        }
    }
}
