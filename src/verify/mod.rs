//! Recounts a job's files against its offsets: is every record accounted for?
//!
//! The checkpoint says what was consumed (up to `offsets/N`) and what became of it (`prepared/N`, with totals since
//! the start, or since a query of Spark's was taken over);
//! the sink's log and the directory say which files there are; `count.rs` counts their rows, `aside.rs` looks at late rows and state.
//! A batch that is under way is left out of the count.

mod aside;
mod count;

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    catalog::{Connector, FileFormat, FileTable, Insert, Job},
    checkpoint::{Checkpoint, Ledger, Prepared},
    error::{Error, Result},
    query::is_hidden,
    sink::spark_log::SparkLog,
    source::{Offsets, offsets::from_lines},
    store::Store,
};

/// The answer for one query.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    pub query: String,
    /// What was checked, in order.
    pub checks: Vec<Check>,
}

/// One thing that was checked.
#[derive(Debug, Clone)]
pub struct Check {
    pub ok: bool,
    pub what: String,
}

impl Verdict {
    /// Is everything accounted for?
    pub fn is_ok(&self) -> bool {
        self.checks.iter().all(|check| check.ok)
    }

    fn check(&mut self, ok: bool, what: impl Into<String>) {
        self.checks.push(Check { ok, what: what.into() });
    }
}

/// Verifies every INSERT of `job` that writes files.
///
/// # Errors
/// The stores'; `Corrupt` for a checkpoint that cannot be read. What does not add up is no error but a `Check`.
pub async fn verify(job: &Job) -> Result<Vec<Verdict>> {
    let mut verdicts = Vec::new();
    for insert in &job.inserts {
        let sink = job.table(&insert.target).ok_or_else(|| Error::internal("the INSERT's table is gone"))?;
        if let Connector::File(file) = &sink.connector {
            verdicts.push(verify_insert(job, insert, file).await?);
        }
    }
    if verdicts.is_empty() {
        return Err(Error::invalid(format!("the job {} writes no files: there is nothing to recount", job.name)));
    }
    Ok(verdicts)
}

async fn verify_insert(job: &Job, insert: &Insert, file: &FileTable) -> Result<Verdict> {
    let mut verdict = Verdict { query: format!("{}.{}", job.name, insert.target), checks: Vec::new() };
    let location = file.checkpoint_location.as_deref().unwrap_or_default();
    let checkpoint = Checkpoint::open_read_only(Store::open(location).await?).await?;
    let facts = checkpoint.facts().await?;
    let Some(&committed) = facts.commits.last() else {
        verdict.check(true, "no batch was committed yet");
        return Ok(verdict);
    };
    let Some(&latest) = facts.prepared.iter().rev().find(|id| **id <= committed) else {
        verdict.check(false, format!("batch {committed} has no prepared/{committed}: Spark ran it and kept no counts"));
        return Ok(verdict);
    };
    let prepared = checkpoint.prepared(latest).await?;
    let under_way = match facts.prepared.last() {
        Some(&id) if id > committed => Some(checkpoint.prepared(id).await?),
        _ => None,
    };
    let ends = checkpoint.offsets(committed).await?.ends;
    check_offsets(&mut verdict, &from_lines(&prepared.counted_from)?, &ends, &prepared.totals);
    check_ledger(&mut verdict, committed, &prepared.totals);
    check_files(&mut verdict, file, &prepared.totals, under_way.as_ref()).await?;
    check_dead_letters(&mut verdict, job, &prepared, under_way.as_ref()).await?;
    aside::check_late(&mut verdict, file, &prepared, under_way.as_ref()).await?;
    aside::check_state(&mut verdict, job, insert, &checkpoint, prepared).await?;
    Ok(verdict)
}

fn check_offsets(verdict: &mut Verdict, starts: &[Offsets], ends: &[Offsets], totals: &Ledger) {
    let each = || starts.iter().zip(ends);
    let range: i128 = each().map(|(start, end)| start.distance_to(end)).sum();
    let ranges = each().map(|(start, end)| format!("from {start} to {end}")).collect::<Vec<_>>().join(" and ");
    let (consumed, gaps, rewound) = (totals.consumed, totals.gaps, totals.rewound);
    let back = if rewound > 0 { format!(" + {rewound} gone back") } else { String::new() };
    verdict.check(
        starts.len() == ends.len() && range + i128::from(rewound) == i128::from(consumed) + i128::from(gaps),
        format!("offsets: {range} {ranges}{back} = {consumed} records + {gaps} gaps"),
    );
}

fn check_ledger(verdict: &mut Verdict, committed: u64, totals: &Ledger) {
    verdict.check(totals.balances(), format!("ledger of batches 0 to {committed}: {}", totals.equation()));
}

/// Paths that a batch under way is about to publish, or has published.
fn pending(under_way: Option<&Prepared>, dead: bool) -> BTreeSet<String> {
    let files = under_way.map(|prepared| if dead { &prepared.dead_letters } else { &prepared.files });
    files.into_iter().flatten().map(|file| file.staged.path.clone()).collect()
}

async fn check_files(
    verdict: &mut Verdict,
    file: &FileTable,
    totals: &Ledger,
    under_way: Option<&Prepared>,
) -> Result<()> {
    let store = Store::open(&file.path).await?;
    let pending = pending(under_way, false);
    let there = visible(&store, &pending).await?;
    let logged = if file.spark_metadata { SparkLog::new(store.clone()).files().await? } else { None };
    let mut expected: BTreeMap<String, Option<u64>> = BTreeMap::new();
    if let Some(logged) = logged {
        let mut twice = Vec::new();
        for entry in logged.into_iter().filter(|entry| !pending.contains(&entry.path)) {
            if expected.insert(entry.path.clone(), entry.rows).is_some() {
                twice.push(entry.path);
            }
        }
        verdict.check(twice.is_empty(), named("log: every file is named once", "is named twice", &twice));
        let missing: Vec<String> = expected.keys().filter(|path| !there.contains_key(*path)).cloned().collect();
        verdict.check(missing.is_empty(), named("directory: every file of the log is there", "is missing", &missing));
        let extra: Vec<String> = there.keys().filter(|path| !expected.contains_key(*path)).cloned().collect();
        verdict.check(extra.is_empty(), named("directory: every file there is in the log", "is in no log", &extra));
    }
    let (mut rows, mut sparks, mut wrong) = (0, 0, Vec::new());
    for (path, size_bytes) in &there {
        let found = count::rows(&store, path, *size_bytes, &file.format).await?;
        if expected.get(path) == Some(&None) {
            // Spark wrote it, before the ledger began.
            sparks += found;
            continue;
        }
        rows += found;
        if let Some(Some(expected)) = expected.get(path)
            && *expected != found
        {
            wrong.push(format!("{path} ({found} rows, the log says {expected})"));
        }
    }
    verdict.check(wrong.is_empty(), named("files: each has the rows that its log line says", "differs", &wrong));
    let written = totals.written;
    let sparks = if sparks > 0 { format!(" beside {sparks} that Spark wrote") } else { String::new() };
    let what = format!("files: {rows} rows in {} files, {written} written{sparks}", there.len());
    verdict.check(rows == written, difference(what, rows, written));
    Ok(())
}

async fn check_dead_letters(
    verdict: &mut Verdict,
    job: &Job,
    prepared: &Prepared,
    under_way: Option<&Prepared>,
) -> Result<()> {
    let totals = &prepared.totals;
    let mut rows = 0;
    let places: Vec<&str> =
        prepared.earlier_dead_letter_urls.iter().chain([&prepared.dead_letter_url]).map(String::as_str).collect();
    for url in &places {
        let store = Store::open(url).await?;
        for (path, size_bytes) in visible(&store, &pending(under_way, true)).await? {
            rows += count::rows(&store, &path, size_bytes, &FileFormat::Parquet).await?;
        }
    }
    if rows == 0 && drops_malformed(job) {
        verdict.check(true, format!("dead letters: {} bad, dropped as mode = 'DROPMALFORMED' asks", totals.bad));
        return Ok(());
    }
    let what = format!("dead letters: {rows} kept in {}, {} bad", places.join(", "), totals.bad);
    verdict.check(rows == totals.bad, difference(what, rows, totals.bad));
    Ok(())
}

fn drops_malformed(job: &Job) -> bool {
    job.tables.iter().any(|table| match &table.connector {
        Connector::Kafka(kafka) => kafka.decode.mode == crate::catalog::ParseMode::DropMalformed,
        _ => false,
    })
}

/// The files that any reader sees, by the rule of queries.
async fn visible(store: &Store, without: &BTreeSet<String>) -> Result<BTreeMap<String, u64>> {
    let files = store.list_all("").await?;
    let seen = files.into_iter().filter(|entry| !is_hidden(&entry.path) && !without.contains(&entry.path));
    Ok(seen.map(|entry| (entry.path, entry.size_bytes)).collect())
}

fn named(good: &str, bad: &str, paths: &[String]) -> String {
    const SHOWN_MAX: usize = 5;
    if paths.is_empty() {
        return good.to_owned();
    }
    let more = paths.len().saturating_sub(SHOWN_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let shown: Vec<&str> = paths.iter().take(SHOWN_MAX).map(String::as_str).collect();
    format!("{good}: {}{more} {bad}", shown.join(", "))
}

fn difference(what: String, found: u64, expected: u64) -> String {
    match found.cmp(&expected) {
        std::cmp::Ordering::Equal => what,
        std::cmp::Ordering::Less => format!("{what}: {} missing", expected - found),
        std::cmp::Ordering::Greater => format!("{what}: {} too many", found - expected),
    }
}
