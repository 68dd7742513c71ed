//! The arguments that name a job file, shared by the commands that read one.

use std::path::PathBuf;

use clap::Args;

use crate::{
    catalog::{Job, Variables},
    error::{Error, ErrorKind, Result},
};

/// A job file and its variables.
#[derive(Debug, Args)]
pub struct JobArgs {
    /// The job file: CREATE TABLE, CREATE VIEW, INSERT INTO
    #[arg(value_name = "JOB.sql")]
    pub file: PathBuf,
    #[command(flatten)]
    pub variables: VariableArgs,
}

/// `-D NAME=VALUE`.
#[derive(Debug, Args, Default)]
pub struct VariableArgs {
    /// What ${NAME} stands for in the job file; the environment comes second
    #[arg(short = 'D', value_name = "NAME=VALUE", value_parser = variable)]
    pub define: Vec<(String, String)>,
}

impl JobArgs {
    /// Reads the file.
    ///
    /// # Errors
    /// `NotFound`, or what is wrong with the job.
    pub fn read(&self) -> Result<Job> {
        read_job(&self.file, &self.variables)
    }
}

/// Reads a job file.
///
/// # Errors
/// `NotFound`, or what is wrong with the job.
pub fn read_job(file: &std::path::Path, variables: &VariableArgs) -> Result<Job> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        let kind = if error.kind() == std::io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Invalid };
        Error::new(kind, format!("cannot read the job file {}", file.display()))
            .source_error(error)
            .help("job files of this project stand in sql/")
    })?;
    let variables = Variables { given: variables.define.iter().cloned().collect() };
    Job::parse(&file.display().to_string(), &text, &variables)
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}
