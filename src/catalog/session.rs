//! The one place that makes a DataFusion session, so that streams and queries plan alike.

use std::sync::Arc;

use datafusion::{
    execution::{
        SessionStateBuilder,
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        memory_pool::FairSpillPool,
        runtime_env::RuntimeEnvBuilder,
    },
    prelude::{SessionConfig, SessionContext},
};

use crate::error::Result;

/// Limits and parallelism of a session.
#[derive(Debug, Clone, Copy)]
pub struct SessionLimits {
    /// Bytes for sorts, joins and aggregates; beyond it they spill to the disk's temporary directory.
    pub memory_bytes: usize,
    pub partitions: usize,
}

/// A session whose strings are `Utf8` (not views: files, state and decoders agree on one type) and whose memory is
/// bounded.
///
/// # Errors
/// `Internal` if the temporary directory cannot be used.
pub fn session(limits: SessionLimits) -> Result<SessionContext> {
    let mut config = SessionConfig::new().with_target_partitions(limits.partitions).with_information_schema(true);
    let options = config.options_mut();
    options.sql_parser.map_string_types_to_utf8view = false;
    // For errors that point at their place.
    options.sql_parser.collect_spans = true;
    options.execution.parquet.schema_force_view_types = false;
    options.execution.time_zone = Some("+00:00".to_owned());
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(limits.memory_bytes)))
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::OsTmpDirectory))
        .build_arc()?;
    let state =
        SessionStateBuilder::new().with_config(config).with_runtime_env(runtime).with_default_features().build();
    #[expect(clippy::disallowed_methods, reason = "the one place that may")]
    let context = SessionContext::new_with_state(state);
    Ok(context)
}
