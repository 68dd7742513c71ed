//! Targets that lie ahead, and baselines that lie behind: as SQL around the user's query. Pure.

use serde::{Deserialize, Serialize};

use super::weighting::{HalfLife, duration_us, row_count};
use crate::error::{Error, Result};

/// The name under which a saved query finds the rows of the source.
pub const INPUT: &str = "input";

/// The column of the target one season before.
pub const SEASONAL: &str = "tidemill_seasonal";

/// What a prediction is of: the column's first value from `ahead_us` on after the row's time, if there is one within
/// `tolerance_us`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Horizon {
    pub column: String,
    pub time: String,
    pub ahead_us: i64,
    pub tolerance_us: i64,
    /// Series that lie beside one another, each with a future of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partition_by: Vec<String>,
}

impl Horizon {
    /// The name of the target that it makes: `price_in_5m`.
    pub fn target(&self) -> String {
        format!("{}_in_{}", self.column, spell(self.ahead_us))
    }
}

/// How far back the seasonal baseline looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Season {
    TimeUs(i64),
    Rows(u64),
}

impl Season {
    /// Reads `24h` or `288 rows`.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn parse(text: &str) -> Result<Self> {
        match row_count(text) {
            Some(rows) => Ok(Self::Rows(rows)),
            None => duration_us(text).map(Self::TimeUs).map_err(|error| error.context("--season")),
        }
    }
}

impl HalfLife {
    /// Reads `24h` or `1000 rows`.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn parse(text: &str) -> Result<Self> {
        match row_count(text) {
            Some(rows) => Ok(Self::Rows(rows)),
            None => duration_us(text).map(Self::TimeUs).map_err(|error| error.context("--half-life")),
        }
    }
}

/// How rows are ordered and what is added to them.
#[derive(Debug, Clone, Default)]
pub struct Shape {
    /// The column to order by.
    pub time: Option<String>,
    /// The column whose values are looked up.
    pub column: String,
    pub horizon: Option<Horizon>,
    pub season: Option<Season>,
    /// How late after the season a value may be; as for the horizon.
    pub tolerance_us: Option<i64>,
    pub partition_by: Vec<String>,
}

/// A tenth of a distance: how much later than asked for a value may be.
pub fn default_tolerance_us(distance_us: i64) -> i64 {
    (distance_us / 10).max(1)
}

impl Shape {
    /// The query, in order, with the columns that `horizon` and `season` make.
    ///
    /// # Errors
    /// `Invalid` for options that do not go together.
    pub fn around(&self, sql: &str) -> Result<String> {
        let mut added = String::new();
        let column = quoted(&self.column);
        if let Some(horizon) = &self.horizon {
            let (from, to) = (horizon.ahead_us, horizon.ahead_us + horizon.tolerance_us);
            added.push_str(&format!(
                ", first_value({column}) IGNORE NULLS OVER ({} RANGE BETWEEN {} FOLLOWING AND {} FOLLOWING) AS {}",
                self.window(&horizon.time),
                interval(from),
                interval(to),
                quoted(&horizon.target())
            ));
        }
        match (self.season, &self.time) {
            (None, _) => {}
            (Some(_), None) => {
                return Err(Error::invalid("--season needs --time").help("name the column of times"));
            }
            (Some(Season::Rows(rows)), Some(time)) if self.horizon.is_none() => {
                added.push_str(&format!(", lag({column}, {rows}) OVER ({}) AS {SEASONAL}", self.window(time)));
            }
            (Some(Season::Rows(_)), _) => {
                return Err(Error::invalid("with --horizon the --season is a duration, not a number of rows"));
            }
            (Some(Season::TimeUs(season)), Some(time)) => {
                let ahead = self.horizon.as_ref().map_or(0, |horizon| horizon.ahead_us);
                if season < ahead || season == 0 {
                    return Err(Error::invalid("the --season is shorter than the --horizon")
                        .help("at the time of the prediction that value is not known yet"));
                }
                let back = season - ahead;
                let tolerance = self.tolerance_us.unwrap_or_else(|| default_tolerance_us(season));
                added.push_str(&format!(
                    ", last_value({column}) IGNORE NULLS OVER ({} RANGE BETWEEN {} PRECEDING AND {} PRECEDING) AS {SEASONAL}",
                    self.window(time),
                    interval(back + tolerance),
                    interval(back),
                ));
            }
        }
        let order = self.time.as_ref().map(|time| format!(" ORDER BY {}", quoted(time))).unwrap_or_default();
        if added.is_empty() && order.is_empty() {
            return Ok(sql.to_owned());
        }
        Ok(format!("SELECT *{added} FROM ({sql}){order}"))
    }

    fn partitions(&self) -> String {
        if self.partition_by.is_empty() {
            return String::new();
        }
        let columns: Vec<String> = self.partition_by.iter().map(|column| quoted(column)).collect();
        format!("PARTITION BY {}", columns.join(", "))
    }

    fn window(&self, time: &str) -> String {
        format!("{} ORDER BY {}", self.partitions(), quoted(time)).trim_start().to_owned()
    }
}

/// The feature query over the rows of `source`, which it calls `input`.
pub fn over_input(source: &str, query: &str) -> String {
    let query = query.trim().trim_end_matches(';').trim_end();
    let first = query.split_whitespace().next().unwrap_or_default();
    if first.eq_ignore_ascii_case("WITH") {
        let rest = &query[first.len()..];
        return format!("WITH {INPUT} AS ({source}),{rest}");
    }
    format!("WITH {INPUT} AS ({source}) {query}")
}

/// A name as SQL takes it, whatever is in it.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn interval(microseconds: i64) -> String {
    format!("INTERVAL '{microseconds} microseconds'")
}

/// `5m`, `90s`, `250ms`.
pub fn spell(microseconds: i64) -> String {
    let units = [(86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"), (1_000, "ms")];
    let unit = units.into_iter().find(|(unit, _)| microseconds % unit == 0 && microseconds != 0);
    unit.map_or_else(|| format!("{microseconds}us"), |(unit, name)| format!("{}{name}", microseconds / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_sql() {
        let horizon = Horizon {
            column: "price".to_owned(),
            time: "ts".to_owned(),
            ahead_us: 300_000_000,
            tolerance_us: 30_000_000,
            partition_by: vec!["symbol".to_owned()],
        };
        assert_eq!(horizon.target(), "price_in_5m");
        let mut shape = Shape {
            time: Some("ts".to_owned()),
            column: "price".to_owned(),
            horizon: Some(horizon),
            season: Some(Season::TimeUs(3_600_000_000)),
            tolerance_us: None,
            partition_by: vec!["symbol".to_owned()],
        };
        assert_eq!(
            shape.around("SELECT 1").unwrap(),
            "SELECT *, first_value(\"price\") IGNORE NULLS OVER (PARTITION BY \"symbol\" ORDER BY \"ts\" RANGE BETWEEN \
             INTERVAL '300000000 microseconds' FOLLOWING AND INTERVAL '330000000 microseconds' FOLLOWING) AS \
             \"price_in_5m\", last_value(\"price\") IGNORE NULLS OVER (PARTITION BY \"symbol\" ORDER BY \"ts\" RANGE \
             BETWEEN INTERVAL '3660000000 microseconds' PRECEDING AND INTERVAL '3300000000 microseconds' PRECEDING) AS \
             tidemill_seasonal FROM (SELECT 1) ORDER BY \"ts\""
        );
        shape.season = Some(Season::TimeUs(1));
        assert!(shape.around("SELECT 1").unwrap_err().message().contains("shorter than the --horizon"));
        shape.season = Some(Season::Rows(3));
        assert!(shape.around("SELECT 1").is_err());
        let mut plain = Shape { column: "y".to_owned(), season: Some(Season::Rows(3)), ..Shape::default() };
        assert!(plain.around("x").unwrap_err().message().contains("needs --time"));
        plain.time = Some("t".to_owned());
        let wanted = "SELECT *, lag(\"y\", 3) OVER (ORDER BY \"t\") AS tidemill_seasonal FROM (x) ORDER BY \"t\"";
        assert_eq!(plain.around("x").unwrap(), wanted);
        assert_eq!(Shape::default().around("x").unwrap(), "x");
    }

    #[test]
    fn a_query_finds_its_input() {
        assert_eq!(over_input("TABLE t", " SELECT 1; "), "WITH input AS (TABLE t) SELECT 1");
        let with = over_input("TABLE t", "with a AS (SELECT 1) SELECT * FROM a");
        assert_eq!(with, "WITH input AS (TABLE t), a AS (SELECT 1) SELECT * FROM a");
        for (us, text) in [(1, "1us"), (250_000, "250ms"), (5_400_000_000, "90m"), (86_400_000_000, "1d")] {
            assert_eq!(spell(us), text);
        }
    }
}
