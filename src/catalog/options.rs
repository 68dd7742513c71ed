//! The options of a `WITH` clause: their names, which are case-insensitive, and their values, which are text until
//! they are read here.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use super::text::SourceText;
use crate::error::{Error, Place, Result, nearest};

/// The owner of the options of `CREATE MODEL`.
pub const MODEL: &str = "a model";

/// An option as it was written.
#[derive(Debug, Clone)]
pub struct Written {
    pub name: String,
    pub name_range: Range<usize>,
    pub value: String,
    pub value_range: Range<usize>,
}

/// What one connector, or a model, knows about option names.
#[derive(Debug, Clone, Copy)]
pub struct Vocabulary {
    /// `the connector 'kafka'`, for messages.
    pub owner: &'static str,
    /// In their documented spelling.
    pub names: &'static [&'static str],
    /// Another spelling, and the name that it stands for.
    pub aliases: &'static [(&'static str, &'static str)],
    /// Names of Spark, Flink or librdkafka that are none of ours, and what to do instead.
    pub foreign: &'static [(&'static str, &'static str)],
    /// A prefix of names that are passed on.
    pub prefix: Option<&'static str>,
}

/// The options of one table or model, by their documented names.
#[derive(Debug)]
pub struct Options<'a> {
    source: &'a SourceText,
    entries: BTreeMap<String, Entry>,
    owner: &'static str,
    name: Range<usize>,
}

#[derive(Debug)]
struct Entry {
    written: Written,
    read: bool,
}

impl<'a> Options<'a> {
    /// Checks the names. `name` is where the table's or model's name stands.
    ///
    /// # Errors
    /// `Invalid` at the first name that is unknown or given twice; `Unsupported` for one of Spark's that we lack.
    pub fn new(
        source: &'a SourceText,
        name: Range<usize>,
        written: Vec<Written>,
        vocabulary: Vocabulary,
    ) -> Result<Self> {
        let mut options = Self { source, entries: BTreeMap::new(), owner: vocabulary.owner, name };
        for option in written {
            let name = options.documented_name(&option, vocabulary)?;
            if let Some(first) = options.entries.get(&name) {
                let line = source.place(first.written.name_range.clone()).line;
                let error = Error::invalid(format!("the option '{name}' is given twice (first in line {line})"));
                return Err(error.at(source.place(option.name_range)));
            }
            options.entries.insert(name, Entry { written: option, read: false });
        }
        Ok(options)
    }

    fn documented_name(&self, option: &Written, vocabulary: Vocabulary) -> Result<String> {
        let name = option.name.as_str();
        let same = |known: &&str| known.eq_ignore_ascii_case(name);
        if let Some(known) = vocabulary.names.iter().copied().find(same) {
            return Ok(known.to_owned());
        }
        if let Some((_, known)) = vocabulary.aliases.iter().find(|(alias, _)| same(alias)) {
            return Ok((*known).to_owned());
        }
        let shown = self.source.shown_value(name, option.name_range.clone());
        let place = self.source.place(option.name_range.clone());
        if let Some((_, help)) = vocabulary.foreign.iter().find(|(foreign, _)| same(foreign)) {
            return Err(Error::unsupported(format!("the option '{shown}' is not used here")).at(place).help(*help));
        }
        let lower = name.to_ascii_lowercase();
        if let Some(rest) = vocabulary.prefix.and_then(|prefix| lower.strip_prefix(prefix))
            && !rest.is_empty()
        {
            return Ok(lower);
        }
        let known = vocabulary.names.iter().chain(vocabulary.aliases.iter().map(|(alias, _)| alias)).copied();
        let help = match (nearest(name, known), vocabulary.prefix) {
            (Some(near), _) => format!("did you mean '{near}'?"),
            (None, Some(prefix)) if name.contains('.') => {
                format!("an option of the client starts with '{prefix}': '{prefix}{lower}'")
            }
            (None, _) => format!("its options: {}", vocabulary.names.join(", ")),
        };
        Err(Error::invalid(format!("{} has no option '{shown}'", vocabulary.owner)).at(place).help(help))
    }

    /// Where each option's name stands.
    pub fn places(&self) -> BTreeMap<String, Place> {
        let place = |entry: &Entry| self.source.place(entry.written.name_range.clone());
        self.entries.iter().map(|(name, entry)| (name.clone(), place(entry))).collect()
    }

    /// Where the table's or model's name stands.
    pub fn name_place(&self) -> Place {
        self.source.place(self.name.clone())
    }

    /// The option was given.
    pub fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The first of `names`, in the order of the text, that was given.
    pub fn given<'n>(&self, names: &[&'n str]) -> Vec<&'n str> {
        let mut given: Vec<&str> = names.iter().copied().filter(|name| self.has(name)).collect();
        given.sort_by_key(|name| self.entries.get(*name).map_or(0, |entry| entry.written.name_range.start));
        given
    }

    /// The value of an option that was given.
    pub fn text(&mut self, name: &str) -> Option<String> {
        let entry = self.entries.get_mut(name)?;
        entry.read = true;
        Some(entry.written.value.clone())
    }

    /// The value, not blank.
    ///
    /// # Errors
    /// `Invalid` at a blank value.
    pub fn not_blank(&mut self, name: &str) -> Result<Option<String>> {
        match self.text(name) {
            Some(value) if value.trim().is_empty() => Err(self.wrong(name, "a value that is not empty")),
            value => Ok(value),
        }
    }

    /// The value of an option that must be given.
    ///
    /// # Errors
    /// `Invalid` at the table's or model's name if it is not, with `help`.
    pub fn required(&mut self, name: &str, help: &str) -> Result<String> {
        match self.not_blank(name)? {
            Some(value) => Ok(value),
            None => Err(Error::invalid(format!("the option '{name}' is missing")).at(self.name_place()).help(help)),
        }
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// `Invalid` at another value.
    pub fn boolean(&mut self, name: &str, default: bool) -> Result<bool> {
        match self.text(name).map(|value| value.trim().to_ascii_lowercase()).as_deref() {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(_) => Err(self.wrong(name, "true or false")),
        }
    }

    /// A whole number, at least `low`.
    ///
    /// # Errors
    /// `Invalid` at another value.
    pub fn number(&mut self, name: &str, low: u64) -> Result<Option<u64>> {
        let Some(value) = self.text(name) else { return Ok(None) };
        let number = value.trim().parse::<u64>().ok().filter(|number| *number >= low);
        number.map(Some).ok_or_else(|| self.wrong(name, &format!("a whole number, {low} or more")))
    }

    /// One of a few words, in any case; the first that is listed for a meaning is the documented one.
    ///
    /// # Errors
    /// `Invalid` at another value, with the nearest word.
    pub fn one_of<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Result<Option<T>> {
        let Some(value) = self.text(name) else { return Ok(None) };
        if let Some((_, meaning)) = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(value.trim())) {
            return Ok(Some(*meaning));
        }
        let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let error = self.wrong(name, &alternatives(&list));
        Err(match nearest(&value, list) {
            Some(near) => error.help(format!("did you mean '{near}'?")),
            None => error,
        })
    }

    /// A time such as `15m`.
    ///
    /// # Errors
    /// `Invalid` at another value.
    pub fn duration(&mut self, name: &str, default: Duration) -> Result<Duration> {
        let Some(value) = self.text(name) else { return Ok(default) };
        parse_duration(&value).ok_or_else(|| self.wrong(name, "a time such as '10 seconds', '500ms' or '15m'"))
    }

    /// A comma-separated list without repetitions; blanks around its parts do not count.
    ///
    /// # Errors
    /// `Invalid` for an empty part, or one that comes twice.
    pub fn list(&mut self, name: &str) -> Result<Option<Vec<String>>> {
        let Some(value) = self.text(name) else { return Ok(None) };
        let mut parts: Vec<String> = Vec::new();
        for part in value.split(',').map(str::trim) {
            if part.is_empty() || parts.iter().any(|other| other == part) {
                return Err(self.wrong(name, "different names with commas between them"));
            }
            parts.push(part.to_owned());
        }
        Ok(Some(parts))
    }

    /// Refuses options that mean nothing for this table.
    ///
    /// # Errors
    /// `Invalid` at the first of `names` that was given: "the option 'header' is only for {place_for}".
    pub fn refuse(&self, names: &[&str], only_for: &str) -> Result<()> {
        match self.given(names).first() {
            Some(name) => Err(self.at_name(name, &format!("the option '{name}' is only for {only_for}"))),
            None => Ok(()),
        }
    }

    /// An error at the name of an option.
    pub fn at_name(&self, name: &str, message: &str) -> Error {
        let range = self.entries.get(name).map_or(self.name.clone(), |entry| entry.written.name_range.clone());
        Error::invalid(message).at(self.source.place(range))
    }

    /// An error at the value of an option, without saying the value.
    pub fn at_value(&self, name: &str, message: &str) -> Error {
        let range = self.entries.get(name).map_or(self.name.clone(), |entry| entry.written.value_range.clone());
        Error::invalid(self.source.mask(message)).at(self.source.place(range))
    }

    /// The error for a value that cannot be read.
    pub fn wrong(&self, name: &str, expected: &str) -> Error {
        let shown = self.entries.get(name).map_or_else(String::new, |entry| {
            self.source.shown_value(&entry.written.value, entry.written.value_range.clone())
        });
        self.at_value(name, &format!("the option '{name}' is '{shown}': expected {expected}"))
    }

    /// Options whose name starts with `prefix`, with the prefix taken off.
    pub fn with_prefix(&mut self, prefix: &str) -> BTreeMap<String, String> {
        let matching = self.entries.iter_mut().filter_map(|(name, entry)| {
            let rest = name.strip_prefix(prefix)?;
            entry.read = true;
            Some((rest.to_owned(), entry.written.value.clone()))
        });
        matching.collect()
    }

    fn noun(&self) -> &'static str {
        if self.owner == MODEL { "this model" } else { "this table" }
    }

    /// Checks that every option was read, so that none is accepted and then ignored.
    ///
    /// # Errors
    /// `Invalid` at one that was not.
    pub fn finish(&self) -> Result<()> {
        match self.entries.iter().find(|(_, entry)| !entry.read) {
            Some((name, _)) => {
                Err(self.at_name(name, &format!("the option '{name}' means nothing for {}", self.noun())))
            }
            None => Ok(()),
        }
    }
}

/// `'a', 'b' or 'c'`
fn alternatives(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => format!("'{only}'"),
        [rest @ .., last] => format!("'{}' or '{last}'", rest.join("', '")),
    }
}

/// Reads `10 seconds`, `10s`, `1.5m`, `500ms`, `1 hour 30 minutes`, `interval 5 minutes`. A number needs its unit; what
/// is finer than a nanosecond is cut off.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let lower = text.trim().to_ascii_lowercase();
    let mut rest = lower.strip_prefix("interval ").unwrap_or(&lower).trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number = &rest[..digits];
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let nanos: u128 = match &rest[..letters] {
            "us" | "microsecond" | "microseconds" => 1_000,
            "ms" | "msec" | "millisecond" | "milliseconds" => 1_000_000,
            "s" | "sec" | "secs" | "second" | "seconds" => 1_000_000_000,
            "m" | "min" | "mins" | "minute" | "minutes" => 60_000_000_000,
            "h" | "hour" | "hours" => 3_600_000_000_000,
            "d" | "day" | "days" => 86_400_000_000_000,
            "w" | "week" | "weeks" => 604_800_000_000_000,
            _ => return None,
        };
        let nanos = times(number, nanos)?;
        let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
        let part = Duration::new(seconds, u32::try_from(nanos % 1_000_000_000).ok()?);
        // Later sums with a clock must not overflow either.
        total = total.checked_add(part).filter(|total| *total <= DURATION_MAX)?;
        rest = rest[letters..].trim_start();
    }
    Some(total)
}

/// The longest time that an option can say: a thousand years.
const DURATION_MAX: Duration = Duration::from_secs(1_000 * 365 * 86_400);

/// A decimal number times `unit`, exact: decimals are digits, not floats.
fn times(number: &str, unit: u128) -> Option<u128> {
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || decimals.is_empty() || !digits(whole) || !digits(decimals) {
        return None;
    }
    let mut total = whole.parse::<u128>().ok()?.checked_mul(unit)?;
    let mut scale = unit;
    for digit in decimals.bytes() {
        total += u128::from(digit - b'0') * scale / 10;
        scale /= 10;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_in_the_spellings_of_spark() {
        for (text, millis) in [
            ("10 seconds", 10_000),
            ("10s", 10_000),
            ("500ms", 500),
            ("5 minutes", 300_000),
            ("15m", 900_000),
            ("1h", 3_600_000),
            ("1 hour 30 minutes", 5_400_000),
            ("interval 2 Days", 172_800_000),
            ("1 week", 604_800_000),
            ("0s", 0),
            ("1.5s", 1_500),
            ("1.5m", 90_000),
            ("0.25 hours 1s", 901_000),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "10",
            "s",
            "1 fortnight",
            "-1s",
            "99999999999999999999s",
            "18446744073709551615w",
            "1s,",
            ".5s",
            "1.s",
            "1..5s",
            "1.5.1s",
            "2000 000s",
            "999999 w",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
