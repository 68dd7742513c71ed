//! A job file, read and checked.

use std::{collections::BTreeMap, ops::Range, path::Path, sync::Arc};

use super::{
    Table, check,
    cursor::Cursor,
    ddl,
    lexer::{self, Token, TokenKind},
    locate,
    model::{self, ModelStatement},
    output_mode::{self, EmitClause},
    text::SqlText,
    variables,
};
use crate::error::{Error, Place, Result, nearest};

/// A longer job file is refused: it is certainly something else.
pub const JOB_FILE_BYTES_MAX: usize = 1 << 20;

/// A longer statement is refused: SQL parsers recurse.
pub const STATEMENT_TOKENS_MAX: usize = 5_000;

/// A job file.
#[derive(Debug, Clone)]
pub struct Job {
    /// The file's name without `.sql`.
    pub name: String,
    pub tables: Vec<Table>,
    /// In the order of the file, in which each may use the ones before it.
    pub views: Vec<View>,
    /// Those that are declared with options: any other name means a model of the default directory.
    pub models: Vec<ModelStatement>,
    pub inserts: Vec<Insert>,
}

/// `CREATE VIEW name AS select`.
#[derive(Debug, Clone)]
pub struct View {
    pub name: String,
    pub select: SqlText,
    /// Where the view's name stands.
    pub place: Place,
}

/// `INSERT INTO target select`: one streaming query.
#[derive(Debug, Clone)]
pub struct Insert {
    /// Names a table of the job.
    pub target: String,
    pub select: SqlText,
    /// What stands behind the SELECT.
    pub emit: Option<EmitClause>,
    /// Where the statement starts.
    pub place: Place,
    /// Where the target's name stands.
    pub target_place: Place,
}

/// What `${NAME}` stands for: `-D NAME=VALUE` first, the environment second, `:-default` last.
#[derive(Debug, Clone, Default)]
pub struct Variables {
    pub given: BTreeMap<String, String>,
}

impl Job {
    /// Reads `text`, the content of `file`. A job without inserts is one, too: `query` reads its tables.
    ///
    /// Names of tables and views without quotes mean their lower-case form, as in DataFusion's `SELECT`; names of
    /// columns stay as they are written, since they are also the names of JSON fields.
    ///
    /// # Errors
    /// `Invalid`, with the place, for anything that is not a job; `Unsupported` for what other systems have.
    pub fn parse(file: &str, text: &str, variables: &Variables) -> Result<Self> {
        if text.len() > JOB_FILE_BYTES_MAX {
            let error =
                Error::invalid(format!("{file} has {} bytes, a job file at most {JOB_FILE_BYTES_MAX}", text.len()));
            return Err(error.help("is it a job file?"));
        }
        let source = Arc::new(variables::expand(file, text, variables)?);
        let tokens = lexer::tokens(source.expanded()).map_err(|open| variables::unterminated(&source, &open, true))?;
        let name = Path::new(file).file_name().map_or(file.into(), |name| name.to_string_lossy());
        let name = name.strip_suffix(".sql").unwrap_or(&name).to_owned();
        let mut job = Self { name, tables: Vec::new(), views: Vec::new(), models: Vec::new(), inserts: Vec::new() };
        let mut relations = check::Relations::default();
        for statement in tokens.split(|token| token.is_symbol(';')).filter(|tokens| !tokens.is_empty()) {
            if let Some(token) = statement.get(STATEMENT_TOKENS_MAX) {
                let error = Error::unsupported(format!("this statement has more than {STATEMENT_TOKENS_MAX} words"));
                return Err(error.at(source.place(token.range.clone())));
            }
            job.statement(Cursor::new(&source, statement), &mut relations)?;
        }
        check::job(&job, &relations)?;
        Ok(job)
    }

    /// The table of that name (case-insensitive).
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.name.eq_ignore_ascii_case(name))
    }

    /// The view of that name (case-insensitive).
    pub fn view(&self, name: &str) -> Option<&View> {
        self.views.iter().find(|view| view.name.eq_ignore_ascii_case(name))
    }

    fn statement(&mut self, mut cursor: Cursor<'_>, relations: &mut check::Relations) -> Result<()> {
        let start = cursor.range();
        if cursor.words(&["CREATE"]) {
            let replace = cursor.words(&["OR", "REPLACE"]);
            let _temporary = cursor.words(&["TEMPORARY"]) || cursor.words(&["TEMP"]);
            if cursor.words(&["VIEW"]) {
                return self.create_view(cursor, relations);
            }
            if !replace && cursor.words(&["TABLE"]) {
                let table = ddl::create_table(&mut cursor)?;
                self.check_new(&table.name, &table.place)?;
                self.tables.push(table);
                return Ok(());
            }
            if cursor.words(&["MODEL"]) {
                let model = model::create_model(&mut cursor, replace)?;
                return self.declare_model(model);
            }
            return Err(not_created(&cursor, replace));
        }
        if cursor.words(&["INSERT"]) {
            return self.insert(cursor, start, relations);
        }
        Err(not_a_statement(&cursor))
    }

    fn create_view(&mut self, mut cursor: Cursor<'_>, relations: &mut check::Relations) -> Result<()> {
        cursor.words(&["IF", "NOT", "EXISTS"]);
        let name = cursor.table_name("the view's name")?;
        let place = cursor.place(name.range);
        self.check_new(&name.text, &place)?;
        if cursor.peek().is_some_and(|token| token.is_symbol('(')) {
            let error = Error::unsupported("a view takes no list of columns").at(cursor.place(cursor.range()));
            return Err(error.help("name the columns in the SELECT: expression AS name"));
        }
        if cursor.words(&["COMMENT"]) {
            cursor.string("a comment in quotes")?;
        }
        cursor.expect_word("AS")?;
        let (select, emit) = select(&cursor)?;
        if let Some(emit) = emit {
            return Err(emit.in_a_view());
        }
        relations.views.push(locate::relations(&select)?);
        self.views.push(View { name: name.text, select, place });
        Ok(())
    }

    fn insert(&mut self, mut cursor: Cursor<'_>, start: Range<usize>, relations: &mut check::Relations) -> Result<()> {
        if cursor.peek().is_some_and(|token| token.is_word("OVERWRITE")) {
            let error = Error::unsupported("a stream only adds rows").at(cursor.place(cursor.range()));
            return Err(error.help("write INSERT INTO"));
        }
        cursor.expect_word("INTO")?;
        // A table may have the name `table`.
        if cursor
            .peek_second()
            .is_some_and(|t| matches!(t.kind, TokenKind::Word | TokenKind::QuotedName) && !is_query(t))
        {
            cursor.words(&["TABLE"]);
        }
        let target = cursor.table_name("the name of the table to write")?;
        let list = cursor.peek().filter(|token| token.is_symbol('('));
        if let (Some(open), false) = (list, cursor.peek_second().is_some_and(is_query)) {
            let error = Error::unsupported("INSERT takes no list of columns").at(cursor.place(open.range.clone()));
            return Err(error.help("leave it out and name the columns in the SELECT: expression AS name"));
        }
        let (select, emit) = select(&cursor)?;
        relations.inserts.push(locate::relations(&select)?);
        let (place, target_place) = (cursor.place(start), cursor.place(target.range));
        self.inserts.push(Insert { target: target.text, select, emit, place, target_place });
        Ok(())
    }

    fn declare_model(&mut self, model: ModelStatement) -> Result<()> {
        if model.query.is_some() {
            return Err(model::not_in_a_job(&model));
        }
        if let Some(first) = self.models.iter().find(|other| other.name == model.name) {
            let error =
                Error::invalid(format!("there is a model '{}' already, in line {}", model.name, first.place.line));
            return Err(error.at(model.place).help("declare it once"));
        }
        self.models.push(model);
        Ok(())
    }

    /// A name is declared once, as a table or as a view.
    fn check_new(&self, name: &str, place: &Place) -> Result<()> {
        let table = self.table(name).map(|table| ("table", &table.place));
        let Some((what, first)) = table.or_else(|| self.view(name).map(|view| ("view", &view.place))) else {
            return Ok(());
        };
        let error = Error::invalid(format!("there is a {what} '{name}' already, in line {}", first.line));
        Err(error.at(place.clone()).help("give one of them another name"))
    }
}

/// The token starts a query.
fn is_query(token: &Token) -> bool {
    token.is_symbol('(') || ["SELECT", "WITH", "VALUES", "FROM", "TABLE"].iter().any(|word| token.is_word(word))
}

/// The rest of the statement, which must be a query, perhaps with an EMIT behind it.
fn select(cursor: &Cursor<'_>) -> Result<(SqlText, Option<EmitClause>)> {
    if !cursor.peek().is_some_and(is_query) {
        return Err(cursor.unexpected("SELECT"));
    }
    if let Some(range) = cursor.next_statement() {
        let error = Error::invalid("expected the end of the SELECT, found another statement").at(cursor.place(range));
        return Err(error.help("is a ';' missing before it?"));
    }
    output_mode::split(cursor)
}

/// The error for `CREATE` with something else than a table, a view or a model.
fn not_created(cursor: &Cursor<'_>, replace: bool) -> Error {
    let place = cursor.place(cursor.range());
    if replace && cursor.peek().is_some_and(|token| token.is_word("TABLE")) {
        let error = Error::unsupported("CREATE OR REPLACE TABLE is not in this version").at(place);
        return error.help("a job file declares each table once: write CREATE TABLE");
    }
    if cursor.peek().is_some_and(|token| token.is_word("EXTERNAL")) {
        let error = Error::unsupported("CREATE EXTERNAL TABLE is not for job files").at(place);
        return error.help("write CREATE TABLE name WITH (connector = 'file', path = '...', format = '...')");
    }
    let error = cursor.unexpected("TABLE, VIEW or MODEL");
    match cursor.peek().and_then(|token| nearest(&token.value, ["TABLE", "VIEW", "MODEL"])) {
        Some(near) => error.help(format!("did you mean {near}?")),
        None => error,
    }
}

/// The error for a statement that no job file holds.
fn not_a_statement(cursor: &Cursor<'_>) -> Error {
    const HOLDS: &str = "a job file holds CREATE TABLE, CREATE VIEW, CREATE MODEL and INSERT INTO";
    let Some(token) = cursor.peek() else { return Error::internal("an empty statement") };
    let place = cursor.place(token.range.clone());
    let word = cursor.source().shown(token.range.clone());
    if is_query(token) {
        let error = Error::invalid(format!("a job file does nothing with a {} alone", word.to_uppercase())).at(place);
        return error.help(
            "to see the rows, CREATE TABLE screen WITH (connector = 'console'), then INSERT INTO screen SELECT ...",
        );
    }
    if token.is_word("SET") {
        let error = Error::unsupported("SET is not for job files").at(place);
        return error.help("give options in the WITH clause of a table, or as arguments of the command");
    }
    let error = Error::invalid(format!("{HOLDS}, not '{word}'")).at(place);
    match nearest(&token.value, ["CREATE", "INSERT"]).filter(|_| token.kind == TokenKind::Word) {
        Some(near) => error.help(format!("did you mean {near}?")),
        None => error,
    }
}
