//! What is in the state, read from its files.

use std::collections::BTreeSet;

use super::report::{NextClose, OperatorReport, Span, WindowsReport};
use crate::{
    catalog::OutputMode,
    error::Result,
    event_time::NO_WATERMARK_MS,
    state::{Labels, OperatorState, read_file},
    store::Store,
    stream::{
        forecast::Learning,
        windowed::{OpenSession, QueryState, Stages, stage_us},
    },
    window::{Window, WindowSpec},
};

/// The event time of a window's row is its end less this.
const WINDOW_TIME_BEHIND_US: i64 = 1_000;

/// Reads all files of a state, one at a time. `store` is the checkpoint.
///
/// # Errors
/// The store's; `Corrupt`.
pub async fn windows(
    (state, sessions): (&QueryState, &[Vec<OpenSession>]),
    stages: &Stages,
    watermark_ms: i64,
    store: &Store,
) -> Result<WindowsReport> {
    let mut aggregates = Vec::new();
    for (operator, sessions) in state.operators.iter().zip(sessions) {
        let closed_us = stage_us(watermark_ms, operator.layout.behind_us);
        aggregates.push(aggregate((operator, sessions), closed_us, store).await?);
    }
    for (aggregate, stage) in aggregates.iter_mut().zip(&stages.operators) {
        aggregate.over_records = stage.depth == 0;
    }
    let operators = stages.operators.iter().map(|it| (it.spec, it.behind_us, it.feeds.as_slice()));
    let operators: Vec<Fed<'_>> = operators.collect();
    let first: Vec<Option<Span>> = aggregates.iter().map(|aggregate| aggregate.first).collect();
    let watermark_ms = (watermark_ms != NO_WATERMARK_MS).then_some(watermark_ms);
    // In the other modes rows do not wait for a window to close.
    let next_rows =
        if stages.emit.mode == OutputMode::Append { next_rows(&first, &operators, &stages.feeds()) } else { None };
    let next_emission_ms = match (state.has_pending(), stages.emit.period, state.emitted_ms) {
        (true, Some(period), Some(last_ms)) => {
            Some(last_ms.saturating_add(i64::try_from(period.as_millis()).unwrap_or(i64::MAX)))
        }
        _ => None,
    };
    let (output_mode, forecast) = (stages.emit.mode.name(), state.learning.as_ref().map(Learning::progress));
    Ok(WindowsReport { output_mode, watermark_ms, next_rows, next_emission_ms, forecast, aggregates })
}

/// An operator's windows, how far its watermark is behind, and the operators whose rows it is over.
type Fed<'a> = (Option<WindowSpec>, i64, &'a [usize]);

/// When one of the operators `last` gives rows: those that it holds, or those that it gets from the ones before it.
fn next_rows(first: &[Option<Span>], operators: &[Fed<'_>], last: &[usize]) -> Option<NextClose> {
    let mut next: Vec<Option<Span>> = Vec::new();
    for (own, (spec, _, feeds)) in first.iter().zip(operators) {
        let before = feeds.iter().filter_map(|at| next.get(*at).copied().flatten());
        let fed = before.filter_map(|before| {
            let time = before.end_us.saturating_sub(WINDOW_TIME_BEHIND_US);
            spec.as_ref()?.windows_of(time).min_by_key(|window| window.end_us).map(span)
        });
        next.push(own.iter().copied().chain(fed).min_by_key(|window| window.end_us));
    }
    let close = |at: &usize| Some(NextClose::of((*next.get(*at)?)?, operators.get(*at)?.1));
    last.iter().filter_map(close).min_by_key(|close| close.watermark_ms)
}

async fn aggregate(
    (operator, sessions): (&OperatorState, &[OpenSession]),
    closed_us: i64,
    store: &Store,
) -> Result<OperatorReport> {
    let layout = &operator.layout;
    let (mut rows, mut input_rows, mut open, mut labels) = (0, 0, 0, BTreeSet::new());
    let manifest = operator.manifest();
    for file in &manifest.files {
        for batch in read_file(store, file, &layout.schema).await? {
            let batch = layout.live(&batch, closed_us)?.unwrap_or(batch);
            rows += batch.num_rows() as u64;
            match layout.labels {
                Labels::Groups => {
                    input_rows += layout.input_rows(&batch)?;
                    continue;
                }
                Labels::Sessions(_) => continue,
                _ => {}
            }
            let (starts, ends) = layout.bounds(&batch)?;
            let spans = starts.values().iter().zip(ends.values());
            // In order of their ends, as they close.
            let spans = spans.map(|(start, end)| (*end, *start));
            if let Labels::Moments(_) = &layout.labels {
                // Those that were given out are there for others to look at. Each row has its own: two are enough.
                let waiting = || spans.clone().filter(|(end, _)| *end > closed_us);
                input_rows += waiting().count() as u64;
                if layout.are_partners() {
                    continue;
                }
                open = input_rows;
                labels.extend(waiting().min().into_iter().chain(waiting().max()));
                labels = labels.first().into_iter().chain(labels.last()).copied().collect();
            } else {
                labels.extend(spans);
                open = labels.len() as u64;
                input_rows += layout.input_rows(&batch)?;
            }
        }
    }
    if let Labels::Sessions(_) = layout.labels {
        open = sessions.len() as u64;
        input_rows = sessions.iter().map(|session| session.rows).sum();
        labels = sessions.iter().map(|session| (session.end_us, session.start_us)).collect();
    }
    let (first, last) = bounds(&labels, &layout.labels, closed_us);
    Ok(OperatorReport {
        name: manifest.name,
        kept: match layout.labels {
            Labels::Windows => "windows",
            Labels::Panes(_) => "panes",
            Labels::Sessions(_) => "sessions",
            Labels::Moments(_) if layout.are_partners() => "partners",
            Labels::Moments(_) => "rows",
            Labels::Groups => "groups",
        },
        open,
        first,
        last,
        rows,
        input_rows,
        bytes: operator.bytes(),
        files: operator.files() as u64,
        over_records: true,
        next_close: first.map(|window| NextClose::of(window, layout.behind_us)),
    })
}

/// The open windows that close first and last. The first pane that is open is in the first window.
fn bounds(panes: &BTreeSet<(i64, i64)>, labels: &Labels, closed_us: i64) -> (Option<Span>, Option<Span>) {
    let (first, last) = (panes.first(), panes.last());
    match labels {
        // A session may end later than its pieces: nothing is closed before the end that is shown.
        Labels::Windows | Labels::Sessions(_) | Labels::Moments(_) | Labels::Groups => {
            let span = |(end_us, start_us): &(i64, i64)| Span { start_us: *start_us, end_us: *end_us };
            (first.map(span), last.map(span))
        }
        Labels::Panes(spec) => {
            let open = |start: i64| spec.windows_of_pane(start).filter(move |window| window.end_us > closed_us);
            let first = first.and_then(|(_, start)| open(*start).min_by_key(|window| window.end_us));
            let last = last.and_then(|(_, start)| open(*start).max_by_key(|window| window.end_us));
            (first.map(span), last.map(span))
        }
    }
}

fn span(window: Window) -> Span {
    Span { start_us: window.start_us, end_us: window.end_us }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::WindowKind;

    const SECOND_US: i64 = 1_000_000;

    fn spec(kind: WindowKind, seconds: i64) -> WindowSpec {
        WindowSpec::new(kind, seconds * SECOND_US, 0, None).unwrap()
    }

    fn seconds(start: i64, end: i64) -> Span {
        Span { start_us: start * SECOND_US, end_us: end * SECOND_US }
    }

    #[test]
    fn panes_are_in_the_windows_that_are_open() {
        let hop = Labels::Panes(spec(WindowKind::Hop { slide_us: 5 * SECOND_US }, 10));
        let panes = [(15, 10), (20, 15), (45, 40)].map(|(end, start)| (end * SECOND_US, start * SECOND_US));
        let panes: BTreeSet<(i64, i64)> = panes.into();
        assert_eq!(bounds(&panes, &hop, i64::MIN), (Some(seconds(5, 15)), Some(seconds(40, 50))));
        assert_eq!(bounds(&panes, &hop, 15 * SECOND_US).0, Some(seconds(10, 20)));
        assert_eq!(bounds(&BTreeSet::new(), &hop, 0), (None, None));
    }

    #[test]
    fn rows_of_one_aggregate_go_through_the_next() {
        let (ten, thirty) = (spec(WindowKind::Tumble, 10), spec(WindowKind::Tumble, 30));
        let chain: [Fed<'_>; 2] = [(Some(ten), 0, &[]), (Some(thirty), 1_000, &[0])];
        let close = |window, watermark_ms| Some(NextClose { window, watermark_ms });
        // The row of [20, 30) is in [0, 30), which the second aggregate closes a millisecond later.
        assert_eq!(next_rows(&[Some(seconds(20, 30)), None], &chain, &[1]), close(seconds(0, 30), 30_001));
        let both = [Some(seconds(30, 40)), Some(seconds(0, 30))];
        assert_eq!(next_rows(&both, &chain, &[1]), close(seconds(0, 30), 30_001));
        assert_eq!(next_rows(&[Some(seconds(20, 30))], &chain[..1], &[0]), close(seconds(20, 30), 30_000));
        assert_eq!(next_rows(&[None, None], &chain, &[1]), None);
        // Two that are joined: the first that closes.
        let joined: [Fed<'_>; 2] = [(Some(ten), 0, &[]), (Some(thirty), 0, &[])];
        assert_eq!(next_rows(&both, &joined, &[0, 1]), close(seconds(0, 30), 30_000));
    }
}
