//! `ML_PREDICT(TABLE t, MODEL m, DESCRIPTOR(x1, x2))` and `ML_EVALUATE` in FROM, as Flink spells them (FLIP-437, 525);
//! and `ML_FORECAST`, which is ours.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use datafusion::{
    common::{Column, DFSchema, ExprSchema, Result as DataFusionResult, Span},
    error::DataFusionError,
    functions::core::expr_fn::named_struct,
    logical_expr::{
        Expr, LogicalPlan, LogicalPlanBuilder, ScalarUDF,
        expr::ScalarFunction,
        lit,
        planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning},
    },
    sql::sqlparser::ast::{self, Spanned, TableFactor},
};

use super::{
    artifact::Model,
    columns::place_of,
    evaluation,
    function::predict,
    live::{Forecast, LiveModel},
    predict::{PREDICTION, differences},
    serving::{Models, Version},
};
use crate::{
    catalog::{KEYS_ARGUMENT, TABLE_ARGUMENTS, model_function},
    error::Error,
    window::{arguments, at, column, descriptor, plan_table, span_of},
};

/// Plans the table functions over models.
#[derive(Debug)]
pub struct ModelRelations {
    models: Arc<Models>,
    predict: Arc<ScalarUDF>,
}

/// A table function over a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    Predict,
    Evaluate,
    Forecast,
}

impl Function {
    fn usage(self) -> &'static str {
        match self {
            Self::Predict => "write ML_PREDICT(TABLE t, MODEL m, DESCRIPTOR(x1, x2))",
            Self::Evaluate => "write ML_EVALUATE(TABLE t, MODEL m, DESCRIPTOR(label), DESCRIPTOR(x1, x2))",
            Self::Forecast => {
                "write ML_FORECAST(TABLE t, MODEL m, DESCRIPTOR(ts), DESCRIPTOR(x1, x2)), and the keys of several series \
                 behind: , DESCRIPTOR(symbol)"
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Predict => "ML_PREDICT",
            Self::Evaluate => "ML_EVALUATE",
            Self::Forecast => "ML_FORECAST",
        }
    }

    /// The names of the arguments after the table, in their order: Flink's.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Predict => &["model", "args"],
            Self::Evaluate => &["model", "label", "args"],
            Self::Forecast => &["model", "timecol", "args", KEYS_ARGUMENT],
        }
    }
}

impl ModelRelations {
    /// Over the models of a session.
    pub fn new(models: &Arc<Models>) -> Self {
        Self { models: Arc::clone(models), predict: Arc::new(predict(models)) }
    }
}

impl RelationPlanner for ModelRelations {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> DataFusionResult<RelationPlanning> {
        let TableFactor::TableFunction { expr: ast::Expr::Function(call), alias } = &relation else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let function = match model_function(&call.name) {
            Some("ml_predict") => Function::Predict,
            Some("ml_evaluate") => Function::Evaluate,
            Some("ml_forecast") => Function::Forecast,
            _ => return Ok(RelationPlanning::Original(Box::new(relation))),
        };
        let plan = Call::read(function, call)?.plan(self, context)?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias.clone()))))
    }
}

/// A call, its arguments by what they are.
struct Call {
    function: Function,
    span: Option<Span>,
    data: Box<ast::Query>,
    model: ast::Expr,
    label: Option<ast::Expr>,
    features: Option<ast::Expr>,
    time: Option<ast::Expr>,
    keys: Option<ast::Expr>,
}

impl Call {
    fn read(function: Function, call: &ast::Function) -> DataFusionResult<Self> {
        let span = Span::try_from_sqlparser_span(call.name.span());
        let name = function.name();
        let wrong = |message: String| at(Error::invalid(message).help(function.usage()), span);
        let (data, arguments) = arguments(call, (name, "a table and a model"), TABLE_ARGUMENTS[1], &wrong)?;
        let (order, mut position) = (function.arguments(), 0);
        let mut found: Vec<Option<ast::Expr>> = vec![None; order.len()];
        for (given, value) in arguments {
            let place = match &given {
                Some(given) => order.iter().position(|it| it == given),
                None => Some(position).filter(|place| *place < order.len()),
            };
            // What PARTITION BY becomes stands before the model.
            position += usize::from(given.as_deref() != Some(KEYS_ARGUMENT));
            let Some(place) = place else {
                let what = given.map_or_else(
                    || format!("{name} has too many arguments"),
                    |given| format!("{name} has no argument '{given}'"),
                );
                return Err(at(Error::invalid(what).help(function.usage()), span_of(&value).or(span)));
            };
            if found[place].replace(value).is_some() {
                return Err(wrong(format!("{name} has two arguments '{}'", order[place])));
            }
        }
        let mut take = |name: &str| found[order.iter().position(|it| *it == name)?].take();
        let model = take("model").ok_or_else(|| wrong(format!("{name} needs a model")))?;
        let (label, features) = (take("label"), take("args"));
        let (time, keys) = (take("timecol"), take(KEYS_ARGUMENT));
        let read = Self { function, span, data, model, label, features, time, keys };
        if function == Function::Evaluate && read.label.is_none() {
            return Err(wrong("ML_EVALUATE needs the column of what came true".to_owned()));
        }
        Ok(read)
    }

    fn plan(
        self,
        relations: &ModelRelations,
        context: &mut dyn RelationPlannerContext,
    ) -> DataFusionResult<LogicalPlan> {
        let input = plan_table(self.data.clone(), context)?;
        let reference = self.reference(context)?;
        let model_span = span_of(&self.model).or(self.span);
        if self.function == Function::Forecast {
            let model = relations.models.live(&reference).map_err(|error| at(error, model_span))?;
            return self.forecast(model, input, context);
        }
        let served = relations.models.find(&reference).map_err(|error| at(error, model_span))?;
        let version = served.current();
        let columns = self.features(&version, input.schema(), context)?;
        let mut arguments = vec![lit(reference)];
        if !columns.is_empty() {
            let names = version.stored.model.features.iter().map(|feature| lit(feature.name.clone()));
            let fields = names.zip(columns).flat_map(|(name, column)| [name, Expr::Column(column)]);
            arguments.push(named_struct(fields.collect()));
        }
        let call = Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&relations.predict), arguments));
        match self.function {
            Function::Predict => self.with_prediction(input, call),
            Function::Evaluate if relations.models.keeps() => {
                let error = Error::unsupported("ML_EVALUATE over a stream")
                    .help("evaluate over stored rows with `tidemill query`; in a stream compute the error of each row");
                Err(at(error, self.span))
            }
            Function::Evaluate => self.evaluated(input, call, &version.stored.model, context),
            Function::Forecast => Err(Error::internal("ML_FORECAST is planned before").into()),
        }
    }

    /// The model's name: a name, folded as SQL does, or a text such as `'sell_price@2'`.
    fn reference(&self, context: &mut dyn RelationPlannerContext) -> DataFusionResult<String> {
        match &self.model {
            ast::Expr::Identifier(name) => Ok(context.normalize_ident(name.clone())),
            ast::Expr::Value(value) => {
                if let ast::Value::SingleQuotedString(text) = &value.value {
                    return Ok(text.clone());
                }
                Err(self.no_model())
            }
            _ => Err(self.no_model()),
        }
    }

    fn no_model(&self) -> DataFusionError {
        let error = Error::invalid(format!("'{}' stands where {} has a model", self.model, self.function.name()));
        at(error.help(self.function.usage()), span_of(&self.model).or(self.span))
    }

    /// The column of each feature, in the model's order.
    fn features(
        &self,
        version: &Version,
        schema: &DFSchema,
        context: &mut dyn RelationPlannerContext,
    ) -> DataFusionResult<Vec<Column>> {
        let model = &version.stored.model;
        let names: Vec<&str> = model.features.iter().map(|feature| feature.name.as_str()).collect();
        let span = self.features.as_ref().and_then(span_of).or(self.span);
        let wrong =
            |message: String| at(Error::invalid(message).help(format!("its features are {}", names.join(", "))), span);
        let columns = match &self.features {
            None => {
                let find = |name: &&str| schema.qualified_field_with_unqualified_name(name).map(Column::from);
                names.iter().map(find).collect::<DataFusionResult<Vec<_>>>().map_err(|_| {
                    wrong(format!("the table does not have all features of the model {}", version.label()))
                })?
            }
            Some(list) => {
                let given = descriptor(list).ok_or_else(|| {
                    wrong(format!("'{list}' stands where {} has DESCRIPTOR(..)", self.function.name()))
                })?;
                let given =
                    given.into_iter().map(|it| column(it, schema, context)).collect::<DataFusionResult<Vec<_>>>()?;
                if given.len() != names.len() {
                    let (wanted, found) = (names.len(), given.len());
                    let label = version.label();
                    return Err(wrong(format!(
                        "the model {label} has {wanted} features, and DESCRIPTOR names {found}"
                    )));
                }
                in_order(given, &names).map_err(wrong)?
            }
        };
        let types = columns
            .iter()
            .zip(&names)
            .map(|(column, name)| Ok(Field::new(*name, schema.field_from_column(column)?.data_type().clone(), true)));
        let found = Schema::new(types.collect::<DataFusionResult<Vec<_>>>()?);
        match differences(model, &found).into_iter().next() {
            None => Ok(columns),
            Some(error) => Err(at(error.context(format!("the model {}", version.label())), span)),
        }
    }

    /// The table's columns, and `prediction`.
    fn with_prediction(&self, input: LogicalPlan, call: Expr) -> DataFusionResult<LogicalPlan> {
        if input.schema().fields().iter().any(|field| field.name() == PREDICTION) {
            let error = Error::invalid(format!("the table already has a column '{PREDICTION}'"));
            return Err(at(error.help("leave it out, or give it another name with AS in a subquery"), self.span));
        }
        let columns = input.schema().columns().into_iter().map(Expr::Column);
        let columns: Vec<Expr> = columns.chain([call.alias(PREDICTION)]).collect();
        LogicalPlanBuilder::from(input).project(columns)?.build()
    }

    /// The table's columns, the forecast from each row, and what it says about earlier ones.
    fn forecast(
        &self,
        model: Arc<LiveModel>,
        input: LogicalPlan,
        context: &mut dyn RelationPlannerContext,
    ) -> DataFusionResult<LogicalPlan> {
        let schema = Arc::clone(input.schema());
        let mut columns = |what: &str, list: Option<&ast::Expr>| -> DataFusionResult<Vec<Column>> {
            let Some(list) = list else { return Ok(Vec::new()) };
            // What `PARTITION BY (a, b)` becomes.
            let given = match list {
                ast::Expr::Tuple(names) => Some(names.iter().collect()),
                ast::Expr::Identifier(_) | ast::Expr::Nested(_) if what == "keys" => Some(vec![list]),
                list => descriptor(list),
            };
            let given = given.ok_or_else(|| {
                let error = Error::invalid(format!("'{list}' stands where ML_FORECAST has its {what}"));
                at(error.help(Function::Forecast.usage()), span_of(list).or(self.span))
            })?;
            given.into_iter().map(|it| column(it, &schema, context)).collect()
        };
        let (time, features) = (columns("time", self.time.as_ref())?, columns("features", self.features.as_ref())?);
        let keys = columns("keys", self.keys.as_ref())?;
        let wrong = |message: &str| at(Error::invalid(message).help(self.function.usage()), self.span);
        let Ok([time]) = <[Column; 1]>::try_from(time) else {
            return Err(wrong("ML_FORECAST needs the one column of the event time"));
        };
        if features.is_empty() {
            return Err(wrong("ML_FORECAST needs the columns that it forecasts from"));
        }
        let target = place_of(schema.as_arrow(), &model.options.target, "the model's target")
            .map_err(|error| at(error, span_of(&self.model).or(self.span)))?;
        let target = Column::from(schema.qualified_field(target));
        let forecast = Forecast::try_new(Arc::new(input), model, (time, target), (features, keys));
        forecast.map(Forecast::into_plan).map_err(|error| at(error, self.span))
    }

    /// One row of metrics.
    fn evaluated(
        &self,
        input: LogicalPlan,
        call: Expr,
        model: &Model,
        context: &mut dyn RelationPlannerContext,
    ) -> DataFusionResult<LogicalPlan> {
        let Some(label) = &self.label else { return Err(Error::internal("ML_EVALUATE without a label").into()) };
        let span = span_of(label).or(self.span);
        let given = descriptor(label);
        let Some([name]) = given.as_deref() else {
            let error = Error::invalid(format!("'{label}' stands where ML_EVALUATE has DESCRIPTOR(label)"));
            return Err(at(error.help(self.function.usage()), span));
        };
        let label = column(name, input.schema(), context)?;
        let data_type = input.schema().field_from_column(&label)?.data_type().clone();
        if !data_type.is_numeric() {
            let error =
                Error::invalid(format!("the label '{}' is {data_type}, and a prediction is a number", label.name));
            return Err(at(error.help("CAST it to DOUBLE in a subquery"), span));
        }
        evaluation::plan(input, Expr::Column(label), call, model)
    }
}

/// The columns in the order of the features: by name if they have the features' names, else by place, as Flink has it.
fn in_order(given: Vec<Column>, names: &[&str]) -> Result<Vec<Column>, String> {
    let by_name = |name: &&str| given.iter().find(|column| column.name == *name).cloned();
    if let Some(ordered) = names.iter().map(by_name).collect::<Option<Vec<_>>>() {
        return Ok(ordered);
    }
    let elsewhere = |(column, own): &(&Column, &&str)| column.name != **own && names.contains(&column.name.as_str());
    if let Some((column, own)) = given.iter().zip(names).find(elsewhere) {
        let found = &column.name;
        return Err(format!(
            "the column '{found}' stands where the model has '{own}', and it has a feature '{found}' too"
        ));
    }
    Ok(given)
}

#[cfg(test)]
#[path = "relation_tests.rs"]
mod tests;
