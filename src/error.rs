//! One error type. Its kind is what a caller branches on (and the exit code follows from it); its message is
//! one sentence that names the file, option, topic, partition or offset; its help says what to do.

use std::fmt;

/// What a caller may branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The user's SQL, options or arguments are wrong.
    Invalid,
    /// A file, topic, table or model that was named does not exist.
    NotFound,
    /// A service did not answer in time, or refused the connection. Trying again may help.
    Unavailable,
    /// The service answered that we may not.
    PermissionDenied,
    /// The disk or the quota is full.
    StorageFull,
    /// Another writer got there first: this instance must stop.
    Conflict,
    /// A file of ours is torn, flipped or missing.
    Corrupt,
    /// Records that should be read are gone from Kafka.
    DataLoss,
    /// A record that cannot be decoded, in a job that asked to stop at the first one.
    BadRecord,
    /// Valid, but not something this version does.
    Unsupported,
    /// A defect in Tidemill or in a library.
    Internal,
}

/// What a plan says that may not use more memory.
pub const OUT_OF_MEMORY: &str = "out of the memory that was set";

/// The result of everything fallible in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// See the module's documentation.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    help: Option<String>,
    place: Option<Place>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// A place in a text that the user wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file's name as the user gave it, or `<command line>`.
    pub file: String,
    /// 1-based.
    pub line: usize,
    /// 1-based, in characters.
    pub column: usize,
    /// The whole line, for the picture.
    pub text: String,
    /// How many characters to underline, at least 1.
    pub width: usize,
}

impl Error {
    /// An error with a one-sentence message.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), help: None, place: None, source: None }))
    }

    /// The user's input is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// Valid, but not something this version does.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// A defect in Tidemill or in a library.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// A file of ours is torn, flipped or missing.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// What the user can do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }

    /// Where in the user's text; a place that is already known stays.
    #[must_use]
    pub fn at(mut self, place: Place) -> Self {
        self.0.place.get_or_insert(place);
        self
    }

    /// The error underneath.
    #[must_use]
    pub fn source_error(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Says what was being done: `context: message`.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// What a caller may branch on.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The sentence alone, without place and help.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What the user can do about it, where that is known.
    pub fn advice(&self) -> Option<&str> {
        self.0.help.as_deref()
    }

    /// The place in the user's text, where there is one.
    pub fn place(&self) -> Option<&Place> {
        self.0.place.as_ref()
    }

    /// The process's exit code: 2 for the user's input (what it names and is not there, too), 3 for a service, 1 for
    /// the rest.
    pub fn exit_code(&self) -> u8 {
        match self.kind() {
            ErrorKind::Invalid | ErrorKind::Unsupported | ErrorKind::NotFound => 2,
            ErrorKind::Unavailable => 3,
            _ => 1,
        }
    }
}

impl fmt::Display for Error {
    /// The message; its causes; the line of the user's text, underlined; the help.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.message)?;
        let mut cause = self.0.source.as_deref().map(|e| e as &dyn std::error::Error);
        while let Some(error) = cause {
            let text = error.to_string();
            if !self.0.message.contains(&text) {
                write!(f, ": {text}")?;
            }
            cause = error.source();
        }
        if let Some(place) = &self.0.place {
            let number = place.line.to_string();
            let gutter = " ".repeat(number.len());
            let indent = " ".repeat(place.column.saturating_sub(1));
            write!(f, "\n{gutter}--> {}:{}:{}", place.file, place.line, place.column)?;
            write!(
                f,
                "\n{gutter} |\n{number} | {}\n{gutter} | {indent}{}",
                place.text,
                "^".repeat(place.width.max(1))
            )?;
        }
        if let Some(help) = &self.0.help {
            write!(f, "\nhelp: {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}

impl From<datafusion::error::DataFusionError> for Error {
    fn from(error: datafusion::error::DataFusionError) -> Self {
        use datafusion::error::DataFusionError as D;
        match error {
            // Our own errors travel through DataFusion's streams and come out whole.
            D::External(inner) => match inner.downcast::<Error>() {
                Ok(ours) => *ours,
                Err(other) => Error::internal(other.to_string()),
            },
            D::Context(context, inner) => Error::from(*inner).context(context),
            D::ResourcesExhausted(text) => Error::new(ErrorKind::Internal, format!("{OUT_OF_MEMORY}: {text}"))
                .help("raise --memory-limit, or read fewer columns or rows at a time"),
            D::ArrowError(inner, _) => Error::new(ErrorKind::BadRecord, inner.to_string())
                .help("TRY_CAST gives NULL where CAST fails, NULLIF(x, 0) avoids a division by zero"),
            D::NotImplemented(text) if text.contains("Conflicting ordering requirements") => Error::unsupported(
                "aggregates that put rows together, as string_agg and array_agg, with another ORDER BY each",
            )
            .help("give them the same ORDER BY, or compute each in a query of its own"),
            D::NotImplemented(text) => Error::unsupported(text),
            D::Internal(text) => Error::internal(text),
            other => Error::invalid(other.strip_backtrace()),
        }
    }
}

impl From<Error> for datafusion::error::DataFusionError {
    fn from(error: Error) -> Self {
        Self::External(Box::new(error))
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Self {
        Error::invalid(error.to_string())
    }
}

/// The candidate nearest to `name`, if one is near enough to be a slip of the finger.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = name.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().max(wanted.len()) / 3).max(1))
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_place_and_the_help() {
        let place = Place { file: "job.sql".into(), line: 7, column: 3, text: "  foo = 'x'".into(), width: 3 };
        let error = Error::invalid("unknown option 'foo'").at(place).help("did you mean 'for'?");
        assert_eq!(
            error.to_string(),
            "unknown option 'foo'\n --> job.sql:7:3\n  |\n7 |   foo = 'x'\n  |   ^^^\nhelp: did you mean 'for'?"
        );
        assert_eq!(error.exit_code(), 2);
        assert_eq!(Error::new(ErrorKind::NotFound, "there is no topic 'a'").exit_code(), 2);
    }

    #[test]
    fn nearest_name_is_near() {
        let options = ["startingOffsets", "endingOffsets", "path"];
        assert_eq!(nearest("startingOffset", options), Some("startingOffsets"));
        assert_eq!(nearest("colour", options), None);
    }
}
