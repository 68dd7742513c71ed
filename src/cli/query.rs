//! `tidemill query`.

use std::{
    io::{self, BufWriter, IsTerminal, Read, Write},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::Args;

use super::{
    job::{VariableArgs, read_job},
    output_file::OverwriteArg,
    train::spinner,
};
use crate::{
    catalog::ModelStatement,
    error::{Error, ErrorKind, Result},
    model::{file::io_error, report},
    query::{
        CreatedModel, MEMORY_BYTES_DEFAULT, OutputFormat, QuerySession, ResultWriter, Script, ScriptStatement,
        TABLE_ROWS_DEFAULT,
    },
    session::SessionLimits,
};

mod shell;

/// Run batch SQL over stored files and bounded ranges of Kafka topics
#[derive(Debug, Args)]
pub struct QueryArgs {
    /// SQL, or a file that ends in .sql; without it statements are asked for
    sql: Option<String>,
    /// Read the SQL from this file; - is the standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "sql")]
    file: Option<String>,
    /// A job file whose tables and views the SQL may use; may be given several times
    #[arg(short, long, value_name = "JOB.sql")]
    job: Vec<PathBuf>,
    #[command(flatten)]
    variables: VariableArgs,
    /// How rows are written; without it, as a table, or as the name of --output ends
    #[arg(long, value_enum)]
    format: Option<OutputFormat>,
    /// Write the rows of the only statement that has some to this local file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    overwrite: OverwriteArg,
    /// Memory for sorts, joins and aggregates, e.g. 512MB; beyond it they spill to the temporary directory
    #[arg(long, value_name = "SIZE", value_parser = bytes, default_value_t = MEMORY_BYTES_DEFAULT)]
    memory_limit: usize,
    /// Where the models of predict, ML_PREDICT and CREATE MODEL are kept
    #[arg(long, default_value = "models", value_name = "DIRECTORY")]
    models_dir: PathBuf,
    /// The most rows that a table shows; 0 shows all
    #[arg(long, value_name = "N", default_value_t = TABLE_ROWS_DEFAULT)]
    max_rows: usize,
}

impl QueryArgs {
    fn format(&self) -> OutputFormat {
        let named = || match self.output.as_ref()?.extension()?.to_str()? {
            "csv" => Some(OutputFormat::Csv),
            "json" => Some(OutputFormat::Json),
            "ndjson" | "jsonl" => Some(OutputFormat::Ndjson),
            "parquet" => Some(OutputFormat::Parquet),
            _ => None,
        };
        self.format.or_else(named).unwrap_or(OutputFormat::Table)
    }
}

pub async fn run(args: QueryArgs) -> Result<()> {
    if args.format() == OutputFormat::Parquet && args.output.is_none() {
        return Err(Error::invalid("--format parquet needs --output FILE"));
    }
    if let Some(path) = &args.output {
        args.overwrite.check(path)?;
    }
    let jobs = args.job.iter().map(|path| read_job(path, &args.variables)).collect::<Result<_>>()?;
    let partitions = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let session = QuerySession::new(jobs, SessionLimits { memory_bytes: args.memory_limit, partitions })?;
    session.models().set_directory(&args.models_dir);
    let stdout = Stdout::default();
    let outcome = match script(&args)? {
        Some(script) => run_script(&session, &script, &args, &stdout).await,
        None => shell::run(&session, &args, &stdout).await,
    };
    // A reader like `head` that has seen enough is no failure.
    if stdout.is_closed() { Ok(()) } else { outcome }
}

fn script(args: &QueryArgs) -> Result<Option<Script>> {
    let from_file = |name: &str| Ok(Some(Script { name: name.to_owned(), text: read_text(name)? }));
    match (&args.file, &args.sql) {
        (Some(file), _) if file == "-" => read_stdin().map(Some),
        (Some(file), _) => from_file(file),
        (None, Some(sql)) if sql.ends_with(".sql") && !sql.contains(char::is_whitespace) => from_file(sql),
        (None, Some(sql)) => Ok(Some(Script::command_line(sql))),
        (None, None) if io::stdin().is_terminal() => Ok(None),
        (None, None) => read_stdin().map(Some),
    }
}

fn read_stdin() -> Result<Script> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).map_err(|error| Error::invalid(format!("the standard input: {error}")))?;
    Ok(Script { name: "<standard input>".to_owned(), text })
}

fn read_text(file: &str) -> Result<String> {
    std::fs::read_to_string(file).map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            _ => ErrorKind::Invalid,
        };
        Error::new(kind, format!("{file} cannot be read")).source_error(error)
    })
}

async fn run_script(session: &QuerySession, script: &Script, args: &QueryArgs, stdout: &Stdout) -> Result<()> {
    let mut has_written = false;
    for statement in session.parse_script(script)? {
        let statement = match statement {
            ScriptStatement::Sql(statement) => statement,
            ScriptStatement::Model(model) => {
                create_model(session, &model).await?;
                continue;
            }
        };
        let mut rows = session.run(script, statement).await?;
        let schema = rows.schema();
        if schema.fields().is_empty() {
            while rows.next().await?.is_some() {}
            continue;
        }
        let Some(path) = &args.output else {
            let mut writer = ResultWriter::new(args.format(), &schema, args.max_rows, stdout.clone())?;
            pump(&mut rows, &mut writer).await?;
            writer.finish()?;
            continue;
        };
        if has_written {
            return Err(Error::invalid("--output takes the rows of one statement, and there are several"));
        }
        let file = BufWriter::new(args.overwrite.create(path)?);
        let mut writer = ResultWriter::new(args.format(), &schema, args.max_rows, file)?;
        pump(&mut rows, &mut writer).await?;
        let written = writer.finish()?.into_inner();
        written.map_err(|error| io_error("write", path, error.into_error()))?.publish()?;
        has_written = true;
    }
    Ok(())
}

/// What became of it goes to stderr: the statement gives no rows.
async fn create_model(session: &QuerySession, statement: &ModelStatement) -> Result<()> {
    let spinner = spinner()?;
    let created = session.create_model(statement, &|rows| spinner.inc(rows)).await;
    spinner.finish_and_clear();
    match created? {
        CreatedModel::Declared => {}
        CreatedModel::Kept => eprintln!("the model {} is there already", statement.name),
        CreatedModel::Trained(trained) => {
            let (stored, training) = *trained;
            for warning in &training.warnings {
                eprintln!("warning: {warning}");
            }
            eprint!("{}", report::summary(&stored));
            let served = session.models().find(&statement.name)?.current().label();
            if served != format!("{}@{}", statement.name, stored.revision) {
                eprintln!("{} is still {served}: tidemill models promote changes that", statement.name);
            }
        }
    }
    Ok(())
}

async fn pump<W: Write + Send>(rows: &mut crate::query::Rows, writer: &mut ResultWriter<W>) -> Result<()> {
    while let Some(batch) = rows.next().await? {
        if !writer.write(&batch)? {
            break;
        }
    }
    Ok(())
}

/// The standard output, which knows when its reader has gone.
#[derive(Debug, Clone, Default)]
struct Stdout {
    closed: Arc<AtomicBool>,
}

impl Stdout {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn noting<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            self.closed.store(true, Ordering::Relaxed);
        }
        result
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.noting(io::stdout().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.noting(io::stdout().flush())
    }
}

/// `512MB`, `1GB`, `64KB` (powers of 1024) or a number of bytes.
pub(super) fn bytes(text: &str) -> std::result::Result<usize, String> {
    let wanted = || format!("'{text}' is no size: write 512MB, 2GB or a number of bytes");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" => 10,
        "M" | "MB" => 20,
        "G" | "GB" => 30,
        _ => return Err(wanted()),
    };
    let number: usize = number.parse().map_err(|_| wanted())?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes > 0).ok_or_else(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(bytes("1GB"), Ok(1 << 30));
        assert_eq!(bytes("64kb"), Ok(64 << 10));
        assert_eq!(bytes("1000"), Ok(1000));
        for wrong in ["", "GB", "-1", "1TBX", "0", "1.5GB", "99999999999999GB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
