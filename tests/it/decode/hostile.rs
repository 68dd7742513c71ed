//! Bytes that are no record, and bytes that only look so.

use proptest::prelude::*;

use super::{json::payload, *};

fn columns() -> Vec<Column> {
    vec![
        column("a", DataType::Int64),
        column("s", DataType::Utf8),
        column("f", DataType::Float64),
        column("t", micros()),
        column("list", levels()),
        column("map", counts()),
    ]
}

/// Payload, and the reason why it is refused; `None`: it is a row.
#[expect(clippy::too_many_lines, reason = "a table")]
fn corpus() -> Vec<(Vec<u8>, Option<&'static str>)> {
    let deep = |depth: usize| format!(r#"{{"x":{}{}}}"#, "[".repeat(depth), "]".repeat(depth)).into_bytes();
    let mut all: Vec<(Vec<u8>, Option<&str>)> = vec![
        (deep(128), None),
        (deep(129), Some("nested deeper than 128 levels")),
        (deep(1_000_000), Some("nested deeper than 128 levels")),
        (b"\xef\xbb\xbf{\"a\":1}".to_vec(), None),
        (b"\xfe\xff\x00{".to_vec(), Some("invalid UTF-8 at byte 0")),
        (b"{\"s\":\"\xff\"}".to_vec(), Some("invalid UTF-8 at byte 6")),
        (b"{\"x\":\"\xc3\"}".to_vec(), Some("invalid UTF-8 at byte 6")),
        (b"{\"s\":\"\xed\xa0\x80\"}".to_vec(), Some("invalid UTF-8 at byte 6")),
        (b"{\"s\":\"\xc0\xaf\"}".to_vec(), Some("invalid UTF-8 at byte 6")),
        (b"{\"a\":1}\0".to_vec(), Some("a NUL at byte 7 instead of the end of the record")),
        (b"\0".to_vec(), Some("a NUL at byte 0 instead of an object")),
        (b"{\"s\":\"a\0b\"}".to_vec(), Some("a bare control character 0x00 at byte 7")),
        (b"{\"s\":\"a\tb\"}".to_vec(), Some("a bare control character 0x09 at byte 7")),
    ];
    let text = [
        ("", "an empty payload"),
        ("  \n", "an empty payload"),
        ("{", "truncated at byte 1"),
        (r#"{"a":1"#, "truncated at byte 6"),
        (r#"{"a":"#, "truncated at byte 5"),
        (r#"{"a"#, "truncated at byte 3"),
        (r#"{"s":"x\"#, "truncated at byte 8"),
        (r#"{"a":1}{"a":2}"#, "a second object at byte 7"),
        (r#"{"a":1} {"a":2}"#, "a second object at byte 8"),
        (r#"{"a":1}garbage"#, r#""garbage" at byte 7 instead of the end of the record"#),
        (r#"{"a":1},"#, r#""," at byte 7 instead of the end of the record"#),
        (r#"[{"a":1}]"#, "an array instead of an object"),
        ("null", "null instead of an object"),
        ("12", "a number instead of an object"),
        (r#""text""#, "a string instead of an object"),
        ("nul", r#""nul" at byte 0 instead of null"#),
        ("{'a':1}", r#""'a':1}" at byte 1 instead of a string"#),
        ("{a:1}", r#""a:1}" at byte 1 instead of a string"#),
        (r#"{"a":1,}"#, r#""}" at byte 7 instead of a string"#),
        (r#"{,"a":1}"#, r#"",\"a\":1}" at byte 1 instead of a string"#),
        (r#"{"a":1,,"f":2}"#, r#"",\"f\":2}" at byte 7 instead of a string"#),
        (r#"{"a" 1}"#, r#""1}" at byte 5 instead of ':'"#),
        (r#"{"a":1 "f":2}"#, r#""\"f\":2}" at byte 7 instead of ',' or '}'"#),
        (r#"{"a":01}"#, r#""01}" at byte 5 instead of a JSON number"#),
        (r#"{"a":+1}"#, r#""+1}" at byte 5 instead of a value"#),
        (r#"{"f":.5}"#, r#"".5}" at byte 5 instead of a value"#),
        (r#"{"f":1.}"#, r#""1.}" at byte 5 instead of a JSON number"#),
        (r#"{"x":-}"#, r#""-}" at byte 5 instead of a JSON number"#),
        (r#"{"f":NaN}"#, r#""NaN}" at byte 5 instead of a value"#),
        (r#"{"f":Infinity}"#, r#""Infinity}" at byte 5 instead of a value"#),
        (r#"{"a":1.5}"#, "a: 1.5 is no BIGINT"),
        (r#"{"a":"1"}"#, "a: \"1\" is no BIGINT"),
        (r#"{"a":9223372036854775808}"#, "a: 9223372036854775808 is no BIGINT"),
        (r#"{"f":1e400}"#, "f: 1e400 is no DOUBLE"),
        (r#"{"f":-1e400}"#, "f: -1e400 is no DOUBLE"),
        (r#"{"a":{}}"#, "a: {} is no BIGINT"),
        (r#"{"a":[1,}"#, r#""}" at byte 8 instead of a value"#),
        (r#"{"s":"\ud800"}"#, "half of a surrogate pair at byte 6"),
        (r#"{"s":"\udc00"}"#, "half of a surrogate pair at byte 6"),
        (r#"{"s":"\ud800A"}"#, "half of a surrogate pair at byte 6"),
        (r#"{"x":"\ud800\n"}"#, "half of a surrogate pair at byte 6"),
        (r#"{"s":"\u12g4"}"#, "a \\u without four digits at byte 8"),
        (r#"{"s":"\x"}"#, "an unknown escape at byte 6"),
        (r#"{"x":[1}"#, r#""}" at byte 7 instead of ',' or ']'"#),
        (r#"{"x":{"y":1]}"#, r#""]}" at byte 11 instead of ',' or '}'"#),
        (r#"{"list":[{"price":"x"}]}"#, "list: price: \"x\" is no DOUBLE"),
        (r#"{"list":{}}"#, "list: {} is no ARRAY"),
        (r#"{"list":[{"price":1}"#, "truncated at byte 20"),
        (r#"{"map":{"k":1.5}}"#, "map: 1.5 is no BIGINT"),
        (r#"{"map":[]}"#, "map: [] is no MAP"),
    ];
    all.extend(text.map(|(payload, reason)| (payload.as_bytes().to_vec(), Some(reason))));
    let rows = [
        "{}",
        " { } ",
        r#"{"x":1e400}"#,
        r#"{"x":123456789012345678901234567890}"#,
        r#"{"a":-0,"f":-0}"#,
        r#"{"":1}"#,
        r#"{"list":[],"map":{}}"#,
        r#"{"list":[null,{}]}"#,
        "\r\n{\"a\"\t:\n1}\n",
    ];
    all.extend(rows.map(|payload| (payload.as_bytes().to_vec(), None)));
    all
}

#[test]
fn every_verdict_of_the_corpus() {
    for (payload, expected) in corpus() {
        let decoded = decode(&columns(), &json(ParseMode::DeadLetter), &[&payload]).unwrap();
        let excerpt = String::from_utf8_lossy(&payload[..payload.len().min(60)]).into_owned();
        match expected {
            Some(reason) => assert_eq!(reasons(&decoded), [reason], "{excerpt}"),
            None => assert_eq!((reasons(&decoded), decoded.rows.num_rows()), (vec![], 1), "{excerpt}"),
        }
    }
}

/// No prefix of a record is a record, and none makes the decoder panic.
#[test]
fn every_truncation_is_refused() {
    let whole = r#" {"a":-12,"s":"x\u00e9\ud83d\ude00","f":1.5e-3,"t":"2024-01-01T00:00:00.5Z","list":[{"price":1,"amount":2},null],"map":{"k":3},"x":[{"y":[true,false,null]}]}"#;
    assert_eq!(decode(&columns(), &json(ParseMode::DeadLetter), &[whole]).unwrap().bad, 0);
    for end in 0..whole.len() {
        let decoded = decode(&columns(), &json(ParseMode::DeadLetter), &[&whole.as_bytes()[..end]]).unwrap();
        assert_eq!(decoded.bad, 1, "{}", &whole[..end]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// One bad record never changes its neighbours, in any mode, for any projection.
    #[test]
    fn the_good_ones_are_what_they_are_alone(
        good in prop::collection::vec(payload(&columns()), 1..10),
        bad in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..10),
        projection in prop::sample::subsequence((0..6).collect::<Vec<usize>>(), 1..=6),
    ) {
        let hostile: Vec<_> = corpus().into_iter().filter(|(payload, _)| payload.len() < 1000).collect();
        let mut mixed: Vec<(&[u8], bool)> = good.iter().map(|payload| (payload.as_slice(), true)).collect();
        for (which, place) in &bad {
            mixed.insert(place.index(mixed.len() + 1), (&hostile[which.index(hostile.len())].0, false));
        }
        let payloads: Vec<&[u8]> = mixed.iter().map(|(payload, _)| *payload).collect();
        let mut alone = RecordDecoder::new(&columns(), &projection, &json(ParseMode::FailFast)).unwrap();
        alone.push(&records(&good)).unwrap();
        let expected = alone.flush().unwrap().rows;
        for mode in [ParseMode::DeadLetter, ParseMode::DropMalformed, ParseMode::Permissive] {
            let mut decoder = RecordDecoder::new(&columns(), &projection, &json(mode)).unwrap();
            decoder.push(&records(&payloads)).unwrap();
            let decoded = decoder.flush().unwrap();
            let dead = decoded.dead_letters.as_ref().map_or(0, RecordBatch::num_rows) as u64;
            prop_assert_eq!(dead, if mode == ParseMode::DeadLetter { decoded.bad } else { 0 });
            prop_assert_eq!(decoded.rows.num_rows() as u64 + decoded.bad, payloads.len() as u64);
            // A row's place: its record's, less the bad ones before it, which decode alone tells.
            let mut row = 0;
            let mut kept = Vec::new();
            for (payload, is_good) in &mixed {
                let mut single = RecordDecoder::new(&columns(), &projection, &json(mode)).unwrap();
                single.push(&records(&[payload])).unwrap();
                let rows = single.flush().unwrap().rows.num_rows();
                if *is_good {
                    prop_assert_eq!(rows, 1);
                    kept.push(row);
                }
                row += rows as u32;
            }
            let kept = arrow::array::UInt32Array::from(kept);
            prop_assert_eq!(arrow::compute::take_record_batch(&decoded.rows, &kept).unwrap(), expected.clone());
        }
    }

    #[test]
    fn no_bytes_make_it_panic(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..20)) {
        for mode in [ParseMode::DeadLetter, ParseMode::Permissive] {
            let decoded = decode(&columns(), &json(mode), &payloads).unwrap();
            prop_assert_eq!(decoded.rows.num_rows() as u64 + decoded.bad, payloads.len() as u64);
        }
    }
}
