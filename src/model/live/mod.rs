//! A model that goes on learning while it forecasts: `ML_FORECAST`.
//!
//! Rows come in the order of event time. Each is a forecast of the target one horizon later, and the truth about a forecast
//! that was made one horizon before. So the error is *prequential*: of forecasts made before the truth was known (Dawid,
//! J. R. Stat. Soc. A 147, 1984; Gama, Sebastiao, Rodrigues, Machine Learning 90, 2013).
//!
//! | file | holds |
//! |---|---|
//! | `options` | what is forecast, and how the model learns |
//! | `examples` | forecasts that wait for the truth; those that it has come for; the factor of the older ones |
//! | `prequential` | errors of the model and of the naive forecast |
//! | `drift`, `adwin` | Page-Hinkley and ADWIN: has the error grown? |
//! | `champion` | the model that serves, its challenger, and who wins |
//! | `forecaster` | the loop, row by row |
//! | `recent` | what it has just done, for people to look at |
//! | `rows` | record batches in, record batches out |
//! | `saved` | all of it as text, for a checkpoint |
//! | `publish` | a promoted model as a version in the directory of models |
//! | `node`, `exec` | `ML_FORECAST` in a plan |
//!
//! Nothing here knows of batches or of the wall clock: the same rows give the same forecasts, however a stream cuts them,
//! and in a query over stored files.

mod adwin;
mod champion;
mod drift;
mod examples;
mod exec;
mod forecaster;
mod node;
mod options;
mod prequential;
mod publish;
mod recent;
mod rows;
mod saved;

pub use champion::{Decision, Promotion, Reason, Verdict};
pub use exec::{ForecastExtension, ForecastSlot};
pub use forecaster::{Forecaster, Standing};
pub use node::{Forecast, LiveModel, Question};
pub use options::{Drift, LiveOptions, Span};
pub use publish::publish;
pub use recent::{Ahead, Happening, Recent, Scored, spell_series};
pub use rows::Columns;
