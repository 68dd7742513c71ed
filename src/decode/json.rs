//! One JSON object per record, read straight into the columns: no tree, no tape, no allocation per record. The next
//! field is usually the one that followed in the previous record, so its bytes are compared before they are parsed.
//!
//! The rules are those of Spark's `from_json`, except where Spark lets damage pass:
//!
//! * Names are case-sensitive; the last of duplicate keys wins; a missing field is null; unknown fields are ignored.
//! * BIGINT and its like take integers in range only (not `1.0`, not `"1"`). DOUBLE and FLOAT take numbers, and the
//!   strings `NaN`, `Infinity`, `-Infinity`; a number too large for the type is refused, not made infinite. DECIMAL
//!   takes numbers and strings of one, exactly, and rounds half up beyond its scale. BOOLEAN takes `true` and `false`.
//! * TIMESTAMP takes ISO 8601 text (see `temporal::timestamp`; without a zone it is UTC), and an integer as **seconds**
//!   since the epoch. Where a payload has milliseconds, declare BIGINT and use `to_timestamp_millis` in the query.
//!   DATE takes ISO 8601 text. BINARY takes base64.
//! * STRING takes any value: a number, an object or an array as the text that the record has for it.
//! * Nested columns follow the same rules; a MAP with the same key twice is refused.
//! * Stricter than Spark: text after the object, single quotes, bare `NaN`, invalid UTF-8 and half a surrogate pair
//!   make the record malformed. A byte order mark at the start is passed over.

use base64::{Engine, prelude::BASE64_STANDARD};

use super::{
    column::{Column, Integer, Store, offset},
    flaw::{Flaw, Step, excerpt},
    number,
    row::{FirstFlaw, Row},
    scan::{Cursor, Text, unescape},
    temporal,
};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads JSON payloads.
#[derive(Debug)]
pub(super) struct Json {
    /// Mode PERMISSIVE: a field that does not fit becomes null.
    lenient: bool,
    first_flaw: FirstFlaw,
    /// A string without its escapes.
    scratch: Vec<u8>,
}

impl Json {
    pub fn new(lenient: bool) -> Self {
        Self { lenient, first_flaw: None, scratch: Vec::new() }
    }

    /// Appends the record to `row`, which the caller rolls back after an error.
    ///
    /// # Errors
    /// What is wrong with the record.
    pub fn read(&mut self, payload: &[u8], row: &mut Row) -> Step<FirstFlaw> {
        valid_utf8(payload)?;
        let mut cursor = Cursor::new(payload);
        if payload.starts_with(BYTE_ORDER_MARK) {
            cursor.position = BYTE_ORDER_MARK.len();
        }
        cursor.space();
        if cursor.peek() != Some(b'{') {
            return Err(no_object(&mut cursor));
        }
        self.first_flaw = None;
        self.object(&mut cursor, row, true)?;
        cursor.space();
        match cursor.peek() {
            None => {}
            Some(b'{') => return Err(Flaw::malformed(format!("a second object at byte {}", cursor.position))),
            Some(_) => return Err(cursor.unexpected("the end of the record")),
        }
        // Only now, so that a malformed record fills nothing in.
        row.close()?;
        Ok(self.first_flaw.take())
    }

    /// Passes an object, whose bracket is next, and fills columns of `row`; the caller closes the row.
    fn object(&mut self, cursor: &mut Cursor<'_>, row: &mut Row, top: bool) -> Step<()> {
        let mut index = 0;
        loop {
            let column = match row.foresee(index, cursor.rest()) {
                Some((length, column)) => {
                    cursor.position += length;
                    cursor.space();
                    column
                }
                None => match self.next_field(cursor, row, index)? {
                    Some(column) => column,
                    None => return Ok(()),
                },
            };
            index += 1;
            match column {
                None => cursor.skip_value()?,
                Some(column) => {
                    let start = cursor.position;
                    if let Err(flaw) = self.value(cursor, row.open(column)) {
                        self.bad_field(cursor, row, column, start, flaw, top)?;
                    }
                }
            }
        }
    }

    /// Passes the bytes before value `index` the slow way: which column the value is for; `None` at the object's end.
    fn next_field(&mut self, cursor: &mut Cursor<'_>, row: &mut Row, index: usize) -> Step<Option<Option<usize>>> {
        let start = cursor.position;
        if index == 0 {
            cursor.position += 1;
        }
        cursor.space();
        if cursor.take(b'}') {
            return Ok(None);
        }
        if index > 0 && !cursor.take(b',') {
            return Err(cursor.unexpected("',' or '}'"));
        }
        let name = cursor.key()?;
        let column = row.find(self.plain(name));
        row.remember(index, cursor.since(start), column);
        Ok(Some(column))
    }

    /// In mode PERMISSIVE makes a field that does not fit null, and goes on behind it.
    #[cold]
    fn bad_field(
        &mut self,
        cursor: &mut Cursor<'_>,
        row: &mut Row,
        index: usize,
        start: usize,
        flaw: Box<Flaw>,
        top: bool,
    ) -> Step<()> {
        let rows = row.len;
        let column = &mut row.columns[index];
        let flaw = flaw.named(column.field.name());
        if !(top && self.lenient && matches!(*flaw, Flaw::Field(_))) {
            return Err(flaw);
        }
        cursor.position = start;
        cursor.skip_value()?;
        column.truncate(rows);
        column.push_null()?;
        self.first_flaw.get_or_insert(flaw);
        Ok(())
    }

    /// Passes a value and appends it to `column`.
    #[inline]
    fn value(&mut self, cursor: &mut Cursor<'_>, column: &mut Column) -> Step<()> {
        let start = cursor.position;
        if cursor.peek() == Some(b'n') {
            cursor.literal("null")?;
            return column.push_null();
        }
        if self.fits(cursor, column)? {
            column.filled();
            return Ok(());
        }
        // That it does not fit is the lesser flaw: first see whether it is well formed.
        cursor.position = start;
        cursor.skip_value()?;
        Err(Flaw::field(format!("{} is no {}", excerpt(cursor.since(start)), column.type_name())))
    }

    /// Passes a value that is not null and stores it; `false` if its kind or its size is not for this column.
    #[inline]
    fn fits(&mut self, cursor: &mut Cursor<'_>, column: &mut Column) -> Step<bool> {
        let start = cursor.position;
        let Some(first) = cursor.peek() else { return Err(cursor.unexpected("a value")) };
        let numeric = matches!(first, b'-' | b'0'..=b'9');
        Ok(match &mut column.store {
            Store::Float { values, single } => {
                let value = if numeric {
                    let number = cursor.number()?;
                    let text = cursor.since(start);
                    if *single { single_float(text) } else { number.to_f64(text) }
                } else if first == b'"' {
                    special_float(cursor.string()?.raw)
                } else {
                    None
                };
                push(values, value)
            }
            Store::Integer { values, kind } => {
                let value = if numeric {
                    integer(cursor, *kind)?
                } else if first == b'"' {
                    let text = cursor.string()?;
                    time(self.plain(text), *kind)
                } else {
                    None
                };
                push(values, value)
            }
            Store::Bytes { offsets, bytes, text } => return self.bytes(cursor, offsets, bytes, *text),
            Store::Boolean(values) => {
                match first {
                    b't' => cursor.literal("true")?,
                    b'f' => cursor.literal("false")?,
                    _ => return Ok(false),
                }
                values.push(first == b't');
                true
            }
            Store::Decimal { values, precision, scale } => {
                let value = self.decimal(cursor, *precision, *scale)?;
                push(values, value)
            }
            Store::Struct(_) | Store::List { .. } | Store::Map { .. } => {
                return self.nested(cursor, &mut column.store, first);
            }
        })
    }

    /// Any value as text, or a string of base64.
    fn bytes(
        &mut self,
        cursor: &mut Cursor<'_>,
        offsets: &mut Vec<i32>,
        bytes: &mut Vec<u8>,
        is_text: bool,
    ) -> Step<bool> {
        let start = cursor.position;
        if cursor.peek() != Some(b'"') {
            if !is_text {
                return Ok(false);
            }
            cursor.skip_value()?;
            bytes.extend_from_slice(cursor.since(start));
        } else {
            let text = cursor.string()?;
            if !is_text {
                if BASE64_STANDARD.decode_vec(self.plain(text), bytes).is_err() {
                    return Ok(false);
                }
            } else if text.escaped {
                unescape(text.raw, bytes);
            } else {
                bytes.extend_from_slice(text.raw);
            }
        }
        offsets.push(offset(bytes.len())?);
        Ok(true)
    }

    /// A number, or a string of one.
    fn decimal(&mut self, cursor: &mut Cursor<'_>, precision: u8, scale: i8) -> Step<Option<i128>> {
        let start = cursor.position;
        Ok(match cursor.peek() {
            Some(b'-' | b'0'..=b'9') => {
                cursor.number()?;
                number::decimal(cursor.since(start), precision, scale)
            }
            Some(b'"') => {
                let text = cursor.string()?;
                let text = self.plain(text);
                let whole = number::scan(text).is_some_and(|number| number.length == text.len());
                if whole { number::decimal(text, precision, scale) } else { None }
            }
            _ => None,
        })
    }

    /// The same for a nested column. The recursion is as deep as the declared type.
    fn nested(&mut self, cursor: &mut Cursor<'_>, store: &mut Store, first: u8) -> Step<bool> {
        match store {
            Store::Struct(row) if first == b'{' => {
                self.object(cursor, row, false)?;
                row.close()?;
            }
            Store::List { offsets, items } if first == b'[' => {
                cursor.position += 1;
                cursor.space();
                if !cursor.take(b']') {
                    loop {
                        cursor.space();
                        self.value(cursor, items)?;
                        if !more(cursor, b']')? {
                            break;
                        }
                    }
                }
                offsets.push(offset(items.len())?);
            }
            Store::Map { offsets, keys, values, .. } if first == b'{' => {
                let entries = keys.len();
                cursor.position += 1;
                cursor.space();
                if !cursor.take(b'}') {
                    loop {
                        let name = cursor.key()?;
                        keys.push_bytes(self.plain(name))?;
                        self.value(cursor, values)?;
                        if !more(cursor, b'}')? {
                            break;
                        }
                    }
                }
                unique_keys(keys, entries)?;
                offsets.push(offset(keys.len())?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The text without escapes.
    #[inline]
    fn plain<'s>(&'s mut self, text: Text<'s>) -> &'s [u8] {
        if !text.escaped {
            return text.raw;
        }
        self.scratch.clear();
        unescape(text.raw, &mut self.scratch);
        &self.scratch
    }
}

/// That the whole payload is UTF-8, so that no part of it needs to be looked at again.
///
/// # Errors
/// The record is malformed.
#[inline]
pub(super) fn valid_utf8(payload: &[u8]) -> Step<()> {
    if payload.is_ascii() {
        return Ok(());
    }
    let wrong = |error: std::str::Utf8Error| Flaw::malformed(format!("invalid UTF-8 at byte {}", error.valid_up_to()));
    std::str::from_utf8(payload).map(drop).map_err(wrong)
}

#[inline]
pub(super) fn push<T>(values: &mut Vec<T>, value: Option<T>) -> bool {
    let fits = value.is_some();
    values.extend(value);
    fits
}

/// Passes what follows an element: `true` for a comma, `false` for the bracket that ends the list.
fn more(cursor: &mut Cursor<'_>, end: u8) -> Step<bool> {
    cursor.space();
    if cursor.take(b',') {
        return Ok(true);
    }
    if cursor.take(end) {
        return Ok(false);
    }
    Err(cursor.unexpected(if end == b']' { "',' or ']'" } else { "',' or '}'" }))
}

/// Passes a number for an integer column.
#[inline]
fn integer(cursor: &mut Cursor<'_>, kind: Integer) -> Step<Option<i64>> {
    let start = cursor.position;
    let number = cursor.number()?;
    Ok(match kind {
        Integer::Unsigned(64) => number.to_u64(cursor.since(start)).map(u64::cast_signed),
        Integer::Timestamp(unit) => number.to_i64().and_then(|value| value.checked_mul(temporal::per_second(unit))),
        _ => number.to_i64().and_then(|value| kind.fit(value)),
    })
}

/// Text for an integer column: only dates and timestamps are written so.
#[inline]
fn time(text: &[u8], kind: Integer) -> Option<i64> {
    match kind {
        Integer::Timestamp(unit) => temporal::timestamp(text)?.ticks(unit),
        Integer::Date => temporal::date(text),
        Integer::Signed(_) | Integer::Unsigned(_) => None,
    }
}

/// The FLOAT nearest to `text`: rounded once, not by way of a double.
pub(super) fn single_float(text: &[u8]) -> Option<f64> {
    let value: f32 = std::str::from_utf8(text).ok()?.parse().ok()?;
    value.is_finite().then(|| f64::from(value))
}

pub(super) fn special_float(text: &[u8]) -> Option<f64> {
    match text {
        b"NaN" => Some(f64::NAN),
        b"Infinity" => Some(f64::INFINITY),
        b"-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// That the keys of one map, those after `first`, differ.
///
/// # Errors
/// A field flaw naming the key that is there twice.
pub(super) fn unique_keys(keys: &Column, first: usize) -> Step<()> {
    let Store::Bytes { offsets, bytes, .. } = &keys.store else { return Ok(()) };
    let mut names: Vec<&[u8]> =
        offsets[first..].windows(2).map(|pair| &bytes[pair[0] as usize..pair[1] as usize]).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Flaw::field(format!("the key {:?} twice in a MAP", excerpt(pair[0])))),
        None => Ok(()),
    }
}

/// What is wrong with a record that does not start with an object.
#[cold]
fn no_object(cursor: &mut Cursor<'_>) -> Box<Flaw> {
    let kind = match cursor.peek() {
        None => return Flaw::malformed("an empty payload"),
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b'n') => "null",
        Some(b't' | b'f') => "a boolean",
        Some(b'-' | b'0'..=b'9') => "a number",
        Some(_) => return cursor.unexpected("an object"),
    };
    match cursor.skip_value() {
        Ok(()) => Flaw::malformed(format!("{kind} instead of an object")),
        Err(flaw) => flaw,
    }
}
