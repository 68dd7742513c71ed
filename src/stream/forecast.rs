//! `ML_FORECAST` over a stream: a model that learns from the rows that its query gives, batch after batch.
//!
//! Such a query has windows or OVER, so its rows come out in the order of their event time, each once, in its last form.
//! That is what makes forecasts independent of how the stream is cut into batches. What was learned is saved with the
//! state, and a model that was promoted becomes a version in the directory of models once its batch is committed.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::{
    common::tree_node::{TreeNode, TreeNodeRecursion},
    execution::{SessionState, TaskContext},
    logical_expr::LogicalPlan,
};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::window_progress::iso_ms;
use crate::{
    catalog::OutputMode,
    clock,
    error::{Error, ErrorKind, Result},
    model::{
        horizon::spell,
        live::{
            self, Decision, Drift, Forecast, ForecastSlot, Forecaster, Happening, LiveModel, Question, Reason, Recent,
            Standing, Verdict, spell_series,
        },
    },
    state::StateRef,
    store::{Created, Store},
    window::{EVENT_TIME_KEY, SessionAssign, WINDOW_KEY, WINDOW_START, WindowAssign, WindowKind},
};

/// The forecast of a query, if it has one. `windowed`: it keeps state.
///
/// # Errors
/// `Unsupported` where rows do not come in the order of time, with the way out.
pub fn question(plan: &LogicalPlan, windowed: bool, mode: OutputMode) -> Result<Option<Question>> {
    let mut found = 0;
    plan.apply_with_subqueries(|node| {
        found += usize::from(forecast(node).is_some());
        Ok(TreeNodeRecursion::Continue)
    })?;
    if found == 0 {
        return Ok(None);
    }
    if found > 1 {
        return Err(Error::unsupported("more than one ML_FORECAST in a query over a stream").help(
            "write one INSERT for each, or forecast several series at once: DESCRIPTOR(symbol) as the last argument",
        ));
    }
    let mut node = plan;
    let forecast = loop {
        if let Some(found) = forecast(node) {
            break found;
        }
        node = match node {
            LogicalPlan::Projection(above) => &above.input,
            LogicalPlan::Filter(above) => &above.input,
            LogicalPlan::SubqueryAlias(above) => &above.input,
            other => {
                let what = other.display().to_string();
                let what = what.split(':').next().unwrap_or_default().to_owned();
                return Err(Error::unsupported(format!("{what} over the rows of ML_FORECAST, over a stream"))
                    .help("write the forecasts to a table, and do the rest with `tidemill query` or in another job"));
            }
        };
    };
    if !windowed || mode != OutputMode::Append {
        return Err(Error::unsupported("ML_FORECAST over rows of a stream that do not come in the order of time").help(
            "give it the rows of windows, FROM TUMBLE(t, ts, INTERVAL '1 minute'), or of OVER (ORDER BY ts ...), in the \
             output mode append: see sql/forecast.sql",
        ));
    }
    check_time(forecast)?;
    forecast.question().map(Some)
}

/// The node as what it is, if it is one.
pub fn forecast(node: &LogicalPlan) -> Option<&Forecast> {
    match node {
        LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref(),
        _ => None,
    }
}

/// Rows have to come out in the order of this time.
fn check_time(forecast: &Forecast) -> Result<()> {
    let schema = forecast.input.schema();
    let marks = schema.field(schema.index_of_column(&forecast.time)?).metadata();
    let refuse = |help: &str| {
        let name = &forecast.time.name;
        Err(Error::unsupported(format!("ML_FORECAST over a stream by the time '{name}'")).help(help))
    };
    if marks.get(WINDOW_KEY).is_some_and(|which| which == WINDOW_START) {
        let unordered = |node: &LogicalPlan| {
            let LogicalPlan::Extension(extension) = node else { return false };
            let window = extension.node.as_any().downcast_ref::<WindowAssign>();
            window.is_some_and(|window| matches!(window.spec.kind, WindowKind::Cumulate { .. }))
                || extension.node.as_any().is::<SessionAssign>()
        };
        if forecast.input.exists(|node| Ok(unordered(node)))? {
            return refuse("windows that start later may end earlier: take window_end");
        }
    }
    if marks.contains_key(EVENT_TIME_KEY) || marks.contains_key(WINDOW_KEY) {
        return Ok(());
    }
    refuse("take the column of the table's WATERMARK, or window_end: rows come out in the order of these, as they are")
}

/// What a job does, before it runs.
pub fn describe(question: &Question) -> String {
    let LiveModel { name, options, registry } = question.model.as_ref();
    let features: Vec<&str> = question.features.iter().map(|feature| feature.name.as_str()).collect();
    let mut when = options.retrain.map_or_else(String::new, |every| format!("every {every}"));
    if options.drift != Drift::None {
        let drift = format!("when {} finds that the error has grown", options.drift.name());
        when = if when.is_empty() { drift } else { format!("{when}, and {drift}") };
    }
    let when = if when.is_empty() { "once".to_owned() } else { when };
    format!(
        "model {name} learns to forecast {} {} after {} from {}\n  a challenger is trained {when}, on {} rows or more; it has \
         to win on the newest {}\n  versions go to {}\n",
        options.target,
        spell(options.horizon_us),
        question.time,
        features.join(", "),
        options.min_rows,
        options.holdout,
        registry.directory().join(name).display(),
    )
}

/// Gives the plans of a batch a place where they find the forecaster.
pub fn make_room(state: &mut SessionState, question: Option<&Question>) {
    if let Some(question) = question {
        state.config_mut().set_extension(Arc::new(ForecastSlot::new(question.clone())));
    }
}

/// The forecaster of a query.
#[derive(Debug)]
pub struct Learning {
    question: Question,
    forecaster: Forecaster,
    /// After the batch that is being run.
    next: Option<Forecaster>,
    /// The file of `forecaster`, if it is in one.
    saved: Option<StateRef>,
    /// Whose models are published; without it none are.
    query_id: Option<String>,
    /// The newest version that is known to be published.
    published: u64,
}

impl Learning {
    /// Of the query whose plans run in `task`, before the first row; `None` if it has no forecast.
    pub fn of(task: &TaskContext) -> Option<Self> {
        let question = task.session_config().get_extension::<ForecastSlot>()?.question.clone();
        let forecaster = question.forecaster();
        Some(Self { question, forecaster, next: None, saved: None, query_id: None, published: 0 })
    }

    /// Its models are published from now on.
    pub fn publish_for(&mut self, query_id: &str) {
        self.query_id = Some(query_id.to_owned());
    }

    /// The plans of a batch are about to run.
    pub fn lend(&self, task: &TaskContext) {
        if let Some(slot) = task.session_config().get_extension::<ForecastSlot>() {
            let mut forecaster = self.forecaster.clone();
            forecaster.forget_recent();
            slot.put(forecaster);
        }
    }

    /// They have run.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn take_back(&mut self, task: &TaskContext) -> Result<()> {
        let learned = task.session_config().get_extension::<ForecastSlot>().and_then(|slot| slot.take());
        self.next = Some(learned.ok_or_else(|| Error::internal("the plan of ML_FORECAST did not run to its end"))?);
        Ok(())
    }

    /// Saves what it has learned with a batch, under a name that has `owner` in it; a batch without rows has nothing to
    /// save.
    ///
    /// # Errors
    /// The store's.
    pub async fn save(&mut self, store: &Store, owner: &str) -> Result<StateRef> {
        if let Some(next) = self.next.take() {
            if next.rows() != self.forecaster.rows() {
                self.saved = None;
            }
            self.forecaster = next;
        }
        if let Some(saved) = &self.saved {
            return Ok(saved.clone());
        }
        let json = self.forecaster.to_json()?;
        let place = StateRef { path: format!("state/{owner}.forecaster"), crc32: crc32fast::hash(&json) };
        match store.create(&place.path, Bytes::from(json)).await? {
            Created::New => {}
            Created::Exists => {
                return Err(Error::internal(format!("the forecaster's state {} is there already", place.path)));
            }
        }
        self.saved = Some(place.clone());
        Ok(place)
    }

    /// Goes on with what `place` has.
    ///
    /// # Errors
    /// The store's; `Corrupt`; `Conflict` if it was learned for another question.
    pub async fn restore(&mut self, store: &Store, place: &StateRef) -> Result<()> {
        let url = store.path_url(&place.path);
        let corrupt = |what: &str| {
            Error::corrupt(format!("{url} cannot be trusted: {what}"))
                .help("restore the checkpoint from a backup, or start anew with another path and checkpointLocation")
        };
        let json = store.read(&place.path).await?.ok_or_else(|| corrupt("the file is missing"))?;
        if crc32fast::hash(&json) != place.crc32 {
            return Err(corrupt("its checksum is wrong"));
        }
        let restored = self.question.forecaster().restore(&json);
        self.forecaster = restored.map_err(|error| error.context(format!("the forecaster's state {url}")))?;
        self.saved = Some(place.clone());
        Ok(())
    }

    /// Models of committed batches become versions in the directory of models, those of a run that died among them.
    ///
    /// # Errors
    /// What the disk says.
    pub fn publish(&mut self) -> Result<()> {
        let (Some(query_id), promotions) = (&self.query_id, self.forecaster.promotions()) else { return Ok(()) };
        let Some(newest) = promotions.last().map(|promotion| promotion.version) else { return Ok(()) };
        if newest <= self.published {
            return Ok(());
        }
        let stored = live::publish(&self.question, (query_id, clock::now_ms()), promotions)?;
        for stored in stored {
            tracing::info!(
                model = stored.model.name,
                revision = stored.revision,
                source = stored.model.source,
                "promoted"
            );
        }
        self.published = newest;
        Ok(())
    }

    /// For people.
    pub fn progress(&self) -> ForecastProgress {
        let recent = self.forecaster.recent().clone();
        let (model, target) = (self.question.model.name.clone(), self.question.model.options.target.clone());
        ForecastProgress { model, target, standing: self.forecaster.standing(), recent }
    }
}

/// A state that was saved with a forecast is of no query without one, and the other way round.
///
/// # Errors
/// `Conflict`, with the way out; as `Learning::restore`.
pub async fn restore(learning: Option<&mut Learning>, place: Option<&StateRef>, store: &Store) -> Result<()> {
    let what = match (learning, place) {
        (None, None) => return Ok(()),
        (Some(learning), Some(place)) => return learning.restore(store, place).await,
        (None, Some(_)) => "the state is that of a query with ML_FORECAST, this one has none",
        (Some(_), None) => "the state is that of a query without ML_FORECAST, this one has it",
    };
    Err(Error::new(ErrorKind::Conflict, what)
        .help("bring the old query back, or start anew with another path and checkpointLocation"))
}

/// Where a forecaster stands after a batch.
#[derive(Debug, Clone)]
pub struct ForecastProgress {
    model: String,
    target: String,
    standing: Standing,
    recent: Recent,
}

impl Serialize for ForecastProgress {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

impl ForecastProgress {
    /// Errors are in the target's unit; `naive` is the forecast that nothing changes.
    pub fn to_json(&self) -> Value {
        let Standing { scores, last_decision, .. } = &self.standing;
        let standing = &self.standing;
        let mut errors = Map::new();
        if let Some(scores) = scores {
            errors.insert("mae".to_owned(), json!(scores.mae));
            errors.insert("rmse".to_owned(), json!(scores.rmse));
            errors.insert("naiveMae".to_owned(), json!(scores.naive_mae));
            errors.insert("naiveRmse".to_owned(), json!(scores.naive_rmse));
            errors.insert("skill".to_owned(), json!(scores.skill));
        }
        json!({
            "model": self.model,
            "version": standing.version,
            "eventTime": standing.time_us.map(iso_us),
            "numForecastsScored": standing.scored,
            "prequential": errors,
            "numForecastsWaiting": standing.waiting,
            "numForecastsUnmatched": standing.unmatched,
            "numRowsUnusable": standing.unusable,
            "numRowsTrained": standing.trained_rows,
            "numRowsHeldOut": standing.held_out_rows,
            "drifts": standing.drifts,
            "lastDrift": standing.last_drift_us.map(iso_us),
            "lastTraining": last_decision.as_ref().map(training_json),
        })
    }

    /// What the batch has brought: forecasts that came due (`[milliseconds of event time, series, truth, forecast, naive
    /// forecast, version]`), the newest forecast, and what happened.
    pub fn recent_json(&self) -> Value {
        let scored = self.recent.scored().map(|it| {
            json!([it.time_us as f64 / 1e3, spell_series(&it.series), it.truth, it.forecast, it.naive, it.version])
        });
        let ahead = self.recent.ahead().map(|it| {
            json!({
                "series": spell_series(&it.series), "target": it.target_us as f64 / 1e3, "prediction": it.prediction,
                "version": it.version,
            })
        });
        let happenings = self.recent.happenings().map(|it| match it {
            Happening::Drift(at_us) => json!({"what": "drift", "eventTime": iso_us(*at_us)}),
            Happening::Decision(decision) => json!({"what": "training", "training": training_json(decision)}),
        });
        json!({
            "target": self.target, "scored": scored.collect::<Vec<_>>(), "ahead": ahead,
            "happenings": happenings.collect::<Vec<_>>(),
        })
    }

    /// For the one line.
    pub fn line(&self) -> String {
        let Standing { version, scores, drifts, .. } = &self.standing;
        let by = if *version == 0 { "naive".to_owned() } else { format!("version {version}") };
        let errors = scores.map_or_else(String::new, |scores| {
            let skill = scores.skill.map_or_else(String::new, |skill| format!(", skill {skill:.3}"));
            format!(" rmse {:.6} (naive {:.6}{skill})", scores.rmse, scores.naive_rmse)
        });
        let drifts = if *drifts > 0 { format!(" drifts {drifts}") } else { String::new() };
        format!("  {} {by}{errors}{drifts}", self.model)
    }
}

fn iso_us(microseconds: i64) -> String {
    iso_ms(microseconds.div_euclid(1_000))
}

fn training_json(decision: &Decision) -> Value {
    let reason = match decision.reason {
        Reason::First => "first",
        Reason::Schedule => "schedule",
        Reason::Drift => "drift",
    };
    let (verdict, version, why) = match &decision.verdict {
        Verdict::Promoted(version) => {
            ("promoted", Some(*version), "it has the lowest error on the held-out rows".into())
        }
        Verdict::Retired => ("retired", None, "the naive forecast has the lowest error on the held-out rows".into()),
        Verdict::Kept => ("kept", None, "the challenger is no better on the held-out rows".into()),
        Verdict::NoChallenger(why) => ("none", None, why.clone()),
    };
    json!({
        "eventTime": iso_us(decision.at_us),
        "reason": reason,
        "verdict": verdict,
        "version": version,
        "why": why,
        "numRowsTrained": decision.trained_rows,
        "numRowsHeldOut": decision.held_out_rows,
        "heldOutRmse": {
            "naive": decision.naive, "champion": decision.champion, "challenger": decision.challenger,
        },
    })
}
