//! All benches in one binary: `cargo bench -- decode plan sink commit train train-file`, and, on the real Kafka and HDFS of
//! `scripts/services.sh`, `cargo bench -- end-to-end windows stateful state-growth learning`. Each asserts its row
//! count; `benches/README.md` has the numbers and the command for each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod commit;
mod decode;
mod end_to_end;
mod measure;
mod plan;
mod reference;
mod sink;
mod stateful;
mod train;

type Bench = (&'static str, fn());

const BENCHES: [Bench; 11] = [
    ("decode", decode::run),
    ("plan", plan::run),
    ("sink", sink::run),
    ("commit", commit::run),
    ("train", train::run),
    ("train-file", train::from_parquet),
    ("end-to-end", end_to_end::run),
    ("windows", stateful::windows),
    ("stateful", stateful::stateful),
    ("state-growth", stateful::state_growth),
    ("learning", stateful::learning),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    // The end-to-end bench measures whole processes; R is one of them.
    if let [mode, brokers, topic, records] = arguments.as_slice()
        && mode == "reference"
    {
        return reference::consume(brokers, topic, records.parse().expect("a count of records"));
    }
    let known: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
    for argument in &arguments {
        assert!(known.contains(&argument.as_str()), "unknown bench {argument:?}; there are {known:?}");
    }
    let wanted = |name: &str| {
        if arguments.is_empty() {
            !matches!(name, "end-to-end" | "windows" | "stateful" | "state-growth")
        } else {
            arguments.iter().any(|argument| argument == name)
        }
    };
    for (name, run) in BENCHES {
        if wanted(name) {
            println!("== {name}");
            run();
        }
    }
}
