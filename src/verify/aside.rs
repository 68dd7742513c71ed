//! Late rows and state, against the ledger.

use super::{Verdict, count, difference, named, visible};
use crate::{
    catalog::{FileFormat, FileTable, Insert, Job},
    checkpoint::{Checkpoint, Prepared},
    error::{ErrorKind, Result},
    state::{Manifest, StateFile},
    store::Store,
    stream::inspect,
};

/// So often the newest batch is looked at anew if the job goes on meanwhile.
const TRIES_MAX: usize = 10;

/// The rows that came too late, file by file.
///
/// # Errors
/// The store's; `Corrupt` for a file that cannot be counted.
pub async fn check_late(
    verdict: &mut Verdict,
    file: &FileTable,
    prepared: &Prepared,
    under_way: Option<&Prepared>,
) -> Result<()> {
    if prepared.late_url.is_empty() {
        return Ok(());
    }
    let store = Store::open(&prepared.late_url).await?;
    let pending = under_way.into_iter().flat_map(|prepared| &prepared.late).map(|file| file.staged.path.clone());
    let (mut rows, late) = (0, prepared.totals.late);
    for (path, size_bytes) in visible(&store, &pending.collect()).await? {
        // They are in the output's format, or in Parquet where that cannot hold them.
        let format = if path.ends_with(".parquet") { &FileFormat::Parquet } else { &file.format };
        rows += count::rows(&store, &path, size_bytes, format).await?;
    }
    verdict.check(rows == late, difference(format!("late: {rows} kept in {}, {late} late", store.url()), rows, late));
    Ok(())
}

/// The files of the state, and the rows that they stand for.
///
/// # Errors
/// The stores'; `Conflict` if the job file is of another query than the checkpoint.
pub async fn check_state(
    verdict: &mut Verdict,
    job: &Job,
    insert: &Insert,
    checkpoint: &Checkpoint,
    mut prepared: Prepared,
) -> Result<()> {
    let mut wrong = Vec::new();
    for _ in 0..TRIES_MAX {
        wrong = match files_that_are_wrong(checkpoint.store(), &prepared).await? {
            Some(wrong) => wrong,
            None => return Ok(()),
        };
        let newest = checkpoint.facts().await?.commits.last().copied();
        match newest.filter(|newest| *newest != prepared.batch_id && !wrong.is_empty()) {
            // The job has gone on, and deleted what only the batch before needed.
            Some(newest) => prepared = checkpoint.prepared(newest).await?,
            None => break,
        }
    }
    verdict.check(wrong.is_empty(), named("state: every file of it is there and whole", "cannot be trusted", &wrong));
    if !wrong.is_empty() {
        return Ok(());
    }
    let report = inspect::state_of(job, insert).await?;
    let (Some(batch), Some(windows)) = (report.last_batch, report.windows) else { return Ok(()) };
    let over_records = windows.aggregates.iter().filter(|aggregate| aggregate.over_records);
    let found: u64 = over_records.map(|aggregate| aggregate.input_rows).sum();
    let files: u64 = windows.aggregates.iter().map(|aggregate| aggregate.files).sum();
    let in_state = batch.totals.in_state();
    let what = format!("state: {found} rows of input in {files} files, {in_state} in state");
    verdict.check(found == in_state, difference(what, found, in_state));
    Ok(())
}

/// The files of the state after a batch that are missing or changed; `None` for a batch without state.
async fn files_that_are_wrong(store: &Store, prepared: &Prepared) -> Result<Option<Vec<String>>> {
    let Some(place) = &prepared.state else { return Ok(None) };
    let manifest = match Manifest::read(store, place).await {
        Ok(manifest) => manifest,
        Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(Some(vec![error.message().to_owned()])),
        Err(error) => return Err(error),
    };
    let mut wrong = Vec::new();
    for file in manifest.operators.iter().flat_map(|operator| &operator.files) {
        if let Some(what) = what_is_wrong(store, file).await? {
            wrong.push(format!("{} ({what})", file.path));
        }
    }
    Ok(Some(wrong))
}

async fn what_is_wrong(store: &Store, file: &StateFile) -> Result<Option<String>> {
    let Some(content) = store.read(&file.path).await? else { return Ok(Some("missing".to_owned())) };
    if content.len() as u64 != file.bytes {
        return Ok(Some(format!("{} bytes, {} were written", content.len(), file.bytes)));
    }
    let changed = crc32fast::hash(&content) != file.crc32;
    Ok(changed.then(|| "its checksum is wrong".to_owned()))
}
