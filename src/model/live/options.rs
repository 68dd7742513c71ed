//! What is forecast, and how the model learns: the options of `CREATE MODEL` for `ML_FORECAST`.

use std::{fmt, ops::RangeInclusive};

use super::node::LiveModel;
use crate::{
    catalog::{MODEL, ModelStatement, Options, Vocabulary},
    error::Result,
    model::{
        fit::Objective,
        horizon::{default_tolerance_us, spell},
        penalty::Penalty,
        registry::{Registry, check_name},
        weighting::{duration_us, row_count},
    },
};

/// The options of a model that learns while it forecasts.
const LIVE: Vocabulary = Vocabulary {
    owner: MODEL,
    names: &[
        "target",
        "horizon",
        "tolerance",
        "retrain",
        "drift",
        "driftThreshold",
        "driftDelta",
        "holdout",
        "minRows",
        "halfLife",
        "fadingFactor",
        "regParam",
        "elasticNetParam",
        "standardization",
        "fitIntercept",
        "path",
    ],
    aliases: &[("label", "target"), ("labelCol", "target"), ("models", "path")],
    foreign: &[
        ("features", "name them in the query: ML_FORECAST(TABLE t, MODEL m, DESCRIPTOR(ts), DESCRIPTOR(x1, x2))"),
        ("time", "name it in the query: ML_FORECAST(TABLE t, MODEL m, DESCRIPTOR(ts), ...)"),
        ("partitionBy", "name the keys in the query, as the last DESCRIPTOR of ML_FORECAST"),
        ("version", "the newest one that has won serves; leave 'horizon' out to use one version of a trained model"),
        ("model", "the versions that it makes have the name of CREATE MODEL"),
    ],
    prefix: None,
};

/// A stretch of the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    TimeUs(i64),
    Rows(u64),
}

impl Span {
    fn parse(text: &str) -> Result<Self> {
        match row_count(text) {
            Some(rows) => Ok(Self::Rows(rows)),
            None => duration_us(text).map(Self::TimeUs),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimeUs(microseconds) => f.write_str(&spell(*microseconds)),
            Self::Rows(rows) => write!(f, "{rows} rows"),
        }
    }
}

/// Which detector looks for a growing error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Drift {
    None,
    /// `threshold` and `delta` in standard deviations of the error.
    PageHinkley {
        threshold: f64,
        delta: f64,
    },
    /// `delta`: how likely one look gives a false alarm.
    Adwin {
        delta: f64,
    },
}

impl Drift {
    /// As it is written in the option.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::PageHinkley { .. } => "page-hinkley",
            Self::Adwin { .. } => "adwin",
        }
    }
}

/// What is forecast, and how the model learns.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveOptions {
    /// The column whose value one horizon later is forecast.
    pub target: String,
    pub horizon_us: i64,
    /// How much later than the horizon the value may be that the forecast is held against.
    pub tolerance_us: i64,
    /// How often a challenger is trained; `None`: only at the start and after a drift.
    pub retrain: Option<Span>,
    pub drift: Drift,
    /// The newest stretch, which no challenger has seen, and on which it has to win.
    pub holdout: Span,
    /// A challenger needs so many rows to train on. After a drift, what was learned before weighs as many rows.
    pub min_rows: u64,
    /// After how long a row counts half.
    pub half_life_us: Option<i64>,
    /// By how much earlier errors fade with each new one.
    pub fading_factor: f64,
    pub objective: Objective,
}

/// The value of an option, read by `parse`.
fn read<T>(options: &mut Options<'_>, name: &str, default: T, parse: impl Fn(&str) -> Result<T>) -> Result<T> {
    let Some(text) = options.not_blank(name)? else { return Ok(default) };
    parse(&text).map_err(|error| {
        let placed = options.at_value(name, &format!("the option '{name}': {}", error.message()));
        match error.advice() {
            Some(help) => placed.help(help),
            None => placed,
        }
    })
}

fn number(options: &mut Options<'_>, name: &str, default: f64, range: RangeInclusive<f64>) -> Result<f64> {
    let (from, to) = (*range.start(), *range.end());
    let Some(text) = options.not_blank(name)? else { return Ok(default) };
    match text.trim().parse::<f64>() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(options.wrong(name, &format!("a number from {from} to {to}"))),
    }
}

fn drift(options: &mut Options<'_>) -> Result<Drift> {
    let kinds = [("page-hinkley", Kind::PageHinkley), ("adwin", Kind::Adwin), ("none", Kind::None)];
    Ok(match options.one_of("drift", &kinds)?.unwrap_or(Kind::PageHinkley) {
        Kind::None => Drift::None,
        Kind::PageHinkley => Drift::PageHinkley {
            threshold: number(options, "driftThreshold", 20.0, 1.0..=1e6)?,
            delta: number(options, "driftDelta", 0.25, 0.0..=10.0)?,
        },
        Kind::Adwin => Drift::Adwin { delta: number(options, "driftDelta", 0.002, 1e-12..=0.5)? },
    })
}

#[derive(Clone, Copy)]
enum Kind {
    None,
    PageHinkley,
    Adwin,
}

impl LiveOptions {
    fn read(options: &mut Options<'_>) -> Result<Self> {
        let target = options.required("target", "name the column to forecast: 'target' = 'close'")?;
        let text = options.required("horizon", "say how far ahead: 'horizon' = '5 minutes'")?;
        let horizon_us = duration_us(&text).map_err(|_| options.wrong("horizon", "a time such as '5 minutes'"))?;
        let penalty = Penalty {
            reg_param: number(options, "regParam", 0.0, 0.0..=f64::MAX)?,
            elastic_net_param: number(options, "elasticNetParam", 0.0, 0.0..=1.0)?,
            standardization: options.boolean("standardization", true)?,
        };
        let objective = Objective { fit_intercept: options.boolean("fitIntercept", true)?, penalty };
        let optional = |text: &str| duration_us(text).map(Some);
        let schedule = |text: &str| match text.trim().to_lowercase().as_str() {
            "never" => Ok(None),
            text => Span::parse(text).map(Some),
        };
        Ok(Self {
            target,
            horizon_us,
            tolerance_us: read(options, "tolerance", default_tolerance_us(horizon_us), duration_us)?,
            retrain: read(options, "retrain", Some(Span::TimeUs(3_600_000_000)), schedule)?,
            drift: drift(options)?,
            holdout: read(options, "holdout", Span::Rows(200), Span::parse)?,
            min_rows: options.number("minRows", 2)?.unwrap_or(100),
            half_life_us: read(options, "halfLife", None, optional)?,
            fading_factor: number(options, "fadingFactor", 1.0, 1e-3..=1.0)?,
            objective,
        })
    }
}

impl LiveModel {
    /// Does `CREATE MODEL` declare such a model, and not one that was trained before?
    pub fn is_declared(statement: &ModelStatement) -> bool {
        statement.query.is_none() && statement.gives("horizon")
    }

    /// As it was declared. `default`: where its versions go, unless the statement says.
    ///
    /// # Errors
    /// `Invalid` at the option that is wrong.
    pub fn declared(statement: &ModelStatement, default: &Registry) -> Result<Self> {
        let mut given = statement.options(LIVE)?;
        let options = LiveOptions::read(&mut given)?;
        let registry = given.not_blank("path")?.map_or_else(|| default.clone(), Registry::new);
        check_name(&statement.name).map_err(|error| error.at(given.name_place()))?;
        given.finish()?;
        Ok(Self { name: statement.name.clone(), options, registry })
    }
}

impl LiveOptions {
    /// How long after a row its truth is known for certain, or will never be.
    pub fn delay_us(&self) -> i64 {
        self.horizon_us.saturating_add(self.tolerance_us)
    }
}

#[cfg(test)]
pub(in crate::model) mod tests {
    use super::*;
    use crate::catalog::{ScriptPart, script_parts};

    fn declared(options: &str) -> Result<LiveModel> {
        match script_parts("a.sql", &format!("CREATE MODEL price WITH ({options})")).unwrap().remove(0) {
            ScriptPart::Model(statement) => LiveModel::declared(&statement, &Registry::new("models")),
            ScriptPart::Sql(sql) => panic!("{sql}"),
        }
    }

    /// Of `target` `close` and a horizon of a minute, and `more`.
    pub(in crate::model) fn options(more: &[(&str, &str)]) -> Result<LiveOptions> {
        let all = [("target", "close"), ("horizon", "1 minute")];
        let written = all.iter().chain(more).map(|(name, value)| format!("'{name}' = '{value}'"));
        declared(&written.collect::<Vec<_>>().join(", ")).map(|model| model.options)
    }

    #[test]
    fn has_defaults_for_all_but_the_question() {
        let found = options(&[]).unwrap();
        assert_eq!((found.horizon_us, found.tolerance_us, found.min_rows), (60_000_000, 6_000_000, 100));
        assert_eq!((found.retrain, found.holdout), (Some(Span::TimeUs(3_600_000_000)), Span::Rows(200)));
        assert_eq!(found.drift.name(), "page-hinkley");
        let found = options(&[("Retrain", "never"), ("holdout", "2 hours"), ("drift", "adwin"), ("regParam", "0.5")]);
        let found = found.unwrap();
        assert_eq!((found.retrain, found.holdout.to_string().as_str()), (None, "2h"));
        assert_eq!((found.drift, found.objective.penalty.reg_param), (Drift::Adwin { delta: 0.002 }, 0.5));
        let placed = declared("horizon = '5m', label = 'close', path = '/m'").unwrap();
        assert_eq!((placed.registry.directory().to_str(), placed.options.target.as_str()), (Some("/m"), "close"));
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        for (name, value, wanted) in [
            ("retran", "5m", "no option 'retran'"),
            ("horizon", "5m", "given twice"),
            ("retrain", "often", "'often' is no duration"),
            ("drift", "ddm", "expected 'page-hinkley'"),
            ("minRows", "1", "a whole number, 2 or more"),
            ("elasticNetParam", "2", "from 0 to 1"),
            ("fitIntercept", "yes", "true or false"),
            ("features", "a", "not used here"),
        ] {
            let error = options(&[(name, value)]).unwrap_err();
            assert!(error.message().contains(wanted) && error.place().is_some(), "{name}: {error}");
        }
        for unused in [[("drift", "none"), ("driftDelta", "1")], [("drift", "adwin"), ("driftThreshold", "9")]] {
            let error = options(&unused).unwrap_err();
            assert!(error.message().contains("means nothing"), "{error}");
        }
        assert!(declared("horizon = '5m'").unwrap_err().message().contains("'target' is missing"));
    }
}
