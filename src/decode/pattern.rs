//! Java's patterns for dates and timestamps (`yyyy-MM-dd HH:mm:ss[.SSS][XXX]`, `EEE, d MMM yyyy`): all that the files
//! of a job can be written with. Names are English; without a zone in the text it is UTC, unless the caller knows better.

use super::temporal::{Instant, days, zone};
use crate::error::{Error, Result};

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Pattern {
    items: Vec<Item>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Item {
    Literal(u8),
    /// At least and at most so many digits.
    Number(Part, usize, usize),
    /// Exactly so many digits of a second.
    Fraction(usize),
    Zone,
    HalfDay,
    /// A month's name, or its first three letters.
    MonthName(bool),
    /// A weekday's: it must be one, but the date is said by the rest.
    Weekday(bool),
    Optional(Vec<Item>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    Year,
    ShortYear,
    Month,
    Day,
    DayOfYear,
    Hour,
    /// 1 to 24, and 24 is midnight.
    HourFromOne,
    /// 1 to 12, and 12 is midnight or noon.
    HalfDayHour,
    /// 0 to 11.
    HalfDayHourFromZero,
    Minute,
    Second,
}

/// What has been read so far; what a pattern leaves out is the epoch's.
#[derive(Debug, Clone, Copy)]
struct Parts {
    year: u32,
    month: u32,
    day: u32,
    /// In place of month and day.
    day_of_year: Option<u32>,
    hour: u32,
    minute: u32,
    second: u32,
    nanos: i64,
    zone: Option<i64>,
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

impl Pattern {
    /// # Errors
    /// `Invalid`, naming the option and the letter, for a pattern with the names of zones, eras or quarters, or an error.
    pub fn new(option: &str, pattern: &str) -> Result<Self> {
        let wrong = |reason: String| {
            Error::invalid(format!("{option} = '{pattern}': {reason}"))
                .help("letters: y M L d D E a H h K k m s S X x Z, text in '', optional parts in []")
        };
        // One list for each open bracket.
        let mut open: Vec<Vec<Item>> = vec![Vec::new()];
        let mut rest = pattern.as_bytes();
        while let Some(&letter) = rest.first() {
            let count = rest.iter().take_while(|byte| **byte == letter).count();
            let mut used = if letter.is_ascii_alphabetic() { count } else { 1 };
            let mut items = Vec::new();
            match letter {
                b'\'' => (items, used) = quoted(rest).ok_or_else(|| wrong("a quote is not closed".to_owned()))?,
                b'[' => open.push(Vec::new()),
                b']' => match open.pop() {
                    Some(inner) if !open.is_empty() => items.push(Item::Optional(inner)),
                    _ => return Err(wrong("] without [".to_owned())),
                },
                _ if letter.is_ascii_alphabetic() => {
                    let name = || String::from(char::from(letter)).repeat(count);
                    items.push(field(letter, count).ok_or_else(|| wrong(format!("{} is not known", name())))?);
                }
                _ => items.push(Item::Literal(letter)),
            }
            if let Some(list) = open.last_mut() {
                list.append(&mut items);
            }
            rest = &rest[used..];
        }
        match (open.pop(), open.is_empty()) {
            (Some(items), true) => Ok(Self { items }),
            _ => Err(wrong("[ without ]".to_owned())),
        }
    }

    /// The point in time that `text` names; without a zone it is UTC.
    pub fn timestamp(&self, text: &[u8]) -> Option<Instant> {
        self.moment(text).map(|(instant, _)| instant)
    }

    /// As `timestamp`, and whether the text has a zone. Where it has none, the time is that of the wall clock.
    pub fn moment(&self, text: &[u8]) -> Option<(Instant, bool)> {
        let parts = self.parse(text)?;
        let day = parts.days()?;
        if parts.hour > 23 || parts.minute > 59 || parts.second > 59 {
            return None;
        }
        let second = i64::from(parts.hour * 3600 + parts.minute * 60 + parts.second);
        let seconds = day * 86_400 + second - parts.zone.unwrap_or(0);
        Some((Instant { seconds, nanos: parts.nanos }, parts.zone.is_some()))
    }

    /// Days since the epoch.
    pub fn date(&self, text: &[u8]) -> Option<i64> {
        self.parse(text)?.days()
    }

    fn parse(&self, text: &[u8]) -> Option<Parts> {
        let (year, month, day, day_of_year) = (1970, 1, 1, None);
        let mut parts = Parts { year, month, day, day_of_year, hour: 0, minute: 0, second: 0, nanos: 0, zone: None };
        match_items(&self.items, text, &mut parts)?.is_empty().then_some(parts)
    }
}

/// The letters between quotes, and how many bytes that takes; `''` is a quote.
fn quoted(text: &[u8]) -> Option<(Vec<Item>, usize)> {
    let end = text[1..].iter().position(|byte| *byte == b'\'')?;
    let inner = if end == 0 { &b"'"[..] } else { &text[1..=end] };
    Some((inner.iter().map(|byte| Item::Literal(*byte)).collect(), end + 2))
}

fn field(letter: u8, count: usize) -> Option<Item> {
    let part = match (letter, count) {
        (b'M' | b'L', 3..=4) => return Some(Item::MonthName(count == 4)),
        (b'E', 1..=4) => return Some(Item::Weekday(count == 4)),
        (b'D', 1..=3) => return Some(Item::Number(Part::DayOfYear, count, 3)),
        (b'S', 1..=9) => return Some(Item::Fraction(count)),
        (b'a', 1) => return Some(Item::HalfDay),
        (b'X' | b'x', 1..=5) | (b'Z', 1..=3 | 5) => return Some(Item::Zone),
        (b'y' | b'u', 4) => return Some(Item::Number(Part::Year, 4, 4)),
        (b'y' | b'u', 1) => return Some(Item::Number(Part::Year, 1, 4)),
        (b'y' | b'u', 2) => Part::ShortYear,
        (b'M' | b'L', 1..=2) => Part::Month,
        (b'd', 1..=2) => Part::Day,
        (b'H', 1..=2) => Part::Hour,
        (b'h', 1..=2) => Part::HalfDayHour,
        (b'k', 1..=2) => Part::HourFromOne,
        (b'K', 1..=2) => Part::HalfDayHourFromZero,
        (b'm', 1..=2) => Part::Minute,
        (b's', 1..=2) => Part::Second,
        _ => return None,
    };
    Some(Item::Number(part, count, 2))
}

/// Passes what `items` describe; the rest of the text.
fn match_items<'a>(items: &[Item], mut text: &'a [u8], parts: &mut Parts) -> Option<&'a [u8]> {
    for item in items {
        text = match item {
            Item::Literal(byte) => text.strip_prefix(&[*byte])?,
            Item::Number(part, least, most) => {
                let (value, rest) = digits(text, *least, *most)?;
                parts.set(*part, value)?;
                rest
            }
            Item::Fraction(width) => {
                let (value, rest) = digits(text, *width, *width)?;
                parts.nanos = i64::from(value) * 10i64.pow(9 - u32::try_from(*width).ok()?);
                rest
            }
            Item::HalfDay => {
                let (name, rest) = text.split_first_chunk::<2>()?;
                match name.to_ascii_uppercase().as_slice() {
                    b"AM" => {}
                    b"PM" => parts.hour += 12,
                    _ => return None,
                }
                rest
            }
            Item::Zone => {
                let width = match text.first()? {
                    b'Z' => 1,
                    _ => text.iter().skip(1).take_while(|byte| byte.is_ascii_digit() || **byte == b':').count() + 1,
                };
                parts.zone = Some(offset(&text[..width])?);
                &text[width..]
            }
            Item::MonthName(full) => {
                let (index, rest) = name(text, &MONTHS, *full)?;
                parts.month = index + 1;
                rest
            }
            Item::Weekday(full) => name(text, &WEEKDAYS, *full)?.1,
            Item::Optional(inner) => {
                let mut tried = *parts;
                match match_items(inner, text, &mut tried) {
                    Some(rest) => {
                        *parts = tried;
                        rest
                    }
                    None => text,
                }
            }
        };
    }
    Some(text)
}

/// A zone's distance from UTC in seconds; old ones have seconds too.
fn offset(text: &[u8]) -> Option<i64> {
    let (minutes, seconds) = match text {
        [head @ .., b':', tens, ones] if text.len() == 9 => (head, digits(&[*tens, *ones], 2, 2)?.0),
        [head @ .., tens, ones] if text.len() == 7 => (head, digits(&[*tens, *ones], 2, 2)?.0),
        _ => (text, 0),
    };
    let whole = zone(minutes)?;
    let sign = if text.first() == Some(&b'-') { -1 } else { 1 };
    (seconds < 60).then(|| whole + sign * i64::from(seconds))
}

/// Which of the names the text starts with.
fn name<'a>(text: &'a [u8], names: &[&str], full: bool) -> Option<(u32, &'a [u8])> {
    (0..).zip(names).find_map(|(index, name)| {
        let name = if full { name.as_bytes() } else { name.as_bytes().get(..3)? };
        let (head, rest) = text.split_at_checked(name.len())?;
        head.eq_ignore_ascii_case(name).then_some((index, rest))
    })
}

fn digits(text: &[u8], least: usize, most: usize) -> Option<(u32, &[u8])> {
    let width = text.iter().take(most).take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = text.split_at(width);
    (width >= least).then(|| (digits.iter().fold(0, |value, digit| value * 10 + u32::from(digit - b'0')), rest))
}

impl Parts {
    /// Days since the epoch.
    fn days(&self) -> Option<i64> {
        let year = i64::from(self.year);
        let Some(day) = self.day_of_year else { return days(year, self.month, self.day) };
        let number = days(year, 1, 1)? + i64::from(day) - 1;
        (day > 0 && number <= days(year, 12, 31)?).then_some(number)
    }

    fn set(&mut self, part: Part, value: u32) -> Option<()> {
        match part {
            Part::Year => self.year = value,
            Part::ShortYear => self.year = 2000 + value,
            Part::Month => self.month = value,
            Part::Day => self.day = value,
            Part::DayOfYear => self.day_of_year = Some(value),
            Part::HourFromOne => self.hour = (1..=24).contains(&value).then_some(value % 24)?,
            Part::HalfDayHourFromZero => self.hour = (value < 12).then_some(value)?,
            Part::Hour => self.hour = value,
            // 12 AM is midnight, and PM adds its twelve hours later.
            Part::HalfDayHour => self.hour = (1..=12).contains(&value).then_some(value % 12)?,
            Part::Minute => self.minute = value,
            Part::Second => self.second = value,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::TimeUnit;

    use super::*;

    #[test]
    fn reads_what_java_writes() {
        let ms = |pattern: &str, text: &str| {
            let pattern = Pattern::new("timestampFormat", pattern).unwrap();
            pattern.timestamp(text.as_bytes()).and_then(|instant| instant.ticks(TimeUnit::Millisecond))
        };
        let base = 1_704_189_845_000; // 2024-01-02T10:04:05Z
        for (pattern, text) in [
            ("yyyy-MM-dd HH:mm:ss", "2024-01-02 10:04:05"),
            ("yyyy-MM-dd'T'HH:mm:ss[.SSS][XXX]", "2024-01-02T10:04:05"),
            ("yyyy-MM-dd'T'HH:mm:ss[.SSS][XXX]", "2024-01-02T11:04:05.000+01:00"),
            ("yyyy-MM-dd'T'HH:mm:ss[.SSS][XXX]", "2024-01-02T10:04:05Z"),
            ("d/M/yy h:mm:ss a", "2/1/24 10:04:05 am"),
            ("yyyyMMddHHmmss", "20240102100405"),
            ("EEE, d MMM yyyy HH:mm:ss Z", "Tue, 2 Jan 2024 11:04:05 +0100"),
            ("EEEE dd MMMM yyyy k:mm:ss XXXXX", "tuesday 02 january 2024 5:08:03 -04:56:02"),
            ("yyyy-DDD K:mm:ss a", "2024-002 10:04:05 AM"),
        ] {
            assert_eq!(ms(pattern, text), Some(base), "{pattern}: {text}");
        }
        assert_eq!(ms("d.M.y h a", "1.1.1970 12 PM"), Some(12 * 3_600_000));
        assert_eq!(ms("HH:mm:ss.SSS", "00:00:01.250"), Some(1250));
        for (pattern, text) in [
            ("yyyy-MM-dd", "2024-01-02 "),
            ("yyyy-MM-dd", "2024-1-02"),
            ("HH", "24"),
            ("yyyy-MM-dd", "2023-02-29"),
            ("h a", "13 PM"),
            ("yyyy-DDD", "2023-366"),
            ("dd MMM yyyy", "01 Foo 2024"),
            ("EEE d", "Tues 2"),
        ] {
            assert_eq!(ms(pattern, text), None, "{pattern}: {text}");
        }
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for bad in ["MMMMM", "yyyy-MM-dd'T", "[yyyy", "yyyy]", "QQ", "EEEEE"] {
            assert!(Pattern::new("dateFormat", bad).is_err(), "{bad}");
        }
        assert!(Pattern::new("dateFormat", "dd QQ").unwrap_err().message().contains("QQ"));
    }
}
