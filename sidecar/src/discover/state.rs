//! Targets, answers and endpoints as pure bookkeeping: messages in, messages out, time as an argument.
//!
//! Rules: a policy comes into force when the endpoints of all its backends are known, and as a whole; what cannot be read changes
//! nothing but is reported; what was in force stays so until something newer replaces it, connected or not.

use super::queue::Queue;
use super::{Known, ResolvedInbound, ResolvedOutbound};
use crate::credentials::trust_bundle;
use heddle_identity::TrustBundle;
use heddle_model::endpoint::EndpointsUpdate;
use heddle_model::proto::{self, control_message, sidecar_message};
use heddle_model::wire::WireError;
use heddle_model::{Endpoint, InboundPolicy, OutboundPolicy, ServicePort, Settings, Target};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Targets at a time. A workload that talks to more destinations than this is a scanner; each costs some KiB here and in the
/// control plane.
pub(super) const TARGETS_MAX: usize = 4096;
/// Backends at a time: four for each target, on average.
const BACKENDS_MAX: usize = 4 * TARGETS_MAX;
/// A target that nobody has used for so long is given up.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// The version of the protocol that this sidecar speaks.
const PROTOCOL: u32 = 1;

/// All that is known.
#[derive(Debug)]
pub(super) struct State {
    targets: HashMap<Target, Entry>,
    backends: HashMap<ServicePort, Backend>,
    settings: watch::Sender<Arc<Settings>>,
    overrides: Overrides,
    /// The stream, while there is one.
    queue: Option<Arc<Queue>>,
    /// Counts streams, to tell a backend's first update on each.
    session: u64,
    heard: Option<Instant>,
    connected: bool,
    /// Answers for targets beyond the bound.
    refused_outbound: watch::Sender<Known<ResolvedOutbound>>,
    refused_inbound: watch::Sender<Known<ResolvedInbound>>,
    pub(super) counts: Counts,
}

/// Settings of this sidecar alone, in place of the mesh's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Overrides {
    pub(super) sampling_ppm: Option<u32>,
    pub(super) access_log: Option<bool>,
}

impl Overrides {
    fn over(self, settings: Settings) -> Settings {
        Settings {
            sampling_ppm: self.sampling_ppm.unwrap_or(settings.sampling_ppm),
            access_log: self.access_log.unwrap_or(settings.access_log),
            ..settings
        }
    }
}

/// What happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Updates that came into force.
    pub(super) applied: u64,
    /// Updates that could not be read.
    pub(super) invalid: u64,
    /// Targets beyond the bound.
    pub(super) refused: u64,
    /// Times that a stream was tried.
    pub(super) attempts: u64,
    /// Streams that were begun, over a connection.
    pub(super) connections: u64,
    /// The control plane's snapshot revision, as of its last heartbeat.
    pub(super) revision: u64,
}

#[derive(Debug)]
struct Entry {
    answer: Answer,
    /// Of the answer in force; empty while pending.
    version: String,
    /// A newer policy, which waits for the endpoints of its backends.
    waiting: Option<(OutboundPolicy, String)>,
    /// Why the newest update is not in force.
    error: Option<String>,
    idle_since: Option<Instant>,
}

#[derive(Debug)]
enum Answer {
    Outbound(watch::Sender<Known<ResolvedOutbound>>),
    Inbound(watch::Sender<Known<ResolvedInbound>>),
}

#[derive(Debug)]
struct Backend {
    endpoints: watch::Sender<Arc<Vec<Endpoint>>>,
    /// The stream that last spoke of it.
    session: u64,
}

/// A message that is for somebody else.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    Trust(TrustBundle),
}

/// Everything in force, as of now.
#[derive(Debug)]
pub struct Inventory {
    /// Whether the control plane is there.
    pub connected: bool,
    /// How long ago it was last heard; since the start when never.
    pub age: Duration,
    /// The revision of its snapshot.
    pub revision: u64,
    /// What is the same for the whole sidecar.
    pub settings: Arc<Settings>,
    /// By target.
    pub targets: BTreeMap<Target, InventoryItem>,
}

/// What is known about one target.
#[derive(Debug)]
pub struct InventoryItem {
    /// The version in force; empty: none.
    pub version: String,
    /// The version that waits for endpoints.
    pub waiting: Option<String>,
    /// Why the newest update is not in force.
    pub error: Option<String>,
    /// The answer, where the target is outbound.
    pub outbound: Option<Known<ResolvedOutbound>>,
    /// The answer, where the target is inbound.
    pub inbound: Option<Known<ResolvedInbound>>,
}

impl State {
    pub(super) fn new(overrides: Overrides) -> Self {
        Self {
            targets: HashMap::new(),
            backends: HashMap::new(),
            settings: watch::Sender::new(Arc::new(overrides.over(Settings::default()))),
            overrides,
            queue: None,
            session: 0,
            heard: None,
            connected: false,
            refused_outbound: watch::Sender::new(Known::Pending),
            refused_inbound: watch::Sender::new(Known::Pending),
            counts: Counts::default(),
        }
    }

    pub(super) fn outbound(&mut self, target: &Target) -> watch::Receiver<Known<ResolvedOutbound>> {
        let entry = match target {
            Target::Address(_) | Target::Authority(_) => self.entry(target, || Answer::Outbound(watch::Sender::new(Known::Pending))),
            Target::InboundPort(_) => None,
        };
        match entry.map(|entry| &entry.answer) {
            Some(Answer::Outbound(sender)) => sender.subscribe(),
            Some(Answer::Inbound(_)) | None => self.refused_outbound.subscribe(),
        }
    }

    pub(super) fn inbound(&mut self, port: u16) -> watch::Receiver<Known<ResolvedInbound>> {
        let entry = self.entry(&Target::InboundPort(port), || Answer::Inbound(watch::Sender::new(Known::Pending)));
        match entry.map(|entry| &entry.answer) {
            Some(Answer::Inbound(sender)) => sender.subscribe(),
            Some(Answer::Outbound(_)) | None => self.refused_inbound.subscribe(),
        }
    }

    pub(super) fn settings(&self) -> watch::Receiver<Arc<Settings>> {
        self.settings.subscribe()
    }

    /// Begins a stream: says hello and asks for everything.
    pub(super) fn connected(&mut self, queue: Arc<Queue>, namespace: &str, workload: &str) {
        queue.push(sidecar_message::Message::Hello(proto::Hello {
            protocol: PROTOCOL,
            namespace: namespace.to_owned(),
            workload: workload.to_owned(),
            sidecar_version: env!("CARGO_PKG_VERSION").to_owned(),
        }));
        for target in self.targets.keys() {
            queue.push(subscribe(target));
        }
        // Kept during a stream even when unused, because the control plane may go on counting on its increments.
        self.backends.retain(|_, backend| backend.endpoints.receiver_count() > 0);
        self.queue = Some(queue);
        self.session += 1;
        self.counts.connections += 1;
    }

    /// Ends a stream. Everything in force stays so.
    pub(super) fn disconnected(&mut self) {
        self.queue = None;
        self.connected = false;
    }

    /// Takes one message. What it changes is in force when this returns.
    pub(super) fn apply(&mut self, message: proto::ControlMessage, now: Instant) -> Effect {
        use control_message::Message;
        self.heard = Some(now);
        self.connected = true;
        match message.message {
            Some(Message::Outbound(update)) => self.apply_outbound(update),
            Some(Message::Inbound(update)) => self.apply_inbound(update),
            Some(Message::Endpoints(update)) => self.apply_endpoints(update),
            Some(Message::Trust(bundle)) => match trust_bundle(&bundle) {
                Ok(bundle) => return Effect::Trust(bundle),
                Err(error) => self.unreadable("trust", &error.to_string()),
            },
            Some(Message::Settings(settings)) => {
                let settings = self.overrides.over(Settings::from(settings));
                self.settings.send_if_modified(|current| {
                    let changed = **current != settings;
                    if changed {
                        *current = Arc::new(settings);
                    }
                    changed
                });
            }
            Some(Message::Heartbeat(proto::Heartbeat { revision })) => self.counts.revision = revision,
            // A message of a later protocol: it is heard, and means nothing here.
            None => {}
        }
        Effect::None
    }

    /// Gives up targets that nobody has used for [`IDLE`]. Only while connected: when the control plane is away, what is known is
    /// all there is.
    pub(super) fn evict(&mut self, now: Instant) {
        let Some(queue) = &self.queue else { return };
        self.targets.retain(|target, entry| {
            if entry.answer.in_use() {
                entry.idle_since = None;
                return true;
            }
            let since = *entry.idle_since.get_or_insert(now);
            let keep = now.saturating_duration_since(since) < IDLE;
            if !keep {
                queue.push(unsubscribe(target));
            }
            keep
        });
    }

    pub(super) fn age(&self, started: Instant) -> Duration {
        self.heard.unwrap_or(started).elapsed()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected
    }

    /// Targets that are pending, unknown, and in force.
    pub(super) fn tally(&self) -> [usize; 3] {
        self.targets.values().fold([0; 3], |mut tally, entry| {
            tally[entry.answer.rank()] += 1;
            tally
        })
    }

    pub(super) fn inventory(&self, started: Instant) -> Inventory {
        let item = |entry: &Entry| {
            let (outbound, inbound) = match &entry.answer {
                Answer::Outbound(sender) => (Some(sender.borrow().clone()), None),
                Answer::Inbound(sender) => (None, Some(sender.borrow().clone())),
            };
            InventoryItem {
                version: entry.version.clone(),
                waiting: entry.waiting.as_ref().map(|(_, version)| version.clone()),
                error: entry.error.clone(),
                outbound,
                inbound,
            }
        };
        Inventory {
            connected: self.connected,
            age: self.age(started),
            revision: self.counts.revision,
            settings: Arc::clone(&self.settings.borrow()),
            targets: self.targets.iter().map(|(target, entry)| (target.clone(), item(entry))).collect(),
        }
    }

    /// The entry of a target; made, and asked for, when there is none. `None`: no room.
    fn entry(&mut self, target: &Target, answer: impl FnOnce() -> Answer) -> Option<&Entry> {
        if !self.targets.contains_key(target) {
            if self.targets.len() >= TARGETS_MAX && !self.make_room() {
                self.counts.refused += 1;
                return None;
            }
            let entry = Entry { answer: answer(), version: String::new(), waiting: None, error: None, idle_since: None };
            self.targets.insert(target.clone(), entry);
            self.say(subscribe(target));
        }
        self.targets.get(target)
    }

    /// Gives up one target that nobody uses at this moment.
    fn make_room(&mut self) -> bool {
        let idle = self.targets.iter().find(|(_, entry)| !entry.answer.in_use()).map(|(target, _)| target.clone());
        let Some(target) = idle else { return false };
        self.targets.remove(&target);
        self.say(unsubscribe(&target));
        true
    }

    fn apply_outbound(&mut self, update: proto::OutboundUpdate) {
        let proto::OutboundUpdate { target, version, policy } = update;
        let Some(target) = self.subscribed(target) else { return };
        match policy.map(OutboundPolicy::try_from).transpose() {
            Ok(Some(policy)) => {
                if let Some(entry) = self.targets.get_mut(&target) {
                    entry.waiting = Some((policy, version));
                    entry.error = None;
                }
                self.settle(&target);
            }
            Ok(None) => {
                self.put_in_force(&target, version, |answer| {
                    if let Answer::Outbound(sender) = answer {
                        sender.send_if_modified(|known| !matches!(std::mem::replace(known, Known::Unknown), Known::Unknown));
                    }
                });
                self.readable(&target);
            }
            Err(error) => self.refuse(&target, &version, &error),
        }
    }

    fn apply_inbound(&mut self, update: proto::InboundUpdate) {
        let proto::InboundUpdate { target, version, policy } = update;
        let Some(target) = self.subscribed(target) else { return };
        match policy.map(InboundPolicy::try_from).transpose() {
            Ok(policy) => {
                self.put_in_force(&target, version.clone(), |answer| {
                    let Answer::Inbound(sender) = answer else { return };
                    sender.send_if_modified(|known| replace_inbound(known, policy.map(|policy| ResolvedInbound { policy, version })));
                });
                self.readable(&target);
            }
            Err(error) => self.refuse(&target, &version, &error),
        }
    }

    fn apply_endpoints(&mut self, update: proto::EndpointsUpdate) {
        let update = match EndpointsUpdate::try_from(update) {
            Ok(update) => update,
            Err(error) => return self.unreadable("endpoints", &error.to_string()),
        };
        let EndpointsUpdate { backend, reset, upsert, remove } = update;
        let session = self.session;
        let full = self.backends.len() >= BACKENDS_MAX && !self.backends.contains_key(&backend);
        if full {
            return self.unreadable("endpoints", "more backends than a sidecar keeps");
        }
        let made = || Backend { endpoints: watch::Sender::new(Arc::default()), session: 0 };
        let entry = self.backends.entry(backend).or_insert_with(made);
        // What an earlier stream said may have changed since: the first word of each stream is the whole truth.
        let is_first = std::mem::replace(&mut entry.session, session) != session;
        let reset = reset || is_first;
        entry.endpoints.send_if_modified(|current| {
            let next = increment(current, reset, upsert, &remove);
            let changed = **current != next;
            if changed {
                *current = Arc::new(next);
            }
            changed
        });
        let waiting: Vec<_> = self.targets.iter().filter(|(_, e)| e.waiting.is_some()).map(|(target, _)| target.clone()).collect();
        waiting.iter().for_each(|target| self.settle(target));
    }

    /// Puts a waiting policy in force, if the endpoints of all its backends are known.
    fn settle(&mut self, target: &Target) {
        let Some(entry) = self.targets.get_mut(target) else { return };
        let Some((policy, _)) = &entry.waiting else { return };
        let endpoints: Option<Vec<_>> =
            policy.backends.iter().map(|b| self.backends.get(&b.service).map(|known| known.endpoints.subscribe())).collect();
        let Some(endpoints) = endpoints else { return };
        let Some((policy, version)) = entry.waiting.take() else { return };
        self.put_in_force(target, version.clone(), |answer| {
            let Answer::Outbound(sender) = answer else { return };
            sender.send_if_modified(|known| {
                // Said again after a reconnect: streams, pools and balancers built on it stay.
                let same = matches!(&*known, Known::Policy(old) if old.version == version && old.policy == policy);
                if !same {
                    *known = Known::Policy(Arc::new(ResolvedOutbound { policy, version, endpoints }));
                }
                !same
            });
        });
    }

    fn put_in_force(&mut self, target: &Target, version: String, put: impl FnOnce(&Answer)) {
        let Some(entry) = self.targets.get_mut(target) else { return };
        put(&entry.answer);
        entry.waiting = None;
        entry.version.clone_from(&version);
        self.counts.applied += 1;
        self.say(ack(target, version, String::new()));
    }

    fn refuse(&mut self, target: &Target, version: &str, error: &WireError) {
        self.counts.invalid += 1;
        tracing::warn!(%target, version, %error, "a policy cannot be read, the last good one stays");
        if let Some(entry) = self.targets.get_mut(target) {
            entry.error = Some(format!("version {version}: {error}"));
        }
        self.say(ack(target, version.to_owned(), error.to_string()));
    }

    /// The newest update of a target could be read.
    fn readable(&mut self, target: &Target) {
        if let Some(entry) = self.targets.get_mut(target) {
            entry.error = None;
        }
    }

    fn unreadable(&mut self, what: &str, error: &str) {
        self.counts.invalid += 1;
        tracing::warn!(what, error, "a message of the control plane cannot be read");
    }

    /// The target of an update, if it is (still) asked for.
    fn subscribed(&mut self, target: Option<proto::Target>) -> Option<Target> {
        match Target::try_from(target) {
            Ok(target) => self.targets.contains_key(&target).then_some(target),
            Err(error) => {
                self.unreadable("target", &error.to_string());
                None
            }
        }
    }

    fn say(&self, message: sidecar_message::Message) {
        if let Some(queue) = &self.queue {
            queue.push(message);
        }
    }
}

impl Answer {
    fn in_use(&self) -> bool {
        match self {
            Self::Outbound(sender) => sender.receiver_count() > 0,
            Self::Inbound(sender) => sender.receiver_count() > 0,
        }
    }

    fn rank(&self) -> usize {
        fn rank<T>(known: &Known<T>) -> usize {
            match known {
                Known::Pending => 0,
                Known::Unknown => 1,
                Known::Policy(_) => 2,
            }
        }
        match self {
            Self::Outbound(sender) => rank(&sender.borrow()),
            Self::Inbound(sender) => rank(&sender.borrow()),
        }
    }
}

/// Returns whether anything changed.
fn replace_inbound(known: &mut Known<ResolvedInbound>, next: Option<ResolvedInbound>) -> bool {
    let same = match (&*known, &next) {
        (Known::Policy(old), Some(new)) => **old == *new,
        (Known::Unknown, None) => true,
        (Known::Pending | Known::Unknown | Known::Policy(_), _) => false,
    };
    if !same {
        *known = next.map_or(Known::Unknown, |resolved| Known::Policy(Arc::new(resolved)));
    }
    !same
}

/// The next set of endpoints, sorted by address, one for each address.
fn increment(current: &[Endpoint], reset: bool, upsert: Vec<Endpoint>, remove: &[SocketAddr]) -> Vec<Endpoint> {
    let mut next: BTreeMap<SocketAddr, Endpoint> =
        if reset { BTreeMap::new() } else { current.iter().map(|e| (e.address, e.clone())).collect() };
    for address in remove {
        next.remove(address);
    }
    next.extend(upsert.into_iter().map(|endpoint| (endpoint.address, endpoint)));
    next.into_values().collect()
}

fn subscribe(target: &Target) -> sidecar_message::Message {
    sidecar_message::Message::Subscribe(proto::Subscribe { target: Some(target.into()) })
}

fn unsubscribe(target: &Target) -> sidecar_message::Message {
    sidecar_message::Message::Unsubscribe(proto::Unsubscribe { target: Some(target.into()) })
}

fn ack(target: &Target, version: String, error: String) -> sidecar_message::Message {
    sidecar_message::Message::Ack(proto::Ack { target: Some(target.into()), version, error })
}

#[cfg(test)]
mod tests;
