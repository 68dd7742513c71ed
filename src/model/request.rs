//! What a training is asked for: on the command line or by `CREATE MODEL ... AS SELECT`, which have the same options.

use super::{
    columns::{Category, HandleInvalid},
    dataset::Roles,
    fit::Objective,
    horizon::{Horizon, SEASONAL, Season, Shape, default_tolerance_us},
    penalty::Penalty,
    plan::Evaluate,
    train::TrainOptions,
    weighting::{HalfLife, duration_us},
};
use crate::{
    catalog::{MODEL, ModelStatement, Vocabulary},
    error::{Error, Result},
};

/// How rows are held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum EvaluateKind {
    Random,
    Chronological,
    WalkForward,
}

impl EvaluateKind {
    fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Chronological => "chronological",
            Self::WalkForward => "walk-forward",
        }
    }
}

/// A training as it was asked for. What is absent has its default.
#[derive(Debug, Clone)]
pub struct TrainRequest {
    /// The model's name; the target's, if not given.
    pub model: Option<String>,
    /// What is read, in the user's words.
    pub source: String,
    /// The SQL that makes the features of the source.
    pub query: Option<String>,
    pub target: String,
    /// Absent: all columns of the query but those that have another role.
    pub features: Option<Vec<String>>,
    /// `symbol=BTCUSDT|ETHUSDT`, each.
    pub categorical: Vec<String>,
    pub handle_invalid: HandleInvalid,
    /// `buy_price=USD,volume=BTC`.
    pub units: String,
    pub weight: Option<String>,
    pub half_life: Option<String>,
    pub objective: Objective,
    pub confidence: f64,
    pub evaluate: Option<EvaluateKind>,
    pub seed: Option<u64>,
    pub test_fraction: Option<f64>,
    pub folds: Option<usize>,
    pub time: Option<String>,
    pub horizon: Option<String>,
    pub tolerance: Option<String>,
    pub season: Option<String>,
    pub partition_by: Vec<String>,
    pub drop_redundant: bool,
    pub strict: bool,
    pub rows_shown: usize,
}

/// The options of a model that is trained: those of `tidemill train`, in Spark's manner of writing.
const TRAINED: Vocabulary = Vocabulary {
    owner: MODEL,
    names: &[
        "target",
        "features",
        "categorical",
        "handleInvalid",
        "units",
        "weight",
        "halfLife",
        "regParam",
        "elasticNetParam",
        "standardization",
        "fitIntercept",
        "confidence",
        "evaluate",
        "seed",
        "testFraction",
        "folds",
        "time",
        "horizon",
        "tolerance",
        "season",
        "partitionBy",
        "dropRedundant",
        "strict",
        "path",
    ],
    aliases: &[
        ("label", "target"),
        ("labelCol", "target"),
        ("featuresCol", "features"),
        ("weightCol", "weight"),
        ("split", "evaluate"),
        ("models", "path"),
        ("reg-param", "regParam"),
        ("elastic-net-param", "elasticNetParam"),
        ("fit-intercept", "fitIntercept"),
        ("half-life", "halfLife"),
        ("test-fraction", "testFraction"),
        ("partition-by", "partitionBy"),
        ("handle-invalid", "handleInvalid"),
        ("drop-redundant", "dropRedundant"),
    ],
    foreign: &[
        ("provider", "the only kind of model is a linear regression, trained here"),
        ("task", "the only task is regression"),
        ("model_type", "the only kind of model is a linear regression"),
        ("maxIter", "the fit is solved, not iterated"),
        ("version", "the next version gets its number when it is saved"),
    ],
    prefix: None,
};

impl TrainRequest {
    /// Of `source`, with the default of every option.
    pub fn new(source: &str, target: &str) -> Self {
        Self {
            model: None,
            source: source.to_owned(),
            query: None,
            target: target.to_owned(),
            features: None,
            categorical: Vec::new(),
            handle_invalid: HandleInvalid::Error,
            units: String::new(),
            weight: None,
            half_life: None,
            objective: Objective::default(),
            confidence: 0.95,
            evaluate: None,
            seed: None,
            test_fraction: None,
            folds: None,
            time: None,
            horizon: None,
            tolerance: None,
            season: None,
            partition_by: Vec::new(),
            drop_redundant: false,
            strict: false,
            rows_shown: 0,
        }
    }

    /// Of a `CREATE MODEL` with a query; also where the model shall be kept, if it says so.
    ///
    /// # Errors
    /// `Invalid` or `Unsupported` at the option that is wrong.
    pub fn of(statement: &ModelStatement) -> Result<(Self, Option<String>)> {
        let source = statement.query.as_ref().ok_or_else(|| Error::internal("a model without a query"))?;
        let mut options = statement.options(TRAINED)?;
        let target = options.required("target", "say which column to predict: 'target' = '...'")?;
        let mut request = Self { model: Some(statement.name.clone()), ..Self::new(&source.to_string(), &target) };
        request.features = match options.has("features") && options.text("features").as_deref() == Some("") {
            true => Some(Vec::new()),
            false => options.list("features")?,
        };
        request.categorical = options.list("categorical")?.unwrap_or_default();
        let invalid = [("error", HandleInvalid::Error), ("skip", HandleInvalid::Skip)];
        request.handle_invalid = options.one_of("handleInvalid", &invalid)?.unwrap_or_default();
        request.units = options.text("units").unwrap_or_default();
        request.weight = options.not_blank("weight")?;
        request.half_life = options.not_blank("halfLife")?;
        let float = |options: &mut crate::catalog::Options<'_>, name: &str| -> Result<Option<f64>> {
            let Some(value) = options.text(name) else { return Ok(None) };
            value.trim().parse().map(Some).map_err(|_| options.wrong(name, "a number"))
        };
        request.objective = Objective {
            fit_intercept: options.boolean("fitIntercept", true)?,
            penalty: Penalty {
                reg_param: float(&mut options, "regParam")?.unwrap_or(0.0),
                elastic_net_param: float(&mut options, "elasticNetParam")?.unwrap_or(0.0),
                standardization: options.boolean("standardization", true)?,
            },
        };
        request.confidence = float(&mut options, "confidence")?.unwrap_or(request.confidence);
        let kinds = [EvaluateKind::Random, EvaluateKind::Chronological, EvaluateKind::WalkForward];
        request.evaluate = options.one_of("evaluate", &kinds.map(|kind| (kind.name(), kind)))?;
        request.seed = options.number("seed", 0)?;
        request.test_fraction = float(&mut options, "testFraction")?;
        request.folds = options.number("folds", 1)?.map(|folds| usize::try_from(folds).unwrap_or(usize::MAX));
        request.time = options.not_blank("time")?;
        request.horizon = options.not_blank("horizon")?;
        request.tolerance = options.not_blank("tolerance")?;
        request.season = options.not_blank("season")?;
        request.partition_by = options.list("partitionBy")?.unwrap_or_default();
        request.drop_redundant = options.boolean("dropRedundant", false)?;
        request.strict = options.boolean("strict", false)?;
        let path = options.not_blank("path")?;
        options.finish()?;
        let named = |error: Error| in_sql(&error).at(options.name_place());
        request.shape().and_then(|_| request.evaluate()).map_err(named)?;
        Ok((request, path))
    }

    /// The features among the columns of the query, unless they are given: all that have no other role.
    pub fn choose_features<'a>(&mut self, columns: impl Iterator<Item = &'a str>) {
        let taken = [Some(&self.target), self.time.as_ref(), self.weight.as_ref()];
        let is_free = |name: &&str| {
            taken.iter().flatten().all(|it| it.as_str() != *name) && self.partition_by.iter().all(|it| it != name)
        };
        if self.features.is_none() {
            self.features = Some(columns.filter(is_free).map(str::to_owned).collect());
        }
    }

    /// In the library's terms. `shape` is the request's.
    ///
    /// # Errors
    /// `Invalid` for values that cannot be read, and for options that do not go together.
    pub fn options(&self, shape: &Shape) -> Result<TrainOptions> {
        let target = shape.horizon.as_ref().map_or_else(|| self.target.clone(), Horizon::target);
        Ok(TrainOptions {
            name: self.model.clone().unwrap_or_else(|| target.clone()),
            source: self.source.clone(),
            query: self.query.clone(),
            roles: Roles {
                target,
                features: self.features.clone().unwrap_or_default(),
                categories: self.categorical.iter().map(|text| Category::parse(text)).collect::<Result<_>>()?,
                handle_invalid: self.handle_invalid,
                units: units(&self.units)?,
                weight: self.weight.clone(),
                time: self.time.clone(),
                last_value: shape.horizon.as_ref().map(|horizon| horizon.column.clone()),
                seasonal: shape.season.map(|_| SEASONAL.to_owned()),
            },
            horizon: shape.horizon.clone(),
            objective: self.objective,
            half_life: self.half_life.as_deref().map(HalfLife::parse).transpose()?,
            evaluate: self.evaluate()?,
            confidence: self.confidence,
            looking_ahead: Vec::new(),
            drop_redundant: self.drop_redundant,
            strict: self.strict,
            rows_shown: self.rows_shown,
        })
    }

    fn evaluate(&self) -> Result<Evaluate> {
        let by_default = if self.time.is_some() { EvaluateKind::Chronological } else { EvaluateKind::Random };
        let kind = self.evaluate.unwrap_or(by_default);
        let stray = match kind {
            EvaluateKind::Random => self.folds.map(|_| "--folds"),
            EvaluateKind::Chronological => self.seed.map(|_| "--seed").or(self.folds.map(|_| "--folds")),
            EvaluateKind::WalkForward => self.seed.map(|_| "--seed").or(self.test_fraction.map(|_| "--test-fraction")),
        };
        if let Some(option) = stray {
            return Err(Error::invalid(format!("{option} says nothing about a {} evaluation", kind.name()))
                .help("leave it out, or choose another with --evaluate"));
        }
        let looks_up = self.horizon.is_some() || self.season.is_some();
        if !looks_up && (self.tolerance.is_some() || !self.partition_by.is_empty()) {
            return Err(Error::invalid("--tolerance and --partition-by belong to --horizon and --season")
                .help("leave them out, or add one of these"));
        }
        if self.horizon.is_some() && self.time.is_none() {
            return Err(Error::invalid("--horizon needs --time").help("name the column of times"));
        }
        let (seed, test_fraction) = (self.seed.unwrap_or(42), self.test_fraction.unwrap_or(0.2));
        Ok(match kind {
            EvaluateKind::Random => Evaluate::Random { seed, test_fraction },
            EvaluateKind::Chronological => Evaluate::Chronological { test_fraction },
            EvaluateKind::WalkForward => Evaluate::WalkForward { folds: self.folds.unwrap_or(5) },
        })
    }

    /// What is added to the query of the target.
    ///
    /// # Errors
    /// `Invalid` for durations that cannot be read.
    pub fn shape(&self) -> Result<Shape> {
        let duration = |text: &Option<String>, option: &str| {
            let parsed = text.as_deref().map(|text| duration_us(text).map_err(|error| error.context(option)));
            parsed.transpose()
        };
        let tolerance_us = duration(&self.tolerance, "--tolerance")?;
        let horizon = duration(&self.horizon, "--horizon")?.zip(self.time.clone());
        Ok(Shape {
            time: self.time.clone(),
            column: self.target.clone(),
            horizon: horizon.map(|(ahead_us, time)| Horizon {
                column: self.target.clone(),
                time,
                ahead_us,
                tolerance_us: tolerance_us.unwrap_or_else(|| default_tolerance_us(ahead_us)),
                partition_by: self.partition_by.clone(),
            }),
            season: self.season.as_deref().map(Season::parse).transpose()?,
            tolerance_us,
            partition_by: self.partition_by.clone(),
        })
    }
}

/// Reads names with commas between them; `option` is for the error.
///
/// # Errors
/// `Invalid` for an empty name.
pub fn split_names(text: &str, option: &str) -> Result<Vec<String>> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    if names.iter().any(String::is_empty) {
        return Err(Error::invalid(format!("'{text}' in {option} has an empty name")));
    }
    Ok(names)
}

fn units(text: &str) -> Result<Vec<(String, String)>> {
    let unit = |text: String| match text.split_once('=') {
        Some((column, unit)) if !unit.trim().is_empty() => Ok((column.trim().to_owned(), unit.trim().to_owned())),
        _ => Err(Error::invalid(format!("'{text}' in --units is not COLUMN=UNIT")).help("buy_price=USD")),
    };
    split_names(text, "--units")?.into_iter().map(unit).collect()
}

/// An error of training, with the options as SQL writes them: `regParam` for `--reg-param`.
pub fn in_sql(error: &Error) -> Error {
    let said = Error::new(error.kind(), respelled(error.message()));
    let said = error.advice().map_or_else(
        || Error::new(said.kind(), said.message()),
        |advice| Error::new(said.kind(), said.message()).help(respelled(advice)),
    );
    match error.place() {
        Some(place) => said.at(place.clone()),
        None => said,
    }
}

fn respelled(text: &str) -> String {
    let mut parts = text.split("--");
    let mut all = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_lowercase() && c != '-').unwrap_or(part.len());
        let mut words = part[..end].split('-');
        all.push_str(words.next().unwrap_or_default());
        for word in words {
            let mut letters = word.chars();
            all.extend(letters.next().map(|first| first.to_ascii_uppercase()));
            all.push_str(letters.as_str());
        }
        all.push_str(&part[end..]);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{ScriptPart, script_parts};

    fn request(with: &str) -> Result<(TrainRequest, Option<String>)> {
        match script_parts("a.sql", &format!("CREATE MODEL m WITH ({with}) AS SELECT * FROM t")).unwrap().remove(0) {
            ScriptPart::Model(statement) => TrainRequest::of(&statement),
            ScriptPart::Sql(sql) => panic!("{sql}"),
        }
    }

    #[test]
    fn has_the_options_of_the_command_line() {
        let (mut request, path) = request(
            "label = 'price', 'time' = 'ts', horizon = '5m', partitionBy = 'symbol', 'reg-param' = 0.5, \
             elasticNetParam = '0.25', split = 'walk-forward', folds = 3, path = 'other', units = 'price=USD'",
        )
        .unwrap();
        request.choose_features(["ts", "price", "symbol", "volume", "spread"].into_iter());
        let options = request.options(&request.shape().unwrap()).unwrap();
        assert_eq!((options.name.as_str(), path.as_deref()), ("m", Some("other")));
        assert_eq!(options.roles.features, ["volume", "spread"]);
        assert_eq!(options.roles.target, "price_in_5m");
        assert_eq!(options.evaluate, Evaluate::WalkForward { folds: 3 });
        assert_eq!((options.objective.penalty.reg_param, options.objective.penalty.elastic_net_param), (0.5, 0.25));
        assert_eq!(options.source, "SELECT * FROM t");
        assert_eq!(options.roles.units, [("price".to_owned(), "USD".to_owned())]);
    }

    #[test]
    fn errors_are_in_the_words_of_sql() {
        for (with, wanted) in [
            ("features = 'x'", "the option 'target' is missing"),
            (
                "target = 'y', evaluate = 'chronological', folds = 2",
                "folds says nothing about a chronological evaluation",
            ),
            ("target = 'y', horizon = '5m'", "horizon needs time"),
            ("target = 'y', partitionBy = 's'", "tolerance and partitionBy belong to horizon and season"),
            ("target = 'y', horizon = 'soon', time = 't'", "horizon: "),
            ("target = 'y', regParam = 'x'", "the option 'regParam' is 'x': expected a number"),
            ("target = 'y', regPram = 1", "a model has no option 'regPram'"),
            ("target = 'y', maxIter = 5", "the option 'maxIter' is not used here"),
        ] {
            let error = request(with).unwrap_err();
            assert!(error.message().contains(wanted) && error.place().is_some(), "{with}: {error}");
            let help = error.advice().unwrap_or_default();
            assert!(!error.message().contains("--") && !help.contains("--"), "{error}");
        }
        assert_eq!(
            respelled("hold them down with --reg-param, or --drop-redundant"),
            "hold them down with regParam, or dropRedundant"
        );
    }
}
