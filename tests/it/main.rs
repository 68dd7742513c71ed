//! Every integration test in one binary, so that DataFusion links once. `scripts/test.sh` starts the services that
//! they need and runs them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, unreachable_pub)]

mod support;

mod bad_input;
mod crash;
mod decode;
mod demo;
mod doubt;
mod explain;
mod forecast;
mod inputs;
mod isolate;
mod job_file;
mod joins;
mod kafka_source;
mod late;
mod model;
mod model_jobs;
mod nexmark;
mod output_mode;
mod page;
mod produce;
mod query;
mod reset_state;
mod scoring;
mod sink;
mod sql_files;
mod static_join;
mod store;
mod stream;
mod tidy;
mod window;
mod windowed;
