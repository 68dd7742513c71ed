//! What the tests share: the services' addresses, the real binary, temporary names.

pub mod kafka;

use std::path::PathBuf;

pub mod job;
pub mod binance;

/// The address of the real Kafka broker.
pub fn kafka() -> String {
    service("TIDEMILL_TEST_KAFKA")
}

/// The URL of the real NameNode, `hdfs://127.0.0.1:port`.
pub fn hdfs() -> String {
    service("TIDEMILL_TEST_HDFS")
}

fn service(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: run the tests with scripts/test.sh"))
}

/// A name that no other test uses: for topics and directories.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}-{}", uuid::Uuid::new_v4().simple())
}

/// The real binary.
pub fn tidemill() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_tidemill"))
}

/// Sends a signal by name to a child.
pub fn signal(child: &std::process::Child, name: &str) {
    let status = std::process::Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(status.unwrap().success());
}
