//! The models that a query names.

use std::sync::Arc;

use datafusion::prelude::SessionContext;

use crate::{
    catalog::Job,
    error::Result,
    model::{Models, function},
};

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
