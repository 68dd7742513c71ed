//! Windows in GROUP BY: `TUMBLE(INTERVAL '1' MINUTE)`, `window(ts, '10 minutes')`, `session_window(ts, '5 minutes')`.
//!
//! In the plan of the SQL they are calls of functions that nobody can run. Here they become a `WindowAssign` under the
//! aggregate, which groups by `window_start` and `window_end`, and a struct of both above it, under the name that the
//! call had.

use std::{collections::HashMap, ops::ControlFlow, sync::Arc};

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use datafusion::{
    common::{
        Column, DFSchema, Result as DataFusionResult, Span,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    error::DataFusionError,
    functions::core::expr_fn::named_struct,
    logical_expr::{
        Aggregate, ColumnarValue, Expr, LogicalPlan, Projection, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
        Signature, TypeSignature, Volatility, expr::ScalarFunction, lit,
    },
    sql::{
        parser::{CopyToSource, Statement},
        sqlparser::ast::{self, FunctionArg, FunctionArgExpr, FunctionArguments, Spanned, Visit, Visitor},
    },
};

use super::{
    SessionAssign, WINDOW_END, WINDOW_START, WindowAssign, WindowKind,
    arguments::{Argument, Function, at, is_literal, zone_of_type},
    event_time,
    node::WINDOW_COLUMNS,
    window_time::WindowTime,
};
use crate::error::Error;

/// A time that is no column, under the window.
const COMPUTED_TIME: &str = "__event_time";

const HERE: &str = "a window stands in GROUP BY, or with its table in FROM";

/// The functions that stand for windows in GROUP BY, and `window_time`.
pub fn functions() -> Vec<Arc<ScalarUDF>> {
    let grouped = Function::ALL.into_iter().filter(|function| *function != Function::Cumulate);
    let grouped = grouped.map(|function| ScalarUDF::new_from_impl(GroupWindow::new(function)));
    grouped.chain([ScalarUDF::new_from_impl(WindowTime::default())]).map(Arc::new).collect()
}

/// A window of a GROUP BY, until `assign_groups` takes its place.
#[derive(Debug, PartialEq, Eq, Hash)]
struct GroupWindow {
    function: Function,
    signature: Signature,
}

impl GroupWindow {
    fn new(function: Function) -> Self {
        let any = TypeSignature::OneOf(vec![TypeSignature::VariadicAny, TypeSignature::Nullary]);
        Self { function, signature: Signature::new(any, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for GroupWindow {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> DataFusionResult<DataType> {
        // Without a time among the arguments, `assign_groups` finds the column and its type.
        let time = types.first().filter(|it| matches!(it, DataType::Timestamp(..)));
        let time = time.cloned().unwrap_or(DataType::Timestamp(TimeUnit::Microsecond, None));
        let bound = |name| Field::new(name, time.clone(), true);
        Ok(DataType::Struct(Fields::from(vec![bound("start"), bound("end")])))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        Err(misplaced(self.function).into())
    }
}

fn misplaced(function: Function) -> Error {
    Error::invalid(format!("{function}() cannot stand here: {HERE}"))
        .help(format!("write GROUP BY {}", function.usage("time, ")))
}

/// The window that a call stands for.
fn group_window(expr: &Expr) -> Option<(Function, &[Expr])> {
    match expr {
        Expr::Alias(alias) => group_window(&alias.expr),
        Expr::ScalarFunction(ScalarFunction { func, args }) => {
            Some((func.inner().downcast_ref::<GroupWindow>()?.function, args))
        }
        _ => None,
    }
}

/// Where the windows of a statement are written.
#[derive(Debug, Default)]
pub struct Calls(Vec<Call>);

#[derive(Debug)]
struct Call {
    function: Function,
    span: Option<Span>,
    arguments: Vec<Option<Span>>,
}

impl Calls {
    /// The calls in `statement`.
    pub fn of(statement: &Statement) -> Self {
        let mut calls = Self::default();
        let flow = match statement {
            Statement::Statement(statement) => statement.visit(&mut calls),
            Statement::Explain(explain) => return Self::of(&explain.statement),
            Statement::CopyTo(copy) => match &copy.source {
                CopyToSource::Query(query) => query.visit(&mut calls),
                CopyToSource::Relation(_) => return calls,
            },
            Statement::CreateExternalTable(_) | Statement::Reset(_) => return calls,
        };
        match flow {
            ControlFlow::Continue(()) | ControlFlow::Break(()) => calls,
        }
    }

    fn call(&self, function: Function) -> Option<&Call> {
        self.0.iter().find(|call| call.function == function)
    }

    fn span(&self, function: Function) -> Option<Span> {
        self.call(function).and_then(|call| call.span)
    }
}

impl Visitor for Calls {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &ast::Expr) -> ControlFlow<()> {
        if let ast::Expr::Function(call) = expr
            && let [part] = call.name.0.as_slice()
            && let Some(function) = part.as_ident().and_then(|name| Function::named(&name.value))
            && let FunctionArguments::List(list) = &call.args
        {
            let arguments = list.args.iter().filter_map(|argument| match argument {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
                _ => None,
            });
            // With a table it stands in FROM.
            if !arguments.clone().any(|argument| matches!(argument, ast::Expr::Subquery(_))) {
                let arguments = arguments.map(|argument| Span::try_from_sqlparser_span(argument.span())).collect();
                let span = Span::try_from_sqlparser_span(call.name.span());
                self.0.push(Call { function, span, arguments });
            }
        }
        ControlFlow::Continue(())
    }
}

/// Puts the windows of each GROUP BY under its aggregate.
///
/// # Errors
/// `Invalid` or `Unsupported`, at its place, for a window that is none, and for one that stands elsewhere.
pub fn assign_groups(plan: LogicalPlan, calls: &Calls) -> DataFusionResult<LogicalPlan> {
    if calls.0.is_empty() && find(&plan)?.is_none() {
        return Ok(plan);
    }
    let assigned = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Aggregate(aggregate) if aggregate.group_expr.iter().any(|it| group_window(it).is_some()) => {
            Ok(Transformed::yes(assign(aggregate, calls)?))
        }
        // The window's columns may have another type than was thought before.
        other => Ok(Transformed::yes(other.recompute_schema()?)),
    })?;
    match find(&assigned.data)? {
        Some(function) => Err(at(misplaced(function), calls.span(function))),
        None => Ok(assigned.data),
    }
}

/// A call that is left in a plan.
fn find(plan: &LogicalPlan) -> DataFusionResult<Option<Function>> {
    let mut found = None;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                found = found.or(group_window(expr).map(|(function, _)| function));
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(found)
}

/// The aggregate over its window.
fn assign(aggregate: Aggregate, calls: &Calls) -> DataFusionResult<LogicalPlan> {
    let mut windows = aggregate.group_expr.iter().enumerate().filter_map(|(at, expr)| Some((at, group_window(expr)?)));
    let Some((position, (function, args))) = windows.next() else {
        return Ok(LogicalPlan::Aggregate(aggregate));
    };
    let span = calls.span(function);
    if windows.next().is_some() {
        let error = Error::unsupported("a GROUP BY has one window");
        return Err(at(error.help("make the other one in a subquery"), span));
    }
    let schema = aggregate.input.schema();
    let (time, measures) = match args.split_first() {
        Some((time, measures)) if !is_literal(time) => (Some(time.clone()), measures),
        _ => (None, args),
    };
    let time = match time {
        Some(time) => time,
        None => Expr::Column(event_time(schema).map_err(|error| at(error, span))?),
    };
    let spans: &[Option<Span>] = calls.call(function).map_or(&[], |call| &call.arguments);
    let skipped = args.len() - measures.len();
    let measures = measures.iter().enumerate().map(|(index, value)| Argument {
        name: None,
        value: value.clone(),
        span: spans.get(index + skipped).copied().flatten(),
    });
    let measures: Vec<Argument> = measures.collect();
    let time_type = datafusion::logical_expr::ExprSchemable::get_type(&time, schema.as_ref())?;
    let spec = function.spec(&measures, zone_of_type(&time_type), span, "time, ")?;
    let time_span = if skipped > 0 { spans.first().copied().flatten().or(span) } else { span };

    let under = Under::new(&aggregate.input, time)?;
    let mut groups = under.renamed_all(&aggregate.group_expr)?;
    groups.remove(position);
    let input = if spec.kind == WindowKind::Session {
        let keys = groups.iter().map(|key| key.clone().unalias()).collect();
        SessionAssign::try_new(under.input.clone(), under.time.clone(), spec.size_us, keys)
            .map(SessionAssign::into_plan)
    } else {
        WindowAssign::try_new(under.input.clone(), under.time.clone(), spec).map(WindowAssign::into_plan)
    };
    let input = input.map_err(|error| at(error, time_span))?;
    for (offset, name) in [WINDOW_START, WINDOW_END].into_iter().enumerate() {
        groups.insert(position + offset, Expr::Column(Column::new_unqualified(name)));
    }
    let aggregates = under.renamed_all(&aggregate.aggr_expr)?;
    let grouped = Aggregate::try_new(Arc::new(input), groups, aggregates)?;
    restored(grouped, &aggregate.schema, position)
}

/// A projection with the names that the aggregate had.
fn restored(grouped: Aggregate, wanted: &DFSchema, position: usize) -> DataFusionResult<LogicalPlan> {
    let found = Arc::clone(&grouped.schema);
    let columns = wanted.iter().enumerate().map(|(index, (qualifier, field))| {
        let column = |index: usize| Column::from(found.qualified_field(index));
        if index == position {
            let bounds = [column(index), column(index + 1)].map(Expr::Column);
            let [start, end] = bounds;
            return named_struct(vec![lit("start"), start, lit("end"), end])
                .alias_qualified(qualifier.cloned(), field.name());
        }
        let column = column(if index < position { index } else { index + 1 });
        if column.relation.as_ref() == qualifier && column.name == *field.name() {
            return Expr::Column(column);
        }
        Expr::Column(column).alias_qualified(qualifier.cloned(), field.name())
    });
    let columns = columns.collect();
    Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(LogicalPlan::Aggregate(grouped)))?))
}

/// The input of a window, in which no column has the name of one of the window's, and the time is a column.
struct Under {
    input: Arc<LogicalPlan>,
    time: Column,
    renamed: HashMap<Column, Column>,
}

impl Under {
    fn new(input: &Arc<LogicalPlan>, time: Expr) -> DataFusionResult<Self> {
        let mut renamed = HashMap::new();
        let mut columns = Vec::with_capacity(input.schema().fields().len() + 1);
        for (index, field) in input.schema().iter().enumerate() {
            let column = Column::from(field);
            let expr = Expr::Column(column.clone());
            if WINDOW_COLUMNS.contains(&column.name.as_str()) {
                let name = format!("__input_{index}_{}", column.name);
                columns.push(expr.alias(&name));
                renamed.insert(column, Column::new_unqualified(name));
            } else {
                columns.push(expr);
            }
        }
        let time = match time {
            Expr::Column(column) => renamed.get(&column).cloned().unwrap_or(column),
            other => {
                columns.push(other.alias(COMPUTED_TIME));
                Column::new_unqualified(COMPUTED_TIME)
            }
        };
        let is_same = renamed.is_empty() && columns.len() == input.schema().fields().len();
        let input = if is_same {
            Arc::clone(input)
        } else {
            Arc::new(LogicalPlan::Projection(Projection::try_new(columns, Arc::clone(input))?))
        };
        Ok(Self { input, time, renamed })
    }

    fn renamed_all(&self, exprs: &[Expr]) -> DataFusionResult<Vec<Expr>> {
        let rename = |expr: Expr| match &expr {
            Expr::Column(column) => match self.renamed.get(column) {
                Some(other) => Ok(Transformed::yes(Expr::Column(other.clone()))),
                None => Ok(Transformed::no(expr)),
            },
            _ => Ok::<_, DataFusionError>(Transformed::no(expr)),
        };
        exprs.iter().map(|expr| Ok(expr.clone().transform(rename)?.data)).collect()
    }
}
