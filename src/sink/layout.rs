//! Names of files and partition directories, as Spark gives them.

use uuid::Uuid;

/// Where null and the empty string go.
const DEFAULT_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";

/// `part-00000-<uuid>-c000.csv`, or `part-00000-<uuid>.c000.csv` below a partition directory. `roll` counts the
/// files that `maxRecordsPerFile` cut.
pub(crate) fn file_name(partitioned: bool, roll: u32, extension: &str) -> String {
    let uuid = Uuid::new_v4();
    let separator = if partitioned { '.' } else { '-' };
    format!("part-00000-{uuid}{separator}c{roll:03}{extension}")
}

/// `column=value` for a directory; `None` is null.
pub(crate) fn directory(column: &str, value: Option<&str>) -> String {
    let mut name = String::with_capacity(column.len() + 24);
    escape(&mut name, column);
    name.push('=');
    match value {
        None | Some("") => name.push_str(DEFAULT_PARTITION),
        Some(value) => escape(&mut name, value),
    }
    name
}

/// Hive's escaping: what file systems and shells trip over becomes `%XX`. A `/` is among it, and the name has a `=`
/// in it, so no value leaves its directory.
fn escape(out: &mut String, text: &str) {
    for letter in text.chars() {
        let special = matches!(letter, '\u{1}'..='\u{1f}' | '\u{7f}' | '"' | '#' | '%' | '\'' | '*' | '/' | ':' | '=')
            || matches!(letter, '?' | '\\' | '{' | '[' | ']' | '^')
            // Spark lets NUL through and then fails; escaped, the value is at least kept.
            || letter == '\0';
        if special {
            let code = u32::from(letter);
            out.push('%');
            out.extend(
                [code / 16, code % 16]
                    .iter()
                    .filter_map(|digit| char::from_digit(*digit, 16))
                    .map(|c| c.to_ascii_uppercase()),
            );
        } else {
            out.push(letter);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names() {
        let name = file_name(false, 0, ".csv");
        assert_eq!((name.len(), &name[..11], &name[47..]), (56, "part-00000-", "-c000.csv"));
        let name = file_name(true, 12, ".snappy.parquet");
        assert_eq!(&name[47..], ".c012.snappy.parquet");
        assert_ne!(file_name(true, 0, ""), file_name(true, 0, ""));
    }

    #[test]
    fn escapes_as_spark_does() {
        for (value, text) in [
            ("x/y", "x%2Fy"),
            ("c:d", "c%3Ad"),
            ("{c}", "%7Bc}"),
            ("a\nb", "a%0Ab"),
            ("%41", "%2541"),
            ("a=b", "a%3Db"),
            ("a b,c;d&e+f<g>h|i~j.k}l", "a b,c;d&e+f<g>h|i~j.k}l"),
            ("\u{e9}", "\u{e9}"),
            ("\u{7f}\"#'*?\\[]^", "%7F%22%23%27%2A%3F%5C%5B%5D%5E"),
        ] {
            assert_eq!(directory("p", Some(value)), format!("p={text}"));
        }
        assert_eq!(directory("a/b", Some("1")), "a%2Fb=1");
        assert_eq!(directory("p", None), "p=__HIVE_DEFAULT_PARTITION__");
        assert_eq!(directory("p", Some("")), "p=__HIVE_DEFAULT_PARTITION__");
    }

    proptest! {
        #[test]
        fn a_value_never_leaves_its_directory(column in ".*", value in ".*") {
            let name = directory(&column, Some(&value));
            prop_assert!(!name.contains(['/', '\\', '\0']));
            prop_assert!(name != "." && name != "..");
            prop_assert!(name.contains('='));
        }
    }
}
