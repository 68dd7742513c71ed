//! `ASOF JOIN`, which the planner does not know: it becomes a plain join whose condition has a mark.
//!
//! `a ASOF [LEFT] JOIN b MATCH_CONDITION (a.ts >= b.ts) ON a.id = b.id` (Snowflake's) is read as
//! `a [LEFT] JOIN b ON asof_match(a.ts >= b.ts) AND a.id = b.id`, and `a ASOF [LEFT] JOIN b ON a.id = b.id AND
//! a.ts >= b.ts` (DuckDB's) as `a [LEFT] JOIN b ON asof_match() AND a.id = b.id AND a.ts >= b.ts`. Tokens are exchanged,
//! each at the place of one that was there, so that places in the text stay what they are.

use datafusion::sql::sqlparser::{
    keywords::Keyword,
    tokenizer::{Token, TokenWithSpan, Whitespace},
};

/// The function that marks the condition of an `ASOF JOIN`.
pub const ASOF_MATCH: &str = "asof_match";

/// Exchanges the tokens of all of them. What is not complete is for the parser to say.
pub fn mark(tokens: &mut Vec<TokenWithSpan>) {
    let mut at = 0;
    while at < tokens.len() {
        if is_keyword(tokens, at, Keyword::ASOF)
            && let Some(join) = join_after(tokens, at)
            && mark_condition(tokens, join)
            && let Some(asof) = tokens.get_mut(at)
        {
            asof.token = Token::Whitespace(Whitespace::Space);
        }
        at += 1;
    }
}

/// Where `JOIN` is, of `ASOF [INNER | LEFT [OUTER]] JOIN`.
fn join_after(tokens: &[TokenWithSpan], asof: usize) -> Option<usize> {
    let mut at = next(tokens, asof)?;
    if is_keyword(tokens, at, Keyword::INNER) {
        at = next(tokens, at)?;
    } else if is_keyword(tokens, at, Keyword::LEFT) {
        at = next(tokens, at)?;
        if is_keyword(tokens, at, Keyword::OUTER) {
            at = next(tokens, at)?;
        }
    }
    is_keyword(tokens, at, Keyword::JOIN).then_some(at)
}

/// Marks the condition of the join at `join`, if it has one.
fn mark_condition(tokens: &mut Vec<TokenWithSpan>, join: usize) -> bool {
    const ENDS: [Keyword; 6] =
        [Keyword::JOIN, Keyword::WHERE, Keyword::GROUP, Keyword::ORDER, Keyword::UNION, Keyword::USING];
    let mut depth = 0_i32;
    for at in join + 1..tokens.len() {
        match tokens.get(at).map(|token| &token.token) {
            Some(Token::LParen) => depth += 1,
            Some(Token::RParen) => depth -= 1,
            Some(Token::SemiColon) => return false,
            _ => {}
        }
        if depth < 0 {
            return false;
        }
        if depth > 0 {
            continue;
        }
        if is_keyword(tokens, at, Keyword::MATCH_CONDITION) {
            mark_match(tokens, at);
            return true;
        }
        if is_keyword(tokens, at, Keyword::ON) {
            let call = [Token::make_word(ASOF_MATCH, None), Token::LParen, Token::RParen, Token::make_keyword("AND")];
            insert(tokens, at, &call);
            return true;
        }
        if ENDS.iter().any(|end| is_keyword(tokens, at, *end)) {
            return false;
        }
    }
    false
}

/// `MATCH_CONDITION (...) ON` into `ON asof_match (...) AND`.
fn mark_match(tokens: &mut Vec<TokenWithSpan>, at: usize) {
    let mut depth = 0_i32;
    for close in at + 1..tokens.len() {
        match tokens.get(close).map(|token| &token.token) {
            Some(Token::LParen) => depth += 1,
            Some(Token::RParen) if depth == 1 => {
                if let Some(on) = next(tokens, close).filter(|on| is_keyword(tokens, *on, Keyword::ON))
                    && let Some(on) = tokens.get_mut(on)
                {
                    on.token = Token::make_keyword("AND");
                }
                break;
            }
            Some(Token::RParen) => depth -= 1,
            _ => {}
        }
    }
    if let Some(word) = tokens.get_mut(at) {
        word.token = Token::make_keyword("ON");
    }
    insert(tokens, at, &[Token::make_word(ASOF_MATCH, None)]);
}

/// Puts `new` after the token at `at`, at its place in the text.
fn insert(tokens: &mut Vec<TokenWithSpan>, at: usize, new: &[Token]) {
    let Some(span) = tokens.get(at).map(|token| token.span) else { return };
    let space = Token::Whitespace(Whitespace::Space);
    let new: Vec<TokenWithSpan> =
        new.iter().flat_map(|token| [&space, token]).map(|token| TokenWithSpan::new(token.clone(), span)).collect();
    tokens.splice(at + 1..at + 1, new);
}

/// The next token that is no white space.
fn next(tokens: &[TokenWithSpan], at: usize) -> Option<usize> {
    let is_space = |token: &TokenWithSpan| matches!(token.token, Token::Whitespace(_));
    (at + 1..tokens.len()).find(|at| tokens.get(*at).is_some_and(|token| !is_space(token)))
}

fn is_keyword(tokens: &[TokenWithSpan], at: usize, keyword: Keyword) -> bool {
    matches!(tokens.get(at).map(|token| &token.token), Some(Token::Word(word)) if word.keyword == keyword)
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::{dialect::GenericDialect, tokenizer::Tokenizer};

    use super::*;

    fn marked(sql: &str) -> String {
        let mut tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().unwrap();
        mark(&mut tokens);
        let text = tokens.iter().map(|token| token.token.to_string()).collect::<String>();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn becomes_a_join_with_a_mark() {
        for (sql, expected) in [
            (
                "FROM t ASOF JOIN q MATCH_CONDITION (t.ts >= (q.ts)) ON t.a = q.a WHERE x",
                "FROM t JOIN q ON asof_match (t.ts >= (q.ts)) AND t.a = q.a WHERE x",
            ),
            (
                "t asof left join q match_condition(t.ts>q.ts)ON(t.a=q.a)",
                "t left join q ON asof_match(t.ts>q.ts)AND(t.a=q.a)",
            ),
            (
                "t ASOF LEFT OUTER JOIN (SELECT * FROM q JOIN r ON 1 = 1) q ON t.a = q.a AND t.ts >= q.ts",
                "t LEFT OUTER JOIN (SELECT * FROM q JOIN r ON 1 = 1) q ON asof_match ( ) AND t.a = q.a AND t.ts >= q.ts",
            ),
            (
                "t ASOF JOIN q MATCH_CONDITION (a) ASOF JOIN r ON b",
                "t JOIN q ON asof_match (a) JOIN r ON asof_match ( ) AND b",
            ),
            ("SELECT asof, \"ASOF\" FROM t AS asof", "SELECT asof, \"ASOF\" FROM t AS asof"),
            ("t ASOF JOIN q USING (a)", "t ASOF JOIN q USING (a)"),
            ("t ASOF JOIN q", "t ASOF JOIN q"),
            ("(SELECT 1 FROM t ASOF JOIN q) x JOIN y ON z", "(SELECT 1 FROM t ASOF JOIN q) x JOIN y ON z"),
        ] {
            assert_eq!(marked(sql), expected);
        }
    }
}
