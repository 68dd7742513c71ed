//! Ctrl-C and SIGTERM: the first asks for a clean stop, the second does not wait.

use tokio_util::sync::CancellationToken;

/// Cancels `stop` at the first signal; exits with 130 at the second. What was not committed is done again at the
/// next start.
pub fn cancel_on_signal(stop: CancellationToken) {
    tokio::spawn(async move {
        if let Err(error) = signal().await {
            tracing::warn!(%error, "signals cannot be caught: Ctrl-C kills");
            return;
        }
        eprintln!("stopping after this batch (once more: at once)");
        stop.cancel();
        if signal().await.is_ok() {
            std::process::exit(130);
        }
    });
}

async fn signal() -> std::io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result,
        _ = terminate.recv() => Ok(()),
    }
}
