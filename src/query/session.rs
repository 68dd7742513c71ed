//! Runs SQL statements one after another.

use std::sync::Arc;

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use datafusion::{
    execution::SendableRecordBatchStream,
    prelude::{DataFrame, SessionContext},
    sql::{
        parser::{CopyToSource, CopyToStatement, Statement},
        sqlparser::ast::Statement as SqlStatement,
    },
};
use futures::StreamExt;

use super::{
    catalog::{QueryTables, TableSummary, bare},
    copy,
    external::{ExternalTables, FORMATS},
    failure,
    files::FilesSpec,
    kafka_table::KafkaRanges,
};
use crate::{
    catalog::{FileTable, Job, ModelStatement, ScriptPart, Table, parse_statements, script_parts},
    error::{Error, Place, Result},
    model::{Models, function, serving},
    session::{SessionLimits, in_order, plan_statement, session},
    store::Store,
};

/// Memory for sorts, joins and aggregates of one session; beyond it they spill to the temporary directory.
pub const MEMORY_BYTES_DEFAULT: usize = 1 << 30;

/// With less, a sort that has to spill cannot even merge what it spilled.
pub const MEMORY_BYTES_MIN: usize = 16 << 20;

/// The memory that each partition of a plan needs to spill: DataFusion reserves 10 MB per sort for the merge, and a
/// query may have several.
const PARTITION_BYTES: usize = 32 << 20;

/// SQL that the user wrote, and where.
#[derive(Debug, Clone)]
pub struct Script {
    /// The file's name, or `<command line>`.
    pub name: String,
    pub text: String,
}

impl Script {
    /// SQL of the command line.
    pub fn command_line(text: impl Into<String>) -> Self {
        Self { name: "<command line>".to_owned(), text: text.into() }
    }

    /// A place in it; `line` and `column` are 1-based.
    pub(super) fn place(&self, line: usize, column: usize, width: usize) -> Place {
        let text = self.text.lines().nth(line.saturating_sub(1)).unwrap_or_default().to_owned();
        Place { file: self.name.clone(), line, column, width: width.max(1), text }
    }

    /// Where `word` stands for the first time as a word of its own.
    fn find(&self, word: &str) -> Option<Place> {
        for (index, line) in self.text.lines().enumerate() {
            let lower = line.to_lowercase();
            let found = lower.match_indices(&word.to_lowercase()).find(|(at, found)| {
                let is_word = |c: char| c.is_alphanumeric() || c == '_';
                !lower[..*at].ends_with(is_word) && !lower[at + found.len()..].starts_with(is_word)
            });
            if let Some((at, found)) = found {
                return Some(self.place(index + 1, lower[..at].chars().count() + 1, found.chars().count()));
            }
        }
        None
    }
}

/// A session: its tables live as long as it does.
pub struct QuerySession {
    context: SessionContext,
    tables: Arc<QueryTables>,
    /// The session that the tables belong to: they live as long as it does.
    owner: SessionContext,
    models: Arc<Models>,
}

/// One statement of a script.
#[derive(Debug)]
pub enum ScriptStatement {
    Sql(Statement),
    Model(ModelStatement),
}

impl std::fmt::Debug for QuerySession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "QuerySession({:?})", self.tables)
    }
}

impl QuerySession {
    /// With the tables, views and models of `jobs`. Nothing is contacted. Where the memory is too small for as many partitions
    /// to spill, there are fewer.
    ///
    /// # Errors
    /// `Invalid` for less than `MEMORY_BYTES_MIN`, and at a wrong option of a model; `Internal` if the temporary directory cannot be used.
    pub fn new(jobs: Vec<Job>, limits: SessionLimits) -> Result<Self> {
        let memory_bytes = limits.memory_bytes;
        if memory_bytes < MEMORY_BYTES_MIN {
            return Err(Error::invalid(format!("{memory_bytes} bytes of memory are too few for a query"))
                .help(format!("a query needs {} MB", MEMORY_BYTES_MIN >> 20)));
        }
        let partitions = limits.partitions.min(memory_bytes / PARTITION_BYTES).max(1);
        let context = session(SessionLimits { memory_bytes, partitions })?;
        let models = Arc::new(Models::new(serving::DIRECTORY));
        for model in jobs.iter().flat_map(|job| &job.models) {
            // Of two jobs with the same name the first wins, as with tables.
            if !models.is_declared(&model.name) {
                models.declare(model)?;
            }
        }
        function::register(&context, &models)?;
        let weak = context.state_weak_ref();
        let state_of = Box::new(move || weak.upgrade().map(|state| state.read().clone()));
        let tables = Arc::new(QueryTables::new(jobs, state_of));
        let catalog = context.catalog("datafusion").ok_or_else(|| Error::internal("the session has no catalog"))?;
        catalog.register_schema("public", Arc::clone(&tables) as _)?;
        {
            let state = context.state_ref();
            let mut state = state.write();
            for (name, kind) in FORMATS {
                state.table_factories_mut().insert(name.to_owned(), Arc::new(ExternalTables(kind)));
            }
        }
        Ok(Self { owner: context.clone(), context, tables, models })
    }

    /// Those that its SQL can name.
    pub fn models(&self) -> &Models {
        &self.models
    }

    /// The same tables and models in a session that gives the same rows each time: with one partition, which keeps the
    /// rows of files in their order, and with the ranges of Kafka tables as they are first, which it writes down.
    pub(super) fn repeatable(&self) -> (Self, Arc<KafkaRanges>) {
        let (context, ranges) = (in_order(&self.context), Arc::new(KafkaRanges::default()));
        context.state_ref().write().config_mut().set_extension(Arc::clone(&ranges));
        let (tables, models) = (Arc::clone(&self.tables), Arc::clone(&self.models));
        (Self { context, tables, owner: self.owner.clone(), models }, ranges)
    }

    /// DataFusion's own session, for callers that build plans.
    pub fn context(&self) -> &SessionContext {
        &self.context
    }

    /// The tables, by name.
    pub fn tables(&self) -> Vec<TableSummary> {
        self.tables.summaries()
    }

    /// Where the files of a table of `job` are, and what is known of them.
    pub(super) async fn files_of(&self, job: &Job, table: &Table, file: &FileTable) -> Result<FilesSpec> {
        self.tables.files_of(job, table, file).await
    }

    /// The statements of a script.
    ///
    /// # Errors
    /// `Invalid`, with the place.
    pub fn parse(&self, script: &Script) -> Result<Vec<Statement>> {
        let statements =
            parse_statements(&script.text).map_err(|error| failure::from_datafusion(error, Some(script)))?;
        Ok(statements.into())
    }

    /// The statements of a script, which may have `CREATE MODEL` among them.
    ///
    /// # Errors
    /// `Invalid`, with the place.
    pub fn parse_script(&self, script: &Script) -> Result<Vec<ScriptStatement>> {
        let mut statements = Vec::new();
        for part in script_parts(&script.name, &script.text)? {
            match part {
                ScriptPart::Model(model) => statements.push(ScriptStatement::Model(model)),
                ScriptPart::Sql(text) => {
                    let part = Script { name: script.name.clone(), text };
                    statements.extend(self.parse(&part)?.into_iter().map(ScriptStatement::Sql));
                }
            }
        }
        Ok(statements)
    }

    /// Runs one statement of `script`. Its rows come as they are asked for.
    ///
    /// # Errors
    /// `Invalid`, with the place where it is known; `NotFound`; those of the stores and of Kafka.
    pub async fn run(&self, script: &Script, statement: Statement) -> Result<Rows> {
        let explained = |error| failure::from_datafusion(error, Some(script));
        let stream = self.plan(script, statement).await?.execute_stream().await.map_err(explained)?;
        Ok(Rows { stream, script: script.clone() })
    }

    /// Plans one statement; what is no query is done at once.
    async fn plan(&self, script: &Script, mut statement: Statement) -> Result<DataFrame> {
        if let Some(copy) = copy_of(&mut statement) {
            copy::translate(copy).map_err(|error| match script.find("OPTIONS") {
                Some(place) => error.at(place),
                None => error,
            })?;
        }
        self.check(script, &statement).await?;
        let explained = |error| failure::from_datafusion(error, Some(script));
        let created = match &statement {
            Statement::CreateExternalTable(create) => Some(create.name.to_string()),
            _ => None,
        };
        self.tables.begin(created);
        let plan = plan_statement(&self.context.state(), statement).await.map_err(explained)?;
        self.context.execute_logical_plan(plan).await.map_err(explained)
    }

    /// Runs a single SELECT.
    ///
    /// # Errors
    /// As `run`; `Invalid` if it is not exactly one statement.
    pub async fn select(&self, sql: &str) -> Result<Rows> {
        let (script, statement) = self.one(sql)?;
        self.run(&script, statement).await
    }

    /// Runs a single SELECT for some of its columns, each of which it has once; in its order, which a SELECT around it
    /// would lose.
    ///
    /// # Errors
    /// As `select`.
    pub async fn select_columns(&self, sql: &str, columns: &[&str]) -> Result<Rows> {
        let (script, statement) = self.one(sql)?;
        let frame = self.plan(&script, statement).await?;
        let explained = |error| failure::from_datafusion(error, Some(&script));
        let frame = frame.select_columns(columns).map_err(explained)?;
        let stream = frame.execute_stream().await.map_err(explained)?;
        Ok(Rows { stream, script })
    }

    fn one(&self, sql: &str) -> Result<(Script, Statement)> {
        let script = Script::command_line(sql);
        let mut statements = self.parse(&script)?;
        match (statements.pop(), statements.is_empty()) {
            (Some(statement), true) => Ok((script, statement)),
            _ => Err(Error::invalid("one SELECT is wanted here")),
        }
    }

    /// What DataFusion would say late, or in other words.
    async fn check(&self, script: &Script, statement: &Statement) -> Result<()> {
        match statement {
            Statement::Explain(explain) => return Box::pin(self.check(script, &explain.statement)).await,
            Statement::CreateExternalTable(create) => {
                let format = create.file_type.to_uppercase();
                if !FORMATS.iter().any(|(name, _)| *name == format) {
                    return Err(Error::unsupported(format!("files stored as {format}"))
                        .help("STORED AS CSV, JSON, NDJSON or PARQUET"));
                }
                return Ok(());
            }
            Statement::CopyTo(copy) => {
                Store::open(&copy.target).await?.register(&self.context)?;
                copy::check_target(&copy.target).await?;
                if matches!(copy.source, CopyToSource::Relation(_)) {
                    return Ok(());
                }
            }
            Statement::Statement(sql) => match sql.as_ref() {
                SqlStatement::Insert(_) => {
                    return Err(Error::unsupported("INSERT is not for queries").help(
                        "a job writes its tables: tidemill stream; COPY (SELECT ...) TO 'path' writes a result",
                    ));
                }
                SqlStatement::Query(_) | SqlStatement::Explain { .. } | SqlStatement::ExplainTable { .. } => {}
                _ => return Ok(()),
            },
            Statement::Reset(_) => return Ok(()),
        }
        let state = self.context.state();
        let names =
            state.resolve_table_references(statement).map_err(|error| failure::from_datafusion(error, Some(script)))?;
        let is_table = |name: &&str| !state.table_functions().contains_key(*name);
        for name in names.iter().filter_map(bare).filter(is_table) {
            self.tables.check(name).map_err(|error| match script.find(name) {
                Some(place) => error.at(place),
                None => error,
            })?;
        }
        Ok(())
    }
}

/// The COPY that a statement is, or explains.
fn copy_of(statement: &mut Statement) -> Option<&mut CopyToStatement> {
    match statement {
        Statement::CopyTo(copy) => Some(copy),
        Statement::Explain(explain) => copy_of(&mut explain.statement),
        _ => None,
    }
}

/// The rows of one statement.
pub struct Rows {
    stream: SendableRecordBatchStream,
    script: Script,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rows({:?})", self.stream.schema())
    }
}

impl Rows {
    /// Their columns; none for a statement that gives no rows.
    pub fn schema(&self) -> SchemaRef {
        self.stream.schema()
    }

    /// Them as DataFusion's stream, for a caller that does not care which statement they are from.
    pub fn into_stream(self) -> SendableRecordBatchStream {
        self.stream
    }

    /// The next batch.
    ///
    /// # Errors
    /// As `QuerySession::run`.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let next = self.stream.next().await.transpose();
        next.map_err(|error| failure::from_datafusion(error, Some(&self.script)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_column_offset_needs_no_quotes() {
        let limits = SessionLimits { memory_bytes: MEMORY_BYTES_MIN, partitions: 1 };
        let session = QuerySession::new(Vec::new(), limits).unwrap();
        let parsed = |text: &str| {
            let statements = session.parse(&Script::command_line(text)).unwrap();
            statements.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        for (plain, quoted) in [
            ("SELECT topic, partition, OFFSET FROM t", "SELECT topic, partition, \"offset\" FROM t"),
            ("SELECT a, /* c */ offset, b FROM t", "SELECT a, \"offset\", b FROM t"),
        ] {
            assert_eq!(parsed(plain), parsed(quoted));
        }
        let paged = "SELECT offset, a FROM t ORDER BY a LIMIT 5 OFFSET 2";
        assert_eq!(parsed(paged), [paged]);
        let error = session.parse(&Script::command_line("SELCT a, offset FROM t")).unwrap_err();
        assert!(error.place().is_some(), "{error}");
    }
}
