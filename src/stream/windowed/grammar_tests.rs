//! Random queries from a grammar: windows in all spellings, keys, filters, aggregates and what may stand above them.

use proptest::{prelude::*, sample::select, test_runner::TestCaseResult};

use super::{
    session_tests::{GAP_S, Keys, of_sessions},
    tests::{self, Event, Fate, Step, cases, of_windows, steps},
};

/// Sizes are in seconds.
#[derive(Debug, Clone, Copy)]
enum Window {
    Tumble(i64),
    /// The slide, the size.
    Hop(i64, i64),
    /// The step, the size.
    Cumulate(i64, i64),
    Session,
}

/// How a user may write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// `FROM TUMBLE(t, ts, INTERVAL '10 seconds')`
    RisingWave,
    /// `FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND))`
    Flink,
    /// `GROUP BY TUMBLE(ts, INTERVAL '10 seconds')`
    Arroyo,
    /// `GROUP BY window(ts, '10 seconds')`
    Spark,
}

/// What is read: the second is one table twice.
const TABLES: &[&str] = &[
    "SELECT * FROM prices",
    "SELECT * FROM prices WHERE size % 2 = 0 UNION ALL SELECT * FROM prices WHERE size % 2 <> 0",
];

/// A WHERE, and the same of an event.
type Filter = (&'static str, fn(&Event) -> bool);

const FILTERS: &[Filter] = &[
    ("true", |_| true),
    ("size % 3 <> 1", |event| event.4 % 3 != 1),
    ("price > 20", |event| event.3.is_some_and(|price| price > 20)),
    ("symbol IN ('a', 'b') OR price IS NULL", |event| event.2 < 2 || event.3.is_none()),
];

/// What is grouped by beside the window.
const KEYS: &[&str] = &[
    "",
    "symbol",
    "size % 3",
    "CASE WHEN size % 5 = 0 THEN NULL ELSE symbol END",
    "CASE size % 4 WHEN 0 THEN CAST('NaN' AS DOUBLE) WHEN 1 THEN 0.0 WHEN 2 THEN -0.0 ELSE price END",
];

/// Aggregates of one value; `{x}` is a column of whole numbers, `{o}` an order.
const AGGREGATES: &[&str] = &[
    "count(*)",
    "count({x})",
    "count(DISTINCT {x})",
    "sum({x})",
    "sum(DISTINCT {x})",
    "min({x})",
    "max({x})",
    "avg({x})",
    "median({x})",
    "bit_xor(size)",
    "approx_distinct(size)",
    "first_value({x} ORDER BY {o})",
    "last_value({x} ORDER BY {o})",
    "count(symbol) - count(price)",
    "max({x}) - min({x})",
    "sum(price) / count(*)",
];

/// Others, which take no FILTER here. Those that give lists have one order: DataFusion has no two at once.
const OTHERS: &[&str] = &[
    "max(symbol)",
    "bool_or(price > 50)",
    "bool_and(size > 3)",
    "array_agg(id ORDER BY id)",
    "array_sort(array_agg(DISTINCT size))",
    "string_agg(symbol, ',' ORDER BY id)",
    "CASE WHEN count(*) > 2 THEN max(symbol) END",
];

const CONDITIONS: &[&str] = &["symbol = 'a'", "price > 50", "size % 2 = 0", "price IS NULL"];

/// Above an aggregate whose columns are `window_start`, `window_end`, `k`, `n` and `a0`, `a1` and so on.
const ABOVE: &[&str] = &[
    "{}",
    "SELECT *, n + 1 AS more FROM ({}) WHERE a0 IS NOT NULL OR n > 1",
    "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY window_start, window_end ORDER BY n DESC, k) AS place \
     FROM ({})) WHERE place <= 2",
    "SELECT *, sum(n) OVER (PARTITION BY window_start, window_end) AS total FROM ({})",
    "SELECT window_start, window_end, count(*) AS groups, max(n) AS most, array_agg(a0 ORDER BY k) AS each FROM ({}) \
     GROUP BY window_start, window_end",
];

/// Above windows that are no sessions.
const ABOVE_FIXED: &[&str] = &[
    "SELECT window_start, window_end, k, n, lag(n) OVER (PARTITION BY k ORDER BY window_end, window_start) AS before FROM ({})",
    "SELECT window_end, k, sum(n) OVER (PARTITION BY k ORDER BY window_end RANGE BETWEEN INTERVAL '25 seconds' PRECEDING \
     AND CURRENT ROW) AS recent FROM ({})",
];

/// Windows over windows; the inner ones are in FROM.
const ABOVE_TIMED: &[&str] = &[
    "SELECT window_start AS ws, window_end AS we, count(*) AS groups, sum(n) AS n FROM TUMBLE(({}), window_time, \
     INTERVAL '30 seconds') GROUP BY window_start, window_end",
    "SELECT window_start AS ws, window_end AS we, k, max(n) AS most FROM HOP(({}), window_time, INTERVAL '20 seconds', \
     INTERVAL '40 seconds') GROUP BY window_start, window_end, k",
];

#[derive(Debug, Clone)]
struct Query {
    window: Window,
    spelling: Spelling,
    offset_s: i64,
    table: &'static str,
    filter: Filter,
    key: &'static str,
    aggregates: Vec<String>,
    having: bool,
    above: &'static str,
}

impl Query {
    fn sql(&self) -> String {
        let mut groups = vec![];
        let (mut columns, from) = match self.spelling {
            Spelling::RisingWave | Spelling::Flink => {
                groups.extend(["window_start", "window_end", "window_time"].map(str::to_owned));
                (groups.clone(), self.in_from())
            }
            Spelling::Arroyo | Spelling::Spark => {
                groups.push(self.in_group_by());
                (vec![format!("{} AS w", groups[0])], format!("({})", self.rows()))
            }
        };
        if !self.key.is_empty() {
            groups.push(self.key.to_owned());
        }
        columns.push(if self.key.is_empty() { "'all' AS k".to_owned() } else { format!("{} AS k", self.key) });
        columns.push("count(*) AS n".to_owned());
        columns.extend(self.aggregates.iter().enumerate().map(|(at, aggregate)| format!("{aggregate} AS a{at}")));
        let having = if self.having { " HAVING count(*) > 1" } else { "" };
        let mut inner = format!("SELECT {} FROM {from} GROUP BY {}{having}", columns.join(", "), groups.join(", "));
        if columns[0].ends_with(" AS w") {
            let names: Vec<String> = (0..self.aggregates.len()).map(|at| format!("a{at}")).collect();
            inner = format!(
                "SELECT w['start'] AS window_start, w['end'] AS window_end, k, n, {} FROM ({inner})",
                names.join(", ")
            );
        }
        self.above.replace("{}", &inner)
    }

    /// Filtered below the window.
    fn rows(&self) -> String {
        format!("SELECT * FROM ({}) WHERE {}", self.table, self.filter.0)
    }

    fn in_from(&self) -> String {
        let interval = |seconds: i64| match self.spelling {
            Spelling::Flink => format!("INTERVAL '{seconds}' SECOND"),
            _ => format!("INTERVAL '{seconds} seconds'"),
        };
        let (name, sizes) = match self.window {
            Window::Tumble(size) => ("TUMBLE", vec![interval(size)]),
            Window::Hop(slide, size) => ("HOP", vec![interval(slide), interval(size)]),
            Window::Cumulate(step, size) => ("CUMULATE", vec![interval(step), interval(size)]),
            Window::Session => ("SESSION", vec![interval(GAP_S)]),
        };
        let mut sizes = sizes.join(", ");
        if self.offset_s != 0 {
            sizes += &format!(", {}", interval(self.offset_s));
        }
        let by = match (self.window, self.key) {
            (Window::Session, key) if !key.is_empty() => " PARTITION BY symbol",
            _ => "",
        };
        // A plain table has its name; the word TABLE belongs to that only.
        let plain = self.table == TABLES[0] && self.filter.0 == "true";
        match (self.spelling, plain) {
            (Spelling::Flink, true) => format!("TABLE({name}(TABLE prices{by}, DESCRIPTOR(ts), {sizes}))"),
            (Spelling::Flink, false) => format!("{name}(({}){by}, DESCRIPTOR(ts), {sizes})", self.rows()),
            (_, true) if by.is_empty() => format!("{name}(prices, ts, {sizes})"),
            (_, true) => format!("{name}(TABLE prices{by}, DESCRIPTOR(ts), {sizes})"),
            (_, false) if by.is_empty() => format!("{name}(({}), ts, {sizes})", self.rows()),
            (_, false) => format!("{name}(({}){by}, DESCRIPTOR(ts), {sizes})", self.rows()),
        }
    }

    fn in_group_by(&self) -> String {
        let spark = self.spelling == Spelling::Spark;
        match self.window {
            Window::Tumble(size) if spark => format!("window(ts, '{size} seconds')"),
            Window::Tumble(size) => format!("TUMBLE(ts, INTERVAL '{size} seconds')"),
            Window::Hop(slide, size) if spark => format!("window(ts, '{size} seconds', '{slide} seconds')"),
            Window::Hop(slide, size) => format!("HOP(ts, INTERVAL '{slide} seconds', INTERVAL '{size} seconds')"),
            Window::Session if spark => format!("session_window(ts, '{GAP_S} seconds')"),
            Window::Session => format!("SESSION(ts, INTERVAL '{GAP_S} seconds')"),
            Window::Cumulate(..) => unreachable!("it has no such spelling"),
        }
    }
}

/// One that a user may write: not all parts go together.
fn settle(mut query: Query, above: (&'static str, &'static str, &'static str, u8)) -> Query {
    let in_from = matches!(query.spelling, Spelling::RisingWave | Spelling::Flink);
    if matches!(query.window, Window::Cumulate(..)) && !in_from {
        query.spelling = Spelling::Flink;
    }
    // Spark's window() has no gaps.
    if matches!(query.window, Window::Hop(slide, size) if slide > size) && query.spelling == Spelling::Spark {
        query.spelling = Spelling::Arroyo;
    }
    if !in_from || matches!(query.window, Window::Session | Window::Hop(..)) {
        query.offset_s = 0;
    }
    if matches!(query.window, Window::Session) && !query.key.is_empty() {
        // What keeps sessions apart has to be grouped by.
        query.key = "symbol";
    }
    let is_session = matches!(query.window, Window::Session);
    query.above = match above.3 {
        0..4 => above.0,
        4..6 if !is_session => above.1,
        6..8 if matches!(query.spelling, Spelling::RisingWave | Spelling::Flink) => above.2,
        _ => "{}",
    };
    query
}

fn aggregates() -> impl Strategy<Value = String> {
    let filtered = (select(AGGREGATES), proptest::option::weighted(0.3, select(CONDITIONS)), any::<bool>());
    let filtered = filtered.prop_map(|(aggregate, condition, coalesced)| {
        let aggregate = match condition {
            Some(condition) if aggregate.ends_with(')') && !aggregate.contains(" - ") && !aggregate.contains('/') => {
                format!("{aggregate} FILTER (WHERE {condition})")
            }
            _ => aggregate.to_owned(),
        };
        if coalesced { format!("coalesce({aggregate}, -1)") } else { aggregate }
    });
    let any = prop_oneof![3 => filtered, 1 => select(OTHERS).prop_map(str::to_owned)];
    let parts =
        (any, select(&["price", "size", "id", "size % 7"][..]), select(&["ts, id", "price, id DESC", "id"][..]));
    parts.prop_map(|(aggregate, x, order)| aggregate.replace("{x}", x).replace("{o}", order))
}

fn queries() -> impl Strategy<Value = Query> {
    let window = prop_oneof![
        (1i64..25).prop_map(Window::Tumble),
        (1i64..12, 1i64..30).prop_map(|(slide, size)| Window::Hop(slide, size)),
        (1i64..9, 1i64..5).prop_map(|(step, steps)| Window::Cumulate(step, step * steps)),
        Just(Window::Session),
    ];
    let spelling = select(&[Spelling::RisingWave, Spelling::Flink, Spelling::Arroyo, Spelling::Spark][..]);
    let rows = (select(TABLES), select(FILTERS), select(KEYS), prop_oneof![2 => Just(0i64), 1 => 1i64..5]);
    let above = (select(ABOVE), select(ABOVE_FIXED), select(ABOVE_TIMED), 0u8..9);
    let aggregates = proptest::collection::vec(aggregates(), 1..4);
    (window, spelling, rows, aggregates, any::<bool>(), above).prop_map(
        |(window, spelling, (table, filter, key, offset_s), aggregates, having, above)| {
            let query = Query { window, spelling, offset_s, table, filter, key, aggregates, having, above: "{}" };
            settle(query, above)
        },
    )
}

fn check(query: &Query, steps: &[Step]) -> TestCaseResult {
    let is_filtered = |event: &Event| !query.filter.1(event);
    if let Window::Session = query.window {
        let keys = if query.key.is_empty() { Keys::None } else { Keys::Symbol };
        return tests::check(&query.sql(), steps, 5, of_sessions(keys, is_filtered));
    }
    tests::check(&query.sql(), steps, 5, |stages, events, closed_us| {
        let fate = |event: &Event| match of_windows(stages, event, closed_us) {
            Fate::Absent => Fate::Absent,
            _ if is_filtered(event) => Fate::Filtered,
            fate => fate,
        };
        events.iter().map(|(_, event)| fate(event)).collect()
    })
}

// In two halves, so that they run at the same time.
proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn any_query_over_a_stream_is_that_of_a_batch(query in queries(), steps in steps()) {
        check(&query, &steps)?;
    }

    #[test]
    fn any_query_over_a_stream_is_that_of_a_batch_again(query in queries(), steps in steps()) {
        check(&query, &steps)?;
    }
}
