//! SQL text into DataFusion's statements, with the spellings of event-time windows and models that the parser lacks.
//!
//! Flink's `TUMBLE(TABLE t PARTITION BY k, DESCRIPTOR(ts), ...)` and `ML_PREDICT(TABLE t, MODEL m, ...)` do not parse. So
//! the words in question are overwritten, character by character, with a spelling that does: places in the text stay what
//! they are. `asof.rs` does the same with tokens.

use std::{borrow::Cow, collections::VecDeque, ops::ControlFlow};

use datafusion::{
    error::DataFusionError,
    sql::{
        parser::{CopyToSource, DFParserBuilder, Statement},
        sqlparser::{
            ast::{
                Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident,
                ObjectName, Query, TableFactor, Value, VisitMut, VisitorMut,
            },
            dialect::GenericDialect,
            keywords::Keyword,
            parser::{Parser, ParserError},
            tokenizer::{Token as Word, TokenWithSpan as SqlToken, Tokenizer},
        },
    },
};

use super::{
    asof, group_window,
    lexer::{Token, TokenKind, tokens},
};

/// The table functions over event time: those that assign rows to windows, and those that follow a key through time.
const EVENT_TIME_FUNCTIONS: [&str; 6] = ["tumble", "hop", "cumulate", "session", "gap_fill", "deduplicate"];

/// The table functions that apply a model.
const MODEL_FUNCTIONS: [&str; 3] = ["ml_predict", "ml_evaluate", "ml_forecast"];

/// The names of the argument that is a table, where arguments have names: that of windows, and that of models.
pub const TABLE_ARGUMENTS: [&str; 2] = ["data", "input"];

/// The name of the argument that Flink's `PARTITION BY` becomes.
pub const KEYS_ARGUMENT: &str = "keys";

/// Parses `sql`. A table that a table function reads becomes a subquery, `(SELECT * FROM t)`, so that whoever looks for
/// the tables of a statement finds it.
///
/// # Errors
/// The parser's.
pub fn parse_statements(sql: &str) -> Result<VecDeque<Statement>, DataFusionError> {
    let dialect = GenericDialect {};
    let text = accepted_by_the_parser(sql);
    let mut tokens = Tokenizer::new(&dialect, text.as_ref()).tokenize_with_location().map_err(ParserError::from)?;
    quote_offset(&mut tokens);
    asof::mark(&mut tokens);
    let mut statements = DFParserBuilder::new(tokens).with_dialect(&dialect).build()?.parse_statements()?;
    for statement in &mut statements {
        rewrite(statement)?;
    }
    Ok(statements)
}

/// Kafka's column `offset` behind a comma, where the parser would see the clause OFFSET, which never stands there.
fn quote_offset(tokens: &mut [SqlToken]) {
    let mut after_comma = false;
    for token in tokens {
        match &mut token.token {
            Word::Whitespace(_) => continue,
            Word::Word(word) if after_comma && word.keyword == Keyword::OFFSET => {
                word.value.make_ascii_lowercase();
                word.quote_style = Some('"');
                word.keyword = Keyword::NoKeyword;
            }
            _ => {}
        }
        after_comma = token.token == Word::Comma;
    }
}

/// `sql` with `TABLE` and `MODEL` blanked out and `PARTITION BY` replaced inside the calls of our table functions.
fn accepted_by_the_parser(sql: &str) -> Cow<'_, str> {
    // What is not closed is for the parser to say.
    let Ok(found) = tokens(sql) else { return Cow::Borrowed(sql) };
    let mut text = Cow::Borrowed(sql);
    for (at, pair) in found.windows(2).enumerate() {
        let is_one_of = |names: &[&str]| names.iter().any(|name| pair[0].is_word(name));
        let takes_model = is_one_of(&MODEL_FUNCTIONS);
        if (takes_model || is_one_of(&EVENT_TIME_FUNCTIONS)) && pair[1].is_symbol('(') {
            rewrite_call(&found[at + 2..], takes_model, &mut text);
        }
    }
    text
}

/// `found` are the tokens after the opening parenthesis.
fn rewrite_call(found: &[Token], takes_model: bool, text: &mut Cow<'_, str>) {
    let mut depth = 0;
    for (at, token) in found.iter().enumerate() {
        match token.value.as_str() {
            "(" if token.kind == TokenKind::Symbol => depth += 1,
            ")" if token.kind == TokenKind::Symbol && depth == 0 => return,
            ")" if token.kind == TokenKind::Symbol => depth -= 1,
            _ => {}
        }
        let Some(next) = found.get(at + 1).filter(|_| depth == 0) else { continue };
        let starts_argument = at == 0 || [',', '>'].iter().any(|symbol| found[at - 1].is_symbol(*symbol));
        let is_name = matches!(next.kind, TokenKind::Word | TokenKind::QuotedName | TokenKind::String);
        let is_table = token.is_word("table") && (is_name || next.is_symbol('('));
        let is_model = takes_model && token.is_word("model") && is_name;
        if (is_table || is_model) && starts_argument {
            overwrite(text, token, "");
        } else if token.is_word("partition") && next.is_word("by") {
            overwrite(text, token, ",keys");
            overwrite(text, next, "=>");
        }
    }
}

/// Puts `new` and blanks where `token` stands.
fn overwrite(text: &mut Cow<'_, str>, token: &Token, new: &str) {
    let width = token.range.len();
    text.to_mut().replace_range(token.range.clone(), &format!("{new:width$}"));
}

fn rewrite(statement: &mut Statement) -> Result<(), DataFusionError> {
    let mut rewriter = Rewriter;
    let flow = match statement {
        Statement::Statement(statement) => statement.visit(&mut rewriter),
        Statement::Explain(explain) => return rewrite(&mut explain.statement),
        Statement::CopyTo(copy) => match &mut copy.source {
            CopyToSource::Query(query) => query.visit(&mut rewriter),
            CopyToSource::Relation(_) => ControlFlow::Continue(()),
        },
        Statement::CreateExternalTable(_) | Statement::Reset(_) => ControlFlow::Continue(()),
    };
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Rewriter;

impl VisitorMut for Rewriter {
    type Break = DataFusionError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<DataFusionError> {
        group_window::rewrite(query);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<DataFusionError> {
        if let TableFactor::Table { name, alias, args: Some(args), .. } = factor
            && is_table_function(name)
        {
            let expr = Expr::Function(call(name.clone(), std::mem::take(&mut args.args)));
            *factor = TableFactor::TableFunction { expr, alias: alias.take() };
        }
        if let TableFactor::TableFunction { expr: Expr::Function(function), .. } = factor
            && is_table_function(&function.name)
            && let FunctionArguments::List(list) = &mut function.args
            && let Some(expr) = table_argument(&mut list.args)
        {
            let name = match expr {
                Expr::Identifier(name) => ObjectName::from(vec![name.clone()]),
                Expr::CompoundIdentifier(names) => ObjectName::from(names.clone()),
                // A path, as in `FROM 'dir/*.parquet'`.
                Expr::Value(value) => match &value.value {
                    Value::SingleQuotedString(path) => ObjectName::from(vec![Ident::with_quote('\'', path)]),
                    _ => return ControlFlow::Continue(()),
                },
                _ => return ControlFlow::Continue(()),
            };
            match all_of(name) {
                Ok(query) => *expr = Expr::Subquery(query),
                Err(error) => return ControlFlow::Break(error),
            }
        }
        ControlFlow::Continue(())
    }
}

/// The argument `DATA => t` or `INPUT => t`, or the first.
fn table_argument(arguments: &mut [FunctionArg]) -> Option<&mut Expr> {
    let is_name = |name: &str| TABLE_ARGUMENTS.iter().any(|it| it.eq_ignore_ascii_case(name));
    let is_named = |argument: &FunctionArg| match argument {
        FunctionArg::Named { name, .. } => is_name(&name.value),
        FunctionArg::ExprNamed { name: Expr::Identifier(name), .. } => is_name(&name.value),
        FunctionArg::ExprNamed { .. } | FunctionArg::Unnamed(_) => false,
    };
    let position = arguments.iter().position(is_named);
    match arguments.get_mut(position.unwrap_or(0))? {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        FunctionArg::Named { arg: FunctionArgExpr::Expr(expr), .. }
        | FunctionArg::ExprNamed { arg: FunctionArgExpr::Expr(expr), .. }
            if position.is_some() =>
        {
            Some(expr)
        }
        _ => None,
    }
}

/// Which table function over event time a name is.
pub fn event_time_function(name: &ObjectName) -> Option<&'static str> {
    one_of(&EVENT_TIME_FUNCTIONS, name)
}

/// Which table function over a model a name is.
pub fn model_function(name: &ObjectName) -> Option<&'static str> {
    one_of(&MODEL_FUNCTIONS, name)
}

fn is_table_function(name: &ObjectName) -> bool {
    event_time_function(name).is_some() || model_function(name).is_some()
}

fn one_of(functions: &[&'static str], name: &ObjectName) -> Option<&'static str> {
    let [part] = name.0.as_slice() else { return None };
    let ident = part.as_ident()?;
    functions.iter().copied().find(|it| ident.value.eq_ignore_ascii_case(it))
}

fn call(name: ObjectName, args: Vec<FunctionArg>) -> Function {
    let list = FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() };
    Function {
        name,
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(list),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    }
}

/// `SELECT * FROM table`
fn all_of(table: ObjectName) -> Result<Box<Query>, DataFusionError> {
    let dialect = GenericDialect {};
    let mut query = Parser::new(&dialect).try_with_sql("SELECT * FROM t").and_then(|mut it| it.parse_query())?;
    let mut namer = Namer(table);
    // It never breaks off.
    let _ = query.visit(&mut namer);
    Ok(query)
}

struct Namer(ObjectName);

impl VisitorMut for Namer {
    type Break = ();

    fn pre_visit_relation(&mut self, relation: &mut ObjectName) -> ControlFlow<()> {
        relation.clone_from(&self.0);
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::resolve::resolve_table_references;

    use super::*;

    #[test]
    fn overwrites_character_by_character() {
        for (sql, text) in [
            (
                "SELECT * FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), x))",
                "SELECT * FROM TABLE(TUMBLE(      t, DESCRIPTOR(ts), x))",
            ),
            (
                "FROM session(DATA => TABLE \"T\" PARTITION\n BY (a, b), y)",
                "FROM session(DATA =>       \"T\" ,keys    \n => (a, b), y)",
            ),
            (
                "FROM HOP(t, f(TABLE), 'TABLE t') -- TUMBLE(TABLE t",
                "FROM HOP(t, f(TABLE), 'TABLE t') -- TUMBLE(TABLE t",
            ),
            ("TABLE t; SELECT sum(x) OVER (PARTITION BY y)", "TABLE t; SELECT sum(x) OVER (PARTITION BY y)"),
            (
                "FROM ML_PREDICT(TABLE t, MODEL m, f(MODEL x)) JOIN TUMBLE(MODEL a) JOIN ml_predict(MODEL => MODEL 'm@2')",
                "FROM ML_PREDICT(      t,       m, f(MODEL x)) JOIN TUMBLE(MODEL a) JOIN ml_predict(MODEL =>       'm@2')",
            ),
            (
                "FROM ML_EVALUATE(TABLE table, model, DESCRIPTOR(y))",
                "FROM ML_EVALUATE(      table, model, DESCRIPTOR(y))",
            ),
            ("SELECT 'open", "SELECT 'open"),
        ] {
            assert_eq!(accepted_by_the_parser(sql), text);
        }
    }

    #[test]
    fn the_table_inside_a_window_function_is_found() {
        for sql in [
            "SELECT * FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE))",
            "SELECT * FROM TUMBLE(t, ts, INTERVAL '1' MINUTE) AS w",
            "EXPLAIN SELECT * FROM HOP(DATA => TABLE t, TIMECOL => DESCRIPTOR(ts))",
            "SELECT * FROM ML_PREDICT(TABLE t, MODEL m, DESCRIPTOR(a, b))",
            "SELECT * FROM ML_PREDICT(TABLE 't', MODEL 'm')",
            "SELECT * FROM TABLE(ML_EVALUATE(MODEL => MODEL m, INPUT => TABLE t, LABEL => DESCRIPTOR(a)))",
            "COPY (SELECT * FROM SESSION(TABLE t PARTITION BY k, DESCRIPTOR(ts), 1)) TO 'x'",
        ] {
            let statement = parse_statements(sql).unwrap().pop_back().unwrap();
            let (tables, _) = resolve_table_references(&statement, true).unwrap();
            let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
            assert_eq!(names, ["t"], "{sql}");
        }
    }
}
