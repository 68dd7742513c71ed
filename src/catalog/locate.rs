//! From an error of DataFusion's back to the place in the job file.

use datafusion::{
    common::{SchemaError, TableReference},
    error::DataFusionError,
    sql::{
        parser::Statement,
        resolve::resolve_table_references,
        sqlparser::{ast, parser::ParserError},
    },
};
use regex::Regex;

use super::{
    lexer::{Token, TokenKind, tokens},
    parse::parse_statements,
    text::SqlText,
};
use crate::error::{Error, Place, Result, nearest};

/// A table or view that a `SELECT` reads, and where it says so.
#[derive(Debug, Clone)]
pub struct Relation {
    pub name: String,
    pub place: Place,
}

/// Parses a `SELECT` as DataFusion will, and returns what it reads. Names with a schema, paths and table functions
/// are left to the planner.
///
/// # Errors
/// `Invalid` at the place of a syntax error.
pub fn relations(select: &SqlText) -> Result<Vec<Relation>> {
    let statements = parse_statements(select.sql()).map_err(|error| locate_error(error, select))?;
    let statement = match statements.front() {
        Some(statement @ Statement::Statement(inner)) if matches!(**inner, ast::Statement::Query(_)) => statement,
        _ => return Err(Error::invalid("expected a SELECT").at(first_place(select))),
    };
    let (tables, _) = resolve_table_references(statement, true).map_err(|error| locate_error(error, select))?;
    let found = tokens(select.sql()).unwrap_or_default();
    let mut relations = Vec::new();
    for table in tables {
        let TableReference::Bare { table } = table else { continue };
        let Some((at, token)) = name_token(&found, &table) else { continue };
        if !found.get(at + 1).is_some_and(|next| next.is_symbol('(')) {
            relations.push(Relation { name: table.to_string(), place: select.place(token.range.clone()) });
        }
    }
    Ok(relations)
}

/// Turns an error of planning or parsing `select` into one of ours, at its place in the job file, with the nearest
/// name where a name is unknown. Errors of ours that went through DataFusion come out as they are.
pub fn locate_error(error: DataFusionError, select: &SqlText) -> Error {
    located(error, select, None)
}

/// `known` is the place, if DataFusion told it: it does with `sql_parser.collect_spans`. Else the name is searched.
fn located(error: DataFusionError, select: &SqlText, known: Option<Place>) -> Error {
    match error {
        DataFusionError::Context(_, inner) => located(*inner, select, known),
        DataFusionError::Diagnostic(diagnostic, inner) => {
            let place = diagnostic.span.map(|span| {
                let start = select.offset_of(span.start.line, span.start.column);
                select.place(start..select.offset_of(span.end.line, span.end.column).max(start))
            });
            located(*inner, select, place.or(known))
        }
        DataFusionError::Collection(mut errors) if !errors.is_empty() => located(errors.swap_remove(0), select, known),
        DataFusionError::SQL(parser_error, _) => syntax_error(&parser_error, select),
        DataFusionError::SchemaError(schema_error, _) => schema(&schema_error, select, known),
        DataFusionError::Plan(message) => plan(&message, select, known),
        DataFusionError::External(inner) if inner.is::<Error>() => {
            let error = Error::from(DataFusionError::External(inner));
            match known {
                Some(place) => error.at(place),
                None => error,
            }
        }
        other => {
            let error = Error::from(other);
            let masked = Error::new(error.kind(), select.mask(error.message()));
            masked.at(known.unwrap_or_else(|| first_place(select)))
        }
    }
}

/// Where the `SELECT` starts.
fn first_place(select: &SqlText) -> Place {
    let width = select.sql().find(|c: char| !c.is_alphanumeric()).unwrap_or(select.sql().len());
    select.place(0..width.max(1))
}

/// The token that names `name`: with the same case if there is one.
fn name_token<'a>(tokens: &'a [Token], name: &str) -> Option<(usize, &'a Token)> {
    let is_name = |token: &Token| matches!(token.kind, TokenKind::Word | TokenKind::QuotedName);
    let names = || tokens.iter().enumerate().filter(|(_, token)| is_name(token));
    names()
        .find(|(_, token)| token.value == name)
        .or_else(|| names().find(|(_, token)| token.value.eq_ignore_ascii_case(name)))
}

fn place_of_name(select: &SqlText, name: &str) -> Place {
    let found = tokens(select.sql()).unwrap_or_default();
    name_token(&found, name).map_or_else(|| first_place(select), |(_, token)| select.place(token.range.clone()))
}

/// For a syntax error in a text that `names_offset`.
const OFFSET_HELP: &str = "OFFSET is a keyword here: write the column's name in quotes, \"offset\"";

/// Does the list of columns end with Kafka's column `offset`? The parser takes that for the clause OFFSET.
fn names_offset(sql: &str) -> bool {
    let words: Vec<String> = sql.split_whitespace().map(str::to_lowercase).collect();
    words.windows(2).any(|pair| matches!(pair, [first, second] if first == "offset" && second == "from"))
}

/// sqlparser's message without its prefix and position, at that position.
fn syntax_error(error: &ParserError, select: &SqlText) -> Error {
    let text = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text.as_str(),
        ParserError::RecursionLimitExceeded => {
            return Error::unsupported("this SELECT nests too deep").at(first_place(select));
        }
    };
    let (message, offset) = split_position(text, select);
    let mut message = message.trim().to_owned();
    if let Some(rest) = message.strip_prefix("Expected: ") {
        message =
            format!("expected {rest}").replace("expected )", "expected ')'").replace("expected (", "expected '('");
    }
    if let Some(rest) = message.strip_suffix("found: EOF") {
        message = format!("{rest}found the end of the statement");
    } else if let Some((expected, found)) = message.clone().split_once(", found: ") {
        message = format!("{expected}, found '{found}'");
    }
    let found = tokens(select.sql()).unwrap_or_default();
    let token = found.iter().find(|token| token.range.contains(&offset));
    let end = select.sql().len();
    let range = token.map_or(offset.min(end)..(offset + 1).min(end), |token| token.range.clone());
    let error = Error::invalid(format!("syntax error: {}", select.mask(&message))).at(select.place(range));
    if names_offset(select.sql()) { error.help(OFFSET_HELP) } else { error }
}

/// Splits `message at Line: 1, Column: 8`; without a position it is the end of the text.
fn split_position<'t>(text: &'t str, select: &SqlText) -> (&'t str, usize) {
    let pattern = Regex::new(r"(?s)^(.*?) at Line: (\d+), Column:? (\d+)").ok();
    let Some(found) = pattern.as_ref().and_then(|pattern| pattern.captures(text)) else {
        return (text, select.sql().len());
    };
    let number = |group: usize| found.get(group).and_then(|digits| digits.as_str().parse().ok()).unwrap_or(1);
    let message = found.get(1).map_or(text, |message| message.as_str());
    (message, select.offset_of(number(2), number(3)))
}

fn schema(error: &SchemaError, select: &SqlText, known: Option<Place>) -> Error {
    let place = |name: &str| known.clone().unwrap_or_else(|| place_of_name(select, name));
    let SchemaError::FieldNotFound { field, valid_fields } = error else {
        let name = match error {
            SchemaError::AmbiguousReference { field } => &field.name,
            SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => name,
            SchemaError::FieldNotFound { field, .. } => &field.name,
        };
        return Error::invalid(select.mask(&error.to_string())).at(place(name));
    };
    let name = field.name.as_str();
    let error = Error::invalid(format!("there is no column '{}'", select.mask(name))).at(place(name));
    let mut names: Vec<&str> = valid_fields.iter().map(|column| column.name.as_str()).collect();
    names.dedup();
    if let Some(same) = names.iter().find(|valid| valid.eq_ignore_ascii_case(name)) {
        // DataFusion folds names without quotes to lower case.
        return error.help(format!("write \"{same}\" in double quotes: without them a name is read in lower case"));
    }
    match nearest(name, names.iter().copied()) {
        Some(near) => error.help(format!("did you mean '{near}'?")),
        None if names.is_empty() => error,
        None => error.help(format!("the columns are {}", names.join(", "))),
    }
}

/// Messages that name a table or a function.
fn plan(message: &str, select: &SqlText, known: Option<Place>) -> Error {
    let (message, help) = match message.split_once("\nDid you mean ") {
        Some((message, near)) => (message.trim_end_matches('.'), Some(format!("did you mean {near}"))),
        None => (message, None),
    };
    let named = Regex::new(r"^(?:table|Invalid function) '(?:[^'.]*\.)*([^'.]*)'").ok();
    let name = named.as_ref().and_then(|pattern| pattern.captures(message)).and_then(|found| found.get(1));
    let searched = || name.map_or_else(|| first_place(select), |name| place_of_name(select, name.as_str()));
    let place = known.unwrap_or_else(searched);
    let text = match name.filter(|_| message.starts_with("table '")) {
        Some(name) => format!("there is no table '{}'", name.as_str()),
        None => message.to_owned(),
    };
    let error = Error::invalid(select.mask(&text)).at(place);
    match help {
        Some(help) => error.help(help),
        None => error,
    }
}
