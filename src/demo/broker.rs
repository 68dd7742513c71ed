//! An in-process Kafka broker: librdkafka's mock cluster, a real listener on loopback that speaks the real protocol.
//!
//! It keeps 5 MiB per partition in memory and forgets it with the process, which is enough for a demo whose stream
//! reads along.

use rdkafka::{mocking::MockCluster, producer::DefaultProducerContext};

use crate::error::{Error, Result};

/// The topic of the demo, and of the job that it runs.
pub const TOPIC: &str = "bitcointopic";
/// Each holds 5 MiB, so several hold a few minutes of the fastest demo.
const PARTITIONS: i32 = 4;

/// The broker; it ends with this value.
pub struct Broker {
    _cluster: MockCluster<'static, DefaultProducerContext>,
    address: String,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Broker {
    /// Starts it, with the topic.
    ///
    /// # Errors
    /// `Internal` if no port is free.
    pub fn start() -> Result<Self> {
        let failed = |error| Error::internal("the in-process broker does not start").source_error(error);
        let cluster = MockCluster::new(1).map_err(failed)?;
        cluster.create_topic(TOPIC, PARTITIONS, 1).map_err(failed)?;
        let address = cluster.bootstrap_servers();
        Ok(Self { _cluster: cluster, address })
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }
}
