//! Linear regression over a query: a QR factor reduced chunk by chunk, solved by linfa.
//!
//! | file | holds |
//! |---|---|
//! | `columns`, `dataset` | record batches to columns of `f64`: vocabularies, weights, times; unusable rows counted |
//! | `split`, `plan` | which rows train and which test: at random, or in the order of time |
//! | `horizon`, `lookahead` | targets that lie ahead, as SQL; features that do so too, found in the plan |
//! | `qr` | the fixed-size, mergeable state of a regression |
//! | `weighting` | weights and exponential forgetting |
//! | `fit`, `penalty` | from that state to coefficients, and to what is wrong with the columns |
//! | `statistics` | standard errors, tests, intervals |
//! | `score`, `residual` | errors, and those of naive baselines on the same rows |
//! | `warning` | leaks, missing skill, unreliable coefficients |
//! | `passes`, `train` | the passes over the query |
//! | `artifact`, `registry` | a model as a file, and the directory of models |
//! | `report`, `plot`, `compare` | what training found, as text, JSON and SVG; two models side by side |
//! | `predict` | a model applied to record batches |
//! | `serving` | which version of a model a session means, and when a stream takes another |
//! | `aggregate`, `function`, `relation` | `linreg_fit`, `predict`, `ML_PREDICT` and `ML_EVALUATE` in SQL, whose metrics `evaluation` plans |
//! | `request` | what a training is asked for, on the command line or by CREATE MODEL |
//! | `live` | `ML_FORECAST`: a model that goes on learning while it forecasts |
//!
//! Deliberately absent: the rows. Training keeps a triangle of numbers, whatever the size of the data.

pub mod aggregate;
pub mod artifact;
pub mod columns;
pub mod compare;
pub mod dataset;
mod evaluation;
mod exact;
pub mod file;
pub mod fit;
pub mod function;
pub mod horizon;
pub mod live;
pub mod lookahead;
mod passes;
pub mod penalty;
pub mod plan;
pub mod plot;
pub mod predict;
pub mod qr;
pub mod registry;
mod relation;
pub mod report;
pub mod request;
pub mod residual;
pub mod score;
pub mod serving;
mod shown;
pub mod split;
pub mod statistics;
pub mod train;
pub mod warning;
pub mod weighting;

pub use artifact::Model;
pub use plan::Evaluate;
pub use predict::Predictor;
pub use registry::{Registry, Stored};
pub use request::TrainRequest;
pub use serving::{Models, Served};
pub use train::{TrainOptions, Training, train};
pub use warning::Warning;
