//! Training on what a query gives: `tidemill train`, and `CREATE MODEL ... AS SELECT` in a script.

use std::sync::Arc;

use datafusion::execution::SendableRecordBatchStream;

use super::{kafka_table::KafkaRanges, session::QuerySession};
use crate::{
    catalog::{ModelStatement, locate_error},
    error::{Error, Result},
    model::{
        Registry, Stored, TrainRequest, Training, artifact::ReadRange, horizon::over_input, lookahead::look_ahead,
        request::in_sql, train,
    },
    session::plan_sql,
    source::OffsetRange,
};

/// A query that can be run again and again, and gives the same rows in the same order: that says which of them test.
#[derive(Debug)]
pub struct RepeatableQuery {
    session: QuerySession,
    sql: String,
    /// What it read of Kafka.
    ranges: Arc<KafkaRanges>,
}

/// What became of a `CREATE MODEL`.
#[derive(Debug)]
pub enum CreatedModel {
    /// It says where a model is.
    Declared,
    /// `IF NOT EXISTS`, and it does.
    Kept,
    Trained(Box<(Stored, Training)>),
}

impl RepeatableQuery {
    /// Nothing is run.
    pub fn new(session: &QuerySession, sql: impl Into<String>) -> Self {
        let (session, ranges) = session.repeatable();
        Self { session, sql: sql.into(), ranges }
    }

    /// The same rows, seen through another query.
    ///
    /// # Errors
    /// Those of `around`.
    pub fn wrapped(self, around: impl FnOnce(&str) -> Result<String>) -> Result<Self> {
        Ok(Self { sql: around(&self.sql)?, ..self })
    }

    /// Trains a model on the rows: the query with the request's own around it, in the order of its times. `progress` gets
    /// the rows of each batch.
    ///
    /// # Errors
    /// The query's; as `model::train`.
    pub async fn train(self, mut request: TrainRequest, progress: &(dyn Fn(u64) + Sync)) -> Result<Training> {
        let mut query = self;
        if let Some(features) = &request.query {
            query = query.wrapped(|source| Ok(over_input(source, features)))?;
        }
        let columns = query.columns().await?;
        request.choose_features(columns.iter().map(|(name, _)| name.as_str()));
        let shape = request.shape()?;
        let mut options = request.options(&shape)?;
        options.looking_ahead = columns.into_iter().filter_map(|(name, by)| by.map(|by| (name, by))).collect();
        let query = query.wrapped(|sql| shape.around(sql))?;
        let mut training = train(&options, |needed| query.stream(Some(needed)), progress).await?;
        let read = query.ranges.all().into_iter();
        training.model.training.offsets = read
            .map(|OffsetRange { topic, partition, start, end }| ReadRange { topic, partition, from: start, until: end })
            .collect();
        Ok(training)
    }

    /// Its columns, and which of them are made of later rows, and by what.
    async fn columns(&self) -> Result<Vec<(String, Option<String>)>> {
        let plan = plan_sql(&self.session.context().state(), &self.sql).await?;
        let names = plan.schema().fields().iter().map(|field| field.name().clone());
        Ok(names.zip(look_ahead(&plan)).collect())
    }

    /// Runs the query. With `needed` only these columns are read, if they are all there.
    ///
    /// # Errors
    /// The query's.
    pub async fn stream(&self, needed: Option<Vec<String>>) -> Result<SendableRecordBatchStream> {
        let rows = self.session.select(&self.sql).await?;
        let schema = rows.schema();
        let once = |name: &&String| schema.fields().iter().filter(|field| field.name() == *name).count() == 1;
        let Some(needed) = needed.filter(|needed| !needed.is_empty() && needed.iter().all(|name| once(&name))) else {
            return Ok(rows.into_stream());
        };
        let columns: Vec<&str> = needed.iter().map(String::as_str).collect();
        Ok(self.session.select_columns(&self.sql, &columns).await?.into_stream())
    }
}

impl QuerySession {
    /// `CREATE MODEL`: with AS SELECT it trains and saves the next version, without it says where a model is.
    ///
    /// # Errors
    /// `Invalid`, at its place, for options that are wrong, and for a model that is there (without OR REPLACE); the
    /// query's; as `model::train`.
    pub async fn create_model(
        &self,
        statement: &ModelStatement,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<CreatedModel> {
        let Some(select) = &statement.query else {
            self.models().declare(statement)?;
            return Ok(CreatedModel::Declared);
        };
        let (request, path) = TrainRequest::of(statement)?;
        let registry = path.map_or_else(|| self.models().registry(), Registry::new);
        crate::model::registry::check_name(&statement.name).map_err(|error| error.at(statement.place.clone()))?;
        let newest = registry.revisions(&statement.name)?.last().copied();
        if let Some(newest) = newest.filter(|_| !statement.replace) {
            self.models().trained(statement, registry.clone());
            if statement.if_not_exists {
                return Ok(CreatedModel::Kept);
            }
            let (name, directory) = (&statement.name, registry.directory().display());
            let error =
                Error::invalid(format!("there is a model '{name}' in {directory} already, up to {name}@{newest}"));
            return Err(error.at(statement.place.clone()).help(
                "CREATE OR REPLACE MODEL trains its next version, and keeps the others; CREATE MODEL IF NOT EXISTS keeps \
                 it as it is",
            ));
        }
        // First, for the places of its errors.
        plan_sql(&self.context().state(), select.sql()).await.map_err(|error| locate_error(error, select))?;
        let query = RepeatableQuery::new(self, select.sql());
        let training = query.train(request, progress).await.map_err(|error| {
            let error = in_sql(&error);
            if error.place().is_some() { error } else { error.at(statement.place.clone()) }
        })?;
        let stored = registry.save(training.model.clone())?;
        self.models().trained(statement, registry);
        Ok(CreatedModel::Trained(Box::new((stored, training))))
    }
}
