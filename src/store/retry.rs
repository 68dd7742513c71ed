//! How long a store waits, and how often it tries again.

use std::time::Duration;

use super::STORE_TIMEOUT;
use crate::{
    clock::{self, Stopwatch},
    error::{Error, ErrorKind, Result},
};

/// How often a call that failed as `Unavailable` is made in all.
pub const TRIES_MAX: u32 = 5;

/// The pause after the first failure; it doubles with each, and varies by up to a half so that many clients spread.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(250);

/// What a store may wait for. The default is `STORE_TIMEOUT` and `TRIES_MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreTimeouts {
    /// One remote call. No further try starts when this much time has passed since the first, so that a server
    /// that never answers costs one wait and not five.
    pub call: Duration,
    /// How often a failed call is made in all, at least once.
    pub tries: u32,
}

impl Default for StoreTimeouts {
    fn default() -> Self {
        Self { call: STORE_TIMEOUT, tries: TRIES_MAX }
    }
}

/// Makes the call until it succeeds, fails for good, or the limits are reached.
pub(super) async fn retrying<T, F>(limits: StoreTimeouts, mut call: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let watch = Stopwatch::start();
    let mut pause = BACKOFF_FIRST;
    for tried in 1.. {
        let error = match call().await {
            Err(error) if error.kind() == ErrorKind::Unavailable => error,
            other => return other,
        };
        if tried >= limits.tries || watch.elapsed() + pause >= limits.call {
            return Err(error);
        }
        tracing::debug!("trying again in {pause:?}: {}", error.message());
        clock::sleep(pause.mul_f64(1.0 - rand::random::<f64>() / 2.0)).await;
        pause *= 2;
    }
    Err(Error::internal("a call was made no time at all"))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    async fn failing(kind: ErrorKind, failures: u32, limits: StoreTimeouts) -> (u32, Result<u32>) {
        let calls = Cell::new(0);
        let result = retrying(limits, || {
            calls.set(calls.get() + 1);
            let call = calls.get();
            async move { if call > failures { Ok(call) } else { Err(Error::new(kind, "no")) } }
        })
        .await;
        (calls.get(), result)
    }

    #[tokio::test]
    async fn tries_again_while_the_service_is_away() {
        let limits = StoreTimeouts { call: Duration::from_secs(20), tries: 3 };
        assert_eq!(failing(ErrorKind::Unavailable, 2, limits).await.1.unwrap(), 3);
        let (calls, result) = failing(ErrorKind::Unavailable, 9, limits).await;
        assert_eq!((calls, result.unwrap_err().kind()), (3, ErrorKind::Unavailable));
        assert_eq!(failing(ErrorKind::PermissionDenied, 9, limits).await.0, 1);
        let hasty = StoreTimeouts { call: Duration::from_millis(100), tries: 9 };
        assert_eq!(failing(ErrorKind::Unavailable, 9, hasty).await.0, 1);
    }
}
