//! A call of a table function, `F(TABLE t PARTITION BY k, DESCRIPTOR(ts), ...)`, as it was written.

use datafusion::{
    common::{Column, DFSchema, Result as DataFusionResult, Span},
    error::DataFusionError,
    logical_expr::{Expr, LogicalPlan, planner::RelationPlannerContext},
    sql::sqlparser::ast::{self, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Spanned, TableFactor},
};

use super::arguments::at;
use crate::{
    catalog::{KEYS_ARGUMENT, TABLE_ARGUMENTS},
    error::{Error, nearest},
};

/// The parts of a call, by what they are.
#[derive(Debug)]
pub struct TableCall {
    /// How the whole call is written.
    pub usage: String,
    pub span: Option<Span>,
    data: Box<ast::Query>,
    /// Those of PARTITION BY.
    pub keys: Vec<ast::Expr>,
    /// All others in their order, with their names in lower case.
    pub others: Arguments,
}

impl TableCall {
    /// Reads the call of the function that is written `function`, and its call `usage`.
    ///
    /// # Errors
    /// `Invalid` at the call if there is no table in it.
    pub fn read(function: String, usage: String, call: &ast::Function) -> DataFusionResult<Self> {
        let span = Span::try_from_sqlparser_span(call.name.span());
        let wrong = |message: String| at(Error::invalid(message).help(format!("write {usage}")), span);
        let (data, arguments) = arguments(call, (&function, "a table"), TABLE_ARGUMENTS[0], &wrong)?;
        let (mut keys, mut others) = (Vec::new(), Vec::new());
        let mut in_keys = false;
        for (name, value) in arguments {
            let is_named_keys = name.as_deref() == Some(KEYS_ARGUMENT);
            // Without parentheses the keys end where something else than a column stands.
            in_keys = (in_keys && name.is_none() && is_column(&value)) || is_named_keys;
            match value {
                ast::Expr::Tuple(tuple) if in_keys => keys.extend(tuple),
                ast::Expr::Nested(key) if in_keys => keys.push(*key),
                key if in_keys => keys.push(key),
                other => others.push((name, other)),
            }
        }
        Ok(Self { usage, span, data, keys, others })
    }

    /// The plan of its table.
    ///
    /// # Errors
    /// DataFusion's.
    pub fn input(&self, context: &mut dyn RelationPlannerContext) -> DataFusionResult<LogicalPlan> {
        plan_table(self.data.clone(), context)
    }

    /// The columns of PARTITION BY.
    ///
    /// # Errors
    /// `Invalid` or `Unsupported` at the key that is no column of the table.
    pub fn key_columns(
        &self,
        schema: &DFSchema,
        context: &mut dyn RelationPlannerContext,
    ) -> DataFusionResult<Vec<Column>> {
        self.keys.iter().map(|key| column(key, schema, context)).collect()
    }

    /// The column that `DESCRIPTOR(column)`, or the column itself, names.
    ///
    /// # Errors
    /// As `key_columns`.
    pub fn time_column(
        &self,
        time: &ast::Expr,
        schema: &DFSchema,
        context: &mut dyn RelationPlannerContext,
    ) -> DataFusionResult<Column> {
        let time = match descriptor(time).as_deref() {
            None => time,
            Some([column]) => column,
            Some(_) => return Err(at(Error::invalid("DESCRIPTOR takes one column here"), span_of(time))),
        };
        column(time, schema, context)
    }

    /// An error with the way in which the call is written, at `span` or else at the call.
    pub fn wrong(&self, message: impl Into<String>, span: Option<Span>) -> DataFusionError {
        at(Error::invalid(message).help(format!("write {}", self.usage)), span.or(self.span))
    }
}

/// The arguments of a call, with their names in lower case.
pub type Arguments = Vec<(Option<String>, ast::Expr)>;

/// The table of a call, and its other arguments in their order. By name, `table`, the table may stand anywhere; otherwise
/// it is the first. The function is written `function`, and `needs` this.
///
/// # Errors
/// What `wrong` makes of a call without a table, or of an argument that is none.
pub fn arguments(
    call: &ast::Function,
    (function, needs): (&str, &str),
    table: &str,
    wrong: &impl Fn(String) -> DataFusionError,
) -> DataFusionResult<(Box<ast::Query>, Arguments)> {
    let FunctionArguments::List(list) = &call.args else {
        return Err(wrong(format!("{function} needs {needs}")));
    };
    let mut arguments = list.args.iter().map(|argument| named(argument, wrong)).collect::<Result<Arguments, _>>()?;
    let at = arguments.iter().position(|(name, _)| name.as_deref() == Some(table)).unwrap_or(0);
    match arguments.get(at) {
        Some((_, ast::Expr::Subquery(data))) => {
            let data = data.clone();
            arguments.remove(at);
            Ok((data, arguments))
        }
        _ => Err(wrong(format!("the first argument of {function} is a table"))),
    }
}

/// The plan of the table of a call.
///
/// # Errors
/// DataFusion's.
pub fn plan_table(
    subquery: Box<ast::Query>,
    context: &mut dyn RelationPlannerContext,
) -> DataFusionResult<LogicalPlan> {
    context.plan(TableFactor::Derived { lateral: false, subquery, alias: None, sample: None })
}

/// An argument with its name in lower case.
///
/// # Errors
/// What `wrong` makes of an argument that is none.
fn named(
    argument: &FunctionArg,
    wrong: &impl Fn(String) -> DataFusionError,
) -> DataFusionResult<(Option<String>, ast::Expr)> {
    let (name, value) = match argument {
        FunctionArg::Named { name, arg, .. } => (Some(name.value.to_lowercase()), arg),
        FunctionArg::ExprNamed { name: ast::Expr::Identifier(name), arg, .. } => (Some(name.value.to_lowercase()), arg),
        FunctionArg::Unnamed(arg) => (None, arg),
        FunctionArg::ExprNamed { .. } => return Err(wrong(format!("'{argument}' is no argument"))),
    };
    match value {
        FunctionArgExpr::Expr(value) => Ok((name, value.clone())),
        _ => Err(wrong(format!("'{argument}' is no argument"))),
    }
}

/// The columns of `DESCRIPTOR(column)`.
pub fn descriptor(expr: &ast::Expr) -> Option<Vec<&ast::Expr>> {
    let ast::Expr::Function(function) = expr else { return None };
    let [part] = function.name.0.as_slice() else { return None };
    if !part.as_ident()?.value.eq_ignore_ascii_case("descriptor") {
        return None;
    }
    let FunctionArguments::List(list) = &function.args else { return Some(Vec::new()) };
    let columns = list.args.iter().filter_map(|argument| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    });
    Some(columns.collect())
}

/// Is it a name?
pub fn is_column(expr: &ast::Expr) -> bool {
    matches!(expr, ast::Expr::Identifier(_) | ast::Expr::CompoundIdentifier(_))
}

/// Where it stands.
pub fn span_of(expr: &ast::Expr) -> Option<Span> {
    Span::try_from_sqlparser_span(expr.span())
}

/// The column of the input that an expression names.
///
/// # Errors
/// `Invalid` with the nearest name, or `Unsupported` for what is no name, at its place.
pub fn column(
    expr: &ast::Expr,
    schema: &DFSchema,
    context: &mut dyn RelationPlannerContext,
) -> DataFusionResult<Column> {
    let span = span_of(expr);
    let name = match expr {
        ast::Expr::Identifier(name) => name,
        ast::Expr::CompoundIdentifier(names) => match names.last() {
            Some(name) => name,
            None => return Err(at(Error::internal("a name of no parts"), span)),
        },
        _ => {
            let error = Error::unsupported(format!("'{expr}' is no column of the table"));
            return Err(at(error.help("give the expression a name in a subquery, and use that"), span));
        }
    };
    let wanted = context.normalize_ident(name.clone());
    if schema.qualified_fields_with_unqualified_name(&wanted).is_empty() {
        return Err(at(unknown(name, &wanted, schema), span));
    }
    match context.sql_to_expr(expr.clone(), schema)? {
        Expr::Column(column) => Ok(column),
        other => Err(at(Error::unsupported(format!("'{other}' is no column of the table")), span)),
    }
}

fn unknown(name: &Ident, wanted: &str, schema: &DFSchema) -> Error {
    let error = Error::invalid(format!("there is no column '{}'", name.value));
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    if let Some(same) = names.iter().find(|it| it.eq_ignore_ascii_case(wanted)) {
        return error.help(format!("write \"{same}\" in double quotes: without them a name is read in lower case"));
    }
    match nearest(wanted, names.iter().copied()) {
        Some(near) => error.help(format!("did you mean '{near}'?")),
        None => error.help(format!("the columns are {}", names.join(", "))),
    }
}
