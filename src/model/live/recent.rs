//! What a forecaster has just done, for people to look at. It is no part of what is learned, and never saved.

use std::collections::VecDeque;

use super::{
    champion::Decision,
    rows::{NULL, SEPARATOR},
};

/// Forecasts that came due, and happenings, that are kept: the newest.
const SCORED_MAX: usize = 256;
const HAPPENINGS_MAX: usize = 64;

/// A forecast that the truth has come for.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// Event time of the truth, microseconds.
    pub time_us: i64,
    /// Empty, or the values of the keys.
    pub series: String,
    pub truth: f64,
    pub forecast: f64,
    pub naive: f64,
    /// Of the model that made it; 0 for the naive forecast.
    pub version: u64,
}

/// The newest forecast.
#[derive(Debug, Clone, PartialEq)]
pub struct Ahead {
    pub series: String,
    /// Event time that it is for, microseconds.
    pub target_us: i64,
    pub prediction: f64,
    pub version: u64,
}

/// Something that changes which model serves, or might have.
#[derive(Debug, Clone, PartialEq)]
pub enum Happening {
    /// The error has grown; event time, microseconds.
    Drift(i64),
    Decision(Decision),
}

/// Since the last `clear`.
#[derive(Debug, Clone, Default)]
pub struct Recent {
    scored: VecDeque<Scored>,
    ahead: Option<Ahead>,
    happenings: VecDeque<Happening>,
}

impl Recent {
    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The truth has come for a forecast; the text of one that is forgotten is used again.
    pub(super) fn score(&mut self, series: &str, scored: Scored) {
        let forgotten = if self.scored.len() >= SCORED_MAX { self.scored.pop_front() } else { None };
        let text = forgotten.map_or_else(String::new, |forgotten| forgotten.series);
        self.scored.push_back(Scored { series: copied(text, series), ..scored });
    }

    /// A forecast was made.
    pub(super) fn look_ahead(&mut self, series: &str, target_us: i64, prediction: f64, version: u64) {
        let text = self.ahead.take().map_or_else(String::new, |before| before.series);
        self.ahead = Some(Ahead { series: copied(text, series), target_us, prediction, version });
    }

    /// Something happened.
    pub(super) fn happen(&mut self, happening: Happening) {
        if self.happenings.len() >= HAPPENINGS_MAX {
            self.happenings.pop_front();
        }
        self.happenings.push_back(happening);
    }

    /// The oldest first.
    pub fn scored(&self) -> impl Iterator<Item = &Scored> {
        self.scored.iter()
    }

    /// The newest forecast, of whichever series.
    pub fn ahead(&self) -> Option<&Ahead> {
        self.ahead.as_ref()
    }

    /// The oldest first.
    pub fn happenings(&self) -> impl Iterator<Item = &Happening> {
        self.happenings.iter()
    }
}

fn copied(mut into: String, series: &str) -> String {
    into.clear();
    into.push_str(series);
    into
}

/// The values of a series' keys as people read them.
pub fn spell_series(series: &str) -> String {
    let keys = series.split_terminator(SEPARATOR);
    let keys: Vec<&str> = keys.map(|key| if key.starts_with(NULL) { "NULL" } else { key }).collect();
    keys.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_are_kept() {
        let mut recent = Recent::default();
        for time_us in 0..1_000 {
            let scored = Scored { time_us, series: String::new(), truth: 1.0, forecast: 1.0, naive: 1.0, version: 0 };
            recent.score("BTC", scored);
            recent.happen(Happening::Drift(time_us));
        }
        assert_eq!(recent.scored().count(), SCORED_MAX);
        assert_eq!(recent.scored().last().map(|it| (it.time_us, it.series.as_str())), Some((999, "BTC")));
        assert_eq!(recent.happenings().count(), HAPPENINGS_MAX);
        recent.clear();
        assert_eq!((recent.scored().count(), recent.ahead()), (0, None));
    }

    #[test]
    fn a_series_is_spelled_by_its_keys() {
        assert_eq!(spell_series(""), "");
        assert_eq!(spell_series(&format!("BTC{SEPARATOR}{NULL}{SEPARATOR}")), "BTC, NULL");
    }
}
