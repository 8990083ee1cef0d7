//! Moves the data and trailers of one stream to another, with flow control end to end: what the receiver has not taken, the sender
//! may not send.

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use heddle_model::retry::REPLAY_BYTES_MAX;
use http::HeaderMap;
use std::task::{Context, Poll, ready};

/// The first bytes of a body, for another attempt.
#[derive(Debug, Default)]
pub struct Replay {
    chunks: Vec<Bytes>,
    len: usize,
    trailers: Option<HeaderMap>,
    overflowed: bool,
    sealed: bool,
}

impl Replay {
    /// What was sent; `None`: more than is kept.
    pub fn chunks(&self) -> Option<&[Bytes]> {
        (!self.overflowed).then_some(&self.chunks)
    }

    /// The trailers that were sent.
    pub fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }

    /// No other attempt will come.
    pub fn seal(&mut self) {
        self.sealed = true;
    }

    fn push(&mut self, chunk: &Bytes) {
        if self.sealed || self.overflowed || self.len + chunk.len() > REPLAY_BYTES_MAX {
            self.overflowed = true;
            self.chunks.clear();
        } else {
            self.len += chunk.len();
            self.chunks.push(chunk.clone());
        }
    }
}

/// Why a stream stopped moving.
#[derive(Debug)]
pub enum PumpError {
    /// The sender failed or gave up, for this reason.
    From(Reason),
    /// The receiver failed or refused more, for this reason.
    To(Reason),
}

/// The sender's side of a pump: a stream, and what another attempt has to send first.
#[derive(Debug)]
pub struct Source {
    stream: RecvStream,
    data_done: bool,
    done: bool,
    /// Data bytes taken so far.
    pub moved: u64,
    /// Bytes taken whose room was not given back to the sender. What another attempt sends again gave its room back before.
    unreleased: usize,
    /// The trailers that ended it.
    pub trailers: Option<HeaderMap>,
}

impl Source {
    /// A body that begins.
    pub fn new(stream: RecvStream) -> Self {
        let done = stream.is_end_stream();
        Self { stream, data_done: done, done, moved: 0, unreleased: 0, trailers: None }
    }

    /// Whether all of it was taken.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Lets the sender send as much again as went on.
    fn release(&mut self, sent: usize) {
        let room = sent.min(self.unreleased);
        self.unreleased -= room;
        // A stream that has ended needs no room.
        let _ = self.stream.flow_control().release_capacity(room);
    }
}

/// The receiver's side of a pump.
#[derive(Debug)]
pub struct Sink {
    stream: SendStream<Bytes>,
    queue: std::collections::VecDeque<Bytes>,
    ended: bool,
}

impl Sink {
    /// Sends `replay` first. `ended`: END_STREAM was sent with the head.
    pub fn new(stream: SendStream<Bytes>, replay: &[Bytes], ended: bool) -> Self {
        Self { stream, queue: replay.iter().cloned().collect(), ended }
    }

    /// Whether END_STREAM was sent.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Gives the stream up for a reason.
    pub fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }
}

/// Moves what is there; `Ready(Ok)`: the whole body and its end.
pub fn poll(cx: &mut Context<'_>, from: &mut Source, to: &mut Sink, mut replay: Option<&mut Replay>) -> Poll<Result<(), PumpError>> {
    loop {
        while let Some(chunk) = to.queue.front_mut() {
            if !chunk.is_empty() {
                to.stream.reserve_capacity(chunk.len());
                let room = if to.stream.capacity() > 0 {
                    to.stream.capacity()
                } else {
                    match ready!(to.stream.poll_capacity(cx)) {
                        // Taken back between its grant and now.
                        Some(Ok(0)) => continue,
                        Some(Ok(room)) => room,
                        Some(Err(error)) => return Poll::Ready(Err(PumpError::To(reason(&error)))),
                        None => return Poll::Ready(Err(PumpError::To(Reason::NO_ERROR))),
                    }
                };
                let part = chunk.split_to(room.min(chunk.len()));
                let sent = part.len();
                // A message that ends with its data costs one frame, not two.
                let last = chunk.is_empty() && to.queue.len() == 1 && ends_now(from);
                to.stream.send_data(part, last).map_err(|e| PumpError::To(reason(&e)))?;
                to.ended |= last;
                // Only what went on makes room for more.
                from.release(sent);
            }
            if to.queue.front().is_some_and(Bytes::is_empty) {
                to.queue.pop_front();
            }
        }
        if to.ended {
            from.data_done = true;
            from.done = true;
            return Poll::Ready(Ok(()));
        }
        if !from.data_done {
            if let Poll::Ready(polled) = from.stream.poll_data(cx) {
                match polled {
                    Some(Ok(chunk)) => {
                        from.moved += chunk.len() as u64;
                        from.unreleased += chunk.len();
                        if let Some(replay) = replay.as_deref_mut() {
                            replay.push(&chunk);
                        }
                        to.queue.push_back(chunk);
                    }
                    Some(Err(error)) => return Poll::Ready(Err(PumpError::From(reason(&error)))),
                    None => from.data_done = true,
                }
                continue;
            }
            return poll_refused(cx, to);
        }
        if !from.done {
            match from.stream.poll_trailers(cx) {
                Poll::Ready(Ok(trailers)) => {
                    from.done = true;
                    if let Some(replay) = replay.as_deref_mut() {
                        replay.trailers.clone_from(&trailers);
                    }
                    from.trailers = trailers;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(PumpError::From(reason(&error)))),
                Poll::Pending => return poll_refused(cx, to),
            }
        }
        let ended = match &from.trailers {
            Some(trailers) => to.stream.send_trailers(trailers.clone()),
            None => to.stream.send_data(Bytes::new(), true),
        };
        to.ended = true;
        return Poll::Ready(ended.map_err(|e| PumpError::To(reason(&e))));
    }
}

/// Whether the sender's last frame, which carried data, also ended its stream. Trailers that were taken for an earlier attempt end it
/// in this one too.
fn ends_now(from: &Source) -> bool {
    from.trailers.is_none() && (from.done || from.stream.is_end_stream())
}

/// While the sender is waited for, the receiver may give up.
fn poll_refused(cx: &mut Context<'_>, to: &mut Sink) -> Poll<Result<(), PumpError>> {
    match to.stream.poll_reset(cx) {
        Poll::Ready(Ok(reason)) => Poll::Ready(Err(PumpError::To(reason))),
        Poll::Ready(Err(error)) => Poll::Ready(Err(PumpError::To(reason(&error)))),
        Poll::Pending => Poll::Pending,
    }
}

/// The reason to tell the other leg.
pub fn reason(error: &h2::Error) -> Reason {
    error.reason().unwrap_or(Reason::CANCEL)
}
