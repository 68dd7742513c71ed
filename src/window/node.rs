//! The logical node that gives each row its windows.

use std::{
    cmp::Ordering,
    collections::HashSet,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::{
    common::{Column, DFSchema, DFSchemaRef, Result as DataFusionResult, TableReference, plan_err},
    logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore},
};

use super::{EVENT_TIME_KEY, WINDOW_END, WINDOW_KEY, WINDOW_START, WINDOW_TIME, WindowSpec, spec::duration};
use crate::error::{Error, Result};

/// The columns that windows add, in their order.
pub(super) const WINDOW_COLUMNS: [&str; 3] = [WINDOW_START, WINDOW_END, WINDOW_TIME];

/// One row in, one row out for each window that holds it. The columns are those of the input, then `window_start`,
/// `window_end` and `window_time`, of the type of the time column; columns of the input with these names give way. Rows
/// whose time is NULL are left out.
#[derive(Debug, Clone)]
pub struct WindowAssign {
    pub input: Arc<LogicalPlan>,
    /// A timestamp of the input.
    pub time: Column,
    /// Not `WindowKind::Session`: that is `SessionAssign`.
    pub spec: WindowSpec,
    schema: DFSchemaRef,
}

impl WindowAssign {
    /// # Errors
    /// `Invalid` if `time` is no timestamp of the input, or counts in units that cannot hold the windows' bounds.
    pub fn try_new(input: Arc<LogicalPlan>, time: Column, spec: WindowSpec) -> Result<Self> {
        let measures = [Some(spec.size_us), spec.pane_us(), Some(spec.offset_us)];
        let schema = windowed_schema(input.schema(), &time, measures.into_iter().flatten())?;
        Ok(Self { input, time, spec, schema })
    }

    /// The input's columns that come out, then the three of the window.
    pub fn schema_ref(&self) -> &DFSchemaRef {
        &self.schema
    }

    /// It as a plan.
    pub fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }

    /// Which columns of the input come out, by index, in their order.
    pub fn kept(&self) -> Vec<usize> {
        kept(self.input.schema())
    }
}

/// The columns of the input that come out: all but those that the window's take the place of.
pub(super) fn kept(input: &DFSchema) -> Vec<usize> {
    let names = input.fields().iter().map(|field| field.name().as_str()).enumerate();
    names.filter(|(_, name)| !WINDOW_COLUMNS.contains(name)).map(|(index, _)| index).collect()
}

/// The input's columns and the three of the window. `measures` are all times that the windows' bounds are multiples
/// of.
pub(super) fn windowed_schema(
    input: &DFSchema,
    time: &Column,
    measures: impl IntoIterator<Item = i64>,
) -> Result<DFSchemaRef> {
    let index = input.index_of_column(time)?;
    let data_type = input.field(index).data_type();
    let DataType::Timestamp(unit, _) = data_type else {
        return Err(Error::invalid(format!("the column '{}' is {data_type}, and windows need a TIMESTAMP", time.name))
            .help(format!("CAST it to TIMESTAMP in a subquery: CAST({} AS TIMESTAMP)", time.name)));
    };
    let unit_us = match unit {
        TimeUnit::Second => 1_000_000,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond | TimeUnit::Nanosecond => 1,
    };
    if let Some(finer) = measures.into_iter().find(|us| us % unit_us != 0) {
        return Err(Error::invalid(format!(
            "the column '{}' counts in {}s, too coarse for windows of {}",
            time.name,
            duration(unit_us).trim_start_matches("1 "),
            duration(finer),
        ))
        .help(format!("CAST({} AS TIMESTAMP(6)) in a subquery", time.name)));
    }
    let mut fields: Vec<(Option<TableReference>, FieldRef)> = Vec::with_capacity(input.fields().len() + 3);
    for index in kept(input) {
        let (qualifier, field) = input.qualified_field(index);
        fields.push((qualifier.cloned(), unmarked(field)));
    }
    for name in WINDOW_COLUMNS {
        let field = Field::new(name, data_type.clone(), false);
        let (key, value) = if name == WINDOW_TIME { (EVENT_TIME_KEY, "true") } else { (WINDOW_KEY, name) };
        fields.push((None, Arc::new(field.with_metadata([(key.to_owned(), value.to_owned())].into()))));
    }
    Ok(Arc::new(DFSchema::new_with_metadata(fields, input.metadata().clone())?))
}

/// After a window the event time is `window_time`, and the windows are its own: so that there is one of each.
fn unmarked(field: &FieldRef) -> FieldRef {
    let mut metadata = field.metadata().clone();
    if metadata.remove(EVENT_TIME_KEY).is_none() & metadata.remove(WINDOW_KEY).is_none() {
        return Arc::clone(field);
    }
    Arc::new(field.as_ref().clone().with_metadata(metadata))
}

/// The indices of the input that `output` columns need, and `needed` besides.
pub(super) fn input_indices(kept: &[usize], output: &[usize], needed: Option<usize>) -> Vec<usize> {
    let mut indices: Vec<usize> = output.iter().filter_map(|index| kept.get(*index).copied()).chain(needed).collect();
    indices.sort_unstable();
    indices.dedup();
    indices
}

impl UserDefinedLogicalNodeCore for WindowAssign {
    fn name(&self) -> &str {
        "WindowAssign"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![Expr::Column(self.time.clone())]
    }

    /// A filter on another column takes away all windows of a row, or none.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        WINDOW_COLUMNS.map(str::to_owned).into()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "WindowAssign: {} of {}", self.spec, self.time)
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> DataFusionResult<Self> {
        let (Ok([Expr::Column(time)]), Ok([input])) =
            (<[Expr; 1]>::try_from(exprs), <[LogicalPlan; 1]>::try_from(inputs))
        else {
            return plan_err!("a window has one time column and one input");
        };
        Ok(Self::try_new(Arc::new(input), time, self.spec)?)
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let time = self.input.schema().maybe_index_of_column(&self.time);
        Some(vec![input_indices(&self.kept(), output_columns, time)])
    }
}

// The schema follows from the rest.
impl PartialEq for WindowAssign {
    fn eq(&self, other: &Self) -> bool {
        (&self.input, &self.time, &self.spec) == (&other.input, &other.time, &other.spec)
    }
}

impl Eq for WindowAssign {}

impl PartialOrd for WindowAssign {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        if self == other {
            return Some(Ordering::Equal);
        }
        let order = self.time.partial_cmp(&other.time)?.then(self.spec.to_string().cmp(&other.spec.to_string()));
        let order = order.then(self.input.partial_cmp(&other.input)?);
        Some(order).filter(|order| order.is_ne())
    }
}

impl Hash for WindowAssign {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.input, &self.time, &self.spec).hash(state);
    }
}
