//! The columns that a query writes.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};

use crate::error::{Error, Result};

/// Casts the output to the types that files hold: no views or dictionaries, timestamps in microseconds.
///
/// # Errors
/// `Invalid` for a column without a type.
pub fn normalise(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut columns = Vec::new();
    let mut changed = false;
    for (qualifier, field) in plan.schema().iter() {
        if *field.data_type() == DataType::Null {
            return Err(Error::invalid(format!("the column {:?} is NULL without a type", field.name()))
                .help("CAST it to the type that the files shall have"));
        }
        let column = Expr::Column((qualifier, field).into());
        let wanted = file_type(field.data_type());
        let qualified = qualifier.is_some();
        if wanted != *field.data_type() {
            columns.push(cast(column, wanted).alias(field.name()));
            changed = true;
        } else {
            changed |= qualified;
            columns.push(column.alias(field.name()));
        }
    }
    if !changed {
        return Ok(plan);
    }
    Ok(LogicalPlanBuilder::from(plan).project(columns)?.build()?)
}

fn file_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Dictionary(_, values) => file_type(values),
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        other => other.clone(),
    }
}
