//! Table functions of event time in FROM: `TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE)` and its kin.

use std::sync::Arc;

use datafusion::{
    common::{DFSchema, ExprSchema, Result as DataFusionResult},
    logical_expr::{
        Expr, LogicalPlan,
        planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning},
    },
    sql::sqlparser::ast::{self, TableFactor},
};

use super::{
    SessionAssign, WindowAssign, WindowKind,
    arguments::{Argument, Function, at, zone_of_type},
    call::{TableCall, descriptor, is_column, span_of},
    deduplicate, event_time, gap_fill,
};
use crate::{catalog::event_time_function, error::Error};

const BEFORE: &str = "TABLE t, DESCRIPTOR(time), ";

/// Plans the table functions of event time.
#[derive(Debug)]
pub struct WindowRelations;

impl RelationPlanner for WindowRelations {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> DataFusionResult<RelationPlanning> {
        let TableFactor::TableFunction { expr: ast::Expr::Function(call), alias } = &relation else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let plan = match event_time_function(&call.name) {
            Some("gap_fill") => gap_fill::plan(call, context)?,
            Some("deduplicate") => deduplicate::plan(call, context)?,
            name => match name.and_then(Function::named) {
                Some(function) => Call::read(function, call)?.plan(context)?,
                None => return Ok(RelationPlanning::Original(Box::new(relation))),
            },
        };
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias.clone()))))
    }
}

/// A window function with what its arguments are.
struct Call {
    function: Function,
    call: TableCall,
    time: Option<ast::Expr>,
    measures: Vec<(Option<String>, ast::Expr)>,
}

impl Call {
    fn read(function: Function, call: &ast::Function) -> DataFusionResult<Self> {
        let mut call = TableCall::read(function.to_string(), function.usage(BEFORE), call)?;
        let (mut time, mut measures) = (None, Vec::new());
        for (name, value) in std::mem::take(&mut call.others) {
            let is_time = match name.as_deref() {
                Some(name) => name == "timecol",
                None => time.is_none() && measures.is_empty() && (descriptor(&value).is_some() || is_column(&value)),
            };
            if is_time {
                time = Some(value);
            } else {
                measures.push((name, value));
            }
        }
        if function != Function::Session && !call.keys.is_empty() {
            let error = Error::unsupported(format!("{function} has no PARTITION BY: each row has its windows"));
            return Err(at(error.help("GROUP BY window_start, window_end and the key"), call.span));
        }
        Ok(Self { function, call, time, measures })
    }

    fn plan(self, context: &mut dyn RelationPlannerContext) -> DataFusionResult<LogicalPlan> {
        let input = self.call.input(context)?;
        let schema = Arc::clone(input.schema());
        let (time, time_span) = match &self.time {
            None => (event_time(&schema).map_err(|error| at(error, self.call.span))?, self.call.span),
            Some(time) => (self.call.time_column(time, &schema, context)?, span_of(time)),
        };
        let keys = self.call.key_columns(&schema, context)?.into_iter().map(Expr::Column).collect();
        let empty = DFSchema::empty();
        let mut measures = Vec::with_capacity(self.measures.len());
        for (name, value) in self.measures {
            let span = span_of(&value);
            if is_column(&value) || descriptor(&value).is_some() {
                return Err(self.call.wrong(format!("'{value}' stands where {} has a duration", self.function), span));
            }
            measures.push(Argument { name, value: context.sql_to_expr(value, &empty)?, span });
        }
        let zone = zone_of_type(schema.field_from_column(&time)?.data_type());
        let spec = self.function.spec(&measures, zone, self.call.span, BEFORE)?;
        let input = Arc::new(input);
        let plan = if spec.kind == WindowKind::Session {
            SessionAssign::try_new(input, time, spec.size_us, keys).map(SessionAssign::into_plan)
        } else {
            WindowAssign::try_new(input, time, spec).map(WindowAssign::into_plan)
        };
        plan.map_err(|error| at(error, time_span))
    }
}
