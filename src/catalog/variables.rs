//! `${NAME}` and `${NAME:-default}`.
//!
//! A value can never end the string or quoted name that it stands in, and outside of quotes it must be whole tokens.
//! Comments and dollar quotes are left as they are. `$${` is a `${` that stays.

use std::{collections::BTreeSet, ops::Range};

use super::{
    job::Variables,
    lexer::{Quoted, TokenKind, Unterminated, is_word_part, is_word_start, quoted_at, tokens},
    text::SourceText,
};
use crate::error::{Error, Result, nearest};

/// Reads `text` and puts the variables in.
///
/// # Errors
/// `Invalid` at the place of what is unset, misspelt or not closed; also for a `-D` that the file does not use.
pub fn expand(file: &str, text: &str, variables: &Variables) -> Result<SourceText> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut expansion = Expansion { source: SourceText::new(file, text), variables, used: BTreeSet::new() };
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        if text[at..].starts_with("${") {
            at = expansion.variable(at, text.len(), Surroundings::Code)?;
            continue;
        }
        let quoted = quoted_at(text, at).map_err(|open| unterminated(&expansion.source, &open, false))?;
        let end = match quoted {
            Some((Quoted::Comment | Quoted::Dollar, end)) => end,
            Some((kind, end)) => {
                expansion.inside(at..end, kind)?;
                at = end;
                continue;
            }
            None if is_word_start(c) => word_end(text, at),
            None => at + c.len_utf8(),
        };
        expansion.source.push_verbatim(at..end);
        at = end;
    }
    let Expansion { source, used, .. } = expansion;
    match variables.given.keys().find(|name| !used.contains(name.as_str())) {
        Some(name) => Err(unused(file, name, &used)),
        None => Ok(source),
    }
}

/// The error for a `-D` that the file does not use: most often a slip of the finger.
fn unused(file: &str, name: &str, used: &BTreeSet<String>) -> Error {
    let error = Error::invalid(format!("-D {name} is not used in {file}"));
    let names: Vec<&str> = used.iter().map(String::as_str).collect();
    match nearest(name, names.iter().copied()) {
        Some(near) => error.help(format!("did you mean '{near}'?")),
        None if names.is_empty() => error.help("the file has no variables: write ${NAME} where one should stand"),
        None => error.help(format!("the file's variables: {}", names.join(", "))),
    }
}

/// An error for a string or comment that is open at the end of the text.
pub fn unterminated(source: &SourceText, open: &Unterminated, expanded: bool) -> Error {
    let range = open.range.clone();
    let place = if expanded { source.place(range) } else { source.original_place(range) };
    Error::invalid(format!("this {} is not closed", open.what)).at(place).help(format!("end it with {}", open.closing))
}

/// A word ends before a variable, so that `price_${UNIT}` works.
fn word_end(text: &str, at: usize) -> usize {
    let mut rest = text[at..].char_indices().peekable();
    while let Some((offset, c)) = rest.next() {
        let variable = c == '$' && matches!(rest.peek(), Some((_, '{')));
        if variable || !is_word_part(c) {
            return at + offset;
        }
    }
    text.len()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Surroundings {
    Code,
    Quoted { quote: char, escapes: bool },
}

struct Expansion<'a> {
    source: SourceText,
    variables: &'a Variables,
    used: BTreeSet<String>,
}

impl Expansion<'_> {
    /// A string or quoted name: everything in it is copied except variables.
    fn inside(&mut self, range: Range<usize>, kind: Quoted) -> Result<()> {
        let text = self.source.original().to_owned();
        let quote = text[range.start..].chars().next().unwrap_or('\'');
        let surroundings = Surroundings::Quoted { quote, escapes: kind == Quoted::EscapeString };
        let mut at = range.start;
        while at < range.end {
            let rest = &text[at..range.end];
            if rest.starts_with("$${") {
                self.source.push_value("${", at..at + 3, None);
                at += 3;
            } else if rest.starts_with("${") {
                at = self.variable(at, range.end - 1, surroundings)?;
            } else {
                let first = rest.chars().next().map_or(1, char::len_utf8);
                let next = rest[first..].find('$').map_or(range.end, |dollar| at + first + dollar);
                self.source.push_verbatim(at..next);
                at = next;
            }
        }
        Ok(())
    }

    /// The variable at byte `at`, which ends before `limit`. Returns its end.
    fn variable(&mut self, at: usize, limit: usize, surroundings: Surroundings) -> Result<usize> {
        let text = self.source.original();
        let Some(end) = variable_end(&text[at..limit]).map(|length| at + length) else {
            let error = Error::invalid("this variable is not closed").at(self.source.original_place(at..at + 2));
            return Err(error.help("write ${NAME} or ${NAME:-default}; a literal ${ is written $${"));
        };
        let inner = text[at + 2..end - 1].to_owned();
        let length = inner.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(inner.len());
        let (name, rest) = inner.split_at(length);
        let default = rest.strip_prefix(":-");
        let valid = !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit());
        if !valid || (default.is_none() && !rest.is_empty()) {
            let error = Error::invalid("this is not a variable").at(self.source.original_place(at..end));
            return Err(error.help("write ${NAME} or ${NAME:-default}; a literal ${ is written $${"));
        }
        self.used.insert(name.to_owned());
        let given = self.value(name, default.is_some(), at..end)?;
        let value = match (&given, default) {
            (Some(value), _) => quoted(value, surroundings),
            // The default stands in the file, where its quotes are doubled already.
            (None, default) => default.unwrap_or_default().to_owned(),
        };
        let secret = looks_secret(name).then(|| given.clone().unwrap_or_else(|| value.clone()));
        let value = if surroundings == Surroundings::Code { self.code(name, &value, at..end)? } else { value };
        self.source.push_value(&value, at..end, secret.as_deref());
        Ok(end)
    }

    /// What is set; `None` for the default.
    fn value(&self, name: &str, has_default: bool, range: Range<usize>) -> Result<Option<String>> {
        if let Some(value) = self.variables.given.get(name) {
            return Ok(Some(value.clone()));
        }
        match std::env::var(name) {
            // As in a shell: what is set to nothing gets the default.
            Ok(value) if value.is_empty() && has_default => Ok(None),
            Ok(value) => Ok(Some(value)),
            Err(std::env::VarError::NotPresent) if has_default => Ok(None),
            Err(std::env::VarError::NotPresent) => {
                let set = format!("set it with -D {name}=VALUE or in the environment");
                let help = match nearest(name, self.variables.given.keys().map(String::as_str)) {
                    Some(near) => format!("{set}; did you mean '{near}'?"),
                    None => set,
                };
                let error = Error::invalid(format!("the variable {name} is not set"));
                Err(error.at(self.source.original_place(range)).help(help))
            }
            Err(std::env::VarError::NotUnicode(_)) => {
                let error = Error::invalid(format!("the environment variable {name} is not UTF-8"));
                Err(error.at(self.source.original_place(range)))
            }
        }
    }

    /// A value outside of quotes: whole tokens of one statement, which cannot grow together with their neighbours
    /// into a comment.
    fn code(&self, name: &str, value: &str, range: Range<usize>) -> Result<String> {
        if value.chars().all(|c| c.is_alphanumeric() || c == '_') {
            return Ok(value.to_owned());
        }
        let whole = match tokens(value) {
            Ok(found) => {
                let semicolon = found.iter().any(|token| token.is_symbol(';'));
                // Comments leave no token, so look at what stands between the tokens.
                let mut rest = value.to_owned();
                found.iter().rev().for_each(|token| rest.replace_range(token.range.clone(), ""));
                let unbalanced = found.iter().filter(|t| t.kind == TokenKind::Symbol).try_fold(0_i64, |depth, t| {
                    let depth = depth + i64::from(t.is_symbol('(')) - i64::from(t.is_symbol(')'));
                    (depth >= 0).then_some(depth)
                }) != Some(0);
                !semicolon && !unbalanced && rest.trim().is_empty()
            }
            Err(_) => false,
        };
        if whole {
            return Ok(format!(" {value} "));
        }
        Err(Error::invalid(format!("the value of {name} is not a piece of SQL that can stand outside quotes"))
            .at(self.source.original_place(range))
            .help(format!("for text, write '${{{name}}}' with quotes")))
    }
}

/// The value as it must be written inside quotes.
fn quoted(value: &str, surroundings: Surroundings) -> String {
    match surroundings {
        Surroundings::Code => value.to_owned(),
        Surroundings::Quoted { quote, escapes } => {
            let value = if escapes { value.replace('\\', "\\\\") } else { value.to_owned() };
            value.replace(quote, &format!("{quote}{quote}"))
        }
    }
}

/// The length of the variable that `text` starts with; braces in its default are balanced.
fn variable_end(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            '\n' => return None,
            _ => {}
        }
    }
    None
}

/// Messages do not show the value of such a variable.
fn looks_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["PASSWORD", "SECRET", "TOKEN", "KEY"].iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pairs: &[(&str, &str)]) -> Variables {
        Variables { given: pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect() }
    }

    fn expanded(text: &str, pairs: &[(&str, &str)]) -> String {
        expand("a.sql", text, &given(pairs)).unwrap().expanded().to_owned()
    }

    #[test]
    fn values_defaults_and_escapes() {
        assert_eq!(expanded("'${A_1:-x}' ${A_1:-y}", &[]), "'x' y");
        assert_eq!(expanded("'${A_1:-x}' ${A_1:-'y'}", &[("A_1", "z")]), "'z' z");
        assert_eq!(
            expanded("'$${A} $ $$ {' -- ${B}\n/*${C}*/ $$${D}$$", &[]),
            "'${A} $ $$ {' -- ${B}\n/*${C}*/ $$${D}$$"
        );
        assert_eq!(expanded("p_${U} ${N}-1", &[("U", "eur"), ("N", "-")]), "p_eur  - -1");
        assert_eq!(expanded("'${O:-{\"t\":{\"0\":1}}}'", &[]), "'{\"t\":{\"0\":1}}'");
        // Cargo sets this one in every test.
        assert_eq!(expanded("'${CARGO_PKG_NAME}'", &[]), "'tidemill'");
        assert_eq!(expanded("'${CARGO_PKG_NAME}'", &[("CARGO_PKG_NAME", "")]), "''");
    }

    #[test]
    fn a_value_cannot_leave_its_quotes() {
        let evil = "'; DROP \"t\"` \\";
        assert_eq!(expanded("'${E}'", &[("E", evil)]), "'''; DROP \"t\"` \\'");
        assert_eq!(expanded("\"${E}\"", &[("E", evil)]), "\"'; DROP \"\"t\"\"` \\\"");
        assert_eq!(expanded("E'${E}'", &[("E", evil)]), "E'''; DROP \"t\"` \\\\'");
        for value in ["a; b", "'", "1 -- x", "/* x */", ") x (", "(", "\"", "$$"] {
            let error = expand("a.sql", "SELECT ${E}", &given(&[("E", value)])).unwrap_err();
            assert!(error.to_string().contains("can stand outside quotes"), "{value}: {error}");
        }
    }
}
