//! The task that holds the stream to the control plane: connects, says what is wanted, applies what comes, and begins again when
//! it breaks or falls silent.

use super::Discovery;
use super::channel::{self, ChannelError, causes};
use super::queue::Queue;
use super::state::Effect;
use super::wire::discovery_client::DiscoveryClient;
use crate::config::{Config, HostPort};
use crate::credentials::Credentials;
use fastrand::Rng;
use futures_util::StreamExt;
use heddle_identity::{Certificate, SpiffeId, SpiffeIdError, TlsContext};
use heddle_model::proto;
use heddle_model::retry::Backoff;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::{Code, Status};

/// The control plane sends a heartbeat every two seconds: after three missed ones the stream is dead, whatever TCP thinks.
const SILENCE_MAX: Duration = Duration::from_secs(6);
/// The answer to the call itself, connection made.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// Pauses begin here.
const BACKOFF_BASE: Duration = Duration::from_millis(50);
/// Half a second, so that what changed during an outage is in force within a second of the control plane's return. A thousand
/// sidecars make 2,000 dials a second of it, which a host that refuses them does not notice.
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// When the control plane answers, and refuses: asking often does not help.
const BACKOFF_MAX_REFUSED: Duration = Duration::from_secs(2);
/// A stream that lasted so long was a good one: the next failure is the first again.
const GOOD: Duration = Duration::from_secs(1);
/// Handshakes that fail so often in a row put the certificate in doubt.
const DOUBTFUL: u32 = 3;
/// How often idle targets are looked for.
const EVICTION: Duration = Duration::from_secs(10);
/// One message: a policy of thousands of rules, or ten thousand endpoints with their names.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The task behind [`Discovery`]: [`Stream::run`] on the control thread.
#[derive(Debug)]
pub struct Stream {
    namespace: String,
    workload: String,
    control_plane: HostPort,
    control_plane_id: SpiffeId,
    discovery: Discovery,
    credentials: Credentials,
    rng: Rng,
}

type Contexts = watch::Receiver<Option<Arc<TlsContext>>>;

/// Why a stream ended. It always does.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("the control plane ended the stream ({:?}): {}", .0.code(), .0.message())]
    Status(Status),
    #[error("the control plane closed the stream")]
    Closed,
    /// The control plane ends connections when their certificate does; this is earlier, and without a pause.
    #[error("the certificate was renewed")]
    Renewed,
    #[error("the control plane was silent for {} s", SILENCE_MAX.as_secs())]
    Silent,
}

impl End {
    /// Whether the control plane is there and does not want us: a pause of seconds, and perhaps a new certificate.
    fn refused(&self) -> bool {
        match self {
            Self::Status(status) => matches!(
                status.code(),
                Code::Unauthenticated | Code::PermissionDenied | Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented
            ),
            Self::Channel(_) | Self::Closed | Self::Silent | Self::Renewed => false,
        }
    }

    /// Whether it may be the certificate's fault, or that of the roots. A server refuses a client's certificate after the client's
    /// handshake is over (RFC 8446 §4.4.2.4), which looks like a broken connection.
    fn doubts_certificate(&self) -> bool {
        match self {
            Self::Channel(ChannelError::Connect { .. }) | Self::Closed | Self::Silent | Self::Renewed => false,
            Self::Channel(ChannelError::Tls { .. } | ChannelError::Http2 { .. }) => true,
            Self::Status(status) => {
                matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied | Code::Unknown | Code::Unavailable | Code::Internal)
            }
        }
    }
}

impl Stream {
    pub(super) fn new(config: &Config, discovery: Discovery, credentials: Credentials, rng: Rng) -> Result<Self, SpiffeIdError> {
        Ok(Self {
            namespace: config.namespace.clone(),
            workload: config.workload.clone(),
            control_plane: config.control_plane.clone(),
            control_plane_id: channel::control_plane_id(&config.trust_domain, &config.control_plane)?,
            discovery,
            credentials,
            rng,
        })
    }

    /// Streams, for ever. Cancel safe: dropped, the stream closes, and all that is known stays known.
    pub async fn run(mut self) {
        let mut contexts = self.credentials.context();
        let mut failures = 0u32;
        while let Some(context) = next_context(&mut contexts).await {
            let began = Instant::now();
            let Err(end) = self.session(&context, &mut contexts).await;
            if matches!(end, End::Renewed) {
                tracing::debug!("beginning a new stream with the renewed certificate");
                failures = 0;
                continue;
            }
            self.discovery.state().disconnected();
            failures = if began.elapsed() >= GOOD { 1 } else { failures.saturating_add(1) };
            if failures.is_power_of_two() {
                tracing::warn!(error = causes(&end), failures, "no stream from the control plane, going on with what is known");
            }
            if failures >= DOUBTFUL && end.doubts_certificate() {
                self.credentials.doubt();
            }
            let wait = self.backoff(&end, failures);
            tokio::select! {
                () = sleep(wait) => {}
                // A new certificate, or new roots: what failed may succeed now. (The context is taken at the loop's head.)
                _ = contexts.changed() => {}
            }
        }
    }

    fn backoff(&mut self, end: &End, failures: u32) -> Duration {
        let max = if end.refused() { BACKOFF_MAX_REFUSED } else { BACKOFF_MAX };
        // Base and maximum are constants in order. One step ahead, so that the first pause is spread already: all sidecars lose
        // their streams at once.
        Backoff::try_new(BACKOFF_BASE, max).map_or(BACKOFF_BASE, |backoff| backoff.delay(failures.saturating_add(1), self.rng.f64()))
    }

    async fn session(&mut self, context: &TlsContext, contexts: &mut Contexts) -> Result<Infallible, End> {
        self.discovery.state().counts.attempts += 1;
        let tls = context.control_plane_client(&self.control_plane_id);
        let channel = channel::connect(&self.control_plane, tls).await?;
        let queue = Arc::new(Queue::default());
        let mut client = DiscoveryClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        // From here on, what is subscribed goes to this queue; what was before is in it.
        self.discovery.state().connected(Arc::clone(&queue), &self.namespace, &self.workload);
        let messages = timeout(OPEN_TIMEOUT, client.discover(queue.messages())).await.map_err(|_| End::Silent)?;
        let messages = messages.map_err(End::Status)?.into_inner();
        tracing::info!(control_plane = %self.control_plane, "stream from the control plane is open");
        let renewed = renewed(contexts, context.certificate());
        follow(&self.discovery, &self.credentials, messages, renewed).await
    }
}

/// Applies messages until there is none for too long, the stream ends, or the certificate is `renewed`.
async fn follow(
    discovery: &Discovery,
    credentials: &Credentials,
    mut messages: impl futures_util::Stream<Item = Result<proto::ControlMessage, Status>> + Unpin,
    renewed: impl Future<Output = ()>,
) -> Result<Infallible, End> {
    let mut renewed = pin!(renewed);
    let mut heard = Instant::now();
    let mut eviction = tokio::time::interval(EVICTION);
    loop {
        tokio::select! {
            // What has been read of a message is in the stream: nothing is lost when another branch wins.
            message = messages.next() => {
                let message = message.ok_or(End::Closed)?.map_err(End::Status)?;
                heard = Instant::now();
                let effect = discovery.state().apply(message, heard);
                match effect {
                    Effect::Trust(bundle) => credentials.update_trust(bundle),
                    Effect::None => {}
                }
            }
            () = sleep_until(heard + SILENCE_MAX) => return Err(End::Silent),
            () = &mut renewed => return Err(End::Renewed),
            now = eviction.tick() => discovery.state().evict(now),
        }
    }
}

/// Waits for a certificate. `None`: there will never be one, since the task that gets it is gone.
async fn next_context(contexts: &mut Contexts) -> Option<Arc<TlsContext>> {
    contexts.wait_for(Option::is_some).await.ok().and_then(|context| context.clone())
}

/// Waits for another certificate than the one that the stream was begun with. New roots alone are no reason to begin again, which all
/// sidecars would do at once.
async fn renewed(contexts: &mut Contexts, certificate: &Certificate) {
    let other = |context: &Option<Arc<TlsContext>>| context.as_ref().is_some_and(|context| context.certificate() != certificate);
    if contexts.wait_for(other).await.is_err() {
        // The task that renews is gone: nothing will change any more.
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::fake;
    use heddle_model::proto::control_message::Message;
    use std::collections::VecDeque;

    /// Messages that come after so many seconds each; then silence.
    async fn follow_script(script: &[u64]) -> (End, Duration, bool) {
        let config = fake::config("127.0.0.1:1");
        let (credentials, _renewal) = Credentials::new(&config, Rng::with_seed(1)).unwrap();
        let (discovery, _stream) = Discovery::new(&config, &credentials, Rng::with_seed(2)).unwrap();
        let script: VecDeque<_> = script.iter().map(|s| Instant::now() + Duration::from_secs(*s)).collect();
        let began = Instant::now();
        let messages = futures_util::stream::unfold(script, |mut script| async move {
            match script.pop_front() {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
            let message = Message::Heartbeat(proto::Heartbeat { revision: 7 });
            Some((Ok(proto::ControlMessage { message: Some(message) }), script))
        });
        let Err(end) = follow(&discovery, &credentials, Box::pin(messages), std::future::pending()).await;
        (end, began.elapsed(), discovery.inventory().connected)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_is_given_up() {
        let (end, after, connected) = follow_script(&[]).await;
        assert!(matches!(end, End::Silent) && !connected);
        assert_eq!(after, SILENCE_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn heartbeats_keep_a_stream() {
        let (end, after, connected) = follow_script(&[2, 7, 12]).await;
        assert!(matches!(end, End::Silent) && connected);
        assert_eq!(after, Duration::from_secs(12) + SILENCE_MAX);
    }

    #[test]
    fn pauses_leave_room_for_a_second_unless_we_are_not_wanted() {
        let config = fake::config("127.0.0.1:1");
        let (credentials, _renewal) = Credentials::new(&config, Rng::with_seed(1)).unwrap();
        let (_discovery, mut stream) = Discovery::new(&config, &credentials, Rng::with_seed(2)).unwrap();
        let mut longest = |end: &End| (1..100).map(|failures| stream.backoff(end, failures)).max().unwrap();
        for end in [End::Closed, End::Silent, End::Status(Status::unavailable("starting"))] {
            assert!(longest(&end) <= Duration::from_millis(500), "{end}");
        }
        for end in [End::Status(Status::unauthenticated("who?")), End::Status(Status::failed_precondition("too old"))] {
            let longest = longest(&end);
            assert!(longest > Duration::from_secs(1) && longest <= Duration::from_secs(2), "{end}: {longest:?}");
        }
    }
}
