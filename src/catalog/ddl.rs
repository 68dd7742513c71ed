//! `CREATE TABLE name (columns) WITH (options)`.

use std::ops::Range;

use arrow::datatypes::{DataType, TimeUnit};

use super::{
    connector,
    cursor::{Cursor, Name},
    lexer::{Token, TokenKind},
    options::Written,
    table::{Column, KafkaColumn, Table},
    text::SourceText,
    types,
    watermark::{self, DeclaredWatermark},
};
use crate::error::{Error, Result, nearest};

/// A column as it was declared.
#[derive(Debug, Clone)]
pub struct DeclaredColumn {
    pub column: Column,
    pub name: Range<usize>,
    pub data_type: Range<usize>,
    /// The word `METADATA`.
    pub metadata: Option<Range<usize>>,
}

/// A table as it was declared; `connector.rs` gives the options their meaning.
#[derive(Debug)]
pub struct Declaration {
    pub name: Name,
    pub columns: Vec<DeclaredColumn>,
    pub watermark: Option<DeclaredWatermark>,
    pub options: Vec<Written>,
}

/// Words that start what a table may have in other systems.
const CONSTRAINTS: &[&str] = &["PRIMARY", "UNIQUE", "CONSTRAINT", "FOREIGN", "CHECK"];

/// Words that may follow a column's type in other systems.
const COLUMN_CONSTRAINTS: &[&str] =
    &["PRIMARY", "UNIQUE", "CHECK", "REFERENCES", "DEFAULT", "GENERATED", "COLLATE", "CONSTRAINT"];

/// Reads what follows `CREATE [TEMPORARY] TABLE`.
///
/// # Errors
/// `Invalid` or `Unsupported` at the place of what is wrong.
pub fn create_table(cursor: &mut Cursor<'_>) -> Result<Table> {
    cursor.words(&["IF", "NOT", "EXISTS"]);
    let name = cursor.table_name("the table's name")?;
    let (columns, watermark) = if cursor.symbol('(') { columns(cursor)? } else { (Vec::new(), None) };
    if cursor.words(&["COMMENT"]) {
        cursor.string("a comment in quotes")?;
    }
    refuse_clauses(cursor)?;
    if !cursor.words(&["WITH"]) {
        let error = cursor.unexpected("WITH and the table's options");
        return Err(error.help("for example WITH (connector = 'console')"));
    }
    let options = options(cursor)?;
    refuse_clauses(cursor)?;
    cursor.end()?;
    connector::table(cursor.source(), Declaration { name, columns, watermark, options })
}

/// Clauses of other systems that we do not have, with what to do instead.
fn refuse_clauses(cursor: &Cursor<'_>) -> Result<()> {
    let Some(token) = cursor.peek().filter(|token| token.kind == TokenKind::Word) else { return Ok(()) };
    let help = match token.value.to_uppercase().as_str() {
        "AS" => "declare the table, then INSERT INTO it; or use CREATE VIEW",
        "LIKE" => "write the columns",
        "PARTITIONED" => "use the option partitionBy = 'a,b'",
        "USING" | "OPTIONS" | "TBLPROPERTIES" => "use WITH (connector = '...', ...)",
        "STORED" | "LOCATION" => "use WITH (connector = 'file', path = '...', format = '...')",
        _ => return Ok(()),
    };
    let word = token.value.to_uppercase();
    let error = Error::unsupported(format!("{word} is not part of CREATE TABLE in a job file"));
    Err(error.at(cursor.place(token.range.clone())).help(help))
}

type Columns = (Vec<DeclaredColumn>, Option<DeclaredWatermark>);

fn columns(cursor: &mut Cursor<'_>) -> Result<Columns> {
    let (mut columns, mut declared_watermark): Columns = (Vec::new(), None);
    loop {
        if watermark::is_next(cursor) {
            let next = watermark::read(cursor)?;
            if declared_watermark.is_some() {
                let error = Error::invalid("a table has one WATERMARK, this is the second");
                return Err(error.at(cursor.place(next.range)));
            }
            declared_watermark = Some(next);
        } else if let Some(token) = constraint(cursor) {
            return Err(refused(cursor, token, "leave it out: it would not be checked"));
        } else {
            let declared = column(cursor)?;
            let same = |other: &&DeclaredColumn| other.column.name.eq_ignore_ascii_case(&declared.column.name);
            if let Some(first) = columns.iter().find(same) {
                let message = if first.column.name == declared.column.name {
                    format!("the column '{}' is declared twice", declared.column.name)
                } else {
                    format!("the columns '{}' and '{}' differ only in case", first.column.name, declared.column.name)
                };
                return Err(Error::invalid(message).at(cursor.place(declared.name)));
            }
            columns.push(declared);
        }
        if cursor.symbol(')') {
            return Ok((columns, declared_watermark));
        }
        if !cursor.symbol(',') {
            return Err(cursor.unexpected("',' or ')'"));
        }
    }
}

/// The next token, if it starts a table constraint: such a word is followed by another keyword or a parenthesis,
/// a column of that name by its type.
fn constraint<'a>(cursor: &Cursor<'a>) -> Option<&'a Token> {
    let token = cursor.peek().filter(|token| CONSTRAINTS.iter().any(|word| token.is_word(word)))?;
    let second = cursor.peek_second()?;
    let follows = second.is_symbol('(') || second.is_word("KEY") || token.is_word("CONSTRAINT");
    follows.then_some(token)
}

/// The error for a constraint, `token` being its first word.
fn refused(cursor: &Cursor<'_>, token: &Token, help: &str) -> Error {
    let key = cursor.peek_second().filter(|second| second.is_word("KEY"));
    let range = token.range.start..key.map_or(token.range.end, |key| key.range.end);
    let words = if key.is_some() { format!("{} KEY", token.value) } else { token.value.clone() };
    let error = Error::unsupported(format!("{} is not in this version", words.to_uppercase()));
    error.at(cursor.place(range)).help(help)
}

fn column(cursor: &mut Cursor<'_>) -> Result<DeclaredColumn> {
    let name = cursor.name("a column's name")?;
    if cursor.peek().is_some_and(|token| token.is_word("AS")) {
        let error = Error::unsupported("computed columns are not in this version").at(cursor.place(cursor.range()));
        return Err(error.help("compute it in the SELECT, or in a CREATE VIEW"));
    }
    let type_start = cursor.range().start;
    let data_type = types::data_type(cursor)?;
    let type_end = type_start + cursor.source().expanded()[type_start..cursor.range().start].trim_end().len();
    let mut declared = DeclaredColumn {
        column: Column { name: name.text, data_type, nullable: true, metadata: None },
        name: name.range,
        data_type: type_start..type_end.max(type_start + 1),
        metadata: None,
    };
    loop {
        if cursor.words(&["NOT", "NULL"]) {
            declared.column.nullable = false;
        } else if cursor.words(&["NULL"]) {
            declared.column.nullable = true;
        } else if cursor.words(&["COMMENT"]) {
            cursor.string("a comment in quotes")?;
        } else if cursor.peek().is_some_and(|token| token.is_word("METADATA")) {
            metadata(cursor, &mut declared)?;
        } else {
            break;
        }
    }
    if let Some(token) = cursor.peek().filter(|t| COLUMN_CONSTRAINTS.iter().any(|word| t.is_word(word))) {
        return Err(refused(cursor, token, "leave it out"));
    }
    if declared.metadata.is_some() {
        check_metadata(cursor.source(), &declared)?;
    }
    Ok(declared)
}

/// `METADATA [FROM 'offset'] [VIRTUAL]`
fn metadata(cursor: &mut Cursor<'_>, declared: &mut DeclaredColumn) -> Result<()> {
    declared.metadata = Some(cursor.range());
    cursor.advance();
    let (name, range) = if cursor.words(&["FROM"]) {
        let token = cursor.string("the name of a Kafka column in quotes")?;
        (token.value.clone(), token.range.clone())
    } else {
        (declared.column.name.clone(), declared.name.clone())
    };
    // Virtual means read and never written, which is so for all of them.
    cursor.words(&["VIRTUAL"]);
    declared.column.metadata = kafka_column(&name);
    if declared.column.metadata.is_some() {
        return Ok(());
    }
    let names = || KafkaColumn::ALL.iter().map(|column| column.name());
    let help = match nearest(&name, names()) {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("write METADATA FROM one of '{}'", names().collect::<Vec<_>>().join("', '")),
    };
    let shown = cursor.source().shown_value(&name, range.clone());
    Err(Error::invalid(format!("a Kafka record has no '{shown}'")).at(cursor.place(range)).help(help))
}

/// The Kafka column of that name, in Spark's or Flink's spelling.
pub fn kafka_column(name: &str) -> Option<KafkaColumn> {
    let name = if name.eq_ignore_ascii_case("timestamp-type") { "timestampType" } else { name };
    KafkaColumn::ALL.into_iter().find(|column| column.name().eq_ignore_ascii_case(name))
}

/// The declared type must be what Kafka has, so that nothing is cast in silence.
///
/// # Errors
/// `Invalid` at the type, or at the name of a column that cannot be `NOT NULL`.
pub fn check_metadata(source: &SourceText, declared: &DeclaredColumn) -> Result<()> {
    let Some(kafka) = declared.column.metadata else { return Ok(()) };
    let same = match kafka {
        KafkaColumn::Timestamp => matches!(
            declared.column.data_type,
            DataType::Timestamp(TimeUnit::Millisecond | TimeUnit::Microsecond, None)
        ),
        other => declared.column.data_type == other.data_type(),
    };
    let name = kafka.name();
    if !same {
        let expected = types::sql_name(&kafka.data_type());
        let help = match kafka {
            KafkaColumn::Key | KafkaColumn::Value => {
                format!("declare it BINARY; for text, CAST({} AS STRING) in the SELECT", declared.column.name)
            }
            KafkaColumn::Timestamp => "declare it TIMESTAMP(3) or TIMESTAMP; Kafka's timestamps are UTC".to_owned(),
            _ => format!("declare it {expected}"),
        };
        let declared_type = types::sql_name(&declared.column.data_type);
        let error = Error::invalid(format!("Kafka's '{name}' is {expected}, not {declared_type}"));
        return Err(error.at(source.place(declared.data_type.clone())).help(help));
    }
    let may_be_null =
        matches!(kafka, KafkaColumn::Key | KafkaColumn::Value | KafkaColumn::Headers | KafkaColumn::Timestamp);
    if may_be_null && !declared.column.nullable {
        let error = Error::invalid(format!("Kafka's '{name}' may be null")).at(source.place(declared.name.clone()));
        return Err(error.help("leave NOT NULL out"));
    }
    Ok(())
}

/// `(name = value, ...)`
pub fn options(cursor: &mut Cursor<'_>) -> Result<Vec<Written>> {
    let mut options = Vec::new();
    cursor.expect_symbol('(')?;
    if cursor.symbol(')') {
        return Ok(options);
    }
    loop {
        let (name, name_range) = option_name(cursor)?;
        cursor.expect_symbol('=')?;
        let (value, value_range) = option_value(cursor)?;
        options.push(Written { name, name_range, value, value_range });
        if cursor.symbol(')') {
            return Ok(options);
        }
        if !cursor.symbol(',') {
            return Err(cursor.unexpected("',' or ')'"));
        }
    }
}

/// `path`, `'path'`, or `kafka.bootstrap.servers`.
fn option_name(cursor: &mut Cursor<'_>) -> Result<(String, Range<usize>)> {
    let is_name = |token: &&Token| !matches!(token.kind, TokenKind::Symbol | TokenKind::Number);
    let Some(first) = cursor.peek().filter(is_name) else { return Err(cursor.unexpected("an option's name")) };
    cursor.advance();
    let (mut name, mut range) = (first.value.clone(), first.range.clone());
    while first.kind == TokenKind::Word && cursor.symbol('.') {
        let part = cursor.name("the rest of the option's name")?;
        name = format!("{name}.{}", part.text);
        range.end = part.range.end;
    }
    Ok((name, range))
}

/// A string, a number or a boolean.
fn option_value(cursor: &mut Cursor<'_>) -> Result<(String, Range<usize>)> {
    let start = cursor.range().start;
    let negative = cursor.symbol('-');
    let Some(token) = cursor.peek() else { return Err(cursor.unexpected("a value")) };
    let boolean = token.is_word("true") || token.is_word("false");
    let value = match token.kind {
        TokenKind::String if !negative => token.value.clone(),
        TokenKind::Word if boolean && !negative => token.value.to_lowercase(),
        TokenKind::Number if negative => format!("-{}", token.value),
        TokenKind::Number => token.value.clone(),
        TokenKind::Word | TokenKind::QuotedName if !negative => {
            let error = cursor.unexpected("a value");
            return Err(error.help(format!(
                "write text in single quotes: '{}'",
                cursor.source().shown_value(&token.value, token.range.clone())
            )));
        }
        _ => return Err(cursor.unexpected("a value")),
    };
    cursor.advance();
    Ok((value, start..token.range.end))
}
