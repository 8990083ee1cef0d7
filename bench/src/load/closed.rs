//! Closed loops: a client sends its next request when the answer to the last one is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{ERRORS_MAX, Event, Outcome, Spec, Tally, say};
use crate::client::Client;

/// Keeps every client busy for `warm` and then `measure`; with `anew`, each request has a connection of its own.
pub(super) async fn saturate(spec: &Spec, anew: bool, warm: Duration, measure: Duration) -> Result<()> {
    let tally = Arc::new(Tally::default());
    let mut workers = JoinSet::new();
    for client in spec.connect().await? {
        let (spec, tally) = (spec.clone(), Arc::clone(&tally));
        if anew {
            drop(client);
            workers.spawn(connect_until_stopped(spec, tally));
        } else {
            workers.spawn(call_until_stopped(client, spec, tally));
        }
    }
    sleep(warm).await;
    let before = tally.answered();
    tally.measuring.store(true, Ordering::Relaxed);
    let began = Instant::now();
    say(&Event::Begin)?;
    sleep(measure).await;
    let outcome = tally.outcome(began, before);
    say(&Event::End(outcome))?;
    tally.stopped.store(true, Ordering::Relaxed);
    // A worker ends with its next answer; one that never comes ends with the set.
    drop(workers);
    Ok(())
}

/// Makes exactly as many requests as each phase says, over the same connections.
pub(super) async fn phases(spec: &Spec, counts: &[u64], mut go: mpsc::Receiver<()>) -> Result<()> {
    let mut clients = spec.connect().await?;
    for count in counts {
        go.recv().await.context("nobody starts the next phase")?;
        let tally = Arc::new(Tally::default());
        let left = Arc::new(AtomicU64::new(*count));
        let began = Instant::now();
        let mut workers = JoinSet::new();
        for client in clients.drain(..) {
            workers.spawn(call_until_spent(client, Arc::clone(&left), Arc::clone(&tally)));
        }
        while let Some(client) = workers.join_next().await {
            clients.push(client??);
        }
        let outcome: Outcome = tally.outcome(began, 0);
        ensure!(outcome.requests == *count, "{} of {count} requests were answered", outcome.requests);
        say(&Event::End(outcome))?;
    }
    Ok(())
}

async fn call_until_stopped(mut client: Client, spec: Spec, tally: Arc<Tally>) {
    let mut errors = 0;
    while !tally.stopped() && errors < ERRORS_MAX {
        let sent = Instant::now();
        match client.exchange().await {
            Ok(()) => tally.answer(sent.elapsed()),
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

async fn connect_until_stopped(spec: Spec, tally: Arc<Tally>) {
    let mut errors = 0;
    let call = spec.call();
    while !tally.stopped() && errors < ERRORS_MAX {
        let began = Instant::now();
        let exchange = async {
            let mut clients = Client::connect(spec.protocol, spec.address, None, &call, 1).await?;
            clients.remove(0).exchange().await
        };
        match exchange.await {
            Ok(()) => tally.answer(began.elapsed()),
            Err(error) => {
                tally.fail(&error);
                errors += 1;
            }
        }
    }
}

async fn call_until_spent(mut client: Client, left: Arc<AtomicU64>, tally: Arc<Tally>) -> Result<Client> {
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        let sent = Instant::now();
        client.exchange().await?;
        tally.answer(sent.elapsed());
    }
    Ok(client)
}
