//! The live page of a job on the real Kafka: over HTTP, and in a real browser.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use futures::StreamExt;
use reqwest::{Client, StatusCode, header, redirect::Policy};
use serde_json::Value;

use crate::support::{
    job::{JobText, TestJob, prices, send},
    signal, tidemill,
};

const TOKEN: &str = "not-to-be-seen-anywhere-7f3a";
const PATIENCE: Duration = Duration::from_secs(60);

/// A job that runs, with its page.
struct Running {
    child: Child,
    url: String,
    log: tempfile::NamedTempFile,
}

impl Running {
    /// Waits until the page is there.
    fn start(mut command: Command) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let stderr = log.reopen().unwrap();
        let mut child = command.stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        let started = Instant::now();
        loop {
            let text = fs::read_to_string(log.path()).unwrap();
            if let Some(url) = text.lines().find_map(|line| line.strip_prefix("page: ")) {
                return Self { child, url: url.to_owned(), log };
            }
            assert!(child.try_wait().unwrap().is_none() && started.elapsed() < PATIENCE, "no page: {text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn of(job: &TestJob, address: &str) -> Self {
        Self::start(job.command(&["--ui", address]))
    }

    async fn state(&self) -> Value {
        let text = reqwest::get(format!("{}/api/state", self.url)).await.unwrap().text().await.unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// The state when `query` has consumed so many records.
    async fn when_read(&self, query: &str, records: u64) -> Value {
        let started = Instant::now();
        loop {
            let state = self.state().await;
            if state["queries"][query]["totals"]["consumed"] == records {
                return state;
            }
            assert!(started.elapsed() < PATIENCE, "{state}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn says_what_the_job_has_done_and_the_rows_that_it_wrote() {
    let job = TestJob::new(None, &JobText::default());
    let (records, _) = prices(0..500);
    send(&job.topic, 0, &records);
    send(&job.topic, 0, &["no JSON".to_owned()]);
    let running = Running::of(&job, "0");
    let state = running.when_read("job.stored", 501).await;
    let query = &state["queries"]["job.stored"];
    let totals = &query["totals"];
    assert_eq!((&totals["written"], &totals["bad"], &query["state"]), (&500.into(), &1.into(), &"running".into()));
    assert_eq!(query["equation"], "consumed 501 = written 500 + filtered 0 + bad 1");
    assert_eq!(query["progress"]["ledger"]["total"]["consumed"], 501);
    assert_eq!(query["columns"], serde_json::json!([["id", "number"], ["price", "number"]]));
    let rows = query["rows"].as_array().unwrap();
    assert!((33..=65).contains(&rows.len()), "{}", rows.len());
    assert_eq!((&rows[0], rows.last().unwrap()), (&serde_json::json!([0, 0.5]), &serde_json::json!([499, 499.5])));
    // A job that goes on where it stopped says what it has done, before there is a batch.
    drop(running);
    let running = Running::of(&job, "127.0.0.1:0");
    let state = running.when_read("job.stored", 501).await;
    assert_eq!(state["queries"]["job.stored"]["progress"], Value::Null, "{state}");
}

/// What is new comes as server-sent events: first all, then what was not told yet; at the end, that it has ended.
#[tokio::test(flavor = "multi_thread")]
async fn news_come_as_events_until_the_end() {
    let job = TestJob::new(None, &JobText::default());
    send(&job.topic, 0, &prices(0..10).0);
    let mut running = Running::of(&job, "0");
    running.when_read("job.stored", 10).await;
    let answer = reqwest::get(format!("{}/api/events", running.url)).await.unwrap();
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut events = Events { bytes: Box::pin(answer.bytes_stream()), text: String::new() };
    let first = events.next().await.unwrap();
    assert_eq!((&first["reset"], first["queries"]["job.stored"]["rows"].as_array().unwrap().len()), (&true.into(), 10));
    send(&job.topic, 0, &prices(10..12).0);
    let (mut ids, mut last) = (Vec::new(), Value::Null);
    while ids.len() < 2 {
        last = events.next().await.unwrap();
        let query = &last["queries"]["job.stored"];
        ids.extend(query["rows"].as_array().unwrap().iter().map(|row| row[0].as_u64().unwrap()));
    }
    assert_eq!((ids, &last["reset"]), (vec![10, 11], &false.into()));
    signal(&running.child, "TERM");
    let mut newest = Value::Null;
    while let Some(event) = events.next().await {
        newest = event;
    }
    assert_eq!(newest["queries"]["job.stored"]["state"], "ended", "{newest}");
    assert!(running.child.wait().unwrap().success());
}

struct Events {
    bytes: std::pin::Pin<Box<dyn futures::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    text: String,
}

impl Events {
    /// `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let data = event.strip_prefix("data: ").map(|json| serde_json::from_str(json).unwrap());
                self.text = rest.to_owned();
                match data {
                    Some(data) => return Some(data),
                    // It only keeps the connection alive.
                    None => continue,
                }
            }
            let bytes = tokio::time::timeout(PATIENCE, self.bytes.next()).await.expect("no event")?.unwrap();
            self.text += std::str::from_utf8(&bytes).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_this_machine_only_and_nothing_but_the_page() {
    let job = TestJob::new(None, &JobText::default());
    send(&job.topic, 0, &prices(0..1).0);
    let running = Running::of(&job, "0");
    let client = Client::new();
    let get = |path: &str| client.get(format!("{}{path}", running.url));
    let answer = get("/").send().await.unwrap();
    let policy = answer.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
    assert_eq!(answer.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store");
    // A page of somebody else's, whose name was made to lead here.
    for host in ["evil.example", "evil.example:4040", "192.168.0.1"] {
        for path in ["/", "/api/state", "/api/events", "/assets/page.js"] {
            let answer = get(path).header(header::HOST, host).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{host}{path}");
        }
    }
    for path in ["/nothing", "/assets/nothing", "/assets/..%2f..%2fmod.rs", "/assets/%2e%2e/login.html", "/api"] {
        assert_eq!(get(path).send().await.unwrap().status(), StatusCode::NOT_FOUND, "{path}");
    }
    let answer = client.post(format!("{}/api/state", running.url)).body("x").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    let answer = client.post(format!("{}/login", running.url)).body("x".repeat(1 << 20)).send().await;
    assert!(!answer.is_ok_and(|answer| answer.status().is_success()));
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_this_machine_it_needs_a_token_that_is_seen_nowhere() {
    let job = TestJob::new(None, &JobText::default());
    send(&job.topic, 0, &prices(0..10).0);
    let (code, said) = job.fails(&["--ui", "0.0.0.0:0"]);
    assert!(code == 2 && said.contains("has no token") && said.contains("TIDEMILL_UI_TOKEN"), "{code}: {said}");
    assert!(!Path::new(&job.output).exists(), "a start that was refused writes nothing");
    let output = job.command(&["--ui", "0.0.0.0:0"]).env("TIDEMILL_UI_TOKEN", "short-7f3a").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("shorter than 16 characters") && !said.contains("short-7f3a"), "{said}");

    let log = job.directory.path().join("progress.jsonl");
    let mut command = job.command(&["--ui", "0.0.0.0:0", "--progress-log"]);
    command.arg(&log).env("TIDEMILL_UI_TOKEN", TOKEN).env("TIDEMILL_LOG", "debug");
    let running = Running::start(command);
    let url = running.url.replace("0.0.0.0", "127.0.0.1");
    let client = Client::builder().redirect(Policy::none()).build().unwrap();
    for path in ["/", "/api/state", "/api/events", "/assets/page.js", "/nothing"] {
        let answer = client.get(format!("{url}{path}")).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{path}");
        let wrong = client.get(format!("{url}{path}")).bearer_auth(format!("{TOKEN}x")).send().await.unwrap();
        assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
    let asked = client.get(format!("{url}/api/state")).bearer_auth(TOKEN).send().await.unwrap();
    assert_eq!(asked.status(), StatusCode::OK);
    let state = asked.text().await.unwrap();
    let login = |token: &str| client.post(format!("{url}/login")).form(&[("token", token)]).send();
    let wrong = login("wrong").await.unwrap();
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    assert!(wrong.text().await.unwrap().contains("That is not the token"));
    let right = login(TOKEN).await.unwrap();
    assert_eq!(right.status(), StatusCode::SEE_OTHER);
    let cookie = right.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
    let pair = cookie.split(';').next().unwrap();
    let answer = client.get(format!("{url}/")).header(header::COOKIE, pair).send().await.unwrap();
    assert!(answer.status() == StatusCode::OK && answer.text().await.unwrap().contains("id=\"queries\""));
    let said = fs::read_to_string(running.log.path()).unwrap();
    assert!(said.contains("DEBUG") && !said.contains(TOKEN), "{said}");
    let written = [log.display().to_string(), job.checkpoint(), job.output.clone()];
    let found = Command::new("grep").arg("-rl").arg(TOKEN).args(written).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    assert!(!state.contains(TOKEN) && !cookie.contains(TOKEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_are_bounded_and_a_taken_port_is_refused() {
    let job = TestJob::new(None, &JobText::default());
    send(&job.topic, 0, &prices(0..10).0);
    let running = Running::of(&job, "0");
    running.when_read("job.stored", 10).await;
    let mut open = Vec::new();
    let refused = loop {
        // None of them ever reads.
        let answer = reqwest::get(format!("{}/api/events", running.url)).await.unwrap();
        match answer.status() {
            StatusCode::OK => open.push(answer),
            status => break (status, answer.text().await.unwrap()),
        }
        assert!(open.len() < 100);
    };
    assert!(refused.0 == StatusCode::SERVICE_UNAVAILABLE && refused.1.contains("close one"), "{refused:?}");
    send(&job.topic, 0, &prices(10..5_000).0);
    running.when_read("job.stored", 5_000).await;
    drop(open);

    let other = TestJob::new(None, &JobText::default());
    let (code, said) = other.fails(&["--ui", running.url.trim_start_matches("http://")]);
    assert!(code == 2 && said.contains("cannot be opened at 127.0.0.1:") && said.contains("--ui"), "{code}: {said}");
    let (code, said) = other.fails(&["--ui", "job.sql"]);
    assert!(code == 2 && said.contains("no address for the page") && said.contains("4040"), "{code}: {said}");
}

const FORECAST: &str = "SELECT window_end, close, prediction, forecast, prequential_skill
FROM ML_FORECAST((SELECT window_end, close, lag(close) OVER (ORDER BY window_end) AS before FROM (
    SELECT window_end, last_value(price ORDER BY ts) AS close FROM TUMBLE(prices, ts, INTERVAL '10 seconds')
    GROUP BY window_start, window_end)),
  MODEL ahead, DESCRIPTOR(window_end), DESCRIPTOR(close, before))";

/// The job of the browser: a model that learns, and all records as they are, with a text that a page must not believe.
fn live_loop() -> TestJob {
    let columns = "id BIGINT, ts TIMESTAMP, price DOUBLE, WATERMARK FOR ts AS ts - INTERVAL '5' SECOND";
    let source = ", maxOffsetsPerTrigger = '100'";
    let job = TestJob::new(None, &JobText { columns, source, select: FORECAST, ..JobText::default() });
    let directory = job.directory.path().display();
    let more = format!(
        "CREATE MODEL ahead WITH ('target' = 'close', 'horizon' = '10 seconds', 'retrain' = '10 minutes',
           'holdout' = '60 rows', 'minRows' = 60, 'path' = '{directory}/models');
         CREATE TABLE raw WITH (connector = 'file', path = '{directory}/raw', format = 'parquet',
           checkpointLocation = '{directory}/raw_checkpoint');
         INSERT INTO raw SELECT id, ts, price, '<img src=x onerror=alert(1)>' AS note FROM prices;\n"
    );
    fs::write(&job.file, fs::read_to_string(&job.file).unwrap() + &more).unwrap();
    job
}

/// A price every ten seconds that comes back to 100.
fn returning(ids: std::ops::Range<usize>) -> Vec<String> {
    let record = |id: usize| {
        let price = 100.0 + 8.0 * (id as f64 / 6.0).sin() + (id * 7919 % 13) as f64 / 13.0;
        let (second, minute, hour) = (id * 10 % 60, id / 6 % 60, id / 360);
        format!(r#"{{"id":{id},"ts":"2024-01-01T{hour:02}:{minute:02}:{second:02}","price":{price:.4}}}"#)
    };
    ids.map(record).collect()
}

/// The browser, which says what it sees.
struct Browser {
    child: Child,
    said: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Browser {
    fn open(url: &str) -> Self {
        for variable in ["TIDEMILL_TEST_CHROMIUM", "TIDEMILL_TEST_PLAYWRIGHT"] {
            assert!(std::env::var(variable).is_ok(), "{variable} is not set: run the tests with scripts/test.sh");
        }
        let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
        fs::create_dir_all(&pictures).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page/look.mjs");
        let mut command = Command::new("node");
        command.arg(script).arg(url).arg(pictures).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("Node.js is missing: run the tests with scripts/test.sh");
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, said }
    }

    fn tell(&mut self, command: &str) -> Value {
        writeln!(self.child.stdin.as_mut().unwrap(), "{command}").unwrap();
        let line = self.said.next().expect("the browser has ended").unwrap();
        let seen: Value = serde_json::from_str(&line).unwrap();
        assert!(seen["step"] != "failure", "{command}: {line}");
        seen
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// In a real browser: what the page shows is what the job did, a `kill -9` is seen, and so is the job that goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_the_live_loop_through_a_kill() {
    let job = live_loop();
    send(&job.topic, 0, &returning(0..400));
    let running = Running::of(&job, "0");
    let address = running.url.trim_start_matches("http://").to_owned();
    let mut browser = Browser::open(&running.url);
    let seen = browser.tell("read 400 before");
    let versions = |seen: &Value| {
        let serves = seen["forecast"]["serves"].as_str().unwrap();
        serves.strip_prefix("version ").unwrap_or_else(|| panic!("{seen}")).parse::<u32>().unwrap()
    };
    assert!(versions(&seen) > 0);
    assert_eq!(seen["title"], "job - Tidemill");
    assert_eq!(seen["cells"][3], "<img src=x onerror=alert(1)>", "{seen}");
    assert_eq!((&seen["images"], seen["complaints"].as_array().unwrap().len()), (&0.into(), 0), "{seen}");
    let asked: Vec<&str> = seen["asked"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(asked.iter().all(|it| *it == running.url || *it == "data:"), "nothing comes from elsewhere: {asked:?}");
    // The rows of both queries, and the two of the forecast; those of speed when there are seconds enough.
    assert!(seen["charts"].as_u64().unwrap() >= 4 && seen["drawn"].as_u64().unwrap() > 5, "{seen}");
    let log: Vec<&str> = seen["log"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(log.iter().any(|line| line.contains("promoted as version 1")), "{log:?}");
    assert!(seen["forecast"]["skill"].as_str().unwrap().parse::<f64>().unwrap() > 0.0, "{seen}");

    drop(running);
    assert!(browser.tell("killed")["text"].as_str().unwrap().contains("connection lost"));
    send(&job.topic, 0, &returning(400..500));
    let mut running = Running::of(&job, &address);
    let seen = browser.tell("read 500 after");
    assert!(versions(&seen) > 0);
    let state = running.when_read("job.stored", 500).await;
    // What the page says is what the ledger says.
    let totals = &state["queries"]["job.stored"]["totals"];
    let written = totals["written"].as_u64().unwrap() + totals["folded"].as_u64().unwrap();
    let in_state = state["queries"]["job.stored"]["inState"].as_u64().unwrap();
    let folded = totals["folded"].as_u64().unwrap();
    let expected: Vec<String> = [("written", written - folded), ("folded", folded), ("in state", in_state)]
        .into_iter()
        .filter(|(_, rows)| *rows > 0)
        .map(|(name, rows)| format!("{name} {rows}"))
        .collect();
    assert_eq!(seen["ledger"], serde_json::json!(expected), "{seen}");
    assert_eq!(written + in_state, 500);
    signal(&running.child, "TERM");
    assert!(browser.tell("stopped")["text"].as_str().unwrap().contains("the job has ended"));
    assert!(running.child.wait().unwrap().success());
    let verified = Command::new(tidemill()).arg("verify").arg(&job.file).status().unwrap();
    assert!(verified.success());
}
