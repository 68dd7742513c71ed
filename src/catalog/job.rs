//! A job file, read and checked.

use std::collections::BTreeMap;

use super::Table;
use crate::error::{Error, Place, Result};

/// A job file.
#[derive(Debug, Clone)]
pub struct Job {
    /// The file's name without `.sql`.
    pub name: String,
    pub tables: Vec<Table>,
    pub views: Vec<View>,
    pub inserts: Vec<Insert>,
}

/// `CREATE VIEW name AS select`.
#[derive(Debug, Clone)]
pub struct View {
    pub name: String,
    pub select: String,
    pub place: Place,
}

/// `INSERT INTO target select`: one streaming query.
#[derive(Debug, Clone)]
pub struct Insert {
    /// Names a table of the job.
    pub target: String,
    pub select: String,
    /// Where the statement starts.
    pub place: Place,
}

/// What `${NAME}` stands for: `-D NAME=VALUE` first, the environment second, `:-default` last.
#[derive(Debug, Clone, Default)]
pub struct Variables {
    pub given: BTreeMap<String, String>,
}

impl Job {
    /// Reads `text`, the content of `file`.
    ///
    /// # Errors
    /// `Invalid`, with the place, for anything that is not a job.
    pub fn parse(_file: &str, _text: &str, _variables: &Variables) -> Result<Self> {
        Err(Error::unsupported("job files"))
    }

    /// The table of that name (case-insensitive).
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.name.eq_ignore_ascii_case(name))
    }
}
