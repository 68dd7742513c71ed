//! Spark's `window_time(window)`.

use std::sync::Arc;

use arrow::{
    array::{Array, AsArray},
    datatypes::{DataType, Field, FieldRef},
};
use datafusion::{
    common::{Result as DataFusionResult, plan_err},
    logical_expr::{ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};

use super::{EVENT_TIME_KEY, WINDOW_TIME, assign_exec::Clock};

/// The event time of a window's row: the `end` of the struct less one millisecond, as in the column `window_time`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct WindowTime {
    signature: Signature,
}

impl Default for WindowTime {
    fn default() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for WindowTime {
    fn name(&self) -> &str {
        WINDOW_TIME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> DataFusionResult<DataType> {
        if let [DataType::Struct(fields)] = types
            && let Some((_, end)) = fields.find("end")
            && matches!(end.data_type(), DataType::Timestamp(..))
        {
            return Ok(end.data_type().clone());
        }
        plan_err!("window_time() takes the window that a GROUP BY made: a struct with 'start' and 'end'")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let field = Field::new(WINDOW_TIME, self.return_type(&types)?, true);
        let metadata = [(EVENT_TIME_KEY.to_owned(), "true".to_owned())];
        Ok(Arc::new(field.with_metadata(metadata.into())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let windows = ColumnarValue::values_to_arrays(&args.args)?;
        let ends = windows.first().and_then(|array| array.as_struct_opt()?.column_by_name("end"));
        let Some(ends) = ends else { return plan_err!("window_time() takes a window") };
        let clock = Clock::of(ends.data_type());
        let ends_us = clock.to_us(ends)?;
        Ok(ColumnarValue::Array(clock.of_us(&ends_us.unary(|end| end.saturating_sub(1_000)))?))
    }
}
