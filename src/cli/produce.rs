//! `tidemill produce`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum, builder::PossibleValue};
use indicatif::{HumanBytes, HumanCount};
use tokio_util::sync::CancellationToken;

use crate::{
    catalog::parse_duration,
    clock,
    error::{Error, Result},
    produce::{
        binance::{self, RestOptions, TickerOptions},
        binance_stream::{self, IDLE_TIMEOUT, StreamKind, StreamOptions},
        klines::{self, KlineOptions},
        output::{Output, Report},
        pace::Rate,
        progress::ProgressMode,
        replay::{self, Format, ReplayOptions, Speed, Timing},
        simulate::{self, Model, SimulatorOptions},
        text::parse_time_us,
        topic::{TopicOptions, TopicProducer},
    },
};

/// Send prices into a Kafka topic: from Binance, a simulator or a file
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemill produce simulate                                one simulated price a second into 'bitcointopic'
  tidemill produce simulate --print --count 3              a look at the records, without a broker
  tidemill produce simulate --rate max --count 1000000     a backlog to try a job on
  tidemill produce binance --symbol BTCUSDT,ETHUSDT        live prices every 5 seconds into 'binance-topic'
  tidemill produce klines --from 2026-01-01                a history of 1-minute candles, then live ones
  tidemill produce replay prices.csv --topic bitcointopic --time-column timestamp --speed 10x")]
pub struct ProduceArgs {
    #[command(subcommand)]
    source: Box<Source>,
}

#[derive(Debug, Subcommand)]
enum Source {
    Binance(BinanceArgs),
    Klines(KlinesArgs),
    Simulate(SimulateArgs),
    Replay(ReplayArgs),
}

/// Where records go and when to stop.
#[derive(Debug, Args)]
struct OutputArgs {
    /// Kafka brokers, HOST:PORT with commas between [default: localhost:9092]
    #[arg(long, env = "KAFKA", help_heading = "Output")]
    brokers: Option<String>,
    /// Create a missing topic with N partitions; one that is there must have N [default: as the broker does]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..), help_heading = "Output")]
    partitions: Option<i32>,
    /// A librdkafka property; may be repeated
    #[arg(long = "kafka", value_name = "KEY=VALUE", value_parser = property, help_heading = "Output")]
    kafka: Vec<(String, String)>,
    /// Write the records to standard output as lines, and use no broker
    #[arg(long, help_heading = "Output")]
    print: bool,
    /// Stop after N records
    #[arg(long, value_name = "N", help_heading = "Output")]
    count: Option<u64>,
    /// Stop after this long, such as 30s
    #[arg(long = "for", value_name = "DURATION", value_parser = duration, help_heading = "Output")]
    duration: Option<Duration>,
    /// Say nothing but errors
    #[arg(long, short, conflicts_with = "progress", help_heading = "Output")]
    quiet: bool,
    /// How to show progress on standard error
    #[arg(long, value_enum, default_value_t, help_heading = "Output")]
    progress: ProgressMode,
}

/// What every request to Binance shares.
#[derive(Debug, Args)]
struct RestArgs {
    /// Symbols, with commas between
    #[arg(long, alias = "symbols", value_name = "SYMBOL", value_parser = symbol, value_delimiter = ',', default_value = "BTCUSDT")]
    symbol: Vec<String>,
    /// Binance's REST API; https://data-api.binance.vision serves market data alone, and in more places
    #[arg(long, value_name = "URL", default_value = "https://api.binance.com")]
    base_url: String,
    /// The request weight that Binance grants an address each minute; near it, requests wait
    #[arg(long, value_name = "N", default_value_t = 6_000, value_parser = clap::value_parser!(u32).range(1..))]
    weight_limit: u32,
}

/// Live prices of Binance, asked for at an interval or as a stream of trades
///
/// A record is {"symbol": "BTCUSDT", "price": 16555.07}. Market data needs no key; one in the environment variable
/// BINANCE_API_KEY is sent as X-MBX-APIKEY. Rate limits are obeyed; gaps are said and counted.
#[derive(Debug, Args)]
struct BinanceArgs {
    #[command(flatten)]
    rest: RestArgs,
    /// Time between two questions
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5s", conflicts_with = "stream")]
    interval: Duration,
    /// Add "timestamp": when the price came (UTC); the records of --stream always have one
    #[arg(long, conflicts_with = "stream")]
    event_time: bool,
    /// Listen to a WebSocket stream instead of asking: every trade, or a ticker each second
    #[arg(long, value_enum, value_name = "KIND")]
    stream: Option<StreamKind>,
    /// Binance's streams; wss://data-stream.binance.vision serves market data alone
    #[arg(long, value_name = "URL", default_value = "wss://stream.binance.com:9443", requires = "stream")]
    ws_url: String,
    /// The topic
    #[arg(long, default_value = "binance-topic", help_heading = "Output")]
    topic: String,
    #[command(flatten)]
    output: OutputArgs,
}

/// Candles (open, high, low, close, volume) of Binance: history first, then each one as it closes
#[derive(Debug, Args)]
struct KlinesArgs {
    #[command(flatten)]
    rest: RestArgs,
    /// Length of a candle: 1s 1m 3m 5m 15m 30m 1h 2h 4h 6h 8h 12h 1d 3d 1w 1M
    #[arg(long, value_name = "INTERVAL", default_value = "1m")]
    interval_candle: String,
    /// Begin with the candle that opens then (UTC) [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_time_us)]
    from: Option<i64>,
    /// End before the candle that opens then (UTC) [default: go on with live ones]
    #[arg(long, value_name = "TIME", value_parser = parse_time_us)]
    to: Option<i64>,
    /// Also send the candle that is not closed yet, each time with "closed": false
    #[arg(long)]
    include_open: bool,
    /// With --include-open: time between two looks
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5s", requires = "include_open")]
    poll: Duration,
    /// The topic
    #[arg(long, default_value = "klines", help_heading = "Output")]
    topic: String,
    #[command(flatten)]
    output: OutputArgs,
}

/// Simulated prices with eight fields, seeded, with faults on request
///
/// The same --seed and --start give the same bytes. The five probabilities exclude one another; each kind is counted
/// and reported in the end.
#[derive(Debug, Args)]
struct SimulateArgs {
    /// Records a second, or max
    #[arg(long, default_value = "1")]
    rate: Rate,
    /// How prices move: independent and uniform, or as a market's
    #[arg(long, value_enum, default_value_t)]
    model: Model,
    /// Makes the run reproducible, together with --start [default: another one each time, and reported]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Event time of the first record (UTC) [default: event time is the clock's]
    #[arg(long, value_name = "TIME", value_parser = parse_time_us)]
    start: Option<i64>,
    /// Event time between two records, with --start [default: 1 / rate, and 1s at --rate max]
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "start")]
    step: Option<Duration>,
    /// Keys of the records, which take turns
    #[arg(long, alias = "symbols", value_name = "SYMBOL", value_parser = symbol, value_delimiter = ',', default_value = "BTCUSDT")]
    symbol: Vec<String>,
    /// Probability of a late timestamp
    #[arg(long, value_name = "P", default_value_t = 0.0, help_heading = "Faults")]
    late: f64,
    /// How late
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1m", help_heading = "Faults")]
    late_by: Duration,
    /// Probability that a record comes twice
    #[arg(long, value_name = "P", default_value_t = 0.0, help_heading = "Faults")]
    duplicate: f64,
    /// Probability that a record changes places with the next
    #[arg(long, value_name = "P", default_value_t = 0.0, help_heading = "Faults")]
    out_of_order: f64,
    /// Probability of a payload that is no JSON object
    #[arg(long, value_name = "P", default_value_t = 0.0, help_heading = "Faults")]
    poison: f64,
    /// Probability of a timestamp in the future
    #[arg(long, value_name = "P", default_value_t = 0.0, help_heading = "Faults")]
    future: f64,
    /// How far in the future
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "2h", help_heading = "Faults")]
    future_by: Duration,
    /// The topic
    #[arg(long, default_value = "bitcointopic", help_heading = "Output")]
    topic: String,
    #[command(flatten)]
    output: OutputArgs,
}

/// The records of a CSV, JSON lines or Parquet file
///
/// JSON lines are sent byte for byte; rows of the others become JSON objects. A line that is no record ends the replay
/// with an error that names it.
#[derive(Debug, Args)]
struct ReplayArgs {
    /// The file
    file: PathBuf,
    /// The file's format [default: by its extension]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Names for the columns of a CSV file without a header
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    columns: Option<Vec<String>>,
    /// The column whose value is the record's key [default: no key]
    #[arg(long, value_name = "NAME")]
    key_column: Option<String>,
    /// The column with the record's time: text, a timestamp, or milliseconds since 1970
    #[arg(long, value_name = "NAME", conflicts_with = "rate")]
    time_column: Option<String>,
    /// How fast recorded time passes, with --time-column: 10x, or max [default: 1x]
    #[arg(long, requires = "time_column")]
    speed: Option<Speed>,
    /// Records a second, or max [default: max]
    #[arg(long)]
    rate: Option<Rate>,
    /// The topic
    #[arg(long, required_unless_present = "print", help_heading = "Output")]
    topic: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

impl ValueEnum for ProgressMode {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Auto, Self::Live, Self::Plain, Self::None]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Auto => PossibleValue::new("auto").help("live on a terminal, else plain"),
            Self::Live => PossibleValue::new("live").help("one line that is redrawn"),
            Self::Plain => PossibleValue::new("plain").help("a line every few seconds"),
            Self::None => PossibleValue::new("none").help("only the summary"),
        })
    }
}

impl ValueEnum for StreamKind {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Trade, Self::MiniTicker]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Trade => PossibleValue::new("trade").help("every trade"),
            Self::MiniTicker => {
                PossibleValue::new("miniTicker").help("the last price and the last 24 hours, each second")
            }
        })
    }
}

impl ValueEnum for Model {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Uniform, Self::RandomWalk]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Uniform => PossibleValue::new("uniform").help("every field independent"),
            Self::RandomWalk => PossibleValue::new("random-walk").help("volatility clusters, a spread that reverts"),
        })
    }
}

impl ValueEnum for Format {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Csv, Self::JsonLines, Self::Parquet]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Csv => PossibleValue::new("csv"),
            Self::JsonLines => PossibleValue::new("jsonl"),
            Self::Parquet => PossibleValue::new("parquet"),
        })
    }
}

fn property(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        // The text may hold a password: it is not repeated.
        _ => Err(Error::invalid("a Kafka property is written KEY=VALUE")),
    }
}

/// For clap.
fn duration(text: &str) -> Result<Duration> {
    parse_duration(text).ok_or_else(|| {
        Error::invalid(format!("'{text}' is no duration"))
            .help("write numbers with units: 500ms, 30s, 1.5m, '1 hour 30 minutes', 1d")
    })
}

/// Without blanks around it; an empty one would be the key of no price.
fn symbol(text: &str) -> Result<String> {
    match text.trim() {
        "" => Err(Error::invalid("a symbol is empty").help("write --symbol BTCUSDT, or several with commas between")),
        symbol => Ok(symbol.to_owned()),
    }
}

/// The brokers, which may also stand in a property.
fn brokers(given: Option<&str>, kafka: &[(String, String)]) -> Result<String> {
    const NAMES: [&str; 2] = ["bootstrap.servers", "metadata.broker.list"];
    let named = |name: &str| NAMES.contains(&name.strip_prefix("kafka.").unwrap_or(name));
    let mut chosen = given;
    for (name, servers) in kafka.iter().filter(|(name, _)| named(name)) {
        if let Some(other) = chosen.filter(|other| *other != servers) {
            return Err(Error::invalid(format!("--kafka {name}={servers} contradicts the brokers {other}"))
                .help("name the brokers once: with --brokers, in the variable KAFKA, or with --kafka"));
        }
        chosen = Some(servers);
    }
    Ok(chosen.unwrap_or("localhost:9092").to_owned())
}

/// Runs one source until it ends, a limit is reached, or Ctrl-C; then waits for the last confirmations.
pub async fn run(args: ProduceArgs) -> Result<()> {
    let (topic, output) = match &*args.source {
        Source::Binance(args) => (args.topic.as_str(), &args.output),
        Source::Klines(args) => (args.topic.as_str(), &args.output),
        Source::Simulate(args) => (args.topic.as_str(), &args.output),
        Source::Replay(args) => (args.topic.as_deref().unwrap_or_default(), &args.output),
    };
    let quiet = output.quiet;
    let stop = CancellationToken::new();
    stop_on_signal(stop.clone())?;
    let mut output = tokio::select! {
        opened = open(output, topic, stop.clone()) => opened?,
        () = stop.cancelled() => return Ok(()),
    };
    let outcome = match *args.source {
        Source::Binance(args) => run_binance(args, &mut output).await,
        Source::Klines(args) => run_klines(args, &mut output).await,
        Source::Simulate(args) => run_simulate(args, quiet, &mut output).await,
        Source::Replay(args) => run_replay(args, &mut output).await,
    };
    let (report, delivered) = output.finish().await;
    if !quiet {
        summarise(&report);
    }
    outcome.and(delivered)
}

async fn open(args: &OutputArgs, topic: &str, stop: CancellationToken) -> Result<Output> {
    let progress = if args.quiet { ProgressMode::None } else { args.progress };
    let output = if args.print {
        let lines = std::io::BufWriter::new(std::io::stdout());
        // A live line between the records would only be in their way.
        let progress = if progress == ProgressMode::Auto { ProgressMode::Plain } else { progress };
        Output::to_lines(Box::new(lines), stop.clone(), progress)
    } else {
        let options = TopicOptions {
            brokers: brokers(args.brokers.as_deref(), &args.kafka)?,
            topic: topic.to_owned(),
            partitions: args.partitions,
            kafka: args.kafka.clone(),
        };
        Output::to_topic(TopicProducer::open(&options).await?, stop.clone(), progress)
    };
    if let Some(duration) = args.duration {
        tokio::spawn(async move {
            clock::sleep(duration).await;
            stop.cancel();
        });
    }
    Ok(output.with_count(args.count))
}

/// The first Ctrl-C or SIGTERM asks for a clean stop; a second one does not wait for it.
fn stop_on_signal(stop: CancellationToken) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error: std::io::Error| Error::internal("signals cannot be listened to").source_error(error);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    tokio::spawn(async move {
        for round in 0.. {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            if round > 0 {
                std::process::exit(130);
            }
            stop.cancel();
        }
    });
    Ok(())
}

fn rest_options(args: &RestArgs) -> RestOptions {
    RestOptions {
        base_url: args.base_url.clone(),
        api_key: std::env::var("BINANCE_API_KEY").ok().filter(|key| !key.is_empty()),
        weight_limit: args.weight_limit,
        ..RestOptions::default()
    }
}

async fn run_binance(args: BinanceArgs, output: &mut Output) -> Result<()> {
    let rest = rest_options(&args.rest);
    let symbols = args.rest.symbol;
    match args.stream {
        Some(kind) => {
            let options = StreamOptions { rest, ws_url: args.ws_url, symbols, kind, idle_timeout: IDLE_TIMEOUT };
            binance_stream::run(&options, output).await
        }
        None => {
            let options = TickerOptions { rest, symbols, interval: args.interval, event_time: args.event_time };
            binance::run(&options, output).await
        }
    }
}

async fn run_klines(args: KlinesArgs, output: &mut Output) -> Result<()> {
    let options = KlineOptions {
        rest: rest_options(&args.rest),
        symbols: args.rest.symbol,
        interval: args.interval_candle,
        from_ms: args.from.map(|us| us.div_euclid(1_000)),
        to_ms: args.to.map(|us| us.div_euclid(1_000)),
        include_open: args.include_open,
        poll: args.poll,
    };
    klines::run(&options, output).await
}

async fn run_simulate(args: SimulateArgs, quiet: bool, output: &mut Output) -> Result<()> {
    let live = args.start.is_none();
    let step_us = match (args.step, args.rate) {
        (Some(step), _) => i64::try_from(step.as_micros()).unwrap_or(i64::MAX),
        (None, Rate::PerSecond(rate)) => ((1e6 / rate).round() as i64).max(1),
        // With the clock's time, records of one moment are a microsecond apart.
        (None, Rate::Max) if live => 1,
        (None, Rate::Max) => 1_000_000,
    };
    let seed = args.seed.unwrap_or_else(simulate::any_seed);
    if args.seed.is_none() && !quiet {
        output.notice(&format!("seed {seed}"));
    }
    let options = SimulatorOptions {
        seed,
        model: args.model,
        symbols: args.symbol,
        start_us: args.start.unwrap_or_else(|| clock::now_ms().saturating_mul(1_000)),
        step_us,
        late: args.late,
        late_by: args.late_by,
        duplicate: args.duplicate,
        out_of_order: args.out_of_order,
        poison: args.poison,
        future: args.future,
        future_by: args.future_by,
    };
    simulate::run(options, args.rate, live, output).await
}

async fn run_replay(args: ReplayArgs, output: &mut Output) -> Result<()> {
    let timing = match (&args.time_column, args.speed, args.rate) {
        (Some(_), Some(Speed::Times(times)), _) => Timing::Recorded(times),
        (Some(_), None, _) => Timing::Recorded(1.0),
        (_, _, rate) => Timing::Rate(rate.unwrap_or(Rate::Max)),
    };
    let options = ReplayOptions {
        file: args.file,
        format: args.format,
        key_column: args.key_column,
        time_column: args.time_column,
        columns: args.columns,
        timing,
    };
    replay::run(&options, output).await
}

fn summarise(report: &Report) {
    let Report { totals, elapsed, destination, notes } = report;
    let rate = totals.records as f64 / elapsed.as_secs_f64().max(1e-9);
    eprintln!(
        "sent {} records ({}) to {destination} in {elapsed:.1?}, {rate:.1} a second, {} failed",
        HumanCount(totals.records),
        HumanBytes(totals.bytes),
        HumanCount(totals.failed),
    );
    let counted: Vec<_> =
        notes.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}")).collect();
    if !counted.is_empty() {
        eprintln!("of these: {}", counted.join(", "));
    }
}
