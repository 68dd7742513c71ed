//! Walks over the tokens of one statement; its errors say what was expected, what was found, and where.

use std::{ops::Range, sync::Arc};

use super::{
    lexer::{Token, TokenKind},
    text::{SourceText, SqlText},
};
use crate::error::{Error, Result};

/// A position in a statement's tokens. A copy looks ahead.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'a> {
    source: &'a Arc<SourceText>,
    tokens: &'a [Token],
    at: usize,
}

/// A name, folded to lower case unless it was quoted or is a column's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    pub text: String,
    pub range: Range<usize>,
}

impl<'a> Cursor<'a> {
    /// At the first of `tokens`, which are one statement and not empty.
    pub fn new(source: &'a Arc<SourceText>, tokens: &'a [Token]) -> Self {
        Self { source, tokens, at: 0 }
    }

    /// The text that the tokens are of.
    pub fn source(&self) -> &'a Arc<SourceText> {
        self.source
    }

    /// The next token.
    pub fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at)
    }

    /// The token after the next.
    pub fn peek_second(&self) -> Option<&'a Token> {
        self.tokens.get(self.at + 1)
    }

    /// Steps over the next token.
    pub fn advance(&mut self) -> Option<&'a Token> {
        let token = self.peek();
        self.at += usize::from(token.is_some());
        token
    }

    /// Steps over the words, if all of them come next.
    pub fn words(&mut self, words: &[&str]) -> bool {
        let next = self.tokens.get(self.at..self.at + words.len()).unwrap_or_default();
        let found = next.len() == words.len() && next.iter().zip(words).all(|(token, word)| token.is_word(word));
        self.at += if found { words.len() } else { 0 };
        found
    }

    /// Steps over the symbol, if it comes next.
    pub fn symbol(&mut self, symbol: char) -> bool {
        let found = self.peek().is_some_and(|token| token.is_symbol(symbol));
        self.at += usize::from(found);
        found
    }

    /// Steps over the symbol.
    ///
    /// # Errors
    /// `Invalid` if another token comes next.
    pub fn expect_symbol(&mut self, symbol: char) -> Result<()> {
        if self.symbol(symbol) { Ok(()) } else { Err(self.unexpected(&format!("'{symbol}'"))) }
    }

    /// Steps over the word.
    ///
    /// # Errors
    /// `Invalid` if another token comes next.
    pub fn expect_word(&mut self, word: &str) -> Result<()> {
        if self.words(&[word]) { Ok(()) } else { Err(self.unexpected(word)) }
    }

    /// Reads a name as it was written; `what` is for the error.
    ///
    /// # Errors
    /// `Invalid` if no name comes next, or an empty one.
    pub fn name(&mut self, what: &str) -> Result<Name> {
        match self.peek() {
            Some(token) if matches!(token.kind, TokenKind::Word | TokenKind::QuotedName) && !token.value.is_empty() => {
                self.at += 1;
                Ok(Name { text: token.value.clone(), range: token.range.clone() })
            }
            _ => Err(self.unexpected(what)),
        }
    }

    /// Reads the name of a table or view: without quotes it means its lower-case form, as in DataFusion's `SELECT`.
    ///
    /// # Errors
    /// As `name`; `Unsupported` for a name with a dot.
    pub fn table_name(&mut self, what: &str) -> Result<Name> {
        let quoted = self.peek().is_some_and(|token| token.kind == TokenKind::QuotedName);
        let mut name = self.name(what)?;
        if self.peek().is_some_and(|token| token.is_symbol('.')) {
            let error = Error::unsupported("a table's name has no schema or catalog before it in a job file");
            return Err(error.at(self.place(name.range)).help("use the name alone"));
        }
        if !quoted {
            name.text = name.text.to_lowercase();
        }
        Ok(name)
    }

    /// Reads a string.
    ///
    /// # Errors
    /// `Invalid` if no string comes next.
    pub fn string(&mut self, what: &str) -> Result<&'a Token> {
        match self.peek() {
            Some(token) if token.kind == TokenKind::String => {
                self.at += 1;
                Ok(token)
            }
            _ => Err(self.unexpected(what)),
        }
    }

    /// Checks that the statement ends here.
    ///
    /// # Errors
    /// `Invalid` at the next token.
    pub fn end(&self) -> Result<()> {
        let Some(token) = self.peek() else { return Ok(()) };
        let error = self.unexpected("';'");
        let starts = token.is_word("CREATE") || token.is_word("INSERT");
        Err(if starts { error.help("is a ';' missing before it?") } else { error })
    }

    /// The `CREATE TABLE`, `CREATE VIEW`, `CREATE MODEL` or `INSERT INTO` among the tokens that are left: a query holds none.
    pub fn next_statement(&self) -> Option<Range<usize>> {
        let rest = self.tokens();
        let starts = |pair: &&[Token]| match pair {
            [first, second] if first.is_word("CREATE") => {
                ["TABLE", "VIEW", "MODEL", "OR", "TEMPORARY", "TEMP"].iter().any(|word| second.is_word(word))
            }
            [first, second] => first.is_word("INSERT") && second.is_word("INTO"),
            _ => false,
        };
        rest.windows(2).find(starts).map(|pair| pair[0].range.clone())
    }

    /// The tokens that are left.
    pub fn tokens(&self) -> &'a [Token] {
        self.tokens.get(self.at..).unwrap_or_default()
    }

    /// The text of the tokens that are left, before the one at `end` of them.
    pub fn before(&self, end: usize) -> SqlText {
        let tokens = self.tokens.get(..self.at + end).unwrap_or(self.tokens);
        Self { tokens, ..*self }.rest()
    }

    /// The rest of the statement as text.
    pub fn rest(&self) -> SqlText {
        let last = self.tokens.last().map_or(0, |token| token.range.end);
        let first = self.peek().map_or(last, |token| token.range.start);
        SqlText::new(Arc::clone(self.source), first..last)
    }

    /// The bytes of the next token; at the end of the statement, the last of its last token.
    pub fn range(&self) -> Range<usize> {
        let end = || self.tokens.last().map_or(0..0, |token| token.range.end..token.range.end);
        self.peek().map_or_else(end, |token| token.range.clone())
    }

    /// The place of a range of the text.
    pub fn place(&self, range: Range<usize>) -> crate::error::Place {
        self.source.place(range)
    }

    /// The error for a token that does not belong here.
    pub fn unexpected(&self, expected: &str) -> Error {
        let found = match self.peek() {
            Some(token) => format!("'{}'", self.source.shown(token.range.clone()).trim()),
            None => "the end of the statement".to_owned(),
        };
        Error::invalid(format!("expected {expected}, found {found}")).at(self.place(self.range()))
    }
}
