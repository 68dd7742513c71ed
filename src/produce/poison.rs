//! Payloads that are no record.
//!
//! None of them is a JSON object, whatever columns a reader asks for: so the number of them that was sent is the number
//! that a reader must have refused. None has a line break, so that they also survive as lines of a file.

/// How many kinds there are.
pub const KINDS: usize = 12;

/// Makes `value`, a good record, into the poison of this kind.
pub fn spoil(kind: usize, value: &mut Vec<u8>) {
    let middle = value.len() / 2;
    match kind % KINDS {
        // Cut off, as by a full buffer.
        0 => value.truncate(middle),
        // Its last brace is lost.
        1 => value.truncate(value.len().saturating_sub(1)),
        // Bytes that are no UTF-8, within the timestamp's text.
        2 => value.splice(15..15, [0xC3, 0x28, 0xFF]).for_each(drop),
        // Another encoding: UTF-16.
        3 => *value = value.iter().flat_map(|byte| [*byte, 0]).collect(),
        4 => replace(value, b"this is not json"),
        5 => value.clear(),
        // A list, not an object.
        6 => {
            value.insert(0, b'[');
            value.push(b']');
        }
        // Something after the end.
        7 => value.extend_from_slice(b" trailing"),
        // Python's NaN, which JSON does not have.
        8 => replace(value, br#"{"timestamp": "2026-01-01T00:00:00", "buy_price": NaN}"#),
        // Single quotes, as from a printed dictionary.
        9 => value.iter_mut().filter(|byte| **byte == b'"').for_each(|byte| *byte = b'\''),
        // A NUL at the front.
        10 => value.insert(0, 0),
        // Deeper than any stack likes, and never closed.
        _ => {
            replace(value, br#"{"timestamp": "#);
            value.resize(value.len() + 4_000, b'[');
        }
    }
}

fn replace(value: &mut Vec<u8>, with: &[u8]) {
    value.clear();
    value.extend_from_slice(with);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_an_object_and_all_differ() {
        let good = br#"{"timestamp": "2026-01-01T00:00:00", "buy_price": 1.5}"#;
        let mut seen = std::collections::HashSet::new();
        for kind in 0..KINDS {
            let mut value = good.to_vec();
            spoil(kind, &mut value);
            let parsed = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&value);
            assert!(parsed.is_err(), "kind {kind}");
            assert!(!value.contains(&b'\n'), "kind {kind}");
            assert!(seen.insert(value), "kind {kind} repeats another");
        }
    }
}
