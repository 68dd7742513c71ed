//! What training found, for people and for programs.

use std::fmt::Write;

use arrow::util::pretty::pretty_format_batches;
use serde_json::{Value, json};

use super::{
    columns::Column,
    penalty::Penalty,
    registry::Stored,
    residual::ResidualSummary,
    score::Evaluation,
    split::Split,
    statistics::{FTest, Statistics},
    train::Training,
};
use crate::error::{Error, Result};

/// The report as text, in the order that Spark users know: coefficients, intercept, predictions, RMSE; then how the
/// baselines do, which rows were used, and where the model is. Without the warnings, which belong on stderr.
///
/// # Errors
/// `Internal` if Arrow cannot print the predictions.
pub fn text(training: &Training, stored: &Stored) -> Result<String> {
    Ok(format!("{}{}{}", equation(stored), predictions(training, stored)?, summary(stored)))
}

/// A saved model as text: as `text`, without the predictions, and with where it comes from in front.
pub fn saved(stored: &Stored) -> String {
    let model = &stored.model;
    let mut text = format!(
        "{}@{}, trained {} by version {}\nsource: {}\n",
        model.name, stored.revision, model.created, model.tidemill, model.source
    );
    if let Some(query) = &model.query {
        let _ = writeln!(text, "query: {query}");
    }
    let column = |column: &Column| {
        let unit = column.unit.as_ref().map_or(String::new(), |unit| format!(" in {unit}"));
        let values = column.vocabulary.as_ref().map_or(String::new(), |values| format!(" of {}", values.join("|")));
        format!("{} {}{values}{unit}", column.name, column.data_type)
    };
    let features: Vec<String> = model.features.iter().map(column).collect();
    let _ = writeln!(text, "target: {}; features: {}", column(&model.target), features.join(", "));
    if let Some(time) = &model.training.time {
        let _ = writeln!(text, "{} from {} to {}", time.column, time.from, time.to);
    }
    for range in &model.training.ranges {
        let _ = writeln!(text, "{} from {} to {}", range.column, range.min, range.max);
    }
    for warning in &model.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    format!("{text}\n{}{}", equation(stored), summary(stored))
}

/// Features, coefficients and intercept, and how far they can be trusted.
fn equation(stored: &Stored) -> String {
    let model = &stored.model;
    let coefficients: Vec<String> = model.coefficients.iter().map(|value| format!("{value:?}")).collect();
    let mut text = format!(
        "Features: [{}]\nCoefficients: [{}]\nIntercept: {:?}\n\n",
        model.term_names().join(", "),
        coefficients.join(", "),
        model.intercept
    );
    if model.penalty.is_on() {
        let Penalty { reg_param, elastic_net_param, standardization } = model.penalty;
        text.push_str(&format!(
            "regParam {reg_param}, elasticNetParam {elastic_net_param}, standardization {standardization}: the \
             coefficients are held down, so they have no standard errors\n\n"
        ));
    }
    if let Some(statistics) = &model.statistics {
        text.push_str(&table(statistics, model.train.residuals.as_ref(), model.training.rows));
    }
    text
}

/// As R prints it.
fn table(statistics: &Statistics, residuals: Option<&ResidualSummary>, rows: u64) -> String {
    let mut text = String::new();
    if let Some(residuals) = residuals {
        let ResidualSummary { min, first_quartile, median, third_quartile, max, sampled, .. } = *residuals;
        let figures = [min, first_quartile, median, third_quartile, max].map(|figure| signed(figure, 5));
        let note = if sampled { " (quartiles of a sample)" } else { "" };
        text.push_str(&format!("Residuals: min, quartiles, max: {}{note}\n\n", figures.join("  ")));
    }
    let width = statistics.coefficients.iter().map(|line| line.term.len()).max().unwrap_or(0).max(4);
    let level = format!("{}% interval", statistics.confidence * 100.0);
    text.push_str(&format!(
        "{:width$} {:>14} {:>12} {:>9} {:>10} {:>29} {:>8}\n",
        "", "estimate", "std. error", "t", "p", level, "VIF"
    ));
    for line in &statistics.coefficients {
        let (t, p) = (line.t.map_or("-".to_owned(), ratio), line.p.map_or("-".to_owned(), chance));
        let interval = format!("{} .. {}", signed(line.low, 6), signed(line.high, 6));
        let inflation = line.variance_inflation.map_or(String::new(), |inflation| {
            if inflation < 1e5 { format!("{inflation:.2}") } else { format!("{inflation:.1e}") }
        });
        text.push_str(&format!(
            "{:width$} {:>14} {:>12} {t:>9} {p:>10} {interval:>29} {inflation:>8}\n",
            line.term,
            signed(line.estimate, 8),
            signed(line.standard_error, 6),
        ));
    }
    text.push_str(&format!(
        "\nResidual standard error {} on {} degrees of freedom ({rows} rows); R2 {:.6}, adjusted {:.6}",
        signed(statistics.residual_standard_error, 7),
        statistics.freedom,
        statistics.r2,
        statistics.adjusted_r2
    ));
    if let Some(FTest { value: Some(value), freedom, p: Some(p) }) = statistics.f {
        text.push_str(&format!("; F {} on {} and {}, p {}", ratio(value), freedom[0], freedom[1], chance(p)));
    }
    text.push_str("\n\n");
    text
}

/// A t or F value.
fn ratio(value: f64) -> String {
    if value.abs() < 1e6 { format!("{value:.3}") } else { format!("{value:.2e}") }
}

/// A p value: `0.0123`, or `1.2e-16`, or `< 1e-300`.
fn chance(p: f64) -> String {
    match p {
        p if p < 1e-300 => "< 1e-300".to_owned(),
        p if p < 1e-3 => format!("{p:.2e}"),
        p => format!("{p:.4}"),
    }
}

/// So many significant digits.
fn signed(value: f64, digits: usize) -> String {
    let size = value.abs();
    if size == 0.0 || !size.is_finite() {
        return format!("{value}");
    }
    if !(1e-4..1e9).contains(&size) {
        return format!("{value:.*e}", digits.saturating_sub(3));
    }
    let decimals = (digits as f64 - 1.0 - size.log10().floor()).clamp(0.0, 12.0) as usize;
    format!("{value:.decimals$}")
}

fn predictions(training: &Training, stored: &Stored) -> Result<String> {
    let shown = training.predictions.num_rows();
    if shown == 0 {
        return Ok(String::new());
    }
    let table = pretty_format_batches(std::slice::from_ref(&training.predictions))
        .map_err(|error| Error::internal("the predictions cannot be printed").source_error(error))?;
    let more = stored.model.training.test_rows > shown as u64;
    let note = if more { format!("only showing top {shown} rows\n") } else { String::new() };
    Ok(format!("{table}\n{note}\n"))
}

/// Errors, rows and the file.
pub fn summary(stored: &Stored) -> String {
    let Stored { model, revision, path } = stored;
    let mut text = String::new();
    match &model.test {
        Some(evaluation) => text.push_str(&errors(evaluation)),
        None => text.push_str(&format!("RMSE on the training rows: {}\n", model.train.rmse)),
    }
    let (training, counts) = (&model.training, &model.training.counts);
    let how = match training.split.as_str() {
        Split::NAME => format!("random {} %, seed {}", training.test_fraction * 100.0, training.seed),
        "chronological" => format!("the last {} % in order", training.test_fraction * 100.0),
        other => other.to_owned(),
    };
    let _ =
        write!(text, "\n{} rows read: {} trained, {} tested ({how})", counts.read, training.rows, training.test_rows);
    if counts.dropped > 0 {
        let _ = write!(text, ", {} dropped ({})", counts.dropped, counts.describe());
    }
    text.push('\n');
    if let Some(weights) = training.weights {
        let _ =
            writeln!(text, "weights add up to {}; as much as {:.0} equal rows", weights.sum, weights.effective_rows);
    }
    for left in &training.left_out {
        let _ = writeln!(text, "left out '{}': {}", left.feature, left.why);
    }
    let _ = writeln!(text, "saved as {}@{revision} in {}", model.name, path.display());
    text
}

fn errors(evaluation: &Evaluation) -> String {
    let Evaluation { rows, model, mean, last_value, seasonal, folds } = evaluation;
    let mut text = format!("Root Mean Squared Error (RMSE): {}\n\nOn the {rows} test rows:\n", model.rmse);
    let r2 = |r2: Option<f64>| r2.map_or("-".to_owned(), |r2| format!("{r2:.6}"));
    let share = |share: Option<f64>| share.map_or("-".to_owned(), |share| format!("{:.4} %", share * 100.0));
    let line = |name: &str, columns: [String; 5]| {
        let [rmse, mae, mape, r2, skill] = columns;
        format!("  {name:<18} {rmse:>14} {mae:>14} {mape:>12} {r2:>12} {skill:>10}\n")
    };
    text.push_str(&line("", ["RMSE", "MAE", "MAPE", "R2", "skill"].map(str::to_owned)));
    text.push_str(&line(
        "the model",
        [significant(model.rmse), significant(model.mae), share(model.mape), r2(model.r2), String::new()],
    ));
    let baselines =
        [("the mean", Some(mean)), ("the value before", last_value.as_ref()), ("the season before", seasonal.as_ref())];
    for (name, score) in baselines.into_iter().filter_map(|(name, score)| score.map(|score| (name, score))) {
        let skill = score.skill.map_or("-".to_owned(), |skill| format!("{skill:.4}"));
        let figures = [significant(score.rmse), significant(score.mae), share(score.mape), r2(score.r2), skill];
        text.push_str(&line(name, figures));
        if let Some(rows) = score.rows {
            let _ = writeln!(text, "    (known for {rows} rows; its skill is on these)");
        }
    }
    text.push_str(
        "  skill: the share of the baseline's RMSE that the model takes away; 0 is no better, 1 is perfect\n",
    );
    for fold in folds.iter().filter(|_| folds.len() > 1) {
        let from = fold.time.clone().unwrap_or_else(|| format!("row {}", fold.first_row));
        let skill = fold.skill.map_or("-".to_owned(), |skill| format!("{skill:.4}"));
        let _ = writeln!(
            text,
            "  from {from}: {} rows by a model of {} before them; RMSE {}, skill {skill}",
            fold.rows,
            fold.trained_rows,
            significant(fold.rmse)
        );
    }
    text
}

/// About seven significant digits, in a width that lines up.
fn significant(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if !(1e-4..1e9).contains(&value) {
        return format!("{value:.6e}");
    }
    let digits = (6.0 - value.log10().floor()).clamp(0.0, 10.0) as usize;
    format!("{value:.digits$}")
}

/// The report as one JSON object: the model as it was saved, its revision and file, and the predictions shown.
///
/// # Errors
/// `Internal` if a number is not finite.
pub fn json(training: &Training, stored: &Stored) -> Result<String> {
    let broken = |error: serde_json::Error| Error::internal("the report does not become JSON").source_error(error);
    let mut writer = arrow::json::ArrayWriter::new(Vec::new());
    let written = writer.write(&training.predictions).and_then(|()| writer.finish());
    written.map_err(|error| Error::internal("the predictions do not become JSON").source_error(error))?;
    let rows = writer.into_inner();
    let rows: Value = if rows.is_empty() { json!([]) } else { serde_json::from_slice(&rows).map_err(broken)? };
    let mut text = String::from("{\n");
    // The model's text is put in as it is: its numbers keep every bit.
    let parts = [
        ("reference", json!(format!("{}@{}", stored.model.name, stored.revision)).to_string()),
        ("path", json!(stored.path.display().to_string()).to_string()),
        ("predictions", rows.to_string()),
        ("model", serde_json::to_string(&stored.model).map_err(broken)?),
    ];
    let lines: Vec<String> = parts.iter().map(|(key, value)| format!("\"{key}\": {value}")).collect();
    writeln!(text, "{}\n}}", lines.join(",\n")).map_err(|error| Error::internal(error.to_string()))?;
    Ok(text)
}
