//! What is wrong with a record, in a short sentence.

/// Why a record, or one field of it, cannot be decoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// The bytes are no record of the format: nothing in them can be trusted.
    Malformed(String),
    /// The record is well formed, but this field does not fit its column.
    Field(String),
    /// The batch cannot hold more: a text column would pass 2 GiB.
    Full,
}

/// Boxed, so that the result of a step that is run for each field fits a register.
pub(super) type Step<T> = std::result::Result<T, Box<Flaw>>;

impl Flaw {
    #[cold]
    pub fn malformed(reason: impl Into<String>) -> Box<Self> {
        Box::new(Self::Malformed(reason.into()))
    }

    #[cold]
    pub fn field(reason: impl Into<String>) -> Box<Self> {
        Box::new(Self::Field(reason.into()))
    }

    /// Puts the field's name before its reason: `volume: 12.5 is no BIGINT`.
    #[cold]
    #[expect(clippy::boxed_local, reason = "a step's error is boxed")]
    pub fn named(self: Box<Self>, name: &str) -> Box<Self> {
        match *self {
            Self::Field(reason) => Self::field(format!("{name}: {reason}")),
            other => Box::new(other),
        }
    }
}

/// Longest piece of a record that a reason repeats, in characters.
const EXCERPT_CHARS_MAX: usize = 40;

/// The start of `bytes`, fit for a message.
#[cold]
pub(super) fn excerpt(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(EXCERPT_CHARS_MAX * 4)];
    let text = String::from_utf8_lossy(head);
    let plain = |c: char| if c.is_control() { '.' } else { c };
    let mut short: String = text.chars().take(EXCERPT_CHARS_MAX).map(plain).collect();
    if text.chars().count() > EXCERPT_CHARS_MAX || head.len() < bytes.len() {
        short.push_str("...");
    }
    short
}
