//! CPU time and memory of this process and of its children, from /proc.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// What a whole process took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub cpu_s: f64,
    pub wall_s: f64,
    pub resident_mb: f64,
}

/// CPU seconds (user and system) of this process so far.
pub fn cpu_s() -> f64 {
    cpu_of("self").expect("/proc/self/stat")
}

fn cpu_of(pid: &str) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

fn resident_peak_mb(pid: &str) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}

/// Runs a command to its end and says what it took. A zombie keeps its CPU times until it is reaped, so they are
/// read then.
pub fn process(command: &mut Command) -> Usage {
    let start = Instant::now();
    let mut child = command.stdout(Stdio::null()).spawn().expect("the command starts");
    let pid = child.id().to_string();
    let mut usage = Usage::default();
    loop {
        usage.resident_mb = resident_peak_mb(&pid).unwrap_or(usage.resident_mb).max(usage.resident_mb);
        usage.cpu_s = cpu_of(&pid).unwrap_or(usage.cpu_s);
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if state.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z')) {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    usage.wall_s = start.elapsed().as_secs_f64();
    let status = child.wait().expect("the command ends");
    assert!(status.success(), "{command:?} failed: {status}");
    usage
}

/// The value at `fraction` of the sorted values.
pub fn quantile(values: &mut [f64], fraction: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * fraction).round() as usize]
}
