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
    options::TextOption,
};
use crate::error::{Error, Result};

/// The words after STORED AS.
pub(super) const FORMATS: [(&str, FileKind); 4] =
    [("CSV", FileKind::Csv), ("JSON", FileKind::Json), ("NDJSON", FileKind::Json), ("PARQUET", FileKind::Parquet)];

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
    apply_options(&mut spec, kind, &statement.options)?;
    Ok(spec)
}

fn apply_options(spec: &mut FilesSpec, kind: FileKind, options: &HashMap<String, String>) -> Result<()> {
    // With declared columns a header that is not announced would be an error at its first value, not a lost row.
    (spec.guess_header, spec.guess_delimiter) = (spec.columns.is_none(), spec.columns.is_none());
    for (key, value) in options {
        let option = TextOption::parse(key, value, kind)?;
        if matches!(option, TextOption::TimestampFormat(_) | TextOption::DateFormat(_)) && spec.columns.is_none() {
            return Err(Error::invalid(format!("the option '{key}' is for declared columns"))
                .help("declare them: CREATE EXTERNAL TABLE t (at TIMESTAMP, ...) STORED AS CSV ..."));
        }
        match option {
            TextOption::Header(header) => (spec.csv.header, spec.guess_header) = (header, false),
            TextOption::Delimiter(byte) => (spec.csv.delimiter, spec.guess_delimiter) = (byte, false),
            TextOption::Quote(byte) => spec.csv.quote = byte,
            TextOption::Escape(byte) => spec.csv.escape = byte,
            TextOption::NullValue(text) => spec.csv.null_value = text,
            TextOption::TimestampFormat(pattern) => spec.csv.timestamp_format = Some(pattern),
            TextOption::DateFormat(pattern) => spec.csv.date_format = Some(pattern),
            TextOption::Compression(_) => {
                return Err(Error::invalid(format!("the option '{key}' is for writing"))
                    .help("leave it out: the extension says how a file is compressed"));
            }
        }
    }
    Ok(())
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
