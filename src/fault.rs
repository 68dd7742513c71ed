//! Named points at which the tests kill the process, as `kill -9` would: no destructor runs, nothing is flushed.
//!
//! `TIDEMILL_CRASH=prepared:3` kills at the point `prepared` of batch 3. Only builds with debug assertions look
//! at the variable; a release build has no such code.

/// Dies here if the environment asks for it.
#[cfg(debug_assertions)]
pub fn crash_point(name: &str, batch: u64) {
    let wanted = std::env::var("TIDEMILL_CRASH").unwrap_or_default();
    if wanted == format!("{name}:{batch}") {
        let pid = std::process::id().to_string();
        // A real SIGKILL rather than an abort: the kernel gives the process no last word.
        let killed = std::process::Command::new("kill").args(["-9", &pid]).status();
        unreachable!("survived kill -9 at {wanted}: {killed:?}");
    }
}

/// Nothing, in a release build.
#[cfg(not(debug_assertions))]
pub fn crash_point(_name: &str, _batch: u64) {}
