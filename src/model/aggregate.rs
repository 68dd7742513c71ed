//! `linreg_fit(y, x1, .., xp)`: a regression as an aggregate, so that SQL fits one per group and per window.
//!
//! Its state is the QR factor, (p + 2)(p + 3) / 2 + 2 numbers in one list, and states merge in any order: DataFusion
//! may aggregate in parallel, a stream may keep panes, and the result is the same. Rows with a null or a value that is
//! not finite are left out, as SQL aggregates leave out nulls.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, Float64Array, ListArray, StructArray, UInt64Array},
    buffer::OffsetBuffer,
    datatypes::{DataType, Field, FieldRef, Fields, Float64Type},
};
use datafusion::{
    common::{Result as DataFusionResult, ScalarValue, plan_err},
    execution::session_state::SessionStateBuilder,
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility,
        function::{AccumulatorArgs, StateFieldsArgs},
        utils::format_state_name,
    },
};

use super::{
    fit::{self, Objective},
    qr::{QrAccumulator, QrFactor},
    statistics,
};

/// The most features of one call: a state then has some 32,000 numbers.
const FEATURES_MAX: usize = 250;

/// Adds the aggregate to a session.
pub fn register(mut builder: SessionStateBuilder) -> SessionStateBuilder {
    builder.aggregate_functions().get_or_insert_default().push(Arc::new(linreg_fit()));
    builder
}

/// The function.
pub fn linreg_fit() -> AggregateUDF {
    AggregateUDF::from(LinregFit { signature: Signature::user_defined(Volatility::Immutable) })
}

/// The result: a struct that is null without rows. Of a fit that is not definite (too few rows, features that are
/// constant or follow from one another) only `n` is known, and `problem` says why.
fn result_fields() -> Fields {
    let number = |name: &str| Field::new(name, DataType::Float64, true);
    let numbers = |name: &str| Field::new(name, DataType::List(list_item()), true);
    Fields::from(vec![
        Field::new("n", DataType::UInt64, true),
        number("intercept"),
        numbers("coefficients"),
        // Of the intercept, then of the coefficients.
        numbers("standard_errors"),
        number("r2"),
        number("adjusted_r2"),
        number("rmse"),
        number("residual_standard_error"),
        Field::new("problem", DataType::Utf8, true),
    ])
}

fn list_item() -> FieldRef {
    Arc::new(Field::new_list_field(DataType::Float64, true))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct LinregFit {
    signature: Signature,
}

impl AggregateUDFImpl for LinregFit {
    fn name(&self) -> &str {
        "linreg_fit"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> DataFusionResult<Vec<DataType>> {
        if given.is_empty() || given.len() > FEATURES_MAX + 1 {
            return plan_err!("linreg_fit takes the target and up to {FEATURES_MAX} features: linreg_fit(y, x1, x2)");
        }
        let is_number =
            |data_type: &DataType| data_type.is_numeric() || matches!(data_type, DataType::Boolean | DataType::Null);
        if let Some((at, other)) = given.iter().enumerate().find(|(_, data_type)| !is_number(data_type)) {
            return plan_err!("linreg_fit takes numbers, and its argument {} is {other}", at + 1);
        }
        Ok(vec![DataType::Float64; given.len()])
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Struct(result_fields()))
    }

    fn accumulator(&self, args: AccumulatorArgs) -> DataFusionResult<Box<dyn Accumulator>> {
        Ok(Box::new(Fitting { arguments: args.exprs.len(), rows: None }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> DataFusionResult<Vec<FieldRef>> {
        let name = format_state_name(args.name, "factor");
        Ok(vec![Arc::new(Field::new(name, DataType::List(list_item()), true))])
    }
}

/// One group's rows.
#[derive(Debug)]
struct Fitting {
    arguments: usize,
    /// Made with the first row: a group without any costs nothing.
    rows: Option<QrAccumulator>,
}

impl Fitting {
    fn accumulator(&mut self) -> &mut QrAccumulator {
        let arguments = self.arguments;
        self.rows.get_or_insert_with(|| QrAccumulator::new(arguments))
    }
}

impl Accumulator for Fitting {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DataFusionResult<()> {
        let columns: Vec<&Float64Array> = values.iter().map(|column| column.as_primitive::<Float64Type>()).collect();
        let usable = |row: usize| columns.iter().all(|column| column.is_valid(row) && column.value(row).is_finite());
        let count = columns.first().map_or(0, |column| column.len());
        let rows: Vec<u32> = (0..count).filter(|row| usable(*row)).map(|row| row as u32).collect();
        if rows.is_empty() {
            return Ok(());
        }
        // The target comes first in SQL and last in a factor.
        let ordered: Vec<&[f64]> =
            columns[1..].iter().chain(&columns[..1]).map(|column| &column.values()[..]).collect();
        self.accumulator().push(&ordered, None, &rows);
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DataFusionResult<()> {
        let columns = self.arguments + 1;
        let lists = states[0].as_list::<i32>();
        for state in lists.iter().flatten() {
            let numbers = state.as_primitive::<Float64Type>();
            let factor = QrFactor::from_numbers(columns, numbers.values())?;
            self.accumulator().merge(&factor)?;
        }
        Ok(())
    }

    fn state(&mut self) -> DataFusionResult<Vec<ScalarValue>> {
        let numbers = self.rows.as_mut().map(|rows| rows.factor().to_numbers());
        Ok(vec![ScalarValue::List(Arc::new(list(numbers)))])
    }

    fn evaluate(&mut self) -> DataFusionResult<ScalarValue> {
        let fields = result_fields();
        let Some(rows) = &mut self.rows else {
            return ScalarValue::try_from(&DataType::Struct(fields));
        };
        let factor = rows.factor();
        let fitted = fitted(&factor);
        let problem = fitted.as_ref().err().cloned();
        let known = fitted.ok().unwrap_or_default();
        let number = |value: Option<f64>| Arc::new(Float64Array::from(vec![value])) as ArrayRef;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from(vec![factor.rows()])),
            number(known.intercept),
            Arc::new(list(known.coefficients)),
            Arc::new(list(known.standard_errors)),
            number(known.r2),
            number(known.adjusted_r2),
            number(known.rmse),
            number(known.residual_standard_error),
            Arc::new(arrow::array::StringArray::from(vec![problem])),
        ];
        Ok(ScalarValue::Struct(Arc::new(StructArray::try_new(fields, columns, None)?)))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.rows.as_ref().map_or(0, QrAccumulator::size_bytes)
    }
}

/// One list, or null.
fn list(numbers: Option<Vec<f64>>) -> ListArray {
    let nulls = numbers.is_none().then(|| vec![false].into());
    let numbers = Float64Array::from(numbers.unwrap_or_default());
    ListArray::new(list_item(), OffsetBuffer::from_lengths([numbers.len()]), Arc::new(numbers), nulls)
}

#[derive(Debug, Default)]
struct Known {
    intercept: Option<f64>,
    coefficients: Option<Vec<f64>>,
    standard_errors: Option<Vec<f64>>,
    r2: Option<f64>,
    adjusted_r2: Option<f64>,
    rmse: Option<f64>,
    residual_standard_error: Option<f64>,
}

/// The fit, or why there is none.
fn fitted(factor: &QrFactor) -> Result<Known, String> {
    let features = factor.columns() - 2;
    let names: Vec<String> = (1..=features).map(|at| format!("x{at}")).collect();
    if !factor.is_finite() {
        return Err("the values are too large: their squares overflow".to_owned());
    }
    if factor.rows() < features as u64 + 1 {
        return Err(format!("{} rows are too few for {} coefficients", factor.rows(), features + 1));
    }
    if let Some(first) = fit::redundant(factor, true).first() {
        return Err(format!("{} adds nothing: {}", names[first.feature], first.why.describe(&names)));
    }
    let fit = fit::solve(factor, Objective::default()).map_err(|error| error.to_string())?;
    let squares = factor.residual_squares(fit.intercept, &fit.coefficients);
    let total = statistics::total_squares(factor, true);
    let table = statistics::statistics(factor, &fit, &names, true, 0.95).map_err(|error| error.to_string())?;
    Ok(Known {
        intercept: Some(fit.intercept),
        coefficients: Some(fit.coefficients),
        standard_errors: table
            .as_ref()
            .map(|table| table.coefficients.iter().map(|line| line.standard_error).collect()),
        r2: (!fit::is_constant(factor, features + 1)).then(|| 1.0 - squares / total),
        adjusted_r2: table.as_ref().map(|table| table.adjusted_r2).filter(|_| !fit::is_constant(factor, features + 1)),
        rmse: Some((squares / factor.rows() as f64).sqrt()),
        residual_standard_error: table.map(|table| table.residual_standard_error),
    })
}

#[cfg(test)]
#[path = "aggregate_tests.rs"]
mod tests;
