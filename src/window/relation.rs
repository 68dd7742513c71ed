//! Window functions in FROM: `TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE)` and its kin.

use std::sync::Arc;

use datafusion::{
    common::{Column, DFSchema, ExprSchema, Result as DataFusionResult, Span},
    error::DataFusionError,
    logical_expr::{
        Expr, LogicalPlan,
        planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning},
    },
    sql::sqlparser::ast::{self, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Spanned, TableFactor},
};

use super::{
    SessionAssign, WindowAssign, WindowKind,
    arguments::{Argument, Function, at, zone_of_type},
    event_time,
};
use crate::{
    catalog::{KEYS_ARGUMENT, TABLE_ARGUMENTS, window_function},
    error::{Error, nearest},
};

const BEFORE: &str = "TABLE t, DESCRIPTOR(time), ";

/// Plans window functions in FROM.
#[derive(Debug)]
pub struct WindowRelations;

impl RelationPlanner for WindowRelations {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> DataFusionResult<RelationPlanning> {
        let TableFactor::TableFunction { expr: ast::Expr::Function(call), alias } = &relation else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let Some(function) = window_function(&call.name).and_then(Function::named) else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let plan = Call::read(function, call)?.plan(context)?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias.clone()))))
    }
}

/// A call, its arguments sorted by what they are.
struct Call {
    function: Function,
    span: Option<Span>,
    data: ast::Expr,
    time: Option<ast::Expr>,
    keys: Vec<ast::Expr>,
    measures: Vec<(Option<String>, ast::Expr)>,
}

impl Call {
    fn read(function: Function, call: &ast::Function) -> DataFusionResult<Self> {
        let span = Span::try_from_sqlparser_span(call.name.span());
        let usage = || format!("write {}", function.usage(BEFORE));
        let wrong = |message: String| at(Error::invalid(message).help(usage()), span);
        let FunctionArguments::List(list) = &call.args else {
            return Err(wrong(format!("{function} needs a table")));
        };
        let mut arguments = list.args.iter().map(|argument| named(argument, &wrong)).collect::<Result<Vec<_>, _>>()?;
        // By name, the table may stand anywhere; otherwise it is the first.
        let is_data = |name: &Option<String>| name.as_deref() == Some(TABLE_ARGUMENTS[0]);
        let data = arguments.iter().position(|(name, _)| is_data(name)).unwrap_or(0);
        if arguments.get(data).is_none_or(|(_, value)| !matches!(value, ast::Expr::Subquery(_))) {
            return Err(wrong(format!("the first argument of {function} is a table")));
        }
        let (_, data) = arguments.remove(data);
        let mut read = Self { function, span, data, time: None, keys: Vec::new(), measures: Vec::new() };
        let mut in_keys = false;
        for (name, value) in arguments {
            let is_descriptor = descriptor(&value).is_some();
            in_keys = (in_keys && name.is_none() && !is_descriptor) || name.as_deref() == Some(KEYS_ARGUMENT);
            if in_keys {
                match value {
                    ast::Expr::Tuple(keys) => read.keys.extend(keys),
                    ast::Expr::Nested(key) => read.keys.push(*key),
                    key => read.keys.push(key),
                }
                continue;
            }
            let is_time = match name.as_deref() {
                Some(name) => name == "timecol",
                None => read.time.is_none() && read.measures.is_empty() && (is_descriptor || is_column(&value)),
            };
            if is_time {
                read.time = Some(value);
            } else {
                read.measures.push((name, value));
            }
        }
        if function != Function::Session && !read.keys.is_empty() {
            let error = Error::unsupported(format!("{function} has no PARTITION BY: each row has its windows"));
            return Err(at(error.help("GROUP BY window_start, window_end and the key"), span));
        }
        Ok(read)
    }

    fn plan(self, context: &mut dyn RelationPlannerContext) -> DataFusionResult<LogicalPlan> {
        let ast::Expr::Subquery(subquery) = self.data else {
            return Err(Error::internal("the table of a window function is a subquery").into());
        };
        let input = context.plan(TableFactor::Derived { lateral: false, subquery, alias: None, sample: None })?;
        let schema = Arc::clone(input.schema());
        let (time, time_span) = match &self.time {
            None => (event_time(&schema).map_err(|error| at(error, self.span))?, self.span),
            Some(time) => {
                let time = match descriptor(time).as_deref() {
                    None => time,
                    Some([column]) => column,
                    Some(_) => return Err(at(Error::invalid("DESCRIPTOR takes one column here"), span_of(time))),
                };
                (column(time, &schema, context)?, span_of(time))
            }
        };
        let keys = self.keys.iter().map(|key| Ok(Expr::Column(column(key, &schema, context)?)));
        let keys = keys.collect::<DataFusionResult<Vec<_>>>()?;
        let empty = DFSchema::empty();
        let mut measures = Vec::with_capacity(self.measures.len());
        for (name, value) in self.measures {
            let span = span_of(&value);
            let is_written = is_column(&value) || descriptor(&value).is_some();
            if is_written {
                let error = Error::invalid(format!("'{value}' stands where {} has a duration", self.function));
                return Err(at(error.help(format!("write {}", self.function.usage(BEFORE))), span));
            }
            measures.push(Argument { name, value: context.sql_to_expr(value, &empty)?, span });
        }
        let zone = zone_of_type(schema.field_from_column(&time)?.data_type());
        let spec = self.function.spec(&measures, zone, self.span, BEFORE)?;
        let input = Arc::new(input);
        let plan = if spec.kind == WindowKind::Session {
            SessionAssign::try_new(input, time, spec.size_us, keys).map(SessionAssign::into_plan)
        } else {
            WindowAssign::try_new(input, time, spec).map(WindowAssign::into_plan)
        };
        plan.map_err(|error| at(error, time_span))
    }
}

/// An argument with its name in lower case.
///
/// # Errors
/// What `wrong` makes of an argument that is none.
pub fn named(
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

fn is_column(expr: &ast::Expr) -> bool {
    matches!(expr, ast::Expr::Identifier(_) | ast::Expr::CompoundIdentifier(_))
}

/// Where an expression stands in the SQL.
pub fn span_of(expr: &ast::Expr) -> Option<Span> {
    Span::try_from_sqlparser_span(expr.span())
}

/// The column of the input that an expression names.
///
/// # Errors
/// `Invalid` at its place, with the nearest name; `Unsupported` for what is no column.
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
