//! `tidemill demo`: everything in one process, with no service at all.

use std::process::Command;

use crate::support::tidemill;

#[test]
fn shows_prices_files_ledger_query_and_model_and_leaves_a_directory_to_explore() {
    let parent = tempfile::tempdir().unwrap();
    let run =
        |arguments: &[&str]| Command::new(tidemill()).args(arguments).current_dir(parent.path()).output().unwrap();
    let output = run(&["demo", "--for", "14s", "--rate", "1000"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for part in [
        "page    http://127.0.0.1:",
        "buy ",
        "every record is accounted for",
        "| ticks |",
        "the value before",
        "forecasts came due",
        "look around",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let rows = run(&["query", "--format", "csv", "SELECT count(*) AS n FROM 'tidemill-demo/prices'"]);
    let rows: u64 = String::from_utf8_lossy(&rows.stdout).lines().last().unwrap().parse().unwrap();
    assert!(rows > 1000, "{rows}");
    let again = run(&["demo", "--for", "1s"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("is not empty"));
}
