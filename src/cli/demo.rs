//! `tidemill demo`.

use clap::Args;

use crate::error::{Error, Result};

/// See it all in one process: simulated prices, a broker, a stream, files, a query and a model
#[derive(Debug, Args)]
pub struct DemoArgs {}

pub async fn run(_args: DemoArgs) -> Result<()> {
    Err(Error::unsupported("`tidemill demo` is not built yet"))
}
