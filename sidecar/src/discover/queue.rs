//! What a sidecar has to say on one stream, in order; filled from any thread, emptied by the stream.

use futures_util::Stream;
use heddle_model::proto;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// Every target may be asked for, given up and acknowledged while the stream is slow, and four times over. A control plane that
/// is slower than this is stuck, and the stream is given up.
pub(super) const MESSAGES_MAX: usize = 4 * 3 * super::state::TARGETS_MAX;

/// The queue of one stream.
#[derive(Debug, Default)]
pub(super) struct Queue {
    messages: Mutex<Messages>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Messages {
    waiting: VecDeque<proto::SidecarMessage>,
    overflowed: bool,
}

impl Queue {
    /// Adds a message. When there is no room it is dropped, and the stream ends: the next one says everything anew.
    pub(super) fn push(&self, message: proto::sidecar_message::Message) {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        if messages.waiting.len() < MESSAGES_MAX {
            messages.waiting.push_back(proto::SidecarMessage { message: Some(message) });
        } else {
            messages.overflowed = true;
        }
        drop(messages);
        self.filled.notify_one();
    }

    /// The messages as a stream for tonic, which ends when the queue has overflowed. One reader at a time.
    pub(super) fn messages(self: Arc<Self>) -> impl Stream<Item = proto::SidecarMessage> + Send + 'static {
        futures_util::stream::unfold(self, |queue| async move {
            loop {
                match queue.pop() {
                    Popped::Message(message) => return Some((message, queue)),
                    Popped::Overflowed => return None,
                    // A push since then has left a permit.
                    Popped::Empty => queue.filled.notified().await,
                }
            }
        })
    }

    fn pop(&self) -> Popped {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        match messages.waiting.pop_front() {
            _ if messages.overflowed => Popped::Overflowed,
            Some(message) => Popped::Message(message),
            None => Popped::Empty,
        }
    }
}

enum Popped {
    Message(proto::SidecarMessage),
    Overflowed,
    Empty,
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt, StreamExt};
    use std::pin::pin;

    fn unsubscribe() -> proto::sidecar_message::Message {
        proto::sidecar_message::Message::Unsubscribe(proto::Unsubscribe { target: None })
    }

    #[tokio::test]
    async fn a_waiting_reader_gets_what_is_pushed() {
        let queue = Arc::new(Queue::default());
        let mut messages = pin!(Arc::clone(&queue).messages());
        assert!(messages.next().now_or_never().is_none(), "nothing yet");
        queue.push(unsubscribe());
        assert!(messages.next().await.is_some());
        assert!(messages.next().now_or_never().is_none());
    }

    #[tokio::test]
    async fn an_overflow_ends_the_stream() {
        let queue = Arc::new(Queue::default());
        for _ in 0..MESSAGES_MAX {
            queue.push(unsubscribe());
        }
        let mut messages = pin!(Arc::clone(&queue).messages());
        assert!(messages.next().await.is_some());
        queue.push(unsubscribe());
        queue.push(unsubscribe());
        assert!(messages.next().await.is_none());
    }
}
