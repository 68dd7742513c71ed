//! `WATERMARK FOR column AS column - INTERVAL '...'`, and the options that say when a partition is idle.

use std::{ops::Range, time::Duration};

use arrow::datatypes::DataType;

use super::{
    cursor::{Cursor, Name},
    options::{Options, parse_duration},
    table::{Column, Watermark},
    text::SourceText,
};
use crate::error::{Error, Result, nearest};

/// A partition that gave nothing for so long does not hold the watermark.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Events further in the future than this are set aside: a wrong clock must not close everybody's windows.
const MAX_FUTURE_SKEW: Duration = Duration::from_secs(5 * 60);

/// Options that mean something only with a `WATERMARK`.
pub const OPTIONS: &[&str] = &["idleTimeout", "idleWatermark", "maxFutureSkew"];
/// Flink's and others' spellings.
pub const ALIASES: [(&str, &str); 4] = [
    ("idle_timeout", "idleTimeout"),
    ("scan.watermark.idle-timeout", "idleTimeout"),
    ("idle_watermark", "idleWatermark"),
    ("max_future_skew", "maxFutureSkew"),
];

/// As written.
#[derive(Debug)]
pub struct DeclaredWatermark {
    column: Name,
    delay_us: i64,
    /// From the word WATERMARK on.
    pub range: Range<usize>,
}

/// Does a `WATERMARK FOR` come next?
pub fn is_next(cursor: &Cursor<'_>) -> bool {
    let is = |token: Option<&super::lexer::Token>, word| token.is_some_and(|token| token.is_word(word));
    is(cursor.peek(), "WATERMARK") && is(cursor.peek_second(), "FOR")
}

/// Reads it.
///
/// # Errors
/// `Invalid` or `Unsupported` at the place of what is wrong.
pub fn read(cursor: &mut Cursor<'_>) -> Result<DeclaredWatermark> {
    const FORM: &str = "write WATERMARK FOR ts AS ts - INTERVAL '10' SECOND";
    let start = cursor.range().start;
    cursor.expect_word("WATERMARK")?;
    cursor.expect_word("FOR")?;
    let column = cursor.name("the name of the event time column")?;
    cursor.expect_word("AS")?;
    let again = cursor.name("the event time column again")?;
    if !again.text.eq_ignore_ascii_case(&column.text) {
        let error = Error::unsupported(format!("a watermark of '{}' made from '{}'", column.text, again.text));
        return Err(error.at(cursor.place(again.range)).help(FORM));
    }
    let mut delay_us = 0;
    if cursor.symbol('-') {
        cursor.expect_word("INTERVAL")?;
        delay_us = interval_us(cursor)?;
    }
    let ends = cursor.peek().is_none_or(|token| token.is_symbol(',') || token.is_symbol(')'));
    if !ends {
        return Err(cursor.unexpected("the end of the watermark").help(FORM));
    }
    Ok(DeclaredWatermark { column, delay_us, range: start..cursor.range().start })
}

/// `'10' SECOND`, `'10 seconds'` or `'1 minute 30 seconds'`.
fn interval_us(cursor: &mut Cursor<'_>) -> Result<i64> {
    const UNITS: [&str; 7] = ["MILLISECOND", "SECOND", "MINUTE", "HOUR", "DAY", "WEEK", "MICROSECOND"];
    let token = cursor.string("the length of the interval in quotes")?;
    let (mut text, range) = (token.value.clone(), token.range.clone());
    let is_unit = |token: &super::lexer::Token| {
        UNITS.iter().any(|unit| token.is_word(unit) || token.is_word(&format!("{unit}S")))
    };
    if let Some(unit) = cursor.peek().filter(|token| is_unit(token)) {
        text = format!("{text} {}", unit.value.to_lowercase());
        cursor.advance();
    }
    let length = parse_duration(&text).and_then(|length| i64::try_from(length.as_micros()).ok());
    length.ok_or_else(|| {
        Error::invalid(format!("'{text}' is no length of time that a watermark can be behind"))
            .at(cursor.place(range))
            .help("write INTERVAL '10' SECOND, or INTERVAL '1 minute 30 seconds'; months have no fixed length")
    })
}

/// Checks the watermark against the columns and reads the options that go with it.
///
/// # Errors
/// `Invalid` at the column, or at an option that has no watermark to go with.
pub fn check(
    source: &SourceText,
    options: &mut Options<'_>,
    declared: Option<DeclaredWatermark>,
    columns: &[Column],
) -> Result<Option<Watermark>> {
    let Some(declared) = declared else {
        options.refuse(OPTIONS, "a table with WATERMARK FOR ... AS ...")?;
        return Ok(None);
    };
    let name = &declared.column.text;
    let Some(column) = columns.iter().find(|column| column.name.eq_ignore_ascii_case(name)) else {
        let error = Error::invalid(format!("the watermark's column '{name}' is not declared"));
        let error = error.at(source.place(declared.column.range));
        return Err(match nearest(name, columns.iter().map(|column| column.name.as_str())) {
            Some(near) => error.help(format!("did you mean '{near}'?")),
            None => error.help(format!("declare it: {name} TIMESTAMP")),
        });
    };
    if !matches!(column.data_type, DataType::Timestamp(..)) {
        let error = Error::invalid(format!("the watermark's column '{name}' is no TIMESTAMP"));
        return Err(error.at(source.place(declared.column.range)).help(format!("declare it {name} TIMESTAMP")));
    }
    let policies = [("hold", false), ("advance", true)];
    Ok(Some(Watermark {
        column: column.name.clone(),
        delay_us: declared.delay_us,
        idle_timeout: options.duration("idleTimeout", IDLE_TIMEOUT)?,
        advances_when_idle: options.one_of("idleWatermark", &policies)?.unwrap_or(false),
        max_future_skew: options.duration("maxFutureSkew", MAX_FUTURE_SKEW)?,
        place: source.place(declared.range),
    }))
}
