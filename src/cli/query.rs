//! `tidemill query`.

use clap::Args;

use crate::error::{Error, Result};

/// Run batch SQL over stored files and bounded ranges of Kafka topics
#[derive(Debug, Args)]
pub struct QueryArgs {}

pub async fn run(_args: QueryArgs) -> Result<()> {
    Err(Error::unsupported("`tidemill query` is not built yet"))
}
