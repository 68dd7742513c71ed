//! Linear regression over a query: a QR factor reduced chunk by chunk, solved by linfa.
//!
//! | file | holds |
//! |---|---|
//! | `split` | which rows train and which test |
//! | `dataset` | record batches to columns of `f64`, unusable rows counted |
//! | `qr` | the fixed-size, mergeable state of a regression |
//! | `fit` | from that state to coefficients, and to what is wrong with the columns |
//! | `score` | errors, and those of naive baselines on the same rows |
//! | `warning` | leaks, missing skill, unreliable coefficients |
//! | `train` | the two passes over the query |
//! | `artifact`, `registry` | a model as a file, and the directory of models |
//! | `report` | what training found, as text and JSON |
//! | `predict` | a model applied to record batches |
//!
//! Deliberately absent: the rows. Training keeps a triangle of numbers, whatever the size of the data.

pub mod artifact;
pub mod dataset;
mod exact;
pub mod file;
pub mod fit;
pub mod predict;
pub mod qr;
pub mod registry;
pub mod report;
pub mod score;
pub mod split;
pub mod train;
pub mod warning;

pub use artifact::Model;
pub use predict::Predictor;
pub use registry::{Registry, Stored};
pub use train::{TrainOptions, Training, train};
pub use warning::Warning;
