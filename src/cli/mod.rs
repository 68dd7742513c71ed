//! One file per command: arguments to options to one library call.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::Result;

mod demo;
mod explain;
mod job;
mod late;
mod models;
mod output_file;
mod page;
mod predict;
mod produce;
mod query;
mod signals;
mod source;
mod state;
mod stream;
mod train;
mod verify;

/// Kafka to HDFS, S3 or local files exactly once, with SQL in between and a regression at the end.
#[derive(Debug, Parser)]
#[command(name = "tidemill", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    Produce(produce::ProduceArgs),
    Stream(stream::StreamArgs),
    Query(query::QueryArgs),
    Train(Box<train::TrainArgs>),
    Predict(predict::PredictArgs),
    Models(models::ModelsArgs),
    Verify(verify::VerifyArgs),
    State(state::StateArgs),
    Explain(explain::ExplainArgs),
    Late(late::LateArgs),
}

/// Parses the arguments and runs the command. The exit code is 0, or `Error::exit_code`.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("TIDEMILL_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn")),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .finish();
    let run = async {
        match cli.command {
            Command::Demo(args) => demo::run(args).await,
            Command::Produce(args) => produce::run(args).await,
            Command::Stream(args) => stream::run(args).await,
            Command::Query(args) => query::run(args).await,
            Command::Train(args) => train::run(*args).await,
            Command::Predict(args) => predict::run(args).await,
            Command::Models(args) => models::run(args),
            Command::Verify(args) => verify::run(args).await,
            Command::State(args) => state::run(args).await,
            Command::Explain(args) => explain::run(args).await,
            Command::Late(args) => late::run(args).await,
        }
    };
    let outcome = tracing::subscriber::set_global_default(subscriber)
        .map_err(|error| crate::error::Error::internal(error.to_string()))
        .and_then(|()| runtime().map(|runtime| runtime.block_on(run)))
        .and_then(|result| result);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Of each worker; only what is used is ever backed by memory.
const THREAD_STACK_BYTES: usize = 8 << 20;

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // DataFusion plans by recursion, and an unoptimised build's frames are large.
        .thread_stack_size(THREAD_STACK_BYTES)
        .build()
        .map_err(|error| crate::error::Error::internal("the async runtime does not start").source_error(error))
}
