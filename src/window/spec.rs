//! Which windows hold a moment. Pure arithmetic on microseconds since the epoch, UTC.

use std::fmt;

use chrono_tz::Tz;

use super::wall::{self, DAY_US, HOUR_US, SECOND_US};
use crate::error::{Error, Result};

/// A row is in at most this many windows: one day by the second fits.
pub const WINDOWS_PER_ROW_MAX: i64 = 100_000;

/// The longest window: a hundred years.
const SIZE_US_MAX: i64 = 36_525 * DAY_US;

/// The shapes of windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WindowKind {
    /// Back to back.
    Tumble,
    /// One starts every `slide_us`; they overlap where the slide is shorter than the size.
    Hop { slide_us: i64 },
    /// Windows with a common start that grow by `step_us` up to the size.
    Cumulate { step_us: i64 },
    /// From a first row to a gap without rows; which rows belong together depends on the rows.
    Session,
}

/// `[start_us, end_us)`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    pub start_us: i64,
    pub end_us: i64,
}

/// A shape with its measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WindowSpec {
    pub kind: WindowKind,
    /// The gap, for `Session`.
    pub size_us: i64,
    /// Windows start at whole multiples of the size (or slide) since the epoch, plus this.
    pub offset_us: i64,
    /// Whose wall clock the windows follow; `None` is UTC. On the day of a clock change a window of a day has 23 or 25
    /// hours. Windows that divide an hour take no notice of clock changes, only of the zone's standard offset.
    pub zone: Option<Tz>,
}

impl WindowSpec {
    /// # Errors
    /// `Invalid` for measures that make no window; `Unsupported` for more than `WINDOWS_PER_ROW_MAX` windows per row.
    pub fn new(kind: WindowKind, size_us: i64, offset_us: i64, zone: Option<Tz>) -> Result<Self> {
        let what = if kind == WindowKind::Session { "gap" } else { "size" };
        positive(what, size_us)?;
        let per_row = match kind {
            WindowKind::Tumble | WindowKind::Session => 1,
            WindowKind::Hop { slide_us } => {
                positive("slide", slide_us)?;
                (size_us - 1) / slide_us + 1
            }
            WindowKind::Cumulate { step_us } => {
                positive("step", step_us)?;
                if size_us % step_us != 0 {
                    let (size, step) = (duration(size_us), duration(step_us));
                    return Err(Error::invalid(format!(
                        "the size of a cumulating window, {size}, is no multiple of its step, {step}"
                    ))
                    .help("the step comes first, then the size"));
                }
                size_us / step_us
            }
        };
        if per_row > WINDOWS_PER_ROW_MAX {
            return Err(Error::unsupported(format!(
                "each row would be in {per_row} windows, and at most {WINDOWS_PER_ROW_MAX} are possible"
            ))
            .help("take a longer slide, or a shorter window"));
        }
        if kind == WindowKind::Session && (offset_us != 0 || zone.is_some()) {
            return Err(Error::invalid("a session window starts with its first row: it has no offset and no zone"));
        }
        if !(-SIZE_US_MAX..=SIZE_US_MAX).contains(&offset_us) {
            return Err(Error::invalid(format!("the offset of a window, {}, is too large", duration(offset_us))));
        }
        Ok(Self { kind, size_us, offset_us, zone })
    }

    /// The greatest common divisor of size and slide (or step): all rows of a pane are in the same windows. `None` for
    /// `Session`.
    pub fn pane_us(&self) -> Option<i64> {
        match self.kind {
            WindowKind::Tumble => Some(self.size_us),
            WindowKind::Hop { slide_us } => Some(greatest_common_divisor(self.size_us, slide_us)),
            WindowKind::Cumulate { step_us } => Some(step_us),
            WindowKind::Session => None,
        }
    }

    /// The start of the pane that holds `ts_us`; `ts_us` itself for `Session`.
    pub fn pane_start(&self, ts_us: i64) -> i64 {
        let Some(pane_us) = self.pane_us() else { return ts_us };
        self.moment(floor(self.reading(ts_us), pane_us))
    }

    /// The windows that hold `ts_us`, ordered by start, then by end. None, if it falls between the windows of a hop
    /// whose slide is longer than its size. For `Session` the one window of a row that is alone.
    pub fn windows_of(&self, ts_us: i64) -> Windows {
        let reading = self.reading(ts_us);
        let (start, end, step, last) = match self.kind {
            WindowKind::Tumble => {
                let start = floor(reading, self.size_us);
                (start, start.saturating_add(self.size_us), 0, start)
            }
            WindowKind::Hop { slide_us } => {
                let first = floor(reading.saturating_sub(self.size_us), slide_us).saturating_add(slide_us);
                (first, first.saturating_add(self.size_us), slide_us, floor(reading, slide_us))
            }
            WindowKind::Cumulate { step_us } => {
                let start = floor(reading, self.size_us);
                (start, floor(reading, step_us).saturating_add(step_us), step_us, start.saturating_add(self.size_us))
            }
            WindowKind::Session => (ts_us, ts_us.saturating_add(self.size_us), 0, ts_us),
        };
        let moves_start = !matches!(self.kind, WindowKind::Cumulate { .. });
        let from = if moves_start { start } else { end };
        let left = if from > last { 0 } else { (last - from).checked_div(step).unwrap_or(0) + 1 };
        Windows { spec: *self, start, end, step, moves_start, left }
    }

    /// The windows that hold the pane that starts at `pane_start_us`.
    pub fn windows_of_pane(&self, pane_start_us: i64) -> Windows {
        self.windows_of(pane_start_us)
    }

    /// The end of the last window that holds `ts_us`: a row is late when this is <= the watermark. For a row between
    /// the windows of a hop with gaps it is the end of the window before it, so <= `ts_us`.
    pub fn last_end(&self, ts_us: i64) -> i64 {
        let reading = self.reading(ts_us);
        let start = match self.kind {
            WindowKind::Tumble | WindowKind::Cumulate { .. } => floor(reading, self.size_us),
            WindowKind::Hop { slide_us } => floor(reading, slide_us),
            WindowKind::Session => ts_us,
        };
        self.moment(start.saturating_add(self.size_us))
    }

    /// The moment on the scale on which windows start at whole multiples.
    fn reading(&self, ts_us: i64) -> i64 {
        let shown = match self.zone {
            None => ts_us,
            Some(zone) if self.ignores_clock_changes() => ts_us.saturating_add(wall::standard_offset_us(zone)),
            Some(zone) => wall::reading(zone, ts_us),
        };
        shown.saturating_sub(self.offset_us)
    }

    /// The inverse of `reading`, for the bounds of windows.
    fn moment(&self, reading_us: i64) -> i64 {
        let shown = reading_us.saturating_add(self.offset_us);
        match self.zone {
            None => shown,
            Some(zone) if self.ignores_clock_changes() => shown.saturating_sub(wall::standard_offset_us(zone)),
            Some(zone) => wall::moment(zone, shown),
        }
    }

    /// Clocks change by whole hours nearly everywhere, which leaves windows that divide an hour where they are.
    fn ignores_clock_changes(&self) -> bool {
        HOUR_US % self.size_us == 0
    }
}

impl fmt::Display for WindowSpec {
    /// `HOP(size 10 minutes, slide 1 minute)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = duration(self.size_us);
        match self.kind {
            WindowKind::Tumble => write!(f, "TUMBLE(size {size}")?,
            WindowKind::Hop { slide_us } => write!(f, "HOP(size {size}, slide {}", duration(slide_us))?,
            WindowKind::Cumulate { step_us } => write!(f, "CUMULATE(size {size}, step {}", duration(step_us))?,
            WindowKind::Session => write!(f, "SESSION(gap {size}")?,
        }
        if self.offset_us != 0 {
            write!(f, ", offset {}", duration(self.offset_us))?;
        }
        if let Some(zone) = self.zone {
            write!(f, ", zone {zone}")?;
        }
        f.write_str(")")
    }
}

/// The windows of a moment, in order.
#[derive(Debug, Clone)]
pub struct Windows {
    spec: WindowSpec,
    start: i64,
    end: i64,
    step: i64,
    moves_start: bool,
    left: i64,
}

impl Windows {
    /// Without those that end up to `us`.
    pub fn ending_after(mut self, us: i64) -> impl Iterator<Item = Window> {
        // Without a zone the distance tells how many; with one, each is looked at.
        let end = self.end.saturating_add(self.spec.offset_us);
        if self.spec.zone.is_none() && self.step > 0 && end <= us {
            let closed = (us.saturating_sub(end) / self.step + 1).min(self.left);
            let moved = closed.saturating_mul(self.step);
            if self.moves_start {
                self.start = self.start.saturating_add(moved);
            }
            self.end = self.end.saturating_add(moved);
            self.left -= closed;
        }
        self.skip_while(move |window| window.end_us <= us)
    }
}

impl Iterator for Windows {
    type Item = Window;

    fn next(&mut self) -> Option<Window> {
        self.left = self.left.checked_sub(1).filter(|left| *left >= 0)?;
        // A session's window is no matter of a wall clock: it has neither zone nor offset.
        let window = Window { start_us: self.spec.moment(self.start), end_us: self.spec.moment(self.end) };
        if self.moves_start {
            self.start = self.start.saturating_add(self.step);
        }
        self.end = self.end.saturating_add(self.step);
        Some(window)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.left.max(0)).unwrap_or(usize::MAX);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Windows {}

/// `90 seconds` as `1 minute 30 seconds`; a number that no unit fits, in microseconds.
pub fn duration(us: i64) -> String {
    const UNITS: [(&str, i64); 6] = [
        ("day", DAY_US),
        ("hour", HOUR_US),
        ("minute", 60 * SECOND_US),
        ("second", SECOND_US),
        ("millisecond", 1_000),
        ("microsecond", 1),
    ];
    let mut left = us.unsigned_abs();
    let mut parts = Vec::new();
    for (name, unit) in UNITS {
        let (count, rest) = (left / unit.unsigned_abs(), left % unit.unsigned_abs());
        if count > 0 {
            parts.push(format!("{count} {name}{}", if count == 1 { "" } else { "s" }));
        }
        left = rest;
    }
    match (parts.is_empty(), us < 0) {
        (true, _) => "0 seconds".to_owned(),
        (false, true) => format!("minus {}", parts.join(" ")),
        (false, false) => parts.join(" "),
    }
}

fn positive(what: &str, us: i64) -> Result<()> {
    if us <= 0 {
        return Err(Error::invalid(format!(
            "the {what} of a window is {}, and must be more than nothing",
            duration(us)
        )));
    }
    if us > SIZE_US_MAX {
        return Err(Error::invalid(format!("the {what} of a window is {}, more than a hundred years", duration(us))));
    }
    Ok(())
}

/// The greatest multiple of `unit` that is not greater, also below zero.
fn floor(value: i64, unit: i64) -> i64 {
    value.saturating_sub(value.rem_euclid(unit))
}

fn greatest_common_divisor(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
