//! Stored files as a table: exactly the committed ones, as they were when the query was planned.

use std::{fmt, sync::Arc};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{FieldRef, Schema, SchemaRef},
};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{ColumnStatistics, DFSchema, Statistics, parsers::CompressionTypeVariant, stats::Precision},
    datasource::{
        file_format::FileFormat as DfFileFormat,
        listing::{PartitionedFile, helpers::expr_applicable_for_cols},
        object_store::ObjectStoreUrl,
        physical_plan::{FileGroup, FileScanConfigBuilder},
        table_schema::TableSchema,
    },
    error::DataFusionError,
    logical_expr::{Expr, TableProviderFilterPushDown, TableType, utils::conjunction},
    physical_plan::{ExecutionPlan, empty::EmptyExec},
    scalar::ScalarValue,
};
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore};

use super::{
    failure,
    format::{self, FileKind},
    listing::{self, Listing},
    partition, schema, slices,
    text_source::naming_files,
    text_value::{self, TextValue},
};
use crate::{
    catalog::{CsvOptions, FileFormat, FileTable},
    error::{Error, ErrorKind, Result},
};

/// Parquet footers read at the same time for their statistics.
const STATISTICS_AT_ONCE: usize = 16;

/// Where files are and what is known of them before they are looked at.
#[derive(Debug, Clone, Default)]
pub(super) struct FilesSpec {
    /// A path, a URL or a pattern.
    pub place: String,
    /// Absent: the extensions say it.
    pub kind: Option<FileKind>,
    /// Of JSON files, the pattern of timestamps.
    pub csv: CsvOptions,
    /// Find out whether CSV files have a header.
    pub guess_header: bool,
    /// Find out what stands between the values of CSV files.
    pub guess_delimiter: bool,
    /// Declared columns, partition columns among them. Absent: the files say them.
    pub columns: Option<SchemaRef>,
    /// Absent: the directories say them.
    pub partition_by: Option<Vec<String>>,
    /// The output directory of a job, which may not have written yet.
    pub is_output: bool,
    /// Exactly these files, which are not looked for.
    pub files: Option<Listing>,
}

impl FilesSpec {
    /// A job's directory; its columns are the caller's to say.
    pub fn of_table(file: &FileTable) -> Self {
        let csv = match &file.format {
            FileFormat::Csv(csv) => csv.clone(),
            FileFormat::Json { timestamp_format } => {
                CsvOptions { timestamp_format: timestamp_format.clone(), ..CsvOptions::default() }
            }
            FileFormat::Parquet => CsvOptions::default(),
        };
        Self {
            place: file.path.clone(),
            kind: Some(FileKind::of(&file.format)),
            csv,
            partition_by: Some(file.partition_by.clone()),
            is_output: true,
            ..Self::default()
        }
    }
}

/// See the module's documentation.
pub(super) struct FilesTable {
    schema: TableSchema,
    /// What the files' reader takes the columns for.
    stored: TableSchema,
    /// What the reader cannot read, one entry for each column of the files.
    values: Vec<Option<Arc<TextValue>>>,
    format: Option<Arc<dyn DfFileFormat>>,
    store_url: ObjectStoreUrl,
    files: Vec<(ObjectMeta, Vec<ScalarValue>)>,
}

impl fmt::Debug for FilesTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FilesTable({}, {} files)", self.store_url, self.files.len())
    }
}

impl FilesTable {
    /// Lists the files and finds or checks their schema.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` where the files do not fit each other or the declaration; the store's.
    pub async fn open(state: &dyn Session, spec: &FilesSpec) -> Result<Self> {
        let mut listing = match (&spec.files, spec.is_output) {
            (Some(files), _) => files.clone(),
            // Boxed: the futures of three stores in one would be too deep for the compiler.
            (None, true) => Box::pin(listing::list_directory(&spec.place)).await?,
            (None, false) => Box::pin(listing::list(&spec.place)).await?,
        };
        let store = listing.root.object_store();
        let store_url = listing.root.object_store_url()?;
        state.runtime_env().register_object_store(&store_url, Arc::clone(&store));
        let store_url = ObjectStoreUrl::parse(store_url)?;
        let kind = format::one_kind(&mut listing, spec.kind)?;
        let Some((kind, compression)) = kind else { return Self::empty(spec, store_url) };
        let metas = metas(&listing)?;
        let partition_fields = partition_fields(&listing, spec)?;
        let declared = spec.columns.as_ref().map(|columns| without(columns, &partition_fields));
        let (format, file_schema) = read_schema(state, &store, spec, (kind, compression), &metas, declared).await?;
        let file_schema = match without(&file_schema, &partition_fields) {
            rest if rest.fields().len() == file_schema.fields().len() || kind != FileKind::Csv => rest,
            _ => {
                return Err(Error::invalid(format!(
                    "a partition column of {} is a column of its files too",
                    spec.place
                )));
            }
        };
        let partitions = listing.files.iter().map(|file| partition::values(&file.path, &partition_fields));
        let files = metas.into_iter().zip(partitions).map(|((_, meta), values)| Ok((meta, values?)));
        let files = files.collect::<Result<_>>()?;
        let values = match kind {
            FileKind::Parquet => Vec::new(),
            _ => text_value::of_columns(&file_schema, &spec.csv, &spec.place)?,
        };
        let stored = match kind {
            FileKind::Parquet => Arc::clone(&file_schema),
            _ => text_value::as_text(&file_schema, &values),
        };
        let table = |schema| TableSchema::builder(schema).with_table_partition_cols(partition_fields.clone()).build();
        Ok(Self { schema: table(file_schema), stored: table(stored), values, format: Some(format), store_url, files })
    }

    fn empty(spec: &FilesSpec, store_url: ObjectStoreUrl) -> Result<Self> {
        let columns = spec.columns.clone().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("nothing has been written to {} yet", spec.place))
                .help("run the job, or declare the columns of the table")
        })?;
        let (schema, stored) = (Arc::clone(&columns).into(), columns.into());
        Ok(Self { schema, stored, values: Vec::new(), format: None, store_url, files: Vec::new() })
    }

    /// The files that can hold rows which pass `filters` on the partition columns.
    fn pruned(&self, state: &dyn Session, filters: &[Expr]) -> datafusion::error::Result<Vec<PartitionedFile>> {
        let fields = self.schema.table_partition_cols();
        let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
        let decidable = filters.iter().filter(|filter| is_decidable(&names, filter)).cloned();
        let schema = Arc::new(Schema::new(fields.clone()));
        let predicate = match conjunction(decidable) {
            Some(filter) => Some(state.create_physical_expr(filter, &DFSchema::try_from(Arc::clone(&schema))?)?),
            None => None,
        };
        let mut kept = Vec::with_capacity(self.files.len());
        for (meta, values) in &self.files {
            if let Some(predicate) = &predicate {
                let row = values.iter().map(ScalarValue::to_array).collect::<datafusion::error::Result<_>>()?;
                let row = RecordBatch::try_new(Arc::clone(&schema), row)?;
                let passes = predicate.evaluate(&row)?.into_array(1)?;
                // A null passes no filter.
                if passes.is_null(0) || !passes.as_boolean().value(0) {
                    continue;
                }
            }
            kept.push(PartitionedFile::new_from_meta(meta.clone()).with_partition_values(values.clone()));
        }
        Ok(kept)
    }

    /// Large row groups as slices.
    async fn sliced(
        &self,
        state: &dyn Session,
        files: Vec<PartitionedFile>,
        projection: Option<&Vec<usize>>,
    ) -> datafusion::error::Result<Vec<PartitionedFile>> {
        let store = state.runtime_env().object_store(&self.store_url)?;
        let schema = self.schema.file_schema();
        let is_read = |place: &usize| projection.is_none_or(|columns| columns.contains(place));
        let columns: Vec<&str> =
            (0..schema.fields().len()).filter(is_read).map(|place| schema.field(place).name().as_str()).collect();
        slices::sliced(state, &store, files, &columns).await
    }

    /// Rows, sizes and value ranges from Parquet footers: they answer `count(*)` and order joins.
    async fn with_statistics(
        &self,
        state: &dyn Session,
        format: &Arc<dyn DfFileFormat>,
        files: Vec<PartitionedFile>,
    ) -> datafusion::error::Result<Vec<PartitionedFile>> {
        let store = state.runtime_env().object_store(&self.store_url)?;
        let with = files.into_iter().map(|mut file| {
            let store = Arc::clone(&store);
            async move {
                let schema = Arc::clone(self.schema.file_schema());
                let mut statistics = format.infer_stats(state, &store, schema, &file.object_meta).await?;
                let rows = statistics.num_rows;
                statistics.column_statistics.extend(file.partition_values.iter().map(|value| of_constant(value, rows)));
                file.statistics = Some(Arc::new(statistics));
                Ok(file)
            }
        });
        futures::stream::iter(with).buffered(STATISTICS_AT_ONCE).try_collect().await
    }
}

/// The statistics of a column that has one value in all rows.
fn of_constant(value: &ScalarValue, rows: Precision<usize>) -> ColumnStatistics {
    if value.is_null() {
        return ColumnStatistics { null_count: rows, ..ColumnStatistics::new_unknown() };
    }
    ColumnStatistics {
        null_count: Precision::Exact(0),
        min_value: Precision::Exact(value.clone()),
        max_value: Precision::Exact(value.clone()),
        distinct_count: Precision::Exact(1),
        ..ColumnStatistics::new_unknown()
    }
}

fn is_decidable(partition_columns: &[&str], filter: &Expr) -> bool {
    !partition_columns.is_empty() && expr_applicable_for_cols(partition_columns, filter)
}

fn metas(listing: &Listing) -> Result<Vec<schema::File>> {
    let meta = |file: &listing::DataFile| {
        let location = listing.root.object_path(&file.path)?;
        let last_modified = chrono::DateTime::from_timestamp_millis(file.modified_ms).unwrap_or_default();
        Ok((
            listing.url(file),
            ObjectMeta { location, last_modified, size: file.size_bytes, e_tag: None, version: None },
        ))
    };
    listing.files.iter().map(meta).collect()
}

fn partition_fields(listing: &Listing, spec: &FilesSpec) -> Result<Vec<FieldRef>> {
    let all: Vec<_> = listing.files.iter().map(|file| (file.path.as_str(), partition::parse(&file.path))).collect();
    let inferred = match &spec.partition_by {
        // Declared names decide; directories of other names are passed over.
        Some(names) => {
            let wanted = |pairs: &[(String, Option<String>)]| -> Vec<_> {
                let find = |name: &String| pairs.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).cloned();
                names.iter().filter_map(find).collect()
            };
            let there = |name: &&String| {
                all.is_empty()
                    || all.iter().any(|(_, pairs)| pairs.iter().any(|(key, _)| key.eq_ignore_ascii_case(name)))
            };
            if let Some(missing) = names.iter().find(|name| !there(name)) {
                return Err(Error::invalid(format!(
                    "there is no directory {missing}=... below {}",
                    listing.root.url()
                ))
                .help("name the columns that stand in the directories' names, as in day=2026-01-01"));
            }
            partition::infer(&all.iter().map(|(path, pairs)| (*path, wanted(pairs))).collect::<Vec<_>>())?
        }
        None => partition::infer(&all)?,
    };
    let declared = |field: FieldRef| -> FieldRef {
        let column = spec.columns.as_ref().and_then(|columns| columns.column_with_name(field.name()));
        column.map_or(field, |(_, column)| Arc::new(column.clone().with_nullable(true)))
    };
    Ok(inferred.into_iter().map(declared).collect())
}

fn without(schema: &SchemaRef, columns: &[FieldRef]) -> SchemaRef {
    let is_left = |field: &&FieldRef| !columns.iter().any(|column| column.name() == field.name());
    Arc::new(Schema::new(schema.fields().iter().filter(is_left).cloned().collect::<Vec<_>>()))
}

async fn read_schema(
    state: &dyn Session,
    store: &Arc<dyn ObjectStore>,
    spec: &FilesSpec,
    (kind, compression): (FileKind, CompressionTypeVariant),
    files: &[schema::File],
    declared: Option<SchemaRef>,
) -> Result<(Arc<dyn DfFileFormat>, SchemaRef)> {
    let format = match kind {
        FileKind::Parquet => format::parquet(&state.table_options().parquet),
        FileKind::Json => format::json(compression),
        FileKind::Csv => {
            let mut options = spec.csv.clone();
            if spec.guess_delimiter {
                options.delimiter = schema::csv_delimiter(state, store, &options, compression, files).await;
            }
            if spec.guess_header {
                options.header = schema::csv_has_header(state, store, &options, compression, files).await?;
            }
            format::csv(&options, compression)
        }
    };
    let schema = match (kind, declared) {
        (FileKind::Parquet, declared) => schema::of_parquet(state, store, &format, files, declared.as_ref()).await?,
        (_, Some(declared)) => declared,
        (_, None) => schema::of_text(state, store, &format, files).await?,
    };
    Ok((format, schema))
}

#[async_trait]
impl TableProvider for FilesTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.schema.table_schema())
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> datafusion::error::Result<Vec<TableProviderFilterPushDown>> {
        let fields = self.schema.table_partition_cols();
        let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
        let support = |filter: &&Expr| match is_decidable(&names, filter) {
            true => TableProviderFilterPushDown::Exact,
            false => TableProviderFilterPushDown::Inexact,
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        let files = self.pruned(state, filters)?;
        let Some(format) = self.format.as_ref().filter(|_| !files.is_empty()) else {
            let schema = self.schema();
            let schema = match projection {
                Some(columns) => Arc::new(schema.project(columns)?),
                None => schema,
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        };
        let is_parquet = format.get_ext() == "parquet";
        let files = match is_parquet {
            true if state.config().collect_statistics() => self.with_statistics(state, format, files).await?,
            _ => files,
        };
        let known = files.iter().filter_map(|file| file.statistics.as_deref());
        let statistics = match files.iter().all(|file| file.statistics.is_some()) {
            true => Statistics::try_merge_iter(known, self.stored.table_schema())?,
            false => Statistics::new_unknown(self.stored.table_schema()),
        };
        let files = match is_parquet && state.config().collect_statistics() {
            true => self.sliced(state, files, projection).await?,
            false => files,
        };
        let groups = FileGroup::new(files).split_files(state.config().target_partitions());
        let source = format.file_source(self.stored.clone());
        let config = FileScanConfigBuilder::new(self.store_url.clone(), source)
            .with_file_groups(groups)
            .with_statistics(statistics)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        let plan = format.create_physical_plan(state, config).await.map_err(as_ours)?;
        if is_parquet {
            return Ok(plan);
        }
        let columns = projection.cloned().unwrap_or_else(|| (0..self.schema().fields().len()).collect());
        text_value::parsed(naming_files(plan, self.store_url.as_str()), &columns, &self.values)
    }
}

fn as_ours(error: DataFusionError) -> DataFusionError {
    failure::from_datafusion(error, None).into()
}
