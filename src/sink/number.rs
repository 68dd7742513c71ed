//! Numbers as text, in the form that Java gives them.
//!
//! Spark's text files hold what `Double.toString` says, so ours do too: `16555.07`, `1.0E10`, `NaN`, `-Infinity`.

/// Appends an integer.
pub(crate) fn write_integer(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends a double as Java's `Double.toString` does: the shortest digits that read back as the same double, in
/// plain notation from 0.001 up to ten million and in E-notation outside.
pub(crate) fn write_double(out: &mut Vec<u8>, value: f64) {
    if !value.is_finite() {
        return write_not_finite(out, value.is_nan(), value < 0.0);
    }
    if value.is_sign_negative() {
        out.push(b'-');
    }
    let value = value.abs();
    if write_hundredths(out, value) {
        return;
    }
    let mut digits = Digits::parse(zmij::Buffer::new().format_finite(value).as_bytes());
    if digits.count == 1 && value < TINY_DOUBLE {
        digits = Digits::parse(format!("{value:.1e}").as_bytes());
    }
    write_java(out, &digits);
}

/// Appends a float as Java's `Float.toString` does.
pub(crate) fn write_float(out: &mut Vec<u8>, value: f32) {
    if !value.is_finite() {
        return write_not_finite(out, value.is_nan(), value < 0.0);
    }
    if value.is_sign_negative() {
        out.push(b'-');
    }
    let value = value.abs();
    if value == 0.0 {
        return out.extend_from_slice(b"0.0");
    }
    let mut digits = Digits::parse(zmij::Buffer::new().format_finite(value).as_bytes());
    if digits.count == 1 && value < TINY_FLOAT {
        digits = Digits::parse(format!("{value:.1e}").as_bytes());
    }
    write_java(out, &digits);
}

/// Appends a decimal whose unscaled value is `digits` (with its sign), in plain notation with exactly `scale`
/// digits after the point.
pub(crate) fn write_decimal(out: &mut Vec<u8>, digits: &str, scale: i8) {
    let digits = match digits.strip_prefix('-') {
        Some(rest) => {
            out.push(b'-');
            rest
        }
        None => digits,
    };
    let places = usize::from(scale.unsigned_abs());
    if scale <= 0 {
        out.extend_from_slice(digits.as_bytes());
        if digits != "0" {
            out.resize(out.len() + places, b'0');
        }
        return;
    }
    let whole = digits.len().saturating_sub(places);
    if whole == 0 {
        out.extend_from_slice(b"0.");
        out.resize(out.len() + places - digits.len(), b'0');
    } else {
        out.extend_from_slice(&digits.as_bytes()[..whole]);
        out.push(b'.');
    }
    out.extend_from_slice(&digits.as_bytes()[whole..]);
}

/// Below these one digit may be enough to tell a number from its neighbours, and Java shows the two nearest:
/// `Double.MIN_VALUE` is `4.9E-324`, not `5.0E-324`.
const TINY_DOUBLE: f64 = 1e-300;
const TINY_FLOAT: f32 = 1e-36;

fn write_not_finite(out: &mut Vec<u8>, is_nan: bool, is_negative: bool) {
    out.extend_from_slice(match (is_nan, is_negative) {
        (true, _) => b"NaN".as_slice(),
        (false, false) => b"Infinity",
        (false, true) => b"-Infinity",
    });
}

/// Prices have two decimals. A decimal of at most 15 digits that rounds to `value` is its shortest text, so one
/// division decides, and the digits are an integer's.
fn write_hundredths(out: &mut Vec<u8>, value: f64) -> bool {
    if !(1e-3..1e7).contains(&value) {
        if value == 0.0 {
            out.extend_from_slice(b"0.0");
        }
        return value == 0.0;
    }
    // Between 0 and 1e9: the cast is exact.
    let hundredths = (value * 100.0 + 0.5) as u32;
    if f64::from(hundredths) / 100.0 != value {
        return false;
    }
    write_integer(out, hundredths / 100);
    let [tens, ones] = two(hundredths % 100);
    out.extend_from_slice(&[b'.', tens]);
    if ones != b'0' {
        out.push(ones);
    }
    true
}

/// The two digits of a number below 100.
#[inline]
pub(crate) fn two(value: u32) -> [u8; 2] {
    [b'0' + (value / 10 % 10) as u8, b'0' + (value % 10) as u8]
}

/// A positive number as `0.d1d2d3... * 10^point`.
struct Digits {
    digits: [u8; 24],
    count: usize,
    point: i32,
}

impl Digits {
    /// Reads `123.45`, `1.2345e2` and the like.
    fn parse(text: &[u8]) -> Self {
        let mut it = Self { digits: [b'0'; 24], count: 0, point: 0 };
        let mut seen_point = false;
        let mut exponent = 0;
        for (i, &byte) in text.iter().enumerate() {
            match byte {
                b'0' if it.count == 0 => it.point -= i32::from(seen_point),
                b'0'..=b'9' if it.count < it.digits.len() => {
                    it.digits[it.count] = byte;
                    it.count += 1;
                    it.point += i32::from(!seen_point);
                }
                b'.' => seen_point = true,
                b'e' => {
                    exponent = parse_exponent(&text[i + 1..]);
                    break;
                }
                _ => {}
            }
        }
        while it.count > 1 && it.digits[it.count - 1] == b'0' {
            it.count -= 1;
        }
        it.point += exponent;
        it
    }
}

fn parse_exponent(text: &[u8]) -> i32 {
    let digits = text.iter().filter(|byte| byte.is_ascii_digit());
    let size = digits.fold(0, |sum, byte| sum * 10 + i32::from(byte - b'0'));
    if text.first() == Some(&b'-') { -size } else { size }
}

fn write_java(out: &mut Vec<u8>, number: &Digits) {
    let digits = &number.digits[..number.count];
    // Java counts from the first digit: 1.5 has the exponent 0.
    let exponent = number.point - 1;
    match usize::try_from(number.point) {
        Ok(point) if (0..7).contains(&exponent) => {
            let whole = point.min(digits.len());
            out.extend_from_slice(&digits[..whole]);
            out.resize(out.len() + point - whole, b'0');
            out.push(b'.');
            out.extend_from_slice(if whole < digits.len() { &digits[whole..] } else { b"0" });
        }
        _ if (-3..0).contains(&exponent) => {
            out.extend_from_slice(b"0.");
            out.resize(out.len() + usize::try_from(-number.point).unwrap_or(0), b'0');
            out.extend_from_slice(digits);
        }
        _ => {
            out.extend_from_slice(&[digits[0], b'.']);
            out.extend_from_slice(if digits.len() > 1 { &digits[1..] } else { b"0" });
            out.push(b'E');
            write_integer(out, exponent);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn double(value: f64) -> String {
        let mut out = Vec::new();
        write_double(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    fn float(value: f32) -> String {
        let mut out = Vec::new();
        write_float(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    fn decimal(digits: &str, scale: i8) -> String {
        let mut out = Vec::new();
        write_decimal(&mut out, digits, scale);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn doubles_are_java_s() {
        for (value, text) in [
            (0.1, "0.1"),
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (1e10, "1.0E10"),
            (1e-5, "1.0E-5"),
            (1.2e-4, "1.2E-4"),
            (0.001, "0.001"),
            (0.000_999, "9.99E-4"),
            (100_000.0, "100000.0"),
            (9_999_999.0, "9999999.0"),
            (1e7, "1.0E7"),
            (12_345_678.9, "1.23456789E7"),
            (16555.07, "16555.07"),
            (-16555.1, "-16555.1"),
            (0.29, "0.29"),
            (1.005, "1.005"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1.0 / 3.0, "0.3333333333333333"),
            (f64::MAX, "1.7976931348623157E308"),
            (f64::MIN_POSITIVE, "2.2250738585072014E-308"),
            (5e-324, "4.9E-324"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(double(value), text);
        }
    }

    #[test]
    fn floats_are_java_s() {
        for (value, text) in [
            (0.1, "0.1"),
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            // Java 19 and later; 17 has a digit more than it takes.
            (123_456_790.0, "1.2345679E8"),
            (1e-45, "1.4E-45"),
            (16.5, "16.5"),
            (f32::NAN, "NaN"),
            (f32::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(float(value), text);
        }
    }

    #[test]
    fn decimals_are_plain() {
        for (digits, scale, text) in [
            ("150000", 5, "1.50000"),
            ("-1", 5, "-0.00001"),
            ("0", 2, "0.00"),
            ("42", 0, "42"),
            ("42", -2, "4200"),
            ("0", -2, "0"),
            ("12345", 5, "0.12345"),
            ("-123456", 5, "-1.23456"),
        ] {
            assert_eq!(decimal(digits, scale), text);
        }
    }

    proptest! {
        #[test]
        fn a_double_reads_back(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            prop_assert_eq!(double(value).parse::<f64>().unwrap().to_bits(), bits);
        }

        #[test]
        fn hundredths_have_the_shortest_text(cents in 0_u32..2_000_000_000) {
            let value = f64::from(cents) / 100.0;
            let text = double(value);
            prop_assert_eq!(text.parse::<f64>().unwrap(), value);
            if (1e-3..1e7).contains(&value) {
                prop_assert_eq!(text, format!("{value:?}"));
            }
        }
    }
}
