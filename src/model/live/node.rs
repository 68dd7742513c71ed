//! `ML_FORECAST` in a plan.

use std::{
    cmp::Ordering,
    collections::HashSet,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use arrow::datatypes::FieldRef;
use datafusion::{
    common::{Column, DFSchema, DFSchemaRef, Result as DataFusionResult, TableReference, plan_err},
    logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore},
};

use super::{forecaster::Forecaster, options::LiveOptions, rows::Columns};
use crate::{
    error::Result,
    model::{columns, registry::Registry},
};

/// A model that learns from the rows that it forecasts.
#[derive(Debug, Clone)]
pub struct LiveModel {
    pub name: String,
    pub options: LiveOptions,
    /// Where its versions go.
    pub registry: Registry,
}

/// What a model is asked in one query.
#[derive(Debug, Clone)]
pub struct Question {
    pub model: Arc<LiveModel>,
    pub time: String,
    pub target: columns::Column,
    pub features: Vec<columns::Column>,
    pub keys: Vec<String>,
}

impl Question {
    /// Before the first row.
    pub fn forecaster(&self) -> Forecaster {
        let names = self.features.iter().map(|feature| feature.name.clone()).collect();
        Forecaster::new(self.model.options.clone(), names)
    }
}

/// One row in, one row out, in the order of time. The columns are those of the input, then those that are added.
#[derive(Debug, Clone)]
pub struct Forecast {
    pub input: Arc<LogicalPlan>,
    pub model: Arc<LiveModel>,
    /// A timestamp of the input.
    pub time: Column,
    target: Column,
    features: Vec<Column>,
    /// What tells series apart.
    keys: Vec<Column>,
    schema: DFSchemaRef,
}

impl Forecast {
    /// # Errors
    /// As `Columns::check`; DataFusion's for columns that the input does not have.
    pub fn try_new(
        input: Arc<LogicalPlan>,
        model: Arc<LiveModel>,
        (time, target): (Column, Column),
        (features, keys): (Vec<Column>, Vec<Column>),
    ) -> Result<Self> {
        let columns = columns_of(input.schema(), (&time, &target), (&features, &keys))?;
        columns.check(input.schema().as_arrow(), &model.options)?;
        let own = |(qualifier, field): (Option<&TableReference>, &FieldRef)| (qualifier.cloned(), Arc::clone(field));
        let mut fields: Vec<(Option<TableReference>, FieldRef)> = input.schema().iter().map(own).collect();
        fields.extend(columns.added(input.schema().as_arrow()).into_iter().map(|field| (None, Arc::new(field))));
        let schema = Arc::new(DFSchema::new_with_metadata(fields, input.schema().metadata().clone())?);
        Ok(Self { input, model, time, target, features, keys, schema })
    }

    /// It as a plan.
    pub fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }

    /// Where its columns are in rows of the input.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn columns(&self) -> Result<Columns> {
        columns_of(self.input.schema(), (&self.time, &self.target), (&self.features, &self.keys))
    }

    /// What is asked.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn question(&self) -> Result<Question> {
        let column = |column: &Column| -> Result<columns::Column> {
            let data_type = self.input.schema().field(self.input.schema().index_of_column(column)?).data_type().clone();
            Ok(columns::Column { name: column.name.clone(), data_type, unit: None, vocabulary: None })
        };
        Ok(Question {
            model: Arc::clone(&self.model),
            time: self.time.name.clone(),
            target: column(&self.target)?,
            features: self.features.iter().map(column).collect::<Result<_>>()?,
            keys: self.keys.iter().map(|key| key.name.clone()).collect(),
        })
    }

    /// Time, target, features, keys.
    fn all(&self) -> Vec<Column> {
        [&self.time, &self.target].into_iter().chain(&self.features).chain(&self.keys).cloned().collect()
    }
}

fn columns_of(
    schema: &DFSchema,
    (time, target): (&Column, &Column),
    (features, keys): (&[Column], &[Column]),
) -> Result<Columns> {
    let place = |column: &Column| Ok(schema.index_of_column(column)?);
    Ok(Columns {
        time: place(time)?,
        target: place(target)?,
        features: features.iter().map(place).collect::<Result<_>>()?,
        keys: keys.iter().map(place).collect::<Result<_>>()?,
    })
}

impl UserDefinedLogicalNodeCore for Forecast {
    fn name(&self) -> &str {
        "Forecast"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.all().into_iter().map(Expr::Column).collect()
    }

    /// A row that is left out above has taught the model all the same.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        self.schema.fields().iter().map(|field| field.name().clone()).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let names = |columns: &[Column]| columns.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let LiveModel { name, options, .. } = self.model.as_ref();
        let horizon = crate::model::horizon::spell(options.horizon_us);
        write!(
            f,
            "Forecast: {} {horizon} after {} by {name} from [{}]",
            self.target,
            self.time,
            names(&self.features)
        )?;
        if self.keys.is_empty() { Ok(()) } else { write!(f, ", series [{}]", names(&self.keys)) }
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> DataFusionResult<Self> {
        let column = |expr: Expr| match expr {
            Expr::Column(column) => Ok(column),
            other => plan_err!("ML_FORECAST takes columns, and was given {other}"),
        };
        let mut columns = exprs.into_iter().map(column).collect::<DataFusionResult<Vec<_>>>()?.into_iter();
        let (Some(time), Some(target), Ok([input])) =
            (columns.next(), columns.next(), <[LogicalPlan; 1]>::try_from(inputs))
        else {
            return plan_err!("ML_FORECAST has a time, a target and one input");
        };
        let features: Vec<Column> = columns.by_ref().take(self.features.len()).collect();
        Ok(Self::try_new(Arc::new(input), Arc::clone(&self.model), (time, target), (features, columns.collect()))?)
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let input = self.input.schema();
        let own = self.all().iter().filter_map(|column| input.maybe_index_of_column(column)).collect::<Vec<_>>();
        let above = output_columns.iter().copied().filter(|index| *index < input.fields().len());
        let mut needed: Vec<usize> = above.chain(own).collect();
        needed.sort_unstable();
        needed.dedup();
        Some(vec![needed])
    }
}

// The options are those of the name, in one session.
impl PartialEq for Forecast {
    fn eq(&self, other: &Self) -> bool {
        self.model.name == other.model.name && self.all() == other.all() && self.input == other.input
    }
}

impl Eq for Forecast {}

impl PartialOrd for Forecast {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        if self == other {
            return Some(Ordering::Equal);
        }
        let order = self.model.name.cmp(&other.model.name).then(self.input.partial_cmp(&other.input)?);
        Some(order).filter(|order| order.is_ne())
    }
}

impl Hash for Forecast {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.model.name, self.all(), &self.input).hash(state);
    }
}
