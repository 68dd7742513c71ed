//! The `connector` option, and what every connector shares.

use std::{sync::Arc, time::Duration};

use super::{
    ddl::Declaration,
    file_table, kafka_table,
    options::{Options, Vocabulary, Written},
    output_mode,
    table::{Column, Connector, ConsoleTable, CsvOptions, Table},
    text::SourceText,
    watermark,
};
use crate::error::{Error, Result, nearest};

/// Spark's default for `numRows`.
const CONSOLE_ROWS: u64 = 20;

#[derive(Clone, Copy)]
enum Kind {
    Kafka,
    File,
    Console,
}

/// `filesystem` is Flink's name of `file`.
const CONNECTORS: &[(&str, Kind)] =
    &[("kafka", Kind::Kafka), ("file", Kind::File), ("filesystem", Kind::File), ("console", Kind::Console)];

const CONSOLE: Vocabulary = Vocabulary {
    owner: "the connector 'console'",
    names: &["connector", "numRows", "truncate", "checkpointLocation", "outputMode", "allowedLateness"],
    aliases: &[],
    foreign: &[],
    prefix: None,
};

/// Gives the options of a declared table their meaning.
///
/// # Errors
/// `Invalid` or `Unsupported` at the option, its value, a column or the table's name.
pub fn table(source: &Arc<SourceText>, declaration: Declaration) -> Result<Table> {
    let Declaration { name, columns, watermark, options } = declaration;
    let kind = kind(source, &name.range, &options)?;
    let vocabulary = match kind {
        Kind::Kafka => kafka_table::VOCABULARY,
        Kind::File => file_table::VOCABULARY,
        Kind::Console => CONSOLE,
    };
    let mut options = Options::new(source, name.range.clone(), options, vocabulary)?;
    options.text("connector");
    let metadata = columns.iter().find_map(|declared| declared.metadata.clone());
    if let (Some(range), Kind::File | Kind::Console) = (metadata, kind) {
        let error = Error::invalid("METADATA columns are only for Kafka tables");
        return Err(error.at(source.place(range)));
    }
    if let (Some(watermark), Kind::Console) = (&watermark, kind) {
        let error = Error::invalid("a console table is not read, so it has no WATERMARK");
        return Err(error.at(source.place(watermark.range.clone())));
    }
    let plain = || columns.iter().map(|declared| declared.column.clone()).collect::<Vec<Column>>();
    let output_mode = match kind {
        Kind::File => output_mode::append_only(&mut options, "a file table")?,
        Kind::Kafka | Kind::Console => output_mode::option(&mut options)?,
    };
    let allowed_lateness = options.duration("allowedLateness", Duration::ZERO)?;
    let (columns, connector) = match kind {
        Kind::Kafka => {
            let (columns, kafka) = kafka_table::table(source, &mut options, &columns)?;
            (columns, Connector::Kafka(Box::new(kafka)))
        }
        Kind::File => {
            let file = file_table::table(source, &mut options, &columns)?;
            (plain(), Connector::File(Box::new(file)))
        }
        Kind::Console => (plain(), Connector::Console(console(&mut options)?)),
    };
    let watermark = watermark::check(source, &mut options, watermark, &columns)?;
    options.finish()?;
    let (place, places) = (options.name_place(), options.places());
    Ok(Table { name: name.text, columns, watermark, connector, output_mode, allowed_lateness, place, places })
}

fn kind(source: &SourceText, table: &std::ops::Range<usize>, options: &[Written]) -> Result<Kind> {
    let find = |name: &str| options.iter().find(|option| option.name.eq_ignore_ascii_case(name));
    let known = |value: &str| CONNECTORS.iter().find(|(name, _)| name.eq_ignore_ascii_case(value.trim()));
    let Some(option) = find("connector") else {
        let error = Error::invalid("the option 'connector' is missing").at(source.place(table.clone()));
        let format = find("format").map(|format| format.value.to_ascii_lowercase());
        return Err(error.help(match format.as_deref() {
            Some("kafka" | "console") => {
                format!("write connector = '{}' instead of format", format.unwrap_or_default())
            }
            Some("csv" | "parquet" | "json") if find("path").is_some() => "add connector = 'file'".to_owned(),
            _ => "add connector = 'kafka', 'file' or 'console'".to_owned(),
        }));
    };
    if let Some((_, kind)) = known(&option.value) {
        return Ok(*kind);
    }
    let shown = source.shown_value(&option.value, option.value_range.clone());
    let error = Error::invalid(format!("there is no connector '{shown}'"));
    let help = match nearest(&option.value, CONNECTORS.iter().map(|(name, _)| *name)) {
        Some(near) => format!("did you mean '{near}'?"),
        None => "the connectors are 'kafka', 'file' and 'console'".to_owned(),
    };
    Err(error.at(source.place(option.value_range.clone())).help(help))
}

fn console(options: &mut Options<'_>) -> Result<ConsoleTable> {
    let rows = options.number("numRows", 1)?.unwrap_or(CONSOLE_ROWS);
    Ok(ConsoleTable {
        rows_max: usize::try_from(rows).unwrap_or(usize::MAX),
        truncate: options.boolean("truncate", true)?,
        checkpoint_location: options.not_blank("checkpointLocation")?,
    })
}

/// The options of the format CSV, for files and for records.
///
/// # Errors
/// `Invalid` at a value that is not one character, or that means two things.
pub fn csv(options: &mut Options<'_>) -> Result<CsvOptions> {
    let default = CsvOptions::default();
    let csv = CsvOptions {
        delimiter: character(options, "sep", default.delimiter)?,
        quote: character(options, "quote", default.quote)?,
        escape: character(options, "escape", default.escape)?,
        header: options.boolean("header", default.header)?,
        null_value: options.text("nullValue").unwrap_or(default.null_value),
        timestamp_format: options.not_blank("timestampFormat")?,
        date_format: options.not_blank("dateFormat")?,
    };
    for (name, byte) in [("quote", csv.quote), ("escape", csv.escape)] {
        if byte == csv.delimiter {
            let at = if options.has(name) { name } else { "sep" };
            return Err(options.at_value(at, &format!("'sep' and '{name}' are the same character")));
        }
    }
    Ok(csv)
}

/// One ASCII character; `\t` is a tab, as in Spark.
fn character(options: &mut Options<'_>, name: &str, default: u8) -> Result<u8> {
    match options.text(name).as_deref() {
        None => Ok(default),
        Some("\\t") => Ok(b'\t'),
        Some("\\\\") => Ok(b'\\'),
        Some(text) => match text.as_bytes() {
            [byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r' | 0) => Ok(*byte),
            _ => Err(options.wrong(name, "one ASCII character, or '\\t' for a tab")),
        },
    }
}
