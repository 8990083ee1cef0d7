//! Makes all four kinds of call at a modest rate and checks every answer.

use super::proto::echo_client::EchoClient;
use super::proto::{EchoReply, EchoRequest};
use crate::complaints::Complaints;
use crate::{AppError, Shutdown};
use clap::Args;
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// Messages of one stream.
const MESSAGES: u32 = 5;

/// How long one round of the four calls may take.
const ROUND_TIMEOUT: Duration = Duration::from_secs(10);

/// How often, and how long.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Options {
    /// Rounds per second; a round is one call of each kind
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(crate) rate: u32,
    /// End after so many good rounds
    #[arg(long)]
    pub(crate) count: Option<u64>,
}

/// Why a round was not good.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    /// The call failed: worth a line, and another try.
    #[error("{call}: {status}", status = describe(status))]
    Failed { call: &'static str, status: Box<Status> },
    /// The call succeeded with something else than it must: nothing to go on with.
    #[error("{call}: expected {expected}, got {got}")]
    Wrong { call: &'static str, expected: String, got: String },
}

/// Calls the echo at `url` until the end is told or the count is reached.
///
/// # Errors
///
/// A wrong answer. Calls that fail are printed and made again.
pub(crate) async fn run(url: &str, options: Options, mut shutdown: Shutdown) -> Result<(), AppError> {
    let Options { rate, count } = options;
    let mut client = EchoClient::new(Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true).connect_lazy());
    let mut complaints = Complaints::new("echo-client");
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut rounds, mut good) = (0_u64, 0_u64);
    while count.is_none_or(|count| good < count) {
        tokio::select! {
            () = shutdown.told() => break,
            _ = ticks.tick() => {}
        }
        rounds = rounds.wrapping_add(1);
        // Outside the select, so that the end lets the round finish; the timeout bounds it.
        match tokio::time::timeout(ROUND_TIMEOUT, round(&mut client, rounds)).await {
            Ok(Ok(())) => {
                complaints.success();
                good += 1;
            }
            Ok(Err(RoundError::Wrong { call, expected, got })) => {
                return Err(AppError::WrongAnswer(format!("{call}: expected {expected}, got {got}")));
            }
            Ok(Err(error @ RoundError::Failed { .. })) => complaints.failure(&error),
            Err(_) => complaints.failure(&format!("four calls were not answered within {} s", ROUND_TIMEOUT.as_secs())),
        }
    }
    Ok(())
}

async fn round(client: &mut EchoClient<Channel>, round: u64) -> Result<(), RoundError> {
    let text = |n: u32| format!("message {round}.{n}");
    let request = |n: u32| EchoRequest { message: text(n), repeat: MESSAGES };

    let call = "Unary";
    let reply = client.unary(request(1)).await.map_err(failed(call))?.into_inner();
    check(call, &text(1), 1, Some(&reply))?;

    let call = "ClientStreaming";
    let requests: Vec<EchoRequest> = (1..=MESSAGES).map(request).collect();
    let reply = client.client_streaming(tokio_stream::iter(requests.clone())).await.map_err(failed(call))?.into_inner();
    check(call, &text(MESSAGES), MESSAGES, Some(&reply))?;

    let call = "ServerStreaming";
    let mut replies = client.server_streaming(request(1)).await.map_err(failed(call))?.into_inner();
    for number in 1..=MESSAGES {
        check(call, &text(1), number, next(call, &mut replies).await?.as_ref())?;
    }
    end(call, &mut replies).await?;

    // Each message waits for the answer to the one before: what a proxy holds back would stop it here.
    let call = "Bidirectional";
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    // Before the call is made, since a server may wait for the first message with its response head; the channel has room for it.
    let _ = sender.try_send(request(1));
    let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut replies = client.bidirectional(requests).await.map_err(failed(call))?.into_inner();
    for number in 1..=MESSAGES {
        if number > 1 {
            // Fails only when the call is over, which the next reply tells better.
            let _ = sender.send(request(number)).await;
        }
        check(call, &text(number), number, next(call, &mut replies).await?.as_ref())?;
    }
    drop(sender);
    end(call, &mut replies).await
}

fn failed(call: &'static str) -> impl Fn(Status) -> RoundError {
    move |status| RoundError::Failed { call, status: Box::new(status) }
}

async fn next(call: &'static str, replies: &mut Streaming<EchoReply>) -> Result<Option<EchoReply>, RoundError> {
    replies.message().await.map_err(failed(call))
}

fn check(call: &'static str, message: &str, number: u32, reply: Option<&EchoReply>) -> Result<(), RoundError> {
    match reply {
        Some(reply) if reply.message == message && reply.number == number => Ok(()),
        Some(_) | None => Err(RoundError::Wrong { call, expected: format!("{message:?} as number {number}"), got: describe_reply(reply) }),
    }
}

async fn end(call: &'static str, replies: &mut Streaming<EchoReply>) -> Result<(), RoundError> {
    match next(call, replies).await? {
        None => Ok(()),
        extra @ Some(_) => Err(RoundError::Wrong { call, expected: "the end".to_owned(), got: describe_reply(extra.as_ref()) }),
    }
}

fn describe(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

fn describe_reply(reply: Option<&EchoReply>) -> String {
    reply.map_or_else(|| "the end".to_owned(), |reply| format!("{:?} as number {}", reply.message, reply.number))
}
