//! Java's patterns for dates and timestamps (`yyyy-MM-dd HH:mm:ss[.SSS][XXX]`), as far as they are numbers.

use super::temporal::{Instant, days, zone};
use crate::error::{Error, Result};

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    items: Vec<Item>,
}

#[derive(Debug, Clone)]
enum Item {
    Literal(u8),
    /// At least and at most so many digits.
    Number(Part, usize, usize),
    /// Exactly so many digits of a second.
    Fraction(usize),
    Zone,
    HalfDay,
    Optional(Vec<Item>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Year,
    ShortYear,
    Month,
    Day,
    Hour,
    HalfDayHour,
    Minute,
    Second,
}

/// What has been read so far; what a pattern leaves out is the epoch's.
#[derive(Debug, Clone, Copy)]
struct Parts {
    year: u32,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
    nanos: i64,
    zone: i64,
}

impl Pattern {
    /// # Errors
    /// `Invalid`, naming the option and the letter, for a pattern with names (of months, days, zones) or an error.
    pub fn new(option: &str, pattern: &str) -> Result<Self> {
        let wrong = |reason: String| {
            Error::invalid(format!("{option} = '{pattern}': {reason}"))
                .help("letters: y M d H h m s S a X x Z, text in '', optional parts in []")
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
        let parts = self.parse(text)?;
        let day = days(i64::from(parts.year), parts.month, parts.day)?;
        if parts.hour > 23 || parts.minute > 59 || parts.second > 59 {
            return None;
        }
        let second = parts.hour * 3600 + parts.minute * 60 + parts.second;
        Some(Instant { seconds: day * 86_400 + i64::from(second) - parts.zone, nanos: parts.nanos })
    }

    /// Days since the epoch.
    pub fn date(&self, text: &[u8]) -> Option<i64> {
        let parts = self.parse(text)?;
        days(i64::from(parts.year), parts.month, parts.day)
    }

    fn parse(&self, text: &[u8]) -> Option<Parts> {
        let mut parts = Parts { year: 1970, month: 1, day: 1, hour: 0, minute: 0, second: 0, nanos: 0, zone: 0 };
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
        (b'S', 1..=9) => return Some(Item::Fraction(count)),
        (b'a', 1) => return Some(Item::HalfDay),
        (b'X' | b'x', 1..=3) | (b'Z', 1..=3) => return Some(Item::Zone),
        (b'y' | b'u', 4) => return Some(Item::Number(Part::Year, 4, 4)),
        (b'y' | b'u', 1) => return Some(Item::Number(Part::Year, 1, 4)),
        (b'y' | b'u', 2) => Part::ShortYear,
        (b'M' | b'L', 1..=2) => Part::Month,
        (b'd', 1..=2) => Part::Day,
        (b'H', 1..=2) => Part::Hour,
        (b'h', 1..=2) => Part::HalfDayHour,
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
                parts.zone = zone(&text[..width])?;
                &text[width..]
            }
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

fn digits(text: &[u8], least: usize, most: usize) -> Option<(u32, &[u8])> {
    let width = text.iter().take(most).take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = text.split_at(width);
    (width >= least).then(|| (digits.iter().fold(0, |value, digit| value * 10 + u32::from(digit - b'0')), rest))
}

impl Parts {
    fn set(&mut self, part: Part, value: u32) -> Option<()> {
        match part {
            Part::Year => self.year = value,
            Part::ShortYear => self.year = 2000 + value,
            Part::Month => self.month = value,
            Part::Day => self.day = value,
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
        ] {
            assert_eq!(ms(pattern, text), None, "{pattern}: {text}");
        }
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for bad in ["MMM", "yyyy-MM-dd'T", "[yyyy", "yyyy]", "QQ", "EEEE"] {
            assert!(Pattern::new("dateFormat", bad).is_err(), "{bad}");
        }
        assert!(Pattern::new("dateFormat", "dd MMM").unwrap_err().message().contains("MMM"));
    }
}
