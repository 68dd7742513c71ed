use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;

fn offsets(text: &str) -> Offsets {
    text.parse().unwrap()
}

#[test]
fn reads_and_writes_sparks_text() {
    let text = r#"{"a.b-c_d":{"0":12,"2":0,"10":7},"t":{"0":9223372036854775807}}"#;
    assert_eq!(offsets(text).to_string(), text);
    assert_eq!(offsets("{\"t\" : {\"1\":3, \"0\":2}}\n").to_string(), r#"{"t":{"0":2,"1":3}}"#);
    for bad in ["", "{", "[]", r#"{"t":{"x":1}}"#, r#"{"t":{"0":-1}}"#, r#"{"t":{"0":1.5}}"#, r#"{"t":[1]}"#, "{} x"] {
        assert_eq!(bad.parse::<Offsets>().unwrap_err().kind(), ErrorKind::Corrupt, "{bad}");
    }
}

#[test]
fn ranges_skip_what_is_read_and_start_new_partitions_at_zero() {
    let start = offsets(r#"{"t":{"0":5,"1":9,"2":4}}"#);
    let end = offsets(r#"{"t":{"0":8,"1":9,"2":3,"3":2}}"#);
    let shown: Vec<String> = start.ranges(&end).iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["t-0 [5, 8)", "t-3 [0, 2)"]);
    assert_eq!(start.count_to(&end), 5);
    assert_eq!(start.behind(&end), [3, 0, 0, 2]);
}

#[test]
fn the_limit_is_shared_as_spark_shares_it() {
    let start = offsets(r#"{"t":{"0":0,"1":100,"2":7}}"#);
    let end = offsets(r#"{"t":{"0":900,"1":190,"2":17}}"#);
    // 1000 offsets wait. 99 of them: 89.1, 8.91 and 0.99, which is rounded up.
    assert_eq!(start.limited(&end, 99), offsets(r#"{"t":{"0":89,"1":108,"2":8}}"#));
    assert_eq!(start.limited(&end, 1000), end);
    assert_eq!(start.limited(&end, u64::MAX), end);
}

#[test]
fn a_batch_waits_for_enough_but_not_for_ever() {
    let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
    assert!(!enough(0, None, None, minute));
    assert!(enough(1, None, Some(second), minute));
    assert!(!enough(9, Some(10), Some(second), minute));
    assert!(enough(10, Some(10), Some(second), minute));
    assert!(enough(9, Some(10), Some(minute), minute));
    assert!(enough(9, Some(10), None, minute), "the first trigger runs");
}

#[test]
fn each_kind_of_loss_has_a_sentence_and_a_place_to_go_on() {
    let from = offsets(r#"{"gone":{"0":4},"t":{"0":5,"1":5,"2":5}}"#);
    let earliest = offsets(r#"{"t":{"0":5,"1":8,"2":0,"3":0,"4":6}}"#);
    let latest = offsets(r#"{"t":{"0":9,"1":9,"2":3,"3":1,"4":9}}"#);
    let losses = data_loss(&from, &earliest, &latest);
    let said: Vec<&str> = losses.iter().map(|loss| loss.sentence.as_str()).collect();
    assert_eq!(said.len(), 4, "{said:?}");
    assert!(said[0].contains("gone-0 is gone"));
    assert!(said[1].contains("t-1 lost offsets 5 to 8"));
    assert!(said[2].contains("t-2 ends at offset 3, but we had read up to 5"));
    assert!(said[3].contains("new partition t-4 starts at offset 6"));
    let resumed = resume(&from, &earliest, &losses);
    assert_eq!(resumed.to_string(), r#"{"t":{"0":5,"1":8,"2":0,"3":0,"4":6}}"#);
    assert_eq!(data_loss(&resumed, &earliest, &latest), []);
}

#[test]
fn a_new_query_has_lost_nothing() {
    let cluster = offsets(r#"{"t":{"0":7}}"#);
    assert_eq!(data_loss(&Offsets::default(), &cluster, &cluster), []);
}

fn any_offsets() -> impl Strategy<Value = Offsets> {
    let partitions = proptest::collection::btree_map(0..12_i32, 0..1_000_000_i64, 1..6);
    proptest::collection::btree_map("[a-c\"\\\\]{1,2}", partitions, 0..4).prop_map(Offsets)
}

proptest! {
    #[test]
    fn text_round_trips(offsets in any_offsets()) {
        prop_assert_eq!(&offsets.to_string().parse::<Offsets>().unwrap(), &offsets);
        prop_assert!(!offsets.to_string().contains(' '));
    }

    #[test]
    fn repeated_limits_reach_the_end_without_skipping(start in any_offsets(), end in any_offsets(), limit in 1..5000_u64) {
        let end = { let mut both = start.clone(); for (t, p, o) in end.iter() { both.set(t, p, o.max(start.get(t, p).unwrap_or(0))); } both };
        let total = start.count_to(&end);
        let step = start.limited(&end, limit);
        let taken = start.count_to(&step);
        prop_assert_eq!(taken + step.count_to(&end), total);
        prop_assert!(total == 0 || taken > 0, "always some progress");
        prop_assert!(taken <= limit + end.partition_count() as u64);
        for (topic, partition, offset) in step.iter() {
            prop_assert!(offset <= end.get(topic, partition).unwrap());
            prop_assert!(offset >= start.get(topic, partition).unwrap_or(0));
        }
    }

    #[test]
    fn after_resuming_nothing_more_is_lost(from in any_offsets(), earliest in any_offsets(), extra in 0..1000_i64) {
        let mut latest = earliest.clone();
        latest.0.values_mut().flat_map(|m| m.values_mut()).for_each(|o| *o += extra);
        let losses = data_loss(&from, &earliest, &latest);
        let resumed = resume(&from, &earliest, &losses);
        prop_assert_eq!(data_loss(&resumed, &earliest, &latest), vec![]);
        prop_assert_eq!(resumed.partition_count(), earliest.partition_count());
    }
}
