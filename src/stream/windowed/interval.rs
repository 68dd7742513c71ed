//! How far apart in event time the two rows of a pair are, by the condition of their join.
//!
//! What is found may be too wide, never too narrow: the condition itself is still looked at for each pair.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::{
    common::DFSchema,
    logical_expr::{BinaryExpr, Expr, Join, LogicalPlan, Operator, utils::split_conjunction},
};

use super::over::micros_between;

/// Where the event times of the two sides are, and how far the right one is after the left one: microseconds, both
/// included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Hash)]
pub struct Reach {
    pub left: usize,
    pub right: usize,
    pub from_us: i64,
    pub to_us: i64,
}

/// What the condition says of two columns.
#[derive(Debug, Clone, Copy, Default)]
struct Bounds {
    from_us: Option<i64>,
    to_us: Option<i64>,
}

/// Event times of the left and the right side, so often each, and something constant between two numbers of
/// microseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Linear {
    left: Option<(usize, i64)>,
    right: Option<(usize, i64)>,
    least_us: i64,
    most_us: i64,
}

/// Which columns hold event times that can be waited for, in each side.
pub type EventTimes<'a> = &'a dyn Fn(&LogicalPlan, usize) -> bool;

/// The bounds that the condition of `join` gives. `Err` says which is missing.
pub fn reach(join: &Join, is_time: EventTimes<'_>) -> Result<Reach, &'static str> {
    let mut found: Vec<((usize, usize), Bounds)> = Vec::new();
    let sides = Sides { join, is_time };
    for (left, right) in &join.on {
        sides.compare(left, Operator::Eq, right, &mut found);
    }
    for condition in join.filter.iter().flat_map(split_conjunction) {
        match condition {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => sides.compare(left, *op, right, &mut found),
            Expr::Between(between) if !between.negated => {
                sides.compare(&between.expr, Operator::GtEq, &between.low, &mut found);
                sides.compare(&between.expr, Operator::LtEq, &between.high, &mut found);
            }
            _ => {}
        }
    }
    for ((left, right), bounds) in &found {
        if let Bounds { from_us: Some(from_us), to_us: Some(to_us) } = bounds {
            // Bounds that exclude each other let no pair through, whatever is kept.
            let to_us = *to_us.max(from_us);
            return Ok(Reach { left: *left, right: *right, from_us: *from_us, to_us });
        }
    }
    Err(match found.first() {
        None => "the condition does not compare their event times",
        Some((_, Bounds { from_us: None, .. })) => {
            "nothing says how much older than the left row the right one may be at most"
        }
        Some(_) => "nothing says how much newer than the left row the right one may be at most",
    })
}

/// The two sides of a join.
struct Sides<'a> {
    join: &'a Join,
    is_time: EventTimes<'a>,
}

impl Sides<'_> {
    fn compare(&self, left: &Expr, op: Operator, right: &Expr, found: &mut Vec<((usize, usize), Bounds)>) {
        let difference = self.linear(left).and_then(|a| a.plus(self.linear(right)?, -1));
        let Some(Linear { left: Some((left, l)), right: Some((right, r)), least_us, most_us }) = difference else {
            return;
        };
        // right - left + [least, most] `op` 0
        let (op, least_us, most_us) = match (l, r) {
            (-1, 1) => (op, least_us, most_us),
            (1, -1) => match op.swap() {
                Some(op) => (op, -most_us, -least_us),
                None => return,
            },
            _ => return,
        };
        let (from_us, to_us) = match op {
            Operator::Eq => (Some(-most_us), Some(-least_us)),
            Operator::Gt | Operator::GtEq => (Some(-most_us), None),
            Operator::Lt | Operator::LtEq => (None, Some(-least_us)),
            _ => return,
        };
        let at = found.iter().position(|(columns, _)| *columns == (left, right)).unwrap_or_else(|| {
            found.push(((left, right), Bounds::default()));
            found.len() - 1
        });
        if let Some((_, bounds)) = found.get_mut(at) {
            bounds.from_us = bounds.from_us.max(from_us);
            bounds.to_us = match (bounds.to_us, to_us) {
                (Some(known), Some(new)) => Some(known.min(new)),
                (known, new) => known.or(new),
            };
        }
    }

    fn linear(&self, expr: &Expr) -> Option<Linear> {
        match expr {
            Expr::Alias(alias) => self.linear(&alias.expr),
            Expr::Column(column) => {
                let time = |side: &LogicalPlan| {
                    let at = side.schema().maybe_index_of_column(column)?;
                    (self.is_time)(side, at).then_some((at, rounding_us(side.schema(), at)))
                };
                match (time(&self.join.left), time(&self.join.right)) {
                    (Some((at, us)), _) => Some(Linear { left: Some((at, 1)), ..Linear::rounded(us) }),
                    (None, Some((at, us))) => Some(Linear { right: Some((at, 1)), ..Linear::rounded(us) }),
                    (None, None) => None,
                }
            }
            Expr::Literal(value, _) => {
                let (least_us, most_us) = micros_between(value)?;
                Some(Linear { least_us, most_us, ..Linear::default() })
            }
            Expr::Cast(cast) => {
                let inner = self.linear(&cast.expr)?;
                let us = rounding_of_cast_us(cast.field.data_type(), self.type_of(&cast.expr).as_ref())?;
                inner.plus(Linear::rounded(us), 1)
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                let sign = match op {
                    Operator::Plus => 1,
                    Operator::Minus => -1,
                    _ => return None,
                };
                self.linear(left)?.plus(self.linear(right)?, sign)
            }
            _ => None,
        }
    }

    fn type_of(&self, expr: &Expr) -> Option<DataType> {
        use datafusion::logical_expr::ExprSchemable;
        expr.get_type(&self.join.schema).ok().or_else(|| {
            let sides = [&self.join.left, &self.join.right];
            sides.iter().find_map(|side| expr.get_type(side.schema()).ok())
        })
    }
}

impl Linear {
    fn rounded(us: i64) -> Self {
        Self { least_us: -us, most_us: us, ..Self::default() }
    }

    /// `self + sign * other`
    fn plus(self, other: Self, sign: i64) -> Option<Self> {
        let (least_us, most_us) = match sign {
            1 => (other.least_us, other.most_us),
            _ => (other.most_us.checked_neg()?, other.least_us.checked_neg()?),
        };
        Some(Self {
            left: times(self.left, other.left, sign)?,
            right: times(self.right, other.right, sign)?,
            least_us: self.least_us.checked_add(least_us)?,
            most_us: self.most_us.checked_add(most_us)?,
        })
    }
}

/// The sum of so many times a column; `None` if they are of two columns.
#[expect(clippy::option_option, reason = "no column is a sum too")]
fn times(a: Option<(usize, i64)>, b: Option<(usize, i64)>, sign: i64) -> Option<Option<(usize, i64)>> {
    match (a, b) {
        (Some((at, count)), Some((other, more))) if at == other => {
            let count = count + sign * more;
            Some((count != 0).then_some((at, count)))
        }
        (Some(_), Some(_)) => None,
        (Some(one), None) => Some(Some(one)),
        (None, Some((at, count))) => Some(Some((at, sign * count))),
        (None, None) => Some(None),
    }
}

/// The state holds event times in microseconds, rounded down.
fn rounding_us(schema: &DFSchema, at: usize) -> i64 {
    i64::from(matches!(schema.field(at).data_type(), DataType::Timestamp(TimeUnit::Nanosecond, _)))
}

/// What a cast between timestamps changes of a time at most; `None` if it is no such cast, or moves it to another zone.
fn rounding_of_cast_us(to: &DataType, from: Option<&DataType>) -> Option<i64> {
    let (DataType::Timestamp(unit, _), Some(from)) = (to, from) else { return None };
    same_zone(to, from).then_some(match unit {
        TimeUnit::Second => 1_000_000,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1,
        TimeUnit::Nanosecond => 0,
    })
}

/// Does a cast between these timestamps change no time?
pub fn is_finer(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        (DataType::Timestamp(from_unit, _), DataType::Timestamp(to_unit, _)) => {
            same_zone(from, to) && to_unit >= from_unit
        }
        _ => false,
    }
}

fn same_zone(a: &DataType, b: &DataType) -> bool {
    let zone = |data_type: &DataType| match data_type {
        DataType::Timestamp(_, zone) => Some(match zone.as_deref() {
            None | Some("UTC" | "+00:00" | "Z" | "Etc/UTC") => String::new(),
            Some(zone) => zone.to_owned(),
        }),
        _ => None,
    };
    zone(a).is_some_and(|of_a| zone(b) == Some(of_a))
}
