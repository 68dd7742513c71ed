//! Where a query stands, by its checkpoint. The job may go on meanwhile and delete what is being read.

use super::report::{BatchReport, UnderWay};
use crate::{
    catalog::Table,
    checkpoint::{Checkpoint, Ledger, read_watermark},
    error::{ErrorKind, Result},
    event_time::NO_WATERMARK_MS,
    source::Offsets,
    state::Labels,
    stream::{
        inputs::per_source,
        output::late_path,
        plan::QueryPlan,
        windowed::{OpenSession, QueryState, Watermarks, open_sessions, stage_us},
    },
};

/// So often the checkpoint is read again if the job has gone on meanwhile.
const TRIES_MAX: usize = 10;

/// What the checkpoint says.
#[derive(Debug)]
pub struct Stand {
    pub last_batch: Option<BatchReport>,
    pub under_way: Option<UnderWay>,
    /// Where the next batch starts, in each source; `None` if that was never written down.
    pub positions: Option<Vec<Offsets>>,
    pub watermark_ms: i64,
    /// Of a query with windows that has committed a batch.
    pub state: Option<QueryState>,
    /// The open ones of each of its operators; none of those that are not over sessions.
    pub sessions: Vec<Vec<OpenSession>>,
}

impl Stand {
    /// Of a query without a checkpoint.
    pub fn nowhere() -> Self {
        Self {
            last_batch: None,
            under_way: None,
            positions: None,
            watermark_ms: NO_WATERMARK_MS,
            state: None,
            sessions: Vec::new(),
        }
    }
}

/// Reads the checkpoint and gives what it says to `read`, again if the job has gone on before `read` was done.
///
/// # Errors
/// The store's; `Corrupt`; what `read` returns.
pub async fn read<T>(
    checkpoint: &Checkpoint,
    plan: &QueryPlan,
    sink: &Table,
    read: impl AsyncFn(Stand) -> Result<T>,
) -> Result<T> {
    let mut tries = 0;
    loop {
        let facts = checkpoint.facts().await?;
        let committed = facts.commits.last().copied();
        let announced = facts.offsets.last().copied();
        let result = async { read(stand(checkpoint, plan, sink, (committed, announced)).await?).await }.await;
        tries += 1;
        match result {
            // A file that is missing was deleted because a newer batch needs it no more, if there is one.
            Err(error) if error.kind() == ErrorKind::Corrupt && tries < TRIES_MAX => {
                if checkpoint.facts().await?.commits.last().copied() == committed {
                    return Err(error);
                }
            }
            result => return result,
        }
    }
}

async fn stand(
    checkpoint: &Checkpoint,
    plan: &QueryPlan,
    sink: &Table,
    (committed, announced): (Option<u64>, Option<u64>),
) -> Result<Stand> {
    let mut stand = Stand::nowhere();
    if let Some(id) = announced.filter(|id| Some(*id) > committed) {
        let entry = checkpoint.offsets(id).await?;
        stand.under_way = Some(UnderWay { id, started_ms: entry.timestamp_ms });
        stand.positions = Some(per_source(entry.ends, plan.sources.len())?);
    }
    let Some(id) = committed else {
        if stand.positions.is_none() {
            let mut first = Vec::new();
            for source in 0..plan.sources.len() {
                first.extend(checkpoint.read_initial_offsets(source).await?);
            }
            stand.positions = (first.len() == plan.sources.len()).then_some(first);
        }
        return Ok(stand);
    };
    let entry = checkpoint.offsets(id).await?;
    stand.watermark_ms = read_watermark(entry.watermark_ms);
    let prepared = checkpoint.find_prepared(id).await?;
    let reset = checkpoint.is_reset(id + 1).await?;
    // What the next batch counts is gone already.
    let remaining = |totals: Ledger| if reset { totals.with_reset(totals.in_state()) } else { totals };
    if plan.windowed
        && let Some(place) = prepared.as_ref().and_then(|prepared| prepared.state.clone())
    {
        let nothing = Watermarks { from_ms: NO_WATERMARK_MS, to_ms: NO_WATERMARK_MS };
        let planned = plan.windowed(0, (nothing, i64::MAX), None).await?.planned;
        let mut state = QueryState::new(&planned, plan.watermark(), checkpoint.store().clone());
        match reset {
            true => state.reset(Some(place), stand.watermark_ms).await?,
            false => state.restore(place, stand.watermark_ms).await?,
        }
        for (operator, state) in planned.operators.iter().zip(&state.operators) {
            let closed_us = stage_us(stand.watermark_ms, state.layout.behind_us);
            stand.sessions.push(match state.layout.labels {
                Labels::Sessions(_) => open_sessions((operator, state), &planned.task, closed_us).await?,
                _ => Vec::new(),
            });
        }
        stand.state = Some(state);
    }
    let late = late_path(sink, checkpoint.url());
    stand.last_batch = Some(BatchReport {
        id,
        started_ms: entry.timestamp_ms,
        // A batch that Spark ran has no counts.
        ledger: prepared.as_ref().map(|prepared| prepared.ledger).unwrap_or_default(),
        totals: prepared.as_ref().map(|prepared| remaining(prepared.totals)).unwrap_or_default(),
        dead_letters: prepared.as_ref().map(|prepared| prepared.dead_letter_url.clone()).unwrap_or_default(),
        late: plan.windowed.then(|| prepared.map(|p| p.late_url).filter(|url| !url.is_empty()).unwrap_or(late)),
    });
    if stand.positions.is_none() {
        stand.positions = Some(per_source(entry.ends, plan.sources.len())?);
    }
    Ok(stand)
}
