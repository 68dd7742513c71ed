//! The functions that `GAP_FILL` is made of. Times are counted in microseconds.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, ListArray},
    buffer::OffsetBuffer,
    compute::kernels::zip::zip,
    datatypes::{DataType, Field, FieldRef, Int64Type},
};
use datafusion::{
    common::{Result as DataFusionResult, exec_err, plan_err},
    logical_expr::{ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};

use super::assign_exec::Clock;

/// `(time, time before)`: the numbers of the steps in between, then 0, which stands for the row itself.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct GapSteps {
    step_us: i64,
    /// A longer gap has none.
    longest_us: i64,
    signature: Signature,
}

impl GapSteps {
    pub fn new(step_us: i64, longest_us: i64) -> Self {
        Self { step_us, longest_us, signature: Signature::any(2, Volatility::Immutable) }
    }
}

fn step_field() -> FieldRef {
    Arc::new(Field::new("item", DataType::Int64, false))
}

impl ScalarUDFImpl for GapSteps {
    fn name(&self) -> &'static str {
        "gap_steps"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::List(step_field()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let [times, before] = &micros(&args.args, 2)?[..] else { return exec_err!("gap_steps takes two times") };
        let (mut steps, mut lengths) = (Vec::new(), Vec::with_capacity(times.len()));
        for (time, before) in times.iter().zip(before) {
            let filled = steps.len();
            if let (Some(time), Some(before)) = (time, before) {
                let gap = time.saturating_sub(before);
                if gap <= self.longest_us {
                    // What lies strictly between the two.
                    steps.extend(1..=gap.saturating_sub(1).div_euclid(self.step_us));
                }
            }
            steps.push(0);
            lengths.push(steps.len() - filled);
        }
        let offsets = OffsetBuffer::from_lengths(lengths);
        let list = ListArray::try_new(step_field(), offsets, Arc::new(Int64Array::from(steps)), None)?;
        Ok(ColumnarValue::Array(Arc::new(list)))
    }
}

/// `(any time of the row, time, time before, step)`: the same time of the row that is filled in there. Its field is that
/// of the first argument.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct GapTime {
    step_us: i64,
    signature: Signature,
}

impl GapTime {
    pub fn new(step_us: i64) -> Self {
        Self { step_us, signature: Signature::any(4, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for GapTime {
    fn name(&self) -> &'static str {
        "gap_time"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> DataFusionResult<DataType> {
        match types {
            [time @ DataType::Timestamp(..), ..] => Ok(time.clone()),
            _ => plan_err!("gap_time takes times"),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        // Without the marks of event time: a row that is filled in comes after the watermark has passed its time.
        Ok(Arc::new(Field::new(self.name(), self.return_type(&types)?, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let [shown, time, before] = &micros(&args.args, 3)?[..] else { return exec_err!("gap_time takes three times") };
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let (Some(of), Some(steps)) = (arrays.first(), arrays.get(3)) else {
            return exec_err!("gap_time takes three times and a step");
        };
        let steps = steps.as_primitive::<Int64Type>();
        let shifted: Int64Array = (0..steps.len())
            .map(|row| {
                let all_there = shown.is_valid(row) && time.is_valid(row) && before.is_valid(row);
                all_there.then(|| {
                    let from = before.value(row).saturating_add(shown.value(row).saturating_sub(time.value(row)));
                    from.saturating_add(steps.value(row).saturating_mul(self.step_us))
                })
            })
            .collect();
        let shifted = Clock::of(of.data_type()).of_us(&shifted)?;
        let was_there: BooleanArray = steps.values().iter().map(|step| Some(*step == 0)).collect();
        Ok(ColumnarValue::Array(zip(&was_there, of, &shifted)?))
    }
}

/// `(time, time before, step)`: how far the step is on the way, 0 to 1.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct GapShare {
    step_us: i64,
    signature: Signature,
}

impl GapShare {
    pub fn new(step_us: i64) -> Self {
        Self { step_us, signature: Signature::any(3, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for GapShare {
    fn name(&self) -> &'static str {
        "gap_share"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Float64)
    }

    #[expect(clippy::cast_precision_loss, reason = "a share of a gap")]
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let [time, before] = &micros(&args.args, 2)?[..] else { return exec_err!("gap_share takes two times") };
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let Some(steps) = arrays.get(2) else { return exec_err!("gap_share takes a step") };
        let share = |((time, before), step): ((Option<i64>, Option<i64>), Option<i64>)| {
            let gap = time?.saturating_sub(before?);
            Some(step?.saturating_mul(self.step_us) as f64 / gap as f64)
        };
        let shares: Float64Array = time.iter().zip(before).zip(steps.as_primitive::<Int64Type>()).map(share).collect();
        Ok(ColumnarValue::Array(Arc::new(shares) as ArrayRef))
    }
}

/// The first `count` arguments, which are times.
fn micros(arguments: &[ColumnarValue], count: usize) -> DataFusionResult<Vec<Int64Array>> {
    let arrays = ColumnarValue::values_to_arrays(arguments)?;
    arrays.iter().take(count).map(|times| Clock::of(times.data_type()).to_us(times)).collect()
}
