//! Talks to the store over one long connection and to the greeter over many short ones, and checks what they say.

use super::greeter::BANNER;
use super::line;
use crate::complaints::Complaints;
use crate::{AppError, Shutdown};
use clap::Args;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncWriteExt as _, BufStream};
use tokio::net::TcpStream;
use tokio::time::MissedTickBehavior;

/// How long one round with both servers may take.
const ROUND_TIMEOUT: Duration = Duration::from_secs(10);

/// Keys that the client uses in turn.
const KEYS: u64 = 16;

/// How often, and how long.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Options {
    /// Rounds per second; a round is PING, SET and GET at the store, and one visit to the greeter
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(crate) rate: u32,
    /// End after so many good rounds
    #[arg(long)]
    pub(crate) count: Option<u64>,
}

/// Why a round was not good.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    /// The connection failed: worth a line, and another try.
    #[error("{server}: {cause}")]
    Failed { server: &'static str, cause: io::Error },
    /// The server said something else than it must.
    #[error("{server}: expected {expected:?} to {request:?}, got {got:?}")]
    Wrong { server: &'static str, request: String, expected: String, got: String },
}

/// Talks to both servers until the end is told or the count is reached.
///
/// # Errors
///
/// A wrong answer. Connections that fail are printed and made again.
pub(crate) async fn run(store: &str, greeter: &str, options: Options, mut shutdown: Shutdown) -> Result<(), AppError> {
    let Options { rate, count } = options;
    let mut complaints = Complaints::new("tcp-client");
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut connected: Option<Conversation> = None;
    let (mut rounds, mut good) = (0_u64, 0_u64);
    while count.is_none_or(|count| good < count) {
        tokio::select! {
            () = shutdown.told() => break,
            _ = ticks.tick() => {}
        }
        rounds = rounds.wrapping_add(1);
        // Taken out, so that a failed or cancelled round leaves no connection with half an answer in it.
        let kept = connected.take();
        let round = async {
            let mut conversation = match kept {
                Some(conversation) => conversation,
                None => Conversation::open("store", store).await?,
            };
            use_store(&mut conversation, rounds).await?;
            visit_greeter(greeter, rounds).await?;
            Ok(conversation)
        };
        match tokio::time::timeout(ROUND_TIMEOUT, round).await {
            Ok(Ok(conversation)) => {
                connected = Some(conversation);
                complaints.success();
                good += 1;
            }
            Ok(Err(error @ RoundError::Wrong { .. })) => return Err(AppError::WrongAnswer(error.to_string())),
            Ok(Err(error @ RoundError::Failed { .. })) => complaints.failure(&error),
            Err(_) => complaints.failure(&format!("store and greeter did not answer within {} s", ROUND_TIMEOUT.as_secs())),
        }
    }
    Ok(())
}

async fn use_store(store: &mut Conversation, round: u64) -> Result<(), RoundError> {
    let (key, value) = (round % KEYS, format!("value-{round}"));
    store.ask("PING", &["+PONG"]).await?;
    store.ask(&format!("SET heddle-{key} {value}"), &["+OK"]).await?;
    store.ask(&format!("GET heddle-{key}"), &[&format!("${}", value.len()), &value]).await
}

async fn visit_greeter(address: &str, round: u64) -> Result<(), RoundError> {
    let mut greeter = Conversation::open("greeter", address).await?;
    greeter.expect("", &[BANNER]).await?;
    greeter.ask(&format!("HELO round-{round}"), &[&format!("250 hello round-{round}")]).await?;
    greeter.ask("QUIT", &["221 bye"]).await?;
    greeter.expect_end().await
}

/// A connection on which lines are said and answered.
struct Conversation {
    server: &'static str,
    stream: BufStream<TcpStream>,
}

impl Conversation {
    async fn open(server: &'static str, address: &str) -> Result<Self, RoundError> {
        let stream = TcpStream::connect(address).await.map_err(|cause| RoundError::Failed { server, cause })?;
        Ok(Self { server, stream: BufStream::new(stream) })
    }

    /// Says `request`, and expects these lines.
    async fn ask(&mut self, request: &str, expected: &[&str]) -> Result<(), RoundError> {
        let server = self.server;
        let failed = |cause| RoundError::Failed { server, cause };
        self.stream.write_all(format!("{request}\r\n").as_bytes()).await.map_err(failed)?;
        self.stream.flush().await.map_err(failed)?;
        self.expect(request, expected).await
    }

    async fn expect(&mut self, request: &str, expected: &[&str]) -> Result<(), RoundError> {
        for expected in expected {
            let got = self.line().await?;
            let got = got.ok_or_else(|| RoundError::Failed { server: self.server, cause: io::ErrorKind::UnexpectedEof.into() })?;
            if got != *expected {
                let (request, expected) = (request.to_owned(), (*expected).to_owned());
                return Err(RoundError::Wrong { server: self.server, request, expected, got });
            }
        }
        Ok(())
    }

    async fn expect_end(&mut self) -> Result<(), RoundError> {
        match self.line().await? {
            None => Ok(()),
            Some(got) => {
                let (request, expected) = ("QUIT".to_owned(), "the end".to_owned());
                Err(RoundError::Wrong { server: self.server, request, expected, got })
            }
        }
    }

    async fn line(&mut self) -> Result<Option<String>, RoundError> {
        line::read(&mut self.stream).await.map_err(|cause| RoundError::Failed { server: self.server, cause })
    }
}
