//! The `tidemill` command: parse the arguments, run one command, turn its error into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    tune_malloc();
    tidemill::cli::main()
}

/// Makes glibc's allocator fit a pipeline of threads: what one thread allocates (messages, rows, encoded bytes) another
/// frees a moment later, again and again. `benches/README.md` has what this gains.
///
/// Where a call fails, memory is as glibc has it: correct, only larger or slower.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "glibc offers this as a C function only")]
fn tune_malloc() {
    /// By default each thread has an arena of its own, and free memory lies idle in all of them.
    const ARENAS_MAX: i32 = 2;
    /// Fetched and encoded chunks stay below this. Larger blocks are mapped, and so cleared by the kernel, each time.
    const MAPPED_BYTES_MIN: i32 = 32 << 20;
    /// Free memory at an arena's end that is kept. The default gives back, and takes again, with every few messages.
    const IDLE_BYTES_MAX: i32 = 8 << 20;
    /// An arena grows by at least this much.
    const GROWTH_BYTES: i32 = 1 << 20;
    let settings = [
        (libc::M_ARENA_MAX, ARENAS_MAX),
        (libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN),
        (libc::M_TRIM_THRESHOLD, IDLE_BYTES_MAX),
        (libc::M_TOP_PAD, GROWTH_BYTES),
    ];
    for (parameter, value) in settings {
        // SAFETY: a call with two numbers, before there is a second thread.
        unsafe { libc::mallopt(parameter, value) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn tune_malloc() {}
