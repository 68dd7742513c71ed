//! Date and time as text: Java's `DateTimeFormatter` patterns, compiled once, and the calendar under them.

use chrono::{Offset, TimeZone};

use super::number::{two, write_integer};
use crate::error::{Error, Result};

/// A moment on a wall clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// Days since 1970-01-01.
    pub days: i64,
    pub second_of_day: u32,
    pub nanos: u32,
    /// Seconds east of UTC.
    pub offset_s: i32,
}

/// The time zone of a column.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Zone {
    /// A wall clock without a zone (Spark's TIMESTAMP_NTZ).
    None,
    /// Seconds east of UTC.
    Fixed(i32),
    Named(chrono_tz::Tz),
}

impl Zone {
    /// Reads an Arrow time zone: `+02:00`, `UTC`, `Europe/Paris`.
    pub fn parse(name: Option<&str>) -> Result<Self> {
        let Some(name) = name else { return Ok(Self::None) };
        if matches!(name, "UTC" | "utc" | "Z" | "GMT" | "Etc/UTC") {
            return Ok(Self::Fixed(0));
        }
        if let Some(seconds) = parse_offset(name) {
            return Ok(Self::Fixed(seconds));
        }
        let unknown = |_| Error::invalid(format!("unknown time zone '{name}'")).help("use +02:00, UTC or Europe/Paris");
        name.parse().map(Self::Named).map_err(unknown)
    }

    /// The wall clock at a moment.
    #[inline]
    pub fn moment(self, seconds: i64, nanos: u32) -> Moment {
        let offset_s = match self {
            Self::None => 0,
            Self::Fixed(offset_s) => offset_s,
            Self::Named(zone) => chrono::DateTime::from_timestamp(seconds, 0)
                .map_or(0, |utc| zone.offset_from_utc_datetime(&utc.naive_utc()).fix().local_minus_utc()),
        };
        let local = seconds.saturating_add(i64::from(offset_s));
        let second_of_day = u32::try_from(local.rem_euclid(86_400)).unwrap_or(0);
        Moment { days: local.div_euclid(86_400), second_of_day, nanos, offset_s }
    }
}

fn parse_offset(text: &str) -> Option<i32> {
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':').or_else(|| rest.split_at_checked(2))?;
    let minutes = if minutes.is_empty() { "0" } else { minutes };
    let (hours, minutes) = (hours.parse::<i32>().ok()?, minutes.parse::<i32>().ok()?);
    ((0..=18).contains(&hours) && (0..60).contains(&minutes)).then_some(sign * (hours * 3600 + minutes * 60))
}

/// Year, month and day of a day since 1970-01-01 in the proleptic Gregorian calendar.
///
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
#[inline]
pub(crate) fn civil(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, u32::try_from(month).unwrap_or(1), u32::try_from(day).unwrap_or(1))
}

/// Appends `yyyy-MM-dd`.
#[inline]
pub(crate) fn write_date(out: &mut Vec<u8>, days: i64) {
    let (year, month, day) = civil(days);
    write_year(out, year, 4);
    let ([m1, m2], [d1, d2]) = (two(month), two(day));
    out.extend_from_slice(&[b'-', m1, m2, b'-', d1, d2]);
}

/// Appends `HH:mm:ss`.
#[inline]
pub(crate) fn write_time(out: &mut Vec<u8>, second_of_day: u32) {
    let [h1, h2] = two(second_of_day / 3600);
    let [m1, m2] = two(second_of_day / 60 % 60);
    let [s1, s2] = two(second_of_day % 60);
    out.extend_from_slice(&[h1, h2, b':', m1, m2, b':', s1, s2]);
}

/// Appends the first `count` digits of the fraction of a second.
#[inline]
pub(crate) fn write_fraction(out: &mut Vec<u8>, nanos: u32, count: usize) {
    let mut digits = [b'0'; 9];
    let mut rest = nanos;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
    out.extend_from_slice(&digits[..count.min(9)]);
}

/// Java pads a year to `width` and shows a plus sign where it is longer than four digits.
fn write_year(out: &mut Vec<u8>, year: i64, width: usize) {
    if width == 4 && (0..=9999).contains(&year) {
        let year = u32::try_from(year).unwrap_or(0);
        out.extend_from_slice(&two(year / 100));
        out.extend_from_slice(&two(year % 100));
        return;
    }
    if width == 2 {
        return out.extend_from_slice(&two(u32::try_from(year.rem_euclid(100)).unwrap_or(0)));
    }
    let start = out.len();
    write_integer(out, year.unsigned_abs());
    let digits = out.len() - start;
    if digits < width {
        out.splice(start..start, std::iter::repeat_n(b'0', width - digits));
    }
    if year < 0 {
        out.insert(start, b'-');
    } else if width >= 4 && digits > width {
        out.insert(start, b'+');
    }
}

/// Which letters a column can answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    pub time: bool,
    pub offset: bool,
}

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(crate) struct Pattern(Vec<Segment>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(Vec<u8>),
    Year(usize),
    Month(usize),
    Day(usize),
    DayOfYear(usize),
    Weekday(usize),
    HalfDay,
    /// `H` 0-23, `k` 1-24, `K` 0-11, `h` 1-12.
    Hour(u8, usize),
    Minute(usize),
    Second(usize),
    Fraction(usize),
    Offset(u8, usize),
}

impl Pattern {
    /// Compiles `pattern`, the value of the option `option`. Brackets hold what is left out where the column does
    /// not know it.
    ///
    /// # Errors
    /// `Invalid`, naming the option and the letter.
    pub fn compile(pattern: &str, option: &str, known: Known) -> Result<Self> {
        Compiler { pattern, option, known, done: Vec::new(), open: Vec::new() }.run()
    }

    /// Appends the text of a moment.
    pub fn write(&self, out: &mut Vec<u8>, moment: &Moment) {
        let (year, month, day) = civil(moment.days);
        let hour = moment.second_of_day / 3600;
        for segment in &self.0 {
            match segment {
                Segment::Literal(text) => out.extend_from_slice(text),
                Segment::Year(width) => write_year(out, year, *width),
                Segment::Month(width) => write_name(out, &MONTHS, month - 1, *width, month),
                Segment::Day(width) => write_padded(out, day, *width),
                Segment::DayOfYear(width) => {
                    let first = days_of_year_start(year);
                    write_padded(out, u32::try_from(moment.days - first + 1).unwrap_or(1), *width);
                }
                Segment::Weekday(width) => {
                    let weekday = u32::try_from((moment.days + 3).rem_euclid(7)).unwrap_or(0);
                    write_name(out, &WEEKDAYS, weekday, (*width).max(3), weekday);
                }
                Segment::HalfDay => out.extend_from_slice(if hour < 12 { b"AM" } else { b"PM" }),
                Segment::Hour(letter, width) => write_padded(out, hour_of(*letter, hour), *width),
                Segment::Minute(width) => write_padded(out, moment.second_of_day / 60 % 60, *width),
                Segment::Second(width) => write_padded(out, moment.second_of_day % 60, *width),
                Segment::Fraction(count) => write_fraction(out, moment.nanos, *count),
                Segment::Offset(letter, width) => write_offset(out, moment.offset_s, *letter, *width),
            }
        }
    }
}

fn hour_of(letter: u8, hour: u32) -> u32 {
    match letter {
        b'h' => (hour + 11) % 12 + 1,
        b'K' => hour % 12,
        b'k' => (hour + 23) % 24 + 1,
        _ => hour,
    }
}

/// The day number of 1 January: found from the date's own, without a second calendar.
fn days_of_year_start(year: i64) -> i64 {
    let before = year - 1;
    before * 365 + before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400) - 719_162
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

fn write_padded(out: &mut Vec<u8>, value: u32, width: usize) {
    if width == 2 && value < 100 {
        return out.extend_from_slice(&two(value));
    }
    let digits = if value >= 100 { 3 } else { 1 + usize::from(value >= 10) };
    out.resize(out.len() + width.saturating_sub(digits), b'0');
    write_integer(out, value);
}

fn write_name(out: &mut Vec<u8>, names: &[&str], index: u32, width: usize, number: u32) {
    let name = usize::try_from(index).ok().and_then(|index| names.get(index)).copied().unwrap_or_default();
    match width {
        1 | 2 => write_padded(out, number, width),
        3 => out.extend_from_slice(name.get(..3).unwrap_or(name).as_bytes()),
        _ => out.extend_from_slice(name.as_bytes()),
    }
}

/// `X` writes `Z` for UTC, `x` does not; one letter is `+01`, two `+0100`, three `+01:00`, five `+01:00:30`.
fn write_offset(out: &mut Vec<u8>, offset_s: i32, letter: u8, width: usize) {
    if offset_s == 0 && (letter == b'X' || (letter == b'Z' && width == 5)) {
        return out.push(b'Z');
    }
    let width = match (letter, width) {
        (b'Z', 5) => 5,
        (b'Z', _) => 2,
        _ => width,
    };
    let size = offset_s.unsigned_abs();
    let (hours, minutes, seconds) = (two(size / 3600), two(size / 60 % 60), size % 60);
    let shown = size / 60 != 0 || (seconds != 0 && width > 3);
    out.push(if offset_s < 0 && shown { b'-' } else { b'+' });
    out.extend_from_slice(&hours);
    let colon = matches!(width, 3 | 5);
    if width > 1 || !(size / 60).is_multiple_of(60) {
        out.extend_from_slice(if colon { b":" } else { b"" });
        out.extend_from_slice(&minutes);
    }
    if width > 3 && seconds != 0 {
        out.extend_from_slice(if colon { b":" } else { b"" });
        out.extend_from_slice(&two(seconds));
    }
}

/// Appends `Z` or `+02:00`.
#[inline]
pub(crate) fn write_iso_offset(out: &mut Vec<u8>, offset_s: i32) {
    write_offset(out, offset_s, b'X', 3);
}

struct Compiler<'a> {
    pattern: &'a str,
    option: &'a str,
    known: Known,
    done: Vec<Segment>,
    /// Open brackets: where each begins, and whether all in it is known so far.
    open: Vec<(usize, bool)>,
}

impl Compiler<'_> {
    fn run(mut self) -> Result<Pattern> {
        let mut chars = self.pattern.chars().peekable();
        while let Some(letter) = chars.next() {
            match letter {
                'a'..='z' | 'A'..='Z' => {
                    let mut count = 1;
                    while chars.next_if_eq(&letter).is_some() {
                        count += 1;
                    }
                    self.field(letter, count)?;
                }
                '\'' if chars.next_if_eq(&'\'').is_some() => self.literal('\''),
                '\'' => loop {
                    match chars.next() {
                        Some('\'') if chars.next_if_eq(&'\'').is_some() => self.literal('\''),
                        Some('\'') => break,
                        Some(quoted) => self.literal(quoted),
                        None => return Err(self.error("has a quote that is not closed")),
                    }
                },
                '[' => self.open.push((self.done.len(), true)),
                ']' => {
                    let Some((start, known)) = self.open.pop() else {
                        return Err(self.error("has a ']' without its '['"));
                    };
                    if !known {
                        self.done.truncate(start);
                    }
                }
                '{' | '}' | '#' => return Err(self.error(&format!("has '{letter}', which Java reserves"))),
                other => self.literal(other),
            }
        }
        // Java closes what is left open.
        while let Some((start, known)) = self.open.pop() {
            if !known {
                self.done.truncate(start);
            }
        }
        Ok(Pattern(self.done))
    }

    fn literal(&mut self, letter: char) {
        let mut buffer = [0; 4];
        let text = letter.encode_utf8(&mut buffer).as_bytes();
        // A literal never grows into an open bracket's text: the bracket may be cut off.
        let joins = self.open.last().is_none_or(|(start, _)| self.done.len() > *start);
        match self.done.last_mut() {
            Some(Segment::Literal(last)) if joins => last.extend_from_slice(text),
            _ => self.done.push(Segment::Literal(text.to_vec())),
        }
    }

    fn field(&mut self, letter: char, count: usize) -> Result<()> {
        let (segment, count_max, known) = match letter {
            'y' => (Segment::Year(count), 6, true),
            'M' | 'L' => (Segment::Month(count), 4, true),
            'd' => (Segment::Day(count), 2, true),
            'D' => (Segment::DayOfYear(count), 3, true),
            'E' => (Segment::Weekday(count), 4, true),
            'a' => (Segment::HalfDay, 1, self.known.time),
            'H' | 'h' | 'k' | 'K' => (Segment::Hour(ascii(letter), count), 2, self.known.time),
            'm' => (Segment::Minute(count), 2, self.known.time),
            's' => (Segment::Second(count), 2, self.known.time),
            'S' => (Segment::Fraction(count), 9, self.known.time),
            'X' | 'x' => (Segment::Offset(ascii(letter), count), 5, self.known.offset),
            'Z' if count != 4 => (Segment::Offset(b'Z', count), 5, self.known.offset),
            _ => {
                return Err(self
                    .error(&format!("has the letter '{letter}', which is not supported"))
                    .help("letters: y M d D E a H h k K m s S X x Z; put other text in single quotes"));
            }
        };
        if count > count_max {
            return Err(self.error(&format!("has '{letter}' {count} times, at most {count_max} are allowed")));
        }
        if !known {
            let what = if "XxZ".contains(letter) { "time zone" } else { "time of day" };
            match self.open.last_mut() {
                Some((_, all_known)) => *all_known = false,
                None => {
                    let text = format!("has '{letter}', but the column has no {what}");
                    return Err(self.error(&text).help("put it in brackets to leave it out there: [XXX]"));
                }
            }
        }
        self.done.push(segment);
        Ok(())
    }

    fn error(&self, what: &str) -> Error {
        Error::invalid(format!("{} = '{}' {what}", self.option, self.pattern))
    }
}

fn ascii(letter: char) -> u8 {
    u8::try_from(letter).unwrap_or(b'?')
}

#[cfg(test)]
mod tests {
    use chrono::Datelike;

    use super::*;

    const ALL: Known = Known { time: true, offset: true };
    const NO_ZONE: Known = Known { time: true, offset: false };

    fn format(pattern: &str, moment: &Moment) -> String {
        let mut out = Vec::new();
        Pattern::compile(pattern, "timestampFormat", ALL).unwrap().write(&mut out, moment);
        String::from_utf8(out).unwrap()
    }

    /// 2024-01-02 15:04:05.123456789 in Paris, a Tuesday.
    fn paris() -> Moment {
        Zone::parse(Some("Europe/Paris")).unwrap().moment(1_704_204_245, 123_456_789)
    }

    #[test]
    fn formats_as_java_does() {
        for (pattern, text) in [
            ("yyyy-MM-dd'T'HH:mm:ss.SSS[XXX]", "2024-01-02T15:04:05.123+01:00"),
            // A 12-hour clock without AM and PM: what the pattern says is what the user gets.
            ("yyyy-MM-dd hh:mm:ss.SSSSSS", "2024-01-02 03:04:05.123456"),
            ("d/M/yy h:m:s a", "2/1/24 3:4:5 PM"),
            ("EEE, dd MMM yyyy HH:mm:ss Z", "Tue, 02 Jan 2024 15:04:05 +0100"),
            ("EEEE d MMMM y", "Tuesday 2 January 2024"),
            ("K k D DDD", "3 15 2 002"),
            ("X x XX xx XXX xxx ZZZZZ", "+01 +01 +0100 +0100 +01:00 +01:00 +01:00"),
            ("HH 'o''clock' ''yy''", "15 o'clock '24'"),
            ("[yyyy][[MM]dd]", "20240102"),
        ] {
            assert_eq!(format(pattern, &paris()), text, "{pattern}");
        }
    }

    #[test]
    fn utc_is_z_and_midnight_is_twelve() {
        let moment = Zone::Fixed(0).moment(0, 0);
        assert_eq!(format("hh a XXX xxx Z", &moment), "12 AM Z +00:00 +0000");
        assert_eq!(format("k K H", &moment), "24 0 0");
    }

    #[test]
    fn odd_years_and_offsets() {
        let year = |days| format("yyyy|y|yy", &Moment { days, second_of_day: 0, nanos: 0, offset_s: 0 });
        assert_eq!(year(-719_162), "0001|1|01");
        assert_eq!(year(-719_163), "0000|0|00");
        assert_eq!(year(2_932_897), "+10000|10000|00");
        let old = Zone::parse(Some("America/New_York")).unwrap().moment(-5_000_000_000, 0);
        assert_eq!(format("XXX XXXXX", &old), "-04:56 -04:56:02");
    }

    #[test]
    fn brackets_drop_what_is_not_known() {
        let pattern = Pattern::compile("HH:mm['[zone ]'XXX]", "timestampFormat", NO_ZONE).unwrap();
        let mut out = Vec::new();
        pattern.write(&mut out, &paris());
        assert_eq!(out, b"15:04");
    }

    #[test]
    fn refuses_what_java_refuses_and_says_where() {
        for (pattern, known, words) in [
            ("yyyy-QQ", ALL, "timestampFormat = 'yyyy-QQ' has the letter 'Q'"),
            ("YYYY", ALL, "the letter 'Y'"),
            ("yyyy'T", ALL, "quote"),
            ("yyyy]", ALL, "']'"),
            ("{yyyy}", ALL, "reserves"),
            ("HHH", ALL, "3 times"),
            ("HH XXX", NO_ZONE, "no time zone"),
        ] {
            let error = Pattern::compile(pattern, "timestampFormat", known).unwrap_err();
            assert!(error.message().contains(words), "{pattern}: {error}");
        }
    }

    #[test]
    fn the_calendar_agrees_with_chrono() {
        for days in (-800_000..3_000_000).step_by(997) {
            let date = chrono::NaiveDate::from_ymd_opt(1970, 1, 1).unwrap() + chrono::TimeDelta::days(days);
            let (year, month, day) = civil(days);
            let mut out = Vec::new();
            let moment = Moment { days, second_of_day: 0, nanos: 0, offset_s: 0 };
            Pattern::compile("D EEE", "dateFormat", ALL).unwrap().write(&mut out, &moment);
            assert_eq!((year, month, day), (i64::from(date.year()), date.month(), date.day()));
            assert_eq!(String::from_utf8(out).unwrap(), date.format("%-j %a").to_string());
        }
    }
}
