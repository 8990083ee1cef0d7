//! One HTTP/1 connection from a client: requests in turn, each forwarded on a connection of its own for as long as it lasts.
//!
//! One task moves the bytes of both legs, so that a request wakes nobody else. A body goes on in either direction while the other
//! still moves: early responses, long polls and streams of events need no special treatment.

use super::body::{BodyError, BodyScanner};
use super::conn::{Conn, Pump, PumpError, Replay};
use super::head::{HeadError, RequestHead, ResponseHead};
use crate::buffer::BUFFER_BYTES;
use crate::cause::Cause;
use crate::clock::{Clock, Expired};
use crate::connect;
use crate::exchange::{Attempt, Client, Exchange};
use crate::forward;
use crate::io::Io;
use crate::message::{Reply, RequestEdit, ResponseEdit};
use bytes::Bytes;
use heddle_model::RequestView;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// From a request's first byte to the end of its head. A client that is slower is not one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client that is told an error may go on sending before the connection is cut.
const LINGER: Duration = Duration::from_secs(1);
/// A connection that was kept and ends so soon after a request was written on it was ended before it came: by an idle timeout or a
/// restart. Later, its server may have been at work.
const RACE: Duration = Duration::from_millis(100);
/// Memory for heads that a connection keeps between requests.
const HEAD_KEPT_BYTES: usize = 8 * 1024;

/// What becomes of the client's connection.
enum Next {
    /// The next request.
    Request,
    /// It ends in order.
    Close,
    /// It ends, and the client may still be sending.
    Linger,
    /// It is cut at once: what was sent is no whole response.
    Abort,
    /// Bytes follow in both directions.
    Tunnel(Box<(Conn, Exchange, Attempt)>),
}

/// Serves HTTP/1 on a connection until it ends.
///
/// Not cancel safe: dropping it cuts the connection, and what is in flight is recorded as given up.
pub async fn serve(client: Rc<Client>, io: Io) {
    let buffers = client.worker.buffers.clone();
    let ending = {
        let client = client.clone();
        Box::pin(async move { client.ending().await })
    };
    let mut session = Session {
        conn: Conn::new(io, buffers),
        head: RequestHead::default(),
        response: ResponseHead::default(),
        replay: Replay::default(),
        limit: client.header_limit(),
        answering: false,
        ending,
        client,
    };
    loop {
        let next = match session.read_head().await {
            Ok(true) => session.exchange().await,
            Ok(false) => Next::Close,
            Err(reply) => session.refuse(&reply, false).await,
        };
        match next {
            Next::Request => {}
            Next::Close if session.conn.input.is_empty() => break session.close().await,
            // What nobody will read would make the close a reset, which could destroy the last response.
            Next::Close => break session.linger().await,
            Next::Linger => break session.linger().await,
            Next::Abort => break session.abort(),
            Next::Tunnel(tunnel) => {
                let (upstream, exchange, attempt) = *tunnel;
                forward::tunnel(&mut session.conn, upstream, exchange, attempt.idle, &session.head).await;
                // Until now the endpoint had it in flight.
                break drop(attempt);
            }
        }
    }
}

struct Session {
    client: Rc<Client>,
    conn: Conn,
    head: RequestHead,
    response: ResponseHead,
    replay: Replay,
    limit: usize,
    /// Whether a response has begun and not ended.
    answering: bool,
    /// When this sidecar ends such connections; made once, because a wait that is begun anew for each request costs locks.
    ending: Pin<Box<dyn Future<Output = ()>>>,
}

impl Session {
    /// Waits for a request; `false`: the connection ends between two.
    async fn read_head(&mut self) -> Result<bool, Box<Reply>> {
        self.head.shrink(HEAD_KEPT_BYTES);
        self.response.shrink(HEAD_KEPT_BYTES);
        self.replay.clear();
        if self.conn.input.is_empty() {
            self.conn.rest();
            if !self.idle().await {
                return Ok(false);
            }
        }
        let mut deadline: Option<Pin<Box<Sleep>>> = None;
        let mut tried = 0;
        loop {
            // Empty lines before a request are skipped (RFC 9112 §2.2).
            let empty = self.conn.input.data().iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
            self.conn.input.consume(empty);
            if is_ripe(self.conn.input.data(), tried) {
                match self.head.parse(self.conn.input.data()) {
                    Ok(Some(len)) if len <= self.limit => {
                        self.conn.input.consume(len);
                        return Ok(true);
                    }
                    Ok(None) => tried = self.conn.input.len(),
                    Ok(Some(_)) => return Err(Box::new(self.too_large())),
                    Err(error) => return Err(Box::new(self.bad_request(error))),
                }
            }
            if self.conn.input.len() > self.limit {
                return Err(Box::new(self.too_large()));
            }
            if self.conn.input.is_full() && !self.conn.input.grow(self.limit + 1) {
                return Err(Box::new(self.too_large()));
            }
            let timer = deadline.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + HEAD_TIMEOUT)));
            let conn = &mut self.conn;
            let filled = poll_fn(|cx| {
                if let Poll::Ready(n) = conn.poll_fill(cx) {
                    return Poll::Ready(Some(n));
                }
                timer.as_mut().poll(cx).map(|()| None)
            });
            match filled.await {
                Some(Ok(n)) if n > 0 => {}
                Some(Ok(_) | Err(_)) => return Ok(false),
                None => {
                    let mut reply = self.client.error(Cause::BadRequest, "the request's head did not arrive within 30 s");
                    reply.status = 408;
                    return Err(Box::new(reply));
                }
            }
        }
    }

    /// Waits for the first bytes of a request; `false`: the client ended, or this sidecar does.
    async fn idle(&mut self) -> bool {
        let Self { conn, ending, .. } = self;
        poll_fn(|cx| {
            // What is here is served, also when this sidecar ends: the client cannot know whether it was.
            if let Poll::Ready(filled) = conn.poll_fill(cx) {
                return Poll::Ready(matches!(filled, Ok(n) if n > 0));
            }
            ending.as_mut().poll(cx).map(|()| false)
        })
        .await
    }

    fn too_large(&self) -> Reply {
        let detail = format!("the limit is {} bytes (HEDDLE_HEADER_LIMIT)", self.limit);
        self.client.error(Cause::HeaderTooLarge, &detail)
    }

    fn bad_request(&self, error: HeadError) -> Reply {
        let mut reply = self.client.error(Cause::BadRequest, &error.to_string());
        reply.status = match error {
            HeadError::Malformed(_) | HeadError::Ambiguous(_) => 400,
            HeadError::TransferCoding => 501,
            HeadError::Version => 505,
        };
        reply
    }

    /// Answers what is no request.
    async fn refuse(&mut self, reply: &Reply, to_head: bool) -> Next {
        crate::record::refused(&self.client, reply);
        self.write_reply(reply, true, to_head);
        let conn = &mut self.conn;
        match poll_fn(|cx| conn.poll_flush(cx)).await {
            Ok(()) => Next::Linger,
            Err(_) => Next::Close,
        }
    }

    async fn exchange(&mut self) -> Next {
        let client = self.client.clone();
        let leg = match client.leg().await {
            Ok(leg) => leg,
            Err(reply) => return self.refuse(&reply, self.head.method() == "HEAD").await,
        };
        let mut exchange = Exchange::begin(client, leg, &mut self.head);
        let mut request = Pump::new(BodyScanner::new(self.head.framing(), self.limit));
        if let Err(reply) = exchange.route(&mut self.head) {
            return self.reply(exchange, *reply, &mut request).await;
        }
        // One replay for the keep-alive race, and not from the pool again.
        let mut fresh = false;
        loop {
            let mut attempt = match exchange.attempt(&mut self.head) {
                Ok(attempt) => attempt,
                Err(reply) => return self.reply(exchange, *reply, &mut request).await,
            };
            let connected = connect::http1(&exchange.client.worker, &attempt.peer, attempt.connect_timeout, fresh).await;
            let (mut upstream, reused) = match connected {
                Ok(connected) => connected,
                Err(error) => {
                    let cause = exchange.connect_failed(&mut attempt, &error);
                    exchange.attempt_ended(&attempt, &self.head, None, cause);
                    let replayable = self.replay.bytes().is_some();
                    match exchange.retry_failure(cause, true, replayable) {
                        Some(delay) => {
                            drop(attempt);
                            tokio::time::sleep(delay).await;
                            continue;
                        }
                        None => {
                            let reply = exchange.client.error(cause, &error.to_string());
                            return self.reply(exchange, reply, &mut request).await;
                        }
                    }
                }
            };
            attempt.connected();
            self.head.write(upstream.output(), true);
            if let Some(sent) = self.replay.bytes() {
                upstream.output().extend_from_slice(sent);
            }
            let outcome = self.await_response(&mut upstream, &mut request, &attempt).await;
            match self.judge(&mut exchange, attempt, &request, outcome, reused, upstream).await {
                Judged::Done(reply) => return self.reply(exchange, *reply, &mut request).await,
                Judged::Gone => return Next::Abort,
                Judged::Again { fresh: must_be_fresh, delay } => {
                    fresh |= must_be_fresh;
                    if !delay.is_zero() {
                        tokio::time::sleep(delay).await;
                    }
                }
                Judged::Forward(forward) => {
                    let (attempt, upstream) = *forward;
                    return self.forward(exchange, attempt, upstream, request).await;
                }
            }
        }
    }

    /// Decides what an attempt's outcome means: an answer, another try, or the response to forward.
    async fn judge(
        &mut self,
        exchange: &mut Exchange,
        mut attempt: Attempt,
        request: &Pump,
        outcome: Result<(), Failure>,
        reused: bool,
        upstream: Conn,
    ) -> Judged {
        let replayable = self.replay.bytes().is_some();
        let failure = match outcome {
            Ok(()) => {
                let status = self.response.status();
                if let Some(delay) = exchange.retry_unprocessed(&mut attempt, &self.response, replayable) {
                    exchange.attempt_ended(&attempt, &self.head, Some(status), Cause::ConnectFailed);
                    return Judged::Again { fresh: false, delay };
                }
                // gRPC rides on HTTP/2 only: no status of its own here.
                if let Some(delay) = exchange.retry_response(status, None, replayable && request.is_done()) {
                    attempt.failed();
                    exchange.attempt_ended(&attempt, &self.head, Some(status), Cause::None);
                    return Judged::Again { fresh: false, delay };
                }
                attempt.responded();
                return Judged::Forward(Box::new((attempt, upstream)));
            }
            Err(failure) => failure,
        };
        let cause = match &failure {
            Failure::ClientGone => {
                attempt.given_up();
                exchange.attempt_ended(&attempt, &self.head, None, Cause::ClientGone);
                return Judged::Gone;
            }
            Failure::Request(BodyError::TrailersTooLarge(_)) => Cause::HeaderTooLarge,
            Failure::Request(BodyError::Chunk(_)) => Cause::BadRequest,
            Failure::Timeout(expired) => exchange.timed_out(*expired),
            Failure::Closed { .. } => Cause::Reset,
            Failure::Head(_) => Cause::UpstreamProtocol,
            Failure::HeadTooLarge(_) => Cause::ResponseHeaderTooLarge,
        };
        exchange.attempt_ended(&attempt, &self.head, None, cause);
        let silent = matches!(failure, Failure::Closed { silent: true });
        let raced = exchange.is_repeatable(&self.head) || attempt.begun.elapsed() < RACE;
        if silent && reused && replayable && raced {
            // The server closed an idle connection just as the request came: it never saw it (RFC 9110 §9.2.2, RFC 9112 §9.3.1).
            exchange.client.worker.metrics.reuse_race_replayed();
            exchange.forget_attempt();
            return Judged::Again { fresh: true, delay: Duration::ZERO };
        }
        if let Failure::Request(error) = failure {
            return Judged::Done(Box::new(exchange.client.error(cause, &error.to_string())));
        }
        attempt.failed();
        if let Some(delay) = exchange.retry_failure(cause, false, replayable) {
            return Judged::Again { fresh: false, delay };
        }
        Judged::Done(Box::new(exchange.client.error(cause, &format!("{} at {}", failure, attempt.peer.address))))
    }

    /// Sends the request until the response's final head is here; interim responses pass on their way.
    async fn await_response(&mut self, upstream: &mut Conn, request: &mut Pump, attempt: &Attempt) -> Result<(), Failure> {
        let Self { conn, head, response, replay, client, .. } = self;
        let limit = client.response_limit(&attempt.peer);
        let kind = (head.method() == "HEAD", head.is_connect());
        // Of the response's head: whether anything of it came, and bytes that were parsed in vain.
        let (mut heard, mut tried) = (false, 0);
        let mut clock = Clock::new(attempt.deadline, attempt.idle);
        let mut sending = true;
        poll_fn(|cx| {
            if let Some(expired) = clock.poll(cx, request.moved) {
                return Poll::Ready(Err(Failure::Timeout(expired)));
            }
            if sending {
                match request.poll(cx, conn, upstream, Some(replay)) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(())) => sending = false,
                    // What the endpoint refuses to read may still be answered.
                    Poll::Ready(Err(PumpError::Write(_))) => sending = false,
                    Poll::Ready(Err(PumpError::Body(error))) => return Poll::Ready(Err(Failure::Request(error))),
                    Poll::Ready(Err(PumpError::Read(_) | PumpError::Truncated)) => return Poll::Ready(Err(Failure::ClientGone)),
                }
            }
            if !sending && follow(conn, upstream, cx) {
                return Poll::Ready(Err(Failure::ClientGone));
            }
            loop {
                // Interim responses must not pile up for a client that does not read.
                if conn.output().len() > BUFFER_BYTES && ready!(conn.poll_flush(cx)).is_err() {
                    return Poll::Ready(Err(Failure::ClientGone));
                }
                match read_response(cx, upstream, response, limit, kind, &mut tried) {
                    Poll::Ready(Ok(())) if response.status() == 101 && !head.upgrades() => {
                        return Poll::Ready(Err(Failure::Head(HeadError::Malformed("a switch of protocols that nobody asked for"))));
                    }
                    Poll::Ready(Ok(())) if (100..200).contains(&response.status()) && response.status() != 101 => {
                        (heard, tried) = (true, 0);
                        if head.version() == 1 {
                            response.write(conn.output(), false, 1);
                        }
                    }
                    Poll::Ready(Err(Failure::Closed { silent })) => return Poll::Ready(Err(Failure::Closed { silent: silent && !heard })),
                    Poll::Ready(read) => return Poll::Ready(read),
                    Poll::Pending if !conn.is_flushed() && matches!(conn.poll_flush(cx), Poll::Ready(Err(_))) => {
                        return Poll::Ready(Err(Failure::ClientGone));
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// Passes the response on, and what is left of the request.
    async fn forward(&mut self, mut exchange: Exchange, attempt: Attempt, mut upstream: Conn, mut request: Pump) -> Next {
        exchange.edit_response(&mut self.response);
        let status = self.response.status();
        let tunnel = (status == 101 && self.head.upgrades()) || (self.head.is_connect() && (200..300).contains(&status));
        let draining = self.client.is_ending();
        let until_close = self.response.framing() == super::body::Framing::UntilClose;
        // What a client sent ahead of a refused CONNECT is for the other end of the tunnel, and no request.
        let ahead = self.head.is_connect() && !tunnel && !self.conn.input.is_empty();
        let mut close = !self.head.keeps_alive() || until_close || draining || ahead;
        self.response.write(self.conn.output(), close && !tunnel, self.head.version());
        if tunnel {
            exchange.attempt_ended(&attempt, &self.head, Some(status), Cause::None);
            return Next::Tunnel(Box::new((upstream, exchange, attempt)));
        }
        let limit = self.client.response_limit(&attempt.peer);
        let mut response = Pump::new(BodyScanner::new(self.response.framing(), limit));
        let keeps_mirrors = !exchange.mirrors.is_empty();
        if !keeps_mirrors {
            self.replay.seal();
        }
        self.answering = true;
        let ended = self.relay(&mut upstream, &mut request, &mut response, &attempt).await;
        self.answering = false;
        let bytes = (request.moved, response.moved);
        let request_done = request.is_done();
        let (cause, next) = match ended {
            Ok(()) if request_done => {
                if self.response.keeps_alive() {
                    let announced = self.response.keep_alive_timeout();
                    exchange.client.worker.connections.keep(&attempt.peer, upstream, attempt.idle_timeout, announced, Instant::now());
                }
                (Cause::None, if close { Next::Close } else { Next::Request })
            }
            Ok(()) => {
                // The endpoint answered early and wants no more of the request.
                close = true;
                (Cause::None, if close { Next::Linger } else { Next::Request })
            }
            Err(cause) => (cause, Next::Abort),
        };
        exchange.attempt_ended(&attempt, &self.head, Some(status), cause);
        if keeps_mirrors && request_done {
            self.mirror(&exchange);
        }
        exchange.finish(&self.head, status, cause, bytes);
        next
    }

    /// Moves both bodies to their ends.
    async fn relay(&mut self, upstream: &mut Conn, request: &mut Pump, response: &mut Pump, attempt: &Attempt) -> Result<(), Cause> {
        let Self { conn, replay, .. } = self;
        let mut clock = Clock::new(attempt.deadline, attempt.idle);
        let mut sending = !request.is_done();
        poll_fn(|cx| {
            match clock.poll(cx, request.moved + response.moved) {
                Some(Expired::Deadline) => return Poll::Ready(Err(Cause::RequestTimeout)),
                Some(Expired::Idle) => return Poll::Ready(Err(Cause::IdleTimeout)),
                None => {}
            }
            if sending {
                match request.poll(cx, conn, upstream, Some(replay)) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(()) | Err(PumpError::Write(_))) => sending = false,
                    Poll::Ready(Err(PumpError::Body(_))) => return Poll::Ready(Err(Cause::BadRequest)),
                    Poll::Ready(Err(PumpError::Read(_) | PumpError::Truncated)) => return Poll::Ready(Err(Cause::ClientGone)),
                }
            } else if !response.is_done() && follow(conn, upstream, cx) {
                return Poll::Ready(Err(Cause::ClientGone));
            }
            match response.poll(cx, upstream, conn, None) {
                // A request that goes on after its response is read to its end while the endpoint reads it.
                Poll::Ready(Ok(())) if sending && !upstream.ended => {
                    if upstream.poll_fill(cx).is_ready() {
                        return Poll::Ready(Ok(()));
                    }
                    Poll::Pending
                }
                Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
                Poll::Ready(Err(PumpError::Write(_))) => Poll::Ready(Err(Cause::ClientGone)),
                Poll::Ready(Err(PumpError::Body(_))) => Poll::Ready(Err(Cause::UpstreamProtocol)),
                Poll::Ready(Err(PumpError::Read(_) | PumpError::Truncated)) => Poll::Ready(Err(Cause::Reset)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Sends copies of a request whose body was kept whole.
    fn mirror(&self, exchange: &Exchange) {
        let Some(body) = self.replay.bytes() else {
            exchange.client.worker.metrics.mirror_skipped();
            return;
        };
        let mut bytes = Vec::new();
        self.head.write(&mut bytes, false);
        bytes.extend_from_slice(body);
        let bytes = Bytes::from(bytes);
        for backend in &exchange.mirrors {
            super::mirror::send(&exchange.client.worker, backend.clone(), bytes.clone());
        }
    }

    /// Sends the proxy's own answer.
    async fn reply(&mut self, exchange: Exchange, reply: Reply, request: &mut Pump) -> Next {
        // A body that is here already must not cost the client its connection.
        let request_read = request.discard(&mut self.conn);
        let close = reply.cause.answer().close || !self.head.keeps_alive() || !request_read || self.client.is_ending();
        self.write_reply(&reply, close, self.head.method() == "HEAD");
        let conn = &mut self.conn;
        let flushed = poll_fn(|cx| conn.poll_flush(cx)).await;
        exchange.finish(&self.head, reply.status, reply.cause, (request.moved, reply.body.len() as u64));
        match flushed {
            Err(_) => Next::Abort,
            Ok(()) if !request_read => Next::Linger,
            Ok(()) if close => Next::Close,
            Ok(()) => Next::Request,
        }
    }

    fn write_reply(&mut self, reply: &Reply, close: bool, to_head: bool) {
        let reason = http::StatusCode::from_u16(reply.status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Error");
        let mut text = format!("HTTP/1.1 {} {reason}\r\n", reply.status);
        for (name, value) in &reply.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if reply.cause != Cause::Filter {
            text.push_str(&format!("{}: {}\r\nContent-Type: text/plain; charset=utf-8\r\n", Reply::MARK, reply.cause.flag()));
        }
        if reply.status != 204 {
            text.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
        }
        if close {
            text.push_str("Connection: close\r\n");
        } else if self.head.version() == 0 {
            text.push_str("Connection: keep-alive\r\n");
        }
        text.push_str("\r\n");
        if !to_head && reply.status != 204 {
            text.push_str(&reply.body);
        }
        self.conn.output().extend_from_slice(text.as_bytes());
    }

    async fn close(mut self) {
        let conn = &mut self.conn;
        let _ = poll_fn(|cx| conn.poll_flush(cx)).await;
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut conn.io).await;
    }

    /// Ends this side, and reads a little of what still comes, so that a reset does not destroy the answer on its way (RFC 9112 §9.6).
    async fn linger(mut self) {
        let conn = &mut self.conn;
        let _ = poll_fn(|cx| conn.poll_flush(cx)).await;
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut conn.io).await;
        let drained = poll_fn(|cx| {
            loop {
                let len = conn.input.len();
                conn.input.consume(len);
                match conn.poll_fill(cx) {
                    Poll::Ready(Ok(n)) if n > 0 => {}
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        let _ = tokio::time::timeout(LINGER, drained).await;
    }

    /// Cuts the connection so that the client cannot take what it got for a whole response.
    fn abort(mut self) {
        // What came before the cut is the client's, as far as it goes at once.
        let _ = self.conn.poll_flush(&mut Context::from_waker(Waker::noop()));
        forward::reset(self.conn.io.tcp());
    }
}

impl Drop for Session {
    /// A response that is cut, at the end of this sidecar or by a fault of it, must not look whole.
    fn drop(&mut self) {
        if self.answering {
            forward::reset(self.conn.io.tcp());
        }
    }
}

enum Judged {
    Done(Box<Reply>),
    Gone,
    Again { fresh: bool, delay: Duration },
    Forward(Box<(Attempt, Conn)>),
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the client went away")]
    ClientGone,
    #[error(transparent)]
    Request(BodyError),
    #[error("no response in time")]
    Timeout(Expired),
    /// `silent`: not a byte of a response came.
    #[error("{}", if *.silent { "the connection ended without a response" } else { "the connection ended within the response's head" })]
    Closed { silent: bool },
    #[error("the response is malformed: {0}")]
    Head(HeadError),
    #[error("the limit is {0} bytes (HEDDLE_HEADER_LIMIT)")]
    HeadTooLarge(usize),
}

/// Watches a client that has sent its request; whether its connection has failed.
///
/// That it has ended its own side is no failure: it may still read, as an HTTP/1.0 client may, or it may be gone, which nobody can tell
/// before something is written to it. The endpoint is told the same, as it would be without proxies between: a server that gives up a
/// long poll when its client leaves does so here too.
fn follow(conn: &mut Conn, upstream: &mut Conn, cx: &mut Context<'_>) -> bool {
    // Until there is nothing to read: only then the task is woken for what comes.
    while !conn.ended && !conn.input.is_full() {
        match conn.poll_fill(cx) {
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(_)) => return true,
            Poll::Pending => break,
        }
    }
    if conn.ended && conn.input.is_empty() {
        // An endpoint that cannot be told has failed, which reading from it shows.
        let _told = upstream.poll_finish(cx);
    }
    false
}

/// Reads until a response's head is parsed and consumed: an interim one, or the final one. `tried`: bytes that were parsed in vain.
fn read_response(
    cx: &mut Context<'_>,
    upstream: &mut Conn,
    response: &mut ResponseHead,
    limit: usize,
    (to_head, to_connect): (bool, bool),
    tried: &mut usize,
) -> Poll<Result<(), Failure>> {
    loop {
        if !upstream.input.is_empty() && is_ripe(upstream.input.data(), *tried) {
            match response.parse(upstream.input.data(), to_head, to_connect) {
                Ok(Some(len)) if len <= limit => {
                    upstream.input.consume(len);
                    return Poll::Ready(Ok(()));
                }
                Ok(None) => *tried = upstream.input.len(),
                Ok(Some(_)) => return Poll::Ready(Err(Failure::HeadTooLarge(limit))),
                Err(error) => return Poll::Ready(Err(Failure::Head(error))),
            }
        }
        if upstream.input.len() > limit || (upstream.input.is_full() && !upstream.input.grow(limit + 1)) {
            return Poll::Ready(Err(Failure::HeadTooLarge(limit)));
        }
        match upstream.poll_fill(cx) {
            Poll::Ready(Ok(n)) if n > 0 => {}
            Poll::Ready(Ok(_) | Err(_)) => return Poll::Ready(Err(Failure::Closed { silent: upstream.input.is_empty() })),
            Poll::Pending => return Poll::Pending,
        }
    }
}

/// Whether it is worth while to parse a head again of which `tried` bytes were too few: its end may have come, or as much again. A peer
/// that sends a large head byte by byte must not make each byte cost a parse of all of them.
fn is_ripe(data: &[u8], tried: usize) -> bool {
    let fresh = &data[tried.saturating_sub(3).min(data.len())..];
    data.len() >= 2 * tried || fresh.windows(2).any(|w| w == b"\n\n") || fresh.windows(3).any(|w| w == b"\n\r\n")
}

impl RequestEdit for RequestHead {
    fn each<'a>(&'a self, f: &mut dyn FnMut(&'a [u8], &'a [u8])) {
        self.each_field(f);
    }
    fn value(&self, name: &str) -> Option<&[u8]> {
        Self::value(self, name)
    }
    fn set(&mut self, name: &str, value: &[u8]) {
        Self::set(self, name, value);
    }
    fn append(&mut self, name: &str, value: &[u8]) {
        Self::append(self, name, value);
    }
    fn remove(&mut self, name: &str) {
        Self::remove(self, name);
    }
    fn set_path(&mut self, path: &str) {
        Self::set_path(self, path);
    }
    fn set_authority(&mut self, authority: &str) {
        Self::set_authority(self, authority);
    }
    fn authority_text(&self) -> Option<&str> {
        self.authority()
    }
    fn protocol_name(&self) -> &'static str {
        if self.version() == 1 { "HTTP/1.1" } else { "HTTP/1.0" }
    }
}

impl ResponseEdit for ResponseHead {
    fn status_code(&self) -> u16 {
        self.status()
    }
    fn value(&self, name: &str) -> Option<&[u8]> {
        Self::value(self, name)
    }
    fn set(&mut self, name: &str, value: &[u8]) {
        Self::set(self, name, value);
    }
    fn append(&mut self, name: &str, value: &[u8]) {
        Self::append(self, name, value);
    }
    fn remove(&mut self, name: &str) {
        Self::remove(self, name);
    }
}
