//! Large row groups of Parquet files are read a slice at a time: DataFusion fetches what it reads of a row group as a whole,
//! and writers make row groups of 128 MB and more.

use std::sync::Arc;

use datafusion::{
    catalog::Session,
    datasource::{
        listing::{FileRange, PartitionedFile},
        physical_plan::parquet::{ParquetAccessPlan, RowGroupAccess, metadata::DFParquetMetadata},
    },
};
use object_store::ObjectStore;
use parquet::{
    arrow::arrow_reader::{RowSelection, RowSelector},
    file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData},
};

/// What is fetched at once, compressed, of all columns that are read.
#[cfg(not(test))]
const SLICE_BYTES: i64 = 8 << 20;
#[cfg(test)]
const SLICE_BYTES: i64 = 16 << 10;

/// A slice reads the dictionaries of its row group anew, so it has about so many times their bytes, or more.
const DICTIONARY_TIMES: i64 = 2;

/// `files` in their order, each with large row groups as one for every slice. `columns` are those that are read.
///
/// A file has to have an offset index (Parquet's page index), which says where the pages of a slice are; without it the file
/// stays whole.
///
/// # Errors
/// The store's, for a footer that is not in the cache.
pub(super) async fn sliced(
    state: &dyn Session,
    store: &Arc<dyn ObjectStore>,
    files: Vec<PartitionedFile>,
    columns: &[&str],
) -> datafusion::error::Result<Vec<PartitionedFile>> {
    let cache = state.runtime_env().cache_manager.get_file_metadata_cache();
    let mut all = Vec::with_capacity(files.len());
    for file in files {
        if file.object_meta.size > SLICE_BYTES as u64 {
            let footer = DFParquetMetadata::new(store, &file.object_meta).with_file_metadata_cache(Some(cache.clone()));
            if let Some(slices) = slices(&file, &*footer.fetch_metadata().await?, columns) {
                all.extend(slices);
                continue;
            }
        }
        all.push(file);
    }
    Ok(all)
}

/// The row groups of a file, one after the other, in slices; `None` if all are small, or it cannot be cut.
fn slices(file: &PartitionedFile, metadata: &ParquetMetaData, columns: &[&str]) -> Option<Vec<PartitionedFile>> {
    let index = metadata.offset_index()?;
    let (row_groups, schema) = (metadata.row_groups(), metadata.file_metadata().schema_descr());
    let is_read = |leaf: &usize| columns.contains(&schema.get_column_root(*leaf).name());
    let read: Vec<usize> = (0..schema.num_columns()).filter(is_read).collect();
    let bytes_of = |row_group: &RowGroupMetaData| -> i64 {
        read.iter().map(|leaf| row_group.column(*leaf).compressed_size()).sum()
    };
    if row_groups.iter().all(|row_group| bytes_of(row_group) <= 2 * SLICE_BYTES) {
        return None;
    }
    let mut slices = Vec::new();
    for (number, row_group) in row_groups.iter().enumerate() {
        // The pages of the widest column say where to cut, so that few are read twice.
        let widest = *read.iter().max_by_key(|leaf| row_group.column(**leaf).compressed_size())?;
        let pages = index.get(number)?.get(widest)?.page_locations();
        let (rows, bytes) = (row_group.num_rows(), bytes_of(row_group));
        let dictionaries: i64 = read.iter().map(|leaf| dictionary_bytes(row_group.column(*leaf))).sum();
        let count = (1 + bytes / SLICE_BYTES).min(1 + bytes / (DICTIONARY_TIMES * dictionaries).max(1));
        let starts = starts(pages.iter().map(|page| page.first_row_index), rows, count);
        for (at, from) in starts.iter().enumerate() {
            let to = starts.get(at + 1).copied().unwrap_or(rows);
            let mut plan = ParquetAccessPlan::new_none(row_groups.len());
            plan.set(number, access(*from, to, rows));
            let mut slice = file.clone();
            // They are those of the whole file.
            slice.statistics = None;
            slice.extensions.insert(plan);
            // DataFusion gives partitions as many bytes, and reads a row group where its first page is.
            let start = first_page(row_group);
            let share = bytes as f64 * (to - from) as f64 / rows.max(1) as f64;
            slice.range = Some(FileRange { start, end: start + share as i64 + 1 });
            slices.push(slice);
        }
    }
    Some(slices)
}

/// Of its dictionary page, if it has one.
fn dictionary_bytes(column: &ColumnChunkMetaData) -> i64 {
    column.dictionary_page_offset().map_or(0, |start| (column.data_page_offset() - start).max(0))
}

/// Where it begins for DataFusion.
fn first_page(row_group: &RowGroupMetaData) -> i64 {
    let column = row_group.column(0);
    column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset())
}

/// The first rows of about `count` slices of `rows`: beginnings of pages.
fn starts(pages: impl Iterator<Item = i64>, rows: i64, count: i64) -> Vec<i64> {
    let each = (rows / count).max(1);
    let mut starts = vec![0];
    for page in pages {
        if page >= starts.last().copied().unwrap_or(0) + each && page < rows {
            starts.push(page);
        }
    }
    starts
}

fn access(start: i64, end: i64, rows: i64) -> RowGroupAccess {
    if (start, end) == (0, rows) {
        return RowGroupAccess::Scan;
    }
    let count = |rows: i64| usize::try_from(rows).unwrap_or(0);
    let selectors = [
        RowSelector::skip(count(start)),
        RowSelector::select(count(end - start)),
        RowSelector::skip(count(rows - end)),
    ];
    RowGroupAccess::Selection(RowSelection::from(selectors.to_vec()))
}

#[cfg(test)]
#[path = "slices_tests.rs"]
mod tests;
