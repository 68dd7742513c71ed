//! Simulated prices into the demo's topic.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{DemoOptions, broker::TOPIC};
use crate::{
    clock::{self, Stopwatch},
    error::{Error, Result},
    produce::{
        simulate::{Model, RecordKind, Simulator, SimulatorOptions},
        topic::{Sent, TopicOptions, TopicProducer},
    },
};

/// How often due prices are sent.
const TICK: Duration = Duration::from_millis(50);
/// One record in so many is spoilt on purpose, so that there is a dead letter to look at.
const POISON: f64 = 0.001;
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// The running producer.
#[derive(Debug)]
pub struct Feed {
    latest: Arc<Mutex<Latest>>,
    task: JoinHandle<Result<SentCounts>>,
}

/// What was sent last.
#[derive(Debug, Clone, Default)]
pub struct Latest {
    pub value: Vec<u8>,
    pub sent: u64,
}

/// What was sent in all.
#[derive(Debug, Clone, Copy, Default)]
pub struct SentCounts {
    pub records: u64,
    pub poisoned: u64,
}

impl Feed {
    /// Starts sending until `stop`.
    ///
    /// # Errors
    /// The producer's.
    pub async fn start(options: &DemoOptions, brokers: &str, stop: CancellationToken) -> Result<Self> {
        let target = TopicOptions { brokers: brokers.to_owned(), topic: TOPIC.to_owned(), ..TopicOptions::default() };
        let producer = TopicProducer::open(&target).await?;
        let simulator = Simulator::new(SimulatorOptions {
            seed: options.seed,
            model: Model::RandomWalk,
            start_us: clock::now_ms() * 1000,
            step_us: 1_000_000 / i64::from(options.rate.max(1)),
            poison: POISON,
            ..SimulatorOptions::default()
        })?;
        let latest = Arc::new(Mutex::new(Latest::default()));
        let task = tokio::spawn(send(producer, simulator, options.rate, Arc::clone(&latest), stop));
        Ok(Self { latest, task })
    }

    /// What was sent last.
    pub fn latest(&self) -> Latest {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until everything is delivered; stop it first.
    ///
    /// # Errors
    /// The producer's.
    pub async fn finish(self) -> Result<SentCounts> {
        self.task.await.map_err(|error| Error::internal("the producer's task died").source_error(error))?
    }
}

async fn send(
    producer: TopicProducer,
    mut simulator: Simulator,
    rate: u32,
    latest: Arc<Mutex<Latest>>,
    stop: CancellationToken,
) -> Result<SentCounts> {
    let (started, mut counts) = (Stopwatch::start(), SentCounts::default());
    let (mut key, mut value) = (Vec::new(), Vec::new());
    while !stop.is_cancelled() {
        let due = (started.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        while counts.records < due {
            let kind = simulator.next_record(&mut key, &mut value)?;
            // No key: the prices spread over the partitions.
            while producer.send(None, &value)? == Sent::Full {
                producer.poll()?;
                clock::sleep(TICK).await;
            }
            counts.records += 1;
            if kind == RecordKind::Poison {
                counts.poisoned += 1;
            } else {
                *latest.lock().unwrap_or_else(PoisonError::into_inner) =
                    Latest { value: value.clone(), sent: counts.records };
            }
        }
        producer.poll()?;
        tokio::select! {
            () = clock::sleep(TICK) => {}
            () = stop.cancelled() => {}
        }
    }
    producer.flush(FLUSH_TIMEOUT).await?;
    Ok(counts)
}
