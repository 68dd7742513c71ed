//! `predict('sell_price', x1, x2, ..)` in SQL: a saved model as a scalar function.
//!
//! The model is looked up when the query is optimised, and the call replaced by one that holds it. A query sees one
//! version, whatever is promoted meanwhile; a stream one in each batch (`serving.rs`).

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, AsArray},
    datatypes::{DataType, Schema},
};
use datafusion::{
    common::{
        Result as DataFusionResult, ScalarValue, plan_err,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    error::DataFusionError,
    logical_expr::{
        ColumnarValue, Expr, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
        simplify::{ExprSimplifyResult, SimplifyContext},
    },
    prelude::SessionContext,
};

use super::{
    artifact::Model,
    columns::Column,
    predict::Predictor,
    relation::ModelRelations,
    serving::{Models, Served},
};
use crate::error::{Error, ErrorKind, Result};

/// Teaches a session `predict`, `ML_PREDICT` and `ML_EVALUATE` over these models.
pub fn register(context: &SessionContext, models: &Arc<Models>) -> DataFusionResult<()> {
    context.register_udf(predict(models));
    context.register_relation_planner(Arc::new(ModelRelations::new(models)))
}

/// The function.
pub fn predict(models: &Arc<Models>) -> ScalarUDF {
    // A stream exchanges the version in the plan, which need not be optimised for each batch.
    let volatility = if models.keeps() { Volatility::Immutable } else { Volatility::Stable };
    ScalarUDF::from(Predict { models: Arc::clone(models), signature: Signature::variadic_any(volatility) })
}

/// The models that an optimised plan predicts with, each once.
///
/// # Errors
/// DataFusion's.
pub fn models_of(plan: &LogicalPlan) -> DataFusionResult<Vec<Arc<Served>>> {
    let mut found: Vec<Arc<Served>> = Vec::new();
    let mut look = |expr: &Expr| {
        if let Expr::ScalarFunction(call) = expr
            && let Some(bound) = call.func.inner().downcast_ref::<Bound>()
            && !found.iter().any(|served| served.name == bound.served.name)
        {
            found.push(Arc::clone(&bound.served));
        }
        Ok(TreeNodeRecursion::Continue)
    };
    plan.apply_with_subqueries(|node| node.apply_expressions(|expr| expr.apply(&mut look)))?;
    Ok(found)
}

/// As it stands in SQL: its first argument names the model.
#[derive(Debug)]
struct Predict {
    models: Arc<Models>,
    signature: Signature,
}

impl PartialEq for Predict {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.models, &other.models)
    }
}

impl Eq for Predict {}

impl Hash for Predict {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.models).hash(state);
    }
}

impl ScalarUDFImpl for Predict {
    fn name(&self) -> &str {
        "predict"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Float64)
    }

    fn simplify(&self, mut args: Vec<Expr>, info: &SimplifyContext) -> DataFusionResult<ExprSimplifyResult> {
        let Some(Expr::Literal(
            ScalarValue::Utf8(Some(name)) | ScalarValue::Utf8View(Some(name)) | ScalarValue::LargeUtf8(Some(name)),
            _,
        )) = args.first()
        else {
            return plan_err!("predict takes the model's name as a text in quotes: predict('sell_price', x1, x2)");
        };
        let served = self.models.find(name)?;
        let types: Vec<DataType> =
            args[1..].iter().map(|arg| info.get_data_type(arg)).collect::<DataFusionResult<_>>()?;
        let mut bound = Bound::new(served, &types)?;
        if self.models.keeps() && !args[1..].iter().any(Expr::any_column_refs) {
            // A constant would be folded into the plan, and stay when the version changes.
            bound.signature.volatility = Volatility::Volatile;
        }
        args.remove(0);
        let call = datafusion::logical_expr::expr::ScalarFunction::new_udf(Arc::new(ScalarUDF::from(bound)), args);
        Ok(ExprSimplifyResult::Simplified(Expr::ScalarFunction(call)))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        plan_err!("predict takes the model's name as a text in quotes: predict('sell_price', x1, x2)")
    }
}

/// A model in a plan.
#[derive(Debug)]
struct Bound {
    /// `predict@sell_price@2`; in a stream `predict@sell_price`.
    name: String,
    served: Arc<Served>,
    /// Of a struct, the fields to take; else the arguments are the features. Each version has the same features.
    fields: Option<Vec<usize>>,
    signature: Signature,
}

impl PartialEq for Bound {
    fn eq(&self, other: &Self) -> bool {
        self.served.key == other.served.key && self.fields == other.fields
    }
}

impl Eq for Bound {}

impl Hash for Bound {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.served.key.hash(state);
        self.fields.hash(state);
    }
}

impl Bound {
    fn new(served: Arc<Served>, types: &[DataType]) -> Result<Self> {
        let version = served.current();
        let (model, reference) = (&version.stored.model, version.label());
        let fields = match types {
            [DataType::Struct(fields)] => {
                let schema = Schema::new(fields.clone());
                Predictor::new(model, &schema, None)
                    .map_err(|error| error.context(format!("the model {reference}")))?;
                Some(
                    model
                        .features
                        .iter()
                        .map(|feature| schema.index_of(&feature.name))
                        .collect::<std::result::Result<_, _>>()?,
                )
            }
            _ => {
                check_arguments(model, &reference, types)?;
                None
            }
        };
        Ok(Self {
            name: format!("predict@{}", served.label()),
            served,
            fields,
            signature: Signature::variadic_any(Volatility::Immutable),
        })
    }
}

/// Arguments have no names: their number and kinds are all that can be checked.
fn check_arguments(model: &Model, reference: &str, types: &[DataType]) -> Result<()> {
    let shown: Vec<String> =
        model.features.iter().map(|feature| format!("{} {}", feature.name, feature.data_type)).collect();
    let shown = shown.join(", ");
    if types.len() != model.features.len() {
        return Err(Error::invalid(format!(
            "the model {reference} has {} features, and predict was given {}",
            model.features.len(),
            types.len()
        ))
        .help(format!("give them in this order: {shown}")));
    }
    let fits = |feature: &Column, found: &DataType| {
        let is_number = found.is_numeric() || matches!(found, DataType::Boolean | DataType::Null);
        let is_text = matches!(found, DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 | DataType::Null);
        if feature.vocabulary.is_some() { is_text } else { is_number }
    };
    match model.features.iter().zip(types).find(|(feature, found)| !fits(feature, found)) {
        None => Ok(()),
        Some((feature, found)) => Err(Error::invalid(format!(
            "the feature '{}' of the model {reference} is {}, and predict was given {found}",
            feature.name, feature.data_type
        ))
        .help(format!("give the features in this order: {shown}"))),
    }
}

impl ScalarUDFImpl for Bound {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let rows = args.number_rows;
        let arrays: Vec<ArrayRef> = args.args.iter().map(|arg| arg.to_array(rows)).collect::<DataFusionResult<_>>()?;
        let features = match &self.fields {
            None => arrays,
            Some(fields) => {
                let rows = arrays.first().and_then(|array| array.as_struct_opt());
                let rows = rows.ok_or_else(|| DataFusionError::Internal("predict was given no struct".to_owned()))?;
                // A struct that is null has no values, whatever its fields hold.
                let (_, columns, nulls) = rows.clone().into_parts();
                fields
                    .iter()
                    .map(|field| masked(&columns[*field], nulls.as_ref()))
                    .collect::<std::result::Result<_, _>>()?
            }
        };
        // A value outside a vocabulary is a fault of its row, not of the query.
        let of_a_row = |error: Error| match error.kind() {
            ErrorKind::Invalid => DataFusionError::Execution(error.message().to_owned()),
            _ => error.into(),
        };
        let predicted = self.served.current().scorer.score(&features, rows).map_err(of_a_row)?;
        Ok(ColumnarValue::Array(Arc::new(predicted.values)))
    }
}

fn masked(
    column: &ArrayRef,
    nulls: Option<&arrow::buffer::NullBuffer>,
) -> std::result::Result<ArrayRef, arrow::error::ArrowError> {
    match nulls {
        None => Ok(Arc::clone(column)),
        Some(nulls) => {
            let absent = arrow::array::BooleanArray::new(!nulls.inner(), None);
            arrow::compute::nullif(column, &absent)
        }
    }
}

#[cfg(test)]
#[path = "function_tests.rs"]
mod tests;
