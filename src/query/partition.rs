//! Hive's partition directories: `day=2026-01-02/symbol=BTC%2FUSD/part-0.parquet`.

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::scalar::ScalarValue;

use crate::error::{Error, Result};

/// The directory name that stands for null, and for an empty string too.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// Keys and values; `None` is null.
pub(super) type Pairs = Vec<(String, Option<String>)>;

/// Keys and values of the directories of `path`, unescaped; `None` is null. Other directories are passed over.
pub(super) fn parse(path: &str) -> Pairs {
    let directories = path.rsplit_once('/').map_or("", |(directories, _)| directories);
    let pairs = directories.split('/').filter_map(|directory| directory.split_once('='));
    pairs.map(|(key, value)| (unescape(key), (value != NULL).then(|| unescape(value)))).collect()
}

/// `%XX` as Spark and Hive write it; anything else stays.
fn unescape(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// The partition columns of files whose keys and values are `all`, with the type that all values of a column fit:
/// BIGINT, DOUBLE, DATE or VARCHAR, as Spark infers it.
///
/// # Errors
/// `Invalid` if two files have different keys; names one of each.
pub(super) fn infer(all: &[(&str, Pairs)]) -> Result<Vec<FieldRef>> {
    let Some((first_path, first)) = all.first() else { return Ok(Vec::new()) };
    let keys = |pairs: &[(String, Option<String>)]| pairs.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    let names = keys(first);
    if let Some((other, pairs)) = all.iter().find(|(_, pairs)| keys(pairs) != names) {
        let show = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(Error::invalid(format!(
            "the partition columns differ: {first_path} has {}, {other} has {}",
            show(&names),
            show(&keys(pairs))
        ))
        .help("query one of the directories, or a pattern that matches files of one kind"));
    }
    let columns = names.iter().enumerate().map(|(index, name)| {
        let values = || all.iter().filter_map(move |(_, pairs)| pairs[index].1.as_deref());
        std::sync::Arc::new(Field::new(name, type_of(values), true))
    });
    Ok(columns.collect())
}

fn type_of<'a, I: Iterator<Item = &'a str>>(values: impl Fn() -> I) -> DataType {
    if values().next().is_none() {
        return DataType::Utf8;
    }
    let fits =
        |data_type: &DataType| values().all(|text| ScalarValue::try_from_string(text.to_owned(), data_type).is_ok());
    // A date's cast is lenient ("7" parses as a timestamp elsewhere), so its form is checked too.
    let is_date = || values().all(|text| text.len() == 10 && text.as_bytes()[4] == b'-' && text.as_bytes()[7] == b'-');
    match () {
        () if fits(&DataType::Int64) => DataType::Int64,
        // Not `nan` and `inf`, which are more likely a symbol's name.
        () if values().all(|text| text.ends_with(|c: char| c.is_ascii_digit())) && fits(&DataType::Float64) => {
            DataType::Float64
        }
        () if is_date() && fits(&DataType::Date32) => DataType::Date32,
        () => DataType::Utf8,
    }
}

/// One file's values for `columns`, in their order.
///
/// # Errors
/// `Invalid` if a key is missing or a value does not have the column's type; names the file.
pub(super) fn values(path: &str, columns: &[FieldRef]) -> Result<Vec<ScalarValue>> {
    let pairs = parse(path);
    let value = |column: &FieldRef| {
        let found = pairs.iter().find(|(key, _)| key.eq_ignore_ascii_case(column.name()));
        match found {
            None => Err(Error::invalid(format!("{path} is in no directory {}=...", column.name()))
                .help("a partition column has to be in the path of every file of the table")),
            Some((_, None)) => Ok(ScalarValue::try_from(column.data_type())?),
            Some((_, Some(text))) => ScalarValue::try_from_string(text.clone(), column.data_type()).map_err(|_| {
                Error::invalid(format!(
                    "{path}: '{text}' is no {} for the column {}",
                    column.data_type(),
                    column.name()
                ))
            }),
        }
    };
    columns.iter().map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(paths: &[&str]) -> Vec<(String, DataType)> {
        let all: Vec<_> = paths.iter().map(|path| (*path, parse(path))).collect();
        infer(&all).unwrap().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect()
    }

    #[test]
    fn types_are_inferred_from_all_values() {
        let paths = [
            "day=2026-01-02/n=1/x=1.5/s=a%2Fb/f",
            "day=2026-01-03/n=-7/x=2/s=2/f",
            "day=2026-01-03/n=__HIVE_DEFAULT_PARTITION__/x=3/s=3/f",
        ];
        let expected =
            [("day", DataType::Date32), ("n", DataType::Int64), ("x", DataType::Float64), ("s", DataType::Utf8)];
        assert_eq!(types(&paths), expected.map(|(name, data_type)| (name.to_owned(), data_type)));
    }

    #[test]
    fn values_are_unescaped_and_null_is_null() {
        let columns = vec![
            std::sync::Arc::new(Field::new("t", DataType::Utf8, true)),
            std::sync::Arc::new(Field::new("n", DataType::Int64, true)),
        ];
        let row = values("t=01%3A30%41/n=__HIVE_DEFAULT_PARTITION__/f.csv", &columns).unwrap();
        assert_eq!(row, [ScalarValue::Utf8(Some("01:30A".into())), ScalarValue::Int64(None)]);
        let error = values("t=x/f.csv", &columns).unwrap_err();
        assert!(error.message().contains("t=x/f.csv") && error.message().contains("n="), "{error}");
    }

    #[test]
    fn different_keys_are_refused() {
        let all = [("a=1/f", parse("a=1/f")), ("f", parse("f"))];
        assert!(infer(&all).unwrap_err().message().contains("a=1/f has a, f has none"));
    }
}
