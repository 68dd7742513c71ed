//! Avro with and without a schema registry; arrow-avro writes what we read.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use arrow::{
    array::{Float64Array, Int64Array, StringArray, TimestampMicrosecondArray},
    datatypes::Schema,
};
use arrow_avro::{
    schema::{AvroSchema, FingerprintStrategy},
    writer::{WriterBuilder, format::AvroSoeFormat},
};
use axum::{Router, extract::Path, http::StatusCode, routing::get};
use proptest::prelude::*;
use tidemill::{catalog::AvroOptions, error::ErrorKind};

use super::*;

fn columns() -> Vec<Column> {
    vec![
        column("at", micros()),
        column("price", DataType::Float64),
        column("volume", DataType::Int64),
        column("name", DataType::Utf8),
    ]
}

fn given(schema: &str, mode: ParseMode) -> DecodeOptions {
    let avro = AvroOptions { registry_url: None, schema: Some(schema.to_owned()) };
    options(PayloadFormat::Avro(avro), mode)
}

/// The batch's rows in Confluent's framing under that id, and its schema.
fn written(batch: &RecordBatch, id: u32) -> (Vec<Vec<u8>>, String) {
    let mut encoder = WriterBuilder::new((*batch.schema()).clone())
        .with_fingerprint_strategy(FingerprintStrategy::Id(id))
        .build_encoder::<AvroSoeFormat>()
        .unwrap();
    encoder.encode(batch).unwrap();
    let rows = encoder.flush();
    let schema = AvroSchema::try_from(batch.schema().as_ref()).unwrap().json_string;
    (rows.iter().map(|row| row.to_vec()).collect(), schema)
}

type Row = (Option<i64>, Option<f64>, Option<i64>, Option<String>);

fn batch(rows: &[Row]) -> RecordBatch {
    let fields: Vec<_> =
        columns().iter().map(|column| Field::new(&column.name, column.data_type.clone(), true)).collect();
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.0).collect::<TimestampMicrosecondArray>()),
        Arc::new(rows.iter().map(|row| row.1).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.2).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.3.clone()).collect::<StringArray>()),
    ];
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

proptest! {
    #[test]
    fn reads_what_arrow_avro_writes(rows in prop::collection::vec(any::<Row>(), 1..20), cut in any::<prop::sample::Index>()) {
        prop_assume!(rows.iter().all(|row| row.1.is_none_or(|value| !value.is_nan())));
        let batch = batch(&rows);
        let (framed, schema) = written(&batch, 1);
        let bodies: Vec<_> = framed.iter().map(|row| &row[5..]).collect();
        let decoded = decode(&columns(), &given(&schema, ParseMode::FailFast), &bodies).unwrap();
        prop_assert_eq!(&decoded.rows, &batch);
        // A torn body costs only itself.
        let torn = &bodies[0][..cut.index(bodies[0].len())];
        let mut mixed = vec![torn];
        mixed.extend(&bodies);
        let decoded = decode(&columns(), &given(&schema, ParseMode::DeadLetter), &mixed).unwrap();
        prop_assert_eq!((&decoded.rows, decoded.bad), (&batch, 1));
    }

    #[test]
    fn no_bytes_make_it_panic(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..30)) {
        for mode in [ParseMode::DeadLetter, ParseMode::Permissive] {
            let columns = [column("next", DataType::Utf8), column("list", levels()), column("map", counts())];
            let decoded = decode(&columns, &given(RECURSIVE, mode), &payloads).unwrap();
            prop_assert_eq!(decoded.rows.num_rows() as u64 + decoded.bad, payloads.len() as u64);
        }
    }
}

const RECURSIVE: &str = r#"{"type":"record","name":"Node","fields":[
    {"name":"skipped","type":["null","Node",{"type":"array","items":"Node"}]},
    {"name":"list","type":{"type":"array","items":{"type":"record","name":"Level","fields":[
        {"name":"price","type":"float"},{"name":"amount","type":["null","int"]}]}}},
    {"name":"map","type":{"type":"map","values":"long"}}]}"#;

#[test]
fn nested_and_recursive_values() {
    let columns = [column("list", levels()), column("map", counts()), column("absent", DataType::Utf8)];
    // skipped = null; one block of two levels (1.5, 3), (2.5, null); one block with its size: {"k": -1}.
    let good =
        [&[0, 4][..], &1.5f32.to_le_bytes(), &[2, 6], &2.5f32.to_le_bytes(), &[0, 0], &[1, 6, 2, b'k', 1, 0]].concat();
    // 200 nodes inside each other.
    let deep = [2; 200].to_vec();
    let endless = vec![0, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    let decoded = decode(
        &columns,
        &given(RECURSIVE, ParseMode::DeadLetter),
        &[deep, good.clone(), endless, [good, vec![0]].concat()],
    )
    .unwrap();
    assert_eq!(shown(&decoded.rows, "list", 0), "[{price: 1.5, amount: 3}, {price: 2.5, amount: }]");
    assert_eq!(
        (shown(&decoded.rows, "map", 0), shown(&decoded.rows, "absent", 0)),
        ("{k: -1}".to_owned(), "<null>".to_owned())
    );
    let reasons = reasons(&decoded);
    assert_eq!(reasons[0], "nested deeper than 128 levels");
    assert!(reasons[1].starts_with("a block of 9223372036854775807 items"), "{}", reasons[1]);
    assert_eq!(reasons[2], "1 bytes after the end of the record");
}

#[test]
fn types_have_to_fit() {
    let schema = r#"{"type":"record","name":"r","fields":[{"name":"price","type":"string"},{"name":"volume","type":"long"},
        {"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}},
        {"name":"name","type":{"type":"enum","name":"e","symbols":["A","B"]}}]}"#;
    let body = [2, b'x', 84, 2, 2];
    let decoded = decode(&columns(), &given(schema, ParseMode::DeadLetter), &[body]).unwrap();
    assert_eq!(reasons(&decoded), ["price: an Avro string is no DOUBLE"]);
    let mut all = columns();
    all.push(column("bad", DataType::Utf8));
    let mut options = given(schema, ParseMode::Permissive);
    options.corrupt_column = Some("bad".to_owned());
    let rows = decode(&all, &options, &[body]).unwrap().rows;
    let row: Vec<_> = all.iter().map(|column| shown(&rows, &column.name, 0)).collect();
    assert_eq!(row, ["1970-01-01T00:00:00.001", "<null>", "42", "B", "AnhUAgI="]);
}

/// A registry with the given replies, on a thread of its own; its URL and the number of requests so far.
fn registry(replies: HashMap<u32, (u16, String)>) -> (String, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let reply = move |Path(id): Path<u32>| {
            counted.fetch_add(1, Ordering::SeqCst);
            let (status, body) = replies.get(&id).cloned().unwrap_or((404, r#"{"error_code":40403}"#.to_owned()));
            std::future::ready((StatusCode::from_u16(status).unwrap(), body))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            send.send(listener.local_addr().unwrap()).unwrap();
            axum::serve(listener, Router::new().route("/base/schemas/ids/{id}", get(reply))).await.unwrap();
        });
    });
    (format!("http://{}/base/", receive.recv().unwrap()), requests)
}

fn from_registry(url: &str, mode: ParseMode) -> RecordDecoder {
    let avro = AvroOptions { registry_url: Some(url.to_owned()), schema: None };
    RecordDecoder::new(&columns(), &[0, 1, 2, 3], &options(PayloadFormat::Avro(avro), mode)).unwrap()
}

fn envelope(schema: &str) -> (u16, String) {
    (200, serde_json::json!({ "schema": schema }).to_string())
}

#[test]
fn schemas_come_from_the_registry() {
    let batch = batch(&[(Some(1), Some(0.5), Some(7), Some("x".into())), (None, None, None, None)]);
    let (first, schema) = written(&batch, 1);
    let smaller =
        r#"{"type":"record","name":"r","fields":[{"name":"new","type":"int"},{"name":"volume","type":"int"}]}"#;
    let protobuf = r#"{"schema":"syntax","schemaType":"PROTOBUF"}"#.to_owned();
    let replies = HashMap::from([
        (1, envelope(&schema)),
        (258, envelope(smaller)),
        (3, (200, protobuf)),
        (4, envelope("\"string\"")),
    ]);
    let (url, requests) = registry(replies);
    let mut decoder = from_registry(&url, ParseMode::DeadLetter);
    let payloads: [&[u8]; 8] = [
        &first[0],
        &[0, 0, 0, 1, 2, 2, 84],
        &[0, 0, 0, 0, 99, 1],
        &[0, 0, 0, 0, 3, 1],
        &[0, 0, 0, 0, 4, 1],
        b"{\"no\":\"framing\"}",
        &[0, 0, 0],
        &first[1],
    ];
    decoder.push(&records(&payloads)).unwrap();
    decoder.push(&records(&payloads)).unwrap();
    assert_eq!(requests.load(Ordering::SeqCst), 5);
    let decoded = decoder.flush().unwrap();
    assert_eq!((0..3).map(|row| shown(&decoded.rows, "volume", row)).collect::<Vec<_>>(), ["7", "42", "<null>"]);
    let no_id = "no schema id: the payload does not start with a zero byte and an id";
    let expected = [
        "schema 99: the registry does not know it",
        "schema 3: it is PROTOBUF and not AVRO",
        "schema 4: its top level is no record",
        no_id,
        no_id,
    ];
    assert_eq!(reasons(&decoded)[..5], expected);
    // An id that was unknown is asked for again with the next batch; a known one is not.
    decoder.push(&records(&payloads)).unwrap();
    assert_eq!(requests.load(Ordering::SeqCst), 8);
}

#[test]
fn a_registry_that_fails_is_no_bad_record() {
    let (url, requests) = registry(HashMap::from([(1, (500, String::new())), (2, (401, String::new()))]));
    let mut decoder = from_registry(&url, ParseMode::DeadLetter);
    let error = decoder.push(&records(&[[0, 0, 0, 0, 1]])).unwrap_err();
    assert_eq!((error.kind(), requests.load(Ordering::SeqCst)), (ErrorKind::Unavailable, 3));
    assert!(error.message().contains("schema 1 from the registry at 127.0.0.1:"), "{error}");
    assert_eq!(decoder.push(&records(&[[0, 0, 0, 0, 2]])).unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert!(decoder.is_empty());
    let mut nobody = from_registry("http://user:secret@127.0.0.1:9/", ParseMode::DropMalformed);
    let error = nobody.push(&records(&[[0, 0, 0, 0, 1]])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[test]
fn the_options_name_one_schema() {
    let new = |registry_url: Option<&str>, schema: Option<&str>| {
        let avro = AvroOptions { registry_url: registry_url.map(str::to_owned), schema: schema.map(str::to_owned) };
        let error = RecordDecoder::new(&columns(), &[], &options(PayloadFormat::Avro(avro), ParseMode::DeadLetter))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error.message().to_owned()
    };
    assert!(new(None, None).contains("needs to know"));
    assert!(new(Some("http://x"), Some("{}")).contains("both"));
    assert!(new(Some("ftp://x"), None).contains("neither http nor https"));
    assert!(new(None, Some("{")).contains("no Avro schema"));
}
