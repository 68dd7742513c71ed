//! Which rows of state the operators of a batch are given: those of windows that close, or of groups that changed.

use std::sync::{Arc, atomic::AtomicU64};

use arrow::{array::BooleanArray, compute::filter_record_batch};
use datafusion::{execution::TaskContext, physical_plan::execute_stream};
use futures::TryStreamExt;

use super::{
    partners::PartnerSlot,
    planner::{PlannedOperator, PlannedStages},
    slot::StateRows,
    stages::Partners,
    update,
};
use crate::{
    error::Result,
    state::{Labels, LiveRows, OperatorState, Scan, StateLayout},
};

/// Gives the final aggregate the rows of the windows that close; how many input rows leave the state with them is known
/// when it has run.
pub fn closing(
    operator: &PlannedOperator,
    state: &OperatorState,
    (from_us, to_us): (i64, i64),
) -> Result<Arc<AtomicU64>> {
    let (rows, released) = if matches!(state.layout.labels, Labels::Sessions(_)) {
        (pieces(state, from_us, to_us), Arc::clone(&operator.released))
    } else if let Some(keys) = operator.row_keys() {
        counted(state.scan_moments((from_us, to_us), keys))
    } else {
        counted(state.scan(from_us, to_us))
    };
    // Without a window that ends in between, nothing is read and nothing is sorted.
    if state.next_end(from_us)?.is_some_and(|end| end <= to_us) {
        operator.closing.put(rows);
    }
    Ok(released)
}

/// Gives a join the rows of one side that those of the other side may need. How many of them count no more as held,
/// because the watermark has passed them, does not depend on whether anybody reads them.
///
/// # Errors
/// The store's; `Corrupt`.
pub async fn met(
    state: &OperatorState,
    (partners, slot): (&Partners, &PartnerSlot),
    (from_us, to_us): (i64, i64),
) -> Result<Arc<AtomicU64>> {
    if to_us <= from_us {
        return Ok(Arc::default());
    }
    slot.put(state.scan_partners(partners.times((from_us, to_us))));
    Ok(Arc::new(AtomicU64::new(state.released(from_us, to_us).await?)))
}

/// Gives the final aggregate the rows of the groups that are written though they may change; how many input rows leave
/// the state.
pub async fn changing(
    operator: &PlannedOperator,
    state: &OperatorState,
    planned: &PlannedStages,
    (from_us, to_us): (i64, i64),
) -> Result<Arc<AtomicU64>> {
    match update::emission(state, planned.emit.mode, from_us).filter(|_| planned.emits) {
        Some(rows) => operator.closing.put(rows),
        None => planned.silence(),
    }
    let passes = to_us > from_us && state.next_end(from_us)?.is_some_and(|end| end <= to_us);
    Ok(Arc::new(AtomicU64::new(if passes { state.released(from_us, to_us).await? } else { 0 })))
}

/// The rows of a scan, and where it will stand how many leave the state.
fn counted(scan: impl Scan) -> (StateRows, Arc<AtomicU64>) {
    let released = scan.released();
    (rows_of(scan), released)
}

/// The rows of a scan.
pub fn rows_of(scan: impl Scan) -> StateRows {
    Box::pin(futures::stream::try_unfold(
        scan,
        |mut scan| async move { Ok(scan.next().await?.map(|batch| (batch, scan))) },
    ))
}

/// A session: its bounds, microseconds, and its input rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenSession {
    pub start_us: i64,
    pub end_us: i64,
    pub rows: u64,
}

/// The sessions of `state` that are open when the watermark is at `closed_us`. Its pieces alone do not tell: one that has
/// ended may be of a session that goes on, and those of a session that is closed stay for a while.
///
/// # Errors
/// The store's; `Corrupt`.
pub async fn open_sessions(
    (operator, state): (&PlannedOperator, &OperatorState),
    task: &Arc<TaskContext>,
    closed_us: i64,
) -> Result<Vec<OpenSession>> {
    let whole = operator.reduce(pieces(state, closed_us, i64::MAX), closed_us).await?;
    let mut rows = execute_stream(whole, Arc::clone(task))?;
    let mut open = Vec::new();
    while let Some(batch) = rows.try_next().await? {
        let ((starts, ends), counts) = (state.layout.bounds(&batch)?, state.layout.counts(&batch)?);
        let sessions = starts.values().iter().zip(ends.values()).zip(counts.values());
        let session = |((start, end), rows): ((&i64, &i64), &i64)| {
            let rows = u64::try_from(*rows).unwrap_or_default();
            OpenSession { start_us: *start, end_us: *end, rows }
        };
        open.extend(sessions.map(session).filter(|session| session.end_us > closed_us));
    }
    Ok(open)
}

/// The pieces of all sessions that may end after `from_us` and not after `to_us`.
pub fn pieces(state: &OperatorState, from_us: i64, to_us: i64) -> StateRows {
    starting(live(state.live(from_us)), state.layout.clone(), to_us)
}

/// The pieces that start up to `to_us`: what starts later is of sessions that end later.
pub fn starting(rows: StateRows, layout: StateLayout, to_us: i64) -> StateRows {
    Box::pin(rows.and_then(move |batch| {
        let layout = layout.clone();
        async move {
            let (starts, _) = layout.bounds(&batch)?;
            let starts_before = BooleanArray::from_iter(starts.values().iter().map(|start| Some(*start <= to_us)));
            Ok(filter_record_batch(&batch, &starts_before)?)
        }
    }))
}

pub fn live(rows: LiveRows) -> StateRows {
    Box::pin(futures::stream::try_unfold((rows, Vec::new()), |(mut rows, mut ready)| async move {
        loop {
            if let Some(batch) = ready.pop() {
                return Ok(Some((batch, (rows, ready))));
            }
            match rows.next().await? {
                Some(batches) => ready = batches,
                None => return Ok(None),
            }
        }
    }))
}
