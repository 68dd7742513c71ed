//! Which windows a late row belongs to, through all operators of a plan.

use datafusion::common::tree_node::TreeNode;

use super::{
    run::stage_us,
    source::{source_window, window_of},
    stages::{Kept, Stages},
};
use crate::{
    error::{Error, Result},
    stream::forecast,
    window::{Window, WindowKind, WindowSpec},
};

/// The event time of a window's row is its end less this.
const WINDOW_TIME_BEHIND_US: i64 = 1_000;

/// The windows of a plan whose results follow from the rows in them.
#[derive(Debug, Clone)]
pub struct Replayable {
    /// The column of the event time, among those that late rows are kept with.
    pub time: String,
    /// In the order of the operators; how far the watermark of each is behind the source's.
    operators: Vec<(WindowSpec, i64)>,
}

impl Replayable {
    /// The windows whose results a row at `time_us` is part of, ordered.
    pub fn windows_of(&self, time_us: i64) -> Vec<Window> {
        let mut times = vec![time_us];
        let mut windows = Vec::new();
        for (spec, _) in &self.operators {
            windows = times.iter().flat_map(|time| spec.windows_of(*time)).collect();
            windows.sort_unstable();
            windows.dedup();
            times = windows.iter().map(|window: &Window| window.end_us.saturating_sub(WINDOW_TIME_BEHIND_US)).collect();
        }
        windows
    }

    /// Are such windows written when the source's watermark is `watermark_ms`?
    pub fn is_written(&self, window: Window, watermark_ms: i64) -> bool {
        let behind_us = self.operators.last().map_or(0, |(_, behind_us)| *behind_us);
        window.end_us <= stage_us(watermark_ms, behind_us)
    }

    /// Are there windows over windows?
    pub fn is_nested(&self) -> bool {
        self.operators.len() > 1
    }
}

impl Stages {
    fn forecasts(&self) -> bool {
        // The closure cannot fail.
        self.rest.exists(|node| Ok(forecast::forecast(node).is_some())).unwrap_or(false)
    }

    /// What is needed to compute single windows again.
    ///
    /// # Errors
    /// `Unsupported` where a row changes more than the windows that hold its time.
    pub fn replayable(&self) -> Result<Replayable> {
        if self.forecasts() {
            return Err(Error::unsupported(
                "replaying late rows of a query with ML_FORECAST: a row changes what is forecast from all later ones",
            )
            .help("run the INSERT's SELECT with `tidemill query --job`: it gives all rows as they would be"));
        }
        let mut time = None;
        let mut operators = Vec::new();
        for operator in &self.operators {
            let source = match &operator.kept {
                Kept::Aggregate(_) => source_window(&operator.plan),
                Kept::InWindows { .. } => window_of(&operator.plan),
                Kept::Rows(_) | Kept::Partners(_) => {
                    return Err(Error::unsupported(
                        "replaying late rows of a query with OVER or DISTINCT, or a JOIN, across windows or single rows: a row \
                         changes what is written for others",
                    )
                    .help("run the INSERT's SELECT with `tidemill query --job`: it gives all rows as they would be"));
                }
            };
            let spec = operator.spec.ok_or_else(|| {
                Error::unsupported("replaying late rows of an aggregate without windows")
                    .help("it takes every row whenever it comes: none is late")
            })?;
            operators.push((spec, operator.behind_us));
            if spec.kind == WindowKind::Session {
                return Err(Error::unsupported(
                    "replaying late rows of session windows: such a row may join sessions that were written apart",
                )
                .help("run the INSERT's SELECT with `tidemill query --job`: it gives all sessions as they would be"));
            }
            let source = source.ok_or_else(|| Error::internal("an operator over windows has no window"))?;
            time.get_or_insert_with(|| source.time().name.clone());
        }
        let time = time.ok_or_else(|| Error::internal("a query with windows has no window"))?;
        Ok(Replayable { time, operators })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_in_all_windows_that_hold_its_time_and_in_the_windows_over_these() {
        let hop = |slide_us, size_us| WindowSpec::new(WindowKind::Hop { slide_us }, size_us, 0, None).unwrap();
        let window = |start_us, end_us| Window { start_us, end_us };
        let second = 1_000_000;
        let mut replayable = Replayable { time: "ts".to_owned(), operators: vec![(hop(5 * second, 10 * second), 0)] };
        assert_eq!(replayable.windows_of(7 * second), [window(0, 10 * second), window(5 * second, 15 * second)]);
        assert!(replayable.is_written(window(0, 10 * second), 10_000));
        assert!(!replayable.is_written(window(5 * second, 15 * second), 14_999));
        replayable.operators.push((WindowSpec::new(WindowKind::Tumble, 10 * second, 0, None).unwrap(), 1_000));
        assert_eq!(replayable.windows_of(7 * second), [window(0, 10 * second), window(10 * second, 20 * second)]);
        assert!(!replayable.is_written(window(0, 10 * second), 10_000));
    }
}
