//! The text of a job file after its variables were put in, and the way back from there to the place that the user
//! wrote.

use std::{fmt, ops::Range, sync::Arc};

use crate::error::Place;

/// Longer pieces of text are cut when a message quotes them.
const SHOWN_CHARS_MAX: usize = 60;

/// The original text and the expanded one, in pieces that belong together.
pub struct SourceText {
    file: String,
    original: String,
    line_starts: Vec<usize>,
    expanded: String,
    pieces: Vec<Piece>,
    /// Values of variables that look secret: no message may show them.
    secrets: Vec<String>,
}

/// `expanded[start..end]` came from `original[origin]`.
#[derive(Debug, Clone)]
struct Piece {
    start: usize,
    end: usize,
    origin: Range<usize>,
    /// Copied byte by byte, so that offsets inside it map too. Otherwise the value of a variable.
    verbatim: bool,
    secret: bool,
}

impl SourceText {
    /// Starts with nothing expanded; `push_*` add the pieces in order.
    pub fn new(file: &str, original: &str) -> Self {
        let line_starts = std::iter::once(0).chain(original.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self {
            file: file.to_owned(),
            original: original.to_owned(),
            line_starts,
            expanded: String::with_capacity(original.len()),
            pieces: Vec::new(),
            secrets: Vec::new(),
        }
    }

    /// Copies `original[origin]`.
    pub fn push_verbatim(&mut self, origin: Range<usize>) {
        let start = self.expanded.len();
        self.expanded.push_str(&self.original[origin.clone()]);
        if let Some(last) = self.pieces.last_mut()
            && last.verbatim
            && last.origin.end == origin.start
        {
            last.end = self.expanded.len();
            last.origin.end = origin.end;
            return;
        }
        self.pieces.push(Piece { start, end: self.expanded.len(), origin, verbatim: true, secret: false });
    }

    /// Puts `value` where `original[origin]` stood. `secret` is the value as the user set it, if it must not be shown.
    pub fn push_value(&mut self, value: &str, origin: Range<usize>, secret: Option<&str>) {
        let start = self.expanded.len();
        self.expanded.push_str(value);
        self.pieces.push(Piece { start, end: self.expanded.len(), origin, verbatim: false, secret: secret.is_some() });
        if let Some(secret) = secret.filter(|secret| !secret.is_empty()) {
            self.secrets.push(secret.to_owned());
            // The same text as it stands inside a string literal.
            self.secrets.push(secret.replace('\'', "''"));
            self.secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        }
    }

    /// What the user wrote.
    pub fn original(&self) -> &str {
        &self.original
    }

    /// The text with its variables put in.
    pub fn expanded(&self) -> &str {
        &self.expanded
    }

    /// The place of a range of the expanded text.
    pub fn place(&self, range: Range<usize>) -> Place {
        let start = self.origin_of(range.start, false);
        let end = if range.end > range.start { self.origin_of(range.end - 1, true) } else { start };
        self.original_place(start..end)
    }

    /// The place of a range of the original text. The underline ends with the line.
    pub fn original_place(&self, range: Range<usize>) -> Place {
        let start = range.start.min(self.original.len());
        let line = self.line_starts.partition_point(|at| *at <= start);
        let line_start = self.line_starts[line - 1];
        let line_end = self.line_starts.get(line).map_or(self.original.len(), |next| next - 1);
        let chars = |range: Range<usize>| self.original.get(range).map_or(0, |text| text.chars().count());
        let text = self.original[line_start..line_end].trim_end_matches('\r');
        Place {
            file: self.file.clone(),
            line,
            column: chars(line_start..start) + 1,
            // One column per character: a tab would move the underline, and an escape sequence the terminal.
            text: text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
            width: chars(start..range.end.min(line_end)).max(1),
        }
    }

    /// The expanded text of `range` for a message: cut when long, `***` when it holds a secret.
    pub fn shown(&self, range: Range<usize>) -> String {
        let secret = self.pieces.iter().any(|p| p.secret && p.start < range.end && range.start < p.end);
        if secret { "***".to_owned() } else { shortened(&self.expanded[range]) }
    }

    /// `value`, which was read at `range`, for a message.
    pub fn shown_value(&self, value: &str, range: Range<usize>) -> String {
        let shown = self.shown(range);
        if shown == "***" { shown } else { shortened(value) }
    }

    /// A message without secrets.
    pub fn mask(&self, message: &str) -> String {
        self.secrets.iter().fold(message.to_owned(), |text, secret| text.replace(secret, "***"))
    }

    /// The byte of the original that belongs to byte `at` of the expanded text; its end if `end`.
    fn origin_of(&self, at: usize, end: bool) -> usize {
        let index = self.pieces.partition_point(|piece| piece.start <= at);
        match index.checked_sub(1).map(|index| &self.pieces[index]) {
            None => 0,
            Some(piece) if at >= piece.end => piece.origin.end,
            Some(piece) if piece.verbatim => piece.origin.start + (at - piece.start) + usize::from(end),
            Some(piece) if end => piece.origin.end,
            Some(piece) => piece.origin.start,
        }
    }
}

impl fmt::Debug for SourceText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceText").field("file", &self.file).finish_non_exhaustive()
    }
}

fn shortened(text: &str) -> String {
    let flat: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN_CHARS_MAX + 1).collect();
    if flat.chars().count() <= SHOWN_CHARS_MAX {
        return flat;
    }
    flat.chars().take(SHOWN_CHARS_MAX - 3).chain("...".chars()).collect()
}

/// A `SELECT` of a job file: its SQL with the variables put in, and where each part of it was written.
#[derive(Clone)]
pub struct SqlText {
    source: Arc<SourceText>,
    range: Range<usize>,
}

impl SqlText {
    /// `range` of the expanded text.
    pub(super) fn new(source: Arc<SourceText>, range: Range<usize>) -> Self {
        Self { source, range }
    }

    /// What DataFusion gets. May hold secrets: `Debug` does not show them.
    pub fn sql(&self) -> &str {
        &self.source.expanded[self.range.clone()]
    }

    /// The place of bytes `range` of `sql()`.
    pub fn place(&self, range: Range<usize>) -> Place {
        let at = |offset: usize| (self.range.start + offset).min(self.range.end);
        self.source.place(at(range.start)..at(range.end))
    }

    /// The byte of `sql()` at a line and column, both 1-based, as sqlparser counts them.
    pub fn offset_of(&self, line: u64, column: u64) -> usize {
        let skipped = usize::try_from(line.saturating_sub(1)).unwrap_or(usize::MAX);
        let column = usize::try_from(column.saturating_sub(1)).unwrap_or(usize::MAX);
        let sql = self.sql();
        let starts = std::iter::once(0).chain(sql.match_indices('\n').map(|(at, _)| at + 1));
        let Some(line_start) = starts.into_iter().nth(skipped) else { return sql.len() };
        sql[line_start..].char_indices().nth(column).map_or(sql.len(), |(at, _)| line_start + at)
    }

    /// A message without the values of secret variables.
    pub fn mask(&self, message: &str) -> String {
        self.source.mask(message)
    }
}

impl fmt::Debug for SqlText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SqlText").field(&self.mask(self.sql())).finish()
    }
}

impl fmt::Display for SqlText {
    /// The SQL without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.mask(self.sql()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_lead_back_to_what_was_written() {
        let mut source = SourceText::new("a.sql", "one\r\n\ttwo ${X} end\n");
        source.push_verbatim(0..10);
        source.push_value("a long value", 10..14, None);
        source.push_verbatim(14..19);
        assert_eq!(source.expanded(), "one\r\n\ttwo a long value end\n");
        let place = source.place(12..14);
        assert_eq!((place.line, place.column, place.width), (2, 6, 4));
        assert_eq!(place.text, " two ${X} end");
        let place = source.place(23..26);
        assert_eq!((place.line, place.column, place.width), (2, 11, 3));
        // The end of the file is a place too.
        assert_eq!(source.place(27..27).line, 3);
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut source = SourceText::new("a.sql", "${PASSWORD}");
        source.push_value("hunter''2", 0..11, Some("hunter'2"));
        assert_eq!(source.shown(0..3), "***");
        assert_eq!(source.mask("found: hunter'2"), "found: ***");
        let text = SqlText::new(Arc::new(source), 0..9);
        assert_eq!(format!("{text:?} {text}"), "SqlText(\"***\") ***");
    }
}
