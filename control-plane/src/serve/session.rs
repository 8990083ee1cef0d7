//! One discovery stream: greeting, then whatever its ledger has to tell, in the pace at which the transport takes it.
//!
//! There is no queue between this and the transport: the transport asks for the next message, and only then it is made. While a slow
//! sidecar takes none, revisions pass by, and it gets the difference to the latest one: nothing piles up.

use crate::metrics::{Bound, Metrics, Push};
use crate::serve::ledger::{Ledger, Outgoing};
use crate::serve::sidecars::{Connected, Sidecars};
use crate::serve::view::View;
use futures_util::{FutureExt as _, StreamExt as _};
use heddle_identity::VerifiedPeer;
use heddle_model::{SpiffeId, Target, proto};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Status, Streaming};

/// The version of the wire that this control plane speaks. It speaks the one before too, and so does a sidecar of the next one: either
/// side may be upgraded first, by one version at a time.
pub const PROTOCOL: u32 = 1;

/// How often a quiet stream says that it lives.
pub const HEARTBEAT: Duration = Duration::from_secs(2);

/// How long changes of policies are gathered. Endpoints never wait.
pub const GATHER: Duration = Duration::from_millis(20);

/// How long a sidecar may take to introduce itself.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages of the sidecar that are taken in before one of ours is sent.
const MAX_TAKEN: usize = 64;

/// With so many messages to send, those of the sidecar wait: the answers to all its targets, each with endpoints of some backends.
const MAX_QUEUED: usize = 4 * crate::serve::ledger::MAX_TARGETS;

/// Longest name of a workload (Kubernetes: a DNS subdomain).
const MAX_WORKLOAD: usize = 253;

/// What every stream has in common.
#[derive(Debug, Clone)]
pub struct Common {
    /// The latest view.
    pub views: watch::Receiver<Arc<View>>,
    /// Turns true when the control plane ends.
    pub stop: watch::Receiver<bool>,
    /// Who is connected.
    pub sidecars: Arc<Sidecars>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// One stream.
#[derive(Debug)]
pub struct Session {
    common: Common,
    peer: VerifiedPeer,
    expires: Instant,
    incoming: Streaming<proto::SidecarMessage>,
    greeted: Option<Greeted>,
}

#[derive(Debug)]
struct Greeted {
    namespace: String,
    workload: String,
    ledger: Ledger,
    /// The latest view that the ledger was told of.
    seen: Arc<View>,
    connected: Connected,
    heartbeat_at: Instant,
    /// When gathered changes of policies are to be told; `None`: everything of the latest seen view was.
    gathered_at: Option<Instant>,
}

/// What a session waited for.
enum Event {
    Stop,
    Expired,
    View,
    Gathered,
    Heartbeat,
    Message(Option<Result<proto::SidecarMessage, Status>>),
}

impl Session {
    /// Begins a stream of a verified peer, whose certificate ends at `expires`.
    pub fn new(common: Common, peer: VerifiedPeer, expires: Instant, incoming: Streaming<proto::SidecarMessage>) -> Self {
        Self { common, peer, expires, incoming, greeted: None }
    }

    /// Waits for the next message to send; an error ends the stream.
    ///
    /// Cancel safe: what was taken in is in the ledger, and a message leaves it only together with the return.
    pub async fn next(&mut self) -> Result<proto::ControlMessage, Status> {
        if self.greeted.is_none() {
            self.greeted = Some(self.greet().await?);
        }
        loop {
            let Some(greeted) = &mut self.greeted else { return Err(Status::internal("the stream was not greeted")) };
            let mut taken = 0;
            // So that a sidecar which sends before it reads is never left waiting.
            while taken < MAX_TAKEN
                && greeted.ledger.queued() < MAX_QUEUED
                && let Some(message) = self.incoming.next().now_or_never()
            {
                greeted.take(&self.common, message)?;
                taken += 1;
            }
            if let Some(outgoing) = greeted.ledger.pop() {
                return Ok(greeted.message(&self.common.metrics, outgoing));
            }
            let event = greeted.wait(&mut self.common, &mut self.incoming, self.expires).await;
            greeted.handle(&mut self.common, &self.peer, event)?;
        }
    }

    async fn greet(&mut self) -> Result<Greeted, Status> {
        let first = tokio::select! {
            () = tokio::time::sleep(HELLO_TIMEOUT) => {
                self.common.metrics.refused(Bound::Hello);
                return Err(Status::deadline_exceeded("the sidecar did not say hello"));
            }
            first = self.incoming.next() => first,
        };
        let hello = match first {
            Some(Ok(proto::SidecarMessage { message: Some(proto::sidecar_message::Message::Hello(hello)) })) => hello,
            Some(Ok(_)) => return Err(Status::failed_precondition("the first message of a stream is Hello")),
            Some(Err(status)) => return Err(status),
            None => return Err(Status::cancelled("the sidecar has gone")),
        };
        let view = self.common.views.borrow_and_update().clone();
        let proto::Hello { protocol, namespace, workload, sidecar_version } = hello;
        check_protocol(protocol)?;
        admit(&view, self.peer.id(), &namespace, &workload).inspect_err(|status| {
            tracing::warn!(peer = %self.peer.id(), namespace, reason = status.message(), "sidecar refused");
        })?;
        let version: String = sidecar_version.chars().take(64).collect();
        let connected = self.common.sidecars.connect(&namespace, &workload, &version, Instant::now()).map_err(|_| {
            self.common.metrics.refused(Bound::Streams);
            Status::resource_exhausted("the control plane has as many streams as it takes: run another replica")
        })?;
        tracing::info!(namespace, workload, version, "sidecar connected");
        let mut ledger = Ledger::new(&namespace, &workload, self.peer.id().trust_domain());
        ledger.policies(&view);
        ledger.heartbeat(view.snapshot().revision());
        Ok(Greeted { namespace, workload, ledger, seen: view, connected, heartbeat_at: Instant::now() + HEARTBEAT, gathered_at: None })
    }
}

impl Greeted {
    /// Waits until there is something to do.
    async fn wait(&mut self, common: &mut Common, incoming: &mut Streaming<proto::SidecarMessage>, expires: Instant) -> Event {
        let gathered_at = self.gathered_at;
        let gathered = async {
            match gathered_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // In order, so that a flood of messages cannot keep the end or a change of endpoints waiting. Nothing is lost with the
            // losers: channels keep what they hold, and times stay.
            biased;
            _ = common.stop.wait_for(|stop| *stop) => Event::Stop,
            () = tokio::time::sleep_until(expires) => Event::Expired,
            changed = common.views.changed() => changed.map_or(Event::Stop, |()| Event::View),
            () = gathered => Event::Gathered,
            // A heartbeat vouches for everything of its revision: not while changes are gathered.
            () = tokio::time::sleep_until(self.heartbeat_at), if gathered_at.is_none() => Event::Heartbeat,
            message = incoming.next() => Event::Message(message),
        }
    }

    fn handle(&mut self, common: &mut Common, peer: &VerifiedPeer, event: Event) -> Result<(), Status> {
        match event {
            Event::Stop => return Err(Status::unavailable("the control plane is stopping")),
            // The peer proved itself once, at the handshake: it has to do so again with its renewed certificate.
            Event::Expired => return Err(Status::unauthenticated("the certificate of this connection has expired: connect again")),
            Event::View => {
                self.seen = common.views.borrow_and_update().clone();
                admit(&self.seen, peer.id(), &self.namespace, &self.workload)?;
                self.ledger.endpoints(&self.seen);
                // Set once for the first change, so that later ones cannot put it off.
                self.gathered_at.get_or_insert_with(|| Instant::now() + GATHER);
            }
            Event::Gathered => {
                self.gathered_at = None;
                self.ledger.policies(&self.seen);
                // Here too: while changes never cease, no other moment has all of a revision.
                if self.heartbeat_at <= Instant::now() {
                    self.beat();
                }
            }
            Event::Heartbeat => self.beat(),
            Event::Message(message) => self.take(common, message)?,
        }
        Ok(())
    }

    fn beat(&mut self) {
        self.ledger.heartbeat(self.seen.snapshot().revision());
        self.heartbeat_at = Instant::now() + HEARTBEAT;
    }

    /// Takes in a message of the sidecar.
    fn take(&mut self, common: &Common, message: Option<Result<proto::SidecarMessage, Status>>) -> Result<(), Status> {
        use proto::sidecar_message::Message;
        let Some(message) = message else { return Err(Status::cancelled("the sidecar has ended the stream")) };
        match message?.message {
            Some(Message::Hello(_)) => return Err(Status::failed_precondition("a stream has one Hello")),
            Some(Message::Subscribe(proto::Subscribe { target })) => {
                let target = target_of(target)?;
                self.ledger.subscribe(&self.seen, target).map_err(|error| {
                    common.metrics.refused(Bound::Targets);
                    Status::resource_exhausted(error.to_string())
                })?;
            }
            Some(Message::Unsubscribe(proto::Unsubscribe { target })) => {
                let target = target_of(target)?;
                self.ledger.unsubscribe(&target);
                self.connected.unsubscribed(&target);
            }
            Some(Message::Ack(proto::Ack { target, version, error })) => {
                let target = target_of(target)?;
                if !error.is_empty() {
                    tracing::warn!(workload = self.workload, target = %target, version, error, "sidecar refused a version");
                }
                self.connected.acked(&target, &version, &error);
            }
            // A later version of the wire may say more.
            None => {}
        }
        Ok(())
    }

    /// Makes the message for the wire.
    fn message(&self, metrics: &Metrics, outgoing: Outgoing) -> proto::ControlMessage {
        use proto::control_message::Message;
        let (kind, message) = match outgoing {
            Outgoing::Endpoints(update) => (Push::Endpoints, Message::Endpoints((&update).into())),
            Outgoing::Outbound(target, answer) => {
                self.connected.sent(&target, &answer.version);
                let update = proto::OutboundUpdate {
                    target: Some((&target).into()),
                    version: answer.version.clone(),
                    policy: answer.policy.clone(),
                };
                (Push::Outbound, Message::Outbound(update))
            }
            Outgoing::Inbound(target, answer) => {
                self.connected.sent(&target, &answer.version);
                let update =
                    proto::InboundUpdate { target: Some((&target).into()), version: answer.version.clone(), policy: answer.policy.clone() };
                (Push::Inbound, Message::Inbound(update))
            }
            Outgoing::Trust(bundle) => (Push::Trust, Message::Trust(bundle)),
            Outgoing::Settings(settings) => {
                self.connected.sent_settings(&settings);
                (Push::Settings, Message::Settings((&settings).into()))
            }
            Outgoing::Heartbeat(revision) => (Push::Heartbeat, Message::Heartbeat(proto::Heartbeat { revision })),
        };
        metrics.pushed(kind);
        proto::ControlMessage { message: Some(message) }
    }
}

fn target_of(target: Option<proto::Target>) -> Result<Target, Status> {
    Target::try_from(target).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn check_protocol(protocol: u32) -> Result<(), Status> {
    if (PROTOCOL.saturating_sub(1).max(1)..=PROTOCOL + 1).contains(&protocol) {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "the sidecar speaks version {protocol} of the protocol, and this control plane {PROTOCOL}: upgrade the older of the two"
    )))
}

/// Whether a peer may ask for a workload: the namespace must be its own, and so must the service account of the pod, if it is known.
fn admit(view: &View, peer: &SpiffeId, namespace: &str, workload: &str) -> Result<(), Status> {
    if peer.namespace() != Some(namespace) {
        return Err(Status::permission_denied(format!("{peer} is not of namespace \"{namespace}\"")));
    }
    if workload.is_empty() || workload.len() > MAX_WORKLOAD {
        return Err(Status::permission_denied("a workload has a name of 1 to 253 bytes"));
    }
    match view.service_account(namespace, workload) {
        Some(account) if peer.service_account() != Some(account) => {
            Err(Status::permission_denied(format!("{peer} is not the service account \"{account}\" of pod {namespace}/{workload}")))
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_protocol_and_the_next_are_spoken() {
        assert!(check_protocol(PROTOCOL).is_ok());
        assert!(check_protocol(PROTOCOL + 1).is_ok());
        for other in [0, PROTOCOL + 2] {
            assert_eq!(check_protocol(other).unwrap_err().code(), tonic::Code::FailedPrecondition);
        }
    }
}
