//! One contract, three stores: a local directory, a real HDFS, S3 in this process.

mod away;
mod s3_server;

pub use s3_server::S3Server;

use std::{
    any::Any,
    collections::BTreeSet,
    time::{Duration, Instant},
};

use bytes::Bytes;
use datafusion::prelude::{CsvReadOptions, SessionContext};
use tidemill::{
    error::ErrorKind,
    store::{Created, Hidden, Staged, Store},
};

use crate::support;

/// An empty directory, and what keeps it alive.
struct Place {
    store: Store,
    _guard: Box<dyn Any + Send>,
}

async fn local() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("not/yet there").to_str().unwrap()).await.unwrap();
    Place { store, _guard: Box::new(directory) }
}

async fn hdfs() -> Place {
    let url = format!("{}/{}/sub dir", support::hdfs(), support::unique("store"));
    Place { store: Store::open(&url).await.unwrap(), _guard: Box::new(()) }
}

async fn s3() -> Place {
    let server = S3Server::start().await;
    let store = Store::open_with("s3://bucket/some/sub dir", &server.options()).await.unwrap();
    Place { store, _guard: Box::new(server) }
}

macro_rules! contract {
    ($($place:ident: $($clause:ident)*;)*) => {
        $(mod $place {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $clause() {
                let place = super::super::$place().await;
                super::super::$clause(place.store.clone()).await;
            })*
        })*
    };
}

/// A test for each clause on each store.
mod on {
    contract! {
        local: creates_reads_lists one_of_many_creates stages_and_publishes publishes_once never_overwrites
            lost_files sweeps big_files odd_names stays_inside dropped_writers empty_files queries needs_directories;
        hdfs: creates_reads_lists one_of_many_creates stages_and_publishes publishes_once never_overwrites
            lost_files sweeps big_files odd_names stays_inside dropped_writers empty_files queries needs_directories;
        s3: creates_reads_lists one_of_many_creates stages_and_publishes publishes_once never_overwrites
            lost_files sweeps big_files odd_names stays_inside dropped_writers empty_files queries;
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn stage(store: &Store, path: &str, owner: &str, text: &str) -> Staged {
    let mut writer = store.stage(path, owner).await.unwrap();
    // In two pieces, and with nothing between them.
    let mut rest = bytes(text);
    let first = rest.split_to(text.len() / 2);
    for piece in [first, Bytes::new(), rest] {
        writer.write(piece).await.unwrap();
    }
    writer.finish().await.unwrap()
}

async fn read(store: &Store, path: &str) -> Option<String> {
    store.read(path).await.unwrap().map(|content| String::from_utf8(content.to_vec()).unwrap())
}

async fn paths(store: &Store) -> Vec<String> {
    store.list_all("").await.unwrap().into_iter().map(|entry| entry.path).collect()
}

/// What a reader that knows the convention takes for data: no part of the path starts with a dot or an underscore.
async fn visible(store: &Store) -> Vec<String> {
    let is_hidden = |path: &String| path.split('/').any(|segment| segment.starts_with(['.', '_']));
    paths(store).await.into_iter().filter(|path| !is_hidden(path)).collect()
}

async fn creates_reads_lists(store: Store) {
    assert_eq!(read(&store, "offsets/0").await, None);
    assert_eq!(store.stat("offsets/0").await.unwrap(), None);
    assert!(store.list("").await.unwrap().is_empty() && store.list_all("nothing/here").await.unwrap().is_empty());
    assert_eq!(store.create("offsets/0", bytes("zero")).await.unwrap(), Created::New);
    assert_eq!(read(&store, "offsets/0").await.as_deref(), Some("zero"));
    assert_eq!(store.create("offsets/0", bytes("zero")).await.unwrap(), Created::New, "our own bytes");
    assert_eq!(store.create("offsets/0", bytes("other")).await.unwrap(), Created::Exists);
    assert_eq!(read(&store, "offsets/0").await.as_deref(), Some("zero"));
    for path in ["offsets/10", "offsets/2", "offsets/.hidden", "top", "offsets/deep/er"] {
        assert_eq!(store.create(path, bytes(path)).await.unwrap(), Created::New);
    }
    let direct = store.list("offsets").await.unwrap();
    let names: Vec<&str> = direct.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(names, ["offsets/.hidden", "offsets/0", "offsets/10", "offsets/2"]);
    let now_ms = tidemill::clock::now_ms();
    assert_eq!(direct[1].size_bytes, 4);
    assert!((now_ms - 60_000..=now_ms + 5_000).contains(&direct[1].modified_ms), "{:?}", direct[1]);
    // S3 tells whole seconds of one object, and milliseconds in a listing.
    let stat = store.stat("offsets/0").await.unwrap().unwrap();
    assert_eq!((stat.path.as_str(), stat.size_bytes), ("offsets/0", 4));
    assert_eq!(stat.modified_ms / 1000, direct[1].modified_ms / 1000);
    assert_eq!(
        paths(&store).await,
        ["offsets/.hidden", "offsets/0", "offsets/10", "offsets/2", "offsets/deep/er", "top"]
    );
    let below = store.below("offsets").unwrap();
    assert_eq!(below.url(), store.path_url("offsets"));
    assert_eq!(paths(&below).await, [".hidden", "0", "10", "2", "deep/er"]);
    store.delete("top").await.unwrap();
    store.delete("top").await.unwrap();
    assert_eq!(read(&store, "top").await, None);
    let again = Store::open(store.url()).await.map(|store| store.url().to_owned());
    assert_eq!(again.unwrap(), store.url());
}

async fn one_of_many_creates(store: Store) {
    let racers: Vec<_> = (0..16)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { (n, store.create("offsets/7", bytes(&format!("writer {n}"))).await.unwrap()) })
        })
        .collect();
    let mut winners = Vec::new();
    for racer in racers {
        let (n, created) = racer.await.unwrap();
        if created == Created::New {
            winners.push(n);
        }
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert_eq!(read(&store, "offsets/7").await, Some(format!("writer {}", winners[0])));
    assert_eq!(paths(&store).await, ["offsets/7"], "the losers leave nothing behind");
}

async fn stages_and_publishes(store: Store) {
    let staged = stage(&store, "day=1/part-0.csv", "job-1", "a,b\n1,2\n").await;
    assert_eq!((staged.size_bytes, staged.crc32), (8, crc32fast::hash(b"a,b\n1,2\n")));
    assert!(visible(&store).await.is_empty());
    assert_eq!(read(&store, "day=1/part-0.csv").await, None);
    if let Hidden::File { path } = &staged.hidden {
        assert_eq!(path, "day=1/.part-0.csv.job-1.tmp");
        assert_eq!(read(&store, path).await.as_deref(), Some("a,b\n1,2\n"));
    }
    let json = serde_json::to_string(&staged).unwrap();
    let staged: Staged = serde_json::from_str(&json).unwrap();
    let published = store.publish(&staged).await.unwrap();
    let block_size_bytes = if store.url().starts_with("hdfs") { 16_777_216 } else { 33_554_432 };
    assert_eq!((published.block_replication, published.block_size_bytes), (1, block_size_bytes));
    let entries = store.list_all("").await.unwrap();
    assert_eq!(entries.len(), 1, "{entries:?}");
    assert_eq!((entries[0].path.as_str(), entries[0].size_bytes), ("day=1/part-0.csv", 8));
    assert_eq!((published.size_bytes, published.modified_ms / 1000), (8, entries[0].modified_ms / 1000));
    assert_eq!(read(&store, "day=1/part-0.csv").await.as_deref(), Some("a,b\n1,2\n"));
}

async fn publishes_once(store: Store) {
    let staged = stage(&store, "part-0", "job", "rows").await;
    let first = store.publish(&staged).await.unwrap();
    assert_eq!(store.publish(&staged).await.unwrap(), first, "the temporary is gone, the file is there");
    // As after a crash between publish and commit: another process, another staging of the same rows.
    let again = stage(&store, "part-0", "job", "rows").await;
    assert_eq!(store.publish(&again).await.unwrap().size_bytes, 4);
    assert_eq!(paths(&store).await, ["part-0"], "the second temporary is cleaned up");
    // Two instances at once.
    let staged = stage(&store, "part-1", "job", "rows").await;
    let racers: Vec<_> = (0..4)
        .map(|_| {
            let (store, staged) = (store.clone(), staged.clone());
            tokio::spawn(async move { store.publish(&staged).await.unwrap() })
        })
        .collect();
    for racer in racers {
        assert_eq!(racer.await.unwrap().size_bytes, 4);
    }
    assert_eq!(paths(&store).await, ["part-0", "part-1"]);
}

async fn never_overwrites(store: Store) {
    for (path, foreign) in [("same-size", "ROWS"), ("other-size", "more rows"), ("empty", "")] {
        store.create(path, bytes(foreign)).await.unwrap();
        let staged = stage(&store, path, "job", "rows").await;
        let error = store.publish(&staged).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(error.to_string().contains(&store.path_url(path)), "{error}");
        assert_eq!(read(&store, path).await.as_deref(), Some(foreign));
        store.discard(&staged).await.unwrap();
        store.discard(&staged).await.unwrap();
    }
    assert_eq!(paths(&store).await, ["empty", "other-size", "same-size"]);
}

async fn lost_files(store: Store) {
    let staged = stage(&store, "part-0", "job", "rows").await;
    store.discard(&staged).await.unwrap();
    let error = store.publish(&staged).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("part-0"), "{error}");
    // Torn: the temporary is not what was written.
    let staged = stage(&store, "part-1", "job", "rows").await;
    if let Hidden::File { path } = &staged.hidden {
        store.delete(path).await.unwrap();
        store.create(path, bytes("ro")).await.unwrap();
        let error = store.publish(&staged).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains("2 bytes") && error.to_string().contains('4'), "{error}");
        assert_eq!(read(&store, "part-1").await, None);
    }
    // Staged elsewhere.
    let hidden = match staged.hidden {
        Hidden::File { .. } => Hidden::Upload { id: "x".into(), parts: vec![] },
        Hidden::Upload { .. } => Hidden::File { path: ".part-1.job.tmp".into() },
    };
    assert_eq!(store.publish(&Staged { hidden, ..staged }).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

async fn sweeps(store: Store) {
    for stranger in ["data.csv", "a/.0.4d1c2b.tmp", ".0.crc", "a/.x.tmp.1", "_spark_metadata/0"] {
        store.create(stranger, bytes(stranger)).await.unwrap();
    }
    let before = paths(&store).await;
    let keep = stage(&store, "a/keep", "job-7", "keep").await;
    let gone = stage(&store, "a/b/gone", "job-7", "gone").await;
    let other = stage(&store, "a/other", "job-8", "other").await;
    drop(store.stage("a/open", "job-7").await.unwrap());
    let swept = store.sweep(&|owner| owner == "job-7", std::slice::from_ref(&keep)).await.unwrap();
    assert_eq!(swept, 2);
    assert_eq!(store.sweep(&|owner| owner == "job-7", std::slice::from_ref(&keep)).await.unwrap(), 0);
    assert_eq!(store.publish(&gone).await.unwrap_err().kind(), ErrorKind::Corrupt);
    store.publish(&keep).await.unwrap();
    store.publish(&other).await.unwrap();
    let after: BTreeSet<String> = paths(&store).await.into_iter().collect();
    let expected = before.into_iter().chain(["a/keep".to_owned(), "a/other".to_owned()]).collect();
    assert_eq!(after, expected);
    for owner in ["", "a.b", "a/b", "a b"] {
        assert_eq!(store.stage("x", owner).await.unwrap_err().kind(), ErrorKind::Invalid, "{owner:?}");
    }
}

/// More than one S3 part and one HDFS packet queue, in pieces that fit neither.
async fn big_files(store: Store) {
    const PIECE_BYTES: usize = 3 * 1024 * 1024 + 17;
    let piece = |n: u8| Bytes::from(vec![n; PIECE_BYTES]);
    let mut writer = store.stage("big", "job").await.unwrap();
    let mut crc = crc32fast::Hasher::new();
    for n in 0..14 {
        crc.update(&piece(n));
        writer.write(piece(n)).await.unwrap();
    }
    assert_eq!(writer.size_bytes(), 14 * PIECE_BYTES as u64);
    let staged = writer.finish().await.unwrap();
    assert_eq!((staged.size_bytes, staged.crc32), (14 * PIECE_BYTES as u64, crc.finalize()));
    assert_eq!(store.publish(&staged).await.unwrap().size_bytes, staged.size_bytes);
    // Again: this compares checksums over the whole file.
    store.publish(&staged).await.unwrap();
    let content = store.read("big").await.unwrap().unwrap();
    assert_eq!(content.len(), 14 * PIECE_BYTES);
    assert!(content.chunks(PIECE_BYTES).enumerate().all(|(n, chunk)| chunk == piece(u8::try_from(n).unwrap())));
}

async fn odd_names(store: Store) {
    let mut names = vec![
        "p=a b/q=100%/x=1%3D2/file.csv".to_owned(),
        "h\u{e9}/\u{65e5}\u{672c}/\u{1f30a}.csv".to_owned(),
        "a+b&c;d'e(f)~!@$,?#[x]{y}|^`.csv".to_owned(),
        "..dots../.hidden..".to_owned(),
    ];
    let colon = "t=12:30:00/x.csv";
    if store.url().starts_with("hdfs") {
        let error = store.create(colon, bytes("x")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("':'"), "{error}");
    } else {
        names.push(colon.to_owned());
    }
    for name in &names {
        let staged = stage(&store, name, "job", name).await;
        store.publish(&staged).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        store.publish(&staged).await.unwrap_or_else(|error| panic!("{name} again: {error}"));
        assert_eq!(read(&store, name).await.as_ref(), Some(name));
        let created = format!("created/{name}");
        assert_eq!(store.create(&created, bytes(name)).await.unwrap(), Created::New);
        let directory = created.rsplit_once('/').unwrap().0;
        assert_eq!(store.list(directory).await.unwrap()[0].path, created);
        let below = store.below(directory).unwrap();
        assert_eq!(below.list("").await.unwrap()[0].path, name.rsplit('/').next().unwrap());
    }
    let expected: BTreeSet<_> = names.iter().cloned().chain(names.iter().map(|n| format!("created/{n}"))).collect();
    assert_eq!(paths(&store).await.into_iter().collect::<BTreeSet<_>>(), expected);
    store.delete(&names[0]).await.unwrap();
    assert_eq!(read(&store, &names[0]).await, None);
}

async fn stays_inside(store: Store) {
    let store = store.below("inner").unwrap();
    for path in ["../x", "a/../../x", "/etc/passwd", "", "a//b", ".", "a/", "a\nb"] {
        let kinds = [
            store.create(path, bytes("x")).await.unwrap_err().kind(),
            store.read(path).await.unwrap_err().kind(),
            store.stat(path).await.unwrap_err().kind(),
            store.delete(path).await.unwrap_err().kind(),
            store.stage(path, "job").await.unwrap_err().kind(),
        ];
        assert_eq!(kinds, [ErrorKind::Invalid; 5], "{path:?}");
        if !path.is_empty() {
            assert_eq!(store.list(path).await.unwrap_err().kind(), ErrorKind::Invalid, "{path:?}");
            assert_eq!(store.below(path).unwrap_err().kind(), ErrorKind::Invalid, "{path:?}");
        }
    }
    let hidden = Hidden::File { path: "../x".into() };
    let staged = Staged { path: "x".into(), hidden, size_bytes: 0, crc32: 0 };
    assert!(store.publish(&staged).await.is_err());
}

async fn dropped_writers(store: Store) {
    let mut writer = store.stage("part-0", "job").await.unwrap();
    writer.write(Bytes::from(vec![7; 9 << 20])).await.unwrap();
    drop(writer);
    assert!(visible(&store).await.is_empty());
    let mut writer = store.stage("part-1", "job").await.unwrap();
    writer.write(Bytes::from(vec![7; 9 << 20])).await.unwrap();
    writer.abandon().await.unwrap();
    assert!(!paths(&store).await.iter().any(|path| path.contains("part-1")), "abandoned is deleted");
    // The same owner starts over, although on HDFS the first still holds its lease.
    let staged = stage(&store, "part-0", "job", "second try").await;
    store.publish(&staged).await.unwrap();
    assert_eq!(read(&store, "part-0").await.as_deref(), Some("second try"));
}

async fn empty_files(store: Store) {
    assert_eq!(store.create("created", Bytes::new()).await.unwrap(), Created::New);
    let staged = stage(&store, "staged", "job", "").await;
    assert_eq!(staged.size_bytes, 0);
    assert_eq!(store.publish(&staged).await.unwrap().size_bytes, 0);
    store.publish(&staged).await.unwrap();
    assert_eq!(read(&store, "staged").await.as_deref(), Some(""));
    assert_eq!(read(&store, "created").await.as_deref(), Some(""));
}

async fn queries(store: Store) {
    for n in 0..3 {
        let staged = stage(&store, &format!("t/d=1 2/part-{n}.csv"), "job", &format!("x\n{n}\n10\n")).await;
        store.publish(&staged).await.unwrap();
    }
    let session = SessionContext::new();
    store.register(&session).unwrap();
    let url = format!("{}/", store.path_url("t"));
    session.register_csv("t", url.as_str(), CsvReadOptions::new()).await.unwrap();
    let rows = session.sql("SELECT sum(x) AS total FROM t").await.unwrap().collect().await.unwrap();
    let text = arrow::util::pretty::pretty_format_batches(&rows).unwrap().to_string();
    assert!(text.contains("33"), "{text}");
}

/// A file where a directory should be, and the other way round.
async fn needs_directories(store: Store) {
    store.create("file", bytes("x")).await.unwrap();
    store.create("directory/x", bytes("x")).await.unwrap();
    let errors = [
        store.create("file/below", bytes("x")).await.unwrap_err(),
        store.create("file/far/below", bytes("x")).await.unwrap_err(),
        store.stage("file/below", "job").await.unwrap_err(),
        store.list("file").await.unwrap_err(),
        store.read("directory").await.unwrap_err(),
        store.create("directory", bytes("x")).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("file") && error.to_string().contains("help:"), "{error}");
    }
    assert_eq!(paths(&store).await, ["directory/x", "file"]);
}

/// A real full disk, where the process may mount one; the mapping of the error has a unit test that needs no rights.
#[tokio::test]
async fn a_full_disk() {
    let directory = tempfile::tempdir().unwrap();
    let mount = |arguments: &[&str], program: &str| {
        std::process::Command::new(program).args(arguments).arg(directory.path()).output().unwrap().status.success()
    };
    if !mount(&["-t", "tmpfs", "-o", "size=64k", "tmpfs"], "mount") {
        return;
    }
    let store = Store::open(directory.path().to_str().unwrap()).await.unwrap();
    let big = Bytes::from(vec![1; 1 << 20]);
    let created = store.create("a", big.clone()).await;
    let mut writer = store.stage("b", "job").await.unwrap();
    writer.write(big.clone()).await.unwrap();
    let staged = writer.finish().await;
    let left = visible(&store).await;
    drop(store);
    assert!(mount(&[], "umount"));
    for error in [created.unwrap_err(), staged.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        assert!(error.to_string().contains(directory.path().to_str().unwrap()), "{error}");
    }
    assert!(left.is_empty(), "{left:?}");
}

/// The budget of DESIGN's bookkeeping: what a small batch asks of a local disk.
#[tokio::test]
async fn bookkeeping_is_cheap() {
    let place = local().await;
    let store = place.store.clone();
    store.create("offsets/warm", bytes("x")).await.unwrap();
    let mut times = Vec::new();
    for n in 0..10 {
        let start = Instant::now();
        for log in ["offsets", "prepared", "_spark_metadata", "commits"] {
            store.create(&format!("{log}/{n}"), bytes("v1\n{}")).await.unwrap();
        }
        let staged = stage(&store, &format!("part-{n}"), "job", "rows").await;
        store.publish(&staged).await.unwrap();
        times.push(start.elapsed());
    }
    times.sort();
    // Far above the measured 3 ms: this finds a blunder, the benches hold the budget.
    assert!(times[5] < Duration::from_millis(200), "{times:?}");
}

/// Closing asks for the file's status meanwhile: with one connection, each once waited for the other until its timeout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_files_are_closed_at_once_on_hdfs() {
    const FILES: usize = 32;
    let place = hdfs().await;
    let started = Instant::now();
    for round in 0..4 {
        let mut writers = Vec::new();
        for number in 0..FILES {
            let mut writer = place.store.stage(&format!("part-{round}-{number}"), "owner").await.unwrap();
            writer.write(bytes("some rows of text")).await.unwrap();
            writers.push(writer);
        }
        let closing: Vec<_> = writers.into_iter().map(|writer| tokio::spawn(writer.finish())).collect();
        for closed in closing {
            closed.await.unwrap().unwrap();
        }
    }
    assert!(started.elapsed() < Duration::from_secs(18), "{:?}", started.elapsed());
}
