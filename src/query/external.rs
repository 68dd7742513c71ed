//! `CREATE EXTERNAL TABLE ... STORED AS CSV | JSON | NDJSON | PARQUET LOCATION '...' OPTIONS (...)`: as a path in FROM,
//! with a name, declared columns and options. Every query looks at the files anew.

use std::{collections::HashMap, sync::Arc};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider, TableProviderFactory},
    logical_expr::{CreateExternalTable, Expr, TableProviderFilterPushDown, TableType},
    physical_plan::ExecutionPlan,
};

use super::{
    files::{FilesSpec, FilesTable},
    format::FileKind,
};
use crate::error::{Error, Result, nearest};

/// The words after STORED AS.
pub(super) const FORMATS: [(&str, FileKind); 4] =
    [("CSV", FileKind::Csv), ("JSON", FileKind::Json), ("NDJSON", FileKind::Json), ("PARQUET", FileKind::Parquet)];

const CSV_OPTIONS: [&str; 8] =
    ["header", "has_header", "delimiter", "sep", "quote", "escape", "null_value", "nullValue"];

/// Makes tables of one kind of file.
#[derive(Debug)]
pub(super) struct ExternalTables(pub FileKind);

#[async_trait]
impl TableProviderFactory for ExternalTables {
    async fn create(
        &self,
        state: &dyn Session,
        statement: &CreateExternalTable,
    ) -> datafusion::error::Result<Arc<dyn TableProvider>> {
        let mut spec = spec_of(self.0, statement)?;
        let schema = FilesTable::open(state, &spec).await?.schema();
        spec.columns = Some(Arc::clone(&schema));
        Ok(Arc::new(ExternalTable { spec, schema }))
    }
}

fn spec_of(kind: FileKind, statement: &CreateExternalTable) -> Result<FilesSpec> {
    let [place] = statement.locations.as_slice() else {
        return Err(
            Error::unsupported("a table of several locations").help("name them by one pattern: 'dir/{a,b}/*.csv'")
        );
    };
    if statement.unbounded {
        return Err(Error::unsupported("an unbounded table").help("use tidemill stream"));
    }
    if !statement.order_exprs.is_empty() || !statement.constraints.is_empty() || !statement.column_defaults.is_empty() {
        return Err(Error::unsupported("WITH ORDER, constraints and defaults of an external table"));
    }
    let mut spec = FilesSpec { place: place.clone(), kind: Some(kind), ..FilesSpec::default() };
    if !statement.schema.fields().is_empty() {
        spec.columns = Some(Arc::clone(statement.schema.inner()));
    }
    if !statement.table_partition_cols.is_empty() {
        spec.partition_by = Some(statement.table_partition_cols.clone());
    }
    let has_header = apply_options(&mut spec, kind, &statement.options)?;
    // With declared columns a header that is not announced would be an error at its first value, not a lost row.
    spec.guess_csv = !has_header && spec.columns.is_none();
    Ok(spec)
}

/// Returns whether the options say if there is a header.
fn apply_options(spec: &mut FilesSpec, kind: FileKind, options: &HashMap<String, String>) -> Result<bool> {
    let mut has_header = false;
    for (key, value) in options {
        let name = key.strip_prefix("format.").unwrap_or(key);
        let one_byte = || match value.as_bytes() {
            [byte] => Ok(*byte),
            _ if value == "\\t" => Ok(b'\t'),
            _ => Err(Error::invalid(format!("option '{name}' is '{value}', which is not one ASCII character"))),
        };
        match name {
            _ if kind != FileKind::Csv => {
                return Err(Error::invalid(format!("there is no option '{name}' for this format")));
            }
            "header" | "has_header" => {
                has_header = true;
                spec.csv.header = value.parse().map_err(|_| {
                    Error::invalid(format!("option '{name}' is '{value}', which is neither true nor false"))
                })?;
            }
            "delimiter" | "sep" => spec.csv.delimiter = one_byte()?,
            "quote" => spec.csv.quote = one_byte()?,
            "escape" => spec.csv.escape = one_byte()?,
            "null_value" | "nullvalue" | "nullValue" => spec.csv.null_value.clone_from(value),
            _ => {
                let error = Error::invalid(format!("there is no option '{name}'"));
                return Err(match nearest(name, CSV_OPTIONS) {
                    Some(near) => error.help(format!("did you mean '{near}'?")),
                    None => error.help(format!("there are {}", CSV_OPTIONS.join(", "))),
                });
            }
        }
    }
    Ok(has_header)
}

#[derive(Debug)]
struct ExternalTable {
    spec: FilesSpec,
    schema: SchemaRef,
}

#[async_trait]
impl TableProvider for ExternalTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Partitions are pruned by the filters, and the rows filtered again.
    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> datafusion::error::Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        FilesTable::open(state, &self.spec).await?.scan(state, projection, filters, limit).await
    }
}
