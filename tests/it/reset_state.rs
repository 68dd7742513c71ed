//! `--reset-state`: a query that its state does not fit any more goes on with an empty one, and every record is accounted
//! for.

use tidemill::store::Store;

use crate::support::job::{JobText, TestJob, send};

const COLUMNS: &str = "id BIGINT, ts TIMESTAMP, price DOUBLE, WATERMARK FOR ts AS ts - INTERVAL '5' SECOND";
const TEN: &str = "SELECT window_start, window_end, count(*) AS n FROM TUMBLE(prices, ts, INTERVAL '10 seconds') \
                   GROUP BY window_start, window_end";
const TWENTY: &str = "SELECT window_start, window_end, count(*) AS n FROM TUMBLE(prices, ts, INTERVAL '20 seconds') \
                      GROUP BY window_start, window_end";

fn text(select: &'static str) -> JobText<'static> {
    JobText { columns: COLUMNS, select, ..JobText::default() }
}

fn record(second: u32) -> String {
    format!(r#"{{"id":{second},"ts":"2024-01-01T00:00:{second:02}","price":1.0}}"#)
}

fn window(start: u32, end: u32, n: u32) -> String {
    format!("2024-01-01T00:00:{start:02}.000,2024-01-01T00:00:{end:02}.000,{n}")
}

/// What the query wrote before, and its text changed since: the window from 10 to 20 is open, with three rows.
async fn changed(root: Option<&str>) -> TestJob {
    let job = TestJob::new(root, &text(TEN));
    send(&job.topic, 0, &[1, 2, 11, 12, 16].map(record));
    job.run();
    assert_eq!(job.lines().await, [window(0, 10, 2)]);
    job.write(&text(TWENTY));
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_query_is_refused_until_its_state_is_given_up() {
    let job = changed(None).await;
    let (code, said) = job.fails(&["--available-now"]);
    assert!(
        code != 0 && said.contains("10 seconds") && said.contains("20 seconds") && said.contains("--reset-state"),
        "{said}"
    );
    let (_, said) = job.fails(&["--available-now", "--reset-state", "store"]);
    assert!(said.contains("no INSERT of the job") && said.contains("did you mean stored?"), "{said}");

    // The window from 0 to 20 has only what came after: 18 and 19.
    send(&job.topic, 0, &[18, 19, 45].map(record));
    let reset = ["--available-now", "--reset-state", "stored"];
    let output = job.command(&reset).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("+ reset 3"), "{said}");
    assert_eq!(job.lines().await, [window(0, 10, 2), window(0, 20, 2)]);
    let (ok, said) = job.verify();
    assert!(ok, "{said}");

    // From now on it is the query.
    send(&job.topic, 0, &[59].map(record));
    job.run();
    assert_eq!(job.lines().await, [window(0, 10, 2), window(0, 20, 2)]);
    let (_, said) = {
        job.write(&text(TEN));
        job.fails(&["--available-now"])
    };
    assert!(said.contains("--reset-state"), "{said}");
}

async fn killed_at_each_step(root: Option<&str>) {
    for step in ["opened", "offsets:2", "staged:2", "prepared:2", "published:2", "committed:2"] {
        let job = changed(root).await;
        send(&job.topic, 0, &[18, 19, 45].map(record));
        let arguments: &[&str] = &["--available-now", "--reset-state", "stored"];
        if step == "opened" {
            let mut child = job.command(&["--reset-state", "stored", "--trigger", "1 hour"]).spawn().unwrap();
            let checkpoint = Store::open(&job.checkpoint()).await.unwrap();
            for _ in 0..2000 {
                if checkpoint.read("queries/2").await.unwrap().is_some() {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            child.kill().unwrap();
            child.wait().unwrap();
        } else {
            let output = job.command(arguments).env("TIDEMILL_CRASH", step).output().unwrap();
            assert!(!output.status.success(), "{step}: {}", String::from_utf8_lossy(&output.stderr));
        }
        let (ok, said) = job.verify();
        assert!(ok, "{step}: {said}");
        job.run();
        assert_eq!(job.lines().await, [window(0, 10, 2), window(0, 20, 2)], "{step}");
        let (ok, said) = job.verify();
        assert!(ok, "{step}: {said}");
        let prepared = Store::open(&job.checkpoint()).await.unwrap();
        let newest = prepared.list("prepared").await.unwrap().into_iter().map(|entry| entry.path).max().unwrap();
        let text = String::from_utf8(prepared.read(&newest).await.unwrap().unwrap().to_vec()).unwrap();
        assert!(text.contains("\"reset\":3"), "{step}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_each_step_of_a_reset_on_a_local_disk() {
    killed_at_each_step(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_each_step_of_a_reset_on_hdfs() {
    killed_at_each_step(Some(&crate::support::hdfs())).await;
}
