//! The open loop: requests are sent when they are due, and a latency counts from then (no coordinated omission).

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{ERRORS_MAX, Event, Spec, Tally, say};
use crate::client::Client;
use crate::stats::{Arrivals, schedule};

/// Requests that may be due and not sent because every client is busy; one more is an error.
const BACKLOG_MAX: usize = 1 << 16;

/// How long answers are awaited after the last request was due.
const GRACE: Duration = Duration::from_secs(10);

/// What wakes the pacer late by default is the kernel's 50 µs timer slack; 1 µs, in nanoseconds.
const TIMER_SLACK_NS: &str = "1000";

/// Sends `rate` requests per second for `warm` and then `measure`.
pub(super) async fn fixed(spec: &Spec, arrivals: Arrivals, rate: u64, warm: Duration, measure: Duration) -> Result<()> {
    // Threads inherit the slack of the one that starts them. Without it all figures are some 50 µs higher, for all subjects alike.
    drop(std::fs::write("/proc/self/timerslack_ns", TIMER_SLACK_NS));
    let tally = Arc::new(Tally::measuring());
    let (due, requests) = mpsc::channel(BACKLOG_MAX);
    let requests = Arc::new(Mutex::new(requests));
    let clients = spec.connect().await?;
    let start = Instant::now() + Duration::from_millis(10);
    let measured_from = start + warm;
    let mut workers = JoinSet::new();
    for client in clients {
        let (requests, tally) = (Arc::clone(&requests), Arc::clone(&tally));
        workers.spawn(call_when_due(client, spec.clone(), measured_from, requests, tally));
    }
    drop(requests);
    let times = schedule(arrivals, rate, warm + measure);
    let in_time = times.iter().filter(|time| **time >= warm).count() as u64;
    let pacer_tally = Arc::clone(&tally);
    std::thread::spawn(move || pace(&times, start, &due, &pacer_tally));
    sleep_until(measured_from).await;
    say(&Event::Begin)?;
    sleep_until(measured_from + measure).await;
    let deadline = measured_from + measure + GRACE;
    while let Ok(Some(_)) = timeout_at(deadline, workers.join_next()).await {}
    let mut outcome = tally.outcome(measured_from, 0);
    // The measured time is what was asked for: late answers belong to the requests that were due in it.
    outcome.seconds = measure.as_secs_f64();
    let unanswered = in_time.saturating_sub(outcome.requests);
    outcome.errors = outcome.errors.max(unanswered);
    say(&Event::End(outcome))
}

/// Hands out the time at which each request is due, at that time. Ends when all are handed out or nobody takes them.
fn pace(times: &[Duration], start: Instant, due: &mpsc::Sender<Instant>, tally: &Tally) {
    for time in times {
        let at = start + *time;
        let wait = at.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
        match due.try_send(at) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                tally.fail(&anyhow!("{BACKLOG_MAX} requests wait: the rate is too high"));
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return,
        }
    }
}

/// Takes the next due request whenever the client is free; records those that were due at `measured_from` or later.
async fn call_when_due(
    mut client: Client,
    spec: Spec,
    measured_from: Instant,
    requests: Arc<Mutex<mpsc::Receiver<Instant>>>,
    tally: Arc<Tally>,
) {
    let mut errors = 0;
    while errors < ERRORS_MAX {
        let next = requests.lock().await.recv().await;
        let Some(due) = next else { return };
        match client.exchange().await {
            Ok(()) if due >= measured_from => tally.answer(due.elapsed()),
            Ok(()) => {}
            Err(error) => {
                tally.fail(&error);
                errors += 1;
                match Client::connect(spec.protocol, spec.address, None, &spec.call(), 1).await {
                    Ok(mut clients) => client = clients.remove(0),
                    Err(error) => return tally.fail(&error),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::tests::{origin, spec};

    #[tokio::test]
    async fn latency_counts_from_when_the_request_was_due() {
        let (addresses, server) = origin().await;
        let spec = spec(crate::client::Protocol::Http1, addresses.http1);
        let client = spec.connect().await.unwrap().remove(0);
        let (due, requests) = mpsc::channel(100);
        // All 100 have been due for a second, as after a stall, though each is answered at once when it is sent.
        let second_ago = Instant::now() - Duration::from_secs(1);
        for _ in 0..100 {
            due.try_send(second_ago).unwrap();
        }
        drop(due);
        let tally = Arc::new(Tally::measuring());
        let requests = Arc::new(Mutex::new(requests));
        call_when_due(client, spec, second_ago, requests, Arc::clone(&tally)).await;
        let outcome = tally.outcome(second_ago, 0);
        assert_eq!((outcome.latency.count, outcome.errors), (100, 0), "{outcome:?}");
        assert!(outcome.latency.p50_us >= 1_000_000.0, "{outcome:?}");
        server.abort();
    }

    #[test]
    fn pacer_hands_out_every_due_time() {
        let (due, mut requests) = mpsc::channel(64);
        let start = Instant::now();
        let mut times = schedule(Arrivals::Random, 100_000, Duration::from_millis(1));
        times.resize(64, Duration::from_millis(1));
        let tally = Tally::default();
        pace(&times, start, &due, &tally);
        assert_eq!(tally.outcome(start, 0).errors, 0);
        for time in &times {
            assert_eq!(requests.try_recv().unwrap(), start + *time);
        }
        times.push(Duration::from_millis(1));
        pace(&times, start, &due, &tally);
        assert_eq!(tally.outcome(start, 0).errors, 1, "one more than the backlog holds");
    }
}
