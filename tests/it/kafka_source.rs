//! Reading exact ranges from a real broker; injected faults come from librdkafka's mock cluster.

use std::time::{Duration, Instant};

use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminOptions, NewPartitions},
    message::{Header, OwnedHeaders},
    mocking::MockCluster,
    producer::Producer,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use tidemill::{
    catalog::{KafkaTable, StartingOffsets, Subscription},
    error::{Error, ErrorKind},
    source::{KafkaSource, OffsetRange, Offsets, ReadSummary},
};

use crate::support::{
    kafka::{TIMEOUT, admin, create_topic, delete_topic, produce, produce_numbers, producer, send, table, table_at},
    unique,
};

/// Offset and value of each record, per read in the order given.
type Seen = Vec<(i32, i64, Option<String>)>;

fn range(topic: &str, partition: i32, start: i64, end: i64) -> OffsetRange {
    OffsetRange { topic: topic.to_owned(), partition, start, end }
}

async fn open(table: &KafkaTable) -> KafkaSource {
    KafkaSource::open(table).await.unwrap().with_silence_timeout(Duration::from_secs(20))
}

/// Reads off the async threads, as the engine does.
async fn try_read(
    mut source: KafkaSource,
    ranges: Vec<OffsetRange>,
) -> (KafkaSource, Result<(ReadSummary, Seen), Error>) {
    tokio::task::spawn_blocking(move || {
        let mut seen = Seen::new();
        let result = source.read(&ranges, &mut |records| {
            for record in records {
                let value = record.value.map(|value| String::from_utf8_lossy(value).into_owned());
                seen.push((record.partition, record.offset, value));
            }
            Ok(true)
        });
        (source, result.map(|summary| (summary, seen)))
    })
    .await
    .unwrap()
}

async fn read(source: KafkaSource, ranges: Vec<OffsetRange>) -> (KafkaSource, ReadSummary, Seen) {
    let (source, result) = try_read(source, ranges).await;
    let (summary, seen) = result.unwrap();
    (source, summary, seen)
}

fn offsets_of(seen: &Seen, partition: i32) -> Vec<i64> {
    seen.iter().filter(|record| record.0 == partition).map(|record| record.1).collect()
}

fn offsets(topic: &str, pairs: &[(i32, i64)]) -> Offsets {
    Offsets([(topic.to_owned(), pairs.iter().copied().collect())].into())
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_exact_ranges_of_two_partitions_and_goes_on_without_a_seek() {
    let topic = unique("ranges");
    create_topic(&topic, 2).await;
    let sender = producer(&crate::support::kafka(), &[]);
    produce_numbers(&sender, &topic, 0, "a", 3000);
    produce_numbers(&sender, &topic, 1, "b", 500);
    let source = open(&table(&[&topic])).await;
    assert_eq!(source.starting_offsets().await.unwrap(), offsets(&topic, &[(0, 0), (1, 0)]));
    let latest = source.latest_offsets().await.unwrap();
    assert_eq!(latest, offsets(&topic, &[(0, 3000), (1, 500)]));

    let (source, summary, seen) = read(source, vec![range(&topic, 0, 7, 2100), range(&topic, 1, 0, 1)]).await;
    assert_eq!(summary, ReadSummary { records: 2094, gaps: 0 });
    assert_eq!(offsets_of(&seen, 0), (7..2100).collect::<Vec<_>>());
    assert_eq!(seen.iter().find(|record| record.0 == 1).unwrap(), &(1, 0, Some("b0".to_owned())));
    // On from there, then back, then forward with a hole.
    let mut source = source;
    for (start, end) in [(2100, 2101), (2101, 2999), (0, 10), (10, 20), (2990, 3000)] {
        let (same, summary, seen) = read(source, vec![range(&topic, 0, start, end), range(&topic, 1, 3, 3)]).await;
        source = same;
        assert_eq!(summary, ReadSummary { records: (end - start) as u64, gaps: 0 });
        assert_eq!(offsets_of(&seen, 0), (start..end).collect::<Vec<_>>(), "{start}..{end}");
    }
}

/// A broker answers a commit once it is decided, and writes the markers to the partitions just after.
async fn end_becomes(source: &KafkaSource, wanted: &Offsets) {
    for _ in 0..200 {
        if source.latest_offsets().await.unwrap() == *wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(source.latest_offsets().await.unwrap(), *wanted, "still after two seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn gaps_of_transactions_end_a_range_and_open_ones_do_not_count() {
    let topic = unique("transactions");
    create_topic(&topic, 1).await;
    let id = unique("id");
    let sender = producer(&crate::support::kafka(), &[("transactional.id", &id)]);
    sender.init_transactions(TIMEOUT).unwrap();
    for commit in [true, false, true] {
        sender.begin_transaction().unwrap();
        produce_numbers(&sender, &topic, 0, if commit { "kept" } else { "aborted" }, 10);
        if commit { sender.commit_transaction(TIMEOUT).unwrap() } else { sender.abort_transaction(TIMEOUT).unwrap() }
    }
    // 10 records and a marker, three times.
    let source = open(&table(&[&topic])).await;
    end_becomes(&source, &offsets(&topic, &[(0, 33)])).await;
    let started = Instant::now();
    let (source, summary, seen) = read(source, vec![range(&topic, 0, 0, 33)]).await;
    assert_eq!(summary, ReadSummary { records: 20, gaps: 13 });
    assert!(seen.iter().all(|record| record.2.as_deref().unwrap().starts_with("kept")));
    assert!(started.elapsed() < Duration::from_secs(5), "it ends in a marker: {:?}", started.elapsed());
    // Ranges that hold no record at all, in the middle and at the end.
    let (source, summary, _) = read(source, vec![range(&topic, 0, 10, 22)]).await;
    assert_eq!(summary, ReadSummary { records: 0, gaps: 12 });
    let (source, summary, _) = read(source, vec![range(&topic, 0, 22, 23)]).await;
    assert_eq!(summary, ReadSummary { records: 1, gaps: 0 });
    let (source, summary, _) = read(source, vec![range(&topic, 0, 32, 33)]).await;
    assert_eq!(summary, ReadSummary { records: 0, gaps: 1 });
    // An open transaction is not part of the end.
    sender.begin_transaction().unwrap();
    produce_numbers(&sender, &topic, 0, "open", 5);
    assert_eq!(source.latest_offsets().await.unwrap(), offsets(&topic, &[(0, 33)]));
    sender.commit_transaction(TIMEOUT).unwrap();
    end_becomes(&source, &offsets(&topic, &[(0, 39)])).await;
    let (_, summary, _) = read(source, vec![range(&topic, 0, 33, 39)]).await;
    assert_eq!(summary, ReadSummary { records: 5, gaps: 1 });
}

#[tokio::test(flavor = "multi_thread")]
async fn new_records_after_an_end_of_partition_are_read() {
    let topic = unique("grow");
    create_topic(&topic, 1).await;
    let mut source = open(&table(&[&topic])).await;
    let sender = producer(&crate::support::kafka(), &[]);
    for round in 0..20_i64 {
        produce_numbers(&sender, &topic, 0, "x", 1);
        let latest = source.latest_offsets().await.unwrap();
        assert_eq!(latest, offsets(&topic, &[(0, round + 1)]));
        // Let the end of the partition reach the queue in every other round.
        tokio::time::sleep(Duration::from_millis(if round % 2 == 0 { 120 } else { 0 })).await;
        let (same, summary, seen) = read(source, vec![range(&topic, 0, round, round + 1)]).await;
        source = same;
        assert_eq!(summary, ReadSummary { records: 1, gaps: 0 }, "round {round}");
        assert_eq!(offsets_of(&seen, 0), [round]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_early_or_failing_loses_nothing() {
    let topic = unique("early");
    create_topic(&topic, 1).await;
    produce_numbers(&producer(&crate::support::kafka(), &[]), &topic, 0, "x", 10_000);
    let mut source = open(&table(&[&topic])).await;
    let (stopped, source) = tokio::task::spawn_blocking(move || {
        let mut last = 0;
        let summary = source.read(&[range(&topic, 0, 0, 10_000)], &mut |records| {
            last = records.last().unwrap().offset;
            Ok(false)
        });
        let summary = summary.unwrap();
        assert!(summary.records > 0 && summary.records < 10_000, "{summary:?}");
        assert_eq!(last + 1, summary.records as i64);
        let failed = source.read(&[range(&topic, 0, last + 1, 10_000)], &mut |_| Err(Error::invalid("mine")));
        assert_eq!(failed.unwrap_err().message(), "mine");
        ((topic, last + 1), source)
    })
    .await
    .unwrap();
    let (topic, next) = stopped;
    let (_, summary, seen) = read(source, vec![range(&topic, 0, next, 10_000)]).await;
    assert_eq!(summary.records as i64, 10_000 - next);
    assert_eq!(offsets_of(&seen, 0), (next..10_000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_values_headers_and_big_records_arrive_whole() {
    let topic = unique("shapes");
    create_topic(&topic, 1).await;
    produce(&topic, 0, &[(None, Some("v")), (Some("k"), None), (Some(""), Some("")), (None, None)]);
    let sender = producer(&crate::support::kafka(), &[]);
    let header = |key, value| Header { key, value };
    let headers = OwnedHeaders::new().insert(header("a", Some("1"))).insert(header("b", None::<&str>));
    send(&sender, &topic, 0, None, Some(b"with"), Some(headers));
    send(&sender, &topic, 0, None, Some(&vec![b'z'; 900_000]), None);
    sender.flush(TIMEOUT).unwrap();
    let mut table = table(&[&topic]);
    table.include_headers = true;
    // Each fetch asks for far less than the big record.
    table.client.0.insert("fetch.message.max.bytes".to_owned(), "1000".to_owned());
    let mut source = open(&table).await;
    tokio::task::spawn_blocking(move || {
        let mut shapes = Vec::new();
        source
            .read(&[range(&topic, 0, 0, 6)], &mut |records| {
                for record in records {
                    assert_eq!((record.topic, record.partition, record.timestamp_type), (topic.as_str(), 0, 0));
                    assert!(record.timestamp_ms.unwrap() > 1_600_000_000_000);
                    let headers: Vec<_> = record.headers.iter().map(|(k, v)| format!("{k}={v:?}")).collect();
                    let len = |bytes: Option<&[u8]>| bytes.map(<[u8]>::len);
                    shapes.push((len(record.key), len(record.value), headers.join(",")));
                }
                Ok(true)
            })
            .unwrap();
        let none = String::new;
        let expected = [
            (None, Some(1), none()),
            (Some(1), None, none()),
            (Some(0), Some(0), none()),
            (None, None, none()),
            (None, Some(4), "a=Some([49]),b=None".to_owned()),
            (None, Some(900_000), none()),
        ];
        assert_eq!(shapes, expected);
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_thousand_records_drain_quickly() {
    let topic = unique("drain");
    create_topic(&topic, 2).await;
    let sender = producer(&crate::support::kafka(), &[]);
    produce_numbers(&sender, &topic, 0, "{\"symbol\":\"BTCUSDT\",\"price\":", 100_000);
    produce_numbers(&sender, &topic, 1, "{\"symbol\":\"BTCUSDT\",\"price\":", 100_000);
    let mut source = open(&table(&[&topic])).await;
    tokio::task::spawn_blocking(move || {
        let started = Instant::now();
        let (mut next, mut calls) = ([0_i64; 2], 0);
        let ranges = [range(&topic, 0, 0, 100_000), range(&topic, 1, 0, 100_000)];
        let summary = source.read(&ranges, &mut |records| {
            calls += 1;
            for record in records {
                assert_eq!(record.offset, next[record.partition as usize]);
                next[record.partition as usize] += 1;
            }
            Ok(true)
        });
        assert_eq!(summary.unwrap(), ReadSummary { records: 200_000, gaps: 0 });
        assert!(calls < 20_000, "{calls} calls for 200000 records");
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn records_deleted_before_they_were_read_are_a_loss() {
    let topic = unique("deleted");
    create_topic(&topic, 1).await;
    let sender = producer(&crate::support::kafka(), &[]);
    produce_numbers(&sender, &topic, 0, "x", 100);
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, 0, Offset::Offset(40)).unwrap();
    admin().delete_records(&list, &AdminOptions::new()).await.unwrap();
    let from = offsets(&topic, &[(0, 10)]);

    let strict = open(&table(&[&topic])).await;
    let error = strict.check_data_loss(&from).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss);
    assert!(error.to_string().contains(&format!("{topic}-0 lost offsets 10 to 40")), "{error}");
    // The deletion can also come after the check.
    let (_, result) = try_read(strict, vec![range(&topic, 0, 10, 60)]).await;
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss, "{error}");
    assert!(error.to_string().contains(&format!("offsets 10 to 40 of {topic}-0 are gone")), "{error}");

    let mut lenient = table(&[&topic]);
    lenient.fail_on_data_loss = false;
    let source = open(&lenient).await;
    let (sentences, resumed) = source.check_data_loss(&from).await.unwrap();
    assert_eq!((sentences.len(), resumed), (1, offsets(&topic, &[(0, 40)])));
    let (source, summary, seen) = read(source, vec![range(&topic, 0, 10, 60)]).await;
    assert_eq!(summary, ReadSummary { records: 20, gaps: 30 });
    assert_eq!(offsets_of(&seen, 0), (40..60).collect::<Vec<_>>());
    let (source, summary, _) = read(source, vec![range(&topic, 0, 5, 30)]).await;
    assert_eq!(summary, ReadSummary { records: 0, gaps: 25 });
    let (_, summary, _) = read(source, vec![range(&topic, 0, 60, 100)]).await;
    assert_eq!(summary, ReadSummary { records: 40, gaps: 0 });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_created_again_is_a_loss() {
    let topic = unique("again");
    create_topic(&topic, 1).await;
    let sender = producer(&crate::support::kafka(), &[]);
    produce_numbers(&sender, &topic, 0, "old", 50);
    let source = open(&table(&[&topic])).await;
    let (source, _, _) = read(source, vec![range(&topic, 0, 0, 50)]).await;
    delete_topic(&topic).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    create_topic(&topic, 1).await;
    produce_numbers(&producer(&crate::support::kafka(), &[]), &topic, 0, "new", 5);
    let from = offsets(&topic, &[(0, 50)]);
    let error = source.check_data_loss(&from).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss, "{error}");
    assert!(error.to_string().contains("ends at offset 5, but we had read up to 50"), "{error}");
    // Without the check, the read itself finds out.
    let (_, result) =
        try_read(source.with_silence_timeout(Duration::from_secs(12)), vec![range(&topic, 0, 50, 60)]).await;
    assert_eq!(result.unwrap_err().kind(), ErrorKind::DataLoss);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_added_later_join() {
    let topic = unique("added");
    create_topic(&topic, 1).await;
    produce(&topic, 0, &[(None, Some("a"))]);
    let source = open(&table(&[&topic])).await;
    let (source, _, _) = read(source, vec![range(&topic, 0, 0, 1)]).await;
    admin().create_partitions([&NewPartitions::new(&topic, 2)], &AdminOptions::new()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    produce(&topic, 1, &[(None, Some("b")), (None, Some("c"))]);
    let latest = source.latest_offsets().await.unwrap();
    assert_eq!(latest, offsets(&topic, &[(0, 1), (1, 2)]));
    let start = offsets(&topic, &[(0, 1)]);
    let (losses, resumed) = source.check_data_loss(&start).await.unwrap();
    assert_eq!((losses.len(), &resumed), (0, &offsets(&topic, &[(0, 1), (1, 0)])));
    let (_, summary, seen) = read(source, start.ranges(&latest)).await;
    assert_eq!((summary.records, offsets_of(&seen, 1)), (2, vec![0, 1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn times_and_patterns_resolve() {
    let (first, second) = (unique("pattern-a"), unique("pattern-b"));
    create_topic(&first, 1).await;
    create_topic(&second, 1).await;
    produce(&first, 0, &[(None, Some("1"))]);
    tokio::time::sleep(Duration::from_millis(30)).await;
    let between = tidemill::clock::now_ms();
    tokio::time::sleep(Duration::from_millis(30)).await;
    produce(&first, 0, &[(None, Some("2"))]);
    let mut table = table(&[]);
    let suffix = first.strip_prefix("pattern-").unwrap();
    table.subscription = Some(Subscription::Pattern(format!("pattern-({suffix}|nothing)")));
    table.starting_offsets = StartingOffsets::Timestamp { ms: between, latest_if_none: false };
    let source = open(&table).await;
    assert_eq!(source.starting_offsets().await.unwrap(), offsets(&first, &[(0, 1)]));
    assert_eq!(source.ending_offsets().await.unwrap(), offsets(&first, &[(0, 2)]));
    table.starting_offsets = StartingOffsets::Timestamp { ms: between + 3_600_000, latest_if_none: false };
    let error = open(&table).await.starting_offsets().await.unwrap_err();
    assert!(error.to_string().contains("no record at or after"), "{error}");
    table.subscription = Some(Subscription::Partitions([(second.clone(), vec![0, 3])].into()));
    let error = KafkaSource::open(&table).await.unwrap_err();
    assert!(error.to_string().contains(&format!("'assign' names {second}-3")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_explained_in_time() {
    let topic = unique("bitcointopic");
    create_topic(&topic, 1).await;
    let misspelt = topic.replace("coin", "cion");
    let error = KafkaSource::open(&table(&[&misspelt])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains(&format!("did you mean '{topic}'?")), "{error}");

    let started = Instant::now();
    let error = KafkaSource::open(&table_at("127.0.0.1:1", &["t"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("127.0.0.1:1") && error.to_string().contains("help:"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_made_on_request() {
    let topic = unique("ensured");
    let client = tidemill::kafka::KafkaClient::new(&table(&[]).client).unwrap();
    assert_eq!(client.ensure_topic(&topic, 3).await.unwrap(), 3);
    assert_eq!(client.ensure_topic(&topic, 5).await.unwrap(), 3, "an existing topic stays as it is");
    assert!(client.run(|client| Ok(client.cluster_id())).await.unwrap().is_some());
}

fn mock(topic: &str, partitions: i32) -> MockCluster<'static, rdkafka::producer::DefaultProducerContext> {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(topic, partitions, 1).unwrap();
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_survives_a_broker_that_goes_away_and_comes_back() {
    let cluster = mock("t", 2);
    let servers = cluster.bootstrap_servers();
    let sender = producer(&servers, &[]);
    produce_numbers(&sender, "t", 0, "x", 1000);
    let source = open(&table_at(&servers, &["t"])).await;
    assert_eq!(source.latest_offsets().await.unwrap(), offsets("t", &[(0, 1000), (1, 0)]));
    let (source, summary, _) = read(source, vec![range("t", 0, 0, 500)]).await;
    assert_eq!(summary.records, 500);
    cluster.broker_down(1).unwrap();
    let reading = tokio::spawn(read(source, vec![range("t", 0, 500, 1000), range("t", 1, 0, 3)]));
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.broker_up(1).unwrap();
    produce_numbers(&sender, "t", 1, "y", 3);
    let (_, summary, seen) = reading.await.unwrap();
    assert_eq!(summary, ReadSummary { records: 503, gaps: 0 });
    assert_eq!(offsets_of(&seen, 0), (500..1000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_broker_is_unavailable() {
    let cluster = mock("t", 1);
    let servers = cluster.bootstrap_servers();
    produce_numbers(&producer(&servers, &[]), "t", 0, "x", 10);
    let source = open(&table_at(&servers, &["t"])).await.with_silence_timeout(Duration::from_secs(2));
    cluster.broker_down(1).unwrap();
    let started = Instant::now();
    let (source, result) = try_read(source, vec![range("t", 0, 0, 10)]).await;
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("t-0 [0, 10), at offset 0") && error.to_string().contains(&servers), "{error}");
    assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
    // The same source reads on when the broker is back.
    cluster.broker_up(1).unwrap();
    let source = source.with_silence_timeout(Duration::from_secs(20));
    let (_, summary, _) = read(source, vec![range("t", 0, 0, 10)]).await;
    assert_eq!(summary.records, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn passing_request_errors_are_tried_again() {
    let cluster = mock("t", 1);
    let servers = cluster.bootstrap_servers();
    produce_numbers(&producer(&servers, &[]), "t", 0, "x", 10);
    let source = open(&table_at(&servers, &["t"])).await;
    let not_leader = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION;
    cluster.request_errors(RDKafkaApiKey::ListOffsets, &[not_leader, not_leader]);
    assert_eq!(source.latest_offsets().await.unwrap(), offsets("t", &[(0, 10)]));
    cluster.request_errors(RDKafkaApiKey::Fetch, &[not_leader, not_leader]);
    let (_, summary, _) = read(source, vec![range("t", 0, 0, 10)]).await;
    assert_eq!(summary, ReadSummary { records: 10, gaps: 0 });
}
