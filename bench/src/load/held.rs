//! Connections that are held: idle ones that are only counted, and bulk transfers.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Event, Outcome, Spec, Tally, say};
use crate::client::{self, Client};

/// Connections that are being opened at the same time.
const OPENERS: usize = 64;

/// Loopback addresses that idle connections come from: 127.0.0.2 and up, each with its own 28,000 ports.
const SOURCES: usize = 4;

/// Bytes that one read or write moves.
const CHUNK: usize = 64 * 1024;

/// Opens all connections, makes one request on each, and holds them until a line comes or the input ends.
///
/// A connection that the other side has closed by then is an error: memory that was given back that way proves nothing.
pub(super) async fn idle(spec: &Spec, mut done: mpsc::Receiver<()>) -> Result<()> {
    let began = Instant::now();
    let tally = Arc::new(Tally::default());
    let mut openers = JoinSet::new();
    for opener in 0..OPENERS {
        let count = spec.connections / OPENERS + usize::from(opener < spec.connections % OPENERS);
        openers.spawn(open_some(spec.clone(), opener, count, Arc::clone(&tally)));
    }
    let mut clients = Vec::with_capacity(spec.connections);
    while let Some(opened) = openers.join_next().await {
        clients.extend(opened?);
    }
    say(&Event::Begin)?;
    // A line, or the end of the input: either way the reader has seen enough.
    let _: Option<()> = done.recv().await;
    let open = clients.iter().filter(|client| client.is_open()).count();
    let closed = (spec.connections - open) as u64;
    let mut outcome = tally.outcome(began, 0);
    if outcome.errors < closed {
        outcome.errors = closed;
        outcome.first_error.get_or_insert_with(|| "the other side closed connections that were held idle".to_owned());
    }
    say(&Event::End(outcome))
}

/// Sends and then receives `mib` MiB on every connection.
pub(super) async fn bulk(spec: &Spec, mib: u64) -> Result<()> {
    say(&Event::Begin)?;
    let began = Instant::now();
    let mut transfers = JoinSet::new();
    for _ in 0..spec.connections {
        transfers.spawn(transfer(spec.address, mib << 20));
    }
    let mut outcome = Outcome::default();
    while let Some(transferred) = transfers.join_next().await {
        match transferred? {
            Ok(()) => outcome.requests += 1,
            Err(error) => {
                outcome.errors += 1;
                outcome.first_error.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }
    outcome.seconds = began.elapsed().as_secs_f64();
    say(&Event::End(outcome))
}

/// Moves one byte each way.
pub(super) async fn probe(address: SocketAddr) -> Result<()> {
    transfer(address, 1).await
}

async fn open_some(spec: Spec, opener: usize, count: usize, tally: Arc<Tally>) -> Vec<Client> {
    let call = spec.call();
    let last = 2 + u8::try_from(opener % SOURCES).unwrap_or(0);
    let source = Ipv4Addr::new(127, 0, 0, last);
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        let began = Instant::now();
        let opened = async {
            let mut one = Client::connect(spec.protocol, spec.address, Some(source), &call, 1).await?;
            let mut client = one.remove(0);
            client.exchange().await?;
            Ok(client)
        };
        match opened.await {
            Ok(client) => {
                tally.answer(began.elapsed());
                clients.push(client);
            }
            Err(error) => tally.fail(&error),
        }
    }
    clients
}

async fn transfer(address: SocketAddr, bytes: u64) -> Result<()> {
    let mut stream = client::open(address, None).await?;
    stream.write_u64(bytes).await?;
    stream.write_u64(bytes).await?;
    let mut chunk = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        stream.write_all(&chunk[..count]).await.context("cannot send")?;
        left -= count as u64;
    }
    let mut received = 0;
    loop {
        let count = stream.read(&mut chunk).await.context("cannot receive")?;
        if count == 0 {
            break;
        }
        received += count as u64;
    }
    ensure!(received == bytes, "{received} of {bytes} bytes came back");
    Ok(())
}
