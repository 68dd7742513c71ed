//! Dates and timestamps as text: ISO 8601 by hand, without a general-purpose parser in the way.

use arrow::datatypes::TimeUnit;

/// Ticks of `unit` in a second.
pub(super) const fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => NANOS_PER_SECOND,
    }
}

pub(super) const NANOS_PER_SECOND: i64 = 1_000_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// A point in time: whole seconds since the epoch (UTC) and the nanoseconds after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instant {
    pub seconds: i64,
    pub nanos: i64,
}

impl Instant {
    /// Ticks of `unit` since the epoch; finer digits are cut off. `None` if they do not fit 64 bits.
    #[inline]
    pub fn ticks(self, unit: TimeUnit) -> Option<i64> {
        let ticks = per_second(unit);
        self.seconds.checked_mul(ticks)?.checked_add(self.nanos / (NANOS_PER_SECOND / ticks))
    }
}

/// Days since the epoch of a date in the proleptic Gregorian calendar; `None` if there is no such day.
#[inline]
pub(super) fn days(year: i64, month: u32, day: u32) -> Option<i64> {
    const LENGTHS: [u32; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = LENGTHS.get(month.checked_sub(1)? as usize)? + u32::from(leap && month == 2);
    if day == 0 || day > length {
        return None;
    }
    // Years that start in March, so that the leap day comes last (Hinnant, "chrono-Compatible Low-Level Date
    // Algorithms").
    let (month, day) = (i64::from(month), i64::from(day));
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// `yyyy-mm-dd`, then nothing or a time of day as in `timestamp`: days since the epoch of the date as it is written.
pub(super) fn date(text: &[u8]) -> Option<i64> {
    let (day, rest) = calendar_date(text)?;
    if !rest.is_empty() {
        time_and_zone(rest)?;
    }
    Some(day)
}

/// `yyyy-mm-dd`, alone (midnight) or followed by `T` or a space, `hh:mm`, optionally `:ss` and a fraction of 1 to 9
/// digits, and optionally a zone: `Z`, `+hh:mm`, `+hhmm` or `+hh`. Text without a zone is UTC.
#[inline]
pub(super) fn timestamp(text: &[u8]) -> Option<Instant> {
    let (day, rest) = calendar_date(text)?;
    let (seconds, nanos) = if rest.is_empty() { (0, 0) } else { time_and_zone(rest)? };
    Some(Instant { seconds: day * SECONDS_PER_DAY + seconds, nanos })
}

#[inline]
fn calendar_date(text: &[u8]) -> Option<(i64, &[u8])> {
    let (head, rest) = text.split_first_chunk::<10>()?;
    if head[4] != b'-' || head[7] != b'-' {
        return None;
    }
    let year = two(&head[..2])? * 100 + two(&head[2..4])?;
    Some((days(i64::from(year), two(&head[5..7])?, two(&head[8..])?)?, rest))
}

/// Two digits.
#[inline]
fn two(text: &[u8]) -> Option<u32> {
    match text {
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => Some(u32::from(tens - b'0') * 10 + u32::from(ones - b'0')),
        _ => None,
    }
}

/// Seconds since midnight UTC (negative or beyond a day because of the zone) and nanoseconds.
#[inline]
fn time_and_zone(text: &[u8]) -> Option<(i64, i64)> {
    let (head, mut rest) = text.split_first_chunk::<6>()?;
    if !matches!(head[0], b'T' | b' ') || head[3] != b':' {
        return None;
    }
    let (hour, minute) = (two(&head[1..3])?, two(&head[4..])?);
    let (mut second, mut nanos) = (0, 0);
    if let Some((part, after)) = rest.split_first_chunk::<3>()
        && part[0] == b':'
    {
        second = two(&part[1..])?;
        rest = after;
        if let Some((b'.', after)) = rest.split_first() {
            (nanos, rest) = fraction(after)?;
        }
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some((i64::from(hour * 3600 + minute * 60 + second) - zone(rest)?, nanos))
}

/// One to nine digits after the point, as nanoseconds.
#[inline]
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let mut nanos = 0;
    let mut length = 0;
    while let Some(digit @ b'0'..=b'9') = text.get(length) {
        nanos = nanos * 10 + i64::from(digit - b'0');
        length += 1;
        if length > 9 {
            return None;
        }
    }
    const SCALE: [i64; 10] = [0, 100_000_000, 10_000_000, 1_000_000, 100_000, 10_000, 1_000, 100, 10, 1];
    (length > 0).then(|| (nanos * SCALE[length], &text[length..]))
}

/// The zone's distance from UTC in seconds; none is UTC.
pub(super) fn zone(text: &[u8]) -> Option<i64> {
    let (sign, rest) = match text {
        [] | [b'Z'] => return Some(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = match rest.len() {
        2 => (two(rest)?, 0),
        4 => (two(&rest[..2])?, two(&rest[2..])?),
        5 if rest[2] == b':' => (two(&rest[..2])?, two(&rest[3..])?),
        _ => return None,
    };
    // 18 hours is what java.time takes.
    (hours <= 18 && minutes < 60).then(|| sign * i64::from(hours * 3600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Datelike, NaiveDate};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn days_are_chronos() {
        for offset in -800_000..2_932_000 {
            let date = NaiveDate::from_epoch_days(offset).unwrap();
            if (0..=9999).contains(&date.year()) {
                assert_eq!(days(i64::from(date.year()), date.month(), date.day()), Some(i64::from(offset)), "{date}");
            }
        }
        for (year, month, day) in
            [(2023, 2, 29), (1900, 2, 29), (2024, 4, 31), (2024, 0, 1), (2024, 13, 1), (2024, 1, 0)]
        {
            assert_eq!(days(year, month, day), None);
        }
    }

    proptest! {
        #[test]
        fn timestamps_are_chronos(ms in -62_000_000_000_000i64..250_000_000_000_000, space: bool, offset in -1080i32..1080) {
            let zone = chrono::FixedOffset::east_opt(offset * 60).unwrap();
            let time = DateTime::from_timestamp_millis(ms).unwrap().with_timezone(&zone);
            let text = time.format(if space { "%Y-%m-%d %H:%M:%S%.3f%:z" } else { "%Y-%m-%dT%H:%M:%S%.6f%z" }).to_string();
            prop_assert_eq!(timestamp(text.as_bytes()).unwrap().ticks(TimeUnit::Millisecond), Some(ms), "{}", text);
        }
    }

    #[test]
    fn reads_every_variant() {
        let micros = |text: &str| timestamp(text.as_bytes()).and_then(|instant| instant.ticks(TimeUnit::Microsecond));
        let base = 1_704_067_200_000_000;
        for (text, expected) in [
            ("2024-01-01", base),
            ("2024-01-01T00:00", base),
            ("2024-01-01 00:00:01", base + 1_000_000),
            ("2024-01-01T00:00:00.1", base + 100_000),
            ("2024-01-01T00:00:00.123456", base + 123_456),
            ("2024-01-01T00:00:00.123456789Z", base + 123_456),
            ("2024-01-01T01:00+01", base),
            ("2024-01-01T01:30:00+0130", base),
            ("2023-12-31T23:00:00-01:00", base),
            ("1969-12-31T23:59:59.999999999", -1),
        ] {
            assert_eq!(micros(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "2024",
            "2024-01",
            "2024-1-1",
            "2024-01-01T",
            "2024-01-01T1",
            "2024-01-01T24:00",
            "2024-01-01T00:60",
            "2024-01-01T00:00:60",
            "2024-01-01T00:00:00.",
            "2024-01-01T00:00:00.1234567890",
            "2024-01-01T00:00:00 Z",
            "2024-01-01T00:00:0",
            "2024-01-01Z",
            "2024-01-01T00:00:00+19:00",
            "2024-01-01T00:00:00+1",
            "20240101",
            "2024-02-30",
            "2024-01-01x00:00",
            "1704067200",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:",
        ] {
            assert_eq!(micros(text), None, "{text}");
        }
        let late = timestamp(b"2300-01-01").unwrap();
        assert_eq!(late.ticks(TimeUnit::Nanosecond), None);
        assert_eq!(date(b"1970-01-02"), Some(1));
        assert_eq!(date(b"1970-01-02T23:00:00-05:00"), Some(1));
        assert_eq!(date(b"1970-01-02x"), None);
    }
}
