//! `CREATE [OR REPLACE] MODEL [IF NOT EXISTS] name [WITH (options)] [AS SELECT ...]`, in job files and in scripts.

use std::{fmt, ops::Range, sync::Arc};

use super::{
    cursor::Cursor,
    ddl,
    lexer::{Token, tokens},
    options::{Options, Vocabulary, Written},
    text::{SourceText, SqlText},
};
use crate::error::{Error, Place, Result};

/// A model as it was declared. What its options mean is for `model` to say, which knows training and serving.
#[derive(Clone)]
pub struct ModelStatement {
    /// In lower case, unless it was quoted.
    pub name: String,
    /// `OR REPLACE`.
    pub replace: bool,
    /// `IF NOT EXISTS`.
    pub if_not_exists: bool,
    /// The rows to train on; without it the statement only declares a model.
    pub query: Option<SqlText>,
    /// Where the name stands.
    pub place: Place,
    source: Arc<SourceText>,
    name_range: Range<usize>,
    written: Vec<Written>,
}

/// One part of a script, in its order.
#[derive(Debug, Clone)]
pub enum ScriptPart {
    /// Other statements: the script with everything else blanked out, so that places in it stay true.
    Sql(String),
    Model(ModelStatement),
}

impl fmt::Debug for ModelStatement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the options: their values may be secret.
        f.debug_struct("ModelStatement").field("name", &self.name).field("query", &self.query).finish_non_exhaustive()
    }
}

impl ModelStatement {
    /// The options, checked against a list of names. Whoever reads them ends with `Options::finish`.
    ///
    /// # Errors
    /// `Invalid` at the first name that is unknown or given twice; `Unsupported` for a known one that we lack.
    pub fn options(&self, vocabulary: Vocabulary) -> Result<Options<'_>> {
        Options::new(&self.source, self.name_range.clone(), self.written.clone(), vocabulary)
    }

    /// Is an option of that name given, in any case?
    pub fn gives(&self, name: &str) -> bool {
        self.written.iter().any(|option| option.name.eq_ignore_ascii_case(name))
    }
}

/// Does a statement of these tokens create a model?
fn is_model(statement: &[Token]) -> bool {
    let [create, rest @ ..] = statement else { return false };
    let starts =
        |words: &[&str]| rest.len() >= words.len() && rest.iter().zip(words).all(|(token, word)| token.is_word(word));
    let forms = [&["MODEL"][..], &["OR", "REPLACE", "MODEL"], &["TEMPORARY", "MODEL"], &["TEMP", "MODEL"]];
    create.is_word("CREATE") && forms.into_iter().any(starts)
}

/// Reads what follows `CREATE [OR REPLACE] MODEL`.
///
/// # Errors
/// `Invalid` or `Unsupported` at the place of what is wrong.
pub fn create_model(cursor: &mut Cursor<'_>, replace: bool) -> Result<ModelStatement> {
    let if_not_exists = cursor.words(&["IF", "NOT", "EXISTS"]);
    let name = cursor.table_name("the model's name")?;
    let place = cursor.place(name.range.clone());
    if replace && if_not_exists {
        let error = Error::invalid("OR REPLACE and IF NOT EXISTS contradict each other").at(place);
        return Err(error.help("OR REPLACE trains a new version, IF NOT EXISTS keeps the one that is there"));
    }
    if let Some(token) = cursor.peek().filter(|token| token.is_word("INPUT") || token.is_word("OUTPUT")) {
        let error = Error::unsupported(format!("{} is not part of CREATE MODEL here", token.value.to_uppercase()));
        let error = error.at(cursor.place(token.range.clone()));
        return Err(error.help("leave it out: a model's file says which features it has, and what it predicts"));
    }
    if cursor.words(&["COMMENT"]) {
        cursor.string("a comment in quotes")?;
    }
    let written = if cursor.words(&["WITH"]) { ddl::options(cursor)? } else { Vec::new() };
    let query = match cursor.words(&["AS"]) {
        true => Some(training_query(cursor)?),
        false => {
            cursor.end()?;
            None
        }
    };
    let source = Arc::clone(cursor.source());
    Ok(ModelStatement {
        name: name.text,
        replace,
        if_not_exists,
        query,
        place,
        source,
        name_range: name.range,
        written,
    })
}

fn training_query(cursor: &Cursor<'_>) -> Result<SqlText> {
    let starts = |token: &Token| {
        token.is_symbol('(') || ["SELECT", "WITH", "VALUES", "FROM", "TABLE"].iter().any(|word| token.is_word(word))
    };
    if !cursor.peek().is_some_and(starts) {
        return Err(cursor.unexpected("SELECT"));
    }
    if let Some(range) = cursor.next_statement() {
        let error = Error::invalid("expected the end of the SELECT, found another statement").at(cursor.place(range));
        return Err(error.help("is a ';' missing before it?"));
    }
    Ok(cursor.rest())
}

/// The error for a job file that trains.
pub fn not_in_a_job(model: &ModelStatement) -> Error {
    let error = Error::unsupported(format!("a job file does not train models, and {} has AS SELECT", model.name));
    error.at(model.place.clone()).help(
        "train it with `tidemill query` (the same statement) or `tidemill train`, and leave AS SELECT out here: a \
         running job goes on with a new version when it is promoted",
    )
}

/// Takes the `CREATE MODEL` statements out of a script, which the SQL parser does not know.
///
/// # Errors
/// As `create_model`. What is not closed is for the SQL parser to say.
pub fn script_parts(name: &str, text: &str) -> Result<Vec<ScriptPart>> {
    let whole = || vec![ScriptPart::Sql(text.to_owned())];
    let Ok(found) = tokens(text) else { return Ok(whole()) };
    let statements = || found.split(|token| token.is_symbol(';')).filter(|tokens| !tokens.is_empty());
    if !statements().any(is_model) {
        return Ok(whole());
    }
    let mut source = SourceText::new(name, text);
    source.push_verbatim(0..text.len());
    let source = Arc::new(source);
    let mut parts = Vec::new();
    let mut sql: Option<Range<usize>> = None;
    for tokens in statements() {
        let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else { continue };
        if !is_model(tokens) {
            let start = sql.map_or(first.range.start, |range| range.start);
            sql = Some(start..last.range.end);
            continue;
        }
        parts.extend(sql.take().map(|range| ScriptPart::Sql(all_but(text, range))));
        let mut cursor = Cursor::new(&source, tokens);
        cursor.words(&["CREATE"]);
        let replace = cursor.words(&["OR", "REPLACE"]);
        let temporary = cursor.words(&["TEMPORARY"]) || cursor.words(&["TEMP"]);
        cursor.words(&["MODEL"]);
        let model = create_model(&mut cursor, replace)?;
        if temporary && model.query.is_some() {
            let error = Error::unsupported("a model that is trained is kept: it cannot be TEMPORARY");
            return Err(error.at(model.place).help("write CREATE MODEL, with 'path' = '...' for another directory"));
        }
        parts.push(ScriptPart::Model(model));
    }
    parts.extend(sql.map(|range| ScriptPart::Sql(all_but(text, range))));
    Ok(parts)
}

/// `text` up to the end of `range`, with blanks for what stands before it.
fn all_but(text: &str, range: Range<usize>) -> String {
    let before = text[..range.start].chars().map(|c| if c == '\n' { '\n' } else { ' ' });
    before.chain(text[range].chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_taken_apart_in_its_order() {
        let text = "SELECT 1;\n-- CREATE MODEL no\nSELECT 2; CREATE OR REPLACE MODEL \"A-b\" WITH (target = 'y', \
                    'regParam' = 0.5) AS\nSELECT x, y FROM t; SELECT 3;\ncreate model if not exists M;";
        let parts = script_parts("a.sql", text).unwrap();
        let [ScriptPart::Sql(first), ScriptPart::Model(a), ScriptPart::Sql(third), ScriptPart::Model(m)] = &parts[..]
        else {
            panic!("{parts:?}")
        };
        assert_eq!(first, "SELECT 1;\n-- CREATE MODEL no\nSELECT 2");
        assert_eq!((a.name.as_str(), a.replace, a.query.as_ref().unwrap().sql()), ("A-b", true, "SELECT x, y FROM t"));
        assert_eq!((a.place.line, a.place.column), (3, 35));
        assert!(a.gives("REGPARAM") && !a.gives("elasticNetParam"));
        assert_eq!(third.trim(), "SELECT 3");
        assert_eq!((third.find("SELECT 3"), third.lines().count()), (text.find("SELECT 3"), 4));
        assert_eq!((m.name.as_str(), m.if_not_exists, m.query.is_none()), ("m", true, true));
        assert!(matches!(&script_parts("a.sql", "SELECT 'CREATE MODEL'").unwrap()[..], [ScriptPart::Sql(_)]));
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        for (text, wanted, line, column) in [
            ("CREATE MODEL", "expected the model's name, found the end of the statement", 1, 13),
            ("CREATE OR REPLACE MODEL IF NOT EXISTS m", "contradict each other", 1, 39),
            ("CREATE MODEL m INPUT (x DOUBLE)", "INPUT is not part of CREATE MODEL", 1, 16),
            ("CREATE MODEL m WITH (a = 1) AS 5", "expected SELECT, found '5'", 1, 32),
            ("CREATE MODEL m\nSELECT 1", "expected ';', found 'SELECT'", 2, 1),
            ("CREATE MODEL m AS SELECT 1 CREATE MODEL n", "found another statement", 1, 28),
            ("CREATE TEMPORARY MODEL m AS SELECT 1", "cannot be TEMPORARY", 1, 24),
        ] {
            let error = script_parts("a.sql", text).unwrap_err();
            assert!(error.message().contains(wanted), "{text}: {error}");
            let place = error.place().unwrap();
            assert_eq!((place.line, place.column), (line, column), "{text}");
        }
        let ScriptPart::Model(model) = script_parts("a.sql", "CREATE MODEL m WITH (targt = 'y')").unwrap().remove(0)
        else {
            panic!("a model")
        };
        let names = Vocabulary {
            owner: super::super::options::MODEL,
            names: &["target"],
            aliases: &[],
            foreign: &[],
            prefix: None,
        };
        let error = model.options(names).unwrap_err();
        assert_eq!(error.message(), "a model has no option 'targt'");
        assert_eq!(error.advice(), Some("did you mean 'target'?"));
        assert_eq!(error.place().unwrap().column, 22);
    }
}
