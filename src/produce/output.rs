//! Where a source's records go: a topic or a text stream, until a limit or a wish to stop.

use std::{
    future::Future,
    io::{ErrorKind as IoErrorKind, Write},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::{
    clock::{self, Stopwatch},
    error::{Error, Result},
    produce::{
        progress::{Progress, ProgressMode, Totals},
        topic::{Sent, TopicProducer},
    },
};

/// Between two looks at delivery reports and the progress line.
const LOOK_EVERY_RECORDS: u32 = 512;
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A full queue empties by thousands in this time.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(1);
/// Confirmations that take longer than this at the end count as failed.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(30);

/// Takes records one by one, counts them, and knows when it is enough.
#[derive(Debug)]
pub struct Output {
    target: Target,
    left: Option<u64>,
    stop: CancellationToken,
    progress: Progress,
    watch: Stopwatch,
    unseen: u32,
    totals: Totals,
    notes: Vec<(String, u64)>,
}

enum Target {
    Topic(TopicProducer),
    Lines(Box<dyn Write + Send>),
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Topic(topic) => topic.fmt(f),
            Self::Lines(_) => f.write_str("Lines"),
        }
    }
}

/// What was done, in the end.
#[derive(Debug, Clone)]
pub struct Report {
    pub totals: Totals,
    pub elapsed: Duration,
    /// Where the records went, for a person.
    pub destination: String,
    /// What the source counted beside: injected faults, gaps.
    pub notes: Vec<(String, u64)>,
}

impl Report {
    /// The count under this name; 0 when there is none.
    pub fn note(&self, name: &str) -> u64 {
        self.notes.iter().find(|(found, _)| found == name).map_or(0, |(_, count)| *count)
    }
}

impl Output {
    /// Into a topic.
    pub fn to_topic(producer: TopicProducer, stop: CancellationToken, progress: ProgressMode) -> Self {
        let progress = Progress::new(progress, producer.topic());
        Self::new(Target::Topic(producer), stop, progress)
    }

    /// Values as lines, keys left out: a look at the records without a broker.
    pub fn to_lines(writer: Box<dyn Write + Send>, stop: CancellationToken, progress: ProgressMode) -> Self {
        Self::new(Target::Lines(writer), stop, Progress::new(progress, "lines"))
    }

    fn new(target: Target, stop: CancellationToken, progress: Progress) -> Self {
        let (watch, totals) = (Stopwatch::start(), Totals::default());
        Self { target, left: None, stop, progress, watch, unseen: 0, totals, notes: Vec::new() }
    }

    /// No more than this many records.
    #[must_use]
    pub fn with_count(mut self, count: Option<u64>) -> Self {
        self.left = count;
        self
    }

    /// The limit is reached, or someone wants to stop.
    pub fn done(&self) -> bool {
        self.left == Some(0) || self.stop.is_cancelled()
    }

    /// Sends one record, waiting while the queue is full; false, and nothing sent, when `done`.
    ///
    /// # Errors
    /// An earlier record was not delivered, or this one cannot be.
    pub async fn send(&mut self, key: Option<&[u8]>, value: &[u8]) -> Result<bool> {
        if self.done() {
            return Ok(false);
        }
        match &mut self.target {
            Target::Topic(producer) => {
                while producer.send(key, value)? == Sent::Full {
                    producer.poll()?;
                    if self.stop.is_cancelled() {
                        return Ok(false);
                    }
                    clock::sleep(FULL_QUEUE_PAUSE).await;
                }
            }
            Target::Lines(writer) => {
                if let Err(error) = writer.write_all(value).and_then(|()| writer.write_all(b"\n")) {
                    return self.reader_gone(error);
                }
            }
        }
        self.totals.records += 1;
        self.totals.bytes += u64::try_from(value.len() + key.map_or(0, <[u8]>::len)).unwrap_or(0);
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        self.unseen += 1;
        if self.unseen >= LOOK_EVERY_RECORDS {
            self.look()?;
        }
        Ok(true)
    }

    /// `produce ... --print | head` is no error.
    fn reader_gone(&self, error: std::io::Error) -> Result<bool> {
        if error.kind() == IoErrorKind::BrokenPipe {
            self.stop.cancel();
            return Ok(false);
        }
        Err(Error::internal("writing a record").source_error(error))
    }

    /// Serves delivery reports, lets lines out, and shows progress.
    fn look(&mut self) -> Result<()> {
        self.unseen = 0;
        match &mut self.target {
            Target::Topic(producer) => {
                producer.poll()?;
                self.totals.delivered = producer.delivered();
                self.totals.failed = producer.failed();
            }
            Target::Lines(writer) => {
                if let Err(error) = writer.flush() {
                    self.reader_gone(error)?;
                }
                self.totals.delivered = self.totals.records;
            }
        }
        self.progress.update(self.watch.elapsed(), &self.totals);
        Ok(())
    }

    /// Waits for `future`, looking after deliveries and progress meanwhile; `None` when someone wants to stop first.
    ///
    /// # Errors
    /// An earlier record was not delivered.
    pub async fn wait_for<F: Future>(&mut self, future: F) -> Result<Option<F::Output>> {
        let stop = self.stop.clone();
        let mut future = std::pin::pin!(future);
        if self.done() {
            return Ok(None);
        }
        loop {
            self.look()?;
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(None),
                output = &mut future => return Ok(Some(output)),
                () = clock::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Sleeps; false when `done`.
    ///
    /// # Errors
    /// An earlier record was not delivered.
    pub async fn pause(&mut self, duration: Duration) -> Result<bool> {
        Ok(self.wait_for(clock::sleep(duration)).await?.is_some())
    }

    /// Says something that must not be missed.
    pub fn notice(&self, text: &str) {
        self.progress.notice(text);
    }

    /// Adds to one of the source's own counts.
    pub fn note(&mut self, name: &str, count: u64) {
        match self.notes.iter_mut().find(|(found, _)| found == name) {
            Some((_, total)) => *total += count,
            None => self.notes.push((name.to_owned(), count)),
        }
    }

    /// Since the output was made.
    pub fn elapsed(&self) -> Duration {
        self.watch.elapsed()
    }

    /// Records sent so far.
    pub fn records(&self) -> u64 {
        self.totals.records
    }

    /// Waits for the last confirmations. The report is true whether or not there is an error with it.
    pub async fn finish(mut self) -> (Report, Result<()>) {
        let mut outcome = match &mut self.target {
            Target::Topic(producer) => producer.flush(FLUSH_TIMEOUT).await,
            Target::Lines(_) => Ok(()),
        };
        if let Err(error) = self.look() {
            outcome = outcome.and(Err(error));
        }
        let destination = match &self.target {
            Target::Topic(producer) => {
                self.totals.delivered = producer.delivered();
                // What is neither confirmed nor given up may or may not be in the topic: that is no success.
                self.totals.failed = self.totals.records.saturating_sub(self.totals.delivered);
                format!("topic '{}'", producer.topic())
            }
            Target::Lines(_) => "standard output".to_owned(),
        };
        self.progress.finish();
        (Report { totals: self.totals, elapsed: self.watch.elapsed(), destination, notes: self.notes }, outcome)
    }
}
