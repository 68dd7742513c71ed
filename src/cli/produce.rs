//! `tidemill produce`.

use clap::Args;

use crate::error::{Error, Result};

/// Send prices into a Kafka topic: from Binance, a simulator or a file
#[derive(Debug, Args)]
pub struct ProduceArgs {}

pub async fn run(_args: ProduceArgs) -> Result<()> {
    Err(Error::unsupported("`tidemill produce` is not built yet"))
}
