//! One HTTP/2 connection from a client: each stream is an exchange of its own, in a task of its own.

use super::message::{Request, Response, grpc_status, header_size};
use super::mirror::{self, Copy};
use super::pump::{self, PumpError, Replay, Sink, Source};
use super::{CLIENT_CONNECTION_WINDOW, CONNECTION_WINDOW, HEADER_SLACK, STREAM_WINDOW, STREAMS_MAX, client};
use crate::cause::Cause;
use crate::clock::{Clock, Expired};
use crate::exchange::{Attempt, Client, Exchange};
use crate::io::Io;
use crate::message::{Reply, RequestEdit};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use heddle_model::RequestView;
use http::HeaderValue;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::task::JoinSet;

/// From the connection's begin to the end of its preface and settings.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams that a peer may open and cancel before it is served on: the defence against rapid reset (CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 32;
/// The same for another sidecar, which has counted for its own clients, and carries the calls of all of them on one connection: a burst
/// of calls that are given up must not end the others.
const PENDING_RESETS_OF_SIDECAR_MAX: usize = STREAMS_MAX as usize;

/// Interim responses that are passed on for one request: they are not under flow control, and no use has more than a few.
const INTERIM_MAX: usize = 16;

/// Serves HTTP/2 on a connection until it ends.
///
/// Not cancel safe: dropping it cuts the connection and all its streams.
pub async fn serve(client: Rc<Client>, io: Io) {
    let limit = client.header_limit();
    let handshake = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(if client.peer.is_some() { CONNECTION_WINDOW } else { CLIENT_CONNECTION_WINDOW })
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(limit * HEADER_SLACK).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(if client.peer.is_some() { PENDING_RESETS_OF_SIDECAR_MAX } else { PENDING_RESETS_MAX })
        .handshake::<_, Bytes>(io);
    let Ok(Ok(mut connection)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await else {
        client.worker.metrics.limit_hit("http2_handshake");
        return;
    };
    let mut streams = JoinSet::new();
    let ending = client.ending();
    tokio::pin!(ending);
    let mut serving = true;
    loop {
        // Biased: requests that are here are served before a drain stops taking them. The loser of the race is asked again.
        tokio::select! {
            biased;
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    streams.spawn_local(stream(client.clone(), request, respond));
                    while streams.try_join_next().is_some() {}
                }
                Some(Err(_)) | None => break,
            },
            () = &mut ending, if serving => {
                connection.graceful_shutdown();
                serving = false;
            }
        }
    }
    // The connection is gone: what still runs has nobody to answer.
    streams.shutdown().await;
}

async fn stream(client: Rc<Client>, request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let (parts, body) = request.into_parts();
    let mut head = Request { parts };
    let mut source = Source::new(body);
    let limit = client.header_limit();
    if head.size() > limit {
        let detail = format!("{} bytes, the limit is {limit} bytes (HEDDLE_HEADER_LIMIT)", head.size());
        let reply = client.error(Cause::HeaderTooLarge, &detail);
        crate::record::refused(&client, &reply);
        return answer(&mut respond, &head, &reply);
    }
    if !head.has_one_host() {
        let reply = client.error(Cause::BadRequest, "Host is not what :authority is");
        crate::record::refused(&client, &reply);
        return answer(&mut respond, &head, &reply);
    }
    let leg = match client.leg().await {
        Ok(leg) => leg,
        Err(reply) => {
            crate::record::refused(&client, &reply);
            return answer(&mut respond, &head, &reply);
        }
    };
    let mut exchange = Exchange::begin(client, leg, &mut head);
    let result = match exchange.route(&mut head) {
        Ok(()) => forward(&mut exchange, &mut head, &mut source, &mut respond).await,
        Err(reply) => Err(Ended::Reply(reply)),
    };
    let (status, cause, received) = match result {
        Ok(done) => done,
        Err(Ended::Reply(reply)) => {
            answer(&mut respond, &head, &reply);
            (reply.status, reply.cause, reply.body.len() as u64)
        }
        Err(Ended::Reset(reason, cause)) => {
            respond.send_reset(reason);
            (cause.answer().status, cause, 0)
        }
    };
    exchange.finish(&head, status, cause, (source.moved, received));
}

/// How an exchange ends without an endpoint's response.
enum Ended {
    Reply(Box<Reply>),
    Reset(Reason, Cause),
}

/// The proxy's own answer: a gRPC status for gRPC (which is told as trailers only), plain text otherwise.
fn answer(respond: &mut SendResponse<Bytes>, request: &Request, reply: &Reply) {
    let mut response = http::Response::new(());
    let headers = response.headers_mut();
    if reply.cause != Cause::Filter {
        headers.insert(Reply::MARK, HeaderValue::from_static(reply.cause.flag()));
    }
    for (name, value) in &reply.headers {
        if let (Ok(name), Ok(value)) = (http::HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
    let grpc = request.is_grpc() && reply.cause != Cause::Filter;
    if grpc {
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(u16::from(reply.cause.answer().grpc)));
        if let Ok(message) = HeaderValue::from_str(&percent_encode(reply.body.trim_end())) {
            headers.insert("grpc-message", message);
        }
    } else {
        if reply.cause != Cause::Filter {
            headers.insert("content-type", HeaderValue::from_static("text/plain; charset=utf-8"));
        }
        *response.status_mut() = http::StatusCode::from_u16(reply.status).unwrap_or(http::StatusCode::BAD_GATEWAY);
    }
    let bare = grpc || reply.body.is_empty() || request.method() == "HEAD";
    // A client that is gone needs no answer. What is left of the request is refused when the stream's handles drop: by NO_ERROR
    // (RFC 9113 §8.1), after the answer. A reset from here would overtake the answer, which is queued and not yet written.
    if let Ok(mut body) = respond.send_response(response, bare)
        && !bare
    {
        let _ = body.send_data(Bytes::copy_from_slice(reply.body.as_bytes()), true);
    }
}

/// gRPC's encoding of `grpc-message` (gRPC over HTTP/2, "Status-Message").
fn percent_encode(text: &str) -> String {
    text.bytes().map(|b| if (0x20..=0x7e).contains(&b) && b != b'%' { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

type Done = (u16, Cause, u64);

async fn forward(
    exchange: &mut Exchange,
    head: &mut Request,
    source: &mut Source,
    respond: &mut SendResponse<Bytes>,
) -> Result<Done, Ended> {
    let mut replay = Replay::default();
    loop {
        let mut attempt = exchange.attempt(head).map_err(Ended::Reply)?;
        let worker = exchange.client.worker.clone();
        let mut lease = match client::get(&worker, &attempt.peer, attempt.connect_timeout).await {
            Ok(lease) => lease,
            Err(error) => {
                let cause = exchange.connect_failed(&mut attempt, &error);
                exchange.attempt_ended(&attempt, head, None, cause);
                match exchange.retry_failure(cause, true, replay.chunks().is_some()) {
                    Some(delay) => {
                        drop(attempt);
                        tokio::time::sleep(delay).await;
                        continue;
                    }
                    None => return Err(Ended::Reply(Box::new(exchange.client.error(cause, &error.to_string())))),
                }
            }
        };
        attempt.connected();
        let outcome = send(&mut lease, head, source, &mut replay, respond, &attempt).await;
        let failure = match outcome {
            Ok((response, sink)) => {
                let (status, grpc) = (response.parts.status.as_u16(), response.grpc_status());
                if let Some(delay) = exchange.retry_unprocessed(&mut attempt, &response, replay.chunks().is_some()) {
                    exchange.attempt_ended(&attempt, head, Some(status), Cause::ConnectFailed);
                    drop((attempt, lease, response, sink));
                    tokio::time::sleep(delay).await;
                    continue;
                }
                if source.is_done()
                    && let Some(delay) = exchange.retry_response(status, grpc, replay.chunks().is_some())
                {
                    attempt.failed();
                    exchange.attempt_ended(&attempt, head, Some(status), Cause::None);
                    drop((attempt, lease, response, sink));
                    tokio::time::sleep(delay).await;
                    continue;
                }
                attempt.responded();
                let mirrored = !exchange.mirrors.is_empty();
                if !mirrored {
                    replay.seal();
                }
                let result = relay(exchange, &attempt, (source, sink, &mut replay), response, respond).await;
                if mirrored && source.is_done() {
                    send_copies(exchange, head, &replay);
                }
                let cause = match &result {
                    Ok((_, cause, _)) | Err(Ended::Reset(_, cause)) => *cause,
                    Err(Ended::Reply(reply)) => reply.cause,
                };
                exchange.attempt_ended(&attempt, head, Some(status), cause);
                return result;
            }
            Err(failure) => failure,
        };
        match &failure {
            Failure::ClientReset(_) => attempt.given_up(),
            // It says that it has not begun: a restart, and no slowness.
            Failure::Upstream { unprocessed: true, .. } => {}
            Failure::Timeout(_) | Failure::Upstream { .. } => attempt.failed(),
        }
        if let Some(delay) = judge(exchange, &attempt, head, &failure, &replay)? {
            drop((attempt, lease));
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
        }
    }
}

/// Sends copies of a request whose body was kept whole.
fn send_copies(exchange: &Exchange, head: &Request, replay: &Replay) {
    let worker = &exchange.client.worker;
    let Some(chunks) = replay.chunks() else {
        worker.metrics.mirror_skipped();
        return;
    };
    let copy = Copy { request: head.to_send(), data: chunks.to_vec(), trailers: replay.trailers().cloned() };
    for backend in &exchange.mirrors {
        mirror::send(worker, backend.clone(), copy.clone());
    }
}

/// Whether a failed attempt is followed by another, after some time; or how the exchange ends.
fn judge(
    exchange: &mut Exchange,
    attempt: &Attempt,
    head: &Request,
    failure: &Failure,
    replay: &Replay,
) -> Result<Option<Duration>, Ended> {
    let (cause, unprocessed) = match failure {
        Failure::ClientReset(reason) => {
            exchange.attempt_ended(attempt, head, None, Cause::ClientGone);
            return Err(Ended::Reset(*reason, Cause::ClientGone));
        }
        Failure::Timeout(expired) => (exchange.timed_out(*expired), false),
        Failure::Upstream { unprocessed, .. } => (Cause::Reset, *unprocessed),
    };
    exchange.attempt_ended(attempt, head, None, cause);
    if let Some(delay) = exchange.retry_failure(cause, unprocessed, replay.chunks().is_some()) {
        return Ok(Some(delay));
    }
    if unprocessed && attempt.picked.is_none() {
        // The application has ended its connection before it began: the client may go elsewhere (RFC 9113 §8.7).
        return Err(Ended::Reset(Reason::REFUSED_STREAM, cause));
    }
    if let Failure::Upstream { reason: Some(reason), by_endpoint: true, .. } = failure {
        // The application's own words.
        return Err(Ended::Reset(*reason, cause));
    }
    Err(Ended::Reply(Box::new(exchange.client.error(cause, &format!("{} at {}", failure.text(), attempt.peer.address)))))
}

/// Why there is no response.
enum Failure {
    ClientReset(Reason),
    Timeout(Expired),
    Upstream { reason: Option<Reason>, by_endpoint: bool, unprocessed: bool, text: String },
}

impl Failure {
    fn of(error: &h2::Error) -> Self {
        let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        let gone_away = error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR);
        Self::Upstream {
            reason: error.reason(),
            by_endpoint: error.is_reset() && error.is_remote(),
            unprocessed: refused || gone_away,
            text: error.to_string(),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::ClientReset(_) => "the client gave up",
            Self::Timeout(_) => "no response in time",
            Self::Upstream { text, .. } => text,
        }
    }
}

/// Sends the request until the response's head is here.
async fn send(
    lease: &mut client::Lease,
    head: &Request,
    source: &mut Source,
    replay: &mut Replay,
    respond: &mut SendResponse<Bytes>,
    attempt: &Attempt,
) -> Result<(Response, Sink), Failure> {
    let mut clock = Clock::new(attempt.deadline, attempt.idle);
    // A call that was given up before it was sent stays here: an endpoint that sees many begin and end at once takes that for an attack
    // (CVE-2023-44487) and ends the connection that all clients share.
    let given_up = poll_fn(|cx| Poll::Ready(respond.poll_reset(cx))).await;
    if let Poll::Ready(reset) = given_up {
        return Err(Failure::ClientReset(reset.unwrap_or(Reason::CANCEL)));
    }
    let sent = replay.chunks().unwrap_or_default();
    let bodiless = source.is_done() && sent.is_empty() && replay.trailers().is_none();
    let (mut response, stream) = lease.sender().send_request(head.to_send(), bodiless).map_err(|e| Failure::of(&e))?;
    let mut sink = Sink::new(stream, sent, bodiless);
    let mut sending = !bodiless;
    let mut interims = 0;
    let head = poll_fn(|cx| {
        if let Some(expired) = clock.poll(cx, source.moved) {
            return Poll::Ready(Err(Failure::Timeout(expired)));
        }
        if sending {
            match pump::poll(cx, source, &mut sink, Some(replay)) {
                Poll::Pending => {}
                Poll::Ready(Ok(()) | Err(PumpError::To(_))) => sending = false,
                Poll::Ready(Err(PumpError::From(reason))) => {
                    sink.reset(reason);
                    return Poll::Ready(Err(Failure::ClientReset(reason)));
                }
            }
        }
        if let Poll::Ready(reset) = respond.poll_reset(cx) {
            let reason = reset.unwrap_or(Reason::CANCEL);
            sink.reset(reason);
            return Poll::Ready(Err(Failure::ClientReset(reason)));
        }
        while let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
            // A client that does not take them misses nothing that it needs.
            if interims < INTERIM_MAX && respond.send_informational(interim).is_ok() {
                interims += 1;
            }
        }
        Pin::new(&mut response).poll(cx).map_err(|e| Failure::of(&e))
    })
    .await?;
    let (parts, body) = head.into_parts();
    let response = Response { parts, body: Some(body) };
    Ok((response, sink))
}

/// Passes the response on, and what is left of the request.
async fn relay(
    exchange: &mut Exchange,
    attempt: &Attempt,
    (source, mut sink, replay): (&mut Source, Sink, &mut Replay),
    mut response: Response,
    respond: &mut SendResponse<Bytes>,
) -> Result<Done, Ended> {
    let limit = exchange.client.response_limit(&attempt.peer);
    if header_size(&response.parts.headers) > limit {
        let detail = format!("the limit is {limit} bytes (HEDDLE_HEADER_LIMIT)");
        return Err(Ended::Reply(Box::new(exchange.client.error(Cause::ResponseHeaderTooLarge, &detail))));
    }
    exchange.edit_response(&mut response);
    let status = response.parts.status.as_u16();
    exchange.grpc = response.grpc_status();
    let Some(body) = response.body.take() else {
        return Err(Ended::Reset(Reason::INTERNAL_ERROR, Cause::UpstreamProtocol));
    };
    let mut received = Source::new(body);
    let bodiless = received.is_done();
    let stream = respond
        .send_response(http::Response::from_parts(response.parts, ()), bodiless)
        .map_err(|e| Ended::Reset(pump::reason(&e), Cause::ClientGone))?;
    let mut back = Sink::new(stream, &[], bodiless);
    let mut clock = Clock::new(attempt.deadline, attempt.idle);
    let mut sending = !source.is_done() || !sink.is_ended();
    let ended = poll_fn(|cx| {
        match clock.poll(cx, source.moved + received.moved) {
            Some(Expired::Deadline) => return Poll::Ready(Err((Reason::CANCEL, Cause::RequestTimeout))),
            Some(Expired::Idle) => return Poll::Ready(Err((Reason::CANCEL, Cause::IdleTimeout))),
            None => {}
        }
        if sending {
            match pump::poll(cx, source, &mut sink, Some(replay)) {
                Poll::Pending => {}
                Poll::Ready(Ok(()) | Err(PumpError::To(_))) => sending = false,
                Poll::Ready(Err(PumpError::From(reason))) => {
                    sink.reset(reason);
                    return Poll::Ready(Err((reason, Cause::ClientGone)));
                }
            }
        }
        if back.is_ended() {
            // A bidirectional call whose server has said its last word: the request's rest is the client's own affair.
            return Poll::Ready(Ok(()));
        }
        match pump::poll(cx, &mut received, &mut back, None) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Ready(Err(PumpError::From(reason))) => Poll::Ready(Err((reason, Cause::Reset))),
            Poll::Ready(Err(PumpError::To(reason))) => {
                sink.reset(reason);
                Poll::Ready(Err((reason, Cause::ClientGone)))
            }
        }
    })
    .await;
    if let Err((reason, cause)) = ended {
        back.reset(reason);
        return Ok((status, cause, received.moved));
    }
    exchange.grpc = received.trailers.as_ref().and_then(grpc_status).or(exchange.grpc);
    // A request that goes on is refused when its handles drop, after what is queued of the response; a reset here would overtake it.
    Ok((status, Cause::None, received.moved))
}
