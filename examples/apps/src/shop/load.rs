//! A steady load on the front, so that there is something to see; prints nothing but errors.

use super::client::{Good, Upstream, UpstreamError};
use crate::complaints::Complaints;
use crate::server::GRACE;
use crate::{AppError, Shutdown};
use clap::Args;
use http::{HeaderMap, HeaderValue};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// How much load, and of which users.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Options {
    /// Requests per second
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rate: u32,
    /// Percentage of the requests that carry the header `end-user: beta-tester`
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(crate) beta_percent: u32,
    /// Requests in flight at most; beyond that, requests are left out
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) concurrency: u32,
    /// End after so many good answers
    #[arg(long)]
    pub(crate) count: Option<u64>,
}

/// Sends requests to the front at `url` until the end is told, or the count of good answers is reached.
pub(crate) async fn run(url: &str, options: Options, mut shutdown: Shutdown) -> Result<(), AppError> {
    let Options { rate, beta_percent, concurrency, count } = options;
    let front = Upstream::new("front", url);
    let mut complaints = Complaints::new("load");
    let mut in_flight: JoinSet<Result<Good, UpstreamError>> = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    // After a stall (a laptop that slept) there must be no burst.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut sent, mut good) = (0_u32, 0_u64);
    while count.is_none_or(|count| good < count) {
        // All three are cancel safe.
        tokio::select! {
            () = shutdown.told() => break,
            Some(joined) = in_flight.join_next() => if note(joined, &mut complaints) { good += 1 },
            _ = ticks.tick() => {
                if in_flight.len() >= limit(concurrency, &complaints) {
                    if complaints.started() {
                        complaints.failure(&format!("{concurrency} requests are waiting for front: one was left out"));
                    }
                    continue;
                }
                let front = front.clone();
                in_flight.spawn(async move {
                    front.get(&format!("/api/product/{}", sent % 4 + 1), user(sent, beta_percent)).await
                });
                sent = sent.wrapping_add(1);
            }
        }
    }
    let rest = async {
        while let Some(joined) = in_flight.join_next().await {
            note(joined, &mut complaints);
        }
    };
    // What is not answered by then is dropped with the set.
    let _ = tokio::time::timeout(GRACE, rest).await;
    Ok(())
}

/// One request at a time until the front is up.
fn limit(concurrency: u32, complaints: &Complaints) -> usize {
    if complaints.started() { usize::try_from(concurrency).unwrap_or(usize::MAX) } else { 1 }
}

/// Whether the request was answered well; what went wrong is said.
fn note(joined: Result<Result<Good, UpstreamError>, tokio::task::JoinError>, complaints: &mut Complaints) -> bool {
    match joined {
        Ok(Ok(_)) => {
            complaints.success();
            return true;
        }
        Ok(Err(error)) => complaints.failure(&error),
        Err(error) => complaints.failure(&error),
    }
    false
}

/// Spreads the beta testers evenly: request `n` is theirs when `n × percent / 100` passes a whole number.
fn user(n: u32, beta_percent: u32) -> HeaderMap {
    let n = u64::from(n) * u64::from(beta_percent);
    let mut headers = HeaderMap::new();
    if n / 100 < (n + u64::from(beta_percent)) / 100 {
        headers.insert("end-user", HeaderValue::from_static("beta-tester"));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beta_testers_are_as_many_as_asked() {
        for percent in [0, 1, 10, 33, 100] {
            let beta = (0..1000).filter(|n| !user(*n, percent).is_empty()).count();
            assert_eq!(beta, usize::try_from(percent).unwrap() * 10);
        }
    }
}
