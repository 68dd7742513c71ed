//! `tidemill predict`.

use clap::Args;

use crate::error::{Error, Result};

/// Apply a saved model to a query
#[derive(Debug, Args)]
pub struct PredictArgs {}

pub async fn run(_args: PredictArgs) -> Result<()> {
    Err(Error::unsupported("`tidemill predict` is not built yet"))
}
