//! The certificate service: who asks is proven by a token, or by the certificate of the connection that is to be renewed.

use crate::authenticate::{Authenticate, AuthenticateError, Proven};
use crate::ca::{Ca, Chain};
use crate::events::{Event, Recorder, Regarding};
use crate::metrics::{Metrics, Refusal};
use crate::proto::certificates_server::Certificates;
use crate::serve::Peer;
use crate::serve::ledger::trust_message;
use crate::serve::view::View;
use crate::snapshot::PodIndex;
use heddle_identity::{AuthorityError, SpiffeId, unix_now};
use heddle_model::proto;
use std::sync::Arc;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

/// Signs certificates for proven workloads.
#[derive(Debug)]
pub struct Certifier {
    ca: Arc<Ca>,
    authenticate: Arc<dyn Authenticate>,
    views: watch::Receiver<Arc<View>>,
    events: Recorder,
    metrics: Arc<Metrics>,
}

impl Certifier {
    /// Makes the service.
    pub fn new(
        ca: Arc<Ca>,
        authenticate: Arc<dyn Authenticate>,
        views: watch::Receiver<Arc<View>>,
        events: Recorder,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { ca, authenticate, views, events, metrics }
    }

    async fn sign(&self, peer: Option<&Peer>, request: &proto::CertifyRequest) -> Result<proto::CertifyResponse, (Refusal, Status)> {
        let now = unix_now();
        let id = self.prove(peer, &request.token, now).await?;
        let view = self.views.borrow().clone();
        let lifetime = view.mesh().certificate_lifetime;
        let certificate = self.ca.sign(&request.csr_der, &id, lifetime, now).map_err(|error| refused(&error))?;
        tracing::info!(%id, not_after = certificate.not_after(), "certificate issued");
        let chain_der = certificate.chain().iter().map(|der| der.to_vec()).collect();
        Ok(proto::CertifyResponse { chain_der, trust: Some(trust_message(&view, self.ca.trust_domain())) })
    }

    /// Finds out who asks. A token wins over the connection's certificate: a workload with both has a reason to send the token.
    async fn prove(&self, peer: Option<&Peer>, token: &str, now: u64) -> Result<SpiffeId, (Refusal, Status)> {
        if !token.is_empty() {
            let proven = self.authenticate.authenticate(token).await.map_err(|error| {
                let refusal = refusal(&error);
                let status = error.to_string();
                let is_for_now = refusal == Refusal::Unavailable;
                (refusal, if is_for_now { Status::unavailable(status) } else { Status::unauthenticated(status) })
            })?;
            let Proven { namespace, service_account, workload: _, uid: _ } = proven;
            return SpiffeId::workload(self.ca.trust_domain(), &namespace, &service_account)
                .map_err(|error| (Refusal::UnknownToken, Status::unauthenticated(format!("the token names no workload: {error}"))));
        }
        let Some(peer) = peer.and_then(|peer| peer.verified.as_ref()) else {
            return Err((Refusal::NoProof, Status::unauthenticated("send a token, or connect with the certificate to renew")));
        };
        // It was valid at the handshake, but the connection may be older than a short certificate's life.
        if now > peer.not_after() {
            return Err((Refusal::Expired, Status::unauthenticated("the certificate of this connection has expired: send a token")));
        }
        Ok(peer.id().clone())
    }
}

impl Certifier {
    /// The pod that a connection comes from, by its address: where proof is missing, nothing better tells it.
    fn pod(&self, peer: &Peer) -> Option<Regarding> {
        let view = self.views.borrow().clone();
        let (key, pod) = view.snapshot().pods.by_index(&PodIndex::Address(peer.client.ip().to_canonical())).next()?;
        Some(Regarding {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            uid: (!pod.uid.is_empty()).then(|| pod.uid.to_string()),
        })
    }
}

#[tonic::async_trait]
impl Certificates for Certifier {
    async fn certify(&self, request: Request<proto::CertifyRequest>) -> Result<Response<proto::CertifyResponse>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        match self.sign(peer.as_ref(), request.get_ref()).await {
            Ok(response) => {
                self.metrics.issued.inc();
                Ok(Response::new(response))
            }
            Err((refusal, status)) => {
                self.metrics.refused_certificate(refusal);
                tracing::warn!(?refusal, reason = status.message(), "certificate refused");
                // That nobody can tell now is the API server's trouble, and not the pod's.
                if refusal != Refusal::Unavailable
                    && let Some(pod) = peer.as_ref().and_then(|peer| self.pod(peer))
                {
                    let note = format!("the sidecar gets no certificate: {}", status.message());
                    self.events.record(Event::warning(pod, "CertificateRefused", note));
                }
                Err(status)
            }
        }
    }
}

fn refusal(error: &AuthenticateError) -> Refusal {
    match error {
        AuthenticateError::Unknown | AuthenticateError::NoServiceAccount => Refusal::UnknownToken,
        AuthenticateError::Audience => Refusal::Audience,
        AuthenticateError::Expired => Refusal::ExpiredToken,
        AuthenticateError::Gone => Refusal::Gone,
        AuthenticateError::Unbound => Refusal::Unbound,
        AuthenticateError::Unavailable(_) => Refusal::Unavailable,
    }
}

fn refused(error: &AuthorityError) -> (Refusal, Status) {
    let text = Chain(error).to_string();
    match error {
        AuthorityError::Request { .. } => (Refusal::Request, Status::permission_denied(text)),
        AuthorityError::Crypto(_)
        | AuthorityError::Unusable(_)
        | AuthorityError::Expired { .. }
        | AuthorityError::Signed(_)
        | AuthorityError::Trust(_)
        | AuthorityError::Io { .. }
        | AuthorityError::Unsafe { .. } => (Refusal::Authority, Status::internal(text)),
    }
}
