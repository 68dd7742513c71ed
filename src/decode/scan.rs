//! Walking over the bytes of one JSON document without allocating. Everything that is passed is checked to be well
//! formed (RFC 8259), values that nobody wants included. The caller has checked that the bytes are UTF-8.

use super::{
    flaw::{Flaw, Step, excerpt},
    number::{self, Number},
};

/// Deepest nesting in a value that is only passed over; a deeper record is refused. RFC 8259 section 9 lets a
/// parser set such a limit.
pub(super) const NESTING_DEPTH_MAX: usize = u128::BITS as usize;

/// A place in one record.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    pub bytes: &'a [u8],
    pub position: usize,
}

/// The inside of a string, between its quotes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text<'a> {
    pub raw: &'a [u8],
    /// `raw` has escapes, which are known to be valid: see `unescape`.
    pub escaped: bool,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    #[inline]
    pub fn peek(&self) -> Option<u8> {
        self.bytes.get(self.position).copied()
    }

    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.position..]
    }

    /// What lies between `start` and here.
    #[inline]
    pub fn since(&self, start: usize) -> &'a [u8] {
        &self.bytes[start..self.position]
    }

    /// Passes white space.
    #[inline]
    pub fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.position += 1;
        }
    }

    /// Passes `byte` if it is next.
    #[inline]
    pub fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.position += usize::from(found);
        found
    }

    /// The flaw of a document that has something else here than `wanted`, or nothing.
    #[cold]
    pub fn unexpected(&self, wanted: &str) -> Box<Flaw> {
        let at = self.position;
        Flaw::malformed(match self.peek() {
            None => format!("truncated at byte {at}"),
            Some(0) => format!("a NUL at byte {at} instead of {wanted}"),
            Some(_) => {
                let text = excerpt(&self.bytes[at..self.bytes.len().min(at + 12)]);
                format!("{text:?} at byte {at} instead of {wanted}")
            }
        })
    }

    /// Passes a string, whose opening quote is next, and checks its escapes.
    #[inline]
    pub fn string(&mut self) -> Step<Text<'a>> {
        if !self.take(b'"') {
            return Err(self.unexpected("a string"));
        }
        let start = self.position;
        let mut escaped = false;
        loop {
            self.position += plain_length(self.rest());
            match self.peek() {
                Some(b'"') => {
                    self.position += 1;
                    return Ok(Text { raw: &self.bytes[start..self.position - 1], escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                None => return Err(self.unexpected("the end of a string")),
                Some(control) => {
                    let at = self.position;
                    return Err(Flaw::malformed(format!("a bare control character {control:#04x} at byte {at}")));
                }
            }
        }
    }

    /// Passes one escape; a high surrogate together with its low one.
    fn escape(&mut self) -> Step<()> {
        let at = self.position;
        match self.bytes.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.position += 2;
                return Ok(());
            }
            Some(b'u') => self.position += 2,
            None => return Err(Flaw::malformed(format!("truncated at byte {}", at + 1))),
            Some(_) => return Err(Flaw::malformed(format!("an unknown escape at byte {at}"))),
        }
        let lone = || Flaw::malformed(format!("half of a surrogate pair at byte {at}"));
        match self.hex()? {
            0xd800..=0xdbff => {
                if !self.rest().starts_with(b"\\u") {
                    return Err(lone());
                }
                self.position += 2;
                if (0xdc00..=0xdfff).contains(&self.hex()?) { Ok(()) } else { Err(lone()) }
            }
            0xdc00..=0xdfff => Err(lone()),
            _ => Ok(()),
        }
    }

    /// Passes four hexadecimal digits.
    fn hex(&mut self) -> Step<u32> {
        match self.rest().first_chunk::<4>().and_then(|digits| hex_value(*digits)) {
            Some(value) => {
                self.position += 4;
                Ok(value)
            }
            None => Err(Flaw::malformed(format!("a \\u without four digits at byte {}", self.position))),
        }
    }

    /// Passes a number.
    #[inline]
    pub fn number(&mut self) -> Step<Number> {
        match number::scan(self.rest()) {
            Some(number) => {
                self.position += number.length;
                Ok(number)
            }
            None => Err(self.unexpected("a JSON number")),
        }
    }

    /// Passes `word`, one of the three literals.
    #[inline]
    pub fn literal(&mut self, word: &'static str) -> Step<()> {
        if self.rest().starts_with(word.as_bytes()) {
            self.position += word.len();
            Ok(())
        } else {
            Err(self.unexpected(word))
        }
    }

    /// Passes a key and its colon, and the white space after it.
    #[inline]
    pub fn key(&mut self) -> Step<Text<'a>> {
        self.space();
        let name = self.string()?;
        self.space();
        if !self.take(b':') {
            return Err(self.unexpected("':'"));
        }
        self.space();
        Ok(name)
    }

    /// Passes a value of any kind.
    #[inline]
    pub fn skip_value(&mut self) -> Step<()> {
        match self.peek() {
            Some(b'{' | b'[' | b' ' | b'\n' | b'\r' | b'\t') => self.skip_nested(),
            _ => self.skip_scalar(),
        }
    }

    /// Iteratively, so that no input can exhaust the stack.
    fn skip_nested(&mut self) -> Step<()> {
        // One bit for each open bracket, the innermost lowest: 1 an object, 0 an array.
        let mut kinds: u128 = 0;
        let mut depth = 0;
        loop {
            self.space();
            let opened = match self.peek() {
                Some(b'{') => Some(1),
                Some(b'[') => Some(0),
                _ => None,
            };
            if let Some(kind) = opened {
                if depth == NESTING_DEPTH_MAX {
                    return Err(Flaw::malformed(format!("nested deeper than {NESTING_DEPTH_MAX} levels")));
                }
                kinds = kinds << 1 | kind;
                depth += 1;
                self.position += 1;
                self.space();
                if self.peek() != Some(if kind == 1 { b'}' } else { b']' }) {
                    if kind == 1 {
                        self.key()?;
                    }
                    continue;
                }
            } else {
                self.skip_scalar()?;
            }
            // A value has ended, or an empty bracket is about to: close what closes here, then go to the next value.
            loop {
                if depth == 0 {
                    return Ok(());
                }
                self.space();
                let object = kinds & 1 == 1;
                match self.peek() {
                    Some(b',') => {
                        self.position += 1;
                        if object {
                            self.key()?;
                        }
                        break;
                    }
                    Some(b'}') if object => {}
                    Some(b']') if !object => {}
                    _ => return Err(self.unexpected(if object { "',' or '}'" } else { "',' or ']'" })),
                }
                self.position += 1;
                depth -= 1;
                kinds >>= 1;
            }
        }
    }

    fn skip_scalar(&mut self) -> Step<()> {
        match self.peek() {
            Some(b'"') => self.string().map(drop),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            Some(b'-' | b'0'..=b'9') => self.number().map(drop),
            _ => Err(self.unexpected("a value")),
        }
    }
}

fn hex_value(digits: [u8; 4]) -> Option<u32> {
    digits.iter().try_fold(0, |value, &digit| Some(value << 4 | char::from(digit).to_digit(16)?))
}

/// How many bytes come before the first quote, backslash or control character. Eight at a time.
#[inline]
fn plain_length(bytes: &[u8]) -> usize {
    const LOW: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    let mut length = 0;
    while let Some(chunk) = bytes[length..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let quote = word ^ (LOW * b'"' as u64);
        let backslash = word ^ (LOW * b'\\' as u64);
        // The lowest marked byte is exact: a borrow can only spoil the bytes above it.
        let marks = (quote.wrapping_sub(LOW) & !quote)
            | (backslash.wrapping_sub(LOW) & !backslash)
            | (word.wrapping_sub(LOW * 0x20) & !word);
        let marks = marks & HIGH;
        if marks != 0 {
            return length + marks.trailing_zeros() as usize / 8;
        }
        length += 8;
    }
    let special = |&byte: &u8| byte == b'"' || byte == b'\\' || byte < 0x20;
    length + bytes[length..].iter().position(special).unwrap_or(bytes.len() - length)
}

/// Appends the text that `raw`, the inside of a string with valid escapes, stands for.
pub(super) fn unescape(raw: &[u8], out: &mut Vec<u8>) {
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let code = rest.get(at + 1).copied().unwrap_or(b'\\');
        rest = rest.get(at + 2..).unwrap_or_default();
        let plain = match code {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let unit =
                    |text: &[u8]| text.first_chunk::<4>().and_then(|digits| hex_value(*digits)).unwrap_or(0xfffd);
                let (mut code_point, mut passed) = (unit(rest), 4);
                if (0xd800..0xdc00).contains(&code_point) {
                    let low = unit(rest.get(6..).unwrap_or_default());
                    code_point = 0x10000 + ((code_point - 0xd800) << 10) + (low & 0x3ff);
                    passed = 10;
                }
                rest = rest.get(passed..).unwrap_or_default();
                let character = char::from_u32(code_point).unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            other => other,
        };
        out.push(plain);
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_special_byte_at_every_distance() {
        for special in [b'"', b'\\', 0, 0x1f] {
            for before in 0..40 {
                let mut bytes = vec![b'x'; before];
                bytes.push(special);
                bytes.extend([0x80, 0xff, b'!', 0x7f, b'"', 0, b'#', b']', b'[']);
                assert_eq!(plain_length(&bytes), before);
            }
        }
        let plain: Vec<u8> = (0x20..=0xff).filter(|byte| *byte != b'"' && *byte != b'\\').collect();
        assert_eq!(plain_length(&plain), plain.len());
    }

    #[test]
    fn unescapes() {
        let mut out = Vec::new();
        unescape(br#"a\"\\\/\b\f\n\r\t\u00e9\uD83D\uDE00z"#, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "a\"\\/\u{8}\u{c}\n\r\t\u{e9}\u{1f600}z");
    }

    #[test]
    fn passes_over_values_and_stops_after_them() {
        for good in ["1", "[]", "{}", "[[],{}]", r#"{"a":[1,{"b":null}],"c":"]"}"#, " [ 1 , 2 ] ", "-0.5e-3", "[{},{}]"]
        {
            let text = format!("{good},");
            let mut cursor = Cursor::new(text.as_bytes());
            cursor.skip_value().unwrap_or_else(|flaw| panic!("{good}: {flaw:?}"));
            cursor.space();
            assert_eq!(cursor.rest(), b",", "{good}");
        }
        for bad in [
            "",
            "[",
            "[1",
            "[1,",
            "[1,]",
            "[,1]",
            "{,}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "[1}",
            "{1:2}",
            "tru",
            "[ ,1]",
        ] {
            assert!(Cursor::new(bad.as_bytes()).skip_value().is_err(), "{bad}");
        }
    }

    #[test]
    fn bounds_the_depth() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(Cursor::new(nested(NESTING_DEPTH_MAX).as_bytes()).skip_value().is_ok());
        assert!(Cursor::new(nested(NESTING_DEPTH_MAX + 1).as_bytes()).skip_value().is_err());
        assert!(Cursor::new("[".repeat(10_000_000).as_bytes()).skip_value().is_err());
    }
}
