//! `tidemill stream`.

use clap::Args;

use crate::error::{Error, Result};

/// Launch the streaming queries of a job file
#[derive(Debug, Args)]
pub struct StreamArgs {}

pub async fn run(_args: StreamArgs) -> Result<()> {
    Err(Error::unsupported("`tidemill stream` is not built yet"))
}
