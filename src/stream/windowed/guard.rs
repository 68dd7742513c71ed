//! Which rows a session of a stream can still take.
//!
//! A session that was written must not change, and none may be written that would have been another with the rows that
//! are let in later. So, with the watermark at which sessions were closed last, a row is let in
//!
//! * if it is after the watermark: all written sessions end before it;
//! * if it falls between the start and the end of an open session of its keys: it changes no bounds;
//! * if its own session, `[time, time + gap)`, ends after the watermark (Spark's rule), and it is after the end of
//!   each written session of its keys.
//!
//! Other rows are late.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use arrow::{
    array::{RecordBatch, UInt32Array},
    compute::{concat_batches, take_record_batch},
    datatypes::SchemaRef,
    row::Rows,
};
use datafusion::{
    common::{Result as DataFusionResult, internal_err, tree_node::TreeNodeRecursion},
    execution::{
        TaskContext,
        memory_pool::{MemoryConsumer, MemoryReservation},
    },
    physical_expr::PhysicalExpr,
    physical_plan::{
        DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, InputDistributionRequirements, PlanProperties,
        SendableRecordBatchStream, stream::RecordBatchStreamAdapter,
    },
};
use futures::StreamExt;
use tokio::sync::mpsc::Sender;

use super::{
    exec::one_partition,
    late::LateRows,
    merge::KeyRows,
    sieve::{Aside, Reason, Sieve, picked},
};
use crate::{
    error::{Error, Result},
    state::{Labels, LiveRows, StateLayout, micros},
};

/// Rows before the watermark are compared with the state when there are so many of them, and at the end.
const DOUBTFUL_BYTES: usize = 8 << 20;

/// The sessions that the state knew before the batch.
#[derive(Default)]
pub struct KnownSessions(Mutex<Option<(LiveRows, StateLayout)>>);

impl fmt::Debug for KnownSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KnownSessions")
    }
}

impl KnownSessions {
    /// For the batch that runs next.
    pub fn put(&self, rows: LiveRows, layout: StateLayout) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((rows, layout));
    }

    fn get(&self) -> Option<(LiveRows, StateLayout)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Lets rows through that a session can take, and sets the others aside.
#[derive(Debug, Clone)]
pub struct SessionGuardExec {
    input: Arc<dyn ExecutionPlan>,
    guarded: Arc<Guarded>,
    properties: Arc<PlanProperties>,
}

#[derive(Debug)]
struct Guarded {
    sieve: Sieve,
    /// Over the input; the state's `SessionPieces::keys` are their values.
    keys: Vec<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
    known: Arc<KnownSessions>,
    late: Arc<LateRows>,
}

impl SessionGuardExec {
    pub fn new(
        input: Arc<dyn ExecutionPlan>,
        sieve: Sieve,
        keys: Vec<Arc<dyn PhysicalExpr>>,
        known: Arc<KnownSessions>,
        late: Arc<LateRows>,
    ) -> Self {
        let schema = input.schema();
        let properties = one_partition(&input, &schema);
        let guarded = Guarded { sieve, keys, schema, known, late };
        Self { input, guarded: Arc::new(guarded), properties }
    }
}

impl DisplayAs for SessionGuardExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "SessionGuardExec: {}", self.guarded.sieve.spec)
    }
}

impl ExecutionPlan for SessionGuardExec {
    fn name(&self) -> &str {
        "SessionGuardExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![Distribution::SinglePartition])
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        let mut recursion = TreeNodeRecursion::Continue;
        for key in &self.guarded.keys {
            recursion = recursion.visit_sibling(|| f(key))?;
        }
        Ok(recursion)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let Ok([input]) = <[_; 1]>::try_from(children) else { return internal_err!("one input") };
        Ok(Arc::new(Self { input, ..Self::clone(&self) }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let guard = Guard {
            input: self.input.execute(partition, Arc::clone(&context))?,
            guarded: Arc::clone(&self.guarded),
            sender: self.guarded.late.sender(),
            doubtful: Vec::new(),
            memory: MemoryConsumer::new("SessionGuardExec").register(context.memory_pool()),
            ready: VecDeque::new(),
            at_end: false,
        };
        let stream = futures::stream::try_unfold(guard, |mut guard| async move {
            Ok(guard.next().await?.map(|batch| (batch, guard)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.guarded.schema), stream)))
    }
}

struct Guard {
    input: SendableRecordBatchStream,
    guarded: Arc<Guarded>,
    sender: Option<Sender<RecordBatch>>,
    /// Rows that are not after the watermark.
    doubtful: Vec<RecordBatch>,
    /// For them.
    memory: MemoryReservation,
    ready: VecDeque<RecordBatch>,
    at_end: bool,
}

impl Guard {
    async fn next(&mut self) -> DataFusionResult<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(batch));
            }
            if self.at_end {
                return Ok(None);
            }
            match self.input.next().await {
                Some(batch) => self.push(batch?).await?,
                None => {
                    self.at_end = true;
                    self.judge().await?;
                }
            }
        }
    }

    async fn push(&mut self, batch: RecordBatch) -> DataFusionResult<()> {
        let guarded = Arc::clone(&self.guarded);
        let sieve = &guarded.sieve;
        let times = micros(batch.column(sieve.time))?;
        let (mut good, mut doubtful, mut aside) = (Vec::new(), Vec::new(), Aside::default());
        for (row, time) in (0u32..).zip(&times) {
            match sieve.in_time((row, time), &mut aside) {
                Some(time) if time > sieve.bounds.closed_us => good.push(row),
                Some(_) => doubtful.push(row),
                None => {}
            }
        }
        if let Some(rows) = sieve.set_aside(&batch, &times, aside)? {
            guarded.late.set_aside(rows, self.sender.as_ref()).await?;
        }
        if !doubtful.is_empty() {
            let rows = take_record_batch(&batch, &UInt32Array::from(doubtful))?;
            self.memory.try_grow(rows.get_array_memory_size())?;
            self.doubtful.push(rows);
            if self.memory.size() > DOUBTFUL_BYTES {
                self.judge().await?;
            }
        }
        if !good.is_empty() {
            self.ready.push_back(picked(&batch, good)?);
        }
        Ok(())
    }

    /// Decides on the rows that are not after the watermark.
    async fn judge(&mut self) -> DataFusionResult<()> {
        if self.doubtful.is_empty() {
            return Ok(());
        }
        let guarded = Arc::clone(&self.guarded);
        let rows = concat_batches(&guarded.schema, &std::mem::take(&mut self.doubtful))?;
        let times = micros(rows.column(guarded.sieve.time))?;
        let (mut taken, mut late) = (Vec::new(), Aside::default());
        let types = guarded.keys.iter().map(|key| key.data_type(&guarded.schema));
        let converter = KeyRows::new(types.collect::<DataFusionResult<_>>()?)?;
        let values = guarded.keys.iter().map(|key| key.evaluate(&rows)?.into_array(rows.num_rows()));
        let keys = converter.rows(values.collect::<DataFusionResult<_>>()?, rows.num_rows())?;
        let neighbours = guarded.neighbours(&converter, &keys).await?;
        for ((row, key), time) in (0u32..).zip(&keys).zip(times.values()) {
            let of_key = neighbours.get(key.as_ref()).copied().unwrap_or_default();
            match of_key.take(*time, &guarded.sieve) {
                true => taken.push(row),
                false => late.push(row, Reason::Late),
            }
        }
        if let Some(rows) = guarded.sieve.set_aside(&rows, &times, late)? {
            guarded.late.set_aside(rows, self.sender.as_ref()).await?;
        }
        if !taken.is_empty() {
            self.ready.push_back(picked(&rows, taken)?);
        }
        self.memory.free();
        Ok(())
    }
}

/// The sessions of a key that a row before the watermark may meet.
#[derive(Debug, Clone, Copy, Default)]
struct Neighbours {
    /// The start of the session that is open at the watermark.
    open_us: Option<i64>,
    /// The end of the last one that was written.
    closed_us: Option<i64>,
}

impl Neighbours {
    fn take(self, time_us: i64, sieve: &Sieve) -> bool {
        let is_inside = self.open_us.is_some_and(|start| start <= time_us);
        let ends_us = time_us.saturating_add(sieve.spec.size_us);
        is_inside || (ends_us > sieve.bounds.closed_us && self.closed_us.is_none_or(|end| end < time_us))
    }

    /// Of the pieces of all sessions of a key that start up to the watermark.
    fn of(mut pieces: Vec<(i64, i64)>, watermark_us: i64) -> Self {
        pieces.sort_unstable();
        let mut sessions: Vec<(i64, i64)> = Vec::new();
        for (start, end) in pieces {
            match sessions.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => sessions.push((start, end)),
            }
        }
        let open_us = sessions.iter().find(|(_, end)| *end > watermark_us).map(|(start, _)| *start);
        let closed_us = sessions.iter().map(|(_, end)| *end).filter(|end| *end <= watermark_us).max();
        Self { open_us, closed_us }
    }
}

impl Guarded {
    /// What the state knows of the sessions of `rows`, by key.
    async fn neighbours(&self, keys: &KeyRows, rows: &Rows) -> Result<HashMap<Vec<u8>, Neighbours>> {
        let Some((mut state, layout)) = self.known.get() else { return Ok(HashMap::new()) };
        let Labels::Sessions(pieces) = &layout.labels else {
            return Err(Error::internal("the state of sessions holds none"));
        };
        let watermark_us = self.sieve.bounds.closed_us;
        let mut found: HashMap<Vec<u8>, Vec<(i64, i64)>> =
            rows.iter().map(|key| (key.as_ref().to_vec(), Vec::new())).collect();
        while let Some(batches) = state.next().await? {
            for batch in batches {
                let (starts, ends) = layout.bounds(&batch)?;
                let values = pieces.keys.iter().map(|key| Arc::clone(batch.column(*key))).collect();
                for ((key, start), end) in
                    keys.rows(values, batch.num_rows())?.iter().zip(starts.values()).zip(ends.values())
                {
                    if *start <= watermark_us
                        && let Some(found) = found.get_mut(key.as_ref())
                    {
                        found.push((*start, *end));
                    }
                }
            }
        }
        Ok(found.into_iter().map(|(key, pieces)| (key, Neighbours::of(pieces, watermark_us))).collect())
    }
}
