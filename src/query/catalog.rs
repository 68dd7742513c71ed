//! What a name in FROM stands for: a table that was created, a table or view of a job file, or a path.

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::{
    catalog::{MemorySchemaProvider, SchemaProvider, TableProvider},
    common::TableReference,
    datasource::ViewTable,
    error::DataFusionError,
    execution::SessionState,
    logical_expr::TableType,
};

use super::{
    files::{FilesSpec, FilesTable},
    format,
    kafka_table::KafkaRange,
};
use crate::{
    catalog::{Connector, FileFormat, FileTable, Job, Subscription, Table, locate_error, parse_statements},
    error::{Error, ErrorKind, Result, nearest},
    session::plan_sql,
};

/// Views of views that are followed to find the columns of an output.
const VIEW_DEPTH_MAX: usize = 16;

type StateOf = Box<dyn Fn() -> Option<SessionState> + Send + Sync>;

/// The tables that a session knows.
pub(super) struct QueryTables {
    created: MemorySchemaProvider,
    jobs: Vec<Job>,
    /// The table that the current statement creates. DataFusion looks for it first, and must not find a path of that name.
    creating: Mutex<Option<String>>,
    /// The session that this belongs to; weak inside, because the session owns this.
    state: StateOf,
}

/// One line of a list of tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSummary {
    pub name: String,
    /// `kafka`, `file`, `console`, `view` or `created`.
    pub kind: &'static str,
    /// The topic or the path.
    pub place: String,
}

impl fmt::Debug for QueryTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.table_names()).finish()
    }
}

impl QueryTables {
    pub fn new(jobs: Vec<Job>, state: StateOf) -> Self {
        Self { created: MemorySchemaProvider::new(), jobs, creating: Mutex::default(), state }
    }

    /// A statement begins, which creates a table of this name or none.
    pub fn begin(&self, creates: Option<String>) {
        *self.creating.lock().unwrap_or_else(PoisonError::into_inner) = creates;
    }

    fn is_being_created(&self, name: &str) -> bool {
        let creating = self.creating.lock().unwrap_or_else(PoisonError::into_inner);
        creating.as_deref().is_some_and(|creating| creating.eq_ignore_ascii_case(name))
    }

    /// All of them, by name.
    pub fn summaries(&self) -> Vec<TableSummary> {
        let created = self.created.table_names();
        let mut all: Vec<_> =
            created.into_iter().map(|name| TableSummary { name, kind: "created", place: String::new() }).collect();
        for job in &self.jobs {
            all.extend(job.tables.iter().map(summary));
            let view = |view: &crate::catalog::View| TableSummary {
                name: view.name.clone(),
                kind: "view",
                place: String::new(),
            };
            all.extend(job.views.iter().map(view));
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Whether `name` stands for something.
    ///
    /// # Errors
    /// `NotFound`, with the nearest name.
    pub fn check(&self, name: &str) -> Result<()> {
        if self.table_exist(name) || is_path(name) {
            return Ok(());
        }
        let error = Error::new(ErrorKind::NotFound, format!("there is no table '{name}'"));
        let names = self.table_names();
        Err(match nearest(name, names.iter().map(String::as_str)) {
            Some(near) => error.help(format!("did you mean {near}?")),
            None if names.is_empty() => error.help(
                "name the job file whose tables you mean with --job, or put a path in quotes: FROM 'dir/*.parquet'",
            ),
            None => {
                error.help(format!("there are {}; a path stands in quotes: FROM 'dir/*.parquet'", names.join(", ")))
            }
        })
    }

    async fn resolve(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        for job in &self.jobs {
            if let Some(table) = job.table(name) {
                return self.table_of(job, table).await.map(Some);
            }
            if let Some(view) = job.views.iter().find(|view| view.name.eq_ignore_ascii_case(name)) {
                let plan = plan_sql(&self.state()?, view.select.sql()).await;
                let plan = plan.map_err(|error| locate_error(error, &view.select))?;
                return Ok(Some(Arc::new(ViewTable::new(plan, Some(view.select.to_string())))));
            }
        }
        if !is_path(name) || self.is_being_created(name) {
            return Ok(None);
        }
        let spec =
            FilesSpec { place: name.to_owned(), guess_header: true, guess_delimiter: true, ..FilesSpec::default() };
        Ok(Some(Arc::new(FilesTable::open(&self.state()?, &spec).await?)))
    }

    fn state(&self) -> Result<SessionState> {
        (self.state)().ok_or_else(|| Error::internal("the session is closed"))
    }

    async fn table_of(&self, job: &Job, table: &Table) -> Result<Arc<dyn TableProvider>> {
        match &table.connector {
            Connector::Kafka(kafka) if kafka.subscription.is_some() => Ok(Arc::new(KafkaRange::new(table, kafka))),
            Connector::Kafka(_) => Err(Error::unsupported(format!("the table '{}' is only written to", table.name))
                .help("give it 'subscribe' to read its topic")),
            Connector::Console(_) => Err(Error::unsupported(format!("the table '{}' is a console", table.name))),
            Connector::File(file) => {
                let spec = self.files_of(job, table, file).await?;
                Ok(Arc::new(FilesTable::open(&self.state()?, &spec).await?))
            }
        }
    }

    /// Where the files of a job's table are, and what is known of them.
    pub async fn files_of(&self, job: &Job, table: &Table, file: &FileTable) -> Result<FilesSpec> {
        let columns = match &file.format {
            _ if !table.columns.is_empty() => Some(table.schema()),
            FileFormat::Parquet => None,
            _ => self.columns_written(job, table).await,
        };
        Ok(FilesSpec { columns, ..FilesSpec::of_table(file) })
    }

    /// The columns of an output that declares none: those of the INSERT that writes it. Text files do not know their
    /// types (and CSV not even its names), so guessing from the rows would be worse.
    async fn columns_written(&self, job: &Job, table: &Table) -> Option<SchemaRef> {
        let insert = job.inserts.iter().find(|insert| insert.target.eq_ignore_ascii_case(&table.name))?;
        let state = self.state().ok()?;
        if !reads_declared_tables(&state, job, insert.select.sql(), 0) {
            return None;
        }
        match plan_sql(&state, insert.select.sql()).await {
            Ok(plan) => Some(Arc::clone(plan.schema().inner())),
            Err(error) => {
                tracing::warn!(table = table.name, %error, "the job's INSERT does not plan, so its columns are guessed");
                None
            }
        }
    }
}

/// Whether planning `select` needs nothing but declarations: no file is looked at, and no output needs its own columns.
fn reads_declared_tables(state: &SessionState, job: &Job, select: &str, depth: usize) -> bool {
    let Ok(statements) = parse_statements(select) else { return false };
    let Some(Ok(names)) = statements.front().map(|it| state.resolve_table_references(it)) else { return false };
    names.iter().all(|name| {
        match (job.table(name.table()), job.views.iter().find(|it| it.name.eq_ignore_ascii_case(name.table()))) {
            (Some(table), _) => matches!(table.connector, Connector::Kafka(_)),
            (None, Some(view)) => {
                depth < VIEW_DEPTH_MAX && reads_declared_tables(state, job, view.select.sql(), depth + 1)
            }
            (None, None) => false,
        }
    })
}

fn summary(table: &Table) -> TableSummary {
    let (kind, place) = match &table.connector {
        Connector::Kafka(kafka) => (
            "kafka",
            match (&kafka.subscription, &kafka.topic) {
                (Some(Subscription::Topics(topics)), _) => topics.join(","),
                (Some(Subscription::Pattern(pattern)), _) => pattern.clone(),
                (Some(Subscription::Partitions(partitions)), _) => {
                    partitions.keys().cloned().collect::<Vec<_>>().join(",")
                }
                (None, topic) => topic.clone().unwrap_or_default(),
            },
        ),
        Connector::File(file) => ("file", file.path.clone()),
        Connector::Console(_) => ("console", String::new()),
    };
    TableSummary { name: table.name.clone(), kind, place }
}

/// A name that can only be a path, or that is one: it has a slash, a pattern or a data file's extension, or it exists.
fn is_path(name: &str) -> bool {
    name.contains(['/', '*']) || format::kind_of(name).is_some() || Path::new(name).exists()
}

#[async_trait]
impl SchemaProvider for QueryTables {
    fn table_names(&self) -> Vec<String> {
        self.summaries().into_iter().map(|table| table.name).collect()
    }

    async fn table(&self, name: &str) -> datafusion::error::Result<Option<Arc<dyn TableProvider>>> {
        if let Some(table) = self.created.table(name).await? {
            return Ok(Some(table));
        }
        self.resolve(name).await.map_err(DataFusionError::from)
    }

    /// Without looking: a list of tables must not list every directory.
    async fn table_type(&self, name: &str) -> datafusion::error::Result<Option<TableType>> {
        let is_view = |job: &Job| job.views.iter().any(|view| view.name.eq_ignore_ascii_case(name));
        let table_type = if self.jobs.iter().any(is_view) { TableType::View } else { TableType::Base };
        Ok(self.table_exist(name).then_some(table_type))
    }

    fn register_table(
        &self,
        name: String,
        table: Arc<dyn TableProvider>,
    ) -> datafusion::error::Result<Option<Arc<dyn TableProvider>>> {
        self.created.register_table(name, table)
    }

    fn deregister_table(&self, name: &str) -> datafusion::error::Result<Option<Arc<dyn TableProvider>>> {
        self.created.deregister_table(name)
    }

    fn table_exist(&self, name: &str) -> bool {
        self.created.table_exist(name)
            || self.jobs.iter().any(|job| {
                job.table(name).is_some() || job.views.iter().any(|view| view.name.eq_ignore_ascii_case(name))
            })
    }
}

/// The name without catalog and schema, if it has neither.
pub(super) fn bare(reference: &TableReference) -> Option<&str> {
    match reference {
        TableReference::Bare { table } => Some(table),
        _ => None,
    }
}
