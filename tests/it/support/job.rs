//! A job from the real Kafka to a store, run by the real binary.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, Output},
};

use tidemill::store::Store;

use super::{kafka, tidemill, unique};

/// One job file with its topic, its output and its checkpoint.
pub struct TestJob {
    pub directory: tempfile::TempDir,
    pub topic: String,
    /// URL of the data directory.
    pub output: String,
    pub file: PathBuf,
}

/// What a test changes in the job.
pub struct JobText<'a> {
    pub columns: &'a str,
    /// Further options of the Kafka table, each with a comma in front.
    pub source: &'a str,
    /// Options of the file table: `format = '...'` and others.
    pub sink: &'a str,
    pub select: &'a str,
}

impl Default for JobText<'_> {
    fn default() -> Self {
        Self {
            columns: "id BIGINT, price DOUBLE",
            source: "",
            sink: "format = 'csv'",
            select: "SELECT id, price FROM prices",
        }
    }
}

impl TestJob {
    /// `root`: a URL below which the output goes; `None` is a local directory.
    pub fn new(root: Option<&str>, text: &JobText<'_>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let topic = unique("job");
        let base = match root {
            Some(root) => format!("{root}/{topic}"),
            None => directory.path().join("out").display().to_string(),
        };
        let job = Self { file: directory.path().join("job.sql"), topic, output: format!("{base}/data"), directory };
        job.write(text);
        job
    }

    /// Writes the job file (again).
    pub fn write(&self, text: &JobText<'_>) {
        let JobText { columns, source, sink, select } = text;
        let sql = format!(
            "CREATE TABLE prices ({columns}) WITH (connector = 'kafka', 'kafka.bootstrap.servers' = '{}',\n  \
             subscribe = '{}', startingOffsets = 'earliest', format = 'json'{source});\n\
             CREATE TABLE stored WITH (connector = 'file', path = '{}', {sink},\n  checkpointLocation = '{}');\n\
             INSERT INTO stored {select};\n",
            kafka(),
            self.topic,
            self.output,
            self.checkpoint(),
        );
        std::fs::write(&self.file, sql).unwrap();
    }

    pub fn checkpoint(&self) -> String {
        self.output.replace("/data", "/checkpoint")
    }

    /// `tidemill stream JOB.sql --available-now ...`, ready to run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(tidemill());
        command.arg("stream").arg(&self.file).args(arguments);
        command
    }

    /// Reads what is there, and succeeds.
    pub fn run(&self) -> Output {
        let output = self.command(&["--available-now"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Fails, and says why.
    pub fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.command(arguments).output().unwrap();
        assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// `tidemill verify`: its answer.
    pub fn verify(&self) -> (bool, String) {
        let output = Command::new(tidemill()).arg("verify").arg(&self.file).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    pub async fn store(&self) -> Store {
        Store::open(&self.output).await.unwrap()
    }

    /// Every file that a reader of the plain directory sees, with its bytes.
    pub async fn files(&self) -> BTreeMap<String, Vec<u8>> {
        visible_files(&self.store().await).await
    }

    /// The lines of all visible text files, sorted: the multiset of output rows.
    pub async fn lines(&self) -> Vec<String> {
        sorted_lines(self.files().await.values())
    }

    /// The same by the sink's log instead of the directory.
    pub async fn logged_lines(&self) -> Vec<String> {
        let store = self.store().await;
        let log = tidemill::sink::spark_log::SparkLog::new(store.clone());
        let mut contents = Vec::new();
        for file in log.files().await.unwrap().unwrap_or_default() {
            contents.push(store.read(&file.path).await.unwrap().unwrap().to_vec());
        }
        sorted_lines(contents.iter())
    }
}

/// The files of which no part of the path starts with `.` or `_`.
pub async fn visible_files(store: &Store) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in store.list_all("").await.unwrap() {
        if !entry.path.split('/').any(|name| name.starts_with(['.', '_'])) {
            let bytes = store.read(&entry.path).await.unwrap().expect("a visible file does not vanish");
            files.insert(entry.path, bytes.to_vec());
        }
    }
    files
}

pub fn sorted_lines<'a>(contents: impl Iterator<Item = &'a Vec<u8>>) -> Vec<String> {
    let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).unwrap();
    let mut lines: Vec<String> =
        contents.flat_map(|c| text(c).lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    lines.sort();
    lines
}

/// Writes records without keys.
pub fn send(topic: &str, partition: i32, records: &[String]) {
    let records: Vec<_> = records.iter().map(|value| (None, Some(value.as_str()))).collect();
    super::kafka::produce(topic, partition, &records);
}

/// `{"id": 7, "price": 7.5}` for each id, and the CSV lines that they become, sorted.
pub fn prices(ids: std::ops::Range<u64>) -> (Vec<String>, Vec<String>) {
    let records = ids.clone().map(|id| format!("{{\"id\": {id}, \"price\": {id}.5}}")).collect();
    let mut lines: Vec<String> = ids.map(|id| format!("{id},{id}.5")).collect();
    lines.sort();
    (records, lines)
}
