//! A zone's wall clock as a clock that never goes back, and its inverse.

use chrono::{DateTime, LocalResult, NaiveDateTime, Offset, TimeZone};
use chrono_tz::Tz;

pub const SECOND_US: i64 = 1_000_000;
pub const HOUR_US: i64 = 3_600 * SECOND_US;
pub const DAY_US: i64 = 24 * HOUR_US;

/// No clock change moves a wall clock by more than this, and none follows another so soon.
const CHANGE_REACH_US: i64 = DAY_US;

/// The standard offset of a zone is looked up at this moment: 2020-01-01.
const STANDARD_AT_US: i64 = 1_577_836_800 * SECOND_US;

/// What the wall clock of `zone` shows at `utc_us`, as microseconds since 1970-01-01 00:00 of that clock.
///
/// Where clocks are set back, the reading stands still until the clock shows it for the second time: so each reading
/// belongs to one stretch of time, and windows that are cut by it never overlap.
pub fn reading(zone: Tz, utc_us: i64) -> i64 {
    let (before, now) = (offset_us(zone, utc_us.saturating_sub(CHANGE_REACH_US)), offset_us(zone, utc_us));
    let shown = utc_us.saturating_add(now);
    if before <= now {
        return shown;
    }
    let change = change_between(zone, utc_us.saturating_sub(CHANGE_REACH_US), utc_us);
    shown.max(change.saturating_add(before))
}

/// The first moment at which the wall clock of `zone` shows `reading_us` or more: the inverse of `reading`. A reading
/// that a clock change skips belongs to the moment of the change.
pub fn moment(zone: Tz, reading_us: i64) -> i64 {
    let Some(local) = naive(reading_us) else { return reading_us };
    let seconds = match zone.offset_from_local_datetime(&local) {
        LocalResult::Single(offset) => offset.fix().local_minus_utc(),
        LocalResult::Ambiguous(a, b) => a.fix().local_minus_utc().max(b.fix().local_minus_utc()),
        LocalResult::None => {
            let (from, to) = (reading_us.saturating_sub(DAY_US), reading_us.saturating_add(DAY_US));
            return change_between(zone, from, to);
        }
    };
    reading_us.saturating_sub(i64::from(seconds) * SECOND_US)
}

/// The zone's offset without daylight saving, in microseconds east of UTC.
pub fn standard_offset_us(zone: Tz) -> i64 {
    let Some(utc) = naive(STANDARD_AT_US) else { return 0 };
    let offset = zone.offset_from_utc_datetime(&utc);
    chrono_tz::OffsetComponents::base_utc_offset(&offset).num_microseconds().unwrap_or(0)
}

/// Microseconds east of UTC; none for times that no calendar holds.
fn offset_us(zone: Tz, utc_us: i64) -> i64 {
    let seconds = naive(utc_us).map_or(0, |utc| zone.offset_from_utc_datetime(&utc).fix().local_minus_utc());
    i64::from(seconds) * SECOND_US
}

fn naive(us: i64) -> Option<NaiveDateTime> {
    DateTime::from_timestamp_micros(us).map(|time| time.naive_utc())
}

/// The first moment in `(from, to]` that has the offset of `to`; `from` has another one.
fn change_between(zone: Tz, from: i64, to: i64) -> i64 {
    let after = offset_us(zone, to);
    let (mut from, mut to) = (from, to);
    while to - from > 1 {
        let middle = from + (to - from) / 2;
        if offset_us(zone, middle) == after { to = middle } else { from = middle }
    }
    to
}
