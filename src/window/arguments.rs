//! The arguments of window functions: durations and time zones, by position or by name.

use std::fmt;

use arrow::datatypes::{DataType, IntervalUnit};
use chrono_tz::Tz;
use datafusion::{
    common::{Diagnostic, ScalarValue, Span},
    error::DataFusionError,
    logical_expr::Expr,
};

use super::{WindowKind, WindowSpec, spec::duration, wall::DAY_US};
use crate::error::{Error, nearest};

/// A window function, with the order of its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Function {
    Tumble,
    Hop,
    Cumulate,
    Session,
    /// Spark's `window`: the size first.
    Window,
    /// Spark's `session_window`.
    SessionWindow,
}

/// What a measure of a window is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measure {
    Size,
    Slide,
    Step,
    Gap,
    Offset,
}

/// One argument as it was written.
#[derive(Debug)]
pub struct Argument {
    /// In lower case.
    pub name: Option<String>,
    pub value: Expr,
    pub span: Option<Span>,
}

/// An error at its place in the SQL.
pub fn at(error: Error, span: Option<Span>) -> DataFusionError {
    match span {
        // Without a message of its own: the error says it.
        Some(span) => DataFusionError::from(error).with_diagnostic(Diagnostic::new_error("", Some(span))),
        None => error.into(),
    }
}

impl Function {
    pub const ALL: [Self; 6] =
        [Self::Tumble, Self::Hop, Self::Cumulate, Self::Session, Self::Window, Self::SessionWindow];

    /// The function of that name, in any case.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|function| function.name().eq_ignore_ascii_case(name))
    }

    /// Its name in SQL, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tumble => "tumble",
            Self::Hop => "hop",
            Self::Cumulate => "cumulate",
            Self::Session => "session",
            Self::Window => "window",
            Self::SessionWindow => "session_window",
        }
    }

    /// The measures in their order, and how many of them must be there.
    fn measures(self) -> (&'static [Measure], usize) {
        use Measure::{Gap, Offset, Size, Slide, Step};
        match self {
            Self::Tumble => (&[Size, Offset], 1),
            Self::Hop => (&[Slide, Size, Offset], 2),
            Self::Cumulate => (&[Step, Size, Offset], 2),
            Self::Session | Self::SessionWindow => (&[Gap], 1),
            Self::Window => (&[Size, Slide, Offset], 1),
        }
    }

    /// How it is written; `before` is what comes in front of the measures.
    pub fn usage(self, before: &str) -> String {
        let (measures, needed) = self.measures();
        let mut usage = format!("{self}({before}");
        for (index, measure) in measures.iter().enumerate() {
            usage += &match index {
                0 => format!("{measure}"),
                _ if index < needed => format!(", {measure}"),
                _ => format!(" [, {measure}]"),
            };
        }
        usage + ")"
    }

    /// The window that the measures make. `zone` is that of the time column, for want of one among the arguments;
    /// `whole` is the place of the call, and `before` as in `usage`.
    ///
    /// # Errors
    /// `Invalid` or `Unsupported` at the argument that is wrong.
    pub fn spec(
        self,
        arguments: &[Argument],
        zone: Option<Tz>,
        whole: Option<Span>,
        before: &str,
    ) -> Result<WindowSpec, DataFusionError> {
        let mut bound = self.bind(arguments, whole, before)?;
        let mut take = |wanted: Measure| {
            let found = bound.values.iter().position(|(measure, ..)| *measure == wanted)?;
            Some(bound.values.swap_remove(found).1)
        };
        let offset = take(Measure::Offset).unwrap_or(0);
        let (kind, size) = match self {
            Self::Tumble => (WindowKind::Tumble, take(Measure::Size)),
            Self::Hop => (WindowKind::Hop { slide_us: take(Measure::Slide).unwrap_or(0) }, take(Measure::Size)),
            Self::Cumulate => (WindowKind::Cumulate { step_us: take(Measure::Step).unwrap_or(0) }, take(Measure::Size)),
            Self::Session | Self::SessionWindow => (WindowKind::Session, take(Measure::Gap)),
            Self::Window => {
                let (size, slide) = (take(Measure::Size), take(Measure::Slide));
                match (slide, size) {
                    (Some(slide_us), Some(size)) if slide_us > size => {
                        let error = Error::invalid(format!(
                            "the slide of window(), {}, is longer than its size, {}",
                            duration(slide_us),
                            duration(size)
                        ));
                        return Err(at(error.help("the size comes first, then the slide"), whole));
                    }
                    (Some(slide_us), size) if Some(slide_us) != size => (WindowKind::Hop { slide_us }, size),
                    (_, size) => (WindowKind::Tumble, size),
                }
            }
        };
        let zone = bound.zone.or(zone.filter(|_| kind != WindowKind::Session)).filter(|zone| *zone != Tz::UTC);
        WindowSpec::new(kind, size.unwrap_or(0), offset, zone).map_err(|error| at(error, whole))
    }

    fn bind(self, arguments: &[Argument], whole: Option<Span>, before: &str) -> Result<Bound, DataFusionError> {
        let (measures, needed) = self.measures();
        let usage = || format!("write {}", self.usage(before));
        let mut bound = Bound { values: Vec::new(), zone: None };
        let mut position = 0;
        for argument in arguments {
            let measure = match argument.name.as_deref() {
                Some("zone") => None,
                Some(name) => {
                    let names: Vec<String> = measures.iter().map(|it| it.to_string().to_lowercase()).collect();
                    let found = names.iter().position(|it| it == name).map(|index| measures[index]);
                    if found.is_none() {
                        let error = Error::invalid(format!("{self} has no argument '{name}'"));
                        let near = nearest(name, names.iter().map(String::as_str));
                        let help = near.map_or_else(usage, |near| format!("did you mean {}?", near.to_uppercase()));
                        return Err(at(error.help(help), argument.span));
                    }
                    found
                }
                None if is_word(&argument.value) => None,
                None => {
                    position += 1;
                    match measures.get(position - 1) {
                        Some(measure) => Some(*measure),
                        None => {
                            let error = Error::invalid(format!("{self} has too many arguments"));
                            return Err(at(error.help(usage()), argument.span.or(whole)));
                        }
                    }
                }
            };
            match measure {
                Some(measure) => {
                    let what = format!("{} of a window", measure.to_string().to_lowercase());
                    let us = duration_us(&argument.value, &what).map_err(|error| at(error, argument.span.or(whole)))?;
                    bound.values.push((measure, us));
                }
                None => {
                    let unknown = || {
                        let error = Error::invalid(format!("{} is no time zone", shown(&argument.value)));
                        at(error.help("write one like 'Europe/Paris'"), argument.span.or(whole))
                    };
                    let zone = text(&argument.value).and_then(|name| name.parse().ok()).ok_or_else(unknown)?;
                    bound.zone = Some(zone);
                }
            }
        }
        let missing = measures[..needed].iter().find(|wanted| !bound.values.iter().any(|(found, _)| found == *wanted));
        if let Some(missing) = missing {
            let error = Error::invalid(format!("{self} needs its {}", missing.to_string().to_lowercase()));
            return Err(at(error.help(usage()), whole));
        }
        Ok(bound)
    }
}

impl fmt::Display for Function {
    /// As it is mostly written: Spark's in lower case.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window | Self::SessionWindow => f.write_str(self.name()),
            _ => f.write_str(&self.name().to_uppercase()),
        }
    }
}

struct Bound {
    values: Vec<(Measure, i64)>,
    zone: Option<Tz>,
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Size => "SIZE",
            Self::Slide => "SLIDE",
            Self::Step => "STEP",
            Self::Gap => "GAP",
            Self::Offset => "OFFSET",
        })
    }
}

/// Does the expression say a duration, and not a column?
pub fn is_literal(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(..))
}

fn text(expr: &Expr) -> Option<&str> {
    let Expr::Literal(ScalarValue::Utf8(Some(text)) | ScalarValue::Utf8View(Some(text)), _) = expr else { return None };
    Some(text.trim())
}

/// A literal as it was written, more or less.
fn shown(expr: &Expr) -> String {
    match (text(expr), expr) {
        (Some(text), _) => format!("'{text}'"),
        (None, Expr::Literal(value, _)) => value.to_string(),
        (None, other) => other.to_string(),
    }
}

/// A text that starts with a letter names a zone, unless it is a duration.
fn is_word(expr: &Expr) -> bool {
    text(expr).is_some_and(|text| {
        let is_interval = text.get(..9).is_some_and(|it| it.eq_ignore_ascii_case("interval "));
        text.starts_with(char::is_alphabetic) && !is_interval
    })
}

/// The zone of a timestamp column, if its clock says more than the offset from UTC.
pub fn zone_of_type(data_type: &DataType) -> Option<Tz> {
    let DataType::Timestamp(_, Some(zone)) = data_type else { return None };
    zone.parse().ok()
}

/// `INTERVAL '1' MINUTE` or `'1 minute'`, in microseconds; `what` it is for messages.
///
/// # Errors
/// `Invalid` for what is no interval, or none of a fixed length.
pub fn duration_us(expr: &Expr, what: &str) -> Result<i64, Error> {
    let wanted = || {
        Error::invalid(format!("the {what} is an interval, not {}", shown(expr)))
            .help("write INTERVAL '1' MINUTE or '1 minute'")
    };
    let Expr::Literal(value, _) = expr else { return Err(wanted()) };
    let interval = DataType::Interval(IntervalUnit::MonthDayNano);
    let value = match value {
        ScalarValue::Utf8(_) | ScalarValue::Utf8View(_) => {
            let text = text(expr).ok_or_else(wanted)?;
            let text = text.get(..9).filter(|it| it.eq_ignore_ascii_case("interval ")).map_or(text, |_| &text[9..]);
            ScalarValue::try_from_string(text.to_owned(), &interval).map_err(|_| wanted())?
        }
        other => other.cast_to(&interval).map_err(|_| wanted())?,
    };
    let ScalarValue::IntervalMonthDayNano(Some(interval)) = value else { return Err(wanted()) };
    if interval.months != 0 {
        return Err(Error::invalid(format!("the {what} counts no months or years: they differ in length"))
            .help("count in days, INTERVAL '30' DAY, or group by date_trunc('month', ...)"));
    }
    if interval.nanoseconds % 1_000 != 0 {
        return Err(Error::invalid(format!("the {what} is no whole number of microseconds")));
    }
    let days = i64::from(interval.days).checked_mul(DAY_US);
    let us = days.and_then(|days| days.checked_add(interval.nanoseconds / 1_000));
    us.ok_or_else(|| Error::invalid(format!("the {what} is too long")))
}
