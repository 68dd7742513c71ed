//! `tidemill verify`.

use clap::Args;

use crate::error::{Error, Result};

/// Recount a job's files against its offsets: is every record accounted for?
#[derive(Debug, Args)]
pub struct VerifyArgs {}

pub async fn run(_args: VerifyArgs) -> Result<()> {
    Err(Error::unsupported("`tidemill verify` is not built yet"))
}
