//! Which column holds the event time.

use datafusion::common::{Column, DFSchema};

use super::EVENT_TIME_KEY;
use crate::error::{Error, Result};

/// The event-time column of a plan.
///
/// # Errors
/// `Invalid` if it has none, or several.
pub fn event_time(schema: &DFSchema) -> Result<Column> {
    let is_marked = |index: &usize| schema.field(*index).metadata().get(EVENT_TIME_KEY).is_some_and(|it| it == "true");
    let marked: Vec<Column> =
        (0..schema.fields().len()).filter(is_marked).map(|index| schema.qualified_field(index).into()).collect();
    match marked.as_slice() {
        [column] => Ok(column.clone()),
        [] => {
            Err(Error::invalid("the window does not say which column holds the time, and no column is marked for it")
                .help("name the column, or declare WATERMARK FOR column AS ... in the CREATE TABLE"))
        }
        [first, second, ..] => Err(Error::invalid(format!(
            "the window does not say which column holds the time: is it {first} or {second}?"
        ))
        .help("name the column")),
    }
}
