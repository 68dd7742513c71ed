//! Text forms of numbers and times: what a user types, and what goes into a record.

use std::io::Write;

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, Timelike};

use crate::error::{Error, Result};

const MICROS_PER_SECOND: i64 = 1_000_000;

/// Parses a date, a date with a time (UTC unless it has a zone), or milliseconds since the epoch; microseconds since the epoch.
///
/// # Errors
/// `Invalid` for anything else.
pub fn parse_time_us(text: &str) -> Result<i64> {
    let text = text.trim();
    if let Ok(zoned) = DateTime::parse_from_rfc3339(text) {
        return Ok(zoned.timestamp_micros());
    }
    for format in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"] {
        if let Ok(local) = NaiveDateTime::parse_from_str(text, format) {
            return Ok(local.and_utc().timestamp_micros());
        }
    }
    if let Some(midnight) = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().and_then(|day| day.and_hms_opt(0, 0, 0)) {
        return Ok(midnight.and_utc().timestamp_micros());
    }
    if let Some(us) = text.parse::<i64>().ok().and_then(|ms| ms.checked_mul(1_000)) {
        return Ok(us);
    }
    Err(Error::invalid(format!("'{text}' is no time"))
        .help("write 2026-01-31, 2026-01-31T12:00:00 (UTC), 2026-01-31T12:00:00+01:00, or milliseconds since 1970"))
}

/// `2026-01-31T12:00:00.123Z`.
pub fn write_time_ms(time_ms: i64, out: &mut Vec<u8>) {
    let mut text = TimeText::default();
    text.write_seconds(time_ms.div_euclid(1_000), out);
    out.push(b'.');
    write_padded(time_ms.rem_euclid(1_000).unsigned_abs(), 3, out);
    out.push(b'Z');
}

/// Writes times as Python's `datetime.isoformat` does, and keeps the text of the last whole second: at high rates
/// thousands of records share it.
#[derive(Debug, Clone, Default)]
pub struct TimeText {
    second: Option<i64>,
    text: Vec<u8>,
}

impl TimeText {
    /// `2026-01-31T12:00:00.123456`, and without the fraction when it is zero.
    pub fn write_us(&mut self, time_us: i64, out: &mut Vec<u8>) {
        self.write_seconds(time_us.div_euclid(MICROS_PER_SECOND), out);
        let micros = time_us.rem_euclid(MICROS_PER_SECOND).unsigned_abs();
        if micros != 0 {
            out.push(b'.');
            write_padded(micros, 6, out);
        }
    }

    fn write_seconds(&mut self, second: i64, out: &mut Vec<u8>) {
        if self.second != Some(second) {
            let time = DateTime::from_timestamp(second, 0).unwrap_or_default();
            self.second = Some(second);
            self.text.clear();
            let year = u64::try_from(time.year()).unwrap_or(0);
            let parts = [
                (year, 4, b'-'),
                (time.month().into(), 2, b'-'),
                (time.day().into(), 2, b'T'),
                (time.hour().into(), 2, b':'),
                (time.minute().into(), 2, b':'),
            ];
            for (number, width, separator) in parts {
                write_padded(number, width, &mut self.text);
                self.text.push(separator);
            }
            write_padded(time.second().into(), 2, &mut self.text);
        }
        out.extend_from_slice(&self.text);
    }
}

/// An integer in decimal, with leading zeros up to `width`.
pub fn write_padded(mut number: u64, width: usize, out: &mut Vec<u8>) {
    let mut digits = [b'0'; 20];
    let mut first = digits.len();
    while number > 0 || digits.len() - first < width.max(1) {
        first -= 1;
        digits[first] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
    out.extend_from_slice(&digits[first..]);
}

/// Hundredths as the shortest decimal with at least one digit after the point: 1950 -> `19.5`, 1900 -> `19.0`.
pub fn write_hundredths(hundredths: u64, out: &mut Vec<u8>) {
    write_padded(hundredths / 100, 1, out);
    out.push(b'.');
    match hundredths % 100 {
        fraction if fraction % 10 == 0 => write_padded(fraction / 10, 1, out),
        fraction => write_padded(fraction, 2, out),
    }
}

/// A finite float as Python's `repr` writes it: the shortest digits that read back the same, always with a point or an
/// exponent, an exponent of at least two digits, and that only below 1e-4 and from 1e16 on.
///
/// # Errors
/// `Internal`, never for a `Vec`.
pub fn write_float(value: f64, out: &mut Vec<u8>) -> Result<()> {
    let defect = |error: std::io::Error| Error::internal(error.to_string());
    if value == 0.0 || (1e-4..1e16).contains(&value.abs()) {
        // The same shortest digits as `{}`, several times as fast.
        return serde_json::to_writer(out, &value).map_err(|error| defect(error.into()));
    }
    let start = out.len();
    write!(out, "{value:e}").map_err(defect)?;
    let Some(exponent) = out[start..].iter().position(|byte| *byte == b'e').map(|at| start + at + 1) else {
        return Ok(());
    };
    let negative = out.get(exponent) == Some(&b'-');
    let digits = exponent + usize::from(negative);
    if out.len() - digits < 2 {
        out.insert(digits, b'0');
    }
    if !negative {
        out.insert(exponent, b'+');
    }
    Ok(())
}

/// A decimal string as Binance sends it, as a JSON number with the same value and no needless zeros:
/// `16555.07000000` -> `16555.07`, `16555.00000000` -> `16555.0`. The digits never pass through a float.
/// `None` when the text is no decimal number.
pub fn decimal_number(text: &str) -> Option<(&str, &str)> {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    // JSON forbids leading zeros, and Binance never sends them.
    if !digits(whole) || !digits(fraction) || (whole.len() > 1 && whole.starts_with('0')) {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    let sign = text.len() - unsigned.len();
    Some((&text[..sign + whole.len()], if fraction.is_empty() { "0" } else { fraction }))
}

/// Appends `decimal_number(text)`; false, and nothing appended, when the text is no decimal number.
pub fn write_decimal(text: &str, out: &mut Vec<u8>) -> bool {
    let Some((whole, fraction)) = decimal_number(text) else { return false };
    out.extend_from_slice(whole.as_bytes());
    out.push(b'.');
    out.extend_from_slice(fraction.as_bytes());
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn float(value: f64) -> String {
        let mut out = Vec::new();
        write_float(value, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn decimal(text: &str) -> Option<String> {
        let mut out = Vec::new();
        write_decimal(text, &mut out).then(|| String::from_utf8(out).unwrap())
    }

    #[test]
    fn floats_look_like_pythons() {
        // The right-hand sides are what CPython's repr printed.
        let expected = [
            (0.5, "0.5"),
            (1.0, "1.0"),
            (0.0, "0.0"),
            (-0.25, "-0.25"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (2.499_999_999_599_822_3e-7, "2.4999999995998223e-07"),
            (-0.085_745_750_000_000_04, "-0.08574575000000004"),
            (1.081_684_250_000_000_1, "1.0816842500000001"),
            (1e16, "1e+16"),
            (123_456_789_012_345.6, "123456789012345.6"),
            (1e-300, "1e-300"),
        ];
        for (value, text) in expected {
            assert_eq!(float(value), text);
        }
    }

    #[test]
    fn decimals_keep_their_digits() {
        assert_eq!(decimal("16555.07000000").as_deref(), Some("16555.07"));
        assert_eq!(decimal("16555.00000000").as_deref(), Some("16555.0"));
        assert_eq!(decimal("0.00000010").as_deref(), Some("0.0000001"));
        assert_eq!(decimal("123456789012345678.123456789").as_deref(), Some("123456789012345678.123456789"));
        assert_eq!(decimal("-5").as_deref(), Some("-5.0"));
        for wrong in ["", ".", "1.", ".5", "1e5", "abc", "1.2.3", "--1", "007.5", "1,5", "NaN"] {
            assert_eq!(decimal(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn times() {
        let midnight = 1_767_225_600_000_000;
        for text in
            ["2026-01-01", "2026-01-01T00:00:00", "2026-01-01T01:00:00+01:00", "1767225600000", "2026-01-01 00:00"]
        {
            assert_eq!(parse_time_us(text).unwrap(), midnight, "{text}");
        }
        assert!(parse_time_us("yesterday").unwrap_err().to_string().contains("help: write 2026"));
    }

    #[test]
    fn times_look_like_pythons() {
        let mut text = TimeText::default();
        for (us, expected) in [
            (1_767_225_600_000_000, "2026-01-01T00:00:00"),
            (1_767_225_600_000_001, "2026-01-01T00:00:00.000001"),
            (1_767_225_600_500_000, "2026-01-01T00:00:00.500000"),
            (-1, "1969-12-31T23:59:59.999999"),
        ] {
            let mut out = Vec::new();
            text.write_us(us, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
        let mut out = Vec::new();
        write_time_ms(1_767_225_600_007, &mut out);
        assert_eq!(out, b"2026-01-01T00:00:00.007Z");
    }

    proptest! {
        #[test]
        fn every_float_reads_back(value in any::<f64>().prop_filter("finite", |v| v.is_finite())) {
            prop_assert_eq!(float(value).parse::<f64>().unwrap().to_bits(), value.to_bits());
        }

        #[test]
        fn every_hundredth_is_the_floats_shortest_text(hundredths in 0_u64..10_000_000) {
            let mut out = Vec::new();
            write_hundredths(hundredths, &mut out);
            let expected = float(hundredths as f64 / 100.0);
            if hundredths >= 1 { prop_assert_eq!(String::from_utf8(out).unwrap(), expected); }
        }

        #[test]
        fn every_time_reads_back(us in 0_i64..4_000_000_000_000_000) {
            let mut out = Vec::new();
            TimeText::default().write_us(us, &mut out);
            prop_assert_eq!(parse_time_us(std::str::from_utf8(&out).unwrap()).unwrap(), us);
        }
    }
}
