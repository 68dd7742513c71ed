//! The types of columns, from SQL to Arrow.

use std::{collections::BTreeSet, sync::Arc};

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Field, Fields, TimeUnit};

use super::{cursor::Cursor, lexer::TokenKind};
use crate::error::{Error, Result, nearest};

/// `ARRAY<ARRAY<...>>` goes no deeper.
const NESTING_MAX: usize = 16;

/// Spark's `DECIMAL` without precision.
const DECIMAL_DEFAULT: (u8, i8) = (10, 0);

/// UTC, as Arrow writes it.
const UTC: &str = "+00:00";

const NAMES: &[&str] = &[
    "BOOLEAN",
    "TINYINT",
    "SMALLINT",
    "INT",
    "INTEGER",
    "BIGINT",
    "LONG",
    "FLOAT",
    "REAL",
    "DOUBLE",
    "DECIMAL",
    "NUMERIC",
    "STRING",
    "VARCHAR",
    "CHAR",
    "TEXT",
    "BINARY",
    "BYTES",
    "VARBINARY",
    "DATE",
    "TIMESTAMP",
    "TIMESTAMP_LTZ",
    "TIMESTAMPTZ",
    "ARRAY",
    "MAP",
    "ROW",
    "STRUCT",
];

/// Reads a type. Strings are `Utf8`; the length of `VARCHAR(n)` is documentation, it is not enforced.
///
/// # Errors
/// `Invalid` or `Unsupported` at the type's place, with the nearest name.
pub fn data_type(cursor: &mut Cursor<'_>) -> Result<DataType> {
    nested(cursor, 0)
}

fn nested(cursor: &mut Cursor<'_>, depth: usize) -> Result<DataType> {
    let range = cursor.range();
    if depth > NESTING_MAX {
        let error = Error::unsupported(format!("types nest at most {NESTING_MAX} levels deep"));
        return Err(error.at(cursor.place(range)));
    }
    let word = match cursor.peek() {
        Some(token) if token.kind == TokenKind::Word => token.value.to_uppercase(),
        _ => return Err(cursor.unexpected("a type")),
    };
    cursor.advance();
    Ok(match word.as_str() {
        "BOOLEAN" | "BOOL" => DataType::Boolean,
        "TINYINT" => DataType::Int8,
        "SMALLINT" => DataType::Int16,
        "INT" | "INTEGER" => DataType::Int32,
        "BIGINT" | "LONG" => DataType::Int64,
        "FLOAT" | "REAL" => DataType::Float32,
        "DOUBLE" => {
            cursor.words(&["PRECISION"]);
            DataType::Float64
        }
        "DECIMAL" | "NUMERIC" | "DEC" => decimal(cursor)?,
        "STRING" | "VARCHAR" | "CHAR" | "TEXT" => {
            length(cursor)?;
            DataType::Utf8
        }
        "BINARY" | "BYTES" | "VARBINARY" => {
            length(cursor)?;
            DataType::Binary
        }
        "DATE" => DataType::Date32,
        "TIMESTAMP" => timestamp(cursor, false)?,
        "TIMESTAMP_LTZ" | "TIMESTAMPTZ" => timestamp(cursor, true)?,
        "ARRAY" => {
            cursor.expect_symbol('<')?;
            let item = nested(cursor, depth + 1)?;
            cursor.expect_symbol('>')?;
            DataType::new_list(item, true)
        }
        "MAP" => map(cursor, depth)?,
        "ROW" | "STRUCT" => row(cursor, depth)?,
        "TIME" => {
            let error = Error::unsupported("the type TIME is not in this version").at(cursor.place(range));
            return Err(error.help("declare the column STRING"));
        }
        _ => {
            let error = Error::invalid(format!("unknown type '{}'", cursor.source().shown(range.clone())));
            let help = match nearest(&word, NAMES.iter().copied()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("the types are {}", NAMES.join(", ")),
            };
            return Err(error.at(cursor.place(range)).help(help));
        }
    })
}

/// A whole number in `low..=high`.
fn number(cursor: &mut Cursor<'_>, low: u32, high: u32) -> Result<u32> {
    let value =
        cursor.peek().filter(|token| token.kind == TokenKind::Number).and_then(|token| token.value.parse().ok());
    match value {
        Some(value) if (low..=high).contains(&value) => {
            cursor.advance();
            Ok(value)
        }
        _ => Err(cursor.unexpected(&format!("a number from {low} to {high}"))),
    }
}

fn length(cursor: &mut Cursor<'_>) -> Result<()> {
    if cursor.symbol('(') {
        number(cursor, 1, i32::MAX.unsigned_abs())?;
        cursor.expect_symbol(')')?;
    }
    Ok(())
}

fn decimal(cursor: &mut Cursor<'_>) -> Result<DataType> {
    if !cursor.symbol('(') {
        let (precision, scale) = DECIMAL_DEFAULT;
        return Ok(DataType::Decimal128(precision, scale));
    }
    let precision = number(cursor, 1, u32::from(DECIMAL128_MAX_PRECISION))?;
    let scale = if cursor.symbol(',') { number(cursor, 0, precision)? } else { 0 };
    cursor.expect_symbol(')')?;
    // Both are at most 38.
    let small = |value: u32| u8::try_from(value).unwrap_or(DECIMAL128_MAX_PRECISION);
    Ok(DataType::Decimal128(small(precision), small(scale).cast_signed()))
}

fn timestamp(cursor: &mut Cursor<'_>, zoned: bool) -> Result<DataType> {
    let mut unit = TimeUnit::Microsecond;
    if cursor.symbol('(') {
        unit = match cursor.peek().map(|token| token.value.as_str()) {
            Some("0") => TimeUnit::Second,
            Some("3") => TimeUnit::Millisecond,
            Some("6") => TimeUnit::Microsecond,
            Some("9") => TimeUnit::Nanosecond,
            _ => return Err(cursor.unexpected("a precision of 0, 3, 6 or 9 digits")),
        };
        cursor.advance();
        cursor.expect_symbol(')')?;
    }
    let zoned = zoned || cursor.words(&["WITH", "TIME", "ZONE"]) || cursor.words(&["WITH", "LOCAL", "TIME", "ZONE"]);
    if !zoned {
        cursor.words(&["WITHOUT", "TIME", "ZONE"]);
    }
    Ok(DataType::Timestamp(unit, zoned.then(|| UTC.into())))
}

fn map(cursor: &mut Cursor<'_>, depth: usize) -> Result<DataType> {
    cursor.expect_symbol('<')?;
    let key_range = cursor.range();
    let key = nested(cursor, depth + 1)?;
    if key != DataType::Utf8 {
        let error = Error::unsupported("the keys of a MAP are strings").at(cursor.place(key_range));
        return Err(error.help("write MAP<STRING, ...>"));
    }
    cursor.expect_symbol(',')?;
    let value = nested(cursor, depth + 1)?;
    cursor.expect_symbol('>')?;
    let entry = Fields::from(vec![Field::new("key", key, false), Field::new("value", value, true)]);
    Ok(DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entry), false)), false))
}

fn row(cursor: &mut Cursor<'_>, depth: usize) -> Result<DataType> {
    cursor.expect_symbol('<')?;
    let mut fields = Vec::new();
    let mut seen = BTreeSet::new();
    loop {
        let name = cursor.name("a field's name")?;
        if !seen.insert(name.text.to_lowercase()) {
            let error = Error::invalid(format!("there are two fields '{}' in this row", name.text));
            return Err(error.at(cursor.place(name.range)));
        }
        // Spark writes a colon, Flink does not.
        cursor.symbol(':');
        let data_type = nested(cursor, depth + 1)?;
        let nullable = !cursor.words(&["NOT", "NULL"]);
        fields.push(Field::new(name.text, data_type, nullable));
        if !cursor.symbol(',') {
            break;
        }
    }
    cursor.expect_symbol('>')?;
    Ok(DataType::Struct(fields.into()))
}

/// An Arrow type in the words of a `CREATE TABLE`, for messages.
pub fn sql_name(data_type: &DataType) -> String {
    let precision = |unit: &TimeUnit| match unit {
        TimeUnit::Second => "(0)",
        TimeUnit::Millisecond => "(3)",
        TimeUnit::Microsecond => "",
        TimeUnit::Nanosecond => "(9)",
    };
    match data_type {
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int8 => "TINYINT".to_owned(),
        DataType::Int16 => "SMALLINT".to_owned(),
        DataType::Int32 => "INT".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::Float32 => "FLOAT".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Utf8 => "STRING".to_owned(),
        DataType::Binary => "BINARY".to_owned(),
        DataType::Date32 => "DATE".to_owned(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::Timestamp(unit, None) => format!("TIMESTAMP{}", precision(unit)),
        DataType::Timestamp(unit, Some(_)) => format!("TIMESTAMP_LTZ{}", precision(unit)),
        DataType::List(item) => format!("ARRAY<{}>", sql_name(item.data_type())),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                format!("MAP<{}, {}>", sql_name(fields[0].data_type()), sql_name(fields[1].data_type()))
            }
            other => other.to_string(),
        },
        DataType::Struct(fields) => {
            let field = |f: &Arc<Field>| format!("{} {}", f.name(), sql_name(f.data_type()));
            format!("ROW<{}>", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{KafkaColumn, lexer::tokens, text::SourceText};

    fn parse(sql: &str) -> Result<DataType> {
        let mut source = SourceText::new("a.sql", sql);
        source.push_verbatim(0..sql.len());
        let tokens = tokens(sql).unwrap();
        let source = Arc::new(source);
        let mut cursor = Cursor::new(&source, &tokens);
        let parsed = data_type(&mut cursor)?;
        cursor.end()?;
        Ok(parsed)
    }

    #[test]
    fn every_type_reads_back_as_it_was_named() {
        for name in [
            "BOOLEAN",
            "TINYINT",
            "SMALLINT",
            "INT",
            "BIGINT",
            "FLOAT",
            "DOUBLE",
            "DECIMAL(38, 18)",
            "STRING",
            "BINARY",
            "DATE",
            "TIMESTAMP",
            "TIMESTAMP(0)",
            "TIMESTAMP(3)",
            "TIMESTAMP(9)",
            "TIMESTAMP_LTZ",
            "TIMESTAMP_LTZ(3)",
            "ARRAY<ARRAY<INT>>",
            "MAP<STRING, ROW<a INT, b ARRAY<DATE>>>",
        ] {
            assert_eq!(sql_name(&parse(name).unwrap()), name);
        }
    }

    #[test]
    fn other_spellings_mean_the_same() {
        for (spelling, name) in [
            ("integer", "INT"),
            ("long", "BIGINT"),
            ("real", "FLOAT"),
            ("double precision", "DOUBLE"),
            ("numeric", "DECIMAL(10, 0)"),
            ("dec(5)", "DECIMAL(5, 0)"),
            ("varchar(20)", "STRING"),
            ("bytes", "BINARY"),
            ("timestamp(6) without time zone", "TIMESTAMP"),
            ("timestamp(3) with local time zone", "TIMESTAMP_LTZ(3)"),
            ("timestamptz", "TIMESTAMP_LTZ"),
            ("timestamp with time zone", "TIMESTAMP_LTZ"),
            ("struct<a: int, b: string>", "ROW<a INT, b STRING>"),
        ] {
            assert_eq!(sql_name(&parse(spelling).unwrap()), name, "{spelling}");
        }
        // The layout of Kafka's headers can be written down.
        let headers = parse("ARRAY<ROW<key STRING, value BINARY>>").unwrap();
        assert_eq!(headers, KafkaColumn::Headers.data_type());
    }

    #[test]
    fn wrong_types_say_what_is_possible() {
        for (text, message) in [
            ("DUBLE", "unknown type 'DUBLE'"),
            ("TIME", "the type TIME is not in this version"),
            ("DECIMAL(39)", "expected a number from 1 to 38, found '39'"),
            ("DECIMAL(5, 6)", "expected a number from 0 to 5, found '6'"),
            ("TIMESTAMP(4)", "expected a precision of 0, 3, 6 or 9 digits, found '4'"),
            ("MAP<INT, INT>", "the keys of a MAP are strings"),
            ("ROW<a INT, A INT>", "there are two fields 'A' in this row"),
            ("ARRAY<INT", "expected '>', found the end of the statement"),
            ("'x'", "expected a type, found ''x''"),
        ] {
            assert_eq!(parse(text).unwrap_err().message(), message, "{text}");
        }
        let deep = format!("{}INT{}", "ARRAY<".repeat(1000), ">".repeat(1000));
        assert_eq!(parse(&deep).unwrap_err().message(), "types nest at most 16 levels deep");
    }
}
