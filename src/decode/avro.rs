//! One Avro record per Kafka record, read with the schema it was written with: found by its id in a schema registry
//! (Confluent's framing: a zero byte, four bytes of id, the body), or given in the table's options (the body alone).
//!
//! The writer's fields go to the columns of the same name (case-sensitive); a column that the writer does not have is
//! null, a field that has no column is passed over. A value has to fit its column without loss: integers in range,
//! integers and floats into DOUBLE, decimals exactly or rounded half up to the column's scale, timestamps in any unit
//! (finer digits are cut off), enums and UTF-8 bytes into STRING. A plain `long` is no TIMESTAMP: declare BIGINT and
//! convert it in the query.

use arrow::datatypes::TimeUnit;

use super::{
    avro_schema::{AvroSchema, AvroType, Logical, Shape},
    column::{Column, Integer, Store, offset},
    flaw::{Flaw, Step},
    json::{push, unique_keys},
    registry::Registry,
    row::{FirstFlaw, Row},
    scan::NESTING_DEPTH_MAX,
    temporal,
};
use crate::{
    catalog::AvroOptions,
    error::{Error, Result},
};

/// Reads Avro payloads.
#[derive(Debug)]
pub(super) struct Avro {
    lenient: bool,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Given(AvroSchema),
    Registry(Registry),
}

impl Avro {
    /// # Errors
    /// `Invalid` for options that name no schema, or two.
    pub fn new(options: &AvroOptions, lenient: bool) -> Result<Self> {
        let source = match (&options.registry_url, &options.schema) {
            (Some(url), None) => Source::Registry(Registry::new(url)?),
            (None, Some(text)) => Source::Given(
                AvroSchema::parse(text)
                    .map_err(|reason| Error::invalid(format!("the option schema is no Avro schema: {reason}")))?,
            ),
            (None, None) => {
                return Err(Error::invalid("format = 'avro' needs to know the writer's schema")
                    .help("set schemaRegistry.url, or schema for records without framing"));
            }
            (Some(_), Some(_)) => {
                return Err(Error::invalid("schemaRegistry.url and schema are both set")
                    .help("schema is for records without framing: keep one of them"));
            }
        };
        Ok(Self { lenient, source })
    }

    /// Fetches the schema of `payload`, unless it is known. Blocks; after it `read` needs no network.
    ///
    /// # Errors
    /// `Unavailable`, `PermissionDenied`: the registry.
    #[inline]
    pub fn prepare(&mut self, payload: &[u8]) -> Result<()> {
        match &mut self.source {
            Source::Registry(registry) => framed(payload).map_or(Ok(()), |(id, _)| registry.load(id)),
            Source::Given(_) => Ok(()),
        }
    }

    /// Lets go of the ids that the registry did not know: they may be registered by now.
    pub fn forget_unknown(&mut self) {
        if let Source::Registry(registry) = &mut self.source {
            registry.forget_unknown();
        }
    }

    /// Appends the record to `row`, which the caller rolls back after an error.
    ///
    /// # Errors
    /// What is wrong with the record.
    pub fn read(&self, payload: &[u8], row: &mut Row) -> Step<FirstFlaw> {
        let (schema, body) = match &self.source {
            Source::Given(schema) => (schema, payload),
            Source::Registry(registry) => {
                let Some((id, body)) = framed(payload) else {
                    return Err(Flaw::malformed("no schema id: the payload does not start with a zero byte and an id"));
                };
                (registry.schema(id).map_err(Flaw::malformed)?, body)
            }
        };
        let mut body = Body { types: &schema.types, bytes: body, position: 0, first_flaw: None };
        let Shape::Record(fields) = &schema.types[schema.root].shape else {
            return Err(Flaw::malformed("the schema's top level is no record"));
        };
        body.fields(fields, row, self.lenient, 1)?;
        match body.bytes.len() - body.position {
            0 => {}
            left => return Err(Flaw::malformed(format!("{left} bytes after the end of the record"))),
        }
        row.close()?;
        Ok(body.first_flaw)
    }
}

/// The schema's id and the body of a payload in Confluent's framing.
fn framed(payload: &[u8]) -> Option<(u32, &[u8])> {
    let (head, body) = payload.split_first_chunk::<5>()?;
    let [0, id @ ..] = *head else { return None };
    Some((u32::from_be_bytes(id), body))
}

/// A place in one record.
struct Body<'a> {
    types: &'a [AvroType],
    bytes: &'a [u8],
    position: usize,
    first_flaw: FirstFlaw,
}

impl<'a> Body<'a> {
    /// Passes a record's fields and fills columns of `row`; the caller closes the row.
    fn fields(&mut self, fields: &'a [(String, usize)], row: &mut Row, lenient: bool, depth: usize) -> Step<()> {
        for (name, id) in fields {
            let Some(index) = row.find(name.as_bytes()) else {
                self.skip(*id, depth)?;
                continue;
            };
            let (start, rows) = (self.position, row.len);
            let column = row.open(index);
            if let Err(flaw) = self.value(*id, column, depth) {
                let flaw = flaw.named(name);
                if !(lenient && matches!(*flaw, Flaw::Field(_))) {
                    return Err(flaw);
                }
                self.position = start;
                self.skip(*id, depth)?;
                column.truncate(rows);
                column.push_null()?;
                self.first_flaw.get_or_insert(flaw);
            }
        }
        Ok(())
    }

    /// Passes a value of type `id` and appends it to `column`.
    fn value(&mut self, id: usize, column: &mut Column, depth: usize) -> Step<()> {
        let AvroType { shape, logical } = self.kind(id, depth)?;
        let fits = match (shape, &mut column.store) {
            (Shape::Null, _) => return column.push_null(),
            (Shape::Union(branches), _) => {
                let branch = self.branch(branches)?;
                return self.value(branch, column, depth + 1);
            }
            (Shape::Boolean, Store::Boolean(values)) => push(values, Some(self.boolean()?)),
            (Shape::Int | Shape::Long, store) => long(self.varint()?, *logical, store),
            (Shape::Float, Store::Float { values, .. }) => {
                push(values, Some(f64::from(f32::from_le_bytes(*self.chunk()?))))
            }
            (Shape::Double, Store::Float { values, single: false }) => {
                push(values, Some(f64::from_le_bytes(*self.chunk()?)))
            }
            (Shape::Bytes | Shape::String | Shape::Fixed(_), store) => {
                let raw = match shape {
                    Shape::Fixed(size) => self.take(*size)?,
                    _ => self.sized()?,
                };
                match store {
                    Store::Bytes { text, .. } => {
                        if *text && std::str::from_utf8(raw).is_err() {
                            return Err(Flaw::field("invalid UTF-8"));
                        }
                        return column.push_bytes(raw);
                    }
                    Store::Decimal { values, precision, scale } => match logical {
                        Logical::Decimal { scale: from } => push(values, decimal(raw, *from, *precision, *scale)),
                        _ => false,
                    },
                    _ => false,
                }
            }
            (Shape::Enum(symbols), Store::Bytes { text: true, .. }) => {
                let symbol = usize::try_from(self.varint()?).ok().and_then(|index| symbols.get(index));
                let symbol = symbol.ok_or_else(|| Flaw::malformed("an enum without such a symbol"))?;
                return column.push_bytes(symbol.as_bytes());
            }
            (_, store) => self.nested(shape, store, depth + 1)?,
        };
        if !fits {
            return Err(Flaw::field(format!("an Avro {} is no {}", describe(shape, *logical), column.type_name())));
        }
        column.filled();
        Ok(())
    }

    /// Passes a record, an array or a map and stores it; `false` if it is something else.
    fn nested(&mut self, shape: &'a Shape, store: &mut Store, depth: usize) -> Step<bool> {
        match (shape, store) {
            (Shape::Record(fields), Store::Struct(row)) => {
                self.fields(fields, row, false, depth)?;
                row.close()?;
            }
            (Shape::Array(item), Store::List { offsets, items }) => {
                while let Some(count) = self.block()? {
                    for _ in 0..count {
                        self.value(*item, items, depth)?;
                    }
                }
                offsets.push(offset(items.len())?);
            }
            (Shape::Map(item), Store::Map { offsets, keys, values, .. }) => {
                let entries = keys.len();
                while let Some(count) = self.block()? {
                    for _ in 0..count {
                        let key = self.sized()?;
                        std::str::from_utf8(key).map_err(|_| Flaw::field("invalid UTF-8 in a key"))?;
                        keys.push_bytes(key)?;
                        self.value(*item, values, depth)?;
                    }
                }
                unique_keys(keys, entries)?;
                offsets.push(offset(keys.len())?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Passes a value that nobody wants.
    fn skip(&mut self, id: usize, depth: usize) -> Step<()> {
        match &self.kind(id, depth)?.shape {
            Shape::Null => {}
            Shape::Boolean => drop(self.boolean()?),
            Shape::Int | Shape::Long | Shape::Enum(_) => drop(self.varint()?),
            Shape::Float => drop(self.chunk::<4>()?),
            Shape::Double => drop(self.chunk::<8>()?),
            Shape::Bytes | Shape::String => drop(self.sized()?),
            Shape::Fixed(size) => drop(self.take(*size)?),
            Shape::Union(branches) => {
                let branch = self.branch(branches)?;
                self.skip(branch, depth + 1)?;
            }
            Shape::Record(fields) => fields.iter().try_for_each(|(_, field)| self.skip(*field, depth + 1))?,
            Shape::Array(item) => {
                while let Some(count) = self.block()? {
                    (0..count).try_for_each(|_| self.skip(*item, depth + 1))?;
                }
            }
            Shape::Map(item) => {
                while let Some(count) = self.block()? {
                    for _ in 0..count {
                        self.sized()?;
                        self.skip(*item, depth + 1)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The type; a recursive schema lets data nest, and that has a limit.
    fn kind(&self, id: usize, depth: usize) -> Step<&'a AvroType> {
        if depth > NESTING_DEPTH_MAX {
            return Err(Flaw::malformed(format!("nested deeper than {NESTING_DEPTH_MAX} levels")));
        }
        self.types.get(id).ok_or_else(|| Flaw::malformed("a type that the schema does not have"))
    }

    fn take(&mut self, length: usize) -> Step<&'a [u8]> {
        let rest = &self.bytes[self.position..];
        let Some(taken) = rest.get(..length) else { return Err(self.truncated()) };
        self.position += length;
        Ok(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Step<&'a [u8; N]> {
        let Some(taken) = self.bytes[self.position..].first_chunk::<N>() else { return Err(self.truncated()) };
        self.position += N;
        Ok(taken)
    }

    #[cold]
    fn truncated(&self) -> Box<Flaw> {
        Flaw::malformed(format!("truncated: it ends at byte {} of the Avro body", self.bytes.len()))
    }

    /// A zigzag number of up to 64 bits.
    fn varint(&mut self) -> Step<i64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = *self.chunk::<1>()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
            }
        }
        Err(Flaw::malformed(format!("a number of more than 64 bits before byte {}", self.position)))
    }

    fn boolean(&mut self) -> Step<bool> {
        match self.chunk::<1>()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(Flaw::malformed(format!("{other} is no boolean"))),
        }
    }

    /// A length and so many bytes.
    fn sized(&mut self) -> Step<&'a [u8]> {
        let length = self.varint()?;
        let Ok(length) = usize::try_from(length) else {
            return Err(Flaw::malformed(format!("a length of {length}")));
        };
        self.take(length)
    }

    fn branch(&mut self, branches: &[usize]) -> Step<usize> {
        let index = self.varint()?;
        let branch = usize::try_from(index).ok().and_then(|index| branches.get(index));
        branch.copied().ok_or_else(|| Flaw::malformed(format!("a union without branch {index}")))
    }

    /// How many items the next block of an array or a map has; `None` after the last one.
    fn block(&mut self) -> Step<Option<usize>> {
        let mut count = self.varint()?;
        if count < 0 {
            // The block's size in bytes follows.
            self.varint()?;
            count = count.checked_neg().unwrap_or(i64::MAX);
        }
        // An item takes a byte at least, or a bad count would run for ever; an array of nulls is no use to anyone.
        match usize::try_from(count) {
            Ok(0) => Ok(None),
            Ok(count) if count <= self.bytes.len() - self.position => Ok(Some(count)),
            _ => Err(Flaw::malformed(format!("a block of {count} items in a record of {} bytes", self.bytes.len()))),
        }
    }
}

/// Stores an int or a long; `false` if it does not fit.
fn long(value: i64, logical: Logical, store: &mut Store) -> bool {
    match (store, logical) {
        (Store::Integer { values, kind: Integer::Timestamp(to) }, Logical::Timestamp(from)) => {
            push(values, rescale_time(value, from, *to))
        }
        (Store::Integer { values, kind: Integer::Date }, Logical::Date) => {
            push(values, i32::try_from(value).ok().map(i64::from))
        }
        (Store::Integer { values, kind }, _) => push(values, kind.fit(value)),
        (Store::Float { values, single: false }, Logical::None) => push(values, Some(value as f64)),
        (Store::Float { values, single: true }, Logical::None) => push(values, Some(f64::from(value as f32))),
        (Store::Decimal { values, precision, scale }, Logical::None) => {
            push(values, rescale_decimal(i128::from(value), 0, *precision, *scale))
        }
        _ => false,
    }
}

fn rescale_time(value: i64, from: TimeUnit, to: TimeUnit) -> Option<i64> {
    let (from, to) = (temporal::per_second(from), temporal::per_second(to));
    if to >= from { value.checked_mul(to / from) } else { Some(value.div_euclid(from / to)) }
}

/// Two's complement, the highest byte first.
fn decimal(raw: &[u8], from: i8, precision: u8, to: i8) -> Option<i128> {
    let negative = raw.first().is_some_and(|byte| *byte >= 0x80);
    let mut value = if negative { -1i128 } else { 0 };
    for byte in raw {
        value = value.checked_mul(256)? | i128::from(*byte);
    }
    rescale_decimal(value, from, precision, to)
}

fn rescale_decimal(value: i128, from: i8, precision: u8, to: i8) -> Option<i128> {
    let shift = i32::from(to) - i32::from(from);
    let factor = 10i128.checked_pow(shift.unsigned_abs());
    let value = match (shift >= 0, factor) {
        (true, factor) => value.checked_mul(factor?)?,
        // More digits are cut off than there are.
        (false, None) => 0,
        // The remainder is at least half of an even factor, or it is not.
        (false, Some(factor)) => value / factor + value % factor / (factor / 2),
    };
    (value.unsigned_abs() < 10u128.checked_pow(u32::from(precision))?).then_some(value)
}

fn describe(shape: &Shape, logical: Logical) -> &'static str {
    match (shape, logical) {
        (_, Logical::Date) => "date",
        (_, Logical::Timestamp(_)) => "timestamp",
        (_, Logical::Decimal { .. }) => "decimal",
        (Shape::Null, _) => "null",
        (Shape::Boolean, _) => "boolean",
        (Shape::Int, _) => "int",
        (Shape::Long, _) => "long",
        (Shape::Float, _) => "float",
        (Shape::Double, _) => "double",
        (Shape::Bytes, _) => "bytes",
        (Shape::String, _) => "string",
        (Shape::Fixed(_), _) => "fixed",
        (Shape::Enum(_), _) => "enum",
        (Shape::Array(_), _) => "array",
        (Shape::Map(_), _) => "map",
        (Shape::Union(_), _) => "union",
        (Shape::Record(_), _) => "record",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rescales_exactly() {
        assert_eq!(decimal(&[0xff, 0x38], 2, 5, 2), Some(-200));
        assert_eq!(decimal(&[0x30, 0x39], 3, 5, 1), Some(123)); // 12.345
        assert_eq!(rescale_decimal(-1250, 2, 5, 1), Some(-125));
        assert_eq!(rescale_decimal(-125, 2, 5, 1), Some(-13));
        assert_eq!(rescale_decimal(1, 0, 3, 3), None);
        assert_eq!(decimal(&[1; 17], 0, 38, 0), None);
        assert_eq!(rescale_time(-1, TimeUnit::Microsecond, TimeUnit::Millisecond), Some(-1));
        assert_eq!(rescale_time(i64::MAX, TimeUnit::Millisecond, TimeUnit::Nanosecond), None);
    }
}
