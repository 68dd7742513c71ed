//! `tidemill train`.

use clap::Args;

use crate::error::{Error, Result};

/// Fit a linear regression to a query and save the model
#[derive(Debug, Args)]
pub struct TrainArgs {}

pub async fn run(_args: TrainArgs) -> Result<()> {
    Err(Error::unsupported("`tidemill train` is not built yet"))
}
