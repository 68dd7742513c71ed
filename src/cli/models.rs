//! `tidemill models`.

use std::path::PathBuf;

use arrow::{array::RecordBatch, util::pretty::pretty_format_batches};
use clap::{Args, Subcommand, ValueEnum};

use super::train::print;
use crate::{
    error::{Error, Result},
    model::{Registry, compare, report},
};

/// List, show, compare and promote saved models
#[derive(Debug, Args)]
pub struct ModelsArgs {
    #[command(subcommand)]
    action: Action,
    /// Where models are kept
    #[arg(long, default_value = "models", value_name = "DIRECTORY", global = true)]
    models_dir: PathBuf,
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Table, global = true)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Every revision, how well it did, and which one is served
    List {
        /// Of this model alone
        name: Option<String>,
    },
    /// One model: NAME for the one that is served, NAME@2, NAME@newest
    Show { model: String },
    /// What differs between two
    Diff { left: String, right: String },
    /// Make a revision the one that its name means: NAME@2, or NAME for the newest
    Promote { model: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Csv,
    Json,
}

/// Does it.
pub fn run(args: ModelsArgs) -> Result<()> {
    let registry = Registry::new(args.models_dir);
    let text = match args.action {
        Action::List { name } => written(&compare::list(&registry, name.as_deref())?, args.format)?,
        Action::Diff { left, right } => {
            written(&compare::diff(&registry.load(&left)?, &registry.load(&right)?)?, args.format)?
        }
        Action::Show { model } => {
            let stored = registry.load(&model)?;
            match args.format {
                Format::Table => report::saved(&stored).into_bytes(),
                Format::Json => format!("{}\n", stored.model.to_json()?).into_bytes(),
                Format::Csv => {
                    return Err(Error::invalid("one model has no csv form").help("--format table or json"));
                }
            }
        }
        Action::Promote { model } => {
            let stored = registry.promote(&model)?;
            let name = &stored.model.name;
            format!("{name} is now {name}@{}\n", stored.revision).into_bytes()
        }
    };
    print(&text)?;
    Ok(())
}

fn written(batch: &RecordBatch, format: Format) -> Result<Vec<u8>> {
    match format {
        Format::Table => Ok(format!("{}\n", pretty_format_batches(std::slice::from_ref(batch))?).into_bytes()),
        Format::Csv => {
            let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(Vec::new());
            writer.write(batch)?;
            Ok(writer.into_inner())
        }
        Format::Json => {
            let mut writer = arrow::json::WriterBuilder::new()
                .with_explicit_nulls(true)
                .build::<_, arrow::json::writer::JsonArray>(Vec::new());
            writer.write(batch)?;
            writer.finish()?;
            let mut text = writer.into_inner();
            text.push(b'\n');
            Ok(text)
        }
    }
}
