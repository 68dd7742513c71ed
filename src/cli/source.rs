//! What `train` and `predict` read: a query, a table of a job, or a path.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{
    job::{VariableArgs, read_job},
    query::bytes,
};
use crate::{
    error::{Error, Result},
    query::{MEMORY_BYTES_DEFAULT, QuerySession, RepeatableQuery, Script},
    session::SessionLimits,
};

/// What to read.
#[derive(Debug, Args)]
pub struct SourceArgs {
    /// A query (SELECT ... or WITH ...), a table of the job, or the path of a file or directory
    pub source: String,
    /// The job file whose tables the query names
    #[arg(short, long, value_name = "JOB.sql")]
    job: Option<PathBuf>,
    #[command(flatten)]
    variables: VariableArgs,
    /// The columns of a CSV file without a header: 'timestamp TIMESTAMP, price DOUBLE' or 'timestamp:TIMESTAMP,...'
    #[arg(long, value_name = "NAME:TYPE,...")]
    columns: Option<String>,
    /// Memory for sorts, joins and aggregates of the query, e.g. 512MB; beyond it they use the disk
    #[arg(long, value_name = "SIZE", value_parser = bytes, default_value_t = MEMORY_BYTES_DEFAULT)]
    memory_limit: usize,
}

/// Opens the source; `models` is the directory of the models that its SQL may name.
///
/// # Errors
/// `Invalid` for arguments that contradict each other; the job's; the query's come when it runs.
pub async fn open_query(args: &SourceArgs, models: &Path) -> Result<RepeatableQuery> {
    let jobs = match &args.job {
        Some(file) => vec![read_job(file, &args.variables)?],
        None => Vec::new(),
    };
    let is_table = jobs.iter().any(|job| job.table(&args.source).is_some() || job.view(&args.source).is_some());
    // One partition keeps the rows in order, which the split and the last-value baseline depend on.
    let session = QuerySession::new(jobs, SessionLimits { memory_bytes: args.memory_limit, partitions: 1 })?;
    session.models().set_directory(models);
    let first_word = args.source.split_whitespace().next().unwrap_or_default().to_uppercase();
    let sql = if ["SELECT", "WITH"].contains(&first_word.as_str()) {
        args.source.trim_end().trim_end_matches(';').to_owned()
    } else if is_table {
        format!("SELECT * FROM {}", args.source)
    } else {
        let path = args.source.replace('\'', "''");
        match &args.columns {
            None => format!("SELECT * FROM '{path}'"),
            Some(columns) => return headerless(session, &path, columns).await,
        }
    };
    if args.columns.is_some() {
        return Err(Error::invalid(
            "--columns declares the columns of a CSV file, but the source is a query or a table",
        ));
    }
    Ok(RepeatableQuery::new(&session, sql))
}

async fn headerless(session: QuerySession, path: &str, columns: &str) -> Result<RepeatableQuery> {
    let columns: Vec<String> = split_columns(columns).map(declare).collect::<Result<_>>()?;
    let create = format!(
        "CREATE EXTERNAL TABLE source ({}) STORED AS CSV LOCATION '{path}' OPTIONS ('header' 'false')",
        columns.join(", ")
    );
    let script = Script::command_line(create);
    for statement in session.parse(&script)? {
        session.run(&script, statement).await?;
    }
    Ok(RepeatableQuery::new(&session, "SELECT * FROM source"))
}

/// At the commas outside parentheses: `a:DECIMAL(10,2),b:INT`.
fn split_columns(columns: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    columns
        .split(move |c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            c == ',' && depth == 0
        })
        .map(str::trim)
}

fn declare(column: &str) -> Result<String> {
    let (name, data_type) = column
        .split_once([':', ' '])
        .map(|(name, data_type)| (name.trim(), data_type.trim()))
        .filter(|(name, data_type)| !name.is_empty() && !data_type.is_empty())
        .ok_or_else(|| Error::invalid(format!("'{column}' in --columns is not NAME:TYPE")).help("price:DOUBLE"))?;
    if !data_type.chars().all(|c| c.is_ascii_alphanumeric() || " _(),".contains(c)) {
        return Err(Error::invalid(format!("'{data_type}' in --columns is not a type")).help("price:DOUBLE"));
    }
    Ok(format!("\"{}\" {data_type}", name.replace('"', "\"\"")))
}
