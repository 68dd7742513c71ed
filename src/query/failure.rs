//! DataFusion's errors as ours: the kind that decides the exit code, and the place in the user's SQL.

use std::sync::{Arc, LazyLock};

use arrow::error::ArrowError;
use datafusion::{error::DataFusionError, parquet::errors::ParquetError};
use regex::Regex;

use super::session::Script;
use crate::error::{Error, ErrorKind};

type Boxed = Box<dyn std::error::Error + Send + Sync>;

/// An error of planning or running `script`.
pub(super) fn from_datafusion(error: DataFusionError, script: Option<&Script>) -> Error {
    match error {
        DataFusionError::Context(context, inner) => from_datafusion(*inner, script).context(context),
        DataFusionError::Diagnostic(diagnostic, inner) => {
            let place = script.zip(diagnostic.span).map(|(script, span)| {
                let same_line = span.start.line == span.end.line;
                let width = if same_line { span.end.column.saturating_sub(span.start.column) } else { 1 };
                script.place(number(span.start.line), number(span.start.column), number(width))
            });
            let is_ours = matches!(&*inner, DataFusionError::External(error) if error.is::<Error>());
            let error = from_datafusion(*inner, script);
            let error = if error.kind() == ErrorKind::Invalid && !is_ours && !diagnostic.message.is_empty() {
                Error::invalid(error.message().trim_start_matches("Schema error: ").to_owned())
            } else {
                error
            };
            match place {
                Some(place) => error.at(place),
                None => error,
            }
        }
        DataFusionError::Shared(shared) => match Arc::try_unwrap(shared) {
            Ok(error) => from_datafusion(error, script),
            Err(shared) => by_reference(&shared),
        },
        DataFusionError::Collection(mut errors) if !errors.is_empty() => from_datafusion(errors.swap_remove(0), script),
        DataFusionError::SQL(error, _) => from_parser(&error.to_string(), script),
        DataFusionError::External(inner) => from_box(inner, script),
        DataFusionError::ArrowError(error, _) => from_arrow(*error, script),
        DataFusionError::ParquetError(error) => from_parquet(*error, script),
        DataFusionError::ObjectStore(error) => from_object_store("", *error),
        DataFusionError::IoError(error) => from_io(&error),
        DataFusionError::Execution(text) | DataFusionError::Plan(text) => Error::invalid(text),
        other => Error::from(other),
    }
}

/// An error of a store; `url` says of which file, if that is known.
pub(super) fn from_object_store(url: &str, error: object_store::Error) -> Error {
    use object_store::Error as E;
    let name = |path: &str| if url.is_empty() { path.to_owned() } else { url.to_owned() };
    match error {
        E::Generic { source, .. } if source.is::<Error>() => from_box(source, None),
        E::NotFound { path, .. } => Error::new(ErrorKind::NotFound, format!("{} does not exist", name(&path))),
        E::PermissionDenied { path, source } | E::Unauthenticated { path, source } => {
            Error::new(ErrorKind::PermissionDenied, format!("not allowed to use {}", name(&path))).source_error(source)
        }
        other => {
            let text = other.to_string();
            let kind = kind_of(&text);
            let error = Error::new(kind, format!("reading or writing {} failed", name("a file"))).source_error(other);
            if kind == ErrorKind::Unavailable {
                error.help("check that the service is up and reachable")
            } else {
                error
            }
        }
    }
}

/// What the HDFS client only says in words.
fn kind_of(text: &str) -> ErrorKind {
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&["AccessControlException", "Permission denied", "PermissionDenied"]) {
        ErrorKind::PermissionDenied
    } else if says(&["QuotaExceeded", "No space left", "StorageFull"]) {
        ErrorKind::StorageFull
    } else {
        ErrorKind::Unavailable
    }
}

fn from_box(error: Boxed, script: Option<&Script>) -> Error {
    let error = match error.downcast::<Error>() {
        Ok(ours) => return *ours,
        Err(other) => other,
    };
    let error = match error.downcast::<DataFusionError>() {
        Ok(inner) => return from_datafusion(*inner, script),
        Err(other) => other,
    };
    let error = match error.downcast::<ArrowError>() {
        Ok(inner) => return from_arrow(*inner, script),
        Err(other) => other,
    };
    let error = match error.downcast::<ParquetError>() {
        Ok(inner) => return from_parquet(*inner, script),
        Err(other) => other,
    };
    match error.downcast::<object_store::Error>() {
        Ok(inner) => from_object_store("", *inner),
        Err(other) => Error::internal(other.to_string()),
    }
}

fn from_arrow(error: ArrowError, script: Option<&Script>) -> Error {
    match error {
        ArrowError::ExternalError(inner) => from_box(inner, script),
        ArrowError::IoError(_, inner) => from_io(&inner),
        other => Error::from(other),
    }
}

fn from_parquet(error: ParquetError, script: Option<&Script>) -> Error {
    match error {
        ParquetError::External(inner) => from_box(inner, script),
        other => Error::corrupt(other.to_string()),
    }
}

fn from_io(error: &std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, error.to_string())
}

/// A shared error (both sides of a join failed with it) cannot be taken apart, so it is described.
fn by_reference(error: &DataFusionError) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(ours) = current.downcast_ref::<Error>() {
            let error = Error::new(ours.kind(), ours.message());
            return match ours.advice() {
                Some(advice) => error.help(advice),
                None => error,
            };
        }
        cause = current.source();
    }
    Error::invalid(error.strip_backtrace())
}

/// The parser says where in words: `..., found: x at Line: 1, Column: 15`.
fn from_parser(message: &str, script: Option<&Script>) -> Error {
    static PLACE: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"(?s)^(.*?),? at Line: (\d+), Column: (\d+)(.*)$").ok());
    let text = message.trim_start_matches("sql parser error: ").trim_start_matches("ParserError: ");
    let Some(found) = PLACE.as_ref().and_then(|place| place.captures(text)) else { return Error::invalid(text) };
    let error = Error::invalid(format!("{}{}", &found[1], &found[4]));
    match (script, found[2].parse(), found[3].parse()) {
        (Some(script), Ok(line), Ok(column)) => error.at(script.place(line, column, 1)),
        _ => error,
    }
}

fn number(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
