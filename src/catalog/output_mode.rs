//! Which rows a query with state gives, and when: the option `outputMode` and the clause `EMIT`.

use std::{sync::Arc, time::Duration};

use super::{
    cursor::Cursor,
    job::{Insert, Job},
    lexer::Token,
    options::{Options, parse_duration},
    table::{Connector, Table},
    text::{SourceText, SqlText},
};
use crate::error::{Error, Place, Result};

/// Spark's output modes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OutputMode {
    /// Each row once, when nothing can change it any more.
    #[default]
    Append,
    /// In each batch the groups that it changed, with their new values.
    Update,
    /// In each batch all groups.
    Complete,
}

impl OutputMode {
    /// As `outputMode` says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Update => "update",
            Self::Complete => "complete",
        }
    }
}

/// What a query gives, and how often.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Emit {
    pub mode: OutputMode,
    /// `EMIT PERIODIC`: at most once in this time. Without it in each batch.
    pub period: Option<Duration>,
    /// In mode update: windows are kept, and written again, so long after the watermark (Flink's allowed lateness).
    pub lateness: Duration,
}

/// `EMIT ...` at the end of an INSERT.
#[derive(Debug, Clone)]
pub struct EmitClause {
    /// `None` for `EMIT PERIODIC`, which says when, but not which rows.
    mode: Option<OutputMode>,
    period: Option<Duration>,
    /// As it was written.
    text: String,
    place: Place,
}

/// `EMIT` and these words, with what they mean. The first of each mode is ours to name it by.
const CLAUSES: &[(&[&str], OutputMode)] = &[
    (&["ON", "WINDOW", "CLOSE"], OutputMode::Append),
    (&["AFTER", "WINDOW", "CLOSE"], OutputMode::Append),
    (&["FINAL"], OutputMode::Append),
    (&["ON", "UPDATE"], OutputMode::Update),
    (&["CHANGES"], OutputMode::Update),
];

const SPELLINGS: &str =
    "write EMIT ON WINDOW CLOSE, EMIT ON UPDATE (or EMIT CHANGES), or EMIT PERIODIC INTERVAL '10 seconds'";

/// Reads `outputMode`.
///
/// # Errors
/// `Invalid` for a word that is no mode.
pub fn option(options: &mut Options<'_>) -> Result<OutputMode> {
    let modes = [OutputMode::Append, OutputMode::Update, OutputMode::Complete].map(|mode| (mode.name(), mode));
    Ok(options.one_of("outputMode", &modes)?.unwrap_or_default())
}

/// Reads `outputMode` of a table that can only be appended to.
///
/// # Errors
/// As `option`; `Unsupported` for another mode.
pub fn append_only(options: &mut Options<'_>, what: &str) -> Result<OutputMode> {
    let mode = option(options)?;
    if mode == OutputMode::Append {
        return Ok(mode);
    }
    let error = options.at_value("outputMode", &format!("{what} can only be appended to"));
    let place = error.place().cloned();
    let error = Error::unsupported(error.message()).help(format!(
        "write rows that change (outputMode = '{}') to a Kafka or a console table; here a window and a WATERMARK let \
         each row be written once",
        mode.name()
    ));
    Err(match place {
        Some(place) => error.at(place),
        None => error,
    })
}

/// The SELECT of a statement, and the clause behind it.
///
/// # Errors
/// `Invalid` for an `EMIT` that means nothing.
pub fn split(cursor: &Cursor<'_>) -> Result<(SqlText, Option<EmitClause>)> {
    let tokens = cursor.tokens();
    let mut depth = 0_usize;
    let mut found = None;
    for (at, token) in tokens.iter().enumerate() {
        if token.is_symbol('(') {
            depth += 1;
        } else if token.is_symbol(')') {
            depth = depth.saturating_sub(1);
        } else if depth == 0 && at > 0 && token.is_word("EMIT") && begins(&tokens[at + 1..]) {
            found = Some(at);
        }
    }
    let Some(at) = found else { return Ok((cursor.rest(), None)) };
    let clause = clause(cursor.source(), &tokens[at..])?;
    Ok((cursor.before(at), Some(clause)))
}

/// What may follow `EMIT`: a column or a table of that name is followed by other words.
fn begins(after: &[Token]) -> bool {
    let words = CLAUSES.iter().map(|(words, _)| *words).chain([&["PERIODIC"][..], &["EVERY"][..], &["AFTER"][..]]);
    let mut words = words.filter(|words| !words.is_empty());
    words.any(|words| {
        let shown = words.len().min(2);
        after.len() >= shown && words[..shown].iter().zip(after).all(|(word, token)| token.is_word(word))
    })
}

/// `tokens` start with `EMIT`.
fn clause(source: &Arc<SourceText>, tokens: &[Token]) -> Result<EmitClause> {
    let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else {
        return Err(Error::internal("an EMIT without words"));
    };
    let range = first.range.start..last.range.end;
    let (text, place) = (source.shown(range.clone()), source.place(range));
    let after = &tokens[1..];
    for (words, mode) in CLAUSES {
        if after.len() == words.len() && words.iter().zip(after).all(|(word, token)| token.is_word(word)) {
            return Ok(EmitClause { mode: Some(*mode), period: None, text, place });
        }
    }
    let wrong = |what: &str| Err(Error::invalid(format!("{what} '{text}'")).at(place.clone()).help(SPELLINGS));
    let Some((_, length)) = after.split_first().filter(|(word, _)| word.is_word("PERIODIC")) else {
        return wrong("there is no");
    };
    // INTERVAL '10 seconds', INTERVAL '10' SECOND and Timeplus' 10s.
    let words = length.iter().filter(|token| !token.is_word("INTERVAL")).map(|token| token.value.as_str());
    match parse_duration(&words.collect::<Vec<_>>().join(" ")) {
        Some(period) if !period.is_zero() => Ok(EmitClause { mode: None, period: Some(period), text, place }),
        _ => wrong("a period is a time, not"),
    }
}

impl EmitClause {
    /// The error for one in a CREATE VIEW.
    pub fn in_a_view(&self) -> Error {
        let error = Error::invalid(format!("a view does not write rows, so '{}' means nothing there", self.text));
        error.at(self.place.clone()).help("write it at the end of the INSERT that reads the view")
    }
}

impl Job {
    /// What `insert` gives, by its own EMIT and the outputMode of its table.
    ///
    /// # Errors
    /// `Invalid` if they contradict each other; `Unsupported` for a table that cannot take it.
    pub fn emit(&self, insert: &Insert) -> Result<Emit> {
        let table = self.table(&insert.target).ok_or_else(|| Error::internal("the INSERT's table is gone"))?;
        let (mode, period) = self.mode_of(insert, table)?;
        let lateness = table.allowed_lateness;
        if lateness.is_zero() || mode == OutputMode::Update {
            return Ok(Emit { mode, period, lateness });
        }
        let what = format!("allowedLateness in output mode {}", mode.name());
        Err(Error::unsupported(what).at(table.place_of("allowedLateness")).help(match mode {
            OutputMode::Complete => "leave it out: in this mode nothing is late",
            _ => {
                "a row that is written once cannot be corrected: let the WATERMARK be further behind; or write to a Kafka \
                 table with outputMode = 'update' and key.fields; or look at late rows with `tidemill late replay`"
            }
        }))
    }

    fn mode_of(&self, insert: &Insert, table: &Table) -> Result<(OutputMode, Option<Duration>)> {
        let given = table.places.contains_key("outputMode").then_some(table.output_mode);
        let Some(clause) = &insert.emit else { return Ok((table.output_mode, None)) };
        let mode = match (clause.mode, given) {
            (None, None) => OutputMode::Update,
            (None, Some(mode)) | (Some(mode), None) => mode,
            (Some(clause), Some(option)) if clause == option => option,
            (Some(_), Some(option)) => return Err(contradiction(table, option, clause)),
        };
        if clause.period.is_some() && mode == OutputMode::Append {
            return Err(contradiction(table, mode, clause));
        }
        if let (Connector::File(_), OutputMode::Update | OutputMode::Complete) = (&table.connector, mode) {
            return Err(Error::unsupported(format!(
                "{} writes rows that change, and the file table '{}' can only be appended to",
                clause.text, table.name
            ))
            .at(clause.place.clone())
            .help("write to a Kafka or a console table, or EMIT ON WINDOW CLOSE"));
        }
        Ok((mode, clause.period))
    }
}

fn contradiction(table: &Table, option: OutputMode, clause: &EmitClause) -> Error {
    let line = table.place_of("outputMode").line;
    Error::invalid(format!(
        "{} contradicts outputMode = '{}' of '{}', in line {line}",
        clause.text,
        option.name(),
        table.name
    ))
    .at(clause.place.clone())
    .help("leave one of them out")
}
