//! A reader of text files whose errors name the file.

use std::{fmt, sync::Arc};

use arrow::{
    array::RecordBatch,
    datatypes::{Schema, SchemaRef},
    error::ArrowError,
};
use datafusion::{
    common::tree_node::TreeNodeRecursion,
    datasource::{
        listing::PartitionedFile,
        physical_plan::{FileOpenFuture, FileOpener, FileScanConfig, FileSource},
        source::DataSourceExec,
        table_schema::TableSchema,
    },
    error::DataFusionError,
    physical_expr::{PhysicalExpr, projection::ProjectionExprs},
    physical_plan::{DisplayFormatType, ExecutionPlan, metrics::ExecutionPlanMetricsSet},
};
use futures::{FutureExt, StreamExt, stream::BoxStream};
use object_store::ObjectStore;
use regex::Regex;

use crate::error::{Error, ErrorKind};

/// `plan`, a scan of text files in the store at `url`, with the file's name in its errors.
pub(super) fn naming_files(plan: Arc<dyn ExecutionPlan>, url: &str) -> Arc<dyn ExecutionPlan> {
    let scan = plan.downcast_ref::<DataSourceExec>().map(DataSourceExec::data_source);
    let Some(config) = scan.and_then(|scan| scan.downcast_ref::<FileScanConfig>()) else { return plan };
    let mut config = config.clone();
    let slash = if url.ends_with('/') { "" } else { "/" };
    config.file_source = Arc::new(TextSource { inner: Arc::clone(&config.file_source), url: format!("{url}{slash}") });
    DataSourceExec::from_data_source(config)
}

/// Another source's twin but for its errors.
struct TextSource {
    inner: Arc<dyn FileSource>,
    /// Of the store, with a slash at its end.
    url: String,
}

impl TextSource {
    fn around(&self, inner: Arc<dyn FileSource>) -> Arc<dyn FileSource> {
        Arc::new(Self { inner, url: self.url.clone() })
    }
}

impl FileSource for TextSource {
    fn create_file_opener(
        &self,
        object_store: Arc<dyn ObjectStore>,
        base_config: &FileScanConfig,
        partition: usize,
    ) -> datafusion::error::Result<Arc<dyn FileOpener>> {
        let inner = self.inner.create_file_opener(object_store, base_config, partition)?;
        let columns = Arc::clone(self.inner.table_schema().file_schema());
        Ok(Arc::new(TextOpener { inner, url: self.url.clone(), columns }))
    }

    fn table_schema(&self) -> &TableSchema {
        self.inner.table_schema()
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        self.around(self.inner.with_batch_size(batch_size))
    }

    fn filter(&self) -> Option<Arc<dyn PhysicalExpr>> {
        self.inner.filter()
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        self.inner.projection()
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.inner.metrics()
    }

    fn file_type(&self) -> &str {
        self.inner.file_type()
    }

    fn fmt_extra(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_extra(kind, f)
    }

    fn supports_repartitioning(&self) -> bool {
        self.inner.supports_repartitioning()
    }

    fn try_pushdown_projection(
        &self,
        projection: &ProjectionExprs,
    ) -> datafusion::error::Result<Option<Arc<dyn FileSource>>> {
        Ok(self.inner.try_pushdown_projection(projection)?.map(|inner| self.around(inner)))
    }

    fn apply_expressions(
        &self,
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> datafusion::error::Result<TreeNodeRecursion>,
    ) -> datafusion::error::Result<TreeNodeRecursion> {
        self.inner.apply_expressions(visit)
    }
}

struct TextOpener {
    inner: Arc<dyn FileOpener>,
    url: String,
    columns: SchemaRef,
}

impl FileOpener for TextOpener {
    fn open(&self, file: PartitionedFile) -> datafusion::error::Result<FileOpenFuture> {
        let url = format!("{}{}", self.url, file.object_meta.location);
        let columns = Arc::clone(&self.columns);
        let opening = self.inner.open(file)?;
        let named = move |error| in_file(error, &url, &columns);
        Ok(async move {
            let rows = opening.await.map_err(&named)?;
            let rows: BoxStream<'static, datafusion::error::Result<RecordBatch>> =
                rows.map(move |batch| batch.map_err(&named)).boxed();
            Ok(rows)
        }
        .boxed())
    }
}

/// What cannot be parsed, with the file, the line if the parser knows it, and the column.
fn in_file(error: DataFusionError, url: &str, columns: &Schema) -> DataFusionError {
    let text = match &error {
        DataFusionError::ArrowError(inner, _) => match inner.as_ref() {
            ArrowError::ParseError(text) | ArrowError::CsvError(text) | ArrowError::JsonError(text) => text,
            _ => return error,
        },
        DataFusionError::External(inner) if inner.is::<Error>() => {
            let ours = Error::from(error);
            return if ours.kind() == ErrorKind::BadRecord { ours.context(url).into() } else { ours.into() };
        }
        _ => return error,
    };
    // The row itself may be long, and is in the file.
    let text = text.split(". Row data").next().unwrap_or(text);
    let text = match Regex::new(r"for column (\d+)").ok().and_then(|it| it.captures(text)) {
        Some(found) => match found[1].parse().ok().and_then(|column: usize| columns.fields().get(column)) {
            Some(field) => text.replace(&found[0], &format!("for column '{}'", field.name())),
            None => text.to_owned(),
        },
        None => text.to_owned(),
    };
    // arrow-csv counts the lines of values from 0, a header among them.
    let line = Regex::new(r"^(Error while parsing value .* at line )(\d+)$").ok();
    let text = match line.and_then(|it| it.captures(&text).map(|it| (it[1].to_owned(), it[2].parse::<u64>()))) {
        Some((before, Ok(line))) => format!("{before}{}", line + 1),
        _ => text,
    };
    let error = Error::new(ErrorKind::BadRecord, format!("{url}: {text}"));
    error.help("correct the file, or declare the column as VARCHAR in a CREATE EXTERNAL TABLE and use TRY_CAST").into()
}
