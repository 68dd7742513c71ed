//! Output modes update and complete: rows of groups that may still change, and groups without a window.
//!
//! A batch changes the groups of the rows of state that it adds; the files that hold them are *pending* until rows are
//! written, which is at the end of the batch or, with `EMIT PERIODIC`, of a later one. Update gives the final aggregate
//! over all rows of state whose group is among the pending ones, complete over all rows of state.

use std::sync::Arc;

use arrow::{
    array::{BooleanArray, RecordBatch},
    compute::filter_record_batch,
};
use datafusion::{
    common::{Column, tree_node::TreeNode},
    logical_expr::{Aggregate, Expr, LogicalPlan, LogicalPlanBuilder},
};
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    closing::{pieces, rows_of},
    emission::Emission,
    run::{QueryState, Watermarks},
    slot::StateRows,
    source::Source,
    stages::{Kept, KeptAggregate, Operator, Stages, list, with_row_count},
};
use crate::{
    catalog::{Emit, OutputMode},
    error::{Error, Result},
    state::{KeyHashes, Labels, LiveRows, OperatorState, StateLayout, hash_rows},
    stream::stateless,
};

/// So many changed groups are looked for at once; if there are more, the state is read more than once.
const CHANGED_GROUPS_MAX: u64 = if cfg!(test) { 8 } else { 1 << 20 };

/// Is this the aggregate that keeps the state of a query without windows? The lowest is.
///
/// # Errors
/// None but a defect's.
pub fn is_first(aggregate: &Aggregate) -> Result<bool> {
    let is_emission = |node: &LogicalPlan| match node {
        LogicalPlan::Extension(extension) => Ok(extension.node.as_any().is::<Emission>()),
        _ => Ok(false),
    };
    Ok(!aggregate.input.exists(is_emission)?)
}

/// The operator of an aggregate without a window, and what stands in its place.
///
/// # Errors
/// DataFusion's.
pub fn cut(aggregate: &Aggregate, index: usize) -> Result<(Operator, LogicalPlan)> {
    let widened = with_row_count(aggregate, aggregate.group_expr.clone())?;
    let schema = Arc::clone(&widened.schema);
    let emission = Emission::plan(index, Arc::clone(&schema));
    let columns = 0..aggregate.schema.fields().len();
    let columns = columns.map(|at| Expr::Column(Column::from(schema.qualified_field(at))));
    let above = LogicalPlanBuilder::from(emission).project(columns)?.build()?;
    let name = match aggregate.group_expr.as_slice() {
        [] => "all rows".to_owned(),
        groups => format!("grouped by {}", list(groups)),
    };
    let kept = Kept::Aggregate(KeptAggregate { panes: false, start: 0, end: 0, time: None, session: None });
    Ok((Operator::new((LogicalPlan::Aggregate(widened), None, kept), 0, name, &[]), above))
}

/// Refuses what cannot be said of groups that may still change.
///
/// # Errors
/// `Unsupported`, naming the operation and what to do instead.
pub fn check(stages: &Stages) -> Result<()> {
    let mode = stages.emit.mode;
    let refuse = |what: &str, help: &str| {
        Err(Error::unsupported(format!("{what} in output mode {}", mode.name())).help(help.to_owned()))
    };
    if !stages.emit.lateness.is_zero() && stages.operators.iter().all(|operator| operator.spec.is_none()) {
        return Err(stateless::no_lateness());
    }
    for operator in &stages.operators {
        let LogicalPlan::Aggregate(aggregate) = &operator.plan else { continue };
        if matches!(aggregate.group_expr.first(), Some(Expr::GroupingSet(_))) {
            return refuse("GROUPING SETS, CUBE and ROLLUP", "write one INSERT for each grouping");
        }
        if operator.spec.is_none() && aggregate.input.exists(|node| Ok(Source::of(node).is_some()))? {
            return refuse(
                "an aggregate that is not directly over its windows",
                "group by window_start and window_end where the rows are given windows, in the same SELECT",
            );
        }
    }
    match stages.operators.as_slice() {
        [only] if only.is_session() && mode == OutputMode::Update => refuse(
            "session windows",
            "sessions merge, and a row that was written under the old bounds would stay: use append (EMIT ON WINDOW \
             CLOSE) or complete",
        ),
        [_] => Ok(()),
        _ => refuse(
            "windows over windows",
            "the inner windows must be final: use append (EMIT ON WINDOW CLOSE), or write the inner ones to a topic of \
             their own",
        ),
    }
}

/// What cannot stand above the aggregate, and what to do instead.
pub fn refusal(node: &LogicalPlan, mode: OutputMode) -> Option<(String, &'static str)> {
    const COMPLETE: &str = "outputMode = 'complete' gives all groups to it; or run it over what was written with \
                            `tidemill query`";
    match (node, mode) {
        (LogicalPlan::Extension(_), _) => None,
        (
            LogicalPlan::Aggregate(_)
            | LogicalPlan::Distinct(_)
            | LogicalPlan::Sort(_)
            | LogicalPlan::Limit(_)
            | LogicalPlan::Window(_),
            OutputMode::Complete,
        ) => None,
        (LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_), _) => {
            Some(("an aggregate over groups that change, in output mode update,".to_owned(), COMPLETE))
        }
        (LogicalPlan::Sort(_) | LogicalPlan::Limit(_), _) => {
            Some(("ORDER BY or LIMIT over groups that change, in output mode update,".to_owned(), COMPLETE))
        }
        (LogicalPlan::Window(_), _) => Some(("OVER groups that change, in output mode update,".to_owned(), COMPLETE)),
        (LogicalPlan::Unnest(_), OutputMode::Update) => {
            Some(("UNNEST above an aggregate, in output mode update,".to_owned(), COMPLETE))
        }
        (other, _) => stateless::refusal(other),
    }
}

/// Is any row of state needed for ever? Then the state grows with the keys, and somebody has to be told.
pub fn grows(stages: &Stages) -> bool {
    let has_keys = |operator: &Operator| match &operator.plan {
        LogicalPlan::Aggregate(aggregate) => !aggregate.group_expr.is_empty(),
        _ => true,
    };
    !stages.waits && stages.operators.iter().any(has_keys)
}

impl QueryState {
    /// Does a batch with that timestamp write rows?
    pub fn is_due(&self, emit: Emit, timestamp_ms: i64) -> bool {
        let (Some(period), Some(last_ms)) = (emit.period, self.emitted_ms) else { return true };
        timestamp_ms.saturating_sub(last_ms) >= i64::try_from(period.as_millis()).unwrap_or(i64::MAX)
    }

    /// Have groups changed that were not written since?
    pub fn has_pending(&self) -> bool {
        self.operators.iter().any(OperatorState::has_pending)
    }

    /// Would a batch without records write rows, if it may and the watermark went on like this?
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn would_give_rows(&self, emit: Emit, emits: bool, watermarks: Watermarks) -> Result<bool> {
        if emit.mode != OutputMode::Append {
            return Ok(emits && self.has_pending());
        }
        if watermarks.to_ms <= watermarks.from_ms {
            return Ok(false);
        }
        for operator in self.operators.iter().filter(|operator| !operator.layout.are_partners()) {
            let (from_us, to_us) = watermarks.of(&operator.layout);
            if operator.next_end(from_us)?.is_some_and(|end| end <= to_us) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The rows of state that the final aggregate needs; `None` if no row is to be written. Windows that end up to `from_us`
/// are closed.
pub fn emission(state: &OperatorState, mode: OutputMode, from_us: i64) -> Option<StateRows> {
    if mode == OutputMode::Complete {
        return Some(match state.layout.labels {
            Labels::Sessions(_) => pieces(state, from_us, i64::MAX),
            Labels::Windows | Labels::Panes(_) | Labels::Groups | Labels::Moments(_) => {
                rows_of(state.scan(from_us, i64::MAX))
            }
        });
    }
    let (pending, rows) = state.pending(from_us);
    if rows == 0 {
        return None;
    }
    let parts = rows.saturating_mul(state.layout.windows_of_a_row() as u64) / CHANGED_GROUPS_MAX + 1;
    let layout = state.layout.clone();
    let scans: Vec<_> = (0..parts).map(|part| (part, pending.clone(), state.scan(from_us, i64::MAX))).collect();
    let scans = stream::iter(scans).then(move |(part, pending, scan)| {
        let layout = layout.clone();
        async move {
            let changed = Changed::collect(pending, layout, from_us, (part, parts)).await?;
            Ok::<_, Error>(rows_of(scan).try_filter_map(move |batch| std::future::ready(changed.select(&batch))))
        }
    });
    Some(scans.try_flatten().boxed())
}

/// Groups that changed. One that did not but has the hash of one that did is written once more than it needs.
struct Changed {
    keys: usize,
    /// A part has about `CHANGED_GROUPS_MAX` at most.
    hashes: KeyHashes,
}

impl Changed {
    /// Of the groups of `pending` whose hash is of `part` of the `parts`.
    async fn collect(
        mut pending: LiveRows,
        layout: StateLayout,
        from_us: i64,
        (part, parts): (u64, u64),
    ) -> Result<Self> {
        let mut changed = Self { keys: layout.keys, hashes: KeyHashes::new(usize::MAX) };
        while let Some(batches) = pending.next().await? {
            for batch in batches {
                let at_once = layout.rows_at_once();
                for start in (0..batch.num_rows()).step_by(at_once) {
                    let slice = batch.slice(start, at_once.min(batch.num_rows() - start));
                    let Some(rows) = layout.closing(&slice, from_us, i64::MAX)? else { continue };
                    // The low bits find the place in the set.
                    let hashes = changed.hash(&rows)?.into_iter().filter(|hash| (hash >> 32) % parts == part);
                    changed.hashes.extend(hashes);
                }
            }
        }
        Ok(changed)
    }

    fn hash(&self, batch: &RecordBatch) -> Result<Vec<u64>> {
        hash_rows(batch.columns().get(..self.keys).unwrap_or_default(), batch.num_rows())
    }

    fn select(&self, batch: &RecordBatch) -> Result<Option<RecordBatch>> {
        let is_changed =
            self.hash(batch)?.iter().map(|hash| Some(self.hashes.contains(*hash))).collect::<BooleanArray>();
        match is_changed.true_count() {
            0 => Ok(None),
            count if count == batch.num_rows() => Ok(Some(batch.clone())),
            _ => Ok(Some(filter_record_batch(batch, &is_changed)?)),
        }
    }
}
