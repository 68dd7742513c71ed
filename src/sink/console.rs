//! Spark's console sink: a table per batch.

use std::{io::Write, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    datatypes::{DataType, SchemaRef},
};

use super::text::{TextColumn, TextFormat, has_text};
use crate::{
    catalog::ConsoleTable,
    error::{Error, Result},
};

/// Prints the first rows of a batch as Spark does (`-----`, `Batch: 3`, `+---+`), at most `rows_max`.
#[derive(Debug)]
pub struct ConsoleSink {
    rows_max: usize,
    truncate: bool,
    batch: u64,
    /// Kept from batch to batch: a batch without rows still shows its header.
    schema: Option<SchemaRef>,
    cells: Vec<Vec<String>>,
    has_more: bool,
}

/// With `truncate`, a longer cell ends in `...`.
const CELL_CHARS_MAX: usize = 20;
const COLUMN_WIDTH_MIN: usize = 3;
const RULE: &str = "-------------------------------------------";

impl ConsoleSink {
    /// For one query.
    pub fn new(table: &ConsoleTable) -> Self {
        let ConsoleTable { rows_max, truncate, .. } = *table;
        Self { rows_max, truncate, batch: 0, schema: None, cells: Vec::new(), has_more: false }
    }

    /// Starts batch `batch`.
    pub fn begin(&mut self, batch: u64) {
        self.batch = batch;
        self.cells.clear();
        self.has_more = false;
    }

    /// Takes rows; beyond `rows_max` they are only counted.
    pub fn write(&mut self, rows: &RecordBatch) {
        self.schema = Some(rows.schema());
        let count = rows.num_rows().min(self.rows_max - self.cells.len());
        self.has_more |= count < rows.num_rows();
        let rows = rows.slice(0, count);
        let start = self.cells.len();
        self.cells.resize_with(start + count, Vec::new);
        for column in rows.columns() {
            for (row, cells) in self.cells[start..].iter_mut().enumerate() {
                let mut text = String::new();
                show(column, row, &mut text);
                cells.push(cell(&text, self.truncate));
            }
        }
    }

    /// Prints the batch.
    ///
    /// # Errors
    /// That of `out`.
    pub fn finish(&mut self, out: &mut dyn Write) -> Result<()> {
        let text = self.render();
        self.cells.clear();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(|error| Error::internal(format!("the console cannot be written to: {error}")))
    }

    fn render(&self) -> String {
        let header: Vec<String> = match &self.schema {
            Some(schema) => schema.fields().iter().map(|field| escape(field.name())).collect(),
            None => Vec::new(),
        };
        let mut widths = vec![COLUMN_WIDTH_MIN; header.len()];
        for row in std::iter::once(&header).chain(&self.cells) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(half_width(cell));
            }
        }
        let mut rule = "+".to_owned();
        for width in &widths {
            rule.push_str(&"-".repeat(*width));
            rule.push('+');
        }
        let mut text = format!("{RULE}\nBatch: {}\n{RULE}\n{rule}\n", self.batch);
        self.line(&mut text, &header, &widths);
        text.push_str(&rule);
        text.push('\n');
        for row in &self.cells {
            self.line(&mut text, row, &widths);
        }
        text.push_str(&rule);
        text.push('\n');
        if self.has_more {
            let rows = if self.rows_max == 1 { "row" } else { "rows" };
            text.push_str(&format!("only showing top {} {rows}\n", self.rows_max));
        }
        text.push('\n');
        text
    }

    fn line(&self, text: &mut String, cells: &[String], widths: &[usize]) {
        text.push('|');
        for (cell, width) in cells.iter().zip(widths) {
            let padding = " ".repeat(width.saturating_sub(half_width(cell)));
            // Cut cells stand to the right, whole ones to the left.
            let (before, after) = if self.truncate { (padding.as_str(), "") } else { ("", padding.as_str()) };
            text.push_str(before);
            text.push_str(cell);
            text.push_str(after);
            text.push('|');
        }
        text.push('\n');
    }
}

fn cell(text: &str, truncate: bool) -> String {
    let text = escape(text);
    if truncate && text.chars().nth(CELL_CHARS_MAX).is_some() {
        let mut cut: String = text.chars().take(CELL_CHARS_MAX - 3).collect();
        cut.push_str("...");
        return cut;
    }
    text
}

/// Columns on a terminal: letters of East Asia take two. The ranges are Spark's.
fn half_width(text: &str) -> usize {
    let wide = |letter: char| {
        matches!(letter, '\u{1100}'..='\u{115f}' | '\u{2e80}'..='\u{a4cf}' | '\u{ac00}'..='\u{d7a3}'
            | '\u{f900}'..='\u{faff}' | '\u{fe30}'..='\u{fe4f}' | '\u{ff00}'..='\u{ff60}' | '\u{ffe0}'..='\u{ffe6}')
    };
    text.chars().map(|letter| 1 + usize::from(wide(letter))).sum()
}

/// Line breaks would break the table, and control characters the terminal.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{c}' => out.push_str("\\f"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{7}' => out.push_str("\\a"),
            control if control.is_control() => out.extend(control.escape_unicode()),
            other => out.push(other),
        }
    }
    out
}

/// Spark's cast to string: `NULL`, `[1, 2]`, `{a, 1}`, `{k -> v}`, `[61 62]` for bytes.
fn show(array: &ArrayRef, row: usize, out: &mut String) {
    if array.is_null(row) {
        return out.push_str("NULL");
    }
    match array.data_type() {
        DataType::List(_) => show_list(&array.as_list::<i32>().value(row), out),
        DataType::LargeList(_) => show_list(&array.as_list::<i64>().value(row), out),
        DataType::FixedSizeList(..) => show_list(&array.as_fixed_size_list().value(row), out),
        DataType::Struct(_) => {
            out.push('{');
            for (i, column) in array.as_struct().columns().iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                show(column, row, out);
            }
            out.push('}');
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            out.push('{');
            for entry in 0..entries.len() {
                out.push_str(if entry > 0 { ", " } else { "" });
                show(entries.column(0), entry, out);
                out.push_str(" -> ");
                show(entries.column(1), entry, out);
            }
            out.push('}');
        }
        DataType::Binary => show_bytes(array.as_binary::<i32>().value(row), out),
        DataType::LargeBinary => show_bytes(array.as_binary::<i64>().value(row), out),
        DataType::BinaryView => show_bytes(array.as_binary_view().value(row), out),
        DataType::FixedSizeBinary(_) => show_bytes(array.as_fixed_size_binary().value(row), out),
        data_type if has_text(data_type) => match text_of(&array.slice(row, 1)) {
            Ok(text) => out.push_str(&text),
            Err(error) => out.push_str(error.message()),
        },
        _ => match arrow::util::display::array_value_to_string(array, row) {
            Ok(text) => out.push_str(&text),
            Err(error) => out.push_str(&error.to_string()),
        },
    }
}

fn text_of(one: &ArrayRef) -> Result<String> {
    let format = Arc::new(TextFormat::cast(one.data_type())?);
    let column = TextColumn::new(one, &format)?;
    if column.is_null(0) {
        return Ok("NULL".to_owned());
    }
    let mut text = Vec::new();
    column.write(0, &mut text);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn show_list(items: &ArrayRef, out: &mut String) {
    out.push('[');
    for item in 0..items.len() {
        out.push_str(if item > 0 { ", " } else { "" });
        show(items, item, out);
    }
    out.push(']');
}

fn show_bytes(bytes: &[u8], out: &mut String) {
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
    out.push('[');
    out.push_str(&hex.join(" "));
    out.push(']');
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{BinaryArray, Float64Array, Int64Array, ListArray, StringArray, TimestampMicrosecondArray},
        datatypes::Int64Type,
    };

    use super::*;

    fn print(truncate: bool, rows_max: usize, rows: &[RecordBatch]) -> String {
        let mut sink = ConsoleSink::new(&ConsoleTable { rows_max, truncate, checkpoint_location: None });
        let mut out = Vec::new();
        sink.begin(0);
        rows.iter().for_each(|rows| sink.write(rows));
        sink.finish(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn prices(count: usize) -> RecordBatch {
        RecordBatch::try_from_iter([
            ("symbol", Arc::new(StringArray::from(vec!["BTCUSDT"; count])) as ArrayRef),
            ("price", Arc::new(Float64Array::from(vec![16555.07; count]))),
        ])
        .unwrap()
    }

    #[test]
    fn looks_like_spark() {
        let wanted = "\
-------------------------------------------
Batch: 0
-------------------------------------------
+-------+--------+
| symbol|   price|
+-------+--------+
|BTCUSDT|16555.07|
+-------+--------+

";
        assert_eq!(print(true, 20, &[prices(1)]), wanted);
        let left = wanted.replace("| symbol|   price|", "|symbol |price   |");
        assert_eq!(print(false, 20, &[prices(1)]), left);
    }

    #[test]
    fn shows_the_first_rows_and_says_so() {
        let text = print(true, 20, &[prices(15), prices(15)]);
        assert_eq!(text.matches("BTCUSDT").count(), 20);
        assert!(text.ends_with("+\nonly showing top 20 rows\n\n"), "{text}");
        assert!(!print(true, 20, &[prices(20)]).contains("only showing"));
        assert!(print(true, 1, &[prices(2)]).contains("only showing top 1 row\n"));
    }

    #[test]
    fn an_empty_batch_shows_its_columns() {
        assert!(print(true, 20, &[prices(0)]).contains("\n|symbol|price|\n"));
        assert!(print(true, 20, &[]).ends_with("\n+\n|\n+\n+\n\n"));
    }

    #[test]
    fn every_kind_of_value() {
        let at = TimestampMicrosecondArray::from(vec![Some(1_704_067_200_123_000), None]);
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), None]);
        let rows = RecordBatch::try_from_iter([
            ("at", Arc::new(at) as ArrayRef),
            ("bytes", Arc::new(BinaryArray::from(vec![b"ab".as_slice(), b""]))),
            ("list", Arc::new(list)),
            ("text", Arc::new(StringArray::from(vec!["line\nbreak\u{1b}[0m", "123456789012345678901"]))),
            ("n", Arc::new(Int64Array::from(vec![1, 2]))),
        ])
        .unwrap();
        let text = print(true, 20, std::slice::from_ref(&rows));
        for words in ["|2024-01-01 00:00:...|", "|[61 62]|", "[1, NULL]|", "12345678901234567...|", " NULL|"] {
            assert!(text.contains(words), "{words}: {text}");
        }
        let whole = print(false, 20, &[rows]);
        assert!(whole.contains("|2024-01-01 00:00:00.123|"), "{whole}");
        assert!(whole.contains("|line\\nbreak\\u{1b}[0m "), "{whole}");
    }

    #[test]
    fn wide_letters_take_two_columns() {
        assert_eq!(half_width("ab\u{4e2d}\u{6587}"), 6);
    }
}
