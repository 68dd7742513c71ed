//! Tokens of a job file, with their places: enough SQL to find where a statement ends and to read a `CREATE TABLE`.
//! What a `SELECT` means is DataFusion's business.

use std::ops::Range;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// An unquoted name or keyword.
    Word,
    /// A name in double quotes or backticks.
    QuotedName,
    /// `'...'` or `$$...$$`
    String,
    Number,
    /// One character.
    Symbol,
}

/// A token and the bytes where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub kind: TokenKind,
    /// Without quotes, escapes undone.
    pub value: String,
    pub range: Range<usize>,
}

impl Token {
    /// The unquoted word `word`, in any case.
    pub fn is_word(&self, word: &str) -> bool {
        self.kind == TokenKind::Word && self.value.eq_ignore_ascii_case(word)
    }

    /// The symbol `symbol`.
    pub fn is_symbol(&self, symbol: char) -> bool {
        self.kind == TokenKind::Symbol && self.value.chars().eq([symbol])
    }
}

/// Text in which other rules hold than in code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quoted {
    /// `-- ...` and `/* ... */`, which nests.
    Comment,
    /// `'...'`
    String,
    /// `E'...'`, with backslash escapes; the range starts at the quote.
    EscapeString,
    /// `"..."`, or with backticks.
    Name,
    /// `$$...$$` or `$tag$...$tag$`: verbatim, variables too.
    Dollar,
}

/// Something was opened at `range` and never closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unterminated {
    pub what: &'static str,
    /// What would close it.
    pub closing: String,
    pub range: Range<usize>,
}

/// If comment, string, quoted name or dollar quote starts at byte `at`: which, and where it ends.
pub fn quoted_at(text: &str, at: usize) -> Result<Option<(Quoted, usize)>, Unterminated> {
    let rest = &text[at..];
    let open = |what, closing: &str, width| Unterminated { what, closing: closing.to_owned(), range: at..at + width };
    if rest.starts_with("--") {
        return Ok(Some((Quoted::Comment, at + rest.find('\n').unwrap_or(rest.len()))));
    }
    if rest.starts_with("/*") {
        let end = comment_end(rest).ok_or_else(|| open("comment", "*/", 2))?;
        return Ok(Some((Quoted::Comment, at + end)));
    }
    if rest.starts_with('\'') {
        let escapes = is_escape_string(&text[..at]);
        let end = closing_quote(rest, b'\'', escapes).ok_or_else(|| open("string", "'", 1))?;
        let kind = if escapes { Quoted::EscapeString } else { Quoted::String };
        return Ok(Some((kind, at + end)));
    }
    if let Some(quote @ (b'"' | b'`')) = rest.bytes().next() {
        let end = closing_quote(rest, quote, false)
            .ok_or_else(|| open("quoted name", if quote == b'"' { "\"" } else { "`" }, 1))?;
        return Ok(Some((Quoted::Name, at + end)));
    }
    let Some(tag) = dollar_tag(rest) else { return Ok(None) };
    let end = rest[tag.len()..].find(tag).ok_or_else(|| open("string", tag, tag.len()))?;
    Ok(Some((Quoted::Dollar, at + end + 2 * tag.len())))
}

/// A quote directly after the word `e` opens a string with backslash escapes.
fn is_escape_string(before: &str) -> bool {
    let mut last = before.chars().rev();
    matches!(last.next(), Some('e' | 'E')) && !last.next().is_some_and(is_word_part)
}

/// The end of the comment that `text` starts with.
fn comment_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0_usize);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// The end of the quoted text that `text` starts with; a doubled quote is a quote inside it.
fn closing_quote(text: &str, quote: u8, escapes: bool) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        if escapes && bytes[at] == b'\\' {
            at += 2;
        } else if bytes[at] != quote {
            at += 1;
        } else if bytes.get(at + 1) == Some(&quote) {
            at += 2;
        } else {
            return Some(at + 1);
        }
    }
    None
}

/// `$$` or `$tag$` at the start of `text`.
fn dollar_tag(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('$')?;
    let length = inner.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(inner.len());
    let valid = !inner.starts_with(|c: char| c.is_numeric()) && inner[length..].starts_with('$');
    valid.then(|| &text[..length + 2])
}

/// May start an unquoted name.
pub fn is_word_start(c: char) -> bool {
    c.is_alphabetic() || matches!(c, '_' | '@' | '#')
}

/// May stand inside an unquoted name.
pub fn is_word_part(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '@' | '#' | '$')
}

/// The tokens of `text`; comments are left out.
///
/// # Errors
/// The first string, comment or quoted name that is not closed.
pub fn tokens(text: &str) -> Result<Vec<Token>, Unterminated> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        }
        let (kind, end) = match quoted_at(text, at)? {
            Some((Quoted::Comment, end)) => {
                at = end;
                continue;
            }
            Some((Quoted::Name, end)) => (TokenKind::QuotedName, end),
            Some((_, end)) => (TokenKind::String, end),
            None if is_word_start(c) => (TokenKind::Word, at + length_while(&text[at..], is_word_part)),
            None if c.is_ascii_digit() => (TokenKind::Number, at + number_length(&text[at..])),
            None => (TokenKind::Symbol, at + c.len_utf8()),
        };
        tokens.push(Token { kind, value: value(kind, &text[at..end]), range: at..end });
        at = end;
    }
    Ok(tokens)
}

fn length_while(text: &str, accept: impl Fn(char) -> bool) -> usize {
    text.find(|c| !accept(c)).unwrap_or(text.len())
}

/// `12`, `1.5`, `1e-3`
fn number_length(text: &str) -> usize {
    let digits = |from: usize| from + length_while(&text[from..], |c| c.is_ascii_digit());
    let mut end = digits(0);
    if text[end..].starts_with('.') {
        end = digits(end + 1);
    }
    if text[end..].starts_with(['e', 'E']) {
        let sign = usize::from(text[end + 1..].starts_with(['+', '-']));
        let exponent = digits(end + 1 + sign);
        if exponent > end + 1 + sign {
            end = exponent;
        }
    }
    end
}

fn value(kind: TokenKind, text: &str) -> String {
    let inner = || &text[1..text.len() - 1];
    match kind {
        TokenKind::QuotedName if text.starts_with('"') => inner().replace("\"\"", "\""),
        TokenKind::QuotedName => inner().replace("``", "`"),
        TokenKind::String if text.starts_with('$') => {
            let tag = dollar_tag(text).map_or(0, str::len);
            text[tag..text.len() - tag].to_owned()
        }
        TokenKind::String => inner().replace("''", "'"),
        TokenKind::Word | TokenKind::Number | TokenKind::Symbol => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<String> {
        tokens(text).unwrap().into_iter().map(|token| token.value).collect()
    }

    #[test]
    fn semicolons_inside_quotes_and_comments_are_text() {
        let text = "a ';''' \";\"\"\" `;` -- ;\n/* ; /* ; */ ; */ $$;$$ $t$;$$;$t$ E'\\';' b$c ; 1.5e-3.";
        assert_eq!(values(text), ["a", ";'", ";\"", ";", ";", ";$$;", "E", "\\';", "b$c", ";", "1.5e-3", "."]);
    }

    #[test]
    fn what_is_not_closed_points_at_its_start() {
        for (text, what, start) in [
            ("a 'b", "string", 2),
            ("/* /* */", "comment", 0),
            ("x \"y\"\"", "quoted name", 2),
            ("$q$ $$", "string", 0),
            ("E'\\'", "string", 1),
        ] {
            let error = tokens(text).unwrap_err();
            assert_eq!((error.what, error.range.start), (what, start), "{text}");
        }
    }
}
