//! `predict('sell_price', x1, x2, ..)` in SQL: a saved model as a scalar function.
//!
//! The model is loaded when the query is planned and stays the same while it runs, whatever is promoted meanwhile: the
//! call is replaced by one that holds the model.

use std::{
    hash::{Hash, Hasher},
    path::PathBuf,
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, AsArray},
    datatypes::{DataType, Schema},
};
use datafusion::{
    common::{Result as DataFusionResult, ScalarValue, plan_err},
    error::DataFusionError,
    logical_expr::{
        ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
        simplify::{ExprSimplifyResult, SimplifyContext},
    },
};

use super::{
    artifact::Model,
    columns::Column,
    predict::{Predictor, Scorer},
    registry::{Registry, Stored},
};
use crate::error::{Error, Result};

/// The function over the models of a directory.
pub fn predict(models: impl Into<PathBuf>) -> ScalarUDF {
    ScalarUDF::from(Predict { models: models.into(), signature: Signature::variadic_any(Volatility::Stable) })
}

/// As it stands in SQL: its first argument names the model.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Predict {
    models: PathBuf,
    signature: Signature,
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
        let stored = Registry::new(&self.models).load(name)?;
        let types: Vec<DataType> =
            args[1..].iter().map(|arg| info.get_data_type(arg)).collect::<DataFusionResult<_>>()?;
        let bound = Bound::new(stored, &types)?;
        args.remove(0);
        let call = datafusion::logical_expr::expr::ScalarFunction::new_udf(Arc::new(ScalarUDF::from(bound)), args);
        Ok(ExprSimplifyResult::Simplified(Expr::ScalarFunction(call)))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        plan_err!("predict takes the model's name as a text in quotes: predict('sell_price', x1, x2)")
    }
}

/// A model with its version, in a plan.
#[derive(Debug)]
struct Bound {
    /// `predict@sell_price@2`.
    name: String,
    scorer: Scorer,
    /// Of a struct, the fields to take; else the arguments are the features.
    fields: Option<Vec<usize>>,
    signature: Signature,
    path: PathBuf,
}

impl PartialEq for Bound {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path && self.fields == other.fields
    }
}

impl Eq for Bound {}

impl Hash for Bound {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.path.hash(state);
        self.fields.hash(state);
    }
}

impl Bound {
    fn new(stored: Stored, types: &[DataType]) -> Result<Self> {
        let Stored { model, revision, path } = stored;
        let reference = format!("{}@{revision}", model.name);
        let fields = match types {
            [DataType::Struct(fields)] => {
                let schema = Schema::new(fields.clone());
                Predictor::new(&model, &schema, None)
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
                check_arguments(&model, &reference, types)?;
                None
            }
        };
        Ok(Self {
            name: format!("predict@{reference}"),
            scorer: Scorer::new(&model, None)?,
            fields,
            signature: Signature::variadic_any(Volatility::Immutable),
            path,
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
        let predicted = self.scorer.score(&features, rows)?;
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
