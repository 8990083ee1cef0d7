//! Conditions with a deadline, in place of sleeps.

use std::future::Future;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long a condition may take. Far more than anything here needs: a loaded machine must not fail a test, and a wrong answer is found
/// at once by the condition itself.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks.
const POLL: Duration = Duration::from_millis(5);

/// Looks until `probe` says what was waited for.
///
/// # Panics
/// After [`PATIENCE`], with the reason that `probe` gave last.
pub async fn until<T>(what: &str, probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    until_within(PATIENCE, what, probe).await
}

/// Looks until `probe` says what was waited for, for `patience` at most.
///
/// # Panics
/// After `patience`, with the reason that `probe` gave last.
pub async fn until_within<T>(patience: Duration, what: &str, mut probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        match probe().await {
            Ok(found) => return found,
            Err(reason) if Instant::now() >= deadline => panic!("waited {patience:?} for {what}: {reason}"),
            Err(_) => sleep(POLL).await,
        }
    }
}

/// Looks until a value has not changed for `looks` looks in a row: something has come to rest.
///
/// # Panics
/// After [`PATIENCE`], with the last value.
pub async fn until_steady<T: PartialEq + std::fmt::Debug>(what: &str, looks: usize, mut value: impl FnMut() -> T) -> T {
    let deadline = Instant::now() + PATIENCE;
    let (mut last, mut same) = (value(), 0);
    while same < looks {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what} to come to rest: {last:?}");
        sleep(POLL).await;
        let now = value();
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}

/// The output of a future that must not take longer than [`PATIENCE`].
///
/// # Panics
/// When it does.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
    }
}
