//! What training found, for people and for programs.

use std::fmt::Write;

use arrow::util::pretty::pretty_format_batches;
use serde_json::{Value, json};

use super::{
    registry::Stored,
    score::{Baseline, Evaluation},
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

/// Features, coefficients and intercept.
fn equation(stored: &Stored) -> String {
    let model = &stored.model;
    let names: Vec<&str> = model.features.iter().map(|feature| feature.name.as_str()).collect();
    let coefficients: Vec<String> = model.coefficients.iter().map(f64::to_string).collect();
    format!(
        "Features: [{}]\nCoefficients: [{}]\nIntercept: {}\n\n",
        names.join(", "),
        coefficients.join(", "),
        model.intercept
    )
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
    let percent = training.test_fraction * 100.0;
    text.push_str(&format!(
        "\n{} rows read: {} trained, {} tested (random {percent} %, seed {})",
        counts.read, training.rows, training.test_rows, training.seed
    ));
    if counts.dropped > 0 {
        text.push_str(&format!(", {} dropped ({})", counts.dropped, counts.describe()));
    }
    text.push('\n');
    for left in &training.left_out {
        text.push_str(&format!("left out '{}': {}\n", left.feature, left.why));
    }
    text.push_str(&format!("saved as {}@{revision} in {}\n", model.name, path.display()));
    text
}

fn errors(evaluation: &Evaluation) -> String {
    let Evaluation { rows, model, mean, last_value } = evaluation;
    let mut text = format!("Root Mean Squared Error (RMSE): {}\n\nOn the {rows} test rows:\n", model.rmse);
    let r2 = |r2: Option<f64>| r2.map_or("-".to_owned(), |r2| format!("{r2:.6}"));
    let mut line = |name: &str, columns: [String; 4]| {
        let [rmse, mae, r2, skill] = columns;
        text.push_str(&format!("  {name:<16} {rmse:>14} {mae:>14} {r2:>12} {skill:>10}\n"));
    };
    line("", ["RMSE", "MAE", "R2", "skill"].map(str::to_owned));
    line("the model", [significant(model.rmse), significant(model.mae), r2(model.r2), String::new()]);
    let mut baseline = |name: &str, score: &Baseline| {
        let skill = score.skill.map_or("-".to_owned(), |skill| format!("{skill:.4}"));
        line(name, [significant(score.rmse), significant(score.mae), r2(score.r2), skill]);
    };
    baseline("the mean", mean);
    baseline("the value before", last_value);
    text.push_str(
        "  skill: the share of the baseline's RMSE that the model takes away; 0 is no better, 1 is perfect\n",
    );
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
