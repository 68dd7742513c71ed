//! From the record batches of a query to columns of `f64`, with every row that cannot be used counted.

use arrow::{
    array::{Array, Float64Array, Int64Array, RecordBatch},
    datatypes::Schema,
};
use serde::{Deserialize, Serialize};

use super::{
    columns::{
        Category, Column, HandleInvalid, Term, check_distinct, check_numeric, check_time, place_of, places_in, terms,
        to_f64, to_microseconds, to_text, unknown_value,
    },
    plan::Plan,
};
use crate::error::{Error, Result};

/// Which column plays which part.
#[derive(Debug, Clone, Default)]
pub struct Roles {
    pub target: String,
    pub features: Vec<String>,
    /// Of some features.
    pub categories: Vec<Category>,
    pub handle_invalid: HandleInvalid,
    /// Names of columns and their units.
    pub units: Vec<(String, String)>,
    pub weight: Option<String>,
    pub time: Option<String>,
    /// The target's last known value; if there is no such column, that of the row before.
    pub last_value: Option<String>,
    /// The target one season before.
    pub seasonal: Option<String>,
}

impl Roles {
    /// The names of all columns that are needed, each once.
    pub fn needed(&self) -> Vec<String> {
        let mut names = self.features.clone();
        let others = [&self.weight, &self.time, &self.last_value, &self.seasonal];
        for name in std::iter::once(&self.target).chain(others.into_iter().flatten()) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }

    fn check(&self) -> Result<()> {
        check_distinct(&self.features, &self.target)?;
        let stray = self.categories.iter().find(|category| !self.features.contains(&category.column));
        if let Some(category) = stray {
            return Err(Error::invalid(format!("the categorical column '{}' is no feature", category.column))
                .help("name it in --features too"));
        }
        let stray = self.units.iter().find(|(name, _)| *name != self.target && !self.features.contains(name));
        if let Some((name, _)) = stray {
            return Err(Error::invalid(format!("'{name}' has a unit, but is neither a feature nor the target")));
        }
        Ok(())
    }
}

/// Where the columns stand in a query's schema.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The features in order, the target last.
    pub columns: Vec<Column>,
    /// What is fitted.
    pub terms: Vec<Term>,
    handle_invalid: HandleInvalid,
    places: Vec<usize>,
    weight: Option<usize>,
    time: Option<usize>,
    last_value: Option<usize>,
    seasonal: Option<usize>,
    /// Of the columns whose gaps are counted: those of `columns`, then the weight, then the time.
    counted: Vec<String>,
}

impl Layout {
    /// Finds the columns. Names must be exactly those of the query's result: SQL lower-cases a name without quotes.
    ///
    /// # Errors
    /// `Invalid` for a name that is missing, ambiguous or given twice, and for a column that is not numeric.
    pub fn find(schema: &Schema, roles: &Roles, fit_intercept: bool) -> Result<Self> {
        roles.check()?;
        let mut columns = Vec::with_capacity(roles.features.len() + 1);
        let mut places = Vec::with_capacity(roles.features.len() + 1);
        for name in roles.features.iter().chain([&roles.target]) {
            let role = if places.len() < roles.features.len() { "feature" } else { "target" };
            let place = place_of(schema, name, role)?;
            let data_type = schema.field(place).data_type().clone();
            let vocabulary = roles.categories.iter().find(|category| category.column == *name);
            if vocabulary.is_none() {
                check_numeric(name, role, &data_type)?;
            }
            columns.push(Column {
                name: name.clone(),
                data_type,
                unit: roles.units.iter().find(|(column, _)| column == name).map(|(_, unit)| unit.clone()),
                vocabulary: vocabulary.map(|category| category.values.clone()),
            });
            places.push(place);
        }
        let numeric = |name: &Option<String>, role: &str| -> Result<Option<usize>> {
            let Some(name) = name else { return Ok(None) };
            let place = place_of(schema, name, role)?;
            check_numeric(name, role, schema.field(place).data_type())?;
            Ok(Some(place))
        };
        let time = match &roles.time {
            None => None,
            Some(name) => {
                let place = place_of(schema, name, "time")?;
                check_time(name, schema.field(place).data_type())?;
                Some(place)
            }
        };
        let terms = terms(&columns[..roles.features.len()], fit_intercept);
        let counted = columns.iter().map(|column| column.name.clone());
        Ok(Self {
            counted: counted.chain(roles.weight.clone()).chain(roles.time.clone()).collect(),
            terms,
            columns,
            places,
            handle_invalid: roles.handle_invalid,
            weight: numeric(&roles.weight, "weight")?,
            time,
            last_value: numeric(&roles.last_value, "last value")?,
            seasonal: numeric(&roles.seasonal, "value of the season before")?,
        })
    }

    /// The terms' names.
    pub fn term_names(&self) -> Vec<String> {
        self.terms.iter().map(|term| term.name(&self.columns)).collect()
    }

    /// Whether rows have times.
    pub fn is_timed(&self) -> bool {
        self.time.is_some()
    }

    /// The target's column.
    pub fn target(&self) -> &Column {
        &self.columns[self.columns.len() - 1]
    }
}

/// Rows of one column that could not be used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unusable {
    pub column: String,
    pub nulls: u64,
    /// NaN and the infinities.
    pub non_finite: u64,
    /// Values outside the vocabulary.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unknown: u64,
    /// Weights of 0 or less.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub not_positive: u64,
}

impl Unusable {
    fn is_any(&self) -> bool {
        self.nulls + self.non_finite + self.unknown + self.not_positive > 0
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// What was read and what of it could not be used. A row with two bad columns counts once in `dropped`, and once for
/// each column in `by_column`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowCounts {
    pub read: u64,
    pub dropped: u64,
    /// Only columns with bad rows.
    pub by_column: Vec<Unusable>,
}

impl RowCounts {
    /// `volume: 3 null, 1 not finite; price: 2 null`.
    pub fn describe(&self) -> String {
        let part = |number: u64, what: &str| (number > 0).then(|| format!("{number} {what}"));
        let column = |bad: &Unusable| {
            let parts = [
                part(bad.nulls, "null"),
                part(bad.non_finite, "not finite"),
                part(bad.unknown, "not in the vocabulary"),
                part(bad.not_positive, "not positive"),
            ];
            let parts: Vec<String> = parts.into_iter().flatten().collect();
            format!("{}: {}", bad.column, parts.join(", "))
        };
        self.by_column.iter().map(column).collect::<Vec<_>>().join("; ")
    }
}

/// The usable rows of one batch.
#[derive(Debug)]
pub struct Rows<'a> {
    /// The terms in order, then the target. A row that is not usable has meaningless values.
    pub columns: Vec<Float64Array>,
    pub weights: Option<Float64Array>,
    /// For each part of the plan the numbers, within the batch, of its rows.
    pub parts: &'a [Vec<u32>],
    /// For each row its time in microseconds, or its number if there is no time.
    pub moments: &'a [f64],
    /// For each row of the batch the target's last known value; NaN if there is none.
    pub last_values: &'a [f64],
    /// For each row the target one season before; NaN if there is none. Empty without a season.
    pub seasonal: Vec<f64>,
    /// The number, in the query's order, of the batch's first row.
    pub first: u64,
}

impl Rows<'_> {
    /// The columns' values; those of unusable rows are meaningless.
    pub fn values(&self) -> Vec<&[f64]> {
        self.columns.iter().map(|column| &column.values()[..]).collect()
    }

    /// The weights' values.
    pub fn weights(&self) -> Option<&[f64]> {
        self.weights.as_ref().map(|weights| &weights.values()[..])
    }
}

/// Reads the batches of one run of the query, in order.
#[derive(Debug)]
pub struct Reader<'a> {
    layout: &'a Layout,
    plan: &'a Plan,
    read: u64,
    kept: u64,
    bad: Vec<Unusable>,
    previous_target: f64,
    latest_us: i64,
    usable: Vec<bool>,
    parts: Vec<Vec<u32>>,
    moments: Vec<f64>,
    last_values: Vec<f64>,
}

impl<'a> Reader<'a> {
    /// From the first row.
    pub fn new(layout: &'a Layout, plan: &'a Plan) -> Self {
        let bad = |column: &String| Unusable { column: column.clone(), ..Unusable::default() };
        Self {
            layout,
            plan,
            read: 0,
            kept: 0,
            bad: layout.counted.iter().map(bad).collect(),
            previous_target: f64::NAN,
            latest_us: i64::MIN,
            usable: Vec::new(),
            parts: vec![Vec::new(); plan.parts()],
            moments: Vec::new(),
            last_values: Vec::new(),
        }
    }

    /// Takes the next batch apart.
    ///
    /// # Errors
    /// `Invalid` from Arrow's cast, for a value outside a vocabulary, and for rows that are not in the order of time
    /// where the plan needs it.
    pub fn read(&mut self, batch: &RecordBatch) -> Result<Rows<'_>> {
        self.usable.clear();
        self.usable.resize(batch.num_rows(), true);
        let columns = self.columns(batch)?;
        let layout = self.layout;
        let mut weights = None;
        let mut counted = layout.columns.len();
        if let Some(place) = layout.weight {
            let values = to_f64(batch.column(place))?;
            mark_unusable(&values, &mut self.bad[counted], &mut self.usable);
            mark_not_positive(&values, &mut self.bad[counted], &mut self.usable);
            weights = Some(values);
            counted += 1;
        }
        let times = layout.time.map(|place| to_microseconds(batch.column(place))).transpose()?;
        if let Some(times) = &times {
            mark_nulls(times, &mut self.bad[counted], &mut self.usable);
        }
        let first = self.read;
        self.divide(&columns[columns.len() - 1], times.as_ref())?;
        if let Some(place) = layout.last_value {
            self.last_values = with_nan(&to_f64(batch.column(place))?);
        }
        let seasonal = match layout.seasonal {
            Some(place) => with_nan(&to_f64(batch.column(place))?),
            None => Vec::new(),
        };
        let (parts, moments, last_values) = (&self.parts, &self.moments, &self.last_values);
        Ok(Rows { columns, weights, parts, moments, last_values, seasonal, first })
    }

    /// How many rows came, and how many were dropped for which column.
    pub fn counts(&self) -> RowCounts {
        let by_column = self.bad.iter().filter(|bad| bad.is_any()).cloned().collect();
        RowCounts { read: self.read, dropped: self.read - self.kept, by_column }
    }

    /// The terms and the target, unusable rows marked.
    fn columns(&mut self, batch: &RecordBatch) -> Result<Vec<Float64Array>> {
        let mut terms = Vec::with_capacity(self.layout.terms.len() + 1);
        let of = |feature: usize| self.layout.terms.iter().filter(move |term| term.feature == feature);
        for (feature, ((column, place), bad)) in
            self.layout.columns.iter().zip(&self.layout.places).zip(&mut self.bad).enumerate()
        {
            let Some(vocabulary) = &column.vocabulary else {
                let values = to_f64(batch.column(*place))?;
                mark_unusable(&values, bad, &mut self.usable);
                terms.push(values);
                continue;
            };
            let text = to_text(batch.column(*place))?;
            let (places, unknown) = places_in(&text, vocabulary);
            if let Some(unknown) = unknown
                && self.layout.handle_invalid == HandleInvalid::Error
            {
                return Err(unknown_value(&column.name, &unknown, vocabulary));
            }
            for (row, place) in places.iter().enumerate().filter(|(_, place)| **place == usize::MAX) {
                self.usable[row] &= *place != usize::MAX;
                let counter = if text.is_null(row) { &mut bad.nulls } else { &mut bad.unknown };
                *counter += 1;
            }
            terms.extend(of(feature).map(|term| term.indicator(&places, vocabulary)));
        }
        Ok(terms)
    }

    fn divide(&mut self, target: &Float64Array, times: Option<&Int64Array>) -> Result<()> {
        self.parts.iter_mut().for_each(Vec::clear);
        self.moments.clear();
        self.last_values.clear();
        for ((row, usable), value) in (0_u32..).zip(&self.usable).zip(target.values()) {
            let time = times.filter(|times| times.is_valid(row as usize)).map(|times| times.value(row as usize));
            self.moments.push(if times.is_some() { time.unwrap_or(i64::MIN) as f64 } else { self.read as f64 });
            self.last_values.push(self.previous_target);
            if *usable {
                if let (Some(time), Plan::Ordered { .. }) = (time, self.plan) {
                    if time < self.latest_us {
                        return Err(Error::invalid(format!(
                            "row {} of the query is older than the row before it: the rows are not in the order of time",
                            self.read
                        ))
                        .help("add ORDER BY to the query"));
                    }
                    self.latest_us = time;
                }
                let mut part = self.plan.part_of(self.read, time);
                // The first usable row trains, whatever its draw: so every test row has a value before it.
                if self.kept == 0 && matches!(self.plan, Plan::Random(_)) {
                    part = 0;
                }
                self.parts[part].push(row);
                self.kept += 1;
                self.previous_target = *value;
            } else if target.is_valid(row as usize) && value.is_finite() {
                // A row without a feature still says what the target was.
                self.previous_target = *value;
            }
            self.read += 1;
        }
        Ok(())
    }
}

fn with_nan(column: &Float64Array) -> Vec<f64> {
    column.iter().map(|value| value.unwrap_or(f64::NAN)).collect()
}

fn mark_nulls(column: &dyn Array, bad: &mut Unusable, usable: &mut [bool]) {
    if let Some(nulls) = column.nulls().filter(|nulls| nulls.null_count() > 0) {
        bad.nulls += nulls.null_count() as u64;
        for (usable, valid) in usable.iter_mut().zip(nulls) {
            *usable &= valid;
        }
    }
}

fn mark_not_positive(column: &Float64Array, bad: &mut Unusable, usable: &mut [bool]) {
    for (row, (usable, value)) in usable.iter_mut().zip(column.values()).enumerate() {
        if *value <= 0.0 && column.is_valid(row) {
            bad.not_positive += 1;
            *usable = false;
        }
    }
}

fn mark_unusable(column: &Float64Array, bad: &mut Unusable, usable: &mut [bool]) {
    mark_nulls(column, bad, usable);
    // Without a branch per value, so that the usual case of none is fast. A null's own value may be anything.
    let finite = column.values().iter().fold(true, |finite, value| finite & value.is_finite());
    if !finite {
        for (row, (usable, value)) in usable.iter_mut().zip(column.values()).enumerate() {
            if !value.is_finite() && column.is_valid(row) {
                bad.non_finite += 1;
                *usable = false;
            }
        }
    }
}

#[cfg(test)]
#[path = "dataset_tests.rs"]
mod tests;
