//! What one sidecar has asked and been told, and what it is to be told next: no I/O and no clock.
//!
//! Two invariants, whatever the order of calls. Before a policy, the endpoints of its backends are queued: the whole set where the
//! target's last answer did not refer to the backend, else the changes of it; nothing comes between these and the policy. So a sidecar
//! may drop a backend's endpoints when neither a policy that it holds nor the policy that is next to come refers to it, whatever is under
//! way in the other direction. And applying the queue in order to what was told before gives the view it was made from.

use crate::serve::view::{EndpointSet, Inbound, Outbound, View};
use heddle_identity::TrustDomain;
use heddle_model::endpoint::EndpointsUpdate;
use heddle_model::{ServicePort, Settings, Target, proto};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// Most targets of one stream: more upstreams and original destinations than one workload has in use at a time.
pub const MAX_TARGETS: usize = 4096;

/// Longest name that a target may have: a DNS name (253), a colon and a port.
const MAX_AUTHORITY: usize = 253 + 6;

/// Why a target cannot be subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// There are [`MAX_TARGETS`] already.
    #[error("a stream has at most {MAX_TARGETS} targets: unsubscribe from idle ones")]
    TooMany,
    /// The name is longer than any DNS name.
    #[error("an authority has at most {MAX_AUTHORITY} bytes")]
    TooLong,
}

/// One message to be sent. Small: answers are shared, and become messages when the transport has room for them.
#[derive(Debug, Clone, PartialEq)]
pub enum Outgoing {
    /// A change of a backend's endpoints.
    Endpoints(EndpointsUpdate),
    /// The answer for an outbound target.
    Outbound(Target, Arc<Outbound>),
    /// The answer for an inbound target.
    Inbound(Target, Arc<Inbound>),
    /// The roots.
    Trust(proto::TrustBundle),
    /// The settings.
    Settings(Settings),
    /// Everything up to this revision was sent.
    Heartbeat(u64),
}

/// The state of one stream.
#[derive(Debug)]
pub struct Ledger {
    namespace: String,
    workload: String,
    trust_domain: TrustDomain,
    targets: BTreeMap<Target, Answer>,
    backends: HashMap<ServicePort, Told>,
    trust_revision: Option<String>,
    settings: Option<Settings>,
    queue: VecDeque<Outgoing>,
}

/// What was told of a backend, and how many answers refer to it.
#[derive(Debug)]
struct Told {
    endpoints: Arc<EndpointSet>,
    references: usize,
}

#[derive(Debug, Clone)]
enum Answer {
    Outbound(Arc<Outbound>),
    Inbound(Arc<Inbound>),
}

impl Answer {
    fn version(&self) -> &str {
        match self {
            Self::Outbound(answer) => &answer.version,
            Self::Inbound(answer) => &answer.version,
        }
    }

    fn backends(&self) -> &[ServicePort] {
        match self {
            Self::Outbound(answer) => &answer.backends,
            Self::Inbound(_) => &[],
        }
    }
}

impl Ledger {
    /// Nothing was asked and nothing told yet.
    pub fn new(namespace: &str, workload: &str, trust_domain: &TrustDomain) -> Self {
        Self {
            namespace: namespace.to_owned(),
            workload: workload.to_owned(),
            trust_domain: trust_domain.clone(),
            targets: BTreeMap::new(),
            backends: HashMap::new(),
            trust_revision: None,
            settings: None,
            queue: VecDeque::new(),
        }
    }

    /// Takes in a target and queues its answer. Asking again for the same target has it answered again.
    ///
    /// # Errors
    /// When there are too many, or the name is too long.
    pub fn subscribe(&mut self, view: &View, target: Target) -> Result<(), SubscribeError> {
        if let Target::Authority(authority) = &target
            && authority.len() > MAX_AUTHORITY
        {
            return Err(SubscribeError::TooLong);
        }
        if self.targets.len() >= MAX_TARGETS && !self.targets.contains_key(&target) {
            return Err(SubscribeError::TooMany);
        }
        self.unsubscribe(&target);
        let answer = self.resolve(view, &target);
        self.tell(view, target, answer);
        Ok(())
    }

    /// Forgets a target, and the backends that only its answer refers to.
    pub fn unsubscribe(&mut self, target: &Target) {
        if let Some(answer) = self.targets.remove(target) {
            self.release(answer.backends());
        }
    }

    /// Queues what has changed in the endpoints of known backends.
    pub fn endpoints(&mut self, view: &View) {
        for (backend, told) in &mut self.backends {
            let now = view.endpoints(backend);
            self.queue.extend(difference(backend, &told.endpoints, &now).map(Outgoing::Endpoints));
            told.endpoints = now;
        }
    }

    /// Queues everything else that has changed: roots, settings, and answers with the endpoints of their new backends before them.
    pub fn policies(&mut self, view: &View) {
        if self.trust_revision.as_deref() != Some(view.trust().revision()) {
            self.trust_revision = Some(view.trust().revision().to_owned());
            self.queue.push_back(Outgoing::Trust(trust_message(view, &self.trust_domain)));
        }
        if self.settings.as_ref() != Some(view.settings()) {
            self.settings = Some(view.settings().clone());
            self.queue.push_back(Outgoing::Settings(view.settings().clone()));
        }
        let resolved: Vec<_> = self.targets.iter().map(|(target, told)| (target, told, self.resolve(view, target))).collect();
        let changed = resolved.into_iter().filter(|(_, told, answer)| told.version() != answer.version());
        for (target, answer) in changed.map(|(target, _, answer)| (target.clone(), answer)).collect::<Vec<_>>() {
            self.tell(view, target, answer);
        }
    }

    /// Queues a heartbeat; to be called when everything of `revision` is queued or sent.
    pub fn heartbeat(&mut self, revision: u64) {
        self.queue.push_back(Outgoing::Heartbeat(revision));
    }

    /// Takes the next message to send.
    pub fn pop(&mut self) -> Option<Outgoing> {
        self.queue.pop_front()
    }

    /// How many messages wait.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    fn resolve(&self, view: &View, target: &Target) -> Answer {
        match target {
            Target::Address(_) | Target::Authority(_) => Answer::Outbound(view.outbound(&self.namespace, &self.workload, target)),
            Target::InboundPort(port) => Answer::Inbound(view.inbound(&self.namespace, &self.workload, *port)),
        }
    }

    fn tell(&mut self, view: &View, target: Target, answer: Answer) {
        let before = self.targets.get(&target).cloned();
        let before = before.as_ref().map_or(&[][..], Answer::backends);
        for backend in answer.backends() {
            let now = view.endpoints(backend);
            let update = match self.backends.get(backend).filter(|_| before.contains(backend)) {
                Some(told) => difference(backend, &told.endpoints, &now),
                None => Some(whole(backend, &now)),
            };
            self.queue.extend(update.map(Outgoing::Endpoints));
            let told = self.backends.entry(backend.clone()).or_insert_with(|| Told { endpoints: now.clone(), references: 0 });
            told.endpoints = now;
            told.references += 1;
        }
        self.queue.push_back(match answer.clone() {
            Answer::Outbound(answer) => Outgoing::Outbound(target.clone(), answer),
            Answer::Inbound(answer) => Outgoing::Inbound(target.clone(), answer),
        });
        // After the references of the new answer, so that a backend of both is not forgotten in between.
        self.release(before);
        self.targets.insert(target, answer);
    }

    /// Gives up an answer's references, and forgets backends without any.
    fn release(&mut self, backends: &[ServicePort]) {
        for backend in backends {
            if let Some(told) = self.backends.get_mut(backend) {
                told.references -= 1;
                if told.references == 0 {
                    self.backends.remove(backend);
                }
            }
        }
    }
}

fn whole(backend: &ServicePort, endpoints: &EndpointSet) -> EndpointsUpdate {
    EndpointsUpdate { backend: backend.clone(), reset: true, upsert: endpoints.values().cloned().collect(), remove: Vec::new() }
}

/// What leads from one set of endpoints to another; `None`: they are equal.
fn difference(backend: &ServicePort, from: &Arc<EndpointSet>, to: &Arc<EndpointSet>) -> Option<EndpointsUpdate> {
    if Arc::ptr_eq(from, to) {
        return None;
    }
    let upsert: Vec<_> = to.values().filter(|endpoint| from.get(&endpoint.address) != Some(endpoint)).cloned().collect();
    let remove: Vec<_> = from.keys().filter(|address| !to.contains_key(address)).copied().collect();
    if upsert.is_empty() && remove.is_empty() {
        return None;
    }
    Some(EndpointsUpdate { backend: backend.clone(), reset: false, upsert, remove })
}

/// The roots of the mesh's own trust domain, as the wire carries them.
pub(crate) fn trust_message(view: &View, trust_domain: &TrustDomain) -> proto::TrustBundle {
    proto::TrustBundle {
        trust_domain: trust_domain.to_string(),
        roots_pem: view.trust().to_pem(trust_domain),
        revision: view.trust().revision().to_owned(),
    }
}

#[cfg(test)]
mod tests;
