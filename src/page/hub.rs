//! Hears of every batch and keeps the newest of everything, for whoever looks.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::query::{QueryView, Seen};
use crate::{
    checkpoint::Ledger,
    clock,
    error::Error,
    stream::{QueryListener, QueryProgress},
};

/// Warnings, drifts and trainings that are kept.
const LOG_MAX: usize = 200;

/// See the module's documentation.
#[derive(Debug)]
pub struct Hub {
    job: String,
    started_ms: i64,
    state: Mutex<State>,
    /// Counts the changes.
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    queries: BTreeMap<String, QueryView>,
    /// The newest, with their numbers.
    log: VecDeque<(u64, Value)>,
    logged: u64,
}

/// What a reader has seen.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    has_begun: bool,
    log: u64,
    queries: BTreeMap<String, Seen>,
}

impl Hub {
    /// For the job of this name.
    pub fn new(job: &str) -> Self {
        let state = State { queries: BTreeMap::new(), log: VecDeque::new(), logged: 0 };
        let changes = watch::Sender::new(0);
        Self { job: job.to_owned(), started_ms: clock::now_ms(), state: Mutex::new(state), changes }
    }

    /// Says when something is new.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// What `cursor` has not seen; the first time, all that there is.
    pub(super) fn since(&self, cursor: &mut Cursor) -> Value {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut queries = Map::new();
        for (name, query) in &mut state.queries {
            let seen = cursor.queries.entry(name.clone()).or_default();
            queries.insert(name.clone(), query.since(seen));
        }
        let first = state.log.partition_point(|(number, _)| *number < cursor.log);
        let log: Vec<&Value> = state.log.range(first..).map(|(_, entry)| entry).collect();
        cursor.log = state.logged;
        let reset = !std::mem::replace(&mut cursor.has_begun, true);
        json!({
            "reset": reset,
            "job": self.job,
            "version": env!("CARGO_PKG_VERSION"),
            "startedMs": self.started_ms,
            "nowMs": clock::now_ms(),
            "queries": queries,
            "log": log,
        })
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        self.change_if(|state| {
            change(state);
            true
        });
    }

    /// Readers only hear of it if `change` says that something is new.
    fn change_if(&self, change: impl FnOnce(&mut State) -> bool) {
        let is_new = change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        if is_new {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    fn change_query(&self, query: &str, change: impl FnOnce(&mut QueryView)) {
        self.change(|state| {
            if let Some(view) = state.queries.get_mut(query) {
                change(view);
            }
        });
    }
}

impl State {
    fn note(&mut self, query: &str, what: &str, details: &Value) {
        if self.log.len() >= LOG_MAX {
            self.log.pop_front();
        }
        let entry = json!({"ms": clock::now_ms(), "query": query, "what": what, "details": details});
        self.log.push_back((self.logged, entry));
        self.logged += 1;
    }
}

impl QueryListener for Hub {
    fn wants_rows(&self) -> bool {
        true
    }

    fn started(&self, query: &str, sink: &str) {
        self.change(|state| {
            state.queries.insert(query.to_owned(), QueryView::new(sink));
        });
    }

    fn recovered(&self, query: &str, totals: &Ledger) {
        self.change_query(query, |view| view.recovered(totals));
    }

    fn began(&self, query: &str) {
        self.change_query(query, QueryView::began);
    }

    fn idle(&self, query: &str) {
        self.change_if(|state| state.queries.get_mut(query).is_some_and(QueryView::idle));
    }

    fn progress(&self, progress: &QueryProgress, json: &Value) {
        self.change(|state| {
            let Some(query) = state.queries.get_mut(&progress.name) else { return };
            for mut happened in query.batch(progress, json) {
                let (what, details) = (happened["what"].take(), happened);
                state.note(&progress.name, what.as_str().unwrap_or_default(), &details);
            }
        });
    }

    fn warned(&self, query: &str, sentence: &str) {
        self.change(|state| state.note(query, "warning", &json!(sentence)));
    }

    fn ended(&self, query: &str, failure: Option<&Error>) {
        self.change(|state| {
            if let Some(view) = state.queries.get_mut(query) {
                view.ended(failure);
            }
            match failure {
                None => state.note(query, "ended", &Value::Null),
                Some(error) => state.note(query, "failed", &json!(error.message())),
            }
        });
    }
}
