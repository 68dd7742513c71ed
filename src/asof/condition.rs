//! The condition of an as-of join: keys that are equal, and a time of the left side that is not before one of the right.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::{
    common::{
        DFSchema, JoinType, Result as DataFusionResult, Span,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    error::DataFusionError,
    logical_expr::{
        BinaryExpr, ColumnarValue, Expr, ExprSchemable, Join, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDF,
        ScalarUDFImpl, Signature, TypeSignature, Volatility, cast, expr::ScalarFunction, utils::split_conjunction,
    },
};

use super::node::AsofJoin;
use crate::{catalog::ASOF_MATCH, error::Error};

const HOW: &str = "write FROM trades t ASOF JOIN quotes q MATCH_CONDITION (t.ts >= q.ts) ON t.symbol = q.symbol";

/// The function that marks the condition of an `ASOF JOIN`, until `place` takes it away.
pub fn functions() -> Vec<Arc<ScalarUDF>> {
    vec![Arc::new(ScalarUDF::new_from_impl(AsofMatch::default()))]
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct AsofMatch {
    signature: Signature,
}

impl Default for AsofMatch {
    fn default() -> Self {
        let any = TypeSignature::OneOf(vec![TypeSignature::Any(1), TypeSignature::Nullary]);
        Self { signature: Signature::new(any, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for AsofMatch {
    fn name(&self) -> &str {
        ASOF_MATCH
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        Err(Error::invalid("an ASOF JOIN whose condition is not one of keys and times, with AND between them")
            .help(HOW)
            .into())
    }
}

/// What stands in the mark, if `expr` is one.
fn marked(expr: &Expr) -> Option<&[Expr]> {
    match expr {
        Expr::ScalarFunction(ScalarFunction { func, args }) if func.inner().downcast_ref::<AsofMatch>().is_some() => {
            Some(args)
        }
        _ => None,
    }
}

/// `plan` with as-of joins for the joins that are marked.
///
/// # Errors
/// `Invalid` for a condition that is none of an as-of join, at its place.
pub fn place(plan: LogicalPlan) -> DataFusionResult<LogicalPlan> {
    let placed = plan.transform_up_with_subqueries(|node| match &node {
        LogicalPlan::Join(join) if is_marked(join)? => Ok(Transformed::yes(asof(join)?.into_plan())),
        _ => Ok(Transformed::no(node)),
    })?;
    Ok(placed.data)
}

fn is_marked(join: &Join) -> DataFusionResult<bool> {
    let mut found = false;
    if let Some(filter) = &join.filter {
        filter.apply(|expr| {
            found |= marked(expr).is_some();
            Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })?;
    }
    Ok(found)
}

fn asof(join: &Join) -> DataFusionResult<AsofJoin> {
    let outer = match join.join_type {
        JoinType::Inner => false,
        JoinType::Left => true,
        other => {
            return Err(Error::invalid(format!("ASOF {other} JOIN")).help("write ASOF JOIN or ASOF LEFT JOIN").into());
        }
    };
    let (left, right) = (join.left.schema(), join.right.schema());
    let (mut keys, mut matches) = (Vec::new(), Vec::new());
    let pairs = join.on.iter().map(|(left, right)| left.clone().eq(right.clone())).collect::<Vec<_>>();
    for condition in pairs.iter().chain(join.filter.iter().flat_map(split_conjunction)) {
        match marked(condition) {
            Some([only]) => matches.push(only),
            Some(_) => {}
            None => match condition {
                Expr::BinaryExpr(BinaryExpr { left: a, op: Operator::Eq, right: b }) => {
                    keys.push(sides((a, b), (left, right)).ok_or_else(|| odd(condition))?);
                }
                other => matches.push(other),
            },
        }
    }
    if keys.is_empty() {
        return Err(Error::invalid("an ASOF JOIN without a key: nothing says which rows belong together")
            .help(HOW)
            .into());
    }
    let [only] = matches[..] else {
        return Err(match matches.get(1) {
            Some(second) => odd(second),
            None => Error::invalid("an ASOF JOIN without a comparison of times").help(HOW).into(),
        });
    };
    let (times, strict) = times(only, (left, right))?;
    let keys = keys.into_iter().map(|(a, b)| of_one_type((a, b), (left, right), only));
    let keys = keys.collect::<DataFusionResult<Vec<_>>>()?;
    let times = of_one_type(times, (left, right), only)?;
    AsofJoin::try_new((Arc::clone(&join.left), Arc::clone(&join.right)), keys, times, (strict, outer))
}

type Schemas<'a> = (&'a DFSchema, &'a DFSchema);

/// `a` and `b` as an expression of the left side and one of the right side.
fn sides((a, b): (&Expr, &Expr), (left, right): Schemas<'_>) -> Option<(Expr, Expr)> {
    let is_of = |expr: &Expr, schema: &DFSchema| {
        let columns = expr.column_refs();
        !columns.is_empty() && columns.into_iter().all(|column| schema.is_column_from_schema(column))
    };
    if is_of(a, left) && is_of(b, right) {
        return Some((a.clone(), b.clone()));
    }
    (is_of(b, left) && is_of(a, right)).then(|| (b.clone(), a.clone()))
}

/// The two times, and whether the right one must be older.
fn times(condition: &Expr, schemas: Schemas<'_>) -> DataFusionResult<((Expr, Expr), bool)> {
    let Expr::BinaryExpr(BinaryExpr { left: a, op, right: b }) = condition else { return Err(odd(condition)) };
    let Some((left, right)) = sides((a, b), schemas) else { return Err(odd(condition)) };
    let op = if left == **a { Some(*op) } else { op.swap() };
    match op {
        Some(Operator::GtEq) => Ok(((left, right), false)),
        Some(Operator::Gt) => Ok(((left, right), true)),
        Some(Operator::LtEq | Operator::Lt) => {
            let error = Error::invalid(format!("{condition} in an ASOF JOIN looks for the next row, not for the last"));
            Err(at(error.help(format!("write {left} >= {right}, or let the tables change places")), condition))
        }
        _ => Err(odd(condition)),
    }
}

fn of_one_type((a, b): (Expr, Expr), (left, right): Schemas<'_>, condition: &Expr) -> DataFusionResult<(Expr, Expr)> {
    use datafusion::logical_expr::type_coercion::binary::comparison_coercion;
    let (a_type, b_type) = (a.get_type(left)?, b.get_type(right)?);
    if a_type == b_type {
        return Ok((a, b));
    }
    let Some(common) = comparison_coercion(&a_type, &b_type) else {
        let error = Error::invalid(format!("{a} is {a_type} and {b} is {b_type}: they cannot be compared"));
        return Err(at(error.help("CAST one of them to the type of the other"), condition));
    };
    let as_common = |expr: Expr, known: &DataType| if *known == common { expr } else { cast(expr, common.clone()) };
    Ok((as_common(a, &a_type), as_common(b, &b_type)))
}

/// A condition that stands for nothing in an as-of join.
fn odd(condition: &Expr) -> DataFusionError {
    let error = Error::invalid(format!("{condition} in the condition of an ASOF JOIN"));
    let help = "only keys that are equal and one comparison of times, with AND between them; filter the sides in \
                subqueries, ASOF JOIN (SELECT ... WHERE ...) q, and the pairs in WHERE";
    at(error.help(help), condition)
}

/// The error, at the first column of the condition.
fn at(error: Error, condition: &Expr) -> DataFusionError {
    let mut span: Option<Span> = None;
    // The closure cannot fail.
    let _ = condition.apply(|expr| {
        span = span.or_else(|| expr.spans().and_then(|spans| spans.first()));
        Ok(TreeNodeRecursion::Continue)
    });
    crate::window::at(error, span)
}
