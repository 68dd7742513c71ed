//! The records on which an expression of the plan fails: `CAST('x' AS INT)`, a division by zero, an overflow.
//!
//! DataFusion gives up a whole plan for one such row. Then nothing of the batch is visible yet, so its offsets are run
//! again in small steps: each decoded `RecordBatch` by itself, and one that fails in halves, down to the single
//! records. Those that fail alone are bad records like those that cannot be decoded; every other record gives the
//! rows that it gives in a whole run, because the plan treats each record by itself (`stateless.rs`).

use std::ops::Range;

use arrow::{
    array::{Array, AsArray, RecordBatch, UInt32Array},
    compute::take_arrays,
    datatypes::{Int32Type, Int64Type},
    error::ArrowError,
};
use datafusion::error::DataFusionError;
use futures::{StreamExt, stream::select_all};

use super::{output::BatchWriter, plan::BatchPlan};
use crate::{
    catalog::{Column, ParseMode},
    decode::dead_letter,
    error::{Error, ErrorKind, Result},
    state::slice_bytes,
};

/// What the rows of one step may hold before they are known to be good; a step that gives more is halved.
const STEP_BYTES_MAX: usize = 64 << 20;
/// Runs of a plan until it is renewed: each leaves its metrics.
const RUNS_PER_PLAN_MAX: u32 = 256;
/// A reason repeats the value that failed, which can be as long as the record.
const REASON_CHARS_MAX: usize = 500;

/// Columns of `Decoded::rows` for a run in steps: those of the query, then those that a dead letter keeps.
pub fn columns(table: &[Column], projection: &[usize]) -> (Vec<Column>, Vec<usize>) {
    let columns: Vec<Column> = table.iter().cloned().chain(dead_letter::kept_columns()).collect();
    let projection = projection.iter().copied().chain(table.len()..columns.len()).collect();
    (columns, projection)
}

/// Runs a plan in steps.
#[derive(Debug)]
pub struct Isolator {
    plan: BatchPlan,
    mode: ParseMode,
    runs: u32,
}

/// What became of one decoded `RecordBatch`.
#[derive(Debug, Default)]
pub struct Isolated {
    /// Rows that were written.
    pub rows: u64,
    /// Records on which the plan failed.
    pub bad: u64,
    /// The same, unless the mode drops them.
    pub dead_letters: Option<RecordBatch>,
}

/// Where the records go on which the plan does not fail.
pub enum Good<'a, 'b> {
    /// The plan's rows are written.
    Write(&'a mut BatchWriter<'b>),
    /// The decoded rows are kept, for a plan that needs them all in one run.
    Keep(&'a mut Vec<RecordBatch>),
}

/// The end of one step.
enum Step {
    Rows(Vec<RecordBatch>),
    /// The reason, and whether it is one of the rows.
    Failed(Error),
    TooLarge,
}

impl Isolator {
    /// For the plan that failed.
    ///
    /// # Errors
    /// DataFusion's.
    pub fn new(plan: &BatchPlan, mode: ParseMode) -> Result<Self> {
        Ok(Self { plan: plan.renewed()?, mode, runs: 0 })
    }

    /// Runs the plan over `decoded`, rows of source `source`, which have the columns that `columns` says.
    ///
    /// # Errors
    /// `BadRecord` at the first bad record in FAILFAST; the writer's; what of the plan's is no failure of a row.
    pub async fn run(&mut self, source: usize, decoded: &RecordBatch, mut good: Good<'_, '_>) -> Result<Isolated> {
        let columns = self.plan.reads.get(source).map_or(0, |reads| reads.projection.len());
        let wanted: Vec<usize> = (0..columns).collect();
        let input = decoded.project(&wanted)?;
        let kept = decoded.columns().get(wanted.len()..).unwrap_or_default();
        let mut isolated = Isolated::default();
        let (mut failed, mut reasons) = (Vec::new(), Vec::new());
        let mut steps: Vec<Range<usize>> = std::iter::once(0..input.num_rows()).collect();
        while let Some(step) = steps.pop() {
            if step.is_empty() {
                continue;
            }
            let place = || record_name(kept, step.start);
            match self.step((source, &input), &step).await? {
                Step::Rows(batches) => match &mut good {
                    Good::Write(writer) => {
                        for rows in batches {
                            isolated.rows += rows.num_rows() as u64;
                            writer.write(&rows).await?;
                        }
                    }
                    Good::Keep(kept) => kept.push(input.slice(step.start, step.len())),
                },
                Step::Failed(_) | Step::TooLarge if step.len() > 1 => {
                    let middle = step.start + step.len() / 2;
                    // The first half is the next: rows keep the order of their records.
                    steps.extend([middle..step.end, step.start..middle]);
                }
                Step::Failed(error) if self.mode == ParseMode::FailFast => {
                    return Err(Error::new(ErrorKind::BadRecord, format!("{}: {}", place(), reason(&error))).help(
                        "mode = 'FAILFAST' stops at the first bad record; TRY_CAST gives NULL where CAST fails, \
                         NULLIF(x, 0) avoids a division by zero",
                    ));
                }
                Step::Failed(error) => {
                    failed.push(u32::try_from(step.start).unwrap_or(u32::MAX));
                    reasons.push(reason(&error));
                }
                Step::TooLarge => {
                    let limit = STEP_BYTES_MAX >> 20;
                    return Err(Error::unsupported(format!("{}: its rows take more than {limit} MiB", place()))
                        .help("UNNEST less of it, or leave such records out with WHERE"));
                }
            }
        }
        isolated.bad = failed.len() as u64;
        if self.mode != ParseMode::DropMalformed && !failed.is_empty() {
            let letters = take_arrays(kept, &UInt32Array::from(failed), None)?;
            isolated.dead_letters = Some(dead_letter::with_reasons(letters, &reasons)?);
        }
        Ok(isolated)
    }

    async fn step(&mut self, (source, input): (usize, &RecordBatch), rows: &Range<usize>) -> Result<Step> {
        if self.runs == RUNS_PER_PLAN_MAX {
            (self.plan, self.runs) = (self.plan.renewed()?, 0);
        }
        self.runs += 1;
        let mut stream = select_all(self.plan.execute_over(source, &input.slice(rows.start, rows.len()))?);
        let (mut batches, mut bytes) = (Vec::new(), 0);
        while let Some(batch) = stream.next().await {
            match batch {
                Ok(batch) => {
                    bytes += slice_bytes(&batch);
                    if bytes > STEP_BYTES_MAX {
                        return Ok(Step::TooLarge);
                    }
                    batches.push(batch);
                }
                Err(error) if is_of_a_row(&error) => return Ok(Step::Failed(error.into())),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Step::Rows(batches))
    }
}

/// Is it the data of a row that made the plan fail? Other rows may be fine then.
pub fn is_of_a_row(error: &DataFusionError) -> bool {
    use DataFusionError as D;
    match error {
        D::Execution(_) => true,
        D::ArrowError(error, _) => is_of_a_value(error),
        D::External(error) => is_of_others(error.as_ref()),
        D::Context(_, inner) | D::Diagnostic(_, inner) => is_of_a_row(inner),
        D::Shared(inner) => is_of_a_row(inner),
        D::Collection(errors) => !errors.is_empty() && errors.iter().all(is_of_a_row),
        _ => false,
    }
}

fn is_of_a_value(error: &ArrowError) -> bool {
    use ArrowError as A;
    match error {
        A::ExternalError(error) => is_of_others(error.as_ref()),
        A::CastError(_)
        | A::ParseError(_)
        | A::ComputeError(_)
        | A::DivideByZero
        | A::ArithmeticOverflow(_)
        | A::InvalidArgumentError(_)
        | A::JsonError(_)
        | A::CsvError(_)
        // A text column of more than 2 GiB: half of the rows may fit.
        | A::OffsetOverflowError(_) => true,
        _ => false,
    }
}

/// An error from below DataFusion or Arrow: ours come from the source or the decoder, others from a function.
fn is_of_others(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<DataFusionError>() {
        return is_of_a_row(error);
    }
    if let Some(error) = error.downcast_ref::<ArrowError>() {
        return is_of_a_value(error);
    }
    !error.is::<Error>()
}

fn reason(error: &Error) -> String {
    let mut characters = error.message().chars();
    let mut short: String = characters.by_ref().take(REASON_CHARS_MAX).collect();
    if characters.next().is_some() {
        short.push_str("...");
    }
    short
}

/// The record of row `row`, by the first columns that a dead letter keeps.
fn record_name(kept: &[arrow::array::ArrayRef], row: usize) -> String {
    let named = || {
        let topic = kept.first()?.as_string_opt::<i32>()?;
        let partition = kept.get(1)?.as_primitive_opt::<Int32Type>()?;
        let offset = kept.get(2)?.as_primitive_opt::<Int64Type>()?;
        (row < topic.len()).then(|| {
            format!("topic {}, partition {}, offset {}", topic.value(row), partition.value(row), offset.value(row))
        })
    };
    named().unwrap_or_else(|| "a record".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_errors_are_of_no_row() {
        let cast = || ArrowError::CastError("Cannot cast string 'x'".into());
        assert!(is_of_a_row(&DataFusionError::from(cast())));
        assert!(is_of_a_row(&DataFusionError::Execution("chr".into()).context("projection")));
        assert!(is_of_a_row(&DataFusionError::from(ArrowError::ExternalError(Box::new(
            DataFusionError::from(cast())
        )))));
        assert!(!is_of_a_row(&DataFusionError::from(Error::new(ErrorKind::Unavailable, "no broker"))));
        assert!(!is_of_a_row(&DataFusionError::ResourcesExhausted("memory".into())));
        assert!(!is_of_a_row(&DataFusionError::from(ArrowError::MemoryError("memory".into()))));
        let wrapped = ArrowError::ExternalError(Box::new(Error::internal("a defect")));
        assert!(!is_of_a_row(&DataFusionError::from(wrapped)));
    }

    #[test]
    fn a_reason_is_short() {
        let long = reason(&Error::invalid("x".repeat(10_000)));
        assert_eq!(long.chars().count(), REASON_CHARS_MAX + 3);
        assert_eq!(reason(&Error::invalid("Divide by zero error")), "Divide by zero error");
    }
}
