//! A report to look at: predicted against actual, the residuals, the coefficients, as one SVG.

use std::{io::Write, path::Path};

use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{
    file::{NewFile, io_error},
    fit::short,
    registry::Stored,
};
use crate::error::{Error, Result};

const WIDTH: u32 = 1200;
const HEIGHT: u32 = 900;
const BARS: usize = 40;

/// The most coefficients that are drawn: the ones with the largest effect.
const COEFFICIENTS_MAX: usize = 20;

const INK: RGBColor = RGBColor(38, 50, 56);
const FAINT: RGBColor = RGBColor(224, 228, 231);
const POINT: RGBColor = RGBColor(21, 101, 192);
const LINE: RGBColor = RGBColor(198, 40, 40);

/// Refuses another ending than `.svg`.
///
/// # Errors
/// `Invalid`.
pub fn check_path(path: &Path) -> Result<()> {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("svg")) {
        return Ok(());
    }
    Err(Error::invalid(format!("the report {} is not an .svg", path.display())).help("name a file that ends in .svg"))
}

/// Draws the model; `drawn`: (predicted, actual) of some rows. A report that is there is replaced.
///
/// # Errors
/// What the disk says.
pub fn write(path: &Path, stored: &Stored, drawn: &[(f64, f64)]) -> Result<()> {
    let mut text = String::new();
    draw(&mut text, stored, drawn)
        .map_err(|error| Error::internal("the report cannot be drawn").source_error(error.to_string()))?;
    let mut file = NewFile::create(path)?;
    file.write_all(text.as_bytes()).map_err(|error| io_error("write", path, error))?;
    file.replace()
}

type Drawn<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw(text: &mut String, stored: &Stored, drawn: &[(f64, f64)]) -> Drawn<()> {
    let root = SVGBackend::with_string(text, (WIDTH, HEIGHT)).into_drawing_area();
    fill(&root)?;
    let (head, body) = root.split_vertically(76);
    head.draw(&Text::new(
        format!("{}@{}", stored.model.name, stored.revision),
        (24, 16),
        ("sans-serif", 26).into_font().color(&INK),
    ))
    .map_err(own)?;
    head.draw(&Text::new(subtitle(stored), (24, 48), ("sans-serif", 15).into_font().color(&INK))).map_err(own)?;
    let panels = body.split_evenly((2, 2));
    let kind = if stored.model.test.is_some() { "test rows" } else { "training rows" };
    predicted_against_actual(&panels[0], drawn, kind, stored)?;
    residuals_against_predicted(&panels[1], drawn, kind)?;
    histogram(&panels[2], drawn, kind)?;
    coefficients(&panels[3], stored)?;
    root.present().map_err(own)
}

/// Errors of drawing borrow nothing.
fn own<E: std::error::Error>(error: E) -> Box<dyn std::error::Error + Send + Sync> {
    error.to_string().into()
}

fn fill(area: &Area<'_>) -> Drawn<()> {
    area.fill(&WHITE).map_err(own)
}

fn subtitle(stored: &Stored) -> String {
    let model = &stored.model;
    let rows = model.training.rows;
    match &model.test {
        None => format!("{rows} rows trained, none tested. RMSE on the training rows {}", short(model.train.rmse)),
        Some(test) => {
            let skill = test.last_value.and_then(|baseline| baseline.skill).or(test.mean.skill);
            let skill = skill.map_or(String::new(), |skill| {
                let baseline = if test.last_value.is_some() { "the value before" } else { "the mean" };
                format!(", skill {skill:.4} against {baseline}")
            });
            format!("{rows} rows trained, {} tested. RMSE {}{skill}", test.rows, short(test.model.rmse))
        }
    }
}

/// The least and the greatest value, with some air.
fn range(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return -1.0..1.0;
    }
    let air = if high > low { (high - low) * 0.05 } else { low.abs().max(1.0) * 0.5 };
    low - air..high + air
}

/// A panel with axes: the title, what the axes are, their ranges.
fn scatter(
    area: &Area<'_>,
    titles: [&str; 3],
    [x, y]: [std::ops::Range<f64>; 2],
    points: &[(f64, f64)],
    line: Vec<(f64, f64)>,
) -> Drawn<()> {
    let [title, x_title, y_title] = titles;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18).into_font().color(&INK))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(78)
        .build_cartesian_2d(x, y)
        .map_err(own)?;
    chart
        .configure_mesh()
        .x_desc(x_title)
        .y_desc(y_title)
        .x_labels(6)
        .y_labels(6)
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&|value| short(*value))
        .light_line_style(WHITE)
        .bold_line_style(FAINT)
        .axis_style(INK.mix(0.4))
        .label_style(("sans-serif", 13).into_font().color(&INK))
        .axis_desc_style(("sans-serif", 14).into_font().color(&INK))
        .draw()
        .map_err(own)?;
    let dots = points.iter().map(|point| Circle::new(*point, 2, POINT.mix(0.35).filled()));
    chart.draw_series(dots).map_err(own)?;
    chart.draw_series(LineSeries::new(line, LINE.stroke_width(2))).map_err(own)?;
    Ok(())
}

fn predicted_against_actual(area: &Area<'_>, drawn: &[(f64, f64)], kind: &str, stored: &Stored) -> Drawn<()> {
    let both = range(drawn.iter().flat_map(|(predicted, actual)| [*predicted, *actual]));
    let points: Vec<(f64, f64)> = drawn.iter().map(|(predicted, actual)| (*actual, *predicted)).collect();
    let line = vec![(both.start, both.start), (both.end, both.end)];
    let target = &stored.model.target;
    let unit = target.unit.as_ref().map_or(String::new(), |unit| format!(" ({unit})"));
    let actual = format!("actual {}{unit}", target.name);
    let title = format!("Predicted against actual: {} {kind}", drawn.len());
    scatter(area, [&title, &actual, "predicted"], [both.clone(), both], &points, line)
}

fn residuals_against_predicted(area: &Area<'_>, drawn: &[(f64, f64)], kind: &str) -> Drawn<()> {
    let points: Vec<(f64, f64)> = drawn.iter().map(|(predicted, actual)| (*predicted, actual - predicted)).collect();
    let (x, y) = (range(points.iter().map(|point| point.0)), range(points.iter().map(|point| point.1)));
    let line = vec![(x.start, 0.0), (x.end, 0.0)];
    scatter(area, [&format!("Residuals: {kind}"), "predicted", "actual - predicted"], [x, y], &points, line)
}

fn histogram(area: &Area<'_>, drawn: &[(f64, f64)], kind: &str) -> Drawn<()> {
    let residuals: Vec<f64> = drawn.iter().map(|(predicted, actual)| actual - predicted).collect();
    let x = range(residuals.iter().copied());
    let step = (x.end - x.start) / BARS as f64;
    let mut counts = [0_u32; BARS];
    for residual in &residuals {
        let bar = (((residual - x.start) / step) as usize).min(BARS - 1);
        counts[bar] += 1;
    }
    let highest = f64::from(counts.iter().copied().max().unwrap_or(0).max(1));
    let mut chart = ChartBuilder::on(area)
        .caption(format!("Distribution of the residuals: {kind}"), ("sans-serif", 18).into_font().color(&INK))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(78)
        .build_cartesian_2d(x.clone(), 0.0..highest * 1.05)
        .map_err(own)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_desc("actual - predicted")
        .y_desc("rows")
        .x_labels(6)
        .y_labels(6)
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&|value| short(*value))
        .light_line_style(WHITE)
        .bold_line_style(FAINT)
        .axis_style(INK.mix(0.4))
        .label_style(("sans-serif", 13).into_font().color(&INK))
        .axis_desc_style(("sans-serif", 14).into_font().color(&INK))
        .draw()
        .map_err(own)?;
    let bars = counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(bar, count)| {
        let left = x.start + step * bar as f64;
        Rectangle::new([(left + 0.06 * step, 0.0), (left + 0.94 * step, f64::from(*count))], POINT.mix(0.75).filled())
    });
    chart.draw_series(bars).map_err(own)?;
    Ok(())
}

/// Each coefficient times its term's deviation, so that their lengths can be compared, with the confidence interval.
fn coefficients(area: &Area<'_>, stored: &Stored) -> Drawn<()> {
    let model = &stored.model;
    let root = model.factor.weight().sqrt();
    let skip = usize::from(model.fit_intercept);
    let mut lines: Vec<(String, [f64; 3])> = model
        .term_names()
        .into_iter()
        .zip(&model.coefficients)
        .enumerate()
        .map(|(at, (name, value))| {
            let deviation = model.factor.centred_norm(at + 1) / root;
            let known = model.statistics.as_ref().and_then(|statistics| statistics.coefficients.get(at + skip));
            let (low, high) = known.map_or((*value, *value), |line| (line.low, line.high));
            (name, [low * deviation, value * deviation, high * deviation])
        })
        .collect();
    lines.sort_by(|a, b| b.1[1].abs().total_cmp(&a.1[1].abs()));
    lines.truncate(COEFFICIENTS_MAX);
    let x = range(lines.iter().flat_map(|line| line.1).chain([0.0]));
    let count = lines.len().max(1) as f64;
    let title = "Effect of one standard deviation of each term";
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18).into_font().color(&INK))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(150)
        .build_cartesian_2d(x, 0.0..count)
        .map_err(own)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_desc(format!("change of {}", model.target.name))
        .x_labels(6)
        .x_label_formatter(&|value| short(*value))
        .light_line_style(WHITE)
        .bold_line_style(FAINT)
        .axis_style(INK.mix(0.4))
        .label_style(("sans-serif", 13).into_font().color(&INK))
        .axis_desc_style(("sans-serif", 14).into_font().color(&INK))
        .draw()
        .map_err(own)?;
    chart.draw_series(LineSeries::new([(0.0, 0.0), (0.0, count)], INK.mix(0.5))).map_err(own)?;
    let style = ("sans-serif", 14).into_font().color(&INK).pos(Pos::new(HPos::Right, VPos::Center));
    for (at, (name, [low, value, high])) in lines.iter().enumerate() {
        let y = count - at as f64 - 0.5;
        let half = 0.3;
        let bar = Rectangle::new([(0.0, y - half), (*value, y + half)], POINT.mix(0.75).filled());
        chart.draw_series([bar]).map_err(own)?;
        chart.draw_series(LineSeries::new([(*low, y), (*high, y)], LINE.stroke_width(2))).map_err(own)?;
        let left = chart.plotting_area().get_pixel_range().0.start;
        let (_, pixel) = chart.plotting_area().map_coordinate(&(0.0, y));
        let (base_x, base_y) = area.get_base_pixel();
        area.draw(&Text::new(clipped(name), (left - base_x - 8, pixel - base_y), style.clone())).map_err(own)?;
    }
    Ok(())
}

fn clipped(name: &str) -> String {
    if name.chars().count() <= 20 { name.to_owned() } else { name.chars().take(18).chain("..".chars()).collect() }
}
