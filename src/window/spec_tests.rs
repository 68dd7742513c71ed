use chrono::{TimeZone, Timelike};
use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;

const MINUTE_US: i64 = 60 * SECOND_US;

fn spec(kind: WindowKind, size_us: i64, offset_us: i64, zone: Option<Tz>) -> WindowSpec {
    WindowSpec::new(kind, size_us, offset_us, zone).unwrap()
}

fn pairs(windows: Windows) -> Vec<(i64, i64)> {
    windows.map(|window| (window.start_us, window.end_us)).collect()
}

/// All windows near `ts`, by their definition, and of those the ones that hold it.
fn brute_force(spec: &WindowSpec, ts: i64) -> Vec<(i64, i64)> {
    let size = spec.size_us;
    let slide = if let WindowKind::Hop { slide_us } = spec.kind { slide_us } else { size };
    let step = if let WindowKind::Cumulate { step_us } = spec.kind { step_us } else { size };
    let near = (ts - spec.offset_us).div_euclid(slide);
    let reach = size / slide + 2;
    let mut windows = Vec::new();
    for index in near - reach..=near + reach {
        let start = index * slide + spec.offset_us;
        let ends = (1..=size / step).map(|count| start + count * step);
        windows.extend(ends.map(|end| (start, end)).filter(|(start, end)| (*start..*end).contains(&ts)));
    }
    windows
}

fn specs() -> impl Strategy<Value = WindowSpec> {
    (1..60_i64, 1..60_i64, -100..100_i64, 0..3_u8).prop_map(|(a, b, offset, kind)| match kind {
        0 => spec(WindowKind::Tumble, a, offset, None),
        1 => spec(WindowKind::Hop { slide_us: b }, a, offset, None),
        _ => spec(WindowKind::Cumulate { step_us: b }, b * (a % 7 + 1), offset, None),
    })
}

proptest! {
    #[test]
    fn windows_are_those_of_the_definition(spec in specs(), ts in -500..500_i64) {
        let expected = brute_force(&spec, ts);
        prop_assert_eq!(pairs(spec.windows_of(ts)), expected.clone());
        prop_assert_eq!(spec.windows_of(ts).len(), expected.len());
        if let Some((_, end)) = expected.last() {
            prop_assert_eq!(spec.last_end(ts), *end);
        } else {
            prop_assert!(spec.last_end(ts) <= ts);
        }
    }

    #[test]
    fn a_pane_is_in_the_windows_of_each_of_its_rows(spec in specs(), ts in -500..500_i64) {
        let pane = spec.pane_start(ts);
        prop_assert!(pane <= ts && ts < pane + spec.pane_us().unwrap());
        prop_assert_eq!(spec.pane_start(pane), pane);
        prop_assert_eq!(pairs(spec.windows_of_pane(pane)), pairs(spec.windows_of(ts)));
    }

    /// At random moments around clock changes, in zones with odd ones.
    #[test]
    fn zoned_windows_hold_their_rows_and_never_overlap(
        zone in prop::sample::select(vec![
            Tz::America__New_York, Tz::Europe__London, Tz::Australia__Lord_Howe, Tz::America__Havana,
            Tz::Asia__Kathmandu, Tz::Pacific__Apia, Tz::UTC,
        ]),
        size_minutes in prop::sample::select(vec![5_i64, 30, 60, 90, 120, 360, 1440, 2880, 10_080]),
        offset_minutes in 0..1440_i64,
        minutes in 21_000_000..29_500_000_i64,
    ) {
        let spec = spec(WindowKind::Tumble, size_minutes * MINUTE_US, offset_minutes * MINUTE_US, Some(zone));
        let ts = minutes * MINUTE_US;
        let window = spec.windows_of(ts).next().unwrap();
        prop_assert!(window.start_us <= ts && ts < window.end_us);
        prop_assert_eq!((spec.pane_start(ts), spec.last_end(ts)), (window.start_us, window.end_us));
        for inside in [window.start_us, window.end_us - 1] {
            prop_assert_eq!(spec.windows_of(inside).next().unwrap(), window);
        }
        prop_assert!(spec.pane_start(window.end_us) == window.end_us);
    }

    #[test]
    fn hops_of_days_follow_the_wall_clock(hours in 350_000..490_000_i64) {
        let zone = Tz::America__New_York;
        let hop = spec(WindowKind::Hop { slide_us: DAY_US }, 7 * DAY_US, 0, Some(zone));
        let windows = pairs(hop.windows_of(hours * HOUR_US));
        prop_assert_eq!(windows.len(), 7);
        for (start, end) in windows {
            let local = |us| zone.timestamp_micros(us).unwrap();
            prop_assert_eq!((local(start).hour(), local(end).hour()), (0, 0));
            prop_assert_eq!((local(end).date_naive() - local(start).date_naive()).num_days(), 7);
        }
    }
}

fn local(zone: Tz, day: u32, month: u32, hour: u32) -> i64 {
    zone.with_ymd_and_hms(2025, month, day, hour, 0, 0).earliest().unwrap().timestamp_micros()
}

#[test]
fn days_of_clock_changes_have_23_and_25_hours() {
    let zone = Tz::America__New_York;
    let day = spec(WindowKind::Tumble, DAY_US, 0, Some(zone));
    for (date, month, hours) in [(9, 3, 23), (10, 3, 24), (2, 11, 25)] {
        for hour in [0, 1, 3, 23] {
            let window = day.windows_of(local(zone, date, month, hour)).next().unwrap();
            assert_eq!(window.start_us, local(zone, date, month, 0));
            assert_eq!(window.end_us - window.start_us, hours * HOUR_US);
        }
    }
    // Six hours from midnight on: the clock change lengthens the first.
    let quarter = spec(WindowKind::Tumble, 6 * HOUR_US, 0, Some(zone));
    let start = local(zone, 2, 11, 0);
    assert_eq!(pairs(quarter.windows_of(start + 6 * HOUR_US)), [(start, start + 7 * HOUR_US)]);
}

#[test]
fn windows_that_divide_an_hour_take_no_notice_of_clock_changes() {
    let hour = spec(WindowKind::Tumble, HOUR_US, 0, Some(Tz::America__New_York));
    let change = local(Tz::America__New_York, 2, 11, 1);
    for at in 0..4 {
        let start = change + at * HOUR_US;
        assert_eq!(pairs(hour.windows_of(start + 1)), [(start, start + HOUR_US)]);
    }
    // India is half an hour off.
    let hour = spec(WindowKind::Tumble, HOUR_US, 0, Some(Tz::Asia__Kolkata));
    assert_eq!(pairs(hour.windows_of(0)), [(-HOUR_US / 2, HOUR_US / 2)]);
}

#[test]
fn sessions_of_single_rows() {
    let session = spec(WindowKind::Session, 5, 0, None);
    assert_eq!((session.pane_us(), session.last_end(7)), (None, 12));
    assert_eq!(pairs(session.windows_of(7)), [(7, 12)]);
}

#[test]
fn refuses_what_makes_no_window() {
    let refused = |kind, size, offset| WindowSpec::new(kind, size, offset, None).unwrap_err();
    for (kind, size, text) in [
        (WindowKind::Tumble, 0, "the size of a window is 0 seconds, and must be more than nothing"),
        (WindowKind::Session, -SECOND_US, "the gap of a window is minus 1 second, and must be more than nothing"),
        (WindowKind::Hop { slide_us: 0 }, 1, "the slide of a window is 0 seconds, and must be more than nothing"),
        (
            WindowKind::Cumulate { step_us: 90 * SECOND_US },
            120 * SECOND_US,
            "the size of a cumulating window, 2 minutes, is no multiple of its step, 1 minute 30 seconds",
        ),
        (WindowKind::Tumble, i64::MAX, "more than a hundred years"),
    ] {
        let error = refused(kind, size, 0);
        assert!(error.message().contains(text), "{error}");
    }
    let error = refused(WindowKind::Hop { slide_us: 1 }, SECOND_US, 0);
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("1000000 windows"), "{error}");
}

#[test]
fn times_that_no_calendar_holds_do_not_overflow() {
    for zone in [None, Some(Tz::America__New_York)] {
        let spec = spec(WindowKind::Tumble, DAY_US, 1, zone);
        for ts in [i64::MIN, i64::MAX] {
            assert_eq!(spec.windows_of(ts).count(), 1);
        }
    }
}
