//! The models that a query predicts with: one version in each batch, another only between two.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use datafusion::{logical_expr::LogicalPlan, prelude::SessionContext};
use serde::Serialize;

use crate::{
    catalog::Job,
    clock::Stopwatch,
    error::{Error, Result},
    model::{
        Models, Served,
        function::{self, models_of},
        serving::Look,
    },
};

/// How often a query looks at most whether another version was promoted.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The models of one query.
#[derive(Debug)]
pub struct QueryModels {
    served: Vec<Arc<Served>>,
    last_look: Mutex<Option<Stopwatch>>,
}

/// What progress says of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelInUse {
    /// As the SQL says it.
    pub name: String,
    /// The one that predicted.
    pub version: u64,
    /// Why the version that the name means by now was not taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

impl ModelInUse {
    /// For the line of progress.
    pub fn to_text(&self) -> String {
        let name = self.name.split_once('@').map_or(self.name.as_str(), |(name, _)| name);
        let refused = if self.refused.is_some() { " (the promoted one does not fit)" } else { "" };
        format!("  model {name}@{}{refused}", self.version)
    }
}

/// Teaches a session the models of `job`, and those of the default directory.
///
/// # Errors
/// `Invalid` at an option of a CREATE MODEL.
pub fn register(context: &SessionContext, job: &Job) -> Result<()> {
    let models = Arc::new(Models::of_stream());
    for model in &job.models {
        models.declare(model)?;
    }
    Ok(function::register(context, &models)?)
}

impl QueryModels {
    /// Those of an optimised plan.
    ///
    /// # Errors
    /// DataFusion's.
    pub fn of(optimized: &LogicalPlan) -> Result<Self> {
        Ok(Self { served: models_of(optimized)?, last_look: Mutex::default() })
    }

    /// Between two batches: takes the versions that were promoted. What cannot be used is said once, and the version
    /// before it stays: a promotion must not stop a job that runs.
    pub fn look(&self) -> Vec<String> {
        if self.served.is_empty() {
            return Vec::new();
        }
        let mut last = self.last_look.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_some_and(|last| last.elapsed() < LOOK_INTERVAL) {
            return Vec::new();
        }
        *last = Some(Stopwatch::start());
        let mut sentences = Vec::new();
        for served in &self.served {
            match served.look() {
                Look::Same => {}
                Look::Moved(version) => tracing::info!(model = served.name, version, "predicts by another version"),
                Look::Refused(error) => {
                    sentences.push(format!("the query goes on with {}: {error}", served.current().label()));
                }
            }
        }
        sentences
    }

    /// The version of each.
    pub fn versions(&self) -> BTreeMap<String, u64> {
        self.served.iter().map(|served| (served.name.clone(), served.revision())).collect()
    }

    /// Takes the versions that a batch was announced with. A model that it does not name keeps its own: the SQL is newer.
    ///
    /// # Errors
    /// `NotFound` if a version is gone, naming its file; `Invalid` if it does not fit the plan.
    pub fn go_to(&self, versions: &BTreeMap<String, u64>) -> Result<()> {
        for served in &self.served {
            if let Some(version) = versions.get(&served.name) {
                served.go_to(*version)?;
            }
        }
        Ok(())
    }

    /// For progress.
    pub fn in_use(&self) -> Vec<ModelInUse> {
        let of = |served: &Arc<Served>| ModelInUse {
            name: served.name.clone(),
            version: served.revision(),
            refused: served.refusal(),
        };
        self.served.iter().map(of).collect()
    }

    /// What a dry run says of them.
    pub fn describe(&self) -> String {
        let of = |served: &Arc<Served>| {
            let (name, version) = (&served.name, served.current());
            let path = version.stored.path.display();
            format!("predicts with {name}: {} ({path}), looked at again before each batch\n", version.label())
        };
        self.served.iter().map(of).collect()
    }
}

/// The error of a batch whose models are not there any more.
pub fn gone(error: Error, batch: u64, checkpoint: &str) -> Error {
    let text = format!("batch {batch} has to run again with the models that {checkpoint}/offsets/{batch} names");
    let help = "put the file back: until the batch is committed, its versions are needed";
    let error = error.context(text);
    if error.advice().is_some() { error } else { error.help(help) }
}
