//! Simulated prices: eight fields, seeded, with faults on request.

use std::time::Duration;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

use crate::{
    clock,
    error::{Error, Result},
    produce::{
        market::{self, Quote, RandomWalk},
        output::Output,
        pace::{Grant, Pacer, Rate},
        poison,
        text::{TimeText, write_float, write_hundredths, write_padded},
    },
};

/// How prices move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Model {
    /// Every field uniform and independent.
    #[default]
    Uniform,
    /// Volatility clusters, a mean-reverting spread, volume that goes with volatility.
    RandomWalk,
}

/// What to simulate. The five probabilities are per record and exclude one another; their sum is at most 1.
#[derive(Debug, Clone)]
pub struct SimulatorOptions {
    /// The same options and seed give the same bytes.
    pub seed: u64,
    pub model: Model,
    /// The keys; records take turns.
    pub symbols: Vec<String>,
    /// Event time of the first record, microseconds since the epoch.
    pub start_us: i64,
    /// Event time between two records, microseconds.
    pub step_us: i64,
    /// A timestamp `late_by` too early.
    pub late: f64,
    pub late_by: Duration,
    /// The good record before it once more, byte for byte.
    pub duplicate: f64,
    /// A record and the next change places.
    pub out_of_order: f64,
    /// A payload that is no JSON object.
    pub poison: f64,
    /// A timestamp `future_by` ahead.
    pub future: f64,
    pub future_by: Duration,
}

impl Default for SimulatorOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            model: Model::Uniform,
            symbols: vec!["BTCUSDT".to_owned()],
            start_us: 1_767_225_600_000_000, // 2026-01-01T00:00:00Z
            step_us: 1_000_000,
            late: 0.0,
            late_by: Duration::from_secs(60),
            duplicate: 0.0,
            out_of_order: 0.0,
            poison: 0.0,
            future: 0.0,
            future_by: Duration::from_secs(7_200),
        }
    }
}

/// What is special about a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    Normal,
    Late,
    Duplicate,
    /// The earlier one of a pair that changed places: it comes after its successor.
    OutOfOrder,
    Poison,
    Future,
}

impl RecordKind {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 6] =
        [Self::Normal, Self::Late, Self::Duplicate, Self::OutOfOrder, Self::Poison, Self::Future];

    /// The word for it in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Late => "late",
            Self::Duplicate => "duplicate",
            Self::OutOfOrder => "out of order",
            Self::Poison => "poison",
            Self::Future => "future",
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    time_us: i64,
    symbol: usize,
    quote: Quote,
}

/// Makes records. Pure: no clock, no I/O, and no allocation once its buffers have grown.
#[derive(Debug, Clone)]
pub struct Simulator {
    options: SimulatorOptions,
    rng: ChaCha8Rng,
    walks: Vec<RandomWalk>,
    /// The upper ends of the intervals of [0, 1) that mean late, duplicate, out of order, poison, future.
    ends: [f64; 5],
    next_us: i64,
    next_symbol: usize,
    poisons: usize,
    held: Option<Sample>,
    last_good: Vec<u8>,
    last_symbol: usize,
    time: TimeText,
}

impl Simulator {
    /// # Errors
    /// `Invalid` for probabilities outside 0..=1 or with a sum above 1, a negative step, no symbol.
    pub fn new(options: SimulatorOptions) -> Result<Self> {
        let knobs = [
            ("late", options.late),
            ("duplicate", options.duplicate),
            ("out-of-order", options.out_of_order),
            ("poison", options.poison),
            ("future", options.future),
        ];
        let mut ends = [0.0; 5];
        let mut sum = 0.0;
        for (end, (name, probability)) in ends.iter_mut().zip(knobs) {
            if !(0.0..=1.0).contains(&probability) {
                return Err(Error::invalid(format!("--{name} {probability} is no probability"))
                    .help("write a number from 0 (never) to 1 (always), such as 0.01"));
            }
            sum += probability;
            *end = sum;
        }
        if sum > 1.0 + 1e-9 {
            return Err(Error::invalid(format!("the probabilities of faults add up to {sum}, which is more than 1")));
        }
        if options.step_us < 0 || options.symbols.is_empty() {
            return Err(Error::invalid("a simulation needs a symbol and a step that is not negative"));
        }
        let step_seconds = options.step_us as f64 / 1e6;
        Ok(Self {
            rng: ChaCha8Rng::seed_from_u64(options.seed),
            walks: vec![RandomWalk::new(step_seconds); options.symbols.len()],
            ends,
            next_us: options.start_us,
            next_symbol: 0,
            poisons: 0,
            held: None,
            last_good: Vec::new(),
            last_symbol: 0,
            time: TimeText::default(),
            options,
        })
    }

    /// Event time keeps up with a clock: the next record is not older than `now_us`. Gives up reproducibility.
    pub fn keep_up(&mut self, now_us: i64) {
        self.next_us = self.next_us.max(now_us);
    }

    /// The next record, into cleared buffers.
    ///
    /// # Errors
    /// `Internal`: a defect.
    pub fn next_record(&mut self, key: &mut Vec<u8>, value: &mut Vec<u8>) -> Result<RecordKind> {
        key.clear();
        value.clear();
        if let Some(sample) = self.held.take() {
            self.write_good(&sample, sample.time_us, key, value)?;
            return Ok(RecordKind::OutOfOrder);
        }
        let kind = self.draw_kind();
        match kind {
            RecordKind::Duplicate => {
                key.extend_from_slice(self.options.symbols[self.last_symbol].as_bytes());
                value.extend_from_slice(&self.last_good);
            }
            RecordKind::Poison => {
                let sample = self.sample();
                self.write(&sample, sample.time_us, key, value)?;
                poison::spoil(self.poisons, value);
                self.poisons += 1;
            }
            RecordKind::OutOfOrder => {
                self.held = Some(self.sample());
                let successor = self.sample();
                self.write_good(&successor, successor.time_us, key, value)?;
                return Ok(RecordKind::Normal);
            }
            RecordKind::Normal | RecordKind::Late | RecordKind::Future => {
                let sample = self.sample();
                let time_us = match kind {
                    RecordKind::Late => sample.time_us.saturating_sub(micros(self.options.late_by)),
                    RecordKind::Future => sample.time_us.saturating_add(micros(self.options.future_by)),
                    _ => sample.time_us,
                };
                self.write_good(&sample, time_us, key, value)?;
            }
        }
        Ok(kind)
    }

    fn draw_kind(&mut self) -> RecordKind {
        if self.ends[4] == 0.0 {
            return RecordKind::Normal;
        }
        let drawn = market::unit(&mut self.rng);
        match self.ends.iter().position(|end| drawn < *end) {
            Some(0) => RecordKind::Late,
            // There is nothing to repeat before the first good record.
            Some(1) if self.last_good.is_empty() => RecordKind::Normal,
            Some(1) => RecordKind::Duplicate,
            Some(2) => RecordKind::OutOfOrder,
            Some(3) => RecordKind::Poison,
            Some(_) => RecordKind::Future,
            None => RecordKind::Normal,
        }
    }

    fn sample(&mut self) -> Sample {
        let symbol = self.next_symbol;
        self.next_symbol = (symbol + 1) % self.options.symbols.len();
        let quote = match self.options.model {
            Model::Uniform => market::uniform(&mut self.rng),
            Model::RandomWalk => self.walks[symbol].next(&mut self.rng),
        };
        let time_us = self.next_us;
        self.next_us = time_us.saturating_add(self.options.step_us);
        Sample { time_us, symbol, quote }
    }

    fn write_good(&mut self, sample: &Sample, time_us: i64, key: &mut Vec<u8>, value: &mut Vec<u8>) -> Result<()> {
        self.write(sample, time_us, key, value)?;
        if self.options.duplicate > 0.0 {
            self.last_good.clear();
            self.last_good.extend_from_slice(value);
            self.last_symbol = sample.symbol;
        }
        Ok(())
    }

    /// The text that Python's `json.dumps` gives for the same numbers.
    fn write(&mut self, sample: &Sample, time_us: i64, key: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<()> {
        key.extend_from_slice(self.options.symbols[sample.symbol].as_bytes());
        let quote = &sample.quote;
        out.extend_from_slice(b"{\"timestamp\": \"");
        self.time.write_us(time_us, out);
        out.extend_from_slice(b"\", \"buy_price\": ");
        write_hundredths(quote.buy_cents, out);
        out.extend_from_slice(b", \"sell_price\": ");
        write_hundredths(quote.sell_cents, out);
        out.extend_from_slice(b", \"volume\": ");
        write_padded(quote.volume, 1, out);
        out.extend_from_slice(b", \"volatility\": ");
        write_hundredths(quote.volatility_hundredths, out);
        let (buy, sell, volume) = (quote.buy_cents as f64, quote.sell_cents as f64, quote.volume as f64);
        out.extend_from_slice(b", \"buy_price_normalized\": ");
        write_float((buy / 100.0 - 20_000.0) / 40_000.0, out)?;
        out.extend_from_slice(b", \"sell_price_normalized\": ");
        write_float((sell / 100.0 - 20_000.0) / 40_000.0, out)?;
        out.extend_from_slice(b", \"volume_normalized\": ");
        write_float((volume - 1_000.0) / 4_000.0, out)?;
        out.push(b'}');
        Ok(())
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// A seed for someone who did not name one.
pub fn any_seed() -> u64 {
    rand::rng().next_u64()
}

/// Sends simulated records at a rate until the output is done. `live` keeps event time at the clock's or later. Each
/// kind's count goes into the output's notes.
///
/// # Errors
/// Those of the options and of the output.
pub async fn run(options: SimulatorOptions, rate: Rate, live: bool, output: &mut Output) -> Result<()> {
    let mut simulator = Simulator::new(options)?;
    let mut pacer = Pacer::new(rate);
    let (mut key, mut value) = (Vec::new(), Vec::new());
    let mut counts = [0_u64; RecordKind::ALL.len()];
    let outcome = loop {
        if output.done() {
            break Ok(());
        }
        let due = match pacer.grant(output.elapsed()) {
            Grant::Wait(duration) => match output.pause(duration).await {
                Ok(_) => continue,
                Err(error) => break Err(error),
            },
            Grant::Send(due) => due,
        };
        if live {
            simulator.keep_up(clock::now_ms().saturating_mul(1_000));
        }
        let sent = send(&mut simulator, due, (&mut key, &mut value), &mut counts, output).await;
        if sent.is_err() {
            break sent;
        }
    };
    for (kind, count) in RecordKind::ALL.iter().zip(counts) {
        output.note(kind.name(), count);
    }
    outcome
}

async fn send(
    simulator: &mut Simulator,
    due: usize,
    (key, value): (&mut Vec<u8>, &mut Vec<u8>),
    counts: &mut [u64],
    output: &mut Output,
) -> Result<()> {
    for _ in 0..due {
        let kind = simulator.next_record(key, value)?;
        if !output.send(Some(key), value).await? {
            break;
        }
        counts[kind as usize] += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::produce::text::parse_time_us;

    fn records(options: SimulatorOptions, count: usize) -> Vec<(RecordKind, Vec<u8>, Vec<u8>)> {
        let mut simulator = Simulator::new(options).unwrap();
        (0..count)
            .map(|_| {
                let (mut key, mut value) = (Vec::new(), Vec::new());
                let kind = simulator.next_record(&mut key, &mut value).unwrap();
                (kind, key, value)
            })
            .collect()
    }

    #[test]
    fn the_first_record_is_known_byte_for_byte() {
        let (_, key, value) = records(SimulatorOptions { seed: 42, ..Default::default() }, 1).remove(0);
        assert_eq!(key, b"BTCUSDT");
        assert_eq!(String::from_utf8(value).unwrap(), FIRST_OF_SEED_42);
    }

    // Changing this text breaks everyone's reproducible runs.
    const FIRST_OF_SEED_42: &str = concat!(
        r#"{"timestamp": "2026-01-01T00:00:00", "buy_price": 57732.73, "sell_price": 76519.28, "volume": 4067, "#,
        r#""volatility": 2.42, "buy_price_normalized": 0.94331825, "sell_price_normalized": 1.412982, "#,
        r#""volume_normalized": 0.76675}"#
    );

    #[test]
    fn the_text_has_pythons_spaces_and_size() {
        let all = records(SimulatorOptions { start_us: 1_767_225_600_123_456, ..Default::default() }, 1_000);
        let bytes: usize = all.iter().map(|(_, _, value)| value.len()).sum();
        assert!((205..245).contains(&(bytes / 1_000)), "{}", bytes / 1_000);
        for (_, _, value) in &all {
            let text = std::str::from_utf8(value).unwrap();
            assert_eq!(text.matches("\": ").count(), 8, "{text}");
            assert_eq!(text.matches(", \"").count(), 7, "{text}");
        }
    }

    #[test]
    fn symbols_take_turns() {
        let symbols = vec!["A".to_owned(), "B".to_owned()];
        let keys: Vec<_> =
            records(SimulatorOptions { symbols, ..Default::default() }, 4).into_iter().map(|r| r.1).collect();
        assert_eq!(keys, [b"A", b"B", b"A", b"B"]);
    }

    #[test]
    fn wrong_probabilities_are_refused() {
        for options in [
            SimulatorOptions { late: 1.5, ..Default::default() },
            SimulatorOptions { poison: -0.1, ..Default::default() },
            SimulatorOptions { future: f64::NAN, ..Default::default() },
            SimulatorOptions { late: 0.6, poison: 0.6, ..Default::default() },
            SimulatorOptions { symbols: vec![], ..Default::default() },
        ] {
            assert!(Simulator::new(options).is_err());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn a_seed_gives_its_bytes(seed in any::<u64>(), walk in any::<bool>(), faults in 0.0_f64..0.19) {
            let options = SimulatorOptions {
                seed, model: if walk { Model::RandomWalk } else { Model::Uniform },
                late: faults, duplicate: faults, out_of_order: faults, poison: faults, future: faults,
                ..Default::default()
            };
            prop_assert_eq!(records(options.clone(), 300), records(options.clone(), 300));
            let other = SimulatorOptions { seed: seed ^ 1, ..options };
            prop_assert_ne!(records(other.clone(), 300), records(SimulatorOptions { seed, ..other }, 300));
        }

        #[test]
        fn every_good_record_is_in_range_and_normalised(seed in any::<u64>(), walk in any::<bool>()) {
            let model = if walk { Model::RandomWalk } else { Model::Uniform };
            for (kind, _, value) in records(SimulatorOptions { seed, model, ..Default::default() }, 300) {
                prop_assert_eq!(kind, RecordKind::Normal);
                let fields: Value = serde_json::from_slice(&value).unwrap();
                // serde_json's own floats may be off by the last bit: take the digits.
                let texts: std::collections::HashMap<String, Box<serde_json::value::RawValue>> =
                    serde_json::from_slice(&value).unwrap();
                let number = |name: &str| texts[name].get().parse::<f64>().unwrap();
                let (buy, sell, volume) = (number("buy_price"), number("sell_price"), number("volume"));
                prop_assert!((10_000.0..=80_000.0).contains(&buy) && (10_000.0..=80_000.0).contains(&sell));
                prop_assert!(fields["volume"].is_u64() && (100.0..=8_000.0).contains(&volume));
                prop_assert!((0.5..=5.0).contains(&number("volatility")));
                prop_assert_eq!(number("buy_price_normalized"), (buy - 20_000.0) / 40_000.0);
                prop_assert_eq!(number("sell_price_normalized"), (sell - 20_000.0) / 40_000.0);
                prop_assert_eq!(number("volume_normalized"), (volume - 1_000.0) / 4_000.0);
                prop_assert_eq!(fields.as_object().unwrap().len(), 8);
            }
        }

        /// The kinds that are claimed are the kinds that a reader finds.
        #[test]
        fn what_is_claimed_is_what_is_there(seed in any::<u64>()) {
            let options = SimulatorOptions {
                seed, late: 0.1, duplicate: 0.1, out_of_order: 0.1, poison: 0.1, future: 0.1, ..Default::default()
            };
            let (start, mut seen, mut newest) = (options.start_us, HashSet::new(), i64::MIN);
            let mut good = 0;
            for (kind, _, value) in records(options, 500) {
                let parsed = serde_json::from_slice::<Value>(&value).ok().filter(Value::is_object);
                prop_assert_eq!(parsed.is_none(), kind == RecordKind::Poison);
                let Some(parsed) = parsed else { good += 1; continue };
                prop_assert_eq!(!seen.insert(value), kind == RecordKind::Duplicate);
                if kind == RecordKind::Duplicate { continue }
                let time = parse_time_us(parsed["timestamp"].as_str().unwrap()).unwrap();
                let due = start + good * 1_000_000;
                good += 1;
                match kind {
                    RecordKind::Late => prop_assert_eq!(time, due - 60_000_000),
                    RecordKind::Future => prop_assert_eq!(time, due + 7_200_000_000),
                    RecordKind::OutOfOrder => prop_assert!(time < newest),
                    _ => { prop_assert!(time > newest); newest = time; }
                }
            }
        }
    }
}
