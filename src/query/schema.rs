//! One schema for many files, or the file and the column that do not fit.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::{
    catalog::Session, common::parsers::CompressionTypeVariant, datasource::file_format::FileFormat as DfFileFormat,
};
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore};

use super::{failure, format};
use crate::{
    catalog::CsvOptions,
    error::{Error, Result},
};

/// Footers read at the same time.
const FOOTERS_AT_ONCE: usize = 16;

/// What may stand between the values of a CSV file, most likely first.
const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// A file: its URL for messages, and what the store knows of it.
pub(super) type File = (String, ObjectMeta);

/// The columns of Parquet files. With `declared`, those; and every file has to fit them. Without, the columns of all
/// files, in order of first appearance; a column that some file lacks is null there.
///
/// # Errors
/// `Invalid`, naming the file and the column, where a type does not fit.
pub(super) async fn of_parquet(
    state: &dyn Session,
    store: &Arc<dyn ObjectStore>,
    format: &Arc<dyn DfFileFormat>,
    files: &[File],
    declared: Option<&SchemaRef>,
) -> Result<SchemaRef> {
    let footers = futures::stream::iter(files.to_vec()).map(|(url, meta)| async move {
        let schema = format.infer_schema(state, store, &[meta]).await;
        schema.map_err(|error| failure::from_datafusion(error, None).context(format!("reading {url}")))
    });
    let schemas: Vec<SchemaRef> = footers.buffered(FOOTERS_AT_ONCE).try_collect().await?;
    let mut merged = Merged::new(declared);
    for ((url, _), schema) in files.iter().zip(&schemas) {
        merged.add(url, schema)?;
    }
    Ok(merged.schema())
}

/// The columns of text files whose table declares none: the types that the first rows have.
///
/// # Errors
/// `Invalid` if the files cannot be parsed.
pub(super) async fn of_text(
    state: &dyn Session,
    store: &Arc<dyn ObjectStore>,
    format: &Arc<dyn DfFileFormat>,
    files: &[File],
) -> Result<SchemaRef> {
    let metas: Vec<_> = files.iter().map(|(_, meta)| meta.clone()).collect();
    let first = files.first().map_or("", |(url, _)| url.as_str());
    format.infer_schema(state, store, &metas).await.map_err(|error| {
        failure::from_datafusion(error, None).context(format!("reading {first} and the files beside it"))
    })
}

/// What stands between the values of CSV files: a comma, unless the first rows have several columns, equally many in
/// each, only with another of the usual characters.
pub(super) async fn csv_delimiter(
    state: &dyn Session,
    store: &Arc<dyn ObjectStore>,
    options: &CsvOptions,
    compression: CompressionTypeVariant,
    files: &[File],
) -> u8 {
    for delimiter in DELIMITERS {
        let format = format::csv(&CsvOptions { delimiter, header: true, ..options.clone() }, compression);
        // Rows of different lengths are an error, so another character is right, or none is.
        let schema = of_text(state, store, &format, &files[..files.len().min(1)]).await;
        if schema.is_ok_and(|schema| schema.fields().len() > 1) {
            return delimiter;
        }
    }
    DELIMITERS[0]
}

/// Whether CSV files start with a header. Their first row is one if its types do not go on below it; where all
/// columns are text anyway, if it looks like names.
///
/// # Errors
/// As `of_text`.
pub(super) async fn csv_has_header(
    state: &dyn Session,
    store: &Arc<dyn ObjectStore>,
    options: &CsvOptions,
    compression: CompressionTypeVariant,
    files: &[File],
) -> Result<bool> {
    let inferred = async |header: bool| {
        let format = format::csv(&CsvOptions { header, ..options.clone() }, compression);
        of_text(state, store, &format, &files[..files.len().min(1)]).await
    };
    let (with, without) = (inferred(true).await?, inferred(false).await?);
    let types = |schema: &Schema| schema.fields().iter().map(|field| field.data_type().clone()).collect::<Vec<_>>();
    if types(&with) != types(&without) {
        // Without rows below it the first row could be either; a row of numbers is no header.
        return Ok(types(&with).iter().any(|it| *it != DataType::Null) || looks_like_names(&with));
    }
    Ok(types(&with).iter().all(|it| *it == DataType::Utf8) && looks_like_names(&with))
}

fn looks_like_names(schema: &Schema) -> bool {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_alphanumeric() || "_ -.()".contains(c))
    };
    schema.fields().iter().all(|field| is_name(field.name()))
}

/// The columns so far, and the file that each comes from.
struct Merged {
    columns: Vec<(Field, Option<String>)>,
    declared: bool,
}

impl Merged {
    fn new(declared: Option<&SchemaRef>) -> Self {
        let columns = declared.iter().flat_map(|schema| schema.fields()).map(|field| (field.as_ref().clone(), None));
        Self { columns: columns.collect(), declared: declared.is_some() }
    }

    fn add(&mut self, url: &str, schema: &Schema) -> Result<()> {
        for field in schema.fields() {
            let known = self.columns.iter_mut().find(|(known, _)| known.name() == field.name());
            let Some((known, origin)) = known else {
                if !self.declared {
                    self.columns.push((field.as_ref().clone().with_nullable(true), Some(url.to_owned())));
                }
                continue;
            };
            if fits(field.data_type(), known.data_type()) {
                continue;
            }
            if !self.declared && fits(known.data_type(), field.data_type()) {
                *known = field.as_ref().clone().with_nullable(true);
                *origin = Some(url.to_owned());
                continue;
            }
            let (name, stored, wanted) = (field.name(), field.data_type(), known.data_type());
            let other = match origin {
                Some(other) => format!("but {wanted} in {other}"),
                None => format!("but the table declares {wanted}"),
            };
            return Err(Error::invalid(format!("column '{name}' is {stored} in {url}, {other}"))
                .help("declare the type that the files have, or query the files of one schema by a pattern"));
        }
        Ok(())
    }

    fn schema(self) -> SchemaRef {
        Arc::new(Schema::new(self.columns.into_iter().map(|(field, _)| field).collect::<Vec<_>>()))
    }
}

/// Every value of `stored` is one of `wanted`.
fn fits(stored: &DataType, wanted: &DataType) -> bool {
    use DataType as D;
    let integer = |it: &D| -> Option<(bool, usize)> {
        it.is_integer().then(|| (it.is_signed_integer(), it.primitive_width().unwrap_or_default()))
    };
    let is_text = |it: &D| matches!(it, D::Utf8 | D::LargeUtf8 | D::Utf8View);
    let is_binary = |it: &D| matches!(it, D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_));
    if stored == wanted || *stored == D::Null {
        return true;
    }
    if let (Some((stored_signed, stored_width)), Some((signed, width))) = (integer(stored), integer(wanted)) {
        return if stored_signed == signed { stored_width <= width } else { signed && stored_width < width };
    }
    match (stored, wanted) {
        (D::Float16, D::Float32) | (D::Float16 | D::Float32, D::Float64) => true,
        (D::Int8 | D::Int16 | D::UInt8 | D::UInt16 | D::Int32 | D::UInt32, D::Float64) => true,
        (D::Timestamp(..), D::Timestamp(..)) => true,
        (D::Decimal128(p, s), D::Decimal128(wanted_p, wanted_s)) => {
            s <= wanted_s && i16::from(*p) - i16::from(*s) <= i16::from(*wanted_p) - i16::from(*wanted_s)
        }
        (D::Dictionary(_, value), _) => fits(value, wanted),
        (D::List(a), D::List(b)) => fits(a.data_type(), b.data_type()),
        (D::Struct(a), D::Struct(b)) => a.iter().all(|field| {
            let wanted = b.iter().find(|it| it.name() == field.name());
            wanted.is_some_and(|wanted| fits(field.data_type(), wanted.data_type()))
        }),
        _ => (is_text(stored) && is_text(wanted)) || (is_binary(stored) && is_binary(wanted)),
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::TimeUnit;

    use super::*;

    fn schema(columns: &[(&str, DataType)]) -> Schema {
        Schema::new(columns.iter().map(|(name, it)| Field::new(*name, it.clone(), true)).collect::<Vec<_>>())
    }

    #[test]
    fn only_what_loses_nothing_fits() {
        use DataType as D;
        for (stored, wanted) in [
            (D::Int32, D::Int64),
            (D::UInt32, D::Int64),
            (D::Float32, D::Float64),
            (D::LargeUtf8, D::Utf8),
            (D::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), D::Timestamp(TimeUnit::Microsecond, None)),
        ] {
            assert!(fits(&stored, &wanted), "{stored} {wanted}");
        }
        for (stored, wanted) in [
            (D::Int64, D::Int32),
            (D::UInt64, D::Int64),
            (D::Utf8, D::Int64),
            (D::Int64, D::Utf8),
            (D::Int64, D::Float64),
        ] {
            assert!(!fits(&stored, &wanted), "{stored} {wanted}");
        }
    }

    #[test]
    fn columns_of_all_files_are_merged() {
        let mut merged = Merged::new(None);
        merged.add("a", &schema(&[("x", DataType::Int32)])).unwrap();
        merged.add("b", &schema(&[("x", DataType::Int64), ("y", DataType::Utf8)])).unwrap();
        merged.add("c", &schema(&[("x", DataType::Int32)])).unwrap();
        let error = merged.add("d", &schema(&[("x", DataType::Utf8)])).unwrap_err();
        assert!(error.message().contains("'x' is Utf8 in d, but Int64 in b"), "{error}");
        assert_eq!(*merged.schema(), schema(&[("x", DataType::Int64), ("y", DataType::Utf8)]));
    }

    #[test]
    fn a_declared_schema_stays_and_is_checked() {
        let declared = Arc::new(schema(&[("x", DataType::Int64)]));
        let mut merged = Merged::new(Some(&declared));
        merged.add("a", &schema(&[("y", DataType::Utf8)])).unwrap();
        let error = merged.add("b", &schema(&[("x", DataType::Utf8)])).unwrap_err();
        assert!(error.message().contains("'x' is Utf8 in b, but the table declares Int64"), "{error}");
        assert_eq!(merged.schema(), declared);
    }
}
