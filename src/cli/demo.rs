//! `tidemill demo`.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{page, signals};
use crate::{
    demo::{DemoOptions, demo},
    error::Result,
};

/// See it all in one process: simulated prices, a broker, a stream, files, a query and a model
///
/// Nothing else is needed: no Kafka, no Hadoop, no Java. The job that it runs is sql/demo.sql.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tidemill demo --for 30s\n  tidemill demo --dir /tmp/look --rate 5000")]
pub struct DemoArgs {
    /// End after this time ('30s', '2 minutes'); without it, at Ctrl-C
    #[arg(long = "for", value_name = "TIME", value_parser = super::stream::interval)]
    duration: Option<Duration>,
    /// Where the files go; it must be empty or absent
    #[arg(long, value_name = "DIR", default_value = "tidemill-demo")]
    dir: PathBuf,
    /// Prices a second
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    rate: u32,
    /// The same seed gives the same prices
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Where the live page is: a port of this machine, or an address; without it, 4040 or the next one that is free
    #[arg(long, value_name = "ADDR", value_parser = page::address)]
    ui: Option<SocketAddr>,
    /// No live page
    #[arg(long, conflicts_with = "ui")]
    no_ui: bool,
}

/// Spark's; it tries as many above it.
const PORT: u16 = 4040;
const MORE_PORTS: u16 = 16;

/// Runs the command.
///
/// # Errors
/// The demo's.
pub async fn run(args: DemoArgs) -> Result<()> {
    let stop = CancellationToken::new();
    signals::cancel_on_signal(stop.clone());
    let page = match args.ui {
        _ if args.no_ui => None,
        Some(address) => Some(page::options(address, 0)),
        None => Some(page::options(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)), MORE_PORTS)),
    };
    let DemoArgs { duration, dir: directory, rate, seed, .. } = args;
    let options = DemoOptions { duration, directory, rate, seed, page };
    demo(&options, &stop).await
}
