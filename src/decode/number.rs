//! Numbers as text, to the bit: what `str::parse` gives, only faster where prices live.

use std::ops::RangeInclusive;

/// What `scan` found at the start of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number {
    /// In bytes.
    pub length: usize,
    pub negative: bool,
    /// Neither a fraction nor an exponent.
    pub integer: bool,
    /// The digits without the point; only if `exact`.
    pub mantissa: u64,
    /// The value is `mantissa * 10^exponent`; only if `exact`.
    pub exponent: i32,
    /// At most 19 significant digits, and an exponent of sane size.
    pub exact: bool,
}

/// The most decimal digits that always fit a `u64`.
const DIGITS_MAX: usize = 19;

/// Powers of ten for the digits that are less than eight.
const TENS: [u64; 8] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000];

/// Digits of an exponent beyond which its value no longer matters.
const EXPONENT_MAX: i32 = 100_000;

/// Reads a JSON number from the start of `bytes`: no plus sign, no leading zeros, digits on both sides of a point.
#[inline]
pub(super) fn scan(bytes: &[u8]) -> Option<Number> {
    let negative = bytes.first() == Some(&b'-');
    let start = usize::from(negative);
    let mut mantissa = 0;
    let mut at = digits(bytes, start, &mut mantissa);
    let whole = at - start;
    if whole == 0 || (whole > 1 && bytes[start] == b'0') {
        return None;
    }
    // The zero of `0.5` is no digit of the mantissa.
    let mut significant = if bytes[start] == b'0' { 0 } else { whole };
    let mut exponent = 0;
    let mut integer = true;
    if bytes.get(at) == Some(&b'.') {
        let point = at + 1;
        at = digits(bytes, point, &mut mantissa);
        if at == point {
            return None;
        }
        integer = false;
        significant += at - point;
        exponent = -i32::try_from(at - point).unwrap_or(EXPONENT_MAX);
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        integer = false;
        let (written, end) = scan_exponent(bytes, at + 1)?;
        exponent = exponent.saturating_add(written);
        at = end;
    }
    let exact = significant <= DIGITS_MAX || significant_digits(&bytes[start..at]) <= DIGITS_MAX;
    Some(Number { length: at, negative, integer, mantissa, exponent, exact })
}

/// Passes digits, appending them to `mantissa` (which wraps after 19 of them). Eight at a time, the rest of a number
/// too: how many digits it has cannot be foreseen, and a branch for each would be mispredicted once in every number.
#[inline]
fn digits(bytes: &[u8], mut at: usize, mantissa: &mut u64) -> usize {
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        let below = word.wrapping_sub(0x3030_3030_3030_3030);
        // The lowest bit set is in the first byte that is no digit; carries reach only bytes behind it.
        let others = (word.wrapping_add(0x4646_4646_4646_4646) | below) & 0x8080_8080_8080_8080;
        if others != 0 {
            let count = others.trailing_zeros() / 8;
            // In two steps, because all 64 bits cannot be shifted out at once. What comes in front are zeros.
            let value = eight_digits(below << (56 - 8 * count) << 8);
            *mantissa = mantissa.wrapping_mul(TENS[(count & 7) as usize]).wrapping_add(value);
            return at + count as usize;
        }
        *mantissa = mantissa.wrapping_mul(100_000_000).wrapping_add(eight_digits(below));
        at += 8;
    }
    while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
        *mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        at += 1;
    }
    at
}

/// The number whose digits, the first one in the lowest byte, are the bytes of `digits`. Pairs, then fours, then all
/// eight: Lemire, "Quickly parsing eight digits" (2018).
#[inline]
fn eight_digits(digits: u64) -> u64 {
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let low = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(0x000f_4240_0000_0064);
    let high = (pairs >> 16 & 0x0000_00ff_0000_00ff).wrapping_mul(0x0000_2710_0000_0001);
    low.wrapping_add(high) >> 32
}

/// The exponent that starts at `at`, after the `e`, and where it ends.
fn scan_exponent(bytes: &[u8], mut at: usize) -> Option<(i32, usize)> {
    let negative = bytes.get(at) == Some(&b'-');
    at += usize::from(matches!(bytes.get(at), Some(b'+' | b'-')));
    let start = at;
    let mut value = 0i32;
    while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
        value = (value * 10 + i32::from(digit - b'0')).min(EXPONENT_MAX);
        at += 1;
    }
    (at > start).then_some((if negative { -value } else { value }, at))
}

/// Digits of the mantissa after its leading zeros.
#[cold]
fn significant_digits(text: &[u8]) -> usize {
    let mantissa = text.iter().take_while(|byte| !matches!(byte, b'e' | b'E')).filter(|byte| byte.is_ascii_digit());
    mantissa.skip_while(|byte| **byte == b'0').count()
}

impl Number {
    /// The double nearest to `text`, the number's own bytes; `None` if that is infinite.
    #[inline]
    pub fn to_f64(self, text: &[u8]) -> Option<f64> {
        if self.exact && POWERS.contains(&self.exponent) {
            let magnitude = nearest_f64(self.mantissa, self.exponent);
            return Some(if self.negative { -magnitude } else { magnitude });
        }
        slow_f64(text)
    }

    /// `None` for a fraction, or beyond 64 bits.
    #[inline]
    pub fn to_i64(self) -> Option<i64> {
        if !self.integer || !self.exact {
            return None;
        }
        let value = i128::from(self.mantissa);
        i64::try_from(if self.negative { -value } else { value }).ok()
    }

    /// `None` for a fraction, below zero, or beyond 64 bits.
    pub fn to_u64(self, text: &[u8]) -> Option<u64> {
        if !self.integer {
            return None;
        }
        if self.exact && !(self.negative && self.mantissa > 0) {
            return Some(self.mantissa);
        }
        std::str::from_utf8(text).ok()?.parse().ok()
    }
}

#[cold]
fn slow_f64(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok().filter(|value: &f64| value.is_finite())
}

/// Exponents for which 128 bits of the power of five always decide the rounding (Lemire 2021, section 8).
const POWERS: RangeInclusive<i32> = -27..=27;
const POWER_COUNT: usize = 55;

/// `5^q` for every `q` of `POWERS`, shifted so that the highest bit is set; the reciprocals are rounded up.
const FIVES: [u128; POWER_COUNT] = {
    let mut table = [0; POWER_COUNT];
    let mut index = 0;
    while index < POWER_COUNT {
        let q = index as i32 - 27;
        let five = 5u128.pow(q.unsigned_abs());
        table[index] = if q >= 0 { five << five.leading_zeros() } else { reciprocal(five) };
        index += 1;
    }
    table
};

/// `2^(z+127) / five + 1`, where `2^z` is the power of two above `five` (which is below `2^64`): long division by hand.
const fn reciprocal(five: u128) -> u128 {
    let z = 128 - five.leading_zeros();
    let mut remainder = 1u128;
    let mut quotient = 0u128;
    let mut step = 0;
    while step < z + 127 {
        remainder <<= 1;
        quotient <<= 1;
        if remainder >= five {
            remainder -= five;
            quotient |= 1;
        }
        step += 1;
    }
    quotient + 1
}

/// The double nearest to `mantissa * 10^exponent`, ties to even: Eisel and Lemire, "Number parsing at a gigabyte
/// per second" (2021). `exponent` is one of `POWERS`, so that no result is subnormal, infinite or undecided.
#[inline]
fn nearest_f64(mantissa: u64, exponent: i32) -> f64 {
    const FRACTION_BITS: u32 = f64::MANTISSA_DIGITS - 1;
    if mantissa == 0 {
        return 0.0;
    }
    let zeros = mantissa.leading_zeros();
    let shifted = u128::from(mantissa << zeros);
    let five = FIVES[(exponent + 27) as usize];
    let mut product = shifted * (five >> 64);
    // The low half of the power matters only when the bits below the ones we keep are all set.
    if (product >> 64) & 0x1ff == 0x1ff {
        product += (shifted * (five & u128::from(u64::MAX))) >> 64;
    }
    let (high, low) = ((product >> 64) as u64, product as u64);
    let upper = (high >> 63) as u32;
    let shift = upper + 64 - FRACTION_BITS - 3;
    let mut bits = high >> shift;
    // floor(log2(10^exponent)) in fixed point, then the bias of a double.
    let mut power = ((217_706 * exponent) >> 16) + 63 + upper as i32 - zeros as i32 + 1023;
    // Exactly half way: to the even neighbour. That happens only where the power of five fits 64 bits.
    if low <= 1 && (-4..=23).contains(&exponent) && bits & 3 == 1 && bits << shift == high {
        bits &= !1;
    }
    bits = (bits + (bits & 1)) >> 1;
    if bits >= 2 << FRACTION_BITS {
        bits = 1 << FRACTION_BITS;
        power += 1;
    }
    f64::from_bits((bits & !(1 << FRACTION_BITS)) | (power as u64) << FRACTION_BITS)
}

/// `text`, a number with an optional sign, point and exponent, as an integer of `scale` decimal places. Digits
/// beyond the scale round half up, away from zero, as Spark does. `None` if it has more than `precision` digits.
pub(super) fn decimal(text: &[u8], precision: u8, scale: i8) -> Option<i128> {
    let negative = text.first() == Some(&b'-');
    let (mantissa, exponent) = match text.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        Some(at) => (&text[..at], scan_exponent(text, at + 1)?.0),
        None => (text, 0),
    };
    let point = mantissa.iter().position(|byte| *byte == b'.').unwrap_or(mantissa.len());
    let fraction = mantissa.len().saturating_sub(point + 1);
    // How many of the digits stand before the place where the scale cuts them off.
    let digits = || mantissa.iter().filter(|byte| byte.is_ascii_digit()).map(|byte| i128::from(byte - b'0'));
    let kept =
        i64::try_from(digits().count()).ok()? - i64::try_from(fraction).ok()? + i64::from(exponent) + i64::from(scale);
    let mut value = 0i128;
    let mut passed = 0;
    for digit in digits() {
        if passed == kept {
            value += i128::from(digit >= 5);
        }
        if passed >= kept {
            break;
        }
        value = value.checked_mul(10)?.checked_add(digit)?;
        passed += 1;
    }
    while passed < kept && value != 0 {
        value = value.checked_mul(10)?;
        passed += 1;
    }
    let limit = 10i128.checked_pow(u32::from(precision))?;
    (value < limit).then_some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ours(text: &str) -> Option<f64> {
        let number = scan(text.as_bytes())?;
        assert_eq!(number.length, text.len(), "{text}");
        number.to_f64(text.as_bytes())
    }

    fn same_as_std(text: &str) {
        let expected: f64 = text.parse().unwrap();
        let got = ours(text).unwrap_or(f64::INFINITY.copysign(expected));
        assert_eq!(got.to_bits(), expected.to_bits(), "{text}: {got:e} and not {expected:e}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn doubles_are_those_of_the_standard_library(mantissa: u64, shift in 0u32..64, exponent in -40i32..40) {
            same_as_std(&format!("{}e{exponent}", mantissa >> shift));
        }

        #[test]
        fn decimal_fractions_too(whole in 0u64..2_000_000, fraction: u64, keep in 1usize..20, minus: bool) {
            let fraction = format!("{fraction:020}");
            same_as_std(&format!("{}{whole}.{}", if minus { "-" } else { "" }, &fraction[..keep]));
        }

        #[test]
        fn every_double_reads_back(bits: u64) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            same_as_std(&format!("{value}"));
            same_as_std(&format!("{value:e}"));
        }

        /// Half way between two doubles, and one digit to either side of it.
        #[test]
        fn ties_round_to_even(mantissa in (1u64 << 52)..(1u64 << 53), power in 0u32..11) {
            let half = (u128::from(mantissa) * 2 + 1) << power;
            for near in [half - 1, half, half + 1] {
                same_as_std(&format!("{near}"));
            }
        }

        #[test]
        fn integers_are_exact(value: i64, unsigned: u64) {
            let (text, positive) = (value.to_string(), unsigned.to_string());
            prop_assert_eq!(scan(text.as_bytes()).unwrap().to_i64(), Some(value));
            prop_assert_eq!(scan(positive.as_bytes()).unwrap().to_u64(positive.as_bytes()), Some(unsigned));
        }

        #[test]
        fn decimals_keep_every_digit(value in -10i128.pow(20)..10i128.pow(20), scale in 0usize..12) {
            let digits = format!("{:0width$}", value.unsigned_abs(), width = scale + 1);
            let (whole, fraction) = digits.split_at(digits.len() - scale);
            let text = format!("{}{whole}.{fraction}0", if value < 0 { "-" } else { "" });
            prop_assert_eq!(decimal(text.as_bytes(), 38, scale as i8), Some(value), "{}", text);
        }
    }

    #[test]
    fn reads_the_corners() {
        for text in [
            "0",
            "-0",
            "0.0",
            "-0.0",
            "1e22",
            "1e23",
            "8.5e-27",
            "9007199254740993",
            "5e-324",
            "1e-400",
            "1.7976931348623157e308",
            "0.000000000000000000000000000123",
            "123456789012345678901234567890",
            "0.1234567890123456789",
            "0.00012345678901234567",
            "1E+2",
            "9223372036854775807",
        ] {
            same_as_std(text);
        }
        for text in ["1e400", "-1e400", "1e99999999999"] {
            assert_eq!(ours(text), None, "{text}");
        }
        for text in ["", "-", "+1", ".5", "1.", "01", "-01", "00", "1e", "1e+", "1.e5", "e5", "NaN", "0x10"] {
            assert!(scan(text.as_bytes()).is_none_or(|number| number.length != text.len()), "{text}");
        }
        let integer = |text: &str| scan(text.as_bytes()).unwrap().to_i64();
        assert_eq!(integer("-0"), Some(0));
        assert_eq!(integer("-9223372036854775808"), Some(i64::MIN));
        for text in ["9223372036854775808", "-9223372036854775809", "123456789012345678901234567890", "1.0", "1e3"] {
            assert_eq!(integer(text), None, "{text}");
        }
    }

    #[test]
    fn decimals_round_half_up_and_refuse_overflow() {
        let cases = [
            ("12.345", Some(1235)),
            ("-12.345", Some(-1235)),
            ("12.344999", Some(1234)),
            ("1e2", Some(10000)),
            ("0.004", Some(0)),
            ("0.005", Some(1)),
            ("999.994", Some(99999)),
            ("999.995", None),
            ("1e99999", None),
            ("0e99999", Some(0)),
            ("5e-99999", Some(0)),
            ("1234", None),
            ("-0", Some(0)),
            ("1234.5e-2", Some(1235)),
        ];
        for (text, expected) in cases {
            assert_eq!(decimal(text.as_bytes(), 5, 2), expected, "{text}");
        }
    }
}
